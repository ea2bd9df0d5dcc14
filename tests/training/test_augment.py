"""Augmentation against StyleGAN2-ADA's numbers, its probabilities, and the sheet that shows it."""

import functools

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import custom_ops
from dnnlib.cli import UserError
from dnnlib.tflib import KeyedRandom
from tests.golden import GOLDEN_ADA, assert_close, load_json, load_npz
from tests.injected import InjectedRandom
from tests.light_help import help_of
from training import augment
from training.augment import AUGPIPES, AugmentPipe
from training.step import augmentations, warp

golden_ada = pytest.mark.golden('STYLEGAN2_GOLDEN_ADA')
CASES = load_json('augment/cases.json', GOLDEN_ADA) or []
TOLERANCES = {'y': 1e-5, 'grad': 5e-5, 'grad2_ct': 1e-4}


class LoggedRandom(InjectedRandom):
    """Recorded numbers, and a log of what was asked for: [[name, distribution, shape], ...]."""

    def __init__(self, values):
        super().__init__(values)
        self.log = []

    def normal(self, name, shape):
        self.log.append([name, 'normal', [int(size) for size in shape]])
        return super().normal(name, shape)

    def uniform(self, name, shape):
        self.log.append([name, 'uniform', [int(size) for size in shape]])
        return super().uniform(name, shape)


load_arrays = functools.cache(lambda file: load_npz(f'augment/{file}', GOLDEN_ADA))


def evaluate(case, arrays):
    """({'y': ..., 'grad': ..., 'grad2_ct': ...}, log of the draws) of a golden case."""
    x, ct = tf.constant(arrays[case['x']]), tf.constant(arrays[case['ct']])
    rng = LoggedRandom({name: arrays[f'{case["key"]}/rand/{name}'] for name in case['recorded']})
    pipe = AugmentPipe(**case['kwargs'])
    second = 'grad2_ct' in case['outputs']
    with tf.GradientTape() as outer:
        outer.watch(ct)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = pipe(x, case['p'], rng, case['debug_percentile'])
            total = tf.reduce_sum(y * ct)
        grad = inner.gradient(total, x)
        squares = tf.reduce_sum(tf.square(grad))
    return {'y': y, 'grad': grad, 'grad2_ct': outer.gradient(squares, ct) if second else None}, rng.log


def name_of(case):
    return f'{case["key"]}-{"x".join(map(str, case["shape"]))}'


@golden_ada
@pytest.mark.parametrize('case', CASES, ids=name_of)
def test_golden_cases(case):
    arrays = load_arrays(case['file'])
    results, log = evaluate(case, arrays)
    for name in case['outputs']:
        assert_close(results[name], arrays[f'{case["key"]}/{name}'], TOLERANCES[name], f'{case["key"]} {name}')
    expected = case['draws'] if case['debug_percentile'] is None else [
        draw for draw in case['draws'] if draw[0] in case['recorded']]
    assert log == expected


@golden_ada
@pytest.mark.parametrize('case', [case for case in CASES if case['debug_percentile'] is None], ids=name_of)
def test_golden_cases_with_the_reference_form_of_the_ops(case, reference_form):
    test_golden_cases(case)


@golden_ada
def test_golden_constants():
    constants = load_json('augment/constants.json', GOLDEN_ADA)
    assert {name: list(ops) for name, ops in AUGPIPES.items()} == constants['groups']
    settings = AugmentPipe().settings
    assert {**settings, 'imgfilter_bands': list(settings['imgfilter_bands'])} == constants['defaults']
    assert_close(warp.HZ_GEOM, constants['Hz_geom'], 1e-7)
    assert_close(augmentations.HZ_FBANK, constants['Hz_fbank'], 1e-7)


@pytest.fixture
def reference_form():
    custom_ops.set_impl('ref')
    yield
    custom_ops.set_impl(None)


# The share of images on which an operation has an effect if it acts: for some of its values it has none.
EFFECTS = {'xflip': 1 / 2, 'rotate90': 3 / 4, 'lumaflip': 1 / 2, 'xint': 1 - 1 / 4 ** 2}


@pytest.mark.parametrize('op', AUGPIPES['bgcfnc'])
def test_an_operation_acts_with_the_probability_that_it_is_given(op):
    n, p, multiplier = 400, 0.8, 0.5
    images = tf.random.uniform([n, 3, 24, 24], -1, 1)
    # Translations by up to 2 pixels. These are rounded, to 0 in a quarter of the cases along each axis.
    result = AugmentPipe(**{op: multiplier}, xint_max=1 / 12)(images, p, KeyedRandom(tf.constant([1, 2], tf.int64)))
    changed = np.abs(result - images).max(axis=(1, 2, 3)) > 1e-4
    share = EFFECTS.get(op, 1) * p * multiplier
    if op == 'imgfilter':
        share = 1 - (1 - p * multiplier) ** 4  # Any of the four bands.
    assert abs(changed.mean() - share) < 4 * np.sqrt(share * (1 - share) / n)


@pytest.mark.parametrize('channels', [1, 3])
def test_nothing_changes_at_p_0_and_everything_above_1(channels):
    images = tf.random.uniform([4, channels, 24, 24], -1, 1)
    pipe, rng = AugmentPipe(**AUGPIPES['bgcfnc']), KeyedRandom(tf.constant([1, 2], tf.int64))
    np.testing.assert_allclose(pipe(images, 0.0, rng), images, atol=1e-5)
    np.testing.assert_array_equal(pipe(images, 1.5, rng), pipe(images, 1.0, rng))
    assert np.all(np.abs(pipe(images, 1.0, rng) - images).max(axis=(1, 2, 3)) > 0.1)


def test_one_trace_serves_all_probabilities_and_margins():
    pipe = AugmentPipe(**AUGPIPES['bgc'])
    images = tf.random.uniform([3, 3, 16, 16], -1, 1)

    def function(images, p, key):
        with tf.GradientTape() as tape:
            tape.watch(images)
            y = pipe(images, p, KeyedRandom(key))
        return y, tape.gradient(y, images, images)

    traced = tf.function(function, autograph=False)
    seen = []
    for p, seed in ((0.0, 1), (0.7, 2), (1.0, 3)):
        args = images, tf.constant(p), tf.constant([5, seed], tf.int64)
        for actual, expected in zip(traced(*args), function(*args), strict=True):
            assert actual.shape == images.shape
            assert_close(actual, expected, 1e-5)
        seen.append(traced(*args)[0].numpy())
    assert traced.experimental_get_tracing_count() == 1
    assert not np.allclose(seen[1], seen[2], atol=0.1)


@pytest.mark.parametrize('shape, pipe, message', [
    ([2, 4, 16, 16], 'bgc', '1 or 3 channels'), ([2, 2, 16, 16], 'cutout', '1 or 3 channels'),
    ([2, 3, 21, 32], 'filter', 'at least 22 x 22')])
def test_images_that_cannot_be_augmented(shape, pipe, message):
    with pytest.raises(ValueError, match=message):
        AugmentPipe(**AUGPIPES[pipe])(tf.zeros(shape), 0.5, KeyedRandom(tf.constant([1, 2], tf.int64)))


# ---- The sheet ----

def test_sheet(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(augment, '_PROBABILITIES', [0.2, 1])  # Fewer columns, to save time.
    colors = np.linspace(0, 255, 40 * 60 * 3).reshape(40, 60, 3).astype(np.uint8)
    PIL.Image.fromarray(colors).save(tmp_path / 'a.png')
    PIL.Image.fromarray(colors[..., 0]).save(tmp_path / 'b.png')  # Gray: shown as RGB.
    sheets = []
    for seed in ('0', '0', '1'):
        augment.main([str(tmp_path / 'a.png'), str(tmp_path / 'b.png'), f'--sheet={tmp_path}/sheet.png', '--size=32',
                      f'--seed={seed}'])
        sheets.append(np.asarray(PIL.Image.open(tmp_path / 'sheet.png')))
    assert 'sheet.png' in capsys.readouterr().out
    np.testing.assert_array_equal(sheets[0], sheets[1])
    assert np.any(sheets[0] != sheets[2])
    # 15 operations and 8 groups; the originals and 2 probabilities.
    assert sheets[0].shape == (28 + 23 * 72, 100 + 3 * 72, 3)
    assert sheets[0][28:, :92].min(axis=2).std() > 0  # There are labels.


@pytest.mark.parametrize('args, message', [
    (['{here}/none', '--sheet={here}/a.png'], 'none'), (['{here}', '--sheet={here}/a.png'], 'No input images'),
    (['{here}', '--sheet={here}/a.jpg'], 'ends in .png'), (['{here}', '--sheet={here}/no/a.png'], 'no folder'),
    (['{here}', '--sheet={here}/a.png', '--size=8'], 'at least 32')])
def test_bad_arguments_of_the_sheet(args, message, tmp_path):
    with pytest.raises(UserError, match=message) as info:
        augment.main([arg.format(here=tmp_path) for arg in args])
    assert len(info.value.args[0].splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_help_of_the_sheet():
    assert '--sheet' in help_of('-m', 'training.augment')
