"""Files of latents in W, as the projector writes and the generator reads them: .npz archives of NumPy."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from dnnlib import npz, storage
from dnnlib.cli import UserError
from training import misc

if TYPE_CHECKING:  # TensorFlow takes seconds to load.
    from dnnlib.tflib import Network

# Fields with an entry for each image. A file has those that are not None.
_PER_IMAGE = ('names', 'w', 'distances', 'start_distances', 'steps', 'sources')

# The arrays of a file of latents.
_KEYS = re.compile('w|dlatents|settings|names|distances|start_distances|steps|sources|noise[0-9]{1,3}')

_MAX_NAME = 200  # Bytes: a name of a picture has some more characters than that of its latents.

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
    arrays = _read_arrays(path, *Gs.components.synthesis.input_shape[1:])
    w = _latents(arrays, path, Gs.components.synthesis.input_shape[1])
    noises = _noises(arrays, path, Gs) if 'noise0' in arrays else None
    return Dlatents(_names(arrays, path, len(w)), w, noises, settings=_settings(arrays),
                    **{key: arrays.get(key) for key in _PER_IMAGE[2:]})


def require_file(path: str | os.PathLike) -> None:
    """Raise a UserError unless there is a file of this name."""
    if not os.path.isfile(path):
        raise UserError(f'{path}: there is no such file', _GIVE_A_PROJECTION)


def _read_arrays(path, layers, size) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name. Only those that a file of latents has are read, and only if they fit."""
    require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = npz.members_of(archive)
            headers = {name: npz.read_header(archive, info) for name, info in members.items() if _KEYS.fullmatch(name)}
            if not {'w', 'dlatents'} & set(headers):
                found = ', '.join(ascii(name)[1:-1] for name in sorted(members)[:8]) or 'nothing'
                raise UserError(f"{path}: expected an array 'w' of latents, found {found[:200]}", _GIVE_A_PROJECTION)
            _check_headers(headers, path, layers, size)
            # Two copies: what is read, and the latents in float32 for every layer.
            return npz.read_arrays(archive, headers, members, path, _GIVE_A_PROJECTION, copies=2)
    except npz.ERRORS as err:
        reason = (str(err) or type(err).__name__).splitlines()[0]
        raise UserError(f'{path} is no .npz of numbers: {reason}', _GIVE_A_PROJECTION) from err


def _check_headers(headers, path, layers, size):
    """Raise a UserError unless the arrays fit the network and one another."""
    w = headers['w' if 'w' in headers else 'dlatents']
    if w.dtype.kind != 'f':
        raise UserError(f"{path}: expected an array 'w' of latents, found one of type {w.dtype}", _GIVE_A_PROJECTION)
    shape = (w.shape[0], 1, w.shape[1]) if len(w.shape) == 2 else w.shape
    if len(shape) != 3 or shape[0] == 0 or shape[1] not in (1, layers) or shape[2] != size:
        raise UserError(
            f'{path}: expected latents of shape [N, {layers}, {size}], as this network has, found {list(w.shape)}',
            'Choose the network they were made with.')
    for key, header in headers.items():
        if (key in _PER_IMAGE or key.startswith('noise')) and header.shape[:1] != shape[:1]:
            raise UserError(f'{path}: expected {key} to have {shape[0]} entries, as w, found {list(header.shape)}',
                            'Make it again.')


def _latents(arrays, path, layers) -> np.ndarray:
    """The latents in the arrays of a file, float32 [N, layers, size]."""
    w = _float32(arrays['w'] if 'w' in arrays else arrays['dlatents'])
    w = w[:, np.newaxis] if w.ndim == 2 else w
    if not np.isfinite(w).all():
        raise UserError(f'{path}: some of its latents are infinite or no numbers', 'Project the images again.')
    return np.tile(w, [1, layers // w.shape[1], 1])


def _names(arrays, path, count) -> list[str]:
    """The names in the arrays of a file, which become names of pictures."""
    names = [str(name) for name in arrays.get('names', [f'dlatent{idx:04d}' for idx in range(count)])]
    names = [os.path.basename(name) for name in names]  # A name must not lead out of the folder of the pictures.
    if len(set(names)) < count:
        raise UserError(f'{path}: some of its names are there twice', 'Make it again.')
    for name in names:
        encoded = name.encode('utf-8', 'replace')
        if name in ('', '.', '..') or min(encoded) < 32 or len(encoded) > _MAX_NAME or encoded.decode() != name:
            raise UserError(f'{path}: {ascii(name)[:100]} cannot be the name of a picture', 'Make it again.')
    return names


def _settings(arrays) -> dict[str, Any]:
    """How the latents of a file were found; {} if it does not say so."""
    try:
        settings = json.loads(str(arrays.get('settings', '{}')))
    except (ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _noises(arrays, path, Gs) -> list[np.ndarray]:
    """The noise maps in the arrays of a file, in the order of the network's noise variables."""
    shapes = [tuple(var.shape[1:]) for var in misc.noise_variables(Gs)]
    keys = [f'noise{idx}' for idx in range(len(shapes))]
    noises = [arrays[key] for key in keys if key in arrays]
    if [noise.shape[1:] for noise in noises] != shapes:
        raise UserError(f'{path}: its noise maps are not of the sizes that this network has',
                        'Choose the network it was made with.')
    if any(noise.dtype.kind != 'f' for noise in noises):
        raise UserError(f'{path}: its noise maps are no fractional numbers', 'Project the images again.')
    noises = [_float32(noise) for noise in noises]
    if not all(np.isfinite(noise).all() for noise in noises):
        raise UserError(f'{path}: some of its noise maps are infinite or no numbers', 'Project the images again.')
    return noises


def _float32(array) -> np.ndarray:
    """The array in float32; numbers that are too large for it become infinite."""
    with np.errstate(over='ignore'):
        return array.astype(np.float32)
