"""Kernel Inception Distance (Binkowski et al. 2018, "Demystifying MMD GANs", arXiv:1801.01401)."""

import numpy as np

from metrics.collectors import Features
from metrics.metric_base import ImageMetric


class KID(ImageMetric):
    """Squared maximum mean discrepancy between Inception's features of real and generated images.

    Args:
        num_images, minibatch_per_gpu: As in ImageMetric.
        num_subsets:     Random subsets, over which the estimates are averaged.
        max_subset_size: Images of each kind in a subset, if there are so many.

    Keeps all features: 410 MB each for reals and fakes at 50,000 images.
    """

    needs_reals = True

    def __init__(self, name, num_images, num_subsets=100, max_subset_size=1000, minibatch_per_gpu=8):
        super().__init__(name, num_images, 'inception_features', minibatch_per_gpu)
        self._num_subsets, self._max_subset_size = num_subsets, max_subset_size

    def collector(self, num_images):
        return Features(num_images)

    def evaluate(self, fakes, reals, seed):
        self.report(kernel_distance(reals.features, fakes.features, self._num_subsets, self._max_subset_size, seed), fmt='%-10.6f')


def kernel_distance(x, y, num_subsets, max_subset_size, seed=None):
    """Mean of `squared_mmd` over random subsets without repetition within each.

    Args:
        x, y: Features [m, d], [n, d].
        num_subsets, max_subset_size: As in KID.
        seed: Of the choice.
    """
    rnd = np.random.RandomState(seed)
    size = min(len(x), len(y), max_subset_size)
    return float(np.mean([squared_mmd(x[rnd.choice(len(x), size, replace=False)], y[rnd.choice(len(y), size, replace=False)])
                          for _ in range(num_subsets)]))


def squared_mmd(x, y):
    """The unbiased estimate of MMD^2 with the kernel (x.y / d + 1)^3: section 4 of the paper, after Gretton et al. 2012 (lemma 6).

    Args:
        x, y: Features [m, d], [n, d].
    """
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def mean_of_pairs(a):  # of different rows
        products = kernel(a, a)
        return (products.sum() - np.trace(products)) / (len(a) * (len(a) - 1))

    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return mean_of_pairs(x) + mean_of_pairs(y) - 2 * kernel(x, y).mean()
