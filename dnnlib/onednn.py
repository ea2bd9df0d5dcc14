"""Which of TensorFlow's two sets of CPU kernels is used: its own, made with Eigen, or those of oneDNN.

TensorFlow reads the environment variable TF_ENABLE_ONEDNN_OPTS once, when it is imported. Without it, oneDNN is used only on CPUs with
AVX-VNNI, AVX512-VNNI, AVX512-BF16 or AMX. This project uses it on any x86 CPU with AVX2 (docs/speed.md has the figures), where only single
images with weights that may change are slower with it: see dnnlib/tflib/frozen.py.
"""

import logging
import os
import pathlib
import platform
import sys

_VARIABLE = 'TF_ENABLE_ONEDNN_OPTS'
_ON_BY_ITSELF = {'avx_vnni', 'avx512_vnni', 'avx512_bf16', 'amx_tile'}  # TensorFlow switches oneDNN on for CPUs with any of these.


def choose():
    """Set TF_ENABLE_ONEDNN_OPTS for this process and those that it starts, unless it is set, or TensorFlow has read it already."""
    if os.environ.get(_VARIABLE) or not is_faster(cpu_features()):
        return
    if 'tensorflow' not in sys.modules:
        os.environ[_VARIABLE] = '1'
    elif not _ON_BY_ITSELF & cpu_features():  # A notebook, whose author may have reasons: it is left alone.
        logging.getLogger(__name__).warning(
            'TensorFlow was imported before this package, so its oneDNN kernels, which are faster on this CPU, stay off. '
            'Import dnnlib.tflib first, or set the environment variable TF_ENABLE_ONEDNN_OPTS=1.')


def is_faster(features):
    """True if oneDNN is the faster choice on a CPU with these features."""
    return platform.machine() in ('x86_64', 'AMD64') and 'avx2' in features


def cpu_features():
    """Names of the instruction sets of the CPU as Linux lists them, such as 'avx2'; an empty set where they cannot be read."""
    try:
        lines = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        return set()
    return next((set(line.split(':', 1)[1].split()) for line in lines if line.startswith(('flags', 'Features'))), set())


def is_on():
    """True if TensorFlow runs oneDNN kernels in this process. Imports TensorFlow."""
    import tensorflow  # noqa: F401  The next line works only after it.
    from tensorflow.python.util import _pywrap_util_port
    return bool(_pywrap_util_port.IsMklEnabled())
