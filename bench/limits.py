"""What the machine can do at most: matrix products, which convolutions are measured by."""

import functools
import os

from bench import timing

_SIZES = (1024, 2048)  # Larger ones are not faster, smaller ones are slower.


def matmuls(dtypes):
    """{'matmul/float32/1024': function, ...}: square matrix products, to be timed in turn with what they are the limit of."""
    import tensorflow as tf

    def product(size, dtype):
        a, b = (tf.cast(tf.random.stateless_normal([size, size], [seed, 0]), dtype) for seed in (0, 1))
        return tf.function(lambda: tf.matmul(a, b), autograph=False)
    return {f'matmul/{dtype}/{size}': product(size, dtype) for dtype in dtypes for size in _SIZES}


def matmul_rate(times, dtype):
    """The machine's limit in GFLOP/s: the largest rate of `matmuls(...)`, with TensorFlow's oneDNN kernels or without them.

    Args:
        times: What timing.interleaved returned, in the setting of this process. The other one is measured in a process of its own.
        dtype: Type of the products. Those in half precision are measured in this setting alone: without oneDNN they are far slower.
    """
    return max(own_rate(times, dtype), rate_of_other_kernels(dtype) if dtype == 'float32' else 0)


def own_rate(times, dtype):
    return max(2 * size ** 3 / (times[f'matmul/{dtype}/{size}'][1] * 1e6) for size in _SIZES)


@functools.cache
def rate_of_other_kernels(dtype):
    """Rate of the matrix products with oneDNN off where it is on here, and on where it is off, in a process of its own."""
    from dnnlib import onednn
    program = 'import sys; from bench import limits; limits.print_rate(sys.argv[1])'
    return float(timing.in_own_process(program, dtype, env={**os.environ, 'TF_ENABLE_ONEDNN_OPTS': '0' if onednn.is_on() else '1'}))


def print_rate(dtype):
    """Print the rate of the matrix products in this process."""
    print(own_rate(timing.interleaved(matmuls([dtype]), 5), dtype))
