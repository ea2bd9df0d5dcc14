"""Long tasks of the page, in small parts: projecting a photo, and making a film."""

from __future__ import annotations

import functools
import importlib.util
import os
import zipfile
from collections.abc import Generator
from typing import Any

import numpy as np
import PIL.Image
import tensorflow as tf

import projector
from dnnlib import tflib
from dnnlib.cli import UserError
from explorer import drawing
from explorer.recipes import MAX_KEYS, Kitchen, Latent, choice, integer, items, noises_for, number, walk_curve
from explorer.shelf import Loaded
from explorer.worker import Job
from latents import dlatents, pictures, video, walks
from latents.options import CURVES
from latents.targets import Target, picture_name, targets_from_files
from metrics import feature_networks
from training import misc

FORMATS = ('mp4', 'webm', 'gif')  # Of films.
_MAX_FRAMES = 3000
_MAX_STEPS = 5000
_MAX_PIXELS = 50_000_000  # Of a photo.
_PHOTO_FORMATS = ('PNG', 'JPEG', 'MPO', 'WEBP', 'BMP', 'TIFF', 'GIF')
_SEED = 1000              # Of the noise on the way, as in run_projector.py.

# Distance -> the feature network whose weights it needs.
_NETWORKS = {'lpips': 'lpips', 'vgg-hed': 'vgg_hed', 'pixel': None}


# ---- Projection ----

@functools.cache
def available_distances() -> list[str]:
    """Distances whose weights are on this machine, the best first."""
    return [name for name in projector.DISTANCES if _weights_are_here(name)]


def _weights_are_here(distance: str) -> bool:
    network = _NETWORKS[distance]
    if network is None:
        return True
    try:
        return any(feature_networks.local_path(file) for file in feature_networks.NETWORKS[network].files)
    except UserError:  # A damaged file.
        return False


def can_align() -> bool:
    """Is the extra [align] installed?"""
    return all(importlib.util.find_spec(name) for name in ('dlib', 'face_recognition_models'))


def opened(kitchen: Kitchen, net: Loaded, path: str, name: str, align: bool) -> Target | list[dict[str, Any]]:
    """What somebody has uploaded.

    Args:
        kitchen: Keeps latents.
        net:     Network that it is for.
        path:    The file.
        name:    What it was called there.
        align:   Cut out the face?

    Returns:
        An image to project, or the recipes of the latents in a dlatents.npz.

    Raises:
        UserError: It is neither, or damaged, or there is no face in it.
    """
    name = picture_name(name)
    if zipfile.is_zipfile(path):
        try:
            found = dlatents.load(path, net.Gs)
        except UserError as err:
            raise UserError(err.fact.replace(path, name), err.remedy) from err
        return [kitchen.store(Latent(each, found.w[index].astype(np.float64), found.noises_of(index)))
                for index, each in enumerate(found.names)]
    remedy = f'Give a photo ({", ".join(_PHOTO_FORMATS)}), or a dlatents.npz of run_projector.py.'
    try:
        with PIL.Image.open(path, formats=_PHOTO_FORMATS) as image:
            size = image.size
    except Exception as err:  # Decoders raise almost anything on a file that is not an image.
        raise UserError(f'{name} is not an image that can be read', remedy) from err
    if size[0] * size[1] > _MAX_PIXELS:
        raise UserError(f'{name} has {size[0]}x{size[1]} pixels, expected at most {_MAX_PIXELS // 10 ** 6} million',
                        'Scale it down first.')
    try:
        target, = targets_from_files(net.Gs, [path], align, 1)
    except UserError as err:
        raise UserError(err.fact.replace(path, name).removeprefix('--align: '), 'Choose another photo.') from err
    return target._replace(name=name, source=name)


def start_projection(net: Loaded, target: Target, options: dict[str, Any],
                     kitchen: Kitchen) -> tuple[Job, Generator[None, None, None]]:
    """A job that projects an image, and its parts. Its result is the recipe of what was found.

    Args:
        net:     Network.
        target:  Image.
        options: steps, distance, wplus: as the flags of run_projector.py.
        kitchen: Keeps what was found.

    Raises:
        UserError: An option is wrong, or the weights of the distance are missing.
    """
    if not net.has_w:
        raise UserError('this network is of ProGAN, which has no W to project to', 'Choose another network.')
    num_steps = integer(options, 'steps', 1, _MAX_STEPS, 1000)
    distance = choice(options, 'distance', list(projector.DISTANCES), 'lpips')
    if not _weights_are_here(distance):
        others = ' or '.join(available_distances())
        raise UserError(f'{distance}: its weights are not on this machine, and the explorer downloads nothing',
                        f'Choose {others}, or get them with: python -m metrics.feature_networks {_NETWORKS[distance]}')
    job = Job(num_steps)
    job.note = 'preparing: this takes longest'

    def parts() -> Generator[None, None, None]:
        yield
        proj = projector.Projector(distance, tflib.Random(tf.random.Generator.from_seed(_SEED)))
        proj.num_steps, proj.wplus, proj.clone_net = num_steps, options.get('wplus') is True, False
        proj.set_network(net.Gs, 1)
        yield
        proj.start(target.image[np.newaxis])
        every = max(num_steps // 100, 1)
        while proj.get_cur_step() < num_steps and not job.stop:
            proj.step()
            step = job.step = proj.get_cur_step()
            if step == 1 or step % every == 0:
                job.note = f'distance {float(proj.last_distances[0]):.4f}'
                job.show(_picture(proj))
            yield
        if proj.get_cur_step():
            job.show(_picture(proj))
            job.note = f'distance {float(proj.get_distances()[0]):.4f}'
            w = proj.get_dlatents()[0].astype(np.float64)
            job.result = kitchen.store(Latent(target.name, w, proj.get_noises()))
    return job, parts()


def _picture(proj: projector.Projector) -> bytes:
    return drawing.png(misc.convert_to_pil_image(proj.get_images()[0], [-1, 1]))


# ---- Films ----

def start_film(net: Loaded, request: dict[str, Any], kitchen: Kitchen) -> tuple[Job, Generator[None, None, None]]:
    """A job that makes a film of a walk, and its parts.

    Args:
        net:     Network.
        request: keys: recipes of the keyframes. seconds, fps, curve, loop, format: as the flags of generate-video.
                 noise, noise_seed, precision: as in drawing.draw.
        kitchen: Of recipes.

    Raises:
        UserError: The request is wrong, or the film would be too long.
    """
    recipes = items(request, 'keys', dict, MAX_KEYS)
    loop, curve = request.get('loop') is True, choice(request, 'curve', CURVES, 'spline')
    fps = integer(request, 'fps', 1, 60, 30)
    per_key = max(round(number(request, 'seconds', 0.01, 100, 2.0) * fps), 1)
    form, precision = choice(request, 'format', FORMATS, 'mp4'), drawing.precision_of(request)
    if form == 'gif':
        if fps > video.MAX_GIF_FPS:
            raise UserError(f'a GIF has at most {video.MAX_GIF_FPS} frames per second, found {fps}', 'Choose fewer.')
    elif not video.has_ffmpeg():
        raise UserError(f'{form} needs ffmpeg, which is not installed', "pip install -e '.[video]', or choose GIF.")
    num_frames = walks.count_frames(len(recipes), per_key, loop)
    if num_frames > _MAX_FRAMES:
        raise UserError(f'the film would have {num_frames} frames, expected at most {_MAX_FRAMES}',
                        'Make it shorter, or use run_generator.py generate-video.')
    keys = [kitchen.latent(net, recipe) for recipe in recipes]
    curve_at, noises = walk_curve(net, keys, curve, loop), noises_for(net, request, keys[0])
    job = Job(num_frames)

    def parts() -> Generator[None, None, None]:
        film = video.Video(os.path.join(job.folder.name, 'film'), form, fps)
        try:
            with film:
                for begin in range(0, num_frames, pictures.MINIBATCH_SIZE):
                    if job.stop:
                        raise _Stopped
                    frames = np.arange(begin, min(begin + pictures.MINIBATCH_SIZE, num_frames))
                    for frame in pictures.synthesize(net.Gs, curve_at(frames / per_key), noises, precision):
                        film.add(frame)
                    job.step = int(frames[-1]) + 1
                    yield
        except _Stopped:  # The film is thrown away.
            return
        job.file = film.path
    return job, parts()


class _Stopped(Exception):
    """The job is to end."""
