"""A run that writes a dataset and is interrupted goes on where it was, to the same bytes as one that was not."""

import os

import numpy as np
import pytest

from dnnlib.cli import UserError
from tests.training.data.test_tfrecords import random_images
from training.data import dataset_writer, writer_progress

IMAGES = random_images(40, 1, 8)
LEFT_OUT = {0: 'too dark', 5: None, 6: None, 39: 'blurred'}


def source(stop_at=None, images=IMAGES, max_images=None, error=KeyboardInterrupt, **settings):
    """40 images with labels, of which 4 are left out. At image number `stop_at` decoding fails."""
    def decode(number):
        if number == stop_at:
            raise error
        return LEFT_OUT.get(number, images[number])
    return dataset_writer.Source((1, 8, 8), range(len(images)), decode, len(images), labels=np.eye(len(images)),
                                 max_images=max_images, **settings)


def write(folder, stop_at=None, resume=True, command='create_from_images', source_digest='a', **settings):
    """Results of the items."""
    return list(dataset_writer.write_source(folder, source(stop_at, **settings), num_threads=1, command=command,
                                            resume=resume, source_digest=source_digest))


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def short_chunks(monkeypatch):
    """Two images at a time."""
    monkeypatch.setattr(dataset_writer, '_CHUNK_BYTES', 128)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Files of a run that was not interrupted."""
    folder = tmp_path_factory.mktemp('whole') / 'data'
    write(folder, resume=False)
    return files_in(folder)


def interrupt(folder, stop_at, **settings):
    with pytest.raises(KeyboardInterrupt):
        write(folder, stop_at, **settings)
    return folder.parent / 'data.partial'


def test_interrupted_runs_go_on_to_the_same_bytes(tmp_path, whole, short_chunks, capsys):
    decoded = []
    for stop_at in (1, 17, 18, 33):
        partial = interrupt(tmp_path / 'data', stop_at)
        assert 'What has been written is kept' in capsys.readouterr().out and not (tmp_path / 'data').exists()
        decoded.append(os.path.getsize(partial / 'data-r02.tfrecords'))
    assert decoded == sorted(decoded) and decoded[1] > decoded[0]
    results = write(tmp_path / 'data')
    assert [result is True for result in results] == [number not in LEFT_OUT for number in range(40)]
    assert files_in(tmp_path / 'data') == whole and os.listdir(tmp_path) == ['data']
    assert 'Going on after 29 images' in capsys.readouterr().out


@pytest.mark.parametrize('max_images', [20, 36])
def test_a_limit_holds_for_all_runs_together(tmp_path, short_chunks, max_images):
    write(tmp_path / 'whole' / 'data', resume=False, max_images=max_images)
    interrupt(tmp_path / 'data', 16, max_images=max_images)
    write(tmp_path / 'data', max_images=max_images)
    assert files_in(tmp_path / 'data') == files_in(tmp_path / 'whole' / 'data')


def test_a_run_killed_just_before_its_end(tmp_path, whole, short_chunks, monkeypatch):
    def interrupted(*_args):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dataset_writer.DatasetWriter, 'add_labels', interrupted)
        write(tmp_path / 'data')
    write(tmp_path / 'data')
    assert files_in(tmp_path / 'data') == whole


def test_files_that_end_anywhere(tmp_path, whole, short_chunks):
    """As a power failure leaves them: some of their bytes were not written, or are zeros."""
    rnd = np.random.RandomState(0)
    partial = interrupt(tmp_path / 'data', 30)
    left = files_in(partial)
    assert sorted(left) == ['data-r02.tfrecords', 'data-r03.tfrecords', 'data.progress']
    for trial in range(40):
        for name, content in left.items():
            header = content.index(b'\n') + 1 if name == 'data.progress' else 0
            end = rnd.randint(header, len(content) + 1) if rnd.rand() < 0.7 else len(content)
            content = content[:end]
            if trial % 2 and name != 'data.progress':
                zeros = rnd.randint(0, end + 1)
                content = content[:end - zeros] + bytes(zeros)
            partial.mkdir(exist_ok=True)
            (partial / name).write_bytes(content)
        write(tmp_path / 'data')
        assert files_in(tmp_path / 'data') == whole
        for path in (tmp_path / 'data').iterdir():
            path.unlink()


def test_without_an_interrupted_run_it_begins(tmp_path, whole):
    (tmp_path / 'data.partial').mkdir()
    (tmp_path / 'data.partial' / 'data-r09.tfrecords').write_bytes(b'of a run that did not note its progress')
    write(tmp_path / 'data')
    assert files_in(tmp_path / 'data') == whole


def test_without_resume_the_next_run_begins_again(tmp_path, whole, short_chunks):
    partial = interrupt(tmp_path / 'data', 20)
    assert partial.is_dir()
    write(tmp_path / 'data', resume=False, command='create_from_images')
    assert files_in(tmp_path / 'data') == whole
    for path in (tmp_path / 'data').iterdir():
        path.unlink()
    partial = interrupt(tmp_path / 'data', 20, resume=False)
    assert not partial.exists()


OTHERS = 255 - IMAGES


@pytest.mark.parametrize('settings, expected', [
    (dict(command='create_from_images --shuffle=0'),
     'the interrupted run was create_from_images, but this one is create_from_images --shuffle=0'),
    (dict(source_digest='b'), 'the names or sizes of the files'),
    (dict(images=IMAGES[:30]), 'had 40 images to store, but this one has 30'),
    (dict(images=OTHERS), 'item 3 of the source is not what the interrupted run stored')])
def test_another_command_or_source_is_refused_and_nothing_is_lost(tmp_path, short_chunks, settings, expected):
    partial = interrupt(tmp_path / 'data', 25)
    before = files_in(partial)
    with pytest.raises(UserError, match=expected) as err:
        write(tmp_path / 'data', **settings)
    assert '--resume' in err.value.remedy
    assert {name: len(content) for name, content in files_in(partial).items()} == {
        name: len(content) for name, content in before.items()}


@pytest.mark.parametrize('content', [b'\0' * 100, b'', b'[' * 60000, b'[1]\n', b'{"version": '])
def test_damaged_progress_is_refused(tmp_path, short_chunks, content):
    partial = interrupt(tmp_path / 'data', 25)
    (partial / 'data.progress').write_bytes(content)
    with pytest.raises(UserError, match='data.progress is damaged'):
        write(tmp_path / 'data')


def test_a_full_disk_keeps_what_was_written(tmp_path, whole, short_chunks):
    with pytest.raises(UserError, match='No space left on device; the same command goes on from there'):
        write(tmp_path / 'data', 20, error=OSError(28, 'No space left on device'))
    write(tmp_path / 'data')
    assert files_in(tmp_path / 'data') == whole


def test_addresses_are_refused():
    with pytest.raises(UserError, match='--resume: expected a local folder'):
        write('ram://data')


def test_digest_of_files_sees_names_and_sizes_and_not_places(tmp_path):
    for name in ('a', 'b'):
        (tmp_path / name / 'sub').mkdir(parents=True)
        (tmp_path / name / 'sub' / '1.png').write_bytes(b'abc')
        (tmp_path / name / '2.png').write_bytes(b'abcd')
    digests = [writer_progress.digest_of_files(str(tmp_path / 'a'))]
    assert digests[0] == writer_progress.digest_of_files(f'{tmp_path}/b/')
    (tmp_path / 'a' / '2.png').write_bytes(b'abc')
    digests.append(writer_progress.digest_of_files(str(tmp_path / 'a')))
    (tmp_path / 'a' / '2.png').rename(tmp_path / 'a' / '3.png')
    digests.append(writer_progress.digest_of_files(str(tmp_path / 'a')))
    digests.append(writer_progress.digest_of_files(str(tmp_path / 'a' / '3.png')))
    assert len(set(digests)) == 4
