"""A few files for each reader, always the same ones; `make fuzz` tries more."""

import pathlib

import pytest

from dnnlib.cli import UserError

pytest.importorskip('hypothesis', reason='hypothesis is part of the extra dev')

from tests.fuzz import fuzzing  # noqa: E402
from tests.fuzz.targets import Target  # noqa: E402

TARGETS = fuzzing.all_targets()


@pytest.mark.parametrize('name', TARGETS)
def test_damaged_files_end_in_a_user_error_within_the_limits(name):
    fuzzing.fuzz(TARGETS[name], num_files=30, seed=0)


@pytest.mark.parametrize('name', TARGETS)
def test_the_first_seed_is_a_valid_file(name, tmp_path):
    TARGETS[name].read(TARGETS[name].seeds[0], tmp_path)


def misbehave(how: str):
    """A reader that does what none may do."""
    def read(data: bytes, folder: pathlib.Path):
        if how == 'traceback':
            raise KeyError('format')
        if how == 'memory':
            bytearray(50 << 20)
        if how == 'message':
            raise UserError('two\nlines')
    return Target(read, [b'abc'])


@pytest.mark.parametrize('how, expected', [
    ('traceback', "KeyError: 'format'"), ('memory', 'bytes of memory for a file'), ('message', 'no single line')])
def test_what_no_reader_may_do_is_found(how, expected):
    with pytest.raises(fuzzing.Finding, match=expected):
        fuzzing.fuzz(misbehave(how), num_files=3, seed=0)
