"""What settings of `make demo` reach: trains with them for the CPU time of matrix products of so many GFLOP, then
measures the distance of the new faces from the real ones, and their precision and recall."""

import argparse
import ast
import contextlib
import json
import os
import shlex
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

METRICS = 'fd_efficientnet1k', 'pr1k3_exact'


class Enough(Exception):
    """Ends the training: the work is done."""


def main(argv: Sequence[str], prog: str) -> None:
    """Run the page."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--flags', help='flags of run_training.py, in one string', default='',
                        metavar='"--FLAG=VALUE ..."')
    parser.add_argument('--set', help='arguments of the training loop that have no flag', nargs='*', default=[],
                        metavar='G_args.mapping_lrmul=0.1')
    parser.add_argument('--dataset', help='folder of TFRecords', default='.demo/datasets/faces32', metavar='DIR')
    parser.add_argument('--gflop', type=float, nargs='+', default=[30000], metavar='N',
                        help='work after which to draw images, in GFLOP of matrix products that take the same time; '
                             'after the last, measure and end')
    parser.add_argument('--out', help='folder for the rows (rows.jsonl), images and networks', default='.bench/demo',
                        metavar='DIR')
    parser.add_argument('--tag', help='name of the run, its images and its network', default='demo')
    args = parser.parse_args(argv)

    data_dir, dataset = os.path.split(args.dataset)
    os.environ.update(TF_NUM_INTRAOP_THREADS='1', TF_NUM_INTEROP_THREADS='1')  # Waiting threads would count as work.
    os.makedirs(args.out, exist_ok=True)
    import run_training
    from training import training_loop
    measure = Measure(args)
    train = training_loop.training_loop

    def changed(**kwargs):
        for setting in args.set:
            name, value = setting.split('=', 1)
            *path, last = name.split('.')
            place = kwargs
            for key in path:
                place = place[key]
            place[last] = ast.literal_eval(value)
        measure.iterations = training_loop.Iterations
        training_loop.Iterations = measure.limited
        train(**kwargs)

    training_loop.training_loop = changed
    with contextlib.suppress(Enough):
        run_training.main([
            f'--data-dir={data_dir}', f'--dataset={dataset}', f'--result-dir={args.out}/runs', '--metrics=none',
            '--tick-kimg=5', '--image-snapshot-ticks=1000', '--network-snapshot-ticks=1000', *shlex.split(args.flags)])


class Measure:
    """Draws images during a training, ends it when its work is done, and measures the generator then.

    Args:
        args: Flags of the page.
    """

    def __init__(self, args: argparse.Namespace):
        self._args, self._marks = args, list(args.gflop)
        self._work = self._seconds = self._rate = 0.0
        self.iterations: Any = None  # The class that `limited` replaces.

    def limited(self, trainer: Any, training_set: Any, progress: Any, *args: Any, **kwargs: Any) -> Any:
        """Create Iterations whose `run` counts its work. The arguments are those of the class."""
        iterations = self.iterations(trainer, training_set, progress, *args, **kwargs)
        run = iterations.run

        def run_and_count():
            if self._work >= self._marks[0]:
                self._measure(trainer, training_set, progress, self._marks.pop(0))
                if not self._marks:
                    raise Enough
            if progress.iteration % 25 == 0:
                self._rate = reference_gflops()
            start = time.process_time()
            results = run()
            for value in (value for result in results for value in result.stats.values()):
                value.numpy()  # Waits until the phase is done.
            seconds = time.process_time() - start
            self._work += seconds * self._rate
            self._seconds += seconds
            return results
        iterations.run = run_and_count
        return iterations

    def _measure(self, trainer: Any, training_set: Any, progress: Any, gflop: float) -> None:
        from dnnlib.tflib.random import random_state_kept
        from training import misc
        Gs, name = trainer.Gs, f'{self._args.tag}-{gflop / 1000:g}'
        with random_state_kept():
            save_grids(Gs, os.path.join(self._args.out, f'{name}.png'))
            if self._marks:
                return
            reals = next(training_set.iterate(1000, seed=0))[0].numpy()
            measures = measures_of(metric_group(), name, Gs, self._args.dataset, reals)
            misc.save_pkl((trainer.G, trainer.D, Gs), os.path.join(self._args.out, f'{name}.pkl'))
        row = dict(tag=self._args.tag, gflop=gflop, kimg=progress.kimg, cpu_seconds=round(self._seconds), **measures,
                   flags=self._args.flags, set=self._args.set, dataset=self._args.dataset)
        print(json.dumps(row))
        with open(Path(self._args.out) / 'rows.jsonl', 'a', encoding='utf-8') as file:
            file.write(json.dumps(row) + '\n')


def metric_group() -> Any:
    """MetricGroup of METRICS, all with the features of EfficientNet."""
    from metrics.metric_base import MetricGroup
    from metrics.metric_defaults import metric_args
    group = MetricGroup([metric_args(metric) for metric in METRICS], seed=0)
    for metric in group.metrics:
        metric.feature_net, metric.networks = 'efficientnet_lite0', ['efficientnet_lite0']
    return group


def measures_of(group: Any, name: str, Gs: Any, dataset: str, reals: np.ndarray) -> dict[str, float]:
    """Compare new images with real ones, without truncation.

    Args:
        group:   What `metric_group` returned. It keeps what it knows about the dataset for the next call.
        name:    Name of the network, for the lines that are printed.
        Gs:      Generator.
        dataset: Folder of TFRecords, with the real images that the metrics compare with.
        reals:   The real images that `thumbnail_measures` compares with, [N, 3, H, W] in [0, 255].

    Returns:
        The values of METRICS and of `thumbnail_measures`, with 4 decimals, e.g. {'fd_efficientnet1k': 150.0,
        'thumbnails_recall': 0.01, ...}.
    """
    data_dir, tfrecord_dir = os.path.split(dataset)
    values = group.run(name, Gs, None, data_dir, dict(tfrecord_dir=tfrecord_dir))
    latents = np.random.RandomState(1).randn(1000, *Gs.input_shape[1:])
    fakes = np.clip(Gs.run(latents, None, minibatch_size=50, is_validation=True), -1, 1) * 127.5 + 127.5
    values.update(thumbnail_measures(reals, fakes))
    return {key.removeprefix('Metrics/').replace('/', '_'): round(float(value), 4) for key, value in values.items()}


def thumbnail_measures(reals: np.ndarray, fakes: np.ndarray) -> dict[str, float]:
    """Compare images that are reduced to 8x8 pixels by their Euclidean distance, which ignores fine noise.

    Args:
        reals, fakes: [N, 3, H, W] in [0, 255], N > 3, H and W multiples of 8.

    Returns:
        {'thumbnails/precision', 'thumbnails/recall'}, both with three neighbours, and 'thumbnails/variety': the
        standard deviation of a pixel over the new images, relative to that over the real ones.
    """
    from metrics.precision_recall import knn_precision_recall

    def thumbnails(images: np.ndarray) -> np.ndarray:
        count, _, height, width = images.shape
        blocks = images.astype('float32').reshape(count, 3, 8, height // 8, 8, width // 8)
        return blocks.mean(axis=(3, 5)).reshape(count, -1)
    reals, fakes = thumbnails(reals), thumbnails(fakes)
    precision, recall = knn_precision_recall(reals, fakes, [3], exact=True)
    return {'thumbnails/precision': precision.mean(), 'thumbnails/recall': recall.mean(),
            'thumbnails/variety': fakes.std(axis=0).mean() / reals.std(axis=0).mean()}


def reference_gflops() -> float:
    """Measure the rate of a matrix product.

    Returns:
        GFLOP per CPU second. If other load on the machine slows this process to half its speed, the rate is halved.
    """
    import tensorflow as tf
    x = tf.ones([512, 512])
    times = []
    for _ in range(3):
        start = time.process_time()
        tf.matmul(x, x).numpy()
        times.append(time.process_time() - start)
    return 2 * 512 ** 3 / 1e9 / max(statistics.median(times), 1e-6)


def save_grids(Gs: Any, path: str) -> None:
    """Save 8x4 new faces without truncation, and next to them the same faces with psi 0.7.

    Args:
        Gs:   Generator.
        path: PNG file to write.
    """
    from training import misc
    latents = np.random.RandomState(0).randn(32, *Gs.input_shape[1:])
    grids = [Gs.run(latents, None, minibatch_size=8, truncation_psi=psi, randomize_noise=False) for psi in (1, 0.7)]
    rows = [np.concatenate([grid[8 * i:8 * i + 8] for grid in grids]) for i in range(4)]
    misc.save_image_grid(np.concatenate(rows), path, drange=[-1, 1], grid_size=(16, 4))
