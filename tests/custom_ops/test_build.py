"""The builder, on a stand-in for custom_ops/native: plain C++ that compiles at once; nvcc is a script."""

import concurrent.futures
import ctypes
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import types

import pytest
import tensorflow as tf

from custom_ops import build, build_cache, compilers, cpu_features, cuda_compilers, nvrtc
from dnnlib import cli
from tests import ROOT

SOURCE = 'extern "C" int twice(int x) { return 2 * x; }\n'
CXX = '''#!/bin/sh
case "$*" in *--version*|*-dM*) ;; *) echo "$*" >> "{calls}" ;; esac
exec {real} "$@"
'''
NVCC = '''#!/bin/sh
case "$*" in
  *--version*) echo "release {version}" ;;
  *--list-gpu-arch*) printf 'compute_80\\ncompute_90\\n' ;;
  *--dryrun*) echo '#$ INCLUDES="-I{include}" ' >&2 ;;
  *) echo "$*" >> "{calls}"; {compile} ;;
esac
'''
TOO_NEW = ('echo "host_config.h:143:2: error: #error -- unsupported GNU version! '
           'gcc versions later than 13 are not supported!" >&2; exit 1')
FAKE_IMAGE = 'for last; do :; done; echo "of nvcc" > "$last"'


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)


def gpus(monkeypatch, seen=(), there=()):
    """Compute capabilities, such as [90], of the GPUs that TensorFlow sees, and of those that only nvidia-smi shows."""
    monkeypatch.setattr(tf.config, 'get_visible_devices', lambda kind: [f'{kind}:{i}' for i in range(len(seen))])
    monkeypatch.setattr(cuda_compilers, '_gpus_of_nvidia_smi', lambda: [*seen, *there])


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with native/ (the sources), cache/ (the user's) and bin/ (first on the PATH).

    `compiled()` returns the commands that the compilers were run with so far; `nvcc()` installs a stand-in for nvcc.
    """
    native, bin_dir, calls = tmp_path / 'native', tmp_path / 'bin', tmp_path / 'calls'
    native.mkdir()
    bin_dir.mkdir()
    (native / 'op.cc').write_text(SOURCE)
    for name in ('CXX', 'NVCC_CCBIN', 'CUDA_HOME', 'CUDA_PATH', 'STYLEGAN2_OPS_CACHE', 'STYLEGAN2_OPS_LIBRARY'):
        monkeypatch.delenv(name, raising=False)
    script(bin_dir / 'g++', CXX.format(calls=calls, real=shutil.which('g++')))
    monkeypatch.setenv('PATH', f'{bin_dir}{os.pathsep}{os.environ["PATH"]}')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(build_cache, 'SOURCES', native)
    monkeypatch.setattr(nvrtc, 'find', lambda cuda_version: None)
    gpus(monkeypatch)

    def compiled():
        return calls.read_text().splitlines() if calls.exists() else []

    def nvcc(compile=FAKE_IMAGE, version='12.5'):
        script(bin_dir / 'nvcc', NVCC.format(calls=calls, compile=compile, version=version, include=tmp_path))
        (native / 'gpu_kernels.cu').write_text('// stand-in')
        monkeypatch.setattr(tf.test, 'is_built_with_cuda', lambda: True)

    return types.SimpleNamespace(path=tmp_path, native=native, bin=bin_dir, compiled=compiled, nvcc=nvcc)


def fails(**options):
    with pytest.raises(build.BuildError) as caught:
        build.build(**options)
    return caught.value


def key():
    return build._wanted(build._recipe(None)).key


def command(*argv):
    with pytest.raises(SystemExit) as caught:
        cli.run(build.main, list(argv))
    return caught.value.code


# ---- What it makes ----

def test_it_builds_once_beside_the_sources_and_then_finds_the_build(home, capsys):
    path = build.build()
    assert pathlib.Path(path).parents[1] == home.native / '_build'
    assert ctypes.CDLL(path).twice(21) == 42
    assert '(once; about half a minute)' in capsys.readouterr().err
    commands = home.compiled()
    assert len(commands) == 2  # One object, one link.
    assert build.build() == path and home.compiled() == commands
    assert capsys.readouterr().err == ''
    assert sorted(os.listdir(pathlib.Path(path).parent)) == ['build.json', 'log.txt', 'stylegan2_ops.so']
    assert build.describe(path)['archs'] == [] and build.describe(path)['cuda_error'] is None


def test_flags(home):
    build.build()
    compile_command, link_command = home.compiled()
    for flag in ('-O3', '-march=native', '-fno-math-errno', '-fPIC', '-std=c++', '-D_GLIBCXX_USE_CXX11_ABI='):
        assert flag in compile_command
    assert 'fast-math' not in compile_command + link_command
    assert link_command.split()[-1] == '-Wl,-z,defs'


@pytest.mark.skipif(platform.machine() != 'x86_64', reason='The architectures are those of x86-64')
@pytest.mark.parametrize('arch', ['x86-64', 'haswell', 'skylake-avx512', 'sapphirerapids'])
def test_the_real_sources_compile_for_other_cpus(arch):
    """For those of the last twenty years, whatever this one is: Eigen has code of its own for each."""
    recipe = build._recipe(None)
    flags = [flag.replace('=native', f'={arch}') for flag in recipe.compile_flags]
    for name in ('cpu_upfirdn.cc', 'cpu_upfirdn_nhwc.cc', 'cpu_bias_act.cc', 'cpu_curves.cc'):
        done = subprocess.run([*recipe.cxx, *flags, '-fsyntax-only', str(build_cache.SOURCES / name)],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_an_undefined_symbol_is_found_when_it_is_built_and_not_when_it_is_loaded(home):
    (home.native / 'op.cc').write_text('int elsewhere(); int here() { return elsewhere(); }')
    assert 'elsewhere' in fails().fact


def test_cxx_names_the_compiler(home, monkeypatch):
    script(home.bin / 'other', CXX.format(calls=home.path / 'other_calls', real=shutil.which('g++')))
    monkeypatch.setenv('CXX', 'other -DHERE')
    build.build()
    assert '-DHERE' in (home.path / 'other_calls').read_text()


def change_source(home, monkeypatch):
    (home.native / 'op.cc').write_text(SOURCE + '//')


def add_header(home, monkeypatch):
    (home.native / 'params.h').write_text('')


def change_flags(home, monkeypatch):
    monkeypatch.setattr(build, '_CXX_FLAGS', [*build._CXX_FLAGS, '-g'])


def change_tensorflow(home, monkeypatch):
    monkeypatch.setattr(tf.version, 'VERSION', '9.9.9')


def change_compiler(home, monkeypatch):
    script(home.bin / 'g++', '#!/bin/sh\necho g++ 99')


def change_cpu(home, monkeypatch):
    monkeypatch.setattr(cpu_features, 'description', lambda: 'flags : sse')


def change_level(home, monkeypatch):
    monkeypatch.setitem(build._LEVELS, 'op.cc', '-O1')


def add_nvcc_and_gpu(home, monkeypatch):
    home.nvcc()
    gpus(monkeypatch, seen=[90])


@pytest.mark.parametrize('change', [change_source, add_header, change_flags, change_level, change_tensorflow,
                                    change_compiler, change_cpu, add_nvcc_and_gpu])
def test_the_key_changes_with_all_that_the_build_depends_on(home, monkeypatch, change):
    before = key()
    (home.native / 'notes.txt').write_text('no source')
    assert key() == before
    change(home, monkeypatch)
    assert key() != before


def test_the_key_changes_with_nvcc_its_host_compiler_and_the_gpus(home, monkeypatch):
    home.nvcc()
    keys = [key()]
    home.nvcc(version='12.6')
    assert key() == keys[0]  # Without a GPU, nvcc has no part in it.
    gpus(monkeypatch, seen=[80])
    keys.append(key())
    home.nvcc(version='12.7')
    keys.append(key())
    monkeypatch.setenv('NVCC_CCBIN', 'g++-12')
    keys.append(key())
    gpus(monkeypatch, seen=[90])
    keys.append(key())
    assert len(set(keys)) == 5


# ---- Several at once, leftovers, old builds ----

@pytest.mark.slow
def test_processes_that_start_together_share_one_build_even_if_their_caches_differ(home):
    script(home.bin / 'g++', (home.bin / 'g++').read_text().replace(' ;;\nesac', '; sleep 2 ;;\nesac'))
    code = ('import pathlib, sys\nfrom custom_ops import build, build_cache\n'
            'build_cache.SOURCES = pathlib.Path(sys.argv[1])\nprint(build.build())')
    caches = [home.native / '_build', home.native / '_build', home.path / 'mine']
    envs = [{}, {}, {'STYLEGAN2_OPS_CACHE': str(caches[-1])}]

    def run(env):
        return subprocess.run([sys.executable, '-c', code, home.native], cwd=ROOT, env={**os.environ, **env},
                              capture_output=True, text=True)
    with concurrent.futures.ThreadPoolExecutor(len(envs)) as pool:
        runs = list(pool.map(run, envs))
    assert [run.returncode for run in runs] == [0] * len(runs), runs
    assert len(home.compiled()) == 2
    assert sum('Building' in run.stderr for run in runs) == 1
    paths = [pathlib.Path(run.stdout.strip()) for run in runs]
    assert all(path.is_file() for path in paths) and paths[2].parents[1] == caches[2]
    assert all(path.parents[1] in (*caches, home.path / 'cache' / 'stylegan2-tf2') for path in paths)
    for cache in {path.parents[1] for path in paths}:
        assert sorted(os.listdir(cache)) == sorted(['.lock', paths[0].parent.name])


def test_a_build_is_found_by_another_checkout_and_copied_to_the_folder_that_the_environment_names(home, monkeypatch):
    path = pathlib.Path(build.build())
    commands = home.compiled()
    other = home.path / 'other_checkout' / 'native'
    shutil.copytree(home.native, other, ignore=shutil.ignore_patterns('_build'))
    monkeypatch.setattr(build_cache, 'SOURCES', other)
    assert pathlib.Path(build.build()).parents[1] == home.path / 'cache' / 'stylegan2-tf2'
    monkeypatch.setenv('STYLEGAN2_OPS_CACHE', str(home.path / 'mine'))
    mine = pathlib.Path(build.build())
    assert mine == home.path / 'mine' / path.parent.name / path.name and mine.read_bytes() == path.read_bytes()
    assert sorted(os.listdir(mine.parent)) == ['build.json', 'log.txt', 'stylegan2_ops.so']
    assert home.compiled() == commands


def test_builds_used_last_are_kept_and_what_a_killed_process_left_is_removed(home):
    root = home.native / '_build'
    names = [f'{i:020x}' for i in range(build_cache._KEPT_BUILDS + 3)]
    for age, name in enumerate(names):
        (root / name).mkdir(parents=True)
        os.utime(root / name, (10 ** 9 - age, 10 ** 9 - age))
    (root / f'{names[0]}.tmp-x').mkdir()
    (root / 'notes').mkdir()
    path = build.build()
    kept = names[:build_cache._KEPT_BUILDS]
    assert set(os.listdir(root)) == {*kept, 'notes', '.lock', pathlib.Path(path).parent.name}


def test_clean_empties_both_folders_of_builds_and_of_nothing_else(home, capsys):
    build.build()
    user = home.path / 'cache' / 'stylegan2-tf2'
    (user / ('0' * 20)).mkdir()
    (user / 'notes').write_text('mine')
    assert command('--clean') == 0
    assert capsys.readouterr().out.splitlines() == [f'Emptied {home.native / "_build"}', f'Emptied {user}']
    assert not (home.native / '_build').exists() and os.listdir(user) == ['notes']
    assert command('--clean') == 0 and 'nothing to remove' in capsys.readouterr().out


# ---- Where ----

def test_where_the_install_folder_cannot_be_written_it_builds_in_the_users_cache(home):
    (home.native / '_build').write_text('a file where the folder should be')
    path = build.build()
    assert pathlib.Path(path).parents[1] == home.path / 'cache' / 'stylegan2-tf2'
    assert build.build() == path and len(home.compiled()) == 2


def test_a_build_in_the_users_cache_is_found_though_the_install_folder_can_be_written(home):
    (home.native / '_build').write_text('')
    path = build.build()
    (home.native / '_build').unlink()
    assert build.build() == path


def test_the_environment_names_the_only_folder(home, monkeypatch):
    monkeypatch.setenv('STYLEGAN2_OPS_CACHE', str(home.path / 'mine'))
    assert pathlib.Path(build.build()).parents[1] == home.path / 'mine'
    monkeypatch.setenv('STYLEGAN2_OPS_CACHE', str(home.native / 'op.cc' / 'under_a_file'))
    err = fails()
    assert 'under_a_file' in err.fact and 'STYLEGAN2_OPS_CACHE' in err.remedy


def test_no_folder_at_all_is_explained(home):
    (home.native / '_build').write_text('')
    (home.path / 'cache').write_text('')
    err = fails()
    assert '_build' in err.fact and 'stylegan2-tf2' in err.fact and 'STYLEGAN2_OPS_CACHE' in err.remedy


# ---- A finished build is found wherever it fits ----

def change_build_json(path, **changes):
    file = pathlib.Path(path).parent / 'build.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_finished_build_is_found_where_there_is_no_compiler(home, monkeypatch):
    home.nvcc()
    path = build.build(archs=['80'])
    commands = home.compiled()
    monkeypatch.setenv('PATH', str(home.path / 'nowhere'))
    for seen in ([], [80], [86], [120]):  # Code for 80 runs on 86, and drivers make it for 120 from PTX.
        gpus(monkeypatch, seen=seen)
        assert build.build() == path
    assert home.compiled() == commands
    gpus(monkeypatch, seen=[75])
    assert 'no C++ compiler' in fails().fact
    gpus(monkeypatch)
    (home.native / 'op.cc').write_text(SOURCE + '//')
    assert 'no C++ compiler' in fails().fact


def test_the_command_names_a_finished_build_where_there_is_no_compiler(home, monkeypatch, capsys):
    path = build.build()
    monkeypatch.setenv('PATH', str(home.path / 'nowhere'))
    build.main([])
    out = capsys.readouterr().out
    assert 'no C++ compiler' in out and 'A build that fits this machine is there' in out and path in out
    with pytest.raises(build.BuildError, match=r'no C\+\+ compiler'):
        build.main(['--arch=80'])  # What was asked for is not there.
    (home.native / 'op.cc').write_text(SOURCE + '//')
    with pytest.raises(build.BuildError, match=r'no C\+\+ compiler'):
        build.main([])


def test_a_build_of_another_cpu_is_used_where_its_instructions_are_known(home, monkeypatch):
    path = build.build()
    change_build_json(path, instructions=['avx2', 'avx512f'], built_on='another CPU')
    commands = home.compiled()
    monkeypatch.setattr(cpu_features, 'description', lambda: 'flags : fpu avx2 avx512f avx512bw')
    assert build.build() == path and home.compiled() == commands
    monkeypatch.setattr(cpu_features, 'description', lambda: 'flags : fpu avx2')
    mine = build.build()
    assert mine != path and home.compiled() != commands
    # Each CPU gets the build that was made on it, though both fit.
    change_build_json(path, time='2099-01-01T00:00:00')
    change_build_json(mine, instructions=['avx2'])
    assert build.build() == mine


def test_what_the_compiler_uses_is_recorded(home):
    recorded = build.describe(build.build())['instructions']
    assert recorded and cpu_features.missing(recorded) == []
    macros = '#define __AVX2__ 1\n#define __AVX512FP 1\n#define __LZCNT__ 1\n'
    assert cpu_features.used(macros) == ['abm', 'avx2']


@pytest.mark.skipif(platform.machine() != 'x86_64', reason='The instruction sets are those of x86-64')
def test_portable_builds_for_every_cpu_with_avx2(home, capsys):
    assert command('--portable') == 0
    path = capsys.readouterr().out.split(':')[0]
    compiled = [line for line in home.compiled() if '-c' in line.split()]
    assert compiled and all('-march=x86-64-v3' in line and '-march=native' not in line for line in compiled)
    instructions = build.describe(path)['instructions']
    assert {'avx2', 'fma', 'bmi2'} <= set(instructions) and not any('avx512' in name for name in instructions)
    assert build.build() == path


def test_portable_is_refused_on_a_machine_it_does_not_know(home, monkeypatch):
    monkeypatch.setattr(platform, 'machine', lambda: 'riscv64')
    err = fails(portable=True)
    assert err.fact == '--portable: expected a CPU of x86_64 or aarch64, this is riscv64'


def test_the_environment_names_the_library(home, monkeypatch):
    path = pathlib.Path(build.build())
    mine = home.path / 'mine'
    shutil.copytree(path.parent, mine)
    monkeypatch.setenv('STYLEGAN2_OPS_LIBRARY', str(mine / path.name))
    assert build.build() == str(mine / path.name)
    assert build.build(retry=True) == str(path)  # The command builds.
    monkeypatch.setenv('PATH', str(home.path / 'nowhere'))
    assert build.build() == str(mine / path.name)


@pytest.mark.parametrize('changes, seen, why', [
    (dict(tensorflow='2.14.0'), [], f'it was built for TensorFlow 2.14.0, this is TensorFlow {tf.version.VERSION}'),
    (dict(sources='0'), [], 'it was built from other sources than those of this version of stylegan2-tf2'),
    (dict(machine='vax'), [], f'it was built for vax, this is {platform.machine()}'),
    (dict(built_on='0', instructions=['avx2048']), [], 'it needs a CPU with avx2048'),
    (dict(), [90], 'it has no CUDA kernels, and there is a GPU'),
    (dict(archs=['90']), [80], 'it has CUDA kernels for 90, and the GPU here has 80'),
    (dict(error=['x', 'y']), [], 'it failed'),
])
def test_a_library_that_does_not_fit_is_refused_in_one_line(home, monkeypatch, changes, seen, why):
    path = build.build()
    change_build_json(path, **changes)
    monkeypatch.setenv('STYLEGAN2_OPS_LIBRARY', path)
    monkeypatch.setattr(tf.test, 'is_built_with_cuda', lambda: True)
    gpus(monkeypatch, seen=seen)
    err = fails()
    assert err.fact == f'STYLEGAN2_OPS_LIBRARY={path}: {why}' and 'unset STYLEGAN2_OPS_LIBRARY' in err.remedy


def test_a_library_that_is_not_there_or_alone_is_refused(home, monkeypatch):
    path = pathlib.Path(build.build())
    monkeypatch.setenv('STYLEGAN2_OPS_LIBRARY', str(path.parent))
    assert 'there is no such file' in fails().fact
    monkeypatch.setenv('STYLEGAN2_OPS_LIBRARY', str(path))
    (path.parent / 'build.json').unlink()
    assert 'build.json' in fails().fact and 'whole folder' in fails().remedy


@pytest.mark.parametrize('archs, gpu, covered', [
    (['80'], 80, True), (['80'], 86, True), (['86'], 80, False), (['80'], 90, True), (['90'], 89, False),
    (['80', '90'], 89, True), (['90a'], 90, True), (['90a'], 100, False), (['100'], 120, True), ([], 80, False)])
def test_which_gpus_a_build_covers(archs, gpu, covered):
    assert build_cache._covers(archs, gpu) is covered


# ---- Failures ----

def test_a_failure_is_remembered_explained_and_tried_again_by_the_command_only(home, capsys):
    (home.native / 'op.cc').write_text('int broken = "text";\n')
    err = fails()
    assert 'invalid conversion' in err.fact and compilers.RETRY_COMMAND in err.remedy
    log, = (home.native / '_build').glob('*/log.txt')
    assert str(log) in err.remedy and 'invalid conversion' in log.read_text() and '-march=native' in log.read_text()
    commands = home.compiled()
    assert str(fails()) == str(err) and home.compiled() == commands
    capsys.readouterr()
    assert command() == 1
    assert capsys.readouterr().err.splitlines()[2:] == f'Error: {err}'.splitlines()  # After the two lines of progress.
    assert len(home.compiled()) == len(commands) + 1
    # The cause goes away.
    script(home.bin / 'g++', (home.bin / 'g++').read_text().replace('exec', 'set -- "$@" -fpermissive; exec'))
    assert command() == 0
    assert build.build()


def test_verbose_prints_the_commands(home, capsys):
    assert command('--verbose') == 0
    out = capsys.readouterr().out
    assert '-march=native' in out and '-shared' in out
    assert out.splitlines()[-2].endswith('stylegan2_ops.so: kernels for CPU')


def test_without_compiler_the_package_is_named_and_nothing_is_remembered(home, monkeypatch):
    monkeypatch.setenv('PATH', str(home.path / 'nowhere'))
    monkeypatch.setattr(compilers.platform, 'freedesktop_os_release', lambda: {'ID': 'debian'})
    err = fails()
    assert 'g++' in err.fact and 'apt install g++' in err.remedy and 'conda' in err.remedy
    monkeypatch.setenv('CXX', 'no-such-compiler')
    assert 'no-such-compiler' in fails().fact
    assert not (home.native / '_build').exists()


@pytest.mark.parametrize('release, command', [
    ({'ID': 'debian'}, 'apt install g++'), ({'ID': 'ubuntu', 'ID_LIKE': 'debian'}, 'apt install g++'),
    ({'ID': 'fedora'}, 'dnf install gcc-c++'),
    ({'ID': 'rocky', 'ID_LIKE': 'rhel centos fedora'}, 'dnf install gcc-c++'),
    ({'ID': 'opensuse-leap', 'ID_LIKE': 'suse opensuse'}, 'zypper'), ({'ID': 'arch'}, 'pacman'),
    ({'ID': 'nixos'}, None), (None, None)], ids=str)
def test_the_compiler_is_installed_with_what_the_system_has(monkeypatch, release, command):
    def os_release():
        if release is None:
            raise OSError('Unable to read files /etc/os-release, /usr/lib/os-release')
        return release
    monkeypatch.setattr(compilers.platform, 'freedesktop_os_release', os_release)
    texts = [compilers.how_to_install_gxx(), compilers.explain_failure(
        'a.cc:1:10: fatal error: vector: No such file or directory', pathlib.Path('log.txt')).remedy]
    for text in texts:
        assert (command or 'conda') in text and 'conda install -c conda-forge gxx' in text
        assert ('apt ' in text) == (command == 'apt install g++')
    monkeypatch.setattr(compilers.shutil, 'which', lambda name: None)
    err = compilers.explain_failure('# error -- unsupported GNU version!', pathlib.Path('log.txt'))
    assert ('apt install g++-12' in err.remedy) == (command == 'apt install g++') and 'NVCC_CCBIN=g++-12' in err.remedy


def test_other_systems_are_not_told_to_install_a_compiler(home, monkeypatch):
    monkeypatch.setenv('PATH', str(home.path / 'nowhere'))
    monkeypatch.setattr(build.sys, 'platform', 'win32')
    err = fails()
    assert 'on Linux only' in err.fact and 'reference form' in err.remedy and 'install' not in err.remedy


def test_missing_headers_and_missing_sources(home, monkeypatch):
    (home.native / 'op.cc').unlink()
    assert 'sources' in fails().fact
    monkeypatch.setattr(tf.sysconfig, 'get_include', lambda: str(home.path))
    assert 'headers' in fails().fact


def test_a_full_disk_is_named_and_not_remembered(home):
    good = (home.bin / 'g++').read_text()
    full = 'case "$*" in *-c*) echo "error: No space left on device" >&2; exit 1;; esac; exec'
    script(home.bin / 'g++', good.replace('exec', full))
    err = fails()
    assert 'no space left' in err.fact and 'STYLEGAN2_OPS_CACHE' in err.remedy
    assert os.listdir(home.native / '_build') == ['.lock']


@pytest.mark.parametrize('output, fact, remedy', [
    ('a.cc:1:10: fatal error: tensorflow/core/framework/op.h: No such file or directory', 'TensorFlow', 'pip install'),
    ('a.cc:1:10: fatal error: cuda_runtime.h: No such file or directory', 'CUDA toolkit', 'CUDA_HOME'),
    ('gpu_common.h(4): catastrophic error: cannot open source file "cuda_fp16.h"', 'CUDA toolkit', 'CUDA_HOME'),
    ('a.cc:1:10: fatal error: vector: No such file or directory', 'own headers', 'apt install g++'),
    ('g++: fatal error: Killed signal terminated program cc1plus', 'memory', 'Free'),
    ('cc1plus: error: unrecognized command-line option "--std=c++17"', 'too old', 'CXX'),
    ('# error -- unsupported clang version! clang version must be less than 19', 'too new for this nvcc', 'NVCC_CCBIN'),
    ('op.cc:7:3: error: expected unqualified-id', 'expected unqualified-id', 'CXX'),
    ('', 'failed', 'log.txt'),
])
def test_known_causes_have_their_remedies(output, fact, remedy, monkeypatch):
    monkeypatch.setattr(compilers.platform, 'freedesktop_os_release', lambda: {'ID': 'debian'})
    err = compilers.explain_failure(f'first line\n{output}\nlast line', pathlib.Path('/cache/log.txt'))
    assert fact in err.fact and remedy in err.remedy
    assert '/cache/log.txt' in err.remedy and compilers.RETRY_COMMAND in err.remedy


# ---- CUDA ----

def gencodes(home):
    """The words of the nvcc command that say what is compiled for; one command."""
    line, = (line for line in home.compiled() if '-gencode' in line)
    return [word for word in line.split() if 'gencode' in word]


def test_without_a_gpu_nvcc_is_not_called_and_the_command_says_so(home, capsys):
    home.nvcc()
    assert command() == 0
    assert build.describe(build.build())['archs'] == [] and build.describe(build.build())['cuda_error'] is None
    assert not any('gencode' in line or 'STYLEGAN2_CUDA' in line for line in home.compiled())
    assert 'TensorFlow sees no GPU' in capsys.readouterr().out.splitlines()[-1]


def test_a_gpu_that_tensorflow_does_not_see_counts_with_cuda_only(home, monkeypatch):
    home.nvcc()
    gpus(monkeypatch, there=[90])
    assert build.describe(build.build())['archs'] == []
    assert command('--cuda') == 0
    assert gencodes(home) == ['-gencode=arch=compute_90,code=sm_90', '-gencode=arch=compute_90,code=compute_90']


def test_cuda_kernels_are_those_of_the_gpu_that_tensorflow_sees_and_its_ptx(home, monkeypatch, capsys):
    home.nvcc()
    gpus(monkeypatch, seen=[80])
    assert command() == 0
    assert gencodes(home) == ['-gencode=arch=compute_80,code=sm_80', '-gencode=arch=compute_80,code=compute_80']
    shown = capsys.readouterr()
    assert 'CPU and CUDA (sm_80)' in shown.err and shown.out.endswith('kernels for CPU and CUDA (sm_80)\n')


def test_where_nvidia_smi_is_silent_tensorflow_tells_the_architecture(home, monkeypatch):
    home.nvcc()
    gpus(monkeypatch, seen=[80])
    monkeypatch.setattr(cuda_compilers, '_gpus_of_nvidia_smi', lambda: [])
    monkeypatch.setattr(tf.config.experimental, 'get_device_details', lambda device: {'compute_capability': (9, 0)})
    assert build.describe(build.build())['archs'] == ['90']
    monkeypatch.setattr(tf.config.experimental, 'get_device_details', lambda device: {})
    info = build.describe(build.build())
    fact, remedy = info['cuda_error']
    assert info['archs'] == [] and 'no GPU here tells its architecture' in fact and '--arch=80,90' in remedy


def test_cuda_without_any_gpu_asks_for_the_architecture(home, capsys):
    home.nvcc()
    assert command('--cuda') == 1
    err = capsys.readouterr().err
    assert '--cuda: no GPU here tells its architecture' in err and '--arch=80,90' in err and home.compiled() == []


def test_what_nvidia_smi_says(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    script(tmp_path / 'nvidia-smi', "#!/bin/sh\nprintf '9.0\\n12.0\\n'")
    assert cuda_compilers._gpus_of_nvidia_smi() == [90, 120]
    script(tmp_path / 'nvidia-smi', '#!/bin/sh\necho no driver; exit 9')
    assert cuda_compilers._gpus_of_nvidia_smi() == []


def test_arch_all_compiles_for_every_architecture(home):
    home.nvcc()
    path = build.build(archs=['all'])
    assert build.describe(path)['archs'] == ['80', '90']
    nvcc_command, = (line for line in home.compiled() if '-gencode' in line)
    assert gencodes(home) == [
        '-gencode=arch=compute_80,code=sm_80', '-gencode=arch=compute_90,code=sm_90',
        '-gencode=arch=compute_90,code=compute_90']
    assert 'tensorflow/include' not in nvcc_command and 'fast' not in nvcc_command
    cc_command, = (line for line in home.compiled() if 'op.cc.o' in line and '-c' in line.split())
    assert '-DSTYLEGAN2_CUDA=1' in cc_command
    link = home.compiled()[-1].split()
    assert not any('cudart' in word for word in link)  # The driver alone is enough, and is not linked.
    places = [next(i for i, word in enumerate(link) if name in word)
              for name in ('gpu_kernels.cu.o', 'images.S', 'tensorflow_framework', '-Wl,-z,defs')]
    assert places == sorted(places)
    assert b'of nvcc' in pathlib.Path(path).read_bytes()
    assert sorted(os.listdir(pathlib.Path(path).parent)) == ['build.json', 'log.txt', 'stylegan2_ops.so']


def test_a_host_compiler_too_new_for_nvcc_leaves_the_cpu_part_and_names_the_remedy(home, monkeypatch, capsys):
    home.nvcc(compile=TOO_NEW)
    gpus(monkeypatch, seen=[80])
    path = build.build()
    assert ctypes.CDLL(path).twice(2) == 4
    shown = capsys.readouterr().err
    assert 'only those for the CPU' in shown and 'unsupported GNU version' in shown and 'NVCC_CCBIN' in shown
    info = build.describe(path)
    fact, remedy = info['cuda_error']
    assert info['archs'] == [] and 'too new for this nvcc' in fact and 'NVCC_CCBIN' in remedy
    assert '-DSTYLEGAN2_CUDA' not in [line for line in home.compiled() if '-c' in line.split()][-1]
    commands = len(home.compiled())
    assert build.build() == path and len(home.compiled()) == commands  # Not tried again by itself ...
    home.nvcc()
    (home.native / 'gpu_kernels.cu').write_text('// stand-in')
    assert command() == 0 and build.describe(build.build())['archs'] == ['80']  # ... but by the command.


def test_an_nvcc_that_does_not_run_leaves_the_cpu_part(home, monkeypatch):
    home.nvcc()
    gpus(monkeypatch, seen=[80])
    script(home.bin / 'nvcc', '#!/bin/sh\necho "nvcc: cannot start" >&2; exit 3')
    info = build.describe(build.build())
    assert info['archs'] == [] and 'cannot start' in info['cuda_error'][0]


def test_without_a_cuda_build_of_tensorflow_nvcc_is_not_asked(home, monkeypatch):
    home.nvcc()
    gpus(monkeypatch, seen=[80])
    monkeypatch.setattr(tf.test, 'is_built_with_cuda', lambda: False)
    assert build.describe(build.build())['archs'] == []
    for options in ({'archs': ['80']}, {'cuda': True}):
        assert 'nvcc' in fails(**options).fact


@pytest.mark.parametrize('archs, gpus, chosen', [
    (None, [80, 80], ['80']),
    (None, [86, 75], ['75', '80']),
    (None, [120], ['100']),
    (['all'], [80], ['75', '80', '90', '100']),
    (['9.0', 'sm_80'], [], ['80', '90']),
    (['90a'], [], ['90a']),
])
def test_architectures_are_those_asked_for_or_of_the_gpus_here(archs, gpus, chosen):
    assert cuda_compilers._choose_archs(['75', '80', '90', '100'], archs, gpus) == chosen


def test_a_gpu_older_than_all_that_nvcc_knows_is_named():
    with pytest.raises(build.BuildError, match='compiles for 75, 80, and the GPU has 35'):
        cuda_compilers._choose_archs(['75', '80'], None, [35])


def test_an_unknown_architecture_is_refused(home, capsys):
    home.nvcc()
    assert command('--arch=42') == 1
    assert '--arch: the CUDA compiler here does not know 42\nIt knows 80, 90.' in capsys.readouterr().err


def test_a_build_for_several_architectures_serves_machines_with_one_of_them_or_none(home, monkeypatch):
    home.nvcc()
    path = build.build(archs=['80', '90'])
    commands = home.compiled()
    for seen in ([90], [80], []):
        gpus(monkeypatch, seen=seen)
        assert build.build() == path
    assert home.compiled() == commands
    home.nvcc(version='12.6')
    assert build.build() == path  # Whatever nvcc is there now.
    gpus(monkeypatch, seen=[75])
    assert 'compiles for 80, 90, and the GPU has 75' in build.describe(build.build())['cuda_error'][0]


NVRTC = """#!/usr/bin/env python3
import sys
_python, _isolated, _program, library, source, output, target, *flags = sys.argv
open({calls!r}, 'a').write(' '.join(['nvrtc', target, *flags]) + '\\n')
open(output, 'w').write('of nvrtc for ' + target)
"""


def test_nvrtc_makes_an_image_per_architecture_and_comes_before_the_systems_nvcc(home, monkeypatch):
    home.nvcc()
    script(home.bin / 'python', NVRTC.format(calls=str(home.path / 'calls')))
    monkeypatch.setattr(sys, 'executable', str(home.bin / 'python'))
    monkeypatch.setattr(nvrtc, 'find', lambda cuda_version: 'libnvrtc.so.12')
    monkeypatch.setattr(nvrtc, 'architectures', lambda library: ['80', '90', '100'])
    monkeypatch.setattr(nvrtc, 'version', lambda library: '12.9')
    path = pathlib.Path(build.build(archs=['100', '90']))
    targets = sorted(line.split()[1] for line in home.compiled() if line.startswith('nvrtc'))
    assert targets == ['compute_100', 'sm_100', 'sm_90'] and not any('-gencode' in line for line in home.compiled())
    data = path.read_bytes()  # The driver takes the first image that fits.
    places = [data.index(f'of nvrtc for {target}\0'.encode()) for target in ('sm_100', 'sm_90', 'compute_100')]
    assert places == sorted(places) and build.describe(str(path))['archs'] == ['90', '100']
    monkeypatch.setenv('CUDA_HOME', str(home.path))  # A toolkit that is asked for comes first.
    build.build(archs=['80'])
    assert gencodes(home)[0] == '-gencode=arch=compute_80,code=sm_80'


# ---- Progress ----

def test_what_is_compiled_and_how_long_it_took_last_time(home, capsys):
    (home.native / 'more.cc').write_text('// nothing')
    build.build()
    first = capsys.readouterr().err.splitlines()
    assert len(first) == 4 and first[-1].startswith('Built the custom ops in ')
    assert [line.split(':')[0] for line in first[1:3]] == ['  1 of 2', '  2 of 2']
    assert {line.split(': ')[1].split(',')[0] for line in first[1:3]} == {'op.cc', 'more.cc'}
    assert 'last time' not in ''.join(first)
    build_json, = (home.native / '_build').glob('*/build.json')
    info = json.loads(build_json.read_text())
    assert set(info['times']) == {'op.cc', 'more.cc', 'all'} and 0 < info['times']['op.cc'] <= info['times']['all']
    info['times'] = {'op.cc': 17, 'all': 41}
    build_json.write_text(json.dumps(info))
    (home.native / 'op.cc').write_text(SOURCE + '//')
    build.build()
    second = capsys.readouterr().err
    assert '(once; 41 s last time)' in second
    assert re.search(r' op.cc, \d+ s \(last time 17 s\)\n', second) and re.search(r' more.cc, \d+ s\n', second)


def test_on_a_terminal_one_line_is_written_anew(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
    with open(os.devnull, 'w') as log:
        failed, times = compilers.run_all({'a.cc': ['sleep', '1.2'], 'b.cc': ['false']}, log, False, {'a.cc': 3})
    assert failed == ['false ended with code 1'] and set(times) == {'a.cc', 'b.cc'} and times['a.cc'] >= 1.2
    shown = capsys.readouterr().err
    assert '\n' not in shown and 's, 1 of 2 compiled; now a.cc (last time 3 s)' in shown
