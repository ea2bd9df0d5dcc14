"""The line in which each command says what it computes on, and notes about GPUs that TensorFlow cannot use well."""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from dnnlib import nvidia, onednn
from dnnlib.tflib.tfutil import hidden_gpus, visible_gpus

_NO_GPU = 'No GPU found (TF_CPP_MIN_LOG_LEVEL=0 shows what TensorFlow says about that).'
_TF32_SINCE = (8, 0)  # Compute capability of Ampere, the first generation with TF32.


class Gpu(NamedTuple):
    """A GPU that this process may use."""
    name: str                           # Such as 'NVIDIA GeForce RTX 3090'.
    memory: int | None                  # All of its memory, in bytes. None = not known.
    capability: tuple[int, int] | None  # Compute capability, such as (8, 6). None = not known.


def gpus() -> list[Gpu]:
    """The visible GPUs, in TensorFlow's order."""
    of_driver = nvidia.gpus()
    found = []
    for device in visible_gpus():
        details = tf.config.experimental.get_device_details(device)
        number = int(device.name.rsplit(':', 1)[1])  # TensorFlow counts the GPUs as CUDA does.
        known = of_driver[number] if number < len(of_driver) else None
        found.append(Gpu(details.get('device_name') or (known.name if known else 'GPU'),
                         known.memory if known else None, details.get('compute_capability')))
    return found


def describe(used: int = 1, precision: str = 'float32') -> str:
    """Describe what this process computes on.

    Args:
        used:      Number of GPUs of this machine that are used.
        precision: As --precision of the commands.

    Returns:
        A line for the log; and a second one if TensorFlow has no kernels for a GPU, or does not use one that is there.
    """
    found = gpus()
    if not found:
        note = _note_unused()
        return f'{_describe_cpu(precision)}\n{note}' if note else f'{_describe_cpu(precision)} {_NO_GPU}'
    first = found[:used]
    names = ' and '.join(dict.fromkeys(_describe_gpu(gpu) for gpu in first))
    count = f'{len(found)} GPU{"s" * (len(found) > 1)} found, {min(used, len(found))} used'
    built_for = tf.sysconfig.get_build_info().get('cuda_compute_capabilities', [])
    notes = dict.fromkeys(note_missing_kernels(gpu.capability, built_for) for gpu in first)
    return '\n'.join(filter(None, [f'Computing on {names}: {count}, {_describe_tf32(first)}, {precision}.', *notes]))


def note_missing_kernels(capability: tuple[int, int] | None, built_for: Sequence[str]) -> str:
    """Return a note if TensorFlow has no kernels for a GPU; otherwise ''.

    Args:
        capability: Compute capability of the GPU. None = not known, which gives ''.
        built_for:  'cuda_compute_capabilities' of tf.sysconfig.get_build_info(), such as ['sm_80', 'compute_90']: a
                    GPU runs kernels (sm) of its own major version up to its minor version, and the driver can compile
                    code (compute) of all versions up to its own.
    """
    if capability is None:
        return ''
    parsed = [re.fullmatch(r'(sm|compute)_(\d+)(\d)', text) for text in built_for]
    versions = [(match[1], (int(match[2]), int(match[3]))) for match in parsed if match]
    kernels = [version for kind, version in versions if kind == 'sm']
    code = [version for kind, version in versions if kind == 'compute']
    if not versions or any(version[0] == capability[0] and version <= capability for version in kernels):
        return ''
    name = f'Note: TensorFlow {tf.__version__} has no kernels for compute capability {_dotted(capability)}'
    if any(version <= capability for version in code):
        return (f'{name}, so the driver compiles them at the first start, which can take up to half an hour. It keeps '
                'them for later starts, all of them if the environment variable CUDA_CACHE_MAXSIZE is 4294967296.')
    return (f'{name}; its oldest is {_dotted(min(kernels + code))}. Install a TensorFlow that has them (2.15 to 2.21), '
            'or compute on the CPU: CUDA_VISIBLE_DEVICES=-1.')


def _describe_gpu(gpu: Gpu) -> str:
    facts = [] if gpu.memory is None else [f'{gpu.memory / 2 ** 30:.1f} GiB']
    facts += [] if gpu.capability is None else [f'compute capability {_dotted(gpu.capability)}']
    return f'{gpu.name} ({", ".join(facts)})' if facts else gpu.name


def _describe_tf32(used: Sequence[Gpu]) -> str:
    if not tf.config.experimental.tensor_float_32_execution_enabled():
        return 'TF32 off'
    has_it = any(gpu.capability is None or gpu.capability >= _TF32_SINCE for gpu in used)
    return 'TF32 on' if has_it else 'TF32 not available'


def _describe_cpu(precision: str) -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return (f'Computing on the CPU: {cores} core{"s" * (cores != 1)}, oneDNN {"on" if onednn.is_on() else "off"}, '
            f'{precision}.')


def _note_unused() -> str:
    """Return a note if there is a GPU that is not used; otherwise ''."""
    if hidden_gpus():
        return "Note: TensorFlow's settings hide the GPU from this program."
    if nvidia.gpus():
        return (f"Note: there is {nvidia.gpus()[0].name}, but TensorFlow does not see it. pip install -e '.[gpu]' "
                'installs the CUDA libraries that it needs; TF_CPP_MIN_LOG_LEVEL=0 shows what it says.')
    return ''


def _dotted(capability: tuple[int, int]) -> str:
    return '.'.join(map(str, capability))
