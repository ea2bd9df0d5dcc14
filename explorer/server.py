"""The web server of the explorer: its addresses, who may use them, and what each of them does."""

from __future__ import annotations

import asyncio
import base64
import json
import mimetypes
import os
import pathlib
import secrets
import socket
import tempfile
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from dnnlib.cli import UserError
from explorer import drawing, jobs
from explorer.recipes import Kitchen, integer
from explorer.shelf import Shelf
from explorer.worker import Worker, message
from latents import editing
from training.options import PRECISIONS

MAX_UPLOAD = 20 * 2 ** 20  # Bytes of a photo.
_MAX_UPLOADS = 4           # Photos that are in memory at a time.
_MAX_JSON = 2 ** 18        # Bytes of any other request.
_PAGE = pathlib.Path(__file__).parent / 'page'
_HEADERS = {
    # The page has its scripts and styles from here, and sends nothing to anybody else.
    'Content-Security-Policy': "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
                               "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
                               "frame-ancestors 'none'",
    'Cross-Origin-Resource-Policy': 'same-origin', 'Referrer-Policy': 'no-referrer',
    'X-Content-Type-Options': 'nosniff', 'Cache-Control': 'no-store',
}


class _TooLarge(UserError):
    """A request has too many bytes."""


class Explorer:
    """All addresses of the explorer.

    Args:
        shelf:      Networks.
        directions: File of directions. None = none.
        hosts:      Names under which the page may be opened. None = any.
        auth:       'USER:PASSWORD' that everybody has to give. None = nobody has to.
        precision:  Key of PRECISIONS, which the page begins with.
        debug:      Print the tracebacks of users' mistakes?

    Attributes:
        app:    ASGI application.
        worker: The thread that computes.
    """

    def __init__(self, shelf: Shelf, directions: str | None = None, hosts: list[str] | None = None,
                 auth: str | None = None, precision: str = 'float32', debug: bool = False):
        self.worker, self._kitchen, self._shelf = Worker(debug), Kitchen(shelf, directions), shelf
        self._uploads = asyncio.Semaphore(_MAX_UPLOADS)
        self._hosts, self._auth, self._precision, self._debug = hosts, auth, precision, debug
        files = {path.name: path.read_bytes() for path in _PAGE.iterdir() if path.is_file()}
        self._files = {'': files['index.html'], **files}
        routes = [Route('/{name}', self._file), Route('/', self._file)]
        for path, method, function in (
                ('info', 'GET', self._info), ('network', 'POST', self._network), ('picture', 'POST', self._picture),
                ('npz', 'POST', self._npz), ('directions', 'POST', self._directions), ('name', 'POST', self._name),
                ('film', 'POST', self._film), ('project', 'POST', self._project), ('jobs/{id}', 'GET', self._job),
                ('jobs/{id}/stop', 'POST', self._stop), ('jobs/{id}/picture', 'GET', self._job_picture),
                ('jobs/{id}/file', 'GET', self._job_file)):
            routes.append(Route(f'/api/{path}', self._guarded(function), methods=[method]))
        app = Starlette(routes=routes)
        self.app = self._checked(app)

    def warm_up(self) -> None:
        """Draw a picture and a preview, because the first of each takes seconds longer than those that follow.

        Raises:
            Exception: What goes wrong with the first picture, such as too little memory.
        """
        request = dict(network=0, recipe=dict(kind='seed', seed=0, psi=0.7), precision=self._precision)
        for preview in (False, True):
            self.worker.call(
                lambda preview=preview: drawing.draw(self._kitchen, {**request, 'preview': preview})).result()

    # ---- Who may use it ----

    def _checked(self, app: Any) -> Any:
        """The application behind the checks of who asks."""
        async def checked(scope: Any, receive: Any, send: Any) -> None:
            if scope['type'] != 'http':
                return
            request = Request(scope)
            refusal = await self._refusal(request)

            async def send_with_headers(event: Any) -> None:
                if event['type'] == 'http.response.start':
                    event['headers'] = [*event['headers'], *((key.lower().encode(), value.encode())
                                                             for key, value in _HEADERS.items())]
                await send(event)
            await (refusal or app)(scope, receive, send_with_headers)
        return checked

    async def _refusal(self, request: Request) -> Response | None:
        """An answer for those who may not use it; None for others."""
        host = request.headers.get('host', '')
        # A page elsewhere can make its own name point to this machine, but not change the name that the browser sends.
        if self._hosts is not None and _host_name(host) not in self._hosts:
            return _error(403, f'this explorer is not at {host!r:.100}', f'Open it as {self._hosts[0]}.')
        # A page elsewhere can send requests here, but not say that they come from here.
        origin = request.headers.get('origin')
        if origin is not None and urllib.parse.urlsplit(origin).netloc != host:
            return _error(403, 'this request comes from another page', '')
        if request.method != 'GET' and request.headers.get('x-explorer') is None:
            return _error(403, 'this request does not come from the page of the explorer', '')
        if self._auth is not None and not _has_password(request, self._auth):
            if request.headers.get('authorization') is not None:
                await asyncio.sleep(1.0)  # Slows down those who guess.
            return Response('Expected the user and password of --auth.\n', 401,
                            {'WWW-Authenticate': 'Basic realm="explorer", charset="UTF-8"'})
        return None

    def _guarded(self, function: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """A function whose errors are answers."""
        async def guarded(request: Request) -> Response:
            try:
                return await function(request)
            except ClientDisconnect:
                return Response(status_code=499)
            except Exception as err:
                text = message(err, self._debug)
                status = 413 if isinstance(err, _TooLarge) else 400 if isinstance(err, UserError) else 500
                return JSONResponse(text, status)
        return guarded

    async def _compute(self, request: Request, function: Callable[[], Any]) -> Any:
        """function(), computed by the worker, unless the page has gone before its turn comes."""
        future = self.worker.call(function)
        waiting = asyncio.wrap_future(future)
        while not waiting.done():
            await asyncio.wait([waiting], timeout=0.5)
            if not waiting.done() and await request.is_disconnected():
                future.cancel()
                raise ClientDisconnect
        return waiting.result()

    # ---- What there is ----

    async def _file(self, request: Request) -> Response:
        name = request.path_params.get('name', '')
        if name not in self._files:
            return _error(404, 'there is no such page', '')
        return Response(self._files[name], media_type=mimetypes.guess_type(name)[0] or 'text/html')

    async def _info(self, request: Request) -> Response:
        return JSONResponse(dict(
            networks=[named.label for named in self._shelf.named], precisions=list(PRECISIONS),
            precision=self._precision, distances=await run_in_threadpool(jobs.available_distances),
            align=jobs.can_align(), directions=self._kitchen.directions_file, formats=list(jobs.FORMATS),
            max_upload=MAX_UPLOAD))

    async def _network(self, request: Request) -> Response:
        index = integer(await _json(request), 'network', 0, 10 ** 6)
        return JSONResponse(await self._compute(request, lambda: self._shelf.load(index).info()))

    async def _picture(self, request: Request) -> Response:
        data = await _json(request)
        picture, command = await self._compute(request, lambda: drawing.draw(self._kitchen, data))
        # Not in the worker, which can begin with the next picture.
        body = await run_in_threadpool(drawing.png, picture)
        return Response(body, media_type='image/png', headers={'X-Command': urllib.parse.quote(command)})

    async def _npz(self, request: Request) -> Response:
        data = await _json(request)
        body = await self._compute(request, lambda: drawing.archive(self._kitchen, data))
        return Response(body, media_type='application/octet-stream')

    async def _directions(self, request: Request) -> Response:
        data = await _json(request)
        found = await self._compute(request, lambda: self._kitchen.directions(
            self._shelf.load(integer(data, 'network', 0, 10 ** 6)), data))
        return JSONResponse([dict(name=name, share=None if share != share else share, layers=layers) for
                             name, share, layers in zip(found.names, found.shares.tolist(), found.layers.tolist())])

    async def _name(self, request: Request) -> Response:
        """Write the name of a direction into the file of directions, the only file that the page can change."""
        data = await _json(request)
        path = self._kitchen.directions_file
        if path is None:
            raise UserError('there is no file of directions to keep names in',
                            'Give run_explorer.py --directions=FILE.')
        index, name = integer(data, 'index', 0, 10 ** 6), str(data.get('name'))
        await self._compute(request, lambda: editing.name_direction(path, [(str(index), name)]))
        return JSONResponse({})

    # ---- Long tasks ----

    async def _film(self, request: Request) -> Response:
        data = await _json(request)

        def start() -> Any:
            net = self._shelf.load(integer(data, 'network', 0, 10 ** 6))
            return self.worker.start(*jobs.start_film(net, data, self._kitchen))
        return JSONResponse((await self._compute(request, start)).status())

    async def _project(self, request: Request) -> Response:
        """Project the photo that is the body of the request, with the options in its address as JSON."""
        try:
            options = json.loads(request.query_params.get('options', ''))
        except (ValueError, RecursionError):
            options = None
        if not isinstance(options, dict):
            raise UserError('options: expected an object')
        async with self._uploads:
            return JSONResponse(await self._opened(request, options))

    async def _opened(self, request: Request, options: dict[str, Any]) -> dict[str, Any]:
        """Start to project the photo, or keep the latents, that is the body of a request."""
        with tempfile.TemporaryDirectory(prefix='explorer-') as folder:
            path = os.path.join(folder, 'upload')
            body = await _body(request, MAX_UPLOAD)
            with open(path, 'wb') as file:
                file.write(body)

            def start() -> Any:
                net = self._shelf.load(integer(options, 'network', 0, 10 ** 6))
                found = jobs.opened(self._kitchen, net, path, str(options.get('name', 'photo')),
                                    options.get('align') is True)
                if isinstance(found, list):
                    return dict(latents=found)
                return self.worker.start(*jobs.start_projection(net, found, options, self._kitchen)).status()
            return await self._compute(request, start)

    async def _job(self, request: Request) -> Response:
        return JSONResponse(self.worker.job(request.path_params['id']).status())

    async def _stop(self, request: Request) -> Response:
        job = self.worker.job(request.path_params['id'])
        job.stop = True
        return JSONResponse(job.status())

    async def _job_picture(self, request: Request) -> Response:
        job = self.worker.job(request.path_params['id'])
        if job.picture is None:
            raise UserError('there is no picture yet', 'Wait a moment.')
        return Response(job.picture, media_type='image/png')

    async def _job_file(self, request: Request) -> Response:
        job = self.worker.job(request.path_params['id'])
        if job.file is None:
            raise UserError('there is no film yet', 'Wait a moment.')
        return FileResponse(job.file, filename=os.path.basename(job.file), content_disposition_type='inline')


# ---- Parts of it ----

def _error(status: int, fact: str, remedy: str) -> Response:
    return JSONResponse(dict(error=fact, remedy=remedy), status)


def _host_name(host: str) -> str:
    """'127.0.0.1:7860' -> '127.0.0.1'; '[::1]:7860' -> '::1'."""
    try:
        return urllib.parse.urlsplit(f'//{host}').hostname or ''
    except ValueError:
        return ''


def _has_password(request: Request, auth: str) -> bool:
    """Does a request have the user and password?"""
    kind, _, value = request.headers.get('authorization', '').partition(' ')
    try:
        given = base64.b64decode(value, validate=True)
    except ValueError:
        return False
    return kind.lower() == 'basic' and secrets.compare_digest(given, auth.encode())


async def _body(request: Request, limit: int) -> bytes:
    """The body of a request. One that is too large is refused before it is read."""
    too_large = _TooLarge(f'this file has more than {limit / 2 ** 20:g} MiB', 'Choose a smaller one.')
    length = request.headers.get('content-length', '')
    if length.isdigit() and int(length) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


async def _json(request: Request) -> dict[str, Any]:
    """The body of a request, an object of JSON."""
    try:
        data = json.loads(await _body(request, _MAX_JSON))
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise UserError('expected an object of JSON', 'Load the page again.')
    return data


def listen(port: int, everywhere: bool) -> socket.socket:
    """A socket for the server, on 127.0.0.1 or on all addresses of the machine.

    Args:
        port:       0 = any that is free.
        everywhere: Listen on all addresses?

    Raises:
        UserError: The port is in use, or needs other rights.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(('0.0.0.0' if everywhere else '127.0.0.1', port))
        sock.listen(100)  # A browser that comes while the networks are loaded waits.
    except OSError as err:
        sock.close()
        raise UserError(f'--port={port}: cannot listen there: {err.strerror}',
                        'Choose another one; 0 takes any that is free.') from err
    return sock


def server(explorer: Explorer) -> uvicorn.Server:
    """The server of an explorer, which keeps no log and tells nobody what it is."""
    # Without log_config, which would close the handlers of all other packages.
    return uvicorn.Server(uvicorn.Config(
        explorer.app, log_config=None, log_level='error', access_log=False, server_header=False, date_header=False,
        lifespan='off', ws='none', proxy_headers=False, limit_concurrency=200, timeout_graceful_shutdown=2))
