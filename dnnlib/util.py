"""Small helpers: a dictionary with attributes, functions that threads compute ahead, downloads."""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import hashlib
import html.parser
import importlib
import itertools
import os
import posixpath
import re
import sys
import time
import types
import urllib.parse
from collections.abc import Callable, Generator, Iterable
from typing import IO, Any, TypeGuard, TypeVar

from dnnlib import storage
from dnnlib.cli import UserError
from dnnlib.progress import ProgressBar, format_time  # noqa: F401  The original has format_time here.

_Item = TypeVar('_Item')
_Result = TypeVar('_Result')


class EasyDict(dict):
    """A dict whose items are also attributes: `d.name` is `d['name']`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]


# ---- Objects by name: names must not come from a file or another untrusted source, because importing runs code ----

def get_module_from_obj_name(obj_name: str) -> tuple[types.ModuleType, str]:
    """Import the module of 'package.module.object', and return it and the rest of the name, which may have dots.

    Raises:
        ImportError: There is no such module.
    """
    parts = obj_name.split('.')
    for count in range(len(parts) - 1, 0, -1):
        name = '.'.join(parts[:count])
        try:
            return importlib.import_module(name), '.'.join(parts[count:])
        except ModuleNotFoundError as err:
            # Unless the module is there and itself fails to import another one, the last part may be a class.
            if count == 1 or err.name is None or not (name == err.name or name.startswith(f'{err.name}.')):
                raise
    raise ImportError(f"expected a name such as 'package.module.object', received {obj_name!r}")


def get_obj_by_name(name: str) -> Any:
    """Import 'package.module.object' and return the object.

    Raises:
        ImportError, AttributeError: There is no such module or object.
    """
    module, rest = get_module_from_obj_name(name)
    return functools.reduce(getattr, rest.split('.'), module)


def call_func_by_name(*args: Any, func_name: str, **kwargs: Any) -> Any:
    """Call the function 'package.module.function' with the other arguments. Errors as in `get_obj_by_name`."""
    return get_obj_by_name(func_name)(*args, **kwargs)


def construct_class_by_name(*args: Any, class_name: str, **kwargs: Any) -> Any:
    """Make an object of the class 'package.module.class'. Errors as in `get_obj_by_name`."""
    return get_obj_by_name(class_name)(*args, **kwargs)


class Logger:
    """Copies what is printed into a file until it is closed. Also a context manager.

    Args:
        file_name:    File. None = only flush what is printed.
        file_mode:    As in `open`.
        should_flush: Write at once?
    """

    def __init__(self, file_name: str | None = None, file_mode: str = 'w', should_flush: bool = True):
        self.file: IO[str] | None = None
        if file_name is not None:
            self.file = open(file_name, file_mode, encoding='utf-8')  # noqa: SIM115  See close.
        self.should_flush = should_flush
        self.stdout, self.stderr = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = self

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def write(self, text: str) -> int:
        """Print `text`, and write it into the file."""
        if text:
            if self.file:
                self.file.write(text)
            self.stdout.write(text)
            if self.should_flush:
                self.flush()
        return len(text)

    def flush(self) -> None:
        """Flush the file and stdout."""
        if self.file:
            self.file.flush()
        self.stdout.flush()

    def close(self) -> None:
        """Close the file, and print as before."""
        self.flush()
        if sys.stdout is self:
            sys.stdout = self.stdout
        if sys.stderr is self:
            sys.stderr = self.stderr
        if self.file:
            self.file.close()
            self.file = None


def map_in_order(function: Callable[[_Item], _Result], items: Iterable[_Item], num_threads: int,
                 ahead: int) -> Generator[_Result, None, None]:
    """Yield function(item) of each item in order, computed by threads that stay ahead of the caller.

    Args:
        function:    Called in the threads.
        items:       Iterated over in the thread of the caller.
        num_threads: Number of threads.
        ahead:       Number of results that are computed before they are asked for. 0 = none.
    """
    pool = concurrent.futures.ThreadPoolExecutor(num_threads)
    pending = collections.deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


# ---- Downloads ----

_DRIVE_HOSTS = ('drive.google.com', 'docs.google.com', 'drive.usercontent.google.com')
_MAX_PAGE = 1 << 20         # Bytes of a web page that are parsed.
_CHUNK = 1 << 18            # Bytes per read.
_TIMEOUT = (10, 60)         # Seconds to connect, seconds without any data.
_MAX_DELAY = 10             # Seconds between two attempts.
_MAX_UNREACHABLE = 3        # Number of attempts if the server cannot be reached: more would hardly help.


class _Unusable(Exception):
    """The download failed, and another attempt would fail in the same way."""


class _Failed(Exception):
    """The download failed, and another attempt may succeed."""


def is_url(text: object) -> TypeGuard[str]:
    """Whether `text` is a str that begins with http:// or https:// and names a host."""
    if not isinstance(text, str):
        return False
    parts = urllib.parse.urlsplit(text)
    return parts.scheme in ('http', 'https') and bool(parts.netloc)


class NoAnswer(UserError):
    """The server of a download cannot be reached."""


def cache_folder(cache_dir: str | os.PathLike | None = None) -> str:
    """Return the absolute path of the download folder: `cache_dir`, or $DNNLIB_CACHE_DIR, or ~/.cache/stylegan2."""
    folder = cache_dir or os.environ.get('DNNLIB_CACHE_DIR') or os.path.join('~', '.cache', 'stylegan2')
    return os.path.abspath(os.path.expanduser(folder))


def cached_path(url: str, cache_dir: str | os.PathLike | None = None, name: str | None = None) -> str:
    """Return the absolute path of the cached file of `url`, which need not exist yet. Arguments as in `open_url`."""
    if name is not None:
        return os.path.join(cache_folder(cache_dir), name)
    parts = urllib.parse.urlsplit(url)
    name = '_'.join(filter(None, [posixpath.basename(parts.path), parts.query])) or parts.netloc
    name = re.sub(r'[^0-9A-Za-z._-]+', '_', name)[-100:]
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]  # Distinguishes files of the same name.
    return os.path.join(cache_folder(cache_dir), f'{digest}-{name}')


def file_sha256(path: str | os.PathLike) -> str:
    """Compute the SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, 'rb') as file:
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        return digest.hexdigest()


def open_url(url: str, cache_dir: str | os.PathLike | None = None, num_attempts: int = 10, verbose: bool = True,
             kind: str | None = None, name: str | None = None, sha256: str | None = None) -> IO[bytes]:
    """Download a file, unless it is already in the cache, and open it; or open a local file.

    The file appears in the cache complete or not at all. Its length is compared with the one that the server announced.

    Args:
        url:          Address, http:// or https://. The download of large files from Google Drive is confirmed.
                      Or the path of a file, for which only `sha256` counts.
        cache_dir:    Folder for the file. None = $DNNLIB_CACHE_DIR, or ~/.cache/stylegan2 if that is not set.
        num_attempts: Maximum number of attempts, with growing pauses in between; three if the server cannot be reached.
        verbose:      Print what happens, and show progress?
        kind:         'pickle' = refuse files that do not begin like a binary pickle. None = any file but a web page.
        name:         Name of the file in the cache. None = made from the URL.
        sha256:       Expected SHA-256 of the file, as 64 hexadecimal digits. None = not known.

    Returns:
        Binary file object of the file in the cache; its path is `.name`.

    Raises:
        ValueError: An argument is invalid, or `url` is neither an address nor the path of a file.
        UserError:  The download failed, or the file is not the expected one. The message says where to put the file
                    if it is downloaded by hand.
        NoAnswer:   A UserError: the server cannot be reached.
    """
    if not is_url(url) and os.path.isfile(url):
        if sha256 and file_sha256(url) != sha256:
            raise UserError(f'{url}: its SHA-256 is not {sha256}', 'The file is damaged or another one.')
        return open(url, 'rb')
    if not is_url(url) or kind not in (None, 'pickle') or num_attempts < 1:
        raise ValueError("expected a http(s) URL or a file, kind None or 'pickle', and at least one attempt. "
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
                            'Delete it, and it will be downloaded again.')
        return open(path, 'rb')
    except OSError as err:
        raise UserError(f'{path}: cannot be written or read: {err.strerror}',
                        'Set DNNLIB_CACHE_DIR to another folder.') from None


def _download(url, path, num_attempts, verbose, kind, sha256):
    """Download `url` to `path` in up to `num_attempts` attempts. Raises UserError if all of them fail."""
    import requests
    unreachable = 0
    with storage.new_file(path, shared=True) as part:
        for attempt in range(1, num_attempts + 1):
            try:
                return _download_once(url, part, verbose, kind, sha256)
            except _Unusable as err:
                reason, is_last = str(err), True
            except _Failed as err:
                reason, is_last = str(err), attempt == num_attempts
            except requests.RequestException as err:  # No network, no such host, connection refused, timeout.
                reason = f'no answer from {urllib.parse.urlsplit(url).netloc} ({type(err).__name__})'
                unreachable += 1
                is_last = attempt == num_attempts or unreachable == _MAX_UNREACHABLE
            if is_last:
                error = NoAnswer if unreachable == attempt else UserError
                raise error(f'{url}: download failed: {reason}', f'Get the file by other means and save it as {path}')
            delay = min(0.5 * 2 ** (attempt - 1), _MAX_DELAY)
            if verbose:
                print(f'Download failed: {reason}. Next attempt in {delay:g} s ({attempt + 1}/{num_attempts}).',
                      flush=True)
            time.sleep(delay)


def _download_once(url, part, verbose, kind, sha256):
    """Download `url` to the file `part`, if necessary by way of a confirmation page of Google Drive."""
    import requests
    with requests.Session() as session:
        confirmed = _fetch(session, url, part, verbose, kind)
        if confirmed is not None and _fetch(session, confirmed, part, verbose, kind) is not None:
            raise _Unusable('Google Drive asks for confirmation again and again')
    if sha256 and file_sha256(part) != sha256:
        raise _Unusable(f'what came is another file: its SHA-256 is not {sha256}')


def _fetch(session, url, part, verbose, kind):
    """Write the answer to one request to the file `part`.

    Returns None, or the URL to use instead if the answer is a confirmation page of Google Drive.
    """
    import requests
    with session.get(url, stream=True, timeout=_TIMEOUT, headers={'Accept-Encoding': 'identity'}) as response:
        if response.status_code >= 400:
            answer = f'the server answered {response.status_code} {response.reason}'
            may_succeed_later = response.status_code in (408, 429) or response.status_code >= 500
            raise _Failed(answer) if may_succeed_later else _Unusable(answer)
        length = response.headers.get('Content-Length', '')
        is_known = length.isdigit() and 'Content-Encoding' not in response.headers
        expected = int(length) if is_known else None
        chunks = response.iter_content(_CHUNK)
        received = 0
        try:
            head = next(chunks, b'')
            if response.headers.get('Content-Type', '').startswith('text/html') or head.lstrip()[:1] == b'<':
                return _link_on_page(head + next(chunks, b''), response.url)
            if kind == 'pickle' and head[:1] != b'\x80':  # The first instruction of every binary pickle.
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
    """Finds the target of the button 'Download anyway' on a page of Google Drive: a form; in former years, a link."""

    def __init__(self):
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self.link: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or '' for name, value in attrs}
        if tag == 'form' and values.get('id') == 'download-form':
            self.action = values.get('action')
        elif tag == 'input' and self.action and values.get('name'):
            self.fields[values['name']] = values.get('value', '')
        elif tag == 'a' and 'confirm=' in values.get('href', ''):
            self.link = values['href']


def _link_on_page(page, url):
    """URL that a confirmation page of Google Drive leads to. Raises _Unusable for any other page.

    Args:
        page: The page as bytes.
        url:  Address of the page.
    """
    text = page[:_MAX_PAGE].decode('utf-8', 'replace')
    if urllib.parse.urlsplit(url).hostname not in _DRIVE_HOSTS:
        raise _Unusable('a web page came instead of the file')
    if 'quota exceeded' in text.lower():
        raise _Unusable('Google Drive has reached its quota for this file; it may work again tomorrow')
    found = _DrivePage()
    found.feed(text)
    target = f'{found.action}?{urllib.parse.urlencode(found.fields)}' if found.action else found.link
    target = urllib.parse.urljoin(url, target or '')
    if target == url or urllib.parse.urlsplit(target).hostname not in _DRIVE_HOSTS:  # Follow no links to other servers.
        raise _Unusable('a page of Google Drive came instead of the file')
    return target
