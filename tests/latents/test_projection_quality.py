"""What the projector is for, on a network trained on the demo's faces: it finds generated images, and no others."""

import csv
import json
import zipfile

import numpy as np
import pytest

import run_projector
from tests import ROOT

NETWORK = ROOT / 'tests' / 'data' / 'faces32.pkl'  # Trained on the faces 0 to 899, see README.md there.


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
    """Report and rows of distances.csv, for four generated images and four faces that were kept from training."""
    folder = tmp_path_factory.mktemp('quality')
    with zipfile.ZipFile(ROOT / 'demo' / 'faces32.zip') as archive:
        faces = [archive.extract(f'face{number:04d}.png', folder / 'heldout') for number in range(900, 904)]
    run_projector.main(['detect-generated', f'--network={NETWORK}', '--seeds=66,230,389,1518', '--images', *faces,
                        '--minibatch-size=8', '--distance=vgg-hed', '--num-steps=100',
                        f'--result-dir={folder}/results'])
    out, = (folder / 'results').iterdir()
    report = json.loads((out / 'detection.json').read_text())
    with open(out / 'distances.csv', newline='') as file:
        return report, list(csv.DictReader(file))


def distances(rows, kind, key='distance'):
    found = np.array([float(row[key]) for row in rows if row['set'] == kind])
    assert len(found) == 4
    return found


@pytest.mark.slow
def test_generated_images_are_found_again(rows):
    """At most a fifth of the distance at the mean of W, for each of them, in a tenth of the usual steps."""
    ratios = distances(rows[1], 'generated') / distances(rows[1], 'generated', 'start_distance')
    assert (ratios <= 0.2).all(), ratios


@pytest.mark.slow
def test_real_images_stay_farther_away_than_generated_ones(rows):
    report, rows = rows
    assert distances(rows, 'real').min() > 2 * distances(rows, 'generated').max()
    assert report['auc'] == 1.0
