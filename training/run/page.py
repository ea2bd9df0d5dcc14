"""The HTML of pages about runs: single files without scripts or external parts, also for dark color schemes."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dnnlib import storage
from training.run import charts

if TYPE_CHECKING:
    from PIL import Image

_STYLE = f'''
:root {{ color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #1d2129; --soft: #5c6470; --line: #dfe3e8;
  --accent: #0072b2;
  --grid: #e6e9ed }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #14171c; --card: #1d2128; --text: #e6e9ee; --soft: #9aa3b0; --line: #323843; --accent: #56b4e9;
  --grid: #2c323b }}
}}
* {{ box-sizing: border-box }}
body {{ font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 1800px;
  margin: 0 auto;
  padding: 1.2em 1.5em 3em }}
h1 {{ font-size: 1.5em; margin: 0 0 .2em; overflow-wrap: anywhere }} h2 {{ font-size: 1.15em; margin: 1.8em 0 .6em }}
p {{ margin: .3em 0 .8em }} a {{ color: var(--accent) }} .soft {{ color: var(--soft) }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8em; margin: 1em 0 }}
.tiles div, figure, .card {{ background: var(--card); border: 1px solid var(--line); border-radius: 8px }}
.tiles div {{ padding: .6em .9em }} .tiles b {{ display: block; font-size: 1.35em; font-weight: 600; line-height: 1.3 }}
progress {{ width: 100%; height: 6px; accent-color: var(--accent); display: block; margin-top: .3em }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(400px, 100%), 1fr)); gap: 1em }}
figure {{ margin: 0; padding: .7em .8em .4em }} figcaption {{ min-height: 3em }} figcaption b {{ display: block }}
figcaption span {{ margin-right: 1em; white-space: nowrap }} figcaption .soft {{ white-space: normal }}
svg {{ width: 100%; display: block }} svg.swatch {{ width: 26px; height: 8px; display: inline-block;
  vertical-align: middle }}
svg text {{ font-size: 11px; fill: var(--soft) }} .grid {{ stroke: var(--grid) }} .swatch path {{ stroke-width: 2.5 }}
polyline {{ fill: none; stroke-width: 1.7; stroke-linejoin: round }} circle, polygon {{ stroke: none }}
circle:hover {{ r: 5px }}
{charts.color_rules(charts.COLORS)}
@media (prefers-color-scheme: dark) {{ {charts.color_rules(charts.DARK_COLORS)} }}
.scroll {{ overflow-x: auto }} table {{ border-collapse: collapse; margin-bottom: 1em }}
tr {{ border-bottom: 1px solid var(--line) }}
th, td {{ text-align: left; padding: .25em 1.4em .25em 0; vertical-align: top; overflow-wrap: anywhere }}
th {{ color: var(--soft) }}
td:first-child {{ white-space: nowrap }} .columns {{ columns: 480px; column-gap: 2.5em }}
.columns table {{ width: 100% }}
.columns tr {{ break-inside: avoid }} .words td:first-child {{ color: var(--soft) }}
.strip {{ width: 100%; margin: 0 }} .strip tr {{ border: 0 }} .strip td {{ padding: 0 0 3px; vertical-align: middle }}
.strip td:first-child {{ width: 6em; color: var(--soft) }} .strip img {{ width: 100% }}
img {{ display: block; image-rendering: pixelated }} img.smooth {{ image-rendering: auto }}
pre {{ padding: .8em 1em; white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; font-size: .9em;
  margin: .4em 0 }}
summary {{ cursor: pointer; color: var(--soft); margin: .8em 0 }}
.faces {{ display: grid; grid-template-columns: repeat(16, 1fr); gap: 8px }}
@media (max-width: 1200px) {{ .faces {{ grid-template-columns: repeat(8, 1fr) }} }}
@media (max-width: 600px) {{ .faces {{ grid-template-columns: repeat(4, 1fr) }} }}
.faces figure {{ min-width: 0 }} .faces figure {{ padding: 4px }}
.faces img {{ width: 100% }} .faces figcaption {{ min-height: 0; text-align: center; font-size: .8em;
  color: var(--soft) }}
.mixed img {{ width: min(100%, 800px) }} .whole img {{ width: 100% }}
'''

_PAGE = '''<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
'''


def save(path: str, title: str, *parts: str) -> None:
    """Write a page. It appears completely or not at all.

    Args:
        path:  File to write.
        title: Title of the page, as text.
        parts: Pieces of HTML. Empty ones are left out.
    """
    text = _PAGE.format(title=html.escape(title), style=_STYLE, body='\n'.join(part for part in parts if part))
    with storage.new_file(path) as part, open(part, 'w', encoding='utf-8') as file:
        file.write(text)


def section(title: str, content: str) -> str:
    """HTML under a heading; '' if the content is empty."""
    return f'<h2>{html.escape(title)}</h2>\n{content}' if content else ''


def table(rows: Iterable[Iterable[str]], head: Sequence[str] | None = None, escape: bool = True, kind: str = '') -> str:
    """A table.

    Args:
        rows:   Rows of cells.
        head:   Texts of the heading row. None = no heading.
        escape: True = cells are text. False = they are HTML.
        kind:   CSS class.

    Returns:
        HTML; '' if there are no rows.
    """
    def line(cells: Iterable[str], tag: str, escape: bool) -> str:
        return '<tr>' + ''.join(f'<{tag}>{html.escape(cell) if escape else cell}</{tag}>' for cell in cells) + '</tr>'

    lines = [line(row, 'td', escape) for row in rows]
    if lines and head:
        lines.insert(0, line(head, 'th', True))
    return f'<table{kind and f" class={kind}"}>\n' + '\n'.join(lines) + '\n</table>' if lines else ''


def tiles(facts: Iterable[tuple[str, str, str]]) -> str:
    """A row of tiles.

    Args:
        facts: (name, value, more HTML) of each tile.
    """
    rows = [f'<div><span class="soft">{html.escape(name)}</span><b>{html.escape(value)}</b>{more}</div>'
            for name, value, more in facts]
    return '<div class="tiles">\n' + '\n'.join(rows) + '\n</div>'


def command(line: str) -> str:
    """A command to copy: one click selects all of it."""
    return f'<pre class="card">{html.escape(line)}</pre>'


def picture(image: Image.Image, alt: str) -> str:
    """<img> element that contains a picture: a small one exactly and without smoothing, a large one as JPEG.

    Args:
        image: The picture.
        alt:   Alternative text.
    """
    kind = 'png' if image.height <= 64 or image.width * image.height <= 300 * 300 else 'jpeg'
    data = io.BytesIO()
    image.save(data, kind, **({'quality': 88} if kind == 'jpeg' else {}))
    smooth = '' if kind == 'png' else ' class="smooth"'
    content = base64.b64encode(data.getvalue()).decode()
    return f'<img{smooth} alt="{html.escape(alt)}" src="data:image/{kind};base64,{content}">'
