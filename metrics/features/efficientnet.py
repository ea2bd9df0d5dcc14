"""EfficientNet-Lite0 (Tan and Le 2019, arXiv:1905.11946; the Lite variant uses ReLU6, and no squeeze-and-excitation).

A trained feature network of 17 MB that comes as a package, for development and tests. It does not measure FID.
"""

from __future__ import annotations

import keras

from dnnlib.pickles import torch_weights
from metrics.features import layers
from metrics.features.layers import conv, layer_name

SIZE = 224
EPSILON = 0.001

# Stages of blocks: (blocks, kernel, stride of the first block, expansion, channels).
STAGES = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320)]


def _blocks():
    """List of (name, kernel, stride, expansion, channels) of every block."""
    blocks = [(kernel, stride if i == 0 else 1, expansion, fmaps)
              for count, kernel, stride, expansion, fmaps in STAGES for i in range(count)]
    return [(f'block{i}', *block) for i, block in enumerate(blocks)]


def build() -> keras.Model:
    """Build the network without weights: prepared images [N, 224, 224, 3] -> features [N, 1280], mean of the pixels."""
    images: layers.KerasTensor = keras.Input([SIZE, SIZE, 3], dtype='float32')
    x = conv(images, 'stem', 32, 3, 2, activation='relu6')
    for name, kernel, stride, expansion, fmaps in _blocks():
        block_input, in_fmaps = x, x.shape[-1]
        if expansion > 1:
            x = conv(x, f'{name}/expand', in_fmaps * expansion, 1, activation='relu6')
        x = keras.layers.DepthwiseConv2D(
            kernel, stride, 'same', data_format='channels_last', activation='relu6', dtype='float32',
            name=layer_name(f'{name}/depthwise'))(x)
        x = conv(x, f'{name}/project', fmaps, 1, activation=None)
        if stride == 1 and in_fmaps == fmaps:
            x = keras.layers.Add(dtype='float32')([x, block_input])
    x = conv(x, 'head', 1280, 1, activation='relu6')
    return keras.Model(images, layers.global_average(x), name='efficientnet_lite0')


def load(path: str) -> layers.FeatureNetwork:
    """Load the network: images of any size, resized to 224 x 224 -> features [N, 1280].

    Pixels become (x - 127) / 128, as in the TensorFlow code that the weights were trained with and converted from.

    Args:
        path: efficientnet-lite0-57934424.pth.

    Raises:
        UserError: The file is damaged or holds another network.
    """
    arrays = torch_weights.load(path)

    def read_layer(conv_name, norm_name, depthwise=False):
        return layers.read_torch_conv(arrays, conv_name, norm_name, path, EPSILON, depthwise)

    weights = {'stem': read_layer('_conv_stem', '_bn0'), 'head': read_layer('_conv_head', '_bn1')}
    for i, (name, _kernel, _stride, expansion, _fmaps) in enumerate(_blocks()):
        block = f'_blocks.{i}'
        if expansion > 1:
            weights[f'{name}/expand'] = read_layer(f'{block}._expand_conv', f'{block}._bn0')
        weights[f'{name}/depthwise'] = read_layer(f'{block}._depthwise_conv', f'{block}._bn1', depthwise=True)
        weights[f'{name}/project'] = read_layer(f'{block}._project_conv', f'{block}._bn2')
    model = build()
    layers.set_weights(model, weights, path)
    return layers.FeatureNetwork('efficientnet_lite0', model, lambda x: (layers.resize(x, SIZE) - 127) / 128)
