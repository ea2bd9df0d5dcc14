"""run_training.py that kills itself: python -m tests.killed_run FUNCTION PATTERN COUNT DELAY FLAGS_OF_RUN_TRAINING...

SIGKILL comes, DELAY milliseconds late, before the COUNT-th call of FUNCTION, a dotted name, whose arguments match
PATTERN.
"""

import functools
import importlib
import os
import re
import signal
import sys
import threading

import run_training
from dnnlib import cli


def find(name):
    """'package.module.Class.function' -> (object that has it, 'function')."""
    owner, _, attribute = name.rpartition('.')
    try:
        return importlib.import_module(owner), attribute
    except ModuleNotFoundError:
        return getattr(*find(owner)), attribute


def kill_before(name, pattern, count, delay):
    owner, attribute = find(name)
    function, calls = getattr(owner, attribute), []

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        if re.search(pattern, repr((args, kwargs))):
            calls.append(None)
        if len(calls) == count:
            if delay == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Timer(delay / 1000, os.kill, [os.getpid(), signal.SIGKILL]).start()
        return function(*args, **kwargs)
    setattr(owner, attribute, wrapper)


if __name__ == '__main__':
    _, name, pattern, count, delay, *argv = sys.argv
    if name.startswith('training.'):
        import dnnlib.tflib  # noqa: F401  For a quiet start.
    kill_before(name, pattern, int(count), float(delay))
    cli.run(run_training.main, argv)
