"""Names, as they stand in options and network pickles, and what they stand for."""

import dnnlib.tflib  # noqa: F401  Before anything else imports TensorFlow, for a quiet start.
from training import networks_stylegan, networks_stylegan2

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
)}


def find_network(func_name, near=None):
    """Class of a network.

    Args:
        func_name: 'training.networks_stylegan2.G_main', or 'G_main' alone as pickles have it.
        near:      Class in whose module a name without module is looked up first. None = no preference.

    Raises:
        ValueError: No network of this name.
    """
    if near is not None and f'{near.__module__}.{func_name}' in NETWORKS:
        return NETWORKS[f'{near.__module__}.{func_name}']
    for name, cls in NETWORKS.items():
        if func_name in (name, cls.__name__):
            return cls
    raise ValueError(f'unknown network {func_name!r}; known are {sorted(cls.__name__ for cls in NETWORKS.values())}')


def create_network(name, func_name, **static_kwargs):
    """Make the network `func_name`, called `name`, with these settings."""
    return find_network(func_name)(name, **static_kwargs)
