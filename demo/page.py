"""The page of `make demo`: what the network learned from, how it became better, new faces, mixed faces. And the same in the terminal.

    python -m demo.page .demo/index.html --run=RUN_DIR --faces=FOLDER --mixed=FOLDER
"""

import argparse
import html
import os
import re
import sys
from pathlib import Path

from PIL import Image

from dnnlib.util import format_time
from training.run import page, report

_MIXED = ('Coarse styles, such as the shape of the hair, are those of the face on top; fine ones, such as colours, those of the face at '
          'the left.')
_ZOOM = 4  # Pixels of a small face's pixel in the file for the terminal.


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, metavar='OUT.html', help='page to write; faces.png comes beside it')
    parser.add_argument('--run', type=Path, required=True, metavar='RUN_DIR', help='folder of run_training.py')
    parser.add_argument('--faces', type=Path, required=True, metavar='DIR', help='folder of run_generator.py generate-images')
    parser.add_argument('--mixed', type=Path, required=True, metavar='DIR', help='folder of run_generator.py style-mixing-example')
    args = parser.parse_args(argv)

    faces = {int(re.sub(r'\D', '', path.stem)): _read(path) for path in sorted(args.faces.glob('seed*.png'))}
    if not faces:
        parser.error(f'expected seed*.png in {args.faces}, found none')
    resolution = next(iter(faces.values())).width
    write_page(args.out, args.run, faces, _read(args.mixed / 'grid.png'), resolution)
    sheet = args.out.with_name('faces.png')
    contact_sheet(list(faces.values())).save(sheet)
    shown = show_in_terminal(sheet)
    print(f'\nDone. {"Above are" if shown else "Look at"} new faces, one for each seed: {sheet}')
    print(f'All of it, with the way there and mixed faces: {args.out.resolve().as_uri()}')


def write_page(out, run_dir, faces, mixed, resolution):
    """Write the page.

    Args:
        out:        Path of the page; links are relative to its folder.
        run_dir:    Folder of the training run.
        faces:      {seed: PIL image}.
        mixed:      PIL image, grid of mixed faces: those of the columns on top, those of the rows at the left.
        resolution: Side of a face.
    """
    lines = report.read_stats(run_dir)
    facts = f'{lines[-1]["kimg"] * 1000:,.0f} pictures in {format_time(lines[-1]["hours"] * 3600)}' if lines else ''
    link = html.escape(Path(os.path.relpath(run_dir, out.parent)).as_posix(), quote=True)
    cells = [f'<figure>{page.picture(face, f"face of seed {seed}")}<figcaption>seed {seed}</figcaption></figure>'
             for seed, face in faces.items()]
    names = report.choose_pictures(os.listdir(run_dir))
    rows = [(report.picture_title(name), page.picture(report.first_images(run_dir / name, resolution), name)) for name in names]
    page.save(
        out, 'Faces that do not exist',
        f'<p>Drawn by a small StyleGAN2 that was trained here, just now{f": it was shown {facts}" if facts else ""}. '
        f'<a href="{link}/report.html">Curves and settings of the training</a></p>',
        page.section('New faces, one for each seed', f'<div class="faces">\n{chr(10).join(cells)}\n</div>'),
        page.section('Mixed faces', f'<p class="soft">{_MIXED}</p>\n<div class="mixed">{page.picture(mixed, "mixed faces")}</div>'),
        page.section('The faces that it learned from, and how its own became better', report.strip(rows)))


def contact_sheet(faces, columns=8):
    """PIL image of faces (PIL images of one size) in rows, enlarged without blur."""
    width, height = faces[0].size
    sheet = Image.new('RGB', (columns * width, -(-len(faces) // columns) * height), 'white')
    for number, face in enumerate(faces):
        sheet.paste(face, (number % columns * width, number // columns * height))
    return sheet.resize((sheet.width * _ZOOM, sheet.height * _ZOOM), Image.Resampling.NEAREST)


def show_in_terminal(path):
    """Show a picture where the terminal can: by Sixel, or the protocol of kitty. Returns whether it was shown."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        from rich.console import Console
        from textual_image import renderable  # It asks the terminal.
    except ImportError:  # The extra [demo] is not there: the path will do.
        return False
    if renderable.Image not in (renderable.SixelImage, renderable.TGPImage):
        return False
    Console().print(renderable.Image(str(path), width='auto', height='auto'))
    return True


def _read(path):
    with Image.open(path) as image:
        return image.convert('RGB')


if __name__ == '__main__':
    main()
