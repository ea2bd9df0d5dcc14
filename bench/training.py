"""Times of the phases of a training step, compared with the time that their matrix products alone would take.

That is the time of all convolutions and matrix products at the machine's rate. A row for the iteration averages over
its phases.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench import costs, limits, networks, timing

COLUMNS = {'name': 's', 'median_ms': '.0f', 'best_ms': '.0f', 'gflop': '.0f', 'matmul_gflops': '.0f',
           'fraction_of_bound': '.3f', 'before': '.3f', 'speedup': '.2f', 'traces': 'd', 'peak_mb': '.0f',
           'least_mb': '.0f', 'memory_ratio': '.2f'}
CASES = ','.join(f'{config}/{resolution}/mb{minibatch}'
                 for resolution in (64, 128) for minibatch in (8, 32) for config in ('config-e', 'config-f'))
PART = 8  # Images handled at a time, of larger minibatches.


def main(argv: Sequence[str], prog: str) -> None:
    """Print the page with these arguments."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--rounds', help='times each phase is timed', type=int, default=3, metavar='N')
    parser.add_argument('--cases', help='CONFIG/RESOLUTION/mbMINIBATCH, with commas between', default=CASES,
                        metavar='LIST')
    parser.add_argument('--precisions', help='as --precision of run_training.py', default='float32,bfloat16',
                        metavar='LIST')
    parser.add_argument('--impls', help='forms of the custom ops: native, ref', default='native', metavar='LIST')
    parser.add_argument('--layers', help='print the work of each layer', action='store_true')
    args = parser.parse_args(argv)

    from training.step.devices import limit_inter_op_threads
    print(timing.machine())
    limit_inter_op_threads()  # As training does.
    rows = []
    kinds = [(precision, impl) for precision in args.precisions.split(',') for impl in args.impls.split(',')]
    for case in args.cases.split(','):
        rows += measure(case, kinds, args.rounds, args.layers)
    timing.report(rows, COLUMNS, args.json, before=('training', 'fraction_of_bound'))


def parse(case: str) -> tuple[str, int, int]:
    """'config-f/64/mb8' -> (configuration, resolution, minibatch)."""
    config, resolution, minibatch = case.split('/')
    return config, int(resolution), int(minibatch[2:])


def measure(case: str, kinds: Sequence[tuple[str, str]], rounds: int, layers: bool = False) -> list[dict[str, Any]]:
    """Measure a case.

    Args:
        case:   As for `parse`.
        kinds:  (precision, form of the custom ops) of each training step to measure.
        rounds: Number of times that each phase is timed.
        layers: Print the work of each layer?

    Returns:
        Rows of the table. 'speedup' is relative to the first kind.
    """
    from training.options import PRECISIONS
    from training.step import memory
    config, resolution, minibatch = parse(case)
    part = min(minibatch, PART)
    functions, trainers = {}, {}
    for kind in kinds:
        trainers[kind], phases = traced_phases(config, resolution, minibatch, part, *kind)
        functions.update({(kind, phase): function for phase, function in phases.items()})
    trainer = trainers[kinds[0]]
    products = costs.products_of(trainer.G, trainer.D)
    if layers:
        costs.report_layers(products)
    flop = costs.flop_of(minibatch, part, {phase: costs.phase_work(products, phase) for phase in networks.PHASES})
    least = memory.training_bytes(trainer.G, trainer.D, part) / 2 ** 20
    matmuls = limits.matmuls(dict.fromkeys(PRECISIONS[precision] for precision, _ in kinds))
    # Kinds alternate phase by phase, so that changes of the load of the machine affect all of them.
    names = list(dict.fromkeys(phase for _, phase in functions))
    functions = {(kind, phase): functions[kind, phase] for phase in names for kind in kinds}
    times = timing.interleaved({**functions, **matmuls}, rounds)
    rows, first = [], None
    for kind in kinds:
        kind_rows = rows_of(kind, times, flop, limits.matmul_rate(times, PRECISIONS[kind[0]]),
                            trainers[kind].num_traces())
        peak = float(timing.in_own_process('import sys; from bench import training; training.print_peak(*sys.argv[1:])',
                                           case, *kind))
        kind_rows['iteration'].update(peak_mb=peak, least_mb=least, memory_ratio=peak / least)
        first = first or kind_rows
        for phase, row in kind_rows.items():
            precision, impl = kind
            details = [impl] * (impl != 'native') + [phase] * (phase != 'iteration')
            name = '/'.join(['training', case, precision, *details])
            rows.append({'name': name, **row, 'speedup': first[phase]['best_ms'] / row['best_ms']})
    return rows


def rows_of(kind: tuple[str, str], times: Mapping[Any, Any], flop: Mapping[str, float], rate: float,
            traces: Mapping[Any, int]) -> dict[str, dict[str, Any]]:
    """{phase: row} of one kind, and 'iteration': the average of what an iteration takes, the update of Gs included."""
    rows = {phase: {'median_ms': times[kind, phase][0], 'best_ms': times[kind, phase][1], 'gflop': flop[phase] / 1e9,
                    'traces': next(count for spec, count in traces.items() if spec[0] == phase)} for phase in flop}
    total = {key: costs.average({phase: row[key] for phase, row in rows.items()})
             for key in ('median_ms', 'best_ms', 'gflop')}
    for key, milliseconds in zip(('median_ms', 'best_ms'), times[kind, 'Gs_update']):
        total[key] += milliseconds
    rows['iteration'] = {**total, 'traces': max(traces.values())}
    for row in rows.values():
        row.update(matmul_gflops=rate, fraction_of_bound=row['gflop'] / rate / row['best_ms'] * 1e3)
    return rows


def traced_phases(config: str, resolution: int, minibatch: int, part: int, precision: str,
                  impl: str) -> tuple[Any, dict[str, Callable[[], None]]]:
    """(TrainStep, {phase: function}), traced with this precision and this form of the ops."""
    import custom_ops
    trainer, lrate = networks.make_trainer(config, resolution, minibatch, precision)
    phases = {**networks.phase_functions(trainer, lrate, resolution, minibatch, part),
              'Gs_update': lambda: trainer.update_Gs(0.999)}
    custom_ops.set_impl(impl)
    for function in phases.values():
        function()
    custom_ops.set_impl(None)
    return trainer, phases


def print_peak(case: str, precision: str, impl: str) -> None:
    """Print the peak memory of training in MB, without that of TensorFlow itself. Call it in a new process."""
    import tensorflow as tf

    from training.step.devices import limit_inter_op_threads
    limit_inter_op_threads()  # As training does.
    config, resolution, minibatch = parse(case)
    tf.constant(0)
    before = timing.peak_memory()
    _, phases = traced_phases(config, resolution, minibatch, min(minibatch, PART), precision, impl)
    for function in phases.values():
        function()
    print(timing.peak_memory() - before)
