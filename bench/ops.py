"""The native ops against a copy of as many bytes, the reference form, and convolutions of one-channel images.

The copy is NumPy's, between two preallocated arrays, with one thread per CPU; with a GPU it is made on the GPU, by
TensorFlow.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from bench import timing

Case = tuple[str, str, str, str, tuple[int, int, int, int]]  # Name, op, data_format, dtype, shape [N, C, H, W].

FILTER = [1, 3, 3, 1]
SHAPE = (4, 128, 128, 128)       # [N, C, H, W], without --shapes.
NOISE = 1.05                     # The best time of a function differs by up to this factor between runs.
COLUMNS = {'name': 's', 'median_ms': '.2f', 'best_ms': '.2f', 'copy_best_ms': '.2f', 'ratio_copy': '.2f',
           'before': '.2f', 'ref_best_ms': '.2f', 'ratio_ref': '.2f', 'ratio_float32': '.2f', 'conv_best_ms': '.2f'}


def main(argv: list[str], prog: str) -> None:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--rounds', help='times each function is timed', type=int, default=20, metavar='N')
    parser.add_argument('--shapes', action='store_true',
                        help='every shape that config-f uses instead of [4, 128, 128, 128] (takes long)')
    parser.add_argument('--max-resolution', help='largest resolution of --shapes', type=int, default=1024, metavar='N')
    parser.add_argument('--batches', help='batch sizes of --shapes', default='1,4,32', metavar='LIST')
    parser.add_argument('--max-gib', help='largest tensor of --shapes that is measured', type=float, default=1,
                        metavar='GIB')
    parser.add_argument('--only', help='only rows whose name contains this', default='', metavar='TEXT')
    args = parser.parse_args(argv)

    cases = page_cases()
    if args.shapes:
        found = config_f_cases(args.max_resolution, [int(n) for n in args.batches.split(',')])
        cases = [case for case in found if largest_tensor(case) <= args.max_gib * 2 ** 30]
        print(f'{len(found) - len(cases)} of {len(found)} shapes are left out, because they have tensors over '
              f'{args.max_gib:g} GiB (--max-gib)')
    print(timing.machine())
    rows = []
    with separate_additions():
        for case in tqdm([case for case in cases if args.only in case[0]], disable=None):
            rows.append(measure(*case, rounds=args.rounds, with_conv=not args.shapes))
            gc.collect()  # Traced functions hold their tensors in cycles.
    timing.report(rows, COLUMNS, args.json, before=('ops', 'ratio_copy'))
    slower = [f'{row["name"]} ({row["ratio_ref"]:.2f})' for row in rows if row['ratio_ref'] > NOISE]
    print(f'{len(rows)} rows; slower than the reference form, by over {NOISE - 1:.0%} in best times: '
          f'{", ".join(slower) or "none"}')


# ---- What is measured ----

def page_cases() -> list[Case]:
    """The cases without --shapes."""
    ops = ['upfirdn_2d/up1', 'upfirdn_2d/up2', 'upfirdn_2d/down2', 'fused_bias_act/forward', 'fused_bias_act/backward']
    kinds = [(op, data_format) for op in ops for data_format in ('NHWC', 'NCHW')]
    kinds += [(f'styled_bias_act/{kind}', data_format) for kind in ('forward', 'forward_backward')
              for data_format in ('NHWC', 'NCHW')]
    return [(f'{op}/{data_format}/{dtype}', op, data_format, dtype, SHAPE)
            for op, data_format in kinds for dtype in ('float32', 'bfloat16')]


def config_f_cases(max_resolution: int, batches: list[int]) -> list[Case]:
    """The ops that config-f runs at each resolution, with its numbers of channels, in the layout of a CPU."""
    cases = []
    for batch in batches:
        res = 4
        while res <= max_resolution:
            maps = {size: min(32768 // size, 512) for size in (res, res // 2)}  # Feature maps of config-f.
            found = [('fused_bias_act/forward', maps[res], res), ('fused_bias_act/backward', maps[res], res),
                     ('fused_bias_act/forward', 3, res), ('fused_bias_act/backward', 3, res)]  # ToRGB
            if res > 4:
                found += [('upfirdn_2d/up1', maps[res], res),        # After transposed, before strided convolutions.
                          ('upfirdn_2d/up2', 3, res // 2),           # RGB images ...
                          ('upfirdn_2d/down2', 3, res),              # ... and their gradients.
                          ('upfirdn_2d/down2', maps[res], res),      # Shortcuts of D and their gradients.
                          ('upfirdn_2d/up2', maps[res], res // 2)]
            for op, channels, size in found:
                name = f'{op}/NHWC/float32/{batch}x{size}x{size}x{channels}'
                cases.append((name, op, 'NHWC', 'float32', (batch, channels, size, size)))
            res *= 2
    return cases


def largest_tensor(case: Case) -> int:
    """Bytes of the largest tensor of a case, in float32."""
    _, op, _, _, (n, c, h, w) = case
    return 4 * n * c * h * w * (4 if op.endswith('up2') else 1)


# ---- Measuring ----

@contextlib.contextmanager
def separate_additions() -> Iterator[None]:
    """Keep TensorFlow from merging the additions of consecutive biases into one, which no network has."""
    import tensorflow as tf
    name = 'arithmetic_optimization'
    before = tf.config.optimizer.get_experimental_options().get(name, True)
    tf.config.optimizer.set_experimental_options({name: False})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({name: before})


def measure(name: str, op: str, data_format: str, dtype: str, shape: tuple[int, int, int, int], rounds: int,
            with_conv: bool) -> dict[str, Any]:
    """The row of a case.

    Args:
        name, op, data_format, dtype, shape: The case.
        rounds:    Times that each function is timed.
        with_conv: Also time the formulation by convolutions of one-channel images.
    """
    import tensorflow as tf

    n, c, h, w = shape
    x = tf.cast(tf.random.normal([n, h, w, c] if data_format == 'NHWC' else shape), dtype)
    kind = op.split('/')[1]
    functions, result = traced_forms(x, op, kind, data_format, with_conv)
    # The op reads x, and dy if there is one, and writes the result. The gradient of a bias alone only reads dy. Forward
    # and backward: x to y; dy, y and x to dx.
    num_read = {'backward': 2, 'forward_backward': 5}.get(kind, 1)
    num_bytes = (int(tf.size(x)) * num_read + int(tf.size(result))) * x.dtype.size
    if kind == 'backward' and act_of(x, data_format) == 'linear':
        num_bytes //= 3
    del result
    copy, read = memory_functions(num_bytes)
    # Other memory is read before each function: no function finds its input in the caches, or results of others there
    # that must be written to memory first.
    separated = {}
    for key, function in {'copy': copy, **functions}.items():
        separated[f'read before {key}'] = read
        separated[key] = function
    times = timing.interleaved(separated, rounds, seconds=10 if with_conv else 2)
    if op.startswith('fused_bias_act'):
        for key in times.keys() & {'native', 'ref', 'float32'}:
            median, best = times[key]
            times[key] = median / repeats(x), best / repeats(x)
    return {'name': name, 'median_ms': times['native'][0], 'best_ms': times['native'][1],
            'copy_best_ms': times['copy'][1], 'ratio_copy': times['native'][1] / times['copy'][1],
            'ref_best_ms': times['ref'][1], 'ratio_ref': times['native'][1] / times['ref'][1],
            'ratio_float32': times['native'][1] / times['float32'][1] if 'float32' in times else None,
            'conv_best_ms': times.get('conv', (None, None))[1]}


def traced_forms(x: Any, op: str, kind: str, data_format: str, with_conv: bool) -> tuple[dict[str, Callable], Any]:
    """The forms of an op as traced functions, and a result.

    Returns:
        ({'native': function, 'ref': function, 'float32': ..., 'conv': ...}, result of the native form). 'float32' is
        the native form on float32, if x is of another type.
    """
    import tensorflow as tf

    from custom_ops import loader
    resamples = op.startswith('upfirdn_2d')

    def form(impl, x):
        if op.startswith('styled_bias_act'):
            return styled(x, kind, data_format)
        return resampling(x, kind, data_format) if resamples else bias_act(x, kind, data_format, impl)

    forms = {'native': form('native', x), 'ref': form('ref', x)}
    if x.dtype != tf.float32:
        forms['float32'] = form('native', tf.cast(x, 'float32'))
    if with_conv and resamples:
        forms['conv'] = lambda: one_channel(x, kind, data_format)
    functions = {key: tf.function(function, autograph=False) for key, function in forms.items()}
    results = None
    for key in ('float32', 'ref', 'native'):  # 'native' last: its setting and its result are kept.
        loader.set_impl('ref' if key == 'ref' else 'native')
        if key in functions:
            results = functions[key]()  # Traced here, with this setting.
    return functions, tf.nest.flatten(results)[0]


def memory_functions(num_bytes: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """What an op that accesses so many bytes is compared with, and what is run before both.

    Returns:
        (function that reads and writes half of the bytes each: a copy,
        function that reads as many bytes of other arrays). Both run on the GPU if there is one, otherwise in as many
        threads as there are CPUs.
    """
    import tensorflow as tf

    from dnnlib.tflib.tfutil import has_gpu
    if has_gpu():
        source, other = tf.ones([num_bytes // 8]), tf.ones([num_bytes // 4])
        return (tf.function(lambda: tf.raw_ops.DeepCopy(x=source), autograph=False),
                tf.function(lambda: tf.reduce_max(other), autograph=False))
    threads = len(os.sched_getaffinity(0))
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    sources, targets = (np.array_split(np.ones(num_bytes // 2, np.uint8), threads) for _ in range(2))
    others = np.array_split(np.ones(num_bytes // 8 + threads, np.int64), threads)

    def copy():
        for _ in pool.map(np.copyto, targets, sources):
            pass

    def read():
        for _ in pool.map(np.max, others):
            pass
    return copy, read


def resampling(x: Any, kind: str, data_format: str) -> Callable:
    """`kind` of resampling (up1, up2, down2) of x, as a function without arguments."""
    import custom_ops
    resample = {'up1': custom_ops.filter_2d, 'up2': custom_ops.upsample_2d, 'down2': custom_ops.downsample_2d}[kind]
    return lambda: resample(x, FILTER, data_format=data_format)


def styled(x: Any, kind: str, data_format: str) -> Callable:
    """What follows a modulated convolution of config-f, in half precision with its clamp; `kind` says if its gradients
    are computed too."""
    import tensorflow as tf

    import custom_ops
    n, h, w, c = x.shape if data_format == 'NHWC' else [x.shape[axis] for axis in (0, 2, 3, 1)]
    b, scale = tf.random.normal([c]), tf.random.normal([n, c])
    noise = tf.random.normal([n, h, w, 1] if data_format == 'NHWC' else [n, 1, h, w])
    dy = tf.cast(tf.random.normal(x.shape), x.dtype)
    clamp = None if x.dtype == tf.float32 else 256.0

    def forward():
        return custom_ops.styled_bias_act(x, b, scale, noise, act='lrelu', clamp=clamp, data_format=data_format)

    def forward_backward():
        y = forward()
        return tf.gradients(y, [x, b, scale, noise], dy), y
    return {'forward': forward, 'forward_backward': forward_backward}[kind]


def act_of(x: Any, data_format: str) -> str:
    """The activation of the networks for so many channels: RGB images get a bias alone."""
    return 'linear' if x.shape[3 if data_format == 'NHWC' else 1] == 3 else 'lrelu'


def bias_act(x: Any, kind: str, data_format: str, impl: str) -> Callable:
    """A function of `repeats(x)` passes. Forward: x and b to y. Backward: dy and the forward result to dx and db."""
    import tensorflow as tf

    import custom_ops
    from custom_ops import loader
    axis = 3 if data_format == 'NHWC' else 1
    act = act_of(x, data_format)
    b = tf.cast(tf.random.normal([x.shape[axis]]), x.dtype)
    gain = custom_ops.ACTIVATIONS[act].def_gain

    def forward():
        y = x
        for _ in range(repeats(x)):
            y = custom_ops.fused_bias_act(y, b, axis=axis, act=act)
        return y

    def backward_native(dy):
        if act == 'linear':  # The op decides by size whether TensorFlow computes it.
            return tf.gradients(custom_ops.fused_bias_act(x, b, axis=axis), [x, b], dy)
        library: Any = loader.library()
        return library.stylegan2_bias_act_grad(dy, tf.zeros([0], x.dtype), x, b, axis=axis, act=act, alpha=0.2,
                                               gain=gain, ref_is_y=True)

    def backward_ref(dy):
        dx = dy
        if act == 'lrelu':
            dx = tf.raw_ops.LeakyReluGrad(gradients=dy * tf.cast(gain, x.dtype), features=x, alpha=0.2)
        return dx, tf.reduce_sum(dx, [i for i in range(4) if i != axis])

    if kind == 'forward':
        return forward
    backward = backward_native if impl == 'native' else backward_ref
    # Where dx is dy itself, each pass has a dy of its own: TensorFlow would compute sums of the same tensor once.
    dys = [tf.cast(tf.random.normal(x.shape), x.dtype) for _ in range(repeats(x) if act == 'linear' else 1)]

    def repeated_backward():
        dx, sums = dys[0], []
        for number in range(repeats(x)):
            dx, db = backward(dys[number] if act == 'linear' else dx)
            sums.append(db)
        return dx, tf.add_n(sums)

    return repeated_backward


def repeats(x: Any) -> int:
    """How many activations one function computes: its call takes some hundred microseconds, more than a small one."""
    size = x.shape.num_elements()
    return 256 if size < 2 ** 14 else 16 if size < 2 ** 20 else 1


def one_channel(x: Any, kind: str, data_format: str) -> Any:
    """Resampling by convolution of every channel as an image of its own, as ports usually write it."""
    import tensorflow as tf
    if data_format == 'NHWC':
        x = tf.transpose(x, [0, 3, 1, 2])
    n, c, h, w = x.shape
    x = tf.reshape(x, [n * c, h, w, 1])
    k = np.outer(FILTER, FILTER) / 64
    if kind == 'up2':
        x = tf.pad(tf.reshape(x, [n * c, h, 1, w, 1, 1]), [[0, 0], [0, 0], [0, 1], [0, 0], [0, 1], [0, 0]])
        x = tf.reshape(x, [n * c, h * 2, w * 2, 1])
        k = k * 4
    pads = {'up1': [2, 1], 'up2': [2, 1], 'down2': [1, 1]}[kind]
    taps = tf.cast(k[:, :, np.newaxis, np.newaxis], x.dtype)
    x = tf.nn.conv2d(tf.pad(x, [[0, 0], pads, pads, [0, 0]]), taps, 1, 'VALID')
    if kind == 'down2':
        x = x[:, ::2, ::2]
    x = tf.reshape(x, [n, c, x.shape[1], x.shape[2]])
    return tf.transpose(x, [0, 2, 3, 1]) if data_format == 'NHWC' else x
