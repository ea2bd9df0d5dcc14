"""Checkpoints as files: complete or absent, verified when read, and the one before is used if one is damaged."""

import dataclasses
import hashlib
import json
import os
import pathlib
import random
import shutil
import subprocess
import types

import numpy as np
import pytest
import tensorflow as tf

from dnnlib import run_dir
from dnnlib.cli import UserError
from dnnlib.tflib.autosummary import Summaries
from tests.full_disk import files_limited_to
from training.run import checkpoint
from training.run.checkpoint import Checkpoints, RunProgress
from training.run.snapshot import tolerate_write_errors

DESC = 'stylegan2-ds-1gpu-config-f'


class Part:
    """Something with a state."""

    def __init__(self, value):
        self.value = value

    def state(self):
        return self.value

    def set_state(self, value):
        self.value = value


def make_run(run_dir, value=1.0, part='a', facts=None, **kwargs):
    var = tf.Variable([value, value])
    run = types.SimpleNamespace(var=var, part=Part(part), dir=pathlib.Path(run_dir))
    run.checkpoints = Checkpoints(str(run_dir), {'G': {'64x64/Conv0/weight': var}}, {'part': run.part},
                                  facts or {'data': [3, 8, 8]}, {'settings': None}, **kwargs)
    return run


def progress(nimg):
    return RunProgress(cur_nimg=nimg, tick_start_nimg=0, sched_nimg=0, iteration=nimg // 4, cur_tick=2)


def save(run, *numbers):
    """Checkpoints after so many images, whose variable has that value."""
    for nimg in numbers:
        run.var.assign([nimg, nimg])
        run.checkpoints.save(progress(nimg))


def names(run_dir):
    return sorted(os.listdir(pathlib.Path(run_dir) / 'checkpoints'))


def test_everything_comes_back(tmp_path):
    run = make_run(tmp_path, 0.1, part={'x': [1 / 3, 1e-300]})
    random.seed(5)
    np.random.seed(6)
    np.random.randn()  # leaves half of a pair of Gaussians behind
    tf.random.set_global_generator(tf.random.Generator.from_seed(7))
    before = RunProgress(1234567, 1230000, 1234560, iteration=99, cur_tick=3)
    run.checkpoints.save(before)
    assert names(tmp_path) == ['kimg-001234.567']

    def draw():
        generator = tf.random.get_global_generator()
        return random.random(), np.random.randn(3).tolist(), generator.normal([3]).numpy().tolist()
    drawn = draw()
    other = make_run(tmp_path / 'other', 5.0)
    found = checkpoint.find(str(tmp_path), str(tmp_path), DESC)
    assert found.path == str(tmp_path / 'checkpoints' / 'kimg-001234.567')
    assert (found.run_dir, found.note) == (str(tmp_path), '')
    other.checkpoints.restore(found.path, found.state)
    assert RunProgress(**found.state['progress']) == before
    np.testing.assert_array_equal(other.var, np.float32([0.1, 0.1]))
    assert other.part.value == {'x': [1 / 3, 1e-300]}
    assert draw() == drawn


def test_checksums_are_those_of_sha256sum(tmp_path):
    save(make_run(tmp_path), 4)
    done = subprocess.run(['sha256sum', '--strict', '-c', 'sha256sums.txt'],
                          cwd=tmp_path / 'checkpoints' / 'kimg-000000.004', capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()[::2]) == ['state.json:', 'variables.data-00000-of-00001:', 'variables.index:']


def test_the_last_ones_are_kept(tmp_path):
    run = make_run(tmp_path, keep=3)
    save(run, 8, 4000, 12000, 999999996, 1000000000)
    assert names(tmp_path) == ['kimg-000012.000', 'kimg-1000000.000', 'kimg-999999.996']
    assert checkpoint.find(str(tmp_path), '', DESC).state['progress']['cur_nimg'] == 1000000000


@pytest.mark.parametrize('on_windows', [False, True])
def test_what_is_written_to_the_disk_is_open_for_writing(tmp_path, monkeypatch, on_windows):
    """Windows refuses to write files to the disk that are open for reading only, and cannot open folders."""
    import fcntl
    synced = []

    def fsync(descriptor):
        name = os.readlink(f'/proc/self/fd/{descriptor}')
        if os.path.isdir(name):
            assert not on_windows, 'a folder was opened'
        elif fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, 'Bad file descriptor', name)
        synced.append(os.path.basename(name))
    monkeypatch.setattr(checkpoint, '_ON_WINDOWS', on_windows)
    monkeypatch.setattr(checkpoint.os, 'fsync', fsync)
    save(make_run(tmp_path), 4)
    assert names(tmp_path) == ['kimg-000000.004'] and {'state.json', 'variables.index', 'sha256sums.txt'} < set(synced)
    assert ('checkpoints' in synced) != on_windows


def test_wanted_by_time_or_at_once_and_once_an_iteration(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(checkpoint.time, 'time', lambda: now[0])
    run = make_run(tmp_path, minutes=2.0)
    wanted = run.checkpoints.wanted
    # It stays wanted until it is written.
    assert not wanted(progress(4)) and wanted(progress(4), now=True) and wanted(progress(8))
    save(run, 8)
    assert not wanted(progress(8), now=True) and wanted(progress(12))
    save(run, 12)
    now[0] += 119
    assert not wanted(progress(16))
    now[0] += 1
    assert wanted(progress(16))


def test_snapshots_of_a_run_never_have_the_same_name(tmp_path):
    """Those of whole kimg are the original's, and all are in order. A resumed run gives them the same names."""
    moments = [0, 16, 900, 1000, 1004, 4096, 8192, 12000, 12088, 25000032]
    expected = [
        '000000',
        '000000_016',
        '000000_900',
        '000001',
        '000001_004',
        '000004',
        '000008',
        '000012',
        '000012_088',
        '025000',
    ]
    run, found = progress(0), []
    for nimg in moments:
        run = RunProgress(**{**json.loads(json.dumps(dataclasses.asdict(run))), 'cur_nimg': nimg})
        found.append(run.snapshot_name('network-snapshot-', '.pkl'))
        assert run.snapshot_name('network-snapshot-', '.pkl') == found[-1]  # Made again by a run that was killed.
    assert found == [f'network-snapshot-{number}.pkl' for number in expected]
    assert sorted(found) == found
    assert run.snapshot_name('fakes', '.png') == 'fakes025000.png'  # Others have names of their own.
    for name in [*found, 'network-snapshot-1000000.pkl', 'network-final.pkl']:
        (tmp_path / name).touch()
    assert run_dir.network_snapshots(tmp_path) == [*found, 'network-snapshot-1000000.pkl']


@pytest.mark.parametrize('kimg, expected', [(0.088, '0.088'), (4.096, '4.096'), (99.9, '99.900'), (160.0, '160.0'),
                                            (25000.032, '25000.0')])
def test_kimg_of_short_runs_have_enough_digits(kimg, expected):
    assert checkpoint.format_kimg(kimg) == expected


# ---- Whole or not at all ----

@pytest.mark.parametrize('place', ['training.run.checkpoint.file_sha256', 'training.run.checkpoint._sync', 'json.dump',
                                   'os.replace', 'tensorflow.train.Checkpoint.write'])
def test_one_that_breaks_off_leaves_nothing_and_takes_nothing(tmp_path, monkeypatch, place):
    run = make_run(tmp_path)
    save(run, 4, 8)
    with monkeypatch.context() as patch:
        def broken(*args, **kwargs):
            raise KeyboardInterrupt
        patch.setattr(place, broken)
        with pytest.raises(KeyboardInterrupt):
            save(run, 12)
    assert names(tmp_path) == ['kimg-000000.004', 'kimg-000000.008'] and run.checkpoints.last.endswith('008')
    save(run, 12)
    assert names(tmp_path) == ['kimg-000000.008', 'kimg-000000.012']


@pytest.mark.parametrize('limit', [0, 200, 3000])  # None of it, not all tensors, not state.json
def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path, capfd, limit):
    run = make_run(tmp_path)
    save(run, 4)
    size = (tmp_path / 'checkpoints' / 'kimg-000000.004' / 'state.json').stat().st_size
    assert size > 3000 > 200 > 8
    expected = 'kimg-000000.008: cannot be written: File too large'
    with capfd.disabled(), files_limited_to(limit), pytest.raises(UserError, match=expected) as err:
        save(run, 8)
    assert 'free space' in err.value.remedy and names(tmp_path) == ['kimg-000000.004']
    with tolerate_write_errors('the checkpoint'):
        raise err.value
    assert 'the checkpoint was not written' in capfd.readouterr().out
    # It is tried again at the next occasion.
    assert not run.checkpoints.wanted(progress(8)) and run.checkpoints.wanted(progress(8), now=True)
    save(run, 8)
    assert names(tmp_path) == ['kimg-000000.004', 'kimg-000000.008']


def test_what_a_killed_run_left_is_cleared_away(tmp_path):
    run = make_run(tmp_path)
    save(run, 4)
    shutil.copytree(tmp_path / 'checkpoints' / 'kimg-000000.004', tmp_path / 'checkpoints' / 'kimg-000000.008.part')
    found = checkpoint.find(str(tmp_path), '', DESC)
    assert found.path.endswith('004')
    run.checkpoints.restore(found.path, found.state)
    assert names(tmp_path) == ['kimg-000000.004']


# ---- Damage ----

def spoil(path, how):
    content = bytearray(path.read_bytes())
    if how == 'missing':
        path.unlink()
        return
    if how == 'flipped':
        content[len(content) // 2] ^= 1
    elif how == 'shorter':
        del content[-2:]
    elif how == 'empty':
        content.clear()
    path.write_bytes(content)


@pytest.mark.parametrize('how', ['flipped', 'shorter', 'empty', 'missing'])
@pytest.mark.parametrize('name', ['variables.index', 'variables.data-00000-of-00001', 'state.json', 'sha256sums.txt'])
def test_a_damaged_one_gives_way_to_the_one_before(tmp_path, name, how):
    run = make_run(tmp_path, keep=3)
    save(run, 4, 8, 12)
    newest = tmp_path / 'checkpoints' / 'kimg-000000.012'
    spoil(newest / name, how)
    found = checkpoint.find(str(tmp_path), '', DESC)
    assert found.path.endswith('kimg-000000.008') and found.state['progress']['cur_nimg'] == 8
    line, = found.note.splitlines()
    assert line.startswith(f'Note: {newest} is damaged: ') and line.endswith('Going on from the checkpoint before it.')
    with pytest.raises(UserError, match='kimg-000000.012 is damaged') as err:
        checkpoint.find(str(newest), '', DESC)
    assert err.value.remedy
    run.checkpoints.restore(found.path, found.state)
    assert names(tmp_path) == ['kimg-000000.004', 'kimg-000000.008']
    np.testing.assert_array_equal(run.var, [8, 8])


@pytest.mark.parametrize('name', ['/dev/zero', '../outside', 'folder', 'a\0b', ''])
def test_sums_of_files_outside_are_not_read(tmp_path, name):
    save(make_run(tmp_path), 4)
    newest = tmp_path / 'checkpoints' / 'kimg-000000.004'
    (newest / 'folder').mkdir()
    (tmp_path / 'checkpoints' / 'outside').write_bytes(b'x')
    with open(newest / 'sha256sums.txt', 'a', encoding='ascii') as file:
        file.write(f'{64 * "0"}  {name}\n')
    with pytest.raises(UserError, match='which is no file of the checkpoint'):
        checkpoint.find(str(newest), '', DESC)


@pytest.mark.parametrize('state', ['[]', '5', 'null', '{}', 100_000 * '[', '{"format": [1]}'])
def test_a_state_that_is_none(tmp_path, state):
    save(make_run(tmp_path), 4)
    newest = tmp_path / 'checkpoints' / 'kimg-000000.004'
    sums = (newest / 'sha256sums.txt').read_text()
    old = hashlib.sha256((newest / 'state.json').read_bytes()).hexdigest()
    (newest / 'state.json').write_text(state)
    (newest / 'sha256sums.txt').write_text(sums.replace(old, hashlib.sha256(state.encode()).hexdigest()))
    with pytest.raises(UserError, match='is damaged|of format') as err:
        checkpoint.find(str(newest), '', DESC)
    assert 'checksum' not in err.value.fact and '\n' not in err.value.fact


def test_all_damaged(tmp_path):
    save(make_run(tmp_path), 4, 8)
    for path in tmp_path.glob('checkpoints/*/state.json'):
        spoil(path, 'flipped')
    with pytest.raises(UserError, match='all 2 checkpoints are damaged') as err:
        checkpoint.find(str(tmp_path), '', DESC)
    assert '--resume-pkl' in err.value.remedy


def test_another_format_is_no_damage(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    save(run, 4)
    monkeypatch.setattr(checkpoint, '_FORMAT', 2)
    save(run, 8)
    monkeypatch.undo()
    with pytest.raises(UserError, match='expected a checkpoint of format 1, found 2'):
        checkpoint.find(str(tmp_path), '', DESC)


# ---- Which one ----

def test_latest_is_the_last_run_of_this_kind_that_has_one(tmp_path):
    for name in ('00002', '00009', '00010'):
        save(make_run(tmp_path / f'{name}-{DESC}'), 4)
    save(make_run(tmp_path / '00011-stylegan2-other-1gpu-config-f'), 4)
    save(make_run(tmp_path / f'00012-{DESC}-more'), 4)
    save(make_run(tmp_path / f'00013-a-{DESC}'), 4)
    (tmp_path / f'00014-{DESC}').mkdir()
    found = checkpoint.find('latest', str(tmp_path), DESC)
    assert found.run_dir == str(tmp_path / f'00010-{DESC}')
    assert checkpoint.find('latest', str(tmp_path), 'stylegan2-new-1gpu-config-f') is None
    assert checkpoint.find('latest', str(tmp_path / 'nowhere'), DESC) is None


def test_a_run_goes_on_in_its_folder_and_a_checkpoint_begins_a_new_one(tmp_path):
    save(make_run(tmp_path / 'run'), 4, 8)
    older = tmp_path / 'run' / 'checkpoints' / 'kimg-000000.004'
    found = checkpoint.find(f'{tmp_path / "run"}/', '', DESC)
    assert (found.path, found.run_dir) == (str(tmp_path / 'run' / 'checkpoints' / 'kimg-000000.008'),
                                           str(tmp_path / 'run'))
    for path in (older, older / 'state.json', older / 'variables.index'):
        assert checkpoint.find(str(path), '', DESC)[::2] == (str(older), None)


def test_something_else_is_refused(tmp_path):
    (tmp_path / 'net.pkl').touch()
    for what in (tmp_path, tmp_path / 'net.pkl', tmp_path / 'nowhere', 'newest'):
        with pytest.raises(UserError, match='--resume: expected latest, the folder of a run or a checkpoint') as err:
            checkpoint.find(str(what), '', DESC)
        assert str(what) in err.value.fact and '--resume-pkl' in err.value.remedy


# ---- What must fit ----

def test_another_data_set_is_refused(tmp_path):
    save(make_run(tmp_path), 4)
    found = checkpoint.find(str(tmp_path), '', DESC)
    with pytest.raises(UserError, match=r'does not fit: expected data \[3, 8, 8\], found \[3, 16, 16\]'):
        make_run(tmp_path, facts={'data': (3, 16, 16)}).checkpoints.restore(found.path, found.state)


@pytest.mark.parametrize('tensors', [
    {'G': {'64x64/Conv0/weight': [0.0, 0.0, 0.0]}}, {'G': {'64x64/Conv0/bias': [0.0, 0.0]}}, {'G': {}},
    {'G': {'64x64/Conv0/weight': [0.0, 0.0], 'more': [0.0]}}])
def test_other_networks_are_refused(tmp_path, tensors):
    save(make_run(tmp_path), 4)
    found = checkpoint.find(str(tmp_path), '', DESC)
    tensors = {'G': {name: tf.Variable(value) for name, value in tensors['G'].items()}}
    other = Checkpoints(str(tmp_path), tensors, {'part': Part('a')}, {'data': [3, 8, 8]}, {})
    with pytest.raises(UserError, match='does not fit the networks'):
        other.restore(found.path, found.state)


# ---- Files that grow ----

def test_what_came_after_it_is_dropped_from_the_files_that_grow(tmp_path):
    run = make_run(tmp_path)
    (tmp_path / 'metric-fid50k.txt').write_text('first\n')
    (tmp_path / 'log.txt').write_text('first\n')
    stats = Summaries(str(tmp_path))
    for tick in range(2):
        stats.add('x', tick)
        stats.save(tick, tick=tick)
    stats_then, (events,) = (tmp_path / 'stats.jsonl').read_text(), tmp_path.glob('events*')
    events_then = events.read_bytes()
    save(run, 4)
    stats.add('x', 2)
    stats.save(2, tick=2)
    later = Summaries(str(tmp_path))  # As of a run that was resumed and killed again.
    later.add('x', 3)
    later.save(3, tick=3)
    for name in ('metric-fid50k.txt', 'log.txt'):
        with open(tmp_path / name, 'a') as file:
            file.write('second\n')
    (tmp_path / 'metric-ppl.txt').write_text('second\n')
    assert len(list(tmp_path.glob('events*'))) == 2 and len(stats_then) < (tmp_path / 'stats.jsonl').stat().st_size
    found = checkpoint.find(str(tmp_path), '', DESC)
    make_run(tmp_path / 'elsewhere').checkpoints.restore(found.path, found.state)
    assert (tmp_path / 'metric-ppl.txt').exists()  # Only the run itself goes back.
    run.checkpoints.restore(found.path, found.state)
    assert (tmp_path / 'stats.jsonl').read_text() == stats_then and events.read_bytes() == events_then
    assert (tmp_path / 'metric-fid50k.txt').read_text() == 'first\n'
    assert (tmp_path / 'log.txt').read_text() == 'first\nsecond\n'
    assert list(tmp_path.glob('events*')) == [events] and not (tmp_path / 'metric-ppl.txt').exists()
