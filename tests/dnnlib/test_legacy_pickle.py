"""Network pickles: reading those of the original, writing those that others read, and refusing hostile ones."""

import collections
import io
import json
import os
import pickle
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest

from dnnlib import EasyDict
from dnnlib.cli import UserError
from dnnlib.pickles import legacy_pickle, network_state, reader
from dnnlib.pickles.legacy_pickle import NetworkState
from tests.attacks.pickles import pickled_state
from tests.golden import GOLDEN

GOLDEN_PICKLES = sorted(str(path.relative_to(GOLDEN))
                        for folder in ('losses', 'metrics', 'networks', 'projector', 'training')
                        # Other sets of pickles may lie beside these.
                        for path in (GOLDEN / folder).glob('*.pkl'))


def network(name, **changes):
    """A small network with variables of every kind."""
    rnd = np.random.RandomState(1)
    fields = dict(
        name=name, static_kwargs={'resolution': 16, 'fmap_base': 128, 'nonlinearity': 'lrelu', 'mapping_lrmul': 0.01,
                                  'resample_kernel': [1, 3, 3, 1], 'truncation_psi': None, 'use_noise': True},
        components={}, build_func_name=f'{name}_func', build_module_src='import os\nos.abort()\n',
        variables=[('lod', np.float32(0)), ('4x4/Conv/weight', rnd.randn(3, 3, 20, 8).astype(np.float32)),
                   ('noise0', np.zeros([1, 1, 4, 4]))])
    return NetworkState(**{**fields, **changes})


def three_networks():
    parts = {'synthesis': network('G_synthesis'), 'mapping': network('G_mapping')}
    return network('G', components=parts), network('D'), network('Gs', components=parts)


def assert_same(a, b, where='result'):
    """Compare types, order and every bit."""
    assert type(a) is type(b), f'{where}: {type(a)} and {type(b)}'
    if isinstance(a, NetworkState):
        assert_same(vars(a), vars(b), f'{where}.{a.name}')
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f'{where}/{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f'{where}/{i}')
    elif isinstance(a, (np.ndarray, np.generic)):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), where
    else:
        assert a == b, where


def load_bytes(data):
    return legacy_pickle.load(io.BytesIO(data))


def refused(data):
    """Load `data`, which must fail with a UserError of two clean lines. Returns the fact."""
    with pytest.raises(UserError) as caught:
        load_bytes(data)
    assert caught.value.__cause__ is None
    fact = caught.value.fact
    assert fact.startswith('the stream: ') and '\n' not in fact and len(fact) < 400
    assert caught.value.remedy and '\n' not in caught.value.remedy
    return caught.value.fact


# ---- Golden pickles ----

@pytest.mark.golden
def test_golden_folder_holds_pickles():
    assert GOLDEN_PICKLES


@pytest.mark.golden
@pytest.mark.parametrize('name', GOLDEN_PICKLES)
def test_golden_pickle_is_read_and_survives_writing(name, tmp_path):
    result = legacy_pickle.load(GOLDEN / name)
    legacy_pickle.dump(result, tmp_path / 'copy.pkl')
    assert_same(legacy_pickle.load(tmp_path / 'copy.pkl'), result)


@pytest.mark.golden
@pytest.mark.parametrize('name',
                         [name for name in GOLDEN_PICKLES if (GOLDEN / name).with_suffix('.vars.json').exists()])
def test_golden_variables_have_the_listed_names_and_shapes(name):
    expected = json.loads((GOLDEN / name).with_suffix('.vars.json').read_text())
    networks = legacy_pickle.load(GOLDEN / name)
    assert [net.name for net in networks] == list(expected)
    for net in networks:
        found = [[var, list(np.shape(value))] for var, value in net.variables]
        for component in net.components.values():
            found += [[f'{component.name}/{var}', list(np.shape(value))] for var, value in component.variables]
        assert found == [[var, shape] for var, shape, _trainable in expected[net.name]]


# ---- Reading pickles of other writers ----

@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol_reads_as_pickle_reads_it(protocol):
    data = {
        'numbers': [0, 255, 65535, 2**31, -2**31, -2**70, 0.5, float('inf'), True, False, None],
        'text': 'ab\u1234 \n\\\'"',
        'bytes': [b'', b'\x00\xff'], 'tuples': ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), 'nested': {'a': [{}, []]},
        'ordered': collections.OrderedDict([('z', 1), ('a', 2)]), 'easy': EasyDict(a=1, b=[2]),
        'arrays': [np.arange(6, dtype=dtype).reshape(2, 3) for dtype in ('u1', 'i4', 'i8', 'f2', 'f4', 'f8', 'c8')],
        'order': np.arange(600.0).reshape(20, 30).T, 'empty': np.zeros([0, 3]), 'bool': np.array([True, False]),
        'scalars': [np.float32(0.1), np.int64(-1), np.bool_(True)], 'zero dims': np.array(3.5),
        'long': [b'\xff\n' * 70000, '\xff\n' * 70000, np.arange(40000)],
    }
    if protocol < 2:
        del data['easy']  # needs copyreg._reconstructor there, which is not admitted
    pickled = pickle.dumps(data, protocol)
    assert_same(load_bytes(pickled), pickle.loads(pickled))


def test_a_pipe_is_read():
    reader, writer = os.pipe()
    with open(writer, 'wb') as file:
        file.write(pickle.dumps({'a': 1}))
    with open(reader, 'rb') as file:
        assert legacy_pickle.load(file) == {'a': 1}


def test_long_strings_of_python_2_are_text():
    assert load_bytes(b'\x80\x02T\x00\x00\x02\x00' + b'\xe9' * 2**17 + b'.') == '\xe9' * 2**17


def test_python_2_pickle_is_read_as_latin1():
    data = (b'\x80\x02}q\x01(U\x04nameq\x02U\x02\xe9aq\x03U\x05arrayq\x04cnumpy.core.multiarray\n'
            b'_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x02\x85cnumpy\n'
            b'dtype\nq\x08U\x02f4K\x00K\x01\x87Rq\x09(K\x03U\x01<NNNJ\xff\xff\xff'
            b'\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80\x3f\x00\x00\x80\xbftb'
            b'U\x01oq\x0accollections\nOrderedDict\n]]'
            b'(U\x01kK\x05ea\x85RU\x01eq\x0bcdnnlib.util\nEasyDict\n)\x81q\x0cU\x01xNs}q\x0dbu.')
    expected = {'name': '\xe9a', 'array': np.array([1, -1], np.float32), 'o': collections.OrderedDict(k=5),
                'e': EasyDict(x=None)}
    assert_same(load_bytes(data), expected)


@pytest.mark.parametrize('version', [2, 3])
def test_old_versions_have_no_components(version):
    net = load_bytes(pickled_state(version=version, components=None))
    assert (net.version, net.components) == (version, {})


@pytest.mark.parametrize('version', [4, 5])
def test_new_versions_need_their_components(version):
    assert load_bytes(pickled_state(version=version)).version == version
    assert 'without components' in refused(pickled_state(version=version, components=None))


@pytest.mark.parametrize('changes', [
    dict(version=1), dict(version=6), dict(version='4'), dict(version=None), dict(version=4.0),
    dict(name=3), dict(name=None),
    dict(static_kwargs=[]), dict(components=[]), dict(components={'mapping': 3}), dict(components={'mapping': {}}),
    dict(build_func_name=None), dict(build_module_src=b''), dict(variables={}), dict(variables=[3]),
    dict(variables=[('lod',)]),
    dict(variables=[()]),
    dict(variables=[(1, np.zeros(1))]), dict(variables=[('lod', 'x')]), dict(variables=['ab']), dict(variables=None),
])
def test_wrong_network_state_is_refused(changes):
    assert 'network' in refused(pickled_state(**changes))


def test_source_code_in_the_pickle_stays_text(tmp_path):
    sentinel = tmp_path / 'ran'
    source = f'open({str(sentinel)!r}, "w")\nraise SystemExit\n'
    assert load_bytes(pickled_state(build_module_src=source)).build_module_src == source
    assert not sentinel.exists()


@pytest.mark.parametrize('content, expected', [
    (b'', 'empty'), (b'\n<!DOCTYPE html><html>', 'HTML'), (b'\xef\xbb\xbf<html>', 'HTML'),
    (b'PK\x03\x04abc', 'PyTorch'),
    (b'\x1f\x8b\x08abc', 'gzip'), (b'\x89HDF\r\n', 'HDF5'), (b'\x89PNG\r\n', 'PNG'),
    (b'version https://git-lfs.github.com/spec/v1\n', 'LFS'),
    (b'\x80\x04N.N.', '2 bytes after the end'), (b'hello', 'no readable pickle'), (b'\x00' * 100, 'no readable pickle'),
])
def test_other_files_are_named_for_what_they_are(content, expected, tmp_path):
    path = tmp_path / 'net.pkl'
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        legacy_pickle.load(path)
    assert caught.value.fact.startswith(f'{path}: ') and expected in caught.value.fact
    assert caught.value.remedy


@pytest.mark.parametrize('name', ['missing.pkl', '.'])
def test_unreadable_path_is_named(name, tmp_path):
    with pytest.raises(UserError, match='cannot be read') as caught:
        legacy_pickle.load(tmp_path / name)
    assert str(tmp_path / name) in caught.value.fact


# ---- The checksum of a network ----

def changed_bytes(data):
    """Yield (position, copy of `data` in which the byte at that position is another)."""
    for pos in range(len(data)):
        yield pos, data[:pos] + bytes([data[pos] ^ (1 << pos % 8)]) + data[pos + 1:]


def test_no_changed_byte_changes_a_network(tmp_path):
    networks = tuple(network(name, build_module='training.networks_stylegan',
                             variables=[('lod', np.float32(1)), ('bias', np.arange(3, dtype=np.float32))])
                     for name in ('G', 'D', 'Gs'))
    legacy_pickle.dump(networks, tmp_path / 'net.pkl')
    for pos, changed in changed_bytes((tmp_path / 'net.pkl').read_bytes()):
        try:
            found = load_bytes(changed)
        except UserError:
            continue
        # What is left are bytes without meaning, such as the protocol and the name of the checksum itself.
        assert len(found) == 3, pos
        for net, expected in zip(found, networks):
            assert_same({**vars(net), 'version': 4}, vars(expected), f'byte {pos}')


@pytest.mark.parametrize('place, name', enumerate(['G_synthesis', 'G_mapping', 'G', 'D']))
def test_a_changed_weight_is_found_and_its_network_named(place, name, tmp_path):
    legacy_pickle.dump(three_networks(), tmp_path / 'net.pkl')
    data = (tmp_path / 'net.pkl').read_bytes()
    weights = three_networks()[0].variables[1][1].tobytes()  # Of all networks.
    pos = [match.start() for match in re.finditer(re.escape(weights), data)][place] + 1000
    fact = refused(data[:pos] + bytes([data[pos] ^ 64]) + data[pos + 1:])
    assert f"'{name}'" in fact and 'do not match its checksum' in fact


def test_files_of_others_have_no_checksum():
    assert load_bytes(pickled_state()).name == 'G'
    assert 'checksum' in refused(pickled_state(sha256='0' * 64))
    assert 'checksum' in refused(pickled_state(sha256=5))


# ---- Writing ----

def test_what_is_written_reads_back_equal(tmp_path):
    data = {'networks': three_networks(), 'numbers': [0, -1, 2**31, -2**31 - 1, 2**100, 0.1, True, None],
            'bytes': b'\x00' * 300,
            'text': ['', 'a' * 300, '\u1234', '\ud800'], 'tuples': ((), ((1,), 2)),
            'scalars': [np.float64(0.5), np.bool_(True)],
            'arrays': [np.zeros([0, 2], np.int16), np.array([True]), np.array(2.5),
                       np.arange(6, dtype='c8').reshape(2, 3)]}
    legacy_pickle.dump(data, tmp_path / 'a.pkl')
    assert_same(legacy_pickle.load(tmp_path / 'a.pkl'), data)


def test_odd_forms_are_made_regular(tmp_path):
    weight = np.arange(600, dtype='>f4').reshape(20, 30)
    net = network('G', version=3,
                  variables=[('a', weight.T), ('lod', np.array(1, np.float32)), ('c', weight[::2, ::3])],
                  static_kwargs=EasyDict(a=np.int64(3), b=[np.float32(0.5), (np.bool_(True),)],
                                         c=collections.OrderedDict(d=1)))
    legacy_pickle.dump(net, tmp_path / 'a.pkl')
    expected = network('G', static_kwargs={'a': 3, 'b': [0.5, (True,)], 'c': {'d': 1}},
                       variables=[('a', weight.T.astype('f4')), ('lod', np.float32(1)),
                                  ('c', weight[::2, ::3].astype('f4'))])
    assert_same(legacy_pickle.load(tmp_path / 'a.pkl'), expected)


def test_equal_input_gives_equal_bytes(tmp_path):
    legacy_pickle.dump(three_networks(), tmp_path / 'a.pkl')
    # Other objects, shared in other ways.
    legacy_pickle.dump(legacy_pickle.load(tmp_path / 'a.pkl'), tmp_path / 'b.pkl')
    assert (tmp_path / 'a.pkl').read_bytes() == (tmp_path / 'b.pkl').read_bytes()


def test_successors_loader_reads_what_we_write(tmp_path):
    class Stub(EasyDict):
        pass

    class SuccessorsUnpickler(pickle.Unpickler):
        asked = set()

        def find_class(self, module, name):
            self.asked.add(f'{module}.{name}')
            return Stub if (module, name) == ('dnnlib.tflib.network', 'Network') else super().find_class(module, name)

    networks = three_networks()
    for net in networks:
        net.build_module = 'training.networks_stylegan2'
    legacy_pickle.dump(networks, tmp_path / 'net.pkl')
    with open(tmp_path / 'net.pkl', 'rb') as file, warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)  # numpy 2 would rather be called numpy._core
        result = SuccessorsUnpickler(file).load()
    assert type(result) is tuple and [type(net) for net in result] == [Stub] * 3
    for net, expected in zip(result, networks):
        assert list(vars(net)) == ['version', 'name', 'static_kwargs', 'components', 'build_module_src',
                                   'build_func_name', 'variables', 'build_module', 'sha256']
        assert type(net.static_kwargs) is dict and type(net.components) is dict and net.version == 4
        assert all(type(component) is Stub for component in net.components.values())
        for name in ('name', 'static_kwargs', 'build_func_name', 'variables'):
            assert_same(getattr(net, name), getattr(expected, name))
    assert SuccessorsUnpickler.asked == {'dnnlib.tflib.network.Network', 'numpy.core.multiarray._reconstruct',
                                         'numpy.ndarray',
                                         'numpy.dtype', 'numpy.core.multiarray.scalar'}
    assert (tmp_path / 'net.pkl').read_bytes()[:2] == b'\x80\x04'


@pytest.mark.parametrize('obj', [object(), {1: 2}, {'a': {(): 1}}, {1, 2}, np.array([None]), np.array(['a']), print,
                                 network('G', variables=[('lod', 1.0)]), network('G', static_kwargs={'f': print}),
                                 2**3000])
def test_what_could_not_be_read_is_not_written(obj, tmp_path):
    (tmp_path / 'a.pkl').write_bytes(b'before')
    with pytest.raises(ValueError, match='expected .* Received|expected integers'):
        legacy_pickle.dump(('x', obj), tmp_path / 'a.pkl')
    assert (tmp_path / 'a.pkl').read_bytes() == b'before'
    assert os.listdir(tmp_path) == ['a.pkl']


def test_loops_are_not_written(tmp_path):
    loop = []
    loop.append(loop)
    with pytest.raises(ValueError, match='levels deep'):
        legacy_pickle.dump(loop, tmp_path / 'a.pkl')


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match='cannot be written'):
        legacy_pickle.dump(None, tmp_path / 'missing' / 'a.pkl')


def test_no_tensorflow_and_no_unpickler():
    code = ('import sys, dnnlib.pickles.legacy_pickle; from dnnlib.pickles import network_state, reader; '
            "print('tensorflow' in sys.modules, any(hasattr(module, 'pickle') for module in (network_state, reader)))")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['False', 'False']
    for cls in (reader.Reader, network_state.NetworkReader):
        assert set(cls.allowed.values()) == {name for name in dir(cls) if name.startswith('make_')}
