"""Regularizers of StyleGAN2: gradient penalties and path length. They use the records of a gradient tape."""

import tensorflow as tf

from dnnlib.tflib import lerp
from training.step.loss_scaling import LossScaling

NO_SCALING = LossScaling()


def scaled_gradient(tape, y, x, dy, scaling):
    """Gradient of sum(y * dy) with respect to x, a tensor or a tuple of tensors, all float32.

    It is scaled on its way, which may be in float16.
    """
    grads = tape.gradient(y, x, output_gradients=scaling.apply_loss_scaling(dy))
    return tf.nest.map_structure(scaling.undo_loss_scaling, grads)


def gradient_penalty(tape, scores, images, pixel_weight, gamma, scaling=NO_SCALING):
    """R1 on real images, R2 on fakes (Mescheder et al. 2018, arXiv:1801.04406, Equation 9).

        gamma / 2 * |d scores / d images|^2

    Args:
        tape:         GradientTape that watched `images` while `scores` were computed.
        scores:       [N, 1].
        images:       [N, C, H, W], or a tuple of them: the squared norm is the mean over those.
        pixel_weight: Factor of the squared norm: see training.loss.LossContext.
        gamma:        Weight of the penalty.
        scaling:      LossScaling of the gradient on its way through D.

    Returns:
        (penalty [N], squared norms [N]).
    """
    # As in the original, minibatch stddev lets the score of one image depend on the others of its group.
    grads = scaled_gradient(tape, scores, images, tf.ones_like(scores), scaling)
    grads = grads if isinstance(grads, tuple) else (grads,)
    squares = tf.add_n([tf.reduce_sum(tf.square(grad), axis=[1, 2, 3]) for grad in grads]) / len(grads) * pixel_weight
    return squares * (gamma * 0.5), squares


def path_length(tape, images, dlatents, noise, pl_mean, pl_decay, pl_weight, scaling=NO_SCALING):
    """Path length regularization (StyleGAN2, Section 3.2, Equation 4, and Appendix B).

        pl_weight * (|J^T y| - a)^2,   y = noise / sqrt(H * W),   a = moving average of |J^T y|

    Args:
        tape:      GradientTape that recorded the computation of `images` from `dlatents`.
        images:    [N, C, H, W].
        dlatents:  [N, layers, dlatent_size].
        noise:     Samples of N(0, 1) with the shape of the images.
        pl_mean:   Scalar tf.Variable, the moving average a. It is updated before it is used, and gradients flow through
                   the update.
        pl_decay:  Step size of the moving average.
        pl_weight: Weight of the penalty.
        scaling:   LossScaling of the gradient on its way through G.

    Returns:
        (penalty [N], lengths [N]).
    """
    h, w = images.shape[2:]
    grads = scaled_gradient(tape, images, dlatents, noise / float(h * w) ** 0.5, scaling)
    lengths = tf.sqrt(tf.reduce_mean(tf.reduce_sum(tf.square(grads), axis=2), axis=1))
    mean = lerp(tf.convert_to_tensor(pl_mean), tf.reduce_mean(lengths), pl_decay)
    pl_mean.assign(tf.where(tf.math.is_finite(mean), mean, pl_mean))  # An overflow must affect only its own minibatch.
    return tf.square(lengths - mean) * pl_weight, lengths
