"""Progressive growing (Karras et al. 2018, arXiv:1710.10196, Section 2): the arithmetic of levels of detail.

lod 0 is full resolution, lod 1 is half of it, and so on; fractions fade between two levels. The integer part of lod is
the stage. It determines which layers are active and is known when a function is traced, while the fraction changes all
the time.
"""

import math

import numpy as np
import tensorflow as tf

from custom_ops import conv2d as conv
from dnnlib.tflib import lerp


def stage_of(lod: float) -> int:
    """The stage of a level of detail: its integer part."""
    return int(np.floor(lod))


def fade(lod, level: int) -> tf.Tensor:
    """Weight of the image of level + 1 against that of `level`: 0 at lod <= level, 1 at lod >= level + 1."""
    return tf.clip_by_value(tf.cast(lod, tf.float32) - level, 0.0, 1.0)


def is_fixed(kw) -> bool:
    """True if a network has its layers for RGB at full resolution alone, and does not grow: structure='fixed'."""
    return getattr(kw, 'structure', None) == 'fixed'


def upscale(images: tf.Tensor, factor: int) -> tf.Tensor:
    """Repeat every pixel factor x factor times. Images are in the internal layout."""
    if factor == 1:
        return images
    for axis in pixel_axes():
        shape = images.shape.as_list()
        # Not tf.repeat, which computes shapes as tensors: LiteRT loses track of them.
        images = tf.tile(tf.reshape(images, [-1, 1, math.prod(shape[axis + 1:])]), [1, factor, 1])
        images = tf.reshape(images, [-1, *shape[1:axis], shape[axis] * factor, *shape[axis + 1:]])
    return images


def downscale(images: tf.Tensor, factor: int) -> tf.Tensor:
    """Average over blocks of factor x factor pixels. Images are in the internal layout."""
    if factor == 1:
        return images
    if conv.image_format() == 'NHWC':
        _, h, w, c = images.shape
        return tf.reduce_mean(tf.reshape(images, [-1, h // factor, factor, w // factor, factor, c]), axis=[2, 4])
    _, c, h, w = images.shape
    return tf.reduce_mean(tf.reshape(images, [-1, c, h // factor, factor, w // factor, factor]), axis=[3, 5])


def pixel_axes():
    """Axes of height and width in the internal layout."""
    return (1, 2) if conv.image_format() == 'NHWC' else (2, 3)


def grow_images(x, block, to_rgb, resolution_log2, lod, stage, full_resolution=True, record=lambda *args: None):
    """Compute the images of a growing generator.

    Args:
        x:               Input of the 4x4 block.
        block:           block(res, x) -> features of 2^res x 2^res pixels.
        to_rgb:          to_rgb(res, x) -> images of 2^res x 2^res pixels.
        resolution_log2: log2 of the full resolution.
        lod:             Level of detail, scalar tensor. None = the network does not grow: to_rgb is called once.
        stage:           Integer part of lod. Blocks beyond it and invisible RGB images are skipped. None = unknown at
                         trace time: everything is computed, which is correct for any lod.
        full_resolution: Upscale the images of the stage to full resolution.
        record:          record(name, images) is called for each step of fading.

    Returns:
        Images in the internal layout.
    """
    if lod is None:
        for res in range(2, resolution_log2 + 1):
            x = block(res, x)
        return to_rgb(resolution_log2, x)
    last = resolution_log2 - (stage or 0)
    images = None
    for res in range(2, last + 1):
        x = block(res, x)
        if stage is not None and res < last - 1:
            continue
        rgb = to_rgb(res, x)
        if images is None:
            images = rgb
            continue
        level = resolution_log2 - res
        images = upscale(images, 2)
        record(f'Upsample_lod{level}', images)
        images = lerp(rgb, images, fade(lod, level))
        record(f'Grow_lod{level}', images)
    return upscale(images, 2 ** (stage or 0)) if full_resolution else images


def shrink_images(images, block, from_rgb, resolution_log2, lod, stage, record=lambda *args: None):
    """Compute the 4x4 features of a growing discriminator: the reverse of `grow_images`.

    Args:
        images:   Images in the internal layout, at full resolution or that of the stage.
        block:    block(res, x): features of 2^res x 2^res pixels -> features of half the size.
        from_rgb: from_rgb(res, images) -> features of 2^res x 2^res pixels.
        resolution_log2, lod, stage, record: As in `grow_images`.

    Returns:
        Features of 4x4 pixels in the internal layout.
    """
    if lod is None:
        x = from_rgb(resolution_log2, images)
        for res in range(resolution_log2, 2, -1):
            x = block(res, x)
        return x
    first = resolution_log2 - (stage or 0)
    images = downscale(images, images.shape[pixel_axes()[0]] >> first)
    x = from_rgb(first, images)
    for res in range(first, 2, -1):
        x = block(res, x)
        if stage is not None and res < first:
            continue
        level = resolution_log2 - res
        images = downscale(images, 2)
        record(f'Downsample_lod{level}', images)
        features = from_rgb(res - 1, images)
        x = lerp(x, features, tf.cast(fade(lod, level), x.dtype))
        record(f'Grow_lod{level}', x)
    return x
