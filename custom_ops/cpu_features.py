"""Instruction sets: which a compiler uses with given flags, and which this CPU has.

Both are given in the words of /proc/cpuinfo, so that they can be compared.
"""

import pathlib
import platform
from collections.abc import Iterable

# Macro that g++ and clang define where they may use an instruction set -> its name in /proc/cpuinfo. These are the sets
# whose instructions compilers generate by themselves; x86-64 has SSE and SSE2, and armv8-a has NEON, on every CPU.
_MACROS = {
    '__SSE3__': 'pni', '__SSSE3__': 'ssse3', '__SSE4_1__': 'sse4_1', '__SSE4_2__': 'sse4_2', '__SSE4A__': 'sse4a',
    '__POPCNT__': 'popcnt', '__LZCNT__': 'abm', '__BMI__': 'bmi1', '__BMI2__': 'bmi2', '__MOVBE__': 'movbe',
    '__TBM__': 'tbm', '__ADX__': 'adx', '__GFNI__': 'gfni',
    '__AVX__': 'avx', '__AVX2__': 'avx2', '__FMA__': 'fma', '__FMA4__': 'fma4', '__XOP__': 'xop', '__F16C__': 'f16c',
    '__AVXVNNI__': 'avx_vnni', '__AVX512F__': 'avx512f', '__AVX512CD__': 'avx512cd', '__AVX512BW__': 'avx512bw',
    '__AVX512DQ__': 'avx512dq', '__AVX512VL__': 'avx512vl', '__AVX512IFMA__': 'avx512ifma',
    '__AVX512VBMI__': 'avx512vbmi', '__AVX512VBMI2__': 'avx512_vbmi2', '__AVX512VNNI__': 'avx512_vnni',
    '__AVX512BITALG__': 'avx512_bitalg', '__AVX512VPOPCNTDQ__': 'avx512_vpopcntdq', '__AVX512BF16__': 'avx512_bf16',
    '__AVX512FP16__': 'avx512_fp16', '__APX_F__': 'apx',
    '__ARM_FEATURE_ATOMICS': 'atomics', '__ARM_FEATURE_QRDMX': 'asimdrdm', '__ARM_FEATURE_DOTPROD': 'asimddp',
    '__ARM_FEATURE_FP16_VECTOR_ARITHMETIC': 'asimdhp', '__ARM_FEATURE_FP16_FML': 'asimdfhm',
    '__ARM_FEATURE_BF16_VECTOR_ARITHMETIC': 'bf16', '__ARM_FEATURE_MATMUL_INT8': 'i8mm', '__ARM_FEATURE_SVE': 'sve',
    '__ARM_FEATURE_SVE2': 'sve2',
}


def used(macros: str) -> list[str]:
    """The instruction sets that a compiler may use.

    Args:
        macros: The macros that it defines with its flags: the output of `g++ FLAGS -dM -E -x c++ /dev/null`.
    """
    defined = {line.split()[1] for line in macros.splitlines() if line.startswith('#define ')}
    return sorted(name for macro, name in _MACROS.items() if macro in defined)


def description() -> str:
    """The line of /proc/cpuinfo that lists the features of this CPU."""
    try:
        lines = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.lower().startswith(('flags', 'features'))), platform.processor())


def missing(needed: Iterable[str]) -> list[str]:
    """Those of the needed instruction sets that this CPU does not have."""
    here = description().split()
    return [name for name in needed if name not in here]
