"""Network pickles of PyTorch: read exactly, and hostile ones refused without harm."""

import hashlib
import mmap
import os
import time

import numpy as np
import pytest

from dnnlib.cli import UserError
from dnnlib.pickles import legacy_pickle, torch_networks
from dnnlib.pickles.reader import BoundedStream
from tests.attacks import torch_networks as attacks
from tests.attacks.limits import traced_memory
from tests.dnnlib.test_legacy_pickle import assert_same, load_bytes, refused
from tests.golden import GOLDEN_ADA, load_json

VARIANTS = load_json('networks/variants.json', GOLDEN_ADA)


# ---- Reading ----

@pytest.mark.golden('STYLEGAN2_GOLDEN_ADA')
@pytest.mark.parametrize('name', VARIANTS)
def test_tensors_have_the_listed_names_shapes_and_values(name):
    with open(GOLDEN_ADA / 'networks' / f'{name}.pkl', 'rb') as file:
        snapshot = torch_networks.SnapshotReader(BoundedStream(file.read())).load()
    expected = load_json(f'networks/{name}.vars.json', GOLDEN_ADA)
    assert {'G', 'D', 'G_ema'} <= set(expected)
    for net, rows in expected.items():
        found = {
            key: [list(x.shape), hashlib.sha256(np.ascontiguousarray(x, '<f4').tobytes()).hexdigest()[:16]]
            for key, x in torch_networks._tensors(snapshot[net], [2**40])
        }
        assert found == {key: [shape, sha256] for key, shape, _, sha256 in rows}


@pytest.mark.golden('STYLEGAN2_GOLDEN_ADA')
@pytest.mark.parametrize('name', VARIANTS)
def test_origin(name):
    case = VARIANTS[name]
    networks = legacy_pickle.load(GOLDEN_ADA / 'networks' / f'{name}.pkl')
    assert [network.name for network in networks] == ['G', 'D', 'Gs']
    for network in networks:
        assert network.origin['training_set_kwargs']['resolution'] == case['img_resolution']
        pipe = network.origin['augment_pipe']
        assert (pipe and pipe['p']) == case['augment_p']
        assert pipe is None or (pipe['xflip'], pipe['noise'], pipe['imgfilter_bands']) == (1, 0, [1, 1, 1, 1])


def test_a_snapshot_of_our_own_is_read(tmp_path, monkeypatch):
    """Otherwise the attacks below, which are made of its parts, might be refused for another reason."""
    monkeypatch.chdir(tmp_path)
    G, D, Gs = load_bytes(attacks.snapshot())
    assert (G.name, D.name, Gs.name) == ('G', 'D', 'Gs')
    assert G.origin == {'training_set_kwargs': {'path': 'cats.zip', 'resolution': 4},
                        'augment_pipe': {'xflip': 1.0, 'imgfilter_bands': [1, 1, 1, 1], 'p': 0.25}}
    assert dict(G.variables)['dlatent_avg'].shape == (5,)
    assert dict(G.components['synthesis'].variables)['4x4/Const/const'].shape == (1, 6, 4, 4)
    assert dict(D.variables)['4x4/Dense0/weight'].shape == (96, 6)
    assert os.listdir(tmp_path) == []  # Source code of the modules was not run.


def test_strides_are_kept_and_nothing_is_copied():
    weights = np.arange(6 * 4 * 4, dtype=np.float32)
    value = attacks.tensor(weights, shape=(6, 4, 4), strides=(1, 24, 6))
    const = dict(load_bytes(attacks.with_tensor(value))[0].components['synthesis'].variables)['4x4/Const/const']
    np.testing.assert_array_equal(const[0], weights.reshape(4, 4, 6).transpose(2, 0, 1))
    assert const.strides[1:] == (4, 96, 24) and not const.flags.writeable


@pytest.mark.golden('STYLEGAN2_GOLDEN_ADA')
@pytest.mark.parametrize('own', [False, True])
def test_weights_of_a_file_are_views_of_the_mapped_file(own, tmp_path, monkeypatch):
    """In files of PyTorch, and in those whose tuples begin with a MARK."""
    monkeypatch.setattr('dnnlib.pickles.reader._VIEW_BYTES', 64)
    path = tmp_path / 'own.pkl' if own else GOLDEN_ADA / 'networks' / 'auto.pkl'
    if own:
        path.write_bytes(attacks.snapshot())
    networks = legacy_pickle.load(path)
    for weight in (dict(networks[0].components['synthesis'].variables)['4x4/Const/const'],
                   dict(networks[1].variables)['4x4/Dense0/weight']):
        assert isinstance(owner_of(weight), mmap.mmap)
    assert_same(networks, load_bytes(path.read_bytes()))


def owner_of(array):
    """What holds the memory of an array."""
    while hasattr(array, 'base'):
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


def test_big_endian_numbers():
    weights = np.arange(96, dtype=np.float32).reshape(6, 4, 4)
    storage = attacks.storage_bytes(weights.tobytes(), info={**attacks.INFO, 'little_endian': False})
    begin = len(storage) - weights.nbytes - 8
    storage = storage[:begin] + storage[begin:begin + 8][::-1] + weights.astype('>f4').tobytes()
    value = attacks.tensor(weights, storage=storage)
    const = dict(load_bytes(attacks.with_tensor(value))[0].components['synthesis'].variables)['4x4/Const/const']
    np.testing.assert_array_equal(const[0], weights)


def test_generators_of_stylegan3_get_one_clear_line():
    more = {'input': attacks.module('SynthesisInput'), 'L0_36_512': attacks.module('SynthesisLayer')}
    data = attacks.snapshot(G=attacks.generator(more))
    assert 'generator of StyleGAN3' in refused(data)


# ---- Hostile files ----

def refused_quickly(data):
    """`refused`, within seconds and little memory. Returns the fact."""
    start = time.monotonic()
    with traced_memory() as peak:
        fact = refused(data)
    assert time.monotonic() - start < 30  # Much, because tracing makes it several times slower.
    assert peak() < 2**24 + 3 * len(data)
    return fact


@pytest.mark.parametrize('name', attacks.FOREIGN_NAMES)
def test_foreign_names_are_refused_by_name_and_not_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, expected = attacks.FOREIGN_NAMES[name]
    assert expected in refused(data)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('name', attacks.REFUSED)
def test_other_uses_of_allowed_names_are_refused(name):
    refused(attacks.REFUSED[name])


@pytest.mark.parametrize('name', attacks.BOMBS)
def test_bomb_ends_soon_in_little_memory(name):
    refused_quickly(attacks.BOMBS[name])


def test_every_truncation_is_refused():
    data = attacks.snapshot()
    for part in range(20):
        refused(data[:len(data) * part // 20])
    for length in range(1, len(data), 97):
        refused(data[:length])


@pytest.mark.golden('STYLEGAN2_GOLDEN_ADA')
def test_truncated_files_of_pytorch_are_refused():
    data = (GOLDEN_ADA / 'networks' / f'{next(iter(VARIANTS))}.pkl').read_bytes()
    for part in range(20):
        refused(data[:len(data) * part // 20])


def test_random_damage_never_ends_in_a_crash():
    rnd, data = np.random.RandomState(1), attacks.snapshot()
    num_refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for position in rnd.randint(0, len(data), rnd.randint(1, 5)):
            damaged[position] = rnd.randint(256)
        try:
            load_bytes(bytes(damaged))
        except UserError:
            num_refused += 1
    assert num_refused > 30


def test_reading_takes_memory_of_three_times_the_file():
    weights = np.ones([6, 2**20], np.float32)
    data = attacks.with_tensor(attacks.tensor(weights))
    with traced_memory() as peak:
        load_bytes(data)
    assert peak() < 2**22 + 3 * len(data)
