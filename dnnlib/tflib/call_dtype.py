"""The argument `dtype` of the network that is being called: custom_ops chooses the memory layout by it."""

import contextlib
import contextvars

_call_dtype = contextvars.ContextVar('call_dtype', default='float32')


def call_dtype() -> str:
    """The argument `dtype` of the network that is being called, in this thread; 'float32' if it was not given."""
    return _call_dtype.get()


@contextlib.contextmanager
def calling_with_dtype(dtype: str):
    """Context manager within which `call_dtype` returns `dtype`."""
    token = _call_dtype.set(dtype)
    try:
        yield
    finally:
        _call_dtype.reset(token)
