"""The projector: find the latent w and the noise with which a generator comes closest to an image (Appendix D)."""

from __future__ import annotations

import dnnlib  # noqa: F401  First, because it chooses TensorFlow's CPU kernels before TensorFlow is imported.

# isort: split
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import tensorflow as tf

from dnnlib.tflib import GivenNoise, Network, Random
from dnnlib.util import EasyDict
from metrics import feature_networks
from metrics.features.layers import shrink
from training import misc
from training.step.adam import Adam

# ---- Distances: differentiable functions (a, b) -> [N], of float32 images [N, C, H, W] in 0..255 ----

def pixel_distance(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Mean squared difference of the pixels on the networks' scale of -1..1: 0 = equal, 4 = black against white."""
    return tf.reduce_mean(tf.square(a - b), axis=[1, 2, 3]) / 127.5 ** 2


# Name -> function that loads the distance, and raises UserError if its weights are not available.
DISTANCES = {
    'lpips':   lambda: feature_networks.load('lpips'),    # What the paper minimizes.
    'vgg-hed': lambda: feature_networks.load('vgg_hed'),  # Features of another VGG16, unweighted; not LPIPS.
    'pixel':   lambda: pixel_distance,                    # Needs no weights; blurs what it cannot match.
}


def load_distance(name: str) -> Callable:
    """Load a distance by its name.

    Args:
        name: Key of DISTANCES.

    Raises:
        ValueError: There is no distance of this name.
        UserError:  Its weights are not available.
    """
    if name not in DISTANCES:
        raise ValueError(f'unknown distance {name!r}; known are {list(DISTANCES)}')
    return DISTANCES[name]()


# ---- The projector ----

_SCALAR = tf.TensorSpec([], tf.float32)


class Projector:
    """Projects images to the latents of a generator, with the attributes and methods of the original.

        proj = Projector()
        proj.set_network(Gs)
        proj.start(target_images)
        while proj.get_cur_step() < proj.num_steps:
            proj.step()
        w, noises, images = proj.get_dlatents(), proj.get_noises(), proj.get_images()

    Over a latent w and the noise maps n of all layers, Adam minimizes the distance of the image to its target, and how
    much each noise map, on all levels of its pyramid down to 8x8, resembles itself shifted by one pixel:

        L = D(x, g(w + noise, n)) + alpha * sum_ij L_ij,   L_ij = mean(n_ij * right(n_ij))^2 + mean(n_ij * down(n_ij))^2

    Several images can be projected at a time. They share the passes through the networks and nothing else: each has
    its own w, noise maps and loss.

    Args:
        distance: Key of DISTANCES; or a function (a, b) -> [N], of images [N, C, H, W] in 0..255.
        rng:      Source of the noise. None = the process's random numbers.

    Attributes:
        num_steps, ...: Settings as in __init__, to be changed before `set_network` or `start`.
        last_distances: [N], distance in the last step, with its noise on w. None = no step yet.
        last_losses:    [N], what the last step minimized. None = no step yet.
    """

    def __init__(self, distance: str | Callable = 'lpips', rng: Random | None = None):
        self.num_steps                = 1000
        self.dlatent_avg_samples      = 10000   # Samples of W to compute its mean and standard deviation from.
        self.initial_learning_rate    = 0.1
        self.initial_noise_factor     = 0.05    # Noise on w at the start, in standard deviations of W.
        self.lr_rampdown_length       = 0.25    # Fraction of the run in which the learning rate falls to 0, at its end;
        self.lr_rampup_length         = 0.05    # in which it rises from 0, at the start;
        self.noise_ramp_length        = 0.75    # and in which the noise on w falls to 0, from the start on.
        self.regularize_noise_weight  = 1e5     # alpha
        self.wplus                    = False   # Find a latent for each layer?
        self.verbose                  = False   # Print what is being done?
        self.clone_net                = True    # Work on a copy of the network, so that it can be changed later?

        self.last_distances: Any = None
        self.last_losses: Any = None
        self._distance = load_distance(distance) if isinstance(distance, str) else distance
        self._rng = rng or Random()
        self._dlatents: Any = None  # tf.Variable, from set_network on.
        self._cur_step: Any = None  # int, from start on.
        self._concrete: dict[str, Any] = {}  # Traced functions.

    def _info(self, *args):
        if self.verbose:
            print('Projector:', *args)

    def set_network(self, Gs: Network, minibatch_size: int = 1):
        """Set the generator, and prepare for `minibatch_size` images at a time.

        Args:
            Gs:             G_main or G_style.
            minibatch_size: Number of images that `start` will be given.
        """
        self._Gs = Gs.clone() if self.clone_net else Gs
        self._synthesis = self._Gs.components.synthesis
        self._num_layers = self._synthesis.input_shape[1]
        self._lod_args = {} if self._synthesis.lod_stage() is None else {'lod_stage': self._synthesis.lod_stage()}
        self._find_dlatent_stats()

        self._info('Setting up noise inputs...')
        layers = self._num_layers if self.wplus else 1
        self._dlatents = tf.Variable(tf.zeros([minibatch_size, layers, self._dlatent_avg.shape[-1]]))
        self._noises = {var.name: tf.Variable(tf.zeros([minibatch_size, *var.shape[1:]]))
                        for var in misc.noise_variables(self._Gs)}
        for name, var in self._noises.items():
            self._info(f'{self._synthesis.name}/{name}', tuple(var.shape))
        self._target_shape = [minibatch_size, *self._Gs.output_shape[1:]]
        self._targets = tf.Variable(self._for_distance(tf.zeros(self._target_shape)))

        self._info('Setting up optimizer...')
        self._variables = [self._dlatents, *self._noises.values()]
        self._optimizer = Adam(self._variables, beta1=0.9, beta2=0.999)
        self._step_function = tf.function(self._step, autograph=False)
        self._concrete = {}
        self._cur_step = None

    def _find_dlatent_stats(self):
        """Compute the mean of W, and the root mean square of the distance to it."""
        self._info(f'Finding W midpoint and stddev using {self.dlatent_avg_samples} samples...')
        latents = np.random.RandomState(123).randn(self.dlatent_avg_samples, *self._Gs.input_shapes[0][1:])
        samples = self._Gs.components.mapping.run(latents, None, minibatch_size=1000,
                                                  output_transform=dict(func=_first_layer))
        self._dlatent_avg = np.mean(samples, axis=0, keepdims=True)  # [1, 1, dlatent]
        self._dlatent_std = float((np.sum((samples - self._dlatent_avg) ** 2) / self.dlatent_avg_samples) ** 0.5)
        self._info(f'std = {self._dlatent_std:g}')

    # ---- One run ----

    def run(self, target_images: np.ndarray) -> EasyDict:
        """Project images: `start` and all steps.

        Args:
            target_images: As for `start`.

        Returns:
            EasyDict of dlatents, noises and images, as the `get_*` methods return them.
        """
        self.start(target_images)
        while self._cur_step < self.num_steps:
            self.step()
        self._info('Done.')
        return EasyDict(dlatents=self.get_dlatents(), noises=self.get_noises(), images=self.get_images())

    def start(self, target_images: np.ndarray, dlatents: np.ndarray | None = None):
        """Begin with new images.

        Args:
            target_images: [minibatch_size, C, H, W] in -1..1, of the network's shape.
            dlatents:      Latents to start at, [minibatch_size or 1, layers or 1, dlatent]; one per layer only if
                           wplus. None = the mean of W.

        Raises:
            ValueError: The images have another shape, or `set_network` has not been called.
        """
        if self._dlatents is None:
            raise ValueError('Projector: expected set_network before start')
        target_images = np.asarray(target_images, np.float32)
        if list(target_images.shape) != self._target_shape:
            raise ValueError(f'Projector: expected target images of shape {self._target_shape}, '
                             f'received {list(target_images.shape)}')
        self._info('Preparing target images...')
        self._targets.assign(self._for_distance(tf.constant(target_images)))

        self._info('Initializing optimization state...')
        start = self._dlatent_avg if dlatents is None else np.asarray(dlatents, np.float32)
        self._dlatents.assign(np.broadcast_to(start, self._dlatents.shape))
        for name, var in self._noises.items():
            var.assign(self._rng.normal(name, var.shape))
        self._optimizer.reset()
        self._cur_step = 0
        self.last_distances = self.last_losses = None

    def step(self):
        """Take a step of Adam. After the last one, do nothing."""
        if self._cur_step is None:
            raise ValueError('Projector: expected start before step')
        if self._cur_step >= self.num_steps:
            return
        if self._cur_step == 0:
            self._info('Running...')
        learning_rate, noise_strength = self.schedule(self._cur_step)
        # TensorFlow would take the first calls of several projectors for retracing, and warn. It does not look at calls
        # of concrete functions.
        if 'step' not in self._concrete:
            self._concrete['step'] = self._step_function.get_concrete_function(_SCALAR, _SCALAR)
        self.last_distances, self.last_losses = self._concrete['step'](
            tf.constant(learning_rate, tf.float32), tf.constant(noise_strength, tf.float32))
        self._cur_step += 1
        if self.verbose and (self._cur_step == self.num_steps or self._cur_step % 10 == 0):
            distance, loss = np.mean(self.last_distances), np.mean(self.last_losses)
            self._info(f'{self._cur_step:<8d}{distance:<12g}{loss:<12g}')

    def schedule(self, step: int) -> tuple[float, float]:
        """Learning rate, and standard deviation of the noise on w, of a step: the ramps of Appendix D."""
        t = step / self.num_steps
        noise_ramp = max(0.0, 1.0 - t / self.noise_ramp_length) ** 2
        noise_strength = self._dlatent_std * self.initial_noise_factor * noise_ramp
        ramp = min(1.0, (1.0 - t) / self.lr_rampdown_length)
        ramp = 0.5 - 0.5 * np.cos(ramp * np.pi)
        ramp *= min(1.0, t / self.lr_rampup_length)
        return self.initial_learning_rate * ramp, noise_strength

    # ---- What was found ----

    def get_cur_step(self) -> int:
        """Number of steps taken."""
        return self._cur_step

    def get_dlatents(self) -> np.ndarray:
        """Latents [N, layers, dlatent], without the noise of the steps."""
        return np.tile(self._dlatents.numpy(), [1, self._num_layers // self._dlatents.shape[1], 1])

    def get_noises(self) -> list[np.ndarray]:
        """Noise maps, list of [N, 1, H, W] in the order of the network's noise variables."""
        return [var.numpy() for var in self._noises.values()]

    def get_images(self) -> np.ndarray:
        """Images of these latents and noise maps, [N, C, H, W], about -1..1."""
        return self._compute_current()[0].numpy()

    def get_distances(self) -> np.ndarray:
        """Distances of these images to the targets, [N]."""
        return self._compute_current()[1].numpy()

    def _compute_current(self):
        """The images and distances of the latents and noise maps."""
        if 'current' not in self._concrete:
            self._concrete['current'] = tf.function(self._current, autograph=False).get_concrete_function()
        return self._concrete['current']()

    def num_traces(self) -> int:
        """How many times the step was traced: 1, unless something is wrong."""
        return self._step_function.experimental_get_tracing_count()

    # ---- What is traced ----

    def _step(self, learning_rate, noise_strength):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._variables)
            dlatents_noise = self._rng.normal('dlatents', self._dlatents.shape) * noise_strength
            _images, distances = self._render(self._dlatents + dlatents_noise)
            losses = distances + self.regularize_noise_weight * noise_regularization(self._noises.values())
            total = tf.reduce_sum(losses)  # Each entry of a variable belongs to one image, so images stay independent.
        grads = tape.gradient(total, self._variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        self._optimizer.apply(grads, learning_rate)
        for var in self._noises.values():
            var.assign(normalize_noise(var))
        return distances, losses

    def _current(self):
        return self._render(tf.convert_to_tensor(self._dlatents))

    def _render(self, dlatents):
        """Return the images of latents [N, layers or 1, dlatent], and their distances to the targets."""
        if dlatents.shape[1] != self._num_layers:
            dlatents = tf.tile(dlatents, [1, self._num_layers, 1])
        noises = {name: tf.convert_to_tensor(var) for name, var in self._noises.items()}
        images = self._synthesis(dlatents, rng=GivenNoise(noises), randomize_noise=True, **self._lod_args)
        return images, self._distance(self._for_distance(images), tf.convert_to_tensor(self._targets))

    @staticmethod
    def _for_distance(images):
        """Convert images from -1..1 to 0..255, box-filtered to 256x256 if they are larger, with three channels."""
        images = shrink((images + 1) * (255 / 2))
        return tf.tile(images, [1, 3, 1, 1]) if images.shape[1] == 1 else images


def noise_regularization(noises: Collection[tf.Tensor | tf.Variable]) -> tf.Tensor:
    """The sum of L_ij (see Projector) over noise maps and the levels of their pyramids.

    Args:
        noises: Noise maps, each [N, 1, H, W].

    Returns:
        float32 [N].
    """
    by_size = {}
    for noise in noises:
        by_size.setdefault(noise.shape[2], []).append(tf.convert_to_tensor(noise))
    total, size, coarser = tf.constant(0.0), max(by_size), []
    while size >= min(by_size):  # All maps that have this size, including scaled-down ones, are computed at once.
        maps = tf.concat([*by_size.get(size, []), *coarser], axis=1)  # [N, maps, size, size]
        for axis in (2, 3):
            autocorrelation = tf.reduce_mean(maps * tf.roll(maps, 1, axis), axis=[2, 3])
            total += tf.reduce_sum(tf.square(autocorrelation), axis=1)
        size //= 2
        coarser = []
        if size >= 8:
            coarser = [tf.reduce_mean(tf.reshape(maps, [*maps.shape[:2], size, 2, size, 2]), axis=[3, 5])]
    return total


def normalize_noise(noise: tf.Tensor | tf.Variable) -> tf.Tensor:
    """Normalize noise maps [N, 1, H, W] to zero mean and unit variance each."""
    noise = noise - tf.reduce_mean(noise, axis=[1, 2, 3], keepdims=True)
    return noise * tf.math.rsqrt(tf.reduce_mean(tf.square(noise), axis=[1, 2, 3], keepdims=True))


def _first_layer(dlatents):
    return dlatents[:, :1]
