"""Networks of StyleGAN2-ADA for TensorFlow 1 (version 5 of the format) in terms of the networks of this project.

The formats differ in names of functions and in defaults, and the generator of version 5 has no variable `lod`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dnnlib.pickles.network_state import NetworkState

# Name of the function in version 5 -> name here, and the settings whose defaults differ or that are always so there.
_FUNCTIONS = {
    'G_main':      ('G_main', dict(mapping_fmaps=None, num_fp16_res=0), dict(label_embed=True)),
    'G_mapping':   ('G_mapping', dict(mapping_fmaps=None), dict(label_embed=True)),
    'G_synthesis': ('G_synthesis_stylegan2', dict(num_fp16_res=0), {}),
    'D_main':      ('D_stylegan2', dict(mbstd_group_size=None, num_fp16_res=0), dict(label_embed=True)),
}

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
