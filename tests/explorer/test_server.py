"""The explorer's answers: pictures of every kind, whose pixels are those of the commands; and who gets none."""

import concurrent.futures
import json
import shlex

import imageio_ffmpeg
import numpy as np
import PIL.Image
import pytest
import requests

import run_generator
from explorer import jobs, server
from latents import directions as directions_module
from latents import dlatents, pictures
from metrics import feature_networks
from tests.explorer.serving import FACES, HEADERS, ended, picture, pixels, post, seed, serving
from tests.latents.networks import generator
from training import misc
from training.nets.registry import create_network


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('explorer')


@pytest.fixture(scope='module')
def directions_file(folder):
    rnd = np.random.RandomState(0)
    vectors = rnd.randn(3, 64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    Gs = misc.load_networks(FACES)[2]
    layers, size = Gs.components.synthesis.input_shape[1:]
    found = directions_module.make(vectors[:, :size], np.full(3, np.nan), range(2), layers, np.eye(size), {})
    found.save(folder / 'directions.npz')
    return str(folder / 'directions.npz')


@pytest.fixture(scope='module')
def address(directions_file, folder):
    """An explorer of three networks: faces, one with classes, and a file that is none."""
    Gs = generator('ada')
    misc.save_pkl((Gs, Gs, Gs), folder / 'classes.pkl')
    (folder / 'broken.pkl').write_bytes(b'no network')
    with serving([FACES, str(folder / 'classes.pkl'), str(folder / 'broken.pkl')], directions=directions_file) as where:
        yield where


def made_by(command, folder):
    """Pixels of the one picture that a command of the explorer makes in this folder."""
    words = shlex.split(command)
    assert words[:2] == ['python', 'run_generator.py']
    before = set(folder.rglob('*.png'))
    run_generator.main([*words[2:], f'--result-dir={folder / "results"}'])
    path, = set(folder.rglob('*.png')) - before
    return pixels(path)


# ---- Pictures ----

def test_a_seed_is_the_picture_of_generate_images(address, tmp_path):
    shown, command = picture(address, seed(7, 0.7))
    assert command == f'python run_generator.py generate-images --network={FACES} --seeds=7 --truncation-psi=0.7'
    np.testing.assert_array_equal(shown, made_by(command, tmp_path))
    assert np.any(shown != picture(address, seed(8, 0.7))[0]) and np.any(shown != picture(address, seed(7, 0.2))[0])


def test_classes_and_precision_are_in_the_command(address, tmp_path):
    shown, command = picture(address, seed(3, 1, class_idx=2), precision='bfloat16')
    assert '--class' not in command and command.endswith('--precision=bfloat16')  # The faces have no classes.
    response = post(address, 'picture', dict(network=1, recipe=seed(3, 1, class_idx=2)))
    command = requests.utils.unquote(response.headers['X-Command'])
    assert command.endswith('--seeds=3 --truncation-psi=1 --class=2')
    np.testing.assert_array_equal(pixels(response.content), made_by(command, tmp_path))
    assert 'class: expected a number from 0 to 2' in post(
        address, 'picture', dict(network=1, recipe=seed(3, 1, class_idx=3)), 400).json()['error']


MIX = dict(kind='mix', a=seed(1), b=seed(2), amounts=[1, 1, 0.25, 0, 0, 0, 0, 0])
EDIT = dict(kind='edit', base=seed(1), set='file', strengths={'0': 2, '2': -1.5})


@pytest.mark.parametrize('recipe, others', [
    (seed(7), dict(noise='off')), (seed(7), dict(noise='fresh', noise_seed=5)), (MIX, {}), (EDIT, {}),
    (dict(EDIT, set='sefa', layers=[0, 1]), {}), (dict(kind='edit', base=MIX, set='pca', strengths={'1': 3}), {}),
    (dict(kind='walk', keys=[seed(0), MIX, seed(2)], position=1.4, curve='slerp', loop=True), {})])
def test_all_other_pictures_are_those_of_their_file_of_latents(address, tmp_path, monkeypatch, recipe, others):
    shown, command = picture(address, recipe, **others)
    name = next(word for word in shlex.split(command) if word.startswith('--dlatents=')).partition('=')[2]
    (tmp_path / name).write_bytes(post(address, 'npz', dict(network=0, recipes=[recipe], **others)).content)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(shown, made_by(command, tmp_path))
    assert np.any(shown != picture(address, seed(7))[0])


def test_a_mixture_goes_from_one_picture_to_the_other(address):
    none, every = (picture(address, dict(MIX, amounts=[amount] * 8))[0].astype(int) for amount in (0, 1))
    assert np.abs(none - picture(address, seed(1))[0]).max() <= 1  # W is truncated outside of the network.
    np.testing.assert_array_equal(every, picture(address, dict(MIX, b=seed(2), a=seed(1), amounts=[1] * 8))[0])
    assert np.abs(none - every).max() > 50


def test_an_edit_is_that_of_edit_images(address, directions_file, tmp_path):
    shown, _ = picture(address, dict(EDIT, base=seed(1, 0.6)))
    run_generator.main(['edit-images', f'--network={FACES}', '--seeds=1', f'--directions={directions_file}',
                        '--set=0=2,2=-1.5', '--truncation-psi=0.6', f'--result-dir={tmp_path}'])
    np.testing.assert_array_equal(shown, pixels(next(tmp_path.rglob('seed0001.png'))))


def test_a_preview_is_the_image_of_a_lower_resolution(address):
    info = post(address, 'network', dict(network=0)).json()
    assert info['resolution'] == 32 and info['preview'] in (8, 16)
    shown, command = picture(address, MIX, preview=True)
    assert shown.shape == (info['preview'], info['preview'], 3) and command == ''
    Gs = misc.load_networks(FACES)[2]
    _, w, noises = next(pictures.latents_of(Gs, [5], 0.5))
    with misc.noise_of(Gs, noises):
        image = Gs.components.synthesis.run(w[np.newaxis], randomize_noise=False, max_resolution=info['preview'],
                                            **pictures.picture_kwargs())[0]
    assert np.abs(picture(address, seed(5), preview=True)[0].astype(int) - image).max() <= 1  # Constant weights.


# ---- Several people ----

def test_sessions_do_not_get_in_the_way_of_one_another(address):
    """Many requests at once, with other noise, networks and precision: each gets what it gets alone."""
    requested = [dict(network=number % 2, recipe=seed(number, 0.3 + number / 10), noise=noise)
                 for number in range(4) for noise in ('fixed', 'off')]
    alone = [post(address, 'picture', data).content for data in requested]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: post(address, 'picture', data).content, requested * 3))
    assert together == alone * 3 and len(set(alone)) == len(alone)


# ---- Projections and films ----

def project(address, data, status=200, name='photo.png', **options):
    options = dict(dict(network=0, name=name, steps=12, distance='pixel'), **options)
    response = requests.post(f'{address}/api/project', params={'options': json.dumps(options)}, data=data,
                             headers=HEADERS, timeout=60)
    assert response.status_code == status, response.text
    return response.json()


@pytest.fixture(scope='module')
def photo(folder):
    PIL.Image.fromarray(np.random.RandomState(0).randint(0, 256, [40, 32, 3], np.uint8)).save(folder / 'photo.png')
    return (folder / 'photo.png').read_bytes()


def test_a_projection_is_shown_on_the_way_and_can_be_drawn(address, photo):
    job = ended(address, project(address, photo, name='../../My photo.png'))
    assert (job['state'], job['step'], job['result']['name']) == ('done', 12, 'My_photo') and job['version'] >= 12
    last = requests.get(f'{address}/api/jobs/{job["id"]}/picture', timeout=60)
    shown, command = picture(address, job['result'])
    assert command.endswith('--dlatents=My_photo.npz')
    assert np.abs(pixels(last.content).astype(int) - shown).max() <= 1
    mixed, _ = picture(address, dict(MIX, a=job['result']))
    assert np.any(mixed != shown)
    wrong = post(address, 'picture', dict(network=1, recipe=job['result']), 400).json()
    assert 'of another shape' in wrong['error'] and 'Choose the network' in wrong['remedy']


def test_a_projection_can_be_stopped_and_keeps_what_it_has_found(address, photo):
    job = project(address, photo, steps=5000)
    while job['step'] < 2:
        job = requests.get(f'{address}/api/jobs/{job["id"]}', timeout=60).json()
    assert picture(address, seed(0))[0].shape == (32, 32, 3)  # Others are served meanwhile.
    post(address, f'jobs/{job["id"]}/stop', {})
    job = ended(address, job)
    assert job['state'] == 'stopped' and 2 <= job['step'] < 5000
    assert picture(address, job['result'])[0].shape == (32, 32, 3)


def test_a_file_of_latents_is_taken_as_it_is(address, tmp_path):
    data = post(address, 'npz', dict(network=0, recipes=[seed(1), MIX])).content
    found = project(address, data)['latents']
    assert [each['name'] for each in found] == ['seed0001', 'seed0001-seed0002']
    assert np.abs(picture(address, found[1])[0].astype(int) - picture(address, MIX)[0]).max() <= 1
    (tmp_path / 'walk.npz').write_bytes(data)
    assert len(dlatents.load(tmp_path / 'walk.npz', misc.load_networks(FACES)[2])) == 2


@pytest.mark.parametrize('data, options, message', [
    (b'some text', {}, 'photo is not an image that can be read'), (b'', {}, 'photo is not an image'),
    (b'PK\x03\x04 no zip', {}, 'photo is not an image'), (b'%!PS-Adobe-3.0 EPSF-3.0\n', {}, 'photo is not an image'),
    (None, dict(steps=0), 'steps: expected a number from 1'), (None, dict(distance='other'), 'distance: expected one'),
    (None, dict(distance='lpips'), 'lpips: its weights are not on this machine'),
    (None, dict(network=9), 'there is no network 9'), (None, dict(align=True), 'needs the package')])
def test_what_cannot_be_projected_is_one_message(address, photo, monkeypatch, data, options, message):
    monkeypatch.setattr(feature_networks, 'local_path', lambda file: None)
    monkeypatch.setattr('latents.align_faces.importlib.util.find_spec', lambda name: None)
    answer = project(address, photo if data is None else data, 400, **options)
    assert message in answer['error'] and 'explorer-' not in answer['error'] and '\n' not in answer['error']


def test_a_damaged_or_huge_photo_is_one_message(address, photo, monkeypatch, tmp_path):
    assert 'is not an image that can be read' in project(address, photo[:len(photo) // 2], 400)['error']
    monkeypatch.setattr(jobs, '_MAX_PIXELS', 100)
    assert 'photo has 32x40 pixels' in project(address, photo, 400)['error']


def test_a_file_that_is_too_large_is_refused_before_it_is_read(address, monkeypatch):
    # With its length in the header, and without.
    assert 'more than 20 MiB' in project(address, bytes(server.MAX_UPLOAD + 1), 413)['error']
    chunks = (bytes(2 ** 20) for _ in range(21))
    assert 'more than 20 MiB' in project(address, chunks, 413)['error']


def test_a_film_has_the_frames_of_the_walk(address, tmp_path):
    keys = [seed(0), MIX]
    job = ended(address, post(address, 'film', dict(network=0, keys=keys, seconds=0.5, fps=10, format='mp4')).json())
    assert (job['state'], job['step'], job['total']) == ('done', 6, 6)
    response = requests.get(f'{address}/api/jobs/{job["id"]}/file', timeout=60)
    assert response.headers['content-type'] == 'video/mp4'
    (tmp_path / 'film.mp4').write_bytes(response.content)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / 'film.mp4'))
    size = next(reader)['size']
    frames = [np.frombuffer(frame, np.uint8).reshape(size[1], size[0], 3)[4::8, 4::8].astype(int) for frame in reader]
    for index in (0, 3, 5):
        shown, _ = picture(address, dict(kind='walk', keys=keys, position=index / 5, curve='spline'))
        assert np.abs(frames[index] - shown).mean() < 8 < np.abs(frames[(index + 3) % 6] - shown).mean()


@pytest.mark.parametrize('request_, message', [
    (dict(keys=[]), 'keys: expected a list of 1 to 64'), (dict(seconds=90, fps=50), 'would have 4501 frames'),
    (dict(format='avi'), 'format: expected one of'), (dict(format='gif', fps=60), 'at most 50 frames per second'),
    (dict(curve='zigzag'), 'curve: expected one of'), (dict(fps=1.5), 'fps: expected a whole number')])
def test_what_cannot_be_filmed_is_one_message(address, request_, message):
    data = dict(dict(network=0, keys=[seed(0), seed(1)], format='gif', fps=10), **request_)
    assert message in post(address, 'film', data, 400).json()['error']


# ---- Directions ----

def test_directions_of_the_file_can_be_named(address, directions_file):
    assert [each['name'] for each in post(address, 'directions', dict(network=0, set='file')).json()] == ['', '', '']
    post(address, 'name', dict(index=1, name='smile'))
    assert directions_module.load(directions_file).names == ['', 'smile', '']
    assert post(address, 'directions', dict(network=0, set='file')).json()[1]['name'] == 'smile'
    assert 'two directions smile' in post(address, 'name', dict(index=0, name='smile'), 400).json()['error']
    assert 'cannot be the name' in post(address, 'name', dict(index=0, name='a=b'), 400).json()['error']
    assert 'no direction 9' in post(address, 'name', dict(index=9, name='x'), 400).json()['error']


def test_directions_are_computed_on_the_spot(address):
    sefa = post(address, 'directions', dict(network=0, set='sefa')).json()
    assert len(sefa) == 20 and sefa[0]['share'] >= sefa[1]['share'] > 0 and all(sefa[0]['layers'])
    answer = post(address, 'directions', dict(network=1, set='file'), 400).json()
    assert 'directions are for 8 layers' in answer['error']


# ---- Mistakes, and strangers ----

@pytest.mark.parametrize('data, message', [
    ({}, 'network: expected a number'), (dict(network=2), 'broken.pkl'), (dict(network=3), 'there is no network 3'),
    (dict(network=-1), 'network: expected a number from 0'), (dict(network=0), 'recipe: expected a picture'),
    (dict(network=0, recipe={}), 'kind: expected one of'),
    (dict(network=0, recipe=dict(kind='seed')), 'seed: expected a number'),
    (dict(network=0, recipe=seed(-1)), 'seed: expected a number from 0'),
    (dict(network=0, recipe=seed(2 ** 32)), 'seed: expected a number from 0'),
    (dict(network=0, recipe=seed(True)), 'seed: expected a number'),
    (dict(network=0, recipe=seed(1.5)), 'seed: expected a whole number'),
    (dict(network=0, recipe=seed(1, 1e9)), 'psi: expected a number from -100'),
    (dict(network=0, recipe=seed(1, float('nan'))), 'psi: expected a number'),
    (dict(network=0, recipe=seed(1), precision='float8'), 'precision: expected one of'),
    (dict(network=0, recipe=seed(1), noise='loud'), 'noise: expected one of'),
    (dict(network=0, recipe=dict(MIX, amounts=[1])), 'amounts: expected 8 numbers'),
    (dict(network=0, recipe=dict(MIX, amounts=['1'] * 8)), 'amount: expected a number'),
    (dict(network=0, recipe=dict(MIX, b=None)), 'b: expected a picture'),
    (dict(network=0, recipe=dict(EDIT, strengths={'9': 1})), "no direction '9'"),
    (dict(network=0, recipe=dict(EDIT, layers=[8])), 'layers: expected numbers from 0 to 7'),
    (dict(network=0, recipe=dict(EDIT, set='/etc/passwd')), 'set: expected one of'),
    (dict(network=0, recipe=dict(kind='stored', id='../x')), 'no longer there'),
    (dict(network=0, recipe=dict(kind='walk', keys=[seed(0)], position=5)), 'position: expected a number from 0 to 1')])
def test_mistakes_in_a_request_are_one_message(address, data, message, capsys):
    answer = requests.post(f'{address}/api/picture', data=json.dumps(data), headers=HEADERS, timeout=60)
    assert answer.status_code == 400 and message in answer.json()['error'] and '\n' not in answer.json()['error']
    assert 'Traceback' not in capsys.readouterr().err


@pytest.mark.parametrize('body', [b'', b'[]', b'{', b'[' * 100_000, b'\xff'])
def test_what_is_no_object_is_refused(address, body):
    answer = requests.post(f'{address}/api/picture', data=body, headers=HEADERS, timeout=60)
    assert answer.status_code == 400 and 'expected an object of JSON' in answer.json()['error']


def test_recipes_are_not_followed_for_ever(address):
    recipe = seed(0)
    for _ in range(20):
        recipe = dict(EDIT, base=recipe)
    assert 'too many others' in post(address, 'picture', dict(network=0, recipe=recipe), 400).json()['error']


def test_an_error_of_ours_is_told_in_the_terminal_alone(address, monkeypatch, capsys):
    monkeypatch.setattr('explorer.drawing.draw', lambda *args: 1 / 0)
    answer = post(address, 'picture', dict(network=0, recipe=seed(0)), 500).json()
    assert answer['error'] == 'something went wrong in the explorer'
    assert 'ZeroDivisionError' in capsys.readouterr().err


@pytest.mark.parametrize('path', [
    '/etc/passwd', '/../run_explorer.py', '/..%2frun_explorer.py', '/%2e%2e/%2e%2e/etc/passwd', '/server.py',
    '/page/index.html', '/api/file=/etc/passwd', '/api/jobs/x/file', '/api/picture'])
def test_no_file_can_be_read(address, path):
    """Only the page itself: a path is a key of a dict, and the server looks for no file of this name."""
    session = requests.Session()
    prepared = requests.Request('GET', address).prepare()
    prepared.url = address + path  # As it is, without normalization.
    answer = session.send(prepared, timeout=60)
    assert answer.status_code in (400, 404, 405) and 'root:' not in answer.text and 'import' not in answer.text


@pytest.mark.parametrize('headers, status', [
    ({}, 403), ({'X-Explorer': '1'}, 200), ({'X-Explorer': '1', 'Host': 'evil.example'}, 403),
    ({'X-Explorer': '1', 'Host': '['}, 403), ({'X-Explorer': '1', 'Origin': 'http://evil.example'}, 403),
    ({'X-Explorer': '1', 'Origin': 'null'}, 403)])
def test_other_pages_get_no_answer(address, headers, status):
    """Neither one whose name points to this machine, nor one that sends requests here from the same browser."""
    answer = requests.post(f'{address}/api/network', json=dict(network=0), headers=headers, timeout=60)
    assert answer.status_code == status
    assert 'access-control-allow-origin' not in answer.headers


def test_the_page_says_that_nothing_comes_from_elsewhere(address):
    page = requests.get(address, timeout=60)
    policy = page.headers['content-security-policy']
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and 'unsafe' not in policy
    assert 'server' not in page.headers and page.headers['cache-control'] == 'no-store'
    for name in ('main.js', 'style.css', 'index.html', 'core.js'):
        text = requests.get(f'{address}/{name}', timeout=60).text
        assert 'http' not in text.replace('http://www.w3.org', '').replace('HTTPS', '')


def test_a_password_is_asked_for():
    with serving(auth='guest:secret:ü') as address:
        assert requests.get(address, timeout=60).headers['www-authenticate'].startswith('Basic')
        for name, auth, status in (('', None, 401), ('api/info', None, 401), ('', ('guest', 'wrong'), 401),
                                   ('', ('guest', 'secret:ü'.encode()), 200)):
            assert requests.get(f'{address}/{name}', auth=auth, timeout=60).status_code == status
        assert requests.get(address, headers={'Authorization': 'Basic ?'}, timeout=60).status_code == 401


def test_progan_has_seeds_alone(tmp_path):
    sizes = dict(num_channels=3, resolution=8, fmap_base=32, fmap_max=8)
    Gs = create_network('Gs', 'G_paper', latent_size=8, **sizes)
    misc.save_pkl((Gs, create_network('D', 'D_paper', **sizes), Gs), tmp_path / 'progan.pkl')
    with serving([str(tmp_path / 'progan.pkl')]) as address:
        info = post(address, 'network', dict(network=0)).json()
        assert (info['layers'], info['has_noise'], info['preview']) == (0, False, None)
        shown, command = picture(address, seed(3))
        assert command.endswith('--seeds=3')
        np.testing.assert_array_equal(shown, made_by(command, tmp_path))
        for name in ('picture', 'npz'):
            data = dict(network=0, recipe=dict(MIX), recipes=[seed(0)])
            assert 'has no W' in post(address, name, data, 400).json()['error']
