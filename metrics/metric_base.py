"""Base classes of the metrics, and MetricGroup, which computes several metrics in one pass over generated images."""

from __future__ import annotations

import dnnlib.tflib  # noqa: F401  First, so that TensorFlow's start-up messages are silenced.

# isort: split
import contextlib
import importlib
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from dnnlib import tflib
from dnnlib.cli import UserError
from dnnlib.progress import ProgressBar
from dnnlib.tflib import Network
from dnnlib.util import format_time
from metrics import feature_networks
from metrics.collectors import Collector
from metrics.metric_defaults import metric_defaults
from metrics.real_images import RealImages
from metrics.sampling import SampleSource
from training import misc
from training.dataset import TFRecordDataset
from training.step.devices import Devices

_CLASSES = {args['func_name'] for args in metric_defaults.values()}  # Nothing else is imported by name.


# ---- Base classes ----

class MetricBase:
    """A metric: what it needs, and its results once it has been computed.

    Args:
        name:              'fid50k' and so on; each result begins with it.
        networks:          Networks it uses: names for feature_networks.load, numbers for
                           feature_networks.load_classifier.
        minibatch_per_gpu: Number of images generated at a time.

    Attributes:
        needs_reals: Does it compare with real images?
        results:     List of (suffix, value, printf format).
    """

    needs_reals = False

    def __init__(self, name: str, networks: Iterable[str | int], minibatch_per_gpu: int = 8):
        self.name, self.networks, self.minibatch_per_gpu = name, networks, minibatch_per_gpu
        self.results: list[tuple[str, float, str]] = []

    def check(self, resolution: int):
        """Check that images of this size and the installed libraries will do.

        Raises:
            UserError: They will not.
        """

    def report(self, value: float | np.floating, suffix: str = '', fmt: str = '%-10.4f'):
        """Add a result."""
        self.results.append((suffix, float(value), fmt))

    def result_str(self, network_pkl: str, seconds: float) -> str:
        """The line of results: name of the network shortened to 29 characters, time, each result."""
        network = os.path.splitext(os.path.basename(network_pkl))[0]
        if len(network) > 29:
            network = '...' + network[-26:]
        results = ''.join(f' {self.name}{suffix} {fmt % value}' for suffix, value, fmt in self.results)
        return f'{network:<30s} time {format_time(seconds):<12s}{results}'


class ImageMetric(MetricBase):
    """A metric that is computed from features of single images.

    Args:
        name, minibatch_per_gpu: As in MetricBase.
        num_images:  Number of generated images, and of real ones.
        feature_net: Name of the network that computes the features.
    """

    def __init__(self, name: str, num_images: int, feature_net: str, minibatch_per_gpu: int = 8):
        super().__init__(name, [feature_net], minibatch_per_gpu)
        self.num_images, self.feature_net = num_images, feature_net

    def collector(self, num_images: int) -> Collector:
        """Return a new collector for the features of so many images."""
        raise NotImplementedError

    def evaluate(self, fakes: Any, reals: Any, seed: int):
        """Compute the results and `report` them.

        Args:
            fakes: Finished collector of the generated images.
            reals: Finished collector of the real images. None = `needs_reals` is False.
            seed:  Seed of all random choices.
        """
        raise NotImplementedError


class SamplingMetric(MetricBase):
    """A metric that generates images in its own way."""

    def evaluate(self, source: SampleSource, nets: Mapping[str | int, Callable]):
        """Compute the results and `report` them.

        Args:
            source: Network under evaluation.
            nets:   {name or number: feature network}.
        """
        raise NotImplementedError

    def draw_samples(self, source: SampleSource, draw: Callable[[SampleSource], Sequence[tf.Tensor]],
                     num_samples: int, label: str, unit: str) -> list[np.ndarray]:
        """Draw minibatches on all devices until there are enough samples, and show the progress.

        Args:
            source:      Network under evaluation.
            draw:        Function of the source of a minibatch that returns tensors [minibatch_per_gpu, ...].
            num_samples: Number of samples to return.
            label, unit: As in ProgressBar.

        Returns:
            List of arrays [num_samples, ...], one for each tensor of `draw`.
        """
        draw_all = source.compile(draw)
        size = self.minibatch_per_gpu * source.devices.number
        minibatches = []
        with ProgressBar(label, num_samples, unit, summary=True) as progress:
            for begin in range(0, num_samples, size):
                minibatches += draw_all(begin // self.minibatch_per_gpu)
                progress.update(min(size, num_samples - begin))
        return [np.concatenate(values)[:num_samples] for values in zip(*minibatches)]


# ---- Several metrics ----

class MetricGroup:
    """Several metrics of a network, computed together.

    Args:
        metric_kwarg_list: Arguments of each metric, see metric_defaults.metric_args.
        seed:              Seed of all random numbers. None = a random one.
        devices:           Devices that generate images and compute features. If several workers share them, the
                           metrics use those of this worker. None = one device.

    Attributes:
        metrics: List of MetricBase.
        seed:    int.
    """

    def __init__(self, metric_kwarg_list: Iterable[Mapping[str, Any]], seed: int | None = None,
                 devices: Devices | None = None):
        self.metrics = [_make_metric(**kwargs) for kwargs in metric_kwarg_list]
        # The other workers would have to take part in whatever is done on devices that are shared with them.
        self._devices = (devices or Devices()).of_this_worker()
        self._needs_copy = self._devices is not devices and self._devices.number > 1
        self._copy: Network | None = None  # See _on_devices.
        self.seed = random.SystemRandom().randrange(2 ** 31) if seed is None else seed
        self._nets: dict[str | int, Callable] = {}
        self._reals = None  # Pair (arguments of RealImages, RealImages).

    def load_networks(self):
        """Load the feature networks, which may download their weights.

        Raises:
            UserError: The weights of a network are not available.
        """
        with self._devices.scope():
            for metric in self.metrics:
                for name in (name for name in metric.networks if name not in self._nets):
                    if isinstance(name, str):
                        self._nets[name] = feature_networks.load(name)
                    else:
                        self._nets[name] = feature_networks.load_classifier(name)

    def check(self, Gs: Network, dataset: TFRecordDataset | None = None):
        """Check that the metrics can be computed for a network and a dataset.

        Args:
            Gs:      Network.
            dataset: Real images. None = there are none.

        Raises:
            UserError: A metric does not take images of this size, needs real images or a library that is missing,
                       or the dataset does not fit the network.
        """
        label_size = Gs.input_shapes[1][1]
        channels, resolution = Gs.output_shape[1:3]
        if channels not in (1, 3):
            raise UserError(f'the network makes images of {channels} channels, expected 1 (gray) or 3 (RGB)')
        for metric in self.metrics:
            metric.check(resolution)
        if dataset is None:
            needy = [metric.name for metric in self.metrics if metric.needs_reals]
            if needy:
                raise UserError(f'{", ".join(needy)}: real images are needed to compare with', 'Give --dataset.')
            if label_size:
                raise UserError('the network was trained with labels, and the metric draws them from its dataset',
                                'Give --dataset.')
            return
        if dataset.shape != Gs.output_shape[1:]:
            raise UserError(f'the network makes images {Gs.output_shape[1:]}, '
                            f'but those of {dataset.tfrecord_dir} are {dataset.shape}',
                            'Give the dataset that the network was trained with.')
        if label_size and dataset.label_size != label_size:
            raise UserError(f'the network was trained with labels of {label_size} numbers, '
                            f'but those of {dataset.tfrecord_dir} have {dataset.label_size}',
                            'Give the dataset that the network was trained with.')

    def run(self, network_pkl: str, Gs: Network | None = None, run_dir: str | None = None, data_dir: str | None = None,
            dataset_args: Mapping[str, Any] | None = None, mirror_augment: bool | None = False,
            keep_going: bool = False, num_gpus: int | None = None) -> dict[str, float]:
        """Compute all metrics; print a line for each, and append it to metric-NAME.txt.

        Args:
            network_pkl:    Path or URL of the network; the lines begin with its name.
            Gs:             Network. None = the last one of the pickle network_pkl.
            run_dir:        Folder for metric-NAME.txt. None = print only.
            data_dir:       Folder that dataset_args.tfrecord_dir is relative to. None = the working folder.
            dataset_args:   Arguments of dataset.load_dataset. None = there are no real images.
            mirror_augment: Flip real images at random?
            keep_going:     If a metric fails, print a note and compute the others? False = raise the exception.
            num_gpus:       Number of devices to use from now on. None = those of the constructor.

        Returns:
            {'Metrics/<name><suffix>': value}.

        Raises:
            UserError: As `check` and `load_networks`; or the dataset is damaged. Never if keep_going.
        """
        if num_gpus is not None and num_gpus != self._devices.number:
            self._devices, self._needs_copy = Devices(num_gpus), False
        if Gs is None:
            with self._devices.scope():
                Gs = misc.load_networks(network_pkl)[2]
        for metric in self.metrics:
            metric.results = []
        image_metrics: list[MetricBase] = [metric for metric in self.metrics if isinstance(metric, ImageMetric)]
        groups = [image_metrics] if image_metrics else []
        groups += [[metric] for metric in self.metrics if metric not in image_metrics]
        with _note_failure(self.metrics, keep_going):
            reals = None if dataset_args is None else self._open_reals(data_dir, dataset_args, bool(mirror_augment))
            self.check(Gs, reals and reals.dataset)
            self.load_networks()
            Gs = self._on_devices(Gs)
            labels = reals.dataset.labels if reals and Gs.input_shapes[1][1] else tf.zeros([1, 0])
            while groups:
                group = groups.pop(0)
                with _note_failure(group, keep_going) as failures:
                    self._evaluate(group, Gs, labels, reals, network_pkl, run_dir, keep_going)
                if failures and len(group) > 1:  # One of the metrics failed for all: try each alone.
                    groups[:0] = [[metric] for metric in group]
        return {f'Metrics/{metric.name}{suffix}': value
                for metric in self.metrics for suffix, value, _ in metric.results}

    def _on_devices(self, Gs):
        """Gs, or a copy of it on the devices of this worker if its variables are on those of several workers."""
        if not self._needs_copy:
            return Gs
        copy = self._copy
        if copy is None:
            with self._devices.scope():
                copy = self._copy = Gs.clone()
        copy.copy_vars_from(Gs)
        return copy

    def _open_reals(self, *args):
        """RealImages of these arguments, opened only once for all snapshots of a training run."""
        if self._reals is None or self._reals[0] != args:
            self._reals = args, RealImages(*args)
        return self._reals[1]

    def _evaluate(self, group, Gs, labels, reals, network_pkl, run_dir, keep_going):
        """Compute a group: either ImageMetrics, in one pass, or one SamplingMetric."""
        start = time.time()
        source = SampleSource(Gs, labels, self.seed, self._devices)
        real_stats, fake_stats = {}, {}
        if isinstance(group[0], ImageMetric):
            if reals:
                needy = [metric for metric in group if metric.needs_reals]
                real_stats = reals.collect(needy, self._nets, self._devices)
            fake_stats = self._collect_fakes(group, source)
        for metric in group:
            with _note_failure([metric], keep_going):
                if isinstance(metric, ImageMetric):
                    metric.evaluate(fake_stats.pop(metric), real_stats.pop(metric, None), self.seed)
                else:
                    metric.evaluate(source, self._nets)
                line = metric.result_str(network_pkl, time.time() - start).strip()
                tqdm.write(line)
                if run_dir is not None:
                    with open(os.path.join(run_dir, f'metric-{metric.name}.txt'), 'a', encoding='utf-8') as file:
                        file.write(line + '\n')

    def _collect_fakes(self, metrics: Sequence[ImageMetric], source: SampleSource) -> dict[ImageMetric, Collector]:
        """Return {metric: its collector, finished} of generated images."""
        minibatch = metrics[0].minibatch_per_gpu
        collectors = {metric: metric.collector(metric.num_images) for metric in metrics}

        def draw(source, names):
            images = source.images(source.latents(minibatch), source.labels(minibatch))
            images = tflib.convert_images_to_uint8(images)
            return {name: self._nets[name](images) for name in names}

        draw_all = source.compile(draw)
        total, size = max(metric.num_images for metric in metrics), minibatch * source.devices.number
        label = f'fakes ({", ".join(metric.name for metric in metrics)})'
        with ProgressBar(label, total, summary=True) as progress:
            for first in range(0, total, size):
                unfinished = [metric for metric in metrics if first < metric.num_images]
                names = tuple(sorted({metric.feature_net for metric in unfinished}))
                for begin, features in zip(range(first, total, minibatch), draw_all(first // minibatch, names)):
                    for metric in unfinished:
                        if begin < metric.num_images:
                            collectors[metric].add(features[metric.feature_net][:metric.num_images - begin])
                progress.update(min(size, total - first))
        for collector in collectors.values():
            collector.finish()
        return collectors


def _make_metric(func_name, **kwargs) -> MetricBase:
    if func_name not in _CLASSES:
        raise ValueError(f'unknown metric {func_name!r}; known are {sorted(_CLASSES)}')
    module, name = func_name.rsplit('.', 1)
    return getattr(importlib.import_module(module), name)(**kwargs)


@contextlib.contextmanager
def _note_failure(metrics, keep_going):
    """If keep_going, print an exception of the with-block as one line, and append it to the list that is yielded."""
    failures = []
    try:
        yield failures
    except Exception as err:
        if not keep_going:
            raise
        failures.append(err)
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        tqdm.write(f'Note: {", ".join(metric.name for metric in metrics)} failed: {reason}')
