"""Chooses between the native ops and their reference forms, once per process, and loads the native library."""

import concurrent.futures
import os
import threading
import warnings
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from custom_ops.reference import (
    ACTIVATIONS,
    bias_act_reference,
    is_portable,
    styled_bias_act_reference,
    upfirdn_reference,
)
from dnnlib.cli import OPS_IMPLS, UserError
from dnnlib.tflib.tfutil import has_gpu


class _Choice(NamedTuple):
    library: Any              # The module of native ops. None = use the reference forms.
    report: str               # What `impl_report` prints.
    error: UserError | None   # Why impl='native' is impossible; raised at every use.


_lock = threading.Lock()
_impl = None         # Argument of set_impl. None = $STYLEGAN2_OPS.
_choice = None       # A _Choice. None = not decided yet.
_native: Any = None  # The module of native ops, once it is loaded. TensorFlow cannot unload it.


def set_impl(impl: str | None):
    """Choose the implementation of the custom ops for everything that is traced from now on.

    Args:
        impl: 'native' = the native ops, or an error if they cannot be built or do not work;
              'ref' = the reference forms, composed of TensorFlow's own operations;
              'auto' = native if possible, otherwise the reference forms with a warning; but like 'native' if
                       STYLEGAN2_OPS_LIBRARY names the library to use;
              None = the environment variable STYLEGAN2_OPS, or 'auto' if it is unset.

    Raises:
        ValueError: `impl` is none of these.
    """
    global _impl, _choice
    if impl is not None and impl not in OPS_IMPLS:
        raise ValueError(f'set_impl: expected one of {OPS_IMPLS} or None, received {impl!r}')
    with _lock:
        if impl != _impl:
            _impl, _choice = impl, None


@tf.autograph.experimental.do_not_convert  # Building must not become part of a function that is being traced.
def library() -> Any:
    """Return the module of native ops, built and loaded if necessary, or None where the reference forms are to be used.

    The first call decides. It may be made while a tf.function is traced. Within `reference.portable_form` it is None.

    Raises:
        UserError: impl is 'native', but the ops cannot be built or loaded or fail their self-test; or STYLEGAN2_OPS is
                   invalid.
    """
    if is_portable():
        return None
    choice = _decided()
    if choice.error is not None:
        raise choice.error
    return choice.library


def loaded_library() -> Any:
    """Return the loaded module of native ops, which gradients need even if the choice has changed since."""
    return _native


def impl_report() -> str:
    """One line for the start of a command, such as 'Custom ops: native CPU'. Decides and raises like `library`."""
    library()
    return f'Custom ops: {_decided().report}'


def must_be_native() -> bool:
    """Return whether `library` would raise an error rather than fall back to the reference forms."""
    return _wanted_impl() == 'native'


# ---- The decision ----

def _decided():
    global _choice
    choice = _choice
    if choice is None:
        with _lock:
            if _choice is None:
                _choice, warning = _decide(_wanted_impl())
                if warning:
                    warnings.warn(warning, RuntimeWarning, stacklevel=1)
            choice = _choice
    return choice


def _wanted_impl():
    impl = _impl or os.environ.get('STYLEGAN2_OPS') or 'auto'
    if impl not in OPS_IMPLS:
        raise UserError(f'STYLEGAN2_OPS={impl}: expected {", ".join(OPS_IMPLS)}', 'Correct it, or unset it for auto.')
    if impl == 'auto' and os.environ.get('STYLEGAN2_OPS_LIBRARY'):
        return 'native'  # Who names a library wants that one, or to know why not.
    return impl


def _decide(impl):
    """Make the choice. Returns (_Choice, text of a warning or None)."""
    if impl == 'ref':
        return _Choice(None, 'reference (as asked for)', None), None
    try:
        native, archs = _load()
    except UserError as err:
        if impl == 'native':
            return _Choice(None, '', err), None
        warning = (f'The native custom ops cannot be used: {err.fact}\n{err.remedy}\n'
                   'Continuing with the reference forms, which are slower. '
                   'STYLEGAN2_OPS=ref or --impl=ref selects them without this warning.')
        return _Choice(None, f'reference ({err.fact.splitlines()[0].rstrip(":")})', None), warning
    kinds = f'CPU + CUDA ({", ".join(f"sm_{arch}" for arch in archs)})' if archs else 'CPU'
    return _Choice(native, f'native {kinds}', None), None


def _load():
    """Build, load and test the library. Returns (module, GPU architectures); UserError if a step fails."""
    global _native
    from custom_ops import build
    path = build.build()
    info = build.describe(path)
    if has_gpu() and not info['archs']:
        no_compiler = ('there was neither NVRTC nor nvcc',
                       "Install NVRTC with TensorFlow's CUDA wheels: pip install 'tensorflow[and-cuda]', then "
                       'python -m custom_ops.build')
        fact, remedy = info['cuda_error'] or no_compiler
        raise UserError(f'there is a GPU, but the ops were built without CUDA kernels: {fact}', remedy)
    rebuild = 'python -m custom_ops.build --clean, then python -m custom_ops.build --verbose'
    if os.environ.get('STYLEGAN2_OPS_LIBRARY'):
        rebuild = 'python -m custom_ops.build, and name what it makes with STYLEGAN2_OPS_LIBRARY, or unset that'
    kept_before = _keeps_denormals()
    try:
        native = tf.load_op_library(path)
    except (tf.errors.OpError, OSError) as err:
        raise UserError(f'{path} cannot be loaded: {err}', f'Rebuild it: {rebuild}') from err
    try:
        # A new thread is outside of any tf.function, gradient tape, strategy or device scope of the caller.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            for device in ('/CPU:0', '/GPU:0') if has_gpu() else ('/CPU:0',):
                thread.submit(_self_test, native, device).result()
    except Exception as err:  # No failure of the native ops may prevent the reference forms from running.
        first = (str(err).splitlines() or [type(err).__name__])[0]
        raise UserError(f'the native ops fail their self-test: {first}', f'Rebuild them: {rebuild}') from err
    if kept_before and not _keeps_denormals():
        raise UserError('loading the native ops makes this process flush denormals to zero',
                        f'Rebuild them without -ffast-math: {rebuild}')
    _native = native
    return native, info['archs']


# ---- Self-test ----

# dtype -> largest error, relative to the largest magnitude of the result.
_TOLERANCES = {tf.float32: 1e-5, tf.bfloat16: 1e-2}

# Name, order of the axes of [N, H, W, C] in it, and order to get back.
_LAYOUTS = ('NHWC', (0, 1, 2, 3), (0, 1, 2, 3)), ('NCHW', (0, 3, 1, 2), (0, 2, 3, 1))


def _self_test(native, device):
    """Compare a few small cases with the reference forms. ArithmeticError if they differ."""
    with tf.device(device):
        for dtype in _TOLERANCES:
            rnd = np.random.RandomState(1)
            images, grads = (tf.cast(rnd.randn(2, 9, 7, 5), dtype) for _ in range(2))
            _test_upfirdn_2d(native, images, rnd.randn(4, 3).astype(np.float32))
            _test_fused_bias_act(native, images, tf.cast(rnd.randn(5), dtype), grads)
            scale, noise, b = (tf.constant(rnd.randn(*shape), tf.float32) for shape in ([2, 5], [1, 9, 7, 1], [5]))
            _test_styled_bias_act(native, images, scale, noise, b, grads)


def _test_upfirdn_2d(native, images, k):
    for up, down, pads in ((1, 1, (2, 1, 1, 1)), (2, 1, (2, 1, 1, 1)), (1, 2, (1, 1, -1, 2))):
        expected = upfirdn_reference(tf.cast(images, tf.float32), k, (up, up), (down, down), (pads[:2], pads[2:]))
        for layout, there, back in _LAYOUTS:
            y = native.stylegan2_upfirdn2d(x=tf.transpose(images, there), k=k, pads=pads, up=[up, up],
                                           down=[down, down], flip=False, data_format=layout)
            _expect_close(f'upfirdn_2d (up {up}, down {down}, {layout})', tf.transpose(y, back), expected)


def _test_fused_bias_act(native, x, b, dy):
    for act, spec in ACTIVATIONS.items():
        settings = dict(axis=3, act=act, alpha=spec.def_alpha or 0.0, gain=spec.def_gain)
        inputs = [tf.cast(value, tf.float32) for value in (x, b)]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            expected = bias_act_reference(*inputs, **settings)
        expected_dx, expected_db = tape.gradient(expected, inputs, tf.cast(dy, tf.float32))
        _expect_close(f'fused_bias_act ({act})', native.stylegan2_bias_act(x=x, b=b, **settings), expected)
        none = tf.zeros([0], x.dtype)
        dx, db = native.stylegan2_bias_act_grad(dy, none, ref=x, b=b, order=1, ref_is_y=False, want_db=True, **settings)
        _expect_close(f'gradient of fused_bias_act ({act})', dx, expected_dx)
        _expect_close(f'bias gradient of fused_bias_act ({act})', db, expected_db)


def _test_styled_bias_act(native, x, scale, noise, b, dy):
    inputs = [tf.cast(x, tf.float32), scale, noise, b]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = styled_bias_act_reference(inputs[0], b, scale, noise, 'lrelu', 1.5, None, 'NHWC')
    expected = [y, *tape.gradient(y, inputs, tf.cast(dy, tf.float32))]
    for layout, there, back in _LAYOUTS:
        x_, noise_, dy_ = (tf.transpose(value, there) for value in (x, noise, dy))
        settings = dict(alpha=ACTIVATIONS['lrelu'].def_alpha, gain=1.5, data_format=layout)
        y = native.stylegan2_styled_bias_act(x_, scale, noise_, b, **settings)
        dx, dscale, dnoise, db = native.stylegan2_styled_bias_act_grad(dy_, y, x_, scale, noise_, b, **settings)
        results = [*(tf.transpose(value, back) for value in (y, dx)), dscale, tf.transpose(dnoise, back), db]
        for name, result, value in zip(('y', 'dx', 'dscale', 'dnoise', 'db'), results, expected):
            _expect_close(f'{name} of styled_bias_act ({layout})', result, value)


def _expect_close(what, result, expected):
    error = np.max(np.abs(result.numpy().astype(np.float32) - expected.numpy())) / np.max(np.abs(expected.numpy()))
    if not error <= _TOLERANCES[result.dtype]:
        raise ArithmeticError(f'{what} in {result.dtype.name} is off by {error:.2g}')


def _keeps_denormals():
    return np.float32(1e-38) * np.float32(0.1) != 0
