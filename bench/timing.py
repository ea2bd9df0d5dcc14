"""Timing side by side, tables, and the line that says where and when."""

import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from dnnlib import storage

FIGURES = Path(__file__).parent / 'figures'  # Those of earlier runs: PAGE.json, what --json wrote.


def interleaved(functions, rounds, seconds=None):
    """Call each function once per round, in turn, so that whatever else the machine does meets all of them alike.

    Args:
        functions: {name: function without arguments}; each returns when its work is done.
        rounds:    Rounds to time, after one that is not.
        seconds:   Start no new round after so many; at least three are timed. None = no limit.

    Returns:
        {name: (median, best)} in milliseconds.
    """
    for function in functions.values():
        function()
    times = {name: [] for name in functions}
    begin = time.perf_counter()
    for done in range(rounds):
        if seconds is not None and done >= 3 and time.perf_counter() - begin > seconds:
            break
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: (statistics.median(values), min(values)) for name, values in times.items()}


def in_own_process(program, *arguments, env=None):
    """Last line that a Python program prints, run in the folder of the project. env: its environment; None = this one."""
    result = subprocess.run([sys.executable, '-c', program, *arguments], capture_output=True, text=True, check=True,
                            cwd=Path(__file__).parents[1], env=env)
    return result.stdout.splitlines()[-1]


def peak_memory():
    """Peak resident size of this process in MB, on Linux. (The resource module would count the parent's as well.)"""
    return int(re.search(r'VmHWM:\s+(\d+) kB', Path('/proc/self/status').read_text())[1]) / 1024


def machine():
    """Machine, its widest instruction sets, TensorFlow's kernels and threads, and date, in one line. Imports TensorFlow."""
    import dnnlib.tflib  # noqa: F401  First, for a quiet start.

    # isort: split
    import tensorflow as tf

    from dnnlib import onednn
    model = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.exists():
        model = next((line.split(':')[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith('model name')), model)
    sets = [name for name in ('avx2', 'avx512f', 'avx512_vnni', 'avx512_bf16', 'amx_bf16') if name in onednn.cpu_features()]
    limit = os.environ.get('ONEDNN_MAX_CPU_ISA')
    threads = [get() or 'default' for get in (tf.config.threading.get_intra_op_parallelism_threads,
                                              tf.config.threading.get_inter_op_parallelism_threads)]
    return ', '.join([model, f'{len(os.sched_getaffinity(0))} cores', ' '.join(sets) or 'no AVX2', *([f'held to {limit}'] if limit else []),
                      f'TensorFlow {tf.__version__}', f'oneDNN {"on" if onednn.is_on() else "off"}',
                      'threads intra-op {}, inter-op {}'.format(*threads), datetime.date.today().isoformat()])


def report(rows, columns, json_path=None, before=None):
    """Print rows of a page as a table, and keep them.

    Args:
        rows:      Dicts, one per row.
        columns:   {key of the rows: format, e.g. '.2f'}, in the order of the table.
        json_path: File for the rows as a JSON list. None = not kept.
        before:    (name of the page, key): put that value of the figures kept in bench/figures into the rows, as 'before'. None = do not.
    """
    if before is not None:
        kept = FIGURES / f'{before[0]}.json'
        figures = {row['name']: row.get(before[1]) for row in json.loads(kept.read_text())} if kept.exists() else {}
        rows = [{**row, 'before': figures.get(row['name'])} for row in rows]
    cells = [list(columns)] + [['' if row.get(key) is None else format(row[key], fmt) for key, fmt in columns.items()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for line in cells:
        print('  '.join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))))
    keep(rows, json_path)


def keep(rows, json_path):
    """Write rows as a JSON list to a file; None = do not."""
    if json_path is not None:
        Path(json_path).parent.mkdir(parents=True, exist_ok=True)
        with storage.new_file(json_path) as part:
            Path(part).write_text(json.dumps(rows, indent=1) + '\n')
