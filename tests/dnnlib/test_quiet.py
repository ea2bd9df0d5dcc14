"""Which messages of TensorFlow are seen, with a stand-in for TensorFlow that prints some."""

import os
import subprocess
import sys

import pytest

from tests import ROOT

TENSORFLOW = '''
import os
os.write(2, b'importing\\n')
class config:
    def list_physical_devices():
        os.write(2, b'looking for GPUs\\n')
class get_logger:
    def setLevel(self, level):
        os.write(1, f'Python level {level}\\n'.encode())
'''
PROGRAM = '''
import os, runpy, sys
from dnnlib import nvidia
nvidia.is_present, nvidia.gpus = lambda: sys.argv[1] == 'True', lambda: ()
runpy.run_path('dnnlib/tflib/quiet.py')
print('level', os.environ['TF_CPP_MIN_LOG_LEVEL'])
'''


@pytest.mark.parametrize('has_gpu, given, level, seen', [
    (False, None, '3', ''), (True, None, '1', 'looking for GPUs\n'),
    (False, '0', '0', None), (True, '2', '2', None), (True, '3', '3', '')])
def test_messages(tmp_path, has_gpu, given, level, seen):
    """With a GPU, TensorFlow's warnings about it are seen, but not the noise of its import; without one, nothing is.

    A user who asks for messages gets them all: TensorFlow is left to be imported as usual (seen = None).
    """
    (tmp_path / 'tensorflow.py').write_text(TENSORFLOW)
    env = {name: value for name, value in os.environ.items() if name != 'TF_CPP_MIN_LOG_LEVEL'}
    env.update({'TF_CPP_MIN_LOG_LEVEL': given} if given else {}, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    done = subprocess.run([sys.executable, '-c', PROGRAM, str(has_gpu)], cwd=ROOT, env=env, capture_output=True,
                          text=True, check=True)
    assert done.stderr == (seen or '')
    quiet_python = ['Python level ERROR'] if seen is not None else []
    assert done.stdout.splitlines() == [*quiet_python, f'level {level}']


@pytest.mark.parametrize('is_command', [True, False])
def test_commands_import_tensorflow_without_scikit_learn(tmp_path, is_command):
    """Which Keras would import for wrappers that no command uses. It can be imported afterwards."""
    (tmp_path / 'tensorflow.py').write_text(f"""{TENSORFLOW}
try:
    import sklearn
except ImportError:
    print('without')
""")
    (tmp_path / 'sklearn.py').write_text('')
    program = f"""
import runpy
from dnnlib import cli
cli.is_command = {is_command}
runpy.run_path('dnnlib/tflib/quiet.py')
import sklearn
"""
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(tmp_path), str(ROOT)]), 'TF_CPP_MIN_LOG_LEVEL': '3'}
    done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr, 'without' in done.stdout) == (0, '', is_command)
