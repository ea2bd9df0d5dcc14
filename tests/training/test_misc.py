"""Small arithmetic on images and grids, and network pickles through Network."""

import re
import time

import numpy as np
import pytest
import tensorflow as tf

from dnnlib import tflib
from dnnlib.cli import UserError
from dnnlib.pickles import legacy_pickle
from tests.attacks.limits import traced_memory
from tests.golden import assert_close, load_npz
from training import misc
from training.nets import layers, registry


@pytest.mark.golden
def test_golden_images_to_bytes_and_back():
    data = load_npz('ops/misc_ops.npz')
    x = tf.constant(data['to_uint8/in'])
    for key, kwargs in [('chw', {}), ('hwc', dict(nchw_to_nhwc=True)), ('shrink2', dict(shrink=2)),
                        ('drange01', dict(drange=[0, 1]))]:
        np.testing.assert_array_equal(tflib.convert_images_to_uint8(x, **kwargs), data[f'to_uint8/{key}'], key)
    x = tf.constant(data['from_uint8/in'])
    for key, kwargs in [('default', {}), ('drange01', dict(drange=[0, 1]))]:
        assert_close(tflib.convert_images_from_uint8(x, **kwargs), data[f'from_uint8/{key}'], 1e-6, key)
    y = tflib.convert_images_from_uint8(tf.transpose(x, [0, 2, 3, 1]), nhwc_to_nchw=True)
    assert_close(y, data['from_uint8/nhwc_to_nchw'], 1e-6, 'nhwc_to_nchw')


@pytest.mark.golden
def test_golden_grids():
    data = load_npz('ops/misc_ops.npz')
    np.testing.assert_array_equal(misc.create_image_grid(data['grid/in']), data['grid/auto'])
    np.testing.assert_array_equal(misc.create_image_grid(data['grid/in'], (4, 2)), data['grid/4x2'])
    picture = misc.convert_to_pil_image(misc.create_image_grid(data['grid/in'], (4, 2)), drange=[-1, 1])
    np.testing.assert_array_equal(np.asarray(picture), data['grid/pil_4x2'])


@pytest.mark.golden
def test_golden_minibatch_stddev():
    data = load_npz('ops/misc_ops.npz')
    keys = [key for key in data if key.startswith('mbstd/in_')]
    assert keys
    for key in keys:
        group_size, features = map(int, re.findall(r'_g(\d+)_f(\d+)$', key)[0])
        y = layers.minibatch_stddev(tf.transpose(data[key], [0, 2, 3, 1]), group_size, features)
        assert_close(tf.transpose(y, [0, 3, 1, 2]), data[key.replace('/in_', '/out_')], 1e-5, key)


@pytest.mark.golden
def test_golden_process_reals():
    data = load_npz('ops/misc_ops.npz')
    keys = [key for key in data if key.startswith('process_reals/in_lod')]
    assert keys
    for key in keys:
        lod = float(key.split('lod')[1])
        images, labels = misc.process_reals(data[key], None, lod, False, [0, 255], [-1, 1])
        assert_close(images, data[key.replace('/in_', '/out_')], 1e-5, key)
        assert labels is None


def test_mirror_flips_about_half_and_only_left_to_right():
    images = np.arange(64, dtype=np.float32)[:, None, None, None] + np.arange(4, dtype=np.float32) * 0.25
    out = misc.process_reals(images, None, 0, True, [0, 255], [0, 255])[0].numpy()
    flipped = [not np.array_equal(a, b) for a, b in zip(images, out, strict=True)]
    assert 10 < sum(flipped) < 54
    for a, b, turned in zip(images, out, flipped, strict=True):
        np.testing.assert_array_equal(a[..., ::-1] if turned else a, b)


def flips(rng=None, count=400):
    """Which of `count` images process_reals flips."""
    images = np.tile(np.arange(4, dtype=np.uint8), [count, 3, 4, 1])
    out, _ = misc.process_reals(images, None, 0, True, [0, 255], [0, 255], rng)
    flipped = np.array(out)[:, 0, 0, 0] == 3
    for before, after, is_flipped in zip(images, np.array(out), flipped, strict=True):
        np.testing.assert_array_equal(after, before[..., ::-1] if is_flipped else before)
    return flipped


def test_flips_are_drawn_from_the_global_generator():
    """Runs on one device rely on it: their random numbers must not change, nor those of resumed runs."""
    tf.random.set_global_generator(tf.random.Generator.from_seed(5))
    expected = tf.random.Generator.from_seed(5).uniform([400, 1, 1, 1]).numpy().ravel() >= 0.5
    np.testing.assert_array_equal(flips(), expected)


def test_flips_by_a_key_differ_between_devices_and_iterations():
    drawn = [flips(tflib.KeyedRandom(tf.constant([5, iteration], tf.int64)).at(device))
             for iteration in (0, 1) for device in (0, 1)]
    assert all(150 < each.sum() < 250 for each in drawn)
    assert len({each.tobytes() for each in drawn}) == 4
    np.testing.assert_array_equal(flips(tflib.KeyedRandom(tf.constant([5, 0], tf.int64)).at(0)), drawn[0])


# ---- Pickles ----

def small_networks(G_func='G_main', D_func='D_stylegan2', D_kwargs=None, **G_kwargs):
    """(G, D, Gs) for 8x8 RGB images, with the further settings D_kwargs and G_kwargs."""
    shape = dict(fmap_base=32, fmap_max=4, resolution=8, num_channels=3)
    latents = dict(latent_size=8, dlatent_size=8, mapping_fmaps=8, mapping_layers=2)
    G = registry.create_network('G', G_func, **latents, **shape, **G_kwargs)
    D = registry.create_network('D', D_func, **shape, **(D_kwargs or {}))
    return G, D, G.clone('Gs')


def test_the_strength_of_the_augmentation_goes_with_the_discriminator(tmp_path):
    G, D, Gs = small_networks()
    D.augment_p = 0.375
    misc.save_pkl((G, D, Gs), tmp_path / 'net.pkl')
    assert [net.augment_p for net in misc.load_networks(tmp_path / 'net.pkl')] == [None, 0.375, None]
    for value in (-1.0, float('nan'), float('inf')):
        D.augment_p = value
        misc.save_pkl(D, tmp_path / 'net.pkl')
        with pytest.raises(UserError, match='augment_p is no number'):
            misc.load_pkl(tmp_path / 'net.pkl')


def test_what_we_write_names_only_portable_settings(tmp_path):
    G, D, Gs = small_networks(fused_modconv=True, randomize_noise=False)
    misc.save_pkl((G, D, Gs), tmp_path / 'net.pkl')
    states = legacy_pickle.load(tmp_path / 'net.pkl')
    assert [state.name for state in states] == ['G', 'D', 'Gs']
    assert states[1].static_kwargs['mbstd_group_size'] == 4
    assert 'fused_modconv' not in states[0].static_kwargs           # the default
    assert states[0].static_kwargs['randomize_noise'] is False      # differs from it
    assert list(states[0].components) == ['synthesis', 'mapping']
    assert [state.build_func_name for state in states] == ['G_main', 'D_stylegan2', 'G_main']


@pytest.mark.parametrize('G_func, module', [('G_style', 'training.networks_stylegan'),
                                            ('G_main', 'training.networks_stylegan2')])
def test_a_mapping_network_alone_comes_back_as_that_of_its_module(tmp_path, G_func, module):
    """StyleGAN and StyleGAN2 both have a G_mapping."""
    latents = np.random.RandomState(0).randn(3, 8)

    def assert_restored(path):
        restored = misc.load_pkl(path)
        assert type(restored) is registry.NETWORKS[f'{module}.G_mapping']
        np.testing.assert_array_equal(restored.run(latents, None), mapping.run(latents, None))

    mapping = small_networks(G_func)[0].components.mapping
    misc.save_pkl(mapping, tmp_path / 'ours.pkl')
    assert_restored(tmp_path / 'ours.pkl')
    # The original has the source code of the module instead of its name.
    state = legacy_pickle.load(tmp_path / 'ours.pkl')
    state.build_module, state.build_module_src = '', f'import os\nos.abort()\n\ndef {G_func}(latents_in):\n    pass\n'
    legacy_pickle.dump(state, tmp_path / 'original.pkl')
    assert_restored(tmp_path / 'original.pkl')


@pytest.mark.parametrize('spoil, expected', [
    (lambda s: setattr(s[0], 'build_func_name', 'G_unheard_of'), 'G_unheard_of'),
    (lambda s: s[0].static_kwargs.update(resolution=9), 'power of two'),
    (lambda s: s[1].variables.pop(), 'missing variables'),
    (lambda s: s[1].variables.append(('16x16/Conv0/weight', np.zeros([1], np.float32))), 'unexpected variables'),
    (lambda s: s[1].variables.__setitem__(0, (s[1].variables[0][0], np.zeros([2], np.float32))), 'expected shape'),
])
def test_a_pickle_that_does_not_fit_is_one_clear_error(tmp_path, spoil, expected):
    misc.save_pkl(small_networks(), tmp_path / 'net.pkl')
    states = legacy_pickle.load(tmp_path / 'net.pkl')
    spoil(states)
    legacy_pickle.dump(states, tmp_path / 'bad.pkl')
    with pytest.raises(UserError, match=expected) as err:
        misc.load_pkl(tmp_path / 'bad.pkl')
    assert 'bad.pkl' in err.value.fact and err.value.remedy


@pytest.mark.parametrize('changes', [
    (1, dict(fmap_max=2**30, fmap_base=2**30)), (1, dict(resolution=2**30)), (1, dict(resolution=2**300)),
    (0, dict(fmap_max=2**30, fmap_base=2**30)), (0, dict(resolution=2**30)), (0, dict(latent_size=2**30)),
    (0, dict(mapping_layers=2**30)), (0, dict(mapping_fmaps=2**30)), (0, dict(mapping_fmaps=0, mapping_layers=2**30)),
    (0, dict(label_size=2**30)), (1, dict(num_channels=2**30)), (1, dict(mbstd_num_features=2**30)),
    (0, dict(resample_kernel=[1] * 100_000)), (1, dict(resolution='8')), (1, dict(fmap_max=None)),
    (1, dict(fmap_base=2**2000)), (0, dict(mapping_func=5)), (1, dict(resample_kernel={'a': 1}, architecture=[]))])
def test_settings_beyond_the_stored_weights_are_refused_at_once(tmp_path, changes):
    which, settings = changes
    misc.save_pkl(small_networks(), tmp_path / 'net.pkl')
    states = legacy_pickle.load(tmp_path / 'net.pkl')
    states[which].static_kwargs.update(settings)
    legacy_pickle.dump(states, tmp_path / 'bad.pkl')
    start = time.monotonic()
    with traced_memory() as peak, pytest.raises(UserError) as err:
        misc.load_pkl(tmp_path / 'bad.pkl')
    assert 'bad.pkl' in err.value.fact and '\n' not in err.value.fact and err.value.remedy
    assert time.monotonic() - start < 30 and peak() < 2**25


@pytest.mark.parametrize('content', [None, (), {'a': 1}, ('G', 'D', 'Gs'), (1, 2)])
def test_a_pickle_of_something_else_than_three_networks(tmp_path, content):
    legacy_pickle.dump(content, tmp_path / 'net.pkl')
    with pytest.raises(UserError, match='three networks') as err:
        misc.load_networks(tmp_path / 'net.pkl')
    assert 'net.pkl' in err.value.fact


def test_settings_unknown_here_are_ignored_with_a_note(tmp_path, capsys):
    misc.save_pkl(small_networks(), tmp_path / 'net.pkl')
    states = legacy_pickle.load(tmp_path / 'net.pkl')
    states[1].static_kwargs['use_spectral_norm'] = False
    legacy_pickle.dump(states, tmp_path / 'other.pkl')
    misc.load_pkl(tmp_path / 'other.pkl')
    assert 'use_spectral_norm' in capsys.readouterr().out


def test_grid_of_one_channel_and_of_many(tmp_path):
    from PIL import Image
    for channels, mode in [(1, 'L'), (2, 'L'), (3, 'RGB'), (5, 'RGB')]:
        misc.save_image_grid(np.zeros([2, channels, 4, 4], np.float32), str(tmp_path / 'grid.png'), drange=[-1, 1],
                             grid_size=(2, 1))
        with Image.open(tmp_path / 'grid.png') as image:
            assert (image.mode, image.size) == (mode, (8, 4))
    assert [path.name for path in tmp_path.iterdir()] == ['grid.png']
