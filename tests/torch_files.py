"""Writes PyTorch files of both forms without PyTorch, whole or with a part of one's own in them."""

import pickle
import struct
import zipfile

import numpy as np

STORAGES = {
    'f8': 'Double',
    'f4': 'Float',
    'f2': 'Half',
    'i8': 'Long',
    'i4': 'Int',
    'i2': 'Short',
    'i1': 'Char',
    'u1': 'Byte',
    'b1': 'Bool',
}


class Raw(bytes):
    """Instructions that stand for themselves."""


def code(value):
    """Instructions that put a value on the stack: None, bool, int, float, str, list, tuple, dict or Raw."""
    match value:
        case Raw():
            return bytes(value)
        case None:
            return b'N'
        case bool():
            return b'\x88' if value else b'\x89'
        case int():
            data = pickle.encode_long(value)
            return b'\x8a' + bytes([len(data)]) + data
        case float():
            return b'G' + struct.pack('>d', value)
        case str():
            return b'X' + struct.pack('<I', len(value.encode())) + value.encode()
        case tuple() | list():
            return b'(' + b''.join(map(code, value)) + (b't' if isinstance(value, tuple) else b'l')
        case dict():
            return b'}(' + b''.join(code(part) for pair in value.items() for part in pair) + b'u'
    raise TypeError(type(value))


def storage(key, kind='Float', length=4):
    """The reference to a storage."""
    return Raw(code(('storage', Raw(f'ctorch\n{kind}Storage\n'.encode()), key, 'cpu', length)) + b'Q')


def tensor(storage_, offset=0, shape=(4,), strides=(1,)):
    """A call that makes a tensor."""
    args = (storage_, offset, shape, strides, False, Raw(b'ccollections\nOrderedDict\n)R'))
    return Raw(b'ctorch._utils\n_rebuild_tensor_v2\n' + code(args) + b'R')


def whole(value):
    """A pickle."""
    return b'\x80\x02' + code(value) + b'.'


def describe(arrays):
    """(pickle, bytes of each storage) of a dict of name -> array."""
    tensors, data = {}, {}
    for i, (name, array) in enumerate(arrays.items()):
        array = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
        strides = tuple(stride // array.itemsize for stride in array.strides)
        tensors[name] = tensor(storage(str(i), STORAGES[array.dtype.str[1:]], array.size), 0, array.shape, strides)
        data[str(i)] = memoryview(array.reshape(-1).view(np.uint8))
    return whole(tensors), data


def write_new(path, description, data, **more):
    """The form of a zip archive. more: further entries, name -> bytes."""
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', description)
        for name, content in {**{f'data/{key}': content for key, content in data.items()}, **more}.items():
            archive.writestr(f'archive/{name}', content)


def write_old(path, description, data, itemsize=4, little_endian=True):
    """The form before PyTorch 1.6, of numbers of `itemsize` bytes."""
    with open(path, 'wb') as file:
        for part in (
            0x1950A86A20F9469CFC6C,
            1001,
            {'protocol_version': 1001, 'little_endian': little_endian, 'type_sizes': {'int': 4}},
        ):
            file.write(whole(part))
        file.write(description + whole(list(data)))
        for content in data.values():
            file.write(struct.pack('<q' if little_endian else '>q', len(content) // itemsize))
            file.write(content)


def save(path, arrays):
    """Dict of name -> array as a PyTorch file of the new form."""
    write_new(path, *describe(arrays))
