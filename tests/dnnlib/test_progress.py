"""Progress bars: a bar on a terminal, plain lines elsewhere, nothing when disabled."""

import sys

import pytest

from dnnlib import progress
from dnnlib.progress import ProgressBar


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until the test moves it."""
    class Clock:
        now = 100.0
    monkeypatch.setattr(progress.time, 'monotonic', lambda: Clock.now)
    return Clock


def test_a_line_every_half_minute_and_a_summary(clock, capsys):
    with ProgressBar('reals', 10, summary=True) as bar:
        for _ in range(10):
            clock.now += 10
            bar.update()
    assert capsys.readouterr().out.splitlines() == [
        'reals 4 / 10: 0.1 img/s, about 1m 00s left', 'reals 8 / 10: 0.1 img/s, about 20s left',
        'reals: 10 img in 1m 40s, 0.1 img/s']


@pytest.mark.parametrize('total, lines', [(10, 10), (25, 10), (1000, 10), (3, 3)])
def test_evenly_spread_lines(total, lines, clock, capsys):
    with ProgressBar('Step', total, 'step', num_lines=10) as bar:
        for step in range(total):
            bar.note(f'loss {step}')
            clock.now += 2
            bar.update()
    out = capsys.readouterr().out.splitlines()
    assert len(out) == lines and all(line.endswith(' left') for line in out)
    assert out[-1] == f'Step {total} / {total}: loss {total - 1}, 0.5 step/s, about 0s left'


@pytest.mark.parametrize('total, expected', [
    (None, 'net.pkl 5.0 MB: 0.1 MB/s'), (20_000_000, 'net.pkl 5.0 / 20.0 MB: 0.1 MB/s, about 2m 00s left')])
def test_bytes(total, expected, clock, capsys):
    with ProgressBar('net.pkl', total, 'B') as bar:
        clock.now += 40
        bar.update(5_000_000)
    assert capsys.readouterr().out == f'{expected}\n'


def test_a_failed_task_has_no_summary(capsys):
    with pytest.raises(ValueError), ProgressBar('reals', 10, summary=True):
        raise ValueError
    assert capsys.readouterr().out == ''


def test_more_steps_than_expected(clock, capsys):
    with ProgressBar('', 2) as bar:
        for _ in range(3):
            clock.now += 40
            bar.update()
    assert capsys.readouterr().out.splitlines() == ['1 / 2: 0.0 img/s, about 40s left', '3 / 2: 0.0 img/s']


@pytest.mark.parametrize('enabled', [True, False])
def test_a_bar_on_a_terminal(enabled, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    with ProgressBar('images', 10, summary=True, enabled=enabled) as bar:
        for _ in range(10):
            bar.update()
    captured = capsys.readouterr()
    assert ('images' in captured.err) == enabled and captured.out.startswith('images: 10 img in 0s') == enabled
    assert ' / ' not in captured.out
