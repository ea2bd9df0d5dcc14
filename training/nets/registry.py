"""The table of networks: the names in options and network pickles, and their classes."""

import re

import dnnlib.tflib  # noqa: F401  Must be imported before TensorFlow, whose log messages it suppresses.
from dnnlib.tflib import Network
from training import networks_msg, networks_progan, networks_stylegan, networks_stylegan2

NETWORKS = {f'{cls.__module__}.{cls.__name__}': cls for cls in (
    networks_stylegan2.G_main,
    networks_stylegan2.G_mapping,
    networks_stylegan2.G_synthesis_stylegan2,
    networks_stylegan2.G_synthesis_stylegan_revised,
    networks_stylegan2.D_stylegan2,
    networks_stylegan2.D_stylegan,
    networks_stylegan.G_style,
    networks_stylegan.G_mapping,
    networks_stylegan.G_synthesis,
    networks_stylegan.D_basic,
    networks_progan.G_paper,
    networks_progan.D_paper,
    networks_msg.G_style,
    networks_msg.G_synthesis,
    networks_msg.D_basic,
)}


def find_network(func_name: str) -> type[Network]:
    """Return the class of a network.

    Args:
        func_name: 'training.networks_stylegan2.G_main', or just 'G_main' as in pickles.

    Raises:
        ValueError: There is no network of this name.
    """
    for name, cls in NETWORKS.items():
        if func_name in (name, cls.__name__):
            return cls
    raise ValueError(f'unknown network {func_name!r}; known are {sorted(cls.__name__ for cls in NETWORKS.values())}')


def name_in_pickle(func_name: str, module: str, source: str) -> str:
    """Return the name for `find_network` of a network in a pickle.

    StyleGAN and StyleGAN2 both have a G_mapping. Only the module of StyleGAN defines G_style, too.

    Args:
        func_name: Name of the function that built the network.
        module:    Name of its module. '' = the file does not tell it, as those of the original.
        source:    Source code of its module, which is searched but not executed. '' = the file does not have it.
    """
    if not module and re.search(r'^def G_style\(', source, re.MULTILINE):
        module = networks_stylegan.__name__
    name = f'{module}.{func_name}'
    return name if name in NETWORKS else func_name


def create_network(name: str, func_name: str, **static_kwargs) -> Network:
    """Create the network `func_name` with these settings and call it `name`."""
    return find_network(func_name)(name, **static_kwargs)
