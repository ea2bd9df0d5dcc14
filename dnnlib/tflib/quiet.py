"""Import TensorFlow without the messages that it prints before it honors any log level."""

import contextlib
import os
import sys
import tempfile

# A level below 3, the quietest, means that the user wants to see the messages.
_hush = os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3') == '3'


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


if _hush and 'tensorflow' not in sys.modules:
    with silent_stderr():
        import tensorflow as tf
        tf.config.list_physical_devices()
    tf.get_logger().setLevel('ERROR')  # No warnings about retracing: one trace for each set of options is intended.
