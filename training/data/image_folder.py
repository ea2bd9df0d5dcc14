"""Image files in folders and .zip archives as a `Source` of training/data/dataset_writer.py: find, decode, convert."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import numpy as np
import PIL.Image

from dnnlib import cli, storage
from dnnlib.cli import UserError
from training.data import image_labels, pil_ops
from training.data.dataset_writer import Source, require_memory, shuffled_order
from training.data.image_archive import LABEL_FILE

_MAX_FILE_BYTES = 1 << 28  # Largest image file that is read from a .zip, which may claim any size.
_BEGIN_OF_ZIP = b'PK\x03\x04'
_EXTENSIONS = frozenset(
    '.avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .ppm .tga .tif .tiff .webp'.split())


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What is done to each image. By default nothing: they must be equal squares, RGB or grayscale.

    The side of the squares must be a power of two.

    Args:
        resolution: Side of the stored images. None = that of the first file, which all others must share.
        resize:     How an image is brought to that size: 'crop' = cut out the centered square, then scale;
                    'fit' = scale the whole image and fill up with black;
                    'stretch' = scale width and height independently. None = crop.
        letterbox:  (width, height): scale and cut to that size, in a square of `width` with black above and below, as
                    for LSUN cars. None = no.
        channels:   1 = convert to grayscale; 3 = convert to RGB. None = leave as they are.
        alpha:      What to do with transparency: 'drop' = ignore it; 'white', 'black' = color of the background.
                    None = refuse such images.
    """
    resolution: int | None = None
    resize: str | None = None
    letterbox: tuple[int, int] | None = None
    channels: int | None = None
    alpha: str | None = None


@contextlib.contextmanager
def open_source(
        image_dir: str, conversion: Conversion, shuffle: bool = True, labels: str | None = None,
        max_images: int | None = None, skip_bad: bool = False,
        report: Callable[[str], object] = print) -> Iterator[Source]:
    """Context manager of the Source of the images in a folder and its subfolders, or in a .zip.

    Args:
        image_dir:  Folder, remote address of a folder, or .zip.
        conversion: What is done to each image.
        shuffle:    Store the images in random order? Otherwise they are sorted by path, by code point.
        labels:     'folders' = the first folder in the path of an image is its class; or a label file as in
                    training/data/image_labels.py, which may be inside the .zip. None = the dataset.json of
                    training/data/image_archive.py, if there is one that has labels. 'none' = no labels.
        max_images: Stop after this many images. None = take all.
        skip_bad:   Leave out the images that cannot be used? Otherwise the first one raises UserError.
        report:     Called with a line about the files that were ignored.

    Raises:
        UserError: There are no images, or the labels do not fit them; or without `skip_bad`, an image cannot be used.
    """
    with _open_files(image_dir) as files:
        names = _find_images(files, report)
        if not names:
            raise UserError(f'No input images found in {image_dir}', 'Name the folder that holds the images.')
        side = conversion.letterbox[0] if conversion.letterbox else conversion.resolution
        if side:
            require_memory((conversion.channels or 1, side, side), min(len(names), max_images or len(names)))
        table, class_names = _load_labels(labels, files, names, report)
        shape, first_title = _shape_of_first(files, names, conversion, skip_bad)
        order = shuffled_order(len(names)) if shuffle else np.arange(len(names))

        def decode(index):
            title = files.title(names[index])
            try:
                image = _load(files, names[index], conversion)
                _check_same_kind(image, shape, title, first_title)
            except UserError as err:
                if skip_bad:
                    return f'{err.fact}; it is left out'
                raise
            return pil_ops.to_chw(image)

        table = None if table is None else table[order]
        yield Source(shape, order, decode, len(names), table, class_names, max_images)


def iterate_images(paths: Sequence[str], channels: int,
                   report: Callable[[str], object] = print) -> Iterator[tuple[str, PIL.Image.Image]]:
    """Yield (title for messages, upright PIL image of any size) for each image in files, folders and .zip archives.

    Args:
        paths:    Paths of images, folders and archives. Within a folder or archive the images are sorted by name.
        channels: 1 = convert to grayscale, 3 = to RGB; the background of transparent images becomes white.
        report:   Called with a line about the files that were ignored.

    Raises:
        UserError: A path does not exist, holds no images, or an image cannot be read.
    """
    conversion = Conversion(channels=channels, alpha='white')
    for path in paths:
        is_image = storage.is_file(path) and os.path.splitext(path)[1].lower() != '.zip'
        with contextlib.nullcontext(_single_file(path)) if is_image else _open_files(path) as files:
            names = files.names if is_image else _find_images(files, report)
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
    """An opened folder or archive.

    Args:
        names:   Paths of the files inside it, with slashes, sorted by code point, without hidden files.
        read:    Opens the file of a name -> binary file object.
        title:   Path of the file of a name, for messages.
        skipped: Why files are not among `names` ('are pipes or devices') -> their paths.
    """
    names: list[str]
    read: Callable[[str], IO[bytes]]
    title: Callable[[str], str]
    skipped: dict[str, list[str]] = dataclasses.field(default_factory=dict)


def _single_file(path):
    return _Files([storage.base_name(path)], lambda _name: storage.open_file(path), lambda _name: path)


@contextlib.contextmanager
def _open_files(image_dir):
    """Context manager of the _Files of a folder or .zip. Raises UserError if it is neither."""
    if storage.is_folder(image_dir):
        yield _files_in_folder(image_dir)
        return
    if not storage.is_file(image_dir):
        raise UserError(f'image folder {image_dir} not found', 'Name a folder of images, or a .zip of them.')
    try:
        with storage.open_file(image_dir) as file, zipfile.ZipFile(file) as archive:
            yield _files_in_zip(image_dir, archive)
    except zipfile.BadZipFile as err:
        with storage.open_file(image_dir) as file:
            if file.read(4) == _BEGIN_OF_ZIP:
                raise UserError(f'{image_dir} is a .zip that is cut off or damaged: '
                                'the list of its files at its end is not readable',
                                'Copy or download it again.') from err
        raise UserError(f'{image_dir} is neither a folder nor a .zip', 'Name a folder of images, or a .zip of them.'
                        ) from err


def _files_in_folder(image_dir):
    root = str(image_dir).rstrip('/') or '/'

    def path(name):
        return os.path.join(root, *name.split('/'))

    def paths_inside(folder, names):
        return [os.path.join(folder, name)[len(root):].replace(os.sep, '/').lstrip('/')
                for name in names if not name.startswith('.')]

    files, others = [], []
    for folder, names, other_names in storage.walk(root):
        files += paths_inside(folder, names)
        others += paths_inside(folder, other_names)
    return _Files(sorted(files), lambda name: storage.open_file(path(name)), path,
                  {'are pipes or devices': sorted(others)})


def _files_in_zip(path, archive):
    def is_hidden(name):
        return name.startswith('__MACOSX/') or any(part.startswith('.') and part != '..' for part in name.split('/'))

    def is_outside(name):
        return name.startswith('/') or '..' in name.split('/')

    def read(name):
        info = members[name]
        if info.file_size > _MAX_FILE_BYTES:
            raise UserError(f'{title(name)} claims {info.file_size} bytes, more than the {_MAX_FILE_BYTES} allowed',
                            'Is it an image? If so, unpack the .zip and name the folder.')
        try:
            return io.BytesIO(archive.read(info))
        except (RuntimeError, NotImplementedError) as err:
            kind = 'encrypted' if info.flag_bits & 1 else 'compressed by a method that Python cannot read'
            raise UserError(f'{title(name)} is {kind}', 'Unpack the .zip and name the folder.') from err

    def title(name):
        return f'{path}: {name}'

    infos = [info for info in archive.infolist() if not info.is_dir() and not is_hidden(info.filename)]
    outside = [info.filename for info in infos if is_outside(info.filename)]
    members = {info.filename: info for info in infos if not is_outside(info.filename)}  # The last one of a name counts.
    repeated = [info.filename for info in infos
                if not is_outside(info.filename) and members[info.filename] is not info]
    return _Files(sorted(members), read, title, {'lie outside the folder of the .zip': sorted(outside),
                                                 'have the name of a later file of the .zip': sorted(repeated)})


def _find_images(files, report):
    """Names of the files that are images by their extension, or else by their first bytes. Reports all others."""
    images, others = [], []
    for name in files.names:
        if name == LABEL_FILE:
            continue
        is_image = os.path.splitext(name)[1].lower() in _EXTENSIONS or _begins_like_an_image(files, name)
        (images if is_image else others).append(name)
    for reason, skipped in [('are no images', others), *files.skipped.items()]:
        if skipped:
            some = ', '.join(map(cli.printable, skipped[:3])) + (', ...' if len(skipped) > 3 else '')
            report(f'Ignored {len(skipped)} files that {reason}: {some}')
    return images


def _load_labels(labels, files, names, report):
    """What `image_labels.load` returns, for the argument `labels` of `open_source`; (None, None) = no labels."""
    if labels not in (None, 'none'):
        is_inside = labels in files.names and not storage.is_file(labels)  # The working folder comes first.
        return image_labels.load(labels, names, files.read if is_inside else None)
    if labels == 'none' or LABEL_FILE not in files.names:
        return None, None
    try:
        with files.read(LABEL_FILE) as file:
            content = json.load(file)
        if not isinstance(content, dict) or not content.get('labels'):
            return None, None  # {"labels": null}, or the file of another program.
    except (ValueError, RecursionError):
        pass  # Below it is opened again, and the message says what is wrong with it.
    try:
        loaded = image_labels.load(LABEL_FILE, names, files.read)
    except UserError as err:
        raise UserError(err.fact, f'{err.remedy} Or leave the labels out with --labels=none.') from err
    report(f'Labels from {LABEL_FILE}: {loaded[0].shape[1]} numbers for each image.')
    return loaded


def _begins_like_an_image(files, name):
    try:
        with files.read(name) as file, PIL.Image.open(file):
            return True
    except Exception:  # Decoders raise almost anything on a file that is not an image.
        return False


# ---- From a file to an image that can be stored ----

def _load(files, name, conversion):
    """The image of a file as a PIL image, upright and converted. Raises UserError if it cannot be used."""
    title = files.title(name)
    try:
        with files.read(name) as file:
            image: Any = PIL.Image.open(file)
            # MPO files hold a photograph and its thumbnails.
            if getattr(image, 'n_frames', 1) > 1 and image.format != 'MPO':
                raise UserError(f'{title} is an animation of {image.n_frames} frames',
                                'Take one frame out of it, or leave such files out with --skip-bad.')
            pixels = _decode_plain_png(file) if image.format == 'PNG' else None
            image = pil_ops.load_upright(image) if pixels is None else PIL.Image.fromarray(pixels)
    except (UserError, MemoryError):
        raise
    except Exception as err:  # Decoders raise almost anything on a damaged file.
        raise UserError(
            f'{title} is not an image that can be read: {pil_ops.first_line(err)}',
            'Remove the file, put a sound copy in its place, or leave such files out with --skip-bad.') from err
    return _resize(_convert_mode(image, conversion, title), conversion, title)


@functools.cache
def _png_decoder():
    """The function of imagecodecs that decodes PNG files. None = it is not installed, which only costs speed."""
    try:
        from imagecodecs import spng_decode
    except ImportError:
        return None
    return spng_decode


def _decode_plain_png(file):
    """Decode an ordinary PNG file in little more than half the time that Pillow takes.

    Returns:
        uint8 [H, W] or [H, W, 3]. None = leave the file to Pillow: it is a PNG file of another kind, or a damaged one,
        which Pillow describes better, or imagecodecs is not installed. The position in `file` is then unchanged.
    """
    decoder = _png_decoder()
    if decoder is None:
        return None
    position = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(position)
    # Of the header: bit depth, color type (0 = grayscale, 2 = RGB), compression, filter, interlacing.
    if data[24:29] not in (b'\x08\0\0\0\0', b'\x08\2\0\0\0'):
        return None
    # Chunks of rotated or animated images, and of those with a transparent color.
    if any(chunk in data for chunk in (b'eXIf', b'Raw profile', b'acTL', b'tRNS')):
        return None
    try:
        return decoder(data)
    except Exception:  # A damaged file, or a build of imagecodecs without this decoder.
        return None


def _convert_mode(image, conversion, title):
    """Convert an image to mode RGB or L as `conversion` says."""
    if pil_ops.has_transparency(image):
        if conversion.alpha is None:
            raise UserError(f'Input images must be stored as RGB or grayscale: {title} is {pil_ops.describe(image)}',
                            'Say what becomes of the transparency: --alpha=drop, white or black.')
        image = pil_ops.remove_transparency(image, None if conversion.alpha == 'drop' else conversion.alpha)
    if conversion.channels is None:
        if image.mode not in ('RGB', 'L'):
            raise UserError(f'Input images must be stored as RGB or grayscale: {title} is {pil_ops.describe(image)}',
                            'Convert all images with --channels=3 or 1, or leave such files out with --skip-bad.')
        return image
    if image.mode == 'F' or (image.mode == 'I' and image.format not in ('PNG', None)):
        raise UserError(f'{title} is {pil_ops.describe(image)}, whose black and white levels are not known',
                        'Convert it to 8 bits first.')
    return pil_ops.to_8_bit(image).convert('L' if conversion.channels == 1 else 'RGB')


def _resize(image, conversion, title):
    """Bring an image to the size that `conversion` asks for."""
    size = conversion.resolution
    if conversion.letterbox:
        boxed = pil_ops.letterbox(image, *conversion.letterbox)
        if boxed is None:
            flag = f'--letterbox={"x".join(map(str, conversion.letterbox))}'
            raise UserError(f'{title} is {pil_ops.describe(image)}, too small for {flag}',
                            'Take a smaller --letterbox, or leave such files out with --skip-bad.')
        return boxed
    if size is None or image.size == (size, size):
        return image
    if conversion.resize == 'stretch':
        return pil_ops.resize(image, size, size)
    return pil_ops.fit(image, size) if conversion.resize == 'fit' else pil_ops.crop_and_resize(image, size)


# ---- One shape for all ----

def _shape_of_first(files, names, conversion, skip_bad):
    """Shape [C, R, R] of the first usable image, which all others must have, and the title of its file."""
    last_error = None
    for name in names:
        try:
            image = _load(files, name, conversion)
            _check_size(image, files.title(name))
        except UserError as err:
            if not skip_bad:
                raise
            last_error = err
            continue
        return pil_ops.to_chw(image).shape, files.title(name)
    assert last_error is not None  # There is at least one name.
    raise UserError(f'none of the {len(names)} images can be used; the last one: {last_error.fact}', last_error.remedy)


def _check_size(image, title):
    if image.width != image.height:
        raise UserError(f'Input images must have the same width and height: {title} is {pil_ops.describe(image)}',
                        'Give --resolution and --resize=crop, fit or stretch; or --letterbox for wide images.')
    if image.width < 4 or image.width & (image.width - 1):
        power = 2 ** max(image.width.bit_length() - 1, 2)
        raise UserError('Input image resolution must be a power-of-two, 4 or above: '
                        f'{title} is {pil_ops.describe(image)}',
                        f'Resize all images, for instance with --resolution={power}.')


def _check_same_kind(image, shape, title, first_title):
    """Raise UserError unless an image has the `shape` [C, R, R] of the first one."""
    if (len(image.getbands()), *image.size) != shape:
        expected = f'{shape[2]}x{shape[1]} {"grayscale" if shape[0] == 1 else "RGB"}'
        flag = '--channels=3 or 1' if image.size == tuple(shape[1:]) else f'--resolution={shape[1]}'
        raise UserError(f'Input images must all be of one kind: {title} is {pil_ops.describe(image)}, '
                        f'expected {expected} as {first_title}',
                        f'Bring all to one kind with {flag}, or leave such files out with --skip-bad.')
