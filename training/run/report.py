"""What runs look like: report.html in the folder of a run, and a page that compares runs. Each is one file that needs no other."""

import html
import json
import math
import os
import re
import shlex
import statistics

from dnnlib.cli import UserError
from dnnlib.util import format_time
from training.run import page
from training.run.charts import Curve, chart, swatch

# Charts of a run: (title, unit of the vertical axis, {tag in stats.jsonl: name of the curve}). Each metric has one more.
_CHARTS = [
    ('Loss', 'loss', {'Loss/G/loss': 'generator', 'Loss/D/loss': 'discriminator'}),
    ('Scores', 'output of the discriminator', {'Loss/scores/real': 'reals', 'Loss/scores/fake': 'fakes'}),
    ('Path length', 'path length', {'Loss/pl_lengths': 'lengths', 'Loss/pl_mean': 'moving average'}),
    ('Regularisation', 'penalty', {'Loss/G/reg': 'path length', 'Loss/D/reg': 'R1'}),
    ('Speed', 'seconds per kimg', {'Timing/sec_per_kimg': 'training'}),
]
_AXES = {'kimg': 'kimg (thousands of images shown)', 'hours': 'hours of training', 'minutes': 'minutes of training'}
_METRICS = 'Metrics/'
_NAMES_OF_RUN = {'run_desc', 'run_dir', 'run_id', 'run_name', 'command_line'}  # Settings that say nothing of how runs differ.
_MOST_PICTURES = 12     # Rows of the strip of snapshots.
_COLUMNS = 16           # Images in a row, at most.
_STRIP_WIDTH = 1600     # Pixels of a row, at most.
_SLOW = 3               # Ticks that take so many times as long as usual, for they compile, are out of the range of the chart of speed.

# Settings in words: (what, keys of read_settings, format of their values). The first whose keys are all there is shown.
_IN_WORDS = [
    ('dataset', ['dataset_args.tfrecord_dir'], '{}'),
    ('mirrored at random', ['mirror_augment'], '{}'),
    ('minibatch', ['sched_args.minibatch_size_base', 'sched_args.minibatch_gpu_base'], '{} images, {} at a time on each device'),
    ('devices', ['num_gpus'], '{}'),
    ('learning rate', ['sched_args.G_lrate_base'], '{}'),
    ('weight of R1 (gamma)', ['D_loss_args.gamma'], '{}'),
    ('half-life of Gs, the average of G', ['G_smoothing_kimg'], '{} kimg'),
    ('losses', ['G_loss_args.func_name', 'D_loss_args.func_name'], '{}, {}'),
    ('feature maps', ['G_args.fmap_base', 'G_args.fmap_max'], '2 * {} / resolution, {} at most'),
    ('size of Z and W', ['G_args.latent_size'], '{}'),
    ('mapping layers', ['G_args.mapping_layers'], '{}'),
    ('precision', ['precision'], '{}'),
    ('starts from', ['resume_pkl'], '{}'),
    ('length', ['total_kimg'], '{} kimg'),
    ('time limit', ['max_minutes'], '{} minutes'),
    ('seed', ['tf_config.rnd.np_random_seed'], '{}'),
    ('TensorFlow', ['versions.tensorflow', 'versions.python'], '{}, on Python {}'),
]


class Report:
    """report.html of a run: how far it is, curves, a strip of snapshots, settings.

    Args:
        run_dir:    Folder of the run.
        resolution: Side of the images in its grids, of which the strip shows the first ones. None = not known, show the grids as they are.
    """

    def __init__(self, run_dir, resolution=None):
        self._run_dir, self._resolution = run_dir, resolution
        self._pictures = {}  # (name, time of its last change) -> HTML, of those shown last: they are not read again.

    def save(self):
        """Write report.html from what is in the folder now; it appears whole or not at all."""
        lines, settings = read_stats(self._run_dir), read_settings(self._run_dir)
        tags = sorted({tag for line in lines for tag in line if tag.startswith(_METRICS)})
        metrics = [(_name(tag), _axis(tag), {tag: 'value'}) for tag in tags]
        charts = [_figure(title, unit, [Curve(name, _points(lines, tag), style) for style, (tag, name) in enumerate(curves.items())])
                  for title, unit, curves in [*metrics, *_CHARTS]]
        keys = list(self._found())
        self._pictures = {key: self._pictures[key] if key in self._pictures else self._picture(key[0]) for key in keys}
        page.save(
            os.path.join(self._run_dir, 'report.html'), os.path.basename(os.path.abspath(self._run_dir)),
            _progress(lines, settings, tags) if lines else '<p>No tick yet.</p>',
            _charts(charts),
            page.section('Snapshots', strip([(picture_title(name), picture) for (name, _), picture in self._pictures.items()])),
            page.section('Command', page.command(settings['command_line']) if 'command_line' in settings else ''),
            page.section('Settings', _settings(settings)))

    def _found(self):
        for name in choose_pictures(os.listdir(self._run_dir)):
            yield name, os.stat(os.path.join(self._run_dir, name)).st_mtime_ns

    def _picture(self, name):
        """HTML of the first images of a grid; None if it cannot be read."""
        try:
            return page.picture(first_images(os.path.join(self._run_dir, name), self._resolution), name)
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

    def figure(title, unit, tags, x='kimg'):
        curves = [Curve(f'{label}{name and f", {name}"}', _points(lines, tag, x), style, number > 0)
                  for number, (tag, name) in enumerate(tags.items()) for style, (label, lines) in enumerate(zip(labels, runs.values()))]
        return _figure(title, unit, curves, x, legend=False, pair=[name for name in tags.values() if name])

    time = 'hours' if max(lines[-1]['hours'] for lines in runs.values()) >= 2 else 'minutes'
    charts = [figure(_name(tag) + more, _axis(tag), {tag: ''}, x) for tag in metrics for x, more in (('kimg', ''), (time, ' over time'))]
    for title, unit, tags in _CHARTS:
        charts += [figure(title, unit, tags if len(tags) > 1 else {tag: '' for tag in tags})]
    rows = [[f'{swatch(style)} {html.escape(label)}', *map(html.escape, [
        f'{lines[-1]["kimg"]:.6g}', _time(lines), *(_last(_points(lines, tag)) for tag in ('Timing/sec_per_kimg', *metrics))])]
        for style, (label, lines) in enumerate(zip(labels, runs.values()))]
    settings = [read_settings(run_dir) for run_dir in runs]
    keys = [key for key in dict.fromkeys(key for s in settings for key in s) if key not in _NAMES_OF_RUN]
    different = [row for row in ((key, *(s.get(key, '') for s in settings)) for key in keys) if len(set(row[1:])) > 1]
    path = os.path.join(result_dir, 'training-curves.html')
    try:
        os.makedirs(result_dir, exist_ok=True)
        page.save(
            path, 'Training curves',
            f'<div class="scroll">{page.table(rows, ["run", "kimg", "time", "seconds/kimg", *map(_name, metrics)], escape=False)}</div>',
            _charts(charts),
            page.section('Settings that differ', page.table(different, ['', *labels])))
    except OSError as err:
        raise UserError(f'cannot write {path}: {err.strerror}', 'Choose a folder you can write to with --result-dir.') from err
    return path


# ---- What is in a run's folder ----

def read_stats(run_dir):
    """Lines of stats.jsonl as dicts, in order; each has 'kimg', 'hours' and 'minutes'. [] if there is no such file in the folder.

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
            lines.append({**line, 'hours': hours, 'minutes': hours * 60})
    return lines


def read_settings(run_dir):
    """{name: value as text} of what submit_config.json says, one level deep; {} if it cannot be read. The command line is one to paste."""
    try:
        with open(os.path.join(run_dir, 'submit_config.json'), encoding='utf-8') as file:
            config = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(config, dict):
        return {}
    flat = {}
    if isinstance(config.get('command_line'), list):
        config['command_line'] = shlex.join(['python', *map(str, config['command_line'])])

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


# ---- Snapshots ----

def choose_pictures(names):
    """The grids to show of those in a folder: reals, those of the start, and of the numbered ones about a dozen, the last among them.

    It takes every 2nd, 4th, 8th, ...: a longer run shows some of those that it has shown before, and the last, which is new.
    """
    numbered = sorted((name for name in names if re.fullmatch(r'fakes\d+\.png', name)), key=lambda name: int(name[5:-4]))
    step = 1
    while len(numbered) / step > _MOST_PICTURES:
        step *= 2
    chosen = numbered[::step] + [name for name in numbered[-1:] if (len(numbered) - 1) % step]
    return [name for name in ('reals.png', 'fakes_init.png') if name in names] + chosen


def picture_title(name):
    """What the strip calls a grid of `choose_pictures`."""
    return {'reals.png': 'reals', 'fakes_init.png': 'start'}.get(name) or f'kimg {int(name[5:-4])}'


def first_images(path, resolution=None):
    """The first images of a grid, at most 16 in one row, as a PIL image. A resolution of None shows the grid as it is.

    Raises: OSError, ValueError or SyntaxError if the file is no picture.
    """
    import PIL.Image  # Here, so that `run_training.py --help` does not wait for it.
    with PIL.Image.open(path) as grid:
        row = grid.convert('RGB')
    if resolution is not None and resolution <= min(row.size):
        columns, rows = row.width // resolution, row.height // resolution
        corners = [(x * resolution, y * resolution) for y in range(rows) for x in range(columns)][:_COLUMNS]
        grid, row = row, PIL.Image.new('RGB', (len(corners) * resolution, resolution))
        for number, (x, y) in enumerate(corners):
            row.paste(grid.crop((x, y, x + resolution, y + resolution)), (number * resolution, 0))
    if row.width > _STRIP_WIDTH:
        row = row.resize((_STRIP_WIDTH, max(round(row.height * _STRIP_WIDTH / row.width), 1)), PIL.Image.Resampling.LANCZOS)
    return row


def strip(rows):
    """HTML of titled pictures below each other, those that are not None; '' if there are none."""
    return page.table([(html.escape(title), picture) for title, picture in rows if picture is not None], escape=False, kind='strip')


# ---- Pieces of a page ----

def _charts(figures):
    figures = [figure for figure in figures if figure]
    return '<div class="charts">\n' + '\n'.join(figures) + '\n</div>' if figures else ''


def _figure(title, unit, curves, x='kimg', legend=True, pair=()):
    """A chart with its title and the last value of each curve; '' if there is nothing to show.

    Args:
        title, unit: Of the chart, and of its vertical axis.
        curves:      List of Curve.
        x:           Key of _AXES.
        legend:      Name the curves?
        pair:        Names of the lines and of the dotted lines, where each run has both.
    """
    values = [y for curve in curves for _, y in curve.points if math.isfinite(y)]
    top = _SLOW * statistics.median_low(values) if title == 'Speed' and values else math.inf
    picture = chart(curves, _AXES[x], unit, top)
    if not picture:
        return ''
    shown = [curve for curve in curves if curve.points]
    caption = ''.join(f'<span>{swatch(curve.style)} {html.escape(curve.label)} {_last(curve.points)}</span>' for curve in shown if legend)
    if len(pair) == 2:
        caption += f'<span class="soft">{html.escape(pair[0])}: lines; {html.escape(pair[1])}: dots</span>'
    slow = sum(y > top for y in values)
    if slow:
        caption += f'<span class="soft">▲ {slow} tick{"s" * (slow > 1)} of up to {max(values):.4g}, with compilation</span>'
    lost = sum(not math.isfinite(y) for curve in shown for _, y in curve.points)
    caption += f'<span class="soft">(values that are not finite: {lost})</span>' if lost else ''
    return f'<figure><figcaption><b>{html.escape(title)}</b>{caption}</figcaption>\n{picture}\n</figure>'


def _progress(lines, settings, metrics):
    """Tiles that tell how far the run is, and how well it does."""
    last = lines[-1]
    limit = 'max_minutes' in settings
    total = settings.get('total_kimg', '').removesuffix('.0')
    left = next((y for _, y in reversed(_points(lines, 'Timing/left_sec')) if y >= 0), None)
    seconds = last['hours'] * 3600
    bar = f'<progress value="{seconds / max(seconds + left, 1):.4f}"></progress>' if left is not None else ''
    of = f' of {"at most " * limit}{total}' if total else ''
    facts = [('kimg', f'{last["kimg"]:.6g}{of}', bar), ('trained for', _time(lines), '')]
    if left is not None:
        facts.append(('time left', 'finished' if left == 0 else f'about {format_time(left)}', ''))
    speeds = [y for _, y in _points(lines, 'Timing/sec_per_kimg') if y > 0]
    if speeds:
        speed = statistics.median_low(speeds[-10:])
        facts.append(('speed', f'{speed:.4g} s/kimg', f'<span class="soft">{1000 / speed:.4g} images per second</span>'))
    for tag in metrics:
        points = [point for point in _points(lines, tag) if math.isfinite(point[1])]
        if points:
            facts.append((_name(tag), f'{points[-1][1]:.4g}', f'<span class="soft">{_direction(tag)}</span>'))
    return page.tiles(facts)


def _settings(settings):
    """Those that matter most in words; all of them, by the names in submit_config.json, below a fold."""
    if not settings:
        return '<p>There is no submit_config.json that can be read.</p>'
    words = [(what, form.format(*(settings[key].removesuffix('.0').removeprefix('training.loss.') for key in keys)))
             for what, keys, form in _IN_WORDS if all(key in settings for key in keys)]
    return (f'<div class="columns">{page.table(words, kind="words")}</div>\n<details><summary>All settings, as in submit_config.json'
            f'</summary>\n<div class="columns">{page.table(settings.items())}</div></details>')


def _name(tag):
    return tag.removeprefix(_METRICS)


def _direction(tag):
    """Is less or more of a metric better?"""
    name = _name(tag)
    if name.startswith(('fid', 'fd_', 'kid', 'ppl', 'ls')):
        return 'less is better'
    return 'more is better' if name.startswith(('is', 'pr')) and not name.endswith('_std') else ''


def _axis(tag):
    return ', '.join(filter(None, [_name(tag), _direction(tag)]))


def _last(points):
    return f'{points[-1][1]:.4g}' if points else ''


def _time(lines):
    return format_time(lines[-1]['hours'] * 3600)
