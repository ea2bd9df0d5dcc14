"""Make, view, unpack and compare the multi-resolution TFRecord datasets that training reads."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import PIL.Image
import PIL.ImageShow
import tqdm

from dnnlib import cli, storage
from dnnlib.cli import UserError
from dnnlib.progress import ProgressBar
from training.data import (
    dataset_writer,
    image_archive,
    image_folder,
    known_datasets,
    pil_ops,
    tfrecords,
    writer_progress,
)

_MAX_REASONS = 10             # This many of the images that are left out are named; the others are only counted.
_SHEET_PIXELS = (1920, 1080)  # Size that the picture of `display` fits into, if one image does.
_PIL_MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}

_Item = TypeVar('_Item')


def _progress(items: Iterable[_Item], total: int) -> Iterator[_Item]:
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
    """uint8 [C, H, W] -> PIL image. Raises UserError if no picture file can have that many channels."""
    if len(image) not in _PIL_MODES:
        raise UserError(f'images of {tfrecord_dir} have {len(image)} channels; '
                        f'a picture file has one of {list(_PIL_MODES)}')
    return pil_ops.from_chw(image)


def display(tfrecord_dir: str) -> None:
    """Show the first images in a window or, without a display, write them to NAME-display.png in the working folder."""
    files = _open_dataset(tfrecord_dir)
    size = 2 ** files.resolution_log2
    columns, rows = (max(pixels // size, 1) for pixels in _SHEET_PIXELS)
    count = min(files.num_images, columns * rows)
    columns, rows = min(columns, count), -(-count // columns)
    print(f'Displaying images 0 to {count - 1} of {files.num_images}, left to right, top to bottom')
    sheet = PIL.Image.new(_PIL_MODES.get(files.channels, 'L'), (columns * size, rows * size))
    for index, image in enumerate(itertools.islice(tfrecords.read_images(files.largest), count)):
        sheet.paste(_to_pil(image, tfrecord_dir), (index % columns * size, index // columns * size))
    has_display = (os.name == 'nt' or sys.platform == 'darwin'
                   or any(os.environ.get(name) for name in ('DISPLAY', 'WAYLAND_DISPLAY')))
    if has_display and PIL.ImageShow.show(sheet, title=tfrecord_dir):
        return
    path = f'{storage.base_name(tfrecord_dir)}-display.png'
    pil_ops.save_png(sheet, path)
    print(f'No window to show them in; see {path}')


def extract(tfrecord_dir: str, output_dir: str, force: bool = False, zip: bool = False,
            dataset_json: bool = False) -> None:
    """Store the images at full resolution as output_dir/img00000000.png and so on, and the labels in dataset.json.

    Args:
        tfrecord_dir: Folder of the dataset.
        output_dir:   Folder to make; with `zip` a file.
        force:        Replace what is there?
        zip:          Write a .zip in the format of StyleGAN2-ADA, with the labels.
        dataset_json: Write a folder in that format.
    """
    if zip and dataset_json:
        raise UserError('--zip and --dataset-json: expected one of them', 'A .zip has a dataset.json in any case.')
    if zip != output_dir.lower().endswith('.zip'):
        raise UserError(f'{output_dir}: expected a file that ends in .zip with --zip, and a folder without it',
                        'Give another name, or both.')
    files = _open_dataset(tfrecord_dir)
    print(f'Extracting images to "{output_dir}"', flush=True)
    images = (_to_pil(image, tfrecord_dir)
              for image in _progress(tfrecords.read_images(files.largest), files.num_images))
    labels = tfrecords.load_labels(files.label_file, files.num_images) if files.label_file else None
    if zip or dataset_json:
        if files.channels not in (1, 3):
            raise UserError(f'{tfrecord_dir}: expected images of 1 or 3 channels, found {files.channels}',
                            'Leave out --zip and --dataset-json.')
        image_archive.write(output_dir, images, labels, zip, force)
    else:
        with storage.new_folder(output_dir, r'img\d{8,}\.png|dataset\.json', force) as folder:
            names = []
            for index, image in enumerate(images):
                names.append(f'img{index:08d}.png')
                image.save(os.path.join(folder, names[-1]))
            if labels is not None:
                with open(os.path.join(folder, image_archive.LABEL_FILE), 'wb') as file:
                    file.write(image_archive.label_file(names, labels))
    print(f'Extracted {files.num_images} images.')


def compare(tfrecord_dir_a: str, tfrecord_dir_b: str, ignore_labels: bool | int = False) -> None:
    """Compare two datasets at full resolution, image by image and label by label, and print the differences."""
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
            tqdm.tqdm.write(f'Image {index} is different')  # print() would break the progress bar
        if np.array_equal(labels[0][index], labels[1][index]):
            same_labels += 1
        else:
            tqdm.tqdm.write(f'Label {index} is different')
    if both[0].num_images != both[1].num_images:
        print('Datasets contain different number of images')
    print(f'Identical images: {same_images} / {total}')
    if not ignore_labels:
        print(f'Identical labels: {same_labels} / {total}')


def info(tfrecord_dir: str, mean: str | None) -> int:
    """Print what a dataset holds, after a quick check of its files.

    Args:
        tfrecord_dir: Folder of the dataset.
        mean:         PNG file for the mean of all images. None = do not compute it.

    Returns:
        Exit code: 1 if the dataset has a problem.
    """
    if storage.is_folder(tfrecord_dir):
        paths = {name: os.path.join(tfrecord_dir, name) for name in storage.list_folder(tfrecord_dir)}
        megabytes = {name: storage.size(path) / 1e6 for name, path in paths.items() if storage.is_file(path)}
        print(f'Files       {sum(megabytes.values()):.1f} MB: '
              + ', '.join(f'{name} {size:.1f}' for name, size in megabytes.items()))
    try:
        files = tfrecords.find_dataset(tfrecord_dir)
        size = 2 ** files.resolution_log2
        print(f'Images      {files.num_images}')
        print(f'Resolution  {size}x{size}, and lower levels down to 4x4')
        print(f'Channels    {files.channels}{ {1: " (grayscale)", 3: " (RGB)"}.get(files.channels, "")}')
        print(f'Labels      {_describe_labels(files)}')
        print(f'Made by     {_describe_origin(files)}')
    except UserError as err:
        print(f'Problem     {err.fact}')
        return 1
    print('Problems    none at a quick look; verify reads everything')
    if mean:
        images = _progress(tfrecords.read_images(files.largest), files.num_images)
        total = sum((image.astype(np.float64) for image in images), np.zeros([]))
        pil_ops.save_png(_to_pil(np.rint(total / files.num_images).astype(np.uint8), tfrecord_dir), mean)
        print(f'Mean image  {mean}')
    return 0


def _describe_origin(files):
    if files.manifest is None:
        return 'not recorded'
    command = files.manifest.command or 'other code than dataset_tool.py'
    return command + (f' (version {files.manifest.version})' if files.manifest.version else '')


def _describe_labels(files):
    if files.label_file is None:
        return 'none'
    labels = tfrecords.load_labels(files.label_file, files.num_images)
    if not (((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()):
        return f'{labels.shape[1]} numbers each, from {labels.min():g} to {labels.max():g}'
    names = tfrecords.load_class_names(files.class_file) if files.class_file else range(labels.shape[1])
    counts = [f'{name} {count:.0f}' for name, count in zip(names, labels.sum(axis=0))]
    return f'one of {labels.shape[1]} classes: ' + ', '.join(counts[:20]) + (', ...' if len(counts) > 20 else '')


def verify(tfrecord_dir: str) -> None:
    """Read a whole dataset: check all checksums and shapes, compare the levels with each other, check the labels.

    If there is a NAME.json beside the records, the files are also compared with it.

    Raises:
        UserError: Something is damaged or does not fit.
    """
    files = _open_dataset(tfrecord_dir)
    count = sum(1 for _ in _progress(tfrecords.read_all_levels(files), files.num_images))
    label_size = 0
    if files.label_file is not None:
        label_size = tfrecords.load_labels(files.label_file, count).shape[1]
    if files.class_file is not None and len(tfrecords.load_class_names(files.class_file)) != label_size:
        raise UserError(f'{files.class_file} does not name {label_size} classes, as many as the labels have columns',
                        'Delete or correct it.')
    tfrecords.check_digests(files)
    print('Number, sizes and digests of the files: '
          + (f'as {files.manifest.path} says' if files.manifest else 'not recorded'))
    size = 2 ** files.resolution_log2
    print(f'Sound: {count} images at {len(files.levels)} levels up to {size}x{size}, '
          f'{f"labels of {label_size}" if files.label_file else "no labels"}')


# ---- For scripts that make datasets of their own images ----

class TFRecordExporter:
    """Makes a dataset of single images, as in the original: a form of `dataset_writer.new_dataset`.

        with TFRecordExporter('datasets/mine', len(images)) as tfr:
            order = tfr.choose_shuffled_order()
            for index in order:
                tfr.add_image(images[index])
            tfr.add_labels(labels[order])

    The dataset appears when the block ends without an error, or `close` is called.

    Args:
        tfrecord_dir:      Folder to make for the dataset.
        expected_images:   Number of images that will be added.
        print_progress:    Print how many there are?
        progress_interval: Number of images from one line to the next.

    Attributes:
        cur_images: Number of images added so far.

    Raises:
        UserError: The folder is not empty.
    """

    def __init__(self, tfrecord_dir: str, expected_images: int, print_progress: bool = True,
                 progress_interval: int = 10):
        self.tfrecord_dir, self.expected_images, self.cur_images = tfrecord_dir, expected_images, 0
        self._every = progress_interval if print_progress else 0
        self._context = dataset_writer.new_dataset(tfrecord_dir)
        self._writer: dataset_writer.DatasetWriter | None = self._context.__enter__()
        if print_progress:
            print(f'Creating dataset "{tfrecord_dir}"', flush=True)

    def choose_shuffled_order(self) -> np.ndarray:
        """Return the numbers of the images in an order that is random, but always the same."""
        return dataset_writer.shuffled_order(self.expected_images)

    def add_image(self, img: np.ndarray) -> None:
        """Append an image [C, R, R] of the shape of the first one, values in 0..255; R is a power of two."""
        if self._every and self.cur_images % self._every == 0:
            print(f'{self.cur_images} / {self.expected_images}', end='\r', flush=True)
        assert self._writer is not None
        self._writer.add_image(np.asarray(img))
        self.cur_images += 1

    def add_labels(self, labels: np.ndarray) -> None:
        """Store the labels [cur_images, label_size] of the images added so far."""
        assert self._writer is not None
        self._writer.add_labels(labels)

    def close(self) -> None:
        """Finish the dataset. Nothing can be added afterwards."""
        self.__exit__(None, None, None)

    def __enter__(self) -> TFRecordExporter:
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._writer is not None:
            self._writer = None
            self._context.__exit__(*exc)
            if self._every:
                print(f'Added {self.cur_images} images.')


# ---- create_...: one command for each source of images ----

def _write(tfrecord_dir, source, source_path, force, resume, command):
    """Create a dataset from a dataset_writer.Source and print what was added and left out."""
    print(f'Creating dataset "{tfrecord_dir}"', flush=True)
    dataset_writer.tune_malloc()
    added = left_out = 0
    source_digest = writer_progress.digest_of_files(source_path)
    with contextlib.closing(dataset_writer.write_source(
            tfrecord_dir, source, force, command=command, resume=resume, source_digest=source_digest)) as results:
        for result in _progress(results, source.expected_images):
            added += result is True
            left_out += result is not True
            if isinstance(result, str) and left_out <= _MAX_REASONS:
                tqdm.tqdm.write(result)
    if left_out:
        print(f'Left out {left_out} images.')
    print(f'Added {added} images.')


def create_from_images(tfrecord_dir: str, image_dir: str, shuffle: bool | int = True, force: bool = False,
                       resume: bool = False, command: str = 'create_from_images', labels: str | None = None,
                       max_images: int | None = None, skip_bad: bool = False, **conversion: Any) -> None:
    """Create a dataset from a folder or .zip of images.

    Args:
        tfrecord_dir: Folder to make for the dataset.
        force:        Replace an existing dataset?
        resume:       Go on where an interrupted run was?
        command:      This command, for NAME.json.
        conversion:   Fields of image_folder.Conversion.
        image_dir, shuffle, labels, max_images, skip_bad: See image_folder.open_source.

    Raises:
        UserError: Flags contradict each other, or the images cannot be used.
    """
    print(f'Loading images from "{image_dir}"', flush=True)
    settings = image_folder.Conversion(**conversion)
    if settings.resize and not settings.resolution:
        raise UserError('--resize needs --resolution',
                        'Say how large the images should become, for instance --resolution=256.')
    letterbox = settings.letterbox
    if letterbox and (settings.resize or settings.resolution not in (None, letterbox[0])):
        raise UserError('--letterbox sets the size of the images itself', 'Leave out --resolution and --resize.')
    with image_folder.open_source(image_dir, settings, bool(shuffle), labels, max_images,
                                  skip_bad) as source:
        _write(tfrecord_dir, source, image_dir, force, resume, command)


def _create(kind, make_source):
    """Function of a create_ command.

    `make_source` takes the other arguments of the command; the one that ends in _dir or _filename is the input.
    """
    def create(tfrecord_dir, force, resume, command, **arguments):
        source_path = next(value for name, value in arguments.items() if name.endswith(('_dir', '_filename')))
        print(f'Loading {kind} from "{source_path}"', flush=True)
        _write(tfrecord_dir, make_source(**arguments), source_path, force, resume, command)

    return create


# ---- Command line ----

def power_of_two(text: str) -> int:
    """Argument type: '256' -> 256; a power of two, 4 or above."""
    value = cli.positive_int(text)
    if value < 4 or value & (value - 1):
        raise argparse.ArgumentTypeError(f'expected a power of two, 4 or above, got {text!r}')
    return value


def width_and_height(text: str) -> tuple[int, int]:
    """Argument type: '512x384' -> (512, 384)."""
    match = re.fullmatch(r'(\d+)x(\d+)', text)
    if not match or not 0 < int(match[2]) <= int(match[1]):
        raise argparse.ArgumentTypeError(f'expected WIDTHxHEIGHT, the height no larger than the width, got {text!r}')
    return power_of_two(match[1]), int(match[2])


def value_range(text: str) -> tuple[float, float]:
    """Argument type: '-1,1' -> (-1.0, 1.0); two finite numbers, the first one smaller."""
    parts = text.split(',')
    if len(parts) == 2:
        low, high = map(cli.finite_float, parts)
        if 0 < high - low < float('inf'):
            return low, high
    raise argparse.ArgumentTypeError(f'expected LOW,HIGH, the values of black and white, such as -1,1, got {text!r}')


class _Command(NamedTuple):
    """A command of this tool.

    Args:
        function:   Called with the positional arguments and options by name; returns the exit code, None = 0.
        help:       What it does.
        positional: Name -> help of each positional argument.
        options:    (name, keyword arguments of add_argument) of each option. It may be spelled with - or _.
    """
    function: Callable[..., int | None]
    help: str
    positional: dict[str, str]
    options: list[tuple[str, dict[str, Any]]]


def _flag(name, type, default, text, metavar=None, **more):
    """(name, keyword arguments of add_argument) of an option with a value."""
    shown = '' if default is None else f' (default: {int(default) if isinstance(default, bool) else default})'
    return name, {'type': type, 'default': default, 'metavar': metavar, 'help': text + shown, **more}


_FORCE = 'force', {'action': 'store_true', 'help': 'replace what an earlier run made there'}
_RESUME = 'resume', {'action': 'store_true',
                     'help': 'go on where a run that was stopped or killed was, and keep what is there if this one is '
                             'stopped; begin if there is nothing to go on from'}
_SHUFFLE = _flag('shuffle', cli.boolean, True, 'store them in random order', 'BOOL')
_MAX_IMAGES = _flag('max_images', cli.positive_int, None, 'stop after this many images', 'N')
_DATASET = {'tfrecord_dir': 'folder of the dataset'}
_NEW = {'tfrecord_dir': 'folder to make for the dataset'}

_COMMANDS = {
    'display': _Command(display, 'show the first images of a dataset', _DATASET, []),
    'extract': _Command(
        extract, 'store the images of a dataset as PNG files, and its labels as dataset.json',
        _DATASET | {'output_dir': 'folder to make for the images; with --zip a file that ends in .zip'},
        [_FORCE,
         ('zip', {'action': 'store_true', 'help': 'write a .zip that StyleGAN2-ADA and its successors train with, '
                                                  'labels included'}),
         ('dataset_json', {'action': 'store_true', 'help': 'write the same as a folder'})]),
    'compare': _Command(
        compare, 'compare two datasets',
        {'tfrecord_dir_a': 'folder of a dataset', 'tfrecord_dir_b': 'folder of a dataset'},
        [_flag('ignore_labels', cli.boolean, False, 'compare the images only', 'BOOL')]),
    'info': _Command(
        info, 'tell what a dataset holds', _DATASET,
        [_flag('mean', str, None, 'write the mean of all images to this PNG file', 'FILE')]),
    'verify': _Command(verify, 'read a whole dataset and check everything in it', _DATASET, []),
    'create_from_images': _Command(
        create_from_images, 'make a dataset of a folder of images',
        _NEW | {'image_dir': 'folder (with those below it) or .zip of square RGB or grayscale images, '
                             'all alike, side a power of two'},
        [_SHUFFLE, _MAX_IMAGES, _FORCE, _RESUME,
         _flag('resolution', power_of_two, None, 'bring all images to this size', 'N'),
         _flag('resize', str, None, 'how: crop = square in the middle, scaled; fit = scaled, black around it; '
                                    'stretch (default: crop)', choices=['crop', 'fit', 'stretch']),
         _flag('letterbox', width_and_height, None,
               'cut wide images to this size, in a square with black above and below', 'WIDTHxHEIGHT'),
         _flag('channels', int, None, 'convert to 1 = grayscale, 3 = RGB', choices=[1, 3]),
         _flag('alpha', str, None, 'what becomes of transparency', choices=['drop', 'white', 'black']),
         _flag('labels', str, None, 'classes by the names of the folders, or labels from a .json or .csv file, '
                                    'which may be inside the .zip, or none (default: a dataset.json that is there)',
               'folders|FILE|none'),
         ('skip_bad', {'action': 'store_true', 'help': 'leave out images that cannot be used'})]),
    'create_mnist': _Command(
        _create('MNIST', known_datasets.mnist), 'make a dataset of MNIST',
        _NEW | {'mnist_dir': 'folder of train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz'}, [_FORCE, _RESUME]),
    'create_mnistrgb': _Command(
        _create('MNIST', known_datasets.mnistrgb), 'make a dataset of random triples of MNIST digits',
        _NEW | {'mnist_dir': 'folder of train-images-idx3-ubyte.gz'},
        [_flag('num_images', cli.positive_int, 1000000, 'how many triples', 'N'),
         _flag('random_seed', cli.seed, 123, 'seed of the triples', 'SEED'), _FORCE, _RESUME]),
    'create_cifar10': _Command(
        _create('CIFAR-10', known_datasets.cifar10), 'make a dataset of CIFAR-10',
        _NEW | {'cifar10_dir': 'folder of data_batch_1 to data_batch_5'}, [_FORCE, _RESUME]),
    'create_cifar100': _Command(
        _create('CIFAR-100', known_datasets.cifar100), 'make a dataset of CIFAR-100',
        _NEW | {'cifar100_dir': 'folder of the file train'}, [_FORCE, _RESUME]),
    'create_svhn': _Command(
        _create('SVHN', known_datasets.svhn), 'make a dataset of SVHN',
        _NEW | {'svhn_dir': 'folder of train_1.pkl to train_3.pkl'}, [_FORCE, _RESUME]),
    'create_lsun': _Command(
        _create('LSUN dataset', known_datasets.lsun), 'make a dataset of an LSUN category',
        _NEW | {'lmdb_dir': 'folder of data.mdb'},
        [_flag('resolution', power_of_two, 256, 'size of the images', 'N'), _MAX_IMAGES, _FORCE, _RESUME]),
    'create_lsun_wide': _Command(
        _create('LSUN dataset', known_datasets.lsun_wide), 'make a dataset of an LSUN category of wide images',
        _NEW | {'lmdb_dir': 'folder of data.mdb'},
        [_flag('width', power_of_two, 512, 'width of the images, and of the square around them', 'N'),
         _flag('height', cli.positive_int, 384, 'height of the images in the square', 'N'), _MAX_IMAGES, _FORCE,
         _RESUME]),
    'create_celeba': _Command(
        _create('CelebA', known_datasets.celeba), 'make a dataset of CelebA',
        _NEW | {'celeba_dir': 'folder of img_align_celeba_png'},
        [_flag('cx', int, 89, 'column of the center', 'N'), _flag('cy', int, 121, 'row of the center', 'N'), _FORCE,
         _RESUME]),
    'create_from_hdf5': _Command(
        _create('HDF5 archive', known_datasets.hdf5), 'make a dataset of an HDF5 archive',
        _NEW | {'hdf5_filename': 'HDF5 archive'},
        [_SHUFFLE,
         _flag('range', value_range, None, 'values of black and white; floating-point numbers need it, as in '
                                           '--range=-1,1 (default for whole numbers: 0,255)', 'LOW,HIGH'),
         _FORCE, _RESUME]),
}


def _parse_args(argv):
    parser = cli.ArgumentParser(prog='dataset_tool.py', description=__doc__)
    cli.add_debug_flag(parser)
    commands = parser.add_subparsers(dest='command', metavar='COMMAND')
    for name, command in _COMMANDS.items():
        subparser = commands.add_parser(name, help=command.help, description=command.help)
        cli.add_debug_flag(subparser)
        for argument, description in command.positional.items():
            subparser.add_argument(argument, type=cli.path, help=description)
        for option, settings in command.options:
            spellings = dict.fromkeys([f'--{option.replace("_", "-")}', f'--{option}'])
            subparser.add_argument(*spellings, dest=option, **settings)
    args = vars(parser.parse_args(argv))
    args.pop('debug')
    if args['command'] is None:
        parser.print_usage()
        raise cli.UsageError(f'missing command, one of {", ".join(commands.choices)}', 'Re-run with --help for usage.')
    return args


def _recorded_command(name, args):
    """The command as NAME.json records it: with the options that were given, but without paths."""
    parts = [name]
    for option, settings in _COMMANDS[name].options:
        value, flag = args[option], f'--{option.replace("_", "-")}'
        if option in ('force', 'resume') or value == settings.get('default', False):
            continue
        if value is True and 'action' in settings:
            parts.append(flag)
        elif isinstance(value, tuple):
            parts.append(f'{flag}={("," if option == "range" else "x").join(f"{number:g}" for number in value)}')
        elif isinstance(value, bool):
            parts.append(f'{flag}={int(value)}')
        else:
            parts.append(f'{flag}={storage.base_name(value) if option == "labels" else value}')
    return ' '.join(parts)


def main(argv: list[str]) -> int | None:
    """Run the command that `argv`, the arguments without the program's name, asks for. Returns the exit code."""
    args = _parse_args(argv)
    name = args.pop('command')
    function = _COMMANDS[name].function
    if name.startswith('create_'):
        args['command'] = _recorded_command(name, args)
    try:
        return function(**args)
    except Exception as err:
        if isinstance(err, storage.errors()):  # No permission, no space and the like: a traceback would not help.
            raise UserError(storage.reason(err), 'Check the name, permissions and free space.') from err
        raise


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Clean up on SIGTERM as on Ctrl-C.
    cli.run(main)
