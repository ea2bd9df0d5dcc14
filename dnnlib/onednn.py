"""Chooses between TensorFlow's two sets of CPU kernels: its own, based on Eigen, and those of oneDNN.

TensorFlow reads the environment variable TF_ENABLE_ONEDNN_OPTS once, when it is imported. By default it uses oneDNN
only on CPUs with AVX-VNNI, AVX512-VNNI, AVX512-BF16 or AMX. This project uses oneDNN on any x86 CPU with AVX2
(docs/speed.md has the figures). Only single images with weights that may change are slower that way: see
dnnlib/tflib/frozen.py.
"""

from __future__ import annotations

import logging
import os
import pathlib
import platform
import sys

_VARIABLE = 'TF_ENABLE_ONEDNN_OPTS'
# TensorFlow uses oneDNN by default on CPUs with one of these.
_ON_BY_DEFAULT = {'avx_vnni', 'avx512_vnni', 'avx512_bf16', 'amx_tile'}


def choose() -> None:
    """Set TF_ENABLE_ONEDNN_OPTS for this process and its children, unless it is set or already read by TensorFlow."""
    if os.environ.get(_VARIABLE) or not is_faster(cpu_features()):
        return
    if 'tensorflow' not in sys.modules:
        os.environ[_VARIABLE] = '1'
    elif not _ON_BY_DEFAULT & cpu_features():  # Too late, for example in a notebook.
        logging.getLogger(__name__).warning(
            'TensorFlow was imported before this package, so its oneDNN kernels, which are faster on this CPU, '
            'stay off. Import dnnlib.tflib first, or set the environment variable TF_ENABLE_ONEDNN_OPTS=1.')


def is_faster(features: set[str]) -> bool:
    """Whether oneDNN is the faster choice on a CPU with these features."""
    return platform.machine() in ('x86_64', 'AMD64') and 'avx2' in features


def cpu_features() -> set[str]:
    """Return the instruction sets of the CPU as Linux names them, such as 'avx2'; an empty set if they are unknown."""
    try:
        lines = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        return set()
    flags = (line.split(':', 1)[1].split() for line in lines if line.startswith(('flags', 'Features')))
    return set(next(flags, []))


def is_on() -> bool:
    """Whether TensorFlow runs oneDNN kernels in this process. Imports TensorFlow."""
    import tensorflow  # noqa: F401  Must come before the next line.
    from tensorflow.python.util import _pywrap_util_port
    return bool(_pywrap_util_port.IsMklEnabled())
