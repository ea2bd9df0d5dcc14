"""Perceptual Path Length (Karras et al. 2019, arXiv:1812.04948, section 4.1)."""

import numpy as np
import tensorflow as tf

from dnnlib.cli import UserError
from dnnlib.tflib import Random, lerp
from metrics.features.layers import shrink
from metrics.metric_base import SamplingMetric
from metrics.progress import Progress

_VGG_SMALLEST = 16  # VGG16 halves images four times.


class PPL(SamplingMetric):
    """How much images change, to the eye of VGG16, over a small step between two random latents, per square of its length.

    Args:
        num_samples: Pairs of images.
        epsilon:     Length of the step; 1 is the whole way between the latents.
        space:       'z': spherical interpolation in Z. 'w': linear interpolation in W.
        sampling:    'full': the step begins anywhere between the two latents. 'end': at the first of them.
        crop:        Look only at the region where aligned faces are?
        Gs_overrides: Settings for the evaluation of the network.
        minibatch_per_gpu: Pairs generated at a time.
    """

    def __init__(self, name, num_samples, epsilon, space, sampling, crop, minibatch_per_gpu=4, Gs_overrides=None):
        super().__init__(name, ['lpips'], minibatch_per_gpu)
        if space not in ('z', 'w') or sampling not in ('full', 'end'):
            raise ValueError(f"expected space 'z' or 'w' and sampling 'full' or 'end', received {space!r} and {sampling!r}")
        self._num_samples, self._epsilon, self._space, self._crop = num_samples, epsilon, space, crop
        self._longest = 1.0 if sampling == 'full' else 0.0
        self._overrides = Gs_overrides or {}

    def check(self, resolution):
        smallest = _VGG_SMALLEST * (2 if self._crop else 1)
        if resolution < smallest:
            raise UserError(f'{self.name}: images of {resolution}x{resolution} are too small, expected {smallest} or more',
                            'Leave this metric out.' if resolution < _VGG_SMALLEST else 'ppl2_wend takes images from 16x16.')

    def evaluate(self, generator, nets):
        distances = tf.function(lambda: self.distances(generator, nets['lpips'], self.minibatch_per_gpu), autograph=False)
        found = []
        with Progress(self.name, self._num_samples, 'pair') as progress:
            for begin in range(0, self._num_samples, self.minibatch_per_gpu):
                found.append(distances().numpy())
                progress.update(min(self.minibatch_per_gpu, self._num_samples - begin))
        self.report(mean_without_outliers(np.concatenate(found)[:self._num_samples]))

    def distances(self, generator, lpips, n):
        """Distances of n pairs, divided by epsilon^2: float32 [n].

        Args:
            generator: Generator.
            lpips:     Function of two batches of images [n, C, H, W] in 0..255.
        """
        kwargs = {**generator.kwargs, **self._overrides}
        mapping, synthesis = generator.Gs.components.mapping, generator.Gs.components.synthesis
        latents, t = generator.latents(2 * n), generator.rng.uniform('lerp_t', [n]) * self._longest
        labels = tf.repeat(generator.labels(n), 2, axis=0)  # Both ends of a path have the same label.
        if self._space == 'w':
            w = mapping(latents, labels, **kwargs)
            w = interpolated_pairs(lerp, w, t[:, tf.newaxis, tf.newaxis], self._epsilon)
        else:
            w = mapping(interpolated_pairs(slerp, latents, t[:, tf.newaxis], self._epsilon), labels, **kwargs)
        images = synthesis(w, rng=_SharedNoise(generator.rng), **{**kwargs, 'randomize_noise': True})
        images = (shrink(self._cropped(images)) + 1) * (255 / 2)
        return lpips(images[0::2], images[1::2]) * (1 / self._epsilon ** 2)

    def _cropped(self, images):
        if not self._crop:
            return images
        part = images.shape[2] // 8
        return images[:, :, 3 * part:7 * part, 2 * part:6 * part]


class _SharedNoise(Random):
    """Noise that is the same for all images of a minibatch, and new for each minibatch."""

    def __init__(self, rng):
        super().__init__()
        self._rng = rng

    def normal(self, name, shape):
        return self._rng.normal(name, [1, *shape[1:]])


def interpolated_pairs(interpolate, ends, t, epsilon):
    """[a0, b0, a1, b1, ...] -> [point of a0..b0 at t0, point at t0 + epsilon, ...], of the same shape."""
    a, b = ends[0::2], ends[1::2]
    points = tf.stack([interpolate(a, b, t), interpolate(a, b, t + epsilon)], axis=1)
    return tf.reshape(points, tf.shape(ends))


def normalize(v):
    """Vectors [..., d] scaled to length 1."""
    return v / tf.sqrt(tf.reduce_sum(tf.square(v), axis=-1, keepdims=True))


def slerp(a, b, t):
    """The point at t on the great circle from a (t = 0) to b (t = 1), on the unit sphere (Shoemake 1985).

    Args:
        a, b: [n, d], of any length.
        t:    [n, 1].
    """
    a, b = normalize(a), normalize(b)
    cosine = tf.reduce_sum(a * b, axis=-1, keepdims=True)
    angle = t * tf.acos(cosine)
    across = normalize(b - cosine * a)
    return normalize(a * tf.cos(angle) + across * tf.sin(angle))


def mean_without_outliers(distances):
    """Mean of the distances [n] from the 1st to the 99th percentile, both included."""
    low, high = np.percentile(distances, 1, method='lower'), np.percentile(distances, 99, method='higher')
    return np.mean(distances[(low <= distances) & (distances <= high)])
