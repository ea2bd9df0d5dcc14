"""The operations of training/augment.py, computed by TensorFlow (Karras et al. 2020, arXiv:2006.06676, Appendix B).

They are differentiable to any order with respect to the images, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from custom_ops import upfirdn_2d
from training.step.warp import Affine, warp


def augment(images: tf.Tensor, p: float | tf.Tensor, rng: Any, settings: Mapping[str, Any],
            debug_percentile: float | tf.Tensor | None = None) -> tf.Tensor:
    """Augment images. `AugmentPipe` in training/augment.py documents the settings.

    Args:
        images:           [N, C, H, W] in [-1, 1], with 1 or 3 channels.
        p:                Probability, a scalar.
        rng:              Random. The names of the draws are 'xflip/value', 'xflip/gate' and so on.
        settings:         `AugmentPipe.settings`.
        debug_percentile: Use this percentile of each random value, for all images, instead of drawing it.

    Returns:
        [N, C, H, W], not limited to [-1, 1].

    Raises:
        ValueError: Another number of channels; or a side is shorter than the image filter allows.
    """
    channels, height, width = images.shape[1:]
    if channels not in (1, 3):
        raise ValueError(f'augmentation: expected images with 1 or 3 channels, received shape {images.shape}')
    n = images.shape[0] or tf.shape(images)[0]
    draw = _Draws(n, p, rng, debug_percentile)
    inverse = _inverse_map(draw, settings, n, height, width)
    color = _color(draw, settings, channels)
    x = tf.transpose(images, [0, 2, 3, 1])
    if inverse is not None:
        x = warp(x, inverse)
    if color is not None:
        x = _apply_color(x, *color)
    if settings['imgfilter'] > 0:
        x = _filter_bands(x, _band_gains(draw, settings))
    x = tf.transpose(x, [0, 3, 1, 2])
    if settings['noise'] > 0:
        x += _noise(draw, settings, tf.shape(x))
    if settings['cutout'] > 0:
        x *= _cutout_mask(draw, settings, height, width)
    return x


# ---- Random values ----

class _Draws:
    """Random values of N images, each in effect with a given probability. Arguments: as of `augment`."""

    def __init__(self, n: int | tf.Tensor, p: float | tf.Tensor, rng: Any, percentile: float | tf.Tensor | None):
        self.n, self.rng = n, rng
        self.p = tf.convert_to_tensor(p, tf.float32)
        self.percentile = None if percentile is None else tf.convert_to_tensor(percentile, tf.float32)

    def uniform(self, name: str, shape: Sequence[int] = ()) -> tf.Tensor:
        """Draw '<name>/value' from U[0, 1), [N, *shape]."""
        if self.percentile is not None:
            return tf.fill([self.n, *shape], self.percentile)
        return self.rng.uniform(f'{name}/value', [self.n, *shape])

    def normal(self, name: str, shape: Sequence[int] = ()) -> tf.Tensor:
        """Draw '<name>/value' from N(0, 1), [N, *shape]."""
        if self.percentile is not None:
            # Not the percentile of N(0, 1), which would be sqrt(2) times as large: as in StyleGAN2-ADA.
            return tf.fill([self.n, *shape], tf.math.erfinv(2 * self.percentile - 1))
        return self.rng.normal(f'{name}/value', [self.n, *shape])

    def gate(self, name: str, value: Any, probability: tf.Tensor, neutral: float, shape: Sequence[int] = ()) -> Any:
        """Draw '<name>/gate', [N, *shape]. Return `value` with this probability, and `neutral` otherwise."""
        if self.percentile is not None:
            return value
        return tf.where(self.rng.uniform(f'{name}/gate', [self.n, *shape]) < probability, value, neutral)


# ---- Geometry ----

def _inverse_map(draw, s, n, height, width):
    """The maps from pixels of the result to those of the image, an Affine. None = there is no geometric operation."""
    if not any(s[op] > 0 for op in ('xflip', 'rotate90', 'xint', 'scale', 'rotate', 'aniso', 'xfrac')):
        return None
    inverse = Affine.identity(n)

    # Pixel blitting: the result has the pixels of the image.
    if s['xflip'] > 0:
        flipped = draw.gate('xflip', tf.floor(draw.uniform('xflip') * 2), s['xflip'] * draw.p, 0.0)
        inverse = inverse.scale(1 - 2 * flipped, 1)
    if s['rotate90'] > 0:
        quarters = draw.gate('rotate90', tf.floor(draw.uniform('rotate90') * 4), s['rotate90'] * draw.p, 0.0)
        inverse = inverse.rotate(quarters * (np.pi / 2))
    if s['xint'] > 0:
        shift = (draw.uniform('xint', [2]) * 2 - 1) * s['xint_max']
        shift = draw.gate('xint', shift, s['xint'] * draw.p, 0.0, [1])
        inverse = inverse.translate(-tf.round(shift[:, 0] * width), -tf.round(shift[:, 1] * height))

    # General geometric transformations.
    if s['scale'] > 0:
        factor = draw.gate('scale', _exp2(draw.normal('scale') * s['scale_std']), s['scale'] * draw.p, 1.0)
        inverse = inverse.scale(1 / factor, 1 / factor)
    # Both rotations together have the probability rotate * p.
    rotation_p = 1 - tf.sqrt(tf.clip_by_value(1 - s['rotate'] * draw.p, 0, 1))
    if s['rotate'] > 0:
        inverse = inverse.rotate(_angle(draw, 'rotate_pre', s['rotate_max'], rotation_p))
    if s['aniso'] > 0:
        factor = draw.gate('aniso', _exp2(draw.normal('aniso') * s['aniso_std']), s['aniso'] * draw.p, 1.0)
        inverse = inverse.scale(1 / factor, factor)
    if s['rotate'] > 0 and draw.percentile is None:
        inverse = inverse.rotate(_angle(draw, 'rotate_post', s['rotate_max'], rotation_p))
    if s['xfrac'] > 0:
        shift = draw.gate('xfrac', draw.normal('xfrac', [2]) * s['xfrac_std'], s['xfrac'] * draw.p, 0.0, [1])
        inverse = inverse.translate(-shift[:, 0] * width, -shift[:, 1] * height)
    return inverse


def _angle(draw, name, limit, probability, shape=()):
    """An angle of up to limit * pi in either direction, or 0."""
    return draw.gate(name, (draw.uniform(name, shape) * 2 - 1) * np.pi * limit, probability, 0.0, shape)


def _exp2(x):
    return tf.pow(2.0, x)


# ---- Color ----

def _color(draw, s, channels):
    """What happens to the colors of each image: (alpha, beta, gamma, offset), see `_apply_color`. None = nothing.

    Every operation treats the luminance axis v = (1, 1, 1) / sqrt(3) and the plane of colors orthogonal to it alike for
    all hues. So the matrix of each is alpha * vv' + beta * (I - vv') + gamma * [v]x, and the product of such matrices
    is another one: alphas are multiplied, and beta + i * gamma are multiplied as complex numbers.
    """
    ops = ('brightness', 'contrast', 'lumaflip', *(('hue', 'saturation') if channels == 3 else ()))
    if not any(s[op] > 0 for op in ops):
        return None
    alpha, saturation, angle, brightness = 1.0, 1.0, 0.0, 0.0
    if s['brightness'] > 0:
        brightness = draw.gate('brightness', draw.normal('brightness') * s['brightness_std'],
                               s['brightness'] * draw.p, 0.0)
    if s['contrast'] > 0:
        contrast = draw.gate('contrast', _exp2(draw.normal('contrast') * s['contrast_std']),
                             s['contrast'] * draw.p, 1.0)
        alpha, saturation = alpha * contrast, saturation * contrast
    if s['lumaflip'] > 0:
        flipped = tf.floor(draw.uniform('lumaflip', [1, 1]) * 2)
        alpha *= 1 - 2 * draw.gate('lumaflip', flipped, s['lumaflip'] * draw.p, 0.0, [1, 1])[:, 0, 0]
    if s['hue'] > 0 and channels == 3:
        angle = _angle(draw, 'hue', s['hue_max'], s['hue'] * draw.p)
    if s['saturation'] > 0 and channels == 3:
        factor = _exp2(draw.normal('saturation', [1, 1]) * s['saturation_std'])
        saturation *= draw.gate('saturation', factor, s['saturation'] * draw.p, 1.0, [1, 1])[:, 0, 0]
    values = alpha, saturation * tf.cos(angle), saturation * tf.sin(angle), alpha * brightness
    return [tf.broadcast_to(value, [draw.n]) for value in values]


def _apply_color(x, alpha, beta, gamma, offset):
    """x [N, H, W, C] -> alpha * vv'x + beta * (I - vv')x + gamma * (v cross x) + offset."""
    alpha, beta, gamma, offset = (value[:, tf.newaxis, tf.newaxis] for value in (alpha, beta, gamma, offset))
    if x.shape[3] == 1:
        return x * alpha[..., tf.newaxis] + offset[..., tf.newaxis]
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float32) / np.sqrt(np.float32(3))
    matrix = (alpha - beta) / 3 + beta * np.eye(3, dtype=np.float32) + gamma * cross
    height, width = x.shape[1:3]
    y = tf.matmul(tf.reshape(x, [-1, height * width, 3]), matrix, transpose_b=True) + offset
    return tf.reshape(y, [-1, height, width, 3])


# ---- Image filter ----

def _filter_bank():
    """Filters of four frequency bands, from low to high, [4, 43] float32. Together they leave an image as it is."""
    low = np.array([-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025])  # sym2.
    high = low * [1, -1, 1, -1]
    low2, high2 = (np.convolve(taps, taps[::-1]) / 2 for taps in (low, high))
    bank = np.eye(4, 1)
    for i in range(1, 4):
        spread = np.zeros([4, 2 * bank.shape[1] - 1])
        spread[:, ::2] = bank
        bank = np.stack([np.convolve(row, low2) for row in spread])
        begin = (bank.shape[1] - high2.size) // 2
        bank[i, begin:begin + high2.size] += high2
    return bank.astype(np.float32)


HZ_FBANK = _filter_bank()
# Share of each band in the power of natural images, whose spectrum is about 1/f.
_BAND_POWER = np.array([10, 1, 1, 1], np.float32) / 13


def _band_gains(draw, s):
    """Factors of the four bands, [N, 4]. They leave the expected power as it is."""
    gains, norm = [], 1.0
    for i, strength in enumerate(s['imgfilter_bands']):
        name = f'imgfilter{i}'
        gain = draw.gate(name, _exp2(draw.normal(name) * s['imgfilter_std']), s['imgfilter'] * draw.p * strength, 1.0)
        if draw.percentile is not None and strength == 0:
            gain = tf.ones_like(gain)
        gains.append(gain)
        norm *= tf.sqrt(1 - _BAND_POWER[i] + _BAND_POWER[i] * tf.square(gain))
    return tf.stack([gain / norm for gain in gains], axis=1)


def _filter_bands(x, gains):
    """Multiply the frequency bands of x [N, H, W, C] by `gains` [N, 4]."""
    margin = HZ_FBANK.shape[1] // 2
    if min(x.shape[1:3]) <= margin:
        raise ValueError(f'imgfilter: expected images of at least {margin + 1} x {margin + 1} pixels, received '
                         f'{x.shape[2]} x {x.shape[1]}')
    x = tf.pad(x, [[0, 0], [margin, margin], [margin, margin], [0, 0]], 'REFLECT')
    x = _sum_of_bands(x, x[:, :, margin:-margin], HZ_FBANK[:, np.newaxis, :], gains)
    return _sum_of_bands(x, x[:, margin:-margin], HZ_FBANK[:, :, np.newaxis], gains)


def _sum_of_bands(x, inner, filters, gains):
    """Filter along one axis. `inner` is the part of x that the result covers, which is the sum of all bands."""
    gains = gains[:, :, tf.newaxis, tf.newaxis, tf.newaxis]
    y = inner * gains[:, 0]
    for i in range(1, 4):
        y += upfirdn_2d(x, filters[i]) * (gains[:, i] - gains[:, 0])
    return y


# ---- Corruption ----

def _noise(draw, s, shape):
    """Noise of a random strength for each image, of the given shape [N, C, H, W]."""
    if draw.percentile is not None:
        sigma = tf.math.erfinv(draw.percentile) * s['noise_std']
    else:
        sigma = tf.abs(draw.normal('noise', [1, 1, 1])) * s['noise_std']
        sigma = draw.gate('noise', sigma, s['noise'] * draw.p, 0.0, [1, 1, 1])
    return draw.rng.normal('noise/image', shape) * sigma


def _cutout_mask(draw, s, height, width):
    """[N, 1, H, W]: 0 in a rectangle of each image, 1 elsewhere."""
    size = draw.gate('cutout', s['cutout_size'], s['cutout'] * draw.p, 0.0, [1, 1, 1, 1])
    half = tf.reshape(size, [-1, 1, 1, 1]) / 2
    center = draw.uniform('cutout', [2, 1, 1, 1])
    x = (np.arange(width, dtype=np.float32) + 0.5) / width
    y = (np.arange(height, dtype=np.float32)[:, np.newaxis] + 0.5) / height
    outside = (tf.abs(x - center[:, 0]) >= half) | (tf.abs(y - center[:, 1]) >= half)
    return tf.cast(outside, tf.float32)
