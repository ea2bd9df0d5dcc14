"""Convolutions, and the only place that knows how images lie in memory inside the networks.

The networks take and return [N, C, H, W]. Inside they keep channels last on a CPU and channels first on a GPU,
whichever the convolutions of that device prefer; `image_format()` says which. Kernels are [kh, kw, in, out].
"""

import concurrent.futures
import functools

import tensorflow as tf

_forced_format = None


def image_format():
    """'NHWC' or 'NCHW': the layout inside the networks of this process."""
    return _forced_format or _format_of_devices()


def set_image_format(value):
    """Force a layout, for tests and measurements: 'NHWC' or 'NCHW'; None = by device. Call it before a network is built."""
    global _forced_format
    if value not in (None, 'NHWC', 'NCHW'):
        raise ValueError(f"expected None, 'NHWC' or 'NCHW', received {value!r}")
    _forced_format = value


@functools.cache
def _format_of_devices():
    return 'NCHW' if tf.config.get_visible_devices('GPU') else 'NHWC'


# ---- Between layouts ----

def from_nchw(x):
    """[N, C, H, W] -> the layout inside."""
    return x if image_format() == 'NCHW' else tf.transpose(x, [0, 2, 3, 1])


def to_nchw(x):
    """The layout inside -> [N, C, H, W]."""
    return x if image_format() == 'NCHW' else tf.transpose(x, [0, 3, 1, 2])


def from_nhwc(x):
    """[N, H, W, C] -> the layout inside."""
    return x if image_format() == 'NHWC' else tf.transpose(x, [0, 3, 1, 2])


def to_nhwc(x):
    """The layout inside -> [N, H, W, C]."""
    return x if image_format() == 'NHWC' else tf.transpose(x, [0, 2, 3, 1])


def channel_axis():
    """Index of the channels in the layout inside."""
    return 1 if image_format() == 'NCHW' else 3


def per_channel(x):
    """[N, C] or [C] -> a shape that broadcasts over the pixels of images in the layout inside."""
    if image_format() == 'NHWC':
        return x[..., tf.newaxis, tf.newaxis, :]
    return x[..., tf.newaxis, tf.newaxis]


# ---- Which layouts a device can convolve ----
# TensorFlow has kernels for channels first on a CPU only among its oneDNN operations, which it switches on by itself only on CPUs with
# AVX512-VNNI, AVX512-BF16 or AMX, and not for all types. Its other CPU kernels refuse the layout, some of them only in the gradient.

def _convolves(data_format, dtype):
    """True if convolutions of this layout and type, and their gradients, run on the device that is in scope here."""
    return data_format == 'NHWC' or not _on_cpu() or _cpu_convolves_nchw(dtype)


def _on_cpu():
    """True if operations made here will run on a CPU: no GPU is visible, or tf.device names a CPU."""
    if not tf.config.get_visible_devices('GPU'):
        return True
    device = tf.constant(0.0).device
    if not device:  # A function is being traced, and names no device: it will run where it is called.
        with tf.init_scope():
            device = tf.constant(0.0).device
    return tf.DeviceSpec.from_string(device).device_type == 'CPU'


@functools.cache
def _cpu_convolves_nchw(dtype):
    def try_it():
        with tf.device('/CPU:0'):
            x, w = tf.zeros([1, 2, 4, 4], dtype), tf.zeros([3, 3, 2, 2], dtype)
            with tf.GradientTape() as tape:
                tape.watch([x, w])
                y = tf.nn.conv2d(x, w, 2, 'SAME', 'NCHW')
                y = tf.nn.conv2d_transpose(y, w, [1, 2, 5, 5], 2, 'VALID', 'NCHW')
            tape.gradient(y, [x, w])
    try:
        # In a thread of its own, where no function is being traced and no tape records.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            thread.submit(try_it).result()
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.UnimplementedError):
        return False
    return True


# ---- Convolutions ----

def conv2d(x, w, stride=1, padding='SAME', data_format=None):
    """Convolution of images with `w` [kh, kw, in, out].

    Args:
        x:           Images.
        w:           Kernel, of the dtype of x.
        stride:      Step along both axes.
        padding:     'SAME' or 'VALID'.
        data_format: Layout of x. None = the layout inside.
    """
    data_format = data_format or image_format()
    if not _convolves(data_format, x.dtype):
        y = tf.nn.conv2d(tf.transpose(x, [0, 2, 3, 1]), w, stride, padding, 'NHWC')
        return tf.transpose(y, [0, 3, 1, 2])
    return tf.nn.conv2d(x, w, stride, padding, data_format)


def conv2d_transpose(x, w, stride, padding='VALID', data_format=None):
    """Transposed convolution with `w` [kh, kw, in, out]: H -> (H - 1) * stride + kh with 'VALID', H * stride with 'SAME' padding.

    Args as in `conv2d`; x has `in` channels, the result `out`.
    """
    data_format = data_format or image_format()
    if not _convolves(data_format, x.dtype):
        y = conv2d_transpose(tf.transpose(x, [0, 2, 3, 1]), w, stride, padding, 'NHWC')
        return tf.transpose(y, [0, 3, 1, 2])
    axes = (2, 3) if data_format == 'NCHW' else (1, 2)
    channels = 1 if data_format == 'NCHW' else 3
    shape = [tf.shape(x)[0], 0, 0, 0]
    for axis, size in zip(axes, w.shape[:2], strict=True):
        in_size = tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis]
        shape[axis] = (in_size - 1) * stride + size if padding == 'VALID' else in_size * stride
    shape[channels] = w.shape[3]
    return tf.nn.conv2d_transpose(x, tf.transpose(w, [0, 1, 3, 2]), shape, stride, padding, data_format)
