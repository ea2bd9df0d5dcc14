"""How well projection tells generated images from real ones (StyleGAN2, Section 5, Figures 9 and 10)."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from dnnlib import storage
from dnnlib.cli import UserError

SETS = ('generated', 'real')
# With fewer images of a set there is no verdict: of 19 that all are on their side, the AUC may still be as low as 0.82.
MIN_IMAGES = 20

_GIVE_A_RUN = 'Name the folder of a finished run of detect-generated.'


# ---- Statistics ----

def roc_auc(generated: np.ndarray, real: np.ndarray) -> float:
    """Area under the ROC curve: the probability that a real image is farther from its projection than a generated one.

    Args:
        generated: Distances [N].
        real:      Distances [M].

    Returns:
        0.5 = no difference, 1 = always farther.
    """
    from scipy import stats  # Imported late: it takes long to load.
    statistic: Any = stats.mannwhitneyu(real, generated).statistic
    return float(statistic) / (len(real) * len(generated))


def auc_interval(generated: np.ndarray, real: np.ndarray, confidence: float = 0.95, num_resamples: int = 2000,
                 seed: int = 0) -> tuple[float, float]:
    """Confidence interval of `roc_auc` by the percentile bootstrap (Efron 1979): both sets are drawn with replacement.

    If the sets do not overlap, each resample has the same AUC, and the bootstrap says nothing. The interval is then the
    exact one of a binomial proportion (Clopper and Pearson 1934): the images form min(N, M) independent pairs, and all
    of them are in the same order.

    Args:
        generated:     Distances [N].
        real:          Distances [M].
        confidence:    Probability that the interval covers the AUC of many more images.
        num_resamples: Number of resamples.
        seed:          Seed of the resamples.

    Returns:
        low, high: 0..1.
    """
    generated, real = np.asarray(generated), np.asarray(real)
    tail = (1 - confidence) / 2
    limit = tail ** (1 / min(len(generated), len(real)))
    if generated.max() < real.min():
        return limit, 1.0
    if real.max() < generated.min():
        return 0.0, 1.0 - limit
    rnd = np.random.RandomState(seed)
    order = (real > generated[:, None]) + 0.5 * (real == generated[:, None])  # [N, M]
    rows, cols = (rnd.multinomial(n, np.full(n, 1 / n), num_resamples) for n in order.shape)  # How often each is drawn.
    aucs = np.sum(rows @ order * cols, axis=1) / order.size
    low, high = np.quantile(aucs, [tail, 1 - tail])
    return float(low), float(high)


def too_few(counts: Mapping[str, int]) -> str:
    """Say why there can be no verdict, with the remedy; '' if there are enough images.

    Args:
        counts: {'generated': N, 'real': M}.
    """
    if min(counts.values()) >= MIN_IMAGES:
        return ''
    return (f'{counts["generated"]} generated and {counts["real"]} real images are too few for a verdict. '
            f'Give {MIN_IMAGES} or more of each (--seeds; --num-images or --images).')


def best_threshold(generated: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Find the threshold that separates the sets best: up to it generated, above it real.

    Args:
        generated: Distances [N].
        real:      Distances [M].

    Returns:
        threshold: In the middle between two of the distances.
        accuracy:  Balanced accuracy, the mean of the shares of both sets that are classified correctly.
    """
    values = np.unique(np.concatenate([generated, real]))
    thresholds = np.concatenate([(values[:-1] + values[1:]) / 2, values[-1:]])
    generated_right = (np.asarray(generated) <= thresholds[:, None]).mean(axis=1)
    real_right = (np.asarray(real) > thresholds[:, None]).mean(axis=1)
    accuracy = (generated_right + real_right) / 2
    return float(thresholds[accuracy.argmax()]), float(accuracy.max())


# ---- Files of distances ----

def write_csv(path: str | os.PathLike, rows: Iterable):
    """Write rows (name, set, distance, start distance, source); the file appears whole or not at all."""
    with storage.new_file(path) as part, open(part, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['name', 'set', 'distance', 'start_distance', 'source'])
        writer.writerows(rows)


def read_csv(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read the distances of such a file: {'generated': [N], 'real': [M]}.

    Raises:
        UserError: The file is missing or something else, or has no distances of one of the sets.
    """
    try:
        with open(path, newline='', encoding='utf-8') as file:
            rows = list(csv.DictReader(file))
        found = {name: np.array([float(row['distance']) for row in rows if row['set'] == name]) for name in SETS}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as err:
        reason = (str(err) or type(err).__name__).splitlines()[0]
        raise UserError(f'{path} cannot be read as the distances of a run: {reason}', _GIVE_A_RUN) from err
    for name in SETS:
        if not len(found[name]):
            raise UserError(f'{path}: expected distances of generated and of real images, found no {name} ones',
                            _GIVE_A_RUN)
    return found


def read_reference(run_dir: str, how: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Read the distances of an earlier run: {'generated': [N], 'real': [M]}.

    Args:
        run_dir: Folder of the run.
        how:     How its distances must have been found, see Settings.how in latents/projection.py.

    Raises:
        UserError: It is no finished run, or the distances were found in another way.
    """
    path = os.path.join(run_dir, 'detection.json')
    try:
        with open(path, encoding='utf-8') as file:
            found = json.load(file)['how']
        if not isinstance(found, dict):
            raise TypeError('how the distances were found is not recorded')
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as err:
        raise UserError(f'--reference: {path} cannot be read: {str(err).splitlines()[0]}', _GIVE_A_RUN) from err
    for key, value in how.items():
        if found.get(key) != value:
            raise UserError(f'--reference: {run_dir} was made with {key}={found.get(key)}, expected {value}',
                            'Distances compare only if they were found in the same way: give the same flags.')
    return read_csv(os.path.join(run_dir, 'distances.csv'))


# ---- Reports ----

def report_detection(run_dir: str, distances: Mapping[str, np.ndarray], suspect: float | None, image: str | None,
                     how: Mapping[str, Any]):
    """Print how well the sets are told apart and what that says about an image; write histogram.png, detection.json.

    If a set has fewer than MIN_IMAGES images, there is no threshold and no verdict.

    Args:
        run_dir:   Folder for the files.
        distances: {'generated': [N], 'real': [M]}.
        suspect:   Distance of the image to attribute. None = there is none.
        image:     Name of that image. None = there is none.
        how:       How the distances were found, to be written into detection.json.
    """
    generated, real = (distances[name] for name in SETS)
    reason = too_few({name: len(distances[name]) for name in SETS})
    threshold, accuracy = (None, None) if reason else best_threshold(generated, real)
    auc, interval = roc_auc(generated, real), auc_interval(generated, real)
    report: dict[str, Any] = dict(how=how, auc=auc, auc_interval=interval, threshold=threshold,
                                  balanced_accuracy=accuracy)
    for name in SETS:
        mean, median = float(np.mean(distances[name])), float(np.median(distances[name]))
        report[name] = dict(count=len(distances[name]), mean=mean, median=median)
        print(f'{name:<9}  {len(distances[name])} images, distance {mean:.4f} on average, median {median:.4f}')
    print(f'AUC {auc:.4f}: how often a real image is farther from its projection than a generated one')
    print(f'95 % interval of the AUC: {interval[0]:.2f} to {interval[1]:.2f}')
    print(f'No threshold: {reason}' if reason else
          f'Best threshold {threshold:.4f}: {accuracy:.1%} are classified correctly (mean of both sets)')
    if suspect is not None:
        report['image'] = _report_image(suspect, image, generated, real, threshold)
    draw_histogram(generated, real, os.path.join(run_dir, 'histogram.png'), f'distance ({how["distance"]})', suspect)
    with storage.new_file(os.path.join(run_dir, 'detection.json')) as part, open(part, 'w', encoding='utf-8') as file:
        json.dump(report, file, indent=4)


def _report_image(suspect, image, generated, real, threshold):
    """Print what the distance of an image says about it, and return that as a dict. threshold: None = no verdict."""
    verdict = None if threshold is None else 'generated' if suspect <= threshold else 'real'
    farther, closer = float(np.mean(generated >= suspect)), float(np.mean(real <= suspect))
    print(f'{image}: distance {suspect:.4f}; {farther:.0%} of the generated images are as far or farther, '
          f'{closer:.0%} of the real ones as close or closer')
    print('No verdict on this image.' if verdict is None else
          f'It looks {"generated" if verdict == "generated" else "not generated"} by this network.')
    return dict(source=image, distance=suspect, verdict=verdict, generated_farther=farther, real_closer=closer)


# ---- The histogram ----

_BINS = 30
_SIZE = (800, 480)
_LEFT, _TOP, _RIGHT, _BOTTOM = 60, 60, 780, 430  # Edges of the plot.
_COLORS = {'generated': (31, 119, 180), 'real': (230, 85, 13)}
_ALPHA = 140


def draw_histogram(generated: np.ndarray, real: np.ndarray, path: str | os.PathLike, label: str,
                   image: float | None = None):
    """Draw both distributions as a PNG, as in Figure 10.

    Args:
        generated: Distances [N].
        real:      Distances [M].
        path:      File.
        label:     What the distance is called.
        image:     Distance of a single image, to be marked by a line. None = none.
    """
    sets = dict(zip(SETS, (generated, real)))
    values = np.concatenate([generated, real, [] if image is None else [image]])
    edges = np.linspace(0, values.max() * 1.02 or 1.0, _BINS + 1)
    shares = {name: np.histogram(values, edges)[0] / len(values) for name, values in sets.items()}
    max_share = max(share.max() for share in shares.values())
    picture = PIL.Image.new('RGB', _SIZE, 'white')
    draw = PIL.ImageDraw.Draw(picture, 'RGBA')

    def at_x(distance):
        return _LEFT + (_RIGHT - _LEFT) * distance / edges[-1]

    def at_y(share):
        return _BOTTOM - (_BOTTOM - _TOP) * share / max_share

    def write(x, y, text, anchor):
        draw.text((x, y), text, 'black', PIL.ImageFont.load_default(14), anchor)

    for name, share in shares.items():
        for low, high, height in zip(edges[:-1], edges[1:], share):
            if height:
                _draw_bar(draw, name, [at_x(low), at_y(height), at_x(high) - 1, _BOTTOM])
    draw.line([_LEFT, _TOP, _LEFT, _BOTTOM, _RIGHT, _BOTTOM], fill='black')
    for quarter in range(5):
        distance, share = edges[-1] * quarter / 4, max_share * quarter / 4
        write(at_x(distance), _BOTTOM + 6, f'{distance:.3g}', 'mt')
        write(_LEFT - 6, at_y(share), f'{share:.0%}', 'rm')
    write((_LEFT + _RIGHT) / 2, _SIZE[1] - 6, label, 'mb')
    for row, (name, values) in enumerate(sets.items()):
        _draw_bar(draw, name, [_LEFT + 10, 10 + 22 * row, _LEFT + 24, 24 + 22 * row])
        write(_LEFT + 32, 17 + 22 * row, f'{name}: {len(values)} images, median {np.median(values):.3g}', 'lm')
    low, high = auc_interval(generated, real)
    write(_RIGHT, 17, f'AUC {roc_auc(generated, real):.3f} ({low:.2f} to {high:.2f})', 'rm')
    if image is not None:
        draw.line([at_x(image), _TOP, at_x(image), _BOTTOM], fill='black', width=2)
        write(_RIGHT, 39, f'line: the image, {image:.3g}', 'rm')
    with storage.new_file(path) as part:
        picture.save(part, 'png')


def _draw_bar(draw, set_name, box):
    draw.rectangle(box, fill=(*_COLORS[set_name], _ALPHA), outline=_COLORS[set_name])
