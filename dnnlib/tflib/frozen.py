"""Frozen functions: copies of traced functions in which variables are replaced by constants.

On a CPU, TensorFlow's oneDNN convolutions reorder the weights into an internal layout at every call if these are
variables. For a batch of one they avoid this at the price of a slower algorithm. Constant weights are reordered only
once. Moreover, results that depend only on weights, such as their squared norms, are computed once. docs/speed.md has
the measurements.
"""

import threading
import time
from collections import OrderedDict, defaultdict

import numpy as np
import tensorflow as tf

from dnnlib.tflib.tfutil import has_gpu


class FreezableFunction:
    """A function of a network that is frozen once that pays off.

    Freezing takes as long as a few evaluations and makes the following ones faster. Therefore a function is frozen
    after its evaluations with a batch size have taken a few times as long as freezing is expected to take. This time
    doubles each time a variable changes afterwards. Results are equal up to rounding, because TensorFlow may sum in a
    different order. On GPUs, and with variables that are distributed over several devices, functions are never frozen.

    Args:
        function:  tf.function of (list of tensors, dict of scalar tensors), with an input signature.
        variables: tf.Variables to replace by constants. Others that the function reads, which change often or are
                   small, remain variables.
    """

    _KEPT = 2  # Number of batch sizes to keep frozen functions for. Each holds up to three copies of the weights.

    def __init__(self, function, variables):
        self._function = function
        self._variables = list(variables)
        # TensorFlow would take calls of many traced functions that come from one place in the source for retracing and
        # warn of it. It does not look at calls of concrete functions.
        self._concrete = None
        self._read_all = None
        self._lock = threading.RLock()
        self._held = None             # Values of the variables in the frozen functions. None = nothing is frozen.
        self._templates = {}          # Batch size -> Template of the functions that were frozen last.
        self._frozen = OrderedDict()  # Batch size -> frozen function, the most recently used one last.
        self._seconds = defaultdict(float)  # Batch size -> time of its evaluations that were not frozen.
        self._patience = 1.0          # Multiplier of the time after which a function is frozen.
        # Duration of freezing in seconds: an estimate until it has been measured.
        self._cost = 0.3 + 8e-8 * sum(int(np.prod(var.shape)) for var in self._variables)

    def refresh(self):
        """Discard the frozen functions if a variable has changed. Takes a few microseconds per variable."""
        with self._lock:
            if self._held is None:
                return
            # TensorFlow does not overwrite the memory of a value that is held, so a changed variable has a new address.
            if any(_address(new) != _address(old) for new, old in zip(self._read(), self._held)):
                self._held = None
                self._frozen.clear()
                self._seconds.clear()
                self._patience *= 2

    def _read(self):
        if self._read_all is None:
            read = tf.function(lambda: [var.read_value() for var in self._variables], autograph=False)
            self._read_all = read.get_concrete_function()
        return self._read_all()

    def __call__(self, inputs, scalars, freeze=None):
        """Evaluate the function. Variables must not have changed since the last `refresh`.

        Args:
            inputs:  List of tensors [N, ...].
            scalars: {name: scalar tensor}.
            freeze:  True = freeze now; False = do not freeze; None = freeze when it pays off.

        Returns:
            The result of the function.
        """
        batch = inputs[0].shape[0]
        with self._lock:
            frozen = None if freeze is False else self._frozen.get(batch)
            usual = (3 if batch == 1 else 10) * self._cost  # A batch of one gains most.
            pays_off = freeze is None and self._seconds[batch] > usual * self._patience
            if frozen is None and (freeze or pays_off) and self._can_freeze():
                return self._freeze(batch, inputs, scalars)
            if frozen is not None:
                self._frozen.move_to_end(batch)
        if frozen is not None:
            return frozen(inputs, scalars)
        if tf.config.functions_run_eagerly():
            return self._function(inputs, scalars)
        if self._concrete is None:  # Tracing, and the first call, which optimizes the graph, are not timed.
            self._concrete = self._function.get_concrete_function()
            return self._concrete(inputs, scalars)
        start = time.perf_counter()
        outputs = self._concrete(inputs, scalars)
        self._seconds[batch] += time.perf_counter() - start
        return outputs

    def _can_freeze(self):
        return not (has_gpu()
                    or tf.config.functions_run_eagerly()  # There is no graph then.
                    or any(isinstance(var, tf.distribute.DistributedValues) for var in self._variables))

    def _freeze(self, batch, inputs, scalars):
        """Freeze and evaluate. TensorFlow optimizes the graph at the first call, which is part of the cost."""
        start = time.perf_counter()
        if self._held is None:
            self._held = self._read()
        while len(self._frozen) >= self._KEPT:
            dropped, _ = self._frozen.popitem(last=False)
            self._seconds[dropped] = 0.0
        self._templates = {size: template for size, template in self._templates.items()
                           if size in self._frozen or size == batch}
        if batch not in self._templates:
            self._templates[batch] = Template(self._function.python_function, inputs, scalars, self._variables)
        self._frozen[batch] = self._templates[batch].freeze(self._held)
        outputs = self._frozen[batch](inputs, scalars)
        self._cost = time.perf_counter() - start
        return outputs


def _address(tensor):
    """Memory address of a tensor's data."""
    return np.asarray(memoryview(tensor)).__array_interface__['data'][0]


class Template:
    """The graph of a function, split into a part that depends only on variables, and the rest.

    Variables that the function does not merely read remain variables.

    Args:
        function:        Python function of (list of tensors, dict of scalar tensors).
        inputs, scalars: Tensors or tf.TensorSpecs to trace it with. The graph is for their shapes.
        variables:       tf.Variables to replace by constants.
    """

    _SMALL = 1 << 18  # Elements. A larger result becomes a constant only if it is not larger than its inputs together.

    def __init__(self, function, inputs, scalars, variables):
        self._signature = [[_spec(x) for x in inputs], {name: _spec(x) for name, x in scalars.items()}]
        concrete = tf.function(function, autograph=False).get_concrete_function(*self._signature)
        self._structure, self._outputs = concrete.structured_outputs, [x.name for x in concrete.outputs]
        num_inputs = len(concrete.inputs) - len(concrete.captured_inputs)
        self._inputs = [x.name for x in concrete.inputs[:num_inputs]]
        captured = list(zip(concrete.inputs[num_inputs:], concrete.captured_inputs))
        self._captured = {x.name: handle for x, handle in captured}
        self._graph_def = self._without_ties(concrete.graph.as_graph_def())
        index_of = {id(var.handle): index for index, var in enumerate(variables)}
        variable_of = {x.op.name: index_of.get(id(handle)) for x, handle in captured}
        self._split(concrete.graph, variable_of)
        self._compute = self._function_of_values()

    def _is_tie(self, op):
        """Does it only pass tensors on? tf.custom_gradient ties a result to all that it was computed from with these.

        Args:
            op: tf.Operation or NodeDef.
        """
        kind = op.type if isinstance(op, tf.Operation) else op.op
        return kind == 'IdentityN' and not any(name.startswith(f'{op.name}:') for name in self._outputs)

    def _without_ties(self, graph_def):
        """The graph without operations that only pass tensors on. What took their outputs takes their inputs."""
        sources = {f'{node.name}:{index}' if index else node.name: name for node in graph_def.node
                   if self._is_tie(node) for index, name in enumerate(node.input)}
        result = tf.compat.v1.GraphDef(library=graph_def.library, versions=graph_def.versions)
        for node in graph_def.node:
            if not self._is_tie(node):
                result.node.add().CopyFrom(node)
                for index, name in enumerate(node.input):
                    while name in sources:
                        name = sources[name]
                    result.node[-1].input[index] = name
        return result

    def _split(self, graph, variable_of):
        """Find the operations that depend only on variables and constants, and their results that others need."""
        def consumers_of(tensor):
            for op in tensor.consumers():
                if self._is_tie(op):
                    for x, y in zip(op.inputs, op.outputs, strict=True):
                        yield from consumers_of(y) if x is tensor else ()
                else:
                    yield op

        def consumers(name):
            return consumers_of(graph.get_operation_by_name(name).outputs[0])

        only_read = {name for name in variable_of if all(op.type == 'ReadVariableOp' for op in consumers(name))}
        self._reads = {}   # Operation that reads a variable -> index of the variable.
        constant = set()   # Names of operations whose result is constant.
        for op in graph.get_operations():  # Inputs come before the operations that use them.
            if op.type == 'ReadVariableOp':
                source = op.inputs[0].op.name
                if source in only_read and variable_of[source] is not None:
                    self._reads[op.name] = variable_of[source]
                    constant.add(op.name)
            elif op.type == 'Const' or (op.inputs and self._can_be_computed_once(op, constant)):
                constant.add(op.name)
        outputs = {name.split(':')[0] for name in self._outputs}
        self._kept = sorted(
            name for name in constant if graph.get_operation_by_name(name).type != 'Const'
            and (name in outputs or any(op.name not in constant for op in consumers(name))))
        self._constant = constant
        self._specs = {name: _spec(graph.get_operation_by_name(name).outputs[0])
                       for name in [*self._kept, *self._reads]}

    def _can_be_computed_once(self, op, constant):
        def source(x):
            return source(x.op.inputs[x.value_index]) if self._is_tie(x.op) else x

        if (op.op_def.is_stateful or len(op.outputs) != 1 or self._is_tie(op)
                or any(source(x).op.name not in constant for x in op.inputs)):
            return False
        if any(attr.WhichOneof('value') == 'func' for attr in op.node_def.attr.values()):
            return False
        size = op.outputs[0].shape.num_elements()
        return size is not None and size <= max(self._SMALL, sum(x.shape.num_elements() or 0 for x in op.inputs))

    def freeze(self, values):
        """Return the function (list of tensors, dict of scalars) -> result for these values of the variables."""
        results = self._compute(*(values[index] for index in self._reads.values()))
        constants = {name: result.numpy() for name, result in zip(self._kept, results)}

        @tf.function(input_signature=self._signature, autograph=False)
        def frozen(inputs, scalars):
            graph_def = tf.compat.v1.GraphDef()
            graph_def.library.CopyFrom(self._graph_def.library)
            graph_def.versions.CopyFrom(self._graph_def.versions)
            for node in self._graph_def.node:
                if node.name in constants:
                    _add_constant(graph_def, node.name, constants[node.name], self._specs[node.name].dtype)
                elif node.name not in self._constant or node.op == 'Const':
                    graph_def.node.add().CopyFrom(node)
                    kept = [name for name in node.input if name[0] != '^' or name[1:] not in self._constant]
                    graph_def.node[-1].input[:] = kept
            given = dict(zip(self._inputs, tf.nest.flatten([inputs, scalars])))
            graph = tf.compat.v1.get_default_graph()
            # Variables that only constants were computed from are needed no longer.
            used = {f'{name}:0' for node in graph_def.node for name in node.input}
            given.update({name: graph.capture(handle) for name, handle in self._captured.items() if name in used})
            kept = [node for node in graph_def.node
                    if f'{node.name}:0' in used or f'{node.name}:0' not in self._captured]
            del graph_def.node[:]
            graph_def.node.extend(kept)
            outputs = tf.graph_util.import_graph_def(graph_def, given, self._outputs, name='')
            return tf.nest.pack_sequence_as(self._structure, outputs)
        return frozen.get_concrete_function()

    def _function_of_values(self):
        """Return a function of the values of all variables in `_reads`, in that order, which computes `_kept`."""
        needed = tf.compat.v1.GraphDef(library=self._graph_def.library, versions=self._graph_def.versions)
        needed.node.extend(_nodes_for(self._graph_def, self._kept))
        for node in needed.node:
            if node.name in self._reads:
                node.op = 'Placeholder'
                del node.input[:]
                node.attr.clear()
                node.attr['dtype'].type = self._specs[node.name].dtype.as_datatype_enum

        names = {node.name for node in needed.node}

        def compute(*values):
            given = {f'{name}:0': value for name, value in zip(self._reads, values) if name in names}
            return tf.graph_util.import_graph_def(needed, given, [f'{name}:0' for name in self._kept], name='')
        specs = [self._specs[name] for name in self._reads]
        return tf.function(compute, autograph=False).get_concrete_function(*specs)


def _nodes_for(graph_def, names):
    """The nodes of a graph that the nodes of these names depend on, themselves included, in the order of the graph."""
    nodes, found, pending = {node.name: node for node in graph_def.node}, set(), list(names)
    while pending:
        name = pending.pop().lstrip('^').partition(':')[0]  # '^name' = only runs before, 'name:1' = its second output.
        if name not in found:
            found.add(name)
            pending += nodes[name].input
    return [node for name, node in nodes.items() if name in found]


def _spec(tensor):
    return tf.TensorSpec(tensor.shape, tensor.dtype)


def _add_constant(graph_def, name, value, dtype):
    node = graph_def.node.add(name=name, op='Const')
    node.attr['dtype'].type = dtype.as_datatype_enum
    node.attr['value'].tensor.CopyFrom(tf.make_tensor_proto(value, dtype))
