"""The layer between networks and TensorFlow: start-up, conversion of images, random numbers, the Network class."""

import dnnlib.tflib.quiet  # noqa: F401  Must be imported before TensorFlow.

# isort: split
from dnnlib.tflib import autosummary
from dnnlib.tflib.network import Network
from dnnlib.tflib.random import GivenNoise, KeyedRandom, Random
from dnnlib.tflib.tfutil import (
    assert_tf_initialized,
    convert_images_from_uint8,
    convert_images_to_uint8,
    create_session,
    exp2,
    flatten,
    init_tf,
    init_uninitialized_vars,
    is_tf_expression,
    lerp,
    lerp_clip,
    log2,
    run,
    set_vars,
    shape_to_list,
)

__all__ = ['GivenNoise', 'KeyedRandom', 'Network', 'Random', 'assert_tf_initialized', 'autosummary',
           'convert_images_from_uint8', 'convert_images_to_uint8', 'create_session', 'exp2', 'flatten', 'init_tf',
           'init_uninitialized_vars', 'is_tf_expression', 'lerp', 'lerp_clip', 'log2', 'run', 'set_vars',
           'shape_to_list']
