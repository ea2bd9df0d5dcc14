"""Kernel Inception Distance (Binkowski et al. 2018, "Demystifying MMD GANs", arXiv:1801.01401)."""

from __future__ import annotations

import numpy as np

from metrics.collectors import Features
from metrics.metric_base import ImageMetric


class KID(ImageMetric):
    """Squared maximum mean discrepancy between Inception's features of real and generated images.

    Keeps all features: 410 MB each for reals and fakes at 50,000 images.

    Args:
        name, num_images, minibatch_per_gpu: As in ImageMetric.
        num_subsets:     Number of random subsets to average the estimates over.
        max_subset_size: Images of each kind in a subset, or all if there are fewer.
    """

    needs_reals = True

    def __init__(self, name: str, num_images: int, num_subsets: int = 100, max_subset_size: int = 1000,
                 minibatch_per_gpu: int = 8):
        super().__init__(name, num_images, 'inception_features', minibatch_per_gpu)
        self._num_subsets, self._max_subset_size = num_subsets, max_subset_size

    def collector(self, num_images):
        return Features(num_images)

    def evaluate(self, fakes, reals, seed):
        value = kernel_distance(reals.features, fakes.features, self._num_subsets, self._max_subset_size, seed)
        self.report(value, fmt='%-10.6f')


def kernel_distance(x: np.ndarray, y: np.ndarray, num_subsets: int, max_subset_size: int,
                    seed: int | None = None) -> float:
    """Mean of `squared_mmd` over random subsets, each drawn without replacement.

    Args:
        x, y: Features [m, d] and [n, d].
        num_subsets, max_subset_size: As in KID.
        seed: Seed of the choice of subsets. None = random.
    """
    rnd = np.random.RandomState(seed)
    size = min(len(x), len(y), max_subset_size)
    estimates = []
    for _ in range(num_subsets):
        rows_x = rnd.choice(len(x), size, replace=False)
        rows_y = rnd.choice(len(y), size, replace=False)
        estimates.append(squared_mmd(x[rows_x], y[rows_y]))
    return float(np.mean(estimates))


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased estimate of MMD^2 with the kernel (x.y / d + 1)^3 (section 4; Gretton et al. 2012, lemma 6).

    Args:
        x, y: Features [m, d] and [n, d].
    """
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def mean_of_distinct_pairs(a):
        products = kernel(a, a)
        return (products.sum() - np.trace(products)) / (len(a) * (len(a) - 1))

    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return mean_of_distinct_pairs(x) + mean_of_distinct_pairs(y) - 2 * kernel(x, y).mean()
