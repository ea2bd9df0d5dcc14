"""What pyproject.toml promises.

The modules and sources it ships, the versions it admits, every library the code imports.
"""

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests import ROOT, forked

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG = tomllib.loads((ROOT / 'pyproject.toml').read_text())
PROJECT, SETUPTOOLS = CONFIG['project'], CONFIG['tool']['setuptools']
OWN = {file.stem for file in ROOT.glob('*.py')} | {file.parent.name for file in ROOT.glob('*/__init__.py')} | {'demo'}
# Import name -> name on PyPI, where they are not the same.
DISTRIBUTIONS = {
    'PIL': 'pillow',
    'sklearn': 'scikit-learn',
    'dlib': 'dlib-bin',
    'dicebear': 'dicebear-core',
    'google': 'protobuf',
}


def declared(*extras):
    """Names of the required distributions, those of the extras included."""
    lines = PROJECT['dependencies'] + [line for extra in extras for line in PROJECT['optional-dependencies'][extra]]
    return {Requirement(line).name for line in lines}


def third_party_imports(path):
    """Names on PyPI of what the file imports at any depth, without the standard library and the project's modules."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split('.')[0])
    return {DISTRIBUTIONS.get(name, name.replace('_', '-')) for name in names - OWN - set(sys.stdlib_module_names)}


def test_every_module_is_shipped_and_exists():
    packages = {
        '.'.join(file.parent.relative_to(ROOT).parts) for name in OWN for file in ROOT.glob(f'{name}/**/__init__.py')
    }
    assert set(SETUPTOOLS['packages']) == {name for name in packages if name.split('.')[0] not in ('tests', 'bench')}
    assert set(SETUPTOOLS['py-modules']) == {file.stem for file in ROOT.glob('*.py')}


@pytest.mark.parametrize('patterns, extras', [
    (['*.py', *(f'{name.replace(".", "/")}/*.py' for name in SETUPTOOLS['packages'])],
     ['align', 'explorer', 'export', 'fast-png', 'hdf5', 'lsun', 'metrics', 'video']),
    (['tests/**/*.py'], ['dev', 'addons', 'offline-metrics']),
    (['bench/*.py'], []),
    (['demo/*.py'], ['demo', 'demo-data'])])
def test_every_import_is_declared(patterns, extras):
    files = [file for pattern in patterns for file in ROOT.glob(pattern)]
    files = [file for file in files if file.parent.name != 'reference']  # It has an environment of its own.
    assert files
    undeclared = {
        f'{file.relative_to(ROOT)}: {name}' for file in files for name in third_party_imports(file) - declared(*extras)
    }
    assert not undeclared


@pytest.mark.parametrize('admitted, inside, outside', [
    (SpecifierSet(PROJECT['requires-python']), ['3.10', '3.11.7', '3.12', '3.13.9'], ['3.9.18', '3.14']),
    (next(Requirement(line).specifier for line in PROJECT['dependencies'] if Requirement(line).name == 'tensorflow'),
     ['2.15.1', '2.16.1', '2.21.0'], ['2.14.1', '2.22.0'])])
def test_admitted_versions(admitted, inside, outside):
    assert list(admitted.filter(inside + outside)) == inside


def test_extras_can_be_read():
    for lines in PROJECT['optional-dependencies'].values():
        assert all(Requirement(line).specifier or Requirement(line).extras for line in lines)


def test_the_addons_extra_takes_the_tensorflow_that_addons_imports_on():
    pin = next(
        Requirement(line)
        for line in PROJECT['optional-dependencies']['addons']
        if Requirement(line).name == 'tensorflow'
    )
    assert list(pin.specifier.filter(['2.14.1', '2.15.1', '2.16.1'])) == ['2.15.1']
    assert [pin.marker.evaluate({'python_version': version}) for version in ('3.10', '3.11', '3.12', '3.13')] == [
        True,
        True,
        False,
        False,
    ]


def test_docs_say_why_for_every_package():
    page = (ROOT / 'docs' / 'install.md').read_text(encoding='utf-8')
    rows = [line for line in page.split('\n## Packages\n')[1].splitlines() if line.startswith('| ')]
    named = set(re.findall(r'[\w-]+', ' '.join(rows)))
    assert not declared(*PROJECT['optional-dependencies']) - named


def test_licence_is_the_standard_text_under_our_line():
    owner, text = (ROOT / 'LICENSE').read_text().split('\n', 1)
    assert owner == 'Copyright The StyleGAN2-TF2 authors'
    assert (
        hashlib.sha256(text.encode()).hexdigest() == 'cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30'
    )  # apache.org


# ---- Wheel and sdist ----

def run(*command, **options):
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def run_fork(program, *arguments, **options):
    result = forked.run(program, *arguments, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope='module')
def distributions(tmp_path_factory):
    """(sdist, wheel): the first from a copy of this folder, the second from the first."""
    tmp_path = tmp_path_factory.mktemp('dist')
    made_here = shutil.ignore_patterns(
        '.*', '_build', 'build', 'dist', 'results', 'datasets', '__pycache__', '*.egg-info', '*.whl'
    )
    shutil.copytree(ROOT, tmp_path / 'copy', ignore=made_here)
    code = 'import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))'
    sdist = tmp_path / run('-c', code, 'build_sdist', tmp_path, cwd=tmp_path / 'copy').splitlines()[-1]
    shutil.unpack_archive(sdist, tmp_path / 'unpacked')
    wheel = run('-c', code, 'build_wheel', tmp_path, cwd=next((tmp_path / 'unpacked').iterdir())).splitlines()[-1]
    return sdist, tmp_path / wheel


def test_wheel_and_sdist_hold_the_native_sources_and_the_weights(distributions):
    sources = {f'custom_ops/native/{path.name}' for path in (ROOT / 'custom_ops/native').iterdir() if path.is_file()}
    assert 'custom_ops/native/ops.cc' in sources
    with tarfile.open(distributions[0]) as archive:
        in_sdist = {name.split('/', 1)[-1] for name in archive.getnames()}
    in_wheel = set(zipfile.ZipFile(distributions[1]).namelist())
    for names in in_sdist, in_wheel:
        assert {name for name in names if name.startswith('custom_ops/native/')} - {'custom_ops/native/'} == sources
        assert {'metrics/features/lpips_v0.1_vgg.pth', 'metrics/features/lpips_v0.1_vgg.LICENSE'} < names
        page = {f'explorer/page/{path.name}' for path in (ROOT / 'explorer/page').iterdir()}
        assert 'explorer/page/index.html' in page and page <= names


@pytest.fixture(scope='module')
def site(distributions, tmp_path_factory):
    """A folder into which the wheel is installed."""
    folder = tmp_path_factory.mktemp('site')
    run('-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', '--target', folder, distributions[1])
    return folder


def test_an_installed_wheel_works_from_an_empty_folder(site, tmp_path):
    """Each command, by the console script."""
    env = {**os.environ, 'PYTHONPATH': str(site)}
    for name, script in (('dataset', 'display'), ('train', '--dataset'), ('generate', 'style-mixing-example'),
                         ('project', 'detect-generated'), ('metrics', 'fid50k'), ('export', '--format'),
                         ('explore', '--run')):
        out = run(site / 'bin' / 'stylegan2', name, '--help', cwd=tmp_path, env=env)
        assert out.startswith(f'usage: stylegan2 {name} ') and script in out
    code = 'import training.nets.registry, latents.film, metrics.metric_defaults, projector as p; print(p.__file__)'
    assert run_fork(code, cwd=tmp_path, env=env).strip() == str(site / 'projector.py')
    images, stylegan2 = str(ROOT / 'demo' / 'faces32.zip'), site / 'bin' / 'stylegan2'
    run(stylegan2, 'dataset', 'create_from_images', 'faces', images, '--max-images=4', cwd=tmp_path, env=env)
    out = run_fork(stylegan2, 'train', '--dataset=faces', '--data-dir=.', '--dry-run', cwd=tmp_path, env=env)
    assert 'stylegan2-faces-1gpu-config-f' in out and sorted(os.listdir(tmp_path)) == ['faces']


@pytest.mark.slow
def test_an_installed_wheel_builds_the_native_operations_when_they_are_first_used(site, tmp_path):
    native = site / 'custom_ops' / 'native'
    (native / '_build').write_text('In the way, as if the folder were not ours to write.')
    # For the CPU alone: with CUDA it would take minutes.
    (tmp_path / 'nvcc').write_text('#!/bin/sh\nexit 1\n')
    (tmp_path / 'nvcc').chmod(0o755)
    env = {
        **os.environ,
        'PYTHONPATH': str(site),
        'XDG_CACHE_HOME': str(tmp_path / 'cache'),
        'STYLEGAN2_OPS': 'native',
        'PATH': f'{tmp_path}{os.pathsep}{os.environ["PATH"]}',
        'CUDA_VISIBLE_DEVICES': '',
    }
    for name in ('STYLEGAN2_OPS_CACHE', 'STYLEGAN2_OPS_LIBRARY', 'CUDA_HOME', 'CUDA_PATH'):
        env.pop(name, None)
    # Without optimization, which takes most of the time.
    code = ('import custom_ops; from custom_ops import build; build._LEVELS = dict.fromkeys(build._LEVELS, "-O0"); '
            'print(custom_ops.__file__, custom_ops.impl_report())')
    out = run_fork(code, cwd=tmp_path, env=env)
    assert out.split(maxsplit=1) == [str(native.parent / '__init__.py'), 'Custom ops: native CPU\n']
    library, = (tmp_path / 'cache' / 'stylegan2-tf2').glob('*/stylegan2_ops.so')
    assert library.stat().st_size > 0
