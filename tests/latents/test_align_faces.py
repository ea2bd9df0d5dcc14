"""The geometry of FFHQ's alignment, with made-up landmarks, and the error if no detector is installed."""

import importlib.util
import sys

import numpy as np
import pytest
from PIL import Image

from dnnlib.cli import UserError
from latents import align_faces


def landmarks_at(left_eye, right_eye, left_mouth, right_mouth):
    """68 landmarks with these eyes (six points around each centre) and corners of the mouth; the others anywhere."""
    points = np.full([68, 2], -1000.0)
    ring = np.array([[-2, 0], [-1, -1], [1, -1], [2, 0], [1, 1], [-1, 1]])
    points[36:42], points[42:48] = ring + left_eye, ring + right_eye
    points[48], points[54] = left_mouth, right_mouth
    return points


UPRIGHT = landmarks_at([80, 100], [120, 100], [85, 145], [115, 145])


def turned(points, degrees, scale=1.0, shift=(0, 0)):
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ rotation.T * scale + shift


def test_square_of_an_upright_face():
    center, x, y = align_faces.face_square(UPRIGHT)
    # Eyes are 40 apart, the mouth 45 below: side max(4 * 40, 3.6 * 45) = 162, centre a tenth of 45 below the eyes.
    np.testing.assert_allclose(center, [100, 104.5])
    np.testing.assert_allclose(x, [81, 0], atol=1e-12)
    np.testing.assert_allclose(y, [0, 81], atol=1e-12)


def test_square_of_wide_set_eyes():
    _center, x, _y = align_faces.face_square(landmarks_at([75, 100], [125, 100], [85, 145], [115, 145]))
    np.testing.assert_allclose(x, [100, 0], atol=1e-12)  # 2 * 50


def test_direction_is_the_mean_of_what_eyes_and_mouth_say():
    # Eyes level, mouth moved to the right: x = normalize([40, 0] + [45, -9]).
    _center, x, y = align_faces.face_square(landmarks_at([80, 100], [120, 100], [94, 145], [124, 145]))
    direction = np.array([85, -9]) / np.hypot(85, 9)
    np.testing.assert_allclose(x / np.hypot(*x), direction)
    np.testing.assert_allclose(y / np.hypot(*y), [-direction[1], direction[0]])


@pytest.mark.parametrize('degrees, scale', [(30, 1.0), (-75, 0.5), (180, 3.0)])
def test_square_turns_and_grows_with_the_face(degrees, scale):
    shift = np.array([13.0, -7.0])
    expected = align_faces.face_square(UPRIGHT)
    center, x, y = align_faces.face_square(turned(UPRIGHT, degrees, scale, shift))
    np.testing.assert_allclose(center, turned(expected[0], degrees, scale, shift), atol=1e-9)
    np.testing.assert_allclose([x, y], turned(np.array(expected[1:]), degrees, scale), atol=1e-9)


def face_picture(points, size):
    """A gray picture with a dot of its own colour at each eye and at the middle of the mouth."""
    rows, columns = np.mgrid[:size, :size] + 0.5
    picture = np.full([size, size, 3], 128, np.uint8)
    middle = points[48:55:6].mean(axis=0)
    radius = np.hypot(*(points[42:48].mean(axis=0) - points[36:42].mean(axis=0))) / 6
    eyes = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
    for (x, y), color in zip([*eyes, middle], [(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        picture[np.hypot(columns - x - 0.5, rows - y - 0.5) < radius] = color
    return Image.fromarray(picture)


def dots(picture):
    """Centres of the three dots, as parts of the picture's side."""
    pixels = np.asarray(picture).astype(int)
    found = []
    for channel in range(3):
        rows, columns = np.nonzero(pixels[:, :, channel] - pixels.sum(axis=2) / 3 > 60)
        found.append([columns.mean() + 0.5, rows.mean() + 0.5])
    return np.array(found) / picture.width


@pytest.mark.parametrize('degrees, scale, size', [(0, 1.5, 128), (40, 1.5, 128), (-120, 1.0, 64), (15, 4.0, 32)])
def test_faces_come_out_upright_in_the_same_place(degrees, scale, size):
    center = np.array([100.0, 104.5])
    points = turned(UPRIGHT - center, degrees, scale, (400, 400))
    aligned = align_faces.align_face(face_picture(points, 800), points, size)
    assert (aligned.size, aligned.mode) == ((size, size), 'RGB')
    side = 162
    expected = np.array([[-20, -4.5], [20, -4.5], [0, 40.5]]) / side + 0.5
    np.testing.assert_allclose(dots(aligned), expected, atol=1.0 / size)


def test_pictures_are_continued_over_their_edges():
    points = UPRIGHT + [-60, -60]  # The square reaches 41 pixels over the left and 36.5 over the upper edge.
    image = face_picture(points, 300)
    aligned = align_faces.align_face(image, points, 162)
    # Without the left eye, which appears twice because of the mirror image.
    np.testing.assert_allclose(dots(aligned)[1:], np.array([[20, -4.5], [0, 40.5]]) / 162 + 0.5, atol=1 / 162)
    assert np.asarray(aligned)[:20].min() > 90  # Neither black nor missing.


def test_a_face_outside_of_the_picture_is_refused():
    with pytest.raises(UserError, match='outside of the picture'):
        align_faces.align_face(Image.new('RGB', (50, 50)), UPRIGHT + 500, 32)


@pytest.mark.parametrize('missing', ['dlib', 'face_recognition_models'])
def test_without_the_extra_the_error_says_what_to_install(monkeypatch, missing):
    find_spec = importlib.util.find_spec
    monkeypatch.setitem(sys.modules, 'dlib', None if missing == 'dlib' else sys)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == missing else find_spec('json'))
    with pytest.raises(UserError) as caught:
        align_faces.load_detector()
    assert missing in caught.value.fact and '.[align]' in caught.value.remedy
