"""Perceptual Path Length (Karras et al. 2019, arXiv:1812.04948, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from dnnlib.cli import UserError
from dnnlib.tflib import Random, lerp
from metrics.features.layers import shrink
from metrics.metric_base import SampleSource, SamplingMetric
from training import misc

_VGG_MIN_SIZE = 16  # VGG16 halves images four times.


class PPL(SamplingMetric):
    """Mean LPIPS distance of images over a small step between two random latents, divided by epsilon squared.

    Args:
        name, minibatch_per_gpu: As in SamplingMetric; a sample is a pair of images.
        num_samples:  Number of pairs.
        epsilon:      Length of the step; 1 is the whole way between the latents.
        space:        'z' = spherical interpolation in Z. 'w' = linear interpolation in W.
        sampling:     'full' = the step begins at a random point between the latents. 'end' = at the first of them.
        crop:         Look only at the region that shows the face in aligned photos?
        Gs_overrides: Settings for the evaluation of the network. None = none.
    """

    def __init__(self, name: str, num_samples: int, epsilon: float, space: str, sampling: str, crop: bool,
                 minibatch_per_gpu: int = 4, Gs_overrides: Mapping[str, Any] | None = None):
        super().__init__(name, ['lpips'], minibatch_per_gpu)
        if space not in ('z', 'w') or sampling not in ('full', 'end'):
            raise ValueError(f"expected space 'z' or 'w' and sampling 'full' or 'end'. "
                             f'Received: {space!r} and {sampling!r}')
        self._num_samples, self._epsilon, self._space, self._crop = num_samples, epsilon, space, crop
        self._max_t = 1.0 if sampling == 'full' else 0.0
        self._overrides = Gs_overrides or {}

    def check(self, resolution):
        smallest = _VGG_MIN_SIZE * (2 if self._crop else 1)
        if resolution < smallest:
            remedy = 'Leave this metric out.' if resolution < _VGG_MIN_SIZE else 'ppl2_wend takes images from 16x16.'
            raise UserError(f'{self.name}: images of {resolution}x{resolution} are too small, '
                            f'expected {smallest} or more', remedy)

    def evaluate(self, source, nets):
        misc.require_w(source.Gs, self.name)
        distances, = self.draw_samples(
            source, lambda minibatch: [self.distances(minibatch, nets['lpips'], self.minibatch_per_gpu)],
            self._num_samples, self.name, 'pair')
        self.report(mean_without_outliers(distances))

    def distances(self, source: SampleSource, lpips: Callable, n: int) -> tf.Tensor:
        """Draw n pairs of images and return their distances divided by epsilon^2, float32 [n].

        Args:
            source: Network under evaluation.
            lpips:  Function of two batches of images [n, C, H, W] in 0..255 that returns distances [n].
            n:      Number of pairs.
        """
        return self.distances_of(self.pairs(source, n), lpips)

    def pairs(self, source: SampleSource, n: int) -> tf.Tensor:
        """Draw n pairs of images, float32 [2 n, C, H, W], about -1..1: the two of a pair one after the other."""
        kwargs = {**source.kwargs, **self._overrides}
        mapping, synthesis = source.Gs.components.mapping, source.Gs.components.synthesis
        latents, t = source.latents(2 * n), source.rng.uniform('lerp_t', [n]) * self._max_t
        labels = tf.repeat(source.labels(n), 2, axis=0)  # Both ends of a path have the same label.
        if self._space == 'w':
            w = mapping(latents, labels, **kwargs)
            w = interpolated_pairs(lerp, w, t[:, tf.newaxis, tf.newaxis], self._epsilon)
        else:
            w = mapping(interpolated_pairs(slerp, latents, t[:, tf.newaxis], self._epsilon), labels, **kwargs)
        return synthesis(w, rng=_SharedNoise(source.rng), **{**kwargs, 'randomize_noise': True})

    def distances_of(self, pairs: tf.Tensor, lpips: Callable) -> tf.Tensor:
        """The distances of what `pairs` returns, divided by epsilon^2, float32 [n]."""
        images = (shrink(self._cropped(pairs)) + 1) * (255 / 2)
        return lpips(images[0::2], images[1::2]) * (1 / self._epsilon ** 2)

    def _cropped(self, images):
        if not self._crop:
            return images
        unit = images.shape[2] // 8
        return images[:, :, 3 * unit:7 * unit, 2 * unit:6 * unit]


class _SharedNoise(Random):
    """Noise that is the same for all images of a minibatch, and new for each minibatch."""

    def __init__(self, rng):
        super().__init__()
        self._rng = rng

    def noises(self, sizes, n):
        return self._rng.noises(sizes, 1)


def interpolated_pairs(interpolate: Callable, ends: tf.Tensor, t: tf.Tensor, epsilon: float) -> tf.Tensor:
    """Turn pairs of end points into pairs of close points between them.

    Args:
        interpolate: Function (a, b, t) such as `slerp`.
        ends:        [2 n, ...], the end points a0, b0, a1, b1, ...
        t:           [n, 1, ...], position of the first point on each way.
        epsilon:     Distance from the first point to the second.

    Returns:
        [2 n, ...], the points at t0 and t0 + epsilon on the way from a0 to b0, and so on.
    """
    a, b = ends[0::2], ends[1::2]
    points = tf.stack([interpolate(a, b, t), interpolate(a, b, t + epsilon)], axis=1)
    return tf.reshape(points, tf.shape(ends))


def normalize(v: tf.Tensor) -> tf.Tensor:
    """Vectors [..., d] scaled to length 1."""
    return v / tf.sqrt(tf.reduce_sum(tf.square(v), axis=-1, keepdims=True))


def slerp(a: tf.Tensor, b: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
    """Spherical interpolation (Shoemake 1985): the point at t on the great circle from a (t = 0) to b (t = 1).

    Args:
        a, b: [n, d], of any length.
        t:    [n, 1].

    Returns:
        [n, d], of length 1.
    """
    a, b = normalize(a), normalize(b)
    cosine = tf.reduce_sum(a * b, axis=-1, keepdims=True)
    angle = t * tf.acos(cosine)
    orthogonal = normalize(b - cosine * a)
    return normalize(a * tf.cos(angle) + orthogonal * tf.sin(angle))


def mean_without_outliers(distances: np.ndarray) -> float:
    """Mean of the distances [n] from the 1st to the 99th percentile, both included."""
    low, high = np.percentile(distances, 1, method='lower'), np.percentile(distances, 99, method='higher')
    return float(np.mean(distances[(low <= distances) & (distances <= high)]))
