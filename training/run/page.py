"""The look of the pages that runs leave: one file each, without scripts, that needs no network and is dark where the reader wants it so."""

import base64
import html
import io

from dnnlib import storage
from training.run import charts

_STYLE = f'''
:root {{ color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #1d2129; --soft: #5c6470; --line: #dfe3e8; --accent: #0072b2;
  --grid: #e6e9ed }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #14171c; --card: #1d2128; --text: #e6e9ee; --soft: #9aa3b0; --line: #323843; --accent: #56b4e9; --grid: #2c323b }}
}}
* {{ box-sizing: border-box }}
body {{ font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 1800px; margin: 0 auto;
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
svg {{ width: 100%; display: block }} svg.swatch {{ width: 26px; height: 8px; display: inline-block; vertical-align: middle }}
svg text {{ font-size: 11px; fill: var(--soft) }} .grid {{ stroke: var(--grid) }} .swatch path {{ stroke-width: 2.5 }}
polyline {{ fill: none; stroke-width: 1.7; stroke-linejoin: round }} circle, polygon {{ stroke: none }} circle:hover {{ r: 5px }}
{charts.color_rules(charts.COLORS)}
@media (prefers-color-scheme: dark) {{ {charts.color_rules(charts.DARK_COLORS)} }}
.scroll {{ overflow-x: auto }} table {{ border-collapse: collapse; margin-bottom: 1em }} tr {{ border-bottom: 1px solid var(--line) }}
th, td {{ text-align: left; padding: .25em 1.4em .25em 0; vertical-align: top; overflow-wrap: anywhere }} th {{ color: var(--soft) }}
td:first-child {{ white-space: nowrap }} .columns {{ columns: 480px; column-gap: 2.5em }} .columns table {{ width: 100% }}
.columns tr {{ break-inside: avoid }} .words td:first-child {{ color: var(--soft) }}
.strip {{ width: 100%; margin: 0 }} .strip tr {{ border: 0 }} .strip td {{ padding: 0 0 3px; vertical-align: middle }}
.strip td:first-child {{ width: 6em; color: var(--soft) }} .strip img {{ width: 100% }}
img {{ display: block; image-rendering: pixelated }} img.smooth {{ image-rendering: auto }}
pre {{ padding: .8em 1em; white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; font-size: .9em; margin: .4em 0 }}
summary {{ cursor: pointer; color: var(--soft); margin: .8em 0 }}
.faces {{ display: grid; grid-template-columns: repeat(16, 1fr); gap: 8px }}
@media (max-width: 1200px) {{ .faces {{ grid-template-columns: repeat(8, 1fr) }} }}
@media (max-width: 600px) {{ .faces {{ grid-template-columns: repeat(4, 1fr) }} }}
.faces figure {{ min-width: 0 }} .faces figure {{ padding: 4px }}
.faces img {{ width: 100% }} .faces figcaption {{ min-height: 0; text-align: center; font-size: .8em; color: var(--soft) }}
.mixed img {{ width: min(100%, 800px) }}
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


def save(path, title, *parts):
    """Write a page of pieces of HTML, those that are not empty; it appears whole or not at all."""
    text = _PAGE.format(title=html.escape(title), style=_STYLE, body='\n'.join(part for part in parts if part))
    with storage.new_file(path) as part, open(part, 'w', encoding='utf-8') as file:
        file.write(text)


def section(title, content):
    """Content under a heading; '' if there is none."""
    return f'<h2>{html.escape(title)}</h2>\n{content}' if content else ''


def table(rows, head=None, escape=True, kind=''):
    """Table of rows of cells (text, or HTML if not `escape`); '' if there are none."""
    def line(cells, tag):
        return '<tr>' + ''.join(f'<{tag}>{html.escape(cell) if escape else cell}</{tag}>' for cell in cells) + '</tr>'
    rows = [line(row, 'td') for row in rows]
    if rows and head:
        rows.insert(0, '<tr>' + ''.join(f'<th>{html.escape(cell)}</th>' for cell in head) + '</tr>')
    return f'<table{kind and f" class={kind}"}>\n' + '\n'.join(rows) + '\n</table>' if rows else ''


def tiles(facts):
    """A row of tiles: (what, value, further HTML) each."""
    rows = [f'<div><span class="soft">{html.escape(what)}</span><b>{html.escape(value)}</b>{more}</div>' for what, value, more in facts]
    return '<div class="tiles">\n' + '\n'.join(rows) + '\n</div>'


def command(line):
    """A command to copy: one click selects all of it."""
    return f'<pre class="card">{html.escape(line)}</pre>'


def picture(image, alt):
    """<img> of a PIL image, inside the page: what is small exactly, pixel by pixel; the rest as JPEG."""
    kind = 'png' if image.height <= 64 or image.width * image.height <= 300 * 300 else 'jpeg'
    data = io.BytesIO()
    image.save(data, kind, **({'quality': 88} if kind == 'jpeg' else {}))
    smooth = '' if kind == 'png' else ' class="smooth"'
    return f'<img{smooth} alt="{html.escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}">'
