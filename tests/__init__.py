"""The tests, in folders like those of the code.

The folder commands has the tests of the scripts, and house those of the project itself, such as its documentation.
"""

import pathlib

ROOT = pathlib.Path(__file__).parents[1]
DATA = ROOT / 'tests' / 'data'
