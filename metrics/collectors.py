"""What is kept of features while images go by."""

import numpy as np

_CHUNK = 256  # Rows taken into the second moments at once: with fewer, most of the time would go into adding up large matrices.


class Moments:
    """Mean and covariance of features, in float64 and in memory that does not depend on their number.

    Attributes:
        num_rows: Rows taken in.
        count:    The same, each as often as its weight says.
        mean:     float64 [d].
        cov:      float64 [d, d], the unbiased estimate, as np.cov(features, rowvar=False).
    """

    kind = 'moments'          # name in the cache
    repeats_reals = True      # Does a dataset that is too small go round again, as in the original? Otherwise each image counts once.

    def __init__(self, num_images):
        self._parts = []  # what is not yet in the sums
        self._sum = self._products = 0.0
        self.num_rows = self.count = 0

    def add(self, features, weights=None):
        """Take in features [n, d]; weights: how often each row counts, [n] of whole numbers. None = once."""
        weights = np.ones(len(features), np.int64) if weights is None else np.asarray(weights)
        self._parts.append((features, weights))
        self.num_rows += len(features)
        self.count += int(weights.sum())
        if sum(len(rows) for rows, _ in self._parts) >= _CHUNK:
            self._fold()

    def _fold(self):
        if self._parts:
            rows = np.concatenate([features for features, _ in self._parts]).astype(np.float64)
            weighted = rows * np.concatenate([weights for _, weights in self._parts])[:, np.newaxis]
            self._sum = self._sum + weighted.sum(axis=0)
            self._products = self._products + weighted.T @ rows
            self._parts = []

    def finish(self):
        """To be called after the last `add`."""
        self._fold()
        self.mean = self._sum / self.count
        self.cov = (self._products - self.count * np.outer(self.mean, self.mean)) / (self.count - 1)
        del self._sum, self._products

    def arrays(self):
        """What the cache keeps: {name: array}."""
        return dict(num_rows=np.int64(self.num_rows), count=np.int64(self.count), mean=self.mean, cov=self.cov)

    def restore(self, arrays):
        """The opposite of `arrays`. KeyError or ValueError if they are not what it gave."""
        self.num_rows, self.count = int(arrays['num_rows']), int(arrays['count'])
        self.mean, self.cov = arrays['mean'], arrays['cov']
        if self.mean.ndim != 1 or self.cov.shape != 2 * self.mean.shape:
            raise ValueError(f'expected a mean and a covariance, found shapes {self.mean.shape} and {self.cov.shape}')


class Features:
    """All features, one row for each image.

    Args:
        num_images: Rows that will come.
        dtype:      That they are kept in.

    Attributes:
        features: [num_images, d].
    """

    repeats_reals = False

    def __init__(self, num_images, dtype=np.float32):
        self._num_images, self._dtype = num_images, np.dtype(dtype)
        self.kind = f'features-{self._dtype.name}'
        self.count = 0
        self.features = None

    def add(self, features, weights=None):
        if self.features is None:
            self.features = np.empty([self._num_images, features.shape[1]], self._dtype)
        with np.errstate(over='ignore'):  # Too large for float16: infinite, which who asked for float16 looks for.
            self.features[self.count:self.count + len(features)] = features
        self.count += len(features)

    def finish(self):
        assert self.count == self._num_images

    def arrays(self):
        return dict(features=self.features)

    def restore(self, arrays):
        self.features = arrays['features']
        self.count = len(self.features)
        if self.features.ndim != 2 or self.count != self._num_images or self.features.dtype != self._dtype:
            raise ValueError(f'expected {self._num_images} rows of {self._dtype}, found {self.features.dtype} {self.features.shape}')
