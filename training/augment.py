"""Augmentation of the images that D sees, after StyleGAN2-ADA (Karras et al. 2020, arXiv:2006.06676).

This module has the table of augmentations and their settings. The computation is in training/step/augmentations.py, which is
imported when images are augmented: the table is needed to parse arguments, and TensorFlow takes seconds to import.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf


def _pipe(*groups: str) -> dict[str, float]:
    return {op: 1.0 for group in groups for op in _GROUPS[group]}


_GROUPS = {
    'blit': ('xflip', 'rotate90', 'xint'),
    'geom': ('scale', 'rotate', 'aniso', 'xfrac'),
    'color': ('brightness', 'contrast', 'lumaflip', 'hue', 'saturation'),
    'filter': ('imgfilter',),
    'noise': ('noise',),
    'cutout': ('cutout',),
}

# --augpipe -> multipliers of the operations.
AUGPIPES: dict[str, dict[str, float]] = {
    **{group: _pipe(group) for group in _GROUPS},
    'bg': _pipe('blit', 'geom'),
    'bgc': _pipe('blit', 'geom', 'color'),
    'bgcf': _pipe('blit', 'geom', 'color', 'filter'),
    'bgcfn': _pipe('blit', 'geom', 'color', 'filter', 'noise'),
    'bgcfnc': _pipe('blit', 'geom', 'color', 'filter', 'noise', 'cutout'),
}


class AugmentPipe:
    """Random, differentiable augmentation of images.

    Attributes:
        settings: All arguments of the constructor, by name.
    """

    def __init__(self, *, xflip: float = 0, rotate90: float = 0, xint: float = 0, xint_max: float = 0.125,
                 scale: float = 0, rotate: float = 0, aniso: float = 0, xfrac: float = 0, scale_std: float = 0.2,
                 rotate_max: float = 1, aniso_std: float = 0.2, xfrac_std: float = 0.125,
                 brightness: float = 0, contrast: float = 0, lumaflip: float = 0, hue: float = 0, saturation: float = 0,
                 brightness_std: float = 0.2, contrast_std: float = 0.5, hue_max: float = 1, saturation_std: float = 1,
                 imgfilter: float = 0, imgfilter_bands: Sequence[float] = (1, 1, 1, 1), imgfilter_std: float = 1,
                 noise: float = 0, cutout: float = 0, noise_std: float = 0.1, cutout_size: float = 0.5):
        self.settings: dict[str, Any] = {name: value for name, value in locals().items() if name != 'self'}

    def __call__(self, images: tf.Tensor, p: float | tf.Tensor, rng: Any,
                 debug_percentile: float | None = None) -> tf.Tensor:
        """Augment images.

        Args:
            images:           [N, C, H, W] float32 in [-1, 1], with 1 or 3 channels.
            p:                Probability of each operation, before its multiplier. It may exceed 1.
            rng:              Random of dnnlib.tflib, from which all random values are drawn by name, such as 'hue/value'.
            debug_percentile: Use this percentile, 0 to 1, of each random value for all images, and ignore p.

        Returns:
            [N, C, H, W] float32, not limited to [-1, 1]. Differentiable to any order with respect to the images.

        Raises:
            ValueError: Another number of channels; or 'imgfilter' and a side shorter than 22 pixels.
        """
        from training.step.augmentations import augment
        return augment(images, p, rng, self.settings, debug_percentile)
