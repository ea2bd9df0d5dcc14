"""Sources of random numbers for networks and losses, and the state of the global generators."""

import contextlib
import random
import zlib

import numpy as np
import tensorflow as tf


def random_state() -> dict:
    """Return the state of the global generators of Python, NumPy and TensorFlow in a form that JSON can hold."""
    name, keys, *rest = np.random.get_state()
    return {'python': random.getstate(), 'numpy': [name, np.asarray(keys).tolist(), *rest],
            'tensorflow': tf.random.get_global_generator().state.numpy().tolist()}


def set_random_state(state: dict):
    """Restore what `random_state` returned."""
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state['numpy']))
    tf.random.get_global_generator().state.assign(state['tensorflow'])


@contextlib.contextmanager
def random_state_kept():
    """Restore the state of the global generators at the end of the with-block."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


class Random:
    """A source of random numbers for networks and losses.

    Every draw has a name, so that tests can substitute known numbers. `child` and `at` return the source for one
    evaluation of a network and for one microbatch of an iteration. This class ignores names, `child` and `at`.

    Args:
        generator: tf.random.Generator to draw from. None = the global one, which `init_tf` seeds.
    """

    def __init__(self, generator=None):
        self._generator = generator

    @property
    def generator(self):
        return self._generator or tf.random.get_global_generator()

    def child(self, name):
        """The source for the part `name`."""
        return self

    def at(self, index):
        """The source for microbatch `index`, an int or a tensor."""
        return self

    def normal(self, name, shape):
        """Draw from N(0, 1), float32."""
        return self.generator.normal(shape)

    def noises(self, sizes, n):
        """Draw the noise of all layers of a synthesis network, in one operation.

        Args:
            sizes: {name: width of its images}.
            n:     Number of images, an int or a scalar tensor.

        Returns:
            {name: [n, 1, size, size]}, samples of N(0, 1).
        """
        drawn = self.normal('noises', [n, sum(size ** 2 for size in sizes.values())])
        parts = tf.split(drawn, [size ** 2 for size in sizes.values()], axis=1)
        return {name: tf.reshape(part, [-1, 1, size, size])
                for (name, size), part in zip(sizes.items(), parts, strict=True)}

    def uniform(self, name, shape):
        """Draw from U[0, 1), float32."""
        return self.generator.uniform(shape)

    def integers(self, name, shape, low, high):
        """Draw uniformly from low .. high - 1, int32."""
        return self.generator.uniform(shape, low, high, tf.int32)

    def rows(self, name, table, n):
        """Draw n rows of `table` uniformly, with replacement."""
        return tf.gather(table, self.generator.uniform([n], 0, int(table.shape[0]), tf.int32))


class KeyedRandom(Random):
    """Random numbers that depend only on a key and the name of the draw. There is no state that would have to be saved.

    Args:
        key: int64 tensor [2].
    """

    def __init__(self, key):
        super().__init__()
        self._key = key

    def at(self, index):
        """A source with a key of its own for each `index`."""
        with tf.device('CPU:0'):  # Stateless random ops require the key in the memory of the CPU.
            return KeyedRandom(tf.random.fold_in(self._key, tf.cast(index, tf.int64)))

    def child(self, name):
        return self.at(zlib.crc32(name.encode()))

    def normal(self, name, shape):
        return tf.random.stateless_normal(shape, self.child(name)._key)

    def uniform(self, name, shape):
        return tf.random.stateless_uniform(shape, self.child(name)._key)

    def integers(self, name, shape, low, high):
        return tf.random.stateless_uniform(shape, self.child(name)._key, low, high, tf.int32)

    def rows(self, name, table, n):
        return tf.gather(table, self.integers(name, [n], 0, int(table.shape[0])))


class GivenNoise(Random):
    """Supplies given noise to a synthesis network, instead of new or stored noise.

        images = Gs.components.synthesis(dlatents, rng=GivenNoise(noises), randomize_noise=True)

    Args:
        noises: {'noise0': tensor [N or 1, 1, 4, 4], 'noise1': ...}, for all noise variables of the network.
    """

    def __init__(self, noises):
        super().__init__()
        self._noises = noises

    def noises(self, sizes, n):
        return {name: self._noises[name] for name in sizes}
