"""The native ops against a streaming copy of the same bytes, the reference form, and convolutions of one-channel images."""

import argparse
import contextlib
import gc

from tqdm import tqdm

from bench import timing

FILTER = [1, 3, 3, 1]
SHAPE = (4, 128, 128, 128)       # N, C, H, W of the first page.
NOISE = 1.05                     # Best times of one and the same function differ by so much from run to run.
COLUMNS = {'name': 's', 'median_ms': '.2f', 'best_ms': '.2f', 'copy_best_ms': '.2f', 'ratio_copy': '.2f', 'before': '.2f',
           'ref_best_ms': '.2f', 'ratio_ref': '.2f', 'ratio_float32': '.2f', 'conv_best_ms': '.2f'}


def main(argv, prog):
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--rounds', help='times each function is timed', type=int, default=20, metavar='N')
    parser.add_argument('--shapes', help='every shape that config-f uses instead of [4, 128, 128, 128] (takes long)', action='store_true')
    parser.add_argument('--max-resolution', help='largest resolution of --shapes', type=int, default=1024, metavar='N')
    parser.add_argument('--batches', help='batch sizes of --shapes', default='1,4,32', metavar='LIST')
    parser.add_argument('--max-gib', help='largest tensor of --shapes that is measured', type=float, default=1, metavar='GIB')
    parser.add_argument('--only', help='only rows whose name contains this', default='', metavar='TEXT')
    args = parser.parse_args(argv)

    cases = page_cases()
    if args.shapes:
        found = config_f_cases(args.max_resolution, [int(n) for n in args.batches.split(',')])
        cases = [case for case in found if largest_tensor(case) <= args.max_gib * 2 ** 30]
        print(f'{len(found) - len(cases)} of {len(found)} shapes have tensors over {args.max_gib:g} GiB and are left out (--max-gib)')
    print(timing.machine())
    rows = []
    with additions_apart():
        for case in tqdm([case for case in cases if args.only in case[0]], disable=None):
            rows.append(measure(*case, rounds=args.rounds, with_conv=not args.shapes))
            gc.collect()  # Traced functions hold their tensors in cycles.
    timing.report(rows, COLUMNS, args.json, before=('ops', 'ratio_copy'))
    slower = [f'{row["name"]} ({row["ratio_ref"]:.2f})' for row in rows if row['ratio_ref'] > NOISE]
    print(f'{len(rows)} rows; slower than the reference form, by over {NOISE - 1:.0%} in best times: {", ".join(slower) or "none"}')


# ---- What is measured: (name, op, data_format, dtype, shape [N, C, H, W]) ----

def page_cases():
    return [(f'{op}/{data_format}/{dtype}', op, data_format, dtype, SHAPE)
            for op in ('upfirdn_2d/up1', 'upfirdn_2d/up2', 'upfirdn_2d/down2', 'fused_bias_act/forward', 'fused_bias_act/backward')
            for data_format in ('NHWC', 'NCHW')
            for dtype in ('float32', 'bfloat16')] + [
        (f'styled_bias_act/forward/NHWC/{dtype}', 'styled_bias_act/forward', 'NHWC', dtype, SHAPE) for dtype in ('float32', 'bfloat16')]


def config_f_cases(max_resolution, batches):
    """The ops that config-f runs at each resolution, with its numbers of channels, in the layout of a CPU."""
    cases = []
    for batch in batches:
        res = 4
        while res <= max_resolution:
            maps = {size: min(32768 // size, 512) for size in (res, res // 2)}  # Feature maps of config-f.
            found = [('fused_bias_act/forward', maps[res], res), ('fused_bias_act/backward', maps[res], res),
                     ('fused_bias_act/forward', 3, res), ('fused_bias_act/backward', 3, res)]  # ToRGB
            if res > 4:
                found += [('upfirdn_2d/up1', maps[res], res),          # After the transposed convolutions, before the strided ones.
                          ('upfirdn_2d/up2', 3, res // 2),              # RGB pictures on their way up ...
                          ('upfirdn_2d/down2', 3, res),                 # ... and their gradients on the way down.
                          ('upfirdn_2d/down2', maps[res], res),         # Shortcuts of D and their gradients.
                          ('upfirdn_2d/up2', maps[res], res // 2)]
            for op, channels, size in found:
                cases.append((f'{op}/NHWC/float32/{batch}x{size}x{size}x{channels}', op, 'NHWC', 'float32', (batch, channels, size, size)))
            res *= 2
    return cases


def largest_tensor(case):
    _, op, _, _, (n, c, h, w) = case
    return 4 * n * c * h * w * (4 if op.endswith('up2') else 1)


# ---- Measuring ----

@contextlib.contextmanager
def additions_apart():
    """Meanwhile TensorFlow does not make one addition of all those of a bias in a row, which no network has."""
    import tensorflow as tf
    name = 'arithmetic_optimization'
    before = tf.config.optimizer.get_experimental_options().get(name, True)
    tf.config.optimizer.set_experimental_options({name: False})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({name: before})


def measure(name, op, data_format, dtype, shape, rounds, with_conv):
    import tensorflow as tf

    from custom_ops import loader

    n, c, h, w = shape
    x = tf.cast(tf.random.normal([n, h, w, c] if data_format == 'NHWC' else shape), dtype)
    kind = op.split('/')[1]
    resamples = op.startswith('upfirdn_2d')

    def form(impl, x):
        if op == 'styled_bias_act/forward':
            return styled(x)
        return resampling(x, kind, data_format) if resamples else bias_act(x, kind, data_format, impl)

    run = {'native': form('native', x), 'ref': form('ref', x)}
    if dtype != 'float32':
        run['float32'] = form('native', tf.cast(x, 'float32'))
    if with_conv and resamples:
        run['conv'] = lambda: one_channel(x, kind, data_format)
    functions = {key: tf.function(function, autograph=False) for key, function in run.items()}
    for key in ('float32', 'ref', 'native'):  # The last stays: it copies, and its results are counted.
        loader.set_impl('ref' if key == 'ref' else 'native')
        if key in functions:
            results = functions[key]()  # Traced here, once.
    # Reads x, and dy where there is one, and writes the result. The gradient of a bias alone reads dy and writes next to nothing.
    result = tf.nest.flatten(results)[0]
    total = (int(tf.size(x)) * (2 if kind == 'backward' else 1) + int(tf.size(result))) * x.dtype.size
    if kind == 'backward' and act_of(x, data_format) == 'linear':
        total //= 3
    part = tf.zeros([total // 2], tf.uint8)
    copy = tf.function(lambda: loader.library().stylegan2_stream_copy(part), autograph=False)
    # A copy before each, or the second form would find in the caches what the first one has read.
    functions = {'copy': copy, 'native': functions.pop('native'), 'copy again': copy, **functions}
    if 'float32' in functions:
        functions = {'copy before float32': copy, 'float32': functions.pop('float32'), **functions}
    del results, result
    times = timing.interleaved(functions, rounds, seconds=10 if with_conv else 2)
    if op.startswith('fused_bias_act'):
        for key in times.keys() & {'native', 'ref', 'float32'}:
            times[key] = tuple(value / repeats(x) for value in times[key])
    return {'name': name, 'median_ms': times['native'][0], 'best_ms': times['native'][1], 'copy_best_ms': times['copy'][1],
            'ratio_copy': times['native'][1] / times['copy'][1], 'ref_best_ms': times['ref'][1],
            'ratio_ref': times['native'][1] / times['ref'][1],
            'ratio_float32': times['native'][1] / times['float32'][1] if 'float32' in times else None,
            'conv_best_ms': times.get('conv', (None, None))[1]}


def resampling(x, kind, data_format):
    import custom_ops
    resample = {'up1': custom_ops.filter_2d, 'up2': custom_ops.upsample_2d, 'down2': custom_ops.downsample_2d}[kind]
    return lambda: resample(x, FILTER, data_format=data_format)


def styled(x):
    """What follows a modulated convolution of config-f, in half precision with its clamp."""
    import tensorflow as tf

    import custom_ops
    n, h, w, c = x.shape
    b, scale, noise = tf.random.normal([c]), tf.random.normal([n, c]), tf.random.normal([n, h, w, 1])
    clamp = None if x.dtype == tf.float32 else 256.0
    return lambda: custom_ops.styled_bias_act(x, b, scale, noise, act='lrelu', clamp=clamp, data_format='NHWC')


def act_of(x, data_format):
    """What the networks apply to so many channels: RGB pictures get a bias alone."""
    return 'linear' if x.shape[3 if data_format == 'NHWC' else 1] == 3 else 'lrelu'


def bias_act(x, kind, data_format, impl):
    """Forward: x and b to y. Backward: from dy and what the forward pass left to dx and db. `repeats(x)` times."""
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
        if act == 'linear':  # Which the smallest leave to TensorFlow.
            return tf.gradients(custom_ops.fused_bias_act(x, b, axis=axis), [x, b], dy)
        return loader.library().stylegan2_bias_act_grad(dy, tf.zeros([0], x.dtype), x, b, axis=axis, act=act,
                                                        alpha=0.2, gain=gain, ref_is_y=True)

    def backward_ref(dy):
        dx = dy
        if act == 'lrelu':
            dx = tf.raw_ops.LeakyReluGrad(gradients=dy * tf.cast(gain, x.dtype), features=x, alpha=0.2)
        return dx, tf.reduce_sum(dx, [i for i in range(4) if i != axis])

    if kind == 'forward':
        return forward
    backward = backward_native if impl == 'native' else backward_ref
    # Each of its own, where dx is dy itself: TensorFlow would compute sums of the same tensor once.
    dys = [tf.cast(tf.random.normal(x.shape), x.dtype) for _ in range(repeats(x) if act == 'linear' else 1)]

    def backward_in_a_row():
        dx, sums = dys[0], []
        for number in range(repeats(x)):
            dx, db = backward(dys[number] if act == 'linear' else dx)
            sums.append(db)
        return dx, tf.add_n(sums)

    return backward_in_a_row


def repeats(x):
    """How many small activations follow one another within a function: its call takes a few hundred microseconds."""
    size = x.shape.num_elements()
    return 256 if size < 2 ** 14 else 16 if size < 2 ** 20 else 1


def one_channel(x, kind, data_format):
    """Every channel as a picture of its own: zeros inserted, padded, convolved; how ports usually write it."""
    import numpy as np
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
    x = tf.nn.conv2d(tf.pad(x, [[0, 0], pads, pads, [0, 0]]), tf.cast(k[:, :, np.newaxis, np.newaxis], x.dtype), 1, 'VALID')
    if kind == 'down2':
        x = x[:, ::2, ::2]
    x = tf.reshape(x, [n, c, x.shape[1], x.shape[2]])
    return tf.transpose(x, [0, 2, 3, 1]) if data_format == 'NHWC' else x
