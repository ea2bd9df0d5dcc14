"""How the cost of training grows with resolution, width and minibatch, compared with the growth of the work itself."""

import argparse
import json
import math
from collections.abc import Sequence
from typing import Any

from bench import costs, limits, networks, timing

COLUMNS = {'name': 's', 's_per_kimg': '.0f', 'time_growth': '.2f', 'work_growth': '.2f', 'fraction_of_bound': '.3f',
           'peak_mb': '.0f', 'least_mb': '.0f'}
# Cases of each series: (resolution, fmap_base, minibatch), of which the series varies one.
SERIES = {
    'resolution': [(resolution, 2048, 8) for resolution in (32, 64, 128, 256)],
    'width': [(64, fmap_base, 8) for fmap_base in (512, 1024, 2048, 4096, 8192)],
    'minibatch': [(64, 2048, minibatch) for minibatch in (4, 8, 16, 32, 64)],
}
_PROGRAM = 'import json, sys; from bench import growth; growth.print_case(*json.loads(sys.argv[1]))'


def main(argv: Sequence[str], prog: str) -> None:
    """Run the page."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--rounds', help='processes that measure each case, in turn', type=int, default=1, metavar='N')
    parser.add_argument('--series', help='what is varied', default=','.join(SERIES), metavar='LIST')
    parser.add_argument('--plot', help='write a chart to this file', metavar='SVG')
    args = parser.parse_args(argv)

    print(timing.machine())
    cases = {f'growth/{name}/{case[number]}': case for number, name in enumerate(SERIES)
             if name in args.series.split(',') for case in SERIES[name]}
    found = {name: [] for name in cases}
    for _ in range(args.rounds):
        for name, case in cases.items():
            found[name].append(json.loads(timing.in_own_process(_PROGRAM, json.dumps(case))))
    rows = []
    for name, values in found.items():
        row = min(values, key=lambda value: value['s_per_kimg'])
        first = next((other for other in rows if series_of(other) == name.split('/')[1]), row)
        rows.append({'name': name, **row, 'time_growth': row['s_per_kimg'] / first['s_per_kimg'],
                     'work_growth': row['gflop'] / first['gflop']})
    timing.report(rows, COLUMNS, args.json)
    if args.plot:
        plot(rows, args.plot)


def series_of(row: dict[str, Any]) -> str:
    """Name of the series that a row belongs to."""
    return row['name'].split('/')[1]


def print_case(resolution: int, fmap_base: int, minibatch: int) -> None:
    """Print, as JSON, the time and the work per image of an average iteration, and its memory.

    Args:
        resolution: Of the config-f networks.
        fmap_base:  Their width.
        minibatch:  Images of an iteration.
    """
    import tensorflow as tf

    from training.step import memory
    tf.constant(0)  # Starts TensorFlow, whose own memory does not count.
    before = timing.peak_memory()
    trainer, lrate = networks.make_trainer('config-f', resolution, minibatch, fmap_base=fmap_base)
    functions = networks.phase_functions(trainer, lrate, resolution, minibatch)
    times = timing.interleaved({**functions, **limits.matmuls(['float32'])}, rounds=2)
    peak = timing.peak_memory() - before
    products = costs.products_of(trainer.G, trainer.D)
    work = {phase: costs.phase_work(products, phase) for phase in networks.PHASES}
    gflop = costs.average(costs.flop_of(minibatch, minibatch, work)) / 1e9
    seconds = costs.average({phase: times[phase][1] for phase in functions}) / 1e3
    print(json.dumps({
        's_per_kimg': seconds / minibatch * 1e3, 'gflop': gflop / minibatch,
        'fraction_of_bound': gflop / limits.matmul_rate(times, 'float32') / seconds, 'peak_mb': peak,
        'least_mb': memory.training_bytes(trainer.G, trainer.D, minibatch) / 2 ** 20}))


def plot(rows: Sequence[dict[str, Any]], path: str) -> None:
    """Save a chart: doublings of the time of an iteration over doublings of its work.

    It has a curve for each series, and the line on which the time grows as the work does.

    Args:
        rows: Rows of the page.
        path: SVG file to write.
    """
    from training.run import charts
    curves, most = [], 0
    for style, name in enumerate(SERIES):
        series = [row for row in rows if series_of(row) == name]
        images = [int(row['name'].split('/')[2]) if name == 'minibatch' else 1 for row in series]
        points = [tuple(math.log2(row[key] * n / (series[0][key] * images[0])) for key in ('gflop', 's_per_kimg'))
                  for row, n in zip(series, images)]
        if points:
            curves.append(charts.Curve(name, points, style))
            most = max(most, points[-1][0])
    curves.append(charts.Curve('work', [(0.0, 0.0), (most, most)], len(SERIES)))
    charts.save_svg(charts.chart(curves, 'doublings of the work of an iteration', 'doublings of its time'), path)
