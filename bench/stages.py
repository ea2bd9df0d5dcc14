"""Progressive growing: time and memory of a training iteration at each resolution, for one network."""

import argparse
import json
from collections.abc import Sequence

from bench import networks, timing

COLUMNS = {'name': 's', 'ms_per_image': '.1f', 'time_ratio': '.3f', 'memory_mb': '.0f', 'memory_ratio': '.3f'}
_PROGRAM = 'import json, sys; from bench import stages; stages.print_stage(*json.loads(sys.argv[1]))'


def main(argv: Sequence[str], prog: str) -> None:
    """Run the page."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--configs', help='configurations that grow', default='config-a,config-d', metavar='LIST')
    parser.add_argument('--resolution', help='full resolution of the networks', type=int, default=32, metavar='N')
    parser.add_argument('--fmap-max', help='largest number of feature maps; None = that of the configuration',
                        type=int, metavar='N')
    parser.add_argument('--minibatch', help='images of a minibatch, processed at once', type=int, default=8,
                        metavar='N')
    parser.add_argument('--rounds', help='processes that measure each stage, in turn', type=int, default=3, metavar='N')
    args = parser.parse_args(argv)

    print(timing.machine())
    rows = []
    for config in args.configs.split(','):
        sizes = [size for size in (8, 16, 32, 64, 128, 256, 512, 1024) if size <= args.resolution]
        found = {size: [] for size in sizes}
        for _ in range(args.rounds):
            for size in sizes:
                case = json.dumps([config, args.resolution, size, args.minibatch, args.fmap_max])
                found[size].append(json.loads(timing.in_own_process(_PROGRAM, case)))
        best = {size: [min(values) for values in zip(*pairs)] for size, pairs in found.items()}
        full_ms, full_mb = best[sizes[-1]]
        for size, (ms, mb) in best.items():
            rows.append({'name': f'{config}/{args.resolution}/stage {size}x{size}', 'ms_per_image': ms, 'memory_mb': mb,
                         'time_ratio': ms / full_ms, 'memory_ratio': mb / full_mb})
    timing.report(rows, COLUMNS, args.json)


def print_stage(config: str, resolution: int, size: int, minibatch: int, fmap_max: int | None) -> None:
    """Print, as JSON, [milliseconds per image of an iteration, MB that training needs in addition to the networks].

    Args:
        config:     Configuration that grows.
        resolution: Full resolution of the networks.
        size:       Resolution of the stage.
        minibatch:  Images of an iteration.
        fmap_max:   Largest number of feature maps. None = that of the configuration.
    """
    trainer, lrate = networks.make_trainer(config, resolution, minibatch, fmap_max=fmap_max)
    stage = trainer.set_lod(resolution.bit_length() - size.bit_length())
    functions = networks.phase_functions(trainer, lrate, size, minibatch, stage=stage)
    before = timing.peak_memory()
    times = timing.interleaved(functions, rounds=3)
    # An average iteration: with lazy regularization the regularizers run in every 4th and every 16th.
    total = sum(best * networks.PHASES[name] for name, (_, best) in times.items())
    print(json.dumps([total / minibatch, timing.peak_memory() - before]))
