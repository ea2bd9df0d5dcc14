"""The commands find-directions, edit-images and name-direction of run_generator.py."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw

import pretrained_networks
from dnnlib.cli import UserError
from dnnlib.progress import ProgressBar
from dnnlib.tflib import Network
from latents import directions as directions_module
from latents import dlatents, pictures
from latents.directions import Directions
from latents.options import TRUNCATION_PSI
from training import misc

_NUM_DIRECTIONS = 20
_SHEET_IMAGES = 3
_SHEET_STRENGTHS = (-3, -2, -1, 0, 1, 2, 3)  # In units of sigma.
_CELL = 128    # Larger pictures are scaled down to this height on the sheet.
_MARGIN = 110  # Width of the captions of its rows.


def find_directions(run_dir: str, network_pkl: str, keyframes: Sequence[int | str] = (0, 1, 2), method: str = 'sefa',
                    layers: Sequence[int] | None = None, num: int | None = None, num_samples: int = 100_000,
                    positive: str | None = None, negative: str | None = None, labels: str | None = None,
                    truncation_psi: float = 0.5, class_idx: int | None = None, precision: str = 'float32',
                    impl: str | None = None, tf32: bool = False) -> None:
    """Write directions.npz and sheet.png, in which each direction has a row.

    If the network has no W, the directions are in Z: those of sefa belong to the weights of the first layer.

    Args:
        run_dir:        Folder for both.
        network_pkl:    Path, URL or 'gdrive:networks/...' of a (G, D, Gs) pickle.
        keyframes:      Seeds and files of latents. The first three images are shown on the sheet. With `labels` these
                        are what is labelled.
        method:         One of options.METHODS.
        layers:         Layers of W whose modulation weights count (sefa), and to which the directions are to be added.
                        None = all.
        num:            Number of directions, for sefa and pca. None = 20, or as many as W has numbers.
        num_samples:    Number of random latents for the covariance of W.
        positive:       For svm: dlatents.npz, or the folder that it is in, of images with the property.
        negative:       The same of images without it.
        labels:         For svm, instead of the two: CSV file of names and 1 or 0.
        truncation_psi: Truncation of the seeds on the sheet.
        class_idx:      Class of the seeds and of the random latents. None = a zero label vector.
        precision:      Key of PRECISIONS, for the sheet.
        impl:           Form of the custom ops: 'auto', 'native' or 'ref'. None = the one set already.
        tf32:           Allow TF32 on GPUs?

    Raises:
        UserError: The arguments do not fit together, a file cannot be read or written, or the network does not have the
                   layers or the class.
    """
    if method == 'svm' and num is not None:
        raise UserError(f'--num={num}: --method=svm finds one direction', 'Leave --num out.')
    sets = _checked_sets(method, positive, negative, labels)
    table = read_labels(labels) if labels is not None else {}
    for path in (*sets, *(key for key in keyframes if isinstance(key, str))):
        dlatents.require_file(path)
    Gs = pretrained_networks.load_generator(network_pkl, impl, tf32, precision)
    pictures.psi_kwargs(Gs, truncation_psi, TRUNCATION_PSI)
    space = 'w' if misc.has_w(Gs) else 'z'
    if space == 'z' and method == 'pca':
        raise UserError('--method=pca: the network is of ProGAN, which has no W, and Z varies alike in all directions',
                        'Choose --method=sefa or --method=svm.')
    label = pictures.one_hot(Gs, class_idx)
    num_layers, size = pictures.latent_shape(Gs)
    layers = list(range(num_layers)) if layers is None else sorted(set(layers))
    pictures.check_layers('--layers', layers, num_layers)
    num = min(_NUM_DIRECTIONS, size) if num is None else num
    if num > size:
        raise UserError(f'--num={num}: {space.upper()} of this network has {size} numbers, and as many directions',
                        f'Choose at most {size}.')
    if method == 'svm':
        if sets:
            misc.require_w(Gs, '--positive')
        parts = _labelled(Gs, keyframes, table, labels, layers, label) if table else [
            dlatents.load(path, Gs).w[:, layers].mean(axis=1) for path in sets]
        vector, accuracy = directions_module.separating_direction(*parts)
        print(f'{accuracy:.1%} of {len(parts[0])} latents with the property and {len(parts[1])} without it are on '
              'their side of the plane.')
        vectors, shares = vector[np.newaxis], np.array([np.nan])
    # Z is standard normal.
    cov = np.eye(size) if space == 'z' else directions_module.covariance_of_w(Gs, num_samples, label)
    if method != 'svm':
        vectors, shares = directions_module.computed(Gs, method, layers, num, cov, str(network_pkl))
    found = directions_module.make(
        vectors, shares, layers, num_layers, cov,
        dict(network=str(network_pkl), method=method, num_samples=num_samples, class_idx=class_idx, space=space))
    path = os.path.join(run_dir, 'directions.npz')
    found.save(path)
    print(f'Wrote {len(found)} directions to {path}')
    shown = itertools.islice(pictures.latents_of(Gs, keyframes, truncation_psi, label), _SHEET_IMAGES)
    pictures.save(sheet(Gs, found, [*shown], precision, label), os.path.join(run_dir, 'sheet.png'))
    print(f'Wrote {os.path.join(run_dir, "sheet.png")}')


def edit_images(run_dir: str, network_pkl: str, keyframes: Sequence[int | str], directions: str,
                strengths: Sequence[tuple[str, float]], layers: Sequence[int] | None = None,
                truncation_psi: float = 0.5, class_idx: int | None = None, precision: str = 'float32',
                impl: str | None = None, tf32: bool = False) -> None:
    """Write seed0012.png for each seed and NAME.png for each projected image, moved along directions in W.

    With strengths of 0 they are the pictures of generate-images.

    Args:
        run_dir:        Folder for the pictures.
        network_pkl:    Path, URL or 'gdrive:networks/...' of a (G, D, Gs) pickle.
        keyframes:      Seeds and files of latents.
        directions:     File of directions.
        strengths:      Pairs (name or number of a direction, strength in units of its sigma).
        layers:         Layers of W to change. None = those of each direction.
        truncation_psi: Truncation of the seeds, before they are moved.
        class_idx:      Class of the seeds. None = a zero label vector.
        precision:      Key of PRECISIONS.
        impl:           Form of the custom ops: 'auto', 'native' or 'ref'. None = the one set already.
        tf32:           Allow TF32 on GPUs?

    Raises:
        UserError: As find_directions; or there is no such direction.
    """
    found = directions_module.load(directions)
    indices = [found.index(name) for name, _ in strengths]
    twice = [name for (name, _), index in zip(strengths, indices) if indices.count(index) > 1]
    if twice:
        raise UserError(f'--set: direction {twice[0]} is there twice', 'Give each direction once.')
    for path in (key for key in keyframes if isinstance(key, str)):
        dlatents.require_file(path)
    Gs = pretrained_networks.load_generator(network_pkl, impl, tf32, precision)
    pictures.psi_kwargs(Gs, truncation_psi, TRUNCATION_PSI)
    found.check_fits(Gs, directions)
    label = pictures.one_hot(Gs, class_idx)
    if layers is not None:
        pictures.check_layers('--layers', layers, pictures.latent_shape(Gs)[0])
    offset = found.offset(dict(zip(indices, (strength for _, strength in strengths))), layers)
    names: set[str] = set()
    # How many images a file has is known when it is read.
    total = len(keyframes) if all(isinstance(key, int) for key in keyframes) else None
    with ProgressBar('Image', total) as progress:
        for name, w, noises in pictures.latents_of(Gs, keyframes, truncation_psi, label):
            number = next(n for n in itertools.count() if (f'{name}_{n}' if n else name) not in names)
            name = f'{name}_{number}' if number else name  # Images of the same name in two files are two images.
            names.add(name)
            picture, = pictures.synthesize(Gs, (w + offset)[np.newaxis], noises, precision, label)
            pictures.save(picture, os.path.join(run_dir, f'{name}.png'))
            progress.update()
    print(f'Wrote {len(names)} pictures to {run_dir}')


def name_direction(directions: str, names: Sequence[tuple[str, str]]) -> None:
    """Give directions in a file other names.

    Args:
        directions: File of directions, which is written anew.
        names:      Pairs (name or number, new name).

    Raises:
        UserError: The file cannot be read or written, there is no such direction, or a name is there twice.
    """
    found = directions_module.load(directions)
    for which, name in names:
        directions_module.check_name(name)
        found.names[found.index(which)] = name
        if found.names.count(name) > 1:
            raise UserError(f'{directions}: there are two directions {name}', 'Choose another name.')
    found.save(directions)
    print(f'Named {", ".join(f"{which}: {name}" for which, name in names)} in {directions}')


# ---- Parts of them ----

def _checked_sets(method: str, positive: str | None, negative: str | None, labels: str | None) -> list[str]:
    """Files of the two sets of latents; [] if there are none. A UserError if the arguments do not fit the method."""
    given = [flag for flag, value in (('--positive', positive), ('--negative', negative), ('--labels', labels))
             if value is not None]
    if method != 'svm':
        if given:
            raise UserError(f'{given[0]}: has no effect with --method={method}', 'Choose --method=svm.')
        return []
    if given not in (['--labels'], ['--positive', '--negative']):
        raise UserError(f'--method=svm: expected --positive and --negative, or --labels, found '
                        f'{" and ".join(given) or "none of them"}',
                        'Give two files of latents, or a table of labels.')
    return [os.path.join(path, 'dlatents.npz') if os.path.isdir(path) else path
            for path in (positive, negative) if path is not None]


def read_labels(path: str) -> dict[str, bool]:
    """The table {name: has the property?} of a CSV file with lines such as 'seed0012,1' and 'portrait,0'.

    Raises:
        UserError: The file cannot be read or is something else, or has not both kinds.
    """
    remedy = "Give lines of a name and 1 or 0, such as 'seed0012,1'."
    table: dict[str, bool] = {}
    try:
        with open(path, encoding='utf-8', newline='') as file:
            for number, row in enumerate(csv.reader(file), 1):
                if row and (len(row) != 2 or row[1].strip() not in ('0', '1')):
                    raise UserError(f'{path}: line {number} is no label', remedy)
                if row:
                    table[row[0].strip()] = row[1].strip() == '1'
    except (UnicodeDecodeError, csv.Error) as err:
        raise UserError(f'{path} is no table of labels: {err}', remedy) from err
    except OSError as err:
        raise UserError(f'{path}: cannot be read: {err.strerror}', remedy) from err
    if len(set(table.values())) < 2:
        raise UserError(f'{path}: expected names with 1 and names with 0, found {len(table)} of one kind', remedy)
    return table


def _labelled(Gs: Network, keyframes: Sequence[int | str], table: dict[str, bool], path: str | None,
              layers: Sequence[int], label: np.ndarray | None) -> list[np.ndarray]:
    """The mean over some layers of the latents with label 1, and of those with label 0."""
    sets: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for name, w, _ in pictures.latents_of(Gs, keyframes, 1.0, label):
        if name in table:
            sets[table[name]].append(w[layers].mean(axis=0))
    if not all(sets.values()):
        raise UserError(f'{path}: labels {len(sets[True])} of the seeds and images with 1, {len(sets[False])} with 0',
                        'Name seeds as seed0012, and give them and the images with --seeds and --dlatents.')
    return [np.stack(sets[True]), np.stack(sets[False])]


def sheet(Gs: Network, found: Directions, latents: Sequence[tuple[str, np.ndarray, object]],
          precision: str = 'float32', label: np.ndarray | None = None) -> PIL.Image.Image:
    """A picture with a row for each direction: each image, moved by -3 to 3 sigma.

    Args:
        Gs:        Generator.
        found:     Directions.
        latents:   (name, w, noises) of each image, see pictures.latents_of.
        precision: Key of PRECISIONS.
        label:     [1, classes], for a network without W. None = zeros.
    """
    size = Gs.output_shape[2]
    cell = min(size, _CELL) * max(64 // size, 1)
    gap, top = cell // 8, 20
    block = len(_SHEET_STRENGTHS) * cell + gap
    canvas = PIL.Image.new('RGB', (_MARGIN + len(latents) * block, top + len(found) * cell), 'white')
    draw = PIL.ImageDraw.Draw(canvas)
    for idx, (name, _, _) in enumerate(latents):
        draw.text((_MARGIN + idx * block, 4), f'{name[:30]}  -3 to 3 sigma', 'black')
    with ProgressBar('Sheet', len(found) * len(latents), 'row') as progress:
        for row in range(len(found)):
            share = '' if np.isnan(found.shares[row]) else f'  {found.shares[row]:.1%}'
            draw.text((4, top + row * cell + cell // 2 - 6), f'{found.names[row] or row}{share}', 'black')
            for idx, (_, w, noises) in enumerate(latents):
                moved = np.stack([w + found.offset({row: strength}) for strength in _SHEET_STRENGTHS])
                for column, picture in enumerate(pictures.synthesize(Gs, moved, noises, precision, label)):
                    resample = PIL.Image.Resampling.NEAREST if size < cell else PIL.Image.Resampling.BOX
                    canvas.paste(picture.convert('RGB').resize((cell, cell), resample),
                                 (_MARGIN + idx * block + column * cell, top + row * cell))
                progress.update()
    return canvas
