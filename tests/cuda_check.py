"""Compiles the CUDA kernels for every architecture that nvcc knows: `python -m tests.cuda_check`, or `make cuda-check`."""

import importlib.util
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

SOURCE = pathlib.Path(__file__).parents[1] / 'custom_ops/native/gpu_kernels.cu'


def find_nvcc():
    """Path of nvcc: the one on the PATH, or that of the wheels of the extra cuda-build; None = there is none."""
    found = shutil.which('nvcc')
    if found:
        return found
    spec = importlib.util.find_spec('nvidia')
    folders = spec.submodule_search_locations if spec else []
    return next((str(file) for folder in folders for file in sorted(pathlib.Path(folder).glob('cu*/bin/nvcc'))), None)


def compile_all(nvcc):
    """Compile for the architectures of `nvcc --list-gpu-arch`. Returns them and nvcc's output, which is empty when there was no warning."""
    listed = subprocess.run([nvcc, '--list-gpu-arch'], check=True, capture_output=True, text=True).stdout.split()
    codes = [f'-gencode=arch={arch},code={arch.replace("compute", "sm")}' for arch in listed]
    with tempfile.TemporaryDirectory() as folder:
        # Unoptimised machine code: what does not compile is found as well, in less time.
        command = [nvcc, '-std=c++17', '-Xptxas=-O0', '--threads=0', '-Xcompiler=-Wall', *codes, '-c', str(SOURCE), '-o', f'{folder}/kernels.o']
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f'{" ".join(command)} failed:\n{done.stdout}')
    return listed, done.stdout.strip()


def main():
    nvcc = find_nvcc()
    if nvcc is None:
        sys.exit("Error: no nvcc on the PATH. Install NVIDIA's compiler: pip install '.[cuda-build]'")
    start = time.monotonic()
    listed, output = compile_all(nvcc)
    print(output or 'No warnings.')
    print(f'{nvcc} compiled {SOURCE.name} for {len(listed)} architectures in {time.monotonic() - start:.0f} s: {" ".join(listed)}')


if __name__ == '__main__':
    main()
