"""Training steps against the original's: its random numbers go in, its weights must come out."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from dnnlib import onednn
from tests.golden import GOLDEN, assert_close, load_json, load_npz
from tests.injected import InjectedRandom
from training import configs, misc
from training.nets import registry
from training.step.train_step import TrainStep, _sum_over_microbatches


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
def test_golden_training(name, case, impl):
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
    assert set(trainer.num_traces().values()) == {1}


def assert_weights_close(actual, expected, lrate, what):
    """Within 0.05 * lrate * max(1, |w|), but for one element in a thousand.

    Adam turns gradients near zero into whole steps.
    """
    error = np.abs(actual - expected) / (lrate * np.maximum(1, np.abs(expected)))
    outliers = np.count_nonzero(~(error <= 0.05))
    assert outliers <= error.size / 1000, (
        f'{what}: {outliers} of {error.size} elements differ, by up to {error.max():.3g} learning rates'
    )


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
