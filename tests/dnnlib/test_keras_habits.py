"""What users of Keras and TensorFlow do with a model works with the networks, on Keras 2 and 3."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import ROOT
from tests.training.test_misc import small_networks
from training.nets import registry

IS_KERAS_2 = keras.__version__.startswith('2.')

# Small networks of several kinds: StyleGAN2, StyleGAN with labels, StyleGAN2-ADA with labels, and ProGAN, whose
# discriminator has two outputs. Their stored noise makes the pictures the same each time.
LATENTS = dict(latent_size=6, mapping_fmaps=6, mapping_layers=1)
SHAPE = dict(resolution=8, num_channels=3, fmap_base=32, fmap_max=4)
EMBED = dict(label_size=3, label_embed=True, conv_clamp=256, resample_kernel=(1, 3, 3, 1))
KINDS = {
    'config-f': lambda: [registry.create_network('G', 'G_main', randomize_noise=False, **LATENTS, **SHAPE),
                         registry.create_network('D', 'D_stylegan2', **SHAPE)],
    'config-a': lambda: [registry.create_network('G', 'G_style', randomize_noise=False, label_size=3,
                                                 **LATENTS, **SHAPE),
                         registry.create_network('D', 'D_basic', label_size=3, **SHAPE)],
    'ada': lambda: [registry.create_network('G', 'G_main', randomize_noise=False, **EMBED, **LATENTS, **SHAPE),
                    registry.create_network('D', 'D_stylegan2', mbstd_group_size=None, **EMBED, **SHAPE)],
    'progan': lambda: [registry.create_network('G', 'G_paper', latent_size=6, label_size=2, **SHAPE),
                       registry.create_network('D', 'D_paper', label_size=2, **SHAPE)],
}
PARTS = ['G', 'D', 'mapping', 'synthesis']
CASES = [('config-f', part) for part in PARTS] + [(kind, 'G') for kind in ('config-a', 'ada', 'progan')] + [
    ('config-a', 'synthesis'), ('ada', 'mapping'), ('progan', 'D')]


@pytest.fixture(scope='module')
def networks():
    """{kind: {part: network}}. No variable has a value that a new network would have."""
    found, rnd = {}, np.random.RandomState(0)
    for kind, make in KINDS.items():
        G, D = make()
        found[kind] = {'G': G, 'D': D, **G.components}
        for net in G, D:
            for name, var in net.vars.items():
                var.assign(np.float32(0) if name.endswith('lod') else rnd.randn(*var.shape) * 0.5)
    return found


@pytest.fixture(params=CASES, ids='-'.join)
def net(networks, request):
    kind, part = request.param
    return networks[kind][part]


@pytest.fixture
def Gs(networks):
    return networks['config-f']['G']


def inputs_of(net, n=2):
    """One array per input."""
    rnd = np.random.RandomState(1)
    return [rnd.randn(n, *shape[1:]).astype(np.float32) for shape in net.input_shapes]


def assert_same(outputs, expected):
    for value, other in zip(outputs if isinstance(outputs, (tuple, list)) else [outputs],
                            expected if isinstance(expected, (tuple, list)) else [expected], strict=True):
        value = np.asarray(value)
        np.testing.assert_allclose(value, other, rtol=0, atol=1e-5 * max(np.abs(other).max(), 1))
        assert value.shape == np.shape(other)


def assert_same_variables(net, other):
    assert list(net.vars) == list(other.vars)
    for name in net.vars:
        np.testing.assert_array_equal(other.get_var(name), net.get_var(name), err_msg=name)


def test_load_model_needs_no_custom_objects(net, tmp_path):
    net.save(tmp_path / 'net.keras')
    loaded = keras.models.load_model(tmp_path / 'net.keras')
    assert type(loaded) is type(net) and loaded.name == net.name and loaded.get_config() == net.get_config()
    assert_same_variables(net, loaded)
    assert_same(loaded.run(*inputs_of(net)), net.run(*inputs_of(net)))


def test_every_network_and_layer_is_registered_under_a_name_of_its_own():
    classes = list(registry.NETWORKS.values())
    names = [keras.saving.get_registered_name(cls) for cls in classes]
    assert len(set(names)) == len(names) and 'stylegan2>networks_stylegan.G_mapping' in names
    assert [keras.saving.get_registered_object(name) for name in names] == classes
    layer = small_networks()[1].layer('8x8/Conv0')
    assert keras.saving.get_registered_name(type(layer)) == 'stylegan2>layers.Conv2D'


def test_a_configuration_is_json_and_has_no_settings_of_siblings(net):
    config = net.get_config()
    assert json.loads(json.dumps(config)) == config
    assert set(config) - {'name'} <= net.known_kwargs()
    G = registry.create_network('G', 'G_main', resolution=np.int64(8), resample_kernel=np.array([1, 2, 1]),
                                mapping_layers=1, fmap_max=2)
    assert G.get_config()['resolution'] == 8 and G.get_config()['resample_kernel'] == [1, 2, 1]
    assert 'mapping_layers' not in G.components.synthesis.get_config()


def test_a_saved_model_has_the_networks_function(net, tmp_path):
    tf.saved_model.save(net, str(tmp_path / 'saved'))
    loaded = tf.saved_model.load(str(tmp_path / 'saved'))
    given = {name: x for name, x in zip(net.input_names, inputs_of(net), strict=True) if x.size}
    expected = net.run(*inputs_of(net))
    assert_same(loaded(*given.values()), expected)
    signature = loaded.signatures['serving_default']
    assert set(signature.structured_input_signature[1]) == set(given)
    outputs = signature(**{name: tf.constant(x) for name, x in given.items()})
    assert_same([outputs[name] for name in net.output_names], expected)
    assert_same(loaded(*[x[:1] for x in given.values()]), net.run(*[x[:1] for x in inputs_of(net)]))


def test_a_saved_model_draws_new_noise_and_can_be_saved_after_other_calls(tmp_path):
    Gs = small_networks()[2]
    for name in Gs.vars:
        if name.endswith('noise_strength'):
            Gs.set_var(name, 1.0)
    z = np.zeros([1, 8], np.float32)
    Gs.predict(z, verbose=0)
    Gs.run(z, None)
    tf.random.set_global_generator(tf.random.Generator.from_seed(3))
    tf.saved_model.save(Gs.components.synthesis, str(tmp_path / 'saved'))
    loaded = tf.saved_model.load(str(tmp_path / 'saved'))
    w = np.zeros([1, 4, 8], np.float32)
    assert np.abs(loaded(w) - loaded(w)).max() > 1e-3


@pytest.mark.parametrize('part, called', [('G', True), ('mapping', False)])
def test_export(networks, part, called, tmp_path, capsys):
    net = networks['config-f'][part]
    twin, z = net.clone(), inputs_of(net)[0]
    if called:
        twin.predict(z, verbose=0)
    spec = [tf.TensorSpec([1, 6], tf.float32)] if called else None
    twin.export(str(tmp_path / 'exported'), input_signature=spec)
    with pytest.raises(ValueError, match="received 'onnx'; run_generator.py export"):
        twin.export(str(tmp_path / 'net.onnx'), format='onnx')
    loaded = tf.saved_model.load(str(tmp_path / 'exported'))
    assert_same(loaded.serve(z[:1]), net.run(z[:1], None))


def test_predict(Gs, networks):
    z, labels = inputs_of(Gs)
    assert_same(Gs.predict([z, labels], verbose=0), Gs.run(z, None))
    assert_same(Gs.predict(z, batch_size=1, verbose=0), Gs.run(z, None))
    G = networks['progan']['G']
    assert_same(G.predict(inputs_of(G), verbose=0), G.run(*inputs_of(G)))


def test_calls_with_lists_and_the_argument_of_keras(Gs):
    z, labels = inputs_of(Gs)
    expected = Gs.run(z, None)
    for outputs in Gs([z, labels]), Gs((z,)), Gs(z, training=False), Gs(z):
        assert_same(outputs, expected)
    twin = Gs.clone()
    twin(z, training=True)  # As is_training=True: it moves the mean of W.
    assert np.any(twin.get_var('dlatent_avg') != Gs.get_var('dlatent_avg'))
    with pytest.raises(ValueError, match='trunaction_psi'):
        Gs(keras.Input([6]), trunaction_psi=1)


def test_models_of_networks(Gs, networks, tmp_path):
    """From latents to scores without labels; synthesis alone; saved, loaded, and for TensorFlow."""
    D = networks['config-f']['D']
    z = keras.Input([6])
    synthesis = Gs.components.synthesis
    w = keras.Input(synthesis.input_shape[1:])
    for name, model, net in (('scores', keras.Model(z, D(Gs(z, truncation_psi=0.7))), Gs),
                             ('synthesis', keras.Model(w, synthesis(w)), synthesis)):
        x = inputs_of(net)[0]
        expected = D.run(Gs.run(x, None, truncation_psi=0.7), None) if net is Gs else net.run(x)
        assert_same(model.predict(x, verbose=0), expected)
        model.save(tmp_path / f'{name}.keras')
        assert_same(keras.models.load_model(tmp_path / f'{name}.keras').predict(x, verbose=0), expected)
        tf.saved_model.save(model, str(tmp_path / name))
        signature = tf.saved_model.load(str(tmp_path / name)).signatures['serving_default']
        argument, = signature.structured_input_signature[1]
        outputs, = signature(**{argument: tf.constant(x)}).values()
        assert_same(outputs, expected)


def test_weights_and_checkpoints_hold_all_variables(net, tmp_path):
    def empty():
        twin = net.clone()
        for var in twin.vars.values():
            var.assign(np.zeros(var.shape))
        return twin

    net.save_weights(tmp_path / 'net.weights.h5')
    twin = empty()
    twin.load_weights(tmp_path / 'net.weights.h5')
    assert_same_variables(net, twin)
    path = tf.train.Checkpoint(net).save(str(tmp_path / 'checkpoint'))
    twin = empty()
    tf.train.Checkpoint(twin).restore(path).assert_existing_objects_matched()
    assert_same_variables(net, twin)


@pytest.mark.skipif(not IS_KERAS_2, reason='the form of files of Keras 2')
def test_the_folders_of_keras_2(networks, tmp_path):
    for name in 'G', 'D':
        net = networks['config-f'][name]
        net.save(tmp_path / name)
        loaded = keras.models.load_model(tmp_path / name)
        assert type(loaded) is type(net)
        assert_same_variables(net, loaded)


def test_summary_shows_shapes(networks):
    for kind in 'config-f', 'config-a':
        for net in networks[kind].values():
            lines = []
            net.summary(print_fn=lambda line, **_kwargs: lines.append(line))  # noqa: B023
            text = '\n'.join(lines)
            assert '?' not in text and 'multiple' not in text
            assert 'None, 3, 8, 8' in text or net.output_names != ('images_out',)


SCRIPT = """
import tensorflow as tf
import numpy as np
import dnnlib.tflib as tflib
import projector
from training.nets import registry

tflib.init_tf()
shape = dict(resolution=4, num_channels=3, fmap_max=2)
G = registry.create_network('G', 'G_main', latent_size=4, dlatent_size=4, mapping_fmaps=4, mapping_layers=1, **shape)
D = registry.create_network('D', 'D_stylegan2', **shape)

def to_bytes(images):
    if images.shape[1] == 3:
        images = images + 0
    return tflib.convert_images_to_uint8(images, nchw_to_nhwc=True)

for seed in range(6):
    z = np.random.RandomState(seed).randn(1 + seed % 4, 4)
    G.run(z, None, truncation_psi=seed / 6, minibatch_size=1 + seed % 3)
    G.run(z, None, output_transform=dict(func=lambda x: to_bytes(x)), assume_frozen=True)
    w = G.components.mapping.run(z, None)
    G.components.synthesis.run(w, randomize_noise=bool(seed % 2))
    G.clone().run(z, None, truncation_psi=1)
    D.run(G(tf.constant(z, tf.float32), truncation_psi=0.5), None)

@tf.function{AUTOGRAPH}
def step(z):
    with tf.GradientTape() as tape:
        images = G(z, truncation_psi=0.7, is_training=True)
        loss = tf.reduce_mean(tf.nn.softplus(-D(images)))
    return tape.gradient(loss, list(G.named_variables(trainable=True).values()))

for n in 1, 2:
    step(tf.zeros([n, 4]))
for seed in range({SEARCHES}):
    search = projector.Projector(distance='pixel')
    search.num_steps, search.dlatent_avg_samples = 3, 10
    search.set_network(G)
    search.run(np.zeros([1, 3, 4, 4]))
G.predict(np.zeros([3, 4], 'float32'), verbose=0)
print('done')
"""


@pytest.mark.parametrize('kind', ['file', 'stdin'])
def test_short_scripts_get_no_warnings_of_autograph_or_retracing(kind, tmp_path):
    """Scripts that import TensorFlow first see its warnings. A function of `python - <<E` has no source to convert."""
    script = SCRIPT.replace('{AUTOGRAPH}', '' if kind == 'file' else '(autograph=False)')
    script = script.replace('{SEARCHES}', '6' if kind == 'file' else '0')  # Their functions are not the script's.
    (tmp_path / 'script.py').write_text(script)
    done = subprocess.run([sys.executable, str(tmp_path / 'script.py') if kind == 'file' else '-'],
                          input=None if kind == 'file' else script, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith('done\n'), done.stderr
    assert 'WARNING:tensorflow' not in done.stderr and 'AutoGraph' not in done.stderr, done.stderr
