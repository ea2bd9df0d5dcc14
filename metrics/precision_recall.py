"""Improved precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from dnnlib.progress import ProgressBar
from metrics.collectors import Features
from metrics.metric_base import ImageMetric

_MAX_BLOCK = 1500  # Rows and columns of distances computed at once. More are no faster and take more memory.


class PR(ImageMetric):
    """Precision = share of the generated images among the real ones; recall = share of the real among the generated.

    Keeps all features: at 50,000 images 410 MB each for reals and fakes, twice that if exact.

    Args:
        name, num_images, minibatch_per_gpu: As in ImageMetric.
        nhood_size:     k: the balls around the images of one kind reach to their k-th nearest neighbour of that kind.
                        An image of the other kind lies among them if it is inside any of the balls.
        row_batch_size: Maximum number of rows of distances at once. It does not change the result.
        col_batch_size: The same for columns.
        exact:          Compute features and distances in float32? False = in float16, as in the original.
    """

    needs_reals = True

    def __init__(self, name: str, num_images: int, nhood_size: int, minibatch_per_gpu: int = 8,
                 row_batch_size: int = 10000, col_batch_size: int = 10000, exact: bool = False):
        super().__init__(name, num_images, 'vgg16_fc2', minibatch_per_gpu)
        self._nhood_size, self._batch_sizes, self._exact = nhood_size, (row_batch_size, col_batch_size), exact

    def collector(self, num_images):
        return Features(num_images, np.float32 if self._exact else np.float16)

    def evaluate(self, fakes, reals, seed):
        exact = self._exact
        if not exact and not (fits_float16(reals.features) and fits_float16(fakes.features)):
            tqdm.write(f'Note: {self.name}: the distances are too large for float16, and are computed in float32.')
            exact = True
        x, y = reals.features, fakes.features
        total = num_distances(len(x), len(y))
        with ProgressBar(f'{self.name}: distances', total, 'distance', summary=True) as progress:
            precision, recall = knn_precision_recall(x, y, [self._nhood_size], *self._batch_sizes, exact, progress)
        self.report(precision.mean(), suffix='_precision')
        self.report(recall.mean(), suffix='_recall')


def knn_precision_recall(ref_features: np.ndarray, eval_features: np.ndarray, nhood_sizes: Sequence[int],
                         row_batch_size: int = 10000, col_batch_size: int = 10000, exact: bool = False,
                         progress: ProgressBar | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Tell for each image whether it lies among those of the other kind.

    Args:
        ref_features:   Features of the real images, [m, d].
        eval_features:  Features of the generated images, [n, d].
        nhood_sizes:    Values of k, as `nhood_size` of PR. The image itself is its neighbour number 0.
        row_batch_size, col_batch_size, exact: As in PR.
        progress:       ProgressBar of `num_distances` steps. None = show no progress.

    Returns:
        precision: bool [n, len(nhood_sizes)].
        recall:    bool [m, len(nhood_sizes)].
    """
    shift = ref_features.mean(axis=0, dtype=np.float64) if exact else None
    blocks = _Blocks(min(row_batch_size, _MAX_BLOCK), min(col_batch_size, _MAX_BLOCK), exact, shift, progress)
    ref_radii, eval_radii = blocks.radii(ref_features, nhood_sizes), blocks.radii(eval_features, nhood_sizes)
    return blocks.inside(eval_features, ref_features, eval_radii, ref_radii)


def num_distances(m: int, n: int) -> int:
    """Number of distances that `knn_precision_recall` computes for m real and n generated images."""
    return m * (m + 1) // 2 + n * (n + 1) // 2 + m * n


class _Blocks:
    """Squared distances between rows of arrays, block by block; the product of two rows is computed only once.

    Blocks stay on the device that computes them: only the results of their rows and columns are copied to the host.
    Distances are float32. In float16 they are rounded to it, and their two directions may differ by that.

    Args:
        row_size, col_size: Maximum size of a block.
        exact:              Compute in float32? False = in float16.
        shift:              [d], subtracted from all rows: rounding errors are smaller close to the origin.
                            Only if exact.
        progress:           ProgressBar with a step per distance. None = show no progress.
    """

    def __init__(self, row_size: int, col_size: int, exact: bool, shift: np.ndarray | None,
                 progress: ProgressBar | None):
        self._row_size, self._col_size, self._progress = row_size, col_size, progress
        self._shift = None if shift is None else tf.constant(shift, tf.float32)
        self._distances = self._exact_distances if exact else self._half_distances
        self._nearest_of_block = tf.function(self._find_nearest, autograph=False, reduce_retracing=True)
        self._inside_of_block = tf.function(self._find_inside, autograph=False, reduce_retracing=True)

    def radii(self, x: np.ndarray, nhood_sizes: Sequence[int]) -> np.ndarray:
        """Distances of each row of x to its neighbours of these numbers, float32 [n, len(nhood_sizes)]."""
        k = max(nhood_sizes)
        if k >= len(x):
            raise ValueError(f'expected more than {k} images for neighbours up to number {k}. Received: {len(x)}')
        slices = list(_slices(len(x), min(self._row_size, self._col_size)))
        nearest = [tf.fill([rows.stop - rows.start, k + 1], np.float32(np.inf)) for rows in slices]
        for i, rows in enumerate(slices):
            u, n = tf.constant(x[rows]), rows.stop - rows.start
            nearest[i], _ = self._nearest_of_block(u, u, nearest[i], nearest[i])
            self._advance(n * (n + 1) // 2)
            for j in range(i + 1, len(slices)):
                v = tf.constant(x[slices[j]])
                nearest[i], nearest[j] = self._nearest_of_block(u, v, nearest[i], nearest[j])
                self._advance(n * len(v))
        return np.concatenate([each.numpy()[:, nhood_sizes] for each in nearest])

    def inside(self, x: np.ndarray, y: np.ndarray, x_radii: np.ndarray,
               y_radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each row of x: is it inside any of the balls around the rows of y? And the other way round.

        Args:
            x, y:             [n, d] and [m, d].
            x_radii, y_radii: Radii of several balls around each row, [n, k] and [m, k].

        Returns:
            bool [n, k] and [m, k].
        """
        x_inside, y_inside = np.zeros(x_radii.shape, bool), np.zeros(y_radii.shape, bool)
        for rows in _slices(len(x), self._row_size):
            u, u_radii = tf.constant(x[rows]), tf.constant(x_radii[rows])
            for cols in _slices(len(y), self._col_size):
                u_inside, v_inside = self._inside_of_block(u, tf.constant(y[cols]), u_radii, tf.constant(y_radii[cols]))
                x_inside[rows] |= u_inside.numpy()
                y_inside[cols] |= v_inside.numpy()
                self._advance((rows.stop - rows.start) * (cols.stop - cols.start))
        return x_inside, y_inside

    def _advance(self, steps):
        if self._progress:
            self._progress.update(steps)

    def _find_nearest(self, u, v, u_nearest, v_nearest):
        """The smallest distances known of each row of u and of v, in ascending order, with those of this block."""
        def smallest(known, distances):
            values, _ = tf.math.top_k(-tf.concat([known, distances], axis=1), known.shape[1])
            return -values
        distances, transposed = self._distances(u, v)
        return smallest(u_nearest, distances), smallest(v_nearest, transposed)

    def _find_inside(self, u, v, u_radii, v_radii):
        """As `inside`, of one block."""
        def in_any(distances, radii):
            inside = [tf.reduce_any(distances <= each, axis=1) for each in tf.unstack(radii, axis=1)]
            return tf.stack(inside, axis=1)
        distances, transposed = self._distances(u, v)
        return in_any(distances, v_radii), in_any(transposed, u_radii)

    def _exact_distances(self, u, v):
        u, v = tf.cast(u, tf.float32) - self._shift, tf.cast(v, tf.float32) - self._shift
        uv, uu, vv = inner_products(u, v), squared_norms(u), squared_norms(v)
        distances = tf.maximum(uu[:, tf.newaxis] - 2 * uv + vv, 0)
        return distances, tf.transpose(distances)

    def _half_distances(self, u, v):
        u, v = tf.cast(u, tf.float16), tf.cast(v, tf.float16)
        uv, uu, vv = inner_products(u, v), squared_norms(u), squared_norms(v)
        # Each step is rounded to float16, so the order of the operations counts: it is that of the original.
        return tuple(tf.cast(tf.maximum(a[:, tf.newaxis] - 2 * ab + b, 0), tf.float32)
                     for a, ab, b in ((uu, uv, vv), (vv, tf.transpose(uv), uu)))


def _slices(count, size):
    """Yield the slices of 0..count that are `size` long, the last one perhaps shorter."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def inner_products(u: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
    """u @ v.T in the type of u, but summed in float32 even if that is float16, as GPUs do."""
    return tf.cast(tf.matmul(tf.cast(u, tf.float32), tf.cast(v, tf.float32), transpose_b=True), u.dtype)


def squared_norms(u: tf.Tensor) -> tf.Tensor:
    """Sum of the squares of each row in the type of u, but summed in float32."""
    return tf.cast(tf.reduce_sum(tf.cast(tf.square(u), tf.float32), axis=1), u.dtype)


def fits_float16(features: np.ndarray) -> bool:
    """Whether the squared distance of any two such rows fits into float16."""
    limit = np.finfo(np.float16).max / 4
    blocks = (features[i:i + _MAX_BLOCK] for i in range(0, len(features), _MAX_BLOCK))
    return all(np.square(block, dtype=np.float32).sum(axis=1).max() < limit for block in blocks)
