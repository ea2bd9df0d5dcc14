"""The configurations of the paper (Karras et al. 2020, table 1 and figure 8) as one table, and what each means to the training loop."""

import difflib
import math
import os

from dnnlib import cli
from dnnlib.util import EasyDict

# ---- The table: what each configuration changes in config-f ----

_LRATE_BY_RESOLUTION = {128: 0.0015, 256: 0.002, 512: 0.003, 1024: 0.003}

_GROWING = dict(
    lod_initial_resolution=8,
    G_lrate_base=0.001, G_lrate_dict=_LRATE_BY_RESOLUTION,
    D_lrate_base=0.001, D_lrate_dict=_LRATE_BY_RESOLUTION,
    minibatch_size_base=32, minibatch_size_dict={8: 256, 16: 128, 32: 64, 64: 32},
    minibatch_gpu_base=4, minibatch_gpu_dict={8: 32, 16: 16, 32: 8, 64: 4})

_SMALL = dict(fmap_base=8 << 10)
_GROWING_SMALL = dict(
    G_args=dict(_SMALL, synthesis_func='G_synthesis_stylegan_revised'),
    D_args=dict(_SMALL, func_name='training.networks_stylegan2.D_stylegan'),
    sched_args=_GROWING)
_NO_PATHREG = dict(func_name='training.loss.G_logistic_ns')


def _config_e(G_args, D_args):
    return dict(G_args=dict(_SMALL, **G_args), D_args=dict(_SMALL, **D_args), D_loss_args=dict(gamma=100))


CONFIGS = {
    'config-a': dict(  # StyleGAN as published in 2019
        G_args=dict(func_name='training.networks_stylegan.G_style'),
        D_args=dict(func_name='training.networks_stylegan.D_basic'),
        G_loss_args=_NO_PATHREG, sched_args=_GROWING, lazy_regularization=False),
    'config-b': dict(_GROWING_SMALL, G_loss_args=_NO_PATHREG, lazy_regularization=False),  # + weight demodulation
    'config-c': dict(_GROWING_SMALL, G_loss_args=_NO_PATHREG),                             # + lazy regularization
    'config-d': _GROWING_SMALL,                                                            # + path length regularization
    'config-e': _config_e({}, {}),                                                         # + no growing, new G & D architectures
    'config-f': {},                                                                        # + large networks = StyleGAN2
    **{f'config-e-G{g}-D{d}': _config_e(dict(architecture=g), dict(architecture=d))
       for g in ('orig', 'skip', 'resnet') for d in ('orig', 'skip', 'resnet')},
}


# Losses by the names of training/loss.py, which loads TensorFlow and is not imported here.
G_LOSSES = ('G_logistic', 'G_logistic_ns', 'G_wgan', 'G_logistic_ns_pathreg')
D_LOSSES = ('D_logistic', 'D_logistic_r1', 'D_logistic_r2', 'D_wgan', 'D_wgan_gp')


# --precision -> dtype that the networks' highest resolutions compute in. The rest is float32, see docs/precision.md.
PRECISIONS = {'float32': 'float32', 'bfloat16': 'bfloat16', 'mixed_float16': 'float16'}


# ---- From options to the arguments of the training loop ----

def training_run(
        dataset,                       # Name of the dataset, a folder in data_dir.
        data_dir               = 'datasets',
        result_dir             = 'results',
        config                 = 'config-f',  # Key of CONFIGS.
        num_gpus               = 1,
        total_kimg             = 25000,
        max_minutes            = None, # Minutes after which the run ends earlier. None = no limit.
        mirror_augment         = False,
        metric_arg_list        = (),   # Arguments of each metric to compute at network snapshots.
        gamma                  = None, # R1 weight. None = the configuration's.
        minibatch_size         = None, # Images per update. None = the configuration's.
        minibatch_gpu          = None, # Images per device at a time. None = the configuration's.
        G_loss                 = None, # Name of the generator's loss, one of G_LOSSES. None = the configuration's.
        D_loss                 = None, # Name of the discriminator's loss, one of D_LOSSES. None = the configuration's.
        cond                   = False, # Train with the dataset's labels?
        lod_training_kimg      = None, # Thousands of images at each resolution before it grows. None = the schedule's default.
        lod_transition_kimg    = None, # Thousands of images while it grows. None = the schedule's default.
        lrate                  = None, # Learning rate of both networks. None = the configuration's.
        fmap_base              = None, # Feature maps = 2 * fmap_base / resolution, of both networks. None = the configuration's.
        fmap_max               = None, # Most feature maps of a layer, of both networks. None = the networks' default.
        latent_size            = None, # Size of Z, W and the mapping's layers. None = the networks' default.
        mapping_layers         = None, # None = the network's default.
        resample_kernel        = None, # Filter of all resampling, of both networks. None = the networks' default, [1, 3, 3, 1].
        tick_kimg              = None, # Thousands of images between two reports. None = by resolution.
        image_snapshot_ticks   = 10,
        network_snapshot_ticks = 10,
        G_smoothing_kimg       = None, # Half-life of the generator's moving average. None = the training loop's default.
        seed                   = 1000,
        resume_pkl             = None, # Network pickle to start from. None = from random weights.
        resume_kimg            = None, # Thousands of images it has seen. None = 0.
        freeze_d               = None, # Layers of D, from the image on, that stay as they are. None = none.
        checkpoint_ticks       = None, # Ticks between two checkpoints. None = the training loop's default, as the next two.
        checkpoint_minutes     = None, # The most minutes between them.
        keep_checkpoints       = None, # How many are kept.
        precision              = None, # Key of PRECISIONS. None = float32.
        impl                   = None): # Form of the custom ops: 'auto', 'native' or 'ref'. None = $STYLEGAN2_OPS, or 'auto'.
    """The run that these options describe.

    Returns: EasyDict(run_desc, run_dir_root, num_gpus, run_func_name, run_func_kwargs); the last is an EasyDict too: the
    arguments of `training.training_loop.training_loop`. It lists only what is known here, defaults of the loop are left to it.

    Raises: cli.UserError on an unknown configuration, or a minibatch that does not divide evenly.
    """
    changes = _find_config(config)
    kwargs = EasyDict(
        data_dir=data_dir, total_kimg=total_kimg, mirror_augment=mirror_augment,
        image_snapshot_ticks=image_snapshot_ticks, network_snapshot_ticks=network_snapshot_ticks,
        G_args=dict(func_name='training.networks_stylegan2.G_main'),
        D_args=dict(func_name='training.networks_stylegan2.D_stylegan2'),
        G_opt_args=dict(beta1=0.0, beta2=0.99, epsilon=1e-8),
        D_opt_args=dict(beta1=0.0, beta2=0.99, epsilon=1e-8),
        G_loss_args=dict(func_name='training.loss.G_logistic_ns_pathreg'),
        D_loss_args=dict(func_name='training.loss.D_logistic_r1', gamma=10),
        dataset_args=dict(tfrecord_dir=dataset),
        sched_args=dict(G_lrate_base=0.002, D_lrate_base=0.002, minibatch_size_base=32, minibatch_gpu_base=4),
        grid_args=dict(size='8k', layout='random'),
        metric_arg_list=list(metric_arg_list),
        tf_config={'rnd.np_random_seed': seed})
    for name, change in changes.items():
        kwargs[name] = {**kwargs[name], **change} if isinstance(change, dict) else change

    sizes = dict(fmap_base=fmap_base, fmap_max=fmap_max, resample_kernel=resample_kernel)
    kwargs.G_args.update(_given(latent_size=latent_size, dlatent_size=latent_size, mapping_fmaps=latent_size,
                                mapping_layers=mapping_layers, **sizes))
    kwargs.D_args.update(_given(**sizes))
    for loss_args, name in ((kwargs.G_loss_args, G_loss), (kwargs.D_loss_args, D_loss)):
        if name is not None and loss_args['func_name'] != f'training.loss.{name}':
            loss_args.clear()  # The settings were those of the other loss.
            loss_args['func_name'] = f'training.loss.{name}'
    if gamma is not None and kwargs.D_loss_args['func_name'].split('.')[-1] not in ('D_logistic_r1', 'D_logistic_r2'):
        raise cli.UserError(f'--gamma={gamma:g}: {D_loss} has no such weight', 'Leave --gamma out, or use D_logistic_r1 or D_logistic_r2.')
    kwargs.D_loss_args.update(_given(gamma=gamma))
    if cond:
        kwargs.dataset_args['max_label_size'] = 'full'
    kwargs.sched_args.update(_given(lod_training_kimg=lod_training_kimg, lod_transition_kimg=lod_transition_kimg))
    for name, value in dict(minibatch_size=minibatch_size, minibatch_gpu=minibatch_gpu, G_lrate=lrate, D_lrate=lrate,
                            tick_kimg=tick_kimg).items():
        if value is not None:  # a value given by hand holds at every resolution
            kwargs.sched_args.update({f'{name}_base': value, f'{name}_dict': {}})
    kwargs.update(_given(
        G_smoothing_kimg=G_smoothing_kimg, resume_pkl=resume_pkl, resume_kimg=resume_kimg, freeze_d=freeze_d, impl=impl,
        max_minutes=max_minutes,
        precision=None if precision == 'float32' else precision,  # As before there was a choice: checkpoints compare these.
        checkpoint_ticks=checkpoint_ticks, checkpoint_minutes=checkpoint_minutes, keep_checkpoints=keep_checkpoints))
    _check_minibatch(kwargs.sched_args, num_gpus, 2 if kwargs.G_loss_args['func_name'].endswith('pathreg') else 1)
    name = os.path.basename(os.path.normpath(dataset))
    return EasyDict(
        run_desc=f'stylegan2-{name}-{num_gpus}gpu-{config}', run_dir_root=result_dir, num_gpus=num_gpus,
        run_func_name='training.training_loop.training_loop', run_func_kwargs=kwargs)


def _given(**options):
    return {name: value for name, value in options.items() if value is not None}


def _find_config(config):
    if config not in CONFIGS:
        near = difflib.get_close_matches(config, CONFIGS, n=1)
        hint = f'Did you mean {near[0]}? ' if near else ''
        raise cli.UserError(f'--config: there is no {config!r}', f'{hint}Valid: {", ".join(CONFIGS)}.')
    return CONFIGS[config]


def part_fits(part, smallest):
    """Can so many images be handled at a time? `smallest` or more, in groups of 4 for minibatch stddev, or as one group themselves."""
    return part >= smallest and (part <= 4 or part % 4 == 0)


def _check_minibatch(sched, num_gpus, smallest):
    """Each minibatch must split into whole parts of minibatch_gpu on every device, at every resolution that has its own.

    A part must have `smallest` images or more, see `part_fits`.
    """
    sizes, parts = sched.get('minibatch_size_dict', {}), sched.get('minibatch_gpu_dict', {})
    for resolution in (None, *sorted({*sizes, *parts})):
        size, part = sizes.get(resolution, sched['minibatch_size_base']), parts.get(resolution, sched['minibatch_gpu_base'])
        fits = part_fits(part, smallest)
        if size % (part * num_gpus) == 0 and fits:
            continue
        good = [p for p in range(smallest, part + 1) if part_fits(p, smallest) and size % (p * num_gpus) == 0]
        if good:
            remedy = f'--minibatch-gpu={good[-1]}'
        else:
            part_that_fits = part if fits else max(smallest, part // 4 * 4)
            whole = part_that_fits * num_gpus
            remedy = f'--minibatch-size={math.ceil(size / whole) * whole}' + ('' if fits else f' --minibatch-gpu={part_that_fits}')
        raise cli.UserError(
            f'a minibatch of {size} images does not split into parts of {part} on {num_gpus} GPU{"s" if num_gpus > 1 else ""}'
            if fits else f'--minibatch-gpu={part}: expected {smallest} to 4, or a multiple of 4',
            f'--minibatch-size must be a multiple of --minibatch-gpu times --num-gpus; {remedy} would do.')
