"""Statistics of the distances of two sets, their files and their histogram."""

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
