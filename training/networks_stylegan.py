"""The networks of StyleGAN (Karras et al. 2019, arXiv:1812.04948): configuration A.

G_style = G_mapping + G_synthesis is the generator, D_basic the discriminator. Both grow progressively. Unlike in StyleGAN2, styles
scale and shift instance-normalised features, resampling is nearest-neighbour with a blur, and the gain of an activation sits in
the weights before it.
"""

import keras
import numpy as np
import tensorflow as tf

from custom_ops import conv2d as conv
from custom_ops import fused_bias_act, upfirdn_2d
from dnnlib.tflib import Network, Random
from dnnlib.tflib.network import note_layer
from training import networks_stylegan2
from training.nets import progressive
from training.nets.dtypes import dtype_at
from training.nets.layers import ScopedLayer, bias_act, image_shape, minibatch_stddev, note_op
from training.networks_stylegan2 import check_image_kwargs, layer_noise, truncate

# Gain that goes into the weights before each nonlinearity.
GAINS = {'relu': np.sqrt(2), 'lrelu': np.sqrt(2)}


def num_fmaps(kw, stage):
    """Channels at a stage: fmap_base / 2^(stage * fmap_decay), at most fmap_max."""
    return min(int(kw.fmap_base / 2.0 ** (stage * kw.fmap_decay)), kw.fmap_max)


def check_kwargs(net):
    """ValueError for settings that cannot work."""
    nonlinearity = getattr(net.kw, 'nonlinearity', None) or net.kw.mapping_nonlinearity
    if nonlinearity not in GAINS:
        raise ValueError(f'{net.name}: expected a nonlinearity of {list(GAINS)}, received {nonlinearity!r}')
    if hasattr(net.kw, 'resolution'):
        check_image_kwargs(net)


# ---- Operations on images, in the layout inside ----

def blur2d(x, f):
    """Filter every channel with the normalised outer product of f with itself, zero-padded to keep the size. f None = x."""
    if f is None:
        return x
    k = np.asarray(f, np.float32)
    k = np.outer(k, k)
    pad = len(f) - 1
    x = conv.to_nhwc(x)
    # A correlation, hence the flip; the odd zero of an even filter goes to the right and below, as TensorFlow pads.
    x = upfirdn_2d(x, (k / np.sum(k))[::-1, ::-1], padx0=pad // 2, padx1=pad - pad // 2, pady0=pad // 2, pady1=pad - pad // 2)
    return conv.from_nhwc(x)


def instance_norm(x, epsilon=1e-8):
    """Zero mean and unit variance over the pixels of each image and channel."""
    axes = progressive.pixel_axes()
    x -= tf.reduce_mean(x, axis=axes, keepdims=True)
    return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), axis=axes, keepdims=True) + epsilon)


def pixel_norm(x, epsilon=1e-8):
    """Unit mean square over the channels of each pixel."""
    return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), axis=conv.channel_axis(), keepdims=True) + epsilon)


def spread_kernel(w):
    """Kernel [k, k, in, out] -> [k + 1, k + 1, in, out], the sum of its four shifts: the kernel after a 2x2 box."""
    w = tf.pad(w, [[1, 1], [1, 1], [0, 0], [0, 0]])
    return w[1:, 1:] + w[:-1, 1:] + w[1:, :-1] + w[:-1, :-1]


# ---- Layers ----

class Dense(ScopedLayer):
    """y = act(x @ weight + bias), for x [N, ...], flattened as channels-first.

    Args:
        scope:      Place in the tree of names.
        fmaps:      Number of outputs.
        act:        'linear', 'relu' or 'lrelu'.
        gain:       Standard deviation of the output before the bias, for unit input.
        use_wscale: Equalized learning rate.
        lrmul:      Multiplier of the learning rate of weight and bias.
    """

    def __init__(self, scope, fmaps, act='linear', gain=1.0, use_wscale=True, lrmul=1.0):
        super().__init__(scope)
        self.fmaps, self.act, self.gain, self.use_wscale, self.lrmul = fmaps, act, gain, use_wscale, lrmul

    def get_config(self):
        return {'scope': self.scope, 'fmaps': self.fmaps, 'act': self.act, 'gain': self.gain, 'use_wscale': self.use_wscale,
                'lrmul': self.lrmul}

    def build(self, input_shape):
        self.coef = self.add_equalized('weight', [int(np.prod(input_shape[1:])), self.fmaps], self.lrmul, self.gain, self.use_wscale)
        self.add_var('bias', [self.fmaps])
        self.built = True

    def call(self, x):
        if x.shape.rank > 2:
            x = tf.reshape(conv.to_nchw(x), [-1, self.weight.shape[0]])
        x = fused_bias_act(tf.matmul(x, self.weight * self.coef), self.bias * self.lrmul, act=self.act, gain=1)
        return self.note(x, is_image=False)


class Conv2D(ScopedLayer):
    """Convolution with nearest-neighbour resampling by 2, then bias and activation, unless an epilogue follows.

    Args:
        scope:       Place in the tree of names.
        fmaps:       Number of output channels.
        kernel:      Size of the kernel.
        resample:    'up', 'down' (after a blur) or None.
        act:         Activation. None = neither bias nor activation.
        gain:        Standard deviation of the output before the bias, for unit input.
        use_wscale:  Equalized learning rate.
        fused_scale: Resample inside the convolution? 'auto' = from 128x128 on.
        blur_filter: Filter before 'down'. None = none.
    """

    def __init__(self, scope, fmaps, kernel, resample=None, act=None, gain=1.0, use_wscale=True, fused_scale='auto', blur_filter=None):
        super().__init__(scope)
        self.fmaps, self.kernel, self.resample, self.act = fmaps, kernel, resample, act
        self.gain, self.use_wscale, self.fused_scale = gain, use_wscale, fused_scale
        self.blur_filter = None if blur_filter is None else tuple(blur_filter)

    def get_config(self):
        return {'scope': self.scope, 'fmaps': self.fmaps, 'kernel': self.kernel, 'resample': self.resample, 'act': self.act,
                'gain': self.gain, 'use_wscale': self.use_wscale, 'fused_scale': self.fused_scale, 'blur_filter': self.blur_filter}

    def build(self, input_shape):
        shape = [self.kernel, self.kernel, input_shape[conv.channel_axis()], self.fmaps]
        self.coef = self.add_equalized('weight', shape, gain=self.gain, use_wscale=self.use_wscale)
        if self.act is not None:
            self.add_var('bias', [self.fmaps])
        self.built = True

    def convolve(self, x):
        w = tf.cast(self.weight * self.coef, x.dtype)
        size = x.shape[progressive.pixel_axes()[0]]
        if self.resample == 'up':
            fused = size * 2 >= 128 if self.fused_scale == 'auto' else self.fused_scale
            return conv.conv2d_transpose(x, spread_kernel(w), 2, 'SAME') if fused else conv.conv2d(progressive.upscale(x, 2), w)
        if self.resample == 'down':
            fused = size >= 128 if self.fused_scale == 'auto' else self.fused_scale
            x = blur2d(x, self.blur_filter)
            return conv.conv2d(x, spread_kernel(w) * 0.25, 2) if fused else progressive.downscale(conv.conv2d(x, w), 2)
        return conv.conv2d(x, w)

    def call(self, x):
        x = self.convolve(x)
        return self.note(bias_act(x, None if self.act is None else self.bias, self.act, gain=1))


class Epilogue:
    """What follows each convolution of the synthesis: noise, bias, activation, normalisation, style (Figure 1b).

    Mixed into a layer, whose variables these become: Noise/weight, bias, StyleMod/weight, StyleMod/bias.
    """

    def build_epilogue(self, kw, fmaps):
        self.options = kw
        if kw.use_noise:
            self.add_var('Noise/weight', [fmaps])
        self.add_var('bias', [fmaps])
        if kw.use_styles:
            self.style_coef = self.add_equalized('StyleMod/weight', [kw.dlatent_size, fmaps * 2], use_wscale=kw.use_wscale)
            self.add_var('StyleMod/bias', [fmaps * 2])

    def epilogue(self, x, dlatents, noise):
        """x [N, H, W, C], dlatents [N, dlatent_size], noise [N or 1, 1, H, W] -> [N, H, W, C]."""
        kw, dtype = self.options, x.dtype
        if kw.use_noise:
            x = x + tf.cast(conv.from_nchw(noise) * conv.per_channel(tf.convert_to_tensor(self.Noise_weight)), dtype)
        x = tf.cast(bias_act(x, self.bias, kw.nonlinearity, gain=1), tf.float32)  # For the sums over pixels and channels.
        if kw.use_pixel_norm:
            x = pixel_norm(x)
        if kw.use_instance_norm:
            x = instance_norm(x)
        if kw.use_styles:
            style = tf.matmul(dlatents, self.StyleMod_weight * self.style_coef) + self.StyleMod_bias
            scale, shift = tf.split(style, 2, axis=1)
            x = x * conv.per_channel(scale + 1) + conv.per_channel(shift)
        return self.note(tf.cast(x, dtype))


class ConstBlock(Epilogue, ScopedLayer):
    """4x4/Const: the learned image that synthesis starts from (const [1, C, 4, 4], ones at first), and an epilogue."""

    def __init__(self, scope, fmaps):
        super().__init__(scope)
        self.fmaps = fmaps

    def build(self, kw):
        self.add_var('const', [1, self.fmaps, 4, 4], 'ones')
        self.build_epilogue(kw, self.fmaps)
        self.built = True

    def call(self, dlatents, noise):
        x = tf.tile(conv.from_nchw(tf.convert_to_tensor(self.const)), [tf.shape(dlatents)[0], 1, 1, 1])
        return self.epilogue(tf.ensure_shape(x, image_shape(4, self.fmaps)), dlatents, noise)

    def note(self, x):
        return super().note(x, weight=self.var('Noise/weight') if self.options.use_noise else None)


class DenseBlock(Epilogue, ScopedLayer):
    """4x4/Dense: a first image computed from the dlatents, where it is not learned, and an epilogue."""

    def __init__(self, scope, fmaps, gain):
        super().__init__(scope)
        self.fmaps, self.gain = fmaps, gain

    def build(self, input_shape, kw):
        self.coef = self.add_equalized('weight', [input_shape[1], self.fmaps * 16], gain=self.gain / 4, use_wscale=kw.use_wscale)
        self.build_epilogue(kw, self.fmaps)
        self.built = True

    def call(self, dlatents, noise):
        x = tf.reshape(tf.matmul(dlatents, self.weight * self.coef), [-1, self.fmaps, 4, 4])
        return self.epilogue(conv.from_nchw(x), dlatents, noise)


class SynthesisConv(Epilogue, Conv2D):
    """A convolution of the synthesis network, with a blur where it upsamples, and an epilogue."""

    def build(self, input_shape, kw):
        super().build(input_shape)
        self.build_epilogue(kw, self.fmaps)

    def call(self, x, dlatents, noise):
        x = self.convolve(x)
        if self.resample == 'up':
            x = blur2d(x, self.blur_filter)
        return self.epilogue(x, dlatents, noise)


# ---- Generator ----

class G_style(networks_stylegan2.G_main):
    """Latents and labels -> images, as G_main, with StyleGAN's components and truncation."""

    settings = {
        **networks_stylegan2.G_main.settings,
        'truncation_psi':    0.7,            # scale of the distance from the mean latent; 1 or None = no truncation
        'truncation_cutoff': 8,              # layers that it applies to; None = no truncation
        'mapping_func':      'G_mapping',
        'synthesis_func':    'G_synthesis',
    }

    @staticmethod
    def truncate(dlatents, dlatent_avg, psi, cutoff):
        """As the function `truncate`, but without a cutoff there is no truncation."""
        return dlatents if cutoff is None else truncate(dlatents, dlatent_avg, psi, cutoff)


class G_mapping(networks_stylegan2.G_mapping):
    """Latents Z and labels -> intermediate latents W, as StyleGAN2's, with `use_wscale`."""

    settings = {
        **networks_stylegan2.G_mapping.settings,
        'use_wscale': True,                  # equalized learning rate
    }
    norm_name = 'PixelNorm'

    def check(self):
        check_kwargs(self)

    def dense(self, scope, fmaps):
        kw = self.kw
        return Dense(scope, fmaps, act=kw.mapping_nonlinearity, gain=GAINS[kw.mapping_nonlinearity], use_wscale=kw.use_wscale,
                     lrmul=kw.mapping_lrmul)


class G_synthesis(Network):
    """Intermediate latents, two layers per resolution -> images (Figure 1b)."""

    settings = dict(
        dlatent_size      = 512,        # size of W
        num_channels      = 3,          # channels of the images
        resolution        = 1024,       # width and height of the images
        fmap_base         = 8192,       # channels: see num_fmaps
        fmap_decay        = 1.0,
        fmap_max          = 512,
        use_styles        = True,       # scale and shift features by style
        const_input_layer = True,       # start from a learned image; False = from the first dlatents
        use_noise         = True,       # add noise
        randomize_noise   = True,       # fresh noise for every image; False = the fixed noise0, noise1, ...
        nonlinearity      = 'lrelu',    # 'relu' or 'lrelu'
        use_wscale        = True,       # equalized learning rate
        use_pixel_norm    = False,      # normalise the channels of each pixel
        use_instance_norm = True,       # normalise the pixels of each channel
        dtype             = 'float32',  # in which the highest resolutions compute: see dtype_at
        num_fp16_res      = 4,          # how many of them
        fused_scale       = 'auto',     # resample inside convolutions? 'auto' = from 128x128 on
        blur_filter       = [1, 2, 1],  # filter after upsampling; None = none
        structure         = 'auto',     # chose between equal graphs; accepted, no effect
        is_template_graph = False,      # accepted, no effect
        force_clean_graph = False,      # accepted, no effect
        lod_stage         = None,       # whole part of lod; None = not known, compute for any (training/nets/progressive.py)
        full_resolution   = True,       # repeat the pixels of a coarse stage up to `resolution`
    )
    input_names = ('dlatents_in',)
    output_names = ('images_out',)
    num_layers = networks_stylegan2.G_synthesis_stylegan2.num_layers
    input_spec_shapes = networks_stylegan2.G_synthesis_stylegan2.input_spec_shapes
    output_spec_shapes = networks_stylegan2.G_synthesis_stylegan2.output_spec_shapes

    def build(self, input_shape=None):
        kw = self.kw
        check_kwargs(self)
        gain, resolution_log2 = GAINS[kw.nonlinearity], int(np.log2(kw.resolution))
        conv_args = dict(gain=gain, use_wscale=kw.use_wscale, fused_scale=kw.fused_scale, blur_filter=kw.blur_filter)
        self.add_var('lod', [], 'zeros')
        for idx in range(self.num_layers if kw.use_noise else 0):
            size = 2 ** (idx // 2 + 2)
            self.add_var(f'noise{idx}', [1, 1, size, size], keras.initializers.RandomNormal(0.0, 1.0))
        for res in range(2, resolution_log2 + 1):
            size, fmaps = 2 ** res, num_fmaps(kw, res - 1)
            if size == 4:
                if kw.const_input_layer:
                    self.add_layer(ConstBlock('4x4/Const', fmaps), kw)
                else:
                    self.add_layer(DenseBlock('4x4/Dense', fmaps, gain), (None, kw.dlatent_size), kw)
                self.add_layer(SynthesisConv('4x4/Conv', fmaps, 3, **conv_args), image_shape(4, fmaps), kw)
            else:
                self.add_layer(SynthesisConv(f'{size}x{size}/Conv0_up', fmaps, 3, 'up', **conv_args),
                               image_shape(size // 2, num_fmaps(kw, res - 2)), kw)
                self.add_layer(SynthesisConv(f'{size}x{size}/Conv1', fmaps, 3, **conv_args), image_shape(size, fmaps), kw)
            self.add_layer(Conv2D(f'ToRGB_lod{resolution_log2 - res}', kw.num_channels, 1, act='linear', use_wscale=kw.use_wscale),
                           image_shape(size, fmaps))
        self.built = True

    def call(self, dlatents_in, rng=None, **dynamic_kwargs):
        """[N, layers, dlatent_size] -> [N, num_channels, resolution, resolution], about [-1, 1]."""
        kw = self.settings_for(dynamic_kwargs)
        rng = rng or Random()
        resolution_log2 = int(np.log2(kw.resolution))
        note_layer('dlatents_in', dlatents_in.shape)
        dlatents_in = tf.ensure_shape(dlatents_in, [None, *self.input_spec_shapes()[0][1:]])
        upscales = iter(['Upscale2D', *[f'Upscale2D_{i}' for i in range(1, resolution_log2)]])

        def args(idx, size):
            return dlatents_in[:, idx], layer_noise(self, rng, kw, idx, dlatents_in, size) if kw.use_noise else None

        def block(res, x):
            size = 2 ** res
            if size == 4:
                x = self.layer('4x4/Const' if kw.const_input_layer else '4x4/Dense')(*args(0, 4))
                return self.layer('4x4/Conv')(x, *args(1, 4))
            x = self.layer(f'{size}x{size}/Conv0_up')(tf.cast(x, dtype_at(kw, size)), *args(2 * res - 4, size))
            return self.layer(f'{size}x{size}/Conv1')(x, *args(2 * res - 3, size))

        def to_rgb(res, x):
            return tf.cast(self.layer(f'ToRGB_lod{resolution_log2 - res}')(x), tf.float32)

        def note(name, x):
            note_op(next(upscales) if name.startswith('Upsample') else name, x)

        lod = tf.convert_to_tensor(self._net.own_vars['lod'])
        images = conv.to_nchw(progressive.grow_images(None, block, to_rgb, resolution_log2, lod, kw.lod_stage, kw.full_resolution, note))
        note_layer('images_out', images.shape)
        return images


# ---- Discriminator ----

class D_basic(Network):
    """Images and labels -> scores, higher for what looks real (Karras et al. 2018, Table 2)."""

    settings = dict(
        num_channels       = 1,          # channels of the images
        resolution         = 32,         # width and height of the images
        label_size         = 0,          # size of the labels, 0 = unconditional
        fmap_base          = 8192,       # channels: see num_fmaps
        fmap_decay         = 1.0,
        fmap_max           = 512,
        nonlinearity       = 'lrelu',    # 'relu' or 'lrelu'
        use_wscale         = True,       # equalized learning rate
        mbstd_group_size   = 4,          # images per group of minibatch_stddev; 0 or 1 = without it
        mbstd_num_features = 1,          # channels that it appends
        dtype              = 'float32',  # in which the highest resolutions compute: see dtype_at
        num_fp16_res       = 4,          # how many of them
        fused_scale        = 'auto',     # resample inside convolutions? 'auto' = from 128x128 on
        blur_filter        = [1, 2, 1],  # filter before downsampling; None = none
        structure          = 'auto',     # chose between equal graphs; accepted, no effect
        is_template_graph  = False,      # accepted, no effect
        lod_stage          = None,       # whole part of lod; None = not known, compute for any (training/nets/progressive.py)
    )
    input_names = ('images_in', 'labels_in')
    output_names = ('scores_out',)
    input_spec_shapes = networks_stylegan2.D_stylegan2.input_spec_shapes
    output_spec_shapes = networks_stylegan2.D_stylegan2.output_spec_shapes

    def build(self, input_shape=None):
        kw = self.kw
        check_kwargs(self)
        gain, resolution_log2 = GAINS[kw.nonlinearity], int(np.log2(kw.resolution))
        dense_args = dict(use_wscale=kw.use_wscale)
        conv_args = dict(act=kw.nonlinearity, gain=gain, use_wscale=kw.use_wscale, fused_scale=kw.fused_scale, blur_filter=kw.blur_filter)
        self.add_var('lod', [], 'zeros')
        for res in range(resolution_log2, 1, -1):
            size, fmaps, out_fmaps = 2 ** res, num_fmaps(kw, res - 1), num_fmaps(kw, res - 2)
            self.add_layer(Conv2D(f'FromRGB_lod{resolution_log2 - res}', fmaps, 1, **conv_args), image_shape(size, kw.num_channels))
            if size > 4:
                self.add_layer(Conv2D(f'{size}x{size}/Conv0', fmaps, 3, **conv_args), image_shape(size, fmaps))
                self.add_layer(Conv2D(f'{size}x{size}/Conv1_down', out_fmaps, 3, 'down', **conv_args), image_shape(size, fmaps))
        features = fmaps + (kw.mbstd_num_features if kw.mbstd_group_size > 1 else 0)
        self.add_layer(Conv2D('4x4/Conv', fmaps, 3, **conv_args), image_shape(4, features))
        self.add_layer(Dense('4x4/Dense0', out_fmaps, kw.nonlinearity, gain, **dense_args), image_shape(4, fmaps))
        self.add_layer(Dense('4x4/Dense1', max(kw.label_size, 1), **dense_args), (None, out_fmaps))
        self.built = True

    def call(self, images_in, labels_in, **dynamic_kwargs):
        """[N, C, H, W] (full resolution, or that of lod_stage), [N, label_size] -> [N, 1]. With labels: the sum weighted by them."""
        kw = self.settings_for(dynamic_kwargs)
        resolution_log2 = int(np.log2(kw.resolution))
        downscales = iter(['Downscale2D', *[f'Downscale2D_{i}' for i in range(1, resolution_log2)]])
        note_layer('images_in', images_in.shape)
        note_layer('labels_in', labels_in.shape)
        note_layer('lod', ())

        def block(res, x):
            x = self.layer(f'{2 ** res}x{2 ** res}/Conv0')(x)
            return tf.cast(self.layer(f'{2 ** res}x{2 ** res}/Conv1_down')(x), dtype_at(kw, 2 ** (res - 1)))

        def from_rgb(res, images):
            return self.layer(f'FromRGB_lod{resolution_log2 - res}')(tf.cast(images, dtype_at(kw, 2 ** res)))

        def note(name, x):
            note_op(next(downscales) if name.startswith('Downsample') else name, x)

        lod = tf.convert_to_tensor(self._net.own_vars['lod'])
        x = progressive.shrink_images(conv.from_nchw(images_in), block, from_rgb, resolution_log2, lod, kw.lod_stage, note)
        if kw.mbstd_group_size > 1:
            x = note_op('4x4/MinibatchStddev', minibatch_stddev(x, kw.mbstd_group_size, kw.mbstd_num_features))
        x = self.layer('4x4/Conv')(x)
        x = self.layer('4x4/Dense0')(x)
        x = self.layer('4x4/Dense1')(x)
        if kw.label_size:
            x = tf.reduce_sum(x * labels_in, axis=1, keepdims=True)
            note_layer('LabelSwitch', x.shape)
        note_layer('scores_out', x.shape)
        return x
