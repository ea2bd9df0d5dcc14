"""What the custom ops mean: the table of activations, and each op in TensorFlow's own operations.

The native ops must equal these definitions. They also run where the native ops cannot be built.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# ---- The form for other runtimes ----

_portable = contextvars.ContextVar('portable', default=False)


@contextlib.contextmanager
def portable_form() -> Iterator[None]:
    """Context manager within which networks are traced into graphs that other runtimes can run.

    The ops take their reference forms and images are channels last, whatever the device is. There are no custom
    gradients. Upsampling inserts zeros by operations on four axes, because neither ONNX nor LiteRT has a transposed
    depthwise convolution or pads six axes. On a CPU that takes up to twice as long as the usual reference form.
    """
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def is_portable() -> bool:
    """True within `portable_form`, in this thread."""
    return _portable.get()


# ---- Bias and activation ----

class Activation(NamedTuple):
    """One row of the table below."""
    func: Callable           # func(x, alpha) -> y.
    def_alpha: float | None  # Default slope for negative x. None = the function has no such parameter.
    def_gain: float          # Default factor of the result, which keeps the variance about constant (He et al. 2015).


# The C++ code lists the same names in the same order: native/params.h.
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

# Activations that are linear on each side of zero, with their default slope for negative x.
SLOPES = {'linear': 1.0, 'relu': 0.0, 'lrelu': ACTIVATIONS['lrelu'].def_alpha}


def bias_act_reference(x: tf.Tensor, b: tf.Tensor | None, axis: int, act: str, alpha: float | None, gain: float,
                       clamp: float | None = None) -> tf.Tensor:
    """Definition of `fused_bias_act`, which documents the arguments. Here alpha and gain are resolved already."""
    if b is not None:
        x = x + tf.reshape(b, [-1 if i == axis % x.shape.rank else 1 for i in range(x.shape.rank)])
    y = ACTIVATIONS[act].func(x, alpha)
    y = y if gain == 1 else y * tf.cast(gain, y.dtype)
    return y if clamp is None else tf.clip_by_value(y, -clamp, clamp)


def styled_bias_act_reference(x: tf.Tensor, b: tf.Tensor | None, scale: tf.Tensor | None, noise: tf.Tensor | None,
                              act: str, gain: float | None, clamp: float | None, data_format: str,
                              bias_act: Callable = bias_act_reference) -> tf.Tensor:
    """Definition of `styled_bias_act`, which documents the arguments. `bias_act` computes the last step."""
    axis = 3 if data_format == 'NHWC' else 1
    spec = ACTIVATIONS[act]
    if scale is not None:
        scale = scale[:, tf.newaxis, tf.newaxis] if axis == 3 else scale[:, :, tf.newaxis, tf.newaxis]
        x = x * tf.cast(scale, x.dtype)
    if noise is not None:
        x = x + tf.cast(noise, x.dtype)
    b = None if b is None else tf.cast(b, x.dtype)
    return bias_act(x, b, axis, act, spec.def_alpha, spec.def_gain if gain is None else gain, clamp)


# ---- Resampling ----

# (vertical, horizontal) factor, and ((top, bottom), (left, right)) padding in samples; a negative number crops.
Factors = tuple[int, int]
Pads = Sequence[Sequence]


def upfirdn_reference(x: tf.Tensor, k: np.ndarray, up: Factors, down: Factors, pads: Pads) -> tf.Tensor:
    """Definition of `upfirdn_2d`: x [major, H, W, minor], k [kh, kw]. Paddings are ints or scalar tensors."""
    @tf.custom_gradient
    def forward(x):
        def backward(dy):
            sizes = [_size(x, axis) for axis in (1, 2)]
            grad_pads = [pads_of_gradient(*args) for args in zip(sizes, k.shape, up, down, pads, strict=True)]
            return upfirdn_reference(dy, k[::-1, ::-1], down, up, grad_pads)
        return _resample(x, k, up, down, pads), backward
    return _resample(x, k, up, down, pads) if is_portable() else forward(x)


def pads_of_gradient(in_size, taps: int, up: int, down: int, pads: Sequence) -> tuple:
    """Padding of the gradient along one axis.

    The gradient of upfirdn is upfirdn with a flipped filter and `up` and `down` exchanged; this padding makes its
    output as large as the original input.

    Args:
        in_size:  Size of the input of the forward op, an int or scalar tensor.
        taps:     Size of the filter.
        up, down: Factors of the forward op.
        pads:     (before, after) of the forward op.

    Returns:
        (before, after) for the gradient.
    """
    pad0, pad1 = pads
    out_size = (in_size * up + pad0 + pad1 - taps) // down + 1
    return taps - pad0 - 1, in_size * up - out_size * down + pad0 - up + 1


def _resample(x, k, up, down, pads):
    """upfirdn as a depthwise convolution: transposed for upsampling, strided for downsampling."""
    # TensorFlow's depthwise kernels support only equal strides along both axes.
    if up[0] != up[1] or (is_portable() and up != (1, 1)):
        x = _insert_zeros(x, up)
        up = (1, 1)
    if up != (1, 1):
        y = _depthwise_transposed(x, k, up[0])
        pads = tuple((pad0 - taps + 1, pad1 - taps + factor)
                     for (pad0, pad1), taps, factor in zip(pads, k.shape, up, strict=True))
        return _pad_or_crop(y, pads)[:, ::down[0], ::down[1], :]
    stride = down[0] if down[0] == down[1] else 1
    filters = _depthwise_filter(k[::-1, ::-1], x)
    y = tf.nn.depthwise_conv2d(_pad_or_crop(x, pads), filters, [1, stride, stride, 1], 'VALID')
    return y if stride == down[0] == down[1] else y[:, ::down[0], ::down[1], :]


def _depthwise_filter(k, x):
    """[kh, kw] -> [kh, kw, minor, 1]: the same filter for every channel of x."""
    return tf.tile(tf.constant(k[:, :, np.newaxis, np.newaxis], x.dtype), tf.stack([1, 1, _size(x, 3), 1]))


def _depthwise_transposed(x, k, up):
    """y[o] = sum over i of x[i] * k[o - up * i]; the output has (H - 1) * up + kh rows, and columns likewise."""
    shape = tf.shape(x)
    out_shape = [shape[0], (shape[1] - 1) * up + k.shape[0], (shape[2] - 1) * up + k.shape[1], shape[3]]
    y = tf.nn.depthwise_conv2d_backprop_input(out_shape, _depthwise_filter(k, x), x, [1, up, up, 1], 'VALID')
    static = [None if size is None else (size - 1) * up + taps
              for size, taps in zip(x.shape[1:3], k.shape, strict=True)]
    y.set_shape([x.shape[0], *static, x.shape[3]])
    return y


def _insert_zeros(x, up):
    """Follow every row by up[0] - 1 rows of zeros, and every column likewise."""
    n, h, w, c = (_size(x, axis) for axis in range(4))
    x = tf.pad(x, [[0, 0], [0, 0], [0, 0], [0, (up[1] - 1) * c]])  # Zeros after the channels are columns of zeros,
    x = tf.reshape(x, [n, h, 1, w * up[1] * c])
    x = tf.pad(x, [[0, 0], [0, 0], [0, up[0] - 1], [0, 0]])        # and those after a row are rows of zeros.
    return tf.reshape(x, [n, h * up[0], w * up[1], c])


def _pad_or_crop(x, pads):
    """Pad x [major, H, W, minor] with zeros where a number is positive, and crop it where it is negative."""
    if all(isinstance(pad, int) and pad == 0 for pair in pads for pad in pair):
        return x
    x = tf.pad(x, [[0, 0], *([_at_least_zero(pad) for pad in pair] for pair in pads), [0, 0]])
    (top, bottom), (left, right) = [[_at_least_zero(-pad) for pad in pair] for pair in pads]
    return x[:, top:_size(x, 1) - bottom, left:_size(x, 2) - right, :]


def _size(x, axis):
    """Size of an axis: an int where it is known, else a scalar tensor."""
    return tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis]


def _at_least_zero(value):
    return max(value, 0) if isinstance(value, int) else tf.maximum(value, 0)
