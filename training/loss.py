"""Losses of G and D. Each row of LOSSES is found under its name in the original.

A loss is a function (step, parts, **settings) -> Terms. `parts` says what is wanted: 'loss', 'reg' or both; only that
is computed, for with lazy regularisation the two are minimised in separate passes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from dnnlib.tflib import lerp
from training.step.regularizers import NO_SCALING, gradient_penalty, path_length, scaled_gradient


class Step(NamedTuple):
    """What a loss may look at."""
    G: Any
    D: Any
    minibatch_size: int
    rng: Any               # Random
    label_table: Any       # [n, label_size]: labels of the training set, which random ones are drawn from
    reals: Any = None      # [minibatch_size, C, H, W] in [-1, 1]
    labels: Any = None     # [minibatch_size, label_size] of the reals
    pl_mean: Any = None    # scalar tf.Variable: state of path-length regularisation
    stage: int | None = None    # images have 1/2^stage of the full resolution; None = full, as networks without growth have
    dtype: str = 'float32'      # that G and D are evaluated with
    scaling: Any = NO_SCALING   # LossScaling

    def latents(self, name, n):
        return self.rng.normal(name, [n, self.G.input_shape[1]])

    def random_labels(self, name, n):
        return self.rng.rows(name, self.label_table, n)

    def fakes(self, name, latents, labels, **kwargs):
        """Training images of G; `name` ('G0', 'G1') tells its evaluations apart."""
        if self.stage is not None:
            kwargs.update(lod_stage=self.stage, full_resolution=False)
        return self.G(latents, labels, is_training=True, rng=self.rng.child(name), dtype=self.dtype, **kwargs)

    def scores(self, images, labels):
        """What D says of images."""
        return self.D(images, labels, dtype=self.dtype, **({} if self.stage is None else {'lod_stage': self.stage}))

    @property
    def pixel_weight(self):
        """|d/d images|^2 at full resolution, relative to that at the stage's, whose pixels stand for 4^stage equal ones."""
        return 0.25 ** (self.stage or 0)


class Terms(NamedTuple):
    """What a loss returns."""
    loss: Any = None    # [N, 1] per image; None = not asked for
    reg: Any = None     # [N] per image; None = not asked for, or there is none
    stats: Any = {}     # tag -> tensor: what to show in TensorBoard


# ---- Generator ----

def _G_loss(step, func):
    labels = step.random_labels('labels0', step.minibatch_size)
    fakes = step.fakes('G0', step.latents('latents', step.minibatch_size), labels)
    scores = step.scores(fakes, labels)
    return Terms(loss=func(scores), stats={'Loss/scores/fake': scores})


def G_logistic(step, parts):
    """Saturating logistic loss, log(1 - sigmoid(D(G(z)))) (Goodfellow et al. 2014, arXiv:1406.2661, Equation 1)."""
    return _G_loss(step, lambda scores: -tf.nn.softplus(scores)) if 'loss' in parts else Terms()


def G_logistic_ns(step, parts):
    """Non-saturating logistic loss, -log(sigmoid(D(G(z)))) (Goodfellow et al. 2014, Section 3)."""
    return _G_loss(step, lambda scores: tf.nn.softplus(-scores)) if 'loss' in parts else Terms()


def G_wgan(step, parts):
    """Wasserstein loss, -D(G(z)) (Arjovsky et al. 2017, arXiv:1701.07875)."""
    return _G_loss(step, lambda scores: -scores) if 'loss' in parts else Terms()


def G_logistic_ns_pathreg(step, parts, pl_minibatch_shrink=2, pl_decay=0.01, pl_weight=2.0):
    """G_logistic_ns with path-length regularisation (StyleGAN2, Section 3.2).

    Args:
        pl_minibatch_shrink: The regulariser sees 1/pl_minibatch_shrink of the minibatch; 1 = the images of the loss.
        pl_decay:            Step of the moving average of path lengths.
        pl_weight:           Weight of the regulariser.
    """
    share_images = pl_minibatch_shrink == 1
    loss, reg, stats = None, None, {}
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        if 'loss' in parts or share_images:
            latents, labels = step.latents('latents', step.minibatch_size), step.random_labels('labels0', step.minibatch_size)
            tape.watch(latents)
            images, dlatents = step.fakes('G0', latents, labels, return_dlatents=True)
        if 'reg' in parts and not share_images:
            n = step.minibatch_size // pl_minibatch_shrink
            latents1, labels1 = step.latents('pl_latents', n), step.random_labels('labels1', n)
            tape.watch(latents1)
            images1, dlatents1 = step.fakes('G1', latents1, labels1, return_dlatents=True)
    if 'reg' in parts:
        pl_images, pl_dlatents = (images, dlatents) if share_images else (images1, dlatents1)
        noise = step.rng.normal('pl_noise', tf.shape(pl_images))
        reg, lengths = path_length(tape, pl_images, pl_dlatents, noise, step.pl_mean, pl_decay, pl_weight, step.scaling)
        stats.update({'Loss/pl_lengths': lengths, 'Loss/pl_mean': tf.convert_to_tensor(step.pl_mean), 'Loss/pl_penalty': reg})
    if 'loss' in parts:
        scores = step.scores(images, labels)
        loss = tf.nn.softplus(-scores)
        stats['Loss/scores/fake'] = scores
    return Terms(loss, reg, stats)


# ---- Discriminator ----

def _D_terms(step, parts, func, gamma=None, on_reals=True):
    """loss = func(fake scores, real scores); reg = gradient penalty of weight gamma on the reals or on the fakes. gamma None = no reg."""
    loss, reg, stats = None, None, {}
    need_reals = 'loss' in parts or ('reg' in parts and on_reals)
    need_fakes = 'loss' in parts or ('reg' in parts and not on_reals)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        if need_fakes:
            fakes = step.fakes('G0', step.latents('latents', step.minibatch_size), step.labels)
            if not on_reals:
                tape.watch(fakes)
            fake_scores = step.scores(fakes, step.labels)
        if need_reals:
            if on_reals and gamma is not None:
                tape.watch(step.reals)
            real_scores = step.scores(step.reals, step.labels)
    if 'reg' in parts and gamma is not None:
        scores, images = (real_scores, step.reals) if on_reals else (fake_scores, fakes)
        reg, squares = gradient_penalty(tape, scores, images, step.pixel_weight, gamma, step.scaling)
        stats['Loss/gradient_penalty'] = squares
    if 'loss' in parts:
        loss = func(fake_scores, real_scores)
        stats.update({'Loss/scores/fake': fake_scores, 'Loss/scores/real': real_scores})
    return Terms(loss, reg, stats)


def _logistic(fake_scores, real_scores):
    return tf.nn.softplus(fake_scores) + tf.nn.softplus(-real_scores)


def D_logistic(step, parts):
    """Logistic loss (Goodfellow et al. 2014, Equation 1)."""
    return _D_terms(step, {'loss'} & set(parts), _logistic)


def D_logistic_r1(step, parts, gamma=10.0):
    """Logistic loss with gradient penalty on the reals (Mescheder et al. 2018)."""
    return _D_terms(step, parts, _logistic, gamma)


def D_logistic_r2(step, parts, gamma=10.0):
    """Logistic loss with gradient penalty on the fakes (Mescheder et al. 2018)."""
    return _D_terms(step, parts, _logistic, gamma, on_reals=False)


def D_wgan(step, parts, wgan_epsilon=0.001):
    """Wasserstein loss with a small weight on the squared scores of reals (Karras et al. 2018, arXiv:1710.10196, Appendix A.1)."""
    terms = _D_terms(step, {'loss'} & set(parts), lambda fake, real: fake - real + wgan_epsilon * tf.square(real))
    if terms.loss is not None:
        terms.stats['Loss/epsilon_penalty'] = tf.square(terms.stats['Loss/scores/real'])
    return terms


def D_wgan_gp(step, parts, wgan_lambda=10.0, wgan_epsilon=0.001, wgan_target=1.0):
    """D_wgan with gradient penalty between reals and fakes (Gulrajani et al. 2017, arXiv:1704.00028, Equation 3).

    Args:
        wgan_lambda:  Weight of the penalty.
        wgan_epsilon: Weight of the squared scores of reals.
        wgan_target:  Norm that the gradients are drawn to.
    """
    fakes = step.fakes('G0', step.latents('latents', step.minibatch_size), step.labels)
    loss, reg, stats = None, None, {}
    if 'loss' in parts:
        fake_scores, real_scores = step.scores(fakes, step.labels), step.scores(step.reals, step.labels)
        loss = fake_scores - real_scores + wgan_epsilon * tf.square(real_scores)
        stats.update({'Loss/scores/fake': fake_scores, 'Loss/scores/real': real_scores, 'Loss/epsilon_penalty': tf.square(real_scores)})
    if 'reg' in parts:
        mixed = lerp(step.reals, fakes, step.rng.uniform('mixing_factors', [step.minibatch_size, 1, 1, 1]))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(mixed)
            mixed_scores = step.scores(mixed, step.labels)
        grads = scaled_gradient(tape, mixed_scores, mixed, tf.ones_like(mixed_scores), step.scaling)
        norms = tf.sqrt(tf.reduce_sum(tf.square(grads), axis=[1, 2, 3]) * step.pixel_weight)
        reg = tf.square(norms - wgan_target) * (wgan_lambda / wgan_target ** 2)
        stats.update({'Loss/scores/mixed': mixed_scores, 'Loss/mixed_norms': norms, 'Loss/gradient_penalty': reg})
    return Terms(loss, reg, stats)


class Loss(NamedTuple):
    """One row of the table."""
    func: Callable
    reg: str | None    # what the regulariser looks at: 'reals' alone, 'fakes' (and reals); None = there is no regulariser


LOSSES = {
    'G_logistic':            Loss(G_logistic, None),
    'G_logistic_ns':         Loss(G_logistic_ns, None),
    'G_wgan':                Loss(G_wgan, None),
    'G_logistic_ns_pathreg': Loss(G_logistic_ns_pathreg, 'fakes'),
    'D_logistic':            Loss(D_logistic, None),
    'D_logistic_r1':         Loss(D_logistic_r1, 'reals'),
    'D_logistic_r2':         Loss(D_logistic_r2, 'fakes'),
    'D_wgan':                Loss(D_wgan, None),
    'D_wgan_gp':             Loss(D_wgan_gp, 'fakes'),
}


def find_loss(func_name):
    """Row of LOSSES for 'training.loss.G_logistic_ns' or 'G_logistic_ns'; ValueError if there is none."""
    name = func_name.split('.')[-1]
    if name not in LOSSES:
        raise ValueError(f'unknown loss {func_name!r}; known are {sorted(LOSSES)}')
    return LOSSES[name]
