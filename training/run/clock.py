"""The time of a run: how long training and reports take, how much is left, and when to end to stay within a limit."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_REPORTS_KEPT = 3  # Durations remembered of each report. The longest of them is the estimate for the next.
_STEPS_KEPT = 16  # The same for training steps: every 16th iteration has all phases, and takes longest.
_FIRST_STEP = 'first step'  # Name of a step that compiles, in the table of durations.


def seconds_for(names: Sequence[str], took: Mapping[str, Sequence[float]], guesses: Mapping[str, float]) -> float:
    """Seconds that reports are expected to take together.

    Args:
        names:   Names of the reports. A name given twice counts twice.
        took:    Name -> seconds that the report took the last times.
        guesses: Name -> seconds, for reports that have not been made yet.
    """
    return sum(max(took.get(name) or [guesses[name]]) for name in names)


def fits(seconds: float, left: float) -> bool:
    """Can something that takes about `seconds` be done in the `left` seconds?

    The reserve is a fifth, but at most a minute, and 5 s for the process to end.
    """
    return left >= seconds + min(0.2 * seconds, 60.0) + 5.0


class Clock:
    """Measures training and maintenance (reports, snapshots, checkpoints) apart, and remembers how long they took.

    Args:
        start:    time.monotonic() at which the run began. A resumed run continues its clock with `set_state`.
        deadline: time.monotonic() by which the process must have ended. None = no limit.
        guesses:  Name of a report -> seconds that it may take, until it has been measured.
    """

    def __init__(self, start: float, deadline: float | None = None, guesses: Mapping[str, float] | None = None):
        self._start, self._deadline, self._guesses = start, deadline, guesses or {}
        self._tick_start = time.monotonic()
        self._maintenance = 0.0  # Since the last tick.
        self._all_maintenance = 0.0  # In this process.
        self._took: dict[str, list[float]] = {}  # Name of a report -> seconds that it took the last times.
        # (seconds, images) of the last training steps that compiled nothing.
        self._steps: deque[tuple[float, int]] = deque(maxlen=_STEPS_KEPT)
        # At the end of the last step: seconds of training so far, images shown, stages compiled.
        self._last_step: tuple[float, int, int] | None = None
        self._compiles_next = False

    def tick(self) -> tuple[float, float, float]:
        """Begin the next tick.

        Returns:
            Seconds since the start of the run, seconds of training since the last tick, and seconds of maintenance
            since the last tick.
        """
        now = time.monotonic()
        seconds = now - self._start, now - self._tick_start, self._maintenance
        self._tick_start, self._maintenance = now, 0.0
        return seconds

    @contextlib.contextmanager
    def maintenance(self, name: str) -> Iterator[None]:
        """Context whose time counts as maintenance, and is remembered as the duration of the report `name`."""
        begin = time.monotonic()
        yield
        seconds = time.monotonic() - begin
        self._maintenance += seconds
        self._all_maintenance += seconds
        self._tick_start += seconds
        self._remember(name, seconds)

    def step(self, nimg: int, compiled: int, compiles_next: bool = False) -> None:
        """Measure the training since the last call. The first call starts the measurement.

        Args:
            nimg:          Images shown so far.
            compiled:      Stages of the training step compiled so far. A step that compiles one takes longer than
                           others.
            compiles_next: Will the next step compile one?
        """
        seconds = time.monotonic() - self._all_maintenance
        if self._last_step is not None and nimg > self._last_step[1]:
            before, nimg_before, compiled_before = self._last_step
            if compiled > compiled_before:
                self._remember(_FIRST_STEP, seconds - before)
            else:
                self._steps.append((seconds - before, nimg - nimg_before))
        self._last_step, self._compiles_next = (seconds, nimg, compiled), compiles_next

    def _remember(self, name: str, seconds: float) -> None:
        self._took[name] = [*self._took.get(name, []), seconds][-_REPORTS_KEPT:]

    # ---- Estimates ----

    def time_for(self, reports: Sequence[str]) -> bool:
        """Is there just enough time for the reports of these names? True if there is no limit."""
        if self._deadline is None:
            return True
        return seconds_for(reports, self._took, self._guesses) <= self._deadline - time.monotonic()

    def time_to_go_on(self, reports: Sequence[str]) -> bool:
        """Is there time, with a reserve, for another training step and these reports? True if there is no limit."""
        first = max(self._took.get(_FIRST_STEP, [0.0]))
        # Most of a first step is usually compilation.
        step = max((seconds for seconds, _ in self._steps), default=first / 4)
        seconds = max(step, first if self._compiles_next else 0.0) + seconds_for(reports, self._took, self._guesses)
        return self._deadline is None or fits(seconds, self._deadline - time.monotonic())

    def left(self, num_images: int) -> float | None:
        """Estimate of the seconds until so many images are shown, or until the limit. None = not known."""
        if num_images <= 0:
            return 0.0
        limit = [] if self._deadline is None else [max(self._deadline - time.monotonic(), 0.0)]
        return min([*([num_images / self._speed()] if self._steps else []), *limit], default=None)

    def images_left(self, num_images: int) -> int:
        """Estimate of how many of these images can be shown within the limit."""
        if self._deadline is None or not self._steps:
            return num_images
        return min(num_images, max(int((self._deadline - time.monotonic()) * self._speed()), 0))

    def _speed(self) -> float:
        """Images per second in the last training steps."""
        return sum(images for _, images in self._steps) / max(sum(seconds for seconds, _ in self._steps), 1e-9)

    # ---- State for checkpoints ----

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as plain data for JSON."""
        now = time.monotonic()
        return {'total': now - self._start, 'tick': now - self._tick_start, 'maintenance': self._maintenance,
                'took': self._took}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned. The time in between does not count, and the deadline does not change."""
        now = time.monotonic()
        self._start, self._tick_start = now - state['total'], now - state['tick']
        self._maintenance = state['maintenance']
        self._took = {**state.get('took', {}), **self._took}  # Checkpoints of earlier versions have no such times.
