"""Builds the native operations: `python -m custom_ops.build`, or automatically when they are first used.

The sources in custom_ops/native/ become one shared library, which a C++ compiler makes. CUDA kernels are compiled if
TensorFlow sees a GPU, for that GPU, or on request (--cuda, --arch). They need a TensorFlow that is built for CUDA, and
NVRTC (nvrtc.py), which TensorFlow's CUDA wheels install, or nvcc. Either makes images of the kernels in gpu_kernels.cu;
the library contains them, and hands them to the driver.

Finished builds are stored in a cache (build_cache.py) under a hash of everything that they depend on (`_wanted`). A
failed build leaves its cause there and is not repeated automatically. A finished build is used wherever it fits
(build_cache.Here), even if there is no compiler any more.
"""

import datetime
import hashlib
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, TextIO

from custom_ops import build_cache, compilers, cpu_features, cuda_compilers
from custom_ops.build_cache import BuildError
from dnnlib import cli

# Eigen, in TensorFlow's headers, does not compile with AVX512-FP16 (Xeons of 2023 and later), which no kernel here
# needs: -U hides it. Never use -ffast-math: it makes the whole process flush denormals to zero.
_CXX_FLAGS = ['-U__AVX512FP16__', '-fno-math-errno', '-fPIC', '-Wno-deprecated-declarations']

# -march of --portable: every CPU with AVX2, or every ARM CPU of 64 bits. Otherwise it is 'native'.
_PORTABLE = {'x86_64': 'x86-64-v3', 'aarch64': 'armv8-a'}

# Optimization level of each source, the slowest to compile first. -O3 only where -O2 makes slower kernels.
_LEVELS = {
    'ops.cc': '-O1',
    'cpu_bias_act.cc': '-O3',
    'cpu_upfirdn_nhwc.cc': '-O3',
    'cpu_upfirdn.cc': '-O3',
    'cpu_curves.cc': '-O3',
    'cpu_styled_bias_act.cc': '-O2',
}


class _Recipe(NamedTuple):
    cxx: list[str]
    cxx_version: str
    compile_flags: list[str]
    instructions: list[str]        # Instruction sets that the compiler uses: cpu_features.used.
    link_flags: list[str]          # TensorFlow's library.
    tf_version: str
    cuda: cuda_compilers.Cuda | None
    cuda_error: BuildError | None  # Why there is no CUDA part although there should be one.


def build(verbose: bool = False, retry: bool = False, archs: Sequence[str] | None = None, cuda: bool = False,
          portable: bool = False) -> str:
    """Return the path of the library: from the cache, or built now. Several processes may call this at once.

    Args:
        verbose: Print the commands and their output?
        retry:   Build with the compilers that are here now, unless they have made this build before, and repeat a build
                 that failed? Off = any finished build that fits this machine will do; the library that
                 STYLEGAN2_OPS_LIBRARY names, if it is set, and no other.
        archs:   Compute capabilities of the GPUs to compile for, such as ['80', '90']; ['all'] = all that the CUDA
                 compiler knows. None = those of this machine's GPUs if TensorFlow sees one, otherwise no CUDA kernels.
        cuda:    Compile for this machine's GPUs even if TensorFlow sees none?
        portable: Compile for all CPUs with AVX2 (ARM: armv8-a), instead of this one?

    Returns:
        Path of the shared library, next to its build.json and log.txt.

    Raises:
        BuildError: It cannot be built, or the last attempt failed and `retry` is off, or the library that
                    STYLEGAN2_OPS_LIBRARY names does not fit.
    """
    found = None
    if not (retry or archs or cuda or portable):
        here = _here()
        chosen = build_cache.chosen_library(here)
        if chosen:
            return str(chosen)
        found = build_cache.find(here)
    return str(_in_place(found) if found else _build_unless_found(_recipe(archs, cuda, portable), retry, verbose))


def _in_place(path: pathlib.Path) -> pathlib.Path:
    """A build that was found, or its copy in the folder that STYLEGAN2_OPS_CACHE names."""
    if build_cache.is_in_place(path):
        return path
    root = build_cache.writable_root()
    try:
        with build_cache.locked(root):
            return build_cache.share(path, root)
    except OSError as err:
        raise build_cache.os_error(err, root) from err


def _build_unless_found(recipe: _Recipe, retry: bool, verbose: bool) -> pathlib.Path:
    """The build of a recipe: from the cache, or made now."""
    wanted = _wanted(recipe)
    path = build_cache.look_up(wanted, retry)
    if path is None or not build_cache.is_in_place(path):
        root = build_cache.writable_root()
        try:
            with build_cache.locked(root):
                # Look again: another process may have finished the build while this one waited for the lock.
                path = build_cache.look_up(wanted, retry) or _build(recipe, wanted, root, verbose)
                path = build_cache.share(path, root)
        except OSError as err:
            raise build_cache.os_error(err, root) from err
    return path


def describe(path: str) -> dict[str, Any]:
    """Read the build.json of a library.

    Args:
        path: What `build` returned.

    Returns:
        {'archs': [...] of its CUDA kernels, 'cuda_error': None or [fact, remedy], 'time': ISO date and time,
        'times': {source: seconds, ..., 'all': seconds}, 'cpu': hash, 'cuda': hash or None, and what it fits:
        'sources', 'tensorflow', 'machine', 'instructions', 'built_on' (build_cache.Here)}.
    """
    return json.loads((pathlib.Path(path).parent / 'build.json').read_text(encoding='utf-8'))


# ---- What the result depends on ----

def _here() -> build_cache.Here:
    """What a build must fit here. Calls no compiler."""
    import tensorflow as tf
    try:
        gpus = cuda_compilers.gpus_here() if tf.test.is_built_with_cuda() else []
    except BuildError:  # Their architecture is unknown.
        gpus = None
    return build_cache.Here(_hash(_sources(), _CXX_FLAGS, _LEVELS), tf.version.VERSION, platform.machine(),
                            _hash(cpu_features.description()), gpus)


def _sources() -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(build_cache.SOURCES.iterdir()) if path.suffix in ('.cc', '.h', '.cu')}


def _recipe(archs: Sequence[str] | None, cuda: bool = False, portable: bool = False) -> _Recipe:
    """Collect compilers, flags and versions. Raises BuildError if something that the build needs is missing."""
    import tensorflow as tf
    if sys.platform != 'linux':
        raise BuildError(f'native operations are built on Linux only, this is {platform.system()}',
                         'The reference form runs everywhere.')
    cxx = _find_cxx()
    include = pathlib.Path(tf.sysconfig.get_include())
    if not (include / 'tensorflow/core/framework/op.h').is_file():
        raise BuildError(f"TensorFlow's headers are not in {include}",
                         'Install TensorFlow from its wheel: pip install tensorflow')
    if not list(build_cache.SOURCES.glob('*.cc')):
        raise BuildError(f'there are no sources in {build_cache.SOURCES}', 'Install stylegan2-tf2 again.')

    # -isystem suppresses the hundreds of warnings from TensorFlow's headers.
    tf_flags = [re.sub('^-I', '-isystem', flag) for flag in tf.sysconfig.get_compile_flags()]
    compile_flags = [_march(portable), *_CXX_FLAGS, *tf_flags]
    if not any('std=' in flag for flag in compile_flags):
        compile_flags.append('-std=c++17')
    compiler, cuda_error = cuda_compilers.find(include, archs, cuda)
    instructions = cpu_features.used(compilers.output([*cxx, compile_flags[0], '-dM', '-E', '-x', 'c++', os.devnull]))
    return _Recipe(cxx, compilers.output([*cxx, '--version']), compile_flags, instructions,
                   tf.sysconfig.get_link_flags(), tf.version.VERSION, compiler, cuda_error)


def _march(portable: bool) -> str:
    if portable and platform.machine() not in _PORTABLE:
        raise BuildError(f'--portable: expected a CPU of {" or ".join(_PORTABLE)}, this is {platform.machine()}',
                         'Leave --portable out.')
    return f'-march={_PORTABLE[platform.machine()] if portable else "native"}'


def _find_cxx() -> list[str]:
    cxx = shlex.split(os.environ.get('CXX') or 'g++')
    if shutil.which(cxx[0]) is None:
        raise BuildError(
            f'CXX names {cxx[0]}, which is not there' if os.environ.get('CXX') else 'there is no C++ compiler (g++)',
            f'Install one ({compilers.how_to_install_gxx()}), or name one with CXX.')
    return cxx


def _wanted(recipe: _Recipe) -> build_cache.Wanted:
    """Hash the sources, commands, versions, GPU architectures and CPU features."""
    variables = _variables('CPATH', 'CPLUS_INCLUDE_PATH', 'LIBRARY_PATH')
    cpu = _hash(_sources(), recipe._replace(cuda=None, cuda_error=None), _LEVELS, variables, platform.machine(),
                cpu_features.description())
    cuda, archs = None, []
    if recipe.cuda:
        cuda = _hash(recipe.cuda._replace(archs=[]), _variables('NVCC_', 'CUDAFLAGS'))
        archs = recipe.cuda.archs
    elif recipe.cuda_error:
        cuda = _hash(recipe.cuda_error.fact)
    return build_cache.Wanted(_hash(cpu, cuda, archs), cpu, cuda, archs)


def _variables(*prefixes: str) -> dict[str, str]:
    """The environment variables whose names begin with one of these."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(prefixes)}


def _hash(*everything: Any) -> str:
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:20]


# ---- Building ----

def _build(recipe: _Recipe, wanted: build_cache.Wanted, root: pathlib.Path, verbose: bool) -> pathlib.Path:
    """Build into root/key and return the library's path. The caller holds the lock."""
    start = time.monotonic()
    last_times = build_cache.last_times(wanted.archs)
    _announce(wanted.archs, root, last_times)
    build_cache.remove_old(root)
    work = pathlib.Path(tempfile.mkdtemp(prefix=f'{wanted.key}.tmp-', dir=root))
    try:
        work.chmod(0o755)  # Others may use what an administrator has built.
        info = _compile_with_fallback(recipe, work, root / wanted.key, verbose, last_times)
        info.update(_here().in_build_json(), instructions=recipe.instructions, cpu=wanted.cpu, cuda=wanted.cuda,
                    time=datetime.datetime.now().isoformat(timespec='seconds'))
        info['times']['all'] = round(time.monotonic() - start, 2)
        (work / 'build.json').write_text(json.dumps(info, indent=2) + '\n', encoding='utf-8')
        shutil.rmtree(root / wanted.key, ignore_errors=True)  # A failed build that is repeated.
        work.rename(root / wanted.key)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if 'error' in info:
        raise BuildError(*info['error'])
    if info['cuda_error']:
        fact, remedy = info['cuda_error']
        print(f'The CUDA kernels could not be built, only those for the CPU: {fact}\n{remedy}',
              file=sys.stderr, flush=True)
    print(f'Built the custom ops in {info["times"]["all"]:.0f} s', file=sys.stderr, flush=True)
    return root / wanted.key / build_cache.LIBRARY


def _announce(archs: list[str], root: pathlib.Path, last_times: dict[str, float]) -> None:
    """Print what is built, where, and how long it takes."""
    kinds = f'CPU and CUDA ({_sm_names(archs)})' if archs else 'CPU'
    if last_times:
        duration = f'{last_times["all"]:.0f} s last time'
    else:
        duration = 'some minutes' if len(archs) > 2 else 'about a minute' if archs else 'about half a minute'
    print(f'Building the custom ops for {kinds} in {root} (once; {duration}) ...', file=sys.stderr, flush=True)


def _sm_names(archs: list[str]) -> str:
    return ', '.join(f'sm_{arch}' for arch in archs)


def _compile_with_fallback(recipe: _Recipe, work: pathlib.Path, final: pathlib.Path, verbose: bool,
                           last_times: dict[str, float]) -> dict[str, Any]:
    """Compile and link, without the CUDA part if that fails. Returns the fields of build.json known by then."""
    cuda_error = recipe.cuda_error
    with open(work / 'log.txt', 'w', encoding='utf-8') as log:
        if recipe.cuda:
            try:
                times = _compile(recipe, work, final, log, verbose, last_times)
                return dict(archs=recipe.cuda.archs, cuda_error=None, times=times)
            except BuildError as err:
                cuda_error = err
        try:
            times = _compile(recipe._replace(cuda=None), work, final, log, verbose, last_times)
        except BuildError as err:
            return dict(error=[err.fact, err.remedy], times={})
    return dict(archs=[], cuda_error=cuda_error and [cuda_error.fact, cuda_error.remedy], times=times)


def _compile(recipe: _Recipe, work: pathlib.Path, final: pathlib.Path, log: TextIO, verbose: bool,
             last_times: dict[str, float]) -> dict[str, float]:
    """Compile all objects in parallel and link the library. Returns {source: seconds}."""
    commands = _compile_commands(recipe, work)
    failed, times = compilers.run_all(commands, log, verbose, last_times)
    if failed:
        raise compilers.explain_failure(failed[0], final / 'log.txt')
    parts = sorted(str(path) for path in work.glob('*.o'))
    if recipe.cuda:
        cuda_compilers.write_images(work)
        parts += [str(work / 'images.S'), f'-Wa,-I,{work}']
    output = compilers.run([*recipe.cxx, '-shared', '-o', str(work / build_cache.LIBRARY), *parts, '-ldl',
                            '-Wl,--exclude-libs,ALL', *recipe.link_flags, '-Wl,-z,defs'], log, verbose)
    if output:
        raise compilers.explain_failure(output, final / 'log.txt')
    for path in work.iterdir():
        if path.name not in (build_cache.LIBRARY, 'log.txt'):
            path.unlink()
    return times


def _compile_commands(recipe: _Recipe, work: pathlib.Path) -> dict[str, list[str]]:
    """{what is compiled: command}, the slowest first so that no CPU idles."""
    commands, defines = {}, []
    if recipe.cuda:
        defines = ['-DSTYLEGAN2_CUDA=1', *recipe.cuda.include_dirs]
        commands = cuda_compilers.image_commands(recipe.cuda, work)
    order = list(_LEVELS)
    names = sorted(path.name for path in build_cache.SOURCES.glob('*.cc'))
    for name in sorted(names, key=lambda name: order.index(name) if name in order else len(order)):
        commands[name] = [*recipe.cxx, *recipe.compile_flags, _LEVELS.get(name, '-O3'), *defines,
                          '-c', str(build_cache.SOURCES / name), '-o', str(work / f'{name}.o')]
    if recipe.cuda:  # Its launchers; -O1 drops the bodies of the kernels, and merges no two of them.
        commands[f'{cuda_compilers.SOURCE} for the CPU'] = [
            *recipe.cxx, *recipe.compile_flags, '-O1', '-DSTYLEGAN2_GPU_HOST', '-x', 'c++',
            '-c', str(build_cache.SOURCES / cuda_compilers.SOURCE), '-o', str(work / f'{cuda_compilers.SOURCE}.o')]
    return commands


# ---- Command line ----

def _found_instead() -> str | None:
    """The library that the commands use where nothing can be built now. None = there is none."""
    try:
        return build()
    except BuildError:
        return None


def main(argv: Sequence[str]) -> None:
    """Run the command line: build the native operations, or remove their builds."""
    parser = cli.ArgumentParser(
        prog='python -m custom_ops.build', description='Build the native operations, or remove their builds.',
        formatter_class=cli.help_formatter, allow_abbrev=False)
    parser.add_argument('--verbose', action='store_true', help='print the commands and their output')
    parser.add_argument('--clean', action='store_true', help='remove all builds; the next use builds again')
    parser.add_argument('--cuda', action='store_true',
                        help="build CUDA kernels for this machine's GPUs even if TensorFlow sees none")
    parser.add_argument('--arch', metavar='LIST', type=lambda text: text.split(','),
                        help='build CUDA kernels for these GPU architectures, such as 80,90, or for all '
                             '(default: those of the GPUs that TensorFlow sees)')
    parser.add_argument('--portable', action='store_true',
                        help='compile for all CPUs with AVX2 (ARM: armv8-a), not just for this one')
    cli.add_debug_flag(parser)
    args = parser.parse_args(argv)
    if args.clean:
        print('\n'.join(f'Emptied {root}' for root in build_cache.clean()) or 'There was nothing to remove.')
        return
    try:
        path = build(args.verbose, retry=True, archs=args.arch, cuda=args.cuda, portable=args.portable)
    except BuildError as err:
        path = None if args.arch or args.cuda or args.portable else _found_instead()
        if path is None:
            raise
        print(f'Note: {err.fact}. A build that fits this machine is there, which the commands use.')
    archs = describe(path)['archs']
    print(f'{path}: kernels for CPU' + (f' and CUDA ({_sm_names(archs)})' if archs else ''))
    from dnnlib.tflib.tfutil import has_gpu
    if not archs and not has_gpu():
        print('It has no CUDA kernels, because TensorFlow sees no GPU here. To build for other machines: --arch=80,90')
    if os.environ.get('STYLEGAN2_OPS_LIBRARY'):
        print('STYLEGAN2_OPS_LIBRARY is set: the other commands use the library that it names, and not this one.')


if __name__ == '__main__':
    cli.run(main)
