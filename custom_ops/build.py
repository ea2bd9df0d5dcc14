"""Builds the native operations: `python -m custom_ops.build`, or automatically when they are first used.

The sources in custom_ops/native/ become one shared library. A C++ compiler compiles the *.cc files, which include
TensorFlow's headers; nvcc compiles gpu_kernels.cu, which never includes them. CUDA kernels are compiled if TensorFlow
sees a GPU, for that GPU, or on request (--cuda, --arch). They need nvcc and a TensorFlow that is built for CUDA.

Finished builds are stored in a cache (build_cache.py) under a hash of everything that they depend on (`_wanted`). A
failed build leaves its cause there and is not repeated automatically.
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
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, TextIO

from custom_ops import build_cache, compilers
from custom_ops.build_cache import BuildError
from dnnlib import cli

_CUDA_SOURCE = 'gpu_kernels.cu'

# Because of -march=native, the key includes the CPU's features. Eigen, in TensorFlow's headers, does not compile with
# AVX512-FP16 (Xeons of 2023 and later), which no kernel here needs: -U hides it. Never use -ffast-math: it makes the
# whole process flush denormals to zero.
_CXX_FLAGS = ['-march=native', '-U__AVX512FP16__', '-fno-math-errno', '-fPIC', '-Wno-deprecated-declarations']

# Optimization level of each source, the slowest to compile first. -O3 only where -O2 makes slower kernels.
_LEVELS = {
    'ops.cc': '-O1',
    'cpu_bias_act.cc': '-O3',
    'cpu_upfirdn_nhwc.cc': '-O3',
    'cpu_upfirdn.cc': '-O3',
    'cpu_curves.cc': '-O3',
    'cpu_styled_bias_act.cc': '-O2',
}


class _Cuda(NamedTuple):
    command: list[str]       # nvcc, and -ccbin if CXX names the host compiler.
    version: str
    archs: list[str]         # Compute capabilities to compile for: '75', '90', ...
    lib_dirs: list[str]      # -L flags for cudart_static.
    include_dirs: list[str]  # -I flags for the CUDA headers that Eigen includes in the .cc files.


class _Recipe(NamedTuple):
    cxx: list[str]
    cxx_version: str
    compile_flags: list[str]
    link_flags: list[str]          # TensorFlow's library.
    tf_version: str
    cuda: _Cuda | None
    cuda_error: BuildError | None  # Why there is no CUDA part although there should be one.


def build(verbose: bool = False, retry: bool = False, archs: Sequence[str] | None = None, cuda: bool = False) -> str:
    """Return the path of the library: from the cache, or built now. Several processes may call this at once.

    Args:
        verbose: Print the commands and their output?
        retry:   Repeat a build that failed before?
        archs:   Compute capabilities of the GPUs to compile for, such as ['80', '90']; ['all'] = all that nvcc knows.
                 None = those of this machine's GPUs if TensorFlow sees one, otherwise no CUDA kernels.
        cuda:    Compile for this machine's GPUs even if TensorFlow sees none?

    Returns:
        Path of the shared library, next to its build.json and log.txt.

    Raises:
        BuildError: It cannot be built, or the last attempt failed and `retry` is off.
    """
    recipe = _recipe(archs, cuda)
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
    return str(path)


def describe(path: str) -> dict[str, Any]:
    """Read the build.json of a library.

    Args:
        path: What `build` returned.

    Returns:
        {'archs': [...] of its CUDA kernels, 'cuda_error': None or [fact, remedy], 'time': ISO date and time,
        'times': {source: seconds, ..., 'all': seconds}, 'cpu': hash, 'cuda': hash or None}.
    """
    return json.loads((pathlib.Path(path).parent / 'build.json').read_text(encoding='utf-8'))


# ---- What the result depends on ----

def _recipe(archs: Sequence[str] | None, cuda: bool = False) -> _Recipe:
    """Collect compilers, flags and versions. Raises BuildError if something that the build needs is missing."""
    import tensorflow as tf
    cxx = _find_cxx()
    if sys.platform != 'linux':
        raise BuildError(f'native operations are built on Linux only, this is {platform.system()}',
                         'The reference form runs everywhere.')
    include = pathlib.Path(tf.sysconfig.get_include())
    if not (include / 'tensorflow/core/framework/op.h').is_file():
        raise BuildError(f"TensorFlow's headers are not in {include}",
                         'Install TensorFlow from its wheel: pip install tensorflow')
    if not list(build_cache.SOURCES.glob('*.cc')):
        raise BuildError(f'there are no sources in {build_cache.SOURCES}', 'Install stylegan2-tf2 again.')

    # -isystem suppresses the hundreds of warnings from TensorFlow's headers.
    tf_flags = [re.sub('^-I', '-isystem', flag) for flag in tf.sysconfig.get_compile_flags()]
    compile_flags = [*_CXX_FLAGS, *tf_flags]
    if not any('std=' in flag for flag in compile_flags):
        compile_flags.append('-std=c++17')
    toolkit, cuda_error = _cuda_part(include, archs, cuda)
    return _Recipe(cxx, _output([*cxx, '--version']), compile_flags, tf.sysconfig.get_link_flags(), tf.version.VERSION,
                   toolkit, cuda_error)


def _find_cxx() -> list[str]:
    cxx = shlex.split(os.environ.get('CXX') or 'g++')
    if shutil.which(cxx[0]) is None:
        raise BuildError(
            f'CXX names {cxx[0]}, which is not there' if os.environ.get('CXX') else 'there is no C++ compiler (g++)',
            'Install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; '
            'conda: conda install -c conda-forge gxx), or name one with CXX.')
    return cxx


def _cuda_part(tf_include: pathlib.Path, archs: Sequence[str] | None, cuda: bool,
               ) -> tuple[_Cuda | None, BuildError | None]:
    """(toolkit, None), (None, why there is none although there should be), or (None, None) if none is wanted.

    Raises BuildError if CUDA kernels were requested with --arch or --cuda and cannot be built.
    """
    import tensorflow as tf
    requested = '--arch' if archs else '--cuda' if cuda else None
    toolkit, error = None, None
    try:
        gpus = [] if archs or not tf.test.is_built_with_cuda() else _gpus(requested)
        if (requested or gpus) and tf.test.is_built_with_cuda() and (build_cache.SOURCES / _CUDA_SOURCE).is_file():
            toolkit = _find_toolkit(tf_include, archs, gpus)
    except BuildError as err:
        error = err
    if requested and toolkit is None:
        raise error or BuildError(f'{requested}: CUDA kernels need nvcc, and a TensorFlow that is built for CUDA',
                                  f'Install the CUDA toolkit, or leave {requested} out.')
    return toolkit, error


def _wanted(recipe: _Recipe) -> build_cache.Wanted:
    """Hash the sources, commands, versions, GPU architectures and CPU features."""
    sources = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
               for path in sorted(build_cache.SOURCES.iterdir()) if path.suffix in ('.cc', '.h', '.cu')}
    variables = _variables('CPATH', 'CPLUS_INCLUDE_PATH', 'LIBRARY_PATH')
    cpu = _hash(sources, recipe._replace(cuda=None, cuda_error=None), _LEVELS, variables, platform.machine(),
                _cpu_features())
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


def _cpu_features() -> str:
    try:
        lines = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.lower().startswith(('flags', 'features'))), platform.processor())


def _output(command: list[str]) -> str:
    """What a short command prints. Raises BuildError if it fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, errors='replace', timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise BuildError(f'{shlex.join(command)} does not run: {err}', f'Repair or reinstall {command[0]}.') from err
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines() or ['no output']
        raise BuildError(f'{shlex.join(command)} fails: {lines[-1]}', f'Repair or reinstall {command[0]}.')
    return result.stdout + result.stderr


# ---- CUDA ----

def _find_toolkit(tf_include: pathlib.Path, archs: Sequence[str] | None, gpus: list[int]) -> _Cuda | None:
    """The CUDA toolkit, or None if there is no nvcc."""
    homes = [os.environ[name] for name in ('CUDA_HOME', 'CUDA_PATH') if os.environ.get(name)]
    folders = [*(f'{home}/bin' for home in homes), None, '/usr/local/cuda/bin']  # None = the folders of PATH.
    nvcc = next(filter(None, (shutil.which('nvcc', path=folder) for folder in folders)), None)
    if nvcc is None:
        return None
    command = [nvcc]
    if not os.environ.get('NVCC_CCBIN') and os.environ.get('CXX'):
        command += ['-ccbin', shlex.split(os.environ['CXX'])[0]]
    known = re.findall(r'compute_(\w+)', _output([nvcc, '--list-gpu-arch']))
    # Ask nvcc where the toolkit is: nvcc may be a script, and the toolkit may be split over several folders.
    plan = _output([nvcc, '--dryrun', '-c', _CUDA_SOURCE])
    flags = {name: shlex.split(''.join(re.findall(rf'^#\$ {name}=(.*)$', plan, re.MULTILINE)))
             for name in ('LIBRARIES', 'INCLUDES')}
    tf_cuda = tf_include / 'third_party/gpus/cuda/include'
    return _Cuda(command, _output([nvcc, '--version']), _choose_archs(known, archs, gpus),
                 [flag for flag in flags['LIBRARIES'] if flag.startswith('-L')],
                 [f'-I{tf_cuda}'] if (tf_cuda / 'cuda.h').is_file() else flags['INCLUDES'])


def _choose_archs(known: list[str], archs: Sequence[str] | None, gpus: list[int]) -> list[str]:
    """The requested architectures, or else those of the GPUs, out of those that this nvcc knows."""
    if archs == ['all']:
        return sorted(set(known), key=_arch_order)
    if archs:
        wanted = [re.sub(r'^(sm_|compute_)', '', arch).replace('.', '') for arch in archs]
        unknown = [arch for arch in wanted if arch.rstrip('af') not in known]
        if unknown:
            raise BuildError(f'--arch: this nvcc does not know {unknown[0]}', f'It knows {", ".join(known)}.')
        return sorted(set(wanted), key=_arch_order)
    # A GPU that is newer than nvcc runs the newest architecture that nvcc knows, as PTX.
    not_newer = [[arch for arch in known if int(arch) <= gpu] for gpu in gpus]
    mine = {max(choices, key=int) for choices in not_newer if choices}
    if not mine:
        raise BuildError(f'this nvcc compiles for {", ".join(known)}, and the GPU here has {max(gpus)}',
                         'Install an older CUDA toolkit.')
    return sorted(mine, key=_arch_order)


def _arch_order(arch: str) -> tuple[int, str]:
    return int(arch.rstrip('af')), arch


def _gpus(requested: str | None) -> list[int]:
    """Compute capabilities of the GPUs to compile for, such as [75, 90]; [] if TensorFlow sees no GPU, unless the flag
    that is `requested` asks for CUDA kernels."""
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
        output = _output(['nvidia-smi', '--query-gpu=compute_cap', '--format=csv,noheader'])
        return [int(line.replace('.', '')) for line in output.split()]
    except (BuildError, ValueError):  # No driver, or one from before 2021.
        return []


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
        info.update(cpu=wanted.cpu, cuda=wanted.cuda, time=datetime.datetime.now().isoformat(timespec='seconds'))
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
        duration = 'some minutes' if len(archs) > 2 else 'about half a minute'
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
    commands = _compile_commands(recipe)
    objects = {name: str(work / f'{name}.o') for name in commands}
    for name, command in commands.items():
        command += ['-c', str(build_cache.SOURCES / name), '-o', objects[name]]
    failed, times = compilers.run_all(commands, log, verbose, last_times)
    if failed:
        raise compilers.explain_failure(failed[0], final / 'log.txt')

    # TensorFlow's library comes after the CUDA runtime: it exports stubs of the same names, to which calls from here
    # must not bind.
    libraries = [*recipe.cuda.lib_dirs, '-lcudart_static', '-ldl', '-lrt', '-lpthread'] if recipe.cuda else []
    output = compilers.run([*recipe.cxx, '-shared', '-o', str(work / build_cache.LIBRARY), *objects.values(),
                            *libraries, '-Wl,--exclude-libs,ALL', *recipe.link_flags, '-Wl,-z,defs'], log, verbose)
    if output:
        raise compilers.explain_failure(output, final / 'log.txt')
    for path in objects.values():
        os.unlink(path)
    return times


def _compile_commands(recipe: _Recipe) -> dict[str, list[str]]:
    """{source: command that compiles it, without its input and output}, the slowest first so that no CPU idles."""
    commands, defines = {}, []
    if recipe.cuda:
        archs = recipe.cuda.archs
        # The last architecture also as PTX, from which drivers generate code for newer GPUs.
        targets = [*(f'-gencode=arch=compute_{arch},code=sm_{arch}' for arch in archs),
                   f'-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}']
        commands[_CUDA_SOURCE] = [*recipe.cuda.command, '-O3', '-std=c++17', '-Xcompiler=-fPIC', '--threads=0',
                                  *targets]
        defines = ['-DSTYLEGAN2_CUDA=1', *recipe.cuda.include_dirs]
    order = list(_LEVELS)
    names = sorted(path.name for path in build_cache.SOURCES.glob('*.cc'))
    for name in sorted(names, key=lambda name: order.index(name) if name in order else len(order)):
        commands[name] = [*recipe.cxx, *recipe.compile_flags, _LEVELS.get(name, '-O3'), *defines]
    return commands


# ---- Command line ----

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
    cli.add_debug_flag(parser)
    args = parser.parse_args(argv)
    if args.clean:
        print('\n'.join(f'Emptied {root}' for root in build_cache.clean()) or 'There was nothing to remove.')
        return
    path = build(args.verbose, retry=True, archs=args.arch, cuda=args.cuda)
    archs = describe(path)['archs']
    print(f'{path}: kernels for CPU' + (f' and CUDA ({_sm_names(archs)})' if archs else ''))
    from dnnlib.tflib.tfutil import has_gpu
    if not archs and not has_gpu():
        print('It has no CUDA kernels, because TensorFlow sees no GPU here. To build for other machines: --arch=80,90')


if __name__ == '__main__':
    cli.run(main)
