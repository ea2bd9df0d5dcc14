"""Faces cut out of photographs as those of FFHQ were (Karras et al. 2018, arXiv:1710.10196, Appendix C; 2019, arXiv:1812.04948,
Appendix A), so that a generator trained on FFHQ knows their place."""

import importlib.util
import os

import numpy as np
import PIL.Image

from dnnlib.cli import UserError

# Among the 68 landmarks of iBUG 300-W: where they begin and end.
_LEFT_EYE, _RIGHT_EYE = slice(36, 42), slice(42, 48)
_MOUTH_CORNERS = [48, 54]

_LANDMARKS_FILE = os.path.join('models', 'shape_predictor_68_face_landmarks.dat')


# ---- Where the face is ----

def load_detector():
    """Function of a PIL image in RGB -> list of landmarks, float64 [68, 2] (x, y) in pixels, of each face, the largest first.

    Raises: UserError if the extra [align] is not installed.
    """
    spec = importlib.util.find_spec('face_recognition_models')  # Not imported: it needs an old setuptools; its file is what counts.
    try:
        import dlib
    except ImportError:
        dlib = None
    if dlib is None or spec is None:
        raise UserError(f'--align needs the package {"dlib" if dlib is None else "face_recognition_models"}, which is not installed',
                        "Install both with: pip install -e '.[align]'; or cut out the faces yourself and leave --align out.")
    path = os.path.join(spec.submodule_search_locations[0], _LANDMARKS_FILE)
    find_faces, find_landmarks = dlib.get_frontal_face_detector(), dlib.shape_predictor(path)

    def detect(image):
        pixels = np.array(image.convert('RGB'))
        faces = sorted(find_faces(pixels, 1), key=lambda box: box.width() * box.height(), reverse=True)
        return [np.array([(point.x, point.y) for point in find_landmarks(pixels, face).parts()], np.float64) for face in faces]

    return detect


# ---- What is cut out ----

def face_square(landmarks):
    """The oriented square around a face (Progressive GAN, Appendix C): its centre c and half axes x (to the right) and y (down).

        x' = e1 - e0,   y' = (m0 + m1) / 2 - (e0 + e1) / 2
        c  = (e0 + e1) / 2 + 0.1 y',   s = max(4.0 |x'|, 3.6 |y'|)
        x  = s / 2 * normalize(x' - rotate90(y')),   y = rotate90(x)

    for eyes e and corners of the mouth m, with y' and y pointing down, as in pictures.

    Args:
        landmarks: [68, 2], in pixels.

    Returns:
        (c, x, y), each [2] in pixels.
    """
    landmarks = np.asarray(landmarks, np.float64)
    left_eye, right_eye = landmarks[_LEFT_EYE].mean(axis=0), landmarks[_RIGHT_EYE].mean(axis=0)
    eyes, mouth = (left_eye + right_eye) / 2, landmarks[_MOUTH_CORNERS].mean(axis=0)
    across, down = right_eye - left_eye, mouth - eyes
    x = across - _rotate90(down)
    x *= max(2.0 * np.hypot(*across), 1.8 * np.hypot(*down)) / np.hypot(*x)
    return eyes + 0.1 * down, x, _rotate90(x)


def _rotate90(v):
    """From pointing right to pointing down, where y points down."""
    return np.array([-v[1], v[0]])


def align_face(image, landmarks, size):
    """The face of a PIL image in RGB, upright, at size x size.

    Where the square reaches over the edge, the picture goes on as its mirror image, more and more blurred and towards its
    median colour.
    """
    center, x, y = face_square(landmarks)
    side = 2 * np.hypot(*x)
    shrink = int(side / size / 2)
    if shrink > 1:  # Or QUAD would sample only some of the pixels.
        image = image.resize((round(image.width / shrink), round(image.height / shrink)), PIL.Image.Resampling.LANCZOS)
        center, x, y, side = center / shrink, x / shrink, y / shrink, side / shrink
    corners = np.array([center - x - y, center - x + y, center + x + y, center + x - y])  # from top left, anticlockwise
    image, corners = _cut_around(image, corners, side)
    if (np.maximum(-corners, corners - image.size).max() > 0.1 * side):
        image, corners = _extend(image, corners, side)
    over = 4 if size <= 1024 else 1  # QUAD interpolates between pixels: finer first, and then the mean.
    quad = tuple((corners + 0.5).ravel())
    image = image.transform((size * over, size * over), PIL.Image.Transform.QUAD, quad, PIL.Image.Resampling.BILINEAR)
    return image.resize((size, size), PIL.Image.Resampling.LANCZOS)


def _cut_around(image, corners, side):
    """Only what is near the square, so that the rest costs no time."""
    border = max(round(side * 0.1), 3)
    low = np.maximum(np.floor(corners.min(axis=0)).astype(int) - border, 0)
    high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + border, image.size)
    if (low >= high).any():
        raise UserError('the face lies outside of the picture', 'Cut out the face yourself and leave --align out.')
    return image.crop((*low, *high)), corners - low


def _extend(image, corners, side):
    """Mirror the picture at those edges that the square crosses."""
    from scipy import ndimage
    before = np.maximum(np.ceil(-corners.min(axis=0)).astype(int), round(side * 0.3))             # left, top
    after = np.maximum(np.ceil(corners.max(axis=0) - image.size).astype(int), round(side * 0.3))  # right, bottom
    pixels = np.pad(np.asarray(image, np.float32), [(before[1], after[1]), (before[0], after[0]), (0, 0)], 'reflect')
    height, width, _ = pixels.shape
    rows, columns = np.ogrid[:height, :width]
    # 1 at the new edges, 0 at the old ones, below that inside.
    depth = 1 - np.minimum(np.minimum(columns / before[0], (width - 1 - columns) / after[0]),
                           np.minimum(rows / before[1], (height - 1 - rows) / after[1]))[:, :, np.newaxis]
    blurred = ndimage.gaussian_filter(pixels, [side * 0.02, side * 0.02, 0])
    pixels += (blurred - pixels) * np.clip(3 * depth + 1, 0, 1)
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(depth, 0, 1)
    return PIL.Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8)), corners + before
