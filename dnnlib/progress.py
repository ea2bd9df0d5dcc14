"""Progress of long tasks: a bar with the time left on a terminal, plain lines elsewhere. Times as text."""

from __future__ import annotations

import sys
import time

_SECONDS_PER_LINE = 30


def format_time(seconds: float) -> str:
    """Format a duration such as '6s', '1m 05s', '2h 03m 04s' or '1d 05h 12m'."""
    total = round(float(seconds))
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if total < 60:
        return f'{total}s'
    if total < 3600:
        return f'{minutes}m {total % 60:02}s'
    if total < 86400:
        return f'{hours}h {minutes % 60:02}m {total % 60:02}s'
    return f'{days}d {hours % 24:02}h {minutes % 60:02}m'


class ProgressBar:
    """Context manager that shows how far a task is and how long it will still take.

        with ProgressBar('reals of mine', 50000) as progress:
            for images in minibatches:
                ...
                progress.update(len(images))

    On a terminal this is a bar. Elsewhere it prints lines such as

        reals of mine 1200 / 50000: 40.0 img/s, about 20m 20s left

    Args:
        label:     What is being done. Each line begins with it.
        total:     Number of steps. None = unknown, so no time left is shown.
        unit:      Name of a step. 'B' = bytes, which are printed in MB.
        num_lines: How many lines to print without a terminal, evenly spread over the steps.
                   None = a line every half minute, and none at the end.
        summary:   Print a line with the total time and speed at the end? It takes the place of the bar.
        enabled:   False = show nothing at all.
    """

    def __init__(self, label: str, total: int | None, unit: str = 'img', num_lines: int | None = None,
                 summary: bool = False, enabled: bool = True):
        self._label = label
        self._total = total
        self._unit = unit
        self._num_lines = num_lines
        self._summary = summary
        self._enabled = enabled
        self._note = ''

    def __enter__(self) -> ProgressBar:
        from tqdm import tqdm  # Imported late, because every command imports this module, even for --help.
        self._done = 0
        self._start = self._last_line = time.monotonic()
        self._bar = tqdm(
            total=self._total, desc=self._label or None, unit=self._unit, unit_scale=self._unit == 'B',
            disable=None if self._enabled else True,  # None = disabled unless stderr is a terminal.
            leave=not self._summary, dynamic_ncols=True)
        return self

    def note(self, text: str):
        """Set a short text, such as the current loss, for the bar and the lines that follow."""
        self._note = text
        self._bar.set_postfix_str(text, refresh=False)

    def update(self, steps: int = 1):
        """Count `steps` more steps as done."""
        before, self._done = self._done, self._done + steps
        self._bar.update(steps)
        if self._enabled and self._bar.disable and self._line_is_due(before):
            self._last_line = time.monotonic()
            _write(self._line())

    def _line_is_due(self, before: int) -> bool:
        if self._num_lines is not None and self._total:
            return self._done * self._num_lines // self._total > before * self._num_lines // self._total
        return time.monotonic() - self._last_line > _SECONDS_PER_LINE and self._done != self._total

    def __exit__(self, exc_type, exc, tb):
        self._bar.close()
        if exc_type is None and self._summary and self._enabled:
            elapsed = format_time(time.monotonic() - self._start)
            _write(f'{self._label}: {self._amount(self._done)} in {elapsed}, {self._speed()}')

    # ---- Text ----

    def _line(self) -> str:
        if self._unit == 'B':
            done = f'{self._done / 1e6:.1f}' + (f' / {self._total / 1e6:.1f} MB' if self._total else ' MB')
        else:
            done = f'{self._done}' + (f' / {self._total}' if self._total else f' {self._unit}')
        details = [self._note] if self._note else []
        details.append(self._speed())
        if self._total and self._done <= self._total:
            elapsed = time.monotonic() - self._start
            details.append(f'about {format_time(elapsed * (self._total - self._done) / max(self._done, 1))} left')
        return f'{self._label} {done}: {", ".join(details)}'.lstrip()

    def _amount(self, count: int) -> str:
        return f'{count / 1e6:.1f} MB' if self._unit == 'B' else f'{count} {self._unit}'

    def _speed(self) -> str:
        speed = self._done / max(time.monotonic() - self._start, 1e-9)
        return f'{speed / 1e6:.1f} MB/s' if self._unit == 'B' else f'{speed:.1f} {self._unit}/s'


def _write(line: str):
    from tqdm import tqdm
    tqdm.write(line)  # Not print(), which would write into the bar of an outer task.
    sys.stdout.flush()
