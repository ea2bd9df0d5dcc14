"""What the page asks for, and how it becomes W: a seed, a projected photo, a mixture, an edit, a point of a walk.

A recipe is a dict as JSON has it, {'kind': ...}. It says all that is needed, so that the explorer keeps nothing of one
page that could get into another.
"""

from __future__ import annotations

import collections
import os
import secrets
import typing
from collections.abc import Sequence
from typing import Any

import numpy as np

from dnnlib.cli import UserError
from explorer.shelf import Loaded, Shelf
from latents import directions as directions_module
from latents import pictures, walks
from latents.options import CURVES, NOISES
from training import misc

MAX_KEYS = 64            # Keyframes of a walk.
METHODS = ('sefa', 'pca')  # Of directions that are computed on the spot.
_MAX_DEPTH = 8           # Recipes in recipes.
_MAX_STORED = 32         # Projected photos that are kept.
_MAX_CACHED = 256        # Latents that are kept, because the frames of a walk need the same ones again and again.
_NUM_DIRECTIONS, _NUM_SAMPLES = 20, 10_000


class Latent(typing.NamedTuple):
    """A point of W.

    name:   First part of the names of its files.
    w:      float64 [layers, dlatent_size].
    noises: List of [1, 1, H, W]; a seed whose noise it has; or None = those of the network's file.
    """
    name: str
    w: np.ndarray
    noises: list[np.ndarray] | int | None


# ---- Values of a request ----

def number(data: dict[str, Any], key: str, low: float, high: float, default: Any = None) -> float:
    """The number data[key]. A UserError if it is missing without a default, no number, or out of range."""
    value = data.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise UserError(f'{key}: expected a number from {low:g} to {high:g}, found {value!r:.40}')
    return value


def integer(data: dict[str, Any], key: str, low: int, high: int, default: Any = None) -> int:
    """As number, for whole numbers."""
    value = number(data, key, low, high, default)
    if value != int(value):
        raise UserError(f'{key}: expected a whole number, found {value!r:.40}')
    return int(value)


def choice(data: dict[str, Any], key: str, choices: Sequence[str], default: str | None = None) -> str:
    """The text data[key], which is one of some."""
    value = data.get(key, default)
    if value not in choices:
        raise UserError(f'{key}: expected one of {", ".join(choices)}, found {value!r:.40}')
    return str(value)


def items(data: dict[str, Any], key: str, kind: type, most: int) -> list[Any]:
    """The list data[key] of values of a type, with at least one and at most `most`."""
    value = data.get(key)
    if not isinstance(value, list) or not 1 <= len(value) <= most or not all(isinstance(item, kind) for item in value):
        raise UserError(f'{key}: expected a list of 1 to {most} entries')
    return value


def layers_of(data: dict[str, Any], num_layers: int) -> list[int] | None:
    """The layers data['layers'], or None for those that are meant without saying."""
    if data.get('layers') is None:
        return None
    layers = items(data, 'layers', int, num_layers)
    if not all(0 <= layer < num_layers for layer in layers):
        raise UserError(f'layers: expected numbers from 0 to {num_layers - 1}')
    return layers


def label_of(net: Loaded, recipe: dict[str, Any]) -> np.ndarray | None:
    """The label [1, classes] of recipe['class'], None for no class."""
    if recipe.get('class') is None:
        return None
    num_classes = net.Gs.input_shapes[1][1]
    if num_classes == 0:
        return None  # The page may have just changed from a network with classes.
    return pictures.one_hot(net.Gs, integer(recipe, 'class', 0, num_classes - 1))


# ---- From recipes to W ----

class Kitchen:
    """Turns recipes into latents.

    Args:
        shelf:      The networks.
        directions: File of directions, 'file' in recipes. None = there is none.
    """

    def __init__(self, shelf: Shelf, directions: str | None = None):
        self.shelf, self.directions_file = shelf, directions
        self._stored: collections.OrderedDict[str, Latent] = collections.OrderedDict()
        self._directions: dict[Any, directions_module.Directions] = {}
        self._cached: collections.OrderedDict[Any, Latent] = collections.OrderedDict()

    def store(self, latent: Latent) -> dict[str, Any]:
        """Keep a latent, and return its recipe. Those that were not used for the longest time are forgotten."""
        key = secrets.token_urlsafe(16)
        self._stored[key] = latent
        while len(self._stored) > _MAX_STORED:
            self._stored.popitem(last=False)
        return dict(kind='stored', id=key, name=latent.name)

    def latent(self, net: Loaded, recipe: dict[str, Any], depth: int = 0) -> Latent:
        """The latent of a recipe.

        Raises:
            UserError: Something in it is wrong or missing, or does not fit the network.
        """
        if depth > _MAX_DEPTH:
            raise UserError('this picture is made of too many others', 'Start from a seed again.')
        if not net.has_w:
            raise UserError('this network is of ProGAN, which has no W to work with', 'Choose another network.')
        kinds = dict(seed=self._seed, stored=self._from_store, mix=self._mix, edit=self._edit, walk=self._walk)
        kind = choice(recipe, 'kind', list(kinds))
        if kind == 'stored':
            return self._from_store(net, recipe, depth)
        key = net.key, repr(recipe)
        if key not in self._cached:
            self._cached[key] = kinds[kind](net, recipe, depth)
            while len(self._cached) > _MAX_CACHED:
                self._cached.popitem(last=False)
        self._cached.move_to_end(key)
        return self._cached[key]

    def _seed(self, net: Loaded, recipe: dict[str, Any], depth: int) -> Latent:
        seed = integer(recipe, 'seed', 0, 2 ** 32 - 1)
        truncation = pictures.Truncation(net.Gs)
        w = pictures.w_of(net.Gs, pictures.z_of_seeds(net.Gs, [seed]), label_of(net, recipe))[0]
        w = truncation.avg + (w - truncation.avg) * truncation.factors(psi_of(recipe))
        return Latent(f'seed{seed:04d}', w, seed)

    def _from_store(self, net: Loaded, recipe: dict[str, Any], depth: int) -> Latent:
        latent = self._stored.get(str(recipe.get('id')))
        if latent is None:
            raise UserError('this photo is no longer there', 'Project it again.')
        self._stored.move_to_end(str(recipe.get('id')))
        if latent.w.shape != net.w_shape:
            raise UserError(f'{latent.name} was projected with a network whose W is of another shape, '
                            f'{list(latent.w.shape)}; that of this one is {list(net.w_shape)}',
                            'Choose the network that it was projected with.')
        shapes = [tuple(var.shape) for var in misc.noise_variables(net.Gs)]
        fits = isinstance(latent.noises, list) and [noise.shape for noise in latent.noises] == shapes
        return latent if fits else latent._replace(noises=None)

    def _mix(self, net: Loaded, recipe: dict[str, Any], depth: int) -> Latent:
        a, b = (self.latent(net, part(recipe, key), depth + 1) for key in ('a', 'b'))
        given = recipe.get('amounts')
        if not isinstance(given, list) or len(given) != len(a.w):
            raise UserError(f'amounts: expected {len(a.w)} numbers, one for each layer', 'Load the page again.')
        # Not a + amount * (b - a), so that an amount of 1 gives exactly b.
        amounts = np.array([number(dict(amount=amount), 'amount', -10, 10) for amount in given])[:, np.newaxis]
        return Latent(f'{a.name}-{b.name}'[:100], (1 - amounts) * a.w + amounts * b.w, a.noises)

    def _edit(self, net: Loaded, recipe: dict[str, Any], depth: int) -> Latent:
        base = self.latent(net, part(recipe, 'base'), depth + 1)
        strengths = part(recipe, 'strengths')
        # Computed directions are those of the network that they were computed for.
        source = self.shelf.load(integer(recipe, 'network', 0, 10 ** 6, 0))
        found = self.directions(source, recipe)
        found.check_fits(net.Gs, 'these directions')
        wrong = [key for key in strengths if not (key.isascii() and key.isdigit() and int(key) < len(found))]
        if wrong:
            raise UserError(f'there is no direction {wrong[0]!r:.40}', 'Load the page again.')
        offset = found.offset({int(key): number(strengths, key, -1000, 1000) for key in strengths},
                              layers_of(recipe, len(base.w)))
        return base._replace(name=f'{base.name}-edited'[:100], w=base.w + offset)

    def _walk(self, net: Loaded, recipe: dict[str, Any], depth: int) -> Latent:
        keys = [self.latent(net, key, depth + 1) for key in items(recipe, 'keys', dict, MAX_KEYS)]
        loop, curve = recipe.get('loop') is True, choice(recipe, 'curve', CURVES, 'spline')
        position = number(recipe, 'position', 0, len(keys))
        return Latent('walk', walk_curve(net, keys, curve, loop)(np.array([position]))[0], keys[0].noises)

    # ---- Directions ----

    def directions(self, net: Loaded, recipe: dict[str, Any]) -> directions_module.Directions:
        """The directions that recipe['set'] names: those of the file, or computed by one of METHODS.

        Raises:
            UserError: There is no file, it cannot be read or does not fit the network, or the network has none.
        """
        name = choice(recipe, 'set', [*METHODS, 'file'])
        if name == 'file':
            if self.directions_file is None:
                raise UserError('there is no file of directions', 'Give run_explorer.py --directions=FILE.')
            is_there = os.path.isfile(self.directions_file)
            key = 'file', os.stat(self.directions_file).st_mtime_ns if is_there else 0
            if key not in self._directions:
                self._directions[key] = directions_module.load(self.directions_file)
            self._directions[key].check_fits(net.Gs, self.directions_file)
            return self._directions[key]
        if not net.has_w:
            raise UserError('this network is of ProGAN, which has no W to work with', 'Choose another network.')
        if (net.key, name) not in self._directions:
            num_layers, size = net.w_shape
            cov = directions_module.covariance_of_w(net.Gs, _NUM_SAMPLES)
            layers = list(range(num_layers))
            vectors, shares = directions_module.computed(
                net.Gs, name, layers, min(_NUM_DIRECTIONS, size), cov, net.named.name)
            how = dict(network=net.named.name, method=name, num_samples=_NUM_SAMPLES, class_idx=None)
            self._directions[net.key, name] = directions_module.make(
                vectors, shares, layers, num_layers, cov, how)
        return self._directions[net.key, name]


def part(recipe: dict[str, Any], key: str) -> dict[str, Any]:
    """The dict recipe[key]."""
    value = recipe.get(key)
    if not isinstance(value, dict):
        raise UserError(f'{key}: expected a picture to start from', 'Load the page again.')
    return value


def psi_of(recipe: dict[str, Any]) -> float:
    """The truncation of a seed."""
    return float(number(recipe, 'psi', -100, 100, 1.0))


def walk_curve(net: Loaded, keys: Sequence[Latent], curve: str, loop: bool):
    """The walk through latents, as generate-video has it: function (positions [N]) -> w float64 [N, layers, size]."""
    avg = pictures.Truncation(net.Gs).avg
    at = walks.curve_through(np.stack([key.w for key in keys]) - avg, curve, loop)
    return lambda positions: avg + at(positions)


def noises_for(net: Loaded, request: dict[str, Any], latent: Latent) -> list[np.ndarray] | None:
    """The noise maps that a request asks for: those of the latent, others, none, or (None) those of the file."""
    noise = choice(request, 'noise', [*NOISES, 'file'], 'fixed')
    if noise == 'file':
        return None
    if noise == 'off':
        return [np.zeros(var.shape, np.float32) for var in misc.noise_variables(net.Gs)]
    noises = integer(request, 'noise_seed', 0, 2 ** 32 - 1, 0) if noise == 'fresh' else latent.noises
    return pictures.noises_of_seed(net.Gs, noises) if isinstance(noises, int) else noises
