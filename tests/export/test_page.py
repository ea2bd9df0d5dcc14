"""The page that draws the pictures of an ONNX file, in Chromium, with a stand-in for onnxruntime-web."""

import functools
import http.server
import shutil
import subprocess
import threading

import pytest

from tests import ROOT

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium: apt-get install chromium')

# Its picture has the values of the first latents, the truncation and the label. Files other than 'good' are refused.
_RUNTIME = '''
globalThis.ort = {
  env: {wasm: {}},
  Tensor: class { constructor(type, data, dims) { Object.assign(this, {type, data, dims}); } },
  InferenceSession: {create: async bytes => {
    if (new TextDecoder().decode(bytes) !== 'good') throw new Error('no model');
    return {
      inputNames: ['latents_in', 'labels_in', 'truncation_psi'], outputNames: ['images_out'],
      inputMetadata: [{name: 'latents_in', shape: ['N', 6]}, {name: 'labels_in', shape: ['N', 3]},
                      {name: 'truncation_psi', shape: []}],
      run: async inputs => {
        document.title = JSON.stringify(Object.entries(inputs).map(
            ([name, {dims, data}]) => [name, dims, data.length, data.every(Number.isFinite)]));
        return {images_out: {dims: [1, 1, 2, 3], data: new Float32Array(6)}};
      }};
  }}};
'''


def text_of(folder, address):
    """What Chromium shows for an address of the page in `folder`: the document, when everything has settled."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = subprocess.run(
            [CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run',
             '--disable-background-networking', '--disable-component-update', '--disable-sync',
             f'--user-data-dir={folder / "profile"}', '--virtual-time-budget=5000', '--dump-dom',
             f'http://127.0.0.1:{server.server_port}/{address}'], capture_output=True, text=True, timeout=120)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path):
    shutil.copy(ROOT / 'docs' / 'onnxruntime-web.html', tmp_path / 'index.html')
    (tmp_path / 'ort.wasm.min.js').write_text(_RUNTIME)
    (tmp_path / 'good.onnx').write_text('good')
    (tmp_path / 'bad.onnx').write_text('bad')
    return tmp_path


def test_a_picture_is_drawn(folder):
    text = text_of(folder, '?model=good.onnx')
    assert '3x2 pixels' in text and 'class="error"' not in text
    assert ('[["latents_in",[1,6],6,true],["labels_in",[1,3],3,true],["truncation_psi",[],1,true]]'
            in text.replace('&quot;', '"'))
    assert '<canvas id="canvas" width="3" height="2">' in text and '<label hidden="">' not in text


@pytest.mark.parametrize('address, message', [('?model=bad.onnx', 'bad.onnx cannot be opened: no model'),
                                              ('?model=none.onnx', 'the server answers 404')])
def test_mistakes_are_said(folder, address, message):
    text = text_of(folder, address)
    assert message in text and 'class="error"' in text and text.count('<label hidden="">') == 2


def test_the_missing_runtime_is_said(folder):
    (folder / 'ort.wasm.min.js').unlink()
    assert 'ort.wasm.min.js of onnxruntime-web is not next to this page' in text_of(folder, '?model=good.onnx')
