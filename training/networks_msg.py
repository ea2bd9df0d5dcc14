"""The networks of MSG-GAN on StyleGAN's layers (Karnewar and Wang 2020, arXiv:1903.06048, Section 2.2).

Nothing grows. The generator G_style makes an image at every resolution, each by its own ToRGB layer and none out of
another, and the discriminator D_basic sees them all: its block for a resolution combines the features from above with
the image of that size. So gradients reach every resolution of the generator directly.
"""

import numpy as np
import tensorflow as tf

from custom_ops import conv2d as conv
from dnnlib.tflib import Network
from dnnlib.tflib.layer_list import record_layer
from training import networks_stylegan
from training.nets.dtypes import dtype_at
from training.nets.layers import image_shape
from training.nets.progan_layers import Conv2D, num_fmaps
from training.networks_stylegan import (
    STYLEGAN_IMAGE_SETTINGS,
    G_mapping,
    append_stddev,
    build_score_layers,
    check_kwargs,
    compute_scores,
    conv_args_of,
    num_stddev_features,
)
from training.networks_stylegan2 import (
    DISCRIMINATOR_SETTINGS,
    GROWING_SYNTHESIS_SETTINGS,
    IMAGE_CALL_SETTINGS,
    SYNTHESIS_CALL_SETTINGS,
)


class G_synthesis(networks_stylegan.G_synthesis):
    """W with two vectors per resolution -> an image at every resolution (Figure 2)."""

    settings = {
        **{name: value for name, value in networks_stylegan.G_synthesis.settings.items()
           if name not in GROWING_SYNTHESIS_SETTINGS},
        'all_sizes': False,  # Return the images of all sizes, from 4x4 on, in a tuple. False = the largest alone.
    }
    call_settings = SYNTHESIS_CALL_SETTINGS | {'all_sizes'}
    grows = False

    def compose(self, block, to_rgb, resolution_log2, kw):
        x, images = None, []
        for res in range(2, resolution_log2 + 1):
            x = block(res, x)
            images.append(conv.to_nchw(to_rgb(res, x)))  # TensorFlow leaves out those that are not returned.
        for image in images:
            record_layer(f'images_out_{image.shape[2]}x{image.shape[3]}', image.shape)
        return tuple(images) if kw.all_sizes else images[-1]


class G_style(networks_stylegan.G_style):
    """Latents and labels -> images, as StyleGAN's G_style. With all_sizes they are tuples, see G_synthesis."""

    component_classes = (G_mapping, G_synthesis)
    settings = dict(networks_stylegan.G_style.settings, style_mixing_prob=None)
    grows = False


class D_basic(Network):
    """Images of all sizes and labels -> scores, which are higher for real images (Figure 2)."""

    settings = {
        **STYLEGAN_IMAGE_SETTINGS, **DISCRIMINATOR_SETTINGS,
        'num_channels': 1,   # These two as in StyleGAN's D_basic.
        'resolution':   32,
    }
    call_settings = IMAGE_CALL_SETTINGS
    output_names = ('scores_out',)

    def build(self, input_shape=None):
        kw = self.kw
        check_kwargs(self)
        conv_args, resolution_log2 = conv_args_of(kw), int(np.log2(kw.resolution))
        for res in range(resolution_log2, 1, -1):
            size, fmaps, out_fmaps = 2 ** res, num_fmaps(kw, res - 1), num_fmaps(kw, res - 2)
            if size == kw.resolution:
                self.add_layer(Conv2D('FromRGB_lod0', fmaps, 1, **conv_args), image_shape(size, kw.num_channels))
            else:
                # Combines features and image. It has neither bias nor activation.
                self.add_layer(Conv2D(f'{size}x{size}/combine', fmaps, 1, **{**conv_args, 'act': None}),
                               image_shape(size, fmaps + kw.num_channels))
            if size > 4:
                self.add_layer(Conv2D(f'{size}x{size}/Conv0', fmaps, 3, **conv_args),
                               image_shape(size, fmaps + num_stddev_features(kw)))
                self.add_layer(Conv2D(f'{size}x{size}/Conv1_down', out_fmaps, 3, 'down', **conv_args),
                               image_shape(size, fmaps))
        build_score_layers(self, fmaps, out_fmaps, conv_args)
        self.input_names = (*(f'images_in_{size}x{size}' for size in self.sizes), 'labels_in')
        self.built = True

    @property
    def sizes(self):
        """Widths of the images, from 4 on."""
        return [2 ** res for res in range(2, int(np.log2(self.kw.resolution)) + 1)]

    def input_spec_shapes(self):
        kw = self.kw
        return (*((None, kw.num_channels, size, size) for size in self.sizes), (None, kw.label_size))

    def output_spec_shapes(self):
        return ((None, 1),)

    def compute(self, *inputs, **dynamic_kwargs):
        """Images [N, C, 4, 4], [N, C, 8, 8], ... of all sizes, and labels [N, label_size] -> [N, 1].

        See networks_stylegan.compute_scores.
        """
        kw = self.settings_for(dynamic_kwargs)
        for name, value in zip(self.input_names, inputs, strict=True):
            record_layer(name, value.shape)
        *images, labels = inputs
        x = None
        for image, size in zip(images[::-1], self.sizes[::-1], strict=True):
            dtype = dtype_at(kw, size)
            image = tf.cast(conv.from_nchw(tf.ensure_shape(image, [None, kw.num_channels, size, size])), dtype)
            if x is None:
                x = self.layer('FromRGB_lod0')(image)
            else:
                x = tf.concat([tf.cast(x, dtype), image], axis=conv.channel_axis())
                x = self.layer(f'{size}x{size}/combine')(x)
            if size > 4:
                x = self.layer(f'{size}x{size}/Conv0')(append_stddev(x, kw))
                x = self.layer(f'{size}x{size}/Conv1_down')(x)
        return compute_scores(self, kw, x, labels)
