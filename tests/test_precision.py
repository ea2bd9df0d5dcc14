"""Half precision: which tensors are half, how near the results are to float32's, and what keeps float16 from overflowing."""

import re

import numpy as np
import pytest
import tensorflow as tf

from tests.golden import GOLDEN
from tests.test_networks import expected_and_actual
from training import misc, registry

SIZES = dict(resolution=32, fmap_base=128, fmap_max=16)

# Rounding to a step of 2^-7 (bfloat16) or 2^-10 (float16) of the leading bit changes a number by step / sqrt(12), relative to the number by
# about sqrt(1/2) of that. A layer rounds some six times (weights, modulation, convolution, demodulation, noise, activation), networks
# of 32x32 have about ten: by chance, sqrt(60) times as much. Twice this is allowed.
ROUNDING = {dtype: 2 * step * (60 / 12 / 2) ** 0.5 for dtype, step in (('bfloat16', 2 ** -7), ('float16', 2 ** -10))}


class InDtype:
    """A network that computes in half precision where a network is expected."""

    def __init__(self, net, dtype):
        self.vars, self.set_var, self.components = net.vars, net.set_var, net.components
        self.run = lambda *args, **kwargs: net.run(*args, **kwargs, dtype=dtype)


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


@pytest.mark.golden
@pytest.mark.parametrize('name, dtype', [('config-f', 'bfloat16'), ('config-f', 'float16'), ('config-e-Gresnet-Dskip', 'float16'),
                                         ('config-e-Gorig-Dorig', 'bfloat16'), ('config-b', 'bfloat16'), ('config-a', 'bfloat16')])
def test_golden_outputs(name, dtype):
    nets = [InDtype(net, dtype) for net in misc.load_pkl(GOLDEN / 'networks' / f'{name}.pkl')]
    for key, expected, actual in expected_and_actual(name, nets, only=('G/psi1', 'Gs/psi1_lod1.3', 'D/scores_b3', 'D/scores_b4_lod1.3')):
        # A score is a sum of many numbers about 1 that may cancel: its error is compared with 1 then.
        limit = ROUNDING[dtype] * (max(1, rms(expected)) if key.startswith('D') else rms(expected))
        assert actual.dtype == np.float32
        assert 0 < rms(actual - expected) < limit, f'{key}: {rms(actual - expected):.3g}, expected at most {limit:.3g}'


def make(name, **kwargs):
    sizes = {} if name.startswith('D') else dict(latent_size=8, dlatent_size=8, mapping_fmaps=8, mapping_layers=1)
    return registry.create_network('net', name, **{**SIZES, **sizes, **kwargs})


def ops_of(net, **kwargs):
    """Operations of the traced evaluation of a network on a batch of 4."""
    specs = [tf.TensorSpec([4, *shape[1:]]) for shape in net.input_shapes]
    return tf.function(lambda *inputs: net(*inputs, **kwargs), autograph=False).get_concrete_function(*specs).graph.get_operations()


NETWORKS = [('G_main', dict(architecture='skip')), ('G_main', dict(architecture='resnet')), ('G_main', dict(architecture='orig')),
            ('G_main', dict(synthesis_func='G_synthesis_stylegan_revised')), ('G_style', {}),
            ('D_stylegan2', dict(architecture='skip')), ('D_stylegan2', dict(architecture='resnet')), ('D_stylegan', {}), ('D_basic', {})]
HEAVY = ('Conv2D', 'Conv2DBackpropInput', 'Stylegan2BiasAct', 'Stylegan2Upfirdn2d', 'DepthwiseConv2dNative')


def half_layers(ops):
    """{'32x32', 'lod0', ...}: what the layers that compute in half precision are called; the layers of a block must agree."""
    types = {}
    for op in ops:
        layer = re.match(r'(\d+x\d+|(To|From)RGB_(?P<lod>lod\d+))_?[^/]*/', op.name)
        if layer and op.type in HEAVY:
            types.setdefault(layer['lod'] or layer[1], set()).add(op.outputs[0].dtype.name)
    assert all(len(names) == 1 for names in types.values()), types
    return {layer: name for layer, (name,) in types.items() if name != 'float32'}


@pytest.mark.parametrize('name, kwargs', NETWORKS)
def test_the_highest_resolutions_are_half_and_what_matters_is_float32(name, kwargs):
    net = make(name, **kwargs)
    for settings, sizes in [(dict(dtype='bfloat16'), (32, 16, 8)), (dict(dtype='float16', num_fp16_res=2), (32, 16)),
                            (dict(dtype='bfloat16', num_fp16_res=0), ()), ({}, ())]:
        ops = ops_of(net, **settings)
        expected = {key for i, size in enumerate(sizes) for key in (f'{size}x{size}', f'lod{i}')}
        found = half_layers(ops)
        assert set(found) == expected & ({*found} | {f'{size}x{size}' for size in sizes})
        assert set(found.values()) <= {settings.get('dtype')}
        half = [out for op in ops for out in op.outputs if out.dtype in (tf.bfloat16, tf.float16)]
        assert bool(half) == bool(sizes)
        # Styles, norms, minibatch stddev, dense layers (but not D_basic's means of 2x2 pixels); then images that are resampled or added up.
        assert {op.outputs[0].dtype for op in ops if op.type in ('MatMul', 'Rsqrt', 'Sqrt', 'Mean')
                and '_down' not in op.name} <= {tf.float32}
        assert not [op.name for op in (out.op for out in half if out.shape.rank == 4 and out.shape[3] == 3)
                    if op.type == 'Stylegan2Upfirdn2d' or (op.type in ('AddV2', 'Sub') and '/' not in op.name)]


def test_an_unknown_dtype_is_refused():
    net = make('D_stylegan2')
    with pytest.raises(ValueError, match=r"expected a dtype of .*'bfloat16'.*received 'half'"):
        net.run(np.zeros([1, 3, 32, 32]), dtype='half')
    with pytest.raises(ValueError, match="expected dtype 'float32', received 'float16'; give that where the network is evaluated"):
        make('D_stylegan2', dtype='float16')
    with pytest.raises(ValueError, match="expected dtype 'float32', received 'float16'"):
        make('G_main', dtype='float16')


@pytest.mark.parametrize('name', ['G_main', 'D_stylegan2'])
def test_huge_weights_stay_finite_in_float16(name, impl):
    """Weights of 3000 times the usual size, of which a float16 network without clamp and normalisation makes infinity and NaN."""
    net = make(name)
    for key, var in net.named_variables(trainable=True).items():
        if re.search(r'(8x8|16x16|32x32)/(Conv|Skip|FromRGB).*/(mod_)?weight', key):
            var.assign(var * 3000.0)
    inputs = np.random.RandomState(0).randn(4, *net.input_shape[1:])
    out = net.run(inputs, dtype='float16', **({} if name.startswith('D') else dict(truncation_psi=1)))
    assert np.isfinite(out).all()
    assert rms(out) > 0
