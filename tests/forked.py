"""Processes of their own in which TensorFlow has been imported already, which takes a new one three seconds.

They are forks of a server, which imports TensorFlow and does nothing else with it: no device has been set up, no thread
of TensorFlow works, and no module of the project but this one is there. Not for tests of what an import itself does, of
variables of the environment that TensorFlow reads then, such as TF_ENABLE_ONEDNN_OPTS, or of AutoGraph, which does not
warn of functions without a source there.
"""

import atexit
import functools
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from tests import ROOT


def run(program, *arguments, env=None, cwd=None):
    """Run a program as `python -c` does, or a file of that name as `python FILE` does if it is a Path.

    Args:
        program:   Its text, or the Path of its file.
        arguments: Its sys.argv[1:].
        env:       Its environment. None = that of this process.
        cwd:       Its folder. None = that of this process.

    Returns:
        subprocess.CompletedProcess, with its output as text.
    """
    with tempfile.TemporaryDirectory() as folder:
        request = dict(program=str(program), is_file=isinstance(program, Path), arguments=list(map(str, arguments)),
                       env=dict(os.environ if env is None else env), cwd=str(cwd or os.getcwd()), folder=folder)
        process = _server()
        process.stdin.write(json.dumps(request) + '\n')
        process.stdin.flush()
        code = int(process.stdout.readline())
        stdout, stderr = ((Path(folder) / name).read_text() for name in ('stdout', 'stderr'))
    return subprocess.CompletedProcess(request['arguments'], code, stdout, stderr)


@functools.cache
def _server():
    process = subprocess.Popen([sys.executable, '-m', 'tests.forked'], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True, cwd=ROOT, env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3'})
    atexit.register(process.communicate)  # It ends when its input does.
    return process


# ---- The server ----

def _serve():
    import tensorflow  # noqa: F401  Once for all of them.
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _become(program, is_file, arguments, env, cwd, folder):
    """Turn a fork into the process that was asked for. Does not return."""
    for number, path in enumerate((os.devnull, f'{folder}/stdout', f'{folder}/stderr')):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [program if is_file else '-c', *arguments]
    sys.path[0] = os.path.dirname(program) if is_file else ''
    sys.path[1:1] = [path for path in env.get('PYTHONPATH', '').split(os.pathsep) if path and path not in sys.path]
    code = 0
    try:
        if is_file:
            runpy.run_path(program, run_name='__main__')
        else:
            exec(compile(program, '<string>', 'exec'), {'__name__': '__main__'})
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == '__main__':
    _serve()
