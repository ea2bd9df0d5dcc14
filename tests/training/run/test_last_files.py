"""What a run does at its end if its disk is full: nothing that was learned is lost."""

import errno
import json
import re
import shlex
import signal
import subprocess

import pytest

from dnnlib.cli import UserError
from tests.full_disk import disk_full_for
from tests.training.run.test_checkpoint import make_run, names, progress, save
from tests.training.run.test_resume import assert_same_run, train
from tests.training.run.test_resume import data_dir as data_dir  # noqa: PLC0414  A fixture.
from training import misc
from training.run import checkpoint
from training.run.last_files import LastFiles, NotInPlace
from training.step.iteration import Iterations


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Folder of the temporary files."""
    folder = tmp_path / 'temporary'
    folder.mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(folder))
    return folder


def test_older_checkpoints_make_room(tmp_path, temporary, capsys):
    run = make_run(tmp_path / 'run')
    save(run, 4, 8)
    last_files = LastFiles(str(run.dir), run.checkpoints.make_room)
    with disk_full_for(lambda target: len(names(run.dir)) > 2):  # With the one that is being written.
        last_files.write(run.checkpoints.name(progress(12)), lambda path: run.checkpoints.save(progress(12), path))
    last_files.check()
    assert names(run.dir) == ['kimg-000000.008', 'kimg-000000.012'] and not list(temporary.iterdir())
    assert 'No space left on device. Older checkpoints were deleted, to make room.' in capsys.readouterr().out
    assert checkpoint.find(str(run.dir), '', '').path.endswith('012')


def test_the_newest_that_is_not_damaged_is_never_deleted(tmp_path):
    run = make_run(tmp_path, keep=9)
    save(run, 4, 8, 12)
    (tmp_path / 'checkpoints' / 'kimg-000000.012' / 'state.json').write_text('{')
    assert run.checkpoints.make_room() and names(tmp_path) == ['kimg-000000.008']
    assert not run.checkpoints.make_room() and names(tmp_path) == ['kimg-000000.008']
    (tmp_path / 'checkpoints' / 'kimg-000000.008' / 'state.json').write_text('{')
    assert not run.checkpoints.make_room() and names(tmp_path) == ['kimg-000000.008']


def test_a_folder_that_cannot_be_written_costs_no_checkpoint(tmp_path, temporary, capsys):
    """Deleting checkpoints would not help there."""
    run = make_run(tmp_path / 'run')
    save(run, 4, 8)
    last_files = LastFiles(str(run.dir), run.checkpoints.make_room)
    with disk_full_for(lambda target: target.startswith(str(run.dir)), errno.EROFS):
        last_files.write('net.pkl', lambda path: misc.save_pkl({}, path))
    assert names(run.dir) == ['kimg-000000.004', 'kimg-000000.008']
    expected = r'net.pkl: cannot be written: Read-only.*; it is in .*temporary.*/net.pkl'
    with pytest.raises(NotInPlace, match=expected) as err:
        last_files.check()
    assert err.value.moves == '' and misc.load_pkl(next(temporary.glob('run-*/net.pkl'))) == {}
    assert 'it is in' in capsys.readouterr().out


def test_what_cannot_be_written_anywhere_is_one_error(tmp_path, temporary):
    last_files = LastFiles(str(tmp_path), lambda: False)
    with disk_full_for(lambda target: True):
        for name in ('net.pkl', 'other.pkl'):
            last_files.write(name, lambda path: misc.save_pkl({}, path))
    with pytest.raises(UserError, match=r'net.pkl: .*; it is lost: .*No space.*other.pkl: .*; it is lost') as err:
        last_files.check()
    assert len(str(err.value).splitlines()) == 2


@pytest.mark.slow
def test_a_run_that_ends_on_a_full_disk(data_dir, tmp_path, temporary, capsys):
    """The checkpoint and the pickle go elsewhere. Moved to its place, the run goes on to the same end."""
    train(data_dir, tmp_path / 'expected', resume=None)
    run_dir = tmp_path / 'a run'
    last = max(names(tmp_path / 'expected'))
    places = f'/a run/(checkpoints/{last}|network-final.pkl)$'
    with disk_full_for(lambda target: re.search(places, target)), pytest.raises(NotInPlace) as err:
        train(data_dir, run_dir, resume=None)
    fact, remedy = str(err.value).splitlines()
    assert fact.count('No space left on device; it is in') == 2 and remedy.startswith('Make room for ')
    out = capsys.readouterr().out
    assert not (run_dir / 'network-final.pkl').exists() and len(names(run_dir)) == 1
    final, = temporary.glob('a run-*/network-final.pkl')
    assert final.read_bytes() == (tmp_path / 'expected' / 'network-final.pkl').read_bytes()
    assert str(final) in out and str(final) in fact
    state, = temporary.glob(f'a run-*/{last}/state.json')
    assert json.loads(state.read_text())['progress']['cur_nimg'] >= 128
    subprocess.run(f'{err.value.moves}true', shell=True, check=True)
    assert last in names(run_dir) and shlex.split(err.value.moves)[0] == 'mv'
    train(data_dir, run_dir)
    assert_same_run(run_dir, tmp_path / 'expected')


@pytest.mark.slow
def test_a_run_that_is_stopped_on_a_full_disk(data_dir, tmp_path, temporary):
    """The state goes elsewhere, and the error takes the place of Stopped: the run folder alone cannot go on."""
    def interrupt(count):
        if count == 2:
            signal.raise_signal(signal.SIGINT)
    with disk_full_for(lambda target: '/run/checkpoints/' in target), pytest.raises(
            NotInPlace, match=r'; it is in .*kimg-000000\.016'):
        train(data_dir, tmp_path / 'run', {(Iterations, 'run'): interrupt}, resume=None)
    found = checkpoint.find(str(next(temporary.glob('run-*/kimg-*'))), '', '')
    assert found.state['progress']['cur_nimg'] == 16
