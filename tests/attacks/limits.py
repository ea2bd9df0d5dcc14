"""Measures the memory that Python and NumPy allocate while a hostile file is read."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def traced_memory() -> Iterator[Callable[[], int]]:
    """Context manager whose value is a function that returns the largest number of bytes allocated within."""
    peak = 0
    tracemalloc.start()
    try:
        yield lambda: peak
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
