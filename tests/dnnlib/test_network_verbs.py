"""The original's calls on networks: what a notebook written for it uses."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf

from custom_ops import conv2d
from dnnlib import tflib
from dnnlib.tflib import Random
from tests.training.test_misc import small_networks
from training import misc
from training.nets import registry


@pytest.fixture(scope='module')
def networks():
    tf.keras.utils.set_random_seed(1)
    return small_networks()


def test_a_notebook_of_the_original(networks):
    """The lines of run_generator.py and of the usual notebooks, in one piece."""
    _G, _D, Gs = networks
    noise_vars = [var for name, var in Gs.components.synthesis.vars.items() if name.startswith('noise')]
    fmt = dict(func=tflib.convert_images_to_uint8, nchw_to_nhwc=True)
    Gs_kwargs = dict(output_transform=fmt, randomize_noise=False, truncation_psi=0.5)
    rnd = np.random.RandomState(0)
    z = rnd.randn(1, *Gs.input_shape[1:])
    tflib.set_vars({var: rnd.randn(*var.shape.as_list()) for var in noise_vars})
    images = Gs.run(z, None, **Gs_kwargs)
    assert images.shape == (1, 8, 8, 3) and images.dtype == np.uint8
    w = Gs.components.mapping.run(z, None)
    w_avg = Gs.get_var('dlatent_avg')
    w = w_avg + (w - w_avg) * 0.5
    again = Gs.components.synthesis.run(w, output_transform=fmt, randomize_noise=False, minibatch_size=4)
    assert np.abs(again.astype(int) - images).max() <= 1
    assert tflib.run(noise_vars[0]).shape == (1, 1, 4, 4)
    assert Gs.input_shapes == [[None, 8], [None, 0]] and Gs.output_shape == [None, 3, 8, 8]
    assert Gs.num_inputs == 2 and Gs.num_outputs == 1 and Gs.static_kwargs.resolution == 8


def test_run_in_minibatches_equals_run_at_once(networks, capsys):
    Gs, z = networks[2], np.random.RandomState(1).randn(5, 8)
    whole = Gs.run(z, None, randomize_noise=False)
    np.testing.assert_allclose(
        Gs.run(z, None, randomize_noise=False, minibatch_size=2, print_progress=True), whole, rtol=1e-5, atol=1e-6
    )
    assert 'Gs 4 / 5: ' in capsys.readouterr().out
    assert Gs.run(z[:0], None).shape == (0, 3, 8, 8)


def test_run_returns_lists_where_asked(networks):
    Gs, z = networks[2], np.zeros([2, 8])
    images, dlatents = Gs.run(z, None, return_dlatents=True)
    assert images.shape == (2, 3, 8, 8) and dlatents.shape == (2, 4, 8)
    assert [x.shape for x in Gs.run(z, None, return_as_list=True)] == [(2, 3, 8, 8)]


def test_input_transform(networks):
    D = networks[1]
    images = np.random.RandomState(0).randint(256, size=[2, 3, 8, 8]).astype(np.uint8)
    scores = D.run(
        images, None, input_transform=dict(func=lambda x, labels: (tflib.convert_images_from_uint8(x), labels))
    )
    np.testing.assert_allclose(scores, D.run(images / 127.5 - 1, None), rtol=1e-4, atol=1e-5)


def test_one_trace_for_all_batches_and_truncations():
    Gs = small_networks()[2]
    for batch, psi in [(1, 0.1), (2, 0.5), (3, 0.9), (1, 0.7)]:
        Gs.run(np.zeros([batch, 8]), None, truncation_psi=psi, randomize_noise=False)
    functions = Gs._net.functions
    assert len(functions) == 1 and [f._function.experimental_get_tracing_count() for f in functions.values()] == [1]


def test_truncation_psi_as_number_and_as_tensor_agree(networks):
    Gs, z = networks[2], np.random.RandomState(1).randn(2, 8)
    Gs.set_var('dlatent_avg', np.linspace(-1, 1, 8))
    kwargs = dict(randomize_noise=False, truncation_cutoff=2)
    as_tensor, as_number = Gs.run(z, None, truncation_psi=1.0, **kwargs), Gs.run(z, None, truncation_psi=1, **kwargs)
    np.testing.assert_allclose(as_tensor, as_number, rtol=1e-4, atol=1e-5)
    at_mean = Gs.run(z, None, truncation_psi=0.0, randomize_noise=False)
    np.testing.assert_allclose(at_mean[0], at_mean[1], atol=1e-6)


def test_randomize_noise(networks):
    Gs, z = networks[2], np.zeros([1, 8])
    for name in Gs.vars:
        if name.endswith('noise_strength'):
            Gs.set_var(name, 1.0)
    fixed = [Gs.run(z, None, randomize_noise=False) for _ in range(2)]
    np.testing.assert_array_equal(*fixed)
    assert np.abs(Gs.run(z, None) - Gs.run(z, None)).max() > 1e-3


@pytest.mark.parametrize(
    'call, error, expected',
    [
        (lambda Gs: Gs.run(np.zeros([1, 7]), None), ValueError, r'latents_in of shape \[1, 8\], received \[1, 7\]'),
        (lambda Gs: Gs.run(np.zeros([1, 8]), np.zeros([2, 0])), ValueError, 'labels_in'),
        (lambda Gs: Gs.run(None, None), ValueError, 'at least one input'),
        (lambda Gs: Gs.run(np.zeros([1, 8]), None, None), ValueError, 'expected 2 inputs'),
        (lambda Gs: Gs.run(np.zeros([1, 8]), None, trunaction_psi=1), ValueError, 'trunaction_psi'),
        (lambda Gs: Gs.run(np.zeros([1, 8]), None, resolution=16), ValueError, 'resolution'),
        (lambda Gs: Gs.run(np.zeros([1, 8]), None, minibatch_size=0), ValueError, 'minibatch_size'),
        (
            lambda Gs: Gs.run(np.zeros([1, 8]), None, is_training=True, is_validation=True),
            ValueError,
            'cannot both be set',
        ),
        (lambda Gs: pickle.dumps(Gs, 0), TypeError, 'protocol 2'),
        (lambda Gs: Gs.run(np.zeros([1, 8]), None, custom_inputs=[]), ValueError, 'custom_inputs does not exist here'),
        (lambda Gs: Gs.get_var('nosuch'), KeyError, 'nosuch'),
        (lambda Gs: registry.create_network('G', 'G_main', resolutoin=8), ValueError, 'resolutoin'),
        (lambda Gs: registry.create_network('D', 'D_stylegan2', resolution=12), ValueError, 'power of two'),
        (lambda Gs: registry.create_network('D', 'D_stylegan2', architecture='dense'), ValueError, 'dense'),
        (lambda Gs: registry.create_network('G', 'G_main', nonlinearity='gelu', resolution=8), ValueError, 'gelu'),
        (lambda Gs: registry.create_network('G', 'G_main', dtype='float16', resolution=8), ValueError, 'float16'),
        (lambda Gs: registry.create_network('D', 'D_nosuch'), ValueError, 'unknown network'),
        (lambda Gs: Gs.copy_vars_from(Gs.clone('big', fmap_max=2)), ValueError, 'cannot copy'),
    ],
)
def test_a_mistake_is_named(networks, call, error, expected):
    with pytest.raises(error, match=expected):
        call(networks[2])


def test_options_that_are_arrays_are_told_apart(networks):
    Gs, z = networks[2], np.zeros([1, 8])
    offset = np.zeros(2000)
    transform = dict(func=lambda x, offset: x * 0 + float(offset[1000]), offset=offset)
    assert Gs.run(z, None, output_transform=transform).max() == 0
    offset[1000] = 5
    assert Gs.run(z, None, output_transform=transform).max() == 5


def test_images_up_to_a_resolution_are_those_of_a_network_that_ends_there(networks):
    synthesis = networks[2].components.synthesis
    small = synthesis.clone(resolution=4)
    w = np.random.RandomState(0).randn(2, *synthesis.input_shape[1:])
    images = synthesis.run(w, randomize_noise=False, max_resolution=4)
    np.testing.assert_allclose(images, small.run(w[:, :2], randomize_noise=False), rtol=1e-5, atol=1e-5)
    whole = synthesis.run(w, randomize_noise=False)
    np.testing.assert_array_equal(synthesis.run(w, randomize_noise=False, max_resolution=8), whole)
    assert images.shape == (2, 3, 4, 4) and whole.shape == (2, 3, 8, 8)
    assert synthesis(tf.constant(w, tf.float32), max_resolution=4).shape == (2, 3, 4, 4)  # With random noise.
    for net, resolution in ((synthesis, 16), (synthesis, 6), (synthesis.clone(architecture='resnet'), 4)):
        with pytest.raises(ValueError, match=f'received max_resolution={resolution}'):
            net.run(w, randomize_noise=False, max_resolution=resolution)


def test_deepcopy_is_a_clone(networks):
    twin = copy.deepcopy(networks[1])
    for name in twin.vars:
        np.testing.assert_array_equal(twin.get_var(name), networks[1].get_var(name))


def test_none_stands_for_zeros_in_a_plain_call(networks):
    assert networks[2](tf.zeros([2, 8]), None).shape == networks[2](tf.zeros([2, 8])).shape == (2, 3, 8, 8)


def test_networks_whose_values_are_assigned_draw_no_numbers(networks, tmp_path, monkeypatch):
    """Thirty million normal numbers take a second.

    A clone with other settings may have variables that nothing else fills.
    """
    misc.save_pkl(networks, tmp_path / 'net.pkl')

    def draw(*args, **kwargs):
        raise AssertionError('drawn')
    with monkeypatch.context() as patch:
        patch.setattr(tf.keras.initializers.RandomNormal, '__call__', draw)
        loaded = misc.load_networks(tmp_path / 'net.pkl')
        for network, same in zip(networks, (loaded[0], loaded[1], networks[2].clone()), strict=True):
            for name in network.vars:
                np.testing.assert_array_equal(same.get_var(name), network.get_var(name), err_msg=name)
        with pytest.raises(AssertionError, match='drawn'):
            networks[0].clone(resolution=16)
    assert np.std(networks[0].clone(resolution=16).get_var('G_synthesis/16x16/Conv1/weight')) > 0.5


def test_clone_and_copies(networks):
    G = networks[0]
    other = G.clone('other')
    assert other.name == 'other' and other.static_kwargs == G.static_kwargs
    for name in G.vars:
        np.testing.assert_array_equal(other.get_var(name), G.get_var(name))
    weight, noise = 'G_synthesis/4x4/Conv/weight', 'G_synthesis/noise0'
    for name in (weight, noise):
        other.set_var(name, other.get_var(name) + 1)
    G2 = G.clone()
    G2.copy_trainables_from(other)
    np.testing.assert_array_equal(G2.get_var(weight), other.get_var(weight))
    np.testing.assert_array_equal(G2.get_var(noise), G.get_var(noise))
    G2.set_var('lod', 3)
    G.copy_own_vars_from(G2)
    assert G.get_var('lod') == 3
    G.set_var('lod', 0)


@pytest.mark.parametrize(
    'copied', [lambda net: net.clone(), copy.deepcopy, lambda net: type(net).from_config(net.get_config())]
)
def test_a_component_can_be_copied_without_its_generator(networks, copied):
    """A component keeps the settings of the whole generator. A copy of it must not be refused because of them."""
    Gs = networks[2]
    z = np.random.RandomState(4).randn(2, 8)
    w = Gs.components.mapping.run(z, None)
    for key, inputs, kwargs in (('mapping', (z, None), {}), ('synthesis', (w,), dict(randomize_noise=False))):
        component = Gs.components[key]
        twin = copied(component)
        assert type(twin) is type(component) and twin.name == component.name and list(twin.vars) == list(component.vars)
        twin.copy_vars_from(component)  # from_config has the settings alone.
        np.testing.assert_array_equal(twin.run(*inputs, **kwargs), component.run(*inputs, **kwargs))
        with pytest.raises(ValueError, match='unknown arguments'):
            twin.clone(truncation_psi=1)
    assert 'mapping_layers' in Gs.components.synthesis.static_kwargs  # As in pickles of the original.


def test_what_can_be_given_for_a_call_is_among_the_settings():
    for cls in registry.NETWORKS.values():
        assert cls.call_settings <= set(cls.settings), cls
    G = registry.create_network('G', 'G_main', resolution=4, fmap_max=2, latent_size=4, mapping_layers=1)
    assert (
        {'truncation_psi', 'randomize_noise', 'normalize_latents', 'dtype'} < G.known_call_kwargs() < G.known_kwargs()
    )
    assert not {'resolution', 'latent_size', 'mapping_func', 'lod_stage'} & G.known_call_kwargs()


@pytest.mark.parametrize('func_name', ['G_main', 'G_style'])
def test_psi_of_one_leaves_w_as_it_is(func_name):
    G = registry.create_network(
        'G', func_name, resolution=4, fmap_max=2, latent_size=8, dlatent_size=8, mapping_layers=1
    )
    G.set_var('dlatent_avg', np.random.RandomState(0).randn(8) * 100)
    z = np.random.RandomState(1).randn(16, 8)
    w = G.components.mapping.run(z, None)
    for psi in 1, 1.0, np.float32(1), None:
        np.testing.assert_array_equal(G.run(z, None, truncation_psi=psi, return_dlatents=True)[1], w)
    assert np.abs(G.run(z, None, truncation_psi=0.5, return_dlatents=True)[1] - w).max() > 1


@pytest.mark.parametrize(
    'func_name, module, name',
    [('G_main', 'networks_stylegan2', 'G_mapping'), ('G_style', 'networks_stylegan', 'G_mapping')],
)
def test_parts_are_found_by_name_with_or_without_the_module(func_name, module, name):
    cls = registry.find_network(func_name)
    for value in name, f'training.{module}.{name}':
        assert cls.component_class('mapping', {'mapping_func': value}) is registry.NETWORKS[f'training.{module}.{name}']
    with pytest.raises(ValueError, match='unknown network synthesis_func'):
        registry.create_network('G', func_name, synthesis_func='D_basic')


def test_settings_of_components_reach_them():
    G = registry.create_network(
        'G', 'G_main', resolution=8, fmap_max=4, latent_size=6, mapping_layers=1, mapping_lrmul=0.5
    )
    assert G.components.mapping.kw.latent_size == 6 and G.components.synthesis.kw.fmap_max == 4
    assert G.components.mapping.layer('Dense0').lrmul == 0.5


def test_any_number_of_channels_and_the_smallest_resolution():
    for channels, resolution in [(2, 8), (5, 8), (3, 4)]:
        for architecture in ('orig', 'skip', 'resnet'):
            shape = dict(num_channels=channels, resolution=resolution, fmap_max=4, architecture=architecture)
            images = registry.create_network('G', 'G_main', latent_size=4, mapping_layers=1, **shape).run(
                np.zeros([2, 4]), None
            )
            assert images.shape == (2, channels, resolution, resolution)
            assert registry.create_network('D', 'D_stylegan2', **shape).run(images, None).shape == (2, 1)


def test_channels_first_inside_gives_the_same_images(networks):
    Gs, z = networks[2], np.random.RandomState(3).randn(2, 8)
    images = Gs.run(z, None, randomize_noise=False)
    scores = networks[1].run(images, None)
    conv2d.set_image_format('NCHW')
    try:
        nets = small_networks()
        nets[2].copy_vars_from(Gs)
        nets[1].copy_vars_from(networks[1])
        np.testing.assert_allclose(nets[2].run(z, None, randomize_noise=False), images, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(nets[1].run(images, None), scores, rtol=1e-4, atol=1e-5)
    finally:
        conv2d.set_image_format(None)


def test_networks_are_keras_models(networks):
    G, D, _ = networks
    assert isinstance(G, tf.keras.Model) and G.built
    assert len(G.trainable_variables) == len(G.trainables) and len(G.variables) == len(G.vars)
    inputs = [tf.keras.Input(shape[1:]) for shape in D.input_shapes]
    model = tf.keras.Model(inputs, D(*inputs))
    x = [np.ones([2, 3, 8, 8], np.float32), np.zeros([2, 0], np.float32)]
    np.testing.assert_allclose(model(x), D(*x), rtol=1e-5)
    layer = D.layer('8x8/Conv1_down')
    twin = type(layer).from_config({k: v for k, v in layer.get_config().items()})
    twin.build([None, 8, 8, 4])
    assert twin.weight.shape == layer.weight.shape


def test_gradients_reach_every_trainable_variable(networks):
    G, D, _ = networks
    variables = {
        **G.named_variables(trainable=True),
        **{f'D/{k}': v for k, v in D.named_variables(trainable=True).items()},
    }
    for name, var in variables.items():
        if name.endswith('noise_strength'):
            var.assign(0.1)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(
            D.get_output_for(G.get_output_for(tf.random.normal([4, 8]), None, is_training=True), None)
        )
    grads = tape.gradient(loss, list(variables.values()))
    assert not [name for name, grad in zip(variables, grads, strict=True) if grad is None or not np.any(grad)]


def test_training_moves_dlatent_avg_and_mixes_styles(networks):
    G = networks[0]
    G.set_var('dlatent_avg', np.zeros(8))
    G.get_output_for(tf.random.normal([4, 8]), None)
    assert not np.any(G.get_var('dlatent_avg'))
    rng = Random(tf.random.Generator.from_seed(5))
    _, w = G.get_output_for(
        tf.random.normal([4, 8]), None, is_training=True, return_dlatents=True, rng=rng, style_mixing_prob=1.0
    )
    assert np.any(G.get_var('dlatent_avg'))
    assert np.any(w[:, 0] != w[:, -1])
    _, w = G.get_output_for(
        tf.random.normal([4, 8]), None, is_training=True, return_dlatents=True, rng=rng, style_mixing_prob=None
    )
    np.testing.assert_array_equal(w[:, 0], w[:, -1])


def test_print_layers_counts_parameters(networks, capsys):
    D = networks[1]
    D.print_layers(title='Disc', hide_layers_with_no_params=True)
    lines = capsys.readouterr().out.splitlines()
    total = sum(int(np.prod(var.shape)) for var in D.trainables.values())
    assert lines[1].split()[0] == 'Disc' and lines[-2].split() == ['Total', str(total)]
    assert sum(int(line.split()[1]) for line in lines[3:-3]) == total
    assert not any('images_in' in line for line in lines)
