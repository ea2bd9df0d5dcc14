"""What pyproject.toml promises: the modules it ships, the versions it admits, every library the code imports."""

import ast
import hashlib
import pathlib
import sys

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / 'pyproject.toml').read_text())
PROJECT, SETUPTOOLS = CONFIG['project'], CONFIG['tool']['setuptools']
OWN = {file.stem for file in ROOT.glob('*.py')} | {file.parent.name for file in ROOT.glob('*/__init__.py')}
DISTRIBUTIONS = {'PIL': 'pillow', 'dicebear': 'dicebear-core'}  # Import name -> name on PyPI, where they are not the same.


def declared(*extras):
    """Names of the required distributions, those of the extras included."""
    lines = PROJECT['dependencies'] + [line for extra in extras for line in PROJECT['optional-dependencies'][extra]]
    return {Requirement(line).name for line in lines}


def third_party_imports(path):
    """Names on PyPI of what the file imports at any depth, without the standard library and this project's own modules."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split('.')[0])
    return {DISTRIBUTIONS.get(name, name.replace('_', '-')) for name in names - OWN - set(sys.stdlib_module_names)}


def test_every_module_is_shipped_and_exists():
    packages = {'.'.join(file.parent.relative_to(ROOT).parts) for name in OWN for file in ROOT.glob(f'{name}/**/__init__.py')}
    assert set(SETUPTOOLS['packages']) == {name for name in packages if name.split('.')[0] not in ('tests', 'bench')}
    assert set(SETUPTOOLS['py-modules']) == {file.stem for file in ROOT.glob('*.py')}


@pytest.mark.parametrize('patterns, extras', [
    (['*.py', *(f'{name.replace(".", "/")}/*.py' for name in SETUPTOOLS['packages'])], ['hdf5', 'lsun']),
    (['tests/*.py'], ['dev']),
    (['demo/*.py'], ['demo-data'])])
def test_every_import_is_declared(patterns, extras):
    files = [file for pattern in patterns for file in ROOT.glob(pattern)]
    assert files
    undeclared = {f'{file.relative_to(ROOT)}: {name}' for file in files for name in third_party_imports(file) - declared(*extras)}
    assert not undeclared


@pytest.mark.parametrize('admitted, inside, outside', [
    (SpecifierSet(PROJECT['requires-python']), ['3.10', '3.11.7', '3.12', '3.13.9'], ['3.9.18', '3.14']),
    (next(Requirement(line).specifier for line in PROJECT['dependencies'] if Requirement(line).name == 'tensorflow'),
     ['2.16.1', '2.21.0'], ['2.15.1', '2.22.0'])])
def test_admitted_versions(admitted, inside, outside):
    assert list(admitted.filter(inside + outside)) == inside


def test_extras_can_be_read():
    for lines in PROJECT['optional-dependencies'].values():
        assert all(Requirement(line).specifier or Requirement(line).extras for line in lines)


def test_licence_is_the_standard_text_under_our_line():
    owner, text = (ROOT / 'LICENSE').read_text().split('\n', 1)
    assert owner == 'Copyright The StyleGAN2-TF2 authors'
    assert hashlib.sha256(text.encode()).hexdigest() == 'cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30'  # apache.org
