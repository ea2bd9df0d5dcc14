"""Training from end to end, small: files, log, schedule of phases, resuming, refusals."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import custom_ops
import dataset_tool
import run_training
from dnnlib import cli
from dnnlib.cli import UserError
from metrics.metric_defaults import metric_args
from tests import ROOT
from tests.graphs import eagerly, shared_graphs
from tests.stub_networks import stub_networks  # noqa: F401  A fixture.
from tests.training.test_misc import small_networks
from training import configs, misc
from training.data import dataset_writer
from training.data.record_reader import RecordReader
from training.dataset import TFRecordDataset
from training.run import snapshot
from training.step.adam import Adam
from training.step.train_step import TrainStep
from training.training_loop import training_loop

SMALL = ['--minibatch-size=4', '--minibatch-gpu=2', '--fmap-base=32', '--fmap-max=4', '--latent-size=8',
         '--mapping-layers=1', '--metrics=none', '--tick-kimg=0.016', '--image-snapshot-ticks=2',
         '--network-snapshot-ticks=2']
SIZES = '--(fmap|latent|mapping)'  # flags that a pickle to resume from leaves no room for


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    """Folder with the datasets `tiny` (8x8 RGB) and `gray` (16x16, one channel)."""
    folder = tmp_path_factory.mktemp('data')
    rng = np.random.RandomState(0)
    for name, shape in [('tiny', (8, 8, 3)), ('gray', (16, 16))]:
        (folder / f'{name}-images').mkdir()
        for i in range(40):
            image = Image.fromarray(rng.randint(256, size=shape).astype(np.uint8))
            image.save(folder / f'{name}-images' / f'{i:03d}.png')
        dataset_tool.main(['create_from_images', str(folder / name), str(folder / f'{name}-images')])
    return folder


def arguments(data_dir, result_dir, *args, dataset='tiny'):
    """Arguments of run_training.py for a small run."""
    resumes = any(arg.startswith('--resume-pkl') for arg in args)
    small = [arg for arg in SMALL if not resumes or not re.match(SIZES, arg)]
    return [f'--data-dir={data_dir}', f'--dataset={dataset}', f'--result-dir={result_dir}', *small, *args]


def train(*args, **kwargs):
    """run_training.py with these `arguments` in this process, where TensorFlow is loaded already."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), shared_graphs(), \
            pytest.raises(SystemExit) as exited:
        cli.run(run_training.main, arguments(*args, **kwargs))
    return types.SimpleNamespace(returncode=exited.value.code, stdout=out.getvalue(), stderr=err.getvalue())


def train_as_command(*args, **kwargs):
    """The same as a command of its own, without TF_CPP_MIN_LOG_LEVEL."""
    # conftest.py has set it, not a user.
    env = {name: value for name, value in os.environ.items() if name != 'TF_CPP_MIN_LOG_LEVEL'}
    command = [sys.executable, 'run_training.py', *arguments(*args, **kwargs)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope='module')
def run(data_dir, tmp_path_factory):
    """(folder, output) of a finished run of 64 images."""
    result_dir = tmp_path_factory.mktemp('results')
    custom_ops.impl_report()  # Builds them now, so that the run has nothing to say of it.
    done = train_as_command(data_dir, result_dir, '--total-kimg=0.064')
    assert done.returncode == 0, done.stderr
    return result_dir / '00000-stylegan2-tiny-1gpu-config-f', done


def test_files_of_a_run(run):
    folder, _ = run
    names = {path.name for path in folder.iterdir()}
    assert {'reals.png', 'fakes_init.png', 'fakes000000.png', 'fakes000000_064.png', 'network-snapshot-000000.pkl',
            'network-snapshot-000000_064.pkl', 'network-final.pkl', 'log.txt', 'submit_config.json',
            'submit_config.txt', 'stats.jsonl', 'report.html', '_finished.txt'} <= names
    assert any(name.startswith('events.out.tfevents') for name in names)
    assert not [name for name in names if name.endswith(('.part', '.tmp'))]
    report = (folder / 'report.html').read_text()
    assert '<b>0.064 of 0.064</b>' in report and '<b>finished</b>' in report
    assert re.findall('alt="(fakes0.*?)"', report) == ['fakes000000.png', 'fakes000000_048.png', 'fakes000000_064.png']
    assert '<td>kimg 0.064</td>' in report and '<td>G_args.fmap_base</td><td>32</td>' in report
    G, D, Gs = misc.load_pkl(folder / 'network-final.pkl')
    assert [net.name for net in (G, D, Gs)] == ['G', 'D', 'Gs']
    weight = 'G_synthesis/8x8/Conv1/weight'
    assert np.any(G.get_var(weight) != Gs.get_var(weight))
    assert np.any(Gs.get_var('dlatent_avg'))
    with Image.open(folder / 'fakes000000.png') as fakes, Image.open(folder / 'reals.png') as reals:
        assert fakes.size == reals.size == (64, 32)  # 8 x 4 images on a CPU


def test_what_it_prints(run):
    folder, done = run
    lines = (folder / 'log.txt').read_text().splitlines()
    assert lines == done.stdout.splitlines()[1:]
    ticks = [line for line in lines if line.startswith('tick ')]
    pattern = (r'tick \d+ +kimg [\d.]+ +lod 0\.00 +minibatch 4 +time \d+s +sec/tick [\d.]+ +sec/kimg [\d.]+ +'
               r'maintenance [\d.]+ +gpumem [\d.]+ +left (\d+s|\?)$')
    assert len(ticks) == 4 and all(re.match(pattern, line) for line in ticks)
    assert sum(line.startswith('Computing on ') for line in lines) == 1
    assert sum(line.startswith('Compiling') for line in lines) == 1
    assert 'Training for 0.064 kimg...' in lines
    assert [line for line in lines if line.startswith('Custom ops: ')] == [custom_ops.impl_report()]
    assert done.stderr == ''


def test_scalars_of_a_run(run):
    folder, _ = run
    stats = [json.loads(line) for line in (folder / 'stats.jsonl').read_text().splitlines()]
    assert [line['tick'] for line in stats] == [0, 1, 2, 3] and stats[-1]['kimg'] == 0.064
    tags = {'Loss/scores/fake', 'Loss/scores/real', 'Loss/gradient_penalty', 'Loss/pl_lengths', 'Loss/pl_mean',
            'Loss/pl_penalty', 'Progress/tick', 'Progress/kimg', 'Progress/lod', 'Progress/minibatch',
            'Timing/total_sec', 'Timing/sec_per_tick', 'Timing/sec_per_kimg', 'Timing/maintenance_sec',
            'Timing/total_hours', 'Timing/total_days', 'Resources/peak_gpu_mem_gb', 'TrainG/learning_rate',
            'TrainD/learning_rate', 'TrainG/overflow_frequency'}
    assert tags <= set(stats[0])
    assert stats[0]['TrainG/learning_rate'] == pytest.approx(0.002 * 4 / 5)
    assert stats[0]['TrainG/overflow_frequency'] == 0
    events = next(str(path) for path in folder.glob('events.*'))
    written = {value.tag for event in tf.compat.v1.train.summary_iterator(events) for value in event.summary.value}
    assert tags <= written


def test_same_seed_same_run(run, data_dir, tmp_path):
    folder, _ = run
    again = train(data_dir, tmp_path, '--total-kimg=0.064')
    other = train(data_dir, tmp_path, '--total-kimg=0.064', '--seed=7')
    assert again.returncode == other.returncode == 0
    nets = [misc.load_pkl(path / 'network-final.pkl') for path in (folder, *sorted(tmp_path.glob('0000*')))]
    name = 'G_synthesis/8x8/Conv1/weight'
    np.testing.assert_allclose(nets[1][0].get_var(name), nets[0][0].get_var(name), atol=1e-4)
    assert np.abs(nets[2][0].get_var(name) - nets[0][0].get_var(name)).max() > 0.1


def test_resume_from_a_pickle(run, data_dir, tmp_path):
    folder, _ = run
    with eagerly():
        done = train(data_dir, tmp_path, f'--resume-pkl={folder / "network-final.pkl"}', '--resume-kimg=0.064',
                     '--total-kimg=0.08', '--lrate=1e-9', '--minibatch-gpu=4')
    assert done.returncode == 0, done.stderr
    before = misc.load_pkl(folder / 'network-final.pkl')
    after = misc.load_pkl(next(tmp_path.glob('0*')) / 'network-final.pkl')
    for old, new in zip(before[:2], after[:2], strict=True):
        for name in old.trainables:
            np.testing.assert_allclose(new.get_var(name), old.get_var(name), atol=1e-6)
    assert 'kimg 0.080' in done.stdout


def test_gray_images_and_another_architecture(data_dir, tmp_path):
    with eagerly():
        done = train(data_dir, tmp_path, '--config=config-e-Gorig-Dskip', '--total-kimg=0.016', '--mirror-augment=true',
                     '--gamma=1', '--minibatch-gpu=4', dataset='gray')
    assert done.returncode == 0, done.stderr
    folder = next(tmp_path.glob('0*'))
    Gs = misc.load_pkl(folder / 'network-final.pkl')[2]
    assert Gs.output_shape == [None, 1, 16, 16] and Gs.static_kwargs.architecture == 'orig'
    with Image.open(folder / 'fakes_init.png') as image:
        assert image.mode == 'L'


@pytest.mark.parametrize('args, expected', [
    (['--num-gpus=2'], '--num-gpus=2: expected 2 devices, found 1 CPU device'),
    (['--resume-kimg=5', '--total-kimg=5'], 'is reached already'),
])
def test_refusals_are_one_line_and_leave_nothing(data_dir, tmp_path, args, expected):
    if '--resume-kimg=5' in args:
        misc.save_pkl(small_networks(), tmp_path / 'net.pkl')
        args = [*args, f'--resume-pkl={tmp_path / "net.pkl"}']
    done = train(data_dir, tmp_path / 'results', *args, dataset='gray')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert re.search(expected, done.stderr) and len(done.stderr.strip().splitlines()) == 2
    assert not list((tmp_path / 'results').glob('*'))


# ---- Pieces ----

def make_trainer(**kwargs):
    nets = small_networks()
    return TrainStep(*nets, 'G_logistic_ns_pathreg', 'D_logistic_r1', **kwargs)


def test_order_of_phases():
    trainer = make_trainer(G_reg_interval=2, D_reg_interval=3)
    assert [trainer.phases(i) for i in range(4)] == [
        ['G_train', 'G_reg', 'Gs_update', 'D_train', 'D_reg'], ['G_train', 'Gs_update', 'D_train'],
        ['G_train', 'G_reg', 'Gs_update', 'D_train'], ['G_train', 'Gs_update', 'D_train', 'D_reg']]
    assert make_trainer(lazy_regularization=False).phases(0) == ['G_train', 'Gs_update', 'D_train']


def test_one_trace_per_function():
    trainer = make_trainer()
    reals, labels = tf.random.normal([4, 3, 8, 8]), tf.zeros([4, 0])
    for _ in range(3):
        for phase in ('G_train', 'G_reg', 'D_train', 'D_reg'):
            trainer.run(phase, 2, 2, 0.002, reals, labels)
        trainer.update_Gs(0.9)
    assert len(trainer.num_traces()) == 5 and set(trainer.num_traces().values()) == {1}


def test_accumulated_rounds_are_the_mean_of_the_rounds():
    """D's R1 pass aside, two rounds of two images give the mean of the gradients of each."""
    from tests.injected import InjectedRandom
    values = {name: np.random.RandomState(i).randn(2, *shape).astype(np.float32) for i, (name, shape) in enumerate([
        ('D_train/latents', (2, 8)), ('D_train/G0/latents2', (2, 8)), ('D_train/G0/mix_u', ()),
        ('D_train/G0/mix_cutoff', ()), ('D_train/G0/noise0', (2, 1, 4, 4)), ('D_train/G0/noise1', (2, 1, 8, 8)),
        ('D_train/G0/noise2', (2, 1, 8, 8))])}
    reals, labels = tf.random.normal([4, 3, 8, 8]), tf.zeros([4, 0])
    nets = small_networks()
    moments = []
    for rounds in ([0, 1], [0], [1]):
        rng = InjectedRandom()
        rng.feed({name: list(value[rounds]) for name, value in values.items()})
        copies = [net.clone() for net in nets]
        trainer = TrainStep(*copies, 'G_logistic_ns', 'D_logistic_r1', rng=rng)
        images = tf.gather(reals, [i for r in rounds for i in (2 * r, 2 * r + 1)])
        with eagerly() if len(rounds) == 1 else contextlib.nullcontext():
            trainer.run('D_train', 2, len(rounds), 0.0, images, labels[:2 * len(rounds)])
        moments.append([m.numpy() for m in trainer.D_opt.m])
    for both, first, second in zip(*moments, strict=True):
        np.testing.assert_allclose(both, (first + second) / 2, rtol=1e-4, atol=1e-6)


def test_adam_skips_what_is_not_finite():
    var = tf.Variable([1.0, 2.0])
    adam = Adam([var], mb_ratio=0.8)
    assert adam.apply([tf.constant([1.0, np.nan])], tf.constant(0.1)).numpy() == False  # noqa: E712
    np.testing.assert_array_equal(var, [1, 2])
    np.testing.assert_array_equal(adam.v[0], [0, 0])
    assert adam.skipped.numpy() == 1 and adam.beta2_power.numpy() == pytest.approx(0.99 ** 0.8)
    assert adam.apply([tf.constant([1.0, -1.0])], tf.constant(0.1)).numpy()
    # With beta1 = 0, the first step is the rate times the sign.
    np.testing.assert_allclose(var, [1 - 0.08, 2 + 0.08], rtol=1e-5)
    adam.reset()
    np.testing.assert_array_equal(adam.v[0], [0, 0])


def test_grid_sizes_and_layouts(data_dir):
    data = TFRecordDataset(str(data_dir / 'tiny'))
    for size, expected in [('1080p', (32, 32)), ('8k', (32, 32))]:
        grid, reals, labels = snapshot.setup_image_grid(data, size)
        assert grid == expected and reals.shape == (1024, 3, 8, 8) and labels.shape == (1024, 0)
    assert snapshot.setup_image_grid(data, '8k', most=(8, 4))[0] == (8, 4)
    with pytest.raises(ValueError, match='layout'):
        snapshot.setup_image_grid(data, '4k', 'sideways')


def test_a_grid_reads_its_own_images_alone(data_dir, monkeypatch):
    """A grid in 8k has a thousand images: 16 more such minibatches would take as many gigabytes at 1024x1024."""
    numbers, read = [], RecordReader.read
    data = TFRecordDataset(str(data_dir / 'tiny'))
    reader, _ = data._level(0)

    def record(self, some, out):
        if self is reader:  # Threads of streams that earlier tests have left may still read.
            numbers.extend(some)
        read(self, some, out)
    monkeypatch.setattr(RecordReader, 'read', record)
    snapshot.setup_image_grid(data, most=(8, 4))
    assert len(numbers) == 8 * 4


def test_grid_with_a_row_per_class(data_dir, tmp_path):
    labels = np.eye(3, dtype=np.float32)[np.arange(40) % 3]
    np.save(tmp_path / 'labels.npy', labels)
    data = TFRecordDataset(str(data_dir / 'tiny'), label_file=str(tmp_path / 'labels.npy'), max_label_size='full')
    (columns, rows), reals, labels = snapshot.setup_image_grid(data, '1080p', 'row_per_class')
    labels = labels.reshape(rows, columns, 3)
    for row in range(rows):  # There are more rows than classes: the classes are repeated, as in the original.
        assert np.all(labels[row].any(axis=1)) and np.all(labels[row].argmax(axis=1) == row % 3)
    assert reals.reshape(rows, columns, -1).any(axis=2).all()


def test_a_full_disk_costs_the_snapshot_and_not_the_run(data_dir, tmp_path, monkeypatch, capsys):
    nets = small_networks()
    snapshots = snapshot.Snapshots(str(tmp_path), TFRecordDataset(str(data_dir / 'tiny')), nets[2])

    def full(*args):
        raise OSError(28, os.strerror(28))
    monkeypatch.setattr(os, 'replace', full)
    with snapshot.tolerate_write_errors('net.pkl'):
        snapshots.save_networks(nets, 'net.pkl')
    assert 'net.pkl was not written' in capsys.readouterr().out
    with pytest.raises(UserError, match='No space left'):
        snapshots.save_networks(nets, 'net.pkl')


def test_a_gpu_that_is_hidden_is_not_used_and_older_pickles_are_deleted(data_dir, tmp_path, monkeypatch, capsys):
    hidden = tf.config.PhysicalDevice('/physical_device:GPU:0', 'GPU')
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind=None: [hidden] if kind == 'GPU' else [])
    monkeypatch.setattr(tf.config, 'get_visible_devices', lambda kind=None: [])
    train_here(data_dir, tmp_path, [], keep_snapshots=2)
    out = capsys.readouterr().out
    assert 'Computing on the CPU: ' in out and "Note: TensorFlow's settings hide the GPU" in out
    assert sorted(path.name for path in tmp_path.glob('*.pkl')) == [
        'network-final.pkl', 'network-snapshot-000000_032.pkl', 'network-snapshot-000000_048.pkl']


@pytest.mark.parametrize('keep, expected', [
    (None, ['000001', '000002', '000002_500', '000002_900', '000010']), (1, ['000001', '000002_900', '000010']),
    (2, ['000001', '000002_500', '000002_900', '000010']),
    (9, ['000001', '000002', '000002_500', '000002_900', '000010'])])
def test_which_pickles_are_kept(tmp_path, monkeypatch, keep, expected):
    """Those before the new one are counted; those after it are of the future of an older checkpoint. The run has begun
    with that of 1 kimg."""
    snapshots = object.__new__(snapshot.Snapshots)
    snapshots._run_dir = str(tmp_path)
    others = ['network-final.pkl', 'network-snapshot-mine.pkl', 'network-snapshot-000002.pkl.part', 'fakes000001.png']
    before = [f'network-snapshot-{number}.pkl' for number in ('000001', '000002', '000002_500', '000010')]
    for name in (*others, *before):
        (tmp_path / name).write_text('')
    monkeypatch.setattr(misc, 'save_pkl', lambda networks, path: open(path, 'w').close())
    snapshots.save_networks([], 'network-snapshot-000002_900.pkl', keep, str(tmp_path / 'network-snapshot-000001.pkl'))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {*others, *(f'network-snapshot-{number}.pkl' for number in expected)}


# ---- Presets of StyleGAN2-ADA ----

@pytest.fixture(scope='module')
def labelled(data_dir):
    """Name of a dataset of 16x16 RGB images with labels of three classes."""
    with dataset_writer.new_dataset(data_dir / 'labelled16') as writer:
        for image in np.random.RandomState(0).randint(256, size=[12, 3, 16, 16]):
            writer.add_image(image)
        writer.add_labels(np.eye(3)[np.arange(12) % 3])
    return 'labelled16'


@pytest.mark.parametrize('preset, precision', [
    ('auto', 'float32'), ('stylegan2', 'float32'), ('paper256', 'float32'), ('paper512', 'bfloat16'),
    ('paper1024', 'mixed_float16'), ('cifar', 'float32')])
def test_presets(preset, precision, data_dir, labelled, tmp_path, capsys):
    """Two iterations, with labels. They run eagerly: compiling would take longer."""
    run = configs.training_run(
        labelled, data_dir=str(data_dir), config=preset, resolution=16, cond=preset != 'stylegan2', total_kimg=0.008,
        minibatch_size=4, fmap_base=32, fmap_max=4, latent_size=8, mapping_layers=1, precision=precision,
        augpipe='bgc' if preset == 'auto' else 'color', impl='ref')
    with eagerly():
        Gs = training_loop(run_dir=str(tmp_path), minibatch_repeats=1, ada_interval=1, **run.run_func_kwargs)
    _, D, saved = misc.load_networks(tmp_path / 'network-final.pkl')
    clamp = None if precision == 'float32' else 256
    assert Gs.static_kwargs.get('conv_clamp') == D.static_kwargs.get('conv_clamp') == clamp
    assert D.static_kwargs.mbstd_group_size == run.run_func_kwargs.D_args['mbstd_group_size']
    labels = 0 if preset == 'stylegan2' else 3
    assert D.input_shapes[1] == saved.input_shapes[1] == [None, labels]
    assert ('LabelEmbed/weight' in D.vars) == ('Mapping7/weight' in D.vars) == bool(labels)
    for name, var in saved.vars.items():
        assert np.isfinite(var.numpy()).all(), name
    stats = [json.loads(line) for line in (tmp_path / 'stats.jsonl').read_text().splitlines()]
    assert stats[-1]['Progress/augment'] == D.augment_p >= 0 and -1 <= stats[-1]['Loss/signs/real'] <= 1
    assert ('Loss/pl_mean' in stats[0]) == (preset != 'cifar')
    assert stats[0]['TrainG/learning_rate'] == pytest.approx(run.run_func_kwargs.sched_args['G_lrate_base'] * 4 / 5)
    out = capsys.readouterr().out
    assert re.search(r'^tick 1 .* augment \d\.\d{3} +r_t -?\d\.\d{3} +left 0s$', out, re.MULTILINE)
    assert 'loss scaling' not in out


def test_images_that_cannot_be_augmented(data_dir, tmp_path):
    run = configs.training_run('tiny', data_dir=str(data_dir), aug='ada', augpipe='bgcf', fmap_base=32, fmap_max=4)
    with pytest.raises(UserError, match='--augpipe=bgcf: its filter needs images of 32x32 or more'):
        training_loop(run_dir=str(tmp_path), **run.run_func_kwargs)


# ---- Metrics at snapshots ----

def train_here(data_dir, run_dir, names, require=True, **kwargs):
    """Train 48 images in this process, snapshots at 16, 32 and 48; returns Gs."""
    run_dir.mkdir(exist_ok=True)
    run = configs.training_run(
        'tiny', data_dir=str(data_dir), total_kimg=0.048, minibatch_size=4, minibatch_gpu=4, fmap_base=32, fmap_max=4,
        latent_size=8, mapping_layers=1, tick_kimg=0.016, network_snapshot_ticks=1,
        metric_arg_list=[metric_args(name) for name in names], impl='ref',
        G_loss='G_logistic_ns', D_loss='D_logistic')  # Only two phases, so that there is less to compile.
    with shared_graphs():
        return training_loop(run_dir=str(run_dir), require_metrics=require, **run.run_func_kwargs, **kwargs)


@pytest.fixture(scope='module')
def weights_without_metrics(data_dir, tmp_path_factory):
    return train_here(data_dir, tmp_path_factory.mktemp('plain'), []).get_var('G_synthesis/8x8/Conv1/weight')


def test_metrics_are_computed_at_every_snapshot_and_do_not_change_training(
        data_dir, tmp_path, stub_networks, weights_without_metrics, capsys):  # noqa: F811
    Gs = train_here(data_dir, tmp_path, ['fid16', 'is10'])
    np.testing.assert_allclose(Gs.get_var('G_synthesis/8x8/Conv1/weight'), weights_without_metrics, atol=1e-6)
    out = capsys.readouterr().out
    lines = (tmp_path / 'metric-fid16.txt').read_text().splitlines()
    assert set(lines) <= set(out.splitlines())
    for line, number in zip(lines, ['000000', '000000_032', '000000_048'], strict=True):
        assert re.fullmatch(rf'network-snapshot-{number} +time \d+s +fid16 [\d.]+', line)
    stats = [json.loads(line) for line in (tmp_path / 'stats.jsonl').read_text().splitlines()]
    measured = [line for line in stats if 'Metrics/fid16' in line]
    assert [(line['tick'], line['kimg']) for line in measured] == [(0, 0.016), (1, 0.032), (2, 0.048)]
    assert [f'{line["Metrics/fid16"]:.4f}' for line in measured] == [line.split()[-1] for line in lines]
    assert {'Metrics/is10_mean', 'Metrics/is10_std'} <= set(measured[0])
    events = [str(path) for path in tmp_path.glob('events.*')]
    written = [event for path in events for event in tf.compat.v1.train.summary_iterator(path)]
    assert [event.step for event in written
            if 'Metrics/fid16' in {value.tag for value in event.summary.value}] == [16, 32, 48]
    assert out.count('reals of tiny') == 1
    # The last snapshot's value can be had again from its pickle.
    assert (tmp_path / 'network-snapshot-000000_048.pkl').exists()


def test_what_computes_metrics_is_an_argument(data_dir, tmp_path):
    """The loop asks it before training whether it can, and then for values at each snapshot."""
    calls = []

    class Evaluation:
        def __init__(self, metric_arg_list, seed, devices):
            calls.append(([args['name'] for args in metric_arg_list], seed, devices.number))

        def check(self, Gs, dataset):
            calls.append((Gs.name, dataset.shape))

        def load_networks(self):
            calls.append('load')

        def run(self, name, Gs, *args, **kwargs):
            calls.append(name)
            return {'Metrics/brightness': 0.5}
    train_here(data_dir, tmp_path, ['fid16'], make_evaluation=Evaluation)
    assert calls == [(['fid16'], 1000, 1), ('Gs', [3, 8, 8]), 'load', *(
        f'network-snapshot-{number}.pkl' for number in ('000000', '000000_032', '000000_048'))]
    stats = [json.loads(line) for line in (tmp_path / 'stats.jsonl').read_text().splitlines()]
    assert [line['Metrics/brightness'] for line in stats if 'Metrics/brightness' in line] == [0.5] * 3


def test_a_metric_that_fails_does_not_end_the_run(
        data_dir, tmp_path, stub_networks, monkeypatch, capsys):  # noqa: F811
    from metrics.frechet_inception_distance import FD
    evaluate, calls = FD.evaluate, []

    def fail_at_the_second(self, *args):
        calls.append(self.name)
        if len(calls) == 2:
            raise MemoryError('no room for it')
        return evaluate(self, *args)
    monkeypatch.setattr(FD, 'evaluate', fail_at_the_second)
    train_here(data_dir, tmp_path, ['fid16', 'is10'])
    assert 'Note: fid16 failed: no room for it' in capsys.readouterr().out
    assert len((tmp_path / 'metric-fid16.txt').read_text().splitlines()) == 2
    assert len((tmp_path / 'metric-is10.txt').read_text().splitlines()) == 3
    assert (tmp_path / 'network-final.pkl').exists()


def test_metrics_that_cannot_be_had_are_known_before_training(data_dir, tmp_path, stub_networks, capsys):  # noqa: F811
    stub_networks.clear()
    with pytest.raises(UserError, match='inception_features'):
        train_here(data_dir, tmp_path / 'required', ['fid16'])
    with pytest.raises(UserError, match='expected 16 or more'):
        train_here(data_dir, tmp_path / 'small', ['ppl2_wend'])
    assert not list((tmp_path / 'required').iterdir()) and not list((tmp_path / 'small').iterdir())
    capsys.readouterr()
    train_here(data_dir, tmp_path / 'default', ['fid16'], require=False)
    out = capsys.readouterr().out
    assert 'Note: training without fid16. inception_features: the weights are not there. Get them.' in out.splitlines()
    assert (tmp_path / 'default' / 'network-final.pkl').exists()
    assert out.index('Note: training without') < out.index('Training for 0.048 kimg')
