"""EfficientNet-Lite0 (Tan and Le 2019, arXiv:1905.11946; the Lite form has no squeeze-and-excitation and uses ReLU6).

A real feature network of 17 MB that comes as a package, for development and tests. What is measured with it is not FID.
"""

import keras

from dnnlib.pickles import torch_weights
from metrics.features.layers import FeatureNetwork, conv, fold_batch_norm, global_average, layer_name, resize, set_weights, take

SIZE = 224
EPSILON = 0.001

# Stages of blocks: (blocks, kernel, stride of the first, expansion, channels).
STAGES = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]


def _blocks():
    """(name, kernel, stride, expansion, channels) of every block."""
    blocks = [(kernel, stride if i == 0 else 1, expansion, fmaps)
              for count, kernel, stride, expansion, fmaps in STAGES for i in range(count)]
    return [(f'block{i}', *block) for i, block in enumerate(blocks)]


def build():
    """The network without weights: prepared images [N, 224, 224, 3] -> features [N, 1280], averaged over the pixels."""
    images = keras.Input([SIZE, SIZE, 3], dtype='float32')
    x = conv(images, 'stem', 32, 3, 2, activation='relu6')
    for name, kernel, stride, expansion, fmaps in _blocks():
        block_input, in_fmaps = x, x.shape[-1]
        if expansion > 1:
            x = conv(x, f'{name}/expand', in_fmaps * expansion, 1, activation='relu6')
        x = keras.layers.DepthwiseConv2D(kernel, stride, 'same', data_format='channels_last', activation='relu6', dtype='float32',
                                         name=layer_name(f'{name}/depthwise'))(x)
        x = conv(x, f'{name}/project', fmaps, 1, activation=None)
        if stride == 1 and in_fmaps == fmaps:
            x = keras.layers.Add(dtype='float32')([x, block_input])
    x = conv(x, 'head', 1280, 1, activation='relu6')
    return keras.Model(images, global_average(x), name='efficientnet_lite0')


def load(path):
    """The network with weights from efficientnet-lite0-57934424.pth: images of any size, resized to 224 x 224 -> [N, 1280].

    Pixels become (x - 127) / 128, as in the TensorFlow code that the weights were trained and converted from.
    """
    arrays = torch_weights.load(path)

    def layer(conv_name, norm_name, depthwise=False):
        kernel, *normalisation = [take(arrays, name, path) for name in (
            f'{conv_name}.weight', *(f'{norm_name}.{part}' for part in ('running_mean', 'running_var', 'bias', 'weight')))]
        kernel = kernel.transpose(2, 3, 0, 1) if depthwise else kernel.transpose(2, 3, 1, 0)  # [kh, kw, C, 1], [kh, kw, in, out]
        return fold_batch_norm(kernel, *normalisation, EPSILON, channels_axis=2 if depthwise else 3)

    weights = {'stem': layer('_conv_stem', '_bn0'), 'head': layer('_conv_head', '_bn1')}
    for i, (name, _kernel, _stride, expansion, _fmaps) in enumerate(_blocks()):
        if expansion > 1:
            weights[f'{name}/expand'] = layer(f'_blocks.{i}._expand_conv', f'_blocks.{i}._bn0')
        weights[f'{name}/depthwise'] = layer(f'_blocks.{i}._depthwise_conv', f'_blocks.{i}._bn1', depthwise=True)
        weights[f'{name}/project'] = layer(f'_blocks.{i}._project_conv', f'_blocks.{i}._bn2')
    model = build()
    set_weights(model, weights, path)
    return FeatureNetwork('efficientnet_lite0', model, lambda x: (resize(x, SIZE) - 127) / 128)
