"""Affine warps of images, as in StyleGAN2-ADA (Karras et al. 2020, arXiv:2006.06676, Appendix B).

An image is extended by reflection, upsampled by 2 with a lowpass filter, sampled bilinearly, and downsampled by 2. All
of this is linear in the images, and differentiable to any order. Images are [N, H, W, C] here on all devices, because
the channels of a pixel are read together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from custom_ops import upfirdn_2d

# The lowpass filter of the wavelet sym6 (Daubechies 1992), with sum 1.
HZ_GEOM = np.array([
    0.0108923502, 0.0024683062, -0.0834316077, -0.0341615608, 0.3472289865, 0.5569463920,
    0.2389521857, -0.0513624849, -0.0148918756, 0.0316252813, 0.0012499610, -0.0055159338], np.float32)
_MARGIN = HZ_GEOM.size // 2  # Pixels that the filters of both directions reach beyond the border of the image.


class Affine(NamedTuple):
    """The affine maps (x, y) -> x * x_axis + y * y_axis + offset of N samples. x is to the right, y is down.

    Each method returns the map that first applies the named operation, then this map: the operation's matrix is
    multiplied from the right. Arguments are numbers or tensors [N].
    """
    x_axis: tf.Tensor  # [N, 2], the image of (1, 0) without the offset.
    y_axis: tf.Tensor  # [N, 2]
    offset: tf.Tensor  # [N, 2], in pixels.

    @classmethod
    def identity(cls, n: int | tf.Tensor) -> Affine:
        """The maps that leave everything where it is."""
        return cls(tf.tile([[1.0, 0.0]], [n, 1]), tf.tile([[0.0, 1.0]], [n, 1]), tf.zeros([n, 2]))

    def scale(self, x: float | tf.Tensor, y: float | tf.Tensor) -> Affine:
        """Multiply the coordinates."""
        return self._replace(x_axis=self.x_axis * _column(x), y_axis=self.y_axis * _column(y))

    def rotate(self, angle: tf.Tensor) -> Affine:
        """Rotate clockwise, as y points down, by an angle in radians."""
        cos, sin = _column(tf.cos(angle)), _column(tf.sin(angle))
        return self._replace(x_axis=self.x_axis * cos + self.y_axis * sin, y_axis=self.y_axis * cos - self.x_axis * sin)

    def translate(self, x: float | tf.Tensor, y: float | tf.Tensor) -> Affine:
        """Add to the coordinates, in pixels."""
        return self._replace(offset=self.x_axis * _column(x) + self.y_axis * _column(y) + self.offset)


def _column(value):
    return value[:, tf.newaxis] if isinstance(value, tf.Tensor) else value


def warp(images: tf.Tensor, inverse: Affine) -> tf.Tensor:
    """Warp images.

    Args:
        images:  [N, H, W, C] float32.
        inverse: Maps from pixels of the result to pixels of the image that they show. The origin is the center.

    Returns:
        [N, H, W, C]. What lies outside of the image is its reflection, up to the width of the image, and beyond that 0.
    """
    height, width = images.shape[1:3]
    margins = _margins(inverse, height, width)
    x0, y0, x1, y1 = tf.unstack(margins)
    x = tf.pad(images, [[0, 0], [y0, y1], [x0, x1], [0, 0]], 'REFLECT')
    # The center of the extended image is elsewhere.
    offset = inverse.offset + tf.cast(margins[:2] - margins[2:], tf.float32) / 2

    k = np.outer(HZ_GEOM, HZ_GEOM)
    before, after = _MARGIN, _MARGIN - 1
    x = upfirdn_2d(x, k * 4, upx=2, upy=2, padx0=before, padx1=after, pady0=before, pady1=after)
    # The grid of twice the resolution: each pixel is replaced by two, of which the first is at its place. Therefore the
    # centers of the two grids are half a pixel of the finer one apart.
    inverse = inverse._replace(offset=offset * 2).translate(0.5, 0.5)
    inverse = inverse._replace(offset=inverse.offset - 0.5)
    x = _sample(x, inverse, 2 * (height + _MARGIN), 2 * (width + _MARGIN))

    y = upfirdn_2d(x, k[::-1, ::-1], downx=2, downy=2, padx0=-1, padx1=-1, pady0=-1, pady1=-1)
    y.set_shape(images.shape)
    return y


def _margins(inverse, height, width):
    """Pixels (left, top, right, bottom) by which to extend all images of the batch, int32 [4]."""
    cx, cy = (width - 1) / 2, (height - 1) / 2
    x, y = inverse.x_axis * cx, inverse.y_axis * cy
    corners = tf.concat([inverse.offset + a + b for a in (x, -x) for b in (y, -y)], axis=0)
    beyond = tf.concat([-tf.reduce_min(corners, axis=0), tf.reduce_max(corners, axis=0)], axis=0)
    beyond += _MARGIN - np.array([cx, cy, cx, cy], np.float32)
    limits = np.array([width - 1, height - 1] * 2, np.float32)  # A reflection is not wider than the image.
    return tf.cast(tf.math.ceil(tf.clip_by_value(beyond, 0, limits)), tf.int32)


# ---- Bilinear sampling ----
# The gradient of sampling is spreading, its transpose, and the gradient of spreading is sampling.

def _sample(x, inverse, out_height, out_width):
    """Sample x [N, H, W, C] bilinearly at a grid of pixels that `inverse` maps to x; 0 outside of x."""
    # TensorFlow computes with 64-bit integers on the GPU. It moves those of 32 bits to the CPU.
    shape = tf.shape(x, tf.int64)
    n, channels = x.shape[0], x.shape[3]
    rows, weights = _taps(inverse, shape, out_height, out_width)

    @tf.custom_gradient
    def sample(x):
        pixels = tf.reshape(x, [-1, channels])
        y = tf.add_n([tf.gather(pixels, row) * weight for row, weight in zip(rows, weights, strict=True)])
        return tf.reshape(y, [shape[0] if n is None else n, out_height, out_width, channels]), spread

    @tf.custom_gradient
    def spread(dy):
        dy = tf.reshape(dy, [-1, channels])
        samples = tf.shape(dy, tf.int64)[0]
        # The transposed matrix of interpolation. On a CPU this is ten times as fast as tf.math.unsorted_segment_sum.
        dx = tf.raw_ops.SparseTensorDenseMatMul(
            a_indices=tf.stack([tf.tile(tf.range(samples), [4]), tf.concat(rows, axis=0)], axis=1),
            a_values=tf.reshape(tf.concat(weights, axis=0), [-1]),
            a_shape=[samples, shape[0] * shape[1] * shape[2]], b=dy, adjoint_a=True)
        return tf.reshape(dx, shape), sample

    return sample(x)


def _taps(inverse, shape, out_height, out_width):
    """The four pixels that each sample is interpolated from.

    Args:
        inverse:    From the grid of samples to the pixels of the source, around both centers.
        shape:      Of the source, int64 [4].
        out_height: Number of rows of samples.
        out_width:  Number of columns of samples.

    Returns:
        Four int64 tensors [N * out_height * out_width], indices into the pixels [N * H * W] of the source, and their
        weights [N * out_height * out_width, 1].
    """
    columns = np.arange(out_width, dtype=np.float32) - (out_width - 1) / 2
    lines = np.arange(out_height, dtype=np.float32)[:, np.newaxis] - (out_height - 1) / 2
    x_axis, y_axis, offset = (value[:, :, tf.newaxis, tf.newaxis] for value in inverse)
    along, down = x_axis * columns, y_axis * lines + offset
    xs = _taps_of_axis(along[:, 0] + down[:, 0], shape[2])
    ys = _taps_of_axis(along[:, 1] + down[:, 1], shape[1])
    image = tf.range(shape[0])[:, tf.newaxis, tf.newaxis] * shape[1]
    rows, weights = [], []
    for y, y_weight in ys:
        line = (image + y) * shape[2]
        for x, x_weight in xs:
            rows.append(tf.reshape(line + x, [-1]))
            weights.append(tf.reshape(x_weight * y_weight, [-1, 1]))
    return rows, weights


def _taps_of_axis(position, size):
    """[(index, weight), (index, weight)] along an axis, for positions relative to its center.

    `size`, the number of pixels, is even. So the center lies between two pixels, and can be added as an integer after
    the fraction has been separated, which keeps the fraction accurate.
    """
    size = tf.cast(size, tf.float32)
    position = position - 0.5
    first = tf.floor(position)
    fraction = position - first
    first += size / 2
    taps = []
    for index, weight in ((first, 1 - fraction), (first + 1, fraction)):
        inside = tf.clip_by_value(index, 0, size - 1)
        taps.append((tf.cast(inside, tf.int64), tf.where(inside == index, weight, 0.0)))
    return taps
