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
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dnnlib import memory, storage
from dnnlib.cli import UserError
from dnnlib.util import map_in_order
from training.data import manifest, tfrecords
from training.data.writer_progress import WriterProgress, entry_type, recover

_CHUNK_BYTES = 2 << 20     # Bytes of pixels that a thread encodes at a time: with larger chunks threads wait less.
_RECORD_OVERHEAD = 64      # Approximate size of a record without its pixels.
_DATASET_FILES = r'.*\.(tfrecords|labels|progress)|.*-classes\.json'
_COMPARED_ITEMS = 8        # Items that a run that goes on makes again, to see whether the source is the same.
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
    resume: bool = False,
    source_digest: str | None = None,
) -> Generator[bool | str | None, None, None]:
    """Create a dataset from a Source, and yield a result for each item.

    Args:
        tfrecord_dir:  Folder to make, or remote address. The dataset appears when the generator is exhausted.
        source:        Images and labels.
        force:         Replace an existing dataset?
        num_threads:   Threads that decode. None = one per core.
        command:       As in `new_dataset`.
        resume:        Go on where an interrupted run was, and after an error keep what has been written? The dataset
                       has the same bytes as that of a run that was not interrupted.
        source_digest: Digest of the source, see writer_progress.digest_of_files. None = unknown.

    Yields:
        True if the item was stored; if it was left out, the reason (str), or None if there is none or an earlier run
        left it out.

    Raises:
        UserError: As `new_dataset`, and what the source raises; or the interrupted run had other settings or images.
    """
    def encode(items):  # -> (result of each item as above, records of the stored ones)
        images = [source.decode(item) for item in items]
        kept = [image for image in images if isinstance(image, np.ndarray)]
        results = [isinstance(image, np.ndarray) or image for image in images]
        return results, encode_levels(np.stack(kept)) if kept else []

    num_threads = num_threads or os.cpu_count() or 1
    require_memory(source.shape, source.expected_images, num_threads)
    chunk_images = max(_CHUNK_BYTES // int(np.prod(source.shape)), 1)
    settings = {'version': manifest.version(), 'command': command, 'source': source_digest,
                'shape': [int(size) for size in source.shape], 'num_items': int(source.num_items)}
    items = iter(source.items)
    with new_dataset(tfrecord_dir, force, command, resume) as writer:
        entries = writer.start(source.shape, source.expected_images, settings)
        done, kept = len(entries), np.flatnonzero(entries['stored']).tolist()
        _compare_items(itertools.islice(items, done), entries, encode)
        yield from (True if entry['stored'] else None for entry in entries)
        if writer.num_images == source.max_images:
            items = iter(())
        with contextlib.closing(map_in_order(encode, _chunks(items, chunk_images), num_threads,
                                             ahead=2 * num_threads)) as chunks:
            for results, records in chunks:
                room = source.max_images and source.max_images - writer.num_images
                stored = [index for index, result in enumerate(results) if result is True][:room]
                records = [level[:len(stored)] for level in records]
                if stored:
                    writer.add_records(records)
                    kept += [done + index for index in stored]
                done += len(results)
                full = writer.num_images == source.max_images
                results = results[:stored[-1] + 1] if full else results
                writer.note_progress([result is True for result in results], records)
                yield from results
                if full:
                    break
        if done and not kept:
            raise UserError(f'there are no images to put into {tfrecord_dir}: all {done} were left out', source.remedy)
        if source.labels is not None:
            writer.add_labels(np.asarray(source.labels)[kept])
        if source.class_names is not None:
            writer.add_class_names(source.class_names)


def _compare_items(items, entries, encode):
    """Make some of the items again that an interrupted run has dealt with, and compare them with its entries."""
    compared = set(np.linspace(0, len(entries) - 1, _COMPARED_ITEMS).astype(int).tolist()) if len(entries) else ()
    for number, (item, entry) in enumerate(zip(items, entries)):
        if number in compared:
            [result], levels = encode([item])
            checksums = [level[0, -4:].view('<u4')[0] for level in levels]
            if (result is True) != bool(entry['stored']) or checksums != entry['checksums'][:len(checksums)].tolist():
                raise UserError(f'item {number} of the source is not what the interrupted run stored',
                                'Go on with the same images. Leave out --resume to begin again.')


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
        resume: Go on with what is in the folder? See `start`.

    Attributes:
        num_images: Number of images added so far.
    """

    def __init__(self, folder: str, name: str, ending: str = '', target: str = '', resume: bool = False):
        self.num_images = 0
        self._resume = resume
        self._progress: WriterProgress | None = None
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

    def start(self, shape: Sequence[int], expected_images: int = 0,
              settings: Mapping[str, Any] | None = None) -> np.ndarray:
        """Open the files.

        Args:
            shape:           [C, R, R] of all images.
            expected_images: Number of images there must be room for on the disk.
            settings:        Settings that must be the same in a run that goes on, see WriterProgress. None = no run can
                             go on.

        Returns:
            Entries of the items that an interrupted run has dealt with, as writer_progress.recover. Its images are
            added already.

        Raises:
            ValueError: The shape is not that of images of a power of two.
            UserError:  There is not enough room; or the interrupted run had other settings.
        """
        resolution_log2 = shape[-1].bit_length() - 1
        if len(shape) != 3 or shape[1] != shape[2] or shape[1] != 2 ** resolution_log2 or shape[1] < 4:
            raise ValueError('expected an image of shape [C, R, R], R a power of two and 4 or above, '
                             f'got {list(shape)}')
        levels = range(resolution_log2, 1, -1)
        shapes = {f'{self._prefix}-r{level:02d}.tfrecords{self._ending}': (shape[0], 2 ** level, 2 ** level)
                  for level in levels}
        entries = self._recover(shapes, settings)
        self.num_images = int(np.count_nonzero(entries['stored']))
        new_images = max(expected_images - self.num_images, 0)
        need = new_images * sum(shape[0] * 4 ** level + _RECORD_OVERHEAD for level in levels)
        free = _free_bytes(self._prefix)
        if need > free:
            raise UserError(f'{new_images} images need about {memory.describe(need)}, '
                            f'but only {memory.describe(free)} are free at {self._target}', _MAKE_ROOM)
        self._shape = tuple(shape)
        for index, (path, level_shape) in enumerate(shapes.items()):
            file = storage.open_file(path, 'ab' if self.num_images else 'wb')
            self._files.append(self._open_files.enter_context(file))
            self._level_names.append(storage.base_name(path).removesuffix(self._ending))
            checksums = entries['checksums'][entries['stored'] != 0, index]
            self._digests.append(hashlib.sha256(tfrecords.digest_bytes_of(level_shape, checksums)))
            self._sizes.append(self.num_images * tfrecords.record_bytes(level_shape))
        if settings is not None and not self._remote:
            self._progress = WriterProgress(self._progress_path, settings, len(shapes))
            self._open_files.callback(self._progress.close)
        return entries

    @property
    def _progress_path(self):
        return f'{self._prefix}.progress'

    def _recover(self, shapes, settings):
        """Entries of an interrupted run, as `start` returns them. Deletes what cannot be used."""
        if self._resume and settings is not None:
            if os.path.isfile(self._progress_path):
                return recover(self._progress_path, shapes, settings)
            folder = os.path.dirname(self._prefix)
            for name in os.listdir(folder):
                os.remove(os.path.join(folder, name))
        return np.zeros(0, entry_type(len(shapes)))

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

    def note_progress(self, results: Sequence[bool], levels: Sequence[np.ndarray]) -> None:
        """Note for a run that goes on what has become of further items. Arguments as in WriterProgress.add."""
        if self._progress is not None:
            self._progress.add(results, levels)

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
        if self._progress is not None:
            self._progress.remove()
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
def new_dataset(tfrecord_dir: str | os.PathLike, force: bool = False, command: str | None = None,
                resume: bool = False) -> Iterator[DatasetWriter]:
    """Context manager of a DatasetWriter for a dataset that appears if the with-block ends without an error.

    Args:
        tfrecord_dir: Folder to make, or remote address; its last part names the files.
        force:        Replace an existing dataset?
        command:      Command that makes it, for NAME.json. None = not recorded.
        resume:       Go on with what an interrupted run has written, and after an error keep what there is?

    Raises:
        UserError: The folder is not empty, no image was added, the disk is full, another run is writing there, or
                   `resume` is not possible at this address.
    """
    tfrecord_dir = str(tfrecord_dir)
    remote = storage.is_remote(tfrecord_dir)
    if remote and resume:
        raise UserError(f'--resume: expected a local folder, received {tfrecord_dir}, where files cannot be continued',
                        'Leave out --resume, or make the dataset in a local folder and copy it.')
    files = _replaceable_files(tfrecord_dir, force)
    new_files = (storage.new_remote_files(tfrecord_dir, files, force) if remote
                 else storage.new_folder(tfrecord_dir, files, force, resume))
    try:
        with new_files as temporary:
            folder, ending = (tfrecord_dir, temporary) if remote else (temporary, '')
            writer = DatasetWriter(folder, storage.base_name(tfrecord_dir), ending, tfrecord_dir, resume)
            with contextlib.closing(writer):
                yield writer
                if writer.num_images == 0:
                    raise UserError(f'there are no images to put into {tfrecord_dir}',
                                    'Check the source of the images.')
                writer.finish(command)
    except (KeyboardInterrupt, SystemExit):
        if resume:
            print('\nWhat has been written is kept: the same command goes on from there.')
        raise
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            kept = 'the same command goes on from there' if resume else 'nothing was kept'
            raise UserError(f'{tfrecord_dir}: {err.strerror}; {kept}', _MAKE_ROOM) from err
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
