"""What the feature networks share: their input images, their layers, and putting weights from files into them.

Inside the networks, images are channels-last on every device: they are only evaluated, and their weights come in that
layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dnnlib.cli import UserError
from dnnlib.pickles import legacy_pickle
from training.misc import named_values

FOREIGN_WEIGHTS = ('Expected the weights of exactly this network: get the file again, '
                   'or another one that the network can be read from.')

KerasTensor = Any  # Keras 2 has no public name for the type.

_LPIPS_SIZE = 256  # Larger images are scaled down to about this size for LPIPS.


class FeatureNetwork:
    """A Keras model that takes images as users have them.

    Args:
        name:     Name of the network.
        model:    keras.Model of prepared images [N, H, W, 3]. None = the subclass has a `__call__` of its own.
        prepare:  Function of images [N, H, W, 3], float32, 0..255, that returns the input of the model. None likewise.
        min_size: Minimum height and width of images, in pixels.

    Call arguments:
        images: [N, C, H, W], float32 or uint8, 0..255, C = 1 or 3; gray is repeated in all three channels. Tensor or
                array; N, H and W may be unknown inside a tf.function.

    Returns:
        Output of the model, float32.
    """

    def __init__(self, name: str, model: keras.Model | None, prepare: Callable | None, min_size: int = 1):
        self.name, self.min_size = name, min_size
        self.model: Any = model
        self.prepare: Any = prepare

    def __call__(self, images: np.ndarray | tf.Tensor) -> tf.Tensor:
        return self.model(self.prepare(self.to_rgb(images)), training=False)

    def to_rgb(self, images: np.ndarray | tf.Tensor) -> tf.Tensor:
        """Convert images as passed to the network to float32 [N, H, W, 3], 0..255.

        Raises:
            ValueError: The images have another shape or type.
        """
        x = tf.convert_to_tensor(images)
        if x.dtype not in (tf.float32, tf.uint8):
            raise ValueError(f'{self.name}: expected images as float32 or uint8, 0..255. Received: {x.dtype.name}')
        if x.shape.rank != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f'{self.name}: expected images of shape [N, 1 or 3, H, W]. Received: {x.shape}')
        if any(size is not None and size < self.min_size for size in x.shape[2:]):
            raise ValueError(f'{self.name}: expected images of at least {self.min_size} x {self.min_size} pixels. '
                             f'Received: {x.shape}')
        x = tf.transpose(tf.cast(x, tf.float32), [0, 2, 3, 1])
        return tf.repeat(x, 3, axis=3) if x.shape[3] == 1 else x


def resize(x: tf.Tensor, size: int) -> tf.Tensor:
    """[N, H, W, C] -> [N, size, size, C], bilinear as in TensorFlow 1: pixel i is sampled at i * H / size.

    There is no low-pass filter, and it is not symmetric, but the networks were trained and the metrics are defined
    with it.
    """
    return tf.raw_ops.ResizeBilinear(images=x, size=[size, size], align_corners=False, half_pixel_centers=False)


def shrink(images: tf.Tensor) -> tf.Tensor:
    """Scale images [N, C, H, W] larger than 256x256 down to about that size by averaging squares of pixels.

    LPIPS is given such images. H and W must be known.
    """
    _n, c, h, w = images.shape
    factor = h // _LPIPS_SIZE
    if factor <= 1:
        return images
    return tf.reduce_mean(tf.reshape(images, [-1, c, h // factor, factor, w // factor, factor]), axis=[3, 5])


# ---- Layers: functions of Keras tensors, channels last ----

def conv(x: KerasTensor, name: str, fmaps: int, kernel: int | tuple[int, int], stride: int = 1, padding: str = 'same',
         activation: str | None = 'relu') -> KerasTensor:
    """Convolution with bias. kernel: one number, or (height, width). activation: None = linear."""
    return keras.layers.Conv2D(fmaps, kernel, stride, padding, data_format='channels_last', activation=activation,
                               dtype='float32', name=layer_name(name))(x)


def max_pool(x: KerasTensor, size: int, stride: int, padding: str = 'valid') -> KerasTensor:
    """Maximum over windows of size x size pixels."""
    return keras.layers.MaxPooling2D(size, stride, padding, data_format='channels_last', dtype='float32')(x)


def average_pool(x: KerasTensor, size: int) -> KerasTensor:
    """Mean over a window around each pixel, of the pixels that are inside the image."""
    return keras.layers.AveragePooling2D(size, 1, 'same', data_format='channels_last', dtype='float32')(x)


def global_average(x: KerasTensor) -> KerasTensor:
    """[N, H, W, C] -> [N, C], mean over the pixels."""
    return keras.layers.GlobalAveragePooling2D(data_format='channels_last', dtype='float32')(x)


def concat(branches: Sequence[KerasTensor]) -> KerasTensor:
    """Concatenation along the channels."""
    return keras.layers.Concatenate(axis=-1, dtype='float32')(branches)


def layer_name(scope: str) -> str:
    """A scope such as 'mixed_3/tower/conv' as a name that Keras accepts."""
    return scope.replace('/', '.')


# ---- Weights ----

def fold_batch_norm(kernel: np.ndarray, batch_norm: Sequence[np.ndarray], epsilon: float,
                    channels_axis: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """Turn a convolution without bias, followed by batch normalization, into one convolution with bias.

    Args:
        kernel:        Weights of the convolution.
        batch_norm:    Moving mean, moving variance, beta (offset) and gamma (factor) of the normalization, each [C].
        epsilon:       What the normalization adds to the variance.
        channels_axis: Axis of the kernel that belongs to the outputs.

    Returns:
        Kernel and bias, float32.
    """
    mean, variance, beta, gamma = batch_norm
    factor = np.asarray(gamma, np.float64) / np.sqrt(np.asarray(variance, np.float64) + epsilon)
    shape = [1] * kernel.ndim
    shape[channels_axis] = -1
    return (kernel * factor.reshape(shape)).astype(np.float32), (beta - mean * factor).astype(np.float32)


def read_torch_conv(arrays: Mapping[str, np.ndarray], conv_name: str, norm_name: str, path: str, epsilon: float,
                    depthwise: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Read a convolution and its batch normalization as PyTorch stores them, folded into one.

    Args:
        arrays:    {name: array} of a file of weights.
        conv_name: Name of the convolution.
        norm_name: Name of the batch normalization.
        path:      File that the arrays come from, for messages.
        epsilon:   What the normalization adds to the variance.
        depthwise: Is the convolution a depthwise one?

    Returns:
        Kernel [kh, kw, in, out], or [kh, kw, C, 1] if depthwise, and bias.

    Raises:
        UserError: An array is missing.
    """
    kernel = get_array(arrays, f'{conv_name}.weight', path)
    kernel = kernel.transpose(2, 3, 0, 1) if depthwise else kernel.transpose(2, 3, 1, 0)
    batch_norm = [get_array(arrays, f'{norm_name}.{part}', path)
                  for part in ('running_mean', 'running_var', 'bias', 'weight')]
    return fold_batch_norm(kernel, batch_norm, epsilon, channels_axis=2 if depthwise else 3)


def set_weights(model: keras.Model, weights: Mapping[str, Sequence[np.ndarray]], path: str):
    """Set the weights of all layers of a model.

    Args:
        model:   Model whose layers have names from `layer_name(scope)`.
        weights: {scope: arrays of the layer}.
        path:    File that they come from, for messages.

    Raises:
        UserError: An array is missing or has another shape than the layer's.
    """
    for layer in (layer for layer in model.layers if layer.weights):
        scope = next((scope for scope in weights if layer_name(scope) == layer.name), layer.name)
        expected = [tuple(var.shape) for var in layer.weights]
        found = [tuple(np.shape(array)) for array in weights.get(scope, ())]
        if found != expected:
            raise UserError(f'{path}: {scope}: expected weights of the shapes {expected}, found {found or "none"}',
                            FOREIGN_WEIGHTS)
        layer.set_weights([np.asarray(array, np.float32) for array in weights[scope]])


def get_array(arrays: Mapping[str, Any], name: str, path: str) -> Any:
    """Return arrays[name].

    Raises:
        UserError: There is no such array in the file `path`.
    """
    if name not in arrays:
        some = ', '.join(list(arrays)[:5])
        raise UserError(f'{path}: holds no {name}; it has {len(arrays)} arrays: {some} ...', FOREIGN_WEIGHTS)
    return arrays[name]


def pickled_variables(path: str) -> dict[str, np.ndarray]:
    """Variables of the network in one of the original's pickles, {name: array} in the order of creation.

    Raises:
        UserError: The file is damaged, or holds something else than one network.
    """
    network = legacy_pickle.load(path)
    if not isinstance(network, legacy_pickle.NetworkState):
        raise UserError(f'{path}: expected one network, found {type(network).__name__}', FOREIGN_WEIGHTS)
    return {name: np.asarray(value) for name, value in named_values(network).items()}
