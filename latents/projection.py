"""What the commands of run_projector.py do: take images, project them, keep and show what was found."""

import itertools
import os
import time
import typing

import numpy as np
import tensorflow as tf
from tqdm import tqdm

import pretrained_networks
import projector
from dnnlib import tflib
from dnnlib.cli import UserError
from dnnlib.util import format_time
from latents import detection, dlatents, video
from latents.targets import generated_targets, real_targets, targets_of_files
from training import misc

# ---- The three commands ----

def project_generated_images(run_dir, network_pkl, seeds, truncation_psi=1.0, **settings):
    """Project the images of seeds.

    Args:
        run_dir:        Folder for the results, see `_project`.
        network_pkl:    Path, URL or 'gdrive:networks/...' of a (G, D, Gs) pickle.
        seeds:          List of int, see training.misc.image_of_seed.
        truncation_psi: Scale of the deviation from the average in W.
        settings:       Further arguments of `_Settings`.
    """
    settings = _Settings(**settings)
    Gs = pretrained_networks.load_generator(network_pkl, settings.impl)
    _project(Gs, run_dir, generated_targets(Gs, seeds, truncation_psi), len(seeds), settings, network_pkl)


def project_real_images(run_dir, network_pkl, dataset_name=None, data_dir='datasets', num_images=None, images=None, align=False,
                        **settings):
    """Project images of a dataset, or image files.

    Args:
        run_dir:      Folder for the results, see `_project`.
        network_pkl:  Path, URL or 'gdrive:networks/...' of a (G, D, Gs) pickle.
        dataset_name: Folder of the dataset in `data_dir`. None = take `images`.
        data_dir:     Folder of the datasets.
        num_images:   How many, from the first on. None = 3 of a dataset, all files.
        images:       List of image files, folders and .zip archives.
        align:        Cut out faces as in FFHQ?
        settings:     Further arguments of `_Settings`.
    """
    settings = _Settings(**settings)
    Gs = pretrained_networks.load_generator(network_pkl, settings.impl)
    targets = real_targets(Gs, dataset_name, data_dir, num_images, images, align)
    _project(Gs, run_dir, targets, len(targets), settings, network_pkl)


def detect_generated(run_dir, network_pkl, seeds, truncation_psi=1.0, dataset_name=None, data_dir='datasets', num_images=None,
                     images=None, align=False, image=None, reference=None, **settings):
    """Project generated and real images, and see whether the distances tell them apart.

    Writes distances.csv, histogram.png and detection.json beside the results of `_project`.

    Args:
        seeds, truncation_psi:  As in project_generated_images.
        dataset_name ... align: As in project_real_images.
        image:                  Image file to attribute. None = none.
        reference:              Folder of an earlier run whose distances are used for that, in place of new ones. None = project both sets.
        settings:               Further arguments of `_Settings`.
    """
    settings = _Settings(**settings)
    how = settings.how(network_pkl)
    distances = detection.read_reference(reference, how) if reference else None
    Gs = pretrained_networks.load_generator(network_pkl, settings.impl)
    targets = [target._replace(name='suspect') for target in targets_of_files(Gs, [image], align, 1)] if image else []
    count = len(targets)
    if not reference:
        real = real_targets(Gs, dataset_name, data_dir, num_images, images, align)
        targets = itertools.chain(targets, generated_targets(Gs, seeds, truncation_psi), real)
        count += len(seeds) + len(real)

    def write(found):
        detection.write_csv(os.path.join(run_dir, 'distances.csv'),
                            zip(found.names, map(_kind, found.names), found.distances, found.start_distances, found.sources))

    # Noise maps of hundreds of large images would fill the memory, and are of no use here.
    found = _project(Gs, run_dir, targets, count, settings, network_pkl, keep_noises=False, after=write)
    ours = {kind: found.distances[[_kind(name) == kind for name in found.names]] for kind in ('suspect', *detection.SETS)}
    for kind in detection.SETS if not reference else ():
        ratios = (found.distances / found.start_distances)[[_kind(name) == kind for name in found.names]]
        print(f'{kind:<9}  median {np.median(ratios):.4f} of the distance at the start; '
              f'{np.sum(ratios <= 0.2)} of {len(ratios)} within a fifth')
    detection.report_detection(run_dir, distances or ours, float(ours['suspect'][0]) if image else None, image, how)


def _kind(name):
    return 'suspect' if name == 'suspect' else 'generated' if name.startswith('seed') else 'real'


class _Settings(typing.NamedTuple):
    """How to project; the flags of all commands."""
    num_snapshots:  int = 5         # Pictures of the way there.
    num_steps:      int = 1000
    minibatch_size: int = 1         # Images at a time.
    distance:       str = 'lpips'   # Key of projector.DISTANCES.
    wplus:          bool = False    # A latent for each layer?
    init:           str = 'mean'    # 'mean', or a file of latents.
    video:          bool = False    # Make films of the way there?
    seed:           int = 1000      # Of the noise.
    impl:           str = None      # Form of the custom ops. None = the one set already.

    def how(self, network_pkl):
        """What decides on the distances that come out, as a dict that JSON can hold."""
        return dict(network=str(network_pkl), distance=self.distance, num_steps=self.num_steps, wplus=self.wplus, init=self.init)


# ---- Projection ----

def _project(Gs, run_dir, targets, count, settings, network_pkl, keep_noises=True, after=None):
    """Project all targets, a minibatch at a time.

    Writes, into run_dir, for each image NAME-target.png, NAME-stepSSSS.png, NAME-final.png, NAME-side-by-side.png (target, result) and
    with `video` NAME.mp4 or NAME.gif; and dlatents.npz (latents/dlatents.py). After Ctrl-C they hold what was found so far.

    Args:
        targets:     Iterable of Target.
        count:       How many there are.
        keep_noises: Put the noise maps into dlatents.npz?
        after:       Function that is called with the Dlatents found so far after each minibatch. None = none.

    Returns:
        Dlatents.
    """
    proj = _make_projector(settings)
    init = _read_init(settings, Gs, count)
    size = min(settings.minibatch_size, count)
    proj.set_network(Gs, size)
    print('Compiling the step: the first image takes longer than those that follow.')
    ffmpeg = settings.video and video.has_ffmpeg()
    if settings.video and not ffmpeg:
        print("Films are GIFs: for MP4 install the extra, pip install -e '.[video]'")

    found, begin, targets = None, 0, iter(targets)
    while batch := list(itertools.islice(targets, size)):
        title = batch[0].source + (f' and {len(batch) - 1} more' if len(batch) > 1 else '')
        print(f'Projecting {title} ({begin}/{count}) ...')
        rows = np.minimum(np.arange(size), len(batch) - 1)  # A last minibatch that is too small sees its last image again.
        proj.start(np.stack([batch[row].image for row in rows]), None if init is None else init[(begin + rows) % len(init)])
        start_distances = proj.get_distances()
        stopped = None
        try:
            _run_steps(proj, run_dir, batch, settings, ffmpeg)
        except KeyboardInterrupt as err:
            stopped = err
        if proj.get_cur_step():
            found = _keep(proj, run_dir, batch, found, start_distances, {**settings.how(network_pkl), 'seed': settings.seed}, keep_noises)
            if after:
                after(found)
        if stopped:
            print(f'Stopped at step {proj.get_cur_step()} of {proj.num_steps}. What was found so far is in {run_dir}')
            raise stopped
        begin += len(batch)
    return found


def _make_projector(settings):
    try:
        proj = projector.Projector(settings.distance, tflib.Random(tf.random.Generator.from_seed(settings.seed)))
    except UserError as err:  # There are no weights for this distance.
        others = ' or '.join(name for name in projector.DISTANCES if name != settings.distance)
        raise UserError(err.fact, f'{err.remedy}. Or take another --distance: {others}.') from err
    proj.num_steps, proj.wplus = settings.num_steps, settings.wplus
    return proj


def _run_steps(proj, run_dir, batch, settings, ffmpeg):
    """All steps of a minibatch, with the pictures and films of the way there."""
    snapshot_steps = set(proj.num_steps - np.linspace(0, proj.num_steps, settings.num_snapshots, endpoint=False, dtype=int))
    frame_steps = max(proj.num_steps // 250, 1)
    films = [video.Video(os.path.join(run_dir, target.name), ffmpeg) for target in batch] if settings.video else []
    for target in batch:
        _save(run_dir, f'{target.name}-target.png', target.image)
    start = time.monotonic()
    bar = tqdm(total=proj.num_steps, unit='step', disable=None, leave=False, dynamic_ncols=True)
    try:
        while proj.get_cur_step() < proj.num_steps:
            proj.step()
            step = proj.get_cur_step()
            bar.update()
            wanted = step in snapshot_steps, films and step % frame_steps == 0
            if any(wanted):
                images = proj.get_images()[:len(batch)]
            if wanted[0]:
                for target, image in zip(batch, images):
                    _save(run_dir, f'{target.name}-step{step:04d}.png', image)
            if wanted[1]:
                for film, target, image in zip(films, batch, images):
                    film.add(misc.convert_to_pil_image(np.concatenate([target.image, image], axis=2), [-1, 1]))
            if step % max(proj.num_steps // 100, 1) == 0:
                distance = np.mean(proj.last_distances[:len(batch)])
                bar.set_postfix(distance=f'{distance:.4f}', refresh=False)
                if bar.disable and step % max(proj.num_steps // 10, 1) == 0:  # No terminal: some lines in place of the bar.
                    left = (time.monotonic() - start) * (proj.num_steps - step) / step
                    print(f'Step {step} / {proj.num_steps}: distance {distance:.4f}, about {format_time(left)} left')
    finally:
        bar.close()
        for film in films:
            film.close()


def _keep(proj, run_dir, batch, found, start_distances, settings, keep_noises):
    """Write the pictures of what the projector has found for `batch`, and dlatents.npz with it and what was found before."""
    n = len(batch)
    distances, images = proj.get_distances()[:n], proj.get_images()[:n]
    for target, image, distance, start_distance in zip(batch, images, distances, start_distances):
        _save(run_dir, f'{target.name}-final.png', image)
        _save(run_dir, f'{target.name}-side-by-side.png', np.concatenate([target.image, image], axis=2))
        print(f'{target.name}: distance {distance:.4f}, {start_distance:.4f} at the start')
    part = dlatents.Dlatents(
        names=[target.name for target in batch], w=proj.get_dlatents()[:n],
        noises=[noise[:n] for noise in proj.get_noises()] if keep_noises else None, distances=distances,
        start_distances=start_distances[:n], steps=np.full([n], proj.get_cur_step()), sources=[target.source for target in batch],
        settings=settings)
    found = part if found is None else found.joined(part)
    found.save(os.path.join(run_dir, 'dlatents.npz'))
    return found


def _read_init(settings, Gs, count):
    """Latents to begin at, [count or 1, layers or 1, dlatent]; None = the mean of W."""
    if settings.init == 'mean':
        return None
    w = dlatents.load(settings.init, Gs).w
    if len(w) not in (1, count):
        raise UserError(f'--init: {settings.init} has the latents of {len(w)} images, expected 1 or {count}, as there are images',
                        'Choose another file, or --init=mean.')
    if settings.wplus:
        return w
    if not (w == w[:, :1]).all():
        raise UserError(f'--init: {settings.init} has a latent for each layer, expected the same for all', 'Add --wplus.')
    return w[:, :1]


def _save(run_dir, name, image):
    """[C, H, W], about [-1, 1] -> PNG."""
    misc.save_image_grid(image[np.newaxis], os.path.join(run_dir, name), drange=[-1, 1])
