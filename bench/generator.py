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
    parser.add_argument('--impls', help='forms of the custom ops: native, ref', default='native', metavar='LIST')
    parser.add_argument('--layers', help='print the work of each layer', action='store_true')
    args = parser.parse_args(argv)

    print(timing.machine())
    rows = []
    kinds = [(dtype, impl) for dtype in args.dtypes.split(',') for impl in args.impls.split(',')]
    for case in args.cases.split(','):
        rows += measure(case, kinds, args.rounds, args.layers)
    timing.report(rows, COLUMNS, args.json, before=('generator', 'fraction_of_bound'))


def generator_of(case: str, G: Any = None) -> tuple[Any, Callable[[str, bool], Callable[[], np.ndarray]]]:
    """Create the generator of a case.

    Args:
        case: CONFIG/RESOLUTION/bBATCH.
        G:    Generator to use instead of a new one.

    Returns:
        (generator, function (dtype, are the weights constants?) -> function that generates a batch of images).
    """
    import tensorflow as tf
    config, resolution, batch = case.split('/')
    G = G or networks.make_network('G', config, int(resolution))
    z = np.random.RandomState(0).randn(int(batch[1:]), *G.input_shape[1:])

    def function_of(dtype: str, constants: bool) -> Callable[[], np.ndarray]:
        if constants:
            return lambda: G.run(z, None, randomize_noise=False, dtype=dtype, assume_frozen=True)
        inputs = tf.constant(z, tf.float32), tf.zeros([len(z), 0])
        traced = tf.function(lambda: G(*inputs, randomize_noise=False, dtype=dtype), autograph=False)
        return lambda: traced().numpy()
    return G, function_of


def measure(case: str, kinds: Sequence[tuple[str, str]], rounds: int, layers: bool = False) -> list[dict[str, Any]]:
    """Measure a case.

    Args:
        case:   CONFIG/RESOLUTION/bBATCH.
        kinds:  Types that the generator computes in, each with a form of the custom ops ('native' or 'ref').
        rounds: How often each function is timed.
        layers: Print the work of each layer?

    Returns:
        One row per kind. 'speedup' is relative to the first kind, 'over_traced' relative to the evaluation with
        variables, and 'grey_levels' is the mean difference from the first kind's images.
    """
    G, _ = generator_of(case)
    batch = int(case.split('/')[2][1:])
    products = costs.products_of(G)
    if layers:
        costs.report_layers(products)
    gflop = batch * sum(flop for *_, flop in products) / 1e9
    functions, images = traced_kinds(case, G, kinds)
    matmuls = limits.matmuls(list(dict.fromkeys(dtype for dtype, _ in kinds)))
    times = timing.interleaved({**functions, **matmuls}, rounds)
    rows = []
    first = kinds[0]
    for kind in kinds:
        dtype, impl = kind
        median, best = times[kind]
        rate = limits.matmul_rate(times, dtype)
        peak = timing.in_own_process(_PEAK_PROGRAM, case, dtype, impl)
        rows.append({
            'name': '/'.join(['generator', case, dtype] + [impl] * (impl != 'native')),
            'median_ms': median, 'best_ms': best,
            'images_per_s': batch / best * 1e3, 'gflop': gflop, 'matmul_gflops': rate,
            'fraction_of_bound': gflop / rate / best * 1e3, 'over_traced': times[kind, 'traced'][1] / best,
            'speedup': times[first][1] / best, 'peak_mb': float(peak),
            'grey_levels': float(np.abs(images[kind] - images[first]).mean())})
    return rows


def traced_kinds(case: str, G: Any,
                 kinds: Sequence[tuple[str, str]]) -> tuple[dict[Any, Callable], dict[Any, np.ndarray]]:
    """Trace the generator G for each kind (type, form of the custom ops).

    Returns:
        ({kind: function with constant weights, (kind, 'traced'): function with variables}, {kind: images as uint8}).
    """
    import custom_ops
    from dnnlib import tflib
    functions, images = {}, {}
    for kind in kinds:
        dtype, impl = kind
        _, function_of = generator_of(case, G.clone())  # A network keeps its traced functions: each kind needs its own.
        functions[kind], functions[kind, 'traced'] = function_of(dtype, True), function_of(dtype, False)
        custom_ops.set_impl(impl)  # Both functions are traced here.
        images[kind] = tflib.convert_images_to_uint8(functions[kind]()).numpy().astype(int)
        functions[kind, 'traced']()
        custom_ops.set_impl(None)
    return functions, images


def print_peak(case: str, dtype: str, impl: str) -> None:
    """Print the peak memory in MB, including TensorFlow's own, of a process that generates images."""
    import custom_ops
    custom_ops.set_impl(impl)
    _, function_of = generator_of(case)
    generate = function_of(dtype, True)
    for _ in range(2):
        generate()
    custom_ops.set_impl(None)
    print(timing.peak_memory())
