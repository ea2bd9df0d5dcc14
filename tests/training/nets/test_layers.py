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
        [IMAGES, (2, 3), (2, 4), WIDE_NOISE],
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


# ---- Styles ----

def modulated_layers():
    """Convolutions of two shapes, one of them twice, and a layer without demodulation, with random weights."""
    rnd = np.random.RandomState(0)
    found = [layers.ModulatedConv2D('8x8/Conv0_up', 4, 3, up=True), layers.ModulatedConv2D('8x8/Conv1', 6, 3),
             layers.ModulatedConv2D('8x8/ToRGB', 2, 1, demodulate=False),
             layers.ModulatedConv2D('16x16/Conv0_up', 4, 3, up=True)]
    for layer, fmaps in zip(found, (3, 4, 6, 3), strict=True):
        layer.build(internal((2, 4, 4, fmaps)), (2, 5))
        for name in layer.var_names:
            layer.var(name).assign(rnd.randn(*layer.var(name).shape))
    return found, [tf.constant(rnd.randn(2, 5), tf.float32) for _ in found]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_styles_and_demodulation_follow_the_equations(dtype):
    """Equations 1 and 3 of StyleGAN2 in float64. In float16, the maxima of styles and weights are divided by before."""
    found, dlatents = modulated_layers()
    for layer, w, (style, demodulation) in zip(
            found, dlatents, layers.modulate(found, dlatents, [tf.as_dtype(dtype)] * 4), strict=True):
        weight, mod_weight, mod_bias = (np.asarray(x, np.float64) for x in (
            layer.weight, layer.mod_weight, layer.mod_bias))
        coef = 1 / np.sqrt(np.prod(weight.shape[:-1]))
        s = (w.numpy() @ mod_weight / np.sqrt(5) + mod_bias + 1)
        if dtype == 'float16' and layer.demodulate:
            s /= abs(s).max(axis=1, keepdims=True)
            weight /= abs(weight).max(axis=(0, 1, 2))
        np.testing.assert_allclose(style, s * coef, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(layer.unscaled_weight(tf.as_dtype(dtype)), weight, rtol=1e-6)
        if layer.demodulate:
            modulated = weight * coef * s[:, np.newaxis, np.newaxis, :, np.newaxis]
            np.testing.assert_allclose(demodulation, 1 / np.sqrt(np.sum(modulated ** 2, axis=(1, 2, 3)) + 1e-8),
                                       rtol=1e-5)
        else:
            assert demodulation is None


def test_gradients_of_styles_and_demodulation_are_those_of_each_layer_alone():
    """Up to second order, as path length regularization needs them."""
    def gradients(modulate):
        found, dlatents = modulated_layers()
        variables = [layer.var(name) for layer in found for name in ('weight', 'mod_weight', 'mod_bias')]
        variables = [tf.convert_to_tensor(getattr(var, 'value', var)) for var in variables]
        for layer, weight, mod_weight, mod_bias in zip(found, *(variables[i::3] for i in range(3)), strict=True):
            layer.weight, layer.mod_weight, layer.mod_bias = weight, mod_weight, mod_bias
        with tf.GradientTape() as outer:
            outer.watch(variables)
            with tf.GradientTape() as tape:
                tape.watch(dlatents)
                total = sum(tf.reduce_sum(tf.sin(x)) for pair in modulate(found, dlatents)
                            for x in pair if x is not None)
            total += sum(tf.reduce_sum(tf.square(x)) for x in tape.gradient(total, dlatents))
        return outer.gradient(total, variables, unconnected_gradients='zero')

    def one_by_one(found, dlatents):
        for layer, w in zip(found, dlatents, strict=True):
            style = (w @ (layer.mod_weight * layer.mod_coef) + layer.mod_bias + 1) * layer.coef
            squares = tf.square(style) @ tf.reduce_sum(tf.square(layer.weight), [0, 1])
            yield style, tf.math.rsqrt(squares + 1e-8) if layer.demodulate else None

    expected = gradients(one_by_one)
    for x, y in zip(gradients(lambda *args: layers.modulate(*args, [tf.float32] * 4)), expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * np.abs(y).max())


def test_layers_of_equal_shape_share_their_operations():
    def types(times):
        found, dlatents = modulated_layers()
        function = tf.function(lambda *w: layers.modulate(found * times, w * times, [tf.float32] * 4 * times))
        return [op.type for op in function.get_concrete_function(*dlatents).graph.get_operations()]

    for kind in ('BatchMatMulV2', 'Rsqrt', 'AddV2'):
        assert types(2).count(kind) == types(3).count(kind) > 0
