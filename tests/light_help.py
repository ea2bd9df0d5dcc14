"""What a command imports to answer --help. Its speed is measured by `python -m bench startup`.

This is what it depends on.
"""

import subprocess
import sys

HEAVY = {'tensorflow', 'keras', 'numpy', 'scipy', 'PIL', 'sklearn'}  # Each takes a tenth of a second or more.

_PROGRAM = f'''
import atexit, runpy, sys
atexit.register(lambda: print(*sorted({HEAVY} & set(sys.modules)), file=sys.stderr))
sys.argv = sys.argv[1:]
if sys.argv[0] == '-m':
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
else:
    runpy.run_path(sys.argv[0], run_name='__main__')
'''


def help_of(*argv, allowed=(), **options):
    """What `python argv --help` prints.

    None of the heavy modules may be imported for it, except those that are `allowed`.
    """
    done = subprocess.run([sys.executable, '-c', _PROGRAM, *argv, '--help'], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    assert set(done.stderr.split()) <= set(allowed), f'{" ".join(argv)} --help imports {done.stderr}'
    return done.stdout
