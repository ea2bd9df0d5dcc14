"""The console command stylegan2: it runs the scripts under the names that the user types."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

import stylegan2_cli
from dnnlib import cli
from tests import ROOT
from tests.house.test_packaging import PROJECT, SETUPTOOLS
from tests.light_help import help_of


def run(monkeypatch, *argv):
    """Exit code of `stylegan2 argv`, in this process."""
    monkeypatch.setattr(sys, 'argv', ['stylegan2', *argv])
    monkeypatch.setattr(cli, 'commands', {})
    monkeypatch.setattr('signal.signal', lambda *_: None)
    monkeypatch.setenv('COLUMNS', '200')
    with pytest.raises(SystemExit) as done:
        stylegan2_cli.main()
    return done.value.code or 0


def test_the_table_names_what_is_installed():
    assert PROJECT['scripts'] == {'stylegan2': 'stylegan2_cli:main'}
    top_level = {name.split('.')[0] for name in SETUPTOOLS['packages']} | set(SETUPTOOLS['py-modules'])
    assert set(stylegan2_cli.TOP_LEVEL) == top_level
    assert stylegan2_cli.clash() == ''


@pytest.mark.parametrize('name', stylegan2_cli.COMMANDS)
def test_help_names_the_command_and_imports_little(name, tmp_path):
    command = stylegan2_cli.COMMANDS[name]
    allowed = ['numpy', 'PIL'] if name == 'dataset' else []
    text = help_of('-m', 'stylegan2_cli', name, allowed=allowed, cwd=tmp_path,
                   env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert text.startswith(f'usage: stylegan2 {name}')
    assert f'python {command.module}.py' not in text
    assert 'examples:' not in text or f'\n  stylegan2 {name} ' in text


def test_the_list_of_commands(monkeypatch, capsys):
    assert run(monkeypatch, '--help') == 0
    assert re.findall(r'^  (\w+) ', capsys.readouterr().out, re.MULTILINE) == list(stylegan2_cli.COMMANDS)
    for argv, fact in (([], 'missing command'), (['trian'], "no command 'trian'")):
        assert run(monkeypatch, *argv) == 2
        assert fact in capsys.readouterr().err
    assert run(monkeypatch, '--version') == 0
    assert capsys.readouterr().out == f'{PROJECT["version"]}\n'


def test_the_usual_subcommand_may_be_left_out(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, 'generate', '--seeds=1') == 2
    assert 'stylegan2 generate generate-images: error: ' in capsys.readouterr().err
    assert run(monkeypatch, 'project', '--images=x.png') == 2
    assert 'stylegan2 project project-real-images: error: ' in capsys.readouterr().err
    assert run(monkeypatch, 'generate', 'style-mixing-example') == 2
    assert 'usage: stylegan2 generate style-mixing-example ' in capsys.readouterr().err


def test_scripts_keep_their_own_names_when_they_are_run_themselves(capsys):
    import run_training
    with pytest.raises(SystemExit):
        run_training.main(['--help'])
    out = capsys.readouterr().out
    assert out.startswith('usage: run_training.py ') and 'python run_training.py --dataset' in out


@pytest.mark.parametrize('how', ['working folder', 'PYTHONPATH'])
def test_packages_of_other_projects_are_named(how, tmp_path):
    """A clone of another project has a dnnlib, too."""
    package = tmp_path / 'clone' / 'dnnlib'
    package.mkdir(parents=True)
    (package / '__init__.py').write_text('raise RuntimeError("of another project")')
    (tmp_path / 'empty').mkdir()
    path = [str(ROOT), ''] if how == 'working folder' else [str(package.parent), str(ROOT)]
    done = subprocess.run([sys.executable, '-m', 'stylegan2_cli', 'train', '--help'], capture_output=True, text=True,
                          cwd=package.parent if how == 'working folder' else tmp_path / 'empty',
                          env={**os.environ, 'PYTHONPATH': os.pathsep.join(path)})
    assert done.returncode == 1
    fact, remedy = done.stderr.splitlines()
    assert fact.startswith(f'Error: {package} belongs to another project') and str(ROOT / 'dnnlib') in fact
    assert remedy == {'working folder': 'Run the command in another folder.',
                      'PYTHONPATH': f'Remove {package.parent} from PYTHONPATH.'}[how]
    assert importlib.util.find_spec('dnnlib').origin == str(ROOT / 'dnnlib' / '__init__.py')
