"""A run that is killed anywhere and resumed ends with the same bits as a run that was never stopped."""

import contextlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

import run_training
from dnnlib import cli
from dnnlib.cli import EXIT_STOPPED, Stopped
from tests import ROOT
from tests.graphs import eagerly, shared_graphs
from training import misc
from training.data import dataset_writer
from training.run import checkpoint
from training.run.snapshot import Snapshots
from training.step.iteration import Iterations
from training.training_loop import training_loop

FLAGS = ['--dataset=tiny', '--minibatch-size=4', '--minibatch-gpu=2', '--fmap-base=32', '--fmap-max=4',
         '--latent-size=8', '--mapping-layers=1', '--metrics=none', '--tick-kimg=0.016', '--image-snapshot-ticks=2',
         '--network-snapshot-ticks=2', '--mirror-augment=true', '--total-kimg=0.128']
TWO_PHASES = ['--g-loss=G_logistic_ns', '--d-loss=D_logistic']  # Only these need to be compiled.
NAME = '00000-stylegan2-tiny-1gpu-config-f'


def make_dataset(path, resolution):
    """Make a dataset of 40 random RGB images, with labels of three classes."""
    rng = np.random.RandomState(0)
    with dataset_writer.new_dataset(path) as writer:
        for image in rng.randint(256, size=[40, 3, resolution, resolution]):
            writer.add_image(image)
        writer.add_labels(np.eye(3)[rng.randint(3, size=40)])


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    """Folder with the dataset `tiny`, of 8x8 pixels."""
    folder = tmp_path_factory.mktemp('data')
    make_dataset(folder / 'tiny', 8)
    return folder


# ---- What must be the same ----

def assert_same_run(run_dir, expected_dir):
    """Pictures, pickles and scalars of two runs are the same, those that tell of time and memory aside."""
    def stats(folder):
        return [without_times(json.loads(line)) for line in (folder / 'stats.jsonl').read_text().splitlines()]

    def events(folder):  # As text, in which NaN equals NaN: a tag that saw no finite value.
        return sorted((event.step, value.tag, repr(value.simple_value)) for path in folder.glob('events.*')
                      for event in tf.compat.v1.train.summary_iterator(str(path)) for value in event.summary.value
                      if without_times({value.tag: 0}))

    assert pictures_and_pickles(run_dir) == pictures_and_pickles(expected_dir)
    assert stats(run_dir) == stats(expected_dir)
    assert events(run_dir) == events(expected_dir)
    for name in pictures_and_pickles(expected_dir):
        assert (run_dir / name).read_bytes() == (expected_dir / name).read_bytes(), name


def pictures_and_pickles(folder):
    return {path.name for path in folder.iterdir() if path.suffix in ('.png', '.pkl')}


def without_times(fields):
    return {key: value for key, value in fields.items() if not re.match('Timing/|Resources/|timestamp|seconds', key)}


# ---- Killed for good ----

def command(data_dir, result_dir, *args, killed=()):
    program = ['-m', 'tests.killed_run', *map(str, killed)] if killed else ['run_training.py']
    return [sys.executable, '-u', *program, f'--data-dir={data_dir}', f'--result-dir={result_dir}', *FLAGS, *args]


def run(args):
    return subprocess.run(args, cwd=ROOT, capture_output=True, text=True, timeout=600)


def run_here(args, stop=None):
    """A command, [script, *flags], in this process. `stop`: signal that comes in its second iteration."""
    script, *argv = args
    assert script == 'run_training.py'

    def hook(count):
        if count == 2 and stop is not None:
            signal.raise_signal(stop)
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, shared_graphs(), contextlib.redirect_stdout(out), \
            contextlib.redirect_stderr(err), pytest.raises(SystemExit) as exited:
        patch.setattr(Iterations, 'run', counted(Iterations.run, hook))
        cli.run(run_training.main, argv)
    return types.SimpleNamespace(returncode=exited.value.code, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.mark.slow
def test_killed_in_every_phase(data_dir, tmp_path, capfd):
    """SIGKILL during an iteration, a snapshot and a checkpoint, each in a process; SIGTERM; then to the end."""
    kills = [('training.step.train_step.TrainStep.run', "'D_train'", 7, 0),
             ('os.replace', r'network-snapshot-\d+(_\d+)?\.pkl', 2, 0),
             ('training.run.checkpoint.file_sha256', r'kimg-.*\.part/variables\.data', 2, 0)]
    for killed in kills:
        done = run(command(data_dir, tmp_path, *TWO_PHASES, '--resume=latest', '--checkpoint-minutes=0.002',
                           killed=killed))
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert os.listdir(tmp_path) == [NAME]
    done = run_here(command(data_dir, tmp_path, *TWO_PHASES, '--resume=latest')[2:], signal.SIGTERM)
    assert done.returncode == EXIT_STOPPED and 'Traceback' not in done.stdout + done.stderr
    assert 'Stopping after this iteration' in capfd.readouterr().err  # The handler writes to the file itself.
    assert re.search(r'Stopped at kimg 0\.\d\d\d, with .*/checkpoints/kimg-0', done.stdout)
    to_go_on, = re.findall(r'^To go on: python (.*)$', done.stdout, re.MULTILINE)
    assert f'--resume={tmp_path / NAME}' in to_go_on
    assert not (tmp_path / NAME / '_finished.txt').exists()
    done = run_here(shlex.split(to_go_on))
    assert done.returncode == 0, done.stderr
    assert re.search(r'Going on from .*/checkpoints/kimg-0.*, at kimg 0\.', done.stdout)

    done = run_here(command(data_dir, tmp_path / 'never-stopped', *TWO_PHASES)[2:])
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / NAME, tmp_path / 'never-stopped' / NAME)
    log = (tmp_path / NAME / 'log.txt').read_text()
    assert log.count('dnnlib: Running') == 5 and log.count('Going on from') == 4
    assert len(list((tmp_path / NAME / 'checkpoints').iterdir())) == 2


# ---- Stopped within this process, which is faster ----

class Killed(BaseException):
    """In the place of SIGKILL: nothing catches it, and the next call of the loop sets everything anew."""


GROWING = dict(  # Conditional, growing from 4x4 to 8x8 with a fade.
    G_args=dict(func_name='G_main', synthesis_func='G_synthesis_stylegan_revised', latent_size=8, dlatent_size=8,
                mapping_fmaps=8, mapping_layers=1, fmap_base=32, fmap_max=4),
    D_args=dict(func_name='D_stylegan', fmap_base=32, fmap_max=4),
    G_loss_args=dict(func_name='G_logistic_ns'), D_loss_args=dict(func_name='D_logistic'),
    dataset_args=dict(tfrecord_dir='tiny', max_label_size='full'),
    sched_args=dict(minibatch_size_base=4, minibatch_size_dict={4: 8}, minibatch_gpu_base=2, lod_initial_resolution=4,
                    lod_training_kimg=0.024, lod_transition_kimg=0.040, tick_kimg_base=0.016, tick_kimg_dict={}),
    mirror_augment=True, minibatch_repeats=3, image_snapshot_ticks=3, network_snapshot_ticks=2, total_kimg=0.128)


def train(data_dir, run_dir, before=None, resume='', **kwargs):
    """Call the training loop with GROWING.

    `before`: {(class, method): function that is called before each call of the method, with the number of the call}.
    """
    os.makedirs(run_dir, exist_ok=True)
    if resume is not None:
        found = checkpoint.find(resume or str(run_dir), '', '')
        kwargs['resume'] = found.path, found.state
    with pytest.MonkeyPatch.context() as patch, shared_graphs():
        for (owner, name), hook in (before or {}).items():
            patch.setattr(owner, name, counted(getattr(owner, name), hook))
        return training_loop(run_dir=str(run_dir), data_dir=str(data_dir), tf_config={'rnd.np_random_seed': 5},
                             **{**GROWING, **kwargs})


def counted(function, hook):
    calls = []

    def wrapper(*args, **kwargs):
        calls.append(None)
        hook(len(calls))
        return function(*args, **kwargs)
    return wrapper


def kill_at(number):
    def hook(count):
        if count == number:
            raise Killed
    return hook


@pytest.fixture(scope='module')
def growing(data_dir, tmp_path_factory):
    """Folder of a run of GROWING that was never stopped."""
    folder = tmp_path_factory.mktemp('growing')
    train(data_dir, folder, resume=None)
    return folder


@pytest.mark.slow
def test_stopped_while_growing_and_between_ticks(data_dir, growing, tmp_path):
    """Also between two updates of the schedule, and with a checkpoint after every iteration."""
    def interrupt(number):
        return lambda count: signal.raise_signal(signal.SIGINT) if count == number else None

    with pytest.raises(Stopped):
        train(data_dir, tmp_path, {(Iterations, 'run'): interrupt(2)}, resume=None)
    state = json.loads((tmp_path / 'checkpoints' / 'kimg-000000.016' / 'state.json').read_text())
    assert state['progress']['iteration'] == 2
    with pytest.raises(Killed):
        train(data_dir, tmp_path, {(Iterations, 'run'): kill_at(6)}, checkpoint_minutes=1e-9)
    with pytest.raises(Stopped):
        train(data_dir, tmp_path, {(Snapshots, 'save_fakes'): interrupt(1)}, keep_checkpoints=1)
    assert len(list((tmp_path / 'checkpoints').iterdir())) == 1
    train(data_dir, tmp_path)
    assert_same_run(tmp_path, growing)


@pytest.mark.slow
def test_a_longer_run_and_a_new_one_from_a_checkpoint(data_dir, growing, tmp_path):
    """A longer run, and a new run from a checkpoint, learn the same as a run of that length from the start.

    How often they report and write checkpoints does not matter.
    """
    before, branch = tmp_path / 'before', tmp_path / 'branch'
    train(data_dir, before, resume=None, total_kimg=0.080)
    last = max((before / 'checkpoints').iterdir())
    train(data_dir, branch, resume=str(last), image_snapshot_ticks=1, network_snapshot_ticks=None,
          checkpoint_minutes=1e-9)
    assert (branch / 'network-final.pkl').read_bytes() == (growing / 'network-final.pkl').read_bytes()
    assert last.exists() and (branch / 'reals.png').read_bytes() == (growing / 'reals.png').read_bytes()
    assert not (branch / 'fakes_init.png').exists()
    # What the shorter run wrote at its end is kept, under names of its own.
    ended = pictures_and_pickles(before) - pictures_and_pickles(growing)
    assert len(ended) == 2, ended
    train(data_dir, before)
    assert ended < pictures_and_pickles(before)
    for name in ended:
        (before / name).unlink()
    assert_same_run(before, growing)


# Without growing, with the rules of StyleGAN2-ADA. p rises at every update, but for scores that are all negative.
ADA = dict(
    G_args=dict(func_name='G_main', latent_size=8, dlatent_size=8, mapping_fmaps=8, mapping_layers=1, fmap_base=32,
                fmap_max=4, label_embed=True),
    D_args=dict(func_name='D_stylegan2', fmap_base=32, fmap_max=4, label_embed=True, mapping_layers=1),
    sched_args=dict(minibatch_size_base=4, minibatch_gpu_base=2, tick_kimg_base=0.016, tick_kimg_dict={}),
    minibatch_repeats=1, network_snapshot_ticks=1, total_kimg=0.040, augpipe='bgc', ada_target=-0.999, ada_kimg=0.1,
    ada_rules=True, G_smoothing_rampup=0.05)


def stop_and_go_on(data_dir, tmp_path, **kwargs):
    """Stop a run after its sixth iteration and resume it: it ends like one that was never stopped. Returns the latter's
    folder."""
    never, stopped = tmp_path / 'never', tmp_path / 'stopped'
    train(data_dir, never, resume=None, **kwargs)
    with pytest.raises(Stopped):
        train(data_dir, stopped, {(Iterations, 'run'): lambda count: signal.raise_signal(signal.SIGTERM)
                                  if count == 6 else None}, resume=None, **kwargs)
    train(data_dir, stopped, **kwargs)
    assert_same_run(stopped, never)
    return never


@pytest.mark.slow
@pytest.mark.parametrize('kwargs', [
    dict(augpipe='bg', augment_p=0.5, total_kimg=0.064), ADA], ids=['fixed-and-growing', 'ada'])
def test_augmentation_goes_on(kwargs, data_dir, tmp_path):
    """Stopped between two updates of p, whose scores until then are counted."""
    never = stop_and_go_on(data_dir, tmp_path, **kwargs)
    ps = [json.loads(line)['Progress/augment'] for line in (never / 'stats.jsonl').read_text().splitlines()]
    if 'ada_target' not in kwargs:
        assert set(ps) == {0.5}
        return
    # Ticks after 4, 20, 36 and 40 images; 16 images between two updates.
    np.testing.assert_allclose(ps, [0, 0.16, 0.32, 0.32], rtol=1e-6)
    start_from_the_pickle(data_dir, never, tmp_path / 'next')


def start_from_the_pickle(data_dir, run_dir, new_dir):
    """A new run that begins with the networks of another begins with its p."""
    networks = misc.load_networks(run_dir / 'network-final.pkl')
    assert networks[1].augment_p == np.float32(0.32) and networks[0].augment_p is None
    with contextlib.redirect_stdout(io.StringIO()) as out, eagerly():
        train(data_dir, new_dir, resume=None, **dict(ADA, total_kimg=0.004, D_loss_args=dict(func_name='D_logistic')),
              resume_pkl=str(run_dir / 'network-final.pkl'))
    assert 'Augmentation: bgc, adaptive, target -0.999, p starts at 0.32 as in the pickle.' in out.getvalue()
    assert re.search('tick 0 .* augment 0.320 +r_t +[-.0-9]+ +left', out.getvalue())
    assert misc.load_networks(new_dir / 'network-final.pkl')[1].augment_p == np.float32(0.32)
