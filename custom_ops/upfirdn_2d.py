"""Pad, upsample, filter and downsample batches of images, and the convolutions built from these.

Resampling as in StyleGAN2 (Karras et al. 2020, arXiv:1912.04958, Appendix B): insert zeros, smooth with a small
FIR filter, drop samples. All functions are differentiable to any order.

Images are [N, C, H, W] or [N, H, W, C] as `data_format` says, of any floating dtype; filters are small constants:
a 1-D filter stands for its outer product with itself, None for a box of `factor` taps, and the sum is
normalised to one, so that resampling keeps the mean of an image.
"""

import numpy as np
import tensorflow as tf

from custom_ops import conv2d, loader


def upfirdn_2d(x, k, upx=1, upy=1, downx=1, downy=1, padx0=0, padx1=0, pady0=0, pady1=0):
    """Upsample by zero insertion, pad or crop, filter, and downsample, in this order.

    Args:
        x:            [major, H, W, minor], the filter runs over H and W.
        k:            [kh, kw], the filter as it is: not normalised, not separable in general.
        upx, upy:     Factors of upsampling: every sample is followed by up - 1 zeros.
        downx, downy: Factors of downsampling: samples 0, down, 2 * down, ... are kept.
        padx0, padx1: Zeros left and right of the upsampled image; a negative number crops.
        pady0, pady1: The same above and below.

    Returns:
        [major, outH, outW, minor], outW = (W * upx + padx0 + padx1 - kw) // downx + 1, outH likewise.
    """
    k = np.asarray(k, np.float32)
    if k.ndim != 2 or k.size == 0:
        raise ValueError(f'upfirdn_2d: expected a filter [kh, kw] with at least one tap, received shape {k.shape}')
    if x.shape.rank != 4:
        raise ValueError(f'upfirdn_2d: expected x [major, H, W, minor], received shape {x.shape}')
    if min(upx, upy, downx, downy) < 1:
        raise ValueError(f'upfirdn_2d: factors must be at least 1, received up ({upx}, {upy}), down ({downx}, {downy})')
    return _upfirdn(x, k, (upy, upx), (downy, downx), ((pady0, pady1), (padx0, padx1)))


def filter_2d(x, k, gain=1, data_format='NCHW'):
    """Filter images without changing their size: y = gain * (x convolved with the normalised k)."""
    k = _setup_kernel(k) * gain
    p = k.shape[0] - 1
    return _upfirdn_images(x, k, data_format, pad0=(p + 1) // 2, pad1=p // 2)


def upsample_2d(x, k=None, factor=2, gain=1, data_format='NCHW'):
    """Upsample images by an integer factor: [.., H, W, ..] -> [.., H * factor, W * factor, ..]."""
    k = _setup_kernel([1] * factor if k is None else k) * (gain * factor ** 2)
    p = k.shape[0] - factor
    return _upfirdn_images(x, k, data_format, up=factor, pad0=(p + 1) // 2 + factor - 1, pad1=p // 2)


def downsample_2d(x, k=None, factor=2, gain=1, data_format='NCHW'):
    """Downsample images by an integer factor: [.., H, W, ..] -> [.., H / factor, W / factor, ..]."""
    k = _setup_kernel([1] * factor if k is None else k) * gain
    p = k.shape[0] - factor
    return _upfirdn_images(x, k, data_format, down=factor, pad0=(p + 1) // 2, pad1=p // 2)


def upsample_conv_2d(x, w, k=None, factor=2, gain=1, data_format='NCHW'):
    """`upsample_2d` followed by a convolution with `w` [kh, kw, in, out], in one transposed convolution and a filter.

    The padding is 'SAME' for the two together: [.., H, W, ..] -> [.., H * factor, W * factor, ..].
    """
    k = _setup_kernel([1] * factor if k is None else k) * (gain * factor ** 2)
    p = (k.shape[0] - factor) - (_square_size(w) - 1)
    y = conv2d.conv2d_transpose(x, w[::-1, ::-1], stride=factor, data_format=data_format)
    return _upfirdn_images(y, k, data_format, pad0=(p + 1) // 2 + factor - 1, pad1=p // 2 + 1)


def conv_downsample_2d(x, w, k=None, factor=2, gain=1, data_format='NCHW'):
    """A convolution with `w` [kh, kw, in, out] followed by `downsample_2d`, as a filter and a strided convolution.

    The padding is 'SAME' for the two together: [.., H, W, ..] -> [.., H / factor, W / factor, ..].
    """
    k = _setup_kernel([1] * factor if k is None else k) * gain
    p = (k.shape[0] - factor) + (_square_size(w) - 1)
    y = _upfirdn_images(x, k, data_format, pad0=(p + 1) // 2, pad1=p // 2)
    return conv2d.conv2d(y, w, stride=factor, padding='VALID', data_format=data_format)


# ---- Filters ----

def _setup_kernel(k):
    """Filter of the caller -> [size, size] float32 with sum 1."""
    k = np.asarray(k, np.float32)
    if k.ndim == 1:
        k = np.outer(k, k)
    if k.ndim != 2 or k.shape[0] != k.shape[1] or k.size == 0:
        raise ValueError(f'expected a filter [size] or [size, size], received shape {k.shape}')
    total = np.sum(k)
    if total == 0:
        raise ValueError('expected a filter whose taps do not sum to zero: it could not be normalised')
    return k / total


def _square_size(w):
    height, width = w.shape[:2]
    if height != width:
        raise ValueError(f'expected a square convolution kernel [k, k, in, out], received shape {w.shape}')
    return int(height)


# ---- The operation on images in either layout ----
# up, down are (y, x); pads are ((top, bottom), (left, right)), numbers or scalar tensors; the filter is a constant.

def _upfirdn_images(x, k, data_format, up=1, down=1, pad0=0, pad1=0):
    """The same factor and padding along both axes."""
    return _upfirdn(x, k, (up, up), (down, down), ((pad0, pad1), (pad0, pad1)), data_format)


def _upfirdn(x, k, up, down, pads, data_format='NHWC'):
    library = loader.library()
    if library is not None:
        pads = [p for pair in pads for p in pair]
        return library.stylegan2_upfirdn2d(x, k, pads, up=up, down=down, data_format=data_format)
    # Depthwise convolutions want channels last; the usual trick of one-channel images is slower by an order of magnitude.
    if data_format == 'NCHW':
        x = tf.transpose(x, [0, 2, 3, 1])
    y = upfirdn_reference(x, k, up, down, pads)
    return tf.transpose(y, [0, 3, 1, 2]) if data_format == 'NCHW' else y


def _pads_of_gradient(in_size, taps, up, down, pads):
    """Pads of the gradient along one axis: the same operation with the filter flipped and up and down exchanged."""
    pad0, pad1 = pads
    out_size = (in_size * up + pad0 + pad1 - taps) // down + 1
    return taps - pad0 - 1, in_size * up - out_size * down + pad0 - up + 1


# ---- The native form: native/cpu_upfirdn.cc, native/gpu_kernels.cu ----

@tf.RegisterGradient('Stylegan2Upfirdn2d')
def _native_gradient(op, dy):
    x, k, pads = op.inputs
    up, down, flip, data_format = (op.get_attr(name) for name in ('up', 'down', 'flip', 'data_format'))
    data_format = tf.compat.as_str(data_format)
    known = tf.get_static_value(pads)
    pads = pads if known is None else [int(p) for p in known]
    grad_pads = []
    for i, axis in enumerate((1, 2) if data_format == 'NHWC' else (2, 3)):
        in_size = tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis]
        grad_pads += _pads_of_gradient(in_size, k.shape[i], up[i], down[i], (pads[2 * i], pads[2 * i + 1]))
    dx = loader.loaded().stylegan2_upfirdn2d(dy, k, grad_pads, up=down, down=up, flip=not flip, data_format=data_format)
    dx.set_shape(x.shape)
    return dx, None, None


# ---- The reference form: TensorFlow's own operations, channels last ----

def upfirdn_reference(x, k, up, down, pads):
    """What the native form must equal: x [major, H, W, minor], k [kh, kw] of NumPy, other arguments as above."""
    @tf.custom_gradient
    def forward(x):
        def backward(dy):
            size = [x.shape[i] if x.shape[i] is not None else tf.shape(x)[i] for i in (1, 2)]
            grad_pads = [_pads_of_gradient(size[i], k.shape[i], up[i], down[i], pads[i]) for i in range(2)]
            return upfirdn_reference(dy, k[::-1, ::-1], down, up, grad_pads)
        return _resample(x, k, up, down, pads), backward
    return forward(x)


def _resample(x, k, up, down, pads):
    """Depthwise convolutions: transposed where the image grows, strided where it shrinks."""
    if up[0] != up[1]:  # TensorFlow's depthwise kernels stride alike along both axes.
        x = _insert_zeros(x, up)
        up = (1, 1)
    if up != (1, 1):
        y = _depthwise_transposed(x, k, up[0])
        pads = tuple((p0 - size + 1, p1 - size + factor) for (p0, p1), size, factor in zip(pads, k.shape, up, strict=True))
        return _pad_or_crop(y, pads)[:, ::down[0], ::down[1], :]
    stride = down[0] if down[0] == down[1] else 1
    y = tf.nn.depthwise_conv2d(_pad_or_crop(x, pads), _depthwise_filter(k[::-1, ::-1], x), [1, stride, stride, 1], 'VALID')
    return y if stride == down[0] == down[1] else y[:, ::down[0], ::down[1], :]


def _depthwise_filter(k, x):
    """Filter [kh, kw] -> [kh, kw, minor, 1], the same for every channel."""
    return tf.tile(tf.constant(k[:, :, np.newaxis, np.newaxis], x.dtype), [1, 1, tf.shape(x)[3], 1])


def _depthwise_transposed(x, k, up):
    """y[o] = sum over i of x[i] * k[o - up * i], with all of its (H - 1) * up + kh rows and likewise columns."""
    shape = tf.shape(x)
    out_shape = [shape[0], (shape[1] - 1) * up + k.shape[0], (shape[2] - 1) * up + k.shape[1], shape[3]]
    y = tf.nn.depthwise_conv2d_backprop_input(out_shape, _depthwise_filter(k, x), x, [1, up, up, 1], 'VALID')
    y.set_shape([x.shape[0]] + [None if size is None else (size - 1) * up + taps
                                for size, taps in zip(x.shape[1:3], k.shape, strict=True)] + [x.shape[3]])
    return y


def _insert_zeros(x, up):
    """Follow every row by up[0] - 1 rows of zeros, and every column likewise."""
    n, h, w, c = (x.shape[i] if x.shape[i] is not None else tf.shape(x)[i] for i in range(4))
    x = tf.reshape(x, [n, h, 1, w, 1, c])
    x = tf.pad(x, [[0, 0], [0, 0], [0, up[0] - 1], [0, 0], [0, up[1] - 1], [0, 0]])
    return tf.reshape(x, [n, h * up[0], w * up[1], c])


def _pad_or_crop(x, pads):
    """Zeros where a pad is positive, a crop where it is negative."""
    if all(isinstance(p, int) and p == 0 for pair in pads for p in pair):
        return x
    positive = [[_at_least_zero(p) for p in pair] for pair in pads]
    x = tf.pad(x, [[0, 0], *positive, [0, 0]])
    (top, bottom), (left, right) = [[_at_least_zero(-p) for p in pair] for pair in pads]
    shape = [x.shape[i] if x.shape[i] is not None else tf.shape(x)[i] for i in (1, 2)]
    return x[:, top:shape[0] - bottom, left:shape[1] - right, :]


def _at_least_zero(value):
    return max(value, 0) if isinstance(value, int) else tf.maximum(value, 0)
