"""Every kind of bad input gives a one-line error and a remedy; no data is lost, and no incomplete files remain."""

import contextlib
import errno
import gzip
import json
import os
import pathlib
import pickle
import resource
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import PIL.Image
import pytest

from dnnlib import memory, storage
from dnnlib.cli import UserError
from tests.commands.test_dataset_tool import SCRIPT, files_of, random_pixels, run, save_images, save_mnist
from tests.training.data.test_image_folder import save
from tests.training.data.test_known_datasets import encoded, limit, save_lmdb, write_python2_pickle
from training.data import dataset_writer


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def sound_images():
    save_images('images', 5)


def change(path, function):
    """Replace the bytes of a file."""
    content = bytearray(pathlib.Path(path).read_bytes())
    pathlib.Path(path).write_bytes(function(content) or content)


def flip(position):
    def function(content):
        content[position] ^= 0xff
    return function


def write(path, content):
    pathlib.Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())


def save_gif():
    frames = [PIL.Image.fromarray(random_pixels(number)) for number in range(3)]
    frames[0].save('images/1.gif', save_all=True, append_images=frames[1:])


def save_zip(**members):
    with zipfile.ZipFile('images.zip', 'w') as archive:
        for name, content in members.items():
            archive.writestr(f'{name}.png', content)


def label_csv(*lines):
    write('labels.csv', '\n'.join(lines))


def hdf5(name, shape, dtype=np.uint8, labels=None):
    with h5py.File('a.h5', 'w') as archive:
        archive[name] = np.zeros(shape, dtype)
    if labels is not None:
        np.save('a-labels.npy', labels)


def hdf5_values(*values, dtype: type = np.float32):
    with h5py.File('a.h5', 'w') as archive:
        archive['data'] = np.resize(np.array(values, dtype), [3, 1, 8, 8])


def hdf5_with_a_group():
    with h5py.File('a.h5', 'w') as archive:
        archive.create_group('data')


def hdf5_with_a_link_to_nowhere():
    with h5py.File('a.h5', 'w') as archive:
        archive['data'] = np.zeros([3, 1, 8, 8], np.uint8)
        archive['data16x16'] = h5py.ExternalLink('gone.h5', 'data')


def hdf5_that_claims(*shape):
    with h5py.File('a.h5', 'w') as archive:
        archive.create_dataset('data', shape, np.uint8, chunks=(1,) * len(shape))


def encrypted_zip():
    save_zip(a=encoded(random_pixels(), 'PNG'))
    # Bit 0 of the flags, in the header of the file and in the list at the end.
    data = bytearray(pathlib.Path('images.zip').read_bytes())
    data[6] |= 1
    data[data.index(b'PK\1\2') + 8] |= 1
    write('images.zip', bytes(data))


def cifar_batch(**changed):
    batch = {'data': np.zeros([10, 3072], np.uint8), 'labels': [0] * 10} | changed
    os.mkdir('cifar')
    for number in range(1, 6):
        write_python2_pickle(f'cifar/data_batch_{number}', batch)


def mnist(images=(30, 28, 28), labels=30, top=9):
    save_mnist('mnist', np.zeros(images, np.uint8), np.linspace(0, top, labels).astype(np.uint8))


FOLDER = 'create_from_images new/data images'
LABELS = f'{FOLDER} --labels=labels.csv'
FIVE = [f'{number}.png,{number}' for number in range(5)]

# Name -> (function that spoils the input, command, part of the error, part of the remedy).
MISTAKES = {
    # Files of images
    'truncated PNG': (lambda: change('images/1.png', lambda data: data[:len(data) // 2]), FOLDER,
                      'images/1.png is not an image', '--skip-bad'),
    'PNG with a flipped byte': (lambda: change('images/1.png', flip(60)), FOLDER,
                                'images/1.png is not an image that can be read', '--skip-bad'),
    'zero-byte file': (lambda: write('images/1.png', b''), FOLDER, 'images/1.png is not an image that can be read',
                       '--skip-bad'),
    'web page as JPEG': (lambda: write('images/1.jpg', '<html>404'), FOLDER,
                         'images/1.jpg is not an image that can be read', '--skip-bad'),
    'link to nowhere': (lambda: os.symlink('gone.png', 'images/1a.png'), FOLDER, 'images/1a.png is not an image',
                        '--skip-bad'),
    'CMYK JPEG': (lambda: PIL.Image.new('CMYK', (8, 8)).save('images/1.jpg'), FOLDER, 'images/1.jpg is 8x8 CMYK',
                  '--channels=3'),
    '16-bit PNG': (lambda: save('images/1.png', random_pixels(0, 1).astype(np.uint16)), FOLDER,
                   '1.png is 8x8 16-bit gray', '--channels'),
    'floating-point TIFF': (lambda: save('images/1.tif', np.zeros([8, 8], np.float32)), f'{FOLDER} --channels=1',
                            'images/1.tif is 8x8 floating-point', 'Convert it to 8 bits'),
    'animated GIF': (save_gif, FOLDER, 'images/1.gif is an animation of 3 frames', '--skip-bad'),
    'palette PNG': (lambda: PIL.Image.open('images/1.png').quantize().save('images/1.png'), FOLDER,
                    '1.png is 8x8 palette', '--channels=3'),
    'RGBA PNG': (lambda: save('images/1.png', random_pixels(0, 4)), FOLDER, 'images/1.png is 8x8 RGBA', '--alpha=drop'),
    'black and white first': (lambda: PIL.Image.new('1', (8, 8)).save('images/0.png'), FOLDER,
                              '0.png is 8x8 black and white', '--channels'),
    'gray among RGB': (lambda: save('images/1.png', random_pixels(0, 1)), FOLDER,
                       '1.png is 8x8 grayscale, expected 8x8 RGB', '--channels'),
    'other size': (lambda: save('images/1.png', random_pixels(0, 3, 16, 16)), FOLDER,
                   '1.png is 16x16 RGB, expected 8x8', '--resolution=8'),
    'not square': (lambda: save('images/0.png', random_pixels(0, 3, 4, 16)), FOLDER, 'images/0.png is 16x4 RGB',
                   '--letterbox'),
    'no power of two': (lambda: save('images/0.png', random_pixels(0, 3, 100, 100)), FOLDER, '0.png is 100x100 RGB',
                        '--resolution=64'),
    'tiny': (lambda: save('images/0.png', random_pixels(0, 3, 2, 2)), FOLDER, '4 or above: images/0.png is 2x2',
             '--resolution=4'),
    'too small for letterbox': (sound_images, f'{FOLDER} --letterbox=16x12', 'images/0.png is 8x8 RGB, too small',
                                '--skip-bad'),
    'nothing but bad ones': (lambda: [write(f'images/{i}.png', b'x') for i in range(5)], f'{FOLDER} --skip-bad',
                             'none of the 5 images can be used; the last one: images/4.png is not', 'Remove the file'),
    # Folders and archives
    'missing folder': (sound_images, 'create_from_images data nowhere', 'image folder nowhere not found',
                       'Name a folder'),
    'empty folder': (lambda: os.mkdir('none'), 'create_from_images data none', 'No input images found in none',
                     'Name the folder'),
    'text instead of a folder': (lambda: write('notes.txt', 'hello'), 'create_from_images data notes.txt',
                                 'neither a folder nor a .zip', ''),
    'broken zip': (lambda: (save_zip(a=encoded(random_pixels(), 'PNG')), change('images.zip', lambda data: data[:-30])),
                   'create_from_images data images.zip', 'images.zip is a .zip that is cut off or damaged',
                   'download it again'),
    'zip with a damaged member': (lambda: (save_zip(a=encoded(random_pixels(), 'PNG')), change('images.zip', flip(60))),
                                  'create_from_images data images.zip',
                                  'images.zip: a.png is not an image that can be read: Bad CRC', ''),
    'encrypted zip': (encrypted_zip, 'create_from_images data images.zip', 'images.zip: a.png is encrypted', 'Unpack'),
    # Labels
    'no label for an image': (lambda: label_csv(*FIVE[:4]), LABELS,
                              'labels.csv: 1 of 5 images have no label, for instance 4.png', ''),
    'label of another name': (lambda: label_csv(*FIVE[:4], 'images/4.png,4'), LABELS, '1 of 5 images have no label',
                              'relative'),
    'label given twice': (lambda: label_csv(*FIVE, '3.png,1'), LABELS, 'labels.csv has 3.png more than once', ''),
    'label NaN': (lambda: label_csv(*FIVE[:4], '4.png,nan'), LABELS,
                  'the label of 4.png has a value that is not finite', ''),
    'label missing in its line': (lambda: label_csv(*FIVE[:4], '4.png,'), LABELS, 'labels.csv: 4.png has no label',
                                  'name,label'),
    'labels of two lengths': (lambda: label_csv(*FIVE[:4], '4.png,1,2'), LABELS,
                              'the label of 4.png has 2 numbers, that of 0.png 1', ''),
    'names and numbers': (lambda: label_csv(*FIVE[:4], '4.png,1,x'), LABELS,
                          'one name of a class in each line, or numbers only', ''),
    'absurd class': (lambda: label_csv(*FIVE[:4], '4.png,123456789'), LABELS,
                     '4.png is of class 123456789, expected 0 to 9999', ''),
    'CSV in UTF-16': (lambda: write('labels.csv', 'a.png,1'.encode('utf-16')), LABELS,
                      'labels.csv is no label file that can be read', 'UTF-8'),
    'broken JSON': (lambda: write('l.json', '{"a":'), f'{FOLDER} --labels=l.json',
                    'l.json is no label file that can be read', ''),
    'JSON of another kind': (lambda: write('l.json', '[1, 2]'), f'{FOLDER} --labels=l.json',
                             'expected an object of names and labels', ''),
    'JSON null as label': (lambda: write('l.json', json.dumps({f'{i}.png': None for i in range(5)})),
                           f'{FOLDER} --labels=l.json',
                           "l.json: the label of 0.png is 'None'", 'the name of a class'),
    'missing label file': (sound_images, LABELS, 'label file labels.csv not found', '--labels=folders'),
    'label file of another kind': (lambda: write('l.txt', 'x'), f'{FOLDER} --labels=l.txt',
                                   'l.txt: expected a label file that ends in', ''),
    'folders without folders': (sound_images, f'{FOLDER} --labels=folders',
                                '0.png and 4 more images are in no folder', 'folder of its class'),
    # Well-known datasets
    'MNIST not there': (sound_images, 'create_mnist data images', 'images/train-images-idx3-ubyte.gz', ''),
    'MNIST cut off': (lambda: (mnist(), change('mnist/train-images-idx3-ubyte.gz', lambda data: data[:-9])),
                      'create_mnist data mnist',
                      'train-images-idx3-ubyte.gz is no sound .gz file', 'Download'),
    'MNIST of other images': (lambda: mnist((29, 28, 28)), 'create_mnist data mnist',
                              'expected an idx file of 30 x 28 x 28 bytes', ''),
    'MNIST label 200': (lambda: mnist(top=200), 'create_mnist data mnist',
                        'expected 30 labels from 0 to 9, found uint8 [30] from 0 to 200', ''),
    'CIFAR of other shape': (lambda: cifar_batch(data=np.zeros([9, 3072], np.uint8)), 'create_cifar10 data cifar',
                             'expected data of uint8 [10, 3072] and labels, '
                             'found {data: uint8 [9, 3072], labels: list}', 'python version'),
    'CIFAR with a label too few': (lambda: cifar_batch(labels=[0] * 9), 'create_cifar10 data cifar',
                                   'expected 10 labels from 0 to 9', ''),
    'CIFAR-100 for CIFAR-10': (lambda: cifar_batch(), 'create_cifar100 data cifar', 'cifar/train', ''),
    'pickle that would run a program': (lambda: (os.mkdir('svhn'), write('svhn/train_1.pkl', pickle.dumps(os.system))),
                                        'create_svhn data svhn', "asks for 'posix.system', which is not allowed",
                                        'Expected a pickle of'),
    'CelebA incomplete': (sound_images, 'create_celeba data images',
                          'Expected to find 202599 images in images/img_align', 'Unpack'),
    'CelebA off the edge': (sound_images, 'create_celeba data images --cx=0', 'around --cx=0, --cy=121 leaves',
                            '--cx from 64'),
    'LSUN not there': (sound_images, 'create_lsun data images', 'images is no LMDB database', 'data.mdb'),
    'LSUN all damaged': (lambda: save_lmdb('lsun', [b'x', b'y']), 'create_lsun data lsun',
                         'there are no images to put into data', 'Check'),
    'LSUN wide, but high': (lambda: save_lmdb('lsun', [b'x']), 'create_lsun_wide data lsun --width=16 --height=17',
                            '--height up to', ''),
    'text as HDF5': (lambda: write('a.h5', 'hello'), 'create_from_hdf5 data a.h5',
                     'a.h5 is no HDF5 file that can be read', ''),
    'HDF5 without images': (lambda: hdf5('images', [3, 1, 8, 8]), 'create_from_hdf5 data a.h5', 'a.h5 has no images',
                            ''),
    'HDF5 of oblong images': (lambda: hdf5('data', [3, 1, 8, 4]), 'create_from_hdf5 data a.h5',
                              'data holds images of 4x8', 'Resize'),
    'HDF5 with a label too few': (lambda: hdf5('data', [3, 1, 8, 8], labels=np.eye(2)), 'create_from_hdf5 data a.h5',
                                  'a-labels.npy: expected one row of numbers for each of 3 images', ''),
    'HDF5 with labels NaN': (lambda: hdf5('data', [3, 1, 8, 8], labels=np.full([3, 1], np.nan)),
                             'create_from_hdf5 data a.h5',
                             'a-labels.npy: the label of image 0 is not finite', ''),
    'HDF5 of floats': (lambda: hdf5_values(-1, 0, 1), 'create_from_hdf5 data a.h5',
                       'a.h5: data holds floating-point numbers (float32)', '--range=-1,1 or --range=0,1'),
    'HDF5 with NaN': (lambda: hdf5_values(0.5, np.nan), 'create_from_hdf5 data a.h5 --range=0,1',
                      'of data has values that are not finite', 'Correct'),
    'HDF5 of another range': (lambda: hdf5_values(-1, 0, 1), 'create_from_hdf5 data a.h5 --range=0,1',
                              'of data has values from -1 to 1, expected 0 to 1', '--range=LOW,HIGH'),
    'HDF5 of 16 bits': (lambda: hdf5_values(0, 65535, dtype=np.uint16), 'create_from_hdf5 data a.h5',
                        'of data has values from 0 to 65535, expected 0 to 255', '--range=LOW,HIGH'),
    'HDF5 group named data': (hdf5_with_a_group, 'create_from_hdf5 data a.h5', 'a.h5 has no images', 'Check'),
    'HDF5 link to nowhere': (hdf5_with_a_link_to_nowhere, 'create_from_hdf5 data a.h5',
                             'a.h5: data16x16 is a link to something that does not exist', 'beside this one'),
    'HDF5 of 10^12 images': (lambda: hdf5_that_claims(10 ** 12, 1, 8, 8), 'create_from_hdf5 data a.h5',
                             'the order of 1000000000000 images needs about 24.0 TB of memory', 'Check the file'),
    'HDF5 of huge images': (lambda: hdf5_that_claims(1, 3, 2 ** 30, 2 ** 30), 'create_from_hdf5 data a.h5',
                            'an image of 1073741824x1073741824 would have 3458.8 PB', 'smaller images'),
    'LSUN wide, all too small': (lambda: save_lmdb('lsun', [encoded(random_pixels(), 'PNG')] * 2),
                                 'create_lsun_wide data lsun --width=16 --height=12',
                                 'there are no images to put into data: all 2 were left out',
                                 'at least 16 wide and, scaled to that width, 12 high'),
    # Targets and flags
    'resolution beyond everything': (sound_images, f'{FOLDER} --resolution=1073741824',
                                     'an image of 1073741824x1073741824 would have', '--resolution'),
    'resolution beyond a record': (sound_images, f'{FOLDER} --resolution=65536',
                                   'an image of 65536x65536 would have 4.3 GB; a TFRecord holds at most 2.1 GB',
                                   '--resolution'),
    'letterbox beyond a record': (sound_images, f'{FOLDER} --letterbox=65536x4',
                                  'an image of 65536x65536 would have', '--resolution'),
    'LSUN beyond a record': (lambda: save_lmdb('lsun', [encoded(random_pixels(), 'PNG')]),
                             'create_lsun data lsun --resolution=65536', 'an image of 65536x65536 would have',
                             '--resolution'),
    'target in a file': (lambda: write('file', ''), 'create_from_images file/data images', 'file', 'permissions'),
    'target that is a file': (lambda: write('file', ''), 'create_from_images file images',
                              'file exists and is not a folder', 'another name'),
    'target that is not empty': (sound_images, 'create_from_images images images', 'images exists and is not empty',
                                 '--force'),
    'force on something else': (sound_images, 'create_from_images images images --force',
                                'holds 0.png, which --force does not', ''),
    'remains that are no remains': (lambda: (os.mkdir('data.partial'), write('data.partial/diary.txt', 'dear')),
                                    'create_from_images data images', 'data.partial is in the way: it holds diary.txt',
                                    'Move it'),
    'resize without resolution': (sound_images, f'{FOLDER} --resize=fit', '--resize needs --resolution',
                                  '--resolution=256'),
    'letterbox and resize': (sound_images, f'{FOLDER} --letterbox=8x6 --resolution=16', '--letterbox sets the size',
                             ''),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_one_clear_line_and_nothing_lost(name, monkeypatch, capsys):
    limit(monkeypatch, MNIST=30, CIFAR=50)
    spoil, command, fact, remedy = MISTAKES[name]
    if not os.path.exists('images'):
        sound_images()
    if spoil is not sound_images:
        spoil()
    before = {path: path.is_file() and path.read_bytes() for path in sorted(pathlib.Path().rglob('*'))}
    assert run(*command.split()) == 1
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert first.startswith('Error: ') and fact in first and remedy in second and len(second) > 5
    assert 'Traceback' not in out and 'Added' not in out
    after = {path: path.is_file() and path.read_bytes() for path in sorted(pathlib.Path().rglob('*'))}
    assert {path: content for path, content in after.items() if path.suffix != '.mdb'} == \
        {path: content for path, content in before.items() if path.suffix != '.mdb'}


def test_there_are_at_least_40():
    assert len(MISTAKES) >= 40


# ---- The disk ----

@contextlib.contextmanager
def as_nobody():
    """Run the with-block as another user if this is root, who may write everywhere.

    The folders above the working folder are made readable for that user.
    """
    if os.geteuid() != 0:
        yield
        return
    above = {path: path.stat().st_mode for path in [pathlib.Path.cwd(), *pathlib.Path.cwd().parents]}
    above = {path: mode for path, mode in above.items() if mode & 0o055 != 0o055}
    for path, mode in above.items():
        path.chmod(mode | 0o055)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for path, mode in above.items():
            path.chmod(mode)


def test_unwritable_folder_is_named(capsys):
    sound_images()
    os.mkdir('locked')
    os.chmod('locked', 0o555)
    with as_nobody():
        assert run('create_from_images', 'locked/data', 'images') == 1
    fact, remedy = capsys.readouterr().err.splitlines()
    assert fact.endswith('locked/data: Permission denied') and 'permissions' in remedy
    assert os.listdir('locked') == []


def test_too_small_disk_is_noticed_before_the_work(monkeypatch, capsys):
    sound_images()
    monkeypatch.setattr(dataset_writer, '_free_bytes', lambda path: 1000)
    assert run('create_from_images', 'data', 'images') == 1
    assert 'Error: 5 images need about 1.8 kB, but only 1.0 kB are free at data' in capsys.readouterr().err
    assert os.listdir() == ['images']


def test_estimate_is_near_the_size_of_the_files(tmp_path):
    save_images('images', 5)
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, 'describe', lambda count: asked.append(count) or '')
        patch.setattr(dataset_writer, '_free_bytes', lambda path: 0)
        assert run('create_from_images', 'data', 'images') == 1
    assert run('create_from_images', 'data', 'images') == 0
    size = sum(map(len, files_of('data').values()))
    assert 0.8 * size < asked[0] < 1.2 * size


def test_disk_that_fills_up_on_the_way_is_one_line_and_keeps_the_old_dataset():
    """The error comes from the system, through a limit on the size of files."""
    save_images('images', 5)
    assert run('create_from_images', 'data', 'images') == 0
    before = files_of('data')
    for number in range(100):
        save(f'large/{number}.png', random_pixels(number, 3, 128, 128))
    limited = f'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({1 << 21}, {resource.RLIM_INFINITY}))\n'
    program = limited + 'import sys, dataset_tool; from dnnlib import cli; cli.run(dataset_tool.main, sys.argv[1:])'
    result = subprocess.run([sys.executable, '-c', program, 'create_from_images', 'data', 'large', '--force'],
                            capture_output=True, text=True, env=os.environ | {'PYTHONPATH': str(SCRIPT.parent)})
    assert result.returncode == 1 and result.stderr.splitlines()[0] == 'Error: data: File too large; nothing was kept'
    assert files_of('data') == before and sorted(os.listdir()) == ['data', 'images', 'large']


def test_full_disk_is_one_line(monkeypatch, capsys):
    sound_images()

    def full(self, records):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(dataset_writer.DatasetWriter, 'add_records', full)
    assert run('create_from_images', 'data', 'images') == 1
    assert capsys.readouterr().err.startswith('Error: data: No space left on device; nothing was kept\nMake room')
    assert os.listdir() == ['images']


# ---- Memory ----

def test_size_that_the_memory_does_not_allow_is_refused_with_the_numbers(monkeypatch, capsys):
    sound_images()
    monkeypatch.setattr(memory, 'available_bytes', lambda: 1_000_000)
    assert run('create_from_images', 'data', 'images', '--resolution=1024') == 1
    fact, remedy = capsys.readouterr().err.splitlines()
    assert fact.startswith('Error: writing images of 1024x1024 needs about ')
    assert fact.endswith(' MB of memory, but only 1.0 MB are available') and '--resolution' in remedy
    assert os.listdir() == ['images']
    assert run('create_from_images', 'data', 'images') == 0


def test_file_that_unpacks_to_any_size_is_read_no_further_than_needed():
    """The process may use 1 GB more than it has at the start; the file unpacks to 4 GB."""
    os.mkdir('mnist')
    with gzip.open('mnist/train-images-idx3-ubyte.gz', 'wb', 1) as file:
        for _ in range(1 << 8):
            file.write(bytes(1 << 24))
    program = ('import sys, resource, dataset_tool; from dnnlib import cli; import training.data.known_datasets\n'
               'used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()\n'
               'resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)\n'
               'cli.run(dataset_tool.main, sys.argv[1:])')
    result = subprocess.run([sys.executable, '-c', program, 'create_mnist', 'data', 'mnist'], capture_output=True,
                            text=True, env=os.environ | {'PYTHONPATH': str(SCRIPT.parent)})
    fact, _ = result.stderr.splitlines()
    assert 'expected an idx file of 60000 x 28 x 28 bytes, found more than 47040016 bytes that begin' in fact


def test_large_image_is_stored_without_a_warning_and_too_large_a_one_is_refused_in_our_words():
    for name, height in [('large', 9000), ('larger', 18000)]:
        os.mkdir(name)
        PIL.Image.new('L', (10000, height)).save(f'{name}/0.png')

    def store(folder):
        return subprocess.run([sys.executable, SCRIPT, 'create_from_images', 'data', folder, '--resolution=4'],
                              capture_output=True, text=True)

    assert (store('large').returncode, store('larger').returncode) == (0, 1)
    assert store('large').stderr.startswith('Error: data exists')
    assert store('larger').stderr.splitlines()[0] == \
        'Error: larger/0.png is not an image that can be read: it has more than 178956970 pixels'


# ---- Killed runs and concurrent runs ----

def test_run_killed_between_the_two_renames_loses_nothing(monkeypatch):
    save_images('few', 3)
    save_images('many', 6)
    assert run('create_from_images', 'data', 'few') == 0
    before = files_of('data')
    os.rename('data', 'data.replaced')  # what a run killed right there leaves
    os.mkdir('data.partial')
    write('data.partial/data-r02.tfrecords', b'whole, but not in place')
    assert run('create_from_images', 'data', 'many') == 1  # there is a dataset, and no --force
    assert files_of('data') == before and sorted(os.listdir()) == ['data', 'few', 'many']


def test_dataset_made_meanwhile_is_not_overwritten():
    refused = pytest.raises(UserError, match='data exists and is not empty')
    with refused, storage.new_folder('data', r'.*\.txt') as folder:
        write(f'{folder}/mine.txt', 'mine')
        os.mkdir('data')
        write('data/yours.txt', 'yours')
    assert files_of('data') == {'yours.txt': b'yours'} and os.listdir() == ['data']


