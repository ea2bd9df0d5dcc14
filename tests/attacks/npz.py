"""Hostile .npz files: arrays that claim to be larger than the memory, or that are smaller than they claim."""

from __future__ import annotations

import math
import os
import struct
import zipfile
from collections.abc import Mapping


def zeros(descr: str, shape: tuple[int, ...], written: int | None = None) -> bytes:
    """An .npy file of zeros.

    Args:
        descr:   Type that the header names, such as '<f4'.
        shape:   Shape that the header names.
        written: Bytes of data that follow. None = as many as the header says, but at most 1000.
    """
    header = repr({'descr': descr, 'fortran_order': False, 'shape': shape}).encode() + b'\n'
    size = math.prod(shape) * int(''.join(filter(str.isdigit, descr)) or 8)
    return (b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header
            + bytes(min(max(size, 0), 1000) if written is None else written))


def write(path: str | os.PathLike, members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> None:
    """Write an .npz file of these .npy files, by their names without the suffix."""
    with zipfile.ZipFile(path, 'w', method) as archive:
        for name, data in members.items():
            archive.writestr(f'{name}.npy', data)
