"""Progressive growing: the arithmetic of fading, what a stage computes, and training through stages."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import dataset_tool
from dnnlib import tflib
from dnnlib.pickles import legacy_pickle
from dnnlib.tflib import Random
from tests import ROOT
from tests.graphs import eagerly
from tests.training.test_training_loop import data_dir, train  # noqa: F401  a fixture
from training import configs, loss, misc
from training.nets import progressive, registry
from training.step import iteration
from training.step.train_step import TrainStep

KINDS = {  # G's func_name and settings, D's func_name
    'config-a': ('G_style', {}, 'D_basic'),
    'config-b': ('G_main', {'synthesis_func': 'G_synthesis_stylegan_revised'}, 'D_stylegan'),
}


def make_networks(kind):
    tf.keras.utils.set_random_seed(1)
    G_func, G_args, D_func = KINDS[kind]
    shape = dict(num_channels=2, resolution=16, fmap_base=32, fmap_max=4)
    G = registry.create_network(
        'G', G_func, latent_size=8, dlatent_size=8, mapping_fmaps=8, mapping_layers=1, **shape, **G_args
    )
    return G, registry.create_network('D', D_func, **shape), G.clone('Gs')


def set_lod(lod, *nets):
    for net in nets:
        net.set_var('lod', lod)


# ---- Arithmetic ----

@pytest.mark.parametrize('lod, level, expected', [
    (0, 0, 0), (0.25, 0, 0.25), (1, 0, 1), (1.5, 0, 1), (1.5, 1, 0.5), (1.5, 2, 0), (3, 2, 1)])
def test_fade(lod, level, expected):
    assert progressive.fade(lod, level).numpy() == pytest.approx(expected)


def test_up_and_down_are_inverse_and_keep_the_mean():
    x = tf.random.normal([2, 4, 4, 3])
    y = progressive.upscale(x, 4)
    assert y.shape == (2, 16, 16, 3)
    np.testing.assert_allclose(progressive.downscale(y, 4), x, rtol=1e-6)
    np.testing.assert_array_equal(y[:, 4:8, 8:12, 0], np.broadcast_to(x[:, 1:2, 2:3, 0], [2, 4, 4]))
    np.testing.assert_allclose(tf.reduce_mean(progressive.downscale(x, 2)), tf.reduce_mean(x), rtol=1e-5)


@pytest.mark.parametrize('lod', [0.0, 0.3, 1.0, 1.6, 2.0])
def test_growing_is_fading_between_two_resolutions(lod):
    """With blocks that only double and RGB that only names its resolution, the image is that mixture of names."""
    def image(level):
        return np.full([1, 16, 16, 1], 10.0 * level, np.float32)

    images = progressive.grow_images(
        tf.zeros([1, 4, 4, 1]),
        lambda res, x: x if res == 2 else progressive.upscale(x, 2),
        lambda res, x: x + 10.0 * (4 - res),
        4,
        tf.constant(lod),
        int(lod),
    )
    expected = image(int(lod)) * (1 - lod % 1) + image(int(lod) + 1) * (lod % 1)
    np.testing.assert_allclose(images, expected, rtol=1e-6)


def test_shrinking_asks_from_rgb_only_where_it_shows():
    asked = []

    def from_rgb(res, images):
        asked.append(res)
        return images
    for stage, expected in [(0, [4, 3]), (1, [3, 2]), (2, [2]), (None, [4, 3, 2])]:
        asked.clear()
        images = tf.zeros([1, 16, 16, 1])
        progressive.shrink_images(
            images, lambda res, x: progressive.downscale(x, 2), from_rgb, 4, tf.constant(0.0), stage
        )
        assert asked == expected


# ---- Networks ----

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('lod', [0, 0.4, 1, 1.7, 2])
def test_a_stage_equals_the_whole_network(kind, lod):
    G, D, _ = make_networks(kind)
    set_lod(lod, G, D)
    z = np.random.RandomState(0).randn(4, 8).astype(np.float32)
    images = G.run(z, None, randomize_noise=False)
    whole = G.get_output_for(tf.constant(z), None, randomize_noise=False)
    np.testing.assert_allclose(images, whole, rtol=1e-4, atol=1e-5)
    small = G.get_output_for(tf.constant(z), None, randomize_noise=False, lod_stage=int(lod), full_resolution=False)
    assert small.shape[2] == 16 >> int(lod)
    scores = D.run(images, None)
    np.testing.assert_allclose(scores, D.get_output_for(whole, None), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores, D.get_output_for(small, None, lod_stage=int(lod)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_one_trace_per_stage_and_none_on_return(kind):
    G = make_networks(kind)[0]
    for lod in (2, 1.9, 1.5, 1.1, 1, 0.5, 1.5, 2):
        set_lod(lod, G)
        G.run(np.zeros([1, 8]), None, randomize_noise=False)
    functions = G._net.functions.values()
    assert len(functions) == 3 and all(f._function.experimental_get_tracing_count() == 1 for f in functions)



@pytest.mark.parametrize('kind', KINDS)
def test_a_coarse_stage_does_not_pay_for_fine_ones(kind):
    G, D, Gs = make_networks(kind)
    trainer = TrainStep(G, D, Gs, 'G_logistic_ns', 'D_logistic_r1', lazy_regularization=False)
    for lod, size in [(2.0, 4), (1.5, 8), (0.0, 16)]:
        stage = trainer.set_lod(lod)
        reals, labels = tf.zeros([2, 2, size, size]), tf.zeros([2, 0])
        for phase in ('G_train', 'D_train'):  # The latter with R1.
            if lod == 2.0:  # What is run is what is looked at: there is one trace. The others need not run.
                trainer.run(phase, 2, 1, 0.001, reals, labels, stage)
            traced = trainer.function(phase, 2, 1, stage).get_concrete_function(
                tf.constant([0, 0], tf.int64), tf.constant(0.001), *([] if phase[0] == 'G' else [reals, labels]))
            images = {tuple(x.shape[1:3]) for op in traced.graph.get_operations() for x in op.outputs
                      if x.shape.rank == 4 and op.type in ('Conv2D', 'Conv2DBackpropInput', 'DepthwiseConv2dNative')}
            assert max(s[0] for s in images if s[0]) <= size + 3, (phase, lod, images)
    assert set(trainer.num_traces().values()) == {1}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', ['D_logistic_r1', 'D_logistic_r2', 'D_wgan_gp'])
def test_penalties_at_the_stage_equal_those_at_full_resolution(kind, name):
    G, D, _ = make_networks(kind)
    set_lod(1.0, G, D)
    small = tf.random.stateless_normal([4, 2, 8, 8], [1, 2])
    values = []
    for stage, reals in [(1, small), (None, tf.repeat(tf.repeat(small, 2, axis=2), 2, axis=3))]:
        G.set_var('dlatent_avg', np.zeros(8))
        rng = Random(tf.random.Generator.from_seed(3))
        step = loss.LossContext(_WithoutNoise(G), D, 4, rng, tf.zeros([1, 0]), reals, tf.zeros([4, 0]), None, stage)
        values.append(loss.LOSSES[name].func(step, ('loss', 'reg')))
    np.testing.assert_allclose(values[0].loss, values[1].loss, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values[0].reg, values[1].reg, rtol=1e-3, atol=1e-7)


class _WithoutNoise:
    """G with its fixed noise, for a stage draws fewer random numbers than the whole network."""

    def __init__(self, G):
        self.G, self.input_shape, self.known_call_kwargs = G, G.input_shape, G.known_call_kwargs

    def __call__(self, *args, **kwargs):
        return self.G(*args, **kwargs, randomize_noise=False)


def test_process_reals_at_the_stage():
    images = np.random.RandomState(0).randint(256, size=[2, 3, 8, 8]).astype(np.uint8)
    whole, _ = misc.process_reals(images, None, 1.25, False, [0, 255], [-1, 1])
    small, _ = misc.process_reals(tf.constant(images), None, tf.constant(1.25), False, [0, 255], [-1, 1], stage=1)
    assert small.shape == (2, 3, 8, 8)
    np.testing.assert_allclose(tf.repeat(tf.repeat(small, 2, axis=2), 2, axis=3), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    'kind, kwargs',
    [
        ('config-a', dict(use_pixel_norm=True, use_instance_norm=False)),
        ('config-a', dict(use_styles=False, use_noise=False)),
        ('config-a', dict(const_input_layer=False)),
        ('config-a', dict(use_wscale=False, blur_filter=None, fused_scale=True)),
        ('config-a', dict(nonlinearity='relu', mapping_nonlinearity='relu', normalize_latents=False)),
    ],
)
def test_options_of_stylegan(kind, kwargs):
    small = dict(latent_size=8, mapping_fmaps=8, dlatent_size=8, mapping_layers=1, resolution=8, fmap_max=4)
    G = registry.create_network('G', 'G_style', **small, **kwargs)
    images = G.run(np.random.RandomState(0).randn(2, 8), None)
    assert images.shape == (2, 3, 8, 8) and np.all(np.isfinite(images))
    again = misc._network_from_state(misc._state_from_network(G), 'memory')
    np.testing.assert_array_equal(again.get_var('G_mapping/Dense0/weight'), G.get_var('G_mapping/Dense0/weight'))


def test_a_state_of_version_2_has_all_variables_in_one_list(tmp_path):
    G, D, Gs = make_networks('config-a')
    misc.save_pkl((G, D, Gs), tmp_path / 'new.pkl')
    states = legacy_pickle.load(tmp_path / 'new.pkl')
    for state in states:
        state.variables = list(misc.named_values(state).items())
        state.components = {}
    legacy_pickle.dump(states, tmp_path / 'old.pkl')
    for old, new in zip(misc.load_pkl(tmp_path / 'old.pkl'), (G, D, Gs), strict=True):
        for name in new.vars:
            np.testing.assert_array_equal(old.get_var(name), new.get_var(name))


# ---- Training ----

def test_loss_names_of_the_flags_are_those_of_the_table():
    assert set(configs.G_LOSSES) | set(configs.D_LOSSES) == set(loss.LOSSES)


@pytest.mark.slow
@pytest.mark.parametrize('config', ['config-a', 'config-d'])
def test_faces_grow_from_8x8_to_32x32(config, tmp_path):
    """A short run on the demo's faces through both stages of growth brings the images closer to the reals."""
    demo = ROOT / 'demo' / 'faces32.zip'
    dataset_tool.main(['create_from_images', str(tmp_path / 'faces'), str(demo)])
    done = train(
        tmp_path,
        tmp_path / 'results',
        f'--config={config}',
        '--total-kimg=1.3',
        '--tick-kimg=0.1',
        '--image-snapshot-ticks=100',
        '--network-snapshot-ticks=100',
        '--minibatch-size=8',
        '--minibatch-gpu=8',
        '--lod-training-kimg=0.4',
        '--lod-transition-kimg=0.15',
        '--fmap-base=256',
        '--fmap-max=32',
        '--latent-size=32',
        '--lrate=0.006',
        '--gamma=0.3',
        '--g-smoothing-kimg=0.1',
        dataset='faces',
    )
    assert done.returncode == 0, done.stderr
    folder = next((tmp_path / 'results').glob('0*'))
    assert re.findall(r'Compiling the training step for (\d+)x', done.stdout) == ['8', '16', '32']
    lods = [float(lod) for lod in re.findall(r'lod (\d\.\d\d)', done.stdout)]
    assert lods[0] == 2 and lods[-1] == 0 and any(lod % 1 for lod in lods) and lods == sorted(lods, reverse=True)
    Gs = misc.load_pkl(folder / 'network-final.pkl')[2]
    assert Gs.get_var('lod') == 0 and Gs.output_shape == [None, 3, 32, 32]
    stats = [json.loads(line) for line in (folder / 'stats.jsonl').read_text().splitlines()]
    assert stats[0]['Progress/lod'] == 2 and stats[-1]['Progress/lod'] == 0
    assert all(np.isfinite(line['Loss/scores/real']) for line in stats)
    # The mean face of the grids, as far as 8x8 can show it, and in full.
    last = max(path.name for path in folder.glob('fakes0*.png'))
    real, init, fake = (np.float32(Image.open(folder / name)).reshape(4, 32, 8, 32, 3).mean(axis=(0, 2))
                        for name in ('reals.png', 'fakes_init.png', last))
    for size in (8, 32):
        init_error, error = (
            np.std((x - real).reshape(size, 32 // size, size, 32 // size, 3).mean(axis=(1, 3))) for x in (init, fake)
        )
        assert error < 0.8 * init_error, (size, error, init_error)


@pytest.mark.parametrize('config, flags', [
    ('config-a', ['--d-loss=D_wgan_gp', '--g-loss=G_wgan']),
    ('config-f', ['--g-loss=G_logistic_ns', '--d-loss=D_logistic'])])
def test_training_with_labels(config, flags, data_dir, tmp_path):  # noqa: F811
    labels = np.eye(3, dtype=np.float32)[np.arange(40) % 3]
    folder = data_dir / f'labelled-{config}'
    folder.mkdir()
    for path in (data_dir / 'tiny').glob('*.tfrecords'):
        (folder / path.name.replace('tiny', folder.name)).write_bytes(path.read_bytes())
    with open(folder / f'{folder.name}-rxx.labels', 'wb') as file:
        np.save(file, labels)
    with eagerly():
        done = train(data_dir, tmp_path, f'--config={config}', '--cond=true', '--total-kimg=0.016',
                     '--minibatch-gpu=4', *flags, dataset=folder.name)
    assert done.returncode == 0, done.stderr
    stats = [json.loads(line) for line in (next(tmp_path.glob('0*')) / 'stats.jsonl').read_text().splitlines()]
    assert all(np.isfinite(line['Loss/scores/real']) for line in stats)
    _G, D, Gs = misc.load_pkl(next(tmp_path.glob('0*')) / 'network-final.pkl')
    assert Gs.input_shapes[1] == D.input_shapes[1] == [None, 3]
    z = np.random.RandomState(0).randn(1, 8)
    first, second = (Gs.run(z, labels[i:i + 1], randomize_noise=False) for i in (0, 1))
    assert np.abs(first - second).max() > 1e-4
    assert 'Label size    = 3' in done.stdout


def test_moments_are_forgotten_when_layers_come_in():
    assert iteration._levels(2.0) == (2, 2) and iteration._levels(1.9) == iteration._levels(1.1) == (1, 2)


def test_gamma_needs_a_loss_that_has_it():
    from dnnlib.cli import UserError
    with pytest.raises(UserError, match='gamma'):
        configs.training_run('ds', D_loss='D_wgan', gamma=1.0)
    assert configs.training_run('ds', D_loss='D_logistic_r2', gamma=1.0).run_func_kwargs.D_loss_args == {
        'func_name': 'training.loss.D_logistic_r2', 'gamma': 1.0}


def test_output_transform_at_a_coarse_stage():
    Gs = make_networks('config-b')[2]
    set_lod(2, Gs)
    images = Gs.run(
        np.zeros([2, 8]), None, output_transform=dict(func=tflib.convert_images_to_uint8, nchw_to_nhwc=True)
    )
    assert images.shape == (2, 16, 16, 2) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[:, ::4, ::4], images[:, 3::4, 3::4])
