"""Classifiers of face attributes for linear separability (Karras et al. 2019, arXiv:1812.04948, Section 4.2).

They have the architecture of StyleGAN's discriminator (training.networks_stylegan.D_basic), without the standard
deviation over the minibatch, and come in the original's network pickles.
"""

from __future__ import annotations

import tensorflow as tf

from dnnlib.cli import UserError
from metrics.features.layers import FOREIGN_WEIGHTS, FeatureNetwork
from training import misc
from training.networks_stylegan import D_basic


class Classifier(FeatureNetwork):
    """Classifier of an attribute: images as in FeatureNetwork -> logits [N, 1], above 0 if the attribute is present.

    Images that are larger than the network's input are scaled down by averaging squares of pixels. Height and width
    must be known in a tf.function.

    Args:
        network: D_basic for RGB images.
    """

    def __init__(self, network: D_basic):
        self.network = network
        _batch, _channels, self.size, _width = network.input_shape
        super().__init__(network.name, None, None, min_size=self.size)

    def __call__(self, images):
        x = self.to_rgb(images)
        factor = x.shape[1] // self.size
        if list(x.shape[1:3]) != [self.size * factor] * 2:
            raise ValueError(f'{self.name}: expected squares whose size is a multiple of {self.size}. '
                             f'Received: {images.shape}')
        x = tf.reduce_mean(tf.reshape(x, [-1, self.size, factor, self.size, factor, 3]), axis=[2, 4])
        return self.network(tf.transpose(x / 127.5 - 1, [0, 3, 1, 2]), None)


def load(path: str) -> Classifier:
    """Load one of NVIDIA's pickles celebahq-classifier-*.pkl.

    Args:
        path: File of the pickle.

    Raises:
        UserError: It is something else.
    """
    network = misc.load_pkl(path)
    if not isinstance(network, D_basic) or network.kw.num_channels != 3:
        raise UserError(f'{path}: expected one network D_basic for RGB images, found {type(network).__name__}',
                        FOREIGN_WEIGHTS)
    return Classifier(network)
