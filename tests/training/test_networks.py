"""The networks against the original's numbers, names, shapes and listings."""

import numpy as np
import pytest
import tensorflow as tf

from tests.golden import GOLDEN, assert_close, load_json, load_npz
from tests.graphs import eagerly
from training import misc


@pytest.fixture(scope='module', params=list(load_json('networks/variants.json')))
def variant(request, tmp_path_factory):
    """(name, networks as read, path of the pickle that we wrote of them)."""
    nets = misc.load_pkl(GOLDEN / 'networks' / f'{request.param}.pkl')
    path = tmp_path_factory.mktemp('networks') / 'again.pkl'
    misc.save_pkl(nets, path)
    return request.param, nets, path


@pytest.mark.golden
def test_names_shapes_and_values_survive(variant):
    name, nets, path = variant
    expected = load_json(f'networks/{name}.vars.json')
    for net, other in zip(nets, misc.load_pkl(path), strict=True):
        rows = [[key, list(var.shape), var.trainable] for key, var in net.vars.items()]
        assert rows == expected[net.name]
        assert [key for key in net.trainables] == [key for key, _, trainable in expected[net.name] if trainable]
        assert net.name == other.name and list(net.vars) == list(other.vars)
        for key, var in net.vars.items():
            np.testing.assert_array_equal(other.get_var(key), var.numpy())


@pytest.mark.golden
def test_listing(variant, capsys):
    name, (G, D, _Gs), _ = variant
    G.print_layers()
    D.print_layers()
    assert capsys.readouterr().out == (GOLDEN / 'networks' / f'{name}.layers.txt').read_text()


def scale_of_scores(D, *inputs_of_D):
    """Size of what D's last layer adds up to a score: the root of the sum of the squares of its products.

    A score is often far smaller.
    """
    layer, inputs = D.layer('Output' if 'Output/weight' in D.vars else '4x4/Dense1'), []
    call = layer.call
    layer.call = lambda x, *labels: inputs.append(x) or call(x, *labels)
    try:
        D(*(tf.constant(x, tf.float32) for x in inputs_of_D))
    finally:
        layer.call = call
    return float(np.sqrt(np.square(inputs[0]) @ np.square(layer.weight * layer.coef)).max())


def expected_and_actual(name, nets, only=None):
    """Tuples (key, expected, actual, scale of the error) for every output in the variant's npz, or only those named."""
    data = load_npz(f'networks/{name}.npz')
    G, D, Gs = nets
    z = data['z']
    labels = data['labels'][:len(z)]
    calls = {
        'psi1': lambda net: net.run(z, labels, randomize_noise=False, truncation_psi=1),
        'psi0.5': lambda net: net.run(z, labels, randomize_noise=False, truncation_psi=0.5),
        'psi0.7_cutoff4': lambda net: net.run(
            z, labels, randomize_noise=False, truncation_psi=0.7, truncation_cutoff=4
        ),
        'default_psi': lambda net: net.run(z, labels, randomize_noise=False),
        'is_validation': lambda net: net.run(z, labels, randomize_noise=False, is_validation=True),
        'synthesis': lambda net: net.components.synthesis.run(data['dlatents_in'], randomize_noise=False),
        'dlatents': lambda net: net.components.mapping.run(z, labels),
    }
    inputs = {'z', 'labels', 'dlatents_in', 'images'}
    for key, expected in data.items():
        if key in inputs or (only and key not in only):
            continue
        which, call = key.split('/')
        call, _, lod = call.partition('_lod')
        for net in (D, Gs):
            if 'lod' in net.vars:
                net.set_var('lod', float(lod or 0))
        if which == 'D':
            batch = int(call.split('_b')[1])
            examples = data['images'][:batch], data['labels'][:batch]
            yield key, expected, D.run(*examples), scale_of_scores(D, *examples)
        else:
            yield key, expected, calls[call]({'G': G, 'Gs': Gs}[which]), None
    for net in (D, Gs):
        for name in net.vars:
            if name.split('/')[-1] == 'lod':
                net.set_var(name, 0)  # As they were read: other tests use them too.


@pytest.mark.golden
def test_outputs(variant, impl):
    """Eagerly: tracing takes ten times as long as computing these small networks."""
    name, nets, path = variant
    with eagerly():
        for key, expected, actual, scale in expected_and_actual(name, nets):
            assert_close(actual, expected, 1e-5, f'{name} {key}', scale)
    only = ('Gs/psi0.7_cutoff4', 'D/scores_b4', 'Gs/psi1_lod1.3', 'D/scores_b4_lod1.3')
    for key, expected, actual, scale in expected_and_actual(name, misc.load_pkl(path), only):
        assert_close(actual, expected, 1e-5, f'{name} {key}, written by us and read again, traced', scale)


@pytest.mark.golden
@pytest.mark.parametrize(
    'name', [name for name in load_json('networks/variants.json') if name in ('config-a', 'config-f')]
)
def test_outputs_traced(name):
    """All calls as a user makes them, of the least and of the most refined configuration."""
    for key, expected, actual, scale in expected_and_actual(name, misc.load_pkl(GOLDEN / 'networks' / f'{name}.pkl')):
        assert_close(actual, expected, 1e-5, f'{name} {key}', scale)
