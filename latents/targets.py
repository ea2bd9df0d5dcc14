"""The images to project: generated from seeds, read from a dataset, or from image files."""

from __future__ import annotations

import itertools
import os
import re
import typing
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from dnnlib.cli import UserError
from dnnlib.tflib import Network
from latents import align_faces
from training import dataset, misc
from training.data import image_folder
from training.data.pil_ops import crop_and_resize, to_chw

_MAX_NAME_BYTES = 200  # File systems allow 255, which must be enough for endings such as '-side-by-side.png', too.


class Target(typing.NamedTuple):
    """An image to project."""
    name:   str         # First part of the names of its pictures.
    source: str         # Where it came from, for people.
    image:  np.ndarray  # float32 [C, H, W], about -1..1.


def generated_targets(Gs: Network, seeds: Sequence[int], truncation_psi: float) -> Iterator[Target]:
    """Yield the images of seeds. Each is generated when it is needed."""
    for seed in seeds:
        image = misc.image_of_seed(Gs, seed, truncation_psi=truncation_psi)[0]
        yield Target(f'seed{seed:04d}', f'seed {seed}', image)


def real_targets(Gs: Network, dataset_name: str | None, data_dir: str, num_images: int | None,
                 images: Sequence[str] | None, align: bool) -> list[Target]:
    """Read images of a dataset or image files.

    All are read before the first is projected: an hour later would be too late to report a damaged file.

    Args:
        Gs:           Network; the images have its resolution and channels.
        dataset_name: Folder of the dataset in `data_dir`. None = take `images`.
        data_dir:     Folder of the datasets.
        num_images:   Number of images, from the first on. None = 3 of a dataset, or all files.
        images:       Image files, folders and .zip archives. None = take the dataset.
        align:        Cut out faces as in FFHQ? Only for `images`.

    Raises:
        UserError: The images are missing or damaged, or do not fit the network.
    """
    if images is not None:
        return targets_from_files(Gs, images, align, num_images)
    assert dataset_name is not None  # The command line requires one of the two.
    print(f'Loading images from "{dataset_name}"...')
    reals = dataset.load_dataset(data_dir=data_dir, tfrecord_dir=dataset_name, max_label_size=0, repeat=False,
                                 shuffle_mb=0)
    if reals.shape != Gs.output_shape[1:]:
        raise UserError(f'--dataset: its images are {_size_text(reals.shape)}, '
                        f'those of the network {_size_text(Gs.output_shape[1:])}',
                        'Choose the dataset that the network was trained on, or name files with --images.')
    num_images = num_images or 3
    if num_images > reals.num_images:
        raise UserError(f'--num-images={num_images}: {dataset_name} has {reals.num_images} images', 'Ask for fewer.')
    batches = itertools.islice(reals.iterate(1), num_images)
    return [Target(f'image{index:04d}', f'{dataset_name} {index}', _to_float(image.numpy()[0]))
            for index, (image, _label) in enumerate(batches)]


def targets_from_files(Gs: Network, paths: Sequence[str], align: bool, num_images: int | None) -> list[Target]:
    """Read image files, cropped and scaled to the resolution of the network.

    Args:
        Gs:         Network.
        paths:      Image files, folders and .zip archives.
        align:      Cut out faces as in FFHQ? False = crop to the square in the middle.
        num_images: Number of images, from the first on. None = all.

    Raises:
        UserError: A file is missing or damaged, or there is no face in it.
    """
    channels, size, _ = Gs.output_shape[1:]
    detect = align_faces.load_detector() if align else None
    targets = []
    for title, image in itertools.islice(image_folder.iterate_images(paths, 3 if align else channels), num_images):
        if detect:
            image = _align(image, detect, title, size)
        elif image.size != (size, size):
            side = min(image.size)
            crop = f'the {side}x{side} square in its middle is ' if image.width != image.height else ''
            print(f'{title} is {image.width}x{image.height}: {crop}scaled to {size}x{size}.')
            image = crop_and_resize(image, size)
        image = to_chw(image.convert('L' if channels == 1 else 'RGB'))
        targets.append(Target(picture_name(title), title, _to_float(image)))
    return targets


# ---- Names ----

def picture_name(title: str) -> str:
    """First part of the names of the pictures of an image file: the file's name without its ending.

    Letters of any language, digits, '_', '-' and '.' are kept, and all else becomes '_'. The name does not begin with
    '.' or '-', because such a file would be hidden or look like a flag.

    Args:
        title: Path of the file, or 'ARCHIVE: PATH' of a member of a .zip.
    """
    stem = os.path.splitext(re.split(r'[/\\]|\.(?i:zip): ', title)[-1])[0]
    name = re.sub(r'[^\w.-]+', '_', stem).lstrip('.-')
    return name.encode()[:_MAX_NAME_BYTES].decode(errors='ignore') or 'image'


def with_unique_names(targets: Iterable[Target]) -> Iterator[Target]:
    """Yield targets, each with a name of its own: the second 'portrait' becomes 'portrait-2'.

    Upper and lower case count as equal, as they do on the file systems of Windows and macOS.
    """
    taken: set[str] = set()
    for target in targets:
        name = target.name
        for number in itertools.count(2):
            if name.casefold() not in taken:
                break
            name = f'{target.name}-{number}'
        taken.add(name.casefold())
        yield target._replace(name=name)


def _align(image, detect, title, size):
    faces = detect(image)
    if not faces:
        raise UserError(f'--align: found no face in {title}',
                        'Leave it out, or cut out the face yourself and leave --align out.')
    print(f'{title}: {len(faces)} faces, the largest is taken.' if len(faces) > 1 else f'{title}: one face.')
    return align_faces.align_face(image, faces[0], size)


def _to_float(image):
    """uint8 -> float32, -1..1."""
    return misc.adjust_dynamic_range(image.astype(np.float32), [0, 255], [-1, 1])


def _size_text(shape):
    return f'{shape[2]}x{shape[1]} with {shape[0]} channels'
