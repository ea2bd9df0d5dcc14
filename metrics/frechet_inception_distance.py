"""Frechet Inception Distance (Heusel et al. 2017, arXiv:1706.08500), and the same distance between features of other networks."""

import numpy as np
import scipy.linalg
import threadpoolctl
from tqdm import tqdm

from metrics.collectors import Moments
from metrics.metric_base import ImageMetric


class FD(ImageMetric):
    """Frechet distance between the features of real and generated images, taken as two normal distributions.

    Args:
        name, num_images, feature_net, minibatch_per_gpu: As in ImageMetric.
        matrix_sqrt: 'eigh' or 'sqrtm', see `frechet_distance`.
    """

    needs_reals = True

    def __init__(self, name, num_images, feature_net, minibatch_per_gpu=8, matrix_sqrt='eigh'):
        super().__init__(name, num_images, feature_net, minibatch_per_gpu)
        self._matrix_sqrt, self._told = matrix_sqrt, False

    def collector(self, num_images):
        return Moments(num_images)

    def evaluate(self, fakes, reals, seed):
        matrix_sqrt = self._matrix_sqrt
        if is_singular(reals) or is_singular(fakes):
            matrix_sqrt = 'eigh'  # sqrtm would return noise, or nothing.
            if not self._told:
                tqdm.write(f'Note: {self.name}: the product of the covariances is singular: {len(fakes.mean)} features, of '
                           f'{reals.num_rows} real and {fakes.num_rows} generated images. Compare values of equal numbers only.')
                self._told = True
        # Threads of BLAS wait for each other at every column: on a machine with other work that takes a hundred times as long as one.
        with threadpoolctl.threadpool_limits(1, 'blas'):
            self.report(frechet_distance(reals.mean, reals.cov, fakes.mean, fakes.cov, matrix_sqrt))


class FID(FD):
    """FD of Inception's features, with the matrix square root as the original takes it."""

    def __init__(self, name, num_images, minibatch_per_gpu=8, matrix_sqrt='sqrtm'):
        super().__init__(name, num_images, 'inception_features', minibatch_per_gpu, matrix_sqrt)


def frechet_distance(mean1, cov1, mean2, cov2, matrix_sqrt='eigh'):
    """|mean1 - mean2|^2 + Tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2)), equation 6 of the paper.

    Args:
        mean1, mean2: [d].
        cov1, cov2:   [d, d].
        matrix_sqrt:  'sqrtm': scipy's square root of the product, as in the original.
                      'eigh': the trace alone, from the eigenvalues of cov1^(1/2) cov2 cov1^(1/2), which is symmetric and has
                      those of the product. Several times as fast, and sound for singular matrices.

    Returns: float.
    """
    assert matrix_sqrt in ('eigh', 'sqrtm')
    if matrix_sqrt == 'sqrtm':
        trace = np.trace(scipy.linalg.sqrtm(cov2 @ cov1)).real
    else:
        values, vectors = scipy.linalg.eigh(cov1)
        root = vectors * np.sqrt(values.clip(0))  # root @ root.T = cov1
        trace = np.sqrt(scipy.linalg.eigvalsh(root.T @ cov2 @ root).clip(0)).sum()
    return float(np.square(mean2 - mean1).sum() + np.trace(cov1) + np.trace(cov2) - 2 * trace)


def is_singular(moments):
    """Is the covariance singular, for there are no more images than features, or some features never change?"""
    return moments.num_rows <= len(moments.mean) or bool((np.diag(moments.cov) <= 1e-12 * np.square(moments.mean)).any())
