"""Which GPUs this process may use, and TensorFlow's settings for them."""

import re
import runpy

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


# ---- Settings ----

@pytest.mark.parametrize('enabled', [False, True])
def test_import_keeps_the_callers_tf32(enabled):
    """init_tf forbids it, unless it is asked not to."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    try:
        tfutil.set_tf32(enabled)
        module = runpy.run_path(tfutil.__file__)
        assert tf.config.experimental.tensor_float_32_execution_enabled() == enabled
        for given, expected in (None, enabled), (True, True), (False, False):
            runpy.run_path(tfutil.__file__)['init_tf']({'tf32': given, 'rnd.np_random_seed': 1})
            assert tf.config.experimental.tensor_float_32_execution_enabled() == expected
        tfutil.set_tf32(True)
        module['init_tf']({'rnd.np_random_seed': 1})
        assert not tf.config.experimental.tensor_float_32_execution_enabled()
    finally:
        tfutil.set_tf32(before)


@pytest.mark.parametrize('callers, error, expected', [
    (None, None, [('a GPU', True)]), (False, None, []), (True, None, []), (None, ValueError, []),
    (None, RuntimeError, [])])
def test_import_keeps_the_callers_memory_settings(monkeypatch, callers, error, expected):
    """Memory growth is on by default. A GPU that the caller has divided, or uses already, is left as it is."""
    settings = []

    def set_memory_growth(gpu, enable):
        if error is not None:
            raise error('Cannot set memory growth')
        settings.append((gpu, enable))
    monkeypatch.setattr(tf.config, 'get_visible_devices', lambda kind=None: ['a GPU'])
    monkeypatch.setattr(tf.config.experimental, 'get_memory_growth', lambda gpu: callers)
    monkeypatch.setattr(tf.config.experimental, 'set_memory_growth', set_memory_growth)
    runpy.run_path(tfutil.__file__)
    assert settings == expected
