"""Network files of all formats: pickles, and the weights under their names as .npz or .safetensors.

In the last two every variable of every network is an array of its own, such as `Gs/G_synthesis/64x64/Conv0_up/weight`:
the name of the network, then that of the variable. Other programs read these formats without knowing StyleGAN2. What
the networks are is a text in JSON: the array `networks` of an .npz, the metadata `networks` of a .safetensors file.

A .safetensors file (https://github.com/huggingface/safetensors) is the size of the header (8 bytes, little-endian), the
header in JSON ({name: {dtype, shape, data_offsets}, '__metadata__': {text: text}}), and the numbers in C order.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dnnlib import npz, storage
from dnnlib.cli import UserError
from dnnlib.pickles import legacy_pickle
from dnnlib.pickles.network_state import NetworkState
from dnnlib.pickles.reader import DAMAGED, MAX_DIMS, Refusal, show

_DESCRIPTION = 'networks'    # Name of the text that says what the networks are.
_MAX_HEADER = 10 * 2**20     # Bytes. That of the largest network has 50 kB.
_MAX_ARRAYS = 100_000

# Types of .safetensors files.
_DTYPES = {'F64': '<f8', 'F32': '<f4', 'F16': '<f2', 'I64': '<i8', 'I32': '<i4', 'I16': '<i2', 'I8': '|i1', 'U8': '|u1',
           'BOOL': '|b1'}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

_EXPECTED = ('Expected a network pickle, or a .npz or .safetensors file that '
             '`run_generator.py convert` has written.')


def load(path: str | os.PathLike) -> Any:
    """Read a network file of any format; the contents tell which one it is.

    Returns:
        As `legacy_pickle.load`: usually the tuple (G, D, Gs) of `NetworkState`.

    Raises:
        UserError: The file cannot be read, is damaged, or holds something else.
    """
    try:
        with open(path, 'rb') as file:
            head = file.read(9)
    except OSError as err:
        raise UserError(f'{path}: cannot be read: {err.strerror}', 'Check the path of the network pickle.') from None
    if head.startswith(b'PK\x03\x04') and os.fspath(path).endswith('.npz'):
        read = _read_npz
    elif head[8:] == b'{' and os.fspath(path).endswith('.safetensors'):
        read = _read_safetensors
    else:
        return legacy_pickle.load(path)
    try:
        return _from_arrays(*read(path))
    except Refusal as err:
        fact, remedy = err.args
    except (*npz.ERRORS, LookupError, ArithmeticError, RecursionError, struct.error) as err:
        fact, remedy = f'is damaged ({(str(err) or type(err).__name__).splitlines()[0][:150]})', DAMAGED
    raise UserError(f'{path}: {fact}', remedy)


def dump(states: Sequence[NetworkState], path: str | os.PathLike) -> None:
    """Write networks as .npz or .safetensors, whichever the name of the file ends with.

    Args:
        states: Networks.
        path:   File to write. It appears complete or not at all. Equal networks give equal bytes.

    Raises:
        UserError: The file cannot be written.
    """
    arrays = {f'{state.name}/{name}': value for state in states for name, value in _variables(state).items()}
    description = json.dumps([_describe(state) for state in states])
    write = _write_npz if os.fspath(path).endswith('.npz') else _write_safetensors
    storage.write_whole(path, lambda file: write(file, arrays, description))


# ---- Networks and arrays ----

def _describe(state):
    """What a network is besides its variables, for JSON."""
    return dict(name=state.name, func_name=state.build_func_name, module=state.build_module,
                static_kwargs=state.static_kwargs,
                components={key: _describe(component) for key, component in state.components.items()})


def _variables(state, prefix=''):
    """The variables of a network and its components: name -> array in C order, little-endian."""
    arrays = {}
    for name, value in state.variables:
        value = np.asarray(value)
        arrays[prefix + name] = np.asarray(value, value.dtype.newbyteorder('<'), order='C')
    for component in state.components.values():
        arrays.update(_variables(component, f'{prefix}{component.name}/'))
    return arrays


def _from_arrays(description, arrays):
    """Networks from their description in JSON and the arrays of all variables."""
    described = json.loads(description)
    if not isinstance(described, list) or len(described) > 3:
        raise Refusal('has a description that is no list of networks', _EXPECTED)
    states = tuple(_from_description(each, '', arrays) for each in described)
    if arrays:
        raise Refusal(f'holds {show(next(iter(arrays)))}, which belongs to none of its networks', _EXPECTED)
    return states


def _from_description(described, prefix, arrays):
    """NetworkState of a description; its variables are removed from `arrays`."""
    types: dict[str, type] = dict(name=str, func_name=str, module=str, static_kwargs=dict, components=dict)
    if not isinstance(described, dict) or not all(isinstance(described.get(key), kind) for key, kind in types.items()):
        raise Refusal('has a description without name, function, module, settings or components', _EXPECTED)
    prefix = f'{prefix}{described["name"]}/'
    if len(described['components']) > 2 or prefix.count('/') > 3:
        raise Refusal('describes more networks than a generator has', _EXPECTED)
    components = {key: _from_description(each, prefix, arrays) for key, each in described['components'].items()}
    names = [name for name in arrays if name.startswith(prefix)]
    variables = [(name.removeprefix(prefix), arrays.pop(name)) for name in names]
    return NetworkState(described['name'], described['static_kwargs'], components, described['func_name'], variables,
                        build_module=described['module'])


# ---- .npz ----

def _write_npz(file, arrays, description):
    with zipfile.ZipFile(file, 'w') as archive:  # np.savez writes the time of day into the archive.
        for name, array in {_DESCRIPTION: np.asarray(description), **arrays}.items():
            with archive.open(zipfile.ZipInfo(f'{name}.npy'), 'w', force_zip64=True) as member:
                np.lib.format.write_array(member, array, (1, 0), allow_pickle=False)


def _read_npz(path):
    """(description, name -> array)."""
    with zipfile.ZipFile(path) as archive:
        members = npz.members_of(archive)
        if _DESCRIPTION not in members or len(members) > _MAX_ARRAYS:
            found = ', '.join(show(name) for name in list(members)[:5])
            raise Refusal(f'does not say what its arrays are; found {found}', _EXPECTED)
        headers = {name: npz.read_header(archive, info) for name, info in members.items()}
        arrays = npz.read_arrays(archive, headers, members, path, _EXPECTED)
    description = arrays.pop(_DESCRIPTION)
    if description.dtype.kind != 'U' or description.shape:
        raise Refusal('has a description that is no text', _EXPECTED)
    return str(description), arrays


# ---- .safetensors ----

def _write_safetensors(file, arrays: Mapping[str, np.ndarray], description):
    header: dict[str, Any] = {'__metadata__': {_DESCRIPTION: description}}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        header[name] = dict(dtype=_DTYPE_NAMES[array.dtype.newbyteorder('<').str], shape=list(array.shape),
                            data_offsets=[begin, end])
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)  # The numbers begin at a multiple of 8.
    file.write(struct.pack('<Q', len(text)) + text)
    for array in arrays.values():
        file.write(array.reshape(-1).view(np.uint8).data)


def _read_safetensors(path):
    """(description, name -> array); the arrays are memory-mapped."""
    data = np.memmap(path, np.uint8, 'r')
    length, = struct.unpack('<Q', data[:8].tobytes())
    if length > min(_MAX_HEADER, len(data) - 8):
        raise Refusal(f'has a header of {length} bytes', DAMAGED)
    header = json.loads(data[8:8 + length].tobytes())
    if not isinstance(header, dict) or len(header) > _MAX_ARRAYS:
        raise Refusal('has a header that is no table of arrays', DAMAGED)
    metadata = header.pop('__metadata__', None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get(_DESCRIPTION), str):
        found = ', '.join(show(name) for name in list(header)[:5])
        raise Refusal(f'does not say what its arrays are; found {found}', _EXPECTED)
    numbers, end = data[8 + length:], 0
    arrays = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]['data_offsets']):
        dtype, shape, offsets = _DTYPES.get(entry['dtype']), entry['shape'], entry['data_offsets']
        sizes = [*shape, *offsets]
        if dtype is None or len(offsets) != 2 or len(shape) > MAX_DIMS or not all(
                type(size) is int and 0 <= size < 2**60 for size in sizes):
            raise Refusal(f'has an array {show(name)} of unknown type or size', DAMAGED)
        # The arrays follow one another, so that no two share their numbers.
        if offsets[0] != end or offsets[1] - end != math.prod(shape) * np.dtype(dtype).itemsize:
            raise Refusal(f'has an array {show(name)} of shape {str(shape)[:100]} at {offsets}', DAMAGED)
        end = offsets[1]
        if end > len(numbers):
            raise Refusal(f'ends before the numbers of {show(name)}', DAMAGED)
        arrays[name] = np.frombuffer(numbers[offsets[0]:end].data, dtype).reshape(shape)
    if end != len(numbers):
        raise Refusal(f'goes on for {len(numbers) - end} bytes after its arrays', DAMAGED)
    return metadata[_DESCRIPTION], arrays
