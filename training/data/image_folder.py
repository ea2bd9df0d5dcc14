"""Folders and .zip archives of image files as a `Source` for training/data/dataset_writer.py: finding, decoding, bringing to one shape."""

import contextlib
import dataclasses
import functools
import io
import os
import zipfile

import numpy as np
import PIL.Image
import PIL.ImageOps

from dnnlib import storage
from dnnlib.cli import UserError
from training.data import image_labels
from training.data.dataset_writer import Source, shuffled_order
from training.data.pil_ops import crop_and_resize, first_line, letterbox, resize, to_chw

_MAX_FILE_BYTES = 1 << 28  # Largest image file read from a .zip, which may claim any size.
_EXTENSIONS = frozenset('.avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .ppm .tga .tif .tiff .webp'.split())
_KINDS = {'L': 'grayscale', 'LA': 'grayscale with transparency', '1': 'black and white', 'P': 'palette', 'I': '16-bit grayscale',
          'I;16': '16-bit grayscale', 'I;16B': '16-bit grayscale', 'F': 'floating-point', 'RGBA': 'RGBA (with transparency)'}


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What is done to each image. Without any of it, all must be squares of one power of two, RGB or grayscale.

    Args:
        resolution: Side of the images stored. None = that of the first file, which all others must share.
        resize:     How an image comes to that size: 'crop' = the square in the middle, scaled; 'fit' = scaled as a whole, black
                    around it; 'stretch' = scaled, whatever becomes of its proportions. None = crop.
        letterbox:  (width, height): cut and scale to that, in a square of `width` with black above and below, as for LSUN cars.
                    None = no.
        channels:   1 = convert to grayscale; 3 = convert to RGB. None = as they are.
        alpha:      What becomes of transparency: 'drop' = ignored; 'white', 'black' = the color behind it. None = refused.
    """
    resolution: int = None
    resize: str = None
    letterbox: tuple = None
    channels: int = None
    alpha: str = None


@contextlib.contextmanager
def open_source(image_dir, conversion, shuffle=True, labels=None, max_images=None, skip_bad=False, report=print):
    """Context of the Source of the images in a folder, with those below it, or in a .zip.

    Args:
        image_dir:  Folder, address of one, or .zip.
        conversion: Conversion.
        shuffle:    Store them in random order? Otherwise in the order of their paths by code points.
        labels:     'folders' = the first folder of its path is the class of an image; or a file, see training/data/image_labels.py.
                    None = no labels.
        max_images: Stop after so many. None = take all.
        skip_bad:   Leave out the images that cannot be used? Otherwise the first one raises UserError.
        report:     Function of a line about what was ignored.
    """
    with _open_files(image_dir) as files:
        names = _images_among(files, report)
        if not names:
            raise UserError(f'No input images found in {image_dir}', 'Name the folder that holds the images.')
        table, class_names = image_labels.load(labels, names) if labels else (None, None)
        shape, first_name = _shape_of_first(files, names, conversion, skip_bad)
        order = shuffled_order(len(names)) if shuffle else np.arange(len(names))

        def decode(index):
            try:
                return to_chw(_check_like(shape, _load(files, names[index], conversion), files.title(names[index]), first_name))
            except UserError as err:
                if skip_bad:
                    return f'{err.fact}; it is left out'
                raise

        yield Source(shape, order, decode, len(names), None if table is None else table[order], class_names, max_images)


def iterate_images(paths, channels, report=print):
    """Yield (what messages call it, PIL image) for each image among files, folders and .zip archives, of whatever size, upright.

    Args:
        paths:    List of paths. Those in a folder or archive come in the order of their names.
        channels: 1 = as grayscale, 3 = as RGB; transparency becomes white.
        report:   Function of a line about what was ignored.

    Raises: UserError if there is no such path, none of its files is an image, or one cannot be read.
    """
    conversion = Conversion(channels=channels, alpha='white')
    for path in paths:
        is_one = storage.is_file(path) and os.path.splitext(path)[1].lower() != '.zip'
        opened = contextlib.nullcontext(_Files([storage.base_name(path)], lambda name, path=path: storage.open_file(path),
                                               lambda name, path=path: path)) if is_one else _open_files(path)
        with opened as files:
            names = files.names if is_one else _images_among(files, report)
            if not names:
                raise UserError(f'No input images found in {path}', 'Name images, or the folder that holds them.')
            for name in names:
                try:
                    image = _load(files, name, conversion)
                except UserError as err:
                    raise UserError(err.fact, 'Leave it out, or put a sound image in its place.') from None
                yield files.title(name), image


# ---- Files ----

@dataclasses.dataclass(frozen=True)
class _Files:
    """A folder or archive, opened.

    Args:
        names: Paths inside it with slashes, sorted by code points, without hidden files.
        read:  Function of a name -> binary file object.
        title: Function of a name -> what messages call the file.
    """
    names: list
    read: object
    title: object


@contextlib.contextmanager
def _open_files(image_dir):
    if storage.is_folder(image_dir):
        root = str(image_dir).rstrip('/') or '/'

        def path(name):
            return os.path.join(root, *name.split('/'))

        names = [os.path.join(folder, name)[len(root):].replace(os.sep, '/').lstrip('/')
                 for folder, names in storage.walk(root) for name in names if not name.startswith('.')]
        yield _Files(sorted(names), lambda name: storage.open_file(path(name)), path)
        return
    if not storage.is_file(image_dir):
        raise UserError(f'image folder {image_dir} not found', 'Name a folder of images, or a .zip of them.')
    try:
        with storage.open_file(image_dir) as file, zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist() if not info.is_dir() and not info.filename.startswith('__MACOSX/')
                       and not any(part.startswith('.') for part in info.filename.split('/'))}

            def read(name):
                if members[name].file_size > _MAX_FILE_BYTES:
                    raise UserError(f'{title(name)} claims {members[name].file_size} bytes, more than the {_MAX_FILE_BYTES} allowed',
                                    'Is it an image? If so, unpack the .zip and name the folder.')
                return io.BytesIO(archive.read(members[name]))

            def title(name):
                return f'{image_dir}: {name}'

            yield _Files(sorted(members), read, title)
    except zipfile.BadZipFile as err:
        raise UserError(f'{image_dir} is neither a folder nor a .zip: {err}', 'Name a folder of images, or a .zip of them.') from err


def _images_among(files, report):
    """The names that are images: by their ending or, without a known one, by how the file begins. `report` tells of the others."""
    images, others = [], []
    for name in files.names:
        is_image = os.path.splitext(name)[1].lower() in _EXTENSIONS or _begins_like_an_image(files, name)
        (images if is_image else others).append(name)
    if others:
        report(f'Ignored {len(others)} files that are no images: {", ".join(others[:3])}{", ..." if len(others) > 3 else ""}')
    return images


def _begins_like_an_image(files, name):
    try:
        with files.read(name) as file, PIL.Image.open(file):
            return True
    except Exception:  # Whatever a decoder makes of a file that was not meant for it.
        return False


# ---- From a file to an image that can be stored ----

def _load(files, name, conversion):
    """The image of a file as a PIL image, upright and converted. Raises UserError if that is not possible."""
    title = files.title(name)
    try:
        with files.read(name) as file:
            image = PIL.Image.open(file)
            if getattr(image, 'n_frames', 1) > 1 and image.format != 'MPO':  # which is a photograph and its thumbnails
                raise UserError(f'{title} is an animation of {image.n_frames} frames',
                                'Take one frame out of it, or leave such files out with --skip-bad.')
            pixels = _decode_plain_png(file) if image.format == 'PNG' else None
            if pixels is not None:
                image = PIL.Image.fromarray(pixels)
            else:
                image.load()
                PIL.ImageOps.exif_transpose(image, in_place=True)
    except (UserError, MemoryError):
        raise
    except Exception as err:  # Damaged files make decoders raise almost anything.
        raise UserError(f'{title} is not an image that can be read: {first_line(err)}',
                        'Remove the file, put a sound copy in its place, or leave such files out with --skip-bad.') from err
    return _scale(_convert(image, conversion, title), conversion, title)


@functools.cache
def _png_decoder():
    """The function of imagecodecs that decodes PNG files. None = it is not installed: only speed is lost."""
    try:
        from imagecodecs import spng_decode
    except ImportError:
        return None
    return spng_decode


def _decode_plain_png(file):
    """Pixels of a PNG as most are, uint8 [H, W] or [H, W, 3], in little more than half the time that Pillow takes.

    None = Pillow's, for which the file stays where it is: other kinds of PNG, damaged ones, about which it has more to say, and all where
    imagecodecs is not installed.
    """
    if _png_decoder() is None:
        return None
    position = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(position)
    depth_and_kind = data[24:29]  # Of the header: bits, color type (0 = grayscale, 2 = RGB), two zeros, interlaced.
    if depth_and_kind not in (b'\x08\0\0\0\0', b'\x08\2\0\0\0'):
        return None
    if any(mark in data for mark in (b'eXIf', b'Raw profile', b'acTL', b'tRNS')):  # Turned, animated, or with a transparent color.
        return None
    try:
        return _png_decoder()(data)
    except Exception:  # Damaged, or a build of imagecodecs without this decoder.
        return None


def _describe(image):
    return f'{image.width}x{image.height} {_KINDS.get(image.mode, image.mode)}'


def _convert(image, conversion, title):
    """To the mode RGB or L as `conversion` says."""
    if image.mode in ('RGBA', 'LA', 'PA') or (image.mode == 'P' and 'transparency' in image.info):
        if conversion.alpha is None:
            raise UserError(f'Input images must be stored as RGB or grayscale: {title} is {_describe(image)}',
                            'Say what becomes of the transparency: --alpha=drop, white or black.')
        image = _without_alpha(image, conversion.alpha)
    if conversion.channels is None:
        if image.mode not in ('RGB', 'L'):
            raise UserError(f'Input images must be stored as RGB or grayscale: {title} is {_describe(image)}',
                            'Convert all images with --channels=3 or 1, or leave such files out with --skip-bad.')
        return image
    if image.mode == 'F' or (image.mode == 'I' and image.format not in ('PNG', None)):
        raise UserError(f'{title} is {_describe(image)}, whose black and white are not known', 'Convert it to 8 bits first.')
    if image.mode.startswith('I'):  # 16 bits, which convert() would cut off instead of scaling them
        image = PIL.Image.fromarray(np.rint(np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
    return image.convert('L' if conversion.channels == 1 else 'RGB')


def _without_alpha(image, alpha):
    gray = image.mode == 'LA'
    image = image.convert('RGBA')
    if alpha != 'drop':
        image = PIL.Image.alpha_composite(PIL.Image.new('RGBA', image.size, alpha), image)
    return image.convert('RGB').getchannel(0) if gray else image.convert('RGB')


def _scale(image, conversion, title):
    """To the size that `conversion` asks for."""
    size = conversion.resolution
    if conversion.letterbox:
        boxed = letterbox(image, *conversion.letterbox)
        if boxed is None:
            raise UserError(f'{title} is {_describe(image)}, too small for --letterbox={"x".join(map(str, conversion.letterbox))}',
                            'Take a smaller --letterbox, or leave such files out with --skip-bad.')
        return boxed
    if size is None or image.size == (size, size):
        return image
    if conversion.resize == 'stretch':
        return resize(image, size, size)
    if conversion.resize == 'fit':
        width, height = (max(round(side * size / max(image.size)), 1) for side in image.size)
        canvas = PIL.Image.new(image.mode, (size, size))
        canvas.paste(resize(image, width, height), ((size - width) // 2, (size - height) // 2))
        return canvas
    return crop_and_resize(image, size)


# ---- One shape for all ----

def _shape_of_first(files, names, conversion, skip_bad):
    """Shape [C, R, R] of the first image, which all must have, and what messages call its file."""
    for name in names:
        try:
            image = _load(files, name, conversion)
            _check_size(image, files.title(name))
        except UserError as err:
            if skip_bad:
                last = err
                continue
            raise
        return to_chw(image).shape, files.title(name)
    raise UserError(f'none of the {len(names)} images can be used; the last one: {last.fact}', last.remedy)


def _check_size(image, title):
    if image.width != image.height:
        raise UserError(f'Input images must have the same width and height: {title} is {_describe(image)}',
                        'Give --resolution and --resize=crop, fit or stretch; or --letterbox for wide images.')
    if image.width < 4 or image.width & (image.width - 1):
        power = 2 ** max(image.width.bit_length() - 1, 2)
        raise UserError(f'Input image resolution must be a power-of-two, 4 or above: {title} is {_describe(image)}',
                        f'Resize all images, for instance with --resolution={power}.')


def _check_like(shape, image, title, first_name):
    """`image` itself. Raises UserError if it is not of the shape of the first one."""
    if (len(image.getbands()), *image.size) != shape:
        expected = f'{shape[2]}x{shape[1]} {"grayscale" if shape[0] == 1 else "RGB"}'
        flag = '--channels=3 or 1' if image.size == tuple(shape[1:]) else f'--resolution={shape[1]}'
        raise UserError(f'Input images must all be of one kind: {title} is {_describe(image)}, expected {expected} as {first_name}',
                        f'Bring all to one kind with {flag}, or leave such files out with --skip-bad.')
    return image
