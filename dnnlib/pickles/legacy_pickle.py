"""Reads and writes network pickles without running code from them, and without TensorFlow or PyTorch.

Reading uses `dnnlib.pickles.reader`, which supports only data. Pickles of StyleGAN2's successors in PyTorch are
translated (dnnlib/pickles/torch_networks.py). Writing emits the instructions of the pickle directly,
because `pickle` would have to import the class of the original to name it. It uses no memo, so that equal objects give
equal bytes.
"""

from __future__ import annotations

import dataclasses
import io
import mmap
import os
import pickle
import struct
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from dnnlib import storage
from dnnlib.cli import UserError
from dnnlib.pickles.network_state import DIGEST_KEY, MODULE_KEY, SHAPE_KEYS, WRITE_VERSION, NetworkState
from dnnlib.pickles.progan import rename_averages
from dnnlib.pickles.reader import DAMAGED, MAX_DEPTH, BoundedStream, Global, Refusal
from dnnlib.pickles.torch_networks import SnapshotReader, to_networks

__all__ = ['NetworkState', 'load', 'dump', 'network_fields']

# First bytes of other files that are sometimes named .pkl.
_OTHER_FORMATS = {
    b'PK\x03\x04': ('is a zip archive or a PyTorch file',
                    'Unzip it, or use a network pickle that was made with TensorFlow.'),
    b'\x89HDF':    ('is an HDF5 file', 'Use the network pickle instead.'),
    b'\x89PNG':    ('is a PNG picture', 'Use the network pickle instead.'),
    b'\x1f\x8b':   ('is compressed with gzip', 'Unpack it with gunzip first.'),
    b'version https://git-lfs': ('is a Git LFS pointer, not the file itself', 'Fetch the file with: git lfs pull'),
}


def load(file: str | os.PathLike | IO[bytes]) -> Any:
    """Read a pickled object: usually the tuple (G, D, Gs) of `NetworkState`.

    Args:
        file: Path, or binary file object at the beginning of the pickle. Nothing may follow the pickle.

    Returns:
        None, bool, int, float, str, bytes, numeric numpy array or scalar, NetworkState, or list, tuple, dict (with str
        keys), OrderedDict or EasyDict of these. Arrays have the byte order of this machine. Strings of Python 2 are
        decoded as latin1. Networks are read from protocol 2, which the original's oldest files have, and later ones.
        A pickle of PyTorch gives the tuple (G, D, Gs) of `NetworkState`, whose arrays are views of the mapped file.

    Raises:
        UserError: The file cannot be read, is damaged, has another format, or contains something not listed above.
    """
    if isinstance(file, (str, os.PathLike)):
        try:
            with open(file, 'rb') as opened:
                return load(opened)
        except OSError as err:
            raise UserError(f'{file}: cannot be read: {err.strerror}',
                            'Check the path of the network pickle.') from None
    try:
        stream = BoundedStream(_contents(file))
        _refuse_other_formats(stream.head)
        reader, size = SnapshotReader(stream), stream.left
        value = reader.load()
        rename_averages(value)
        return to_networks(value, 2 * size) if reader.has_modules else value
    except Refusal as err:
        fact, remedy = err.args
    except KeyError as err:  # From the memo, or the state of a network.
        fact, remedy = f'is no readable pickle (it refers to {str(err)[:150]}, which is not in it)', DAMAGED
    # From pickletools, numpy, or an empty stack.
    except (ValueError, TypeError, LookupError, ArithmeticError, MemoryError) as err:
        fact, remedy = f'is no readable pickle ({(str(err) or type(err).__name__).splitlines()[0][:150]})', DAMAGED
    raise UserError(f'{getattr(file, "name", "the stream")}: {fact}', remedy)


def dump(obj: Any, path: str | os.PathLike) -> None:
    """Write a pickle (protocol 4) that this module, the original and its PyTorch successors can read.

    The original executes `build_module_src` and takes the function of a network from there by its name. In what
    `training.misc` writes, that is a line that imports the original's own module. The successors read the settings and
    weights only, and this module does not execute anything.

    Equal objects give equal bytes. Arrays refer to `numpy.core.multiarray`, which exists in numpy 1 and 2.

    Args:
        obj:  Any object that `load` returns. Subclasses of dict are written as plain dicts, arrays in C order and
              little-endian, variables without dimensions as numpy scalars, networks as version 4 with a checksum, or
              as version 5 if they have it and `shapes`. Numpy scalars in static_kwargs become plain numbers.
        path: File to write. It appears complete or not at all.

    Raises:
        ValueError: `obj` contains something that `load` would refuse.
        UserError: The file cannot be written.
    """
    storage.write_whole(path, lambda file: _Writer(file.write).dump(obj))


# ---- Reading ----

def _contents(file):
    """The rest of an open file. A file on a disk is mapped, so that the weights of PyTorch are not copied."""
    if type(file) is io.BufferedReader:
        try:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[file.tell():]
        except (OSError, ValueError):  # A pipe, or an empty file.
            pass
    return file.read()


def _refuse_other_formats(head):
    if not head:
        raise Refusal('is empty', DAMAGED)
    if head.lstrip(b'\xef\xbb\xbf \t\r\n').startswith(b'<'):
        raise Refusal('is a web page (HTML), not a pickle',
                      'Open the link in a browser and save the file that it offers.')
    for magic, reason in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise Refusal(*reason)


# ---- Writing ----

class _Writer:
    """Writes the instructions that `pickle` would write for data, but without memo and frames.

    Args:
        write: Called with the bytes of the file, piece by piece.
    """

    def __init__(self, write: Callable[[bytes], object]):
        self.write = write

    def dump(self, obj):
        self.write(pickle.PROTO + bytes([4]))
        self.save(obj)
        self.write(pickle.STOP)

    def save(self, value, depth=0):
        if depth > MAX_DEPTH:
            raise ValueError(f'expected data nested at most {MAX_DEPTH} levels deep')
        match value:
            case None:
                self.write(pickle.NONE)
            case bool():
                self.write(pickle.NEWTRUE if value else pickle.NEWFALSE)
            case int():
                self.save_int(value)
            case str():
                self.save_blob(value.encode('utf-8', 'surrogatepass'),
                               pickle.SHORT_BINUNICODE, pickle.BINUNICODE, pickle.BINUNICODE8)
            case bytes() | bytearray() | memoryview():
                self.save_blob(value, pickle.SHORT_BINBYTES, pickle.BINBYTES, pickle.BINBYTES8)
            case dict():
                if not all(isinstance(key, str) for key in value):
                    raise ValueError(f'expected dictionaries with str keys. Received: keys {list(value)[:5]}')
                self.write(pickle.EMPTY_DICT)
                self.save_items([part for pair in value.items() for part in pair], pickle.SETITEMS, depth)
            case list():
                self.write(pickle.EMPTY_LIST)
                self.save_items(value, pickle.APPENDS, depth)
            case tuple():
                self.save_items(value, pickle.TUPLE, depth)
            case Global():
                module, name = value.name.rsplit('.', 1)
                self.save(module)
                self.save(name)
                self.write(pickle.STACK_GLOBAL)
            case NetworkState() | np.ndarray() | np.generic() | np.dtype():
                self.save_object(value, depth)
            case float():  # Must come after np.generic, because numpy.float64 is a float.
                self.write(pickle.BINFLOAT + struct.pack('>d', value))
            case _:
                raise ValueError('expected numbers, strings, numeric arrays and plain containers. '
                                 f'Received: {type(value).__name__}')

    def save_int(self, value):
        if -2**31 <= value < 2**31:
            self.write(pickle.BININT + struct.pack('<i', value))
            return
        data = pickle.encode_long(value)
        if len(data) > 255:
            raise ValueError('expected integers of at most 255 bytes')
        self.write(pickle.LONG1 + bytes([len(data)]) + data)

    def save_blob(self, data, short, normal, long):
        """Write `data` after its length in 1, 4 or 8 bytes, with the instruction for that."""
        if len(data) < 2**8:
            self.write(short + struct.pack('<B', len(data)))
        elif len(data) < 2**32:
            self.write(normal + struct.pack('<I', len(data)))
        else:
            self.write(long + struct.pack('<Q', len(data)))
        self.write(data)

    def save_items(self, items, opcode, depth):
        self.write(pickle.MARK)
        for item in items:
            self.save(item, depth + 1)
        self.write(opcode)

    def save_object(self, value, depth):
        name, args, state = _describe(value)
        self.save(Global(name))
        self.save(args, depth + 1)
        self.write(pickle.NEWOBJ if isinstance(value, NetworkState) else pickle.REDUCE)
        if state is not None:
            self.save(state, depth + 1)
            self.write(pickle.BUILD)


def network_fields(network: NetworkState) -> dict[str, Any]:
    """Return the state of a network as it is pickled: the original's keys, then those of this project.

    Raises:
        ValueError: A variable is no array of numbers.
    """
    written = dataclasses.replace(
        network, version=5 if network.version == 5 and network.shapes else WRITE_VERSION,
        static_kwargs=_plain(network.static_kwargs),
        variables=[_variable(name, array) for name, array in network.variables])
    return {
        'version':          written.version,
        'name':             written.name,
        'static_kwargs':    written.static_kwargs,
        'components':       written.components,
        'build_module_src': written.build_module_src,
        'build_func_name':  written.build_func_name,
        'variables':        written.variables,
        **({key: (written.shapes or {})[key] for key in SHAPE_KEYS} if written.version == 5 else {}),
        **({MODULE_KEY: written.build_module} if written.build_module else {}),
        DIGEST_KEY:         written.digest(),
        **({} if written.augment_p is None else {'augment_p': float(written.augment_p)}),
    }


def _describe(value):
    """How an object is pickled: (name of the function or class, its arguments, state to set afterwards or None)."""
    if isinstance(value, NetworkState):
        return 'dnnlib.tflib.network.Network', (), network_fields(value)
    if isinstance(value, np.dtype):
        byte_order = '|' if value.itemsize == 1 else '<'
        return 'numpy.dtype', (value.str[1:], False, True), (3, byte_order, None, None, None, -1, -1, 0)
    _check_dtype(value.dtype)
    array = np.asarray(value, value.dtype.newbyteorder('<'), order='C')
    data = array.reshape(-1).view(np.uint8).data  # Without a copy, because weights can be large.
    if isinstance(value, np.generic):
        return 'numpy.core.multiarray.scalar', (array.dtype, data), None
    return ('numpy.core.multiarray._reconstruct', (Global('numpy.ndarray'), (0,), b'b'),
            (1, array.shape, array.dtype, False, data))


def _check_dtype(dtype):
    if dtype.kind not in 'biufc':
        raise ValueError(f'expected arrays of numbers or booleans. Received: dtype {dtype}')


def _variable(name, value):
    if not isinstance(value, (np.ndarray, np.generic)):
        raise ValueError(f'expected variable {name} as a numpy array. Received: {type(value).__name__}')
    _check_dtype(value.dtype)
    return name, np.asarray(value)[()]  # [()] turns an array without dimensions into a scalar.


def _plain(value):
    """`value` with plain containers and plain numbers instead of subclasses and numpy scalars."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value] if isinstance(value, list) else tuple(_plain(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value
