"""The optimizer: Adam in the formulations of TensorFlow 1 and of the paper, skipping updates that are not finite."""

from collections.abc import Sequence

import tensorflow as tf

from training.step.groups import Groups


def all_finite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Scalar bool: Are all elements of all tensors finite?"""
    return tf.reduce_all(tf.stack([tf.reduce_all(tf.math.is_finite(x)) for x in tensors]))


class Adam(tf.Module):
    """Adam in TensorFlow 1's formulation (Kingma and Ba 2015, arXiv:1412.6980, end of Section 2).

        w <- w - lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + epsilon)

    or, with `corrected_epsilon`, in that of its Algorithm 1, which PyTorch has:

        w <- w - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + epsilon)

    The update reads nothing back from the device, so that the program can go on while the device computes.

    Args:
        variables: List of tf.Variable to train.
        beta1:     Decay of the first moments.
        beta2:     Decay of the second moments.
        epsilon:   Added to the root of the second moments.
        corrected_epsilon: Add epsilon to the root after its correction for t, instead of before?
        mb_ratio:  Factor c = k / (k + 1) of lazy regularization: the learning rate is multiplied by c, and the betas
                   are raised to the power c (StyleGAN2, Appendix B, 'Lazy regularization'). 1 = no lazy regularization.
        largest:   As in Groups.

    Attributes:
        groups: Groups of the variables.
    """

    def __init__(self, variables, beta1=0.0, beta2=0.99, epsilon=1e-8, mb_ratio=1.0, corrected_epsilon=False,
                 largest=None):
        super().__init__()
        self.variables_to_train = variables
        self.beta1, self.beta2, self.epsilon, self.mb_ratio = beta1 ** mb_ratio, beta2 ** mb_ratio, epsilon, mb_ratio
        self.corrected_epsilon = corrected_epsilon
        self.m = [tf.Variable(tf.zeros_like(var)) for var in variables]
        self.v = [tf.Variable(tf.zeros_like(var)) for var in variables]
        self.beta1_power = tf.Variable(self.beta1, dtype=tf.float32)
        self.beta2_power = tf.Variable(self.beta2, dtype=tf.float32)
        self.skipped = tf.Variable(0, dtype=tf.int64)
        self.groups = Groups([var.shape for var in variables], largest)
        # Where the joined variables, first and second moments are updated. After that, the variables share this memory.
        number = 3 if self.groups.joined else 0
        self._joined = [tf.Variable(tf.zeros([self.groups.size]), trainable=False) for _ in range(number)]

    def apply(self, grads, lrate):
        """Update the variables, unless a gradient is not finite: then nothing but the count `skipped` changes.

        Args:
            grads: Gradient of each variable. None = zero.
            lrate: Learning rate, before the factor `mb_ratio`.

        Returns:
            Scalar bool tensor: True if the update was applied.
        """
        return self.apply_joined(self.groups.join(grads), lrate)

    def apply_joined(self, grads, lrate, divisor=1.0):
        """`apply` for gradients as `groups.join` returns them, which are first divided by `divisor`."""
        finite = all_finite(grads)
        # Moments with a decay of 1 and a gradient of 0, and weights with a learning rate of 0, stay as they are. x / 0
        # is 0 here for any x.
        divisor = tf.where(finite, divisor, 0.0)
        grads = [tf.math.divide_no_nan(grad, divisor) for grad in grads]
        lrate = tf.where(finite, lrate * self.mb_ratio, 0.0)
        beta1, beta2 = tf.where(finite, self.beta1, 1.0), tf.where(finite, self.beta2, 1.0)
        beta1_power, beta2_power = self.beta1_power.read_value(), self.beta2_power.read_value()
        epsilon = self.epsilon * tf.sqrt(1.0 - beta2_power) if self.corrected_epsilon else self.epsilon

        def update(slots, grad):
            var, m, v = slots
            tf.raw_ops.ResourceApplyAdam(
                var=var.handle, m=m.handle, v=v.handle, beta1_power=beta1_power, beta2_power=beta2_power, lr=lrate,
                beta1=beta1, beta2=beta2, epsilon=epsilon, grad=grad)

        slots = self.variables_to_train, self.m, self.v
        if self.groups.joined:
            for flat, variables in zip(self._joined, slots, strict=True):
                flat.assign(self.groups.flatten(variables))
            update(self._joined, grads.pop(0))
            for flat, variables in zip(self._joined, slots, strict=True):
                for i, part in zip(self.groups.joined, self.groups.unflatten(flat.read_value()), strict=True):
                    variables[i].assign(part)
        for i, grad in zip(self.groups.alone, grads, strict=True):
            update([variables[i] for variables in slots], grad)
        self.beta1_power.assign(beta1_power * beta1)
        self.beta2_power.assign(beta2_power * beta2)
        self.skipped.assign_add(tf.cast(tf.logical_not(finite), tf.int64))
        return finite

    def reset(self):
        """Reset all moments, as after the networks have grown."""
        for var in (*self.m, *self.v):
            var.assign(tf.zeros_like(var))
        self.beta1_power.assign(self.beta1)
        self.beta2_power.assign(self.beta2)
