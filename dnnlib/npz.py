"""Reads arrays from .npz archives of NumPy that others may have made: sizes are known before anything is read."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from dnnlib import memory

# What a damaged archive can raise.
ERRORS = (ValueError, OSError, EOFError, TypeError, RuntimeError, MemoryError, SyntaxError, zipfile.BadZipFile,
          zlib.error)

# Version of the .npy format -> reader of its header. NumPy writes version 3 for structured types only.
_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclasses.dataclass(frozen=True)
class Header:
    """What the beginning of an .npy file says of its array."""
    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        """Size of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
    """The header of an array in an .npz file, without its numbers. One of `ERRORS` if it is not one of numbers."""
    # NumPy writes no other kind, and LZMA may ask for gigabytes of memory to begin with.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise ValueError(f'{ascii(info.filename)} is encrypted, or compressed in a way that NumPy does not use')
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version not in _HEADER_READERS:
            raise ValueError(f'{ascii(info.filename)} holds something else than numbers and text')
        try:
            header = Header(*_HEADER_READERS[version](member))
        except Exception as err:  # A damaged header makes NumPy raise almost anything, such as TokenError.
            raise ValueError(f'{ascii(info.filename)} has a damaged header') from err
    if header.dtype.kind not in 'biufU' or min(header.shape, default=0) < 0:
        raise ValueError(f'{ascii(info.filename)} holds something else than numbers and text')
    return header


def read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, header: Header) -> np.ndarray:
    """The array whose header has been read. One of `ERRORS` if it is damaged."""
    with archive.open(info) as member:
        _HEADER_READERS[np.lib.format.read_magic(member)](member)
        data = member.read(header.num_bytes)
        if len(data) != header.num_bytes or member.read(1):  # The end of the data, where its checksum is compared.
            raise ValueError(f'{ascii(info.filename)} does not hold as many numbers as it says')
    if header.dtype.kind == 'U' and np.frombuffer(data, f'{header.dtype.byteorder}u4').max(initial=0) > sys.maxunicode:
        raise ValueError(f'{ascii(info.filename)} holds numbers that are no characters')
    return np.ndarray(header.shape, header.dtype, data, order='F' if header.is_fortran else 'C')


def read_arrays(archive: zipfile.ZipFile, headers: Mapping[str, Header], members: Mapping[str, zipfile.ZipInfo],
                path: str | os.PathLike, remedy: str, copies: int = 1) -> dict[str, np.ndarray]:
    """The arrays of an archive whose headers have been read, by name. One of `ERRORS` if one of them is damaged.

    Args:
        archive: The archive.
        headers: {name: header} of the arrays to read.
        members: {name: entry of the archive}, at least for these names; see `members_of`.
        path:    Name of the file, for messages.
        remedy:  What to do if there is not enough memory.
        copies:  How many times the memory of the arrays is going to be needed.

    Raises:
        UserError: There is not enough memory.
    """
    num_bytes = sum(header.num_bytes for header in headers.values())
    memory.require(copies * num_bytes, f'{path}, which expands to {memory.describe(num_bytes)},', remedy)
    return {name: read_array(archive, members[name], header) for name, header in headers.items()}


def members_of(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """{name of an array: its entry in the archive}."""
    return {info.filename.removesuffix('.npy'): info for info in archive.infolist()}
