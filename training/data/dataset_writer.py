"""Writes multi-resolution TFRecord datasets on all cores; a dataset appears complete or not at all.

The file format is described in training/data/tfrecords.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from dnnlib import memory, storage
from dnnlib.cli import UserError
from dnnlib.util import map_in_order
from training.data import manifest, tfrecords

_CHUNK_BYTES = 2 << 20     # Bytes of pixels that a thread encodes at a time: with larger chunks threads wait less.
_RECORD_OVERHEAD = 64      # Approximate size of a record without its pixels.
_DATASET_FILES = r'.*\.(tfrecords|labels)|.*-classes\.json'
_MAX_PIXEL_BYTES = (1 << 31) - 1024  # A record is a protobuf message, which cannot have more than 2 GiB.
_SMALLER = 'Store smaller images; --resolution or --width set their size.'
_MAKE_ROOM = 'Make room, name a folder on a larger disk, or store fewer or smaller images.'


def shuffled_order(num_images: int) -> np.ndarray:
    """Order in which the original's tools store shuffled images: int64 [num_images]."""
    order = np.arange(num_images)
    np.random.RandomState(123).shuffle(order)
    return order


def tune_malloc() -> None:
    """Make glibc keep freed memory for the rest of the process instead of returning it to the system after every image.

    Datasets are written 1.5 times as fast that way, with the same peak of memory. Without glibc it does nothing.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 1 << 28)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD, the largest value that is allowed


# ---- From a source of images to a dataset ----

@dataclasses.dataclass
class Source:
    """Images on their way into a dataset.

    Args:
        shape:       [C, R, R] of each image.
        items:       What `decode` takes, in the order in which the images are stored; cheap to iterate over.
        decode:      Item -> image of that shape with values in 0..255, any number type; or None or the reason (str)
                     why the item is left out. Called in several threads.
        num_items:   Number of items.
        labels:      [num_items, label_size] in the order of the items. None = no labels.
        class_names: Names of the columns of one-hot labels. None = no names.
        max_images:  Stop after this many images. None = take all.
        remedy:      What the user can do if all items are left out.
    """
    shape: tuple[int, ...]
    items: Iterable[Any]
    decode: Callable[[Any], np.ndarray | str | None]
    num_items: int
    labels: np.ndarray | None = None
    class_names: list[str] | None = None
    max_images: int | None = None
    remedy: str = 'Check the source of the images.'

    @property
    def expected_images(self) -> int:
        """Number of images if none is left out."""
        return self.num_items if self.max_images is None else min(self.num_items, self.max_images)


def write_source(
    tfrecord_dir: str | os.PathLike,
    source: Source,
    force: bool = False,
    num_threads: int | None = None,
    command: str | None = None,
) -> Generator[bool | str | None, None, None]:
    """Create a dataset from a Source, and yield a result for each item.

    Args:
        tfrecord_dir: Folder to make, or remote address. The dataset appears when the generator is exhausted.
        source:       Images and labels.
        force:        Replace an existing dataset?
        num_threads:  Threads that decode. None = one per core.
        command:      As in `new_dataset`.

    Yields:
        True if the item was stored; if it was left out, the reason (str) or None.

    Raises:
        UserError: As `new_dataset`, and what the source raises.
    """
    def encode(items):  # -> (result of each item as above, records of the stored ones)
        images = [source.decode(item) for item in items]
        kept = [image for image in images if isinstance(image, np.ndarray)]
        results = [isinstance(image, np.ndarray) or image for image in images]
        return results, encode_levels(np.stack(kept)) if kept else []

    num_threads = num_threads or os.cpu_count() or 1
    require_memory(source.shape, source.expected_images, num_threads)
    chunk_images = max(_CHUNK_BYTES // int(np.prod(source.shape)), 1)
    done, kept = 0, []
    with new_dataset(tfrecord_dir, force, command) as writer:
        writer.start(source.shape, source.expected_images)
        with contextlib.closing(map_in_order(encode, _chunks(source.items, chunk_images), num_threads,
                                             ahead=2 * num_threads)) as chunks:
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
        if done and not kept:
            raise UserError(f'there are no images to put into {tfrecord_dir}: all {done} were left out', source.remedy)
        if source.labels is not None:
            writer.add_labels(np.asarray(source.labels)[kept])
        if source.class_names is not None:
            writer.add_class_names(source.class_names)


def require_memory(shape: Sequence[int], num_images: int, num_threads: int | None = None) -> None:
    """Check that images of a size can be stored, before one of them is made.

    Args:
        shape:       [C, R, R] of each image.
        num_images:  How many there are at most.
        num_threads: Threads that decode. None = one per core.

    Raises:
        UserError: The format cannot hold such images, or there is not enough memory to write them.
    """
    size = f'{shape[-1]}x{shape[-2]}'
    pixel_bytes = math.prod(shape)
    if pixel_bytes > _MAX_PIXEL_BYTES:
        raise UserError(f'an image of {size} would have {memory.describe(pixel_bytes)}; '
                        f'a TFRecord holds at most {memory.describe(_MAX_PIXEL_BYTES)}', _SMALLER)
    num_threads = num_threads or os.cpu_count() or 1
    # A thread holds the decoded image, a copy and the level in the making; records of all levels, which are 4/3 of the
    # image, wait for their turn.
    decoding, waiting = min(num_threads, num_images), min(2 * num_threads, num_images)
    memory.require(pixel_bytes * (3 * decoding + 4 / 3 * waiting), f'writing images of {size}', _SMALLER)


def _chunks(items, size):
    items = iter(items)
    while chunk := list(itertools.islice(items, size)):
        yield chunk


# ---- Levels ----

def encode_levels(images: np.ndarray) -> list[np.ndarray]:
    """Encode images as records at every resolution.

    Each level is the 2x2 box mean of the unrounded level above it, and is then rounded half to even.

    Args:
        images: [N, C, R, R], values in 0..255, any number type.

    Returns:
        Records of the resolutions R, R/2, ... 4, each uint8 [N, bytes of a record].
    """
    is_exact = images.dtype == np.uint8 and images.shape[-1] <= 1024
    levels = _integer_levels(images) if is_exact else _float_levels(images)
    return [tfrecords.encode_records(level) for level in levels]


def _float_levels(images):
    level = images.astype(np.float32)
    while True:
        yield np.rint(level).clip(0, 255).astype(np.uint8)
        if level.shape[-1] == 4:
            return
        sums = level[..., 0::2, 0::2] + level[..., 0::2, 1::2] + level[..., 1::2, 0::2] + level[..., 1::2, 1::2]
        level = sums * np.float32(0.25)


def _integer_levels(images):
    """The same values as `_float_levels`, several times faster.

    They are the same because float32 holds the sums of up to 1024x1024 8-bit pixels exactly. Two neighbors in a row are
    added as the halves of one integer of twice the size.
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
        # Round half to even: add half of the divisor less one, and one more if the quotient is odd.
        rounded = sums >> shift
        rounded &= 1
        rounded += sums
        rounded += 2 ** (shift - 1) - 1
        rounded >>= shift
        yield rounded.astype(np.uint8)


# ---- The files ----

class DatasetWriter:
    """Appends images to all levels of a dataset. Made by `new_dataset`, which leaves no incomplete dataset behind.

    Args:
        folder: Existing folder to write into.
        name:   First part of the file names.
        ending: Last part of the file names.
        target: Name of the dataset in messages.

    Attributes:
        num_images: Number of images added so far.
    """

    def __init__(self, folder: str, name: str, ending: str = '', target: str = ''):
        self.num_images = 0
        self._name = name
        self._prefix = os.path.join(folder, name)
        self._ending = ending
        self._remote = storage.is_remote(folder)  # TensorFlow's files take only bytes objects.
        self._target = target
        self._shape = None                         # Shape of all images.
        self._files = []                           # One per level, from the largest down to 4x4.
        self._level_names = []                     # Names of these files, without the ending.
        self._digests = []                         # Of these files: see tfrecords.content_digest.
        self._sizes = []                           # Bytes written to these files.
        self._records = {}                         # Name -> manifest.FileRecord of the files that are complete.
        self._open_files = contextlib.ExitStack()  # Closes all of them.

    def start(self, shape: Sequence[int], expected_images: int = 0) -> None:
        """Open the files.

        Args:
            shape:           [C, R, R] of all images.
            expected_images: Number of images there must be room for on the disk.

        Raises:
            ValueError: The shape is not that of images of a power of two.
            UserError:  There is not enough room.
        """
        resolution_log2 = shape[-1].bit_length() - 1
        if len(shape) != 3 or shape[1] != shape[2] or shape[1] != 2 ** resolution_log2 or shape[1] < 4:
            raise ValueError('expected an image of shape [C, R, R], R a power of two and 4 or above, '
                             f'got {list(shape)}')
        levels = range(resolution_log2, 1, -1)
        need = expected_images * sum(shape[0] * 4 ** level + _RECORD_OVERHEAD for level in levels)
        free = _free_bytes(self._prefix)
        if need > free:
            raise UserError(f'{expected_images} images need about {memory.describe(need)}, '
                            f'but only {memory.describe(free)} are free at {self._target}', _MAKE_ROOM)
        self._shape = tuple(shape)
        for level in levels:
            file = storage.open_file(f'{self._prefix}-r{level:02d}.tfrecords{self._ending}', 'wb')
            self._files.append(self._open_files.enter_context(file))
            self._level_names.append(f'{self._name}-r{level:02d}.tfrecords')
            self._digests.append(hashlib.sha256())
            self._sizes.append(0)

    def add_image(self, image: np.ndarray) -> None:
        """Append an image [C, R, R] of the shape of the first one to every level: values in 0..255, any number type."""
        if self._shape is None:
            self.start(image.shape)
            assert self._shape is not None
        if image.shape != self._shape:
            raise ValueError(f'expected an image of shape {list(self._shape)}, as the first one, '
                             f'got {list(image.shape)}')
        self.add_records(encode_levels(image[np.newaxis]))

    def add_records(self, levels: Sequence[np.ndarray]) -> None:
        """Append the records of N images as `encode_levels` returns them."""
        for index, (file, records) in enumerate(zip(self._files, levels, strict=True)):
            file.write(records.tobytes() if self._remote else records)
            self._digests[index].update(tfrecords.digest_bytes(records))
            self._sizes[index] += records.nbytes
        self.num_images += len(levels[0])

    def add_labels(self, labels: np.ndarray) -> None:
        """Store the labels of the images added so far: [num_images, label_size], any number type, stored as float32."""
        if np.ndim(labels) != 2 or len(labels) != self.num_images:
            raise ValueError(f'expected labels of shape [{self.num_images}, label_size], got {list(np.shape(labels))}')
        content = io.BytesIO()
        np.save(content, np.asarray(labels, np.float32))
        self._write_file('-rxx.labels', content.getvalue())

    def add_class_names(self, names: Sequence[str]) -> None:
        """Store the names of the columns of the labels."""
        self._write_file('-classes.json', (json.dumps(names, ensure_ascii=False, indent=1) + '\n').encode())

    def finish(self, command: str | None = None) -> None:
        """Store NAME.json, the record of all files. Nothing can be added afterwards.

        Args:
            command: As in `new_dataset`.
        """
        self.close()
        for name, size, digest in zip(self._level_names, self._sizes, self._digests):
            self._records[name] = manifest.FileRecord(size, digest.hexdigest())
        resolutions = [self._shape[-1] >> index for index in range(len(self._files))] if self._shape else []
        content = manifest.encode(self.num_images, resolutions, self._records, command)
        self._write_file('.json', content)

    def _write_file(self, name, content):
        with storage.open_file(f'{self._prefix}{name}{self._ending}', 'wb') as file:
            file.write(content)
        self._records[f'{self._name}{name}'] = manifest.FileRecord(len(content), manifest.sha256(content))

    def close(self) -> None:
        """Close all files."""
        self._open_files.close()


def _free_bytes(path):
    return float('inf') if storage.is_remote(path) else shutil.disk_usage(os.path.dirname(path)).free


@contextlib.contextmanager
def new_dataset(tfrecord_dir: str | os.PathLike, force: bool = False,
                command: str | None = None) -> Iterator[DatasetWriter]:
    """Context manager of a DatasetWriter for a dataset that appears if the with-block ends without an error.

    Args:
        tfrecord_dir: Folder to make, or remote address; its last part names the files.
        force:        Replace an existing dataset?
        command:      Command that makes it, for NAME.json. None = not recorded.

    Raises:
        UserError: The folder is not empty, no image was added, the disk is full, or another run is writing there.
    """
    tfrecord_dir = str(tfrecord_dir)
    remote = storage.is_remote(tfrecord_dir)
    new_files = storage.new_remote_files if remote else storage.new_folder
    try:
        with new_files(tfrecord_dir, _replaceable_files(tfrecord_dir, force), force) as temporary:
            folder, ending = (tfrecord_dir, temporary) if remote else (temporary, '')
            writer = DatasetWriter(folder, storage.base_name(tfrecord_dir), ending, tfrecord_dir)
            with contextlib.closing(writer):
                yield writer
                if writer.num_images == 0:
                    raise UserError(f'there are no images to put into {tfrecord_dir}',
                                    'Check the source of the images.')
                writer.finish(command)
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError(f'{tfrecord_dir}: {err.strerror}; nothing was kept', _MAKE_ROOM) from err
        raise


def _replaceable_files(tfrecord_dir, force):
    """Regular expression of the names of the files that --force replaces.

    Of the .json files only those that belong to records: they have the name of the folder, or the one it once had.
    """
    names = storage.list_folder(tfrecord_dir) if storage.is_folder(tfrecord_dir) else []
    manifests = {f'{storage.base_name(tfrecord_dir)}.json'}
    manifests |= {manifest.path_beside(name) for name in names if name.endswith('.tfrecords')}
    for name in sorted(manifests.intersection(names)) if force else []:
        if manifest.load(os.path.join(tfrecord_dir, name)) is None:
            raise UserError(f'{tfrecord_dir} holds {name}, which --force does not replace',
                            'Give another folder, or remove this file yourself.')
    return '|'.join([_DATASET_FILES, *map(re.escape, sorted(manifests))])
