"""Small things used everywhere: a dictionary with attributes, times for people, downloads."""

import hashlib
import html.parser
import importlib
import itertools
import os
import posixpath
import re
import time
import urllib.parse
from typing import Any

from dnnlib.cli import UserError
from dnnlib.progress import ProgressBar, format_time  # noqa: F401  The original has format_time here.


class EasyDict(dict):
    """A dict whose items are attributes too: `d.name` is `d['name']`."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name, value):
        self[name] = value

    def __delattr__(self, name):
        del self[name]


def get_obj_by_name(name: str) -> Any:
    """Import 'package.module.object' and return the object.

    Args:
        name: Dotted name. It must not come from a file or another untrusted source, because importing runs code.

    Raises:
        ImportError, AttributeError: There is no such module or object.
    """
    module, _, attribute = name.rpartition('.')
    return getattr(importlib.import_module(module), attribute)


# ----------------------------------------------------------------------------
# Downloads.

_DRIVE_HOSTS = ('drive.google.com', 'docs.google.com', 'drive.usercontent.google.com')
_MAX_PAGE = 1 << 20         # bytes of a web page that are looked at
_CHUNK = 1 << 18            # bytes per read
_TIMEOUT = (10, 60)         # seconds to connect, seconds without any data
_MAX_DELAY = 10             # seconds between two attempts
_MAX_UNREACHABLE = 3        # attempts that find no server at all; more of them are only a longer wait for the same message


class _Unusable(Exception):
    """The server answered, and another attempt would get the same answer."""


class _Failed(Exception):
    """The download failed in a way that may not last."""


def is_url(text):
    """True if `text` is a str that begins with http:// or https:// and names a host."""
    if not isinstance(text, str):
        return False
    parts = urllib.parse.urlsplit(text)
    return parts.scheme in ('http', 'https') and bool(parts.netloc)


class NoAnswer(UserError):
    """The server of a download cannot be reached."""


def cache_folder(cache_dir=None):
    """Absolute path of the folder that keeps downloads: `cache_dir`, or $DNNLIB_CACHE_DIR, or ~/.cache/stylegan2."""
    folder = cache_dir or os.environ.get('DNNLIB_CACHE_DIR') or os.path.join('~', '.cache', 'stylegan2')
    return os.path.abspath(os.path.expanduser(folder))


def cached_path(url, cache_dir=None, name=None):
    """Absolute path of the file that `open_url` keeps for `url`, whether or not it is there yet. Arguments as in `open_url`."""
    if name is not None:
        return os.path.join(cache_folder(cache_dir), name)
    parts = urllib.parse.urlsplit(url)
    name = '_'.join(filter(None, [posixpath.basename(parts.path), parts.query])) or parts.netloc
    name = re.sub(r'[^0-9A-Za-z._-]+', '_', name)[-100:]
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]  # tells apart files of the same name
    return os.path.join(cache_folder(cache_dir), f'{digest}-{name}')


def file_sha256(path):
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, 'rb') as file:
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        return digest.hexdigest()


def open_url(url, cache_dir=None, num_attempts=10, verbose=True, kind=None, name=None, sha256=None):
    """Download a file, unless it is in the cache already, and open it.

    Args:
        url:          Address, http:// or https://. Large files of Google Drive are confirmed as their page asks for.
        cache_dir:    Folder that keeps the file. None = $DNNLIB_CACHE_DIR, or ~/.cache/stylegan2 where that is not set.
        num_attempts: Attempts in all, with growing pauses between them. A server that cannot be reached gets three.
        verbose:      Say what happens, and show progress.
        kind:         'pickle' = refuse what does not begin like a (binary) pickle. None = anything but a web page.
        name:         Name of the file in the cache. None = made from the URL.
        sha256:       What the SHA-256 of the file must be, as 64 hexadecimal digits. None = not known.

    Returns:
        Binary file object of the file in the cache; its path is `.name`.

    The file enters the cache complete or not at all: it is written beside its place, its length compared with the one that the
    server announced, and then renamed.

    Raises:
        UserError: No usable file came, or the file in the cache is another one. The message says which file to put where by hand.
        NoAnswer:  That UserError, where the server cannot be reached.
    """
    if not is_url(url) or kind not in (None, 'pickle') or num_attempts < 1:
        raise ValueError("expected a http(s) URL, kind None or 'pickle', and at least one attempt. "
                         f'Received: {url!r}, {kind!r}, {num_attempts!r}')
    path = cached_path(url, cache_dir, name)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not os.path.isfile(path):
            if verbose:
                print(f'Downloading {url} ...', flush=True)
            _download(url, path, num_attempts, verbose, kind, sha256)
        elif sha256 and file_sha256(path) != sha256:
            raise UserError(f'{path}: its SHA-256 is not {sha256}: the file is damaged or another one',
                            'Delete it, and it is downloaded again.')
        return open(path, 'rb')
    except OSError as err:
        raise UserError(f'{path}: cannot be written or read: {err.strerror}', 'Set DNNLIB_CACHE_DIR to another folder.') from None


def _download(url, path, num_attempts, verbose, kind, sha256):
    """Attempt after attempt to bring `url` to `path`; UserError when they are used up."""
    import requests
    part = f'{path}.part{os.getpid()}'
    unreachable = 0
    try:
        for attempt in range(1, num_attempts + 1):
            try:
                with requests.Session() as session:
                    confirmed = _fetch(session, url, part, verbose, kind)
                    if confirmed is not None and _fetch(session, confirmed, part, verbose, kind) is not None:
                        raise _Unusable('Google Drive asks for confirmation again and again')
                if sha256 and file_sha256(part) != sha256:
                    raise _Unusable(f'what came is another file: its SHA-256 is not {sha256}')
                os.replace(part, path)
                return
            except _Unusable as err:
                reason = err
                break
            except _Failed as err:
                reason = err
            except requests.RequestException as err:  # no network, no such host, connection refused, timeout
                reason = f'no answer from {urllib.parse.urlsplit(url).netloc} ({type(err).__name__})'
                unreachable += 1
            if attempt == num_attempts or unreachable == _MAX_UNREACHABLE:
                break
            delay = min(0.5 * 2 ** (attempt - 1), _MAX_DELAY)
            if verbose:
                print(f'Download failed: {reason}. Next attempt in {delay:g} s ({attempt + 1}/{num_attempts}).', flush=True)
            time.sleep(delay)
    finally:
        if os.path.exists(part):
            os.remove(part)
    error = NoAnswer if unreachable == attempt else UserError
    raise error(f'{url}: download failed: {reason}', f'Get the file by other means and save it as {path}')


def _fetch(session, url, part, verbose, kind):
    """One request, written to the file `part`. Returns None, or the URL to ask instead if a page of Google Drive names one."""
    import requests
    with session.get(url, stream=True, timeout=_TIMEOUT, headers={'Accept-Encoding': 'identity'}) as response:
        if response.status_code >= 400:
            answer = f'the server answered {response.status_code} {response.reason}'
            raise _Failed(answer) if response.status_code in (408, 429) or response.status_code >= 500 else _Unusable(answer)
        length = response.headers.get('Content-Length', '')
        expected = int(length) if length.isdigit() and 'Content-Encoding' not in response.headers else None  # None = not announced
        chunks = response.iter_content(_CHUNK)
        received = 0
        try:
            head = next(chunks, b'')
            if response.headers.get('Content-Type', '').startswith('text/html') or head.lstrip()[:1] == b'<':
                return _link_on_page(head + next(chunks, b''), response.url)
            if kind == 'pickle' and head[:1] != b'\x80':  # the first instruction of every binary pickle
                raise _Unusable('what came is not a pickle')
            label = posixpath.basename(urllib.parse.urlsplit(url).path)
            with open(part, 'wb') as file, ProgressBar(label, expected, 'B', enabled=verbose) as progress:
                for chunk in itertools.chain([head], chunks):
                    file.write(chunk)
                    received += len(chunk)
                    progress.update(len(chunk))
        except requests.RequestException:
            raise _Failed(f'the connection broke off after {received} bytes') from None
    if received == 0 or received != (expected or received):
        raise _Failed(f'{received} bytes came, expected {expected or "more"}')
    return None


class _DrivePage(html.parser.HTMLParser):
    """Finds on a page of Google Drive where its button 'Download anyway' leads: a form, in former years a link."""

    def __init__(self):
        super().__init__()
        self.action = None
        self.fields = {}
        self.link = None

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == 'form' and attrs.get('id') == 'download-form':
            self.action = attrs.get('action')
        elif tag == 'input' and self.action and attrs.get('name'):
            self.fields[attrs['name']] = attrs.get('value') or ''
        elif tag == 'a' and 'confirm=' in (attrs.get('href') or ''):
            self.link = attrs['href']


def _link_on_page(page, url):
    """URL behind the confirmation page `page` (bytes) of Google Drive that `url` led to. Any other page raises _Unusable."""
    text = page[:_MAX_PAGE].decode('utf-8', 'replace')
    if urllib.parse.urlsplit(url).hostname not in _DRIVE_HOSTS:
        raise _Unusable('a web page came instead of the file')
    if 'quota exceeded' in text.lower():
        raise _Unusable('Google Drive has reached its quota for this file; it may work again tomorrow')
    found = _DrivePage()
    found.feed(text)
    target = f'{found.action}?{urllib.parse.urlencode(found.fields)}' if found.action else found.link
    target = urllib.parse.urljoin(url, target or '')
    if target == url or urllib.parse.urlsplit(target).hostname not in _DRIVE_HOSTS:  # a page must not send us elsewhere
        raise _Unusable('a page of Google Drive came instead of the file')
    return target
