"""The loss functions of G and D, under the names of the original.

A loss is a function (context, parts, **settings) -> Terms. `parts` is a set of 'loss' and 'reg'. Only these are
computed, because with lazy regularization the loss and its regularizer are minimized in separate passes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from dnnlib.tflib import lerp
from training import misc
from training.step.regularizers import NO_SCALING, gradient_penalty, path_length, scaled_gradient

# Tag of the signs of D's scores for reals. Their mean, r_t, tells how much D overfits (training/step/ada.py).
REAL_SIGNS = 'Loss/signs/real'


class LossContext(NamedTuple):
    """The input of a loss function."""
    G: Any
    D: Any
    minibatch_size: int
    rng: Any                   # Random.
    label_table: Any           # [n, label_size]: labels of the training set, from which random labels are drawn.
    reals: Any = None          # [minibatch_size, C, H, W] in [-1, 1], or those of all sizes: see inputs_of_D.
    labels: Any = None         # [minibatch_size, label_size] of the reals.
    pl_mean: Any = None        # Scalar tf.Variable: state of path length regularization.
    stage: int | None = None   # Images have 1/2^stage of the full resolution. None = full resolution, no growing.
    dtype: str = 'float32'     # Type that G and D compute in.
    scaling: Any = NO_SCALING  # LossScaling.
    augment: Any = None        # Function (images, rng) -> images, applied to all that D sees. None = no augmentation.
    random_fake_labels: bool = False  # Do fakes in D's losses have random labels, instead of those of the reals?

    def latents(self, name, n):
        """Draw n latents, [n, latent_size]."""
        return self.rng.normal(name, [n, self.G.input_shape[1]])

    def random_labels(self, name, n):
        """Draw n labels from those of the training set, [n, label_size]."""
        return self.rng.rows(name, self.label_table, n)

    def labels_of_fakes(self):
        """Labels of the fakes in D's losses, [minibatch_size, label_size]."""
        return self.random_labels('labels0', self.minibatch_size) if self.random_fake_labels else self.labels

    def fakes(self, name, latents, labels, **kwargs):
        """Images of G in training. `name`, 'G0' or 'G1', identifies the random numbers of this evaluation.

        They are a tuple of the images of all sizes if G makes them.
        """
        if self.stage is not None:
            kwargs.update(lod_stage=self.stage, full_resolution=False)
        if 'all_sizes' in self.G.known_call_kwargs():
            kwargs.update(all_sizes=True)
        return self.G(latents, labels, is_training=True, rng=self.rng.child(name), dtype=self.dtype, **kwargs)

    def inputs_of_D(self, images):
        """The images that D takes, as a tuple: of all sizes, from 4x4 on, if it sees them all, and else one alone.

        Args:
            images: [N, C, H, W], of which the smaller sizes are the means of 2x2 pixels, 4x4 pixels, ...; or a tuple of
                    images, which is returned.
        """
        if isinstance(images, (tuple, list)):
            return tuple(images)
        sizes = [images]
        for _ in self.D.input_shapes[2:]:
            sizes.insert(0, misc.halve(sizes[0]))
        return tuple(sizes)

    def scores(self, name, images, labels):
        """Scores of D for images, [N, 1], augmented first. `name` identifies the random numbers of the augmentation."""
        return self.scores_and_logits(name, images, labels)[0]

    def scores_and_logits(self, name, images, labels):
        """`scores`, and D's logits of the labels, [N, label_size]. None = it has none: only ProGAN's D has."""
        return self._evaluate_D(self._augmented(name, images), labels)

    def scores_of_fakes_and_reals(self, fakes, labels):
        """`scores` of fakes with these labels, and of the reals, [N, 1] each.

        Where D can tell them apart, it sees both in one minibatch: that takes fewer and larger operations.
        """
        images = self._augmented('aug_fake', fakes), self._augmented('aug_real', self.reals)
        group = self.D.kw.mbstd_group_size  # None = the minibatch.
        if group is None or self.minibatch_size % max(group, 1):
            return [self._evaluate_D(*pair)[0] for pair in zip(images, (labels, self.labels))]

        # They take turns, so that a group of minibatch_stddev has images of one kind, and the same ones as without the
        # others.
        def in_turn(fake, real):
            return tf.reshape(tf.stack([fake, real], axis=1), [2 * self.minibatch_size, *fake.shape[1:]])
        scores, _ = self._evaluate_D([in_turn(*pair) for pair in zip(*images)], in_turn(labels, self.labels))
        return scores[::2], scores[1::2]

    def _augmented(self, name, images):
        """The images that D takes, augmented. Images of several sizes are not augmented."""
        images = self.inputs_of_D(images)
        if self.augment is None:
            return images
        image, = images
        return tf.ensure_shape(self.augment(image, self.rng.child(name)), image.shape),

    def _evaluate_D(self, images, labels):
        out = self.D(*images, labels, dtype=self.dtype, **({} if self.stage is None else {'lod_stage': self.stage}))
        if not isinstance(out, tuple):
            return out, None
        scores, logits = out
        return scores, logits if logits.shape[1] else None

    @property
    def pixel_weight(self):
        """Factor from the squared norm of a gradient at the stage's resolution to that at full resolution.

        One pixel of the stage stands for 4^stage equal pixels.
        """
        return 0.25 ** (self.stage or 0)


class Terms(NamedTuple):
    """The result of a loss function."""
    loss: Any = None  # Loss of each image, [N, 1], or [N, N]: see _add_label_penalty. None = not requested.
    reg: Any = None   # Regularization term of each image, [N]. None = not requested, or there is none.
    stats: Any = {}   # TensorBoard tag -> tensor.


# ---- Generator ----

def _G_loss(context, func, cond_weight=0.0):
    labels = context.random_labels('labels0', context.minibatch_size)
    fakes = context.fakes('G0', context.latents('latents', context.minibatch_size), labels)
    scores, logits = context.scores_and_logits('aug_fake', fakes, labels)
    stats = {'Loss/scores/fake': scores}
    loss = _add_label_penalty(func(scores), logits, labels, cond_weight, 'fake', stats)
    return Terms(loss=loss, stats=stats)


def _add_label_penalty(loss, logits, labels, weight, which, stats):
    """Add the cross-entropy of D's logits against the labels (Odena et al. 2017, arXiv:1610.09585, Equation 3).

    As in the original, the sum of losses [N, 1] and penalties [N] is [N, N]: element i, j has the loss of image i and
    the penalty of image j. Its mean is the sum of both means.

    Args:
        loss:   [N, 1] or [N, N].
        logits: [N, label_size]. None = there is no penalty.
        labels: [N, label_size].
        weight: Weight of the penalty. 0 = there is none.
        which:  'fake' or 'real', for the tag.
        stats:  TensorBoard tag -> tensor, to which the penalty is added.
    """
    if logits is None or not weight:
        return loss
    penalty = tf.nn.softmax_cross_entropy_with_logits(labels=labels, logits=tf.cast(logits, tf.float32))
    stats[f'Loss/label_penalty/{which}'] = penalty
    return loss + penalty * weight


def G_logistic(context, parts):
    """Saturating logistic loss, log(1 - sigmoid(D(G(z)))) (Goodfellow et al. 2014, arXiv:1406.2661, Equation 1)."""
    return _G_loss(context, lambda scores: -tf.nn.softplus(scores)) if 'loss' in parts else Terms()


def G_logistic_ns(context, parts):
    """Non-saturating logistic loss, -log(sigmoid(D(G(z)))) (Goodfellow et al. 2014, Section 3)."""
    return _G_loss(context, lambda scores: tf.nn.softplus(-scores)) if 'loss' in parts else Terms()


def G_wgan(context, parts):
    """Wasserstein loss, -D(G(z)) (Arjovsky et al. 2017, arXiv:1701.07875)."""
    return _G_loss(context, lambda scores: -scores) if 'loss' in parts else Terms()


def G_wgan_acgan(context, parts, cond_weight=1.0):
    """G_wgan with a penalty on labels that D does not recognize, as in ProGAN (Karras et al. 2018, arXiv:1710.10196).

    Args:
        cond_weight: Weight of the penalty. There is none if D has no logits of the labels.
    """
    return _G_loss(context, lambda scores: -scores, cond_weight) if 'loss' in parts else Terms()


def G_logistic_ns_pathreg(context, parts, pl_minibatch_shrink=2, pl_decay=0.01, pl_weight=2.0):
    """G_logistic_ns with path length regularization (StyleGAN2, Section 3.2).

    Args:
        pl_minibatch_shrink: The regularizer uses 1/pl_minibatch_shrink of the minibatch size, at least one image.
                             1 = the images of the loss.
        pl_decay:            Step size of the moving average of path lengths.
        pl_weight:           Weight of the regularizer.
    """
    share_images = pl_minibatch_shrink == 1
    loss, reg, stats = None, None, {}
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        if 'loss' in parts or share_images:
            latents = context.latents('latents', context.minibatch_size)
            labels = context.random_labels('labels0', context.minibatch_size)
            tape.watch(latents)
            images, dlatents = context.fakes('G0', latents, labels, return_dlatents=True)
        if 'reg' in parts and not share_images:
            n = max(context.minibatch_size // pl_minibatch_shrink, 1)
            latents1, labels1 = context.latents('pl_latents', n), context.random_labels('labels1', n)
            tape.watch(latents1)
            images1, dlatents1 = context.fakes('G1', latents1, labels1, return_dlatents=True)
    if 'reg' in parts:
        pl_images, pl_dlatents = (images, dlatents) if share_images else (images1, dlatents1)
        noise = context.rng.normal('pl_noise', tf.shape(pl_images))
        reg, lengths = path_length(
            tape, pl_images, pl_dlatents, noise, context.pl_mean, pl_decay, pl_weight, context.scaling)
        pl_mean = tf.convert_to_tensor(context.pl_mean)
        stats.update({'Loss/pl_lengths': lengths, 'Loss/pl_mean': pl_mean, 'Loss/pl_penalty': reg})
    if 'loss' in parts:
        scores = context.scores('aug_fake', images, labels)
        loss = tf.nn.softplus(-scores)
        stats['Loss/scores/fake'] = scores
    return Terms(loss, reg, stats)


# ---- Discriminator ----

def _D_terms(context, parts, func, gamma=None, on_reals=True):
    """Terms of a discriminator loss.

    For a D that sees images of all sizes, the penalty is the mean over the sizes. The gradient with respect to a size
    includes what reaches D through smaller ones that were computed from it.

    Args:
        func:     func(fake scores, real scores) -> loss.
        gamma:    Weight of the gradient penalty. None = no penalty.
        on_reals: Penalize gradients at the reals (R1) rather than at the fakes (R2).
    """
    loss, reg, stats = None, None, {}
    regularize = 'reg' in parts and gamma is not None
    need_reals = 'loss' in parts or ('reg' in parts and on_reals)
    need_fakes = 'loss' in parts or ('reg' in parts and not on_reals)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        if need_fakes:
            labels = context.labels_of_fakes()
            fakes = context.inputs_of_D(
                context.fakes('G0', context.latents('latents', context.minibatch_size), labels))
        if regularize:
            tape.watch(context.reals if on_reals else fakes)
        if 'loss' in parts and not regularize:
            fake_scores, real_scores = context.scores_of_fakes_and_reals(fakes, labels)
        else:
            if need_fakes:
                fake_scores = context.scores('aug_fake', fakes, labels)
            if need_reals:  # Smaller sizes are computed within the tape, which so knows what they come from.
                reals = context.inputs_of_D(context.reals)
                real_scores = context.scores('aug_real', reals, context.labels)
    if need_reals:
        stats[REAL_SIGNS] = tf.sign(real_scores)
    if regularize:
        scores, images = (real_scores, reals) if on_reals else (fake_scores, fakes)
        reg, squares = gradient_penalty(tape, scores, images, context.pixel_weight, gamma, context.scaling)
        stats['Loss/gradient_penalty'] = squares
    if 'loss' in parts:
        loss = func(fake_scores, real_scores)
        stats.update({'Loss/scores/fake': fake_scores, 'Loss/scores/real': real_scores})
    return Terms(loss, reg, stats)


def _logistic(fake_scores, real_scores):
    return tf.nn.softplus(fake_scores) + tf.nn.softplus(-real_scores)


def D_logistic(context, parts):
    """Logistic loss (Goodfellow et al. 2014, Equation 1)."""
    return _D_terms(context, {'loss'} & set(parts), _logistic)


def D_logistic_r1(context, parts, gamma=10.0):
    """Logistic loss with gradient penalty on the reals (Mescheder et al. 2018)."""
    return _D_terms(context, parts, _logistic, gamma)


def D_logistic_r2(context, parts, gamma=10.0):
    """Logistic loss with gradient penalty on the fakes (Mescheder et al. 2018)."""
    return _D_terms(context, parts, _logistic, gamma, on_reals=False)


def D_wgan(context, parts, wgan_epsilon=0.001):
    """Wasserstein loss with a small penalty on squared scores of reals (Karras et al. 2018, arXiv:1710.10196, A.1)."""
    terms = _D_terms(context, {'loss'} & set(parts), lambda fake, real: fake - real + wgan_epsilon * tf.square(real))
    if terms.loss is not None:
        terms.stats['Loss/epsilon_penalty'] = tf.square(terms.stats['Loss/scores/real'])
    return terms


def D_wgan_gp(context, parts, wgan_lambda=10.0, wgan_epsilon=0.001, wgan_target=1.0):
    """D_wgan with gradient penalty between reals and fakes (Gulrajani et al. 2017, arXiv:1704.00028, Equation 3).

    Args:
        wgan_lambda:  Weight of the penalty.
        wgan_epsilon: Weight of the squared scores of reals.
        wgan_target:  Target of the norm of gradients.
    """
    return D_wgangp_acgan(context, parts, wgan_lambda, wgan_epsilon, wgan_target, cond_weight=0.0)


def D_wgangp_acgan(context, parts, wgan_lambda=10.0, wgan_epsilon=0.001, wgan_target=1.0, cond_weight=1.0):
    """D_wgan_gp with a penalty on labels that D does not recognize, as in ProGAN.

    Args:
        wgan_lambda, wgan_epsilon, wgan_target: As of D_wgan_gp.
        cond_weight: Weight of the label penalty. There is none if D has no logits of the labels.
    """
    labels = context.labels_of_fakes()
    fakes = context.fakes('G0', context.latents('latents', context.minibatch_size), labels)
    loss, reg, stats = None, None, {}
    if 'loss' in parts:
        fake_scores, fake_logits = context.scores_and_logits('aug_fake', fakes, labels)
        real_scores, real_logits = context.scores_and_logits('aug_real', context.reals, context.labels)
        loss = fake_scores - real_scores + wgan_epsilon * tf.square(real_scores)
        stats.update({'Loss/scores/fake': fake_scores, 'Loss/scores/real': real_scores,
                      REAL_SIGNS: tf.sign(real_scores), 'Loss/epsilon_penalty': tf.square(real_scores)})
        loss = _add_label_penalty(loss, real_logits, context.labels, cond_weight, 'real', stats)
        loss = _add_label_penalty(loss, fake_logits, labels, cond_weight, 'fake', stats)
    if 'reg' in parts:
        mixed = lerp(context.reals, fakes, context.rng.uniform('mixing_factors', [context.minibatch_size, 1, 1, 1]))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(mixed)
            mixed_scores = context.scores('aug_mixed', mixed, context.labels)
        grads = scaled_gradient(tape, mixed_scores, mixed, tf.ones_like(mixed_scores), context.scaling)
        norms = tf.sqrt(tf.reduce_sum(tf.square(grads), axis=[1, 2, 3]) * context.pixel_weight)
        reg = tf.square(norms - wgan_target) * (wgan_lambda / wgan_target ** 2)
        stats.update({'Loss/scores/mixed': mixed_scores, 'Loss/mixed_norms': norms, 'Loss/gradient_penalty': reg})
    return Terms(loss, reg, stats)


class Loss(NamedTuple):
    """One row of the table below."""
    func: Callable
    reg: str | None  # Images the regularizer uses: 'reals' only, or 'fakes' too. None = there is no regularizer.


LOSSES = {
    'G_logistic':            Loss(G_logistic, None),
    'G_logistic_ns':         Loss(G_logistic_ns, None),
    'G_wgan':                Loss(G_wgan, None),
    'G_wgan_acgan':          Loss(G_wgan_acgan, None),
    'G_logistic_ns_pathreg': Loss(G_logistic_ns_pathreg, 'fakes'),
    'D_logistic':            Loss(D_logistic, None),
    'D_logistic_r1':         Loss(D_logistic_r1, 'reals'),
    'D_logistic_r2':         Loss(D_logistic_r2, 'fakes'),
    'D_wgan':                Loss(D_wgan, None),
    'D_wgan_gp':             Loss(D_wgan_gp, 'fakes'),
    'D_wgangp_acgan':        Loss(D_wgangp_acgan, 'fakes'),
}


def find_loss(func_name: str) -> Loss:
    """Return the row of LOSSES for 'training.loss.G_logistic_ns' or 'G_logistic_ns'. ValueError if there is none."""
    name = func_name.split('.')[-1]
    if name not in LOSSES:
        raise ValueError(f'unknown loss {func_name!r}; known are {sorted(LOSSES)}')
    return LOSSES[name]
