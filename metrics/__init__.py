"""Metrics of generators, and the networks that they look through."""

import dnnlib  # noqa: F401  Chooses the kernels of TensorFlow on a CPU, before a module of this package imports it.
