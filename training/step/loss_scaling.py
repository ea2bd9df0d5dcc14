"""Loss scaling for float16."""

import tensorflow as tf


class LossScaling(tf.Module):
    """Loss scaling, by a factor that finds its level (Micikevicius et al. 2018, arXiv:1710.03740, Section 3.2).

    Gradients in float16 vanish below 2^-24. They are taken of the loss times 2^x and divided by it in float32. x grows with
    every step and falls when one overflows, which is skipped.

    Args:
        use_loss_scaling:  False = the factor is 1, and nothing is computed.
        loss_scaling_init: x at first. The original's 64 is far above float16's greatest number, just below 2^16: some fifty steps of
                           each phase would be skipped until it has fallen. With 16 they are few.
        loss_scaling_inc:  What x grows by after a step.
        loss_scaling_dec:  What it falls by after an overflow.
    """

    def __init__(self, use_loss_scaling=False, loss_scaling_init=16.0, loss_scaling_inc=0.0005, loss_scaling_dec=1.0):
        super().__init__()
        self.inc, self.dec = loss_scaling_inc, loss_scaling_dec
        self.log2 = tf.Variable(loss_scaling_init, trainable=False) if use_loss_scaling else None

    def apply_loss_scaling(self, value):
        """value * 2^x."""
        return value if self.log2 is None else value * tf.pow(2.0, self.log2)

    def undo_loss_scaling(self, value):
        """value / 2^x."""
        return value if self.log2 is None else value * tf.pow(2.0, -self.log2)

    def update(self, all_finite):
        """Move x after a step whose gradients were `all_finite`, or were not; returns it."""
        self.log2.assign_add(tf.where(all_finite, self.inc, -self.dec))
        return self.log2.read_value()
