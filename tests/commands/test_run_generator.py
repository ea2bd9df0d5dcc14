import ast
import json
import os
import subprocess
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import custom_ops
import pretrained_networks
import run_generator
from dnnlib import cli, memory, tflib
from dnnlib.pickles import legacy_pickle
from dnnlib.util import EasyDict
from latents.dlatents import Dlatents
from tests import ROOT
from tests.full_disk import disk_full_for
from tests.golden import GOLDEN
from tests.light_help import help_of
from training import misc
from training.nets import registry


def open_picture(path):
    with Image.open(path) as picture:
        picture.load()
    return picture


# ---- Against the original ----

def _golden_runs():
    runs = sorted((GOLDEN / 'cli' / 'results').glob('*/submit_config.txt'))
    return [pytest.param(path.parent, id=path.parent.name) for path in runs]


def _arguments(run):
    """(function name, its arguments) as submit_config.txt has them; the file as a whole is not a Python literal."""
    text = (run / 'submit_config.txt').read_text()
    name = text.split("'run_func_name': 'run_generator.")[1].split("'")[0]
    start = text.index("'run_func_kwargs': ") + len("'run_func_kwargs': ")
    return name, ast.literal_eval(text[start:text.index('}', start) + 1])


@pytest.mark.golden
def test_golden_runs_are_found():
    assert _golden_runs(), f'no runs in {GOLDEN / "cli" / "results"}'


@pytest.mark.golden
@pytest.mark.parametrize('run', _golden_runs())
def test_pictures_and_console_are_those_of_the_original(run, tmp_path, monkeypatch, capsys):
    name, kwargs = _arguments(run)
    monkeypatch.chdir(GOLDEN / 'networks')
    argv = [name.replace('_', '-'), f'--network={kwargs.pop("network_pkl")}', f'--result-dir={tmp_path}']
    for key, value in kwargs.items():
        argv.append(f'--{key.replace("_", "-")}={",".join(map(str, value)) if isinstance(value, list) else value}')
    run_generator.main(argv)

    out = tmp_path / f'00000-{name.replace("_", "-")}'
    expected = {path.name for path in run.glob('*.png')}
    assert {path.name for path in out.glob('*.png')} == expected and expected
    for picture in sorted(expected):
        ours, theirs = open_picture(out / picture), open_picture(run / picture)
        assert (ours.mode, ours.size) == (theirs.mode, theirs.size)
        difference = np.abs(np.asarray(ours, np.int16) - np.asarray(theirs, np.int16))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.001, picture
    theirs = (run / 'log.txt').read_text().splitlines()
    log, console = (out / 'log.txt').read_text().splitlines(), capsys.readouterr().out.splitlines()[1:]
    for ours in log, console:
        for start in ('Computing on ', 'Custom ops: '):  # These two are ours alone.
            line, = (line for line in ours if line.startswith(start))
            ours.remove(line)
        assert ours[:-1] == theirs[:-1]
    assert (out / '_finished.txt').exists()


# ---- With a network that can be followed by hand ----

class FakeVar:
    def __init__(self, shape):
        self.shape = shape
        self.value = np.zeros(shape)

    def numpy(self):
        return self.value


class FakeGenerator:
    """4x4 images, 2 layers, latents of 3. The image is the mean of what goes in, plus the noise; calls are kept in
    `calls`."""

    def __init__(self, channels=3, num_classes=0):
        self.input_shape, self.output_shape = [None, 3], [None, channels, 4, 4]
        self.input_shapes = [[None, 3], [None, num_classes]]
        self.noise = OrderedDict(noise0=FakeVar([1, 1, 4, 4]), noise1=FakeVar([1, 1, 8, 8]))
        variables = OrderedDict({'noise0': self.noise['noise0'], '4x4/Const/const': FakeVar([1, 3, 4, 4]),
                                 'noise1': self.noise['noise1'], '4x4/Conv/noise_strength': FakeVar([])})
        synthesis = types.SimpleNamespace(vars=variables, run=self._synthesize, input_shape=[None, 2, 3])
        self.components = EasyDict(mapping=types.SimpleNamespace(run=self._map), synthesis=synthesis)
        self.calls = []
        self.drawn = []  # (w [N, layers, 3], noise maps) of each evaluation of the synthesis network

    def run(self, z, labels, truncation_psi, **kwargs):
        self.calls.append(types.SimpleNamespace(z=z, labels=labels, psi=truncation_psi,
                                                noise=[var.value for var in self.noise.values()]))
        return self._synthesize(z[:, np.newaxis], **kwargs)

    def _map(self, z, labels):
        self.calls.append(types.SimpleNamespace(labels=labels))
        return np.stack([z, z + 10], axis=1)

    def _synthesize(self, w, randomize_noise, minibatch_size, output_transform, dtype):
        assert randomize_noise is False and dtype == 'float32'
        assert output_transform == dict(func=tflib.convert_images_to_uint8, nchw_to_nhwc=True)
        self.drawn.append((np.array(w), [var.value for var in self.noise.values()]))
        gray = (100 + 10 * w.sum(axis=(1, 2))).clip(0, 255).astype(np.uint8)
        return np.broadcast_to(gray[:, None, None, None], [len(w), 4, 4, self.output_shape[1]])

    def get_var(self, name):
        assert name == 'dlatent_avg'
        return np.ones(3)


@pytest.fixture
def Gs(monkeypatch):
    net = FakeGenerator()
    monkeypatch.setattr(pretrained_networks, 'load_networks', lambda path: (None, None, net))
    monkeypatch.setattr(tflib, 'set_vars',
                        lambda values: [setattr(var, 'value', value) for var, value in values.items()])
    return net


def test_a_seed_gives_the_latents_first_and_then_each_noise_buffer_in_order(Gs, tmp_path):
    run_generator.generate_images(str(tmp_path), 'net.pkl', seeds=[5, 3], truncation_psi=0.7)
    for call, seed in zip(Gs.calls, [5, 3]):
        rnd = np.random.RandomState(seed)
        np.testing.assert_array_equal(call.z, rnd.randn(1, 3))
        np.testing.assert_array_equal(call.noise[0], rnd.randn(1, 1, 4, 4))
        np.testing.assert_array_equal(call.noise[1], rnd.randn(1, 1, 8, 8))
        assert (call.psi, call.labels) == (0.7, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['seed0003.png', 'seed0005.png']


def test_a_full_disk_is_one_line_and_keeps_the_pictures_before(Gs, tmp_path):
    with disk_full_for(lambda target: target.endswith('seed0007.png')), pytest.raises(
            cli.UserError, match=r'00000-generate-images/seed0007\.png: cannot be written: No space left') as err:
        run_generator.main(['generate-images', '--network=net.pkl', '--seeds=5-8', f'--result-dir={tmp_path}'])
    assert 'free space' in err.value.remedy and len(str(err.value).splitlines()) == 2
    assert sorted(path.name for path in tmp_path.glob('*/*.p*')) == ['seed0005.png', 'seed0006.png']


def test_the_networks_own_noise_is_put_back(Gs, tmp_path):
    run_generator.generate_images(str(tmp_path), 'net.pkl', seeds=[5])
    assert Gs.calls[0].noise[0].any() and not any(var.value.any() for var in Gs.noise.values())


def test_styles_are_mixed_by_layer_and_the_grid_shows_them_all(Gs, tmp_path):
    run_generator.style_mixing_example(str(tmp_path), 'net.pkl', row_seeds=[1, 2], col_seeds=[3], col_styles=[1],
                                       truncation_psi=0.5)

    def gray(row, col):
        w = {seed: 1 + (np.random.RandomState(seed).randn(3) + np.array([[0], [10]]) - 1) * 0.5 for seed in (row, col)}
        return int(np.clip(100 + 10 * (w[row][0] + w[col][1]).sum(), 0, 255))

    pairs = [(1, 1), (1, 3), (2, 2), (2, 3), (3, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(f'{row}-{col}.png' for row, col in pairs), 'grid.png']
    for row, col in pairs:
        assert open_picture(tmp_path / f'{row}-{col}.png').getpixel((0, 0)) == (gray(row, col),) * 3
    grid = np.asarray(open_picture(tmp_path / 'grid.png'))[::4, ::4, 0]
    assert grid.tolist() == [[0, gray(3, 3)], [gray(1, 1), gray(1, 3)], [gray(2, 2), gray(2, 3)]]


@pytest.mark.parametrize('resolution, expected', [(4, 1), (8, 2), (32, 3), (256, 5), (512, 6), (1024, 7)])
def test_the_default_of_mixed_layers_scales_with_the_network(resolution, expected):
    num_layers = 2 * int(np.log2(resolution)) - 2
    assert run_generator.coarse_layers(num_layers) == list(range(expected))


def test_coarse_layers_are_mixed_by_default(Gs, tmp_path, capsys):
    run_generator.main(['style-mixing-example', '--network=net.pkl', '--row-seeds=1', '--col-seeds=3',
                        f'--result-dir={tmp_path}'])
    assert 'Layers with the style of the column: 0-0 of 0-1 (--col-styles)' in capsys.readouterr().out
    w, _ = Gs.drawn[-1]
    row, col = (1 + (np.random.RandomState(seed).randn(3) + np.array([[0], [10]]) - 1) * 0.5 for seed in (1, 3))
    np.testing.assert_allclose(w, [[col[0], row[1]]])


# ---- Projected images ----

def save_dlatents(path, names, seed):
    rnd = np.random.RandomState(seed)
    found = Dlatents(names, rnd.randn(len(names), 2, 3).astype(np.float32),
                     [rnd.randn(len(names), 1, size, size) for size in (4, 8)])
    found.save(path)
    return found


def test_projected_images_are_drawn_with_their_noise(Gs, tmp_path):
    found = save_dlatents(tmp_path / 'd.npz', ['a', 'b'], 0)
    (tmp_path / 'out').mkdir()
    run_generator.generate_images(str(tmp_path / 'out'), 'net.pkl', dlatents=str(tmp_path / 'd.npz'))
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['a.png', 'b.png']
    for idx, (w, noise) in enumerate(Gs.drawn):
        np.testing.assert_array_equal(w, found.w[[idx]])
        np.testing.assert_array_equal(noise[1], found.noises[1][[idx]].astype(np.float32))
    assert not any(var.value.any() for var in Gs.noise.values())


def test_projected_images_are_mixed_with_seeds(Gs, tmp_path):
    found = save_dlatents(tmp_path / 'd.npz', ['a', 'b'], 0)
    (tmp_path / 'out').mkdir()
    run_generator.style_mixing_example(str(tmp_path / 'out'), 'net.pkl', row_dlatents=str(tmp_path / 'd.npz'),
                                       col_seeds=[3], col_styles=[1])
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        '3-3.png', 'a-3.png', 'a-a.png', 'b-3.png', 'b-b.png', 'grid.png']
    w_seed = 1 + (np.random.RandomState(3).randn(3) + np.array([[0], [10]]) - 1) * 0.5
    w, noise = Gs.drawn[-1]  # The last one is row b.
    np.testing.assert_allclose(w, [[found.w[1, 0], w_seed[1]]], rtol=1e-6)  # The image itself is not truncated.
    np.testing.assert_array_equal(noise[0], found.noises[0][[1]].astype(np.float32))
    alone = {tuple(w.ravel()): noise for w, noise in Gs.drawn[:3]}
    assert not alone[tuple(w_seed.ravel())][0].any()  # A seed alone: the noise of the pickle.


def test_projected_images_are_columns_even_if_the_rows_have_the_same_names(Gs, tmp_path):
    rows, cols = save_dlatents(tmp_path / 'r.npz', ['a'], 0), save_dlatents(tmp_path / 'c.npz', ['a', 'b'], 1)
    (tmp_path / 'out').mkdir()
    run_generator.style_mixing_example(str(tmp_path / 'out'), 'net.pkl', row_dlatents=str(tmp_path / 'r.npz'),
                                       col_dlatents=str(tmp_path / 'c.npz'), col_styles=[0])
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'a-a.png', 'a-b.png', 'a-col_a.png', 'b-b.png', 'col_a-col_a.png', 'grid.png']
    np.testing.assert_array_equal(Gs.drawn[-1][0], [[cols.w[0, 0], rows.w[0, 1]], [cols.w[1, 0], rows.w[0, 1]]])


def test_class_becomes_a_one_hot_label_for_every_picture(Gs, tmp_path):
    Gs.input_shapes[1][1] = 4
    run_generator.generate_images(str(tmp_path), 'net.pkl', seeds=[0], class_idx=2)
    run_generator.style_mixing_example(str(tmp_path), 'net.pkl', row_seeds=[1, 2], col_seeds=[3], col_styles=[1],
                                       class_idx=3)
    assert Gs.calls[0].labels.tolist() == [[0, 0, 1, 0]]
    assert [call.labels.tolist() for call in Gs.calls[1:]] == [[[0, 0, 0, 1]] * 2, [[0, 0, 0, 1]]]  # rows, columns


def test_one_channel_is_written_as_gray(Gs, tmp_path):
    Gs.output_shape[1] = 1
    run_generator.generate_images(str(tmp_path), 'net.pkl', seeds=[0])
    run_generator.style_mixing_example(str(tmp_path), 'net.pkl', row_seeds=[1], col_seeds=[3], col_styles=[1])
    assert {open_picture(path).mode for path in tmp_path.iterdir()} == {'L'}


def test_the_form_of_the_custom_ops_is_chosen_kept_and_reported(Gs, tmp_path, capsys):
    custom_ops.set_impl(None)
    try:
        run_generator.main(['generate-images', '--network=net.pkl', '--seeds=0', '--impl=ref',
                            f'--result-dir={tmp_path}'])
    finally:
        custom_ops.set_impl(None)
    assert 'Custom ops: reference (as asked for)' in capsys.readouterr().out.splitlines()
    config = json.loads((tmp_path / '00000-generate-images' / 'submit_config.json').read_text())
    assert config['run_func_kwargs']['impl'] == 'ref'


def test_tf32_is_off_unless_asked_for(Gs, tmp_path, capsys):
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled
    argv = ['generate-images', '--network=net.pkl', '--seeds=0', f'--result-dir={tmp_path}']
    for flags, expected in (['--tf32=true'], True), ([], False):
        run_generator.main([*argv, *flags])
        assert tf32() == expected
    assert capsys.readouterr().out.count('\nComputing on ') == 2


@pytest.mark.parametrize('command, remedy', [
    (['generate-images', '--seeds=0'], '--precision=bfloat16 needs less. End other programs'),
    (['style-mixing-example', '--row-seeds=0', '--col-seeds=1'], 'End other programs')])
def test_too_little_memory(Gs, tmp_path, monkeypatch, command, remedy):
    def fail(*args, **kwargs):
        raise tf.errors.NotFoundError(None, None, 'No algorithm worked!  Error messages:\n...')
    monkeypatch.setattr(Gs, 'run', fail)
    monkeypatch.setattr(Gs.components.synthesis, 'run', fail)
    with pytest.raises(cli.UserError) as caught:
        run_generator.main([*command, '--network=net.pkl', f'--result-dir={tmp_path}'])
    assert caught.value.fact == 'out of memory: No algorithm worked!  Error messages:'
    assert caught.value.remedy.startswith(remedy)


def test_pictures_in_half_precision_differ_by_less_than_one_sees(tmp_path):
    """Within 2 grey levels on average; a level is 1/256 of the range, what bfloat16 rounds to near the ends of it."""
    for precision in ('float32', 'bfloat16', 'mixed_float16'):
        run_generator.main(['generate-images', f'--network={ROOT / "tests" / "data" / "faces32.pkl"}', '--seeds=0-3',
                            f'--precision={precision}', f'--result-dir={tmp_path}'])
    exact, *others = (np.stack([np.asarray(open_picture(path), np.float32)
                                for path in sorted(folder.glob('seed*.png'))])
                      for folder in sorted(tmp_path.iterdir()))
    assert exact.std() > 30
    for pictures in others:
        assert 0 < np.abs(pictures - exact).mean() < 2


# ---- Mistakes ----

def refused(tmp_path, *argv):
    with pytest.raises(cli.UserError) as caught:
        run_generator.main([*argv, '--network=net.pkl', f'--result-dir={tmp_path}'])
    assert list(tmp_path.iterdir()) == [], 'a refused run left a folder'
    return caught.value


def test_class_of_a_network_without_labels_is_refused(Gs, tmp_path):
    assert 'without labels' in refused(tmp_path, 'generate-images', '--seeds=0', '--class=1').fact


def test_class_out_of_range_is_refused(Gs, tmp_path):
    Gs.input_shapes[1][1] = 3
    err = refused(tmp_path, 'generate-images', '--seeds=0', '--class=3')
    assert '3 classes' in err.fact and '0 to 2' in err.remedy


def test_a_grid_that_does_not_fit_into_memory_is_refused(Gs, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, 'available_bytes', lambda: 1000)
    err = refused(tmp_path, 'style-mixing-example', '--row-seeds=0-2', '--col-seeds=1-5')
    assert err.fact.startswith('a grid of 3 rows and 5 columns needs about') and 'fewer rows' in err.remedy
    assert not list(tmp_path.glob('*/*.png'))


def test_style_layers_beyond_the_network_are_refused(Gs, tmp_path):
    err = refused(tmp_path, 'style-mixing-example', '--row-seeds=0', '--col-seeds=1', '--col-styles=0-6')
    assert 'no layer 6' in err.fact and '0 to 1' in err.remedy


def test_other_channel_counts_are_refused(Gs, tmp_path):
    Gs.output_shape[1] = 5
    assert '5 channels' in refused(tmp_path, 'generate-images', '--seeds=0').fact


def test_a_missing_file_of_latents_is_refused(Gs, tmp_path):
    assert 'there is no such file' in refused(tmp_path, 'generate-images', '--dlatents=d.npz').fact


@pytest.mark.parametrize('argv', [
    ['generate-images'],
    ['generate-images', '--network=x', '--seeds=1', '--dlatents=d.npz'],
    ['style-mixing-example', '--network=x', '--row-seeds=0'],
    ['generate-images', '--network=x', '--seeds=1,3-5'],
    ['generate-images', '--network=x', '--seeds=0', '--truncation-psi=nan'],
    ['generate-images', '--network=x', '--seeds=0', '--class=-1'],
    ['generate-images', '--network=x', '--seeds=4294967296'],
    ['style-mixing-example', '--network=x', '--row-seeds=0', '--col-seeds=1', '--col-styles=6-0'],
    ['draw'],
])
def test_bad_usage_exits_with_2(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        run_generator.main(argv)
    assert caught.value.code == 2
    assert 'error: ' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ---- As a command ----

def command(*argv, **kwargs):
    return subprocess.run([sys.executable, str(ROOT / 'run_generator.py'), *argv], capture_output=True, text=True,
                          **kwargs)


@pytest.mark.parametrize('argv, flags', [
    (['generate-images', '--dlatents=x.npz', '--truncation-psi=1', '--class=2'], '--class, --truncation-psi'),
    (['style-mixing-example', '--row-dlatents=x.npz', '--col-dlatents=y.npz', '--class', '2'], '--class')])
def test_flags_without_effect_are_refused(argv, flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(cli.UserError, match='no effect without seeds') as caught:
        run_generator.main([*argv, '--network=x.pkl'])
    assert caught.value.fact.startswith(f'{flags}: ') and list(tmp_path.iterdir()) == []


def test_no_subcommand_says_so_and_exits_with_2():
    done = command()
    assert done.returncode == 2
    assert done.stdout + done.stderr == 'Error: missing subcommand.  Re-run with --help for usage.\n'


@pytest.mark.parametrize('argv', [[], ['generate-images'], ['style-mixing-example'], ['generate-video'],
                                  ['find-directions'], ['edit-images'], ['name-direction']])
def test_help_imports_little(argv):
    assert 'usage: run_generator.py' in help_of(str(ROOT / 'run_generator.py'), *argv)


# ---- convert ----

def test_convert_goes_through_all_formats_and_back(tmp_path, capsys):
    G = registry.create_network('G', 'G_main', resolution=8, fmap_base=32, fmap_max=4, latent_size=5, dlatent_size=5,
                                mapping_layers=1)
    D = registry.create_network('D', 'D_stylegan2', resolution=8, fmap_base=32, fmap_max=4)
    misc.save_pkl((G, D, G.clone('Gs')), tmp_path / '0.pkl')
    files = ['0.pkl', '1.safetensors', '2.npz', '3.pkl', '4.safetensors', '5.pkl']
    for source, target in zip(files, files[1:]):
        run_generator.main(['convert', f'--network={tmp_path / source}', f'--out={tmp_path / target}'])
    assert f'Wrote the networks G, D, Gs to {tmp_path / "5.pkl"}.' in capsys.readouterr().out
    assert (tmp_path / '0.pkl').read_bytes() == (tmp_path / '3.pkl').read_bytes() == (tmp_path / '5.pkl').read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == files  # No run folder.
    run_generator.main(['convert', f'--network={tmp_path / "2.npz"}', f'--out={tmp_path / "6.pkl"}',
                        '--pickle-version=5'])
    assert {state.version for state in legacy_pickle.load(tmp_path / '6.pkl')} == {5}


def test_convert_to_an_unknown_format_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_generator.main(['convert', '--network=a.pkl', '--out=a.onnx'])
    assert "'a.onnx': expected a name that ends with .pkl, .npz, .safetensors" in capsys.readouterr().err
    with pytest.raises(cli.UserError, match='--pickle-version=5: a.npz is no pickle'):
        run_generator.main(['convert', '--network=a.pkl', '--out=a.npz', '--pickle-version=5'])


def test_tensorflow_is_loaded_quietly():
    env = {name: value for name, value in os.environ.items() if name != 'TF_CPP_MIN_LOG_LEVEL'}  # conftest.py sets it.
    program = "import run_generator; run_generator._function('generate-images'); import latents.pictures"
    done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
