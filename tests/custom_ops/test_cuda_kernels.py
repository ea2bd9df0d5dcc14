"""The CUDA kernels: compiled by nvcc; run on the CPU by tests/cuda_shim, under AddressSanitizer, against NumPy."""

import ctypes
import itertools
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from custom_ops import ACTIVATIONS, cuda_compilers, nvrtc
from custom_ops.reference import styled_bias_act_reference
from tests import ROOT, cuda_check

SHIM = ROOT / 'tests/cuda_shim'
NATIVE = SHIM.parents[1] / 'custom_ops/native'
FLAGS = ['-std=c++17', '-O1', '-g1', '-fPIC', '-Wall', '-Werror', '-Wno-unknown-pragmas', '-ffp-contract=off',
         '-fsanitize=address,undefined', '-fno-sanitize-recover=all', f'-I{SHIM}', f'-I{NATIVE}']
DTYPES = ['float32', 'float64', 'bfloat16', 'float16']  # In the order of DataType in params.h.
ACTS = list(ACTIVATIONS)  # In the order of Activation in params.h; test_native.py compares the two.
MAX_ORDER = 6             # kMaxOrder in params.h.

needs_compiler = pytest.mark.skipif(shutil.which('g++') is None, reason='needs the C++ compiler g++')


@pytest.fixture(scope='session')
def programs(tmp_path_factory):
    """Folder with the programs of tests/cuda_shim: `run_cases` and `faults`."""
    folder = tmp_path_factory.mktemp('cuda_shim')
    sources = [NATIVE / 'gpu_kernels.cu', SHIM / 'run_cases.cc', SHIM / 'fibers.cc', SHIM / 'faults.cu']
    jobs = [subprocess.Popen(['g++', *FLAGS, '-c', '-x', 'c++', str(source), '-o', f'{folder}/{source.stem}.o'])
            for source in sources]
    assert [job.wait() for job in jobs] == [0] * len(jobs)
    for name, stems in {'run_cases': ['run_cases', 'gpu_kernels', 'fibers'], 'faults': ['faults', 'fibers']}.items():
        objects = [f'{folder}/{stem}.o' for stem in stems]
        subprocess.run(['g++', *FLAGS, *objects, '-o', f'{folder}/{name}'], check=True)
    return folder


@pytest.fixture(scope='session')
def driver_programs(tmp_path_factory, programs):
    """Folder with `run_cases` as the library of the ops is built: its launchers reach the kernels through the driver's
    library, for which tests/cuda_shim/driver.cc stands in. The second of two images fits the GPU."""
    folder = tmp_path_factory.mktemp('cuda_driver')
    host = ['-DSTYLEGAN2_GPU_HOST', '-DSTYLEGAN2_CUDA']
    jobs = [subprocess.Popen(['g++', *FLAGS, *flags, '-c', '-x', 'c++', str(source), '-o', f'{folder}/{name}.o'])
            for name, source, flags in [
                ('run_cases', SHIM / 'run_cases.cc', host), ('driver', SHIM / 'driver.cc', []),
                ('launchers', NATIVE / 'gpu_kernels.cu', [*host, '-fno-sanitize=all']),  # As traps end each kernel.
                ('gpu_driver', NATIVE / 'gpu_driver.cc', host)]]
    assert [job.wait() for job in jobs] == [0] * len(jobs)
    (folder / '0100.image').write_text('for another GPU')
    (folder / '0090.image').write_text('fits')
    cuda_compilers.write_images(folder)
    for command in (['-shared', '-Wl,-Bsymbolic', f'{folder}/driver.o', f'{programs}/gpu_kernels.o',
                     f'{programs}/fibers.o', '-o', f'{folder}/libcuda.so.1'],
                    ['-rdynamic', *(f'{folder}/{name}.o' for name in ('run_cases', 'launchers', 'gpu_driver')),
                     f'{folder}/images.S', f'-Wa,-I,{folder}', '-ldl', '-o', f'{folder}/run_cases']):
        subprocess.run(['g++', *FLAGS, *command], check=True)
    return folder


@pytest.fixture(scope='session')
def image_of_nvcc(tmp_path_factory):
    """The kernels as nvcc compiles them for the oldest architecture, and what it prints.

    `make cuda-check` compiles them for one of each generation.
    """
    nvcc, image = cuda_check.find_nvcc(), tmp_path_factory.mktemp('nvcc') / 'image'
    assert nvcc is not None
    return image, cuda_check.compile_kernels(nvcc, cuda_check.architectures(nvcc)[:1], str(image))


# ---- Elements as bytes ----

def encode(x, dtype):
    """Array -> bytes of elements of `dtype`, rounded to nearest."""
    if dtype != 'bfloat16':
        return x.astype(dtype).tobytes()
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype(np.uint16).tobytes()


def decode(data, dtype):
    """Bytes -> flat float64 array."""
    if dtype != 'bfloat16':
        return np.frombuffer(data, dtype).astype(np.float64)
    return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def rounded(x, dtype):
    """The values that `dtype` has for x, as float64."""
    return decode(encode(x, dtype), dtype).reshape(x.shape)


ITEMSIZE = {dtype: len(encode(np.zeros(1), dtype)) for dtype in DTYPES}
HALF_ULP = {'float32': 2 ** -24, 'float64': 2 ** -53, 'bfloat16': 2 ** -8, 'float16': 2 ** -11}  # Relative.


def assert_close(actual, expected, dtype, scale, what):
    """Within the error of arithmetic in float32 (float64), which is relative to `scale`, and one rounding to `dtype`.

    scale: Sum of the magnitudes of what was added up.
    """
    arithmetic = 1e-13 if dtype == 'float64' else 2e-6
    error = np.abs(actual - expected.ravel())
    least = 2 ** -24 if dtype == 'float16' else 1e-37  # About the smallest denormal, or below it.
    bound = arithmetic * np.ravel(scale) + HALF_ULP[dtype] * np.abs(expected.ravel()) + least
    assert error.shape == actual.shape, what
    assert np.all(error <= bound), f'{what}: error {np.max(error - bound)} over the bound'


# ---- Running cases ----

class UpfirdnParams(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_void_p) for name in 'x k y'.split()),
                *((name, ctypes.c_int) for name in 'dtype flip up_y up_x down_y down_x pad_y0 pad_x0 k_h k_w'.split()),
                *((name, ctypes.c_int64) for name in 'major in_h in_w minor out_h out_w'.split())]


class BiasActParams(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_void_p) for name in 'x b dy dy_bias y db'.split()),
                *((name, ctypes.c_int) for name in 'dtype act order ref_is_y'.split()),
                *((name, ctypes.c_float) for name in 'alpha gain clamp'.split()),
                *((name, ctypes.c_double * (MAX_ORDER + 2)) for name in 'coef coef2'.split()),
                *((name, ctypes.c_int64) for name in 'outer channels inner'.split())]


STYLED_FIELDS = [*((name, ctypes.c_int) for name in 'dtype nchw one_noise'.split()),
                 *((name, ctypes.c_float) for name in 'alpha gain clamp'.split()),
                 *((name, ctypes.c_int64) for name in 'images pixels channels'.split())]


class StyledBiasActParams(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_void_p) for name in 'x scale noise b y'.split()), *STYLED_FIELDS]


class StyledBiasActGradParams(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_void_p) for name in 'dy y x scale dx dscale dnoise db'.split()), *STYLED_FIELDS]


PARAMS = [UpfirdnParams, BiasActParams, StyledBiasActParams, StyledBiasActGradParams]


def int64(*values):
    return np.array(values, np.int64).tobytes()


def input_buffer(x, dtype, lead=0):
    data = b'' if x is None else encode(x, dtype)
    return int64(-1 if x is None else len(data), lead) + data


def output_buffer(size, dtype, lead=0):
    return int64(-1 if size is None else size * ITEMSIZE[dtype], lead)


def run(programs, tmp_path, cases, sizes):
    """Run encoded cases; sizes: those of the results of each in bytes. Returns the results."""
    header = int64(*map(ctypes.sizeof, PARAMS), len(cases))
    (tmp_path / 'cases').write_bytes(header + b''.join(cases))
    command = [f'{programs}/run_cases', 'cases', 'results']
    env = {**os.environ, 'LD_LIBRARY_PATH': str(programs), 'ASAN_OPTIONS': 'detect_stack_use_after_return=0'}
    done = subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=env)
    assert done.returncode == 0, re.sub(r'(case \d+\n)+(?=case)', '', done.stderr)  # Only the last case and its error.
    data, results = (tmp_path / 'results').read_bytes(), []
    for size in sizes:
        assert data[:8] == int64(0), f'error code {data[:8]} in case {len(results)}'
        results.append(data[8:8 + size])
        data = data[8 + size:]
    assert data == b''
    return results


# ---- upfirdn_2d ----

def upfirdn(x, k, up, down, pads, out, flip):
    """The definition in params.h, for x [major, h, w, minor]."""
    canvas = np.zeros([x.shape[0], *((size - 1) * d + taps for size, d, taps in zip(out, down, k.shape)), x.shape[3]])
    for iy, ix in itertools.product(range(x.shape[1]), range(x.shape[2])):
        y, x_ = iy * up[0] + pads[0], ix * up[1] + pads[1]
        if 0 <= y < canvas.shape[1] and 0 <= x_ < canvas.shape[2]:
            canvas[:, y, x_] = x[:, iy, ix]
    taps = k if flip else k[::-1, ::-1]

    def samples(ty, tx):  # What the tap meets, for each output.
        return canvas[:, ty:, tx:][:, :out[0] * down[0]:down[0], :out[1] * down[1]:down[1]][:, :out[0], :out[1]]
    return sum(taps[ty, tx] * samples(ty, tx) for ty, tx in itertools.product(*map(range, k.shape)))


FACTORS = [((1, 1), (1, 1)), ((2, 2), (1, 1)), ((1, 1), (2, 2)), ((2, 2), (2, 2)), ((1, 2), (2, 1)), ((3, 1), (1, 4)),
           ((5, 3), (2, 3))]
FILTERS = [(4, 4), (1, 1), (3, 3), (6, 2), (8, 8), (12, 11)]


def upfirdn_cases(layout, seed):
    """Yields x, k, up, down, (pads before), out, flip, lead: elements by which buffers miss their alignment."""
    rng = np.random.RandomState(seed)

    def case(up, down, filter_size, h=None, w=None, major=None, minor=None, pads=None, out=None, lead=0):
        h, w = (rng.randint(1, 20) if size is None else size for size in (h, w))
        major = rng.randint(1, 4) if major is None else major
        minor = 1 if layout == 'NCHW' else rng.choice([2, 3, 8, 20, 32]) if minor is None else minor
        if pads is None:  # Around those that keep the size; some crop.
            pads = [rng.randint(-3, taps + 2) for taps in filter_size]
        if out is None:
            out = [max(1, (size * u + p + rng.randint(-2, 4) - taps // 2) // d)
                   for size, u, d, p, taps in zip((h, w), up, down, pads, filter_size)]
        return rng.randn(major, h, w, minor), rng.randn(*filter_size), up, down, pads, out, rng.randint(2), lead

    for (up, down), filter_size in itertools.product(FACTORS, FILTERS):
        yield case(up, down, filter_size)
    for up, down in FACTORS[:3]:
        yield case(up, down, (4, 4), h=1, w=1, pads=(2, 2))
        yield case(up, down, (4, 4), h=1, w=1, pads=(2, 2), lead=True, minor=8)
        yield case(up, down, (4, 4), h=7, w=6, lead=True, minor=16)
        yield case(up, down, (4, 4), h=70, w=67, major=1, minor=2)
        yield case(up, down, (4, 4), h=3, w=2, major=70, minor=9)
        yield case(up, down, (4, 4), h=2, w=3, major=2, minor=600)
        yield case(up, down, (33, 5), h=20, w=9, major=2, minor=4)
        yield case(up, down, (5, 33), h=9, w=20, major=2, minor=4)
        yield case(up, down, (64, 64), h=11, w=5, major=1, minor=2)
        yield case(up, down, (120, 110), h=5, w=4, major=1, minor=2, pads=(30, 70))  # Beyond shared memory.
        yield case(up, down, (4, 4), h=0, w=5, out=(3, 4))    # Nothing but padding.
        yield case(up, down, (4, 4), h=5, w=5, out=(0, 4))
        yield case(up, down, (4, 4), major=0)
        yield case(up, down, (4, 4), minor=None if layout == 'NCHW' else 0)
    yield case((2, 3), (3, 2), (33, 5), h=20, w=9, major=1)
    yield case((1, 2), (1, 1), (64, 64), h=5, w=7, major=1)


@needs_compiler
@pytest.mark.parametrize('layout', ['NCHW', 'NHWC'])
@pytest.mark.parametrize('dtype', DTYPES)
def test_upfirdn(programs, tmp_path, dtype, layout):
    cases, sizes, expected = [], [], []
    for x, k, up, down, pads, out, flip, lead in upfirdn_cases(layout, DTYPES.index(dtype)):
        x, k = rounded(x, dtype), rounded(k, 'float32')
        major, h, w, minor = x.shape
        params = UpfirdnParams(None, None, None, DTYPES.index(dtype), flip, *up, *down, *pads, *k.shape,
                               major, h, w, minor, *out)
        lead *= ITEMSIZE[dtype]
        size = major * out[0] * out[1] * minor
        cases.append(int64(0) + bytes(params) + input_buffer(x, dtype, lead) + input_buffer(k, 'float32') +
                     output_buffer(size, dtype, lead))
        sizes.append(size * ITEMSIZE[dtype])
        scale = upfirdn(np.abs(x), np.abs(k), up, down, pads, out, flip)
        what = f'x {x.shape} k {k.shape} up {up} down {down} pads {pads} out {out} flip {flip} lead {lead}'
        expected.append((upfirdn(x, k, up, down, pads, out, flip), scale, what))
    for data, (y, scale, what) in zip(run(programs, tmp_path, cases, sizes), expected, strict=True):
        assert_close(decode(data, dtype), y, dtype, scale, what)


@needs_compiler
def test_upfirdn_of_more_elements_than_an_int_counts(programs, tmp_path):
    run(programs, tmp_path, [int64(2, minor) for minor in (1, 3, 8)], [])  # The program compares.


# ---- fused_bias_act ----

def polynomial(act, order):
    """Coefficients of the derivative of tanh in tanh, or of sigmoid in sigmoid."""
    inner = np.polynomial.Polynomial([1, 0, -1] if act == 'tanh' else [0, 1, -1])
    poly = np.polynomial.Polynomial([0, 1])
    for _ in range(order):
        poly = poly.deriv() * inner
    return poly


def derivative(act, order, z, alpha):
    """act^(order)(z) in float64."""
    def sigmoid(order):
        return polynomial('sigmoid', order)(np.exp(-np.logaddexp(0, -z)))

    if act in ('linear', 'relu', 'lrelu'):
        slope = np.where(z > 0, 1.0, {'linear': 1, 'relu': 0, 'lrelu': alpha}[act])
        return [np.maximum(z, 0) if act == 'relu' else z * slope, slope, 0 * z][min(order, 2)]
    if act in ('elu', 'selu'):
        below, above = np.exp(np.minimum(z, 0)) - (order == 0), [z, np.ones_like(z)][order] if order < 2 else 0 * z
        scale, factor = (1.0507009873554804934, 1.6732632423543772848) if act == 'selu' else (1, 1)
        return scale * np.where(z < 0, factor * below, above)
    if act == 'tanh':
        return polynomial('tanh', order)(np.tanh(z))
    if act == 'sigmoid':
        return sigmoid(order)
    if act == 'softplus':
        return np.logaddexp(0, z) if order == 0 else sigmoid(order - 1)
    assert act == 'swish'
    return z * sigmoid(order) + (order * sigmoid(order - 1) if order else 0)


@pytest.mark.parametrize('act', ACTS)
def test_the_reference_has_the_right_derivatives(act):
    z, h = np.linspace(-5, 5, 50), 1e-6  # Not at 0.
    for order in range(1, MAX_ORDER + 1):
        difference = (derivative(act, order - 1, z + h, 0.3) - derivative(act, order - 1, z - h, 0.3)) / (2 * h)
        np.testing.assert_allclose(derivative(act, order, z, 0.3), difference, rtol=1e-5, atol=1e-6)


def coefficients(act, order):
    """BiasActParams.coef and coef2."""
    polys = {'tanh': [('tanh', order)], 'sigmoid': [('sigmoid', order)], 'softplus': [('sigmoid', order - 1)],
             'swish': [('sigmoid', order), ('sigmoid', order - 1)]}.get(act, []) if order else []
    rows = [list(polynomial(*poly).coef) for poly in polys] + [[]] * (2 - len(polys))
    return [(ctypes.c_double * (MAX_ORDER + 2))(*row) for row in rows]


SHAPES = {'NHWC': [(7, 8, 1), (130, 3, 1), (33, 20, 1), (3, 264, 1), (1, 1, 1)],
          'NCHW': [(2, 3, 16), (2, 5, 35), (3, 2, 264), (70, 1, 8)]}
LONG = {'NHWC': [(600, 40, 1), (9000, 2, 1), (270, 64, 1)],  # Their sums have several parts.
        'NCHW': [(3, 2, 6000), (1, 1, 20001)]}
EMPTY = [(0, 3, 1), (0, 3, 4), (2, 0, 4), (0, 0, 0), (2, 3, 0)]


def bias_act_cases(layout, seed):
    """Yields (outer, channels, inner), act, order, has_b, has_c, has_db, ref_is_y, lead.

    lead: Name of a buffer that is not aligned; 'db alone': there is no y; or None.
    """
    rng = np.random.RandomState(seed)
    for act, order in [*itertools.product(ACTS, range(4)), *((act, MAX_ORDER) for act in ACTS)]:
        for has_db in {False, order > 0}:
            shape = SHAPES[layout][rng.randint(len(SHAPES[layout]))]
            yield shape, act, order, rng.randint(4) > 0, order > 0 and rng.randint(2), has_db, False, None
    for act in ('linear', 'relu', 'lrelu'):
        for shape in SHAPES[layout]:
            yield shape, act, 1, False, rng.randint(2), rng.randint(2), True, None
    for shape in LONG[layout]:
        yield shape, 'lrelu', 1, True, True, True, False, None
    for lead in ('x', 'b', 'dy', 'c', 'y', 'db'):
        yield SHAPES[layout][0], 'tanh', 1, True, True, True, False, lead
        yield SHAPES[layout][0], 'tanh', 1, True, True, False, False, lead
    for shape in SHAPES[layout] + LONG[layout]:
        yield shape, 'linear', 1, True, False, True, False, 'db alone'
    for shape in EMPTY:
        yield shape, 'swish', 0, True, False, False, False, None
        yield shape, 'swish', 2, True, True, True, False, None


@needs_compiler
@pytest.mark.parametrize('layout', ['NCHW', 'NHWC'])
@pytest.mark.parametrize('dtype', DTYPES)
def test_bias_act(programs, tmp_path, dtype, layout):
    cases, sizes, expected = [], [], []
    rng = np.random.RandomState(DTYPES.index(dtype))
    for shape, act, order, has_b, has_c, has_db, ref_is_y, lead in bias_act_cases(layout, DTYPES.index(dtype)):
        alpha, gain = (float(np.float32(rng.uniform(0.1, 1.5))) for _ in range(2))
        x = rng.randn(*shape) * rng.choice([0.5, 2, 30], shape)
        x[rng.rand(*shape) < 0.1] = 0
        x, dy, b, c = (rounded(a, dtype) for a in (x, rng.randn(*shape), rng.randn(shape[1]), rng.randn(shape[1])))
        b[rng.rand(*b.shape) < 0.5] = 0  # So that some x + b are 0.
        b, c = b if has_b else None, c if has_c else None
        clamp = 1.5 if (order == 0 or ref_is_y) and rng.randint(2) else -1.0
        reads_x = order != 1 or act != 'linear' or clamp > 0

        z = x if b is None else x + b[:, np.newaxis]
        y = gain * derivative(act, order, z, alpha)
        scale = gain * (np.abs(z) + 1) * (1 if order <= 3 else 100)  # High orders have large coefficients.
        if order > 0:
            factor = dy if c is None else dy + c[:, np.newaxis]
            y, scale = y * factor, scale * (np.abs(factor) + 1)
        if clamp > 0:
            y = np.clip(y, -clamp, clamp) if order == 0 else np.where(np.abs(x) >= clamp, 0, y)
        params = BiasActParams(*[None] * 6, DTYPES.index(dtype), ACTS.index(act), order, ref_is_y, alpha, gain, clamp,
                               *coefficients(act, order), *shape)
        leads = {name: ITEMSIZE[dtype] * (name == lead) for name in ('x', 'b', 'dy', 'c', 'y', 'db')}
        y_size, db_size = None if lead == 'db alone' else x.size, shape[1] if has_db else None
        cases.append(int64(1) + bytes(params) + input_buffer(x if reads_x else None, dtype, leads['x']) +
                     input_buffer(b, dtype, leads['b']) + input_buffer(dy if order else None, dtype, leads['dy']) +
                     input_buffer(c, dtype, leads['c']) + output_buffer(y_size, dtype, leads['y']) +
                     output_buffer(db_size, dtype, leads['db']))
        sizes.append(((y_size or 0) + (db_size or 0)) * ITEMSIZE[dtype])
        expected.append((y, y_size or 0, scale, has_db,
                         f'{shape} {act} order {order} b {has_b} c {has_c} db {has_db} ref_is_y {ref_is_y} lead {lead} '
                         f'clamp {clamp}'))
    for data, (y, y_size, scale, has_db, what) in zip(run(programs, tmp_path, cases, sizes), expected, strict=True):
        values = decode(data, dtype)
        if y_size:
            assert_close(values[:y_size], y, dtype, scale, what)
        if has_db:
            assert_close(values[y_size:], y.sum((0, 2)), dtype, scale.sum((0, 2)), f'{what}: db')


@needs_compiler
@pytest.mark.parametrize('act', ACTS)
def test_bias_act_far_out(programs, tmp_path, act):
    """Nothing overflows on the way, and NaN stays NaN."""
    z = np.array([-np.inf, -1e30, -200, 200, 1e30, np.inf, np.nan, -0.0])[:-2 if act == 'swish' else None]
    z = z[1:] if act == 'swish' else z  # -inf * 0.
    cases = []
    for order in range(2):
        params = BiasActParams(*[None] * 6, 0, ACTS.index(act), order, 0, 0.2, 1, -1, *coefficients(act, order),
                               1, 1, z.size)
        cases.append(int64(1) + bytes(params) + input_buffer(z, 'float32') + input_buffer(None, 'float32') +
                     input_buffer(np.ones_like(z) if order else None, 'float32') + input_buffer(None, 'float32') +
                     output_buffer(z.size, 'float32') + output_buffer(None, 'float32'))
    value, slope = (decode(data, 'float32') for data in run(programs, tmp_path, cases, [z.size * 4] * 2))
    with np.errstate(all='ignore'):
        z = z.astype(np.float32).astype(np.float64)
        np.testing.assert_allclose(value, derivative(act, 0, z, 0.2), rtol=1e-6, atol=1e-30)
        np.testing.assert_allclose(slope[:5], derivative(act, 1, z, 0.2)[:5], rtol=1e-6, atol=1e-30)


# ---- styled_bias_act ----

STYLED_SHAPES = {'NHWC': [(2, 35, 3), (2, 9, 8), (1, 20, 20), (1, 1, 1), (9, 2, 16)],
                 'NCHW': [(2, 3, 35), (2, 8, 9), (1, 20, 20), (1, 1, 1), (9, 16, 2)]}
STYLED_LONG = {'NHWC': [(1, 4100, 2), (2, 70, 264)], 'NCHW': [(1, 2, 4100), (2, 264, 70)]}  # Several tiles per axis.
STYLED_EMPTY = [(0, 4, 3), (2, 0, 3), (2, 4, 0)]


def styled_cases(layout, seed):
    """Yields (images, pixels, channels), act, names of the inputs besides x, one_noise, clamp, lead.

    lead: Name of a buffer that is not aligned, or None.
    """
    rng = np.random.RandomState(seed)
    shapes = STYLED_SHAPES[layout] + STYLED_LONG[layout] + STYLED_EMPTY
    for shape, one_noise in [*((shape, True) for shape in shapes), *((shape, False) for shape in shapes[:2])]:
        act, clamp = rng.choice(['lrelu', 'linear', 'relu']), rng.choice([np.inf, 1.5])
        yield shape, act, ['scale', 'noise', 'b'], one_noise, clamp, None
    for names in (['scale'], ['noise'], ['b'], ['scale', 'b'], ['scale', 'noise'], []):
        yield STYLED_SHAPES[layout][1], 'lrelu', names, False, 1.5, None
    for lead in ('x', 'scale', 'noise', 'b', 'y', 'dy', 'dx'):
        yield STYLED_SHAPES[layout][1], 'lrelu', ['scale', 'noise', 'b'], False, 1.5, lead


def styled_results(inputs, dy, act, gain, clamp):
    """y, dx, dscale, dnoise and db by the definition of the op, in float64 and NHWC, for images of one row of pixels.

    dy is set to zero where rounding decides whether an element is positive or clamped.
    """
    tensors = {name: tf.constant(value[:, np.newaxis] if name == 'x' else value) for name, value in inputs.items()}
    if 'noise' in inputs:
        tensors['noise'] = tf.constant(inputs['noise'][:, np.newaxis, :, np.newaxis])
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        values = [tensors.get(name) for name in ('x', 'b', 'scale', 'noise')]
        y = styled_bias_act_reference(*values, act, gain, None if np.isinf(clamp) else clamp, 'NHWC')
    magnitude = np.abs(y.numpy()[:, 0])
    dy[(magnitude < 0.02) | (np.abs(magnitude - clamp) < 0.02)] = 0
    grads = {name: grad.numpy() for name, grad in tape.gradient(y, tensors, dy[:, np.newaxis]).items()}
    grads = {name: grad.reshape(inputs[name].shape) for name, grad in grads.items()}
    return [y.numpy()[:, 0], *map(grads.get, ('x', 'scale', 'noise', 'b'))]


@needs_compiler
@pytest.mark.parametrize('layout', ['NCHW', 'NHWC'])
@pytest.mark.parametrize('dtype', DTYPES)
def test_styled_bias_act(programs, tmp_path, dtype, layout):
    """The op and its gradient, which are each other's second derivatives (custom_ops/styled_bias_act.py)."""
    cases, sizes, expected = [], [], []
    rng = np.random.RandomState(DTYPES.index(dtype))
    for shape, act, names, one_noise, clamp, lead in styled_cases(layout, DTYPES.index(dtype)):
        images, pixels, channels = shape
        shapes = {'x': shape, 'scale': [images, channels], 'noise': [1 if one_noise else images, pixels],
                  'b': [channels]}
        inputs = {name: rounded(rng.randn(*shapes[name]), dtype if name == 'x' else 'float32')
                  for name in ['x', *names]}
        dy, gain = rounded(rng.randn(*shape), dtype), float(np.float32(rng.uniform(0.5, 1.5)))
        y, dx, *sums = styled_results(inputs, dy, act, gain, clamp)
        what = f'{shape} {act} {names} one_noise {one_noise} clamp {clamp} lead {lead}'
        alpha = {'linear': 1, 'relu': 0, 'lrelu': 0.2}[act]
        settings = [DTYPES.index(dtype), layout == 'NCHW', one_noise, alpha, gain, clamp, *shape]

        def buffer(name, values, dtype=dtype, lead=lead):
            values = values.swapaxes(1, 2) if values is not None and values.ndim == 3 and layout == 'NCHW' else values
            return input_buffer(values, dtype, ITEMSIZE[dtype] * (name == lead))

        def number_buffer(name, inputs=inputs, buffer=buffer):
            return buffer(name, inputs.get(name), 'float32')

        def output(name, size, dtype=dtype, lead=lead):
            return output_buffer(size, dtype, ITEMSIZE[dtype] * (name == lead))
        cases.append(int64(3) + bytes(StyledBiasActParams(*[None] * 5, *settings)) + buffer('x', inputs['x']) +
                     b''.join(map(number_buffer, ('scale', 'noise', 'b'))) + output('y', y.size))
        sizes.append(y.size * ITEMSIZE[dtype])
        scale = inputs.get('scale', np.ones([1, 1]))[:, np.newaxis]
        size = np.abs(inputs['x'] * scale) + np.abs(inputs.get('noise', np.zeros([1, 1])))[:, :, np.newaxis]
        expected.append([(y, gain * (size + np.abs(inputs.get('b', 0))), dtype, what)])

        outputs = b''.join(output_buffer(None if grad is None else grad.size, 'float32') for grad in sums)
        cases.append(int64(4) + bytes(StyledBiasActGradParams(*[None] * 8, *settings)) + buffer('dy', dy) +
                     buffer('y', rounded(y, dtype)) + buffer('x', inputs['x'] if 'scale' in names else None) +
                     number_buffer('scale') + output('dx', dx.size) + outputs)
        dz = gain * np.abs(dy)  # Bounds of what is added up; their sums are the scales of the errors.
        totals = [(dz * np.abs(inputs['x'])).sum(1), dz.sum(2, keepdims=True).sum(0, keepdims=True) if one_noise
                  else dz.sum(2), dz.sum((0, 1))]
        expected.append([(dx, dz * np.abs(scale), dtype, f'{what}: dx')] + [
            (grad, total, 'float32', f'{what}: {name}')
            for name, grad, total in zip(('dscale', 'dnoise', 'db'), sums, totals, strict=True) if grad is not None])
        sizes.append(sum(value.size * ITEMSIZE[kind] for value, _, kind, _ in expected[-1]))
    for data, values in zip(run(programs, tmp_path, cases, sizes), expected, strict=True):
        for value, scale, kind, what in values:
            count = value.size * ITEMSIZE[kind]
            actual = decode(data[:count], kind)
            if value.ndim == 3 and layout == 'NCHW':
                actual = actual.reshape(value.swapaxes(1, 2).shape).swapaxes(1, 2).ravel()
            assert_close(actual, value, kind, scale, what)
            data = data[count:]


# ---- As in the library: through the driver, and compiled by NVRTC ----

@needs_compiler
def test_the_launchers_reach_the_kernels_through_the_driver(driver_programs, tmp_path):
    test_upfirdn(driver_programs, tmp_path, 'float16', 'NCHW')
    test_upfirdn(driver_programs, tmp_path, 'float32', 'NHWC')
    test_bias_act(driver_programs, tmp_path, 'float64', 'NCHW')
    test_bias_act(driver_programs, tmp_path, 'bfloat16', 'NHWC')
    test_styled_bias_act(driver_programs, tmp_path, 'float16', 'NCHW')
    test_styled_bias_act(driver_programs, tmp_path, 'float64', 'NHWC')


@needs_compiler
def test_every_launcher_has_its_kernel_in_the_images(driver_programs, tmp_path, request):
    """The driver looks kernels up by the names that the C++ compiler gives them."""
    launched = cuda_check.launched_kernels(driver_programs / 'launchers.o')
    assert all(any(name in kernel for kernel in launched) for name in ('upfirdn_any', 'sum_partial', 'sum_parts'))
    image, library = tmp_path / 'sm_80', cuda_check.find_nvrtc()
    if library:
        assert cuda_check.compile_with_nvrtc(library, ['80'], tmp_path) == ''
    elif cuda_check.find_nvcc():
        image, _ = request.getfixturevalue('image_of_nvcc')
    else:
        pytest.skip("needs NVRTC or nvcc: pip install '.[cuda-build]'")
    assert launched == nvrtc.kernel_names(image.read_bytes())


# ---- The emulation itself ----

@needs_compiler
@pytest.mark.parametrize('fault, word', [
    ('none', None),
    ('missing_barrier', 'wrong result'),
    ('missing_second_barrier', 'wrong result'),
    ('barrier_of_some', 'ended while the others wait at a barrier'),
    ('write_beyond', 'heap-buffer-overflow'),
    ('read_before', 'heap-buffer-overflow'),
    ('shared_beyond', 'use-after-poison'),
    ('grid_too_large', 'launch refused'),
])
def test_faults_are_found(programs, fault, word):
    done = subprocess.run([f'{programs}/faults', fault], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if word is None:
        assert done.returncode == 0 and 'right result' in done.stdout
    else:
        assert done.returncode != 0 and word in done.stdout


@pytest.mark.skipif(cuda_check.find_nvcc() is None, reason='needs nvcc')
def test_nvcc_compiles_the_kernels(image_of_nvcc):
    image, printed = image_of_nvcc
    assert printed == '' and image.stat().st_size > 0
