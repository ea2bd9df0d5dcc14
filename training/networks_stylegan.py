"""The networks of StyleGAN (Karras et al. 2019, arXiv:1812.04948): configuration A.

The generator G_style consists of G_mapping and G_synthesis, the discriminator is D_basic. Both grow progressively. The
differences from StyleGAN2: styles scale and shift instance-normalized features, resampling is nearest-neighbor with a
blur, and the gain of an activation is part of the weights of its layer.
"""

from types import SimpleNamespace

import numpy as np
import tensorflow as tf

from custom_ops import conv2d as conv
from dnnlib.tflib import Network, Random
from dnnlib.tflib.layer_list import record_layer
from training import networks_stylegan2
from training.nets import progressive
from training.nets.dtypes import dtype_at
from training.nets.layers import ScopedLayer, bias_act, image_shape, minibatch_stddev, record_op
from training.nets.progan_layers import GAINS, Conv2D, Dense, blur2d, num_fmaps, pixel_norm
from training.networks_stylegan2 import (
    DISCRIMINATOR_SETTINGS,
    GROWING_SETTINGS,
    GROWING_SYNTHESIS_SETTINGS,
    IMAGE_CALL_SETTINGS,
    IMAGE_SETTINGS,
    SYNTHESIS_CALL_SETTINGS,
    SYNTHESIS_SETTINGS,
    D_stylegan2,
    G_main,
    G_synthesis_stylegan2,
    add_noise_vars,
    check_image_kwargs,
    compute_growing_features,
    layer_noises,
    truncate,
    uses_mbstd,
)


def check_kwargs(net):
    """Raise a ValueError if settings are invalid."""
    nonlinearity = getattr(net.kw, 'nonlinearity', None) or net.kw.mapping_nonlinearity
    if nonlinearity not in GAINS:
        raise ValueError(f'{net.name}: expected a nonlinearity of {list(GAINS)}, received {nonlinearity!r}')
    if hasattr(net.kw, 'resolution'):
        check_image_kwargs(net)


# ---- Layers ----

def instance_norm(x, epsilon=1e-8):
    """Zero mean and unit variance over the pixels of each image and channel."""
    axes = progressive.pixel_axes()
    x -= tf.reduce_mean(x, axis=axes, keepdims=True)
    return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), axis=axes, keepdims=True) + epsilon)


class Epilogue(ScopedLayer):
    """Base class of layers that end with noise, bias, activation, normalization and style (Figure 1b).

    Subclasses take an argument `epilogue`, a dict with the settings of G_synthesis named in EPILOGUE_SETTINGS, and keep
    it as the namespace `options`. They have the variables Noise/weight, bias, StyleMod/weight and StyleMod/bias.
    """

    def build_epilogue(self, fmaps):
        options = self.options
        if options.use_noise:
            self.add_var('Noise/weight', [fmaps])
        self.add_var('bias', [fmaps])
        if options.use_styles:
            shape = [options.dlatent_size, fmaps * 2]
            self.style_coef = self.add_equalized('StyleMod/weight', shape, use_wscale=options.use_wscale)
            self.add_var('StyleMod/bias', [fmaps * 2])

    has_own_style = True

    @property
    def has_modulation(self):
        """Does W determine styles of this layer?"""
        return self.options.use_styles

    def modulation(self):
        """The weights from W to the styles, first the scales and then the shifts, [dlatent_size, 2 * fmaps]."""
        return self.StyleMod_weight * self.style_coef

    def epilogue(self, x, dlatents, noise):
        """x [N, H, W, C], dlatents [N, dlatent_size], noise [N or 1, 1, H, W] or None -> [N, H, W, C]."""
        options, dtype = self.options, x.dtype
        if options.use_noise:
            weight = conv.per_channel(tf.convert_to_tensor(self.Noise_weight))
            x = x + tf.cast(conv.from_nchw(noise) * weight, dtype)
        x = bias_act(x, self.bias, options.nonlinearity, gain=1)
        x = tf.cast(x, tf.float32)  # Normalization sums over pixels and channels.
        if options.use_pixel_norm:
            x = pixel_norm(x)
        if options.use_instance_norm:
            x = instance_norm(x)
        if options.use_styles:
            style = tf.matmul(dlatents, self.modulation()) + self.StyleMod_bias
            scale, shift = tf.split(style, 2, axis=1)
            x = x * conv.per_channel(scale + 1) + conv.per_channel(shift)
        return self.record(tf.cast(x, dtype))


EPILOGUE_SETTINGS = ('dlatent_size', 'use_styles', 'use_noise', 'nonlinearity', 'use_wscale', 'use_pixel_norm',
                     'use_instance_norm')


class ConstBlock(Epilogue):
    """4x4/Const: the learned input of the synthesis network (const [1, C, 4, 4], initially ones), and an epilogue."""

    def __init__(self, scope, fmaps, epilogue):
        super().__init__(scope)
        self.fmaps, self.options = fmaps, SimpleNamespace(**epilogue)

    def get_config(self):
        return {'scope': self.scope, 'fmaps': self.fmaps, 'epilogue': vars(self.options)}

    def build(self, input_shape=None):
        self.add_var('const', [1, self.fmaps, 4, 4], 'ones')
        self.build_epilogue(self.fmaps)
        self.built = True

    def call(self, dlatents, noise):
        x = tf.tile(conv.from_nchw(tf.convert_to_tensor(self.const)), [tf.shape(dlatents)[0], 1, 1, 1])
        return self.epilogue(tf.ensure_shape(x, image_shape(4, self.fmaps)), dlatents, noise)

    def record(self, x):
        return super().record(x, weight=self.var('Noise/weight') if self.options.use_noise else None)


class DenseBlock(Epilogue):
    """4x4/Dense: the input of the synthesis network computed from the dlatents instead of learned, and an epilogue."""

    def __init__(self, scope, fmaps, gain, epilogue):
        super().__init__(scope)
        self.fmaps, self.gain, self.options = fmaps, gain, SimpleNamespace(**epilogue)

    def get_config(self):
        return {'scope': self.scope, 'fmaps': self.fmaps, 'gain': self.gain, 'epilogue': vars(self.options)}

    def build(self, input_shape):
        shape = [input_shape[1], self.fmaps * 16]
        self.coef = self.add_equalized('weight', shape, gain=self.gain / 4, use_wscale=self.options.use_wscale)
        self.build_epilogue(self.fmaps)
        self.built = True

    def call(self, dlatents, noise):
        x = tf.reshape(tf.matmul(dlatents, self.weight * self.coef), [-1, self.fmaps, 4, 4])
        return self.epilogue(conv.from_nchw(x), dlatents, noise)


class SynthesisConv(Epilogue, Conv2D):
    """A convolution of the synthesis network, followed by a blur if it upsamples, and by an epilogue."""

    def __init__(self, scope, fmaps, kernel, resample=None, *, epilogue, **conv_args):
        super().__init__(scope, fmaps, kernel, resample, **conv_args)
        self.options = SimpleNamespace(**epilogue)

    def get_config(self):
        return {**super().get_config(), 'epilogue': vars(self.options)}

    def build(self, input_shape):
        super().build(input_shape)
        self.build_epilogue(self.fmaps)

    def call(self, x, dlatents, noise):
        x = self.convolve(x)
        if self.resample == 'up':
            x = blur2d(x, self.blur_filter)
        return self.epilogue(x, dlatents, noise)


# ---- Generator ----

STYLEGAN_IMAGE_SETTINGS = dict(
    IMAGE_SETTINGS,
    fmap_base   = 8 << 10,    # Number of feature maps: see num_fmaps.
    use_wscale  = True,       # Use an equalized learning rate.
    fused_scale = 'auto',     # Resample by strided convolutions. 'auto' = from 128x128 on.
    blur_filter = [1, 2, 1],  # Filter after upsampling and before downsampling. None = no filter.
)


class G_mapping(networks_stylegan2.G_mapping):
    """Latents Z and labels -> intermediate latents W, as in StyleGAN2, with the option `use_wscale`."""

    settings = dict(
        networks_stylegan2.G_mapping.settings,
        use_wscale = True,  # Use an equalized learning rate.
    )
    norm_name = 'PixelNorm'

    def check(self):
        check_kwargs(self)

    def dense(self, scope, fmaps):
        kw = self.kw
        return Dense(scope, fmaps, act=kw.mapping_nonlinearity, gain=GAINS[kw.mapping_nonlinearity],
                     use_wscale=kw.use_wscale, lrmul=kw.mapping_lrmul)


class G_synthesis(Network):
    """W with two vectors per resolution -> images (Figure 1b). Without styles, W is one vector, for the first layer."""

    settings = dict(
        STYLEGAN_IMAGE_SETTINGS, **SYNTHESIS_SETTINGS, **GROWING_SYNTHESIS_SETTINGS,
        use_styles        = True,   # Scale and shift features by style.
        const_input_layer = True,   # Start from a learned input. False = from the first dlatents.
        use_noise         = True,   # Add noise.
        use_pixel_norm    = False,  # Normalize each pixel over its channels.
        use_instance_norm = True,   # Normalize each channel over its pixels.
    )
    call_settings = SYNTHESIS_CALL_SETTINGS | set(GROWING_SYNTHESIS_SETTINGS)
    input_names = ('dlatents_in',)
    output_names = ('images_out',)
    num_layers = G_synthesis_stylegan2.num_layers
    output_spec_shapes = G_synthesis_stylegan2.output_spec_shapes
    grows = True  # Has it the variable lod?

    def input_spec_shapes(self):
        return ((None, self.num_layers if self.kw.use_styles else 1, self.kw.dlatent_size),)

    def build(self, input_shape=None):
        kw = self.kw
        check_kwargs(self)
        gain, resolution_log2 = GAINS[kw.nonlinearity], int(np.log2(kw.resolution))
        epilogue = {name: getattr(kw, name) for name in EPILOGUE_SETTINGS}
        conv_args = dict(epilogue=epilogue, gain=gain, use_wscale=kw.use_wscale, fused_scale=kw.fused_scale,
                         blur_filter=kw.blur_filter)
        if self.grows:
            self.add_var('lod', [], 'zeros')
        add_noise_vars(self, [2 ** (idx // 2 + 2) for idx in range(self.num_layers if kw.use_noise else 0)])
        for res in range(2, resolution_log2 + 1):
            size, fmaps = 2 ** res, num_fmaps(kw, res - 1)
            if size == 4:
                if kw.const_input_layer:
                    self.add_layer(ConstBlock('4x4/Const', fmaps, epilogue), (None, kw.dlatent_size))
                else:
                    self.add_layer(DenseBlock('4x4/Dense', fmaps, gain, epilogue), (None, kw.dlatent_size))
                self.add_layer(SynthesisConv('4x4/Conv', fmaps, 3, **conv_args), image_shape(4, fmaps))
            else:
                self.add_layer(SynthesisConv(f'{size}x{size}/Conv0_up', fmaps, 3, 'up', **conv_args),
                               image_shape(size // 2, num_fmaps(kw, res - 2)))
                self.add_layer(SynthesisConv(f'{size}x{size}/Conv1', fmaps, 3, **conv_args), image_shape(size, fmaps))
            if progressive.is_fixed(kw) and size < kw.resolution:
                continue
            to_rgb = Conv2D(f'ToRGB_lod{resolution_log2 - res}', kw.num_channels, 1, act='linear',
                            use_wscale=kw.use_wscale)
            self.add_layer(to_rgb, image_shape(size, fmaps))
        self.built = True

    def compute(self, dlatents_in, rng=None, **dynamic_kwargs):
        """[N, layers or 1, dlatent_size] -> [N, num_channels, resolution, resolution], about [-1, 1]."""
        kw = self.settings_for(dynamic_kwargs)
        rng = rng or Random()
        resolution_log2 = int(np.log2(kw.resolution))
        record_layer('dlatents_in', dlatents_in.shape)
        dlatents_in = tf.ensure_shape(dlatents_in, [None, *self.input_spec_shapes()[0][1:]])

        dlatents = tf.unstack(dlatents_in, axis=1) if kw.use_styles else [dlatents_in[:, 0]] * self.num_layers
        noises = layer_noises(self, rng, kw, dlatents_in) if kw.use_noise else [None] * len(dlatents)

        def args(idx):
            return dlatents[idx], noises[idx]

        def block(res, x):
            size = 2 ** res
            if size == 4:
                x = self.layer('4x4/Const' if kw.const_input_layer else '4x4/Dense')(*args(0))
                return self.layer('4x4/Conv')(x, *args(1))
            x = self.layer(f'{size}x{size}/Conv0_up')(tf.cast(x, dtype_at(kw, size)), *args(2 * res - 4))
            return self.layer(f'{size}x{size}/Conv1')(x, *args(2 * res - 3))

        def to_rgb(res, x):
            return tf.cast(self.layer(f'ToRGB_lod{resolution_log2 - res}')(x), tf.float32)

        return self.compose(block, to_rgb, resolution_log2, kw)

    def compose(self, block, to_rgb, resolution_log2, kw):
        """Compute the images [N, C, H, W] from the functions `block` and `to_rgb`: see progressive.grow_images."""
        upscales = iter(['Upscale2D', *[f'Upscale2D_{i}' for i in range(1, resolution_log2)]])

        def record(name, x):
            record_op(next(upscales) if name.startswith('Upsample') else name, x)

        lod = None if progressive.is_fixed(self.kw) else tf.convert_to_tensor(self._net.own_vars['lod'])
        x = progressive.grow_images(None, block, to_rgb, resolution_log2, lod, kw.lod_stage, kw.full_resolution, record)
        images = conv.to_nchw(x)
        record_layer('images_out', images.shape)
        return images


class G_style(G_main):
    """Latents and labels -> images, as G_main, with StyleGAN's components and truncation."""

    component_classes = (G_mapping, G_synthesis, *G_main.component_classes)  # The first of a name is taken.
    settings = dict(
        G_main.settings,
        truncation_psi    = 0.7,  # Scale of the distance from the mean of W. 1 or None = no truncation.
        truncation_cutoff = 8,    # Number of layers to truncate. None = no truncation.
        mapping_func      = 'G_mapping',
        synthesis_func    = 'G_synthesis',
    )

    @staticmethod
    def truncate(dlatents, dlatent_avg, psi, cutoff):
        """As the function `truncate`, except that a cutoff of None disables truncation."""
        return dlatents if cutoff is None else truncate(dlatents, dlatent_avg, psi, cutoff)


# ---- Discriminator ----

def conv_args_of(kw):
    """Arguments of the convolutions of a discriminator with these settings."""
    return dict(act=kw.nonlinearity, gain=GAINS[kw.nonlinearity], use_wscale=kw.use_wscale, fused_scale=kw.fused_scale,
                blur_filter=kw.blur_filter)


def append_stddev(x, kw):
    """`minibatch_stddev` of images in the internal layout by the settings of a discriminator, listed as a layer."""
    if not uses_mbstd(kw):
        return x
    size = x.shape[progressive.pixel_axes()[0]]
    return record_op(f'{size}x{size}/MinibatchStddev',
                     minibatch_stddev(x, kw.mbstd_group_size, kw.mbstd_num_features))


def num_stddev_features(kw):
    """Number of feature maps that `append_stddev` appends."""
    return kw.mbstd_num_features if uses_mbstd(kw) else 0


def build_score_layers(net, fmaps, out_fmaps, conv_args):
    """Create the last layers of a discriminator, from features [N, fmaps, 4, 4] to scores."""
    kw = net.kw
    net.add_layer(Conv2D('4x4/Conv', fmaps, 3, **conv_args), image_shape(4, fmaps + num_stddev_features(kw)))
    net.add_layer(Dense('4x4/Dense0', out_fmaps, kw.nonlinearity, GAINS[kw.nonlinearity], use_wscale=kw.use_wscale),
                  image_shape(4, fmaps))
    net.add_layer(Dense('4x4/Dense1', max(kw.label_size, 1), use_wscale=kw.use_wscale), (None, out_fmaps))


def compute_scores(net, kw, x, labels):
    """Features [N, fmaps, 4, 4] in the internal layout -> scores [N, 1].

    A conditional network has one output per class. The score is the sum of the outputs weighted by the labels.
    """
    x = net.layer('4x4/Conv')(append_stddev(x, kw))
    x = net.layer('4x4/Dense0')(x)
    x = net.layer('4x4/Dense1')(x)
    if kw.label_size:
        x = tf.reduce_sum(x * labels, axis=1, keepdims=True)
        record_layer('LabelSwitch', x.shape)
    record_layer('scores_out', x.shape)
    return x


class D_basic(Network):
    """Images and labels -> scores, which are higher for real images (Karras et al. 2018, Table 2)."""

    settings = {
        **STYLEGAN_IMAGE_SETTINGS, **DISCRIMINATOR_SETTINGS, **GROWING_SETTINGS,
        'num_channels': 1,   # The original has other defaults for these two than in all other networks.
        'resolution':   32,
    }
    call_settings = IMAGE_CALL_SETTINGS | set(GROWING_SETTINGS)
    input_names = ('images_in', 'labels_in')
    output_names = ('scores_out',)
    input_spec_shapes = D_stylegan2.input_spec_shapes
    output_spec_shapes = D_stylegan2.output_spec_shapes

    def build(self, input_shape=None):
        kw = self.kw
        check_kwargs(self)
        conv_args, resolution_log2 = conv_args_of(kw), int(np.log2(kw.resolution))
        self.add_var('lod', [], 'zeros')
        for res in range(resolution_log2, 1, -1):
            size, fmaps, out_fmaps = 2 ** res, num_fmaps(kw, res - 1), num_fmaps(kw, res - 2)
            if size == kw.resolution or not progressive.is_fixed(kw):
                self.add_layer(Conv2D(f'FromRGB_lod{resolution_log2 - res}', fmaps, 1, **conv_args),
                               image_shape(size, kw.num_channels))
            if size > 4:
                self.add_layer(Conv2D(f'{size}x{size}/Conv0', fmaps, 3, **conv_args), image_shape(size, fmaps))
                self.add_layer(Conv2D(f'{size}x{size}/Conv1_down', out_fmaps, 3, 'down', **conv_args),
                               image_shape(size, fmaps))
        build_score_layers(self, fmaps, out_fmaps, conv_args)
        self.built = True

    def compute(self, images_in, labels_in, **dynamic_kwargs):
        """[N, C, H, W] at full resolution or that of lod_stage, [N, label_size] -> [N, 1]; see compute_scores."""
        kw = self.settings_for(dynamic_kwargs)
        resolution_log2 = int(np.log2(kw.resolution))
        downscales = iter(['Downscale2D', *[f'Downscale2D_{i}' for i in range(1, resolution_log2)]])
        record_layer('images_in', images_in.shape)
        record_layer('labels_in', labels_in.shape)
        record_layer('lod', ())

        def record(name, x):
            record_op(next(downscales) if name.startswith('Downsample') else name, x)

        return compute_scores(self, kw, compute_growing_features(self, kw, images_in, record), labels_in)
