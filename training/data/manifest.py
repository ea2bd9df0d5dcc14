"""NAME.json beside the records of a dataset: what belongs to it and how it was made. The original ignores it.

    {"num_images": 3,
     "resolutions": [4, 8],
     "files": {"NAME-r02.tfrecords": {"bytes": 432, "records_sha256": "..."},
               "NAME-r03.tfrecords": {"bytes": 864, "records_sha256": "..."},
               "NAME-rxx.labels":    {"bytes": 164, "sha256": "..."}},
     "command": "create_from_images --shuffle=0",
     "version": "0.1.0"}

`records_sha256` is the digest of the lengths and checksums of the records (tfrecords.content_digest): together with the
checksum of each record it fixes the images, and it takes no time to write. `command` has neither paths nor dates, so
that the same images give the same bytes; it is null if the dataset was not made by dataset_tool.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import re
from collections.abc import Iterable
from typing import Any

from dnnlib import storage
from dnnlib.cli import UserError

_MAX_BYTES = 1 << 20  # A larger file is something else: a manifest has about 100 bytes per level.


def remedy(path: str | os.PathLike) -> str:
    """Return what the user can do about a dataset that is not as its NAME.json says."""
    return f'Copy the dataset again or make it again; if you changed it on purpose, delete {path}.'


def path_beside(tfrecord_file: str | os.PathLike) -> str:
    """Return the path of the NAME.json that belongs to a file NAME-rNN.tfrecords."""
    return re.sub(r'-r\d\d\.tfrecords$|\.tfrecords$', '', str(tfrecord_file)) + '.json'


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """A file of a dataset.

    Attributes:
        num_bytes: Its size.
        digest:    Hexadecimal digest: of a .tfrecords file its `records_sha256`, of others the SHA-256 of the bytes.
    """
    num_bytes: int
    digest: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Contents of a NAME.json.

    Attributes:
        path:       Path of the file.
        num_images: Number of images.
        files:      Name -> FileRecord of each other file of the dataset.
        command:    Command that made it. None = it was made by other code.
        version:    Version of this project that made it. None = unknown.
    """
    path: str
    num_images: int
    files: dict[str, FileRecord]
    command: str | None
    version: str | None

    def check_files(self, folder: str | os.PathLike, names: Iterable[str], num_images: int) -> None:
        """Check which files there are, their sizes, and the number of images.

        Args:
            folder:     Folder of the dataset.
            names:      Names of the .tfrecords, .labels and -classes.json files in it.
            num_images: Number of images in each of the .tfrecords files.

        Raises:
            UserError: One of them is not as recorded, or there are further levels.
        """
        missing = sorted(self.files.keys() - names, reverse=True)  # The largest level first.
        if missing:
            raise UserError(f'{os.path.join(folder, missing[0])} is missing: {self.path} lists it', remedy(self.path))
        # Labels are not records of images, and are often added to a dataset later.
        unknown = sorted(name for name in set(names) - self.files.keys() if name.endswith('.tfrecords'))
        if unknown:
            raise UserError(f'{os.path.join(folder, unknown[0])} is not of this dataset: {self.path} does not list it',
                            remedy(self.path))
        for name, record in self.files.items():
            size = storage.size(os.path.join(folder, name))
            if size != record.num_bytes:
                raise UserError(f'{os.path.join(folder, name)} has {size} bytes, '
                                f'expected {record.num_bytes} as {self.path} says', remedy(self.path))
        if num_images != self.num_images:
            raise UserError(f'{folder} holds {num_images} images, expected {self.num_images} as {self.path} says',
                            remedy(self.path))


def encode(num_images: int, resolutions: Iterable[int], files: dict[str, FileRecord], command: str | None) -> bytes:
    """Encode a manifest. Equal arguments give equal bytes.

    Args:
        num_images:  Number of images.
        resolutions: Sides of the images of all levels.
        files:       As in Manifest.
        command:     As in Manifest.
    """
    records = {name: {'bytes': record.num_bytes, _digest_key(name): record.digest}
               for name, record in sorted(files.items())}
    content = {'num_images': num_images, 'resolutions': sorted(resolutions), 'files': records, 'command': command,
               'version': version()}
    return (json.dumps(content, indent=1, ensure_ascii=False) + '\n').encode()


def load(path: str | os.PathLike) -> Manifest | None:
    """Load a NAME.json.

    Returns:
        None = there is no such file, or it is JSON of another kind, such as the labels of another tool.

    Raises:
        UserError: The file is damaged.
    """
    if not storage.is_file(path):
        return None
    with storage.open_file(path) as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        return None
    try:
        decoded = json.loads(content)
        is_other = isinstance(decoded, dict) and not decoded.keys() & {'files', 'num_images', 'resolutions'}
        return None if is_other else _decode(str(path), decoded)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise UserError(f'{path} is no record of a dataset, or is damaged', remedy(path)) from err


def _decode(path: str, content: Any) -> Manifest:
    files = {}
    for name, record in content['files'].items():
        if name != os.path.basename(name) or not name:
            raise ValueError(f'expected the name of a file, got {name!r}')
        files[name] = FileRecord(_checked(int, record['bytes']), _checked(str, record[_digest_key(name)]))
    command, version = (None if content[key] is None else _checked(str, content[key]) for key in ('command', 'version'))
    return Manifest(path, _checked(int, content['num_images']), files, command, version)


def _checked(kind, value):
    if type(value) is not kind:
        raise TypeError(f'expected {kind.__name__}, got {value!r}')
    return value


def sha256(content: bytes) -> str:
    """Return the SHA-256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _digest_key(name):
    return 'records_sha256' if name.endswith('.tfrecords') else 'sha256'


def version() -> str | None:
    """Return the version of this project. None = it is not installed."""
    try:
        return importlib.metadata.version('stylegan2-tf2')
    except importlib.metadata.PackageNotFoundError:  # Run from a folder, without having been installed.
        return None
