"""Writing a multi-resolution TFRecord dataset (format: training/data/tfrecords.py): in order, on all cores, whole or not at all."""

import collections
import collections.abc
import concurrent.futures
import contextlib
import ctypes
import dataclasses
import errno
import io
import itertools
import json
import os
import shutil

import numpy as np

from dnnlib import storage
from dnnlib.cli import UserError
from training.data import tfrecords

_CHUNK_BYTES = 2 << 20     # Pixels that a thread takes on at a time: the threads get in each other's way less with larger pieces.
_RECORD_OVERHEAD = 64      # About what a record takes up beside its pixels.
_DATASET_FILES = r'.*\.(tfrecords|labels)|.*-classes\.json'


def shuffled_order(num_images):
    """The order in which the original's tools store shuffled images: int64 [num_images]."""
    order = np.arange(num_images)
    np.random.RandomState(123).shuffle(order)
    return order


def tune_malloc():
    """Tell glibc, for the rest of the process, to keep the memory that is freed instead of handing it back after every image.

    Writing is half as fast again with it. The peak stays the same. Elsewhere than on Linux it does nothing.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 1 << 28)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD, as high as it goes


# ---- From a source of images to a dataset ----

@dataclasses.dataclass
class Source:
    """Images on their way into a dataset.

    Args:
        shape:       [C, R, R] of each image.
        items:       Iterable of whatever `decode` takes, in the order in which the images are stored; cheap to go through.
        decode:      Function of an item, called in several threads: the image, of that shape; None to leave it out; or str,
                     the reason for leaving it out.
        num_items:   How many items there are.
        labels:      [num_items, label_size] in the order of the items. None = no labels.
        class_names: What the columns of one-hot labels stand for. None = no names.
        max_images:  Stop after so many images. None = take all.
    """
    shape: tuple
    items: collections.abc.Iterable
    decode: collections.abc.Callable
    num_items: int
    labels: np.ndarray = None
    class_names: list = None
    max_images: int = None

    @property
    def expected_images(self):
        """How many images there will be if none is left out."""
        return self.num_items if self.max_images is None else min(self.num_items, self.max_images)


def write_source(tfrecord_dir, source, force=False, num_threads=None):
    """Make the dataset `tfrecord_dir` of a Source. Yields for each item that is done: True if it was stored; if it was left out,
    None or the reason (str).

    Args:
        tfrecord_dir: Folder to make, or address. The dataset is there when the generator has come to its end.
        source:       Source.
        force:        Replace a dataset that is there?
        num_threads:  Threads that decode. None = one per core.

    Raises:
        UserError: As `new_dataset`, and what the source raises.
    """
    def encode(items):  # -> for each item True, or why it is left out; the records of the others
        images = [source.decode(item) for item in items]
        kept = [image for image in images if isinstance(image, np.ndarray)]
        return [isinstance(image, np.ndarray) or image for image in images], encode_levels(np.stack(kept)) if kept else []

    num_threads = num_threads or os.cpu_count() or 1
    chunk_images = max(_CHUNK_BYTES // int(np.prod(source.shape)), 1)
    done, kept = 0, []
    with new_dataset(tfrecord_dir, force) as writer:
        writer.start(source.shape, source.expected_images)
        with contextlib.closing(_map_in_order(encode, _chunks(source.items, chunk_images), num_threads)) as chunks:
            for results, records in chunks:
                room = source.max_images and source.max_images - writer.num_images
                stored = [index for index, result in enumerate(results) if result is True][:room]
                if stored:
                    writer.add_records([level[:len(stored)] for level in records])
                    kept += [done + index for index in stored]
                done += len(results)
                full = writer.num_images == source.max_images
                yield from results[:stored[-1] + 1] if full else results
                if full:
                    break
        if source.labels is not None:
            writer.add_labels(np.asarray(source.labels)[kept])
        if source.class_names is not None:
            writer.add_class_names(source.class_names)


def _chunks(items, size):
    items = iter(items)
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def _map_in_order(function, items, num_threads):
    """Yield function(item) of each item in their order, computed by threads that stay a few items ahead of the caller."""
    pool = concurrent.futures.ThreadPoolExecutor(num_threads)
    ahead = collections.deque()
    try:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 2 * num_threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


# ---- Levels ----

def encode_levels(images):
    """[N, C, R, R], values in 0..255, any number type -> their records at R, R/2, ... 4, each uint8 [N, bytes of a record].

    Each level is the 2x2 box mean of the one above, before that was rounded; then rounded half to even.
    """
    levels = _integer_levels(images) if images.dtype == np.uint8 and images.shape[-1] <= 1024 else _float_levels(images)
    return [tfrecords.encode_records(level) for level in levels]


def _float_levels(images):
    level = images.astype(np.float32)
    while True:
        yield np.rint(level).clip(0, 255).astype(np.uint8)
        if level.shape[-1] == 4:
            return
        level = (level[..., 0::2, 0::2] + level[..., 0::2, 1::2] + level[..., 1::2, 0::2] + level[..., 1::2, 1::2]) * np.float32(0.25)


def _integer_levels(images):
    """The same numbers several times faster: up to 1024x1024, float32 holds the sums of 8-bit pixels exactly.

    Two neighbors in a row are added as the halves of one integer of twice the size.
    """
    yield images
    sums = np.ascontiguousarray(images)
    for shift in range(2, 2 * images.shape[-1].bit_length() - 5, 2):  # sums of 2**shift pixels
        if sums.itemsize < 4:
            bits = 8 * sums.itemsize
            pairs = sums.view(f'u{2 * sums.itemsize}')
            across = pairs >> bits
            across += pairs & (2 ** bits - 1)
        else:
            across = sums[..., 0::2] + sums[..., 1::2]
        sums = across[..., 0::2, :] + across[..., 1::2, :]
        rounded = sums >> shift  # half to even: add half of the divisor less one, and one if the result would be odd
        rounded &= 1
        rounded += sums
        rounded += 2 ** (shift - 1) - 1
        rounded >>= shift
        yield rounded.astype(np.uint8)


# ---- The files ----

class DatasetWriter:
    """Appends images to all levels of a dataset. Use `new_dataset`, which sees to it that no half dataset is left.

    Args:
        folder: Existing folder to write into.
        name:   First part of the file names.
        ending: Last part of the file names.
        target: What messages call the dataset.
    """

    def __init__(self, folder, name, ending='', target=''):
        self.num_images = 0
        self._prefix = os.path.join(folder, name)
        self._ending = ending
        self._remote = storage.is_remote(folder)  # Its files take nothing but bytes.
        self._target = target
        self._shape = None  # That all images must have.
        self._files = []    # From the largest level down to 4x4,
        self._open_files = contextlib.ExitStack()  # to be closed together.

    def start(self, shape, expected_images=0):
        """Open the files for images of `shape` [C, R, R], unless so many of them have no room on the disk."""
        resolution_log2 = shape[-1].bit_length() - 1
        if len(shape) != 3 or shape[1] != shape[2] or shape[1] != 2 ** resolution_log2 or shape[1] < 4:
            raise ValueError(f'expected an image of shape [C, R, R], R a power of two and 4 or above, got {list(shape)}')
        levels = range(resolution_log2, 1, -1)
        need = expected_images * sum(shape[0] * 4 ** level + _RECORD_OVERHEAD for level in levels)
        free = _free_bytes(self._prefix)
        if need > free:
            raise UserError(f'{expected_images} images need about {_in_gb(need)}, but only {_in_gb(free)} are free at {self._target}',
                            'Make room, name a folder on a larger disk, or store fewer or smaller images.')
        self._shape = tuple(shape)
        for level in levels:
            file = storage.open_file(f'{self._prefix}-r{level:02d}.tfrecords{self._ending}', 'wb')
            self._files.append(self._open_files.enter_context(file))

    def add_image(self, image):
        """Append an image to every level: [C, R, R], as the first one, with values in 0..255, any number type; see `encode_levels`."""
        if self._shape is None:
            self.start(image.shape)
        if image.shape != self._shape:
            raise ValueError(f'expected an image of shape {list(self._shape)}, as the first one, got {list(image.shape)}')
        self.add_records(encode_levels(image[np.newaxis]))

    def add_records(self, levels):
        """Append images as the records that `encode_levels` makes: for each level uint8 [N, bytes of a record]."""
        for file, records in zip(self._files, levels, strict=True):
            file.write(records.tobytes() if self._remote else records)
        self.num_images += len(levels[0])

    def add_labels(self, labels):
        """Store the labels of the images added: [num_images, label_size], any number type, kept as float32."""
        if np.ndim(labels) != 2 or len(labels) != self.num_images:
            raise ValueError(f'expected labels of shape [{self.num_images}, label_size], got {list(np.shape(labels))}')
        content = io.BytesIO()
        np.save(content, np.asarray(labels, np.float32))
        self._write_file('-rxx.labels', content.getvalue())

    def add_class_names(self, names):
        """Store what the columns of the labels stand for: list of str."""
        self._write_file('-classes.json', (json.dumps(names, ensure_ascii=False, indent=1) + '\n').encode())

    def _write_file(self, name, content):
        with storage.open_file(f'{self._prefix}{name}{self._ending}', 'wb') as file:
            file.write(content)

    def close(self):
        self._open_files.close()


def _free_bytes(path):
    return float('inf') if storage.is_remote(path) else shutil.disk_usage(os.path.dirname(path)).free


def _in_gb(count):
    return f'{count / 1e9:.1f} GB' if count >= 1e9 else f'{count / 1e6:.1f} MB'


@contextlib.contextmanager
def new_dataset(tfrecord_dir, force=False):
    """Context of a DatasetWriter for the dataset `tfrecord_dir`, which appears when the context ends without an error.

    Args:
        tfrecord_dir: Folder to make, or address; its last part names the files.
        force:        Replace the dataset that may be there?

    Raises:
        UserError: The folder holds something, no image was added, the disk is full, or another run is writing there.
    """
    remote = storage.is_remote(tfrecord_dir)
    place = (storage.new_remote_files if remote else storage.new_folder)(tfrecord_dir, _DATASET_FILES, force)
    try:
        with place as temporary:
            folder, ending = (tfrecord_dir, temporary) if remote else (temporary, '')
            writer = DatasetWriter(folder, storage.base_name(tfrecord_dir), ending, tfrecord_dir)
            with contextlib.closing(writer):
                yield writer
                if writer.num_images == 0:
                    raise UserError(f'there are no images to put into {tfrecord_dir}', 'Check the source of the images.')
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError(f'{tfrecord_dir}: {err.strerror}; nothing was kept',
                            'Make room, name a folder on a larger disk, or store fewer or smaller images.') from err
        raise
