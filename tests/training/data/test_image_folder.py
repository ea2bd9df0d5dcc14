"""Real folders of images: finding files, orientation, conversion to one shape, labels."""

import io
import json
import os
import pathlib
import shutil
import zipfile

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest

from tests.commands.test_dataset_tool import random_pixels, run, save_images
from tests.training.data.test_known_datasets import encoded, save_lmdb, stored
from training.data import dataset_writer, image_folder, image_labels, tfrecords
from training.dataset import TFRecordDataset


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def save(path, pixels, **options):
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    PIL.Image.fromarray(pixels).save(path, **options)


def images_of(*options, folder='images'):
    """Largest images [N, H, W, C] of the dataset made from a folder, sorted by name."""
    assert run('create_from_images', 'data', folder, '--shuffle=0', '--force', *options) == 0
    return stored('data')[0].transpose(0, 2, 3, 1)


# ---- Finding ----

def test_nested_folders_in_the_order_of_their_paths(capsys):
    paths = ['b/2.png', 'a.png', 'b/10.png', 'a/x/1.png', 'Z/1.png', 'a-b/1.png']
    for number, path in enumerate(paths):
        save(f'images/{path}', np.full([4, 4], number, np.uint8))
    save('images/.hidden/1.png', random_pixels())
    os.symlink(os.path.abspath('images'), 'images/b/loop')
    expected = [paths.index(path) for path in sorted(paths)]
    assert images_of()[:, 0, 0, 0].tolist() == expected
    with zipfile.ZipFile('images.zip', 'w') as archive:
        for path in paths:
            archive.write(f'images/{path}', path)
    assert images_of(folder='images.zip')[:, 0, 0, 0].tolist() == expected


def test_what_is_no_image_is_ignored_with_a_count(capsys):
    save_images('images', 3)
    shutil.copy('images/1.png', 'images/3')          # an image without an ending
    shutil.copy('images/1.png', 'images/4.download')  # or with an unknown one
    for name in ('Thumbs.db', 'notes.txt', 'sub/readme.md', 'model.pkl'):
        os.makedirs(os.path.dirname(f'images/{name}'), exist_ok=True)
        pathlib.Path(f'images/{name}').write_text('hello')
    os.mkfifo('images/pipe')
    os.mkdir('images/empty')
    assert len(images_of()) == 5
    assert 'Ignored 4 files that are no images: Thumbs.db, model.pkl, notes.txt, ...\n' in capsys.readouterr().out


def test_pipes_and_unusable_members_of_a_zip_are_ignored_with_a_count(capsys):
    save_images('images', 2)
    os.mkfifo('images/pipe.png')
    assert len(images_of()) == 2
    assert 'Ignored 1 files that are pipes or devices: pipe.png\n' in capsys.readouterr().out
    with zipfile.ZipFile('images.zip', 'w') as archive:
        archive.write('images/0.png', 'a.png')
        archive.write('images/1.png', 'b.png')
        with pytest.warns(UserWarning, match='Duplicate name'):
            archive.write('images/1.png', 'a.png')
        image = pathlib.Path('images/0.png').read_bytes()
        for name in ('../c.png', 'd/../../d.png', '/e.png', '.hidden/f.png', 'evil\x1b[2J.txt'):
            archive.writestr(name, image if name.endswith('.png') else b'hello')
    found = images_of(folder='images.zip')
    np.testing.assert_array_equal(found, [random_pixels(1)] * 2)  # Of two files with one name, the last one counts.
    out = capsys.readouterr().out
    assert 'Ignored 3 files that lie outside the folder of the .zip: ../c.png, /e.png, d/../../d.png\n' in out
    assert 'Ignored 1 files that have the name of a later file of the .zip: a.png\n' in out
    assert 'Ignored 1 files that are no images: evil\\x1b[2J.txt\n' in out


def test_formats(capsys):
    lossless = {'png': {}, 'bmp': {}, 'tif': {}, 'ppm': {}, 'webp': {'lossless': True}}
    for number, (ending, options) in enumerate(lossless.items()):
        save(f'images/{number}.{ending.upper()}', random_pixels(number), **options)
    save('images/9.jpg', random_pixels(9), quality=95)
    found = images_of()
    for number in range(len(lossless)):
        np.testing.assert_array_equal(found[number], random_pixels(number))
    np.testing.assert_array_equal(found[-1], PIL.Image.open('images/9.jpg'))


def as_png(image, **options):
    file = io.BytesIO()
    image.save(file, 'png', **options)
    return file.getvalue()


@pytest.mark.parametrize('mode', ['L', 'RGB'])
def test_the_fast_decoder_of_png_gives_the_pixels_of_pillow_or_leaves_the_file_to_it(mode):
    image = PIL.Image.fromarray(random_pixels(height=16, width=16)).convert(mode)
    for level in (0, 9):
        pixels = image_folder._decode_plain_png(io.BytesIO(as_png(image, compress_level=level)))
        assert pixels is not None and pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, np.asarray(image))

    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    others = [as_png(image.convert(other)) for other in ('1', 'P', 'LA', 'RGBA', 'I;16')]
    others += [as_png(image, exif=exif), as_png(image, transparency=(1, 2, 3) if mode == 'RGB' else 1)]
    others.append(as_png(image, save_all=True, append_images=[image.rotate(90)]))
    for data in others:
        PIL.Image.open(io.BytesIO(data)).load()  # It is a valid file.
        assert image_folder._decode_plain_png(io.BytesIO(data)) is None


def test_the_fast_decoder_of_png_takes_no_damaged_file_that_pillow_refuses():
    sound, rnd = as_png(PIL.Image.fromarray(random_pixels(height=16, width=16))), np.random.RandomState(0)
    taken = 0
    for case in range(400):
        damaged = bytearray(sound[:rnd.randint(40, len(sound))] if case % 2 else sound)
        damaged[rnd.randint(29, len(damaged))] ^= 1 << rnd.randint(8)
        pixels = image_folder._decode_plain_png(io.BytesIO(damaged))
        if pixels is not None:
            taken += 1
            np.testing.assert_array_equal(pixels, np.asarray(PIL.Image.open(io.BytesIO(damaged))))
    assert taken < 40


def test_the_same_dataset_without_the_fast_decoder(monkeypatch):
    save_images('images', 5)
    expected = images_of()
    monkeypatch.setattr(image_folder, '_png_decoder', lambda: None)
    np.testing.assert_array_equal(images_of(), expected)


@pytest.mark.parametrize('orientation, turn',
                         [(1, lambda p: p), (3, lambda p: p[::-1, ::-1]), (6, lambda p: np.rot90(p, -1)),
                                               (8, np.rot90), (2, lambda p: p[:, ::-1])])
def test_photographs_are_turned_upright(orientation, turn):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    save('images/1.png', random_pixels(), exif=exif)
    np.testing.assert_array_equal(images_of()[0], turn(random_pixels()))


# ---- One size, one kind ----

def test_resize_crop_fit_and_stretch():
    wide = np.zeros([8, 16, 3], np.uint8)
    wide[:, :4], wide[:, 4:12], wide[:, 12:] = 10, 20, 30
    save('images/1.png', wide)
    save('images/2.png', wide.transpose(1, 0, 2))
    cropped = images_of('--resolution=8', '--resize=crop')
    assert (cropped == 20).all() and (images_of('--resolution=8') == cropped).all()  # it is the default
    across, upright = images_of('--resolution=16', '--resize=fit')
    np.testing.assert_array_equal(across[4:12], wide)
    assert not across[:4].any() and not across[12:].any()
    np.testing.assert_array_equal(upright, across.transpose(1, 0, 2))
    stretched, _ = images_of('--resolution=4', '--resize=stretch')
    assert abs(stretched[:, 0].astype(int) - 10).max() <= 1 and abs(stretched[:, -1].astype(int) - 30).max() <= 1


def test_resize_uses_lanczos_and_leaves_the_right_size_alone():
    save('images/1.png', random_pixels(0, 3, 32, 32))
    save('images/2.png', random_pixels(1, 3, 8, 8))
    found = images_of('--resolution=8')
    lanczos = PIL.Image.Resampling.LANCZOS
    expected = PIL.Image.open('images/1.png').resize((8, 32), lanczos).resize((8, 8), lanczos)
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(found[1], random_pixels(1, 3, 8, 8))


def test_letterbox_of_files_is_create_lsun_wide_of_the_same_images(capsys):
    shapes = [(24, 32), (30, 40), (40, 64), (64, 40), (10, 10)]
    pixels = [random_pixels(number, 3, *shape) for number, shape in enumerate(shapes)]
    for number, image in enumerate(pixels):
        save(f'images/{number}.png', image)
    save_lmdb('lsun', [encoded(image, 'PNG') for image in pixels])
    assert run('create_lsun_wide', 'lsun-data', 'lsun', '--width=32', '--height=24') == 0
    found = images_of('--letterbox=32x24', '--skip-bad')
    np.testing.assert_array_equal(found.transpose(0, 3, 1, 2), stored('lsun-data')[0])
    assert len(found) == 3
    assert 'images/4.png is 10x10 RGB, too small for --letterbox=32x24; it is left out' in capsys.readouterr().out


@pytest.mark.parametrize('channels', [1, 3])
def test_channels_bring_all_kinds_to_one(channels):
    gray = random_pixels(0, 1)
    save('images/1.png', gray)
    save('images/2.png', np.stack([gray] * 3, axis=2))
    save('images/3.png', gray.astype(np.uint16) * 257)
    PIL.Image.fromarray(gray).convert('P').save('images/4.png')
    PIL.Image.fromarray(gray).save('images/5.gif')
    for image in images_of(f'--channels={channels}'):
        np.testing.assert_array_equal(image, np.stack([gray] * channels, axis=2))


def test_16_bits_are_scaled_and_cmyk_converted():
    save('images/1.png', np.array([[0, 128, 129, 65535]] * 4, np.uint16))
    assert images_of('--channels=1')[0, 0, :, 0].tolist() == [0, 0, 1, 255]
    PIL.Image.fromarray(random_pixels()).convert('CMYK').save('images/1.jpg', quality=100)
    os.remove('images/1.png')
    assert images_of('--channels=3').shape == (1, 8, 8, 3)


@pytest.mark.parametrize('alpha, color', [('white', 255), ('black', 0), ('drop', None)])
def test_alpha(alpha, color):
    pixels = random_pixels(0, 4)
    pixels[:, :4, 3], pixels[:, 4:, 3] = 255, 0
    save('images/1.png', pixels)
    save('images/2.png', random_pixels(1))
    found = images_of(f'--alpha={alpha}')
    expected = pixels[..., :3].copy()
    if color is not None:
        expected[:, 4:] = color
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(found[1], random_pixels(1))


def test_gray_with_alpha_stays_gray():
    pixels = random_pixels(0, 2)
    pixels[..., 1] = 255
    save('images/1.png', pixels)
    np.testing.assert_array_equal(images_of('--alpha=white')[0], pixels[..., :1])


def test_skip_bad_leaves_out_and_names_the_bad_ones_even_the_first(capsys):
    save_images('images', 14)
    for number in range(0, 12):
        pathlib.Path(f'images/{number}.png').write_bytes(b'damaged')
    save('images/12.png', random_pixels(12, 1))
    pathlib.Path('images/labels.csv').write_text(''.join(f'{number}.png,{number}.5\n' for number in range(14)))
    # 12.png is the first usable image in the order of names.
    assert images_of('--skip-bad', '--labels=images/labels.csv').shape == (1, 8, 8, 1)
    out = capsys.readouterr().out
    assert 'images/0.png is not an image that can be read: cannot identify its format; it is left out\n' in out
    assert out.count('it is left out') == 10 and 'Left out 13 images.\nAdded 1 images.\n' in out
    np.testing.assert_array_equal(stored('data')[1], [[12.5]])


def test_max_images_takes_the_first_of_the_order(capsys):
    save_images('images', 9)
    everything = images_of()
    np.testing.assert_array_equal(images_of('--max-images=4'), everything[:4])
    assert run('create_from_images', 'data', 'images', '--force', '--max-images=4') == 0
    np.testing.assert_array_equal(stored('data')[0].transpose(0, 2, 3, 1),
                                  everything[dataset_writer.shuffled_order(9)[:4]])


# ---- Labels ----

def save_classes(**folders):
    for name, count in folders.items():
        for number in range(count):
            save(f'images/{name}/{number}.png', random_pixels(number, 1))


@pytest.mark.parametrize('shuffle', [0, 1])
def test_folders_as_classes_with_their_names_beside_the_dataset(shuffle, capsys):
    save_classes(dog=2, cat=3, eel=1)
    assert run('create_from_images', 'data', 'images', '--labels=folders', '--shuffle', shuffle) == 0
    files = tfrecords.find_dataset('data')
    assert files.class_file is not None and tfrecords.load_class_names(files.class_file) == ['cat', 'dog', 'eel']
    order = dataset_writer.shuffled_order(6) if shuffle else np.arange(6)
    np.testing.assert_array_equal(stored('data')[1], np.eye(3)[np.array([0, 0, 0, 1, 1, 2])[order]])
    capsys.readouterr()
    assert run('info', 'data') == run('verify', 'data') == 0
    assert 'Labels      one of 3 classes: cat 3, dog 2, eel 1\n' in capsys.readouterr().out
    assert TFRecordDataset('data', max_label_size='full').label_size == 3


LABEL_FILES = {
    'names.json': ({'a/0.png': 'x', 'a/1.png': 'y', 'b/0.png': 'x'}, [[1, 0], [0, 1], [1, 0]], ['x', 'y']),
    'numbers.json': ({'a/0.png': 2, 'a/1.png': 0, 'b/0.png': 2, 'not/there.png': 1}, [[0, 0, 1], [1, 0, 0], [0, 0, 1]],
                     None),
    'ada.json': ({'labels': [['b/0.png', 1], ['a/1.png', 0], ['a/0.png', 1]]}, [[0, 1], [1, 0], [0, 1]], None),
    'vectors.json': ({'a/0.png': [0.5, 1], 'a/1.png': [2, -3], 'b/0.png': [0, 0]}, [[0.5, 1], [2, -3], [0, 0]], None),
    'names.csv': ('file,class\na/0.png,x\nb/0.png,"x, y"\na/1.png,x\n', [[1, 0], [1, 0], [0, 1]], ['x', 'x, y']),
    'numbers.csv': ('\ufeffa/0.png,1\r\nb/0.png,0\r\na/1.png,1\r\n', [[0, 1], [0, 1], [1, 0]], None),
    'vectors.csv': ('a/0.png,1,0.5\nb/0.png,-1e3,0\na/1.png,0,7\n', [[1, 0.5], [0, 7], [-1000, 0]], None),
}


@pytest.mark.parametrize('name', LABEL_FILES)
def test_label_files(name):
    content, expected, class_names = LABEL_FILES[name]
    pathlib.Path(name).write_text(content if isinstance(content, str) else json.dumps(content))
    labels, names = image_labels.load(name, ['a/0.png', 'a/1.png', 'b/0.png'])
    assert labels.dtype == np.float32 and labels.tolist() == expected and names == class_names


# ---- Remote addresses ----

def test_dataset_and_images_at_an_address_that_tensorflow_knows(capsys):
    import tensorflow as tf
    save_classes(cat=3, dog=2)
    for path in pathlib.Path('images').glob('*/*.png'):
        tf.io.gfile.makedirs(f'ram://remote/{path.parent}')
        with tf.io.gfile.GFile(f'ram://remote/{path}', 'wb') as file:
            file.write(path.read_bytes())
    assert run('create_from_images', 'data', 'images', '--labels=folders') == 0
    assert run('create_from_images', 'ram://remote/data', 'ram://remote/images', '--labels=folders') == 0
    names = sorted(os.listdir('data'))
    assert sorted(tf.io.gfile.listdir('ram://remote/data')) == names
    for name in names:
        with tf.io.gfile.GFile(f'ram://remote/data/{name}', 'rb') as file:
            assert file.read() == pathlib.Path('data', name).read_bytes()
    for command in (['verify'], ['compare', 'data'], ['info']):
        assert run(*command, 'ram://remote/data') == 0
    assert 'Identical images: 5 / 5\nIdentical labels: 5 / 5\n' in capsys.readouterr().out
    images, labels = TFRecordDataset('ram://remote/data', max_label_size='full', shuffle_mb=0).get_minibatch_np(5)
    np.testing.assert_array_equal(images, stored('data')[0])
    np.testing.assert_array_equal(labels, stored('data')[1])
    assert run('create_from_images', 'ram://remote/data', 'images') == 1
    assert 'Error: ram://remote/data exists and is not empty' in capsys.readouterr().err
    assert run('create_from_images', 'ram://remote/data', 'images', '--force', '--max-images=2') == 0
    assert tfrecords.find_dataset('ram://remote/data').num_images == 2
    assert [name for name in tf.io.gfile.listdir('ram://remote/data') if not name.endswith('.tfrecords')] == \
        ['data.json']
