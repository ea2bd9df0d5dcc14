"""What follows a modulated convolution in one call: demodulation, noise, bias, activation, gain and clamp."""

import tensorflow as tf

from custom_ops import loader
from custom_ops.fused_bias_act import ACTIVATIONS, fused_bias_act

# What the native form knows: activations that are straight on both sides of zero, with the slope below it.
_STRAIGHT = {'linear': 1.0, 'relu': 0.0, 'lrelu': ACTIVATIONS['lrelu'].def_alpha}


def styled_bias_act(x, b=None, scale=None, noise=None, act='linear', gain=None, clamp=None, data_format='NCHW'):
    """y = gain * act(x * scale + noise + b), within -clamp and clamp.

    Args:
        x:           Images, [N, H, W, C] or [N, C, H, W], of any floating type.
        b:           Bias, float32 [C]. None = no bias.
        scale:       float32 [N, C]. None = ones.
        noise:       float32 [N or 1, H, W, 1], or [N or 1, 1, H, W]. None = no noise.
        act:         Name of the activation, a key of ACTIVATIONS, with its default slope.
        gain:        Factor of the result. None = the activation's default.
        clamp:       Greatest magnitude of the result. None = any.
        data_format: Layout of x and noise.

    Returns:
        Images of x's shape and type. Differentiable to any order.
    """
    gain = ACTIVATIONS[act].def_gain if gain is None else gain
    fits = data_format == 'NHWC' and act in _STRAIGHT and gain > 0 and x.dtype != tf.float64
    if not fits or loader.library() is None:
        return styled_bias_act_reference(x, b, scale, noise, act, gain, clamp, data_format)
    none = tf.zeros([0], tf.float32)
    return loader.library().stylegan2_styled_bias_act(
        x, *(none if value is None else value for value in (scale, noise, b)), alpha=_STRAIGHT[act],
        gain=gain, clamp=-1 if clamp is None else clamp)


@tf.RegisterGradient('Stylegan2StyledBiasAct')
def _native_gradient(op, dy):
    x, scale, noise, b = op.inputs
    y = op.outputs[0]
    has_scale, has_noise, has_b = scale.shape.rank == 2, noise.shape.rank == 4, b.shape != [0]
    alpha, gain, clamp = (op.get_attr(name) for name in ('alpha', 'gain', 'clamp'))
    none = tf.zeros([0], dy.dtype)
    dz, db = loader.loaded().stylegan2_bias_act_grad(  # The result tells the slope, and whether it was clamped.
        dy, none, y, none, axis=3, act='lrelu', alpha=alpha, gain=gain, clamp=clamp, ref_is_y=True, want_db=has_b)
    dx, dscale, dnoise = dz, None, None
    if has_scale:
        dx = dz * tf.cast(scale[:, tf.newaxis, tf.newaxis], dz.dtype)
        dscale = tf.cast(tf.reduce_sum(dz * x, axis=[1, 2]), tf.float32)
    if has_noise:
        dnoise = tf.cast(tf.reduce_sum(dz, axis=[0, 3] if noise.shape[0] == 1 else [3], keepdims=True), tf.float32)
    return dx, dscale, dnoise, tf.cast(db, tf.float32) if has_b else None


# ---- The reference form ----

def styled_bias_act_reference(x, b, scale, noise, act, gain, clamp, data_format):
    """What the native form must equal, an operation after the other. Arguments as above."""
    axis = 3 if data_format == 'NHWC' else 1
    if scale is not None:
        x = x * tf.cast(scale[:, tf.newaxis, tf.newaxis] if axis == 3 else scale[:, :, tf.newaxis, tf.newaxis], x.dtype)
    if noise is not None:
        x = x + tf.cast(noise, x.dtype)
    return fused_bias_act(x, None if b is None else tf.cast(b, x.dtype), axis=axis, act=act, gain=gain, clamp=clamp)
