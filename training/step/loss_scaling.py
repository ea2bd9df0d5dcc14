"""Loss scaling for float16."""

import tensorflow as tf


class LossScaling(tf.Module):
    """Dynamic loss scaling (Micikevicius et al. 2018, arXiv:1710.03740, Section 3.2).

    Gradients in float16 underflow below 2^-24. Therefore the loss is multiplied by 2^x, and its gradients are divided
    by 2^x in float32. x grows with every update and decreases after an overflow, whose update is skipped.

    Args:
        use_loss_scaling:  False = the factor is 1 and nothing is computed.
        loss_scaling_init: Initial x. The original's 64 is far above the largest float16, 2^16, so that about 50 updates
                           of each phase would be skipped at first. With 16 it is only a few.
        loss_scaling_inc:  Increment of x after an update.
        loss_scaling_dec:  Decrement of x after an overflow.
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
        """Adapt x after gradients that were `all_finite` or not. Returns the new x."""
        assert self.log2 is not None
        self.log2.assign_add(tf.where(all_finite, self.inc, -self.dec))
        return self.log2.read_value()
