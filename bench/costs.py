"""The least that networks and training cost: floating-point operations and bytes, counted layer by layer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench import timing
from bench.networks import PHASES

Product = tuple[str, str, int]  # Kind (a key of PASSES), layer, FLOP of one evaluation on one image.

# How often each phase computes the product of a layer, per image: in the forward pass, for the gradients of inputs and
# weights, and again if a regularizer differentiates gradients. TensorFlow does not compute what no result depends on,
# so the first and last layers of the networks differ from those in between. D_train evaluates D on reals and on fakes.
PASSES = {
    #                               G_train  G_reg  D_train  D_reg
    'G mapping, first layer':      (4,       4,     2,       0),  # Style mixing maps two latents, without gradients.
    'G mapping, other layers':     (6,       6,     2,       0),
    'G styles':                    (3,       6,     1,       0),
    'G demodulation':              (3,       6,     1,       0),
    'G convolutions':              (3,       6,     1,       0),
    'G ToRGB':                     (3,       2,     1,       0),  # Path lengths do not depend on the image itself.
    'D FromRGB':                   (2,       0,     4,       5),  # G_train needs no gradients of D's weights.
    'D convolutions':              (2,       0,     6,       6),
    'D after minibatch stddev':    (2,       0,     6,       4),  # Piecewise linear, so R1 needs no second derivatives.
    'D output':                    (2,       0,     6,       3),  # The signs of R1's scores are reported.
}
PHASE_COLUMNS = {'name': 's', 'per_iteration': '.4f', 'images': 's', 'gflop_per_image': '.0f'}
LAYER_COLUMNS = {'name': 's', 'gflop': '.2f', **{phase: 'd' for phase in PHASES}}


def products_of(*nets: Any) -> list[Product]:
    """List the convolutions and matrix products in one evaluation of networks on one image.

    A multiplication and an addition are two FLOP. Filters, activations and noise are not counted: they move bytes, but
    compute little.

    Args:
        nets: Networks: generators and discriminators.

    Returns:
        [(kind, layer, FLOP)].
    """
    from training.nets.layers import Conv2D, Dense, ModulatedConv2D
    found = []
    parts = []
    for net in nets:
        parts += [net.components.mapping, net.components.synthesis] if net.components else [net]
    for layer in (layer for part in parts for layer in part.layers):
        if isinstance(layer, Dense):
            found.append((_kind_of_dense(layer.scope), layer.scope, 2 * math.prod(layer.weight.shape)))
        elif isinstance(layer, (Conv2D, ModulatedConv2D)):
            size = int(layer.scope.split('x')[0])
            if layer.up or getattr(layer, 'down', False):
                size //= 2  # The convolution itself runs at the lower resolution; a filter follows or precedes it.
            flop = 2 * size ** 2 * math.prod(layer.weight.shape)
            if isinstance(layer, ModulatedConv2D):
                found.append(('G styles', layer.scope, 2 * math.prod(layer.mod_weight.shape)))
                if layer.demodulate:
                    found.append(('G demodulation', layer.scope, 2 * math.prod(layer.weight.shape[2:])))
                found.append(('G convolutions' if layer.demodulate else 'G ToRGB', layer.scope, flop))
            else:
                kinds = {'FromRGB': 'D FromRGB', 'Conv': 'D after minibatch stddev'}
                found.append((kinds.get(layer.scope.split('/')[1], 'D convolutions'), layer.scope, flop))
    return found


def _kind_of_dense(scope: str) -> str:
    if scope.startswith('Dense'):
        return 'G mapping, first layer' if scope == 'Dense0' else 'G mapping, other layers'
    return 'D output' if scope == 'Output' else 'D after minibatch stddev'


def phase_work(products: Sequence[Product], phase: str) -> int:
    """FLOP per image of a phase.

    Args:
        products: What `products_of` returned for G and D.
        phase:    Name of the phase.
    """
    column = list(PHASES).index(phase)
    return sum(flop * PASSES[kind][column] for kind, _, flop in products)


def flop_of(images: int, part: int, work: Mapping[str, float]) -> dict[str, float]:
    """FLOP of each phase when it runs.

    Args:
        images: Images of a minibatch.
        part:   Images that are processed at a time.
        work:   {phase: FLOP per image}.

    Returns:
        {phase: FLOP}.
    """
    # Path length regularization uses half of the images, and D's regularizer one part (training/step/train_step.py).
    seen = {'G_train': images, 'G_reg': images / 2, 'D_train': images, 'D_reg': part}
    return {phase: seen[phase] * work[phase] for phase in PHASES}


def flop_of_graph(graph: Any) -> int:
    """FLOP of the convolutions and matrix products that the outputs and side effects of a graph depend on.

    Args:
        graph: tf.Graph of a function with static shapes.
    """
    pending = [tensor.op for tensor in graph.outputs] + [getattr(item, 'op', item) for item in graph.control_outputs]
    needed = set()
    while pending:
        op = pending.pop()
        if op not in needed:
            needed.add(op)
            pending += [tensor.op for tensor in op.inputs] + list(op.control_inputs)
    total = 0
    for op in needed:
        shapes = [tensor.shape for tensor in op.inputs]
        if op.type == 'Conv2D':  # Each value of the output is a sum over the kernel.
            total += op.outputs[0].shape.num_elements() * shapes[1][:3].num_elements()
        elif op.type == 'Conv2DBackpropInput':  # Each value of the incoming gradient is multiplied by the kernel.
            total += shapes[2].num_elements() * shapes[1][:3].num_elements()
        elif op.type == 'Conv2DBackpropFilter':
            total += shapes[2].num_elements() * op.outputs[0].shape[:3].num_elements()
        elif op.type == 'MatMul':
            total += op.outputs[0].shape.num_elements() * shapes[0][0 if op.get_attr('transpose_a') else 1]
        elif op.type == 'BatchMatMulV2':
            total += op.outputs[0].shape.num_elements() * shapes[0][-2 if op.get_attr('adj_x') else -1]
        else:
            counted = any(word in op.type for word in ('Conv', 'MatMul', 'Einsum')) and 'Depthwise' not in op.type
            assert not counted, f'{op.type} is not handled'
    return 2 * total


def average(per_phase: Mapping[str, float]) -> float:
    """The value of an average iteration: the regularizers do not run in each one.

    Args:
        per_phase: {phase: value when it runs}.
    """
    return sum(value * PHASES[phase] for phase, value in per_phase.items())


def report_layers(products: Sequence[Product]) -> None:
    """Print the work of each layer that has at least 1% of it, and how often each phase of training does that work.

    Args:
        products: What `products_of` returned.
    """
    total = sum(flop for *_, flop in products)
    rows = [{'name': f'{kind}: {scope}', 'gflop': flop / 1e9, **dict(zip(PHASES, PASSES[kind]))}
            for kind, scope, flop in sorted(products, key=lambda product: -product[2]) if flop >= total / 100]
    rows.append({'name': 'smaller ones', 'gflop': sum(flop for *_, flop in products if flop < total / 100) / 1e9})
    print('\nWork of each layer on one image, in GFLOP, and how often each phase does it:')
    timing.report(rows, LAYER_COLUMNS)


def report_phases(products: Sequence[Product]) -> None:
    """Print the work of the networks and of the phases of training.

    Args:
        products: What `products_of` returned for G and D.
    """
    total = {net: sum(flop for kind, _, flop in products if kind[0] == net) / 1e9 for net in 'GD'}
    print(f'Forward pass: G {total["G"]:.0f} GFLOP, D {total["D"]:.0f} GFLOP')
    images = {'G_train': 'minibatch', 'G_reg': 'half of it', 'D_train': 'minibatch', 'D_reg': 'one part'}
    print()
    timing.report([{'name': phase, 'per_iteration': often, 'images': images[phase],
                    'gflop_per_image': phase_work(products, phase) / 1e9} for phase, often in PHASES.items()],
                  PHASE_COLUMNS)


# ---- Bytes ----

def activation_bytes(G: Any, D: Any) -> int:
    """Bytes (float32) of the outputs of all layers of G and D for one image. Gradients need at least these."""
    shapes = [shape for net in (G, D) for _scope, _params, shape, _weight in net.list_layers()]
    return 4 * sum(math.prod(shape[1:]) for shape in shapes if len(shape) > 1)
