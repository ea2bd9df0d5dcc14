"""Builds the native operations: `python -m custom_ops.build`, or by itself when they are first used.

The sources in custom_ops/native/ become one shared library: a C++ compiler sees TensorFlow's headers and the *.cc files, nvcc sees
gpu_kernels.cu and never those headers. CUDA kernels are compiled where TensorFlow sees a GPU, for that GPU, or where they are asked for
(--cuda, --arch); both need nvcc and a TensorFlow that is built for CUDA.

Finished builds lie in a cache (build_cache.py) by a hash of everything that they depend on (`_wanted`). A failed build leaves its cause
there and is not tried again by itself.
"""

import argparse
import datetime
import errno
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
from typing import NamedTuple

from custom_ops import build_cache, compilers
from custom_ops.build_cache import BuildError
from dnnlib import cli

_CUDA_SOURCE = 'gpu_kernels.cu'
_AGAIN = 'python -m custom_ops.build'

# -march=native is why the key has the features of the CPU. Eigen, in TensorFlow's headers, does not compile with AVX512-FP16 (Xeons of
# 2023 and later), which no kernel here needs: -U hides it. Never -ffast-math: it makes the whole process flush denormals to zero.
_CXX_FLAGS = ['-march=native', '-U__AVX512FP16__', '-fno-math-errno', '-fPIC', '-Wno-deprecated-declarations']

# How far each source is optimised, those that take longest to compile first; -O3 where -O2 makes slower kernels.
_LEVELS = {'ops.cc': '-O1', 'cpu_bias_act.cc': '-O3', 'cpu_upfirdn_nhwc.cc': '-O3', 'cpu_upfirdn.cc': '-O3', 'cpu_curves.cc': '-O3',
           'cpu_styled_bias_act.cc': '-O2'}


class _Cuda(NamedTuple):
    command: list       # nvcc, and -ccbin where CXX names the host compiler
    version: str
    archs: list         # '75', '90', ...: compute capabilities to compile for
    lib_dirs: list      # -L flags for cudart_static
    include_dirs: list  # -I flags for what Eigen wants of CUDA in TensorFlow's .cc files


class _Recipe(NamedTuple):
    cxx: list
    cxx_version: str
    compile_flags: list
    link_flags: list           # TensorFlow's library
    tf_version: str
    cuda: _Cuda | None
    cuda_error: BuildError | None  # why there is no CUDA part although there should be one


def build(verbose=False, retry=False, archs=None, cuda=False):
    """The library's path: from the cache, or built now. Safe to call from several processes at once.

    Args:
        verbose: Print the commands and what they say?
        retry:   Try once more what failed before?
        archs:   Compute capabilities of GPUs to compile for, such as ['80', '90']; ['all'] = all that nvcc knows.
                 None = those of this machine's GPUs, if TensorFlow sees one; else there are no CUDA kernels.
        cuda:    Compile for this machine's GPUs though TensorFlow sees none?

    Raises:
        BuildError: It cannot be built, or could not be built the last time.
    """
    recipe = _recipe(archs, cuda)
    wanted = _wanted(recipe)
    path = build_cache.look_up(wanted, retry)
    if path is None or not build_cache.is_in_place(path):
        try:
            root = build_cache.writable_root()
        except BuildError:
            if path is None:
                raise
            return str(path)  # It works where it is.
        try:
            with build_cache.locked(root):
                path = build_cache.look_up(wanted, retry) or _build(recipe, wanted, root, verbose)  # Another process may have been faster.
                path = build_cache.share(path, root)
        except OSError as err:
            raise build_cache.os_error(err, root) from err
    return str(path)


def describe(path):
    """What build.json says of a library: {'archs': [...] of its CUDA kernels, 'cuda_error': None or [fact, remedy], 'time': ...}."""
    return json.loads((pathlib.Path(path).parent / 'build.json').read_text(encoding='utf-8'))


# ---- What the result depends on ----

def _recipe(archs, cuda=False):
    import tensorflow as tf
    cxx = shlex.split(os.environ.get('CXX') or 'g++')
    if shutil.which(cxx[0]) is None:
        raise BuildError(
            f'CXX names {cxx[0]}, which is not there' if os.environ.get('CXX') else 'there is no C++ compiler (g++)',
            'Install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; conda: conda install -c conda-forge gxx), '
            'or name one with CXX.')
    if sys.platform != 'linux':
        raise BuildError(f'native operations are built on Linux only, this is {platform.system()}', 'The reference form runs everywhere.')
    include = pathlib.Path(tf.sysconfig.get_include())
    if not (include / 'tensorflow/core/framework/op.h').is_file():
        raise BuildError(f"TensorFlow's headers are not in {include}", 'Install TensorFlow from its wheel: pip install tensorflow')
    if not list(build_cache.SOURCES.glob('*.cc')):
        raise BuildError(f'there are no sources in {build_cache.SOURCES}', 'Install stylegan2-tf2 again.')

    # As system headers, so that their warnings, hundreds of lines, stay out of the log.
    compile_flags = [*_CXX_FLAGS, *(re.sub('^-I', '-isystem', flag) for flag in tf.sysconfig.get_compile_flags())]
    if not any('std=' in flag for flag in compile_flags):
        compile_flags.append('-std=c++17')
    asked = '--arch' if archs else '--cuda' if cuda else None
    toolkit, cuda_error = None, None
    try:
        gpus = [] if archs or not tf.test.is_built_with_cuda() else _gpus(asked)
        if (asked or gpus) and tf.test.is_built_with_cuda() and (build_cache.SOURCES / _CUDA_SOURCE).is_file():
            toolkit = _find_cuda(include, archs, gpus)
    except BuildError as err:
        cuda_error = err
    if asked and toolkit is None:
        raise cuda_error or BuildError(f'{asked}: CUDA kernels need nvcc, and a TensorFlow that is built for CUDA',
                                       f'Install the CUDA toolkit, or leave {asked} out.')
    return _Recipe(cxx, _output([*cxx, '--version']), compile_flags, tf.sysconfig.get_link_flags(), tf.version.VERSION, toolkit, cuda_error)


def _wanted(recipe):
    """The build_cache.Wanted of a recipe: hashes of sources, commands, versions, GPU architectures and CPU features."""
    sources = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
               for path in sorted(build_cache.SOURCES.iterdir()) if path.suffix in ('.cc', '.h', '.cu')}
    variables = {name: value for name, value in sorted(os.environ.items()) if name in ('CPATH', 'CPLUS_INCLUDE_PATH', 'LIBRARY_PATH')}
    cpu = _hash(sources, recipe._replace(cuda=None, cuda_error=None), _LEVELS, variables, platform.machine(), _cpu_features())
    cuda, archs = None, []
    if recipe.cuda:
        variables = {name: value for name, value in sorted(os.environ.items()) if name.startswith(('NVCC_', 'CUDAFLAGS'))}
        cuda, archs = _hash(recipe.cuda._replace(archs=None), variables), recipe.cuda.archs
    elif recipe.cuda_error:
        cuda = _hash(recipe.cuda_error.fact)
    return build_cache.Wanted(_hash(cpu, cuda, archs), cpu, cuda, archs)


def _hash(*everything):
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:20]


def _cpu_features():
    try:
        lines = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.lower().startswith(('flags', 'features'))), platform.processor())


def _output(command):
    """What a short command prints; BuildError if it does not work."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, errors='replace', timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise BuildError(f'{shlex.join(command)} does not run: {err}', f'Mend or reinstall {command[0]}.') from err
    if result.returncode:
        words = (result.stderr or result.stdout).strip().splitlines() or ['no output']
        raise BuildError(f'{shlex.join(command)} fails: {words[-1]}', f'Mend or reinstall {command[0]}.')
    return result.stdout + result.stderr


# ---- CUDA ----

def _find_cuda(tf_include, archs, gpus):
    """The CUDA toolkit, or None without nvcc."""
    homes = [os.environ[name] for name in ('CUDA_HOME', 'CUDA_PATH') if os.environ.get(name)]
    folders = [*(f'{home}/bin' for home in homes), None, '/usr/local/cuda/bin']  # None = those on the PATH.
    nvcc = next(filter(None, (shutil.which('nvcc', path=folder) for folder in folders)), None)
    if nvcc is None:
        return None
    command = [nvcc]
    if not os.environ.get('NVCC_CCBIN') and os.environ.get('CXX'):
        command += ['-ccbin', shlex.split(os.environ['CXX'])[0]]
    known = re.findall(r'compute_(\w+)', _output([nvcc, '--list-gpu-arch']))
    # Where the toolkit is, nvcc knows best: it may be a script, or split over several folders.
    plan = _output([nvcc, '--dryrun', '-c', _CUDA_SOURCE])
    flags = {name: shlex.split(''.join(re.findall(rf'^#\$ {name}=(.*)$', plan, re.MULTILINE))) for name in ('LIBRARIES', 'INCLUDES')}
    of_tf = tf_include / 'third_party/gpus/cuda/include'
    return _Cuda(command, _output([nvcc, '--version']), _choose_archs(known, archs, gpus),
                 [flag for flag in flags['LIBRARIES'] if flag.startswith('-L')],
                 [f'-I{of_tf}'] if (of_tf / 'cuda.h').is_file() else flags['INCLUDES'])


def _choose_archs(known, archs, gpus):
    """Those asked for, else those of the GPUs, of all that this nvcc knows."""
    if archs == ['all']:
        return sorted(set(known), key=_arch_order)
    if archs:
        wanted = [re.sub(r'^(sm_|compute_)', '', arch).replace('.', '') for arch in archs]
        unknown = [arch for arch in wanted if arch.rstrip('af') not in known]
        if unknown:
            raise BuildError(f'--arch: this nvcc does not know {unknown[0]}', f'It knows {", ".join(known)}.')
        return sorted(set(wanted), key=_arch_order)
    # A GPU newer than nvcc runs the newest that nvcc knows, as PTX.
    mine = {max((arch for arch in known if int(arch) <= gpu), key=int, default=None) for gpu in gpus} - {None}
    if not mine:
        raise BuildError(f'this nvcc compiles for {", ".join(known)}, and the GPU here has {max(gpus)}', 'Install an older CUDA toolkit.')
    return sorted(mine, key=_arch_order)


def _arch_order(arch):
    return int(arch.rstrip('af')), arch


def _gpus(asked):
    """Compute capabilities of the GPUs to compile for, such as [75, 90]; none where TensorFlow sees no GPU, unless `asked`."""
    import tensorflow as tf
    visible = tf.config.get_visible_devices('GPU')
    if not visible and not asked:
        return []
    # All of the machine, whichever of them this process may see: one build serves every process.
    gpus = _gpus_of_nvidia_smi()
    if not gpus:
        details = [tf.config.experimental.get_device_details(gpu).get('compute_capability') for gpu in visible]
        gpus = [10 * major + minor for major, minor in filter(None, details)]
    if not gpus:
        raise BuildError(f'{asked or "CUDA kernels"}: no GPU here tells its architecture (nvidia-smi --query-gpu=compute_cap)',
                         'Name the architectures to compile for: python -m custom_ops.build --arch=80,90')
    return gpus


def _gpus_of_nvidia_smi():
    if shutil.which('nvidia-smi') is None:
        return []
    try:
        return [int(line.replace('.', '')) for line in _output(['nvidia-smi', '--query-gpu=compute_cap', '--format=csv,noheader']).split()]
    except (BuildError, ValueError):  # No driver, or one of before 2021.
        return []


# ---- Building ----

def _build(recipe, wanted, root, verbose):
    """Build into root/key; returns the library's path. The caller holds the lock."""
    start = time.monotonic()
    last_times = build_cache.last_times(wanted.archs)
    kinds = f'CPU and CUDA ({", ".join(f"sm_{arch}" for arch in wanted.archs)})' if wanted.archs else 'CPU'
    took = f'{last_times["all"]:.0f} s last time' if last_times else 'some minutes' if len(wanted.archs) > 2 else 'about half a minute'
    print(f'Building the custom ops for {kinds} in {root} (once; {took}) ...', file=sys.stderr, flush=True)
    build_cache.remove_old(root)
    work = pathlib.Path(tempfile.mkdtemp(prefix=f'{wanted.key}.tmp-', dir=root))
    try:
        work.chmod(0o755)  # Others may use what an administrator has built.
        info = _compile_all(recipe, work, root / wanted.key, verbose, last_times)
        info.update(cpu=wanted.cpu, cuda=wanted.cuda, time=datetime.datetime.now().isoformat(timespec='seconds'))
        info.setdefault('times', {})['all'] = round(time.monotonic() - start, 2)
        (work / 'build.json').write_text(json.dumps(info, indent=2) + '\n', encoding='utf-8')
        shutil.rmtree(root / wanted.key, ignore_errors=True)  # A failed build that is tried again.
        work.rename(root / wanted.key)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if 'error' in info:
        raise BuildError(*info['error'])
    if info['cuda_error']:
        fact, remedy = info['cuda_error']
        print(f'The CUDA kernels could not be built, only those for the CPU: {fact}\n{remedy}', file=sys.stderr, flush=True)
    print(f'Built the custom ops in {info["times"]["all"]:.0f} s', file=sys.stderr, flush=True)
    return root / wanted.key / build_cache.LIBRARY


def _compile_all(recipe, work, final, verbose, last_times):
    """Compile and link, without the CUDA part where that fails; returns what goes into build.json."""
    cuda_error = recipe.cuda_error
    with open(work / 'log.txt', 'w', encoding='utf-8') as log:
        if recipe.cuda:
            try:
                return dict(archs=recipe.cuda.archs, cuda_error=None, times=_compile(recipe, work, final, log, verbose, last_times))
            except BuildError as err:
                cuda_error = err
        try:
            times = _compile(recipe._replace(cuda=None), work, final, log, verbose, last_times)
        except BuildError as err:
            return dict(error=[err.fact, err.remedy])
    return dict(archs=[], cuda_error=cuda_error and [cuda_error.fact, cuda_error.remedy], times=times)


def _compile(recipe, work, final, log, verbose, last_times):
    """All objects side by side, then the library; returns {source: seconds}."""
    cuda = recipe.cuda
    commands = {}
    if cuda:
        # The last architecture also as PTX, from which drivers make code for newer GPUs.
        targets = [f'-gencode=arch=compute_{arch},code=sm_{arch}' for arch in cuda.archs]
        targets.append(f'-gencode=arch=compute_{cuda.archs[-1]},code=compute_{cuda.archs[-1]}')
        commands[_CUDA_SOURCE] = [*cuda.command, '-O3', '-std=c++17', '-Xcompiler=-fPIC', '--threads=0', *targets]
    defines = ['-DSTYLEGAN2_CUDA=1', *cuda.include_dirs] if cuda else []
    # The longest first, so that no CPU waits for the last.
    names = sorted(path.name for path in build_cache.SOURCES.glob('*.cc'))
    for name in sorted(names, key=lambda name: list(_LEVELS).index(name) if name in _LEVELS else len(_LEVELS)):
        commands[name] = [*recipe.cxx, *recipe.compile_flags, _LEVELS.get(name, '-O3'), *defines]
    objects = {name: str(work / f'{name}.o') for name in commands}
    for name, command in commands.items():
        command += ['-c', str(build_cache.SOURCES / name), '-o', objects[name]]
    failed, times = compilers.run_all(commands, log, verbose, last_times)
    for output in failed:
        raise _explain(output, final / 'log.txt')

    # TensorFlow after the CUDA runtime: it exports stubs of the same names, to which our calls must not bind.
    libraries = [*cuda.lib_dirs, '-lcudart_static', '-ldl', '-lrt', '-lpthread'] if cuda else []
    output = compilers.run([*recipe.cxx, '-shared', '-o', str(work / build_cache.LIBRARY), *objects.values(), *libraries,
                            '-Wl,--exclude-libs,ALL', *recipe.link_flags, '-Wl,-z,defs'], log, verbose)
    if output:
        raise _explain(output, final / 'log.txt')
    for path in objects.values():
        os.unlink(path)
    return times


# ---- Why it failed, and what to do ----

_CAUSES = [  # What a compiler prints -> fact, remedy.
    (r'unsupported (GNU|clang|Clang) version|unsupported host compiler',
     'the host compiler is too new for this nvcc', 'Name an older one with NVCC_CCBIN'),
    (r'[Kk]illed signal|signal 9|out of memory|virtual memory exhausted',
     'the compiler ran out of memory', 'Free some memory'),
    (r'fatal error: (tensorflow|absl|tsl|xla|unsupported/Eigen|Eigen|google/protobuf)\S*: No such file',
     "some of TensorFlow's headers are missing", 'Install TensorFlow again: pip install --force-reinstall tensorflow'),
    (r'fatal error: (cuda|cublas|cudnn|crt/|nv/)\S*: No such file|cannot find -lcudart_static',
     'the CUDA toolkit is not complete', 'Install all of it, or set CUDA_HOME to one that is'),
    (r'fatal error: [a-z_]+: No such file|cannot find -lstdc\+\+|cannot find crt',
     "the compiler's own headers or libraries are missing", 'Install all of it (Debian, Ubuntu: apt install g++; conda: gxx)'),
    (r'bad value .*for .?-march|unrecognized command.line option|unknown value .*for .?-std',
     'the compiler is too old for this TensorFlow or this CPU', 'Name a newer one with CXX'),
]


def _explain(output, log_path):
    """BuildError from what a failed compiler printed."""
    if 'No space left on device' in output:  # Not remembered: build_cache.os_error reports it.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for pattern, fact, remedy in _CAUSES:
        match = re.search(f'.*({pattern}).*', output)
        if match:
            if 'NVCC_CCBIN' in remedy:
                remedy += _older_compilers()
            return BuildError(f'{fact}: {match[0].strip()}', f'{remedy}, then {_AGAIN}. The whole output is in {log_path}')
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r'error|undefined reference', line)]
    return BuildError('the compiler failed:\n  ' + '\n  '.join((errors or lines)[-5:]),
                      f'The whole output is in {log_path}. Another compiler may do (CXX=...); {_AGAIN} tries again.')


def _older_compilers():
    found = [name for name in (f'g++-{version}' for version in range(15, 7, -1)) if shutil.which(name)]
    return f' (export NVCC_CCBIN=..., here are {", ".join(found)})' if found else \
        ' (apt install g++-12, then export NVCC_CCBIN=g++-12; nvcc names the newest that it takes)'


# ---- Command line ----

def main(argv):
    parser = argparse.ArgumentParser(prog='python -m custom_ops.build', description='Build the native operations, or remove their builds.',
                                     formatter_class=cli.help_formatter, allow_abbrev=False)
    parser.add_argument('--verbose', action='store_true', help='print the commands and what they say')
    parser.add_argument('--clean', action='store_true', help='remove all builds; the next use builds anew')
    parser.add_argument('--cuda', action='store_true', help="build CUDA kernels for this machine's GPUs, though TensorFlow sees none")
    parser.add_argument('--arch', metavar='LIST', type=lambda text: text.split(','),
                        help='build CUDA kernels for these GPU architectures, such as 80,90, or for all (default: those of the GPUs that '
                             'TensorFlow sees)')
    cli.add_debug_flag(parser)
    args = parser.parse_args(argv)
    if args.clean:
        print('\n'.join(f'Emptied {root}' for root in build_cache.clean()) or 'There was nothing to remove.')
        return
    path = build(args.verbose, retry=True, archs=args.arch, cuda=args.cuda)
    archs = describe(path)['archs']
    print(f'{path}: kernels for CPU' + (f' and CUDA ({", ".join(f"sm_{arch}" for arch in archs)})' if archs else ''))
    import tensorflow as tf
    if not archs and not tf.config.get_visible_devices('GPU'):
        print('There are no CUDA kernels in it, because TensorFlow sees no GPU here. For other machines: --arch=80,90')


if __name__ == '__main__':
    cli.run(main)
