"""Statistics of the real images, kept in the cache folder so that they are computed only once."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from dnnlib import storage
from dnnlib.progress import ProgressBar
from dnnlib.util import cache_folder
from metrics.collectors import Collector
from training import dataset, misc
from training.step.devices import Devices

_MINIBATCH = 8
_FORMAT = 2  # Part of every key. Increase it when the meaning of what is kept changes.


class RealImages:
    """A dataset in the order of its files, and the statistics of its first images.

    Args:
        data_dir:       Folder of the dataset. None = the working folder.
        dataset_args:   Arguments of dataset.load_dataset, except for how it shuffles and repeats.
        mirror_augment: Flip images left to right with probability 1/2? Always the same ones.

    Attributes:
        dataset: TFRecordDataset.
    """

    def __init__(self, data_dir: str | None, dataset_args: Mapping[str, Any], mirror_augment: bool = False):
        args = {**dataset_args, 'shuffle_mb': 0, 'repeat': False, 'prefetch_mb': 64}
        self.dataset = dataset.load_dataset(data_dir=data_dir, **args)
        self._mirror = mirror_augment
        name = os.path.basename(os.path.normpath(self.dataset.tfrecord_dir))
        self._name = re.sub(r'[^0-9A-Za-z._-]+', '_', name)

    @functools.cached_property
    def _digest(self):
        return self.dataset.identity()

    def collect(self, metrics: Sequence[Any], nets: Mapping[str | int, Callable],
                devices: Devices | None = None) -> dict[Any, Collector]:
        """Return the statistics for each metric, from the cache or in as few passes over the images as possible.

        Args:
            metrics: ImageMetrics. metric_base, which defines them, imports this module.
            nets:    {name: feature network}, see metrics.feature_networks.
            devices: Devices to compute features on, those of a single process. None = one device.

        Returns:
            {metric: its collector, finished}.
        """
        collectors, passes = {}, {}
        for metric in metrics:
            collectors[metric] = self._load(metric)
            if collectors[metric] is None:
                collectors[metric] = metric.collector(self._num_draws(metric))
                passes.setdefault((metric.feature_net, self._num_draws(metric)), []).append(metric)
        for (feature_net, num_draws), group in passes.items():
            features = _on_devices(nets[feature_net], self.dataset.shape, devices or Devices())
            self._pass(feature_net, features, num_draws, [collectors[metric] for metric in group])
            for metric in group:
                collectors[metric].finish()
                self._save(metric, collectors[metric])
        return collectors

    def _num_draws(self, metric):
        """Number of images that count for the metric, those that are repeated counted each time."""
        if metric.collector(metric.num_images).repeats_reals or metric.num_images <= self.dataset.num_images:
            return metric.num_images
        return self.dataset.num_images

    def _pass(self, feature_net, features, num_draws, collectors):
        """Compute the features of the images with a function that `_on_devices` made, and give them to the collectors.

        The original draws image after image, each flipped or not, and begins again at the end of the dataset. Here
        the features of each image are computed once, and count as often as it would be drawn; the same holds for
        flipped images.
        """
        total = self.dataset.num_images
        draws = np.full(total, num_draws // total) + (np.arange(total) < num_draws % total)  # Of each image.
        flips = np.random.RandomState(0).binomial(draws, 0.5) if self._mirror else np.zeros_like(draws)
        needed = min(num_draws, total)
        with ProgressBar(f'reals of {self._name} ({feature_net})', needed, summary=True) as progress:
            for rows, outputs in features(self._used_images(needed, draws, flips)):
                weights = np.concatenate([draws[rows] - flips[rows], flips[rows]])
                for collector in collectors:
                    collector.add(outputs, weights[weights > 0])
                progress.update(min(rows.stop, needed) - rows.start)

    def _used_images(self, needed, draws, flips):
        """Yield (slice of the dataset, its images that count and then its flipped images that count, uint8 tensor)."""
        for begin, (images, _labels) in zip(range(0, needed, _MINIBATCH), self.dataset.iterate(_MINIBATCH)):
            rows = slice(begin, begin + len(images))
            used = np.flatnonzero(np.concatenate([draws[rows] - flips[rows], flips[rows]]))
            yield rows, tf.gather(tf.concat([images, misc.mirror(images)], axis=0), used)

    # ---- The cache ----

    def _key(self, metric, collector):
        """Everything that the statistics depend on, as text."""
        return json.dumps(dict(
            format=_FORMAT, images=self._digest, shape=self.dataset.shape, epoch=self.dataset.num_images,
            draws=self._num_draws(metric), mirror=self._mirror, network=metric.feature_net, kind=collector.kind),
            sort_keys=True)

    def _path(self, key):
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        return os.path.join(cache_folder(), f'reals-{self._name}-{digest}.npz')

    def _load(self, metric):
        """A collector from the cache; None if there is none, or the file is damaged."""
        collector = metric.collector(self._num_draws(metric))
        key = self._key(metric, collector)
        path = self._path(key)
        if not os.path.isfile(path):
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if str(arrays['key']) != key:
                    raise ValueError('it is about other images')
                collector.restore(arrays)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as err:
            reason = str(err).splitlines()[0] if str(err) else type(err).__name__
            tqdm.write(f'Note: {path} is damaged ({reason}): computing it again')
            return None
        return collector

    def _save(self, metric, collector):
        key = self._key(metric, collector)
        path = self._path(key)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with storage.new_file(path, shared=True) as part, open(part, 'wb') as file:
                np.savez(file, key=key, **collector.arrays())
        except OSError as err:
            tqdm.write(f'Note: the statistics of the real images cannot be kept in {path}: {err.strerror}')


def _on_devices(net, shape, devices):
    """Compile a feature network for all devices.

    Args:
        net:     Feature network.
        shape:   Shape of an image, [C, H, W].
        devices: Devices.

    Returns:
        Function of an iterable of (key, images), which yields (key, features) in the same order. Each device computes
        a minibatch at a time, so that the number of devices does not change what is computed together.
    """
    spec = tf.TensorSpec([None, *shape], tf.uint8), tf.TensorSpec([devices.number, 2], tf.int32)

    @tf.function(input_signature=spec, autograph=False)
    def compute(images, bounds):
        def compute_one():
            with tf.device('CPU:0'):  # A device gets its own images only.
                begin, end = tf.unstack(bounds[devices.index])
                own = images[begin:end]
            return net(own)
        return devices.run(compute_one)

    def features(items):
        items = iter(items)
        while group := list(itertools.islice(items, devices.number)):
            ends = np.cumsum([len(images) for _key, images in group])
            bounds = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)
            # If there are fewer minibatches than devices, the other devices compute the last one, too.
            bounds = bounds[np.minimum(np.arange(devices.number), len(group) - 1)]
            outputs = compute(tf.concat([images for _key, images in group], axis=0), tf.constant(bounds, tf.int32))
            for (key, _images), output in zip(group, devices.all_local_results(outputs)):
                yield key, output.numpy()
    return features
