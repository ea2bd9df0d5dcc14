"""Command line: train StyleGAN2 on a dataset of multi-resolution TFRecords."""

import argparse
import contextlib
import functools
import glob
import json
import os
import shlex
import sys
import time

from dnnlib import cli
from dnnlib.run_dir import RunDir
from dnnlib.util import is_url, open_url
from metrics.metric_defaults import metric_args
from pretrained_networks import get_path_or_url
from training import configs
from training.run import checkpoint, report
from training.step import devices

_EXAMPLES = '''examples:
  # Train StyleGAN2 on the faces in datasets/ffhq
  python run_training.py --dataset=ffhq --mirror-augment=true

  # See what would be done, without doing it
  python run_training.py --dataset=ffhq --config=config-e --gamma=50 --dry-run

  # A small network for small images, on a machine without GPU
  python run_training.py --dataset=demo --total-kimg=30 --gamma=0.5 --fmap-base=1024 --fmap-max=64 --latent-size=128 \\
      --mapping-layers=4 --minibatch-size=8 --minibatch-gpu=8 --lrate=0.0025 --g-smoothing-kimg=0.5 --tick-kimg=1

  # Go on with a run that was stopped or killed: the same command again, with
  python run_training.py --dataset=ffhq --mirror-augment=true --resume=latest

  # As long as a cluster allows, the last pictures, pickles and metrics included; the same command goes on with it the next time
  python run_training.py --dataset=ffhq --mirror-augment=true --max-minutes=720 --resume=latest

  # Begin with the networks of a pickle, here those of faces for 1,000 images of cats; layers that fit are enough
  python run_training.py --dataset=cats --resume-pkl=gdrive:networks/stylegan2-ffhq-config-f.pkl --freeze-d=10 --total-kimg=500

  # Compare the curves of runs, finished or not, on one page: results/training-curves.html
  python run_training.py --plot results/00000-stylegan2-ffhq-1gpu-config-f results/00001-stylegan2-ffhq-1gpu-config-e

valid configurations:
  config-f = StyleGAN2, config-e = the same with half the feature maps; config-a to config-d lead there step by step from StyleGAN;
  config-e-G{orig,skip,resnet}-D{orig,skip,resnet} choose the architecture of each network.
'''

_DEFAULT_METRICS = ['fid50k']


def _parser():
    parser = argparse.ArgumentParser(
        prog='run_training.py', description='Train StyleGAN2 on a dataset made by dataset_tool.py.', epilog=_EXAMPLES,
        formatter_class=cli.help_formatter, allow_abbrev=False)

    group = parser.add_argument_group('what to train')
    group.add_argument('--dataset', metavar='NAME', help='dataset to train on, a folder in --data-dir (required)')
    group.add_argument('--data-dir', default='datasets', metavar='DIR', help='where the datasets are (default: %(default)s)')
    group.add_argument('--result-dir', default='results', metavar='DIR', help='where runs make their folders (default: %(default)s)')
    group.add_argument('--config', default='config-f', metavar='NAME', help='configuration, see below (default: %(default)s)')
    group.add_argument('--mirror-augment', type=cli.boolean, default=False, metavar='BOOL', help='flip images at random (default: false)')

    group = parser.add_argument_group('going on')
    group.add_argument('--resume', metavar='WHAT',
                       help='go on exactly where a run stopped: latest = the last one of this dataset and configuration in --result-dir, '
                            'if there is one; or the folder of a run; or a checkpoint, with which a new run begins')
    group.add_argument('--checkpoint-ticks', type=cli.positive_int, metavar='N', help='ticks between two checkpoints (default: 10)')
    group.add_argument('--checkpoint-minutes', type=cli.positive_float, metavar='N', help='... but at most N minutes (default: 30)')
    group.add_argument('--keep-checkpoints', type=cli.positive_int, metavar='N', help='keep the last N checkpoints (default: 2)')
    group.add_argument('--resume-pkl', metavar='PKL', help='network pickle to start from: file, URL or official name')
    group.add_argument('--resume-kimg', type=cli.non_negative_float, metavar='KIMG', help='kimg that it was trained for (default: 0)')
    group.add_argument('--freeze-d', type=cli.positive_int, metavar='N',
                       help='Freeze-D: the N layers of the discriminator nearest to the image stay those of --resume-pkl')

    group = parser.add_argument_group('length and speed (1 kimg = a thousand images shown)')
    group.add_argument('--total-kimg', type=cli.positive_float, default=25000, metavar='KIMG', help='kimg to train for (default: 25000)')
    group.add_argument('--max-minutes', type=cli.positive_float, metavar='N',
                       help='end the whole run N minutes after its start, with all of its last reports, if it has not reached --total-kimg '
                            'by then; --resume goes on (default: no limit; one iteration is made in any case)')
    group.add_argument('--num-gpus', type=cli.positive_int, default=1, metavar='N',
                       help='number of GPUs, on all machines that TF_CONFIG names (default: 1)')
    cli.add_impl_flag(group)
    group.add_argument('--precision', choices=configs.PRECISIONS, metavar='NAME',
                       help=f'of the four highest resolutions while training: {", ".join(configs.PRECISIONS)} (default: float32); '
                            'docs/precision.md says when to use which')
    group.add_argument('--minibatch-size', type=cli.positive_int, metavar='N', help='images per update (default: 32)')
    group.add_argument('--minibatch-gpu', type=cli.positive_int, metavar='N', help='images per GPU at a time (default: 4)')
    group.add_argument('--lrate', type=cli.positive_float, metavar='RATE', help='learning rate of both networks (default: 0.002)')
    group.add_argument('--gamma', type=cli.non_negative_float, metavar='WEIGHT', help="R1 weight (default: the configuration's)")
    group.add_argument('--g-smoothing-kimg', type=cli.non_negative_float, metavar='KIMG',
                       help="half-life of the generator's moving average (default: 10)")
    group.add_argument('--seed', type=cli.seed, default=1000, metavar='N', help='seed of all random numbers (default: 1000)')

    group = parser.add_argument_group('losses and growing')
    group.add_argument('--cond', type=cli.boolean, default=False, metavar='BOOL', help="train with the dataset's labels (default: false)")
    group.add_argument('--g-loss', choices=configs.G_LOSSES, metavar='NAME', help=', '.join(configs.G_LOSSES))
    group.add_argument('--d-loss', choices=configs.D_LOSSES, metavar='NAME', help=', '.join(configs.D_LOSSES))
    group.add_argument('--lod-training-kimg', type=cli.positive_float, metavar='KIMG',
                       help='config-a to -d: kimg at each resolution before it grows (default: 600)')
    group.add_argument('--lod-transition-kimg', type=cli.positive_float, metavar='KIMG', help='... and kimg while it grows (default: 600)')

    group = parser.add_argument_group('size of the networks')
    group.add_argument('--fmap-base', type=cli.positive_int, metavar='N',
                       help='feature maps of a layer = 2 * N / resolution ... (default: 16384, config-e 8192)')
    group.add_argument('--fmap-max', type=cli.positive_int, metavar='N', help='... but at most N (default: 512)')
    group.add_argument('--latent-size', type=cli.positive_int, metavar='N', help='size of Z, W and the mapping layers (default: 512)')
    group.add_argument('--mapping-layers', type=cli.positive_int, metavar='N', help='layers from Z to W (default: 8)')
    group.add_argument('--resample-kernel', type=cli.positive_ints, metavar='LIST',
                       help='filter of all resampling; 1,1 keeps the hard edges of pixel art and other flat drawings (default: 1,3,3,1)')

    group = parser.add_argument_group('reports (1 tick = one line of progress)')
    group.add_argument('--metrics', type=cli.name_list, metavar='LIST',
                       help='metrics at each pickle, comma-separated, or none; see run_metrics.py --help '
                       f'(default: {",".join(_DEFAULT_METRICS)}, if it can be computed)')
    group.add_argument('--tick-kimg', type=cli.positive_float, metavar='KIMG', help='kimg per tick (default: 4 to 28, by resolution)')
    group.add_argument('--image-snapshot-ticks', type=cli.positive_int, default=10, metavar='N', help='ticks per image (default: 10)')
    group.add_argument('--network-snapshot-ticks', type=cli.positive_int, default=10, metavar='N', help='ticks per pickle (default: 10)')
    group.add_argument('--plot', nargs='+', metavar='RUN_DIR',
                       help='train nothing; compare the curves of these runs in training-curves.html in --result-dir')
    group.add_argument('--dry-run', action='store_true', help='check everything, print the configuration, train nothing')
    cli.add_debug_flag(parser)
    return parser


def main(argv):
    started = time.monotonic()
    parser = _parser()
    args = parser.parse_args(argv)
    if args.plot:
        print(f'Written: {report.compare(args.plot, args.result_dir)}')
        return
    if args.dataset is None:
        parser.error('the following arguments are required: --dataset')
    metric_arg_list = [metric_args(name) for name in (_DEFAULT_METRICS if args.metrics is None else args.metrics)]
    run = configs.training_run(
        dataset=args.dataset, data_dir=args.data_dir, result_dir=args.result_dir, config=args.config, num_gpus=args.num_gpus,
        total_kimg=args.total_kimg, max_minutes=args.max_minutes, mirror_augment=args.mirror_augment, metric_arg_list=metric_arg_list,
        gamma=args.gamma, G_loss=args.g_loss, D_loss=args.d_loss, cond=args.cond,
        lod_training_kimg=args.lod_training_kimg, lod_transition_kimg=args.lod_transition_kimg,
        minibatch_size=args.minibatch_size, minibatch_gpu=args.minibatch_gpu, lrate=args.lrate, fmap_base=args.fmap_base,
        fmap_max=args.fmap_max, latent_size=args.latent_size, mapping_layers=args.mapping_layers,
        resample_kernel=args.resample_kernel, tick_kimg=args.tick_kimg,
        image_snapshot_ticks=args.image_snapshot_ticks, network_snapshot_ticks=args.network_snapshot_ticks,
        G_smoothing_kimg=args.g_smoothing_kimg, seed=args.seed, resume_pkl=args.resume_pkl, resume_kimg=args.resume_kimg,
        freeze_d=args.freeze_d, checkpoint_ticks=args.checkpoint_ticks, checkpoint_minutes=args.checkpoint_minutes,
        keep_checkpoints=args.keep_checkpoints, precision=args.precision, impl=args.impl)
    if args.metrics is None:
        run.run_func_kwargs.require_metrics = False
    _check_dataset(args.data_dir, args.dataset)
    settings = checkpoint.settings_of(vars(args), run.run_func_kwargs)
    found = _find_checkpoint(args, run.run_desc, settings)
    note = found.note if found else ''
    if found is None:
        _check_resume_pkl(args)
        if args.resume:
            note = f'--resume=latest: no run {run.run_desc} with a checkpoint in {args.result_dir}, a new one begins.\n'
    cluster = devices.find_cluster()
    if args.dry_run:
        print(json.dumps(run, indent=2))
        print(f'{note}Dry run: nothing was trained.', file=sys.stderr)
        return
    path = found and found.run_dir
    with contextlib.ExitStack() as stack:
        run_dir, on_end = None, None
        if cluster.is_chief:
            folder = stack.enter_context(
                RunDir(args.result_dir, run.run_desc, run.run_func_name, run.run_func_kwargs, run.num_gpus, path))
            run_dir, on_end = folder.path, functools.partial(setattr, folder, 'ending')
            print(note, end='')
        stack.enter_context(devices.membership(cluster))
        import dnnlib.tflib  # noqa: F401  Here, because TensorFlow takes seconds to load, and first, for a quiet start.
        from training import training_loop
        loop_args = dict(run.run_func_kwargs)
        if args.max_minutes is not None:
            loop_args['started'] = started
        source = get_path_or_url(args.resume_pkl or '')
        if is_url(source) and found is None:
            with open_url(source, kind='pickle') as file:
                loop_args['resume_pkl'] = file.name
        try:
            training_loop.training_loop(
                run_dir=run_dir, num_gpus=run.num_gpus, resume=found and found[:2], settings=settings, on_end=on_end, **loop_args)
        except cli.Stopped:
            print(f'To go on: {_resume_command(argv, run_dir)}')
            raise


def _check_dataset(data_dir, dataset):
    folder = os.path.join(data_dir, dataset)
    if not os.path.isdir(folder):
        found = sorted(os.path.basename(os.path.dirname(path)) for path in glob.glob(os.path.join(glob.escape(data_dir), '*', '')))
        remedy = f'In {data_dir} there is {", ".join(found)}.' if found else 'Check --data-dir, or make it with dataset_tool.py.'
        raise cli.UserError(f'--dataset: there is no folder {folder}', remedy)
    if not glob.glob(os.path.join(glob.escape(folder), '*.tfrecords')):
        raise cli.UserError(f'--dataset: expected .tfrecords files in {folder}, found none',
                            f'Make them from a folder of images: python dataset_tool.py create_from_images {folder} IMAGE_DIR')


def _find_checkpoint(args, run_desc, settings):
    """What --resume means, as checkpoint.Found. None = nothing to go on from."""
    found = checkpoint.find(args.resume, args.result_dir, run_desc) if args.resume else None
    if found is None:
        return None
    checkpoint.check_settings(found, settings)
    kimg = found.state['progress']['cur_nimg'] / 1000
    # A run that was killed before it wrote its last files is gone on with, to write them.
    if kimg >= args.total_kimg and (found.run_dir is None or os.path.exists(os.path.join(found.run_dir, '_finished.txt'))):
        raise cli.UserError(f'--total-kimg={args.total_kimg:g} is reached already: {found.path}', 'Raise --total-kimg to train on.')
    return found


def _resume_command(argv, run_dir):
    rest = [arg for i, arg in enumerate(argv) if not arg.startswith('--resume=') and '--resume' not in argv[max(i - 1, 0):i + 1]]
    return shlex.join(['python', 'run_training.py', *rest, f'--resume={run_dir}'])


def _check_resume_pkl(args):
    if args.resume_pkl is None:
        if args.freeze_d:
            raise cli.UserError(f'--freeze-d={args.freeze_d}: there are no trained layers to keep', 'Give a network pickle: --resume-pkl.')
        return
    source = get_path_or_url(args.resume_pkl)
    if not is_url(source) and not os.path.isfile(source):
        raise cli.UserError(f'--resume-pkl: there is no file {source}', 'Give the path of a network-snapshot-*.pkl, a URL, or a name '
                            'such as gdrive:networks/stylegan2-ffhq-config-f.pkl.')
    sizes = [name for name in ('fmap_base', 'fmap_max', 'latent_size', 'mapping_layers', 'resample_kernel')
             if getattr(args, name) is not None]
    if sizes:
        raise cli.UserError(f'--resume-pkl: the networks are those of the pickle, --{sizes[0].replace("_", "-")} cannot change them',
                            f'Leave out {", ".join("--" + name.replace("_", "-") for name in sizes)}.')


if __name__ == '__main__':
    cli.run(main)
