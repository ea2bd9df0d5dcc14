"""Several devices, several machines."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from dnnlib import cli
from dnnlib.tflib import KeyedRandom
from dnnlib.tflib.tfutil import has_gpu
from tests.training.run.test_resume import ROOT, assert_same_run, command
from tests.training.run.test_resume import data_dir as data_dir  # noqa: PLC0414  A fixture.
from training.data import dataset_writer
from training.dataset import TFRecordDataset
from training.step.devices import (
    ALONE,
    Cluster,
    Devices,
    WorkerLost,
    find_cluster,
    limit_inter_op_threads,
    worker_context,
)

NAME = '00000-stylegan2-tiny-2gpu-config-f'
# These losses have only two phases, so that there is less to compile.
FLAGS = ['--num-gpus=2', '--g-loss=G_logistic_ns', '--d-loss=D_logistic']


def output_in_own_process(file):
    """Run a file of tests that makes two devices of the CPU, in a process of its own. Returns what pytest prints."""
    args = [sys.executable, '-m', 'pytest', '-q', file]
    done = subprocess.run(args, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-20000:]
    return done.stdout


@pytest.mark.slow
def test_two_devices():
    assert re.search(r'\d\d passed', output_in_own_process('tests/two_devices.py'))


# ---- Two processes ----

class Two:
    """A chief and another worker, begun with the same arguments, but for those of `second`, the other's alone."""

    def __init__(self, data_dir, result_dir, *args, second=(), killed=()):
        with contextlib.ExitStack() as stack:
            ports = [stack.enter_context(socket.socket()) for _ in range(2)]
            for port in ports:
                port.bind(('localhost', 0))
            addresses = [f'localhost:{port.getsockname()[1]}' for port in ports]
        # conftest.py has set it, not a user.
        env = {name: value for name, value in os.environ.items() if name != 'TF_CPP_MIN_LOG_LEVEL'}
        commands = [command(data_dir, result_dir, *FLAGS, *args),
                    command(data_dir, result_dir, *FLAGS, *args, *second, killed=killed)]
        self.processes = []
        for index, argv in enumerate(commands):
            config = {'cluster': {'worker': addresses}, 'task': {'type': 'worker', 'index': index}}
            self.processes.append(subprocess.Popen(
                argv, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env={**env, 'TF_CONFIG': json.dumps(config)}))

    def end(self):
        """[(exit code, stdout, stderr) of each]."""
        outputs = [process.communicate(timeout=300) for process in self.processes]
        return [(process.returncode, *output) for process, output in zip(self.processes, outputs)]


def on_two_devices(argv):
    """The command `argv` in a process that divides its CPU into two devices."""
    program = """
import sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices('CPU')[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import run_training
from dnnlib import cli
cli.run(run_training.main, sys.argv[1:])
"""
    return [sys.executable, '-c', program, *argv[argv.index('run_training.py') + 1:]]


@pytest.mark.slow
def test_stopped_killed_and_gone_on_with_until_time_is_over(data_dir, tmp_path):
    """SIGTERM at the second worker stops both; then it is killed, and the chief says so; then both go on.

    In the end there is next to no time, so the chief ends all when the schedule is updated for the first time after the
    start. All is the same as in a run of that length that was never stopped, on two devices of one machine."""
    two = Two(data_dir, tmp_path, '--resume=latest')
    for line in two.processes[0].stdout:
        if line.startswith('Compiled in'):
            two.processes[1].send_signal(signal.SIGTERM)
            break
    (chief, out, err), (worker, worker_out, worker_err) = two.end()
    assert (chief, worker) == (cli.EXIT_STOPPED, cli.EXIT_STOPPED), err + worker_err
    stopped_at, = re.findall(r'Stopped at kimg ([\d.]+), with .*/checkpoints/kimg-0', out)
    assert '--resume=' in out and 'Stopping' not in err
    assert worker_out.splitlines() == ['Worker 1 of 2: training, and leaving the report to the chief.']
    assert 'Stopping' in worker_err

    (chief, out, err), (worker, *_) = Two(data_dir, tmp_path, '--resume=latest', '--checkpoint-ticks=1', killed=(
        'training.step.train_step.TrainStep.run', "'D_train'", 10, 0)).end()
    assert (chief, worker) == (WorkerLost.exit_code, -signal.SIGKILL)
    assert f'at kimg {stopped_at}' in out
    fact, remedy = err.splitlines()
    assert fact.startswith('Error: a worker of the cluster has gone: ') and '--resume=latest' in remedy
    assert fact in (tmp_path / NAME / 'log.txt').read_text()

    ended = Two(data_dir, tmp_path, '--resume=latest', '--max-minutes=0.001').end()
    (chief, out, err), (worker, worker_out, worker_err) = ended
    assert (chief, worker, err, worker_err) == (0, 0, '', '')
    length, = re.findall(r'was reached at kimg ([\d.]+) of 0.128', out)
    begun_at, = re.findall(r'Going on from .*, at kimg (\d+\.\d+)', out)
    assert float(begun_at) >= float(stopped_at)
    # The schedule is updated every 16 images.
    assert round(1000 * float(length)) == (round(1000 * float(begun_at)) // 16 + 1) * 16 < 128
    assert (tmp_path / NAME / '_finished.txt').read_text() in out
    assert worker_out.splitlines() == ['Worker 1 of 2: training, and leaving the report to the chief.']

    done = subprocess.run(on_two_devices(command(data_dir, tmp_path / 'never', *FLAGS, f'--total-kimg={length}')),
                          cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path)) == [NAME, 'never']
    assert_same_run(tmp_path / NAME, tmp_path / 'never' / NAME)


@pytest.mark.slow
def test_workers_that_differ_are_refused(data_dir, tmp_path):
    for code, _, err in Two(data_dir, tmp_path, second=['--lrate=0.1']).end():
        assert code == 1
        assert err.splitlines()[0] == (
            'Error: the workers differ in their flags, in the dataset or in the checkpoint they found')
    assert os.listdir(tmp_path) == []


# ---- TF_CONFIG ----

TWO_MACHINES = {'worker': ['one:2222', 'two:2222']}


@pytest.mark.parametrize('config, expected', [
    (None, ALONE), ('', ALONE), ('{}', ALONE),
    ({'cluster': {'worker': ['one:2222']}, 'task': {'type': 'worker', 'index': 0}}, ALONE),
    ({'cluster': TWO_MACHINES, 'task': {'type': 'worker', 'index': 0}}, Cluster(2, 0)),
    ({'cluster': TWO_MACHINES, 'task': {'type': 'worker', 'index': '1'}}, Cluster(2, 1)),
    ({'cluster': {'chief': ['one:1'], **TWO_MACHINES}, 'task': {'type': 'chief', 'index': 0}}, Cluster(3, 0)),
    ({'cluster': {'chief': ['one:1'], **TWO_MACHINES}, 'task': {'type': 'worker', 'index': 0}}, Cluster(3, 1)),
])
def test_clusters(monkeypatch, config, expected):
    monkeypatch.delenv('TF_CONFIG', raising=False)
    if config is not None:
        monkeypatch.setenv('TF_CONFIG', config if isinstance(config, str) else json.dumps(config))
    assert find_cluster() == expected
    assert find_cluster().is_chief == (expected.index == 0)


@pytest.mark.parametrize('config', [
    'worker 0', '[]', json.dumps({'cluster': TWO_MACHINES}),
    json.dumps({'cluster': TWO_MACHINES, 'task': {'type': 'worker', 'index': 2}}),
    json.dumps({'cluster': {**TWO_MACHINES, 'ps': ['three:2222']}, 'task': {'type': 'worker', 'index': 0}}),
    json.dumps({'cluster': TWO_MACHINES, 'task': {'type': 'worker', 'index': 'x'}})])
def test_what_is_no_cluster(monkeypatch, config):
    monkeypatch.setenv('TF_CONFIG', config)
    with pytest.raises(cli.UserError, match='TF_CONFIG'):
        find_cluster()


def test_devices_are_split_over_the_workers():
    with pytest.raises(cli.UserError, match='--num-gpus=3 cannot be split over the 2 workers'):
        Devices(3, Cluster(2, 0))
    with pytest.raises(cli.UserError, match='cannot be split'):
        Devices(1, Cluster(2, 0))


@pytest.mark.skipif(has_gpu(), reason='counts CPU devices')
def test_only_as_many_devices_as_there_are():
    with pytest.raises(cli.UserError, match='--num-gpus=2: expected 2 devices, found 1 CPU device') as err:
        Devices(2)
    assert err.value.remedy.startswith('Give --num-gpus=1.')
    with pytest.raises(cli.UserError,
                       match='--num-gpus=4: expected 2 devices of each worker, found 1 CPU device') as err:
        Devices(4, Cluster(2, 0))
    assert err.value.remedy.startswith('Give --num-gpus=2.')


@pytest.mark.parametrize('all_reduce, gpus, expected', [
    ('auto', 0, 'RING'), ('auto', 2, 'NCCL'), ('ring', 2, 'RING'), ('nccl', 2, 'NCCL')])
def test_machines_with_gpus_sum_gradients_with_nccl(monkeypatch, all_reduce, gpus, expected):
    made = []
    monkeypatch.setattr('dnnlib.tflib.tfutil.visible_gpus', lambda: [f'GPU:{i}' for i in range(gpus)])
    monkeypatch.setattr(tf.config, 'set_visible_devices', lambda *args: None)
    monkeypatch.setattr(tf.distribute, 'MultiWorkerMirroredStrategy', lambda **kwargs: made.append(kwargs))
    Devices(max(gpus, 1) * 2, Cluster(2, 0), all_reduce)
    assert made[0]['communication_options'].implementation.name == expected


def test_nccl_needs_gpus():
    with pytest.raises(cli.UserError, match='--all-reduce=nccl: expected workers with GPUs'):
        Devices(2, Cluster(2, 0), 'nccl')


def test_a_lost_worker_is_named_once_and_other_errors_are_left_alone(capsys):
    message = 'Graph execution error:\n\nCollective ops is aborted by: Connection reset by peer\nmore'
    lost = tf.errors.UnavailableError(None, None, message)
    expected = 'a worker of the cluster has gone: Connection reset by peer\n'
    with pytest.raises(WorkerLost, match=expected), worker_context(Cluster(2, 0)):
        raise lost
    with pytest.raises(tf.errors.UnavailableError), worker_context(ALONE):  # There it is something else.
        raise lost
    with pytest.raises(cli.UserError, match='mine'), worker_context(Cluster(2, 1)):
        print('not to be seen')
        raise cli.UserError('mine')
    assert capsys.readouterr().out == 'Worker 1 of 2: training, and leaving the report to the chief.\n'


# ---- Random numbers ----

def test_keyed_random_numbers():
    """A function of key, round, part and name; each of these makes other ones. 1e5 of them: moments within 5 standard
    errors."""
    def sources(a, b):
        rng = KeyedRandom(tf.constant([a, b], tf.int64))
        return [rng, rng.at(0), rng.at(1), rng.at(1).at(0), rng.child('G0'), rng.child('G1'),
                rng.child('G0').at(tf.constant(1))]
    drawn = [rng.normal(name, [3]).numpy() for key in ((0, 0), (0, 1), (1, 0)) for rng in sources(*key)
             for name in ('a', 'b')]
    assert len({x.tobytes() for x in drawn}) == len(drawn) == 42
    again = [rng.normal(name, [3]).numpy() for key in ((0, 0), (0, 1), (1, 0)) for rng in sources(*key)
             for name in ('a', 'b')]
    np.testing.assert_array_equal(drawn, again)
    rng = KeyedRandom(tf.constant([5, 3], tf.int64))
    normal, uniform = rng.normal('n', [100000]).numpy(), rng.uniform('u', [100000]).numpy()
    assert abs(normal.mean()) < 0.016 and abs(normal.std() - 1) < 0.012
    assert abs(uniform.mean() - 0.5) < 0.005 and uniform.min() >= 0 and uniform.max() < 1
    integers = rng.integers('i', [1000], 2, 5).numpy()
    assert set(integers) == {2, 3, 4} and integers.dtype == np.int32
    rows = rng.rows('r', tf.eye(3), 100).numpy()
    assert rows.shape == (100, 3) and (rows.sum(axis=0) > 15).all()
    assert abs(np.corrcoef(rng.at(0).normal('n', [10000]), rng.at(1).normal('n', [10000]))[0, 1]) < 0.05


# ---- Data ----

@pytest.fixture(scope='module')
def numbered(tmp_path_factory):
    """Folder of a dataset of 10 images, 4x4, whose labels are their numbers."""
    folder = tmp_path_factory.mktemp('numbered') / 'ten'
    rng = np.random.RandomState(0)
    with dataset_writer.new_dataset(folder) as writer:
        for image in rng.randint(256, size=[10, 1, 4, 4]):
            writer.add_image(image)
        writer.add_labels(np.arange(10, dtype=np.float32)[:, np.newaxis])
    return folder


def minibatches(folder, count, rows=None, start=0, before=lambda: None, **kwargs):
    """[(images, numbers)] of minibatches of 4. `before` is called when the dataset is open, and nothing else is read
    yet."""
    data = TFRecordDataset(str(folder), max_label_size='full', **kwargs)
    before()
    stream = data.iterate(4, seed=5, start=start, rows=rows)
    return [(images.numpy(), labels.numpy()[:, 0].astype(int).tolist())
            for _, (images, labels) in zip(range(count), stream)]


@pytest.mark.parametrize('shuffle_mb', [0, 4096])
@pytest.mark.parametrize('start', [0, 4, 16])
def test_workers_share_the_stream_without_overlap_and_in_order(numbered, start, shuffle_mb):
    """Also across the ends of epochs, which come in the middle of minibatches."""
    whole = minibatches(numbered, 8, start=start, shuffle_mb=shuffle_mb)
    parts = [minibatches(numbered, 8, rows, start, shuffle_mb=shuffle_mb) for rows in ((0, 1), (1, 4))]
    for (images, numbers), *shares in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate([share for share, _ in shares]), images)
        assert shares[0][1] + shares[1][1] == numbers
    shown = sum((numbers for _, numbers in whole), [])[-start % 10:]
    assert [sorted(shown[i:i + 10]) for i in (0, 10)] == [list(range(10))] * 2


def test_a_worker_does_not_read_the_records_of_others(numbered, tmp_path):
    """Records that only the other one needs are damaged after the dataset was opened: nothing is seen of it."""
    first = sum((numbers for _, numbers in minibatches(numbered, 2, (0, 2))), [])
    second = sum((numbers for _, numbers in minibatches(numbered, 2, (2, 4))), [])
    assert not set(first) & set(second)
    shutil.copytree(numbered, tmp_path / 'ten')
    records, = (tmp_path / 'ten').glob('*.tfrecords')
    whole = records.read_bytes()

    def damage():
        content, size = bytearray(whole), len(whole) // 10  # All are equally long.
        for number in second:
            content[number * size + size // 2] ^= 255
        records.write_bytes(content)
    kwargs = dict(before=damage, prefetch_mb=0)
    assert sum((numbers for _, numbers in minibatches(tmp_path / 'ten', 2, (0, 2), **kwargs)), []) == first
    records.write_bytes(whole)
    with pytest.raises(cli.UserError, match='is damaged'):
        minibatches(tmp_path / 'ten', 1, (2, 4), **kwargs)


# ---- One device ----

@pytest.mark.skipif(has_gpu(), reason='for CPUs alone')
@pytest.mark.parametrize('cores, fmap_base, environment, expected', [
    (2, 8192, None, [1]), (2, None, None, [1]), (2, 4096, None, []), (64, 8192, None, []), (2, 8192, '2', [])])
def test_operations_of_wide_networks_run_in_turn_on_few_cores(monkeypatch, cores, fmap_base, environment, expected):
    asked = []
    monkeypatch.setattr(os, 'cpu_count', lambda: cores)
    monkeypatch.setattr(tf.config.threading, 'set_inter_op_parallelism_threads', asked.append)
    monkeypatch.delenv('TF_NUM_INTEROP_THREADS', raising=False)
    if environment:
        monkeypatch.setenv('TF_NUM_INTEROP_THREADS', environment)
    limit_inter_op_threads(fmap_base)
    assert asked == expected


@pytest.mark.skipif(has_gpu(), reason='for CPUs alone')
def test_operations_run_in_turn_if_tensorflow_has_not_computed_anything_yet():
    program = """
import os
os.cpu_count = lambda: 2
import tensorflow as tf
from training.step.devices import limit_inter_op_threads
limit_inter_op_threads()
print(tf.config.threading.get_inter_op_parallelism_threads(), tf.constant(1).numpy())
limit_inter_op_threads()  # Too late, and no error.
"""
    done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ['1', '1'] and done.returncode == 0, done.stderr
