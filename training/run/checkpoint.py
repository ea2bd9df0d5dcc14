"""Checkpoints: the whole state of a run, to go on from it as if the run had never been stopped.

A checkpoint is a folder RUN_DIR/checkpoints/kimg-NNNNNN.NNN, named by the thousands of images shown, of

    variables.*       every tf.Variable of the training: networks, moments of Adam, ..., as tf.train.Checkpoint writes them
    state.json        the rest: where the run is, the state of the random generators, averages under way, settings
    sha256sums.txt    checksums of the others, which `sha256sum -c` can check too

It appears whole or not at all. TensorFlow is imported only where it is needed.
"""

import dataclasses
import glob
import json
import os
import re
import shutil
import time
from typing import NamedTuple

from dnnlib.cli import UserError
from dnnlib.util import file_sha256

_FORMAT = 1                     # Number in state.json; another one is refused.
_NAME = r'kimg-\d+\.\d{3}'
_SUMS, _STATE, _VARIABLES = 'sha256sums.txt', 'state.json', 'variables'

# What a run writes by adding to its end. What came after a checkpoint is dropped when the run goes on from there.
_GROWING_FILES = ('stats.jsonl', 'events.out.tfevents.*', 'metric-*.txt')


@dataclasses.dataclass
class Progress:
    """Where a run is."""
    cur_nimg: int           # Images shown.
    tick_start_nimg: int    # Images shown at the last tick.
    sched_nimg: int         # Images shown when the schedule was last looked at.
    iteration: int = 0      # Iterations done.
    cur_tick: int = -1      # Number of the last tick; -1 = there was none yet.

    @property
    def kimg(self):
        return self.cur_nimg / 1000.0


# ---- Finding one, and checking that it fits ----

class Found(NamedTuple):
    """What --resume leads to."""
    path: str       # The checkpoint.
    state: dict     # Its state.json.
    run_dir: str    # Folder to go on in. None = a new one.
    note: str       # Lines to print, or ''.


def find(resume, result_dir, run_desc):
    """The checkpoint that `resume` means.

    Args:
        resume:     'latest': the last run in `result_dir` that has this `run_desc` and a checkpoint; or the folder of a run. The
                    run goes on in its folder, from its newest checkpoint or, if that is damaged, from the one before.
                    Or a checkpoint, by its folder or a file in it: a new run begins with it.
        result_dir: Folder of all runs.
        run_desc:   Their names after the number.

    Returns:
        Found. None = 'latest' found no such run.

    Raises:
        UserError: There is no such run or checkpoint, or all are damaged.
    """
    if resume == 'latest':
        runs = glob.glob(os.path.join(glob.escape(result_dir), f'[0-9]*-{glob.escape(run_desc)}'))
        runs = [run for run in runs if re.fullmatch(r'\d+-' + re.escape(run_desc), os.path.basename(run)) and _checkpoints_in(run)]
        return _newest_in(max(runs, key=lambda run: int(os.path.basename(run).split('-')[0]))) if runs else None
    folder = os.path.dirname(resume) if os.path.isfile(resume) else resume
    if any(os.path.isfile(os.path.join(folder, name)) for name in (_STATE, _SUMS)):
        return Found(folder, _read_state(folder), None, '')
    if _checkpoints_in(folder):
        return _newest_in(os.path.normpath(folder))
    raise UserError(f'--resume: expected latest, the folder of a run or a checkpoint, found no checkpoint in {resume}',
                    'Checkpoints are RUN_DIR/checkpoints/kimg-*. From a network pickle, go on with --resume-pkl and --resume-kimg.')


def _checkpoints_in(run_dir):
    """Paths of the checkpoints of a run, the newest last."""
    paths = glob.glob(os.path.join(glob.escape(run_dir), 'checkpoints', 'kimg-*'))
    return sorted((path for path in paths if re.fullmatch(_NAME, os.path.basename(path))), key=_kimg_of)


def _kimg_of(path):
    return float(os.path.basename(path).split('-')[1])


def _newest_in(run_dir):
    """Found, for the newest checkpoint of a run that is not damaged."""
    notes = []
    for path in reversed(_checkpoints_in(run_dir)):
        try:
            return Found(path, _read_state(path), run_dir, ''.join(notes))
        except _Damaged as err:
            notes.append(f'Note: {err.fact}. Going on from the checkpoint before it.\n')
    raise UserError(f'{run_dir}: all {len(notes)} checkpoints are damaged', 'Begin again from a network-snapshot-*.pkl with --resume-pkl.')


class _Damaged(UserError):
    def __init__(self, path, what):
        super().__init__(f'{path} is damaged: {what}', 'Give the folder of its run: then the newest one that is not damaged is used.')


def _read_state(path):
    """state.json of a checkpoint, after all of its files have been compared with their checksums."""
    try:
        with open(os.path.join(path, _SUMS), encoding='ascii') as file:
            sums = dict(reversed(line.split('  ', 1)) for line in file.read().splitlines())
        if _STATE not in sums or f'{_VARIABLES}.index' not in sums:
            raise _Damaged(path, f'{_SUMS} is not complete')
        for name, expected in sums.items():
            if file_sha256(os.path.join(path, name)) != expected:
                raise _Damaged(path, f'the checksum of {name} does not match')
        with open(os.path.join(path, _STATE), encoding='utf-8') as file:
            state = json.load(file)
    except OSError as err:
        raise _Damaged(path, f'{os.path.basename(err.filename or path)}: {err.strerror}') from None
    except ValueError as err:
        raise _Damaged(path, str(err)) from None
    if state['format'] != _FORMAT:
        raise UserError(f'{path}: expected a checkpoint of format {_FORMAT}, found {state["format"]}',
                        'Go on with the version of this program that wrote it.')
    return state


# By the names of flags and of the training loop's arguments: what may be another when a run goes on. Reports do not change what is
# learned. Where the run came from, and where the data is, does not matter any more. The parts of a minibatch do change the random
# numbers, but a GPU may be too small for those there were.
_MAY_DIFFER = {
    'total_kimg', 'max_minutes', 'tick_kimg', 'tick_kimg_base', 'tick_kimg_dict', 'image_snapshot_ticks', 'network_snapshot_ticks',
    'metrics', 'metric_arg_list', 'require_metrics', 'checkpoint_ticks', 'checkpoint_minutes', 'keep_checkpoints', 'data_dir', 'result_dir',
    'resume', 'resume_pkl', 'resume_kimg', 'minibatch_gpu', 'minibatch_gpu_base', 'minibatch_gpu_dict', 'impl', 'debug', 'dry_run'}


def settings_of(flags, loop_args):
    """What a checkpoint says about the settings of its run, for JSON. Arguments: {name of a flag: value or None}; arguments of the loop."""
    return json.loads(json.dumps({'flags': flags, 'loop_args': loop_args}))


def check_settings(found, settings):
    """Raise a UserError that names the flag if a run with these `settings` cannot go on from the checkpoint `found`."""
    before = found.state['settings']
    if before is None or _without(before['loop_args']) == _without(settings['loop_args']):
        return

    def text(name, value):
        return f'no --{name.replace("_", "-")}' if value is None else f'--{name.replace("_", "-")}={_flag_value(value)}'

    old, new = (_without(x['flags']) for x in (before, settings))
    for name in [*new, *(name for name in old if name not in new)]:
        if old.get(name) != new.get(name):
            raise UserError(f'{found.path} was made with {text(name, old.get(name))}, this command has {text(name, new.get(name))}',
                            'Give the same flags to go on; or begin with its networks and other settings: --resume-pkl.')
    raise UserError(f'{found.path} was made by a version of this program whose flags mean something else',
                    'Go on with that version, or begin with its networks: --resume-pkl.')


def _without(settings):
    """Nested settings without those that may differ, and without empty tables of exceptions."""
    if not isinstance(settings, dict):
        return settings
    return {name: _without(value) for name, value in settings.items() if name not in _MAY_DIFFER and value != {}}


def _flag_value(value):
    return str(value).lower() if isinstance(value, bool) else f'{value:g}' if isinstance(value, float) else value


# ---- Writing them, and going on from one ----

class Checkpoints:
    """The checkpoints of a run.

    Args:
        run_dir: Folder of the run. None = write nothing, as workers beside the chief.
        tensors: Nested dict of name -> tf.Variable: what changes in training.
        parts:   Dict of name -> object with `state()`, which gives plain data, and `set_state(data)`.
        facts:   Dict of plain data that stays the same: written, and compared with that of a checkpoint to go on from.
        notes:   Dict of plain data that is written too.
        keep:    Number of checkpoints kept, the newest ones.
        minutes: Time after which `wanted` becomes true.
    """

    def __init__(self, run_dir, tensors, parts, facts, notes, keep=2, minutes=30.0):
        import tensorflow as tf
        self._run_dir, self._parts, self._notes, self._keep, self._minutes = run_dir, parts, notes, keep, minutes
        self._facts = json.loads(json.dumps(facts))
        self._variables = tf.train.Checkpoint(**tensors)
        self._wanted = False
        self._saved_at = time.time()
        self.last = None                # Path of the last one, written or gone on from.
        self._last_iteration = None

    def wanted(self, progress, now=False):
        """Should one be written? Yes after `now` was true once or enough time has passed; not twice in the same iteration."""
        self._wanted = self._wanted or now or time.time() - self._saved_at >= self._minutes * 60
        return self._wanted and progress.iteration != self._last_iteration

    def save(self, progress):
        """Write one, unless this iteration has one, and delete the oldest. UserError if it cannot be written."""
        if progress.iteration == self._last_iteration:
            return
        self._wanted, self._saved_at = False, time.time()  # If it fails, it is tried again at the next occasion.
        path = os.path.join(self._run_dir, 'checkpoints', f'kimg-{progress.cur_nimg // 1000:06d}.{progress.cur_nimg % 1000:03d}')
        self._write(path, progress)
        self.last, self._last_iteration = path, progress.iteration
        for old in _checkpoints_in(self._run_dir)[:-self._keep]:
            shutil.rmtree(old, ignore_errors=True)

    def _write(self, path, progress):
        import tensorflow as tf

        from dnnlib.tflib.random import random_state
        part = f'{path}.part'
        state = dict(format=_FORMAT, progress=dataclasses.asdict(progress), random=random_state(), files=_sizes(self._run_dir),
                     **{name: part.state() for name, part in self._parts.items()}, **self._facts, **self._notes)
        try:
            shutil.rmtree(part, ignore_errors=True)
            os.makedirs(part)
            self._variables.write(os.path.join(part, _VARIABLES))
            with open(os.path.join(part, _STATE), 'w', encoding='utf-8') as file:
                json.dump(state, file)
            names = sorted(os.listdir(part))
            with open(os.path.join(part, _SUMS), 'w', encoding='ascii') as file:
                file.writelines(f'{file_sha256(os.path.join(part, name))}  {name}\n' for name in names)
            for name in [*names, _SUMS, '']:  # '': the folder itself
                _sync(os.path.join(part, name))
            shutil.rmtree(path, ignore_errors=True)
            os.replace(part, path)
            _sync(os.path.dirname(path))
        except (OSError, tf.errors.OpError) as err:
            reason = (getattr(err, 'strerror', None) or str(err)).splitlines()[0]
            raise UserError(f'{path}: cannot be written: {reason}', 'Check the folder, its permissions and the free space.') from None
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def restore(self, path, state):
        """Go on from the checkpoint `path`, whose state.json is `state`: sets all but its Progress, state['progress'].

        If it is one of this run, what the run wrote after it is dropped from the files that grow, and so are newer checkpoints.

        Raises:
            UserError: It does not fit this run.
        """
        import tensorflow as tf

        from dnnlib.tflib.random import set_random_state
        for name, value in self._facts.items():
            if state[name] != value:
                raise UserError(f'{path} does not fit: expected {name} {state[name]}, found {value}', 'Give what it was made with.')
        try:
            self._variables.read(os.path.join(path, _VARIABLES)).assert_consumed().assert_existing_objects_matched()
        except (AssertionError, ValueError, tf.errors.OpError) as err:
            raise UserError(f'{path} does not fit the networks: {str(err).splitlines()[0]}', 'Give the settings it was made with.') from err
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


def _sizes(run_dir):
    """Name -> bytes, of the files that grow."""
    paths = [path for pattern in _GROWING_FILES for path in glob.glob(os.path.join(glob.escape(run_dir), pattern))]
    return {os.path.basename(path): os.path.getsize(path) for path in sorted(paths)}


def _shorten(run_dir, sizes):
    """Bring the files that grow back to what `_sizes` returned; those that were not there then are deleted."""
    for name, size in _sizes(run_dir).items():
        path = os.path.join(run_dir, name)
        if name not in sizes:
            os.remove(path)
        elif size > sizes[name]:
            os.truncate(path, sizes[name])


def _sync(path):
    """Have a file or folder written to the disk, so that a loss of power finds it complete."""
    if os.name == 'nt' and os.path.isdir(path):
        return  # Windows cannot open folders.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
