"""The traced functions by which `Network.run` evaluates a network, one for each set of options."""

from typing import Any

import numpy as np
import tensorflow as tf

from dnnlib.tflib.frozen import FreezableFunction

# Settings for which a value of exactly 1 means that nothing is computed.
_EXACT_AT_1 = {'truncation_psi', 'truncation_psi_val'}


def function_for(net, arrays: list[np.ndarray], input_transform: dict | None, output_transform: dict | None,
                 dynamic_kwargs: dict[str, Any]) -> tuple[FreezableFunction, dict[str, tf.Tensor]]:
    """Return the function of a network for these options, and the options that are passed to it as tensors.

    Args:
        net:            Network. It keeps the function.
        arrays:         Its inputs, [N, ...].
        dynamic_kwargs: Settings for this call.
        Others:         As of `Network.run`.
    """
    # Numbers are passed as tensors: an animation of truncation_psi must not retrace for every frame. The exception
    # is a truncation_psi of exactly 1, which means that W stays as it is, to the last bit.
    tensors = {key: tf.constant(value, tf.float32) for key, value in dynamic_kwargs.items()
               if isinstance(value, (float, np.floating)) and not (key in _EXACT_AT_1 and value == 1)}
    static = {key: value for key, value in dynamic_kwargs.items() if key not in tensors}
    shapes = tuple(a.shape[1:] for a in arrays)
    # The device is part of the key, because a function that was traced for a GPU may not run on a CPU.
    key = _hashable([shapes, input_transform, output_transform, sorted(tensors), static, tf.constant(0.0).device])
    if key not in net._net.functions:
        def evaluate(inputs, tensors):
            if input_transform:
                inputs = _apply_transform(input_transform, inputs)
            outputs = net._evaluate(*inputs, **static, **tensors)
            outputs = [*outputs] if isinstance(outputs, (tuple, list)) else [outputs]
            return _apply_transform(output_transform, outputs) if output_transform else outputs
        inputs_spec = [tf.TensorSpec([None, *shape], tf.float32) for shape in shapes]
        tensors_spec = {k: tf.TensorSpec([], tf.float32) for k in tensors}
        function = tf.function(evaluate, input_signature=[inputs_spec, tensors_spec], autograph=False)
        net._net.functions[key] = FreezableFunction(function, net.named_variables(trainable=True).values())
    return net._net.functions[key], tensors


def _hashable(value):
    """Convert options (nested plain values, arrays, functions) to a key that is equal for equal options."""
    if isinstance(value, dict):
        return tuple((key, _hashable(item)) for key, item in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, (np.ndarray, tf.Tensor)):
        array = np.asarray(value)
        return array.shape, array.dtype.str, array.tobytes()
    return value if value is None or isinstance(value, (str, int, float, bool)) else id(value)


def _apply_transform(transform, tensors):
    kwargs = dict(transform)
    out = kwargs.pop('func')(*tensors, **kwargs)
    return [*out] if isinstance(out, (tuple, list)) else [out]
