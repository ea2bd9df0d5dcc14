"""One run of a command = one numbered folder: results/00000-generate-images and so on.

Files of a finished run: submit_config.json and submit_config.txt (what was asked for), log.txt (everything printed),
run.txt (when it ran), _finished.txt (exists only if the run succeeded; empty, or a line that says why it ended), and
the run's own results.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import importlib.metadata
import json
import os
import platform
import pprint
import random
import re
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, TextIO

from dnnlib import cli, storage
from dnnlib.progress import format_time

_OWN_FILES = {'submit_config.json', 'submit_config.txt', 'log.txt'}


class RunDir:
    """Context manager that makes the run's folder, copies what is printed into its log, and notes how the run ended.

    An exception inside the block is written to log.txt and raised again; _finished.txt is then not written. If it is a
    `cli.UserError` and the run has written no file yet, the folder is removed: a mistyped name leaves nothing behind.

    When a run continues in the folder of an earlier run, submit_config.* and _finished.txt stay as they are until
    `begin` is called or the block ends without an exception. A run that is refused leaves them untouched.

    Args:
        result_dir: Folder of all runs. It is made if it does not exist.
        desc:       Rest of the folder's name after the number.
        func_name:  Function that runs, 'module.function', for the first and last line of the log.
        kwargs:     Its arguments, as values for JSON, to write to submit_config.
        num_gpus:   Number of GPUs, to write to submit_config.
        path:       Folder of an earlier run to continue in: its log is appended to. None = a new folder.

    Attributes:
        path:   The folder, such as 'results/00000-generate-images'.
        ending: Why the run ended, one line for _finished.txt; '' unless the run sets it.

    Raises:
        cli.UserError: The folder cannot be made, or another process is working in it.
    """

    def __init__(self, result_dir: str, desc: str, func_name: str, kwargs: Mapping[str, Any], num_gpus: int = 1,
                 path: str | None = None):
        self._is_new, self.ending = path is None, ''
        if path is None:
            self.path, self._run_id = _make_numbered_dir(result_dir, desc)
        else:
            self.path, self._run_id = path, _leading_number(os.path.basename(path))
        self._func_name = func_name
        self._config = dict(
            run_desc=desc, run_dir=self.path, run_id=self._run_id, run_name=os.path.basename(self.path),
            run_func_name=func_name, run_func_kwargs=dict(kwargs), num_gpus=num_gpus, host_name='localhost',
            versions=_versions(), command_line=list(sys.argv))
        self._begun = False
        self._lock = storage.locked(self.path)
        if not self._lock.__enter__():
            self._lock.__exit__(None, None, None)
            raise _busy(self.path)
        if self._is_new:
            try:
                self.begin()
            except cli.UserError:
                shutil.rmtree(self.path)
                self._lock.__exit__(None, None, None)
                raise

    def begin(self) -> None:
        """Write submit_config.*, and remove _finished.txt of an earlier run. Only the first call has an effect."""
        if self._begun:
            return
        self._begun = True
        _write(os.path.join(self.path, 'submit_config.json'), json.dumps(self._config, indent=4) + '\n')
        _write(os.path.join(self.path, 'submit_config.txt'), pprint.pformat(self._config, indent=4, width=200) + '\n')
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(self.path, '_finished.txt'))

    def __enter__(self) -> RunDir:
        print(f'Local submit - run_dir: {self.path}')
        self._start = datetime.datetime.now()
        self._log = open(os.path.join(self.path, 'log.txt'), 'a', encoding='utf-8', errors='backslashreplace')
        self._streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Tee(sys.stdout, self._log), _Tee(sys.stderr, self._log)
        print(f'dnnlib: Running {self._func_name}() on localhost...')
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None,
                 tb: TracebackType | None) -> None:
        try:
            self._end(exc_type, exc, tb)
        finally:
            self._lock.__exit__(None, None, None)

    def _end(self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        stop = datetime.datetime.now()
        try:
            if exc is None:
                self.begin()
                times = dict(task_name=os.path.basename(self.path), host_name='localhost',
                             start_time=str(self._start), stop_time=str(stop))
                _write(os.path.join(self.path, 'run.txt'), pprint.pformat(times, width=200) + '\n')
                print(f'dnnlib: Finished {self._func_name}() in {format_time((stop - self._start).total_seconds())}.')
            elif isinstance(exc, cli.UserError):
                _write_if_room(self._log, f'Error: {exc}\n')
            elif not isinstance(exc, cli.Stopped):
                _write_if_room(self._log, ''.join(traceback.format_exception(exc_type, exc, tb)))
        finally:
            sys.stdout, sys.stderr = self._streams
            with _without_errors_of_a_full_disk():
                self._log.close()
        if exc is None:
            _write(os.path.join(self.path, '_finished.txt'), self.ending and f'{self.ending}\n')
        elif isinstance(exc, cli.UserError) and self._is_new and set(os.listdir(self.path)) <= _OWN_FILES:
            shutil.rmtree(self.path)


class _Tee:
    """A text stream that also writes to the log at once, except progress bars, which redraw their line with \\r.

    While the disk is full, lines wait in memory: they are not worth the end of a long run.
    """

    def __init__(self, stream: TextIO, log: TextIO):
        self._stream = stream
        self._log = log

    def write(self, text: str) -> int:
        _write_if_room(self._stream, text)
        if '\r' not in text and not self._log.closed:  # A logging handler may outlive the run.
            _write_if_room(self._log, text)
        return len(text)

    def __getattr__(self, name: str) -> Any:  # flush, isatty, fileno, encoding, ... are those of the stream.
        return getattr(self._stream, name)


def check_can_run(result_dir: str, path: str | None = None) -> None:
    """Make the checks of `RunDir` without making anything.

    Args:
        result_dir: Folder of all runs. It need not exist.
        path:       Folder of an earlier run to continue in. None = a new folder.

    Raises:
        cli.UserError: The folder of the run cannot be made, or another process is working in it.
    """
    if path is not None:
        with storage.locked(path) as is_free:
            if not is_free:
                raise _busy(path)
        result_dir = path
    existing = os.path.abspath(result_dir)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        raise _cannot_make(result_dir, os.strerror(errno.ENOTDIR))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise _cannot_make(result_dir, os.strerror(errno.EACCES))


def _busy(path: str) -> cli.UserError:
    return cli.UserError(f'another process is at work in {path}', 'Wait until it has ended, or stop it.')


def _cannot_make(result_dir: str, reason: str | None) -> cli.UserError:
    return cli.UserError(f'cannot make a run folder in {result_dir!r}: {reason}',
                         'Choose a folder you can write to with --result-dir.')


def _make_numbered_dir(result_dir: str, desc: str) -> tuple[str, int]:
    """Make result_dir/NNNNN-desc, where NNNNN is 1 + the largest leading number among the folders there.

    Other processes may do the same at the same time: each looks again after its mkdir, and one that sees a second
    folder of that number removes its own and tries again. The later of two processes always sees the folder of the
    earlier one, so a number is never kept twice.

    Returns:
        (path, number).
    """
    desc = re.sub(r'[\\/]+', '-', desc)
    lowest = 0
    check_can_run(result_dir)
    try:
        os.makedirs(result_dir, exist_ok=True)
        while True:
            run_id = max([lowest - 1, *_leading_numbers(result_dir)]) + 1
            path = os.path.join(result_dir, f'{run_id:05d}-{desc}')
            try:
                os.mkdir(path)
            except FileExistsError:
                if not os.path.isdir(path):  # A file or a dangling link: it does not count as a run, but is in the way.
                    lowest = run_id + 1
                continue
            if _leading_numbers(result_dir).count(run_id) == 1:
                return path, run_id
            os.rmdir(path)
            time.sleep(random.uniform(0.0, 0.05))
    except OSError as err:
        raise _cannot_make(result_dir, err.strerror) from err


def _leading_numbers(folder: str) -> list[int]:
    with os.scandir(folder) as entries:
        numbers = [_leading_number(entry.name) for entry in entries if entry.is_dir()]
    return [number for number in numbers if number is not None]


def _leading_number(name: str) -> int | None:
    match = re.match(r'\d+', name)
    return int(match[0]) if match else None


def _versions() -> dict[str, str | None]:
    """{'python': '3.12.1', 'tensorflow': ..., 'numpy': ...}; None = not installed. None of them is imported."""
    versions: dict[str, str | None] = {'python': platform.python_version()}
    for name in ('tensorflow', 'numpy'):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


@contextlib.contextmanager
def _without_errors_of_a_full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as err:
        if not storage.is_full(err):
            raise


def _write_if_room(stream: TextIO, text: str) -> None:
    with _without_errors_of_a_full_disk():
        stream.write(text)
        stream.flush()


def _write(path: str, text: str) -> None:
    try:
        with storage.new_file(path) as part, open(part, 'w', encoding='utf-8') as file:
            file.write(text)
    except OSError as err:
        raise cli.UserError(f'{path}: cannot be written: {err.strerror}',
                            'Check the folder, its permissions and the free space.') from err


def network_snapshots(folder: str | os.PathLike) -> list[str]:
    """Names of the files network-snapshot-*.pkl in the folder of a training run, in order of time."""
    names = [name for name in os.listdir(folder) if re.fullmatch(r'network-snapshot-\d.*\.pkl', name)]
    # By number, because from kimg 1,000,000 on there is one more digit. 000001 comes before 000001_500.
    return sorted(names, key=lambda name: ([int(number) for number in re.findall(r'\d+', name)], name))
