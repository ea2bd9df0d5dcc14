"""Well-known datasets, each as a `Source` of training/data/dataset_writer.py.

Every function takes the folder or file as it is downloaded, and raises a UserError with the name of the file if that is
not as expected.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from dnnlib import memory, storage
from dnnlib.cli import UserError
from dnnlib.pickles import legacy_pickle
from training.data import pil_ops, tfrecords
from training.data.dataset_writer import Source, shuffled_order

_MNIST_IMAGES = 60000
_CIFAR_IMAGES = 50000
_SVHN_IMAGES = 73257
_CELEBA_IMAGES = 202599


def _source_of_arrays(images, classes=None, num_classes=0, shuffle=True):
    """Source of uint8 [N, C, R, R] with the class number of each image, int [N]. None = no labels."""
    order = shuffled_order(len(images)) if shuffle else np.arange(len(images))
    labels = None if classes is None else np.eye(num_classes, dtype=np.float32)[classes[order]]
    return Source(images.shape[1:], order, images.__getitem__, len(images), labels)


# ---- MNIST: http://yann.lecun.com/exdb/mnist ----
# An idx file is compressed with gzip: two zero bytes, type 8 = uint8, number of dimensions, big-endian sizes, values.

def _read_idx(path, shape):
    """Read a gzipped idx file that must hold a uint8 array of `shape`."""
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, '>u4').tobytes()
    expected_bytes = len(header) + int(np.prod(shape))
    try:
        with storage.open_file(path) as file, gzip.GzipFile(fileobj=file) as unpacked:
            content = unpacked.read(expected_bytes + 1)  # Not all: a small file may unpack to any size.
    except (EOFError, zlib.error, gzip.BadGzipFile) as err:
        raise UserError(f'{path} is no sound .gz file: {err}', 'Download it again.') from err
    if not content.startswith(header) or len(content) != expected_bytes:
        found = f'more than {expected_bytes}' if len(content) > expected_bytes else f'{len(content)}'
        raise UserError(f'{path}: expected an idx file of {" x ".join(map(str, shape))} bytes, '
                        f'found {found} bytes that begin with {content[:16].hex(" ") or "nothing"}',
                        'Download it again.')
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


def _mnist_images(mnist_dir):
    """The training images with a black border of 2 pixels: uint8 [60000, 32, 32]."""
    images = _read_idx(os.path.join(mnist_dir, 'train-images-idx3-ubyte.gz'), (_MNIST_IMAGES, 28, 28))
    return np.pad(images, [(0, 0), (2, 2), (2, 2)])


def mnist(mnist_dir: str) -> Source:
    """MNIST: digits [1, 32, 32] with labels, shuffled."""
    images = _mnist_images(mnist_dir)
    path = os.path.join(mnist_dir, 'train-labels-idx1-ubyte.gz')
    classes = _check_classes(_read_idx(path, (_MNIST_IMAGES,)), _MNIST_IMAGES, 10, path)
    return _source_of_arrays(images[:, np.newaxis], classes, 10)


def mnistrgb(mnist_dir: str, num_images: int, random_seed: int) -> Source:
    """Stacked MNIST: three random digits as the channels of each image [3, 32, 32], without labels."""
    images = _mnist_images(mnist_dir)
    random = np.random.RandomState(random_seed)
    triples = (random.randint(_MNIST_IMAGES, size=3) for _ in range(num_images))
    return Source((3, 32, 32), triples, images.__getitem__, num_images)


# ---- Pickles of arrays: CIFAR (https://www.cs.toronto.edu/~kriz/cifar.html) and the original's conversion of SVHN ----

def _read_pickle(path, remedy):
    try:
        return legacy_pickle.load(path)
    except UserError as err:
        raise UserError(err.fact, remedy) from None


def _check_classes(numbers, num_images, num_classes, path):
    """Class numbers as list or array -> int array [num_images]. Raises UserError if they are anything else."""
    numbers = np.asarray(numbers)
    is_valid = numbers.shape == (num_images,) and numbers.dtype.kind in 'iu'
    if not is_valid or numbers.min() < 0 or numbers.max() >= num_classes:
        described = f'{numbers.dtype} {list(numbers.shape)}'
        if numbers.size and numbers.dtype.kind in 'iufb':
            described += f' from {numbers.min()} to {numbers.max()}'
        raise UserError(f'{path}: expected {num_images} labels from 0 to {num_classes - 1}, found {described}',
                        'Download it again.')
    return numbers


def _cifar_batch(path, label_key, num_images, num_classes):
    """Images uint8 [N, 3, 32, 32] and class numbers [N] of one file of CIFAR."""
    remedy = 'Expected a file of the "python version" of CIFAR; download and unpack it again.'
    batch = _read_pickle(path, remedy)
    data = batch.get('data') if isinstance(batch, dict) else None
    if (not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (num_images, 3072)
            or label_key not in batch):
        raise UserError(f'{path}: expected data of uint8 [{num_images}, 3072] and {label_key}, found {_outline(batch)}',
                        remedy)
    return data.reshape(-1, 3, 32, 32), _check_classes(batch[label_key], num_images, num_classes, path)


def _outline(value):
    """Short description of what a pickle holds."""
    if isinstance(value, np.ndarray):
        return f'{value.dtype} {list(value.shape)}'
    if isinstance(value, dict):
        return '{' + ', '.join(f'{key[:20]}: {_outline(value[key])}' for key in list(value)[:5]) + '}'
    return type(value).__name__


def cifar10(cifar10_dir: str) -> Source:
    """CIFAR-10: photographs [3, 32, 32] of 10 classes with labels, shuffled."""
    paths = [os.path.join(cifar10_dir, f'data_batch_{number}') for number in range(1, 6)]
    batches = [_cifar_batch(path, 'labels', _CIFAR_IMAGES // 5, 10) for path in paths]
    images, classes = (np.concatenate(parts) for parts in zip(*batches))
    return _source_of_arrays(images, classes, 10)


def cifar100(cifar100_dir: str) -> Source:
    """CIFAR-100: photographs [3, 32, 32] of 100 classes with the fine labels, shuffled."""
    images, classes = _cifar_batch(os.path.join(cifar100_dir, 'train'), 'fine_labels', _CIFAR_IMAGES, 100)
    return _source_of_arrays(images, classes, 100)


def svhn(svhn_dir: str) -> Source:
    """SVHN: house numbers [3, 32, 32] with labels, shuffled."""
    remedy = 'Expected a pickle of (uint8 images [N, 3, 32, 32], uint8 labels [N]).'
    parts = []
    for number in (1, 2, 3):
        path = os.path.join(svhn_dir, f'train_{number}.pkl')
        part = _read_pickle(path, remedy)
        if not (isinstance(part, tuple) and len(part) == 2 and isinstance(part[0], np.ndarray)
                and part[0].dtype == np.uint8 and part[0].ndim == 4 and part[0].shape[1:] == (3, 32, 32)):
            raise UserError(f'{path}: expected images of uint8 [N, 3, 32, 32] and labels, found {_outline(part)}',
                            remedy)
        parts.append((part[0], _check_classes(part[1], len(part[0]), 10, path)))
    images, classes = (np.concatenate(arrays) for arrays in zip(*parts))
    if len(images) != _SVHN_IMAGES:
        raise UserError(f'{svhn_dir}: expected {_SVHN_IMAGES} images in its three files, found {len(images)}',
                        'Convert it again.')
    return _source_of_arrays(images, classes, 10)


# ---- LSUN: https://www.yf.io/p/lsun (an LMDB of image files) ----

def _open_lmdb(lmdb_dir):
    """Iterator over (key, value) of a database, both bytes, and their number."""
    try:
        import lmdb
    except ImportError:
        raise UserError('reading LSUN needs the package lmdb',
                        "Install it with: pip install 'stylegan2-tf2[lsun]'") from None
    try:
        environment = lmdb.open(lmdb_dir, readonly=True, lock=False, create=False)
        count = environment.stat()['entries']
    except lmdb.Error as err:
        raise UserError(f'{lmdb_dir} is no LMDB database: {err}',
                        'Name the unpacked folder, which holds data.mdb.') from err

    def items():
        with environment, environment.begin() as transaction:
            yield from transaction.cursor()

    return items(), count


def _decode_lsun(item, transform):
    """Decode (key, bytes of an image file) and apply `transform` to the PIL image -> uint8 [3, R, R].

    Returns None or the reason (str) if the image is left out.
    """
    key, value = item
    try:
        image = pil_ops.load_upright(PIL.Image.open(io.BytesIO(value))).convert('RGB')
    except Exception as err:  # Decoders raise almost anything on a damaged file.
        return f'{key.decode(errors="replace")} is left out: {pil_ops.first_line(err)}'
    image = transform(image)
    return None if image is None else pil_ops.to_chw(image)


def lsun(lmdb_dir: str, resolution: int = 256, max_images: int | None = None) -> Source:
    """LSUN: centered squares of photographs [3, resolution, resolution], without labels, in the order of the keys."""
    items, count = _open_lmdb(lmdb_dir)

    def decode(item):
        return _decode_lsun(item, lambda image: pil_ops.crop_and_resize(image, resolution))
    return Source((3, resolution, resolution), items, decode, count, max_images=max_images)


def lsun_wide(lmdb_dir: str, width: int = 512, height: int = 384, max_images: int | None = None) -> Source:
    """LSUN: photographs of width x height in squares of `width`, black above and below.

    Images that are too small are left out.
    """
    if height > width:
        raise UserError(f'expected --height up to --width = {width}, found {height}',
                        'The black bars are above and below.')
    items, count = _open_lmdb(lmdb_dir)

    def decode(item):
        return _decode_lsun(item, lambda image: pil_ops.letterbox(image, width, height))
    remedy = (f'Images must be at least {width} wide and, scaled to that width, {height} high: '
              'give a smaller --width and --height.')
    return Source((3, width, width), items, decode, count, max_images=max_images, remedy=remedy)


# ---- CelebA: https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (img_align_celeba_png) ----

def celeba(celeba_dir: str, cx: int = 89, cy: int = 121) -> Source:
    """CelebA: the square of 128x128 pixels around (cx, cy) of each face [3, 128, 128], without labels, shuffled."""
    if not (64 <= cx <= 178 - 64 and 64 <= cy <= 218 - 64):
        raise UserError(f'the square of 128 around --cx={cx}, --cy={cy} leaves the images of 178x218',
                        'Take --cx from 64 to 114 and --cy from 64 to 154.')
    folder = os.path.join(celeba_dir, 'img_align_celeba_png')
    names = storage.list_folder(folder) if storage.is_folder(folder) else []
    names = [name for name in names if name.endswith('.png')]
    if len(names) != _CELEBA_IMAGES:
        raise UserError(f'Expected to find {_CELEBA_IMAGES} images in {folder}, found {len(names)} .png files',
                        'Unpack the whole of img_align_celeba_png.7z there.')

    def decode(index):
        path = os.path.join(folder, names[index])
        try:
            with storage.open_file(path) as file:
                image = PIL.Image.open(file)
                image.load()
        except Exception as err:  # Decoders raise almost anything on a damaged file.
            raise UserError(f'{path} is not an image that can be read: {pil_ops.first_line(err)}',
                            'Unpack it again.') from err
        if image.size != (178, 218) or image.mode != 'RGB':
            raise UserError(f'{path} is {image.width}x{image.height} {image.mode}, expected 178x218 RGB',
                            'Unpack it again.')
        return pil_ops.to_chw(image)[:, cy - 64:cy + 64, cx - 64:cx + 64]

    return Source((3, 128, 128), shuffled_order(len(names)), decode, len(names))


# ---- HDF5, the format of Progressive GAN: data4x4, data8x8, ... of [N, C, R, R], and labels in a file beside it ----

def hdf5(hdf5_filename: str, shuffle: bool = True, range: tuple[float, float] | None = None) -> Source:
    """The largest images of an HDF5 file, with the labels in NAME-labels.npy if that file exists.

    Args:
        hdf5_filename: HDF5 file.
        shuffle:       Store the images in random order? Otherwise in that of the file.
        range:         Values of black and white. None = 0 and 255, which is refused for floating-point numbers,
                       because nothing says what they mean.

    Raises:
        UserError: The file cannot be read, has no images that can be stored, or needs `range`.
    """
    try:
        import h5py
    except ImportError:
        raise UserError('reading HDF5 needs the package h5py',
                        "Install it with: pip install 'stylegan2-tf2[hdf5]'") from None
    if not os.path.isfile(hdf5_filename):
        raise UserError(f'HDF5 archive {hdf5_filename} not found', 'Check the name.')
    try:
        with h5py.File(hdf5_filename, 'r') as archive:
            found = _hdf5_images(hdf5_filename, archive)
    except OSError as err:
        raise UserError(f'{hdf5_filename} is no HDF5 file that can be read: {pil_ops.first_line(err)}',
                        'Copy it again.') from err
    name = max(found, key=lambda name: found[name].shape[3], default=None)
    if name is None:
        raise UserError(
            f'{hdf5_filename} has no images: expected numbers of [N, C, R, R] under a name that begins with data',
            'Check it.')
    (count, *shape), dtype = found[name].shape, found[name].dtype
    if shape[1] != shape[2] or shape[1] < 4 or shape[1] & (shape[1] - 1):
        raise UserError(f'{hdf5_filename}: {name} holds images of {shape[2]}x{shape[1]}, '
                        'expected squares of a power of two, 4 or above', 'Resize the images.')
    if dtype.kind == 'f' and range is None:
        raise UserError(f'{hdf5_filename}: {name} holds floating-point numbers ({dtype}), '
                        'of which it is not known which are black and white',
                        'Give their values: --range=-1,1 or --range=0,1 or --range=0,255.')
    memory.require(3 * count * np.dtype(np.int64).itemsize, f'{hdf5_filename}: the order of {count} images',
                   'Check the file: it claims more images than can be stored.')
    label_file = os.path.splitext(hdf5_filename)[0] + '-labels.npy'
    order = shuffled_order(count) if shuffle else np.arange(count)
    labels = tfrecords.load_labels(label_file, count)[order] if os.path.isfile(label_file) else None

    def items():  # Read by a single thread: HDF5 would block the others anyway.
        with h5py.File(hdf5_filename, 'r') as archive:
            images: Any = archive[name]
            for index in order:
                try:
                    yield index, images[index]
                except OSError as err:
                    raise UserError(f'{hdf5_filename}: image {index} of {name} cannot be read: '
                                    f'{pil_ops.first_line(err)}', 'Copy the file again.') from err

    def decode(item):
        index, image = item
        return _to_255(image, range, f'{hdf5_filename}: image {index} of {name}')

    return Source(tuple(shape), items(), decode, count, labels)


class _Images(NamedTuple):
    """Shape [N, C, H, W] and type of a dataset of images in an HDF5 file."""
    shape: tuple[int, ...]
    dtype: np.dtype


def _hdf5_images(path, archive):
    """Name -> _Images of each dataset that may hold images. Raises UserError if one of them cannot be opened."""
    found = {}
    for name in archive:
        if not name.startswith('data'):
            continue
        try:
            value = archive[name]
        except (KeyError, OSError) as err:
            raise UserError(f'{path}: {name} is a link to something that does not exist or is damaged',
                            'Put the file it points to beside this one, or copy this one again.') from err
        shape = getattr(value, 'shape', None) or ()  # Groups have no shape, and some datasets None.
        if len(shape) == 4 and value.dtype.kind in 'uif':
            found[name] = _Images(shape, value.dtype)
    return found


def _to_255(image, value_range, title):
    """Scale an image so that `value_range` (low, high) becomes 0..255. Raises UserError if its values are outside."""
    if image.dtype == np.uint8 and value_range is None:
        return image
    low, high = value_range or (0, 255)
    if image.dtype.kind == 'f' and not np.isfinite(image).all():
        raise UserError(f'{title} has values that are not finite (NaN or infinity)', 'Correct the file.')
    tolerance = (high - low) / 510  # Half a step of 8 bits.
    if image.min() < low - tolerance or image.max() > high + tolerance:
        raise UserError(f'{title} has values from {image.min():g} to {image.max():g}, '
                        f'expected {low:g} to {high:g}',
                        'Give the values of black and white with --range=LOW,HIGH, or clip the values.')
    return (image.astype(np.float64) - low) * (255 / (high - low))
