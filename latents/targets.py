"""The images to project: drawn from seeds, read from a dataset, or from files of the user's."""

import itertools
import typing

import numpy as np

from dnnlib.cli import UserError
from latents import align_faces
from training import dataset, misc
from training.data import image_folder
from training.data.pil_ops import crop_and_resize, to_chw


class Target(typing.NamedTuple):
    name:   str         # First part of the names of its pictures.
    source: str         # Where it came from.
    image:  np.ndarray  # float32 [C, H, W], about [-1, 1]


def generated_targets(Gs, seeds, truncation_psi):
    """Yield the Targets of seeds, each when it is needed."""
    for seed in seeds:
        yield Target(f'seed{seed:04d}', f'seed {seed}', misc.image_of_seed(Gs, seed, truncation_psi=truncation_psi)[0])


def real_targets(Gs, dataset_name, data_dir, num_images, images, align):
    """List of Targets. All are read before the first is projected: an hour into the work is too late for a damaged file."""
    if images is not None:
        return targets_of_files(Gs, images, align, num_images)
    print(f'Loading images from "{dataset_name}"...')
    reals = dataset.load_dataset(data_dir=data_dir, tfrecord_dir=dataset_name, max_label_size=0, repeat=False, shuffle_mb=0)
    if reals.shape != Gs.output_shape[1:]:
        raise UserError(f'--dataset: its images are {_size(reals.shape)}, those of the network {_size(Gs.output_shape[1:])}',
                        'Choose the dataset that the network was trained on, or name files with --images.')
    num_images = num_images or 3
    if num_images > reals.num_images:
        raise UserError(f'--num-images={num_images}: {dataset_name} has {reals.num_images} images', 'Ask for fewer.')
    batches = itertools.islice(reals.iterate(1), num_images)
    return [Target(f'image{idx:04d}', f'{dataset_name} {idx}', _to_float(images.numpy()[0])) for idx, (images, _) in enumerate(batches)]


def targets_of_files(Gs, paths, align, num_images):
    """List of Targets, cut and scaled to the size of the network."""
    channels, size, _ = Gs.output_shape[1:]
    detect = align_faces.load_detector() if align else None
    targets = []
    for title, image in itertools.islice(image_folder.iterate_images(paths, 3 if align else channels), num_images):
        if align:
            image = _align(image, detect, title, size)
        elif image.size != (size, size):
            side = min(image.size)
            cut = f'the {side}x{side} square in its middle is ' if image.width != image.height else ''
            print(f'{title} is {image.width}x{image.height}: {cut}scaled to {size}x{size}.')
            image = crop_and_resize(image, size)
        image = to_chw(image.convert('L' if channels == 1 else 'RGB'))
        targets.append(Target(f'image{len(targets):04d}', title, _to_float(image)))
    return targets


def _align(image, detect, title, size):
    faces = detect(image)
    if not faces:
        raise UserError(f'--align: found no face in {title}', 'Leave it out, or cut out the face yourself and leave --align out.')
    print(f'{title}: {len(faces)} faces, the largest is taken.' if len(faces) > 1 else f'{title}: one face.')
    return align_faces.align_face(image, faces[0], size)


def _to_float(image):
    return misc.adjust_dynamic_range(image.astype(np.float32), [0, 255], [-1, 1])


def _size(shape):
    return f'{shape[2]}x{shape[1]} with {shape[0]} channels'
