"""The folders that hold finished builds of the native operations, and failed ones with their causes.

A cache folder holds one folder per build, named by its key (custom_ops/build.py): the library, build.json and log.txt. It appears
there whole, by a rename.
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

from dnnlib import cli

SOURCES = pathlib.Path(__file__).parent / 'native'
LIBRARY = 'stylegan2_ops.so'
_KEPT_BUILDS = 8  # In one cache folder, which machines with different CPUs may share.


class BuildError(cli.UserError):
    """The native operations cannot be built: fact and remedy."""


def _roots():
    """Where builds may be, the first choice first."""
    chosen = os.environ.get('STYLEGAN2_OPS_CACHE')
    if chosen:
        return [pathlib.Path(chosen).expanduser().absolute()]
    user_cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return [SOURCES / '_build', pathlib.Path(user_cache).absolute() / 'stylegan2-tf2']


def writable_root():
    causes = []
    for root in _roots():
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                return root
        except OSError as err:
            causes.append(f'{root} ({_reason(err)})')
    raise BuildError(f'there is no folder to build in: {", ".join(causes)}', 'Name one that you can write to with STYLEGAN2_OPS_CACHE.')


@contextlib.contextmanager
def locked(root):
    """One build at a time in a cache folder. The lock goes with the process; where the file system has none, the rename still holds."""
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


def look_up(key, retry):
    """Path of the finished library, or None. Raises the BuildError of a failed build, unless it is to be tried again."""
    failure = None
    for root in _roots():
        folder = root / key
        try:
            info = json.loads((folder / 'build.json').read_text(encoding='utf-8'))
        except (OSError, ValueError):
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
