"""The estimate of docs/scale.md: its count of floating-point work against TensorFlow's graphs, and its arithmetic by
hand."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf

import custom_ops
from bench import costs, scale
from training.nets import registry
from training.step.train_step import TrainStep

MINIBATCH = 4


@pytest.fixture(scope='module')
def trainer():
    """Small networks of config-f whose layers have different sizes. With the native ops, for the reference forms lead
    gradients that are always zero through a convolution of D once more."""
    custom_ops.set_impl('native')
    shape = dict(num_channels=3, resolution=16, label_size=0, fmap_base=64, fmap_max=24)
    G = registry.create_network(
        'G', 'G_main', **shape, latent_size=10, dlatent_size=14, mapping_fmaps=9, mapping_layers=3
    )
    D = registry.create_network('D', 'D_stylegan2', **shape)
    yield TrainStep(G, D, G.clone('Gs'), 'G_logistic_ns_pathreg', 'D_logistic_r1')
    custom_ops.set_impl(None)


@pytest.mark.parametrize('phase', scale.PHASES)
def test_work_is_that_of_the_traced_graph(trainer, phase):
    images = [tf.TensorSpec([MINIBATCH, 3, 16, 16]), tf.TensorSpec([MINIBATCH, 0])] if phase.startswith('D') else []
    function = tf.function(lambda *args: trainer._phase(phase, MINIBATCH, 1, None, *args), autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec([2], tf.int64), tf.TensorSpec([]), *images).graph
    nets = trainer.G.components.mapping, trainer.G.components.synthesis, trainer.D
    products = [product for net in nets for product in costs.products_of(net)]
    assert {kind for kind, _, _ in products} == set(costs.PASSES)
    per_phase = MINIBATCH // 2 if phase == 'G_reg' else MINIBATCH
    assert costs.phase_work(products, phase) * per_phase == costs.flop_of_graph(graph)


def test_activations_are_those_that_the_networks_list(trainer):
    found = costs.activation_bytes(trainer.G, trainer.D)
    largest = 4 * (2 * 8 * 16 * 16 + 2 * 8 * 16 * 16)  # Conv0_up, Conv1 of G; FromRGB, Conv0 of D: 8 channels of 16x16
    assert largest < found < 4 * largest


ASSUMED = dict(
    peak=10.0,
    utilisation=0.5,
    node=8,
    link=100.0,
    network=10.0,
    latency=0.0,
    cores=1.0,
    storage=1.0,
    minibatch=32,
    minibatch_gpu=4,
    total_kimg=1000.0,
)
WORK = {'G_train': 1e12, 'G_reg': 4e12, 'D_train': 1e12, 'D_reg': 8e12}
GRADIENTS = {'G': 80e6, 'D': 160e6}


def estimate(number, grow, **changes):
    return scale.estimate(number, grow, types.SimpleNamespace(**{**ASSUMED, **changes}), WORK, GRADIENTS, 3e6, 10.0)


def test_the_estimate_by_hand():
    one = estimate(1, False)
    # 32 images of 2e12, 16 of path length every 4th time, 4 of R1 every 16th: 64 + 16 + 2 = 82e12 FLOP at 5e12 FLOP/s
    assert one['compute_ms'] == pytest.approx(16400) and one['allreduce_ms'] == 0 and one['speedup'] == pytest.approx(1)
    eight = estimate(8, False)
    # 8 + 2 + 2 = 12e12 FLOP each; (80 MB * 5/4 + 160 MB * 17/16) * 2 * 7/8 over 100 GB/s
    assert eight['compute_ms'] == pytest.approx(2400) and eight['allreduce_ms'] == pytest.approx(4.725)
    assert eight['images_per_s'] == pytest.approx(32 / 2.404725) and eight['days'] == pytest.approx(
        1e6 / (32 / 2.404725) / 86400
    )
    assert eight['cores'] == pytest.approx(eight['images_per_s'] / 10)
    assert eight['input_gb_per_s'] == pytest.approx(eight['images_per_s'] * 3e-3)
    assert eight == estimate(8, True)
    with_latency = estimate(8, False, latency=100.0)  # (1 + 1/4 + 1 + 1/16) all-reduces of 2 * log2(8) steps
    assert with_latency['allreduce_ms'] - eight['allreduce_ms'] == pytest.approx(2.3125 * 6 * 0.1)


def test_a_minibatch_that_stays_leaves_accelerators_idle():
    kept, grown = estimate(64, False), estimate(64, True)
    assert (kept['minibatch'], kept['busy'], grown['minibatch'], grown['busy']) == (32, 16, 256, 64)
    assert grown['updates'] == kept['updates'] / 8 and grown['images_per_s'] > 3 * kept['images_per_s']
    assert grown['allreduce_ms'] == pytest.approx(270e6 * 2 * 63 / 64 / 10e9 * 1e3)  # now over the network


def test_what_limits_first():
    def breaks(**changes):
        return list(
            scale.find_limits(types.SimpleNamespace(**{**ASSUMED, **changes}), WORK, GRADIENTS, 3e6, 10.0).values()
        )

    assert breaks() == [16, 32, None, None, None, 256]  # each takes 1.7 images/s, 5 MB/s, of 1 GB/s
    assert breaks(cores=0.1)[4] == 1  # 0.1 cores read 1 image/s
    assert breaks(network=0.05)[3] == 16  # 10 s of sending against 2.4 s of computing, once there are two machines
    assert breaks(minibatch=1024)[:2] == [512, 1024]


@pytest.mark.slow
def test_the_page(tmp_path, capsys):
    scale.main(
        [
            '--resolution',
            '16',
            '--reader-images',
            '80',
            '--accelerators',
            '8,64',
            '--json',
            str(tmp_path / 'rows.json'),
        ],
        'bench',
    )
    rows = json.loads((tmp_path / 'rows.json').read_text())
    assert [(row['name'], row['minibatch']) for row in rows] == [
        ('8 accelerators', 32),
        ('64 accelerators', 32),
        ('64 accelerators', 256),
    ]
    assert all(np.isfinite(value) for row in rows for value in row.values() if not isinstance(value, str))
    out = capsys.readouterr().out
    for text in (
        '16x16/Conv1',
        'G_reg',
        'Gradients: G',
        'Reader, measured',
        'Assumed: --peak=19.5',
        'The minibatch is too small',
    ):
        assert text in out
