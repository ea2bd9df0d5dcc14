"""Networks of StyleGAN2-ADA for TensorFlow 1 (version 5 of the format) in terms of the networks of this project.

The formats differ in names of functions and in defaults, and the generator of version 5 has no variable `lod`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dnnlib.pickles.network_state import NetworkState, import_line

# Name of the function in version 5 -> name here, and the settings whose defaults differ or that are always so there.
_FUNCTIONS = {
    'G_main':      ('G_main', dict(mapping_fmaps=None, num_fp16_res=0), dict(label_embed=True)),
    'G_mapping':   ('G_mapping', dict(mapping_fmaps=None), dict(label_embed=True)),
    'G_synthesis': ('G_synthesis_stylegan2', dict(num_fp16_res=0), {}),
    'D_main':      ('D_stylegan2', dict(mbstd_group_size=None, num_fp16_res=0), dict(label_embed=True)),
}

# Module of StyleGAN2-ADA that has them.
_MODULE = 'training.networks'

# Settings that only matter in training: layers of D not to train.
_OF_TRAINING = ('freeze_layers',)


def from_version_5(state: NetworkState) -> NetworkState:
    """Translate a network of version 5; its components stay as they are.

    Raises:
        ValueError: It is of a kind that does not exist here.
    """
    if state.build_func_name not in _FUNCTIONS:
        raise ValueError(f'unknown network {ascii(state.build_func_name[:100])} of StyleGAN2-ADA')
    func_name, defaults, fixed = _FUNCTIONS[state.build_func_name]
    kwargs = {name: value for name, value in state.static_kwargs.items() if name not in _OF_TRAINING}
    if kwargs.pop('use_spectral_norm', False):
        raise ValueError('spectral normalization is not supported')
    variables = list(state.variables)
    if func_name == 'G_main':
        variables.append(('lod', np.float32(0)))
    if kwargs.pop('score_max', 1) > 1:  # The further outputs are for another task, such as telling rotations.
        variables = [(name, value[..., :1] if name.startswith('Output/') else value) for name, value in variables]
    return dataclasses.replace(state, build_func_name=func_name, static_kwargs={**defaults, **kwargs, **fixed},
                               variables=variables)


# ---- Writing ----

# Settings that exist in version 5.
_SETTINGS = {
    'G_main': set(
        'num_channels resolution label_size latent_size dlatent_size label_fmaps mapping_layers mapping_fmaps '
        'mapping_nonlinearity mapping_lrmul normalize_latents dlatent_broadcast fmap_base fmap_decay fmap_min fmap_max '
        'fmap_const use_noise architecture nonlinearity resample_kernel conv_clamp num_fp16_res truncation_psi '
        'truncation_cutoff style_mixing_prob dlatent_avg_beta'.split()),
    'D_main': set(
        'num_channels resolution label_size mapping_layers mapping_fmaps mapping_lrmul mbstd_group_size '
        'mbstd_num_features fmap_base fmap_decay fmap_min fmap_max architecture nonlinearity resample_kernel '
        'conv_clamp num_fp16_res'.split()),
}
# Those that the generator does not pass on to its components.
_OF_GENERATOR = ('truncation_psi', 'truncation_cutoff', 'style_mixing_prob', 'dlatent_avg_beta')
_NAMES = {here: there for there, (here, _, _) in _FUNCTIONS.items()}


def to_version_5(state: NetworkState, force: bool = False) -> NetworkState | None:
    """Translate a network to version 5, as the readers of StyleGAN2-ADA take it.

    Args:
        state: Network, with `shapes`. Those without the setting `label_embed` are left in version 4.
        force: Translate these too, if they have no labels: then there is no difference.

    Returns:
        The network; None = version 5 has no network with these settings.
    """
    func_name = _NAMES.get(state.build_func_name)
    kwargs = dict(state.static_kwargs)
    is_alike = kwargs.pop('label_embed', False) or (force and not kwargs.get('label_size'))
    # A filter of None is a box here. What the readers make of it differs.
    if func_name not in _SETTINGS or not is_alike or kwargs.get('resample_kernel', []) is None:
        return None
    if func_name == 'D_main':
        # Version 5 has one width for all of these.
        width = kwargs.get('mapping_fmaps')
        for name in ('label_fmaps', 'cmap_dim'):
            if kwargs.get(name) in (None, width):
                kwargs.pop(name, None)
        if kwargs.get('mapping_nonlinearity') == 'lrelu':
            del kwargs['mapping_nonlinearity']
    else:
        kwargs.setdefault('mapping_fmaps', 512)  # The default of version 4.
    kwargs.setdefault('num_fp16_res', 0)         # Here a type must be given besides to compute in half precision.
    if not set(kwargs) <= _SETTINGS[func_name]:
        return None
    return _renamed(state, func_name, kwargs)


def _renamed(state, func_name, kwargs):
    components = {}
    for key, component in state.components.items():
        broadcast = component.static_kwargs.get('dlatent_broadcast')
        own = {name: value for name, value in kwargs.items() if name not in _OF_GENERATOR}
        own = {'dlatent_broadcast': broadcast, **own} if key == 'mapping' else own
        components[key] = _renamed(component, f'G_{key}', own)
    variables = [item for item in state.variables if item[0] != 'lod']
    return dataclasses.replace(state, version=5, build_func_name=func_name, static_kwargs=kwargs, components=components,
                               variables=variables, build_module='', build_module_src=import_line(_MODULE))
