"""Opening an exported file with the runtime that it is for, to compare what it computes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import NamedTuple

import numpy as np

from dnnlib.cli import UserError
from dnnlib.tflib.quiet import silent_stderr

Inputs = Mapping[str, np.ndarray]

# Format -> package that opens it, and its name among distributions.
_PACKAGES = {'onnx': ('onnxruntime', 'onnxruntime'), 'litert': ('ai_edge_litert', 'ai-edge-litert'),
             'savedmodel': ('tensorflow', 'tensorflow'), 'keras': ('keras', 'keras')}

_SECONDS = 0.5  # How long to repeat a computation for its shortest time.

# Modules of this project, which the process that opens a SavedModel or .keras file cannot import.
_OURS = 'custom_ops,dnnlib,export,latents,metrics,training'


class Result(NamedTuple):
    """What a runtime computed."""
    output: np.ndarray
    seconds: float  # Shortest time of a few computations.


def name_of(kind: str) -> str:
    """Name and version of the runtime of a format; '' if it is not installed."""
    module, distribution = _PACKAGES[kind]
    if importlib.util.find_spec(module) is None:
        return ''
    try:
        return f'{distribution} {metadata.version(distribution)}'
    except metadata.PackageNotFoundError:  # TensorFlow has distributions of other names.
        return distribution


def run(kind: str, path: str, inputs: Inputs) -> Result:
    """Open an exported file and compute with it, on the CPU in the case of ONNX and LiteRT.

    Args:
        kind:   'savedmodel', 'keras', 'onnx' or 'litert'.
        path:   File or folder.
        inputs: Name -> array.

    Raises:
        UserError: The runtime cannot open the file or compute with it.
    """
    if kind in ('savedmodel', 'keras'):
        return _run_alone(kind, path, inputs)
    try:
        with silent_stderr():
            function = open_onnx(path) if kind == 'onnx' else open_litert(path)
            function(inputs)
        return timed(lambda: function(inputs))
    except Exception as err:  # Each runtime has exceptions of its own.
        reason = (str(err) or type(err).__name__).strip().splitlines()[0][:300]
        raise UserError(f'{path}: {name_of(kind)} does not run it: {reason}', 'Choose another format.') from err


def timed(function: Callable[[], np.ndarray]) -> Result:
    """Call a function, which has been called before, for `_SECONDS`, and at least twice."""
    seconds: list[float] = []
    while True:
        start = time.perf_counter()
        output = function()
        seconds.append(time.perf_counter() - start)
        if len(seconds) >= 2 and sum(seconds) > _SECONDS:
            return Result(output, min(seconds))


def open_onnx(path: str) -> Callable[[Inputs], np.ndarray]:
    """Open an ONNX file on the CPU: function of its inputs."""
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return lambda inputs: np.asarray(session.run(None, dict(inputs))[0])


def open_litert(path: str) -> Callable[[Inputs], np.ndarray]:
    """Open a LiteRT file on the CPU: function of its inputs."""
    from ai_edge_litert.interpreter import Interpreter
    runner = Interpreter(path, num_threads=os.cpu_count()).get_signature_runner('serving_default')
    return lambda inputs: next(iter(runner(**inputs).values()))


def _run_alone(kind, path, inputs):
    """In a process that cannot import this project: what the file needs must be in it."""
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'alone.py')
    with tempfile.TemporaryDirectory() as folder:
        given, computed = (os.path.join(folder, name) for name in ('inputs.npz', 'outputs.npz'))
        np.savez(given, **inputs)
        done = subprocess.run([sys.executable, '-I', program, kind, os.path.abspath(path), given, computed, _OURS],
                              capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip() or f'exit code {done.returncode}').splitlines()[-1][:300]
            raise UserError(f'{path}: cannot be opened without this project: {reason}', 'Choose another format.')
        with np.load(computed) as file:
            return Result(file['result'], float(file['seconds']))
