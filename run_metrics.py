"""Command line: measure the quality of a trained network."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dnnlib import cli
from dnnlib.run_dir import RunDir
from metrics.metric_defaults import metric_args, metric_defaults

_EXAMPLES = f'''examples:
  # FID of a network of your own
  python run_metrics.py --network=results/00000-stylegan2-mine-1gpu-config-f/network-final.pkl --dataset=mine

  # Several at once; they share the images where they can
  python run_metrics.py --network=gdrive:networks/stylegan2-ffhq-config-f.pkl --metrics=fid50k,pr50k3,ppl_wend \\
      --dataset=ffhq --mirror-augment=true

  # A quick look at a small dataset, without any download (pip install -e '.[offline-metrics]'); this is not FID
  python run_metrics.py --network=network-final.pkl --metrics=fd_efficientnet1k --dataset=mine

metrics:
  {", ".join(metric_defaults)}
  and these at other numbers of images: fid5k, fid500, is10k, kid5k, pr10k3, fd_efficientnet1k, ppl_wend5k, ls20k
  pr50k3_exact computes distances in float32; pr50k3 in float16, as the original.
'''


def _parser() -> argparse.ArgumentParser:
    parser = cli.ArgumentParser(
        prog='run_metrics.py', description='Measure the quality of a trained StyleGAN2 network.', epilog=_EXAMPLES,
        formatter_class=cli.help_formatter, allow_abbrev=False)
    parser.add_argument('--network', dest='network_pkl', type=cli.path, required=True, metavar='PKL',
                        help='network pickle: a path, a URL, a name such as stylegan:ffhq; or the folder of a '
                             'training run')
    parser.add_argument('--metrics', type=cli.name_list, default='fid50k', metavar='LIST',
                        help='comma-separated, see below (default: %(default)s)')
    parser.add_argument('--dataset', type=cli.path, metavar='NAME',
                        help='dataset that the network was trained with, a folder in --data-dir; '
                        'IS, PPL and linear separability need it only for networks with labels')
    parser.add_argument('--data-dir', type=cli.path, default='datasets', metavar='DIR',
                        help='where the datasets are (default: %(default)s)')
    parser.add_argument('--mirror-augment', type=cli.boolean, default=False, metavar='BOOL',
                        help='flip real images at random, as for a network trained so (default: false)')
    parser.add_argument('--num-gpus', type=cli.positive_int, default=1, metavar='N',
                        help='number of GPUs; it does not change the results (default: 1)')
    parser.add_argument('--seed', type=cli.seed, metavar='N',
                        help='seed of all random numbers (default: a random one, which is printed)')
    parser.add_argument('--result-dir', type=cli.path, default='results', metavar='DIR',
                        help='where each run makes its folder (default: %(default)s)')
    cli.add_impl_flag(parser)
    cli.add_tf32_flag(parser)
    cli.add_debug_flag(parser)
    return parser


def main(argv: Sequence[str]):
    """Run the command line."""
    args = _parser().parse_args(argv)
    if not args.metrics:
        raise cli.UserError('--metrics: expected one metric or more, found none',
                            f'Valid: {", ".join(metric_defaults)}.')
    for name in args.metrics:
        metric_args(name)  # Raises UserError if there is no such metric.
    if args.dataset is None:
        cli.refuse_flags(cli.flags_in(argv) & {'--data-dir', '--mirror-augment'}, 'without --dataset')
    kwargs = dict(network_pkl=args.network_pkl, metrics=args.metrics, dataset=args.dataset, data_dir=args.data_dir,
                  mirror_augment=args.mirror_augment, num_gpus=args.num_gpus, seed=args.seed, impl=args.impl,
                  tf32=args.tf32)
    with (RunDir(args.result_dir, 'run-metrics', 'run_metrics.run', kwargs, args.num_gpus) as run_dir,
          cli.out_of_memory_explained('Compute one metric at a time.' if len(args.metrics) > 1 else '')):
        run(run_dir=run_dir.path, **kwargs)


def run(network_pkl: str, metrics: Sequence[str], dataset: str | None = None, data_dir: str | None = None,
        mirror_augment: bool = False, seed: int | None = None, impl: str | None = None,
        run_dir: str | None = None, num_gpus: int = 1, tf32: bool = False) -> dict[str, float]:
    """Compute metrics of a network, print their results, and append each to metric-NAME.txt.

    Args:
        network_pkl:    Path, URL or 'gdrive:networks/...' of a (G, D, Gs) pickle.
        metrics:        Names, see metrics.metric_defaults.
        dataset:        Name of the dataset of real images, a folder in data_dir. None = there are no real images.
        data_dir:       Folder of the datasets. None = the working folder.
        mirror_augment: Flip real images at random?
        seed:           Seed of all random numbers. None = a random one.
        impl:           Form of the custom ops: 'auto', 'native' or 'ref'. None = leave the current one.
        run_dir:        Folder for metric-NAME.txt. None = print only.
        num_gpus:       Number of GPUs, or on machines without any of TensorFlow's logical CPU devices. It does not
                        change the results.
        tf32:           Allow TF32 on GPUs?

    Returns:
        {'Metrics/<name><suffix>': value}.

    Raises:
        UserError: The network, the dataset or the weights of a feature network are not available or do not fit; or
                   there are fewer devices.
    """
    # Imported late, because TensorFlow takes seconds, and this first, so that its start-up messages are silenced.
    import dnnlib.tflib  # noqa: F401

    # isort: split
    import custom_ops
    import pretrained_networks
    from dnnlib.tflib import hardware, tfutil
    from metrics.metric_base import MetricGroup
    from training.step.devices import Devices
    if impl is not None:
        custom_ops.set_impl(impl)
    tfutil.set_tf32(tf32)
    print(f'Evaluating metrics "{",".join(metrics)}" for "{network_pkl}"...')
    network_pkl = pretrained_networks.get_path_or_url(network_pkl)
    devices = Devices(num_gpus)
    print(hardware.describe(num_gpus))
    with devices.scope():
        _G, _D, Gs = pretrained_networks.load_networks(network_pkl)
    print(custom_ops.impl_report())
    group = MetricGroup([metric_args(name) for name in metrics], seed, devices)
    print(f'Seed: {group.seed}')
    dataset_args = None
    if dataset is not None:
        dataset_args = dict(tfrecord_dir=dataset, max_label_size='full' if Gs.input_shapes[1][1] else 0)
    return group.run(network_pkl, Gs, run_dir=run_dir, data_dir=data_dir, dataset_args=dataset_args,
                     mirror_augment=mirror_augment)


if __name__ == '__main__':
    cli.run(main)
