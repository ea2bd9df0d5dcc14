"""The command run_explorer.py: its help, its mistakes, and a start and an end."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest
import requests

import run_explorer
from dnnlib import cli
from tests import ROOT
from tests.light_help import help_of

FACES = str(ROOT / 'tests' / 'data' / 'faces32.pkl')


def test_help_is_light():
    assert '--listen' in help_of('run_explorer.py', cwd=ROOT)


@pytest.mark.parametrize('argv, message', [
    ([], 'expected --network, --run, or both'), (['--port=0'], 'expected --network'),
    (['--network='], 'expected a name, got an empty text'), (['--network'], 'expected one argument'),
    (['--run='], 'expected a name, got an empty text'), (['--networks=x.pkl'], 'unrecognized arguments'),
    (['--net=x.pkl'], 'unrecognized arguments'), (['x.pkl'], 'unrecognized arguments'),
    (['--network=x.pkl', '--port=-1'], 'zero or above'), (['--network=x.pkl', '--port=65536'], 'from 0 to 65535'),
    (['--network=x.pkl', '--port=http'], 'zero or above'), (['--network=x.pkl', '--port=80.5'], 'zero or above'),
    (['--network=x.pkl', '--listen'], '--listen: expected --auth with it'),
    (['--network=x.pkl', '--listen=0.0.0.0', '--auth=a:b'], 'ignored explicit argument'),
    (['--network=x.pkl', '--auth=guest'], 'expected USER:PASSWORD'),
    (['--network=x.pkl', '--auth=:secret'], 'expected USER:PASSWORD'),
    (['--network=x.pkl', '--auth=guest:'], 'expected USER:PASSWORD'), (['--network=x.pkl', '--auth='], 'USER:PASSWORD'),
    (['--network=x.pkl', '--auth=a:b\n'], 'without control characters'),
    (['--network=x.pkl', '--precision=float8'], 'invalid choice'),
    (['--network=x.pkl', '--impl=fast'], 'invalid choice'),
    (['--network=x.pkl', '--tf32=maybe'], 'expected true or false'),
    (['--network=x.pkl', '--directions='], 'expected a name, got an empty text'),
    (['--network=x.pkl', '--directions=none.npz'], '--directions=none.npz: there is no such file'),
    (['--network=x.pkl', '--directions=.'], '--directions=.: there is no such file')])
def test_mistakes_on_the_command_line(argv, message, capsys):
    with pytest.raises((SystemExit, cli.UserError)) as caught:
        run_explorer.main(argv)
    text = str(caught.value) if isinstance(caught.value, cli.UserError) else capsys.readouterr().err
    assert message in text.splitlines()[0 if isinstance(caught.value, cli.UserError) else -1]
    assert 'secret' not in text and len(text.splitlines()) <= 12


@pytest.mark.parametrize('argv, message', [
    (['--network=none.pkl'], "'none.pkl': there is no such file"), (['--network={tmp}'], 'without network-*.pkl'),
    (['--network={tmp}/text.pkl'], 'text.pkl'), (['--network=gdrive:none'], 'no official network of this name'),
    (['--run={tmp}'], 'expected network-snapshot-*.pkl, found none'),
    (['--run=none'], '--run=none: expected the folder'),
    (['--run={tmp}/text.pkl'], 'found a file'), (['--network={faces}', '--network=none.pkl'], 'there is no such file'),
    (['--network={faces}', '--directions={tmp}/text.pkl'], 'text.pkl is no .npz of directions'),
    (['--network={faces}', '--port={used}'], 'cannot listen there: Address already in use')])
def test_files_and_ports_that_cannot_be_used(argv, message, tmp_path, monkeypatch):
    monkeypatch.setattr('uvicorn.Server.run', lambda *args, **kwargs: pytest.fail('it has started'))
    (tmp_path / 'text.pkl').write_text('no network')
    with socket.socket() as used:
        used.bind(('127.0.0.1', 0))
        used.listen()
        names = dict(tmp=tmp_path, faces=FACES, used=used.getsockname()[1])
        with pytest.raises(cli.UserError) as caught:
            run_explorer.main(['--port=0', *(arg.format(**names) for arg in argv)])
    assert message in caught.value.fact and '\n' not in caught.value.fact and caught.value.remedy


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'uvicorn', None)
    with pytest.raises(cli.UserError, match='uvicorn, which is not installed\n.*explorer'):
        run_explorer.main(['--network=x.pkl'])


@pytest.mark.slow
def test_it_starts_and_ends(tmp_path):
    """With a password, for all computers; after SIGTERM no file of it is left."""
    process = subprocess.Popen(
        [sys.executable, 'run_explorer.py', f'--network={FACES}', '--port=0', '--listen', '--auth=guest:secret'],
        stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, 'TMPDIR': str(tmp_path)})
    try:
        use_and_end(process, tmp_path)
    finally:
        process.kill()
        process.wait()


def use_and_end(process, tmp_path):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if 'not encrypted' in line:
            break
    address = re.search(r'http://\S+', ''.join(lines))[0]
    assert requests.get(address, timeout=60).status_code == 401
    answer = requests.post(f'{address}/api/picture', auth=('guest', 'secret'), headers={'X-Explorer': '1'}, timeout=60,
                           json=dict(network=0, recipe=dict(kind='seed', seed=1)))
    assert answer.content.startswith(b'\x89PNG')
    keys = [dict(kind='seed', seed=seed) for seed in range(9)]
    film = requests.post(f'{address}/api/film', auth=('guest', 'secret'), headers={'X-Explorer': '1'}, timeout=60,
                         json=dict(network=0, keys=keys, seconds=10, format='gif'))
    assert film.json()['state'] == 'running' and list(tmp_path.iterdir())
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and rest == 'Ended.\n' and not list(tmp_path.glob('explorer-*'))
    assert 'secret' not in ''.join(lines)
