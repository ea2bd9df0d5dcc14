"""The networks of ProGAN, "Progressive Growing of GANs" (Karras et al. 2018, arXiv:1710.10196, Table 2).

The generator G_paper has no W: its latents, with the labels appended, are the input of the first layer. The
discriminator D_paper has an output for each label besides the score (Odena et al. 2017, arXiv:1610.09585).

Weights have the layout of StyleGAN's copy of these networks, [kernel, kernel, in, out]. Pickles of ProGAN itself store
those of Conv0_up as [kernel, kernel, out, in]; dnnlib/pickles/progan.py translates them.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from custom_ops import conv2d as conv
from dnnlib.tflib import Network
from dnnlib.tflib.layer_list import record_layer
from training.nets import progressive
from training.nets.dtypes import dtype_at
from training.nets.layers import (
    ScopedLayer,
    bias_act,
    image_shape,
    minibatch_stddev,
    normalize_2nd_moment,
    record_op,
)
from training.nets.progan_layers import GAINS, Conv2D, Dense, num_fmaps, pixel_norm
from training.networks_stylegan2 import GROWING_SETTINGS, IMAGE_CALL_SETTINGS, IMAGE_SETTINGS, check_image_kwargs

# Of both networks.
PROGAN_SETTINGS = dict(
    IMAGE_SETTINGS, **GROWING_SETTINGS,
    label_size  = 0,     # Size of the labels. 0 = unconditional.
    use_wscale  = True,  # Use an equalized learning rate.
    fused_scale = True,  # Resample by strided convolutions. False = repeat pixels before, or average after, a layer.
)
PROGAN_SETTINGS.update(num_channels=1, resolution=32, fmap_base=8 << 10)  # The original's defaults.
PROGAN_CALL_SETTINGS = IMAGE_CALL_SETTINGS | set(GROWING_SETTINGS)


# ---- Generator ----

def normalized(x, epsilon):
    """Pixel norm, computed in float32, for x [N, H, W, C]. An epsilon of None = x."""
    return x if epsilon is None else tf.cast(pixel_norm(tf.cast(x, tf.float32), epsilon), x.dtype)


class LatentBlock(ScopedLayer):
    """4x4/Dense: latents [N, C'] -> [N, 4, 4, C], with bias, activation and pixel norm.

    Args:
        scope:      Scope of the layer's names.
        fmaps:      Number of output channels.
        act:        Activation, 'relu' or 'lrelu'.
        gain:       Standard deviation before the bias for unit input.
        use_wscale: Use an equalized learning rate.
        epsilon:    Added to the mean square in pixel norm. None = no pixel norm.
    """

    def __init__(self, scope, fmaps, act, gain, use_wscale=True, epsilon=None):
        super().__init__(scope)
        self.fmaps, self.act, self.gain, self.use_wscale, self.epsilon = fmaps, act, gain, use_wscale, epsilon

    def get_config(self):
        return {'scope': self.scope, 'fmaps': self.fmaps, 'act': self.act, 'gain': self.gain,
                'use_wscale': self.use_wscale, 'epsilon': self.epsilon}

    def build(self, input_shape):
        shape = [input_shape[1], self.fmaps * 16]
        self.coef = self.add_equalized('weight', shape, gain=self.gain, use_wscale=self.use_wscale)
        self.add_var('bias', [self.fmaps])
        self.built = True

    has_modulation = has_own_style = True  # Directions in Z are found as those in W.

    def modulation(self):
        """The weights from the latents and labels to the features, [latents + labels, 16 * fmaps]."""
        return self.weight * self.coef

    def call(self, x):
        x = conv.from_nchw(tf.reshape(tf.matmul(x, self.modulation()), [-1, self.fmaps, 4, 4]))
        return self.record(normalized(bias_act(x, self.bias, self.act, gain=1), self.epsilon))


class NormalizedConv(Conv2D):
    """Convolution with pixel norm after the activation.

    Args:
        epsilon: Added to the mean square in pixel norm. None = no pixel norm.
        Others:  As of Conv2D.
    """

    def __init__(self, scope, fmaps, kernel, resample=None, *, epsilon=None, **conv_args):
        super().__init__(scope, fmaps, kernel, resample, **conv_args)
        self.epsilon = epsilon

    def get_config(self):
        return {**super().get_config(), 'epsilon': self.epsilon}

    def call(self, x):
        x = bias_act(self.convolve(x), self.bias, self.act, gain=1)
        return self.record(normalized(x, self.epsilon))


class G_paper(Network):
    """Latents and labels -> images."""

    settings = dict(
        PROGAN_SETTINGS,
        latent_size       = None,   # Size of Z. None = num_fmaps of stage 0.
        normalize_latents = True,   # Scale latents and labels together to unit mean square first.
        use_pixelnorm     = True,   # Normalize each pixel over its channels.
        use_leakyrelu     = True,   # False = ReLU.
        pixelnorm_epsilon = 1e-8,   # Added to the mean square.
        full_resolution   = True,   # Upsample the images of a coarse stage to `resolution`.
        is_training       = False,  # Has no effect, as the following: arguments of StyleGAN's generators.
        is_validation     = False,
        randomize_noise   = True,
    )
    settings.pop('nonlinearity')
    call_settings = PROGAN_CALL_SETTINGS | {'normalize_latents', 'full_resolution', 'is_training', 'is_validation',
                                            'randomize_noise'}
    input_names = ('latents_in', 'labels_in')
    output_names = ('images_out',)

    def build(self, input_shape=None):
        kw = self.kw
        check_image_kwargs(self)
        act = 'lrelu' if kw.use_leakyrelu else 'relu'
        epsilon = kw.pixelnorm_epsilon if kw.use_pixelnorm else None
        args: dict[str, Any] = dict(act=act, gain=GAINS[act], use_wscale=kw.use_wscale, epsilon=epsilon)
        resolution_log2, up = int(np.log2(kw.resolution)), 'Conv0_up' if kw.fused_scale else 'Conv0'
        self.add_var('lod', [], 'zeros')
        for res in range(2, resolution_log2 + 1):
            size, fmaps = 2 ** res, num_fmaps(kw, res - 1)
            if size == 4:
                self.add_layer(LatentBlock('4x4/Dense', fmaps, **{**args, 'gain': GAINS[act] / 4}),
                               (None, self.latent_size + kw.label_size))
                self.add_layer(NormalizedConv('4x4/Conv', fmaps, 3, **args), image_shape(4, fmaps))
            else:
                upsampling = NormalizedConv(f'{size}x{size}/{up}', fmaps, 3, 'up', fused_scale=kw.fused_scale, **args)
                self.add_layer(upsampling, image_shape(size // 2, num_fmaps(kw, res - 2)))
                self.add_layer(NormalizedConv(f'{size}x{size}/Conv1', fmaps, 3, **args), image_shape(size, fmaps))
            to_rgb = Conv2D(f'ToRGB_lod{resolution_log2 - res}', kw.num_channels, 1, act='linear',
                            use_wscale=kw.use_wscale)
            self.add_layer(to_rgb, image_shape(size, fmaps))
        self.built = True

    @property
    def latent_size(self):
        """Size of Z."""
        return num_fmaps(self.kw, 0) if self.kw.latent_size is None else self.kw.latent_size

    def input_spec_shapes(self):
        return (None, self.latent_size), (None, self.kw.label_size)

    def output_spec_shapes(self):
        return ((None, self.kw.num_channels, self.kw.resolution, self.kw.resolution),)

    def compute(self, latents_in, labels_in, rng=None, **dynamic_kwargs):
        """[N, latent_size], [N, label_size] -> [N, num_channels, resolution, resolution], about [-1, 1].

        The argument `rng` has no effect: there is no noise.
        """
        kw = self.settings_for(dynamic_kwargs)
        resolution_log2, up = int(np.log2(kw.resolution)), 'Conv0_up' if kw.fused_scale else 'Conv0'
        upscales = iter(['Upscale2D', *[f'Upscale2D_{i}' for i in range(1, resolution_log2)]])
        record_layer('latents_in', latents_in.shape)
        record_layer('labels_in', labels_in.shape)
        record_layer('lod', ())
        latents = tf.ensure_shape(tf.concat([latents_in, labels_in], axis=1), [None, self.latent_size + kw.label_size])
        if kw.normalize_latents:
            latents = normalize_2nd_moment(latents, kw.pixelnorm_epsilon)
            record_layer('4x4/PixelNorm', latents.shape)

        def block(res, x):
            size = 2 ** res
            if size == 4:
                return self.layer('4x4/Conv')(self.layer('4x4/Dense')(x))
            x = self.layer(f'{size}x{size}/{up}')(tf.cast(x, dtype_at(kw, size)))
            return self.layer(f'{size}x{size}/Conv1')(x)

        def to_rgb(res, x):
            return tf.cast(self.layer(f'ToRGB_lod{resolution_log2 - res}')(x), tf.float32)

        def record(name, x):
            record_op(next(upscales) if name.startswith('Upsample') else name, x)

        lod = tf.convert_to_tensor(self._net.own_vars['lod'])
        x = progressive.grow_images(
            latents, block, to_rgb, resolution_log2, lod, kw.lod_stage, kw.full_resolution, record)
        images = conv.to_nchw(x)
        record_layer('images_out', images.shape)
        return images


# ---- Discriminator ----

class D_paper(Network):
    """Images -> scores, which are higher for real images, and logits of the labels."""

    settings = dict(
        PROGAN_SETTINGS,
        mbstd_group_size = 4,     # Images per group of minibatch_stddev. 0 or 1 = do not use it.
        label_logits     = True,  # Compute logits of the labels. False = scores alone, as StyleGAN's copy does.
    )
    settings.pop('nonlinearity')
    call_settings = PROGAN_CALL_SETTINGS
    input_names = ('images_in', 'labels_in')
    output_names = ('scores_out', 'labels_out')

    def build(self, input_shape=None):
        kw = self.kw
        check_image_kwargs(self)
        args: dict[str, Any] = dict(act='lrelu', gain=GAINS['lrelu'], use_wscale=kw.use_wscale)
        resolution_log2 = int(np.log2(kw.resolution))
        self.add_var('lod', [], 'zeros')
        for res in range(resolution_log2, 1, -1):
            size, fmaps, out_fmaps = 2 ** res, num_fmaps(kw, res - 1), num_fmaps(kw, res - 2)
            self.add_layer(Conv2D(f'FromRGB_lod{resolution_log2 - res}', fmaps, 1, **args),
                           image_shape(size, kw.num_channels))
            if size > 4:
                self.add_layer(Conv2D(f'{size}x{size}/Conv0', fmaps, 3, **args), image_shape(size, fmaps))
                down = (Conv2D(f'{size}x{size}/Conv1_down', out_fmaps, 3, 'down', fused_scale=True, **args)
                        if kw.fused_scale else Conv2D(f'{size}x{size}/Conv1', out_fmaps, 3, **args))
                self.add_layer(down, image_shape(size, fmaps))
        self.add_layer(Conv2D('4x4/Conv', fmaps, 3, **args), image_shape(4, fmaps + (kw.mbstd_group_size > 1)))
        self.add_layer(Dense('4x4/Dense0', out_fmaps, **args), image_shape(4, fmaps))
        num_logits = kw.label_size if kw.label_logits else 0
        self.add_layer(Dense('4x4/Dense1', 1 + num_logits, use_wscale=kw.use_wscale), (None, out_fmaps))
        self.output_names = type(self).output_names[:2 if kw.label_logits else 1]
        self.built = True

    def input_spec_shapes(self):
        return (None, self.kw.num_channels, self.kw.resolution, self.kw.resolution), (None, self.kw.label_size)

    def output_spec_shapes(self):
        return ((None, 1), (None, self.kw.label_size))[:2 if self.kw.label_logits else 1]

    def compute(self, images_in, labels_in, **dynamic_kwargs):
        """[N, C, H, W] at full resolution or that of lod_stage -> scores [N, 1], logits of the labels [N, label_size].

        labels_in has no effect. With label_logits=False the scores are the only result.
        """
        kw = self.settings_for(dynamic_kwargs)
        resolution_log2 = int(np.log2(kw.resolution))
        downscales = iter(['Downscale2D', *[f'Downscale2D_{i}' for i in range(1, resolution_log2)]])
        record_layer('images_in', images_in.shape)
        if not kw.label_logits:
            record_layer('labels_in', labels_in.shape)
        record_layer('lod', ())

        def block(res, x):
            size = 2 ** res
            x = self.layer(f'{size}x{size}/Conv0')(x)
            if kw.fused_scale:
                x = self.layer(f'{size}x{size}/Conv1_down')(x)
            else:
                x = progressive.downscale(self.layer(f'{size}x{size}/Conv1')(x), 2)
            return tf.cast(x, dtype_at(kw, size // 2))

        def from_rgb(res, images):
            return self.layer(f'FromRGB_lod{resolution_log2 - res}')(tf.cast(images, dtype_at(kw, 2 ** res)))

        def record(name, x):
            record_op(next(downscales) if name.startswith('Downsample') else name, x)

        lod = tf.convert_to_tensor(self._net.own_vars['lod'])
        x = progressive.shrink_images(
            conv.from_nchw(images_in), block, from_rgb, resolution_log2, lod, kw.lod_stage, record)
        if kw.mbstd_group_size > 1:
            x = record_op('4x4/MinibatchStddev', minibatch_stddev(x, kw.mbstd_group_size))
        x = self.layer('4x4/Conv')(x)
        x = self.layer('4x4/Dense0')(x)
        x = self.layer('4x4/Dense1')(x)
        scores = x[:, :1]
        record_layer('scores_out', scores.shape)
        if not kw.label_logits:
            return scores
        record_layer('labels_out', x[:, 1:].shape)
        return scores, x[:, 1:]
