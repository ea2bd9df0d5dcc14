"""Losses and regularisers against the original's values and gradients, with its random numbers."""

import functools
import re

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.pickles import torch_networks
from tests.golden import GOLDEN, GOLDEN_ADA, GOLDEN_FAMILY, assert_close, load_json, load_npz
from tests.injected import InjectedRandom
from training import loss, misc
from training.augment import AugmentPipe
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
        for key, grad in zip(variables, grads, strict=True):
            if key in case[f'zero_grad_{part}']:
                assert not np.any(grad), f'{name}: {part} has a gradient for {key}, expected none'
        assert_gradients_close(f'{name} grad_{part}', variables, grads,
                               {key: data[f'grad_{part}/{key}'] for key in variables
                                if key not in case[f'zero_grad_{part}']},
                               lambda part=part: evaluate((part,))[1])


def assert_gradients_close(what, variables, grads, expected, gradients):
    """Compare gradients with golden ones.

    Args:
        what:      For messages.
        variables: {name: variable}.
        grads:     For each variable, its gradient.
        expected:  {name: gradient}, without those that are to be zero.
        gradients: gradients() -> the gradients again, for variables that have been changed.
    """
    unclear = [(i, key) for i, key in enumerate(variables) if key in expected
               and not np.abs(grads[i] - expected[key]).max() <= 5e-5 * np.abs(expected[key]).max()]
    if not unclear:
        return
    spread = rounding_spread(variables, gradients)
    for i, key in unclear:
        # The tensor is a sum of terms that cancel: it may differ by what rounding of the weights makes of it, no more.
        # That of the last bias is the sum of what the scores get, about 1 for fakes less 1 for reals, and adding them
        # up rounds to 2^-24 each.
        error = np.abs(grads[i] - expected[key]).max()
        explained = max(spread[i], 2 ** -24 if key in ('Output/bias', '4x4/Dense1/bias') else 0)
        assert error <= 4 * explained, f'{what}/{key}: error {error:.3g}, rounding explains {explained:.3g}'
        assert error <= 1e-6 * max(np.abs(g).max() for g in grads), f'{what}/{key}: error {error:.3g}'


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


@pytest.fixture(scope='module')
def networks_of():
    """Function from the path of a pickle to (G, D), loaded once."""
    return functools.cache(lambda pkl: misc.load_pkl(pkl)[:2])


# ---- ProGAN ----

PROGAN_CASES = load_json('progan/losses/cases.json', GOLDEN_FAMILY)


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
@pytest.mark.parametrize('name', PROGAN_CASES)
def test_golden_progan(name, networks_of):
    case, data = PROGAN_CASES[name], load_npz(f'progan/losses/{name}.npz', GOLDEN_FAMILY)
    (G, D), func = networks_of(GOLDEN_FAMILY / 'progan/losses' / case['weights']), loss.find_loss(case['loss']).func
    net = G if case['loss'].startswith('G') else D
    variables = net.named_variables(trainable=True)
    assert float(D.get_var('lod')) == pytest.approx(case['lod'])
    context = loss.LossContext(
        G, D, case['minibatch'], InjectedRandom({k[5:]: v for k, v in data.items() if k.startswith('rand/')}),
        tf.zeros([1, case['label_size']]), *(tf.constant(data[key]) for key in ('reals', 'labels') if key in data))

    def evaluate():
        with tf.GradientTape() as tape:
            terms = func(context, ('loss', 'reg'), **case['loss_kwargs'])
            value = terms.loss if terms.reg is None else terms.loss + terms.reg
            total = tf.reduce_mean(value)
        return value, tape.gradient(total, list(variables.values()), unconnected_gradients='zero')

    value, grads = evaluate()
    assert_close(value, data['loss'], 1e-5, name)
    for key, grad in zip(variables, grads, strict=True):
        if key in case['zero_grad']:
            assert not np.any(grad), f'{name}: {key} has a gradient, expected none'
    expected = {key: np.swapaxes(data[f'grad/{key}'], 2, 3) if key.endswith('Conv0_up/weight') else data[f'grad/{key}']
                for key in variables if key not in case['zero_grad']}
    assert_gradients_close(name, variables, grads, expected, lambda: evaluate()[1])


# ---- MSG-StyleGAN ----

MSG_CASES = load_json('msg/losses/cases.json', GOLDEN_FAMILY).get('cases', {})


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
@pytest.mark.parametrize('name', MSG_CASES)
def test_golden_msg(name, networks_of):
    case, data = MSG_CASES[name], load_npz(f'msg/losses/{name}.npz', GOLDEN_FAMILY)
    G, D = networks_of(GOLDEN_FAMILY / 'msg/losses' / case['weights'])
    net, func_name = (G, 'G_logistic_ns') if case['loss'].startswith('G') else (D, 'D_logistic_r1')
    variables = net.named_variables(trainable=True)
    reals = tuple(tf.constant(data[key]) for key in data if key.startswith('reals/'))
    context = loss.LossContext(
        G, D, case['minibatch'], InjectedRandom({k[5:]: v for k, v in data.items() if k.startswith('rand/')}),
        tf.zeros([1, case['label_size']]), reals, tf.constant(data['labels']) if 'labels' in data else None)
    G.set_var('dlatent_avg', data['dlatent_avg_before'])
    kwargs = {name.removeprefix('r1_'): value for name, value in case['loss_kwargs'].items()}

    def evaluate():
        with tf.GradientTape() as tape:
            terms = loss.find_loss(func_name).func(context, ('loss', 'reg'), **kwargs)
            value = terms.loss + (0 if terms.reg is None else tf.reduce_mean(terms.reg))
            total = tf.reduce_mean(value)
        return value, tape.gradient(total, list(variables.values()), unconnected_gradients='zero')

    value, grads = evaluate()
    assert_close(value, data['loss'], 1e-5, name)
    assert_close(G.get_var('dlatent_avg'), data['dlatent_avg_after'], 1e-5, 'dlatent_avg')
    assert not case['zero_grad'] and len(reals) in (0, len(D.input_shapes) - 1)
    assert_gradients_close(name, variables, grads, {key: data[f'grad/{key}'] for key in variables},
                           lambda: evaluate()[1])


# ---- StyleGAN2-ADA ----

def numbers_of_ada(data, prefix=''):
    """Random numbers recorded in a phase of StyleGAN2-ADA, under the names that the losses draw them by.

    Args:
        data:   Arrays 'gen_z', 'gen_c', 'rand/G/mix_z', ..., with `prefix` before the names.
        prefix: Path of the phase.
    """
    draws = {name.removeprefix(f'{prefix}rand/'): value for name, value in data.items()
             if name.startswith(f'{prefix}rand/')}
    z, c = data[f'{prefix}gen_z'], data[f'{prefix}gen_c']
    numbers = {'latents': z, 'labels0': c, 'pl_latents': z[:len(z) // 2], 'labels1': c[:len(z) // 2]}
    # Greg evaluates the generator once, for path lengths.
    regularizes = 'pl_noise' in draws and not any(name.startswith('pl_G/') for name in draws)
    scopes = {'G': 'G1' if regularizes else 'G0', 'pl_G': 'G1'}
    for name, value in draws.items():
        scope, _, rest = name.partition('/')
        rest = {'mix_z': 'latents2'}.get(rest, rest)
        numbers[f'{scopes[scope]}/{rest}' if scope in scopes else name] = value
    return numbers


def translated(name, value, key):
    """(name, value) of a variable of PyTorch's network `key`, 'G' or 'D', or of its gradient."""
    if key == 'D':
        return torch_networks._translate_discriminator(name, value)
    _, name, value = torch_networks._translate_generator(name, value)
    return name, value


def generator_name(name):
    """Name of a variable in the component of a generator that has it -> its name in the generator."""
    return name if name in ('lod', 'dlatent_avg') else f'G_mapping/{name}' if re.match('LabelEmbed|Dense', name) else (
        f'G_synthesis/{name}')


ADA_CASES = {case['key']: case for case in load_json('loss/cases.json', GOLDEN_ADA) or []}


@pytest.mark.golden('STYLEGAN2_GOLDEN_ADA')
@pytest.mark.parametrize('name', ADA_CASES)
def test_golden_ada(name, networks_of):
    case, data = ADA_CASES[name], load_npz(f'loss/{name}.npz', GOLDEN_ADA)
    (G, D), key = networks_of(GOLDEN_ADA / 'loss' / case['pkl']), case['grad_of']
    G.kw.style_mixing_prob = case['loss_kwargs']['style_mixing_prob'] or None
    if 'w_avg_before' in data:
        G.set_var('dlatent_avg', data['w_avg_before'])
    pipe, augment = AugmentPipe(**case['augment_kwargs'] or {}), None
    if case['augment'] != 'none':
        def augment(images, rng):
            return pipe(images, case['augment_p'], rng, case['debug_percentile'])
    pl_mean = tf.Variable(data.get('pl_mean_before', np.float32(0)))
    context = loss.LossContext(
        G, D, case['batch'], InjectedRandom(numbers_of_ada(data)), tf.zeros([1, D.input_shapes[1][1]]),
        tf.constant(data['real_img']), tf.constant(data['real_c']), pl_mean, augment=augment, random_fake_labels=True)
    parts = {'main': ('loss',), 'reg': ('reg',), 'both': ('loss', 'reg')}[case['phase'][1:]]
    settings = case['loss_kwargs']
    variables = (G if key == 'G' else D).named_variables(trainable=True)

    def evaluate():
        with tf.GradientTape() as tape:
            if key == 'G':
                terms = loss.G_logistic_ns_pathreg(context, parts, settings['pl_batch_shrink'], settings['pl_decay'],
                                                   settings['pl_weight'])
            else:
                terms = loss.D_logistic_r1(context, parts, settings['r1_gamma'])
            total = sum(tf.reduce_mean(term) for term in (terms.loss, terms.reg) if term is not None) * case['gain']
        return terms, tape.gradient(total, list(variables.values()), unconnected_gradients='zero')

    terms, grads = evaluate()
    found = {f'Loss/{key}/loss': terms.loss, f'Loss/{key}/reg': terms.reg, **terms.stats,
             'Loss/r1_penalty': terms.stats.get('Loss/gradient_penalty')}
    compared = [tag for tag in case['values'] if found.get(tag) is not None and tag != 'Loss/pl_penalty']
    assert compared
    for tag in compared:
        assert_close(found[tag], data[f'value/{tag}'], 0 if '/signs/' in tag else 1e-5, f'{name} {tag}')
    if 'w_avg_after' in data and case['net'] != 'sg3':  # There the average moves in Dmain alone.
        assert_close(G.get_var('dlatent_avg'), data['w_avg_after'], 1e-5, 'w_avg')
    if 'pl_mean_after' in data and 'reg' in parts and key == 'G':
        assert_close(pl_mean.numpy(), data['pl_mean_after'], 1e-5, 'pl_mean')
    compare_with_ada(name, key, data, variables, grads, lambda: evaluate()[1])


def compare_with_ada(name, key, data, variables, grads, gradients):
    """Compare gradients by variable with recorded ones. `gradients` computes them again."""
    expected = {}
    for torch_name, value in data.items():
        if torch_name.startswith('grad/'):
            own_name, value = translated(torch_name.removeprefix('grad/'), value, key)
            value = value + 1 if own_name.endswith('mod_bias') else value  # Only the variable is stored less 1.
            expected[own_name if key == 'D' else generator_name(own_name)] = value
    assert expected.keys() <= variables.keys()
    unclear = []
    for i, (own_name, grad) in enumerate(zip(variables, grads, strict=True)):
        if own_name in expected:
            assert grad.shape == expected[own_name].shape
            if np.abs(grad - expected[own_name]).max() > 5e-5 * np.abs(expected[own_name]).max():
                unclear.append((i, own_name))
    if unclear:
        spread, largest = rounding_spread(variables, gradients), max(np.abs(g).max() for g in grads)
        for i, own_name in unclear:  # As above, what cancels is as exact as the rounding of the weights.
            error = np.abs(grads[i] - expected[own_name]).max()
            assert error <= 4 * max(spread[i], 2 ** -24) and error <= 1e-6 * largest, (
                f'{name} grad of {own_name}: error {error:.3g}, rounding explains {spread[i]:.3g}')


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


@pytest.mark.parametrize('group, minibatch, passes', [(4, 8, 1), (2, 6, 1), (0, 3, 1), (4, 3, 2), (None, 4, 2)])
def test_D_sees_fakes_and_reals_together_where_its_statistics_stay_the_same(group, minibatch, passes):
    _, _, step = small_step()
    D = registry.create_network('D', 'D_stylegan2', resolution=8, fmap_base=16, fmap_max=4, num_channels=1,
                                label_size=2, mbstd_group_size=group)
    labels = tf.one_hot(tf.range(3 * minibatch) % 2, 2)
    step = step._replace(D=D, minibatch_size=minibatch, reals=tf.random.normal([minibatch, 1, 8, 8]),
                         labels=labels[:minibatch])
    fakes, labels = tf.random.normal([minibatch, 1, 8, 8], 2), labels[1:1 + minibatch]
    expected = step.scores('aug_fake', fakes, labels), step.scores('aug_real', step.reals, step.labels)
    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        return D(*args, **kwargs)
    counted.kw, counted.input_shapes = D.kw, D.input_shapes
    found = step._replace(D=counted).scores_of_fakes_and_reals(fakes, labels)
    assert len(calls) == passes
    for scores, others in zip(found, expected):
        np.testing.assert_allclose(scores, others, atol=1e-5)


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
