"""Metrics of generators, and the feature networks they use."""

import dnnlib  # noqa: F401  First, because it chooses TensorFlow's CPU kernels before TensorFlow is imported.
