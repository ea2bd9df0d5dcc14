"""Reads the weights in a PyTorch file (.pth) without PyTorch, and without running code from it.

There are two formats. Since PyTorch 1.6 the file is a zip archive: `data.pkl` describes the tensors, and `data/KEY`
holds the numbers of each storage, uncompressed. The old format is a sequence of three small pickles, the pickle that
describes the tensors, a pickle with the keys of the storages, and the storages, each preceded by its length. The
pickles are read by `dnnlib.pickles.reader`, with a table of the names that they may mention.

The network pickles of StyleGAN2's successors hold their tensors in the old format: dnnlib/pickles/torch_networks.py.
"""

from __future__ import annotations

import dataclasses
import math
import os
import struct
import zipfile
from typing import Any

import numpy as np

from dnnlib.cli import UserError
from dnnlib.pickles.reader import DAMAGED, GLOBALS, MAX_DIMS, MAX_OPCODES, BoundedStream, Global, Reader, Refusal

FOREIGN = ('Expected a dictionary of tensors as torch.save(model.state_dict(), path) writes. '
           'No code in the file was run.')

_MAGIC = 0x1950a86a20f9469cfc6c    # First pickle of the old format.
_PROTOCOL = 1001                   # Second pickle.

_DTYPES = {'Double': 'f8', 'Float': 'f4', 'Half': 'f2', 'Long': 'i8', 'Int': 'i4', 'Short': 'i2', 'Char': 'i1',
           'Byte': 'u1', 'Bool': '?'}

# Names that the pickle may mention -> method of the reader, as in dnnlib.pickles.reader.GLOBALS.
_GLOBALS = {
    'collections.OrderedDict':         'make_ordered_dict',
    'torch._utils._rebuild_tensor':    'make_tensor',
    'torch._utils._rebuild_tensor_v2': 'make_tensor',
    'torch._utils._rebuild_parameter': 'make_parameter',
    **{f'torch.{name}Storage': 'make_nothing' for name in _DTYPES},  # Only arguments, never called.
    **{name: method for name, method in GLOBALS.items() if method == 'make_latin1_bytes'},
}


@dataclasses.dataclass(frozen=True)
class Storage:
    """Numbers stored elsewhere in the file."""
    key: str
    dtype: str
    length: int     # Number of numbers.


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides are in numbers, not bytes."""
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def load(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read the tensors of a PyTorch file.

    Args:
        path: File with a `state_dict`: a dictionary of names and tensors or parameters, and nothing else.

    Returns:
        Name -> read-only array with the values, shape and strides of the tensor. The arrays are memory-mapped. Types:
        float64, float32, float16, integers, booleans.

    Raises:
        UserError: The file cannot be read, is damaged, has another format, or contains something else.
    """
    try:
        with open(path, 'rb') as file:
            head = file.read(4)
            if not head:
                raise Refusal('is empty', DAMAGED)
            data = np.memmap(path, np.uint8, 'r')
            tensors, storages, order = _read_zip(file, data) if head == b'PK\x03\x04' else _read_old_file(data)
        return {name: view_of(tensor, storages.get(tensor.storage.key, data[:0]), order, ascii(name[:100]))
                for name, tensor in tensors.items()}
    except OSError as err:
        raise UserError(f'{path}: cannot be read: {err.strerror}', 'Check the path of the weights.') from None
    except Refusal as err:
        fact, remedy = err.args
    except (ValueError, TypeError, LookupError, ArithmeticError, MemoryError, NotImplementedError, struct.error,
            zipfile.BadZipFile) as err:
        reason = (str(err) or type(err).__name__).splitlines()[0][:150]
        fact, remedy = f'is no readable PyTorch file ({reason})', DAMAGED
    raise UserError(f'{path}: {fact}', remedy)


# ---- The two formats ----

def _read_zip(file, data):
    """Read the new format: (name -> Tensor, key -> bytes of a storage, byte order '<' or '>')."""
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        described = [name for name in entries if name.count('/') == 1 and name.endswith('/data.pkl')]
        if len(described) != 1:
            raise Refusal('is a zip archive, but not one of PyTorch', FOREIGN)
        root = described[0].removesuffix('data.pkl')
        begins = {name.removeprefix(root): _begin(info, file)
                  for name, info in entries.items() if name.startswith(root)}
        parts = {name: data[begin:begin + entries[root + name].file_size] for name, begin in begins.items()}
    order = parts['byteorder'].tobytes() if 'byteorder' in parts else b'little'
    if order not in (b'little', b'big'):
        raise Refusal('has an unknown byte order', FOREIGN)
    tensors = _Unpickler(BoundedStream(parts['data.pkl'])).load()
    storages = {name.removeprefix('data/'): part for name, part in parts.items() if name.startswith('data/')}
    return tensors, storages, '<' if order == b'little' else '>'


def _begin(info, file):
    """Offset in the file of the data of a zip entry."""
    # PyTorch never compresses, and the size of a compressed entry would be unlimited.
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
        raise Refusal('has compressed or encrypted parts', FOREIGN)
    file.seek(info.header_offset)
    header = file.read(30)  # The local header, whose lengths may differ from those in the central directory.
    if header[:4] != b'PK\x03\x04':
        raise Refusal('has a part that is not where its table says', DAMAGED)
    return info.header_offset + 30 + sum(struct.unpack('<HH', header[26:30]))


def _read_old_file(data):
    """Read the format before PyTorch 1.6; returns the same as `_read_zip`."""
    if data[257:262].tobytes() == b'ustar':
        raise Refusal('is of the form that PyTorch wrote before version 0.2',
                      'Load it and save it again with a later PyTorch.')
    stream = BoundedStream(data)
    order = read_order(stream)
    tensors, storages, _end = read_old(stream, data, order, _Unpickler)
    return tensors, storages, order


def read_order(stream: BoundedStream, max_opcodes: int = MAX_OPCODES) -> str:
    """Read the beginning of the format before PyTorch 1.6, and return the byte order of the numbers, '<' or '>'.

    Raises:
        Refusal:   The data has another format.
        Exception: It is damaged: whatever pickletools, numpy or an empty stack raise.
    """
    magic, protocol, info = (_run(_PlainReader(stream), max_opcodes) for _ in range(3))
    if magic != _MAGIC or protocol != _PROTOCOL:
        raise Refusal('is no PyTorch file', FOREIGN)
    return '<' if info['little_endian'] is True else '>'


def read_old(stream: BoundedStream, data: np.ndarray, order: str, reader: type[StorageReader],
             max_opcodes: int = MAX_OPCODES) -> tuple[Any, dict[str, np.ndarray], int]:
    """Read what follows `read_order`.

    Args:
        stream:      The file, after its beginning.
        data:        The whole file as uint8 array.
        order:       Byte order.
        reader:      Class that reads the pickle with the contents.
        max_opcodes: Largest number of instructions of each of its pickles.

    Returns:
        contents: What the pickle of the contents holds, checked by the `check` of its reader.
        storages: Key -> bytes of a storage, uint8.
        end:      Offset of the first byte after the storages.

    Raises:
        Refusal:   The data contains something that is not allowed.
        Exception: It is damaged: whatever pickletools, numpy or an empty stack raise.
    """
    unpickler = reader(stream)
    contents = _run(unpickler, max_opcodes)
    unpickler.check(contents)
    keys = _run(_PlainReader(stream), max_opcodes)
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise TypeError('keys of the storages are no list of strings')
    storages, begin = {}, stream.position
    for key in keys:
        header = data[begin:begin + 8].tobytes()
        if len(header) < 8:
            raise Refusal('ends before the numbers of its storages', DAMAGED)
        length, = struct.unpack(order + 'q', header)
        if key not in unpickler.storages or length != unpickler.storages[key].length:
            raise Refusal(f'has a storage of {length} numbers that no tensor knows', DAMAGED)
        begin, end = begin + 8, begin + 8 + length * np.dtype(unpickler.storages[key].dtype).itemsize
        storages[key] = data[begin:end]
        begin = end
    return contents, storages, begin


def _run(reader, max_opcodes):
    reader.max_opcodes = max_opcodes
    return reader.run()


def view_of(tensor: Tensor, data: np.ndarray, order: str, name: str) -> np.ndarray:
    """Read-only view of the numbers of a tensor.

    Args:
        tensor: Tensor.
        data:   Bytes of its storage, uint8.
        order:  Byte order of the numbers, '<' or '>'.
        name:   Name of the tensor for messages.

    Raises:
        Refusal: The tensor reaches beyond its numbers, or its numbers overlap.
    """
    storage = tensor.storage
    dtype = np.dtype(order + storage.dtype)
    data = data[:storage.length * dtype.itemsize]
    if len(data) < storage.length * dtype.itemsize:
        raise Refusal(f'lacks numbers of {name}', DAMAGED)
    # The numbers of a tensor do not overlap, so that there are no more of them than in the storage.
    count = math.prod(tensor.shape)
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if count > storage.length or (count and last >= storage.length):
        raise Refusal(f'has a tensor {name} that reaches beyond its numbers', DAMAGED)
    if not count:
        return np.zeros(tensor.shape, dtype)
    numbers = np.asarray(data).view(dtype)[tensor.offset:]
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides, writeable=False)


def make_tensor(storage: Storage, offset: Any, shape: Any, strides: Any) -> Tensor:
    """The tensor that a pickle describes. Raises an error unless shape and strides are tuples of sizes."""
    if type(shape) is not tuple or type(strides) is not tuple:
        raise TypeError('tensor without shape or strides')
    if len(shape) > MAX_DIMS or len(strides) != len(shape) or not all(map(_is_size, (offset, *shape, *strides))):
        raise ValueError(f'shape and strides of a tensor are not two tuples of up to {MAX_DIMS} sizes')
    return Tensor(storage, offset, shape, strides)


class _PlainReader(Reader):
    """Reader of a pickle that mentions no names at all."""

    allowed = {}


class StorageReader(Reader):
    """Reader of a pickle that refers to storages by persistent ids.

    Attributes:
        storages: Key -> Storage that the pickle refers to.
    """

    def __init__(self, stream: BoundedStream):
        super().__init__(stream)
        self.storages: dict[str, Storage] = {}

    def execute_object_opcode(self, name: str, arg: Any) -> None:
        """As in `Reader`, with the persistent ids that refer to storages."""
        if name == 'BINPERSID':
            self.stack.append(self.find_storage(*self.pop(1)))
        else:
            super().execute_object_opcode(name, arg)

    def find_storage(self, description: Any) -> Storage:
        """Return the storage that a persistent id describes."""
        if type(description) is not tuple or len(description) not in (5, 6) or description[0] != 'storage':
            raise Refusal('refers to something that is no storage of numbers', FOREIGN)
        _storage, kind, key, _device, length = description[:5]
        if description[5:] not in ((), (None,)):
            raise Refusal('has storages that share their numbers', 'Load it and save it again with a later PyTorch.')
        kind = kind.name.removeprefix('torch.').removesuffix('Storage') if isinstance(kind, Global) else None
        dtype = _DTYPES.get(kind or '')
        if dtype is None or type(key) is not str or not _is_size(length):
            raise TypeError('storage without type, key or length')
        storage = Storage(key, dtype, length)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError('storage described twice')
        return storage


class _Unpickler(StorageReader):
    """Reader of the pickle that describes the tensors."""

    allowed = _GLOBALS

    def check(self, value: Any, depth: int = 0) -> None:
        """Refuse results other than a dict of tensors."""
        if not isinstance(value, dict) or not value:
            raise Refusal(f'holds a {type(value).__name__}, not a dictionary of tensors', FOREIGN)
        for name, tensor in value.items():
            if not isinstance(tensor, Tensor):
                raise Refusal(f'has {ascii(name[:100])} of type {type(tensor).__name__} among its tensors', FOREIGN)

    def set_state(self, target: Any, state: Any) -> None:
        """As in `Reader`, but ignore the attribute of the dictionary that holds the versions of PyTorch's modules."""
        if not isinstance(target, dict):
            super().set_state(target, state)

    # ---- Meaning of the allowed names ----

    def make_tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_options: Any) -> Tensor:
        if not isinstance(storage, Storage):
            raise TypeError('tensor without storage')
        return make_tensor(storage, offset, shape, strides)

    def make_parameter(self, tensor: Any, *_options: Any) -> Tensor:
        if not isinstance(tensor, Tensor):
            raise TypeError('parameter without tensor')
        return tensor


def _is_size(value):
    return type(value) is int and 0 <= value < 2**60
