"""One thread that computes everything, in turn: single calls, and long jobs in small parts.

Generators are not made for several threads: noise maps, for example, are variables that a call sets and resets.
"""

from __future__ import annotations

import collections
import concurrent.futures
import secrets
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator
from typing import Any

from dnnlib import cli, storage
from dnnlib.cli import UserError

MAX_WAITING = 64    # Calls in the queue. More are refused.
MAX_RUNNING = 4     # Jobs that are not done. More are refused.
_MAX_KEPT = 32      # Jobs that are done and whose results can still be had.
_SLICE = 0.1        # Seconds for which a job may compute before the others have their turn.
_FORGOTTEN = 300.0  # Seconds after which a job that nobody asks about is stopped. Hidden pages ask once a minute.


class Busy(UserError):
    """There is too much to do already."""


class Job:
    """A long task, whose state the page asks for again and again.

    Args:
        total: Number of steps.

    Attributes:
        id:      Name of the job, which cannot be guessed.
        state:   'running', 'done', 'stopped' or 'failed'.
        step:    Steps that are done.
        note:    Short text, such as the current distance.
        result:  What the page gets when it is done; it must be possible to write it as JSON.
        picture: PNG file of how far it is, or None.
        version: Number of pictures so far.
        file:    Path of the file that it has made, or None.
        folder:  Folder for its files, which is deleted when the job is forgotten.
        stop:    Should it end early?
        seen:    Time of the last question about it.
    """

    def __init__(self, total: int):
        self.id, self.total, self.state, self.step, self.note = secrets.token_urlsafe(16), total, 'running', 0, ''
        self.result: Any = None
        self.picture: bytes | None = None
        self.file: str | None = None
        self.version, self.stop = 0, False
        self.folder = tempfile.TemporaryDirectory(prefix='explorer-')
        self.start = self.seen = time.monotonic()

    def show(self, picture: bytes) -> None:
        """Replace the picture of how far it is."""
        self.picture, self.version = picture, self.version + 1

    def status(self) -> dict[str, Any]:
        """What the page is told."""
        elapsed = time.monotonic() - self.start
        left = elapsed * (self.total - self.step) / self.step if self.step and self.state == 'running' else None
        return dict(id=self.id, state=self.state, step=self.step, total=self.total, note=self.note, result=self.result,
                    version=self.version, seconds_left=left)


class Worker:
    """The thread, its queue and the jobs.

    Args:
        debug: Print the traceback of a user's mistake as well?
    """

    def __init__(self, debug: bool = False):
        self._debug = debug
        self._queue: collections.deque[Callable[[], None]] = collections.deque()
        self._ready = threading.Condition()
        self._ending = False
        self._jobs: collections.OrderedDict[str, Job] = collections.OrderedDict()
        self._thread = threading.Thread(target=self._run, name='explorer', daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], Any]) -> concurrent.futures.Future:
        """Compute function() when its turn comes. A future that is cancelled before that costs nothing.

        Raises:
            Busy: There are too many others.
        """
        future: concurrent.futures.Future = concurrent.futures.Future()

        def compute() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as err:
                future.set_exception(err)
        with self._ready:
            if len(self._queue) >= MAX_WAITING:
                raise Busy('the explorer is busy: too many pictures are waiting', 'Try again in a moment.')
            self._queue.append(compute)
            self._ready.notify()
        return future

    def start(self, job: Job, parts: Generator[None, None, None]) -> Job:
        """Run a job: `parts` is advanced in turn with the other work. It checks job.stop by itself.

        Raises:
            Busy: There are too many jobs.
        """
        with self._ready:
            running = sum(other.state == 'running' for other in self._jobs.values())
            if running >= MAX_RUNNING:
                job.folder.cleanup()
                raise Busy(f'{running} films and projections are being computed already',
                           'Wait until one of them has ended.')
            self._jobs[job.id] = job
            done = [other for other in self._jobs.values() if other.state != 'running']
            for other in done[:max(len(done) - _MAX_KEPT, 0)]:
                del self._jobs[other.id]
                other.folder.cleanup()
            self._queue.append(lambda: self._advance(job, parts))
            self._ready.notify()
        return job

    def job(self, job_id: str) -> Job:
        """The job of this name.

        Raises:
            UserError: There is none, or it has been forgotten.
        """
        with self._ready:
            job = self._jobs.get(job_id)
        if job is None:
            raise UserError('this film or projection is no longer there', 'Start it again.')
        job.seen = time.monotonic()
        return job

    def close(self) -> None:
        """Stop all jobs, end the thread after what it computes now, and delete the files of the jobs."""
        with self._ready:
            self._ending = True
            self._ready.notify()
        self._thread.join()
        for job in self._jobs.values():
            job.folder.cleanup()

    def _run(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._queue or self._ending)
                if self._ending:
                    return
                task = self._queue.popleft()
            task()

    def _advance(self, job: Job, parts: Generator[None, None, None]) -> None:
        """Let a job compute for a while, and put it at the end of the queue if it is not done."""
        if time.monotonic() - job.seen > _FORGOTTEN:
            job.stop = True
        begin = time.monotonic()
        try:
            while time.monotonic() - begin < _SLICE:
                next(parts)
        except StopIteration:
            job.state = 'stopped' if job.stop and job.step < job.total else 'done'
            return
        except Exception as err:
            job.note, job.state = message(err, self._debug)['error'], 'failed'
            return
        with self._ready:
            self._queue.append(lambda: self._advance(job, parts))


def message(err: BaseException, debug: bool = False) -> dict[str, str]:
    """What the page shows about an error: {'error': one line, 'remedy': one line or ''}.

    What is no mistake of the user is printed with its traceback here, and not shown there.
    """
    if isinstance(err, UserError):
        if debug:
            traceback.print_exception(err)
        return dict(error=err.fact, remedy=err.remedy)
    if cli.is_out_of_memory(err):
        return dict(error='there is not enough memory for this', remedy='Ask for less, or close other programs.')
    if isinstance(err, OSError):
        return dict(error=storage.reason(err), remedy='Check the file and the free space.')
    traceback.print_exception(err)
    return dict(error='something went wrong in the explorer', remedy='Its terminal shows what.')
