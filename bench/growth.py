"""How the cost of training grows with resolution, width and minibatch, against the growth of the work itself."""

import argparse
import json
import math

from bench import costs, limits, networks, timing

COLUMNS = {'name': 's', 's_per_kimg': '.0f', 'time_growth': '.2f', 'work_growth': '.2f', 'fraction_of_bound': '.3f', 'peak_mb': '.0f',
           'least_mb': '.0f'}
# What is varied: (resolution, fmap_base, minibatch), the others as in the middle.
SERIES = {
    'resolution': [(resolution, 2048, 8) for resolution in (32, 64, 128, 256)],
    'width': [(64, fmap_base, 8) for fmap_base in (512, 1024, 2048, 4096, 8192)],
    'minibatch': [(64, 2048, minibatch) for minibatch in (4, 8, 16, 32, 64)],
}


def main(argv, prog):
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--rounds', help='processes that measure each case, in turn', type=int, default=1, metavar='N')
    parser.add_argument('--series', help='what is varied', default=','.join(SERIES), metavar='LIST')
    parser.add_argument('--plot', help='write a chart to this file', metavar='SVG')
    args = parser.parse_args(argv)

    print(timing.machine())
    cases = {f'growth/{name}/{case[number]}': case for number, name in enumerate(SERIES) if name in args.series.split(',')
             for case in SERIES[name]}
    found = {name: [] for name in cases}
    for _ in range(args.rounds):
        for name, case in cases.items():
            program = 'import json, sys; from bench import growth; growth.print_case(*json.loads(sys.argv[1]))'
            found[name].append(json.loads(timing.in_own_process(program, json.dumps(case))))
    rows = []
    for name, values in found.items():
        row = min(values, key=lambda value: value['s_per_kimg'])
        first = next((other for other in rows if series_of(other) == name.split('/')[1]), row)
        growth = {f'{what}_growth': row[key] / first[key] for what, key in (('time', 's_per_kimg'), ('work', 'gflop'))}
        rows.append({'name': name, **row, **growth})
    timing.report(rows, COLUMNS, args.json)
    if args.plot:
        plot(rows, args.plot)


def series_of(row):
    return row['name'].split('/')[1]


def print_case(resolution, fmap_base, minibatch):
    """Print, as JSON, what an iteration of a config-f network of this width costs on the average, and its work, per image."""
    import tensorflow as tf
    tf.constant(0)
    before = timing.peak_memory()
    trainer, lrate = networks.make_trainer('config-f', resolution, minibatch, fmap_base=fmap_base)
    functions = networks.phase_functions(trainer, lrate, resolution, minibatch)
    times = timing.interleaved({**functions, **limits.matmuls(['float32'])}, rounds=2)
    peak = timing.peak_memory() - before
    products = costs.products_of(trainer.G, trainer.D)
    flop = costs.average(costs.flop_of(minibatch, minibatch, {phase: costs.phase_work(products, phase) for phase in networks.PHASES}))
    seconds = costs.average({phase: times[phase][1] for phase in functions}) / 1e3
    print(json.dumps({
        's_per_kimg': seconds / minibatch * 1e3, 'gflop': flop / minibatch / 1e9,
        'fraction_of_bound': flop / 1e9 / limits.matmul_rate(times, 'float32') / seconds, 'peak_mb': peak,
        'least_mb': costs.training_bytes(trainer, minibatch) / 2 ** 20}))


def plot(rows, path):
    """Chart of doublings of the time of an iteration over doublings of its work: a curve for each series, and where both are the same."""
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
