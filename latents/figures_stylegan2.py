"""Figures of StyleGAN2's paper (Karras et al. 2020, arXiv:1912.04958): activations (Figure 3), what each resolution
adds to the images (Figure 8), and images of small and large path length (Figure 4)."""

from __future__ import annotations

import dnnlib.tflib  # noqa: F401  First, so that TensorFlow loads quietly.

# isort: split
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageDraw
import tensorflow as tf

from dnnlib import memory, tflib
from dnnlib.progress import ProgressBar
from dnnlib.tflib import Network
from dnnlib.tflib.layer_list import capture_outputs
from latents import pictures
from metrics import feature_networks
from metrics.metric_defaults import metric_defaults
from metrics.perceptual_path_length import PPL
from metrics.sampling import SampleSource
from training.options import PRECISIONS

DROPLET_SEEDS = (0, 1, 2, 3)
CONTRIBUTION_SAMPLES = 256
PATH_SAMPLES = 200

_CELL = 128         # Smallest and largest height of a map in `droplets`.
_LARGEST_CELL = 256
_LINE = 16          # Height of a line of text.
_SHOWN = 20         # Most pictures of each kind in `path_lengths`.
_PATH_COLUMNS = 5
_GAP = 8


# ---- Activations ----

def feature_norms(Gs: Network, label: np.ndarray | None = None, psi: float | None = None, precision: str = 'float32'
                  ) -> Callable[[np.ndarray], tuple[np.ndarray, dict[int, np.ndarray]]]:
    """A function that computes pictures, and the norms of the feature maps behind them. It compiles only once.

    Args:
        Gs:        Generator, with or without W. Noise is that of the pickle.
        label:     [1, classes]. None = zeros.
        psi:       Truncation. None = the network's own settings.
        precision: Key of PRECISIONS.

    Returns:
        Function: latents [N, latent_size] -> (pictures uint8 [N, H, W, C], {size: root mean square over the channels of
        the last feature maps of this resolution, float32 [N, size, size]}), in ascending order. Resolutions that are
        not grown yet are left out.
    """
    kwargs = _call_kwargs(Gs, precision, psi)

    @tf.function(autograph=False)
    def compute(z, labels):
        with capture_outputs() as outputs:
            images = Gs(z, labels, **kwargs)
        maps = {int(scope.split('x')[0]): tf.cast(x, tf.float32) for scope, x in outputs.items()
                if re.fullmatch(r'\d+x\d+/(Conv|Conv1)', scope)}
        norms = {size: tf.sqrt(tf.reduce_mean(tf.square(x), axis=1)) for size, x in maps.items()}
        return tflib.convert_images_to_uint8(images, nchw_to_nhwc=True), norms

    def measure(z):
        images, norms = compute(*_inputs(Gs, z, label))
        return images.numpy(), {size: norms[size].numpy() for size in sorted(norms)}
    return measure


def droplets(Gs: Network, seeds: Sequence[int], label: np.ndarray | None = None, psi: float | None = None,
             precision: str = 'float32') -> PIL.Image.Image:
    """A row for each seed: its picture, and the norm of the feature maps at each resolution, from 0 (black) to the
    largest value (white). Above each map is the ratio of its largest value to its median.

    Args:
        seeds: Seeds of the rows.
        Others as in `feature_norms`.
    """
    rows, measure = [], feature_norms(Gs, label, psi, precision)
    with ProgressBar('droplets', len(seeds), 'picture') as progress:
        for seed in seeds:
            images, norms = measure(pictures.z_of_seeds(Gs, [seed]))
            rows.append((pictures.to_pil(images[0]).convert('RGB'), {size: maps[0] for size, maps in norms.items()}))
            progress.update()
    cell = min(max(Gs.output_shape[2], _CELL), _LARGEST_CELL)
    height = cell + 2 * _LINE
    canvas = PIL.Image.new('RGB', ((1 + len(rows[0][1])) * (cell + _GAP) - _GAP, height * len(rows)), 'white')
    draw = PIL.ImageDraw.Draw(canvas)
    for y, (seed, (picture, maps)) in zip(range(0, canvas.height, height), zip(seeds, rows)):
        draw.text((0, y + 2), f'seed {seed}', 'black')
        canvas.paste(_resized(picture, cell), (0, y + _LINE))
        for column, (size, norm) in enumerate(maps.items(), 1):
            x = column * (cell + _GAP)
            draw.text((x, y + 2), f'{size}x{size}   {norm.max() / max(np.median(norm), 1e-30):.1f}', 'black')
            gray = np.rint(255 * norm / max(norm.max(), 1e-30)).astype(np.uint8)
            canvas.paste(_resized(PIL.Image.fromarray(gray), cell), (x, y + _LINE))
    return canvas


def _resized(picture: PIL.Image.Image, size: int) -> PIL.Image.Image:
    """A square picture of another size: pixels are repeated or averaged."""
    is_larger = size > picture.width
    return picture.resize((size, size), PIL.Image.Resampling.NEAREST if is_larger else PIL.Image.Resampling.BOX)


# ---- What each resolution adds ----

def is_skip(Gs: Network) -> bool:
    """Does the generator sum RGB images of all resolutions?"""
    return getattr(Gs.components.get('synthesis', Gs).kw, 'architecture', None) == 'skip'


def contributions(Gs: Network, num_samples: int = CONTRIBUTION_SAMPLES, label: np.ndarray | None = None,
                  precision: str = 'float32') -> Callable[[], dict[int, float]]:
    """What each resolution adds to the images: the standard deviation of the output of its ToRGB layer, as a share of
    the sum over all resolutions (Section 5 and Figure 8 of the paper).

    It is the standard deviation over the pixels of all samples, of each channel for itself: its root mean square over
    the channels counts. The samples are not truncated, and have the noise of the pickle.

    Args:
        Gs:          Generator with skips, see `is_skip`.
        num_samples: Number of random images.
        label:       [1, classes]. None = zeros.
        precision:   Key of PRECISIONS.

    Returns:
        Function that computes {size: share} with the present weights of Gs, in ascending order. It compiles only once.
    """
    kwargs = _call_kwargs(Gs, precision, 1.0)

    @tf.function(autograph=False)
    def compute(z, labels):
        with capture_outputs() as outputs:
            Gs(z, labels, **kwargs)
        sums = {}
        for scope, x in outputs.items():
            if scope.endswith('/ToRGB'):
                x = tf.cast(x, tf.float64)
                means = [tf.reduce_mean(value, axis=[0, 2, 3]) for value in (x, tf.square(x))]
                sums[int(scope.split('x')[0])] = tf.stack(means)
        return sums

    def measure():
        z = np.random.RandomState(0).randn(num_samples, *Gs.input_shape[1:])
        totals: dict[int, np.ndarray] = {}
        for begin in range(0, num_samples, pictures.MINIBATCH_SIZE):
            part = z[begin:begin + pictures.MINIBATCH_SIZE]
            for size, sums in compute(*_inputs(Gs, part, label)).items():
                totals[size] = totals.get(size, 0) + sums.numpy() * (len(part) / num_samples)
        stds = {size: math.sqrt(max(float(np.mean(squares - means ** 2)), 0))
                for size, (means, squares) in sorted(totals.items())}
        return {size: std / max(sum(stds.values()), 1e-30) for size, std in stds.items()}
    return measure


# ---- Path lengths ----

class Sample(NamedTuple):
    """A picture and the length of the path that begins at it."""
    distance: float
    picture: np.ndarray  # uint8 [H, W, C].


def path_metric(Gs: Network) -> tuple[PPL, Callable]:
    """The metric that measures path lengths, ppl2_wend, and its feature network.

    Raises:
        UserError: The images are too small, or the weights of LPIPS are not there.
    """
    metric = PPL(**{name: value for name, value in metric_defaults['ppl2_wend'].items() if name != 'func_name'})
    metric.check(Gs.output_shape[2])
    return metric, feature_networks.load('lpips')


def path_lengths(Gs: Network, num_samples: int = PATH_SAMPLES,
                 label: np.ndarray | None = None) -> tuple[list[Sample], list[Sample]]:
    """The tenth of random pictures with the smallest perceptual path lengths, and that with the largest.

    The lengths are those of the metric ppl2_wend: LPIPS distances over a small step in W, without truncation.

    Args:
        Gs:          Generator with W.
        num_samples: Number of pictures, at least 10.
        label:       [1, classes]. None = zeros.

    Returns:
        (smallest in ascending order, largest in descending order), num_samples // 10 of each.

    Raises:
        UserError: The images are too small, or the weights of LPIPS are not there.
    """
    metric, lpips = path_metric(Gs)
    count, size = num_samples // 10, metric.minibatch_per_gpu
    memory.require(2 * (count + size) * math.prod(Gs.output_shape[1:]), f'path-length with {num_samples} samples',
                   'Choose a smaller --num-samples.')
    labels = np.zeros([1, Gs.input_shapes[1][1]], np.float32) if label is None else label

    def draw(source):
        pairs = metric.pairs(source, size)
        return metric.distances_of(pairs, lpips), tflib.convert_images_to_uint8(pairs[0::2], nchw_to_nhwc=True)

    draw_all = SampleSource(Gs, labels, seed=0).compile(draw)
    least: list[Sample] = []
    most: list[Sample] = []
    with ProgressBar('path-length', num_samples, 'pair') as progress:
        for begin in range(0, num_samples, size):
            (distances, images), = draw_all(begin // size)
            new = [*map(Sample, distances, images)][:num_samples - begin]
            least = sorted([*least, *new], key=lambda sample: sample.distance)[:count]
            most = sorted([*most, *new], key=lambda sample: -sample.distance)[:count]
            progress.update(len(new))
    return least, most


def path_length_sheet(least: Sequence[Sample], most: Sequence[Sample]) -> PIL.Image.Image:
    """Small path lengths at the left, large ones at the right, each with its length. Of many, some are chosen evenly.

    Args:
        least, most: What `path_lengths` returns.
    """
    sides = [[side[idx] for idx in np.linspace(0, len(side) - 1, min(len(side), _SHOWN)).round().astype(int)]
             for side in (least, most)]
    height = least[0].picture.shape[0]
    cell = height * max(64 // height, 1)
    columns = min(_PATH_COLUMNS, len(sides[0]))
    width, rows = columns * cell, -(-len(sides[0]) // columns)
    canvas = PIL.Image.new('RGB', (2 * width + 4 * _GAP, _LINE + rows * (cell + _LINE)), 'white')
    draw = PIL.ImageDraw.Draw(canvas)
    for side, x, title in zip(sides, (0, width + 4 * _GAP), ('least path length', 'greatest path length')):
        draw.text((x, 2), title, 'black')
        for idx, sample in enumerate(side):
            left, top = x + idx % columns * cell, _LINE + idx // columns * (cell + _LINE)
            canvas.paste(_resized(pictures.to_pil(sample.picture).convert('RGB'), cell), (left, top))
            number = f'{sample.distance:.3g}' if sample.distance < 1000 else f'{sample.distance:,.0f}'
            draw.text((left + 2, top + cell + 1), number, 'black')
    return canvas


# ---- Parts of them ----

def _call_kwargs(Gs: Network, precision: str, psi: float | None) -> Mapping[str, object]:
    """Arguments of a call of a generator on tensors, with the noise of the pickle."""
    stage = Gs.lod_stage()
    return dict(randomize_noise=False, dtype=PRECISIONS[precision], **({} if psi is None else dict(truncation_psi=psi)),
                **({} if stage is None else dict(lod_stage=stage)))


def _inputs(Gs: Network, z: np.ndarray, label: np.ndarray | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Latents and labels as tensors."""
    labels = np.zeros([len(z), Gs.input_shapes[1][1]]) if label is None else label.repeat(len(z), axis=0)
    return tf.constant(z, tf.float32), tf.constant(labels, tf.float32)
