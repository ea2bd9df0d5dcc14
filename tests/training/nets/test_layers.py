"""Layers are restored from their configurations, as Keras does it."""

import numpy as np
import pytest
import tensorflow as tf

from custom_ops import conv2d as conv
from training import networks_progan, networks_stylegan, networks_stylegan2
from training.nets import layers, progan_layers

EPILOGUE = dict(
    dlatent_size=5,
    use_styles=True,
    use_noise=True,
    nonlinearity='lrelu',
    use_wscale=True,
    use_pixel_norm=True,
    use_instance_norm=True,
)
IMAGES, W, NOISE, WIDE_NOISE = (2, 4, 4, 3), (2, 5), (2, 1, 4, 4), (2, 1, 8, 8)

# Layer -> shapes that it is built for, shapes of its inputs (images as [N, H, W, C], noise as [N, 1, H, W]).
LAYERS = {
    'Dense': (lambda: layers.Dense('a/Dense0', 4, 'lrelu', lrmul=0.5), [W], [W]),
    'Conv2D': (
        lambda: layers.Conv2D('a/Conv0', 4, 3, act='lrelu', resample_kernel=[1, 3, 3, 1], up=True),
        [IMAGES],
        [IMAGES],
    ),
    'ModulatedConv2D': (
        lambda: layers.ModulatedConv2D('a/Conv', 4, 3, up=True, act='lrelu', resample_kernel=[1, 3, 3, 1]),
        [IMAGES, W],
        [IMAGES, W, WIDE_NOISE],
    ),
    'Const': (lambda: layers.Const('4x4/Const', 4), [], [(2, 3, 5)]),
    'LabelConcat': (lambda: networks_stylegan2.LabelConcat('LabelConcat', 4), [(2, 3)], [W, (2, 3)]),
    'ProGAN Dense': (
        lambda: progan_layers.Dense('Dense0', 4, 'relu', gain=2.0, use_wscale=False, lrmul=0.5),
        [W],
        [W],
    ),
    'ProGAN Conv2D': (
        lambda: progan_layers.Conv2D('a/Conv1_down', 4, 3, 'down', 'lrelu', 2.0, blur_filter=[1, 2, 1]),
        [IMAGES],
        [IMAGES],
    ),
    'LatentBlock': (lambda: networks_progan.LatentBlock('4x4/Dense', 4, 'relu', 2.0, epsilon=1e-8), [W], [W]),
    'NormalizedConv': (
        lambda: networks_progan.NormalizedConv('a/Conv1', 4, 3, act='lrelu', gain=2.0, epsilon=1e-4),
        [IMAGES],
        [IMAGES],
    ),
    'ConstBlock': (lambda: networks_stylegan.ConstBlock('4x4/Const', 4, EPILOGUE), [], [W, NOISE]),
    'DenseBlock': (lambda: networks_stylegan.DenseBlock('4x4/Dense', 4, 2.0, EPILOGUE), [W], [W, NOISE]),
    'SynthesisConv': (
        lambda: networks_stylegan.SynthesisConv(
            'a/Conv0_up', 4, 3, 'up', epilogue=EPILOGUE, gain=2.0, blur_filter=[1, 2, 1]
        ),
        [IMAGES],
        [IMAGES, W, WIDE_NOISE],
    ),
}


def internal(shape):
    return shape if conv.image_format() == 'NHWC' or len(shape) < 4 else (shape[0], shape[3], *shape[1:3])


@pytest.mark.parametrize('name', LAYERS)
def test_a_layer_from_its_configuration_computes_the_same(name):
    make, built_for, input_shapes = LAYERS[name]
    layer = make()
    twin = type(layer).from_config(layer.get_config())
    for each in layer, twin:
        each.build(*(internal(shape) for shape in built_for))
    assert twin.get_config() == layer.get_config() and twin.var_names == layer.var_names
    rnd = np.random.RandomState(0)
    for var_name in layer.var_names:
        value = rnd.randn(*layer.var(var_name).shape)
        layer.var(var_name).assign(value)
        twin.var(var_name).assign(value)
    inputs = [
        tf.constant(rnd.randn(*(shape if shape[1:2] == (1,) else internal(shape))), tf.float32)
        for shape in input_shapes
    ]
    y = layer(*inputs)
    assert np.std(y) > 0
    np.testing.assert_array_equal(twin(*inputs), y)


def test_every_layer_is_in_the_table():
    classes = {type(make()) for make, _, _ in LAYERS.values()}
    for module in layers, progan_layers, networks_progan, networks_stylegan, networks_stylegan2:
        for value in vars(module).values():
            if (
                isinstance(value, type)
                and issubclass(value, layers.ScopedLayer)
                and value not in (layers.ScopedLayer, networks_stylegan.Epilogue)
            ):
                assert value in classes and 'get_config' in vars(value), value
