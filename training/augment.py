"""Augmentation of the images that D sees, as in StyleGAN2-ADA (Karras et al. 2020, arXiv:2006.06676).

This module has the settings. The computation is in training/step/augmentations.py, which is imported when images are
augmented, because the settings are needed to parse arguments, and TensorFlow takes seconds to import.

`python -m training.augment IMAGES --sheet=FILE.png` draws what each operation does.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dnnlib import cli, storage
from dnnlib.cli import UserError

if TYPE_CHECKING:
    import PIL.Image
    import tensorflow as tf

_GROUPS = {
    'blit': ('xflip', 'rotate90', 'xint'),
    'geom': ('scale', 'rotate', 'aniso', 'xfrac'),
    'color': ('brightness', 'contrast', 'lumaflip', 'hue', 'saturation'),
    'filter': ('imgfilter',),
    'noise': ('noise',),
    'cutout': ('cutout',),
}

def _pipe(*groups: str) -> dict[str, Any]:
    return {op: 1.0 for group in groups for op in _GROUPS[group]}


# --augpipe -> multipliers of the operations.
AUGPIPES: dict[str, dict[str, Any]] = {
    **{group: _pipe(group) for group in _GROUPS},
    'bg': _pipe('blit', 'geom'),
    'bgc': _pipe('blit', 'geom', 'color'),
    'bgcf': _pipe('blit', 'geom', 'color', 'filter'),
    'bgcfn': _pipe('blit', 'geom', 'color', 'filter', 'noise'),
    'bgcfnc': _pipe('blit', 'geom', 'color', 'filter', 'noise', 'cutout'),
}


class AugmentPipe:
    """Random, differentiable augmentations of images.

    Each operation has a multiplier, by default 0: it acts on an image with the probability multiplier * p.

    Args:
        xflip:            Mirror.
        rotate90:         Rotate by a multiple of 90 degrees.
        xint, xint_max:   Translate by whole pixels, by up to this share of the size.
        scale, scale_std: Scale by a factor whose log2 has this standard deviation.
        rotate, rotate_max: Rotate by any angle up to rotate_max * 180 degrees, in either direction.
        aniso, aniso_std: Stretch or compress in one direction; standard deviation of log2 of the factor.
        xfrac, xfrac_std: Translate by any distance; standard deviation as share of the size.
        brightness, brightness_std: Add to all channels; standard deviation of the amount.
        contrast, contrast_std: Multiply all channels; standard deviation of log2 of the factor.
        lumaflip:         Invert the luminance, not the hue.
        hue, hue_max:     Rotate hues, by up to hue_max * 180 degrees. Not for 1 channel.
        saturation, saturation_std: Multiply the saturation; standard deviation of log2 of the factor. Not for 1
                          channel.
        imgfilter, imgfilter_std: Amplify or weaken frequency bands; standard deviation of log2 of the factors.
        imgfilter_bands:  Multipliers of the four bands, from low to high frequencies.
        noise, noise_std: Add white noise; standard deviation of its own standard deviation.
        cutout, cutout_size: Make a rectangle of this share of each side 0.

    Attributes:
        settings: All arguments, by name.
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
            rng:              Random of dnnlib.tflib. The names of the draws are 'hue/value', 'hue/gate' and so on.
            debug_percentile: Use this percentile, 0 to 1, of each random value for all images, and ignore p.

        Returns:
            [N, C, H, W] float32, not limited to [-1, 1]. Differentiable to any order with respect to the images.

        Raises:
            ValueError: Another number of channels; or 'imgfilter' and a side shorter than 22 pixels.
        """
        from training.step.augmentations import augment
        return augment(images, p, rng, self.settings, debug_percentile)


# ---- A picture of the augmentations ----

_PROBABILITIES = [step / 10 for step in range(1, 11)]
_IMAGES_PER_CELL = 4  # In two rows.
_MIN_SIZE = 32        # 'imgfilter' cannot filter much smaller images.


def draw_sheet(images: Sequence[PIL.Image.Image], size: int, seed: int) -> PIL.Image.Image:
    """Draw every operation, alone and in groups (rows), with probabilities p from 0.1 to 1 (columns).

    Args:
        images: RGB images. Each cell shows four, or the same ones again if there are fewer.
        size:   Side of the images in the sheet, in pixels.
        seed:   Seed of the augmentations.
    """
    from dnnlib import tflib  # First, for a quiet start of TensorFlow.

    # isort: split
    import numpy as np
    import PIL.Image
    import PIL.ImageDraw
    import PIL.ImageFont
    import PIL.ImageOps
    import tensorflow as tf

    def block(images):
        pixels = tflib.convert_images_to_uint8(images, nchw_to_nhwc=True).numpy()
        return PIL.Image.fromarray(np.concatenate(np.concatenate(pixels.reshape(2, 2, size, size, 3), axis=1), axis=1))

    chosen = list(itertools.islice(itertools.cycle(images), _IMAGES_PER_CELL))
    squares = np.stack([np.asarray(PIL.ImageOps.fit(image, (size, size))) for image in chosen])
    rng = tflib.Random(tf.random.Generator.from_seed(seed))
    originals = tf.constant(squares.transpose(0, 3, 1, 2) / np.float32(127.5) - 1, tf.float32)
    rows: dict[str, dict[str, Any]] = {op: {op: 1.0} for op in AUGPIPES['bgcfnc']}
    rows.update({name: ops for name, ops in AUGPIPES.items() if len(ops) > 1})
    font, cell, left, top = PIL.ImageFont.load_default(14), 2 * size + 8, 100, 28
    sheet = PIL.Image.new('RGB', (left + cell * (1 + len(_PROBABILITIES)), top + cell * len(rows)), 'white')
    draw = PIL.ImageDraw.Draw(sheet)
    for column, label in enumerate(['original', *(f'p = {p}' for p in _PROBABILITIES)]):
        draw.text((left + column * cell + size, top / 2), label, 'black', font, 'mm')
    for row, (name, ops) in enumerate(rows.items()):
        y = top + row * cell
        draw.text((left - 8, y + size), name, 'black', font, 'rm')
        sheet.paste(block(originals), (left, y))
        pipe = AugmentPipe(**ops)
        for column, p in enumerate(_PROBABILITIES, 1):
            sheet.paste(block(pipe(originals, p, rng)), (left + column * cell, y))
    return sheet


def main(argv: Sequence[str]) -> None:
    """Run the command line: draw a sheet of augmented images."""
    parser = argparse.ArgumentParser(
        prog='python -m training.augment', description='Draw what each augmentation does to images.',
        formatter_class=cli.help_formatter, allow_abbrev=False)
    parser.add_argument('images', type=cli.path, nargs='+', metavar='IMAGES',
                        help='image files, folders or .zip archives; the first four images are shown')
    parser.add_argument('--sheet', type=cli.path, required=True, metavar='FILE.png', help='picture to write (required)')
    parser.add_argument('--size', type=cli.positive_int, default=64, metavar='N',
                        help=f'side of the images in pixels, at least {_MIN_SIZE} (default: 64)')
    parser.add_argument('--seed', type=cli.seed, default=0, metavar='N', help='other random values (default: 0)')
    cli.add_debug_flag(parser)
    args = parser.parse_args(argv)
    folder = os.path.dirname(args.sheet) or '.'
    if not args.sheet.lower().endswith('.png'):
        raise UserError(f'--sheet={args.sheet}: expected a name that ends in .png', 'Give it such a name.')
    if not os.path.isdir(folder):
        raise UserError(f'--sheet={args.sheet}: there is no folder {folder}', 'Make it first, or name another.')
    if args.size < _MIN_SIZE:
        raise UserError(f'--size={args.size}: expected at least {_MIN_SIZE}', 'Give a larger number.')

    from training.data.image_folder import iterate_images
    images = [image for _, image in itertools.islice(iterate_images(args.images, channels=3), _IMAGES_PER_CELL)]
    sheet = draw_sheet(images, args.size, args.seed)
    with storage.new_file(args.sheet) as part:
        sheet.save(part, 'png')
    print(f'Wrote {args.sheet}')


if __name__ == '__main__':
    cli.run(main)
