"""Directions in W: SeFa and PCA against independent computations, planted directions, and files."""

import numpy as np
import pytest

from dnnlib.cli import UserError
from latents import directions
from latents.directions import Directions
from tests.attacks import npz
from tests.latents.networks import KINDS, generator


def cosine(a, b):
    return abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b)


# ---- The modulation weights ----

@pytest.mark.parametrize('kind', KINDS)
def test_modulation_weights_belong_to_their_layer_of_w(kind):
    """Weights that get their input from one layer of W have no effect if that is zero, whatever the others are."""
    Gs = generator(kind, resolution=8)
    synthesis = Gs.components.synthesis
    found = directions.modulations(Gs)
    num_layers = synthesis.input_shape[1]
    assert sorted(found) == list(range(num_layers))
    w = np.random.RandomState(1).randn(1, num_layers, 6).astype(np.float32)
    variables = {layer.scope: layer.var(name) for layer in synthesis.layers for name in layer.var_names
                 if name in ('mod_weight', 'StyleMod/weight')}
    assert sum(map(len, found.values())) == len(variables)
    for idx, weights in found.items():
        mine = [var for scope, var in variables.items() if any(
            np.array_equal(np.asarray(synthesis.layer(scope).modulation(), np.float64), weight) for weight in weights)]
        assert len(mine) == len(weights)
        without = w.copy()
        without[:, idx] = 0
        images = [synthesis(x, randomize_noise=False).numpy() for x in (w, without)]
        for var in mine:
            var.assign(var.numpy() * 3)
        others = [synthesis(x, randomize_noise=False).numpy() for x in (w, without)]
        for var in mine:
            var.assign(var.numpy() / 3)
        np.testing.assert_allclose(others[1], images[1], atol=1e-5)
        assert np.abs(others[0] - images[0]).max() > 1e-3


# ---- SeFa and PCA ----

def test_sefa_is_the_singular_value_decomposition_of_all_weights():
    rnd = np.random.RandomState(0)
    weights = [rnd.randn(6, 9), rnd.randn(6, 4)]
    found, shares = directions.sefa(weights, 4)
    _, values, vectors = np.linalg.svd(np.concatenate([weight.T for weight in weights]))
    for vector, expected in zip(found, vectors):
        assert cosine(vector, expected) == pytest.approx(1, abs=1e-12)
        assert np.linalg.norm(vector) == pytest.approx(1) and vector[np.abs(vector).argmax()] > 0
    np.testing.assert_allclose(shares, (values ** 2 / (values ** 2).sum())[:4])


def test_sefa_finds_a_planted_direction():
    Gs = generator('config-f')
    planted = np.random.RandomState(5).randn(6)
    for layer in Gs.components.synthesis.layers:
        if layer.scope == '8x8/Conv1':
            layer.mod_weight.assign(20 * np.outer(planted, np.ones(layer.mod_weight.shape[1])))
    weights = directions.modulations(Gs)
    found, shares = directions.sefa(weights[2], 1)  # Layers of W: 4x4/Conv, 8x8/Conv0_up, 8x8/Conv1.
    assert cosine(found[0], planted) > 0.99 and shares[0] > 0.8
    assert cosine(directions.sefa(weights[0], 1)[0][0], planted) < 0.95


def test_layers_without_modulation_weights_are_refused_for_the_network():
    with pytest.raises(UserError, match='^a.pkl: these layers have no modulation weights') as caught:
        directions.computed(generator('config-f'), 'sefa', [], 1, np.eye(6), 'a.pkl')
    assert 'pca' in caught.value.remedy


def test_the_covariance_is_that_of_numpy():
    Gs = generator('config-f')
    found = directions.covariance_of_w(Gs, 3000)  # More than one batch.
    z = np.random.RandomState(0).standard_normal([3000, 6])
    w = Gs.components.mapping.run(z, None)[:, 0].astype(np.float64)
    np.testing.assert_allclose(found, np.cov(w, rowvar=False), atol=1e-6)
    vectors, shares = directions.pca(found, 3)
    _, values, expected = np.linalg.svd(w - w.mean(axis=0))
    for vector, other in zip(vectors, expected):
        assert cosine(vector, other) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(shares, (values ** 2 / (values ** 2).sum())[:3], rtol=1e-5)


def test_pca_finds_planted_directions():
    """W is made to be z times rotated axes of known lengths."""
    Gs = generator('config-f', mapping_layers=1, mapping_nonlinearity='linear', normalize_latents=False)
    axes = np.linalg.qr(np.random.RandomState(3).randn(6, 6))[0]
    lengths = np.array([5, 3, 1, 0.5, 0.2, 0.1])
    layer, = [each for each in Gs.components.mapping.layers if hasattr(each, 'coef')]
    layer.weight.assign((lengths[:, np.newaxis] * axes) / layer.coef)
    cov = directions.covariance_of_w(Gs, 4000)
    vectors, shares = directions.pca(cov, 3)
    for vector, axis in zip(vectors, axes):
        assert cosine(vector, axis) > 0.99
    np.testing.assert_allclose(shares, (lengths ** 2 / (lengths ** 2).sum())[:3], rtol=0.1)


def test_the_class_matters_for_the_covariance():
    Gs = generator('ada')
    covs = [directions.covariance_of_w(Gs, 500, label) for label in (None, np.eye(3)[[1]])]
    assert np.abs(covs[0] - covs[1]).max() > 1e-3


def test_the_plane_between_two_sets():
    rnd = np.random.RandomState(0)
    planted = rnd.randn(8)
    planted /= np.linalg.norm(planted)
    x = rnd.randn(600, 8)
    vector, accuracy = directions.separating_direction(x[x @ planted > 0.2], x[x @ planted < -0.2])
    assert vector @ planted > 0.98 and np.linalg.norm(vector) == pytest.approx(1) and accuracy > 0.98


# ---- Files ----

def some(count=3):
    rnd = np.random.RandomState(0)
    layers = np.ones([count, 4], bool)
    layers[0, 2:] = False
    return Directions(rnd.randn(count, 5).astype(np.float32), layers, np.arange(1, count + 1, dtype=np.float32),
                      np.array([0.5, np.nan, 0.1], np.float32)[:count], ['', 'smile', ''][:count], dict(method='pca'))


def arrays(**changes):
    found = some()
    return {**dict(directions=found.vectors, layers=found.layers, sigmas=found.sigmas, shares=found.shares,
                   names=np.array(found.names), settings=np.array('{}')), **changes}


def test_there_and_back(tmp_path):
    ours = some()
    ours.save(tmp_path / 'd.npz')
    found = directions.load(tmp_path / 'd.npz')
    for key in ('vectors', 'layers', 'sigmas', 'shares'):
        np.testing.assert_array_equal(getattr(found, key), getattr(ours, key))
    assert (found.names, found.settings) == (ours.names, ours.settings)
    assert [path.name for path in tmp_path.iterdir()] == ['d.npz']


def test_offsets_are_sums_over_the_layers_of_each_direction():
    found = some()
    expected = np.tile(-1.0 * 2 * found.vectors[1].astype(float), [4, 1])
    expected[:2] += 2.0 * 1 * found.vectors[0]
    np.testing.assert_allclose(found.offset({0: 2.0, 1: -1.0}), expected)
    only = found.offset({0: 2.0}, [3])
    assert not only[:3].any()
    np.testing.assert_allclose(only[3], 2.0 * found.vectors[0])


@pytest.mark.parametrize('name, index', [('smile', 1), ('0', 0), ('2', 2)])
def test_directions_by_name_and_number(name, index):
    assert some().index(name) == index


@pytest.mark.parametrize('name', ['frown', '3', '-1', ''])
def test_directions_that_are_not_there(name):
    with pytest.raises(UserError, match='expected 0 to 2 or a name: smile'):
        some().index(name)


@pytest.mark.parametrize('changes, message', [
    (dict(directions=np.zeros([3])), 'expected directions'),
    (dict(directions=np.zeros([0, 5], np.float32)), 'expected directions'),
    (dict(directions=np.zeros([3, 5], int)), 'directions is of another type'),
    (dict(directions=np.full([3, 5], np.nan, np.float32)), 'infinite or no numbers'),
    (dict(layers=np.ones([3, 4])), 'layers is of another type'),
    (dict(layers=np.ones([2, 4], bool)), 'expected layers to have 3 entries'),
    (dict(sigmas=np.ones([2], np.float32)), 'expected sigmas to have 3 entries'),
    (dict(sigmas=np.full([3], np.inf, np.float32)), 'infinite or no numbers'),
    (dict(shares=np.array(['a', 'b', 'c'])), 'shares is of another type'),
    (dict(names=np.array(['a'])), 'expected names to have 3 entries'),
    (dict(names=np.array(['a=b', '', ''])), 'cannot be the name of a direction'),
    (dict(names=np.array(['\x1b[31m', '', ''])), r"'\\x1b\[31m' cannot be the name"),
    (dict(settings=np.array(['{}'])), 'expected settings to have'),
    (dict(settings=np.array(b'\x80')), 'something else than numbers and text'),
])
def test_files_that_are_something_else(tmp_path, changes, message):
    np.savez(tmp_path / 'd.npz', **arrays(**changes))
    with pytest.raises(UserError, match=message) as caught:
        directions.load(tmp_path / 'd.npz')
    assert len(str(caught.value).splitlines()) == 2 and 'd.npz' in str(caught.value) or 'name' in message


@pytest.mark.parametrize('data', [b'', b'text', b'PK\x03\x04'])
def test_files_that_are_no_archives(tmp_path, data):
    (tmp_path / 'd.npz').write_bytes(data)
    with pytest.raises(UserError, match='is no .npz of directions'):
        directions.load(tmp_path / 'd.npz')


def test_a_file_of_latents_is_told_apart(tmp_path):
    np.savez(tmp_path / 'd.npz', w=np.zeros([1, 4, 5]))
    with pytest.raises(UserError, match="expected an array 'directions' of directions, found w"):
        directions.load(tmp_path / 'd.npz')


def test_nothing_is_executed_or_allocated(tmp_path):
    np.savez(tmp_path / 'd.npz', **arrays(names=np.array([print, 1, 2], object)))
    with pytest.raises(UserError, match='something else than numbers and text'):
        directions.load(tmp_path / 'd.npz')
    members = dict(
        directions=npz.zeros('<f4', (3, 2 ** 45)), layers=npz.zeros('|b1', (3, 4)), sigmas=npz.zeros('<f4', (3,)),
        shares=npz.zeros('<f4', (3,)), names=npz.zeros('<U1', (3,)), settings=npz.zeros('<U2', ()))
    npz.write(tmp_path / 'large.npz', members)
    with pytest.raises(UserError, match='needs about'):
        directions.load(tmp_path / 'large.npz')
