"""Helpers of the command-line scripts: argument types, exit codes, and messages for mistakes of the user."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn


class UserError(Exception):
    """A mistake of the user, not of the program: it is shown without a traceback.

    Args:
        fact:   One line that names the file or flag, what was expected and what was found.
        remedy: One line that says what to do about it. '' = there is nothing to say.

    Attributes:
        exit_code: Exit code of the process.
    """
    exit_code = 1

    def __init__(self, fact: str, remedy: str = ''):
        super().__init__(fact if not remedy else f'{fact}\n{remedy}')
        self.fact = fact
        self.remedy = remedy


class UsageError(UserError):
    """The command line is incomplete. The exit code is that of argparse for such mistakes."""
    exit_code = 2


class Stopped(Exception):
    """The run was asked to stop and has saved its state, so that it can be resumed."""


EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: not finished, try again.

is_command = False  # Is this process a command of the project? `run` says so.


def run(main: Callable[[list[str]], int | None], argv: list[str] | None = None) -> NoReturn:
    """Call `main(argv)` and exit the process with the code for how it ended.

    Exit codes: 0 = success; 1 = UserError (printed as `Error: fact` and its remedy), unless its class has another code;
    2 = wrong usage (argparse, UsageError); 75 = stopped with its state saved; 130 = interrupted; 1 without a message if
    the reader of the output has exited. Files that cannot be read or written and too little memory are shown like a
    UserError. With `--debug` among the arguments, the traceback is shown. docs/troubleshooting.md lists all codes.

    Args:
        main: Function of the list of arguments. It returns the exit code; None = 0.
        argv: Arguments without the name of the program. None = those of the process.
    """
    global is_command
    is_command = True
    argv = sys.argv[1:] if argv is None else argv
    debug = '--debug' in argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')  # Names of files need not be text that can be printed.
    if not debug:
        warnings.formatwarning = _warning_line
    try:
        sys.exit(main(argv) or 0)
    except UserError as err:
        if debug:
            raise
        _exit_with(err)
    except Stopped:
        sys.exit(EXIT_STOPPED)
    except KeyboardInterrupt:
        if '--debug' in argv:
            raise
        sys.stdout.flush()
        print('Interrupted.', file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # The reader of the output has exited, as in `... | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Otherwise the flush at exit would fail again.
        sys.exit(1)
    except Exception as err:
        explained = _explain(err)
        if debug or explained is None:
            raise
        _exit_with(explained)


def _explain(err: Exception) -> UserError | None:
    """The error of the machine that an exception stands for: a file, the disk, or memory. None = an error of ours."""
    if isinstance(err, OSError):
        reason = f'{err.filename}: {err.strerror}' if err.filename and err.strerror else str(err)
        return UserError(reason, 'Check the name, the permissions and the free space.')
    if is_out_of_memory(err):
        return UserError('there is not enough memory', 'Ask for less at a time, or use a larger machine.')
    if type(err).__name__ == 'ResourceExhaustedError':
        return UserError(str(getattr(err, 'message', err)).splitlines()[0],
                         'Check the free space and the number of open files (ulimit -n).')
    return None


# What TensorFlow, cuDNN and cuBLAS say when the memory of a GPU is too small, in errors of many types.
_OUT_OF_MEMORY = re.compile(
    'out of memory|OUT_OF_MEMORY|OOM when allocating|RESOURCE_EXHAUSTED|Resource exhausted|STATUS_ALLOC_FAILED|'
    'No algorithm worked|[Ff]ailed to allocate|Dst tensor is not initialized')


def is_out_of_memory(err: BaseException) -> bool:
    """Whether an exception, of Python or of TensorFlow, means that there is too little memory."""
    # TensorFlow's exceptions are compared by name, because here it need not have been imported.
    names = {cls.__name__ for cls in type(err).__mro__}
    if isinstance(err, MemoryError) or 'ResourceExhaustedError' in names:
        return not re.search('No space left|quota exceeded|Too many open files', str(err))  # Of disks: the same type.
    return 'OpError' in names and _OUT_OF_MEMORY.search(str(err)) is not None


def first_line_of_memory_error(err: BaseException) -> str:
    """What an exception for which `is_out_of_memory` is true says, on one line: the one that tells the cause."""
    lines = [line.strip() for line in str(getattr(err, 'message', err)).splitlines() if line.strip()]
    return next((line for line in lines if _OUT_OF_MEMORY.search(line)), (lines or ['no details'])[0])[:300]


@contextlib.contextmanager
def out_of_memory_explained(remedy: str) -> Iterator[None]:
    """Context manager that raises a UserError in place of exceptions that mean too little memory.

    Args:
        remedy: What the user can do, in addition to what always helps. '' = nothing else.
    """
    try:
        yield
    except Exception as err:
        if not is_out_of_memory(err):
            raise
        raise UserError(f'out of memory: {first_line_of_memory_error(err)}', f'{remedy} {FREE_MEMORY}'.strip()) from err


FREE_MEMORY = ('End other programs that use the memory (nvidia-smi lists those on a GPU), or compute on the CPU: '
               'CUDA_VISIBLE_DEVICES=-1.')


def printable(text: str) -> str:
    r"""Replace control characters other than line breaks, such as those of escape sequences: ESC -> \\x1b."""
    return re.sub(r'[\x00-\x09\x0b-\x1f\x7f-\x9f]', lambda match: f'\\x{ord(match[0]):02x}', text)


def _exit_with(err: UserError) -> NoReturn:
    """Print an error without a traceback, and end the process."""
    sys.stdout.flush()
    print(f'Error: {printable(str(err))}', file=sys.stderr)
    sys.exit(err.exit_code)


def _warning_line(message: Warning | str, *where: Any) -> str:
    """A warning on a line of its own, without the line of source that it comes from."""
    return f'Warning: {printable(str(message))}\n'


class StopOnSignal:
    """Context manager in which SIGINT (Ctrl-C) and SIGTERM only set `requested`, so that the program can stop cleanly.

    The second signal has its usual effect. Outside the main thread, where Python handles no signals, it does nothing.

    Args:
        what: Message to print at the first signal.

    Attributes:
        requested: Has there been a signal?
    """

    def __init__(self, what: str = 'Stopping as soon as it can. Once more: at once.'):
        self.requested = False
        self._message = f'\n{what}\n'.encode()
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            signal.signal(number, self._handlers[signal.Signals(number)])
            signal.raise_signal(number)
            return
        self.requested = True
        os.write(2, self._message)  # Not print, because the signal may have interrupted another print.


commands: dict[str, str] = {}  # Script -> the console command that runs it, if one does: stylegan2_cli.py.


def command(script: str) -> str:
    """How the user runs a script: 'python run_training.py', or 'stylegan2 train'."""
    return commands.get(script, f'python {script}')


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser. Its error messages go through `printable`, because they quote what the user typed.

    Args:
        prog, epilog: As of argparse. They name scripts, in whose place the help shows console commands if the user has
                      typed one.
        Others:       As of argparse.
    """

    _given: Sequence[str] = ()  # What was parsed last.

    def __init__(self, prog: str | None = None, epilog: str | None = None, **kwargs: Any):
        if epilog and commands:
            epilog = re.sub(r'python (\w+\.py)', lambda match: command(match[1]), epilog)
        super().__init__(prog=commands.get(prog or '', prog), epilog=epilog, **kwargs)

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's."""
        self._given = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(self._given, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, with what mistyped flags are probably meant to be, and exit with code 2."""
        known = {*self._option_string_actions}
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, parser in action.choices.items():
                    known |= {*parser._option_string_actions} if name in self._given else set()
        for flag in sorted(flags_in(self._given) - known):
            near = difflib.get_close_matches(flag, known, n=1, cutoff=0.7)
            message += f'; {flag}: did you mean {near[0]}?' if near else ''
        super().error(printable(message))


def help_formatter(prog: str) -> argparse.HelpFormatter:
    """Formatter for ArgumentParser(formatter_class=...) that keeps line breaks and has room for long flags."""
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=32)


def add_debug_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag --debug, which `run` looks for."""
    parser.add_argument('--debug', action='store_true', help='show the full traceback of an error')


def flags_in(argv: Sequence[str]) -> set[str]:
    """The flags among the arguments, such as '--seeds' for '--seeds=0-9', whatever their values are."""
    return {arg.partition('=')[0] for arg in argv if arg.startswith('--')}


def refuse_flags(flags: Iterable[str], where: str) -> None:
    """Raise a UserError if there are any flags, because they would have no effect.

    Args:
        flags: Flags that were given and would have no effect, such as '--resume-kimg'.
        where: The rest of the sentence: 'without --resume-pkl'.
    """
    found = sorted(flags)
    if found:
        raise UserError(f'{", ".join(found)}: has no effect {where}' if len(found) == 1 else
                        f'{", ".join(found)}: have no effect {where}', f'Leave out {", ".join(found)}.')


OPS_IMPLS = ('auto', 'native', 'ref')
IMPL_HELP = 'custom ops: native, ref, or auto = native if they build'


def add_impl_flag(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Give `parser` the flag --impl, for `custom_ops.set_impl`.

    Args:
        parser:  Parser to extend.
        default: Value if the flag is not given. argparse.SUPPRESS = leave the value out.
    """
    parser.add_argument('--impl', choices=OPS_IMPLS, default=default, metavar='NAME',
                        help=f'{IMPL_HELP} (default: $STYLEGAN2_OPS or auto)')


TF32_HELP = ('let GPUs from Ampere on compute in TF32: convolutions of float32 several times as fast, with 10 instead '
             'of 23 bits of mantissa')


def add_tf32_flag(parser: argparse.ArgumentParser, default: Any = False) -> None:
    """Give `parser` the flag --tf32, for `tfutil.set_tf32`. Arguments as in `add_impl_flag`."""
    parser.add_argument('--tf32', type=boolean, default=default, metavar='BOOL', help=f'{TF32_HELP} (default: false)')


# ---- Argument types: argparse turns their ArgumentTypeError into a usage message and exit code 2 ----

_MAX_RANGE = 1_000_000  # Numbers in one range: a slip such as 0-4294967295 would fill the memory, then the disk.


def num_range(text: str) -> list[int]:
    """'a,b,c' -> [a, b, c] in that order; 'a-c' -> [a, a+1, ..., c], at most a million numbers.

    The two forms cannot be combined.
    """
    match = re.fullmatch(r'(\d{1,18})-(\d{1,18})', text)
    if match:
        first, last = int(match[1]), int(match[2])
        if first > last:
            raise argparse.ArgumentTypeError(f'range {text!r} runs backwards; write {last}-{first}')
        if last - first >= _MAX_RANGE:
            raise argparse.ArgumentTypeError(
                f'expected a range of at most {_MAX_RANGE} numbers, got {text!r}, which has {last - first + 1}')
        return list(range(first, last + 1))
    if re.fullmatch(r'\d{1,18}(,\d{1,18})*', text):
        return [int(part) for part in text.split(',')]
    raise argparse.ArgumentTypeError(f'expected a list like 1,5,7 or a range like 0-9, got {text!r}')


def seed(text: str) -> int:
    """'42' -> 42; NumPy accepts seeds below 2**32."""
    value = non_negative_int(text)
    if value >= 2 ** 32:
        raise argparse.ArgumentTypeError(f'expected a seed below 2**32 = {2 ** 32}, got {text!r}')
    return value


def seed_range(text: str) -> list[int]:
    """As num_range, for seeds."""
    for part in re.findall(r'\d+', text):
        seed(part)  # Checked first, so that 0-99999999999 is refused before the list is made.
    return num_range(text)


def path(text: str) -> str:
    """Name of a file or folder, or address.

    Anything but an empty text, which comes of an unset variable in a script.
    """
    if not text:
        raise argparse.ArgumentTypeError('expected a name, got an empty text')
    return text


def boolean(text: str) -> bool:
    """'true', 't', 'yes', 'y', '1', 'on' and their opposites, in upper or lower case -> bool."""
    lowered = text.lower()
    if lowered in ('true', 't', 'yes', 'y', '1', 'on'):
        return True
    if lowered in ('false', 'f', 'no', 'n', '0', 'off'):
        return False
    raise argparse.ArgumentTypeError(f'expected true or false, got {text!r}')


def name_list(text: str) -> list[str]:
    """'fid50k,ppl_wend' -> ['fid50k', 'ppl_wend'], each once; 'none' and '' -> []."""
    return [] if text.lower() in ('none', '') else list(dict.fromkeys(text.split(',')))


def positive_int(text: str) -> int:
    """'32' -> 32; zero, negative numbers and fractions are refused."""
    if not re.fullmatch(r'\d+', text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f'expected a whole number above zero, got {text!r}')
    return int(text)


def positive_ints(text: str) -> list[int]:
    """'1,3,3,1' -> [1, 3, 3, 1]."""
    try:
        return [positive_int(part) for part in text.split(',')]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f'expected whole numbers above zero with commas between, got {text!r}') from None


def non_negative_int(text: str) -> int:
    """'0' -> 0; negative numbers and fractions are refused."""
    if not re.fullmatch(r'\d+', text):
        raise argparse.ArgumentTypeError(f'expected a whole number, zero or above, got {text!r}')
    return int(text)


def finite_float(text: str) -> float:
    """'-0.5' -> -0.5; infinities and NaN are refused."""
    try:
        value = float(text)
    except ValueError:
        value = float('nan')
    if not -float('inf') < value < float('inf'):
        raise argparse.ArgumentTypeError(f'expected a number, got {text!r}')
    return value


def truncation_psi(text: str) -> float:
    """'0.7' -> 0.7; numbers beyond +-100 are refused: their images mean nothing, and in the end are black."""
    value = finite_float(text)
    if abs(value) > 100:
        raise argparse.ArgumentTypeError(
            f'expected a number from -100 to 100, got {text!r}; sensible are 0 (the average image) to 1 (no truncation)'
        )
    return value


def positive_float(text: str) -> float:
    """'0.5' -> 0.5; zero, negative numbers, infinities and NaN are refused."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'expected a number above zero, got {text!r}')
    return value


def non_negative_float(text: str) -> float:
    """'0' -> 0.0; negative numbers, infinities and NaN are refused."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float('inf'):
        raise argparse.ArgumentTypeError(f'expected a number, zero or above, got {text!r}')
    return value


def fraction(text: str) -> float:
    """'0.6' -> 0.6; numbers below 0 or above 1 are refused."""
    value = finite_float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'expected a number from 0 to 1, got {text!r}')
    return value
