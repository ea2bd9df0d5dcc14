"""Training steps against the original's: its random numbers go in, its weights must come out."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from dnnlib import onednn
from tests.golden import GOLDEN, GOLDEN_ADA, GOLDEN_FAMILY, assert_close, load_json, load_npz
from tests.injected import InjectedRandom
from tests.training.test_losses import generator_name, numbers_of_ada, translated
from tests.training.test_networks import eagerly
from training import configs, misc
from training.augment import AUGPIPES, AugmentPipe
from training.loss import LossContext
from training.nets import registry
from training.step import train_step
from training.step.ada import Augmentation
from training.step.iteration import smoothing_beta
from training.step.train_step import TrainStep, _finite, _sum_over_microbatches

# Cases that are computed eagerly: tracing the phases takes longer than a few steps of such small networks. Of each kind
# of networks, and of each form of the custom ops, at least one other case is traced as in training.
EAGER = ('ref-fast', 'ref-slow', 'ref-nolazy', 'fixed', 'grow-noreset', 'm16', 'rampup', 'nolazy')


def plain_sum(function, number):
    """`_sum_over_microbatches` without its loop, which would trace the microbatch."""
    total = function(0)
    for index in range(1, number):
        total = tf.nest.map_structure(tf.add, total, function(index))
    return total


@pytest.fixture
def traced(request, monkeypatch):
    """Are the phases of this case traced? If not, they are computed eagerly."""
    if request.node.callspec.id not in EAGER:
        yield True
        return
    monkeypatch.setattr(train_step, '_sum_over_microbatches', plain_sum)
    with eagerly():
        yield False


def training_cases():
    cases = []
    for path in sorted(GOLDEN.glob('training/cases*.json')):
        for name, case in load_json(path.relative_to(GOLDEN)).items():
            cases.append(pytest.param(name, case, id=name))
    return cases


def make_trainer(case, nets, rng):
    reg_args = (
        {'G_reg_interval': case['G_reg_interval'], 'D_reg_interval': case['D_reg_interval']} if case['lazy'] else {}
    )
    return TrainStep(
        *nets,
        case['G_loss'],
        case['D_loss'],
        D_loss_args={'gamma': case['gamma']},
        G_opt_args=dict(beta1=0.0, beta2=0.99, epsilon=1e-8),
        D_opt_args=dict(beta1=0.0, beta2=0.99, epsilon=1e-8),
        lazy_regularization=case['lazy'],
        label_table=np.zeros([1, case['LS']]),
        rng=rng,
        **reg_args,
    )


@pytest.mark.golden
@pytest.mark.parametrize('name, case', training_cases())
def test_golden_training(name, case, impl, traced):
    data = load_npz(f'training/{name}.npz')
    nets = misc.load_pkl(GOLDEN / 'training' / f'{name}-init.pkl')
    rounds = case['mb'] // case['mbg']
    rng = InjectedRandom()
    trainer = make_trainer(case, nets, rng)
    stage = trainer.set_lod(case['lod'])
    beta = 0.5 ** (case['mb'] / (case['smooth'] * 1000))
    for iteration in range(case['iters']):
        fed = {}
        for phase in ('G_train', 'G_reg', 'D_train', 'D_reg', 'data'):
            for r in range(rounds):
                prefix = f'rand/it{iteration:02d}/{phase}' + (f'_r{r}/' if rounds > 1 else '/')
                for key, value in data.items():
                    if key.startswith(prefix):
                        fed.setdefault(f'{phase}/{key[len(prefix):]}', []).append(value)
        rng.feed(fed)
        reals, labels = (tf.concat(fed[f'data/{key}'], axis=0) for key in ('reals', 'labels'))
        for phase in trainer.phases(iteration):
            if phase == 'Gs_update':
                trainer.update_Gs(beta)
                continue
            minibatch = [reals, labels] if phase[0] == 'D' else [None, None]
            stats = trainer.run(phase, case['mbg'], rounds, case['lr'], *minibatch, stage).stats
            if case['lazy'] or phase != 'D_train':
                expected = [
                    data[f'value/it{iteration:02d}/{phase}' + (f'_r{r}' if rounds > 1 else '')] for r in range(rounds)
                ]
                count, total, _ = stats[f'Loss/{phase[0]}/{"reg" if phase.endswith("reg") else "loss"}'].numpy()
                assert_close(total / count, np.mean(expected), 1e-5, f'{name} it{iteration} {phase}')
        for which, net in zip(('G', 'D', 'Gs'), nets, strict=True):
            for key, value in net.vars.items():
                expected = data.get(f'after_it{iteration:02d}/{which}/{key}')
                if expected is not None:
                    assert_weights_close(value.numpy(), expected, case['lr'], f'{name} it{iteration} {which}/{key}')
        if f'after_it{iteration:02d}/pl_mean' in data:
            assert_close(trainer.pl_mean.numpy(), data[f'after_it{iteration:02d}/pl_mean'], 1e-5, 'pl_mean')
    for which, net, optimizer in (('G', nets[0], trainer.G_opt), ('D', nets[1], trainer.D_opt)):
        for kind, slots in (('m', optimizer.m), ('v', optimizer.v)):
            for key, slot in zip(net.trainables, slots, strict=True):
                if f'adam/{which}/{kind}/{key}' in data:
                    assert_close(slot.numpy(), data[f'adam/{which}/{kind}/{key}'], 1e-3, f'adam/{which}/{kind}/{key}')
        powers = {k: v for k, v in case['beta_powers'].items() if k.startswith(f'Train{which}') and 'beta2' in k}
        assert_close(optimizer.beta2_power.numpy(), list(powers.values())[0], 1e-6, 'beta2_power')
    for final, net in zip(misc.load_pkl(GOLDEN / 'training' / f'{name}-final.pkl'), nets, strict=True):
        for key, value in net.vars.items():
            assert_weights_close(value.numpy(), final.get_var(key), case['lr'], f'{name} final {net.name}/{key}')
    assert set(trainer.num_traces().values()) == {1 if traced else 0}


def assert_weights_close(actual, expected, lrate, what):
    """Within 0.05 * lrate * max(1, |w|), but for one element in a thousand.

    Adam turns gradients near zero into whole steps.
    """
    error = np.abs(actual - expected) / (lrate * np.maximum(1, np.abs(expected)))
    outliers = np.count_nonzero(~(error <= 0.05))
    assert outliers <= error.size / 1000, (
        f'{what}: {outliers} of {error.size} elements differ, by up to {error.max():.3g} learning rates'
    )


# ---- ProGAN ----

PROGAN_CASES = load_json('progan/training/cases.json', GOLDEN_FAMILY)


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
@pytest.mark.parametrize('name', PROGAN_CASES)
def test_golden_training_of_progan(name, traced):
    case, data = PROGAN_CASES[name], load_npz(f'progan/training/{name}.npz', GOLDEN_FAMILY)
    nets = misc.load_networks(GOLDEN_FAMILY / f'progan/training/{name}-init.pkl')
    rng = InjectedRandom()
    trainer = TrainStep(
        *nets, 'G_wgan_acgan', 'D_wgangp_acgan', G_opt_args=case['adam'], D_opt_args=case['adam'],
        lazy_regularization=False, label_table=np.zeros([1, case['L']]), rng=rng, D_first=True)
    resolution_log2 = int(np.log2(case['res']))
    for iteration, (lod, lrate) in enumerate(zip(case['lods'], case['lr'], strict=True)):
        stage, prefix = trainer.set_lod(lod), f'rand/it{iteration:02d}/'
        fed = {}
        for key, value in data.items():
            if key.startswith(prefix):
                fed[key.removeprefix(prefix)] = [value]
        rng.feed({key: value for key, value in fed.items() if 'reals' not in key})
        images, labels = data[f'{prefix}D_train/reals_uint8'], data[f'{prefix}D_train/labels']
        assert images.shape[2] == 2 ** (resolution_log2 - int(lod))
        full, _ = misc.process_reals(images, labels, lod, False, [0, 255], [-1, 1])
        assert_close(full, data[f'{prefix}D_train/reals_processed'], 1e-6, 'reals')
        reals, _ = misc.process_reals(images, labels, lod, False, [0, 255], [-1, 1], stage=stage)
        if iteration in case['optimizer_reset_before_iteration']:
            trainer.G_opt.reset()
            trainer.D_opt.reset()
        assert trainer.phases(iteration) == ['Gs_update', 'D_train', 'G_train']
        for phase in trainer.phases(iteration):
            if phase == 'Gs_update':
                trainer.update_Gs(case['G_smoothing'])
                continue
            minibatch = [reals, tf.constant(labels)] if phase[0] == 'D' else [None, None]
            stats = trainer.run(phase, case['mb'], 1, lrate, *minibatch, stage).stats
            parts = [stats[tag].numpy() for tag in (f'Loss/{phase[0]}/loss', f'Loss/{phase[0]}/reg') if tag in stats]
            assert_close(sum(total / count for count, total, _ in parts), data[f'value/it{iteration:02d}/{phase}'],
                         1e-5, f'{name} it{iteration} {phase}')
        for which, net in zip(('G', 'D', 'Gs'), nets, strict=True):
            for key, value in net.vars.items():
                expected = data.get(f'after_it{iteration:02d}/{which}/{key}')
                if expected is not None and key != 'lod':  # That of Gs follows one update later in the original.
                    if key.endswith('Conv0_up/weight'):
                        expected = np.swapaxes(expected, 2, 3)
                    assert_weights_close(value.numpy(), expected, lrate, f'{name} it{iteration} {which}/{key}')
    for which, optimizer in (('G', trainer.G_opt), ('D', trainer.D_opt)):
        assert_close(optimizer.beta2_power.numpy(), case['beta_powers'][f'{which}/beta2_power'], 1e-6, 'beta2_power')


# ---- MSG-StyleGAN ----

MSG_CASES = load_json('msg/training/cases.json', GOLDEN_FAMILY)


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
@pytest.mark.parametrize('name', MSG_CASES)
def test_golden_training_of_msg(name, traced):
    case, data = MSG_CASES[name], load_npz(f'msg/training/{name}.npz', GOLDEN_FAMILY)
    nets = misc.load_networks(GOLDEN_FAMILY / f'msg/training/{name}-init.pkl')
    rng = InjectedRandom()
    trainer = TrainStep(
        *nets, 'G_logistic_ns', 'D_logistic_r1', D_loss_args=dict(gamma=case['gamma']), G_opt_args=case['adam'],
        D_opt_args=case['adam'], lazy_regularization=False, label_table=np.zeros([1, case['L']]), rng=rng, D_first=True)
    assert trainer.set_lod(0) is None
    for iteration in range(3):
        prefix = f'rand/it{iteration:02d}/'
        rng.feed({key.removeprefix(prefix): [value] for key, value in data.items()
                  if key.startswith(prefix) and 'reals' not in key})
        images, labels = data[f'{prefix}D_train/reals_uint8'], data[f'{prefix}D_train/labels']
        reals, _ = misc.process_reals(images, labels, 0, False, [0, 255], [-1, 1])
        sizes = LossContext(nets[0], nets[1], case['mb'], rng, None).inputs_of_D(reals)
        for size in sizes:  # Recorded in the first iteration alone.
            expected = data.get(f'{prefix}D_train/reals_{size.shape[2]}x{size.shape[3]}')
            assert (expected is None) == (iteration > 0)
            assert_close(size, size if expected is None else expected, 1e-6, 'reals')
        assert trainer.phases(iteration) == case['order']
        for phase in case['order']:
            if phase == 'Gs_update':
                trainer.update_Gs(case['Gs_beta'])
                continue
            minibatch = [reals, tf.constant(labels)] if phase[0] == 'D' else [None, None]
            stats = trainer.run(phase, case['mb'], 1, case['lr'], *minibatch).stats
            parts = [stats[tag].numpy() for tag in (f'Loss/{phase[0]}/loss', f'Loss/{phase[0]}/reg') if tag in stats]
            assert_close(sum(total / count for count, total, _ in parts), data[f'value/it{iteration:02d}/{phase}'],
                         1e-5, f'{name} it{iteration} {phase}')
        compared = 0
        for which, net in zip(('G', 'D', 'Gs'), nets, strict=True):
            for key, value in net.vars.items():
                expected = data.get(f'after_it{iteration:02d}/{which}/{key}')
                if expected is not None:
                    assert_weights_close(value.numpy(), expected, case['lr'], f'{name} it{iteration} {which}/{key}')
                    compared += 1
        assert bool(compared) == (iteration != 1)
    assert smoothing_beta(case['mb'], case['smooth'], None, 0) == pytest.approx(case['Gs_beta'])
    for net, expected in zip(nets, misc.load_networks(GOLDEN_FAMILY / f'msg/training/{name}-final.pkl'), strict=True):
        for key, value in net.vars.items():
            assert_weights_close(value.numpy(), expected.get_var(key), case['lr'], f'{name} final {net.name}/{key}')


# ---- StyleGAN2-ADA ----

ADA_CASES = load_json('training/cases.json', GOLDEN_ADA)
ADA_PHASES = {'G_train': ('Gmain', 'Gboth'), 'G_reg': ('Greg',), 'D_train': ('Dmain', 'Dboth'), 'D_reg': ('Dreg',)}


def feed_of_ada(data, iteration, rounds, rng):
    """Feed the recorded numbers of an iteration.

    Returns:
        ({phase: its name in the data}, reals, labels).
    """
    names, fed, reals, labels = {}, {}, [], []
    for phase, choices in ADA_PHASES.items():
        for name in choices:
            for r in range(rounds):
                prefix = f'it{iteration:02d}/{name}/r{r}/'
                if f'{prefix}gen_z' in data:
                    for key, value in numbers_of_ada(data, prefix).items():
                        fed.setdefault(f'{phase}/{key}', []).append(value)
                elif f'{prefix}real_img' in data:  # Dreg, which generates nothing.
                    for key, value in data.items():
                        if key.startswith(f'{prefix}rand/'):
                            fed.setdefault(f'{phase}/{key.removeprefix(f"{prefix}rand/")}', []).append(value)
                if phase == 'D_train' and f'{prefix}real_img' in data:
                    reals.append(data[f'{prefix}real_img'])
                    labels.append(data[f'{prefix}real_c'])
                if any(key.startswith(prefix) for key in data):
                    names[phase] = name
    rng.feed(fed)
    return names, tf.concat(reals, axis=0), tf.concat(labels, axis=0)


@pytest.mark.golden('STYLEGAN2_GOLDEN_ADA')
@pytest.mark.parametrize('name', ADA_CASES)
def test_golden_training_of_ada(name, traced):
    case, data = ADA_CASES[name], load_npz(f'training/{name}.npz', GOLDEN_ADA)
    nets = misc.load_pkl(GOLDEN_ADA / 'training' / f'{name}-init.pkl')
    rounds, settings, rng = case['batch_size'] // case['batch_gpu'], case['loss_kwargs'], InjectedRandom()
    adam = dict(beta1=case['betas'][0], beta2=case['betas'][1], epsilon=case['eps'])
    augmentation = None
    if case['augment']:
        augmentation = Augmentation(AugmentPipe(**AUGPIPES[case['augment']]), case['augment_p'])
    trainer = TrainStep(
        *nets, 'G_logistic_ns_pathreg', 'D_logistic_r1', D_loss_args={'gamma': settings['r1_gamma']},
        G_loss_args={f'pl_{key}': settings[f'pl_{other}'] for key, other in (
            ('weight', 'weight'), ('decay', 'decay'), ('minibatch_shrink', 'batch_shrink'))},
        G_opt_args=adam, D_opt_args=adam, G_reg_interval=case['G_reg_interval'], D_reg_interval=case['D_reg_interval'],
        label_table=np.zeros([1, case['net_c_dim']]), rng=rng, augmentation=augmentation, ada_rules=True)
    for iteration in range(case['iterations']):
        names, reals, labels = feed_of_ada(data, iteration, rounds, rng)
        phases = trainer.phases(iteration)
        assert phases == [*names, 'Gs_update'], iteration
        for phase in phases[:-1]:
            minibatch = [reals, labels] if phase[0] == 'D' else [None, None]
            stats = trainer.run(phase, case['batch_gpu'], rounds, case['lr'], *minibatch).stats
            for part in ('loss', 'reg'):
                tag = f'Loss/{phase[0]}/{part}'
                expected = [value for key, value in data.items()
                            if key.startswith(f'it{iteration:02d}/{names[phase]}/') and key.endswith(f'value/{tag}')]
                if expected:
                    count, total, _ = stats[tag].numpy()
                    assert_close(total / count, np.mean(expected), 2e-5, f'{name} it{iteration} {phase} {part}')
        beta = smoothing_beta(case['batch_size'], case['ema_kimg'], case['ema_rampup'], iteration * case['batch_size'])
        assert_close(beta, data[f'it{iteration:02d}/ema_beta'], 1e-6, 'beta')
        trainer.update_Gs(beta)
        compared = 0
        for key, expected in data.items():
            if key.startswith(f'after_it{iteration:02d}/') and '/' in key.split('/', 1)[1]:
                _, net, torch_name = key.split('/', 2)
                own_name, expected = translated(torch_name, expected, net[0])
                which = nets[('G', 'D', 'G_ema').index(net)]
                actual = which.get_var(own_name if net == 'D' else generator_name(own_name))
                assert_weights_close(actual, expected, case['lr'], f'{name} it{iteration} {key}')
                compared += 1
        assert bool(compared) == (iteration in (0, case['iterations'] - 1))
        if compared:
            assert_close(trainer.pl_mean.numpy(), data[f'after_it{iteration:02d}/pl_mean'], 1e-5, 'pl_mean')
    for key, optimizer in (('G', trainer.G_opt), ('D', trainer.D_opt)):
        slots = dict(zip(trainer.trained[key], optimizer.v, strict=True))
        for torch_name, expected in data.items():
            if torch_name.startswith(f'adam/{key}/v/'):
                own_name, expected = translated(torch_name.removeprefix(f'adam/{key}/v/'), expected, key)
                expected = expected + 1 if own_name.endswith('mod_bias') else expected
                actual = slots[own_name if key == 'D' else generator_name(own_name)].numpy()
                assert_close(actual, expected, 1e-3, f'{name} second moments of {own_name}')
        steps = data[f'adam/{key}/step'] + 1  # The power for the next update.
        assert_close(optimizer.beta2_power.numpy(), optimizer.beta2 ** steps, 1e-5, 'beta2_power')
    assert set(trainer.num_traces().values()) == {1 if traced else 0}


def test_ada_rules_replace_what_is_not_finite():
    x = tf.constant([np.nan, np.inf, -np.inf, 3.0, -1e30])
    np.testing.assert_array_equal(_finite(x), np.float32([0, 1e5, -1e5, 3, -1e30]))


def memory_of_rounds():
    """Bytes at the peak of one round, and of two: each keeps eight results of 4 MB for the gradients."""
    weight = tf.Variable(tf.ones([1, 1024]))

    def peak(rounds):
        def one_round(index):
            with tf.GradientTape() as tape:
                x = tf.random.stateless_normal([1024, 1024], [1, index])
                for _ in range(8):
                    x = tf.sin(x * weight)
                total = tf.reduce_sum(x)
            return [tape.gradient(total, weight)]
        function = tf.function(lambda: _sum_over_microbatches(one_round, rounds), autograph=False)
        first = function()
        tf.config.experimental.reset_memory_stats('CPU:0')
        np.testing.assert_array_equal(function()[0], first[0])
        return tf.config.experimental.get_memory_info('CPU:0')['peak']

    before = tf.config.experimental.get_memory_info('CPU:0')['current']
    return peak(1) - before, peak(2) - before


def test_rounds_follow_one_another():
    """Two rounds take the memory of one, and of their sum: none begins before the last has ended."""
    if onednn.is_on():
        one, two = memory_of_rounds()
    else:  # Only oneDNN's allocator counts.
        program = 'from tests.training.step.test_train_step import memory_of_rounds; print(*memory_of_rounds())'
        result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True,
                                env={**os.environ, 'TF_ENABLE_ONEDNN_OPTS': '1'})
        one, two = map(int, result.stdout.split())
    assert one > 8 * 2 ** 22
    assert two < 1.3 * one


def test_sum_over_microbatches():
    """Each round is added once."""
    function = tf.function(
        lambda: _sum_over_microbatches(lambda index: {'a': tf.stack([index, index * index])}, 4), autograph=False
    )
    assert function()['a'].numpy().tolist() == [0 + 1 + 2 + 3, 0 + 1 + 4 + 9]


@pytest.mark.parametrize('config', ['config-a', 'config-b', 'config-c', 'config-d', 'config-e', 'config-f'])
@pytest.mark.parametrize('losses', [{}, {'G_loss': 'G_logistic_ns', 'D_loss': 'D_logistic'}])
def test_lazy_regularization_changes_adam_for_every_loss(config, losses):
    """The original scales learning rate and betas of both networks, even if the loss of one has no regularizer."""
    args = configs.training_run('data', config=config, **losses).run_func_kwargs
    lazy = args.get('lazy_regularization', True)
    shape = dict(resolution=4, fmap_base=8, fmap_max=2, num_channels=1)
    small = dict(latent_size=4, dlatent_size=4, mapping_fmaps=4, mapping_layers=1)
    G = registry.create_network('G', **{**args.G_args, **shape, **small})
    D = registry.create_network('D', **{**args.D_args, **shape})
    trainer = TrainStep(
        G, D, G.clone('Gs'), args.G_loss_args['func_name'], args.D_loss_args['func_name'], G_opt_args=args.G_opt_args,
        D_opt_args=args.D_opt_args, lazy_regularization=lazy)
    for optimizer, interval in ((trainer.G_opt, 4), (trainer.D_opt, 16)):
        ratio = interval / (interval + 1) if lazy else 1
        assert optimizer.mb_ratio == ratio  # The factor of the learning rate.
        assert optimizer.beta1 == 0.0 and optimizer.beta2 == 0.99 ** ratio
