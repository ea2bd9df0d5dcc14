"""One run of a command = one numbered folder: results/00000-generate-images and so on.

Files of a finished run: submit_config.json and submit_config.txt (what was asked for), log.txt (everything printed),
run.txt (when it ran), _finished.txt (there only if the run succeeded; empty, or a line that says why it ended), and what the run
itself made.
"""

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

from dnnlib import cli, storage
from dnnlib.util import format_time

_OWN_FILES = {'submit_config.json', 'submit_config.txt', 'log.txt'}


class RunDir:
    """Context manager: makes the run's folder, copies what is printed into its log, notes how the run ended.

    Args:
        result_dir: Folder of all runs; made if missing.
        desc:       Rest of the folder's name after the number.
        func_name:  Function that runs, 'module.function', for the first and last line of the log.
        kwargs:     Its arguments, as JSON-able values; written down in submit_config.
        num_gpus:   Written down in submit_config.
        path:       Folder of an earlier run to go on in: its log is appended to. None = a new folder.

    Attributes:
        path:   The folder, e.g. 'results/00000-generate-images'.
        ending: Why the run ended, one line for _finished.txt; '' unless the run sets it.

    An exception inside the block is written to log.txt too and goes on to the caller; _finished.txt then stays absent. If it
    is a `cli.UserError` and the run has made no file yet, the folder is removed: a mistyped name leaves nothing behind.

    Raises: cli.UserError if the folder cannot be made, or another process is at work in it.
    """

    def __init__(self, result_dir, desc, func_name, kwargs, num_gpus=1, path=None):
        self._is_new, self.ending = path is None, ''
        self.path, self._run_id = (path, _leading_number(os.path.basename(path))) if path else _make_numbered_dir(result_dir, desc)
        self._func_name = func_name
        self._lock = storage.locked(self.path)
        if not self._lock.__enter__():
            self._lock.__exit__(None, None, None)
            raise cli.UserError(f'another process is at work in {self.path}', 'Wait until it has ended, or stop it.')
        self._write_submit_config(desc, dict(kwargs), num_gpus)

    def __enter__(self):
        print(f'Local submit - run_dir: {self.path}')
        self._start = datetime.datetime.now()
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(self.path, '_finished.txt'))
        self._log = open(os.path.join(self.path, 'log.txt'), 'a', encoding='utf-8')
        self._streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Tee(sys.stdout, self._log), _Tee(sys.stderr, self._log)
        print(f'dnnlib: Running {self._func_name}() on localhost...')
        return self

    def __exit__(self, exc_type, exc, tb):
        stop = datetime.datetime.now()
        if exc is None:
            times = dict(task_name=os.path.basename(self.path), host_name='localhost', start_time=str(self._start), stop_time=str(stop))
            _write(os.path.join(self.path, 'run.txt'), pprint.pformat(times, width=200) + '\n')
            print(f'dnnlib: Finished {self._func_name}() in {format_time((stop - self._start).total_seconds())}.')
        elif isinstance(exc, cli.UserError):
            self._log.write(f'Error: {exc}\n')
        elif not isinstance(exc, cli.Stopped):
            self._log.write(''.join(traceback.format_exception(exc_type, exc, tb)))
        sys.stdout, sys.stderr = self._streams
        self._log.close()
        if exc is None:
            _write(os.path.join(self.path, '_finished.txt'), self.ending and f'{self.ending}\n')
        elif isinstance(exc, cli.UserError) and self._is_new and set(os.listdir(self.path)) <= _OWN_FILES:
            shutil.rmtree(self.path)
        self._lock.__exit__(None, None, None)

    def _write_submit_config(self, desc, kwargs, num_gpus):
        config = dict(
            run_desc=desc, run_dir=self.path, run_id=self._run_id, run_name=os.path.basename(self.path), run_func_name=self._func_name,
            run_func_kwargs=kwargs, num_gpus=num_gpus, host_name='localhost', versions=_versions(), command_line=list(sys.argv))
        _write(os.path.join(self.path, 'submit_config.json'), json.dumps(config, indent=4) + '\n')
        _write(os.path.join(self.path, 'submit_config.txt'), pprint.pformat(config, indent=4, width=200) + '\n')


class _Tee:
    """A text stream that also writes to the log, at once. Progress bars, which redraw their line with \\r, are not logged.

    While a disk is full, lines wait in memory: nobody stops a long run for them.
    """

    def __init__(self, stream, log):
        self._stream = stream
        self._log = log

    def write(self, text):
        self._write(self._stream, text)
        if '\r' not in text and not self._log.closed:  # closed: a logging handler may outlive the run
            self._write(self._log, text)
        return len(text)

    @staticmethod
    def _write(stream, text):
        try:
            stream.write(text)
            stream.flush()
        except OSError as err:
            if err.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise

    def __getattr__(self, name):  # flush, isatty, fileno, encoding, ... are those of the stream
        return getattr(self._stream, name)


def _make_numbered_dir(result_dir, desc):
    """Make result_dir/NNNNN-desc, NNNNN = 1 + the largest leading number among the folders there. Returns (path, number).

    Safe against other processes doing the same: each looks again after its mkdir, and whoever sees a second folder of that
    number steps back. Of two rivals the later one always sees the earlier, so a number is never kept twice.
    """
    desc = re.sub(r'[\\/]+', '-', desc)
    try:
        os.makedirs(result_dir, exist_ok=True)
        while True:
            run_id = max(_leading_numbers(result_dir), default=-1) + 1
            path = os.path.join(result_dir, f'{run_id:05d}-{desc}')
            try:
                os.mkdir(path)
            except FileExistsError:
                continue
            if _leading_numbers(result_dir).count(run_id) == 1:
                return path, run_id
            os.rmdir(path)
            time.sleep(random.uniform(0.0, 0.05))
    except OSError as err:
        raise cli.UserError(f'cannot make a run folder in {result_dir!r}: {err.strerror}',
                            'Choose a folder you can write to with --result-dir.') from err


def _leading_numbers(folder):
    with os.scandir(folder) as entries:
        numbers = [_leading_number(entry.name) for entry in entries if entry.is_dir()]
    return [number for number in numbers if number is not None]


def _leading_number(name):
    match = re.match(r'\d+', name)
    return int(match[0]) if match else None


def _versions():
    """{'python': '3.12.1', 'tensorflow': ..., 'numpy': ...}; None = not installed. Imports none of them."""
    versions = {'python': platform.python_version()}
    for name in ('tensorflow', 'numpy'):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _write(path, text):
    with storage.new_file(path) as part, open(part, 'w', encoding='utf-8') as file:
        file.write(text)
