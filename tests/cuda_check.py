"""Compile everything that has to do with CUDA, without a GPU: `make cuda-check`.

The kernels are compiled for the oldest and the newest generation of GPUs that NVRTC and, where it is installed, nvcc
can compile for; the flag --all adds those between. Then the whole library is built with CUDA kernels for two of these,
which compiles ops.cc against TensorFlow's headers with CUDA enabled and links it, and is loaded. Its launchers must
find all their kernels in the images.
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from custom_ops import nvrtc
from custom_ops.cuda_compilers import find_nvcc, find_nvrtc
from tests import ROOT

SOURCE = ROOT / 'custom_ops/native/gpu_kernels.cu'


def headers() -> str:
    """The flag for CUDA's headers that TensorFlow's wheel contains."""
    import tensorflow as tf
    return f'-I{tf.sysconfig.get_include()}/third_party/gpus/cuda/include'


def architectures(nvcc: str) -> list[str]:
    """The architectures that nvcc can compile for, such as 'compute_90', in the order of its list."""
    return subprocess.run([nvcc, '--list-gpu-arch'], check=True, capture_output=True, text=True).stdout.split()


def generations(archs: Sequence[str]) -> list[str]:
    """The first architecture of each generation, of a list in ascending order."""
    return list({arch[:-1]: arch for arch in reversed(archs)}.values())[::-1]


def compile_kernels(nvcc: str, archs: Sequence[str], image: str | None = None) -> str:
    """Compile the kernels with nvcc for all of `archs`, as build.py does, into the file `image` if it is given.

    Returns:
        What nvcc prints: its warnings, or ''.

    Raises:
        RuntimeError: nvcc fails.
    """
    codes = [f'-gencode=arch={arch},code={arch.replace("compute", "sm")}' for arch in archs]
    with tempfile.TemporaryDirectory() as folder:
        return _run([nvcc, '-fatbin', '-std=c++17', '-O3', '--threads=0', '-Xcompiler=-Wall', *codes, str(SOURCE),
                     '-o', image or f'{folder}/image'])


def compile_with_nvrtc(library: str, archs: Sequence[str], folder: pathlib.Path) -> str:
    """Compile the kernels with NVRTC for all of `archs`, such as '90', into folder/sm_90.

    Returns:
        What NVRTC prints: its warnings, except that it will drop old architectures one day; or ''.

    Raises:
        RuntimeError: NVRTC fails.
    """
    def compile_for(arch):
        printed = _run([sys.executable, '-I', nvrtc.__file__, library, str(SOURCE), f'{folder}/sm_{arch}', f'sm_{arch}',
                        f'-I{SOURCE.parent}', headers()])
        return '\n'.join(line for line in printed.splitlines() if line and 'are deprecated and may be' not in line)
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return '\n'.join(filter(None, pool.map(compile_for, archs)))


def launched_kernels(launchers: pathlib.Path) -> set[str]:
    """Symbols of the kernels in an object file or library that has the launchers: what they ask the driver for."""
    names = re.findall(r'__global__ void __launch_bounds__\(kThreads\)\s+(\w+)\(',
                       ''.join(path.read_text() for path in SOURCE.parent.glob('gpu_*.h')))
    symbols = _run(['nm', '--defined-only', str(launchers)])
    return {symbol for symbol in re.findall(r' W (_ZN9stylegan2\w+)', symbols)
            if any(re.search(rf'\d{name}I', symbol) for name in names)}


def _run(command: list[str]) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f'{" ".join(command)} failed:\n{done.stdout}')
    return done.stdout.strip()


def check_library(archs: str) -> str:
    """Build the whole library with CUDA kernels for `archs`, such as '80,90', and load it.

    Returns:
        The last line of the build.

    Raises:
        RuntimeError: It is not built, or not loaded.
    """
    with tempfile.TemporaryDirectory() as cache:
        code = ('import sys, tensorflow as tf\nfrom custom_ops import build\n'
                'path = build.build(archs=sys.argv[1].split(","))\ntf.load_op_library(path)\nprint(path)')
        command = ['env', f'STYLEGAN2_OPS_CACHE={cache}', f'XDG_CACHE_HOME={cache}/user', sys.executable, '-c', code,
                   archs]
        path = pathlib.Path(_run(command).splitlines()[-1])
        names = launched_kernels(path)
        images = nvrtc.kernel_names(path.read_bytes())
        if not names or names - images:
            raise RuntimeError(f'{path}: {len(names)} kernels are launched; the images lack {sorted(names - images)}')
        return f'The library for {archs} is built and loaded: {len(names)} kernels, {path.stat().st_size / 1e6:.1f} MB'


def main() -> None:
    take_all = '--all' in sys.argv[1:]
    library, nvcc = find_nvrtc(), find_nvcc()
    if library is None:
        sys.exit("Error: NVRTC is not installed: pip install '.[cuda-build]'")
    outputs = []
    with tempfile.TemporaryDirectory() as folder:
        start, archs = time.monotonic(), generations(nvrtc.architectures(library))
        archs = archs if take_all else [archs[0], archs[-1]]
        outputs.append(compile_with_nvrtc(library, archs, pathlib.Path(folder)))
        print(f'NVRTC {nvrtc.version(library)} compiled {SOURCE.name} for {len(archs)} architectures in '
              f'{time.monotonic() - start:.0f} s: {" ".join(archs)}', flush=True)
    if nvcc:
        start, known = time.monotonic(), generations(architectures(nvcc))
        known = known if take_all else [known[0], known[-1]]
        outputs.append(compile_kernels(nvcc, known))
        print(f'{nvcc} compiled it for {len(known)} architectures in {time.monotonic() - start:.0f} s: '
              f'{" ".join(known)}', flush=True)
    print(check_library('80,90'))
    if any(outputs):
        sys.exit('Error: there were warnings:\n' + '\n'.join(outputs))


if __name__ == '__main__':
    main()
