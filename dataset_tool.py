"""Make, view, unpack and compare the multi-resolution TFRecord datasets that training reads."""

import argparse
import contextlib
import itertools
import os
import re
import signal
import sys

import numpy as np
import PIL.Image
import PIL.ImageShow
import tqdm

from dnnlib import cli, storage
from dnnlib.cli import UserError
from dnnlib.progress import ProgressBar
from training.data import dataset_writer, image_folder, known_datasets, tfrecords

_MAX_REASONS = 10             # As many images that were left out are named; the others are counted.
_SHEET_PIXELS = (1920, 1080)  # Size that the picture of `display` fits into, if one image does.
_PIL_MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}


def _progress(items, total):
    """Yield `items` under a progress bar of `total` images."""
    with ProgressBar('', total) as progress:
        for item in items:
            yield item
            progress.update()


# ---- display, extract, compare, info, verify ----

def _open_dataset(tfrecord_dir):
    print(f'Loading dataset "{tfrecord_dir}"', flush=True)
    return tfrecords.find_dataset(tfrecord_dir)


def _to_pil(image, tfrecord_dir):
    """uint8 [C, H, W] -> PIL image."""
    if len(image) not in _PIL_MODES:
        raise UserError(f'images of {tfrecord_dir} have {len(image)} channels; a picture file has one of {list(_PIL_MODES)}')
    return PIL.Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def _save_picture(image, path):
    with storage.new_file(path) as part:
        image.save(part, 'PNG')


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
    path = f'{storage.base_name(tfrecord_dir)}-display.png'
    _save_picture(sheet, path)
    print(f'No window to show them in; see {path}')


def extract(tfrecord_dir, output_dir, force):
    """Store the images at full resolution as output_dir/img00000000.png, ..."""
    files = _open_dataset(tfrecord_dir)
    print(f'Extracting images to "{output_dir}"', flush=True)
    with storage.new_folder(output_dir, r'img\d{8,}\.png', force) as folder:
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


def info(tfrecord_dir, mean):
    """Tell what a dataset holds, after a quick look at its files. Returns the exit code."""
    if storage.is_folder(tfrecord_dir):
        sizes = {name: storage.size(os.path.join(tfrecord_dir, name)) for name in storage.list_folder(tfrecord_dir)
                 if storage.is_file(os.path.join(tfrecord_dir, name))}
        print(f'Files       {sum(sizes.values()) / 1e6:.1f} MB: ' + ', '.join(f'{name} {size / 1e6:.1f}' for name, size in sizes.items()))
    try:
        files = tfrecords.find_dataset(tfrecord_dir)
        size = 2 ** files.resolution_log2
        print(f'Images      {files.num_images}')
        print(f'Resolution  {size}x{size}, and lower levels down to 4x4')
        print(f'Channels    {files.channels}{ {1: " (grayscale)", 3: " (RGB)"}.get(files.channels, "")}')
        print(f'Labels      {_describe_labels(files)}')
    except UserError as err:
        print(f'Problem     {err.fact}')
        return 1
    print('Problems    none at a quick look; verify reads everything')
    if mean:
        total = sum(image.astype(np.float64) for image in _progress(tfrecords.read_images(files.largest), files.num_images))
        _save_picture(_to_pil(np.rint(total / files.num_images).astype(np.uint8), tfrecord_dir), mean)
        print(f'Mean image  {mean}')
    return 0


def _describe_labels(files):
    if files.label_file is None:
        return 'none'
    labels = tfrecords.load_labels(files.label_file, files.num_images)
    if not (((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()):
        return f'{labels.shape[1]} numbers each, from {labels.min():g} to {labels.max():g}'
    names = tfrecords.load_class_names(files.class_file) if files.class_file else range(labels.shape[1])
    counts = [f'{name} {count:.0f}' for name, count in zip(names, labels.sum(axis=0))]
    return f'one of {labels.shape[1]} classes: ' + ', '.join(counts[:20]) + (', ...' if len(counts) > 20 else '')


def verify(tfrecord_dir):
    """Read everything: each record's checksum and shape at every level, the levels against each other, the labels."""
    files = _open_dataset(tfrecord_dir)
    count = sum(1 for _ in _progress(tfrecords.read_all_levels(files), files.num_images))
    label_size = 0
    if files.label_file is not None:
        label_size = tfrecords.load_labels(files.label_file, count).shape[1]
    if files.class_file is not None and len(tfrecords.load_class_names(files.class_file)) != label_size:
        raise UserError(f'{files.class_file} does not name {label_size} classes, as many as the labels have columns', 'Delete or mend it.')
    print(f'Sound: {count} images at {len(files.levels)} levels up to {2 ** files.resolution_log2}x{2 ** files.resolution_log2}, '
          f'{f"labels of {label_size}" if files.label_file else "no labels"}')


# ---- create_...: each names its source of images ----

def _write(tfrecord_dir, source, force):
    """Make a dataset of a dataset_writer.Source."""
    print(f'Creating dataset "{tfrecord_dir}"', flush=True)
    dataset_writer.tune_malloc()
    added = left_out = 0
    with contextlib.closing(dataset_writer.write_source(tfrecord_dir, source, force)) as results:
        for result in _progress(results, source.expected_images):
            added += result is True
            left_out += result is not True
            if isinstance(result, str) and left_out <= _MAX_REASONS:
                tqdm.tqdm.write(result)
    if left_out:
        print(f'Left out {left_out} images.')
    print(f'Added {added} images.')


def create_from_images(tfrecord_dir, image_dir, shuffle, force, labels, max_images, skip_bad, **conversion):
    print(f'Loading images from "{image_dir}"', flush=True)
    if conversion['resize'] and not conversion['resolution']:
        raise UserError('--resize needs --resolution', 'Say how large the images should become, for instance --resolution=256.')
    if conversion['letterbox'] and (conversion['resize'] or conversion['resolution'] not in (None, conversion['letterbox'][0])):
        raise UserError('--letterbox sets the size of the images itself', 'Leave --resolution and --resize out.')
    with image_folder.open_source(image_dir, image_folder.Conversion(**conversion), shuffle, labels, max_images, skip_bad) as source:
        _write(tfrecord_dir, source, force)


def _create(kind, make_source):
    """Function for a create_ command: `make_source` takes its other arguments, the one ending in _dir or _filename being the place."""
    def create(tfrecord_dir, force, **arguments):
        place = next(value for name, value in arguments.items() if name.endswith(('_dir', '_filename')))
        print(f'Loading {kind} from "{place}"', flush=True)
        _write(tfrecord_dir, make_source(**arguments), force)

    return create


# ---- Command line ----

def power_of_two(text):
    """'256' -> 256; what is no power of two from 4 up is refused."""
    value = cli.positive_int(text)
    if value < 4 or value & (value - 1):
        raise argparse.ArgumentTypeError(f'expected a power of two, 4 or above, got {text!r}')
    return value


def width_and_height(text):
    """'512x384' -> (512, 384)."""
    match = re.fullmatch(r'(\d+)x(\d+)', text)
    if not match or not 0 < int(match[2]) <= int(match[1]):
        raise argparse.ArgumentTypeError(f'expected WIDTHxHEIGHT, the height no larger than the width, got {text!r}')
    return power_of_two(match[1]), int(match[2])


def _flag(name, type, default, text, metavar=None, **more):
    """(name, arguments of add_argument) of an option with a value."""
    shown = '' if default is None else f' (default: {int(default) if isinstance(default, bool) else default})'
    return name, {'type': type, 'default': default, 'metavar': metavar, 'help': text + shown, **more}


_FORCE = 'force', {'action': 'store_true', 'help': 'replace what an earlier run made there'}
_SHUFFLE = _flag('shuffle', cli.boolean, True, 'store them in random order', 'BOOL')
_MAX_IMAGES = _flag('max_images', cli.positive_int, None, 'stop after so many images', 'N')
_DATASET = {'tfrecord_dir': 'folder of the dataset'}
_NEW = {'tfrecord_dir': 'folder to make for the dataset'}

# Name -> function, what it does, positional arguments with their help, options. Options may be spelled with - or _.
_COMMANDS = {
    'display': (display, 'show the first images of a dataset', _DATASET, []),
    'extract': (extract, 'store the images of a dataset as PNG files', _DATASET | {'output_dir': 'folder to make for the images'},
                [_FORCE]),
    'compare': (compare, 'compare two datasets', {'tfrecord_dir_a': 'folder of a dataset', 'tfrecord_dir_b': 'folder of a dataset'},
                [_flag('ignore_labels', cli.boolean, False, 'compare the images only', 'BOOL')]),
    'info': (info, 'tell what a dataset holds', _DATASET,
             [_flag('mean', str, None, 'write the mean of all images to this PNG file', 'FILE')]),
    'verify': (verify, 'read a whole dataset and check everything in it', _DATASET, []),
    'create_from_images': (create_from_images, 'make a dataset of a folder of images', _NEW | {
        'image_dir': 'folder (with those below it) or .zip of square RGB or grayscale images, all alike, side a power of two'}, [
        _SHUFFLE, _MAX_IMAGES, _FORCE,
        _flag('resolution', power_of_two, None, 'bring all images to this size', 'N'),
        _flag('resize', str, None, 'how: crop = square in the middle, scaled; fit = scaled, black around it; stretch (default: crop)',
              choices=['crop', 'fit', 'stretch']),
        _flag('letterbox', width_and_height, None, 'cut wide images to this size, in a square with black above and below', 'WIDTHxHEIGHT'),
        _flag('channels', int, None, 'convert to 1 = grayscale, 3 = RGB', choices=[1, 3]),
        _flag('alpha', str, None, 'what becomes of transparency', choices=['drop', 'white', 'black']),
        _flag('labels', str, None, 'classes by the names of the folders, or labels from a .json or .csv file', 'folders|FILE'),
        ('skip_bad', {'action': 'store_true', 'help': 'leave out images that cannot be used'})]),
    'create_mnist': (_create('MNIST', known_datasets.mnist), 'make a dataset of MNIST', _NEW | {
        'mnist_dir': 'folder of train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz'}, [_FORCE]),
    'create_mnistrgb': (_create('MNIST', known_datasets.mnistrgb), 'make a dataset of random triples of MNIST digits', _NEW | {
        'mnist_dir': 'folder of train-images-idx3-ubyte.gz'}, [
        _flag('num_images', cli.positive_int, 1000000, 'how many triples', 'N'),
        _flag('random_seed', cli.seed, 123, 'seed of the triples', 'SEED'), _FORCE]),
    'create_cifar10': (_create('CIFAR-10', known_datasets.cifar10), 'make a dataset of CIFAR-10', _NEW | {
        'cifar10_dir': 'folder of data_batch_1 to data_batch_5'}, [_FORCE]),
    'create_cifar100': (_create('CIFAR-100', known_datasets.cifar100), 'make a dataset of CIFAR-100', _NEW | {
        'cifar100_dir': 'folder of the file train'}, [_FORCE]),
    'create_svhn': (_create('SVHN', known_datasets.svhn), 'make a dataset of SVHN', _NEW | {
        'svhn_dir': 'folder of train_1.pkl to train_3.pkl'}, [_FORCE]),
    'create_lsun': (_create('LSUN dataset', known_datasets.lsun), 'make a dataset of an LSUN category', _NEW | {
        'lmdb_dir': 'folder of data.mdb'}, [_flag('resolution', power_of_two, 256, 'size of the images', 'N'), _MAX_IMAGES, _FORCE]),
    'create_lsun_wide': (_create('LSUN dataset', known_datasets.lsun_wide), 'make a dataset of an LSUN category of wide images', _NEW | {
        'lmdb_dir': 'folder of data.mdb'}, [
        _flag('width', power_of_two, 512, 'width of the images, and of the square around them', 'N'),
        _flag('height', cli.positive_int, 384, 'height of the images in the square', 'N'), _MAX_IMAGES, _FORCE]),
    'create_celeba': (_create('CelebA', known_datasets.celeba), 'make a dataset of CelebA', _NEW | {
        'celeba_dir': 'folder of img_align_celeba_png'}, [
        _flag('cx', int, 89, 'column of the center', 'N'), _flag('cy', int, 121, 'row of the center', 'N'), _FORCE]),
    'create_from_hdf5': (_create('HDF5 archive', known_datasets.hdf5), 'make a dataset of an HDF5 archive', _NEW | {
        'hdf5_filename': 'HDF5 archive'}, [_SHUFFLE, _FORCE]),
}


def _parse_args(argv):
    parser = argparse.ArgumentParser(prog='dataset_tool.py', description=__doc__)
    cli.add_debug_flag(parser)
    commands = parser.add_subparsers(dest='command', metavar='COMMAND')
    for name, (_function, text, positional, options) in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        cli.add_debug_flag(command)
        for argument, description in positional.items():
            command.add_argument(argument, help=description)
        for option, settings in options:
            spellings = dict.fromkeys([f'--{option.replace("_", "-")}', f'--{option}'])
            command.add_argument(*spellings, dest=option, **settings)
    args = vars(parser.parse_args(argv))
    args.pop('debug')
    if args['command'] is None:
        parser.print_usage()
        raise UserError(f'missing command, one of {", ".join(commands.choices)}', 'Re-run with --help for usage.')
    return args


def main(argv):
    args = _parse_args(argv)
    function = _COMMANDS[args.pop('command')][0]
    try:
        return function(**args)
    except Exception as err:
        if isinstance(err, storage.errors()):  # No permission, no space, ...: nothing that a traceback would explain.
            raise UserError(storage.reason(err), 'Check the name, permissions and free space.') from err
        raise


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # A polite kill cleans up, as Ctrl-C does.
    cli.run(main)
