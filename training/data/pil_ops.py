"""Operations on PIL images: crop, resize, and conversion to arrays."""

import numpy as np
import PIL
import PIL.Image


def resize(image, width, height):
    """A PIL image scaled by the Lanczos filter, first along its rows: Pillow 13 chooses the order by itself, with other roundings."""
    lanczos = PIL.Image.Resampling.LANCZOS
    return image.resize((width, image.height), lanczos).resize((width, height), lanczos)


def crop_and_resize(image, resolution):
    """The square in the middle of a PIL image, scaled to `resolution`."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return resize(image.crop((left, top, left + side, top + side)), resolution, resolution)


def letterbox(image, width, height):
    """The middle of a PIL image at width x height, in a square of `width` that is black above and below.

    None = the image is too small: narrower than `width`, or lower than `height` once it has that width.
    """
    rows = int(np.rint(width * image.height / image.width))
    if image.width < width or rows < height:
        return None
    middle = image.crop((0, (image.height - rows) // 2, image.width, (image.height + rows) // 2))
    canvas = PIL.Image.new(image.mode, (width, width))
    canvas.paste(resize(middle, width, height), (0, (width - height) // 2))
    return canvas


def to_chw(image):
    """PIL image, gray or RGB -> uint8 [C, H, W]."""
    pixels = b''.join(image.tobytes('raw', band) for band in image.getbands())  # faster than to have NumPy turn the axes
    return np.frombuffer(pixels, np.uint8).reshape(-1, image.height, image.width)


def first_line(err):
    """What an exception of a decoder says, on one line."""
    if isinstance(err, PIL.UnidentifiedImageError):  # Its message is the repr of a file.
        return 'cannot identify its format'
    return (str(err) or type(err).__name__).splitlines()[0]
