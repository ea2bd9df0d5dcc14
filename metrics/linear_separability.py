"""Linear separability (Karras et al. 2019, arXiv:1812.04948, section 4.2)."""

import warnings

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from dnnlib.cli import UserError
from metrics.metric_base import SamplingMetric
from metrics.progress import Progress

_CLASSIFIER_SIZE = 256


class LS(SamplingMetric):
    """How well a plane in Z, and one in W, divides the images with an attribute from those without, over many attributes.

    Args:
        num_samples:    Images.
        num_keep:       Images of which the classifier is surest, which are used.
        attrib_indices: Numbers of the attributes.
        minibatch_per_gpu: Images generated at a time.

    Keeps the latents of all images, 0.8 GB at 200,000, and all 40 classifiers; each plane takes another 1.5 GB while it is fitted.
    """

    def __init__(self, name, num_samples, num_keep, attrib_indices, minibatch_per_gpu=4):
        super().__init__(name, attrib_indices, minibatch_per_gpu)
        self._num_samples, self._num_keep = num_samples, num_keep

    def check(self, resolution):
        if resolution < _CLASSIFIER_SIZE:
            raise UserError(f'{self.name}: images of {resolution}x{resolution} are too small, expected {_CLASSIFIER_SIZE} or more',
                            'Leave this metric out: its classifiers know faces of that size.')
        try:
            import sklearn.svm  # noqa: F401
        except ModuleNotFoundError:
            raise UserError(f'{self.name} needs scikit-learn, which is not installed', "pip install -e '.[metrics]'") from None

    def evaluate(self, generator, nets):
        classifiers = [nets[index] for index in self.networks]
        sample = tf.function(lambda: self.sample(generator, classifiers, self.minibatch_per_gpu), autograph=False)
        parts = []
        with Progress(f'{self.name}: images', self._num_samples) as progress:
            for begin in range(0, self._num_samples, self.minibatch_per_gpu):
                parts.append([values.numpy() for values in sample()])
                progress.update(min(self.minibatch_per_gpu, self._num_samples - begin))
        latents, dlatents, probabilities = (np.concatenate(values)[:self._num_samples] for values in zip(*parts))
        with Progress(f'{self.name}: planes', 2 * len(classifiers), 'plane') as progress:
            for suffix, points in (('_z', latents), ('_w', dlatents)):
                self.report(separability(points, np.moveaxis(probabilities, 1, 0), self._num_keep, generator.seed, progress), suffix)

    @staticmethod
    def sample(generator, classifiers, n):
        """(latents [n, latent_size], dlatents [n, dlatent_size], probabilities of having each attribute and not [n, attributes, 2])."""
        latents, labels = generator.latents(n), generator.labels(n)
        dlatents = generator.Gs.components.mapping(latents, labels, **generator.kwargs)
        images = (generator.images(latents, labels) + 1) * (255 / 2)
        logits = tf.concat([classifier(images) for classifier in classifiers], axis=1)
        return latents, dlatents[:, -1], tf.nn.softmax(tf.stack([logits, -logits], axis=2))


def separability(points, predictions, num_keep, seed=None, progress=None):
    """2 to the sum over the attributes of H(attribute | side of the plane), in bits.

    Args:
        points:      Latents [n, d].
        predictions: Probabilities [n, 2] of each attribute: a list, or one array.
        num_keep:    Points that count, those with the surest predictions first.
        seed:        Of the order in which the planes are fitted. None = random.
        progress:    Progress, one step per attribute. None = none is shown.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC
    entropies, unfinished = [], 0
    for probabilities in predictions:
        kept = np.argsort(-probabilities.max(axis=1), kind='stable')[:num_keep]
        targets = probabilities[kept].argmax(axis=1)
        sides = targets  # One class alone is perfectly divided.
        if targets.min() != targets.max():
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter('always', ConvergenceWarning)
                sides = LinearSVC(random_state=seed).fit(points[kept], targets).predict(points[kept])
            unfinished += any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
        table = [[np.mean((sides == side) & (targets == target)) for target in (0, 1)] for side in (0, 1)]
        entropies.append(conditional_entropy(table))
        if progress:
            progress.update(1)
    if unfinished:
        tqdm.write(f'Note: {unfinished} of {len(predictions)} planes had not converged after the usual number of steps.')
    return 2 ** np.sum(entropies)


# ---- Of a table p[x][y] of two variables, any non-negative numbers, which are divided by their sum ----

def prob_normalize(p):
    """float32, of sum 1."""
    p = np.asarray(p, np.float32)
    return p / np.sum(p)


def mutual_information(p):
    """I(X; Y) in bits."""
    p = prob_normalize(p)
    product = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
    some = p > 0
    return np.sum(p[some] * np.log2(p[some] / product[some]))


def entropy(p):
    """H(X, Y) in bits; of a vector, H(X)."""
    p = prob_normalize(p)
    return -np.sum(p[p > 0] * np.log2(p[p > 0]))


def conditional_entropy(p):
    """H(Y | X) in bits, not below 0."""
    p = prob_normalize(p)
    return max(entropy(p.sum(axis=0)) - mutual_information(p), 0.0)
