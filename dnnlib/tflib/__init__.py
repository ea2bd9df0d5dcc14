"""The layer between networks and TensorFlow: start-up, conversion of images, random numbers, the Network class."""

import dnnlib.tflib.quiet  # noqa: F401  Must be imported before TensorFlow.

# isort: split
from dnnlib.tflib.network import Network
from dnnlib.tflib.random import GivenNoise, KeyedRandom, Random
from dnnlib.tflib.tfutil import convert_images_from_uint8, convert_images_to_uint8, init_tf, lerp, run, set_vars

__all__ = ['GivenNoise', 'KeyedRandom', 'Network', 'Random', 'convert_images_from_uint8', 'convert_images_to_uint8',
           'init_tf', 'lerp', 'run', 'set_vars']
