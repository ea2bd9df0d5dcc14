import json
import re

import pytest

from dnnlib import cli
from tests.golden import GOLDEN_ADA, GOLDEN_FAMILY, load_json
from training import configs
from training.augment import AUGPIPES
from training.configs import CONFIGS, training_run

PRESETS = ('auto', 'stylegan2', 'paper256', 'paper512', 'paper1024', 'cifar')  # Of StyleGAN2-ADA.
OLDER = ('progan', 'msg-stylegan', *(f'stylegan-{letter}' for letter in 'bcdef'))  # Not in StyleGAN2's code.


def kwargs_of(**options):
    return training_run('ds', **options).run_func_kwargs


@pytest.mark.golden
def test_every_configuration_asks_the_training_loop_for_the_same_as_the_original():
    cases = load_json('schedule/run_training_kwargs.json')
    assert set(CONFIGS) - {*PRESETS, *OLDER} <= set(cases)
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


# ---- Presets of StyleGAN2-ADA ----

# Options of its training script that have no counterpart: how it computes, and a random part of the dataset.
_ELSEWHERE = {'nhwc', 'nobench', 'allow_tf32', 'workers', 'subset'}


def options_of(options):
    """The options of the original's script as those of `training_run`."""
    resume = options.get('resume')
    names = dict(gpus='num_gpus', gamma='gamma', kimg='total_kimg', batch='minibatch_size', target='target', p='p',
                 augpipe='augpipe', cond='cond', mirror='mirror_augment', freezed='freeze_d', seed='seed')
    return dict(
        {'config': options.get('cfg', 'auto'), 'aug': {'noaug': 'none', None: None}.get(
            options.get('aug'), options.get('aug')), 'seed': 0, 'image_snapshot_ticks': options.get('snap', 50),
         'network_snapshot_ticks': options.get('snap', 50), 'resume_pkl': None if resume == 'noresume' else resume,
         'precision': 'float32' if options.get('fp32') else 'mixed_float16'},
        **{names[name]: value for name, value in options.items() if name in names},
        resolution=int(re.search(r'res(\d+)', options['data'])[1]))


def arguments_of(run):
    """The arguments of a run, under the original's names."""
    args = run.run_func_kwargs
    G, D, sched = args.G_args, args.D_args, args.sched_args
    half = args.get('precision', 'float32') != 'float32'
    optimizers = {f'{key}_opt': dict(args[f'{key}_opt_args'], lr=sched[f'{key}_lrate_base']) for key in 'GD'}
    return dict(
        num_gpus=run.num_gpus, image_snapshot_ticks=args.image_snapshot_ticks,
        network_snapshot_ticks=args.network_snapshot_ticks, random_seed=args.tf_config['rnd.np_random_seed'],
        use_labels='max_label_size' in args.dataset_args, xflip=args.mirror_augment,
        num_layers=G['mapping_layers'], channel_base=(2 * G['fmap_base'], 2 * D['fmap_base']),
        num_fp16_res=4 if half else 0, conv_clamp=(G.get('conv_clamp'), D.get('conv_clamp')),
        mbstd_group_size=D['mbstd_group_size'], architecture=D.get('architecture', 'resnet'),
        freeze_layers=args.get('freeze_d', 0), optimizers=optimizers, r1_gamma=args.D_loss_args.get('gamma', 0),
        style_mixing_prob=G.get('style_mixing_prob', 0.9) or 0,
        pl_weight=2 if args.G_loss_args['func_name'].endswith('pathreg') else 0,
        total_kimg=args.total_kimg, batch_size=sched['minibatch_size_base'], batch_gpu=sched['minibatch_gpu_base'],
        ema_kimg=args.G_smoothing_kimg, ema_rampup=args.G_smoothing_rampup, ada_target=args.get('ada_target'),
        ada_kimg=args.get('ada_kimg', 500), augment_p=args.get('augment_p', 0),
        augment=AUGPIPES[args.augpipe] if 'augpipe' in args else None, resumes='resume_pkl' in args)


def expected_arguments(args):
    """The same of the original's."""
    def optimizer(kwargs):
        return dict(beta1=kwargs['betas'][0], beta2=kwargs['betas'][1], epsilon=kwargs['eps'], lr=kwargs['lr'])
    G, D, loss = args['G_kwargs'], args['D_kwargs'], args['loss_kwargs']
    assert (G['z_dim'], G['w_dim'], G['synthesis_kwargs']['channel_max'], D['channel_max']) == (512,) * 4
    assert D['mapping_kwargs'] == {} and D['num_fp16_res'] == G['synthesis_kwargs']['num_fp16_res']
    augment = args.get('augment_kwargs')
    return dict(
        {name: args[name] for name in ('num_gpus', 'image_snapshot_ticks', 'network_snapshot_ticks', 'random_seed',
                                       'total_kimg', 'batch_size', 'ema_kimg', 'ema_rampup')},
        # The share of a GPU, if it is smaller: the original hands out no more.
        batch_gpu=min(args['batch_gpu'], args['batch_size'] // args['num_gpus']),
        use_labels=args['training_set_kwargs']['use_labels'], xflip=args['training_set_kwargs']['xflip'],
        num_layers=G['mapping_kwargs']['num_layers'],
        channel_base=(G['synthesis_kwargs']['channel_base'], D['channel_base']), num_fp16_res=D['num_fp16_res'],
        conv_clamp=(G['synthesis_kwargs']['conv_clamp'], D['conv_clamp']),
        mbstd_group_size=D['epilogue_kwargs']['mbstd_group_size'], architecture=D.get('architecture', 'resnet'),
        freeze_layers=D['block_kwargs'].get('freeze_layers', 0),
        optimizers={f'{key}_opt': optimizer(args[f'{key}_opt_kwargs']) for key in 'GD'},
        r1_gamma=loss['r1_gamma'], style_mixing_prob=loss.get('style_mixing_prob', 0.9),
        pl_weight=loss.get('pl_weight', 2), ada_target=args.get('ada_target'), ada_kimg=args.get('ada_kimg', 500),
        augment_p=args.get('augment_p', 0), resumes=bool(args.get('resume_pkl')),
        augment=augment and {name: value for name, value in augment.items() if name != 'class_name'})


@pytest.mark.golden('STYLEGAN2_GOLDEN_ADA')
def test_every_preset_asks_the_training_loop_for_the_same_as_the_original():
    cases = load_json('schedule/train_args.json', GOLDEN_ADA)
    seen = set()
    for case in cases:
        options = case['options']
        if not case.get('error'):
            run = training_run('ds', **options_of(options))
            assert arguments_of(run) == expected_arguments(case['args']), options
            assert run.run_func_kwargs.ada_rules
            seen.add(options.get('cfg', 'auto'))
        elif {'aug', 'p', 'target', 'augpipe', 'batch', 'gpus'} & set(options):
            with pytest.raises(cli.UserError):
                training_run('ds', **options_of(options))
    assert seen == set(PRESETS)


def test_groups_of_minibatch_stddev_decide_what_fits():
    assert [configs.mbstd_group(args) for args in ({}, {'mbstd_group_size': 8}, {'mbstd_group_size': 0})] == [4, 8, 1]
    assert [size for size in (1, 6, 12, 16) if configs.microbatch_fits(size, 2, 8)] == [6, 16]
    assert configs.microbatch_fits(7, 2, configs.mbstd_group({'mbstd_group_size': None}))
    with pytest.raises(cli.UserError, match='expected 1 to 8, or a multiple of 8'):
        training_run('ds', config='paper256', minibatch_size=36, minibatch_gpu=12)


def test_a_preset_without_a_resolution_to_derive_from():
    with pytest.raises(ValueError, match='expected the resolution'):
        training_run('ds', config='auto')
    assert training_run('ds', config='paper256').run_func_kwargs.D_loss_args['gamma'] == 1


def test_half_precision_clamps_and_resuming_adapts_faster():
    kwargs = kwargs_of(config='cifar')
    assert 'conv_clamp' not in kwargs.G_args and kwargs.G_smoothing_rampup == 0.05 and 'ada_kimg' not in kwargs
    kwargs = kwargs_of(config='cifar', precision='bfloat16', resume_pkl='x.pkl')
    assert kwargs.G_args['conv_clamp'] == kwargs.D_args['conv_clamp'] == 256
    assert kwargs.G_smoothing_rampup is None and kwargs.ada_kimg == 100
    assert kwargs_of(config='cifar', ada_kimg=7, resume_pkl='x.pkl').ada_kimg == 7
    assert kwargs_of(config='auto', resolution=64, gamma=0.0).D_loss_args == {'func_name': 'training.loss.D_logistic'}


def test_augmentation_of_the_other_configurations():
    assert not {'augpipe', 'ada_target', 'augment_p', 'ada_rules'} & set(kwargs_of())
    kwargs = kwargs_of(aug='ada', config='config-b')
    assert (kwargs.augpipe, kwargs.ada_target) == ('bgc', 0.6) and 'ada_rules' not in kwargs
    kwargs = kwargs_of(aug='fixed', p=0.2, augpipe='blit')
    assert (kwargs.augpipe, kwargs.augment_p) == ('blit', 0.2) and 'ada_target' not in kwargs
    assert kwargs_of(aug='ada', ada_kimg=50, target=0.5, resume_pkl='x.pkl').ada_kimg == 50


def test_progan():
    kwargs = kwargs_of(config='progan', latent_size=16, G_smoothing_kimg=5.0)
    assert kwargs.G_args == dict(func_name='training.networks_progan.G_paper', latent_size=16)
    assert (kwargs.G_smoothing_kimg, kwargs.G_smoothing_beta) == (5, None)
    kwargs = kwargs_of(config='progan', num_gpus=3)
    assert kwargs.D_loss_args == dict(func_name='training.loss.D_wgangp_acgan')
    assert kwargs.G_smoothing_beta == 0.999 and kwargs.D_first and not kwargs.lazy_regularization
    assert (kwargs.sched_args['minibatch_size_dict'][4], kwargs.sched_args['minibatch_gpu_dict'][4]) == (252, 84)


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
def test_msg_stylegan_has_the_originals_hyperparameters():
    original = load_json('msg/training/hyperparameters.json', GOLDEN_FAMILY)
    for num_gpus, minibatch in original['minibatch_by_gpus'].items():
        kwargs = kwargs_of(config='msg-stylegan', num_gpus=int(num_gpus))
        assert kwargs.sched_args == dict(
            G_lrate_base=original['lrate'], D_lrate_base=original['lrate'], minibatch_size_base=minibatch,
            minibatch_gpu_base=minibatch // int(num_gpus), tick_kimg_base=original['tick_kimg'], tick_kimg_dict={})
        assert (kwargs.G_opt_args, kwargs.D_opt_args) == (original['G_opt'], original['D_opt'])
        assert (kwargs.G_loss_args, kwargs.D_loss_args) == (
            dict(func_name='training.loss.G_logistic_ns'), dict(func_name='training.loss.D_logistic_r1', gamma=10))
        assert (kwargs.total_kimg, kwargs.lazy_regularization, kwargs.D_first) == (original['total_kimg'], False, True)
        assert original['grid'] == '{size} {layout}'.format(**kwargs.grid_args)
        # Defaults of the training loop.
        assert not {'minibatch_repeats', 'G_smoothing_kimg'} & set(kwargs)
        assert (original['minibatch_repeats'], original['G_smoothing_kimg'], original['D_repeats']) == (4, 10, 1)
    sched = kwargs_of(config='msg-stylegan', num_gpus=3).sched_args
    assert (sched['minibatch_size_base'], sched['minibatch_gpu_base']) == (24, 8)


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
def test_table_1_of_stylegan():
    variants = load_json('stylegan/networks/variants.json', GOLDEN_FAMILY)
    rows = dict(b='tuned-baseline', c='add-mapping-and-styles', d='remove-traditional-input', e='add-noise-inputs')
    for letter, variant in rows.items():
        G_args = dict(kwargs_of(config=f'stylegan-{letter}').G_args)
        assert G_args.pop('func_name') == 'training.networks_stylegan.G_style'
        assert G_args.pop('mapping_layers', None) == (0 if letter == 'b' else None)
        assert G_args == variants[variant]['option_kwargs']
    assert kwargs_of(config='stylegan-f') == kwargs_of(config='config-a')


@pytest.mark.parametrize('options, fact', [
    (dict(mapping_layers=2), '--mapping-layers: the networks of progan'),
    (dict(resample_kernel=[1, 1]), '--resample-kernel: the networks'),
    (dict(G_loss='G_logistic_ns_pathreg'), '--g-loss=G_logistic_ns_pathreg: path lengths'),
    (dict(gamma=1.0), '--gamma=1: D_wgangp_acgan has no such weight'),
    (dict(config='stylegan-b', cond=True), '--cond=true: stylegan-b has no mapping'),
    (dict(config='msg-stylegan', G_loss='G_logistic_ns_pathreg'), '--g-loss=G_logistic_ns_pathreg: is for images of'),
    (dict(config='msg-stylegan', D_loss='D_wgan_gp'), '--d-loss=D_wgan_gp: is for images of one size'),
    (dict(config='msg-stylegan', aug='ada'), '--aug=ada: augments images of one size, but msg-stylegan'),
    (dict(config='msg-stylegan', lod_training_kimg=1.0), '--lod-training-kimg: the networks of msg-stylegan do not')])
def test_what_older_configurations_do_not_have(options, fact):
    with pytest.raises(cli.UserError) as caught:
        training_run('ds', **{'config': 'progan', **options})
    assert caught.value.fact.startswith(fact)


@pytest.mark.parametrize('options, fact, remedy', [
    (dict(target=0.5), '--target: has no effect with --aug=none', '--aug=ada'),
    (dict(ada_kimg=100), '--ada-kimg: has no effect with --aug=none', '--aug=ada'),
    (dict(p=0.5), '--p: has no effect with --aug=none', '--aug=fixed'),
    (dict(augpipe='bg'), '--augpipe: has no effect with --aug=none', '--aug=ada'),
    (dict(aug='ada', p=0.5), '--p: has no effect with --aug=ada', '--aug=fixed'),
    (dict(aug='fixed', p=0.5, target=0.5), '--target: has no effect with --aug=fixed', '--aug=ada'),
    (dict(aug='fixed'), '--aug=fixed: expected the probability', '--p='),
    (dict(aug='fixed', p=1.5), '--p=1.5: expected a number from 0 to 1', ''),
    (dict(config='config-a', aug='ada', augpipe='bgcf'), 'grow from 8x8', '--augpipe=bgc'),
    (dict(config='paper256', num_gpus=6), '--num-gpus=6: --config=paper256 needs a power of two', '--num-gpus=4'),
])
def test_options_of_the_augmentation_that_do_not_go_together(options, fact, remedy):
    with pytest.raises(cli.UserError) as caught:
        training_run('ds', **options)
    assert fact in caught.value.fact and remedy in caught.value.remedy
