"""upfirdn_2d, fused_bias_act and what is built from them: values, first and second gradients."""

import os

import numpy as np
import pytest
import tensorflow as tf

import custom_ops
from custom_ops import conv2d
from dnnlib.tflib.tfutil import has_gpu
from tests.golden import GOLDEN, assert_close, load_json, load_npz

OP_FILES = sorted(path.stem for path in GOLDEN.glob('ops/*.json') if (GOLDEN / 'ops' / f'{path.stem}.npz').exists())


def value_and_gradients(op, inputs, ct, kwargs):
    """y, d sum(y * ct) / d inputs, and the gradients of the sum of their squares with respect to inputs and ct."""
    sources = [*inputs, ct]
    with tf.GradientTape() as outer:
        outer.watch(sources)
        with tf.GradientTape() as inner:
            inner.watch(inputs)
            y = getattr(custom_ops, op)(*inputs, **kwargs)
            total = tf.reduce_sum(y * ct)
        first = inner.gradient(total, inputs)
        squares = tf.add_n([tf.reduce_sum(g ** 2) for g in first])
    second = outer.gradient(squares, sources, unconnected_gradients='zero')
    return y, first, second


@pytest.mark.golden
@pytest.mark.parametrize('mode', ['eager', 'graph'])
@pytest.mark.parametrize('name', OP_FILES)
def test_golden_values_and_gradients(name, mode, impl):
    data = load_npz(f'ops/{name}.npz')
    for case in load_json(f'ops/{name}.json'):
        key, kwargs = case['key'], {**case['kwargs']}
        kwargs.pop('kernel', None)
        inputs = [tf.constant(data[f'{key}/{i}']) for i in case['inputs']]
        what = f'{name} {key} {case["op"]} {kwargs}'
        run = tf.function(value_and_gradients, autograph=False) if mode == 'graph' else value_and_gradients
        y, first, second = run(case['op'], inputs, tf.constant(data[f'{key}/ct']), kwargs)
        assert_close(y, data[f'{key}/y'], 1e-5, what)
        for i, grad in zip(case['inputs'], first, strict=True):
            assert_close(grad, data[f'{key}/grad_{i}'], 5e-5, f'{what} grad_{i}')
        for i, grad in zip([*case['inputs'], 'ct'], second, strict=True):
            assert_close(grad, data[f'{key}/grad2_{i}'], 5e-5, f'{what} grad2_{i}')


@pytest.mark.golden
def test_golden_activation_table():
    table = load_json('ops/activation_funcs.json')
    assert set(table) == set(custom_ops.ACTIVATIONS)
    for name, row in table.items():
        assert custom_ops.ACTIVATIONS[name].def_alpha == row['def_alpha']
        assert custom_ops.ACTIVATIONS[name].def_gain == row['def_gain']


def upfirdn_by_hand(x, k, upx, upy, downx, downy, padx0, padx1, pady0, pady1):
    """The definition, sample by sample."""
    n, h, w, c = x.shape
    wide = np.zeros([n, h * upy, w * upx, c])
    wide[:, ::upy, ::upx] = x
    wide = np.pad(wide, [[0, 0], [max(pady0, 0), max(pady1, 0)], [max(padx0, 0), max(padx1, 0)], [0, 0]])
    wide = wide[:, max(-pady0, 0):wide.shape[1] - max(-pady1, 0), max(-padx0, 0):wide.shape[2] - max(-padx1, 0)]
    kh, kw = k.shape
    rows, cols = range(0, wide.shape[1] - kh + 1, downy), range(0, wide.shape[2] - kw + 1, downx)
    return np.stack(
        [
            np.stack([np.einsum('nhwc,hw->nc', wide[:, r : r + kh, q : q + kw], k[::-1, ::-1]) for q in cols], 1)
            for r in rows
        ],
        1,
    )


@pytest.mark.parametrize('seed', range(12))
def test_upfirdn_is_its_definition(seed, impl):
    rng = np.random.RandomState(seed)
    k = rng.randn(rng.randint(1, 4), rng.randint(1, 4))
    x = rng.randn(2, rng.randint(5, 9), rng.randint(5, 9), 3)
    kwargs = {name: int(rng.randint(1, 4)) for name in ('upx', 'upy', 'downx', 'downy')}
    kwargs.update({name: int(rng.randint(-1, 4)) for name in ('padx0', 'padx1', 'pady0', 'pady1')})
    expected = upfirdn_by_hand(x, k.astype(np.float32), **kwargs)
    assert_close(custom_ops.upfirdn_2d(tf.constant(x), k, **kwargs), expected, 1e-6, str(kwargs))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, None], tf.float64)])
    def unknown_shape(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = custom_ops.upfirdn_2d(x, k, **kwargs)
        return y, tape.gradient(y, x)
    y, grad = unknown_shape(x)
    assert_close(y, expected, 1e-6, f'unknown shape {kwargs}')
    # The operation is linear: sum(y) = sum(x * grad).
    np.testing.assert_allclose(np.sum(x * grad), expected.sum(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('op', ['upsample_2d', 'downsample_2d'])
def test_resampling_keeps_the_mean(op):
    x = tf.ones([1, 8, 8, 2])
    y = getattr(custom_ops, op)(x, k=[1, 3, 3, 1], data_format='NHWC').numpy()
    np.testing.assert_allclose(y[:, 2:-2, 2:-2], 1, rtol=1e-6)


@pytest.mark.parametrize('kwargs, expected', [
    (dict(act='gelu'), "expected one of .*received 'gelu'"),
    (dict(b=tf.zeros([4])), r'expected b of shape \[3\]'),
])
def test_fused_bias_act_refuses(kwargs, expected):
    with pytest.raises(ValueError, match=expected):
        custom_ops.fused_bias_act(tf.zeros([2, 3]), **kwargs)


@pytest.mark.parametrize('call, expected', [
    (lambda x: custom_ops.upfirdn_2d(x, [1.0, 2.0]), r'expected a filter \[kh, kw\]'),
    (lambda x: custom_ops.upfirdn_2d(x[0], [[1.0]]), 'expected x with four axes'),
    (lambda x: custom_ops.upfirdn_2d(x, [[1.0]], upx=0), 'at least 1'),
    (lambda x: custom_ops.filter_2d(x, [1, -1]), 'sum to zero'),
    (lambda x: custom_ops.filter_2d(x, np.ones([2, 3])), r'\[size, size\]'),
])
def test_upfirdn_refuses(call, expected):
    with pytest.raises(ValueError, match=expected):
        call(tf.zeros([1, 4, 4, 2]))


# ---- Channels first on a CPU ----

NCHW_OPS = {
    'upsample_conv_2d': lambda x, w: custom_ops.upsample_conv_2d(x, w, k=[1, 3, 3, 1]),
    'conv_downsample_2d': lambda x, w: custom_ops.conv_downsample_2d(x, w, k=[1, 3, 3, 1]),
    'conv2d': lambda x, w: conv2d.conv2d(x, w, data_format='NCHW'),
    'conv2d_transpose': lambda x, w: conv2d.conv2d_transpose(x, w, 2, data_format='NCHW'),
}


def graph_ops(graph_def):
    """All nodes of a graph and of the functions in it."""
    return [*graph_def.node, *(node for function in graph_def.library.function for node in function.node_def)]


def value_and_two_gradients(op, x, w):
    with tf.GradientTape() as outer:
        outer.watch([x, w])
        with tf.GradientTape() as inner:
            inner.watch([x, w])
            y = NCHW_OPS[op](x, w)
        first = inner.gradient(y, [x, w], tf.sin(y))
        total = tf.add_n([tf.reduce_sum(g ** 2) for g in first])
    return [y, *first, *outer.gradient(total, [x, w])]


@pytest.mark.parametrize('mode', ['eager', 'graph'])
@pytest.mark.parametrize('op', NCHW_OPS)
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_channels_first_on_a_cpu_to_second_gradients(op, dtype, mode):
    rng = np.random.RandomState(1)
    x, w = tf.constant(rng.randn(2, 3, 6, 8), dtype), tf.constant(rng.randn(3, 3, 3, 4), dtype)
    run = tf.function(value_and_two_gradients, autograph=False) if mode == 'graph' else value_and_two_gradients
    with tf.device('/CPU:0'):
        actual = run(op, x, w)
        expected = value_and_two_gradients(op, *(tf.cast(a, tf.float64) for a in (x, w)))
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        assert_close(a, b, 1e-5 if dtype == 'float32' else 1e-12, op)


@pytest.mark.parametrize('op', NCHW_OPS)
def test_no_channels_first_convolution_reaches_a_cpu_that_has_none(op, monkeypatch):
    monkeypatch.setattr(conv2d, '_cpu_convolves', lambda data_format, dtype: data_format == 'NHWC')
    specs = tf.TensorSpec([2, 3, 6, 8]), tf.TensorSpec([3, 3, 3, 4])
    traced = tf.function(lambda x, w: value_and_two_gradients(op, x, w), autograph=False).get_concrete_function(*specs)
    formats = [
        node.attr['data_format'].s for node in graph_ops(traced.graph.as_graph_def()) if node.op.startswith('Conv2D')
    ]
    assert len(formats) >= 3 and set(formats) == {b'NHWC'}


def test_what_the_cpu_can_do_is_tried_and_not_guessed():
    x, w = tf.ones([1, 2, 4, 4]), tf.ones([3, 3, 2, 2])
    with tf.device('/CPU:0'), tf.GradientTape() as tape:
        tape.watch(x)
        try:
            tape.gradient(tf.nn.conv2d(x, w, 1, 'SAME', 'NCHW'), x)
            works = True
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            works = False
    assert conv2d._cpu_convolves('NCHW', tf.float32) == works
    assert not conv2d._cpu_convolves('NCHW', tf.float64)  # No CPU kernel of TensorFlow takes this one.
    assert conv2d._cpu_convolves('NHWC', tf.float64)


@pytest.mark.parametrize('data_format', ['NHWC', 'NCHW'])
@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_half_precision_is_computed_in_single_where_the_cpu_has_nothing_else(dtype, data_format, monkeypatch):
    rng = np.random.RandomState(1)
    x = tf.cast(rng.randn(*([2, 4, 6, 8] if data_format == 'NCHW' else [2, 6, 8, 4])), dtype)
    w = tf.cast(rng.randn(3, 3, 4, 4), dtype)
    ways = {
        'native': conv2d._cpu_convolves,
        'single': lambda data_format, dtype: (data_format, dtype) == ('NHWC', tf.float32),
    }
    results = {}
    for name, way in ways.items():
        monkeypatch.setattr(conv2d, '_cpu_convolves', way)
        y = conv2d.conv2d_transpose(
            conv2d.conv2d(x, w, 2, data_format=data_format), w, 2, 'SAME', data_format=data_format
        )
        assert y.dtype == dtype and y.shape == x.shape
        results[name] = tf.cast(y, tf.float32)
    assert_close(results['single'], results['native'], 2e-2 if dtype == 'bfloat16' else 3e-3)


@pytest.mark.parametrize('traced', [False, True])
def test_on_a_machine_with_a_gpu_the_device_in_scope_counts(traced, monkeypatch):
    monkeypatch.setattr(tf.config, 'get_visible_devices', lambda kind=None: ['a GPU'])
    found = {}

    def ask():
        found['as called'] = conv2d._on_cpu()
        for device in ('CPU', 'GPU'):
            with tf.device(f'/{device}:0'):
                found[device] = (
                    conv2d._on_cpu() if traced or device == 'CPU' else None
                )  # There is no GPU here to put an eager tensor on.

    with tf.device('/CPU:0'):
        tf.function(ask, autograph=False).get_concrete_function() if traced else ask()
    assert found == {'as called': True, 'CPU': True, 'GPU': False if traced else None}


def test_layout_can_be_forced_and_defaults_to_the_device(monkeypatch):
    forced = os.environ.get('STYLEGAN2_TEST_LAYOUT')  # By `make test-layout`, also for the tests that follow.
    assert conv2d.image_format() == (forced or ('NCHW' if has_gpu() else 'NHWC'))
    monkeypatch.setattr(conv2d, '_forced_format', None)
    x = tf.random.normal([2, 3, 4, 5])
    for name, axis in [('NHWC', 3), ('NCHW', 1)]:
        conv2d.set_image_format(name)
        assert conv2d.from_nchw(x).shape[conv2d.channel_axis()] == 3 and conv2d.channel_axis() == axis
        np.testing.assert_array_equal(conv2d.to_nchw(conv2d.from_nchw(x)), x)
        scaled = conv2d.to_nchw(conv2d.from_nchw(x) * conv2d.per_channel(x[:, :, 0, 0]))
        np.testing.assert_allclose(scaled, x * x[:, :, :1, :1], rtol=1e-6)
    with pytest.raises(ValueError, match='NHWC'):
        conv2d.set_image_format('CHWN')
    conv2d.set_image_format(None)
    assert conv2d.image_format() == ('NCHW' if has_gpu() else 'NHWC')
