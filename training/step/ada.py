"""How strongly D's images are augmented: adaptive discriminator augmentation (ADA).

Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", arXiv:2006.06676, Section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def next_strength(p: tf.Tensor, sign_mean: tf.Tensor, target: float, num_images: int | tf.Tensor,
                  kimg: float) -> tf.Tensor:
    """The strength p after an update: max(p + sign(r_t - target) * num_images / (kimg * 1000), 0).

    Args:
        p:          Scalar float32.
        sign_mean:  r_t, mean sign of D's scores for real images, scalar float64 in [-1, 1] (Section 3.1, Equation 1).
        target:     The r_t to keep.
        num_images: Images shown since the last update.
        kimg:       Thousands of images in which p rises or falls by 1.

    Returns:
        Scalar float32. It has no upper limit.
    """
    step = tf.sign(sign_mean - target) * (tf.cast(num_images, tf.float64) / (kimg * 1000))
    return tf.maximum(p + tf.cast(step, tf.float32), 0.0)


class Augmentation(tf.Module):
    """Augments the images that D sees, with a strength that is constant or follows D's overfitting.

    D overfits if it tells the training images, which it has seen, from all others with ever more certainty. The sign of
    its scores for them is then nearly always positive. p rises as long as their mean r_t is above the target.

    Args:
        pipe:     Function (images, p, rng) -> images, such as training.augment.AugmentPipe.
        p:        Strength at the start: the probability of each augmentation.
        target:   The r_t to keep. None = p is constant.
        interval: Iterations between two updates of p.
        kimg:     Thousands of images in which p rises or falls by 1.

    Attributes:
        p: Scalar float32 tf.Variable. With several devices, all copies are equal.
    """

    def __init__(self, pipe: Callable[..., tf.Tensor], p: float = 0.0, target: float | None = None, interval: int = 4,
                 kimg: float = 500.0):
        super().__init__()
        self._pipe, self._target, self._interval, self._kimg = pipe, target, interval, kimg
        self.p = tf.Variable(p, dtype=tf.float32, trainable=False)
        self._signs = tf.Variable([0.0, 0.0], trainable=False)  # Number and sum of the signs since the last update.

    def __call__(self, images: tf.Tensor, rng: Any) -> tf.Tensor:
        """Augment images [N, C, H, W] float32 in [-1, 1]. `rng` is the Random of this evaluation of D."""
        return self._pipe(images, self.p, rng)

    def state(self) -> dict[str, tf.Variable]:
        """Everything that training changes, by name."""
        return {'p': self.p, 'signs': self._signs}

    def is_due(self, iteration: int) -> bool:
        """Is p updated at the end of this iteration, counted from 0 on?"""
        return self._target is not None and (iteration + 1) % self._interval == 0

    def collect(self, moments: tf.Tensor) -> None:
        """Add signs of scores for reals by their moments: count, sum and sum of squares over all devices, [3]."""
        if self._target is not None:
            self._signs.assign_add(tf.where(tf.reduce_all(tf.math.is_finite(moments)), moments[:2], 0.0))

    def update(self, minibatch_size: int | tf.Tensor) -> None:
        """Update p from the signs collected, and begin a new collection.

        Args:
            minibatch_size: Images of an iteration, all devices together.
        """
        assert self._target is not None
        count, total = tf.unstack(tf.cast(self._signs.read_value(), tf.float64))
        p = next_strength(self.p.read_value(), total / count, self._target, minibatch_size * self._interval, self._kimg)
        self.p.assign(tf.where(count > 0, p, self.p))
        self._signs.assign(tf.zeros([2]))
