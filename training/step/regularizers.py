"""Regularisers of StyleGAN2: gradient penalties and path length. Each takes what a tape has recorded."""

import tensorflow as tf

from dnnlib.tflib import lerp
from training.step.loss_scaling import LossScaling

NO_SCALING = LossScaling()


def scaled_gradient(tape, y, x, dy, scaling):
    """Gradient of sum(y * dy) with respect to x, all float32. What lies between may be float16: there it is scaled."""
    return scaling.undo_loss_scaling(tape.gradient(y, x, output_gradients=scaling.apply_loss_scaling(dy)))


def gradient_penalty(tape, scores, images, pixel_weight, gamma, scaling=NO_SCALING):
    """R1 on real images, R2 on fakes (Mescheder et al. 2018, arXiv:1801.04406, Equation 9).

        gamma / 2 * |d scores / d images|^2

    Args:
        tape:         GradientTape that watched `images` [N, C, H, W] while `scores` [N, 1] were computed.
        pixel_weight: Factor of the squared norm: see training.loss.Step.
        gamma:        Weight.
        scaling:      LossScaling of the gradient on its way through D.

    Returns:
        (penalty [N], the squared norms alone [N]).
    """
    # Images do not see each other but through minibatch stddev, as in the original.
    grads = scaled_gradient(tape, scores, images, tf.ones_like(scores), scaling)
    squares = tf.reduce_sum(tf.square(grads), axis=[1, 2, 3]) * pixel_weight
    return squares * (gamma * 0.5), squares


def path_length(tape, images, dlatents, noise, pl_mean, pl_decay, pl_weight, scaling=NO_SCALING):
    """Path-length regularisation (StyleGAN2, Section 3.2, Equation 4, and Appendix B).

        pl_weight * (|J^T y| - a)^2,   y = noise / sqrt(H * W),   a = moving average of |J^T y|

    Args:
        tape:      GradientTape that recorded the way from `dlatents` [N, layers, dlatent] to `images` [N, C, H, W].
        noise:     N(0, 1) of the images' shape.
        pl_mean:   Scalar tf.Variable, the moving average a. It moves first and is used then, and gradients flow
                   through the step it makes.
        pl_decay:  Size of that step.
        pl_weight: Weight.
        scaling:   LossScaling of the gradient on its way through G.

    Returns:
        (penalty [N], lengths [N]).
    """
    h, w = images.shape[2:]
    grads = scaled_gradient(tape, images, dlatents, noise / float(h * w) ** 0.5, scaling)
    lengths = tf.sqrt(tf.reduce_mean(tf.reduce_sum(tf.square(grads), axis=2), axis=1))
    mean = lerp(tf.convert_to_tensor(pl_mean), tf.reduce_mean(lengths), pl_decay)
    pl_mean.assign(tf.where(tf.math.is_finite(mean), mean, pl_mean))  # One minibatch that overflows must not spoil all that follow.
    return tf.square(lengths - mean) * pl_weight, lengths
