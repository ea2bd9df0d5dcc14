"""Streams images and labels from multi-resolution TFRecords with tf.data.

The file format is described in training/data/tfrecords.py.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import numpy as np
import tensorflow as tf

from dnnlib import storage
from dnnlib.cli import UserError
from training.data import tfrecords

_MAX_PREFETCH_BATCHES = 16  # More would only take memory.
_PARALLEL_READS = 8         # Records that are read at the same time, to hide the latency of disks and networks.


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
        buffer_mb:      Size of the read buffer in megabytes, used when reading in the order of the files.
        num_threads:    Number of minibatches decoded at the same time.

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
        self._repeat = repeat
        self._shuffle_mb = shuffle_mb
        self._prefetch_mb = prefetch_mb
        self._buffer_mb = buffer_mb
        self._num_threads = num_threads
        self._minibatches: Any = None  # Iterator of get_minibatch_np.
        self._minibatches_key = None   # The arguments it was made for.

    def _find_label_file(self, files, label_file):
        if label_file is None:
            return files.label_file
        for path in [label_file, os.path.join(self.tfrecord_dir, label_file)]:
            if storage.is_file(path):
                return path
        raise UserError(f'label file {label_file} not found, neither by itself nor in {self.tfrecord_dir}',
                        'Check the name.')

    def _load_labels(self, file_images, max_label_size):
        if self.label_file is None or max_label_size == 0:
            return np.zeros([self.num_images, 0], np.float32)
        labels = tfrecords.load_labels(self.label_file, file_images)
        return labels[:self.num_images, :None if max_label_size == 'full' else max_label_size]

    def make_dataset(self, minibatch_size: int, lod: float = 0, seed: int | None = None, start: int = 0,
                     rows: tuple[int, int] | None = None) -> tf.data.Dataset:
        """Make the stream of minibatches as a tf.data.Dataset.

        Args:
            minibatch_size: Images in a minibatch. Without `repeat` the last one may have fewer.
            lod:            Level of detail, from 0 = full resolution to resolution_log2 - 2 = 4x4, rounded down.
            seed:           Fixes the order. None = a seed drawn from NumPy's global generator.
            start:          Number of images of the stream to skip, at no cost. Image k of the stream depends only on
                            `seed` and k, not on `start`, the size of the minibatches or the lod.
            rows:           (first, last + 1): return only these rows of each minibatch. Other records are not read.
                            None = all.

        Returns:
            tf.data.Dataset of (images uint8 [N, C, H >> lod, W >> lod], labels float32 [N, label_size]), where N is
            minibatch_size or the number of `rows`. An epoch holds each image exactly once. At a damaged record it
            raises tf.errors.DataLossError or InvalidArgumentError; see `iterate`.

        Raises:
            ValueError: An argument is out of range.
        """
        if minibatch_size < 1 or start < 0:
            raise ValueError(f'expected minibatch_size above 0 and start from 0, got {minibatch_size!r}, {start!r}')
        seed = np.random.randint(1 << 31) if seed is None else seed
        path, shape = self._level(lod)
        selection = None if rows is None else (minibatch_size, slice(*rows))
        data = self._records(path, self._record_starts[shape[-1].bit_length() - 1], seed, start, selection)
        size = minibatch_size if rows is None else rows[1] - rows[0]
        data = data.batch(size, drop_remainder=self._repeat)

        def decode(batch, indices):  # [N] serialized, [N] int64
            pixels = tf.io.parse_example(batch, {'data': tf.io.FixedLenFeature([], tf.string)})['data']
            images = tf.reshape(tf.io.decode_raw(pixels, tf.uint8), [-1, *shape])  # [NCHW]
            images = tf.ensure_shape(images, [size if self._repeat else None, *shape])
            with tf.device('CPU:0'):
                return images, tf.gather(self._tf_labels, indices)

        data = data.map(decode, num_parallel_calls=self._num_threads)
        if self._prefetch_mb > 0:
            data = data.prefetch(min(_items_in(self._prefetch_mb, int(np.prod(shape)) * size), _MAX_PREFETCH_BATCHES))
        return data

    def _records(self, path, starts, seed, start, selection):
        """tf.data.Dataset of (record of the file `path`, its number), from position `start` on.

        Args:
            starts:    Record starts of the file: see tfrecords.DatasetFiles.
            selection: (n, slice): of every n records take that slice. None = take all.
        """
        size, (first_epoch, skipped) = self.num_images, divmod(start, self.num_images)
        record_bytes = starts if isinstance(starts, int) else int(np.diff(starts, append=storage.size(path)).max())
        starts = starts if isinstance(starts, int) else tf.constant(starts)
        sequential = self._shuffle_mb == 0 and selection is None

        def records_from(number, buffer_bytes):
            offset = number * starts if isinstance(starts, int) else starts[number]
            records = tf.raw_ops.TFRecordDatasetV2(
                filenames=[path], compression_type='', buffer_size=buffer_bytes, byte_offsets=[offset])
            return tf.data.experimental.from_variant(records, tf.TensorSpec([], tf.string))

        def read_one(number):
            return records_from(number, record_bytes).take(1).get_single_element(), number

        def one_epoch(epoch):
            begin = tf.where(epoch == first_epoch, tf.constant(skipped, tf.int64), 0)
            if sequential:
                buffer_bytes = max(min(self._buffer_mb << 20, storage.size(path)), 1)
                return tf.data.Dataset.zip(records_from(begin, buffer_bytes), tf.data.Dataset.range(begin, size))
            order = tf.range(size, dtype=tf.int64)
            if self._shuffle_mb != 0:
                key = tf.stack([tf.constant(seed, tf.int64), epoch])
                order = tf.random.experimental.stateless_shuffle(order, key)
            return tf.data.Dataset.from_tensor_slices(order[begin:])

        last_epoch = np.iinfo(np.int64).max // size if self._repeat else 1
        data = tf.data.Dataset.range(first_epoch, last_epoch).flat_map(one_epoch)
        if sequential:
            return data
        if selection is not None:
            minibatch_size, part = selection
            groups = data.batch(minibatch_size)
            data = groups.flat_map(lambda numbers: tf.data.Dataset.from_tensor_slices(numbers[part]))
        return data.map(read_one, num_parallel_calls=_PARALLEL_READS, deterministic=True)

    def iterate(self, minibatch_size: int, lod: float = 0, seed: int | None = None, start: int = 0,
                rows: tuple[int, int] | None = None) -> Generator[tuple[tf.Tensor, tf.Tensor], None, None]:
        """Yield the minibatches of `make_dataset`. Arguments as there.

        Raises:
            UserError: A record is damaged; the message names the file.
        """
        data = self.make_dataset(minibatch_size, lod, seed, start, rows)
        try:
            yield from data
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as err:
            raise UserError(f'{self._level(lod)[0]} is damaged: {err.message.splitlines()[0]}',
                            'Make the dataset again with dataset_tool.py, or copy it again.') from err

    def get_minibatch_np(self, minibatch_size: int, lod: float = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the next minibatch as NumPy arrays; arguments and shapes as in `make_dataset`.

        Each call continues where the last one stopped; a call with other arguments starts a new stream.

        Raises:
            StopIteration: The dataset does not repeat, and has come to its end.
        """
        if self._minibatches_key != (minibatch_size, lod):
            self._minibatches_key = (minibatch_size, lod)
            self._minibatches = self.iterate(minibatch_size, lod)
        images, labels = next(self._minibatches)
        return images.numpy(), labels.numpy()

    def get_random_labels_np(self, minibatch_size: int) -> np.ndarray:
        """Draw labels of random images with NumPy's global generator: float32 [minibatch_size, label_size]."""
        return self.labels[np.random.randint(self.num_images, size=[minibatch_size])]

    def get_random_labels_tf(self, minibatch_size: int) -> tf.Tensor:
        """As `get_random_labels_np`, but a tensor drawn with TensorFlow's global generator."""
        with tf.device('CPU:0'):
            return tf.gather(self._tf_labels, tf.random.uniform([minibatch_size], 0, self.num_images, tf.int32))

    def content_digest(self, lod: float = 0) -> str:
        """Return a digest of the images of level `lod`: see `tfrecords.content_digest`."""
        return tfrecords.content_digest(self._level(lod)[0])

    def _level(self, lod):
        """Path and shape [C, H, W] of the images of level `lod`."""
        lod = int(np.floor(lod))
        if not 0 <= lod <= self.resolution_log2 - 2:
            raise ValueError(f'expected lod from 0 to {self.resolution_log2 - 2}, got {lod}')
        return self._levels[self.resolution_log2 - lod], [self.shape[0], self.resolution >> lod, self.resolution >> lod]


def _items_in(megabytes, item_bytes):
    """Number of items that take at least `megabytes`; at least 1."""
    return -(-(megabytes << 20) // item_bytes)


def load_dataset(tfrecord_dir: str, data_dir: str | None = None, verbose: bool = False,
                 **kwargs: Any) -> TFRecordDataset:
    """Open a TFRecordDataset.

    Args:
        tfrecord_dir: Folder of the dataset.
        data_dir:     Folder that `tfrecord_dir` is relative to. None = the working folder.
        verbose:      Print what was opened?
        kwargs:       Other arguments of TFRecordDataset.

    Raises:
        UserError: As TFRecordDataset.
    """
    if verbose:
        print(f'Streaming data using {TFRecordDataset.__module__}.{TFRecordDataset.__name__}...')
    dataset = TFRecordDataset(os.path.join(data_dir or '', tfrecord_dir), **kwargs)
    if verbose:
        print('Dataset shape =', dataset.shape)
        print('Dynamic range =', dataset.dynamic_range)
        print('Label size    =', dataset.label_size)
    return dataset
