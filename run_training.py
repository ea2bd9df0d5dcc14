"""Command line: train StyleGAN2 on a dataset of multi-resolution TFRecords."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import functools
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

from dnnlib import cli, storage
from dnnlib.run_dir import RunDir, check_can_run
from dnnlib.util import EasyDict, is_url, open_url
from metrics.metric_defaults import metric_args
from pretrained_networks import get_path_or_url, require_file
from training import configs, options
from training.run import checkpoint, report
from training.run.last_files import NotInPlace
from training.step import devices

_EXAMPLES = '''examples:
  # Train StyleGAN2 on the faces in datasets/ffhq
  python run_training.py --dataset=ffhq --mirror-augment=true

  # See what would be done, without doing it
  python run_training.py --dataset=ffhq --config=config-e --gamma=50 --dry-run

  # A small network for small images, on a machine without GPU
  python run_training.py --dataset=demo --total-kimg=30 --gamma=0.5 --fmap-base=1024 --fmap-max=64 --latent-size=128 \\
      --mapping-layers=4 --minibatch-size=8 --minibatch-gpu=8 --lrate=0.0025 --g-smoothing-kimg=0.5 --tick-kimg=1

  # Resume a run that was stopped or killed: the same command again, with
  python run_training.py --dataset=ffhq --mirror-augment=true --resume=latest

  # Train as long as a cluster allows, with the last pictures, pickles and metrics; the same command resumes the run
  python run_training.py --dataset=ffhq --mirror-augment=true --max-minutes=720 --resume=latest

  # Start with the networks of a pickle, here of faces for 1,000 images of cats; it is enough if some layers fit
  python run_training.py --dataset=cats --resume-pkl=gdrive:networks/stylegan2-ffhq-config-f.pkl --freeze-d=10 \\
      --total-kimg=500

  # Compare the curves of runs, finished or not, on one page: results/training-curves.html
  python run_training.py --plot results/00000-stylegan2-ffhq-1gpu-config-f results/00001-stylegan2-ffhq-1gpu-config-e

  # Few images, 100 to 10,000: StyleGAN2-ADA, which keeps the discriminator from learning them by heart
  python run_training.py --dataset=mine --config=auto --mirror-augment=true

valid configurations:
  config-f = StyleGAN2, config-e = the same with half the feature maps;
  config-a to config-d = the steps from StyleGAN to StyleGAN2;
  config-e-G{orig,skip,resnet}-D{orig,skip,resnet} choose the architecture of each network;
  auto, stylegan2, paper256, paper512, paper1024, cifar = the presets of StyleGAN2-ADA, see docs/small-data.md;
  progan = Progressive GAN of 2018, stylegan-b to stylegan-f = the steps from it to StyleGAN,
  msg-stylegan = StyleGAN with an image at every resolution instead of growing, see docs/family.md.
'''

_DEFAULT_METRICS = ['fid50k']
_MOST_NAMES = 8  # Names of datasets that an error lists.


def _parser() -> argparse.ArgumentParser:
    parser = cli.ArgumentParser(
        prog='run_training.py', description='Train StyleGAN2 on a dataset made by dataset_tool.py.', epilog=_EXAMPLES,
        formatter_class=cli.help_formatter, allow_abbrev=False)
    options.add_flags(parser)
    group = parser.add_argument_group('instead of training')
    group.add_argument('--plot', type=cli.path, nargs='+', metavar='RUN_DIR',
                       help='compare the curves of these runs in training-curves.html in --result-dir')
    group.add_argument('--dry-run', action='store_true', help='check everything, and print the configuration')
    cli.add_debug_flag(parser)
    return parser


def main(argv: Sequence[str]) -> None:
    """Run the command with these arguments."""
    started = time.monotonic()
    parser = _parser()
    args = parser.parse_args(argv)
    given = cli.flags_in(argv)
    if args.plot:
        cli.refuse_flags(given & {*(option.flag for option in options.OPTIONS), '--dry-run'} - {'--result-dir'},
                         'with --plot, which trains nothing')
        print(f'Written: {report.compare(args.plot, args.result_dir)}')
        return
    if args.dataset is None:
        parser.error('the following arguments are required: --dataset')
    if os.path.isabs(args.dataset) or storage.is_remote(args.dataset):
        cli.refuse_flags(given & {'--data-dir'}, 'with an absolute path or an address as --dataset')
    if args.resume_kimg is not None and args.resume_pkl is None:
        cli.refuse_flags({'--resume-kimg'}, 'without --resume-pkl')
    run, settings = _configure(args)
    _check_dataset(args.data_dir, args.dataset)
    found = _find_checkpoint(args, run, settings)
    note = found.note if found else ''
    if found is None:
        _check_resume_pkl(args)
        if args.resume:
            note = (f'--resume=latest: no run {run.run_desc} with a checkpoint in {args.result_dir}, '
                    'a new one begins.\n')
    cluster = devices.find_cluster()
    if args.dry_run:
        with contextlib.redirect_stdout(sys.stderr):  # Only the configuration, which is JSON, goes to stdout.
            check_can_run(args.result_dir, found.run_dir if found else None)
            _train(run, None, found, settings, started, {'dry_run': True})
        print(json.dumps(run, indent=2))
        print(f'{note}Dry run: nothing was trained.', file=sys.stderr)
        return
    with contextlib.ExitStack() as stack:
        run_dir: str | None = None
        callbacks: dict[str, Any] = {'on_start': None, 'on_end': None}
        if cluster.is_chief:
            folder = stack.enter_context(RunDir(
                args.result_dir, run.run_desc, run.run_func_name, run.run_func_kwargs, run.num_gpus,
                path=found.run_dir if found else None))
            run_dir = folder.path
            callbacks = {'on_start': folder.begin, 'on_end': functools.partial(setattr, folder, 'ending')}
            print(note, end='')
        stack.enter_context(devices.worker_context(cluster))
        try:
            _train(run, run_dir, found, settings, started, callbacks)
        except (cli.Stopped, NotInPlace) as err:
            moves = err.moves if isinstance(err, NotInPlace) else ''
            print(f'To go on: {moves}{_resume_command(argv, run_dir)}')
            raise


def _configure(args: argparse.Namespace) -> tuple[EasyDict, dict[str, Any]]:
    """(what configs.training_run returns, what checkpoints keep of the settings)."""
    flags = {option.dest: getattr(args, option.dest) for option in options.OPTIONS}
    values = {option.name: flags[option.dest] for option in options.OPTIONS}
    names = _DEFAULT_METRICS if args.metrics is None else args.metrics
    resolution = None
    if args.config == 'auto':
        _check_dataset(args.data_dir, args.dataset)
        resolution = _resolution(os.path.join(args.data_dir, args.dataset))
    run = configs.training_run(
        **values, metric_arg_list=[metric_args(name) for name in names], resolution=resolution)
    if args.metrics is None:
        run.run_func_kwargs.require_metrics = False
    return run, checkpoint.settings_of(flags, run.run_func_kwargs)


def _train(run: EasyDict, run_dir: str | None, found: checkpoint.Found | None, settings: dict[str, Any], started: float,
           more: dict[str, Any]) -> None:
    """Call the training loop.

    Args:
        run:      What configs.training_run returned.
        run_dir:  Folder of the run. None = write nothing, as workers other than the chief.
        found:    Checkpoint to continue from. None = there is none.
        settings: What checkpoints keep of the settings.
        started:  time.monotonic() at which the command began.
        more:     Further arguments of the training loop: on_start and on_end, or dry_run.
    """
    # Imported late, because TensorFlow takes seconds to load; dnnlib.tflib first, so that TensorFlow loads quietly.
    import dnnlib.tflib  # noqa: F401

    # isort: split
    from metrics.metric_base import MetricGroup
    from training import training_loop
    loop_args = dict(run.run_func_kwargs)
    if 'max_minutes' in loop_args:
        loop_args['started'] = started
    if loop_args.get('resume_pkl') and found is None:
        loop_args['resume_pkl'] = get_path_or_url(loop_args['resume_pkl'])
        if is_url(loop_args['resume_pkl']):
            with open_url(loop_args['resume_pkl'], kind='pickle') as file:
                loop_args['resume_pkl'] = file.name
    training_loop.training_loop(
        run_dir=run_dir, num_gpus=run.num_gpus, resume=(found.path, found.state) if found else None, settings=settings,
        make_evaluation=MetricGroup, **more, **loop_args)


def _resolution(tfrecord_dir: str) -> int:
    """Resolution of a dataset according to the names of its files."""
    levels = [int(match[1]) for match in (re.search(r'-r(\d\d)\.tfrecords$', name) for name in os.listdir(tfrecord_dir))
              if match]
    if not levels:
        raise cli.UserError(f'--config=auto: expected files NAME-rNN.tfrecords in {tfrecord_dir}, found none',
                            'Make the dataset with dataset_tool.py, or choose another configuration.')
    return 2 ** max(levels)


# ---- Checks before the run ----

def _check_dataset(data_dir: str, dataset: str) -> None:
    """Raise a UserError unless there is a dataset of this name."""
    folder = storage.join(data_dir, dataset)
    if storage.is_remote(folder):
        import dnnlib.tflib  # noqa: F401  It loads TensorFlow, which reads addresses, without its messages.
    try:
        is_folder = storage.is_folder(folder)
        names = storage.list_folder(folder) if is_folder else []
        near = [] if is_folder or not storage.is_folder(data_dir) else storage.list_folder(data_dir)
        found = [name for name in near if storage.is_folder(storage.join(data_dir, name))]
    except storage.errors() as err:
        raise cli.UserError(f'--dataset: {folder} cannot be read: {storage.reason(err)}',
                            'Check the name and the permissions.') from err
    if not is_folder:
        remedy = 'Check --data-dir, or make it with dataset_tool.py.'
        if found:
            near = [*difflib.get_close_matches(dataset, found, n=_MOST_NAMES, cutoff=0.0), *found]
            shown = list(dict.fromkeys(near))[:_MOST_NAMES]
            others = f' and {len(found) - len(shown)} others' if len(found) > len(shown) else ''
            remedy = f'In {data_dir} there is {", ".join(shown)}{others}.'
        raise cli.UserError(f'--dataset: there is no folder {folder}', remedy)
    if not any(name.endswith('.tfrecords') for name in names):
        raise cli.UserError(
            f'--dataset: expected .tfrecords files in {folder}, found none',
            f'Make them from a folder of images: '
            f'{cli.command("dataset_tool.py")} create_from_images {folder} IMAGE_DIR')


def _find_checkpoint(args: argparse.Namespace, run: EasyDict, settings: dict[str, Any]) -> checkpoint.Found | None:
    """The checkpoint that --resume names, after checking that the run can continue from it. None = there is none."""
    found = checkpoint.find(args.resume, args.result_dir, run.run_desc) if args.resume else None
    if found is None:
        return None
    checkpoint.check_settings(found, settings)
    kimg = found.state['progress']['cur_nimg'] / 1000
    # A run that reached its end but was killed before it wrote its last files continues, to write them.
    finished = found.run_dir is None or os.path.exists(os.path.join(found.run_dir, '_finished.txt'))
    total_kimg = run.run_func_kwargs.total_kimg
    if kimg >= total_kimg and finished:
        raise cli.UserError(f'--total-kimg={total_kimg:g} is reached already: {found.path}',
                            'Raise --total-kimg to train on.')
    return found


def _check_resume_pkl(args: argparse.Namespace) -> None:
    """Raise a UserError if --resume-pkl names no file, or other flags do not go with it."""
    if args.resume_pkl is None:
        if args.freeze_d:
            raise cli.UserError(f'--freeze-d={args.freeze_d}: there are no trained layers to keep',
                                'Give a network pickle: --resume-pkl.')
        return
    source = get_path_or_url(args.resume_pkl)
    if not is_url(source):
        try:
            require_file(source)
        except cli.UserError as err:
            raise cli.UserError(f'--resume-pkl: {err.fact}', err.remedy) from None
    given = [option.flag for option in options.OPTIONS
             if any(place.startswith('G_args.') for place in option.sets) and getattr(args, option.dest) is not None]
    if given:
        raise cli.UserError(f'--resume-pkl: the networks are those of the pickle, {given[0]} cannot change them',
                            f'Leave out {", ".join(given)}.')


def _resume_command(argv: Sequence[str], run_dir: str | None) -> str:
    """The command that continues this run."""
    rest = [arg for i, arg in enumerate(argv)
            if not arg.startswith('--resume=') and '--resume' not in argv[max(i - 1, 0):i + 1]]
    return f'{cli.command("run_training.py")} {shlex.join([*rest, f"--resume={run_dir}"])}'


if __name__ == '__main__':
    cli.run(main)
