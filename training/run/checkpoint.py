"""Checkpoints: the whole state of a run. A run that continues from one ends as if it had never been stopped.

A checkpoint is a folder RUN_DIR/checkpoints/kimg-NNNNNN.NNN, named after the thousands of images shown, with

    variables.*       every tf.Variable of the training: networks, moments of Adam, ..., as tf.train.Checkpoint writes
    them
    state.json        the rest: progress of the run, state of the random generators, unfinished averages, settings
    sha256sums.txt    checksums of the other files, which `sha256sum -c` can check too

The folder appears complete or not at all. TensorFlow is imported late, because run_training.py looks for checkpoints
before it loads TensorFlow.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from dnnlib import storage
from dnnlib.cli import UserError
from dnnlib.util import file_sha256
from training.options import OPTIONS, Option, changeable_arguments, fixed_options

_ON_WINDOWS = os.name == 'nt'
_FORMAT = 1  # Number in state.json. A checkpoint with another number is refused.
_NAME = r'kimg-\d+\.\d{3}'
_SUMS, _STATE, _VARIABLES = 'sha256sums.txt', 'state.json', 'variables'

# Files that a run appends to. When it continues from a checkpoint, what was appended after that checkpoint is removed.
_GROWING_FILES = ('stats.jsonl', 'events.out.tfevents.*', 'metric-*.txt')


@dataclasses.dataclass
class RunProgress:
    """How far a run is."""
    cur_nimg: int         # Images shown.
    tick_start_nimg: int  # Images shown at the last tick.
    sched_nimg: int       # Images shown when the schedule was last updated.
    iteration: int = 0    # Iterations done.
    cur_tick: int = -1    # Number of the last tick. -1 = there was none yet.
    # First part of a file name -> images shown at the last snapshot that is named after whole kimg only.
    whole_kimg_names: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def kimg(self) -> float:
        """Thousands of images shown."""
        return self.cur_nimg / 1000.0

    def snapshot_name(self, prefix: str, suffix: str) -> str:
        """File name of a snapshot that is made now, another one than that of every other snapshot of the run.

        The first one in a thousand of images has the name that the original gives it, with the whole kimg:
        network-snapshot-000012.pkl. To the names of the others the images beyond that are added:
        network-snapshot-000012_088.pkl. A checkpoint keeps which one was the first.

        Args:
            prefix: First part of the name, such as 'fakes'.
            suffix: Last part of the name, such as '.png'.
        """
        kimg, images = divmod(self.cur_nimg, 1000)
        if self.whole_kimg_names.get(prefix, -1) // 1000 != kimg:
            self.whole_kimg_names[prefix] = self.cur_nimg
        more = '' if self.whole_kimg_names[prefix] == self.cur_nimg else f'_{images:03d}'
        return f'{prefix}{kimg:06d}{more}{suffix}'


def format_kimg(kimg: float) -> str:
    """Thousands of images as text: one digit after the point as in the original, but three below 100."""
    return f'{kimg:.3f}' if kimg < 100 else f'{kimg:.1f}'


# ---- Finding and reading checkpoints ----

class Found(NamedTuple):
    """The checkpoint that --resume names."""
    path: str               # The checkpoint.
    state: dict[str, Any]   # Its state.json.
    run_dir: str | None     # Folder to continue in. None = a new one.
    note: str               # Lines to print, or ''.


def find(resume: str, result_dir: str, run_desc: str) -> Found | None:
    """Find the checkpoint that --resume names.

    Args:
        resume:     'latest' = the last run in `result_dir` that has this `run_desc` and a checkpoint; or the folder of
                    a run. The run continues in its folder, from its newest checkpoint, or from the one before if that
                    is
                    damaged. Or a checkpoint, by its folder or a file in it: a new run begins with it.
        result_dir: Folder of all runs.
        run_desc:   Names of runs after their number.

    Returns:
        The checkpoint. None = 'latest' found no such run.

    Raises:
        UserError: There is no such run or checkpoint, or all checkpoints are damaged.
    """
    if resume == 'latest':
        runs = glob.glob(os.path.join(glob.escape(result_dir), f'[0-9]*-{glob.escape(run_desc)}'))
        runs = [run for run in runs if re.fullmatch(r'\d+-' + re.escape(run_desc), os.path.basename(run))]
        runs = [run for run in runs if _checkpoints_in(run)]
        return _newest_in(max(runs, key=lambda run: int(os.path.basename(run).split('-')[0]))) if runs else None
    folder = os.path.dirname(resume) if os.path.isfile(resume) else resume
    if any(os.path.isfile(os.path.join(folder, name)) for name in (_STATE, _SUMS)):
        return Found(folder, _read_state(folder), None, '')
    if _checkpoints_in(folder):
        return _newest_in(os.path.normpath(folder))
    raise UserError(f'--resume: expected latest, the folder of a run or a checkpoint, found no checkpoint in {resume}',
                    'Checkpoints are RUN_DIR/checkpoints/kimg-*. '
                    'To start from a network pickle, use --resume-pkl and --resume-kimg.')


def _checkpoints_in(run_dir: str) -> list[str]:
    """Paths of the checkpoints of a run, the newest last."""
    paths = glob.glob(os.path.join(glob.escape(run_dir), 'checkpoints', 'kimg-*'))
    return sorted((path for path in paths if re.fullmatch(_NAME, os.path.basename(path))), key=_kimg_of)


def _kimg_of(path: str) -> float:
    return float(os.path.basename(path).split('-')[1])


def _newest_in(run_dir: str) -> Found:
    """The newest checkpoint of a run that is not damaged."""
    notes = []
    for path in reversed(_checkpoints_in(run_dir)):
        try:
            return Found(path, _read_state(path), run_dir, ''.join(notes))
        except _Damaged as err:
            notes.append(f'Note: {err.fact}. Going on from the checkpoint before it.\n')
    raise UserError(f'{run_dir}: all {len(notes)} checkpoints are damaged',
                    'Begin again from a network-snapshot-*.pkl with --resume-pkl.')


class _Damaged(UserError):
    def __init__(self, path: str, reason: str):
        super().__init__(f'{path} is damaged: {reason}',
                         'Give the folder of its run: then the newest checkpoint that is not damaged is used.')


def _read_state(path: str) -> dict[str, Any]:
    """Read state.json of a checkpoint, after comparing all of its files with their checksums."""
    try:
        with open(os.path.join(path, _SUMS), encoding='ascii') as file:
            sums = {name: digest for digest, name in (line.split('  ', 1) for line in file.read().splitlines())}
        if _STATE not in sums or f'{_VARIABLES}.index' not in sums:
            raise _Damaged(path, f'{_SUMS} is not complete')
        for name, expected in sums.items():
            if os.path.basename(name) != name or not os.path.isfile(os.path.join(path, name)):
                raise _Damaged(path, f'{_SUMS} names {ascii(name)[:100]}, which is no file of the checkpoint')
            if file_sha256(os.path.join(path, name)) != expected:
                raise _Damaged(path, f'the checksum of {name} does not match')
        with open(os.path.join(path, _STATE), encoding='utf-8') as file:
            state = json.load(file)
    except OSError as err:
        raise _Damaged(path, f'{os.path.basename(err.filename or path)}: {err.strerror}') from None
    except (ValueError, RecursionError) as err:
        raise _Damaged(path, str(err).splitlines()[0][:200]) from None
    if not isinstance(state, dict) or 'format' not in state:
        raise _Damaged(path, f'{_STATE} is not the state of a run')
    if state['format'] != _FORMAT:
        raise UserError(f'{path}: expected a checkpoint of format {_FORMAT}, found {ascii(state["format"])[:100]}',
                        'Continue with the version of this program that wrote it.')
    return state


def _is_damaged(path: str) -> bool:
    try:
        _read_state(path)
    except UserError:
        return True
    return False


# ---- Settings of the run ----

def settings_of(flags: dict[str, Any], loop_args: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint keeps of the settings of its run, as plain data for JSON.

    Args:
        flags:     Name of a flag -> value, None where there is none.
        loop_args: Arguments of the training loop.
    """
    return json.loads(json.dumps({'flags': flags, 'loop_args': loop_args}))


def check_settings(found: Found, settings: dict[str, Any]) -> None:
    """Check that a run with these settings can continue from a checkpoint.

    What may differ is marked in training/options.py.

    Args:
        found:    The checkpoint.
        settings: What `settings_of` returned for the new run.

    Raises:
        UserError: It cannot. The error names the flag that differs.
    """
    before = found.state['settings']
    if before is None or _fixed(before['loop_args']) == _fixed(settings['loop_args']):
        return
    def differing(options: Iterable[Option]) -> list[tuple[Option, Any, Any]]:
        pairs = [(option, before['flags'].get(option.dest), settings['flags'].get(option.dest)) for option in options]
        return [(option, old, new) for option, old, new in pairs if old != new]

    remedy = 'Give the same flags to continue; or begin with its networks and other settings: --resume-pkl.'
    different = differing(fixed_options())
    if not different:  # Presets of StyleGAN2-ADA derive settings from these, which may otherwise change.
        different = differing(option for option in OPTIONS if option.name in ('num_gpus', 'resume_pkl'))
        remedy = f'Settings of --config={settings["flags"].get("config")} follow from them. {remedy}'
    if different:
        was, now = (', '.join(_flag_text(option, values[which]) for option, *values in different) for which in (0, 1))
        raise UserError(f'{found.path} was made with {was}, this command has {now}', remedy)
    raise UserError(f'{found.path} was made by a version of this program whose flags mean something else',
                    'Continue with that version, or begin with its networks: --resume-pkl.')


def _fixed(loop_args: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the training loop that must stay the same, without empty tables of exceptions."""
    changeable = changeable_arguments()

    def select(arguments: dict[str, Any], prefix: str = '') -> dict[str, Any]:
        return {name: select(value, f'{prefix}{name}.') if isinstance(value, dict) else value
                for name, value in arguments.items() if f'{prefix}{name}' not in changeable and value != {}}
    return select(loop_args)


def _flag_text(option: Option, value: Any) -> str:
    """A flag with its value as on the command line; 'no --flag' if the value is None."""
    if value is None:
        return f'no {option.flag}'
    text = str(value).lower() if isinstance(value, bool) else f'{value:g}' if isinstance(value, float) else value
    return f'{option.flag}={text}'


# ---- Writing and restoring checkpoints ----

class HasState(Protocol):
    """Part of a run that has a state of its own."""

    def state(self) -> Any:
        """The state as plain data for JSON."""

    def set_state(self, state: Any) -> None:
        """Restore what `state` returned."""


class Checkpoints:
    """Writes the checkpoints of a run, and restores one.

    Args:
        run_dir: Folder of the run. None = write nothing, as workers other than the chief.
        tensors: Nested dict of name -> tf.Variable: everything that training changes.
        parts:   Name -> object whose `state` is written, and restored with `set_state`.
        facts:   Plain data that is written, and must be equal in a checkpoint to continue from.
        notes:   Plain data that is only written.
        keep:    Number of checkpoints that are kept, the newest ones.
        minutes: Longest time between two checkpoints; after it, `wanted` becomes true.

    Attributes:
        last: Path of the last checkpoint, written or restored. None = there was none.
    """

    def __init__(self, run_dir: str | None, tensors: Mapping[str, Any], parts: Mapping[str, HasState],
                 facts: Mapping[str, Any], notes: Mapping[str, Any], keep: int = 2, minutes: float = 30.0):
        import tensorflow as tf
        self._run_dir, self._parts, self._notes, self._keep, self._minutes = run_dir, parts, notes, keep, minutes
        self._facts = json.loads(json.dumps(facts))
        self._variables = tf.train.Checkpoint(**tensors)
        self._wanted = False
        self._saved_at = time.time()
        self.last: str | None = None
        self._last_iteration: int | None = None

    def wanted(self, progress: RunProgress, now: bool = False) -> bool:
        """Should a checkpoint be written?

        Args:
            progress: How far the run is.
            now:      Ask for one.

        Returns:
            True from the time that `now` was true or enough time has passed until one is written, but never twice in
            the same iteration.
        """
        self._wanted = self._wanted or now or time.time() - self._saved_at >= self._minutes * 60
        return self._wanted and progress.iteration != self._last_iteration

    @staticmethod
    def name(progress: RunProgress) -> str:
        """Path of a checkpoint within the folder of its run."""
        return os.path.join('checkpoints', f'kimg-{progress.cur_nimg // 1000:06d}.{progress.cur_nimg % 1000:03d}')

    def save(self, progress: RunProgress, path: str | None = None) -> None:
        """Write a checkpoint, unless this iteration has one, and delete the oldest.

        Args:
            progress: How far the run is.
            path:     Folder to write. None = its place in the folder of the run.

        Raises:
            UserError: It cannot be written. It is then asked for again at the next occasion.
        """
        assert self._run_dir is not None
        if progress.iteration == self._last_iteration:
            return
        self._wanted, self._saved_at = False, time.time()
        path = path or os.path.join(self._run_dir, self.name(progress))
        self._write(path, progress, _sizes(self._run_dir))
        self.last, self._last_iteration = path, progress.iteration
        for old in _checkpoints_in(self._run_dir)[:-self._keep]:
            shutil.rmtree(old, ignore_errors=True)

    def make_room(self) -> bool:
        """Delete all checkpoints but the newest that is not damaged.

        Returns:
            Was there one to delete?
        """
        assert self._run_dir is not None
        paths = _checkpoints_in(self._run_dir)
        newest = next((path for path in reversed(paths) if not _is_damaged(path)), None)
        others = [path for path in paths if path != newest] if newest else []
        for path in others:
            shutil.rmtree(path, ignore_errors=True)
        return bool(others)

    def _write(self, path: str, progress: RunProgress, file_sizes: dict[str, int]) -> None:
        import tensorflow as tf

        from dnnlib.tflib.random import random_state
        folder = f'{path}.part'  # Renamed when it is complete.
        state = dict(format=_FORMAT, progress=dataclasses.asdict(progress), random=random_state(), files=file_sizes,
                     **{name: part.state() for name, part in self._parts.items()}, **self._facts, **self._notes)
        try:
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
            self._variables.write(os.path.join(folder, _VARIABLES))
            with open(os.path.join(folder, _STATE), 'w', encoding='utf-8') as file:
                json.dump(state, file)
            names = sorted(os.listdir(folder))
            with open(os.path.join(folder, _SUMS), 'w', encoding='ascii') as file:
                file.writelines(f'{file_sha256(os.path.join(folder, name))}  {name}\n' for name in names)
            for name in [*names, _SUMS, '']:  # '' is the folder itself.
                _sync(os.path.join(folder, name))
            shutil.rmtree(path, ignore_errors=True)
            os.replace(folder, path)
            _sync(os.path.dirname(path))
        except (OSError, tf.errors.OpError) as err:
            # TensorFlow's message begins with the name of a temporary file.
            reason = err.strerror if isinstance(err, OSError) else storage.reason(err).split('; ')[-1]
            raise UserError(f'{path}: cannot be written: {reason}',
                            'Check the folder, its permissions and the free space.') from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def restore(self, path: str, state: dict[str, Any]) -> None:
        """Restore everything except the RunProgress, which is state['progress'].

        If the checkpoint belongs to this run, newer checkpoints are deleted, and so is what the run appended to its
        files after it.

        Args:
            path:  The checkpoint.
            state: Its state.json.

        Raises:
            UserError: It does not fit this run.
        """
        import tensorflow as tf

        from dnnlib.tflib.random import set_random_state
        for name, value in self._facts.items():
            if state[name] != value:
                raise UserError(f'{path} does not fit: expected {name} {state[name]}, found {value}',
                                'Give what it was made with.')
        try:
            self._variables.read(os.path.join(path, _VARIABLES)).assert_consumed().assert_existing_objects_matched()
        except (AssertionError, ValueError, tf.errors.OpError) as err:
            raise UserError(f'{path} does not fit the networks: {str(err).splitlines()[0]}',
                            'Give the settings it was made with.') from err
        for name, part in self._parts.items():
            part.set_state(state[name])
        set_random_state(state['random'])
        self.last, self._last_iteration = path, state['progress']['iteration']
        if self._run_dir is None:
            return
        folder = os.path.join(self._run_dir, 'checkpoints')
        if os.path.realpath(os.path.dirname(path)) == os.path.realpath(folder):
            _shorten(self._run_dir, state['files'])
            damaged = [other for other in _checkpoints_in(self._run_dir) if _kimg_of(other) > _kimg_of(path)]
            for other in (*damaged, *glob.glob(os.path.join(glob.escape(folder), 'kimg-*.part'))):
                shutil.rmtree(other, ignore_errors=True)


def _sizes(run_dir: str) -> dict[str, int]:
    """Name -> bytes of each file that the run appends to."""
    paths = [path for pattern in _GROWING_FILES for path in glob.glob(os.path.join(glob.escape(run_dir), pattern))]
    return {os.path.basename(path): os.path.getsize(path) for path in sorted(paths)}


def _shorten(run_dir: str, sizes: dict[str, int]) -> None:
    """Cut the files that the run appends to back to these sizes, and delete those that are not listed."""
    for name, size in _sizes(run_dir).items():
        path = os.path.join(run_dir, name)
        if name not in sizes:
            os.remove(path)
        elif size > sizes[name]:
            os.truncate(path, sizes[name])


def _sync(path: str) -> None:
    """Have a file or folder written to the disk, so that it is complete even after a loss of power."""
    is_folder = os.path.isdir(path)
    if _ON_WINDOWS and is_folder:
        return  # Windows cannot open folders.
    # Windows writes only what is open for writing to the disk; folders cannot be opened so anywhere.
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
