"""Inception-v3 as trained in December 2015 (Szegedy et al. 2016, arXiv:1512.00567), the network of FID and IS.

It is not the Inception-v3 of Keras or torchvision: it has other weights, 1008 classes, average pools that leave out
the padding, and a maximum pool in the last block. Layers are named by the scopes of the original graph. When the
weights are loaded, batch normalization (epsilon 0.001) is folded into the convolution before it, which has no bias.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Sequence

import google.protobuf.message
import keras
import numpy as np
import tensorflow as tf

from dnnlib.cli import UserError
from dnnlib.pickles import torch_weights
from metrics.features import layers
from metrics.features.layers import FOREIGN_WEIGHTS, average_pool, concat, conv, fold_batch_norm, get_array, max_pool

EPSILON = 0.001
NUM_CLASSES = 1008
SIZE = 299                  # Pixels; images are resized.
GRAPH_FILE = 'classify_image_graph_def.pb'
_MAX_GRAPH_SIZE = 1 << 28   # Bytes. The real graph has 96 MB.
_MAX_MEMBERS = 100          # Files in its archive. The real one has 5.
_MAX_TENSOR_SIZE = 1 << 24  # Numbers in a constant.

# ---- Scopes of the graph, and their names in pytorch-fid ----

_STEM = {'conv': 'Conv2d_1a_3x3', 'conv_1': 'Conv2d_2a_3x3', 'conv_2': 'Conv2d_2b_3x3',
         'conv_3': 'Conv2d_3b_1x1', 'conv_4': 'Conv2d_4a_3x3'}
_POOL = {'tower_2/conv': 'branch_pool'}
_DOUBLE = {'tower_1/conv': 'branch3x3dbl_1', 'tower_1/conv_1': 'branch3x3dbl_2', 'tower_1/conv_2': 'branch3x3dbl_3'}
_BLOCKS_35 = {
    'conv': 'branch1x1', 'tower/conv': 'branch5x5_1', 'tower/conv_1': 'branch5x5_2', **_DOUBLE, **_POOL}
_REDUCE_35 = {'conv': 'branch3x3', **{scope.replace('tower_1', 'tower'): name for scope, name in _DOUBLE.items()}}
_BLOCKS_17 = {
    'conv': 'branch1x1', 'tower/conv': 'branch7x7_1', 'tower/conv_1': 'branch7x7_2', 'tower/conv_2': 'branch7x7_3',
    'tower_1/conv': 'branch7x7dbl_1', **{f'tower_1/conv_{i}': f'branch7x7dbl_{i + 1}' for i in range(1, 5)}, **_POOL}
_REDUCE_17 = {
    'tower/conv': 'branch3x3_1', 'tower/conv_1': 'branch3x3_2', 'tower_1/conv': 'branch7x7x3_1',
    **{f'tower_1/conv_{i}': f'branch7x7x3_{i + 1}' for i in range(1, 4)}}
_BLOCKS_8 = {
    'conv': 'branch1x1', 'tower/conv': 'branch3x3_1', 'tower/mixed/conv': 'branch3x3_2a',
    'tower/mixed/conv_1': 'branch3x3_2b', 'tower_1/conv': 'branch3x3dbl_1', 'tower_1/conv_1': 'branch3x3dbl_2',
    'tower_1/mixed/conv': 'branch3x3dbl_3a', 'tower_1/mixed/conv_1': 'branch3x3dbl_3b', **_POOL}
_BLOCKS = {
    'mixed': ('Mixed_5b', _BLOCKS_35), 'mixed_1': ('Mixed_5c', _BLOCKS_35), 'mixed_2': ('Mixed_5d', _BLOCKS_35),
    'mixed_3': ('Mixed_6a', _REDUCE_35), 'mixed_4': ('Mixed_6b', _BLOCKS_17), 'mixed_5': ('Mixed_6c', _BLOCKS_17),
    'mixed_6': ('Mixed_6d', _BLOCKS_17), 'mixed_7': ('Mixed_6e', _BLOCKS_17), 'mixed_8': ('Mixed_7a', _REDUCE_17),
    'mixed_9': ('Mixed_7b', _BLOCKS_8), 'mixed_10': ('Mixed_7c', _BLOCKS_8)}

# Scope of each of the 94 convolutions -> name in pytorch-fid's file.
CONVOLUTIONS = {**_STEM, **{f'{block}/{scope}': f'{name}.{branch}'
                            for block, (name, scopes) in _BLOCKS.items() for scope, branch in scopes.items()}}


# ---- The network ----

def build(num_classes: int | None = None, output_bias: bool = False) -> keras.Model:
    """Build Inception-v3 without weights: prepared images [N, 299, 299, 3] -> features [N, 2048] or probabilities.

    Args:
        num_classes: Number of classes to return probabilities of, [N, num_classes]. None = return features.
        output_bias: Add a bias to the logits? The Inception Score (Salimans et al. 2016, arXiv:1606.03498) is defined
                     without, because its code multiplies the features with softmax/weights alone; so does NVIDIA's.
    """
    images: layers.KerasTensor = keras.Input([SIZE, SIZE, 3], dtype='float32')
    x = conv(images, 'conv', 32, 3, 2, 'valid')         # [N, 149, 149, 32]
    x = conv(x, 'conv_1', 32, 3, padding='valid')       # [N, 147, 147, 32]
    x = conv(x, 'conv_2', 64, 3)
    x = max_pool(x, 3, 2)                               # [N, 73, 73, 64]
    x = conv(x, 'conv_3', 80, 1)
    x = conv(x, 'conv_4', 192, 3, padding='valid')      # [N, 71, 71, 192]
    x = max_pool(x, 3, 2)                               # [N, 35, 35, 192]
    for scope, pool_fmaps in ('mixed', 32), ('mixed_1', 64), ('mixed_2', 64):
        x = _block_35(x, scope, pool_fmaps)
    x = _reduce_35(x, 'mixed_3')                        # [N, 17, 17, 768]
    for scope, fmaps in ('mixed_4', 128), ('mixed_5', 160), ('mixed_6', 160), ('mixed_7', 192):
        x = _block_17(x, scope, fmaps)
    x = _reduce_17(x, 'mixed_8')                        # [N, 8, 8, 1280]
    x = _block_8(x, 'mixed_9', average_pool(x, 3))      # [N, 8, 8, 2048]
    x = _block_8(x, 'mixed_10', max_pool(x, 3, 1, 'same'))
    x = layers.global_average(x)
    if num_classes is not None:
        x = keras.layers.Dense(num_classes, 'softmax', use_bias=output_bias, dtype='float32', name='softmax')(x)
    return keras.Model(images, x, name='inception_v3')


def _chain(x, scope, *convs):
    """Successive convolutions scope, scope_1, ..., each (fmaps, kernel) or (fmaps, kernel, stride, padding)."""
    for i, args in enumerate(convs):
        x = conv(x, f'{scope}_{i}' if i else scope, *args)
    return x


def _block_35(x, scope, pool_fmaps):
    return concat([
        _chain(x, f'{scope}/conv', (64, 1)),
        _chain(x, f'{scope}/tower/conv', (48, 1), (64, 5)),
        _chain(x, f'{scope}/tower_1/conv', (64, 1), (96, 3), (96, 3)),
        _chain(average_pool(x, 3), f'{scope}/tower_2/conv', (pool_fmaps, 1))])


def _reduce_35(x, scope):
    return concat([
        _chain(x, f'{scope}/conv', (384, 3, 2, 'valid')),
        _chain(x, f'{scope}/tower/conv', (64, 1), (96, 3), (96, 3, 2, 'valid')),
        max_pool(x, 3, 2)])


def _block_17(x, scope, fmaps):
    row, column = (1, 7), (7, 1)
    return concat([
        _chain(x, f'{scope}/conv', (192, 1)),
        _chain(x, f'{scope}/tower/conv', (fmaps, 1), (fmaps, row), (192, column)),
        _chain(x, f'{scope}/tower_1/conv', (fmaps, 1), (fmaps, column), (fmaps, row), (fmaps, column), (192, row)),
        _chain(average_pool(x, 3), f'{scope}/tower_2/conv', (192, 1))])


def _reduce_17(x, scope):
    return concat([
        _chain(x, f'{scope}/tower/conv', (192, 1), (320, 3, 2, 'valid')),
        _chain(x, f'{scope}/tower_1/conv', (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2, 'valid')),
        max_pool(x, 3, 2)])


def _block_8(x, scope, pooled):
    row, column = (1, 3), (3, 1)
    tower = _chain(x, f'{scope}/tower/conv', (384, 1))
    tower_1 = _chain(x, f'{scope}/tower_1/conv', (448, 1), (384, 3))
    return concat([
        _chain(x, f'{scope}/conv', (320, 1)),
        conv(tower, f'{scope}/tower/mixed/conv', 384, row),
        conv(tower, f'{scope}/tower/mixed/conv_1', 384, column),
        conv(tower_1, f'{scope}/tower_1/mixed/conv', 384, row),
        conv(tower_1, f'{scope}/tower_1/mixed/conv_1', 384, column),
        _chain(pooled, f'{scope}/tower_2/conv', (192, 1))])


# ---- Weights ----

def load(path: str, softmax: bool = False) -> layers.FeatureNetwork:
    """Load the network with weights from a file, whose format is recognized by the ending of its name.

    NVIDIA's pickles hold the same network, but the names of their variables are not published. The names of the graph
    are expected, alone or below a common scope. If a pickle has a bias for the logits, it is used.

    Args:
        path:    inception-2015-12-05.tgz or classify_image_graph_def.pb (the original),
                 pt_inception-2015-12-05-*.pth (pytorch-fid's),
                 inception_v3_features.pkl or inception_v3_softmax.pkl (NVIDIA's).
        softmax: Return probabilities [N, 1008] instead of features [N, 2048]?

    Raises:
        UserError: The file is damaged or holds another network.
    """
    if path.endswith('.pkl'):
        weights = _read_pickle(path, softmax)
    elif path.endswith('.pth'):
        weights = _read_torch(path, softmax)
    else:
        weights = _read_graph(path, softmax)
    output_bias = softmax and len(weights['softmax']) == 2
    model = build(NUM_CLASSES if softmax else None, output_bias)
    layers.set_weights(model, weights, path)
    return layers.FeatureNetwork('inception_softmax' if softmax else 'inception_features', model, _prepare)


def _prepare(x):
    return (layers.resize(x, SIZE) - 128) * (1 / 128)


def _read_torch(path, softmax) -> dict[str, Sequence[np.ndarray]]:
    arrays = torch_weights.load(path)
    weights: dict[str, Sequence[np.ndarray]] = {
        scope: layers.read_torch_conv(arrays, f'{name}.conv', f'{name}.bn', path, EPSILON)
        for scope, name in CONVOLUTIONS.items()}
    if softmax:
        weights['softmax'] = [get_array(arrays, 'fc.weight', path).T]
    return weights


def _read_graph(path, softmax):
    content = _graph_bytes(path)
    try:
        graph = tf.compat.v1.GraphDef.FromString(content)
    except google.protobuf.message.DecodeError:
        raise UserError(f'{path}: is no readable TensorFlow graph', FOREIGN_WEIGHTS) from None
    nodes = {node.name: node for node in graph.node}
    arrays = {name: node.attr['value'].tensor for name, node in nodes.items() if node.op == 'Const'}
    weights = {}
    for scope in CONVOLUTIONS:
        kernel = _constant(arrays, f'{scope}/conv2d_params', path)
        batch_norm = [_constant(arrays, f'{scope}/batchnorm/{part}', path)
                      for part in ('moving_mean', 'moving_variance', 'beta', 'gamma')]
        attributes = nodes[f'{scope}/batchnorm'].attr if f'{scope}/batchnorm' in nodes else {}
        if 'scale_after_normalization' in attributes and not attributes['scale_after_normalization'].b:
            batch_norm[-1] = np.ones_like(batch_norm[-1])  # The graph does not use its gamma.
        weights[scope] = fold_batch_norm(kernel, batch_norm, EPSILON)
    if softmax:
        weights['softmax'] = [_constant(arrays, 'softmax/weights', path)]
    return weights


def _graph_bytes(path):
    """Read the graph, from its file or from its archive."""
    try:
        if path.endswith('.pb'):
            with open(path, 'rb') as file:
                return file.read()
        with tarfile.open(path, 'r:gz') as archive:
            for count, member in enumerate(archive):
                if count == _MAX_MEMBERS or member.size > _MAX_GRAPH_SIZE:
                    break
                is_graph = member.isfile() and member.name.rsplit('/', 1)[-1] == GRAPH_FILE
                file = archive.extractfile(member) if is_graph else None
                if file is not None:
                    return file.read()
    except OSError as err:
        raise UserError(f'{path}: cannot be read: {err.strerror or err}', FOREIGN_WEIGHTS) from None
    except (tarfile.TarError, EOFError, ValueError, zlib.error) as err:
        raise UserError(f'{path}: is no readable archive ({err})', FOREIGN_WEIGHTS) from None
    raise UserError(f'{path}: holds no {GRAPH_FILE}', FOREIGN_WEIGHTS)


def _constant(tensors, name, path):
    """Value of a constant. Its size is checked first, because a single number can stand for a tensor of any size."""
    tensor = get_array(tensors, name, path)
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    is_too_large = min(shape, default=0) < 0 or np.prod(shape, dtype=object) > _MAX_TENSOR_SIZE
    if tensor.dtype != tf.float32.as_datatype_enum or is_too_large:
        raise UserError(f'{path}: {name}: expected a tensor of numbers, found shape {shape}', FOREIGN_WEIGHTS)
    try:
        return tf.make_ndarray(tensor)
    except ValueError:
        raise UserError(f'{path}: {name}: its numbers are not those of shape {shape}', FOREIGN_WEIGHTS) from None


def _read_pickle(path, softmax):
    arrays = layers.pickled_variables(path)
    last = 'mixed_10/tower_2/conv/conv2d_params'  # No other name ends like this.
    prefix = next((name.removesuffix(last) for name in arrays if name.endswith(last)), '')
    arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    weights = {}
    for scope in CONVOLUTIONS:
        kernel = get_array(arrays, f'{scope}/conv2d_params', path)
        mean, variance, beta = [get_array(arrays, f'{scope}/batchnorm/{part}', path)
                                for part in ('moving_mean', 'moving_variance', 'beta')]
        gamma = f'{scope}/batchnorm/gamma'
        gamma = arrays[gamma] if gamma in arrays else np.ones_like(beta)  # Networks that do not use it have none.
        weights[scope] = fold_batch_norm(kernel, [mean, variance, beta, gamma], EPSILON)
    if softmax:
        weights['softmax'] = [get_array(arrays, 'softmax/weights', path)]
        if 'softmax/biases' in arrays:
            weights['softmax'].append(arrays['softmax/biases'])
    return weights
