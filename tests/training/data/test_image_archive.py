"""The .zip and folder format of StyleGAN2-ADA: read and written as by its own tool, and there and back."""

import hashlib
import json
import os
import pathlib
import zipfile

import numpy as np
import PIL.Image
import pytest

import dataset_tool
from dnnlib.cli import UserError
from tests.golden import GOLDEN_ADA, load_json, load_npz
from training.data import image_archive, tfrecords

CASES = {case['argv'][1].removeprefix('--dest='): case for case in load_json('dataset/dataset_tool.json', GOLDEN_ADA)}
# Flags of the original's tool -> those of ours. Of an image that is higher than wide, Pillow 13 scales the columns
# first there, here always the rows, as the original StyleGAN2 did: such images are not compared after scaling alone.
FLAGS = {
    (): [],
    ('--width=16', '--height=16'): ['--resolution=16', '--resize=stretch'],
    ('--width=8', '--height=8'): ['--resolution=8', '--resize=stretch'],
    ('--transform=center-crop', '--width=16', '--height=16'): ['--resolution=16'],
    ('--transform=center-crop', '--width=8', '--height=8', '--max-images=4'): ['--resolution=8', '--max-images=4'],
}


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def contents(path):
    """{name: pixels [H, W, C] or [H, W]} in order, and what dataset.json says."""
    if os.path.isdir(path):
        names = sorted(str(file.relative_to(path)) for file in pathlib.Path(path).rglob('*') if file.is_file())
        read = {name: pathlib.Path(path, name) for name in names}
    else:
        with zipfile.ZipFile(path) as archive:
            assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
            names = archive.namelist()
            archive.extractall(f'{path}-unpacked')
        read = {name: pathlib.Path(f'{path}-unpacked', name) for name in names}
    images = {}
    for name in names[:-1]:
        with PIL.Image.open(read[name]) as image:
            images[name] = np.asarray(image)
    assert names[-1] == 'dataset.json'
    return images, json.loads(read[names[-1]].read_text())['labels']


def higher_than_wide(source):
    """For each image of a folder in order: is it so?"""
    paths = sorted(path for path in source.rglob('*') if path.suffix.lower() in ('.png', '.bmp'))
    sizes = []
    for path in paths:
        with PIL.Image.open(path) as image:
            sizes.append(image.size)
    return [height > width for width, height in sizes]


@pytest.mark.golden('STYLEGAN2_GOLDEN_ADA')
@pytest.mark.parametrize('name', [
    name for name, case in CASES.items() if case['exit_status'] == 0 and tuple(case['argv'][2:]) in FLAGS])
def test_golden_what_their_tool_makes_of_images(name, capsys):
    case = CASES[name]
    source = GOLDEN_ADA / 'dataset' / case['argv'][0].removeprefix('--source=')
    has_labels = case['labels'] is not None
    labels = [f'--labels={source / "dataset.json" if source.is_dir() else "dataset.json"}'] if has_labels else []
    flags = [*labels, *FLAGS[tuple(case['argv'][2:])]]
    dataset_tool.main(['create_from_images', 'data', str(source), '--shuffle=0', *flags])
    as_zip = name.endswith('.zip')
    dataset_tool.main(['extract', 'data', name, '--zip' if as_zip else '--dataset-json'])
    images, labels = contents(name)
    assert labels == case['labels']
    assert list(images) == list(case['pixels_sha256'])
    scaled = case['argv'][2:3] == ['--width=16'] and source.is_dir()
    different = higher_than_wide(source) if scaled else [False] * len(images)
    assert sum(different) < len(images) / 2
    for (key, pixels), skip in zip(images.items(), different):
        assert skip or hashlib.sha256(pixels.tobytes()).hexdigest() == case['pixels_sha256'][key], key


@pytest.mark.golden('STYLEGAN2_GOLDEN_ADA')
def test_golden_reader():
    """What their reader makes of its files is what a dataset here holds. Subsets and mirrored copies are not made."""
    arrays, seen = load_npz('dataset/reader.npz', GOLDEN_ADA), 0
    for case in load_json('dataset/orders.json', GOLDEN_ADA)['reader']:
        kwargs = case['kwargs']
        if case.get('error') or {'max_size', 'xflip'} & set(kwargs):
            continue
        path, name = GOLDEN_ADA / 'dataset' / kwargs['path'], f'data{seen}'
        flags = ['--labels=dataset.json'] if case['has_labels'] else []
        dataset_tool.main(['create_from_images', name, str(path), '--shuffle=0', *flags])
        files = tfrecords.find_dataset(name)
        images = np.stack(list(tfrecords.read_images(files.largest)))
        rows = slice(2) if case['images_are_first_two_rows'] else slice(None)
        assert len(images) == case['length'] and list(images.shape[1:]) == case['image_shape']
        np.testing.assert_array_equal(images[:, :, rows], arrays[f'{case["key"]}/images'][..., :, :])
        if case['has_labels']:
            np.testing.assert_array_equal(tfrecords.load_labels(files.label_file, len(images)),
                                          arrays[f'{case["key"]}/labels'])
        seen += 1
    assert seen


@pytest.mark.parametrize('labels', [
    None, np.eye(3)[[0, 2, 1, 1, 0]], np.eye(4)[[0, 2, 1, 1, 0]], np.arange(10).reshape(5, 2) / 4])
@pytest.mark.parametrize('flag, name', [('--zip', 'out.zip'), ('--dataset-json', 'out')])
def test_there_and_back(labels, flag, name, capsys):
    """Also labels whose last class has no image, which the number of a class could not say."""
    from training.data import dataset_writer
    with dataset_writer.new_dataset('one/data') as writer:
        for image in np.random.RandomState(0).randint(256, size=[5, 3, 8, 8]):
            writer.add_image(image)
        if labels is not None:
            writer.add_labels(labels)
    dataset_tool.main(['extract', 'one/data', name, flag])
    given = [] if labels is None else ['--labels=dataset.json']
    dataset_tool.main(['create_from_images', 'two/data', name, '--shuffle=0', *given])
    dataset_tool.main(['compare', 'one/data', 'two/data'])
    out = capsys.readouterr().out
    assert 'Identical images: 5 / 5' in out and 'Identical labels: 5 / 5' in out
    if labels is None:
        with pytest.raises(UserError, match='its "labels" are null'):
            dataset_tool.main(['create_from_images', 'three/data', name, '--labels=dataset.json'])
    with pytest.raises(UserError, match='exists'):
        dataset_tool.main(['extract', 'one/data', name, flag])
    dataset_tool.main(['extract', 'two/data', name, flag, '--force'])
    assert list(contents(name)[0]) == [f'00000/img{number:08d}.png' for number in range(5)]


def write_zip(name, files):
    with zipfile.ZipFile(name, 'w') as archive:
        for path, content in files.items():
            archive.writestr(path, content)


@pytest.fixture
def two_images():
    """{name: content} of two PNG files."""
    images = {}
    for number in range(2):
        PIL.Image.new('L', (4, 4), number).save('image.png')
        images[f'00000/img{number:08d}.png'] = pathlib.Path('image.png').read_bytes()
    return images


@pytest.mark.parametrize('as_zip', [True, False])
def test_labels_that_are_there_are_read(two_images, as_zip, capsys):
    labels = {'labels': [[name, number] for number, name in enumerate(two_images)]}
    write_zip('in.zip', {**two_images, 'dataset.json': json.dumps(labels)})
    pathlib.Path('dataset.json').write_text('of the working folder: not meant')
    source = 'in.zip'
    if not as_zip:
        zipfile.ZipFile('in.zip').extractall('in')
        source = 'in'
    dataset_tool.main(['create_from_images', 'data', source, '--shuffle=0'])
    out = capsys.readouterr().out
    assert 'Labels from dataset.json: 2 numbers for each image.' in out and 'Ignored' not in out
    np.testing.assert_array_equal(tfrecords.load_labels(tfrecords.find_dataset('data').label_file, 2), np.eye(2))
    dataset_tool.main(['create_from_images', 'without', source, '--labels=none'])
    assert tfrecords.find_dataset('without').label_file is None and 'Ignored' not in capsys.readouterr().out


@pytest.mark.parametrize('content', ['{"labels": null}', '{"annotations": []}', '[1]'])
def test_a_dataset_json_without_labels_means_none(two_images, content, capsys):
    write_zip('in.zip', {**two_images, 'dataset.json': content})
    dataset_tool.main(['create_from_images', 'data', 'in.zip'])
    assert tfrecords.find_dataset('data').label_file is None and 'Ignored' not in capsys.readouterr().out


@pytest.mark.parametrize('content, fact', [
    ('{"labels": [["00000/img00000000.png", 0]]}', '1 of 2 images have no label'), ('{"lab', 'is no label file')])
def test_labels_that_do_not_fit_are_not_lost_without_a_word(two_images, content, fact):
    write_zip('in.zip', {**two_images, 'dataset.json': content})
    with pytest.raises(UserError, match=f'(?s){fact}.*Or leave the labels out with --labels=none'):
        dataset_tool.main(['create_from_images', 'data', 'in.zip'])


def test_plain_extract_writes_the_labels(two_images, capsys):
    rows = [f'{name},0.5,{number}' for number, name in enumerate(two_images)]
    write_zip('in.zip', {**two_images, 'labels.csv': '\n'.join(rows)})
    dataset_tool.main(['create_from_images', 'data', 'in.zip', '--labels=labels.csv', '--shuffle=0'])
    for flags in [], ['--force']:
        dataset_tool.main(['extract', 'data', 'out', *flags])
    assert json.loads(pathlib.Path('out/dataset.json').read_text())['labels'][1] == ['img00000001.png', [0.5, 1]]
    dataset_tool.main(['create_from_images', 'again', 'out', '--shuffle=0'])
    dataset_tool.main(['compare', 'data', 'again'])
    assert 'Identical labels: 2 / 2' in capsys.readouterr().out


def test_a_folder_with_other_files_is_not_replaced():
    images = [PIL.Image.new('L', (4, 4))] * 2
    image_archive.write('out', images, None, as_zip=False)
    pathlib.Path('out/00000/mine.txt').write_text('mine')
    with pytest.raises(UserError, match='holds mine.txt'):
        image_archive.write('out', images, None, as_zip=False, force=True)
    assert pathlib.Path('out/00000/mine.txt').exists() and not os.path.exists('out.partial')


@pytest.mark.parametrize('argv, fact', [
    (['out.zip', '--zip', '--dataset-json'], 'expected one of them'), (['out', '--zip'], 'ends in .zip'),
    (['out.zip'], 'ends in .zip')])
def test_contradicting_flags(argv, fact):
    with pytest.raises(UserError, match=fact):
        dataset_tool.main(['extract', 'data', *argv])
