"""Statistics of the distances of two sets, their files and their histogram."""

import json

import numpy as np
import pytest
from PIL import Image

from dnnlib.cli import UserError
from latents import detection


@pytest.mark.parametrize('generated, real, auc', [
    ([1, 2, 3], [4, 5], 1.0),
    ([4, 5], [1, 2, 3], 0.0),
    ([1, 2], [1, 2], 0.5),
    ([1, 3], [2, 4], 0.75)])
def test_roc_auc(generated, real, auc):
    assert detection.roc_auc(np.array(generated), np.array(real)) == pytest.approx(auc)


@pytest.mark.parametrize('generated, real, threshold, accuracy', [
    ([1, 2, 3], [5, 6], 4.0, 1.0),
    ([1, 2, 9], [5, 6], 3.5, 5 / 6),
    ([1, 2], [1, 2], 1.5, 0.5),
    ([1], [1], 1.0, 0.5)])
def test_best_threshold(generated, real, threshold, accuracy):
    found = detection.best_threshold(np.array(generated), np.array(real))
    assert found == pytest.approx((threshold, accuracy))


# ---- Uncertainty ----

@pytest.mark.parametrize('n, low', [(1, 0.025), (3, 0.025 ** (1 / 3)), (20, 0.8316)])
def test_few_images_that_do_not_overlap_are_no_certainty(n, low):
    generated, real = np.linspace(0, 1, n), np.linspace(2, 3, n + 2)
    assert detection.auc_interval(generated, real) == pytest.approx((low, 1), abs=1e-4)
    assert detection.auc_interval(real, generated) == pytest.approx((0, 1 - low), abs=1e-4)


def test_bootstrap_interval_is_that_of_resampling_one_by_one():
    rnd = np.random.RandomState(0)
    generated, real = np.round(rnd.randn(30), 1), np.round(rnd.randn(25) + 1, 1)  # Rounded, so that some are equal.
    low, high = detection.auc_interval(generated, real)
    aucs = [detection.roc_auc(rnd.choice(generated, 30), rnd.choice(real, 25)) for _ in range(1500)]
    assert (low, high) == pytest.approx(tuple(np.quantile(aucs, [0.025, 0.975])), abs=0.015)
    assert low < detection.roc_auc(generated, real) < high
    assert detection.auc_interval(generated, real) == (low, high)


def test_the_interval_covers_the_true_value_as_often_as_it_says():
    """Normal distributions one standard deviation apart have an AUC of Phi(1 / sqrt(2)) = 0.760."""
    rnd = np.random.RandomState(1)
    intervals = [detection.auc_interval(rnd.randn(40), rnd.randn(40) + 1, num_resamples=300) for _ in range(300)]
    assert np.mean([low <= 0.760 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.04)


def report(tmp_path, generated, real, suspect=None):
    distances = dict(generated=np.asarray(generated, float), real=np.asarray(real, float))
    image = None if suspect is None else 'photo.png'
    detection.report_detection(str(tmp_path), distances, suspect, image, dict(distance='pixel'))
    return json.loads((tmp_path / 'detection.json').read_text())


@pytest.mark.parametrize('generated, real', [(1, 1), (19, 50), (50, 19)])
def test_too_few_images_get_no_verdict(generated, real, tmp_path, capsys):
    found = report(tmp_path, np.linspace(0, 1, generated), np.linspace(2, 3, real), suspect=0.5)
    text = capsys.readouterr().out
    assert found['auc'] == 1 and found['threshold'] is None and found['balanced_accuracy'] is None
    assert found['image']['verdict'] is None and found['image']['distance'] == 0.5
    low, high = found['auc_interval']
    assert low < 0.83 and high == 1 and f'interval of the AUC: {low:.2f} to 1.00' in text
    assert f'{generated} generated and {real} real images are too few for a verdict. Give 20 or more of each' in text
    assert 'classified correctly' not in text and 'It looks' not in text


def test_enough_images_get_a_verdict(tmp_path, capsys):
    found = report(tmp_path, np.linspace(0, 1, 20), np.linspace(2, 3, 20), suspect=0.5)
    text = capsys.readouterr().out
    assert found['threshold'] == 1.5 and found['image']['verdict'] == 'generated'
    assert 'interval of the AUC: 0.83 to 1.00' in text and 'It looks generated' in text


# ---- Files ----

def test_csv_there_and_back(tmp_path):
    rows = [('seed0001', 'generated', 0.25, 1.0, 'seed 1'), ('image0000', 'real', 0.5, 1.0, 'a, "b".png'),
            ('suspect', 'suspect', 0.3, 1.0, 'x')]
    detection.write_csv(tmp_path / 'd.csv', rows)
    assert (tmp_path / 'd.csv').read_text().splitlines()[0] == 'name,set,distance,start_distance,source'
    found = {key: list(value) for key, value in detection.read_csv(tmp_path / 'd.csv').items()}
    assert found == {'generated': [0.25], 'real': [0.5]}
    assert [path.name for path in tmp_path.iterdir()] == ['d.csv']


@pytest.mark.parametrize('content, fact', [
    (None, 'cannot be read'),
    ('name,set\n', 'no generated ones'),
    ('name,set,distance\nseed1,generated,0.5\n', 'no real ones'),
    ('name,set,distance\nseed1,generated,far\n', 'cannot be read'),
    ('name,distance\nseed1,0.5\n', 'cannot be read')])
def test_other_files_are_refused(tmp_path, content, fact):
    if content is not None:
        (tmp_path / 'd.csv').write_text(content)
    with pytest.raises(UserError) as caught:
        detection.read_csv(tmp_path / 'd.csv')
    assert fact in caught.value.fact and str(tmp_path / 'd.csv') in caught.value.fact


def test_histogram_shows_both_sets_and_the_image(tmp_path):
    detection.draw_histogram(np.full(20, 0.1), np.full(10, 0.9), tmp_path / 'h.png', 'distance', image=0.5)
    picture = np.asarray(Image.open(tmp_path / 'h.png').convert('RGB')).astype(int)
    middle = picture[300, 70:-15]  # A row through the bars.
    blue = np.flatnonzero(middle[:, 2] - middle[:, 0] > 50)
    red = np.flatnonzero(middle[:, 0] - middle[:, 2] > 50)
    black = np.flatnonzero(middle.sum(axis=1) == 0)
    assert len(blue) > 15 and len(red) > 15 and len(black) == 2
    assert blue.max() < black.min() and black.max() < red.min()


def test_histogram_of_equal_distances(tmp_path):
    detection.draw_histogram(np.zeros(2), np.zeros(3), tmp_path / 'h.png', 'distance')
    assert Image.open(tmp_path / 'h.png').size == (800, 480)
