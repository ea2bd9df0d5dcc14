"""A traced part of a generator as a functional Keras model of built-in layers and operations.

Keras opens a .keras file without further code only if the model consists of what Keras itself has registered. The
weights are those of Dense, Conv2D, Conv2DTranspose and DepthwiseConv2D layers. Any other constant, such as a bias or a
noise map, is the kernel of a Dense layer whose input is the number one: a constant among the arguments of an operation
would be written as text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dnnlib.cli import UserError
from export.graph import PSI, Part

_BATCH = -1  # Stands for the batch size in the values of shapes.


def require_keras_3() -> None:
    """Raise a UserError if the version of Keras has no operations that work in models."""
    if not hasattr(keras, 'ops'):
        raise UserError(f'--format=keras: needs Keras 3, and this is {keras.__version__}',
                        'Install TensorFlow 2.16 or later, or choose --format=savedmodel.')


def build(part: Part) -> Any:
    """Build the model.

    Args:
        part: What to export. Its output and inputs are float32.

    Returns:
        keras.Model of {name: tensor} -> tensor [N, ...]. Each image has its own truncation_psi, [N, 1].

    Raises:
        UserError: The version of Keras is too old, or the network has an operation that is not known here.
    """
    require_keras_3()
    traced = part.traced
    builder = _Builder()
    for placeholder, (name, shape) in zip(traced.inputs, part.inputs.items()):
        builder.add_input(placeholder.op.name, name, shape)
    needed = _ancestors(traced.outputs[0].op)
    for op in traced.graph.get_operations():
        if op.name in needed:
            builder.add(op)
    output = builder.values[traced.outputs[0].name]
    return keras.Model(builder.inputs, output, name=part.part)


def _ancestors(op):
    """Names of an operation and of all that it is computed from."""
    found, todo = set(), [op]
    while todo:
        op = todo.pop()
        if op.name not in found:
            found.add(op.name)
            todo += [x.op for x in op.inputs]
    return found


class _Builder:
    """Translates operations of TensorFlow one after the other.

    Attributes:
        inputs: Dict of name -> keras.Input.
        values: Name of a tensor in TensorFlow's graph -> numpy array, if it is constant, or Keras tensor.
    """

    def __init__(self):
        self.inputs: dict[str, Any] = {}
        self.values: dict[str, Any] = {}

    def add_input(self, op_name: str, name: str, shape: Sequence):
        self.inputs[name] = x = keras.Input(shape[1:] if shape else (1,), name=name, dtype='float32')
        # In the graph psi is a number, which is multiplied by W, [N, layers, size].
        self.values[f'{op_name}:0'] = keras.ops.reshape(x, (-1, 1, 1)) if name == PSI else x

    def add(self, op):
        """Translate an operation whose inputs are known."""
        if op.type == 'Placeholder':
            return
        if op.type == 'Const':
            self.values[op.outputs[0].name] = tf.make_ndarray(op.get_attr('value'))
            return
        if op.type not in _TRANSLATIONS:
            raise UserError(f'--format=keras: the network has the operation {op.type}, which is not translated',
                            'Choose --format=savedmodel.')
        results = _TRANSLATIONS[op.type](self, op, *(self.values[x.name] for x in op.inputs))
        for x, result in zip(op.outputs, results if isinstance(results, list) else [results]):
            self.values[x.name] = np.asarray(result) if isinstance(result, np.generic) else result

    # ---- Constants ----

    def layer(self, layer, kernel, x):
        """Apply a layer with this kernel and no bias."""
        y = layer(x)
        layer.set_weights([kernel])
        return y

    def tensor(self, value, per_item: bool = False):
        """A Keras tensor of a constant; a Keras tensor is returned as it is.

        Args:
            value:    Array or Keras tensor.
            per_item: False = of the shape of the constant. True = [N, ...], the same for each item of the batch.
        """
        if not isinstance(value, np.ndarray):
            return value
        first = next(iter(self.inputs.values()))
        one: Any = keras.ops.reshape(first, (-1, int(np.prod(first.shape[1:]))))
        one = keras.ops.ones_like(one[:, :1])
        if not per_item:
            one = keras.ops.max(one, axis=0, keepdims=True)  # Keras does not slice along the batch.
        flat = self.layer(keras.layers.Dense(value.size, use_bias=False, dtype='float32'), value.reshape([1, -1]), one)
        return keras.ops.reshape(flat, (-1, *value.shape[1:]) if per_item else value.shape)

    def operands(self, *values):
        """The operands of an elementwise operation: small constants as numbers, others as tensors."""
        return [float(value) if isinstance(value, np.ndarray) and value.size == 1 and value.ndim == 0
                else self.tensor(value) for value in values]


def _constant(value, what):
    if not isinstance(value, np.ndarray):
        raise UserError(f'--format=keras: the network has {what} that is computed from its input',
                        'Choose --format=savedmodel.')
    return value


def _elementwise(on_arrays: Callable, on_tensors: Callable) -> Callable:
    """Translation of an operation that works element by element, for constants and for tensors."""
    def translate(builder, op, *values):
        if all(isinstance(value, np.ndarray) for value in values):
            return on_arrays(*values)
        return on_tensors(*builder.operands(*values))
    return translate


def _unary(function: Callable) -> Callable:
    return lambda builder, op, x: function(x)


def _shape(builder, op, x):
    return np.asarray([_BATCH if size is None else size for size in x.shape], np.int32)


def _strided_slice(builder, op, x, begin, end, strides):
    masks = {name: op.get_attr(f'{name}_mask') for name in ('begin', 'end', 'ellipsis', 'new_axis', 'shrink_axis')}
    index: list[Any] = []
    for i in range(len(begin)):
        def has(name, bit=1 << i):
            return bool(masks[name] & bit)
        if has('ellipsis'):
            index.append(Ellipsis)
        elif has('new_axis'):
            index.append(None)
        elif has('shrink_axis'):
            index.append(int(begin[i]))
        else:
            index.append(slice(None if has('begin') else int(begin[i]), None if has('end') else int(end[i]),
                               int(strides[i])))
    if isinstance(x, np.ndarray):
        return x[tuple(index)]
    return x if all(item == slice(None, None, 1) for item in index) else x[tuple(index)]


def _tile(builder, op, x, multiples):
    multiples = [int(size) for size in _constant(multiples, 'a number of repetitions')]
    if isinstance(x, np.ndarray) and multiples[0] == _BATCH:  # One copy for each item.
        return builder.tensor(np.tile(x, [1, *multiples[1:]]), per_item=True)
    return np.tile(x, multiples) if isinstance(x, np.ndarray) else keras.ops.tile(x, multiples)


def _reshape(builder, op, x, shape):
    shape = [int(size) for size in _constant(shape, 'a shape')]
    return x.reshape(shape) if isinstance(x, np.ndarray) else keras.ops.reshape(x, shape)


def _expand_dims(builder, op, x, axis):
    return np.expand_dims(x, int(axis)) if isinstance(x, np.ndarray) else keras.ops.expand_dims(x, int(axis))


def _squeeze(builder, op, x):
    axis, = op.get_attr('squeeze_dims')
    return np.squeeze(x, axis) if isinstance(x, np.ndarray) else keras.ops.squeeze(x, axis)


def _concat(builder, op, *values):
    *parts, axis = values
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts, int(axis))
    parts = [part for part in parts if not (isinstance(part, np.ndarray) and part.size == 0)]
    return parts[0] if len(parts) == 1 else keras.ops.concatenate([builder.tensor(p) for p in parts], int(axis))


def _pack(builder, op, *values):
    return np.stack([_constant(value, 'a size') for value in values], op.get_attr('axis'))


def _unpack(builder, op, x):
    return [keras.ops.take(x, i, axis=op.get_attr('axis')) for i in range(op.get_attr('num'))]


def _split(builder, op, axis, x):
    parts: Any = keras.ops.split(x, op.get_attr('num_split'), int(axis))
    return list(parts)


def _select(builder, op, condition, a, b):
    return keras.ops.where(builder.tensor(condition.astype(np.float32)) > 0.5, *builder.operands(a, b))


def _fill(builder, op, shape, value):
    return np.full([1 if size == _BATCH else size for size in _constant(shape, 'a shape')], value)  # It broadcasts.


def _mean(builder, op, x, axes):
    return keras.ops.mean(x, [int(axis) for axis in np.ravel(axes)], keepdims=op.get_attr('keep_dims'))


def _pad(builder, op, x, pads):
    return keras.ops.pad(x, [[int(size) for size in pair] for pair in _constant(pads, 'a padding')])


def _matmul(builder, op, x, w):
    return builder.layer(keras.layers.Dense(w.shape[1], use_bias=False, dtype='float32'), _constant(w, 'a weight'), x)


def _conv_args(op) -> dict[str, Any]:
    return dict(strides=op.get_attr('strides')[1], padding=op.get_attr('padding').decode().lower(), use_bias=False,
                data_format='channels_last', dtype='float32')


def _conv2d(builder, op, x, w):
    return builder.layer(keras.layers.Conv2D(w.shape[3], w.shape[:2], **_conv_args(op)), _constant(w, 'a kernel'), x)


def _conv2d_transpose(builder, op, _sizes, w, x):
    layer = keras.layers.Conv2DTranspose(w.shape[2], w.shape[:2], **_conv_args(op))
    return builder.layer(layer, _constant(w, 'a kernel'), x)


def _depthwise_conv2d(builder, op, x, w):
    return builder.layer(keras.layers.DepthwiseConv2D(w.shape[:2], **_conv_args(op)), _constant(w, 'a kernel'), x)


_TRANSLATIONS: Mapping[str, Callable] = {
    'AddV2': _elementwise(np.add, lambda a, b: a + b),
    'Concat': _concat,
    'ConcatV2': _concat,
    'Conv2D': _conv2d,
    'Conv2DBackpropInput': _conv2d_transpose,
    'DepthwiseConv2dNative': _depthwise_conv2d,
    'Elu': _unary(lambda x: keras.ops.elu(x)),
    'EnsureShape': _unary(lambda x: x),
    'ExpandDims': _expand_dims,
    'Fill': _fill,
    'Identity': _unary(lambda x: x),
    'LeakyRelu': lambda builder, op, x: keras.ops.leaky_relu(x, op.get_attr('alpha')),
    'MatMul': _matmul,
    'Maximum': _elementwise(np.maximum, lambda a, b: keras.ops.maximum(a, b)),
    'Mean': _mean,
    'Minimum': _elementwise(np.minimum, lambda a, b: keras.ops.minimum(a, b)),
    'Mul': _elementwise(np.multiply, lambda a, b: a * b),
    'Pack': _pack,
    'Pad': _pad,
    'Prod': lambda builder, op, x, axes: np.prod(x, tuple(np.ravel(axes))),
    'RealDiv': _elementwise(np.divide, lambda a, b: a / b),
    'Relu': _unary(lambda x: keras.ops.relu(x)),
    'Reshape': _reshape,
    'Rsqrt': _unary(lambda x: keras.ops.rsqrt(x)),
    'SelectV2': _select,
    'Selu': _unary(lambda x: keras.ops.selu(x)),
    'Shape': _shape,
    'Sigmoid': _unary(lambda x: keras.ops.sigmoid(x)),
    'Softplus': _unary(lambda x: keras.ops.softplus(x)),
    'Split': _split,
    'Square': _unary(lambda x: keras.ops.square(x)),
    'Squeeze': _squeeze,
    'StridedSlice': _strided_slice,
    'Sub': _elementwise(np.subtract, lambda a, b: a - b),
    'Tanh': _unary(lambda x: keras.ops.tanh(x)),
    'Tile': _tile,
    'Transpose': lambda builder, op, x, order: keras.ops.transpose(x, [int(axis) for axis in order]),
    'Unpack': _unpack,
}
