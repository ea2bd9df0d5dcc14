"""What the commands share: argument types, and one clean way to end on a user's mistake."""

import argparse
import os
import re
import signal
import sys
import threading


class UserError(Exception):
    """A mistake of the user, not of the program: shown without a traceback.

    Args:
        fact:   One line: what was expected and what was found, with the name of the file or flag.
        remedy: One line: what to do about it. '' = nothing more to say.
    """
    exit_code = 1

    def __init__(self, fact, remedy=''):
        super().__init__(fact if not remedy else f'{fact}\n{remedy}')
        self.fact = fact
        self.remedy = remedy


class Stopped(Exception):
    """The run was asked to stop, and its state is saved: it can be gone on with."""


EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: not done, try again.


def run(main, argv=None):
    """Call `main(argv)` and leave the process with the exit code that fits how it ended.

    Args:
        main: Function of the list of arguments. What it returns becomes the exit code; None = 0.
        argv: Arguments without the program's name. None = those of the process.

    Exit codes: 0 done, 1 a UserError (printed as `Error: fact` and its remedy) or what its class says, 2 bad usage (argparse), 75
    stopped with its state saved, 130 interrupted, 1 without a word if the reader of our output has gone. `--debug` anywhere among
    the arguments keeps the traceback.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        sys.exit(main(argv) or 0)
    except UserError as err:
        if '--debug' in argv:
            raise
        sys.stdout.flush()
        print(f'Error: {err}', file=sys.stderr)
        sys.exit(err.exit_code)
    except Stopped:
        sys.exit(EXIT_STOPPED)
    except KeyboardInterrupt:
        if '--debug' in argv:
            raise
        sys.stdout.flush()
        print('Interrupted.', file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # Whoever read our output has gone, as in `... | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Or the flush at exit would fail again.
        sys.exit(1)


class StopOnSignal:
    """Context in which SIGINT (Ctrl-C) and SIGTERM only set `requested`, for the program to stop when it suits. The second one acts
    as ever. Outside the main thread, where Python takes no signals, it does nothing."""

    def __init__(self, what='Stopping as soon as it can. Once more: at once.'):
        self.requested = False
        self._message = f'\n{what}\n'.encode()
        self._handlers = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        if self.requested:
            signal.signal(number, self._handlers[number])
            signal.raise_signal(number)
            return
        self.requested = True
        os.write(2, self._message)  # print could be called here in the middle of another print


def help_formatter(prog):
    """For ArgumentParser(formatter_class=...): keeps the line breaks of the examples, and flags beside their help."""
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=32)


def add_debug_flag(parser):
    """Give `parser` the flag that `run` looks for."""
    parser.add_argument('--debug', action='store_true', help='show the full traceback of an error')


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


# ---- Argument types (argparse turns their ArgumentTypeError into a usage line and exit code 2) ----

def num_range(text):
    """'a,b,c' -> [a, b, c] in that order; 'a-c' -> [a, a+1, ..., c]. The two forms do not mix."""
    match = re.fullmatch(r'(\d+)-(\d+)', text)
    if match:
        first, last = int(match[1]), int(match[2])
        if first > last:
            raise argparse.ArgumentTypeError(f'range {text!r} runs backwards; write {last}-{first}')
        return list(range(first, last + 1))
    if re.fullmatch(r'\d+(,\d+)*', text):
        return [int(part) for part in text.split(',')]
    raise argparse.ArgumentTypeError(f'expected a list like 1,5,7 or a range like 0-9, got {text!r}')


def seed(text):
    """'42' -> 42; numpy takes seeds below 2**32."""
    value = non_negative_int(text)
    if value >= 2 ** 32:
        raise argparse.ArgumentTypeError(f'expected a seed below 2**32 = {2 ** 32}, got {text!r}')
    return value


def seed_range(text):
    """As num_range, for numbers that are seeds."""
    for part in re.findall(r'\d+', text):
        seed(part)  # first, so that 0-99999999999 is refused before the list is made
    return num_range(text)


def boolean(text):
    """'true', 't', 'yes', 'y', '1', 'on' and their opposites, in any case -> bool."""
    lowered = text.lower()
    if lowered in ('true', 't', 'yes', 'y', '1', 'on'):
        return True
    if lowered in ('false', 'f', 'no', 'n', '0', 'off'):
        return False
    raise argparse.ArgumentTypeError(f'expected true or false, got {text!r}')


def name_list(text):
    """'fid50k,ppl_wend' -> ['fid50k', 'ppl_wend'], each once; 'none' and '' -> []."""
    return [] if text.lower() in ('none', '') else list(dict.fromkeys(text.split(',')))


def positive_int(text):
    """'32' -> 32; zero, negatives and fractions are refused."""
    if not re.fullmatch(r'\d+', text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f'expected a whole number above zero, got {text!r}')
    return int(text)


def positive_ints(text):
    """'1,3,3,1' -> [1, 3, 3, 1]."""
    try:
        return [positive_int(part) for part in text.split(',')]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f'expected whole numbers above zero with commas between, got {text!r}') from None


def non_negative_int(text):
    """'0' -> 0; negatives and fractions are refused."""
    if not re.fullmatch(r'\d+', text):
        raise argparse.ArgumentTypeError(f'expected a whole number, zero or above, got {text!r}')
    return int(text)


def finite_float(text):
    """'-0.5' -> -0.5; infinities and NaN are refused."""
    try:
        value = float(text)
    except ValueError:
        value = float('nan')
    if not -float('inf') < value < float('inf'):
        raise argparse.ArgumentTypeError(f'expected a number, got {text!r}')
    return value


def positive_float(text):
    """'0.5' -> 0.5; zero, negatives, infinities and NaN are refused."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'expected a number above zero, got {text!r}')
    return value


def non_negative_float(text):
    """'0' -> 0.0; negatives, infinities and NaN are refused."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float('inf'):
        raise argparse.ArgumentTypeError(f'expected a number, zero or above, got {text!r}')
    return value
