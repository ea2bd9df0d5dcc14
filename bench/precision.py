"""The runs of `make demo-precision`: the metric that training reaches in each precision, over several seeds."""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from bench import timing
from training.run import report

COLUMNS = {'name': 's', 'kimg': 'g', 'seeds': 'd', 'mean': '.1f', 'spread': '.1f', 'least': '.1f', 'greatest': '.1f',
           'sec_per_kimg': '.2f', 'time_ratio': '.2f'}


def main(argv: Sequence[str], prog: str) -> None:
    """Run the page."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--runs', help='folder that contains the runs, at any depth', default='.demo/precision',
                        metavar='DIR')
    parser.add_argument('--metric', help='what to compare', default='fd_efficientnet1k', metavar='NAME')
    args = parser.parse_args(argv)

    runs = {}
    for path in sorted(Path(args.runs).glob('**/_finished.txt')):
        precision, *result = read_run(path.parent, args.metric)
        runs.setdefault(precision, []).append(result)
    if 'float32' not in runs:
        parser.error(f'{args.runs}: there is no finished run in float32; make demo-precision makes them')
    print(timing.machine())
    rows = []
    for precision, results in sorted(runs.items(), key=lambda item: item[0] != 'float32'):
        kimg, values, seconds = zip(*results)
        rows.append({'name': f'{args.metric}/{precision}', 'kimg': max(kimg), 'seeds': len(values),
                     'mean': statistics.mean(values), 'spread': statistics.stdev(values) if len(values) > 1 else None,
                     'least': min(values), 'greatest': max(values), 'sec_per_kimg': statistics.median(seconds)})
        rows[-1]['time_ratio'] = rows[-1]['sec_per_kimg'] / rows[0]['sec_per_kimg']
    timing.report(rows, COLUMNS, args.json)


def read_run(run_dir: Path, metric: str) -> tuple[str, float, float, float]:
    """Read the results of a run.

    Args:
        run_dir: Folder of the run.
        metric:  Name of a metric that it computed.

    Returns:
        (precision, kimg of the last value of the metric, that value, median of the seconds per kimg).
    """
    options = json.loads((run_dir / 'submit_config.json').read_text())['run_func_kwargs']
    lines = report.read_stats(run_dir)
    kimg, value = [(line['kimg'], line[f'Metrics/{metric}']) for line in lines if f'Metrics/{metric}' in line][-1]
    seconds = statistics.median(line['Timing/sec_per_kimg'] for line in lines if 'Timing/sec_per_kimg' in line)
    return options.get('precision', 'float32'), kimg, value, seconds
