"""NAME.json beside the records: what is missing, foreign or changed is noticed, and datasets without it still open."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from dnnlib.cli import UserError
from tests.commands.test_dataset_tool import SCRIPT, files_of, random_pixels, run, save_images
from tests.training.data.test_tfrecords import random_images, write_dataset
from training.data import dataset_writer, tfrecords


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_manifest_records_every_file_and_the_command(capsys):
    save_images('images', 4)
    pathlib.Path('labels.csv').write_text('\n'.join(f'{number}.png,{"ab"[number % 2]}' for number in range(4)))
    assert run('create_from_images', 'data', 'images', f'--labels={os.path.abspath("labels.csv")}', '--shuffle=0',
               '--max-images=3', '--channels=1', '--letterbox=8x6', '--skip-bad', '--force') == 0
    content = json.loads(pathlib.Path('data/data.json').read_text())
    assert content['command'] == ('create_from_images --shuffle=0 --max-images=3 --letterbox=8x6 --channels=1 '
                                  '--labels=labels.csv --skip-bad')
    assert (content['num_images'], content['resolutions']) == (3, [4, 8])
    assert sorted(content['files']) == sorted(files_of('data').keys() - {'data.json'})
    files = tfrecords.find_dataset('data')
    assert files.manifest is not None
    for name, record in files.manifest.files.items():
        assert record.num_bytes == os.path.getsize(f'data/{name}')
    assert run('verify', 'data') == run('info', 'data') == 0
    out = capsys.readouterr().out
    assert 'Number, sizes and digests of the files: as data/data.json says\n' in out
    assert f'Made by     {content["command"]}' in out


def test_dataset_without_a_manifest_says_not_recorded(capsys):
    write_dataset('data', random_images(3))
    os.remove('data/data.json')
    assert run('verify', 'data') == run('info', 'data') == 0
    out = capsys.readouterr().out
    assert 'digests of the files: not recorded\n' in out and 'Made by     not recorded\n' in out


def remove_largest_level():
    os.remove('data/data-r04.tfrecords')
    return 'data/data-r04.tfrecords is missing: data/data.json lists it'


def remove_labels():
    os.remove('data/data-rxx.labels')
    return 'data/data-rxx.labels is missing: data/data.json lists it'


def add_a_level():
    tops = [np.repeat(np.repeat(image, 2, 1), 2, 2) for image in random_images(3)]
    write_dataset('top/data', tops)
    os.replace('top/data/data-r05.tfrecords', 'data/data-r05.tfrecords')
    return 'data/data-r05.tfrecords is not of this dataset: data/data.json does not list it'


def drop_the_last_image_of_every_level():
    for path in pathlib.Path('data').glob('*.tfrecords'):
        path.write_bytes(path.read_bytes()[:path.stat().st_size // 3 * 2])
    return 'data/data-r02.tfrecords has 196 bytes, expected 294 as data/data.json says'


def damage_the_manifest():
    pathlib.Path('data/data.json').write_text('{"files": {"../x": 1}}')
    return 'data/data.json is no record of a dataset, or is damaged'


def nest_the_manifest():
    pathlib.Path('data/data.json').write_text('[' * 100_000)
    return 'data/data.json is no record of a dataset, or is damaged'


@pytest.mark.parametrize('spoil', [remove_largest_level, remove_labels, add_a_level,
                                   drop_the_last_image_of_every_level, damage_the_manifest, nest_the_manifest])
def test_dataset_unlike_its_manifest_is_refused_at_opening(spoil):
    write_dataset('data', random_images(3), np.eye(3))
    message = spoil()
    with pytest.raises(UserError) as caught:
        tfrecords.find_dataset('data')
    assert caught.value.fact == message and caught.value.remedy.endswith('delete data/data.json.')
    os.remove('data/data.json')
    tfrecords.find_dataset('data')


def replace_the_images():
    write_dataset('other/data', random_images(3, seed=1), np.eye(3))
    for path in pathlib.Path('other/data').glob('*.tfrecords'):
        os.replace(path, f'data/{path.name}')
    return 'data/data-r02.tfrecords has another content than when data/data.json was written'


def replace_the_labels():
    write_dataset('other/data', random_images(3), np.eye(3)[::-1])
    os.replace('other/data/data-rxx.labels', 'data/data-rxx.labels')
    return 'data/data-rxx.labels has another content than when data/data.json was written'


@pytest.mark.parametrize('spoil', [replace_the_images, replace_the_labels])
def test_verify_notices_other_content_of_the_same_size(spoil, capsys):
    write_dataset('data', random_images(3), np.eye(3))
    message = spoil()
    tfrecords.find_dataset('data')
    assert run('verify', 'data') == 1
    assert capsys.readouterr().err.splitlines()[0] == f'Error: {message}'


def test_digest_of_the_writer_is_that_of_the_reader():
    write_dataset('data', random_images(5))
    files = tfrecords.find_dataset('data')
    assert files.manifest is not None
    for path in files.levels.values():
        assert files.manifest.files[os.path.basename(path)].digest == tfrecords.content_digest(path)


def test_manifest_is_not_taken_for_the_names_of_classes():
    write_dataset('pet-classes', random_images(3))
    assert tfrecords.find_dataset('pet-classes').class_file is None


def test_force_replaces_the_manifest_of_a_renamed_dataset_but_no_other_json():
    write_dataset('old', random_images(3))
    os.rename('old', 'new')
    write_dataset('new', random_images(2), force=True)
    assert sorted(os.listdir('new')) == ['new-r02.tfrecords', 'new-r03.tfrecords', 'new-r04.tfrecords', 'new.json']
    pathlib.Path('new/notes.json').write_text('{}')
    with pytest.raises(UserError, match='holds notes.json'):
        write_dataset('new', random_images(2), force=True)


@pytest.mark.parametrize('content', ['{"labels": [["a.png", 0]]}', '{"labels": "' + 'x' * (1 << 20) + '"}'])
def test_json_of_another_tool_is_neither_read_nor_replaced(content):
    write_dataset('data', random_images(3))
    pathlib.Path('data/data.json').write_text(content)
    assert tfrecords.find_dataset('data').manifest is None
    with pytest.raises(UserError, match='data holds data.json, which --force does not replace'):
        write_dataset('data', random_images(3), force=True)


def test_same_bytes_from_two_processes():
    save_images('images', 3)
    for parent in ('one', 'two'):
        subprocess.run([sys.executable, SCRIPT, 'create_from_images', f'{parent}/data', 'images'], check=True)
    assert files_of('one/data') == files_of('two/data')


def test_python_code_has_no_command():
    with dataset_writer.new_dataset('data') as writer:
        writer.add_image(random_pixels().transpose(2, 0, 1))
    assert json.loads(pathlib.Path('data/data.json').read_text())['command'] is None
