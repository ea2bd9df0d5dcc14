"""The figures of StyleGAN's paper (Karras et al. 2019, arXiv:1812.04948) with any generator.

Layouts, seeds and numbers are those of the original's figures. Regions of pictures and ranges of layers are scaled from
its network for 1024x1024 to the size of the generator.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence

import numpy as np
import PIL.Image
import tensorflow as tf

from dnnlib.progress import ProgressBar
from dnnlib.tflib import Network
from latents import pictures
from training import misc

UNCURATED_SEED, UNCURATED_ROWS, UNCURATED_LODS = 5, 3, (0, 1, 2, 2, 3, 3)
SRC_SEEDS, DST_SEEDS = (639, 701, 687, 615, 2268), (888, 829, 1898, 1733, 1614, 845)
NOISE_DETAIL_SEEDS, NOISE_COMPONENTS_SEEDS, TRUNCATION_SEEDS = (1157, 1012), (1967, 1555), (91, 388)
PSIS = (1, 0.7, 0.5, 0, -0.5, -1)
NOISE_SAMPLES = 100
STD_SCALE = 4  # Levels of gray for a standard deviation of one level.

_CROP = (650, 180, 906, 436)  # Region of noise_detail: left, top, right, bottom, of 1024.
_SMALLEST_UNCURATED = 64      # uncurated does not shrink pictures below this size.


# ---- What scales with the resolution ----

def uncurated_lods(resolution: int) -> list[int]:
    """How often the pictures of each column of `uncurated` are halved."""
    most = max(int(np.log2(resolution / _SMALLEST_UNCURATED)), 0)
    return [min(lod, most) for lod in UNCURATED_LODS]


def style_ranges(num_layers: int) -> list[range]:
    """Layers of the source in each row of `style_mixing`: coarse, middle and fine, at 1024x1024 0-3, 4-7 and 8-17."""
    coarse = max(round(num_layers * 4 / 18), 1)
    middle = max(round(num_layers * 8 / 18), coarse)
    rows = [range(coarse)] * 3 + [range(coarse, middle)] * 2 + [range(middle, num_layers)]
    return [layers for layers in rows if layers]


def noise_ranges(Gs: Network) -> list[list[int]]:
    """Numbers of the noise inputs in each part of `noise_components`: all, none, fine, coarse.

    At 1024x1024, the coarse ones are those of 4x4 to 32x32.
    """
    sizes = [int(var.shape[-1]) for var in misc.noise_variables(Gs)]
    levels = sorted(set(sizes))
    coarse = set(levels[:max(round(len(levels) * 4 / 9), 1)])
    return [list(range(len(sizes))), [], [idx for idx, size in enumerate(sizes) if size not in coarse],
            [idx for idx, size in enumerate(sizes) if size in coarse]]


def detail_crop(resolution: int) -> tuple[int, int, int, int]:
    """The region that `noise_detail` enlarges: left, top, right, bottom."""
    left, top, right, bottom = (round(edge * resolution / 1024) for edge in _CROP)
    return left, top, max(right, left + 1), max(bottom, top + 1)


# ---- The figures ----

def uncurated(Gs: Network, crop: tuple[int, int, int, int], rows: int, lods: Sequence[int], seed: int,
              psi: float | None = None, label: np.ndarray | None = None,
              precision: str = 'float32') -> PIL.Image.Image:
    """Random pictures with random noise: a column for each of `lods`, with smaller pictures where it is higher.

    Args:
        Gs:        Generator, with or without W.
        crop:      Region to show: left, top, width, height.
        rows:      Number of pictures of full size in a column.
        lods:      How often the pictures of each column are halved.
        seed:      Seed of all latents.
        psi:       Truncation. None = the network's own settings.
        label:     [1, classes]. None = zeros.
        precision: Key of PRECISIONS.
    """
    left, top, width, height = crop
    counts = [rows * 2 ** lod for lod in lods]
    z = np.random.RandomState(seed).randn(sum(counts), *Gs.input_shape[1:])
    canvas = PIL.Image.new('RGB', (sum(width >> lod for lod in lods), height * rows), 'white')
    drawn = _pictures('uncurated', Gs, z, label, precision, randomize_noise=True, **_psi(psi))
    x = 0
    for lod, count in zip(lods, counts):
        size = max(width >> lod, 1), max(height >> lod, 1)
        for row in range(count):
            picture = next(drawn).crop((left, top, left + width, top + height))
            canvas.paste(picture.resize(size, PIL.Image.Resampling.LANCZOS), (x, row * height >> lod))
        x += width >> lod
    drawn.close()
    return canvas


def style_mixing(Gs: Network, src_seeds: Sequence[int], dst_seeds: Sequence[int], ranges: Sequence[Collection[int]],
                 label: np.ndarray | None = None, precision: str = 'float32') -> PIL.Image.Image:
    """Sources on top, destinations at the left, and between them the destination with some styles of the source.

    Args:
        Gs:        Generator with W. Nothing is truncated, and the noise is that of the pickle.
        src_seeds: Seeds of the columns.
        dst_seeds: Seeds of the rows, as many as `ranges`.
        ranges:    Layers that each row takes from the source.
        label, precision: As in `uncurated`.
    """
    src, dst = (pictures.w_of(Gs, pictures.z_of_seeds(Gs, seeds), label) for seeds in (src_seeds, dst_seeds))
    mixed = []
    for w, layers in zip(dst, ranges, strict=True):
        row = np.stack([w] * len(src))
        row[:, list(layers)] = src[:, list(layers)]
        mixed += [w[np.newaxis], row]
    drawn = _pictures('style-mixing', Gs.components.synthesis, np.concatenate([src, *mixed]), None, precision,
                      randomize_noise=False)
    return _grid(drawn, len(src) + 1, len(dst) + 1, Gs.output_shape, first=1)


def noise_detail(Gs: Network, seeds: Sequence[int], num_samples: int = NOISE_SAMPLES, label: np.ndarray | None = None,
                 precision: str = 'float32') -> PIL.Image.Image:
    """What random noise changes. A row for each seed: a picture, enlarged parts of four others that differ only in the
    noise, and the standard deviation of each pixel over all samples.

    Args:
        Gs:          Generator with W. Nothing is truncated.
        seeds:       Seeds of the rows.
        num_samples: Pictures of each seed, at least 5.
        label, precision: As in `uncurated`.
    """
    size = Gs.output_shape[2]
    half = max(size // 2, 1)
    canvas = PIL.Image.new('RGB', (3 * size, size * len(seeds)), 'white')
    z = pictures.z_of_seeds(Gs, seeds).repeat(num_samples, axis=0)
    drawn = _pictures('noise-detail', Gs, z, label, precision, randomize_noise=True, **_psi(1))
    for row in range(len(seeds)):
        total, squares = np.zeros([size, size]), np.zeros([size, size])
        for idx in range(num_samples):
            picture = next(drawn)
            gray = np.asarray(picture, np.float64).mean(axis=2)
            total, squares = total + gray, squares + gray ** 2
            if idx == 0:
                canvas.paste(picture, (0, row * size))
            elif idx <= 4:
                part = picture.crop(detail_crop(size)).resize((half, half), PIL.Image.Resampling.NEAREST)
                canvas.paste(part, (size + (idx - 1) % 2 * half, row * size + (idx - 1) // 2 * half))
        std = np.sqrt(np.maximum(squares / num_samples - (total / num_samples) ** 2, 0))
        gray = np.clip(STD_SCALE * std + 0.5, 0, 255).astype(np.uint8)
        canvas.paste(PIL.Image.fromarray(gray), (2 * size, row * size))
    drawn.close()
    return canvas


def noise_components(Gs: Network, seeds: Sequence[int], ranges: Sequence[Collection[int]], flips: Collection[int] = (),
                     label: np.ndarray | None = None, precision: str = 'float32') -> PIL.Image.Image:
    """Which noise draws what: a column of two pictures for each seed, whose halves have the noise of four ranges of
    inputs. Above they are the first and the second, below the third and the fourth.

    Args:
        Gs:     Generator with W and noise. Nothing is truncated, and the noise is that of the pickle.
        seeds:  Seeds of the columns.
        ranges: Numbers of the noise inputs of the four. The noise of all others is zero.
        flips:  Numbers of seeds whose pictures are mirrored left to right.
        label, precision: As in `uncurated`.
    """
    size = Gs.output_shape[2]
    stored = [var.numpy() for var in misc.noise_variables(Gs)]
    z = pictures.z_of_seeds(Gs, seeds)
    canvas = PIL.Image.new('RGB', (size * len(seeds), 2 * size), 'white')
    for part, layers in enumerate(ranges):
        left, y = part % 2 * (size // 2), part // 2 * size
        with misc.noise_of(Gs, [noise * (idx in layers) for idx, noise in enumerate(stored)]):
            drawn = [*_pictures('noise-components', Gs, z, label, precision, randomize_noise=False, **_psi(1))]
        for column, picture in enumerate(drawn):
            if column in flips:
                picture = picture.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
            canvas.paste(picture.crop((left, 0, left + size // 2, size)), (column * size + left, y))
    return canvas


def truncation_trick(Gs: Network, seeds: Sequence[int], psis: Sequence[float] = PSIS, label: np.ndarray | None = None,
                     precision: str = 'float32') -> PIL.Image.Image:
    """A row for each seed, a column for each psi: W is truncated in all layers, and the noise is that of the pickle.

    Args:
        Gs:    Generator with W.
        seeds: Seeds of the rows.
        psis:  Scales of the distance from the mean of W.
        label, precision: As in `uncurated`.
    """
    avg = Gs.get_var('dlatent_avg')
    w = pictures.w_of(Gs, pictures.z_of_seeds(Gs, seeds), label)
    w = np.concatenate([avg + np.float32(psi) * (row - avg) for row in w[:, np.newaxis] for psi in psis])
    drawn = _pictures('truncation-trick', Gs.components.synthesis, w, None, precision, randomize_noise=False)
    return _grid(drawn, len(psis), len(seeds), Gs.output_shape)


# ---- Parts of them ----

def _psi(psi: float | None) -> dict[str, float]:
    """Argument of Gs.run. None = none, so that the network's own setting counts."""
    return {} if psi is None else dict(truncation_psi=psi)


def _pictures(what: str, net: Network, x: np.ndarray, label: np.ndarray | None, precision: str,
              **kwargs) -> Generator[PIL.Image.Image, None, None]:
    """Generate RGB pictures from latents or W, one after the other, and show the progress.

    Args:
        what:   Name of the figure.
        net:    Generator, or its synthesis network.
        x:      Its input [N, ...].
        label:  [1, classes]. None = zeros, or the network takes none.
        kwargs: Arguments of net.run.
    """
    tf.random.get_global_generator().reset_from_seed(0)  # The same command draws the same noise.
    kwargs.update(pictures.picture_kwargs(precision))
    with ProgressBar(what, len(x), 'picture') as progress:
        for begin in range(0, len(x), pictures.MINIBATCH_SIZE):
            part = x[begin:begin + pictures.MINIBATCH_SIZE]
            for image in net.run(part, *([] if label is None else [label.repeat(len(part), axis=0)]), **kwargs):
                progress.update()
                yield pictures.to_pil(image).convert('RGB')


def _grid(drawn: Iterator[PIL.Image.Image], columns: int, rows: int, shape: Sequence[int],
          first: int = 0) -> PIL.Image.Image:
    """A grid of all pictures of an iterator.

    Args:
        drawn: The pictures, row by row.
        shape: [N, C, H, W].
        first: Number of cells that stay empty before the first picture.
    """
    height, width = shape[2:]
    canvas = PIL.Image.new('RGB', (width * columns, height * rows), 'white')
    for cell, picture in enumerate(drawn, first):
        canvas.paste(picture, (cell % columns * width, cell // columns * height))
    return canvas
