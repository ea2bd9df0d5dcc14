"""Estimate of training on 8, 64 and 512 accelerators, from floating-point work, bytes and the speed of the reader.

The work is counted and the reader is measured on this machine. Everything about the accelerators is assumed; the flags
below change the assumptions.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench import costs, timing
from bench.networks import PHASES, make_network

COLUMNS = {'name': 's', 'minibatch': 'd', 'busy': 'd', 'compute_ms': '.0f', 'allreduce_ms': '.1f',
           'images_per_s': '.0f', 'speedup': '.1f', 'days': '.2f', 'updates': '.0f', 'input_gb_per_s': '.2f',
           'cores': '.1f'}
ASSUMPTIONS = ('peak', 'utilisation', 'node', 'link', 'network', 'latency', 'cores', 'storage')
# Days that the original's README gives for 25000 kimg of config-f at 1024x1024 on one V100, and the TFLOP/s of its data
# sheet.
PUBLISHED_DAYS, PUBLISHED_PEAK = 69 + 23 / 24, 15.7


def main(argv: Sequence[str], prog: str) -> None:
    """Print the page with these arguments."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows of the last table to this file', metavar='FILE')
    parser.add_argument('--config', help='configuration: config-f or config-e', choices=['config-f', 'config-e'],
                        default='config-f')
    parser.add_argument('--resolution', help='resolution of the images', type=int, default=1024, metavar='N')
    parser.add_argument('--accelerators', help='numbers of accelerators', default='8,64,512', metavar='LIST')
    parser.add_argument('--minibatch', help='images of a minibatch', type=int, default=32, metavar='N')
    parser.add_argument('--minibatch-gpu', help='images an accelerator handles at a time', type=int, default=4,
                        metavar='N')
    parser.add_argument('--total-kimg', help='length of the training', type=float, default=25000, metavar='KIMG')
    parser.add_argument('--reader-images', help='images that the reader is timed on', type=int, default=400,
                        metavar='N')
    group = parser.add_argument_group('assumptions, not measured')
    group.add_argument('--peak', help='TFLOP/s of an accelerator in float32', type=float, default=19.5, metavar='X')
    group.add_argument('--utilisation', help='share of that which training reaches', type=float, default=0.4,
                       metavar='X')
    group.add_argument('--node', help='accelerators in a machine', type=int, default=8, metavar='N')
    group.add_argument('--link', help='GB/s of an accelerator to the others in its machine', type=float, default=300,
                       metavar='X')
    group.add_argument('--network', help='GB/s of an accelerator to other machines', type=float, default=25,
                       metavar='X')
    group.add_argument('--latency', help='microseconds of a step of an all-reduce', type=float, default=20, metavar='X')
    group.add_argument('--cores', help='CPU cores per accelerator', type=float, default=16, metavar='X')
    group.add_argument('--storage', help='GB/s of the storage that all machines read from', type=float, default=10,
                       metavar='X')
    args = parser.parse_args(argv)

    print(timing.machine())
    G, D = (make_network(key, args.config, args.resolution) for key in 'GD')
    products = costs.products_of(G, D)
    costs.report_layers(products)
    costs.report_phases(products)
    gradients = {name: 4 * sum(int(np.prod(var.shape)) for var in net.trainables.values())
                 for name, net in (('G', G), ('D', D))}
    activations = costs.activation_bytes(G, D)
    print(f'\nGradients: G {gradients["G"] / 1e6:.1f} MB, D {gradients["D"] / 1e6:.1f} MB. '
          f'Outputs of all layers, which the backward pass needs: {activations / 1e9:.2f} GB per image, '
          f'{args.minibatch_gpu * activations / 1e9:.1f} GB for {args.minibatch_gpu}.')
    reader = measure_reader(args.resolution, args.reader_images)
    image_bytes = 3 * args.resolution ** 2
    print(f'Reader, measured, from files that are in memory: {reader["per_s"]:.0f} images/s; per second of a core '
          f'{reader["per_core_s"]:.0f} images, {reader["per_core_s"] * image_bytes / 1e9:.2f} GB')

    work = {phase: costs.phase_work(products, phase) for phase in PHASES}
    if (args.config, args.resolution) == ('config-f', 1024):
        reached = 25e6 * costs.average(costs.flop_of(1, 1, work)) / (PUBLISHED_DAYS * 86400) / 1e12
        print(f'The published time of the original on one V100 is {reached:.1f} TFLOP/s by this count, '
              f'{reached / PUBLISHED_PEAK:.0%} of its peak')
    print('Assumed: ' + ', '.join(f'--{name}={getattr(args, name):g}' for name in ASSUMPTIONS) + '\n')
    cases = [(number, grow) for number in map(int, args.accelerators.split(',')) for grow in (False, True)]
    rows = [estimate(number, grow, args, work, gradients, image_bytes, reader['per_core_s']) for number, grow in cases]
    # If the minibatch need not grow, both cases give the same row.
    rows = [row for i, row in enumerate(rows) if row not in rows[:i]]
    timing.report(rows, COLUMNS, args.json)
    print()
    for limit, number in find_limits(args, work, gradients, image_bytes, reader['per_core_s']).items():
        print(f'{limit}: {"not up to 65536" if number is None else f"from {number}"} accelerators')


# ---- Bytes ----

def measure_reader(resolution: int, count: int, minibatch: int = 8) -> dict[str, float]:
    """Images per second of the reader, and per second of a core, on random images that the machine holds in memory."""
    from training.data import dataset_writer
    from training.dataset import TFRecordDataset
    pictures = np.random.RandomState(0).randint(0, 256, [4, 3, resolution, resolution]).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for _ in dataset_writer.write_source(f'{folder}/data', dataset_writer.Source(
                (3, resolution, resolution), range(64), lambda number: pictures[number % 4], 64)):
            pass
        # A small prefetch buffer, so that little is read before the time starts.
        minibatches = TFRecordDataset(f'{folder}/data', prefetch_mb=64).iterate(minibatch)
        for _ in range(4):
            next(minibatches)
        start, start_cpu = time.perf_counter(), time.process_time()
        for _ in range(max(count // minibatch, 1)):
            next(minibatches)
        images = max(count // minibatch, 1) * minibatch
        return {'per_s': images / (time.perf_counter() - start),
                'per_core_s': images / (time.process_time() - start_cpu)}


# ---- The estimate ----

def estimate(number: int, grow: bool, args: Any, work: Mapping[str, float], gradients: Mapping[str, int],
             image_bytes: float, per_core_s: float) -> dict[str, Any]:
    """Estimate training on some accelerators.

    Args:
        number:      Number of accelerators.
        grow:        Does the minibatch grow, so that each accelerator has its --minibatch-gpu images? If not, and if
                     the minibatch is too small for two images each (path lengths use half of them), some are idle.
        args:        Values of the flags.
        work:        Phase -> FLOP per image.
        gradients:   'G' and 'D' -> bytes.
        image_bytes: Bytes of an image in the dataset.
        per_core_s:  Images that a core reads per second.

    Returns:
        Row of the table.
    """
    minibatch = max(args.minibatch, number * args.minibatch_gpu) if grow else args.minibatch
    busy = min(number, minibatch // 2)
    images = minibatch / busy
    flop = costs.average(costs.flop_of(images, min(args.minibatch_gpu, images), work))
    compute = flop / (args.peak * 1e12 * args.utilisation)
    reduce = sum(PHASES[phase] * all_reduce(gradients[phase[0]], busy, args) for phase in PHASES)
    seconds = compute + reduce  # Nothing is sent while gradients are still being computed.
    alone = minibatch / (compute * busy)  # Images per second of one accelerator that does it all.
    rate = minibatch / seconds
    return {'name': f'{number} accelerators', 'minibatch': minibatch, 'busy': busy,
            'compute_ms': compute * 1e3, 'allreduce_ms': reduce * 1e3, 'images_per_s': rate, 'speedup': rate / alone,
            'days': args.total_kimg * 1e3 / rate / 86400, 'updates': args.total_kimg * 1e3 / minibatch,
            'input_gb_per_s': rate * image_bytes / 1e9, 'cores': rate / per_core_s}


def all_reduce(size: float, number: int, args: Any) -> float:
    """Seconds to sum `size` bytes over `number` accelerators.

    Each accelerator sends and receives twice its share, over the slowest link.
    """
    if number == 1:
        return 0.0
    bandwidth = args.link if number <= args.node else args.network
    return 2 * (number - 1) / number * size / (bandwidth * 1e9) + 2 * math.ceil(math.log2(number)) * args.latency * 1e-6


def find_limits(args: Any, *measured: Any) -> dict[str, int | None]:
    """Find out what limits training on more and more accelerators.

    Args:
        args:     Values of the flags.
        measured: Last arguments of `estimate`.

    Returns:
        Limit -> smallest power of two of accelerators that reaches it. None = none up to 65536.
    """
    found: dict[str, int | None] = {}
    for number in (2 ** k for k in range(17)):
        kept, grown = (estimate(number, grow, args, *measured) for grow in (False, True))
        for limit, met in {
                'The minibatch is too small for --minibatch-gpu images on each':
                    number * args.minibatch_gpu > args.minibatch,
                'The minibatch is too small for 2 images on each: some are idle': kept['busy'] < number,
                'All-reduce takes as long as computing, minibatch kept': kept['allreduce_ms'] >= kept['compute_ms'],
                'All-reduce takes as long as computing, minibatch grown': grown['allreduce_ms'] >= grown['compute_ms'],
                'The cores beside the accelerators read too slowly': grown['cores'] > number * args.cores,
                'The storage that all share delivers too slowly': grown['input_gb_per_s'] > args.storage}.items():
            found.setdefault(limit, None)
            if met and found[limit] is None:
                found[limit] = number
    return found
