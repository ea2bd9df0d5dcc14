"""The tests, in folders like those of the code; commands/ and house/ have those of the scripts and of the project's own upkeep."""

import pathlib

ROOT = pathlib.Path(__file__).parents[1]
DATA = ROOT / 'tests' / 'data'
