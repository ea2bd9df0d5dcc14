"""Disks that are full, for tests."""

import contextlib
import errno
import os
import resource

import pytest


@contextlib.contextmanager
def files_limited_to(size):
    """Context in which writing more than `size` bytes to a file fails, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@contextlib.contextmanager
def disk_full_for(is_full, code=errno.ENOSPC):
    """Context in which renaming to a path for which `is_full` returns true fails: the last step of writing a file."""
    replace = os.replace

    def replace_if_not_full(source, target):
        if is_full(str(target)):
            raise OSError(code, os.strerror(code), str(target))
        replace(source, target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'replace', replace_if_not_full)
        yield
