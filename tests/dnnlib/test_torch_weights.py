"""PyTorch files: those written by PyTorch are read exactly, and hostile ones are refused without harm.

The files in tests/data were written by PyTorch (tests/reference); their contents are in feature_networks.npz.
"""

import contextlib
import os
import random
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from dnnlib.cli import UserError
from dnnlib.pickles import torch_weights
from metrics.features.vgg16 import LPIPS_LINEAR
from tests import DATA, torch_files
from tests.attacks.pickles import BOMBS, FOREIGN_CODE, NONSENSE
from tests.torch_files import Raw, code, storage, tensor, whole

NUMBERS = np.arange(4, dtype=np.float32)


def refused(path):
    """Load a file, which must fail with a one-line fact that begins with the path, and a remedy. Returns the fact."""
    with pytest.raises(UserError) as caught:
        torch_weights.load(path)
    assert caught.value.fact.startswith(f'{path}: ') and '\n' not in caught.value.fact and len(caught.value.fact) < 500
    assert caught.value.remedy
    return caught.value.fact


@pytest.fixture(params=['new', 'old'])
def write(request, tmp_path):
    """Function (pickle, data=...) -> path of a file of this format with them."""
    def write(description, data=None):
        path = tmp_path / 'weights.pth'
        form = torch_files.write_new if request.param == 'new' else torch_files.write_old
        form(path, description, {'0': NUMBERS.tobytes()} if data is None else data)
        return path
    return write


@pytest.mark.parametrize('file', ['odd.pth', 'odd-old.pth', 'model.pth', 'model-old.pth'])
def test_files_of_pytorch(file):
    kind = file.split('.')[0].removesuffix('-old')
    with np.load(DATA / 'feature_networks.npz') as golden:
        expected = {name.split('/')[1]: golden[name] for name in golden if name.startswith(f'{kind}/')}
    tensors = torch_weights.load(DATA / file)
    assert set(tensors) == set(expected) and len(expected) > 5
    for name, array in expected.items():
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array, name)
        assert not tensors[name].flags.writeable or array.size == 0


def test_strides_are_kept_and_nothing_is_copied():
    tensors = torch_weights.load(DATA / 'odd.pth')
    assert tensors['channels_last'].strides == (480, 4, 96, 12) and tensors['permuted'].strides == (32, 4, 160, 480)
    assert np.shares_memory(tensors['contiguous'], tensors['slice'])


def test_a_file_of_python_2_from_a_gpu():
    """The weights of LPIPS: strings of Python 2, an OrderedDict of pairs, storages that were on a GPU."""
    tensors = torch_weights.load(LPIPS_LINEAR)
    shapes = [tensors[f'lin{i}.model.1.weight'].shape for i in range(5)]
    assert shapes == [(1, c, 1, 1) for c in (64, 128, 256, 512, 512)]
    assert all((array > 0).all() and array.max() < 2 for array in tensors.values())


def test_own_writer_round_trip(tmp_path):
    rnd = np.random.RandomState(0)
    arrays = {'a': rnd.randn(2, 3, 4).astype(np.float32), 'b': np.array(7, np.int64), 'c': np.zeros([0, 2], np.float16)}
    torch_files.save(tmp_path / 'a.pth', arrays)
    tensors = torch_weights.load(tmp_path / 'a.pth')
    assert list(tensors) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(tensors[name], array)
        assert tensors[name].dtype == array.dtype


@pytest.mark.parametrize('form', ['new', 'old'])
def test_big_endian_files(form, tmp_path):
    data = {'0': NUMBERS.astype('>f4').tobytes()}
    if form == 'new':
        torch_files.write_new(tmp_path / 'a.pth', whole({'a': tensor(storage('0'))}), data, byteorder='big')
    else:
        torch_files.write_old(tmp_path / 'a.pth', whole({'a': tensor(storage('0'))}), data, little_endian=False)
    np.testing.assert_array_equal(torch_weights.load(tmp_path / 'a.pth')['a'], NUMBERS)


def test_the_attacks_below_are_one_step_from_a_good_file(write):
    np.testing.assert_array_equal(torch_weights.load(write(whole({'a': tensor(storage('0'))})))['a'], NUMBERS)


@pytest.mark.parametrize('name', sorted(set(FOREIGN_CODE) - {'BINPERSID'}))  # That is how these files refer to numbers.
def test_foreign_code_is_refused_by_name_and_not_run(name, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, expected = FOREIGN_CODE[name]
    fact = refused(write(data))
    assert expected in fact or 'dnnlib.tflib.network.Network' in fact  # whose name already is too much here
    assert os.listdir(tmp_path) == ['weights.pth']


@pytest.mark.parametrize('call', [
    b'ctorch\nload\n', b'ctorch.hub\nload\n', b'ctorch._utils\n_rebuild_wrapper_subclass\n',
    b'ctorch.storage\n_load_from_bytes\n',
    b'ctorch.jit\nload\n', b'ctorch._utils\n_rebuild_device_tensor_from_numpy\n', b'ctorch.nn.modules.linear\nLinear\n',
    b'cnumpy.core.multiarray\n_reconstruct\n', b'ctorch\nFloatStorage.from_file\n'])
def test_other_functions_of_pytorch_are_refused(call, write):
    name = call[1:-1].decode().replace('\n', '.')
    assert name in refused(write(whole({'a': Raw(call + code(('RAN',)) + b'R')})))


@pytest.mark.parametrize('name', NONSENSE)
def test_nonsense_is_refused(name, write):
    refused(write(NONSENSE[name]))


@pytest.mark.parametrize('name', BOMBS)
def test_bomb_ends_soon_in_little_memory(name, tmp_path):
    data, path = BOMBS[name], tmp_path / 'weights.pth'
    torch_files.write_old(path, data, {})
    start = time.monotonic()
    tracemalloc.start()
    try:
        refused(path)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start < 30
    assert peak < 2**20 + 100 * len(data)


BAD_TENSORS = {
    'beyond its numbers':       tensor(storage('0'), 1),
    'strides beyond':           tensor(storage('0'), 0, (2, 2), (3, 1)),
    'far offset':               tensor(storage('0'), 2**50, (1,), (1,)),
    'offset above all':         tensor(storage('0'), 2**70, (1,), (1,)),
    'offset below 0':           tensor(storage('0'), -1),
    'stride below 0':           tensor(storage('0'), 3, (4,), (-1,)),
    'size below 0':             tensor(storage('0'), 0, (-4, -1), (1, 1)),
    'one number 2**40 times':   tensor(storage('0'), 0, (2**20, 2**20), (0, 0)),
    'one number 5 times':       tensor(storage('0'), 0, (5,), (0,)),
    'sizes that overflow':      tensor(storage('0'), 0, (2**32, 2**32), (2**32, 1)),
    'strides that overflow':    tensor(storage('0'), 0, (2, 1), (2**59, 1)),
    'more strides than sizes':  tensor(storage('0'), 0, (4,), (1, 1)),
    'a boolean as size':        tensor(storage('0'), 0, (True,), (1,)),
    'a list as shape':          tensor(storage('0'), 0, [4], (1,)),
    '40 dimensions':            tensor(storage('0'), 0, (1,) * 40, (1,) * 40),
    'empty, huge sizes':        tensor(storage('0'), 0, (0, 2**59, 2**59), (1, 1, 1)),
    'no storage':               tensor('0'),
    'a tensor as storage':      tensor(tensor(storage('0'))),
    'unknown storage':          tensor(storage('1')),
    'path as key':              tensor(storage('../data.pkl')),
    'number as key':            tensor(storage(0)),
    'storage too long':         tensor(storage('0', length=5)),
    'storage of 2**50 numbers': tensor(storage('0', length=2**50)),
    'storage of -1 numbers':    tensor(storage('0', length=-1)),
    'larger numbers':           tensor(storage('0', 'Double')),
    'unknown numbers':          tensor(storage('0', 'QInt8')),
    'storage of a wrong kind':  tensor(Raw(code(('storage', Raw(b'ccollections\nOrderedDict\n'), '0', 'cpu', 4))
                                           + b'Q')),
    'module as storage':        tensor(Raw(code(('module', Raw(b'ctorch\nFloatStorage\n'), '0', 'cpu', 4)) + b'Q')),
    'short reference':          tensor(Raw(code(('storage',)) + b'Q')),
    'reference by name':        tensor(Raw(b'P0\n')),
    'shared storages':          tensor(Raw(code(('storage', Raw(b'ctorch\nFloatStorage\n'), '0', 'cpu', 4,
                                                 ('1', 0, 4))) + b'Q')),
    'storage called':           Raw(b'ctorch\nFloatStorage\n' + code((4,)) + b'R'),
    'only a storage':           storage('0'),
    'only a name':              Raw(b'ctorch\nFloatStorage\n'),
    'parameter of a list':      Raw(b'ctorch._utils\n_rebuild_parameter\n' + code(([], True, {})) + b'R'),
    'state of a tensor':        Raw(tensor(storage('0')) + b'}b'),
    'a number':                 5,
    'a list':                   [tensor(storage('0'))],
    'a checkpoint in it':       {'a': tensor(storage('0'))},
}


@pytest.mark.parametrize('name', BAD_TENSORS)
def test_bad_tensors_are_refused(name, write):
    refused(write(whole({'good': tensor(storage('0')), 'bad': BAD_TENSORS[name]})))


def test_one_storage_described_twice_is_refused(write):
    refused(write(whole({'a': tensor(storage('0')), 'b': tensor(storage('0', 'Int'))})))


@pytest.mark.parametrize('value', [[], {}, 5, 'text', None, [tensor(storage('0'))]])
def test_what_is_no_dictionary_of_tensors_is_refused(value, write):
    assert 'not a dictionary of tensors' in refused(write(whole(value)))


# ---- The zip format ----

GOOD = whole({'a': tensor(storage('0'))})


def zip_file(path, entries, **options):
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in entries:
            archive.writestr(name, content, **options)
    return path


@pytest.mark.parametrize('entries', [
    [('readme.txt', b'')], [('data.pkl', GOOD), ('data/0', bytes(16))], [('a/b/data.pkl', GOOD)],
    [('a/data.pkl', GOOD), ('b/data.pkl', GOOD), ('a/data/0', bytes(16))],
    [('a/data.pkl', GOOD)], [('a/data.pkl', GOOD), ('b/data/0', bytes(16))],
    [('a/data.pkl', GOOD), ('a/data/0', bytes(16)), ('a/byteorder', b'middle')],
    [('a/data.pkl', GOOD), ('a/data/0', bytes(15))],
    [('a/data.pkl', GOOD[:-1]), ('a/data/0', bytes(16))], [('a/data.pkl', GOOD + b'N.'), ('a/data/0', bytes(16))]])
def test_other_archives_are_refused(entries, tmp_path):
    refused(zip_file(tmp_path / 'a.pth', entries))


def test_compressed_parts_are_refused(tmp_path):
    path = zip_file(tmp_path / 'a.pth', [('a/data.pkl', GOOD), ('a/data/0', bytes(2**28))],
                    compress_type=zipfile.ZIP_DEFLATED)
    assert 'compressed' in refused(path)


def test_parts_that_are_not_where_the_table_says_are_refused(tmp_path):
    path = zip_file(tmp_path / 'a.pth', [('a/data.pkl', GOOD), ('a/data/0', NUMBERS.tobytes())])
    content = path.read_bytes()
    second = content.index(b'PK\x01\x02', content.index(b'PK\x01\x02') + 4)
    for position, value in (20, 2**31), (24, 2**31), (42, 2**31), (42, 5), (42, 0):  # Sizes, and the offset of a part.
        path.write_bytes(content[:second + position] + struct.pack('<I', value) + content[second + position + 4:])
        if (position, value) != (42, 0):  # Then the first part, which is long enough, is taken for the second.
            refused(path)
    assert torch_weights.load(path)['a'].tobytes() == GOOD[:16]


# ---- The old format ----

@pytest.mark.parametrize('data', [
    {}, {'1': NUMBERS.tobytes()}, {'0': bytes(12)}, {'0': bytes(20)}, {'0': bytes(16), '1': bytes(16)},
    {'0': bytes(16), 1: b''}])
def test_other_storages_than_those_of_the_tensors_are_refused(data, tmp_path):
    torch_files.write_old(tmp_path / 'a.pth', GOOD, data)
    refused(tmp_path / 'a.pth')


@pytest.mark.parametrize('length', [-1, -2**63, 2**62, 5])
def test_false_lengths_are_refused(length, tmp_path):
    torch_files.write_old(tmp_path / 'a.pth', GOOD, {'0': NUMBERS.tobytes()})
    content = (tmp_path / 'a.pth').read_bytes()
    (tmp_path / 'a.pth').write_bytes(content[:-24] + struct.pack('<q', length) + content[-16:])
    refused(tmp_path / 'a.pth')


@pytest.mark.parametrize('content', [
    b'', b'a', b'<html>', bytes(600), whole(5), whole(0x1950a86a20f9469cfc6c) + whole(1000),
    bytes(257) + b'ustar' + bytes(300),
    whole(0x1950a86a20f9469cfc6c) + whole(1001) + whole([]), whole(0x1950a86a20f9469cfc6c) + whole(1001) + whole({})])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / 'a.pth').write_bytes(content)
    refused(tmp_path / 'a.pth')


def test_missing_file(tmp_path):
    assert 'No such file' in refused(tmp_path / 'a.pth')


# ---- Damage ----

@pytest.mark.parametrize('file', ['odd.pth', 'odd-old.pth'])
def test_every_truncation_is_refused(file, tmp_path):
    content = (DATA / file).read_bytes()
    for length in [*range(0, len(content), 37), len(content) - 1]:
        (tmp_path / 'a.pth').write_bytes(content[:length])
        refused(tmp_path / 'a.pth')


@pytest.mark.parametrize('file', ['odd.pth', 'odd-old.pth'])
def test_random_damage_never_ends_in_a_crash(file, tmp_path):
    rnd, content = random.Random(1), (DATA / file).read_bytes()
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(rnd.randint(1, 4)):
            damaged[rnd.randrange(len(content))] = rnd.randrange(256)
        (tmp_path / 'a.pth').write_bytes(damaged)
        with contextlib.suppress(UserError):
            for array in torch_weights.load(tmp_path / 'a.pth').values():
                array.sum()
