"""Variables of many shapes in a few flat tensors, so that a few operations update all of them."""

import math
from collections.abc import Sequence

import tensorflow as tf

from dnnlib.tflib.tfutil import has_gpu

# Elements of a flat tensor that a part begins at a multiple of: 128 bytes. TensorFlow then splits it without copying.
_ALIGNMENT = 32
# Largest number of elements that is worth copying on a CPU. Copying more takes longer than starting an operation. A GPU
# copies a hundred times as fast, and takes as long to start one.
_LARGEST_ON_CPU = 1 << 14

_forced_largest = None


def set_largest(value: float | None):
    """Set the default of `Groups.largest`, for tests and benchmarks. None = as the device needs it."""
    global _forced_largest
    _forced_largest = value


class Groups:
    """Joins tensors with the shapes of some variables, and splits them again.

    Args:
        shapes:  Shapes of the variables.
        largest: Number of elements of the largest tensors that are joined; each larger one stays alone. None = as the
                 device needs it: all are joined on a GPU, and only small ones on a CPU.

    Attributes:
        joined: Indices of the variables that are joined.
        alone:  Indices of the others.
        size:   Number of elements of the joined tensors, padding included.
    """

    def __init__(self, shapes: Sequence[tf.TensorShape], largest: float | None = None):
        largest = largest or _forced_largest or (math.inf if has_gpu() else _LARGEST_ON_CPU)
        sizes = [shape.num_elements() for shape in shapes]
        self._shapes = list(shapes)
        self.joined = [i for i, size in enumerate(sizes) if size <= largest]
        self.joined = self.joined if len(self.joined) > 1 else []
        self.alone = [i for i in range(len(sizes)) if i not in self.joined]
        self._padding = [-sizes[i] % _ALIGNMENT for i in self.joined]
        self._sizes = [sizes[i] for i in self.joined]
        self.size = sum(self._sizes) + sum(self._padding)

    def join(self, tensors: Sequence[tf.Tensor | tf.Variable | None]) -> list[tf.Tensor]:
        """One tensor [size] with all elements of the joined tensors, if there are any, and then the others as they are.

        Args:
            tensors: One for each variable, all float32. None = zeros.
        """
        values = [tf.zeros(shape) if x is None else x for x, shape in zip(tensors, self._shapes, strict=True)]
        return [*([self.flatten(values)] if self.joined else []), *(values[i] for i in self.alone)]

    def flatten(self, tensors: Sequence[tf.Tensor | tf.Variable]) -> tf.Tensor:
        """One tensor [size] with all elements of the tensors that are joined, of a list with one for each variable."""
        parts = []
        for i, padding in zip(self.joined, self._padding, strict=True):
            parts.append(tf.reshape(tensors[i], [-1]))
            if padding:
                parts.append(tf.zeros([padding]))
        return tf.concat(parts, axis=0)

    def unflatten(self, flat: tf.Tensor) -> list[tf.Tensor]:
        """The tensors that `flatten` has joined, in the order of `joined`."""
        padded = [size + padding for size, padding in zip(self._sizes, self._padding, strict=True)]
        parts = tf.split(flat, padded)
        return [tf.reshape(part[:size] if padding else part, self._shapes[i])
                for i, part, size, padding in zip(self.joined, parts, self._sizes, self._padding, strict=True)]

    def assign(self, variables: Sequence[tf.Variable], tensors: Sequence[tf.Tensor]):
        """Give variables the values of tensors as `join` returns them."""
        rest = list(tensors)
        if self.joined:
            for i, part in zip(self.joined, self.unflatten(rest.pop(0)), strict=True):
                variables[i].assign(part)
        for i, value in zip(self.alone, rest, strict=True):
            variables[i].assign(value)
