"""Kernels that a GPU has to launch for an iteration of training, counted in the graphs of its phases.

Where images or parts of a minibatch are small, a GPU waits for the host, which launches one kernel after another.
Nothing is computed here, and no GPU is needed. An operation counts as one launch, unless it belongs to what follows:

- operations that only rename, reshape or assign a tensor, and slices that share its memory;
- what is computed on the host: shapes, indices and other integers of type int32;
- what TensorFlow removes before it runs a graph: operations that no result needs, that depend on constants alone, that
  are there twice, and products with 1 and sums with 0.

Operations in the loop over the parts of a minibatch count once for each part.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from bench import networks, timing

COLUMNS = {'name': 's', 'variables': 'd', 'launches': '.0f', 'before': '.0f'}
CASES = ','.join(f'config-f/{resolution}/mb{minibatch}' for resolution in (64, 256) for minibatch in (4, 32))
PART = 4  # Images handled at a time: the default of --minibatch-gpu.

_NO_KERNEL = set('''
    AssignVariableOp Bitcast EnsureShape ExpandDims Identity IdentityN NoOp Placeholder PreventGradient ReadVariableOp
    Reshape Squeeze StopGradient VarHandleOp'''.split())
_ON_HOST = {'int32', 'string', 'resource', 'variant'}  # Types of tensors that are in the memory of the host.
_NEUTRAL = {'Mul': 1, 'AddV2': 0}                      # Operation -> operand that changes nothing.


def main(argv: Sequence[str], prog: str) -> None:
    """Print the page with these arguments."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=_Formatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--cases', help='CONFIG/RESOLUTION/mbMINIBATCH, with commas between', default=CASES,
                        metavar='LIST')
    parser.add_argument('--part', help='images that are handled at a time, as --minibatch-gpu', type=int, default=PART,
                        metavar='N')
    parser.add_argument('--ops', help='print the operations that are launched most often', action='store_true')
    args = parser.parse_args(argv)

    print(timing.machine())
    rows = []
    for case in args.cases.split(','):
        rows += measure(case, args.part, args.ops)
    timing.report(rows, COLUMNS, args.json, before=('launches', 'launches'))


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the description as it is written."""


def measure(case: str, part: int, show_ops: bool = False) -> list[dict[str, Any]]:
    """Count the launches of a case.

    Args:
        case:     CONFIG/RESOLUTION/mbMINIBATCH.
        part:     Images that are handled at a time, on one device.
        show_ops: Print the operations that are launched most often?

    Returns:
        Rows of the table: an average iteration, in which the regularizers have their share, and each phase.
    """
    from bench.training import parse
    from training.step import groups
    config, resolution, minibatch = parse(case)
    groups.set_largest(math.inf)  # As on a GPU.
    try:
        trainer, _ = networks.make_trainer(config, resolution, minibatch)
    finally:
        groups.set_largest(None)
    num_parts = max(minibatch // part, 1)
    counts = {phase: count(graph, num_parts) for phase, graph in phase_graphs(trainer, resolution, minibatch, part)}
    total = Counter()
    for phase, often in {**networks.PHASES, 'Gs_update': 1}.items():
        for kind, number in counts[phase].items():
            total[kind] += number * often
    if show_ops:
        print(case + ': ' + ', '.join(f'{kind} {number:.0f}' for kind, number in total.most_common(40)))
    rows = [{'name': f'launches/{case}/part{part}/{phase}', 'launches': sum(kinds.values())}
            for phase, kinds in counts.items()]
    number = sum(len(named) for named in trainer.trained.values())
    return [{'name': f'launches/{case}/part{part}', 'variables': number, 'launches': sum(total.values())}, *rows]


def phase_graphs(trainer: Any, resolution: int, minibatch: int, part: int, labels: int = 0,
                 stage: int | None = None) -> Iterator[tuple[str, Any]]:
    """Trace the phases of a training step, without running them.

    Args:
        trainer:    TrainStep.
        resolution: Of the real images.
        minibatch:  Images of an iteration.
        part:       Images that are handled at a time.
        labels:     Size of the labels.
        stage:      What `trainer.set_lod` returned. None = full resolution.

    Returns:
        (phase, tf.Graph) of each phase, one after another.
    """
    import tensorflow as tf
    seed, scalar = tf.TensorSpec([2], tf.int64), tf.TensorSpec([], tf.float32)
    channels = trainer.D.input_shapes[0][1]
    data = [tf.TensorSpec([minibatch, channels, resolution, resolution], tf.float32),
            tf.TensorSpec([minibatch, labels], tf.float32)]
    for phase in trainer.phases(0):
        if phase == 'Gs_update':
            function = trainer.function(phase).get_concrete_function(scalar)
        else:
            num_parts = 1 if phase == 'D_reg' else max(minibatch // part, 1)
            function = trainer.function(phase, part, num_parts, stage).get_concrete_function(
                seed, scalar, *([] if phase[0] == 'G' else data))
        yield phase, function.graph


def inner_graphs(op: Any) -> dict[str, Any]:
    """{attribute: tf.Graph} of the functions that an operation calls."""
    names = {key: value.func.name for key, value in op.node_def.attr.items() if value.WhichOneof('value') == 'func'}
    return {key: op.graph._get_function(name).graph for key, name in names.items()}


def count(graph: Any, num_parts: int = 1) -> Counter:
    """Count the launches of a graph: {type of the operation: number}.

    Args:
        graph:     tf.Graph of a function with static shapes.
        num_parts: How often a loop is passed.
    """
    kinds = Counter()
    known: dict[Any, Any] = {}   # What an operation computes -> the first operation that does.
    same: dict[str, Any] = {}    # Name of a tensor -> name of the tensor that takes its place.
    constant = constant_operations(graph)
    for op in needed_operations(graph):
        inner = inner_graphs(op)
        if inner:  # A call, a loop, or a branch, of which the first one counts.
            kind, = {'f', 'body', 'then_branch'} & set(inner)
            kinds.update({inner_kind: number * (num_parts if kind == 'body' else 1)
                          for inner_kind, number in count(inner[kind], num_parts).items()})
            continue
        inputs = tuple(same.get(x.name, x.name) for x in op.inputs)
        neutral = _neutral_operand(op)
        if neutral is not None:
            same[op.outputs[0].name] = inputs[1 - neutral]
            continue
        if not op.op_def.is_stateful:
            attributes = tuple(sorted((key, value.SerializeToString()) for key, value in op.node_def.attr.items()))
            first = known.setdefault((op.type, inputs, attributes), op)
            if first is not op:
                same.update({x.name: y.name for x, y in zip(op.outputs, first.outputs)})
                continue
        if op.name in constant:
            continue
        if op.type not in _NO_KERNEL and not _shares_memory(op) and not _is_on_host(op):
            kinds[op.type] += 1
    return kinds


def needed_operations(graph: Any) -> list[Any]:
    """The operations that the outputs and side effects of a graph depend on, each after its inputs."""
    pending = [tensor.op for tensor in graph.outputs] + [getattr(item, 'op', item) for item in graph.control_outputs]
    needed = set()
    while pending:
        op = pending.pop()
        if op.name not in needed:
            needed.add(op.name)
            pending += [tensor.op for tensor in op.inputs] + list(op.control_inputs)
    return [op for op in graph.get_operations() if op.name in needed]


def constant_operations(graph: Any) -> set[str]:
    """Names of the operations that depend on no variable and no argument: TensorFlow computes them once, beforehand."""
    found = set()
    for op in needed_operations(graph):
        if op.type == 'Const' or (op.inputs and not op.op_def.is_stateful and all(x.op.name in found
                                                                                 for x in op.inputs)):
            found.add(op.name)
    return found


def _neutral_operand(op: Any) -> int | None:
    """Index of the operand that changes nothing. None = there is none."""
    import tensorflow as tf
    for index, x in enumerate(op.inputs if op.type in _NEUTRAL else ()):
        if x.op.type == 'Const' and x.shape.rank == 0 and tf.get_static_value(x) == _NEUTRAL[op.type]:
            return index
    return None


def _shares_memory(op: Any) -> bool:
    """Is it a slice of all elements in their order, or of the first ones of a flat tensor? These are not copied."""
    import tensorflow as tf
    if op.type != 'StridedSlice':
        return False
    x, (begin, strides) = op.inputs[0], (tf.get_static_value(op.inputs[index]) for index in (1, 3))
    size = op.outputs[0].shape.num_elements()
    if size is None or begin is None or strides is None or not all(strides > 0):
        return False
    return size == x.shape.num_elements() or (x.shape.rank == 1 and list(strides) == [1] and begin[0] == 0)


def _is_on_host(op: Any) -> bool:
    return bool(op.outputs) and all(x.dtype.name in _ON_HOST for x in op.outputs)
