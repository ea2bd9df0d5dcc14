"""Runs compilers in parallel, shows their progress, and explains why one failed."""

import concurrent.futures
import errno
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

from custom_ops.build_cache import BuildError

RETRY_COMMAND = 'python -m custom_ops.build'


def output(command: list[str]) -> str:
    """What a short command prints. Raises BuildError if it fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, errors='replace', timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise BuildError(f'{shlex.join(command)} does not run: {err}', f'Repair or reinstall {command[0]}.') from err
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines() or ['no output']
        raise BuildError(f'{shlex.join(command)} fails: {lines[-1]}', f'Repair or reinstall {command[0]}.')
    return result.stdout + result.stderr


def run(command: Sequence[str], log: TextIO, verbose: bool) -> str | None:
    """Run one command and append its output to the log.

    Args:
        command: The command as a list of words.
        log:     Text file to write to.
        verbose: Print the command and its output too?

    Returns:
        The output if the command failed, else None.
    """
    if verbose:
        print(shlex.join(command), flush=True)
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace',
                            check=False, env={**os.environ, 'LC_ALL': 'C'})
    log.write(f'{shlex.join(command)}\n{result.stdout}\n')
    log.flush()
    if verbose and result.stdout:
        print(result.stdout, flush=True)
    if result.returncode == 0:
        return None
    return result.stdout.strip() or f'{command[0]} ended with code {result.returncode}'


def run_all(commands: Mapping[str, Sequence[str]], log: TextIO, verbose: bool, last_times: Mapping[str, float],
            ) -> tuple[list[str], dict[str, float]]:
    """Run several commands in parallel, one per available CPU, with progress on stderr.

    Args:
        commands:   {name of what is compiled: command}. Commands start in this order: put the slowest first.
        log:        Text file to write to.
        verbose:    Print the commands and their output too?
        last_times: {name: seconds that it took in the last build}. Names may be missing.

    Returns:
        (outputs of the commands that failed, {name: seconds}).
    """
    progress = _Progress(len(commands), last_times)
    failed, times = [], {}

    def timed_run(name: str) -> str | None:
        progress.begin(name)
        start = time.monotonic()
        output = run(commands[name], log, verbose)
        times[name] = round(time.monotonic() - start, 2)
        return output

    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        running = {pool.submit(timed_run, name): name for name in commands}
        while running:
            done, _ = concurrent.futures.wait(running, timeout=1, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                name, output = running.pop(future), future.result()
                if output:
                    failed.append(output)
                progress.end(name, times[name])
            progress.refresh()
    progress.close()
    return failed, times


class _Progress:
    """Progress of a build: one line, rewritten every second, on a terminal; otherwise one line per compiled file."""

    def __init__(self, num_commands: int, last_times: Mapping[str, float]):
        self._num_commands, self._last_times = num_commands, last_times
        self._running, self._num_done = [], 0
        self._start = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def begin(self, name: str) -> None:
        self._running.append(name)

    def end(self, name: str, seconds: float) -> None:
        self._running.remove(name)
        self._num_done += 1
        if not self._is_terminal:
            print(f'  {self._num_done} of {self._num_commands}: {name}, {seconds:.0f} s{self._last_time(name)}',
                  file=sys.stderr, flush=True)

    def refresh(self) -> None:
        if self._is_terminal:
            seconds = time.monotonic() - self._start
            names = ', '.join(f'{name}{self._last_time(name)}' for name in list(self._running))
            print(f'\r\x1b[K  {seconds:.0f} s, {self._num_done} of {self._num_commands} compiled; '
                  f'now {names or "linking"}', end='', file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._is_terminal:
            print('\r\x1b[K', end='', file=sys.stderr, flush=True)

    def _last_time(self, name: str) -> str:
        return f' (last time {self._last_times[name]:.0f} s)' if name in self._last_times else ''


# ---- Why a compiler failed, and what to do about it ----

_KNOWN_CAUSES = [  # Pattern in the compiler's output, fact, remedy.
    (r'unsupported (GNU|clang|Clang) version|unsupported host compiler',
     'the host compiler is too new for this nvcc', 'Name an older one with NVCC_CCBIN'),
    (r'[Kk]illed signal|signal 9|out of memory|virtual memory exhausted',
     'the compiler ran out of memory', 'Free some memory'),
    (r'fatal error: (tensorflow|absl|tsl|xla|unsupported/Eigen|Eigen|google/protobuf)\S*: No such file',
     "some of TensorFlow's headers are missing", 'Install TensorFlow again: pip install --force-reinstall tensorflow'),
    (r'fatal error: (cuda|cublas|cudnn|crt/|nv/)\S*: No such file|cannot open source file "(cuda|crt/)|nvrtc-builtins',
     'the CUDA toolkit is incomplete',
     "Install TensorFlow's CUDA wheels (pip install 'tensorflow[and-cuda]') or the whole toolkit, and unset CUDA_HOME "
     'or set it to a complete one'),
    (r'fatal error: [a-z_]+: No such file|cannot find -lstdc\+\+|cannot find crt',
     "the compiler's own headers or libraries are missing",
     'Install the whole compiler'),
    (r'bad value .*for .?-march|unrecognized command.line option|unknown value .*for .?-std',
     'the compiler is too old for this TensorFlow or this CPU', 'Name a newer one with CXX'),
]


def explain_failure(output: str, log_path: pathlib.Path) -> BuildError:
    """Turn the output of a failed compiler into an error that names the cause and the remedy.

    Args:
        output:   What the compiler printed.
        log_path: File with the whole output, which the remedy names.

    Returns:
        The BuildError to raise.

    Raises:
        OSError: The disk is full. Such a failure is not stored in the cache; build_cache.os_error explains it.
    """
    if 'No space left on device' in output:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for pattern, fact, remedy in _KNOWN_CAUSES:
        match = re.search(f'.*({pattern}).*', output)
        if match:
            if 'NVCC_CCBIN' in remedy:
                remedy += _older_compilers()
            elif 'whole compiler' in remedy:
                remedy += f' ({how_to_install_gxx()})'
            return BuildError(f'{fact}: {match[0].strip()}',
                              f'{remedy}, then run {RETRY_COMMAND}. The whole output is in {log_path}')
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r'error|undefined reference', line)]
    return BuildError('the compiler failed:\n  ' + '\n  '.join((errors or lines)[-5:]),
                      f'The whole output is in {log_path}. Another compiler may work (CXX=...); '
                      f'{RETRY_COMMAND} tries again.')


def _older_compilers() -> str:
    """How to set NVCC_CCBIN on this machine, as a parenthesis to append to a remedy."""
    found = [name for name in (f'g++-{version}' for version in range(15, 7, -1)) if shutil.which(name)]
    if found:
        return f' (export NVCC_CCBIN=..., installed here: {", ".join(found)})'
    how = 'apt install g++-12' if _distribution() == 'debian' else 'install an older g++, such as version 12'
    return f' ({how}, then export NVCC_CCBIN=g++-12; nvcc names the newest version that it accepts)'


_INSTALL_GXX = {'debian': 'apt install g++', 'fedora': 'dnf install gcc-c++', 'suse': 'zypper install gcc-c++',
                'arch': 'pacman -S gcc', 'alpine': 'apk add g++'}


def how_to_install_gxx() -> str:
    """The commands that install a C++ compiler on this machine: of its Linux distribution if known, and of conda."""
    conda = 'conda install -c conda-forge gxx'
    own = _INSTALL_GXX.get(_distribution())
    return f'{own}, or in a conda environment: {conda}' if own else f'in a conda environment: {conda}'


def _distribution() -> str:
    """Key of _INSTALL_GXX that this Linux distribution is, or is like; '' = another one, or another system."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return ''
    names = f'{release.get("ID", "")} {release.get("ID_LIKE", "")}'.split()
    return next((key for key in _INSTALL_GXX if any(key in name for name in names)), '')
