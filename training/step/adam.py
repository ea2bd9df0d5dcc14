"""The optimizer: Adam in the formulations of TensorFlow 1 and of the paper, skipping updates that are not finite."""

import tensorflow as tf


class Adam(tf.Module):
    """Adam in TensorFlow 1's formulation (Kingma and Ba 2015, arXiv:1412.6980, end of Section 2).

        w <- w - lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + epsilon)

    or, with `corrected_epsilon`, in that of its Algorithm 1, which PyTorch has:

        w <- w - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + epsilon)

    Args:
        variables: List of tf.Variable to train.
        beta1:     Decay of the first moments.
        beta2:     Decay of the second moments.
        epsilon:   Added to the root of the second moments.
        corrected_epsilon: Add epsilon to the root after its correction for t, instead of before?
        mb_ratio:  Factor c = k / (k + 1) of lazy regularization: the learning rate is multiplied by c, and the betas
                   are raised to the power c (StyleGAN2, Appendix B, 'Lazy regularization'). 1 = no lazy regularization.
    """

    def __init__(self, variables, beta1=0.0, beta2=0.99, epsilon=1e-8, mb_ratio=1.0,
                 corrected_epsilon=False):
        super().__init__()
        self.variables_to_train = variables
        self.beta1, self.beta2, self.epsilon, self.mb_ratio = beta1 ** mb_ratio, beta2 ** mb_ratio, epsilon, mb_ratio
        self.corrected_epsilon = corrected_epsilon
        self.m = [tf.Variable(tf.zeros_like(var)) for var in variables]
        self.v = [tf.Variable(tf.zeros_like(var)) for var in variables]
        self.beta1_power = tf.Variable(self.beta1, dtype=tf.float32)
        self.beta2_power = tf.Variable(self.beta2, dtype=tf.float32)
        self.skipped = tf.Variable(0, dtype=tf.int64)

    def apply(self, grads, lrate):
        """Update the variables, unless a gradient is not finite: then the update is skipped and `skipped` incremented.

        Returns:
            Scalar bool tensor: True if the update was applied.
        """
        all_finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in grads])
        tf.cond(all_finite, lambda: self._apply(grads, lrate), lambda: self.skipped.assign_add(1))
        return all_finite

    def _apply(self, grads, lrate):
        epsilon = self.epsilon
        if self.corrected_epsilon:
            epsilon *= tf.sqrt(1.0 - self.beta2_power)
        for var, m, v, grad in zip(self.variables_to_train, self.m, self.v, grads, strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=var.handle, m=m.handle, v=v.handle, beta1_power=self.beta1_power, beta2_power=self.beta2_power,
                lr=lrate * self.mb_ratio, beta1=self.beta1, beta2=self.beta2, epsilon=epsilon, grad=grad)
        self.beta1_power.assign(self.beta1_power * self.beta1)
        self.beta2_power.assign(self.beta2_power * self.beta2)
        return self.skipped.read_value()

    def reset(self):
        """Reset all moments, as after the networks have grown."""
        for var in (*self.m, *self.v):
            var.assign(tf.zeros_like(var))
        self.beta1_power.assign(self.beta1)
        self.beta2_power.assign(self.beta2)
