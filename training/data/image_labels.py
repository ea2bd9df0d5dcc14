"""Labels of image files: from the names of their folders, a .json or a .csv.

A label is the name of a class, the number of a class (from 0), or a list of numbers. Classes become one-hot vectors, names in
the order of their code points; lists of numbers stay as they are. The forms do not mix.

    labels.json    {"cats/1.png": "cat", "dogs/2.png": "dog"}; or {"labels": [["cats/1.png", 0], ["dogs/2.png", 1]]}
    labels.csv     cats/1.png,cat      or   cats/1.png,0      or   cats/1.png,0.5,0.25      (a first line of titles may be there)
"""

import collections
import csv
import io
import json

import numpy as np

from dnnlib import storage
from dnnlib.cli import UserError
from training.data.pil_ops import first_line

_MAX_CLASSES = 10_000  # A larger number is more likely a mistake than a class.
_LARGEST = 3e38        # float32 holds no more.


def load(labels, names):
    """Labels of images.

    Args:
        labels: 'folders', or a file that ends in .json or .csv.
        names:  Paths of the images, relative to the folder that was named.

    Returns:
        (float32 [len(names), label_size], list of the names of the classes or None where there are none).
    """
    if labels == 'folders':
        return _of_folders(names)
    return _to_table(labels, names, _read_label_file(labels, names))


def _of_folders(names):
    outside = [name for name in names if '/' not in name]
    if outside:
        raise UserError(f'--labels=folders: {outside[0]} and {len(outside) - 1} more images are in no folder',
                        'Put each image into the folder of its class.')
    if len({name.split('/')[0] for name in names}) == 1:  # An archive often holds everything in one folder.
        stripped = [name.split('/', 1)[1] for name in names]
        if all('/' in name for name in stripped):
            return _of_folders(stripped)
        raise UserError(f'--labels=folders: all images are in one folder, {names[0].split("/")[0]}',
                        'Name the folder above those of the classes.')
    return _one_hot([name.split('/')[0] for name in names])


def _one_hot(classes):
    """Names of the classes of the images -> (labels, names)."""
    class_names = sorted(set(classes))
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = np.zeros([len(classes), len(class_names)], np.float32)
    labels[np.arange(len(classes)), [numbers[name] for name in classes]] = 1
    return labels, class_names


def _read_label_file(path, names):
    """A label file -> list of (name of an image, label: str, int, or list of numbers)."""
    if not storage.is_file(path):
        raise UserError(f'label file {path} not found', 'Give --labels=folders, or the path of a .json or .csv file.')
    with storage.open_file(path) as file:
        content = file.read()
    try:
        text = content.decode('utf-8-sig')
        if path.lower().endswith('.json'):
            return _pairs_of_json(path, json.loads(text))
        if path.lower().endswith('.csv'):
            return _pairs_of_csv(path, list(csv.reader(io.StringIO(text), strict=True)), set(names))
    except (ValueError, csv.Error, RecursionError) as err:
        raise UserError(f'{path} is no label file that can be read: {first_line(err)}', 'Mend or export it again, in UTF-8.') from err
    raise UserError(f'{path}: expected a label file that ends in .json or .csv', 'Name it so, or give --labels=folders.')


def _pairs_of_json(path, content):
    if isinstance(content, dict) and isinstance(content.get('labels'), list):
        pairs = content['labels']
        if not all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
            raise UserError(f'{path}: expected "labels" to be a list of [name of the image, label]', 'Mend the file.')
        return [tuple(pair) for pair in pairs]
    if not isinstance(content, dict):
        raise UserError(f'{path}: expected an object of names and labels, found a {type(content).__name__}', 'Mend the file.')
    return list(content.items())


def _pairs_of_csv(path, rows, names):
    rows = [row for row in rows if row]
    if rows and rows[0][0] not in names:  # titles
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
        raise UserError(f'{path}: expected one name of a class in each line, or numbers only', 'Mend the file.') from None


def _to_table(path, names, pairs):
    """The labels in the order of `names`, all of one form."""
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
        return _one_hot(labels)
    if all(type(label) is int for label in labels):
        if min(labels) < 0 or max(labels) >= _MAX_CLASSES:
            wrong = min(labels) if min(labels) < 0 else max(labels)
            raise UserError(f'{path}: {names[labels.index(wrong)]} is of class {wrong}, expected 0 to {_MAX_CLASSES - 1}', 'Mend the file.')
        table = np.zeros([len(labels), max(labels) + 1], np.float32)
        table[np.arange(len(labels)), labels] = 1
        return table, None
    for name, label in zip(names, labels):
        if not isinstance(label, list) or not label or not all(type(value) in (int, float) for value in label):
            raise UserError(f'{path}: the label of {name} is {str(label)[:50]!r}, unlike the others or of no known form',
                            'Give for each image the name of a class, or its number, or a list of numbers.')
        if len(label) != len(labels[0]):
            raise UserError(f'{path}: the label of {name} has {len(label)} numbers, that of {names[0]} {len(labels[0])}', 'Mend the file.')
        if not all(abs(value) < _LARGEST for value in label):
            raise UserError(f'{path}: the label of {name} has a value that is not finite (NaN or infinity)', 'Mend the file.')
    return np.array(labels, np.float32), None
