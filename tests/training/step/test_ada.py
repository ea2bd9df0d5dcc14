"""The strength of the augmentation: the steps of its controller, and what it counts."""

import numpy as np
import pytest
import tensorflow as tf

from tests.golden import GOLDEN_ADA, load_json
from training.step.ada import Augmentation, next_strength


def augmentation(**kwargs):
    return Augmentation(lambda images, p, rng: images, **kwargs)


def moments(signs):
    signs = tf.cast(tf.reshape(signs, [-1]), tf.float32)
    return tf.stack([tf.cast(tf.size(signs), tf.float32), tf.reduce_sum(signs), tf.reduce_sum(signs ** 2)])


@pytest.mark.golden('STYLEGAN2_GOLDEN_ADA')
def test_golden_steps():
    cases = load_json('ada_controller/controller.json', GOLDEN_ADA)
    assert len(cases) > 3
    for case in cases:
        p = tf.constant(case['p0'], tf.float32)
        for sign_mean, expected in zip(case['sign_mean'], case['p'], strict=True):
            p = next_strength(p, tf.constant(sign_mean, tf.float64), case['ada_target'],
                              case['batch_size'] * case['ada_interval'], case['ada_kimg'])
            assert p.numpy() == np.float32(expected), case['kind']


@pytest.mark.golden('STYLEGAN2_GOLDEN_ADA')
def test_golden_steps_from_the_scores_of_each_phase():
    for case in load_json('ada_controller/end_to_end.json', GOLDEN_ADA):
        controller = augmentation(p=case['p0'], target=case['ada_target'], interval=case['ada_interval'],
                                  kimg=case['ada_kimg'])
        updates = {update['after_iteration']: update for update in case['updates']}
        for iteration, phases in enumerate(case['logits']):
            for name in ('Dmain', 'Dreg'):
                for logits in phases[name]:
                    controller.collect(moments(tf.sign(tf.constant(logits))))
            assert controller.is_due(iteration) == (iteration in updates)
            if iteration in updates:
                expected = updates[iteration]
                count, total = controller.state()['signs'].numpy().astype(np.float64)
                assert count == expected['num'] and abs(total / count - expected['sign_mean']) <= 1e-7
                controller.update(case['batch_size'])
                assert controller.p.numpy() == np.float32(expected['p'])


def test_it_stays_within_reason():
    """Never below zero; scores that are not finite or not there change nothing; a constant p has no updates."""
    controller = augmentation(p=0.1, target=0.6, interval=4, kimg=0.1)
    controller.collect(moments([-1, -1]))
    controller.update(1000)
    assert controller.p.numpy() == 0
    controller.p.assign(0.5)
    controller.collect(tf.constant([4.0, np.nan, np.nan]))
    controller.update(1000)
    assert controller.p.numpy() == 0.5 and not controller.state()['signs'].numpy().any()
    assert not any(augmentation(p=0.5).is_due(iteration) for iteration in range(8))
