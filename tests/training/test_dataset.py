"""Streaming: the original's minibatches, every image once per epoch, seeds, and clear errors for a bad dataset."""

import itertools
import os

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.cli import UserError
from tests import golden
from tests.training.data.test_tfrecords import frame_record
from training.data import dataset_writer, tfrecords
from training.data.record_reader import RecordReader
from training.dataset import TFRecordDataset, load_dataset

NUM_IMAGES = 50


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """50 images of 3x8x8 whose pixels rise along W from the number of the image; labels [number, -number, 1]."""
    folder = tmp_path_factory.mktemp('data') / 'counted'
    with dataset_writer.new_dataset(folder) as writer:
        for number in range(NUM_IMAGES):
            writer.add_image(np.broadcast_to(number + np.arange(8) // 2, [3, 8, 8]))
        numbers = np.arange(NUM_IMAGES)
        writer.add_labels(np.stack([numbers, -numbers, np.ones(NUM_IMAGES)], axis=1))
    return str(folder)


def numbers_of(images):
    return np.asarray(images).reshape(len(images), -1).min(axis=1).tolist()


def first_numbers(stream, minibatches):
    return [number for images, _ in itertools.islice(stream, minibatches) for number in numbers_of(images)]


# ---- Golden ----

@pytest.mark.golden
def test_opens_like_the_original(capsys):
    expected = golden.load_json('dataset/tfrecord_dataset.json')
    name = expected['label_file'].removesuffix('-rxx.labels')
    data = load_dataset(tfrecord_dir=name, data_dir=str(golden.GOLDEN / 'dataset'), verbose=True, max_label_size='full')
    assert capsys.readouterr().out == expected.pop('stdout')
    assert os.path.basename(data.label_file or '') == expected.pop('label_file')
    assert {key: getattr(data, key) for key in expected} == expected


@pytest.mark.golden
def test_minibatches_of_every_lod_are_the_originals():
    name = golden.load_json('dataset/tfrecord_dataset.json')['label_file'].removesuffix('-rxx.labels')
    arrays = golden.load_npz('dataset/tfrecord_dataset.npz')
    data = TFRecordDataset(golden.GOLDEN / 'dataset' / name, max_label_size='full', shuffle_mb=0)
    keys = sorted(key.removesuffix('_images') for key in arrays if key.endswith('_images'))
    assert keys and 2 * len(keys) == len(arrays)
    for key in keys:  # lod0/mb0, lod0/mb1, lod1/mb0, ...
        lod = int(key.split('/')[0].removeprefix('lod'))
        images, labels = data.get_minibatch_np(len(arrays[f'{key}_images']), lod)
        for found, expected in [(images, arrays[f'{key}_images']), (labels, arrays[f'{key}_labels'])]:
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


@pytest.mark.golden
def test_every_official_dataset_opens_and_reads_through():
    for folder in sorted({path.parent for path in (golden.GOLDEN / 'dataset').glob('*/*.tfrecords')}):
        data = TFRecordDataset(folder, repeat=False, shuffle_mb=0)
        for lod in range(data.resolution_log2 - 1):
            level = data.resolution_log2 - lod
            expected = list(tfrecords.read_images(folder / f'{folder.name}-r{level:02d}.tfrecords'))
            found = np.concatenate([images for images, _ in data.iterate(4, lod)])
            np.testing.assert_array_equal(found, expected)


# ---- Minibatches ----

def test_shapes_and_types_at_every_lod(folder):
    data = TFRecordDataset(folder, max_label_size=2)
    for lod, size in [(0, 8), (1, 4), (0.75, 8)]:
        images, labels = next(data.iterate(6, lod))
        assert (images.shape, images.dtype) == ([6, 3, size, size], tf.uint8)
        assert (labels.shape, labels.dtype) == ([6, 2], tf.float32)


def test_epoch_holds_each_image_once_with_its_label(folder):
    data = TFRecordDataset(folder, max_label_size='full', repeat=False)
    for lod in (0, 1):
        images, labels = (np.concatenate(part) for part in zip(*data.iterate(8, lod), strict=True))
        assert sorted(labels[:, 0]) == list(range(NUM_IMAGES)) != labels[:, 0].tolist()
        assert numbers_of(images) == labels[:, 0].tolist() == (-labels[:, 1]).tolist()


@pytest.mark.parametrize('shuffle_mb', [0, 4096])
def test_repeated_epochs_do_not_mix(folder, shuffle_mb):
    numbers = first_numbers(TFRecordDataset(folder, shuffle_mb=shuffle_mb).iterate(10), 15)
    epochs = [numbers[start:start + NUM_IMAGES] for start in range(0, 3 * NUM_IMAGES, NUM_IMAGES)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(NUM_IMAGES))
    assert (epochs[0] == epochs[1]) == (shuffle_mb == 0)


def test_same_seed_same_order(folder):
    data = TFRecordDataset(folder)

    def stream(seed):
        return np.stack([images for images, _ in itertools.islice(data.iterate(10, seed=seed), 10)])

    np.testing.assert_array_equal(stream(1), stream(1))
    assert not np.array_equal(stream(1), stream(2))
    assert not np.array_equal(stream(None), stream(None))


@pytest.mark.parametrize('shuffle_mb', [0, 1])
@pytest.mark.parametrize('start', [0, 1, 7, 49, 50, 123, 10 ** 9])
def test_the_stream_can_begin_anywhere(folder, shuffle_mb, start):
    """Image k depends only on the seed and k, not on where the stream began, the size of the minibatches or the lod."""
    data = TFRecordDataset(folder, shuffle_mb=shuffle_mb, max_label_size='full')

    def stream(minibatch_size, count, **kwargs):
        minibatches = data.iterate(minibatch_size, seed=11, **kwargs)
        images, labels = zip(*itertools.islice(minibatches, count // minibatch_size))
        return np.concatenate(images), np.concatenate(labels)

    if start < 10 ** 9:
        for found, expected in zip(stream(5, 110, start=start), stream(1, start + 110), strict=True):
            np.testing.assert_array_equal(found, expected[start:])
    images, labels = stream(10, 110, start=start)
    smaller, same_labels = stream(11, 110, start=start, lod=1)
    np.testing.assert_array_equal(labels, same_labels)
    np.testing.assert_array_equal(images[:, :, ::2, ::2], smaller)


def test_records_of_different_lengths_can_be_picked(folder, tmp_path):
    """Such records hold more features than the image. Their offsets are found by reading all headers."""
    target = tmp_path / 'odd'
    target.mkdir()
    for level in (2, 3):
        with open(target / f'odd-r{level:02d}.tfrecords', 'wb') as file:
            for number, record in enumerate(tfrecords.read_records(f'{folder}/counted-r{level:02d}.tfrecords')):
                more = tf.train.Example(features=tf.train.Features(feature={
                    'more': tf.train.Feature(bytes_list=tf.train.BytesList(value=[bytes(number % 7)]))}))
                file.write(frame_record(record + more.SerializeToString()))
    for shuffle_mb in (0, 1):
        numbers = first_numbers(TFRecordDataset(target, shuffle_mb=shuffle_mb).iterate(10, seed=3, start=20), 8)
        assert sorted(numbers[30:]) == list(range(NUM_IMAGES))
        assert (numbers[30:] == sorted(numbers[30:])) == (shuffle_mb == 0)
        plain = TFRecordDataset(folder, shuffle_mb=shuffle_mb)
        assert numbers == first_numbers(plain.iterate(10, seed=3, start=20), 8)


def test_every_order_is_as_likely(tmp_path):
    """Chi-squared test of where the first image of an epoch comes from, and of its distance to the second."""
    with dataset_writer.new_dataset(tmp_path / 'a') as writer:
        for number in range(10):
            writer.add_image(np.full([1, 4, 4], number))
    data = TFRecordDataset(tmp_path / 'a')
    epochs = np.reshape(first_numbers(data.iterate(1000, seed=5), 20), [2000, 10])
    firsts, steps = np.bincount(epochs[:, 0]), np.bincount((epochs[:, 1] - epochs[:, 0]) % 10)[1:]
    # Limits that are exceeded by chance once in a thousand times, for 9 and 8 degrees of freedom.
    for counts, limit in [(firsts, 27.9), (steps, 26.1)]:
        assert np.sum((counts - counts.mean()) ** 2 / counts.mean()) < limit
    assert abs(np.corrcoef(epochs[:-1].ravel(), epochs[1:].ravel())[0, 1]) < 0.03


def test_max_images_limits_images_and_labels(folder):
    data = TFRecordDataset(folder, max_images=7, max_label_size='full')
    assert data.num_images == 7
    assert set(first_numbers(data.iterate(7), 4)) == set(range(7))
    assert set(data.get_random_labels_np(300)[:, 0]) == set(range(7))
    assert TFRecordDataset(folder, max_images=1000).num_images == NUM_IMAGES


def test_smaller_resolution_begins_at_its_level(folder):
    data = TFRecordDataset(folder, resolution=4)
    assert data.shape == [3, 4, 4] and data.resolution_log2 == 2
    assert data.get_minibatch_np(2)[0].shape == (2, 3, 4, 4)


def test_minibatch_np_goes_on_and_starts_anew_when_asked_for_others(folder):
    data = TFRecordDataset(folder, shuffle_mb=0)
    assert numbers_of(data.get_minibatch_np(3)[0]) == [0, 1, 2]
    assert numbers_of(data.get_minibatch_np(3)[0]) == [3, 4, 5]
    assert numbers_of(data.get_minibatch_np(2)[0]) == [0, 1]
    once = TFRecordDataset(folder, shuffle_mb=0, repeat=False)
    assert [len(once.get_minibatch_np(40)[0]) for _ in range(2)] == [40, 10]
    with pytest.raises(StopIteration):
        once.get_minibatch_np(40)


def test_without_prefetching_nothing_is_read_before_it_is_asked_for(folder, monkeypatch):
    data, read = TFRecordDataset(folder, shuffle_mb=0, prefetch_mb=0, buffer_mb=0), []
    reader, _ = data._level(0)

    def noted(self, numbers, images, original=RecordReader.read):
        if self is reader:  # Threads of streams that earlier tests have left may still read.
            read.extend(numbers.tolist())
        original(self, numbers, images)
    monkeypatch.setattr(RecordReader, 'read', noted)
    stream = data.iterate(4)
    assert read == []
    for end in (4, 8):
        assert numbers_of(next(stream)[0]) == list(range(end - 4, end)) and read == list(range(end))


@pytest.mark.parametrize('shuffle_mb', [0, 4096])
def test_each_level_is_opened_once(folder, monkeypatch, shuffle_mb):
    """Opening a file takes long on a network, and consecutive records are read at once."""
    data, opened, reads = TFRecordDataset(folder, shuffle_mb=shuffle_mb), [], []
    pread = os.pread
    monkeypatch.setattr('builtins.open', lambda path, *args, original=open, **kwargs: (
        opened.append(os.path.basename(path)), original(path, *args, **kwargs))[1])
    monkeypatch.setattr(os, 'pread', lambda *args: (reads.append(args), pread(*args))[1])
    for seed, lod in [(0, 0), (1, 0), (0, 1), (1, 1)]:
        first_numbers(data.iterate(50, seed=seed, lod=lod), 20)
    assert opened == ['counted-r03.tfrecords', 'counted-r02.tfrecords']
    assert (len(reads) < 4 * 40) == (shuffle_mb == 0)


def test_files_without_positioned_reads(folder, monkeypatch):
    """On Windows and at addresses, as many files are open as threads read."""
    numbers = first_numbers(TFRecordDataset(folder).iterate(10, seed=1), 20)
    monkeypatch.delattr(os, 'pread')
    monkeypatch.setattr('training.dataset._BYTES_PER_READ', 1)
    assert first_numbers(TFRecordDataset(folder).iterate(10, seed=1), 20) == numbers


# ---- Labels ----

def test_random_labels_are_rows_of_the_labels(folder):
    data = TFRecordDataset(folder, max_label_size='full')
    for labels in (data.get_random_labels_np(500), data.get_random_labels_tf(500).numpy()):
        assert labels.dtype == np.float32 and labels.shape == (500, 3)
        np.testing.assert_array_equal(labels[:, 0], -labels[:, 1])
        assert len(set(labels[:, 0])) == NUM_IMAGES
    np.random.seed(4)
    first = data.get_random_labels_np(9)
    np.random.seed(4)
    np.testing.assert_array_equal(first, data.get_random_labels_np(9))


@pytest.mark.parametrize('max_label_size, label_size', [(0, 0), (2, 2), (3, 3), (99, 3), ('full', 3)])
def test_label_size_is_limited(folder, max_label_size, label_size):
    data = TFRecordDataset(folder, max_label_size=max_label_size)
    assert data.label_size == label_size and data.label_dtype == 'float32'
    for labels in (data.get_minibatch_np(2)[1], data.get_random_labels_np(2), data.get_random_labels_tf(2)):
        assert labels.shape == (2, label_size)


def test_dataset_without_labels_gives_empty_ones(tmp_path):
    with dataset_writer.new_dataset(tmp_path / 'a') as writer:
        writer.add_image(np.zeros([1, 4, 4]))
    data = TFRecordDataset(tmp_path / 'a', max_label_size='full')
    assert data.label_file is None and data.label_size == 0
    assert data.get_minibatch_np(3)[1].shape == (3, 0)


def test_label_file_by_name_or_path(folder, tmp_path):
    np.save(tmp_path / 'other.npy', np.full([NUM_IMAGES, 1], 5))
    data = TFRecordDataset(folder, label_file=str(tmp_path / 'other.npy'), max_label_size='full')
    assert data.get_random_labels_np(1).tolist() == [[5]]
    assert TFRecordDataset(folder, label_file='counted-rxx.labels', max_label_size='full').label_size == 3
    with pytest.raises(UserError, match='label file nope.npy not found, neither by itself nor in'):
        TFRecordDataset(folder, label_file='nope.npy')


def test_labels_of_another_dataset_are_refused(folder, tmp_path):
    np.save(tmp_path / 'other.npy', np.zeros([NUM_IMAGES - 1, 1]))
    with pytest.raises(UserError,
                       match=r'other.npy: expected one row of numbers for each of 50 images, found float64 \[49, 1\]'):
        TFRecordDataset(folder, label_file=str(tmp_path / 'other.npy'), max_label_size='full')


# ---- Mistakes ----

def test_resolution_that_is_not_there_is_refused(folder):
    for resolution in (16, 6, 2):
        with pytest.raises(UserError, match=f'no images of resolution {resolution}; it has 4, 8'):
            TFRecordDataset(folder, resolution=resolution)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match='dataset folder .*nowhere not found'):
        load_dataset('nowhere', data_dir=str(tmp_path))


def test_full_shuffling_begins_before_all_is_read(tmp_path, monkeypatch):
    """A damaged record is reported only when it is reached."""
    monkeypatch.setattr(tfrecords, '_CHECKED_BYTES', 1)
    with dataset_writer.new_dataset(tmp_path / 'a') as writer:
        for number in range(50):
            writer.add_image(np.full([1, 4, 4], number))
    path = tmp_path / 'a' / 'a-r02.tfrecords'
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    data = TFRecordDataset(tmp_path / 'a', prefetch_mb=0, repeat=False, num_threads=1)
    read = []
    with pytest.raises(UserError, match='a-r02.tfrecords: record 25 is damaged '):
        for images, _ in data.iterate(1, seed=0):
            read += numbers_of(images)
    assert 0 < len(set(read)) == len(read) < 50 and 25 not in read


@pytest.mark.parametrize('arguments', [{'max_label_size': -1}, {'max_label_size': 'all'}, {'max_images': 0}])
def test_senseless_arguments_are_refused(folder, arguments):
    with pytest.raises(ValueError, match=f'expected {next(iter(arguments))}'):
        TFRecordDataset(folder, **arguments)


@pytest.mark.parametrize('arguments', [(0, 0), (4, 2), (4, -1), (4, 0, 1, -1)])
def test_senseless_minibatch_lod_or_start_is_refused(folder, arguments):
    with pytest.raises(ValueError, match='expected (minibatch_size|lod)'):
        TFRecordDataset(folder).iterate(*arguments)


def test_damage_that_opening_misses_is_reported_with_the_name_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tfrecords, '_CHECKED_BYTES', 1)  # as if the file were too large to be checked but for its ends
    with dataset_writer.new_dataset(tmp_path / 'a') as writer:
        for _ in range(9):
            writer.add_image(np.zeros([1, 8, 8]))
    path = tmp_path / 'a' / 'a-r03.tfrecords'
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    data = TFRecordDataset(tmp_path / 'a')
    data.get_minibatch_np(9, lod=1)
    with pytest.raises(UserError, match='a-r03.tfrecords: record 4 is damaged '):
        data.get_minibatch_np(9, lod=0)


def test_damaged_and_mixed_datasets_are_refused_before_training(tmp_path):
    for name, seed in [('a', 0), ('b', 1)]:
        with dataset_writer.new_dataset(tmp_path / name) as writer:
            for image in np.random.RandomState(seed).randint(0, 256, [9, 3, 16, 16]):
                writer.add_image(image)
    TFRecordDataset(tmp_path / 'a')
    path = tmp_path / 'a' / 'a-r03.tfrecords'
    good = path.read_bytes()
    path.write_bytes((tmp_path / 'b' / 'b-r03.tfrecords').read_bytes())
    with pytest.raises(UserError,
                       match='a-r03.tfrecords: record 0 is not the image of that record of .*a-r04.tfrecords'):
        TFRecordDataset(tmp_path / 'a')
    path.write_bytes(good[:len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1:])
    with pytest.raises(UserError, match='a-r03.tfrecords: record 4 is damaged'):
        TFRecordDataset(tmp_path / 'a')
