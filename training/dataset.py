"""Streaming images and labels from multi-resolution TFRecords (file format: training/data/tfrecords.py) by tf.data."""

import os

import numpy as np
import tensorflow as tf

from dnnlib import storage
from dnnlib.cli import UserError
from training.data import tfrecords

_MAX_PREFETCH_BATCHES = 16  # More hides no more waiting, it only takes memory.
_PARALLEL_READS = 8         # Records that are fetched at the same time, for disks and networks that let one wait.


class TFRecordDataset:
    """Images [C, H, W] and their labels, shuffled and repeated, at any level of detail.

    Args:
        tfrecord_dir:   Folder made by dataset_tool.py.
        resolution:     Side of the images of lod 0, in pixels. None = the largest in the folder.
        label_file:     .npy of labels, as a path or as a name in tfrecord_dir. None = the first *.labels there, if any.
        max_label_size: Use at most the first so many components of the labels; 0 = no labels, 'full' = all.
        max_images:     Use the first so many images only. None = all.
        repeat:         Go round and round? Otherwise one epoch.
        shuffle_mb:     0 = order of the files. Any other number shuffles: the records are picked one by one, each epoch in
                        another random order of the whole dataset, which takes no memory, whatever the number.
        prefetch_mb:    Memory for reading ahead, in megabytes of decoded images; 0 = do not read ahead.
        buffer_mb:      Size of the read buffer in megabytes, for reading in order of the files.
        num_threads:    Minibatches decoded at the same time.

    Attributes:
        shape:           [C, H, W] at lod 0.
        resolution:      H = W.
        resolution_log2: log2 of it. lod k holds images of resolution >> k, down to 4x4.
        dtype:           'uint8'.
        dynamic_range:   [0, 255].
        num_images:      Images in an epoch.
        label_file:      Path of the labels in use. None = there are none.
        label_size:      Components of a label, 0 without labels.
        label_dtype:     'float32'.
        labels:          float32 [num_images, label_size], in the order of the files.

    Raises:
        UserError:  The folder, one of its files, the resolution or the label file is missing or not as it should be.
        ValueError: An argument makes no sense.
    """

    def __init__(self, tfrecord_dir, resolution=None, label_file=None, max_label_size=0, max_images=None, repeat=True,
                 shuffle_mb=4096, prefetch_mb=2048, buffer_mb=256, num_threads=2):
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
            raise UserError(f'{tfrecord_dir} has no images of resolution {resolution}; it has {sizes}', 'Ask for one of these.')
        self.shape = [files.channels, self.resolution, self.resolution]
        self.dtype = 'uint8'
        self.dynamic_range = [0, 255]
        self.num_images = files.num_images if max_images is None else min(files.num_images, max_images)
        self.label_file = self._find_label_file(files, label_file)
        self.labels = self._load_labels(files.num_images, max_label_size)  # [num_images, label_size]
        self.label_size = self.labels.shape[1]
        self.label_dtype = self.labels.dtype.name
        with tf.device('CPU:0'):  # However many classes, they take no memory of an accelerator.
            self._tf_labels = tf.constant(self.labels)
        self._levels = files.levels
        self._record_starts = files.record_starts
        self._repeat = repeat
        self._shuffle_mb = shuffle_mb
        self._prefetch_mb = prefetch_mb
        self._buffer_mb = buffer_mb
        self._num_threads = num_threads
        self._minibatches = None      # Iterator of get_minibatch_np and
        self._minibatches_key = None  # the arguments it was made for.

    def _find_label_file(self, files, label_file):
        if label_file is None:
            return files.label_file
        for path in [label_file, os.path.join(self.tfrecord_dir, label_file)]:
            if storage.is_file(path):
                return path
        raise UserError(f'label file {label_file} not found, neither by itself nor in {self.tfrecord_dir}', 'Check the name.')

    def _load_labels(self, file_images, max_label_size):
        if self.label_file is None or max_label_size == 0:
            return np.zeros([self.num_images, 0], np.float32)
        labels = tfrecords.load_labels(self.label_file, file_images)
        return labels[:self.num_images, :None if max_label_size == 'full' else max_label_size]

    def make_dataset(self, minibatch_size, lod=0, seed=None, start=0, rows=None):
        """The stream of minibatches as a tf.data.Dataset.

        Args:
            minibatch_size: Images in a minibatch. Without `repeat` the last one may have fewer.
            lod:            Level of detail, from 0 = full resolution to resolution_log2 - 2 = 4x4; a fraction is dropped.
            seed:           Fixes the order. None = a seed drawn from NumPy's global generator.
            start:          Number of images of the stream to skip, at no cost. Image k of the stream depends on `seed` and k
                            alone, neither on `start` nor on the size of the minibatches or the lod.
            rows:           (first, last + 1) of the rows of each minibatch that are wanted. The records of the others are not read.
                            None = all.

        Returns:
            tf.data.Dataset of (images uint8 [N, C, H >> lod, W >> lod], labels float32 [N, label_size]), N = minibatch_size or the number
            of `rows`. An epoch holds each image exactly once. Reading it raises tf.errors.DataLossError or InvalidArgumentError
            at a damaged record (`iterate` says which file).
        """
        if minibatch_size < 1 or start < 0:
            raise ValueError(f'expected minibatch_size above 0 and start from 0, got {minibatch_size!r}, {start!r}')
        seed = np.random.randint(1 << 31) if seed is None else seed
        path, shape = self._level(lod)
        choice = None if rows is None else (minibatch_size, slice(*rows))
        data = self._records(path, self._record_starts[shape[-1].bit_length() - 1], seed, start, choice)
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

    def _records(self, path, starts, seed, start, choice):
        """tf.data.Dataset of (record of the file `path`, its number), from position `start` on.

        Args:
            starts: Where the records begin: see tfrecords.DatasetFiles.
            choice: (n, slice): of every n records take that slice. None = take all.
        """
        size, (first_epoch, skipped) = self.num_images, divmod(start, self.num_images)
        record_bytes = starts if isinstance(starts, int) else int(np.diff(starts, append=storage.size(path)).max())
        starts = starts if isinstance(starts, int) else tf.constant(starts)
        in_a_row = self._shuffle_mb == 0 and choice is None

        def records_from(number, buffer_bytes):
            offset = number * starts if isinstance(starts, int) else starts[number]
            records = tf.raw_ops.TFRecordDatasetV2(filenames=[path], compression_type='', buffer_size=buffer_bytes, byte_offsets=[offset])
            return tf.data.experimental.from_variant(records, tf.TensorSpec([], tf.string))

        def pick(number):
            return records_from(number, record_bytes).take(1).get_single_element(), number

        def one_epoch(epoch):
            begin = tf.where(epoch == first_epoch, tf.constant(skipped, tf.int64), 0)
            if in_a_row:
                buffer_bytes = max(min(self._buffer_mb << 20, storage.size(path)), 1)
                return tf.data.Dataset.zip(records_from(begin, buffer_bytes), tf.data.Dataset.range(begin, size))
            order = tf.range(size, dtype=tf.int64)
            if self._shuffle_mb != 0:
                order = tf.random.experimental.stateless_shuffle(order, tf.stack([tf.constant(seed, tf.int64), epoch]))
            return tf.data.Dataset.from_tensor_slices(order[begin:])

        last_epoch = np.iinfo(np.int64).max // size if self._repeat else 1
        data = tf.data.Dataset.range(first_epoch, last_epoch).flat_map(one_epoch)
        if in_a_row:
            return data
        if choice is not None:
            data = data.batch(choice[0]).flat_map(lambda numbers: tf.data.Dataset.from_tensor_slices(numbers[choice[1]]))
        return data.map(pick, num_parallel_calls=_PARALLEL_READS, deterministic=True)

    def iterate(self, minibatch_size, lod=0, seed=None, start=0, rows=None):
        """Yield the minibatches of `make_dataset`; a damaged record raises UserError with the name of the file."""
        data = self.make_dataset(minibatch_size, lod, seed, start, rows)
        try:
            yield from data
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as err:
            raise UserError(f'{self._level(lod)[0]} is damaged: {err.message.splitlines()[0]}',
                            'Make the dataset again with dataset_tool.py, or copy it anew.') from err

    def get_minibatch_np(self, minibatch_size, lod=0):
        """Next minibatch as NumPy arrays; shapes as in `make_dataset`. Goes on where the last call stopped, or starts
        anew if the arguments changed. Raises StopIteration at the end if the dataset does not repeat."""
        if self._minibatches_key != (minibatch_size, lod):
            self._minibatches_key = (minibatch_size, lod)
            self._minibatches = self.iterate(minibatch_size, lod)
        images, labels = next(self._minibatches)
        return images.numpy(), labels.numpy()

    def get_random_labels_np(self, minibatch_size):
        """Labels of random images, drawn with NumPy's global generator: float32 [minibatch_size, label_size]."""
        return self.labels[np.random.randint(self.num_images, size=[minibatch_size])]

    def get_random_labels_tf(self, minibatch_size):
        """Labels of random images, drawn with TensorFlow's global generator: float32 tensor [minibatch_size, label_size]."""
        with tf.device('CPU:0'):
            return tf.gather(self._tf_labels, tf.random.uniform([minibatch_size], 0, self.num_images, tf.int32))

    def content_digest(self, lod=0):
        """What tells the images of level `lod` from those of other datasets: see `tfrecords.content_digest`."""
        return tfrecords.content_digest(self._level(lod)[0])

    def _level(self, lod):
        """Path and shape [C, H, W] of the images of level `lod`."""
        lod = int(np.floor(lod))
        if not 0 <= lod <= self.resolution_log2 - 2:
            raise ValueError(f'expected lod from 0 to {self.resolution_log2 - 2}, got {lod}')
        return self._levels[self.resolution_log2 - lod], [self.shape[0], self.resolution >> lod, self.resolution >> lod]


def _items_in(megabytes, item_bytes):
    """Number of items that reach `megabytes`, at least 1."""
    return -(-(megabytes << 20) // item_bytes)


def load_dataset(tfrecord_dir, data_dir=None, verbose=False, **kwargs):
    """Open a TFRecordDataset.

    Args:
        tfrecord_dir: Its folder.
        data_dir:     Folder that `tfrecord_dir` is relative to. None = the working folder.
        verbose:      Print what was opened?
        kwargs:       Other arguments of TFRecordDataset.
    """
    if verbose:
        print(f'Streaming data using {TFRecordDataset.__module__}.{TFRecordDataset.__name__}...')
    dataset = TFRecordDataset(os.path.join(data_dir or '', tfrecord_dir), **kwargs)
    if verbose:
        print('Dataset shape =', dataset.shape)
        print('Dynamic range =', dataset.dynamic_range)
        print('Label size    =', dataset.label_size)
    return dataset
