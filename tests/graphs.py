"""To trace the graphs of a training step takes seconds: trainers that are made alike share them, or do without."""

import contextlib
import inspect

import pytest
import tensorflow as tf

import custom_ops
from custom_ops import conv2d
from training.step.train_step import TrainStep

# (what a trainer is made from, phase and sizes) -> its graph, and for each of the graph's captured inputs the number of
# the variable that it is. None = it is a constant.
_graphs = {}


@contextlib.contextmanager
def shared_graphs():
    """Within it, a TrainStep on one device computes with the graphs of an earlier one that was made alike.

    All else is new in each run: networks, optimizers, variables and their values, and random numbers.
    """
    init, function = TrainStep.__init__, TrainStep.function

    def init_and_describe(self, *args, **kwargs):
        init(self, *args, **kwargs)
        given = inspect.signature(init).bind(self, *args, **kwargs).arguments
        self.made_from = repr({name: _described(name, value) for name, value in given.items() if name != 'self'})
        # All variables that a graph can use, in the same order in all trainers that are made alike.
        self.all_variables = [*tf.nest.flatten(self.state()), *self.variables]

    def shared_function(self, *spec):
        if self._devices.number > 1 or tf.config.functions_run_eagerly():
            return function(self, *spec)

        def call(*args):
            # The global generator is another one in each run.
            variables = [*self.all_variables, tf.random.get_global_generator().state]
            key = self.made_from, custom_ops.impl_report(), conv2d.image_format(), spec
            if key not in _graphs:
                graph = function(self, *spec).get_concrete_function(*args)
                numbers = {id(var.handle): i for i, var in enumerate(variables)}
                _graphs[key] = graph, [numbers[id(x)] if x.dtype == tf.resource else None
                                       for x in graph.captured_inputs]
            graph, numbers = _graphs[key]
            captured = [x if i is None else variables[i].handle
                        for x, i in zip(graph.captured_inputs, numbers, strict=True)]
            return graph._call_flat(list(args), captured)
        return call
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, '__init__', init_and_describe)
        patch.setattr(TrainStep, 'function', shared_function)
        # It would make TensorFlow optimize each graph again, and seeds what training does not use: the older random
        # operations. If it did use them, no two runs would be the same.
        patch.setattr(tf.random, 'set_seed', lambda seed: None)
        yield


@contextlib.contextmanager
def eagerly():
    """Within it, functions are not traced, which is faster for a few iterations."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def _described(name, value):
    """What graphs depend on in an argument of TrainStep: not the values of variables."""
    if name in ('G', 'D', 'Gs'):
        return type(value), value.static_kwargs, value.input_shapes, value.output_shapes
    if name == 'label_table':
        return value.shape
    if name == 'augmentation' and value is not None:
        return value._pipe.settings, value._target, value._interval, value._kimg
    return None if name == 'devices' else value
