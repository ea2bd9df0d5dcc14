"""How soon the commands respond, in seconds from their start: --help, the first image from a pickle, the first step of
training. And how long it takes to open networks of StyleGAN2-ADA from a pickle of PyTorch and from one of TensorFlow.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from bench import limits, networks, timing

COLUMNS = {'name': 's', 'median_s': '.2f', 'best_s': '.2f', 'before': '.2f', 'cpu_s': '.2f', 'aim_s': '.1f'}
COMMANDS = ('dataset_tool', 'run_training', 'run_generator', 'run_projector', 'run_metrics',
            'run_explorer')
ROOT = Path(__file__).parents[1]


def main(argv: Sequence[str], prog: str) -> None:
    """Run the page."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--rounds', help='how often each command is started', type=int, default=3, metavar='N')
    parser.add_argument('--config', help='configuration whose image is generated', default='config-f', metavar='NAME')
    parser.add_argument('--resolution', help='resolution of the images', type=int, default=256, metavar='N')
    parser.add_argument('--ada-config', help='configuration of StyleGAN2-ADA whose networks are opened',
                        default='stylegan2', metavar='NAME')
    parser.add_argument('--training-config', help='configuration that is trained', default='config-e', metavar='NAME')
    parser.add_argument('--training-resolution', help='resolution of the training', type=int, default=64, metavar='N')
    parser.add_argument('--minibatch', help='images of a minibatch in training, processed at once', type=int, default=4,
                        metavar='N')
    parser.add_argument('--training-flags', help='more flags of run_training.py, separated by spaces', default='',
                        metavar='FLAGS')
    args = parser.parse_args(argv)

    print(timing.machine())
    with tempfile.TemporaryDirectory() as work:
        millions = save_networks(f'{work}/network.pkl', args.config, args.resolution)
        save_dataset(f'{work}/data', args.training_resolution)
        cases = cases_of(args, work)
        found = {name: [] for name, *_ in cases}
        for _ in range(args.rounds):
            for name, command, until, _aim in cases:
                found[name].append(seconds_of(command, until))
        opening = opening_rows(work, args.ada_config, args.resolution, args.rounds)
    rows = []
    for name, _command, _until, aim in cases:
        times, cpu = zip(*found[name])
        rows.append({'name': name, 'median_s': statistics.median(times), 'best_s': min(times), 'cpu_s': min(cpu),
                     'aim_s': aim})
    rows += opening
    timing.report(rows, COLUMNS, args.json, before=('startup', 'best_s'))
    rate = limits.matmul_rate(timing.interleaved(limits.matmuls(['float32']), 5), 'float32')
    print(f'The generator has {millions:.1f} million parameters. Matrix products, float32: {rate:.0f} GFLOP/s. '
          'cpu_s: CPU seconds, user and system, of all cores.')


def cases_of(args: argparse.Namespace, work: str) -> list[tuple[str, list[str], str | None, float]]:
    """The commands to be timed.

    Args:
        args: Flags of the page.
        work: Folder with network.pkl and the dataset `data`.

    Returns:
        [(name of the row, command, beginning of the line to wait for or None = the end, seconds to aim for)].
    """
    images = ['run_generator.py', 'generate-images', f'--network={work}/network.pkl', '--seeds=1',
              f'--result-dir={work}/results']
    training = ['run_training.py', '--dataset=data', f'--data-dir={work}', f'--result-dir={work}/results',
                f'--config={args.training_config}', f'--minibatch-size={args.minibatch}',
                f'--minibatch-gpu={args.minibatch}', '--metrics=none', *args.training_flags.split()]
    first_step = f'startup/first step/{args.training_config}/{args.training_resolution}/mb{args.minibatch}'
    return [*((f'startup/help/{name}', [f'{name}.py', '--help'], None, 0.5) for name in COMMANDS),
            (f'startup/first picture/{args.config}/{args.resolution}', images, None, 8),
            (first_step, training, 'Compiled in', 25)]


def opening_rows(work: str, config: str, resolution: int, rounds: int) -> list[dict[str, Any]]:
    """Time the opening of the same networks from two files, in turn, without the checksum of this project's pickles.

    Each file is opened in a process of its own that has opened small networks before. A process that has opened large
    ones gets memory from itself and not from the system, which makes it up to twice as fast.

    Args:
        work:       Folder for the files.
        config:     Configuration of StyleGAN2-ADA.
        resolution: Of the images.
        rounds:     How often each file is opened.

    Returns:
        Rows of the table. The aim for the pickle of PyTorch, whose weights have to be transposed, is 1.2 of the other.
    """
    from tests.torch_snapshots import snapshot_of
    from training import misc
    files = {name: Path(work, f'{name}.pkl') for name in ('tensorflow', 'pytorch', 'small')}
    with _without_checksum():
        misc.save_pkl(_networks(config, 8, fmap_max=16), files['small'])
        nets = _networks(config, resolution)
        misc.save_pkl(nets, files['tensorflow'])
        files['pytorch'].write_bytes(snapshot_of(*nets))
    times: dict[str, list[tuple[float, float]]] = {'tensorflow': [], 'pytorch': []}
    with multiprocessing.get_context('spawn').Pool(1, maxtasksperchild=1) as pool:
        for _ in range(rounds):
            for name, measured in times.items():
                measured.append(pool.apply(_seconds_to_open, (str(files[name]), str(files['small']))))
    rows = []
    for name, measured in times.items():
        seconds, cpu = zip(*measured)
        rows.append({'name': f'startup/opening/{config}/{resolution}/{name}', 'median_s': statistics.median(seconds),
                     'best_s': min(seconds), 'cpu_s': min(cpu)})
    rows[1]['aim_s'] = 1.2 * rows[0]['median_s']
    return rows


def _networks(config, resolution, **options):
    G, D = (networks.make_network(key, config, resolution, **options) for key in 'GD')
    return G, D, G.clone('Gs')


def _seconds_to_open(path, before):
    """(elapsed seconds, CPU seconds) of opening the networks of a file, after those of the other file."""
    from training import misc
    with _without_checksum():
        misc.load_networks(before)
        start, start_cpu = time.perf_counter(), time.process_time()
        misc.load_networks(path)
        return time.perf_counter() - start, time.process_time() - start_cpu


def _without_checksum():
    from dnnlib.pickles.network_state import NetworkState
    return mock.patch.object(NetworkState, 'digest', lambda self, max_bytes=0: '')


def seconds_of(command: Sequence[str], until: str | None = None) -> tuple[float, float]:
    """Time a command of the project.

    Args:
        command: Script and its arguments.
        until:   Stop it when it prints a line that begins with this. None = wait for its end.

    Returns:
        (seconds, CPU seconds of all cores).

    Raises:
        RuntimeError: The command failed, or ended without such a line.
    """
    start, start_cpu = time.perf_counter(), os.times()
    with subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, env={**os.environ, 'PYTHONUNBUFFERED': '1'}) as process:
        assert process.stdout is not None  # It is a pipe.
        lines = []
        for line in process.stdout:
            lines.append(line)
            if until is not None and line.startswith(until):
                break
        else:
            if process.wait() or until is not None:
                raise RuntimeError(f'{" ".join(command)}: {"".join(lines[-5:])}')
        seconds = time.perf_counter() - start
        process.kill()
    end_cpu = os.times()
    user, system = (getattr(end_cpu, key) - getattr(start_cpu, key) for key in ('children_user', 'children_system'))
    return seconds, user + system


def save_networks(path: str, config: str, resolution: int) -> float:
    """Write a pickle of networks with random weights.

    Args:
        path:       File to write.
        config:     Configuration of the networks.
        resolution: Of their images.

    Returns:
        Number of the generator's parameters, in millions.
    """
    from training import misc
    nets = _networks(config, resolution)
    misc.save_pkl(nets, path)
    return sum(var.shape.num_elements() for var in nets[0].trainables.values()) / 1e6


def save_dataset(folder: str, resolution: int) -> None:
    """Write a dataset of 1000 images of noise.

    Args:
        folder:     Folder to write.
        resolution: Of the images.
    """
    import numpy as np

    from training.data import dataset_writer
    pictures = np.random.RandomState(0).randint(0, 256, [4, 3, resolution, resolution]).astype(np.uint8)
    for _ in dataset_writer.write_source(folder, dataset_writer.Source(
            (3, resolution, resolution), range(1000), lambda number: pictures[number % 4], 1000)):
        pass
