"""Everything that follows a modulated convolution in one op: demodulation, noise, bias, activation, gain and clamp."""

import tensorflow as tf

from custom_ops import loader
from custom_ops.fused_bias_act import fused_bias_act
from custom_ops.reference import ACTIVATIONS, SLOPES, styled_bias_act_reference


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
    library = loader.library() if act in SLOPES and gain > 0 else None  # The native op has no other activations.
    if library is None:
        return styled_bias_act_reference(x, b, scale, noise, act, gain, clamp, data_format, bias_act=fused_bias_act)
    none = tf.zeros([0], tf.float32)
    return library.stylegan2_styled_bias_act(
        x, *(none if value is None else value for value in (scale, noise, b)), alpha=SLOPES[act],
        gain=gain, clamp=-1 if clamp is None else clamp, data_format=data_format)


# ---- Gradients of the native op: native/cpu_styled_bias_act.cc, native/gpu_styled_bias_act.h ----
#
# With r = dy/dz of z = x * scale + noise + b, which the result y determines (its sign tells the slope, its magnitude
# whether it was clamped), Stylegan2StyledBiasActGrad computes dz = dy * r and from it
#
#     dx = dz * scale,   dscale = sum of dz * x,   dnoise = sum of dz,   db = sum of dz,
#
# each sum over the axes that its result does not have. All are linear in dy, in x and in scale, so the gradients of
# this op are computed by the same two ops. The derivative of r is zero.

def _settings(op):
    settings = {name: op.get_attr(name) for name in ('alpha', 'gain', 'clamp', 'data_format')}
    return {**settings, 'data_format': tf.compat.as_str(settings['data_format'])}


@tf.RegisterGradient('Stylegan2StyledBiasAct')
def _gradient(op, dy):
    x, scale, noise, b = op.inputs
    has_scale, has_noise, has_b = scale.shape.rank == 2, noise.shape.rank == 4, b.shape != [0]
    # z is not kept, and without a scale neither is x.
    dx, dscale, dnoise, db = loader.loaded_library().stylegan2_styled_bias_act_grad(
        dy, op.outputs[0], x if has_scale else dy, scale, noise, b, **_settings(op))
    return dx, dscale if has_scale else None, dnoise if has_noise else None, db if has_b else None


@tf.RegisterGradient('Stylegan2StyledBiasActGrad')
def _gradient_gradient(op, ddx, ddscale, ddnoise, ddb):
    dy, y, x, scale, _, _ = op.inputs
    library, settings, none = loader.loaded_library(), _settings(op), tf.zeros([0], tf.float32)
    # d_dy = r * (ddx * scale + ddscale * x + ddnoise + ddb).
    total = library.stylegan2_styled_bias_act(ddx, scale, ddnoise, ddb, data_format=settings['data_format'])
    d_x = d_scale = None
    if scale.shape.rank == 2:
        factors = ddscale[:, tf.newaxis, tf.newaxis]
        if settings['data_format'] == 'NCHW':
            factors = ddscale[:, :, tf.newaxis, tf.newaxis]
        total += tf.cast(factors, x.dtype) * x
        # d_x = dz * ddscale, and d_scale = sum of dz * ddx.
        d_x, d_scale, _, _ = library.stylegan2_styled_bias_act_grad(dy, y, ddx, ddscale, none, none, **settings)
    d_dy, _, _, _ = library.stylegan2_styled_bias_act_grad(total, y, total, none, none, none, **settings)
    return d_dy, None, d_x, d_scale, None, None
