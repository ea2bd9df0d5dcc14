"""Create a picture for the documentation: enlarged images in rows.

    python docs/montage.py OUT.png IMAGE ... --columns 8 --zoom 3

Most pictures of README.md come from the network of the tests (tests/data/README.md). Each `results/...` below is the
folder that the preceding command created:

    python run_generator.py generate-images --network=tests/data/faces32.pkl --seeds=0-99 --truncation-psi=1
    python docs/montage.py docs/faces.png --columns 8 --zoom 3 \\
        results/00000-generate-images/seed00{12,64,25,13,41,68,39,53,07,44,01,48}.png \\
        results/00000-generate-images/seed00{20,34,31,82,75,28,62,84,45,40,10,58}.png

    python run_generator.py style-mixing-example --network=tests/data/faces32.pkl --truncation-psi=1 \\
        --row-seeds=12,64,25,41 --col-seeds=7,13,68,53,39,44 --col-styles=0-1
    python docs/montage.py docs/mixing.png --columns 1 --zoom 3 results/00001-style-mixing-example/grid.png

    unzip demo/faces32.zip 'face090*' -d heldout
    python run_projector.py project-real-images --network=tests/data/faces32.pkl --images heldout \\
        --distance=vgg-hed --wplus --minibatch-size=10 --num-snapshots=10
    python docs/montage.py docs/projection.png --columns 5 --zoom 3 \\
        results/00002-project-real-images/image000{2,5,8}-{step0100,step0200,step0400,final,target}.png

    python run_generator.py figures --network=tests/data/faces32.pkl
    python docs/montage.py docs/figures-mixing.png --columns 1 --zoom 3 results/00003-figures/style-mixing.png
    python docs/montage.py docs/figures-truncation.png --columns 1 --zoom 3 results/00003-figures/truncation-trick.png
    python docs/montage.py docs/figures-noise.png --columns 1 --zoom 4 results/00003-figures/noise-detail.png
    python docs/montage.py docs/figures-droplets.png --columns 1 --zoom 1 results/00003-figures/droplets.png
    cp results/00003-figures/resolutions.svg docs/figures-resolutions.svg

docs/figures-run.svg is the resolutions.svg of a run of eight minutes with the settings of the demo and
--network-snapshot-ticks=1, while the machine had other work:

    python run_generator.py figures --network=RUN_DIR --figures=resolutions --run=RUN_DIR

docs/report.png is a screenshot of report.html after seven minutes of training with the settings of the demo (see the
Makefile) and --image-snapshot-ticks=10, cropped below the snapshots and reduced to 256 colours:

    chromium --headless --hide-scrollbars --window-size=900,1300 --screenshot=report.png file://RUN_DIR/report.html
"""

from __future__ import annotations

import argparse

from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', help='PNG file to write', metavar='OUT.png')
    parser.add_argument('images', help='image files, all of the same size', nargs='+', metavar='IMAGE')
    parser.add_argument('--columns', help='images per row (default: %(default)s)', type=int, default=8, metavar='N')
    parser.add_argument('--zoom', help='factor of enlargement (default: %(default)s)', type=int, default=2, metavar='N')
    args = parser.parse_args()

    cells = []
    for path in args.images:
        with Image.open(path) as image:
            size = image.width * args.zoom, image.height * args.zoom
            cells.append(image.convert('RGB').resize(size, Image.Resampling.NEAREST))
    width, height = cells[0].size
    montage = Image.new('RGB', (width * args.columns, height * -(-len(cells) // args.columns)), 'white')
    for idx, cell in enumerate(cells):
        montage.paste(cell, (idx % args.columns * width, idx // args.columns * height))
    montage.save(args.out, optimize=True)


if __name__ == '__main__':
    main()
