"""Our optimizer and our moving average against those of Keras and, where it imports, tensorflow-addons."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.nets import registry
from training.step.adam import Adam
from training.step.train_step import TrainStep

# The last version that tensorflow-addons, which ended in 2024, imports on is 2.15.
ADDONS = tuple(int(number) for number in tf.version.VERSION.split('.')[:2]) <= (2, 15)

SHAPES = ([3, 3, 4, 5], [7], [])


def gradients(rng, scale):
    """One gradient per variable, of magnitudes from 1e-4 to 1 times `scale`, both signs and zeros among them."""
    grads = [rng.randn(*shape) * scale * 10.0 ** rng.uniform(-4, 0, shape) for shape in SHAPES]
    grads[0][0] = 0.0
    return [tf.constant(grad, tf.float32) for grad in grads]


@pytest.mark.parametrize('ratio', [1, 4 / 5, 16 / 17])
@pytest.mark.parametrize(
    'beta1, epsilon, scale', [(0.0, 1e-8, 1), (0.0, 1e-8, 1e-7), (0.0, 1e-3, 1), (0.9, 1e-8, 1), (0.9, 1e-3, 1)]
)
def test_adam_takes_the_steps_of_keras(beta1, epsilon, scale, ratio):
    """Keras adds epsilon to sqrt(v) before bias correction, as TensorFlow 1 and ours do: equal up to rounding.

    With epsilons and gradients of like size that place is what the result hangs on: see the next test.
    """
    rng = np.random.RandomState(1)
    start = [np.asarray(rng.randn(*shape), np.float32) for shape in SHAPES]
    ours, theirs = ([tf.Variable(value) for value in start] for _ in range(2))
    ours_opt = Adam(ours, beta1=beta1, beta2=0.99, epsilon=epsilon, mb_ratio=ratio)
    theirs_opt = keras.optimizers.Adam(0.002 * ratio, beta1 ** ratio, 0.99 ** ratio, epsilon)
    for _ in range(20):
        grads = gradients(rng, scale)
        assert ours_opt.apply(grads, 0.002)
        theirs_opt.apply_gradients(zip(grads, theirs))
    for a, b, value in zip(ours, theirs, start, strict=True):
        # An element moves by up to 0.002 in each of the 20 steps; float32 holds it to 6e-8 of its size.
        np.testing.assert_allclose(a - value, b - value, rtol=0, atol=20 * 6e-8 * max(1, np.abs(value).max()))
    assert np.abs(ours[0] - start[0]).max() > 0.002


def test_the_place_of_epsilon_counts():
    """The formula in float64 with epsilon at both places. Ours is not that of Kingma and Ba's Algorithm 1."""
    rng = np.random.RandomState(2)
    var = tf.Variable(np.zeros(SHAPES[0], np.float32))
    ours = Adam([var], beta1=0.9, beta2=0.99, epsilon=1e-3)
    m = v = right = wrong = np.zeros(SHAPES[0])
    for t in range(1, 11):
        grad = gradients(rng, 1)[0]
        ours.apply([grad], 0.002)
        m, v = 0.9 * m + 0.1 * grad.numpy(), 0.99 * v + 0.01 * grad.numpy().astype(np.float64) ** 2
        m_unbiased, v_unbiased = m / (1 - 0.9 ** t), v / (1 - 0.99 ** t)
        right = right - 0.002 * np.sqrt(1 - 0.99 ** t) * m_unbiased / (np.sqrt(v) + 1e-3)
        wrong = wrong - 0.002 * m_unbiased / (np.sqrt(v_unbiased) + 1e-3)
    np.testing.assert_allclose(var.numpy(), right, rtol=1e-5, atol=1e-8)
    assert np.abs(var.numpy() - wrong).max() > 1e-4


@pytest.mark.skipif(
    not ADDONS, reason=f'tensorflow-addons imports only up to TensorFlow 2.15, this is {tf.version.VERSION}'
)
@pytest.mark.parametrize('beta', [0.5 ** (32 / 10000), 0.5])
def test_Gs_is_the_moving_average_of_addons(beta):
    import tensorflow_addons as tfa
    sizes = dict(resolution=16, fmap_base=64, fmap_max=8, latent_size=8, dlatent_size=8, mapping_layers=2)
    G = registry.create_network('G', 'G_main', **sizes)
    D = registry.create_network('D', 'D_stylegan2', resolution=16, fmap_base=64, fmap_max=8)
    Gs = G.clone('Gs')
    trainer = TrainStep(G, D, Gs, 'G_logistic_ns_pathreg', 'D_logistic_r1')
    trained = list(G.named_variables(trainable=True).values())
    start = {name: var.numpy() for name, var in Gs.named_variables(trainable=True).items()}
    addons = tfa.optimizers.MovingAverage(tf.keras.optimizers.legacy.SGD(0.1), average_decay=beta)
    rng = np.random.RandomState(3)
    for _ in range(10):
        # Addons' wrapper moves the weights and then its average; ours follows the same weights.
        addons.apply_gradients([(tf.constant(rng.randn(*var.shape), tf.float32), var) for var in trained])
        G.set_var('dlatent_avg', rng.randn(8))
        trainer.update_Gs(beta)
    for name, ours in Gs.named_variables(trainable=True).items():
        theirs = addons.get_slot(G.named_variables()[name], 'average').numpy()
        # Ours starts from G's weight and goes back, theirs from the average: ten roundings of the size of G's weight.
        np.testing.assert_allclose(
            ours.numpy(), theirs, rtol=0, atol=10 * 6e-8 * np.abs(G.get_var(name)).max(), err_msg=name
        )
        assert np.abs(ours - start[name]).max() > 1e-4, name
    np.testing.assert_array_equal(Gs.get_var('dlatent_avg'), G.get_var('dlatent_avg'))  # Not trained: copied.
