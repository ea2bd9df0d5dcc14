"""Files of latents: writing and reading, files of other projectors, and files that are refused."""

import types
import zipfile

import numpy as np
import pytest

from dnnlib import memory
from dnnlib.cli import UserError
from latents import dlatents
from tests.attacks import npz
from tests.attacks.limits import traced_memory
from training import misc

SHAPES = [(1, 1, 4, 4), (1, 1, 8, 8)]


@pytest.fixture
def Gs(monkeypatch):
    """A generator of 4 layers, W of 3 numbers, two noise maps."""
    monkeypatch.setattr(misc, 'noise_variables', lambda Gs: [types.SimpleNamespace(shape=shape) for shape in SHAPES])
    synthesis = types.SimpleNamespace(input_shape=[None, 4, 3])
    return types.SimpleNamespace(components=types.SimpleNamespace(synthesis=synthesis))


def some(count, name='image', with_noise=True):
    rnd = np.random.RandomState(count)
    return dlatents.Dlatents(
        [f'{name}{idx}' for idx in range(count)], rnd.randn(count, 4, 3).astype(np.float32),
        [rnd.randn(count, *shape[1:]).astype(np.float32) for shape in SHAPES] if with_noise else None,
        distances=rnd.rand(count), start_distances=rnd.rand(count), steps=np.full(count, 7),
        sources=[f'{name} {idx}.png' for idx in range(count)], settings=dict(distance='pixel', wplus=False))


def test_there_and_back(Gs, tmp_path):
    ours = some(2).joined(some(1, 'other'))
    ours.save(tmp_path / 'd.npz')
    found = dlatents.load(tmp_path / 'd.npz', Gs)
    assert found.names == ['image0', 'image1', 'other0'] and len(found) == 3
    assert found.settings == dict(distance='pixel', wplus=False)
    np.testing.assert_array_equal(found.w, ours.w)
    for idx in range(3):
        for noise, expected in zip(found.noises_of(idx), ours.noises, strict=True):
            np.testing.assert_array_equal(noise, expected[idx:idx + 1])
    assert list(found.sources) == ['image 0.png', 'image 1.png', 'other 0.png'] and list(found.steps) == [7, 7, 7]
    assert [path.name for path in tmp_path.iterdir()] == ['d.npz']


def test_without_noise(Gs, tmp_path):
    some(2, with_noise=False).save(tmp_path / 'd.npz')
    assert dlatents.load(tmp_path / 'd.npz', Gs).noises_of(1) is None


@pytest.mark.parametrize('key', ['w', 'dlatents'])
@pytest.mark.parametrize('shape', [(2, 4, 3), (2, 1, 3), (2, 3)])
def test_files_of_other_projectors(Gs, tmp_path, key, shape):
    w = np.random.RandomState(0).randn(*shape)
    np.savez(tmp_path / 'd.npz', **{key: w})
    found = dlatents.load(tmp_path / 'd.npz', Gs)
    assert found.names == ['dlatent0000', 'dlatent0001'] and found.w.dtype == np.float32 and found.noises is None
    np.testing.assert_allclose(found.w, np.broadcast_to(w if w.ndim == 3 else w[:, np.newaxis], [2, 4, 3]), rtol=1e-6)


def test_names_cannot_leave_the_folder(Gs, tmp_path):
    np.savez(tmp_path / 'd.npz', w=np.zeros([1, 4, 3]), names=['../../x'])
    assert dlatents.load(tmp_path / 'd.npz', Gs).names == ['x']


@pytest.mark.parametrize('arrays, fact', [
    (dict(x=np.zeros(3)), "expected an array 'w' of latents, found x"),
    (dict(w=np.zeros([2, 5, 3])), 'expected latents of shape [N, 4, 3], as this network has, found [2, 5, 3]'),
    (dict(w=np.zeros([2, 4, 4])), 'found [2, 4, 4]'),
    (dict(w=np.zeros([0, 4, 3])), 'found [0, 4, 3]'),
    (dict(w=np.array(['a'])), "expected an array 'w'"),
    (dict(w=np.full([1, 4, 3], np.nan)), 'no numbers'),
    (dict(w=np.zeros([2, 4, 3]), names=['a']), 'expected names to have 2 entries'),
    (dict(w=np.zeros([2, 4, 3]), names=['a', 'a']), 'there twice'),
    (dict(w=np.zeros([2, 4, 3]), noise0=np.zeros([1, 1, 4, 4])), 'expected noise0 to have 2 entries'),
    (dict(w=np.zeros([1, 4, 3]), noise0=np.zeros([1, 1, 4, 4]), noise1=np.zeros([1, 1, 4, 4])), 'not of the sizes'),
    (dict(w=np.zeros([1, 4, 3]), noise0=np.zeros([1, 1, 4, 4])), 'not of the sizes'),
    (dict(w=np.array([{'a': 1}], object)), 'holds something else than numbers and text'),
    (dict(w=np.full([1, 4, 3], 1e300)), 'no numbers'),
    (dict(w=np.zeros([2, 4, 3], int)), "expected an array 'w' of latents, found one of type int64"),
    (dict(w=np.zeros([1, 4, 3]), names=['']), "'' cannot be the name"),
    (dict(w=np.zeros([1, 4, 3]), names=['..']), "'..' cannot be the name"),
    (dict(w=np.zeros([1, 4, 3]), names=['a\0b']), r"'a\x00b' cannot be the name"),
    (dict(w=np.zeros([1, 4, 3]), names=['\ud800']), r"'\ud800' cannot be the name"),
    (dict(w=np.zeros([1, 4, 3]), names=[300 * 'a']), 'cannot be the name'),
    (dict(w=np.zeros([1, 4, 3]), names=np.full([1], 2**32 - 1, 'u4').view('<U1')), 'no characters'),
    (dict(w=np.zeros([1, 4, 3]), settings=np.full([1], 2**32 - 1, 'u4').view('<U1')), 'no characters'),
    (dict(w=np.zeros([1, 4, 3]), noise0=np.full([1, 1, 4, 4], 'a'), noise1=np.zeros([1, 1, 8, 8])), 'no fractional'),
    (dict(w=np.zeros([1, 4, 3]), noise0=np.full([1, 1, 4, 4], np.inf), noise1=np.zeros([1, 1, 8, 8])), 'infinite'),
    (b'PK\3\4 something else', 'no .npz of numbers'),
    (b'', 'no .npz of numbers'),
    (None, 'there is no such file')])
def test_what_does_not_fit_is_refused(Gs, tmp_path, arrays, fact):
    path = tmp_path / 'd.npz'
    if isinstance(arrays, bytes):
        path.write_bytes(arrays)
    elif arrays is not None:
        np.savez(path, **arrays)
    with pytest.raises(UserError) as caught:
        dlatents.load(str(path), Gs)
    assert fact in caught.value.fact and str(path) in caught.value.fact and caught.value.remedy


@pytest.mark.parametrize('settings', [100_000 * '[', '5', 'null', '{', ''])
def test_settings_that_are_none_are_left_out(Gs, tmp_path, settings):
    np.savez(tmp_path / 'd.npz', w=np.zeros([1, 4, 3]), settings=settings)
    assert dlatents.load(tmp_path / 'd.npz', Gs).settings == {}


# ---- Hostile files ----

@pytest.mark.parametrize('members, fact', [
    (dict(w=npz.zeros('<f4', (2**40, 4, 3))), 'expands to 52.8 TB, needs about'),
    (dict(w=npz.zeros('<f4', (2**20, 2**20, 3))), 'expected latents of shape'),
    (dict(w=npz.zeros('<f4', (2, 4, 3)), noise0=npz.zeros('<f4', (2, 2**50))), 'expands to'),
    (dict(w=npz.zeros('<f4', (2, 4, 3)), settings=npz.zeros('<U300000000', ())), 'expands to 1.2 GB'),
    (dict(w=npz.zeros('<f4', (2, 4, 3), written=5)), 'not hold as many numbers as it says'),
    (dict(w=npz.zeros('<f4', (2, 4, 3), written=1000)), 'not hold as many numbers as it says'),
    (dict(w=npz.zeros('<f4', (2, 4, -3))), 'something else than numbers'),
    (dict(w=npz.zeros('<f4', (2, 4, 3)).replace(b', 3)', b'( 3')), 'damaged header'),  # tokenize.TokenError
    (dict(w=npz.zeros('|O', (2, 4, 3))), 'something else than numbers')])
def test_headers_are_checked_before_anything_is_allocated(Gs, tmp_path, monkeypatch, members, fact):
    monkeypatch.setattr(memory, 'available_bytes', lambda: 2**30)
    npz.write(tmp_path / 'd.npz', members)
    with traced_memory() as peak, pytest.raises(UserError, match=fact) as caught:
        dlatents.load(tmp_path / 'd.npz', Gs)
    assert 'd.npz' in caught.value.fact and caught.value.remedy
    assert peak() < 2**20


def test_other_arrays_are_not_read(Gs, tmp_path):
    npz.write(tmp_path / 'd.npz', dict(w=npz.zeros('<f4', (2, 4, 3)), other=npz.zeros('<f4', (2**50,))))
    assert len(dlatents.load(tmp_path / 'd.npz', Gs)) == 2


@pytest.mark.parametrize('method', [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_compression_that_numpy_does_not_use_is_refused(Gs, tmp_path, method):
    npz.write(tmp_path / 'd.npz', dict(w=npz.zeros('<f4', (2, 4, 3))), method)
    with pytest.raises(UserError, match='compressed in a way'):
        dlatents.load(tmp_path / 'd.npz', Gs)
