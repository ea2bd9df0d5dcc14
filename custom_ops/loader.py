"""Decides, once per process, whether the native operations run or their reference forms, and loads the library."""

import os
import threading
import warnings
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib.cli import OPS_IMPLS, UserError


class _Choice(NamedTuple):
    library: object | None     # the loaded module; None = reference form
    report: str
    error: UserError | None    # of 'native', raised at every use


_lock = threading.Lock()
_impl = None    # As set_impl has it; None = $STYLEGAN2_OPS.
_choice = None  # None = not decided yet.


def set_impl(impl):
    """Choose the form of upfirdn_2d and fused_bias_act from now on; functions that are traced already keep theirs.

    Args:
        impl: 'native' = the native operations, or an error where they do not build or work;
              'ref' = the reference forms, made of TensorFlow's own operations;
              'auto' = native where that works, else the reference forms with a warning;
              None = what the environment variable STYLEGAN2_OPS names, 'auto' if it is unset.
    """
    global _impl, _choice
    if impl is not None and impl not in OPS_IMPLS:
        raise ValueError(f'set_impl: expected one of {OPS_IMPLS} or None, received {impl!r}')
    with _lock:
        if impl != _impl:
            _impl, _choice = impl, None


def library():
    """The module of native operations, built and loaded if need be; None where the reference forms are to be used.

    The first call decides, and may be made while a tf.function is traced.

    Raises:
        UserError: 'native' is asked for, but they cannot be built, loaded or trusted; or STYLEGAN2_OPS has a value that means nothing.
    """
    choice = _decided()
    if choice.error is not None:
        raise choice.error
    return choice.library


def impl_report():
    """One line for the start of a command, such as 'Custom ops: native CPU'. Decides, and raises, as `library`."""
    library()
    return f'Custom ops: {_decided().report}'


# ---- The decision ----

def _decided():
    global _choice
    choice = _choice
    if choice is None:
        with _lock:
            if _choice is None:
                _choice, warning = _decide(_impl or _impl_of_environment())
                if warning:
                    warnings.warn(warning, RuntimeWarning, stacklevel=1)
            choice = _choice
    return choice


def _impl_of_environment():
    impl = os.environ.get('STYLEGAN2_OPS') or 'auto'
    if impl not in OPS_IMPLS:
        raise UserError(f'STYLEGAN2_OPS={impl}: expected {", ".join(OPS_IMPLS)}', 'Correct it, or unset it for auto.')
    return impl


def _decide(impl):
    """(choice, text of a warning or None)."""
    if impl == 'ref':
        return _Choice(None, 'reference (as asked for)', None), None
    try:
        native, archs = _load()
    except UserError as err:
        if impl == 'native':
            return _Choice(None, '', err), None
        warning = (f'The native custom ops cannot be used: {err.fact}\n{err.remedy}\nGoing on with the reference forms, which are slower. '
                   'STYLEGAN2_OPS=ref or --impl=ref asks for them without this warning.')
        return _Choice(None, f'reference ({err.fact.splitlines()[0].rstrip(":")})', None), warning
    kinds = f'CPU + CUDA ({", ".join(f"sm_{arch}" for arch in archs)})' if archs else 'CPU'
    return _Choice(native, f'native {kinds}', None), None


def _load():
    """(module, GPU architectures) of a library that has been built, loaded and tested; UserError where one of these fails."""
    from custom_ops import build
    path = build.build()
    info = build.describe(path)
    gpus = tf.config.get_visible_devices('GPU')
    if gpus and not info['archs']:
        fact, remedy = info['cuda_error'] or ('there was no nvcc', 'Install the CUDA toolkit, then python -m custom_ops.build')
        raise UserError(f'there is a GPU, but they were built without CUDA kernels: {fact}', remedy)
    again = 'python -m custom_ops.build --clean, then python -m custom_ops.build --verbose'
    kept_before = _keeps_denormals()
    try:
        native = tf.load_op_library(path)
    except (tf.errors.OpError, OSError) as err:
        raise UserError(f'{path} cannot be loaded: {err}', f'Build it anew: {again}') from err
    try:
        with tf.init_scope():  # Out of the function that is being traced.
            for device in ('/CPU:0', '/GPU:0') if gpus else ('/CPU:0',):
                with tf.device(device):
                    _self_test(native)
    except Exception as err:  # Whatever it is, it must not stand in the way of the reference forms.
        first = (str(err).splitlines() or [type(err).__name__])[0]
        raise UserError(f'they fail their self-test: {first}', f'Build them anew: {again}') from err
    if kept_before and not _keeps_denormals():
        raise UserError('loading them makes this process flush denormals to zero', f'Build them without -ffast-math: {again}')
    return native, info['archs']


# ---- Self-test ----

def _self_test(native):
    """Compare a few small cases with the reference forms, on the current device; raises an ArithmeticError where they differ."""
    from custom_ops.fused_bias_act import ACTIVATIONS
    from custom_ops.upfirdn_2d import upfirdn_reference
    rnd = np.random.RandomState(1)
    images = rnd.randn(2, 9, 7, 5).astype(np.float32)
    taps = rnd.randn(4, 3).astype(np.float32)
    bias = rnd.randn(5).astype(np.float32)
    grads = rnd.randn(*images.shape).astype(np.float32)

    for up, down, pads in (((1, 1), (1, 1), ((2, 1), (1, 1))), ((2, 2), (1, 1), ((2, 1), (1, 1))), ((1, 1), (2, 2), ((1, 1), (-1, 2)))):
        expected = upfirdn_reference(tf.constant(images), taps, up, down, pads)
        for layout, order, back in (('NHWC', (0, 1, 2, 3), (0, 1, 2, 3)), ('NCHW', (0, 3, 1, 2), (0, 2, 3, 1))):
            y = native.stylegan2_upfirdn2d(x=tf.constant(images.transpose(order)), k=taps, pads=[*pads[0], *pads[1]], up=list(up),
                                           down=list(down), flip=False, data_format=layout)
            _expect_close(f'upfirdn_2d up {up[0]} down {down[0]} {layout}', tf.transpose(y, back), expected)

    for name, spec in ACTIVATIONS.items():
        alpha, gain = spec.def_alpha or 0.0, spec.def_gain
        x = tf.constant(images)
        with tf.GradientTape() as tape:
            tape.watch(x)
            expected = spec.func(x + bias, alpha) * gain
        expected_dx = tape.gradient(expected, x, grads)
        settings = dict(axis=3, act=name, alpha=alpha, gain=gain)
        y = native.stylegan2_bias_act(x=x, b=bias, **settings)
        _expect_close(f'fused_bias_act {name}', y, expected)
        dx, db = native.stylegan2_bias_act_grad(dy=grads, c=np.zeros(0, np.float32), ref=x, b=bias, order=1, ref_is_y=False, want_db=True,
                                                **settings)
        _expect_close(f'gradient of fused_bias_act {name}', dx, expected_dx)
        _expect_close(f'bias gradient of fused_bias_act {name}', db, tf.reduce_sum(expected_dx, [0, 1, 2]))


def _expect_close(what, result, expected):
    error = np.max(np.abs(result.numpy() - expected.numpy()))
    if not error < 1e-4:
        raise ArithmeticError(f'{what} is off by {error:g}')


def _keeps_denormals():
    return np.float32(1e-38) * np.float32(0.1) != 0
