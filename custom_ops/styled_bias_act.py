"""Everything that follows a modulated convolution in one op: demodulation, noise, bias, activation, gain and clamp."""

import tensorflow as tf

from custom_ops import loader
from custom_ops.fused_bias_act import fused_bias_act
from custom_ops.reference import ACTIVATIONS, styled_bias_act_reference

# Activations that the native op knows, with their slope for negative input: the piecewise linear ones.
_SLOPES = {'linear': 1.0, 'relu': 0.0, 'lrelu': ACTIVATIONS['lrelu'].def_alpha}


def styled_bias_act(x: tf.Tensor, b: tf.Tensor | None = None, scale: tf.Tensor | None = None,
                    noise: tf.Tensor | None = None, act: str = 'linear', gain: float | None = None,
                    clamp: float | None = None, data_format: str = 'NCHW') -> tf.Tensor:
    """y = clip(gain * act(x * scale + noise + b), -clamp, clamp).

    Args:
        x:           Images, [N, H, W, C] or [N, C, H, W], of any floating-point type.
        b:           Bias, float32 [C]. None = no bias.
        scale:       Demodulation factors, float32 [N, C]. None = ones.
        noise:       float32 [N or 1, H, W, 1], or [N or 1, 1, H, W] with NCHW. None = no noise.
        act:         Activation with its default slope, a key of ACTIVATIONS.
        gain:        Factor of the result. None = the default of the activation.
        clamp:       Largest magnitude of the result. None = unlimited.
        data_format: Layout of x and noise, 'NCHW' or 'NHWC'.

    Returns:
        Images of x's shape and type, differentiable to any order.
    """
    gain = ACTIVATIONS[act].def_gain if gain is None else gain
    fits_native = data_format == 'NHWC' and act in _SLOPES and gain > 0 and x.dtype != tf.float64
    library = loader.library() if fits_native else None
    if library is None:
        return styled_bias_act_reference(x, b, scale, noise, act, gain, clamp, data_format, bias_act=fused_bias_act)
    none = tf.zeros([0], tf.float32)
    return library.stylegan2_styled_bias_act(
        x, *(none if value is None else value for value in (scale, noise, b)), alpha=_SLOPES[act],
        gain=gain, clamp=-1 if clamp is None else clamp)


@tf.RegisterGradient('Stylegan2StyledBiasAct')
def _native_gradient(op, dy):
    x, scale, noise, b = op.inputs
    has_scale, has_noise, has_b = scale.shape.rank == 2, noise.shape.rank == 4, b.shape != [0]
    alpha, gain, clamp = (op.get_attr(name) for name in ('alpha', 'gain', 'clamp'))
    none = tf.zeros([0], dy.dtype)
    # The output determines the slope and whether the value was clamped, so z = x * scale + noise + b need not be kept.
    dz, db = loader.loaded_library().stylegan2_bias_act_grad(
        dy, none, op.outputs[0], none, axis=3, act='lrelu', alpha=alpha, gain=gain, clamp=clamp, ref_is_y=True,
        want_db=has_b)
    dx, dscale, dnoise = dz, None, None
    if has_scale:
        dx = dz * tf.cast(scale[:, tf.newaxis, tf.newaxis], dz.dtype)
        dscale = tf.cast(tf.reduce_sum(dz * x, axis=[1, 2]), tf.float32)
    if has_noise:
        dnoise = tf.cast(tf.reduce_sum(dz, axis=[0, 3] if noise.shape[0] == 1 else [3], keepdims=True), tf.float32)
    return dx, dscale, dnoise, tf.cast(db, tf.float32) if has_b else None
