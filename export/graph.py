"""A part of a generator as a graph that other runtimes can run: TensorFlow's own operations, and constant weights."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from custom_ops.reference import portable_form
from dnnlib.cli import UserError
from dnnlib.tflib import Network
from dnnlib.tflib.frozen import Template
from training import misc

# Names of inputs. Those of the noise maps are those of the variables that they replace: noise0, noise1, ...
LATENTS, LABELS, DLATENTS, PSI = 'latents_in', 'labels_in', 'dlatents_in', 'truncation_psi'


class Part:
    """A generator or one of its halves, as it is exported: what it takes, what it computes, and how to compare it.

    Args:
        Gs:    Generator. Its level of detail, if it grows, is that of the export.
        part:  'generator', 'mapping' (Z to truncated W) or 'synthesis' (truncated W to images).
        psi:   Scale of the deviation from the mean of W. None = an input, truncation_psi.
        noise: 'fixed' = the noise maps of the pickle; 'input' = inputs noise0, noise1, ...; 'none' = no noise.
        dtype: Type of activations at the highest resolutions, 'float32', 'bfloat16' or 'float16'.

    Attributes:
        inputs:   Dict of name -> shape, with None for the batch. All are float32; the shape of truncation_psi is ().
        output:   Name of the output: 'images_out' [N, C, H, W], about -1 to 1, or 'dlatents_out' [N, layers, size].

    Raises:
        UserError: The network has no W or no noise, and the arguments ask for it.
    """

    def __init__(self, Gs: Network, part: str = 'generator', psi: float | None = 1.0, noise: str = 'fixed',
                 dtype: str = 'float32'):
        self.Gs, self.part, self.noise, self.dtype = Gs, part, noise, dtype
        self.has_w = 'mapping' in Gs.components
        if part != 'generator':
            misc.require_w(Gs, f'--part={part}')
        if psi is None and part != 'synthesis':
            misc.require_w(Gs, '--truncation-psi=input')
        self.psi = psi
        self._stage = Gs.lod_stage()
        self.output = 'dlatents_out' if part == 'mapping' else 'images_out'
        self.inputs = self._inputs()

    def _inputs(self):
        if self.part == 'synthesis':
            inputs = {DLATENTS: self.Gs.components.synthesis.input_shape}
        else:
            latents, labels = self.Gs.input_shapes
            inputs = {LATENTS: latents, **({LABELS: labels} if labels[1] else {})}
            if self.psi is None:
                inputs[PSI] = []
        maps = self._noise_shapes() if self.noise == 'input' else {}
        if self.noise == 'input' and not maps:
            raise UserError('--noise=input: the network has no noise', 'Leave it out.')
        return {name: tuple(shape) for name, shape in {**inputs, **maps}.items()}

    def _noise_shapes(self):
        """Name -> shape [None, 1, H, W] of the noise maps that the part has at its level of detail."""
        if self.part == 'mapping':
            return {}
        largest = self.Gs.output_shape[-1] >> (self._stage or 0)
        return {var.name: [None, *var.shape[1:]] for var in misc.noise_variables(self.Gs) if var.shape[-1] <= largest}

    # ---- The graph ----

    @functools.cached_property
    def traced(self) -> Any:
        """ConcreteFunction of (list of tensors in the order of `inputs`, {}) -> the output. It has no variables."""
        Gs, variables = self.Gs, list(self.Gs.named_variables().values())
        specs = [tf.TensorSpec(shape, tf.float32, name) for name, shape in self.inputs.items()]

        def compute(inputs, _scalars):
            return self._compute(dict(zip(self.inputs, inputs)))
        if 'lod' in Gs.own_vars and 'synthesis' in Gs.components and 'lod' in Gs.components.synthesis.own_vars:
            Gs.components.synthesis.set_var('lod', Gs.get_var('lod'))  # As a call of the whole network does.
        with portable_form():
            template = Template(compute, specs, {}, variables)
        return template.freeze([tf.convert_to_tensor(var) for var in variables])

    def named(self) -> Any:
        """The traced part as a tf.function with named inputs, which returns {name of the output: tensor}."""
        traced = self.traced
        signature = [tf.TensorSpec(shape, tf.float32, name) for name, shape in self.inputs.items()]

        @tf.function(input_signature=signature, autograph=False)
        def function(*inputs):
            return {self.output: traced([*inputs], {})}
        return function

    def _compute(self, inputs):
        """Dict of tensors -> output."""
        Gs = self.Gs
        latents, labels = inputs.get(LATENTS), inputs.get(LABELS)
        stage = {} if self._stage is None else dict(lod_stage=self._stage)
        if latents is not None and labels is None:
            labels = tf.zeros([tf.shape(latents)[0], 0])
        if not self.has_w:
            return Gs(latents, labels, dtype=self.dtype, **stage)
        if self.part == 'synthesis':
            dlatents = inputs[DLATENTS]
        else:
            psi = inputs.get(PSI, self.psi)
            dlatent_avg = tf.convert_to_tensor(Gs.find_var('dlatent_avg'))
            dlatents = Gs.truncate(Gs.components.mapping(latents, labels), dlatent_avg, psi, Gs.kw.truncation_cutoff)
        if self.part == 'mapping':
            return dlatents
        maps = {name: inputs[name] for name in self._noise_shapes() if name in inputs}
        noises = dict(randomize_noise=False) if self.noise == 'fixed' else dict(randomize_noise=True, rng=_Maps(maps))
        return Gs.components.synthesis(dlatents, dtype=self.dtype, **noises, **stage)

    # ---- What it is compared with ----

    def example(self, seed: int = 0, batch: int = 1) -> dict[str, np.ndarray]:
        """Random inputs: name -> float32 array. The labels are one-hot."""
        rnd = np.random.RandomState(seed)
        arrays = {name: rnd.randn(*(batch if size is None else size for size in shape))
                  for name, shape in self.inputs.items()}
        if LABELS in arrays:
            arrays[LABELS] = np.eye(self.inputs[LABELS][1])[rnd.randint(self.inputs[LABELS][1], size=batch)]
        if PSI in arrays:
            arrays[PSI] = np.asarray(0.7)
        return {name: np.asarray(array, np.float32) for name, array in arrays.items()}

    def run(self, inputs: Mapping[str, np.ndarray], assume_frozen: bool = False) -> np.ndarray:
        """What this project computes for inputs as of `example`, with its own form of the custom ops.

        Args:
            inputs:        Name -> array. Noise maps must be the same for all images.
            assume_frozen: Use constant weights from the first call on, as Network.run otherwise does later?

        Returns:
            The output, float32.
        """
        Gs, latents, labels = self.Gs, inputs.get(LATENTS), inputs.get(LABELS)
        if not self.has_w:
            return Gs.run(latents, labels, dtype=self.dtype, assume_frozen=assume_frozen)
        psi = None if self.part == 'synthesis' else float(inputs[PSI]) if self.psi is None else self.psi
        if self.part == 'mapping':
            dlatents = tf.constant(Gs.components.mapping.run(latents, labels, assume_frozen=assume_frozen))
            return Gs.truncate(dlatents, tf.constant(Gs.get_var('dlatent_avg')), psi, Gs.kw.truncation_cutoff).numpy()
        kwargs: dict[str, Any] = dict(randomize_noise=False, dtype=self.dtype, assume_frozen=assume_frozen)
        with misc.noise_of(Gs, self._noises(inputs)):
            if self.part == 'synthesis':
                return Gs.components.synthesis.run(inputs[DLATENTS], **kwargs)
            return Gs.run(latents, labels, truncation_psi=psi, **kwargs)

    def _noises(self, inputs):
        """Values for the noise variables of the generator. None = leave them."""
        if self.noise == 'fixed':
            return None
        zeros = {var.name: np.zeros(var.shape, np.float32) for var in misc.noise_variables(self.Gs)}
        return [inputs[name][:1] if name in inputs else value for name, value in zeros.items()]


class _Maps:
    """Stands in for the random numbers of a synthesis network: given noise maps, or zeros."""

    def __init__(self, maps):
        self._maps = maps

    def noises(self, sizes, batch):
        """Noise [N or 1, 1, H, W] of each name in `sizes`; [1, 1, 1, 1] if it is zero everywhere."""
        return {name: self._maps[name] if name in self._maps else tf.zeros([1, 1, 1, 1]) for name in sizes}
