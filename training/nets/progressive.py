"""Progressive growing (Karras et al. 2018, arXiv:1710.10196, Section 2): the arithmetic of levels of detail.

lod 0 is full resolution, lod 1 half of it, and so on; a fraction fades between the two. The whole part of lod is the stage: it
decides which layers take part and is known when a function is traced. The fraction is a number that changes all the time.
"""

import numpy as np
import tensorflow as tf

from custom_ops import conv2d as conv
from dnnlib.tflib import lerp


def stage_of(lod):
    """Stage that a lod (a number) belongs to: floor."""
    return int(np.floor(lod))


def fade(lod, level):
    """Weight of the coarser of the two images between `level` and level + 1: 0 at lod <= level, 1 at lod >= level + 1."""
    return tf.clip_by_value(tf.cast(lod, tf.float32) - level, 0.0, 1.0)


def upscale(images, factor):
    """Repeat every pixel factor x factor times; images in the layout inside."""
    if factor == 1:
        return images
    for axis in pixel_axes():
        images = tf.repeat(images, factor, axis=axis)
    return images


def downscale(images, factor):
    """Average over factor x factor pixels; images in the layout inside."""
    if factor == 1:
        return images
    if conv.image_format() == 'NHWC':
        _, h, w, c = images.shape
        return tf.reduce_mean(tf.reshape(images, [-1, h // factor, factor, w // factor, factor, c]), axis=[2, 4])
    _, c, h, w = images.shape
    return tf.reduce_mean(tf.reshape(images, [-1, c, h // factor, factor, w // factor, factor]), axis=[3, 5])


def pixel_axes():
    """Axes of the height and width in the layout inside."""
    return (1, 2) if conv.image_format() == 'NHWC' else (2, 3)


def grow_images(x, block, to_rgb, resolution_log2, lod, stage, full_resolution=True, note=lambda *args: None):
    """The generator's way from the first block to the images.

    Args:
        x:               Input of the block of 4x4.
        block:           block(res, x) -> features of 2^res x 2^res.
        to_rgb:          to_rgb(res, x) -> images of 2^res x 2^res.
        resolution_log2: res of the full resolution.
        lod:             Level of detail, scalar tensor.
        stage:           Its whole part: later blocks are left out, and so is RGB that does not show. None = not known
                         while tracing: everything is computed, which is right for any lod.
        full_resolution: Repeat pixels up to full resolution? Otherwise the images are those of the stage.
        note:            note(name, images) for each step of fading.

    Returns:
        Images in the layout inside.
    """
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
        note(f'Upsample_lod{level}', images)
        images = lerp(rgb, images, fade(lod, level))
        note(f'Grow_lod{level}', images)
    return upscale(images, 2 ** (stage or 0)) if full_resolution else images


def shrink_images(images, block, from_rgb, resolution_log2, lod, stage, note=lambda *args: None):
    """The discriminator's way from the images to the features of 4x4: the mirror image of `grow_images`.

    Args:
        images:   In the layout inside, at full resolution or that of the stage.
        block:    block(res, x): features of 2^res x 2^res -> those of half the size.
        from_rgb: from_rgb(res, images) -> features of 2^res x 2^res.

    Returns:
        Features of 4x4.
    """
    first = resolution_log2 - (stage or 0)
    images = downscale(images, images.shape[pixel_axes()[0]] >> first)
    x = from_rgb(first, images)
    for res in range(first, 2, -1):
        x = block(res, x)
        if stage is not None and res < first:
            continue
        level = resolution_log2 - res
        images = downscale(images, 2)
        note(f'Downsample_lod{level}', images)
        features = from_rgb(res - 1, images)
        x = lerp(x, features, tf.cast(fade(lod, level), x.dtype))
        note(f'Grow_lod{level}', x)
    return x
