"""Where the golden numbers lie and how they are compared (their READMEs explain the files and the tolerances)."""

import json
import os
import pathlib

import numpy as np

_SHARED = pathlib.Path(__file__).parents[1] / '..' / 'shared'

# Environment variable -> folder of a set of golden numbers. Tests are marked with `golden`, or `golden(variable)` if
# they need another set than the first.
FOLDERS = {
    variable: pathlib.Path(os.environ.get(variable, _SHARED / name)).resolve()
    for variable, name in (('STYLEGAN2_GOLDEN', 'golden'), ('STYLEGAN2_GOLDEN_ADA', 'golden-ada'))
}
GOLDEN, GOLDEN_ADA = FOLDERS.values()


def load_json(name, folder=GOLDEN):
    """Contents of the JSON file `name` (path relative to the golden folder); {} where there is no such folder at all.

    Without the folder there are no cases, and conftest.py marks the golden tests as skipped for that reason.
    """
    path = folder / name
    if not folder.is_dir():
        return {}
    if not path.is_file():
        variable = next(variable for variable, of_variable in FOLDERS.items() if of_variable == folder)
        raise FileNotFoundError(f'golden file {path} is missing; set {variable} to the folder of the golden numbers')
    return json.loads(path.read_text())


def load_npz(name, folder=GOLDEN):
    """Arrays of the npz file `name` as a dict."""
    with np.load(folder / name, allow_pickle=False) as data:
        return dict(data)


def assert_close(actual, expected, rtol, what='', scale=None):
    """max |actual - expected| <= rtol * scale, shapes equal; NaNs never pass.

    scale: Size of the numbers that the results are sums of, where these cancel each other. None = max |expected|.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f'{what}: shape {actual.shape}, expected {expected.shape}'
    if expected.size == 0:
        return
    error = np.abs(actual - expected).max()
    limit = rtol * (np.abs(expected).max() if scale is None else scale)
    assert error <= limit, f'{what}: max error {error:.3g} above {limit:.3g}'
