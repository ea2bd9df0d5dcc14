"""Inception-v3 with random weights from each of its files: values of pytorch-fid, and of its graph in TensorFlow."""

import io
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.cli import UserError
from dnnlib.pickles import legacy_pickle
from metrics.features import inception
from tests import DATA, graph_file, random_weights, torch_files
from tests.golden import assert_close

PARTS = 'conv.weight', 'bn.running_mean', 'bn.running_var', 'bn.bias', 'bn.weight'


@pytest.fixture(scope='module')
def torch_state():
    """Dict of name -> array, as in pytorch-fid's file."""
    shapes = {'fc.weight': (1008, 2048), 'fc.bias': (1008,)}
    for layer in inception.build().layers:
        if layer.weights:
            name = inception.CONVOLUTIONS[layer.name.replace('.', '/')]
            kh, kw, fan_in, fan_out = layer.weights[0].shape
            for part in PARTS:
                shapes[f'{name}.{part}'] = (fan_out, fan_in, kh, kw) if part == 'conv.weight' else (fan_out,)
    return random_weights.state(shapes)


@pytest.fixture(scope='module')
def graph_arrays(torch_state):
    """The same weights by the scopes of the graph."""
    arrays = {}
    for scope, name in inception.CONVOLUTIONS.items():
        kernel, *rest = (torch_state[f'{name}.{part}'] for part in PARTS)
        arrays[scope] = (kernel.transpose(2, 3, 1, 0), *rest)
    return {**arrays, 'softmax': (torch_state['fc.weight'].T, torch_state['fc.bias'])}


@pytest.fixture(scope='module')
def torch_path(torch_state, tmp_path_factory):
    path = tmp_path_factory.mktemp('inception') / 'pt_inception.pth'
    torch_files.save(path, torch_state)
    return str(path)


@pytest.fixture(scope='module')
def features(torch_path):
    return inception.load(torch_path)


@pytest.fixture(scope='module')
def golden():
    with np.load(DATA / 'feature_networks.npz') as data:
        return dict(data)


IMAGES = random_weights.images([2, 3, 299, 299], 1)
OTHER_IMAGES = random_weights.images([1, 3, 60, 83], 6)  # to be resized


@pytest.mark.slow
def test_features_are_those_of_pytorch_fid(features, golden):
    assert_close(features(IMAGES), golden['inception_features'], 1e-4)


@pytest.mark.slow
def test_probabilities_are_those_of_pytorch_fid(torch_path, golden):
    net = inception.load(torch_path, softmax=True)
    assert_close(net(IMAGES), golden['inception_softmax'], 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('scale, form', [(True, 'tgz'), (False, 'pb')])
def test_features_and_probabilities_are_those_of_the_graph_in_tensorflow(scale, form, graph_arrays, tmp_path):
    graph = graph_file.inception_graph(graph_arrays, scale)
    expected = graph_file.run(graph, OTHER_IMAGES.transpose(0, 2, 3, 1).astype(np.float32))
    path = str(tmp_path / f'graph.{form}')
    if form == 'tgz':
        graph_file.write_archive(path, graph)
    else:
        (tmp_path / 'graph.pb').write_bytes(graph.SerializeToString())
    for softmax in [False, True] if scale else [False]:
        assert_close(inception.load(path, softmax)(OTHER_IMAGES), expected[softmax], 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('prefix, biases', [('', False), ('InceptionV3/', True)])
def test_pickles_of_the_original_with_names_of_the_graph(prefix, biases, graph_arrays, features, tmp_path):
    names = 'conv2d_params', 'batchnorm/moving_mean', 'batchnorm/moving_variance', 'batchnorm/beta', 'batchnorm/gamma'
    variables = [(f'{prefix}{scope}/{name}', array) for scope, arrays in graph_arrays.items() if scope != 'softmax'
                 for name, array in zip(names, arrays, strict=True)]
    variables.reverse()  # Names decide, not their order.
    weights, bias = graph_arrays['softmax']
    variables += [(f'{prefix}softmax/weights', weights)] + [(f'{prefix}softmax/biases', bias)] * biases
    path = str(tmp_path / 'inception_v3.pkl')
    state = legacy_pickle.NetworkState('inception_v3', {}, {}, 'inception_v3', variables, build_module_src='raise')
    legacy_pickle.dump(state, path)
    expected = features(OTHER_IMAGES).numpy()
    assert_close(inception.load(path)(OTHER_IMAGES), expected, 1e-6)
    logits = expected @ weights + bias * biases
    assert_close(inception.load(path, softmax=True)(OTHER_IMAGES), tf.nn.softmax(logits), 1e-4)


@pytest.mark.slow
def test_in_a_function_of_tensorflow_with_unknown_sizes(features):
    function = tf.function(features, input_signature=[tf.TensorSpec([None, 1, None, None], tf.uint8)])
    gray = OTHER_IMAGES[:, :1]
    assert_close(function(gray), features(np.repeat(gray, 3, axis=1).astype(np.float32)), 1e-5)


def test_the_table_of_names_has_every_convolution_once():
    layers = {layer.name.replace('.', '/') for layer in inception.build(inception.NUM_CLASSES).layers if layer.weights}
    assert layers == {*inception.CONVOLUTIONS, 'softmax'}
    assert len(set(inception.CONVOLUTIONS.values())) == len(inception.CONVOLUTIONS) == 94


# ---- Files that are wrong ----

def refused(path, match):
    with pytest.raises(UserError, match=match) as caught:
        inception.load(str(path))
    assert caught.value.fact.startswith(str(path)) and caught.value.remedy


def archive_of(path, *members):
    with tarfile.open(path, 'w:gz') as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_missing_arrays_and_wrong_shapes(torch_state, tmp_path):
    name = 'Mixed_7c.branch_pool.conv.weight'
    torch_files.save(tmp_path / 'a.pth', {key: array for key, array in torch_state.items() if key != name})
    refused(tmp_path / 'a.pth', f'holds no {name}')
    torch_files.save(tmp_path / 'a.pth', {**torch_state, name: torch_state[name][:, :100]})
    refused(tmp_path / 'a.pth', 'mixed_10/tower_2/conv: expected weights of the shapes')


def test_archives_without_graph(tmp_path):
    path, graph = tmp_path / 'a.tgz', ('classify_image_graph_def.pb', b'')
    refused(archive_of(path, ('classify_image_graph_def.txt', b'')), 'holds no classify_image_graph_def.pb')
    refused(archive_of(path, *[(str(i), b'') for i in range(200)], graph), 'holds no')
    content = archive_of(path, ('other', bytes(range(256)) * 1000), graph).read_bytes()
    for damaged in content[:100], content[:len(content) // 2], b'', b'text', content[:200] + bytes(50) + content[250:]:
        (tmp_path / 'a.tgz').write_bytes(damaged)
        refused(tmp_path / 'a.tgz', 'cannot be read|is no readable archive|holds no classify_image_graph_def.pb')
    refused(tmp_path / 'b.tgz', 'No such file')
    refused(tmp_path / 'b.pb', 'No such file')


def test_graphs_of_another_kind(tmp_path):
    (tmp_path / 'a.pb').write_bytes(b'\xff\xff\xff')
    refused(tmp_path / 'a.pb', 'no readable TensorFlow graph')
    refused(archive_of(tmp_path / 'a.tgz', ('classify_image_graph_def.pb', b'')), 'holds no conv/conv2d_params')


@pytest.mark.parametrize('shape', [[2**20, 2**20], [-1], [2**62, 2**62, 0]])
def test_a_constant_of_any_size_in_a_small_file(shape, tmp_path):
    graph = tf.compat.v1.GraphDef()
    node = graph.node.add(name='conv/conv2d_params', op='Const')
    node.attr['value'].tensor.CopyFrom(tf.make_tensor_proto(np.float32(1)))
    for size in shape:
        node.attr['value'].tensor.tensor_shape.dim.add(size=size)
    (tmp_path / 'a.pb').write_bytes(graph.SerializeToString())
    refused(tmp_path / 'a.pb', 'conv/conv2d_params: expected a tensor of numbers|holds no conv/batchnorm|'
                               'its numbers are not those')


def test_pickles_with_other_names(tmp_path):
    path = tmp_path / 'a.pkl'
    variables = [('conv1/weight', np.zeros([3, 3, 3, 32], np.float32))]
    legacy_pickle.dump(legacy_pickle.NetworkState('net', {}, {}, 'net', variables), path)
    refused(path, 'holds no conv/conv2d_params; it has 1 arrays: conv1/weight')
    legacy_pickle.dump([], path)
    refused(path, 'expected one network, found list')
