"""What networks and training cost at the least: floating-point work and bytes, counted layer by layer."""

import math

from bench import timing
from bench.networks import PHASES

# How often each phase computes the product of a layer, per image: forwards, for gradients of inputs and of weights, and again where a
# regulariser differentiates gradients. What nothing depends on is not computed, so the ends of the networks differ from their middles.
PASSES = {
    #                               G_train  G_reg  D_train  D_reg
    'G mapping, first layer':      (4,       4,     2,       0),  # Style mixing maps two latents, whose gradients nobody wants.
    'G mapping, other layers':     (6,       6,     2,       0),
    'G styles':                    (3,       6,     1,       0),
    'G demodulation':              (3,       6,     1,       0),
    'G convolutions':              (3,       6,     1,       0),
    'G ToRGB':                     (3,       2,     1,       0),  # Path lengths do not depend on the image itself.
    'D FromRGB':                   (2,       0,     4,       5),  # G_train: no gradients of D's weights. D_train: reals and fakes.
    'D convolutions':              (2,       0,     6,       6),
    'D after minibatch stddev':    (2,       0,     6,       4),  # Linear, but for signs: the gradients do not depend on the values.
    'D output':                    (2,       0,     6,       2),
}
PHASE_COLUMNS = {'name': 's', 'per_iteration': '.4f', 'images': 's', 'gflop_per_image': '.0f'}
LAYER_COLUMNS = {'name': 's', 'gflop': '.2f', **{phase: 'd' for phase in PHASES}}


def products_of(*nets):
    """(kind, layer, FLOP) of each convolution and matrix product in one evaluation of Gs and Ds on one image.

    A multiplication and an addition are two FLOP. Filters, activations and noise are not counted: they move bytes, and compute little.
    """
    from training.nets.layers import Conv2D, Dense, ModulatedConv2D
    found = []
    parts = [part for net in nets for part in ((net.components.mapping, net.components.synthesis) if net.components else (net,))]
    for layer in (layer for part in parts for layer in part.layers):
        if isinstance(layer, Dense):
            kind = ('G mapping, first layer' if layer.scope == 'Dense0' else 'G mapping, other layers' if layer.scope.startswith('Dense')
                    else 'D output' if layer.scope == 'Output' else 'D after minibatch stddev')
            found.append((kind, layer.scope, 2 * math.prod(layer.weight.shape)))
        elif isinstance(layer, (Conv2D, ModulatedConv2D)):
            size = int(layer.scope.split('x')[0])
            if layer.up or getattr(layer, 'down', False):
                size //= 2  # The convolution proper is on the smaller side; what is between the two sides is a filter.
            flop = 2 * size ** 2 * math.prod(layer.weight.shape)
            if isinstance(layer, ModulatedConv2D):
                found.append(('G styles', layer.scope, 2 * math.prod(layer.mod_weight.shape)))
                if layer.demodulate:
                    found.append(('G demodulation', layer.scope, 2 * math.prod(layer.weight.shape[2:])))
                found.append(('G convolutions' if layer.demodulate else 'G ToRGB', layer.scope, flop))
            else:
                kind = {'FromRGB': 'D FromRGB', 'Conv': 'D after minibatch stddev'}.get(layer.scope.split('/')[1], 'D convolutions')
                found.append((kind, layer.scope, flop))
    return found


def phase_work(products, phase):
    """FLOP per image of a phase."""
    column = list(PHASES).index(phase)
    return sum(flop * PASSES[kind][column] for kind, _, flop in products)


def flop_of(images, part, work):
    """{phase: FLOP of the phase when it runs}, for so many images of which `part` are handled at a time. work: {phase: FLOP per image}.

    Path lengths are of half the images, and D's regulariser sees one part (training/step/train_step.py).
    """
    seen = {'G_train': images, 'G_reg': images / 2, 'D_train': images, 'D_reg': part}
    return {phase: seen[phase] * work[phase] for phase in PHASES}


def flop_of_graph(graph):
    """FLOP of the convolutions and matrix products that the outputs and side effects of a graph depend on."""
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
        if op.type == 'Conv2D':  # every value of the output is a sum over the kernel
            total += op.outputs[0].shape.num_elements() * shapes[1][:3].num_elements()
        elif op.type == 'Conv2DBackpropInput':  # every value of the incoming gradient goes to each place of the kernel
            total += shapes[2].num_elements() * shapes[1][:3].num_elements()
        elif op.type == 'Conv2DBackpropFilter':
            total += shapes[2].num_elements() * op.outputs[0].shape[:3].num_elements()
        elif op.type == 'MatMul':
            total += op.outputs[0].shape.num_elements() * shapes[0][0 if op.get_attr('transpose_a') else 1]
        else:
            assert 'Conv' not in op.type and 'MatMul' not in op.type and 'Einsum' not in op.type or 'Depthwise' in op.type, op.type
    return 2 * total


def average(per_phase):
    """An iteration on the average, from values of the phases: the regularisers do not run in every one."""
    return sum(value * PHASES[phase] for phase, value in per_phase.items())


def report_layers(products):
    """Print the work of each layer that has a hundredth or more of it, and how often each phase of training does it."""
    total = sum(flop for *_, flop in products)
    rows = [{'name': f'{kind}: {scope}', 'gflop': flop / 1e9, **dict(zip(PHASES, PASSES[kind]))}
            for kind, scope, flop in sorted(products, key=lambda product: -product[2]) if flop >= total / 100]
    rows.append({'name': 'smaller ones', 'gflop': sum(flop for *_, flop in products if flop < total / 100) / 1e9})
    print('\nWork of a layer on one image, in GFLOP, and how often each phase does it:')
    timing.report(rows, LAYER_COLUMNS)


def report_phases(products):
    """Print the work of the networks and of the phases of training."""
    total = {net: sum(flop for kind, _, flop in products if kind[0] == net) / 1e9 for net in 'GD'}
    print(f'Forwards: G {total["G"]:.0f} GFLOP, D {total["D"]:.0f} GFLOP')
    images = {'G_train': 'minibatch', 'G_reg': 'half of it', 'D_train': 'minibatch', 'D_reg': 'one part'}
    print()
    timing.report([{'name': phase, 'per_iteration': often, 'images': images[phase], 'gflop_per_image': phase_work(products, phase) / 1e9}
                   for phase, often in PHASES.items()], PHASE_COLUMNS)


# ---- Bytes ----

def activation_bytes(G, D):
    """Bytes, float32, of what all layers of G and D put out for one image. Gradients need at least these."""
    shapes = [shape for net in (G, D) for _scope, _params, shape, _weight in net.list_layers()]
    return 4 * sum(math.prod(shape[1:]) for shape in shapes if len(shape) > 1)


def kept_bytes(net, size=4):
    """Bytes of what the backward pass of a synthesis network or a D needs of its convolutions, for one image.

    Of each layer: what it convolves (scaled by the style, or filtered), what comes out before demodulation, whose gradient depends on it,
    and the result after the activation. size: bytes of a number.
    """
    from training.nets.layers import Conv2D, ModulatedConv2D
    floats = 0
    for layer in net.layers:
        if isinstance(layer, (Conv2D, ModulatedConv2D)):
            out = int(layer.scope.split('x')[0])
            inside = out // 2 if layer.up else out
            after = out // 2 if getattr(layer, 'down', False) else out
            results = 2 if getattr(layer, 'demodulate', False) else 1
            floats += inside ** 2 * layer.weight.shape[2] + results * after ** 2 * layer.weight.shape[3]
    return size * floats


def training_bytes(trainer, part):
    """Bytes, float32, that a step of training cannot do without: networks, moments, gradients and what the backward pass needs.

    Of the phases, that with the most: G_train keeps what G and D computed, D_train what D did of fakes and of reals, and the regularisers,
    which differentiate gradients, keep what their network (G with half the images) did forwards and backwards.
    """
    params = {key: 4 * sum(math.prod(var.shape) for var in net.trainables.values()) for key, net in (('G', trainer.G), ('D', trainer.D))}
    kept = {'G': part * kept_bytes(trainer.G.components.synthesis), 'D': part * kept_bytes(trainer.D)}
    phases = {'G_train': params['G'] + kept['G'] + kept['D'], 'G_reg': params['G'] + kept['G'],
              'D_train': params['D'] + 2 * kept['D'], 'D_reg': params['D'] + 2 * kept['D']}
    return 4 * params['G'] + 3 * params['D'] + max(phases.values())  # Weights and two moments of both, weights of Gs.
