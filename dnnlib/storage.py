"""Files and folders, local or at remote addresses that TensorFlow can open (gs://, s3://, hdfs://, ram://).

An address contains `://`. TensorFlow is imported only for those. The functions raise OSError for local files and one of
`errors()` for addresses.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any

from dnnlib.cli import UserError

try:
    import fcntl
except ImportError:  # Windows: two runs that write the same folder are noticed only when the second one ends.
    fcntl = None


_SYSTEM_READS = 1 << 17  # Bytes that Linux reads ahead by default.


def is_remote(path: str | os.PathLike) -> bool:
    """Whether `path` is an address rather than a local path."""
    return '://' in str(path)


def _gfile():
    import tensorflow as tf
    return tf.io.gfile


def errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that file operations raise, for `except`: TensorFlow's only if it has been imported."""
    return (OSError, sys.modules['tensorflow'].errors.OpError) if 'tensorflow' in sys.modules else (OSError,)


def reason(err: Any) -> str:
    """Return the message of one of `errors()` on one line, with the name of the file if it is known."""
    if isinstance(err, OSError):
        return f'{err.filename}: {err.strerror}' if err.filename and err.strerror else str(err)
    # TensorFlow names its own operations: {{...}} and [Op:...].
    return re.sub(r'\{\{.*?\}\}\s*|\s*\[Op:\w+\]', '', str(err.message)).splitlines()[0]


def is_full(err: BaseException) -> bool:
    """Whether an error, or the message of an error that took its place, says that there is no room to write."""
    return any(os.strerror(code) in str(err) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def open_file(path: str | os.PathLike, mode: str = 'rb') -> IO[bytes]:
    """Open a file as a binary file object with read, write, seek and close."""
    if is_remote(path):
        return _gfile().GFile(str(path), mode)
    return open(path, mode, buffering=1 << 17 if mode == 'wb' else -1)


class PositionedFile:
    """A file that is opened once and then read at any position, from several threads at once.

    Args:
        path: Path or address. It is opened by the first `read`.
    """

    def __init__(self, path: str | os.PathLike):
        self._path = path
        self._has_pread = hasattr(os, 'pread') and not is_remote(path)
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._idle: list[IO[bytes]] = []  # Without pread: open files, of which each thread takes one to read.

    def read(self, offset: int, size: int) -> bytes:
        """Read `size` bytes from position `offset`; fewer if the file ends before."""
        if self._has_pread:
            with self._lock:
                if self._file is None:
                    self._file = open(self._path, 'rb', buffering=0)  # noqa: SIM115  It stays open.
            if size > _SYSTEM_READS and hasattr(os, 'posix_fadvise'):
                # Otherwise the system would fetch one such piece after the other from the disk.
                os.posix_fadvise(self._file.fileno(), offset, size, os.POSIX_FADV_WILLNEED)
            data = os.pread(self._file.fileno(), size, offset)
            while 0 < len(data) < size:  # The system may return less than it was asked for, at most 2 GiB.
                more = os.pread(self._file.fileno(), size - len(data), offset + len(data))
                if not more:
                    break
                data += more
            return data
        with self._lock:
            file = self._idle.pop() if self._idle else open_file(self._path)
        try:
            file.seek(offset)
            return file.read(size)
        finally:
            with self._lock:
                self._idle.append(file)


def is_file(path: str | os.PathLike) -> bool:
    """Whether there is a file at `path`."""
    if is_remote(path):
        return _gfile().exists(str(path)) and not _gfile().isdir(str(path))
    return os.path.isfile(path)


def is_folder(path: str | os.PathLike) -> bool:
    """Whether there is a folder at `path`."""
    if not is_remote(path):
        return os.path.isdir(path)
    import tensorflow as tf
    try:
        return tf.io.gfile.stat(str(path)).is_directory  # isdir would hide that an address cannot be reached.
    except tf.errors.NotFoundError:
        return False


def list_folder(path: str | os.PathLike) -> list[str]:
    """Return the names in a folder, sorted by code point, without trailing slashes."""
    names = _gfile().listdir(str(path)) if is_remote(path) else os.listdir(path)
    return sorted(name.rstrip('/') for name in names)


def walk(path: str | os.PathLike) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield (folder, names of its files, names of its pipes and devices) for `path` and the folders below it.

    Hidden folders are left out. Links are followed, but each folder is visited only once. Broken links count as files.
    """
    if is_remote(path):
        for folder, _folders, names in _gfile().walk(str(path)):
            yield folder, names, []
        return
    seen = set()
    for folder, folders, names in os.walk(os.fspath(path), followlinks=True):
        folders[:] = [name for name in folders if not name.startswith('.')]
        place = os.path.realpath(folder)
        if place in seen:  # A link to a folder above.
            folders.clear()
            continue
        seen.add(place)
        paths = {name: os.path.join(folder, name) for name in names}
        files = [name for name, path in paths.items() if os.path.isfile(path) or not os.path.exists(path)]
        yield folder, files, sorted(paths.keys() - files)


def size(path: str | os.PathLike) -> int:
    """Return the size of a file in bytes."""
    return _gfile().stat(str(path)).length if is_remote(path) else os.path.getsize(path)


def make_folders(path: str | os.PathLike) -> None:
    """Make a folder and those above it, unless they exist."""
    _gfile().makedirs(str(path)) if is_remote(path) else os.makedirs(path, exist_ok=True)


def rename(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Rename a file, replacing an existing `target`."""
    if is_remote(source):
        _gfile().rename(str(source), str(target), overwrite=True)
    else:
        os.replace(source, target)


def remove(path: str | os.PathLike) -> None:
    """Delete a file."""
    if is_remote(path):
        _gfile().remove(str(path))
    else:
        os.remove(path)


def join(folder: str | os.PathLike, name: str | os.PathLike) -> str:
    """Return the path or address of `name` in a folder; `name` itself if it is an address or an absolute path."""
    if is_remote(name):
        return str(name)
    if is_remote(folder) and not os.path.isabs(name):
        return f'{str(folder).rstrip("/")}/{name}'
    return os.path.join(folder, name)


def base_name(path: str | os.PathLike) -> str:
    """Return the last part of a path or address."""
    return str(path).rstrip('/').rsplit('/', 1)[-1] if is_remote(path) else os.path.basename(os.path.abspath(path))


# ---- Files and folders that appear complete or not at all ----

@contextlib.contextmanager
def new_file(path: str | os.PathLike, shared: bool = False) -> Iterator[str]:
    """Context manager to write a local file that appears complete or not at all.

    Args:
        path:   File to write; an existing one is replaced when the with-block ends without an error.
        shared: May several processes write the same file at the same time? Each then has a temporary file of its own.

    Yields:
        Path of the temporary file to write. It is renamed to `path` at the end, or deleted after an error.
    """
    part = f'{path}.part{os.getpid()}' if shared else f'{path}.part'
    try:
        yield part
        os.replace(part, path)
    except OSError as err:
        if err.filename == part:  # Name the file that was asked for.
            raise OSError(err.errno, err.strerror, str(path)) from err
        raise
    finally:
        with contextlib.suppress(OSError):
            os.remove(part)


def write_whole(path: str | os.PathLike, write: Callable[[IO[bytes]], None]) -> None:
    """Write a local binary file that appears complete or not at all, and is on the disk when this returns.

    Args:
        path:  File to write, as in `new_file`.
        write: Function that writes the contents to an open file.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        with new_file(path) as part, open(part, 'wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as err:
        raise UserError(f'{path}: cannot be written: {err.strerror}',
                        'Check the folder, its permissions and the free space.') from None


@contextlib.contextmanager
def new_folder(target: str | os.PathLike, files: str, force: bool = False, resume: bool = False) -> Iterator[str]:
    """Context manager to write a local folder that appears complete or not at all.

    The remains of a killed run are removed by the next run with the same target, unless it is to go on from them.

    Args:
        target: Folder to make; an existing one must be empty.
        files:  Regular expression of the names that will be in it, and in folders below it.
        force:  Replace files with such names in an existing folder? Otherwise it must be empty.
        resume: Begin with what an earlier run has left in the temporary folder, and after an error keep it?

    Yields:
        Path of the temporary folder to fill. It is renamed to `target` at the end, or deleted after an error.

    Raises:
        UserError: `target` holds other files, is not a folder, or another run is writing it.
    """
    place = os.path.realpath(target)
    partial, replaced = f'{place}.partial', f'{place}.replaced'  # On the same disk, so that they can be renamed.
    missing_parents = [parent for parent in pathlib.Path(partial).parents if not parent.exists()]
    try:
        os.makedirs(partial, exist_ok=True)
    except OSError as err:
        raise OSError(err.errno, err.strerror, str(target)) from err  # Name the folder that was asked for.
    with locked(partial) as ours:
        if not ours:
            raise UserError(f'another run is writing {target} (into {partial})',
                            'Wait until it has ended, or give another name.')
        try:
            _clear_remains(place, partial, replaced, files, keep_partial=resume)
            _check_target(target, place, files, force)
            yield partial
            _check_target(target, place, files, force)
            if os.path.isdir(place):
                os.replace(place, replaced)
            try:
                os.replace(partial, place)
            except BaseException:
                if os.path.isdir(replaced):
                    os.replace(replaced, place)
                raise
        except BaseException:  # Also on Ctrl-C.
            if not resume:
                _delete_folder(partial, files)
            with contextlib.suppress(OSError):
                os.rmdir(partial)  # If there is nothing in it.
            for parent in missing_parents:
                with contextlib.suppress(OSError):
                    parent.rmdir()
            raise
        _delete_folder(replaced, files)


def _check_target(target, place, files, force):
    if os.path.lexists(place) and not os.path.isdir(place):
        raise UserError(f'{target} exists and is not a folder', 'Give another name.')
    if os.path.ismount(place):
        raise UserError(f'{target} is a mount point, which cannot be replaced', 'Name a folder inside it.')
    names = [name for _, folders, others in os.walk(place) for name in (*folders, *others)]
    _check_replaceable(target, sorted(names), files, force)


def _check_replaceable(target, names, files, force):
    for name in names:
        if not force:
            raise UserError(f'{target} exists and is not empty',
                            'Give another folder, or --force to replace what is in it.')
        if not re.fullmatch(files, name):
            raise UserError(f'{target} holds {name}, which --force does not replace',
                            'Give another folder, or remove this one yourself.')


@contextlib.contextmanager
def locked(folder: str | os.PathLike) -> Iterator[bool]:
    """Context manager that locks a folder against other processes until the with-block or this process ends.

    Yields:
        False if another process has locked the folder. True on systems without locks.
    """
    if fcntl is None:
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # False if another process has renamed the folder in the meantime.
            ours = os.path.exists(folder) and os.path.samestat(os.fstat(descriptor), os.stat(folder))
        except BlockingIOError:
            ours = False
        except OSError:  # A file system without locks.
            ours = True
        yield ours
    finally:
        os.close(descriptor)


def _clear_remains(place, partial, replaced, files, keep_partial):
    """Clean up after a killed run: restore the folder it was about to replace, and delete what it had written."""
    if os.path.isdir(replaced) and not os.path.isdir(place):
        os.replace(replaced, place)
    for remains in (partial, replaced):
        if not (keep_partial and remains == partial):
            _delete_folder(remains, files, keep_folder=remains == partial)
        others = [name for name in list_folder(remains) if not re.fullmatch(files, name)
                  ] if os.path.isdir(remains) else []
        if others:
            raise UserError(f'{remains} is in the way: it holds {others[0]}, which is not from an earlier run',
                            'Move it elsewhere.')


def _delete_folder(folder, files, keep_folder=False):
    """Delete the files in `folder` whose names match, and then the folder if it is empty and not `keep_folder`."""
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not os.path.islink(path):
            _delete_folder(path, files)
        elif re.fullmatch(files, name):
            os.remove(path)
    if not keep_folder:
        with contextlib.suppress(OSError):
            os.rmdir(folder)


@contextlib.contextmanager
def new_remote_files(target: str, files: str, force: bool = False) -> Iterator[str]:
    """As `new_folder` for an address, where folders cannot be renamed.

    Args:
        target, files, force: As in `new_folder`.

    Yields:
        Suffix that all names should have for the time being. At the end the files are renamed one by one in reverse
        order of their names, so that the first one appears last.

    Raises:
        UserError: `target` holds other files.
    """
    ending = '.partial'

    def names_with_ending(expected):
        names = list_folder(target) if is_folder(target) else []
        return [name for name in names if name.endswith(ending) == expected]

    _check_replaceable(target, names_with_ending(False), files, force)
    make_folders(target)
    try:
        yield ending
        old = names_with_ending(False)
        _check_replaceable(target, old, files, force)
        for name in old:
            remove(f'{target}/{name}')
        for name in reversed(names_with_ending(True)):
            rename(f'{target}/{name}', f'{target}/{name.removesuffix(ending)}')
    except BaseException:
        for name in names_with_ending(True):
            remove(f'{target}/{name}')
        raise
