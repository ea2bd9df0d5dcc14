"""Feature networks that need no weights, in the place of those of metrics.feature_networks."""

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.cli import UserError
from metrics import feature_networks


def patches(images):
    """[N, C, H, W] in 0..255 -> means of 2x2 patches, float32 [N, 4 * C], 0..1."""
    n, c, h, w = images.shape
    x = tf.reshape(tf.cast(images, tf.float32) / 255, [-1, c, 2, h // 2, 2, w // 2])
    return tf.reshape(tf.reduce_mean(x, axis=[3, 5]), [-1, c * 4])


def numpy_patches(images):
    n, c, h, w = images.shape
    return (images.astype(np.float32) / 255).reshape(n, c, 2, h // 2, 2, w // 2).mean(axis=(3, 5)).reshape(n, c * 4)


NETWORKS = {
    'inception_features': patches,
    'inception_softmax': lambda images: tf.nn.softmax(10 * patches(images)),
    'efficientnet_lite0': lambda images: patches(255 - images),
    'vgg16_fc2': lambda images: 10 * patches(images),
    'lpips': lambda a, b: tf.reduce_mean(tf.square(a - b), axis=[1, 2, 3]),
}


@pytest.fixture
def stub_networks(monkeypatch, tmp_path):
    """Puts NETWORKS in the place of the real ones.

    What is taken out of the dict that it gives counts as not to be had.
    """
    networks = dict(NETWORKS)

    def load(name):
        if name not in networks:
            raise UserError(f'{name}: the weights are not there', 'Get them.')
        return networks[name]
    monkeypatch.setattr(feature_networks, 'load', load)
    monkeypatch.setattr(
        feature_networks, 'load_classifier', lambda index: lambda images: patches(images)[:, index : index + 1] - 0.5
    )
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path / 'cache'))
    return networks
