"""The frame of `make gpu-check`: steps, their results, the page. CI runs its rehearsal as a whole."""

import json

import pytest

from dnnlib import cli
from tests import gpu_check
from tests.gpu_check import Result, Step

STEPS = (
    Step('good', ('-c', 'print("noise"); print("all | well")'), ('quick',)),
    Step('bad', ('-c', 'import sys; sys.exit("broken")'), ('quick',)),
    Step('rows', ('-c', 'open(r"{out}/rows.json", "w").write(\'[{"name": "a", "ms": 1.23456}, {"name": "b"}]\')'),
         ('quick',)),
    Step('other mode', ('-c', ''), ('full',)),
    Step('original', ('-c', ''), ('quick',), 'golden'),
    Step('pair', ('-c', ''), ('quick',), '2 GPUs'),
)


def test_steps_and_page(tmp_path):
    results = list(gpu_check.run_steps(STEPS, 'quick', tmp_path, golden=False, num_gpus=1))
    assert [(result.name, result.status, result.detail) for result in results] == [
        ('good', 'passed', 'all | well'), ('bad', 'failed', 'broken'), ('rows', 'passed', ''),
        ('original', 'not run', 'the golden numbers are not here (STYLEGAN2_GOLDEN)'),
        ('pair', 'not run', 'needs 2 GPUs, 1 found')]
    assert 'noise' in (tmp_path / '01/log.txt').read_text()
    page = gpu_check.page('quick', results)
    assert '**Failed: bad.**' in page and '| good | passed | 0 | all \\| well |' in page
    assert '## rows\n\n| name | ms |\n| --- | --- |\n| a | 1.235 |\n| b |  |' in page
    assert 'Everything that was run passed.' in gpu_check.page('quick', results[:1])


def test_a_step_without_time_is_not_run(tmp_path):
    step = Step('slow', ('-c', 'import time; time.sleep(60)'))
    (tmp_path / '01').mkdir()
    assert gpu_check.run_step(step, tmp_path / '01', 0.5)[:2] == ('slow', 'not run')
    gpu_check.MINUTES['short'] = 0.0
    try:
        [result] = gpu_check.run_steps([step._replace(modes=('short',))], 'short', tmp_path, True, 1)
    finally:
        del gpu_check.MINUTES['short']
    assert result.status == 'not run' and 'minutes were over' in result.detail


def test_exit_code_and_files(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, 'OUT', tmp_path / 'out')
    monkeypatch.setattr(gpu_check, '_number_of_gpus', lambda: 0)
    monkeypatch.setattr(gpu_check, 'run_steps', lambda *args: iter([Result('a', 'failed', 1.0, 'x', [])]))
    assert gpu_check.main(['--mode=rehearsal']) == 1
    assert json.loads((tmp_path / 'out/gpu-check.json').read_text())['steps'][0]['status'] == 'failed'
    assert '**Failed: a.**' in (tmp_path / 'out/gpu-check.md').read_text()
    with pytest.raises(cli.UserError, match='sees no GPU'):
        gpu_check.main(['--mode=quick'])


def test_every_step_names_what_is_there():
    """Files of tests, pages of bench, and parts."""
    from bench.__main__ import PAGES
    from tests import ROOT
    for step in gpu_check.STEPS:
        assert set(step.modes) <= set(gpu_check.MINUTES) and step.needs in ('', 'golden', '2 GPUs')
        for argument in step.command:
            if argument.startswith('tests/'):
                assert (ROOT / argument).is_file()
            if argument.startswith('--part='):
                assert argument[7:] in gpu_check.PARTS
        if step.command[:2] == ('-m', 'bench'):
            assert step.command[2] in PAGES
