"""One call of a fuzzed reader, with its limits, and the files that hypothesis makes for it."""

from __future__ import annotations

import pathlib
import tempfile
import time
import warnings
from collections.abc import Callable

import hypothesis
from hypothesis import strategies as st

from dnnlib.cli import UserError
from tests.attacks.limits import traced_memory
from tests.fuzz import targets as fuzz_targets
from tests.fuzz.targets import Target

MAX_SECONDS = 10
_FIXED_BYTES = 8 << 20   # Beyond three times the size of the file: buffers, imports, messages.
_BYTES_PER_VALUE = 100   # A byte of a pickle or JSON can be a whole Python object.


class Finding(AssertionError):
    """A reader raised something else than UserError, or took too much memory or time."""


def call(target: Target, data: bytes, folder: pathlib.Path) -> None:
    """Let a target read `data`.

    Raises:
        Finding: What it did that no file may make it do.
    """
    start = time.monotonic()
    with warnings.catch_warnings(), traced_memory() as peak:
        warnings.simplefilter('ignore')
        try:
            target.read(data, fuzz_targets.empty(folder))
        except UserError as err:
            if '\n' in err.fact or not err.fact:
                raise Finding(f'the message has no single line: {err.fact!r}') from err
        except Exception as err:
            raise Finding(f'{type(err).__name__}: {err}') from err
    seconds, limit = time.monotonic() - start, _FIXED_BYTES + (3 + _BYTES_PER_VALUE) * len(data)
    if seconds > MAX_SECONDS:
        raise Finding(f'took {seconds:.0f} seconds')
    if peak() > limit:
        raise Finding(f'took {peak()} bytes of memory for a file of {len(data)}')


@st.composite
def files(draw: st.DrawFn, target: Target) -> bytes:
    """Files for a target: damaged valid files, sequences of fragments, or any bytes."""
    if target.fragments and draw(st.integers(0, 3)) == 0:
        return b''.join(draw(st.lists(st.sampled_from(target.fragments), max_size=40))) + draw(
            st.sampled_from([b'', b'.'])
        )
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(draw(st.sampled_from(target.seeds)))
    pieces = [st.binary(max_size=9), st.sampled_from([bytes(8), 8 * b'\xff', b'\0\0\0\x7f', b'\xff\xff\xff\x7f'])]
    if target.fragments:
        pieces.append(st.sampled_from(target.fragments))
    for _ in range(draw(st.integers(1, 4))):
        pos = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(['bit', 'overwrite', 'insert', 'delete', 'repeat', 'cut']))
        if kind == 'bit' and pos < len(data):
            data[pos] ^= 1 << draw(st.integers(0, 7))
        elif kind in ('overwrite', 'insert'):
            piece = draw(st.one_of(pieces))
            data[pos:pos + (len(piece) if kind == 'overwrite' else 0)] = piece
        elif kind == 'delete':
            del data[pos:pos + draw(st.integers(1, 20))]
        elif kind == 'repeat':
            data[pos:pos] = data[pos:pos + draw(st.integers(1, 100))] * draw(st.integers(1, 50))
        elif kind == 'cut':
            del data[pos:]
    return bytes(data)


def fuzz(target: Target, num_files: int, seed: int) -> None:
    """Let a target read `num_files` files, which depend on `seed` only.

    Raises:
        Finding: The first thing found, for the smallest file that shows it.
    """
    with tempfile.TemporaryDirectory() as folder:
        _property(target, num_files, seed, pathlib.Path(folder))()


def _property(target: Target, num_files: int, seed: int, folder: pathlib.Path) -> Callable[[], None]:
    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=num_files, deadline=None, database=None,
                         suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(files(target))
    def reads(data):
        call(target, data, folder)
    return reads


def all_targets() -> dict[str, Target]:
    """The targets by name."""
    with tempfile.TemporaryDirectory() as folder:
        return fuzz_targets.targets(pathlib.Path(folder))
