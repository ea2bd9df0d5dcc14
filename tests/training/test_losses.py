"""Losses and regularisers against the original's values and gradients, with its random numbers."""

import numpy as np
import pytest
import tensorflow as tf

from tests.golden import GOLDEN, assert_close, load_json, load_npz
from tests.injected import InjectedRandom
from training import loss, misc
from training.nets import registry


@pytest.mark.golden
@pytest.mark.parametrize('name', sorted(path.stem for path in GOLDEN.glob('losses/*.npz')))
def test_golden_values_and_gradients(name, impl):
    case, data = load_json('losses/cases.json')[name], load_npz(f'losses/{name}.npz')
    G, D = misc.load_pkl(GOLDEN / 'losses' / case['weights'])[:2]
    if case['lod'] is not None:
        G.set_var('lod', case['lod'])
        D.set_var('lod', case['lod'])
    net = G if case['loss'].startswith('G') else D
    variables = net.named_variables(trainable=True)
    pl_mean = tf.Variable(data.get('pl_mean_before', np.float32(0)))
    step = loss.LossContext(
        G,
        D,
        case['minibatch'],
        InjectedRandom({k[5:]: v for k, v in data.items() if k.startswith('rand/')}),
        label_table=tf.zeros([1, case['label_size']]),
        pl_mean=pl_mean,
        reals=tf.constant(data['reals']) if 'reals' in data else None,
        labels=tf.constant(data['labels']) if 'labels' in data else None,
    )

    def evaluate(parts):
        with tf.GradientTape() as tape:
            terms = loss.find_loss(case['loss']).func(step, parts, **case['loss_kwargs'])
            value = terms.loss if 'loss' in parts else terms.reg
            total = tf.reduce_mean(value)
        return value, tape.gradient(total, list(variables.values()), unconnected_gradients='zero')

    # Tracing takes ten times as long as computing. The cases without mixing have every loss: these are traced, the
    # others run eagerly.
    if impl == 'native' and name.startswith('e-nomix__'):
        evaluate = tf.function(evaluate, autograph=False)
    for part in ('loss', 'reg'):
        if part not in data:
            continue
        G.set_var('dlatent_avg', data['dlatent_avg_before'])
        value, grads = evaluate((part,))
        assert_close(value, data[part], 1e-5, f'{name} {part}')
        assert_close(G.get_var('dlatent_avg'), data[f'dlatent_avg_after_{part}'], 1e-5, 'dlatent_avg')
        if part == 'reg' and 'pl_mean_after' in data:
            assert_close(pl_mean.numpy(), data['pl_mean_after'], 1e-5, 'pl_mean')
        unclear = []
        for i, (key, grad) in enumerate(zip(variables, grads, strict=True)):
            if key in case[f'zero_grad_{part}']:
                assert not np.any(grad), f'{name}: {part} has a gradient for {key}, expected none'
            elif np.abs(grad - data[f'grad_{part}/{key}']).max() > 5e-5 * np.abs(data[f'grad_{part}/{key}']).max():
                unclear.append((i, key))
        if unclear:
            spread = rounding_spread(variables, lambda part=part: evaluate((part,))[1])
            for i, key in unclear:
                # The tensor is a sum of terms that cancel: it may differ by what rounding of the weights makes of it,
                # no more. That of the last bias is the sum of what the scores get, about 1 for fakes less 1 for reals,
                # and adding them up rounds to 2^-24 each.
                error = np.abs(grads[i] - data[f'grad_{part}/{key}']).max()
                explained = max(spread[i], 2 ** -24 if key == 'Output/bias' else 0)
                assert error <= 4 * explained, (
                    f'{name} grad_{part}/{key}: error {error:.3g}, rounding explains {explained:.3g}'
                )
                assert error <= 1e-6 * max(np.abs(g).max() for g in grads), (
                    f'{name} grad_{part}/{key}: error {error:.3g}'
                )


def rounding_spread(variables, gradients):
    """Largest change of each gradient when the weights change by 1e-7 of their size, about float32's rounding."""
    values, grads, rng = [var.numpy() for var in variables.values()], gradients(), np.random.RandomState(0)
    spread = np.zeros(len(grads))
    for _ in range(4):
        for var, value in zip(variables.values(), values, strict=True):
            var.assign(value * (1 + 1e-7 * rng.randn(*value.shape)))
        spread = np.maximum(spread, [np.abs(a - b).max() for a, b in zip(gradients(), grads, strict=True)])
    for var, value in zip(variables.values(), values, strict=True):
        var.assign(value)
    return spread


@pytest.mark.parametrize('name', sorted(loss.LOSSES))
def test_both_parts_in_one_pass_equal_the_parts_alone(name):
    G, D, step = small_step()
    func = loss.LOSSES[name].func

    def evaluate(parts):
        G.set_var('dlatent_avg', np.zeros(8))
        step.pl_mean.assign(0.3)
        step.rng.generator.reset_from_seed(1)
        return func(step, parts)
    both, alone = evaluate(('loss', 'reg')), evaluate(('loss',))
    assert alone.reg is None
    np.testing.assert_allclose(both.loss, alone.loss, rtol=1e-5)
    assert (both.reg is None) == (loss.LOSSES[name].reg is None)
    reg_only = evaluate(('reg',))
    assert reg_only.loss is None and (reg_only.reg is None) == (both.reg is None)
    if loss.LOSSES[name].reg == 'reals':
        np.testing.assert_allclose(both.reg, reg_only.reg, rtol=1e-5)


def small_step():
    from dnnlib.tflib import Random
    tf.random.set_seed(1)
    small = dict(resolution=8, fmap_base=16, fmap_max=4, num_channels=1, label_size=2)
    G = registry.create_network(
        'G', 'G_main', latent_size=8, dlatent_size=8, mapping_fmaps=8, mapping_layers=1, **small
    )
    D = registry.create_network('D', 'D_stylegan2', **small)
    step = loss.LossContext(
        G,
        D,
        4,
        Random(tf.random.Generator.from_seed(1)),
        label_table=tf.eye(2),
        reals=tf.random.normal([4, 1, 8, 8]),
        labels=tf.constant([[1.0, 0], [0, 1], [1, 0], [0, 1]]),
        pl_mean=tf.Variable(0.3),
    )
    return G, D, step


def test_unknown_loss_is_named():
    with pytest.raises(ValueError, match='unknown loss .*G_hinge.*known are'):
        loss.find_loss('training.loss.G_hinge')
