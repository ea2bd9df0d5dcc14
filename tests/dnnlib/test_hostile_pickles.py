"""Hostile pickles: no code is run, only data is allowed, and no file can end the process."""

import contextlib
import copyreg
import os
import pickle
import random
import time

import numpy as np
import pytest

from dnnlib.cli import UserError
from dnnlib.pickles import legacy_pickle
from tests.attacks.limits import traced_memory
from tests.attacks.pickles import BOMBS, COMMAND, FOREIGN_CODE, NONSENSE, Calls
from tests.dnnlib.test_legacy_pickle import assert_same, load_bytes, refused, three_networks


@pytest.mark.parametrize('name', FOREIGN_CODE)
def test_foreign_code_is_refused_by_name_and_not_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, expected = FOREIGN_CODE[name]
    copyreg.add_extension('os', 'system', 240)
    try:
        fact = refused(data)
    finally:
        copyreg.remove_extension('os', 'system', 240)
    assert expected in fact
    assert os.listdir(tmp_path) == []


def test_the_sentinel_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(FOREIGN_CODE['GLOBAL'][0])
    assert os.listdir(tmp_path) == ['RAN']


@pytest.mark.parametrize('name', NONSENSE)
def test_nonsense_is_refused(name):
    refused(NONSENSE[name])


@pytest.mark.parametrize('name', BOMBS)
def test_bomb_ends_soon_in_little_memory(name):
    data = BOMBS[name]
    start = time.monotonic()
    with traced_memory() as peak:
        refused(data)
    assert time.monotonic() - start < 30  # Much, because tracing makes it several times slower.
    assert peak() < 2**20 + 100 * len(data)


def test_arrays_of_objects_are_refused():
    assert "'O8'" in refused(pickle.dumps(np.array([Calls(os.system, COMMAND)], dtype=object)))


def test_numpy_and_our_own_functions_are_unchanged_by_attacks():
    for data in NONSENSE.values():
        refused(data)
    assert np.dtype('f4').isnative and np.dtype('float32').itemsize == 4
    assert_same(load_bytes(pickle.dumps(np.arange(3.0))), np.arange(3.0))


def test_every_truncation_is_refused(tmp_path):
    legacy_pickle.dump(three_networks(), tmp_path / 'net.pkl')
    data = (tmp_path / 'net.pkl').read_bytes()
    for length in [*range(0, len(data), 1000), *range(1, 200), len(data) - 1]:
        refused(data[:length])


def test_random_damage_never_ends_in_a_crash(tmp_path):
    legacy_pickle.dump(three_networks(), tmp_path / 'net.pkl')
    rnd, data = random.Random(1), (tmp_path / 'net.pkl').read_bytes()
    # Mostly instructions, few weights.
    interesting = [i for i in range(len(data)) if not 1000 < i % 5000 < 5000]
    for _ in range(500):
        damaged = bytearray(data)
        for _ in range(rnd.randint(1, 4)):
            damaged[rnd.choice(interesting)] = rnd.randrange(256)
        with contextlib.suppress(UserError):
            load_bytes(bytes(damaged))
