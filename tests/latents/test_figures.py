"""The command figures, and what it draws of StyleGAN2's paper."""

import html.parser
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import pretrained_networks
import run_generator
from custom_ops import conv2d as conv
from dnnlib import cli
from latents import figures, figures_stylegan2, options, pictures
from metrics.metric_defaults import metric_defaults
from metrics.perceptual_path_length import PPL
from metrics.sampling import SampleSource
from tests.full_disk import disk_full_for
from tests.latents.networks import generator
from tests.latents.test_film import no_network, refused  # noqa: F401
from tests.stub_networks import stub_networks  # noqa: F401
from training import misc
from training.nets.layers import modulate
from training.run import charts


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Function that makes a generator the one that all commands load."""
    monkeypatch.chdir(tmp_path)

    def make(kind, **settings):
        Gs = generator(kind, **settings)
        monkeypatch.setattr(pretrained_networks, 'load_networks', lambda path: (None, None, Gs))
        return Gs
    return make


def run(tmp_path, *flags):
    """Run the command, and return its folder."""
    run_generator.main(['figures', '--network=net.pkl', '--result-dir=results', *flags])
    return max((tmp_path / 'results').iterdir())


# ---- All of them ----

@pytest.mark.parametrize('kind, settings, flags, missing', [
    ('config-a', {}, [], {'resolutions'}),
    ('config-a', dict(use_styles=False, const_input_layer=False, use_noise=False, mapping_layers=0),
     [], {'style-mixing', 'noise-detail', 'noise-components', 'resolutions'}),
    ('config-d', dict(num_channels=1), ['--precision=bfloat16'], {'resolutions'}),
    ('msg', dict(resolution=8), ['--figures=uncurated,style-mixing,noise-detail,droplets,resolutions'],
     {'resolutions'}),
    ('ada', dict(resolution=4, use_noise=False), ['--class=1', '--truncation-psi=0.7'],
     {'noise-detail', 'noise-components', 'path-length'}),
    ('config-f', {}, ['--seeds=3'], set()),
])
def test_every_generator_has_its_figures(kind, settings, flags, missing, load, stub_networks,  # noqa: F811
                                         tmp_path, capsys):
    load(kind, **settings)
    folder = run(tmp_path, '--num-samples=10', *flags)
    drawn = {path.stem for path in folder.glob('*.png')} | {path.stem for path in folder.glob('*.svg')}
    wanted = next((flag.split('=')[1].split(',') for flag in flags if flag.startswith('--figures=')), options.FIGURES)
    assert drawn == set(wanted) - missing
    out = capsys.readouterr().out
    assert {line.split(':')[0] for line in out.splitlines() if 'left out: ' in line} == missing
    assert f'Wrote {folder / "figures.html"}'.replace(str(tmp_path) + '/', '') in out


class Page(html.parser.HTMLParser):
    """Collects headings, links and the addresses of pictures of a page."""

    def __init__(self, text):
        super().__init__()
        self.headings, self.links, self.pictures, self._is_heading = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._is_heading = tag == 'h2'
        self.links += [value for name, value in attrs if tag == 'a' and name == 'href']
        self.pictures += [value for name, value in attrs if name == 'src']

    def handle_data(self, data):
        if self._is_heading:
            self.headings.append(data)
        self._is_heading = False


def test_the_page_has_all_pictures_inside_and_leads_to_the_files(load, tmp_path):
    load('config-a')
    folder = run(tmp_path, '--figures=uncurated,truncation-trick,resolutions')
    text = (folder / 'figures.html').read_text()
    page = Page(text)
    assert page.headings == ['Uncurated pictures', 'Truncation', 'Left out', 'Command']
    assert page.links == ['uncurated.png', 'truncation-trick.png']
    assert len(page.pictures) == 2 and all(address.startswith('data:image/png') for address in page.pictures)
    assert 'truncated with psi = 0.7' in text and 'does not sum RGB images' in text


def test_large_pictures_are_smaller_on_the_page(load, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, '_PAGE_WIDTH', 40)
    load('config-a')
    folder = run(tmp_path, '--figures=truncation-trick')
    with Image.open(folder / 'truncation-trick.png') as picture:
        assert picture.size == (96, 32)
    assert 'max-width: 40px' in (folder / 'figures.html').read_text()


def test_seeds_and_the_same_command_again(load, tmp_path):
    load('config-f')
    flags = ['--figures=uncurated,noise-detail,noise-components,truncation-trick,droplets', '--num-samples=10']
    first, again, other = run(tmp_path, *flags), run(tmp_path, *flags), run(tmp_path, *flags, '--seeds=5,6,7')
    for path in first.glob('*.png'):
        assert path.read_bytes() == (again / path.name).read_bytes()
        assert (path.read_bytes() == (other / path.name).read_bytes()) == (path.stem == 'uncurated')
    for name, rows in (('truncation-trick', 3 * 16), ('noise-detail', 3 * 16), ('noise-components', 2 * 16)):
        with Image.open(other / f'{name}.png') as picture:
            assert picture.height == rows


def test_without_the_weights_of_lpips_the_others_are_drawn(load, stub_networks, tmp_path, capsys):  # noqa: F811
    load('config-f')
    del stub_networks['lpips']
    folder = run(tmp_path, '--figures=truncation-trick,path-length')
    assert 'path-length: left out: lpips: the weights are not there. Get them.' in capsys.readouterr().out
    assert [path.name for path in folder.glob('*.png')] == ['truncation-trick.png']
    with pytest.raises(cli.UserError, match='no path-length: lpips: the weights are not there'):
        run(tmp_path, '--figures=path-length')
    assert len(list((tmp_path / 'results').iterdir())) == 1


@pytest.mark.parametrize('name', ['truncation-trick.png', 'resolutions.svg', 'figures.html'])
def test_a_full_disk_is_one_line(load, tmp_path, name):
    load('config-f')
    with disk_full_for(lambda target: target.endswith(name)), pytest.raises(
            cli.UserError, match=f'{name}: cannot be written: No space left'):
        run(tmp_path, '--figures=truncation-trick,resolutions', '--num-samples=10')
    assert not list(tmp_path.glob(f'**/{name}'))


# ---- Activations ----

def layers_by_hand(Gs, z):
    """Outputs of the layers at 4x4 and 8x8 of a generator with skips, called one by one, as arrays [N, C, H, W]."""
    synthesis = Gs.components.synthesis
    w = tf.constant(pictures.w_of(Gs, z))
    noises = [tf.convert_to_tensor(var) for var in misc.noise_variables(Gs)]

    def styled(scope, x, index, *noise):
        layer = synthesis.layer(scope)
        (style, demodulation), = modulate([layer], [w[:, index]], [tf.float32])
        return layer(x, style, demodulation, *noise)

    x4 = styled('4x4/Conv', synthesis.layer('4x4/Const')(w), 0, noises[0])
    x8 = styled('8x8/Conv1', styled('8x8/Conv0_up', x4, 1, noises[1]), 2, noises[2])
    rgbs = styled('4x4/ToRGB', x4, 1), styled('8x8/ToRGB', x8, 3)
    return [conv.to_nchw(x).numpy() for x in (x4, x8, *rgbs)]


def test_norms_are_those_of_the_feature_maps():
    Gs = generator('config-f', resolution=8)
    z = np.random.RandomState(1).randn(3, 6)
    images, norms = figures_stylegan2.feature_norms(Gs, psi=1.0)(z)
    np.testing.assert_array_equal(
        images, Gs.run(z, None, truncation_psi=1.0, randomize_noise=False, **pictures.picture_kwargs()))
    assert list(norms) == [4, 8]
    for norm, x in zip(norms.values(), layers_by_hand(Gs, z)):
        np.testing.assert_allclose(norm, np.sqrt(np.mean(x ** 2, axis=1)), rtol=1e-4)


def test_a_droplet_is_seen_where_it_is():
    Gs = generator('config-f')
    noise = np.zeros([1, 1, 16, 16], np.float32)
    noise[0, 0, 3, 12] = 1e4
    Gs.set_var('G_synthesis/noise4', noise)  # That of 16x16/Conv1.
    Gs.set_var('G_synthesis/16x16/Conv1/noise_strength', 1)
    _, norms = figures_stylegan2.feature_norms(Gs)(np.zeros([1, 6]))
    assert np.unravel_index(norms[16][0].argmax(), (16, 16)) == (3, 12)
    cell, gap, line = figures_stylegan2._CELL, figures_stylegan2._GAP, figures_stylegan2._LINE
    sheet = np.asarray(figures_stylegan2.droplets(Gs, [0, 1]).convert('L'), int)
    last = sheet[line:line + cell, 3 * (cell + gap):]  # Of 4x4, 8x8 and 16x16, in the first row.
    assert last.shape == (cell, cell) and sheet.shape[0] == 2 * (cell + 2 * line)
    assert (last[3 * 8:4 * 8, 12 * 8:13 * 8] == 255).all() and (last == 255).sum() == 64


def test_a_growing_generator_shows_what_has_grown():
    Gs = generator('config-a')
    Gs.set_var('lod', 1)
    Gs.set_var('G_synthesis/lod', 1)
    images, norms = figures_stylegan2.feature_norms(Gs)(np.zeros([1, 6]))
    assert list(norms) == [4, 8] and images.shape == (1, 16, 16, 3)


# ---- Resolutions ----

def test_shares_are_the_standard_deviations_of_the_rgb_layers():
    Gs = generator('config-f', resolution=8)
    found = figures_stylegan2.contributions(Gs, 10)()
    z = np.random.RandomState(0).randn(10, 6)
    stds = [np.sqrt(np.mean(np.var(rgb, axis=(0, 2, 3)))) for rgb in layers_by_hand(Gs, z)[2:]]
    np.testing.assert_allclose(list(found.values()), np.array(stds) / sum(stds), rtol=1e-5)
    assert list(found) == [4, 8]


def test_shares_over_the_snapshots_of_a_run(load, tmp_path):
    Gs = load('config-f')
    folder = tmp_path / 'run'
    folder.mkdir()
    before = {name: var.numpy() for name, var in Gs.vars.items()}
    snapshot = Gs.clone()
    for kimg, factor in (('000000', 1), ('000000_500', 0), ('000002', 1e6)):
        weight = Gs.get_var('G_synthesis/16x16/ToRGB/weight')
        snapshot.set_var('G_synthesis/16x16/ToRGB/weight', factor * weight)
        misc.save_pkl((snapshot, snapshot, snapshot), folder / f'network-snapshot-{kimg}.pkl')
    svg = (run(tmp_path, '--figures=resolutions', '--num-samples=10', '--run=run') / 'resolutions.svg').read_text()
    polygons = [[tuple(map(float, pair.split(','))) for pair in points.split()]
                for points in re.findall('<polygon [^>]*points="([^"]*)"', svg)]
    assert len(polygons) == 3  # 4x4, 8x8, 16x16.
    xs = [x for x, _ in polygons[0][:3]]
    np.testing.assert_allclose((xs[1] - xs[0]) / (xs[2] - xs[0]), 0.25, atol=0.01)  # At 0, 0.5 and 2 kimg.
    top, bottom = [y for _, y in polygons[2][:3]], [y for _, y in polygons[2][3:]][::-1]
    heights = np.subtract(bottom, top)
    assert heights[1] == 0 and heights[2] > 190 and 5 < heights[0] < 190
    for name, var in Gs.vars.items():
        np.testing.assert_array_equal(var.numpy(), before[name])


def test_a_run_of_another_network_is_refused(load, tmp_path):
    load('config-f')
    other = generator('config-f', resolution=8)
    for kimg in (0, 1):
        misc.save_pkl((other, other, other), tmp_path / f'network-snapshot-{kimg:06d}.pkl')
    with pytest.raises(cli.UserError, match='network-snapshot-000000.pkl is a network with other settings'):
        run(tmp_path, '--figures=resolutions', f'--run={tmp_path}')


def test_bars_and_areas_of_charts():
    svg = charts.bars([('4x4', 0.25, 0), ('8x8', 0.5, 1), ('<x>', 0.25, 8)])
    widths = [float(width) for width in re.findall('<rect [^>]*width="([0-9.]+)" height', svg)]
    np.testing.assert_allclose(widths, [widths[1] / 2, widths[1], widths[1] / 2], atol=0.1)
    assert '50.0%' in svg and '&lt;x&gt;' in svg
    svg = charts.areas([charts.Curve('<a>', [(0, 0.5), (4, 0.25)], 0), charts.Curve('b', [(0, 0.5), (4, 0.75)], 9)],
                       'kimg')
    lower, upper = re.findall('<polygon [^>]*points="([^"]*)"', svg)
    assert upper.split()[2:] == lower.split()[:2][::-1]  # It lies on the lower one.
    assert '&lt;a&gt;' in svg and svg.count('<rect') == 2


# ---- Path lengths ----

def test_the_tenths_with_the_least_and_greatest_path_length(stub_networks):  # noqa: F811
    Gs = generator('config-f')
    least, most = figures_stylegan2.path_lengths(Gs, 50)
    metric = PPL(**{name: value for name, value in metric_defaults['ppl2_wend'].items() if name != 'func_name'})
    lpips = stub_networks['lpips']
    distances, = metric.draw_samples(SampleSource(Gs, np.zeros([1, 0]), 0),
                                     lambda source: [metric.distances(source, lpips, 4)], 50, 'ppl', 'pair')
    order = np.argsort(distances)
    np.testing.assert_allclose([sample.distance for sample in least], distances[order[:5]], rtol=1e-4)
    np.testing.assert_allclose([sample.distance for sample in most], distances[order[:-6:-1]], rtol=1e-4)
    source = SampleSource(Gs, np.zeros([1, 0]), 0).at(order[-1] // 4)
    pair = metric.pairs(source, 4)[order[-1] % 4 * 2].numpy()
    picture = np.clip(pair.transpose(1, 2, 0) * 127.5 + 127.5, 0, 255)
    assert np.abs(most[0].picture - picture).max() <= 1
    sheet = figures_stylegan2.path_length_sheet(least, most)
    cell, line, gap = 64, figures_stylegan2._LINE, figures_stylegan2._GAP
    assert sheet.size == (10 * cell + 4 * gap, 2 * line + cell)
    shown = np.asarray(sheet)[line:line + cell:4, 5 * cell + 4 * gap:][:, :cell:4]
    np.testing.assert_array_equal(shown, most[0].picture)


# ---- Mistakes ----

@pytest.fixture
def files(no_network, tmp_path):  # noqa: F811
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'one').mkdir()
    (tmp_path / 'one' / 'network-snapshot-000000.pkl').write_text('')
    (tmp_path / 'one' / 'network-snapshot-9.old.pkl').write_text('')
    (tmp_path / 'one' / 'network-final.pkl').write_text('')
    (tmp_path / 'file').write_text('')


@pytest.mark.parametrize('flags, message', [
    ('', 'the following arguments are required: --network'),
    ('--network=', 'expected a name, got an empty text'),
    ('--network=n --figures=', "there is no figure ''"),
    ('--network=n --figures=none', "there is no figure 'none', expected some of uncurated, style-mixing"),
    ('--network=n --figures=all', "there is no figure 'all', expected some of uncurated, style-mixing"),
    ('--network=n --figures=uncurated,', 'there is no figure'),
    ('--network=n --figures=uncurated,mixing', "there is no figure 'mixing'"),
    ('--network=n --figures=Droplets', "there is no figure 'Droplets'"),
    ('--network=n --num-samples=9', 'expected a number from 10 to 1000000'),
    ('--network=n --num-samples=1000001', 'expected a number from 10 to 1000000'),
    ('--network=n --num-samples=0', 'above zero'),
    ('--network=n --num-samples=1e3', 'above zero'),
    ('--network=n --num-samples=-5', 'above zero'),
    ('--network=n --seeds=', 'expected a list like 1,5,7 or a range like 0-9'),
    ('--network=n --seeds=a', 'expected a list like 1,5,7 or a range like 0-9'),
    ('--network=n --seeds=3-1', 'runs backwards'),
    ('--network=n --seeds=4294967296', 'below 2**32'),
    ('--network=n --seeds=0-20', 'expected at most 20 seeds, got 21'),
    ('--network=n --truncation-psi=x', 'expected a number'),
    ('--network=n --truncation-psi=0:1', 'expected a number'),
    ('--network=n --truncation-psi=101', 'expected a number from -100 to 100'),
    ('--network=n --class=-1', 'zero or above'),
    ('--network=n --class=cat', 'zero or above'),
    ('--network=n --precision=half', "invalid choice: 'half'"),
    ('--network=n --impl=fast', "invalid choice: 'fast'"),
    ('--network=n --tf32=maybe', 'expected true or false'),
    ('--network=n --dlatents=d.npz', 'unrecognized arguments: --dlatents=d.npz'),
    ('--network=n --run=', 'expected a name, got an empty text'),
    ('--network=n --run=missing', '--run=missing: there is no such folder'),
    ('--network=n --run=file', '--run=file: there is no such folder'),
    ('--network=n --run=empty', '--run=empty: expected two or more network-snapshot-*.pkl, found 0'),
    ('--network=n --run=one', '--run=one: expected two or more network-snapshot-*.pkl, found 1'),
    ('--network=n --run=empty --figures=droplets', '--run: has no effect on droplets'),
    ('--network=n --num-samples=20 --figures=uncurated,droplets', '--num-samples: has no effect on uncurated, drop'),
    ('--network=n --seeds=1 --figures=style-mixing', '--seeds: has no effect on style-mixing'),
    ('--network=n --truncation-psi=1 --figures=noise-detail', '--truncation-psi: has no effect on noise-detail'),
])
def test_bad_input_is_told_in_one_line(files, capsys, flags, message):
    assert message in refused(capsys, 'figures', flags.split())


def test_a_class_that_the_network_does_not_have(load, capsys):
    load('config-f', resolution=4)
    assert 'trained without labels' in refused(capsys, 'figures', ['--network=n', '--class=1'])
