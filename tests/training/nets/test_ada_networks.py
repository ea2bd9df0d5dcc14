"""Networks of StyleGAN2-ADA, read from pickles of PyTorch and TensorFlow, against the original's numbers."""

import re
import time

import numpy as np
import pytest
import tensorflow as tf

from dnnlib.cli import UserError
from dnnlib.pickles import legacy_pickle
from dnnlib.pickles.network_state import NetworkReader, NetworkState
from dnnlib.pickles.reader import BoundedStream
from tests.golden import GOLDEN_ADA, GOLDEN_FAMILY, assert_close, load_json, load_npz
from tests.graphs import eagerly
from tests.torch_snapshots import snapshot_of
from tests.training.test_networks import scale_of_scores
from training import misc
from training.nets.registry import create_network
from training.networks_stylegan2 import embed_labels, truncate
from training.step.train_step import TrainStep

VARIANTS = load_json('networks/variants.json', GOLDEN_ADA)
VERSION_5 = load_json('ada/networks/variants.json', GOLDEN_FAMILY)

# Of the golden pickles of version 5: the kind of network that is refused.
REFUSED = 'spectralnorm'

SMALL = dict(resolution=8, fmap_base=32, fmap_max=6, label_size=3)


def output(key, nets, data):
    """What our networks compute in the place of an array of the npz."""
    which, call = key.split('/')
    z, labels = data['z'], data['c']
    if which == 'D':
        D = nets[1]
        if call == 'cmap':
            return embed_labels(D, tf.constant(labels)).numpy()
        batch = int(call.removeprefix('scores_b'))
        return D.run(data['images_u8'][:batch] / np.float32(127.5) - 1, labels[:batch])
    net = {'G': nets[0], 'G_ema': nets[2]}[which]
    mapping, synthesis = net.components.mapping, net.components.synthesis
    z2, labels2, dlatent_avg = z[:2], labels[:2], net.get_var('dlatent_avg')
    cut = dict(truncation_psi=0.7, truncation_cutoff=4)
    match call:
        case 'w':
            dlatents = mapping.run(z, labels)
            assert (dlatents == dlatents[:, :1]).all()
            return dlatents[:, 0]
        case 'ws':
            return mapping.run(z2, labels2)
        case 'ws_psi0.7':
            return truncate(tf.constant(mapping.run(z2, labels2)), dlatent_avg, 0.7, None).numpy()
        case 'ws_psi0.7_cutoff4':
            return truncate(tf.constant(mapping.run(z2, labels2)), dlatent_avg, 0.7, 4).numpy()
        case 'img_const':
            return net.run(z2, labels2, randomize_noise=False)
        case 'img_none':
            with misc.noise_of(net, [np.zeros(var.shape) for var in misc.noise_variables(net)]):
                return net.run(z2, labels2, randomize_noise=False)
        case 'img_const_psi0.7_cutoff4':
            return net.run(z2, labels2, randomize_noise=False, **cut)
        case 'synthesis_const':
            return synthesis.run(data['ws_in'], randomize_noise=False)
    raise AssertionError(f'unknown array {key}')


@pytest.mark.golden('STYLEGAN2_GOLDEN_ADA')
@pytest.mark.parametrize('name', VARIANTS)
def test_networks_of_pytorch(name):
    nets = misc.load_networks(GOLDEN_ADA / 'networks' / f'{name}.pkl')
    data = load_npz(f'networks/{name}.npz', GOLDEN_ADA)
    outputs = [key for key in data if '/' in key]
    assert len(outputs) >= 12
    with eagerly():
        for key in outputs:
            assert_close(output(key, nets, data), data[key], 3e-5 if 'scores' in key else 1e-5, f'{name} {key}')


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
@pytest.mark.parametrize('name', [name for name in VERSION_5 if name != REFUSED])
def test_networks_of_version_5(name):
    G, D, Gs = misc.load_networks(GOLDEN_FAMILY / 'ada' / 'networks' / f'{name}.pkl')
    data = load_npz(f'ada/networks/{name}.npz', GOLDEN_FAMILY)
    z, labels, images = data['z'], data['labels'], data['images']
    labels2 = labels[:len(z)]
    run = dict(randomize_noise=False)
    calls = {
        'dlatents':        lambda: Gs.components.mapping.run(z, labels2),
        'psi1':            lambda: Gs.run(z, labels2, truncation_psi=1, **run),
        'psi0.7':          lambda: Gs.run(z, labels2, truncation_psi=0.7, **run),
        'psi0.5_cutoff3':  lambda: Gs.run(z, labels2, truncation_psi=0.5, truncation_cutoff=3, **run),
        'psi0.5_cutoff0':  lambda: Gs.run(z, labels2, truncation_psi=0.5, truncation_cutoff=0, **run),
        'default_psi':     lambda: Gs.run(z, labels2, **run),
        'is_validation':   lambda: Gs.run(z, labels2, is_validation=True, **run),
        'synthesis':       lambda: Gs.components.synthesis.run(data['Gs/dlatents_in'], **run),
    }
    compared = 0
    with eagerly():
        for key, expected in data.items():
            which, _, call = key.partition('/')
            if which == 'Gs' and call in calls:
                assert_close(calls[call](), expected, 1e-5, f'{name} {key}')
            elif which == 'D' and call.startswith('scores_b'):
                batch = int(call.removeprefix('scores_b'))
                examples = images[:batch], labels[:batch]
                scale = None if D.kw.label_size else scale_of_scores(D, *examples)
                assert_close(D.run(*examples), expected, 2e-5, f'{name} {key}', scale)
            elif which == 'generate_py':
                seed, class_idx = map(int, re.fullmatch(r'seed(\d+)_trunc0.5(?:_class(\d+))?', call).groups('-1'))
                label = None if class_idx < 0 else np.eye(labels.shape[1])[[class_idx]]
                image = misc.image_of_seed(Gs, seed, label, truncation_psi=0.5)[0].transpose(1, 2, 0)
                pixels = np.rint(image * 127.5 + 127.5).clip(0, 255)
                assert np.abs(pixels - expected).max() <= 1, key
            elif key == 'fp16/Gs/psi1':
                images16 = Gs.run(z, labels2, truncation_psi=1, dtype='float16', **run)
                assert_close(images16, expected, 2e-2, f'{name} {key}')
            elif key == 'fp16/D/scores_b4':
                scores16 = D.run(images[:4], labels[:4], dtype='float16')
                assert_close(scores16, expected, 2e-2, f'{name} {key}')
            else:
                continue
            compared += 1
    assert compared >= 4


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
def test_spectral_normalization_is_refused():
    with pytest.raises(UserError, match='spectral normalization is not supported'):
        misc.load_networks(GOLDEN_FAMILY / 'ada' / 'networks' / f'{REFUSED}.pkl')


def ada_networks(G_args=None, D_args=None, **args):
    """(G, D, Gs) with the settings that networks of StyleGAN2-ADA have, and these."""
    args = dict(label_embed=True, conv_clamp=256, **args)
    latents = dict(latent_size=5, dlatent_size=6, label_fmaps=6, mapping_fmaps=6, mapping_layers=2)
    G = create_network('G', 'G_main', truncation_psi=1.0, **latents, **args, **(G_args or {}))
    D = create_network('D', 'D_stylegan2', **args, **(D_args or {}))
    return G, D, G.clone('Gs')


@pytest.mark.parametrize('args', [
    dict(SMALL, D_args=dict(mapping_layers=0, mapping_fmaps=4, label_fmaps=4)),
    dict(SMALL, D_args=dict(mapping_layers=3, mapping_fmaps=5, label_fmaps=4, mbstd_group_size=None)),
    dict(resolution=16, fmap_base=16, fmap_max=9, label_size=0, G_args=dict(architecture='resnet'),
         D_args=dict(architecture='skip', dense_fmaps=8)),
    dict(resolution=4, fmap_base=8, fmap_max=4, label_size=2, G_args=dict(architecture='orig', use_noise=False),
         D_args=dict(mapping_layers=1, mapping_fmaps=4, mbstd_num_features=2))])
def test_networks_written_as_pytorch_does_are_read(args, tmp_path):
    """Networks of kinds that the golden set does not have: without layers after the embedding in D, of 4x4 pixels."""
    nets = ada_networks(**args)
    (tmp_path / 'ada.pkl').write_bytes(snapshot_of(*nets))
    images = np.random.RandomState(0).randn(2, 3, nets[1].kw.resolution, nets[1].kw.resolution)
    labels = np.eye(nets[1].kw.label_size)[:2] if nets[1].kw.label_size else None
    others = misc.load_networks(tmp_path / 'ada.pkl')
    for a, b in zip(nets, others, strict=True):
        assert {*a.vars} == {*b.vars}
        for key, var in a.vars.items():
            np.testing.assert_allclose(b.get_var(key), var.numpy(), atol=1e-6 if 'mod_bias' in key else 0)
    with eagerly():
        np.testing.assert_array_equal(nets[1].run(images, labels), others[1].run(images, labels))


def test_opening_takes_about_as_long_as_a_pickle_of_tensorflow(tmp_path, monkeypatch):
    """Of the same networks, without a checksum, as the files of others are. The weights have to be transposed."""
    monkeypatch.setattr(NetworkState, 'digest', lambda self, max_bytes=0: '')
    nets = ada_networks(resolution=64, fmap_base=4096, fmap_max=96, label_size=0)
    misc.save_pkl(nets, tmp_path / 'tf.pkl')
    (tmp_path / 'torch.pkl').write_bytes(snapshot_of(*nets))
    seconds = {'tf.pkl': [], 'torch.pkl': []}
    for _ in range(8):
        for name, measured in seconds.items():
            start = time.process_time()
            misc.load_networks(tmp_path / name)
            measured.append(time.process_time() - start)
    assert min(seconds['torch.pkl']) < 1.5 * min(seconds['tf.pkl'])


# ---- Writing ----

@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
@pytest.mark.parametrize('name', ['auto', 'cifar', 'cond-cmap', 'clamp', 'Gresnet-Dskip', 'Gorig-nonoise'])
def test_version_5_is_written_as_it_was_read(name, tmp_path):
    path = GOLDEN_FAMILY / 'ada' / 'networks' / f'{name}.pkl'
    misc.save_pkl(misc.load_networks(path), tmp_path / 'again.pkl')
    originals, copies = legacy_pickle.load(path), legacy_pickle.load(tmp_path / 'again.pkl')
    for original, copy in zip(originals, copies, strict=True):
        for a, b in zip(parts(original), parts(copy), strict=True):
            assert (a.version, a.name, a.build_func_name) == (b.version, b.name, b.build_func_name)
            assert a.static_kwargs.items() <= b.static_kwargs.items()
            more = b.static_kwargs.keys() - a.static_kwargs.keys()
            assert {key: b.static_kwargs[key] for key in more} in ({}, {'mapping_fmaps': None})
            assert [key for key, _ in a.variables] == [key for key, _ in b.variables]
            for (key, x), (_, y) in zip(a.variables, b.variables, strict=True):
                np.testing.assert_array_equal(x, y, key)


def parts(state):
    """A network and its components, as `NetworkState`."""
    return [state, *state.components.values()]


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
def test_version_5_has_the_keys_of_the_original(tmp_path):
    """Of every network and component, in order, with the names and shapes of inputs and outputs."""
    path = GOLDEN_FAMILY / 'ada' / 'networks' / 'cond-cmap.pkl'
    misc.save_pkl(misc.load_networks(path), tmp_path / 'again.pkl')
    original, copy = states_of(path), states_of(tmp_path / 'again.pkl')
    assert len(original) == len(copy) == 7
    for a, b in zip(original, copy, strict=True):
        assert [*a, 'sha256'] == list(b)
        for key in ('input_shapes', 'output_shapes', 'input_names', 'output_names'):
            assert a[key] == b[key]


def states_of(path):
    """The states of all networks of a pickle, as dicts, in the order in which they are complete."""
    states = []

    class Recorder(NetworkReader):
        def set_state(self, target, state):
            if isinstance(state, dict) and 'version' in state:
                states.append(state)
            super().set_state(target, state)

    with open(path, 'rb') as file:
        Recorder(BoundedStream(file.read())).load()
    return states


@pytest.mark.golden('STYLEGAN2_GOLDEN_ADA')
@pytest.mark.parametrize('name, version', [
    ('auto', 5), ('conditional', 5), ('sg3-conditional', 5), ('clamp', 5), ('resample-none', 5), ('cifar', 5),
    # An activation of its own for the last layers; another width of the embedding.
    ('options2', 4), ('options', 4)])
def test_networks_of_pytorch_are_written_and_read_again(name, version, tmp_path):
    """As a pickle, .npz and .safetensors: with equal settings and outputs, to the last bit."""
    nets = misc.load_networks(GOLDEN_ADA / 'networks' / f'{name}.pkl')
    data = load_npz(f'networks/{name}.npz', GOLDEN_ADA)
    z, labels, images = data['z'][:1], data['c'][:1], data['images_u8'][:1] / np.float32(127.5) - 1
    misc.save_pkl(nets, tmp_path / 'a.pkl')
    assert {state.version for state in legacy_pickle.load(tmp_path / 'a.pkl')} == {version}
    misc.save_weights(nets, tmp_path / 'a.npz')
    misc.save_weights(misc.load_networks(tmp_path / 'a.npz'), tmp_path / 'a.safetensors')
    with eagerly():
        for path in (tmp_path / 'a.pkl', tmp_path / 'a.safetensors'):
            others = misc.load_networks(path)
            for a, b in zip(nets, others, strict=True):
                assert (a.name, type(a)) == (b.name, type(b)) and vars(a.kw).keys() == vars(b.kw).keys()
                assert list(a.vars) == list(b.vars)
                for key, var in a.vars.items():
                    np.testing.assert_array_equal(var.numpy(), b.get_var(key), key)
            np.testing.assert_array_equal(nets[2].run(z, labels, randomize_noise=False),
                                          others[2].run(z, labels, randomize_noise=False))
            np.testing.assert_array_equal(nets[1].run(images, labels), others[1].run(images, labels))
            assert (others[0].components.synthesis.kw.num_fp16_res, others[1].kw.num_fp16_res) == (4, 4)
            assert others[1].kw.conv_clamp == nets[1].kw.conv_clamp is not None


def test_networks_of_stylegan2_as_version_5(tmp_path):
    """Without labels there is no difference; with labels there is."""
    G = create_network('G', 'G_main', latent_size=5, dlatent_size=6, mapping_layers=2, **{**SMALL, 'label_size': 0})
    misc.save_pkl(G, tmp_path / 'a.pkl')
    assert legacy_pickle.load(tmp_path / 'a.pkl').version == 4
    misc.save_pkl(G, tmp_path / 'a.pkl', version=5)
    state = legacy_pickle.load(tmp_path / 'a.pkl')
    assert (state.version, state.static_kwargs['mapping_fmaps'], state.static_kwargs['num_fp16_res']) == (5, 512, 0)
    z = np.random.RandomState(0).randn(1, 5)
    with eagerly():
        images = [net.run(z, randomize_noise=False) for net in (G, misc.load_pkl(tmp_path / 'a.pkl'))]
    np.testing.assert_array_equal(*images)
    G = create_network('G', 'G_main', latent_size=5, dlatent_size=6, mapping_layers=1, **SMALL)
    with pytest.raises(UserError, match='version 5 of the format has no networks with the settings of G'):
        misc.save_pkl(G, tmp_path / 'b.pkl', version=5)


# ---- Without golden numbers ----

def test_variables_have_the_names_of_stylegan2_ada():
    G = create_network('G', 'G_main', latent_size=5, dlatent_size=6, mapping_layers=1, label_embed=True,
                       label_fmaps=4, use_noise=False, fmap_const=7, **SMALL)
    shapes = {name: tuple(var.shape) for name, var in G.vars.items()}
    assert shapes['G_mapping/LabelEmbed/weight'] == (3, 4) and shapes['G_mapping/LabelEmbed/bias'] == (4,)
    assert shapes['G_mapping/Dense0/weight'] == (9, 6) and 'G_mapping/LabelConcat/weight' not in shapes
    assert shapes['G_synthesis/4x4/Const/const'] == (1, 7, 4, 4) and not any('noise' in name for name in shapes)
    D = create_network('D', 'D_stylegan2', label_embed=True, mapping_layers=2, mapping_fmaps=5, cmap_dim=4,
                       dense_fmaps=3, **SMALL)
    shapes = {name: tuple(var.shape) for name, var in D.vars.items()}
    assert list(shapes)[:6] == [f'{layer}/{var}' for layer in ('LabelEmbed', 'Mapping0', 'Mapping1')
                                for var in ('weight', 'bias')]
    assert shapes['Mapping1/weight'] == (5, 4) and shapes['Output/weight'] == (3, 4)


def test_conv_clamp_limits_what_leaves_the_convolutions(impl):
    G = create_network('G', 'G_main', latent_size=5, dlatent_size=6, mapping_layers=1, conv_clamp=1e-3, **SMALL)
    z = np.random.RandomState(0).randn(2, 5)
    images = G.run(z, randomize_noise=False)
    # Two levels of RGB images, each at most 1e-3; upsampling overshoots by less than its gain of 4.
    assert 0 < np.abs(images).max() <= 5e-3
    assert np.abs(G.run(z, randomize_noise=False, dtype='bfloat16')).max() <= 5.1e-3


def test_growing_networks_take_the_settings_too():
    G = create_network('G', 'G_main', synthesis_func='G_synthesis_stylegan_revised', latent_size=5, dlatent_size=6,
                       mapping_layers=1, conv_clamp=1e-3, label_embed=True, **SMALL)
    D = create_network('D', 'D_stylegan', conv_clamp=0.5, label_embed=True, mbstd_group_size=None, **SMALL)
    labels = np.eye(3)[:2]
    with eagerly():
        images = G.run(np.random.RandomState(0).randn(2, 5), labels, randomize_noise=False)
        scores = D.run(images, labels)
        others = D.run(images, labels[::-1])
    assert 0 < np.abs(images).max() <= 1e-3  # There is no sum of images.
    assert scores.shape == (2, 1) and (scores != others).all()


def test_freeze_d_counts_no_layers_of_labels():
    """It counts the layers that see the image, from the image on."""
    G = create_network('G', 'G_main', latent_size=5, dlatent_size=6, mapping_layers=1, **SMALL)
    D = create_network('D', 'D_stylegan2', label_embed=True, mapping_layers=2, **SMALL)
    step = TrainStep(G, D, G.clone('Gs'), 'G_logistic_ns', 'D_logistic', freeze_d=3, label_table=np.eye(3))
    assert step.frozen_layers == ['8x8/FromRGB', '8x8/Conv0', '8x8/Conv1_down']
    assert 'LabelEmbed/weight' in step.trained['D'] and 'Mapping1/bias' in step.trained['D']
