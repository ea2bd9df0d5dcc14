"""Turns the instructions of a pickle into data, and runs nothing.

A pickle is a small program: `pickle.load` imports and calls whatever the file names. Here nothing of the kind is
possible, because no unpickler is used. `pickletools` takes the file apart into instructions, and `Reader` follows the few
that describe data. The names a file may mention are the table `GLOBALS`; each stands for a method of `Reader` that makes an
empty container, an array from bytes that are in the file, or a `NetworkState`. Any other name is refused before anything
is made of it. Source code stored in a pickle is text, kept and never executed.
"""

import collections
import dataclasses
import math
import os
import pickletools
import re

import numpy as np

from dnnlib.util import EasyDict

MAX_OPCODES = 1_000_000         # instructions in a file; a full-size network pickle has about ten thousand
MAX_DEPTH = 32                  # containers within containers; a network pickle has about ten levels
MAX_DIMS = 32                   # dimensions of an array; as many as numpy 1 allows
READ_VERSIONS = (2, 3, 4, 5)    # of a network's state
WRITE_VERSION = 4               # what the original writes, and the least that its successors accept

DAMAGED = 'The file is damaged or incomplete: download or copy it again.'
FOREIGN = 'Expected a StyleGAN2 network pickle: networks, numeric arrays, plain containers. Nothing in the file was run.'


@dataclasses.dataclass(eq=False)
class NetworkState:
    """What a pickled `dnnlib.tflib.network.Network` holds. In the file it is that class with these fields as a dict.

    Args:
        name:             Name of the network: 'G', 'D', 'Gs', 'G_synthesis', ...
        static_kwargs:    Keyword arguments the network was built with: dict of str -> number, str, bool, None, list, tuple, dict.
        components:       Networks inside this one: dict of str -> NetworkState; {} = none. G has 'synthesis' and 'mapping'.
        build_func_name:  Name of the function that built it, without its module: 'G_main', 'D_stylegan2', ...
        variables:        List of (name, value) in the order of creation: own variables only, not those of the components.
                          Names are local ('4x4/Conv/weight'); values are numpy arrays, scalars those of numpy.
        version:          Layout of the state. 2 and 3 have no components; 4 and 5 do. Always written as 4.
        build_module_src: Source code of the module that held the function. Only text: it is never executed.
    """
    name: str
    static_kwargs: dict
    components: dict
    build_func_name: str
    variables: list
    version: int = WRITE_VERSION
    build_module_src: str = ''


class Refusal(Exception):
    """Why a file is not read: fact (without the file's name) and remedy, as in UserError."""


@dataclasses.dataclass(frozen=True)
class Global:
    """A name from `GLOBALS` on the stack. No callable: only `Reader.call` makes something of it."""
    name: str


# Every name a pickle may mention -> the method of Reader that stands for it. A name that is not here is refused.
GLOBALS = {
    'dnnlib.tflib.network.Network':        'make_network',
    'dnnlib.util.EasyDict':                'make_easy_dict',
    'dnnlib.EasyDict':                     'make_easy_dict',
    'collections.OrderedDict':             'make_ordered_dict',
    'numpy.ndarray':                       'make_nothing',  # only named, as the type that _reconstruct makes
    'numpy.dtype':                         'make_dtype',
    'numpy.core.multiarray._reconstruct':  'make_array',
    'numpy._core.multiarray._reconstruct': 'make_array',
    'numpy.core.multiarray.scalar':        'make_scalar',
    'numpy._core.multiarray.scalar':       'make_scalar',
    'numpy.core.numeric._frombuffer':      'make_array_of_buffer',
    'numpy._core.numeric._frombuffer':     'make_array_of_buffer',
    '_codecs.encode':                      'make_latin1_bytes',  # how Python 3 writes bytes in protocol 2
    '__builtin__.bytes':                   'make_empty_bytes',
    'builtins.bytes':                      'make_empty_bytes',
}

# Instructions that put their own argument on the stack.
_ARGUMENT_OPCODES = {
    'INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT', 'STRING', 'BINSTRING', 'SHORT_BINSTRING',
    'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'BYTEARRAY8', 'UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8',
}


class BoundedStream:
    """Binary stream that asks its file for no more than is there, whatever length the pickle claims.

    Python sets memory aside for what is asked, so a `read` of 2**40 bytes could end the program.

    Attributes:
        head: The first 64 bytes.
        left: Number of bytes that are not read yet.
    """

    def __init__(self, file):
        self._file = file
        start = file.tell()
        self.left = file.seek(0, os.SEEK_END) - start
        file.seek(start)
        self.head = file.read(64)
        file.seek(start)

    def read(self, size):
        data = self._file.read(min(size, self.left))
        self.left -= len(data)
        return data

    def readline(self):
        line = self._file.readline(self.left)
        self.left -= len(line)
        return line


class Reader:
    """Follows the instructions of one pickle on a stack, as `pickle.Unpickler` would, but for data only.

    What a hostile file may try besides naming a foreign function is bounded as well, so that reading takes seconds at most
    and memory in proportion to the file: the number of instructions; the bytes made from those of the file (twice as
    many: once for text, once for the array made of it); the depth and size of the result. Keys, of dictionaries (str) and of
    the memo (small numbers), are such that nobody can choose them to collide. Values from the file are shown by `_show`
    alone, because the repr of nested containers can take for ever.
    """

    allowed = GLOBALS

    def __init__(self, stream):
        self.stream = stream
        self.bytes_left = 2 * stream.left
        self.values_left = MAX_OPCODES
        self.stack = []
        self.outer_stacks = []  # one for each MARK that is open
        self.memo = {}

    def load(self):
        """The object that the pickle describes. Raises Refusal, or whatever pickletools, numpy or an empty stack raise."""
        value = self.run()
        if self.stream.left:
            raise Refusal(f'goes on for {self.stream.left} bytes after the end of the pickle', DAMAGED)
        self.check(value)
        return value

    def run(self):
        """Follow the instructions up to the end of the pickle, and return what they leave, unchecked."""
        for count, (opcode, arg, _pos) in enumerate(pickletools.genops(self.stream)):
            if count >= MAX_OPCODES:
                raise Refusal(f'has more than {MAX_OPCODES} instructions', FOREIGN)
            if opcode.name in _ARGUMENT_OPCODES:
                self.stack.append(arg)
            elif not self.step_data(opcode.name, arg):
                self.step_object(opcode.name, arg)
        if len(self.stack) != 1 or self.outer_stacks:
            raise ValueError(f'{len(self.stack)} values left at its end, expected 1')
        return self.stack[0]

    def step_data(self, name, arg):
        """Follow an instruction about plain data. False = it is not one of them."""
        stack = self.stack
        match name:
            case 'PROTO' | 'FRAME' | 'STOP':
                pass  # hints for a reader: which instructions to expect, how far to read ahead
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

    def step_object(self, name, arg):
        """Follow an instruction that names or makes an object; refuse any other."""
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
                detail = '' if arg is None else ' ' + _show(str(arg).replace(' ', '.', 1))  # INST 'os.system'
                raise Refusal(f'uses the pickle instruction {name}{detail}, which network pickles do not need', FOREIGN)

    # ---- Parts of the steps.

    def pop(self, count):
        if len(self.stack) < count:
            raise IndexError('value missing on the stack')
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def pop_to_mark(self):
        items = self.stack
        self.stack = self.outer_stacks.pop()
        return items

    def append_items(self, items):
        if type(self.stack[-1]) is not list:
            raise TypeError(f'expected a list to append to, found {type(self.stack[-1]).__name__}')
        self.stack[-1].extend(items)

    def set_items(self, items):
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError(f'expected a dict and pairs of key and value, found {type(target).__name__} and {len(items)} values')
        for key, value in zip(items[::2], items[1::2]):
            if type(key) is not str:
                raise Refusal(f'has a dictionary key of type {type(key).__name__}; expected str', FOREIGN)
            target[key] = value

    def push_global(self, name):
        if name not in self.allowed:
            raise Refusal(f'asks for {_show(name)}, which is not allowed', FOREIGN)
        self.stack.append(Global(name))

    def call(self, target, args):
        """What `target(*args)` stands for. Both come from the file; a `Global` bears a name of the table."""
        if not isinstance(target, Global) or type(args) is not tuple:
            raise Refusal(f'calls a {type(target).__name__}, which is not allowed', FOREIGN)
        return getattr(self, self.allowed[target.name])(*args)

    def set_state(self, target, state):
        if isinstance(target, NetworkState):
            self.fill_network(target, state)
        elif isinstance(target, np.ndarray):
            self.fill_array(target, state)
        elif isinstance(target, np.dtype):
            self.fill_dtype(target, state)
        elif not (isinstance(target, EasyDict) and state == {}):  # Python 2 writes that it has no attributes
            raise Refusal(f'sets the state of a value of type {type(target).__name__}, which has none', FOREIGN)

    # ---- What the allowed names stand for.

    def make_easy_dict(self):
        return EasyDict()

    def make_ordered_dict(self, pairs=()):
        self.stack.append(collections.OrderedDict())
        self.count(len(pairs))
        for name, value in pairs:  # Python 2 hands over a list of pairs, Python 3 sets items afterwards
            self.set_items([name, value])
        return self.stack.pop()

    def make_nothing(self, *args):
        raise Refusal('makes a numpy.ndarray in an unknown way', FOREIGN)

    def make_dtype(self, code, align=False, copy=True):
        if type(code) is not str or not re.fullmatch(r'[biufc][0-9]{1,2}', code):
            raise Refusal(f'holds an array of type {_show(code)}; expected numbers or booleans', FOREIGN)
        return np.dtype(code, False, True)  # always a copy: fill_dtype changes it, and numpy's own is shared

    def fill_dtype(self, dtype, state):
        byte_order, details = state[1], state[2:5]
        if byte_order not in ('<', '>', '=', '|') or tuple(details) != (None, None, None):
            raise Refusal('holds an array of a structured type; expected numbers or booleans', FOREIGN)
        dtype.__setstate__((3, byte_order, None, None, None, -1, -1, 0))

    def make_array(self, subtype, shape, typecode):
        if not isinstance(subtype, Global) or subtype.name != 'numpy.ndarray':
            raise Refusal('holds an array of an unknown class; expected numpy.ndarray', FOREIGN)
        return np.empty([0], np.int8)  # to be filled; `shape` and `typecode` are placeholders as well

    def fill_array(self, array, state):
        _version, shape, dtype, is_fortran, data = state
        if type(shape) is not tuple or len(shape) > MAX_DIMS or not all(type(size) is int and size >= 0 for size in shape):
            raise TypeError(f'shape of an array is no tuple of up to {MAX_DIMS} sizes')
        data = self.array_bytes(dtype, data)
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise Refusal(f'has an array of shape {str(shape)[:100]} and type {dtype} with {len(data)} bytes of data', DAMAGED)
        array.__setstate__((1, shape, dtype, bool(is_fortran), data))  # keeps `data` as its memory, without a copy

    def make_array_of_buffer(self, data, dtype, shape, order):
        array = np.empty([0], np.int8)
        self.fill_array(array, (1, shape, dtype, order == 'F', data))
        return array

    def make_scalar(self, dtype, data):
        data = self.array_bytes(dtype, data)
        if len(data) != dtype.itemsize:
            raise Refusal(f'has a scalar of type {dtype} with {len(data)} bytes of data', DAMAGED)
        return np.frombuffer(data, dtype)[0]

    def array_bytes(self, dtype, data):
        """The raw bytes of an array; Python 2 wrote them as str."""
        if not isinstance(dtype, np.dtype) or not isinstance(data, (bytes, bytearray, str)):
            raise TypeError('array without type or data')
        return self.make_latin1_bytes(data) if isinstance(data, str) else self.spend(bytes(data))

    def make_latin1_bytes(self, text, encoding='latin1'):
        if type(text) is not str or encoding != 'latin1':
            raise Refusal(f'encodes text as {_show(encoding)}; expected latin1', FOREIGN)
        return self.spend(text.encode('latin1'))

    def make_empty_bytes(self):
        return b''

    def spend(self, data):
        """Account for bytes that were made; a file that has the same bytes made again and again is refused."""
        self.bytes_left -= len(data)
        if self.bytes_left < 0:
            raise Refusal('describes more array data than the file holds', FOREIGN)
        return data

    def count(self, num_values):
        """Account for values that were looked at; the same parts in each other or again and again are refused."""
        self.values_left -= num_values
        if self.values_left < 0:
            raise Refusal(f'unfolds to more than {MAX_OPCODES} values', FOREIGN)

    def make_network(self):
        return NetworkState(name='', static_kwargs={}, components={}, build_func_name='', variables=[], version=0)

    def fill_network(self, network, state):
        if type(state) is not dict:
            raise TypeError('state of a network is no dict')
        if state.get('version') not in READ_VERSIONS:
            raise Refusal(f'holds a network of version {_show(state.get("version"))}; expected 2 to 5', FOREIGN)
        for field in dataclasses.fields(network):
            if field.name in state:
                setattr(network, field.name, state[field.name])
            elif field.name != 'components' or state['version'] > 3:
                raise Refusal(f'holds a network without {field.name}', DAMAGED)

    # ---- The result as a whole. Containers can change after they were used, so this comes last.

    def check(self, value, depth=0):
        """Refuse what is not a tree of data: half-made networks, names, loops, structures that unfold without end."""
        self.count(1)
        if depth > MAX_DEPTH:
            raise Refusal(f'is nested more than {MAX_DEPTH} levels deep', FOREIGN)
        if isinstance(value, NetworkState):
            self.check_network(value, depth)
        elif isinstance(value, (dict, list, tuple)):
            for item in value.values() if isinstance(value, dict) else value:
                self.check(item, depth + 1)
        elif value is not None and not isinstance(value, (bool, int, float, str, bytes, bytearray, np.ndarray, np.generic)):
            raise Refusal('has a bare class, function or data type among its data', FOREIGN)

    def check_network(self, network, depth):
        if network.version not in READ_VERSIONS:
            raise Refusal('holds a network without contents', DAMAGED)
        for field in dataclasses.fields(network):
            value = getattr(network, field.name)
            if not isinstance(value, field.type):
                raise Refusal(f'holds a network whose {field.name} is a {type(value).__name__}, not a {field.type.__name__}', DAMAGED)
        for part in (network.static_kwargs, network.components, network.variables):
            self.check(part, depth + 1)
        if not all(isinstance(component, NetworkState) for component in network.components.values()):
            raise Refusal(f'holds a network ({_show(network.name)}) with a component that is no network', DAMAGED)
        for item in network.variables:
            if not (isinstance(item, (tuple, list)) and len(item) == 2 and type(item[0]) is str
                    and isinstance(item[1], (np.ndarray, np.generic))):
                raise Refusal(f'holds a network ({_show(network.name)}) with a variable that is no pair of name and array', DAMAGED)
        network.static_kwargs = dict(network.static_kwargs)
        network.components = dict(network.components)
        network.variables = [tuple(item) for item in network.variables]


def _show(value):
    """A value of the file for a message: short, on one line, and never the repr of a container."""
    if type(value) is str:
        return ascii(value[:100])
    return str(value) if type(value) is int and abs(value) < 2**63 else f'({type(value).__name__})'
