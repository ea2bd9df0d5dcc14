"""Resample batches of images: pad, upsample, filter and downsample; and convolutions combined with resampling.

Resampling as in StyleGAN2 (Karras et al. 2020, arXiv:1912.04958, Appendix B): insert zeros, apply a small FIR filter,
drop samples. All functions are differentiable to any order.

Images are [N, C, H, W] or [N, H, W, C], as `data_format` says, of any floating-point dtype. A filter `k` is a constant:
1-D [size] stands for its outer product with itself, 2-D is [size, size], and None is a box of `factor` taps. It is
normalized to sum 1, so that resampling preserves the mean of an image.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from custom_ops import conv2d, loader
from custom_ops.reference import pads_of_gradient, upfirdn_reference

Filter = np.ndarray | Sequence | None


def upfirdn_2d(x: tf.Tensor, k: np.ndarray | Sequence, upx: int = 1, upy: int = 1, downx: int = 1, downy: int = 1,
               padx0: int = 0, padx1: int = 0, pady0: int = 0, pady1: int = 0,
               data_format: str = 'NHWC') -> tf.Tensor:
    """Upsample by inserting zeros, pad or crop, filter, and downsample, in this order.

    Args:
        x:            [major, H, W, minor], or [N, C, H, W] with NCHW; H and W are filtered.
        k:            [kh, kw], used as it is: not normalized, and not necessarily separable.
        upx, upy:     Upsampling factors: every sample is followed by up - 1 zeros.
        downx, downy: Downsampling factors: samples 0, down, 2 * down, ... are kept.
        padx0, padx1: Zeros left and right of the upsampled image; a negative number crops.
        pady0, pady1: The same above and below.
        data_format:  Layout of x, 'NHWC' or 'NCHW'.

    Returns:
        [major, outH, outW, minor], or [N, C, outH, outW], with outW = (W * upx + padx0 + padx1 - kw) // downx + 1, and
        outH likewise.

    Raises:
        ValueError: The filter is not 2-D or is empty, x does not have four axes, or a factor is below 1.
    """
    k = np.asarray(k, np.float32)
    if k.ndim != 2 or k.size == 0:
        raise ValueError(f'upfirdn_2d: expected a filter [kh, kw] with at least one tap, received shape {k.shape}')
    if x.shape.rank != 4:
        raise ValueError(f'upfirdn_2d: expected x with four axes, received shape {x.shape}')
    if min(upx, upy, downx, downy) < 1:
        raise ValueError(f'upfirdn_2d: factors must be at least 1, received up ({upx}, {upy}), down ({downx}, {downy})')
    return _upfirdn(x, k, (upy, upx), (downy, downx), ((pady0, pady1), (padx0, padx1)), data_format)


def filter_2d(x: tf.Tensor, k: Filter, gain: float = 1, data_format: str = 'NCHW') -> tf.Tensor:
    """Filter images without changing their size: y = gain * (x convolved with the normalized k)."""
    k = _setup_kernel(k) * gain
    p = k.shape[0] - 1
    return _upfirdn_images(x, k, data_format, pad0=(p + 1) // 2, pad1=p // 2)


def upsample_2d(x: tf.Tensor, k: Filter = None, factor: int = 2, gain: float = 1,
                data_format: str = 'NCHW') -> tf.Tensor:
    """Upsample images by an integer factor: H -> H * factor, W -> W * factor."""
    k = _setup_kernel([1] * factor if k is None else k) * (gain * factor ** 2)
    p = k.shape[0] - factor
    return _upfirdn_images(x, k, data_format, up=factor, pad0=(p + 1) // 2 + factor - 1, pad1=p // 2)


def downsample_2d(x: tf.Tensor, k: Filter = None, factor: int = 2, gain: float = 1,
                  data_format: str = 'NCHW') -> tf.Tensor:
    """Downsample images by an integer factor: H -> H / factor, W -> W / factor."""
    k = _setup_kernel([1] * factor if k is None else k) * gain
    p = k.shape[0] - factor
    return _upfirdn_images(x, k, data_format, down=factor, pad0=(p + 1) // 2, pad1=p // 2)


def upsample_conv_2d(x: tf.Tensor, w: tf.Tensor, k: Filter = None, factor: int = 2, gain: float = 1,
                     data_format: str = 'NCHW') -> tf.Tensor:
    """`upsample_2d` followed by a convolution, as one transposed convolution and a filter.

    Args:
        x:           Images.
        w:           Convolution kernel, [size, size, in, out].
        k, factor, gain, data_format: As in `upsample_2d`.

    Returns:
        Images of H * factor x W * factor with `out` channels: the padding is 'SAME' for both steps together.
    """
    k = _setup_kernel([1] * factor if k is None else k) * (gain * factor ** 2)
    p = (k.shape[0] - factor) - (_square_size(w) - 1)
    y = conv2d.conv2d_transpose(x, w[::-1, ::-1], stride=factor, data_format=data_format)
    return _upfirdn_images(y, k, data_format, pad0=(p + 1) // 2 + factor - 1, pad1=p // 2 + 1)


def conv_downsample_2d(x: tf.Tensor, w: tf.Tensor, k: Filter = None, factor: int = 2, gain: float = 1,
                       data_format: str = 'NCHW') -> tf.Tensor:
    """A convolution followed by `downsample_2d`, as one filter and a strided convolution.

    Args:
        x:           Images.
        w:           Convolution kernel, [size, size, in, out].
        k, factor, gain, data_format: As in `downsample_2d`.

    Returns:
        Images of H / factor x W / factor with `out` channels: the padding is 'SAME' for both steps together.
    """
    k = _setup_kernel([1] * factor if k is None else k) * gain
    p = (k.shape[0] - factor) + (_square_size(w) - 1)
    y = _upfirdn_images(x, k, data_format, pad0=(p + 1) // 2, pad1=p // 2)
    return conv2d.conv2d(y, w, stride=factor, padding='VALID', data_format=data_format)


# ---- Filters ----

def _setup_kernel(k):
    """The caller's filter -> [size, size] float32 with sum 1."""
    k = np.asarray(k, np.float32)
    if k.ndim == 1:
        k = np.outer(k, k)
    if k.ndim != 2 or k.shape[0] != k.shape[1] or k.size == 0:
        raise ValueError(f'expected a filter [size] or [size, size], received shape {k.shape}')
    total = np.sum(k)
    if total == 0:
        raise ValueError('expected a filter whose taps do not sum to zero, because it has to be normalized')
    return k / total


def _square_size(w):
    height, width = w.shape[:2]
    if height != width:
        raise ValueError(f'expected a square convolution kernel [k, k, in, out], received shape {w.shape}')
    return int(height)


# ---- The op on images in either layout ----
# up and down are (vertical, horizontal); pads are ((top, bottom), (left, right)), ints or scalar tensors.

def _upfirdn_images(x, k, data_format, up=1, down=1, pad0=0, pad1=0):
    """upfirdn with the same factors and padding along both axes."""
    return _upfirdn(x, k, (up, up), (down, down), ((pad0, pad1), (pad0, pad1)), data_format)


def _upfirdn(x, k, up, down, pads, data_format='NHWC'):
    library = loader.library()
    if library is not None:
        pads = [p for pair in pads for p in pair]
        return library.stylegan2_upfirdn2d(x, k, pads, up=up, down=down, data_format=data_format)
    # Depthwise convolutions need channels last. Reshaping to one-channel images instead is ten times slower.
    if data_format == 'NCHW':
        x = tf.transpose(x, [0, 2, 3, 1])
    y = upfirdn_reference(x, k, up, down, pads)
    return tf.transpose(y, [0, 3, 1, 2]) if data_format == 'NCHW' else y


# ---- Gradient of the native op: native/cpu_upfirdn.cc, native/gpu_kernels.cu ----

@tf.RegisterGradient('Stylegan2Upfirdn2d')
def _native_gradient(op, dy):
    x, k, pads = op.inputs
    up, down, flip, data_format = (op.get_attr(name) for name in ('up', 'down', 'flip', 'data_format'))
    data_format = tf.compat.as_str(data_format)
    static_pads = tf.get_static_value(pads)
    pads = pads if static_pads is None else [int(pad) for pad in static_pads]
    grad_pads = []
    for i, axis in enumerate((1, 2) if data_format == 'NHWC' else (2, 3)):
        in_size = tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis]
        grad_pads += pads_of_gradient(in_size, k.shape[i], up[i], down[i], (pads[2 * i], pads[2 * i + 1]))
    library = loader.loaded_library()
    dx = library.stylegan2_upfirdn2d(dy, k, grad_pads, up=down, down=up, flip=not flip, data_format=data_format)
    dx.set_shape(x.shape)
    return dx, None, None
