import math

import pytest

from tests.golden import GOLDEN_FAMILY, load_json
from training.configs import training_run
from training.schedule import training_schedule


def _int_keys(sched_args):
    """JSON has only string keys; the exceptions by resolution have ints."""
    return {name: {int(key): item for key, item in value.items()} if isinstance(value, dict) else value
            for name, value in sched_args.items()}


@pytest.mark.golden
def test_schedule_is_exactly_the_original():
    runs = load_json('schedule/run_training_kwargs.json')
    for case, rows in load_json('schedule/training_schedule.json').items():
        config, resolution = case.split('/res')
        sched_args = _int_keys(runs[config]['run_func_kwargs']['sched_args'])
        for row in rows:
            actual = training_schedule(row['cur_nimg'], resolution_log2=int(math.log2(int(resolution))), **sched_args)
            assert {'cur_nimg': row['cur_nimg'], **actual} == row, case


_OF_PROGAN = {'minibatch_base': 'minibatch_size_base', 'minibatch_dict': 'minibatch_size_dict'}


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
def test_schedule_of_progan_is_exactly_the_original():
    options = load_json('progan/schedule/options.json', GOLDEN_FAMILY)
    presets = set()
    for case, rows in load_json('progan/schedule/training_schedule.json', GOLDEN_FAMILY).items():
        preset, resolution = case.split('/res')
        num_gpus = options[preset]['num_gpus']
        ours = training_run('ds', config='progan', num_gpus=num_gpus).run_func_kwargs.sched_args
        if preset == f'v2-{num_gpus}gpu{"s" * (num_gpus > 1)}':
            sched_args = ours
            presets.add(preset)
        else:  # Other settings than the configuration has; of its own the length of a tick and the start of growing.
            given = {_OF_PROGAN.get(name, name): value for name, value in _int_keys(options[preset]['sched']).items()}
            given.pop('max_minibatch_per_gpu', None)  # In no case does it change anything.
            defaults = dict(minibatch_size_base=16, G_lrate_base=0.001, D_lrate_base=0.001)
            kept = {name: ours[name] for name in ('lod_initial_resolution', 'tick_kimg_base', 'tick_kimg_dict')}
            sched_args = {**defaults, **kept, **given}
        for row in rows:
            actual = training_schedule(row['cur_nimg'], resolution_log2=int(math.log2(int(resolution))), **sched_args)
            minibatch, minibatch_gpu = actual.pop('minibatch_size'), actual.pop('minibatch_gpu')
            assert {'cur_nimg': row['cur_nimg'], 'minibatch': minibatch, **actual} == row, case
            assert sched_args is not ours or minibatch == minibatch_gpu * num_gpus
    assert len(presets) == 4


def test_defaults_are_full_resolution_from_the_start():
    sched = training_schedule(0, resolution_log2=5)
    assert sched == dict(kimg=0.0, lod=0.0, resolution=32, minibatch_size=32, minibatch_gpu=4, G_lrate=0.002,
                         D_lrate=0.002, tick_kimg=20)


@pytest.mark.parametrize('kimg, lod, resolution', [
    (0, 3.0, 8), (599, 3.0, 8), (600, 3.0, 8), (900, 2.5, 16), (1200, 2.0, 16), (2400, 1.0, 32), (3300, 0.5, 64),
    (3600, 0.0, 64), (9999, 0.0, 64)])
def test_growing_trains_600_kimg_then_fades_for_600(kimg, lod, resolution):
    sched = training_schedule(kimg * 1000, resolution_log2=6, lod_initial_resolution=8)
    assert (sched.lod, sched.resolution) == (lod, resolution)


def test_growing_without_fading_switches_at_once():
    args = dict(resolution_log2=4, lod_initial_resolution=8, lod_training_kimg=10, lod_transition_kimg=0)
    assert [training_schedule(nimg, **args).lod for nimg in (9999, 10000)] == [1.0, 0.0]


def test_exceptions_follow_the_current_resolution():
    args = dict(resolution_log2=4, lod_initial_resolution=8, minibatch_size_dict={8: 64}, minibatch_gpu_dict={8: 16},
                G_lrate_dict={8: 0.1}, D_lrate_dict={8: 0.2}, tick_kimg_dict={8: 3})
    early, late = training_schedule(0, **args), training_schedule(10 ** 7, **args)
    names = 'minibatch_size', 'minibatch_gpu', 'G_lrate', 'D_lrate', 'tick_kimg'
    assert [early[name] for name in names] == [64, 16, 0.1, 0.2, 3]
    assert [late[name] for name in names] == [32, 4, 0.002, 0.002, 4]


def test_learning_rates_ramp_up():
    args = dict(resolution_log2=5, lrate_rampup_kimg=10, D_lrate_base=0.004)
    sched = [training_schedule(nimg, **args) for nimg in (0, 5000, 10000, 20000)]
    assert [s.G_lrate for s in sched] == [0.0, 0.001, 0.002, 0.002]
    assert [s.D_lrate for s in sched] == [0.0, 0.002, 0.004, 0.004]
