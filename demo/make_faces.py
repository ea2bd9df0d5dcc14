"""Draw the faces of the demo: `python demo/make_faces.py` writes demo/faces32.zip again.

Only this script needs `pip install dicebear-core==10.7.0 dicebear-styles==10.6.0 resvg-py==0.5.0 pillow`.
Face number i is drawn from the seed i, so the same packages give the same pictures.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import zipfile
from collections.abc import Iterable
from importlib.resources import files

import resvg_py  # pyright: ignore[reportMissingImports]  Only this script needs it, so it is not installed.
from dicebear import Avatar, Style  # pyright: ignore[reportMissingImports]  The same.
from PIL import Image

SIZE = 32  # The style is drawn on a grid of 16x16 cells, so each cell becomes 2x2 pixels, without blur.
TIMESTAMP = (2000, 1, 1, 0, 0, 0)  # The same for all pictures, so that the zip does not depend on the date.


def variants(prefix: str, *numbers: int) -> list[str]:
    """Names of drawings in the style: ('long', 1, 12) -> ['long01', 'long12']."""
    return [f'{prefix}{number:02d}' for number in numbers]


# Features that a small network learns within minutes: solid hair that leaves both eyes free, clear eyes, a centred
# mouth, shoulders, and neighbouring parts of different colours. Thin, rare and speckled features are left out.
OPTIONS = dict(
    hairVariant         = variants('long', 1, 2, 3, 4, 5, 7, 9, 11, 12, 13, 14, 16, 17, 20, 21)
                        + variants('short', 1, 2, 3, 6, 8, 9, 10, 14, 15, 16, 17, 22),
    eyesVariant         = variants('variant', 1, 3, 6, 7, 8, 9, 11),
    mouthVariant        = variants('happy', 1, 6, 7, 8, 9, 12, 13) + variants('sad', 1, 4, 5, 6),
    clothesVariant      = variants('variant', 1, 3, 4, 5, 8, 11, 12, 14, 16, 17, 20, 23),
    skinColor           = ['ffdbac', 'f5cfa0', 'eac393', 'e0b687', 'cb9e6e', 'b68655', 'a26d3d', '8d5524'],
    hairColor           = ['28150a', '603015', '611c17', 'bd1700', 'e3b93c', '8a8d91', '009bbd', '91cb15'],
    mouthColor          = ['a8323e', 'e35d6a', 'de0f0d'],
    clothingColor       = ['5bc0de', '428bca', '03396c', '88d8b0', '44c585', '00b159', 'ff6f69', 'd11141', 'ae0001',
                           'ffc425'],
    backgroundColor     = ['8fb8de', 'a3c9a8', 'b8a9d9', '9ad1d4', 'c9ced6', 'e6c4d4'],
    hatProbability          = 0,
    glassesProbability      = 0,
    beardProbability        = 0,
    accessoriesProbability  = 0,
)


def draw_face(style: Style, seed: int) -> Image.Image:
    """Draw the face of one seed: 32x32, RGB."""
    svg = Avatar(style, dict(OPTIONS, seed=str(seed), size=SIZE)).to_string()
    return Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE))).convert('RGB')


def write_zip(images: Iterable[Image.Image], path: pathlib.Path) -> None:
    """Write `images` to the zip file `path` as face0000.png, face0001.png, ...; it appears completely or not at all."""
    temporary = path.with_name(path.name + '.part')
    with zipfile.ZipFile(temporary, 'w') as archive:
        for index, image in enumerate(images):
            png = io.BytesIO()
            image.save(png, 'PNG', optimize=True)
            # Stored without compression: PNG files do not get smaller.
            archive.writestr(zipfile.ZipInfo(f'face{index:04d}.png', TIMESTAMP), png.getvalue())
    os.replace(temporary, path)


def main() -> None:
    parser = argparse.ArgumentParser(description='Draw the faces of the demo.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--count', type=int, default=1000, help='number of faces')
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path(__file__).with_name('faces32.zip'),
                        help='zip file to write')
    args = parser.parse_args()

    style = Style(json.loads(files('dicebear_styles').joinpath('pixel-art.json').read_text('utf-8')))
    write_zip((draw_face(style, seed) for seed in range(args.count)), args.out)
    print(f'Wrote {args.count} faces to {args.out} ({args.out.stat().st_size / 1e6:.2f} MB)')


if __name__ == '__main__':
    main()
