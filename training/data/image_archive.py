"""Datasets in the format of StyleGAN2-ADA and its successors: PNG files in a .zip or a folder, with their labels.

    00000/img00000000.png    uncompressed PNG; the folder is named after the first 5 of 8 digits
    dataset.json             {"labels": [["00000/img00000000.png", 3], ...]}; a label is the number of a class or a list
                             of numbers. {"labels": null} = there are none
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import PIL.Image

from dnnlib import storage
from dnnlib.cli import UserError

LABEL_FILE = 'dataset.json'
_FOLDER_FILES = r'\d{5,}|img\d{8,}\.png|dataset\.json'  # Names in a folder of this format.
_DATE = (1980, 1, 1, 0, 0, 0)  # Of the files in a .zip, so that the same images give the same bytes.


def write(path: str, images: Iterable[PIL.Image.Image], labels: np.ndarray | None, as_zip: bool,
          force: bool = False) -> None:
    """Write images and their labels. The .zip or folder appears complete or not at all.

    Args:
        path:   File or folder to make.
        images: Images in mode L or RGB.
        labels: float32 [number of images, label_size]. None = there are none.
        as_zip: Write a .zip? Otherwise a folder.
        force:  Replace an existing .zip, or a folder of this format?

    Raises:
        UserError: There is something at `path` that must not be replaced.
    """
    if not as_zip:
        with storage.new_folder(path, _FOLDER_FILES, force) as folder:
            def add(name: str, data: bytes) -> None:
                target = os.path.join(folder, *name.split('/'))
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with open(target, 'wb') as file:
                    file.write(data)
            _write_files(add, images, labels)
        return
    if os.path.isdir(path) or (os.path.lexists(path) and not force):
        raise UserError(f'{path} exists', 'Give another name, or --force to replace a file.')
    with storage.new_file(path) as part, zipfile.ZipFile(part, 'w') as archive:
        _write_files(lambda name, data: archive.writestr(zipfile.ZipInfo(name, _DATE), data), images, labels)


def _write_files(add: Callable[[str, bytes], object], images: Iterable[PIL.Image.Image],
                 labels: np.ndarray | None) -> None:
    """Call `add` with name and content of each file."""
    names = []
    for index, image in enumerate(images):
        digits = f'{index:08d}'
        names.append(f'{digits[:5]}/img{digits}.png')
        data = io.BytesIO()
        image.save(data, 'png', compress_level=0, optimize=False)
        add(names[-1], data.getvalue())
    add(LABEL_FILE, label_file(names, labels))


def label_file(names: Sequence[str], labels: np.ndarray | None) -> bytes:
    """Content of LABEL_FILE for images of these names, and labels as of `write`."""
    pairs = None if labels is None else [[name, label] for name, label in zip(names, _plain(labels), strict=True)]
    return json.dumps({'labels': pairs}).encode()


def _plain(labels: np.ndarray) -> Iterator[int | list[float]]:
    """Numbers of classes if the labels are one-hot, otherwise lists of numbers."""
    classes = labels.argmax(axis=1)
    # Readers make as many columns as the largest number says.
    if len(labels) and np.array_equal(np.eye(classes.max() + 1)[classes], labels):
        yield from classes.tolist()
    else:
        yield from labels.tolist()
