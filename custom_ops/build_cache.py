"""The folders that hold finished builds of the native operations, and failed ones with their causes.

A cache folder holds one folder per build, named by its key (custom_ops/build.py): the library, build.json and log.txt. It appears
there whole, by a rename. There are up to three cache folders: the one that STYLEGAN2_OPS_CACHE names, the one beside the sources, and
the user's. A process looks into all of them, builds in the first that it can write to, and leaves a copy in the user's, where processes
with other folders find it. A lock in the user's folder lets one of them build while the others wait.
"""

import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
from typing import NamedTuple

from dnnlib import cli

SOURCES = pathlib.Path(__file__).parent / 'native'
LIBRARY = 'stylegan2_ops.so'
_KEPT_BUILDS = 8  # In one cache folder, which machines with different CPUs may share.


class BuildError(cli.UserError):
    """The native operations cannot be built: fact and remedy."""


class Wanted(NamedTuple):
    """What a process needs: the build of this key, or another that serves it as well."""
    key: str          # Of all that the build depends on.
    cpu: str          # Of what its CPU part depends on.
    cuda: str | None  # Of what its CUDA part depends on but the architectures, or of why there is none; None = none is wanted.
    archs: list       # GPU architectures.


def _chosen_root():
    chosen = os.environ.get('STYLEGAN2_OPS_CACHE')
    return pathlib.Path(chosen).expanduser().absolute() if chosen else None


def _user_root():
    return pathlib.Path(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')).absolute() / 'stylegan2-tf2'


def _roots():
    """Where builds may be, the first choice first."""
    return list(dict.fromkeys(filter(None, [_chosen_root(), SOURCES / '_build', _user_root()])))


def writable_root():
    """Where to build: in the folder that the environment names, else in the first that can be written to."""
    causes = []
    for root in [_chosen_root()] if _chosen_root() else _roots():
        try:
            _prepare(root)
            return root
        except OSError as err:
            causes.append(f'{root} ({_reason(err)})')
    raise BuildError(f'there is no folder to build in: {", ".join(causes)}', 'Name one that you can write to with STYLEGAN2_OPS_CACHE.')


def _prepare(root):
    """Make a cache folder; OSError where it cannot be written to."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=root):
        pass


@contextlib.contextmanager
def locked(root):
    """One build at a time in a cache folder, and one for each user."""
    with contextlib.ExitStack() as stack:
        if root.resolve() != _user_root().resolve():  # Two names of one folder must not wait for each other.
            with contextlib.suppress(OSError):  # A home that cannot be written to: the lock of `root` must do.
                _prepare(_user_root())
                stack.enter_context(_lock(_user_root()))
        stack.enter_context(_lock(root))
        yield


@contextlib.contextmanager
def _lock(root):
    """The lock goes with the process; where the file system has none, the rename still holds."""
    import fcntl  # Linux only, like the builds; this module is loaded elsewhere too.
    with open(root / '.lock', 'a', encoding='utf-8') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print('Another process builds the custom ops: waiting for it ...', file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as err:
            if err.errno not in (errno.ENOLCK, errno.ENOTSUP):
                raise
        yield


def look_up(wanted, retry):
    """Path of a finished library, or None. Raises the BuildError of a failed build, unless it is to be tried again."""
    failure = None
    for root in _roots():
        for folder in sorted(_builds(root), key=lambda folder: folder.name != wanted.key):  # The very build first.
            info = _info(folder)
            if info is None or not (folder.name == wanted.key or _serves(info, wanted)):
                continue
            if 'error' in info:
                failure = failure or BuildError(*info['error'])
            elif (folder / LIBRARY).is_file() and not (retry and info['cuda_error']):
                with contextlib.suppress(OSError):
                    os.utime(folder)  # Builds that are in use stay, see remove_old.
                return folder / LIBRARY
    if failure and not retry:
        raise failure
    return None


def _info(folder):
    """What build.json says; None where it cannot be read."""
    try:
        return json.loads((folder / 'build.json').read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None


def _serves(info, wanted):
    """Is it the same on the CPU, and does it hold all the architectures? Without a GPU, CUDA kernels do no harm."""
    if 'error' in info or info.get('cpu') != wanted.cpu:
        return False
    return wanted.cuda is None or (bool(wanted.archs) and info['cuda'] == wanted.cuda and set(wanted.archs) <= set(info['archs']))


def last_times(archs):
    """{source: seconds, ..., 'all': seconds} of the last build for these GPU architectures; {} where none is left."""
    infos = [info for root in _roots() for info in map(_info, _builds(root)) if info and 'error' not in info and info.get('archs') == archs]
    return max(infos, key=lambda info: info['time'], default={}).get('times', {})


def is_in_place(path):
    """Does the library lie where this process wants it: anywhere, or in the folder that the environment names?"""
    return _chosen_root() in (None, path.parents[1])


def share(path, root):
    """Copy a finished build to `root`, if the environment names that, and to the user's folder. The caller holds the locks.

    Returns: the library's path in the folder where this process wants it.
    """
    with contextlib.suppress(OSError):  # The user's folder may be full or not writable.
        _copy(path.parent, _user_root())
    return path if is_in_place(path) else _copy(path.parent, root) / LIBRARY


def _copy(folder, root):
    target = root / folder.name
    if not (target / LIBRARY).exists():
        shutil.rmtree(target, ignore_errors=True)  # A build that failed there.
        remove_old(root)
        work = pathlib.Path(tempfile.mkdtemp(prefix=f'{folder.name}.tmp-', dir=root))
        try:
            shutil.copytree(folder, work, dirs_exist_ok=True)
            work.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target


def _builds(root, temporary=False):
    """Folders of builds in a cache folder, the latest used first."""
    pattern = r'[0-9a-f]{20}(\.tmp-.*)?' if temporary else r'[0-9a-f]{20}'
    found = []
    with contextlib.suppress(OSError):
        for folder in root.iterdir():
            if re.fullmatch(pattern, folder.name):
                with contextlib.suppress(OSError):
                    found.append((folder.stat().st_mtime, folder))
    return [folder for _time, folder in sorted(found, reverse=True)]


def remove_old(root):
    """Keep the builds used last. We hold the lock: what is temporary was left by a process that was killed."""
    kept = _builds(root)[:_KEPT_BUILDS]
    for folder in _builds(root, temporary=True):
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def clean():
    """Remove all builds, good and failed; returns the folders that held some."""
    emptied = []
    for root in _roots():
        builds = _builds(root, temporary=True)
        for folder in builds:
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            (root / '.lock').unlink()
        with contextlib.suppress(OSError):
            root.rmdir()
        if builds:
            emptied.append(str(root))
    return emptied


def _reason(err):
    return err.strerror or str(err)


def os_error(err, root):
    """BuildError from the OSError that ended a build."""
    if err.errno in (errno.ENOSPC, errno.EDQUOT):
        return BuildError(f'no space left to build the custom ops in {root} or {tempfile.gettempdir()}',
                          'Free some, or name another folder with STYLEGAN2_OPS_CACHE.')
    return BuildError(f'cannot build the custom ops in {root}: {_reason(err)}', 'Name another folder with STYLEGAN2_OPS_CACHE.')
