"""The generator, latents to pictures, against the time that its convolutions and matrix products take at the machine's rate.

It is evaluated as `Gs.run` does after some pictures: from constants (dnnlib/tflib/frozen.py).
"""

import argparse

import numpy as np

from bench import costs, limits, networks, timing

COLUMNS = {'name': 's', 'median_ms': '.0f', 'best_ms': '.0f', 'images_per_s': '.2f', 'gflop': '.1f', 'matmul_gflops': '.0f',
           'fraction_of_bound': '.3f', 'before': '.3f', 'over_traced': '.2f', 'speedup': '.2f', 'grey_levels': '.2f', 'peak_mb': '.0f'}
CASES = 'config-f/256/b1,config-f/256/b4,config-e/256/b1,config-e/256/b4,config-f/1024/b1'


def main(argv, prog):
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--rounds', help='times each function is timed', type=int, default=8, metavar='N')
    parser.add_argument('--cases', help='CONFIG/RESOLUTION/bBATCH, with commas between', default=CASES, metavar='LIST')
    parser.add_argument('--dtypes', help='types that the networks compute in', default='float32,bfloat16', metavar='LIST')
    parser.add_argument('--impls', help='forms of the custom ops: native, ref', default='native', metavar='LIST')
    parser.add_argument('--layers', help='print the work of each layer', action='store_true')
    args = parser.parse_args(argv)

    print(timing.machine())
    rows = []
    kinds = [(dtype, impl) for dtype in args.dtypes.split(',') for impl in args.impls.split(',')]
    for case in args.cases.split(','):
        rows += measure(case, kinds, args.rounds, args.layers)
    timing.report(rows, COLUMNS, args.json, before=('generator', 'fraction_of_bound'))


def generator_of(case, G=None):
    """The generator of CONFIG/RESOLUTION/bBATCH, or that network G with this batch, and what runs it.

    Returns:
        (G, function (dtype, from constants?) -> function that makes a batch of pictures).
    """
    import tensorflow as tf
    config, resolution, batch = case.split('/')
    G = G or networks.make_network('G', config, int(resolution))
    z = np.random.RandomState(0).randn(int(batch[1:]), *G.input_shape[1:])

    def function_of(dtype, constants):
        if constants:
            return lambda: G.run(z, None, randomize_noise=False, dtype=dtype, assume_frozen=True)
        inputs = tf.constant(z, tf.float32), tf.zeros([len(z), 0])
        traced = tf.function(lambda: G(*inputs, randomize_noise=False, dtype=dtype), autograph=False)
        return lambda: traced().numpy()
    return G, function_of


def measure(case, kinds, rounds, layers=False):
    """Rows of a case, one for each kind (dtype, form of the ops).

    'speedup' is over the first kind, 'over_traced' over the evaluation with variables, and 'grey_levels' the mean distance
    to the pictures of the first kind.
    """
    import custom_ops
    from dnnlib import tflib
    first = kinds[0]
    G, _ = generator_of(case)
    batch = int(case.split('/')[2][1:])
    products = costs.products_of(G)
    if layers:
        costs.report_layers(products)
    gflop = batch * sum(flop for *_, flop in products) / 1e9
    functions, traced, pictures = {}, {}, {}
    for kind in kinds:
        dtype, impl = kind
        _, function_of = generator_of(case, G.clone())  # A network keeps its traced functions, so each kind has its own.
        functions[kind], traced[kind, 'traced'] = function_of(dtype, True), function_of(dtype, False)
        custom_ops.set_impl(impl)  # Both functions are traced here.
        pictures[kind] = tflib.convert_images_to_uint8(functions[kind]()).numpy().astype(int)
        traced[kind, 'traced']()
        custom_ops.set_impl(None)
    times = timing.interleaved({**functions, **traced, **limits.matmuls(dict.fromkeys(dtype for dtype, _ in kinds))}, rounds)
    rows = []
    for kind in kinds:
        dtype, impl = kind
        median, best = times[kind]
        rate = limits.matmul_rate(times, dtype)
        rows.append({
            'name': '/'.join(['generator', case, dtype] + [impl] * (impl != 'native')), 'median_ms': median, 'best_ms': best,
            'images_per_s': batch / best * 1e3, 'gflop': gflop, 'matmul_gflops': rate,
            'fraction_of_bound': gflop / rate / best * 1e3, 'over_traced': times[kind, 'traced'][1] / best,
            'speedup': times[first][1] / best, 'grey_levels': float(np.abs(pictures[kind] - pictures[first]).mean()),
            'peak_mb': float(timing.in_own_process(
                'import sys; from bench import generator; generator.print_peak(*sys.argv[1:])', case, *kind))})
    return rows


def print_peak(case, dtype, impl):
    """Print the peak memory in MB, TensorFlow's own included, of a process that makes pictures."""
    import custom_ops
    custom_ops.set_impl(impl)
    _, function_of = generator_of(case)
    generate = function_of(dtype, True)
    for _ in range(2):
        generate()
    print(timing.peak_memory())
