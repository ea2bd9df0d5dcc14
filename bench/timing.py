"""Side-by-side timing, tables of results, and one line that describes the machine."""

import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dnnlib import storage

FIGURES = Path(__file__).parent / 'figures'  # Results of earlier runs: PAGE.json, as written by --json.


def wait_for_devices() -> None:
    """Return when all GPUs have done their work. TensorFlow's calls return earlier."""
    if 'tensorflow' not in sys.modules:
        return
    import tensorflow as tf

    from dnnlib.tflib.tfutil import has_gpu
    if has_gpu():
        tf.test.experimental.sync_devices()


def interleaved(functions: Mapping[Any, Callable[[], Any]], rounds: int, seconds: float | None = None,
                ) -> dict[Any, tuple[float, float]]:
    """Call each function once per round, so that other load on the machine affects all of them alike.

    The time of a call includes what it has left to do to the GPUs.

    Args:
        functions: {name: function without arguments}.
        rounds:    Number of timed rounds. One more round comes first and is not timed.
        seconds:   Start no new round after this time, but time at least three rounds. None = no limit.

    Returns:
        {name: (median, best)} in milliseconds.
    """
    for function in functions.values():
        function()
    wait_for_devices()
    times = {name: [] for name in functions}
    begin = time.perf_counter()
    for done in range(rounds):
        if seconds is not None and done >= 3 and time.perf_counter() - begin > seconds:
            break
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            wait_for_devices()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: (statistics.median(values), min(values)) for name, values in times.items()}


def in_own_process(program: str, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Run a Python program in a new process, in the project's folder.

    Args:
        program:   Source text of the program.
        arguments: Its sys.argv[1:].
        env:       Its environment. None = that of this process.

    Returns:
        The last line that it prints.

    Raises:
        subprocess.CalledProcessError: The program failed.
    """
    result = subprocess.run([sys.executable, '-c', program, *arguments], capture_output=True, text=True, check=True,
                            cwd=Path(__file__).parents[1], env=env)
    return result.stdout.splitlines()[-1]


def peak_memory() -> float:
    """Peak memory of this process in MB: on the GPU if there is one, otherwise its resident size (Linux only).

    The resource module would include the parent's peak.
    """
    if 'tensorflow' in sys.modules:
        import tensorflow as tf

        from dnnlib.tflib.tfutil import has_gpu
        if has_gpu():
            return tf.config.experimental.get_memory_info('GPU:0')['peak'] / 2 ** 20
    peak = re.search(r'VmHWM:\s+(\d+) kB', Path('/proc/self/status').read_text())
    assert peak, 'Linux lists VmHWM for every process'
    return int(peak[1]) / 1024


def machine() -> str:
    """Describe the machine in one line: CPU, widest instruction sets, TensorFlow's kernels and threads, and the date.

    Imports TensorFlow.
    """
    import dnnlib.tflib  # noqa: F401  First, for a quiet start.

    # isort: split
    import tensorflow as tf

    from dnnlib import onednn
    model = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.exists():
        models = [line.split(':')[1].strip() for line in cpuinfo.read_text().splitlines()
                  if line.startswith('model name')]
        model = (models or [model])[0]
    sets = [name for name in ('avx2', 'avx512f', 'avx512_vnni', 'avx512_bf16', 'amx_bf16')
            if name in onednn.cpu_features()]
    limit = os.environ.get('ONEDNN_MAX_CPU_ISA')
    intra_op = tf.config.threading.get_intra_op_parallelism_threads() or 'default'
    inter_op = tf.config.threading.get_inter_op_parallelism_threads() or 'default'
    return ', '.join([
        model, f'{len(os.sched_getaffinity(0))} cores', ' '.join(sets) or 'no AVX2',
        *([f'held to {limit}'] if limit else []), f'TensorFlow {tf.__version__}',
        f'oneDNN {"on" if onednn.is_on() else "off"}', f'threads intra-op {intra_op}, inter-op {inter_op}',
        datetime.date.today().isoformat()])


def report(rows: Sequence[dict[str, Any]], columns: Mapping[str, str], json_path: str | Path | None = None,
           before: tuple[str, str] | None = None) -> None:
    """Print the rows of a page as a table, and save them.

    Args:
        rows:      One dict per row.
        columns:   {key of the rows: format, e.g. '.2f'}, in the order of the table.
        json_path: File to save the rows to, as a JSON list. None = do not save them.
        before:    (page, key): add a field 'before' to each row, the value of `key` in the earlier results of that page
                   (bench/figures). None = do not.
    """
    if before is not None:
        page, key = before
        path = FIGURES / f'{page}.json'
        figures = {row['name']: row.get(key) for row in json.loads(path.read_text())} if path.exists() else {}
        rows = [{**row, 'before': figures.get(row['name'])} for row in rows]
    lines = [list(columns)]
    for row in rows:
        lines.append(['' if row.get(key) is None else format(row[key], fmt) for key, fmt in columns.items()])
    widths = [max(map(len, column)) for column in zip(*lines)]
    for first, *others in lines:
        print('  '.join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:]))]))
    keep(rows, json_path)


def keep(rows: Sequence[dict[str, Any]], json_path: str | Path | None) -> None:
    """Write rows to a file as a JSON list.

    Args:
        rows:      One dict per row.
        json_path: The file; its folder is created if it is missing. None = write nothing.
    """
    if json_path is not None:
        Path(json_path).parent.mkdir(parents=True, exist_ok=True)
        with storage.new_file(json_path) as part:
            Path(part).write_text(json.dumps(rows, indent=1) + '\n')
