"""Files of latents W, as the projector writes and the generator reads them: .npz archives of numpy."""

import dataclasses
import json
import os
import zipfile

import numpy as np

from dnnlib import storage
from dnnlib.cli import UserError

# Fields that are arrays with an entry for each image; a file has those that are not None.
_PER_IMAGE = ('names', 'w', 'distances', 'start_distances', 'steps', 'sources')


@dataclasses.dataclass
class Dlatents:
    """Latents of N images.

    Args:
        names:           [N] str, first part of the names of their pictures.
        w:               [N, layers, dlatent] float32.
        noises:          List of [N, 1, H, W] float32, in the order of the network's noise variables. None = unknown.
        distances:       [N] float32, distance of the picture to what was projected. None = unknown.
        start_distances: [N] float32, the same before the first step. None = unknown.
        steps:           [N] int, steps done. None = unknown.
        sources:         [N] str, where the projected image came from. None = unknown.
        settings:        dict of how they were found. None = unknown.
    """
    names: list
    w: np.ndarray
    noises: list = None
    distances: np.ndarray = None
    start_distances: np.ndarray = None
    steps: np.ndarray = None
    sources: list = None
    settings: dict = None

    def __len__(self):
        return len(self.names)

    def noises_of(self, index):
        """List of [1, 1, H, W] of one image; None where they are unknown."""
        return None if self.noises is None else [noise[index:index + 1] for noise in self.noises]

    def joined(self, other):
        """These and those of `other`, which has the same fields; the settings are these."""
        fields = {key: np.concatenate([getattr(self, key), getattr(other, key)])
                  for key in _PER_IMAGE if getattr(self, key) is not None}
        noises = None if self.noises is None else [np.concatenate(pair) for pair in zip(self.noises, other.noises, strict=True)]
        return Dlatents(**fields, noises=noises, settings=self.settings)

    def save(self, path):
        """Write an .npz; it appears whole or not at all."""
        arrays = {key: np.asarray(getattr(self, key)) for key in _PER_IMAGE if getattr(self, key) is not None}
        arrays.update({f'noise{idx}': noise for idx, noise in enumerate(self.noises or [])})
        with storage.new_file(path) as part, open(part, 'wb') as file:
            np.savez(file, settings=np.asarray(json.dumps(self.settings or {})), **arrays)


def load(path, Gs):
    """Dlatents of an .npz, for the generator `Gs`.

    Besides our own files it takes those of other projectors with an array 'w' or 'dlatents' of [N, layers, dlatent] or
    [N, dlatent]. Names, where there are none, are dlatent0000, ...

    Raises: UserError if it is no such file, or does not fit the generator.
    """
    arrays = _read(path)
    w = _latents(arrays, path, *Gs.components.synthesis.input_shape[1:])
    count = len(w)
    for key, array in arrays.items():
        if (key in _PER_IMAGE or key.startswith('noise')) and (array.ndim == 0 or len(array) != count):
            raise UserError(f'{path}: expected {key} to have {count} entries, as w, found {list(array.shape)}', 'Make it again.')
    names = [os.path.basename(str(name)) for name in arrays.get('names', [f'dlatent{idx:04d}' for idx in range(count)])]
    if len(set(names)) < count:
        raise UserError(f'{path}: some of its names are there twice', 'Make it again.')
    noises = None
    if 'noise0' in arrays:
        from training import misc
        shapes = [tuple(var.shape[1:]) for var in misc.noise_variables(Gs)]
        noises = [arrays[key] for key in (f'noise{idx}' for idx in range(len(shapes))) if key in arrays]
        if [noise.shape[1:] for noise in noises] != shapes:
            raise UserError(f'{path}: its noise maps are not of the sizes that this network has', 'Choose the network it was made with.')
    try:
        settings = json.loads(str(arrays.get('settings', '{}')))
    except ValueError:
        settings = {}
    return Dlatents(names, w, noises, settings=settings, **{key: arrays.get(key) for key in _PER_IMAGE[2:]})


def _read(path):
    if not os.path.isfile(path):
        raise UserError(f'{path}: there is no such file', 'Give the dlatents.npz of a run of run_projector.py.')
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile) as err:
        raise UserError(f'{path} is no .npz of numbers: {(str(err) or type(err).__name__).splitlines()[0]}',
                        'Give the dlatents.npz of a run of run_projector.py.') from err


def _latents(arrays, path, layers, size):
    """float32 [N, layers, size] from the arrays of a file."""
    w = arrays.get('w', arrays.get('dlatents'))
    if w is None or w.dtype.kind != 'f':
        raise UserError(f"{path}: expected an array 'w' of latents, found {', '.join(sorted(arrays)[:8]) or 'nothing'}",
                        'Give the dlatents.npz of a run of run_projector.py.')
    found = list(w.shape)
    w = w[:, np.newaxis] if w.ndim == 2 else w
    if w.ndim != 3 or len(w) == 0 or w.shape[1] not in (1, layers) or w.shape[2] != size:
        raise UserError(f'{path}: expected latents of shape [N, {layers}, {size}], as this network has, found {found}',
                        'Choose the network they were made with.')
    if not np.isfinite(w).all():
        raise UserError(f'{path}: some of its latents are infinite or no numbers', 'Project the images again.')
    return np.tile(w, [1, layers // w.shape[1], 1]).astype(np.float32)
