"""Directions in W along which pictures change: finding them, and files of them (.npz archives of NumPy).

Where a network has no W (ProGAN), Z takes its place, as if it were W with one layer.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from dnnlib import npz, storage
from dnnlib.cli import UserError
from dnnlib.progress import ProgressBar
from dnnlib.tflib import Network
from latents import pictures
from metrics.collectors import Moments
from training import misc

_SAMPLES_AT_A_TIME = 2048
_ARRAYS = ('directions', 'layers', 'sigmas', 'shares', 'names', 'settings')
_MAX_DIRECTIONS, _MAX_NAME = 100_000, 100
_FIND_THEM = 'Give the directions.npz of a run of run_generator.py find-directions.'


# ---- Files ----

@dataclasses.dataclass
class Directions:
    """Directions in W of a network.

    Args:
        vectors:  [N, dlatent_size] float32, of length 1.
        layers:   [N, layers] bool, the layers of W that each of them is to be added to.
        sigmas:   [N] float32, standard deviation of W along each of them. Strengths are in units of it.
        shares:   [N] float32, share of what the method explains: of the variance of W, or of the squared norm of the
                  modulation weights. NaN = the method has no such number.
        names:    [N] str, '' = no name but its number.
        settings: How they were found.
    """
    vectors: np.ndarray
    layers: np.ndarray
    sigmas: np.ndarray
    shares: np.ndarray
    names: list[str]
    settings: dict[str, Any]

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Index of a direction by its name, or by its number if no name is like it.

        Raises:
            UserError: There is none.
        """
        if name in self.names and name:
            return self.names.index(name)
        if name.isascii() and name.isdigit() and int(name) < len(self):
            return int(name)
        named = ', '.join(other for other in self.names if other)[:200] or 'none has a name'
        raise UserError(f'there is no direction {ascii(name)[1:-1]}, expected 0 to {len(self) - 1} or a name: {named}',
                        'Choose one of them, or give it its name with name-direction.')

    def check_fits(self, Gs: Network, path: str | os.PathLike) -> None:
        """Raise a UserError, which names the file, unless they are for a W as this generator has."""
        ours = _space(self.settings.get('space') == 'z', self.layers.shape[1], self.vectors.shape[1])
        theirs = _space(not misc.has_w(Gs), *pictures.latent_shape(Gs))
        if ours != theirs:
            raise UserError(f'{path}: its directions are for {ours}, this network has {theirs}',
                            'Choose the network they were found in.')

    def offset(self, strengths: dict[int, float], layers: Sequence[int] | None = None) -> np.ndarray:
        """What to add to W: float64 [layers, dlatent_size].

        Args:
            strengths: {index: strength in units of sigma}.
            layers:    Layers to change. None = those of each direction.
        """
        offset = np.zeros([self.layers.shape[1], self.vectors.shape[1]])
        for index, strength in strengths.items():
            rows = list(layers) if layers is not None else np.flatnonzero(self.layers[index])
            offset[rows] += strength * float(self.sigmas[index]) * self.vectors[index].astype(np.float64)
        return offset

    def save(self, path: str | os.PathLike) -> None:
        """Write an .npz file; it appears whole or not at all."""
        with storage.new_file(path) as part, open(part, 'wb') as file:
            np.savez(file, directions=self.vectors, layers=self.layers, sigmas=self.sigmas, shares=self.shares,
                     names=np.asarray(self.names, str), settings=np.asarray(json.dumps(self.settings)))


def _space(is_z: bool, num_layers: int, size: int) -> str:
    """The space that directions are in, in words."""
    return f'Z of {size} numbers' if is_z else f'{num_layers} layers of W of {size} numbers'


def check_name(name: str) -> None:
    """Raise a UserError unless a direction can have this name."""
    if not 0 < len(name) <= _MAX_NAME or not name.isprintable() or set(name) & set('=,') or name.isdigit():
        raise UserError(f'{ascii(name)[:120]} cannot be the name of a direction: expected up to {_MAX_NAME} characters '
                        "without '=' and ',', and not only digits", 'Choose another name.')


def load(path: str | os.PathLike) -> Directions:
    """Read a file of directions.

    Raises:
        UserError: The file is missing, damaged or something else.
    """
    if not os.path.isfile(path):
        raise UserError(f'{path}: there is no such file', _FIND_THEM)
    try:
        with zipfile.ZipFile(path) as archive:
            members = npz.members_of(archive)
            missing = [name for name in _ARRAYS if name not in members]
            if missing:
                raise UserError(f"{path}: expected an array '{missing[0]}' of directions, found "
                                f'{", ".join(ascii(name)[1:-1] for name in sorted(members)[:8])[:200] or "nothing"}',
                                _FIND_THEM)
            headers = {name: npz.read_header(archive, members[name]) for name in _ARRAYS}
            _check_headers(headers, path)
            arrays = npz.read_arrays(archive, headers, members, path, _FIND_THEM, copies=2)
    except npz.ERRORS as err:
        reason = (str(err) or type(err).__name__).splitlines()[0]
        raise UserError(f'{path} is no .npz of directions: {reason}', _FIND_THEM) from err
    return _from_arrays(arrays, path)


def _check_headers(headers: dict[str, npz.Header], path: str | os.PathLike) -> None:
    """Raise a UserError unless the arrays fit one another."""
    vectors, layers = headers['directions'].shape, headers['layers'].shape
    if len(vectors) != 2 or len(layers) != 2 or not 0 < vectors[0] <= _MAX_DIRECTIONS:
        raise UserError(f'{path}: expected directions [N, size] and layers [N, layers], found {list(vectors)} and '
                        f'{list(layers)}', 'Find them again.')
    for name, kind in dict(directions='f', layers='b', sigmas='f', shares='f', names='U', settings='U').items():
        if headers[name].dtype.kind != kind:
            raise UserError(f'{path}: {name} is of another type than directions have: {headers[name].dtype}',
                            'Find them again.')
        length = () if name == 'settings' else vectors[:1]
        if headers[name].shape[:1] != length:
            raise UserError(f'{path}: expected {name} to have {vectors[0]} entries, found {list(headers[name].shape)}',
                            'Find them again.')


def _from_arrays(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> Directions:
    """Directions, from the arrays of a file."""
    vectors, sigmas = arrays['directions'].astype(np.float32), arrays['sigmas'].astype(np.float32)
    names = [str(name) for name in arrays['names']]
    if not (np.isfinite(vectors).all() and np.isfinite(sigmas).all()):
        raise UserError(f'{path}: some of its directions are infinite or no numbers', 'Find them again.')
    for name in filter(None, names):
        check_name(name)
    try:
        settings = json.loads(str(arrays['settings']))
    except (ValueError, RecursionError):
        settings = {}
    return Directions(vectors, arrays['layers'], sigmas, arrays['shares'].astype(np.float32), names,
                      settings if isinstance(settings, dict) else {})


# ---- Finding them ----

def modulations(Gs: Network) -> dict[int, list[np.ndarray]]:
    """The weights from W to the styles of a generator of any kind: {layer of W: float64 [dlatent_size, styles] each}.

    A layer that makes an RGB image has no layer of W of its own, but shares that of the convolution after it. Without W
    they are the weights from Z to the features of the first layer: {0: [float64 [latent_size, features]]}.
    """
    size = pictures.latent_shape(Gs)[1]  # Z has labels after it.
    found: dict[int, list[np.ndarray]] = {}
    own = 0  # Convolutions so far.
    for layer in Gs.components.get('synthesis', Gs).layers:
        if getattr(layer, 'has_modulation', False):
            found.setdefault(own, []).append(np.asarray(layer.modulation(), np.float64)[:size])
            own += layer.has_own_style
    return found


def computed(Gs: Network, method: str, layers: Sequence[int], num: int, cov: np.ndarray,
             network: str) -> tuple[np.ndarray, np.ndarray]:
    """The directions of a generator by a method that needs no examples.

    Args:
        Gs:      Generator.
        method:  'sefa' or 'pca'.
        layers:  Layers of W whose modulation weights count (sefa).
        num:     Number of directions.
        cov:     Covariance of W (pca), [dlatent_size, dlatent_size].
        network: Name of the network, for messages.

    Returns:
        As sefa and pca.

    Raises:
        UserError: The layers have no modulation weights.
    """
    if method == 'pca':
        return pca(cov, num)
    found = modulations(Gs)
    weights = [weight for layer in layers for weight in found.get(layer, [])]
    if not weights:
        raise UserError(f'{network}: these layers have no modulation weights, from which SeFa computes directions',
                        'Choose the method pca.')
    return sefa(weights, num)


def sefa(weights: Sequence[np.ndarray], num: int) -> tuple[np.ndarray, np.ndarray]:
    """Directions that change the styles most: closed-form factorization (Shen and Zhou 2021, arXiv:2007.06600).

    They are the unit vectors n that maximize |A n|^2, where A has the weights of all styles as rows (Equation 5): the
    eigenvectors of A^T A.

    Args:
        weights: [dlatent_size, styles] each.
        num:     Number of directions.

    Returns:
        (directions float64 [num, dlatent_size], their shares of the sum of all eigenvalues [num]).
    """
    a = np.concatenate(weights, axis=1, dtype=np.float64)
    return _largest(a @ a.T, num)


def pca(cov: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Directions in which W varies most: principal components (Härkönen et al. 2020, arXiv:2004.02546, Section 2.1).

    Args:
        cov: Covariance of W, [dlatent_size, dlatent_size].
        num: Number of directions.

    Returns:
        As sefa; the shares are those of the variance.
    """
    return _largest(cov, num)


def _largest(matrix: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """(eigenvectors, eigenvalues / their sum) of a symmetric matrix, the `num` largest first."""
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = np.maximum(values[::-1], 0), vectors.T[::-1]
    # The sign of an eigenvector is arbitrary: here its largest component is positive.
    signs = np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, np.newaxis], axis=1))
    return (vectors * signs)[:num], values[:num] / max(values.sum(), 1e-300)


def separating_direction(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, float]:
    """The direction from one set of latents to another: the normal of the plane that a linear support vector machine
    puts between them (Shen et al. 2020, arXiv:1907.10786, Section 3.2). Needs scikit-learn.

    Args:
        positive: [N, dlatent_size].
        negative: [M, dlatent_size].

    Returns:
        (direction of length 1, which leads to the positive ones; share of all latents on their side of the plane).

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.svm import LinearSVC
    except ImportError as err:
        raise UserError('--method=svm needs scikit-learn', "pip install -e '.[metrics]'") from err
    x = np.concatenate([positive, negative]).astype(np.float64)
    center, scale = x.mean(axis=0), max(float(x.std()), 1e-12)
    x = (x - center) / scale
    y = np.repeat([1, -1], [len(positive), len(negative)])
    machine = LinearSVC(class_weight='balanced', dual='auto', max_iter=100_000, random_state=0).fit(x, y)
    vector = machine.coef_[0]
    return vector / np.linalg.norm(vector), float(machine.score(x, y))


def make(vectors: np.ndarray, shares: np.ndarray, layers: Sequence[int], num_layers: int, cov: np.ndarray,
         settings: dict[str, Any]) -> Directions:
    """Directions without names, from what a method has found.

    Args:
        vectors:    [N, dlatent_size], of length 1.
        shares:     [N].
        layers:     Layers of W that they are to be added to.
        num_layers: Number of layers of W.
        cov:        Covariance of W, which gives the sigmas.
        settings:   How they were found.
    """
    return Directions(
        vectors.astype(np.float32), np.tile(np.isin(np.arange(num_layers), layers), [len(vectors), 1]),
        np.sqrt(np.maximum(np.einsum('ni,ij,nj->n', vectors, cov, vectors), 0)).astype(np.float32),
        shares.astype(np.float32), [''] * len(vectors), settings)


def covariance_of_w(Gs: Network, num_samples: int, label: np.ndarray | None = None) -> np.ndarray:
    """Covariance of W of the first layer, float64 [dlatent_size, dlatent_size], from random latents.

    Args:
        Gs:          Generator. Its W is not truncated.
        num_samples: Number of latents, at least 2. The same number gives the same latents.
        label:       [1, classes]. None = zeros.
    """
    moments, rnd = Moments(num_samples), np.random.RandomState(0)
    with ProgressBar('Sampling W', num_samples, 'latent') as progress:
        for begin in range(0, num_samples, _SAMPLES_AT_A_TIME):
            count = min(_SAMPLES_AT_A_TIME, num_samples - begin)
            z = rnd.standard_normal([count, *Gs.input_shape[1:]])
            labels = None if label is None else label.repeat(count, axis=0)
            moments.add(Gs.components.mapping.run(z, labels, output_transform=dict(func=_first_layer)))
            progress.update(count)
    moments.finish()
    return moments.cov


def _first_layer(w: Any) -> Any:
    return w[:, 0]
