"""The page of `make demo`: what is in it, and what the terminal gets."""

import io
import os
import types

import numpy as np
import pytest
from PIL import Image

from demo import page
from tests.training.run.test_report import check_self_contained, make_run, tick


@pytest.fixture
def results(tmp_path):
    """Arguments of demo.page for a run with three grids, nine faces and a grid of mixed ones."""
    run = make_run(tmp_path / 'results' / '00000-train', [tick(2)], ['reals.png', 'fakes_init.png', 'fakes000002.png'])
    for name in ('faces', 'mixed'):
        (tmp_path / name).mkdir()
    for seed in range(9):
        Image.fromarray(np.full([16, 16, 3], 20 * seed, np.uint8)).save(tmp_path / 'faces' / f'seed{seed:04d}.png')
    Image.new('RGB', (48, 32), 'red').save(tmp_path / 'mixed' / 'grid.png')
    return [
        str(tmp_path / 'index.html'),
        f'--run={run}',
        f'--faces={tmp_path / "faces"}',
        f'--mixed={tmp_path / "mixed"}',
    ]


def test_page_and_picture(results, tmp_path, capsys):
    page.main(results)
    text = (tmp_path / 'index.html').read_text()
    assert text.count('<img ') == 9 + 1 + 3 and 'seed 8</figcaption>' in text
    assert '<a href="results/00000-train/report.html">' in text and '2,000 pictures in 2h 00m 00s' in text
    assert (
        text.index('alt="face of seed 0"')
        < text.index('alt="mixed faces"')
        < text.index('alt="reals.png"')
        < text.index('kimg 2')
    )
    check_self_contained(text.replace('<a href="results/00000-train/report.html">', ''))
    with Image.open(tmp_path / 'faces.png') as sheet:
        assert sheet.size == (8 * 16 * 4, 2 * 16 * 4)
        assert [sheet.getpixel((x * 64 + 9, y * 64 + 9)) for x, y in ((0, 0), (7, 0), (0, 1), (1, 1))] == [
            (0,) * 3, (140,) * 3, (160,) * 3, (255,) * 3]
    out = capsys.readouterr().out
    assert f'Look at new faces, one for each seed: {tmp_path / "faces.png"}\n' in out and out.endswith(
        f'file://{tmp_path}/index.html\n'
    )


def test_faces_are_expected(results, tmp_path, capsys):
    for path in (tmp_path / 'faces').iterdir():
        path.unlink()
    with pytest.raises(SystemExit):
        page.main(results)
    assert 'found none' in capsys.readouterr().err and not (tmp_path / 'index.html').exists()


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize('can, expected', [('SixelImage', True), ('TGPImage', True), ('HalfcellImage', False)])
def test_a_terminal_that_can_shows_the_picture(results, tmp_path, monkeypatch, can, expected):
    rich = pytest.importorskip('rich')
    assert rich
    shown = []

    def image(path, **size):
        shown.append(path)
        return 'the picture'
    renderable = types.SimpleNamespace(SixelImage='sixel', TGPImage='kitty', HalfcellImage='blocks')
    chosen = {'SixelImage': image, 'TGPImage': image, 'HalfcellImage': image}[can]
    setattr(renderable, can, chosen)
    renderable.Image = chosen
    monkeypatch.setitem(page.sys.modules, 'textual_image', types.SimpleNamespace(renderable=renderable))
    out = Terminal()
    monkeypatch.setattr(page.sys, 'stdin', Terminal())
    monkeypatch.setattr(page.sys, 'stdout', out)
    page.main(results)
    assert (shown == [str(tmp_path / 'faces.png')]) == expected
    assert ('the picture' in out.getvalue()) == expected and ('Above are new faces' in out.getvalue()) == expected


def test_without_the_extra_the_path_will_do(results, monkeypatch):
    monkeypatch.setitem(page.sys.modules, 'textual_image', None)
    monkeypatch.setattr(page.sys, 'stdin', Terminal())
    monkeypatch.setattr(page.sys, 'stdout', Terminal())
    assert page.show_in_terminal(os.devnull) is False
