"""The upper limit of what the machine can compute: the rate of its matrix products, the measure for convolutions."""

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bench import timing

_SIZES = (1024, 2048)     # On a CPU, larger products are not faster, smaller ones are slower.
_SIZES_ON_GPU = (4096, 8192)


def _sizes() -> tuple[int, ...]:
    from dnnlib.tflib.tfutil import has_gpu
    return _SIZES_ON_GPU if has_gpu() else _SIZES


def matmuls(dtypes: Iterable[str]) -> dict[str, Callable[[], Any]]:
    """Square matrix products, to be timed in the same rounds as the work whose limit they are.

    Args:
        dtypes: Types of the products, such as 'float32'.

    Returns:
        {'matmul/float32/1024': function without arguments, ...}.
    """
    import tensorflow as tf

    def product(size: int, dtype: str) -> Callable[[], Any]:
        a, b = (tf.cast(tf.random.stateless_normal([size, size], [seed, 0]), dtype) for seed in (0, 1))
        return tf.function(lambda: tf.matmul(a, b), autograph=False)
    return {f'matmul/{dtype}/{size}': product(size, dtype) for dtype in dtypes for size in _sizes()}


def matmul_rate(times: Mapping[Any, tuple[float, float]], dtype: str) -> float:
    """The machine's limit: the highest rate of `matmuls`, with or without TensorFlow's oneDNN kernels.

    Args:
        times: What timing.interleaved returned for `matmuls` with the kernels of this process. The other kernels of a
               CPU are measured in a new process.
        dtype: Type of the products. Those in half precision are measured with the kernels of this process only:
               without oneDNN they are far slower.

    Returns:
        The rate in GFLOP/s.
    """
    from dnnlib.tflib.tfutil import has_gpu
    others = dtype == 'float32' and not has_gpu()
    return max(own_rate(times, dtype), rate_of_other_kernels(dtype) if others else 0)


def own_rate(times: Mapping[Any, tuple[float, float]], dtype: str) -> float:
    """The highest rate of `matmuls` in this process, in GFLOP/s. The arguments are those of `matmul_rate`."""
    return max(2 * size ** 3 / (times[f'matmul/{dtype}/{size}'][1] * 1e6) for size in _sizes())


@functools.cache
def rate_of_other_kernels(dtype: str) -> float:
    """The highest rate of `matmuls` in a new process, with oneDNN off if it is on here, and on if it is off."""
    from dnnlib import onednn
    program = 'import sys; from bench import limits; limits.print_rate(sys.argv[1])'
    env = {**os.environ, 'TF_ENABLE_ONEDNN_OPTS': '0' if onednn.is_on() else '1'}
    return float(timing.in_own_process(program, dtype, env=env))


def print_rate(dtype: str) -> None:
    """Print the highest rate of `matmuls` in this process, in GFLOP/s."""
    print(own_rate(timing.interleaved(matmuls([dtype]), 5), dtype))
