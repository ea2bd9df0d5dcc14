"""How much memory training needs, reckoned from the layers of its networks: nothing is allocated or measured."""

from __future__ import annotations

import math
import re
from typing import Any

from training.configs import PRECISIONS, mbstd_group, microbatch_fits
from training.nets.dtypes import dtype_at
from training.nets.layers import ScopedLayer

# What training takes beyond the least that it can do without, see docs/gpu.md: a share of it for temporary results, and
# a fixed amount for the sums of gradients, CUDA and its libraries, and the workspace of convolutions.
_SHARE, _FIXED_BYTES = 1.05, 2 * 2 ** 30


def needed_bytes(G: Any, D: Any, part: int, precision: str = 'float32') -> float:
    """Estimate the memory that training takes on a GPU.

    Args:
        G, D:      Networks.
        part:      Images that are processed at a time.
        precision: As --precision of run_training.py.

    Returns:
        Number of bytes.
    """
    return _SHARE * training_bytes(G, D, part, precision) + _FIXED_BYTES


def largest_part(G: Any, D: Any, minibatch: int, memory: float, precision: str = 'float32') -> int | None:
    """The largest --minibatch-gpu with which training should fit into a GPU.

    Args:
        G, D:      Networks.
        minibatch: Images of a minibatch on this GPU, which the part must divide.
        memory:    Memory of the GPU in bytes.
        precision: As --precision of run_training.py.

    Returns:
        Number of images, 2 or more. None = no part is small enough.
    """
    group = mbstd_group(D.static_kwargs)
    parts = [n for n in range(2, minibatch + 1) if minibatch % n == 0 and microbatch_fits(n, 2, group)]
    return max((n for n in parts if needed_bytes(G, D, n, precision) <= memory), default=None)


def describe(G: Any, D: Any, minibatch: int, part: int, memory: float, precision: str = 'float32') -> str:
    """A line for the log about the memory of a GPU and --minibatch-gpu. Arguments as in `needed_bytes`, `largest_part`.

    The line says how much `part` needs, and which part is the largest that should fit.
    """
    largest = largest_part(G, D, minibatch, memory, precision)
    needed, there = needed_bytes(G, D, part, precision) / 2 ** 30, memory / 2 ** 30
    what = f'Memory by reckoning: --minibatch-gpu={part} needs {needed:.1f} GiB of the {there:.1f} GiB of the GPU'
    if largest is None:
        half = '' if PRECISIONS[precision] != 'float32' else '--precision=bfloat16, or '
        return f'{what}, and no smaller part fits. Less is needed with {half}a smaller --fmap-base.'
    return f'{what}; the largest that fits is --minibatch-gpu={largest}.'


# ---- The least that training can do without ----

def kept_bytes(net: Any, precision: str = 'float32') -> int:
    """Bytes that the backward pass of a synthesis network or a discriminator needs of its convolutions, for one image.

    These are, for each layer: the input of the convolution (after scaling by the style, or after the filter), its
    output before demodulation, on which the gradient of the demodulation depends, and the output of the activation; in
    the generator of config-a also the normalized output. Of growing networks the layers of full resolution count.

    Args:
        net:       The network.
        precision: As --precision of run_training.py.
    """
    settings = net.settings_for({'dtype': PRECISIONS[precision]})
    total = 0
    for layer in net.layers:
        weight = getattr(layer, 'weight', None)
        if not isinstance(layer, ScopedLayer) or weight is None or len(weight.shape) != 4:
            continue
        out = _resolution_of(layer.scope, settings.resolution, grows='lod' in net.own_vars)
        if out is None:
            continue
        resample = getattr(layer, 'resample', None)  # Of config-a. The other configurations have up and down.
        inside = out // 2 if getattr(layer, 'up', False) or resample == 'up' else out
        after = out // 2 if getattr(layer, 'down', False) or resample == 'down' else out
        results = 3 if hasattr(layer, 'epilogue') else 2 if getattr(layer, 'demodulate', False) else 1
        numbers = inside ** 2 * weight.shape[2] + results * after ** 2 * weight.shape[3]
        total += numbers * (4 if dtype_at(settings, out) == 'float32' else 2)
    return total


def _resolution_of(scope: str, resolution: int, grows: bool) -> int | None:
    """Resolution of a layer, such as 64 of '64x64/Conv0_up'. None = a layer of growing that full resolution leaves out.

    Args:
        scope:      Scope of the layer.
        resolution: Of the network.
        grows:      Does the network grow?
    """
    if match := re.search(r'_lod(\d+)$', scope):
        return None if grows and match[1] != '0' else resolution >> int(match[1])
    return int(scope.split('x')[0])


def training_bytes(G: Any, D: Any, part: int, precision: str = 'float32') -> int:
    """The least bytes of a training step: networks, moments, gradients and what the backward pass needs.

    The phase that needs most counts: G_train keeps the activations of G and D, D_train those of D for fakes and for
    reals. The regularizers differentiate gradients: they keep the activations of the forward and the backward pass of
    their network (for G with half of the images).

    Args:
        G, D:      Networks.
        part:      Images that are processed at a time.
        precision: As --precision of run_training.py. Weights, moments and gradients of weights are always float32.
    """
    params = {key: 4 * sum(math.prod(var.shape) for var in net.trainables.values())
              for key, net in (('G', G), ('D', D))}
    kept = {'G': part * kept_bytes(G.components.get('synthesis', G), precision), 'D': part * kept_bytes(D, precision)}
    phases = {'G_train': params['G'] + kept['G'] + kept['D'], 'G_reg': params['G'] + kept['G'],
              'D_train': params['D'] + 2 * kept['D'], 'D_reg': params['D'] + 2 * kept['D']}
    return 4 * params['G'] + 3 * params['D'] + max(phases.values())  # Weights and two moments each, weights of Gs.
