"""report.html and training-curves.html: what is in them, that they need nothing else, and how a browser shows them."""

import base64
import html.parser
import io
import json
import math
import re
import shutil
import subprocess

import numpy as np
import PIL.Image
import pytest

import run_training
from dnnlib.cli import UserError
from tests.training.test_training_loop import data_dir  # noqa: F401  A fixture.
from training import configs
from training.run import charts, report
from training.run.snapshot import tolerate_write_errors

HOSTILE = '<script>document.title = "broken"</script><img src="https://example.com/x.png"> "quoted" & \'more\''


def make_run(folder, stats=(), snapshots=(), settings=None, resolution=16):
    """Folder of a run, made of lines of stats.jsonl (dicts or text), names of grids of 4x2 images, and settings."""
    folder.mkdir(parents=True)
    lines = [line if isinstance(line, str) else json.dumps(line) + '\n' for line in stats]
    (folder / 'stats.jsonl').write_text(''.join(lines))
    for number, name in enumerate(snapshots):
        grid = np.full([2 * resolution, 4 * resolution, 3], [0, 20 * number, 200], np.uint8)
        grid[:resolution, :resolution] = [250, 0, 0]  # the first image; the second row is the same without it
        PIL.Image.fromarray(grid).save(folder / name)
    if settings is not None:
        (folder / 'submit_config.json').write_text(json.dumps(settings))
    return folder


def tick(kimg, **tags):
    return {'tick': kimg, 'kimg': float(kimg), 'seconds': 3600.0 * kimg,
            **{tag.replace('__', '/'): value for tag, value in tags.items()}}


def saved(folder, resolution=16):
    report.Report(str(folder), resolution).save()
    return (folder / 'report.html').read_text()


def polylines(page, title):
    """Coordinates of each polyline in the chart of this title."""
    figure = next(figure for figure in re.findall(r'<figure>.*?</figure>', page, re.S) if f'<b>{title}</b>' in figure)
    return [np.array([pair.split(',') for pair in points.split()], float)
            for points in re.findall(r'<polyline points="(.*?)"', figure)]


def pictures(page):
    data = re.findall(r'src="data:image/(?:png|jpeg);base64,(.*?)"', page)
    return [PIL.Image.open(io.BytesIO(base64.b64decode(text))) for text in data]


# ---- Curves ----

def test_values_are_points(tmp_path):
    folder = make_run(tmp_path / 'run',
                      [tick(kimg, Loss__G__loss=kimg + 1, Loss__D__loss=2.5, Loss__pl_lengths=10.0 ** kimg)
                       for kimg in (0, 1, 3)])
    page = saved(folder)
    rising, flat = polylines(page, 'Loss')
    assert len(rising) == 3 and np.all(np.diff(flat[:, 1]) == 0) and np.array_equal(rising[:, 0], flat[:, 0])
    np.testing.assert_allclose(np.diff(rising[:, 0])[1] / np.diff(rising[:, 0])[0], 2, rtol=0.01)  # kimg 0, 1, 3
    np.testing.assert_allclose(np.diff(rising[:, 1])[1] / np.diff(rising[:, 1])[0], 2, rtol=0.01)  # loss 1, 2, 4 ...
    assert np.all(np.diff(rising[:, 1]) < 0)                                                       # ... upwards
    assert 'generator: 4 at 3</title>' in page and 'discriminator 2.5</span>' in page
    exponential, = polylines(page, 'Path length')  # 1, 10, 1000: a logarithmic axis
    np.testing.assert_allclose(np.diff(exponential[:, 1])[1] / np.diff(exponential[:, 1])[0], 2, rtol=0.01)
    assert '<b>3</b>' in page and '<span class="soft">trained for</span><b>3h 00m 00s</b>' in page
    assert 'path length, logarithmic</text>' in page
    assert 'loss</text>' in page
    assert 'kimg (thousands of images shown)</text>' in page


def test_augmentation_and_overfitting_share_a_chart(tmp_path):
    folder = make_run(tmp_path / 'run', [
        tick(kimg, Progress__augment=kimg / 10, Loss__signs__real=0.6) for kimg in (0, 1, 2)],
        settings={'run_func_kwargs': {'augpipe': 'bgc', 'ada_target': 0.6}})
    page = saved(folder)
    assert len(polylines(page, 'Overfitting')) == 2 and 'augmentation p 0.2</span>' in page
    assert '<td>augmentation</td><td>bgc</td>' in page


def test_round_numbers_stand_where_their_values_are():
    text = charts.chart([charts.Curve('c', [(0.0, 0.0), (50.0, 40.0), (100.0, 100.0)], 0)], 'kimg')
    ticks = {label: float(y) - 3.5 for y, label in re.findall(r'y="([\d.]+)" text-anchor="end">(.*?)<', text)}
    points = re.search(r'polyline points="(.*?)"', text)[1].split()
    assert {'0', '40', '100'} <= set(ticks)
    for label, point in zip(('0', '40', '100'), points):
        assert float(point.split(',')[1]) == pytest.approx(ticks[label], abs=0.2)


@pytest.mark.parametrize('low, high', [(0.0, 0.0), (5.0, 5.0), (-3.0, 7e8), (1e-9, 2e-9), (1e-8, 1e8), (1.0, 31.0)])
def test_every_range_has_some_round_numbers(low, high):
    text = charts.chart([charts.Curve('c', [(0.0, low), (1.0, high)], 0)], 'kimg')
    assert 2 <= len(re.findall('text-anchor="end"', text)) <= 12 and 'nan' not in text and 'inf' not in text


def test_what_is_not_finite_is_a_gap_and_is_counted(tmp_path):
    values = [1.0, 2.0, None, math.nan, 3.0, math.inf, 2.0, 1.0]
    folder = make_run(tmp_path / 'run', [tick(kimg, Loss__scores__fake=value) for kimg, value in enumerate(values)])
    page = saved(folder)
    assert [len(line) for line in polylines(page, 'Scores')] == [2, 2]
    # The single value between two gaps is a dot.
    assert page.count('<circle') == 5 and 'values that are not finite: 3' in page
    nothing = make_run(tmp_path / 'nothing', [tick(0, Loss__scores__fake=None)])
    assert '<b>Scores</b>' not in saved(nothing)


def test_damaged_lines_are_left_out(tmp_path):
    lines = [tick(0, Loss__G__loss=1.0), 'no JSON\n', '[1, 2]\n', '{"kimg": null, "Loss/G/loss": 7}\n',
             '{"kimg": 1' + '0' * 400 + '}\n', tick(1, Loss__G__loss='text'), tick(2, Loss__G__loss=1.5),
             '{"tick": 3, "kimg": 3.0, "Loss/G/lo']
    folder = make_run(tmp_path / 'run', lines)
    assert [line['kimg'] for line in report.read_stats(folder)] == [0, 1, 2]
    assert '<b>2</b>' in saved(folder)


def test_a_run_that_went_back_goes_on_from_there(tmp_path):
    folder = make_run(tmp_path / 'run', [tick(kimg, Loss__G__loss=9.0) for kimg in (0, 4, 8, 12)]
                      + [tick(kimg, Loss__G__loss=1.0) for kimg in (6, 10)])
    losses = [(line['kimg'], line['Loss/G/loss']) for line in report.read_stats(folder)]
    assert losses == [(0, 9), (4, 9), (6, 1), (10, 1)]


def test_metrics_have_charts_of_their_own_before_the_others(tmp_path):
    """In the line of a tick or in one of their own."""
    folder = make_run(tmp_path / 'run', [tick(0, Loss__G__loss=1.0, Metrics__fid50k=300.0), tick(1, Loss__G__loss=1.0),
                                         {'kimg': 1.0, 'Metrics/fid50k': 20.0, 'Metrics/pr50k3_precision': 0.25}])
    page = saved(folder)
    assert 'fid50k, less is better</text>' in page and 'pr50k3_precision, more is better</text>' in page
    assert page.index('<b>fid50k</b>') < page.index('<b>pr50k3_precision</b>') < page.index('<b>Loss</b>')
    assert 'value: 20 at 1</title>' in page and len(polylines(page, 'fid50k')[0]) == 2


def test_a_long_run_is_thinned_out_and_its_extremes_stay(tmp_path):
    points = [(float(i), math.nan if i % 1000 == 7 else 1.0) for i in range(10000)]
    points[4321], points[-1] = (4321.0, 99.0), (9999.0, 5.0)
    thin = charts.thin_out(points)
    assert len(thin) <= 401 and points[4321] in thin and thin[-1] == points[-1] and thin == sorted(thin)
    tags = [tag for _, _, curves in report._CHARTS for tag in curves]
    folder = make_run(tmp_path / 'run',
                      [tick(kimg, **{tag.replace('/', '__'): math.sin(kimg) for tag in tags}) for kimg in range(6250)])
    assert len(saved(folder)) < 200_000


# ---- Snapshots and settings ----

def test_a_tick_that_compiles_does_not_flatten_the_chart_of_speed(tmp_path):
    seconds = [450.0, 30.0, 31.0, 33.0, 30.0, 120.0, 32.0, 30.0]
    page = saved(make_run(tmp_path / 'run',
                          [tick(kimg, Timing__sec_per_kimg=value) for kimg, value in enumerate(seconds)]))
    before, after = polylines(page, 'Speed')
    assert [len(before), len(after)] == [4, 2] and np.ptp(before[:, 1]) > 100  # 30 to 33 fill the height of the chart.
    assert page.count('<polygon') == 2
    assert 'training: 450 at 0</title></polygon>' in page
    assert '2 ticks of up to 450' in page
    assert '<b>31 s/kimg</b>' in page and '32.26 images per second' in page


def test_two_ticks_of_which_one_compiled(tmp_path):
    page = saved(make_run(tmp_path / 'run', [tick(0, Timing__sec_per_kimg=2313.0), tick(1, Timing__sec_per_kimg=66.0)]))
    assert '<b>66 s/kimg</b>' in page and '1 tick of up to 2313, with compilation' in page


def test_time_left(tmp_path):
    folder = make_run(tmp_path / 'run', [tick(1, Timing__left_sec=7200.0)],
                      settings={'total_kimg': 60.0, 'max_minutes': 5})
    page = saved(folder)
    assert '<b>1 of at most 60</b><progress value="0.3333">' in page and '<b>about 2h 00m 00s</b>' in page
    (folder / 'stats.jsonl').write_text(json.dumps(tick(2, Timing__left_sec=0.0)))
    assert '<b>finished</b>' in saved(folder)


def test_settings_in_words_and_the_command_to_paste(tmp_path):
    settings = {'command_line': ['run_training.py', '--result-dir=my results'], 'num_gpus': 2, 'run_func_kwargs': {
        'G_loss_args': {'func_name': 'training.loss.G_logistic_ns'},
        'D_loss_args': {'func_name': 'training.loss.D_logistic_r1', 'gamma': 3.0}}}
    page = saved(make_run(tmp_path / 'run', [tick(0)], settings=settings))
    assert 'python run_training.py &#x27;--result-dir=my results&#x27;</pre>' in page
    for row in (('losses', 'G_logistic_ns, D_logistic_r1'), ('weight of R1 (gamma)', '3'), ('devices', '2')):
        assert '<tr><td>{}</td><td>{}</td></tr>'.format(*row) in page


def test_the_strip_shows_the_first_images_of_the_grids(tmp_path):
    names = ['reals.png', 'fakes_init.png', 'fakes000000.png', 'fakes000010.png']
    folder = make_run(tmp_path / 'run', [tick(0)], names)
    page = saved(folder)
    shown = pictures(page)
    assert re.findall(r'alt="(.*?)"', page) == names
    assert all(picture.size == (128, 16) for picture in shown)  # 8 images, of both rows
    for number, picture in enumerate(shown):
        assert picture.getpixel((8, 8)) == (250, 0, 0) and picture.getpixel((40, 8)) == (0, 20 * number, 200)
    # Where the size of an image is not known, all of it.
    assert pictures(saved(folder, resolution=None))[0].size == (64, 32)


def test_large_images_are_scaled_to_the_page(tmp_path):
    shown, = pictures(saved(make_run(tmp_path / 'run', [tick(0)], ['reals.png'], resolution=256), resolution=256))
    assert shown.size == (1600, 200) and shown.format == 'JPEG'
    np.testing.assert_allclose(shown.getpixel((100, 100)), [250, 0, 0], atol=6)
    np.testing.assert_allclose(shown.getpixel((300, 100)), [0, 0, 200], atol=6)


def test_the_strip_stays_short_and_no_grid_is_scaled_twice(tmp_path, monkeypatch):
    scaled, scale = [], report.first_images
    monkeypatch.setattr(report, 'first_images', lambda path, resolution: scaled.append(path) or scale(path, resolution))
    folder = make_run(tmp_path / 'run', [tick(0)], ['reals.png', 'fakes_init.png'])
    growing = report.Report(str(folder), 16)
    for number in range(60):
        shutil.copy(folder / 'reals.png', folder / f'fakes{number:06d}.png')
        growing.save()
    shown = re.findall(r'alt="(.*?)"', (folder / 'report.html').read_text())
    assert 10 <= len(shown) <= 15
    assert shown[:3] == ['reals.png', 'fakes_init.png', 'fakes000000.png']
    assert shown[-1] == 'fakes000059.png'
    assert report.choose_pictures(['fakes000001_5.png', 'fakes000001_500.png', 'fakes000001.png', 'fakes000000_064.png']
                                  ) == ['fakes000000_064.png', 'fakes000001.png', 'fakes000001_500.png']
    assert [report.picture_title(name) for name in ('fakes000001.png', 'fakes000001_000.png', 'fakes000000_064.png')
            ] == ['kimg 1', 'kimg 1.000', 'kimg 0.064']
    assert len(scaled) == len(set(scaled)) == 62


def test_a_damaged_picture_is_left_out(tmp_path):
    folder = make_run(tmp_path / 'run', [tick(0)], ['reals.png', 'fakes000000.png'])
    data = (folder / 'reals.png').read_bytes()
    for name, damaged in {'fakes_init.png': b'', 'fakes000001.png': b'no picture', 'fakes000002.png': data[:60],
                          'fakes000003.png': data[:40] + b'\0' * 30 + data[70:]}.items():
        (folder / name).write_bytes(damaged)
    (folder / 'fakes000004.png').mkdir()
    assert re.findall(r'alt="(.*?)"', saved(folder)) == ['reals.png', 'fakes000000.png']


def test_settings_are_listed_and_escaped(tmp_path):
    settings = {'run_name': HOSTILE, HOSTILE: 1,
                'run_func_kwargs': {'total_kimg': 60.0, 'G_args': {'fmap_base': 1024, 'x': None},
                                    'D_args': {}, 'list': [1, 2]}}
    page = saved(make_run(tmp_path / 'run', [tick(12, **{f'Metrics__{HOSTILE}': 1.0})], settings=settings))
    for name, value in {'G_args.fmap_base': '1024', 'G_args.x': 'null', 'D_args': '{}', 'list': '[1, 2]',
                        'total_kimg': '60.0'}.items():
        assert f'<tr><td>{name}</td><td>{value}</td></tr>' in page
    assert '<b>12 of 60</b>' in page
    assert page.count('&lt;script&gt;') >= 3 and '<script' not in page and 'example.com/x.png">' not in page
    check_self_contained(page)


def check_self_contained(page):
    """Nothing is fetched, nothing is executed: no scripts, no handlers, no addresses but of embedded data."""
    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert tag not in ('script', 'link', 'iframe', 'object', 'embed', 'a', 'base'), tag
            for name, value in attrs:
                assert not name.startswith('on'), name
                assert name not in ('href', 'xlink:href', 'srcset', 'data', 'action'), name
                assert name != 'src' or value.startswith('data:'), name
    Parser().feed(page)
    style = re.search(r'<style>(.*?)</style>', page, re.S)[1]
    assert 'url(' not in style and '@import' not in style


def test_a_folder_with_next_to_nothing_in_it(tmp_path):
    folder = tmp_path / 'just-begun'
    folder.mkdir()
    page = saved(folder)
    assert 'No tick yet' in page and 'no submit_config.json' in page
    (folder / 'submit_config.json').write_text('{"run_desc": ')
    assert 'no submit_config.json' in saved(folder)
    check_self_contained(page)


def test_it_appears_whole_or_not_at_all(tmp_path, monkeypatch, capsys):
    folder = make_run(tmp_path / 'run', [tick(0, Loss__G__loss=1.0)])
    before = saved(folder)
    monkeypatch.setattr(report, '_settings', lambda *args: 1 / 0)
    with tolerate_write_errors('report.html', Exception):
        saved(folder)
    assert capsys.readouterr().out == 'Note: report.html was not written: division by zero\n'
    assert (folder / 'report.html').read_text() == before


@pytest.mark.slow
def test_a_report_that_fails_does_not_cost_the_run(data_dir, tmp_path, monkeypatch, capsys):  # noqa: F811
    from training import training_loop

    def fail(self):
        raise KeyError('a mistake')
    monkeypatch.setattr(report.Report, 'save', fail)
    run = configs.training_run('tiny', data_dir=str(data_dir), minibatch_size=4, minibatch_gpu=4, fmap_base=32,
                               fmap_max=4, latent_size=8, mapping_layers=1, total_kimg=0.016, G_loss='G_logistic_ns',
                               D_loss='D_logistic')
    training_loop.training_loop(run_dir=str(tmp_path), **run.run_func_kwargs)
    assert 'report.html was not written' in capsys.readouterr().out and (tmp_path / 'network-final.pkl').exists()


# ---- Several runs ----

def two_runs(tmp_path):
    return [str(make_run(tmp_path / name,
                         [tick(kimg, Loss__G__loss=1.0 + kimg * slope, Metrics__fid50k=200.0 - kimg * slope,
                               Loss__scores__real=slope, Loss__scores__fake=-slope,
                               Timing__sec_per_kimg=3600.0 / slope) for kimg in range(5)],
                         settings={'run_name': name, 'run_func_kwargs': {'gamma': slope, 'seed': 1000}}))
            for name, slope in (('00000-one', 1), ('00001-two', 2))]


def test_runs_are_compared_in_one_chart_each(tmp_path, capsys):
    run_training.main(['--plot', *two_runs(tmp_path), f'--result-dir={tmp_path / "new" / "results"}'])
    path = tmp_path / 'new' / 'results' / 'training-curves.html'
    assert capsys.readouterr().out == f'Written: {path}\n'
    page = path.read_text()
    first, second = polylines(page, 'fid50k')
    assert np.array_equal(first[:, 0], second[:, 0]) and first[-1, 1] < second[-1, 1]  # 196 is above 192
    assert len(polylines(page, 'fid50k over time')) == 2 and page.index('<b>fid50k') < page.index('<b>Loss')
    assert 'hours of training</text>' in page
    reals_and_fakes = polylines(page, 'Scores')
    assert len(reals_and_fakes) == 4 and 'reals: lines; fakes: dots' in page
    for cells in (['00000-one', '4', '4h 00m 00s', '3600', '196'], ['00001-two', '4', '4h 00m 00s', '1800', '192']):
        assert re.search('<td>' + r' ?</td><td>'.join([r'<svg.*?</svg> ' + cells[0], *cells[1:]]) + '</td>', page)
    assert '<tr><td>gamma</td><td>1</td><td>2</td></tr>' in page
    assert '<td>seed</td>' not in page
    assert '<td>run_name</td>' not in page
    check_self_contained(page)


def test_runs_of_one_name_go_by_their_paths(tmp_path):
    folders = [str(make_run(tmp_path / place / HOSTILE.replace('/', '-'), [tick(0, Loss__G__loss=1.0)]))
               for place in 'ab']
    page = open(report.compare([*folders, folders[0]], str(tmp_path))).read()
    assert page.count('<td><svg') == 2 and '/a/&lt;script&gt;' in page
    check_self_contained(page)


def test_more_runs_than_colours_differ_in_their_dashes():
    styles = {charts.swatch(style) for style in range(24)}
    assert len(styles) == 24


@pytest.mark.parametrize('make, expected', [
    (lambda path: None, 'No such file or directory'),
    (lambda path: path.write_text(''), 'Not a directory'),
    (lambda path: path.mkdir(), 'has made a tick'),
    (lambda path: make_run(path, ['damaged']), 'has made a tick')])
def test_what_is_no_run_is_named(tmp_path, make, expected):
    make(tmp_path / 'odd')
    good = str(make_run(tmp_path / 'good', [tick(0)]))
    with pytest.raises(UserError, match=expected) as caught:
        run_training.main(['--plot', good, str(tmp_path / 'odd'), f'--result-dir={tmp_path}'])
    assert str(tmp_path / 'odd') in caught.value.fact and not (tmp_path / 'training-curves.html').exists()


def test_without_plot_a_dataset_is_required(capsys):
    with pytest.raises(SystemExit) as caught:
        run_training.main([])
    assert caught.value.code == 2 and 'required: --dataset' in capsys.readouterr().err


# ---- In a browser ----

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium: apt-get install chromium')


def in_browser(page, tmp_path, *flags):
    """What headless Chromium prints (stdout, stderr) when it opens a page."""
    done = subprocess.run(
        [CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-background-networking', '--disable-component-update', '--disable-sync',
         f'--user-data-dir={tmp_path / "profile"}', '--enable-logging=stderr', '--window-size=1400,1400',
         '--hide-scrollbars', *flags, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def screenshot(page, tmp_path):
    """Pixels uint8 [H, W, 3] of a page, after a look at what the browser has to complain of."""
    _, messages = in_browser(page, tmp_path, f'--screenshot={tmp_path / "page.png"}')
    assert 'CONSOLE' not in messages, messages
    with PIL.Image.open(tmp_path / 'page.png') as image:
        return np.asarray(image.convert('RGB'))


def count_color(pixels, color):
    """Pixels of a colour such as '#0072b2', exactly."""
    return int(np.all(pixels == [int(color[i:i + 2], 16) for i in (1, 3, 5)], axis=2).sum())


@needs_chromium
def test_a_browser_shows_the_report(tmp_path):
    stats = [tick(kimg, Loss__G__loss=1 + math.sin(kimg), Loss__D__loss=1 + math.cos(kimg),
                  Metrics__fid50k=300.0 / (kimg + 1))
             for kimg in range(20)]
    folder = make_run(tmp_path / 'run', stats, ['reals.png', 'fakes000000.png'], settings={'run_name': HOSTILE})
    saved(folder)
    pixels = screenshot(folder / 'report.html', tmp_path)
    assert count_color(pixels, charts.COLORS[0]) > 500 and count_color(pixels, charts.COLORS[1]) > 250
    assert count_color(pixels, charts.COLORS[2]) == 0  # no third curve in any chart
    red = (pixels[..., 0] > 230) & (pixels[..., 1:].max(axis=2) < 30)
    assert red.sum() > 2 * 140 * 140  # the first image of both grids, an eighth of the page wide
    dom, _ = in_browser(folder / 'report.html', tmp_path, '--dump-dom')
    assert '<title>run</title>' in dom and dom.count('<polyline') == 3 and '<script' not in dom


@needs_chromium
def test_a_browser_shows_the_comparison(tmp_path):
    path = report.compare(two_runs(tmp_path), str(tmp_path))
    pixels = screenshot(type(tmp_path)(path), tmp_path)
    assert all(count_color(pixels, color) > 250 for color in charts.COLORS[:2])


@needs_chromium
def test_the_browser_would_complain(tmp_path):
    """The two tests above would notice errors, and the policy of the page prevents scripts from running."""
    page = saved(make_run(tmp_path / 'run', [tick(0)])).replace('</body>', f'{HOSTILE}</body>')
    (tmp_path / 'bad.html').write_text(page)
    dom, messages = in_browser(tmp_path / 'bad.html', tmp_path, '--dump-dom')
    assert 'CONSOLE' in messages and '<title>run</title>' in dom
