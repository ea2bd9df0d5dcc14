"""The command figures of run_generator.py: the figures of the papers with any generator, and a page of them."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image

import pretrained_networks
from dnnlib.cli import UserError
from dnnlib.progress import ProgressBar
from dnnlib.tflib import Network
from latents import figures_stylegan, figures_stylegan2, pictures
from latents.options import FIGURES
from training import misc
from training.run import charts, page, report

_WITH_PSI = ('uncurated', 'droplets')
_WITH_SEEDS = ('noise-detail', 'noise-components', 'truncation-trick', 'droplets')
_WITH_SAMPLES = ('noise-detail', 'resolutions', 'path-length')
_MOST_SNAPSHOTS = 30  # Snapshots of a run that `resolutions` measures, evenly chosen.
_PAGE_WIDTH = 1600    # Larger pictures are scaled down for the page, which has a link to the whole picture.


class Settings(NamedTuple):
    """What the figures are drawn with. None = the default of each figure."""
    seeds: Sequence[int] | None = None
    num_samples: int | None = None
    psi: float | None = None
    label: np.ndarray | None = None
    precision: str = 'float32'
    snapshots: Sequence[str] = ()  # Network pickles of a run for `resolutions`.


def draw_figures(run_dir: str, network_pkl: str, figures: Sequence[str] | None = None,
                 seeds: Sequence[int] | None = None, num_samples: int | None = None, run: str | None = None,
                 truncation_psi: float | None = None, class_idx: int | None = None, precision: str = 'float32',
                 impl: str | None = None, tf32: bool = False) -> None:
    """Write a picture NAME.png for each figure (resolutions.svg for the chart), and figures.html with all of them.

    Args:
        run_dir:        Folder for the pictures and the page.
        network_pkl:    Path, URL or 'gdrive:networks/...' of a (G, D, Gs) pickle.
        figures:        Some of options.FIGURES. None = all that the network can have.
        seeds:          Seeds of noise-detail, noise-components, truncation-trick and droplets. None = the paper's.
        num_samples:    Random pictures for noise-detail, resolutions and path-length. None = the default of each.
        run:            Folder of a training run, whose snapshots `resolutions` compares. None = only the network.
        truncation_psi: Truncation in uncurated and droplets. None = the network's own.
        class_idx:      Class to draw. None = a zero label vector.
        precision:      Key of PRECISIONS.
        impl:           Form of the custom ops: 'auto', 'native' or 'ref'. None = the one set already.
        tf32:           Allow TF32 on GPUs?

    Raises:
        UserError: The arguments do not fit together, a file cannot be read or written, the network does not have the
                   class, or it can have none of the figures.
    """
    names = FIGURES if figures is None else figures
    for flag, value, where in (('--seeds', seeds, _WITH_SEEDS), ('--num-samples', num_samples, _WITH_SAMPLES),
                               ('--truncation-psi', truncation_psi, _WITH_PSI), ('--run', run, ('resolutions',))):
        if value is not None and not set(where) & set(names):
            raise UserError(f'{flag}: has no effect on {", ".join(names)}', f'Leave it out, or add {where[0]}.')
    snapshots = [] if run is None else _snapshots(run)
    Gs = pretrained_networks.load_generator(network_pkl, impl, tf32, precision)
    if truncation_psi not in (None, 1):
        misc.require_w(Gs, f'--truncation-psi={truncation_psi:g}')
    settings = Settings(seeds, num_samples, truncation_psi if misc.has_w(Gs) else None,
                        pictures.one_hot(Gs, class_idx), precision, snapshots)
    sections, left_out = [], []
    for name in names:  # The last one may have to download weights: the others are there already.
        reason = _why_not(Gs, name)
        if reason:
            print(f'{name}: left out: {reason}')
            left_out.append((name, reason))
        else:
            sections.append(_section(run_dir, name, _DRAW[name](Gs, settings), Gs.output_shape[2]))
    if not sections:
        raise UserError(f'{network_pkl}: no {left_out[0][0]}: {left_out[0][1]}', 'Choose other --figures.')
    path = os.path.join(run_dir, 'figures.html')
    facts = (f'<p>{html.escape(str(network_pkl))}, {Gs.output_shape[3]}x{Gs.output_shape[2]} pixels. '
             'A click on a picture opens it in full size.</p>')
    command = report.read_settings(run_dir).get('command_line', '')
    try:
        page.save(path, 'Figures', facts, *sections, page.section('Left out', page.table(left_out)),
                  page.section('Command', page.command(command) if command else ''))
    except OSError as err:
        raise UserError(f'{path}: cannot be written: {err.strerror}', 'Check the folder and the free space.') from err
    print(f'Wrote {path}')


def _snapshots(run: str) -> list[str]:
    """Network pickles of a run, evenly chosen. A UserError if there are none."""
    if not os.path.isdir(run):
        raise UserError(f'--run={run}: there is no such folder', 'Give the folder of a training run.')
    found = [path for path in misc.list_network_pkls(run, include_final=False) if _kimg(path) is not None]
    if len(found) < 2:
        raise UserError(f'--run={run}: expected two or more network-snapshot-*.pkl, found {len(found)}',
                        'Give the folder of a training run with snapshots, or leave --run out.')
    chosen = np.linspace(0, len(found) - 1, min(len(found), _MOST_SNAPSHOTS)).round().astype(int)
    return [found[idx] for idx in chosen]


def _kimg(path: str) -> float | None:
    """Images shown before a snapshot was written, in thousands, by its name. None = the name does not say."""
    match = re.fullmatch(r'network-snapshot-(\d+)(?:_(\d+))?\.pkl', os.path.basename(path))
    return match and int(match[1]) + int(match[2] or 0) / 1000


def _why_not(Gs: Network, name: str) -> str:
    """Why a network cannot have a figure; '' if it can."""
    if name in ('style-mixing', 'truncation-trick', 'path-length') and not misc.has_w(Gs):
        return 'it needs W, but the network is of ProGAN, which has Z alone'
    if name == 'style-mixing' and Gs.components.synthesis.input_shape[1] == 1:
        return 'W of this network is one vector for all layers'
    if name.startswith('noise') and not misc.noise_variables(Gs):
        return 'this network has no noise inputs'
    if name == 'resolutions' and not figures_stylegan2.is_skip(Gs):
        return 'this network does not sum RGB images of all resolutions, as those with skips do (config-e, config-f)'
    if name == 'path-length':
        try:
            figures_stylegan2.path_metric(Gs)
        except UserError as err:
            return f'{err.fact}. {err.remedy}'
    return ''


def _section(run_dir: str, name: str, figure: Figure, resolution: int) -> str:
    """Write the file of a figure, and return its part of the page."""
    caption = f'<p>{html.escape(figure.caption)}</p>'
    if isinstance(figure.picture, str):
        path = os.path.join(run_dir, f'{name}.svg')
        try:
            charts.save_svg(figure.picture, path)
        except OSError as err:
            raise UserError(f'{path}: cannot be written: {err.strerror}',
                            'Check the folder and the free space.') from err
        content = f'<div class="charts"><figure>{figure.picture}</figure></div>'
    else:
        path = os.path.join(run_dir, f'{name}.png')
        pictures.save(figure.picture, path)
        shown = figure.picture
        if shown.width > _PAGE_WIDTH:
            height = max(round(shown.height * _PAGE_WIDTH / shown.width), 1)
            shown = shown.resize((_PAGE_WIDTH, height), PIL.Image.Resampling.LANCZOS)
        width = min(shown.width * max(128 // resolution, 1), _PAGE_WIDTH) if figure.is_enlarged else shown.width
        content = (f'<a href="{name}.png"><div class="whole" style="max-width: {width}px">'
                   f'{page.picture(shown, figure.title)}</div></a>')
    print(f'Wrote {path}')
    return page.section(figure.title, f'{caption}\n{content}')


# ---- The figures ----

class Figure(NamedTuple):
    """A figure with its texts."""
    title: str
    caption: str                  # What there is to see.
    picture: PIL.Image.Image | str  # A picture, or SVG text.
    is_enlarged: bool = True      # Show it larger on the page if the pictures of the network are small?


def _uncurated(Gs: Network, settings: Settings) -> Figure:
    height, width = Gs.output_shape[2:]
    picture = figures_stylegan.uncurated(
        Gs, (0, 0, width, height), figures_stylegan.UNCURATED_ROWS, figures_stylegan.uncurated_lods(height),
        figures_stylegan.UNCURATED_SEED, settings.psi, settings.label, settings.precision)
    psi = getattr(Gs.kw, 'truncation_psi', None) if settings.psi is None else settings.psi
    truncated = 'not truncated' if psi in (None, 1) else f'truncated with psi = {psi:g}'
    return Figure(
        'Uncurated pictures',
        f'Random pictures, none of them chosen, {truncated}. See how much they vary, and how many have failed.',
        picture)


def _style_mixing(Gs: Network, settings: Settings) -> Figure:
    ranges = figures_stylegan.style_ranges(Gs.components.synthesis.input_shape[1])
    picture = figures_stylegan.style_mixing(
        Gs, figures_stylegan.SRC_SEEDS, figures_stylegan.DST_SEEDS[:len(ranges)], ranges, settings.label,
        settings.precision)
    rows = [f'{ranges.count(layers)} with its {name} styles (layers {layers[0]} to {layers[-1]})'
            for name, layers in zip(('coarse', 'middle', 'fine'), dict.fromkeys(ranges))]
    return Figure(
        'Style mixing',
        'Each picture is the one at the left of its row, with some of the styles of the one at the top of its column. '
        f'The rows, from above: {", ".join(rows)}. Coarse styles should bring along pose and large shapes, fine styles '
        'little more than colours and textures.', picture)


def _noise_detail(Gs: Network, settings: Settings) -> Figure:
    num_samples = settings.num_samples or figures_stylegan.NOISE_SAMPLES
    picture = figures_stylegan.noise_detail(
        Gs, settings.seeds or figures_stylegan.NOISE_DETAIL_SEEDS, num_samples, settings.label, settings.precision)
    return Figure(
        'What noise changes',
        'At the left a picture; in the middle an enlarged part of four others of the same W, in other noise; at the '
        f'right the standard deviation of each pixel over {num_samples} of them, {figures_stylegan.STD_SCALE} times as '
        'bright. Noise should change details such as single hairs, which are bright at the right, and leave shapes as '
        'they are. If the right is black, noise changes next to nothing in this network.', picture)


def _noise_components(Gs: Network, settings: Settings) -> Figure:
    # The original mirrors its second face, so that the halves fit together.
    flips = [1] if settings.seeds is None and Gs.output_shape[2] == 1024 else []
    picture = figures_stylegan.noise_components(
        Gs, settings.seeds or figures_stylegan.NOISE_COMPONENTS_SEEDS, figures_stylegan.noise_ranges(Gs), flips,
        settings.label, settings.precision)
    return Figure(
        'Which noise draws what',
        'Each picture is two halves. Above: all noise at the left, none at the right. Below: only the noise of the '
        'higher resolutions at the left, only that of the lower ones at the right. Without noise, textures such as '
        'hair look painted; fine noise draws fine textures, coarse noise larger curls.', picture)


def _truncation_trick(Gs: Network, settings: Settings) -> Figure:
    picture = figures_stylegan.truncation_trick(
        Gs, settings.seeds or figures_stylegan.TRUNCATION_SEEDS, label=settings.label, precision=settings.precision)
    psis = ', '.join(f'{psi:g}' for psi in figures_stylegan.PSIS)
    return Figure(
        'Truncation',
        f'A row for each seed, a column for each psi: {psis}. At psi = 0 all seeds give the average picture. Towards '
        'it, pictures fail less often and vary less; beyond it they turn into a kind of opposite.', picture)


def _droplets(Gs: Network, settings: Settings) -> Figure:
    picture = figures_stylegan2.droplets(
        Gs, settings.seeds or figures_stylegan2.DROPLET_SEEDS, settings.label, settings.psi, settings.precision)
    return Figure(
        'Activations',
        'Beside each picture, the size of the activations behind it at each resolution: the root mean square over all '
        'feature maps, from 0 (black) to the largest value (white), with the ratio of the largest value to the median. '
        'A droplet is a small spot many times as bright as all the rest, in the same place at several resolutions. '
        "According to the paper, StyleGAN's pictures (config-a) have them in all feature maps from 64x64 on, and "
        'demodulation (config-b and later) removes them.', picture, is_enlarged=False)


def _resolutions(Gs: Network, settings: Settings) -> Figure:
    num_samples = settings.num_samples or figures_stylegan2.CONTRIBUTION_SAMPLES
    net = Gs.clone() if settings.snapshots else Gs  # Takes the weights of each snapshot.
    measure = figures_stylegan2.contributions(net, num_samples, settings.label, settings.precision)
    what = ('The share of each resolution in the pictures: the standard deviation of what its ToRGB layer adds, over '
            f'{num_samples} random pictures. ')
    if not settings.snapshots:
        shares = [(f'{size}x{size}', share, style) for style, (size, share) in enumerate(measure().items())]
        return Figure(
            'What each resolution adds',
            f'{what}If the highest resolution adds little, the network draws smaller pictures and only sharpens them.',
            charts.bars(shares))
    history = []
    with ProgressBar('resolutions', len(settings.snapshots), 'snapshot') as progress:
        for path in settings.snapshots:
            snapshot = misc.load_networks(path)[2]
            if snapshot.static_kwargs != Gs.static_kwargs:
                raise UserError(f'--run: {path} is a network with other settings than --network',
                                'Give a network of the same run.')
            net.copy_vars_from(snapshot)
            history.append((_kimg(path), measure()))
            progress.update()
    curves = [charts.Curve(f'{size}x{size}', [(kimg, shares[size]) for kimg, shares in history], style)
              for style, size in enumerate(history[0][1])]
    return Figure(
        'What each resolution adds in the course of training',
        f'{what}According to the paper, the low resolutions add most at first, and the higher ones take over later.',
        charts.areas(curves, 'kimg'))


def _path_length(Gs: Network, settings: Settings) -> Figure:
    num_samples = settings.num_samples or figures_stylegan2.PATH_SAMPLES
    least, most = figures_stylegan2.path_lengths(Gs, num_samples, settings.label)
    return Figure(
        'Path length',
        f'Of {num_samples} random pictures, the tenth with the least perceptual path length at the left (up to '
        f'{least[-1].distance:.3g}), and the tenth with the greatest at the right (from {most[-1].distance:.3g}). '
        'According to the paper, pictures at the left tend to be better than those at the right: a generator that '
        'draws stable shapes changes them little when W changes little.',
        figures_stylegan2.path_length_sheet(least, most))


_DRAW: dict[str, Callable[[Network, Settings], Figure]] = {
    'uncurated': _uncurated, 'style-mixing': _style_mixing, 'noise-detail': _noise_detail,
    'noise-components': _noise_components, 'truncation-trick': _truncation_trick, 'droplets': _droplets,
    'resolutions': _resolutions, 'path-length': _path_length,
}
