"""Networks as .npz and .safetensors: there and back, as others write and read them, and damaged or hostile ones."""

import io
import json
import struct
import zipfile

import numpy as np
import pytest

from dnnlib.cli import UserError
from dnnlib.pickles import legacy_pickle, network_files
from tests.attacks import npz
from tests.attacks.limits import traced_memory
from tests.dnnlib.test_legacy_pickle import three_networks


@pytest.fixture(params=['a.npz', 'a.safetensors'])
def path(request, tmp_path):
    return tmp_path / request.param


def states():
    """(G, D, Gs) without source code and with plain settings, which is what these formats keep."""
    networks = three_networks()
    for net in networks:
        for part in (net, *net.components.values()):
            part.build_module_src = ''
    return networks


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.name, a.static_kwargs, a.build_func_name) == (b.name, b.static_kwargs, b.build_func_name)
        assert [name for name, _ in a.variables] == [name for name, _ in b.variables]
        for (name, x), (_, y) in zip(a.variables, b.variables, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y, name)
        assert list(a.components) == list(b.components)
        assert_equal(a.components.values(), b.components.values())


def test_there_and_back(path):
    network_files.dump(states(), path)
    assert_equal(network_files.load(path), states())
    first = path.read_bytes()
    network_files.dump(network_files.load(path), path)
    assert path.read_bytes() == first


def test_pickles_are_read_as_before(tmp_path):
    legacy_pickle.dump(states(), tmp_path / 'a.pkl')
    assert_equal(network_files.load(tmp_path / 'a.pkl'), states())


def test_numpy_reads_our_npz(tmp_path):
    network_files.dump(states(), tmp_path / 'a.npz')
    with np.load(tmp_path / 'a.npz', allow_pickle=False) as data:
        assert data['Gs/4x4/Conv/weight'].shape == (3, 3, 20, 8)
        assert data['Gs/G_synthesis/4x4/Conv/weight'].shape == (3, 3, 20, 8)
        assert json.loads(str(data['networks']))[1]['name'] == 'D'


def read_safetensors(path):
    """(header, bytes of the arrays), by the description of the format alone."""
    data = path.read_bytes()
    length = struct.unpack('<Q', data[:8])[0]
    return json.loads(data[8:8 + length]), data[8 + length:]


def test_safetensors_are_as_described(tmp_path):
    path = tmp_path / 'a.safetensors'
    network_files.dump(states(), path)
    header, numbers = read_safetensors(path)
    assert (len(path.read_bytes()) - len(numbers)) % 8 == 0
    entry = header['Gs/G_synthesis/4x4/Conv/weight']
    assert (entry['dtype'], entry['shape']) == ('F32', [3, 3, 20, 8])
    begin, end = entry['data_offsets']
    weight = dict(states()[2].components['synthesis'].variables)['4x4/Conv/weight']
    assert numbers[begin:end] == weight.astype('<f4').tobytes()
    assert all(isinstance(value, str) for value in header['__metadata__'].values())


def refused(path):
    with pytest.raises(UserError) as caught:
        network_files.load(path)
    assert caught.value.fact.startswith(f'{path}: ') and '\n' not in caught.value.fact and len(caught.value.fact) < 600
    assert caught.value.remedy
    return caught.value.fact


def test_every_truncation_and_addition_is_refused(path):
    network_files.dump(states(), path)
    data = path.read_bytes()
    for length in [*range(1, 60), *(len(data) * part // 20 for part in range(20)), len(data) - 1]:
        path.write_bytes(data[:length])
        refused(path)
    if path.suffix == '.safetensors':
        path.write_bytes(data + b'\0')
        assert 'goes on for 1 bytes' in refused(path)


@pytest.mark.parametrize('change', [
    dict(shape=[2**40]), dict(shape=[-1]), dict(shape=[True] * 40), dict(shape='abc'), dict(dtype='F8'),
    dict(dtype=['F32']), dict(data_offsets=[0, 2**62]), dict(data_offsets=[4, 2]), dict(data_offsets=[0]),
    dict(data_offsets=[0, 4, 8]), dict(data_offsets=None)])
def test_safetensors_with_sizes_that_lie(tmp_path, change):
    path = tmp_path / 'a.safetensors'
    network_files.dump(states(), path)
    header, numbers = read_safetensors(path)
    name = next(name for name in header if name.endswith('Conv/weight'))
    header[name] = {**header[name], **change}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack('<Q', len(text)) + text + numbers)
    with traced_memory() as peak:
        refused(path)
    assert peak() < 2**22 + 3 * len(numbers)


@pytest.mark.parametrize('description, found', [
    ('{}', 'no list'), ('[1]', 'without name'), ('[]', 'belongs to none'), ('no json', 'damaged'),
    ('[' * 100000, 'damaged'), (None, 'does not say'),
    (json.dumps([dict(name='G', func_name='G_main', module='', static_kwargs=[], components={})]), 'without name'),
    (json.dumps([dict(name='G', func_name='G_main', module='', static_kwargs={},
                      components={str(i): 0 for i in range(9)})]), 'more networks')])
def test_descriptions_that_are_none(path, description, found):
    x, entries = np.zeros(3, np.float32), {} if description is None else {'networks': description}
    with open(path, 'wb') as file:
        if path.suffix == '.npz':
            np.savez(file, x=x, **entries)
        else:
            network_files._write_safetensors(file, {'x': x}, 'x')
            header = dict(x=dict(dtype='F32', shape=[3], data_offsets=[0, 12]), __metadata__=entries)
            text = json.dumps(header).encode()
            file.seek(0)
            file.truncate()
            file.write(struct.pack('<Q', len(text)) + text + x.tobytes())
    assert found in refused(path)


def test_npz_that_would_fill_the_memory(tmp_path):
    path, text = tmp_path / 'a.npz', io.BytesIO()
    np.lib.format.write_array(text, np.asarray('[]'), (1, 0))
    npz.write(path, {'networks': text.getvalue(), 'G/x': npz.zeros('<f4', (2**45,))})
    assert 'which expands to' in refused_with_any_fact(path)
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_LZMA) as archive:
        archive.writestr('networks.npy', text.getvalue())
    assert 'compressed in a way' in refused(path)


def refused_with_any_fact(path):
    with pytest.raises(UserError) as caught:
        network_files.load(path)
    return caught.value.fact
