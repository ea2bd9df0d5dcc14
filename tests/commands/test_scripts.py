"""Scripts that others have written for the original run unchanged: its ways of calling, in small scripts."""

import importlib
import io
import json
import pathlib
import pickle
import pickletools
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import dataset_tool
import dnnlib
import run_generator
import run_projector
from dnnlib import tflib
from dnnlib.cli import UserError
from dnnlib.pickles import legacy_pickle
from metrics.metric_base import MetricGroup
from tests.commands.test_projector import make_generator, make_projector
from tests.golden import GOLDEN, GOLDEN_ADA
from tests.stub_networks import stub_networks  # noqa: F401  A fixture.
from tests.training.test_misc import small_networks
from training import dataset, misc

# ---- The scripts: each has the calls of a kind of script that is common ----

SUBMIT = '''
import argparse
import dnnlib

def submit(function, result_dir, **kwargs):
    sc = dnnlib.SubmitConfig()
    sc.num_gpus = 1
    sc.submit_target = dnnlib.SubmitTarget.LOCAL
    sc.local.do_not_copy_source_files = True
    sc.run_dir_root = result_dir
    sc.run_desc = function.split('.')[-1].replace('_', '-')
    return dnnlib.submit_run(sc, function, **kwargs)
'''

GENERATOR = SUBMIT + '''
import numpy as np
import PIL.Image
import dnnlib.tflib as tflib
import pretrained_networks

def pictures(network_pkl, seeds, truncation_psi):
    _G, _D, Gs = pretrained_networks.load_networks(network_pkl)
    noise_vars = [var for name, var in Gs.components.synthesis.vars.items() if name.startswith('noise')]
    options = dnnlib.EasyDict(randomize_noise=False)
    options.output_transform = dict(func=tflib.convert_images_to_uint8, nchw_to_nhwc=True)
    if truncation_psi is not None:
        options.truncation_psi = truncation_psi
    for seed in seeds:
        rnd = np.random.RandomState(seed)
        z = rnd.randn(1, *Gs.input_shape[1:])
        tflib.set_vars({var: rnd.randn(*var.shape.as_list()) for var in noise_vars})
        images = Gs.run(z, None, **options)
        PIL.Image.fromarray(images[0], 'RGB').save(dnnlib.make_run_dir_path('seed%04d.png' % seed))

def mixing(network_pkl, row_seeds, col_seeds, col_styles):
    tflib.init_tf()
    _G, _D, Gs = pretrained_networks.load_networks(network_pkl)
    w_avg = Gs.get_var('dlatent_avg')
    seeds = sorted(set(row_seeds + col_seeds))
    z = np.stack([np.random.RandomState(seed).randn(*Gs.input_shape[1:]) for seed in seeds])
    w = Gs.components.mapping.run(z, None)
    w = dict(zip(seeds, w_avg + (w - w_avg) * 0.7))
    fmt = dict(func=tflib.convert_images_to_uint8, nchw_to_nhwc=True)
    canvas = PIL.Image.new('RGB', (8 * len(col_seeds), 8 * len(row_seeds)))
    for y, row in enumerate(row_seeds):
        for x, col in enumerate(col_seeds):
            mixed = w[row].copy()
            mixed[col_styles] = w[col][col_styles]
            image = Gs.components.synthesis.run(mixed[np.newaxis], randomize_noise=False, output_transform=fmt,
                                                minibatch_size=4, truncation_psi=0.7, structure='auto')[0]
            canvas.paste(PIL.Image.fromarray(image, 'RGB'), (8 * x, 8 * y))
    canvas.save(dnnlib.make_run_dir_path('grid.png'))
    print('runs in', dnnlib.submit_config.run_dir, dnnlib.submit_config.num_gpus)

def main(result_dir, network_pkl):
    submit(__name__ + '.pictures', result_dir, network_pkl=network_pkl, seeds=[3, 5], truncation_psi=0.5)
    submit(__name__ + '.mixing', result_dir, network_pkl=network_pkl, row_seeds=[1, 2], col_seeds=[3],
           col_styles=[0, 1])
'''

FILM = '''
import pickle
import numpy as np
import dnnlib
import dnnlib.tflib as tflib

def main(network_pkl):
    tflib.init_tf()
    with dnnlib.util.open_url(network_pkl, cache_dir='cache') as f:
        _G, _D, Gs = pickle.load(f)
    with open(network_pkl, 'rb') as stream:
        _G, _D, again = pickle.load(stream, encoding='latin1')
    fmt = dict(func=tflib.convert_images_to_uint8, nchw_to_nhwc=True)
    keys = Gs.components.mapping.run(np.random.RandomState(1).randn(2, Gs.input_shape[1]), None)
    frames = []
    for t in np.linspace(0, 1, 3):
        w = tflib.lerp(keys[0], keys[1], t)[np.newaxis]
        frames.append(Gs.components.synthesis.run(w, truncation_psi=0.7, randomize_noise=False,
                                                  output_transform=fmt)[0])
    return np.stack(frames), Gs, again
'''

PROJECTOR = SUBMIT + '''
import numpy as np
import dnnlib.tflib as tflib
import pretrained_networks
import projector
import run_projector

def project(network_pkl, seeds, num_snapshots):
    _G, _D, Gs = pretrained_networks.load_networks(network_pkl)
    proj = projector.Projector('pixel')
    proj.num_steps = 4
    proj.dlatent_avg_samples = 50
    proj.set_network(Gs)
    for seed in seeds:
        z = np.random.RandomState(seed).randn(1, *Gs.input_shape[1:])
        images = Gs.run(z, None, randomize_noise=False)
        run_projector.project_image(proj, targets=images, num_snapshots=num_snapshots,
                                    png_prefix=dnnlib.make_run_dir_path('seed%04d-' % seed))

def main(result_dir, network_pkl):
    return submit(__name__ + '.project', result_dir, network_pkl=network_pkl, seeds=[7], num_snapshots=2).run_dir
'''

TRAINING = '''
import copy
import dnnlib
from dnnlib import EasyDict

def main(result_dir, data_dir):
    train = EasyDict(run_func_name='training.training_loop.training_loop')
    G = EasyDict(func_name='training.networks_stylegan2.G_main', fmap_base=32, fmap_max=4, latent_size=8,
                 dlatent_size=8, mapping_fmaps=8, mapping_layers=1)
    D = EasyDict(func_name='training.networks_stylegan2.D_stylegan2', fmap_base=32, fmap_max=4)
    G_opt = EasyDict(beta1=0.0, beta2=0.99, epsilon=1e-8)
    D_opt = EasyDict(beta1=0.0, beta2=0.99, epsilon=1e-8)
    G_loss = EasyDict(func_name='training.loss.G_logistic_ns')
    D_loss = EasyDict(func_name='training.loss.D_logistic')
    sched = EasyDict(G_lrate_base=0.002, D_lrate_base=0.002, minibatch_size_base=4, minibatch_gpu_base=4)
    grid = EasyDict(size='1080p', layout='random')
    sc = dnnlib.SubmitConfig()
    tf_config = {'rnd.np_random_seed': 1000}
    train.data_dir = data_dir
    train.total_kimg = 0.004
    train.image_snapshot_ticks = train.network_snapshot_ticks = 1
    sc.num_gpus = 1
    kwargs = EasyDict(train)
    kwargs.update(G_args=G, D_args=D, G_opt_args=G_opt, D_opt_args=D_opt, G_loss_args=G_loss, D_loss_args=D_loss)
    kwargs.update(dataset_args=EasyDict(tfrecord_dir='tiny'), sched_args=sched, grid_args=grid, metric_arg_list=[],
                  tf_config=tf_config)
    kwargs.submit_config = copy.deepcopy(sc)
    kwargs.submit_config.run_dir_root = result_dir
    kwargs.submit_config.run_desc = 'stylegan2-tiny'
    return dnnlib.submit_run(**kwargs)
'''

CONVERTER = '''
import copy
import pickle
from training import misc

def main(source, target):
    G, D, Gs = misc.load_pkl(source)
    blend = copy.deepcopy(Gs)
    for name in blend.trainables:
        if name.startswith('G_synthesis/8x8'):
            blend.set_var(name, 2 * G.find_var(name).value().numpy())
    with open(target, 'wb') as f:
        pickle.dump((G, D, blend), f, protocol=pickle.HIGHEST_PROTOCOL)
    with open(target + '-alone', 'wb') as f:
        pickle.dump(blend, f)
'''


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Function: source code -> its module, which is in a folder of its own, where the working folder is too."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    names = []

    def load(source):
        names.append(f'others_script_{len(names)}')
        (tmp_path / f'{names[-1]}.py').write_text(source)
        importlib.invalidate_caches()
        return importlib.import_module(names[-1])
    yield load
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    tf.keras.utils.set_random_seed(1)
    path = tmp_path_factory.mktemp('network') / 'tiny.pkl'
    misc.save_pkl(small_networks(), path)
    return str(path)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_a_generator_of_others_makes_the_pictures_of_the_command(script, network, tmp_path, capsys):
    script(GENERATOR).main('out', network)
    folder = tmp_path / 'out' / '00000-pictures'
    run_generator.main(['generate-images', f'--network={network}', '--seeds=3,5', '--result-dir=ours'])
    for name in ('seed0003.png', 'seed0005.png'):
        np.testing.assert_array_equal(pixels(folder / name), pixels(tmp_path / 'ours/00000-generate-images' / name))
    config = json.loads((folder / 'submit_config.json').read_text())
    assert config['run_func_kwargs'] == {'network_pkl': network, 'seeds': [3, 5], 'truncation_psi': 0.5}
    assert (folder / '_finished.txt').exists()
    assert 'Running others_script_0.pictures()' in (folder / 'log.txt').read_text()
    assert pixels(tmp_path / 'out/00001-mixing/grid.png').shape == (16, 8, 3)
    assert 'runs in out/00001-mixing 1' in capsys.readouterr().out
    assert dnnlib.submit_config is None and dnnlib.make_run_dir_path('a.png') == str(tmp_path / 'a.png')


def test_a_film_in_w_of_others(script, network, capsys):
    frames, Gs, again = script(FILM).main(network)
    assert frames.shape == (3, 8, 8, 3) and len(np.unique(frames)) > 10
    expected = misc.load_networks(network)[2]
    assert type(Gs) is Gs.__class__ is type(expected) and isinstance(Gs, tflib.Network)
    for name in expected.vars:
        np.testing.assert_array_equal(Gs.get_var(name), expected.get_var(name))
        np.testing.assert_array_equal(again.get_var(name), expected.get_var(name))
    with pytest.raises(ValueError, match='trunaction_psi'):
        Gs.components.synthesis.run(np.zeros([1, 4, 8]), trunaction_psi=0.7)
    with pytest.raises(ValueError, match='custom_inputs does not exist here. There are no graphs'):
        Gs.components.synthesis.run(np.zeros([1, 4, 8]), custom_inputs=[])
    Gs.components.synthesis.run(np.zeros([1, 4, 8]), truncation_psi=0.7)
    assert capsys.readouterr().out.count('has no use for truncation_psi') <= 1  # Once for a process.


def test_a_projector_of_others(script, network):
    folder = pathlib.Path(script(PROJECTOR).main('out', network))
    names = sorted(path.name for path in folder.glob('*.png'))
    assert names == ['seed0007-step0002.png', 'seed0007-step0004.png', 'seed0007-target.png']


def test_the_projector_functions_write_into_the_working_folder(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = dict(distance='pixel', num_steps=2)
    run_projector.project_generated_images(network, seeds=[1], num_snapshots=1, truncation_psi=0.5, **settings)
    names = {path.name for path in tmp_path.iterdir()}
    assert {'dlatents.npz', 'seed0001-target.png', 'seed0001-step0002.png'} <= names
    with tfrecords(tmp_path / 'datasets' / 'tiny', 2):
        pass
    run_projector.project_real_images(network, 'tiny', 'datasets', num_images=1, num_snapshots=1, **settings)
    assert (tmp_path / 'image0000-step0002.png').exists()


def test_project_image_numbers_several_targets(tmp_path):
    Gs = make_generator()
    targets = np.zeros([2, 3, 8, 8], np.float32)
    run_projector.project_image(make_projector(Gs, 2, num_steps=2), targets, str(tmp_path / 'x-'), 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'x-0-step0002.png', 'x-0-target.png', 'x-1-step0002.png', 'x-1-target.png']


def tfrecords(folder, num_images, labels=False):
    """A TFRecordExporter that has images of 8x8, and labels if they are wanted."""
    rnd = np.random.RandomState(0)
    tfr = dataset_tool.TFRecordExporter(str(folder), num_images, progress_interval=2)
    for _index in tfr.choose_shuffled_order():
        tfr.add_image(rnd.randint(256, size=[3, 8, 8], dtype=np.uint8))
    if labels:
        tfr.add_labels(np.eye(2)[np.arange(num_images) % 2])
    return tfr


def test_training_of_others_writes_into_the_folder_of_the_run(script, tmp_path):
    tfrecords(tmp_path / 'datasets' / 'tiny', 8).close()
    sc = script(TRAINING).main('out', 'datasets')
    folder = tmp_path / 'out' / '00000-stylegan2-tiny'
    assert (sc.run_dir, sc.run_id, sc.run_name) == ('out/00000-stylegan2-tiny', 0, '00000-stylegan2-tiny')
    assert {'network-final.pkl', 'reals.png', 'fakes_init.png', 'log.txt', '_finished.txt'} <= {
        path.name for path in folder.iterdir()}
    assert misc.locate_run_dir(0, 'out') == misc.locate_run_dir('0', 'out') == sc.run_dir
    final = f'{sc.run_dir}/network-final.pkl'
    assert misc.locate_network_pkl(0, result_dir='out') == misc.locate_network_pkl(0, 'final', 'out') == final
    assert misc.locate_network_pkl(final) == final == misc.locate_latest_pkl(sc.run_dir)
    snapshot, last = misc.list_network_pkls(sc.run_dir)
    assert last == final and [snapshot] == misc.list_network_pkls(0, False, 'out')
    name = pathlib.Path(snapshot).name
    assert name.startswith('network-snapshot-') and misc.locate_network_pkl(0, name, 'out') == snapshot
    for call in (lambda: misc.locate_run_dir(7, 'out'), lambda: misc.locate_network_pkl(0, 12, 'out')):
        with pytest.raises(UserError, match='no '):
            call()


def test_a_function_that_fails_or_another_target_is_no_run(tmp_path, script):
    others = script('def fail(submit_config):\n    raise ValueError(submit_config.run_name)\n')
    sc = dnnlib.SubmitConfig()
    sc.run_dir_root, sc.run_desc = str(tmp_path / 'out'), 'fails'
    with pytest.raises(ValueError, match='00000-fails'):
        dnnlib.submit_run(sc, f'{others.__name__}.fail')
    assert dnnlib.submit_config is None and 'ValueError' in (tmp_path / 'out/00000-fails/log.txt').read_text()
    sc.submit_target = 'SLURM'
    with pytest.raises(UserError, match=r'expected SubmitTarget.LOCAL'):
        dnnlib.submit_run(sc, f'{others.__name__}.fail')


# ---- Pickles ----

def test_a_converter_of_others_that_edits_weights(script, network, tmp_path):
    script(CONVERTER).main(network, str(tmp_path / 'blend.pkl'))
    G, D, Gs = misc.load_networks(network)
    for path in (tmp_path / 'blend.pkl', tmp_path / 'blend.pkl-alone'):
        loaded = misc.load_pkl(path)  # The restricted reader takes it, checksums included.
        blend = loaded if path.name.endswith('alone') else loaded[2]
        for name in Gs.vars:
            factor = 2 if name.startswith('G_synthesis/8x8') and name in Gs.trainables else 1
            source = G if factor == 2 else Gs
            np.testing.assert_array_equal(blend.get_var(name), factor * source.get_var(name))


def test_a_pickled_network_has_the_layout_of_the_original(network):
    Gs = misc.load_networks(network)[2]
    for data in (pickle.dumps(Gs), pickle._dumps(Gs), pickle.dumps(Gs, 2)):  # In C and in Python.
        state, = [value for value in vars_of(data) if value['name'] == 'Gs']
        assert list(state)[:7] == ['version', 'name', 'static_kwargs', 'components', 'build_module_src',
                                   'build_func_name', 'variables']
        assert list(state['components']) == ['synthesis', 'mapping'] and state['version'] == 4
    assert Gs.__class__ is type(Gs)
    with pytest.raises(TypeError, match='protocol 2'):
        pickle.dumps(Gs, 0)
    part = pickle.loads(pickle.dumps(Gs.components.mapping))
    z = np.random.RandomState(0).randn(2, 8)
    np.testing.assert_array_equal(part.run(z, None), Gs.components.mapping.run(z, None))


class OriginalsNetwork:
    """What the original does with the state of a pickled network: execute the source, and take the function."""

    states: list = []

    def __setstate__(self, state):
        module = types.ModuleType('source_of_a_network')
        exec(state['build_module_src'], module.__dict__)
        self.func = getattr(module, state['build_func_name'])
        self.states.append(state)


class OriginalsUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        return (OriginalsNetwork if (module, name) == ('dnnlib.tflib.network', 'Network')
                else super().find_class(module, name))


def vars_of(data):
    """The states of all networks in a pickle, as the original sees them."""
    OriginalsNetwork.states = []
    OriginalsUnpickler(io.BytesIO(data)).load()
    return OriginalsNetwork.states


@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # numpy 2 would rather be called numpy._core.
@pytest.mark.parametrize('G_func, D_func, module', [
    ('G_main', 'D_stylegan2', 'training.networks_stylegan2'), ('G_style', 'D_basic', 'training.networks_stylegan')])
def test_the_original_finds_the_functions_of_our_networks_in_its_own_modules(G_func, D_func, module, tmp_path,
                                                                             monkeypatch):
    networks = small_networks(G_func, D_func)
    misc.save_pkl(networks, tmp_path / 'net.pkl')
    states = legacy_pickle.load(tmp_path / 'net.pkl')
    assert states[0].build_module_src == f'from {module} import *\n' and states[0].build_module == module
    # The original's module of this name has functions.
    own = types.ModuleType(module)
    functions = {type(net).__name__: (lambda *args: None) for net in (*networks, *networks[0].components.values())}
    own.__dict__.update(functions)
    monkeypatch.setitem(sys.modules, module, own)
    with open(tmp_path / 'net.pkl', 'rb') as file:
        loaded = OriginalsUnpickler(file).load()
    assert [net.func for net in loaded] == [functions[name] for name in (G_func, D_func, G_func)]
    assert {op.name for op, _, _ in pickletools.genops((tmp_path / 'net.pkl').read_bytes())} >= {'NEWOBJ', 'BUILD'}


def test_pickle_load_checks_the_checksum_and_the_state(network):
    Gs = misc.load_networks(network)[2]
    state = Gs.__getstate__()
    twin = tflib.Network.__new__(tflib.Network)
    twin.__setstate__(state)
    assert list(twin.vars) == list(Gs.vars)
    changed = {**state, 'variables': [(name, value + 1) for name, value in state['variables']]}
    with pytest.raises(UserError, match='do not match its checksum'):
        tflib.Network.__new__(tflib.Network).__setstate__(changed)
    twin.__setstate__({key: value for key, value in changed.items() if key != 'sha256'})  # A tool removes it.
    assert twin.get_var('lod') == 1
    for bad in ({}, None, {**state, 'version': 1}):
        with pytest.raises(UserError, match='expected the state of a network'):
            tflib.Network.__new__(tflib.Network).__setstate__(bad)


@pytest.mark.golden
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize('name', ['config-f', 'config-a-conditional'])
def test_golden_pickles_of_the_original_through_pickle_load(name):
    with open(GOLDEN / 'networks' / f'{name}.pkl', 'rb') as file:
        loaded = pickle.load(file)
    for net, expected in zip(loaded, misc.load_pkl(GOLDEN / 'networks' / f'{name}.pkl'), strict=True):
        assert type(net) is type(expected) and net.static_kwargs == expected.static_kwargs
        for var in expected.vars:
            np.testing.assert_array_equal(net.get_var(var), expected.get_var(var))


@pytest.mark.golden('STYLEGAN2_GOLDEN_ADA')
def test_version_5_through_pickle_load(tmp_path):
    networks = misc.load_networks(GOLDEN_ADA / 'networks' / 'tiny8.pkl')
    misc.save_pkl(networks, tmp_path / 'net.pkl', version=5)
    assert legacy_pickle.load(tmp_path / 'net.pkl')[2].build_module_src == 'from training.networks import *\n'
    loaded = pickle.loads((tmp_path / 'net.pkl').read_bytes())
    for name in networks[2].vars:
        np.testing.assert_array_equal(loaded[2].get_var(name), networks[2].get_var(name))


# ---- Single functions ----

def test_datasets_of_others(tmp_path, capsys):
    with pytest.raises(ValueError, match='stop'), dataset_tool.TFRecordExporter(str(tmp_path / 'none'), 1):
        raise ValueError('stop')
    assert not (tmp_path / 'none').exists()
    with tfrecords(tmp_path / 'tiny', 4, labels=True) as tfr:
        assert tfr.cur_images == 4
    assert 'Added 4 images.' in capsys.readouterr().out
    data = dataset.load_dataset(class_name='training.dataset.TFRecordDataset', data_dir=str(tmp_path),
                                tfrecord_dir='tiny', max_label_size='full')
    with pytest.raises(ValueError, match='expected configure'):
        data.get_minibatch_tf()
    data.configure(3)
    images, labels = data.get_minibatch_tf()
    assert images.shape == (3, 3, 8, 8) and labels.shape == (3, 2)
    grid, reals, labels = misc.setup_snapshot_image_grid(data, '1080p', 'random')
    assert len(reals) == len(labels) == grid[0] * grid[1]
    flipped = misc.apply_mirror_augment(reals)
    same = (flipped == reals).all(axis=(1, 2, 3))
    assert 0 < same.sum() < len(reals) and (flipped[~same] == reals[~same, :, :, ::-1]).all()
    other = dataset.load_dataset(class_name='training.dataset.SyntheticDataset', resolution=16, label_size=3)
    other.configure(2, lod=1)
    images, labels = other.get_minibatch_tf()
    assert (images.shape, images.dtype, labels.numpy().sum()) == ((2, 3, 8, 8), tf.uint8, 2)
    for wrong in (dict(class_name='os.system'), dict(), dict(class_name='SyntheticDataset', tfrecord_dir='x')):
        with pytest.raises(ValueError, match='expected class_name'):
            dataset.load_dataset(**wrong)
    misc.save_image_grid(reals[:1], tmp_path / 'images.png')
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images.png').rename(tmp_path / 'images' / '0.png')
    dataset_tool.create_from_images(str(tmp_path / 'again'), str(tmp_path / 'images'), shuffle=1)
    assert dataset.load_dataset(str(tmp_path / 'again')).shape == [3, 8, 8]


def test_metrics_of_others(stub_networks, network, tmp_path):  # noqa: F811
    tfrecords(tmp_path / 'tiny', 8).close()
    group = MetricGroup([dict(name='fid8', func_name='metrics.frechet_inception_distance.FID', num_images=8,
                              minibatch_per_gpu=4)], seed=1)
    result = group.run(network, data_dir=str(tmp_path), dataset_args=dnnlib.EasyDict(tfrecord_dir='tiny', shuffle_mb=0),
                       mirror_augment=None, num_gpus=1)
    given = group.run(network, misc.load_networks(network)[2], data_dir=str(tmp_path),
                      dataset_args=dict(tfrecord_dir='tiny', shuffle_mb=0))
    assert result == given and result['Metrics/fid8'] > 0


def test_names_of_tflib(capsys, tmp_path):
    assert tflib.lerp_clip(1.0, 3.0, 2.0) == 3 and tflib.lerp_clip(1.0, 3.0, 0.25) == 1.5
    assert float(tflib.exp2(tflib.log2(tf.constant(8.0)))) == pytest.approx(8, rel=1e-6)
    assert tflib.shape_to_list(tf.TensorShape([None, 3])) == [None, 3] and tflib.flatten(tf.zeros([2, 3])).shape == (6,)
    with pytest.raises(UserError, match='no sessions'):
        tflib.create_session()
    tflib.init_uninitialized_vars()
    assert 'has no effect' in capsys.readouterr().out
    G, _D, Gs = small_networks()
    var = G.vars['lod']
    assert all(map(tflib.is_tf_expression, (var, var.value(), var.variable)))
    assert not tflib.is_tf_expression(np.zeros(1))
    name = 'G_synthesis/4x4/Conv/weight'
    before = Gs.get_var(name)
    G.set_var(name, before + 1)
    tflib.run(Gs.setup_as_moving_average_of(G, beta=0.75))
    np.testing.assert_allclose(Gs.get_var(name), before + 0.25, atol=1e-6)
    assert tflib.autosummary.autosummary('Loss/a', 3.0) == 3.0
    assert tflib.autosummary.autosummary('Loss/a', np.float32(5), passthru='x') == 'x'
    writer = tf.summary.create_file_writer(str(tmp_path))
    assert tflib.autosummary.save_summaries(writer, 7) == {'Loss/a': 4.0}
    assert tflib.autosummary.save_summaries(None) == {} and b'Loss/a' in next(tmp_path.glob('events*')).read_bytes()


def test_a_network_is_converted_to_another_class():
    G = small_networks(truncation_psi=0.6)[0]
    G.set_var('dlatent_avg', np.arange(8))
    other = G.convert('training.networks_stylegan2.G_main', 'other', architecture='resnet')
    np.testing.assert_array_equal(other.get_var('dlatent_avg'), np.arange(8))
    assert 'G_synthesis/8x8/Skip/weight' in other.vars and other.name == 'other'
    assert (other.static_kwargs.fmap_max, other.static_kwargs.truncation_psi) == (4, 0.6)
    # The two have the width and the name of this network in common, and shapes that differ.
    with pytest.raises(ValueError, match='cannot copy 4x4/Conv/weight'):
        G.components.synthesis.convert('D_stylegan2')
    with pytest.raises(ValueError, match='unknown network'):
        G.convert('G_nosuch')


def test_objects_by_name_and_logger(tmp_path, capsys):
    assert dnnlib.util.call_func_by_name(2, func_name='dnnlib.util.format_time') == dnnlib.util.format_time(2)
    assert dnnlib.util.construct_class_by_name(class_name='dnnlib.util.EasyDict', a=1) == {'a': 1}
    assert dnnlib.util.get_obj_by_name('dnnlib.submission.submit.PathType.LINUX') is dnnlib.PathType.LINUX
    for name in ('nosuch.thing', 'dnnlib.nosuch.thing', 'dnnlib.util.nosuch', 'thing'):
        with pytest.raises((ImportError, AttributeError)):
            dnnlib.util.get_obj_by_name(name)
    with dnnlib.util.Logger(str(tmp_path / 'log.txt')):
        print('a line')
    print('another')
    assert (tmp_path / 'log.txt').read_text() == 'a line\n' and capsys.readouterr().out == 'a line\nanother\n'
    assert dnnlib.convert_path('a/b\\c', dnnlib.PathType.WINDOWS) == 'a\\b\\c'
    assert '<' not in dnnlib.get_path_from_template('x/<USERNAME>')
    with dnnlib.RunContext(dnnlib.SubmitConfig()) as context:
        context.update(loss=1.0, cur_epoch=1)
        assert dnnlib.RunContext.get() is context and not context.should_stop()
        assert context.get_last_update_interval() >= 0
    with open(tmp_path / 'x.bin', 'wb') as file:
        file.write(b'12')
    with dnnlib.util.open_url(str(tmp_path / 'x.bin')) as file, misc.open_file_or_url(tmp_path / 'x.bin') as same:
        assert file.read() == same.read() == b'12'
    with pytest.raises(UserError, match='SHA-256'):
        dnnlib.util.open_url(str(tmp_path / 'x.bin'), sha256='0' * 64)
