"""Files of latents in W, as the projector writes and the generator reads them: .npz archives of NumPy."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from typing import Any

import numpy as np

from dnnlib import storage
from dnnlib.cli import UserError
from dnnlib.tflib import Network
from training import misc

# Fields with an entry for each image. A file has those that are not None.
_PER_IMAGE = ('names', 'w', 'distances', 'start_distances', 'steps', 'sources')

_GIVE_A_PROJECTION = 'Give the dlatents.npz of a run of run_projector.py.'


@dataclasses.dataclass
class Dlatents:
    """Latents of N images.

    Args:
        names:           [N] str, first part of the names of their pictures.
        w:               [N, layers, dlatent] float32.
        noises:          List of [N, 1, H, W] float32, in the order of the network's noise variables. None = unknown.
        distances:       [N] float32, distance of the picture to the projected image. None = unknown.
        start_distances: [N] float32, the same before the first step. None = unknown.
        steps:           [N] int, number of steps. None = unknown.
        sources:         [N] str, where the projected image came from. None = unknown.
        settings:        How the latents were found. None = unknown.
    """
    names: list[str]
    w: np.ndarray
    noises: list[np.ndarray] | None = None
    distances: Any = None
    start_distances: Any = None
    steps: Any = None
    sources: Any = None
    settings: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def noises_of(self, index: int) -> list[np.ndarray] | None:
        """Noise maps of one image, list of [1, 1, H, W]; None if they are unknown."""
        return None if self.noises is None else [noise[index:index + 1] for noise in self.noises]

    def joined(self, other: Dlatents) -> Dlatents:
        """These latents followed by those of `other`, which has the same fields; the settings are those of self."""
        fields: dict[str, Any] = {key: np.concatenate([getattr(self, key), getattr(other, key)])
                                  for key in _PER_IMAGE if getattr(self, key) is not None}
        fields['names'] = [*self.names, *other.names]
        if self.noises is not None:
            assert other.noises is not None
            fields['noises'] = [np.concatenate(pair) for pair in zip(self.noises, other.noises, strict=True)]
        return Dlatents(**fields, settings=self.settings)

    def save(self, path: str | os.PathLike):
        """Write an .npz file; it appears whole or not at all."""
        arrays: dict[str, Any] = {
            key: np.asarray(getattr(self, key)) for key in _PER_IMAGE if getattr(self, key) is not None}
        arrays.update({f'noise{idx}': noise for idx, noise in enumerate(self.noises or [])})
        with storage.new_file(path) as part, open(part, 'wb') as file:
            np.savez(file, settings=np.asarray(json.dumps(self.settings or {})), **arrays)


def load(path: str | os.PathLike, Gs: Network) -> Dlatents:
    """Read an .npz file for a generator.

    Besides our own files it reads those of other projectors that have an array 'w' or 'dlatents' of shape
    [N, layers, dlatent] or [N, dlatent]. If there are no names, they become dlatent0000, ...

    Args:
        path: File.
        Gs:   Network that the latents are for.

    Raises:
        UserError: The file is missing, damaged or something else, or does not fit the network.
    """
    arrays = _read_arrays(path)
    w = _latents(arrays, path, *Gs.components.synthesis.input_shape[1:])
    count = len(w)
    for key, array in arrays.items():
        if (key in _PER_IMAGE or key.startswith('noise')) and (array.ndim == 0 or len(array) != count):
            raise UserError(f'{path}: expected {key} to have {count} entries, as w, found {list(array.shape)}',
                            'Make it again.')
    names = arrays.get('names', [f'dlatent{idx:04d}' for idx in range(count)])
    names = [os.path.basename(str(name)) for name in names]  # A name must not lead out of the folder of the pictures.
    if len(set(names)) < count:
        raise UserError(f'{path}: some of its names are there twice', 'Make it again.')
    noises = _noises(arrays, path, Gs) if 'noise0' in arrays else None
    try:
        settings = json.loads(str(arrays.get('settings', '{}')))
    except ValueError:
        settings = {}
    return Dlatents(names, w, noises, settings=settings, **{key: arrays.get(key) for key in _PER_IMAGE[2:]})


def _read_arrays(path) -> dict[str, np.ndarray]:
    if not os.path.isfile(path):
        raise UserError(f'{path}: there is no such file', _GIVE_A_PROJECTION)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile) as err:
        reason = (str(err) or type(err).__name__).splitlines()[0]
        raise UserError(f'{path} is no .npz of numbers: {reason}', _GIVE_A_PROJECTION) from err


def _latents(arrays, path, layers, size) -> np.ndarray:
    """The latents in the arrays of a file, float32 [N, layers, size]."""
    w = arrays.get('w', arrays.get('dlatents'))
    if w is None or w.dtype.kind != 'f':
        raise UserError(f"{path}: expected an array 'w' of latents, found {', '.join(sorted(arrays)[:8]) or 'nothing'}",
                        _GIVE_A_PROJECTION)
    found = list(w.shape)
    w = w[:, np.newaxis] if w.ndim == 2 else w
    if w.ndim != 3 or len(w) == 0 or w.shape[1] not in (1, layers) or w.shape[2] != size:
        raise UserError(f'{path}: expected latents of shape [N, {layers}, {size}], as this network has, found {found}',
                        'Choose the network they were made with.')
    if not np.isfinite(w).all():
        raise UserError(f'{path}: some of its latents are infinite or no numbers', 'Project the images again.')
    return np.tile(w, [1, layers // w.shape[1], 1]).astype(np.float32)


def _noises(arrays, path, Gs) -> list[np.ndarray]:
    """The noise maps in the arrays of a file, in the order of the network's noise variables."""
    shapes = [tuple(var.shape[1:]) for var in misc.noise_variables(Gs)]
    keys = [f'noise{idx}' for idx in range(len(shapes))]
    noises = [arrays[key] for key in keys if key in arrays]
    if [noise.shape[1:] for noise in noises] != shapes:
        raise UserError(f'{path}: its noise maps are not of the sizes that this network has',
                        'Choose the network it was made with.')
    return noises
