"""ProGAN's pickles in the commands, and those of its first code."""

import pickle
import sys
import types

import numpy as np
import pytest
from PIL import Image

import pretrained_networks
import run_generator
import run_projector
from dnnlib import cli
from dnnlib.pickles import legacy_pickle
from latents import directions, pictures
from tests.golden import GOLDEN_FAMILY
from tests.training.test_networks import eagerly
from training import misc
from training.nets.registry import create_network

NETWORK = GOLDEN_FAMILY / 'progan/networks/p16.pkl'


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
def test_generate_images_and_convert(tmp_path, capsys):
    run_generator.main(['generate-images', f'--network={NETWORK}', '--seeds=3', f'--result-dir={tmp_path}'])
    assert 'nothing is truncated' in capsys.readouterr().out
    with Image.open(tmp_path / '00000-generate-images' / 'seed0003.png') as picture:
        found = np.asarray(picture, np.float32).transpose(2, 0, 1)
    Gs = misc.load_networks(NETWORK)[2]
    z = np.random.RandomState(3).randn(1, 16)
    with eagerly():
        expected = Gs.run(z, None)
    assert np.abs(found - np.clip(expected[0] * 127.5 + 127.5, 0, 255)).max() <= 1
    for name in 'again.npz', 'again.pkl':
        run_generator.main(['convert', f'--network={NETWORK}', f'--out={tmp_path / name}'])
        with eagerly():
            np.testing.assert_array_equal(misc.load_networks(tmp_path / name)[2].run(z, None), expected)


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
@pytest.mark.parametrize('main, argv, fact', [
    (run_generator.main, ['style-mixing-example', '--row-seeds=1', '--col-seeds=2'], 'style-mixing-example: needs W'),
    (run_generator.main, ['generate-images', '--seeds=1', '--truncation-psi=0.7'], '--truncation-psi=0.7: needs W'),
    (run_generator.main, ['generate-images', '--dlatents=w.npz'], '--dlatents: needs W'),
    (run_projector.main, ['project-generated-images', '--seeds=1'], 'projection: needs W'),
])
def test_what_needs_w_says_so(main, argv, fact, tmp_path):
    with pytest.raises(cli.UserError) as caught:
        main([*argv, f'--network={NETWORK}', f'--result-dir={tmp_path}'])
    assert caught.value.fact == f'{fact}, but the network is of ProGAN, which has Z alone'


# ---- The first code, in Theano ----

class TheanoNetwork:
    """Stands for the class of the Theano code; pickles name it 'network.Network'."""

    def __init__(self, state):
        self.__dict__.update(state)


TheanoNetwork.__module__, TheanoNetwork.__name__, TheanoNetwork.__qualname__ = 'network', 'Network', 'Network'


def theano_state(net, func, **spec):
    """The state of `net` as the Theano code stores it, with wscale = 3 for each layer."""
    names = list(dict.fromkeys(name.rsplit('/', 1)[0] for name in net.vars if name != 'lod'))
    if net.name != 'D':  # ToRGB layers come last, beginning with the finest.
        names = [name for name in names if 'RGB' not in name] + sorted(name for name in names if 'RGB' in name)
    params = []
    for name in names:
        weight = net.get_var(f'{name}/weight') * net.layer(name).coef / 3
        if name == '4x4/Dense':
            weight = weight.reshape(len(weight), -1, 4, 4).transpose(1, 0, 2, 3)
        elif name == '4x4/Dense0':
            weight = weight.T.reshape(weight.shape[1], -1, 4, 4)[:, :, ::-1, ::-1]
        elif 'RGB' in name:
            weight = weight[0, 0]
        elif weight.ndim == 4:
            weight = weight[::-1, ::-1].transpose(3, 2, 0, 1)
        params += [np.ascontiguousarray(weight), np.float32(3), net.get_var(f'{name}/bias')]
    kwargs = {name: value for name, value in net.static_kwargs.items() if name != 'fused_scale'}
    return dict(build_func_spec=dict(func=func, **kwargs, **spec), param_values=params,
                toplevel_params=dict(cur_lod=np.float32(0.25)))


def write_theano(path, states, monkeypatch):
    monkeypatch.setitem(sys.modules, 'network', types.SimpleNamespace(Network=TheanoNetwork))
    path.write_bytes(pickle.dumps(tuple(TheanoNetwork(state) for state in states), protocol=4))


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
def test_theano_networks_compute_what_they_did(tmp_path, monkeypatch):
    nets = misc.load_networks(GOLDEN_FAMILY / 'progan/networks/p32-nofused.pkl')
    funcs = 'G_paper', 'D_progressive_8', 'G_progressive_8'
    states = [theano_state(net, func, use_batchnorm=False) for net, func in zip(nets, funcs, strict=True)]
    write_theano(tmp_path / 'theano.pkl', states, monkeypatch)
    found = misc.load_networks(tmp_path / 'theano.pkl')
    assert [net.name for net in found] == ['G', 'D', 'Gs']
    rnd = np.random.RandomState(0)
    z, images = rnd.randn(2, 16), rnd.randn(4, 3, 32, 32)
    with eagerly():
        for ours, theirs in zip(found, nets, strict=True):
            theirs.set_var('lod', 0.25)
            args = (images,) if ours.name == 'D' else (z,)
            expected, actual = (net.run(*args, return_as_list=True)[0] for net in (theirs, ours))
            np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
@pytest.mark.parametrize('change, fact', [
    (dict(func='G_other'), "unknown function 'G_other'"), (dict(use_batchnorm=True), 'with use_batchnorm'),
    (dict(resolution=64), 'arrays for 15 layers'), (dict(resolution='x'), 'images of'), (dict(func=3), 'function 3')])
def test_damaged_theano_networks_are_refused(change, fact, tmp_path, monkeypatch):
    G = misc.load_networks(GOLDEN_FAMILY / 'progan/networks/p32-nofused.pkl')[0]
    state = theano_state(G, 'G_paper')
    state['build_func_spec'].update(change)
    write_theano(tmp_path / 'theano.pkl', [state], monkeypatch)
    with pytest.raises(cli.UserError) as caught:
        legacy_pickle.load(tmp_path / 'theano.pkl')
    assert fact in caught.value.fact


@pytest.mark.parametrize('part, value', [
    ('param_values', 3), ('param_values', ['x'] * 27), ('toplevel_params', {}), ('build_func_spec', 'x'),
    ('toplevel_params', {'cur_lod': 'x'})])
def test_theano_networks_with_other_parts_are_refused(part, value, tmp_path, monkeypatch):
    array = [np.zeros([4, 4, 3, 3], np.float32), np.float32(1), np.zeros(4, np.float32)]
    state = dict(build_func_spec=dict(func='G_paper', resolution=4), param_values=[*array, *array, *array],
                 toplevel_params=dict(cur_lod=0.0))
    write_theano(tmp_path / 'theano.pkl', [{**state, part: value}], monkeypatch)
    with pytest.raises(cli.UserError):
        legacy_pickle.load(tmp_path / 'theano.pkl')


# ---- Films, directions and figures in Z ----

def progan(monkeypatch, **settings):
    """A small generator of ProGAN, which all commands load."""
    sizes = dict(resolution=8, num_channels=3, fmap_base=32, fmap_max=8, latent_size=6)
    Gs = create_network('Gs', 'G_paper', **{**sizes, **settings})
    for name, var in Gs.vars.items():
        if name.endswith('bias'):
            var.assign(var.numpy() + 0.3 * np.random.RandomState(0).randn(*var.shape))
    monkeypatch.setattr(pretrained_networks, 'load_networks', lambda path: (None, None, Gs))
    return Gs


def run(tmp_path, *argv):
    """Run a command, and return its folder."""
    run_generator.main([*argv, '--network=n', f'--result-dir={tmp_path / "results"}'])
    return max((tmp_path / 'results').iterdir())


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


@pytest.mark.parametrize('curve', ['spline', 'slerp'])
def test_films_walk_through_z(monkeypatch, tmp_path, capsys, curve):
    progan(monkeypatch, label_size=2)
    films = run(tmp_path, 'generate-video', '--seeds=3,5', '--seconds-per-seed=0.3', '--fps=10', '--format=frames',
                '--class=1', f'--curve={curve}') / 'film'
    assert 'The film walks through Z (--space=z).' in capsys.readouterr().out
    single = run(tmp_path, 'generate-images', '--seeds=3,5', '--class=1')
    frames = [pixels(path) for path in sorted(films.iterdir())]
    assert len(frames) == 4
    for frame, name in ((frames[0], 'seed0003.png'), (frames[-1], 'seed0005.png')):
        assert np.abs(frame - pixels(single / name)).max() <= 1
    assert np.abs(frames[1] - frames[0]).max() > 1


def test_directions_in_z_are_those_of_the_weights_of_the_first_layer(monkeypatch, tmp_path):
    Gs = progan(monkeypatch, label_size=2)
    folder = run(tmp_path, 'find-directions', '--num=3', '--seeds=0', '--class=1')
    found = directions.load(folder / 'directions.npz')
    weight = Gs.get_var('4x4/Dense/weight')[:6].astype(np.float64)  # Without the rows of the labels.
    u, s, _ = np.linalg.svd(weight, full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(found.vectors * u.T[:3], axis=1)), 1, atol=1e-5)
    np.testing.assert_allclose(found.shares, s[:3] ** 2 / np.sum(s ** 2), rtol=1e-5)
    np.testing.assert_allclose(found.sigmas, 1, atol=1e-6)  # Z is standard normal.
    assert found.layers.tolist() == [[True]] * 3 and (folder / 'sheet.png').exists()
    same, moved = (run(tmp_path, 'edit-images', '--seeds=4', '--class=1', '--set', strength,
                       f'--directions={folder / "directions.npz"}') for strength in ('1=0', '1=2'))
    plain = run(tmp_path, 'generate-images', '--seeds=4', '--class=1')
    np.testing.assert_array_equal(pixels(same / 'seed0004.png'), pixels(plain / 'seed0004.png'))
    z = np.random.RandomState(4).randn(1, 6) + 2 * found.vectors[1]
    expected = Gs.run(z, np.eye(2)[[1]], **pictures.picture_kwargs())[0]
    assert np.abs(pixels(moved / 'seed0004.png') - expected).max() <= 1
    assert np.abs(expected.astype(int) - pixels(plain / 'seed0004.png')).max() > 2


def test_a_direction_in_z_from_labels(monkeypatch, tmp_path):
    progan(monkeypatch)
    values = {seed: np.random.RandomState(seed).randn(6)[2] for seed in range(60)}
    table = tmp_path / 'labels.csv'
    table.write_text(''.join(f'seed{seed:04d},{int(value > 0)}\n' for seed, value in values.items()))
    folder = run(tmp_path, 'find-directions', '--method=svm', f'--labels={table}', '--seeds=0-59')
    vector = directions.load(folder / 'directions.npz').vectors[0]
    assert np.argmax(vector) == 2 and vector[2] > 0.8


@pytest.mark.parametrize('argv, fact', [
    (['generate-video', '--seeds=1', '--space=w'], '--space=w: needs W'),
    (['generate-video', '--seeds=1', '--truncation-psi=0:1'], '--truncation-psi=0:1: needs W'),
    (['generate-video', '--seeds=1', '--truncation-psi=0.7'], '--truncation-psi=0.7: needs W'),
    (['generate-video', '--seeds=1', '--dlatents=w.npz'], '--dlatents: needs W'),
    (['find-directions', '--method=pca'], '--method=pca: the network is of ProGAN'),
    (['find-directions', '--method=svm', '--positive=w.npz', '--negative=w.npz'], '--positive: needs W'),
    (['find-directions', '--layers=1'], '--layers: there is no layer 1, this network has 1'),
    (['find-directions', '--num=7'], '--num=7: Z of this network has 6 numbers'),
    (['find-directions', '--truncation-psi=0.7'], '--truncation-psi=0.7: needs W'),
    (['edit-images', '--seeds=1', '--directions=w-directions.npz', '--set=0=1'],
     'w-directions.npz: its directions are for 1 layers of W of 6 numbers, this network has Z of 6 numbers'),
    (['edit-images', '--dlatents=w.npz', '--directions=z-directions.npz', '--set=0=1'], '--dlatents: needs W'),
    (['figures', '--figures=style-mixing,truncation-trick'], 'no style-mixing: it needs W'),
    (['figures', '--figures=noise-detail'], 'no noise-detail: this network has no noise inputs'),
    (['figures', '--figures=resolutions'], 'no resolutions: this network does not sum RGB images'),
    (['figures', '--truncation-psi=0.7'], '--truncation-psi=0.7: needs W'),
])
def test_what_cannot_be_done_in_z(monkeypatch, tmp_path, argv, fact):
    progan(monkeypatch)
    monkeypatch.chdir(tmp_path)
    np.savez('w.npz', w=np.zeros([3, 1, 6], np.float32))
    for space in 'wz':
        directions.Directions(np.eye(2, 6, dtype=np.float32), np.ones([2, 1], bool), np.ones(2, np.float32),
                              np.ones(2, np.float32), ['', ''], dict(space=space)).save(f'{space}-directions.npz')
    with pytest.raises(cli.UserError) as caught:
        run(tmp_path, *argv)
    assert fact in caught.value.fact and not list(tmp_path.glob('results/*'))


def test_figures_without_w(monkeypatch, tmp_path, capsys):
    progan(monkeypatch)
    folder = run(tmp_path, 'figures')
    assert sorted(path.name for path in folder.glob('*.png')) == ['droplets.png', 'uncurated.png']
    out = capsys.readouterr().out
    assert out.count('left out') == 6 and 'style-mixing: left out: it needs W' in out
    assert out.count('left out: this network has no noise inputs') == 2
