"""TensorFlow's two sets of CPU kernels side by side: oneDNN off and on, each in processes of its own, in turn.

On a CPU with AVX-512, --isa=AVX2 holds oneDNN, and the matrix products that TensorFlow's own kernels borrow from it, to what a CPU with
AVX2 alone would run. Eigen's other kernels, and the clock of the CPU, stay those of this machine.
"""

import argparse
import json
import os

from bench import costs, limits, networks, timing

COLUMNS = {'name': 's', 'off_ms': '.1f', 'on_ms': '.1f', 'on_over_off': '.2f', 'off_fraction': '.2f', 'on_fraction': '.2f'}
# The size of the demo's networks until its settings changed on 2026-11-29; the figures in docs/speed.md were measured with it.
DEMO = dict(fmap_base=1024, fmap_max=64, latent_size=128, mapping_layers=4)
CASES = ('generator/config-f/256/b1,generator/config-f/256/b4,generator/config-e/256/b1,generator/config-e/256/b4,'
         'training/config-e/64/mb8,training/demo/32/mb8,projector/config-e/256/b1,features/inception/b8')


def main(argv, prog):
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--rounds', help='times each function is timed in a process', type=int, default=3, metavar='N')
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
                env = {**os.environ, 'TF_ENABLE_ONEDNN_OPTS': setting, **({'ONEDNN_MAX_CPU_ISA': args.isa} if args.isa else {})}
                program = 'import sys; from bench import kernels; kernels.print_times(*sys.argv[1:])'
                times.append(json.loads(timing.in_own_process(program, case, str(args.rounds), env=env)))
        rows += rows_of(case, *found.values())
    timing.report(rows, COLUMNS, args.json)
    print('fraction: of the time that the convolutions and matrix products would take at the larger of both rates of matrix products.')


def rows_of(case, off, on):
    """Rows of a case, from what `print_times` printed in the processes of each setting."""
    rate = max(times['rate'] for times in (*off, *on))
    rows = []
    for name, gflop in off[0]['gflop'].items():
        best = [min(times['best_ms'][name] for times in setting) for setting in (off, on)]
        rows.append({'name': f'{case}{name}', 'off_ms': best[0], 'on_ms': best[1], 'on_over_off': best[0] / best[1], 'matmul_gflops': rate,
                     **{f'{key}_fraction': gflop and gflop / rate / ms * 1e3 for key, ms in zip(('off', 'on'), best)}})
    return rows


def print_times(case, rounds):
    """Print {'best_ms': {name: milliseconds}, 'gflop': {name: work}, 'rate': GFLOP/s of matrix products} of a case as JSON."""
    import dnnlib.tflib  # noqa: F401  First, for a quiet start.
    kind, *where = case.split('/')
    functions, gflop = {'generator': generator, 'training': training, 'projector': projector, 'features': features}[kind](*where)
    times = timing.interleaved({**functions, **limits.matmuls(['float32'])}, int(rounds))
    best = {name: times[name][1] for name in functions}
    if kind == 'training':
        best['/iteration'] = costs.average({name[1:]: best[name] for name in functions})
    print(json.dumps({'best_ms': best, 'gflop': gflop, 'rate': limits.own_rate(times, 'float32')}))


def generator(config, resolution, batch):
    from bench.generator import generator_of
    G, function_of = generator_of(f'{config}/{resolution}/{batch}')
    gflop = int(batch[1:]) * sum(flop for *_, flop in costs.products_of(G)) / 1e9
    return {'': function_of('float32', True), '/traced': function_of('float32', False)}, {'': gflop, '/traced': gflop}


def training(config, resolution, minibatch):
    minibatch, options = int(minibatch[2:]), DEMO if config == 'demo' else {}
    trainer, lrate = networks.make_trainer('config-f' if config == 'demo' else config, int(resolution), minibatch, **options)
    phases = networks.phase_functions(trainer, lrate, int(resolution), minibatch)
    products = costs.products_of(trainer.G, trainer.D)
    flop = costs.flop_of(minibatch, minibatch, {phase: costs.phase_work(products, phase) for phase in phases})
    gflop = {f'/{phase}': flop[phase] / 1e9 for phase in phases}
    gflop['/iteration'] = costs.average({phase: flop[phase] / 1e9 for phase in phases})
    return {f'/{phase}': function for phase, function in phases.items()}, gflop


def projector(config, resolution, count):
    from bench.projector import functions
    step, bare = functions(networks.make_network('G', config, int(resolution)), 'pixel', int(count[1:]))
    return {'': step}, {'': costs.flop_of_graph(bare.get_concrete_function().graph) / 1e9}


def features(name, batch):
    """A feature network of the metrics; 'inception' with random weights."""
    import tensorflow as tf

    from bench.metrics import feature_network
    network = feature_network(name)
    images = tf.zeros([int(batch[1:]), 3, 256, 256], tf.uint8)
    function = tf.function(lambda: network(images), autograph=False)
    return {'': lambda: function().numpy()}, {'': costs.flop_of_graph(function.get_concrete_function().graph) / 1e9}
