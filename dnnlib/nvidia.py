"""The NVIDIA GPUs of this machine, as NVIDIA's driver describes them, and settings that depend on them.

TensorFlow reads some settings when it is imported, and it does not say how much memory a GPU has. So the driver is
asked directly, through its C interface (CUDA Driver API). TensorFlow is not imported here.
"""

from __future__ import annotations

import ctypes
import functools
import os
import pathlib
import sys
from typing import Any, NamedTuple

_DRIVER_FILES = pathlib.Path('/proc/driver/nvidia')  # Linux has this folder while the driver is loaded.
_ALLOCATOR = 'TF_GPU_ALLOCATOR'
_POOLS_SINCE = 11030  # Version of the driver, 11.3. 11.2 has memory pools too, but errors with several GPUs.

# CUdevice_attribute of cuda.h
_CAPABILITY_MAJOR, _CAPABILITY_MINOR, _MEMORY_POOLS_SUPPORTED = 75, 76, 115


class Gpu(NamedTuple):
    """What the driver says about a GPU."""
    name: str                     # Such as 'NVIDIA GeForce RTX 3090'.
    memory: int                   # All of its memory, in bytes.
    capability: tuple[int, int]   # Compute capability, such as (8, 6).
    has_memory_pools: bool        # Can it and the driver allocate memory with cudaMallocAsync?


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves to this process, in the order of CUDA. () = none, or no driver."""
    try:
        driver = ctypes.CDLL('nvcuda.dll' if os.name == 'nt' else 'libcuda.so.1')
        return tuple(_ask(driver))
    except (OSError, AttributeError):  # There is no driver, or one without these functions.
        return ()


def is_present() -> bool:
    """Whether this machine has an NVIDIA GPU that CUDA_VISIBLE_DEVICES does not hide, even if CUDA fails to start."""
    if os.environ.get('CUDA_VISIBLE_DEVICES') in ('', '-1'):
        return False
    return bool(gpus()) or _DRIVER_FILES.is_dir()


def choose_allocator() -> None:
    """Have TensorFlow allocate GPU memory with cudaMallocAsync where the driver and all GPUs support that.

    It wastes less memory than TensorFlow's own allocator when the sizes of tensors vary: with growing resolution, and
    when training and metrics take turns. TensorFlow would end the process on a GPU that does not support it. A value of
    TF_GPU_ALLOCATOR that the user has set is kept. Call this before TensorFlow is imported; later it does nothing.
    """
    if _ALLOCATOR in os.environ or 'tensorflow' in sys.modules:
        return
    if gpus() and all(gpu.has_memory_pools for gpu in gpus()):
        os.environ[_ALLOCATOR] = 'cuda_malloc_async'


def _ask(driver: Any) -> list[Gpu]:
    """Ask the driver, a library with the functions of cuda.h. [] if it cannot be started."""
    count, version = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):  # Each returns 0 if it succeeds.
        return []
    driver.cuDriverGetVersion(ctypes.byref(version))
    found = []
    for number in range(count.value):
        device, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
        if driver.cuDeviceGet(ctypes.byref(device), number):
            return []
        driver.cuDeviceGetName(name, len(name), device)
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)

        def attribute(key: int, device: Any = device) -> int:
            value = ctypes.c_int()
            driver.cuDeviceGetAttribute(ctypes.byref(value), key, device)
            return value.value
        has_pools = version.value >= _POOLS_SINCE and bool(attribute(_MEMORY_POOLS_SUPPORTED))
        found.append(Gpu(name.value.decode(errors='replace'), memory.value,
                         (attribute(_CAPABILITY_MAJOR), attribute(_CAPABILITY_MINOR)), has_pools))
    return found
