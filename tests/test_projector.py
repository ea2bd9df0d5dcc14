"""The projector: the original's numbers, several images at a time, one trace."""


import numpy as np
import pytest
import tensorflow as tf

import projector
from tests.golden import GOLDEN, assert_close, load_json, load_npz
from tests.injected import InjectedRandom
from training import misc


def stub_distance(a, b):
    """The distance that the golden numbers were made with."""
    return tf.reduce_mean(tf.square(a - b), axis=[1, 2, 3]) / 1000


# ---- Against the original ----

@pytest.mark.golden
def test_every_step_is_that_of_the_original(capsys):
    expected, settings = load_npz('projector/projector.npz'), load_json('projector/projector.json')
    rng = InjectedRandom()
    proj = projector.Projector(stub_distance, rng)
    for name in ('num_steps', 'dlatent_avg_samples', 'initial_learning_rate', 'initial_noise_factor', 'regularize_noise_weight',
                 'lr_rampdown_length', 'lr_rampup_length', 'noise_ramp_length'):
        assert hasattr(proj, name)
        setattr(proj, name, settings[name])
    proj.verbose = True
    _G, _D, Gs = misc.load_networks(GOLDEN / 'projector/net.pkl')
    proj.set_network(Gs)
    rng.feed({name.split('/')[1]: [value] for name, value in expected.items() if name.startswith('noise_init/')})
    proj.start(expected['target'])
    assert_close(proj.get_dlatents()[:, :1], expected['start_dlatents'], 1e-5)
    for step in range(settings['num_steps']):
        learning_rate, noise_strength = proj.schedule(step)
        np.testing.assert_allclose(learning_rate, expected['lr'][step], rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(noise_strength, expected['noise_strength'][step], rtol=1e-5, atol=1e-12)
        rng.feed({'dlatents': [expected['dlatent_noise'][step]]})
        proj.step()
        print(step, abs(proj.last_distances[0]/expected['dist'][step]-1).numpy(), abs(proj.last_losses[0]/ expected['loss'][step]-1).numpy(), np.abs(proj.get_dlatents()[:, 0]- expected['dlatents_per_step'][step]).max())
    print(proj.num_traces())
