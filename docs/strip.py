"""Create a picture for the documentation: the first images of a run's image grids, one grid per row.

    python docs/strip.py OUT.png results/00000-stylegan2-mine-1gpu-config-d --size 32 \\
        --rows reals fakes000006 fakes000018
"""

from __future__ import annotations

import argparse
import pathlib

from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', help='PNG file to write', metavar='OUT.png')
    parser.add_argument('run_dir', help='folder of a run', type=pathlib.Path, metavar='RUN_DIR')
    parser.add_argument('--rows', help='names of the grids, top to bottom', nargs='+', required=True, metavar='NAME')
    parser.add_argument('--size', help="resolution of the run's images", type=int, required=True, metavar='N')
    parser.add_argument('--columns', help='images per row (default: %(default)s)', type=int, default=8, metavar='N')
    parser.add_argument('--zoom', help='factor of enlargement (default: %(default)s)', type=int, default=2, metavar='N')
    args = parser.parse_args()

    width, height = args.columns * args.size * args.zoom, args.size * args.zoom
    strip = Image.new('RGB', (width, height * len(args.rows)))
    for row, name in enumerate(args.rows):
        with Image.open(args.run_dir / f'{name}.png') as grid:
            images = grid.convert('RGB').crop((0, 0, args.columns * args.size, args.size))
        strip.paste(images.resize((width, height), Image.Resampling.NEAREST), (0, row * height))
    strip.save(args.out)


if __name__ == '__main__':
    main()
