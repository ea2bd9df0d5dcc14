"""Inception Score (Salimans et al. 2016, arXiv:1606.03498)."""

from __future__ import annotations

import numpy as np
import scipy.special

from metrics.collectors import Collector
from metrics.metric_base import ImageMetric


class IS(ImageMetric):
    """Inception Score: mean and standard deviation over parts of the generated images.

    Args:
        name, num_images, minibatch_per_gpu: As in ImageMetric.
        num_splits: Number of parts.
    """

    def __init__(self, name: str, num_images: int, num_splits: int, minibatch_per_gpu: int = 8):
        super().__init__(name, num_images, 'inception_softmax', minibatch_per_gpu)
        self._num_splits = num_splits

    def collector(self, num_images):
        return SplitScores(num_images, self._num_splits)

    def evaluate(self, fakes, reals, seed):
        scores = fakes.scores()
        self.report(np.mean(scores), suffix='_mean')
        self.report(np.std(scores), suffix='_std')


class SplitScores(Collector):
    """Collects exp(mean KL(p(y|x) || p(y))) of consecutive parts, in memory that does not depend on their size.

    Args:
        num_images: Number of images to come.
        num_splits: Number of parts; their sizes differ by one at most.
    """

    def __init__(self, num_images: int, num_splits: int):
        self._ends = [(split + 1) * num_images // num_splits for split in range(num_splits)]
        self._sizes = np.diff([0, *self._ends])
        self._plogp_sums = np.zeros(num_splits)  # Of each part: sum of p log p over its images and classes,
        self._p_sums = [np.zeros([])] * num_splits  # and sum of p over its images, [classes].
        self.count = 0

    def add(self, features: np.ndarray, weights: np.ndarray | None = None):
        """Take in class probabilities [n, classes]; each image counts once."""
        for row in np.asarray(features, np.float64):
            split = np.searchsorted(self._ends, self.count, side='right')
            self._plogp_sums[split] += scipy.special.xlogy(row, row).sum()
            self._p_sums[split] = self._p_sums[split] + row
            self.count += 1

    def finish(self):
        assert self.count == self._ends[-1]

    def scores(self) -> np.ndarray:
        """Return the score of each part, float64 [num_splits]."""
        means = [total / size for total, size in zip(self._p_sums, self._sizes)]
        marginal = [scipy.special.xlogy(mean, mean).sum() for mean in means]
        return np.exp(self._plogp_sums / self._sizes - marginal)
