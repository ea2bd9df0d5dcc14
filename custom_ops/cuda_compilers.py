"""The compilers of CUDA kernels, NVRTC (nvrtc.py) and nvcc, and the GPU architectures to compile for.

Either compiler makes images of the kernels in gpu_kernels.cu for the GPU: NVRTC one per architecture, nvcc one of all.
The library of the ops contains them, and gpu_driver.cc hands them to the driver.
"""

import os
import pathlib
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from typing import NamedTuple

from custom_ops import build_cache, compilers, nvrtc
from custom_ops.build_cache import BuildError

SOURCE = 'gpu_kernels.cu'


class Cuda(NamedTuple):
    """A compiler of CUDA kernels, and what to compile for."""
    command: list[str]       # nvcc, and -ccbin if CXX names the host compiler; or Python, nvrtc.py and NVRTC.
    is_nvrtc: bool
    version: str
    archs: list[str]         # Compute capabilities to compile for: '75', '90', ...
    include_dirs: list[str]  # -I flags for the CUDA headers that Eigen and NVRTC include.


def find(tf_include: pathlib.Path, archs: Sequence[str] | None, cuda: bool) -> tuple[Cuda | None, BuildError | None]:
    """Find the compiler of CUDA kernels, if there are GPUs, or if they are asked for.

    Args:
        tf_include: Folder of TensorFlow's headers.
        archs:      Compute capabilities to compile for; None = those of the GPUs here.
        cuda:       Compile for the GPUs here even if TensorFlow sees none?

    Returns:
        (compiler, None), (None, why there is none although there should be), or (None, None) if none is wanted, or if
        none is installed.

    Raises:
        BuildError: CUDA kernels were requested with --arch or --cuda, and cannot be built.
    """
    import tensorflow as tf
    requested = '--arch' if archs else '--cuda' if cuda else None
    compiler, error = None, None
    try:
        gpus = [] if archs or not tf.test.is_built_with_cuda() else gpus_here(requested)
        if (requested or gpus) and tf.test.is_built_with_cuda() and (build_cache.SOURCES / SOURCE).is_file():
            compiler = _find_compiler(tf_include, archs, gpus)
    except BuildError as err:
        error = err
    if requested and compiler is None:
        raise error or BuildError(
            f'{requested}: CUDA kernels need NVRTC or nvcc, and a TensorFlow that is built for CUDA',
            f"Install TensorFlow's CUDA wheels (pip install 'tensorflow[and-cuda]'), or leave {requested} out.")
    return compiler, error


def _find_compiler(tf_include: pathlib.Path, archs: Sequence[str] | None, gpus: list[int]) -> Cuda | None:
    """The compiler of CUDA kernels: nvcc of CUDA_HOME, or NVRTC, or nvcc elsewhere; None if there is neither.

    NVRTC of TensorFlow's version of CUDA comes before a system's nvcc: every driver that runs TensorFlow loads what it
    makes, whereas a newer nvcc needs a newer driver.
    """
    tf_cuda = tf_include / 'third_party/gpus/cuda/include'
    headers = [f'-I{tf_cuda}'] if (tf_cuda / 'cuda.h').is_file() else []
    homes = [f'{os.environ[name]}/bin' for name in ('CUDA_HOME', 'CUDA_PATH') if os.environ.get(name)]
    nvcc = find_nvcc(homes)
    library = None if nvcc else find_nvrtc()
    if library:
        known, version = nvrtc.architectures(library), nvrtc.version(library)
        headers = headers or [f'-I{folder}' for folder in nvrtc.include_folders(library)]
        return Cuda([sys.executable, '-I', nvrtc.__file__, library], True, version, _choose_archs(known, archs, gpus),
                    headers)
    nvcc = nvcc or find_nvcc()
    if nvcc is None:
        return None
    command = [nvcc]
    if not os.environ.get('NVCC_CCBIN') and os.environ.get('CXX'):
        command += ['-ccbin', shlex.split(os.environ['CXX'])[0]]
    known = re.findall(r'compute_(\w+)', compilers.output([nvcc, '--list-gpu-arch']))
    if not headers:  # Ask nvcc: it may be a script, and the toolkit may be split over several folders.
        plan = compilers.output([nvcc, '--dryrun', '-c', SOURCE])
        headers = shlex.split(''.join(re.findall(r'^#\$ INCLUDES=(.*)$', plan, re.MULTILINE)))
    return Cuda(command, False, compilers.output([nvcc, '--version']), _choose_archs(known, archs, gpus), headers)


def find_nvrtc() -> str | None:
    """NVRTC of the version of CUDA that this TensorFlow is built for; None = there is none."""
    import tensorflow as tf
    return nvrtc.find(tf.sysconfig.get_build_info().get('cuda_version', '12'))


def find_nvcc(folders: Sequence[str | None] = (None, '/usr/local/cuda/bin')) -> str | None:
    """Path of nvcc in the first folder that has it, where None stands for the folders of PATH; None = there is none."""
    return next(filter(None, (shutil.which('nvcc', path=folder) for folder in folders)), None)


def _choose_archs(known: list[str], archs: Sequence[str] | None, gpus: list[int]) -> list[str]:
    """The requested architectures, or else those of the GPUs, out of those that the compiler knows."""
    if archs == ['all']:
        return sorted(set(known), key=_arch_order)
    if archs:
        wanted = [re.sub(r'^(sm_|compute_)', '', arch).replace('.', '') for arch in archs]
        unknown = [arch for arch in wanted if arch.rstrip('af') not in known]
        if unknown:
            raise BuildError(f'--arch: the CUDA compiler here does not know {unknown[0]}',
                             f'It knows {", ".join(known)}.')
        return sorted(set(wanted), key=_arch_order)
    # A GPU that is newer than the compiler runs the newest architecture that it knows, as PTX.
    not_newer = [[arch for arch in known if int(arch) <= gpu] for gpu in gpus]
    mine = {max(choices, key=int) for choices in not_newer if choices}
    if not mine:
        raise BuildError(f'the CUDA compiler here compiles for {", ".join(known)}, and the GPU has {max(gpus)}',
                         'Install an older CUDA toolkit, and name it with CUDA_HOME.')
    return sorted(mine, key=_arch_order)


def _arch_order(arch: str) -> tuple[int, str]:
    return int(arch.rstrip('af')), arch


# ---- The GPUs here ----

def gpus_here(requested: str | None = None) -> list[int]:
    """Compute capabilities of the GPUs to compile for.

    Args:
        requested: The flag that asks for CUDA kernels even if TensorFlow sees no GPU, if there is one.

    Returns:
        A list such as [75, 90]; [] if TensorFlow sees no GPU and nothing is requested.

    Raises:
        BuildError: No GPU tells its architecture.
    """
    import tensorflow as tf

    from dnnlib.tflib.tfutil import visible_gpus
    visible = visible_gpus()
    if not visible and not requested:
        return []
    # All GPUs of the machine, not only those that this process may see: one build serves every process.
    gpus = _gpus_of_nvidia_smi()
    if not gpus:
        details = [tf.config.experimental.get_device_details(gpu).get('compute_capability') for gpu in visible]
        gpus = [10 * major + minor for major, minor in filter(None, details)]
    if not gpus:
        raise BuildError(f'{requested or "CUDA kernels"}: no GPU here tells its architecture '
                         '(nvidia-smi --query-gpu=compute_cap)',
                         'Name the architectures to compile for: python -m custom_ops.build --arch=80,90')
    return gpus


def _gpus_of_nvidia_smi() -> list[int]:
    if shutil.which('nvidia-smi') is None:
        return []
    try:
        output = compilers.output(['nvidia-smi', '--query-gpu=compute_cap', '--format=csv,noheader'])
        return [int(line.replace('.', '')) for line in output.split()]
    except (BuildError, ValueError):  # No driver, or one from before 2021.
        return []


# ---- Commands ----

def image_commands(cuda: Cuda, work: pathlib.Path) -> dict[str, list[str]]:
    """{what is compiled: command}: the commands that write the images of the kernels to `work`."""
    source = str(build_cache.SOURCES / SOURCE)
    # The last architecture also as PTX, from which drivers generate code for newer GPUs.
    ptx = f'compute_{cuda.archs[-1]}'
    if cuda.is_nvrtc:
        images = {f'sm_{arch}': f'{arch:0>4}.image' for arch in cuda.archs}
        images[ptx] = '0000.image'  # PTX comes after all cubins.
        flags = [f'-I{build_cache.SOURCES}', *cuda.include_dirs]
        return {f'{SOURCE} for {target}': [*cuda.command, source, str(work / name), target, *flags]
                for target, name in images.items()}
    targets = [*(f'-gencode=arch=compute_{arch},code=sm_{arch}' for arch in cuda.archs),
               f'-gencode=arch={ptx},code={ptx}']
    return {SOURCE: [*cuda.command, '-fatbin', '-O3', '-std=c++17', '--threads=0', *targets, source,
                     '-o', str(work / 'all.image')]}


def write_images(work: pathlib.Path) -> None:
    """Write images.S, which puts the images of the kernels into the library, those for newer GPUs first."""
    names = sorted((path.name for path in work.glob('*.image')), reverse=True)
    pointers = ', '.join(f'image{i}' for i in range(len(names)))
    (work / 'images.S').write_text('\n'.join([
        '.section .data.rel.ro, "aw"', '.balign 8', '.hidden stylegan2_gpu_images', '.global stylegan2_gpu_images',
        'stylegan2_gpu_images:', f'.quad {pointers}, 0',
        '.section .rodata',
        # PTX is text, which a zero must end.
        *(f'.balign 64\nimage{i}: .incbin "{name}"\n.byte 0' for i, name in enumerate(names)),
        '.section .note.GNU-stack, "", %progbits', '']), encoding='utf-8')
