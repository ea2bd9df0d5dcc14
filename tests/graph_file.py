"""Writes a TensorFlow graph of Inception-v3 as that of December 2015: operations and constants by its names, for tests.

Made of a table of its own, not of the network's code, with the operations that the graph has: ResizeBilinear, Sub, Mul,
Conv2D, BatchNormWithGlobalNormalization, Relu, MaxPool, AvgPool, Concat.
"""

import io
import tarfile

import numpy as np
import tensorflow as tf

FEATURES, PROBABILITIES = 'pool_3:0', 'softmax:0'


class Graph:
    """A graph under construction. Methods add nodes and return their names."""

    def __init__(self, arrays, scale_after_normalization):
        self.arrays, self.scale = arrays, scale_after_normalization
        self.proto = tf.compat.v1.GraphDef()
        self.proto.versions.producer = 8  # BatchNormWithGlobalNormalization is not allowed in later graphs.

    def node(self, name, op, *inputs, **attrs):
        node = self.proto.node.add(name=name, op=op, input=inputs)
        for key, value in attrs.items():
            if key in ('T', 'dtype', 'Tidx', 'Tshape', 'N'):
                node.attr[key].CopyFrom(tf.compat.v1.AttrValue(**({'i': value} if key == 'N' else {'type': value})))
            elif isinstance(value, list):
                node.attr[key].list.i.extend(value)
            elif isinstance(value, bool):
                node.attr[key].b = value
            elif isinstance(value, float):
                node.attr[key].f = value
            else:
                node.attr[key].s = value.encode()
        return name

    def const(self, name, value):
        node = self.proto.node.add(name=name, op='Const')
        proto = tf.make_tensor_proto(value)
        node.attr['dtype'].type = proto.dtype
        node.attr['value'].tensor.CopyFrom(proto)
        return name

    def conv(self, x, scope, stride=1, padding='SAME'):
        kernel, mean, variance, beta, gamma = self.arrays[scope]
        inputs = [
            self.const(f'{scope}/{name}', value)
            for name, value in (
                ('batchnorm/moving_mean', mean),
                ('batchnorm/moving_variance', variance),
                ('batchnorm/beta', beta),
                ('batchnorm/gamma', gamma),
            )
        ]
        y = self.node(
            f'{scope}/Conv2D',
            'Conv2D',
            x,
            self.const(f'{scope}/conv2d_params', kernel),
            T=1,
            strides=[1, stride, stride, 1],
            padding=padding,
        )
        y = self.node(f'{scope}/batchnorm', 'BatchNormWithGlobalNormalization', y, *inputs, T=1, variance_epsilon=0.001,
                      scale_after_normalization=self.scale)
        return self.node(scope, 'Relu', y, T=1)

    def pool(self, x, name, op, size=3, stride=1, padding='SAME'):
        return self.node(name, op, x, T=1, ksize=[1, size, size, 1], strides=[1, stride, stride, 1], padding=padding)

    def mixed(self, x, scope, *towers):
        """Concatenate towers along the channels. Each is a list of names of convolutions and functions of the node."""
        outputs = []
        for tower in towers:
            y = x
            for step in tower:
                y = step(y) if callable(step) else self.conv(y, f'{scope}/{step}')
            outputs += y if isinstance(y, list) else [y]
        return self.node(
            f'{scope}/join',
            'Concat',
            self.const(f'{scope}/join/concat_dim', np.int32(3)),
            *outputs,
            T=1,
            N=len(outputs),
        )


def inception_graph(arrays, scale_after_normalization=True):
    """GraphDef from 'images' [1, H, W, 3], 0..255, to FEATURES [1, 1, 1, 2048] and PROBABILITIES [1, 1008].

    Args:
        arrays: Dict of scope -> (kernel, moving mean, moving variance, beta, gamma), and 'softmax' -> (weights,
                biases).
        scale_after_normalization: Attribute of the normalisations: use gamma?
    """
    g = Graph(arrays, scale_after_normalization)
    x = g.node('images', 'Placeholder', dtype=1)
    x = g.node(
        'ResizeBilinear',
        'ResizeBilinear',
        x,
        g.const('ResizeBilinear/size', np.int32([299, 299])),
        T=1,
        align_corners=False,
    )
    x = g.node('Sub', 'Sub', x, g.const('Sub/y', np.float32(128)), T=1)
    x = g.node('Mul', 'Mul', x, g.const('Mul/y', np.float32(0.0078125)), T=1)
    x = g.conv(x, 'conv', 2, 'VALID')
    x = g.conv(x, 'conv_1', 1, 'VALID')
    x = g.conv(x, 'conv_2')
    x = g.pool(x, 'pool', 'MaxPool', 3, 2, 'VALID')
    x = g.conv(x, 'conv_3', 1, 'VALID')
    x = g.conv(x, 'conv_4', 1, 'VALID')
    x = g.pool(x, 'pool_1', 'MaxPool', 3, 2, 'VALID')

    def pooled(scope, op='AvgPool', **kwargs):
        return lambda y: g.pool(y, f'{scope}/tower_2/pool', op, **kwargs)

    def halved(scope, name):
        return lambda y: g.conv(y, f'{scope}/{name}', 2, 'VALID')

    def split(scope, tower):
        return lambda y: [g.conv(y, f'{scope}/{tower}/mixed/{name}') for name in ('conv', 'conv_1')]

    def tower(name, count):
        return [f'{name}/conv{f"_{i}" if i else ""}' for i in range(count)]

    for scope in 'mixed', 'mixed_1', 'mixed_2':
        x = g.mixed(x, scope, ['conv'], tower('tower', 2), tower('tower_1', 3), [pooled(scope), 'tower_2/conv'])
    x = g.mixed(x, 'mixed_3', [halved('mixed_3', 'conv')], [*tower('tower', 2), halved('mixed_3', 'tower/conv_2')],
                [pooled('mixed_3', 'MaxPool', stride=2, padding='VALID')])
    for scope in 'mixed_4', 'mixed_5', 'mixed_6', 'mixed_7':
        x = g.mixed(x, scope, ['conv'], tower('tower', 3), tower('tower_1', 5), [pooled(scope), 'tower_2/conv'])
    x = g.mixed(x, 'mixed_8', ['tower/conv', halved('mixed_8', 'tower/conv_1')],
                [*tower('tower_1', 3), halved('mixed_8', 'tower_1/conv_3')],
                [pooled('mixed_8', 'MaxPool', stride=2, padding='VALID')])
    for scope, op in ('mixed_9', 'AvgPool'), ('mixed_10', 'MaxPool'):
        x = g.mixed(
            x,
            scope,
            ['conv'],
            ['tower/conv', split(scope, 'tower')],
            [*tower('tower_1', 2), split(scope, 'tower_1')],
            [pooled(scope, op), 'tower_2/conv'],
        )
    x = g.pool(x, 'pool_3', 'AvgPool', 8, 1, 'VALID')
    x = g.node('pool_3/reshape', 'Reshape', x, g.const('pool_3/shape', np.int32([-1, 2048])), T=1)
    weights, biases = arrays['softmax']
    g.const('softmax/biases', biases)  # The Inception Score does not use them.
    x = g.node('softmax/logits/MatMul', 'MatMul', x, g.const('softmax/weights', weights), T=1)
    g.node('softmax', 'Softmax', x, T=1)
    return g.proto


def run(graph, images):
    """TensorFlow's results for images [N, H, W, 3] float32: (features [N, 2048], probabilities [N, 1008])."""
    v1 = tf.compat.v1
    with v1.Graph().as_default():
        v1.import_graph_def(graph, name='')
        with v1.Session() as session:
            features, probabilities = session.run([FEATURES, PROBABILITIES], {'images:0': images})
    return features[:, 0, 0], probabilities


def write_archive(path, graph):
    """The graph as inception-2015-12-05.tgz has it, beside other files."""
    with tarfile.open(path, 'w:gz', compresslevel=1) as archive:
        for name, content in ('LICENSE', b'text'), ('classify_image_graph_def.pb', graph.SerializeToString()):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
