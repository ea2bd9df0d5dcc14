"""Start TensorFlow, set many variables, convert images to bytes and back."""

import contextlib
import random
import types

import keras
import numpy as np
import tensorflow as tf

from dnnlib.cli import UserError

_initialized = False


def visible_gpus() -> list[tf.config.PhysicalDevice]:
    """The GPUs that this process may use: those that neither CUDA_VISIBLE_DEVICES nor TensorFlow's settings hide."""
    return tf.config.get_visible_devices('GPU')


def has_gpu() -> bool:
    """Whether this process may use a GPU."""
    return bool(visible_gpus())


def hidden_gpus() -> list[tf.config.PhysicalDevice]:
    """The GPUs that TensorFlow's settings hide from this process."""
    visible = visible_gpus()
    return [gpu for gpu in tf.config.list_physical_devices('GPU') if gpu not in visible]


def set_tf32(enabled: bool):
    """Allow or forbid TF32 in convolutions and matrix products of float32 on GPUs that have it (from Ampere on).

    TF32 rounds their inputs to 10 bits of mantissa, where float32 has 23. TensorFlow allows it by default.
    """
    tf.config.experimental.enable_tensor_float_32_execution(enabled)


# Memory of GPUs is allocated as it is needed, as in the original, unless the caller has decided otherwise.
for _gpu in visible_gpus():
    if tf.config.experimental.get_memory_growth(_gpu) is None:
        # RuntimeError: the GPU is in use already. ValueError: the caller has divided it into logical devices.
        with contextlib.suppress(RuntimeError, ValueError):
            tf.config.experimental.set_memory_growth(_gpu, True)


def init_tf(config_dict=None):
    """Seed everything random, and forbid TF32; later calls in the same process do nothing.

    Args:
        config_dict: Options. None = {}. These three count; the others that the original has had a meaning in
                     TensorFlow 1 only, and are accepted for the sake of old scripts:
                     'rnd.np_random_seed': int, or None for a random one (default).
                     'rnd.tf_random_seed': int, or 'auto' (default) for one drawn from numpy's generator.
                     'tf32': False (default) = float32 on GPUs is float32, as in the original; True = `set_tf32`;
                     None = leave it as it is.
    """
    global _initialized
    if _initialized:
        return
    config = {'rnd.np_random_seed': None, 'rnd.tf_random_seed': 'auto', 'tf32': False, **(config_dict or {})}
    if config['tf32'] is not None:
        set_tf32(config['tf32'])
    seed_everything(config['rnd.np_random_seed'], config['rnd.tf_random_seed'])
    _initialized = True


def seed_everything(np_random_seed=None, tf_random_seed='auto'):
    """Seed Python, numpy, Keras' initializers and TensorFlow. Arguments as in `init_tf`."""
    np.random.seed(np_random_seed)
    if tf_random_seed == 'auto':
        tf_random_seed = np.random.randint(1 << 31)
    random.seed(tf_random_seed)  # Keras draws the seeds of its initializers from here.
    tf.random.set_seed(tf_random_seed)
    tf.random.set_global_generator(tf.random.Generator.from_seed(tf_random_seed))


def run(value):
    """The numpy value of a tensor, variable, or nest of them: what `session.run` was to the original's notebooks.

    Functions in it, such as `Network.setup_as_moving_average_of` returns, are called.
    """
    def evaluate(x):
        return x.numpy() if hasattr(x, 'numpy') else x() if isinstance(x, types.FunctionType) else x
    return tf.nest.map_structure(evaluate, value)


# ---- Names of the original that have lost their meaning, or most of it ----

def create_session(config_dict=None, force_as_default=False):
    """Raise a UserError: there are no sessions."""
    raise UserError('create_session: there are no sessions in TensorFlow 2',
                    'Leave it out: networks and operations compute at once, and tflib.run(x) gives arrays.')


def init_uninitialized_vars(target_vars=None):
    """Print that this has no effect: variables have values from the start."""
    print('Note: init_uninitialized_vars has no effect: variables have values from the start.')


def assert_tf_initialized():
    """Nothing to check: TensorFlow needs no session."""


def is_tf_expression(x):
    """Whether `x` is a tensor or variable of TensorFlow, or a variable of a network."""
    return tf.is_tensor(x) or isinstance(x, tf.Variable) or type(x).__name__ == 'NetworkVariable'


def shape_to_list(shape):
    """A tf.TensorShape, or another sequence of sizes, as a list of int or None."""
    return [None if size is None else int(size) for size in shape]


def flatten(x):
    """A tensor as a vector."""
    return tf.reshape(x, [-1])


def log2(x):
    """Logarithm to the base 2 of a float tensor."""
    return tf.math.log(x) * np.float32(1 / np.log(2))


def exp2(x):
    """2^x of a float tensor."""
    return tf.exp(x * np.float32(np.log(2)))


def set_vars(var_to_value_dict):
    """Assign every value of {variable: value}; keys are what `Network.vars` holds."""
    for var, value in var_to_value_dict.items():
        getattr(var, 'deref', lambda var=var: var)().assign(np.asarray(value, var.dtype.as_numpy_dtype))


def tf_variable(var):
    """The tf.Variable of a Keras variable, which Keras 3 wraps and Keras 2 does not."""
    return var.value if isinstance(getattr(keras, 'Variable', None), type) and isinstance(var, keras.Variable) else var


def is_keras_tensor(x):
    """Whether `x` is a symbolic tensor, from which a Keras model of models is put together."""
    try:
        return keras.backend.is_keras_tensor(x)
    except ValueError:  # Keras 2, about what is no tensor at all: None, an array.
        return False


def lerp(a, b, t):
    """a at t = 0, b at t = 1, on the line through them elsewhere."""
    return a + (b - a) * t


def lerp_clip(a, b, t):
    """a at t <= 0, b at t >= 1, and `lerp` in between."""
    return lerp(a, b, tf.clip_by_value(t, 0.0, 1.0))


def convert_images_from_uint8(images, drange=(-1, 1), nhwc_to_nchw=False):
    """uint8 images, 0..255 -> float32, `drange`. See `convert_images_to_uint8`."""
    images = tf.cast(images, tf.float32)
    if nhwc_to_nchw:
        images = tf.transpose(images, [0, 3, 1, 2])
    return images * ((drange[1] - drange[0]) / 255) + drange[0]


def convert_images_to_uint8(images, drange=(-1, 1), nchw_to_nhwc=False, shrink=1):
    """Float images -> uint8, 0..255, rounded half up and saturated.

    Args:
        images:       [N, C, H, W] float.
        drange:       Values that become 0 and 255.
        nchw_to_nhwc: Return [N, H, W, C].
        shrink:       Factor of box downsampling, a divisor of H and W.
    """
    images = tf.cast(images, tf.float32)
    if shrink > 1:
        n, c, h, w = tf.unstack(tf.shape(images))
        images = tf.reshape(images, [n, c, h // shrink, shrink, w // shrink, shrink])
        images = tf.reduce_mean(images, axis=[3, 5])
    if nchw_to_nhwc:
        images = tf.transpose(images, [0, 2, 3, 1])
    scale = 255 / (drange[1] - drange[0])
    return tf.saturate_cast(images * scale + (0.5 - drange[0] * scale), tf.uint8)
