"""Random weights and images that the reference implementations and our networks both make from a seed; numpy only."""

import zlib

import numpy as np


def state(shapes, seed=0):
    """Weights of a PyTorch model, so that activations neither grow nor vanish.

    Args:
        shapes: Dict of name -> shape, by PyTorch's names.
        seed:   Of the random numbers. Each array depends on it and on its own name, not on the others.

    Returns:
        Dict of name -> float32 array; counters ('num_batches_tracked') are int64.
    """
    return {name: _array(name, tuple(shape), np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32))
            for name, shape in shapes.items()}


def _array(name, shape, rnd):
    if name.endswith('num_batches_tracked'):
        return np.zeros(shape, np.int64)
    if len(shape) > 1:
        fan_in = int(np.prod(shape[1:]))
        return (rnd.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)
    if name.endswith('running_var') or ('bn' in name and name.endswith('weight')):
        return rnd.uniform(0.5, 1.5, shape).astype(np.float32)
    return (rnd.standard_normal(shape) * 0.1).astype(np.float32)


def images(shape, seed=0):
    """Images [N, C, H, W], uint8: coarse and fine noise together, so that they have edges and areas."""
    rnd = np.random.RandomState(seed)
    n, c, h, w = shape
    coarse = rnd.randint(0, 200, [n, c, -(-h // 16), -(-w // 16)]).repeat(16, 2).repeat(16, 3)[:, :, :h, :w]
    return (coarse + rnd.randint(0, 56, shape)).astype(np.uint8)
