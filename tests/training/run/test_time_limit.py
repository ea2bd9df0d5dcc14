"""--max-minutes: when a run ends, what it leaves, and that it can be resumed. The clock of these tests is simulated."""

import json
import types

import pytest

from metrics.metric_defaults import metric_args
from tests.stub_networks import stub_networks  # noqa: F401  A fixture.
from tests.training.run.test_health import PLAIN
from tests.training.run.test_resume import data_dir as data_dir  # noqa: PLC0414  A fixture.
from tests.training.run.test_resume import train
from training import misc, training_loop
from training.run import clock as clock_module
from training.run import report
from training.run.checkpoint import Checkpoints
from training.run.clock import Clock, fits, seconds_for
from training.run.snapshot import Snapshots
from training.step.iteration import Iterations


@pytest.fixture
def now(monkeypatch):
    """What `time.monotonic` says to clocks; `now.seconds` is set by tests."""
    now = types.SimpleNamespace(seconds=0.0)
    now.monotonic = lambda: now.seconds
    monkeypatch.setattr(clock_module, 'time', now)
    monkeypatch.setattr(training_loop, 'time', now)
    return now


# ---- The estimate ----

def test_reports_take_what_they_took_or_a_guess():
    took = {'pickle': [2.0, 7.0, 3.0], 'pictures': []}
    guesses = {'pickle': 100.0, 'pictures': 5.0, 'metrics': 60.0}
    assert seconds_for([], took, guesses) == 0
    assert seconds_for(['pickle', 'pickle', 'pictures', 'metrics'], took, guesses) == 7 + 7 + 5 + 60


@pytest.mark.parametrize('seconds, least', [(0, 5), (10, 17), (300, 365), (3600, 3665)])
def test_room_is_left(seconds, least):
    assert fits(seconds, least) and not fits(seconds, least - 0.01)


def test_steps_and_reports_are_measured_apart(now):
    clock = Clock(start=0.0, deadline=100.0, guesses={'pickle': 50.0})
    clock.step(0, 0, compiles_next=True)
    assert clock.left(40) == 100 and clock.time_to_go_on([])  # Nothing is known but the limit.
    now.seconds = 20.0
    clock.step(4, 1)
    # Only a step that compiled is known: those that follow are expected to take a quarter of it.
    assert clock.left(40) == 80
    now.seconds = 89.0
    assert clock.time_to_go_on([])
    now.seconds = 89.1
    assert not clock.time_to_go_on([])
    now.seconds = 20.0
    with clock.maintenance('pickle'):
        now.seconds += 7.0
    now.seconds += 2.0
    clock.step(8, 1)
    assert clock.left(40) == 20 and clock.left(4000) == 71 and clock.left(0) == 0
    assert clock.images_left(40) == 40 and clock.images_left(4000) == 71 * 2
    assert clock.tick() == (29, 22, 7)

    for left, expected in ((8 + 1.8 + 5, False), (9 + 1.8 + 5.01, True)):  # A step of 2 s and a pickle of 7 s.
        now.seconds = 100.0 - left
        assert clock.time_to_go_on(['pickle']) is expected
    clock.step(12, 1, compiles_next=True)
    assert not clock.time_to_go_on([])  # As the first step did, it may take 20 s.
    now.seconds = 93.0
    assert clock.time_for(['pickle']) and not clock.time_for(['pickle', 'pickle'])


def test_the_times_of_reports_go_with_a_checkpoint(now):
    before, after = Clock(0.0), Clock(0.0, deadline=1050.0, guesses={'pickle': 0.0})
    with before.maintenance('pickle'):
        now.seconds += 30.0
    state = json.loads(json.dumps(before.state()))
    now.seconds = 1000.0
    after.set_state(state)
    assert after.time_for(['pickle']) and not after.time_for(['pickle', 'pickle']) and after.tick()[0] == 30
    # A checkpoint of an earlier version.
    after.set_state({name: state[name] for name in ('total', 'tick', 'maintenance')})
    assert before.time_to_go_on(['pickle']) and before.left(10) is None and before.images_left(10) == 10  # No limit.


# ---- Runs ----

TIMES = {(Iterations, 'run'): 10.0, (Snapshots, 'save_fakes'): 3.0, (Snapshots, 'save_networks'): 4.0,
         (Checkpoints, 'save'): 5.0, (report.Report, 'save'): 1.0}


def train_in(now, data_dir, run_dir, minutes, resume=None, **kwargs):
    """Train at most 128 images in iterations of 4, with a limit from now on. Returns (seconds taken, why it ended)."""
    start, reasons = now.seconds, []

    def takes(seconds):
        def pass_time(count):
            now.seconds += seconds
        return pass_time
    train(data_dir, run_dir, {what: takes(seconds) for what, seconds in TIMES.items()}, resume, max_minutes=minutes,
          started=start, on_end=reasons.append,
          **{**PLAIN, 'total_kimg': 0.128, 'image_snapshot_ticks': 2, 'network_snapshot_ticks': 2, **kwargs})
    return now.seconds - start, reasons[0]


@pytest.fixture(scope='module')
def unlimited(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp('unlimited')
    train(data_dir, folder, resume=None, **PLAIN, total_kimg=0.128, image_snapshot_ticks=2, network_snapshot_ticks=2)
    return folder


def test_it_ends_in_time_with_all_files_and_goes_on(now, data_dir, unlimited, tmp_path, capsys):
    seconds, reason = train_in(now, data_dir, tmp_path, minutes=3)
    # The last reports take 5 + 1 + 3 + 2 * 4 = 17 s, an iteration 10 s. Both, a fifth more and 5 s do not fit into what
    # is left.
    assert 180 - 37.4 < seconds - 17 <= 180 - 37.4 + 10
    kimg = reason.split()[8]
    assert reason == (f'The time limit, --max-minutes=3, was reached at kimg {kimg} of 0.128. '
                      'To go on: the same command with '
                      f'--resume={tmp_path}')
    nimg = round(float(kimg) * 1000)
    out = capsys.readouterr().out
    assert 'or until 3 minutes are over' in out and reason in out
    assert {'reals.png', 'fakes000000.png', 'network-snapshot-000000.pkl', 'network-final.pkl', 'report.html'} <= {
        path.name for path in tmp_path.iterdir()}
    assert (tmp_path / 'checkpoints' / f'kimg-000000.{nimg:03d}').is_dir()
    last = max(tmp_path.glob('network-snapshot-*.pkl'))  # That of the end of the run.
    assert (tmp_path / 'network-final.pkl').read_bytes() == last.read_bytes()
    lines = [json.loads(line) for line in (tmp_path / 'stats.jsonl').read_text().splitlines()]
    assert lines[-1]['kimg'] == nimg / 1000 and lines[-1]['Timing/left_sec'] == 0
    assert f'kimg {nimg / 1000:<8.3f}' in out.splitlines()[-2] and 'left 0s' in out.splitlines()[-2]

    _, reason = train_in(now, data_dir, tmp_path, minutes=60, resume='')
    assert reason == 'All 0.128 kimg are done.'
    for old, new in zip(misc.load_pkl(unlimited / 'network-final.pkl'), misc.load_pkl(tmp_path / 'network-final.pkl'),
                        strict=True):
        assert all((old.get_var(name) == new.get_var(name)).all() for name in old.vars), old.name
    lines = [json.loads(line)['kimg'] for line in (tmp_path / 'stats.jsonl').read_text().splitlines()]
    assert lines == [json.loads(line)['kimg'] for line in (unlimited / 'stats.jsonl').read_text().splitlines()]


def test_too_little_time_gives_one_iteration_each_time(now, data_dir, tmp_path):
    assert 'kimg 0.004 of 0.128' in train_in(now, data_dir, tmp_path, minutes=0.01)[1]
    assert (tmp_path / 'network-final.pkl').exists()
    assert 'kimg 0.008 of 0.128' in train_in(now, data_dir, tmp_path, minutes=0.02, resume='')[1]


def test_metrics_without_time_are_left_out(now, data_dir, tmp_path, stub_networks, capsys):  # noqa: F811
    """100 images take 4 s, says the first guess; 10,000 would take 400 s."""
    metrics = dict(metric_arg_list=[metric_args('fid100')], network_snapshot_ticks=100)
    train_in(now, data_dir, tmp_path / 'some', minutes=3, **metrics)
    # At the first tick and at the end.
    assert len((tmp_path / 'some' / 'metric-fid100.txt').read_text().splitlines()) == 2
    metrics = dict(metric_arg_list=[metric_args('fid10k')], network_snapshot_ticks=100)
    seconds, _ = train_in(now, data_dir, tmp_path / 'many', minutes=3, **metrics)
    assert 120 < seconds <= 180 and not (tmp_path / 'many' / 'metric-fid10k.txt').exists()
    assert 'Note: fid10k would not be done within --max-minutes=3: left out.' in capsys.readouterr().out
