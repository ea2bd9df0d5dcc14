"""The time of a run: how it splits into training and reports, how long the rest takes, and when the run must end to stay within a limit."""

import contextlib
import time
from collections import deque

_REPORTS_KEPT = 3   # Times of each report that are remembered; the longest of them is what it is expected to take.
_STEPS_KEPT = 16    # The same of training steps: every 16th iteration has all the phases, and takes longest.
_FIRST_STEP = 'first step'  # One that compiles, in the table of what reports took.


def seconds_for(names, took, guesses):
    """Seconds that reports are expected to take together.

    Args:
        names:   Their names; one that is there twice is made twice.
        took:    {name: seconds of the last times}.
        guesses: {name: seconds}, for those that were never made.
    """
    return sum(max(took.get(name) or [guesses[name]]) for name in names)


def fits(seconds, left):
    """Does what is expected to take `seconds` fit into `left` with some room? A fifth, at most a minute, and 5 s for the process to end."""
    return left >= seconds + min(0.2 * seconds, 60.0) + 5.0


class Clock:
    """Splits the time of a run into training and maintenance (reports, snapshots and checkpoints), and remembers how long each part took.

    Args:
        start:    time.monotonic() at which the run began. A run that goes on has trained before: its clock goes on with `set_state`.
        deadline: time.monotonic() by which the process must have ended. None = no limit.
        guesses:  {name of a report: seconds that it may take, until it has been measured}.
    """

    def __init__(self, start, deadline=None, guesses=None):
        self._start, self._deadline, self._guesses = start, deadline, guesses or {}
        self._tick_start = time.monotonic()
        self._maintenance = 0.0         # Since the last tick.
        self._all_maintenance = 0.0     # In this process.
        self._took = {}                 # Name of a report -> seconds of the last times.
        self._steps = deque(maxlen=_STEPS_KEPT)  # (seconds, images) of training steps that compiled nothing.
        self._last_step = None          # (seconds of training so far, images shown, stages compiled) at the end of the last step.
        self._compiles_next = False

    def tick(self):
        """Seconds (since the start of the run, since the last tick without maintenance, of maintenance since the last tick)."""
        now = time.monotonic()
        seconds = now - self._start, now - self._tick_start, self._maintenance
        self._tick_start, self._maintenance = now, 0.0
        return seconds

    @contextlib.contextmanager
    def maintenance(self, name):
        """Counts the with-block as maintenance, and remembers its time under the name of the report that is made in it."""
        begin = time.monotonic()
        yield
        seconds = time.monotonic() - begin
        self._maintenance += seconds
        self._all_maintenance += seconds
        self._tick_start += seconds
        self._remember(name, seconds)

    def step(self, nimg, compiled, compiles_next=False):
        """Take note of the training since the last call; the first call begins it.

        Args:
            nimg:          Images shown so far.
            compiled:      Stages of the training step compiled so far: a step that compiles one takes longer than others.
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

    def _remember(self, name, seconds):
        self._took[name] = [*self._took.get(name, []), seconds][-_REPORTS_KEPT:]

    # ---- What is still to come ----

    def time_for(self, reports):
        """Is there just time for the reports of these names? True where there is no limit."""
        return self._deadline is None or seconds_for(reports, self._took, self._guesses) <= self._deadline - time.monotonic()

    def time_to_go_on(self, reports):
        """Is there time, with some room, for another training step and these reports after it? True where there is no limit."""
        first = max(self._took.get(_FIRST_STEP, [0.0]))
        step = max((seconds for seconds, _ in self._steps), default=first / 4)  # Most of the first step is compilation, as a rule.
        seconds = max(step, first if self._compiles_next else 0.0) + seconds_for(reports, self._took, self._guesses)
        return self._deadline is None or fits(seconds, self._deadline - time.monotonic())

    def left(self, num_images):
        """Seconds that the run still takes, about: for so many images to be shown, or until its limit. None = not known yet."""
        if num_images <= 0:
            return 0.0
        limit = [] if self._deadline is None else [max(self._deadline - time.monotonic(), 0.0)]
        return min([*([num_images / self._speed()] if self._steps else []), *limit], default=None)

    def images_left(self, num_images):
        """Of so many images those for which there is time, about."""
        if self._deadline is None or not self._steps:
            return num_images
        return min(num_images, max(int((self._deadline - time.monotonic()) * self._speed()), 0))

    def _speed(self):
        """Images per second of the last training steps."""
        return sum(images for _, images in self._steps) / max(sum(seconds for seconds, _ in self._steps), 1e-9)

    # ---- Going on ----

    def state(self):
        """For JSON."""
        now = time.monotonic()
        return {'total': now - self._start, 'tick': now - self._tick_start, 'maintenance': self._maintenance, 'took': self._took}

    def set_state(self, state):
        """Go on as when `state` returned this: the time between does not count. The deadline stays that of this process."""
        now = time.monotonic()
        self._start, self._tick_start, self._maintenance = now - state['total'], now - state['tick'], state['maintenance']
        self._took = {**state.get('took', {}), **self._took}  # Checkpoints of earlier versions have no such times.
