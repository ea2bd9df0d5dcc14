import ast
import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import pathlib
import re
import sys

import pytest

from dnnlib import cli, run_dir, storage
from dnnlib.run_dir import RunDir, _make_numbered_dir
from tests.full_disk import files_limited_to


def start(result_dir, desc='test', **kwargs):
    return RunDir(str(result_dir), desc, 'module.function', kwargs)


def read(*path):
    return pathlib.Path(*path).read_text()


def test_first_run_is_number_0_and_the_next_is_one_above_the_largest(tmp_path):
    assert start(tmp_path / 'results').path == str(tmp_path / 'results' / '00000-test')
    (tmp_path / 'results' / '00041-other').mkdir()
    (tmp_path / 'results' / '00099-a-file').write_text('')
    (tmp_path / 'results' / 'no-number').mkdir()
    assert start(tmp_path / 'results').path == str(tmp_path / 'results' / '00042-test')


@pytest.mark.parametrize('make', [pathlib.Path.touch, lambda path: path.symlink_to('nowhere')])
def test_a_file_or_a_dangling_link_in_the_way_is_passed_over(tmp_path, make):
    make(tmp_path / '00000-test')
    make(tmp_path / '00001-test')
    assert start(tmp_path).path == str(tmp_path / '00002-test')


def _many(args):
    result_dir, worker = args
    return [_make_numbered_dir(result_dir, f'worker{worker}')[1] for _ in range(10)]


def test_processes_at_once_never_share_a_number(tmp_path):
    with concurrent.futures.ProcessPoolExecutor(4, multiprocessing.get_context('spawn')) as pool:
        numbers = sum(pool.map(_many, [(str(tmp_path), worker) for worker in range(4)]), [])
    assert len(set(numbers)) == 40
    assert len(os.listdir(tmp_path)) == 40


def test_console_and_log_of_a_run_that_succeeds(tmp_path, capsys):
    with start(tmp_path) as run:
        print('hello')
        print('a warning', file=sys.stderr)
    out, err = capsys.readouterr()
    first, *logged = out.splitlines()
    assert first == f'Local submit - run_dir: {run.path}'
    assert logged[:-1] == ['dnnlib: Running module.function() on localhost...', 'hello']
    assert re.fullmatch(r'dnnlib: Finished module\.function\(\) in \d+s\.', logged[-1])
    assert err == 'a warning\n'
    log = read(run.path, 'log.txt').splitlines()
    assert log == [*logged[:-1], 'a warning', logged[-1]]


def test_files_of_a_run_that_succeeds(tmp_path):
    with start(tmp_path) as run:
        pass
    assert sorted(os.listdir(run.path)) == [
        '_finished.txt', 'log.txt', 'run.txt', 'submit_config.json', 'submit_config.txt']
    assert os.path.getsize(os.path.join(run.path, '_finished.txt')) == 0
    times = ast.literal_eval(read(run.path, 'run.txt'))
    assert times['start_time'] <= times['stop_time']


def test_log_is_flushed_while_the_run_goes_on(tmp_path):
    with start(tmp_path) as run:
        print('step 1')
        assert read(run.path, 'log.txt').endswith('step 1\n')


def test_progress_bars_stay_out_of_the_log(tmp_path):
    with start(tmp_path) as run:
        sys.stderr.write('\r 50%|#####     |')
    assert '50%' not in read(run.path, 'log.txt')


def test_submit_config_says_what_was_asked_for_in_both_forms(tmp_path):
    path = start(tmp_path, seeds=[1, 2], truncation_psi=0.5, network_pkl=None).path
    as_json = json.loads(read(path, 'submit_config.json'))
    assert as_json == ast.literal_eval(read(path, 'submit_config.txt'))
    assert as_json['run_func_kwargs'] == {'seeds': [1, 2], 'truncation_psi': 0.5, 'network_pkl': None}
    assert (as_json['run_id'], as_json['run_name'], as_json['run_dir']) == (0, '00000-test', path)
    assert (as_json['run_desc'], as_json['run_func_name'], as_json['num_gpus']) == ('test', 'module.function', 1)
    assert as_json['host_name'] == 'localhost'
    assert as_json['versions']['python'] == '.'.join(map(str, sys.version_info[:3]))
    assert set(as_json['versions']) == {'python', 'tensorflow', 'numpy'}
    assert as_json['command_line'] == sys.argv


def test_failure_is_logged_raised_and_not_called_finished(tmp_path):
    streams = sys.stdout, sys.stderr
    with pytest.raises(ZeroDivisionError), start(tmp_path) as run:
        print(1 / 0)
    assert (sys.stdout, sys.stderr) == streams
    log = read(run.path, 'log.txt')
    assert 'print(1 / 0)' in log and log.endswith('ZeroDivisionError: division by zero\n')
    assert 'Finished' not in log
    assert not {'_finished.txt', 'run.txt'} & set(os.listdir(run.path))


def test_user_error_before_any_result_leaves_no_folder(tmp_path):
    with pytest.raises(cli.UserError), start(tmp_path):
        raise cli.UserError('no such network')
    assert os.listdir(tmp_path) == []


def test_user_error_after_a_result_keeps_it_and_logs_the_error(tmp_path):
    with pytest.raises(cli.UserError), start(tmp_path) as run:
        pathlib.Path(run.path, 'fakes.png').touch()
        raise cli.UserError('disk full', 'Free some space.')
    assert 'fakes.png' in os.listdir(run.path)
    assert read(run.path, 'log.txt').endswith('Error: disk full\nFree some space.\n')


def test_an_error_on_a_full_disk_stays_one_line_and_the_files_stay(tmp_path):
    """There is no room in the log either."""
    streams = sys.stdout, sys.stderr
    expected = pytest.raises(cli.UserError, match='no room for the picture')
    with expected, contextlib.ExitStack() as full, start(tmp_path) as run:
        pathlib.Path(run.path, 'first.png').touch()
        full.enter_context(files_limited_to(0))
        raise cli.UserError('no room for the picture')
    assert (sys.stdout, sys.stderr) == streams
    assert 'first.png' in os.listdir(run.path) and '_finished.txt' not in os.listdir(run.path)


def test_a_disk_that_is_full_at_the_start_or_the_end_is_a_user_error(tmp_path):
    with files_limited_to(0), pytest.raises(cli.UserError, match='submit_config.json: cannot be written: File too'):
        start(tmp_path)
    assert not list(tmp_path.iterdir())
    expected = pytest.raises(cli.UserError, match='run.txt: cannot be written: File too')
    with expected, contextlib.ExitStack() as full, start(tmp_path) as run:
        full.enter_context(files_limited_to(0))
    assert '_finished.txt' not in os.listdir(run.path)
    with storage.locked(run.path) as is_free:
        assert is_free


def test_result_dir_that_is_a_file_is_a_user_error(tmp_path):
    (tmp_path / 'results').write_text('')
    with pytest.raises(cli.UserError, match='results'):
        start(tmp_path / 'results')


def test_check_can_run_makes_nothing(tmp_path):
    run_dir.check_can_run(str(tmp_path / 'new' / 'below'))
    (tmp_path / 'file').write_text('')
    for path in ('file', 'file/below'):
        with pytest.raises(cli.UserError, match='cannot make a run folder in .*file.*: Not a directory'):
            run_dir.check_can_run(str(tmp_path / path))
    assert os.listdir(tmp_path) == ['file']


def test_errors_name_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, storage.new_file(tmp_path / 'gone' / 'x.txt') as part:
        open(part, 'w')
    assert caught.value.filename == str(tmp_path / 'gone' / 'x.txt')
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError) as caught, storage.new_folder(tmp_path / 'file' / 'data', '.*'):
        pass
    assert caught.value.filename == str(tmp_path / 'file' / 'data')


def test_slashes_in_the_description_do_not_make_folders(tmp_path):
    assert os.path.basename(start(tmp_path, desc='a/b').path) == '00000-a-b'


def test_a_run_continues_in_the_folder_of_an_earlier_run(tmp_path, capsys):
    with start(tmp_path) as first:
        print('first')
    with RunDir(str(tmp_path), 'test', 'module.function', {}, path=first.path) as run:
        run.begin()
        assert not os.path.exists(os.path.join(first.path, '_finished.txt'))
        print('second')
    assert run.path == first.path and os.listdir(tmp_path) == ['00000-test']
    lines = read(run.path, 'log.txt').splitlines()
    assert [line for line in lines if not line.startswith('dnnlib')] == ['first', 'second']
    assert os.path.exists(os.path.join(run.path, '_finished.txt'))


def test_a_run_that_is_refused_leaves_the_files_of_the_earlier_run_as_they_were(tmp_path):
    with start(tmp_path, seed=1) as first:
        first.ending = 'All is done.'
    names = 'submit_config.json', 'submit_config.txt', '_finished.txt'
    before = [read(first.path, name) for name in names]
    with pytest.raises(cli.UserError), RunDir(str(tmp_path), 'test', 'module.function', {'seed': 2}, path=first.path):
        raise cli.UserError('no such network')
    assert [read(first.path, name) for name in names] == before
    with RunDir(str(tmp_path), 'test', 'module.function', {'seed': 2}, path=first.path):
        pass
    assert json.loads(read(first.path, 'submit_config.json'))['run_func_kwargs'] == {'seed': 2}
    assert read(first.path, '_finished.txt') == ''


def test_a_mistake_does_not_remove_the_folder_of_an_earlier_run(tmp_path):
    first = start(tmp_path)
    with first:
        pass
    with pytest.raises(cli.UserError), RunDir(str(tmp_path), 'test', 'module.function', {}, path=first.path):
        raise cli.UserError('no such network')
    for name in ('run.txt', '_finished.txt'):
        os.remove(os.path.join(first.path, name))
    with pytest.raises(cli.UserError), RunDir(str(tmp_path), 'test', 'module.function', {}, path=first.path):
        raise cli.UserError('no such network')
    assert set(os.listdir(first.path)) == {'log.txt', 'submit_config.json', 'submit_config.txt'}


def test_two_processes_do_not_work_in_one_folder(tmp_path):
    run = start(tmp_path)
    before = read(run.path, 'submit_config.json')
    with pytest.raises(cli.UserError, match='another process is at work in .*00000-test'):
        RunDir(str(tmp_path), 'test', 'module.function', {'other': 1}, path=run.path)
    assert read(run.path, 'submit_config.json') == before
    with run:
        pass
    with RunDir(str(tmp_path), 'test', 'module.function', {}, path=run.path):
        pass


def test_a_run_that_was_stopped_is_no_failure(tmp_path):
    with pytest.raises(cli.Stopped), start(tmp_path) as run:
        print('stopped')
        raise cli.Stopped
    assert read(run.path, 'log.txt').endswith('stopped\n')
    assert not os.path.exists(os.path.join(run.path, '_finished.txt'))
