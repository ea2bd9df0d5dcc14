"""Improved precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991)."""

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from metrics.collectors import Features
from metrics.metric_base import ImageMetric
from metrics.progress import Progress

_BLOCK = 1500  # Rows and columns of distances at a time: more are no faster, they only take memory.


class PR(ImageMetric):
    """Precision: the part of the generated images that lie among the real ones; recall: of the real ones among the generated.

    Args:
        num_images, minibatch_per_gpu: As in ImageMetric.
        nhood_size:     Around each image lies a ball up to its nearest neighbour of this number; the images lie in all of them.
        row_batch_size, col_batch_size: Most rows and columns of distances at a time. They do not change the result.
        exact:          Features and distances in float32? False = in float16, as in the original.

    Keeps all features: at 50,000 images 410 MB each for reals and fakes, twice that if exact.
    """

    needs_reals = True

    def __init__(self, name, num_images, nhood_size, minibatch_per_gpu=8, row_batch_size=10000, col_batch_size=10000, exact=False):
        super().__init__(name, num_images, 'vgg16_fc2', minibatch_per_gpu)
        self._nhood_size, self._batch_sizes, self._exact = nhood_size, (row_batch_size, col_batch_size), exact

    def collector(self, num_images):
        return Features(num_images, np.float32 if self._exact else np.float16)

    def evaluate(self, fakes, reals, seed):
        exact = self._exact
        if not exact and not all(fit_into_half(of.features) for of in (reals, fakes)):
            tqdm.write(f'Note: {self.name}: the distances are too large for float16, and are computed in float32.')
            exact = True
        x, y = reals.features, fakes.features
        with Progress(f'{self.name}: distances', num_distances(len(x), len(y)), 'distance') as progress:
            precision, recall = knn_precision_recall(x, y, [self._nhood_size], *self._batch_sizes, exact, progress)
        self.report(precision.mean(), suffix='_precision')
        self.report(recall.mean(), suffix='_recall')


def knn_precision_recall(ref_features, eval_features, nhood_sizes, row_batch_size=10000, col_batch_size=10000, exact=False, progress=None):
    """For each image: does it lie among those of the other kind?

    Args:
        ref_features, eval_features: Of real and of generated images, [m, d] and [n, d].
        nhood_sizes:    List of int: numbers of the neighbour that a ball reaches to. The image itself is number 0.
        row_batch_size, col_batch_size, exact: As in PR.
        progress:       Progress of `num_distances` steps. None = none is shown.

    Returns:
        (precision bool [n, len(nhood_sizes)], recall bool [m, len(nhood_sizes)]).
    """
    sizes = min(row_batch_size, _BLOCK), min(col_batch_size, _BLOCK)
    blocks = _Blocks(*sizes, exact, ref_features.mean(axis=0, dtype=np.float64) if exact else None, progress)
    ref_radii, eval_radii = blocks.radii(ref_features, nhood_sizes), blocks.radii(eval_features, nhood_sizes)
    precision, recall = (np.zeros([len(x), len(nhood_sizes)], bool) for x in (eval_features, ref_features))
    for rows, cols, distances, mirrored in blocks.go(eval_features, ref_features):
        for i in range(len(nhood_sizes)):
            precision[rows, i] |= (distances <= ref_radii[cols, i]).any(axis=1)
            recall[cols, i] |= (mirrored <= eval_radii[rows, i]).any(axis=1)
    return precision, recall


def num_distances(m, n):
    """Distances that `knn_precision_recall` computes for m real and n generated images."""
    return m * (m + 1) // 2 + n * (n + 1) // 2 + m * n


class _Blocks:
    """Distances between the rows of two arrays, block by block, each product of two rows computed once.

    Distances are float32, or the bits of float16 as int16, whose order is the same from 0 on and which NumPy sorts ten times as fast.
    """

    def __init__(self, row_size, col_size, exact, shift, progress):
        self._row_size, self._col_size, self._progress = row_size, col_size, progress
        self._shift = None if shift is None else tf.constant(shift, tf.float32)  # Close to the origin less is lost to rounding.
        self._distances = tf.function(self._exact_distances if exact else self._half_distances, autograph=False)

    def go(self, x, y=None):
        """Yield (slice of rows of x, slice of rows of y, distances [rows, cols], the same the other way round [cols, rows]).

        y: None = x itself; each pair of blocks comes once then.
        """
        step = min(self._row_size, self._col_size) if y is None else self._col_size
        for begin in range(0, len(x), step if y is None else self._row_size):
            rows = slice(begin, min(begin + (step if y is None else self._row_size), len(x)))
            u = tf.constant(x[rows])
            for col in range(begin if y is None else 0, len(x if y is None else y), step):
                cols = slice(col, min(col + step, len(x if y is None else y)))
                v = u if y is None and rows == cols else tf.constant((x if y is None else y)[cols])
                yield rows, cols, *(d.numpy() for d in self._distances(u, v))
                if self._progress:
                    n, m = rows.stop - rows.start, cols.stop - cols.start
                    self._progress.update(n * (n + 1) // 2 if y is None and rows == cols else n * m)

    def radii(self, x, nhood_sizes):
        """Distance of each row of x to its neighbours of these numbers: [n, len(nhood_sizes)]."""
        most = max(nhood_sizes)
        if most >= len(x):
            raise ValueError(f'expected more than {most} images for neighbours up to number {most}, received {len(x)}')
        nearest = None
        for rows, cols, distances, mirrored in self.go(x):
            if nearest is None:
                largest = np.inf if distances.dtype == np.float32 else np.iinfo(np.int16).max
                nearest = np.full([len(x), most + 1], largest, distances.dtype)
            nearest[rows] = _smallest(nearest[rows], distances)
            if rows != cols:
                nearest[cols] = _smallest(nearest[cols], mirrored)
        return np.sort(nearest, axis=1)[:, nhood_sizes]

    def _exact_distances(self, u, v):
        u, v = tf.cast(u, tf.float32) - self._shift, tf.cast(v, tf.float32) - self._shift
        distances = tf.maximum(squared_norms(u)[:, tf.newaxis] - 2 * products(u, v) + squared_norms(v), 0)
        return distances, tf.transpose(distances)

    def _half_distances(self, u, v):
        u, v = tf.cast(u, tf.float16), tf.cast(v, tf.float16)
        xy, uu, vv = products(u, v), squared_norms(u), squared_norms(v)
        return tuple(tf.bitcast(tf.maximum(a[:, tf.newaxis] - 2 * ab + b, 0), tf.int16)  # Rounded after each step, thus in this order.
                     for a, ab, b in ((uu, xy, vv), (vv, tf.transpose(xy), uu)))


def _smallest(known, distances):
    """The smallest of each row of both arrays, as many as `known` has columns."""
    count = known.shape[1]
    if distances.shape[1] > count:
        distances = np.partition(distances, count - 1, axis=1)[:, :count]
    return np.partition(np.concatenate([known, distances], axis=1), count - 1, axis=1)[:, :count]


def products(u, v):
    """u @ v.T, summed in float32 also if u and v are float16, as a GPU does."""
    return tf.cast(tf.matmul(tf.cast(u, tf.float32), tf.cast(v, tf.float32), transpose_b=True), u.dtype)


def squared_norms(u):
    """Sum of the squares of each row, likewise."""
    return tf.cast(tf.reduce_sum(tf.cast(tf.square(u), tf.float32), axis=1), u.dtype)


def fit_into_half(features):
    """Do the squared distances of the rows fit into float16, whatever other rows they are from?"""
    limit = np.finfo(np.float16).max / 4
    return all(np.square(features[i:i + _BLOCK], dtype=np.float32).sum(axis=1).max() < limit for i in range(0, len(features), _BLOCK))
