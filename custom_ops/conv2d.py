"""Convolutions, and the only module that knows the internal memory layout of images.

Networks take and return [N, C, H, W]. Internally they use the layout in which the device convolves fastest, which
`image_format()` tells:

    CPU                         channels last
    GPU, half precision         channels last: tensor cores compute in this layout. In the other one, cuDNN would
                                transpose the images before and after each convolution.
    GPU, float32                channels first: TensorFlow transposes other images before and after each convolution.

A call of a network uses one layout throughout, as its argument `dtype` demands, although only its highest resolutions
may compute in half precision (training/nets/dtypes.py). So images are converted only where they enter and leave the
network, with few channels; and the layers in float32, at the lowest resolutions, take little of the time that the
transposes there cost. Networks of both precisions can be used in one process. Weights do not depend on the layout:
kernels are [kh, kw, in, out].
"""

import concurrent.futures
import functools

import tensorflow as tf

from custom_ops.reference import is_portable
from dnnlib.tflib.call_dtype import call_dtype
from dnnlib.tflib.tfutil import has_gpu

_forced_format = None


def image_format() -> str:
    """The internal layout, 'NHWC' or 'NCHW', of the network that is being called in this thread."""
    if is_portable():
        return 'NHWC'
    return _forced_format or ('NCHW' if has_gpu() and call_dtype() == 'float32' else 'NHWC')


def set_image_format(value: str | None):
    """Force the internal layout, for tests and benchmarks. Call it before a network is built.

    Args:
        value: 'NHWC' or 'NCHW'. None = chosen by device and precision.

    Raises:
        ValueError: It is none of these.
    """
    global _forced_format
    if value not in (None, 'NHWC', 'NCHW'):
        raise ValueError(f"expected None, 'NHWC' or 'NCHW', received {value!r}")
    _forced_format = value


# ---- Conversion between layouts ----

def from_nchw(x: tf.Tensor) -> tf.Tensor:
    """[N, C, H, W] -> internal layout."""
    if image_format() == 'NCHW':
        return x
    if x.shape[1] == 1:  # Both are the same in memory.
        return tf.squeeze(x, 1)[..., tf.newaxis]
    return tf.transpose(x, [0, 2, 3, 1])


def to_nchw(x: tf.Tensor) -> tf.Tensor:
    """Internal layout -> [N, C, H, W]."""
    if image_format() == 'NCHW':
        return x
    if x.shape[3] == 1:  # Both are the same in memory.
        return tf.expand_dims(tf.squeeze(x, 3), 1)
    return tf.transpose(x, [0, 3, 1, 2])


def channel_axis() -> int:
    """Index of the channel axis in the internal layout."""
    return 1 if image_format() == 'NCHW' else 3


def per_channel(x: tf.Tensor) -> tf.Tensor:
    """Reshape [N, C] or [C] so that it broadcasts over the pixels of images in the internal layout."""
    axis = -2 if image_format() == 'NHWC' else -1
    return tf.expand_dims(tf.expand_dims(x, axis), axis)


# ---- What the device can convolve ----
# On a CPU only TensorFlow's oneDNN kernels support channels first, and not for all types; the other CPU kernels refuse
# that layout, some of them only in the gradient. oneDNN supports half precision only on CPUs with instructions for it.

def _supported_form(data_format, dtype):
    """The (layout, dtype) closest to the given one in which the device in scope can convolve."""
    if (data_format == 'NHWC' and dtype.size >= 4) or not _on_cpu():
        return data_format, dtype
    forms = (data_format, dtype), ('NHWC', dtype), ('NHWC', tf.float32)
    return next(form for form in forms if _cpu_convolves(*form))


def _on_cpu():
    """True if operations created here run on a CPU: no GPU is visible, or tf.device names a CPU."""
    if not has_gpu():
        return True
    device = tf.constant(0.0).device
    if not device:  # A function is being traced that names no device. It will run where it is called.
        with tf.init_scope():
            device = tf.constant(0.0).device
    return tf.DeviceSpec.from_string(device).device_type == 'CPU'


@functools.cache
def _cpu_convolves(data_format, dtype):
    """True if the CPU supports convolutions of this layout and dtype, and their gradients. Tried once per process."""
    def attempt():
        with tf.device('/CPU:0'):
            x, w = tf.zeros([1, 4, 4, 4], dtype), tf.zeros([3, 3, 4, 4], dtype)
            with tf.GradientTape() as tape:
                tape.watch([x, w])
                y = tf.nn.conv2d(x, w, 2, 'SAME', data_format)
                shape = [1, 4, 5, 5] if data_format == 'NCHW' else [1, 5, 5, 4]
                y = tf.nn.conv2d_transpose(y, w, shape, 2, 'VALID', data_format)
            tape.gradient(y, [x, w])
    try:
        # A new thread is outside of any tf.function or gradient tape of the caller.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            thread.submit(attempt).result()
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.UnimplementedError,
            tf.errors.AbortedError):
        return False
    return True


def _convolve(function, x, w, data_format):
    """function(x, w, layout) for images in `data_format`, computed in a form that the device supports."""
    layout, dtype = _supported_form(data_format, x.dtype)
    if layout != data_format:
        y = _convolve(function, tf.transpose(x, [0, 2, 3, 1]), w, layout)
        return tf.transpose(y, [0, 3, 1, 2])
    if layout == 'NHWC' and dtype.size == 2 and has_gpu():
        _keep_layouts()
    if dtype != x.dtype:
        return tf.cast(function(tf.cast(x, dtype), tf.cast(w, dtype), layout), x.dtype)
    return function(x, w, layout)


def _keep_layouts():
    """Turn off TensorFlow's own choice of layouts, for this process.

    Where less than half of the convolutions of a graph are in half precision, it would convert all of them to channels
    first, with transposes around each, because it does not know that the custom ops between them have both layouts.
    """
    if tf.config.optimizer.get_experimental_options().get('layout_optimizer', True):
        tf.config.optimizer.set_experimental_options({'layout_optimizer': False})


# ---- Convolutions ----

def conv2d(x: tf.Tensor, w: tf.Tensor, stride: int = 1, padding: str = 'SAME',
           data_format: str | None = None) -> tf.Tensor:
    """Convolve images.

    Args:
        x:           Images with `in` channels, of any floating-point type.
        w:           Kernel, [kh, kw, in, out], of the dtype of x.
        stride:      Step along both axes.
        padding:     'SAME' or 'VALID'.
        data_format: Layout of x. None = the internal layout.

    Returns:
        Images with `out` channels in the same layout.
    """
    def function(x, w, layout):
        return tf.nn.conv2d(x, w, stride, padding, layout)
    return _convolve(function, x, w, data_format or image_format())


def conv2d_transpose(x: tf.Tensor, w: tf.Tensor, stride: int, padding: str = 'VALID',
                     data_format: str | None = None) -> tf.Tensor:
    """Transposed convolution of images.

    Args:
        x, w, stride, padding, data_format: As in `conv2d`.

    Returns:
        Images with `out` channels; the height is (H - 1) * stride + kh with 'VALID' padding and H * stride with 'SAME'.
    """
    def function(x, w, layout):
        return _transposed(x, w, stride, padding, layout)
    return _convolve(function, x, w, data_format or image_format())


def _transposed(x, w, stride, padding, data_format):
    axes = (2, 3) if data_format == 'NCHW' else (1, 2)
    channels = 1 if data_format == 'NCHW' else 3
    shape = [tf.shape(x)[0], 0, 0, 0]
    for axis, size in zip(axes, w.shape[:2], strict=True):
        in_size = tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis]
        shape[axis] = (in_size - 1) * stride + size if padding == 'VALID' else in_size * stride
    shape[channels] = w.shape[3]
    return tf.nn.conv2d_transpose(x, tf.transpose(w, [0, 1, 3, 2]), shape, stride, padding, data_format)
