"""The options of a training run as one table.

Everything that has to know the options reads it here: the parser and --help of run_training.py, `configs.training_run`,
the check of settings when a run is resumed (training/run/checkpoint.py), and the tables in docs/training.md. `python -m
training.options` prints those tables. To add an option, add a row, and use the argument that it sets.

TensorFlow is not imported here, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from dnnlib import cli
from training.augment import AUGPIPES

# --precision -> dtype that the networks' highest resolutions compute in. The rest is float32, see docs/precision.md.
PRECISIONS = {'float32': 'float32', 'bfloat16': 'bfloat16', 'mixed_float16': 'float16'}

# Names of losses in training/loss.py, which imports TensorFlow.
G_LOSSES = ('G_logistic', 'G_logistic_ns', 'G_wgan', 'G_logistic_ns_pathreg', 'G_wgan_acgan')
D_LOSSES = ('D_logistic', 'D_logistic_r1', 'D_logistic_r2', 'D_wgan', 'D_wgan_gp', 'D_wgangp_acgan')

# --aug: the strength of the augmentation follows D's overfitting, is constant, or there is no augmentation.
AUGMENTATIONS = ('ada', 'fixed', 'none')
# How the machines of a cluster sum gradients (training/step/devices.py).
ALL_REDUCE = ('auto', 'ring', 'nccl')


class Option(NamedTuple):
    """One row of the table.

    Attributes:
        name:        Name as an argument of `configs.training_run`. The flag is --name in lower case, with hyphens.
        type:        Function that turns the text of the flag into the value, or a sequence of the values allowed.
        default:     Value if the flag is not given. None = leave it to the configuration, or to the training loop.
        sets:        Arguments of the training loop that the option sets, such as 'sched_args.minibatch_size_base'. An
                     option that sets a `*_base` of the schedule also empties the matching `*_dict`: a value given by
                     hand holds at every resolution. Empty = the option is used outside the training loop.
        metavar:     Name of the value in --help.
        help:        What the option means, for --help and for the documentation.
        shown:       Default as --help shows it. None = show `default`. '' = show none.
        may_change:  May a resumed run have another value? Then checkpoints do not compare it.
        as_argument: Function from the value to the argument of the training loop, where the two differ. If it returns
                     None, the argument is not set.
    """
    name: str
    type: Callable[[str], Any] | Sequence[str]
    default: Any
    sets: tuple[str, ...]
    metavar: str
    help: str
    shown: str | None = None
    may_change: bool = False
    as_argument: Callable[[Any], Any] | None = None

    @property
    def flag(self) -> str:
        """The flag on the command line, such as '--minibatch-size'."""
        return '--' + self.dest.replace('_', '-')

    @property
    def dest(self) -> str:
        """Name of the value in what argparse returns. Checkpoints keep the flags of their run under these names."""
        return self.name.lower()

    @property
    def default_text(self) -> str:
        """The default as --help shows it; '' = there is none to show."""
        if self.shown is not None or self.default is None:
            return self.shown or ''
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)


# ---- The table: title of a group in --help -> its options ----

GROUPS: dict[str, tuple[Option, ...]] = {
    'what to train': (
        Option('dataset', cli.path, None, ('dataset_args.tfrecord_dir',), 'NAME',
               'dataset to train on, a folder in --data-dir (required)'),
        Option('data_dir', cli.path, 'datasets', ('data_dir',), 'DIR', 'where the datasets are', may_change=True),
        Option('result_dir', cli.path, 'results', (), 'DIR', 'where runs make their folders', may_change=True),
        Option('config', str, 'config-f', (), 'NAME', 'configuration or preset, see below'),
        Option('mirror_augment', cli.boolean, False, ('mirror_augment',), 'BOOL', 'flip images at random'),
    ),
    'resuming and starting from trained networks': (
        Option('resume', cli.path, None, (), 'WHAT',
               'continue exactly where a run stopped: latest = the last run of this dataset and configuration in '
               '--result-dir, or a new run if there is none; or the folder of a run; or a checkpoint, with which a new '
               'run begins',
               may_change=True),
        Option('checkpoint_ticks', cli.positive_int, None, ('checkpoint_ticks',), 'N', 'ticks between two checkpoints',
               shown='10', may_change=True),
        Option('checkpoint_minutes', cli.positive_float, None, ('checkpoint_minutes',), 'N',
               'longest time between two checkpoints, in minutes', shown='30', may_change=True),
        Option('keep_checkpoints', cli.positive_int, None, ('keep_checkpoints',), 'N',
               'number of checkpoints that are kept', shown='2', may_change=True),
        Option('resume_pkl', cli.path, None, ('resume_pkl',), 'PKL',
               'network pickle to start from: file, folder of a run, URL or official name', may_change=True),
        Option('resume_kimg', cli.non_negative_float, None, ('resume_kimg',), 'KIMG',
               'kimg that the pickle was trained for; the schedule starts there', shown='0', may_change=True),
        Option('freeze_d', cli.positive_int, None, ('freeze_d',), 'N',
               'Freeze-D: the N layers of the discriminator nearest to the image stay as they are in --resume-pkl'),
    ),
    'length and speed (1 kimg = a thousand images shown)': (
        Option('total_kimg', cli.positive_float, None, ('total_kimg',), 'KIMG', 'kimg to train for',
               shown='25000; cifar: 100000; progan: 12000', may_change=True),
        Option('max_minutes', cli.positive_float, None, ('max_minutes',), 'N',
               'end the whole run N minutes after its start, with all of its last reports, if it has not reached '
               '--total-kimg by then; at least one iteration is made, and --resume continues',
               shown='no limit', may_change=True),
        Option('num_gpus', cli.positive_int, 1, (), 'N', 'number of GPUs, on all machines that TF_CONFIG names',
               may_change=True),
        Option('all_reduce', ALL_REDUCE, None, ('all_reduce',), 'NAME',
               f'how several machines sum gradients: {", ".join(ALL_REDUCE)}; see docs/scale.md', shown='auto',
               may_change=True),
        Option('impl', cli.OPS_IMPLS, None, ('impl',), 'NAME', f'{cli.IMPL_HELP}; see docs/ops.md',
               shown='$STYLEGAN2_OPS or auto', may_change=True),
        Option('precision', tuple(PRECISIONS), None, ('precision',), 'NAME',
               f'precision of the four highest resolutions while training: {", ".join(PRECISIONS)}; '
               'see docs/precision.md', shown='float32',
               # Omit the default, so that checkpoints from before --precision still compare equal.
               as_argument=lambda name: None if name == 'float32' else name),
        Option('tf32', cli.boolean, False, ('tf32',), 'BOOL', f'{cli.TF32_HELP}; see docs/precision.md',
               may_change=True, as_argument=lambda enabled: enabled or None),
        Option('minibatch_size', cli.positive_int, None, ('sched_args.minibatch_size_base',), 'N', 'images per update',
               shown='32; config-a to -d, progan: by resolution; msg-stylegan: by GPUs; presets: their own'),
        Option('minibatch_gpu', cli.positive_int, None, ('sched_args.minibatch_gpu_base',), 'N',
               'images that a GPU handles at a time; gradients of several such microbatches are accumulated',
               shown='4; config-a to -d, progan: by resolution; msg-stylegan: by GPUs; presets: their own',
               may_change=True),  # A GPU may be too small for the old value.
        Option('lrate', cli.positive_float, None, ('sched_args.G_lrate_base', 'sched_args.D_lrate_base'), 'RATE',
               'learning rate of both networks',
               shown='0.002; config-a to -d, progan: by resolution; msg-stylegan: 0.003; presets: their own'),
        Option('gamma', cli.non_negative_float, None, ('D_loss_args.gamma',), 'WEIGHT',
               'weight of the R1 regularization', shown='10; config-e: 100; presets: their own'),
        Option('G_smoothing_kimg', cli.non_negative_float, None, ('G_smoothing_kimg',), 'KIMG',
               "half-life of the generator's moving average Gs", shown='10; presets: their own'),
        Option('seed', cli.seed, 1000, ('tf_config.rnd.np_random_seed',), 'N', 'seed of all random numbers'),
    ),
    'augmentation, for few images': (
        Option('aug', AUGMENTATIONS, None, (), 'HOW',
               'augmentation of the images that the discriminator sees: ada = as strong as needed against overfitting, '
               'fixed = of strength --p, none; see docs/small-data.md',
               shown='none; presets: ada'),
        Option('augpipe', tuple(AUGPIPES), None, ('augpipe',), 'NAME', f'kinds of augmentation: {", ".join(AUGPIPES)}',
               shown='bgc'),
        Option('target', cli.fraction, None, ('ada_target',), 'R',
               '--aug=ada: mean sign of the scores for reals above which the augmentation gets stronger', shown='0.6'),
        Option('p', cli.fraction, None, ('augment_p',), 'P', '--aug=fixed: probability of each augmentation'),
        Option('ada_kimg', cli.positive_float, None, ('ada_kimg',), 'KIMG',
               '--aug=ada: kimg in which the probability rises from 0 to 1 at most',
               shown='500; with --resume-pkl: 100'),
    ),
    'losses and growing': (
        Option('cond', cli.boolean, False, ('dataset_args.max_label_size',), 'BOOL', "train with the dataset's labels",
               as_argument=lambda cond: 'full' if cond else None),
        Option('G_loss', G_LOSSES, None, ('G_loss_args.func_name',), 'NAME',
               f'loss of the generator: {", ".join(G_LOSSES)}', shown="the configuration's",
               as_argument='training.loss.{}'.format),
        Option('D_loss', D_LOSSES, None, ('D_loss_args.func_name',), 'NAME',
               f'loss of the discriminator: {", ".join(D_LOSSES)}', shown="the configuration's",
               as_argument='training.loss.{}'.format),
        Option('lod_training_kimg', cli.positive_float, None, ('sched_args.lod_training_kimg',), 'KIMG',
               'config-a to -d, progan: kimg at each resolution before it grows', shown='600'),
        Option('lod_transition_kimg', cli.positive_float, None, ('sched_args.lod_transition_kimg',), 'KIMG',
               'config-a to -d, progan: kimg while the next resolution fades in', shown='600'),
    ),
    'size of the networks': (
        Option('fmap_base', cli.positive_int, None, ('G_args.fmap_base', 'D_args.fmap_base'), 'N',
               'feature maps of a layer = 2 * N / resolution, but at most --fmap-max',
               shown='16384; config-a to -e, older: 8192; presets: their own'),
        Option('fmap_max', cli.positive_int, None, ('G_args.fmap_max', 'D_args.fmap_max'), 'N',
               'most feature maps of a layer', shown='512'),
        Option('latent_size', cli.positive_int, None,
               ('G_args.latent_size', 'G_args.dlatent_size', 'G_args.mapping_fmaps'), 'N',
               'size of Z, W and the mapping layers', shown='512'),
        Option('mapping_layers', cli.positive_int, None, ('G_args.mapping_layers',), 'N',
               'layers from Z to W', shown='8; auto and cifar: 2'),
        Option('resample_kernel', cli.positive_ints, None, ('G_args.resample_kernel', 'D_args.resample_kernel'), 'LIST',
               'filter of all resampling; 1,1 keeps the hard edges of pixel art and other flat drawings',
               shown='1,3,3,1'),
    ),
    'reports (1 tick = one line of progress)': (
        # run_training.py looks the names up in metrics/metric_defaults.py, which training does not import.
        Option('metrics', cli.name_list, None, ('metric_arg_list', 'require_metrics'), 'LIST',
               'metrics at each network pickle, comma-separated, or none; see run_metrics.py --help and '
               'docs/metrics.md',
               shown='fid50k, if it can be computed', may_change=True),
        Option('tick_kimg', cli.positive_float, None, ('sched_args.tick_kimg_base',), 'KIMG', 'kimg per tick',
               shown='4 to 28, by resolution; progan: 10 to 160; msg-stylegan: 10', may_change=True),
        Option('image_snapshot_ticks', cli.positive_int, 10, ('image_snapshot_ticks',), 'N', 'ticks per image of fakes',
               may_change=True),
        Option('network_snapshot_ticks', cli.positive_int, 10, ('network_snapshot_ticks',), 'N',
               'ticks per network pickle', may_change=True),
        Option('keep_snapshots', cli.positive_int, None, ('keep_snapshots',), 'N',
               'number of network-snapshot-*.pkl that are kept, the newest ones; network-final.pkl is always kept',
               shown='all', may_change=True),
    ),
}

OPTIONS: tuple[Option, ...] = tuple(option for options in GROUPS.values() for option in options)
_BY_NAME = {option.name: option for option in OPTIONS}


# ---- What is read from it ----

def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the flags of all options, group by group."""
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for option in options:
            read, choices = (option.type, None) if callable(option.type) else (str, option.type)
            shown = f' (default: {option.default_text})' if option.default_text else ''
            group.add_argument(option.flag, dest=option.dest, type=read, choices=choices, default=option.default,
                               metavar=option.metavar, help=f'{option.help}{shown}')


def with_defaults(options: dict[str, Any]) -> dict[str, Any]:
    """Values of all options: those given, and the defaults of the others.

    Args:
        options: Name of an option -> value.

    Raises:
        TypeError: A name is not in the table.
    """
    unknown = sorted(set(options) - set(_BY_NAME))
    if unknown:
        raise TypeError(f'unknown training options {unknown}; the table in training/options.py has {sorted(_BY_NAME)}')
    return {**{option.name: option.default for option in OPTIONS}, **options}


def apply_options(kwargs: dict[str, Any], values: dict[str, Any]) -> None:
    """Set the arguments of the training loop that options stand for.

    Args:
        kwargs: Arguments of the training loop, changed in place.
        values: Name of an option -> value. None leaves the arguments as they are, unless the option has another
                default: then it is set, because for the training loop image_snapshot_ticks = None means never.
    """
    for name, value in values.items():
        option = _BY_NAME[name]
        argument = option.as_argument(value) if option.as_argument and value is not None else value
        if argument is None and (option.default is None or option.as_argument):
            continue
        for place in option.sets:
            section, _, key = place.partition('.')
            target = kwargs.setdefault(section, {}) if key else kwargs
            target[key or section] = argument
            if section == 'sched_args' and key.endswith('_base'):
                target[f'{key.removesuffix("_base")}_dict'] = {}


def changeable_arguments() -> set[str]:
    """Arguments of the training loop that a resumed run may change, such as 'sched_args.tick_kimg_base'."""
    places = {place for option in OPTIONS if option.may_change for place in option.sets}
    return places | {re.sub('_base$', '_dict', place) for place in places}


def fixed_options() -> Iterator[Option]:
    """The options that a resumed run must give as before."""
    return (option for option in OPTIONS if not option.may_change)


def markdown_tables() -> str:
    """The options as tables for docs/training.md."""
    lines = []
    for title, options in GROUPS.items():
        lines += [f'{title[0].upper()}{title[1:]}:', '', '| Flag | Meaning | Default | A resumed run may change it |',
                  '| --- | --- | --- | --- |']
        for option in options:
            meaning = re.sub(r'docs/([\w-]+\.md)', r'[\1](\1)', option.help)
            meaning = re.sub(r'(?<!\w)(--[a-z-]+(?:=\w+)?)', r'`\1`', meaning)
            cells = (f'`{option.flag}`', meaning, option.default_text, 'yes' if option.may_change else 'no')
            lines.append(f'| {" | ".join(cells)} |')
        lines.append('')
    return '\n'.join(lines)


if __name__ == '__main__':
    print(markdown_tables(), end='')
