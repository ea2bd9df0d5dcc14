"""Regularisers of StyleGAN2: gradient penalties and path length. Each takes what a tape has recorded."""

import tensorflow as tf

from dnnlib.tflib import lerp


def gradient_penalty(tape, scores, images, pixel_weight, gamma):
    """R1 on real images, R2 on fakes (Mescheder et al. 2018, arXiv:1801.04406, Equation 9).

        gamma / 2 * |d scores / d images|^2

    Args:
        tape:         GradientTape that watched `images` [N, C, H, W] while `scores` [N, 1] were computed.
        pixel_weight: Factor of the squared norm: see training.loss.Step.
        gamma:        Weight.

    Returns:
        (penalty [N], the squared norms alone [N]).
    """
    grads = tape.gradient(scores, images)  # Images do not see each other but through minibatch stddev, as in the original.
    squares = tf.reduce_sum(tf.square(grads), axis=[1, 2, 3]) * pixel_weight
    return squares * (gamma * 0.5), squares


def path_length(tape, images, dlatents, noise, pl_mean, pl_decay, pl_weight):
    """Path-length regularisation (StyleGAN2, Section 3.2, Equation 4, and Appendix B).

        pl_weight * (|J^T y| - a)^2,   y = noise / sqrt(H * W),   a = moving average of |J^T y|

    Args:
        tape:      GradientTape that recorded the way from `dlatents` [N, layers, dlatent] to `images` [N, C, H, W].
        noise:     N(0, 1) of the images' shape.
        pl_mean:   Scalar tf.Variable, the moving average a. It moves first and is used then, and gradients flow
                   through the step it makes.
        pl_decay:  Size of that step.
        pl_weight: Weight.

    Returns:
        (penalty [N], lengths [N]).
    """
    h, w = images.shape[2:]
    grads = tape.gradient(images, dlatents, output_gradients=noise / float(h * w) ** 0.5)
    lengths = tf.sqrt(tf.reduce_mean(tf.reduce_sum(tf.square(grads), axis=2), axis=1))
    mean = lerp(tf.convert_to_tensor(pl_mean), tf.reduce_mean(lengths), pl_decay)
    pl_mean.assign(tf.where(tf.math.is_finite(mean), mean, pl_mean))  # One minibatch that overflows must not spoil all that follow.
    return tf.square(lengths - mean) * pl_weight, lengths
