"""Networks of ProGAN (Karras et al. 2018, arXiv:1710.10196) in terms of the networks of this project.

There are three kinds of files: those of its first code, in Theano, have a list of arrays without names; those of its
second code have version 2 of the format; and StyleGAN's code wrote its own copy of the networks in version 3.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from dnnlib.pickles.reader import DAMAGED, Refusal, show

_FUNCTIONS = ('G_paper', 'D_paper')
_THEANO_FUNCTIONS = {'G_paper': 'G_paper', 'G_progressive_8': 'G_paper',
                     'D_paper': 'D_paper', 'D_progressive_8': 'D_paper'}
_MAX_LOG2 = 12  # Of the resolution.

# Settings of the Theano code that only matter in training, or have no other value in a network that can be read.
_OF_THEANO = ('use_batchnorm', 'tanh_at_end', 'mbstat_func', 'mbstat_avg', 'mbdisc_kernels', 'use_gdrop',
              'use_layernorm')
# Those of them that change what the network computes, if they are set.
_UNSUPPORTED = ('use_batchnorm', 'tanh_at_end', 'mbdisc_kernels', 'use_layernorm')


def from_original(state: Any) -> Any:
    """Translate a NetworkState that ProGAN or StyleGAN has written. Any other one is returned as it is."""
    if state.build_func_name not in _FUNCTIONS or state.build_module:
        return state
    kwargs, variables = dict(state.static_kwargs), list(state.variables)
    kwargs.pop('dtype', None)  # Half precision was for training: weights are float32.
    if state.version == 2:  # Its transposed convolutions have [kernel, kernel, out, in].
        variables = [(name, np.swapaxes(value, 2, 3) if name.endswith('Conv0_up/weight') else value)
                     for name, value in variables]
    elif state.build_func_name == 'D_paper':
        kwargs['label_logits'] = False
    return dataclasses.replace(state, static_kwargs=kwargs, variables=variables)


def rename_averages(value: Any) -> None:
    """Call the third network of a tuple (G, D, Gs) so. Files of the Theano code have no names."""
    if isinstance(value, (tuple, list)) and [getattr(net, 'name', None) for net in value] == ['G', 'D', 'G']:
        value[2].name = 'Gs'


# ---- Theano ----

def fill_from_theano(network: Any, state: dict[str, Any]) -> None:
    """Set a NetworkState from the state of a network of the Theano code.

    The state has build_func_spec (func: name of the function; the rest are settings), param_values (list of arrays) and
    toplevel_params (cur_lod, the level of detail).

    Raises:
        Refusal:   It is of another kind.
        TypeError: A part has another type.
        KeyError:  A part is missing.
    """
    spec, params, toplevel = (state[key] for key in ('build_func_spec', 'param_values', 'toplevel_params'))
    if not isinstance(spec, dict) or not isinstance(params, (list, tuple)) or not isinstance(toplevel, dict):
        raise TypeError('state of a network of Theano has parts of other types')
    kwargs = dict(spec)
    func_name = _THEANO_FUNCTIONS.get(str(kwargs.pop('func'))[:100].split('.')[-1])
    if func_name is None:
        raise Refusal(f'holds a network of an unknown function {show(spec["func"])}',
                      f'Expected one of ProGAN: {", ".join(_THEANO_FUNCTIONS)}.')
    used = [name for name in _UNSUPPORTED if kwargs.get(name)]
    if used:
        raise Refusal(f'holds a network of ProGAN with {", ".join(used)}', 'Only networks without can be opened.')
    for name in _OF_THEANO:
        kwargs.pop(name, None)
    resolution = kwargs.setdefault('resolution', 32)
    if type(resolution) is not int or not 4 <= resolution <= 2 ** _MAX_LOG2:
        raise Refusal(f'holds a network for images of {show(resolution)} pixels', DAMAGED)
    kwargs['fused_scale'] = False
    if func_name == 'D_paper':
        kwargs['mbstd_group_size'] = 16
    kinds, use_wscale = _theano_layers(func_name, resolution.bit_length() - 1), bool(kwargs.get('use_wscale', True))
    arrays = [np.asarray(value) for value in params if isinstance(value, (np.ndarray, np.generic))]
    if len(arrays) != len(params) or len(arrays) != len(kinds) * (3 if use_wscale else 2):
        raise Refusal(f'holds a network with {len(params)} arrays for {len(kinds)} layers', DAMAGED)
    if len({id(value) for value in params}) != len(params):
        raise Refusal('refers to one array more than once', DAMAGED)
    values, variables = iter(arrays), {}
    for name, (kind, gain) in kinds.items():
        weight = _theano_weight(next(values), kind, name)
        if use_wscale:
            std = gain / math.sqrt(max(math.prod(weight.shape[:-1]), 1))
            weight = weight * (np.float32(next(values).item()) / np.float32(std))
        variables[f'{name}/weight'], variables[f'{name}/bias'] = weight, next(values)
    # The order of the list is that of the layers; that of the variables does not matter.
    network.version, network.name, network.build_func_name = 2, func_name[0], func_name
    network.static_kwargs = kwargs
    lod = toplevel['cur_lod']
    if not isinstance(lod, (int, float, np.ndarray, np.generic)) or np.size(lod) != 1:
        raise TypeError('cur_lod is no number')
    network.variables = [('lod', np.float32(np.asarray(lod).item())), *variables.items()]


def _theano_layers(func_name, resolution_log2):
    """Layer -> (kind of its weight, gain of its output), in the order of the file."""
    relu = math.sqrt(2)
    layers = {}
    if func_name == 'G_paper':
        layers['4x4/Dense'], layers['4x4/Conv'] = ('first', relu / 4), ('conv', relu)
        for res in range(3, resolution_log2 + 1):
            layers.update({f'{2 ** res}x{2 ** res}/{name}': ('conv', relu) for name in ('Conv0', 'Conv1')})
        layers.update({f'ToRGB_lod{lod}': ('rgb', 1.0) for lod in range(resolution_log2 - 1)})
        return layers
    layers['FromRGB_lod0'] = 'rgb', relu
    for res in range(resolution_log2, 2, -1):
        layers.update({f'{2 ** res}x{2 ** res}/{name}': ('conv', relu) for name in ('Conv0', 'Conv1')})
        layers[f'FromRGB_lod{resolution_log2 - res + 1}'] = 'rgb', relu
    layers.update({'4x4/Conv': ('conv', relu), '4x4/Dense0': ('last', relu), '4x4/Dense1': ('dense', 1.0)})
    return layers


def _theano_weight(value: Any, kind: str, name: str) -> Any:
    """Weight in the layout of TensorFlow: [kernel, kernel, in, out], or [in, out]."""
    if value.ndim != (2 if kind in ('rgb', 'dense') else 4):
        raise Refusal(f'holds a weight of {name} with {value.ndim} dimensions', DAMAGED)
    match kind:
        case 'conv':
            return value.transpose(2, 3, 1, 0)[::-1, ::-1]
        case 'first':
            return value.transpose(1, 0, 2, 3).reshape(value.shape[1], -1)
        case 'last':
            return value[:, :, ::-1, ::-1].reshape(value.shape[0], -1).T
        case 'rgb':
            return value[np.newaxis, np.newaxis]
        case _:
            return value
