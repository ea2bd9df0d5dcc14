"""The faces of the demo: what `make demo` trains on, and what the repository may carry."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests import ROOT

FACES = ROOT / 'demo' / 'faces32.zip'


@pytest.fixture(scope='module')
def members():
    """{name: PNG bytes} in the order of the zip."""
    with zipfile.ZipFile(FACES) as archive:
        assert archive.testzip() is None
        return {info.filename: archive.read(info) for info in archive.infolist()}


@pytest.fixture(scope='module')
def images(members):
    """All faces, uint8 [N, 32, 32, 3]."""
    return np.stack([np.asarray(Image.open(io.BytesIO(png))) for png in members.values()])


def test_zip_is_small():
    assert FACES.stat().st_size <= 1.5e6


def test_zip_holds_nothing_but_numbered_faces(members):
    assert list(members) == [f'face{index:04d}.png' for index in range(1000)]


def test_faces_are_opaque_rgb_pngs_of_32x32(members):
    for name, png in members.items():
        with Image.open(io.BytesIO(png)) as image:
            assert (image.format, image.mode, image.size, image.info) == ('PNG', 'RGB', (32, 32), {}), name


def test_faces_all_differ(images):
    assert len({image.tobytes() for image in images}) == len(images)


def test_faces_are_crisp(images):
    cells = images.reshape(-1, 16, 2, 16, 2, 3)
    np.testing.assert_array_equal(cells, np.broadcast_to(cells[:, :, :1, :, :1], cells.shape))


def test_faces_are_inside_the_frame(images):
    """Top corners are background, the lowest row shows shoulders, the middle a face.

    Three different colours in every picture.
    """
    background, shoulders, cheek = images[:, 0, -1], images[:, -1, 16], images[:, 16, 16]
    for one, other in [(background, shoulders), (background, cheek), (shoulders, cheek)]:
        assert (one != other).any(axis=1).all()


def test_colours_vary(images):
    """Backgrounds, clothes and skins: at least six of each, none on more than a third of the faces."""
    for row, column in [(0, -1), (-1, 16), (16, 16)]:
        _, counts = np.unique(images[:, row, column], axis=0, return_counts=True)
        assert len(counts) >= 6 and counts.max() < len(images) / 3
