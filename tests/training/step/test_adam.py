"""Updates of variables that are joined into a flat tensor, against updates of one variable after another."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.training.test_misc import small_networks
from training.step.adam import Adam
from training.step.groups import Groups
from training.step.train_step import TrainStep

SHAPES = [(), (3, 5), (32,), (2, 2, 8, 9), (1, 7)]


def random_values(seed):
    rng = np.random.RandomState(seed)
    return [np.asarray(rng.randn(*shape), np.float32) for shape in SHAPES]


@pytest.mark.parametrize('largest, joined', [(1, []), (32, [0, 1, 2, 4]), (math.inf, [0, 1, 2, 3, 4])])
def test_what_is_joined_is_split_again(largest, joined):
    groups = Groups([tf.TensorShape(shape) for shape in SHAPES], largest)
    assert groups.joined == joined and groups.alone == [i for i in range(5) if i not in joined]
    values = random_values(0)
    together = groups.join(values)
    assert len(together) == len(groups.alone) + bool(joined)
    if joined:
        assert together[0].shape == [groups.size] and groups.size % 32 == 0
    variables = [tf.Variable(tf.zeros(shape)) for shape in SHAPES]
    groups.assign(variables, together)
    for var, value in zip(variables, values, strict=True):
        np.testing.assert_array_equal(var, value)


def test_a_missing_gradient_is_zero():
    groups = Groups([tf.TensorShape(shape) for shape in SHAPES], 32)
    flat, alone = groups.join([None] * 5)
    assert not np.any(flat) and not np.any(alone) and alone.shape == SHAPES[3]


@pytest.mark.parametrize('largest', [32, math.inf])
def test_joined_variables_get_the_same_bits(largest):
    """In steps, one of which has a gradient that is not finite and changes nothing but the number of such steps."""
    def steps(largest):
        variables = [tf.Variable(value) for value in random_values(1)]
        adam = Adam(variables, beta1=0.9, mb_ratio=0.8, largest=largest)

        @tf.function(autograph=False)
        def step(*grads):
            return adam.apply_joined(adam.groups.join(grads), 0.01, divisor=3.0)
        history = []
        for seed in range(4):
            grads = random_values(10 + seed)
            if seed == 2:
                grads[4][0, 3] = math.nan
            assert step(*grads).numpy() == (seed != 2)
            state = [*variables, *adam.m, *adam.v, adam.beta1_power, adam.beta2_power]
            history.append([var.numpy() for var in state])
        assert adam.skipped.numpy() == 1
        return history

    history = steps(largest)
    for ours, others in zip(history, steps(1), strict=True):
        for a, b in zip(ours, others, strict=True):
            assert a.tobytes() == b.tobytes()
    for before, after, changed in zip(history[:-1], history[1:], [True, False, True], strict=True):
        assert all(np.array_equal(a, b) != changed for a, b in zip(before, after, strict=True))


def test_checkpoints_hold_the_moments_of_each_variable_and_nothing_else(tmp_path):
    """Under the names that they had when variables were updated one after another."""
    trainer = TrainStep(*small_networks(), 'G_logistic_ns_pathreg', 'D_logistic_r1')
    assert trainer.G_opt.groups.joined and trainer.D_opt.groups.joined
    path = tf.train.Checkpoint(**trainer.state()).write(str(tmp_path / 'variables'))
    names = {name.removesuffix('/.ATTRIBUTES/VARIABLE_VALUE') for name, _ in tf.train.list_variables(path)}
    expected = {f'{net}_opt/{name}' for net in 'GD' for name in ('beta1_power', 'beta2_power', 'skipped')}
    for net in (trainer.G, trainer.D, trainer.Gs):
        expected |= {f'{net.name}/{name.replace("/", ".S")}' for name in net.vars}
    for key, net in (('G', trainer.G), ('D', trainer.D)):
        expected |= {f'{key}_opt/{slot}/{name.replace("/", ".S")}' for slot in 'mv' for name in net.trainables}
    assert names - {'save_counter', '_CHECKPOINTABLE_OBJECT_GRAPH'} == {*expected, 'pl_mean'}
