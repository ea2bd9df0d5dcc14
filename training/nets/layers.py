"""The layers of StyleGAN2's networks.

Images are in the internal layout (custom_ops/conv2d.py); shape comments write it as [N, H, W, C]. Every layer has a
`scope` in the original's hierarchy of names, such as '64x64/Conv0_up', and `var_names` lists its variables in the
original's order.

Weights with an equalized learning rate (Karras et al. 2018, arXiv:1710.10196, Section 4.1) are initialized to
N(0, 1 / lrmul) and multiplied by lrmul / sqrt(fan_in) at run time.

Variables are float32. Layers on images compute in the dtype of their input. Half precision follows Karras et al. 2020
(arXiv:2006.06676, Appendix D): weights are cast where they are used, styles and demodulation factors are computed in
float32.
"""

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from custom_ops import ACTIVATIONS, SLOPES, conv_downsample_2d, fused_bias_act, styled_bias_act, upsample_conv_2d
from custom_ops import conv2d as conv
from custom_ops.reference import is_portable
from dnnlib.tflib.keras_network import register
from dnnlib.tflib.layer_list import capture_output, record_layer
from dnnlib.tflib.tfutil import tf_variable
from dnnlib.tflib.variables import create_variable


class ScopedLayer(keras.layers.Layer):
    """A layer with a scope in the original's hierarchy of names.

    Args:
        scope: Scope such as '64x64/Conv0_up'. The variables are called scope/weight, scope/bias, ...
    """

    listed = SimpleNamespace(shape=None)  # Of the last `summary` of its network. A namespace, which Keras leaves alone.

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        register(cls)

    def __init__(self, scope):
        # With autocast Keras would convert images in half precision to float32.
        super().__init__(name=scope.replace('/', '_'), autocast=False)
        self.scope = scope
        self.var_names = []

    def add_var(self, name: str, shape, initializer: Any = 'zeros'):
        """Create a trainable variable. It becomes the attribute of this name, with / replaced by _."""
        attribute = name.replace('/', '_')
        setattr(self, attribute, create_variable(self, attribute, shape, initializer, trainable=True))
        self.var_names.append(name)

    def var(self, name):
        """The variable of this name."""
        return getattr(self, name.replace('/', '_'))

    def add_equalized(self, name, shape, lrmul=1.0, gain=1.0, use_wscale=True):
        """Create a weight with an equalized learning rate.

        Args:
            name:       Name of the variable.
            shape:      [..., in, out].
            lrmul:      Multiplier of the learning rate.
            gain:       Standard deviation of the output for unit input.
            use_wscale: False = apply the scale to the initial values instead, without an equalized learning rate.

        Returns:
            The factor to multiply the weight by at run time.
        """
        std = gain / np.sqrt(np.prod(shape[:-1]))
        init_std, coef = (1.0 / lrmul, std * lrmul) if use_wscale else (std / lrmul, lrmul)
        self.add_var(name, shape, keras.initializers.RandomNormal(0.0, init_std))
        return float(coef)

    def record(self, x, is_image=True, weight=None):
        """Add this layer to the list of layers that is being recorded, and its output to those that are being
        collected, if any (record_layer and capture_outputs of dnnlib.tflib.layer_list).

        Args:
            x:        Output of the layer.
            is_image: Is x an image in the internal layout?
            weight:   The variable whose shape is listed. None = the first one.

        Returns:
            x.
        """
        variables = [tf_variable(self.var(name)) for name in self.var_names]
        params = sum(int(np.prod(var.shape)) for var in variables)
        weight = variables[0] if weight is None else weight
        record_layer(self.scope, _nchw_shape(x) if is_image else x.shape, params, weight.shape)
        capture_output(self.scope, lambda: conv.to_nchw(x) if is_image else x)
        return x

    def _trackable_children(self, save_type='checkpoint', **kwargs):
        return super()._trackable_children('checkpoint', **kwargs)  # In a SavedModel, functions are the network's.

    @property
    def output_shape(self):
        """Shape of the output as users see it, for Keras' tables of layers."""
        if self.listed.shape is None:
            raise AttributeError('output_shape: known after a summary of the network')
        return self.listed.shape

    def get_config(self):
        return {'scope': self.scope}


def record_op(scope, x):
    """Add an operation without weights to the recorded list of layers, with the image x as its output. Returns x."""
    record_layer(scope, _nchw_shape(x))
    return x


def _nchw_shape(x):
    shape = tuple(x.shape)
    return shape if conv.image_format() == 'NCHW' or len(shape) != 4 else (shape[0], shape[3], shape[1], shape[2])


def image_shape(size, channels):
    """Shape of a batch of images of size x size pixels in the internal layout."""
    return (None, size, size, channels) if conv.image_format() == 'NHWC' else (None, channels, size, size)


# Largest activation in half precision. Trained networks stay far below it, and sums of such values fit into float16.
CONV_CLAMP = 256.0


def bias_act(x, b, act, gain=None, scale=None, noise=None, clamp=None):
    """`styled_bias_act` for images in the internal layout, clamped to CONV_CLAMP in half precision.

    Args:
        x:     Images.
        b:     Bias [C]. None = no bias.
        act:   Activation. None = neither bias nor activation.
        gain, scale, noise: As in `styled_bias_act`.
        clamp: Largest magnitude of the result. None = unlimited, or CONV_CLAMP in half precision.
    """
    clamp = CONV_CLAMP if clamp is None and x.dtype.size <= 2 else clamp
    if scale is None and noise is None and clamp is None:
        return x if act is None else fused_bias_act(x, b, conv.channel_axis(), act, gain=gain)
    return styled_bias_act(x, b, scale, noise, act or 'linear', gain, clamp, conv.image_format())


class Dense(ScopedLayer):
    """y = act(x @ weight + bias) for x [N, ...], which is flattened in channels-first order.

    Args:
        scope: Scope of the layer's names.
        fmaps: Number of outputs.
        act:   Activation, a key of custom_ops.ACTIVATIONS.
        lrmul: Multiplier of the learning rate of weight and bias.
    """

    act_gain = None  # Factor after the activation. None = the default of the activation.

    def __init__(self, scope, fmaps, act='linear', lrmul=1.0):
        super().__init__(scope)
        self.fmaps, self.act, self.lrmul = fmaps, act, lrmul

    def get_config(self):
        return {'scope': self.scope, 'fmaps': self.fmaps, 'act': self.act, 'lrmul': self.lrmul}

    def build(self, input_shape):
        self.coef = self.add_equalized('weight', [int(np.prod(input_shape[1:])), self.fmaps], self.lrmul)
        self.add_var('bias', [self.fmaps])
        self.built = True

    def call(self, x, labels=None):
        """x [N, ...] -> [N, fmaps], or with labels [N, fmaps] the sum of the outputs weighted by them, [N, 1]."""
        if x.shape.rank > 2:
            x = tf.reshape(conv.to_nchw(x), [-1, self.weight.shape[0]])
        gain = ACTIVATIONS[self.act].def_gain if self.act_gain is None else self.act_gain
        # Where activations allow it, the multiplier of weight and bias is a factor of the output.
        factor = self.lrmul if self.act in SLOPES and self.lrmul > 0 else 1.0
        x = tf.matmul(x, self.weight * (self.coef / factor))
        x = fused_bias_act(x, self.bias * (self.lrmul / factor), act=self.act, gain=gain * factor)
        if labels is not None:
            x = tf.reduce_sum(x * labels, axis=1, keepdims=True)
        return self.record(x, is_image=False)


class Conv2D(ScopedLayer):
    """Convolution with optional resampling, bias and activation.

    Args:
        scope:           Scope of the layer's names.
        fmaps:           Number of output channels.
        kernel:          Size of the kernel.
        down:            Downsample by 2 after the convolution.
        act:             Activation, a key of custom_ops.ACTIVATIONS. None = neither bias nor activation.
        resample_kernel: Filter for resampling. None = box.
        up:              Upsample by 2 before the convolution.
        clamp:           Largest magnitude of the result: see `bias_act`.
    """

    def __init__(self, scope, fmaps, kernel, down=False, act=None, resample_kernel=None, up=False, clamp=None):
        super().__init__(scope)
        assert not (up and down)
        self.fmaps, self.kernel, self.down, self.act, self.up, self.clamp = fmaps, kernel, down, act, up, clamp
        self.resample_kernel = None if resample_kernel is None else tuple(resample_kernel)

    def get_config(self):
        return {'scope': self.scope, 'fmaps': self.fmaps, 'kernel': self.kernel, 'down': self.down, 'act': self.act,
                'resample_kernel': self.resample_kernel, 'up': self.up, 'clamp': self.clamp}

    def build(self, input_shape):
        shape = [self.kernel, self.kernel, input_shape[conv.channel_axis()], self.fmaps]
        self.coef = self.add_equalized('weight', shape)
        if self.act is not None:
            self.add_var('bias', [self.fmaps])
        self.built = True

    def call(self, x):
        w = tf.cast(self.weight * self.coef, x.dtype)
        if self.up:
            x = upsample_conv_2d(x, w, k=self.resample_kernel, data_format=conv.image_format())
        elif self.down:
            x = conv_downsample_2d(x, w, k=self.resample_kernel, data_format=conv.image_format())
        else:
            x = conv.conv2d(x, w)
        return self.record(bias_act(x, None if self.act is None else self.bias, self.act, clamp=self.clamp))


class ModulatedConv2D(ScopedLayer):
    """Convolution whose weights are modulated by a style for each image (StyleGAN2, Section 2.2, Equations 1 to 3).

    Scaling the weights by the style s and normalizing them is the same as scaling the input by s and the output by the
    demodulation factor, which does not require separate weights for each image:

        w'_ijk = s_i w_ijk,   w''_ijk = w'_ijk / sqrt(sum_ik w'_ijk^2 + 1e-8)

    In float16, s and w are first divided by their maxima so that no sum overflows. Demodulation cancels these factors.

    Args:
        scope:           Scope of the layer's names.
        fmaps:           Number of output channels.
        kernel:          Size of the kernel.
        up:              Upsample by 2 before the convolution.
        demodulate:      Normalize the weights (Equation 3).
        noise:           Add noise, scaled by a learned strength.
        act:             Activation, a key of custom_ops.ACTIVATIONS.
        resample_kernel: Filter for upsampling. None = box.
        clamp:           Largest magnitude of the result: see `bias_act`.
    """

    def __init__(self, scope, fmaps, kernel, up=False, demodulate=True, noise=True, act='linear', resample_kernel=None,
                 clamp=None):
        super().__init__(scope)
        self.fmaps, self.kernel, self.up, self.act, self.clamp = fmaps, kernel, up, act, clamp
        self.demodulate, self.use_noise = demodulate, noise
        self.resample_kernel = None if resample_kernel is None else tuple(resample_kernel)

    def get_config(self):
        return {'scope': self.scope, 'fmaps': self.fmaps, 'kernel': self.kernel, 'up': self.up,
                'demodulate': self.demodulate, 'noise': self.use_noise, 'act': self.act,
                'resample_kernel': self.resample_kernel, 'clamp': self.clamp}

    def build(self, input_shape, dlatent_shape):
        in_fmaps = input_shape[conv.channel_axis()]
        self.coef = self.add_equalized('weight', [self.kernel, self.kernel, in_fmaps, self.fmaps])
        self.mod_coef = self.add_equalized('mod_weight', [dlatent_shape[-1], in_fmaps])
        self.add_var('mod_bias', [in_fmaps])
        if self.use_noise:
            self.add_var('noise_strength', [])
        self.add_var('bias', [self.fmaps])
        self.built = True

    has_modulation = True

    @property
    def has_own_style(self):
        """Has W a vector for this layer? One that makes an RGB image shares that of the convolution after it."""
        return self.demodulate

    def modulation(self):
        """The weights from W to the styles, [dlatent_size, in]."""
        return self.mod_weight * self.mod_coef

    def unscaled_weight(self, dtype):
        """The weight that the input is convolved with, without the factor `coef`, [kernel, kernel, in, out] float32.

        Args:
            dtype: Type of the images.
        """
        w = tf.convert_to_tensor(self.weight)
        return _by_maximum(w, [0, 1, 2]) if dtype == tf.float16 and self.demodulate else w

    def call(self, x, style, demodulation=None, noise=None):
        """Convolve images.

        Args:
            x:                   [N, H, W, in].
            style, demodulation: Of this layer, as `modulate` returns them.
            noise:               [N or 1, 1, H', W']. None = no noise.

        Returns:
            [N, H', W', out].
        """
        x, w = styled_bias_act(x, scale=style, data_format=conv.image_format()), self.unscaled_weight(x.dtype)
        if self.up:
            x = upsample_conv_2d(x, tf.cast(w, x.dtype), k=self.resample_kernel, data_format=conv.image_format())
        else:
            x = conv.conv2d(x, tf.cast(w, x.dtype))
        if noise is not None:
            noise = conv.from_nchw(noise) * self.noise_strength
        return self.record(bias_act(x, self.bias, self.act, scale=demodulation, noise=noise, clamp=self.clamp))


def modulate(layers, dlatents, dtypes):
    """The styles and demodulation factors of modulated convolutions. Those of equal shapes are computed together.

    Args:
        layers:   ModulatedConv2D each.
        dlatents: For each layer, [N, dlatent_size].
        dtypes:   For each layer, the type of its images.

    Returns:
        For each layer (style [N, in], demodulation [N, out], or None if it does not demodulate), float32.
    """
    def styles_of(some, w, half):
        # The factors of the weights are applied to the styles, which have far fewer elements.
        coef, mod_coef = _factors([layer.coef for layer in some]), np.float32(some[0].mod_coef)
        weights, biases = (_together([tf.convert_to_tensor(layer.var(name)) for layer in some])
                           for name in ('mod_weight', 'mod_bias'))
        x = tf.matmul(_together(w), weights) * (coef * mod_coef) + (tf.expand_dims(biases, -2) + 1) * coef
        return _by_maximum(x, [-1]) * coef if half[0] else x

    def demodulations_of(some, x, weights):
        return tf.math.rsqrt(tf.matmul(tf.square(_together(x)), _sums_of_squares(*weights)) + 1e-8)

    half = [layer.demodulate and dtype == tf.float16 for layer, dtype in zip(layers, dtypes, strict=True)]
    styles = _for_each_group([(layer.mod_weight.shape, yes) for layer, yes in zip(layers, half, strict=True)],
                             styles_of, layers, dlatents, half)
    weights = [layer.unscaled_weight(dtype) for layer, dtype in zip(layers, dtypes, strict=True)]
    demodulations = _for_each_group([layer.demodulate and layer.weight.shape for layer in layers],
                                    demodulations_of, layers, styles, weights)
    return list(zip(styles, demodulations, strict=True))


def _for_each_group(keys, function, *columns):
    """Call a function for all items with equal keys together.

    In the portable form, whose operations have the batch as their first axis, each item is alone.

    Args:
        keys:     For each item a key. False = do not call the function for it.
        function: function(list of values for each column) -> tensor with one row for each item of the group. That of
                  an item alone is the row.
        columns:  For each item a value, each.

    Returns:
        For each item its row. None = the function was not called for it.
    """
    rows = [None] * len(keys)
    groups = {}
    for i, key in enumerate(keys):
        if key is not False:
            groups.setdefault((key, i if is_portable() else 0), []).append(i)
    for indices in groups.values():
        found = function(*([column[i] for i in indices] for column in columns))
        for i, row in zip(indices, [found] if len(indices) == 1 else tf.unstack(found, len(indices)), strict=True):
            rows[i] = row
    return rows


def _together(tensors):
    """The tensors, stacked if there are several."""
    return tensors[0] if len(tensors) == 1 else tf.stack(tensors)


def _factors(values):
    """The values with the axes of what is computed for a group, [layer, 1, 1], or the only value."""
    return np.float32(values[0]) if len(values) == 1 else np.reshape(values, [-1, 1, 1]).astype(np.float32)


def _sums_of_squares(*weights):
    """Weights [kernel, kernel, in, out] each -> [weight, in, out], or [in, out] for one."""
    if is_portable():
        return tf.reduce_sum(tf.square(*weights), axis=[0, 1])
    return _native_sums_of_squares(*weights)


@tf.custom_gradient
def _native_sums_of_squares(*weights):
    """The gradient reads a weight once, not three times as that of TensorFlow's operations does."""
    def gradient(dy):
        rows = [2 * dy] if len(weights) == 1 else tf.unstack(2 * dy, len(weights))
        return [w * row for w, row in zip(weights, rows, strict=True)]
    return _together([tf.reduce_sum(tf.square(w), axis=[0, 1]) for w in weights]), gradient


def _by_maximum(x, axes):
    """x / max |x| over `axes`. The maximum is treated as a constant, because the final result does not depend on it."""
    return tf.math.divide_no_nan(x, tf.stop_gradient(tf.reduce_max(tf.abs(x), axis=axes, keepdims=True)))


class Const(ScopedLayer):
    """The learned input of the synthesis network, stored as const [1, C, 4, 4]."""

    def __init__(self, scope, fmaps):
        super().__init__(scope)
        self.fmaps = fmaps

    def get_config(self):
        return {'scope': self.scope, 'fmaps': self.fmaps}

    def build(self, input_shape=None):
        self.add_var('const', [1, self.fmaps, 4, 4], keras.initializers.RandomNormal(0.0, 1.0))
        self.built = True

    def call(self, dlatents):
        """dlatents [N, layers, dlatent_size], which only determine the batch size -> [N, 4, 4, C]."""
        x = conv.from_nchw(tf.convert_to_tensor(self.const))
        x = tf.tile(x, [tf.shape(dlatents)[0], 1, 1, 1])
        return self.record(tf.ensure_shape(x, [dlatents.shape[0], *x.shape[1:]]))


def minibatch_stddev(x, group_size=4, num_new_features=1):
    """Append the standard deviation over groups of images as new feature maps (Karras et al. 2018, Section 3).

    Args:
        x:                [N, H, W, C].
        group_size:       Number of images per group. Image i is in group i mod (N / group_size). A smaller batch is one
                          group. None = the batch is one group.
        num_new_features: Number of feature maps to append. Each is the mean over an equal share of the C channels.

    Returns:
        [N, H, W, C + num_new_features].
    """
    batch = x.shape[0]
    if batch is None:
        group_size = tf.shape(x)[0] if group_size is None else tf.minimum(group_size, tf.shape(x)[0])
    else:
        group_size = min(group_size or batch, batch)
    y, n = tf.cast(x, tf.float32), num_new_features
    if conv.image_format() == 'NHWC':
        _, h, w, c = x.shape
        groups, axes, one_pixel, copies = [h, w, n, c // n], [1, 2, 4], [1, 1, n], [h, w, 1]
    else:
        _, c, h, w = x.shape
        groups, axes, one_pixel, copies = [n, c // n, h, w], [2, 3, 4], [n, 1, 1], [1, h, w]
    y = tf.reshape(y, [group_size, -1, *groups])
    y -= tf.reduce_mean(y, axis=0, keepdims=True)
    y = tf.sqrt(tf.reduce_mean(tf.square(y), axis=0) + 1e-8)
    y = tf.tile(tf.reshape(tf.reduce_mean(y, axis=axes), [-1, *one_pixel]), [group_size, *copies])
    y = tf.ensure_shape(y, [batch, *(size * number for size, number in zip(one_pixel, copies, strict=True))])
    return tf.concat([x, tf.cast(y, x.dtype)], axis=conv.channel_axis())


def normalize_2nd_moment(x, epsilon=1e-8):
    """Normalize latents [N, C] to unit mean square over C (Karras et al. 2018, Section 4.2)."""
    return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), axis=1, keepdims=True) + epsilon)
