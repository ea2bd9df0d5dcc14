"""The configurations of the papers as one table: those of StyleGAN2 (Karras et al. 2020, arXiv:1912.04958, table 1 and
figure 8), the presets of StyleGAN2-ADA (Karras et al. 2020, arXiv:2006.06676), ProGAN (Karras et al. 2018,
arXiv:1710.10196), and MSG-StyleGAN (Karnewar and Wang 2020, arXiv:1903.06048).

`training_run` turns a configuration and the options of training/options.py into arguments of the training loop.
"""

from __future__ import annotations

import difflib
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from dnnlib import cli
from dnnlib.util import EasyDict
from training.augment import AUGPIPES
from training.options import D_LOSSES as D_LOSSES  # These three names are imported from here too.
from training.options import G_LOSSES as G_LOSSES
from training.options import PRECISIONS as PRECISIONS
from training.options import apply_options, with_defaults

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


def _config_e(G_args: dict[str, Any], D_args: dict[str, Any]) -> dict[str, Any]:
    return dict(G_args=dict(_SMALL, **G_args), D_args=dict(_SMALL, **D_args), D_loss_args=dict(gamma=100))


def _ada(batch: int, batch_gpu: int, mbstd: int, fmap_base: int, lrate: float, gamma: float, ema_kimg: float,
         ema_rampup: float | None = None, mapping_layers: int = 8, G_args: dict[str, Any] | None = None,
         D_args: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A preset of StyleGAN2-ADA.

    Args:
        batch:          Images per update.
        batch_gpu:      Images that a GPU handles at a time, if it has so many.
        mbstd:          Images in a group of minibatch stddev.
        fmap_base:      Of both networks.
        lrate:          Learning rate of both networks.
        gamma:          Weight of R1.
        ema_kimg:       Half-life of Gs, in thousands of images.
        ema_rampup:     Largest half-life as a fraction of the images shown. None = it is always ema_kimg.
        mapping_layers: Layers from Z to W.
        G_args, D_args: Further settings of the networks.
        more:           Further changes to config-f.
    """
    networks = dict(fmap_base=fmap_base, label_embed=True)
    return dict(
        G_args=dict(networks, mapping_layers=mapping_layers, **(G_args or {})),
        D_args=dict(networks, mapping_layers=8, mapping_lrmul=0.01, mbstd_group_size=mbstd, **(D_args or {})),
        D_loss_args=dict(gamma=gamma),
        sched_args=dict(G_lrate_base=lrate, D_lrate_base=lrate, minibatch_size_base=batch,
                        minibatch_gpu_base=batch_gpu),
        G_smoothing_kimg=ema_kimg, G_smoothing_rampup=ema_rampup, augpipe='bgc', ada_target=0.6, ada_rules=True, **more)


def _auto(resolution: int, num_gpus: int) -> dict[str, Any]:
    """The preset that derives its numbers from the resolution of the dataset and the number of GPUs."""
    batch = max(min(num_gpus * min(4096 // resolution, 32), 64), num_gpus)  # Limits memory, and keeps GPUs busy.
    batch_gpu = batch // num_gpus
    return _ada(
        batch, batch_gpu, mbstd=min(batch_gpu, 4), fmap_base=(16 if resolution >= 512 else 8) << 10,
        lrate=0.002 if resolution >= 1024 else 0.0025, gamma=0.0002 * resolution ** 2 / batch,
        ema_kimg=batch * 10 / 32, ema_rampup=0.05, mapping_layers=2)


def _stylegan(**G_args: Any) -> dict[str, Any]:
    """StyleGAN as published in 2019, with other settings of its generator."""
    return dict(
        G_args=dict(func_name='training.networks_stylegan.G_style', **G_args),
        D_args=dict(func_name='training.networks_stylegan.D_basic'),
        G_loss_args=_NO_PATHREG, sched_args=_GROWING, lazy_regularization=False)


# Of ProGAN, by the number of GPUs: minibatch size, its exceptions by resolution, learning rates that are not 0.001.
_PROGAN_PRESETS = {
    1: (4, {4: 128, 8: 128, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8, 512: 4}, {1024: 0.0015}),
    2: (8, {4: 256, 8: 256, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8}, {512: 0.0015, 1024: 0.002}),
    4: (16, {4: 512, 8: 256, 16: 128, 32: 64, 64: 32, 128: 16}, {256: 0.0015, 512: 0.002, 1024: 0.003}),
    8: (32, {4: 512, 8: 256, 16: 128, 32: 64, 64: 32}, {128: 0.0015, 256: 0.002, 512: 0.003, 1024: 0.003}),
}
_PROGAN_TICK_KIMG = {4: 160, 8: 140, 16: 120, 32: 100, 64: 80, 128: 60, 256: 40, 512: 20, 1024: 10}


def _nearest_preset(presets: dict[int, Any], num_gpus: int) -> Any:
    """The preset for so many GPUs, or for the next lower number that has one."""
    return presets[max(number for number in presets if number <= num_gpus)]


def _per_gpu(size: int, num_gpus: int) -> int:
    """Images of a minibatch for each GPU, rounded down so that the groups of minibatch stddev are whole."""
    share = max(size // num_gpus, 1)
    return share if share <= 4 else share // 4 * 4


def _progan(_resolution: int | None, num_gpus: int) -> dict[str, Any]:
    """ProGAN, by its preset for the number of GPUs."""
    base, sizes, rates = _nearest_preset(_PROGAN_PRESETS, num_gpus)
    part = _per_gpu(base, num_gpus)
    parts = {resolution: _per_gpu(size, num_gpus) for resolution, size in sizes.items()}
    return dict(
        G_args=dict(func_name='training.networks_progan.G_paper'),
        D_args=dict(func_name='training.networks_progan.D_paper'),
        G_loss_args=dict(func_name='training.loss.G_wgan_acgan'),
        D_loss_args=dict(func_name='training.loss.D_wgangp_acgan'),
        sched_args=dict(
            lod_initial_resolution=4,
            G_lrate_base=0.001, G_lrate_dict=rates, D_lrate_base=0.001, D_lrate_dict=rates,
            minibatch_size_base=part * num_gpus,
            minibatch_size_dict={resolution: size * num_gpus for resolution, size in parts.items()},
            minibatch_gpu_base=part, minibatch_gpu_dict=parts,
            tick_kimg_base=160, tick_kimg_dict=_PROGAN_TICK_KIMG),
        lazy_regularization=False, D_first=True, G_smoothing_beta=0.999, total_kimg=12000)


_MSG_MINIBATCHES = {1: 4, 2: 32, 4: 16, 8: 32}  # Of MSG-StyleGAN, by the number of GPUs.


def _msg_stylegan(_resolution: int | None, num_gpus: int) -> dict[str, Any]:
    """MSG-StyleGAN, with the minibatch of its code for the number of GPUs."""
    part = _per_gpu(_nearest_preset(_MSG_MINIBATCHES, num_gpus), num_gpus)
    return dict(
        G_args=dict(func_name='training.networks_msg.G_style'), D_args=dict(func_name='training.networks_msg.D_basic'),
        G_loss_args=_NO_PATHREG,
        sched_args=dict(G_lrate_base=0.003, D_lrate_base=0.003, minibatch_size_base=part * num_gpus,
                        minibatch_gpu_base=part, tick_kimg_base=10, tick_kimg_dict={}),
        grid_args=dict(size='4k'), lazy_regularization=False, D_first=True)


# Each value is a dict, or a function of (resolution, num_gpus) that returns one.
CONFIGS: dict[str, dict[str, Any] | Callable[[Any, int], dict[str, Any]]] = {
    'config-a': _stylegan(),  # StyleGAN as published in 2019
    'config-b': dict(_GROWING_SMALL, G_loss_args=_NO_PATHREG, lazy_regularization=False),  # + weight demodulation
    'config-c': dict(_GROWING_SMALL, G_loss_args=_NO_PATHREG),  # + lazy regularization
    'config-d': _GROWING_SMALL,  # + path length regularization
    'config-e': _config_e({}, {}),  # + no growing, new G & D architectures
    'config-f': {},  # + large networks = StyleGAN2
    **{f'config-e-G{g}-D{d}': _config_e(dict(architecture=g), dict(architecture=d))
       for g in ('orig', 'skip', 'resnet') for d in ('orig', 'skip', 'resnet')},
    'auto': _auto,  # StyleGAN2-ADA; a good start with any dataset
    'stylegan2': _ada(32, 4, 4, 16 << 10, 0.002, 10, ema_kimg=10),  # Its form of config-f
    'paper256': _ada(64, 8, 8, 8 << 10, 0.0025, 1, ema_kimg=20),  # The settings of its paper: FFHQ and LSUN at 256x256
    'paper512': _ada(64, 8, 8, 16 << 10, 0.0025, 0.5, ema_kimg=20),  # BreCaHAD and AFHQ
    'paper1024': _ada(32, 4, 4, 16 << 10, 0.002, 2, ema_kimg=10),  # MetFaces
    'cifar': _ada(64, 32, 32, 16 << 10, 0.0025, 0.01, ema_kimg=500, ema_rampup=0.05, mapping_layers=2,
                  G_args=dict(style_mixing_prob=None), D_args=dict(architecture='orig'), G_loss_args=_NO_PATHREG,
                  total_kimg=100000),  # CIFAR-10
    # The steps from ProGAN to StyleGAN, Table 1 of StyleGAN's paper.
    'stylegan-b': _stylegan(
        use_styles=False, use_instance_norm=False, const_input_layer=False, use_noise=False, use_pixel_norm=True,
        mapping_layers=0, truncation_psi=None, style_mixing_prob=0.0),  # ProGAN's generator, tuned
    'stylegan-c': _stylegan(const_input_layer=False, use_noise=False, style_mixing_prob=0.0),  # + mapping and styles
    'stylegan-d': _stylegan(use_noise=False, style_mixing_prob=0.0),  # - traditional input
    'stylegan-e': _stylegan(style_mixing_prob=0.0),  # + noise
    'stylegan-f': _stylegan(),  # + mixing regularization = config-a
    'progan': _progan,  # Progressive GAN, as published in 2018
    'msg-stylegan': _msg_stylegan,  # StyleGAN with multi-scale gradients instead of growing
}


# ---- From options to the arguments of the training loop ----

def training_run(dataset: str, metric_arg_list: Sequence[dict[str, Any]] = (), resolution: int | None = None,
                 **options: Any) -> EasyDict:
    """The run that these options describe.

    Args:
        dataset:         Name of the dataset, a folder in the option data_dir.
        metric_arg_list: Arguments of each metric to compute at network snapshots, see metrics.metric_defaults. They
                         stand for the option metrics, which is not read here.
        resolution:      Of the images of the dataset. Only the preset auto needs it.
        options:         Any others of the table in training/options.py, by name, with its defaults.

    Returns:
        EasyDict(run_desc, run_dir_root, num_gpus, run_func_name, run_func_kwargs). The last one is an EasyDict of
        arguments of `training.training_loop.training_loop`. Defaults of the loop are left out of it.

    Raises:
        cli.UserError: The configuration is unknown, the minibatch does not divide evenly, the loss has no gamma, its
                       networks do not grow and an option says how fast they should, or options of the augmentation do
                       not go together.
        TypeError:     There is no such option.
        ValueError:    The preset auto is not told the resolution.
    """
    values = with_defaults({'dataset': dataset, **options})
    kwargs = EasyDict(
        G_args=dict(func_name='training.networks_stylegan2.G_main'),
        D_args=dict(func_name='training.networks_stylegan2.D_stylegan2'),
        G_opt_args=dict(beta1=0.0, beta2=0.99, epsilon=1e-8),
        D_opt_args=dict(beta1=0.0, beta2=0.99, epsilon=1e-8),
        G_loss_args=dict(func_name='training.loss.G_logistic_ns_pathreg'),
        D_loss_args=dict(func_name='training.loss.D_logistic_r1', gamma=10),
        sched_args=dict(G_lrate_base=0.002, D_lrate_base=0.002, minibatch_size_base=32, minibatch_gpu_base=4),
        grid_args=dict(size='8k', layout='random'), total_kimg=25000)
    for name, change in _find_config(values['config'], resolution, values['num_gpus']).items():
        # A loss with another name has settings of its own.
        if isinstance(change, dict):
            base = {} if 'loss' in name and 'func_name' in change else kwargs[name]
            change = {**base, **change}
        kwargs[name] = change
    _leave_loss(kwargs.G_loss_args, values['G_loss'])
    _leave_loss(kwargs.D_loss_args, values['D_loss'])
    apply_options(kwargs, {**values, 'metrics': None})
    if kwargs.G_args['func_name'].endswith('.G_paper'):
        _adjust_progan(kwargs, values)
    if kwargs.D_args['func_name'].startswith('training.networks_msg'):
        _check_msg(values)
    if kwargs.G_args.get('mapping_layers') == 0 and values['cond']:
        raise cli.UserError(f'--cond=true: {values["config"]} has no mapping network, which would take the labels',
                            'Leave it out, give --mapping-layers=8, or choose another configuration.')
    _check_growing(kwargs.sched_args, values)
    if kwargs.get('ada_rules'):
        _adjust_preset(kwargs, values)
    _set_augmentation(kwargs, values)
    kwargs.metric_arg_list = list(metric_arg_list)
    D_loss = kwargs.D_loss_args['func_name'].split('.')[-1]
    if values['gamma'] is not None and D_loss not in ('D_logistic_r1', 'D_logistic_r2'):
        raise cli.UserError(f'--gamma={values["gamma"]:g}: {D_loss} has no such weight',
                            'Leave --gamma out, or use D_logistic_r1 or D_logistic_r2.')
    if kwargs.get('ada_rules') and kwargs.D_loss_args.get('gamma') == 0:
        kwargs.D_loss_args = dict(func_name='training.loss.D_logistic')  # StyleGAN2-ADA leaves D_reg out.
    num_gpus = values['num_gpus']
    needs_two = kwargs.G_loss_args['func_name'].endswith('pathreg') and not kwargs.get('ada_rules')
    _check_minibatch(kwargs.sched_args, num_gpus, 2 if needs_two else 1, mbstd_group(kwargs.D_args))
    name = os.path.basename(os.path.normpath(dataset))
    return EasyDict(
        run_desc=f'stylegan2-{name}-{num_gpus}gpu-{values["config"]}', run_dir_root=values['result_dir'],
        num_gpus=num_gpus, run_func_name='training.training_loop.training_loop', run_func_kwargs=kwargs)


def _leave_loss(loss_args: dict[str, Any], name: str | None) -> None:
    """Clear the settings of the configuration's loss if another one, called `name`, takes its place."""
    if name is not None and loss_args['func_name'] != f'training.loss.{name}':
        loss_args.clear()


def _check_growing(sched: dict[str, Any], values: dict[str, Any]) -> None:
    """Raise a UserError if there is a pace of growing and the networks do not grow."""
    given = [name for name in ('lod_training_kimg', 'lod_transition_kimg') if values[name] is not None]
    if given and 'lod_initial_resolution' not in sched:
        growing = ', '.join(
            name for name, change in CONFIGS.items() if change is _progan or (
                isinstance(change, dict) and 'lod_initial_resolution' in change.get('sched_args', {})))
        flags = ' and '.join('--' + name.replace('_', '-') for name in given)
        raise cli.UserError(f'{flags}: the networks of {values["config"]} do not grow',
                            f'Leave it out, or choose a configuration that grows: {growing}.')


def _adjust_progan(kwargs: dict[str, Any], values: dict[str, Any]) -> None:
    """What the options change in ProGAN; a UserError for those that it has nothing for."""
    for name in ('mapping_layers', 'resample_kernel'):
        if values[name] is not None:
            raise cli.UserError(f'--{name.replace("_", "-")}: the networks of {values["config"]} have no such setting',
                                'Leave it out, or choose another configuration.')
    if kwargs['G_loss_args']['func_name'].endswith('pathreg'):
        raise cli.UserError(f'--g-loss={values["G_loss"]}: path lengths are those of W, which {values["config"]} '
                            'does not have', 'Choose another loss.')
    for name in ('dlatent_size', 'mapping_fmaps'):  # Of --latent-size only the size of Z is left.
        kwargs['G_args'].pop(name, None)
    if values['G_smoothing_kimg'] is not None:
        kwargs['G_smoothing_beta'] = None


def _check_msg(values: dict[str, Any]) -> None:
    """Raise a UserError for options that do not work with images of several sizes."""
    for flag, loss in (('--g-loss', values['G_loss']), ('--d-loss', values['D_loss'])):
        if loss in ('G_logistic_ns_pathreg', 'D_wgan_gp', 'D_wgangp_acgan'):
            raise cli.UserError(f'{flag}={loss}: is for images of one size, but {values["config"]} makes them in all '
                                'sizes', 'Choose another loss, such as G_logistic_ns or D_logistic_r1.')
    if values['aug'] not in (None, 'none'):
        raise cli.UserError(f'--aug={values["aug"]}: augments images of one size, but {values["config"]} makes them in '
                            'all sizes', 'Leave it out.')


def _adjust_preset(kwargs: dict[str, Any], values: dict[str, Any]) -> None:
    """What the options change in a preset of StyleGAN2-ADA, besides the arguments that they set."""
    num_gpus, sched = values['num_gpus'], kwargs['sched_args']
    if num_gpus & (num_gpus - 1):
        raise cli.UserError(f'--num-gpus={num_gpus}: --config={values["config"]} needs a power of two',
                            f'Give --num-gpus={1 << num_gpus.bit_length() - 1}.')
    if values['minibatch_gpu'] is None:
        share = max(sched['minibatch_size_base'] // num_gpus, 1)
        given = values['minibatch_size'] is not None
        sched['minibatch_gpu_base'] = share if given else min(sched['minibatch_gpu_base'], share)
    if values['precision'] not in (None, 'float32'):
        for name in ('G_args', 'D_args'):
            kwargs[name]['conv_clamp'] = 256
    if values['resume_pkl'] is not None:
        kwargs['G_smoothing_rampup'] = None  # The networks have seen many images.


def _set_augmentation(kwargs: dict[str, Any], values: dict[str, Any]) -> None:
    """Set what the option aug decides, and check the others of its group."""
    how = values['aug'] or ('ada' if kwargs.get('ada_rules') else 'none')
    useless = {'ada': ('p',), 'fixed': ('target', 'ada_kimg'), 'none': ('augpipe', 'target', 'p', 'ada_kimg')}[how]
    for name in useless:
        if values[name] is not None:
            better = 'fixed' if name == 'p' else 'ada'
            raise cli.UserError(f'--{name.replace("_", "-")}: has no effect with --aug={how}',
                                f'Leave it out, or give --aug={better}.')
    for name in ('target', 'p'):
        if values[name] is not None and not 0 <= values[name] <= 1:
            raise cli.UserError(f'--{name}={values[name]:g}: expected a number from 0 to 1', 'Give another number.')
    if how != 'ada':
        kwargs.pop('ada_target', None)
    if how == 'none':
        kwargs.pop('augpipe', None)
        return
    augpipe = kwargs.setdefault('augpipe', 'bgc')
    initial = kwargs['sched_args'].get('lod_initial_resolution')
    if 'imgfilter' in AUGPIPES[augpipe] and initial is not None:
        raise cli.UserError(f'--augpipe={augpipe}: its filter needs images of 32x32 or more, but the networks of '
                            f'{values["config"]} grow from {initial}x{initial}', 'Give --augpipe=bgc.')
    if how == 'fixed' and values['p'] is None:
        raise cli.UserError('--aug=fixed: expected the probability of each augmentation', 'Give it, such as --p=0.2.')
    if how == 'ada':
        kwargs.setdefault('ada_target', 0.6)
        if values['resume_pkl'] is not None:
            kwargs.setdefault('ada_kimg', 100)


def _find_config(config: str, resolution: int | None, num_gpus: int) -> dict[str, Any]:
    if config not in CONFIGS:
        near = difflib.get_close_matches(config, CONFIGS, n=1)
        hint = f'Did you mean {near[0]}? ' if near else ''
        raise cli.UserError(f'--config: there is no {config!r}', f'{hint}Valid: {", ".join(CONFIGS)}.')
    row = CONFIGS[config]
    if isinstance(row, dict):
        return row
    if resolution is None and row is _auto:
        raise ValueError(f'config {config!r}: expected the resolution of the dataset')
    return row(resolution, num_gpus)


def mbstd_group(D_args: dict[str, Any]) -> int:
    """Images in a group of minibatch stddev of a discriminator with these arguments, at most."""
    size = D_args.get('mbstd_group_size', 4)
    return sys.maxsize if size is None else max(size, 1)  # None = those of a microbatch are one group.


def microbatch_fits(size: int, smallest: int, group: int = 4) -> bool:
    """Can `size` images be handled at a time?

    Args:
        size:     Images in a microbatch, the part of a minibatch that a device handles at a time.
        smallest: Fewest images that the losses can handle.
        group:    Images in a group of minibatch stddev.

    Returns:
        True if the images form one group for minibatch stddev, or several whole groups.
    """
    return size >= smallest and (size <= group or size % group == 0)


def _check_minibatch(sched: dict[str, Any], num_gpus: int, smallest: int, group: int) -> None:
    """Raise a UserError unless each minibatch splits into whole microbatches on every device, at every resolution."""
    sizes, microbatches = sched.get('minibatch_size_dict', {}), sched.get('minibatch_gpu_dict', {})
    for resolution in (None, *sorted({*sizes, *microbatches})):
        size = sizes.get(resolution, sched['minibatch_size_base'])
        microbatch = microbatches.get(resolution, sched['minibatch_gpu_base'])
        fits = microbatch_fits(microbatch, smallest, group)
        if size % (microbatch * num_gpus) == 0 and fits:
            continue
        if fits:
            fact = (f'a minibatch of {size} images does not split into parts of {microbatch} on {num_gpus} '
                    f'GPU{"s" if num_gpus > 1 else ""}')
        else:
            fact = f'--minibatch-gpu={microbatch}: expected {smallest} to {group}, or a multiple of {group}'
        raise cli.UserError(fact, '--minibatch-size must be a multiple of --minibatch-gpu times --num-gpus; '
                                  f'{_flags_that_fit(size, microbatch, num_gpus, smallest, group)} would do.')


def _flags_that_fit(size: int, microbatch: int, num_gpus: int, smallest: int, group: int) -> str:
    """Flags that make a minibatch of `size` images, or a slightly larger one, split into whole microbatches."""
    good = [n for n in range(smallest, microbatch + 1)
            if microbatch_fits(n, smallest, group) and size % (n * num_gpus) == 0]
    if good:
        return f'--minibatch-gpu={good[-1]}'
    fits = microbatch_fits(microbatch, smallest, group)
    if not fits:
        microbatch = max(smallest, microbatch // group * group)
    whole = microbatch * num_gpus
    flag = f'--minibatch-size={math.ceil(size / whole) * whole}'
    return flag if fits else f'{flag} --minibatch-gpu={microbatch}'
