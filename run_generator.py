"""Command line: pictures from a trained network, by seed, from projected images, or by mixing two styles; other formats
of network files."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dnnlib import cli, memory, storage
from dnnlib.run_dir import RunDir
from training.options import PRECISIONS

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from dnnlib.tflib import Network

_ENDINGS = ('.pkl', '.npz', '.safetensors')  # Of network files.

# Defaults of flags, and of the arguments of the functions that they become.
_TRUNCATION_PSI = 0.5
_PRECISION = 'float32'

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

  # A network of stylegan2-ada-pytorch as a file that other programs can read
  python run_generator.py convert --network=ada:metfaces --out=metfaces.safetensors
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
    one.add_argument('--precision', choices=PRECISIONS, metavar='NAME',
                     help=f'precision of the four highest resolutions: {", ".join(PRECISIONS)} (default: {_PRECISION})')
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

    convert = commands.add_parser('convert', help='write the networks in another format', **kwargs)
    _add_network_flag(convert)
    convert.add_argument('--out', type=_network_file, required=True, metavar='FILE',
                         help=f'file to write; its ending says the format: {", ".join(_ENDINGS)}')
    convert.add_argument('--pickle-version', dest='version', type=int, choices=(4, 5), metavar='N',
                         help='version of a .pkl: 4 = StyleGAN2, 5 = StyleGAN2-ADA (default: 5 for networks with its '
                              'settings)')
    cli.add_debug_flag(convert)
    return parser


def _network_file(text: str) -> str:
    """Argument that is the name of a network file."""
    if not text.endswith(_ENDINGS):
        raise argparse.ArgumentTypeError(f'{text!r}: expected a name that ends with {", ".join(_ENDINGS)}')
    return cli.path(text)


def _add_network_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--network', dest='network_pkl', type=cli.path, required=True, metavar='PKL',
                        help='network pickle: a path, a URL, gdrive:networks/... or ada:...; or the folder of a '
                             'training run')


def _add_common_flags(parser: argparse.ArgumentParser) -> None:
    _add_network_flag(parser)
    parser.add_argument('--truncation-psi', type=cli.truncation_psi, default=_TRUNCATION_PSI, metavar='PSI',
                        help='truncation of the seeds: 1 = full variety, towards 0 = closer to the average picture '
                             '(default: %(default)s)')
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
    if command == 'convert':
        convert(**kwargs)
        return
    if not any(name.endswith('seeds') for name in kwargs):
        cli.refuse_flags(cli.flags_in(argv) & {'--truncation-psi', '--class'}, 'without seeds')
    result_dir = kwargs.pop('result_dir')
    func = {'generate-images': generate_images, 'style-mixing-example': style_mixing_example}[command]
    remedy = '--precision=bfloat16 needs less.' if command == 'generate-images' else ''
    with (RunDir(result_dir, command, f'run_generator.{func.__name__}', kwargs) as run_dir,
          cli.out_of_memory_explained(remedy)):
        func(run_dir.path, **kwargs)


# ---- The commands ----

def generate_images(run_dir: str, network_pkl: str, seeds: Sequence[int] = (), truncation_psi: float = _TRUNCATION_PSI,
                    class_idx: int | None = None, impl: str | None = None, dlatents: str | None = None,
                    precision: str = _PRECISION, tf32: bool = False) -> None:
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
    from training import misc
    Gs = pretrained_networks.load_generator(network_pkl, impl, tf32, precision)
    if precision == 'bfloat16':
        from training.nets.dtypes import note_slow_precision
        note = note_slow_precision(precision)
        if note:
            print(note)
    labels = _one_hot(Gs, class_idx)
    psi = _psi_kwargs(Gs, truncation_psi)
    for idx, seed in enumerate(seeds):
        print(f'Generating image for seed {seed} ({idx}/{len(seeds)}) ...')
        images = misc.image_of_seed(Gs, seed, labels, **psi, **_picture_kwargs(precision))
        _save(_to_pil(images[0]), os.path.join(run_dir, f'seed{seed:04d}.png'))
    found = {} if dlatents is None else _projected(Gs, dlatents)
    for idx, (name, (w, noises)) in enumerate(found.items()):
        print(f'Generating image of {name} ({idx}/{len(found)}) ...')
        _save(_synthesize(Gs, w[None], noises, precision)[0], os.path.join(run_dir, f'{name}.png'))


def style_mixing_example(
        run_dir: str, network_pkl: str, row_seeds: Sequence[int] = (), col_seeds: Sequence[int] = (),
        col_styles: Sequence[int] | None = None, truncation_psi: float = _TRUNCATION_PSI, class_idx: int | None = None,
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
    from training import misc
    Gs = pretrained_networks.load_generator(network_pkl, impl, tf32)
    misc.require_w(Gs, 'style-mixing-example')
    label = _one_hot(Gs, class_idx)

    print('Generating W vectors...')
    num_layers = Gs.components.synthesis.input_shape[1]
    if col_styles is None:
        col_styles = coarse_layers(num_layers)
        print(f'Layers with the style of the column: {col_styles[0]}-{col_styles[-1]} of 0-{num_layers - 1} '
              '(--col-styles)')
    _check_layers(col_styles, num_layers)
    rows = _styles(Gs, row_seeds, row_dlatents, truncation_psi, label)
    cols = _styles(Gs, col_seeds, col_dlatents, truncation_psi, label)
    if row_dlatents != col_dlatents:  # Images of the same name in two files are two images.
        cols = {f'col_{key}' if key in rows and isinstance(key, str) else key: style for key, style in cols.items()}
    row_keys, col_keys = [*row_seeds] or [*rows], [*col_seeds] or [*cols]  # A seed may be given twice.
    _require_memory(Gs.output_shape, len(row_keys), len(col_keys))

    print('Generating images...')
    pictures = {(key, key): _synthesize(Gs, w[np.newaxis], noises)[0] for key, (w, noises) in {**rows, **cols}.items()}

    print('Generating style-mixed images...')
    for row in tqdm(row_keys, disable=None, leave=False, unit='row'):
        w, noises = rows[row]
        mixed = np.stack([w] * len(col_keys))
        mixed[:, col_styles] = np.stack([cols[col][0] for col in col_keys])[:, col_styles]
        # If the row is one of the columns too, this replaces its own picture with an equal one.
        pictures.update(zip([(row, col) for col in col_keys], _synthesize(Gs, mixed, noises)))

    print('Saving images...')
    for (row, col), picture in pictures.items():
        _save(picture, os.path.join(run_dir, f'{row}-{col}.png'))

    print('Saving image grid...')
    _save(_grid(pictures, row_keys, col_keys), os.path.join(run_dir, 'grid.png'))


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


def _styles(Gs: Network, seeds: Iterable[int], path: str | None, truncation_psi: float,
            label: np.ndarray | None) -> dict[Any, tuple[np.ndarray, Any]]:
    """{seed: (w [layers, dlatent], None)}, truncated; or {name: (w, noises)} of the images in a file of latents."""
    if path is not None:
        return _projected(Gs, path)
    import numpy as np
    import tensorflow as tf

    from training.networks_stylegan2 import truncate
    seeds = list(dict.fromkeys(seeds))
    z = np.stack([np.random.RandomState(seed).randn(*Gs.input_shape[1:]) for seed in seeds])
    labels = None if label is None else label.repeat(len(seeds), axis=0)
    w = Gs.components.mapping.run(z, labels)  # [seed, layer, dlatent]
    w = truncate(tf.constant(w), tf.constant(Gs.get_var('dlatent_avg')), truncation_psi, None).numpy()
    return {seed: (row, None) for seed, row in zip(seeds, w)}


def _projected(Gs: Network, path: str) -> dict[Any, tuple[np.ndarray, Any]]:
    """{name: (w [layers, dlatent], noises)} of the images in a file of latents."""
    from latents import dlatents
    from training import misc
    misc.require_w(Gs, '--dlatents')
    found = dlatents.load(path, Gs)
    return {name: (found.w[idx], found.noises_of(idx)) for idx, name in enumerate(found.names)}


def _psi_kwargs(Gs: Network, truncation_psi: float) -> dict[str, Any]:
    """Arguments of Network.run that truncate W; none for a network without W, which is refused another psi than 1."""
    if 'mapping' in Gs.components:
        return dict(truncation_psi=truncation_psi)
    if truncation_psi not in (_TRUNCATION_PSI, 1):
        from training import misc
        misc.require_w(Gs, f'--truncation-psi={truncation_psi:g}')
    print('Note: the network is of ProGAN, which has no W: nothing is truncated.')
    return {}


def _picture_kwargs(precision: str = _PRECISION) -> dict[str, Any]:
    """Arguments of Network.run that make pictures, uint8 [N, H, W, C]."""
    from dnnlib import tflib
    return dict(minibatch_size=4, output_transform=dict(func=tflib.convert_images_to_uint8, nchw_to_nhwc=True),
                dtype=PRECISIONS[precision])


def _synthesize(Gs: Network, w: np.ndarray, noises: Any = None, precision: str = _PRECISION) -> list[Image.Image]:
    """Generate pictures from W [N, layers, dlatent], all with the same noise maps. None = those of the pickle."""
    from training import misc
    with misc.noise_of(Gs, noises):
        images = Gs.components.synthesis.run(w, randomize_noise=False, **_picture_kwargs(precision))
    return [_to_pil(image) for image in images]


def _one_hot(Gs: Network, class_idx: int | None) -> np.ndarray | None:
    """Label [1, classes] float32 of a class. None = no class."""
    if class_idx is None:
        return None
    num_classes = Gs.input_shapes[1][1]
    if num_classes == 0:
        raise cli.UserError(f'--class={class_idx}: this network was trained without labels', 'Leave --class out.')
    if class_idx >= num_classes:
        raise cli.UserError(f'--class={class_idx}: this network has {num_classes} classes',
                            f'Choose from 0 to {num_classes - 1}.')
    import numpy as np
    return np.eye(num_classes, dtype=np.float32)[[class_idx]]


def _check_layers(layers: Sequence[int], num_layers: int) -> None:
    """Raise a UserError if the network does not have all of these layers."""
    if max(layers) >= num_layers:
        raise cli.UserError(f'--col-styles: there is no layer {max(layers)}, this network has {num_layers}',
                            f'Choose from 0 to {num_layers - 1}, for example --col-styles=0-{num_layers // 2}.')


def _to_pil(image: np.ndarray) -> Image.Image:
    """uint8 [H, W, 1 or 3] -> picture in mode L or RGB."""
    from PIL import Image
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


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


def _save(picture: Image.Image, path: str) -> None:
    try:
        with storage.new_file(path) as part:
            picture.save(part, 'png')
    except OSError as err:
        raise cli.UserError(f'{path}: cannot be written: {err.strerror or err}',
                            'Check the folder and the free space. Pictures written before are kept.') from err


if __name__ == '__main__':
    cli.run(main)
