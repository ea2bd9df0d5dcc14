"""Runs compilers side by side and says how far they are, so that nobody waits before a silent terminal."""

import concurrent.futures
import os
import shlex
import subprocess
import sys
import time


def run(command, log, verbose):
    """Run one command; what it prints goes to `log`.

    Args:
        command: List of words.
        log:     Text file to write to.
        verbose: Print the command and its output too?

    Returns: what it printed if it failed, else None.
    """
    if verbose:
        print(shlex.join(command), flush=True)
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace', check=False,
                            env={**os.environ, 'LC_ALL': 'C'})
    log.write(f'{shlex.join(command)}\n{result.stdout}\n')
    log.flush()
    if verbose and result.stdout:
        print(result.stdout, flush=True)
    return (result.stdout.strip() or f'{command[0]} ended with code {result.returncode}') if result.returncode else None


def run_all(commands, log, verbose, last_times):
    """Run several commands at once, as many as there are CPUs, with progress on stderr.

    Args:
        commands:   {name of what is compiled: command}, those that take longest first.
        log:        Text file to write to.
        verbose:    Print the commands and their output too?
        last_times: {name: seconds that it took the last time}; names may be missing.

    Returns: (outputs of those that failed, {name: seconds}).
    """
    progress = _Progress(commands, last_times)
    failed, times = [], {}
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        def timed(name):
            progress.begin(name)
            start = time.monotonic()
            output = run(commands[name], log, verbose)
            times[name] = round(time.monotonic() - start, 2)
            return output
        waiting = {pool.submit(timed, name): name for name in commands}
        while waiting:
            done, _ = concurrent.futures.wait(waiting, timeout=1, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                name, output = waiting.pop(future), future.result()
                failed += [output] if output else []
                progress.end(name, times[name])
            progress.tick()
    progress.close()
    return failed, times


class _Progress:
    """On a terminal one line that is written anew each second; elsewhere a line for each file that is compiled."""

    def __init__(self, commands, last_times):
        self._total, self._last_times = len(commands), last_times
        self._running, self._done = [], 0
        self._start = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def begin(self, name):
        self._running.append(name)

    def end(self, name, seconds):
        self._running.remove(name)
        self._done += 1
        if not self._terminal:
            print(f'  {self._done} of {self._total}: {name}, {seconds:.0f} s{self._last(name)}', file=sys.stderr, flush=True)

    def tick(self):
        if self._terminal:
            names = ', '.join(f'{name}{self._last(name)}' for name in list(self._running))
            print(f'\r\x1b[K  {time.monotonic() - self._start:.0f} s, {self._done} of {self._total} compiled; now {names or "linking"}',
                  end='', file=sys.stderr, flush=True)

    def close(self):
        if self._terminal:
            print('\r\x1b[K', end='', file=sys.stderr, flush=True)

    def _last(self, name):
        return f' (last time {self._last_times[name]:.0f} s)' if name in self._last_times else ''
