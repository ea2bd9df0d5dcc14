"""The CPU kernels are chosen before TensorFlow is imported, and the user's own choice is respected."""

import os
import subprocess
import sys
import types

import pytest

from dnnlib import onednn

ZEN3, OLD = {'avx', 'avx2', 'fma'}, {'sse4_2', 'avx'}
LAPTOP, XEON = {'avx2', 'avx_vnni'}, {'avx2', 'avx512f', 'avx512_vnni'}


@pytest.mark.parametrize('features, machine, given, imported, expected', [
    (ZEN3, 'x86_64', None, False, '1'), (LAPTOP, 'x86_64', None, False, '1'), (XEON, 'x86_64', None, False, '1'),
    (OLD, 'x86_64', None, False, None), (set(), 'aarch64', None, False, None),
    (ZEN3, 'x86_64', '0', False, '0'), (OLD, 'x86_64', '1', False, '1'), (ZEN3, 'x86_64', '', False, '1'),
    (ZEN3, 'x86_64', None, True, None), (XEON, 'x86_64', None, True, None)])
def test_choice(features, machine, given, imported, expected, monkeypatch, caplog):
    monkeypatch.setattr(onednn, 'cpu_features', lambda: features)
    monkeypatch.setattr(onednn.platform, 'machine', lambda: machine)
    modules = {name: module for name, module in sys.modules.items() if name != 'tensorflow'}
    monkeypatch.setattr(onednn, 'sys',
                        types.SimpleNamespace(modules={**modules, **({'tensorflow': None} if imported else {})}))
    environment = {'TF_ENABLE_ONEDNN_OPTS': given} if given is not None else {}
    monkeypatch.setattr(onednn.os, 'environ', environment)
    onednn.choose()
    assert environment.get('TF_ENABLE_ONEDNN_OPTS') == expected
    # There is a warning if TensorFlow was imported first and another choice would have been made.
    assert ('TF_ENABLE_ONEDNN_OPTS=1' in caplog.text) == (imported and features is ZEN3)


MODULES = ['custom_ops', 'dnnlib.tflib', 'training.loss', 'training.training_loop', 'metrics.features.inception',
           'projector', 'pretrained_networks', 'run_generator', 'run_training', 'run_metrics', 'run_projector']


@pytest.fixture(scope='module')
def answers():
    """{module: 'chosen' or 'too late' when it imports TensorFlow}, each in a fork of a process with NumPy alone."""
    code = '''
import importlib, os, sys
import numpy
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == 'tensorflow':
            end()
def end():
    print(module, 'chosen' if 'TF_ENABLE_ONEDNN_OPTS' in os.environ else 'too late', flush=True)
    os._exit(0)
sys.meta_path.insert(0, Finder())
for module in sys.argv[1:]:
    if os.fork() == 0:
        importlib.import_module(module)
        import dnnlib
        end()
    os.wait()
'''
    environment = {name: value for name, value in os.environ.items() if name != 'TF_ENABLE_ONEDNN_OPTS'}
    result = subprocess.run([sys.executable, '-c', code, *MODULES], env=environment, capture_output=True, text=True,
                            check=True)
    return dict(line.split(' ', 1) for line in result.stdout.splitlines())


@pytest.mark.parametrize('module', MODULES)
def test_each_module_chooses_before_it_imports_tensorflow(module, answers):
    if not onednn.is_faster(onednn.cpu_features()):
        pytest.skip('nothing is chosen on a CPU without AVX2')
    assert answers[module] == 'chosen'


def test_is_on_tells_what_tensorflow_does():
    """In this process, which most tests need TensorFlow in, and in one with the other choice."""
    given, here = os.environ.get('TF_ENABLE_ONEDNN_OPTS'), onednn.is_on()
    assert given is None or here == (given == '1')
    environment = {**os.environ, 'TF_ENABLE_ONEDNN_OPTS': str(int(not here)), 'TF_CPP_MIN_LOG_LEVEL': '3'}
    result = subprocess.run([sys.executable, '-c', 'from dnnlib import onednn; print(onednn.is_on())'],
                            capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.strip() == str(not here)
