"""Inception Score (Salimans et al. 2016, arXiv:1606.03498)."""

import numpy as np
import scipy.special

from metrics.metric_base import ImageMetric


class IS(ImageMetric):
    """Inception Score: mean and standard deviation over parts of the generated images.

    Args:
        num_images, minibatch_per_gpu: As in ImageMetric.
        num_splits: Number of parts.
    """

    def __init__(self, name, num_images, num_splits, minibatch_per_gpu=8):
        super().__init__(name, num_images, 'inception_softmax', minibatch_per_gpu)
        self._num_splits = num_splits

    def collector(self, num_images):
        return SplitScores(num_images, self._num_splits)

    def evaluate(self, fakes, reals, seed):
        scores = fakes.scores()
        self.report(np.mean(scores), suffix='_mean')
        self.report(np.std(scores), suffix='_std')


class SplitScores:
    """exp(mean KL(p(y|x) || p(y))) of consecutive parts of the images, in memory that does not depend on their number.

    Args:
        num_images: Rows that will come.
        num_splits: Parts of equal size, but for rounding.
    """

    def __init__(self, num_images, num_splits):
        self._ends = [(split + 1) * num_images // num_splits for split in range(num_splits)]
        self._sizes = np.diff([0, *self._ends])
        self._entropies = np.zeros(num_splits)  # Sums over the images of a part: of p log p ...
        self._sums = [0.0] * num_splits         # ... and of p.
        self.count = 0

    def add(self, features, weights=None):
        """Take in class probabilities [n, classes]."""
        for row in np.asarray(features, np.float64):
            split = np.searchsorted(self._ends, self.count, side='right')
            self._entropies[split] += scipy.special.xlogy(row, row).sum()
            self._sums[split] = self._sums[split] + row
            self.count += 1

    def finish(self):
        assert self.count == self._ends[-1]

    def scores(self):
        """float64 [num_splits]."""
        means = [total / size for total, size in zip(self._sums, self._sizes)]
        marginal = [scipy.special.xlogy(mean, mean).sum() for mean in means]
        return np.exp(self._entropies / self._sizes - marginal)
