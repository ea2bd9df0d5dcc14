"""The variables of networks: how they are listed, and how they are created or only counted."""

import contextlib
import contextvars
import math
from types import SimpleNamespace

import numpy as np
import tensorflow as tf


class NetworkVariable:
    """A variable of a network, as listed by `Network.vars`.

    It converts to a tensor or array where one is expected. Unlike a tf.Variable it can be the key of a dict, as in
    `tflib.set_vars({var: value})`. The attribute `variable` is the tf.Variable.
    """

    def __init__(self, name, variable):
        self.name = name
        self.variable = variable
        self.shape = variable.shape
        self.dtype = variable.dtype
        self.trainable = variable.trainable

    def numpy(self):
        return self.variable.numpy()

    def eval(self):
        """Value as numpy array, under the name of TensorFlow 1."""
        return self.variable.numpy()

    def value(self):
        """Value as tensor."""
        return tf.convert_to_tensor(self.variable)

    def assign(self, value):
        self.variable.assign(value)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.numpy(), dtype)

    def __tf_tensor__(self, dtype=None, name=None):
        return tf.convert_to_tensor(self.variable, dtype, name)

    def __repr__(self):
        return f'<NetworkVariable {self.name} {tuple(self.shape)}>'


_skip_initializers = contextvars.ContextVar('skip_initializers', default=False)


@contextlib.contextmanager
def skip_initializers():
    """Variables created inside the with-block start as zeros, because the caller assigns all their values afterwards.

    Drawing 30 million random numbers takes about a second.
    """
    token = _skip_initializers.set(True)
    try:
        yield
    finally:
        _skip_initializers.reset(token)


class VariableCount:
    """Counts the variables of the networks created in a with-block, and limits them: see `count_variables`.

    Attributes:
        number:    Number of variables so far.
        num_bytes: Memory of their values, in bytes.
    """

    def __init__(self, max_number: float, max_bytes: float, create: bool):
        self.number, self.num_bytes = 0, 0
        self.create = create
        self._max_number, self._max_bytes = max_number, max_bytes

    def add(self, shape):
        """Count a float32 variable of this shape, before it is created."""
        self.number += 1
        self.num_bytes += 4 * math.prod(int(size) for size in shape)
        if self.number > self._max_number or self.num_bytes > self._max_bytes:
            raise ValueError(f'its settings describe more than the expected {self._max_number:.0f} variables '
                             f'of {self._max_bytes:.0f} bytes in all')


_variable_count: contextvars.ContextVar[VariableCount | None] = contextvars.ContextVar('variable_count', default=None)


@contextlib.contextmanager
def count_variables(max_number: float = math.inf, max_bytes: float = math.inf, create: bool = True):
    """Context manager that counts the variables of the networks created within.

    Args:
        max_number: Largest number of variables. One more raises a ValueError.
        max_bytes:  Largest memory of all their values, in bytes. More raises a ValueError, before it is allocated.
        create:     False = only count: the networks have no variables, and can only be thrown away.

    Returns:
        VariableCount.
    """
    count = VariableCount(max_number, max_bytes, create)
    token = _variable_count.set(count)
    try:
        yield count
    finally:
        _variable_count.reset(token)


def create_variable(layer, name, shape, initializer, trainable):
    """Create a variable of a layer or network as `count_variables` and `skip_initializers` around it ask for."""
    count = _variable_count.get()
    if count is not None:
        count.add(shape)
        if not count.create:
            return SimpleNamespace(shape=tuple(shape))
    initializer = 'zeros' if _skip_initializers.get() else initializer
    return layer.add_weight(name=name, shape=tuple(shape), initializer=initializer, trainable=trainable)
