"""How far a metric is."""

import time

from tqdm import tqdm

from dnnlib.util import format_time

_SECONDS_PER_LINE = 30


class Progress:
    """Context manager: a bar with the time left on a terminal, a line every half minute elsewhere; in the end a line with the speed.

    Args:
        what:  What is done, at the beginning of each line.
        total: Number of steps.
        unit:  What a step is.
    """

    def __init__(self, what, total, unit='img'):
        self._what, self._total, self._unit = what, total, unit

    def __enter__(self):
        self._done = 0
        self._start = self._last = time.monotonic()
        self._bar = tqdm(total=self._total, desc=self._what, unit=self._unit, disable=None, leave=False, dynamic_ncols=True)
        return self

    def update(self, steps):
        """So many steps more are done."""
        self._done += steps
        self._bar.update(steps)
        now = time.monotonic()
        if self._bar.disable and now - self._last > _SECONDS_PER_LINE and self._done < self._total:
            self._last = now
            left = (now - self._start) * (self._total - self._done) / self._done
            tqdm.write(f'{self._what}: {self._done} / {self._total}, {self._speed()}, about {format_time(left)} left')

    def __exit__(self, exc_type, exc, tb):
        self._bar.close()
        if exc_type is None:
            tqdm.write(f'{self._what}: {self._done} {self._unit} in {format_time(time.monotonic() - self._start)}, {self._speed()}')

    def _speed(self):
        return f'{self._done / max(time.monotonic() - self._start, 1e-9):.1f} {self._unit}/s'
