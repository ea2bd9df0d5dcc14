"""Reads the data in a pickle without running any code.

A pickle is a small program: `pickle.load` imports and calls whatever the file names. That cannot happen here, because
no unpickler is used. `pickletools` decodes the file into instructions, and `Reader` executes the few of them that
describe data. `GLOBALS` lists the names that a file may mention; each stands for a method of `Reader` that makes an
empty container or an array from bytes in the file. Any other name is refused. Subclasses of `Reader` allow further
names: dnnlib/pickles/network_state.py, torch_networks.py and torch_weights.py.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import pickletools
import re
from typing import Any

import numpy as np

from dnnlib.util import EasyDict

MAX_OPCODES = 1_000_000  # Instructions in a file; the pickle of a full-size network has about ten thousand.
MAX_DEPTH = 32           # Levels of nested containers; the pickle of a network has about ten.
MAX_DIMS = 32            # Dimensions of an array, the maximum of numpy 1.

DAMAGED = 'The file is damaged or incomplete: download or copy it again.'
FOREIGN = ('Expected a StyleGAN2 network pickle: networks, numeric arrays, plain containers. '
           'No code in the file was run.')


class Refusal(Exception):
    """Reason why a file is not read: fact (without the name of the file) and remedy, as in UserError."""


@dataclasses.dataclass(frozen=True)
class Global:
    """An allowed name on the stack. It is not callable; `Reader.call` interprets it."""
    name: str


# Names that a pickle may mention -> the method of Reader that stands for it. Any other name is refused.
GLOBALS = {
    'dnnlib.util.EasyDict':                'make_easy_dict',
    'dnnlib.EasyDict':                     'make_easy_dict',
    'collections.OrderedDict':             'make_ordered_dict',
    'numpy.ndarray':                       'make_nothing',  # Only an argument of _reconstruct, never called.
    'numpy.dtype':                         'make_dtype',
    'numpy.core.multiarray._reconstruct':  'make_array',
    'numpy._core.multiarray._reconstruct': 'make_array',
    'numpy.core.multiarray.scalar':        'make_scalar',
    'numpy._core.multiarray.scalar':       'make_scalar',
    'numpy.core.numeric._frombuffer':      'make_array_of_buffer',
    'numpy._core.numeric._frombuffer':     'make_array_of_buffer',
    '_codecs.encode':                      'make_latin1_bytes',  # How Python 3 writes bytes in protocol 2.
    '__builtin__.bytes':                   'make_empty_bytes',
    'builtins.bytes':                      'make_empty_bytes',
}

# Instructions that push their own argument onto the stack.
_ARGUMENT_OPCODES = {
    'INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT', 'STRING', 'BINSTRING',
    'SHORT_BINSTRING', 'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'BYTEARRAY8', 'UNICODE', 'BINUNICODE',
    'SHORT_BINUNICODE', 'BINUNICODE8',
}

_BYTES_OPCODES = (b'B', b'\x8e')  # BINBYTES and BINBYTES8, which are followed by four or eight bytes with the size.
_VIEW_BYTES = 2**16               # Shorter byte strings are copied.

_PLAIN_TYPES = (bool, int, float, str, bytes, bytearray, np.ndarray, np.generic)


class BoundedStream:
    """Binary stream that never requests more bytes than there are, whatever length the pickle claims.

    Python allocates memory for the requested size, so that a `read` of 2**40 bytes could end the program.

    Args:
        data: The bytes of the pickle: bytes, a memoryview or a uint8 array. A file can be mapped into memory.

    Attributes:
        head:     The first 64 bytes.
        position: Number of bytes that have been read.
    """

    def __init__(self, data: Any):
        self._data = memoryview(data)
        self.head = bytes(self._data[:64])
        self.position = 0
        self._opcode = b''

    @property
    def left(self) -> int:
        """Number of bytes that have not been read yet."""
        return len(self._data) - self.position

    def read(self, size: int) -> bytes | memoryview:
        """Read up to `size` bytes. Long byte strings of a pickle are views of the data, to spare a copy of weights."""
        view = self._data[self.position:self.position + size]
        self.position += len(view)
        if size >= _VIEW_BYTES and self._opcode in _BYTES_OPCODES:
            return view
        data = view.tobytes()
        if size == 1:  # What is longer than this follows its instruction and its size.
            self._opcode = data
        return data

    def readline(self) -> bytes:
        """Read up to the end of the line."""
        size = 256
        while True:
            line, newline, _rest = self._data[self.position:self.position + size].tobytes().partition(b'\n')
            if newline or size >= self.left:
                self.position += len(line + newline)
                return line + newline
            size *= 2


class Reader:
    """Executes the instructions of a pickle on a stack, as `pickle.Unpickler` does, but only those that describe data.

    Reading a hostile file takes at most seconds, and memory in proportion to the size of the file. Limited are the
    number of instructions, the bytes made from those in the file (twice as many: once for text, once for the array made
    from it), and the depth and size of the result. Keys of dictionaries are str and keys of the memo are small numbers,
    so that nobody can choose colliding ones. Messages show values of the file by `show`, because the repr of nested
    containers can take forever.

    Args:
        stream: The pickle.
    """

    allowed = GLOBALS
    max_opcodes = MAX_OPCODES

    def __init__(self, stream: BoundedStream):
        self.stream = stream
        self.bytes_left = 2 * stream.left
        self.values_left = MAX_OPCODES
        self.stack: list[Any] = []
        self.outer_stacks: list[list[Any]] = []  # One for each open MARK.
        self.memo: dict[int, Any] = {}

    # ---- From a pickle to an object ----

    def load(self) -> Any:
        """Read the whole pickle and check the result.

        Raises:
            Refusal:   The file holds something that is not allowed, or is damaged.
            Exception: The file is damaged: whatever pickletools, numpy or an empty stack raise.
        """
        value = self.run()
        if self.stream.left:
            raise Refusal(f'goes on for {self.stream.left} bytes after the end of the pickle', DAMAGED)
        self.check(value)
        return value

    def run(self) -> Any:
        """Execute the instructions up to the end of the pickle, and return the result without checking it."""
        stream: Any = self.stream  # genops needs only read and readline.
        for count, (opcode, arg, _pos) in enumerate(pickletools.genops(stream)):
            if count >= self.max_opcodes:
                raise Refusal(f'has more than {self.max_opcodes} instructions', FOREIGN)
            if opcode.name in _ARGUMENT_OPCODES:
                self.stack.append(self.take_bytes(arg) if isinstance(arg, memoryview) else arg)
            elif not self.execute_data_opcode(opcode.name, arg):
                self.execute_object_opcode(opcode.name, arg)
        if len(self.stack) != 1 or self.outer_stacks:
            raise ValueError(f'{len(self.stack)} values left at its end, expected 1')
        return self.stack[0]

    def check(self, value: Any, depth: int = 0) -> None:
        """Refuse results that are not a tree of data: names, loops, structures that unfold endlessly.

        The whole result is checked at the end, because containers can change after they were used.
        """
        self.check_size(depth)
        if isinstance(value, (dict, list, tuple)):
            for item in value.values() if isinstance(value, dict) else value:
                self.check(item, depth + 1)
        elif value is not None and not isinstance(value, _PLAIN_TYPES):
            raise Refusal('has a bare class, function or data type among its data', FOREIGN)

    def execute_data_opcode(self, name: str, arg: Any) -> bool:
        """Execute an instruction about plain data. Returns False if it is not one."""
        stack = self.stack
        match name:
            case 'PROTO' | 'FRAME' | 'STOP':
                pass  # Hints: which instructions to expect, how far to read ahead.
            case 'NONE':
                stack.append(None)
            case 'NEWTRUE' | 'NEWFALSE':
                stack.append(name == 'NEWTRUE')
            case 'EMPTY_TUPLE':
                stack.append(())
            case 'EMPTY_LIST':
                stack.append([])
            case 'EMPTY_DICT':
                stack.append({})
            case 'MARK':
                self.outer_stacks.append(stack)
                self.stack = []
            case 'POP' if stack:
                stack.pop()
            case 'POP' | 'POP_MARK':
                self.pop_to_mark()
            case 'DUP':
                stack.append(stack[-1])
            case 'PUT' | 'BINPUT' | 'LONG_BINPUT' if arg <= MAX_OPCODES:
                self.memo[arg] = stack[-1]
            case 'MEMOIZE':
                self.memo[len(self.memo)] = stack[-1]
            case 'GET' | 'BINGET' | 'LONG_BINGET':
                stack.append(self.memo[arg])
            case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
                stack.append(tuple(self.pop(int(name[-1]))))
            case 'TUPLE' | 'LIST' | 'DICT':
                items = self.pop_to_mark()
                self.stack.append(tuple(items) if name == 'TUPLE' else items if name == 'LIST' else {})
                if name == 'DICT':
                    self.set_items(items)
            case 'APPEND':
                self.append_items(self.pop(1))
            case 'APPENDS':
                self.append_items(self.pop_to_mark())
            case 'SETITEM':
                self.set_items(self.pop(2))
            case 'SETITEMS':
                self.set_items(self.pop_to_mark())
            case _:
                return False
        return True

    def execute_object_opcode(self, name: str, arg: Any) -> None:
        """Execute an instruction that names or makes an object; refuse any other."""
        match name:
            case 'GLOBAL':
                self.push_global(arg.replace(' ', '.', 1))
            case 'STACK_GLOBAL':
                self.push_global('.'.join(self.pop(2)))
            case 'REDUCE' | 'NEWOBJ':
                target, args = self.pop(2)
                self.stack.append(self.call(target, args))
            case 'BUILD':
                [state] = self.pop(1)
                self.set_state(self.stack[-1], state)
            case _:
                detail = '' if arg is None else ' ' + show(str(arg).replace(' ', '.', 1))  # Such as INST 'os.system'.
                raise Refusal(f'uses the pickle instruction {name}{detail}, which network pickles do not need', FOREIGN)

    # ---- Parts of the instructions ----

    def take_bytes(self, view: memoryview) -> Any:
        """Return what a long byte string becomes on the stack."""
        return bytes(view)

    def pop(self, count: int) -> list[Any]:
        """Remove the last values from the stack and return them."""
        if len(self.stack) < count:
            raise IndexError('value missing on the stack')
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def pop_to_mark(self) -> list[Any]:
        """Remove all values after the last MARK from the stack and return them."""
        items = self.stack
        self.stack = self.outer_stacks.pop()
        return items

    def append_items(self, items: list[Any]) -> None:
        """Append values to the list on top of the stack."""
        if type(self.stack[-1]) is not list:
            raise TypeError(f'expected a list to append to, found {type(self.stack[-1]).__name__}')
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        """Set key, value, key, value, ... in the dictionary on top of the stack."""
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError('expected a dict and pairs of key and value, '
                            f'found {type(target).__name__} and {len(items)} values')
        for key, value in zip(items[::2], items[1::2]):
            if type(key) is not str:
                raise Refusal(f'has a dictionary key of type {type(key).__name__}; expected str', FOREIGN)
            target[key] = value

    def push_global(self, name: str) -> None:
        """Push an allowed name onto the stack."""
        if name not in self.allowed:
            raise Refusal(f'asks for {show(name)}, which is not allowed', FOREIGN)
        self.stack.append(Global(name))

    def call(self, target: Any, args: Any) -> Any:
        """Return what target(*args) stands for. Both come from the file; the name of a `Global` is in `allowed`."""
        if not isinstance(target, Global) or type(args) is not tuple:
            raise Refusal(f'calls a {type(target).__name__}, which is not allowed', FOREIGN)
        return getattr(self, self.allowed[target.name])(*args)

    def set_state(self, target: Any, state: Any) -> None:
        """Set the state of an array or type on the stack."""
        if isinstance(target, np.ndarray):
            self.fill_array(target, state)
        elif isinstance(target, np.dtype):
            self.fill_dtype(target, state)
        elif not (isinstance(target, EasyDict) and state == {}):  # Python 2 writes an empty state.
            raise Refusal(f'sets the state of a value of type {type(target).__name__}, which has none', FOREIGN)

    # ---- Meaning of the allowed names ----

    def make_easy_dict(self) -> EasyDict:
        return EasyDict()

    def make_ordered_dict(self, pairs: Any = ()) -> collections.OrderedDict:
        self.stack.append(collections.OrderedDict())
        self.count_values(len(pairs))
        for name, value in pairs:  # Python 2 passes a list of pairs, Python 3 sets items afterwards.
            self.set_items([name, value])
        return self.stack.pop()

    def make_nothing(self, *args: Any) -> None:
        raise Refusal('makes a numpy.ndarray in an unknown way', FOREIGN)

    def make_dtype(self, code: Any, align: Any = False, copy: Any = True) -> np.dtype:
        if type(code) is not str or not re.fullmatch(r'[biufc][0-9]{1,2}', code):
            raise Refusal(f'holds an array of type {show(code)}; expected numbers or booleans', FOREIGN)
        # Always a copy, because fill_dtype changes it and NumPy's own is shared.
        return np.dtype(code, False, True)

    def fill_dtype(self, dtype: np.dtype, state: Any) -> None:
        byte_order, details = state[1], state[2:5]
        if byte_order not in ('<', '>', '=', '|') or tuple(details) != (None, None, None):
            raise Refusal('holds an array of a structured type; expected numbers or booleans', FOREIGN)
        untyped: Any = dtype  # NumPy's stubs lack __setstate__.
        untyped.__setstate__((3, byte_order, None, None, None, -1, -1, 0))

    def make_array(self, subtype: Any, shape: Any, typecode: Any) -> np.ndarray:
        if not isinstance(subtype, Global) or subtype.name != 'numpy.ndarray':
            raise Refusal('holds an array of an unknown class; expected numpy.ndarray', FOREIGN)
        return np.empty([0], np.int8)  # A placeholder, as are `shape` and `typecode`; fill_array sets the contents.

    def fill_array(self, array: np.ndarray, state: Any) -> None:
        _version, shape, dtype, is_fortran, data = state
        is_shape = type(shape) is tuple and all(type(size) is int and size >= 0 for size in shape)
        if not is_shape or len(shape) > MAX_DIMS:
            raise TypeError(f'shape of an array is no tuple of up to {MAX_DIMS} sizes')
        data = self.array_bytes(dtype, data)
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise Refusal(f'has an array of shape {str(shape)[:100]} and type {dtype} with {len(data)} bytes of data',
                          DAMAGED)
        untyped: Any = array  # NumPy's stubs expect a numpy.bool.
        untyped.__setstate__((1, shape, dtype, bool(is_fortran), data))  # Uses `data` without a copy.

    def make_array_of_buffer(self, data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        array = np.empty([0], np.int8)
        self.fill_array(array, (1, shape, dtype, order == 'F', data))
        return array

    def make_scalar(self, dtype: Any, data: Any) -> np.generic:
        data = self.array_bytes(dtype, data)
        if len(data) != dtype.itemsize:
            raise Refusal(f'has a scalar of type {dtype} with {len(data)} bytes of data', DAMAGED)
        return np.frombuffer(data, dtype)[0]

    def array_bytes(self, dtype: Any, data: Any) -> bytes:
        """The raw bytes of an array; Python 2 wrote them as str."""
        if not isinstance(dtype, np.dtype) or not isinstance(data, (bytes, bytearray, str)):
            raise TypeError('array without type or data')
        return self.make_latin1_bytes(data) if isinstance(data, str) else self.count_bytes(bytes(data))

    def make_latin1_bytes(self, text: Any, encoding: Any = 'latin1') -> bytes:
        if type(text) is not str or encoding != 'latin1':
            raise Refusal(f'encodes text as {show(encoding)}; expected latin1', FOREIGN)
        return self.count_bytes(text.encode('latin1'))

    def make_empty_bytes(self) -> bytes:
        return b''

    # ---- Limits ----

    def check_size(self, depth: int) -> None:
        """Count a value of the result, and refuse it if it is nested too deeply."""
        self.count_values(1)
        if depth > MAX_DEPTH:
            raise Refusal(f'is nested more than {MAX_DEPTH} levels deep', FOREIGN)

    def count_bytes(self, data: Any) -> Any:
        """Count bytes that were made and return them; refuse a file that has the same bytes made again and again."""
        self.bytes_left -= len(data)
        if self.bytes_left < 0:
            raise Refusal('describes more array data than the file holds', FOREIGN)
        return data

    def count_values(self, num_values: int) -> None:
        """Count values of the result; refuse a file that contains the same values again and again."""
        self.values_left -= num_values
        if self.values_left < 0:
            raise Refusal(f'unfolds to more than {MAX_OPCODES} values', FOREIGN)


def show(value: Any) -> str:
    """Format a value of the file for a message: short, on one line, and never the repr of a container."""
    if type(value) is str:
        return ascii(value[:100])
    return str(value) if type(value) is int and abs(value) < 2**63 else f'({type(value).__name__})'
