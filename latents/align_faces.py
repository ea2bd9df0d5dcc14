"""Cut faces out of photographs as for FFHQ, so that a generator trained on FFHQ finds them in the place it knows.

Karras et al. 2018, arXiv:1710.10196, Appendix C; Karras et al. 2019, arXiv:1812.04948, Appendix A.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable

import numpy as np
import PIL.Image

from dnnlib.cli import UserError

# Positions among the 68 landmarks of iBUG 300-W.
_LEFT_EYE, _RIGHT_EYE = slice(36, 42), slice(42, 48)
_MOUTH_CORNERS = [48, 54]

_LANDMARKS_FILE = os.path.join('models', 'shape_predictor_68_face_landmarks.dat')


# ---- Where the face is ----

def load_detector() -> Callable[[PIL.Image.Image], list[np.ndarray]]:
    """Load the detector of faces.

    Returns:
        Function of a PIL image in RGB that returns the landmarks of each face, the largest face first: float64 [68, 2],
        (x, y) in pixels.

    Raises:
        UserError: The extra [align] is not installed.
    """
    # Not imported: the package needs an old setuptools, and only its file is used.
    spec = importlib.util.find_spec('face_recognition_models')
    try:
        import dlib  # pyright: ignore[reportMissingImports]  An extra.
    except ImportError:
        dlib = None
    if dlib is None or spec is None or not spec.submodule_search_locations:
        missing = 'dlib' if dlib is None else 'face_recognition_models'
        raise UserError(f'--align needs the package {missing}, which is not installed',
                        "Install both with: pip install -e '.[align]'; "
                        'or cut out the faces yourself and leave --align out.')
    path = os.path.join(spec.submodule_search_locations[0], _LANDMARKS_FILE)
    find_faces, find_landmarks = dlib.get_frontal_face_detector(), dlib.shape_predictor(path)

    def detect(image):
        pixels = np.array(image.convert('RGB'))
        faces = sorted(find_faces(pixels, 1), key=lambda box: box.width() * box.height(), reverse=True)
        return [np.array([(point.x, point.y) for point in find_landmarks(pixels, face).parts()], np.float64)
                for face in faces]

    return detect


# ---- What is cut out ----

def face_square(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The oriented square around a face (Progressive GAN, Appendix C).

        x' = e1 - e0,   y' = (m0 + m1) / 2 - (e0 + e1) / 2
        c  = (e0 + e1) / 2 + 0.1 y',   s = max(4.0 |x'|, 3.6 |y'|)
        x  = s / 2 * normalize(x' - rotate90(y')),   y = rotate90(x)

    for eyes e and corners of the mouth m, with y' and y pointing down, as in pictures.

    Args:
        landmarks: [68, 2], in pixels.

    Returns:
        c: Centre, [2] in pixels.
        x: Half axis to the right, likewise.
        y: Half axis down, likewise.
    """
    landmarks = np.asarray(landmarks, np.float64)
    left_eye, right_eye = landmarks[_LEFT_EYE].mean(axis=0), landmarks[_RIGHT_EYE].mean(axis=0)
    eyes, mouth = (left_eye + right_eye) / 2, landmarks[_MOUTH_CORNERS].mean(axis=0)
    across, down = right_eye - left_eye, mouth - eyes
    x = across - _rotate90(down)
    x *= max(2.0 * np.hypot(*across), 1.8 * np.hypot(*down)) / np.hypot(*x)
    return eyes + 0.1 * down, x, _rotate90(x)


def _rotate90(v):
    """Rotate a vector that points right so that it points down, where y points down."""
    return np.array([-v[1], v[0]])


def align_face(image: PIL.Image.Image, landmarks: np.ndarray, size: int) -> PIL.Image.Image:
    """Cut out a face, upright.

    Where the square reaches over the edge, the picture is continued by its mirror image, which fades to a blurred
    version and to the median colour.

    Args:
        image:     Picture in RGB.
        landmarks: [68, 2], in pixels.
        size:      Width and height of the result.

    Raises:
        UserError: The face lies outside of the picture.
    """
    center, x, y = face_square(landmarks)
    side = 2 * np.hypot(*x)
    shrink = int(side / size / 2)
    if shrink > 1:  # Otherwise QUAD would sample only some of the pixels.
        image = image.resize((round(image.width / shrink), round(image.height / shrink)),
                             PIL.Image.Resampling.LANCZOS)
        center, x, y, side = center / shrink, x / shrink, y / shrink, side / shrink
    # From the top left, counterclockwise.
    corners = np.array([center - x - y, center - x + y, center + x + y, center + x - y])
    image, corners = _crop_around(image, corners, side)
    if np.maximum(-corners, corners - image.size).max() > 0.1 * side:
        image, corners = _extend(image, corners, side)
    oversampling = 4 if size <= 1024 else 1  # QUAD only interpolates between pixels.
    fine_size = (size * oversampling, size * oversampling)
    quad = tuple((corners + 0.5).ravel())
    image = image.transform(fine_size, PIL.Image.Transform.QUAD, quad, PIL.Image.Resampling.BILINEAR)
    return image.resize((size, size), PIL.Image.Resampling.LANCZOS)


def _crop_around(image, corners, side):
    """Crop to the surroundings of the square, so that the rest costs no time."""
    border = max(round(side * 0.1), 3)
    low = np.maximum(np.floor(corners.min(axis=0)).astype(int) - border, 0)
    high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + border, image.size)
    if (low >= high).any():
        raise UserError('the face lies outside of the picture', 'Cut out the face yourself and leave --align out.')
    return image.crop((*low, *high)), corners - low


def _extend(image, corners, side):
    """Continue the picture by its mirror image at the edges that the square crosses."""
    from scipy import ndimage  # Imported late: only this needs it.
    before = np.maximum(np.ceil(-corners.min(axis=0)).astype(int), round(side * 0.3))             # Left, top.
    after = np.maximum(np.ceil(corners.max(axis=0) - image.size).astype(int), round(side * 0.3))  # Right, bottom.
    padding = [(before[1], after[1]), (before[0], after[0]), (0, 0)]
    pixels = np.pad(np.asarray(image, np.float32), padding, 'reflect')
    height, width, _ = pixels.shape
    rows, columns = np.ogrid[:height, :width]
    # 1 at the new edges, 0 at the old ones, negative inside.
    depth = 1 - np.minimum(np.minimum(columns / before[0], (width - 1 - columns) / after[0]),
                           np.minimum(rows / before[1], (height - 1 - rows) / after[1]))[:, :, np.newaxis]
    blurred = ndimage.gaussian_filter(pixels, [side * 0.02, side * 0.02, 0])
    pixels += (blurred - pixels) * np.clip(3 * depth + 1, 0, 1)
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(depth, 0, 1)
    return PIL.Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8)), corners + before
