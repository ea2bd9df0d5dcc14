"""The networks of StyleGAN2 (Karras et al. 2020, arXiv:1912.04958).

The generator G_main consists of G_mapping and a synthesis network. G_synthesis_stylegan2 and D_stylegan2 are the
networks of configurations E and F. Their `architecture` is one of the three in Figure 7: 'orig' is feed-forward, 'skip'
sums the RGB images of all resolutions, 'resnet' has residual blocks. G_synthesis_stylegan_revised and D_stylegan are
the networks of configurations B to D, which grow progressively.
"""

import re

import keras
import numpy as np
import tensorflow as tf

from custom_ops import ACTIVATIONS, downsample_2d, upsample_2d
from custom_ops import conv2d as conv
from dnnlib.tflib import Network, Random, lerp
from dnnlib.tflib.layer_list import layer_prefix, record_layer
from training.nets import progressive
from training.nets.dtypes import dtype_at
from training.nets.layers import (
    Const,
    Conv2D,
    Dense,
    ModulatedConv2D,
    ScopedLayer,
    image_shape,
    minibatch_stddev,
    modulate,
    normalize_2nd_moment,
    record_op,
)

# ---- Settings shared by several networks ----

# Of all networks on images.
IMAGE_SETTINGS = dict(
    num_channels      = 3,          # Channels of the images.
    resolution        = 1024,       # Width and height of the images.
    fmap_base         = 16 << 10,   # Number of feature maps: see num_fmaps.
    fmap_decay        = 1.0,        # See num_fmaps.
    fmap_max          = 512,        # Largest number of feature maps.
    nonlinearity      = 'lrelu',    # Activation, a key of custom_ops.ACTIVATIONS.
    dtype             = 'float32',  # Type of activations at the highest resolutions: see dtype_at.
    num_fp16_res      = 4,          # Number of these resolutions.
)
IMAGE_CALL_SETTINGS = frozenset({'dtype', 'num_fp16_res'})

# Of StyleGAN2's networks on images.
STYLEGAN2_SETTINGS = dict(
    IMAGE_SETTINGS,
    fmap_min          = 1,             # Smallest number of feature maps.
    resample_kernel   = [1, 3, 3, 1],  # Filter for upsampling and downsampling. None = box. [1] = none (StyleGAN2-ADA).
    conv_clamp        = None,          # Largest magnitude of activations of convolutions. None = unlimited, but 256 in
                                       # half precision.
)

# Of synthesis networks.
SYNTHESIS_SETTINGS = dict(
    dlatent_size      = 512,   # Size of W.
    randomize_noise   = True,  # True = new noise for every image. False = the stored noise0, noise1, ...
)
SYNTHESIS_CALL_SETTINGS = IMAGE_CALL_SETTINGS | {'randomize_noise'}

# Of discriminators.
DISCRIMINATOR_SETTINGS = dict(
    label_size         = 0,  # Size of the labels. 0 = unconditional.
    mbstd_group_size   = 4,  # Images per group of minibatch_stddev. 0 or 1 = do not use it. None = the minibatch.
    mbstd_num_features = 1,  # Number of feature maps that it appends.
)

# Of StyleGAN2's discriminators: the last layers, and the projection discriminator of StyleGAN2-ADA (see embed_labels).
SCORE_SETTINGS = dict(
    DISCRIMINATOR_SETTINGS,
    dense_fmaps           = None,     # Width of 4x4/Dense0. None = num_fmaps of stage 0.
    epilogue_nonlinearity = None,     # Activation of the layers at 4x4. None = nonlinearity.
    label_embed           = False,    # Multiply the outputs by an embedding of the labels. False = by the labels.
    label_fmaps           = None,     # Width of LabelEmbed. None = mapping_fmaps.
    mapping_layers        = 0,        # Number of layers after LabelEmbed.
    mapping_fmaps         = None,     # Their width. None = num_fmaps of stage 0.
    mapping_lrmul         = 0.1,      # Multiplier of their learning rate.
    mapping_nonlinearity  = 'lrelu',  # Their activation, a key of custom_ops.ACTIVATIONS.
    cmap_dim              = None,     # Width of the last one, and number of outputs. None = mapping_fmaps.
)

# Of networks that grow progressively.
GROWING_SETTINGS = dict(
    lod_stage         = None,    # Integer part of lod. None = unknown: compute for any (training/nets/progressive.py).
    structure         = 'auto',  # 'fixed' = do not grow. The others were equivalent graphs in the original.
    is_template_graph = False,   # Has no effect.
)
GROWING_SYNTHESIS_SETTINGS = dict(
    GROWING_SETTINGS,
    full_resolution   = True,    # Upsample the images of a coarse stage to `resolution`.
    force_clean_graph = False,   # Has no effect.
)

# ---- Helpers ----

def num_fmaps(kw, stage: int) -> int:
    """Number of feature maps at a stage: fmap_base / 2^(stage * fmap_decay), clipped to fmap_min .. fmap_max."""
    return int(np.clip(int(kw.fmap_base / 2.0 ** (stage * kw.fmap_decay)), kw.fmap_min, kw.fmap_max))


def check_image_kwargs(net, architectures=None):
    """Raise a ValueError if settings of a network on images are invalid.

    Args:
        net:           Network.
        architectures: Valid values of `architecture`. None = the network has no such setting.
    """
    kw = net.kw
    if kw.resolution < 4 or kw.resolution & (kw.resolution - 1):
        raise ValueError(f'{net.name}: expected a resolution that is a power of two of at least 4, '
                         f'received {kw.resolution}')
    if architectures and kw.architecture not in architectures:
        raise ValueError(f'{net.name}: expected an architecture of {architectures}, received {kw.architecture!r}')
    for name in ('nonlinearity', 'epilogue_nonlinearity', 'mapping_nonlinearity'):
        act = getattr(kw, name, None) or getattr(kw, 'nonlinearity', 'linear')  # ProGAN has no such setting.
        if act not in ACTIVATIONS:
            raise ValueError(f'{net.name}: expected a {name} of {list(ACTIVATIONS)}, received {act!r}')
    if kw.dtype != 'float32':
        raise ValueError(f"{net.name}: expected dtype 'float32', received {kw.dtype!r}. "
                         'Other types can be given for a single call.')


# ---- Generator: mapping ----

class G_mapping(Network):
    """Latents Z and labels -> intermediate latents W: an MLP (Karras et al. 2019, arXiv:1812.04948, Section 2)."""

    settings = dict(
        latent_size          = 512,        # Size of Z.
        label_size           = 0,          # Size of the labels. 0 = unconditional.
        dlatent_size         = 512,        # Size of W.
        dlatent_broadcast    = None,       # Number of layers to repeat W for. None = return [N, dlatent_size].
        mapping_layers       = 8,          # Number of layers.
        mapping_fmaps        = 512,        # Width of the hidden layers. None = dlatent_size.
        mapping_lrmul        = 0.01,       # Multiplier of the learning rate.
        mapping_nonlinearity = 'lrelu',    # Activation, a key of custom_ops.ACTIVATIONS.
        normalize_latents    = True,       # Scale the latents to unit mean square first.
        label_embed          = False,      # Labels as in StyleGAN2-ADA: embedded by a layer with bias, and scaled to
                                           # unit mean square like the latents, before the two are concatenated.
        label_fmaps          = None,       # Width of this layer. None = latent_size.
        dtype                = 'float32',  # Always.
    )
    call_settings = frozenset({'normalize_latents', 'dtype'})
    input_names = ('latents_in', 'labels_in')
    output_names = ('dlatents_out',)
    norm_name = 'Normalize'  # Name of the normalization in the list of layers.

    def check(self):
        """Raise a ValueError if settings are invalid."""
        if self.kw.mapping_nonlinearity not in ACTIVATIONS:
            raise ValueError(f'{self.name}: expected mapping_nonlinearity of {list(ACTIVATIONS)}, '
                             f'received {self.kw.mapping_nonlinearity!r}')

    def dense(self, scope, fmaps):
        return Dense(scope, fmaps, act=self.kw.mapping_nonlinearity, lrmul=self.kw.mapping_lrmul)

    def build(self, input_shape=None):
        kw = self.kw
        self.check()
        size = kw.latent_size
        if kw.label_size:
            label_fmaps = kw.latent_size
            if kw.label_embed:
                label_fmaps = kw.label_fmaps or kw.latent_size
                self.add_layer(Dense('LabelEmbed', label_fmaps), (None, kw.label_size))
            else:
                self.add_layer(LabelConcat('LabelConcat', label_fmaps), (None, kw.label_size))
            size += label_fmaps
        for idx in range(kw.mapping_layers):
            fmaps = kw.dlatent_size if idx == kw.mapping_layers - 1 else kw.mapping_fmaps or kw.dlatent_size
            self.add_layer(self.dense(f'Dense{idx}', fmaps), (None, size))
            size = fmaps
        self.built = True

    def input_spec_shapes(self):
        return (None, self.kw.latent_size), (None, self.kw.label_size)

    def output_spec_shapes(self):
        kw = self.kw
        if kw.dlatent_broadcast is None:
            return ((None, kw.dlatent_size),)
        return ((None, kw.dlatent_broadcast, kw.dlatent_size),)

    def compute(self, latents_in, labels_in, **dynamic_kwargs):
        """[N, latent_size], [N, label_size] -> [N, dlatent_broadcast, dlatent_size] float32."""
        kw = self.settings_for(dynamic_kwargs)
        record_layer('latents_in', latents_in.shape)
        record_layer('labels_in', labels_in.shape)
        x = tf.ensure_shape(latents_in, [None, kw.latent_size])
        if kw.label_size and not kw.label_embed:
            x = self.layer('LabelConcat')(x, labels_in)
        if kw.normalize_latents:
            x = normalize_2nd_moment(x)
            record_layer(self.norm_name, x.shape)
        if kw.label_size and kw.label_embed:
            x = tf.concat([x, normalize_2nd_moment(self.layer('LabelEmbed')(labels_in))], axis=1)
            record_layer('Concat', x.shape)
        for idx in range(kw.mapping_layers):
            x = self.layer(f'Dense{idx}')(x)
        if kw.dlatent_broadcast is not None:
            x = tf.tile(x[:, tf.newaxis], [1, kw.dlatent_broadcast, 1])
            record_layer('Broadcast', x.shape)
        record_layer('dlatents_out', x.shape)
        return x


class LabelConcat(ScopedLayer):
    """Append labels @ weight to the latents: [N, latent], [N, labels] -> [N, 2 * latent]."""

    def __init__(self, scope, fmaps):
        super().__init__(scope)
        self.fmaps = fmaps

    def get_config(self):
        return {'scope': self.scope, 'fmaps': self.fmaps}

    def build(self, labels_shape):
        self.add_var('weight', [labels_shape[1], self.fmaps], keras.initializers.RandomNormal(0.0, 1.0))
        self.built = True

    def call(self, latents, labels):
        return self.record(tf.concat([latents, tf.matmul(labels, self.weight)], axis=1), is_image=False)


# ---- Generator: synthesis ----

class G_synthesis_stylegan2(Network):
    """W -> images (Figures 2c and 7).

    W has one vector per layer: layers 0, 1, 2, ... are 4x4/Conv, 8x8/Conv0_up, 8x8/Conv1, ...
    """

    settings = dict(
        STYLEGAN2_SETTINGS, **SYNTHESIS_SETTINGS,
        architecture   = 'skip',  # 'orig', 'skip' or 'resnet'.
        use_noise      = True,    # Add noise.
        fmap_const     = None,    # Number of feature maps of the learned input. None = as many as of 4x4/Conv.
        fused_modconv  = True,    # Has no effect. In the original it chose between two equivalent computations.
        max_resolution = None,    # Return the sum of the RGB images up to this resolution; needs 'skip'. None = of all.
    )
    call_settings = SYNTHESIS_CALL_SETTINGS | {'fused_modconv', 'max_resolution'}
    input_names = ('dlatents_in',)
    output_names = ('images_out',)

    @property
    def num_layers(self):
        """Number of layers that have a style, including the last ToRGB."""
        return 2 * int(np.log2(self.kw.resolution)) - 2

    def build(self, input_shape=None):
        kw = self.kw
        check_image_kwargs(self, ('orig', 'skip', 'resnet'))
        if kw.use_noise:
            add_noise_vars(self, [2 ** ((idx + 5) // 2) for idx in range(self.num_layers - 1)])
        w_shape = (None, kw.dlatent_size)
        conv_args = dict(act=kw.nonlinearity, resample_kernel=kw.resample_kernel, noise=kw.use_noise,
                         clamp=kw.conv_clamp)
        fmaps, const_fmaps = num_fmaps(kw, 1), kw.fmap_const or num_fmaps(kw, 1)
        self.add_layer(Const('4x4/Const', const_fmaps), self.input_spec_shapes()[0])
        size = 4
        while True:
            stage, last = int(np.log2(size)) - 1, size == kw.resolution
            if size == 4:
                self.add_layer(ModulatedConv2D('4x4/Conv', fmaps, 3, **conv_args), image_shape(4, const_fmaps), w_shape)
            else:
                in_fmaps, fmaps = fmaps, num_fmaps(kw, stage)
                self.add_layer(ModulatedConv2D(f'{size}x{size}/Conv0_up', fmaps, 3, up=True, **conv_args),
                               image_shape(size // 2, in_fmaps), w_shape)
                self.add_layer(ModulatedConv2D(f'{size}x{size}/Conv1', fmaps, 3, **conv_args),
                               image_shape(size, fmaps), w_shape)
                if kw.architecture == 'resnet':
                    self.add_layer(Conv2D(f'{size}x{size}/Skip', fmaps, 1, up=True, resample_kernel=kw.resample_kernel),
                                   image_shape(size // 2, in_fmaps))
            if kw.architecture == 'skip' or last:
                to_rgb = ModulatedConv2D(f'{size}x{size}/ToRGB', kw.num_channels, 1, demodulate=False, noise=False,
                                         clamp=kw.conv_clamp)
                self.add_layer(to_rgb, image_shape(size, fmaps), w_shape)
            if last:
                break
            size *= 2
        self.built = True

    def input_spec_shapes(self):
        return ((None, self.num_layers, self.kw.dlatent_size),)

    def output_spec_shapes(self):
        return ((None, self.kw.num_channels, self.kw.resolution, self.kw.resolution),)

    def compute(self, dlatents_in, rng=None, **dynamic_kwargs):
        """[N, layers, dlatent_size] -> [N, num_channels, resolution, resolution], about [-1, 1]. See max_resolution."""
        kw = self.settings_for(dynamic_kwargs)
        rng = rng or Random()
        record_layer('dlatents_in', dlatents_in.shape)
        dlatents_in = tf.ensure_shape(dlatents_in, [None, *self.input_spec_shapes()[0][1:]])

        last = kw.max_resolution or kw.resolution
        if last != kw.resolution and (kw.architecture != 'skip' or f'{last}x{last}/ToRGB' not in self._net.layers):
            raise ValueError(f"{self.name}: received max_resolution={last}; expected, with architecture='skip', a "
                             f'power of two from 4 to {kw.resolution}')
        styles = layer_styles(self, kw, dlatents_in, last)
        noises = layer_noises(self, rng, kw, dlatents_in) if kw.use_noise else [None] * self.num_layers

        def style_layer(scope, x, idx):
            return self.layer(scope)(x, *styles[scope], noises[idx])

        x = self.layer('4x4/Const')(dlatents_in)
        x = style_layer('4x4/Conv', x, 0)
        y = None
        if kw.architecture == 'skip' or kw.resolution == 4:
            y = self.layer('4x4/ToRGB')(x, *styles['4x4/ToRGB'])
        for res in range(3, int(np.log2(last)) + 1):
            size = 2 ** res
            block_in = tf.cast(x, dtype_at(kw, size))
            x = style_layer(f'{size}x{size}/Conv0_up', block_in, 2 * res - 5)
            x = style_layer(f'{size}x{size}/Conv1', x, 2 * res - 4)
            if kw.architecture == 'resnet':
                x = (x + self.layer(f'{size}x{size}/Skip')(block_in)) * (1 / np.sqrt(2))
            if kw.architecture == 'skip':
                y = upsample_2d(y, k=kw.resample_kernel, data_format=conv.image_format())
                y = record_op(f'{size}x{size}/Upsample', y)
            if kw.architecture == 'skip' or size == kw.resolution:
                rgb = self.layer(f'{size}x{size}/ToRGB')(x, *styles[f'{size}x{size}/ToRGB'])
                y = tf.cast(rgb, tf.float32) if y is None else y + tf.cast(rgb, tf.float32)
        images = conv.to_nchw(y)
        record_layer('images_out', images.shape)
        return images


class G_synthesis_stylegan_revised(Network):
    """The layers of G_synthesis_stylegan2 without skip connections, growing progressively (configurations B to D)."""

    settings = dict(
        STYLEGAN2_SETTINGS, **SYNTHESIS_SETTINGS, **GROWING_SYNTHESIS_SETTINGS,
        fused_modconv = True,  # Has no effect. In the original it chose between two equivalent computations.
    )
    call_settings = SYNTHESIS_CALL_SETTINGS | {'fused_modconv', *GROWING_SYNTHESIS_SETTINGS}
    input_names = ('dlatents_in',)
    output_names = ('images_out',)
    num_layers = G_synthesis_stylegan2.num_layers
    input_spec_shapes = G_synthesis_stylegan2.input_spec_shapes
    output_spec_shapes = G_synthesis_stylegan2.output_spec_shapes

    def build(self, input_shape=None):
        kw = self.kw
        check_image_kwargs(self)
        resolution_log2 = int(np.log2(kw.resolution))
        self.add_var('lod', [], 'zeros')
        add_noise_vars(self, [2 ** ((idx + 5) // 2) for idx in range(self.num_layers - 1)])
        w_shape = (None, kw.dlatent_size)
        conv_args = dict(act=kw.nonlinearity, resample_kernel=kw.resample_kernel, clamp=kw.conv_clamp)
        self.add_layer(Const('4x4/Const', num_fmaps(kw, 1)), self.input_spec_shapes()[0])
        for res in range(2, resolution_log2 + 1):
            size, fmaps = 2 ** res, num_fmaps(kw, res - 1)
            if size == 4:
                self.add_layer(ModulatedConv2D('4x4/Conv', fmaps, 3, **conv_args), image_shape(4, fmaps), w_shape)
            else:
                self.add_layer(ModulatedConv2D(f'{size}x{size}/Conv0_up', fmaps, 3, up=True, **conv_args),
                               image_shape(size // 2, num_fmaps(kw, res - 2)), w_shape)
                self.add_layer(ModulatedConv2D(f'{size}x{size}/Conv1', fmaps, 3, **conv_args),
                               image_shape(size, fmaps), w_shape)
            if progressive.is_fixed(kw) and size < kw.resolution:
                continue
            to_rgb = ModulatedConv2D(f'ToRGB_lod{resolution_log2 - res}', kw.num_channels, 1, demodulate=False,
                                     noise=False, clamp=kw.conv_clamp)
            self.add_layer(to_rgb, image_shape(size, fmaps), w_shape)
        self.built = True

    def compute(self, dlatents_in, rng=None, **dynamic_kwargs):
        """[N, layers, dlatent_size] -> [N, num_channels, resolution, resolution], about [-1, 1]."""
        kw = self.settings_for(dynamic_kwargs)
        rng = rng or Random()
        resolution_log2 = int(np.log2(kw.resolution))
        record_layer('dlatents_in', dlatents_in.shape)
        dlatents_in = tf.ensure_shape(dlatents_in, [None, *self.input_spec_shapes()[0][1:]])

        styles = layer_styles(self, kw, dlatents_in, kw.resolution >> (kw.lod_stage or 0))
        noises = layer_noises(self, rng, kw, dlatents_in)

        def style_layer(scope, x, idx):
            return self.layer(scope)(x, *styles[scope], noises[idx])

        def block(res, x):
            size = 2 ** res
            if size == 4:
                return style_layer('4x4/Conv', x, 0)
            x = style_layer(f'{size}x{size}/Conv0_up', tf.cast(x, dtype_at(kw, size)), 2 * res - 5)
            return style_layer(f'{size}x{size}/Conv1', x, 2 * res - 4)

        def to_rgb(res, x):
            scope = f'ToRGB_lod{resolution_log2 - res}'
            return tf.cast(self.layer(scope)(x, *styles[scope]), tf.float32)

        lod = None if progressive.is_fixed(self.kw) else tf.convert_to_tensor(self._net.own_vars['lod'])
        x = self.layer('4x4/Const')(dlatents_in)
        x = progressive.grow_images(x, block, to_rgb, resolution_log2, lod, kw.lod_stage, kw.full_resolution, record_op)
        images = conv.to_nchw(x)
        record_layer('images_out', images.shape)
        return images


def add_noise_vars(net, sizes):
    """Create the variables noise0, noise1, ... [1, 1, size, size] of a synthesis network."""
    for idx, size in enumerate(sizes):
        net.add_var(f'noise{idx}', [1, 1, size, size], keras.initializers.RandomNormal(0.0, 1.0))


def layer_styles(net, kw, dlatents, resolution):
    """Styles and demodulation factors of the layers of a synthesis network, as `modulate` returns them.

    Args:
        net:        Network whose convolutions with styles are in order, each followed by its ToRGB, if it has one.
        kw:         Its settings for this call.
        dlatents:   [N, layers, dlatent_size]. A ToRGB shares its layer of W with the convolution after it.
        resolution: Largest resolution of the layers that are needed.

    Returns:
        {scope: (style, demodulation)}.
    """
    per_layer, layers, indices, dtypes = tf.unstack(dlatents, axis=1), [], [], []
    index = 0
    for layer in net._net.layers.values():
        if isinstance(layer, ModulatedConv2D):
            size = 2 ** ((index + (5 if layer.has_own_style else 4)) // 2)
            if size <= resolution:
                layers.append(layer)
                indices.append(index)
                dtypes.append(tf.as_dtype(dtype_at(kw, size)))
            index += layer.has_own_style
    styles = modulate(layers, [per_layer[i] for i in indices], dtypes)
    return {layer.scope: style for layer, style in zip(layers, styles, strict=True)}


def layer_noises(net, rng, kw, dlatents):
    """Noise of the layers of a synthesis network, in order, as [N, 1, size, size] for dlatents [N, ...].

    Layers beyond kw.lod_stage, if the network grows, are left out. Without kw.randomize_noise it is the stored noise.
    """
    largest = kw.resolution >> (getattr(kw, 'lod_stage', None) or 0)
    stored = {name: var for name, var in net.own_vars.items() if re.fullmatch(r'noise\d+', name)}
    stored = {name: var for name, var in stored.items() if var.shape[-1] <= largest}
    if not kw.randomize_noise:
        return [tf.convert_to_tensor(var) for var in stored.values()]
    sizes = {name: int(var.shape[-1]) for name, var in stored.items()}
    return list(rng.noises(sizes, tf.shape(dlatents)[0]).values()) if sizes else []


# ---- Generator: both parts ----

class G_main(Network):
    """Latents and labels -> images: mapping, then style mixing or truncation, then synthesis.

    Besides its own settings it has those of its two components, both at creation and per call.
    """

    component_classes = (G_mapping, G_synthesis_stylegan2, G_synthesis_stylegan_revised)  # Choices for *_func below.
    settings = dict(
        truncation_psi        = 0.5,    # Scale of the distance from the mean of W. 1 or None = no truncation.
        truncation_cutoff     = None,   # Number of layers to truncate. None = all.
        truncation_psi_val    = None,   # truncation_psi for is_validation. None = no truncation.
        truncation_cutoff_val = None,   # truncation_cutoff for is_validation. None = all.
        dlatent_avg_beta      = 0.995,  # Decay of the moving average of W in training. None = do not update it.
        style_mixing_prob     = 0.9,    # Probability of style mixing in training. None = never.
        is_training           = False,  # Mix styles, update dlatent_avg, and do not truncate.
        is_validation         = False,  # Use the *_val settings.
        return_dlatents       = False,  # Return (images, dlatents).
        is_template_graph     = False,  # Has no effect.
        mapping_func          = 'G_mapping',              # Name of the class of the mapping network.
        synthesis_func        = 'G_synthesis_stylegan2',  # Name of the class of the synthesis network.
    )
    call_settings = frozenset(settings) - {'mapping_func', 'synthesis_func'}
    input_names = ('latents_in', 'labels_in')
    output_names = ('images_out',)
    grows = True  # Has it the variable lod, which only matters if the synthesis network grows?

    @classmethod
    def all_settings(cls, static_kwargs):
        components = [cls.component_class(key, static_kwargs) for key in ('mapping', 'synthesis')]
        return set(cls.settings).union(*(component.settings for component in components))

    @classmethod
    def all_call_settings(cls, static_kwargs):
        components = [cls.component_class(key, static_kwargs) for key in ('mapping', 'synthesis')]
        return set(cls.call_settings).union(*(component.call_settings for component in components))

    @classmethod
    def component_class(cls, key: str, static_kwargs: dict) -> type[Network]:
        """Class of a component.

        Args:
            key:           'mapping' or 'synthesis'.
            static_kwargs: Arguments of the generator. Their mapping_func and synthesis_func may include a module, as in
                           'training.networks_stylegan2.G_mapping'.

        Raises:
            ValueError: The generator has no such component.
        """
        func_name = static_kwargs.get(f'{key}_func', cls.settings[f'{key}_func'])
        for component in cls.component_classes:
            if func_name in (component.__name__, f'{component.__module__}.{component.__name__}'):
                return component
        names = sorted({component.__name__ for component in cls.component_classes})
        raise ValueError(f'unknown network {key}_func={func_name!r}; known are {names}')

    def build(self, input_shape=None):
        kwargs = self.static_kwargs
        synthesis = self.component_class('synthesis', kwargs)('G_synthesis', ignore_unknown=True, **kwargs)
        mapping = self.component_class('mapping', kwargs)(
            'G_mapping', ignore_unknown=True, **{'dlatent_broadcast': synthesis.input_shape[1], **kwargs})
        if self.grows:
            self.add_var('lod', [], 'zeros')
        self.add_var('dlatent_avg', [mapping.kw.dlatent_size], 'zeros')
        self.add_component('synthesis', synthesis)
        self.add_component('mapping', mapping)
        self.built = True

    def input_spec_shapes(self):
        return self.components.mapping.input_spec_shapes()

    def output_spec_shapes(self):
        return self.components.synthesis.output_spec_shapes()

    def compute(self, latents_in, labels_in, rng=None, **dynamic_kwargs):
        """[N, latent_size], [N, label_size] -> images [N, C, H, W].

        With return_dlatents the result is (images, dlatents [N, layers, dlatent_size]).
        """
        kw = self.settings_for(dynamic_kwargs)
        if kw.is_training and kw.is_validation:
            raise ValueError(f'{self.name}: is_training and is_validation cannot both be set')
        rng = rng or Random()
        mapping, synthesis = self.components.mapping, self.components.synthesis
        dlatent_avg = self._net.own_vars['dlatent_avg']
        if 'lod' in synthesis.own_vars:
            synthesis.own_vars['lod'].assign(tf.convert_to_tensor(self._net.own_vars['lod']))
        record_layer('latents_in', latents_in.shape)
        record_layer('labels_in', labels_in.shape)
        if self.grows:
            record_layer('lod', ())
        record_layer('dlatent_avg', dlatent_avg.shape)

        mixes = kw.is_training and kw.style_mixing_prob  # None and 0 mean the same.
        with layer_prefix('G_mapping'):
            if mixes:  # The second latents are mapped together with the first: half as many operations.
                latents2 = rng.normal('latents2', tf.shape(latents_in))
                both = mapping(tf.concat([latents_in, latents2], axis=0), tf.concat([labels_in] * 2, axis=0),
                               **dynamic_kwargs)
                dlatents, dlatents2 = tf.split(both, 2)
            else:
                dlatents = mapping(latents_in, labels_in, **dynamic_kwargs)
        if kw.is_training and kw.dlatent_avg_beta is not None:
            batch_avg = tf.reduce_mean(dlatents[:, 0], axis=0)
            dlatent_avg.assign(lerp(batch_avg, tf.convert_to_tensor(dlatent_avg), kw.dlatent_avg_beta))
        if mixes:
            dlatents = self._mix_styles(dlatents, dlatents2, kw.style_mixing_prob, rng, dynamic_kwargs.get('lod_stage'))
        if not kw.is_training:
            psi = kw.truncation_psi_val if kw.is_validation else kw.truncation_psi
            cutoff = kw.truncation_cutoff_val if kw.is_validation else kw.truncation_cutoff
            dlatents = self.truncate(dlatents, tf.convert_to_tensor(dlatent_avg), psi, cutoff)

        with layer_prefix('G_synthesis'):
            images = synthesis(dlatents, rng=rng, **dynamic_kwargs)
            for name, var in synthesis.own_vars.items():
                if '/' not in name:
                    record_layer(name, var.shape)
        record_layer('images_out', (images[-1] if isinstance(images, tuple) else images).shape)
        return (images, dlatents) if kw.return_dlatents else images

    @staticmethod
    def truncate(dlatents, dlatent_avg, psi, cutoff):
        """Call the function `truncate`. G_style overrides this method."""
        return truncate(dlatents, dlatent_avg, psi, cutoff)

    def _mix_styles(self, dlatents, dlatents2, prob, rng, stage):
        """With probability `prob`, take the styles of all layers from a random one on from `dlatents2`.

        Layers beyond the stage, the integer part of lod, do not count. If that is known when the function is traced,
        the host need not wait until it has read it from the device.
        """
        num_layers = dlatents.shape[1]
        if stage is None and 'lod_stage' in self.known_kwargs():
            stage = tf.cast(tf.convert_to_tensor(self._net.own_vars['lod']), tf.int32)
        cur_layers = num_layers - 2 * (0 if stage is None else stage)
        is_mixed = rng.uniform('mix_u', []) < prob
        # Integers are compared on the host, floats on the device.
        cutoff = tf.cast(rng.integers('mix_cutoff', [], 1, cur_layers), tf.float32)
        cutoff = tf.where(is_mixed, cutoff, tf.cast(cur_layers, tf.float32))
        layers = tf.range(num_layers, dtype=tf.float32)[tf.newaxis, :, tf.newaxis]
        return tf.where(layers < cutoff, dlatents, dlatents2)


def truncate(dlatents: tf.Tensor, dlatent_avg: tf.Tensor, psi, cutoff: int | None) -> tf.Tensor:
    """Truncation trick: move dlatents towards their mean (Karras et al. 2019, arXiv:1812.04948, Appendix B).

    Args:
        dlatents:    [N, layers, dlatent_size].
        dlatent_avg: Mean of W, [dlatent_size].
        psi:         Scale of the distance from the mean, a number or scalar tensor. None or 1 = do not truncate.
        cutoff:      Number of layers, from the first on, to truncate. None = all.

    Returns:
        [N, layers, dlatent_size].
    """
    if psi is None or (isinstance(psi, (int, float, np.number)) and psi == 1):
        return dlatents
    if cutoff is None:
        dlatents = lerp(dlatent_avg, dlatents, psi)
        record_layer('Truncation/Lerp', dlatents.shape)
        return dlatents
    layer_idx = tf.range(dlatents.shape[1])[tf.newaxis, :, tf.newaxis]
    coefs = tf.where(layer_idx < tf.cast(cutoff, tf.int32), tf.cast(psi, tf.float32), 1.0)
    dlatents = lerp(dlatent_avg, dlatents, coefs)
    record_layer('Truncation', dlatents.shape)
    return dlatents


# ---- Discriminator ----

class D_stylegan2(Network):
    """Images and labels -> scores, which are higher for real images (Figure 7)."""

    settings = dict(
        STYLEGAN2_SETTINGS, **SCORE_SETTINGS,
        architecture = 'resnet',  # 'orig', 'skip' or 'resnet'.
    )
    call_settings = IMAGE_CALL_SETTINGS
    input_names = ('images_in', 'labels_in')
    output_names = ('scores_out',)

    def build(self, input_shape=None):
        kw = self.kw
        check_image_kwargs(self, ('orig', 'skip', 'resnet'))
        conv_args = dict(act=kw.nonlinearity, resample_kernel=kw.resample_kernel, clamp=kw.conv_clamp)
        build_label_layers(self)
        size = kw.resolution
        while size >= 4:
            stage = int(np.log2(size)) - 1
            fmaps, out_fmaps = num_fmaps(kw, stage), num_fmaps(kw, stage - 1)
            if kw.architecture == 'skip' or size == kw.resolution:
                # At 4x4, FromRGB belongs to the last layers, and StyleGAN2-ADA does not clamp it.
                args = (dict(act=kw.nonlinearity, clamp=kw.conv_clamp) if size > 4 else
                        dict(act=kw.epilogue_nonlinearity or kw.nonlinearity))
                self.add_layer(Conv2D(f'{size}x{size}/FromRGB', fmaps, 1, **args), image_shape(size, kw.num_channels))
            if size > 4:
                self.add_layer(Conv2D(f'{size}x{size}/Conv0', fmaps, 3, **conv_args), image_shape(size, fmaps))
                self.add_layer(Conv2D(f'{size}x{size}/Conv1_down', out_fmaps, 3, down=True, **conv_args),
                               image_shape(size, fmaps))
                if kw.architecture == 'resnet':
                    skip = Conv2D(f'{size}x{size}/Skip', out_fmaps, 1, down=True, resample_kernel=kw.resample_kernel)
                    self.add_layer(skip, image_shape(size, fmaps))
            size //= 2
        build_score_layers(self, fmaps, out_fmaps)
        self.built = True

    def input_spec_shapes(self):
        return (None, self.kw.num_channels, self.kw.resolution, self.kw.resolution), (None, self.kw.label_size)

    def output_spec_shapes(self):
        return ((None, 1),)

    def compute(self, images_in, labels_in, **dynamic_kwargs):
        """[N, C, H, W], [N, label_size] -> [N, 1]; see compute_scores."""
        kw = self.settings_for(dynamic_kwargs)
        record_layer('images_in', images_in.shape)
        record_layer('labels_in', labels_in.shape)
        y = conv.from_nchw(tf.ensure_shape(images_in, [None, *self.input_spec_shapes()[0][1:]]))
        x = None
        for res in range(int(np.log2(kw.resolution)), 1, -1):
            size, dtype = 2 ** res, dtype_at(kw, 2 ** res)
            x = None if x is None else tf.cast(x, dtype)
            if kw.architecture == 'skip' or size == kw.resolution:
                features = self.layer(f'{size}x{size}/FromRGB')(tf.cast(y, dtype))
                x = features if x is None else x + features
            if size == 4:
                break
            block_in = x
            x = self.layer(f'{size}x{size}/Conv0')(x)
            x = self.layer(f'{size}x{size}/Conv1_down')(x)
            if kw.architecture == 'resnet':
                x = (x + self.layer(f'{size}x{size}/Skip')(block_in)) * (1 / np.sqrt(2))
            if kw.architecture == 'skip':
                y = downsample_2d(y, k=kw.resample_kernel, data_format=conv.image_format())
                y = record_op(f'{size}x{size}/Downsample', y)
        return compute_scores(self, x, labels_in)


def build_label_layers(net):
    """Create the layers of a discriminator that embed the labels (see embed_labels), if it has any."""
    kw = net.kw
    if not (kw.label_size and kw.label_embed):
        return
    mapping_fmaps = kw.mapping_fmaps or num_fmaps(kw, 0)
    size = kw.label_fmaps or mapping_fmaps
    net.add_layer(Dense('LabelEmbed', size), (None, kw.label_size))
    for idx in range(kw.mapping_layers):
        fmaps = kw.cmap_dim or mapping_fmaps if idx == kw.mapping_layers - 1 else mapping_fmaps
        net.add_layer(Dense(f'Mapping{idx}', fmaps, act=kw.mapping_nonlinearity, lrmul=kw.mapping_lrmul), (None, size))
        size = fmaps


def embed_labels(net, labels):
    """Labels [N, label_size] -> [N, cmap_dim], by the layers of build_label_layers (Karras et al. 2020b, Appendix)."""
    x = normalize_2nd_moment(net.layer('LabelEmbed')(labels))
    for idx in range(net.kw.mapping_layers):
        x = net.layer(f'Mapping{idx}')(x)
    return x


def build_score_layers(net, fmaps, out_fmaps):
    """Create the last layers of a discriminator, from features [N, fmaps, 4, 4] to scores."""
    kw = net.kw
    in_fmaps = fmaps + (kw.mbstd_num_features if uses_mbstd(kw) else 0)
    act, dense_fmaps, outputs = kw.epilogue_nonlinearity or kw.nonlinearity, kw.dense_fmaps or out_fmaps, 1
    if kw.label_size:
        outputs = (kw.cmap_dim or kw.mapping_fmaps or num_fmaps(kw, 0)) if kw.label_embed else kw.label_size
    net.add_layer(Conv2D('4x4/Conv', fmaps, 3, act=act, clamp=kw.conv_clamp), image_shape(4, in_fmaps))
    net.add_layer(Dense('4x4/Dense0', dense_fmaps, act=act), image_shape(4, fmaps))
    net.add_layer(Dense('Output', outputs), (None, dense_fmaps))


def uses_mbstd(kw) -> bool:
    """True if a discriminator with these settings uses `minibatch_stddev`."""
    return kw.mbstd_group_size is None or kw.mbstd_group_size > 1


def compute_scores(net, x, labels):
    """Features [N, fmaps, 4, 4] in the internal layout -> scores [N, 1].

    A conditional network has one output per class. The score is the sum of the outputs weighted by the labels. With
    label_embed the outputs are as many as `embed_labels` has, and the score is their scalar product divided by the
    root of their number (Miyato and Koyama 2018, arXiv:1802.05637).
    """
    kw = net.kw
    if uses_mbstd(kw):
        x = record_op('4x4/MinibatchStddev', minibatch_stddev(x, kw.mbstd_group_size, kw.mbstd_num_features))
    x = net.layer('4x4/Conv')(x)
    x = net.layer('4x4/Dense0')(x)
    if kw.label_size and kw.label_embed:
        x = net.layer('Output')(x)
        x = tf.reduce_sum(x * embed_labels(net, labels), axis=1, keepdims=True) / np.sqrt(x.shape[1])
    else:
        x = net.layer('Output')(x, labels if kw.label_size else None)
    record_layer('scores_out', x.shape)
    return x


def compute_growing_features(net, kw, images_in, record):
    """Compute the 4x4 features of a discriminator that grows progressively.

    Args:
        net:       Network with the layers FromRGB_lod*, Conv0 and Conv1_down, and the variable lod.
        kw:        Its settings for this call.
        images_in: [N, C, H, W] at full resolution or that of lod_stage.
        record:    record(name, x) is called for each step of fading.

    Returns:
        Features in the internal layout.
    """
    resolution_log2 = int(np.log2(kw.resolution))

    def block(res, x):
        x = net.layer(f'{2 ** res}x{2 ** res}/Conv0')(x)
        return tf.cast(net.layer(f'{2 ** res}x{2 ** res}/Conv1_down')(x), dtype_at(kw, 2 ** (res - 1)))

    def from_rgb(res, images):
        return net.layer(f'FromRGB_lod{resolution_log2 - res}')(tf.cast(images, dtype_at(kw, 2 ** res)))

    lod = None if progressive.is_fixed(net.kw) else tf.convert_to_tensor(net._net.own_vars['lod'])
    images = conv.from_nchw(images_in)
    return progressive.shrink_images(images, block, from_rgb, resolution_log2, lod, kw.lod_stage, record)


class D_stylegan(Network):
    """The layers of D_stylegan2 without skip connections, growing progressively (configurations B to D)."""

    settings = dict(STYLEGAN2_SETTINGS, **SCORE_SETTINGS, **GROWING_SETTINGS)
    call_settings = IMAGE_CALL_SETTINGS | set(GROWING_SETTINGS)
    input_names = ('images_in', 'labels_in')
    output_names = ('scores_out',)
    input_spec_shapes = D_stylegan2.input_spec_shapes
    output_spec_shapes = D_stylegan2.output_spec_shapes

    def build(self, input_shape=None):
        kw = self.kw
        check_image_kwargs(self)
        resolution_log2 = int(np.log2(kw.resolution))
        conv_args = dict(act=kw.nonlinearity, resample_kernel=kw.resample_kernel, clamp=kw.conv_clamp)
        self.add_var('lod', [], 'zeros')
        build_label_layers(self)
        for res in range(resolution_log2, 1, -1):
            size, fmaps, out_fmaps = 2 ** res, num_fmaps(kw, res - 1), num_fmaps(kw, res - 2)
            if size == kw.resolution or not progressive.is_fixed(kw):
                name = f'FromRGB_lod{resolution_log2 - res}'
                self.add_layer(Conv2D(name, fmaps, 1, act=kw.nonlinearity, clamp=kw.conv_clamp),
                               image_shape(size, kw.num_channels))
            if size > 4:
                self.add_layer(Conv2D(f'{size}x{size}/Conv0', fmaps, 3, **conv_args), image_shape(size, fmaps))
                self.add_layer(Conv2D(f'{size}x{size}/Conv1_down', out_fmaps, 3, down=True, **conv_args),
                               image_shape(size, fmaps))
        build_score_layers(self, fmaps, out_fmaps)
        self.built = True

    def compute(self, images_in, labels_in, **dynamic_kwargs):
        """[N, C, H, W] at full resolution or that of lod_stage, [N, label_size] -> [N, 1]; see compute_scores."""
        kw = self.settings_for(dynamic_kwargs)
        record_layer('images_in', images_in.shape)
        record_layer('labels_in', labels_in.shape)
        record_layer('lod', ())
        x = compute_growing_features(self, kw, images_in, record_op)
        return compute_scores(self, x, labels_in)
