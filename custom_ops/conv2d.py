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


# ---- What the device can convolve ----
# A CPU convolves channels first only with TensorFlow's oneDNN kernels, and not all types; TensorFlow's other CPU kernels refuse the layout,
# some of them only in the gradient. The oneDNN kernels convolve half precision only on CPUs that have instructions for it.

def _form(data_format, dtype):
    """(layout, type) to convolve images of this layout and type in, on the device that is in scope: the nearest that it can do."""
    if (data_format == 'NHWC' and dtype.size >= 4) or not _on_cpu():
        return data_format, dtype
    forms = (data_format, dtype), ('NHWC', dtype), ('NHWC', tf.float32)
    return next(form for form in forms if _cpu_convolves(*form))


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
def _cpu_convolves(data_format, dtype):
    """True if the CPU has convolutions of this layout and type, and their gradients: they are tried once in a process."""
    def try_it():
        with tf.device('/CPU:0'):
            x, w = tf.zeros([1, 4, 4, 4], dtype), tf.zeros([3, 3, 4, 4], dtype)
            with tf.GradientTape() as tape:
                tape.watch([x, w])
                y = tf.nn.conv2d(x, w, 2, 'SAME', data_format)
                shape = [1, 4, 5, 5] if data_format == 'NCHW' else [1, 5, 5, 4]
                y = tf.nn.conv2d_transpose(y, w, shape, 2, 'VALID', data_format)
            tape.gradient(y, [x, w])
    try:
        # In a thread of its own, where no function is being traced and no tape records.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            thread.submit(try_it).result()
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.UnimplementedError, tf.errors.AbortedError):
        return False
    return True


def _convolve(function, x, w, data_format):
    """function(x, w, layout) of images in this layout, computed in a form that the device can do."""
    layout, dtype = _form(data_format, x.dtype)
    if layout != data_format:
        y = _convolve(function, tf.transpose(x, [0, 2, 3, 1]), w, layout)
        return tf.transpose(y, [0, 3, 1, 2])
    if dtype != x.dtype:
        return tf.cast(function(tf.cast(x, dtype), tf.cast(w, dtype), layout), x.dtype)
    return function(x, w, layout)


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
    return _convolve(lambda x, w, layout: tf.nn.conv2d(x, w, stride, padding, layout), x, w, data_format or image_format())


def conv2d_transpose(x, w, stride, padding='VALID', data_format=None):
    """Transposed convolution with `w` [kh, kw, in, out]: H -> (H - 1) * stride + kh with 'VALID', H * stride with 'SAME' padding.

    Args as in `conv2d`; x has `in` channels, the result `out`.
    """
    return _convolve(lambda x, w, layout: _transposed(x, w, stride, padding, layout), x, w, data_format or image_format())


def _transposed(x, w, stride, padding, data_format):
    axes = (2, 3) if data_format == 'NCHW' else (1, 2)
    channels = 1 if data_format == 'NCHW' else 3
    shape = [tf.shape(x)[0], 0, 0, 0]
    for axis, size in zip(axes, w.shape[:2], strict=True):
        in_size = tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis]
        shape[axis] = (in_size - 1) * stride + size if padding == 'VALID' else in_size * stride
    shape[channels] = w.shape[3]
    return tf.nn.conv2d_transpose(x, tf.transpose(w, [0, 1, 3, 2]), shape, stride, padding, data_format)
