"""What 8, 64 and 512 accelerators would give, reckoned from floating-point work, bytes and the speed of the reader.

The work is counted and the reader is measured on this machine. What is said of the accelerators is assumed, by the flags below.
"""

import argparse
import math
import tempfile
import time

import numpy as np

from bench import timing
from bench.iteration import PHASES, make_network

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
LAYER_COLUMNS = {'name': 's', 'gflop': '.2f', **{phase: 'd' for phase in PHASES}}
PHASE_COLUMNS = {'name': 's', 'per_iteration': '.4f', 'images': 's', 'gflop_per_image': '.0f'}
COLUMNS = {'name': 's', 'minibatch': 'd', 'busy': 'd', 'compute_ms': '.0f', 'allreduce_ms': '.1f', 'images_per_s': '.0f', 'speedup': '.1f',
           'days': '.2f', 'updates': '.0f', 'input_gb_per_s': '.2f', 'cores': '.1f'}
ASSUMPTIONS = ('peak', 'utilisation', 'node', 'link', 'network', 'latency', 'cores', 'storage')
# Days that the original's README gives for 25000 kimg of config-f at 1024x1024 on one V100, and the TFLOP/s of its data sheet.
PUBLISHED_DAYS, PUBLISHED_PEAK = 69 + 23 / 24, 15.7


def main(argv, prog):
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows of the last table to this file', metavar='FILE')
    parser.add_argument('--config', help='configuration: config-f or config-e', choices=['config-f', 'config-e'], default='config-f')
    parser.add_argument('--resolution', help='resolution of the images', type=int, default=1024, metavar='N')
    parser.add_argument('--accelerators', help='numbers of accelerators', default='8,64,512', metavar='LIST')
    parser.add_argument('--minibatch', help='images of a minibatch', type=int, default=32, metavar='N')
    parser.add_argument('--minibatch-gpu', help='images an accelerator handles at a time', type=int, default=4, metavar='N')
    parser.add_argument('--total-kimg', help='length of the training', type=float, default=25000, metavar='KIMG')
    parser.add_argument('--reader-images', help='images that the reader is timed on', type=int, default=400, metavar='N')
    group = parser.add_argument_group('assumptions, not measured')
    group.add_argument('--peak', help='TFLOP/s of an accelerator in float32', type=float, default=19.5, metavar='X')
    group.add_argument('--utilisation', help='share of that which training reaches', type=float, default=0.4, metavar='X')
    group.add_argument('--node', help='accelerators in a machine', type=int, default=8, metavar='N')
    group.add_argument('--link', help='GB/s of an accelerator to the others in its machine', type=float, default=300, metavar='X')
    group.add_argument('--network', help='GB/s of an accelerator to other machines', type=float, default=25, metavar='X')
    group.add_argument('--latency', help='microseconds of a step of an all-reduce', type=float, default=20, metavar='X')
    group.add_argument('--cores', help='CPU cores per accelerator', type=float, default=16, metavar='X')
    group.add_argument('--storage', help='GB/s of the storage that all machines read from', type=float, default=10, metavar='X')
    args = parser.parse_args(argv)

    print(timing.machine())
    G, D = (make_network(key, args.config, args.resolution) for key in 'GD')
    products = [product for net in (G.components.mapping, G.components.synthesis, D) for product in products_of(net)]
    report_work(products)
    gradients = {name: 4 * sum(int(np.prod(var.shape)) for var in net.trainables.values()) for name, net in (('G', G), ('D', D))}
    activations = activation_bytes(G, D)
    print(f'\nGradients: G {gradients["G"] / 1e6:.1f} MB, D {gradients["D"] / 1e6:.1f} MB. Outputs of all layers, which the backward pass '
          f'needs: {activations / 1e9:.2f} GB per image, {args.minibatch_gpu * activations / 1e9:.1f} GB for {args.minibatch_gpu}.')
    reader = measure_reader(args.resolution, args.reader_images)
    image_bytes = 3 * args.resolution ** 2
    print(f'Reader, measured, from files that are in memory: {reader["per_s"]:.0f} images/s; per second of a core '
          f'{reader["per_core_s"]:.0f} images, {reader["per_core_s"] * image_bytes / 1e9:.2f} GB')

    work = {phase: phase_work(products, phase) for phase in PHASES}
    if (args.config, args.resolution) == ('config-f', 1024):
        reached = 25e6 * flop_of(1, 1, work) / (PUBLISHED_DAYS * 86400) / 1e12
        print(f'The published time of the original on one V100 is {reached:.1f} TFLOP/s by this count, '
              f'{reached / PUBLISHED_PEAK:.0%} of its peak')
    print('Assumed: ' + ', '.join(f'--{name}={getattr(args, name):g}' for name in ASSUMPTIONS) + '\n')
    cases = [(number, grow) for number in map(int, args.accelerators.split(',')) for grow in (False, True)]
    rows = [reckon(number, grow, args, work, gradients, image_bytes, reader['per_core_s']) for number, grow in cases]
    rows = [row for i, row in enumerate(rows) if row not in rows[:i]]  # Where the minibatch need not grow, the two are the same.
    timing.report(rows, COLUMNS, args.json)
    print()
    for limit, number in what_breaks(args, work, gradients, image_bytes, reader['per_core_s']).items():
        print(f'{limit}: {"not up to 65536" if number is None else f"from {number}"} accelerators')


# ---- Floating-point work ----

def products_of(net):
    """(kind, layer, FLOP) of each convolution and matrix product in one evaluation of a mapping, synthesis or D on one image.

    A multiplication and an addition are two FLOP. Filters, activations and noise are not counted: they move bytes, and compute little.
    """
    from training.layers import Conv2D, Dense, ModulatedConv2D
    found = []
    for layer in net.layers:
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


def report_work(products):
    rows = [{'name': f'{kind}: {scope}' if scope else kind, 'gflop': flop / 1e9, **dict(zip(PHASES, PASSES[kind]))}
            for kind, scope, flop in sorted(products, key=lambda product: -product[2]) if flop >= 1e9]
    rows.append({'name': 'smaller ones', 'gflop': sum(flop for *_, flop in products if flop < 1e9) / 1e9})
    print('\nWork of a layer on one image, in GFLOP, and how often each phase does it:')
    timing.report(rows, LAYER_COLUMNS)
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


def measure_reader(resolution, count, minibatch=8):
    """Images per second of the reader, and per second of a core, on random images that the machine holds in memory."""
    from training import dataset_writer
    from training.dataset import TFRecordDataset
    pictures = np.random.RandomState(0).randint(0, 256, [4, 3, resolution, resolution]).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for _ in dataset_writer.write_source(f'{folder}/data', dataset_writer.Source(
                (3, resolution, resolution), range(64), lambda number: pictures[number % 4], 64)):
            pass
        minibatches = TFRecordDataset(f'{folder}/data', prefetch_mb=64).iterate(minibatch)  # Little is read before the time starts.
        for _ in range(4):
            next(minibatches)
        start, start_cpu = time.perf_counter(), time.process_time()
        for _ in range(max(count // minibatch, 1)):
            next(minibatches)
        images = max(count // minibatch, 1) * minibatch
        return {'per_s': images / (time.perf_counter() - start), 'per_core_s': images / (time.process_time() - start_cpu)}


# ---- The reckoning ----

def reckon(number, grow, args, work, gradients, image_bytes, per_core_s):
    """Row of the table: training on `number` accelerators.

    Args:
        grow:        Does the minibatch grow, so that each of them has its --minibatch-gpu images? Otherwise it stays, and where
                     it is too small for two images each (path lengths are of half of them), some are idle.
        work:        {phase: FLOP per image}.
        gradients:   {'G': bytes, 'D': bytes}.
        image_bytes: Bytes of an image as it is read.
        per_core_s:  Images that a core reads per second.
    """
    minibatch = max(args.minibatch, number * args.minibatch_gpu) if grow else args.minibatch
    busy = min(number, minibatch // 2)
    images = minibatch / busy
    compute = flop_of(images, min(args.minibatch_gpu, images), work) / (args.peak * 1e12 * args.utilisation)
    reduce = sum(PHASES[phase] * all_reduce(gradients[phase[0]], busy, args) for phase in PHASES)
    seconds = compute + reduce  # One after the other: nothing is sent while gradients are still being computed.
    alone = minibatch / (compute * busy)  # Images per second of one accelerator that does it all.
    rate = minibatch / seconds
    return {'name': f'{number} accelerators', 'minibatch': minibatch, 'busy': busy,
            'compute_ms': compute * 1e3, 'allreduce_ms': reduce * 1e3, 'images_per_s': rate, 'speedup': rate / alone,
            'days': args.total_kimg * 1e3 / rate / 86400, 'updates': args.total_kimg * 1e3 / minibatch,
            'input_gb_per_s': rate * image_bytes / 1e9, 'cores': rate / per_core_s}


def flop_of(images, part, work):
    """FLOP of an iteration on the average: of an accelerator that has so many images, and handles `part` of them at a time."""
    return (images * (work['G_train'] + work['D_train']) + images / 2 * PHASES['G_reg'] * work['G_reg']
            + part * PHASES['D_reg'] * work['D_reg'])


def all_reduce(size, number, args):
    """Seconds to add up `size` bytes over `number` accelerators: each sends and receives twice its share, over the slowest link."""
    if number == 1:
        return 0.0
    bandwidth = args.link if number <= args.node else args.network
    return 2 * (number - 1) / number * size / (bandwidth * 1e9) + 2 * math.ceil(math.log2(number)) * args.latency * 1e-6


def what_breaks(args, *measured):
    """{limit: the first power of two of accelerators that meets it, None = none}."""
    found = {}
    for number in (2 ** k for k in range(17)):
        kept, grown = (reckon(number, grow, args, *measured) for grow in (False, True))
        for limit, met in {
                'The minibatch is too small for --minibatch-gpu images on each': number * args.minibatch_gpu > args.minibatch,
                'The minibatch is too small for 2 images on each: some are idle': kept['busy'] < number,
                'All-reduce takes as long as computing, minibatch kept': kept['allreduce_ms'] >= kept['compute_ms'],
                'All-reduce takes as long as computing, minibatch grown': grown['allreduce_ms'] >= grown['compute_ms'],
                'The cores beside the accelerators read too slowly': grown['cores'] > number * args.cores,
                'The storage that all share delivers too slowly': grown['input_gb_per_s'] > args.storage}.items():
            found.setdefault(limit, None)
            if met and found[limit] is None:
                found[limit] = number
    return found
