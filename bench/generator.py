"""The generator, latents to images, against the time of its convolutions and matrix products at the machine's limit.

Its weights are constants, as in `Gs.run` after a few images (dnnlib/tflib/frozen.py).
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench import costs, limits, networks, timing

COLUMNS = {'name': 's', 'median_ms': '.0f', 'best_ms': '.0f', 'images_per_s': '.2f', 'gflop': '.1f',
           'matmul_gflops': '.0f', 'fraction_of_bound': '.3f', 'before': '.3f', 'over_traced': '.2f', 'speedup': '.2f',
           'grey_levels': '.2f', 'peak_mb': '.0f'}
CASES = 'config-f/256/b1,config-f/256/b4,config-e/256/b1,config-e/256/b4,config-f/1024/b1'
_PEAK_PROGRAM = 'import sys; from bench import generator; generator.print_peak(*sys.argv[1:])'


def main(argv: Sequence[str], prog: str) -> None:
    """Run the page."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--rounds', help='how often each function is timed', type=int, default=8, metavar='N')
    parser.add_argument('--cases', help='CONFIG/RESOLUTION/bBATCH, separated by commas', default=CASES, metavar='LIST')
    parser.add_argument('--dtypes', help='types that the networks compute in', default='float32,bfloat16',
                        metavar='LIST')
    parser.add_argument('--layers', help='print the work of each layer', action='store_true')
    args = parser.parse_args(argv)

    print(timing.machine())
    rows = []
    for case in args.cases.split(','):
        rows += measure(case, args.dtypes.split(','), args.rounds, args.layers)
    timing.report(rows, COLUMNS, args.json, before=('generator', 'fraction_of_bound'))


def generator_of(case: str) -> tuple[Any, Callable[[str, bool], Callable[[], np.ndarray]]]:
    """Create the generator of a case.

    Args:
        case: CONFIG/RESOLUTION/bBATCH.

    Returns:
        (generator, function (dtype, are the weights constants?) -> function that generates a batch of images).
    """
    import tensorflow as tf
    config, resolution, batch = case.split('/')
    G = networks.make_network('G', config, int(resolution))
    z = np.random.RandomState(0).randn(int(batch[1:]), *G.input_shape[1:])

    def function_of(dtype: str, constants: bool) -> Callable[[], np.ndarray]:
        if constants:
            return lambda: G.run(z, None, randomize_noise=False, dtype=dtype, assume_frozen=True)
        inputs = tf.constant(z, tf.float32), tf.zeros([len(z), 0])
        traced = tf.function(lambda: G(*inputs, randomize_noise=False, dtype=dtype), autograph=False)
        return lambda: traced().numpy()
    return G, function_of


def measure(case: str, dtypes: Sequence[str], rounds: int, layers: bool = False) -> list[dict[str, Any]]:
    """Measure a case.

    Args:
        case:   CONFIG/RESOLUTION/bBATCH.
        dtypes: Types that the generator computes in.
        rounds: How often each function is timed.
        layers: Print the work of each layer?

    Returns:
        One row per type. 'speedup' is relative to the first type, 'over_traced' relative to the evaluation with
        variables, and 'grey_levels' is the mean difference from the first type's images.
    """
    from dnnlib import tflib
    G, function_of = generator_of(case)
    batch = int(case.split('/')[2][1:])
    products = costs.products_of(G)
    if layers:
        costs.report_layers(products)
    gflop = batch * sum(flop for *_, flop in products) / 1e9
    functions = {dtype: function_of(dtype, True) for dtype in dtypes}
    images = {dtype: tflib.convert_images_to_uint8(function()).numpy().astype(int)
              for dtype, function in functions.items()}
    traced = {(dtype, 'traced'): function_of(dtype, False) for dtype in dtypes}
    times = timing.interleaved({**functions, **traced, **limits.matmuls(dtypes)}, rounds)
    rows = []
    for dtype in dtypes:
        median, best = times[dtype]
        rate = limits.matmul_rate(times, dtype)
        peak = timing.in_own_process(_PEAK_PROGRAM, case, dtype)
        rows.append({
            'name': f'generator/{case}/{dtype}', 'median_ms': median, 'best_ms': best,
            'images_per_s': batch / best * 1e3, 'gflop': gflop, 'matmul_gflops': rate,
            'fraction_of_bound': gflop / rate / best * 1e3, 'over_traced': times[dtype, 'traced'][1] / best,
            'speedup': times[dtypes[0]][1] / best, 'peak_mb': float(peak),
            'grey_levels': float(np.abs(images[dtype] - images[dtypes[0]]).mean())})
    return rows


def print_peak(case: str, dtype: str) -> None:
    """Print the peak memory in MB, including TensorFlow's own, of a process that generates images."""
    _, function_of = generator_of(case)
    generate = function_of(dtype, True)
    for _ in range(2):
        generate()
    print(timing.peak_memory())
