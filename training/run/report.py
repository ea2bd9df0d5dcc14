"""Pages about runs: report.html in the folder of a run, and a page that compares runs. Each is a single file."""

from __future__ import annotations

import html
import json
import math
import os
import re
import shlex
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dnnlib.cli import UserError
from dnnlib.progress import format_time
from training.run import page
from training.run.charts import Curve, chart, swatch

if TYPE_CHECKING:
    from PIL import Image

# Charts of a run: (title, unit of the vertical axis, {tag in stats.jsonl: name of the curve}). Each metric has its own
# too.
_CHARTS = [
    ('Loss', 'loss', {'Loss/G/loss': 'generator', 'Loss/D/loss': 'discriminator'}),
    ('Scores', 'output of the discriminator', {'Loss/scores/real': 'reals', 'Loss/scores/fake': 'fakes'}),
    ('Overfitting', 'strength p, mean sign r_t', {
        'Progress/augment': 'augmentation p', 'Loss/signs/real': 'r_t, mean sign of the scores of reals'}),
    ('Path length', 'path length', {'Loss/pl_lengths': 'lengths', 'Loss/pl_mean': 'moving average'}),
    ('Regularisation', 'penalty', {'Loss/G/reg': 'path length', 'Loss/D/reg': 'R1'}),
    ('Speed', 'seconds per kimg', {'Timing/sec_per_kimg': 'training'}),
]
_AXES = {'kimg': 'kimg (thousands of images shown)', 'hours': 'hours of training', 'minutes': 'minutes of training'}
_METRICS = 'Metrics/'
_NAMES_OF_RUN = {'run_desc', 'run_dir', 'run_id', 'run_name', 'command_line'}  # Not settings in which runs differ.
_FAKES = re.compile(r'fakes(\d+)(?:_(\d{3}))?\.png')  # Names of grids, see RunProgress.snapshot_name.
_MOST_PICTURES = 12  # Most rows of the strip of snapshots.
_COLUMNS = 16  # Most images in a row.
_STRIP_WIDTH = 1600  # Most pixels of a row.
_SLOW = 3  # Ticks that take this many times the usual time, because they compile, are cut off in the chart of speed.

# Settings in words: (name, keys of read_settings, format of their values). A row is shown if all of its keys are there.
_IN_WORDS = [
    ('dataset', ['dataset_args.tfrecord_dir'], '{}'),
    ('mirrored at random', ['mirror_augment'], '{}'),
    ('minibatch', ['sched_args.minibatch_size_base', 'sched_args.minibatch_gpu_base'],
     '{} images, {} at a time on each device'),
    ('devices', ['num_gpus'], '{}'),
    ('learning rate', ['sched_args.G_lrate_base'], '{}'),
    ('weight of R1 (gamma)', ['D_loss_args.gamma'], '{}'),
    ('half-life of Gs, the average of G', ['G_smoothing_kimg'], '{} kimg'),
    ('augmentation', ['augpipe'], '{}'),
    ('strength of the augmentation', ['augment_p'], '{}'),
    ('target of r_t', ['ada_target'], '{}'),
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
    """report.html of a run: its progress, curves, a strip of snapshots, and settings.

    Args:
        run_dir:    Folder of the run.
        resolution: Resolution of the images in its grids, to show only the first images of each grid. None = show whole
                    grids.
    """

    def __init__(self, run_dir: str, resolution: int | None = None):
        self._run_dir, self._resolution = run_dir, resolution
        self._pictures: dict[tuple[str, int], str | None] = {}  # (name, time of last change) -> HTML

    def save(self) -> None:
        """Write report.html from what is in the folder now. It appears completely or not at all."""
        lines, settings = read_stats(self._run_dir), read_settings(self._run_dir)
        tags = sorted({tag for line in lines for tag in line if tag.startswith(_METRICS)})
        metrics = [(_name(tag), _axis(tag), {tag: 'value'}) for tag in tags]
        charts = []
        for title, unit, names in [*metrics, *_CHARTS]:
            curves = [Curve(name, _points(lines, tag), style) for style, (tag, name) in enumerate(names.items())]
            charts.append(_figure(title, unit, curves))
        keys = list(self._found())
        # Pictures that have not changed are not read again.
        self._pictures = {key: self._pictures[key] if key in self._pictures else self._picture(key[0]) for key in keys}
        page.save(
            os.path.join(self._run_dir, 'report.html'), os.path.basename(os.path.abspath(self._run_dir)),
            _progress(lines, settings, tags) if lines else '<p>No tick yet.</p>',
            _charts(charts),
            page.section('Snapshots', strip(
                (picture_title(name), picture) for (name, _), picture in self._pictures.items())),
            page.section('Command', page.command(settings['command_line']) if 'command_line' in settings else ''),
            page.section('Settings', _settings(settings)))

    def _found(self) -> Iterator[tuple[str, int]]:
        """(name, time of last change) of each picture to show."""
        for name in choose_pictures(os.listdir(self._run_dir)):
            yield name, os.stat(os.path.join(self._run_dir, name)).st_mtime_ns

    def _picture(self, name: str) -> str | None:
        """HTML of the first images of a grid. None = it cannot be read."""
        try:
            return page.picture(first_images(os.path.join(self._run_dir, name), self._resolution), name)
        except (OSError, ValueError, SyntaxError):  # What Pillow raises for damaged pictures.
            return None


def compare(run_dirs: Sequence[str], result_dir: str) -> str:
    """Write result_dir/training-curves.html: the curves of several runs in the same charts.

    Metrics come first, over images shown and over time of training.

    Args:
        run_dirs:   Folders of the runs.
        result_dir: Folder for the page. It is made if it does not exist.

    Returns:
        Path of the page.

    Raises:
        UserError: One of the folders is not that of a run that has made a tick, or the page cannot be written.
    """
    runs = {run_dir: _stats_of_a_run(run_dir) for run_dir in run_dirs}
    names = [os.path.basename(os.path.abspath(run_dir)) for run_dir in runs]
    labels = names if len(set(names)) == len(names) else list(runs)
    stats = list(zip(labels, runs.values()))
    metrics = sorted({tag for _, lines in stats for line in lines for tag in line if tag.startswith(_METRICS)})
    head = ['run', 'kimg', 'time', 'seconds/kimg', *map(_name, metrics)]
    rows = []
    for style, (label, lines) in enumerate(stats):
        last_values = (_last(_points(lines, tag)) for tag in ('Timing/sec_per_kimg', *metrics))
        cells = [f'{lines[-1]["kimg"]:.6g}', _time(lines), *last_values]
        rows.append([f'{swatch(style)} {html.escape(label)}', *map(html.escape, cells)])
    settings = [read_settings(run_dir) for run_dir in runs]
    keys = [key for key in dict.fromkeys(key for s in settings for key in s) if key not in _NAMES_OF_RUN]
    different = [row for row in ((key, *(s.get(key, '') for s in settings)) for key in keys) if len(set(row[1:])) > 1]
    path = os.path.join(result_dir, 'training-curves.html')
    try:
        os.makedirs(result_dir, exist_ok=True)
        page.save(
            path, 'Training curves',
            f'<div class="scroll">{page.table(rows, head, escape=False)}</div>',
            _charts(_charts_of_runs(stats, metrics)),
            page.section('Settings that differ', page.table(different, ['', *labels])))
    except OSError as err:
        raise UserError(f'cannot write {path}: {err.strerror}',
                        'Choose a folder you can write to with --result-dir.') from err
    return path


def _stats_of_a_run(run_dir: str) -> list[dict[str, Any]]:
    """What read_stats returns, or a UserError if there is nothing to plot."""
    try:
        lines = read_stats(run_dir)
    except OSError as err:
        raise UserError(f'--plot: cannot read {err.filename}: {err.strerror}', 'Give folders of runs.') from err
    if not lines:
        raise UserError('--plot: expected the folder of a run that has made a tick, '
                        f'found no stats.jsonl with one in {run_dir}', 'Leave it out, or check its name.')
    return lines


def _charts_of_runs(stats: Sequence[tuple[str, list[dict[str, Any]]]], metrics: Sequence[str]) -> list[str]:
    """Charts with the curves of several runs. `stats`: (label, lines of stats.jsonl) of each run."""
    def figure(title: str, unit: str, tags: Mapping[str, str], x: str = 'kimg') -> str:
        curves = [Curve(f'{label}{name and f", {name}"}', _points(lines, tag, x), style, number > 0)
                  for number, (tag, name) in enumerate(tags.items()) for style, (label, lines) in enumerate(stats)]
        return _figure(title, unit, curves, x, legend=False, pair=[name for name in tags.values() if name])

    time = 'hours' if max(lines[-1]['hours'] for _, lines in stats) >= 2 else 'minutes'
    charts = [figure(_name(tag) + more, _axis(tag), {tag: ''}, x)
              for tag in metrics for x, more in (('kimg', ''), (time, ' over time'))]
    for title, unit, tags in _CHARTS:
        charts.append(figure(title, unit, tags if len(tags) > 1 else {tag: '' for tag in tags}))
    return charts


# ---- Reading the folder of a run ----

def read_stats(run_dir: str) -> list[dict[str, Any]]:
    """Read stats.jsonl.

    Lines that cannot be read are left out, such as the last line of a run that was killed while it wrote it. If a run
    went back to a snapshot, so are the lines beyond that point.

    Args:
        run_dir: Folder of a run.

    Returns:
        The lines as dicts, in order, each with 'kimg', 'hours' and 'minutes'. Empty if there is no such file.

    Raises:
        OSError: The folder does not exist, or the file cannot be read.
    """
    os.listdir(run_dir)  # Raises an error if the folder does not exist.
    path = os.path.join(run_dir, 'stats.jsonl')
    if not os.path.exists(path):
        return []
    lines, hours = [], 0.0
    with open(path, encoding='utf-8', errors='replace') as file:
        for text in file:
            try:
                line = json.loads(text, parse_int=float)  # An int of too many digits would be an error.
            except (ValueError, RecursionError):
                continue
            if not isinstance(line, dict) or not math.isfinite(_number(line.get('kimg'))):
                continue
            while lines and lines[-1]['kimg'] > line['kimg']:
                lines.pop()
            seconds = _number(line.get('seconds'))
            hours = seconds / 3600 if math.isfinite(seconds) else hours  # A line with only metrics has no time.
            lines.append({**line, 'hours': hours, 'minutes': hours * 60})
    return lines


def read_settings(run_dir: str) -> dict[str, str]:
    """Read submit_config.json.

    Args:
        run_dir: Folder of a run.

    Returns:
        Name -> value as text, with dots in the names of nested values; the command line is ready to paste. Empty if the
        file cannot be read.
    """
    try:
        with open(os.path.join(run_dir, 'submit_config.json'), encoding='utf-8') as file:
            config = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(config, dict):
        return {}
    flat: dict[str, str] = {}
    if isinstance(config.get('command_line'), list):
        config['command_line'] = shlex.join(['python', *map(str, config['command_line'])])

    def flatten(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                flatten(f'{prefix}.{key}' if prefix else key, item)
        else:
            flat[prefix.removeprefix('run_func_kwargs.')] = value if isinstance(value, str) else json.dumps(value)

    flatten('', config)
    return flat


def _number(value: Any) -> float:
    """A number of JSON as float; NaN for null and everything else that is not a number."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def _points(lines: Iterable[dict[str, Any]], tag: str, x: str = 'kimg') -> list[tuple[float, float]]:
    return [(float(line[x]), _number(line[tag])) for line in lines if tag in line]


# ---- Snapshots ----

def choose_pictures(names: Iterable[str]) -> list[str]:
    """Choose the grids to show: the reals, the first fakes, and about a dozen of the numbered fakes with the last one.

    It takes every 2nd, 4th, 8th, ... of the numbered ones: as the run goes on, the pictures shown are ones shown
    before, and the last one, which is new.

    Args:
        names: Names of files in the folder of a run.
    """
    names = list(names)
    numbered = sorted((name for name in names if _FAKES.fullmatch(name)), key=_kimg_and_images)
    step = 1
    while len(numbered) / step > _MOST_PICTURES:
        step *= 2
    chosen = numbered[::step] + [name for name in numbered[-1:] if (len(numbered) - 1) % step]
    return [name for name in ('reals.png', 'fakes_init.png') if name in names] + chosen


def picture_title(name: str) -> str:
    """Title in the strip of a grid of `choose_pictures`."""
    if name in ('reals.png', 'fakes_init.png'):
        return 'reals' if name == 'reals.png' else 'start'
    kimg, images = _kimg_and_images(name)
    return f'kimg {kimg}' if images < 0 else f'kimg {kimg}.{images:03d}'


def _kimg_and_images(name: str) -> tuple[int, int]:
    """Numbers in the name of a file of fakes; -1 = there is only the first."""
    match = _FAKES.fullmatch(name)
    assert match is not None
    return int(match[1]), int(match[2] or -1)


def first_images(path: str, resolution: int | None = None) -> Image.Image:
    """The first images of a grid, at most 16, in one row.

    Args:
        path:       File of the grid.
        resolution: Resolution of its images. None = return the whole grid.

    Raises:
        OSError, ValueError or SyntaxError: The file is not a picture.
    """
    import PIL.Image  # Imported late, so that `run_training.py --help` does not wait for it.
    with PIL.Image.open(path) as grid:
        row = grid.convert('RGB')
    if resolution is not None and resolution <= min(row.size):
        columns, rows = row.width // resolution, row.height // resolution
        corners = [(x * resolution, y * resolution) for y in range(rows) for x in range(columns)][:_COLUMNS]
        grid, row = row, PIL.Image.new('RGB', (len(corners) * resolution, resolution))
        for number, (x, y) in enumerate(corners):
            row.paste(grid.crop((x, y, x + resolution, y + resolution)), (number * resolution, 0))
    if row.width > _STRIP_WIDTH:
        size = _STRIP_WIDTH, max(round(row.height * _STRIP_WIDTH / row.width), 1)
        row = row.resize(size, PIL.Image.Resampling.LANCZOS)
    return row


def strip(rows: Iterable[tuple[str, str | None]]) -> str:
    """HTML of pictures below each other, with their titles.

    Args:
        rows: (title, HTML of the picture) of each. Pictures that are None are left out.

    Returns:
        HTML; '' if there is nothing to show.
    """
    return page.table([(html.escape(title), picture) for title, picture in rows if picture is not None],
                      escape=False, kind='strip')


# ---- Pieces of a page ----

def _charts(figures: Iterable[str]) -> str:
    figures = [figure for figure in figures if figure]
    return '<div class="charts">\n' + '\n'.join(figures) + '\n</div>' if figures else ''


def _figure(title: str, unit: str, curves: Sequence[Curve], x: str = 'kimg', legend: bool = True,
            pair: Sequence[str] = ()) -> str:
    """A chart with its title and the last value of each curve; '' if there is nothing to show.

    Args:
        title:  Title of the chart.
        unit:   Unit of its vertical axis.
        curves: Curves to draw.
        x:      Key of _AXES.
        legend: Name the curves?
        pair:   Names of the solid and of the dotted lines, if each run has both.
    """
    values = [y for curve in curves for _, y in curve.points if math.isfinite(y)]
    top = _SLOW * statistics.median_low(values) if title == 'Speed' and values else math.inf
    picture = chart(curves, _AXES[x], unit, top)
    if not picture:
        return ''
    shown = [curve for curve in curves if curve.points]
    caption = ''.join(f'<span>{swatch(curve.style)} {html.escape(curve.label)} {_last(curve.points)}</span>'
                      for curve in shown if legend)
    if len(pair) == 2:
        caption += f'<span class="soft">{html.escape(pair[0])}: lines; {html.escape(pair[1])}: dots</span>'
    slow = sum(y > top for y in values)
    if slow:
        caption += (f'<span class="soft">▲ {slow} tick{"s" * (slow > 1)} of up to {max(values):.4g}, '
                    'with compilation</span>')
    lost = sum(not math.isfinite(y) for curve in shown for _, y in curve.points)
    caption += f'<span class="soft">(values that are not finite: {lost})</span>' if lost else ''
    return f'<figure><figcaption><b>{html.escape(title)}</b>{caption}</figcaption>\n{picture}\n</figure>'


def _progress(lines: Sequence[dict[str, Any]], settings: Mapping[str, str], metrics: Sequence[str]) -> str:
    """Tiles with the progress of the run and its last values."""
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
        per_second = f'<span class="soft">{1000 / speed:.4g} images per second</span>'
        facts.append(('speed', f'{speed:.4g} s/kimg', per_second))
    for tag in metrics:
        points = [point for point in _points(lines, tag) if math.isfinite(point[1])]
        if points:
            facts.append((_name(tag), f'{points[-1][1]:.4g}', f'<span class="soft">{_direction(tag)}</span>'))
    return page.tiles(facts)


def _settings(settings: Mapping[str, str]) -> str:
    """The most important settings in words, and all settings, with their names in submit_config.json, folded away."""
    if not settings:
        return '<p>There is no submit_config.json that can be read.</p>'
    words = [(what, form.format(*(settings[key].removesuffix('.0').removeprefix('training.loss.') for key in keys)))
             for what, keys, form in _IN_WORDS if all(key in settings for key in keys)]
    return (f'<div class="columns">{page.table(words, kind="words")}</div>\n'
            '<details><summary>All settings, as in submit_config.json</summary>\n'
            f'<div class="columns">{page.table(settings.items())}</div></details>')


def _name(tag: str) -> str:
    return tag.removeprefix(_METRICS)


def _direction(tag: str) -> str:
    """Says whether less or more of a metric is better; '' if that is not known."""
    name = _name(tag)
    if name.startswith(('fid', 'fd_', 'kid', 'ppl', 'ls')):
        return 'less is better'
    return 'more is better' if name.startswith(('is', 'pr')) and not name.endswith('_std') else ''


def _axis(tag: str) -> str:
    return ', '.join(filter(None, [_name(tag), _direction(tag)]))


def _last(points: Sequence[tuple[float, float]]) -> str:
    return f'{points[-1][1]:.4g}' if points else ''


def _time(lines: Sequence[dict[str, Any]]) -> str:
    return format_time(lines[-1]['hours'] * 3600)
