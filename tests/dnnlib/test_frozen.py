"""Evaluation from constants: the same numbers, made anew when a variable changes, and only where it pays."""

import numpy as np
import pytest
import tensorflow as tf

from dnnlib import tflib
from dnnlib.tflib import frozen
from training import misc
from training.nets import registry


@pytest.fixture(scope='module')
def Gs():
    net = registry.create_network(
        'Gs',
        'G_main',
        resolution=16,
        num_channels=3,
        label_size=2,
        fmap_base=128,
        fmap_max=16,
        latent_size=8,
        mapping_layers=2,
    )
    for name, var in net.vars.items():
        if 'noise_strength' in name:
            var.assign(0.1)
    return net


def latents(n, seed=0):
    return np.random.RandomState(seed).randn(n, 8)


def function_of(net):
    """The one FreezableFunction that a network has used."""
    function, = net._net.functions.values()
    return function


def graph_of(frozen_function):
    return [node.op for node in frozen_function.graph.as_graph_def().node]


@pytest.mark.parametrize('kwargs, tolerance', [
    (dict(), 1e-5), (dict(truncation_psi=0.5, minibatch_size=2), 1e-5), (dict(dtype='bfloat16'), 2e-2),
    (dict(output_transform=dict(func=tflib.convert_images_to_uint8, nchw_to_nhwc=True)), 1 / 255)],
                         ids=['float32', 'truncated', 'bfloat16', 'uint8'])
def test_images_are_the_same(Gs, kwargs, tolerance):
    net, labels = Gs.clone(), np.eye(2)[[0, 1, 1, 0]]
    expected = net.run(latents(4), labels, randomize_noise=False, **kwargs).astype(np.float64)
    images = net.run(latents(4), labels, randomize_noise=False, assume_frozen=True, **kwargs)
    # TensorFlow may order sums in another way when it sees that weights are constant.
    np.testing.assert_allclose(images, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    assert len(function_of(net)._frozen) == 1


def test_no_weight_is_left_as_a_variable_and_weights_are_prepared(Gs):
    net = Gs.clone()
    net.run(latents(1), None, randomize_noise=False, assume_frozen=True)
    ops = graph_of(function_of(net)._frozen[1])
    # What stays are dlatent_avg and the noise maps, which each picture may change. Nothing here reads lod.
    assert ops.count('ReadVariableOp') == sum(not var.trainable and 'lod' not in name for name, var in net.vars.items())
    as_traced = function_of(net)._templates[1]._graph_def.node
    # Squares of weights and their sums, transposed kernels and products with the equalized learning rate are computed
    # once.
    for op in ('Square', 'Transpose', 'Sum', 'Mul'):
        assert ops.count(op) < [node.op for node in as_traced].count(op), op
    # Weights that only their squares are needed of are not kept beside these.
    template = function_of(net)._templates[1]
    kept = sum(template._specs[name].shape.num_elements() for name in template._kept)
    assert kept < 1.3 * sum(var.shape.num_elements() for var in net.trainables.values())


@pytest.mark.parametrize(
    'change',
    [
        lambda net: net.set_var(
            'G_synthesis/8x8/Conv1/weight', np.ones(net.get_var('G_synthesis/8x8/Conv1/weight').shape)
        ),
        lambda net: net.vars['G_synthesis/8x8/Conv1/bias'].variable.assign_add(tf.ones([16])),
        lambda net: tflib.set_vars({net.vars['dlatent_avg']: np.full([512], 0.5)}),
        lambda net: tf.function(
            lambda: net.vars['G_synthesis/4x4/Const/const'].variable.assign_sub(tf.ones([1, 16, 4, 4]))
        )(),
        lambda net: net.set_var('G_synthesis/noise1', np.ones([1, 1, 8, 8])),
    ],
    ids=['set_var', 'assign_add', 'set_vars', 'in a graph', 'noise'],
)
def test_a_changed_variable_is_noticed(Gs, change):
    net = Gs.clone()
    kwargs = dict(randomize_noise=False, truncation_psi=0.7)
    before = net.run(latents(2), None, assume_frozen=True, **kwargs)
    change(net)
    after = net.run(latents(2), None, assume_frozen=True, **kwargs)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(
        after, net.clone().run(latents(2), None, **kwargs), rtol=0, atol=1e-5 * np.abs(after).max()
    )


def test_it_freezes_by_itself_once_that_pays_and_not_before(Gs):
    net = Gs.clone()

    def run():
        net.run(latents(1), None, randomize_noise=False)
    run()
    function = function_of(net)
    assert function._seconds[1] == 0  # Tracing does not count.
    function._cost = 1e9
    run()
    assert function._seconds[1] > 0 and not function._frozen
    function._cost = 0
    run()
    assert list(function._frozen) == [1]
    first = function._frozen[1]
    run()
    assert function._frozen[1] is first  # Nothing has changed.
    assert function._cost > 0            # It has been measured.


def test_it_does_not_where_it_may_not(Gs):
    net = Gs.clone()
    net.may_freeze = False
    for _ in range(2):
        net.run(latents(1), None, randomize_noise=False)
        function_of(net)._cost = 0
    assert function_of(net)._seconds[1] > 0
    net.run(latents(1), None, randomize_noise=False)
    assert not function_of(net)._frozen


def test_pictures_of_seeds_share_their_constants(Gs):
    """Each of them has noise maps of its own, which are variables of the network."""
    net = Gs.clone()
    pictures = [misc.image_of_seed(net, seed, None) for seed in (1, 2)]
    function = function_of(net)
    function._cost = -1
    used = set()
    for seed, expected in zip((1, 2), pictures):
        picture = misc.image_of_seed(net, seed, None)
        used.add(function._frozen[1])
        np.testing.assert_allclose(picture, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert len(used) == 1


def test_weights_of_the_past_are_not_held(Gs):
    net = Gs.clone()
    net.run(latents(1), None, randomize_noise=False, assume_frozen=True)
    old = function_of(net)
    net.set_var('G_synthesis/4x4/Conv/bias', np.ones([16]))
    net.run(latents(1), None, randomize_noise=False, truncation_psi=0.5)  # Another function of the network.
    assert old._held is None and not old._frozen


def test_few_frozen_functions_are_kept(Gs):
    net = Gs.clone()
    for n in (1, 2, 1, 3):
        net.run(latents(n), None, randomize_noise=False, assume_frozen=True)
    assert list(function_of(net)._frozen) == [1, 3] and set(function_of(net)._templates) == {1, 3}


def test_noise_is_drawn_anew_each_time(Gs):
    net = Gs.clone()
    a, b = (net.run(latents(1), None, randomize_noise=True, assume_frozen=True) for _ in range(2))
    assert np.abs(a - b).max() > 1e-3


def test_a_variable_that_the_function_writes_stays_a_variable():
    count, weight = tf.Variable(0.0), tf.Variable([2.0])
    function = tf.function(
        lambda inputs, scalars: [inputs[0] * weight * scalars['factor'] + count.assign_add(1.0)],
        autograph=False,
        input_signature=[[tf.TensorSpec([None], tf.float32)], {'factor': tf.TensorSpec([], tf.float32)}],
    )
    freezable = frozen.FreezableFunction(function, [count, weight])
    for expected in ([7.0, 13.0], [8.0, 14.0], [9.0, 15.0]):
        freezable.refresh()
        result, = freezable([tf.constant([1.0, 2.0])], {'factor': tf.constant(3.0)}, freeze=True)
        np.testing.assert_array_equal(result, expected)


def test_on_a_gpu_nothing_is_frozen(Gs, monkeypatch):
    net = Gs.clone()
    monkeypatch.setattr(tf.config, 'get_visible_devices', lambda kind=None: ['a GPU'])
    net.run(latents(1), None, randomize_noise=False, assume_frozen=True)
    assert not function_of(net)._frozen


def test_where_functions_run_eagerly_nothing_is_frozen(Gs):
    net = Gs.clone()
    expected = net.run(latents(2), None, randomize_noise=False)
    tf.config.run_functions_eagerly(True)
    try:
        images = net.run(latents(2), None, randomize_noise=False, assume_frozen=True)
    finally:
        tf.config.run_functions_eagerly(False)
    np.testing.assert_allclose(images, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert not function_of(net)._frozen


def test_variables_with_a_copy_on_each_device_stay_variables(Gs):
    with tf.distribute.MirroredStrategy(['/CPU:0']).scope():
        net = Gs.clone()
    images = net.run(latents(1), None, randomize_noise=False, assume_frozen=True)
    np.testing.assert_array_equal(images, Gs.clone().run(latents(1), None, randomize_noise=False))
    assert not function_of(net)._frozen
