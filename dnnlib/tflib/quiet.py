"""Import TensorFlow without the messages that it prints before it honors any log level.

The level is that of the original, 1, on a machine with an NVIDIA GPU: TensorFlow's warnings say why a GPU is slow or
not used. Other machines would only be told that they have none, so the level is 3 there. TF_CPP_MIN_LOG_LEVEL takes
precedence.
"""

import contextlib
import os
import sys
import tempfile

from dnnlib import cli, nvidia

_given = os.environ.get('TF_CPP_MIN_LOG_LEVEL')
# A level below 3, the quietest, means that the user wants to see all messages.
_hush = _given in (None, '3')


@contextlib.contextmanager
def silent_stderr():
    """Suppress what the process writes to stderr, C++ included, unless an exception is raised."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(saved, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


@contextlib.contextmanager
def _without_scikit_learn():
    """Hide scikit-learn from Keras, which imports it, if it is installed, for wrappers that no command uses.

    That takes a fifth of the time of importing TensorFlow. Programs of others may use these wrappers.
    """
    if not cli.is_command or 'sklearn' in sys.modules:
        yield
        return
    sys.modules['sklearn'] = None  # type: ignore[assignment]  So that importing it is an ImportError.
    try:
        yield
    finally:
        del sys.modules['sklearn']


if _given is None:
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '1' if nvidia.is_present() else '3'
nvidia.choose_allocator()
if _hush and 'tensorflow' not in sys.modules:
    with silent_stderr(), _without_scikit_learn():
        import tensorflow as tf
    # Here TensorFlow looks for GPUs, and warns about libraries of CUDA that it does not find.
    with contextlib.nullcontext() if os.environ['TF_CPP_MIN_LOG_LEVEL'] == '1' else silent_stderr():
        tf.config.list_physical_devices()
    tf.get_logger().setLevel('ERROR')  # No warnings about retracing: one trace for each set of options is intended.
