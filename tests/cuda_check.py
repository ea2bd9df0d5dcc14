"""Compile the CUDA kernels for all architectures that nvcc knows: `make cuda-check`."""

from __future__ import annotations

import importlib.util
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from tests import ROOT

SOURCE = ROOT / 'custom_ops/native/gpu_kernels.cu'


def find_nvcc() -> str | None:
    """Path of nvcc: that on the PATH, or that of the wheels of the extra cuda-build. None = there is none."""
    found = shutil.which('nvcc')
    if found:
        return found
    spec = importlib.util.find_spec('nvidia')
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((str(file) for folder in folders for file in sorted(pathlib.Path(folder).glob('cu*/bin/nvcc'))), None)


def architectures(nvcc: str) -> list[str]:
    """The architectures that nvcc can compile for, such as 'compute_90', in the order of its list."""
    return subprocess.run([nvcc, '--list-gpu-arch'], check=True, capture_output=True, text=True).stdout.split()


def compile_kernels(nvcc: str, archs: list[str]) -> str:
    """Compile the kernels for all of `archs`.

    Returns:
        What nvcc prints: its warnings, or ''.

    Raises:
        RuntimeError: nvcc fails.
    """
    codes = [f'-gencode=arch={arch},code={arch.replace("compute", "sm")}' for arch in archs]
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, '-std=c++17', '-O3', '--threads=0', '-Xcompiler=-Wall', *codes,
                   '-c', str(SOURCE), '-o', f'{folder}/kernels.o']
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f'{" ".join(command)} failed:\n{done.stdout}')
    return done.stdout.strip()


def main() -> None:
    nvcc = find_nvcc()
    if nvcc is None:
        sys.exit("Error: no nvcc on the PATH. Install NVIDIA's compiler: pip install '.[cuda-build]'")
    start = time.monotonic()
    archs = architectures(nvcc)
    output = compile_kernels(nvcc, archs)
    print(f'{nvcc} compiled {SOURCE.name} for {len(archs)} architectures in {time.monotonic() - start:.0f} s: '
          f'{" ".join(archs)}')
    if output:
        sys.exit(f'Error: nvcc warned:\n{output}')


if __name__ == '__main__':
    main()
