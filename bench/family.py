"""The family on the demo's faces: trains ProGAN, StyleGAN, MSG-StyleGAN and two steps of StyleGAN2 for the same CPU
time each, with the settings of the demo as far as each takes them, then measures the distance of new faces from the
real ones and the recall.

CPU time is counted, of all threads together, so that other load on the machine has little influence. A case that --json
contains already is not run again, and a training that was interrupted goes on.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import demo, small_data, timing

# Flags of the demo that a configuration does not take, or that were found for another loss.
NOT_TAKEN = {
    'progan': ('--mapping-layers', '--resample-kernel', '--gamma', '--g-loss', '--lrate'),
    'stylegan-f': ('--resample-kernel',), 'config-c': (), 'config-e': (), 'msg-stylegan': ('--resample-kernel',),
}
# How often those that grow double their resolution until they reach that of the faces, 32x32.
DOUBLINGS = {'progan': 3, 'stylegan-f': 2, 'config-c': 2}
COLUMNS = {'name': 's', 'cpu_minutes': '.1f', 'kimg': '.1f', 'distance': '.1f', 'recall': '.3f',
           'thumbnail_precision': '.3f', 'thumbnail_recall': '.3f', 'thumbnail_variety': '.2f'}


def main(argv: Sequence[str], prog: str) -> None:
    """Run the page."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='rows of the cases; those in it are not run again', metavar='FILE',
                        default='.bench/family/rows.json')
    parser.add_argument('--cases', help='configurations, with commas between', default=','.join(NOT_TAKEN),
                        metavar='LIST')
    parser.add_argument('--minutes', help='CPU minutes of each training, compilation and reports included', type=float,
                        default=20, metavar='N')
    parser.add_argument('--growing-kimg', help='kimg after which those that grow have reached full resolution. '
                        'Unless it is given: 0.5 for each minute of --minutes, which takes less than a third of them',
                        type=float, metavar='N')
    parser.add_argument('--seed', help='seed of the trainings', type=int, default=1, metavar='N')
    parser.add_argument('--faces', help='archive of the images', default='demo/faces32.zip', metavar='ZIP')
    parser.add_argument('--out', help='folder for the dataset and runs', default='.bench/family', metavar='DIR')
    parser.add_argument('--pictures', help='draw new faces of all cases, one below the other', metavar='PNG')
    parser.add_argument('--at', help='moments of --pictures, as fractions of the time of each training', type=float,
                        nargs='+', default=[1], metavar='FRACTION')
    args = parser.parse_args(argv)

    print(timing.machine())
    cases = args.cases.split(',')
    if unknown := [case for case in cases if case not in NOT_TAKEN]:
        parser.error(f'--cases: expected some of {", ".join(NOT_TAKEN)}, found {unknown[0]!r}')
    rows = json.loads(Path(args.json).read_text()) if Path(args.json).exists() else []
    dataset, group = small_data.dataset_of(args, small_data.num_faces(args.faces)), None
    for case in cases:
        if any(row['name'] == name_of(args, case) for row in rows):
            continue
        run_dir = run_of(args, case, dataset)
        group = group or demo.metric_group()
        rows.append({'name': name_of(args, case), **results_of(case, run_dir, dataset, group)})
        timing.keep(rows, args.json)
    timing.report(rows, COLUMNS)
    if args.pictures:
        save_pictures([[picture_source(args, case, moment) for moment in args.at] for case in cases], args.pictures)


def name_of(args: argparse.Namespace, case: str) -> str:
    """Name of the row of a case."""
    return f'family/{case}/{args.minutes:g}min'


# ---- Training ----

def runs_of(args: argparse.Namespace, case: str) -> Path:
    """Folder that the run of a case makes its own folder in."""
    return small_data.runs_of(args, f'{case}/{args.minutes:g}min')


def flags_of(args: argparse.Namespace, case: str) -> list[str]:
    """Flags of run_training.py with the settings of a case."""
    settings = [flag for flag in small_data.demo_settings() if flag.split('=')[0] not in NOT_TAKEN[case]]
    if case in DOUBLINGS:
        # Each doubling has a phase at the old resolution, and one in which the new one fades in.
        full = 0.5 * args.minutes if args.growing_kimg is None else args.growing_kimg
        kimg = f'{full / DOUBLINGS[case] / 2:.4f}'
        settings += [f'--lod-training-kimg={kimg}', f'--lod-transition-kimg={kimg}']
    return [f'--config={case}', *settings, f'--seed={args.seed}']


def run_of(args: argparse.Namespace, case: str, dataset: Path) -> Path:
    """Folder of the run of a case, which is trained if it has not finished."""
    from training.run import report
    runs = runs_of(args, case)
    run_dir = small_data.finished_run(runs)
    if run_dir is None:
        begun = sorted(runs.glob('*-*'))
        used = max((line['seconds'] / 60 for path in begun for line in report.read_stats(str(path))), default=0.0)
        train([f'--data-dir={dataset.parent}', f'--dataset={dataset.name}', f'--result-dir={runs}', '--resume=latest',
               f'--max-minutes={max(args.minutes - used, 0.1):.2f}', '--total-kimg=100000', '--tick-kimg=0.5',
               '--image-snapshot-ticks=1000', '--network-snapshot-ticks=4', '--checkpoint-minutes=5', '--metrics=none',
               *flags_of(args, case)])
        run_dir = small_data.finished_run(runs)
    assert run_dir is not None, 'a training that does not finish raises an exception'
    return run_dir


def train(flags: Sequence[str]) -> None:
    """Run run_training.py in a process of its own, whose clock, and so its --max-minutes, counts CPU time."""
    program = ('import sys, time; time.monotonic = time.process_time; sys.path.insert(0, sys.argv.pop(1)); '
               'import run_training; run_training.main(sys.argv[1:])')
    subprocess.run([sys.executable, '-c', program, str(small_data.ROOT), *flags], check=True)


# ---- Results ----

def results_of(case: str, run_dir: Path, dataset: Path, group: Any) -> dict[str, Any]:
    """Evaluate the last networks of a run.

    Args:
        case:    Its configuration.
        run_dir: Its folder.
        dataset: Folder of the dataset of the faces.
        group:   What demo.metric_group returned.

    Returns:
        CPU minutes and kimg; distance, precision and recall with the features of EfficientNet;
        precision, recall and variety of thumbnails (demo.thumbnail_measures).
    """
    from training import dataset as datasets
    from training import misc
    from training.run import report
    images = datasets.load_dataset(str(dataset), repeat=False, shuffle_mb=0)
    faces = np.concatenate([minibatch.numpy() for minibatch, _labels in images.iterate(100)])
    Gs, last = misc.load_networks(run_dir / 'network-final.pkl')[2], report.read_stats(str(run_dir))[-1]
    values = demo.measures_of(group, case, Gs, str(dataset), faces)
    distance, pr = demo.METRICS
    return {'cpu_minutes': round(last['seconds'] / 60, 2), 'kimg': last['kimg'], 'distance': values[distance],
            'precision': values[f'{pr}_precision'], 'recall': values[f'{pr}_recall'],
            **{f'thumbnail_{kind}': values[f'thumbnails_{kind}'] for kind in ('precision', 'recall', 'variety')}}


def picture_source(args: argparse.Namespace, case: str, moment: float) -> Path:
    """The network pickle of a finished run that is nearest to a moment.

    Args:
        args:   Flags of the page.
        case:   Configuration of the run.
        moment: Fraction of the time of its training.
    """
    from training.run import report
    run_dir = small_data.finished_run(runs_of(args, case))
    assert run_dir is not None, 'its row has been measured'
    lines = report.read_stats(str(run_dir))
    times = {run_dir / 'network-final.pkl': 1.0}
    for kimg, path in small_data.snapshots_of(run_dir).items():
        nearest = min(lines, key=lambda line, kimg=kimg: abs(line['kimg'] - kimg))
        times[path] = nearest['seconds'] / lines[-1]['seconds']
    return min(times, key=lambda path: abs(times[path] - moment))


def save_pictures(cases: Sequence[Sequence[Path]], path: str) -> None:
    """Save new faces of all cases, from the same latents and without truncation, enlarged to twice their size.

    Args:
        cases: Network pickles of each case. Each gives two rows of eight faces, next to those of the others.
        path:  PNG file to write.
    """
    from PIL import Image

    from training import misc
    from training.data import pil_ops

    def joined(grids, axis):
        gap = np.ones([*grids[0].shape[:axis], 4, *grids[0].shape[axis + 1:]])
        return np.concatenate([part for grid in grids for part in (grid, gap)][:-1], axis=axis)
    rows = [joined([small_data.face_grid(pickle) for pickle in pickles], axis=2) for pickles in cases]
    picture = misc.convert_to_pil_image(joined(rows, axis=1), [-1, 1])
    pil_ops.save_png(picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST), path)
