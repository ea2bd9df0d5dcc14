"""Multi-resolution TFRecord datasets on disk: file format, writer, checked reader. Needs no TensorFlow.

A dataset is a folder NAME of

    NAME-r10.tfrecords ... NAME-r02.tfrecords   every image at 1024x1024, 512x512, ... 4x4, in the same order
    NAME-rxx.labels                             optional .npy array, float32 [num_images, label_size]

Each record is a `tf.train.Example` with `shape` = int64 [C, H, W] and `data` = the uint8 pixels, CHW, as raw bytes.
"""

import contextlib
import dataclasses
import glob
import os
import pathlib
import re
import shutil
import struct

import google_crc32c
import numpy as np

from dnnlib.cli import UserError

_REMEDY = 'Make the dataset again with dataset_tool.py, or copy it anew.'


# ---- Records in a file: uint64 length, crc of the length, data, crc of the data ----
# https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details

_FRAME_BYTES = 16  # what a record takes up beside its data


def _masked_crc(data):
    """CRC-32C of `data`, rotated and offset as the TFRecord format asks -> uint32."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff


def frame_record(data):
    """`data` (bytes) as it stands in a .tfrecords file -> bytes."""
    length = struct.pack('<Q', len(data))
    return b''.join([length, struct.pack('<I', _masked_crc(length)), data, struct.pack('<I', _masked_crc(data))])


def _damaged(path, number, what):
    return UserError(f'{path}: record {number} is damaged ({what})', _REMEDY)


def _record_lengths(file, path):
    """For each record, leave `file` at the start of its data and yield the length in bytes. Reads the headers only."""
    size = os.fstat(file.fileno()).st_size
    offset = number = 0
    while offset < size:
        file.seek(offset)
        header = file.read(12)
        if len(header) < 12:
            raise _damaged(path, number, 'the file ends inside it')
        length, crc = struct.unpack('<QI', header)
        if _masked_crc(header[:8]) != crc:
            raise _damaged(path, number, 'the checksum of its length does not match')
        offset += length + _FRAME_BYTES
        if offset > size:
            raise _damaged(path, number, 'the file ends inside it')
        yield length
        number += 1


def read_records(path):
    """Yield the data of each record of the file `path` as bytes, checksums verified.

    Raises:
        UserError: A record is damaged; the message names the file and the number of the record, from 0.
    """
    with open(path, 'rb') as file:
        for number, length in enumerate(_record_lengths(file, path)):
            data = file.read(length)
            if struct.pack('<I', _masked_crc(data)) != file.read(4):
                raise _damaged(path, number, 'the checksum of its data does not match')
            yield data


# ---- Images in a record: protobuf wire format of tf.train.Example ----
# Example { Features features = 1 { map<string, Feature> feature = 1 } }
# Feature { BytesList bytes_list = 1 | FloatList float_list = 2 | Int64List int64_list = 3 }, lists: repeated value = 1
# https://protobuf.dev/programming-guides/encoding/

def _varint(value):
    encoded = bytearray()
    while value > 0x7f:
        encoded.append(value & 0x7f | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _field(number, payload):
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def encode_example(image):
    """uint8 [C, H, W] -> bytes of the tf.train.Example, the features in the order of their names: same image, same bytes."""
    data = _field(1, _field(1, image.tobytes()))
    shape = _field(3, _field(1, b''.join(map(_varint, image.shape))))
    features = [_field(1, _field(1, name) + _field(2, feature)) for name, feature in [(b'data', data), (b'shape', shape)]]
    return _field(1, b''.join(features))


def _read_varint(message, position):
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        value |= (byte & 0x7f) << shift
        position += 1
        shift += 7
        if byte < 0x80:
            return value, position
    raise ValueError('unfinished number')


def _fields(message):
    """Yield (number, value) of each field of a protobuf message (memoryview): int for a varint, memoryview for bytes."""
    if not isinstance(message, memoryview):
        raise ValueError('a number where a message belongs')
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        value, position = _read_varint(message, position)
        if tag & 7 == 2:
            end = position + value
            if end > len(message):
                raise ValueError('field longer than its message')
            value, position = message[position:end], end
        elif tag & 7 != 0:
            raise ValueError(f'unexpected field type {tag & 7}')
        yield tag >> 3, value


def _int64_list(message):
    """Values of an Int64List, packed or one by one."""
    values = []
    for _, value in _fields(message):
        if isinstance(value, int):
            values.append(value)
            continue
        position = 0
        while position < len(value):
            number, position = _read_varint(value, position)
            values.append(number)
    return values


def decode_example(record):
    """Bytes of a tf.train.Example with features `shape` and `data` in any order -> uint8 [C, H, W].

    Raises:
        ValueError: It is no such Example.
    """
    shape = data = None
    for _, features in _fields(memoryview(record)):
        for _, entry in _fields(features):
            entry = dict(_fields(entry))
            feature = dict(_fields(entry[2])) if 2 in entry else {}
            if entry.get(1) == b'shape' and 3 in feature:
                shape = _int64_list(feature[3])
            elif entry.get(1) == b'data' and 1 in feature:
                data = dict(_fields(feature[1])).get(1)
    if shape is None or not isinstance(data, memoryview):
        raise ValueError('it lacks the features "shape" (int64) and "data" (bytes)')
    if len(shape) != 3 or min(shape) < 1 or shape[0] * shape[1] * shape[2] != len(data):
        raise ValueError(f'shape {shape} does not fit {len(data)} bytes')
    return np.frombuffer(data, np.uint8).reshape(shape)


def read_images(path):
    """Yield each image of the file `path` as uint8 [C, H, W] (read-only). Raises UserError as `read_records` does."""
    for number, record in enumerate(read_records(path)):
        yield _decode_record(path, number, record)


def _decode_record(path, number, record):
    try:
        return decode_example(record)
    except ValueError as err:
        raise _damaged(path, number, f'not an image: {err}') from err


# ---- Datasets: finding and checking one ----

@dataclasses.dataclass(frozen=True)
class DatasetFiles:
    """What `find_dataset` found."""
    levels: dict          # log2 of the resolution -> path of the .tfrecords file; from 2 upwards without a gap.
    channels: int
    num_images: int
    label_file: str       # First *.labels file; None = there is none.

    @property
    def resolution_log2(self):
        return max(self.levels)

    @property
    def largest(self):
        """Path of the file of the largest images."""
        return self.levels[self.resolution_log2]


def find_dataset(tfrecord_dir):
    """Look through the folder `tfrecord_dir` and check what can be checked without reading it all -> DatasetFiles.

    Raises:
        UserError: No such folder, no .tfrecords in it, a level is missing, damaged, or does not fit the others.
    """
    if not os.path.isdir(tfrecord_dir):
        raise UserError(f'dataset folder {tfrecord_dir} not found', 'Check the name; dataset_tool.py makes datasets.')
    paths = sorted(glob.glob(os.path.join(glob.escape(tfrecord_dir), '*.tfrecords')))
    if not paths:
        raise UserError(f'no .tfrecords files in {tfrecord_dir}', 'Make a dataset from images with: dataset_tool.py create_from_images')
    levels = {}
    for path in paths:
        count, channels, resolution_log2 = _inspect_level(path)
        if resolution_log2 in levels:
            raise UserError(f'{path} and {levels[resolution_log2]} both hold images of {2 ** resolution_log2}x{2 ** resolution_log2}',
                            'A dataset has one file per resolution; keep each dataset in its own folder.')
        if not levels:
            first = path, count, channels
        if (count, channels) != first[1:]:
            raise UserError(f'{path} holds {count} images of {channels} channels, but {first[0]} holds {first[1]} of {first[2]}', _REMEDY)
        levels[resolution_log2] = path
    for level in range(2, max(levels)):
        if level not in levels:
            raise UserError(f'{tfrecord_dir} has no images of {2 ** level}x{2 ** level} (file NAME-r{level:02d}.tfrecords)', _REMEDY)
    labels = sorted(glob.glob(os.path.join(glob.escape(tfrecord_dir), '*.labels')))
    return DatasetFiles(levels, first[2], first[1], labels[0] if labels else None)


def _inspect_level(path):
    """Number of images, channels and log2 of the resolution of one .tfrecords file."""
    with open(path, 'rb') as file:
        length = next(_record_lengths(file, path), None)
        if length is None:
            raise UserError(f'{path} is empty', _REMEDY)
    channels, height, width = next(read_images(path)).shape
    resolution_log2 = width.bit_length() - 1
    if height != width or width != 2 ** resolution_log2 or width < 4:
        raise UserError(f'{path} holds images of {width}x{height}, expected squares with a power of two, 4 or above, as side', _REMEDY)
    name = re.search(r'-r(\d\d)\.tfrecords$', path)
    if name and int(name[1]) != resolution_log2:
        raise UserError(f'{path} holds images of {width}x{height}, expected {2 ** int(name[1])}x{2 ** int(name[1])} from its name',
                        'Give the file its old name back.')
    # Images of one shape make records of one length, so the size of the file tells their number, and the last record
    # should stand where it says. Only if it does not are the headers walked through: either that finds the damage, or
    # the records carry something more than images, which is no fault.
    number, rest = divmod(os.path.getsize(path), length + _FRAME_BYTES)
    if rest or not _same_record_at(path, (number - 1) * (length + _FRAME_BYTES), length):
        with open(path, 'rb') as file:
            number = sum(1 for _ in _record_lengths(file, path))
    return number, channels, resolution_log2


def _same_record_at(path, offset, length):
    """Whether a record of that length, with good checksums, starts at `offset`."""
    with open(path, 'rb') as file:
        file.seek(offset)
        frame = file.read(length + _FRAME_BYTES)
    return frame[:8] == struct.pack('<Q', length) and frame == frame_record(frame[12:-4])


def load_labels(path, num_images):
    """.npy file `path` -> float32 [num_images, label_size]. Raises UserError if it is anything else."""
    try:
        with open(path, 'rb') as file:
            labels = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as err:  # A damaged header makes NumPy raise almost anything.
        raise UserError(f'{path} is not a readable .npy file of numbers: {err}', _REMEDY) from err
    if labels.ndim != 2 or labels.shape[0] != num_images or labels.dtype.kind not in 'fiub':
        raise UserError(f'{path}: expected one row of numbers for each of {num_images} images, found {labels.dtype} {list(labels.shape)}',
                        _REMEDY)
    return labels.astype(np.float32)


# ---- Datasets: writing one ----

def shuffled_order(num_images):
    """The order in which the original's tools store shuffled images: int64 [num_images]."""
    order = np.arange(num_images)
    np.random.RandomState(123).shuffle(order)
    return order


class DatasetWriter:
    """Appends images to all levels of a dataset. Use `new_dataset`, which sees to it that no half dataset is left.

    Args:
        folder: Existing folder to write into.
        name:   First part of the file names.
    """

    def __init__(self, folder, name):
        self.num_images = 0
        self._prefix = os.path.join(folder, name)
        self._shape = None  # Of the first image, which all others must share.
        self._files = []    # From the largest level down to 4x4,
        self._open_files = contextlib.ExitStack()  # to be closed together.

    def add_image(self, image):
        """Append an image to every level.

        Args:
            image: [C, R, R] with values in 0..255, any number type; R a power of two, 4 or above; C, R as in the first image.

        Each level is the 2x2 box mean of the one above, before that was rounded; then rounded half to even.
        """
        if self._shape is None:
            self._open_levels(image.shape)
        if image.shape != self._shape:
            raise ValueError(f'expected an image of shape {list(self._shape)}, as the first one, got {list(image.shape)}')
        level = image.astype(np.float32)
        for number, file in enumerate(self._files):
            if number > 0:
                level = (level[:, 0::2, 0::2] + level[:, 0::2, 1::2] + level[:, 1::2, 0::2] + level[:, 1::2, 1::2]) * np.float32(0.25)
            file.write(frame_record(encode_example(np.rint(level).clip(0, 255).astype(np.uint8))))
        self.num_images += 1

    def _open_levels(self, shape):
        resolution_log2 = shape[-1].bit_length() - 1
        if len(shape) != 3 or shape[1] != shape[2] or shape[1] != 2 ** resolution_log2 or shape[1] < 4:
            raise ValueError(f'expected an image of shape [C, R, R], R a power of two and 4 or above, got {list(shape)}')
        self._shape = shape
        for level_log2 in range(resolution_log2, 1, -1):
            file = open(f'{self._prefix}-r{level_log2:02d}.tfrecords', 'wb', buffering=1 << 20)  # noqa: SIM115 - close() does
            self._files.append(self._open_files.enter_context(file))

    def add_labels(self, labels):
        """Store the labels of the images added: [num_images, label_size], any number type, kept as float32."""
        if np.ndim(labels) != 2 or len(labels) != self.num_images:
            raise ValueError(f'expected labels of shape [{self.num_images}, label_size], got {list(np.shape(labels))}')
        with open(f'{self._prefix}-rxx.labels', 'wb') as file:
            np.save(file, np.asarray(labels, np.float32))

    def close(self):
        self._open_files.close()


@contextlib.contextmanager
def new_dataset(tfrecord_dir, force=False):
    """Context of a DatasetWriter for the dataset `tfrecord_dir`, which appears when the context ends without an error.

    Args:
        tfrecord_dir: Folder to make; its last part names the files.
        force:        Replace the dataset that may be there?

    Raises:
        UserError: The folder holds something, or no image was added.
    """
    name = os.path.basename(os.path.abspath(tfrecord_dir))
    with new_folder(tfrecord_dir, r'.*\.(tfrecords|labels)' if force else None) as partial:
        with contextlib.closing(DatasetWriter(partial, name)) as writer:
            yield writer
        if writer.num_images == 0:
            raise UserError(f'there are no images to put into {tfrecord_dir}', 'Check the source of the images.')


@contextlib.contextmanager
def new_folder(target, replaceable=None):
    """Context of a temporary folder that becomes `target` if the context ends well, and vanishes if it does not.

    Args:
        target:      Folder to make; one that is there must be empty.
        replaceable: Regular expression: files of such names may be in `target` and are replaced. None = none may.

    Raises:
        UserError: `target` holds something else, or is no folder.
    """
    place = os.path.realpath(target)
    _check_replaceable(target, place, replaceable)
    partial = f'{place}.partial-{os.getpid()}'  # Beside the target, so that a rename is enough in the end.
    missing_parents = [parent for parent in pathlib.Path(partial).parents if not parent.exists()]
    os.makedirs(partial)
    try:
        yield partial
        _check_replaceable(target, place, replaceable)
        _move_into_place(partial, place)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(partial, ignore_errors=True)
        for parent in missing_parents:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def _check_replaceable(target, place, replaceable):
    if os.path.lexists(place) and not os.path.isdir(place):
        raise UserError(f'{target} exists and is not a folder', 'Give another name.')
    if os.path.ismount(place):
        raise UserError(f'{target} is a mount point, which cannot be replaced', 'Name a folder inside it.')
    for name in sorted(os.listdir(place)) if os.path.isdir(place) else []:
        if replaceable is None:
            raise UserError(f'{target} exists and is not empty', 'Give another folder, or --force to replace what is in it.')
        if not re.fullmatch(replaceable, name):
            raise UserError(f'{target} holds {name}, which --force does not replace', 'Give another folder, or remove this one yourself.')


def _move_into_place(partial, place):
    if not os.path.isdir(place):
        os.replace(partial, place)
        return
    old = f'{place}.old-{os.getpid()}'
    os.replace(place, old)
    try:
        os.replace(partial, place)
    except BaseException:
        os.replace(old, place)
        raise
    shutil.rmtree(old)
