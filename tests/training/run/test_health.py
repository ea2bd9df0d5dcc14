"""Runs that go wrong: gradients that are not finite, too little memory."""

import contextlib
import json
import re

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.cli import UserError
from dnnlib.run_dir import RunDir
from tests.full_disk import files_limited_to
from tests.training.run.test_resume import Killed, assert_same_run, kill_at, train
from tests.training.run.test_resume import data_dir as data_dir  # noqa: PLC0414  A fixture.
from tests.training.test_misc import small_networks
from training import misc
from training.run import checkpoint, health
from training.run.health import SkippedUpdates
from training.run.snapshot import Snapshots
from training.step.iteration import Iterations
from training.step.regularizers import path_length
from training.step.train_step import TrainStep

PLAIN = dict(G_args=dict(func_name='G_main', latent_size=8, dlatent_size=8, mapping_fmaps=8, mapping_layers=1,
                         fmap_base=32, fmap_max=4),
             D_args=dict(func_name='D_stylegan2', fmap_base=32, fmap_max=4), sched_args=dict(
                 minibatch_size_base=4, minibatch_gpu_base=4, tick_kimg_base=0.016, tick_kimg_dict={}))


def test_counts_and_rows():
    counts = SkippedUpdates()
    for skipped in (True, True, False, True):
        counts.add('TrainG', skipped)
    counts.add('RegD', True)
    assert counts.in_a_row() == 1
    again = SkippedUpdates()
    again.set_state(json.loads(json.dumps(counts.state())))
    for c in (counts, again):
        c.add('RegD', True)
        assert c.in_a_row() == 2
        assert c.report() == 'Updates skipped since the last tick, because gradients were not finite: TrainG 3, RegD 2'
        assert c.report() == ''


def test_many_in_a_row_end_the_run():
    counts = SkippedUpdates()
    for _ in range(99):
        counts.add('RegG', True)
        counts.add('TrainG', False)
        counts.check(1.5, 'run/checkpoints/kimg-000001.000')
    counts.add('RegG', True)
    expected = 'training has diverged at kimg 1.500: the gradients of the last 100 updates of RegG'
    with pytest.raises(UserError, match=expected) as err:
        counts.check(1.5, 'run/checkpoints/kimg-000001.000')
    assert 'run/checkpoints/kimg-000001.000' in err.value.remedy and '--lrate' in err.value.remedy
    counts.add('RegG', False)
    counts.check(1.5, None)


@pytest.mark.slow
def test_reals_that_are_not_finite(data_dir, tmp_path, monkeypatch, capsys):
    """Some of them skip updates of D and are counted; many end the run, whose last checkpoint is from before."""
    poison = tf.Variable(False)
    process_reals = misc.process_reals

    def poisoned(*args, **kwargs):
        images, labels = process_reals(*args, **kwargs)
        return tf.where(poison, np.nan, images), labels
    monkeypatch.setattr(misc, 'process_reals', poisoned)
    monkeypatch.setattr(health, '_MANY', 7)
    # Iterations 6, 7 and from 12 on; a group is 3 iterations, a tick comes after 3, 9, 15 ...
    hook = {(Iterations, 'run'): lambda count: poison.assign(count in (6, 7) or count >= 12)}
    expected = r'diverged at kimg 0\.\d\d\d: the gradients of the last 7 updates of TrainD were not finite'
    with pytest.raises(UserError, match=expected) as err:
        train(data_dir, tmp_path, hook, resume=None, checkpoint_minutes=1e-9, keep_checkpoints=99, **PLAIN)
    out = capsys.readouterr().out
    ticks = [line for line in out.splitlines() if line.startswith(('tick', 'Updates'))]
    assert ticks[2] == 'Updates skipped since the last tick, because gradients were not finite: TrainD 2'
    assert ticks[4] == 'Updates skipped since the last tick, because gradients were not finite: TrainD 4'
    stats = [json.loads(line) for line in (tmp_path / 'stats.jsonl').read_text().splitlines()]
    assert [line['TrainD/overflow_frequency'] for line in stats] == [0, pytest.approx(1 / 3), pytest.approx(2 / 3)]
    states = [json.loads(path.read_text()) for path in sorted(tmp_path.glob('checkpoints/*/state.json'))]
    assert [state['progress']['iteration'] for state in states] == [0, 1, 2, 3, 4, 5, 8, 9, 10, 11]
    assert str(tmp_path / 'checkpoints' / 'kimg-000000.044') in err.value.remedy
    poison.assign(False)
    path = tmp_path / 'checkpoints' / 'kimg-000000.044' / 'variables'
    for name, _ in tf.train.list_variables(str(path)):
        if 'ATTRIBUTES/VARIABLE' in name:
            assert np.isfinite(tf.train.load_variable(str(path), name)).all(), name


def test_one_minibatch_that_overflows_does_not_spoil_the_mean_of_path_lengths():
    pl_mean = tf.Variable(2.0)
    for scale, expected in [(np.inf, 2.0), (np.nan, 2.0), (1.0, 2.01)]:
        dlatents = tf.ones([2, 1, 1])
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(dlatents)
            images = tf.reshape(dlatents, [2, 1, 1, 1]) * scale
        path_length(tape, images, dlatents, 3.0 * tf.ones([2, 1, 1, 1]), pl_mean, 0.01, 2.0)
        assert pl_mean.numpy() == pytest.approx(expected)


@pytest.mark.parametrize('where, error, message', [
    ((TrainStep, 'run'), tf.errors.ResourceExhaustedError, 'OOM when allocating tensor with shape[4,512,64,64]'),
    ((TrainStep, 'run'), tf.errors.NotFoundError, 'No algorithm worked!  Error messages:'),
    ((Snapshots, 'save_fakes'), tf.errors.InternalError, 'failed to allocate memory')])
def test_out_of_memory_names_the_flag(data_dir, tmp_path, monkeypatch, where, error, message):
    def run(*args, **kwargs):
        raise error(None, None, f'{message}\nmore\n')
    monkeypatch.setattr(*where, run)
    with pytest.raises(UserError) as err:
        train(data_dir, tmp_path, resume=None, **PLAIN)
    assert err.value.fact == f'out of memory with --minibatch-gpu=4: {message}'
    assert err.value.remedy.startswith('Give --minibatch-gpu=2')


@pytest.mark.parametrize('size, part, expected', [
    (32, 32, '=16'), (24, 12, '=8'), (24, 24, '=12'), (32, 4, '=2'), (3, 3, '--fmap-base'), (32, 2, '--fmap-base'),
    (12, 4, '=3')])
def test_the_size_that_is_proposed_is_one_that_works(size, part, expected):
    remedy = health.out_of_memory(size, part, 4, tf.errors.ResourceExhaustedError(None, None, 'OOM')).remedy
    assert expected in remedy
    # Another --minibatch-gpu does change what is learned.
    assert ('--minibatch-gpu' in remedy) == ('random numbers differ' in remedy) and 'learns the same' not in remedy


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while(data_dir, tmp_path, capsys):
    """No file can grow from the second tick to the fourth. The run continues, and all files are complete."""
    with contextlib.ExitStack() as full:
        def hook(count):
            if count == 4:
                full.enter_context(files_limited_to(0))
            elif count == 20:
                full.close()
        with RunDir(str(tmp_path), 'test', 'module.function', {}) as run:
            train(data_dir, run.path, {(Iterations, 'run'): hook}, resume=None, keep_checkpoints=99, **{
                **PLAIN, 'image_snapshot_ticks': 1, 'network_snapshot_ticks': 1})
    out, folder = capsys.readouterr().out, tmp_path / '00000-test'
    ticks = [line.split()[1] for line in out.splitlines() if line.startswith('tick')]
    assert ticks == ['0', '1', '2', '3', '4', '5']
    for name in ('the checkpoint', 'a line of stats.jsonl', r'fakes000000_0\d\d\.png',
                 r'network-snapshot-000000_0\d\d\.pkl'):
        assert len(re.findall(f'Note: {name} was not written: ', out)) == 2, name
    stats = [json.loads(line) for line in (folder / 'stats.jsonl').read_text().splitlines()]
    assert [line['tick'] for line in stats] == [0, 3, 4, 5]
    found = [json.loads(path.read_text())['progress']['iteration']
             for path in sorted(folder.glob('checkpoints/*/state.json'))]
    assert not list(folder.rglob('*.part')) and found == [3, 21, 27, 33] and checkpoint.find(str(folder), '', '')
    misc.load_networks(folder / 'network-final.pkl')
    assert [line.split()[1] for line in (folder / 'log.txt').read_text().splitlines()
            if line.startswith('tick')] == ticks


@pytest.mark.slow
def test_transfer_with_frozen_layers_resumes_without_the_pickle(data_dir, tmp_path, capsys):
    """From a pickle without labels to a dataset with labels; killed, and resumed after the pickle was deleted."""
    pkl = tmp_path / 'net.pkl'
    before = small_networks()
    misc.save_pkl(before, pkl)
    settings = {**PLAIN, 'resume_pkl': str(pkl), 'freeze_d': 4, 'total_kimg': 0.04}
    train(data_dir, tmp_path / 'never-stopped', resume=None, **settings)
    out = capsys.readouterr().out
    assert 'Layers of D that stay as they are: 8x8/FromRGB, 8x8/Conv0, 8x8/Conv1_down, 8x8/Skip' in out
    assert 'New, with random values: Output. Left out: Output.' in out
    with pytest.raises(Killed):
        train(data_dir, tmp_path / 'run', {(Iterations, 'run'): kill_at(6)}, resume=None, **settings)
    pkl.unlink()
    train(data_dir, tmp_path / 'run', **settings)
    assert_same_run(tmp_path / 'run', tmp_path / 'never-stopped')
    _, D, _ = misc.load_networks(tmp_path / 'run' / 'network-final.pkl')
    same = {name for name, value in D.vars.items() if not name.startswith('Output')
            and np.array_equal(value, before[1].get_var(name))}
    assert same == {name for name in D.vars if name.startswith('8x8/')}
    assert checkpoint.find(str(tmp_path / 'run'), '', '').state['networks']['G']['label_size'] == 3
