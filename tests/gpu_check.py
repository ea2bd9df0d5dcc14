"""Check and measure everything on a GPU, and write a page to paste into an issue: `make gpu-check`.

GPU_CHECK=quick takes three minutes instead of ten. GPU_CHECK=rehearsal needs no GPU: it runs the same steps on the CPU
with tiny networks, and the CUDA kernels in their emulation, so that the check is known to work.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from dnnlib import cli, storage
from tests import ROOT
from tests.golden import GOLDEN

OUT = ROOT / '.gpu-check'
MINUTES = {'full': 10.0, 'quick': 3.0, 'rehearsal': 10.0}
NAME = 'tests.gpu_check'


class Step(NamedTuple):
    """One row of the page: a command in a process of its own.

    Attributes:
        name:    What it checks or measures.
        command: Arguments of Python. `{out}` stands for the step's own folder.
        modes:   In which modes it runs.
        needs:   What must be there: '' = nothing, 'golden' = the golden numbers, '2 GPUs'.
    """
    name: str
    command: tuple[str, ...]
    modes: tuple[str, ...] = ('full', 'quick')
    needs: str = ''


def _tests(*arguments: str) -> tuple[str, ...]:
    return ('-m', 'pytest', '-q', '-x', '-rs', '-p', 'no:cacheprovider', *arguments)


def _bench(page: str, *arguments: str) -> tuple[str, ...]:
    return ('-m', 'bench', page, '--json={out}/rows.json', *arguments)


_ANY = ('full', 'quick', 'rehearsal')
_ON_GPU = ('full', 'quick')
_HALVES = 'float32,bfloat16,mixed_float16'

# In the order in which they run: what shows an error first, then what people ask for most.
STEPS = (
    Step('GPU, driver and TensorFlow', ('-m', NAME, '--part=machine', '--json={out}/rows.json'), _ANY),
    Step('build of the custom ops', ('-m', 'custom_ops.build'), _ANY),
    Step('ops against their definition, all types and layouts',
         _tests('tests/custom_ops/test_ops.py', 'tests/custom_ops/test_native.py'), ('full',)),
    Step('ops against their definition (part of the tests)', _tests('tests/custom_ops/test_ops.py'), ('quick',)),
    Step('CUDA kernels in their emulation on the CPU (part of the tests)',
         _tests('tests/custom_ops/test_cuda_kernels.py', '-k', 'bias_act and float32'), ('rehearsal',)),
    Step('networks against the original', _tests('tests/training/test_networks.py', '-k', 'outputs and native'),
         ('full',), 'golden'),
    Step('networks against the original (config-a and config-f)',
         _tests('tests/training/test_networks.py', '-k', 'outputs and native and (config-a or config-f)'),
         ('quick', 'rehearsal'), 'golden'),
    Step('training against the original', _tests('tests/training/step/test_train_step.py', '-k', 'native-fast'),
         _ANY, 'golden'),
    Step('equal bits from equal seeds', ('-m', NAME, '--part=determinism', '--json={out}/rows.json'), _ANY),
    Step('training on 2 GPUs', ('-m', NAME, '--part=two-gpus', '--json={out}/rows.json'), _ON_GPU, '2 GPUs'),
    Step('demo: training and pictures', ('-m', NAME, '--part=demo', '--minutes=2', '--json={out}/rows.json'),
         ('full',)),
    Step('demo: training and pictures', ('-m', NAME, '--part=demo', '--minutes=0.5', '--json={out}/rows.json'),
         ('quick', 'rehearsal')),
    Step('ops against a copy of the same bytes', _bench('ops', '--rounds=5'), ('full',)),
    Step('generator, config-f', _bench('generator', '--cases=config-f/256/b4,config-f/1024/b4',
                                       '--dtypes=float32,bfloat16,float16', '--rounds=5'), ('full',)),
    Step('training, config-f, 256x256', _bench('training', '--cases=config-f/256/mb8', f'--precisions={_HALVES}'),
         ('full',)),
    Step('training, config-f, 256x256, TF32', _bench('training', '--cases=config-f/256/mb8', '--precisions=float32',
                                                     '--tf32'), ('full',)),
    Step('training, config-f, 1024x1024', _bench('training', '--cases=config-f/1024/mb4',
                                                 '--precisions=mixed_float16'), ('full',)),
    Step('training, config-f, 64x64', _bench('training', '--cases=config-f/64/mb8', f'--precisions={_HALVES}'),
         ('full', 'quick')),
    Step('training, config-f, 64x64, TF32', _bench('training', '--cases=config-f/64/mb8', '--precisions=float32',
                                                   '--tf32'), ('full',)),
    Step('generator, config-f, TF32', _bench('generator', '--cases=config-f/256/b4,config-f/1024/b4',
                                             '--dtypes=float32', '--rounds=5', '--tf32'), ('full',)),
    Step('training, config-f, 1024x1024, float32', _bench('training', '--cases=config-f/1024/mb4',
                                                          '--precisions=float32'), ('full',)),
    Step('generator, 64x64', _bench('generator', '--cases=config-f/64/b4', '--dtypes=float32,float16', '--rounds=3'),
         ('full', 'quick')),
    Step('generator, tiny', _bench('generator', '--cases=config-f/8/b1', '--dtypes=float32', '--rounds=1'),
         ('rehearsal',)),
)


class Result(NamedTuple):
    """What became of a step."""
    name: str
    status: str                 # 'passed', 'failed' or 'not run'.
    seconds: float
    detail: str                 # The last line that it printed, or why it did not run.
    rows: list[dict[str, Any]]  # Its measurements.


# ---- The check ----

def run_steps(steps: Sequence[Step], mode: str, out: pathlib.Path, golden: bool, num_gpus: int) -> Iterator[Result]:
    """Run the steps of a mode, each in its own process, until the time of the mode is over.

    Args:
        steps:    The steps.
        mode:     Key of MINUTES.
        out:      Folder for what the steps print and write.
        golden:   Are the golden numbers there?
        num_gpus: Number of GPUs.

    Yields:
        The result of each step.
    """
    end = time.monotonic() + 60 * MINUTES[mode]
    chosen = [step for step in steps if mode in step.modes]
    for number, step in enumerate(chosen, 1):
        missing = {'golden': not golden and 'the golden numbers are not here (STYLEGAN2_GOLDEN)',
                   '2 GPUs': num_gpus < 2 and f'needs 2 GPUs, {num_gpus} found'}.get(step.needs)
        left = end - time.monotonic()
        if missing or left < 5:
            yield Result(step.name, 'not run', 0, missing or f'the {MINUTES[mode]:g} minutes were over', [])
            continue
        print(f'{number} of {len(chosen)}: {step.name} ...', flush=True)
        folder = out / f'{number:02d}'
        folder.mkdir()
        yield run_step(step, folder, left)


def run_step(step: Step, folder: pathlib.Path, seconds: float) -> Result:
    """Run one step. Its output goes to folder/log.txt. After `seconds` it is ended, which counts as not run."""
    command = [sys.executable, *(argument.replace('{out}', str(folder)) for argument in step.command)]
    start = time.monotonic()
    with open(folder / 'log.txt', 'w', encoding='utf-8') as log:
        log.write(f'$ {" ".join(command)}\n')
        log.flush()
        # In a group of its own, so that its children end with it.
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(seconds)
        except BaseException as err:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(err, subprocess.TimeoutExpired):
                raise
            return Result(step.name, 'not run', time.monotonic() - start, 'the time was over before it had ended', [])
    rows_file = folder / 'rows.json'
    rows = json.loads(rows_file.read_text(encoding='utf-8')) if rows_file.exists() else []
    lines = (folder / 'log.txt').read_text(encoding='utf-8', errors='replace').split('\n', 1)[1].strip().splitlines()
    return Result(step.name, 'failed' if code else 'passed', time.monotonic() - start, (lines or [''])[-1], rows)


def page(mode: str, results: Sequence[Result]) -> str:
    """The page in Markdown: verdict, steps, and one table for the measurements of each step."""
    failed = [result.name for result in results if result.status == 'failed']
    verdict = f'**Failed: {", ".join(failed)}.**' if failed else 'Everything that was run passed.'
    lines = [f'# gpu-check, {mode}, {datetime.date.today().isoformat()}', '', verdict, '',
             '| Step | Result | Seconds | |', '| --- | --- | ---: | --- |']
    for result in results:
        lines.append(f'| {result.name} | {result.status} | {result.seconds:.0f} | {_cell(result.detail)} |')
    for result in results:
        if result.rows:
            lines += ['', f'## {result.name}', '', *_table(result.rows)]
    return '\n'.join(lines) + '\n'


def _table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    yield f'| {" | ".join(keys)} |'
    yield f'| {" | ".join("---" for _ in keys)} |'
    for row in rows:
        yield f'| {" | ".join(_cell(row.get(key)) for key in keys)} |'


def _cell(value: Any) -> str:
    if value is None:
        return ''
    text = f'{value:.4g}' if isinstance(value, float) else str(value)
    return re.sub(r'\s+', ' ', text).replace('|', '\\|')[:200]


def main(argv: Sequence[str]) -> int:
    """Run the command line. Returns the exit code: 1 if a step failed."""
    parser = cli.ArgumentParser(prog=f'python -m {NAME}', description=__doc__, formatter_class=cli.help_formatter)
    parser.add_argument('--mode', choices=MINUTES, default='full', help='what to run (default: full)')
    parser.add_argument('--part', choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument('--json', help=argparse.SUPPRESS)
    parser.add_argument('--minutes', type=float, default=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.part:
        rows = PARTS[args.part](args)
        with storage.new_file(args.json) as part:
            pathlib.Path(part).write_text(json.dumps(rows, indent=1) + '\n', encoding='utf-8')
        return 0

    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    num_gpus = _number_of_gpus()
    if num_gpus == 0 and args.mode != 'rehearsal':
        raise cli.UserError('TensorFlow sees no GPU here',
                            "Install CUDA's libraries with pip install -e '.[gpu]', see docs/install.md. What needs no "
                            'GPU is checked by make gpu-check GPU_CHECK=rehearsal.')
    results = []
    for result in run_steps(STEPS, args.mode, OUT, GOLDEN.is_dir(), num_gpus):
        results.append(result)
        print(f'  {result.status}, {result.seconds:.0f} s: {result.detail}', flush=True)
        # Written after each step, so that an interrupted check has a page too.
        report = {'mode': args.mode, 'steps': [result._asdict() for result in results]}
        for name, text in (('gpu-check.json', json.dumps(report, indent=1) + '\n'),
                           ('gpu-check.md', page(args.mode, results))):
            with storage.new_file(str(OUT / name)) as part:
                pathlib.Path(part).write_text(text, encoding='utf-8')
    print(f'Written: {OUT / "gpu-check.md"} and gpu-check.json. Please paste the page into an issue.')
    return int(any(result.status == 'failed' for result in results))


def _number_of_gpus() -> int:
    program = 'from dnnlib.tflib.tfutil import visible_gpus; print(len(visible_gpus()))'
    done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


# ---- Parts that are no test and no page of bench. Each runs in its own process ----

def machine(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Facts about the GPUs, the driver and TensorFlow."""
    from bench import timing
    from dnnlib.tflib import hardware

    # isort: split
    import tensorflow as tf
    print(timing.machine())
    print(hardware.describe(used=len(hardware.gpus())))
    build = tf.sysconfig.get_build_info()
    facts: dict[str, Any] = {'machine': timing.machine(), 'GPUs': str([gpu._asdict() for gpu in hardware.gpus()]),
                             'Python': sys.version.split()[0], 'NVIDIA driver': _driver()}
    facts.update({f'TensorFlow: {key}': str(value) for key, value in sorted(build.items())})
    return [{'fact': key, 'value': value} for key, value in facts.items()]


def _driver() -> str:
    try:
        command = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split('\n')[0]
    except (OSError, subprocess.CalledProcessError):
        return 'nvidia-smi does not run'


def determinism(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Train small networks twice with the same seed. With TensorFlow's deterministic operations, the bits are equal."""
    import dnnlib.tflib  # noqa: F401  First, for a quiet start.

    # isort: split
    import numpy as np
    import tensorflow as tf
    rows = []
    for deterministic in (False, True):
        if deterministic:
            tf.config.experimental.enable_op_determinism()
        first, second = _weights_after_training(), _weights_after_training()
        difference = max(float(np.abs(first[key] - second[key]).max()) for key in first)
        rows.append({'deterministic operations': 'on' if deterministic else 'off', 'largest difference': difference})
    print(rows)
    if rows[-1]['largest difference']:
        raise cli.UserError('with deterministic operations, two runs with the same seed differ',
                            'Resumed runs then differ from uninterrupted ones in the last bits.')
    return rows


def _weights_after_training() -> dict[str, Any]:
    from bench import networks
    from dnnlib.tflib.tfutil import seed_everything
    seed_everything(1)
    trainer, lrate = networks.make_trainer('config-f', 16, 4, fmap_base=256)
    for function in networks.phase_functions(trainer, lrate, 16, 4).values():
        function()
    return {f'{net.name}/{key}': var.numpy() for net in (trainer.G, trainer.D) for key, var in net.vars.items()}


def two_gpus(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A few iterations on two GPUs, by the command."""
    folder = pathlib.Path(args.json).parent
    _run('run_training.py', *_demo_dataset(folder), '--num-gpus=2', '--fmap-base=512', '--minibatch-size=16',
         '--minibatch-gpu=4', '--total-kimg=0.5', '--metrics=none', f'--result-dir={folder}')
    return []


def demo(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Train on the demo's faces for some minutes, and draw pictures, in OUT/demo."""
    folder = OUT / 'demo'
    start = time.monotonic()
    _run('run_training.py', *_demo_dataset(folder), '--total-kimg=10000', f'--max-minutes={args.minutes:g}',
         '--fmap-base=512', '--minibatch-size=8', '--minibatch-gpu=8', '--metrics=none', '--image-snapshot-ticks=5',
         '--tick-kimg=1', '--lrate=0.004', '--gamma=0.5', '--resample-kernel=1,1', '--latent-size=64',
         '--mapping-layers=2', '--g-smoothing-kimg=1', '--fmap-max=64', '--g-loss=G_logistic_ns',
         f'--result-dir={folder}')
    run_dir = next(folder.glob('00000-*'))
    _run('run_generator.py', 'generate-images', f'--network={run_dir}/network-final.pkl', '--seeds=0-31',
         '--truncation-psi=0.7', f'--result-dir={folder}')
    last = json.loads((run_dir / 'stats.jsonl').read_text(encoding='utf-8').splitlines()[-1])
    return [{'kimg': last.get('Progress/kimg'), 'seconds per kimg': last.get('Timing/sec_per_kimg'),
             'seconds in all': time.monotonic() - start, 'pictures': str(folder)}]


def _demo_dataset(folder: pathlib.Path) -> list[str]:
    """Make the demo's dataset. Returns the flags that name it."""
    _run('dataset_tool.py', 'create_from_images', str(folder / 'datasets/faces32'), 'demo/faces32.zip')
    return [f'--data-dir={folder / "datasets"}', '--dataset=faces32']


def _run(*arguments: str) -> None:
    if subprocess.run([sys.executable, *arguments], cwd=ROOT).returncode:
        raise cli.UserError(f'{" ".join(arguments)} failed', 'Its output is above.')


PARTS = {'machine': machine, 'determinism': determinism, 'two-gpus': two_gpus, 'demo': demo}


if __name__ == '__main__':
    cli.run(main)
