"""Flags of the commands of run_generator.py that walk through W, and the values that they can have.

Imports neither TensorFlow nor NumPy, because --help needs it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

from dnnlib import cli
from training.options import PRECISIONS

FORMATS = ('mp4', 'webm', 'gif', 'frames')  # Of films.
CURVES = ('spline', 'linear', 'slerp')      # Through keyframes: latents/walks.py.
SPACES = ('w', 'z')                         # Where the curve is.
NOISES = ('fixed', 'fresh', 'off')          # In the frames of a film.
METHODS = ('sefa', 'pca', 'svm')            # Of finding directions: latents/directions.py.
FIGURES = ('uncurated', 'style-mixing', 'noise-detail', 'noise-components', 'truncation-trick',  # Of StyleGAN's paper.
           'droplets', 'resolutions', 'path-length')                                             # Of StyleGAN2's.

TRUNCATION_PSI = 0.5  # Default of --truncation-psi, and of the arguments of the functions.


def add_film_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of generate-video."""
    _add_keyframe_flags(parser, 'seeds of the keyframes', required=True)
    parser.add_argument('--seconds-per-seed', type=cli.positive_float, metavar='S',
                        help='time from a keyframe to the next one (default: 2)')
    parser.add_argument('--fps', type=_fps, metavar='N', help='frames per second (default: 30)')
    parser.add_argument('--space', choices=SPACES, metavar='NAME',
                        help='walk through w or z (default: w, or z for a network without W)')
    parser.add_argument('--curve', choices=CURVES, metavar='NAME',
                        help='through the keyframes: spline, linear, or slerp = arcs of circles (default: spline)')
    parser.add_argument('--loop', action='store_true', help='go back to the first keyframe, without a jump')
    parser.add_argument('--grid', type=_grid_size, metavar='CxR',
                        help='columns and rows of walks side by side, which share out the keyframes (default: 1x1)')
    parser.add_argument('--noise', choices=NOISES, metavar='NAME',
                        help='fixed, fresh = other noise in each frame, which flickers, or off (default: fixed)')
    parser.add_argument('--format', choices=FORMATS, metavar='NAME',
                        help='mp4, webm (both need the extra [video]), gif, or frames = PNG files (default: mp4, or '
                             'gif without the extra)')
    add_precision_flag(parser)


def add_find_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of find-directions."""
    _add_keyframe_flags(parser, 'seeds of the sheet, which shows 3 images (default: 0-2), or of what --labels labels')
    parser.add_argument('--method', choices=METHODS, metavar='NAME',
                        help='sefa = by the modulation weights, pca = by the variance of W, svm = between two sets of '
                             'latents (default: sefa)')
    _add_layers_flag(parser, 'layers that the directions are for', 'all')
    parser.add_argument('--num', type=cli.positive_int, metavar='N', help='number of directions (default: 20)')
    parser.add_argument('--num-samples', type=_number(2, 100_000_000), metavar='N',
                        help='random latents that tell how W varies (default: 100000)')
    parser.add_argument('--positive', type=cli.path, metavar='FILE',
                        help='for svm: dlatents.npz, or its folder, of images that have a property')
    parser.add_argument('--negative', type=cli.path, metavar='FILE', help='the same of images that do not have it')
    parser.add_argument('--labels', type=cli.path, metavar='FILE',
                        help='for svm, instead: CSV file of names and 1 or 0, such as seed0012,1')
    add_precision_flag(parser)


def add_edit_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of edit-images."""
    _add_keyframe_flags(parser, 'seeds of the pictures', required=True)
    parser.add_argument('--directions', type=cli.path, required=True, metavar='FILE',
                        help='directions.npz of find-directions')
    parser.add_argument('--set', dest='strengths', type=_strengths, action='extend', required=True,
                        metavar='NAME=X,...',
                        help='how far to go along which directions, by name or number, in standard deviations of W')
    _add_layers_flag(parser, 'layers to change', 'those of each direction')
    add_precision_flag(parser)


def add_name_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of name-direction."""
    parser.add_argument('--directions', type=cli.path, required=True, metavar='FILE',
                        help='directions.npz of find-directions, which is written anew')
    parser.add_argument('--set', dest='names', type=_pairs, action='extend', required=True, metavar='N=NAME,...',
                        help='numbers of directions and their names, such as 3=smile')
    cli.add_debug_flag(parser)


def add_figures_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of figures."""
    parser.add_argument('--figures', type=_figure_names, metavar='NAME,...',
                        help=f'figures to draw: {", ".join(FIGURES)} (default: all that the network can have)')
    parser.add_argument('--run', type=cli.path, metavar='DIR',
                        help='folder of a training run: resolutions compares its snapshots')
    parser.add_argument('--seeds', type=_few_seeds, metavar='SEEDS',
                        help="up to 20 seeds for noise-detail, noise-components, truncation-trick and droplets "
                             "(default: the paper's)")
    parser.add_argument('--num-samples', type=_number(10, 1_000_000), metavar='N',
                        help='random pictures for noise-detail (default: 100), resolutions (256) and path-length (200)')
    add_precision_flag(parser)


def _figure_names(text: str) -> list[str]:
    """'uncurated,droplets' -> ['uncurated', 'droplets']."""
    names = cli.name_list(text)
    unknown = [name for name in names if name not in FIGURES]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f'there is no figure {unknown[0] if unknown else text!r}, expected some of '
                                         f'{", ".join(FIGURES)}')
    return names


def _few_seeds(text: str) -> list[int]:
    """As cli.seed_range, for pictures with a row or column for each seed."""
    seeds = cli.seed_range(text)
    if len(seeds) > 20:
        raise argparse.ArgumentTypeError(f'expected at most 20 seeds, got {len(seeds)}')
    return seeds


def _number(low: int, high: int) -> Callable[[str], int]:
    """Type of an argument that is a whole number in a range, both ends included."""
    def parse(text: str) -> int:
        value = cli.positive_int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f'expected a number from {low} to {high}, got {text!r}')
        return value
    return parse


def _add_keyframe_flags(parser: argparse.ArgumentParser, help_text: str, required: bool = False) -> None:
    """--seeds and --dlatents, which together make the argument `keyframes`, in the order of the command line."""
    parser.add_argument('--seeds', dest='keyframes', type=cli.seed_range, action='extend', metavar='SEEDS',
                        help=f'{help_text}, such as 1,5,7 or 0-9')
    parser.add_argument('--dlatents', dest='keyframes', type=lambda text: [cli.path(text)], action='extend',
                        metavar='FILE', help='latents W of images, dlatents.npz of run_projector.py; may be given with '
                                             '--seeds, and both several times')
    parser.set_defaults(needs_keyframes=required)


def add_precision_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--precision', choices=PRECISIONS, metavar='NAME',
                        help=f'precision of the four highest resolutions: {", ".join(PRECISIONS)} (default: float32)')


def _add_layers_flag(parser: argparse.ArgumentParser, help_text: str, default: str) -> None:
    parser.add_argument('--layers', type=cli.num_range, metavar='LAYERS',
                        help=f'{help_text}, such as 0-3 (default: {default})')


def _fps(text: str) -> int:
    """Argument that is a number of frames per second."""
    value = cli.positive_int(text)
    if value > 240:
        raise argparse.ArgumentTypeError(f'expected at most 240 frames per second, got {text!r}')
    return value


def _grid_size(text: str) -> tuple[int, int]:
    """'3x2' -> (3, 2)."""
    match = re.fullmatch(r'([1-9]\d{0,2})x([1-9]\d{0,2})', text)
    if not match:
        raise argparse.ArgumentTypeError(f'expected columns and rows such as 3x2, got {text!r}')
    return int(match[1]), int(match[2])


def psi_or_sweep(text: str) -> float | tuple[float, float]:
    """'0.7' -> 0.7; '0:1' -> (0.0, 1.0), a sweep."""
    first, colon, last = text.partition(':')
    return (cli.truncation_psi(first), cli.truncation_psi(last)) if colon else cli.truncation_psi(text)


def _pairs(text: str) -> list[tuple[str, str]]:
    """'smile=1.5,3=-2' -> [('smile', '1.5'), ('3', '-2')]."""
    pairs = [part.partition('=') for part in text.split(',')]
    if not all(name.strip() and value.strip() for name, _, value in pairs):
        raise argparse.ArgumentTypeError(f'expected NAME=VALUE with commas between, got {text!r}')
    return [(name.strip(), value.strip()) for name, _, value in pairs]


def _strengths(text: str) -> list[tuple[str, float]]:
    """'smile=1.5,3=-2' -> [('smile', 1.5), ('3', -2.0)]."""
    pairs = [(name, cli.finite_float(value)) for name, value in _pairs(text)]
    for name, value in pairs:
        if abs(value) > 1000:
            raise argparse.ArgumentTypeError(f'{name}={value:g}: expected a number from -1000 to 1000')
    return pairs
