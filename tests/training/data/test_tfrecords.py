"""Dataset files: the same bytes as TensorFlow's own writer, and all damage is noticed."""

import os
import random
import struct
import subprocess
import sys

import numpy as np
import pytest

from dnnlib.cli import UserError
from tests import ROOT
from training.data import dataset_writer, example_proto, tfrecords


def random_images(count, channels=3, resolution=16, seed=0):
    return np.random.RandomState(seed).randint(0, 256, [count, channels, resolution, resolution]).astype(np.uint8)


def write_dataset(folder, images, labels=None, force=False):
    with dataset_writer.new_dataset(folder, force) as writer:
        for image in images:
            writer.add_image(image)
        if labels is not None:
            writer.add_labels(labels)


def encode_example(image):
    """[C, H, W] -> the data of its record, bytes."""
    return tfrecords.encode_records(image[np.newaxis])[0, 12:-4].tobytes()


def frame_record(data):
    """Data of a record -> the bytes of the record in a .tfrecords file."""
    return tfrecords._frame_header(len(data)) + data + tfrecords._masked_crc(data)


def tf_example(**features):
    import tensorflow as tf
    return tf.train.Example(features=tf.train.Features(feature={
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) if isinstance(value, bytes)
        else tf.train.Feature(int64_list=tf.train.Int64List(value=value)) for name, value in features.items()}))


# ---- Format ----

def test_files_are_the_bytes_of_tensorflows_own_writer(tmp_path):
    import tensorflow as tf
    images = random_images(3)
    write_dataset(tmp_path / 'ours', images)
    with tf.io.TFRecordWriter(str(tmp_path / 'theirs')) as writer:
        for image in images:
            writer.write(tf_example(shape=image.shape, data=image.tobytes()).SerializeToString(deterministic=True))
    assert (tmp_path / 'ours' / 'ours-r04.tfrecords').read_bytes() == (tmp_path / 'theirs').read_bytes()


@pytest.mark.parametrize('channels, resolution', [(1, 4), (3, 32), (4, 128)])
def test_example_of_any_size_is_tensorflows(channels, resolution):
    image = random_images(1, channels, resolution)[0]
    theirs = tf_example(shape=image.shape, data=image.tobytes()).SerializeToString(deterministic=True)
    assert encode_example(image) == theirs


def test_tf_data_reads_every_level(tmp_path):
    import tensorflow as tf
    images = random_images(5)
    write_dataset(tmp_path / 'ours', images)
    for level in (2, 3, 4):
        records = tf.data.TFRecordDataset(str(tmp_path / 'ours' / f'ours-r{level:02d}.tfrecords'))
        parsed = [tf.train.Example.FromString(record) for record in records.as_numpy_iterator()]
        shapes = [list(example.features.feature['shape'].int64_list.value) for example in parsed]
        assert shapes == [[3, 2 ** level, 2 ** level]] * 5
        boxes = images.astype(np.float64).reshape(5, 3, 2 ** level, 16 >> level, 2 ** level, 16 >> level)
        expected = boxes.mean(axis=(3, 5))
        found = [np.frombuffer(example.features.feature['data'].bytes_list.value[0], np.uint8) for example in parsed]
        np.testing.assert_array_equal(np.reshape(found, expected.shape), np.rint(expected))


def test_decode_takes_features_in_any_order_and_unpacked_numbers():
    image = random_images(1, 1, 4)[0]

    def field(number, payload):
        return bytes([number << 3 | 2, len(payload)]) + payload

    shape = field(1, field(1, b'shape') + field(2, field(3, b'\x08\x01\x08\x04\x08\x04')))
    data = field(1, field(1, b'data') + field(2, field(1, field(1, image.tobytes()))))
    other = field(1, field(1, b'other') + field(2, field(3, b'\x08\x07')))
    for parts in ([shape, data, other], [other, data, shape]):
        np.testing.assert_array_equal(example_proto.decode_example(field(1, b''.join(parts))), image)


def test_decode_refuses_what_is_no_image():
    good = encode_example(random_images(1, 1, 4)[0])
    bad = [b'', b'\x00', b'\x0a', b'\xff' * 20, good[:-1], good + b'\x0a\xff\x01',
           tf_example(shape=[1, 4, 4]).SerializeToString(), tf_example(data=b'x' * 16).SerializeToString(),
           tf_example(shape=[4, 4], data=b'x' * 16).SerializeToString(),
           tf_example(shape=[1, 4, 5], data=b'x' * 16).SerializeToString(),
           tf_example(shape=[-1, -4, 4], data=b'x' * 16).SerializeToString(),
           tf_example(shape=b'144', data=[1]).SerializeToString()]
    for record in bad:
        with pytest.raises(ValueError):
            example_proto.decode_example(record)


def test_decode_of_mutilated_records_raises_nothing_but_valueerror():
    good = encode_example(random_images(1, 1, 4)[0])
    rnd = random.Random(0)
    refused = 0
    for _ in range(2000):
        record = bytearray(good)
        for _ in range(rnd.randint(1, 4)):
            record[rnd.randrange(len(record))] = rnd.randrange(256)
        try:
            assert example_proto.decode_example(bytes(record)).size == 16
        except ValueError:
            refused += 1
    assert refused > 500


def test_needs_no_tensorflow():
    code = 'import sys, dataset_tool, training.data.tfrecords; sys.exit("tensorflow" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0


# ---- Damage ----

def test_every_flipped_byte_is_noticed_and_its_record_named(tmp_path):
    write_dataset(tmp_path / 'a', random_images(3, 1, 4))
    path = tmp_path / 'a' / 'a-r02.tfrecords'
    good = path.read_bytes()
    record_bytes = len(good) // 3
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1:])
        with pytest.raises(UserError, match=f'a-r02.tfrecords: record {position // record_bytes} is damaged'):
            list(tfrecords.read_records(path))


def test_file_cut_anywhere_is_noticed_at_opening(tmp_path):
    write_dataset(tmp_path / 'a', random_images(3, 1, 4))
    path = tmp_path / 'a' / 'a-r02.tfrecords'
    good = path.read_bytes()
    record_bytes = len(good) // 3
    for length in range(1, len(good)):
        if length % record_bytes:
            path.write_bytes(good[:length])
            with pytest.raises(UserError, match=f'record {length // record_bytes} is damaged .the file ends inside it'):
                tfrecords.find_dataset(tmp_path / 'a')


def test_absurd_length_is_not_believed(tmp_path):
    length = struct.pack('<Q', 1 << 60)
    crc = frame_record(length)[-4:]
    (tmp_path / 'a.tfrecords').write_bytes(length + crc + b'x' * 100)
    with pytest.raises(UserError, match='record 0 is damaged .the file ends inside it'):
        list(tfrecords.read_records(tmp_path / 'a.tfrecords'))


def test_record_that_is_no_image_is_named(tmp_path):
    image = encode_example(random_images(1, 1, 4)[0])
    (tmp_path / 'a.tfrecords').write_bytes(frame_record(image) + frame_record(b'hello'))
    with pytest.raises(UserError, match='a.tfrecords: record 1 is damaged .not an image'):
        list(tfrecords.read_images(tmp_path / 'a.tfrecords'))


# ---- find_dataset ----

def test_find_dataset_describes_what_is_there(tmp_path):
    write_dataset(tmp_path / 'a', random_images(3, 1, 32), np.eye(3))
    files = tfrecords.find_dataset(tmp_path / 'a')
    assert sorted(files.levels) == [2, 3, 4, 5] and files.largest == str(tmp_path / 'a' / 'a-r05.tfrecords')
    assert (files.channels, files.num_images, files.resolution_log2) == (1, 3, 5)
    assert files.label_file == str(tmp_path / 'a' / 'a-rxx.labels')


def test_records_that_carry_more_are_counted_too(tmp_path):
    with open(tmp_path / 'a-r02.tfrecords', 'wb') as file:
        for comment in (b'', b'long', b'longer still'):
            file.write(frame_record(tf_example(shape=[1, 4, 4], data=b'x' * 16, comment=comment).SerializeToString()))
    assert tfrecords.find_dataset(tmp_path).num_images == 3


def break_missing_level(folder):
    (folder / 'a-r03.tfrecords').unlink()
    return 'no images of 8x8 .file NAME-r03.tfrecords'


def break_level_with_fewer_records(folder):
    path = folder / 'a-r03.tfrecords'
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 3 * 2])
    return 'a-r03.tfrecords holds 2 images of 3 channels, but .*a-r02.tfrecords holds 3 of 3'


def break_level_of_other_channels(folder):
    write_dataset(folder / 'b', random_images(3, 1, 8))
    os.replace(folder / 'b' / 'b-r03.tfrecords', folder / 'a-r03.tfrecords')
    return 'a-r03.tfrecords holds 3 images of 1 channels, but'


def break_second_dataset_in_the_folder(folder):
    write_dataset(folder / 'b', random_images(3, 3, 4))
    os.replace(folder / 'b' / 'b-r02.tfrecords', folder / 'b-r02.tfrecords')
    return 'b-r02.tfrecords and .*a-r02.tfrecords both hold images of 4x4'


def break_name(folder):
    os.replace(folder / 'a-r03.tfrecords', folder / 'a-r05.tfrecords')
    return 'a-r05.tfrecords holds images of 8x8, expected 32x32 from its name'


def break_empty_file(folder):
    (folder / 'a-r04.tfrecords').write_bytes(b'')
    return 'a-r04.tfrecords is empty'


def break_web_page(folder):
    (folder / 'a-r04.tfrecords').write_text('<!doctype html><p>Quota exceeded')
    return 'a-r04.tfrecords: record 0 is damaged .the checksum of its length'


def break_oblong_images(folder):
    (folder / 'a-r02.tfrecords').write_bytes(3 * frame_record(encode_example(np.zeros([3, 4, 8], np.uint8))))
    return 'a-r02.tfrecords holds images of 8x4, expected squares'


def break_all_files(folder):
    for path in folder.iterdir():
        path.unlink()
    return 'no .tfrecords files in'


@pytest.mark.parametrize('damage', [value for name, value in globals().items() if name.startswith('break_')])
def test_damaged_or_mixed_dataset_is_named_at_opening(tmp_path, damage):
    write_dataset(tmp_path / 'a', random_images(3))
    message = damage(tmp_path / 'a')
    with pytest.raises(UserError, match=message):
        tfrecords.find_dataset(tmp_path / 'a')


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match='dataset folder .*nowhere not found'):
        tfrecords.find_dataset(tmp_path / 'nowhere')


# ---- Labels ----

def test_labels_become_float32(tmp_path):
    np.save(tmp_path / 'a.npy', np.eye(3, dtype=np.int64))
    labels = tfrecords.load_labels(tmp_path / 'a.npy', 3)
    assert labels.dtype == np.float32 and labels.tolist() == np.eye(3).tolist()


@pytest.mark.parametrize('labels', [np.zeros([4, 2]), np.zeros([3]), np.zeros([3, 1, 1]), np.zeros([3, 2], complex),
                                    np.array([['a']] * 3)])
def test_labels_of_another_shape_or_type_are_refused(tmp_path, labels):
    np.save(tmp_path / 'a.npy', labels)
    with pytest.raises(UserError, match='a.npy: expected one row of numbers for each of 3 images, found'):
        tfrecords.load_labels(tmp_path / 'a.npy', 3)


def test_label_file_is_never_unpickled(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'attacked'),)

    attack = np.empty([3, 1], object)
    attack[:] = Attack()
    np.save(tmp_path / 'a.npy', attack, allow_pickle=True)
    with pytest.raises(UserError, match='a.npy is not a readable .npy file'):
        tfrecords.load_labels(tmp_path / 'a.npy', 3)
    assert not (tmp_path / 'attacked').exists()


@pytest.mark.parametrize('content', [
    b'', b'\x93NUMPY', b'label,1\n', b'PK\x03\x04', b'\x93NUMPY\x01\x00\x03\x00{[(',
    b"\x93NUMPY\x01\x00\x3f\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3, 9999999999)}"])
def test_garbage_as_labels_is_refused(tmp_path, content):
    (tmp_path / 'a.npy').write_bytes(content)
    with pytest.raises(UserError, match='a.npy is not a readable .npy file'):
        tfrecords.load_labels(tmp_path / 'a.npy', 3)
