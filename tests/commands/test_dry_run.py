"""--dry-run makes the checks of training itself: it refuses whatever training refuses, with the same message."""

import json
import os
import shutil
import time

import numpy as np
import pytest
from PIL import Image

import custom_ops
import dataset_tool
import run_training
from custom_ops import loader
from dnnlib import cli

SMALL = ['--dataset=ds', '--minibatch-size=4', '--minibatch-gpu=2', '--fmap-base=32', '--fmap-max=4', '--latent-size=8',
         '--mapping-layers=1']
FROM_PICKLE = SMALL[:3]


@pytest.fixture(scope='module')
def datasets(tmp_path_factory):
    """Folder with the dataset `ds`: 20 images of 8x8 with labels of 2 numbers."""
    folder = tmp_path_factory.mktemp('data')
    (folder / 'images').mkdir()
    rng = np.random.RandomState(0)
    for idx in range(20):
        Image.fromarray(rng.randint(256, size=[8, 8, 3]).astype(np.uint8)).save(folder / 'images' / f'{idx:02d}.png')
    (folder / 'labels.csv').write_text(''.join(f'{idx:02d}.png,{idx},0.5\n' for idx in range(20)))
    dataset_tool.main(['create_from_images', str(folder / 'ds'), str(folder / 'images'),
                       f'--labels={folder / "labels.csv"}'])
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch, datasets):
    """A working folder with a copy of the dataset, without the list of its files: the original's datasets have none."""
    shutil.copytree(datasets / 'ds', tmp_path / 'datasets' / 'ds')
    os.remove(tmp_path / 'datasets' / 'ds' / 'ds.json')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('TF_CONFIG', raising=False)
    return tmp_path


def level(home, number):
    path, = (home / 'datasets' / 'ds').glob(f'*-r{number:02d}.tfrecords')
    return path


def flip_a_byte(home):
    data = bytearray(level(home, 3).read_bytes())
    data[-10] ^= 1
    level(home, 3).write_bytes(data)


def cut_short(home):
    level(home, 2).write_bytes(level(home, 2).read_bytes()[:-7])


def change_labels(home, value):
    labels = np.zeros([20, 2], np.float32)
    labels[3, 1] = value
    with open(home / 'datasets' / 'ds' / 'ds-rxx.labels', 'wb') as file:
        np.save(file, labels)


def set_cluster(monkeypatch, workers, index):
    addresses = [f'localhost:{port}' for port in range(2222, 2222 + workers)]
    monkeypatch.setenv('TF_CONFIG', json.dumps({'cluster': {'worker': addresses},
                                                'task': {'type': 'worker', 'index': index}}))


# Name -> (what is done to the dataset, arguments, words of the message).
MISTAKES = {
    'checksum': (flip_a_byte, SMALL, 'checksum'),
    'truncated dataset': (cut_short, SMALL, 'ds-r02.tfrecords'),
    'missing level': (lambda home: os.remove(level(home, 2)), SMALL, 'no images of 4x4'),
    'labels with NaN': (lambda home: change_labels(home, np.nan), [*SMALL, '--cond=true'], 'image 3 is not finite'),
    'no labels': (
        lambda home: os.remove(home / 'datasets' / 'ds' / 'ds-rxx.labels'),
        [*SMALL, '--cond=true'],
        '--cond=true: expected a dataset with labels',
    ),
    'too many GPUs': (None, [*SMALL, '--num-gpus=2'], '--num-gpus=2: expected 2 devices, found 1 CPU device'),
    'picture as a pickle': (
        lambda home: Image.new('RGB', (8, 8)).save(home / 'picture.png'),
        [*FROM_PICKLE, '--resume-pkl=picture.png'],
        'is a PNG picture',
    ),
    'file as result_dir': (
        lambda home: (home / 'a-file').write_text(''),
        [*SMALL, '--result-dir=a-file/below'],
        "cannot make a run folder in 'a-file/below': Not a directory",
    ),
    'metric without weights': (None, [*SMALL, '--metrics=fid2'], 'the weights are not there'),
    'networks': (
        None,
        [*SMALL, '--resample-kernel=1,1,1,1,1,1,1,1,1', '--config=config-a'],
        'cannot create the networks',
    ),
    'start after the end': (
        None,
        [*FROM_PICKLE, '--resume-pkl=net.pkl', '--resume-kimg=9', '--total-kimg=8'],
        '--total-kimg=8 is reached already',
    ),
}


@pytest.fixture(scope='module')
def pickle(tmp_path_factory):
    """A network pickle for 8x8 images."""
    from tests.training.test_misc import small_networks
    from training import misc
    path = tmp_path_factory.mktemp('pickle') / 'net.pkl'
    misc.save_pkl(small_networks(), path)
    return path


@pytest.mark.parametrize('name', MISTAKES)
def test_dry_run_refuses_what_training_refuses(home, name, pickle, monkeypatch):
    from metrics import feature_networks
    change, argv, message = MISTAKES[name]
    shutil.copy(pickle, home / 'net.pkl')
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(home / 'cache'))
    monkeypatch.setattr(feature_networks, 'local_path', lambda file: None)
    monkeypatch.setattr(feature_networks, 'FILES', {
        key: file._replace(urls=()) for key, file in feature_networks.FILES.items()})
    if change is not None:
        change(home)
    if not any(arg.startswith('--metrics') for arg in argv):
        argv = [*argv, '--metrics=none']
    errors = []
    for mode in ([], ['--dry-run']):
        with pytest.raises(cli.UserError) as caught:
            run_training.main([*argv, '--impl=ref', *mode])
        errors.append(str(caught.value))
    assert errors[0] == errors[1] and message in errors[0]
    assert not any(files for _, _, files in os.walk(home / 'results'))


def test_native_ops_that_cannot_be_had_are_an_error_only_if_asked_for(home, monkeypatch):
    def fail():
        raise cli.UserError('there is no compiler', 'Install one.')
    monkeypatch.setattr(loader, '_load', fail)
    custom_ops.set_impl(None)
    monkeypatch.setattr(loader, '_choice', None)
    with pytest.raises(cli.UserError, match='there is no compiler'):
        run_training.main([*SMALL, '--metrics=none', '--impl=native', '--dry-run'])


@pytest.mark.parametrize('workers, index', [(1, 5), (2, 2), (2, -1)])
def test_number_of_a_worker_that_does_not_exist(home, monkeypatch, workers, index):
    set_cluster(monkeypatch, workers, index)
    with pytest.raises(cli.UserError, match='TF_CONFIG'):
        run_training.main([*SMALL, '--num-gpus=2', '--dry-run'])


def test_dry_run_does_not_wait_for_other_workers(home, monkeypatch, capsys):
    set_cluster(monkeypatch, 2, 1)
    run_training.main([*SMALL, '--num-gpus=2', '--metrics=none', '--impl=ref', '--dry-run'])
    assert json.loads(capsys.readouterr().out)['num_gpus'] == 2
    with pytest.raises(cli.UserError, match='expected 2 devices of each worker, found 1 CPU device'):
        run_training.main([*SMALL, '--num-gpus=4', '--minibatch-size=8', '--metrics=none', '--impl=ref', '--dry-run'])


def test_dry_run_builds_nothing_writes_nothing_and_ends_in_seconds(home, monkeypatch, capsys):
    def fail():
        raise AssertionError('the native ops were built')
    monkeypatch.setattr(loader, '_load', fail)
    monkeypatch.delenv('STYLEGAN2_OPS', raising=False)
    custom_ops.set_impl(None)
    monkeypatch.setattr(loader, '_choice', None)
    started = time.monotonic()
    run_training.main([*SMALL, '--dry-run'])
    assert time.monotonic() - started < 30
    out, err = capsys.readouterr()
    assert json.loads(out)['run_desc'] == 'stylegan2-ds-1gpu-config-f'
    assert 'Dataset shape = [3, 8, 8]' in err and err.endswith('Dry run: nothing was trained.\n')
    assert os.listdir(home) == ['datasets']


@pytest.mark.parametrize('config', ['progan', 'msg-stylegan', *(f'stylegan-{letter}' for letter in 'bcdef')])
def test_each_configuration_of_the_family(config, home, capsys):
    run_training.main([*SMALL[:-1], f'--config={config}', '--metrics=none', '--impl=ref', '--dry-run'])
    out, err = capsys.readouterr()
    assert json.loads(out)['run_desc'] == f'stylegan2-ds-1gpu-{config}'
    assert err.endswith('Dry run: nothing was trained.\n')


def test_the_device_and_its_memory_are_told(home, monkeypatch, capsys):
    """The GPU is invented, and large enough for any minibatch of these networks."""
    from dnnlib.tflib import hardware, tfutil
    argv = [*SMALL, '--metrics=none', '--impl=ref', '--dry-run']
    run_training.main(argv)
    assert 'Computing on the CPU: ' in capsys.readouterr().err
    gpus = [hardware.Gpu('GPU 1', 8 << 30, (8, 6)), hardware.Gpu('GPU 2', None, None)]
    monkeypatch.setattr(hardware, 'gpus', lambda: gpus)
    try:
        run_training.main([*argv, '--tf32=true', '--precision=bfloat16'])
    finally:
        tfutil.set_tf32(False)
    err = capsys.readouterr().err
    assert 'Computing on GPU 1 (8.0 GiB, compute capability 8.6): 2 GPUs found, 1 used, TF32 on, bfloat16.' in err
    assert 'Memory by reckoning: --minibatch-gpu=2 needs 2.0 GiB of the 8.0 GiB of the GPU; ' \
        'the largest that fits is --minibatch-gpu=4.' in err


def test_a_dataset_at_an_address(home, monkeypatch, capsys):
    import tensorflow as tf
    for path in (home / 'datasets' / 'ds').iterdir():
        tf.io.gfile.makedirs('ram://bucket/data/ds')
        with tf.io.gfile.GFile(f'ram://bucket/data/ds/{path.name}', 'wb') as file:
            file.write(path.read_bytes())
    shutil.rmtree(home / 'datasets')
    argv = [*SMALL, '--metrics=none', '--impl=ref', '--cond=true', '--dry-run']
    run_training.main([*argv, '--data-dir=ram://bucket/data'])
    assert 'Label size    = 2' in capsys.readouterr().err
    run_training.main([*argv[1:], '--dataset=ram://bucket/data/ds'])
    assert json.loads(capsys.readouterr().out)['run_desc'] == 'stylegan2-ds-1gpu-config-f'
    for flags, message in [
            (['--dataset=cats', '--data-dir=ram://bucket/data'],
             '--dataset: there is no folder ram://bucket/data/cats\nIn ram://bucket/data there is ds.'),
            (['--dataset=data', '--data-dir=ram://bucket'], 'expected .tfrecords files in ram://bucket/data'),
            (['--dataset=ds', '--data-dir=nowhere://bucket'], "nowhere://bucket/ds cannot be read: .*'nowhere' not"),
            (['--dataset=ram://bucket/data/ds', '--data-dir=datasets'], 'with an absolute path or an address')]:
        with pytest.raises(cli.UserError, match=message):
            run_training.main([*argv[1:], *flags])


def test_dry_run_of_a_run_in_progress(home):
    argv = [*SMALL, '--metrics=none', '--impl=ref', '--g-loss=G_logistic_ns', '--d-loss=D_logistic']
    run_training.main([*argv, '--total-kimg=0.008'])
    folder = os.path.join('results', '00000-stylegan2-ds-1gpu-config-f')
    before = sorted((path, os.stat(os.path.join(path, name)).st_mtime_ns) for path, _, names in os.walk(folder)
                    for name in names)
    argv += ['--total-kimg=0.032', f'--resume={folder}', '--dry-run']
    run_training.main(argv)
    from dnnlib import storage
    with storage.locked(folder), pytest.raises(cli.UserError, match='another process is at work'):
        run_training.main(argv)
    assert before == sorted((path, os.stat(os.path.join(path, name)).st_mtime_ns) for path, _, names in os.walk(folder)
                            for name in names)
