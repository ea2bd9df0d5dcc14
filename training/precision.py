"""Precision of training: what --precision means, and loss scaling for float16.

The highest resolutions of G and D may compute in half precision (training/networks_stylegan2.py: dtype_at). Weights, moments, losses
and penalties are float32 always, and so are the pickles.
"""

import contextlib
import re

import numpy as np
import tensorflow as tf

from custom_ops import conv2d as conv
from dnnlib.cli import UserError
from training.configs import PRECISIONS
from training.networks_stylegan2 import dtype_at


def check_precision(precision):
    """UserError if the device has no convolutions of this precision, which every step of training needs."""
    if precision == 'float32':  # All have that: no time of the start-up is spent on it.
        return

    @tf.function(autograph=False)
    def convolve(x, w):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = conv.conv2d_transpose(conv.conv2d(x, w), w, 2)
        return tape.gradient(y, [x, w])
    dtype = PRECISIONS[precision]
    try:
        convolve(conv.from_nhwc(tf.zeros([1, 8, 8, 8], dtype)), tf.zeros([3, 3, 8, 8], dtype))
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.UnimplementedError, tf.errors.AbortedError) as err:
        reason = [line for line in err.message.splitlines() if line.strip() and '{{node' not in line][-1]
        raise UserError(f'--precision={precision}: this device cannot do it: {reason}', 'Use --precision=float32.') from None


def note_slow_precision(precision, cpuinfo='/proc/cpuinfo'):
    """Line to print before anything begins where bfloat16 is slower than float32: on a CPU without instructions for it. '' elsewhere."""
    if precision != 'bfloat16' or tf.config.get_visible_devices('GPU'):
        return ''
    text = ''
    with contextlib.suppress(OSError), open(cpuinfo, encoding='utf-8') as file:  # Only Linux tells; elsewhere it is not known.
        text = file.read()
    flags = re.search(r'^(?:flags|Features)\s*:(.*)$', text, re.MULTILINE)
    if flags is None or {'avx512_bf16', 'amx_bf16', 'bf16'} & set(flags[1].split()):
        return ''
    return 'Note: this CPU has no instructions for bfloat16 (avx512_bf16 or amx_bf16): --precision=bfloat16 takes longer here than float32.'


def describe_precision(precision, G):
    """Line for the log: what is computed in which precision."""
    kw = G.components.synthesis.settings_for({'dtype': PRECISIONS[precision]})
    sizes = [2 ** res for res in range(2, int(np.log2(kw.resolution)) + 1) if dtype_at(kw, 2 ** res) != 'float32']
    if not sizes:
        return 'Precision: float32.'
    scaling = ', with loss scaling' if kw.dtype == 'float16' else ''
    return f'Precision: {kw.dtype} from {sizes[0]}x{sizes[0]} to {sizes[-1]}x{sizes[-1]}, float32 elsewhere{scaling}.'


class LossScaling(tf.Module):
    """Loss scaling, by a factor that finds its level (Micikevicius et al. 2018, arXiv:1710.03740, Section 3.2).

    Gradients in float16 vanish below 2^-24. They are taken of the loss times 2^x and divided by it in float32. x grows with
    every step and falls when one overflows, which is skipped.

    Args:
        use_loss_scaling:  False = the factor is 1, and nothing is computed.
        loss_scaling_init: x at first. The original's 64 is far above float16's greatest number, just below 2^16: some fifty steps of
                           each phase would be skipped until it has fallen. With 16 they are few.
        loss_scaling_inc:  What x grows by after a step.
        loss_scaling_dec:  What it falls by after an overflow.
    """

    def __init__(self, use_loss_scaling=False, loss_scaling_init=16.0, loss_scaling_inc=0.0005, loss_scaling_dec=1.0):
        super().__init__()
        self.inc, self.dec = loss_scaling_inc, loss_scaling_dec
        self.log2 = tf.Variable(loss_scaling_init, trainable=False) if use_loss_scaling else None

    def apply_loss_scaling(self, value):
        """value * 2^x."""
        return value if self.log2 is None else value * tf.pow(2.0, self.log2)

    def undo_loss_scaling(self, value):
        """value / 2^x."""
        return value if self.log2 is None else value * tf.pow(2.0, -self.log2)

    def update(self, all_finite):
        """Move x after a step whose gradients were `all_finite`, or were not; returns it."""
        self.log2.assign_add(tf.where(all_finite, self.inc, -self.dec))
        return self.log2.read_value()
