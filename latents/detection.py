"""How well projection tells generated images from real ones (StyleGAN2, Section 5, Figures 9 and 10): the distances of two sets."""

import csv
import json
import os

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from dnnlib import storage
from dnnlib.cli import UserError

SETS = ('generated', 'real')
_BINS = 30
_SIZE = (800, 480)
_MARGINS = (60, 60, 20, 50)  # left, top, right, bottom
_COLORS = {'generated': (31, 119, 180), 'real': (230, 85, 13)}


def separation(generated, real):
    """AUC: the chance that a real image is farther from its projection than a generated one; 0.5 = no difference, 1 = always."""
    from scipy import stats
    return float(stats.mannwhitneyu(real, generated).statistic) / (len(real) * len(generated))


def best_threshold(generated, real):
    """(distance, balanced accuracy) of the split that tells the sets apart best: up to it generated, above it real.

    The balanced accuracy is the mean of the parts of each set that are told right; the distance lies in the middle
    between two of those given.
    """
    values = np.unique(np.concatenate([generated, real]))
    splits = np.concatenate([(values[:-1] + values[1:]) / 2, values[-1:]])
    accuracy = ((np.asarray(generated) <= splits[:, None]).mean(axis=1) + (np.asarray(real) > splits[:, None]).mean(axis=1)) / 2
    return float(splits[accuracy.argmax()]), float(accuracy.max())


def write_csv(path, rows):
    """Write rows (name, set, distance, start distance, source); the file appears whole or not at all."""
    with storage.new_file(path) as part, open(part, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['name', 'set', 'distance', 'start_distance', 'source'])
        writer.writerows(rows)


def read_csv(path):
    """{'generated': distances [N], 'real': distances [M]} of such a file. Raises UserError if it is none."""
    try:
        with open(path, newline='', encoding='utf-8') as file:
            rows = list(csv.DictReader(file))
        found = {name: np.array([float(row['distance']) for row in rows if row['set'] == name]) for name in SETS}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as err:
        raise UserError(f'{path} cannot be read as the distances of a run: {(str(err) or type(err).__name__).splitlines()[0]}',
                        'Name the folder of a finished run of detect-generated.') from err
    for name in SETS:
        if not len(found[name]):
            raise UserError(f'{path}: expected distances of generated and of real images, found no {name} ones',
                            'Name the folder of a finished run of detect-generated.')
    return found


def draw_histogram(generated, real, path, label, image=None):
    """Picture of both distributions as PNG, like Figure 10.

    Args:
        generated: [N] distances.
        real:      [M] distances.
        path:      File name.
        label:     What the distance is called.
        image:     Distance of a single image, marked by a line. None = none.
    """
    sets = dict(zip(SETS, (generated, real)))
    values = np.concatenate([generated, real, [] if image is None else [image]])
    edges = np.linspace(0, values.max() * 1.02 or 1.0, _BINS + 1)
    parts = {name: np.histogram(values, edges)[0] / len(values) for name, values in sets.items()}
    picture = PIL.Image.new('RGB', _SIZE, 'white')
    draw = PIL.ImageDraw.Draw(picture, 'RGBA')
    font = PIL.ImageFont.load_default(14)
    left, top, right, bottom = _MARGINS[0], _MARGINS[1], _SIZE[0] - _MARGINS[2], _SIZE[1] - _MARGINS[3]
    highest = max(part.max() for part in parts.values())

    def at_x(distance):
        return left + (right - left) * distance / edges[-1]

    def at_y(part):
        return bottom - (bottom - top) * part / highest

    for name, part in parts.items():
        for low, high, height in zip(edges[:-1], edges[1:], part):
            if height:
                draw.rectangle([at_x(low), at_y(height), at_x(high) - 1, bottom], fill=(*_COLORS[name], 140), outline=_COLORS[name])
    draw.line([left, top, left, bottom, right, bottom], fill='black')
    for step in range(5):
        distance, part = edges[-1] * step / 4, highest * step / 4
        draw.text((at_x(distance), bottom + 6), f'{distance:.3g}', 'black', font, 'mt')
        draw.text((left - 6, at_y(part)), f'{part:.0%}', 'black', font, 'rm')
    draw.text(((left + right) / 2, _SIZE[1] - 6), label, 'black', font, 'mb')
    for row, (name, values) in enumerate(sets.items()):
        draw.rectangle([left + 10, 10 + 22 * row, left + 24, 24 + 22 * row], fill=(*_COLORS[name], 140), outline=_COLORS[name])
        draw.text((left + 32, 17 + 22 * row), f'{name}: {len(values)} images, median {np.median(values):.3g}', 'black', font, 'lm')
    draw.text((right, 17), f'AUC {separation(generated, real):.3f}', 'black', font, 'rm')
    if image is not None:
        draw.line([at_x(image), top, at_x(image), bottom], fill='black', width=2)
        draw.text((right, 39), f'line: the image, {image:.3g}', 'black', font, 'rm')
    with storage.new_file(path) as part:
        picture.save(part, 'png')


# ---- Reports ----

def read_reference(run_dir, how):
    """{'generated': distances, 'real': distances} of an earlier run, made in the same way."""
    path = os.path.join(run_dir, 'detection.json')
    try:
        with open(path, encoding='utf-8') as file:
            theirs = json.load(file)['how']
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise UserError(f'--reference: {path} cannot be read: {str(err).splitlines()[0]}',
                        'Name the folder of a finished run of detect-generated.') from err
    for key, value in how.items():
        if theirs.get(key) != value:
            raise UserError(f'--reference: {run_dir} was made with {key}={theirs.get(key)}, expected {value}',
                            'Distances compare only if they were found in the same way: give the same flags.')
    return read_csv(os.path.join(run_dir, 'distances.csv'))


def report_detection(run_dir, distances, suspect, image, how):
    """Print what the distances tell; write histogram.png and detection.json."""
    generated, real = (distances[name] for name in SETS)
    threshold, accuracy = best_threshold(generated, real)
    auc = separation(generated, real)
    report = dict(how=how, auc=auc, threshold=threshold, balanced_accuracy=accuracy)
    for name in SETS:
        values = distances[name]
        report[name] = dict(count=len(values), mean=float(np.mean(values)), median=float(np.median(values)))
        print(f'{name:<9}  {len(values)} images, distance {np.mean(values):.4f} on the average, median {np.median(values):.4f}')
    print(f'AUC {auc:.4f}: how often a real image is farther from its projection than a generated one')
    print(f'Best threshold {threshold:.4f}: tells {accuracy:.1%} right (mean of both sets)')
    if suspect is not None:
        verdict = 'generated' if suspect <= threshold else 'real'
        farther, closer = float(np.mean(generated >= suspect)), float(np.mean(real <= suspect))
        report['image'] = dict(source=image, distance=suspect, verdict=verdict, generated_farther=farther, real_closer=closer)
        print(f'{image}: distance {suspect:.4f}; {farther:.0%} of the generated images are as far or farther, '
              f'{closer:.0%} of the real ones as close or closer')
        print(f'It looks {"generated by this network" if verdict == "generated" else "not generated by this network"}.')
    draw_histogram(generated, real, os.path.join(run_dir, 'histogram.png'), f'distance ({how["distance"]})', suspect)
    with storage.new_file(os.path.join(run_dir, 'detection.json')) as part, open(part, 'w', encoding='utf-8') as file:
        json.dump(report, file, indent=4)
