"""Command line: pictures, films and figures from a trained network, directions of its W, files for other programs."""

from __future__ import annotations

import argparse
import importlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dnnlib import cli, memory
from dnnlib.run_dir import RunDir
from export import options as export_options
from latents import options
from latents.options import TRUNCATION_PSI

if TYPE_CHECKING:
    from PIL import Image

_ENDINGS = ('.pkl', '.npz', '.safetensors')  # Of network files.

_EXAMPLES = '''examples:
  # Pictures of cars, one for each of the seeds 6000 to 6025
  python run_generator.py generate-images --network=gdrive:networks/stylegan2-car-config-f.pkl --seeds=6000-6025

  # From a network of your own
  python run_generator.py generate-images --seeds=0-15 \\
      --network=results/00000-stylegan2-demo-1gpu-config-f/network-final.pkl

  # A grid of mixed styles: the first layers, which draw coarse features, take the column's style, the others the row's
  python run_generator.py style-mixing-example --network=gdrive:networks/stylegan2-ffhq-config-f.pkl \\
      --row-seeds=85,100,75,458,1500 --col-seeds=55,821,1789,293 --truncation-psi=1.0

  # Images that run_projector.py has projected: generated again, and mixed with the fine styles of two seeds
  python run_generator.py generate-images --network=NETWORK --dlatents=results/00003-project-real-images/dlatents.npz
  python run_generator.py style-mixing-example --network=NETWORK --col-seeds=55,821 --col-styles=8-17 \\
      --row-dlatents=results/00003-project-real-images/dlatents.npz

  # A film of a walk that ends where it begins; one from the average picture to the full variety
  python run_generator.py generate-video --network=NETWORK --seeds=0-7 --loop
  python run_generator.py generate-video --network=NETWORK --seeds=0-5 --truncation-psi=0:1 --grid=3x2

  # Directions along which the pictures change most, and pictures that are moved along two of them
  python run_generator.py find-directions --network=NETWORK --method=pca --num=20
  python run_generator.py edit-images --network=NETWORK --seeds=0-3 --set 0=2,3=-1.5 \\
      --directions=results/00004-find-directions/directions.npz

  # The figures of the papers with any network, on one page
  python run_generator.py figures --network=NETWORK

  # A network of stylegan2-ada-pytorch as a file that other programs can read
  python run_generator.py convert --network=ada:metfaces --out=metfaces.safetensors

  # The generator as a file for onnxruntime, which takes the truncation as an input
  python run_generator.py export --network=NETWORK --format=onnx --truncation-psi=input
'''


def _parser() -> argparse.ArgumentParser:
    """Parser of the command line.

    A flag with the default SUPPRESS is left out of the result if it is not given: the default is that of the function.
    """
    parser = cli.ArgumentParser(
        prog='run_generator.py', description='Pictures from a trained StyleGAN2 network.', epilog=_EXAMPLES,
        formatter_class=cli.help_formatter, allow_abbrev=False)
    commands = parser.add_subparsers(dest='command', metavar='COMMAND')
    kwargs: dict[str, Any] = dict(formatter_class=cli.help_formatter, allow_abbrev=False,
                                  argument_default=argparse.SUPPRESS)

    one = commands.add_parser(
        'generate-images', help='one picture per seed or projected image: seed0000.png, ...', **kwargs)
    which = one.add_mutually_exclusive_group(required=True)
    which.add_argument('--seeds', type=cli.seed_range, metavar='SEEDS', help='such as 1,5,7 or 0-9')
    which.add_argument(
        '--dlatents', type=cli.path, metavar='FILE', help='latents W of images, dlatents.npz of run_projector.py'
    )
    options.add_precision_flag(one)
    _add_common_flags(one)

    mix = commands.add_parser(
        'style-mixing-example', help='a grid of pictures that mix two seeds or images each: R-C.png, grid.png',
        **kwargs)
    for flag, side in (('row', 'row'), ('col', 'column')):
        which = mix.add_mutually_exclusive_group(required=True)
        which.add_argument(f'--{flag}-seeds', type=cli.seed_range, metavar='SEEDS',
                           help=f'seed of each {side}, such as 1,5,7 or 0-9')
        which.add_argument(f'--{flag}-dlatents', type=cli.path, metavar='FILE',
                           help=f'one {side} for each image of a dlatents.npz')
    mix.add_argument('--col-styles', type=cli.num_range, metavar='LAYERS',
                     help="layers that take the column's style (default: the coarse ones, 7 of 18 layers: "
                          '0-6 at 1024x1024, 0-2 at 32x32)')
    _add_common_flags(mix)

    film = commands.add_parser('generate-video', help='a film of a walk through W or Z: film.mp4', **kwargs)
    options.add_film_flags(film)
    _add_common_flags(film, options.psi_or_sweep)
    find = commands.add_parser(
        'find-directions', help='directions in W along which pictures change: directions.npz, sheet.png', **kwargs)
    options.add_find_flags(find)
    _add_common_flags(find)
    edit = commands.add_parser('edit-images', help='pictures moved along directions in W: seed0000.png, ...', **kwargs)
    options.add_edit_flags(edit)
    _add_common_flags(edit)
    figures = commands.add_parser(
        'figures', help='the figures of the papers with any network: uncurated.png, ..., figures.html', **kwargs)
    options.add_figures_flags(figures)
    _add_common_flags(figures, psi_default=None)
    options.add_name_flags(commands.add_parser('name-direction', help='name the directions in a file', **kwargs))

    convert = commands.add_parser('convert', help='write the networks in another format', **kwargs)
    _add_network_flag(convert)
    convert.add_argument('--out', type=_network_file, required=True, metavar='FILE',
                         help=f'file to write; its ending says the format: {", ".join(_ENDINGS)}')
    convert.add_argument('--pickle-version', dest='version', type=int, choices=(4, 5), metavar='N',
                         help='version of a .pkl: 4 = StyleGAN2, 5 = StyleGAN2-ADA (default: 5 for networks with its '
                              'settings)')
    cli.add_debug_flag(convert)

    export = commands.add_parser('export', help='write the generator for another runtime: ONNX, LiteRT, ...', **kwargs)
    _add_network_flag(export)
    export_options.add_export_flags(export)
    return parser


def _network_file(text: str) -> str:
    """Argument that is the name of a network file."""
    if not text.endswith(_ENDINGS):
        raise argparse.ArgumentTypeError(f'{text!r}: expected a name that ends with {", ".join(_ENDINGS)}')
    return cli.path(text)


def _add_network_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--network', dest='network_pkl', type=cli.path, required=True, metavar='PKL',
                        help='network pickle: a path, a URL, a name such as stylegan:ffhq; or the folder of a '
                             'training run')


def _add_common_flags(parser: argparse.ArgumentParser, psi_type: Callable[[str], Any] = cli.truncation_psi,
                      psi_default: float | None = TRUNCATION_PSI) -> None:
    """Flags of all commands that draw. `psi_type` and `psi_default`: type and default of --truncation-psi."""
    sweep = '' if psi_type is cli.truncation_psi else '; 0:1 = from 0 to 1 in the course of the film'
    default = "the network's own" if psi_default is None else psi_default
    _add_network_flag(parser)
    parser.add_argument('--truncation-psi', type=psi_type, default=psi_default, metavar='PSI',
                        help='truncation of the seeds: 1 = full variety, towards 0 = closer to the average picture'
                             f'{sweep} (default: {default})')
    parser.add_argument('--class', dest='class_idx', type=cli.non_negative_int, default=None, metavar='N',
                        help='class to draw, for a network trained with labels (default: none, a zero label vector)')
    parser.add_argument('--result-dir', type=cli.path, default='results', metavar='DIR',
                        help='where each run makes its folder (default: %(default)s)')
    cli.add_impl_flag(parser, default=argparse.SUPPRESS)
    cli.add_tf32_flag(parser, default=argparse.SUPPRESS)
    cli.add_debug_flag(parser)


def main(argv: Sequence[str]) -> None:
    """Run the command with these arguments."""
    kwargs = vars(_parser().parse_args(argv))
    command, _ = kwargs.pop('command'), kwargs.pop('debug', None)
    if command is None:
        raise cli.UsageError('missing subcommand.  Re-run with --help for usage.')
    if command == 'export':
        export_options.check(kwargs)
    if command in _WITHOUT_RUN_DIR:
        _function(command)(**kwargs)
        return
    if kwargs.pop('needs_keyframes', False) and 'keyframes' not in kwargs:
        raise cli.UsageError(f'{command}: expected --seeds, --dlatents, or both')
    keyframes = kwargs.get('keyframes', ())
    if (command not in ('find-directions', 'figures') and not any(isinstance(key, int) for key in keyframes)
            and not any(name.endswith('seeds') for name in kwargs)):
        is_sweep = isinstance(kwargs['truncation_psi'], tuple)
        cli.refuse_flags(cli.flags_in(argv) & ({'--class'} if is_sweep else {'--truncation-psi', '--class'}),
                         'without seeds')
    result_dir = kwargs.pop('result_dir')
    remedy = '' if command == 'style-mixing-example' else '--precision=bfloat16 needs less.'
    name = _COMMANDS[command].replace(':', '.')
    with RunDir(result_dir, command, name, kwargs) as run_dir, cli.out_of_memory_explained(remedy):
        _function(command)(run_dir.path, **kwargs)


# Command -> module and function. Those in latents/ are imported late, because they import TensorFlow.
_COMMANDS = {
    'generate-images': 'run_generator:generate_images',
    'style-mixing-example': 'run_generator:style_mixing_example',
    'generate-video': 'latents.film:generate_video',
    'find-directions': 'latents.editing:find_directions',
    'edit-images': 'latents.editing:edit_images',
    'figures': 'latents.figures:draw_figures',
    'name-direction': 'latents.editing:name_direction',
    'convert': 'run_generator:convert',
    'export': 'export.command:export_network',
}
_WITHOUT_RUN_DIR = ('convert', 'export', 'name-direction')


def _function(command: str) -> Callable[..., None]:
    """The function of a command."""
    import dnnlib.tflib  # noqa: F401  First, so that TensorFlow loads quietly.
    module, _, name = _COMMANDS[command].partition(':')
    if module == 'run_generator':
        return globals()[name]
    return getattr(importlib.import_module(module), name)


# ---- The commands ----

def generate_images(run_dir: str, network_pkl: str, seeds: Sequence[int] = (), truncation_psi: float = TRUNCATION_PSI,
                    class_idx: int | None = None, impl: str | None = None, dlatents: str | None = None,
                    precision: str = 'float32', tf32: bool = False) -> None:
    """Write seed%04d.png for each seed, or NAME.png for each projected image, with the noise that was found for it.

    Args:
        run_dir:        Folder for the pictures.
        network_pkl:    Path, URL or 'gdrive:networks/...' of a (G, D, Gs) pickle.
        seeds:          Seeds, see training.misc.image_of_seed.
        truncation_psi: Scale of the deviation from the average in W, for seeds.
        class_idx:      Class to draw. None = a zero label vector.
        impl:           Form of the custom ops: 'auto', 'native' or 'ref'. None = the one set already.
        dlatents:       File of latents, see latents/dlatents.py. None = none.
        precision:      Key of PRECISIONS.
        tf32:           Allow TF32 on GPUs?

    Raises:
        cli.UserError: A file cannot be read, or the network does not have the class.
    """
    import pretrained_networks
    from latents import pictures
    from training import misc
    Gs = pretrained_networks.load_generator(network_pkl, impl, tf32, precision)
    if precision == 'bfloat16':
        from training.nets.dtypes import note_slow_precision
        note = note_slow_precision(precision)
        if note:
            print(note)
    labels = pictures.one_hot(Gs, class_idx)
    psi = pictures.psi_kwargs(Gs, truncation_psi, TRUNCATION_PSI)
    for idx, seed in enumerate(seeds):
        print(f'Generating image for seed {seed} ({idx}/{len(seeds)}) ...')
        images = misc.image_of_seed(Gs, seed, labels, **psi, **pictures.picture_kwargs(precision))
        pictures.save(pictures.to_pil(images[0]), os.path.join(run_dir, f'seed{seed:04d}.png'))
    found = {} if dlatents is None else pictures.projected(Gs, dlatents)
    for idx, (name, (w, noises)) in enumerate(found.items()):
        print(f'Generating image of {name} ({idx}/{len(found)}) ...')
        pictures.save(pictures.synthesize(Gs, w[None], noises, precision)[0], os.path.join(run_dir, f'{name}.png'))


def style_mixing_example(
        run_dir: str, network_pkl: str, row_seeds: Sequence[int] = (), col_seeds: Sequence[int] = (),
        col_styles: Sequence[int] | None = None, truncation_psi: float = TRUNCATION_PSI, class_idx: int | None = None,
        impl: str | None = None, row_dlatents: str | None = None, col_dlatents: str | None = None,
        tf32: bool = False) -> None:
    """Write R-C.png for each row R and column C, S-S.png for each row and column alone, and grid.png with all of them.

    The picture R-C takes W of C in the layers `col_styles` and W of R in the others. Rows and columns are seeds or
    projected images. The noise is what was found for the row's image or, if the row is a seed, that of the pickle.

    Args:
        run_dir:        Folder for the pictures.
        network_pkl:    Path, URL or 'gdrive:networks/...' of a (G, D, Gs) pickle.
        row_seeds:      Seeds of the rows.
        col_seeds:      Seeds of the columns.
        col_styles:     Layers of the synthesis network, counted from 0. None = the coarse ones, see coarse_layers.
        truncation_psi: Scale of the deviation from the average in W, for seeds.
        class_idx:      Class to draw. None = a zero label vector.
        impl:           Form of the custom ops: 'auto', 'native' or 'ref'. None = the one set already.
        row_dlatents:   File of latents for the rows. None = rows are seeds.
        col_dlatents:   File of latents for the columns. None = columns are seeds.
        tf32:           Allow TF32 on GPUs?

    Raises:
        cli.UserError: A file cannot be read, or the network does not have the layers or the class.
    """
    import numpy as np
    from tqdm import tqdm

    import pretrained_networks
    from latents import pictures
    from training import misc
    Gs = pretrained_networks.load_generator(network_pkl, impl, tf32)
    misc.require_w(Gs, 'style-mixing-example')
    label = pictures.one_hot(Gs, class_idx)

    print('Generating W vectors...')
    num_layers = Gs.components.synthesis.input_shape[1]
    if col_styles is None:
        col_styles = coarse_layers(num_layers)
        print(f'Layers with the style of the column: {col_styles[0]}-{col_styles[-1]} of 0-{num_layers - 1} '
              '(--col-styles)')
    pictures.check_layers('--col-styles', col_styles, num_layers)
    rows = pictures.styles(Gs, row_seeds, row_dlatents, truncation_psi, label)
    cols = pictures.styles(Gs, col_seeds, col_dlatents, truncation_psi, label)
    if row_dlatents != col_dlatents:  # Images of the same name in two files are two images.
        cols = {f'col_{key}' if key in rows and isinstance(key, str) else key: style for key, style in cols.items()}
    row_keys, col_keys = [*row_seeds] or [*rows], [*col_seeds] or [*cols]  # A seed may be given twice.
    _require_memory(Gs.output_shape, len(row_keys), len(col_keys))

    print('Generating images...')
    drawn = {(key, key): pictures.synthesize(Gs, w[np.newaxis], noises)[0]
             for key, (w, noises) in {**rows, **cols}.items()}

    print('Generating style-mixed images...')
    for row in tqdm(row_keys, disable=None, leave=False, unit='row'):
        w, noises = rows[row]
        mixed = np.stack([w] * len(col_keys))
        mixed[:, col_styles] = np.stack([cols[col][0] for col in col_keys])[:, col_styles]
        # If the row is one of the columns too, this replaces its own picture with an equal one.
        drawn.update(zip([(row, col) for col in col_keys], pictures.synthesize(Gs, mixed, noises)))

    print('Saving images...')
    for (row, col), picture in drawn.items():
        pictures.save(picture, os.path.join(run_dir, f'{row}-{col}.png'))

    print('Saving image grid...')
    pictures.save(_grid(drawn, row_keys, col_keys), os.path.join(run_dir, 'grid.png'))


def convert(network_pkl: str, out: str, version: int | None = None) -> None:
    """Write the networks of a file in another format.

    Args:
        network_pkl: Path, URL or official name of a network file of any format.
        out:         File to write: a .pkl, .npz or .safetensors (dnnlib/pickles/network_files.py).
        version:     Version of a .pkl. None = see training.misc.save_pkl.

    Raises:
        cli.UserError: A file cannot be read or written, or the version does not have such networks.
    """
    if version is not None and not out.endswith('.pkl'):
        raise cli.UserError(f'--pickle-version={version}: {out} is no pickle',
                            'Leave it out, or choose a name that ends with .pkl.')
    import pretrained_networks
    from training import misc
    networks = pretrained_networks.load_networks(network_pkl)
    if out.endswith('.pkl'):
        misc.save_pkl(networks, out, version)
    else:
        misc.save_weights(networks, out)
    print(f'Wrote the networks {", ".join(network.name for network in networks)} to {out}.')


# ---- Parts of them ----

def coarse_layers(num_layers: int) -> list[int]:
    """Layers that the columns of a grid mix in by default: 7 of 18 as in the paper's figures, or that share."""
    return list(range(max(round(num_layers * 7 / 18), 1)))


def _require_memory(shape: Sequence[int], rows: int, cols: int) -> None:
    """Raise a UserError if a style-mixing grid of images [N, C, H, W] does not fit into memory with its pictures."""
    image_bytes = math.prod(shape[1:])
    memory.require(image_bytes * (2 * rows * cols + 3 * (rows + cols) + 1), f'a grid of {rows} rows and {cols} columns',
                   'Choose fewer rows or columns.')


def _grid(pictures: Mapping[tuple[Any, Any], Image.Image], rows: Sequence[Any], cols: Sequence[Any]) -> Image.Image:
    """Grid with the columns alone on top, the rows alone at the left, mixtures between them, and a black corner."""
    from PIL import Image
    first = pictures[rows[0], rows[0]]
    canvas = Image.new(first.mode, (first.width * (len(cols) + 1), first.height * (len(rows) + 1)), 'black')
    for y, row in enumerate([None, *rows]):
        for x, col in enumerate([None, *cols]):
            if x or y:
                key = (row if y else col, col if x else row)
                canvas.paste(pictures[key], (x * first.width, y * first.height))
    return canvas


if __name__ == '__main__':
    cli.run(main)
