"""The layers of ProGAN (Karras et al. 2018, arXiv:1710.10196) that StyleGAN (configuration A) kept.

They differ from those in layers.py: the gain of an activation is part of the weights of its layer, and images are
resampled by repeating pixels and by averaging them.
"""

import numpy as np
import tensorflow as tf

from custom_ops import conv2d as conv
from custom_ops import upfirdn_2d
from training.nets import layers, progressive
from training.nets.layers import ScopedLayer, bias_act

# Gain of each activation, which is part of the weights of its layer.
GAINS = {'relu': np.sqrt(2), 'lrelu': np.sqrt(2)}


def num_fmaps(kw, stage):
    """Number of feature maps at a stage: fmap_base / 2^(stage * fmap_decay), at most fmap_max."""
    return min(int(kw.fmap_base / 2.0 ** (stage * kw.fmap_decay)), kw.fmap_max)


# ---- Operations on images in the internal layout ----

def blur2d(x, f):
    """Filter every channel of x with the normalized outer product of f with itself, keeping the size. None = x."""
    if f is None:
        return x
    k = np.asarray(f, np.float32)
    k = np.outer(k, k)
    pad = len(f) - 1
    # The original computes a correlation, so the filter is flipped. As in TensorFlow's 'SAME' padding, an even filter
    # has one more row of zeros below and one more column to the right.
    before, after = pad // 2, pad - pad // 2
    return upfirdn_2d(x, (k / np.sum(k))[::-1, ::-1], padx0=before, padx1=after, pady0=before, pady1=after,
                      data_format=conv.image_format())


def pixel_norm(x, epsilon=1e-8):
    """Unit mean square over the channels of each pixel."""
    return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), axis=conv.channel_axis(), keepdims=True) + epsilon)


def spread_kernel(w):
    """Convolve a kernel with a 2x2 box: [k, k, in, out] -> [k + 1, k + 1, in, out], the sum of four shifted copies."""
    w = tf.pad(w, [[1, 1], [1, 1], [0, 0], [0, 0]])
    return w[1:, 1:] + w[:-1, 1:] + w[1:, :-1] + w[:-1, :-1]


# ---- Layers ----

class Dense(layers.Dense):
    """StyleGAN2's Dense with the gain of the activation in the weights.

    Args:
        scope:      Scope of the layer's names.
        fmaps:      Number of outputs.
        act:        'linear', 'relu' or 'lrelu'.
        gain:       Standard deviation of x @ weight for unit input.
        use_wscale: Use an equalized learning rate.
        lrmul:      Multiplier of the learning rate of weight and bias.
    """

    act_gain = 1

    def __init__(self, scope, fmaps, act='linear', gain=1.0, use_wscale=True, lrmul=1.0):
        super().__init__(scope, fmaps, act, lrmul)
        self.gain, self.use_wscale = gain, use_wscale

    def get_config(self):
        return {**super().get_config(), 'gain': self.gain, 'use_wscale': self.use_wscale}

    def build(self, input_shape):
        shape = [int(np.prod(input_shape[1:])), self.fmaps]
        self.coef = self.add_equalized('weight', shape, self.lrmul, self.gain, self.use_wscale)
        self.add_var('bias', [self.fmaps])
        self.built = True


class Conv2D(ScopedLayer):
    """Convolution with optional nearest-neighbor resampling by 2, then bias and activation.

    Args:
        scope:       Scope of the layer's names.
        fmaps:       Number of output channels.
        kernel:      Size of the kernel.
        resample:    'up', 'down' (after a blur) or None.
        act:         Activation, 'linear', 'relu' or 'lrelu'. None = neither bias nor activation.
        gain:        Standard deviation of the convolution's output for unit input.
        use_wscale:  Use an equalized learning rate.
        fused_scale: Resample by a strided convolution. 'auto' = from 128x128 on.
        blur_filter: Filter before 'down', such as [1, 2, 1]. None = no filter.
    """

    def __init__(self, scope, fmaps, kernel, resample=None, act=None, gain=1.0, use_wscale=True,
                 fused_scale: bool | str = 'auto', blur_filter=None):
        super().__init__(scope)
        self.fmaps, self.kernel, self.resample, self.act = fmaps, kernel, resample, act
        self.gain, self.use_wscale, self.fused_scale = gain, use_wscale, fused_scale
        self.blur_filter = None if blur_filter is None else tuple(blur_filter)

    def get_config(self):
        return {'scope': self.scope, 'fmaps': self.fmaps, 'kernel': self.kernel, 'resample': self.resample,
                'act': self.act, 'gain': self.gain, 'use_wscale': self.use_wscale, 'fused_scale': self.fused_scale,
                'blur_filter': self.blur_filter}

    def build(self, input_shape):
        shape = [self.kernel, self.kernel, input_shape[conv.channel_axis()], self.fmaps]
        self.coef = self.add_equalized('weight', shape, gain=self.gain, use_wscale=self.use_wscale)
        if self.act is not None:
            self.add_var('bias', [self.fmaps])
        self.built = True

    def convolve(self, x):
        """Convolution and resampling without bias and activation."""
        w = tf.cast(self.weight * self.coef, x.dtype)
        size = x.shape[progressive.pixel_axes()[0]]
        if self.resample == 'up':
            fused = size * 2 >= 128 if self.fused_scale == 'auto' else self.fused_scale
            if fused:
                return conv.conv2d_transpose(x, spread_kernel(w), 2, 'SAME')
            return conv.conv2d(progressive.upscale(x, 2), w)
        if self.resample == 'down':
            fused = size >= 128 if self.fused_scale == 'auto' else self.fused_scale
            x = blur2d(x, self.blur_filter)
            return conv.conv2d(x, spread_kernel(w) * 0.25, 2) if fused else progressive.downscale(conv.conv2d(x, w), 2)
        return conv.conv2d(x, w)

    def call(self, x):
        x = self.convolve(x)
        return self.record(bias_act(x, None if self.act is None else self.bias, self.act, gain=1))
