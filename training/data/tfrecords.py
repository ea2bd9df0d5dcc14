"""Multi-resolution TFRecord datasets: the file format, and a reader that verifies it.

TensorFlow is imported only for remote addresses.

A dataset is a folder NAME of

    NAME-r10.tfrecords ... NAME-r02.tfrecords   every image at 1024x1024, 512x512, ... 4x4, in the same order
    NAME-rxx.labels                             optional .npy array, float32 [num_images, label_size]
    NAME-classes.json                           optional list of the names of the classes, only for display
    NAME.json                                   optional record of these files: training/data/manifest.py

Each record is a `tf.train.Example` with `shape` = int64 [C, H, W] and `data` = the uint8 pixels, CHW, as raw bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import math
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence

import google_crc32c
import numpy as np

from dnnlib import storage
from dnnlib.cli import UserError
from training.data import example_proto, manifest

_REMEDY = 'Make the dataset again with dataset_tool.py, or copy it again.'
_CHECKED_BYTES = 16 << 20  # find_dataset verifies records of about this size in each file, evenly spaced.
_MAX_DIFFERENCE = 24       # Mean difference (0..255) from the level above that other downsampling filters stay below.


# ---- Records in a file: uint64 length, crc of the length, data, crc of the data ----
# https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details

_FRAME_BYTES = 16  # Size of a record without its data.


def _masked_crc(data):
    """Masked CRC-32C of bytes or of a uint8 array, as the TFRecord format defines it -> 4 bytes."""
    crc = google_crc32c.value(data)
    return struct.pack('<I', ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff)


@functools.lru_cache
def _frame_header(length):
    """Header of a record with `length` bytes of data -> 12 bytes."""
    encoded = struct.pack('<Q', length)
    return encoded + _masked_crc(encoded)


def _damaged(path, number, what):
    return UserError(f'{path}: record {number} is damaged ({what})', _REMEDY)


def _record_lengths(file, path):
    """Yield the length of each record with `file` positioned at the start of its data. Reads only the headers."""
    size = storage.size(path)
    offset = number = 0
    while offset < size:
        file.seek(offset)
        header = file.read(12)
        if len(header) < 12:
            raise _damaged(path, number, 'the file ends inside it')
        [length] = struct.unpack('<Q', header[:8])
        if _masked_crc(header[:8]) != header[8:]:
            raise _damaged(path, number, 'the checksum of its length does not match')
        offset += length + _FRAME_BYTES
        if offset > size:
            raise _damaged(path, number, 'the file ends inside it')
        yield length
        number += 1


def read_records(path: str | os.PathLike) -> Iterator[bytes]:
    """Yield the data of each record of a .tfrecords file, with verified checksums.

    Raises:
        UserError: A record is damaged; the message names the file and the number of the record, from 0.
    """
    with storage.open_file(path) as file:
        for number, length in enumerate(_record_lengths(file, path)):
            data = file.read(length)
            if _masked_crc(data) != file.read(4):
                raise _damaged(path, number, 'the checksum of its data does not match')
            yield data


def unframe(frame: np.ndarray, size: int, path: str | os.PathLike, number: int) -> np.ndarray:
    """Check a record that was read from its place in a file, and return its data.

    Args:
        frame:  Bytes of the record, uint8 array.
        size:   Number of bytes that it should have.
        path:   Path of the file, for messages.
        number: Number of the record.

    Raises:
        UserError: The record is damaged.
    """
    if len(frame) != size or size < _FRAME_BYTES:
        raise _damaged(path, number, 'the file ends inside it')
    if frame[:12].tobytes() != _frame_header(size - _FRAME_BYTES):
        raise _damaged(path, number, 'its length or the checksum of its length is another than expected')
    if frame[-4:].tobytes() != _masked_crc(frame[12:-4]):
        raise _damaged(path, number, 'the checksum of its data does not match')
    return frame[12:-4]


def content_digest(path: str | os.PathLike) -> str:
    """Compute a digest that tells files of different images apart, reading only 16 bytes per record.

    Returns:
        SHA-256 of the lengths and checksums of all records, as 64 hexadecimal digits.

    Raises:
        UserError: A record is damaged.
    """
    digest = hashlib.sha256()
    with storage.open_file(path) as file:
        for length in _record_lengths(file, path):
            file.seek(length, os.SEEK_CUR)
            digest.update(struct.pack('<Q', length) + file.read(4))
    return digest.hexdigest()


def digest_bytes(records: np.ndarray) -> bytes:
    """Return the bytes of encoded records, uint8 [N, bytes of a record], that `content_digest` takes the SHA-256 of."""
    return np.concatenate([records[:, :8], records[:, -4:]], axis=1).tobytes()


def digest_bytes_of(shape: Sequence[int], checksums: np.ndarray) -> bytes:
    """As `digest_bytes`, of records that `encode_records` makes of images [C, H, W].

    Args:
        shape:     [C, H, W].
        checksums: Checksums of the data of the records, uint32 [N].
    """
    lengths = np.full([len(checksums), 1], record_bytes(shape) - _FRAME_BYTES, '<u8')
    checksums = checksums.astype('<u4')[:, np.newaxis]
    return np.concatenate([lengths.view(np.uint8), checksums.view(np.uint8)], axis=1).tobytes()


# ---- Images in a record ----

def record_bytes(shape: Sequence[int]) -> int:
    """Return the size of the record of an image [C, H, W] as `encode_records` makes it, in bytes."""
    before, after = example_proto.around_pixels(tuple(shape))
    return len(before) + math.prod(shape) + len(after) + _FRAME_BYTES


def encode_records(images: np.ndarray) -> np.ndarray:
    """Encode images as records of a .tfrecords file. Equal images give equal bytes: features are sorted by name.

    Args:
        images: uint8 [N, C, H, W].

    Returns:
        uint8 [N, bytes of a record].
    """
    before, after = example_proto.around_pixels(images.shape[1:])
    pixels = images.reshape(len(images), -1)
    length = len(before) + pixels.shape[1] + len(after)
    records = np.empty([len(images), length + _FRAME_BYTES], np.uint8)
    start = _frame_header(length) + before
    end = len(start) + pixels.shape[1]
    records[:, :len(start)] = np.frombuffer(start, np.uint8)
    records[:, len(start):end] = pixels
    records[:, end:-4] = np.frombuffer(after, np.uint8)
    for record in records:
        record[-4:] = np.frombuffer(_masked_crc(record[12:-4]), np.uint8)
    return records


def read_images(path: str | os.PathLike, shape: tuple[int, ...] | None = None) -> Iterator[np.ndarray]:
    """Yield each image of a .tfrecords file as uint8 [C, H, W], read-only.

    Args:
        path:  Path of the file.
        shape: Expected shape of all images. None = any.

    Raises:
        UserError: A record is damaged, holds no image, or one of another shape.
    """
    for number, record in enumerate(read_records(path)):
        yield decode_record(path, number, record, shape)


def decode_record(path: str | os.PathLike, number: int, record: bytes,
                  shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Decode the data of a record.

    Args:
        path, number: File and number of the record, for messages.
        record:       The data.
        shape:        Expected shape of the image. None = any.

    Returns:
        uint8 [C, H, W], read-only.

    Raises:
        UserError: It is no image, or one of another shape.
    """
    try:
        image = example_proto.decode_example(record)
    except ValueError as err:
        raise _damaged(path, number, f'not an image: {err}') from err
    if shape is not None and image.shape != shape:
        raise _damaged(path, number, f'shape {list(image.shape)}, expected {list(shape)}')
    return image


# ---- Datasets ----

@dataclasses.dataclass(frozen=True)
class DatasetFiles:
    """The files of a dataset.

    Attributes:
        levels:        log2 of the resolution -> path of the .tfrecords file; from 2 upwards without a gap.
        record_starts: log2 of the resolution -> size of a record in bytes, if all are equal; otherwise the offset of
                       each record in the file, int64 [num_images].
        channels:      Channels of the images.
        num_images:    Number of images.
        label_file:    Path of the first *.labels file. None = there is none.
        class_file:    Path of the first *-classes.json file. None = there is none.
        manifest:      What NAME.json records. None = there is no such file.
    """
    levels: dict[int, str]
    record_starts: dict[int, int | np.ndarray]
    channels: int
    num_images: int
    label_file: str | None
    class_file: str | None
    manifest: manifest.Manifest | None

    @property
    def resolution_log2(self) -> int:
        """log2 of the largest resolution."""
        return max(self.levels)

    @property
    def largest(self) -> str:
        """Path of the file with the largest images."""
        return self.levels[self.resolution_log2]


def find_dataset(tfrecord_dir: str | os.PathLike) -> DatasetFiles:
    """Find the files of a dataset and check them as far as possible without reading all of them.

    Raises:
        UserError: The folder does not exist or has no .tfrecords files; or a level is missing, damaged, or does not fit
                   the others.
    """
    if not storage.is_folder(tfrecord_dir):
        raise UserError(f'dataset folder {tfrecord_dir} not found', 'Check the name; dataset_tool.py makes datasets.')
    names = [name for name in storage.list_folder(tfrecord_dir) if not name.startswith('.')]

    def paths(ending):
        return [os.path.join(tfrecord_dir, name) for name in names if name.endswith(ending)]

    if not paths('.tfrecords'):
        raise UserError(f'no .tfrecords files in {tfrecord_dir}',
                        'Make a dataset from images with: dataset_tool.py create_from_images')
    levels, record_starts, first_images = {}, {}, {}
    first_path, num_images, channels = None, 0, 0
    for path in paths('.tfrecords'):
        count, starts, image = _inspect_level(path)
        level = image.shape[1].bit_length() - 1
        if level in levels:
            raise UserError(f'{path} and {levels[level]} both hold images of {2 ** level}x{2 ** level}',
                            'A dataset has one file per resolution; keep each dataset in its own folder.')
        if first_path is None:
            first_path, num_images, channels = path, count, len(image)
        if (count, len(image)) != (num_images, channels):
            raise UserError(f'{path} holds {count} images of {len(image)} channels, '
                            f'but {first_path} holds {num_images} of {channels}', _REMEDY)
        levels[level], record_starts[level], first_images[level] = path, starts, image
    for level in range(2, max(levels)):
        if level not in levels:
            raise UserError(f'{tfrecord_dir} has no images of {2 ** level}x{2 ** level} '
                            f'(file NAME-r{level:02d}.tfrecords)', _REMEDY)
    recorded = manifest.load(manifest.path_beside(levels[max(levels)]))
    class_files = [path for path in paths('-classes.json') if recorded is None or path != recorded.path]
    label_file, class_file = (next(iter(each), None) for each in (paths('.labels'), class_files))
    files = DatasetFiles(levels, record_starts, channels, num_images, label_file, class_file, recorded)
    check_levels_agree(files, 0, first_images)
    if recorded is not None:
        all_paths = [*levels.values(), *paths('.labels'), *class_files]
        recorded.check_files(tfrecord_dir, [os.path.basename(path) for path in all_paths], num_images)
    return files


def check_digests(files: DatasetFiles) -> None:
    """Check the files of a dataset against the digests in its NAME.json, if it has one.

    Raises:
        UserError: A file has another content.
    """
    if files.manifest is None:
        return
    for name, record in files.manifest.files.items():
        path = os.path.join(os.path.dirname(files.manifest.path), name)
        if name.endswith('.tfrecords'):
            digest = content_digest(path)
        else:
            with storage.open_file(path) as file:
                digest = manifest.sha256(file.read())
        if digest != record.digest:
            raise UserError(f'{path} has another content than when {files.manifest.path} was written',
                            manifest.remedy(files.manifest.path))


def check_levels_agree(files: DatasetFiles, number: int, images: Mapping[int, np.ndarray]) -> None:
    """Check that a record holds the same image at every level.

    Args:
        files:  Files of the dataset.
        number: Number of the record.
        images: log2 of the resolution -> uint8 [C, R, R], this record at each level.

    Raises:
        UserError: The images differ.
    """
    for level in range(2, files.resolution_log2):
        above = images[level + 1].astype(np.float32)
        means = (above[:, 0::2, 0::2] + above[:, 0::2, 1::2] + above[:, 1::2, 0::2] + above[:, 1::2, 1::2]) / 4
        if np.abs(means - images[level]).mean() > _MAX_DIFFERENCE:
            raise UserError(f'{files.levels[level]}: record {number} is not the image of that record '
                            f'of {files.levels[level + 1]}',
                            'Files of two datasets are mixed; ' + _REMEDY[0].lower() + _REMEDY[1:])


def read_all_levels(files: DatasetFiles) -> Iterator[dict[int, np.ndarray]]:
    """Yield each image of a dataset at every level, as {log2 of the resolution: uint8 [C, R, R]}.

    Raises:
        UserError: A record is damaged, has another shape than the first one, or differs between the levels.
    """
    levels = sorted(files.levels)
    streams = [read_images(files.levels[level], (files.channels, 2 ** level, 2 ** level)) for level in levels]
    for number, record in enumerate(zip(*streams, strict=True)):
        images = dict(zip(levels, record))
        check_levels_agree(files, number, images)
        yield images


def _inspect_level(path):
    """Number of images in a .tfrecords file, its `record_starts` (see DatasetFiles), its first image [C, R, R]."""
    with storage.open_file(path) as file:
        length = next(_record_lengths(file, path), None)
    if length is None:
        raise UserError(f'{path} is empty', _REMEDY)
    image = next(read_images(path))
    height, width = image.shape[-2:]
    if height != width or width & (width - 1) or width < 4:
        raise UserError(f'{path} holds images of {width}x{height}, '
                        'expected squares with a power of two, 4 or above, as side', _REMEDY)
    name = re.search(r'-r(\d\d)\.tfrecords$', path)
    if name and 2 ** int(name[1]) != width:
        raise UserError(f'{path} holds images of {width}x{height}, '
                        f'expected {2 ** int(name[1])}x{2 ** int(name[1])} from its name',
                        'Give the file its old name back.')
    # Images of the same shape have records of the same length, so that the size of the file gives their number and
    # offsets. If a record is not at its offset, all headers are read: that either finds the damage, or the records hold
    # more features than the image, which is allowed.
    number, rest = divmod(storage.size(path), length + _FRAME_BYTES)
    if rest or not _all_records_have_length(path, number, length):
        with storage.open_file(path) as file:
            ends = np.cumsum([length + _FRAME_BYTES for length in _record_lengths(file, path)])
        return len(ends), np.concatenate([[0], ends[:-1]]), image
    return number, length + _FRAME_BYTES, image


def _all_records_have_length(path, number, length):
    """Whether a file consists of `number` records with `length` bytes of data.

    Reads evenly spaced samples, among them the last record. Raises UserError if the data of a sample is damaged.
    """
    frame_bytes = length + _FRAME_BYTES
    step = max(number * frame_bytes // _CHECKED_BYTES, 1)
    with storage.open_file(path) as file:
        for index in range(number - 1, -1, -step):
            file.seek(index * frame_bytes)
            frame = file.read(frame_bytes)
            if frame[:12] != _frame_header(length):
                return False
            if frame[-4:] != _masked_crc(frame[12:-4]):
                raise _damaged(path, index, 'the checksum of its data does not match')
    return True


def load_labels(path: str | os.PathLike, num_images: int) -> np.ndarray:
    """Load the labels of a dataset.

    Args:
        path:       .npy file with one row of numbers per image.
        num_images: Expected number of rows.

    Returns:
        float32 [num_images, label_size].

    Raises:
        UserError: The file cannot be read, or holds something else.
    """
    try:
        with storage.open_file(path) as file:
            labels = _read_npy(file.read())
    except Exception as err:  # A damaged header makes NumPy raise almost anything.
        # NumPy's message about Python objects advises to allow them, which would run whatever the file says.
        reason = 'it holds Python objects' if 'allow_pickle' in str(err) else (
            (str(err) or type(err).__name__).splitlines()[0][:200])
        raise UserError(f'{path} is not a readable .npy file of numbers: {reason}', _REMEDY) from err
    if labels.ndim != 2 or labels.shape[0] != num_images or labels.dtype.kind not in 'fiub':
        raise UserError(f'{path}: expected one row of numbers for each of {num_images} images, '
                        f'found {labels.dtype} {list(labels.shape)}', _REMEDY)
    labels = labels.astype(np.float32)
    if not np.isfinite(labels).all():
        row = np.flatnonzero(~np.isfinite(labels).all(axis=1))[0]
        raise UserError(f'{path}: the label of image {row} is not finite (NaN or infinity)', _REMEDY)
    return labels


def _read_npy(content):
    """The array in the bytes of an .npy file.

    NumPy would allocate what the header says before it looks for the data.
    """
    file = io.BytesIO(content)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, is_fortran, dtype = readers[np.lib.format.read_magic(file)](file)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError('it holds something else than numbers')
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes > len(content) - file.tell():
        raise ValueError(f'its header describes {num_bytes} bytes, but {len(content) - file.tell()} follow')
    return np.ndarray(shape, dtype, content, file.tell(), order='F' if is_fortran else 'C')


def load_class_names(path: str | os.PathLike) -> list[str]:
    """Load the names of the classes from a *-classes.json file.

    Raises:
        UserError: The file is not a JSON list of strings.
    """
    try:
        with storage.open_file(path) as file:
            names = json.loads(file.read())
    except (ValueError, RecursionError) as err:
        raise UserError(f'{path} is not readable JSON: {str(err).splitlines()[0][:200]}', _REMEDY) from err
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f'{path}: expected a list of the names of the classes', _REMEDY)
    return names
