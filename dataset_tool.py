"""Make, view, unpack and compare the multi-resolution TFRecord datasets that training reads."""

import argparse
import contextlib
import functools
import glob
import io
import itertools
import os
import re
import signal
import sys
import time
import zipfile

import numpy as np
import PIL.Image
import PIL.ImageShow
import tqdm

from dnnlib import cli
from dnnlib.cli import UserError
from training import tfrecords

_MAX_FILE_BYTES = 1 << 28     # Largest image file read from a .zip, which may claim any size.
_SHEET_PIXELS = (1920, 1080)  # Size that the picture of `display` fits into, if one image does.
_PIL_MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}


def _progress(items, total):
    """Yield `items`; a bar with the time left on a terminal, otherwise a line every half minute."""
    if sys.stderr.isatty():
        yield from tqdm.tqdm(items, total=total, unit='img')
        return
    last = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last > 30:
            last = time.monotonic()
            print(f'{done} / {total}', flush=True)
        yield item


# ---- display, extract, compare ----

def _open_dataset(tfrecord_dir):
    print(f'Loading dataset "{tfrecord_dir}"', flush=True)
    return tfrecords.find_dataset(tfrecord_dir)


def _to_pil(image, tfrecord_dir):
    """uint8 [C, H, W] -> PIL image."""
    if len(image) not in _PIL_MODES:
        raise UserError(f'images of {tfrecord_dir} have {len(image)} channels; a picture file has one of {list(_PIL_MODES)}')
    return PIL.Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def display(tfrecord_dir):
    """Show the first images in one picture: in a window where there is one, otherwise as NAME-display.png here."""
    files = _open_dataset(tfrecord_dir)
    size = 2 ** files.resolution_log2
    columns, rows = (max(pixels // size, 1) for pixels in _SHEET_PIXELS)
    count = min(files.num_images, columns * rows)
    columns, rows = min(columns, count), -(-count // columns)
    print(f'Displaying images 0 to {count - 1} of {files.num_images}, left to right, top to bottom')
    sheet = PIL.Image.new(_PIL_MODES.get(files.channels, 'L'), (columns * size, rows * size))
    for index, image in enumerate(itertools.islice(tfrecords.read_images(files.largest), count)):
        sheet.paste(_to_pil(image, tfrecord_dir), (index % columns * size, index // columns * size))
    has_window = os.name == 'nt' or sys.platform == 'darwin' or any(os.environ.get(name) for name in ('DISPLAY', 'WAYLAND_DISPLAY'))
    if has_window and PIL.ImageShow.show(sheet, title=tfrecord_dir):
        return
    path = f'{os.path.basename(os.path.abspath(tfrecord_dir))}-display.png'
    sheet.save(f'{path}.partial', 'PNG')
    os.replace(f'{path}.partial', path)
    print(f'No window to show them in; see {path}')


def extract(tfrecord_dir, output_dir, force):
    """Store the images at full resolution as output_dir/img00000000.png, ..."""
    files = _open_dataset(tfrecord_dir)
    print(f'Extracting images to "{output_dir}"', flush=True)
    with tfrecords.new_folder(output_dir, r'img\d{8,}\.png' if force else None) as folder:
        for index, image in enumerate(_progress(tfrecords.read_images(files.largest), files.num_images)):
            _to_pil(image, tfrecord_dir).save(os.path.join(folder, f'img{index:08d}.png'))
    print(f'Extracted {files.num_images} images.')


def compare(tfrecord_dir_a, tfrecord_dir_b, ignore_labels):
    """Compare two datasets at full resolution, image by image and label by label; print what differs."""
    both = [_open_dataset(path) for path in (tfrecord_dir_a, tfrecord_dir_b)]
    total = min(files.num_images for files in both)
    labels = [np.zeros([files.num_images, 0]) if ignore_labels or files.label_file is None
              else tfrecords.load_labels(files.label_file, files.num_images) for files in both]
    print('Comparing datasets', flush=True)
    same_images = same_labels = 0
    pairs = zip(*[tfrecords.read_images(files.largest) for files in both], strict=False)
    for index, (image_a, image_b) in enumerate(_progress(pairs, total)):
        if np.array_equal(image_a, image_b):
            same_images += 1
        else:
            tqdm.tqdm.write(f'Image {index} is different')  # print() would write into the progress bar
        if np.array_equal(labels[0][index], labels[1][index]):
            same_labels += 1
        else:
            tqdm.tqdm.write(f'Label {index} is different')
    if both[0].num_images != both[1].num_images:
        print('Datasets contain different number of images')
    print(f'Identical images: {same_images} / {total}')
    if not ignore_labels:
        print(f'Identical labels: {same_labels} / {total}')


# ---- create_...: each finds its images and hands them to _write_dataset one at a time ----

def _write_dataset(tfrecord_dir, images, num_images, force, labels=None):
    """Make a dataset.

    Args:
        tfrecord_dir: Folder to make.
        images:       Iterable of uint8 [C, R, R], in the order in which they are stored.
        num_images:   How many there are, as far as known; for the progress only.
        force:        Replace a dataset that is there?
        labels:       [num_images, label_size] in the same order. None = no labels.
    """
    print(f'Creating dataset "{tfrecord_dir}"', flush=True)
    with tfrecords.new_dataset(tfrecord_dir, force) as writer:
        for image in _progress(images, num_images):
            writer.add_image(image)
        if labels is not None:
            writer.add_labels(labels)
    print(f'Added {writer.num_images} images.')


def create_from_images(tfrecord_dir, image_dir, shuffle, force):
    """Make a dataset of the image files in a folder or .zip, all of one size and kind."""
    print(f'Loading images from "{image_dir}"', flush=True)
    with _image_files(image_dir) as (names, read):
        if not names:
            raise UserError(f'No input images found in {image_dir}', 'Name the folder that holds the image files themselves.')
        shape = _check_first_image(_decode_image(names[0], read), names[0])
        order = tfrecords.shuffled_order(len(names)) if shuffle else range(len(names))
        images = (_decode_like(shape, names[index], read, names[0]) for index in order)
        _write_dataset(tfrecord_dir, images, len(names), force)


@contextlib.contextmanager
def _image_files(image_dir):
    """Context of (names of the files in code-point order, function of a name that opens the file) for a folder or .zip.

    Hidden files do not count, nor does what macOS adds to a .zip.
    """
    if os.path.isdir(image_dir):
        yield sorted(glob.glob(os.path.join(glob.escape(image_dir), '*'))), functools.partial(open, mode='rb')
        return
    if not os.path.isfile(image_dir):
        raise UserError(f'image folder {image_dir} not found', 'Name a folder of images, or a .zip of them.')
    try:
        archive = zipfile.ZipFile(image_dir)
    except zipfile.BadZipFile as err:
        raise UserError(f'{image_dir} is neither a folder nor a .zip: {err}', 'Name a folder of images, or a .zip of them.') from err
    with archive:
        members = {info.filename: info for info in archive.infolist()
                   if not info.is_dir() and not re.search(r'^__MACOSX/|(^|/)\.[^/]*$', info.filename)}

        def read(name):
            if members[name].file_size > _MAX_FILE_BYTES:
                raise UserError(f'{image_dir}: {name} claims {members[name].file_size} bytes, more than the {_MAX_FILE_BYTES} allowed',
                                'Is it an image? If so, unpack the .zip and name the folder.')
            return io.BytesIO(archive.read(members[name]))

        yield sorted(members), read


def _decode_image(name, read):
    """The file `name`, opened by `read`, as a loaded PIL image. Raises UserError if it is none."""
    if os.path.isdir(name):
        raise UserError(f'{name} is a folder; all images must lie in one folder', 'Move the images up, or the folder elsewhere.')
    try:
        with read(name) as file:
            image = PIL.Image.open(file)
            image.load()
            return image
    except (UserError, MemoryError):
        raise
    except Exception as err:  # Damaged files make decoders raise almost anything.
        raise UserError(f'{name} is not an image that can be read: {err}', 'Remove the file, or put a sound copy in its place.') from err


def _describe(image):
    kinds = {'L': 'grayscale', '1': 'black and white', 'P': 'palette', 'I': '16-bit grayscale', 'I;16': '16-bit grayscale'}
    return f'{image.width}x{image.height} {kinds.get(image.mode, image.mode)}'


def _check_first_image(image, name):
    """The first image sets what all must be -> (PIL mode, (width, height)). Raises UserError if no dataset can be of this kind."""
    if image.width != image.height:
        raise UserError(f'Input images must have the same width and height: {name} is {_describe(image)}', 'Crop the images to squares.')
    if image.width < 4 or image.width & (image.width - 1):
        power = 2 ** max(image.width.bit_length() - 1, 2)
        raise UserError(f'Input image resolution must be a power-of-two, 4 or above: {name} is {_describe(image)}',
                        f'Resize the images, for instance to {power}x{power}.')
    if image.mode not in ('RGB', 'L'):
        raise UserError(f'Input images must be stored as RGB or grayscale: {name} is {_describe(image)}',
                        "Convert the images, for instance with Pillow: Image.open(path).convert('RGB').save(path)")
    return image.mode, image.size


def _decode_like(shape, name, read, first_name):
    """Pixels of the file `name`: uint8 [C, H, W]. Raises UserError if they are not of the shape of the first image."""
    image = _decode_image(name, read)
    if (image.mode, image.size) != shape:
        expected = _describe(PIL.Image.new(*shape))
        raise UserError(f'Input images must all be of one kind: {name} is {_describe(image)}, expected {expected} as {first_name}',
                        f'Convert or remove {name}.')
    pixels = np.asarray(image)
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


# ---- Command line ----

def _parse_args(argv):
    parser = argparse.ArgumentParser(prog='dataset_tool.py', description=__doc__)
    cli.add_debug_flag(parser)
    commands = parser.add_subparsers(dest='command', metavar='COMMAND')

    def add_command(function, text):
        command = commands.add_parser(function.__name__, help=text, description=text)
        command.set_defaults(function=function)
        cli.add_debug_flag(command)
        return command

    command = add_command(display, 'show the first images of a dataset')
    command.add_argument('tfrecord_dir', help='folder of the dataset')

    command = add_command(extract, 'store the images of a dataset as PNG files')
    command.add_argument('tfrecord_dir', help='folder of the dataset')
    command.add_argument('output_dir', help='folder to make for the images')
    _add_force(command)

    command = add_command(compare, 'compare two datasets')
    command.add_argument('tfrecord_dir_a', help='folder of a dataset')
    command.add_argument('tfrecord_dir_b', help='folder of a dataset')
    command.add_argument('--ignore_labels', '--ignore-labels', type=cli.boolean, default=False, metavar='BOOL',
                         help='compare the images only (default: 0)')

    command = add_command(create_from_images, 'make a dataset of a folder of images')
    command.add_argument('tfrecord_dir', help='folder to make for the dataset')
    command.add_argument('image_dir', help='folder, or .zip, of square RGB or grayscale images, all alike, side a power of two')
    command.add_argument('--shuffle', type=cli.boolean, default=True, metavar='BOOL', help='store them in random order (default: 1)')
    _add_force(command)

    args = vars(parser.parse_args(argv))
    args.pop('debug')
    if args.pop('command') is None:
        parser.print_usage()
        raise UserError(f'missing command, one of {", ".join(commands.choices)}', 'Re-run with --help for usage.')
    return args


def _add_force(command):
    command.add_argument('--force', action='store_true', help='replace what an earlier run made there')


def main(argv):
    args = _parse_args(argv)
    try:
        args.pop('function')(**args)
    except OSError as err:  # No permission, no space, ...: nothing that a traceback would explain.
        raise UserError(f'{err.filename}: {err.strerror}' if err.filename else str(err), 'Check permissions and free space.') from err


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # A polite kill cleans up, as Ctrl-C does.
    cli.run(main)
