"""The command line: the original's records, pictures and output; mistakes give a one-line error and leave no files."""

import gzip
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import PIL.Image
import PIL.ImageShow
import pytest

import dataset_tool
from dnnlib import cli, progress
from tests import golden
from tests.light_help import help_of
from tests.training.data.test_tfrecords import encode_example, frame_record
from training.data import dataset_writer, image_folder, tfrecords

SCRIPT = pathlib.Path(dataset_tool.__file__)


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*argv):
    """Exit code of the command."""
    with pytest.raises(SystemExit) as ended:
        cli.run(dataset_tool.main, [str(arg) for arg in argv])
    return ended.value.code


def random_pixels(seed=0, channels=3, height=8, width=8):
    shape = [height, width] if channels == 1 else [height, width, channels]
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def save_images(folder, count=3, channels=3):
    os.makedirs(folder)
    for number in range(count):
        PIL.Image.fromarray(random_pixels(number, channels)).save(f'{folder}/{number}.png')


def files_of(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


# ---- Golden: every command of the original that exists here ----

COMMANDS = golden.load_json('dataset/commands.json') if golden.GOLDEN.is_dir() else {}

# Lines that are not compared: the original's counters, and both messages about LSUN images that cannot be decoded.
OTHER_LINES = (r'\d+ / \d+ => \d+|cannot identify image file|.* is left out: cannot identify its format|'
               r'Left out \d+ images')


def make_mnist_of_recipe(folder):
    """MNIST's two files as the README of the golden numbers describes them."""
    random = np.random.RandomState(7)
    images = (random.rand(60000, 28, 28) < 0.02).astype(np.uint8) * 255
    save_mnist(folder, images, random.randint(0, 10, size=60000).astype(np.uint8))


def save_mnist(folder, images, labels):
    os.makedirs(folder)
    for name, array in [('train-images-idx3-ubyte.gz', images), ('train-labels-idx1-ubyte.gz', labels)]:
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, '>u4').tobytes()
        pathlib.Path(folder, name).write_bytes(gzip.compress(header + array.tobytes(), 1))


@pytest.fixture
def golden_case(request):
    """Arguments, golden exit status and golden lines of a case, with its input folders linked into the working one."""
    case = COMMANDS[request.param]
    argv = case['argv']
    output = {'extract': 2, 'compare': None}.get(argv[0], 1)
    for index, arg in enumerate(argv):
        if arg.startswith('--'):
            break
        if index not in (0, output) and arg == 'mnist':
            make_mnist_of_recipe(arg)
        elif index not in (0, output) and not os.path.exists(arg):
            source = golden.GOLDEN / 'dataset' / arg
            os.makedirs(os.path.dirname(arg) or '.', exist_ok=True)
            os.symlink(source, arg) if source.exists() else os.mkdir(arg)  # 'empty' is not among the golden files.
    # What a terminal shows in the end: counters overwrite their line.
    lines = [line.split('\r')[-1].strip() for line in case['stdout'].split('\n') if line]
    return argv, output and argv[output], case['exit'], lines


@pytest.mark.golden
def test_there_are_golden_cases():
    assert len(COMMANDS) > 20 and {case['argv'][0] for case in COMMANDS.values()} < set(dataset_tool._COMMANDS)


@pytest.mark.golden
@pytest.mark.parametrize('golden_case', [name for name in COMMANDS if COMMANDS[name]['exit'] == 0], indirect=True)
def test_command_gives_the_originals_lines_and_files(golden_case, capsys):
    argv, output, _, lines = golden_case
    assert run(*argv) == 0
    ours = capsys.readouterr().out.splitlines()
    if argv[0] == 'create_lsun_wide':  # which said less than the other commands
        ours = [line for line in ours if not line.startswith(('Creating ', 'Added '))]
    ours, lines = ([line for line in printed if not re.match(OTHER_LINES, line)] for printed in (ours, lines))
    assert ours == lines
    if argv[0].startswith('create_'):
        assert digests_of_records(output) == golden_digests(output)
    if argv[0] == 'extract':
        assert_pictures_are_the_records(output, golden.GOLDEN / 'dataset' / argv[1])


def golden_digests(name):
    digests = golden.load_json('dataset/records_sha256.json')
    named = {key.removeprefix('(not kept) '): value for key, value in digests.items()}
    return {key: value for key, value in named.items() if key.startswith(f'{name}/')}


def digests_of_records(folder):
    """SHA-256 of the records as in records_sha256.json, read by TensorFlow."""
    import tensorflow as tf
    digests = {}
    for path in sorted(pathlib.Path(folder).iterdir()):
        if path.suffix == '.labels':
            digests[f'{folder}/{path.name}'] = ['labels file bytes', hashlib.sha256(path.read_bytes()).hexdigest()]
            continue
        if path.suffix == '.json':  # Ours alone.
            continue
        digest = hashlib.sha256()
        # In batches: an iterator of TensorFlow takes a third of a millisecond for each of its elements.
        batches = tf.data.TFRecordDataset(str(path)).batch(4096).as_numpy_iterator()
        records = [record for batch in batches for record in batch]
        for record in records:
            features = tf.train.Example.FromString(record).features.feature
            digest.update(np.asarray(features['shape'].int64_list.value, '<i8').tobytes()
                          + features['data'].bytes_list.value[0])
        digests[f'{folder}/{path.name}'] = [len(records), digest.hexdigest()]
    return digests


def assert_pictures_are_the_records(folder, dataset):
    names = [key.split('/')[-1] for key in golden.load_json('dataset/sha256.json') if f' {folder}/' in key]
    images = list(tfrecords.read_images(tfrecords.find_dataset(dataset).largest))
    assert sorted(os.listdir(folder)) == names and len(images) == len(names)
    for name, image in zip(names, images, strict=True):
        picture = PIL.Image.open(f'{folder}/{name}')
        assert picture.mode == {1: 'L', 3: 'RGB'}[len(image)]
        np.testing.assert_array_equal(np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1), image)


@pytest.mark.golden
@pytest.mark.parametrize('golden_case', [name for name in COMMANDS if COMMANDS[name]['exit'] != 0], indirect=True)
def test_command_that_failed_fails_in_one_clear_line_and_leaves_nothing(golden_case, capsys):
    argv, _, exit_code, lines = golden_case
    before = sorted(os.listdir())
    assert run(*argv) == 1
    out, err = capsys.readouterr()
    fact, _remedy = err.splitlines()
    error = [line for line in lines if line.startswith('Error: ')]
    assert len(error) == (1 if exit_code == 1 else 0)  # In one case the original ends with a traceback.
    assert fact.startswith(error[0] if error else 'Error: Input images must') and argv[2] in fact
    assert out.splitlines() == [line for line in lines if not line.startswith(('Error: ', 'Added '))]
    assert sorted(os.listdir()) == before


@pytest.mark.golden
def test_official_extraction_is_the_shuffled_source():
    source = golden.GOLDEN / 'dataset' / 'src_rgb'
    assert run('create_from_images', 'data', source) == run('extract', 'data', 'out') == 0
    paths = sorted(map(str, source.iterdir()))
    order = golden.load_json('dataset/shuffle_orders.json')[str(len(paths))]['first20']
    for index, original in enumerate(order):
        np.testing.assert_array_equal(PIL.Image.open(f'out/img{index:08d}.png'), PIL.Image.open(paths[original]))


# ---- create_from_images ----

def test_same_images_same_bytes_from_folder_and_zip():
    save_images('images', 5)
    os.mkdir('images/.hidden')
    with zipfile.ZipFile('images.zip', 'w') as archive:
        for number in (3, 0, 4, 1, 2):
            archive.write(f'images/{number}.png', f'top/{number}.png')
        for junk in ('__MACOSX/top/._0.png', 'top/.DS_Store', '.hidden'):
            archive.writestr(junk, b'junk')
        archive.mkdir('top/empty') if hasattr(archive, 'mkdir') else archive.writestr('top/empty/', b'')
    for parent, source in [('one', 'images'), ('two', 'images'), ('three', 'images.zip')]:
        assert run('create_from_images', f'{parent}/data', source) == 0
    assert files_of('one/data') == files_of('two/data') == files_of('three/data')
    assert sorted(files_of('one/data')) == ['data-r02.tfrecords', 'data-r03.tfrecords', 'data.json']


def test_unshuffled_order_is_that_of_code_points():
    for number, name in enumerate(['10.png', '9.png', 'Z.png', 'a.png', 'é.png']):
        os.makedirs('images', exist_ok=True)
        PIL.Image.fromarray(np.full([4, 4], number, np.uint8)).save(f'images/{name}')
    assert run('create_from_images', 'data', 'images', '--shuffle', 0) == 0
    assert [image[0, 0, 0] for image in tfrecords.read_images('data/data-r02.tfrecords')] == [0, 1, 2, 3, 4]


def odd_truncated(folder):
    data = pathlib.Path(folder, '1.png').read_bytes()
    pathlib.Path(folder, '1.png').write_bytes(data[:len(data) // 2])
    return '1.png is not an image that can be read'


def odd_empty_file(folder):
    pathlib.Path(folder, '1.png').write_bytes(b'')
    return '1.png is not an image that can be read'


def odd_size(folder):
    PIL.Image.fromarray(random_pixels(0, 3, 16, 16)).save(f'{folder}/1.png')
    return '1.png is 16x16 RGB, expected 8x8 RGB as images/0.png'


def odd_shape(folder):
    PIL.Image.fromarray(random_pixels(0, 3, 4, 16)).save(f'{folder}/1.png')
    return '1.png is 16x4 RGB, expected 8x8 RGB as images/0.png'


def odd_grayscale(folder):
    PIL.Image.fromarray(random_pixels(0, 1)).save(f'{folder}/1.png')
    return '1.png is 8x8 grayscale, expected 8x8 RGB as images/0.png'


def odd_palette(folder):
    PIL.Image.open(f'{folder}/1.png').quantize().save(f'{folder}/1.png')
    return 'must be stored as RGB or grayscale: images/1.png is 8x8 palette'


def odd_palette_first(folder):
    PIL.Image.open(f'{folder}/0.png').quantize().save(f'{folder}/0.png')
    return 'must be stored as RGB or grayscale: images/0.png is 8x8 palette'


def odd_16_bit(folder):
    PIL.Image.fromarray(random_pixels(0, 1).astype(np.uint16)).save(f'{folder}/0.png')
    return 'must be stored as RGB or grayscale: images/0.png is 8x8 16-bit grayscale'


def odd_tiny(folder):
    PIL.Image.fromarray(random_pixels(0, 3, 2, 2)).save(f'{folder}/0.png')
    return 'must be a power-of-two, 4 or above: images/0.png is 2x2 RGB'


@pytest.mark.parametrize('shuffle', [0, 1])
@pytest.mark.parametrize('spoil', [value for name, value in globals().items() if name.startswith('odd_')])
def test_one_odd_file_is_named_and_nothing_is_left(spoil, shuffle, capsys):
    save_images('images', 5)
    message = spoil('images')
    assert run('create_from_images', 'new/data', 'images', '--shuffle', shuffle) == 1
    err = capsys.readouterr().err
    assert err.startswith('Error: ') and message in err.splitlines()[0] and len(err.splitlines()) == 2
    assert os.listdir() == ['images']


def test_missing_or_impossible_source_is_named(capsys):
    pathlib.Path('notes.txt').write_text('hello')
    os.mkdir('empty')
    with zipfile.ZipFile('empty.zip', 'w'):
        pass
    for source, message in [('nowhere', 'image folder nowhere not found'),
                            ('notes.txt', 'notes.txt is neither a folder nor a .zip'),
                            ('empty', 'No input images found in empty'),
                            ('empty.zip', 'No input images found in empty.zip')]:
        assert run('create_from_images', 'data', source) == 1
        assert capsys.readouterr().err.startswith(f'Error: {message}')
    assert not os.path.exists('data')


def test_zip_members_of_absurd_size_or_damaged_are_refused(monkeypatch, capsys):
    save_images('images', 2)
    with zipfile.ZipFile('bomb.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.write('images/0.png')
        archive.writestr('images/1.png', bytes(200_000))
    monkeypatch.setattr(image_folder, '_MAX_FILE_BYTES', 100_000)
    assert run('create_from_images', 'data', 'bomb.zip') == 1
    assert 'bomb.zip: images/1.png claims 200000 bytes, more than the 100000 allowed' in capsys.readouterr().err
    with zipfile.ZipFile('bad.zip', 'w') as archive:
        archive.write('images/0.png')
    content = bytearray(pathlib.Path('bad.zip').read_bytes())
    content[60] ^= 1
    pathlib.Path('bad.zip').write_bytes(content)
    assert run('create_from_images', 'data', 'bad.zip') == 1
    assert 'bad.zip: images/0.png is not an image that can be read: Bad CRC-32' in capsys.readouterr().err
    assert not os.path.exists('data')


def test_existing_target_is_kept_unless_forced(capsys):
    save_images('images')
    save_images('others', 4)
    for _ in range(2):
        code = run('create_from_images', 'data', 'images')
    before = files_of('data')
    assert code == 1 and 'Error: data exists and is not empty' in capsys.readouterr().err
    pathlib.Path('others/9.png').write_text('odd')  # an image by its name
    assert run('create_from_images', 'data', 'others', '--force') == 1
    assert files_of('data') == before
    os.remove('others/9.png')
    assert run('create_from_images', 'data', 'others', '--force') == 0
    assert tfrecords.find_dataset('data').num_images == 4
    assert run('create_from_images', 'others', 'images', '--force') == 1
    assert 'others holds 0.png, which --force does not replace' in capsys.readouterr().err


def test_unwritable_target_is_one_line(capsys):
    save_images('images')
    pathlib.Path('file').write_text('')
    assert run('create_from_images', 'file/data', 'images') == 1
    assert capsys.readouterr().err.startswith('Error: ') and sorted(os.listdir()) == ['file', 'images']


def start_long_run(folder='data'):
    """Process that is writing a dataset and has files in its temporary folder."""
    if not os.path.exists('images'):
        os.mkdir('images')
        PIL.Image.fromarray(random_pixels(0, 3, 512, 512)).save('images/0.png')
        for number in range(1, 2000):
            os.link('images/0.png', f'images/{number}.png')
    process = subprocess.Popen([sys.executable, SCRIPT, 'create_from_images', folder, 'images', '--force'])
    deadline = time.monotonic() + 60
    largest = pathlib.Path(f'{folder}.partial', f'{folder}-r09.tfrecords')
    while not (largest.exists() and largest.stat().st_size > 1e6) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None
    return process


@pytest.mark.parametrize('signum, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_run_leaves_nothing(signum, code):
    process = start_long_run()
    assert sorted(os.listdir()) == ['data.partial', 'images']
    process.send_signal(signum)
    assert process.wait(20) == code and os.listdir() == ['images']


def test_killed_run_leaves_nothing_that_looks_whole_and_the_next_run_clears_it_away(capsys):
    save_images('few', 3)
    assert run('create_from_images', 'data', 'few') == 0
    before = files_of('data')
    process = start_long_run()
    process.kill()
    process.wait()
    assert files_of('data') == before and sorted(os.listdir()) == ['data', 'data.partial', 'few', 'images']
    assert run('info', 'data.partial') == 1
    assert run('create_from_images', 'data', 'few', '--force', '--shuffle=0') == 0
    assert sorted(os.listdir()) == ['data', 'few', 'images'] and tfrecords.find_dataset('data').num_images == 3


def test_killed_run_goes_on_with_resume():
    """Killed twice, in the middle of records. The second time, the run that goes on is killed."""
    save_images('few', 300)
    pathlib.Path('few/150.png').write_bytes(b'no image')
    flags = ['--skip-bad', '--resolution=256', '--shuffle=0']
    assert run('create_from_images', 'whole/data', 'few', *flags) == 0
    largest = pathlib.Path('data.partial', 'data-r08.tfrecords')
    for size, more in [(5e6, []), (2e7, ['--resume'])]:
        process = subprocess.Popen([sys.executable, SCRIPT, 'create_from_images', 'data', 'few', *flags, *more])
        while process.poll() is None and not (largest.exists() and largest.stat().st_size > size):
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert size < largest.stat().st_size < os.path.getsize('whole/data/data-r08.tfrecords')
    assert run('create_from_images', 'data', 'few', *flags, '--resume') == 0
    assert files_of('data') == files_of('whole/data') and sorted(os.listdir()) == ['data', 'few', 'whole']


def test_second_writer_on_one_folder_is_refused_at_once_and_disturbs_nothing(capsys):
    save_images('few', 3)
    process = start_long_run()
    assert run('create_from_images', 'data', 'few', '--force') == 1
    assert capsys.readouterr().err.startswith('Error: another run is writing data (into ')
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130 and sorted(os.listdir()) == ['few', 'images']


# ---- extract, compare, display ----

def test_extracted_images_make_the_same_dataset_again():
    save_images('images', 4, channels=1)
    assert run('create_from_images', 'one/data', 'images') == run('extract', 'one/data', 'out') == 0
    assert run('create_from_images', 'two/data', 'out', '--shuffle=0') == 0
    (one, one_json), (two, two_json) = (
        (files, json.loads(files.pop('data.json'))) for files in map(files_of, ('one/data', 'two/data')))
    assert one == two
    assert (one_json.pop('command'), two_json.pop('command')) == (
        'create_from_images', 'create_from_images --shuffle=0')
    assert one_json == two_json


def test_extract_of_a_damaged_dataset_leaves_nothing(capsys):
    save_images('images')
    run('create_from_images', 'data', 'images')
    path = pathlib.Path('data/data-r03.tfrecords')
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert run('extract', 'data', 'out') == 1
    assert 'Error: data/data-r03.tfrecords: record 1 is damaged' in capsys.readouterr().err
    assert not os.path.exists('out') and sorted(os.listdir()) == ['data', 'images']


def test_compare_sees_one_different_image_label_and_count(capsys):
    for name, count in [('a', 3), ('b', 4)]:
        with dataset_writer.new_dataset(name) as writer:
            for number in range(count):
                writer.add_image(np.full([1, 4, 4], 9 if (name, number) == ('b', 1) else number))
            writer.add_labels(np.arange(count)[:, None] + (np.arange(count) == 2)[:, None] * (name == 'b'))
    assert run('compare', 'a', 'b') == 0
    expected = ['Image 1 is different', 'Label 2 is different', 'Datasets contain different number of images',
                'Identical images: 2 / 3', 'Identical labels: 2 / 3']
    assert capsys.readouterr().out.splitlines()[3:] == expected
    assert run('compare', 'a', 'b', '--ignore-labels', 1) == 0
    assert capsys.readouterr().out.splitlines()[3:] == [line for line in expected if 'abel' not in line]


def test_display_without_a_window_writes_a_contact_sheet(monkeypatch, capsys):
    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, 'platform', 'linux')
    save_images('images', 3)
    run('create_from_images', 'some/data', 'images', '--shuffle', 0)
    assert run('display', 'some/data/') == 0
    assert capsys.readouterr().out.endswith('see data-display.png\n')
    expected = np.concatenate([random_pixels(number) for number in range(3)], axis=1)
    np.testing.assert_array_equal(PIL.Image.open('data-display.png'), expected)


def test_display_uses_the_window_there_is(monkeypatch):
    shown = []
    monkeypatch.setenv('DISPLAY', ':0')
    monkeypatch.setattr(PIL.ImageShow, 'show', lambda image, title: shown.append((image.size, title)) or True)
    save_images('images', 300, channels=1)
    run('create_from_images', 'data', 'images')
    monkeypatch.setattr(dataset_tool, '_SHEET_PIXELS', (8 * 20, 8 * 10))
    assert run('display', 'data') == 0
    assert shown == [((160, 80), 'data')] and sorted(os.listdir()) == ['data', 'images']


@pytest.mark.parametrize('argv',
                         [('display', 'nowhere'), ('extract', 'nowhere', 'out'), ('compare', 'nowhere', 'nowhere')])
def test_missing_dataset_is_one_line(argv, capsys):
    assert run(*argv) == 1
    assert capsys.readouterr().err.startswith('Error: dataset folder nowhere not found\n') and os.listdir() == []


# ---- info and verify ----

def labeled_dataset(labels):
    with dataset_writer.new_dataset('data') as writer:
        for number in range(len(labels)):
            writer.add_image(np.full([3, 8, 8], 10 * number))
        writer.add_labels(labels)


def test_info_tells_what_is_there(capsys):
    labeled_dataset(np.eye(3)[[0, 2, 2, 2]])
    assert run('info', 'data', '--mean=mean.png') == 0
    out = capsys.readouterr().out
    for line in ['Images      4', 'Resolution  8x8, and lower levels down to 4x4', 'Channels    3 (RGB)',
                 'Labels      one of 3 classes: 0 1, 1 0, 2 3',
                 'Problems    none at a quick look; verify reads everything']:
        assert f'{line}\n' in out
    assert np.asarray(PIL.Image.open('mean.png')).tolist() == np.full([8, 8, 3], 15).tolist()


def test_info_of_labels_that_are_no_classes(capsys):
    labeled_dataset(np.array([[0.5, -2], [3, 1]]))
    assert run('info', 'data') == 0
    assert 'Labels      2 numbers each, from -2 to 3\n' in capsys.readouterr().out


def test_info_names_the_first_problem(capsys):
    labeled_dataset(np.eye(3))
    os.remove('data/data-r03.tfrecords')
    pathlib.Path('data/data-r04.tfrecords').write_bytes(b'')
    assert run('info', 'data') == 1
    assert 'Problem     data/data-r04.tfrecords is empty\n' in capsys.readouterr().out


def test_verify_of_a_sound_dataset(capsys):
    labeled_dataset(np.eye(3))
    assert run('verify', 'data') == 0
    assert capsys.readouterr().out.endswith('Sound: 3 images at 2 levels up to 8x8, labels of 3\n')


def spoil_byte_in_the_middle():
    path = pathlib.Path('data/data-r03.tfrecords')
    content = bytearray(path.read_bytes())
    content[len(content) // 2 + 50] ^= 1
    path.write_bytes(content)
    return 'data/data-r03.tfrecords: record 10 is damaged (the checksum of its data does not match)'


def spoil_one_record_of_another_image():
    records = list(tfrecords.read_records('data/data-r02.tfrecords'))
    records[7] = encode_example(np.full([3, 4, 4], 255, np.uint8))
    pathlib.Path('data/data-r02.tfrecords').write_bytes(b''.join(map(frame_record, records)))
    return 'data/data-r02.tfrecords: record 7 is not the image of that record of data/data-r03.tfrecords'


def spoil_one_record_of_another_shape():
    records = list(tfrecords.read_records('data/data-r02.tfrecords'))
    records[7] = encode_example(np.full([3, 2, 8], 70, np.uint8))
    pathlib.Path('data/data-r02.tfrecords').write_bytes(b''.join(map(frame_record, records)))
    return 'data/data-r02.tfrecords: record 7 is damaged (shape [3, 2, 8], expected [3, 4, 4])'


def spoil_label():
    labels = np.load('data/data-rxx.labels')
    labels[4] = np.nan
    with open('data/data-rxx.labels', 'wb') as file:
        np.save(file, labels)
    return 'data/data-rxx.labels: the label of image 4 is not finite'


def spoil_class_names():
    pathlib.Path('data/data-classes.json').write_text('["a", "b"]')
    return 'data/data-classes.json does not name 20 classes'


@pytest.mark.parametrize('spoil', [value for name, value in globals().items() if name.startswith('spoil_')])
def test_verify_finds_and_names_one_fault(spoil, monkeypatch, capsys):
    # As in a large dataset, of which only a few records are checked when it is opened.
    monkeypatch.setattr(tfrecords, '_CHECKED_BYTES', 1)
    labeled_dataset(np.eye(20))
    message = spoil()
    assert run('verify', 'data') == 1
    assert f'Error: {message}' in capsys.readouterr().err.splitlines()[0]


# ---- Progress ----

def test_progress_without_a_terminal_is_a_line_now_and_then_with_the_time_left(monkeypatch, capsys):
    seconds = [0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: seconds[0])
    items = []
    for item in dataset_tool._progress(range(10), 10):
        items.append(item)
        seconds[0] += 10
    assert items == list(range(10))
    assert capsys.readouterr().out == ('4 / 10: 0.1 img/s, about 1m 00s left\n'
                                       '8 / 10: 0.1 img/s, about 20s left\n')


def test_progress_on_a_terminal_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    assert list(dataset_tool._progress(range(10), 10)) == list(range(10))
    assert '10/10' in capsys.readouterr().err


# ---- Memory ----

@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists('/proc/self/status'),
                    reason='peak memory is read from /proc, which only Linux has')
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    from bench import data
    few, many = (data.peak_memory(str(tmp_path), count) for count in (2000, 20000))
    assert many - few < 50


# ---- Command line ----

def test_no_command_gives_usage_and_one_line(capsys):
    assert run() == 2
    out, err = capsys.readouterr()
    assert out.startswith('usage: dataset_tool.py')
    assert err.startswith('Error: missing command, one of display, extract, compare, info, ')
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize('argv', [('make_cake',), ('display',), ('create_from_images', 'a', 'b', '--shuffle', 'maybe'),
                                  ('create_from_images', 'a', 'b', '--resolution-of-conflict', '1'), ('extract', 'a')])
def test_bad_usage_exits_with_2(argv):
    assert run(*argv) == 2


def test_debug_shows_the_traceback():
    with pytest.raises(cli.UserError, match='nowhere not found'):
        cli.run(dataset_tool.main, ['display', 'nowhere', '--debug'])


@pytest.mark.parametrize('argv', [[], ['create_from_images']])
def test_help_imports_little(argv):
    assert 'usage: dataset_tool.py' in help_of(SCRIPT, *argv, allowed=['numpy', 'PIL'])
