"""What runs look like: report.html in the folder of a run, and a page that compares runs. Each is one file that needs no other."""

import base64
import html
import io
import json
import math
import os
import re

from dnnlib import storage
from dnnlib.cli import UserError
from dnnlib.util import format_time
from training.charts import Curve, chart, swatch

# Charts of a run: title -> {tag in stats.jsonl: name of the curve}. Metrics are added, each with a chart of its own.
_CHARTS = {
    'Loss': {'Loss/G/loss': 'generator', 'Loss/D/loss': 'discriminator'},
    'Scores': {'Loss/scores/real': 'reals', 'Loss/scores/fake': 'fakes'},
    'Path length': {'Loss/pl_lengths': 'lengths', 'Loss/pl_mean': 'moving average'},
    'Regularisation': {'Loss/G/reg': 'generator', 'Loss/D/reg': 'discriminator'},
    'Speed': {'Timing/sec_per_kimg': 'seconds per kimg'},
}
_METRICS = 'Metrics/'
_NAMES_OF_RUN = {'run_desc', 'run_dir', 'run_id', 'run_name', 'command_line'}  # Settings that say nothing of how runs differ.
_MOST_PICTURES = 12     # Rows of the strip of snapshots.
_COLUMNS = 10           # Images in a row, at most.
_STRIP_WIDTH = 640      # Pixels of a row.

_PAGE = '''<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 14px/1.45 system-ui, sans-serif; color: #222; background: #fff; max-width: 1420px; margin: 1.5em auto; padding: 0 1em }}
h1 {{ font-size: 1.4em; overflow-wrap: anywhere }} h2 {{ font-size: 1.1em; margin: 1.6em 0 .5em }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(400px, 1fr)); gap: 1em }}
figure {{ margin: 0; border: 1px solid #ddd; border-radius: 4px; padding: .5em }} figcaption b {{ margin-right: .6em }}
figcaption span {{ margin-right: .8em; white-space: nowrap }}
svg {{ width: 100%; display: block }} svg.swatch {{ width: 26px; height: 8px; display: inline-block }}
svg text {{ font-size: 10px; fill: #555 }} .grid {{ stroke: #e4e4e4 }}
polyline {{ fill: none; stroke-width: 1.5 }} .swatch path {{ stroke-width: 2.5 }} circle {{ stroke: none }}
table {{ border-collapse: collapse; margin-bottom: 1em }} tr {{ border-bottom: 1px solid #eee }}
th, td {{ text-align: left; padding: .15em 1.2em .15em 0; vertical-align: top; overflow-wrap: anywhere }}
td:first-child {{ white-space: nowrap }} .strip tr {{ border: 0 }} .strip td {{ padding-bottom: 2px; vertical-align: middle }}
.strip img {{ display: block }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
'''


class Report:
    """report.html of a run: curves, a strip of snapshots, settings.

    Args:
        run_dir:    Folder of the run.
        resolution: Side of the images in its grids, of which the strip shows a row. None = not known, show the grids as they are.
    """

    def __init__(self, run_dir, resolution=None):
        self._run_dir, self._resolution = run_dir, resolution
        self._pictures = {}  # (name, time of its last change) -> data URI, of those shown last: they are not read again.

    def save(self):
        """Write report.html from what is in the folder now; it appears whole or not at all."""
        lines, settings = read_stats(self._run_dir), read_settings(self._run_dir)
        tags = {tag for line in lines for tag in line if tag.startswith(_METRICS)}
        metrics = {tag.removeprefix(_METRICS): {tag: 'value'} for tag in sorted(tags)}
        charts = [_figure(title, [Curve(name, _points(lines, tag), style) for style, (tag, name) in enumerate(curves.items())])
                  for title, curves in {**metrics, **_CHARTS}.items()]
        _write(os.path.join(self._run_dir, 'report.html'), _page(
            os.path.basename(os.path.abspath(self._run_dir)),
            f'<p>{_state(lines, settings)}</p>',
            _charts(charts) or '<p>No tick yet.</p>',
            self._strip(),
            '<h2>Settings</h2>\n' + (_table(settings.items()) or '<p>There is no submit_config.json that can be read.</p>')))

    def _strip(self):
        keys = [(name, os.stat(os.path.join(self._run_dir, name)).st_mtime_ns) for name in _choose_pictures(os.listdir(self._run_dir))]
        self._pictures = {key: self._pictures[key] if key in self._pictures else self._picture(key[0]) for key in keys}
        rows = [f'<tr><td>{_picture_title(name)}</td><td><img alt="{name}" src="{picture}"></td></tr>'
                for (name, _), picture in self._pictures.items() if picture is not None]
        return f'<h2>Snapshots</h2>\n<table class="strip">\n{chr(10).join(rows)}\n</table>' if rows else ''

    def _picture(self, name):
        """Data URI of the first images of a grid; None if it cannot be read."""
        try:
            return _scaled_row(os.path.join(self._run_dir, name), self._resolution)
        except (OSError, ValueError, SyntaxError):  # What Pillow raises for files that are no pictures, or damaged.
            return None


def compare(run_dirs, result_dir):
    """Write result_dir/training-curves.html: the curves of runs in the same charts. Returns its path.

    Metrics come first, over images shown and over hours of training.

    Raises: UserError if one of the folders is no run that has made a tick, or the page cannot be written.
    """
    runs = {}
    for run_dir in run_dirs:
        try:
            lines = read_stats(run_dir)
        except OSError as err:
            raise UserError(f'--plot: cannot read {err.filename}: {err.strerror}', 'Give folders of runs.') from err
        if not lines:
            raise UserError(f'--plot: expected the folder of a run that has made a tick, found no stats.jsonl with one in {run_dir}',
                            'Leave it out, or check its name.')
        runs[run_dir] = lines
    names = [os.path.basename(os.path.abspath(run_dir)) for run_dir in runs]
    labels = names if len(set(names)) == len(names) else list(runs)
    metrics = sorted({tag for lines in runs.values() for line in lines for tag in line if tag.startswith(_METRICS)})

    def figure(tag, title, x='kimg'):
        curves = [Curve(label, _points(lines, tag, x), style) for style, (label, lines) in enumerate(zip(labels, runs.values()))]
        return _figure(title, curves, x, legend=False)

    def name(tag):
        return tag.removeprefix(_METRICS)

    charts = [figure(tag, name(tag) + more, x) for tag in metrics for x, more in (('kimg', ''), ('hours', ' over time'))]
    charts += [figure(tag, f'{title}: {name}') for title, curves in _CHARTS.items() for tag, name in curves.items()]
    rows = [[f'{swatch(style)} {html.escape(label)}', *map(html.escape, [
        f'{lines[-1]["kimg"]:.6g}', _time(lines), *(_last(_points(lines, tag)) for tag in ('Timing/sec_per_kimg', *metrics))])]
        for style, (label, lines) in enumerate(zip(labels, runs.values()))]
    settings = [read_settings(run_dir) for run_dir in runs]
    keys = [key for key in dict.fromkeys(key for s in settings for key in s) if key not in _NAMES_OF_RUN]
    different = [row for row in ((key, *(s.get(key, '') for s in settings)) for key in keys) if len(set(row[1:])) > 1]
    path = os.path.join(result_dir, 'training-curves.html')
    try:
        os.makedirs(result_dir, exist_ok=True)
        _write(path, _page(
            'Training curves',
            _table(rows, ['run', 'kimg', 'time', 'sec/kimg', *map(name, metrics)], escape=False),
            _charts(charts),
            ('<h2>Settings that differ</h2>\n' + _table(different, ['', *labels])) if different else ''))
    except OSError as err:
        raise UserError(f'cannot write {path}: {err.strerror}', 'Choose a folder you can write to with --result-dir.') from err
    return path


# ---- What is in a run's folder ----

def read_stats(run_dir):
    """Lines of stats.jsonl as dicts, in order; each has 'kimg' and 'hours'. [] if there is no such file in the folder.

    A line that cannot be read, as the last one of a run that was killed while it wrote, is left out; so is what lies beyond
    the point to which a run that goes on from a snapshot went back.
    """
    os.listdir(run_dir)  # A folder that does not exist is an error.
    path = os.path.join(run_dir, 'stats.jsonl')
    if not os.path.exists(path):
        return []
    lines, hours = [], 0.0
    with open(path, encoding='utf-8', errors='replace') as file:
        for text in file:
            try:
                line = json.loads(text, parse_int=float)  # However many digits, it becomes no error.
            except (ValueError, RecursionError):
                continue
            if not isinstance(line, dict) or not math.isfinite(_number(line.get('kimg'))):
                continue
            while lines and lines[-1]['kimg'] > line['kimg']:
                lines.pop()
            seconds = _number(line.get('seconds'))
            hours = seconds / 3600 if math.isfinite(seconds) else hours  # A line of metrics alone has no time of its own.
            lines.append({**line, 'hours': hours})
    return lines


def read_settings(run_dir):
    """{name: value as text} of what submit_config.json says, one level deep; {} if it cannot be read."""
    try:
        with open(os.path.join(run_dir, 'submit_config.json'), encoding='utf-8') as file:
            config = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    flat = {}

    def flatten(prefix, value):
        if isinstance(value, dict) and value:
            for key, item in value.items():
                flatten(f'{prefix}.{key}' if prefix else key, item)
        else:
            flat[prefix.removeprefix('run_func_kwargs.')] = value if isinstance(value, str) else json.dumps(value)
    flatten('', config)
    return flat


def _number(value):
    """float of a number of JSON; NaN for null and whatever else is no number."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def _points(lines, tag, x='kimg'):
    return [(float(line[x]), _number(line[tag])) for line in lines if tag in line]


def _choose_pictures(names):
    """The grids to show: reals, those of the start, and of the numbered ones at most about a dozen: every 2nd, 4th, 8th, ... and the last.

    A longer run thus shows some of those that it has shown before, and the last, which is new.
    """
    numbered = sorted((name for name in names if re.fullmatch(r'fakes\d+\.png', name)), key=lambda name: int(name[5:-4]))
    step = 1
    while len(numbered) / step > _MOST_PICTURES:
        step *= 2
    chosen = numbered[::step] + [name for name in numbered[-1:] if (len(numbered) - 1) % step]
    return [name for name in ('reals.png', 'fakes_init.png') if name in names] + chosen


def _picture_title(name):
    return {'reals.png': 'reals', 'fakes_init.png': 'start'}.get(name) or f'kimg {int(name[5:-4])}'


def _scaled_row(path, resolution):
    import PIL.Image  # Here, so that `run_training.py --help` does not wait for it.
    with PIL.Image.open(path) as grid:
        picture = grid.convert('RGB')
    if resolution is not None and resolution <= min(picture.size):
        columns = min(picture.width // resolution, _COLUMNS)
        picture = picture.crop((0, 0, columns * resolution, resolution))
    height = max(round(picture.height * _STRIP_WIDTH / picture.width), 1)
    method = PIL.Image.Resampling.NEAREST if picture.width < _STRIP_WIDTH else PIL.Image.Resampling.LANCZOS
    data = io.BytesIO()
    picture.resize((_STRIP_WIDTH, height), method).save(data, 'jpeg', quality=88)
    return f'data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}'


# ---- Pieces of a page ----

def _page(title, *parts):
    return _PAGE.format(title=html.escape(title), body='\n'.join(part for part in parts if part))


def _charts(figures):
    figures = [figure for figure in figures if figure]
    return '<div class="charts">\n' + '\n'.join(figures) + '\n</div>' if figures else ''


def _figure(title, curves, x_label='kimg', legend=True):
    """A chart with its title and the last value of each curve; '' if there is nothing to show."""
    picture = chart(curves, x_label)
    if not picture:
        return ''
    shown = [curve for curve in curves if curve.points]
    caption = ''.join(f'<span>{swatch(curve.style)} {html.escape(curve.label)} {_last(curve.points)}</span>' for curve in shown if legend)
    lost = sum(not math.isfinite(y) for curve in shown for _, y in curve.points)
    caption += f'<span>(values that are not finite: {lost})</span>' if lost else ''
    return f'<figure><figcaption><b>{html.escape(title)}</b>{caption}</figcaption>\n{picture}\n</figure>'


def _table(rows, head=None, escape=True):
    def line(cells, tag):
        return '<tr>' + ''.join(f'<{tag}>{html.escape(cell) if escape else cell}</{tag}>' for cell in cells) + '</tr>'
    rows = [line(row, 'td') for row in rows]
    if head:
        rows.insert(0, '<tr>' + ''.join(f'<th>{html.escape(cell)}</th>' for cell in head) + '</tr>')
    return '<table>\n' + '\n'.join(rows) + '\n</table>' if rows else ''


def _last(points):
    return f'{points[-1][1]:.4g}' if points else ''


def _time(lines):
    return format_time(lines[-1]['hours'] * 3600)


def _state(lines, settings):
    """How far the run is, in one line."""
    if not lines:
        return ''
    of = f' of {settings["total_kimg"].removesuffix(".0")}' if 'total_kimg' in settings else ''
    return html.escape(f'kimg {lines[-1]["kimg"]:.6g}{of}, trained for {_time(lines)}')


def _write(path, text):
    with storage.new_file(path) as part, open(part, 'w', encoding='utf-8') as file:
        file.write(text)
