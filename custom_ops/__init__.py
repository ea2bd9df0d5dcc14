"""Ops that StyleGAN2 needs beyond TensorFlow's own, differentiable to any order: resampling, bias with activation."""

import dnnlib.tflib.quiet  # noqa: F401  Must be imported before TensorFlow.

# isort: split
from custom_ops.fused_bias_act import fused_bias_act
from custom_ops.loader import impl_report, must_be_native, set_impl
from custom_ops.reference import ACTIVATIONS, SLOPES
from custom_ops.styled_bias_act import styled_bias_act
from custom_ops.upfirdn_2d import (
    conv_downsample_2d,
    downsample_2d,
    filter_2d,
    upfirdn_2d,
    upsample_2d,
    upsample_conv_2d,
)

__all__ = ['ACTIVATIONS', 'SLOPES', 'conv_downsample_2d', 'downsample_2d', 'filter_2d', 'fused_bias_act',
           'impl_report', 'must_be_native', 'set_impl', 'styled_bias_act', 'upfirdn_2d', 'upsample_2d',
           'upsample_conv_2d']
