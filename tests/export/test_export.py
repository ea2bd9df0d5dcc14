"""Exported networks: each runtime computes what Gs.run does, and needs nothing of this project."""

import importlib.util
import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import run_generator
from dnnlib.cli import UserError
from export import command, formats, keras_model, runtimes
from export.graph import Part
from tests import ROOT
from training import configs, misc
from training.nets.registry import create_network

_SMALL = dict(resolution=8, num_channels=3, fmap_base=64, fmap_max=8, latent_size=6)
_SMALL_W = dict(_SMALL, dlatent_size=6, mapping_fmaps=6, mapping_layers=2)
_LARGEST = 1e-5  # Difference from Gs.run, relative to the largest value.


@pytest.fixture(scope='module', autouse=True)
def timed_briefly():
    """Two computations are enough where nobody looks at the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtimes, '_SECONDS', 0)
        yield


def generator(func_name='G_main', **settings):
    """A small generator whose variables are all random, so that each has an effect on the images."""
    func_name = func_name.split('.')[-1]
    Gs = create_network('Gs', func_name, **{**(_SMALL if func_name == 'G_paper' else _SMALL_W), **settings})
    rnd = np.random.RandomState(0)
    for name, var in Gs.vars.items():
        if not name.endswith('lod') and not name.endswith('weight'):
            var.assign(var.numpy() + 0.3 * rnd.randn(*var.shape))
    return Gs


def _generators_of_all_configs():
    """Configuration -> settings of its generator, each once: configurations may differ only in how they train."""
    found = {}
    for name in configs.CONFIGS:
        kwargs = configs.training_run('data', config=name, resolution=16).run_func_kwargs
        settings = {key: value for key, value in kwargs['G_args'].items()
                    if not key.startswith(('fmap', 'mapping_layers', 'style_mixing'))}
        if 'mapping_layers' in kwargs['G_args'] and not kwargs['G_args']['mapping_layers']:
            settings['mapping_layers'] = 0
        if settings.get('label_embed'):
            settings['label_size'] = 3
        found.setdefault(json.dumps(settings, sort_keys=True), (name, settings))
    return dict(found.values())


GENERATORS = _generators_of_all_configs()

# Others: name -> settings, and arguments of Part.
CASES = {
    'gray, with labels, psi and noise': (dict(num_channels=1, label_size=2), dict(psi=None, noise='input')),
    'clamped, without noise': (dict(conv_clamp=256), dict(psi=0.5, noise='none')),
    'truncated layers': (dict(func_name='G_style', truncation_cutoff=3, fused_scale=True),
                         dict(psi=None, noise='input')),
    'grows': (dict(synthesis_func='G_synthesis_stylegan_revised', resolution=16, lod=1.5),
              dict(psi=0.7, noise='input')),
    'ProGAN grows, with labels': (dict(func_name='G_paper', label_size=3, lod=0.25), {}),
    'mapping': (dict(label_size=3, label_embed=True), dict(part='mapping', psi=None)),
    'synthesis': (dict(architecture='resnet', nonlinearity='swish'), dict(part='synthesis', noise='none')),
}


def part_of(case, **others):
    settings, arguments = CASES[case]
    settings = dict(settings)
    lod = settings.pop('lod', 0)
    Gs = generator(**settings)
    Gs.set_var('lod', lod)
    return Part(Gs, **{**arguments, **others})


def two_images(part):
    """Inputs for two images, and what Gs.run makes of them. The noise is the same for both, as Gs.run needs it."""
    inputs = part.example(batch=2)
    inputs = {name: np.stack([value[0]] * 2) if name.startswith('noise') else value for name, value in inputs.items()}
    return inputs, part.run(inputs)


def check_graph_and_keras(part):
    inputs, expected = two_images(part)
    function = part.named()
    images = function(*[tf.constant(value) for value in inputs.values()])[part.output].numpy()
    assert command.relative_difference(images, expected) < _LARGEST
    graph = part.traced.graph
    types = {op.type for op in graph.get_operations()}
    assert not graph.captures and not [name for name in types if name.startswith('Stylegan2')]
    assert not types & {'DepthwiseConv2dNativeBackpropInput', 'ReadVariableOp', 'IdentityN'}
    model = keras_model.build(part)
    if 'truncation_psi' in inputs:
        inputs['truncation_psi'] = np.full([2, 1], inputs['truncation_psi'])
    assert command.relative_difference(np.asarray(model(inputs)), expected) < _LARGEST
    assert {type(layer).__module__.split('.')[0] for layer in model.layers} == {'keras'}


needs_keras_3 = pytest.mark.skipif(not hasattr(keras, 'ops'), reason='needs Keras 3')


@needs_keras_3
@pytest.mark.parametrize('config', GENERATORS)
def test_graph_and_keras_model_of_every_configuration(config):
    check_graph_and_keras(Part(generator(**GENERATORS[config])))


@needs_keras_3
@pytest.mark.parametrize('case', CASES)
def test_graph_and_keras_model(case):
    check_graph_and_keras(part_of(case))


@pytest.mark.parametrize('kind, package', [('onnx', 'tf2onnx'), ('onnx', 'onnxruntime'), ('litert', 'ai_edge_litert')])
def test_the_packages_are_those_of_the_extra(kind, package):
    extra = (ROOT / 'pyproject.toml').read_text().split('\nexport = [')[1].split(']')[0]
    assert package.replace('_', '-') in extra


@pytest.mark.parametrize('kind', ['onnx', 'litert'])
@pytest.mark.parametrize('case', ['gray, with labels, psi and noise', 'truncated layers',
                                  'ProGAN grows, with labels'])
def test_files_for_other_runtimes(kind, case, tmp_path):
    pytest.importorskip('tf2onnx' if kind == 'onnx' else 'ai_edge_litert')
    part = part_of(case)
    inputs, expected = two_images(part)
    path = str(tmp_path / 'file')
    formats.write(kind, part, path)
    if not runtimes.name_of(kind):
        pytest.skip('the runtime is not installed')
    assert command.relative_difference(runtimes.run(kind, path, inputs).output, expected) < _LARGEST
    one = {name: value[:1] if value.ndim else value for name, value in inputs.items()}  # The batch is free.
    assert command.relative_difference(runtimes.run(kind, path, one).output, expected[:1]) < _LARGEST
    assert [entry.name for entry in tmp_path.iterdir()] == ['file']


def test_half_precision(tmp_path):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('tf2onnx')
    part = Part(generator(), dtype='float16')
    inputs, expected = two_images(part)
    formats.write('onnx', part, str(tmp_path / 'half.onnx'))
    difference = command.relative_difference(runtimes.run('onnx', str(tmp_path / 'half.onnx'), inputs).output, expected)
    assert 1e-5 < difference < 1e-2


# ---- The command ----

@pytest.fixture(scope='module')
def network(tmp_path_factory):
    """A network file."""
    path = tmp_path_factory.mktemp('network') / 'small.pkl'
    Gs = generator()
    misc.save_pkl((Gs, create_network('D', 'D_stylegan2', resolution=8, num_channels=3, fmap_base=64, fmap_max=8), Gs),
                  path)
    return str(path)


@pytest.fixture(scope='module')
def exported(network, tmp_path_factory):
    """A folder in which the command has made the files of docs/export.md; what it printed is in printed.txt."""
    folder = tmp_path_factory.mktemp('exported')
    needed = {'onnx': 'tf2onnx', 'litert': 'ai_edge_litert'}
    with pytest.MonkeyPatch.context() as patch, open(folder / 'printed.txt', 'w') as printed:
        patch.chdir(folder)
        patch.setattr(sys, 'stdout', printed)
        for line in (ROOT / 'docs' / 'export.md').read_text(encoding='utf-8').splitlines():
            if line.startswith('    python run_generator.py export --network=NETWORK'):
                argv = line.split('#')[0].replace('NETWORK', network).split()[2:]
                kind = next(arg.split('=')[1] for arg in argv if arg.startswith('--format='))
                if importlib.util.find_spec(needed.get(kind, 'numpy')) and (kind != 'keras' or hasattr(keras, 'ops')):
                    run_generator.main(argv)
    return folder


def test_the_command_compares_with_gs(exported):
    """SavedModel and .keras are opened in a process that cannot import this project."""
    text = (exported / 'printed.txt').read_text()
    differences = [float(line.split(': ')[1].split()[0]) for line in text.splitlines() if line.startswith('Largest')]
    assert len(differences) == 2 + sum(importlib.util.find_spec(name) is not None for name in
                                       ('onnxruntime', 'ai_edge_litert'))
    assert max(differences) < _LARGEST and text.count('Time of a picture:') == len(differences)
    assert text.count('equal after they were read again') == 2 and 'latents_in [N, 6]' in text


def _programs():
    """Programs of docs/export.md: heading -> text."""
    sections = (ROOT / 'docs' / 'export.md').read_text(encoding='utf-8').split('\n## ')[1:]
    return {section.splitlines()[0]: section.split('```python\n')[1].split('```')[0]
            for section in sections if '```python\n' in section}


@pytest.mark.parametrize('heading', _programs())
def test_programs_of_the_page(heading, exported, monkeypatch):
    text = _programs()[heading]
    for package in ('onnxruntime', 'ai_edge_litert', 'safetensors', 'keras'):
        if f'import {package}' in text or f'from {package}' in text:
            pytest.importorskip(package)
    monkeypatch.chdir(exported)
    (exported / 'picture.png').unlink(missing_ok=True)
    assert len(text.splitlines()) <= 15 and 'stylegan' not in text.lower()
    names = {}
    exec(compile(text, heading, 'exec'), names)
    assert (exported / 'picture.png').exists() == ('picture.png' in text)
    assert 'weights' in names or np.asarray(names['picture']).shape == (8, 8, 3)


def test_six_programs_are_on_the_page():
    assert len(_programs()) == 6


def test_images_of_a_saved_model_have_gradients(exported):
    generate = tf.saved_model.load(str(exported / 'faces-savedmodel')).signatures['serving_default']
    z = tf.ones([2, 6])
    with tf.GradientTape() as tape:
        tape.watch(z)
        images = generate(latents_in=z)['images_out']
    assert np.abs(tape.gradient(images, z)).max() > 0


def test_arrays_of_a_half(network, tmp_path):
    path = str(tmp_path / 'synthesis.npz')
    run_generator.main(['export', f'--network={network}', '--format=npz', '--part=synthesis', f'--output={path}'])
    with np.load(path) as file:
        assert 'G_synthesis/8x8/Conv1/weight' in file.files and not [n for n in file.files if 'mapping' in n]


def test_a_missing_extra_is_named(network, monkeypatch, tmp_path):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'tf2onnx' else find_spec(name))
    with pytest.raises(UserError, match=r'needs the package tf2onnx.*\n.*\[export\]'):
        run_generator.main(['export', f'--network={network}', '--format=onnx', f'--output={tmp_path}/a.onnx'])
    assert not list(tmp_path.iterdir())


def test_a_missing_runtime_is_named(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    command._compare('onnx', None, 'a.onnx', 'float32')
    assert '[export]' in capsys.readouterr().out


def test_progan_has_no_w(tmp_path):
    Gs, D = generator('G_paper'), create_network('D', 'D_paper', resolution=8, num_channels=3, fmap_base=64, fmap_max=8)
    misc.save_pkl((Gs, D, Gs), tmp_path / 'progan.pkl')
    for argument in ('part=mapping', 'truncation-psi=input', 'truncation-psi=0.7'):
        with pytest.raises(UserError, match=f'--{argument}: needs W'):
            run_generator.main(['export', f'--network={tmp_path}/progan.pkl', '--format=savedmodel', f'--{argument}',
                                f'--output={tmp_path}/model'])
    assert not (tmp_path / 'model').exists()


def test_noise_that_the_network_lacks():
    with pytest.raises(UserError, match='--noise=input: the network has no noise'):
        Part(generator('G_paper'), noise='input')


def test_a_folder_with_other_files_is_left_alone(network, tmp_path):
    (tmp_path / 'thesis.txt').write_text('much work')
    with pytest.raises(UserError, match='holds thesis.txt'):
        run_generator.main(['export', f'--network={network}', '--format=savedmodel', f'--output={tmp_path}'])
    assert (tmp_path / 'thesis.txt').read_text() == 'much work'


@pytest.mark.parametrize('kind', ['savedmodel', 'keras', 'onnx', 'litert'])
def test_a_damaged_file_is_one_line(kind, tmp_path, monkeypatch):
    if kind not in ('savedmodel', 'keras'):
        pytest.importorskip(runtimes._PACKAGES[kind][0])
    else:  # TensorFlow need not start for this.
        monkeypatch.setattr(sys, 'executable', '/bin/false')
    (tmp_path / 'file').write_bytes(b'no network')
    with pytest.raises(UserError, match='file: ') as err:
        runtimes.run(kind, str(tmp_path / 'file'), {})
    assert '\n' not in err.value.fact


@pytest.mark.parametrize('network, part, expected', [
    ('results/00000-a/network-final.pkl', 'generator', 'network-final.onnx'),
    ('https://host/path/metfaces.pkl', 'mapping', 'metfaces-mapping.onnx'),
    ('weights.v2.safetensors', 'synthesis', 'weights.v2-synthesis.onnx')])
def test_default_names(network, part, expected):
    assert command.default_output(network, 'onnx', part) == expected
    assert command.default_output(network, 'savedmodel', part) == expected.replace('.onnx', '-savedmodel')
