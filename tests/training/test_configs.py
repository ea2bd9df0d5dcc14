import json
import re

import pytest

from dnnlib import cli
from tests.golden import load_json
from training.configs import CONFIGS, training_run


def kwargs_of(**options):
    return training_run('ds', **options).run_func_kwargs


@pytest.mark.golden
def test_every_configuration_asks_the_training_loop_for_the_same_as_the_original():
    cases = load_json('schedule/run_training_kwargs.json')
    assert set(CONFIGS) <= set(cases)
    for case, expected in cases.items():
        config, gamma, mirror, _ = re.fullmatch(r'(config-.+?)(?:-gamma(\d+))?(-mirror)?(-\d+gpu)?', case).groups()
        run = training_run(
            'ds', data_dir='/data', config=config, num_gpus=expected['num_gpus'], gamma=gamma and float(gamma),
            mirror_augment=bool(mirror), metric_arg_list=expected['run_func_kwargs']['metric_arg_list'])
        run.run_func_kwargs = {'run_func_name': run.pop('run_func_name'), **run.run_func_kwargs}
        assert json.loads(json.dumps(run)) == expected, case


def test_unknown_configuration_names_the_nearest_and_all_valid_ones():
    with pytest.raises(cli.UserError) as caught:
        training_run('ds', config='config-e-Gskip-Dresent')
    assert "'config-e-Gskip-Dresent'" in caught.value.fact
    assert caught.value.remedy.startswith('Did you mean config-e-Gskip-Dresnet?')
    assert all(name in caught.value.remedy for name in CONFIGS)


def test_sizes_reach_both_networks():
    kwargs = kwargs_of(fmap_base=1024, fmap_max=64, latent_size=128, mapping_layers=4, resample_kernel=[1, 1])
    assert kwargs.G_args == dict(func_name='training.networks_stylegan2.G_main', fmap_base=1024, fmap_max=64,
                                 latent_size=128, dlatent_size=128, mapping_fmaps=128, mapping_layers=4,
                                 resample_kernel=[1, 1])
    assert kwargs.D_args == dict(func_name='training.networks_stylegan2.D_stylegan2', fmap_base=1024, fmap_max=64,
                                 resample_kernel=[1, 1])


def test_values_given_by_hand_hold_at_every_resolution():
    sched = kwargs_of(config='config-a', minibatch_size=8, minibatch_gpu=2, lrate=0.0025, tick_kimg=0.5).sched_args
    assert {name: sched[name] for name in sched if not name.startswith('lod')} == dict(
        minibatch_size_base=8, minibatch_size_dict={}, minibatch_gpu_base=2, minibatch_gpu_dict={}, G_lrate_base=0.0025,
        G_lrate_dict={}, D_lrate_base=0.0025, D_lrate_dict={}, tick_kimg_base=0.5, tick_kimg_dict={})


def test_float32_named_or_not_is_the_same_run():
    assert kwargs_of(precision='float32') == kwargs_of() and 'precision' not in kwargs_of()
    assert kwargs_of(precision='bfloat16').precision == 'bfloat16'


def test_gamma_0_is_not_mistaken_for_the_default():
    assert kwargs_of(gamma=0.0).D_loss_args['gamma'] == 0.0


def test_remaining_options_are_passed_on_under_the_loops_names():
    kwargs = kwargs_of(G_smoothing_kimg=0.5, resume_pkl='x.pkl', resume_kimg=7.5, seed=3, total_kimg=0.25,
                       image_snapshot_ticks=1, network_snapshot_ticks=2)
    assert (kwargs.G_smoothing_kimg, kwargs.resume_pkl, kwargs.resume_kimg, kwargs.tf_config, kwargs.total_kimg) == (
        0.5, 'x.pkl', 7.5, {'rnd.np_random_seed': 3}, 0.25)
    assert (kwargs.image_snapshot_ticks, kwargs.network_snapshot_ticks) == (1, 2)


def test_options_of_one_run_do_not_leak_into_the_next():
    training_run('ds', config='config-a', fmap_base=1, gamma=1.0, minibatch_size=4, minibatch_gpu=4, lrate=1.0,
                 latent_size=1)
    kwargs = kwargs_of(config='config-a')
    assert 'fmap_base' not in kwargs.G_args and kwargs.D_loss_args['gamma'] == 10
    assert kwargs.sched_args['minibatch_size_dict'] == {8: 256, 16: 128, 32: 64, 64: 32}


@pytest.mark.parametrize('options, remedy', [
    (dict(minibatch_size=6), '--minibatch-gpu=3'),
    (dict(minibatch_size=2), '--minibatch-gpu=2'),
    (dict(minibatch_gpu=5), '--minibatch-gpu=4'),
    (dict(minibatch_gpu=1), '--minibatch-size=32 --minibatch-gpu=2'),
    (dict(minibatch_size=6, minibatch_gpu=6), '--minibatch-gpu=3'),
    (dict(num_gpus=3), '--minibatch-size=36'),
    (dict(num_gpus=16), '--minibatch-gpu=2'),
    (dict(config='config-a', num_gpus=16), '--minibatch-gpu=2'),
])
def test_minibatch_that_does_not_divide_is_refused_with_a_remedy_that_works(options, remedy):
    with pytest.raises(cli.UserError) as caught:
        training_run('ds', **options)
    assert remedy in caught.value.remedy
    flags = re.findall(r'--(minibatch-\w+)=(\d+)', caught.value.remedy)
    training_run('ds', **{**options, **{flag.replace('-', '_'): int(value) for flag, value in flags}})
