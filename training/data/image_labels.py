"""Labels of image files: from the names of their folders, a .json or a .csv.

A label is the name of a class, the number of a class (from 0), or a list of numbers. Classes become one-hot vectors,
named classes sorted by code point; lists of numbers are stored as they are. All labels must have the same form.

    labels.json    {"cats/1.png": "cat", "dogs/2.png": "dog"}; or {"labels": [["cats/1.png", 0], ["dogs/2.png", 1]]}
    labels.csv     cats/1.png,cat   or   cats/1.png,0   or   cats/1.png,0.5,0.25   (the first line may be a header)
"""

from __future__ import annotations

import collections
import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import IO

import numpy as np

from dnnlib import storage
from dnnlib.cli import UserError
from training.data.pil_ops import first_line

_MAX_CLASSES = 10_000  # A larger number is more likely a mistake than a class.
_LARGEST = 3e38        # About the largest number of float32.


def load(labels: str, names: Sequence[str], read: Callable[[str], IO[bytes]] | None = None,
         ) -> tuple[np.ndarray, list[str] | None]:
    """Load the labels of images.

    Args:
        labels: 'folders', or a file that ends in .json or .csv.
        names:  Paths of the images, relative to the folder that was given, with slashes.
        read:   Opens the file `labels` where the images are. None = it is a file like any other.

    Returns:
        (float32 [len(names), label_size], names of the classes; None if they have no names).

    Raises:
        UserError: The file cannot be read, or does not have one label of the same form for each image.
    """
    if labels == 'folders':
        return _labels_of_folders(names)
    return _to_table(labels, names, _read_label_file(labels, names, read))


def _labels_of_folders(names):
    outside = [name for name in names if '/' not in name]
    if outside:
        raise UserError(f'--labels=folders: {outside[0]} and {len(outside) - 1} more images are in no folder',
                        'Put each image into the folder of its class.')
    if len({name.split('/')[0] for name in names}) == 1:  # An archive often holds everything in one folder.
        stripped = [name.split('/', 1)[1] for name in names]
        if all('/' in name for name in stripped):
            return _labels_of_folders(stripped)
        raise UserError(f'--labels=folders: all images are in one folder, {names[0].split("/")[0]}',
                        'Name the folder above those of the classes.')
    return _one_hot_of_names([name.split('/')[0] for name in names])


def _one_hot_of_names(classes):
    """Names of the classes of the images -> (labels, names)."""
    class_names = sorted(set(classes))
    numbers = {name: number for number, name in enumerate(class_names)}
    return _one_hot([numbers[name] for name in classes], len(class_names)), class_names


def _one_hot(numbers, num_classes):
    labels = np.zeros([len(numbers), num_classes], np.float32)
    labels[np.arange(len(numbers)), numbers] = 1
    return labels


# ---- Files ----

def _read_label_file(path, names, read):
    """A label file -> list of (name of an image, label: str, int, or list of numbers)."""
    if read is None:
        if not storage.is_file(path):
            raise UserError(f'label file {path} not found',
                            'Give --labels=folders, or the path of a .json or .csv file.')
        read = storage.open_file
    with read(path) as file:
        content = file.read()
    try:
        text = content.decode('utf-8-sig')
        if path.lower().endswith('.json'):
            return _pairs_of_json(path, json.loads(text))
        if path.lower().endswith('.csv'):
            return _pairs_of_csv(path, list(csv.reader(io.StringIO(text), strict=True)), set(names))
    except (ValueError, csv.Error, RecursionError) as err:
        raise UserError(f'{path} is no label file that can be read: {first_line(err)}',
                        'Correct it, or export it again in UTF-8.') from err
    raise UserError(f'{path}: expected a label file that ends in .json or .csv',
                    'Name it so, or give --labels=folders.')


def _pairs_of_json(path, content):
    if isinstance(content, dict) and isinstance(content.get('labels'), list):
        pairs = content['labels']
        if not all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
            raise UserError(f'{path}: expected "labels" to be a list of [name of the image, label]',
                            'Correct the file.')
        return [tuple(pair) for pair in pairs]
    if isinstance(content, dict) and 'labels' in content and content['labels'] is None:
        raise UserError(f'{path}: its "labels" are null: there are none', 'Leave --labels out.')
    if not isinstance(content, dict):
        raise UserError(f'{path}: expected an object of names and labels, found a {type(content).__name__}',
                        'Correct the file.')
    return list(content.items())


def _pairs_of_csv(path, rows, names):
    rows = [row for row in rows if row]
    if rows and rows[0][0] not in names:  # A header.
        rows = rows[1:]
    pairs = []
    for name, *cells in rows:
        if not cells or not all(cells):
            raise UserError(f'{path}: {name} has no label, or an empty one', 'Write in each line: name,label')
        pairs.append((name, cells))
    if all(len(cells) == 1 and cells[0].isdecimal() for _, cells in pairs):
        return [(name, int(cells[0])) for name, cells in pairs]
    try:
        return [(name, [float(cell) for cell in cells]) for name, cells in pairs]
    except ValueError:
        if all(len(cells) == 1 for _, cells in pairs):
            return [(name, cells[0]) for name, cells in pairs]
        raise UserError(f'{path}: expected one name of a class in each line, or numbers only',
                        'Correct the file.') from None


# ---- From labels to a table ----

def _to_table(path, names, pairs):
    """The labels in the order of `names`: what `load` returns."""
    repeated = [name for name, count in collections.Counter(name for name, _ in pairs).items() if count > 1]
    if repeated:
        raise UserError(f'{path} has {repeated[0]} more than once', 'Keep one label for each image.')
    by_name = dict(pairs)
    missing = [name for name in names if name not in by_name]
    if missing:
        raise UserError(f'{path}: {len(missing)} of {len(names)} images have no label, for instance {missing[0]}',
                        'Names are relative to the folder of the images, like cats/1.png.')
    labels = [by_name[name] for name in names]
    if all(type(label) is str for label in labels):
        return _one_hot_of_names(labels)
    if all(type(label) is int for label in labels):
        return _one_hot_of_numbers(path, names, labels), None
    return _table_of_vectors(path, names, labels), None


def _one_hot_of_numbers(path, names, numbers):
    if min(numbers) < 0 or max(numbers) >= _MAX_CLASSES:
        wrong = min(numbers) if min(numbers) < 0 else max(numbers)
        raise UserError(f'{path}: {names[numbers.index(wrong)]} is of class {wrong}, expected 0 to {_MAX_CLASSES - 1}',
                        'Correct the file.')
    return _one_hot(numbers, max(numbers) + 1)


def _table_of_vectors(path, names, labels):
    for name, label in zip(names, labels):
        if not isinstance(label, list) or not label or not all(type(value) in (int, float) for value in label):
            raise UserError(
                f'{path}: the label of {name} is {str(label)[:50]!r}, unlike the others or of no known form',
                'Give for each image the name of a class, or its number, or a list of numbers.')
        if len(label) != len(labels[0]):
            raise UserError(
                f'{path}: the label of {name} has {len(label)} numbers, that of {names[0]} {len(labels[0])}',
                'Correct the file.')
        if not all(abs(value) < _LARGEST for value in label):
            raise UserError(f'{path}: the label of {name} has a value that is not finite (NaN or infinity)',
                            'Correct the file.')
    return np.array(labels, np.float32)
