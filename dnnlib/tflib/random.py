"""Random numbers that can be replayed."""

import contextlib
import random
import zlib

import numpy as np
import tensorflow as tf


def random_state():
    """State of the global generators of Python, NumPy and TensorFlow, for JSON."""
    name, keys, *rest = np.random.get_state()
    return {'python': random.getstate(), 'numpy': [name, keys.tolist(), *rest],
            'tensorflow': tf.random.get_global_generator().state.numpy().tolist()}


def set_random_state(state):
    """Go on as when `random_state` returned this."""
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state['numpy']))
    tf.random.get_global_generator().state.assign(state['tensorflow'])


@contextlib.contextmanager
def random_state_kept():
    """Whatever the with-block draws from the global generators, they are as before when it ends."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


class Random:
    """Where networks and losses draw from.

    Every draw carries a name, so that a test can put known numbers in the place of random ones; `child` and `at` say
    which evaluation of a network and which round of an iteration the draws that follow belong to. This class ignores
    all three.

    Args:
        generator: tf.random.Generator to draw from. None = the process's, which `init_tf` seeds.
    """

    def __init__(self, generator=None):
        self._generator = generator

    @property
    def generator(self):
        return self._generator or tf.random.get_global_generator()

    def child(self, name):
        """The source for the part called `name`."""
        return self

    def at(self, index):
        """The source for round `index` (a tensor or an int)."""
        return self

    def normal(self, name, shape):
        """float32 N(0, 1)."""
        return self.generator.normal(shape)

    def uniform(self, name, shape):
        """float32 U[0, 1)."""
        return self.generator.uniform(shape)

    def integers(self, name, shape, low, high):
        """int32, each of low .. high - 1 as likely."""
        return self.generator.uniform(shape, low, high, tf.int32)

    def rows(self, name, table, n):
        """n rows of `table`, each as likely, with replacement."""
        return tf.gather(table, self.generator.uniform([n], 0, tf.shape(table)[0], tf.int32))


class KeyedRandom(Random):
    """Draws that are a function of a key, of their names and of nothing else: nothing moves on, so there is no state to keep.

    Args:
        key: int64 tensor [2].
    """

    def __init__(self, key):
        super().__init__()
        self._key = key

    def at(self, index):
        """Draws of their own for round `index`, or for whatever else it counts."""
        with tf.device('CPU:0'):  # Where the operations that draw want to find the key.
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
        return tf.gather(table, self.integers(name, [n], 0, tf.shape(table)[0]))


class GivenNoise(Random):
    """The noise of a synthesis network given for one evaluation, in place of fresh or fixed noise.

        images = Gs.components.synthesis(dlatents, rng=GivenNoise(noises), randomize_noise=True)

    Args:
        noises: {'noise0': tensor [N or 1, 1, 4, 4], 'noise1': ...}, one for each noise variable of the network.
    """

    def __init__(self, noises):
        super().__init__()
        self.noises = noises

    def normal(self, name, shape):
        return self.noises[name]
