"""Speed of metrics compared with their generator and feature network alone, and of precision and recall with NumPy."""

import argparse
import contextlib
import os
import statistics
import sys
import time

import numpy as np

from bench import costs, limits, networks, timing

PASS_COLUMNS = {
    'name': 's', 'generator_per_s': '.1f', 'network_per_s': '.1f', 'both_per_s': '.1f', 'evaluation_per_s': '.1f',
    'ratio': '.2f', 'busy_cores': '.2f', 'gflop': '.1f', 'matmul_gflops': '.0f', 'fraction_of_bound': '.3f',
    'before': '.3f'}
PR_COLUMNS = {
    'name': 's', 'images': 'd', 'seconds': '.1f', 'peak_mb': '.0f', 'start_mb': '.0f', 'ratio': '.2f', 'before': '.2f'}
DIMS = 4096  # Features of VGG16.


def main(argv, prog):
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--only', help='only these of passes, distances', nargs='+', default=['passes', 'distances'])
    parser.add_argument('--rounds', help='times each pass is timed', type=int, default=5, metavar='N')
    parser.add_argument('--images', help='images of a pass', type=int, default=64, metavar='N')
    parser.add_argument('--resolution', help='resolution of the generator, config-f', type=int, default=64, metavar='N')
    parser.add_argument('--networks', help='feature networks', nargs='+', default=['efficientnet_lite0', 'inception'])
    parser.add_argument('--features', help='images of each kind whose distances are compared', type=int, default=5000,
                        metavar='N')
    parser.add_argument('--blocks-only', help='leave out plain NumPy, which at 50000 images takes 20 GB',
                        action='store_true')
    args = parser.parse_args(argv)

    print(timing.machine())
    rows = []
    if 'passes' in args.only:
        rows += [measure_pass(name, args.resolution, args.images, args.rounds) for name in args.networks]
        timing.report(rows, PASS_COLUMNS, before=('metrics', 'fraction_of_bound'))
    if 'distances' in args.only:
        kinds = ['float16 in blocks', 'float32 in blocks'] + ([] if args.blocks_only else ['plain NumPy'])
        found = [measure_distances(kind, args.features) for kind in kinds]
        if not args.blocks_only:
            for row in found:
                row['ratio'] = row['seconds'] / found[-1]['seconds']
        timing.report(found, PR_COLUMNS, before=('metrics', 'ratio'))
        rows += found
    timing.keep(rows, args.json)


# ---- One pass over generated images ----

def measure_pass(name, resolution, num_images, rounds):
    """Row of the table: medians over rounds in which all are timed in turn, once they are traced. gflop: per image."""
    import tensorflow as tf

    from dnnlib import tflib
    from metrics import metric_base
    Gs = networks.make_network('G', 'config-f', resolution)
    net = feature_network(name)
    source = metric_base.SampleSource(Gs, np.zeros([1, 0]), seed=0)

    @tf.function(autograph=False)
    def generate(index):
        minibatch = source.at(index)
        return tflib.convert_images_to_uint8(minibatch.images(minibatch.latents(8), minibatch.labels(8)))
    traced_net = tf.function(lambda images: net(images), autograph=False)
    first = tf.constant(0, tf.int64)
    images = generate(first)

    def rate_of(function):
        function()
        start = time.perf_counter()
        for _ in range(num_images // 8):
            function().numpy()
        return num_images // 8 * 8 / (time.perf_counter() - start)
    gflop = sum(costs.flop_of_graph(function.graph) for function in (
        generate.get_concrete_function(first), traced_net.get_concrete_function(images))) / 8e9
    matmuls = limits.matmuls(['float32'])
    rows = []
    for _ in range(rounds):
        row = {'generator_per_s': rate_of(lambda: generate(first)),
               'network_per_s': rate_of(lambda: traced_net(images))}
        row['both_per_s'] = 1 / (1 / row['generator_per_s'] + 1 / row['network_per_s'])
        seconds, cpu_seconds = time_of_pass(source, net, num_images)
        row['evaluation_per_s'] = num_images // 8 * 8 / seconds
        row['ratio'] = row['evaluation_per_s'] / row['both_per_s']
        row['busy_cores'] = cpu_seconds / seconds
        row['matmul_gflops'] = limits.matmul_rate(timing.interleaved(matmuls, 3), 'float32')
        row['fraction_of_bound'] = row['evaluation_per_s'] * gflop / row['matmul_gflops']
        rows.append(row)
    return {'name': f'metrics/config-f/{resolution}/{name}', 'gflop': gflop,
            **{key: statistics.median(row[key] for row in rows) for key in rows[0]}}


def feature_network(name):
    """Load a feature network. 'inception' is that of FID with random weights, which take as long as the real ones."""
    from metrics import feature_networks
    if name != 'inception':
        return feature_networks.load(name)
    from metrics.features import inception
    from metrics.features.layers import FeatureNetwork, resize
    return FeatureNetwork(name, inception.build(), lambda x: (resize(x, inception.SIZE) - 128) / 128)


def time_of_pass(source, net, num_images):
    """Time FD's pass over generated images, from the end of its first minibatch: (seconds, CPU seconds)."""
    from metrics import metric_base
    from metrics.collectors import Moments
    from metrics.frechet_inception_distance import FD
    times = []

    class Timed(Moments):
        def add(self, features, weights=None):
            super().add(features, weights)
            times.append((time.perf_counter(), time.process_time()))

    metric = FD('fd', num_images // 8 * 8 + 8, 'bench')
    metric.collector = Timed
    group = metric_base.MetricGroup([])
    group._nets['bench'] = net
    with open(os.devnull, 'w') as nothing, contextlib.redirect_stdout(nothing):
        group._collect_fakes([metric], source)
    return tuple(last - first for first, last in zip(times[0], times[-1]))


# ---- Precision and recall ----

def measure_distances(kind, count):
    """Row of the table, from a process of its own."""
    program = 'import sys; from bench import metrics; metrics.print_distances(sys.argv[1], int(sys.argv[2]))'
    line = timing.in_own_process(program, kind, str(count))
    seconds, peak, start = map(float, line.split())
    return {'name': f'metrics/distances/{kind}/{count}', 'images': count, 'seconds': seconds, 'peak_mb': peak,
            'start_mb': start}


def print_distances(kind, count):
    """Print the seconds that precision and recall of `count` images of each kind take, and MB at most and before."""
    from dnnlib.progress import ProgressBar
    from metrics import precision_recall
    precision_recall.knn_precision_recall(*random_features(8, np.float32), [3])  # to warm up
    start_mb = timing.peak_memory()
    ref, eval_ = random_features(count, np.float16 if kind.startswith('float16') else np.float32)
    start = time.perf_counter()
    if kind == 'plain NumPy':
        plain_precision_recall(ref, eval_, 3)
    else:
        total = precision_recall.num_distances(count, count)
        with contextlib.redirect_stdout(sys.stderr), ProgressBar(kind, total, 'distance', summary=True) as progress:
            precision_recall.knn_precision_recall(ref, eval_, [3], exact=kind.startswith('float32'), progress=progress)
    print(time.perf_counter() - start, timing.peak_memory(), start_mb)


def random_features(count, dtype):
    """Two arrays [count, DIMS], about as large as those of VGG16."""
    rng = np.random.default_rng(0)
    arrays = [np.empty([count, DIMS], dtype) for _ in range(2)]
    for array in arrays:
        for begin in range(0, count, 1000):
            part = array[begin:begin + 1000]
            part[:] = np.maximum(rng.standard_normal(part.shape, np.float32), 0)
    return arrays


def plain_precision_recall(ref, eval_, nhood_size):
    """Straightforward precision and recall: all distances at once, in float32."""
    def distances(x, y):
        return np.square(x).sum(axis=1)[:, np.newaxis] - 2 * x @ y.T + np.square(y).sum(axis=1)
    ref_radii, eval_radii = (np.partition(distances(x, x), nhood_size, axis=1)[:, nhood_size] for x in (ref, eval_))
    precision = (distances(eval_, ref) <= ref_radii).any(axis=1)
    recall = (distances(ref, eval_) <= eval_radii).any(axis=1)
    return precision, recall
