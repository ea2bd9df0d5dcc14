"""The network under evaluation, and drawing its minibatches, on one device or on several with the same values."""

from __future__ import annotations

import dnnlib.tflib  # noqa: F401  First, so that TensorFlow's start-up messages are silenced.

# isort: split
import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from dnnlib.tflib import KeyedRandom, Network
from training.step.devices import Devices


class SampleSource:
    """A generator under evaluation, with random numbers of its own.

    Minibatches are numbered from 0, and `at` returns the source of one of them. Its random numbers depend only on the
    seed and on its number, not on what was drawn before nor on the device that draws them.

    Args:
        Gs:      Network.
        labels:  Labels to draw from, float32 [n, label_size].
        seed:    Seed of the random numbers.
        devices: Devices to draw minibatches on, those of a single process. None = one device.

    Attributes:
        Gs, seed, devices: As given.
        rng:     Random.
        kwargs:  Settings for evaluations of Gs and its components, among them the stage of a growing network.
    """

    def __init__(self, Gs: Network, labels: np.ndarray | tf.Tensor, seed: int, devices: Devices | None = None):
        self.Gs, self.seed, self.devices = Gs, seed, devices or Devices()
        with tf.device('CPU:0'):  # Otherwise each device would get a copy of the table for each minibatch.
            self._labels = tf.constant(labels, tf.float32)
        self.rng: Any = KeyedRandom(tf.constant([seed, 0], tf.int64))
        stage = Gs.lod_stage()
        self.kwargs = dict(is_validation=True, **({} if stage is None else dict(lod_stage=stage)))

    def at(self, index: int | tf.Tensor) -> SampleSource:
        """The source of minibatch number `index`."""
        source = copy.copy(self)
        source.rng = self.rng.at(index)
        return source

    def latents(self, n: int) -> tf.Tensor:
        """Draw latents, float32 [n, latent_size], N(0, 1)."""
        return self.rng.normal('latents', [n, *self.Gs.input_shape[1:]])

    def labels(self, n: int) -> tf.Tensor:
        """Draw the labels of n random images of the dataset, float32 [n, label_size]."""
        with tf.device('CPU:0'):
            return self.rng.rows('labels', self._labels, n)

    def images(self, latents: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Generate images, float32 [n, C, H, W], about -1..1."""
        return self.Gs(latents, labels, rng=self.rng, **self.kwargs)

    def compile(self, draw: Callable[..., Any]) -> Callable[..., list[Any]]:
        """Compile a function that draws a minibatch, for all devices.

        Args:
            draw: Function (SampleSource of the minibatch, *args) -> nest of tensors. `args` select what is drawn and
                  are no tensors.

        Returns:
            Function (first, *args) -> list of nests of arrays: the minibatches number first, first + 1, ..., one from
            each device.
        """
        @tf.function(autograph=False)
        def step(first, *args):
            def draw_one():
                return draw(self.at(first + tf.cast(self.devices.index, tf.int64)), *args)
            return self.devices.run(draw_one)

        def draw_all(first, *args):
            nests = self.devices.all_local_results(step(tf.constant(first, tf.int64), *args))
            return [tf.nest.map_structure(lambda x: x.numpy(), nest) for nest in nests]
        return draw_all
