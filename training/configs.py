"""The configurations of the paper (Karras et al. 2020, table 1 and figure 8) as one table.

`training_run` turns a configuration and the options of training/options.py into arguments of the training loop.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Sequence
from typing import Any

from dnnlib import cli
from dnnlib.util import EasyDict
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


CONFIGS = {
    'config-a': dict(  # StyleGAN as published in 2019
        G_args=dict(func_name='training.networks_stylegan.G_style'),
        D_args=dict(func_name='training.networks_stylegan.D_basic'),
        G_loss_args=_NO_PATHREG, sched_args=_GROWING, lazy_regularization=False),
    'config-b': dict(_GROWING_SMALL, G_loss_args=_NO_PATHREG, lazy_regularization=False),  # + weight demodulation
    'config-c': dict(_GROWING_SMALL, G_loss_args=_NO_PATHREG),  # + lazy regularization
    'config-d': _GROWING_SMALL,  # + path length regularization
    'config-e': _config_e({}, {}),  # + no growing, new G & D architectures
    'config-f': {},  # + large networks = StyleGAN2
    **{f'config-e-G{g}-D{d}': _config_e(dict(architecture=g), dict(architecture=d))
       for g in ('orig', 'skip', 'resnet') for d in ('orig', 'skip', 'resnet')},
}


# ---- From options to the arguments of the training loop ----

def training_run(dataset: str, metric_arg_list: Sequence[dict[str, Any]] = (), **options: Any) -> EasyDict:
    """The run that these options describe.

    Args:
        dataset:         Name of the dataset, a folder in the option data_dir.
        metric_arg_list: Arguments of each metric to compute at network snapshots, see metrics.metric_defaults. They
                         stand for the option metrics, which is not read here.
        options:         Any others of the table in training/options.py, by name, with its defaults.

    Returns:
        EasyDict(run_desc, run_dir_root, num_gpus, run_func_name, run_func_kwargs). The last one is an EasyDict of
        arguments of `training.training_loop.training_loop`. Defaults of the loop are left out of it.

    Raises:
        cli.UserError: The configuration is unknown, the minibatch does not divide evenly, the loss has no gamma, or
                       its networks do not grow and an option says how fast they should.
        TypeError:     There is no such option.
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
        grid_args=dict(size='8k', layout='random'))
    for name, change in _find_config(values['config']).items():
        kwargs[name] = {**kwargs[name], **change} if isinstance(change, dict) else change
    _leave_loss(kwargs.G_loss_args, values['G_loss'])
    _leave_loss(kwargs.D_loss_args, values['D_loss'])
    apply_options(kwargs, {**values, 'metrics': None})
    _check_growing(kwargs.sched_args, values)
    kwargs.metric_arg_list = list(metric_arg_list)
    D_loss = kwargs.D_loss_args['func_name'].split('.')[-1]
    if values['gamma'] is not None and D_loss not in ('D_logistic_r1', 'D_logistic_r2'):
        raise cli.UserError(f'--gamma={values["gamma"]:g}: {D_loss} has no such weight',
                            'Leave --gamma out, or use D_logistic_r1 or D_logistic_r2.')
    num_gpus = values['num_gpus']
    _check_minibatch(kwargs.sched_args, num_gpus, 2 if kwargs.G_loss_args['func_name'].endswith('pathreg') else 1)
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
        growing = ', '.join(name for name, change in CONFIGS.items()
                            if 'lod_initial_resolution' in change.get('sched_args', {}))
        flags = ' and '.join('--' + name.replace('_', '-') for name in given)
        raise cli.UserError(f'{flags}: the networks of {values["config"]} do not grow',
                            f'Leave it out, or choose a configuration that grows: {growing}.')


def _find_config(config: str) -> dict[str, Any]:
    if config not in CONFIGS:
        near = difflib.get_close_matches(config, CONFIGS, n=1)
        hint = f'Did you mean {near[0]}? ' if near else ''
        raise cli.UserError(f'--config: there is no {config!r}', f'{hint}Valid: {", ".join(CONFIGS)}.')
    return CONFIGS[config]


def microbatch_fits(size: int, smallest: int) -> bool:
    """Can `size` images be handled at a time?

    Args:
        size:     Images in a microbatch, the part of a minibatch that a device handles at a time.
        smallest: Fewest images that the losses can handle.

    Returns:
        True if the images form one group for minibatch stddev, or several groups of 4.
    """
    return size >= smallest and (size <= 4 or size % 4 == 0)


def _check_minibatch(sched: dict[str, Any], num_gpus: int, smallest: int) -> None:
    """Raise a UserError unless each minibatch splits into whole microbatches on every device, at every resolution."""
    sizes, microbatches = sched.get('minibatch_size_dict', {}), sched.get('minibatch_gpu_dict', {})
    for resolution in (None, *sorted({*sizes, *microbatches})):
        size = sizes.get(resolution, sched['minibatch_size_base'])
        microbatch = microbatches.get(resolution, sched['minibatch_gpu_base'])
        fits = microbatch_fits(microbatch, smallest)
        if size % (microbatch * num_gpus) == 0 and fits:
            continue
        if fits:
            fact = (f'a minibatch of {size} images does not split into parts of {microbatch} on {num_gpus} '
                    f'GPU{"s" if num_gpus > 1 else ""}')
        else:
            fact = f'--minibatch-gpu={microbatch}: expected {smallest} to 4, or a multiple of 4'
        raise cli.UserError(fact, '--minibatch-size must be a multiple of --minibatch-gpu times --num-gpus; '
                                  f'{_flags_that_fit(size, microbatch, num_gpus, smallest)} would do.')


def _flags_that_fit(size: int, microbatch: int, num_gpus: int, smallest: int) -> str:
    """Flags that make a minibatch of `size` images, or a slightly larger one, split into whole microbatches."""
    good = [n for n in range(smallest, microbatch + 1) if microbatch_fits(n, smallest) and size % (n * num_gpus) == 0]
    if good:
        return f'--minibatch-gpu={good[-1]}'
    fits = microbatch_fits(microbatch, smallest)
    if not fits:
        microbatch = max(smallest, microbatch // 4 * 4)
    whole = microbatch * num_gpus
    flag = f'--minibatch-size={math.ceil(size / whole) * whole}'
    return flag if fits else f'{flag} --minibatch-gpu={microbatch}'
