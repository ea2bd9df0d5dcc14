"""Data types of networks: the meaning of --precision.

The highest resolutions of G and D can compute in half precision (`dtype_at`). Weights, optimizer state, losses,
penalties and pickles are always float32.
"""

import contextlib
import re

import numpy as np
import tensorflow as tf

from custom_ops import conv2d as conv
from dnnlib.cli import UserError
from dnnlib.tflib.call_dtype import calling_with_dtype
from dnnlib.tflib.tfutil import has_gpu
from training.configs import PRECISIONS


def dtype_at(kw, size: int) -> str:
    """Return the type of activations in blocks of size x size pixels.

    It is kw.dtype at the kw.num_fp16_res highest resolutions, and float32 at the others. The 4x4 blocks, RGB images
    that are summed, and the inputs and outputs of networks are always float32.
    """
    if kw.dtype not in PRECISIONS.values():
        raise ValueError(f'expected a dtype of {list(PRECISIONS.values())}, received {kw.dtype!r}')
    return kw.dtype if size > max(4, kw.resolution >> kw.num_fp16_res) else 'float32'


def check_precision(precision: str):
    """Raise a UserError if the device does not support convolutions of this precision, which training needs."""
    if precision == 'float32':  # Every device supports it, so do not spend time on the test.
        return

    @tf.function(autograph=False)
    def convolve(x, w):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = conv.conv2d_transpose(conv.conv2d(x, w), w, 2)
        return tape.gradient(y, [x, w])
    dtype = PRECISIONS[precision]
    try:
        with calling_with_dtype(dtype):
            convolve(tf.zeros([1, 8, 8, 8], dtype), tf.zeros([3, 3, 8, 8], dtype))
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.UnimplementedError,
            tf.errors.AbortedError) as err:
        reason = [line for line in err.message.splitlines() if line.strip() and '{{node' not in line][-1]
        raise UserError(f'--precision={precision}: this device does not support it: {reason}',
                        'Use --precision=float32.') from None


def note_slow_precision(precision: str, cpuinfo: str = '/proc/cpuinfo') -> str:
    """Return a note that bfloat16 is slower than float32, if the CPU has no instructions for it; otherwise ''."""
    if precision != 'bfloat16' or has_gpu():
        return ''
    text = ''
    with contextlib.suppress(OSError), open(cpuinfo, encoding='utf-8') as file:  # Exists on Linux only.
        text = file.read()
    flags = re.search(r'^(?:flags|Features)\s*:(.*)$', text, re.MULTILINE)
    if flags is None or {'avx512_bf16', 'amx_bf16', 'bf16'} & set(flags[1].split()):
        return ''
    return ('Note: this CPU has no instructions for bfloat16 (avx512_bf16 or amx_bf16): '
            '--precision=bfloat16 takes longer here than float32.')


def describe_precision(precision: str, G, loss_scaling: bool = True) -> str:
    """Return a line for the log that says which resolutions of G use which precision.

    Args:
        precision:    Key of configs.PRECISIONS.
        G:            Generator.
        loss_scaling: Are losses scaled where that is of use?
    """
    kw = G.components.get('synthesis', G).settings_for({'dtype': PRECISIONS[precision]})
    sizes = [2 ** res for res in range(2, int(np.log2(kw.resolution)) + 1) if dtype_at(kw, 2 ** res) != 'float32']
    if not sizes:
        return 'Precision: float32.'
    scaling = ', with loss scaling' if kw.dtype == 'float16' and loss_scaling else ''
    return f'Precision: {kw.dtype} from {sizes[0]}x{sizes[0]} to {sizes[-1]}x{sizes[-1]}, float32 elsewhere{scaling}.'
