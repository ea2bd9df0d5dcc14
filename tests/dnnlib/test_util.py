"""Durations as text, dictionaries with attributes, and downloads from a local server that misbehaves."""

import contextlib
import http.server
import os
import pathlib
import socket
import threading

import pytest

from dnnlib import EasyDict, util
from dnnlib.cli import UserError

PAYLOAD = b'\x80\x04' + bytes(range(256)) * 3000  # begins like a pickle; three reads long


@pytest.mark.parametrize('seconds, text', [
    (0, '0s'), (6.4, '6s'), (59.4, '59s'), (59.6, '1m 00s'), (65, '1m 05s'), (3599.7, '1h 00m 00s'),
    (7384, '2h 03m 04s'),
    (86399, '23h 59m 59s'), (86400 + 5 * 3600 + 12 * 60 + 59, '1d 05h 12m'), (10 * 86400, '10d 00h 00m'),
])
def test_format_time(seconds, text):
    assert util.format_time(seconds) == text


def test_easy_dict_items_are_attributes():
    d = EasyDict(a=1)
    d.b = 2
    del d.a
    assert d == {'b': 2} and d.b == 2 and not hasattr(d, 'a')


@pytest.mark.parametrize('text, expected', [
    ('https://host/file.pkl', True), ('http://127.0.0.1:80', True), ('gdrive:networks/a.pkl', False),
    ('file:///etc/passwd', False),
    ('/a/b.pkl', False), ('C:/a.pkl', False), ('http://', False), ('ftp://host/a', False), ('', False), (None, False),
    (pathlib.Path('a'), False),
])
def test_is_url(text, expected):
    assert util.is_url(text) is expected


# ---- Downloads ----

class Server(http.server.ThreadingHTTPServer):
    """Answers each request with the next of `answers`: (status, headers, body), or None to hang up.

    The last answer is repeated.
    """

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.answers = []
        self.requests = []

    def url(self, path='/net.pkl'):
        return f'http://127.0.0.1:{self.server_port}{path}'


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        self.server.requests.append(self.path)
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is None:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status, headers, body = answer
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def file(body=PAYLOAD, **headers):
    return 200, {'Content-Type': 'application/octet-stream', 'Content-Length': str(len(body)), **headers}, body


def page(text):
    content = f'<!DOCTYPE html><html><body>{text}</body></html>'
    return 200, {'Content-Type': 'text/html; charset=utf-8'}, content.encode()


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def pauses(monkeypatch):
    """Lengths of the pauses between attempts, which are recorded instead of waiting."""
    taken = []
    monkeypatch.setattr(util.time, 'sleep', taken.append)
    return taken


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')


def failure(url, tmp_path, **kwargs):
    """Make a download that must fail, leave nothing in the cache and say where the file belongs. Returns the fact."""
    with pytest.raises(UserError) as caught:
        util.open_url(url, tmp_path, **kwargs)
    assert os.listdir(tmp_path) == []
    assert caught.value.fact.startswith(f'{url}: download failed: ') and '\n' not in caught.value.fact
    assert caught.value.remedy.endswith(f' save it as {util.cached_path(url, tmp_path)}')
    return caught.value.fact


def test_download_arrives_and_is_kept(server, tmp_path, pauses, capsys):
    server.answers = [file()]
    for _ in range(2):
        with util.open_url(server.url(), tmp_path / 'new' / 'cache', kind='pickle') as f:
            assert f.read() == PAYLOAD
    assert f.name == util.cached_path(server.url(), tmp_path / 'new' / 'cache') and f.name.endswith('-net.pkl')
    assert server.requests == ['/net.pkl'] and pauses == []
    assert os.listdir(tmp_path / 'new' / 'cache') == [os.path.basename(f.name)]
    assert capsys.readouterr().out == f'Downloading {server.url()} ...\n'


def test_quiet_download_prints_nothing(server, tmp_path, pauses, capfd):
    server.answers = [(503, {}, b''), file()]
    util.open_url(server.url(), tmp_path, verbose=False).close()
    assert capfd.readouterr() == ('', '')


def test_file_put_in_the_cache_by_hand_is_used(server, tmp_path):
    pathlib.Path(util.cached_path(server.url(), tmp_path)).write_bytes(b'by hand')
    with util.open_url(server.url(), tmp_path) as f:
        assert f.read() == b'by hand'
    assert server.requests == []


def test_cache_folder_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path))
    assert os.path.dirname(util.cached_path('http://host/a.pkl')) == str(tmp_path)
    monkeypatch.delenv('DNNLIB_CACHE_DIR')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert os.path.dirname(util.cached_path('http://host/a.pkl')) == str(tmp_path / '.cache' / 'stylegan2')


def test_different_urls_have_different_files():
    urls = ['http://a/x/net.pkl', 'http://a/y/net.pkl', 'http://b/x/net.pkl', 'http://a/uc?id=1', 'http://a/uc?id=2',
            'http://a', 'http://a/../../']
    names = [os.path.basename(util.cached_path(url, 'cache')) for url in urls]
    assert len(set(names)) == len(urls)
    for url, name in zip(urls, names):
        assert util.cached_path(url, 'cache') == os.path.join(os.getcwd(), 'cache', name)


@pytest.mark.parametrize('trouble', [
    None, (503, {}, b''), (429, {}, b''), file(b''), (200, {'Content-Length': str(len(PAYLOAD))}, PAYLOAD[:-1]),
    (200, {'Content-Length': str(len(PAYLOAD))}, b''),
], ids=['hangs up', 'overloaded', 'too many requests', 'empty', 'truncated', 'no body'])
def test_passing_trouble_is_tried_again(trouble, server, tmp_path, pauses):
    server.answers = [trouble, trouble, file()]
    with util.open_url(server.url(), tmp_path) as f:
        assert f.read() == PAYLOAD
    assert len(server.requests) == 3 and pauses == [0.5, 1]
    assert os.listdir(tmp_path) == [os.path.basename(f.name)]


def test_truncated_every_time_fails(server, tmp_path, pauses):
    server.answers = [(200, {'Content-Length': str(len(PAYLOAD))}, PAYLOAD[:-1])]
    assert 'bytes' in failure(server.url(), tmp_path)
    assert len(server.requests) == 10
    assert pauses == [0.5, 1, 2, 4, 8, 10, 10, 10, 10]


@pytest.mark.parametrize('status', [404, 403, 410])
def test_missing_file_is_not_asked_for_again(status, server, tmp_path, pauses):
    server.answers = [(status, {'Content-Type': 'text/html'}, b'<html>')]
    assert f'the server answered {status}' in failure(server.url(), tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize('answer', [
    page('Please log in'), (200, {}, b'\n <html>'), (200, {'Content-Type': 'text/html'}, b''), file(b'<!DOCTYPE html>'),
    page('<a href="http://127.0.0.1/uc?confirm=t">not a page of Google Drive</a>'),
])
def test_web_page_is_refused(answer, server, tmp_path, pauses):
    server.answers = [answer]
    assert 'a web page came instead of the file' in failure(server.url(), tmp_path)
    assert len(server.requests) == 1


def test_what_is_no_pickle_is_refused(server, tmp_path):
    server.answers = [file(b'hello')]
    assert 'not a pickle' in failure(server.url(), tmp_path, kind='pickle')
    with util.open_url(server.url(), tmp_path) as f:
        assert f.read() == b'hello'


def test_offline_is_said_after_few_attempts(tmp_path, pauses):
    with socket.socket() as unused:  # Bound, but not listening.
        unused.bind(('127.0.0.1', 0))
        assert 'no answer from 127.0.0.1' in failure(f'http://127.0.0.1:{unused.getsockname()[1]}/net.pkl', tmp_path)
    assert pauses == [0.5, 1]


def test_unwritable_cache_is_named(tmp_path):
    (tmp_path / 'cache').write_text('a file where the folder should be')
    with pytest.raises(UserError, match='DNNLIB_CACHE_DIR') as caught:
        util.open_url('http://127.0.0.1:9/net.pkl', tmp_path / 'cache')
    assert str(tmp_path / 'cache') in caught.value.fact


@pytest.mark.parametrize('args', [
    dict(url='net.pkl'), dict(url='file:///net.pkl'), dict(url='http://host/a', kind='zip'),
    dict(url='http://host/a', num_attempts=0),
])
def test_wrong_arguments_are_refused(args):
    with pytest.raises(ValueError, match='expected .* Received'):
        util.open_url(**args)


# ---- Google Drive: the first answer is a page with a button ----

FORM = ('<a href="/about">About</a><form id="download-form" action="/download" method="get">'
        '<input type="submit" value="Download anyway"/>'
        '<input type="hidden" name="id" value="X&amp;1"><input type="hidden" name="confirm" value="t"></form>')
LINK = '<a href="/uc?export=download&amp;confirm=a1&amp;id=X">Download anyway</a>'


@pytest.fixture
def drive(server, monkeypatch):
    monkeypatch.setattr(util, '_DRIVE_HOSTS', ('127.0.0.1',))
    return server


@pytest.mark.parametrize('text, second',
                         [(FORM, '/download?id=X%261&confirm=t'), (LINK, '/uc?export=download&confirm=a1&id=X')])
def test_drive_page_is_confirmed(text, second, drive, tmp_path):
    drive.answers = [page(text), file()]
    with util.open_url(drive.url('/uc?id=X'), tmp_path) as f:
        assert f.read() == PAYLOAD
    assert drive.requests == ['/uc?id=X', second]


@pytest.mark.parametrize('texts, expected', [
    (['Sign in'], 'a page of Google Drive'), ([FORM, FORM], 'a page of Google Drive'),
    ([FORM, LINK], 'again and again'),
    ([LINK.replace('/uc', 'http://elsewhere.test/uc')], 'a page of Google Drive'),
    ([FORM.replace('/download', 'file:///etc/passwd')], 'a page of Google Drive'),
    (['Google Drive - Quota exceeded'], 'quota'),
])
def test_drive_page_that_leads_nowhere_is_refused(texts, expected, drive, tmp_path):
    drive.answers = [page(text) for text in texts]
    assert expected in failure(drive.url('/uc?id=X'), tmp_path)
    assert len(drive.requests) == len(texts)
