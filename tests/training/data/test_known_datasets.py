"""The well-known datasets: the original's records from its inputs, and small invented files in the official formats."""

import gzip
import io
import os
import pathlib
import pickle
import subprocess
import sys

import h5py
import lmdb
import numpy as np
import PIL.Image
import pytest

from dnnlib.cli import UserError
from tests import ROOT, golden
from tests.commands.test_dataset_tool import digests_of_records, golden_digests, make_mnist_of_recipe, run, save_mnist
from training.data import dataset_writer, known_datasets, tfrecords


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def random_bytes(*shape, seed=0):
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def stored(folder):
    """Largest images [N, C, R, R] of a dataset, and its labels or None."""
    files = tfrecords.find_dataset(folder)
    labels = None if files.label_file is None else tfrecords.load_labels(files.label_file, files.num_images)
    return np.stack(list(tfrecords.read_images(files.largest))), labels


def assert_shuffled(folder, images, classes, num_classes):
    """The dataset holds the images in the original's shuffled order, with one-hot labels."""
    found, labels = stored(folder)
    order = dataset_writer.shuffled_order(len(images))
    np.testing.assert_array_equal(found, images[order])
    np.testing.assert_array_equal(labels, np.eye(num_classes)[np.asarray(classes)[order]])


def limit(monkeypatch, **counts):
    """Accept datasets with fewer images than the real ones have."""
    for name, count in counts.items():
        monkeypatch.setattr(known_datasets, f'_{name}_IMAGES', count)


# ---- Records of the original that are not stored, but made from recipes ----

@pytest.mark.slow
@pytest.mark.golden
def test_mnist_of_the_recipe_gives_the_originals_records():
    make_mnist_of_recipe('mnist')
    assert run('create_mnist', 'mnist_out', 'mnist') == 0
    assert digests_of_records('mnist_out') == golden_digests('mnist_out')


@pytest.mark.slow
@pytest.mark.golden
def test_cifar10_of_the_recipe_gives_the_originals_records():
    random = np.random.RandomState(8)
    os.mkdir('cifar')
    for number in range(1, 6):
        data = np.repeat(random.randint(0, 256, size=(10000, 48)).astype(np.uint8), 64, axis=1)
        labels = random.randint(0, 10, size=10000).tolist()  # Lists, as in the real files, on which the original fails.
        write_python2_pickle(f'cifar/data_batch_{number}', {'data': data, 'labels': labels})
    assert run('create_cifar10', 'cifar10_int32', 'cifar') == 0
    assert digests_of_records('cifar10_int32') == golden_digests('cifar10_int32')


@pytest.mark.golden
def test_celeba_crop_is_the_originals(monkeypatch):
    source = golden.GOLDEN / 'dataset' / 'src_celeba'
    limit(monkeypatch, CELEBA=len(list(source.glob('*/*.png'))))
    assert run('create_celeba', 'celeba5', source) == 0
    assert digests_of_records('celeba5') == golden_digests('celeba5')


# ---- MNIST ----

def test_mnist_is_padded_shuffled_and_labeled(monkeypatch):
    limit(monkeypatch, MNIST=30)
    images, classes = random_bytes(30, 28, 28), np.arange(30, dtype=np.uint8) % 10
    save_mnist('mnist', images, classes)
    assert run('create_mnist', 'data', 'mnist') == 0
    assert_shuffled('data', np.pad(images, [(0, 0), (2, 2), (2, 2)])[:, None], classes, 10)


def test_mnistrgb_draws_three_digits_for_each_image(monkeypatch):
    limit(monkeypatch, MNIST=30)
    images = random_bytes(30, 28, 28)
    save_mnist('mnist', images, np.zeros(30, np.uint8))
    assert run('create_mnistrgb', 'data', 'mnist', '--num_images', 12, '--random-seed', 5) == 0
    random = np.random.RandomState(5)
    found, labels = stored('data')
    assert labels is None
    for image in found:
        np.testing.assert_array_equal(image[:, 2:-2, 2:-2], images[random.randint(30, size=3)])


# ---- CIFAR and SVHN ----

def write_python2_pickle(path, value):
    """As Python 2 wrote the real files: protocol 2, strings and array data as str."""
    def emit(value):
        if isinstance(value, dict):
            return b'}(' + b''.join(emit(part) for item in value.items() for part in item) + b'u'
        if isinstance(value, (list, tuple)):
            inside = b'(' + b''.join(map(emit, value))
            return inside + b't' if isinstance(value, tuple) else b']' + inside + b'e'
        if isinstance(value, int):
            return b'K' + bytes([value]) if value < 256 else b'J' + value.to_bytes(4, 'little')
        if isinstance(value, str):
            return b'U' + bytes([len(value)]) + value.encode()
        data = value.tobytes()
        array = b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR'
        kind = b'cnumpy\ndtype\nU\x02' + value.dtype.str[1:].encode() + b'K\x00K\x01\x87R'
        kind += b'(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
        length = len(data).to_bytes(4, 'little')
        return array + b'(K\x01' + emit(tuple(value.shape)) + kind + b'\x89T' + length + data + b'tb'

    pathlib.Path(path).write_bytes(b'\x80\x02' + emit(value) + b'.')


def test_python2_pickle_of_this_test_is_one(tmp_path):
    write_python2_pickle('a', {'data': random_bytes(3, 4), 'labels': [1, 300], 'names': ('x',)})
    loaded = pickle.loads(pathlib.Path('a').read_bytes(), encoding='latin1')
    np.testing.assert_array_equal(loaded.pop('data'), random_bytes(3, 4))
    assert loaded == {'labels': [1, 300], 'names': ('x',)}


@pytest.mark.parametrize('protocol', [None, 2, 4])
def test_cifar10_of_any_python(monkeypatch, protocol):
    limit(monkeypatch, CIFAR=50)
    images, classes = random_bytes(50, 3, 32, 32), (np.arange(50) * 7 % 10).tolist()
    os.mkdir('cifar')
    for number in range(5):
        part = slice(10 * number, 10 * number + 10)
        batch = {'batch_label': f'training batch {number + 1} of 5', 'labels': classes[part],
                 'data': images[part].reshape(10, 3072),
                 'filenames': [f'{index}.png' for index in range(10)]}
        path = f'cifar/data_batch_{number + 1}'
        if protocol is None:
            write_python2_pickle(path, batch)
        else:
            pathlib.Path(path).write_bytes(pickle.dumps(batch, protocol))
    assert run('create_cifar10', 'data', 'cifar') == 0
    assert_shuffled('data', images, classes, 10)


def test_cifar100_uses_the_fine_labels(monkeypatch):
    limit(monkeypatch, CIFAR=50)
    images, classes = random_bytes(50, 3, 32, 32), (np.arange(50) * 31 % 100).tolist()
    os.mkdir('cifar')
    write_python2_pickle('cifar/train',
                         {'filenames': ['x.png'] * 50, 'batch_label': 'training batch 1 of 1', 'fine_labels': classes,
                                         'coarse_labels': [0] * 50, 'data': images.reshape(50, 3072)})
    assert run('create_cifar100', 'data', 'cifar') == 0
    assert_shuffled('data', images, classes, 100)


def test_svhn_joins_its_three_files(monkeypatch):
    limit(monkeypatch, SVHN=30)
    images, classes = random_bytes(30, 3, 32, 32), (np.arange(30) % 10).astype(np.uint8)
    os.mkdir('svhn')
    for number, part in [(1, slice(0, 12)), (2, slice(12, 25)), (3, slice(25, 30))]:
        write_python2_pickle(f'svhn/train_{number}.pkl', (images[part], classes[part]))
    assert run('create_svhn', 'data', 'svhn') == 0
    assert_shuffled('data', images, classes, 10)


def test_real_counts_are_the_published_ones():
    assert (known_datasets._MNIST_IMAGES, known_datasets._CIFAR_IMAGES) == (60000, 50000)
    assert (known_datasets._SVHN_IMAGES, known_datasets._CELEBA_IMAGES) == (73257, 202599)


# ---- LSUN ----

def save_lmdb(folder, values):
    os.makedirs(folder)
    with lmdb.open(folder, map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        for number, value in enumerate(values):
            transaction.put(f'{number:040x}'.encode(), value)


def encoded(pixels, form='WEBP', **options):
    content = io.BytesIO()
    PIL.Image.fromarray(pixels).save(content, form, **options)
    return content.getvalue()


def test_lsun_is_cut_scaled_and_in_the_order_of_the_keys(capsys):
    pixels = [random_bytes(40, 50, 3, seed=number) for number in range(4)]
    save_lmdb('lsun', [encoded(pixels[0], lossless=True), encoded(pixels[1], 'PNG'), b'damaged',
                       encoded(pixels[3], 'JPEG', quality=90)])
    assert run('create_lsun', 'data', 'lsun', '--resolution', 16) == 0
    found, labels = stored('data')
    assert labels is None and len(found) == 3
    for image, source in zip(found, pixels[:2]):
        expected = PIL.Image.fromarray(source[:, 5:45]).resize((16, 40), 1).resize((16, 16), 1)  # 1 = LANCZOS
        np.testing.assert_array_equal(image.transpose(1, 2, 0), expected)
    out = capsys.readouterr().out
    assert f'{2:040x} is left out: cannot identify its format\nLeft out 1 images.\nAdded 3 images.\n' in out


def test_lsun_gray_images_become_rgb_and_max_images_counts_only_good_ones():
    save_lmdb('lsun', [b'damaged', encoded(random_bytes(8, 8), 'PNG'), b'', encoded(random_bytes(8, 8, seed=1), 'PNG'),
                       b'never read'])
    assert run('create_lsun', 'data', 'lsun', '--resolution=8', '--max-images=2') == 0
    found, _ = stored('data')
    for number, image in enumerate(found):
        np.testing.assert_array_equal(image, np.stack([random_bytes(8, 8, seed=number)] * 3))


def test_lsun_wide_leaves_out_small_images_and_blackens_the_rest_of_the_square(capsys):
    values = [random_bytes(*shape, 3) for shape in [(12, 16), (12, 15), (5, 16), (24, 32)]]
    save_lmdb('lsun', [encoded(value, 'PNG') for value in values])
    assert run('create_lsun_wide', 'data', 'lsun', '--width', 16, '--height', 12) == 0
    found, _ = stored('data')
    assert len(found) == 2 and 'Left out 2 images.' in capsys.readouterr().out
    np.testing.assert_array_equal(found[0][:, 2:-2], values[0].transpose(2, 0, 1))
    assert not found[:, :, :2].any() and not found[:, :, -2:].any() and found[1][:, 2:-2].any()


# ---- HDF5 ----

def test_hdf5_takes_the_largest_images_and_the_labels_beside_the_file():
    images, labels = random_bytes(7, 1, 16, 16), np.eye(7, 5)
    with h5py.File('archive.h5', 'w') as archive:
        archive['data16x16'], archive['data8x8'] = images, images[:, :, ::2, ::2]
        archive['other'] = np.zeros([7, 1, 64, 64])
    np.save('archive-labels.npy', labels)
    for shuffle in (0, 1):
        assert run('create_from_hdf5', f'data{shuffle}', 'archive.h5', '--shuffle', shuffle) == 0
        found, found_labels = stored(f'data{shuffle}')
        order = dataset_writer.shuffled_order(7) if shuffle else np.arange(7)
        np.testing.assert_array_equal(found, images[order])
        np.testing.assert_array_equal(found_labels, labels[order])


@pytest.mark.parametrize('dtype, low, high', [(np.float32, -1, 1), (np.float64, 0, 1), (np.float16, 0, 255),
                                              (np.uint16, 0, 65535)])
def test_hdf5_of_any_range_is_scaled_to_0_255(dtype, low, high):
    images = random_bytes(5, 3, 8, 8)
    with h5py.File('archive.h5', 'w') as archive:
        archive['data8x8'] = (images / 255 * (high - low) + low).astype(dtype)
    assert run('create_from_hdf5', 'data', 'archive.h5', '--shuffle=0', f'--range={low},{high}') == 0
    np.testing.assert_array_equal(stored('data')[0], images)


@pytest.mark.parametrize('text', ['1', '1,2,3', '1,-1', '0,0', '0,inf', 'a,b', '-1e308,1e308', ''])
def test_range_that_is_none_is_wrong_usage(text):
    assert run('create_from_hdf5', 'data', 'archive.h5', f'--range={text}') == 2


# ---- Missing optional packages, and a hostile pickle ----

@pytest.mark.parametrize('package, command, extra',
                         [('lmdb', 'create_lsun', 'lsun'), ('h5py', 'create_from_hdf5', 'hdf5')])
def test_missing_package_is_named_with_its_extra(monkeypatch, capsys, package, command, extra):
    monkeypatch.setitem(sys.modules, package, None)
    pathlib.Path('source').write_bytes(b'')
    assert run(command, 'data', 'source') == 1
    fact, remedy = capsys.readouterr().err.splitlines()
    assert fact.endswith(f'needs the package {package}') and f"'stylegan2-tf2[{extra}]'" in remedy


@pytest.mark.parametrize('read, name', [(known_datasets.cifar10, 'data_batch_1'), (known_datasets.cifar100, 'train'),
                                        (known_datasets.svhn, 'train_1.pkl')])
def test_pickles_are_never_executed(read, name, tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'attacked'),)

    (tmp_path / name).write_bytes(pickle.dumps({'data': Attack(), 'labels': []}))
    with pytest.raises(UserError, match=f'{name}: asks for .*mkdir.*not allowed'):
        read(str(tmp_path))
    assert not (tmp_path / 'attacked').exists()


def test_reading_sources_needs_no_tensorflow():
    code = 'import sys; from training.data import known_datasets, image_folder; sys.exit("tensorflow" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0


def test_unpacked_mnist_is_named_as_such():
    os.mkdir('mnist')
    pathlib.Path('mnist/train-images-idx3-ubyte.gz').write_bytes(gzip.decompress(gzip.compress(b'\0\0\x08\x03')))
    with pytest.raises(UserError, match='train-images-idx3-ubyte.gz is no sound .gz file: Not a gzipped file'):
        known_datasets.mnist('mnist')
