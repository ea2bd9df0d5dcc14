"""run_metrics.py from end to end, with small networks of random weights and feature networks that need no weights."""

import json
import os
import re
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import run_metrics
from dnnlib import cli
from metrics import metric_base
from metrics.frechet_inception_distance import frechet_distance
from metrics.linear_separability import LS
from metrics.metric_defaults import metric_args
from metrics.real_images import RealImages
from tests import ROOT
from tests.light_help import help_of
from tests.stub_networks import numpy_patches, patches, stub_networks  # noqa: F401  A fixture.
from training import misc
from training.data import dataset_writer, tfrecords
from training.dataset import TFRecordDataset
from training.nets import registry

NUM_REALS = 40


def make_dataset(folder, channels=3, resolution=8, num_images=NUM_REALS, num_classes=0, seed=0):
    """Write a dataset of random pictures, and return them, uint8 [N, C, H, W]."""
    rnd = np.random.RandomState(seed)
    images = rnd.randint(256, size=[num_images, channels, resolution, resolution]).astype(np.uint8)
    shape = channels, resolution, resolution
    source = dataset_writer.Source(shape, range(num_images), lambda number: images[number], num_images)
    for _ in dataset_writer.write_source(str(folder), source):
        pass
    if num_classes:
        np.save(f'{folder}/labels.npy', np.eye(num_classes, dtype=np.float32)[np.arange(num_images) % num_classes])
        os.rename(f'{folder}/labels.npy', f'{folder}/{folder.name}-rxx.labels')
    return images


def make_network(path, channels=3, resolution=8, label_size=0, func_name='G_main', lod=0, **kwargs):
    shape = dict(num_channels=channels, resolution=resolution, label_size=label_size, fmap_base=32, fmap_max=4)
    G = registry.create_network('G', func_name, latent_size=8, dlatent_size=8, mapping_fmaps=8, mapping_layers=1,
                                **shape, **kwargs)
    D = registry.create_network('D', 'D_stylegan2', **shape)
    G.set_var('lod', lod)
    misc.save_pkl((G, D, G.clone('Gs')), path)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Folder with net.pkl, net16.pkl, gray.pkl, labels.pkl, and the datasets that fit them in datasets/."""
    folder = tmp_path_factory.mktemp('files')
    data = folder / 'datasets'
    data.mkdir()
    settings = dict(net={}, net16=dict(resolution=16), gray=dict(channels=1), labels=dict(label_size=3))
    for name, kwargs in settings.items():
        make_network(folder / f'{name}.pkl', **kwargs)
    make_dataset(data / 'ds')
    make_dataset(data / 'gray', channels=1)
    make_dataset(data / 'labels', num_classes=3)
    make_dataset(data / 'other', seed=1)
    return folder


@pytest.fixture
def home(files, tmp_path, monkeypatch, stub_networks):  # noqa: F811
    """Make `files` the working folder, and return a folder for results and cache."""
    monkeypatch.chdir(files)
    return tmp_path


def measure(home, *argv, network='net', dataset='ds', seed=1):
    """Run the command, and return {name: value} and the folder of the run."""
    argv = [f'--network={network}.pkl', *argv, f'--result-dir={home / "results"}', '--impl=ref']
    argv += [f'--dataset={dataset}'] if dataset else []
    argv += [] if seed is None else [f'--seed={seed}']
    run_metrics.main(argv)
    folder = sorted((home / 'results').iterdir())[-1]
    values = {}
    for line in (folder / 'log.txt').read_text().splitlines():
        if ' time ' in line:
            fields = line.split(' time ')[1]
            values.update({name: float(value) for name, value in re.findall(r'([a-z]\w+) (-?[\d.]+)(?: |$)', fields)})
    return values, folder


# ---- What it writes ----

def test_results_are_printed_and_appended_as_by_the_original(home, capsys):
    _values, folder = measure(home, '--metrics=fid16,is20,pr0.016k3,kid16')
    assert folder.name == '00000-run-metrics'
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f'Local submit - run_dir: {folder}', 'dnnlib: Running run_metrics.run() on localhost...',
                         'Evaluating metrics "fid16,is20,pr0.016k3,kid16" for "net.pkl"...']
    assert 'Seed: 1' in lines and sum(line.startswith('Computing on ') for line in lines) == 1
    number = r'-?\d+\.\d{4}'
    for name, results in [('fid16', rf'fid16 {number}'), ('is20', rf'is20_mean {number} +is20_std {number}'),
                          ('pr0.016k3', rf'pr0.016k3_precision {number} +pr0.016k3_recall {number}'),
                          ('kid16', r'kid16 -?\d+\.\d{6}')]:
        line, = (folder / f'metric-{name}.txt').read_text().splitlines()
        assert line in lines
        assert re.fullmatch(rf'net {{27}} time \d+s +{results}', line), line
    config = json.loads((folder / 'submit_config.json').read_text())
    assert config['run_func_kwargs']['metrics'] == ['fid16', 'is20', 'pr0.016k3', 'kid16']
    assert (folder / '_finished.txt').exists()


def test_one_pass_serves_all_and_none_of_them_notices(home, capsys):
    together, _ = measure(home, '--metrics=fid24,is20,kid16,fd_efficientnet16')
    out = capsys.readouterr().out
    assert re.findall(r'fakes \((.*?)\): (\d+) img', out) == [('fid24, is20, kid16, fd_efficientnet16', '24')]
    for name in ['fid24', 'is20', 'kid16', 'fd_efficientnet16']:
        alone, _ = measure(home, f'--metrics={name}')
        assert alone.items() <= together.items() and alone


def test_a_seed_gives_the_same_and_none_gives_another(home, capsys):
    runs = [measure(home, '--metrics=fid16', seed=seed)[0] for seed in (1, 1, 2, None, None)]
    assert runs[0] == runs[1] and len({run['fid16'] for run in runs}) == 4
    seeds = re.findall(r'^Seed: (\d+)$', capsys.readouterr().out, re.M)
    assert measure(home, '--metrics=fid16', seed=seeds[-1])[0] == runs[-1]


def test_without_real_images(home):
    values, _ = measure(home, '--metrics=is20,ppl2_wend8', network='net16', dataset=None)
    assert set(values) == {'is20_mean', 'is20_std', 'ppl2_wend8'}
    assert values['ppl2_wend8'] > 0 and values['is20_mean'] >= 1


def test_gray_images(home):
    values, _ = measure(home, '--metrics=fid16,pr0.016k3', network='gray', dataset='gray')
    assert values['fid16'] > 0


@pytest.mark.parametrize('kwargs', [dict(func_name='G_style'), dict(synthesis_func='G_synthesis_stylegan_revised')])
def test_growing_networks(kwargs, home, stub_networks):  # noqa: F811
    """Config-a and config-d at lod 1: their images are 8x8 with every pixel repeated."""
    make_network('growing.pkl', resolution=16, lod=1, **kwargs)
    seen = []

    def features(images):
        tf.numpy_function(seen.append, [images], [])
        return patches(images)
    stub_networks['inception_softmax'] = features
    values, _ = measure(home, '--metrics=is20,ppl2_wend8', network='growing', dataset=None)
    assert values['ppl2_wend8'] > 0
    assert seen
    for images in seen:
        np.testing.assert_array_equal(images, np.repeat(np.repeat(images[:, :, ::2, ::2], 2, axis=2), 2, axis=3))
    assert np.std([images[0] for images in seen], axis=0).max() > 0


def test_fid_is_that_of_features_computed_by_hand(home, files):
    values, _ = measure(home, '--metrics=fid32')
    reals = make_dataset(home / 'again')[:32]
    source = metric_base.SampleSource(misc.load_networks('net.pkl')[2], np.zeros([1, 0]), seed=1)
    fakes = []
    for index in range(4):
        minibatch = source.at(index)
        images = minibatch.images(minibatch.latents(8), minibatch.labels(8)).numpy()
        fakes.append(np.floor((images * 127.5 + 128).clip(0, 255)))
    x, y = (numpy_patches(images).astype(np.float64) for images in (reals, np.concatenate(fakes)))
    expected = frechet_distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False))
    assert values['fid32'] == pytest.approx(expected, abs=1e-3)


def test_separability_from_images_to_score(home, monkeypatch):
    # The images are smaller than those that the real classifiers take.
    monkeypatch.setattr(LS, 'check', lambda self, resolution: None)
    args = dict(metric_args('ls20'), attrib_indices=[0, 5])
    monkeypatch.setattr(run_metrics, 'metric_args', lambda name: args)
    values, _ = measure(home, '--metrics=ls20', dataset=None)
    assert set(values) == {'ls20_z', 'ls20_w'} and 1 <= values['ls20_w'] <= 4


# ---- Labels ----

def test_labels_are_those_of_random_images(home, monkeypatch):
    drawn = []
    labels = metric_base.SampleSource.labels

    def noted(self, n):
        drawn.append(n)
        return labels(self, n)
    monkeypatch.setattr(metric_base.SampleSource, 'labels', noted)
    measure(home, '--metrics=fid16', network='labels', dataset='labels')
    assert set(drawn) == {8}
    source = metric_base.SampleSource(misc.load_networks('labels.pkl')[2], np.eye(3)[[0, 1, 1, 1]], seed=0)
    counts = labels(source, 4000).numpy().sum(axis=0)
    np.testing.assert_allclose(counts / 4000, [0.25, 0.75, 0], atol=0.03)


def test_labels_that_do_not_fit(home):
    assert 'labels of 3 numbers' in refused(home, '--metrics=fid16', network='labels', dataset='ds').fact
    assert '--dataset' in refused(home, '--metrics=is20', network='labels', dataset=None).remedy


# ---- Statistics of the real images ----

def collect(name, data_dir, dataset='ds', mirror=False):
    reals = RealImages(str(data_dir), dict(tfrecord_dir=dataset), mirror)
    metric = metric_base.MetricGroup([metric_args(name)]).metrics[0]
    return reals.collect([metric], {metric.feature_net: patches})[metric]


def test_statistics_are_computed_once_for_the_same_images(home, files, capsys):
    def passes(*args, **kwargs):
        collect(*args, **kwargs)
        return capsys.readouterr().out.count('reals of')
    data = files / 'datasets'
    assert passes('fid16', data) == 1 and passes('fid16', data) == 0
    assert passes('fid17', data) == 1                    # another count
    assert passes('fid16', data, mirror=True) == 1       # other images
    assert passes('fd_efficientnet16', data) == 1        # another network
    assert passes('kid16', data) == 1                    # all features instead of their moments
    assert passes('fid16', data, dataset='other') == 1   # another dataset ...
    make_dataset(home / 'elsewhere' / 'ds')
    assert passes('fid16', home / 'elsewhere') == 0      # ... but not the same images elsewhere
    names = {path.name for path in (home / 'cache').iterdir()}
    assert len(names) == 6 and all(re.fullmatch(r'reals-\w+-[0-9a-f]{16}\.npz', name) for name in names)
    for path in (home / 'cache').iterdir():
        with np.load(path, allow_pickle=False) as arrays:
            assert {'key'} < set(arrays) and all(arrays[key].dtype != object for key in arrays)


@pytest.mark.parametrize('damage', ['cut', 'flip', 'empty', 'pickle', 'other'])
def test_a_damaged_file_of_statistics_is_computed_again(damage, home, files, capsys):
    expected = collect('fid16', files / 'datasets')
    path, = (home / 'cache').iterdir()
    content = bytearray(path.read_bytes())
    if damage == 'flip':
        content[len(content) // 2] ^= 1
    elif damage == 'pickle':
        content = b'\x80\x04K\x01.'
    elif damage == 'other':
        np.savez(path, key='{}', mean=1)
        content = path.read_bytes()
    path.write_bytes({'cut': content[:-100], 'empty': b''}.get(damage, content))
    capsys.readouterr()
    again = collect('fid16', files / 'datasets')
    assert f'Note: {path} is damaged' in capsys.readouterr().out
    np.testing.assert_array_equal(again.cov, expected.cov)
    collect('fid16', files / 'datasets')
    assert 'damaged' not in capsys.readouterr().out


def test_a_cache_that_cannot_be_written_costs_a_note(home, files, capsys):
    (home / 'cache').write_text('in the way')
    assert collect('fid16', files / 'datasets').count == 16
    assert 'Note: the statistics of the real images cannot be kept' in capsys.readouterr().out


def test_a_small_dataset_goes_round_again_for_fid(home, files):
    images = make_dataset(home / 'ds')
    moments = collect('fid100', files / 'datasets')
    features = numpy_patches(images[np.arange(100) % NUM_REALS]).astype(np.float64)
    assert moments.count == 100 and moments.num_rows == NUM_REALS
    np.testing.assert_allclose(moments.mean, features.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(moments.cov, np.cov(features, rowvar=False), atol=1e-8)


@pytest.mark.parametrize('name', ['kid100', 'pr0.1k3_exact'])
def test_each_image_counts_once_where_repetition_would_spoil_the_metric(name, home, files, stub_networks):  # noqa: F811
    stub_networks['vgg16_fc2'] = patches
    features = collect(name, files / 'datasets').features
    np.testing.assert_allclose(features, numpy_patches(make_dataset(home / 'ds')), rtol=1e-6)


def test_mirrored_images_count_as_if_drawn_one_by_one(home, files):
    images = make_dataset(home / 'ds')
    moments = collect('fid100', files / 'datasets', mirror=True)
    times = np.full(NUM_REALS, 2) + (np.arange(NUM_REALS) < 20)
    flipped = np.random.RandomState(0).binomial(times, 0.5)
    assert (flipped == 0).any() and flipped.max() <= 3
    drawn = np.concatenate([np.repeat(images, times - flipped, axis=0), np.repeat(images[..., ::-1], flipped, axis=0)])
    features = numpy_patches(drawn).astype(np.float64)
    assert moments.count == len(drawn) == 100
    np.testing.assert_allclose(moments.mean, features.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(moments.cov, np.cov(features, rowvar=False), atol=1e-8)


def test_identity_tells_images_apart_and_not_places(home, files):
    def identity(folder):
        return TFRecordDataset(str(folder)).identity()
    make_dataset(home / 'same')
    assert identity(home / 'same') == identity(files / 'datasets' / 'ds') != identity(files / 'datasets' / 'other')
    # Other images that are the same at 4x4.
    flipped = TFRecordDataset(str(home / 'same'), repeat=False, shuffle_mb=0).get_minibatch_np(NUM_REALS)[0]
    flipped = flipped.reshape(NUM_REALS, 3, 4, 2, 4, 2)[..., ::-1].reshape(NUM_REALS, 3, 8, 8)
    with dataset_writer.new_dataset(home / 'blocks') as writer:
        for image in flipped:
            writer.add_image(image)
    small = [(home / name / f'{name}-r02.tfrecords').read_bytes() for name in ('same', 'blocks')]
    assert small[0] == small[1] and identity(home / 'same') != identity(home / 'blocks')


def test_identity_reads_few_of_the_large_images(home, monkeypatch):
    make_dataset(home / 'ds')
    data = TFRecordDataset(str(home / 'ds'))
    monkeypatch.setattr('training.dataset._IDENTITY_IMAGES', 5)
    opened, read = [], []
    monkeypatch.setattr(tfrecords, 'content_digest', lambda path: opened.append(os.path.basename(path)) or '')
    pread = os.pread

    def noted(file, size, offset):
        if threading.current_thread() is threading.main_thread():  # Streams of earlier tests may still read in others.
            read.append(size)
        return pread(file, size, offset)
    monkeypatch.setattr(os, 'pread', noted)
    data.identity()
    assert opened == ['ds-r02.tfrecords'] and read == [4] * 5


def test_a_damaged_record_is_named(home, files):
    make_dataset(home / 'data' / 'ds')
    path = home / 'data' / 'ds' / 'ds-r03.tfrecords'
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(cli.UserError, match='ds-r03.tfrecords'):
        measure(home, '--metrics=fid32', f'--data-dir={home / "data"}')


# ---- Mistakes ----

def refused(home, *argv, **kwargs):
    with pytest.raises(cli.UserError) as caught:
        measure(home, *argv, **kwargs)
    assert not list((home / 'results').glob('*')), 'a refused run left a folder'
    return caught.value


def test_metrics_that_need_real_images(home):
    err = refused(home, '--metrics=is20,fid16,kid16', dataset=None)
    assert err.fact.startswith('fid16, kid16:') and '--dataset' in err.remedy


def test_dataset_of_another_size(home):
    err = refused(home, '--metrics=fid16', network='net16')
    assert '[3, 16, 16]' in err.fact and '[3, 8, 8]' in err.fact


def test_missing_dataset_and_network(home):
    assert 'nothing' in refused(home, '--metrics=fid16', dataset='nothing').fact
    assert 'gone.pkl' in refused(home, '--metrics=fid16', network='gone').fact


def test_flags_about_real_images_need_a_dataset(home):
    for flag in ('--mirror-augment=true', '--data-dir=datasets'):
        with pytest.raises(cli.UserError, match=f'{flag.split("=")[0]}: has no effect without --dataset'):
            run_metrics.main(['--network=net.pkl', '--metrics=is20', flag])


def test_unknown_and_no_metrics(home):
    assert "'fidd'" in refused(home, '--metrics=fid16,fidd').fact
    assert '--metrics' in refused(home, '--metrics=none').fact


def test_missing_weights_before_anything_is_computed(home, stub_networks, capsys):  # noqa: F811
    del stub_networks['inception_softmax']
    assert 'inception_softmax' in refused(home, '--metrics=fid16,is20').fact
    assert 'img/s' not in capsys.readouterr().out


def test_images_too_small_for_a_metric(home):
    assert 'expected 16 or more' in refused(home, '--metrics=ppl2_wend', dataset=None).fact
    assert 'expected 32 or more' in refused(home, '--metrics=ppl_wend', dataset=None).fact
    assert 'expected 256 or more' in refused(home, '--metrics=ls', dataset=None).fact


def test_scikit_learn_is_asked_for_by_the_name_of_its_extra(home, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.svm', None)
    monkeypatch.setattr('metrics.linear_separability._CLASSIFIER_SIZE', 8)
    assert '.[metrics]' in refused(home, '--metrics=ls', dataset=None).remedy


def test_several_gpus(home):
    assert '--num-gpus=2' in refused(home, '--num-gpus=2').fact


def test_help_imports_little_with_all_metrics():
    text = help_of(str(ROOT / 'run_metrics.py'))
    assert 'examples:' in text and 'ppl2_wend, ls, pr50k3, kid50k' in text


# ---- A metric that fails, where the others should go on ----

@pytest.fixture
def group_of_three(files, monkeypatch, tmp_path, stub_networks):  # noqa: F811
    monkeypatch.chdir(files)
    group = metric_base.MetricGroup([metric_args(name) for name in ('fid16', 'is20', 'kid16')], seed=1)
    Gs = misc.load_networks('net.pkl')[2]
    return lambda: group.run('net.pkl', Gs, str(tmp_path), 'datasets', dict(tfrecord_dir='ds'), keep_going=True)


def test_a_metric_that_fails_in_the_end_costs_only_itself(group_of_three, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise MemoryError('no room')
    monkeypatch.setattr('metrics.kernel_inception_distance.kernel_distance', fail)
    assert set(group_of_three()) == {'Metrics/fid16', 'Metrics/is20_mean', 'Metrics/is20_std'}
    out = capsys.readouterr().out
    assert 'Note: kid16 failed: no room' in out and out.count('fakes (') == 1


def test_a_network_that_fails_costs_only_its_metrics(group_of_three, stub_networks, capsys):  # noqa: F811
    def fail(images):
        raise tf.errors.ResourceExhaustedError(None, None, 'OOM')
    stub_networks['inception_softmax'] = fail
    assert set(group_of_three()) == {'Metrics/fid16', 'Metrics/kid16'}
    assert 'Note: is20 failed: OOM' in capsys.readouterr().out


def test_too_little_memory(home, monkeypatch):
    def fail(*args, **kwargs):
        raise tf.errors.InternalError(None, None, 'failed to allocate 1.0GiB')
    monkeypatch.setattr(metric_base.MetricGroup, 'run', fail)
    with pytest.raises(cli.UserError, match='out of memory: failed to allocate 1.0GiB\nCompute one metric at a time'):
        measure(home, '--metrics=fid16,is20', '--tf32=true')
    assert tf.config.experimental.tensor_float_32_execution_enabled()
    with pytest.raises(cli.UserError, match='out of memory: failed to allocate 1.0GiB\nEnd other programs'):
        measure(home, '--metrics=fid16')
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_a_dataset_that_has_gone_costs_all_but_no_exception(group_of_three, files, capsys):
    (files / 'datasets' / 'ds').rename(files / 'away')
    try:
        assert group_of_three() == {}
    finally:
        (files / 'away').rename(files / 'datasets' / 'ds')
    assert 'Note: fid16, is20, kid16 failed: dataset folder' in capsys.readouterr().out


# ---- With a real network ----

@pytest.mark.slow
def test_blur_noise_and_mode_loss_raise_the_distance(tmp_path, monkeypatch):
    """fd_efficientnet of the demo's faces to other faces, which are the nearest, and to changed ones."""
    import zipfile

    from metrics import feature_networks
    from metrics.collectors import Moments
    from metrics.frechet_inception_distance import FD
    net = tf.function(feature_networks.load('efficientnet_lite0'), autograph=False)
    with zipfile.ZipFile(ROOT / 'demo' / 'faces32.zip') as archive:
        names = sorted(name for name in archive.namelist() if name.endswith('.png'))[:128]
        images = np.stack([np.asarray(Image.open(archive.open(name)).convert('RGB')) for name in names])
    reals, others = images[::2], images[1::2]

    def moments(x):
        collector = Moments(len(x))
        for begin in range(0, len(x), 16):
            collector.add(net(x[begin:begin + 16].transpose(0, 3, 1, 2)).numpy())
        collector.finish()
        return collector

    def distance(fakes):
        metric = FD('fd', len(fakes), 'efficientnet_lite0')
        metric.evaluate(moments(fakes), of_reals, seed=0)
        return metric.results[0][1]

    def blurred(radius):
        from PIL import ImageFilter
        blur = ImageFilter.GaussianBlur(radius)
        return np.stack([np.asarray(Image.fromarray(image).filter(blur)) for image in others])

    def noisy(strength):
        noise = np.random.RandomState(0).normal(0, strength, others.shape)
        return (others + noise).clip(0, 255).astype(np.uint8)
    of_reals = moments(reals)
    best = distance(others)
    assert best < distance(blurred(0.7)) < distance(blurred(1.5))
    assert best < distance(noisy(10)) < distance(noisy(40))
    assert best < distance(np.repeat(others[:16], 4, axis=0)) < distance(np.repeat(others[:4], 16, axis=0))
