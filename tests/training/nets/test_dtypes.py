"""Half precision.

Which tensors are half, how near the results are to float32's, and what keeps float16 from overflowing.
"""

import contextlib
import functools
import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from custom_ops import conv2d
from dnnlib.cli import UserError
from dnnlib.tflib import Random
from dnnlib.tflib.tfutil import has_gpu, seed_everything
from tests.golden import GOLDEN
from tests.graphs import eagerly
from tests.training.run.test_health import PLAIN
from tests.training.run.test_resume import assert_same_run, train
from tests.training.run.test_resume import data_dir as data_dir  # noqa: PLC0414  A fixture.
from tests.training.test_networks import expected_and_actual
from training import misc
from training.configs import PRECISIONS
from training.nets import registry
from training.nets.dtypes import check_precision, note_slow_precision
from training.step.iteration import Iterations
from training.step.loss_scaling import LossScaling
from training.step.train_step import TrainStep

SIZES = dict(resolution=32, fmap_base=128, fmap_max=16)

# Rounding to a step of 2^-7 (bfloat16) or 2^-10 (float16) of the leading bit changes a number by step / sqrt(12),
# relative to the number by about sqrt(1/2) of that. A layer rounds some six times (weights, modulation, convolution,
# demodulation, noise, activation), networks of 32x32 have about ten: by chance, sqrt(60) times as much. Twice this is
# allowed.
ROUNDING = {dtype: 2 * step * (60 / 12 / 2) ** 0.5 for dtype, step in (('bfloat16', 2 ** -7), ('float16', 2 ** -10))}


class InDtype:
    """A network that computes in half precision where a network is expected."""

    def __init__(self, net, dtype):
        self.vars, self.set_var, self.components, self.layer = net.vars, net.set_var, net.components, net.layer
        self.run = lambda *args, **kwargs: net.run(*args, **kwargs, dtype=dtype)
        self.net = net

    def __call__(self, *inputs):
        return self.net(*inputs)


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


@pytest.mark.golden
@pytest.mark.parametrize(
    'name, dtype',
    [
        ('config-f', 'bfloat16'),
        ('config-f', 'float16'),
        ('config-e-Gresnet-Dskip', 'float16'),
        ('config-e-Gorig-Dorig', 'bfloat16'),
        ('config-b', 'bfloat16'),
        ('config-a', 'bfloat16'),
    ],
)
def test_golden_outputs(name, dtype):
    nets = [InDtype(net, dtype) for net in misc.load_pkl(GOLDEN / 'networks' / f'{name}.pkl')]
    for key, expected, actual, _ in expected_and_actual(
        name, nets, only=('G/psi1', 'Gs/psi1_lod1.3', 'D/scores_b3', 'D/scores_b4_lod1.3')
    ):
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
    return (
        tf.function(lambda *inputs: net(*inputs, **kwargs), autograph=False)
        .get_concrete_function(*specs)
        .graph.get_operations()
    )


NETWORKS = [
    ('G_main', dict(architecture='skip')),
    ('G_main', dict(architecture='resnet')),
    ('G_main', dict(architecture='orig')),
    ('G_main', dict(synthesis_func='G_synthesis_stylegan_revised')),
    ('G_style', {}),
    ('D_stylegan2', dict(architecture='skip')),
    ('D_stylegan2', dict(architecture='resnet')),
    ('D_stylegan', {}),
    ('D_basic', {}),
]
HEAVY = ('Conv2D', 'Conv2DBackpropInput', 'Stylegan2BiasAct', 'Stylegan2Upfirdn2d', 'DepthwiseConv2dNative')


def half_layers(ops):
    """{'32x32', 'lod0', ...}: what the layers that compute in half precision are called.

    The layers of a block must agree.
    """
    types = {}
    for op in ops:
        layer = re.match(r'(\d+x\d+|(To|From)RGB_(?P<lod>lod\d+))_?[^/]*/', op.name)
        if layer and op.type in HEAVY and op.outputs[0].shape.rank == 4:  # Styles are float32.
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
        # Styles, norms, minibatch stddev, dense layers (but not D_basic's means of 2x2 pixels); then images that are
        # resampled or added up.
        assert {op.outputs[0].dtype for op in ops if op.type in ('MatMul', 'Rsqrt', 'Sqrt', 'Mean')
                and '_down' not in op.name} <= {tf.float32}
        assert not [op.name for op in (out.op for out in half if out.shape.rank == 4 and out.shape[3] == 3)
                    if op.type == 'Stylegan2Upfirdn2d' or (op.type in ('AddV2', 'Sub') and '/' not in op.name)]


@pytest.mark.parametrize('name, kwargs', [NETWORKS[0], NETWORKS[4], NETWORKS[6], NETWORKS[8]])
def test_the_layout_on_a_gpu_follows_the_precision_of_the_call(name, kwargs, monkeypatch):
    """Channels first in float32, channels last in half precision, and no transposes between the layers."""
    monkeypatch.setattr(conv2d, '_forced_format', None)
    expected = ops_of(make(name, **kwargs), dtype='bfloat16')
    monkeypatch.setattr(conv2d, 'has_gpu', lambda: True)
    monkeypatch.setattr(conv2d, '_supported_form', lambda data_format, dtype: (data_format, dtype))
    net = make(name, **kwargs)
    try:
        for settings, layout in [({}, 'NCHW'), ({'dtype': 'bfloat16'}, 'NHWC'), ({'dtype': 'float32'}, 'NCHW')]:
            ops = ops_of(net, **settings)
            layouts = [op.get_attr('data_format').decode() for op in ops
                       if op.type.startswith('Conv2D') or op.type in ('Stylegan2Upfirdn2d', 'Stylegan2StyledBiasAct')]
            assert set(layouts) == {layout} and len(layouts) > 8
            transposed = [op.inputs[0].shape for op in ops if op.type == 'Transpose' and op.inputs[0].shape.rank == 4]
            kernels = [shape for shape in transposed if shape[0] == shape[1]]  # Of transposed convolutions.
            images = [shape for shape in transposed if shape not in kernels and 4 not in shape[1:]]
            assert all(1 in shape[1:] or 3 in shape[1:] for shape in images)  # Noise and RGB.
            if layout == 'NHWC':
                assert [op.type for op in ops] == [op.type for op in expected]
        # TensorFlow leaves the layouts as they are once a network has computed in half precision.
        assert tf.config.optimizer.get_experimental_options()['layout_optimizer'] is False
    finally:
        tf.config.optimizer.set_experimental_options({'layout_optimizer': True})
    assert conv2d.image_format() == 'NCHW'  # Outside of calls.


def test_an_unknown_dtype_is_refused():
    net = make('D_stylegan2')
    with pytest.raises(ValueError, match=r"expected a dtype of .*'bfloat16'.*received 'half'"):
        net.run(np.zeros([1, 3, 32, 32]), dtype='half')
    with pytest.raises(
        ValueError, match="expected dtype 'float32', received 'float16'. Other types can be given for a single call"
    ):
        make('D_stylegan2', dtype='float16')
    with pytest.raises(ValueError, match="expected dtype 'float32', received 'float16'"):
        make('G_main', dtype='float16')


@pytest.mark.parametrize('name', ['G_main', 'D_stylegan2'])
def test_huge_weights_stay_finite_in_float16(name, impl):
    """Weights of 3000 times the usual size: without clamp and normalization, float16 overflows to infinity and NaN."""
    net = make(name)
    for key, var in net.named_variables(trainable=True).items():
        if re.search(r'(8x8|16x16|32x32)/(Conv|Skip|FromRGB).*/(mod_)?weight', key):
            var.assign(var * 3000.0)
    inputs = np.random.RandomState(0).randn(4, *net.input_shape[1:])
    out = net.run(inputs, dtype='float16', **({} if name.startswith('D') else dict(truncation_psi=1)))
    assert np.isfinite(out).all()
    assert rms(out) > 0


# ---- Training ----

PHASES = ('G_train', 'G_reg', 'D_train', 'D_reg')


@functools.cache
def traced_trainer(precision):
    """TrainStep of small networks, its arguments for each phase, and [(variable, initial value)] of what it changes."""
    seed_everything(0)
    generator = tf.random.get_global_generator()
    G, D = (make(name, resolution=16) for name in ('G_main', 'D_stylegan2'))
    trainer = TrainStep(
        G, D, G.clone(), 'G_logistic_ns_pathreg', 'D_logistic_r1', precision=precision, rng=Random(generator)
    )
    reals = tf.random.uniform([8, 3, 16, 16], -1, 1)
    args = {phase: (phase, 8, 1, 0.002) + ((reals, tf.zeros([8, 0])) if phase[0] == 'D' else ()) for phase in PHASES}
    return trainer, args, [(var, var.numpy()) for var in [*tf.nest.flatten(trainer.state()), generator.state]]


def trainer_at_start(precision, scale=None):
    """`traced_trainer` as it was when it was made, for tracing takes seconds. scale: log2 of loss scaling."""
    trainer, args, start = traced_trainer(precision)
    for var, value in start:
        var.assign(value)
    if scale is not None:
        for log2 in trainer.state()['loss_scaling_log2'].values():
            log2.assign(scale)
    return trainer, args


def gradient(trainer, args):
    """All gradients of a phase in one vector: with beta1 = 0 they are Adam's first moments."""
    trainer.run(*args)
    return np.concatenate([m.numpy().ravel() for m in {'G': trainer.G_opt, 'D': trainer.D_opt}[args[0][0]].m])


@pytest.mark.parametrize('phase', PHASES)
def test_gradients_point_where_those_of_float32_do(phase):
    # Rounding turns the sign of activations that are near zero, which changes the slope of what flows back. How many
    # there are is proportional to the step of rounding, and so is 1 - cosine: 2^-7 and 2^-10 steps here, times one for
    # all layers together.
    # Tracing a phase takes longer than computing it, so that only the precision of which other tests run many steps is
    # traced.
    trainer, args = trainer_at_start('float32')
    with eagerly():
        expected = gradient(trainer, args[phase])
    for precision, step in [('bfloat16', 2 ** -7), ('mixed_float16', 2 ** -10)]:
        trainer, args = trainer_at_start(precision, scale=None if precision == 'bfloat16' else 8.0)
        with eagerly() if precision == 'bfloat16' else contextlib.nullcontext():
            actual = gradient(trainer, args[phase])
        cosine = np.dot(actual, expected) / np.linalg.norm(actual) / np.linalg.norm(expected)
        assert 0 < 1 - cosine < step, f'{precision}: {cosine}'
        assert np.linalg.norm(actual) == pytest.approx(np.linalg.norm(expected), rel=0.05)
    gradient(trainer, args[phase])
    assert set(trainer.num_traces().values()) == {1}


def test_loss_scaling_arithmetic():
    scaling = LossScaling(use_loss_scaling=True, loss_scaling_init=3.0, loss_scaling_inc=0.25, loss_scaling_dec=1.0)
    assert scaling.apply_loss_scaling(tf.constant(3.0)).numpy() == 24
    assert scaling.undo_loss_scaling(tf.constant(3.0)).numpy() == 0.375
    assert [scaling.update(finite).numpy() for finite in (True, True, False)] == [3.25, 3.5, 2.5]
    assert scaling.undo_loss_scaling(scaling.apply_loss_scaling(tf.constant(3.0))).numpy() == pytest.approx(3, rel=1e-6)
    x = tf.constant(3.0)
    assert LossScaling().apply_loss_scaling(x) is x and LossScaling().undo_loss_scaling(x) is x


@pytest.mark.parametrize('phase', PHASES)
def test_loss_scaling_finds_its_level(phase):
    """Scaled far too much, a phase skips updates, each with half the scale, until one fits. The others' scales stay."""
    trainer, args = trainer_at_start('mixed_float16', scale=60.0)
    optimizer = {'G': trainer.G_opt, 'D': trainer.D_opt}[phase[0]]
    weights = [var.numpy() for var in optimizer.variables_to_train]
    scales = trainer.state()['loss_scaling_log2']
    for count in range(1, 60):
        stats = trainer.run(*args[phase]).stats
        name = f'{phase[2:].capitalize()}{phase[0]}'
        assert stats[f'{name}/loss_scaling_log2'][1].numpy() == scales[phase].numpy()
        if not stats[f'{name}/overflow_frequency'][1]:
            break
        assert (optimizer.skipped.numpy(), scales[phase].numpy()) == (count, 60 - count)
        assert all(np.array_equal(var, value) for var, value in zip(optimizer.variables_to_train, weights, strict=True))
    assert scales[phase].numpy() == pytest.approx(60 - (count - 1) + 0.0005) and 4 < scales[phase].numpy() < 30
    assert all(scale.numpy() == 60 for other, scale in scales.items() if other != phase)
    assert any(not np.array_equal(var, value) for var, value in zip(optimizer.variables_to_train, weights, strict=True))


@pytest.mark.slow
def test_going_on_exactly_and_pickles_like_those_of_float32(data_dir, tmp_path, capsys):
    settings = {**PLAIN, 'total_kimg': 0.048, 'G_loss_args': dict(func_name='G_logistic_ns_pathreg'),
                'D_loss_args': dict(func_name='D_logistic_r1')}
    with eagerly():
        train(data_dir, tmp_path / 'float32', resume=None, **settings)
    assert 'Precision: float32.\n' in capsys.readouterr().out
    settings['precision'] = 'mixed_float16'
    never, run = tmp_path / 'never-stopped', tmp_path / 'run'

    def copy(count):  # What a run that is killed at this moment leaves.
        if count == 7:
            shutil.copytree(never, run)
    train(data_dir, never, {(Iterations, 'run'): copy}, resume=None, checkpoint_minutes=1e-9, **settings)
    assert 'Precision: float16 from 8x8 to 8x8, float32 elsewhere, with loss scaling.\n' in capsys.readouterr().out
    train(data_dir, run, **settings)
    assert 'Going on from' in capsys.readouterr().out
    assert_same_run(run, never)
    tags = {tag for line in (run / 'stats.jsonl').read_text().splitlines() for tag in json.loads(line)}
    assert {f'{name}/loss_scaling_log2' for name in ('TrainG', 'RegG', 'TrainD', 'RegD')} <= tags
    nets, others = (misc.load_networks(tmp_path / name / 'network-final.pkl') for name in ('run', 'float32'))
    for net, other in zip(nets, others, strict=True):
        assert net.static_kwargs == other.static_kwargs and list(net.vars) == list(other.vars)
        assert any(not np.array_equal(net.get_var(name), other.get_var(name)) for name in net.trainables)


@pytest.mark.parametrize(
    'text, is_slow',
    [
        ('processor : 0\nflags\t\t: fpu avx2 avx512f\n', True),
        ('flags : fpu avx512_bf16\n', False),
        ('flags : amx_bf16 fpu\n', False),
        ('Features : fp asimd bf16\n', False),
        ('Features : fp asimd\n', True),
        ('', False),
    ],
)
def test_a_cpu_that_is_slow_in_bfloat16_is_named(tmp_path, text, is_slow):
    (tmp_path / 'cpuinfo').write_text(text)
    note = note_slow_precision('bfloat16', tmp_path / 'cpuinfo')
    assert ('takes longer here than float32' in note) == (is_slow and not has_gpu())
    assert (
        note_slow_precision('float32', tmp_path / 'cpuinfo')
        == note_slow_precision('bfloat16', tmp_path / 'missing')
        == ''
    )


def test_a_device_that_cannot_is_named_before_training(monkeypatch):
    for precision in ('float32', 'bfloat16', 'mixed_float16'):
        check_precision(precision)
    # No CPU has such a convolution in float64, so that conv2d.py computes it in another form, which is left out here.
    monkeypatch.setattr(conv2d, '_supported_form', lambda data_format, dtype: (data_format, dtype))
    monkeypatch.setitem(PRECISIONS, 'mixed_float16', 'float64')
    conv2d.set_image_format('NCHW')
    try:
        with pytest.raises(UserError, match='mixed_float16: this device does not support it: .*NHWC') as err:
            check_precision('mixed_float16')
        assert '--precision=float32' in err.value.remedy
    finally:
        conv2d.set_image_format(None)
