"""Operations on PIL images: decoding, crop, resize, transparency, conversion from and to arrays, saving."""

import os
import warnings

import numpy as np
import PIL
import PIL.Image
import PIL.ImageOps

from dnnlib import storage

_MODE_NAMES = {'L': 'grayscale', 'LA': 'grayscale with transparency', '1': 'black and white', 'P': 'palette',
               'I': '16-bit grayscale', 'I;16': '16-bit grayscale', 'I;16B': '16-bit grayscale', 'F': 'floating-point',
               'RGBA': 'RGBA (with transparency)'}

# Pillow warns, with a line of its source, about images of more than 89 million pixels, and refuses those of more than
# twice as many. Photographs and scans can be as large as the former, so that only the latter are an error.
warnings.filterwarnings('ignore', category=PIL.Image.DecompressionBombWarning)


# ---- Files ----

def load_upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """Decode the pixels of an opened image file and turn it upright as its EXIF data says, in place.

    Args:
        image: What PIL.Image.open returned.

    Returns:
        The same image.

    Raises:
        Exception: The file is damaged: decoders raise almost anything.
    """
    image.load()
    PIL.ImageOps.exif_transpose(image, in_place=True)
    return image


def save_png(image: PIL.Image.Image, path: str | os.PathLike) -> None:
    """Write an image as a PNG file that appears complete or not at all."""
    with storage.new_file(path) as part:
        image.save(part, 'png')


def describe(image: PIL.Image.Image) -> str:
    """Size and kind of an image for error messages, such as '640x480 RGBA (with transparency)'."""
    return f'{image.width}x{image.height} {_MODE_NAMES.get(image.mode, image.mode)}'


def first_line(err: Exception) -> str:
    """The message of a decoder's exception, on one line."""
    if isinstance(err, PIL.UnidentifiedImageError):  # Its message is the repr of a file object.
        return 'cannot identify its format'
    if isinstance(err, PIL.Image.DecompressionBombError):
        return f'it has more than {2 * (PIL.Image.MAX_IMAGE_PIXELS or 0)} pixels'
    return (str(err) or type(err).__name__).splitlines()[0]


# ---- Arrays ----

def to_chw(image: PIL.Image.Image) -> np.ndarray:
    """Convert an image in mode L or RGB to uint8 [C, H, W]."""
    # Faster than a transposition by NumPy.
    pixels = b''.join(image.tobytes('raw', band) for band in image.getbands())
    return np.frombuffer(pixels, np.uint8).reshape(-1, image.height, image.width)


def from_chw(pixels: np.ndarray) -> PIL.Image.Image:
    """Convert uint8 [C, H, W] to an image in mode L, RGB or RGBA; C is 1, 3 or 4."""
    return PIL.Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


# ---- Size ----

def resize(image: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
    """Scale an image with the Lanczos filter."""
    lanczos = PIL.Image.Resampling.LANCZOS
    # First along the rows: Pillow 13 chooses the order of the two passes by itself, which changes the roundings.
    return image.resize((width, image.height), lanczos).resize((width, height), lanczos)


def crop_and_resize(image: PIL.Image.Image, resolution: int) -> PIL.Image.Image:
    """Cut out the largest centered square and scale it to `resolution`."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return resize(image.crop((left, top, left + side, top + side)), resolution, resolution)


def fit(image: PIL.Image.Image, resolution: int) -> PIL.Image.Image:
    """Scale the whole image so that it fits into a square of `resolution`, centered on black."""
    width, height = (max(round(side * resolution / max(image.size)), 1) for side in image.size)
    return _center_on_black(resize(image, width, height), resolution)


def letterbox(image: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image | None:
    """Scale an image to `width`, cut it to `height`, and center it in a square of `width` that is otherwise black.

    Returns:
        The square; None if the image is narrower than `width`, or lower than `height` once it has that width.
    """
    rows = int(np.rint(width * image.height / image.width))
    if image.width < width or rows < height:
        return None
    middle = image.crop((0, (image.height - rows) // 2, image.width, (image.height + rows) // 2))
    return _center_on_black(resize(middle, width, height), width)


def _center_on_black(image, side):
    canvas = PIL.Image.new(image.mode, (side, side))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


# ---- Colors ----

def has_transparency(image: PIL.Image.Image) -> bool:
    """Whether an image has an alpha channel, or transparent colors in its palette."""
    return image.mode in ('RGBA', 'LA', 'PA') or (image.mode == 'P' and 'transparency' in image.info)


def remove_transparency(image: PIL.Image.Image, background: str | None) -> PIL.Image.Image:
    """Convert an image with transparency to L if it is in mode LA, otherwise to RGB.

    Args:
        image:      Image for which `has_transparency` is true.
        background: Name of the color behind it. None = keep the colors as they are stored.
    """
    gray = image.mode == 'LA'
    image = image.convert('RGBA')
    if background is not None:
        image = PIL.Image.alpha_composite(PIL.Image.new('RGBA', image.size, background), image)
    return image.convert('RGB').getchannel(0) if gray else image.convert('RGB')


def to_8_bit(image: PIL.Image.Image) -> PIL.Image.Image:
    """Scale 16-bit grayscale to 8 bits, which PIL's `convert` would clip instead; return other images unchanged."""
    if not image.mode.startswith('I'):
        return image
    return PIL.Image.fromarray(np.rint(np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
