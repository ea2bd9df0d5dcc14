"""Linear separability (Karras et al. 2019, arXiv:1812.04948, section 4.2)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from tqdm import tqdm

from dnnlib.cli import UserError
from dnnlib.progress import ProgressBar
from metrics.metric_base import SampleSource, SamplingMetric
from training import misc

_CLASSIFIER_SIZE = 256


class LS(SamplingMetric):
    """How well a plane in Z, and one in W, divides the images with an attribute from those without.

    Keeps the latents of all images, 0.8 GB at 200,000, and all 40 classifiers; fitting a plane takes another 1.5 GB.

    Args:
        name, minibatch_per_gpu: As in SamplingMetric.
        num_samples:    Number of images to generate.
        num_keep:       Number of images to use, those of which the classifier is most certain.
        attrib_indices: Numbers of the attributes, see feature_networks.load_classifier.
    """

    def __init__(self, name: str, num_samples: int, num_keep: int, attrib_indices: Sequence[int],
                 minibatch_per_gpu: int = 4):
        super().__init__(name, attrib_indices, minibatch_per_gpu)
        self._num_samples, self._num_keep = num_samples, num_keep

    def check(self, resolution):
        if resolution < _CLASSIFIER_SIZE:
            raise UserError(f'{self.name}: images of {resolution}x{resolution} are too small, '
                            f'expected {_CLASSIFIER_SIZE} or more',
                            'Leave this metric out: its classifiers were trained on faces of that size.')
        try:
            import sklearn.svm  # noqa: F401  Imported late: it is optional.
        except ModuleNotFoundError:
            raise UserError(f'{self.name} needs scikit-learn, which is not installed',
                            "pip install -e '.[metrics]'") from None

    def evaluate(self, source, nets):
        classifiers = [nets[index] for index in self.networks]
        latents, dlatents, probabilities = self.draw_samples(
            source, lambda minibatch: self.sample(minibatch, classifiers, self.minibatch_per_gpu),
            self._num_samples, f'{self.name}: images', 'img')
        by_attribute = np.moveaxis(probabilities, 1, 0)  # [attributes, num_samples, 2]
        with ProgressBar(f'{self.name}: planes', 2 * len(classifiers), 'plane', summary=True) as progress:
            for suffix, points in (('_z', latents), ('_w', dlatents)):
                self.report(separability(points, by_attribute, self._num_keep, source.seed, progress), suffix)

    @staticmethod
    def sample(source: SampleSource, classifiers: Sequence[Callable], n: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Draw latents and classify their images.

        Returns:
            latents:       float32 [n, latent_size].
            dlatents:      float32 [n, dlatent_size], those of the last layer.
            probabilities: float32 [n, attributes, 2], of having each attribute and of not having it.
        """
        latents, labels = source.latents(n), source.labels(n)
        misc.require_w(source.Gs, 'ls')
        dlatents = source.Gs.components.mapping(latents, labels, **source.kwargs)
        images = (source.images(latents, labels) + 1) * (255 / 2)
        logits = tf.concat([classifier(images) for classifier in classifiers], axis=1)
        return latents, dlatents[:, -1], tf.nn.softmax(tf.stack([logits, -logits], axis=2))


def separability(points: np.ndarray, predictions: Sequence[np.ndarray] | np.ndarray, num_keep: int,
                 seed: int | None = None, progress: ProgressBar | None = None) -> float:
    """2 to the power of the sum over all attributes of H(attribute | side of the plane), in bits.

    Args:
        points:      Latents [n, d].
        predictions: For each attribute its probabilities [n, 2].
        num_keep:    Number of points to use, those with the most certain predictions.
        seed:        Seed of the solver that fits the planes. None = random.
        progress:    ProgressBar to advance by one step per attribute. None = show no progress.
    """
    from sklearn.exceptions import ConvergenceWarning  # Imported late: it is optional.
    from sklearn.svm import LinearSVC
    entropies, unfinished = [], 0
    for probabilities in predictions:
        kept = np.argsort(-probabilities.max(axis=1), kind='stable')[:num_keep]
        targets = probabilities[kept].argmax(axis=1)
        sides = targets  # If there is only one class, every plane divides perfectly.
        if targets.min() != targets.max():
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter('always', ConvergenceWarning)
                sides = LinearSVC(random_state=seed).fit(points[kept], targets).predict(points[kept])
            unfinished += any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
        table = [[np.mean((sides == side) & (targets == target)) for target in (0, 1)] for side in (0, 1)]
        entropies.append(conditional_entropy(table))
        if progress:
            progress.update()
    if unfinished:
        tqdm.write(f'Note: {unfinished} of {len(predictions)} planes had not converged '
                   'after the usual number of steps.')
    return 2 ** np.sum(entropies)


# ---- Entropies of a table p[x][y] of two variables: non-negative numbers, which are divided by their sum ----

def prob_normalize(p: ArrayLike) -> np.ndarray:
    """The table as float32 probabilities, whose sum is 1."""
    p = np.asarray(p, np.float32)
    return p / np.sum(p)


def mutual_information(p: ArrayLike) -> float:
    """I(X; Y) in bits."""
    p = prob_normalize(p)
    product = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
    nonzero = p > 0
    return np.sum(p[nonzero] * np.log2(p[nonzero] / product[nonzero]))


def entropy(p: ArrayLike) -> float:
    """H(X, Y) in bits; of a vector, H(X)."""
    p = prob_normalize(p)
    return -np.sum(p[p > 0] * np.log2(p[p > 0]))


def conditional_entropy(p: ArrayLike) -> float:
    """H(Y | X) in bits, not below 0."""
    p = prob_normalize(p)
    return max(entropy(p.sum(axis=0)) - mutual_information(p), 0.0)
