"""The cache folders that hold finished builds of the native operations, and failed builds with their causes.

A cache folder contains one folder per build, named by the build's key (custom_ops/build.py), with the library,
build.json and log.txt. A build is made in a temporary folder and renamed, so it is always complete. There are up to
three cache folders: the one that STYLEGAN2_OPS_CACHE names, the one beside the sources, and the user's. A process looks
in all of them, builds in the first that it can write to, and leaves a copy in the user's, where other checkouts find
it. If STYLEGAN2_OPS_CACHE is set, the library is always loaded from that folder: a build found elsewhere is copied to
it. A lock in the user's folder makes processes that start together share one build.
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
from collections.abc import Iterator
from typing import Any, NamedTuple

from custom_ops import cpu_features
from dnnlib import cli

SOURCES = pathlib.Path(__file__).parent / 'native'
LIBRARY = 'stylegan2_ops.so'
_KEPT_BUILDS = 8  # Per cache folder: machines with different CPUs may share one.


class BuildError(cli.UserError):
    """The native operations cannot be built: fact and remedy."""


class Wanted(NamedTuple):
    """The build that a process needs: the one with this key, or another that serves as well."""
    key: str          # Hash of everything that the build depends on.
    cpu: str          # Hash of everything that its CPU part depends on.
    cuda: str | None  # Hash of what its CUDA part depends on except the architectures, or of the reason why it cannot
    #                   be built. None = no CUDA part is wanted.
    archs: list[str]  # GPU architectures.


class Here(NamedTuple):
    """What a finished build must fit: this checkout, this TensorFlow, this machine."""
    sources: str            # Hash of the sources and of the flags that do not depend on the machine.
    tensorflow: str         # Version.
    machine: str            # 'x86_64', 'aarch64'.
    built_on: str           # Hash of the CPU's features. A build that was made on such a CPU is the best one.
    gpus: list[int] | None  # Compute capabilities of the GPUs, such as [75, 90]. None = unknown.

    def in_build_json(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if name != 'gpus'}

    def misfit(self, info: dict[str, Any]) -> str | None:
        """Why a build, of which this is the build.json, cannot be used here; None if it can."""
        if 'error' in info:
            return 'it failed'
        if info.get('sources') != self.sources:
            return 'it was built from other sources than those of this version of stylegan2-tf2'
        if info['tensorflow'] != self.tensorflow:
            return f'it was built for TensorFlow {info["tensorflow"]}, this is TensorFlow {self.tensorflow}'
        if info['machine'] != self.machine:
            return f'it was built for {info["machine"]}, this is {self.machine}'
        missing = cpu_features.missing(info['instructions']) if info['built_on'] != self.built_on else []
        if missing:
            return f'it needs a CPU with {", ".join(missing)}'
        if self.gpus is None:
            return 'the GPU here does not tell its architecture'
        if self.gpus and not info['archs']:
            return 'it has no CUDA kernels, and there is a GPU'
        other = [gpu for gpu in self.gpus if not _covers(info['archs'], gpu)]
        if other:
            return f'it has CUDA kernels for {", ".join(info["archs"])}, and the GPU here has {other[0]}'
        return None


def _covers(archs: list[str], gpu: int) -> bool:
    """Do CUDA kernels for `archs` run on a GPU? Code runs on its generation from its number on, the PTX of the last one
    on all newer GPUs; what ends in a letter on that architecture alone."""
    numbers = [int(arch) for arch in archs if arch.isdigit()]
    return (gpu in [int(arch.rstrip('af')) for arch in archs] or
            any(number // 10 == gpu // 10 and number <= gpu for number in numbers) or
            bool(archs) and archs[-1].isdigit() and int(archs[-1]) <= gpu)


def _chosen_root() -> pathlib.Path | None:
    chosen = os.environ.get('STYLEGAN2_OPS_CACHE')
    return pathlib.Path(chosen).expanduser().absolute() if chosen else None


def _user_root() -> pathlib.Path:
    cache_home = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return pathlib.Path(cache_home).absolute() / 'stylegan2-tf2'


def _roots() -> list[pathlib.Path]:
    """All cache folders, in order of preference."""
    return list(dict.fromkeys(filter(None, [_chosen_root(), SOURCES / '_build', _user_root()])))


def writable_root() -> pathlib.Path:
    """Choose the cache folder to build in, and create it.

    Returns:
        The folder that STYLEGAN2_OPS_CACHE names; if it is not set, the first cache folder that can be written to.

    Raises:
        BuildError: That folder, or each of them, cannot be written to.
    """
    chosen = _chosen_root()
    if chosen:
        try:
            _prepare(chosen)
            return chosen
        except OSError as err:
            raise BuildError(f'STYLEGAN2_OPS_CACHE names {chosen}, which cannot be written to: {_reason(err)}',
                             'Name a folder that you can write to with STYLEGAN2_OPS_CACHE, or unset it.') from err
    causes = []
    for root in _roots():
        try:
            _prepare(root)
            return root
        except OSError as err:
            causes.append(f'{root} ({_reason(err)})')
    raise BuildError(f'there is no folder to build in: {", ".join(causes)}',
                     'Name one that you can write to with STYLEGAN2_OPS_CACHE.')


def _prepare(root: pathlib.Path) -> None:
    """Create a cache folder. Raises OSError if it cannot be written to."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=root):
        pass


@contextlib.contextmanager
def locked(root: pathlib.Path) -> Iterator[None]:
    """Hold the locks of a cache folder and of the user's: one build at a time in each.

    Args:
        root: What `writable_root` returned.
    """
    with contextlib.ExitStack() as stack:
        if root.resolve() != _user_root().resolve():  # Locking one folder twice would wait for ever.
            with contextlib.suppress(OSError):  # If the user's folder cannot be written to, the lock of `root` must do.
                _prepare(_user_root())
                stack.enter_context(_lock(_user_root()))
        stack.enter_context(_lock(root))
        yield


@contextlib.contextmanager
def _lock(root: pathlib.Path) -> Iterator[None]:
    """Lock a folder until the context, or the process, ends.

    A file system without locks is no error: several processes may then build, and the last rename wins.
    """
    import fcntl  # Imported late: it exists on Linux only, and this module is imported elsewhere too.
    with open(root / '.lock', 'a', encoding='utf-8') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print('Another process is building the custom ops: waiting for it ...', file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as err:
            if err.errno not in (errno.ENOLCK, errno.ENOTSUP):
                raise
        yield


def chosen_library(here: Here) -> pathlib.Path | None:
    """The library that STYLEGAN2_OPS_LIBRARY names, or None if it is not set.

    Args:
        here: What it must fit.

    Raises:
        BuildError: It is not there, or does not fit.
    """
    chosen = os.environ.get('STYLEGAN2_OPS_LIBRARY')
    if not chosen:
        return None
    path = pathlib.Path(chosen).expanduser().absolute()
    remedy = ('Name a library that python -m custom_ops.build has made for this machine, or unset '
              'STYLEGAN2_OPS_LIBRARY, so that one is found or built.')
    if not path.is_file():
        raise BuildError(f'STYLEGAN2_OPS_LIBRARY={chosen}: expected a library such as {LIBRARY}; there is no such file',
                         remedy)
    info = _info(path.parent)
    if info is None:
        raise BuildError(f'STYLEGAN2_OPS_LIBRARY={chosen}: there is no readable build.json beside it, which says what '
                         'it was built for', f'Copy the whole folder of the build. {remedy}')
    why = here._replace(gpus=here.gpus or []).misfit(info)
    if why:
        raise BuildError(f'STYLEGAN2_OPS_LIBRARY={chosen}: {why}', remedy)
    return path


def find(here: Here) -> pathlib.Path | None:
    """Look in all cache folders for a finished build that fits, whatever made it.

    Args:
        here: What it must fit.

    Returns:
        Path of its library: of the latest one, but rather of one that was made on such a CPU; None if there is none.
    """
    best, path = None, None
    for root in _roots():
        for folder in _builds(root):
            info = _info(folder)
            if info and here.misfit(info) is None and (folder / LIBRARY).is_file():
                rank = info['built_on'] == here.built_on, info['time']
                if best is None or rank > best:
                    best, path = rank, folder / LIBRARY
    if path:
        with contextlib.suppress(OSError):
            os.utime(path.parent)  # Marks the build as used, so that remove_old keeps it.
    return path


def look_up(wanted: Wanted, retry: bool) -> pathlib.Path | None:
    """Look for a finished build in all cache folders.

    Args:
        wanted: The build that is needed.
        retry:  Treat failed builds, and builds whose CUDA part failed, as if they were not there?

    Returns:
        Path of the library, or None if there is none.

    Raises:
        BuildError: Only a failed build was found. This is its error.
    """
    failure = None
    for root in _roots():
        for folder in sorted(_builds(root), key=lambda folder: folder.name != wanted.key):  # An exact match first.
            info = _info(folder)
            if info is None or not (folder.name == wanted.key or _serves(info, wanted)):
                continue
            if 'error' in info:
                failure = failure or BuildError(*info['error'])
            elif (folder / LIBRARY).is_file() and not (retry and info['cuda_error']):
                with contextlib.suppress(OSError):
                    os.utime(folder)  # Marks the build as used, so that remove_old keeps it.
                return folder / LIBRARY
    if failure and not retry:
        raise failure
    return None


def _info(folder: pathlib.Path) -> dict[str, Any] | None:
    """The contents of build.json, or None if it cannot be read."""
    try:
        return json.loads((folder / 'build.json').read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None


def _serves(info: dict[str, Any], wanted: Wanted) -> bool:
    """Does a build have the same CPU part, and all wanted architectures? CUDA kernels do no harm without a GPU."""
    if 'error' in info or info.get('cpu') != wanted.cpu:
        return False
    if wanted.cuda is None:
        return True
    return bool(wanted.archs) and info['cuda'] == wanted.cuda and set(wanted.archs) <= set(info['archs'])


def last_times(archs: list[str]) -> dict[str, float]:
    """How long the latest build for these GPU architectures took.

    Args:
        archs: Compute capabilities, such as ['80', '90'].

    Returns:
        {source: seconds, ..., 'all': seconds}; {} if there is no such build.
    """
    infos = [info for root in _roots() for info in map(_info, _builds(root))
             if info and 'error' not in info and info.get('archs') == archs]
    return max(infos, key=lambda info: info['time'], default={}).get('times', {})


def is_in_place(path: pathlib.Path) -> bool:
    """Is a library where this process wants it: in the folder that STYLEGAN2_OPS_CACHE names, or anywhere if unset?"""
    return _chosen_root() in (None, path.parents[1])


def share(path: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
    """Copy a finished build to the user's folder, and to the one that STYLEGAN2_OPS_CACHE names.

    The caller holds the locks.

    Args:
        path: The library of the build.
        root: What `writable_root` returned.

    Returns:
        The library's path in the folder where this process wants it.
    """
    with contextlib.suppress(OSError):  # The user's folder may be full or read-only.
        _copy(path.parent, _user_root())
    return path if is_in_place(path) else _copy(path.parent, root) / LIBRARY


def _copy(folder: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
    """Copy the folder of a build to another cache folder, unless it is there. Returns the copy's path."""
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


def _builds(root: pathlib.Path, temporary: bool = False) -> list[pathlib.Path]:
    """Folders of the builds in a cache folder, the most recently used first; `temporary`: unfinished ones too."""
    pattern = r'[0-9a-f]{20}(\.tmp-.*)?' if temporary else r'[0-9a-f]{20}'
    found = []
    with contextlib.suppress(OSError):
        for folder in root.iterdir():
            if re.fullmatch(pattern, folder.name):
                with contextlib.suppress(OSError):
                    found.append((folder.stat().st_mtime, folder))
    return [folder for _mtime, folder in sorted(found, reverse=True)]


def remove_old(root: pathlib.Path) -> None:
    """Remove all but the most recently used builds, and what killed processes left.

    The caller holds the lock of `root`, so no temporary folder belongs to a running build.
    """
    kept = _builds(root)[:_KEPT_BUILDS]
    for folder in _builds(root, temporary=True):
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def clean() -> list[str]:
    """Remove all builds, finished and failed.

    Returns:
        The cache folders that contained builds.
    """
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


def _reason(err: OSError) -> str:
    return err.strerror or str(err)


def os_error(err: OSError, root: pathlib.Path) -> BuildError:
    """Turn the OSError that ended a build into an error with a remedy.

    Args:
        err:  The error.
        root: The cache folder of the build.

    Returns:
        The BuildError to raise.
    """
    if err.errno in (errno.ENOSPC, errno.EDQUOT):
        return BuildError(f'no space left to build the custom ops in {root} or {tempfile.gettempdir()}',
                          'Free some space, or name another folder with STYLEGAN2_OPS_CACHE.')
    return BuildError(f'cannot build the custom ops in {root}: {_reason(err)}',
                      'Name another folder with STYLEGAN2_OPS_CACHE.')
