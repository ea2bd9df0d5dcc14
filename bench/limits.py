"""What the machine can do at most: matrix products, which convolutions are measured by, and copies."""

_SIZES = (1024, 2048)  # Larger ones are not faster, smaller ones are slower.


def matmuls(dtypes):
    """{'matmul/float32/1024': function, ...}: square matrix products, to be timed in turn with what they are the limit of."""
    import tensorflow as tf

    def product(size, dtype):
        a, b = (tf.cast(tf.random.stateless_normal([size, size], [seed, 0]), dtype) for seed in (0, 1))
        return tf.function(lambda: tf.matmul(a, b), autograph=False)
    return {f'matmul/{dtype}/{size}': product(size, dtype) for dtype in dtypes for size in _SIZES}


def matmul_rate(times, dtype):
    """Largest rate of `matmuls(...)`, in GFLOP/s. times: what timing.interleaved returned."""
    return max(2 * size ** 3 / (times[f'matmul/{dtype}/{size}'][1] * 1e6) for size in _SIZES)
