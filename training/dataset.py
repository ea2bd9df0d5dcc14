"""Streams images and labels from multi-resolution TFRecords.

The file format is described in training/data/tfrecords.py.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dnnlib import storage
from dnnlib.cli import UserError
from dnnlib.util import map_in_order
from training.data import tfrecords
from training.data.record_reader import RecordReader

_MAX_PREFETCH_BATCHES = 16  # More would only take memory.
_PARALLEL_READS = 8         # Threads that read at the same time, to hide the latency of disks and networks.
_IDENTITY_IMAGES = 256      # Images at full resolution that `identity` covers.
_BYTES_PER_READ = 1 << 18   # Bytes of pixels that a thread reads at a time: with fewer it would mostly wait for others.


class TFRecordDataset:
    """Images [C, H, W] and their labels, shuffled and repeated, at any level of detail.

    Args:
        tfrecord_dir:   Folder made by dataset_tool.py.
        resolution:     Side of the images of lod 0, in pixels. None = the largest in the folder.
        label_file:     .npy file of labels, as a path or as a name in tfrecord_dir. None = the first *.labels there,
                        if any.
        max_label_size: Use at most this many components of the labels, the first ones; 0 = no labels, 'full' = all.
        max_images:     Use only this many images, the first ones. None = all.
        repeat:         Repeat forever? Otherwise one epoch.
        shuffle_mb:     0 = order of the files. Any other number: each epoch is in another random order of the whole
                        dataset. Records are read one by one, so that this takes no memory, whatever the number is.
        prefetch_mb:    Memory for prefetching, in megabytes of decoded images; 0 = do not prefetch.
        buffer_mb:      Has no effect; the original had this argument.
        num_threads:    Number of minibatches assembled at the same time.

    Attributes:
        shape:           [C, H, W] at lod 0.
        resolution:      H = W.
        resolution_log2: log2 of it. lod k holds images of resolution >> k, down to 4x4.
        dtype:           'uint8'.
        dynamic_range:   [0, 255].
        num_images:      Number of images in an epoch.
        label_file:      Path of the labels in use. None = there is no label file.
        label_size:      Components of a label, 0 without labels.
        label_dtype:     'float32'.
        labels:          float32 [num_images, label_size], in the order of the files.

    Raises:
        UserError:  The folder, one of its files, the resolution or the label file is missing or invalid.
        ValueError: An argument is out of range.
    """

    def __init__(self, tfrecord_dir: str | os.PathLike, resolution: int | None = None, label_file: str | None = None,
                 max_label_size: int | str = 0, max_images: int | None = None, repeat: bool = True,
                 shuffle_mb: int = 4096, prefetch_mb: int = 2048, buffer_mb: int = 256, num_threads: int = 2):
        if max_label_size != 'full' and not (isinstance(max_label_size, int) and max_label_size >= 0):
            raise ValueError(f"expected max_label_size to be 'full' or a whole number from 0, got {max_label_size!r}")
        if max_images is not None and max_images < 1:
            raise ValueError(f'expected max_images to be None or above 0, got {max_images!r}')
        files = tfrecords.find_dataset(tfrecord_dir)
        self.tfrecord_dir = tfrecord_dir
        self.resolution = 2 ** files.resolution_log2 if resolution is None else resolution
        self.resolution_log2 = int(self.resolution).bit_length() - 1
        if self.resolution not in [2 ** level for level in files.levels]:
            sizes = ', '.join(str(2 ** level) for level in sorted(files.levels))
            raise UserError(f'{tfrecord_dir} has no images of resolution {resolution}; it has {sizes}',
                            'Ask for one of these.')
        self.shape = [files.channels, self.resolution, self.resolution]
        self.dtype = 'uint8'
        self.dynamic_range = [0, 255]
        self.num_images = files.num_images if max_images is None else min(files.num_images, max_images)
        self.label_file = self._find_label_file(files, label_file)
        self.labels = self._load_labels(files.num_images, max_label_size)  # [num_images, label_size]
        self.label_size = self.labels.shape[1]
        self.label_dtype = self.labels.dtype.name
        with tf.device('CPU:0'):  # Labels of many classes would take much memory of a GPU.
            self._tf_labels = tf.constant(self.labels)
        self._levels = files.levels
        self._record_starts = files.record_starts
        self._total_images = files.num_images  # Without regard to max_images.
        self._readers: dict[int, RecordReader] = {}
        self._repeat = repeat
        self._shuffle_mb = shuffle_mb
        self._prefetch_mb = prefetch_mb
        self._num_threads = num_threads
        self._minibatches: Any = None  # Iterator of get_minibatch_np.
        self._minibatches_key = None   # The arguments it was made for.
        self._configured: tuple[int, float] | None = None

    def _find_label_file(self, files, label_file):
        if label_file is None:
            return files.label_file
        for path in [label_file, storage.join(self.tfrecord_dir, label_file)]:
            if storage.is_file(path):
                return path
        raise UserError(f'label file {label_file} not found, neither by itself nor in {self.tfrecord_dir}',
                        'Check the name.')

    def _load_labels(self, file_images, max_label_size):
        if self.label_file is None or max_label_size == 0:
            return np.zeros([self.num_images, 0], np.float32)
        labels = tfrecords.load_labels(self.label_file, file_images)
        return labels[:self.num_images, :None if max_label_size == 'full' else max_label_size]

    def iterate(self, minibatch_size: int, lod: float = 0, seed: int | None = None, start: int = 0,
                rows: tuple[int, int] | None = None,
                count: int | None = None) -> Generator[tuple[tf.Tensor, tf.Tensor], None, None]:
        """Return the stream of minibatches.

        Args:
            minibatch_size: Images in a minibatch. Without `repeat` the last one may have fewer.
            lod:            Level of detail, from 0 = full resolution to resolution_log2 - 2 = 4x4, rounded down.
            seed:           Fixes the order. None = a seed drawn from NumPy's global generator.
            start:          Number of images of the stream to skip, at no cost. Image k of the stream depends only on
                            `seed` and k, not on `start`, the size of the minibatches or the lod.
            rows:           (first, last + 1): return only these rows of each minibatch. Other records are not read.
                            None = all.
            count:          Number of minibatches, after which nothing more is read. None = as many as there are.

        Returns:
            Generator of (images uint8 [N, C, H >> lod, W >> lod], labels float32 [N, label_size]) in the memory of the
            CPU, where N is minibatch_size or the number of `rows`. An epoch holds each image exactly once. At a
            damaged record it raises UserError, whose message names the file.

        Raises:
            ValueError: An argument is out of range.
        """
        if minibatch_size < 1 or start < 0:
            raise ValueError(f'expected minibatch_size above 0 and start from 0, got {minibatch_size!r}, {start!r}')
        seed = np.random.randint(1 << 31) if seed is None else seed
        reader, shape = self._level(lod)
        numbers = itertools.islice(self._numbers(minibatch_size, seed, start, rows), count)
        return self._minibatches_of(reader, shape, numbers)

    def _numbers(self, minibatch_size, seed, start, rows):
        """Yield the numbers of the images of each minibatch, int64 [N]."""
        epoch, skipped = divmod(start, self.num_images)
        waiting = np.zeros([0], np.int64)
        while self._repeat or epoch == 0:
            waiting = np.concatenate([waiting, self._order_of_epoch(seed, epoch)[skipped:]])
            epoch, skipped = epoch + 1, 0
            while len(waiting) >= minibatch_size:
                yield waiting[:minibatch_size][slice(*rows or [None])]
                waiting = waiting[minibatch_size:]
        if len(waiting):
            yield waiting[slice(*rows or [None])]

    def _order_of_epoch(self, seed, epoch):
        if self._shuffle_mb == 0:
            return np.arange(self.num_images)
        with tf.device('CPU:0'):
            order = tf.range(self.num_images, dtype=tf.int64)
            return tf.random.experimental.stateless_shuffle(order, tf.constant([seed, epoch], tf.int64)).numpy()

    def _minibatches_of(self, reader, shape, all_numbers):
        """Yield the minibatches of these numbers, while threads read those that follow."""
        image_bytes = int(np.prod(shape))
        images_per_read = _items_in(_BYTES_PER_READ, image_bytes)

        def read_minibatch(numbers):
            images = np.empty([len(numbers), *shape], np.uint8)
            parts = [slice(begin, begin + images_per_read) for begin in range(0, len(numbers), images_per_read)]
            for _ in readers.map(lambda part: reader.read(numbers[part], images[part]), parts):
                pass  # Raises the errors of the threads.
            with tf.device('CPU:0'):
                return tf.constant(images), tf.constant(self.labels[numbers])

        first = next(all_numbers, None)
        if first is None:
            return
        ahead = 0
        if self._prefetch_mb > 0:
            ahead = min(_items_in(self._prefetch_mb << 20, image_bytes * len(first)), _MAX_PREFETCH_BATCHES)
        readers = concurrent.futures.ThreadPoolExecutor(_PARALLEL_READS)
        try:
            all_numbers = itertools.chain([first], all_numbers)
            with contextlib.closing(map_in_order(read_minibatch, all_numbers, self._num_threads, ahead)) as minibatches:
                yield from minibatches
        finally:
            readers.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Does nothing; the original had this method."""

    def configure(self, minibatch_size: int, lod: float = 0) -> None:
        """Choose the size of the minibatches and the level of detail for `get_minibatch_tf`."""
        self._configured = minibatch_size, lod

    def get_minibatch_tf(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the next minibatch as `configure` has chosen it: tensors, as `iterate` yields them.

        In the original this was called once, for tensors of a graph. Here each call returns another minibatch.

        Raises:
            ValueError: `configure` has not been called.
        """
        if self._configured is None:
            raise ValueError('expected configure(minibatch_size) before get_minibatch_tf')
        return self._next(*self._configured)

    def get_minibatch_np(self, minibatch_size: int, lod: float = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the next minibatch as NumPy arrays; arguments and shapes as in `iterate`.

        Each call continues where the last one stopped; a call with other arguments starts a new stream.

        Raises:
            StopIteration: The dataset does not repeat, and has come to its end.
        """
        images, labels = self._next(minibatch_size, lod)
        return images.numpy(), labels.numpy()

    def _next(self, minibatch_size, lod):
        if self._minibatches_key != (minibatch_size, lod):
            self._minibatches_key = (minibatch_size, lod)
            self._minibatches = self.iterate(minibatch_size, lod)
        return next(self._minibatches)

    def get_random_labels_np(self, minibatch_size: int) -> np.ndarray:
        """Draw labels of random images with NumPy's global generator: float32 [minibatch_size, label_size]."""
        return self.labels[np.random.randint(self.num_images, size=[minibatch_size])]

    def get_random_labels_tf(self, minibatch_size: int) -> tf.Tensor:
        """As `get_random_labels_np`, but a tensor drawn with TensorFlow's global generator."""
        with tf.device('CPU:0'):
            return tf.gather(self._tf_labels, tf.random.uniform([minibatch_size], 0, self.num_images, tf.int32))

    def content_digest(self, lod: float = 0) -> str:
        """Return a digest of the images of level `lod`: see `tfrecords.content_digest`."""
        return tfrecords.content_digest(self._levels[self.resolution_log2 - int(np.floor(lod))])

    def identity(self) -> str:
        """Return a digest that tells datasets of different images apart, for caches, without reading all of them.

        It covers the checksums of all images at 4x4, which lie close together, and those of some images at
        `resolution`, evenly spaced.
        """
        reader, shape = self._level(0)
        total = self._total_images
        numbers = np.unique(np.linspace(0, total - 1, min(total, _IDENTITY_IMAGES)).astype(np.int64))
        checksums = [reader.checksum(number).hex() for number in numbers.tolist()]
        parts = [self.content_digest(self.resolution_log2 - 2), shape, checksums]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _level(self, lod):
        """RecordReader and shape [C, H, W] of the images of level `lod`."""
        lod = int(np.floor(lod))
        if not 0 <= lod <= self.resolution_log2 - 2:
            raise ValueError(f'expected lod from 0 to {self.resolution_log2 - 2}, got {lod}')
        level, shape = self.resolution_log2 - lod, [self.shape[0], self.resolution >> lod, self.resolution >> lod]
        if level not in self._readers:
            self._readers[level] = RecordReader(self._levels[level], self._record_starts[level], shape)
        return self._readers[level], shape


def _items_in(num_bytes, item_bytes):
    """Number of items that take at least `num_bytes`; at least 1."""
    return -(-num_bytes // item_bytes)


class SyntheticDataset:
    """Images of one random number for each pixel, for trying things without files. They are drawn anew each time.

    Args:
        resolution:    Side of the images, in pixels.
        num_channels:  Number of channels.
        dtype:         Type of the images.
        dynamic_range: Smallest and largest value.
        label_size:    Components of a label: one of them is 1 and the others are 0. 0 = no labels.
        label_dtype:   Type of the labels.

    Attributes:
        shape, resolution, resolution_log2, dtype, dynamic_range, label_size, label_dtype: As in TFRecordDataset.
    """

    def __init__(self, resolution: int = 1024, num_channels: int = 3, dtype: str = 'uint8',
                 dynamic_range: Sequence[float] = (0, 255), label_size: int = 0, label_dtype: str = 'float32'):
        self.resolution, self.resolution_log2 = resolution, int(resolution).bit_length() - 1
        self.shape = [num_channels, resolution, resolution]
        self.dtype, self.dynamic_range = dtype, list(dynamic_range)
        self.label_size, self.label_dtype = label_size, label_dtype
        self._configured: tuple[int, float] | None = None

    def close(self) -> None:
        """Does nothing; the original had this method."""

    def configure(self, minibatch_size: int, lod: float = 0) -> None:
        """As in TFRecordDataset."""
        self._configured = minibatch_size, lod

    def get_minibatch_tf(self) -> tuple[tf.Tensor, tf.Tensor]:
        """As in TFRecordDataset."""
        if self._configured is None:
            raise ValueError('expected configure(minibatch_size) before get_minibatch_tf')
        images, labels = self.get_minibatch_np(*self._configured)
        return tf.constant(images), tf.constant(labels)

    def get_minibatch_np(self, minibatch_size: int, lod: float = 0) -> tuple[np.ndarray, np.ndarray]:
        """Draw (images [N, C, H, W], labels [N, label_size]) with NumPy's global generator."""
        size = self.resolution >> int(np.floor(lod))
        low, high = self.dynamic_range
        images = np.random.uniform(low, high, [minibatch_size, self.shape[0], size, size])
        return images.astype(self.dtype), self.get_random_labels_np(minibatch_size)

    def get_random_labels_np(self, minibatch_size: int) -> np.ndarray:
        """Draw labels [minibatch_size, label_size]."""
        if self.label_size == 0:
            return np.zeros([minibatch_size, 0], self.label_dtype)
        return np.eye(self.label_size, dtype=self.label_dtype)[np.random.randint(self.label_size, size=minibatch_size)]

    def get_random_labels_tf(self, minibatch_size: int) -> tf.Tensor:
        """As `get_random_labels_np`, but a tensor."""
        return tf.constant(self.get_random_labels_np(minibatch_size))


_CLASSES = (TFRecordDataset, SyntheticDataset)


def load_dataset(tfrecord_dir: str | None = None, data_dir: str | None = None, verbose: bool = False,
                 class_name: str | None = None, **kwargs: Any) -> Any:
    """Open a TFRecordDataset, or make a SyntheticDataset.

    Args:
        tfrecord_dir: Folder of the dataset. None = a SyntheticDataset, which has none.
        data_dir:     Folder or address that `tfrecord_dir` is relative to. None = the working folder.
        verbose:      Print what was opened?
        class_name:   'training.dataset.TFRecordDataset' or 'training.dataset.SyntheticDataset', also without the
                      module. None = TFRecordDataset.
        kwargs:       Other arguments of the class.

    Raises:
        UserError:  As TFRecordDataset.
        ValueError: There is no such class.
    """
    cls = {name: cls for cls in _CLASSES for name in (None, cls.__name__, f'{cls.__module__}.{cls.__name__}')
           if name or cls is TFRecordDataset}.get(class_name)
    if cls is None or (tfrecord_dir is None) == (cls is TFRecordDataset):
        raise ValueError('expected class_name TFRecordDataset with a tfrecord_dir, or SyntheticDataset without one. '
                         f'Received: {class_name!r}, {tfrecord_dir!r}')
    if verbose:
        print(f'Streaming data using {cls.__module__}.{cls.__name__}...')
    folder = {} if tfrecord_dir is None else {'tfrecord_dir': storage.join(data_dir or '', tfrecord_dir)}
    dataset = cls(**folder, **kwargs)
    if verbose:
        print('Dataset shape =', dataset.shape)
        print('Dynamic range =', dataset.dynamic_range)
        print('Label size    =', dataset.label_size)
    return dataset
