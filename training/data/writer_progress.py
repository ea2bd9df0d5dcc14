"""How far a run that writes a dataset has come, so that another run can go on from there if it is killed.

The file NAME.progress lies among the incomplete files of a dataset. Its first line is JSON, the settings of the run.
Then an entry of equal size follows for each item of the source that was dealt with, in order: a byte, 1 = stored and
0 = left out, and for each level from the largest on the checksum of the record, 4 bytes, or zeros if it was left out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dnnlib import storage
from dnnlib.cli import UserError
from dnnlib.progress import ProgressBar
from training.data import tfrecords

_BEGIN_AGAIN = 'Leave out --resume to begin again.'
_MAX_HEADER = 1 << 16


def entry_type(num_levels: int) -> np.dtype:
    """Return the type of an entry of a NAME.progress: 'stored', uint8, and 'checksums', uint32 [num_levels]."""
    return np.dtype([('stored', 'u1'), ('checksums', '<u4', (num_levels,))])


class WriterProgress:
    """Writes a NAME.progress.

    Args:
        path:       Path of the file. An existing one is continued if it has not been deleted before.
        settings:   What must be the same in a run that goes on: plain data with the keys of `_DIFFERENCES`.
        num_levels: Number of levels.
    """

    def __init__(self, path: str, settings: Mapping[str, Any], num_levels: int):
        self._path, self._type = path, entry_type(num_levels)
        # Without a buffer, because what is in a buffer is lost if the process is killed.
        self._file = open(path, 'ab', buffering=0)  # noqa: SIM115  See `close`.
        if self._file.tell() == 0:
            self._file.write(json.dumps(settings).encode() + b'\n')

    def add(self, results: Sequence[bool], levels: Sequence[np.ndarray]) -> None:
        """Note further items.

        Args:
            results: Of each item: was it stored?
            levels:  Records of those that were, as dataset_writer.encode_levels returns them. [] = there are none.
        """
        entries = np.zeros(len(results), self._type)
        entries['stored'] = results
        stored = np.flatnonzero(results)
        for index, records in enumerate(levels):
            entries['checksums'][stored, index] = np.ascontiguousarray(records[:, -4:]).view('<u4')[:, 0]
        self._file.write(entries.tobytes())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def remove(self) -> None:
        """Close and delete the file, because the dataset is complete."""
        self.close()
        os.remove(self._path)


def recover(path: str, level_files: Mapping[str, Sequence[int]], settings: Mapping[str, Any]) -> np.ndarray:
    """Find out how far a run came, and cut off what it has not written completely.

    All records are read and compared with their checksums. Those from the first damaged one on are cut off, too.

    Args:
        path:        Path of the NAME.progress.
        level_files: Path of the file -> shape [C, R, R] of its images, from the largest level on.
        settings:    Settings of the run that is to go on.

    Returns:
        Entry of each item that need not be dealt with again: array with the fields 'stored' and 'checksums'.

    Raises:
        UserError: The settings are not those of the other run, or the file is damaged.
    """
    with open(path, 'rb') as file:
        header, data = file.readline(_MAX_HEADER), file.read()
    try:
        found = dict(json.loads(header))
    except (ValueError, TypeError, RecursionError):
        raise UserError(f'{path} is damaged: it does not say how far the interrupted run came', _BEGIN_AGAIN) from None
    for key, difference in _DIFFERENCES.items():
        if found.get(key) != settings[key]:
            raise UserError(f'{path}: {difference.format(found=found.get(key), expected=settings[key])}',
                            'Go on with the same command and the same images. ' + _BEGIN_AGAIN)
    size = entry_type(len(level_files)).itemsize
    entries = np.frombuffer(data[:len(data) // size * size], entry_type(len(level_files)))
    stored = np.flatnonzero(entries['stored'])
    count = len(stored)
    for file, shape in level_files.items():
        count = min(count, storage.size(file) // tfrecords.record_bytes(shape) if storage.is_file(file) else 0)
    total = count * sum(map(tfrecords.record_bytes, level_files.values()))
    with ProgressBar('checking what is there', total, 'B') as progress:
        for index, (file, shape) in enumerate(level_files.items()):
            if count:
                checksums = entries['checksums'][stored[:count], index]
                count = _count_sound_records(file, tfrecords.record_bytes(shape), checksums, progress)
    for file, shape in level_files.items():
        with open(file, 'ab') as opened:
            opened.truncate(count * tfrecords.record_bytes(shape))
    done = int(stored[count - 1]) + 1 if count else 0
    os.truncate(path, len(header) + done * size)
    print(f'Going on after {count} images that are stored already')
    return entries[:done]


# Key of the settings -> what it means if two runs differ in it.
_DIFFERENCES = {
    'version': 'the interrupted run was made by version {found} of this project, but this is version {expected}',
    'command': 'the interrupted run was {found}, but this one is {expected}',
    'source': 'the names or sizes of the files that the images come from are not those of the interrupted run',
    'shape': 'the interrupted run stored images of shape {found}, but these are {expected}',
    'num_items': 'the interrupted run had {found} images to store, but this one has {expected}',
}


def _count_sound_records(path, size, checksums, progress):
    """Number of records at the begin of a file that are complete and have these checksums."""
    with open(path, 'rb') as file:
        for number, checksum in enumerate(checksums):
            frame = np.frombuffer(file.read(size), np.uint8)
            try:
                tfrecords.unframe(frame, size, path, number)
            except UserError:
                return number
            if frame[-4:].view('<u4')[0] != checksum:
                return number
            progress.update(size)
    return len(checksums)


def digest_of_files(path: str) -> str:
    """SHA-256 of the names and sizes of a file, or of all files in a folder, as 64 hexadecimal digits.

    Of files at remote addresses only the names count: asking for the sizes of many would take minutes.
    """
    root, remote = path.rstrip('/') or '/', storage.is_remote(path)
    if storage.is_folder(root):
        paths = [os.path.join(folder, name) for folder, names, _others in storage.walk(root) for name in names]
    else:
        paths = [root]
    described = sorted((name[len(root):], 0 if remote or not storage.is_file(name) else storage.size(name))
                       for name in paths)
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()
