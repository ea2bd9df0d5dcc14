"""Bias, activation and gain in one call."""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from custom_ops import loader


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


def fused_bias_act(x, b=None, axis=1, act='linear', alpha=None, gain=None, clamp=None):
    """y = gain * act(x + b), within -clamp and clamp.

    Args:
        x:     Tensor of any shape with at least one axis.
        b:     Bias, [x.shape[axis]]. None = no bias.
        axis:  Axis of x that the bias runs along.
        act:   Name of the activation, a key of ACTIVATIONS.
        alpha: Slope of a leaky activation. None = the activation's default; others ignore it.
        gain:  Factor of the result. None = the activation's default.
        clamp: Greatest magnitude of the result. None = any.

    Returns:
        Tensor of x's shape and dtype. Differentiable to any order; in native form to order 6, where the activation is curved.
    """
    if act not in ACTIVATIONS:
        raise ValueError(f'fused_bias_act: expected one of {sorted(ACTIVATIONS)}, received {act!r}')
    spec = ACTIVATIONS[act]
    alpha = spec.def_alpha if alpha is None else alpha
    gain = spec.def_gain if gain is None else gain
    if b is not None and (b.shape.rank != 1 or not b.shape.is_compatible_with([x.shape[axis]])):
        raise ValueError(f'fused_bias_act: expected b of shape [{x.shape[axis]}], received {b.shape}')
    library = loader.library()
    if library is None:
        return bias_act_reference(x, b, axis, act, alpha, gain, clamp)
    x = tf.convert_to_tensor(x)
    b = tf.zeros([0], x.dtype) if b is None else b
    settings = dict(axis=axis % x.shape.rank, act=act, alpha=alpha or 0, gain=gain)
    if clamp is None or _result_tells(**settings):
        return library.stylegan2_bias_act(x, b, clamp=-1 if clamp is None else clamp, **settings)
    return tf.clip_by_value(library.stylegan2_bias_act(x, b, **settings), -clamp, clamp)


def bias_act_reference(x, b, axis, act, alpha, gain, clamp=None):
    """What the native form must equal, in TensorFlow's own operations. Arguments as above, with numbers for None."""
    if b is not None:
        x = x + tf.reshape(b, [-1 if i == axis % x.shape.rank else 1 for i in range(x.shape.rank)])
    y = ACTIVATIONS[act].func(x, alpha)
    y = y if gain == 1 else y * tf.cast(gain, y.dtype)
    return y if clamp is None else tf.clip_by_value(y, -clamp, clamp)


# ---- Gradients of the native form: native/cpu_bias_act.cc, native/gpu_kernels.cu ----
# Stylegan2BiasActGrad(dy, c, ref, b) = gain * (dy + c) * act^(n)(ref + b), and its sum per channel. With c, it is its own gradient with
# respect to dy: one pass gives the second derivatives too. What was clamped has none.

def _result_tells(act, alpha, gain, **_):
    """Does the sign of the result tell the slope, and its size whether it was clamped?"""
    return tf.compat.as_str(act) in ('linear', 'relu', 'lrelu') and gain > 0 and alpha >= 0


def _gradient(op, dy, c, ref, order, ref_is_y, want_db):
    settings = {name: op.get_attr(name) for name in ('axis', 'act', 'alpha', 'gain', 'clamp')}
    return loader.loaded().stylegan2_bias_act_grad(
        dy, c, ref, op.inputs[-1], **settings, order=order, ref_is_y=ref_is_y, want_db=want_db)


_SMALL = 4096  # Elements. Below them the gradient of a bias alone is left to TensorFlow's own operation, whose call takes less.


def _has_bias(b):
    return b.shape.num_elements() != 0


@tf.RegisterGradient('Stylegan2BiasAct')
def _forward_gradient(op, dy):
    x, b = op.inputs
    without_x = op.get_attr('act') == b'linear' and op.get_attr('clamp') < 0
    bias_alone = without_x and op.get_attr('gain') == 1 and _has_bias(b)
    if bias_alone and dy.dtype == tf.float32 and (dy.shape.num_elements() or _SMALL) < _SMALL:
        return dy, tf.reduce_sum(dy, [i for i in range(dy.shape.rank) if i != op.get_attr('axis')])
    # Where the result tells enough, x need not be kept. The result is kept anyway, by the convolution that follows.
    ref_is_y = _result_tells(*(op.get_attr(name) for name in ('act', 'alpha', 'gain')))
    ref = dy if without_x else op.outputs[0] if ref_is_y else x
    dx, db = _gradient(op, dy, tf.zeros([0], dy.dtype), ref, order=1, ref_is_y=ref_is_y, want_db=_has_bias(b))
    return dx, db if _has_bias(b) else None


@tf.RegisterGradient('Stylegan2BiasActGrad')
def _gradient_gradient(op, ddx, ddb):
    dy, c, ref, b = op.inputs
    order, ref_is_y, want_db = (op.get_attr(name) for name in ('order', 'ref_is_y', 'want_db'))
    added = ddb if want_db else tf.zeros([0], dy.dtype)
    d_dy, d_c = _gradient(op, ddx, added, ref, order, ref_is_y, want_db=_has_bias(c))
    d_c = d_c if _has_bias(c) else None
    if op.get_attr('act') in (b'linear', b'relu', b'lrelu'):  # Straight on both sides of zero.
        return d_dy, d_c, None, None
    along = [-1 if i == op.get_attr('axis') else 1 for i in range(dy.shape.rank)]
    u = ddx + tf.reshape(added, along) if want_db else ddx
    v = dy + tf.reshape(c, along) if _has_bias(c) else dy
    d_ref, d_b = _gradient(op, u * v, tf.zeros([0], dy.dtype), ref, order + 1, ref_is_y, want_db=_has_bias(b))
    return d_dy, d_c, d_ref, d_b if _has_bias(b) else None
