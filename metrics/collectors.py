"""Collectors: what a metric keeps of the features of images while these go by in minibatches."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import DTypeLike

_ROWS_PER_UPDATE = 256  # Updating the second moments with fewer rows would mostly add up large matrices.


class Collector:
    """Base class: takes in features minibatch by minibatch.

    Attributes:
        kind:          What is kept, as part of the key in the cache of real statistics.
        repeats_reals: If a dataset has fewer images than the metric asks for, repeat it, as the original does?
                       False = count each image once.
        count:         Number of images so far.
    """

    kind = ''
    repeats_reals = False
    count = 0

    def add(self, features: np.ndarray, weights: np.ndarray | None = None):
        """Take in a minibatch.

        Args:
            features: [n, d].
            weights:  [n], how often each row counts, whole numbers. None = once.
        """
        raise NotImplementedError

    def finish(self):
        """Complete the statistics. To be called once, after the last `add`."""
        raise NotImplementedError

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what the cache keeps, as {name: array}."""
        raise NotImplementedError

    def restore(self, arrays: Mapping[str, np.ndarray]):
        """Take the finished statistics from what `arrays` returned.

        Raises:
            KeyError, ValueError: The arrays are something else.
        """
        raise NotImplementedError


class Moments(Collector):
    """Mean and covariance of features, in float64 and in memory that does not depend on the number of images.

    Args:
        num_images: Number of images to come.

    Attributes:
        num_rows: Rows taken in.
        count:    The same, each row as often as its weight says.
        mean:     float64 [d].
        cov:      float64 [d, d], the unbiased estimate, as np.cov(features, rowvar=False).
    """

    kind = 'moments'
    repeats_reals = True

    def __init__(self, num_images: int):
        self._pending = []  # Pairs (features, weights) that are not yet part of the sums.
        self._sum = self._products = np.zeros([])  # [d] and [d, d] after the first update.
        self.num_rows = self.count = 0

    def add(self, features: np.ndarray, weights: np.ndarray | None = None):
        weights = np.ones(len(features), np.int64) if weights is None else np.asarray(weights)
        self._pending.append((features, weights))
        self.num_rows += len(features)
        self.count += int(weights.sum())
        if sum(len(rows) for rows, _ in self._pending) >= _ROWS_PER_UPDATE:
            self._update_sums()

    def _update_sums(self):
        if self._pending:
            rows = np.concatenate([features for features, _ in self._pending]).astype(np.float64)
            weighted = rows * np.concatenate([weights for _, weights in self._pending])[:, np.newaxis]
            self._sum = self._sum + weighted.sum(axis=0)
            self._products = self._products + weighted.T @ rows
            self._pending = []

    def finish(self):
        self._update_sums()
        self.mean = np.asarray(self._sum / self.count)
        self.cov = np.asarray((self._products - self.count * np.outer(self.mean, self.mean)) / (self.count - 1))
        del self._sum, self._products

    def arrays(self) -> dict[str, np.ndarray]:
        return dict(num_rows=np.asarray(self.num_rows), count=np.asarray(self.count), mean=self.mean, cov=self.cov)

    def restore(self, arrays: Mapping[str, np.ndarray]):
        self.num_rows, self.count = int(arrays['num_rows']), int(arrays['count'])
        self.mean, self.cov = arrays['mean'], arrays['cov']
        if self.mean.ndim != 1 or self.cov.shape != 2 * self.mean.shape:
            raise ValueError(f'expected a mean and a covariance, found shapes {self.mean.shape} and {self.cov.shape}')


class Features(Collector):
    """All features, one row for each image.

    Args:
        num_images: Number of images to come.
        dtype:      Type to store the features in.

    Attributes:
        features: [num_images, d].
    """

    def __init__(self, num_images: int, dtype: DTypeLike = np.float32):
        self._num_images, self._dtype = num_images, np.dtype(dtype)
        self.kind = f'features-{self._dtype.name}'
        self.count = 0
        self.features = np.empty([0, 0], self._dtype)

    def add(self, features: np.ndarray, weights: np.ndarray | None = None):
        if self.count == 0:
            self.features = np.empty([self._num_images, features.shape[1]], self._dtype)
        with np.errstate(over='ignore'):  # Overflow in float16 gives infinity, which the metric checks for.
            self.features[self.count:self.count + len(features)] = features
        self.count += len(features)

    def finish(self):
        assert self.count == self._num_images

    def arrays(self) -> dict[str, np.ndarray]:
        return dict(features=self.features)

    def restore(self, arrays: Mapping[str, np.ndarray]):
        features = arrays['features']
        if features.ndim != 2 or len(features) != self._num_images or features.dtype != self._dtype:
            raise ValueError(f'expected {self._num_images} rows of {self._dtype}, '
                             f'found {features.dtype} {features.shape}')
        self.features, self.count = features, len(features)
