"""Evaluation from constants: a copy of a traced function in which variables have become constants.

On a CPU, TensorFlow's oneDNN convolutions bring variable weights into a layout of their own at every call; for a batch of one they
avoid that at the price of a slower algorithm. Constant weights are brought into that layout once and kept. What depends on weights
alone, such as their squared norms, is then computed once as well. docs/speed.md has the figures.
"""

import threading
import time
from collections import Counter, OrderedDict

import numpy as np
import tensorflow as tf


class FreezableFunction:
    """A function of a network that runs as it was traced, and from constants once that pays.

    Freezing takes as long as a few evaluations, and the evaluations that follow take less time. It therefore waits until the evaluations of
    a batch size have taken a few times as long as freezing is going to take, and twice as long again whenever a variable has changed
    afterwards. Results are the same up to rounding, for TensorFlow may order sums in another way. On GPUs, and with variables that have a
    copy on each of several devices, the function always runs as it was traced.

    Args:
        function:  tf.function of (list of tensors, dict of scalar tensors), with an input signature.
        variables: tf.Variables that become constants. Others that it reads stay variables: those that change often, or are small.
    """

    _KEPT = 2  # Batch sizes that frozen functions are kept for; each holds up to three copies of the weights.

    def __init__(self, function, variables):
        self._function = function
        self._variables = list(variables)
        self._read = tf.function(lambda: [var.read_value() for var in self._variables], autograph=False)
        self._lock = threading.RLock()
        self._held = None             # Values of the variables that the frozen functions are made of; None = there are none.
        self._templates = {}          # Batch size -> _Template, for those that were frozen last.
        self._frozen = OrderedDict()  # Batch size -> function from constants, the one used last at the end.
        self._seconds = Counter()     # Batch size -> time of its evaluations as traced.
        self._cost = 0.3 + 8e-8 * sum(int(np.prod(var.shape)) for var in self._variables)  # In seconds: a guess, until it was measured.
        self._patience = 1.0          # Freeze after so many times the usual time.

    def refresh(self):
        """Forget the frozen functions if any variable has changed, by whatever means. Takes some microseconds for each variable."""
        with self._lock:
            # While a value is held here TensorFlow does not write into its memory: a changed variable has another address.
            if self._held is not None and any(_address(new) != _address(old) for new, old in zip(self._read(), self._held)):
                self._held = None
                self._frozen.clear()
                self._seconds.clear()
                self._patience *= 2

    def __call__(self, inputs, scalars, freeze=None):
        """Evaluate with the values that the variables have, if they have not changed since the last `refresh`.

        Args:
            inputs:  List of tensors [N, ...].
            scalars: {name: scalar tensor}.
            freeze:  True = freeze now, without waiting until it pays; False = do not; None = when it pays.

        Returns: What the function returns.
        """
        batch = inputs[0].shape[0]
        with self._lock:
            frozen = None if freeze is False else self._frozen.get(batch)
            usual = (3 if batch == 1 else 10) * self._cost  # A batch of one gains most.
            pays = freeze is None and self._seconds[batch] > usual * self._patience
            if frozen is None and (freeze or pays) and self._can_freeze():
                return self._freeze(batch, inputs, scalars)
            if frozen is not None:
                self._frozen.move_to_end(batch)
        if frozen is not None:
            return frozen(inputs, scalars)
        traces, start = self._function.experimental_get_tracing_count(), time.perf_counter()
        outputs = self._function(inputs, scalars)
        if self._function.experimental_get_tracing_count() == traces:
            self._seconds[batch] += time.perf_counter() - start
        return outputs

    def _can_freeze(self):
        return not (tf.config.get_visible_devices('GPU') or tf.config.functions_run_eagerly()  # Eagerly there is no graph.
                    or any(isinstance(var, tf.distribute.DistributedValues) for var in self._variables))

    def _freeze(self, batch, inputs, scalars):
        """Freeze and evaluate: TensorFlow optimises the graph at the first call, which is part of the cost."""
        start = time.perf_counter()
        if self._held is None:
            self._held = self._read()
        while len(self._frozen) >= self._KEPT:
            dropped, _ = self._frozen.popitem(last=False)
            self._seconds[dropped] = 0.0
        self._templates = {size: template for size, template in self._templates.items() if size in self._frozen or size == batch}
        if batch not in self._templates:
            self._templates[batch] = _Template(self._function.python_function, inputs, scalars, self._variables)
        self._frozen[batch] = self._templates[batch].freeze(self._held)
        outputs = self._frozen[batch](inputs, scalars)
        self._cost = time.perf_counter() - start
        return outputs


def _address(tensor):
    """Address of a tensor's numbers in memory."""
    return np.asarray(memoryview(tensor)).__array_interface__['data'][0]


class _Template:
    """The graph of a function, split into the part that depends on variables alone and the rest.

    A variable that the function also writes, or uses in any way other than reading its value, stays a variable.

    Args:
        function:        Python function of (list of tensors, dict of scalar tensors).
        inputs, scalars: Tensors to trace it for; the graph is for their shapes.
        variables:       tf.Variables whose values may become constants.
    """

    _SMALL = 1 << 18  # Elements. A larger result is kept as a constant only if it is not larger than what it is made of.

    def __init__(self, function, inputs, scalars, variables):
        self._signature = [[_spec(x) for x in inputs], {name: _spec(x) for name, x in scalars.items()}]
        concrete = tf.function(function, autograph=False).get_concrete_function(*self._signature)
        self._structure, self._outputs = concrete.structured_outputs, [x.name for x in concrete.outputs]
        num_inputs = len(concrete.inputs) - len(concrete.captured_inputs)
        self._inputs = [x.name for x in concrete.inputs[:num_inputs]]
        self._captured = {x.name: handle for x, handle in zip(concrete.inputs[num_inputs:], concrete.captured_inputs)}
        self._graph_def = concrete.graph.as_graph_def()
        index_of = {id(var.handle): index for index, var in enumerate(variables)}
        variable_of = {x.op.name: index_of.get(id(handle)) for x, handle in zip(concrete.inputs[num_inputs:], concrete.captured_inputs)}
        self._split(concrete.graph, variable_of)
        self._compute = self._function_of_values()

    def _split(self, graph, variable_of):
        """Find the operations on variables and constants alone, and their results that the others need."""
        only_read = {name for name in variable_of if all(op.type == 'ReadVariableOp' for op in graph.get_operation_by_name(name)
                                                         .outputs[0].consumers())}
        self._reads = {}   # Operation that reads a variable -> number of the variable.
        constant = set()   # Names of operations.
        for op in graph.get_operations():  # Each comes after its inputs.
            if op.type == 'ReadVariableOp':
                source = op.inputs[0].op.name
                if source in only_read and variable_of[source] is not None:
                    self._reads[op.name] = variable_of[source]
                    constant.add(op.name)
            elif op.type == 'Const' or (op.inputs and self._can_be_computed_once(op, constant)):
                constant.add(op.name)
        outputs = {name.split(':')[0] for name in self._outputs}
        self._kept = sorted(name for name in constant if graph.get_operation_by_name(name).type != 'Const' and (
            name in outputs or any(op.name not in constant for op in graph.get_operation_by_name(name).outputs[0].consumers())))
        self._constant = constant
        self._types = {name: graph.get_operation_by_name(name).outputs[0].dtype for name in [*self._kept, *self._reads]}

    def _can_be_computed_once(self, op, constant):
        if op.op_def.is_stateful or len(op.outputs) != 1 or any(x.op.name not in constant for x in op.inputs):
            return False
        if any(attr.WhichOneof('value') == 'func' for attr in op.node_def.attr.values()):
            return False
        size = op.outputs[0].shape.num_elements()
        return size is not None and size <= max(self._SMALL, sum(x.shape.num_elements() or 0 for x in op.inputs))

    def freeze(self, values):
        """The function with these values of the variables: (list of tensors, dict of scalar tensors) -> what the function returns."""
        results = self._compute(*(values[index] for index in self._reads.values()))
        constants = {name: result.numpy() for name, result in zip(self._kept, results)}

        @tf.function(input_signature=self._signature, autograph=False)
        def frozen(inputs, scalars):
            graph_def = tf.compat.v1.GraphDef()
            graph_def.library.CopyFrom(self._graph_def.library)
            graph_def.versions.CopyFrom(self._graph_def.versions)
            for node in self._graph_def.node:
                if node.name in constants:
                    _add_constant(graph_def, node.name, constants[node.name], self._types[node.name])
                elif node.name not in self._constant or node.op == 'Const':
                    graph_def.node.add().CopyFrom(node)
                    kept = [name for name in node.input if name[0] != '^' or name[1:] not in self._constant]
                    graph_def.node[-1].input[:] = kept
            given = dict(zip(self._inputs, tf.nest.flatten([inputs, scalars])))
            given.update({name: tf.compat.v1.get_default_graph().capture(handle) for name, handle in self._captured.items()})
            outputs = tf.graph_util.import_graph_def(graph_def, given, self._outputs, name='')
            return tf.nest.pack_sequence_as(self._structure, outputs)
        return frozen.get_concrete_function()

    def _function_of_values(self):
        """Function of the values of all variables that `_reads` names, in its order -> the results that are kept."""
        needed = tf.compat.v1.graph_util.extract_sub_graph(self._graph_def, self._kept)
        for node in needed.node:
            if node.name in self._reads:
                node.op = 'Placeholder'
                del node.input[:]
                node.attr.clear()
                node.attr['dtype'].type = self._types[node.name].as_datatype_enum

        names = {node.name for node in needed.node}

        @tf.function(autograph=False)
        def compute(*values):
            given = {f'{name}:0': value for name, value in zip(self._reads, values) if name in names}
            return tf.graph_util.import_graph_def(needed, given, [f'{name}:0' for name in self._kept], name='')
        return compute


def _spec(tensor):
    return tf.TensorSpec(tensor.shape, tensor.dtype)


def _add_constant(graph_def, name, value, dtype):
    node = graph_def.node.add(name=name, op='Const')
    node.attr['dtype'].type = dtype.as_datatype_enum
    node.attr['value'].tensor.CopyFrom(tf.make_tensor_proto(value, dtype))
