"""Bias, activation and gain in one call."""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf


class Activation(NamedTuple):
    """One row of the table below."""
    func: Callable             # func(x, alpha) -> y
    def_alpha: float | None    # slope where the caller gives none; None = the function has no slope
    def_gain: float            # keeps the variance of normal input about constant, as in He et al. 2015


ACTIVATIONS = {
    'linear':   Activation(lambda x, alpha: x,                                        None, 1.0),
    'relu':     Activation(lambda x, alpha: tf.nn.relu(x),                            None, math.sqrt(2)),
    'lrelu':    Activation(lambda x, alpha: tf.nn.leaky_relu(x, alpha),               0.2,  math.sqrt(2)),
    'tanh':     Activation(lambda x, alpha: tf.nn.tanh(x),                            None, 1.0),
    'sigmoid':  Activation(lambda x, alpha: tf.nn.sigmoid(x),                         None, 1.0),
    'elu':      Activation(lambda x, alpha: tf.nn.elu(x),                             None, 1.0),
    'selu':     Activation(lambda x, alpha: tf.nn.selu(x),                            None, 1.0),
    'softplus': Activation(lambda x, alpha: tf.nn.softplus(x),                        None, 1.0),
    'swish':    Activation(lambda x, alpha: tf.nn.sigmoid(x) * x,                     None, math.sqrt(2)),
}


def fused_bias_act(x, b=None, axis=1, act='linear', alpha=None, gain=None):
    """y = gain * act(x + b).

    Args:
        x:     Tensor of any shape with at least one axis.
        b:     Bias, [x.shape[axis]]. None = no bias.
        axis:  Axis of x that the bias runs along.
        act:   Name of the activation, a key of ACTIVATIONS.
        alpha: Slope of a leaky activation. None = the activation's default; others ignore it.
        gain:  Factor of the result. None = the activation's default.

    Returns:
        Tensor of x's shape and dtype; differentiable to any order.
    """
    if act not in ACTIVATIONS:
        raise ValueError(f'fused_bias_act: expected one of {sorted(ACTIVATIONS)}, received {act!r}')
    spec = ACTIVATIONS[act]
    alpha = spec.def_alpha if alpha is None else alpha
    gain = spec.def_gain if gain is None else gain
    if b is not None:
        if b.shape.rank != 1 or not b.shape.is_compatible_with([x.shape[axis]]):
            raise ValueError(f'fused_bias_act: expected b of shape [{x.shape[axis]}], received {b.shape}')
        x = x + tf.reshape(b, [-1 if i == axis % x.shape.rank else 1 for i in range(x.shape.rank)])
    y = spec.func(x, alpha)
    return y if gain == 1 else y * tf.cast(gain, y.dtype)
