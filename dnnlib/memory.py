"""Compares the memory that a step is going to need with what the machine has, before anything is allocated."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re

from dnnlib.cli import UserError

try:
    import resource
except ImportError:  # Windows
    resource = None

_PROC = pathlib.Path('/proc')
_CGROUPS = pathlib.Path('/sys/fs/cgroup')
# Of a control group: version 2, version 1. A container often has a lower limit than the machine has memory.
_CGROUP_FILES = [('memory.max', 'memory.current'), ('memory.limit_in_bytes', 'memory.usage_in_bytes')]
_UNITS = [(1e15, 'PB'), (1e12, 'TB'), (1e9, 'GB'), (1e6, 'MB'), (1e3, 'kB')]


def available_bytes() -> int | None:
    """Return how much memory this process can still allocate, in bytes.

    That is the smallest of the machine's available memory, what is left of the limits of the container (control
    groups), and what is left of `ulimit -v`. Where the available memory is not known, the machine's total counts.

    Returns:
        Number of bytes. None = nothing is known, as on Windows.
    """
    amounts = [amount for amount in (_machine_bytes(), *_cgroup_bytes(), _address_space_bytes()) if amount is not None]
    return max(min(amounts), 0) if amounts else None


def require(num_bytes: float, what: str, remedy: str) -> None:
    """Raise UserError if a step needs more memory than there is. Does nothing where the available memory is unknown.

    Args:
        num_bytes: Memory that the step is going to need.
        what:      What needs it, for the message: the subject of "... needs about 5.2 GB of memory".
        remedy:    What the user can do about it.

    Raises:
        UserError: There is less memory than `num_bytes`; the message has both numbers.
    """
    available = available_bytes()
    if available is not None and num_bytes > available:
        raise UserError(f'{what} needs about {describe(num_bytes)} of memory, '
                        f'but only {describe(available)} are available', remedy)


def describe(num_bytes: float) -> str:
    """Return a number of bytes with a unit, such as '5.2 GB' or '12 bytes'."""
    for factor, unit in _UNITS:
        if num_bytes >= factor:
            return f'{num_bytes / factor:.1f} {unit}'
    return f'{num_bytes:.0f} bytes'


def _machine_bytes():
    match = re.search(r'^MemAvailable: *(\d+) kB', _read(_PROC / 'meminfo'), re.MULTILINE)
    if match:
        return int(match[1]) << 10
    try:
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (AttributeError, ValueError, OSError):
        return None


def _cgroup_bytes():
    """Yield what is left of the limit of each control group that this process is in."""
    for line in _read(_PROC / 'self/cgroup').splitlines():
        _number, _, controllers_and_path = line.partition(':')
        controllers, _, path = controllers_and_path.partition(':')
        if controllers not in ('', 'memory'):
            continue
        root = _CGROUPS / controllers
        own = root / path.lstrip('/')
        # Inside a container the group may be mounted as the root, whatever its path is.
        for folder in (folder for folder in (own, *own.parents) if folder.is_relative_to(root)):
            for limit_name, used_name in _CGROUP_FILES:
                limit, used = (_read(folder / name).strip() for name in (limit_name, used_name))
                if limit.isdecimal() and used.isdecimal():
                    # Cached files count as used, but are given up when memory gets short.
                    cached = re.search(r'^(?:total_)?inactive_file (\d+)', _read(folder / 'memory.stat'), re.MULTILINE)
                    yield int(limit) - int(used) + int(cached[1] if cached else 0)


def _address_space_bytes():
    if resource is None:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used_pages = _read(_PROC / 'self/statm').split()[:1]
    if limit == resource.RLIM_INFINITY or not used_pages:
        return None
    return limit - int(used_pages[0]) * resource.getpagesize()


def _read(path):
    with contextlib.suppress(OSError):
        return path.read_text()
    return ''
