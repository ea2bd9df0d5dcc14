"""The native ops: the reference form's numbers for every dtype, layout and shape; exact derivatives; their use."""

import functools
import os
import shutil
import subprocess
import textwrap

import numpy as np
import pytest
import tensorflow as tf

import custom_ops
from custom_ops import build_cache, loader
from custom_ops.reference import bias_act_reference, styled_bias_act_reference, upfirdn_reference
from tests import ROOT, forked

TOLERANCES = {'float32': 2e-6, 'float64': 1e-12, 'bfloat16': 1e-2, 'float16': 2e-3}

# (up, down, pads ((top, bottom), (left, right)), taps of the filter or its shape)
RESAMPLING = [
    ((1, 1), (1, 1), ((2, 1), (2, 1)), [1, 3, 3, 1]),
    ((2, 2), (1, 1), ((2, 1), (2, 1)), [1, 3, 3, 1]),
    ((2, 2), (1, 1), ((1, 2), (1, 2)), [1, 3, 3, 1]),
    ((1, 1), (2, 2), ((1, 1), (1, 1)), [1, 3, 3, 1]),
    ((1, 1), (2, 2), ((2, 0), (2, 0)), [1, 3, 3, 1]),
    ((2, 2), (1, 1), ((0, 0), (0, 0)), [1, 1]),
    ((1, 1), (2, 2), ((0, 0), (0, 0)), [1, 1]),
    ((2, 2), (1, 1), ((1, 0), (1, 0)), [1, 1]),
    ((1, 1), (1, 1), ((-2, -1), (-1, -3)), [1, 3, 3, 1]),
    ((2, 2), (1, 1), ((-3, 1), (2, -5)), [1, 3, 3, 1]),
    ((1, 1), (2, 2), ((-2, 2), (3, -3)), [1, 3, 3, 1]),
    ((1, 1), (1, 1), ((7, 9), (8, 8)), [1, 3, 3, 1]),
    ((1, 1), (1, 1), ((3, 3), (2, 2)), (7, 5)),
    ((2, 2), (1, 1), ((3, 2), (3, 2)), (6, 6)),
    ((3, 2), (2, 3), ((4, 3), (1, 2)), (5, 3)),
    ((2, 2), (2, 2), ((2, 1), (2, 1)), [1, 3, 3, 1]),
    ((4, 4), (1, 1), ((5, 3), (5, 3)), (12, 12)),
    ((1, 3), (3, 1), ((2, 2), (2, 2)), (1, 4)),
    ((1, 1), (1, 1), ((20, 20), (20, 20)), (33, 40)),
    # Pads wider than the image, and than the pieces that rows with many channels are computed in.
    ((1, 1), (1, 1), ((2, 1), (50, 40)), [1, 3, 3, 1]),
    ((2, 2), (1, 1), ((2, 1), (40, 50)), [1, 3, 3, 1]),
    ((1, 1), (2, 2), ((1, 1), (60, 60)), [1, 3, 3, 1]),
    ((1, 1), (1, 1), ((1, 2), (50, -48)), [1, 3, 3, 1]),
]
# N, H, W, C: one channel, few, a whole vector, more than that, many; odd sizes, one pixel, nothing at all; two bands,
# of which the last has one row more.
SHAPES = [(2, 16, 16, 32), (1, 7, 9, 3), (3, 5, 33, 1), (1, 9, 8, 16), (2, 6, 5, 48), (1, 1, 1, 4), (1, 17, 70, 144),
          (2, 3, 5, 256), (0, 4, 4, 8), (2, 4, 4, 0), (1, 65, 130, 16)]


@pytest.fixture(scope='module')
def native():
    custom_ops.set_impl('native')
    yield loader.library()
    custom_ops.set_impl(None)


def filter_of(taps, rng):
    if isinstance(taps, list):
        return np.outer(taps, taps).astype(np.float32) / np.sum(taps) ** 2
    return rng.randn(*taps).astype(np.float32)


def out_size(size, up, down, pads, taps):
    return (size * up + sum(pads) - taps) // down + 1 if size * up + sum(pads) >= taps else 0


def out_sizes(shape, up, down, pads, k):
    """Height and width of the result for x [N, H, W, C]; 0 where the filter is larger than the padded image."""
    return [out_size(shape[1 + i], up[i], down[i], pads[i], k.shape[i]) for i in range(2)]


def close(actual, expected, tolerance, what=''):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, what
    atol = tolerance * max(1, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol, err_msg=what)


@pytest.mark.parametrize('dtype', list(TOLERANCES))
def test_upfirdn_equals_the_reference(native, dtype):
    done = 0
    for number, (up, down, pads, taps) in enumerate(RESAMPLING):
        for shape in SHAPES:
            rng = np.random.RandomState(number)
            k = filter_of(taps, rng)
            sizes = out_sizes(shape, up, down, pads, k)
            if not all(sizes):
                continue
            exact = tf.cast(tf.cast(rng.randn(*shape), dtype), tf.float64)  # As the kernel sees it.
            expected = (upfirdn_reference(exact, k, up, down, pads) if 0 not in shape
                        else np.zeros([shape[0], *sizes, shape[3]]))
            flat_pads = [p for pair in pads for p in pair]
            for data_format in ('NHWC', 'NCHW'):
                x = tf.cast(exact, dtype)
                x = tf.transpose(x, [0, 3, 1, 2]) if data_format == 'NCHW' else x
                y = native.stylegan2_upfirdn2d(x, k, flat_pads, up=up, down=down, data_format=data_format)
                y = tf.transpose(y, [0, 2, 3, 1]) if data_format == 'NCHW' else y
                assert y.dtype == dtype
                tolerance = TOLERANCES[dtype] * np.abs(k).sum()
                close(tf.cast(y, tf.float64), expected, tolerance, f'{data_format} {up} {down} {pads} {taps} {shape}')
                done += 1
    assert done > 200


def test_the_example_of_the_kernel(native):
    """The numbers in custom_ops/native/cpu_upfirdn.h."""
    x = tf.reshape(tf.constant([4.0, 8, 12, 16]), [1, 1, 4, 1])
    y = native.stylegan2_upfirdn2d(x, [[1 / 4, 3 / 4, 3 / 4, 1 / 4]], [0, 0, 2, 1], up=[1, 2], down=[1, 1])
    np.testing.assert_array_equal(tf.reshape(y, [-1]), [3, 5, 7, 9, 11, 13, 15, 12])


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_non_temporal_stores_write_the_same_results(native, dtype):
    """Results of 2 MB and more are written with them, and so are rows that are no whole number of vectors."""
    for shape in [(2, 128, 128, 80), (1, 700, 1001, 3), (2, 301, 203, 48)]:
        x = tf.cast(tf.random.stateless_normal(shape, [1, 2]), dtype)
        k = filter_of([1, 3, 3, 1], None)
        for up, down in [(2, 1), (1, 1), (1, 2)]:
            expected = upfirdn_reference(tf.cast(x, tf.float32), k, (up, up), (down, down), ((2, 1), (2, 1)))
            for data_format, order, back in [('NHWC', [0, 1, 2, 3], [0, 1, 2, 3]),
                                             ('NCHW', [0, 3, 1, 2], [0, 2, 3, 1])]:
                y = native.stylegan2_upfirdn2d(tf.transpose(x, order), k, [2, 1, 2, 1], up=[up, up], down=[down, down],
                                               data_format=data_format)
                close(tf.cast(tf.transpose(y, back), tf.float32), expected, TOLERANCES[dtype],
                      f'{shape} {data_format} {up} {down}')


def test_upfirdn_refuses_what_it_cannot_do(native):
    x = tf.zeros([1, 2, 2, 1])
    with pytest.raises(tf.errors.InvalidArgumentError, match='larger than the padded image'):
        native.stylegan2_upfirdn2d(x, tf.ones([5, 5]), [0, 0, 0, 0])
    with pytest.raises(tf.errors.InvalidArgumentError, match='four pads'):
        native.stylegan2_upfirdn2d(x, tf.ones([1, 1]), [0, 0])
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match='at least 1'):
        native.stylegan2_upfirdn2d(x, tf.ones([1, 1]), [0, 0, 0, 0], up=[0, 1])
    with pytest.raises(tf.errors.InvalidArgumentError, match='expected a bias of 1 channels'):
        native.stylegan2_bias_act(x, [1.0, 2.0], axis=3)


def test_shapes_are_known_while_tracing(native):
    @tf.function
    def traced(x):
        y = custom_ops.upsample_2d(x, [1, 3, 3, 1], data_format='NHWC')
        shapes.append(y.shape)
        shapes.append(custom_ops.fused_bias_act(y, tf.zeros([3]), axis=3, act='lrelu').shape)
        return y
    shapes = []
    traced.get_concrete_function(tf.TensorSpec([None, 4, 5, 3]))
    assert [s.as_list() for s in shapes] == [[None, 8, 10, 3]] * 2


@pytest.mark.skipif(shutil.which('g++') is None, reason='needs the C++ compiler g++')
def test_threads_of_the_cpu_kernels_share_no_memory_that_they_write(tmp_path):
    """Under ThreadSanitizer. Without -march=native all stores are plain ones, which it can observe."""
    flags = ['-std=c++17', '-O1', '-g1', '-Wno-psabi', '-fsanitize=thread', f'-I{build_cache.SOURCES}',
             '-isystem', tf.sysconfig.get_include()]
    sources = [*build_cache.SOURCES.glob('cpu_*.cc'), ROOT / 'tests/custom_ops/race_check.cc']
    objects = [str(tmp_path / f'{source.stem}.o') for source in sources]
    for source, compiled in zip(sources, objects, strict=True):
        subprocess.run(['g++', *flags, '-c', str(source), '-o', compiled], check=True)
    program = str(tmp_path / 'race_check')
    subprocess.run(['g++', '-fsanitize=thread', *objects, '-o', program], check=True)
    fault = subprocess.run([program, 'fault'], capture_output=True, text=True)
    if 'unexpected memory mapping' in fault.stderr:
        pytest.skip('ThreadSanitizer does not run with the address space layout of this kernel')
    assert fault.returncode != 0 and 'data race' in fault.stderr
    done = subprocess.run([program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, 'same results\n', '')


# ---- fused_bias_act ----

def test_python_and_cpp_list_the_same_activations(native):
    """In the same order, which tests/custom_ops/test_cuda_kernels.py relies on."""
    with tf.Graph().as_default():
        x, b = tf.zeros([2, 3]), tf.zeros([3])
        for result in (native.stylegan2_bias_act(x, b), native.stylegan2_bias_act_grad(x, b, x, b).dx):
            act = next(attr for attr in result.op.op_def.attr if attr.name == 'act')
            assert [tf.compat.as_str(name) for name in act.allowed_values.list.s] == list(custom_ops.ACTIVATIONS)


@pytest.mark.parametrize('dtype', list(TOLERANCES))
@pytest.mark.parametrize('act', list(custom_ops.ACTIVATIONS))
def test_bias_act_equals_the_reference(native, act, dtype):
    """Values, gradients and the gradients of their squares, where the reference takes them in float64."""
    spec = custom_ops.ACTIVATIONS[act]
    for shape, axis in [((2, 9, 7, 5), 3), ((2, 5, 9, 7), 1), ((3, 600), 1), ((2, 3, 3, 2500), 3), ((4,), 0),
                        ((0, 3), 1), ((20, 64, 64, 3), 3)]:
        rng = np.random.RandomState(3)
        x, b, dy = (tf.cast(tf.cast(rng.randn(*s) * 2, dtype), tf.float64) for s in (shape, [shape[axis]], shape))
        alpha, gain = spec.def_alpha, spec.def_gain

        def gradients(func, x, b, dy):
            with tf.GradientTape() as outer:
                outer.watch([x, b, dy])
                with tf.GradientTape() as inner:
                    inner.watch([x, b])
                    y = func(x, b)
                first = inner.gradient(y, [x, b], dy)
                squares = tf.add_n([tf.reduce_sum(tf.cast(g, tf.float64) ** 2) for g in first])
            return [y, *first, *outer.gradient(squares, [x, b, dy], unconnected_gradients='zero')]
        results = gradients(lambda x, b: custom_ops.fused_bias_act(x, b, axis=axis, act=act),  # noqa: B023
                            *(tf.cast(t, dtype) for t in (x, b, dy)))
        expected = gradients(lambda x, b: bias_act_reference(x, b, axis, act, alpha, gain), x, b, dy)  # noqa: B023
        names = ['y', 'dx', 'db', 'second x', 'second b', 'second dy']
        for what, actual, right in zip(names, results, expected, strict=True):
            if what.startswith('second') and dtype in ('bfloat16', 'float16'):
                continue  # Made of the rounded first ones; compared in the other dtypes.
            assert actual.dtype == dtype
            close(tf.cast(actual, tf.float64), right, TOLERANCES[dtype] * 5, f'{act} {shape} {what}')


@pytest.mark.parametrize('act', list(custom_ops.ACTIVATIONS))
@pytest.mark.parametrize('kwargs', [{'gain': 0.5}, {'gain': -2.0, 'alpha': 0.3}, {'alpha': -0.1},
                                    {'gain': 1e-3, 'alpha': 0.0}])
def test_any_slope_and_gain(native, act, kwargs):
    x = tf.random.stateless_normal([4, 6], [5, 6], dtype=tf.float64)
    b = tf.constant([0.0, 1, -1, 2, 0.5, 0], tf.float64)
    spec = custom_ops.ACTIVATIONS[act]
    alpha, gain = kwargs.get('alpha', spec.def_alpha), kwargs.get('gain', spec.def_gain)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, b])
        y, expected = custom_ops.fused_bias_act(x, b, act=act, **kwargs), bias_act_reference(x, b, 1, act, alpha, gain)
    close(y, expected, 1e-6)  # alpha and gain are float32 in the op.
    for source in (x, b):
        close(tape.gradient(y, source), tape.gradient(expected, source), 1e-6, act)


@pytest.mark.parametrize('act, kwargs', [('linear', {}), ('relu', {}), ('lrelu', {}), ('lrelu', {'gain': -1.0}),
                                         ('swish', {})])
@pytest.mark.parametrize('shape, axis', [((3, 5, 7, 8), 3), ((3, 8, 5, 7), 1)])
def test_clamp(native, act, kwargs, shape, axis):
    """Values, gradients and the gradients of their squares."""
    rng = np.random.RandomState(0)
    x, b, dy = (tf.constant(rng.randn(*s) * 2) for s in (shape, [8], shape))
    spec = custom_ops.ACTIVATIONS[act]
    with tf.GradientTape(persistent=True) as outer:
        outer.watch([x, b, dy])
        with tf.GradientTape(persistent=True) as inner:
            inner.watch([x, b])
            ys = [custom_ops.fused_bias_act(x, b, axis=axis, act=act, clamp=1.5, **kwargs),
                  bias_act_reference(x, b, axis, act, spec.def_alpha, kwargs.get('gain', spec.def_gain), 1.5)]
        firsts = [inner.gradient(y, [x, b], dy) for y in ys]
        squares = [tf.add_n([tf.reduce_sum(g ** 2) for g in first]) for first in firsts]
    seconds = [outer.gradient(square, [x, b, dy], unconnected_gradients='zero') for square in squares]
    clamped = np.abs(ys[1]) == 1.5
    assert 0.2 < clamped.mean() < 0.8 and not np.any(firsts[0][0].numpy()[clamped])
    forms = ([y, *first, *second] for y, first, second in zip(ys, firsts, seconds, strict=True))
    for actual, expected in zip(*forms, strict=True):
        close(actual, expected, 1e-6)  # alpha, gain and clamp are float32 in the op.


@pytest.mark.parametrize('data_format', ['NHWC', 'NCHW'])
@pytest.mark.parametrize('dtype', ['float32', 'float64', 'bfloat16', 'float16'])
@pytest.mark.parametrize('act, clamp', [('lrelu', None), ('lrelu', 0.75), ('linear', 0.75), ('relu', None)])
def test_styled_bias_act_equals_the_reference(native, act, clamp, dtype, data_format):
    for shape, one_noise, without in [
            ((2, 5, 7, 33), False, []), ((3, 4, 4, 8), True, []), ((2, 64, 64, 96), False, []),
            ((1, 2, 1, 2500), False, []), ((0, 4, 4, 8), False, []), ((2, 3, 3, 5), False, ['scale']),
            ((2, 3, 3, 5), False, ['noise']), ((2, 3, 3, 5), True, ['scale', 'b']),
            ((2, 3, 3, 5), False, ['b', 'scale', 'noise'])]:
        if act == 'lrelu' or np.prod(shape) < 10000:  # The large ones once are enough.
            check_styled_bias_act(shape, one_noise, without, act, clamp, dtype, data_format)


def check_styled_bias_act(shape, one_noise, without, act, clamp, dtype, data_format):
    """Values, gradients and the gradients of their squares, where the reference takes them in float64."""
    n, h, w, c = shape
    rng = np.random.RandomState(0)
    shapes = {'x': shape, 'b': [c], 'scale': [n, c], 'noise': [1 if one_noise else n, h, w, 1]}
    inputs = {name: rng.randn(*size).astype(np.float32) for name, size in shapes.items() if name not in without}
    dy = rng.randn(*shape)
    # What all types can tell.
    inputs['x'], dy = (tf.cast(tf.cast(value, dtype), tf.float64) for value in (inputs['x'], dy))
    if data_format == 'NCHW':
        dy = tf.transpose(dy, [0, 3, 1, 2])
        inputs = {name: tf.transpose(x, [0, 3, 1, 2]) if name in ('x', 'noise') else x for name, x in inputs.items()}

    def gradients(func, x_dtype, other_dtype):
        values = {name: tf.cast(value, x_dtype if name == 'x' else other_dtype) for name, value in inputs.items()}
        with tf.GradientTape() as outer:
            outer.watch(values)
            with tf.GradientTape() as inner:
                inner.watch(values)
                y = func(**values)
            first = inner.gradient(y, values, tf.cast(dy, x_dtype))
            squares = tf.add_n([tf.reduce_sum(tf.cast(g, tf.float64) ** 2) for g in first.values()])
        second = outer.gradient(squares, values, unconnected_gradients='zero')
        return {'y': y, **first, **{f'second {name}': value for name, value in second.items()}}

    def op(**values):
        return custom_ops.styled_bias_act(**values, act=act, clamp=clamp, data_format=data_format)

    def reference(x, b=None, scale=None, noise=None):
        return styled_bias_act_reference(x, b, scale, noise, act, None, clamp, data_format)
    actual = gradients(op, dtype, tf.float32)
    expected = gradients(reference, tf.float64, tf.float64)
    assert actual['y'].dtype == actual['x'].dtype == dtype
    if dtype in ('float32', 'float64'):
        for name in expected:
            close(tf.cast(actual[name], tf.float64), expected[name], 2e-5, f'{name} {shape} without {without}')
        if dtype == 'float64':  # The gain is float32.
            close(actual['y'], expected['y'], 1e-7, 'y')
            close(actual['x'], expected['x'], 1e-7, 'x')
    else:  # Whether a rounded value was clamped may differ, and gradients with it.
        close(tf.cast(actual['y'], tf.float64), expected['y'], TOLERANCES[dtype], 'y')
        if clamp is None:
            close(tf.cast(actual['x'], tf.float64), expected['x'], 3 * TOLERANCES[dtype], 'x')
            for name in {'b', 'scale', 'noise'} & expected.keys():  # Sums in float32 of exact numbers.
                close(actual[name], expected[name], 2e-5, name)


def test_styled_bias_act_refuses_what_does_not_fit(native):
    for data_format in ('NHWC', 'NCHW'):  # Four channels, or two.
        for kwargs in ({'b': tf.zeros([3])}, {'scale': tf.zeros([1, 5])}, {'noise': tf.zeros([3, 2, 2, 1])}):
            with pytest.raises(tf.errors.InvalidArgumentError, match='styled_bias_act: expected'):
                custom_ops.styled_bias_act(tf.zeros([2, 2, 2, 4]), **kwargs, data_format=data_format)
    x, none = tf.zeros([2, 2, 2, 4]), tf.zeros([0])
    for y, scale in ((tf.zeros([2, 2, 2, 3]), none), (x, tf.zeros([2, 4]))):
        with pytest.raises(tf.errors.InvalidArgumentError, match='styled_bias_act: expected x, y and dy of the same'):
            native.stylegan2_styled_bias_act_grad(x, y, tf.zeros([2, 2, 2, 3]), scale, none, none)


def test_what_is_not_a_number_stays_so(native):
    x = tf.constant([np.nan, np.inf, -np.inf, 0.0])
    for act in custom_ops.ACTIVATIONS:
        y = custom_ops.fused_bias_act(x[:, tf.newaxis], act=act)[:, 0].numpy()
        expected = bias_act_reference(x, None, 0, act, 0.2, custom_ops.ACTIVATIONS[act].def_gain).numpy()
        np.testing.assert_allclose(y, expected, rtol=1e-6, err_msg=act)
    y = tf.cast(custom_ops.fused_bias_act(tf.cast(x[:, tf.newaxis], tf.bfloat16)), tf.float32).numpy()[:, 0]
    np.testing.assert_array_equal(y, x)
    y = custom_ops.fused_bias_act(x[:, tf.newaxis], clamp=256.0).numpy()[:, 0]
    np.testing.assert_array_equal(y, [np.nan, 256, -256, 0])
    for data_format, shape in (('NHWC', [1, 2, 2, 1]), ('NCHW', [1, 1, 2, 2])):
        y = custom_ops.styled_bias_act(tf.reshape(x, shape), clamp=256.0, data_format=data_format).numpy().ravel()
        np.testing.assert_array_equal(y, [np.nan, 256, -256, 0])


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('data_format', ['NHWC', 'NCHW'])
def test_resampling_spreads_what_is_not_a_number_as_far_as_the_filter(native, data_format, dtype):
    x = np.ones([1, 12, 70, 32], np.float32)
    x[0, 5, 20, 3], x[0, 8, 64, 7] = np.nan, np.inf
    order, back = ([0, 3, 1, 2], [0, 2, 3, 1]) if data_format == 'NCHW' else ([0, 1, 2, 3], [0, 1, 2, 3])
    k = filter_of([1, 3, 3, 1], None)
    for up, down in [(2, 1), (1, 1), (1, 2)]:
        images = tf.cast(x.transpose(order), dtype)
        y = native.stylegan2_upfirdn2d(images, k, [2, 1, 2, 1], up=[up, up], down=[down, down], data_format=data_format)
        expected = upfirdn_reference(tf.constant(x), k, (up, up), (down, down), ((2, 1), (2, 1))).numpy()
        assert 0 < np.isnan(expected).sum() < expected.size / 10
        np.testing.assert_array_equal(np.isnan(tf.cast(y, tf.float32).numpy().transpose(back)), np.isnan(expected))


def test_gradient_of_a_bias_alone_is_dy_itself_which_stays_as_it_is(native):
    @tf.function
    def gradients(dy):
        dy = dy + 0  # A buffer of its own, which ops may write into.
        dx, db = native.stylegan2_bias_act_grad(dy, tf.zeros([0]), dy, tf.zeros([3]), axis=1, act='linear')
        return dx, db, tf.nn.relu(dx), dy
    for shape in ((5, 3), (5, 3, 7), (40000, 3), (0, 3)):
        values = np.random.RandomState(0).randn(*shape).astype(np.float32)
        dx, db, changed, dy = gradients(tf.constant(values))
        np.testing.assert_array_equal(dx, values)
        np.testing.assert_array_equal(dy, values)
        np.testing.assert_array_equal(changed, np.maximum(values, 0))
        np.testing.assert_allclose(db, values.sum((0, *range(2, len(shape))), dtype=np.float64), rtol=1e-5, atol=1e-4)


# ---- Derivatives ----

def check_derivatives(func, inputs):
    """Directional derivatives of order one to three in float64, each against differences of the one below."""
    rng = np.random.RandomState(8)
    directions = [[tf.constant(rng.randn(*x.shape)) for x in inputs] for _ in range(3)]

    def along(level, point):
        if level == 0:
            return tf.reduce_sum(tf.sin(tf.cast(func(*point), tf.float64)))  # Its own derivatives do not vanish.
        with tf.GradientTape() as tape:
            tape.watch(point)
            value = along(level - 1, point)
        grads = tape.gradient(value, point, unconnected_gradients='zero')
        return tf.add_n([tf.reduce_sum(g * d) for g, d in zip(grads, directions[level - 1], strict=True)])
    for level in (1, 2, 3):
        step = 1e-5
        pairs = list(zip(inputs, directions[level - 1], strict=True))
        ends = [along(level - 1, [x + sign * step * d for x, d in pairs]) for sign in (1, -1)]
        expected, actual = float(ends[0] - ends[1]) / (2 * step), float(along(level, list(inputs)))
        what = f'order {level}: {actual}, by differences {expected}'
        assert abs(actual - expected) <= 1e-5 * max(1, abs(expected)), what


@pytest.mark.parametrize('up, down, pads, taps', RESAMPLING[:18])
def test_derivatives_of_upfirdn(native, up, down, pads, taps):
    k = filter_of(taps, np.random.RandomState(0))
    x = tf.constant(np.random.RandomState(1).randn(1, 9, 10, 2))
    flat_pads = [p for pair in pads for p in pair]

    def op(data_format, x):
        x = x if data_format == 'NHWC' else tf.transpose(x, [0, 3, 1, 2])
        return native.stylegan2_upfirdn2d(x, k, flat_pads, up=up, down=down, data_format=data_format)
    for data_format in ('NHWC', 'NCHW'):
        check_derivatives(functools.partial(op, data_format), [x])


@pytest.mark.parametrize('act', list(custom_ops.ACTIVATIONS))
def test_derivatives_of_bias_act(native, act):
    rng = np.random.RandomState(2)
    x, b = tf.constant(rng.randn(3, 4, 5)), tf.constant(rng.randn(4))
    check_derivatives(lambda x, b: custom_ops.fused_bias_act(x, b, axis=1, act=act), [x, b])


@pytest.mark.parametrize('data_format', ['NHWC', 'NCHW'])
def test_third_derivatives_of_styled_bias_act(native, data_format):
    """Of a sum of sines, by chains of both forms: the gradient of the gradient is computed by the same two ops."""
    rng = np.random.RandomState(3)
    shapes = {'x': [2, 3, 4, 5], 'scale': [2, 5], 'noise': [1, 3, 4, 1], 'b': [5]}
    if data_format == 'NCHW':
        shapes.update(x=[2, 5, 3, 4], noise=[1, 1, 3, 4])
    values = {name: tf.constant(rng.randn(*shape), tf.float32) for name, shape in shapes.items()}
    directions = [{name: tf.constant(rng.randn(*shape), tf.float32) for name, shape in shapes.items()}
                  for _ in range(3)]

    def along(func, level):
        if level == 0:
            y = func(values['x'], *(values[name] for name in ('b', 'scale', 'noise')))
            return tf.reduce_sum(tf.sin(y))
        with tf.GradientTape() as tape:
            tape.watch(values)
            value = along(func, level - 1)
        grads = tape.gradient(value, values)
        return tf.add_n([tf.reduce_sum(grads[name] * directions[level - 1][name]) for name in shapes])
    for level in (1, 2, 3):
        actual = along(lambda *args: custom_ops.styled_bias_act(*args, 'lrelu', 1.0, None, data_format), level)
        expected = along(lambda *args: styled_bias_act_reference(*args, 'lrelu', 1.0, None, data_format), level)
        assert abs(actual - expected) <= 1e-4 * abs(expected), level

# ---- Use ----

def run_script(script):
    done = forked.run(textwrap.dedent(script), cwd=ROOT, env={**os.environ, 'STYLEGAN2_OPS': 'native'})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_two_devices(native):
    """Replicas of MirroredStrategy run the ops and sum their gradients."""
    out = run_script('''
        import tensorflow as tf
        cpu = tf.config.list_physical_devices('CPU')[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        import custom_ops
        strategy = tf.distribute.MirroredStrategy(['/CPU:0', '/CPU:1'])
        with strategy.scope():
            w = tf.Variable(tf.ones([3]))
        x = tf.random.stateless_normal([4, 8, 8, 3], [0, 1])
        def step(x):
            with tf.GradientTape() as tape:
                y = custom_ops.upsample_2d(x, [1, 3, 3, 1], data_format='NHWC')
                y = custom_ops.fused_bias_act(y, w, axis=3, act='lrelu')
                loss = tf.reduce_sum(y ** 2)
            return tape.gradient(loss, w)
        half = lambda ctx: x[2 * ctx.replica_id_in_sync_group:][:2]
        data = strategy.experimental_distribute_values_from_function(half)
        total = strategy.reduce('SUM', tf.function(lambda: strategy.run(step, [data]))(), axis=None)
        print(float(tf.reduce_max(abs(total - step(x)) / abs(step(x)))))
    ''')
    assert float(out.split()[-1]) < 1e-5


def test_saved_model(native, tmp_path):
    """A saved model with native ops opens in a process that has loaded the library and nothing else of the project."""
    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3])])
        def __call__(self, x):
            y = custom_ops.downsample_2d(x, [1, 3, 3, 1], data_format='NHWC')
            return custom_ops.fused_bias_act(y, tf.ones([3]), axis=3, act='lrelu')
    x = tf.random.stateless_normal([2, 8, 8, 3], [0, 1])
    expected = Model()(x)
    tf.saved_model.save(Model(), str(tmp_path / 'model'))
    from custom_ops import build
    np.save(tmp_path / 'y.npy', expected)
    run_script(f'''
        import numpy as np, sys, tensorflow as tf
        tf.load_op_library({str(build.build())!r})
        y = tf.saved_model.load({str(tmp_path / 'model')!r})(tf.random.stateless_normal([2, 8, 8, 3], [0, 1]))
        np.testing.assert_array_equal(y, np.load({str(tmp_path / 'y.npy')!r}))
        assert 'custom_ops' not in sys.modules
    ''')


def test_results_do_not_depend_on_the_number_of_threads(native, tmp_path):
    script = '''
        import numpy as np, sys, tensorflow as tf
        tf.config.threading.set_intra_op_parallelism_threads({threads})
        import custom_ops
        x = tf.random.stateless_normal([4, 64, 64, 48], [0, 1])
        with tf.GradientTape() as tape:
            b = tf.zeros([48]); tape.watch(b)
            y = custom_ops.fused_bias_act(x, b, axis=3, act='swish')
            y = custom_ops.upsample_2d(y, [1, 3, 3, 1], data_format='NHWC')
        np.savez({path!r}, y=y, db=tape.gradient(y, b))
    '''
    results = []
    for threads in (1, 2):
        path = str(tmp_path / f'{threads}.npz')
        run_script(script.format(threads=threads, path=path))
        results.append(dict(np.load(path)))
    for key in ('y', 'db'):
        np.testing.assert_array_equal(results[0][key], results[1][key])


@pytest.mark.parametrize('act', ['tanh', 'sigmoid', 'elu', 'selu', 'softplus', 'swish'])
def test_results_do_not_depend_on_where_the_memory_lies(native, act):
    """Many small results in turn, so that the buffers of the op get many different addresses."""
    inputs = {n: tf.random.stateless_normal([1, n], [0, n]) for n in range(9, 41)}
    first = {n: custom_ops.fused_bias_act(x, act=act).numpy() for n, x in inputs.items()}
    for _ in range(5):
        for n, x in inputs.items():
            np.testing.assert_array_equal(custom_ops.fused_bias_act(x, act=act), first[n])


def test_denormals_are_kept():
    """Threads started before and after loading the library keep denormals. TensorFlow flushes them in its own."""
    out = run_script('''
        import concurrent.futures, numpy as np
        pool = concurrent.futures.ThreadPoolExecutor(1)
        product = lambda: np.float32(1e-38) * np.float32(0.1)
        before = pool.submit(product).result()
        import custom_ops
        custom_ops.impl_report()
        custom_ops.fused_bias_act(np.ones([2, 3], np.float32), act='tanh')
        after = concurrent.futures.ThreadPoolExecutor(1).submit(product).result()
        print(before, product(), pool.submit(product).result(), after)
    ''')
    assert len(out.split()) == 4 and all(float(value) > 0 for value in out.split())
    assert np.float32(1e-38) * np.float32(0.1) != 0
