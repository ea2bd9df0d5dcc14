"""docs/tour.ipynb runs from top to bottom."""

import base64
import io
import json
import re

import numpy as np
import PIL.Image
import pytest

from tests import ROOT

NOTEBOOK = ROOT / 'docs' / 'tour.ipynb'


def test_the_notebook_is_small_and_its_links_lead_somewhere():
    cells = json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']
    assert not any(cell.get('outputs') or cell.get('execution_count') for cell in cells)
    for link in re.findall(r'\]\(([^)]+)\)', json.dumps(cells)):
        assert (NOTEBOOK.parent / link).exists(), link


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch):
    import nbclient
    import nbformat
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name='python3',
                            resources={'metadata': {'path': str(NOTEBOOK.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == 'code' for output in cell.outputs]
    data = [output.data for output in outputs if 'data' in output]
    pictures = [PIL.Image.open(io.BytesIO(base64.b64decode(item['image/png']))) for item in data if 'image/png' in item]
    assert [picture.size for picture in pictures] == [(768, 192), (768, 288), (768, 192), (480, 96), (320, 160)]
    assert all(np.std(picture) > 20 for picture in pictures)
    assert sum('image/gif' in item for item in data) == 1
    text = ''.join(output.text for output in outputs if output.output_type == 'stream')
    assert 'G_synthesis/32x32/Conv1' in text and 'Added 1000 images.' in text
    assert not [output.text for output in outputs if output.output_type == 'stream' and output.name == 'stderr'
                and re.search('Traceback|WARNING|Warning', output.text)]
    values = ''.join(item.get('text/plain', '') for item in data)
    result, = re.findall(r"'Metrics/fd_efficientnet200': ([\d.]+)", values)
    assert 0 < float(result) < 10000
