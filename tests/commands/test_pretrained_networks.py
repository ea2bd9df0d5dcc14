"""Names of the official networks, and which pickles are loaded once, again, or not at all."""

import os
import subprocess
import sys
import types

import pytest

import pretrained_networks
from dnnlib.cli import UserError

FFHQ = 'gdrive:networks/stylegan2-ffhq-config-f.pkl'
FFHQ_URL = 'https://nvlabs-fi-cdn.nvidia.com/stylegan2/networks/stylegan2-ffhq-config-f.pkl'


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    """Paths that are loaded and URLs that are opened, by stand-ins that need neither TensorFlow nor a connection."""
    calls = []

    def open_url(url, kind):
        assert kind == 'pickle'
        calls.append(url)
        (tmp_path / 'cached').write_bytes(b'')
        return open(tmp_path / 'cached', 'rb')

    def load_networks(path):
        calls.append(path)
        return tuple(types.SimpleNamespace(run=None) for _ in range(3))

    misc = types.ModuleType('training.misc')
    misc.load_networks = load_networks
    monkeypatch.setitem(sys.modules, 'training.misc', misc)
    monkeypatch.setattr('training.misc', misc, raising=False)
    monkeypatch.setattr(pretrained_networks, 'open_url', open_url)
    monkeypatch.setattr(pretrained_networks, '_cached_networks', {})
    return calls


def test_official_names():
    names = pretrained_networks.gdrive_urls
    assert len(names) == 36
    assert names[FFHQ] == FFHQ_URL
    assert pretrained_networks.get_path_or_url('gdrive:networks/table2/stylegan2-car-config-e-Gskip-Dresnet.pkl') == \
        'https://nvlabs-fi-cdn.nvidia.com/stylegan2/networks/table2/stylegan2-car-config-e-Gskip-Dresnet.pkl'
    assert 'gdrive:networks/stylegan2-horse-config-a.pkl' in names
    assert 'gdrive:networks/stylegan2-horse-config-b.pkl' not in names


@pytest.mark.parametrize('name', ['results/00001/network-final.pkl', 'http://host/net.pkl',
                                  'networks/stylegan2-ffhq-config-f.pkl'])
def test_other_names_are_left_alone(name):
    assert pretrained_networks.get_path_or_url(name) == name


def test_official_names_of_stylegan2_ada():
    assert pretrained_networks.get_path_or_url('ada:metfaces') == \
        'https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metfaces.pkl'
    with pytest.raises(UserError, match='ada:afhqcats: there is no official network') as caught:
        pretrained_networks.load_networks('ada:afhqcats')
    assert 'ada:afhqcat,' in caught.value.remedy


def test_official_names_of_older_networks():
    assert pretrained_networks.get_path_or_url('stylegan:ffhq') == \
        'https://drive.google.com/uc?id=1MEGjdvVpUsu1jB4zrXZN7Y4kBBOzizDQ'
    urls = {**pretrained_networks.stylegan_urls, **pretrained_networks.progan_urls}
    assert sorted(urls) == ['progan:celebahq', *(f'stylegan:{name}' for name in (
        'bedrooms', 'cars', 'cats', 'celebahq', 'ffhq'))]
    assert len(set(urls.values())) == 6
    with pytest.raises(UserError, match='stylegan:car: there is no official network') as caught:
        pretrained_networks.load_networks('stylegan:car')
    assert 'stylegan:cars,' in caught.value.remedy


def test_unknown_official_name_brings_the_nearest():
    with pytest.raises(UserError, match='fhq-config-g') as caught:
        pretrained_networks.load_networks('gdrive:networks/stylegan2-fhq-config-g.pkl')
    assert FFHQ in caught.value.remedy


def test_missing_file_is_named(tmp_path):
    path = tmp_path / 'missing.pkl'
    with pytest.raises(UserError, match='no such file') as caught:
        pretrained_networks.load_networks(path)
    assert str(path) in caught.value.fact
    with pytest.raises(UserError, match=f'{tmp_path}: expected a network pickle, found a folder without'):
        pretrained_networks.load_networks(tmp_path)


@pytest.mark.parametrize('names, newest', [
    (['network-snapshot-000000.pkl', 'network-snapshot-000012.pkl'], 'network-snapshot-000012.pkl'),
    (['network-snapshot-000012.pkl', 'network-final.pkl', '_finished.txt'], 'network-final.pkl'),
    # It was finished once, then continued with a larger --total-kimg, and stopped.
    (['network-snapshot-000012.pkl', 'network-final.pkl'], 'network-snapshot-000012.pkl'),
    (['network-final.pkl'], 'network-final.pkl'),
])
def test_folder_of_a_run_stands_for_its_newest_pickle(loaded, tmp_path, capsys, names, newest):
    for name in names:
        (tmp_path / name).write_bytes(b'')
    pretrained_networks.load_networks(tmp_path)
    assert loaded == [str(tmp_path / newest)]


def test_folder_of_checkpoints_or_of_other_pickles(tmp_path):
    (tmp_path / 'checkpoints' / 'kimg-000001.000').mkdir(parents=True)
    (tmp_path / 'checkpoints' / 'kimg-000001.000' / 'state.json').write_text('{}')
    for folder in (tmp_path / 'checkpoints', tmp_path / 'checkpoints' / 'kimg-000001.000'):
        with pytest.raises(UserError, match='found checkpoints, which only continue a training run'):
            pretrained_networks.load_networks(folder)
    (tmp_path / 'mine.pkl').write_bytes(b'')
    with pytest.raises(UserError, match='found a folder without network') as caught:
        pretrained_networks.load_networks(tmp_path)
    assert caught.value.remedy == f'Give one of its pickles, such as {tmp_path / "mine.pkl"}.'


def test_pipes_and_devices_are_not_read(tmp_path):
    os.mkfifo(tmp_path / 'pipe.pkl')
    for path in ('/dev/zero', tmp_path / 'pipe.pkl'):
        with pytest.raises(UserError, match='found a pipe or device'):
            pretrained_networks.load_networks(path)


def test_official_network_is_downloaded_and_loaded_once(loaded, tmp_path):
    first = pretrained_networks.load_networks(FFHQ)
    assert pretrained_networks.load_networks(FFHQ) is first
    assert pretrained_networks.load_networks(FFHQ_URL) is first
    assert loaded == [FFHQ_URL, str(tmp_path / 'cached')]


def test_file_is_loaded_once_and_again_when_it_changes(loaded, tmp_path):
    path = tmp_path / 'net.pkl'
    path.write_bytes(b'a')
    first = pretrained_networks.load_networks(path)
    assert pretrained_networks.load_networks(str(path)) is first and loaded == [str(path)]
    os.utime(path, (1, 1))
    assert pretrained_networks.load_networks(path) is not first and loaded == [str(path)] * 2


def test_failed_load_is_not_remembered(loaded, monkeypatch, tmp_path):
    path = tmp_path / 'net.pkl'
    path.write_bytes(b'a')

    def fail(path):
        raise UserError('damaged')

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules['training.misc'], 'load_networks', fail)
        with pytest.raises(UserError, match='damaged'):
            pretrained_networks.load_networks(path)
    assert len(pretrained_networks.load_networks(path)) == 3


def test_names_need_no_tensorflow():
    code = ('import sys, pretrained_networks; '
            'print([name for name in sys.modules if name in ("tensorflow", "requests", "tqdm")])')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True,
                          cwd=os.path.dirname(pretrained_networks.__file__))
    assert done.stdout.strip() == '[]'
