"""Writing datasets: levels, order, complete or not at all, one writer at a time."""

import hashlib
import os

import numpy as np
import pytest

from dnnlib.cli import UserError
from tests import golden
from tests.training.data.test_tfrecords import random_images, write_dataset
from training.data import dataset_writer, tfrecords


@pytest.mark.golden
def test_shuffled_order_is_the_originals():
    for count, expected in golden.load_json('dataset/shuffle_orders.json').items():
        order = dataset_writer.shuffled_order(int(count))
        assert order[:20].tolist() == expected['first20']
        assert hashlib.sha256(order.astype('<i8').tobytes()).hexdigest() == expected['sha256_int64']


# ---- Writing ----

def test_levels_are_means_of_the_unrounded_level_above(tmp_path):
    image = np.array([[0, 1, 0, 1], [1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]], np.float32)
    image = image.repeat(2, 0).repeat(2, 1)[None]
    image[:, ::2, ::2] += 1  # Quarters then occur already at 4x4.
    write_dataset(tmp_path / 'a', [image.repeat(2, 1).repeat(2, 2)])
    for level, size in [(2, 4), (3, 8), (4, 16)]:
        [stored] = tfrecords.read_images(tmp_path / 'a' / f'a-r{level:02d}.tfrecords')
        full = image.repeat(2, 1).repeat(2, 2)
        means = full.reshape(1, size, 16 // size, size, 16 // size).mean(axis=(2, 4))
        np.testing.assert_array_equal(stored, np.rint(means))


@pytest.mark.parametrize('resolution', [4, 8, 64, 1024])
def test_integer_and_float_arithmetic_give_the_same_levels(resolution):
    images = random_images(2, 3, resolution)
    images[1] = np.array([255, 254])[np.indices([resolution] * 2).sum(axis=0) // 2 % 2]  # The largest sums, and halves.
    for integers, floats in zip(dataset_writer._integer_levels(images), dataset_writer._float_levels(images),
                                strict=True):
        np.testing.assert_array_equal(integers, floats)


def test_images_of_any_memory_layout_are_stored_alike(tmp_path):
    [image] = random_images(1, 3, 16)
    turned = np.ascontiguousarray(image.transpose(1, 2, 0)).transpose(2, 0, 1)
    for name, each in [('a', image), ('b', turned), ('c', image.astype(np.float64))]:
        write_dataset(tmp_path / name / 'data', [each])
    assert len({(tmp_path / name / 'data' / 'data-r03.tfrecords').read_bytes() for name in 'abc'}) == 1


def test_values_are_rounded_half_to_even_and_clipped(tmp_path):
    image = np.array([-3, 0.5, 1.5, 300] * 4, np.float64).reshape(1, 4, 4)
    write_dataset(tmp_path / 'a', [image])
    [stored] = tfrecords.read_images(tmp_path / 'a' / 'a-r02.tfrecords')
    assert stored[0, 0].tolist() == [0, 0, 2, 255]


def test_same_images_same_bytes(tmp_path):
    for parent in ('one', 'two'):
        write_dataset(tmp_path / parent / 'data', random_images(4), np.eye(4))
    files = sorted(os.listdir(tmp_path / 'one' / 'data'))
    assert files == ['data-r02.tfrecords', 'data-r03.tfrecords', 'data-r04.tfrecords', 'data-rxx.labels', 'data.json']
    for name in files:
        assert (tmp_path / 'one' / 'data' / name).read_bytes() == (tmp_path / 'two' / 'data' / name).read_bytes()


@pytest.mark.golden
def test_label_file_is_the_originals(tmp_path):
    for path in sorted((golden.GOLDEN / 'dataset').glob('*/*.labels')):
        labels = np.load(path)
        name = path.parent.name
        write_dataset(tmp_path / name, random_images(len(labels), 1, 4), labels.astype(np.float64))
        assert (tmp_path / name / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize('max_images', [None, 2, 4, 9])
def test_source_with_images_to_leave_out_keeps_order_labels_and_limit(tmp_path, max_images):
    images = random_images(7, 1, 4)
    reasons = {1: None, 2: 'too dark', 5: None}
    source = dataset_writer.Source((1, 4, 4), range(7), lambda number: reasons.get(number, images[number]), 7,
                                   labels=np.eye(7), max_images=max_images)
    results = list(dataset_writer.write_source(tmp_path / 'a', source))
    expected = [0, 3, 4, 6][:max_images]
    num_results = expected[-1] + 1 if max_images == len(expected) else 7
    assert results == [reasons.get(number, True) for number in range(num_results)]
    files = tfrecords.find_dataset(tmp_path / 'a')
    np.testing.assert_array_equal(list(tfrecords.read_images(files.largest)), images[expected])
    assert files.label_file is not None
    np.testing.assert_array_equal(tfrecords.load_labels(files.label_file, len(expected)), np.eye(7)[expected])


@pytest.mark.parametrize('shape', [(3, 16, 8), (3, 12, 12), (3, 2, 2), (16, 16)])
def test_image_of_impossible_shape_is_refused(tmp_path, shape):
    with pytest.raises(ValueError, match='expected an image of shape'):
        write_dataset(tmp_path / 'a', [np.zeros(shape, np.uint8)])
    assert os.listdir(tmp_path) == []


def test_image_unlike_the_first_and_labels_of_other_count_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r'\[3, 16, 16\], as the first one, got \[3, 8, 8\]'):
        write_dataset(tmp_path / 'a', [random_images(1)[0], random_images(1, 3, 8)[0]])
    with pytest.raises(ValueError, match=r'\[2, label_size\], got \[3, 4\]'):
        write_dataset(tmp_path / 'a', random_images(2), np.zeros([3, 4]))
    assert os.listdir(tmp_path) == []


# ---- Complete or not at all ----

@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt, SystemExit])
def test_stopped_run_leaves_nothing(tmp_path, error):
    def images():
        yield from random_images(2)
        assert not (tmp_path / 'new').joinpath('a').exists()
        assert len(list((tmp_path / 'new').iterdir())) == 1  # the partial folder
        raise error

    with pytest.raises(error):
        write_dataset(tmp_path / 'new' / 'a', images())
    assert os.listdir(tmp_path) == []


def test_dataset_without_images_is_refused(tmp_path):
    with pytest.raises(UserError, match='no images'):
        write_dataset(tmp_path / 'a', [])
    assert os.listdir(tmp_path) == []


def test_existing_dataset_is_replaced_only_by_force(tmp_path):
    write_dataset(tmp_path / 'a', random_images(2), np.eye(2))
    with pytest.raises(UserError, match='exists and is not empty\n.*--force'):
        write_dataset(tmp_path / 'a', random_images(3, resolution=4))
    assert tfrecords.find_dataset(tmp_path / 'a').num_images == 2
    write_dataset(tmp_path / 'a', random_images(3, resolution=4), force=True)
    assert sorted(os.listdir(tmp_path / 'a')) == ['a-r02.tfrecords', 'a.json'] and os.listdir(tmp_path) == ['a']


def test_failed_replacement_keeps_the_old_dataset(tmp_path, monkeypatch):
    write_dataset(tmp_path / 'a', random_images(2))
    before = {path.name: path.read_bytes() for path in (tmp_path / 'a').iterdir()}
    with pytest.raises(RuntimeError), dataset_writer.new_dataset(tmp_path / 'a', force=True) as writer:
        writer.add_image(random_images(1)[0])
        raise RuntimeError
    replace = os.replace

    def failing_replace(source, target):
        if '.partial' in str(source):
            raise PermissionError(13, 'Permission denied')
        replace(source, target)

    monkeypatch.setattr(os, 'replace', failing_replace)
    with pytest.raises(PermissionError):
        write_dataset(tmp_path / 'a', random_images(3), force=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / 'a').iterdir()} == before
    assert os.listdir(tmp_path) == ['a']


def test_force_deletes_nothing_but_datasets(tmp_path):
    write_dataset(tmp_path / 'a', random_images(2))
    (tmp_path / 'a' / 'thesis.tex').write_text('years of work')
    with pytest.raises(UserError, match='holds thesis.tex'):
        write_dataset(tmp_path / 'a', random_images(3), force=True)
    assert len(os.listdir(tmp_path / 'a')) == 5


def test_target_may_be_an_empty_folder_but_not_a_file(tmp_path):
    (tmp_path / 'a').mkdir()
    write_dataset(tmp_path / 'a', random_images(2))
    assert tfrecords.find_dataset(tmp_path / 'a').num_images == 2
    (tmp_path / 'b').write_text('')
    with pytest.raises(UserError, match='not a folder'):
        write_dataset(tmp_path / 'b', random_images(2))


def test_trailing_slash_and_link_name_the_same_dataset(tmp_path):
    write_dataset(f'{tmp_path}/a/', random_images(1, 1, 4))
    assert sorted(os.listdir(tmp_path / 'a')) == ['a-r02.tfrecords', 'a.json']
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'link').symlink_to('elsewhere')
    write_dataset(tmp_path / 'link', random_images(1, 1, 4))
    assert sorted(os.listdir(tmp_path / 'elsewhere')) == ['link-r02.tfrecords', 'link.json']
    assert (tmp_path / 'link').is_symlink()
