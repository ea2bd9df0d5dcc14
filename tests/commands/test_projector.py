"""The projector: the original's numbers, several images at a time, a single trace."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import projector
from dnnlib.cli import UserError
from dnnlib.tflib import Random
from metrics import feature_networks
from tests.golden import GOLDEN, assert_close, load_json, load_npz
from tests.injected import InjectedRandom
from training import misc
from training.nets import registry

TINY = dict(resolution=8, num_channels=3, label_size=0, latent_size=8, mapping_fmaps=8, dlatent_size=8,
            mapping_layers=2, fmap_base=64, fmap_max=8)


@functools.cache
def make_generator(func_name='G_main', **kwargs):
    tf.keras.utils.set_random_seed(3)
    Gs = registry.create_network('Gs', func_name, **{**TINY, **kwargs})
    for name, var in Gs.vars.items():
        if 'noise_strength' in name or name.endswith('Noise/weight'):
            Gs.set_var(name, np.full(var.shape, 0.1))
    return Gs


def make_projector(Gs, count=1, num_steps=6, rng=None, **settings):
    proj = projector.Projector('pixel', rng)
    proj.num_steps, proj.dlatent_avg_samples = num_steps, 50
    for name, value in settings.items():
        assert hasattr(proj, name)
        setattr(proj, name, value)
    proj.set_network(Gs, count)
    return proj


def images_of(Gs, count, seed=5):
    rnd = np.random.RandomState(seed)
    return Gs.run(rnd.randn(count, Gs.input_shape[1]), None, truncation_psi=1.0, randomize_noise=False)


# ---- Against the original ----

@pytest.mark.golden
def test_every_step_is_that_of_the_original(capsys):
    expected, settings = load_npz('projector/projector.npz'), load_json('projector/projector.json')
    rng = InjectedRandom()
    # The distance that the golden numbers were made with.
    proj = projector.Projector(lambda a, b: tf.reduce_mean(tf.square(a - b), axis=[1, 2, 3]) / 1000, rng)
    for name in ('num_steps', 'dlatent_avg_samples', 'initial_learning_rate', 'initial_noise_factor',
                 'regularize_noise_weight', 'lr_rampdown_length', 'lr_rampup_length', 'noise_ramp_length'):
        assert hasattr(proj, name)
        setattr(proj, name, settings[name])
    proj.verbose = True
    _G, _D, Gs = misc.load_networks(GOLDEN / 'projector/net.pkl')
    proj.set_network(Gs)
    noise_names = sorted(name for name in expected if name.startswith('noise_init/'))
    rng.feed({name.split('/')[1]: [expected[name]] for name in noise_names})
    proj.start(expected['target'])
    assert_close(proj.get_dlatents()[:, :1], expected['start_dlatents'], 1e-5, 'start')
    assert_close(proj.get_dlatents()[:, :1], expected['dlatent_avg'], 1e-5, 'dlatent_avg')
    for step in range(settings['num_steps']):
        learning_rate, noise_strength = proj.schedule(step)
        assert learning_rate == pytest.approx(expected['lr'][step], rel=1e-9, abs=1e-12)
        assert noise_strength == pytest.approx(expected['noise_strength'][step], rel=1e-5, abs=1e-12)
        rng.feed({'dlatents': [expected['dlatent_noise'][step]]})
        proj.step()
        assert proj.get_cur_step() == step + 1
        assert_close(proj.last_distances, expected['dist'][[step]], 1e-5, f'distance of step {step}')
        assert_close(proj.last_losses, expected['loss'][[step]], 1e-5, f'loss of step {step}')
        dlatents = expected['dlatents_per_step'][step]
        assert_close(proj.get_dlatents()[:, 0], dlatents, 1e-5, f'dlatents after step {step}')
    assert_close(proj.get_dlatents(), expected['final_dlatents'], 1e-5, 'dlatents')
    assert_close(proj.get_images(), expected['final_images'], 5e-5, 'images')
    for name, noise in zip(noise_names, proj.get_noises(), strict=True):
        assert_close(noise, expected[name.replace('init', '').replace('noise_', 'final_noises')], 5e-5, name)
    ours = [line.split() for line in capsys.readouterr().out.splitlines()]
    theirs = [line.split() for line in settings['stdout'].splitlines()
              if 'tf.Variable' not in line and 'Building' not in line]
    for line in theirs[:-1]:  # Without 'Done.', which `run` prints.
        if line[1].isdigit():
            found, = (words for words in ours if words[:2] == line[:2])
            np.testing.assert_allclose(np.float64(found[2:]), np.float64(line[2:]), rtol=1e-5)
        else:
            assert line in ours


def test_defaults_are_those_of_the_original():
    proj = projector.Projector('pixel')
    assert (proj.num_steps, proj.dlatent_avg_samples) == (1000, 10000)
    assert (proj.initial_learning_rate, proj.initial_noise_factor) == (0.1, 0.05)
    assert (proj.lr_rampdown_length, proj.lr_rampup_length, proj.noise_ramp_length) == (0.25, 0.05, 0.75)
    assert (proj.regularize_noise_weight, proj.verbose, proj.clone_net) == (1e5, False, True)


def test_learning_rate_and_noise_rise_and_fall():
    proj = make_projector(make_generator(), num_steps=100)
    rates, strengths = np.transpose([proj.schedule(step) for step in range(101)])
    assert rates[0] == 0 and rates[5] == pytest.approx(0.1)
    assert (rates[5:75] == rates[5]).all() and rates[100] == pytest.approx(0)
    assert (np.diff(rates[75:]) < 0).all() and rates[88] == pytest.approx(0.1 * (0.5 - 0.5 * np.cos(np.pi * 12 / 25)))
    assert strengths[0] == pytest.approx(0.05 * proj._dlatent_std)
    assert (np.diff(strengths[:75]) < 0).all() and not strengths[75:].any()


# ---- Several images ----

def test_images_at_a_time_do_not_influence_each_other():
    Gs = make_generator()
    targets = images_of(Gs, 3)
    rnd = np.random.RandomState(0)
    variables = Gs.components.synthesis.vars
    shapes = {name: [3, *var.shape[1:]] for name, var in variables.items() if name.startswith('noise')}
    noise = {name: rnd.randn(*shape).astype(np.float32) for name, shape in shapes.items()}
    dlatents = rnd.randn(6, 3, 1, 8).astype(np.float32)

    rngs = {count: InjectedRandom() for count in (1, 3)}
    projectors = {count: make_projector(Gs, count, rng=rngs[count]) for count in (1, 3)}

    def project(which):
        rng, proj = rngs[len(which)], projectors[len(which)]
        rng.feed({name: [value[which]] for name, value in noise.items()})
        proj.start(targets[which])
        losses = []
        for step in range(6):
            rng.feed({'dlatents': [dlatents[step][which]]})
            proj.step()
            losses.append(proj.last_losses.numpy())
        return np.array(losses), proj.get_dlatents(), proj.get_images(), proj.get_distances(), *proj.get_noises()

    together = project([0, 1, 2])
    for idx in range(3):
        for of_three, alone in zip(together, project([idx]), strict=True):
            of_three = of_three[:, [idx]] if of_three.shape == (6, 3) else of_three[[idx]]
            assert_close(of_three, alone, 1e-4)
    assert not np.allclose(together[1][0], together[1][1], atol=1e-2)


def test_nothing_is_traced_again():
    Gs = make_generator()
    proj = make_projector(Gs, 2)
    for seed in (1, 2):
        found = proj.run(images_of(Gs, 2, seed))
    assert proj.num_traces() == 1 and proj.get_cur_step() == 6
    proj.step()  # After the last one nothing happens.
    assert proj.get_cur_step() == 6
    np.testing.assert_array_equal(proj.get_dlatents(), found.dlatents)


@pytest.mark.parametrize('func_name, kwargs', [
    ('G_main', {}),
    ('G_main', dict(num_channels=1)),
    ('G_main', dict(synthesis_func='G_synthesis_stylegan_revised')),
    ('G_style', {})])
def test_what_is_found_makes_the_images_of_every_kind_of_network(func_name, kwargs):
    Gs = make_generator(func_name, **kwargs)
    targets = images_of(Gs, 2)
    # A seed with which 20 steps are enough for G_style, too.
    proj = make_projector(Gs, 2, num_steps=20, rng=Random(tf.random.Generator.from_seed(1)))
    proj.start(targets)
    before = proj.get_distances()
    found = proj.run(targets)
    assert (proj.get_distances() < before).all()
    assert found.dlatents.shape == (2, 4, 8) and found.images.shape == targets.shape
    assert [noise.shape for noise in found.noises] == [(2, *var.shape[1:]) for var in misc.noise_variables(Gs)]
    for idx in range(2):  # Compare with the network's own way to set noise.
        with misc.noise_of(Gs, [noise[idx:idx + 1] for noise in found.noises]):
            image = Gs.components.synthesis.run(found.dlatents[idx:idx + 1], randomize_noise=False)
        assert_close(found.images[idx:idx + 1], image, 1e-5)


# ---- Options ----

def test_wplus_finds_a_latent_for_each_layer():
    Gs = make_generator()
    w = make_projector(Gs, wplus=True).run(images_of(Gs, 1)).dlatents
    assert w.shape == (1, 4, 8) and (w[0, 0] != w[0, 1:]).any(axis=1).all()


@pytest.mark.parametrize('shape', [(1, 1, 8), (2, 1, 8), (2, 4, 8)])
def test_start_at_given_latents(shape):
    Gs = make_generator()
    proj = make_projector(Gs, 2, wplus=shape[1] == 4)
    w = np.random.RandomState(0).randn(*shape).astype(np.float32)
    proj.start(images_of(Gs, 2), w)
    np.testing.assert_array_equal(proj.get_dlatents(), np.broadcast_to(w, [2, 4, 8]))


def test_starts_at_the_mean_of_w_with_fresh_noise():
    Gs = make_generator()
    proj = make_projector(Gs)
    proj.start(images_of(Gs, 1))
    latents = np.random.RandomState(123).randn(50, 8)
    mean = Gs.components.mapping.run(latents, None)[:, 0].mean(axis=0)
    np.testing.assert_allclose(proj.get_dlatents()[0, 0], mean, atol=1e-6)
    first = proj.get_noises()
    proj.start(images_of(Gs, 1))
    assert proj.get_cur_step() == 0 and not np.allclose(first[2], proj.get_noises()[2])


@pytest.mark.parametrize('clone_net', [True, False])
def test_clone_net(clone_net):
    Gs = make_generator().clone()
    proj = make_projector(Gs, clone_net=clone_net)
    proj.start(images_of(Gs, 1))
    before = proj.get_images()
    noise = Gs.get_var('G_synthesis/noise2')
    Gs.set_var('G_synthesis/8x8/ToRGB/bias', np.ones(3))
    assert np.allclose(before, proj.get_images()) == clone_net
    proj.step()
    np.testing.assert_array_equal(Gs.get_var('G_synthesis/noise2'), noise)


def test_wrong_order_and_shapes_are_refused():
    proj = projector.Projector('pixel')
    with pytest.raises(ValueError, match='set_network before start'):
        proj.start(np.zeros([1, 3, 8, 8]))
    proj = make_projector(make_generator())
    with pytest.raises(ValueError, match='start before step'):
        proj.step()
    with pytest.raises(ValueError, match=r'expected target images of shape \[1, 3, 8, 8\], received \[2, 3, 8, 8\]'):
        proj.start(np.zeros([2, 3, 8, 8]))
    with pytest.raises(ValueError, match="unknown distance 'l1'"):
        projector.Projector('l1')


# ---- Distances and noise ----

def test_scale_of_the_pixel_distance():
    black, white = tf.zeros([1, 3, 4, 4]), tf.fill([1, 3, 4, 4], 255.0)
    assert projector.pixel_distance(black, white).numpy() == pytest.approx([4.0])
    assert projector.pixel_distance(white, white).numpy() == [0.0]


def test_images_above_256_are_box_filtered_and_gray_ones_get_three_channels():
    images = np.random.RandomState(0).uniform(-1, 1, [2, 1, 512, 512]).astype(np.float32)
    seen = projector.Projector._for_distance(tf.constant(images)).numpy()
    expected = (images.reshape(2, 1, 256, 2, 256, 2).mean(axis=(3, 5)) + 1) * 127.5
    assert seen.shape == (2, 3, 256, 256)
    for channel in range(3):
        np.testing.assert_allclose(seen[:, channel:channel + 1], expected, rtol=1e-4, atol=1e-3)


def test_each_distance_of_the_table_loads_its_network(monkeypatch):
    monkeypatch.setattr(feature_networks, 'load', lambda name: f'network {name}')
    assert projector.Projector('lpips')._distance == 'network lpips'
    assert projector.Projector('vgg-hed')._distance == 'network vgg_hed'


def test_missing_weights_of_lpips_are_an_error_that_says_how_to_get_them(monkeypatch, tmp_path):
    def no_connection(url, file):
        raise UserError(f'{url}: download failed: no connection')
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path))
    monkeypatch.setattr(feature_networks, '_download', no_connection)
    feature_networks.load.cache_clear()
    with pytest.raises(UserError) as caught:
        projector.Projector()
    assert 'lpips' in caught.value.fact and str(tmp_path) in caught.value.remedy
    assert 'vgg16-397923af.pth' in caught.value.remedy


def test_noise_is_normalised_per_image():
    noise = tf.random.stateless_normal([2, 1, 8, 8], [1, 2], [[[[3.0]]], [[[-1.0]]]], 5.0)
    noise = projector.normalize_noise(noise).numpy()
    np.testing.assert_allclose(noise.mean(axis=(1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(noise.var(axis=(1, 2, 3)), 1, rtol=1e-5)


def test_noise_that_resembles_itself_costs():
    stripes = np.tile([1.0, -1.0], [16, 8])
    blocks = np.kron(stripes, np.ones([2, 2]))  # [32, 32]
    noises = [tf.constant(np.stack([stripes, np.zeros([16, 16])])[:, np.newaxis], tf.float32),
              tf.constant(np.stack([blocks, np.zeros([32, 32])])[:, np.newaxis], tf.float32)]
    # Stripes: -1 across and 1 down, and nothing left at 8x8. Blocks: 0 across and 1 down; then stripes.
    np.testing.assert_allclose(projector.noise_regularization(noises), [2 + 1 + 2, 0], atol=1e-6)
