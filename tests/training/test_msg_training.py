"""Training of MSG-StyleGAN: labels, grids of all sizes, resuming, half precision, starting from its pickles."""

import contextlib
import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.golden import GOLDEN_FAMILY
from tests.graphs import eagerly
from tests.training.run.test_resume import stop_and_go_on, train
from tests.training.test_progan_training import arguments as arguments_of_progan
from tests.training.test_progan_training import data_dir as data_dir  # noqa: PLC0414  A fixture.
from training import misc
from training.loss import LossContext
from training.nets import registry
from training.step.regularizers import gradient_penalty


def arguments(**changes):
    return arguments_of_progan(config='msg-stylegan', lod_training_kimg=None, lod_transition_kimg=None, **changes)


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_the_same(data_dir, tmp_path):
    never = stop_and_go_on(data_dir, tmp_path, **arguments())
    lines = [json.loads(line) for line in (never / 'stats.jsonl').read_text().splitlines()]
    assert lines[-1]['Loss/gradient_penalty'] > 0
    G, D, Gs = misc.load_networks(never / 'network-final.pkl')
    assert type(G).__module__ == 'training.networks_msg' and D.input_shapes == [
        [None, 3, 4, 4], [None, 3, 8, 8], [None, 3]]
    assert np.any(G.get_var('G_synthesis/8x8/Conv1/weight') != Gs.get_var('G_synthesis/8x8/Conv1/weight'))
    assert np.any(G.get_var('G_synthesis/ToRGB_lod1/weight') != Gs.get_var('G_synthesis/ToRGB_lod1/weight'))
    with Image.open(never / 'fakes_init.png') as large, Image.open(never / '4x4' / 'fakes_init.png') as small:
        assert large.size == small.size
        small = np.asarray(small)
        np.testing.assert_array_equal(small, small[::2, ::2].repeat(2, axis=0).repeat(2, axis=1))
    assert {path.name for path in never.glob('fakes*.png')} == {path.name for path in (never / '4x4').iterdir()}


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
@pytest.mark.parametrize('precision', ['float32', pytest.param('bfloat16', marks=pytest.mark.slow)])
def test_a_pickle_of_the_original_is_adapted_and_trained_on(precision, data_dir, tmp_path):
    pkl = GOLDEN_FAMILY / 'msg/networks/m16.pkl'
    with contextlib.redirect_stdout(io.StringIO()) as out, eagerly():
        train(data_dir, tmp_path / 'next', resume=None, **arguments(total_kimg=0.004, precision=precision),
              resume_pkl=str(pkl))
    assert 'The pickle is for 16x16 images of 3 channels with 0 labels' in out.getvalue()
    assert ('Precision: bfloat16 from 8x8 to 8x8' in out.getvalue()) == (precision == 'bfloat16')
    source, trained = misc.load_networks(pkl)[0], misc.load_networks(tmp_path / 'next' / 'network-final.pkl')[0]
    difference = np.abs(trained.get_var('G_synthesis/4x4/Conv/weight') - source.get_var('G_synthesis/4x4/Conv/weight'))
    assert 0 < difference.max() < 0.02
    np.testing.assert_allclose(  # What made images of 8x8 pixels does so again, under another name.
        trained.get_var('G_synthesis/ToRGB_lod0/weight'), source.get_var('G_synthesis/ToRGB_lod1/weight'), atol=0.02)


def test_the_penalty_of_a_size_includes_what_passes_through_smaller_sizes():
    """Against the gradients of a D whose inputs are independent, by the chain rule."""
    tf.random.set_seed(1)
    shape = dict(num_channels=1, resolution=16, fmap_base=32, fmap_max=4)
    D = registry.create_network('D', 'training.networks_msg.D_basic', **shape)
    context = LossContext(None, D, 2, None, None)
    reals = tf.random.normal([2, 1, 16, 16])
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(reals)
        sizes = context.inputs_of_D(reals)
        scores = context.scores('aug_real', sizes, tf.zeros([2, 0]))
    _, squares = gradient_penalty(tape, scores, sizes, 1.0, 10.0)
    assert [size.shape[2] for size in sizes] == [4, 8, 16]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(sizes)
        scores = context.scores('aug_real', sizes, tf.zeros([2, 0]))
    small, middle, large = tape.gradient(scores, sizes)

    def spread(grad):  # A pixel has a quarter of the weight in the mean of 2x2.
        return tf.repeat(tf.repeat(grad, 2, axis=2), 2, axis=3) / 4
    middle += spread(small)
    large += spread(middle)
    expected = sum(tf.reduce_sum(grad ** 2, axis=[1, 2, 3]) for grad in (small, middle, large)) / 3
    np.testing.assert_allclose(squares, expected, rtol=1e-5)
    assert np.abs(spread(middle) / large).max() > 1e-3
