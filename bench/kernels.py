"""TensorFlow's two sets of CPU kernels side by side: oneDNN off and on, in separate processes that alternate.

On a CPU with AVX-512, --isa=AVX2 limits oneDNN, and the matrix products that TensorFlow's own kernels take from it, to
what a CPU with only AVX2 would run. Eigen's other kernels and the CPU's clock remain those of this machine.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench import costs, limits, networks, timing

COLUMNS = {'name': 's', 'off_ms': '.1f', 'on_ms': '.1f', 'on_over_off': '.2f', 'off_fraction': '.2f',
           'on_fraction': '.2f'}
# The size of the demo's networks until its settings changed on 2026-11-29, with which the figures in docs/speed.md were
# measured.
DEMO = dict(fmap_base=1024, fmap_max=64, latent_size=128, mapping_layers=4)
CASES = ('generator/config-f/256/b1,generator/config-f/256/b4,generator/config-e/256/b1,generator/config-e/256/b4,'
         'training/config-e/64/mb8,training/demo/32/mb8,projector/config-e/256/b1,features/inception/b8')
_PROGRAM = 'import sys; from bench import kernels; kernels.print_times(*sys.argv[1:])'

_Functions = dict[str, Callable[[], Any]]  # {end of the row's name: function to be timed}
_Work = dict[str, float]                   # {end of the row's name: GFLOP}


def main(argv: Sequence[str], prog: str) -> None:
    """Run the page."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--rounds', help='how often each function is timed in a process', type=int, default=3,
                        metavar='N')
    parser.add_argument('--processes', help='processes of each setting, in turn', type=int, default=2, metavar='N')
    parser.add_argument('--isa', help='ONEDNN_MAX_CPU_ISA of the processes', metavar='NAME')
    parser.add_argument('--cases', help='what is timed', default=CASES, metavar='LIST')
    args = parser.parse_args(argv)

    print(timing.machine())
    rows = []
    for case in args.cases.split(','):
        found = {'0': [], '1': []}
        for _ in range(args.processes):
            for setting, times in found.items():
                env = {**os.environ, 'TF_ENABLE_ONEDNN_OPTS': setting}
                if args.isa:
                    env['ONEDNN_MAX_CPU_ISA'] = args.isa
                times.append(json.loads(timing.in_own_process(_PROGRAM, case, str(args.rounds), env=env)))
        rows += rows_of(case, found['0'], found['1'])
    timing.report(rows, COLUMNS, args.json)
    print('fraction: time of the convolutions and matrix products at the higher of both rates of matrix products, '
          'divided by the measured time.')


def rows_of(case: str, off: Sequence[Mapping[str, Any]], on: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Combine the results of the processes of a case into rows.

    Args:
        case:    Name of the case.
        off, on: What `print_times` printed in each process with oneDNN off and on.

    Returns:
        The rows.
    """
    rate = max(times['rate'] for times in (*off, *on))
    rows = []
    for name, gflop in off[0]['gflop'].items():
        off_ms, on_ms = (min(times['best_ms'][name] for times in setting) for setting in (off, on))
        rows.append({'name': f'{case}{name}', 'off_ms': off_ms, 'on_ms': on_ms, 'on_over_off': off_ms / on_ms,
                     'matmul_gflops': rate, 'off_fraction': gflop and gflop / rate / off_ms * 1e3,
                     'on_fraction': gflop and gflop / rate / on_ms * 1e3})
    return rows


def print_times(case: str, rounds: str) -> None:
    """Print {'best_ms': {name: time}, 'gflop': {name: work}, 'rate': GFLOP/s of matrix products} of a case as JSON.

    Args:
        case:   Name of the case.
        rounds: How often each function is timed.
    """
    import dnnlib.tflib  # noqa: F401  First, for a quiet start.
    kind, *where = case.split('/')
    kinds = {'generator': generator, 'training': training, 'projector': projector, 'features': features}
    functions, gflop = kinds[kind](*where)
    times = timing.interleaved({**functions, **limits.matmuls(['float32'])}, int(rounds))
    best = {name: times[name][1] for name in functions}
    if kind == 'training':
        best['/iteration'] = costs.average({name[1:]: best[name] for name in functions})
    print(json.dumps({'best_ms': best, 'gflop': gflop, 'rate': limits.own_rate(times, 'float32')}))


def generator(config: str, resolution: str, batch: str) -> tuple[_Functions, _Work]:
    """Generating images, from constants and with variables."""
    from bench.generator import generator_of
    G, function_of = generator_of(f'{config}/{resolution}/{batch}')
    gflop = int(batch[1:]) * sum(flop for *_, flop in costs.products_of(G)) / 1e9
    return {'': function_of('float32', True), '/traced': function_of('float32', False)}, {'': gflop, '/traced': gflop}


def training(config: str, resolution: str, minibatch: str) -> tuple[_Functions, _Work]:
    """The phases of training, and the work of an average iteration."""
    images, options = int(minibatch[2:]), {}
    if config == 'demo':
        config, options = 'config-f', DEMO
    trainer, lrate = networks.make_trainer(config, int(resolution), images, precision='float32', **options)
    phases = networks.phase_functions(trainer, lrate, int(resolution), images)
    products = costs.products_of(trainer.G, trainer.D)
    flop = costs.flop_of(images, images, {phase: costs.phase_work(products, phase) for phase in phases})
    gflop = {f'/{phase}': flop[phase] / 1e9 for phase in phases}
    gflop['/iteration'] = costs.average({phase: flop[phase] / 1e9 for phase in phases})
    return {f'/{phase}': function for phase, function in phases.items()}, gflop


def projector(config: str, resolution: str, count: str) -> tuple[_Functions, _Work]:
    """A step of the projector."""
    from bench.projector import functions
    step, bare = functions(networks.make_network('G', config, int(resolution)), 'pixel', int(count[1:]))
    return {'': step}, {'': costs.flop_of_graph(bare.get_concrete_function().graph) / 1e9}


def features(name: str, batch: str) -> tuple[_Functions, _Work]:
    """A feature network of the metrics; 'inception' has random weights."""
    import tensorflow as tf

    from bench.metrics import feature_network
    network = feature_network(name)
    images = tf.zeros([int(batch[1:]), 3, 256, 256], tf.uint8)
    function = tf.function(lambda: network(images), autograph=False)
    return {'': lambda: function().numpy()}, {'': costs.flop_of_graph(function.get_concrete_function().graph) / 1e9}
