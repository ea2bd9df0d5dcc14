"""What the metrics share: results, and one pass over generated images for all of them that are asked for together."""

import dnnlib.tflib  # noqa: F401  Before anything else imports TensorFlow, for a quiet start.

# isort: split
import contextlib
import importlib
import os
import random
import time

import tensorflow as tf
from tqdm import tqdm

from dnnlib import tflib
from dnnlib.cli import UserError
from dnnlib.tflib import Random
from dnnlib.util import format_time
from metrics import feature_networks
from metrics.metric_defaults import metric_defaults
from metrics.progress import Progress
from metrics.real_images import RealImages

_CLASSES = {args['func_name'] for args in metric_defaults.values()}  # Nothing else is imported by name.


class MetricBase:
    """A metric: what it needs, and its results once it was computed.

    Args:
        name:              'fid50k' and so on, in front of each result.
        minibatch_per_gpu: Images generated at a time.

    Attributes:
        networks: What it looks through: names for feature_networks.load, numbers for feature_networks.load_classifier.
        results:  List of (suffix, value, printf format).
    """

    needs_reals = False

    def __init__(self, name, networks, minibatch_per_gpu=8):
        self.name, self.networks, self.minibatch_per_gpu = name, networks, minibatch_per_gpu
        self.results = []

    def check(self, resolution):
        """UserError unless the metric can be computed for images of this size, with the libraries that are here."""

    def report(self, value, suffix='', fmt='%-10.4f'):
        """Add a result."""
        self.results.append((suffix, float(value), fmt))

    def result_str(self, network_pkl, seconds):
        """The line of results: name of the network shortened to 29 characters, time, each result."""
        network = os.path.splitext(os.path.basename(network_pkl))[0]
        if len(network) > 29:
            network = '...' + network[-26:]
        results = ''.join(f' {self.name}{suffix} {fmt % value}' for suffix, value, fmt in self.results)
        return f'{network:<30s} time {format_time(seconds):<12s}{results}'


class ImageMetric(MetricBase):
    """A metric of the features of single images.

    Args:
        num_images:  Generated images, and as many real ones.
        feature_net: Name of the network that makes features of them.
    """

    def __init__(self, name, num_images, feature_net, minibatch_per_gpu=8):
        super().__init__(name, [feature_net], minibatch_per_gpu)
        self.num_images, self.feature_net = num_images, feature_net

    def collector(self, num_images):
        """A new object that takes in the features of so many images (metrics/collectors.py)."""
        raise NotImplementedError

    def evaluate(self, fakes, reals, seed):
        """Report results from two collectors that are finished; reals is None unless `needs_reals`."""
        raise NotImplementedError


class SamplingMetric(MetricBase):
    """A metric that generates images in its own way."""

    def evaluate(self, generator, nets):
        """Report results. Args: Generator; {name or number of a network: the network}."""
        raise NotImplementedError


class Generator:
    """A network under evaluation, with random numbers of its own.

    Args:
        Gs:     Network.
        labels: Labels to draw from, float32 [n, label_size].
        seed:   int.

    Attributes:
        Gs, seed: As given.
        rng:      Random.
        kwargs:   Settings for evaluations of Gs and its components, among them the stage of a growing network.
    """

    def __init__(self, Gs, labels, seed):
        self.Gs, self.seed, self._labels = Gs, seed, tf.constant(labels, tf.float32)
        self.rng = Random(tf.random.Generator.from_seed(seed))
        stage = Gs.lod_stage()
        self.kwargs = dict(is_validation=True, **({} if stage is None else dict(lod_stage=stage)))

    def latents(self, n):
        """float32 [n, latent_size], N(0, 1)."""
        return self.rng.normal('latents', [n, *self.Gs.input_shape[1:]])

    def labels(self, n):
        """Those of n random images of the dataset, float32 [n, label_size]."""
        return self.rng.rows('labels', self._labels, n)

    def images(self, latents, labels):
        """float32 [n, C, H, W], about [-1, 1]."""
        return self.Gs(latents, labels, rng=self.rng, **self.kwargs)


class MetricGroup:
    """Several metrics of a network, computed together.

    Args:
        metric_kwarg_list: Arguments of each, see metric_defaults.metric_args.
        seed:              Of all random numbers. None = a random one.

    Attributes:
        seed: int.
    """

    def __init__(self, metric_kwarg_list, seed=None):
        self.metrics = [_make_metric(**kwargs) for kwargs in metric_kwarg_list]
        self.seed = random.SystemRandom().randrange(2 ** 31) if seed is None else seed
        self._nets = {}
        self._reals = None  # (what they were made of, RealImages)

    def load_networks(self):
        """Load the feature networks, which may download their weights. UserError if one of them cannot be had."""
        for metric in self.metrics:
            for name in metric.networks:
                if name not in self._nets:
                    load = feature_networks.load if isinstance(name, str) else feature_networks.load_classifier
                    self._nets[name] = load(name)

    def check(self, Gs, dataset=None):
        """UserError unless the metrics can be computed for the network, and for the dataset, which None stands for without."""
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
                raise UserError('the network was trained with labels, and the metric draws them from its dataset', 'Give --dataset.')
            return
        if dataset.shape != Gs.output_shape[1:]:
            raise UserError(f'the network makes images {Gs.output_shape[1:]}, but those of {dataset.tfrecord_dir} are {dataset.shape}',
                            'Give the dataset that it was trained with.')
        if label_size and dataset.label_size != label_size:
            raise UserError(f'the network was trained with labels of {label_size} numbers, but those of {dataset.tfrecord_dir} have '
                            f'{dataset.label_size}', 'Give the dataset that it was trained with.')

    def run(self, network_pkl, Gs, run_dir=None, data_dir=None, dataset_args=None, mirror_augment=False, keep_going=False):
        """Compute all metrics; print a line for each, and append it to metric-NAME.txt.

        Args:
            network_pkl:    Path or URL of the network, for its name.
            Gs:             Network.
            run_dir:        Folder for metric-NAME.txt. None = print only.
            data_dir:       Folder that dataset_args.tfrecord_dir is relative to.
            dataset_args:   Arguments of dataset.load_dataset. None = there are no real images.
            mirror_augment: Flip real images at random?
            keep_going:     Does a metric that fails cost itself only, and a note?

        Returns: {'Metrics/<name><suffix>': value}.

        Raises: UserError, unless keep_going, on what `check` and `load_networks` say, or a damaged dataset.
        """
        for metric in self.metrics:
            metric.results = []
        image_metrics = [metric for metric in self.metrics if isinstance(metric, ImageMetric)]
        groups = [image_metrics] if image_metrics else []
        groups += [[metric] for metric in self.metrics if metric not in image_metrics]
        with _note_failure(self.metrics, keep_going):
            reals = None if dataset_args is None else self._open_reals(data_dir, dataset_args, mirror_augment)
            self.check(Gs, reals and reals.dataset)
            self.load_networks()
            labels = reals.dataset.labels if Gs.input_shapes[1][1] else tf.zeros([1, 0])
            while groups:
                group = groups.pop(0)
                with _note_failure(group, keep_going) as failure:
                    self._evaluate(group, Gs, labels, reals, network_pkl, run_dir, keep_going)
                if failure and len(group) > 1:  # One of them spoiled it for the others.
                    groups[:0] = [[metric] for metric in group]
        return {f'Metrics/{metric.name}{suffix}': value for metric in self.metrics for suffix, value, _ in metric.results}

    def _open_reals(self, *args):
        """RealImages of these arguments: opened, and its content looked at, once for all snapshots of a training."""
        if self._reals is None or self._reals[0] != args:
            self._reals = args, RealImages(*args)
        return self._reals[1]

    def _evaluate(self, group, Gs, labels, reals, network_pkl, run_dir, keep_going):
        """Either ImageMetrics, in one pass, or one SamplingMetric."""
        start = time.time()
        generator = Generator(Gs, labels, self.seed)
        if isinstance(group[0], ImageMetric):
            of_reals = reals.collect([metric for metric in group if metric.needs_reals], self._nets) if reals else {}
            of_fakes = self._collect_fakes(group, generator)
        for metric in group:
            with _note_failure([metric], keep_going):
                if isinstance(metric, ImageMetric):
                    metric.evaluate(of_fakes.pop(metric), of_reals.pop(metric, None), self.seed)
                else:
                    metric.evaluate(generator, self._nets)
                line = metric.result_str(network_pkl, time.time() - start).strip()
                tqdm.write(line)
                if run_dir is not None:
                    with open(os.path.join(run_dir, f'metric-{metric.name}.txt'), 'a', encoding='utf-8') as file:
                        file.write(line + '\n')

    def _collect_fakes(self, metrics, generator):
        """{metric: what its collector made of generated images}."""
        minibatch = metrics[0].minibatch_per_gpu
        collectors = {metric: metric.collector(metric.num_images) for metric in metrics}

        @tf.function(autograph=False)
        def features(names):
            images = tflib.convert_images_to_uint8(generator.images(generator.latents(minibatch), generator.labels(minibatch)))
            return {name: self._nets[name](images) for name in names}

        total = max(metric.num_images for metric in metrics)
        with Progress(f'fakes ({", ".join(metric.name for metric in metrics)})', total) as progress:
            for begin in range(0, total, minibatch):
                open_metrics = [metric for metric in metrics if begin < metric.num_images]
                outputs = features(tuple(sorted({metric.feature_net for metric in open_metrics})))
                outputs = {name: output.numpy() for name, output in outputs.items()}
                for metric in open_metrics:
                    collectors[metric].add(outputs[metric.feature_net][:metric.num_images - begin])
                progress.update(min(minibatch, total - begin))
        for collector in collectors.values():
            collector.finish()
        return collectors


def _make_metric(func_name, **kwargs):
    if func_name not in _CLASSES:
        raise ValueError(f'unknown metric {func_name!r}; known are {sorted(_CLASSES)}')
    module, name = func_name.rsplit('.', 1)
    return getattr(importlib.import_module(module), name)(**kwargs)


@contextlib.contextmanager
def _note_failure(metrics, keep_going):
    """With keep_going, an exception inside the with-block is printed in one line and put into the list that the context
    gives; otherwise it goes on to the caller."""
    failure = []
    try:
        yield failure
    except Exception as err:
        if not keep_going:
            raise
        failure.append(err)
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        tqdm.write(f'Note: {", ".join(metric.name for metric in metrics)} failed: {reason}')
