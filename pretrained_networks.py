"""The official pretrained networks by name, and loading network pickles from names, URLs and files.

The networks are NVIDIA's, under their own non-commercial licence. They are downloaded from NVIDIA, and kept in the
cache folder of `dnnlib.util.open_url`.
"""

from __future__ import annotations

import difflib
import itertools
import os
from typing import TYPE_CHECKING

from dnnlib import run_dir
from dnnlib.cli import UserError
from dnnlib.util import is_url, open_url

if TYPE_CHECKING:
    from dnnlib.tflib import Network

_ROOT = 'https://nvlabs-fi-cdn.nvidia.com/stylegan2/'

# Configurations of each dataset, as letters of config-a ... config-f. ffhq is 1024x1024, car 512x384, others 256x256.
_CONFIGS = {'car': 'abcdef', 'cat': 'af', 'church': 'af', 'ffhq': 'abcdef', 'horse': 'af'}

# Table 2 of the paper: config-e with each combination of architectures of generator and discriminator.
_TABLE2_DATASETS = ('car', 'ffhq')
_ARCHITECTURES = ('orig', 'resnet', 'skip')


def _official_files():
    """Yield the paths of the official networks below _ROOT."""
    for dataset, letters in _CONFIGS.items():
        for letter in letters:
            yield f'networks/stylegan2-{dataset}-config-{letter}.pkl'
    for dataset, G, D in itertools.product(_TABLE2_DATASETS, _ARCHITECTURES, _ARCHITECTURES):
        yield f'networks/table2/stylegan2-{dataset}-config-e-G{G}-D{D}.pkl'


_ADA_ROOT = 'https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/'

# 'ada:ffhq' -> URL of a network of stylegan2-ada-pytorch, as listed in its documentation.
ada_urls = {f'ada:{name}': f'{_ADA_ROOT}{name}.pkl'
            for name in ('ffhq', 'metfaces', 'afhqcat', 'afhqdog', 'afhqwild', 'cifar10', 'brecahad')}

# 'gdrive:networks/stylegan2-ffhq-config-f.pkl' -> URL. The names say gdrive because the files were there at first.
gdrive_urls = {f'gdrive:{file}': _ROOT + file for file in _official_files()}

_DRIVE = 'https://drive.google.com/uc?id='

# 'stylegan:ffhq' -> URL of a network of StyleGAN, as listed in its documentation.
stylegan_urls = {
    'stylegan:ffhq':     _DRIVE + '1MEGjdvVpUsu1jB4zrXZN7Y4kBBOzizDQ',  # 1024x1024
    'stylegan:celebahq': _DRIVE + '1MGqJl28pN4t7SAtSrPdSRJSQJqahkzUf',  # 1024x1024
    'stylegan:bedrooms': _DRIVE + '1MOSKeGF0FJcivpBI7s63V9YHloUTORiF',  # 256x256
    'stylegan:cars':     _DRIVE + '1MJ6iCfNtMIRicihwRorsM3b7mmtmK9c3',  # 512x384
    'stylegan:cats':     _DRIVE + '1MQywl0FNt6lHu8E_EUqnRbviagS7fbiJ',  # 256x256
}

# The same of ProGAN. Its documentation gives the address of this file alone; the others are in a folder.
progan_urls = {'progan:celebahq': _DRIVE + '188K19ucknC6wg1R6jbuPEhTq9zoufOx4'}  # 1024x1024

# Beginning of the names -> table.
_TABLES = {'gdrive': gdrive_urls, 'ada': ada_urls, 'stylegan': stylegan_urls, 'progan': progan_urls}


def get_path_or_url(path_or_gdrive_path: str | os.PathLike) -> str:
    """Return the URL of an official network (such as 'gdrive:networks/...' or 'ada:ffhq'), or the path of a pickle.

    Args:
        path_or_gdrive_path: Official name, or the folder of a training run, which stands for its newest pickle. A URL,
                             or the path of a file, is returned as it is.

    Raises:
        UserError: The argument begins as the names of official networks do, 'gdrive:', 'ada:', 'stylegan:' or
                   'progan:', and is none, or it is a folder without network pickles.
    """
    name = os.fspath(path_or_gdrive_path)
    if os.path.isdir(name):
        return _newest_pickle(name)
    urls = _TABLES.get(name.partition(':')[0]) if ':' in name else None
    if urls is None:
        return name
    if name not in urls:
        nearest = difflib.get_close_matches(name, urls, n=3, cutoff=0.0)
        raise UserError(f'{name}: there is no official network of this name',
                        f'The nearest names are {", ".join(nearest)}')
    return urls[name]


def _newest_pickle(folder: str) -> str:
    """Path of the newest network pickle in the folder of a training run.

    The end of a run writes network-final.pkl, and _finished.txt after it. A run that continues removes _finished.txt.
    """
    names = os.listdir(folder)
    snapshots = run_dir.network_snapshots(folder)
    if 'network-final.pkl' in names and ('_finished.txt' in names or not snapshots):
        return os.path.join(folder, 'network-final.pkl')
    if snapshots:
        return os.path.join(folder, snapshots[-1])
    pickles = sorted(name for name in names if name.endswith('.pkl'))
    remedy = 'Give the path of a network-snapshot-*.pkl or network-final.pkl, or the folder of a training run.'
    if pickles:
        remedy = f'Give one of its pickles, such as {os.path.join(folder, pickles[0])}.'
    elif 'state.json' in names or any(name.startswith('kimg-') for name in names):
        raise UserError(f'{folder}: expected a network pickle, found checkpoints, which only continue a training run',
                        remedy)
    raise UserError(f'{folder}: expected a network pickle, found a folder without network-*.pkl', remedy)


def require_file(path: str) -> None:
    """Check that a path can be that of a network pickle. Reading a pipe or a device might never end.

    Raises:
        UserError: There is no such file, or it is a pipe or a device.
    """
    if not os.path.exists(path):
        raise UserError(f'{path!r}: there is no such file',
                        'Give the path of a network pickle, the folder of a training run, a URL, '
                        "or a name like 'gdrive:networks/stylegan2-ffhq-config-f.pkl'.")
    if not os.path.isfile(path):
        raise UserError(f'{path}: expected a network pickle, found a pipe or device', 'Give the path of a file.')


_cached_networks = {}  # URL, or (path, modification time) -> (G, D, Gs).


def load_networks(path_or_gdrive_path: str | os.PathLike) -> tuple[Network, Network, Network]:
    """Load the three networks of a pickle.

    The same pickle gives the same three objects for the life of the process, unless the file has changed.

    Args:
        path_or_gdrive_path: Official name ('gdrive:networks/stylegan2-ffhq-config-f.pkl', 'ada:ffhq' or
                             'stylegan:ffhq'), URL, or path of a network pickle.

    Returns:
        G:  Generator at the end of training.
        D:  Discriminator at the end of training.
        Gs: Moving average of the generator, which makes the best pictures.

    Raises:
        UserError: There is no such name or file, it cannot be downloaded, or it holds something else.
    """
    source = get_path_or_url(path_or_gdrive_path)
    if is_url(source):
        key: object = source
    else:
        require_file(source)
        key = os.path.abspath(source), os.stat(source).st_mtime_ns
    if key not in _cached_networks:
        if is_url(source):
            with open_url(source, kind='pickle') as file:
                source = file.name
        from training import misc  # Imported late: it imports TensorFlow, which takes seconds.
        _cached_networks[key] = misc.load_networks(source)
    return _cached_networks[key]


def load_generator(path_or_gdrive_path: str | os.PathLike, impl: str | None = None, tf32: bool = False,
                   precision: str = 'float32') -> Network:
    """Load Gs of a network pickle for a command that writes pictures. Print what is loaded, and what computes.

    Args:
        path_or_gdrive_path: As for `load_networks`.
        impl:                Form of the custom ops: 'auto', 'native' or 'ref'. None = leave the current one.
        tf32:                Allow TF32? See `tfutil.set_tf32`.
        precision:           Precision of the command, to be printed.

    Raises:
        UserError: As `load_networks`; or its images are neither gray nor RGB.
    """
    import custom_ops  # Imported late: it imports TensorFlow, which takes seconds.
    from dnnlib.tflib import hardware, tfutil
    if impl is not None:
        custom_ops.set_impl(impl)
    tfutil.set_tf32(tf32)
    print(hardware.describe(precision=precision))
    if os.path.isdir(path_or_gdrive_path):
        path_or_gdrive_path = get_path_or_url(path_or_gdrive_path)  # Printed, so that it is known which one is taken.
    print(f'Loading networks from "{path_or_gdrive_path}"...')
    _G, _D, Gs = load_networks(path_or_gdrive_path)
    print(custom_ops.impl_report())
    require_pictures(Gs, path_or_gdrive_path)
    return Gs


def require_pictures(Gs: Network, name: str | os.PathLike) -> None:
    """Raise a UserError unless the images of a generator are gray or RGB. `name` is that of its file."""
    channels = Gs.output_shape[1]
    if channels not in (1, 3):
        raise UserError(f'--network: {name} makes images of {channels} channels, '
                        'expected 1 (gray) or 3 (RGB)', 'Call Gs.run() from Python to get them as arrays.')
