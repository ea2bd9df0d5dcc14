"""What ADA does with few images: trains with the first 100, 300 and 1,000 faces of the demo, with --aug=none and
--aug=ada, and evaluates the network snapshots of each run.

The distance and the recall are against all faces, whichever were trained with. D's scores show whether it overfits:
then those of the held-out faces, which it was not trained with, fall from those of the training faces to those of the
generated ones. A case that --json contains already is not run again, and a training that was interrupted goes on.
"""

import argparse
import json
import operator
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import demo, timing

ROOT = Path(__file__).parents[1]
CASES = ','.join([*(f'100/{aug}/{seed}' for seed in (1, 2, 3) for aug in ('none', 'ada')),
                  '300/none/1', '300/ada/1', '1000/none/1', '1000/ada/1'])
COLUMNS = {'name': 's', 'kimg': 'd', 'distance': '.1f', 'thumbnail_recall': '.3f',
           'thumbnail_variety': '.2f', 'p': '.2f', 'r_t': '.2f', 'reals': '.2f', 'held_out': '.2f', 'fakes': '.2f',
           'gap': '.3f'}
SCORED = 400    # Most images of a kind whose scores are averaged.
MINIBATCH = 8   # As in training, because D compares the images of a minibatch with each other,
GROUP = 4       # in groups of this size, which must be complete.


def main(argv: Sequence[str], prog: str) -> None:
    """Run the page."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='rows of the cases; those in it are not run again', metavar='FILE',
                        default='.bench/small-data/rows.json')
    parser.add_argument('--cases', help='NUMBER_OF_FACES/AUG/SEED, with commas between', default=CASES, metavar='LIST')
    parser.add_argument('--kimg', help='length of each training', type=float, default=8, metavar='N')
    parser.add_argument('--ada-kimg', help='kimg in which p rises by 1 at most. With 20, it can reach 0.4 in 8 kimg; '
                        'with the 500 of long trainings it would stay below 0.02', type=float, default=20, metavar='N')
    parser.add_argument('--every', help='evaluate the networks every N kimg; even, because snapshots are 2 kimg apart',
                        type=int, default=2, metavar='N')
    parser.add_argument('--faces', help='archive of the images', default='demo/faces32.zip', metavar='ZIP')
    parser.add_argument('--out', help='folder for the datasets and runs', default='.bench/small-data', metavar='DIR')
    parser.add_argument('--plot', help='draw charts of all rows', metavar='SVG')
    parser.add_argument('--pictures', help='draw the new faces of two cases next to each other', metavar='PNG')
    parser.add_argument('--of', help='the two cases of --pictures', default='100/none/1,100/ada/1', metavar='LIST')
    parser.add_argument('--at', help='kimg of the snapshots in --pictures', type=int, nargs='+', default=[4, 8],
                        metavar='KIMG')
    args = parser.parse_args(argv)

    print(timing.machine())
    rows = json.loads(Path(args.json).read_text()) if Path(args.json).exists() else []
    evaluation, total = None, num_faces(args.faces)
    for case in args.cases.split(','):
        if not (match := re.fullmatch(r'(\d+)/(none|ada)/(\d+)', case)) or not 1 < int(match[1]) <= total:
            parser.error(f'--cases: expected NUMBER/none/SEED or NUMBER/ada/SEED, NUMBER from 2 to {total}, '
                         f'found {case!r}')
        if any(row['name'] == f'small-data/{case}' for row in rows):
            continue
        run_dir = run_of(args, case)
        evaluation = evaluation or Evaluation(dataset_of(args, total))
        rows.append(row_of(case, run_dir, evaluation, args.every))
        timing.keep(rows, args.json)
    timing.report(lines_of(rows), COLUMNS)
    if args.plot:
        plot(rows, args.plot)
    if args.pictures:
        found = [(case, snapshots_of(finished_run(runs_of(args, case)))) for case in args.of.split(',')]
        for case, snapshots in found:
            if not set(args.at) <= set(snapshots):
                parser.error(f'--at: expected snapshots at {args.at} kimg of a finished run of {case} in {args.out}, '
                             f'found {list(snapshots)}')
        save_pictures([[snapshots[kimg] for kimg in args.at] for _, snapshots in found], args.pictures)


# ---- Training ----

def demo_settings() -> list[str]:
    """Flags of run_training.py with which `make demo` trains: DEMO_SETTINGS of the Makefile."""
    settings = re.search(r'^DEMO_SETTINGS \?= ((?:.*\\\n)*.*)$', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    assert settings, 'the Makefile has DEMO_SETTINGS'
    return shlex.split(settings[1].replace('\\\n', ' '))


def num_faces(path: str) -> int:
    """Number of images in an archive."""
    with zipfile.ZipFile(path) as archive:
        return sum(name.endswith('.png') for name in archive.namelist())


def dataset_of(args: argparse.Namespace, count: int) -> Path:
    """Folder of a dataset of the first `count` faces, which is created if it is missing."""
    import dataset_tool
    path = Path(args.out) / 'datasets' / f'faces{count}'
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset_tool.main(['create_from_images', str(path), args.faces, '--shuffle=0', f'--max-images={count}'])
    return path


def runs_of(args: argparse.Namespace, case: str) -> Path:
    """Folder that the run of a case makes its own folder in."""
    return Path(args.out) / 'runs' / case.replace('/', '-')


def finished_run(runs: Path) -> Path | None:
    """Folder of the finished run among `runs`. None = there is none."""
    return next((path.parent for path in runs.glob('*/_finished.txt')), None)


def run_of(args: argparse.Namespace, case: str) -> Path:
    """Folder of the run of a case, which is trained if it has not finished."""
    count, aug, seed = case.split('/')
    dataset, runs = dataset_of(args, int(count)), runs_of(args, case)
    run_dir = finished_run(runs)
    if run_dir is None:
        ada_kimg = [f'--ada-kimg={args.ada_kimg:g}'] if aug == 'ada' else []
        train([f'--data-dir={dataset.parent}', f'--dataset={dataset.name}', f'--result-dir={runs}', '--resume=latest',
               f'--total-kimg={args.kimg:g}', '--tick-kimg=0.5', '--image-snapshot-ticks=1000',
               '--network-snapshot-ticks=4', '--metrics=none', *demo_settings(), f'--aug={aug}', *ada_kimg,
               f'--seed={seed}'])
        run_dir = finished_run(runs)
    assert run_dir is not None, 'a training that does not finish raises an exception'
    return run_dir


def train(flags: Sequence[str]) -> None:
    """Run run_training.py in a process of its own, so that all trainings begin alike."""
    subprocess.run([sys.executable, str(ROOT / 'run_training.py'), *flags], check=True)


# ---- Evaluation ----

class Evaluation:
    """Evaluates network snapshots.

    Args:
        everything: Dataset of all faces, those that were trained with first.
    """

    def __init__(self, everything: Path):
        from training import dataset
        images = dataset.load_dataset(str(everything), repeat=False, shuffle_mb=0)
        self._faces = np.concatenate([minibatch.numpy() for minibatch, _labels in images.iterate(100)])
        self._everything, self._group = str(everything), demo.metric_group()

    def measure(self, snapshot: Path, count: int) -> dict[str, float | None]:
        """Measure a snapshot.

        Args:
            snapshot: Network pickle.
            count:    Number of faces that were trained with.

        Returns:
            The distance, precision and recall with the features of EfficientNet; precision, recall and variety of
            thumbnails (demo.thumbnail_measures); and the mean scores of D for faces that were trained with (reals),
            others (held_out, None if there are none), and images of G (fakes).
        """
        from training import misc
        G, D, Gs = misc.load_networks(snapshot)
        distance, pr = demo.METRICS
        measures = demo.measures_of(self._group, snapshot.name, Gs, self._everything, self._faces)
        latents = np.random.RandomState(2).randn(SCORED, *G.input_shape[1:])
        fakes = G.run(latents, None, minibatch_size=MINIBATCH)
        reals, held_out = (misc.adjust_dynamic_range(faces[:SCORED].astype(np.float32), [0, 255], [-1, 1])
                           for faces in (self._faces[:count], self._faces[count:]))
        return {'distance': measures[distance], 'precision': measures[f'{pr}_precision'],
                'recall': measures[f'{pr}_recall'],
                **{f'thumbnail_{kind}': measures[f'thumbnails_{kind}'] for kind in ('precision', 'recall', 'variety')},
                'reals': mean_score(D, reals), 'held_out': mean_score(D, held_out), 'fakes': mean_score(D, fakes)}


def mean_score(D: Any, images: np.ndarray) -> float | None:
    """Mean score that D gives images [N, C, H, W] in [-1, 1], without augmentation. None = there are none."""
    images = images[:len(images) // GROUP * GROUP]
    if not len(images):
        return None
    return round(float(np.mean(D.run(images, None, minibatch_size=MINIBATCH))), 4)


def snapshots_of(run_dir: Path | None) -> dict[int, Path]:
    """{kimg: network snapshot} of a run, without that of its start. None = {}."""
    if run_dir is None:
        return {}
    snapshots = {int(path.stem.removeprefix('network-snapshot-')): path
                 for path in sorted(run_dir.glob('network-snapshot-??????.pkl'))}
    return {kimg: path for kimg, path in snapshots.items() if kimg}


def row_of(case: str, run_dir: Path, evaluation: Evaluation, every: int) -> dict[str, Any]:
    """Evaluate a run.

    Args:
        case:       Such as '100/ada/1'.
        run_dir:    Folder of its run.
        evaluation: What to evaluate with.
        every:      Evaluate the snapshots whose kimg is a multiple of this.

    Returns:
        Name and parts of the case; 'snapshots': what `Evaluation.measure` returned for each; 'ticks': p and r_t of each
        tick.
    """
    from training.run import report
    count, aug, seed = case.split('/')
    snapshots = [{'kimg': kimg, **evaluation.measure(path, int(count))}
                 for kimg, path in snapshots_of(run_dir).items() if kimg % every == 0]
    ticks = [{'kimg': line['kimg'], 'p': line.get('Progress/augment'), 'r_t': round(line['Loss/signs/real'], 4)}
             for line in report.read_stats(str(run_dir)) if 'Loss/signs/real' in line]
    return {'name': f'small-data/{case}', 'faces': int(count), 'aug': aug, 'seed': int(seed), 'snapshots': snapshots,
            'ticks': ticks}


def lines_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of the table: each case at the latest kimg at which all of them were evaluated."""
    kimg = max(set.intersection(*({snapshot['kimg'] for snapshot in row['snapshots']} for row in rows)))
    lines = []
    for row in rows:
        snapshot = next(snapshot for snapshot in row['snapshots'] if snapshot['kimg'] == kimg)
        tick = max((tick for tick in row['ticks'] if tick['kimg'] < kimg + 1), key=lambda tick: tick['kimg'])
        lines.append({'name': row['name'], **snapshot, 'p': tick['p'], 'r_t': tick['r_t'], 'gap': gap(snapshot)})
    return lines


def gap(snapshot: dict[str, Any]) -> float | None:
    """How far D overfits: 0 = it scores held-out faces as reals, 1 = as fakes. None = no face is held out."""
    if snapshot['held_out'] is None:
        return None
    return (snapshot['reals'] - snapshot['held_out']) / (snapshot['reals'] - snapshot['fakes'])


# ---- Pictures ----

def plot(rows: Sequence[dict[str, Any]], path: str) -> None:
    """Save the charts.

    Most have a curve for each case. D's scores have a chart for each number of faces of which some are held out, with
    the scores of the first seed. Curves without augmentation are dotted.

    Args:
        rows: Rows of the page.
        path: SVG file to write.
    """
    from training.run.charts import Curve
    counts = sorted({row['faces'] for row in rows})
    kinds = {'reals': len(counts), 'held_out': len(counts) + 1, 'fakes': len(counts) + 2}

    def curves(points, value):
        found = [(row, [(point['kimg'], value(point)) for point in row[points]]) for row in rows]
        return [Curve(row['name'], values, counts.index(row['faces']), row['aug'] == 'none') for row, values in found
                if values[-1][1] is not None]

    def scores(count):
        first = min(row['seed'] for row in rows if row['faces'] == count)
        return [Curve(f'{row["name"]}: {kind}', [(point['kimg'], point[kind]) for point in row['snapshots']], style,
                      row['aug'] == 'none')
                for row in rows if (row['faces'], row['seed']) == (count, first) for kind, style in kinds.items()]

    panels = [('distance from all faces', curves('snapshots', operator.itemgetter('distance'))),
              ('recall of all faces, thumbnails', curves('snapshots', operator.itemgetter('thumbnail_recall'))),
              ('strength p of the augmentation', curves('ticks', operator.itemgetter('p'))),
              ('r_t, mean sign of the scores of reals', curves('ticks', operator.itemgetter('r_t'))),
              ('gap: scores of held-out faces, 0 = like reals, 1 = like fakes', curves('snapshots', gap))]
    panels += [(f"D's mean scores, {count} faces, first seed", scores(count)) for count in counts
               if any(row['faces'] == count and row['snapshots'][-1]['held_out'] is not None for row in rows)]
    legend = [*((f'{count} faces', number, False) for number, count in enumerate(counts)),
              *((kind.replace('_', '-'), style, False) for kind, style in kinds.items()),
              ('with ADA', len(counts) + len(kinds), False), ('without ADA', len(counts) + len(kinds), True)]
    save_panels(panels, legend, path)


def save_panels(panels: Sequence[tuple[str, Sequence[Any]]], legend: Sequence[tuple[str, int, bool]],
                path: str) -> None:
    """Save charts in two columns below a legend, as one SVG file.

    Args:
        panels: (title, curves of the chart) of each. Those without curves are left out.
        legend: (text, style, dotted) of each kind of curve.
        path:   File to write.
    """
    from training.run import charts
    width, height, top = 480, 280, 24
    parts = []
    for number, (text, style, dotted) in enumerate(legend):
        x = 12 + number * 2 * width / len(legend)
        swatch = charts.swatch(style, dotted).replace('<svg', f'<svg x="{x:.0f}" y="8" width="26" height="8"')
        parts.append(f'{swatch}<text x="{x + 32:.0f}" y="16">{text}</text>')
    panels = [(title, curves) for title, curves in panels if curves]
    for number, (title, curves) in enumerate(panels):
        x, y = number % 2 * width, top + number // 2 * height
        picture = charts.chart(curves, 'kimg').replace('<svg', f'<svg x="{x}" y="{y + 20}" width="480" height="250"', 1)
        parts.append(f'<text x="{x + 68}" y="{y + 18}">{title}</text>{picture}')
    total = top + -(-len(panels) // 2) * height
    charts.save_svg('\n'.join([f'<svg viewBox="0 0 {2 * width} {total}">', *parts, '</svg>']), path)


def face_grid(snapshot: Path) -> np.ndarray:
    """Two rows of eight new faces of a network pickle, from the same latents always, [C, 2 * H, 8 * W] in [-1, 1]."""
    from training import misc
    Gs = misc.load_networks(snapshot)[2]
    latents = np.random.RandomState(0).randn(16, *Gs.input_shape[1:])
    return misc.create_image_grid(Gs.run(latents, None, randomize_noise=False, is_validation=True), (8, 2))


def save_pictures(cases: Sequence[Sequence[Path]], path: str) -> None:
    """Save new faces of two cases next to each other, from the same latents and without truncation, enlarged.

    Args:
        cases: Snapshots of each case. Each snapshot gives two rows of eight faces.
        path:  PNG file to write.
    """
    from PIL import Image

    from training import misc
    from training.data import pil_ops
    left, right = (np.concatenate([face_grid(snapshot) for snapshot in snapshots], axis=1) for snapshots in cases)
    gap = np.ones([*left.shape[:2], left.shape[2] // 16])
    picture = misc.convert_to_pil_image(np.concatenate([left, gap, right], axis=2), [-1, 1])
    pil_ops.save_png(picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST), path)
