"""What the feature networks share: images as they take them, layers, and weights from files put into them.

Inside, images are channels-last on every device: the networks are only evaluated, and their weights come in that layout.
"""

import keras
import numpy as np
import tensorflow as tf

from dnnlib.cli import UserError

FOREIGN_WEIGHTS = 'Expected the weights of exactly this network: get the file again, or another one that the network can be read from.'

_LPIPS_SIZE = 256  # Larger images are brought to about this size for LPIPS.


class FeatureNetwork:
    """A Keras model that takes images as everybody has them.

    Args:
        name:     Name of the network.
        model:    keras.Model of prepared images [N, H, W, 3].
        prepare:  Function of images [N, H, W, 3], float32, 0..255, that returns what the model takes.
        min_size: Least height and width of images, pixels.

    Call arguments:
        images: [N, C, H, W], float32 or uint8, 0..255, C = 1 or 3; gray is repeated in all three channels. Tensor or array;
                N, H and W may be unknown inside a tf.function.

    Returns:
        What the model returns, float32.
    """

    def __init__(self, name, model, prepare, min_size=1):
        self.name, self.model, self.prepare, self.min_size = name, model, prepare, min_size

    def __call__(self, images):
        return self.model(self.prepare(self.to_rgb(images)), training=False)

    def to_rgb(self, images):
        """Images as called with -> [N, H, W, 3] float32. ValueError for any other shape or type."""
        images = tf.convert_to_tensor(images)
        if images.dtype not in (tf.float32, tf.uint8):
            raise ValueError(f'{self.name}: expected images as float32 or uint8, 0..255. Received: {images.dtype.name}')
        if images.shape.rank != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f'{self.name}: expected images of shape [N, 1 or 3, H, W]. Received: {images.shape}')
        if any(size is not None and size < self.min_size for size in images.shape[2:]):
            raise ValueError(f'{self.name}: expected images of at least {self.min_size} x {self.min_size} pixels. '
                             f'Received: {images.shape}')
        x = tf.transpose(tf.cast(images, tf.float32), [0, 2, 3, 1])
        return tf.repeat(x, 3, axis=3) if images.shape[1] == 1 else x


def resize(x, size):
    """[N, H, W, C] -> [N, size, size, C], bilinear as TensorFlow 1: pixel i of the result is taken at i * H / size.

    Without low-pass filter, and not symmetric. The networks were trained and the metrics are defined with it.
    """
    return tf.raw_ops.ResizeBilinear(images=x, size=[size, size], align_corners=False, half_pixel_centers=False)


def shrink(images):
    """Means of blocks of pixels, so that images [N, C, H, W] larger than 256x256 become about so large, as LPIPS is given them."""
    n, c, h, w = images.shape
    factor = h // _LPIPS_SIZE
    if factor <= 1:
        return images
    return tf.reduce_mean(tf.reshape(images, [-1, c, h // factor, factor, w // factor, factor]), axis=[3, 5])


# ---- Layers ----

def conv(x, name, fmaps, kernel, stride=1, padding='same', activation='relu'):
    """Convolution with bias of a Keras tensor. kernel: one number, or (height, width)."""
    return keras.layers.Conv2D(fmaps, kernel, stride, padding, data_format='channels_last', activation=activation, dtype='float32',
                               name=layer_name(name))(x)


def max_pool(x, size, stride, padding='valid'):
    return keras.layers.MaxPooling2D(size, stride, padding, data_format='channels_last', dtype='float32')(x)


def average_pool(x, size):
    """Average over a window around each pixel, of the pixels that are inside the image."""
    return keras.layers.AveragePooling2D(size, 1, 'same', data_format='channels_last', dtype='float32')(x)


def global_average(x):
    """[N, H, W, C] -> [N, C]."""
    return keras.layers.GlobalAveragePooling2D(data_format='channels_last', dtype='float32')(x)


def concat(parts):
    return keras.layers.Concatenate(axis=-1, dtype='float32')(parts)


def layer_name(scope):
    """Scope 'mixed_3/tower/conv' as Keras accepts it."""
    return scope.replace('/', '.')


# ---- Weights ----

def fold_batch_norm(kernel, mean, variance, beta, gamma, epsilon, channels_axis=-1):
    """(kernel, bias) of the convolution that does the same as one without bias followed by batch normalisation.

    Args:
        kernel:         Weights whose axis `channels_axis` is that of the outputs.
        mean, variance: Moving averages [C] of the normalisation.
        beta, gamma:    Its offset and factor [C].
        epsilon:        Added to the variance.
    """
    factor = np.asarray(gamma, np.float64) / np.sqrt(np.asarray(variance, np.float64) + epsilon)
    shape = [1] * kernel.ndim
    shape[channels_axis] = -1
    return (kernel * factor.reshape(shape)).astype(np.float32), (beta - mean * factor).astype(np.float32)


def set_weights(model, weights, path):
    """Give all layers their weights.

    Args:
        model:   keras.Model whose layers are called by `layer_name(scope)`.
        weights: Dict of scope -> tuple of the layer's arrays, or -> None where the file has none.
        path:    File that they come from, for messages.

    Raises:
        UserError: An array is missing or has another shape than the layer's.
    """
    for layer in (layer for layer in model.layers if layer.weights):
        scope = next((scope for scope in weights if layer_name(scope) == layer.name), layer.name)
        expected = [tuple(var.shape) for var in layer.weights]
        found = [tuple(np.shape(array)) for array in weights.get(scope) or ()]
        if found != expected:
            raise UserError(f'{path}: {scope}: expected weights of the shapes {expected}, found {found or "none"}', FOREIGN_WEIGHTS)
        layer.set_weights([np.asarray(array, np.float32) for array in weights[scope]])


def take(weights, name, path):
    """weights[name]; UserError where there is no such array in `path`."""
    if name not in weights:
        some = ', '.join(list(weights)[:5])
        raise UserError(f'{path}: holds no {name}; it has {len(weights)} arrays: {some} ...', FOREIGN_WEIGHTS)
    return weights[name]


def pickled_variables(path):
    """Dict of name -> array, in the order of creation, of the network in one of the original's pickles."""
    from dnnlib.pickles import legacy_pickle
    from training.misc import named_values
    network = legacy_pickle.load(path)
    if not isinstance(network, legacy_pickle.NetworkState):
        raise UserError(f'{path}: expected one network, found {type(network).__name__}', FOREIGN_WEIGHTS)
    return {name: np.asarray(value) for name, value in named_values(network).items()}
