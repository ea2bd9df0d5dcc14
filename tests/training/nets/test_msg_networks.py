"""MSG-StyleGAN's networks against the original's numbers, names and shapes."""

import re

import numpy as np
import pytest

from tests.golden import GOLDEN_FAMILY, assert_close, load_json, load_npz
from tests.graphs import eagerly
from tests.training.test_networks import scale_of_scores
from training import misc, networks_msg

VARIANTS = load_json('msg/networks/variants.json', GOLDEN_FAMILY)
CALLS = {'psi1': dict(truncation_psi=1), 'psi0.7_cutoff4': dict(truncation_psi=0.7, truncation_cutoff=4),
         'default_psi': {}, 'is_validation': dict(is_validation=True)}


def sizes_of(images):
    """{'4x4': images, ...} of images of several sizes."""
    return {f'{x.shape[2]}x{x.shape[3]}': x for x in images}


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
@pytest.mark.parametrize('name', ['m16-labels', 'm16-traditional-0'])
def test_list_of_layers(name, capsys):
    """As the original's, except that it numbered the inputs, and did not list the largest image a second time."""
    for net in misc.load_networks(GOLDEN_FAMILY / f'msg/networks/{name}.pkl')[:2]:
        net.print_layers()

    def rows(text):
        text = re.sub(r'\b(\w+_in(_\d+x\d+)?|input_\d)(?= )', 'input', text)
        return [row for row in map(str.split, text.splitlines()) if row and row[0] != 'images_out']
    assert rows(capsys.readouterr().out) == rows((GOLDEN_FAMILY / f'msg/networks/{name}.layers.txt').read_text())


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
@pytest.mark.parametrize('name', VARIANTS)
def test_names_and_outputs(name, tmp_path):
    nets = misc.load_networks(GOLDEN_FAMILY / f'msg/networks/{name}.pkl')
    expected = load_json(f'msg/networks/{name}.vars.json', GOLDEN_FAMILY)
    misc.save_pkl(nets, tmp_path / 'again.pkl')
    again = misc.load_networks(tmp_path / 'again.pkl')
    for net, other in zip(nets, again, strict=True):
        assert type(net).__module__ == type(other).__module__ == networks_msg.__name__
        assert [[key, list(var.shape), var.trainable] for key, var in net.vars.items()] == expected[net.name]
        assert (net.name, net.static_kwargs) == (other.name, other.static_kwargs)
        for key, var in net.vars.items():
            np.testing.assert_array_equal(other.get_var(key), var.numpy())
    data = load_npz(f'msg/networks/{name}.npz', GOLDEN_FAMILY)
    G, D, Gs = nets
    assert [D.num_inputs, D.input_shapes] == [len(VARIANTS[name]['names']['D'][0]), VARIANTS[name]['names']['D'][1]]
    labels, compared = data['labels'][:len(data['z'])], set()
    images = [data[f'images/{size}x{size}'] for _, _, size, _ in D.input_shapes[:-1]]
    with eagerly():
        for call, kwargs in CALLS.items():
            for which, net in (('Gs', Gs), ('G', G)):
                if any(key.startswith(f'{which}/{call}/') for key in data):
                    made = net.run(data['z'], labels, randomize_noise=False, all_sizes=True, **kwargs)
                    for size, value in sizes_of(made).items():
                        assert_close(value, data[f'{which}/{call}/{size}'], 1e-5, f'{name} {which} {call} {size}')
                        compared.add(f'{which}/{call}/{size}')
        np.testing.assert_array_equal(Gs.run(data['z'], labels, randomize_noise=False),
                                      Gs.run(data['z'], labels, randomize_noise=False, all_sizes=True)[-1])
        assert_close(Gs.components.mapping.run(data['z'], labels), data['Gs/dlatents'], 1e-5, name)
        for key in data:
            if key.startswith('D/'):
                n = int(key.split('_b')[1])
                few = [x[:n] for x in images]
                scale = scale_of_scores(D, *few, data['labels'][:n])
                assert_close(D.run(*few, data['labels'][:n]), data[key], 1e-5, f'{name} {key}', scale)
                compared.add(key)
    assert compared == {key for key in data if key.startswith(('G', 'D'))} - {'Gs/dlatents'}
