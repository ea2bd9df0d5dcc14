"""NVRTC, NVIDIA's compiler of CUDA kernels as a library: where it is, and how a kernel is compiled with it.

TensorFlow's CUDA wheels install it (`pip install '.[gpu]'`), but not nvcc. It needs no GPU. build.py runs this file as
a program, so that several architectures are compiled in parallel and a crash of the compiler stays there:

    python -I nvrtc.py LIBRARY SOURCE OUTPUT sm_90|compute_90 -IFOLDER ...

This module imports nothing but the standard library, so that the program starts at once.
"""

import ctypes
import importlib.util
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any


def find(cuda_version: str) -> str | None:
    """Find NVRTC: that of CUDA_HOME or CUDA_PATH if set, that of NVIDIA's Python packages, or that of the system.

    Args:
        cuda_version: Version of CUDA that TensorFlow is built for, such as '12.5.1'. Only NVRTC of the same major
                      version is used: the drivers that run TensorFlow load what it makes.

    Returns:
        What to pass to the other functions: a path, or the library's name if the dynamic linker finds it; or None.
    """
    name = f'libnvrtc.so.{cuda_version.split(".")[0]}'
    spec = importlib.util.find_spec('nvidia')
    packages = (spec.submodule_search_locations or []) if spec else []
    homes = [os.environ[variable] for variable in ('CUDA_HOME', 'CUDA_PATH') if os.environ.get(variable)]
    folders = [*(pathlib.Path(home) / part for home in homes for part in ('lib64', 'lib')),
               *(folder for package in packages for folder in sorted(pathlib.Path(package).glob('*/lib'))),
               pathlib.Path('/usr/local/cuda/lib64')]
    for path in [*(str(folder / name) for folder in folders if (folder / name).is_file()), name]:
        try:
            ctypes.CDLL(path)
        except OSError:
            continue
        return path
    return None


def version(library: str) -> str:
    """Version of NVRTC, such as '12.9'."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(ctypes.CDLL(library), 'nvrtcVersion', ctypes.byref(major), ctypes.byref(minor))
    return f'{major.value}.{minor.value}'


def architectures(library: str) -> list[str]:
    """Compute capabilities that NVRTC compiles for, such as ['80', '90']."""
    nvrtc, count = ctypes.CDLL(library), ctypes.c_int()
    _check(nvrtc, 'nvrtcGetNumSupportedArchs', ctypes.byref(count))
    archs = (ctypes.c_int * count.value)()
    _check(nvrtc, 'nvrtcGetSupportedArchs', archs)
    return [str(arch) for arch in archs]


def include_folders(library: str) -> list[pathlib.Path]:
    """Folders with CUDA's headers beside NVRTC, in a toolkit or among NVIDIA's Python packages."""
    beside = pathlib.Path(library).resolve().parents[1]
    return [folder for folder in (beside / 'include', beside.parent / 'cuda_runtime/include')
            if (folder / 'cuda_fp16.h').is_file()]


def compile_kernels(library: str, source: str, output: str, target: str, flags: Sequence[str]) -> str:
    """Compile a .cu file.

    Args:
        library: What `find` returned.
        source:  Path of the file.
        output:  Path to write to.
        target:  'sm_90' = code for this compute capability; 'compute_90' = PTX for it and all later ones.
        flags:   Further flags, such as '-I/usr/include'.

    Returns:
        The compiler's warnings, or ''.

    Raises:
        RuntimeError: It does not compile. The text is what the compiler says.
    """
    nvrtc, program = ctypes.CDLL(library), ctypes.c_void_p()
    text, name = pathlib.Path(source).read_bytes(), pathlib.Path(source).name.encode()
    _check(nvrtc, 'nvrtcCreateProgram', ctypes.byref(program), text, name, 0, None, None)
    options = [option.encode() for option in (f'--gpu-architecture={target}', '-std=c++17',
                                                '--device-as-default-execution-space', *flags)]
    error = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    log = _get(nvrtc, program, 'ProgramLog').decode(errors='replace').rstrip('\0').strip()
    if error:
        raise RuntimeError(log or _message(nvrtc, error))
    pathlib.Path(output).write_bytes(_get(nvrtc, program, 'CUBIN' if target.startswith('sm_') else 'PTX'))
    return log


def _get(nvrtc: Any, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(nvrtc, f'nvrtcGet{what}Size', program, ctypes.byref(size))
    data = ctypes.create_string_buffer(size.value)
    _check(nvrtc, f'nvrtcGet{what}', program, data)
    return data.raw


def _check(nvrtc: Any, function: str, *args: Any) -> None:
    error = getattr(nvrtc, function)(*args)
    if error:
        raise RuntimeError(f'{function}: {_message(nvrtc, error)}')


def _message(nvrtc: Any, error: int) -> str:
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
    return nvrtc.nvrtcGetErrorString(error).decode()


def kernel_names(image: bytes) -> set[str]:
    """The symbols of the kernels in a cubin, or in PTX, as the driver looks them up."""
    found = re.findall(rb'\.text\.(_Z\w+)\0', image) or re.findall(rb'\.entry (_Z\w+)\(', image)
    return {name.decode() for name in found}


if __name__ == '__main__':
    _program, library, source, output, target, *flags = sys.argv
    try:
        print(compile_kernels(library, source, output, target, flags), end='')
    except (OSError, RuntimeError) as err:
        sys.exit(str(err))
