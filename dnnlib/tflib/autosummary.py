"""Scalars of a run: averaged between two reports, then written for TensorBoard and as JSON lines."""

import contextlib
import json
import math
import os
import time

import numpy as np


class Summaries:
    """Collects scalars by tag. `save` writes the mean of each tag since the last save and resets it.

    Args:
        run_dir: Folder that receives TensorBoard's event file and stats.jsonl. A later run appends to stats.jsonl.

    Values that are not finite do not enter the mean, as in the original. A tag without finite values is null in
    stats.jsonl and NaN in TensorBoard. A tag without any values since the last save is not written.

    Example:
        stats = Summaries(run_dir)
        stats.add('Loss/scores/real', scores)
        means = stats.save(cur_nimg, tick=1, kimg=4.0, seconds=12.5)
    """

    def __init__(self, run_dir):
        self._run_dir = run_dir
        self._moments = {}  # tag -> float64 [count, sum, sum of squares]
        self._writer = None  # Created by the first save, so that TensorFlow is imported late.

    def add(self, name, value):
        """Add a number, or all elements of an array. Returns the value unchanged."""
        array = np.asarray(value, np.float64)
        self.add_moments(name, (array.size, array.sum(), np.square(array).sum()))
        return value

    def add_moments(self, name, moments):
        """Add many values by their moments, which may have been computed inside a tf.function.

        Args:
            name:    Tag.
            moments: (count, sum, sum of squares).

        Raises:
            ValueError: There are not three numbers.
        """
        moments = np.array(moments, np.float64)
        if moments.shape != (3,):
            raise ValueError(f'moments of {name!r}: expected (count, sum, sum of squares). '
                             f'Received: shape {moments.shape}')
        total = self._moments.setdefault(name, np.zeros(3))
        if np.isfinite(moments).all():
            total += moments

    def mean(self, name):
        """Mean of the values of a tag since the last save; NaN if there are none that are finite."""
        count, total, _ = self._moments.get(name, (0.0, 0.0, 0.0))
        return float(total / count) if count else math.nan

    def save(self, step, **fields):
        """Write the means and reset them.

        Args:
            step:   Number of images shown so far: TensorBoard's horizontal axis.
            fields: Further fields of the line in stats.jsonl, such as tick, kimg, seconds. A Unix timestamp is added.

        Returns:
            {tag: mean}, NaN where no value was finite.

        Raises:
            OSError: They cannot be written. They are reset all the same, and no incomplete line remains.
        """
        means = {name: self.mean(name) for name in self._moments}
        self._moments.clear()
        line = {**fields, 'timestamp': time.time(), **means}
        line = json.dumps({key: _json_value(value) for key, value in line.items()}, allow_nan=False)
        path = os.path.join(self._run_dir, 'stats.jsonl')
        size = os.path.getsize(path) if os.path.exists(path) else 0
        try:
            with open(path, 'a', encoding='utf-8') as file:
                file.write(line + '\n')
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise
        self._write_events(step, means)
        return means

    def state(self):
        """Return the values since the last save in a form that JSON can hold."""
        return {name: moments.tolist() for name, moments in self._moments.items()}

    def set_state(self, state):
        """Restore what `state` returned."""
        self._moments = {name: np.array(moments, np.float64) for name, moments in state.items()}

    def _write_events(self, step, means):
        import tensorflow as tf
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self._run_dir)
        with self._writer.as_default():
            _write_scalars(means, int(step))
        try:
            self._writer.flush()
        except tf.errors.OpError as err:
            raise OSError(err.message.splitlines()[0]) from err


# ---- The original's functions: one set of averages for the process ----

_summaries = Summaries('.')


def autosummary(name, value, passthru=None, condition=True):
    """Add a number or an array to the averages of the process, and return `passthru`, or `value` if that is None.

    Tensors inside a tf.function have no values yet and cannot be added.
    """
    if condition:
        _summaries.add(name, value)
    return value if passthru is None else passthru


def finalize_autosummaries():
    """Return {}: the original made its graphs here."""
    return {}


def save_summaries(file_writer, global_step=None):
    """Write the means since the last call with a writer made by tf.summary.create_file_writer, and reset them.

    Returns:
        {name: mean}.
    """
    means = {name: _summaries.mean(name) for name in _summaries.state()}
    _summaries.set_state({})
    if file_writer is not None:
        with file_writer.as_default():
            _write_scalars(means, int(global_step or 0))
        file_writer.flush()
    return means


def _write_scalars(means, step):
    """Write {tag: mean} with the writer that is the default one."""
    import tensorflow as tf

    # The original's format of a scalar. tf.summary.scalar would need the package tensorboard, which not every version
    # of TensorFlow depends on.
    values = [tf.compat.v1.Summary.Value(tag=name, simple_value=mean) for name, mean in means.items()]
    tf.summary.experimental.write_raw_pb(tf.compat.v1.Summary(value=values).SerializeToString(), step=step)


def _json_value(value):
    """Convert NumPy scalars to Python's, and NaN and infinity, which JSON does not have, to None."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
