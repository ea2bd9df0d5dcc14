"""Files and folders, here or at an address that TensorFlow can open (gs://, s3://, hdfs://, ram://), under one set of names.

An address has `://` in it. TensorFlow is imported only for one of these. The functions raise OSError for a file of this machine
and one of `errors()` for an address.
"""

import contextlib
import os
import pathlib
import re
import sys

from dnnlib.cli import UserError

try:
    import fcntl
except ImportError:  # Windows: without locks, two runs on one folder are told apart only when the second one ends.
    fcntl = None


def is_remote(path):
    """Is `path` an address rather than a path of this machine?"""
    return '://' in str(path)


def _gfile():
    import tensorflow as tf
    return tf.io.gfile


def errors():
    """The exceptions that a failing file raises, for `except`: those of TensorFlow only once it has been imported."""
    return (OSError, sys.modules['tensorflow'].errors.OpError) if 'tensorflow' in sys.modules else (OSError,)


def reason(err):
    """What one of `errors()` says, on one line, with the name of the file if it is known."""
    if isinstance(err, OSError):
        return f'{err.filename}: {err.strerror}' if err.filename and err.strerror else str(err)
    return str(err.message).splitlines()[0]


def open_file(path, mode='rb'):
    """Binary file object with read, write, seek and close."""
    return _gfile().GFile(str(path), mode) if is_remote(path) else open(path, mode, buffering=1 << 17 if mode == 'wb' else -1)


def is_file(path):
    if is_remote(path):
        return _gfile().exists(str(path)) and not _gfile().isdir(str(path))
    return os.path.isfile(path)


def is_folder(path):
    return _gfile().isdir(str(path)) if is_remote(path) else os.path.isdir(path)


def list_folder(path):
    """Names in a folder, sorted by code point, without a trailing slash."""
    return sorted(name.rstrip('/') for name in (_gfile().listdir(str(path)) if is_remote(path) else os.listdir(path)))


def walk(path):
    """Yield (folder, names of its files) for `path` and every folder below it that is not hidden.

    Links are followed, each folder is visited once. Pipes and devices are no files; links that lead nowhere are.
    """
    if is_remote(path):
        for folder, _folders, names in _gfile().walk(str(path)):
            yield folder, names
        return
    seen = set()
    for folder, folders, names in os.walk(path, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith('.')]
        place = os.path.realpath(folder)
        if place in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(place)
        paths = {name: os.path.join(folder, name) for name in names}
        yield folder, [name for name, path in paths.items() if os.path.isfile(path) or not os.path.exists(path)]


def size(path):
    """Bytes in a file."""
    return _gfile().stat(str(path)).length if is_remote(path) else os.path.getsize(path)


def make_folders(path):
    """Make a folder and those above it, unless they are there."""
    _gfile().makedirs(str(path)) if is_remote(path) else os.makedirs(path, exist_ok=True)


def rename(source, target):
    """Rename a file; one that has the name `target` is replaced."""
    _gfile().rename(str(source), str(target), overwrite=True) if is_remote(source) else os.replace(source, target)


def remove(path):
    """Delete a file."""
    _gfile().remove(str(path)) if is_remote(path) else os.remove(path)


def base_name(path):
    """Last part of a path or address."""
    return str(path).rstrip('/').rsplit('/', 1)[-1] if is_remote(path) else os.path.basename(os.path.abspath(path))


# ---- Files and folders that appear whole or not at all ----

@contextlib.contextmanager
def new_file(path):
    """Context of the path of a file beside `path` that takes its place if the context ends well, and vanishes if it does not.

    For files of this machine.
    """
    part = f'{path}.part'
    try:
        yield part
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(part)


@contextlib.contextmanager
def new_folder(target, files, force=False):
    """Context of the path of a temporary folder that becomes `target` if the context ends well, and vanishes if it does not.

    What a killed run has left is cleared away by the next run on the same target.

    Args:
        target: Folder to make; one that is there must be empty.
        files:  Regular expression of the names that will be in it.
        force:  May files of such names be in `target`? They are replaced.

    Raises:
        UserError: `target` holds something, is no folder, or another run is writing it.
    """
    place = os.path.realpath(target)
    partial, replaced = f'{place}.partial', f'{place}.replaced'  # Beside the target, so that a rename is enough in the end.
    missing_parents = [parent for parent in pathlib.Path(partial).parents if not parent.exists()]
    os.makedirs(partial, exist_ok=True)
    with locked(partial) as ours:
        if not ours:
            raise UserError(f'another run is writing {target} (into {partial})', 'Wait until it has ended, or give another name.')
        try:
            _clear_remains(place, partial, replaced, files)
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
        except BaseException:  # Ctrl-C too
            _delete_folder(partial, files)
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
    _check_replaceable(target, list_folder(place) if os.path.isdir(place) else [], files, force)


def _check_replaceable(target, names, files, force):
    for name in names:
        if not force:
            raise UserError(f'{target} exists and is not empty', 'Give another folder, or --force to replace what is in it.')
        if not re.fullmatch(files, name):
            raise UserError(f'{target} holds {name}, which --force does not replace', 'Give another folder, or remove this one yourself.')


@contextlib.contextmanager
def locked(folder):
    """Context that holds a folder against other processes; its value is False if one of them has it.

    The lock goes with the process, however that ends. Where there are no locks, the value is True.
    """
    if fcntl is None:
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.exists(folder) and os.path.samestat(os.fstat(descriptor), os.stat(folder))  # Not if it was renamed meanwhile.
        except BlockingIOError:
            ours = False
        except OSError:  # A file system without locks
            ours = True
        yield ours
    finally:
        os.close(descriptor)


def _clear_remains(place, partial, replaced, files):
    """After a run that was killed: put back what it was about to replace, and delete what it had not finished."""
    if os.path.isdir(replaced) and not os.path.isdir(place):
        os.replace(replaced, place)
    for remains in (partial, replaced):
        _delete_folder(remains, files, but_itself=remains == partial)
        if os.path.isdir(remains) and os.listdir(remains):
            raise UserError(f'{remains} is in the way: it holds {list_folder(remains)[0]}, which is not from an earlier run',
                            'Move it elsewhere.')


def _delete_folder(folder, files, but_itself=False):
    """Delete the files in `folder` whose names match, and then itself if it is empty; nothing else."""
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if re.fullmatch(files, name):
            os.remove(os.path.join(folder, name))
    if not but_itself:
        with contextlib.suppress(OSError):
            os.rmdir(folder)


@contextlib.contextmanager
def new_remote_files(target, files, force=False):
    """As `new_folder` for an address, where folders cannot be renamed: context of the ending that names should have meanwhile.

    In the end the files are renamed one by one, the first in the order of their names last.
    """
    ending = '.partial'

    def here(keep):
        return [name for name in list_folder(target) if keep(name)] if is_folder(target) else []

    _check_replaceable(target, here(lambda name: not name.endswith(ending)), files, force)
    make_folders(target)
    try:
        yield ending
        old = here(lambda name: not name.endswith(ending))
        _check_replaceable(target, old, files, force)
        for name in old:
            remove(f'{target}/{name}')
        for name in reversed(here(lambda name: name.endswith(ending))):
            rename(f'{target}/{name}', f'{target}/{name.removesuffix(ending)}')
    except BaseException:
        for name in here(lambda name: name.endswith(ending)):
            remove(f'{target}/{name}')
        raise
