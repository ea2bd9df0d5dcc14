"""An explorer in a thread of the tests, and requests to it."""

import contextlib
import io
import threading
import time

import numpy as np
import PIL.Image
import requests

from explorer import server
from explorer.shelf import Shelf
from tests import ROOT

FACES = str(ROOT / 'tests' / 'data' / 'faces32.pkl')
HEADERS = {'X-Explorer': '1'}


@contextlib.contextmanager
def serving(networks=(FACES,), run=None, **kwargs):
    """The address of an explorer that runs in a thread: 'http://127.0.0.1:12345'."""
    sock = server.listen(0, everywhere=False)
    explorer = server.Explorer(Shelf(list(networks), run), **{'hosts': ['127.0.0.1', 'localhost'], **kwargs})
    uvicorn = server.server(explorer)
    thread = threading.Thread(target=uvicorn.run, kwargs=dict(sockets=[sock]), daemon=True)
    thread.start()
    while not uvicorn.started:
        time.sleep(0.01)
    try:
        yield f'http://127.0.0.1:{sock.getsockname()[1]}'
    finally:
        uvicorn.should_exit = True
        thread.join()
        explorer.worker.close()
        sock.close()


def post(address, name, data, status=200, **kwargs):
    """The response to a request with JSON."""
    response = requests.post(f'{address}/api/{name}', json=data, headers=HEADERS, timeout=60, **kwargs)
    assert response.status_code == status, response.text
    return response


def pixels(data):
    """Pixels of a PNG file, given by its bytes or its path."""
    with PIL.Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as picture:
        return np.asarray(picture)


def picture(address, recipe, **others):
    """Pixels that the explorer draws, and the command for them."""
    response = post(address, 'picture', dict(network=0, recipe=recipe, **others))
    return pixels(response.content), requests.utils.unquote(response.headers['X-Command'])


def ended(address, job):
    """A job when it has ended."""
    while job['state'] == 'running':
        time.sleep(0.05)
        job = requests.get(f'{address}/api/jobs/{job["id"]}', timeout=60).json()
    return job


def seed(number, psi=0.5, class_idx=None):
    return {'kind': 'seed', 'seed': number, 'psi': psi, 'class': class_idx}
