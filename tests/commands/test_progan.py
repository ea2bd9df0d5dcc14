"""ProGAN's pickles in the commands, and those of its first code."""

import pickle
import sys
import types

import numpy as np
import pytest
from PIL import Image

import run_generator
import run_projector
from dnnlib import cli
from dnnlib.pickles import legacy_pickle
from tests.golden import GOLDEN_FAMILY
from tests.training.test_networks import eagerly
from training import misc

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
