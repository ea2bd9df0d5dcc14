"""Draw the faces of the demo: `python demo/make_faces.py` writes demo/faces32.zip anew.

Needs `pip install dicebear-core==10.7.0 dicebear-styles==10.6.0 resvg-py==0.5.0 pillow`; nothing else in the project does.
Face number i is drawn from the seed i, so the same packages give the same pictures.
"""

import argparse
import io
import json
import os
import pathlib
import zipfile
from importlib.resources import files

import resvg_py
from dicebear import Avatar, Style
from PIL import Image

SIZE = 32  # The style is drawn on a grid of 16x16, so that each of its cells becomes 2x2 pixels, without blur.
TIMESTAMP = (2000, 1, 1, 0, 0, 0)  # The same for all pictures: the zip must not depend on the day it is made.


def variants(prefix, *numbers):
    """('long', 1, 12) -> ['long01', 'long12'], the names the style gives to its drawings."""
    return [f'{prefix}{number:02d}' for number in numbers]


# What a small network learns in minutes: solid hair that hides no eye, two clear eyes, a centred mouth, shoulders, and
# neighbouring parts of different colours. What is left out is thin, rare or speckled.
OPTIONS = dict(
    hairVariant         = variants('long', 1, 2, 3, 4, 5, 7, 9, 11, 12, 13, 14, 16, 17, 20, 21)
                        + variants('short', 1, 2, 3, 6, 8, 9, 10, 14, 15, 16, 17, 22),
    eyesVariant         = variants('variant', 1, 3, 6, 7, 8, 9, 11),
    mouthVariant        = variants('happy', 1, 6, 7, 8, 9, 12, 13) + variants('sad', 1, 4, 5, 6),
    clothesVariant      = variants('variant', 1, 3, 4, 5, 8, 11, 12, 14, 16, 17, 20, 23),
    skinColor           = ['ffdbac', 'f5cfa0', 'eac393', 'e0b687', 'cb9e6e', 'b68655', 'a26d3d', '8d5524'],
    hairColor           = ['28150a', '603015', '611c17', 'bd1700', 'e3b93c', '8a8d91', '009bbd', '91cb15'],
    mouthColor          = ['a8323e', 'e35d6a', 'de0f0d'],
    clothingColor       = ['5bc0de', '428bca', '03396c', '88d8b0', '44c585', '00b159', 'ff6f69', 'd11141', 'ae0001', 'ffc425'],
    backgroundColor     = ['8fb8de', 'a3c9a8', 'b8a9d9', '9ad1d4', 'c9ced6', 'e6c4d4'],
    hatProbability          = 0,
    glassesProbability      = 0,
    beardProbability        = 0,
    accessoriesProbability  = 0,
)


def draw_face(style, seed):
    """The face of one seed as a Pillow image: 32x32, RGB."""
    svg = Avatar(style, dict(OPTIONS, seed=str(seed), size=SIZE)).to_string()
    return Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE))).convert('RGB')


def write_zip(images, path):
    """Write `images` to the zip `path` as face0000.png, face0001.png and so on, by way of a file beside it."""
    beside = path.with_name(path.name + '.part')
    with zipfile.ZipFile(beside, 'w') as archive:
        for index, image in enumerate(images):
            png = io.BytesIO()
            image.save(png, 'PNG', optimize=True)
            archive.writestr(zipfile.ZipInfo(f'face{index:04d}.png', TIMESTAMP), png.getvalue())  # Stored: PNGs do not shrink.
    os.replace(beside, path)


def main():
    parser = argparse.ArgumentParser(description='Draw the faces of the demo.', formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--count', type=int, default=1000, help='how many faces')
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path(__file__).with_name('faces32.zip'), help='zip to write')
    args = parser.parse_args()

    style = Style(json.loads(files('dicebear_styles').joinpath('pixel-art.json').read_text('utf-8')))
    write_zip((draw_face(style, seed) for seed in range(args.count)), args.out)
    print(f'Wrote {args.count} faces to {args.out} ({args.out.stat().st_size / 1e6:.2f} MB)')


if __name__ == '__main__':
    main()
