"""The arithmetic of the metrics, compared with the original's numbers and with plain implementations."""

import types

import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf

from dnnlib.cli import UserError
from dnnlib.util import EasyDict
from metrics import (
    kernel_inception_distance,
    linear_separability,
    metric_base,
    perceptual_path_length,
    precision_recall,
)
from metrics.collectors import Features, Moments
from metrics.frechet_inception_distance import FD, FID, frechet_distance
from metrics.inception_score import SplitScores
from metrics.metric_defaults import metric_args, metric_defaults
from tests.golden import GOLDEN, assert_close, load_json, load_npz
from tests.injected import InjectedRandom
from training import misc

RESULTS = load_json('metrics/results.json')


def collected(collector, features, batch=7):
    """Feed a collector the features in small batches, and return it."""
    for begin in range(0, len(features), batch):
        collector.add(features[begin:begin + batch])
    collector.finish()
    return collector


# ---- Names ----

@pytest.mark.golden
def test_the_originals_nine_metrics_have_its_settings():
    assert {name: metric_defaults[name] for name in RESULTS['metric_defaults']} == RESULTS['metric_defaults']
    assert set(metric_defaults) - set(RESULTS['metric_defaults']) == {'kid50k', 'fd_efficientnet50k'}


@pytest.mark.parametrize('name, expected', [
    ('fid5k', dict(num_images=5000)), ('fid500', dict(num_images=500)), ('fid0.5k', dict(num_images=500)),
    ('is1.5k', dict(num_images=1500, num_splits=10)),
    ('kid1k', dict(num_images=1000)), ('fd_efficientnet500', dict(num_images=500, feature_net='efficientnet_lite0')),
    ('pr10k3', dict(num_images=10000, nhood_size=3)),
    ('pr1k10_exact', dict(num_images=1000, nhood_size=10, exact=True)),
    ('pr50k3_exact', dict(num_images=50000, nhood_size=3, exact=True)),
    ('ppl_wend2k', dict(num_samples=2000, space='w', sampling='end', crop=True)),
    ('ppl2_wend100', dict(num_samples=100, crop=False)),
    ('ls20k', dict(num_samples=20000, num_keep=10000))])
def test_metrics_at_other_numbers(name, expected):
    args = metric_args(name)
    assert args.name == name and {key: args[key] for key in expected} == expected
    assert metric_base.MetricGroup([args]).metrics[0].name == name


@pytest.mark.parametrize('name', [
    'fid', 'fid50kk', 'fid-5', 'fid05k', 'pr10k', 'pr500', 'ppl_wend_5k', 'FID50k', 'fid1', 'fid0k', 'is9', 'pr0.003k3',
    'os.system', ''])
def test_names_that_are_no_metric(name):
    with pytest.raises(UserError) as caught:
        metric_args(name)
    assert name in caught.value.fact and caught.value.remedy


@pytest.mark.parametrize('name', [
    'fd_efficientnet99999999999k', 'fid10000001', 'pr10000.001k3', 'ls99999999k', 'ppl_wend' + 15 * '9'])
def test_more_images_than_anybody_needs_are_refused(name):
    with pytest.raises(UserError, match='too many') as caught:
        metric_args(name)
    assert name in caught.value.fact and '10000000' in caught.value.remedy
    assert metric_args('fid10000k').num_images == 10_000_000


@pytest.mark.parametrize(
    'name', ['fid' + 5000 * '9', 'fid' + 5000 * '9' + 'k', 'pr1k' + 5000 * '9', 'fid0.' + 5000 * '1' + 'k']
)
def test_numbers_of_thousands_of_digits_are_no_metric(name):
    with pytest.raises(UserError, match='there is no'):
        metric_args(name)


def test_near_misses_get_a_hint():
    with pytest.raises(UserError, match='Did you mean ppl2_wend?'):
        metric_args('ppl2_wnd')


def test_no_other_function_is_called_by_name():
    with pytest.raises(ValueError, match='unknown metric'):
        metric_base.MetricGroup([dict(func_name='os.system', name='echo')])


# ---- The line of results ----

@pytest.mark.golden
def test_the_line_of_results_is_that_of_the_original():
    first, second = RESULTS['result_str_examples']
    metric = metric_base.MetricBase('dummy', [])
    metric.report(1.23456)
    assert metric.result_str('some/where/network-snapshot-000123.pkl', 3725) == first
    metric.report(12345.678, suffix='_x', fmt='%-10.4f')
    assert metric.result_str('http://host/stylegan2-ffhq-config-f-very-long-name.pkl', 60) == second


# ---- Frechet distance ----

def noted_fid(reals, fakes, cls=FID, **kwargs):
    metric = cls('fid', len(fakes), **kwargs)
    fake_stats = collected(metric.collector(len(fakes)), fakes)
    metric.evaluate(fake_stats, collected(metric.collector(len(reals)), reals), seed=0)
    [(suffix, value, fmt)] = metric.results
    assert (suffix, fmt) == ('', '%-10.4f')
    return value


@pytest.mark.golden
@pytest.mark.parametrize('matrix_sqrt', ['sqrtm', 'eigh'])
def test_fid_is_that_of_the_original(matrix_sqrt, capsys):
    data = load_npz('metrics/fid_is.npz')
    value = noted_fid(data['fid/real_activations'], data['fid/fake_activations'], matrix_sqrt=matrix_sqrt)
    assert_close(value, data['fid/value'], 1e-5)
    assert_close(value, RESULTS['fid'][0][1], 1e-5)
    assert 'Note' not in capsys.readouterr().out


def gaussians(dims, n=400):
    rnd = np.random.RandomState(dims)
    return [rnd.randn(n, dims) @ rnd.randn(dims, dims) + rnd.randn(dims) for _ in range(2)]


@pytest.mark.parametrize('dims', [3, 40, 200])
def test_both_forms_of_the_square_root_are_equal(dims):
    x, y = gaussians(dims)
    moments = [x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False)]
    assert frechet_distance(*moments, 'eigh') == pytest.approx(frechet_distance(*moments, 'sqrtm'), rel=1e-9)
    assert frechet_distance(*moments[:2], *moments[:2], 'eigh') == pytest.approx(0, abs=1e-8 * np.trace(moments[1]))


def test_frechet_distance_of_known_distributions():
    cov = np.diag([4.0, 9.0])
    # For diagonal matrices: the sum of the squared differences of the means and of the standard deviations.
    assert frechet_distance([0, 0], cov, np.array([3, 4]), np.diag([1.0, 25.0])) == pytest.approx(25 + 1 + 4)


def test_too_few_images_are_said_once_and_the_distance_stays_right(capsys):
    x, y = (features[:20] for features in gaussians(40))
    metric = FD('fd20', 20, 'net', matrix_sqrt='sqrtm')
    for _ in range(2):
        metric.evaluate(collected(Moments(20), y), collected(Moments(20), x), seed=0)
    out = capsys.readouterr().out
    note = 'fd20: the product of the covariances is singular: 40 features, of 20 real and 20 generated images'
    assert out.count(note) == 1
    # Tr (AB)^(1/2) is the sum of the singular values of A^(1/2) B^(1/2), here from the centred features themselves.
    a, b = ((features - features.mean(0)) / np.sqrt(19) for features in (x, y))
    trace = scipy.linalg.svdvals(a @ b.T).sum()
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.square(a).sum() + np.square(b).sum() - 2 * trace
    assert metric.results[0][1] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('count', [2, 256, 300, 1000])
def test_moments_are_those_of_numpy(count):
    features = np.random.RandomState(0).randn(count, 5).astype(np.float32) + 3
    moments = collected(Moments(count), features)
    np.testing.assert_allclose(moments.mean, features.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(moments.cov, np.cov(features, rowvar=False), rtol=1e-9, atol=1e-12)
    assert moments.count == count


def test_weights_stand_for_repetition():
    features = np.random.RandomState(0).randn(30, 4)
    weights = np.arange(30) % 4
    weighted = Moments(45)
    weighted.add(features, weights)
    weighted.finish()
    repeated = collected(Moments(45), np.repeat(features, weights, axis=0))
    assert weighted.count == repeated.count
    np.testing.assert_allclose(weighted.cov, repeated.cov, rtol=1e-10)


# ---- Inception Score ----

@pytest.mark.golden
def test_inception_score_is_that_of_the_original():
    data = load_npz('metrics/fid_is.npz')
    activations = data['is/activations']
    scores = collected(SplitScores(len(activations), int(data['is/num_splits'])), activations).scores()
    assert_close([np.mean(scores), np.std(scores)], data['is/mean_std'], 1e-5)


def test_inception_score_with_parts_of_unequal_size_and_zeros():
    rnd = np.random.RandomState(0)
    p = rnd.dirichlet(np.ones(6), size=23)
    p[3] = [1, 0, 0, 0, 0, 0]
    expected = []
    for split in range(10):
        part = p[split * 23 // 10:(split + 1) * 23 // 10] + 1e-30
        expected.append(np.exp(np.mean(np.sum(part * (np.log(part) - np.log(part.mean(0))), axis=1))))
    np.testing.assert_allclose(collected(SplitScores(23, 10), p).scores(), expected, rtol=1e-10)


# ---- KID ----

def test_squared_mmd_against_its_definition():
    rnd = np.random.RandomState(0)
    x, y = rnd.randn(7, 3), rnd.randn(5, 3) + 1

    def k(a, b):
        return (np.dot(a, b) / 3 + 1) ** 3
    xx = np.mean([k(x[i], x[j]) for i in range(7) for j in range(7) if i != j])
    yy = np.mean([k(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert kernel_inception_distance.squared_mmd(x, y) == pytest.approx(xx + yy - 2 * xy, rel=1e-10)


def test_kid_is_unbiased_and_its_seed_fixes_the_subsets():
    rnd = np.random.RandomState(0)
    x, y, shifted = rnd.randn(400, 8), rnd.randn(400, 8), rnd.randn(400, 8) + 0.5
    same = [kernel_inception_distance.kernel_distance(x, y, 10, 100, seed) for seed in range(3)]
    assert min(same) < 0 < max(same) + 0.05 and max(map(abs, same)) < 0.05  # About 0, and not always positive.
    assert kernel_inception_distance.kernel_distance(x, shifted, 10, 100, 0) > 0.3
    assert kernel_inception_distance.kernel_distance(x, y, 10, 100, 1) == same[1]
    # A single subset of all images leaves no choice.
    assert kernel_inception_distance.kernel_distance(x, shifted, 1, 1000) == pytest.approx(
        kernel_inception_distance.squared_mmd(x, shifted), rel=1e-9)


# ---- Precision and recall ----

PR_CASES = load_json('metrics/precision_recall.json') or []


def sequential_products(u, v):
    """u @ v.T as summed by the original on a CPU: in float16, one product after the other."""
    def function(u, v):
        return sum((u[:, k, np.newaxis] * v[:, k] for k in range(u.shape[1])), np.zeros([len(u), len(v)], np.float16))
    return tf.numpy_function(function, [u, v], tf.float16)  # TensorFlow would change the order of the sums.


def sequential_norms(u):
    """Squared norms as summed by the original on a CPU: eight partial sums in float16, which are added in float32."""
    def function(u):
        squares = u * u
        if u.shape[1] < 8:
            return sum(squares.T, np.zeros(len(u), np.float16))
        eight = sum(np.split(squares, u.shape[1] // 8, axis=1), np.zeros([len(u), 8], np.float16))
        return eight.astype(np.float32).sum(axis=1).astype(np.float16)
    return tf.ensure_shape(tf.numpy_function(function, [u], tf.float16), [None])


def golden_precision_recall(case):
    arrays = load_npz('metrics/precision_recall.npz')
    data = {name.removeprefix(case['key'] + '/'): value for name, value in arrays.items()}
    sizes = {key: case[key] for key in ('nhood_sizes', 'row_batch_size', 'col_batch_size')}
    blocks = precision_recall._Blocks(case['row_batch_size'], case['col_batch_size'], False, None, None)
    radii = {kind: blocks.radii(data[f'{kind}_features'], case['nhood_sizes']).astype(np.float16)
             for kind in ('ref', 'eval')}
    return data, radii, precision_recall.knn_precision_recall(data['ref_features'], data['eval_features'], **sizes)


@pytest.mark.golden
@pytest.mark.parametrize('case', PR_CASES, ids=lambda case: case['key'])
def test_precision_and_recall_with_the_originals_order_of_sums_are_its_bits(case, monkeypatch):
    monkeypatch.setattr(precision_recall, 'inner_products', sequential_products)
    monkeypatch.setattr(precision_recall, 'squared_norms', sequential_norms)
    data, radii, (precision, recall) = golden_precision_recall(case)
    for kind in radii:
        np.testing.assert_array_equal(radii[kind], data[f'{kind}_D_float16'])
    np.testing.assert_array_equal(precision, data['precision'])
    np.testing.assert_array_equal(recall, data['recall'])
    np.testing.assert_array_equal(precision.mean(axis=0), data['knn_precision'])
    np.testing.assert_array_equal(recall.mean(axis=0), data['knn_recall'])


@pytest.mark.golden
@pytest.mark.parametrize('case', PR_CASES, ids=lambda case: case['key'])
def test_precision_and_recall_with_sums_in_float32_differ_by_rounding_only(case):
    data, radii, (precision, recall) = golden_precision_recall(case)
    for kind in radii:
        # The golden numbers were summed in float16: each sum may be off by half a unit in the last place.
        largest = np.square(data[f'{kind}_features']).sum(axis=1).max()
        difference = np.abs(radii[kind].astype(np.float32) - data[f'{kind}_D_float16']).max()
        assert difference <= 4 * np.spacing(np.float16(largest))
    assert (precision != data['precision']).sum() <= 1 and (recall != data['recall']).sum() <= 1


def plain_precision_recall(ref, eval_, nhood_sizes):
    """Precision and recall from all distances at once, in float64."""
    def distances(u, v):
        return np.square(u[:, np.newaxis].astype(np.float64) - v).sum(axis=2)
    ref_radii, eval_radii = (np.sort(distances(x, x), axis=1)[:, nhood_sizes] for x in (ref, eval_))
    cross = distances(eval_, ref)
    return ((cross[:, :, np.newaxis] <= ref_radii).any(axis=1), (cross.T[:, :, np.newaxis] <= eval_radii).any(axis=1))


@pytest.mark.parametrize('sizes', [(1000, 1000), (16, 7), (1, 50)])
def test_exact_precision_and_recall_in_blocks_are_those_of_the_plain_form(sizes):
    rnd = np.random.RandomState(0)
    # Far from 0, so that the shift is needed.
    ref, eval_ = rnd.randn(60, 5).astype(np.float32) + 100, rnd.randn(45, 5).astype(np.float32) * 0.8 + 100
    actual = precision_recall.knn_precision_recall(ref, eval_, [1, 3], *sizes, exact=True)
    expected = plain_precision_recall(ref, eval_, [1, 3])
    for a, b in zip(actual, expected):
        np.testing.assert_array_equal(a, b)
        assert 0 < b.mean() < 1


def test_blocks_do_not_change_distances_in_float16():
    rnd = np.random.RandomState(1)
    ref, eval_ = rnd.randn(50, 20).astype(np.float16), rnd.randn(40, 20).astype(np.float16)
    whole = precision_recall.knn_precision_recall(ref, eval_, [3])
    for sizes in [(8, 5), (3, 100)]:
        for a, b in zip(precision_recall.knn_precision_recall(ref, eval_, [3], *sizes), whole):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('exact', [False, True])
def test_distances_stay_on_the_device(monkeypatch, exact):
    """What is copied to the host has a few numbers for each image, not one for each pair of images."""
    copied = []
    numpy = type(tf.constant(0)).numpy
    monkeypatch.setattr(type(tf.constant(0)), 'numpy', lambda self: (copied.append(self.shape), numpy(self))[1])
    ref, eval_ = np.random.randn(60, 4).astype(np.float32), np.random.randn(50, 4).astype(np.float32)
    precision_recall.knn_precision_recall(ref, eval_, [3], 30, 30, exact)
    assert copied and all(shape.num_elements() <= 30 * 4 for shape in copied)


def test_features_too_large_for_float16_are_compared_in_float32(capsys):
    rnd = np.random.RandomState(0)
    ref, eval_ = (300 * rnd.randn(30, 16).astype(np.float16) for _ in range(2))
    metric = precision_recall.PR('pr', 30, 3)
    metric.evaluate(collected(Features(30, np.float16), eval_), collected(Features(30, np.float16), ref), 0)
    assert 'too large for float16' in capsys.readouterr().out
    expected = plain_precision_recall(ref.astype(np.float32), eval_.astype(np.float32), [3])
    assert [value for _, value, _ in metric.results] == [expected[0].mean(), expected[1].mean()]
    assert [suffix for suffix, _, _ in metric.results] == ['_precision', '_recall']


def test_progress_counts_all_distances():
    steps = []
    progress = types.SimpleNamespace(update=steps.append)
    ref, eval_ = np.random.randn(23, 4).astype(np.float32), np.random.randn(17, 4).astype(np.float32)
    precision_recall.knn_precision_recall(ref, eval_, [3], 5, 8, True, progress)
    assert sum(steps) == precision_recall.num_distances(23, 17)


# ---- Perceptual path length ----

@pytest.mark.golden
def test_interpolation_is_that_of_the_original():
    data = load_npz('metrics/ppl.npz')
    a, b, t = data['a'], data['b'], data['t']
    assert_close(perceptual_path_length.normalize(a), data['normalize'], 1e-6)
    assert_close(perceptual_path_length.slerp(a, b, t), data['slerp'], 1e-6)


@pytest.mark.golden
def test_outliers_are_those_of_the_original():
    data = load_npz('metrics/ppl.npz')
    distances = data['filter/distances']
    assert_close(perceptual_path_length.mean_without_outliers(distances), data['filter/mean'], 1e-6)
    kept = (data['filter/lo'] <= distances) & (distances <= data['filter/hi'])
    assert kept.sum() == data['filter/count'] < len(distances)


@pytest.fixture(scope='module')
def golden_Gs():
    return misc.load_networks(GOLDEN / 'metrics' / 'net.pkl')[2]


def squared_difference(a, b):
    return tf.reduce_mean(tf.square(a - b), axis=[1, 2, 3])


@pytest.mark.golden
@pytest.mark.parametrize('key', [key for key in RESULTS if key.startswith('ppl_')])
def test_path_lengths_are_those_of_the_original(key, golden_Gs):
    data = load_npz('metrics/ppl.npz')
    _, space, sampling, crop = key.split('_')
    n = len(data[f'{key}/distances'])
    metric = perceptual_path_length.PPL(key, n, 1e-2, space, sampling, crop == 'crop1')
    source = metric_base.SampleSource(golden_Gs, np.zeros([1, 0]), seed=0)
    noise = {name.split('/')[-1]: value for name, value in data.items() if name.startswith(f'{key}/noise_used/')}
    # The recorded t is what the original drew, from [0, 0) for 'end'.
    source.rng = InjectedRandom({'latents': data[f'{key}/latents'], 'lerp_t': data[f'{key}/lerp_t'], **noise})
    distances = metric.distances(source, squared_difference, n)
    # The images of a pair are nearly equal: rounding errors of 1e-7 grow by 1 / epsilon, to 3e-5 as measured.
    assert_close(distances, data[f'{key}/distances'], 1e-4)
    assert_close(perceptual_path_length.mean_without_outliers(distances.numpy()), RESULTS[key][0][1], 1e-5)


def test_path_length_of_a_network_that_is_a_line():
    """If images are 2 W, the distance is |2 (b - a)|^2 * epsilon^2 for all t."""
    def synthesis(w, rng, randomize_noise, **kwargs):
        assert randomize_noise is True and rng.noises({'noise0': 8}, 4)['noise0'].shape == [1, 1, 8, 8]
        return tf.tile(2 * w[:, 0, :1, tf.newaxis, tf.newaxis], [1, 3, 16, 16])
    Gs = types.SimpleNamespace(
        input_shape=[None, 2], lod_stage=lambda: None,
        components=EasyDict(
            mapping=lambda z, labels, **kwargs: tf.tile(z[:, tf.newaxis], [1, 3, 1]), synthesis=synthesis))
    metric = perceptual_path_length.PPL('ppl', 50, 1e-2, 'w', 'full', False, minibatch_per_gpu=4)
    source = metric_base.SampleSource(Gs, np.zeros([1, 0]), seed=3)
    metric.evaluate(source, {'lpips': squared_difference})
    source = metric_base.SampleSource(Gs, np.zeros([1, 0]), seed=3)
    ends = [source.at(index).latents(8)[:, 0].numpy() for index in range(13)]
    ends = np.concatenate(ends)
    lengths = np.square(2 * (ends[1::2] - ends[0::2]) * 127.5)[:50]
    assert metric.results[0][1] == pytest.approx(perceptual_path_length.mean_without_outliers(lengths), rel=1e-3)


def test_images_larger_than_256_are_shrunk_by_whole_pixels():
    x = np.arange(2 * 1 * 512 * 512, dtype=np.float32).reshape(2, 1, 512, 512) % 97
    means = x.reshape(2, 1, 256, 2, 256, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(perceptual_path_length.shrink(x), means, rtol=1e-5)
    small = tf.ones([1, 3, 300, 300])
    assert perceptual_path_length.shrink(small) is small


# ---- Linear separability ----

@pytest.mark.golden
@pytest.mark.parametrize('i', range(6))
def test_entropies_are_those_of_the_original(i):
    data = load_npz('metrics/linear_separability.npz')
    for name in ('prob_normalize', 'mutual_information', 'entropy', 'conditional_entropy'):
        assert_close(getattr(linear_separability, name)(data[f'p{i}']), data[f'p{i}/{name}'], 1e-5)


@pytest.mark.golden
def test_separability_is_about_that_of_the_original():
    """Only approximately, because the planes come from another version of scikit-learn."""
    data = load_npz('metrics/linear_separability.npz')
    predictions = [data['ls/0'], data['ls/5']]
    for (_, expected, _), space in zip(RESULTS['ls'], ('latents', 'dlatents')):
        value = linear_separability.separability(data[f'ls/{space}'], predictions, len(predictions[0]) // 2)
        assert value == pytest.approx(expected, rel=0.03)


def test_separability_of_clear_cases():
    rnd = np.random.RandomState(0)
    points = rnd.randn(400, 3).astype(np.float32)

    def predictions(sides, confidence=0.9):
        return np.where(sides[:, np.newaxis] == [0, 1], confidence, 1 - confidence).astype(np.float32)
    divided, random, one_class = points[:, 0] > 0, rnd.rand(400) > 0.5, np.ones(400, bool)
    assert linear_separability.separability(points, [predictions(divided)], 400) == pytest.approx(1, abs=0.15)
    assert linear_separability.separability(points, [predictions(random)], 400) > 1.8
    assert linear_separability.separability(points, [predictions(one_class)], 400) == 1
    # The uncertain half, which is not separable, is left out.
    mixed = np.concatenate([predictions(divided)[:200], predictions(random, 0.6)[200:]])
    assert linear_separability.separability(points, [mixed], 200) == pytest.approx(1, abs=0.15)
