"""Pictures for requests of the page, and the commands that make the same pictures."""

from __future__ import annotations

import io
import os
import shlex
import tempfile
from typing import Any

import numpy as np
import PIL.Image

from explorer.recipes import Kitchen, choice, integer, items, label_of, noises_for, part, psi_of
from explorer.shelf import Loaded
from latents import dlatents, pictures
from training import misc
from training.options import PRECISIONS


def draw(kitchen: Kitchen, request: dict[str, Any]) -> tuple[PIL.Image.Image, str]:
    """The picture that a request describes, and the command that makes it.

    Args:
        kitchen: Of recipes.
        request: network: number of the network. recipe: what to draw. precision: key of PRECISIONS. noise: 'fixed',
                 'fresh' (by noise_seed) or 'off'. preview: draw a small one, if the network can?

    Returns:
        (picture, command). A seed with its own noise is drawn as generate-images does. The command for anything else
        needs the file that `archive` makes of the same request.

    Raises:
        UserError: The request is wrong, or the network cannot be read.
    """
    net = kitchen.shelf.load(integer(request, 'network', 0, 10 ** 6))
    recipe, precision = part(request, 'recipe'), precision_of(request)
    if request.get('preview') is True and net.preview is not None:
        latent = kitchen.latent(net, recipe)
        with misc.noise_of(net.Gs, noises_for(net, request, latent)):
            image = net.Gs.components.synthesis.run(
                latent.w[np.newaxis], randomize_noise=False, max_resolution=net.preview, assume_frozen=True,
                **pictures.picture_kwargs(precision))[0]
        return pictures.to_pil(image), ''
    if is_plain(net, request):
        psi = {'truncation_psi': psi_of(recipe)} if net.has_w else {}
        image = misc.image_of_seed(net.Gs, integer(recipe, 'seed', 0, 2 ** 32 - 1), label_of(net, recipe), **psi,
                                   **pictures.picture_kwargs(precision))[0]
        return pictures.to_pil(image), command(net, request)
    latent = kitchen.latent(net, recipe)
    picture, = pictures.synthesize(net.Gs, latent.w[np.newaxis], noises_for(net, request, latent), precision)
    return picture, command(net, request, latent.name)


def is_plain(net: Loaded, request: dict[str, Any]) -> bool:
    """Is it a seed with its own noise, which generate-images draws without a file of latents?"""
    fixed = request.get('noise', 'fixed') == 'fixed' or not misc.noise_variables(net.Gs)
    return fixed and choice(part(request, 'recipe'), 'kind', ('seed', 'stored', 'mix', 'edit', 'walk')) == 'seed'


def precision_of(request: dict[str, Any]) -> str:
    """The precision that a request asks for."""
    return choice(request, 'precision', list(PRECISIONS), 'float32')


def command(net: Loaded, request: dict[str, Any], name: str = '') -> str:
    """The command that makes the picture of a request. `name` is that of its file of latents, if it needs one."""
    words = ['python', 'run_generator.py', 'generate-images', f'--network={net.named.name}']
    recipe = part(request, 'recipe')
    if name:
        words.append(f'--dlatents={name}.npz')
    else:
        words.append(f'--seeds={recipe["seed"]}')
        words += [f'--truncation-psi={psi_of(recipe):.10g}'] if net.has_w else []
        words += [f'--class={recipe["class"]}'] if label_of(net, recipe) is not None else []
    if precision_of(request) != 'float32':
        words.append(f'--precision={precision_of(request)}')
    return shlex.join(words)


def archive(kitchen: Kitchen, request: dict[str, Any]) -> bytes:
    """The dlatents.npz of the latents request['recipes'], all of one network.

    Args:
        kitchen: Of recipes.
        request: As for draw, but for `recipes`.

    Raises:
        UserError: As draw.
    """
    net = kitchen.shelf.load(integer(request, 'network', 0, 10 ** 6))
    latents = [kitchen.latent(net, recipe) for recipe in items(request, 'recipes', dict, 64)]
    maps = [noises_for(net, request, latent) for latent in latents]
    stored = [var.numpy() for var in misc.noise_variables(net.Gs)]
    maps = [stored if each is None else each for each in maps]
    names: list[str] = []
    for latent in latents:
        names.append(latent.name if latent.name not in names else f'{latent.name}-{len(names)}')
    found = dlatents.Dlatents(
        names, np.stack([latent.w for latent in latents]).astype(np.float32),
        [np.concatenate(each).astype(np.float32) for each in zip(*maps, strict=True)] or None,
        settings=dict(network=net.named.name))
    with tempfile.TemporaryDirectory(prefix='explorer-') as folder:
        path = os.path.join(folder, 'dlatents.npz')
        found.save(path)
        with open(path, 'rb') as file:
            return file.read()


def png(picture: PIL.Image.Image) -> bytes:
    """A picture as PNG file. Without much compression, which would take longer than the picture of a small network."""
    buffer = io.BytesIO()
    picture.save(buffer, 'png', compress_level=1)
    return buffer.getvalue()
