"""Bias, activation, gain and clamp in one op."""

import tensorflow as tf

from custom_ops import loader
from custom_ops.reference import ACTIVATIONS, SLOPES, bias_act_reference


def fused_bias_act(x: tf.Tensor, b: tf.Tensor | None = None, axis: int = 1, act: str = 'linear',
                   alpha: float | None = None, gain: float | None = None, clamp: float | None = None) -> tf.Tensor:
    """y = clip(gain * act(x + b), -clamp, clamp).

    Args:
        x:     Tensor with at least one axis, of any floating-point type.
        b:     Bias, [x.shape[axis]]. None = no bias.
        axis:  Axis of x that the bias belongs to.
        act:   Activation, a key of ACTIVATIONS.
        alpha: Slope of a leaky activation for negative input. None = the default of the activation; others ignore it.
        gain:  Factor of the result. None = the default of the activation.
        clamp: Largest magnitude of the result. None = unlimited.

    Returns:
        Tensor of x's shape and dtype. It is differentiable to any order, except that the native op is limited to
        order 6 for smooth activations such as tanh.

    Raises:
        ValueError: The activation is unknown, or b does not fit x.
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
    if clamp is None or _gradient_needs_only_y(act, settings['alpha'], gain):
        return library.stylegan2_bias_act(x, b, clamp=-1 if clamp is None else clamp, **settings)
    return tf.clip_by_value(library.stylegan2_bias_act(x, b, **settings), -clamp, clamp)


# ---- Gradients of the native op: native/cpu_bias_act.cc, native/gpu_kernels.cu ----
#
# Stylegan2BiasActGrad computes dx = gain * (dy + dy_bias) * act^(order)(ref + b), and db, the sum of dx per channel.
# The op is linear in dy and dy_bias, so with dy_bias as an input it serves as its own gradient with respect to both.
# Clamped elements have zero gradient.

def _gradient_needs_only_y(act, alpha, gain):
    """True if the output determines the slope (by its sign) and whether an element was clamped (by its magnitude)."""
    return tf.compat.as_str(act) in SLOPES and gain > 0 and alpha >= 0


def _gradient(op, dy, dy_bias, ref, order, ref_is_y, want_db):
    """Stylegan2BiasActGrad with the settings of `op`, whose last input is the bias."""
    settings = {name: op.get_attr(name) for name in ('axis', 'act', 'alpha', 'gain', 'clamp')}
    return loader.loaded_library().stylegan2_bias_act_grad(
        dy, dy_bias, ref, op.inputs[-1], **settings, order=order, ref_is_y=ref_is_y, want_db=want_db)


# Number of elements below which TensorFlow's own reduction computes the gradient of a bias faster than the custom op.
_SMALL = 4096


def _has_bias(b):
    return b.shape.num_elements() != 0


@tf.RegisterGradient('Stylegan2BiasAct')
def _forward_gradient(op, dy):
    x, b = op.inputs
    ref_unused = op.get_attr('act') == b'linear' and op.get_attr('clamp') < 0
    is_addition = ref_unused and op.get_attr('gain') == 1 and _has_bias(b)
    if is_addition and dy.dtype == tf.float32 and (dy.shape.num_elements() or _SMALL) < _SMALL:
        return dy, tf.reduce_sum(dy, [i for i in range(dy.shape.rank) if i != op.get_attr('axis')])
    # Where y suffices, x need not be kept. y is kept anyway, as the input of the next convolution.
    ref_is_y = _gradient_needs_only_y(*(op.get_attr(name) for name in ('act', 'alpha', 'gain')))
    ref = dy if ref_unused else op.outputs[0] if ref_is_y else x
    dx, db = _gradient(op, dy, tf.zeros([0], dy.dtype), ref, order=1, ref_is_y=ref_is_y, want_db=_has_bias(b))
    return dx, db if _has_bias(b) else None


@tf.RegisterGradient('Stylegan2BiasActGrad')
def _gradient_gradient(op, ddx, ddb):
    dy, dy_bias, ref, b = op.inputs
    order, ref_is_y, want_db = (op.get_attr(name) for name in ('order', 'ref_is_y', 'want_db'))
    ddx_bias = ddb if want_db else tf.zeros([0], dy.dtype)
    d_dy, d_dy_bias = _gradient(op, ddx, ddx_bias, ref, order, ref_is_y, want_db=_has_bias(dy_bias))
    d_dy_bias = d_dy_bias if _has_bias(dy_bias) else None
    if tf.compat.as_str(op.get_attr('act')) in SLOPES:  # The slope is constant on both sides of zero.
        return d_dy, d_dy_bias, None, None
    channels = [-1 if i == op.get_attr('axis') else 1 for i in range(dy.shape.rank)]
    u = ddx + tf.reshape(ddx_bias, channels) if want_db else ddx
    v = dy + tf.reshape(dy_bias, channels) if _has_bias(dy_bias) else dy
    none = tf.zeros([0], dy.dtype)
    d_ref, d_b = _gradient(op, u * v, none, ref, order + 1, ref_is_y, want_db=_has_bias(b))
    return d_dy, d_dy_bias, d_ref, d_b if _has_bias(b) else None
