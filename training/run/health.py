"""Errors that end a run: training that has diverged, and too little memory."""

from __future__ import annotations

from typing import Any

from dnnlib.cli import UserError, first_line_of_memory_error
from training.configs import microbatch_fits
from training.run.checkpoint import format_kimg

_MANY = 100  # This many skipped updates in a row end a run.


class SkippedUpdates:
    """Counts the updates that were skipped because a gradient was not finite."""

    def __init__(self):
        self._in_a_row: dict[str, int] = {}      # 'TrainG', 'RegD', ... -> skipped updates up to now
        self._since_report: dict[str, int] = {}  # the same, since the last report

    def add(self, name: str, skipped: bool) -> None:
        """Take note of one update.

        Args:
            name:    What was updated: 'TrainG', 'RegG', 'TrainD' or 'RegD'.
            skipped: Was the update skipped?
        """
        self._in_a_row[name] = self._in_a_row.get(name, 0) + 1 if skipped else 0
        self._since_report[name] = self._since_report.get(name, 0) + int(skipped)

    def in_a_row(self) -> int:
        """Number of consecutive skipped updates up to now, the largest over all kinds of updates."""
        return max(self._in_a_row.values(), default=0)

    def report(self) -> str:
        """Line about the updates skipped since the last report; '' = there were none."""
        counts = [f'{name} {count}' for name, count in self._since_report.items() if count]
        self._since_report.clear()
        if not counts:
            return ''
        return f'Updates skipped since the last tick, because gradients were not finite: {", ".join(counts)}'

    def check(self, kimg: float, checkpoint: str | None) -> None:
        """End the run after too many skipped updates in a row.

        Args:
            kimg:       Thousands of images shown so far.
            checkpoint: Path of the last checkpoint. None = there is none.

        Raises:
            UserError: There were too many.
        """
        for name, count in self._in_a_row.items():
            if count >= _MANY:
                raise UserError(
                    f'training has diverged at kimg {format_kimg(kimg)}: the gradients of the last {count} updates of '
                    f'{name} were not finite',
                    f'The last checkpoint before that is {checkpoint or "not there"}. '
                    'Begin from an earlier network-snapshot-*.pkl with a lower --lrate or another --gamma.')

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as plain data for JSON."""
        return {'in_a_row': self._in_a_row, 'since_report': self._since_report}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self._in_a_row, self._since_report = dict(state['in_a_row']), dict(state['since_report'])


def out_of_memory(minibatch_size: int, minibatch_gpu: int, group: int, err: BaseException) -> UserError:
    """The error to raise in place of one for which `cli.is_out_of_memory` is true.

    Args:
        minibatch_size: Images of a minibatch that one device handles.
        minibatch_gpu:  Images that it handles at a time.
        group:          Images in a group of minibatch stddev.
        err:            The exception.
    """
    smaller = [n for n in range(2, minibatch_gpu) if minibatch_size % n == 0 and microbatch_fits(n, 2, group)]
    remedy = 'Give --precision=bfloat16 or a smaller --fmap-base: both need less memory.'
    if smaller:
        remedy = (f'Give --minibatch-gpu={smaller[-1]}: it needs less memory. Each update still sees the same number '
                  'of images, but random numbers differ, and so do the groups of minibatch stddev.')
    return UserError(f'out of memory with --minibatch-gpu={minibatch_gpu}: {first_line_of_memory_error(err)}', remedy)
