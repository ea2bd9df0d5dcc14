"""Known numbers in the place of random ones."""

import numpy as np
import tensorflow as tf


class InjectedRandom:
    """Stands in for dnnlib.tflib.Random. Every draw must have been fed under its full name, 'G_train/G0/noise3'.

    The numbers sit in variables, so that a function traced once sees those that `feed` put there last.
    """

    def __init__(self, values=None, prefix='', index=None, variables=None):
        self.variables = {} if variables is None else variables
        self.prefix, self.index = prefix, index
        if values:
            self.feed({name: [value] for name, value in values.items()})

    def feed(self, rounds_by_name):
        """{full name: [array of round 0, array of round 1, ...]}."""
        for name, arrays in rounds_by_name.items():
            value = np.stack(arrays)
            if name in self.variables:
                self.variables[name].assign(value)
            else:
                self.variables[name] = tf.Variable(value)

    def child(self, name):
        return InjectedRandom(prefix=f'{self.prefix}{name}/', index=self.index, variables=self.variables)

    def at(self, index):
        return InjectedRandom(prefix=self.prefix, index=index, variables=self.variables)

    def _draw(self, name, shape):
        value = self.variables[self.prefix + name][0 if self.index is None else self.index]
        tf.debugging.assert_equal(tf.shape(value), tf.cast(shape, tf.int32), f'shape of {self.prefix}{name}')
        return value

    def normal(self, name, shape):
        return self._draw(name, shape)

    def noises(self, sizes, n):
        return {name: self._draw(name, [n, 1, size, size]) for name, size in sizes.items()}

    def uniform(self, name, shape):
        return self._draw(name, shape)

    def integers(self, name, shape, low, high):
        return tf.cast(self._draw(name, shape), tf.int32)

    def rows(self, name, table, n):
        if self.prefix + name not in self.variables and table.shape[1] == 0:
            return tf.zeros([n, 0])
        return self._draw(name, [n, table.shape[1]])
