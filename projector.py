"""Finds the latent of an image: W and noise with which the generator comes closest to it (StyleGAN2, Appendix D)."""

import dnnlib  # noqa: F401  Before TensorFlow, whose CPU kernels it chooses.

# isort: split
import numpy as np
import tensorflow as tf

from dnnlib.tflib import GivenNoise, Random
from dnnlib.util import EasyDict
from metrics.features.layers import shrink
from training import misc
from training.step.adam import Adam

# ---- Distances: functions (a, b) -> [N], of float32 images [N, C, H, W] in 0..255, differentiable ----

def pixel_distance(a, b):
    """Mean squared difference of the pixels on the scale [-1, 1] of the networks: 0 = equal, 4 = black against white."""
    return tf.reduce_mean(tf.square(a - b), axis=[1, 2, 3]) / 127.5 ** 2


def _network_distance(name):
    from metrics import feature_networks
    return feature_networks.load(name)


# Name -> function that loads it. It may raise UserError, which then says how to get its weights.
DISTANCES = {
    'lpips':   lambda: _network_distance('lpips'),    # what the paper minimises
    'vgg-hed': lambda: _network_distance('vgg_hed'),  # features of another VGG16, unweighted; not LPIPS
    'pixel':   lambda: pixel_distance,                # needs no weights; blurs what it cannot match
}


def load_distance(name):
    """The function of a key of DISTANCES."""
    if name not in DISTANCES:
        raise ValueError(f'unknown distance {name!r}; known are {list(DISTANCES)}')
    return DISTANCES[name]()


# ---- The projector ----

class Projector:
    """Projects images to the latents of a generator, with the original's attributes and verbs.

        proj = Projector()
        proj.set_network(Gs)
        proj.start(target_images)
        while proj.get_cur_step() < proj.num_steps:
            proj.step()
        w, noises, images = proj.get_dlatents(), proj.get_noises(), proj.get_images()

    Adam minimises, over a latent w and the noise maps n of every layer, the distance of the image to its target and how much
    each noise map resembles itself shifted by a pixel, over its pyramid down to 8x8:

        L = D(x, g(w + noise, n)) + alpha * sum_ij L_ij,   L_ij = mean(n_ij * right(n_ij))^2 + mean(n_ij * down(n_ij))^2

    Several images at a time share nothing but the passes through the networks: each has its own w, noise maps and loss.

    Args:
        distance: Key of DISTANCES; or a function (a, b) -> [N], of images [N, C, H, W] in 0..255.
        rng:      Random that noise is drawn from. None = the process's.

    Attributes:
        num_steps, ...:          Settings as in __init__, to be changed before `set_network` or `start`.
        last_distances:          [N], distance in the last step, with its noise on w. None = no step yet.
        last_losses:             [N], what the last step minimised. None = no step yet.
    """

    def __init__(self, distance='lpips', rng=None):
        self.num_steps                = 1000
        self.dlatent_avg_samples      = 10000   # Samples of W for its mean and deviation.
        self.initial_learning_rate    = 0.1
        self.initial_noise_factor     = 0.05    # Noise on w at the start, in deviations of W.
        self.lr_rampdown_length       = 0.25    # Parts of the run: the learning rate falls to 0 at the end,
        self.lr_rampup_length         = 0.05    # rises from 0 at the start,
        self.noise_ramp_length        = 0.75    # and the noise on w falls to 0.
        self.regularize_noise_weight  = 1e5     # alpha
        self.wplus                    = False   # A latent of its own for every layer?
        self.verbose                  = False   # Print what is done?
        self.clone_net                = True    # Work on a copy of the network, which later changes do not reach?

        self.last_distances = self.last_losses = None
        self._distance = load_distance(distance) if isinstance(distance, str) else distance
        self._rng = rng or Random()
        self._dlatents = self._cur_step = None

    def _info(self, *args):
        if self.verbose:
            print('Projector:', *args)

    def set_network(self, Gs, minibatch_size=1):
        """Take the generator, and make room for `minibatch_size` images at a time.

        Args:
            Gs:             G_main or G_style as a dnnlib.tflib.Network.
            minibatch_size: Number of images that `start` gets.
        """
        self._Gs = Gs.clone() if self.clone_net else Gs
        self._synthesis = self._Gs.components.synthesis
        self._num_layers = self._synthesis.input_shape[1]
        self._lod_args = {} if self._synthesis.lod_stage() is None else {'lod_stage': self._synthesis.lod_stage()}
        self._find_dlatent_stats()

        self._info('Setting up noise inputs...')
        layers = self._num_layers if self.wplus else 1
        self._dlatents = tf.Variable(tf.zeros([minibatch_size, layers, self._dlatent_avg.shape[-1]]))
        self._noises = {var.name: tf.Variable(tf.zeros([minibatch_size, *var.shape[1:]])) for var in misc.noise_variables(self._Gs)}
        for name, var in self._noises.items():
            self._info(f'{self._synthesis.name}/{name}', tuple(var.shape))
        self._target_shape = [minibatch_size, *self._Gs.output_shape[1:]]
        self._targets = tf.Variable(self._for_distance(tf.zeros(self._target_shape)))

        self._info('Setting up optimizer...')
        self._variables = [self._dlatents, *self._noises.values()]
        self._optimizer = Adam(self._variables, beta1=0.9, beta2=0.999)
        self._step_function = tf.function(self._step, autograph=False)
        self._current_function = tf.function(self._current, autograph=False)
        self._cur_step = None

    def _find_dlatent_stats(self):
        """Mean of W, and the root mean square of the distance to it."""
        self._info(f'Finding W midpoint and stddev using {self.dlatent_avg_samples} samples...')
        latents = np.random.RandomState(123).randn(self.dlatent_avg_samples, *self._Gs.input_shapes[0][1:])
        samples = self._Gs.components.mapping.run(latents, None, minibatch_size=1000, output_transform=dict(func=_first_layer))
        self._dlatent_avg = np.mean(samples, axis=0, keepdims=True)  # [1, 1, dlatent]
        self._dlatent_std = float((np.sum((samples - self._dlatent_avg) ** 2) / self.dlatent_avg_samples) ** 0.5)
        self._info(f'std = {self._dlatent_std:g}')

    # ---- One run ----

    def run(self, target_images):
        """All steps from `start` on. Returns an EasyDict of dlatents, noises and images, as the `get_*` verbs give them."""
        self.start(target_images)
        while self._cur_step < self.num_steps:
            self.step()
        self._info('Done.')
        return EasyDict(dlatents=self.get_dlatents(), noises=self.get_noises(), images=self.get_images())

    def start(self, target_images, dlatents=None):
        """Begin anew.

        Args:
            target_images: [minibatch_size, C, H, W] in [-1, 1], of the network's shape.
            dlatents:      Latents to begin at, [minibatch_size or 1, layers or 1, dlatent]; a latent per layer only for wplus.
                           None = the mean of W.
        """
        if self._dlatents is None:
            raise ValueError('Projector: expected set_network before start')
        target_images = np.asarray(target_images, np.float32)
        if list(target_images.shape) != self._target_shape:
            raise ValueError(f'Projector: expected target images of shape {self._target_shape}, received {list(target_images.shape)}')
        self._info('Preparing target images...')
        self._targets.assign(self._for_distance(tf.constant(target_images)))

        self._info('Initializing optimization state...')
        dlatents = self._dlatent_avg if dlatents is None else np.asarray(dlatents, np.float32)
        self._dlatents.assign(np.broadcast_to(dlatents, self._dlatents.shape))
        for name, var in self._noises.items():
            var.assign(self._rng.normal(name, var.shape))
        self._optimizer.reset()
        self._cur_step = 0
        self.last_distances = self.last_losses = None

    def step(self):
        """One step of Adam; nothing after the last one."""
        if self._cur_step is None:
            raise ValueError('Projector: expected start before step')
        if self._cur_step >= self.num_steps:
            return
        if self._cur_step == 0:
            self._info('Running...')
        learning_rate, noise_strength = self.schedule(self._cur_step)
        self.last_distances, self.last_losses = self._step_function(
            tf.constant(learning_rate, tf.float32), tf.constant(noise_strength, tf.float32))
        self._cur_step += 1
        if self.verbose and (self._cur_step == self.num_steps or self._cur_step % 10 == 0):
            distance, loss = np.mean(self.last_distances), np.mean(self.last_losses)
            self._info(f'{self._cur_step:<8d}{distance:<12g}{loss:<12g}')

    def schedule(self, step):
        """(learning rate, standard deviation of the noise on w) of a step: the ramps of Appendix D."""
        t = step / self.num_steps
        noise_strength = self._dlatent_std * self.initial_noise_factor * max(0.0, 1.0 - t / self.noise_ramp_length) ** 2
        ramp = min(1.0, (1.0 - t) / self.lr_rampdown_length)
        ramp = 0.5 - 0.5 * np.cos(ramp * np.pi)
        ramp *= min(1.0, t / self.lr_rampup_length)
        return self.initial_learning_rate * ramp, noise_strength

    # ---- What was found ----

    def get_cur_step(self):
        """Steps done."""
        return self._cur_step

    def get_dlatents(self):
        """[N, layers, dlatent], without noise on them."""
        return np.tile(self._dlatents.numpy(), [1, self._num_layers // self._dlatents.shape[1], 1])

    def get_noises(self):
        """List of the noise maps [N, 1, H, W], in the order of the network's noise variables."""
        return [var.numpy() for var in self._noises.values()]

    def get_images(self):
        """[N, C, H, W], about [-1, 1], made from what the two verbs above return."""
        return self._current_function()[0].numpy()

    def get_distances(self):
        """[N], of these images to the targets."""
        return self._current_function()[1].numpy()

    def num_traces(self):
        """How often the step was traced: 1, unless something is wrong."""
        return self._step_function.experimental_get_tracing_count()

    # ---- What is traced ----

    def _step(self, learning_rate, noise_strength):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._variables)
            dlatents_noise = self._rng.normal('dlatents', self._dlatents.shape) * noise_strength
            _images, distances = self._render(self._dlatents + dlatents_noise)
            losses = distances + self.regularize_noise_weight * noise_regularization(self._noises.values())
            total = tf.reduce_sum(losses)  # Every variable's entries belong to one image: no image moves those of another.
        grads = tape.gradient(total, self._variables, unconnected_gradients='zero')
        self._optimizer.apply(grads, learning_rate)
        for var in self._noises.values():
            var.assign(normalize_noise(var))
        return distances, losses

    def _current(self):
        return self._render(tf.convert_to_tensor(self._dlatents))

    def _render(self, dlatents):
        """Latents [N, layers or 1, dlatent] -> (images, their distances to the targets)."""
        if dlatents.shape[1] != self._num_layers:
            dlatents = tf.tile(dlatents, [1, self._num_layers, 1])
        noises = {name: tf.convert_to_tensor(var) for name, var in self._noises.items()}
        images = self._synthesis(dlatents, rng=GivenNoise(noises), randomize_noise=True, **self._lod_args)
        return images, self._distance(self._for_distance(images), tf.convert_to_tensor(self._targets))

    @staticmethod
    def _for_distance(images):
        """[-1, 1] -> 0..255, box-filtered to 256x256 where larger, in three channels."""
        images = shrink((images + 1) * (255 / 2))
        return tf.tile(images, [1, 3, 1, 1]) if images.shape[1] == 1 else images


def noise_regularization(noises):
    """[N], the sum of L_ij over noise maps [N, 1, H, W] and the levels of their pyramids (class Projector)."""
    by_size = {}
    for noise in noises:
        by_size.setdefault(noise.shape[2], []).append(tf.convert_to_tensor(noise))
    total, size, coarser = 0.0, max(by_size), []
    while size >= min(by_size):  # All maps that are at this level, those that began larger included, at once.
        maps = tf.concat([*by_size.get(size, []), *coarser], axis=1)  # [N, maps, size, size]
        for axis in (2, 3):
            alike = tf.reduce_mean(maps * tf.roll(maps, 1, axis), axis=[2, 3])
            total += tf.reduce_sum(tf.square(alike), axis=1)
        size //= 2
        coarser = [tf.reduce_mean(tf.reshape(maps, [*maps.shape[:2], size, 2, size, 2]), axis=[3, 5])] if size >= 8 else []
    return total


def normalize_noise(noise):
    """Noise maps [N, 1, H, W] with zero mean and unit variance."""
    noise = noise - tf.reduce_mean(noise, axis=[1, 2, 3], keepdims=True)
    return noise * tf.math.rsqrt(tf.reduce_mean(tf.square(noise), axis=[1, 2, 3], keepdims=True))


def _first_layer(dlatents):
    return dlatents[:, :1]
