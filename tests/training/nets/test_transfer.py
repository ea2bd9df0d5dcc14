"""Networks for another resolution, other labels or other channels take over the layers that fit; Freeze-D."""

import re
import types

import numpy as np
import pytest
import tensorflow as tf

from dnnlib import memory
from dnnlib.cli import UserError
from dnnlib.tflib.variables import count_variables
from tests.attacks.limits import traced_memory
from tests.attacks.torch_networks import snapshot
from tests.golden import GOLDEN
from tests.training.test_misc import small_networks
from training import misc
from training.nets import registry
from training.nets.transfer import describe, make_networks
from training.step.train_step import TrainStep


def training_set(resolution=8, channels=3, labels=0):
    return types.SimpleNamespace(shape=[channels, resolution, resolution], resolution=resolution, label_size=labels)


def marked(networks, path):
    """Give every variable a value of its own, in G, D and Gs another, and save the networks."""
    for offset, net in zip((0.0, 0.25, 0.5), networks, strict=True):
        for number, var in enumerate(net.named_variables().values()):
            var.assign(tf.fill(var.shape, number + offset))
    misc.save_pkl(networks, path)
    return networks


def copied(source, target):
    """Names in `target` whose values are those of `source`, lod aside."""
    sources = source.named_variables()
    return {name for name, var in target.named_variables().items() if name.split('/')[-1] != 'lod' and name in sources
            and var.shape == sources[name].shape and np.array_equal(var, sources[name])}


def lines(out):
    """{'G': ..., 'D': ..., 'Gs': ...}: what was said of each network, as (layers copied, new ones, those left out)."""
    said = re.findall(
        r'^(G|D|Gs): (\d+) layers copied\. New, with random values: (.*)\. Left out: (.*)\.$', out, re.MULTILINE
    )
    return {
        name: (int(count), *(set() if names == 'none' else set(names.split(', ')) for names in rest))
        for name, count, *rest in said
    }


def test_a_pickle_that_fits_is_taken_as_it_is(tmp_path, capsys):
    before = marked(small_networks(), tmp_path / 'net.pkl')
    after = make_networks(training_set(), {}, {}, tmp_path / 'net.pkl')
    for old, new in zip(before, after, strict=True):
        assert copied(old, new) == {name for name in old.vars if name != 'lod'}
    assert 'copied' not in capsys.readouterr().out


@pytest.mark.parametrize('architecture', ['orig', 'skip', 'resnet'])
def test_to_a_higher_resolution(tmp_path, capsys, architecture):
    networks = small_networks(D_kwargs={'architecture': architecture}, architecture=architecture)
    before = marked(networks, tmp_path / 'net.pkl')
    G, D, Gs = make_networks(training_set(16), {}, {}, tmp_path / 'net.pkl')
    assert G.output_shape == Gs.output_shape == [None, 3, 16, 16] and D.input_shape == [None, 3, 16, 16]
    assert (
        G.static_kwargs
        == Gs.static_kwargs
        == {**before[0].static_kwargs, 'resolution': 16, 'label_size': 0, 'num_channels': 3}
    )
    said = lines(capsys.readouterr().out)
    new_in_G = {
        f'G_synthesis/{layer}' for layer in ('noise3', 'noise4', '16x16/Conv0_up', '16x16/Conv1', '16x16/ToRGB')
    }
    new_in_D = {f'16x16/{layer}' for layer in ('FromRGB', 'Conv0', 'Conv1_down')}
    if architecture == 'resnet':
        new_in_G.add('G_synthesis/16x16/Skip')
        new_in_D.add('16x16/Skip')
    # Only 'skip' has RGB at every resolution.
    left_in_G = set() if architecture == 'skip' else {'G_synthesis/8x8/ToRGB'}
    left_in_D = set() if architecture == 'skip' else {'8x8/FromRGB'}
    assert said['G'][1:] == said['Gs'][1:] == (new_in_G, left_in_G) and said['D'][1:] == (new_in_D, left_in_D)
    for old, new, (count, fresh, _) in zip(before, (G, D, Gs), (said['G'], said['D'], said['Gs']), strict=True):
        by_layer = {
            layer: set(variables)
            for layer, variables in new.variables_by_layer().items()
            if layer.split('/')[-1] != 'lod'
        }
        assert copied(old, new) == set().union(*(names for layer, names in by_layer.items() if layer not in fresh))
        assert count == len(by_layer) - len(fresh)
    for name in copied(G, Gs):  # What is new in Gs is what is new in G.
        assert any(name.startswith(layer) for layer in new_in_G)
    assert len(copied(G, Gs)) == sum(len(G.variables_by_layer()[layer]) for layer in new_in_G)


def test_to_a_lower_resolution(tmp_path, capsys):
    marked(small_networks(), tmp_path / 'net.pkl')
    G, D, Gs = make_networks(training_set(4), {}, {}, tmp_path / 'net.pkl')
    said = lines(capsys.readouterr().out)
    assert said['G'][1:] == said['Gs'][1:] == (set(), {f'G_synthesis/{layer}' for layer in (
        'noise1', 'noise2', '8x8/Conv0_up', '8x8/Conv1', '8x8/ToRGB')})
    assert said['D'][1:] == ({'4x4/FromRGB'}, {'8x8/FromRGB', '8x8/Conv0', '8x8/Conv1_down', '8x8/Skip'})
    assert Gs.run(np.zeros([1, 8]), None).shape == (1, 3, 4, 4)


def test_to_other_labels_and_channels(tmp_path, capsys):
    marked(small_networks(), tmp_path / 'net.pkl')
    G, D, _ = make_networks(training_set(8, channels=1, labels=5), {}, {}, tmp_path / 'net.pkl')
    out = capsys.readouterr().out
    assert (
        'is for 8x8 images of 3 channels with 0 labels, the training set has 8x8 images of 1 channels with 5 labels.'
        in out
    )
    said = lines(out)
    rgb = {'G_synthesis/4x4/ToRGB', 'G_synthesis/8x8/ToRGB'}
    assert (
        said['G'][1:]
        == said['Gs'][1:]
        == ({'G_mapping/LabelConcat', 'G_mapping/Dense0', *rgb}, {'G_mapping/Dense0', *rgb})
    )
    assert said['D'][1:] == ({'8x8/FromRGB', 'Output'}, {'8x8/FromRGB', 'Output'})
    assert D.input_shapes == [[None, 1, 8, 8], [None, 5]] and G.input_shapes == [[None, 8], [None, 5]]


@pytest.mark.parametrize('to', [4, 16])
def test_layers_named_by_lod_are_compared_by_resolution(tmp_path, capsys, to):
    old_G, old_D, _ = marked(small_networks('G_style', 'D_basic'), tmp_path / 'net.pkl')
    G, D, _ = make_networks(training_set(to), {}, {}, tmp_path / 'net.pkl')
    levels = {4: {0: 1}, 16: {1: 0, 2: 1}}[to]  # lod in the new networks -> lod in the pickle
    for new, old in levels.items():
        np.testing.assert_array_equal(
            G.get_var(f'G_synthesis/ToRGB_lod{new}/weight'), old_G.get_var(f'G_synthesis/ToRGB_lod{old}/weight')
        )
        np.testing.assert_array_equal(D.get_var(f'FromRGB_lod{new}/weight'), old_D.get_var(f'FromRGB_lod{old}/weight'))
    said = lines(capsys.readouterr().out)
    assert ('G_synthesis/ToRGB_lod0' in said['G'][1]) == (to == 16) and ('G_synthesis/ToRGB_lod0' in said['G'][2]) == (
        to == 4
    )


@pytest.mark.golden
def test_an_official_pickle(capsys):
    path = GOLDEN / 'networks' / 'config-f.pkl'
    old = misc.load_networks(path)
    networks = make_networks(training_set(32, labels=2), {}, {}, path)
    said = lines(capsys.readouterr().out)
    assert said['G'][1] == {'G_mapping/LabelConcat', 'G_mapping/Dense0'} and said['D'][1] == {'32x32/FromRGB', 'Output'}
    for before, after in zip(old, networks, strict=True):
        assert '4x4/Conv/weight' in copied(before, after) or 'G_synthesis/32x32/Conv1/weight' in copied(before, after)


def test_networks_of_a_checkpoint_have_the_settings_of_those_saved():
    G, D, _ = small_networks()
    others = make_networks(training_set(), {}, {}, 'not-needed.pkl', saved=describe(G, D))
    for old, new in zip((G, D, G), others, strict=True):
        assert {name: var.shape for name, var in new.vars.items()} == {
            name: var.shape for name, var in old.vars.items()
        }
        assert type(new) is type(old)


# ---- Freeze-D ----

@pytest.mark.parametrize('architecture, names', [
    ('resnet', '8x8/FromRGB 8x8/Conv0 8x8/Conv1_down 8x8/Skip 4x4/Conv 4x4/Dense0 Output'),
    ('skip', '8x8/FromRGB 8x8/Conv0 8x8/Conv1_down 4x4/FromRGB 4x4/Conv 4x4/Dense0 Output'),
])
def test_layers_are_counted_from_the_image_on(architecture, names):
    G, D, Gs = small_networks(D_kwargs={'architecture': architecture})
    for count in (0, 1, 5, 7):
        trainer = TrainStep(G, D, Gs, 'G_logistic_ns', 'D_logistic', freeze_d=count)
        assert trainer.frozen_layers == names.split()[:count]
        assert not {
            name for name in trainer.trained['D'] for layer in trainer.frozen_layers if name.startswith(f'{layer}/')
        }


def test_frozen_layers_stay_and_the_others_learn():
    G, D, Gs = small_networks()
    trainer = TrainStep(G, D, Gs, 'G_logistic_ns', 'D_logistic_r1', freeze_d=3)
    before = {name: value.numpy() for name, value in D.vars.items()}
    reals, labels = tf.random.normal([4, 3, 8, 8]), tf.zeros([4, 0])
    for phase in ('D_train', 'D_reg'):
        trainer.run(phase, 4, 1, 0.01, reals, labels)
    changed = {name.rsplit('/', 1)[0] for name, value in D.vars.items() if np.any(value.numpy() != before[name])}
    assert changed == {'8x8/Skip', '4x4/Conv', '4x4/Dense0', 'Output'}
    assert set(trainer.state()['D_opt']['m']) == {name for name in before if name.rsplit('/', 1)[0] in changed}


def test_more_layers_than_there_are():
    G, D, Gs = small_networks()
    with pytest.raises(UserError, match='--freeze-d=8: D has 7 layers'):
        TrainStep(G, D, Gs, 'G_logistic_ns', 'D_logistic', freeze_d=8)


@pytest.mark.parametrize('settings', [dict(fmap_max=100_000, fmap_base=10**6), dict(fmap_base=2**40, fmap_max=2**40)])
def test_networks_larger_than_the_memory_are_refused_before_they_are_made(settings, monkeypatch):
    monkeypatch.setattr(memory, 'available_bytes', lambda: 2**34)
    G_args = dict(func_name='training.networks_stylegan2.G_main', **settings)
    D_args = dict(func_name='training.networks_stylegan2.D_stylegan2', **settings)
    with (
        traced_memory() as peak,
        pytest.raises(UserError, match='networks of this size needs about .* of memory') as err,
    ):
        make_networks(training_set(), G_args, D_args)
    assert '--fmap-max' in err.value.remedy and peak() < 2**24


def test_memory_is_counted_without_making_variables():
    for name, cls in registry.NETWORKS.items():
        settings = {
            key: value
            for key, value in dict(resolution=16, label_size=3, fmap_base=64, mapping_fmaps=5).items()
            if key in cls.all_settings({})
        }
        with count_variables(create=False) as count:
            registry.create_network('N', name, **settings)
        variables = registry.create_network('N', name, **settings).named_variables()
        assert count.number == len(variables)
        assert count.num_bytes == sum(4 * var.shape.num_elements() for var in variables.values())


def test_networks_from_pytorch_can_be_resumed_and_adapted(tmp_path, capsys):
    (tmp_path / 'ada.pkl').write_bytes(snapshot())
    G, D, Gs = make_networks(training_set(4), {}, {}, tmp_path / 'ada.pkl')
    out = capsys.readouterr().out
    assert "They were trained with PyTorch, on 'cats.zip', with augmentation at p = 0.250." in out
    assert Gs.origin['augment_pipe']['p'] == 0.25 and 'copied' not in out
    for net, other in zip((G, D, Gs), make_networks(training_set(8, labels=3), {}, {}, tmp_path / 'ada.pkl')):
        assert 'mapping' not in net.name and len(copied(net, other)) > 5
    new = lines(capsys.readouterr().out)
    assert 'G_mapping/LabelEmbed' in new['Gs'][1] and {'LabelEmbed', 'Mapping7', 'Output'} <= new['D'][1]
