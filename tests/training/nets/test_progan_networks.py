"""ProGAN's networks against the original's numbers, names and shapes."""

import re

import numpy as np
import pytest

from tests.golden import GOLDEN_FAMILY, assert_close, load_json, load_npz
from tests.graphs import eagerly
from tests.training.test_networks import scale_of_scores
from training import misc

VARIANTS = load_json('progan/networks/variants.json', GOLDEN_FAMILY)
OF_STYLEGAN = [name for name in load_json('stylegan/networks/variants.json', GOLDEN_FAMILY) if 'progan' in name]


@pytest.fixture(scope='module', params=[*VARIANTS, *OF_STYLEGAN])
def variant(request, tmp_path_factory):
    """(folder and name, networks as read, networks that we wrote and read again)."""
    name = f'{"stylegan" if request.param in OF_STYLEGAN else "progan"}/networks/{request.param}'
    nets = misc.load_networks(GOLDEN_FAMILY / f'{name}.pkl')
    path = tmp_path_factory.mktemp('networks') / 'again.pkl'
    misc.save_pkl(nets, path)
    return name, nets, misc.load_networks(path)


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
def test_names_shapes_and_values_survive(variant):
    name, nets, again = variant
    expected = load_json(f'{name}.vars.json', GOLDEN_FAMILY)
    for net, other in zip(nets, again, strict=True):
        rows = [[key, list(var.shape), var.trainable] for key, var in net.vars.items()]
        # The original stores these as [kernel, kernel, out, in].
        for row in expected[net.name]:
            if row[0].endswith('Conv0_up/weight') and name.startswith('progan'):
                row[1][2:] = row[1][:1:-1]
        assert rows == expected[net.name]
        assert (net.name, net.static_kwargs) == (other.name, other.static_kwargs)
        for key, var in net.vars.items():
            np.testing.assert_array_equal(other.get_var(key), var.numpy())


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
@pytest.mark.parametrize('name', ['p16-labels', 'p16-nofused-labels', 'p16-nonormlatents'])
def test_list_of_layers(name, capsys):
    """Names, numbers of parameters and shapes of weights. As outputs, the original listed the shapes of biases."""
    nets = misc.load_networks(GOLDEN_FAMILY / f'progan/networks/{name}.pkl')
    for net in nets[:2]:
        net.print_layers()

    def rows(text):
        cells = [re.split('  +', line.strip()) for line in text.splitlines() if line]
        return [(row[0], *row[1::2]) for row in cells if row[1:2] != ['-']]
    found = rows(capsys.readouterr().out)
    assert len(found) > 20 and found == rows((GOLDEN_FAMILY / f'progan/networks/{name}.layers.txt').read_text())


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
def test_outputs(variant):
    name, nets, again = variant
    data = load_npz(f'{name}.npz', GOLDEN_FAMILY)
    compared = 0
    with eagerly():
        for key, expected in data.items():
            if key in ('z', 'labels', 'images') or 'uint8' in key:
                continue
            which, call = key.split('/')
            call, _, lod = call.partition('lod') if 'lod' in call else (call, '', '0')
            # The networks that we wrote must compute the same: one call of each is enough.
            for G, D, Gs in (nets, again) if lod == '0.5' else (nets,):
                net = dict(G=G, D=D, Gs=Gs)[which]
                net.set_var('lod', float(lod))
                if which == 'D':
                    batch = int(call.strip('_').split('_b')[1])
                    actual = net.run(data['images'][:batch], data['labels'][:batch], return_as_list=True)
                    actual = actual[1 if call.startswith('logits') else 0]
                    scale = scale_of_scores(net, data['images'][:batch])
                else:
                    actual, scale = net.run(data['z'], data['labels'][:len(data['z'])]), None
                assert_close(actual, expected, 1e-5, f'{name} {key}', scale)
                net.set_var('lod', 0)
                compared += 1
    assert compared >= 4


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
@pytest.mark.parametrize('name', [name for name in VARIANTS if name == 'p32'])
def test_pictures_traced(name):
    """Network.run, traced as users run it, also with pictures as bytes."""
    from dnnlib import tflib
    Gs = misc.load_networks(GOLDEN_FAMILY / f'progan/networks/{name}.pkl')[2]
    data = load_npz(f'progan/networks/{name}.npz', GOLDEN_FAMILY)
    transform = dict(func=tflib.convert_images_to_uint8)
    pictures = Gs.run(data['z'], None, output_transform=transform)
    assert np.abs(pictures.astype(int) - data['Gs/lod0_uint8']).max() <= 1
    assert (pictures != data['Gs/lod0_uint8']).mean() < 0.01
    Gs.set_var('lod', 2.3)
    assert_close(Gs.run(data['z'], None), data['Gs/lod2.3'], 1e-5, name)
