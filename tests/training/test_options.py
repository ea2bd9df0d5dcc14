"""The table of training options: it is complete, consistent, and what the documentation shows."""

import argparse
import inspect

import pytest

from tests import ROOT
from tests.golden import GOLDEN_ADA, load_json
from tests.light_help import help_of
from training import options
from training.configs import training_run


def test_names_and_flags_are_unique():
    for names in ([option.name for option in options.OPTIONS], [option.flag for option in options.OPTIONS]):
        assert len(set(names)) == len(names) > 35


def test_the_documentation_shows_the_table():
    text = (ROOT / 'docs' / 'training.md').read_text(encoding='utf-8')
    shown = text.split('<!-- begin: python -m training.options -->\n')[1].split('<!-- end -->\n')[0]
    assert shown == options.markdown_tables(), 'update it with the output of python -m training.options'


def test_what_an_option_sets_is_an_argument_of_the_training_loop():
    from training.schedule import training_schedule
    from training.training_loop import training_loop
    arguments = inspect.signature(training_loop).parameters
    for option in options.OPTIONS:
        for place in option.sets:
            section, _, key = place.partition('.')
            assert section in arguments, option.name
            if section == 'sched_args':
                assert key in inspect.signature(training_schedule).parameters, option.name


def test_the_default_that_is_shown_is_the_default_of_the_training_loop():
    """For options whose default is left to the training loop, the number in --help repeats that of the loop."""
    from training.schedule import training_schedule
    from training.training_loop import training_loop
    parameters = {**inspect.signature(training_loop).parameters, **inspect.signature(training_schedule).parameters}
    checked = []
    for option in options.OPTIONS:
        name = option.sets[0].split('.')[-1] if option.sets else ''
        default = parameters[name].default if name in parameters else None
        if option.default is None and option.shown and isinstance(default, (int, float, str)):
            assert option.shown.split()[0].rstrip(';') == str(default).removesuffix('.0'), option.name
            checked.append(option.name)
    assert {'checkpoint_ticks', 'G_smoothing_kimg', 'minibatch_size', 'lrate', 'precision'} < set(checked)


def test_every_flag_arrives_under_the_name_of_its_option():
    parser = argparse.ArgumentParser()
    options.add_flags(parser)
    values = vars(parser.parse_args([]))
    assert set(values) == {option.dest for option in options.OPTIONS}
    assert {name: value for name, value in values.items() if value is not None} == dict(
        data_dir='datasets', result_dir='results', config='config-f', mirror_augment=False, num_gpus=1, tf32=False,
        seed=1000, cond=False, image_snapshot_ticks=10, network_snapshot_ticks=10)


def test_an_option_that_is_not_in_the_table_is_refused():
    with pytest.raises(TypeError, match=r"unknown training options \['gama'\]"):
        training_run('ds', gama=3.0)


def test_never_is_no_default():
    assert training_run('ds').run_func_kwargs.image_snapshot_ticks == 10
    assert training_run('ds', image_snapshot_ticks=None).run_func_kwargs.image_snapshot_ticks is None


def test_what_a_resumed_run_may_change():
    changeable = options.changeable_arguments()
    assert {'total_kimg', 'metric_arg_list'} < changeable
    assert {'sched_args.minibatch_gpu_base', 'sched_args.minibatch_gpu_dict'} < changeable
    assert not {'dataset_args.tfrecord_dir', 'sched_args.minibatch_size_base', 'D_loss_args.gamma'} & changeable
    free = {option.name for option in options.OPTIONS if option.may_change}
    assert 'num_gpus' in free and free.isdisjoint(option.name for option in options.fixed_options())


def test_the_table_is_read_without_tensorflow():
    text = help_of(str(ROOT / 'run_training.py'))
    assert all(option.flag in text for option in options.OPTIONS)


@pytest.mark.golden('STYLEGAN2_GOLDEN_ADA')
def test_golden_defaults_of_the_training_loop_of_ada():
    """The file is in the first set of numbers only."""
    from training.training_loop import training_loop
    if not (GOLDEN_ADA / 'schedule' / 'training_loop_defaults.json').exists():
        pytest.skip('no training_loop_defaults.json')
    expected = load_json('schedule/training_loop_defaults.json', GOLDEN_ADA)
    ours = {'ema_kimg': 'G_smoothing_kimg', 'ema_rampup': 'G_smoothing_rampup'}
    for name in ('ema_kimg', 'ema_rampup', 'G_reg_interval', 'D_reg_interval', 'ada_target', 'ada_interval', 'ada_kimg',
                 'total_kimg', 'image_snapshot_ticks', 'network_snapshot_ticks', 'num_gpus', 'resume_pkl'):
        assert inspect.signature(training_loop).parameters[ours.get(name, name)].default == expected[name], name
