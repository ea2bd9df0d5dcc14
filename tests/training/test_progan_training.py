"""Training of ProGAN, and of a step from it to StyleGAN: growing, labels, resuming, starting from its pickles."""

import contextlib
import io
import json

import numpy as np
import pytest

from tests.golden import GOLDEN_FAMILY
from tests.graphs import eagerly
from tests.training.run.test_resume import make_dataset, stop_and_go_on, train
from training import misc
from training.configs import training_run

# 4x4 until 16 images, then 8x8 fades in until 32.
OPTIONS = dict(config='progan', cond=True, fmap_base=32, fmap_max=4, latent_size=8, minibatch_size=4, minibatch_gpu=4,
               lod_training_kimg=0.016, lod_transition_kimg=0.016, tick_kimg=0.016, total_kimg=0.048,
               image_snapshot_ticks=2, network_snapshot_ticks=2)


def arguments(**changes):
    kwargs = {**training_run('tiny', **{**OPTIONS, **changes}).run_func_kwargs, 'mirror_augment': True}
    return {name: value for name, value in kwargs.items() if name not in ('data_dir', 'tf_config')}  # As `train` has.


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    """Folder with the dataset `tiny`, of 8x8 pixels with labels of three classes."""
    folder = tmp_path_factory.mktemp('data')
    make_dataset(folder / 'tiny', 8)
    return folder


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_the_same_and_its_pickle_is_trained_on(data_dir, tmp_path):
    kwargs = arguments()
    never = stop_and_go_on(data_dir, tmp_path, **kwargs)
    lines = [json.loads(line) for line in (never / 'stats.jsonl').read_text().splitlines()]
    assert {'Loss/label_penalty/real', 'Loss/label_penalty/fake', 'Loss/gradient_penalty'} <= set(lines[-1])
    G, D, Gs = misc.load_networks(never / 'network-final.pkl')
    assert type(G).__name__ == 'G_paper' and D.layer('4x4/Dense1').weight.shape[1] == 4
    assert np.any(G.get_var('8x8/Conv1/weight') != Gs.get_var('8x8/Conv1/weight'))

    with contextlib.redirect_stdout(io.StringIO()) as out:
        train(data_dir, tmp_path / 'next', resume=None, **{**kwargs, 'total_kimg': 0.004},
              resume_pkl=str(never / 'network-final.pkl'), resume_kimg=0)
    assert 'Loading networks from' in out.getvalue()
    assert (tmp_path / 'next' / 'network-final.pkl').is_file()


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
@pytest.mark.parametrize('precision', ['float32', pytest.param('bfloat16', marks=pytest.mark.slow)])
def test_a_pickle_of_the_original_is_adapted_and_trained_on(precision, data_dir, tmp_path):
    kwargs = arguments(total_kimg=0.004, precision=precision)
    if precision == 'bfloat16':  # It is not used at 4x4.
        kwargs['sched_args']['lod_initial_resolution'] = 8
    with contextlib.redirect_stdout(io.StringIO()) as out, eagerly():
        train(data_dir, tmp_path / 'next', resume=None, **kwargs,
              resume_pkl=str(GOLDEN_FAMILY / 'progan/networks/p16.pkl'))
    assert 'The pickle is for 16x16 images of 3 channels with 0 labels' in out.getvalue()
    source = misc.load_networks(GOLDEN_FAMILY / 'progan/networks/p16.pkl')[0]
    trained = misc.load_networks(tmp_path / 'next' / 'network-final.pkl')[0]
    assert np.abs(trained.get_var('4x4/Conv/weight') - source.get_var('4x4/Conv/weight')).max() < 0.01
    assert trained.input_shapes[1] == [None, 3]


@pytest.mark.slow
@pytest.mark.parametrize('config', ['stylegan-c', 'stylegan-d', 'stylegan-e', 'stylegan-f'])
def test_steps_to_stylegan_train(config, data_dir, tmp_path):
    kwargs = arguments(config=config, mapping_layers=1, lod_training_kimg=0.004, lod_transition_kimg=0.008,
                       total_kimg=0.016)
    kwargs['sched_args']['lod_initial_resolution'] = 4
    # stylegan-f has all that the others have, and is traced.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.nullcontext() if config == 'stylegan-f' else eagerly():
        train(data_dir, tmp_path / 'run', resume=None, **kwargs)
    G, D, _Gs = misc.load_networks(tmp_path / 'run' / 'network-final.pkl')
    synthesis = G.components.synthesis
    assert float(G.get_var('lod')) == 0 and D.input_shapes[1] == [None, 3]
    assert ('4x4/Const/const' in synthesis.vars) == (config != 'stylegan-c')
    assert ('noise0' in synthesis.vars) == (config in ('stylegan-e', 'stylegan-f'))
    assert G.kw.style_mixing_prob == (0.9 if config == 'stylegan-f' else 0)
    assert np.any(G.get_var('G_synthesis/8x8/Conv1/StyleMod/bias')) and np.any(G.get_var('dlatent_avg'))


def test_stylegan_without_mapping_and_styles_trains(data_dir, tmp_path):
    """stylegan-b differs most from config-a."""
    kwargs = arguments(config='stylegan-b', cond=False, lod_training_kimg=0.008, total_kimg=0.020)
    kwargs['sched_args']['lod_initial_resolution'] = 4
    with contextlib.redirect_stdout(io.StringIO()):
        train(data_dir, tmp_path / 'run', resume=None, **kwargs)
    G = misc.load_networks(tmp_path / 'run' / 'network-final.pkl')[0]
    assert G.components.synthesis.input_shape == [None, 1, 8]
    assert float(G.get_var('lod')) == 0.75  # After 12 images: `train` has minibatch_repeats=3.
    assert np.any(G.get_var('dlatent_avg')) and np.std(G.get_var('G_synthesis/4x4/Dense/bias')) > 0
