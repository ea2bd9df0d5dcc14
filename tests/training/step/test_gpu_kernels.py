"""No GPU is needed to see what one would do: TensorFlow's wheels list their GPU kernels on every machine.

Every phase of every configuration is traced as for a GPU, and each of its operations looked up in that list. An
operation without a GPU kernel would copy its tensors to the host and back, or fail where a function is bound to the
GPU. And a kernel that reads a tensor of the device in the memory of the host keeps the host waiting for the device.
"""

import collections
import contextlib
import functools
import math

import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

import custom_ops
from bench.launches import constant_operations, inner_graphs, needed_operations, phase_graphs
from custom_ops import conv2d
from dnnlib.tflib import KeyedRandom
from training import configs, misc
from training.nets import registry
from training.step import groups
from training.step.train_step import TrainStep

pytestmark = pytest.mark.skipif(
    not any(kernel.device_type == 'GPU' for kernel in kernels.get_registered_kernels_for_op('Conv2D').kernel),
    reason='this build of TensorFlow has no GPU kernels')

# Operations that are compiled with the project: their CUDA kernels are not part of the library for a CPU. They are
# tested by tests/custom_ops/test_cuda_kernels.py. The last element of each is what they read in the memory of the host.
OURS = {'Stylegan2Upfirdn2d': {'pads'}, 'Stylegan2BiasAct': set(), 'Stylegan2BiasActGrad': set(),
        'Stylegan2StyledBiasAct': set(), 'Stylegan2StyledBiasActGrad': set()}
RESOLUTION, MINIBATCH, PART = 8, 4, 2


@contextlib.contextmanager
def as_on_a_gpu(impl):
    """What is traced here is traced as on a GPU: in the layouts of that, and with all variables joined."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv2d, 'has_gpu', lambda: True)
        patch.setattr(conv2d, '_on_cpu', lambda: False)
        patch.setattr(conv2d, '_keep_layouts', lambda: None)
        groups.set_largest(math.inf)
        custom_ops.set_impl(impl)
        try:
            yield
        finally:
            groups.set_largest(None)
            custom_ops.set_impl(None)


@functools.cache
def graphs_of(config, impl, label_size=0, precision='float32'):
    """{phase: graph} of small networks; those that grow are traced while the highest resolution fades in."""
    args = configs.training_run('data', config=config).run_func_kwargs
    shape = dict(num_channels=3, resolution=RESOLUTION, label_size=label_size, fmap_base=32, fmap_max=4)
    small = dict(latent_size=4, dlatent_size=4, mapping_fmaps=4, mapping_layers=2)
    losses = [{**args[key]} for key in ('G_loss_args', 'D_loss_args')]
    names = [loss.pop('func_name') for loss in losses]
    with as_on_a_gpu(impl):
        G = registry.create_network('G', **{**args.G_args, **shape, **small})
        D = registry.create_network('D', **{**args.D_args, **shape})
        trainer = TrainStep(
            G, D, G.clone('Gs'), *names, *losses, G_opt_args=args.G_opt_args, D_opt_args=args.D_opt_args,
            lazy_regularization=args.get('lazy_regularization', True), precision=precision)
        stage = trainer.set_lod(0.5)
        graphs = dict(phase_graphs(trainer, RESOLUTION, MINIBATCH, PART, label_size, stage))
        for several_devices in (False, True):
            graphs[f'reals, several devices: {several_devices}'] = graph_of_reals(stage, label_size, several_devices)
    return graphs


def graph_of_reals(stage, label_size, several_devices):
    """The preparation of real images, as in training/step/iteration.py."""
    def function(images, labels, lod, seed):
        rng = KeyedRandom(seed).at(tf.constant(0)) if several_devices else None
        lod = 0 if stage is None else lod
        return misc.process_reals(images, labels, lod, True, [0, 255], [-1, 1], rng, stage)
    return tf.function(function, autograph=False).get_concrete_function(
        tf.TensorSpec([MINIBATCH, 3, RESOLUTION, RESOLUTION], tf.uint8), tf.TensorSpec([MINIBATCH, label_size]),
        tf.TensorSpec([]), tf.TensorSpec([2], tf.int64)).graph


CASES = [pytest.param('config-f', 'native', 0, 'float32', id='config-f-native'),
         pytest.param('config-f', 'ref', 0, 'mixed_float16', id='config-f-float16'),
         pytest.param('config-f', 'ref', 0, 'bfloat16', id='config-f-bfloat16'),
         pytest.param('config-e', 'ref', 2, 'float32', id='config-e-labels'),
         *(pytest.param(f'config-{letter}', 'ref', 0, 'float32', id=f'config-{letter}') for letter in 'abcd')]


@pytest.mark.parametrize('config, impl, label_size, precision', CASES)
def test_every_operation_has_a_gpu_kernel(config, impl, label_size, precision):
    graphs = graphs_of(config, impl, label_size, precision)
    assert set(graphs) >= {'G_train', 'Gs_update', 'D_train', 'reals, several devices: False'}
    for phase, graph in graphs.items():
        assert not without_kernel(graph), phase


@pytest.mark.parametrize('config, impl, label_size, precision', CASES)
def test_nothing_waits_for_the_device(config, impl, label_size, precision):
    for phase, graph in graphs_of(config, impl, label_size, precision).items():
        assert not waiting(graph), phase


def test_both_are_found_where_they_are():
    def function(x):
        y = tf.raw_ops.FractionalMaxPool(value=x, pooling_ratio=[1.0, 1.5, 1.5, 1.0])[0]
        return y, tf.reshape(x, [tf.cast(x[0, 0, 0, 0], tf.int32), -1])
    graph = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec([1, 4, 4, 4])).graph
    assert without_kernel(graph) == {('FractionalMaxPool', 'float32'): 1}
    assert waiting(graph) == {('Cast', 'int32', 'Pack', 'values'): 1,
                              ('Placeholder', 'float32', 'FractionalMaxPool', 'value'): 1}


def without_kernel(graph):
    """{(operation, types of its inputs): number} of those that have no GPU kernel."""
    found = collections.Counter()
    for op in all_operations(graph):
        if op.type not in OURS and kernel_of(op) is None and not runs_on_host(op):
            found[(op.type, *(x.dtype.name for x in op.inputs))] += 1
    return found


def waiting(graph):
    """{(operation, type of its output, operation that reads it on the host, name of the input): number}."""
    found = collections.Counter()
    for op in all_operations(graph):
        for name, x in zip(argument_names(op, op.op_def.input_arg), op.inputs, strict=True):
            if name in host_arguments(op) and not is_on_host(x) and x.op.name not in constant_operations(x.graph):
                found[x.op.type, x.dtype.name, op.type, name] += 1
    return found


def all_operations(graph):
    """The operations that the results of a graph depend on, and those of the functions that they call.

    Those that TensorFlow computes beforehand are left out.
    """
    constant = constant_operations(graph)
    for op in needed_operations(graph):
        if op.name not in constant:
            yield op
        for inner in inner_graphs(op).values():
            yield from all_operations(inner)


def runs_on_host(op):
    """KeyedRandom derives its keys on the host by design: stateless random operations need them there."""
    return op.device.endswith('CPU:0')


def kernel_of(op):
    """The GPU kernel that TensorFlow would choose. None = there is none."""
    attributes = op.node_def.attr
    return _kernel_for(op.type, tuple(_types(attributes[name]) for name in _constrained(op.type)))


@functools.cache
def _kernel_for(op_type, types):
    types = dict(zip(_constrained(op_type), types, strict=True))
    found = {kernel.device_type: kernel for kernel in _kernels(op_type)
             if all(types[constraint.name] <= _types(constraint.allowed_values) for constraint in kernel.constraint)}
    return found.get('GPU', found.get('DEFAULT'))  # The latter are for every device that is not a CPU.


@functools.cache
def _constrained(op_type):
    """Names of the attributes that decide which kernel is chosen."""
    return sorted({constraint.name for kernel in _kernels(op_type) for constraint in kernel.constraint})


@functools.cache
def _kernels(op_type):
    return list(kernels.get_registered_kernels_for_op(op_type).kernel)


def _types(value):
    """Types that an attribute names."""
    return frozenset(value.list.type if value.WhichOneof('value') == 'list' else [value.type])


def argument_names(op, arguments):
    """Name of the argument that each input or output of an operation belongs to."""
    names = []
    for arg in arguments:
        number = op.get_attr(arg.number_attr) if arg.number_attr else (
            len(op.get_attr(arg.type_list_attr)) if arg.type_list_attr else 1)
        names += [arg.name] * number
    return names


def host_arguments(op):
    """Names of the inputs and outputs that the GPU kernel of an operation has in the memory of the host."""
    if op.type in OURS:
        return OURS[op.type]
    kernel = kernel_of(op)
    everything = {arg.name for arg in (*op.op_def.input_arg, *op.op_def.output_arg)}
    return everything if kernel is None or runs_on_host(op) else set(kernel.host_memory_arg)


def is_on_host(x):
    """Is a tensor in the memory of the host? Arguments of functions are where TensorFlow has int32 and resources."""
    if x.op.type == 'Placeholder' and x.dtype == tf.int64:
        return True  # The seed: TrainStep and Iterations make it on the host.
    if x.op.type in ('Placeholder', 'PartitionedCall', 'StatefulPartitionedCall', 'While', 'StatelessWhile'):
        return x.dtype in (tf.int32, tf.resource, tf.variant, tf.string)
    if x.op.type in ('Identity', 'Const') and x.dtype == tf.int32:
        return True
    return argument_names(x.op, x.op.op_def.output_arg)[x.value_index] in host_arguments(x.op)
