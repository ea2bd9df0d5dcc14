"""Frechet Inception Distance (Heusel et al. 2017, arXiv:1706.08500), and the same for features of other networks."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import threadpoolctl
from tqdm import tqdm

from metrics.collectors import Moments
from metrics.metric_base import ImageMetric


class FD(ImageMetric):
    """Frechet distance between the features of real and generated images, both taken as normal distributions.

    Args:
        name, num_images, feature_net, minibatch_per_gpu: As in ImageMetric.
        matrix_sqrt: 'eigh' or 'sqrtm', see `frechet_distance`.
    """

    needs_reals = True

    def __init__(self, name: str, num_images: int, feature_net: str, minibatch_per_gpu: int = 8,
                 matrix_sqrt: str = 'eigh'):
        super().__init__(name, num_images, feature_net, minibatch_per_gpu)
        self._matrix_sqrt = matrix_sqrt
        self._warned = False

    def collector(self, num_images):
        return Moments(num_images)

    def evaluate(self, fakes, reals, seed):
        matrix_sqrt = self._matrix_sqrt
        if is_singular(reals) or is_singular(fakes):
            matrix_sqrt = 'eigh'  # For singular matrices sqrtm returns noise, or fails.
            if not self._warned:
                tqdm.write(f'Note: {self.name}: the product of the covariances is singular: {len(fakes.mean)} '
                           f'features, of {reals.num_rows} real and {fakes.num_rows} generated images. '
                           'Compare values of equal numbers only.')
                self._warned = True
        # One thread, because BLAS threads wait for each other at every column of the matrix:
        # on a machine that is busy with other work, that can take a hundred times as long.
        with threadpoolctl.threadpool_limits(1, 'blas'):
            self.report(frechet_distance(reals.mean, reals.cov, fakes.mean, fakes.cov, matrix_sqrt))


class FID(FD):
    """FD of Inception's features, with the matrix square root computed as in the original."""

    def __init__(self, name: str, num_images: int, minibatch_per_gpu: int = 8, matrix_sqrt: str = 'sqrtm'):
        super().__init__(name, num_images, 'inception_features', minibatch_per_gpu, matrix_sqrt)


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray,
                     matrix_sqrt: str = 'eigh') -> float:
    """Frechet distance of two normal distributions, equation 6 of the paper.

        |mean1 - mean2|^2 + Tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2))

    Args:
        mean1, mean2: [d].
        cov1, cov2:   [d, d].
        matrix_sqrt:  'sqrtm' = scipy's square root of the product, as in the original.
                      'eigh' = only its trace, from the eigenvalues of cov1^(1/2) cov2 cov1^(1/2). That matrix is
                      symmetric and has the eigenvalues of the product. Several times as fast, and also right for
                      singular matrices.
    """
    assert matrix_sqrt in ('eigh', 'sqrtm')
    if matrix_sqrt == 'sqrtm':
        trace = np.trace(np.asarray(scipy.linalg.sqrtm(cov2 @ cov1))).real
    else:
        values, vectors = scipy.linalg.eigh(cov1)
        root = vectors * np.sqrt(values.clip(0))  # root @ root.T = cov1
        trace = np.sqrt(scipy.linalg.eigvalsh(root.T @ cov2 @ root).clip(0)).sum()
    return float(np.square(mean2 - mean1).sum() + np.trace(cov1) + np.trace(cov2) - 2 * trace)


def is_singular(moments: Moments) -> bool:
    """Whether a covariance is singular: there are no more images than features, or some feature never changes."""
    never_changes = np.diag(moments.cov) <= 1e-12 * np.square(moments.mean)
    return moments.num_rows <= len(moments.mean) or bool(never_changes.any())
