import argparse
import concurrent.futures
import pathlib
import signal
import subprocess
import sys

import pytest

from dnnlib import cli


def exit_code(main, argv=()):
    with pytest.raises(SystemExit) as caught:
        cli.run(main, list(argv))
    return caught.value.code


def fail_with(err):
    def main(argv):
        raise err
    return main


def test_success_exits_with_0():
    assert exit_code(lambda argv: None) == 0


def test_main_chooses_its_exit_code_and_gets_the_arguments():
    assert exit_code(lambda argv: len(argv), ['a', 'b', 'c']) == 3


def test_user_error_is_two_lines_on_stderr_and_exit_code_1(capsys):
    assert exit_code(fail_with(cli.UserError('no such file: x.pkl', 'Check --network.'))) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ('', 'Error: no such file: x.pkl\nCheck --network.\n')


def test_user_error_without_remedy_is_one_line(capsys):
    exit_code(fail_with(cli.UserError('no such file')))
    assert capsys.readouterr().err == 'Error: no such file\n'


def test_an_incomplete_command_line_exits_with_2(capsys):
    assert exit_code(fail_with(cli.UsageError('missing subcommand'))) == 2
    assert capsys.readouterr().err == 'Error: missing subcommand\n'


@pytest.mark.parametrize('err, line', [
    (PermissionError(13, 'Permission denied', '/data/x.png'), '/data/x.png: Permission denied'),
    (OSError(28, 'No space left on device'), '[Errno 28] No space left on device'),
    (MemoryError(), 'there is not enough memory'),
    (type('ResourceExhaustedError', (Exception,), {})('{{node conv}} OOM'), 'there is not enough memory'),
    (type('ResourceExhaustedError', (Exception,), {})('a.index; No space left\nmore'), 'a.index; No space left')])
def test_errors_of_the_machine_are_shown_without_a_traceback(err, line, capsys):
    assert exit_code(fail_with(err)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f'Error: {line}' and len(lines) == 2
    with pytest.raises(type(err)):
        cli.run(fail_with(err), ['--debug'])


# Classes and messages of TensorFlow, without TensorFlow.
OP_ERROR = type('OpError', (Exception,), {})
CUDNN = 'No algorithm worked!  Error messages:\n  Profiling failure on CUDNN engine 0: RESOURCE_EXHAUSTED: ...'


@pytest.mark.parametrize('name, message, expected', [
    ('ResourceExhaustedError', 'OOM when allocating tensor with shape[4,512]', True),
    ('ResourceExhaustedError', 'failed to write: No space left on device', False),
    ('NotFoundError', CUDNN, True), ('UnknownError', 'Failed to get convolution: CUDNN_STATUS_ALLOC_FAILED', True),
    ('UnknownError', 'RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes', True),
    ('InternalError', 'Dst tensor is not initialized.', True),
    ('InternalError', 'CUDA runtime implicit initialization on GPU:0 failed. Status: out of memory', True),
    ('InternalError', 'Failed to call cuModuleLoadData: CUDA_ERROR_OUT_OF_MEMORY', True),
    ('InternalError', 'failed to allocate 2.0GiB from device', True),
    ('NotFoundError', 'data/x.tfrecords; No such file or directory', False),
    ('InternalError', 'Blas GEMM failed', False)])
def test_out_of_memory_in_all_forms_of_tensorflow(name, message, expected):
    err = type(name, (OP_ERROR,), {'message': message})(message)
    assert cli.is_out_of_memory(err) == expected
    if expected:
        with pytest.raises(cli.UserError) as caught, cli.out_of_memory_explained('Take less.'):
            raise err
        line = 'No algorithm worked!  Error messages:' if message is CUDNN else message
        assert caught.value.fact == f'out of memory: {line}' and caught.value.remedy == f'Take less. {cli.FREE_MEMORY}'
    else:
        with pytest.raises(type(err)), cli.out_of_memory_explained('Take less.'):
            raise err


def test_only_memory_is_explained_as_memory():
    assert cli.is_out_of_memory(MemoryError())
    assert not any(cli.is_out_of_memory(err) for err in (
        cli.UserError('out of memory with --minibatch-gpu=4'), ValueError('out of memory'), KeyboardInterrupt()))


def test_errors_of_the_program_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(fail_with(ZeroDivisionError()), [])


def test_escape_sequences_in_names_do_not_reach_the_terminal(capsys):
    exit_code(fail_with(cli.UserError('no file \x1b[31mred\x9b.png\r', 'Rename it.')))
    assert capsys.readouterr().err == 'Error: no file \\x1b[31mred\\x9b.png\\x0d\nRename it.\n'


def test_escape_sequences_in_arguments_do_not_reach_the_terminal(capsys):
    with pytest.raises(SystemExit):
        cli.ArgumentParser(prog='x').parse_args(['--no\x1b[31mflag'])
    assert '--no\\x1b[31mflag' in capsys.readouterr().err


@pytest.mark.parametrize('argv, expected', [
    ('draw --netwrok=x', 'the following arguments are required: --network; --netwrok: did you mean --network?'),
    ('draw --network=x --seed=1', 'unrecognized arguments: --seed=1; --seed: did you mean --seeds?'),
    ('draw --network=x --other=1', 'unrecognized arguments: --other=1'),
    ('draw --seeds=1', 'the following arguments are required: --network')])
def test_mistyped_flags_are_named_with_what_is_probably_meant(argv, expected, capsys):
    """Also where argparse complains about something else."""
    parser = cli.ArgumentParser(prog='x', allow_abbrev=False)
    sub = parser.add_subparsers().add_parser('draw', allow_abbrev=False)
    sub.add_argument('--network', required=True)
    sub.add_argument('--seeds')
    with pytest.raises(SystemExit):
        parser.parse_args(argv.split())
    assert capsys.readouterr().err.splitlines()[-1].endswith(f'error: {expected}')


def test_warnings_are_one_line_without_source():
    program = ('import warnings; from dnnlib import cli\n'
               'cli.run(lambda argv: warnings.warn("slow", RuntimeWarning), [])')
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, 'Warning: slow\n')


def test_names_that_are_no_text_can_be_printed():
    program = 'from dnnlib import cli; cli.run(lambda argv: print("Loading \\udcff.pkl"), [])'
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, 'Loading \\udcff.pkl\n')


def test_flags_without_effect_are_named():
    assert cli.flags_in(['generate', '--seeds=0-9', '--class', '3', '-h']) == {'--seeds', '--class'}
    cli.refuse_flags(set(), 'here')
    with pytest.raises(cli.UserError, match=r'^--a, --b: have no effect without --c\nLeave out --a, --b\.$'):
        cli.refuse_flags({'--b', '--a'}, 'without --c')


def test_an_empty_name_is_refused():
    assert cli.path('x') == 'x'
    with pytest.raises(argparse.ArgumentTypeError, match='empty'):
        cli.path('')


def test_debug_keeps_the_traceback():
    with pytest.raises(cli.UserError):
        cli.run(fail_with(cli.UserError('fact', 'remedy')), ['--debug'])


def test_interrupt_exits_with_130(capsys):
    assert exit_code(fail_with(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == 'Interrupted.\n'


def test_a_run_that_was_stopped_exits_with_75(capsys):
    assert exit_code(fail_with(cli.Stopped())) == cli.EXIT_STOPPED == 75
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request(number, capfd):
    before = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    with cli.StopOnSignal('Stopping.') as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
    assert capfd.readouterr().err == '\nStopping.\n'
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == before


def test_the_second_signal_acts_as_ever():
    with pytest.raises(KeyboardInterrupt), cli.StopOnSignal():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    program = ('import signal; from dnnlib import cli\n'
               'with cli.StopOnSignal():\n  signal.raise_signal(signal.SIGINT); signal.raise_signal(signal.SIGTERM)')
    assert subprocess.run([sys.executable, '-c', program], capture_output=True).returncode == -signal.SIGTERM


def test_outside_the_main_thread_signals_are_left_alone():
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        def run():
            with cli.StopOnSignal() as stop:
                return stop.requested
        assert pool.submit(run).result() is False


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        cli.run(fail_with(ZeroDivisionError()), [])


@pytest.mark.parametrize('read, text, value', [
    (cli.num_range, '3', [3]),
    (cli.num_range, '5,1,5', [5, 1, 5]),
    (cli.num_range, '2-5', [2, 3, 4, 5]),
    (cli.num_range, '7-7', [7]),
    (cli.num_range, '5-1000004', list(range(5, 1000005))),
    (cli.seed, '4294967295', 4294967295),
    (cli.seed_range, '0,4294967295', [0, 4294967295]),
    (cli.boolean, 'True', True),
    (cli.boolean, 'no', False),
    (cli.positive_int, '32', 32),
    (cli.positive_ints, '1,3,3,1', [1, 3, 3, 1]),
    (cli.non_negative_int, '0', 0),
    (cli.finite_float, '-0.5', -0.5),
    (cli.truncation_psi, '-1.5', -1.5),
    (cli.positive_float, '1e-3', 0.001),
    (cli.non_negative_float, '0', 0.0),
])
def test_argument_types_accept(read, text, value):
    result = read(text)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize('read, text', [
    *((cli.num_range, text) for text in ('', '1,3-5', '5-2', '-1', 'a', '1,,2', '1-2-3', '1.5')),
    (cli.seed, '4294967296'),
    (cli.seed, '-1'),
    (cli.seed_range, '0-99999999999999'),
    (cli.seed_range, '0-4294967295'),
    (cli.num_range, '5-1000005'),
    (cli.num_range, '0-' + 5000 * '9'),
    (cli.seed_range, 'x'),
    (cli.boolean, 'maybe'),
    *((cli.positive_int, text) for text in ('0', '-1', '1.5', '')),
    *((cli.positive_ints, text) for text in ('', '1,', '1,0', '[1,1]')),
    *((cli.non_negative_int, text) for text in ('-1', '1.5', '')),
    *((cli.finite_float, text) for text in ('nan', 'inf', '-inf', 'x', '')),
    *((cli.truncation_psi, text) for text in ('1e38', '-101', 'nan', 'x')),
    *((cli.positive_float, text) for text in ('0', '-1', 'nan', 'inf', 'x')),
    *((cli.non_negative_float, text) for text in ('-0.1', 'nan', 'inf', 'x')),
])
def test_argument_types_refuse_and_quote_what_they_got(read, text):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        read(text)
    assert repr(text) in str(caught.value) or text.split('-')[-1] in str(caught.value)


def test_output_cut_short_by_its_reader_is_no_traceback():
    code = "from dnnlib import cli\ncli.run(lambda argv: [print('x' * 100) for _ in range(10 ** 4)] and None)"
    child = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             cwd=pathlib.Path(cli.__file__).parents[1])
    with child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == ''
    assert child.wait() == 1
