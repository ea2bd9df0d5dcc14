"""The commands of run_projector.py: project images to W, write what was found, and detect generated images with it."""

from __future__ import annotations

import itertools
import os
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import pretrained_networks
import projector
from dnnlib import tflib
from dnnlib.cli import UserError
from dnnlib.progress import ProgressBar
from latents import detection, dlatents, video
from latents.targets import Target, generated_targets, real_targets, targets_from_files, with_unique_names
from training import misc

# ---- The three commands ----

def project_generated_images(run_dir: str, network_pkl: str, seeds: Sequence[int], truncation_psi: float = 1.0,
                             **settings: Any):
    """Project the images of seeds.

    Args:
        run_dir:        Folder for the results, see `project_targets`.
        network_pkl:    Path, URL or 'gdrive:networks/...' of a (G, D, Gs) pickle.
        seeds:          Seeds of the images, see training.misc.image_of_seed.
        truncation_psi: Truncation of the images.
        settings:       Fields of Settings.

    Raises:
        UserError: The network, a file or the weights of the distance are not available or do not fit.
    """
    options = Settings(**settings)
    Gs = pretrained_networks.load_generator(network_pkl, options.impl, options.tf32)
    targets = generated_targets(Gs, seeds, truncation_psi)
    project_targets(Gs, run_dir, targets, len(seeds), options, network_pkl)


def project_real_images(run_dir: str, network_pkl: str, dataset_name: str | None = None, data_dir: str = 'datasets',
                        num_images: int | None = None, images: Sequence[str] | None = None, align: bool = False,
                        **settings: Any):
    """Project images of a dataset, or image files.

    Args:
        run_dir:      Folder for the results, see `project_targets`.
        network_pkl:  Path, URL or 'gdrive:networks/...' of a (G, D, Gs) pickle.
        dataset_name: Folder of the dataset in `data_dir`. None = project `images`.
        data_dir:     Folder of the datasets.
        num_images:   Number of images, from the first on. None = 3 of a dataset, or all files.
        images:       Image files, folders and .zip archives. None = project a dataset.
        align:        Cut out faces as in FFHQ? Only for `images`.
        settings:     Fields of Settings.

    Raises:
        UserError: As project_generated_images; or the images are missing or damaged, or do not fit the network.
    """
    options = Settings(**settings)
    Gs = pretrained_networks.load_generator(network_pkl, options.impl, options.tf32)
    targets = real_targets(Gs, dataset_name, data_dir, num_images, images, align)
    project_targets(Gs, run_dir, targets, len(targets), options, network_pkl)


def detect_generated(run_dir: str, network_pkl: str, seeds: Sequence[int], truncation_psi: float = 1.0,
                     dataset_name: str | None = None, data_dir: str = 'datasets', num_images: int | None = None,
                     images: Sequence[str] | None = None, align: bool = False, image: str | None = None,
                     reference: str | None = None, **settings: Any):
    """Project generated and real images, and report how well their distances tell them apart.

    Writes distances.csv, histogram.png and detection.json in addition to the results of `project_targets`.

    Args:
        run_dir:                 Folder for the results.
        network_pkl:             Path, URL or 'gdrive:networks/...' of a (G, D, Gs) pickle.
        seeds, truncation_psi:   As in project_generated_images.
        dataset_name to align:   As in project_real_images.
        image:                   Image file to attribute: is it generated? None = none.
        reference:               Folder of an earlier run. Only `image` is projected, and attributed by the distances
                                 of that run. None = project both sets.
        settings:                Fields of Settings.

    Raises:
        UserError: As project_real_images; or the reference cannot be read or was made in another way.
    """
    options = Settings(**settings)
    how = options.how(network_pkl)
    reference_distances = detection.read_reference(reference, how) if reference else None
    Gs = pretrained_networks.load_generator(network_pkl, options.impl, options.tf32)

    targets: list[Iterable[Target]] = []
    sets = []  # Set of each target, in the same order.
    if image:
        targets.append(targets_from_files(Gs, [image], align, 1))
        sets.append('suspect')
    if not reference:
        real = real_targets(Gs, dataset_name, data_dir, num_images, images, align)
        targets += [generated_targets(Gs, seeds, truncation_psi), real]
        sets += ['generated'] * len(seeds) + ['real'] * len(real)
    counts = {name: len(reference_distances[name]) if reference_distances else sets.count(name)
              for name in detection.SETS}
    if detection.too_few(counts):
        print(f'Note: {detection.too_few(counts)}')

    def write_csv(found: dlatents.Dlatents):
        rows = zip(found.names, sets, found.distances, found.start_distances, found.sources)
        detection.write_csv(os.path.join(run_dir, 'distances.csv'), rows)

    # The noise maps are not kept: those of hundreds of large images would fill the memory.
    found = project_targets(Gs, run_dir, itertools.chain(*targets), len(sets), options, network_pkl, keep_noises=False,
                            on_found=write_csv)
    if not reference:
        _print_ratios(found, sets)
    suspect = float(found.distances[sets.index('suspect')]) if image else None
    distances = reference_distances or {
        name: found.distances[[set_name == name for set_name in sets]] for name in detection.SETS}
    detection.report_detection(run_dir, distances, suspect, image, how)


def _print_ratios(found, sets):
    """Print for both sets how far the distances fell from those at the start."""
    for set_name in detection.SETS:
        ratios = (found.distances / found.start_distances)[[name == set_name for name in sets]]
        print(f'{set_name:<9}  median {np.median(ratios):.4f} of the distance at the start; '
              f'{np.sum(ratios <= 0.2)} of {len(ratios)} within a fifth')


class Settings(typing.NamedTuple):
    """How to project: the flags that all commands share."""
    num_snapshots:  int = 5            # Number of pictures to write on the way.
    num_steps:      int = 1000         # Steps per image.
    minibatch_size: int = 1            # Images projected at a time.
    distance:       str = 'lpips'      # Key of projector.DISTANCES.
    wplus:          bool = False       # Find a latent for each layer?
    init:           str = 'mean'       # 'mean' = start at the mean of W; otherwise a file of latents.
    video:          bool = False       # Make a film of the way?
    seed:           int = 1000         # Seed of the noise.
    impl:           str | None = None  # Form of the custom ops. None = leave the current one.
    tf32:           bool = False       # Allow TF32 on GPUs?

    def how(self, network_pkl: str) -> dict[str, Any]:
        """Everything that the resulting distances depend on, as a dict that JSON can hold."""
        return dict(network=str(network_pkl), distance=self.distance, num_steps=self.num_steps, wplus=self.wplus,
                    init=self.init)


# ---- Projection of a list of images ----

def project_targets(Gs: tflib.Network, run_dir: str, targets: Iterable[Target], count: int, settings: Settings,
                    network_pkl: str, keep_noises: bool = True,
                    on_found: Callable[[dlatents.Dlatents], None] | None = None) -> dlatents.Dlatents:
    """Project images, a minibatch at a time.

    Writes into run_dir, for each image, NAME-target.png, NAME-stepSSSS.png, NAME-final.png, NAME-side-by-side.png
    (target and result) and, if settings.video, NAME.mp4 or NAME.gif; and dlatents.npz (latents/dlatents.py) with all
    images. After Ctrl-C the files hold what was found so far. If two images have the same name, '-2' is appended to
    that of the second, and so on.

    Args:
        Gs:          Network.
        run_dir:     Folder for the results.
        targets:     Images; they are taken from the iterable when they are needed.
        count:       Number of images, at least 1.
        settings:    Settings.
        network_pkl: Name of the network, to be written into dlatents.npz.
        keep_noises: Write the noise maps into dlatents.npz, too?
        on_found:    Function to call after each minibatch, with everything found so far. None = none.

    Returns:
        What was found for all images.

    Raises:
        UserError: The weights of the distance or the latents to start at are not available or do not fit.
    """
    proj = _make_projector(settings)
    init = _load_init(settings, Gs, count)
    size = min(settings.minibatch_size, count)
    proj.set_network(Gs, size)
    print('Compiling the step: the first image takes longer than those that follow.')
    film_format = _film_format() if settings.video else None
    origin = {**settings.how(network_pkl), 'seed': settings.seed}

    found, begin, targets = None, 0, with_unique_names(targets)
    while batch := list(itertools.islice(targets, size)):
        title = batch[0].source + (f' and {len(batch) - 1} more' if len(batch) > 1 else '')
        print(f'Projecting {title} ({begin}/{count}) ...')
        rows = np.minimum(np.arange(size), len(batch) - 1)  # A smaller last minibatch is filled with its last image.
        proj.start(np.stack([batch[row].image for row in rows]),
                   None if init is None else init[(begin + rows) % len(init)])
        start_distances = proj.get_distances()
        interrupt = None
        try:
            _run_steps(proj, run_dir, batch, settings, film_format)
        except (KeyboardInterrupt, OSError) as err:
            interrupt = err
        if proj.get_cur_step():
            part = _results(proj, batch, start_distances, origin, keep_noises)
            found = part if found is None else found.joined(part)
            try:
                found.save(os.path.join(run_dir, 'dlatents.npz'))  # First, because it is worth most.
                if on_found:
                    on_found(found)
                _write_pictures(proj, run_dir, batch)
            except OSError as err:
                interrupt = interrupt or err
        if isinstance(interrupt, OSError):
            raise UserError(
                f'{interrupt.filename or run_dir}: cannot be written: {interrupt.strerror or interrupt}',
                f'Check the free space. What was found before is in {run_dir}.') from interrupt
        if interrupt:
            print(f'Stopped at step {proj.get_cur_step()} of {proj.num_steps}. '
                  f'What was found so far is in {run_dir}')
            raise interrupt
        begin += len(batch)
    assert found is not None
    return found


def _make_projector(settings):
    """A Projector with these settings."""
    rng = tflib.Random(tf.random.Generator.from_seed(settings.seed))
    try:
        proj = projector.Projector(settings.distance, rng)
    except UserError as err:  # The weights of this distance are missing.
        others = ' or '.join(name for name in projector.DISTANCES if name != settings.distance)
        raise UserError(err.fact, f'{err.remedy}. Or take another --distance: {others}.') from err
    proj.num_steps, proj.wplus = settings.num_steps, settings.wplus
    return proj


def _load_init(settings, Gs, count):
    """Latents to start at, [count or 1, layers or 1, dlatent]; None = the mean of W."""
    if settings.init == 'mean':
        return None
    w = dlatents.load(settings.init, Gs).w
    if len(w) not in (1, count):
        raise UserError(f'--init: {settings.init} has the latents of {len(w)} images, '
                        f'expected 1 or {count}, as there are images', 'Choose another file, or --init=mean.')
    if settings.wplus:
        return w
    if not (w == w[:, :1]).all():
        raise UserError(f'--init: {settings.init} has a latent for each layer, expected the same for all',
                        'Add --wplus.')
    return w[:, :1]


def _film_format():
    """Format of films: MP4, or GIF without ffmpeg. If so, print how to change that."""
    if video.has_ffmpeg():
        return 'mp4'
    print("Films are GIFs: for MP4 install the extra, pip install -e '.[video]'")
    return 'gif'


# ---- One minibatch ----

def _run_steps(proj, run_dir, batch, settings, film_format):
    """Run all steps for a minibatch, with pictures, films and progress."""
    num_steps = proj.num_steps
    snapshot_steps = set(num_steps - np.linspace(0, num_steps, settings.num_snapshots, endpoint=False, dtype=int))
    films = [video.Video(os.path.join(run_dir, target.name), film_format) for target in batch] if film_format else []
    frame_every, note_every = max(num_steps // 250, 1), max(num_steps // 100, 1)
    for target in batch:
        _save_picture(run_dir, f'{target.name}-target.png', target.image)
    try:
        with ProgressBar('Step', num_steps, 'step', num_lines=10) as progress:
            while proj.get_cur_step() < num_steps:
                proj.step()
                step = proj.get_cur_step()
                is_snapshot, is_frame = step in snapshot_steps, bool(films) and step % frame_every == 0
                images = proj.get_images()[:len(batch)] if is_snapshot or is_frame else []
                if is_snapshot:
                    for target, image in zip(batch, images):
                        _save_picture(run_dir, f'{target.name}-step{step:04d}.png', image)
                if is_frame:
                    for film, target, image in zip(films, batch, images):
                        film.add(misc.convert_to_pil_image(_side_by_side(target, image), [-1, 1]))
                if step % note_every == 0:
                    progress.note(f'distance {np.mean(proj.last_distances[:len(batch)]):.4f}')
                progress.update()
    finally:
        for film in films:
            film.close()


def _write_pictures(proj, run_dir, batch):
    """Write the pictures of what was found for a minibatch."""
    for target, image in zip(batch, proj.get_images()):
        _save_picture(run_dir, f'{target.name}-final.png', image)
        _save_picture(run_dir, f'{target.name}-side-by-side.png', _side_by_side(target, image))


def _results(proj, batch, start_distances, origin, keep_noises):
    """Print the distances of what was found for a minibatch, and return it as Dlatents."""
    n = len(batch)
    distances = proj.get_distances()[:n]
    for target, distance, start_distance in zip(batch, distances, start_distances):
        print(f'{target.name}: distance {distance:.4f}, {start_distance:.4f} at the start')
    return dlatents.Dlatents(
        names=[target.name for target in batch], w=proj.get_dlatents()[:n],
        noises=[noise[:n] for noise in proj.get_noises()] if keep_noises else None,
        distances=distances, start_distances=start_distances[:n], steps=np.full([n], proj.get_cur_step()),
        sources=[target.source for target in batch], settings=origin)


def _side_by_side(target, image):
    """The target, and to the right of it the image [C, H, W]."""
    return np.concatenate([target.image, image], axis=2)


def _save_picture(run_dir, name, image):
    """Write an image [C, H, W], about -1..1, as PNG."""
    misc.save_image_grid(image[np.newaxis], os.path.join(run_dir, name), drange=[-1, 1])
