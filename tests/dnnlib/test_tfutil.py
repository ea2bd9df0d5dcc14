"""Which GPUs this process may use."""

import re

import pytest
import tensorflow as tf

from dnnlib.tflib import tfutil
from tests import ROOT


@pytest.mark.parametrize('visible', [[], ['GPU:1'], ['GPU:0', 'GPU:1']])
def test_only_visible_gpus_count(monkeypatch, visible):
    """A GPU of the machine that is hidden from this process is as good as none."""
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind=None: ['GPU:0', 'GPU:1'])
    monkeypatch.setattr(tf.config, 'get_visible_devices', {'GPU': visible, 'CPU': ['CPU:0']}.get)
    assert tfutil.visible_gpus() == visible
    assert tfutil.has_gpu() == bool(visible)


def test_every_module_asks_the_same_helper():
    """Modules that ask TensorFlow themselves would disagree about hidden GPUs."""
    folders = ['dnnlib', 'custom_ops', 'training', 'metrics', 'latents']
    sources = [*ROOT.glob('*.py'), *(path for folder in folders for path in (ROOT / folder).rglob('*.py'))]
    asking = {path.relative_to(ROOT).as_posix() for path in sources
              if re.search(r'get_visible_devices|list_physical_devices', path.read_text(encoding='utf-8'))}
    assert asking == {'dnnlib/tflib/tfutil.py', 'dnnlib/tflib/quiet.py'}  # quiet.py only starts TensorFlow.
