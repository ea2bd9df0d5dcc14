"""Import TensorFlow without the dozen lines that it prints before any log level counts."""

import contextlib
import os
import sys
import tempfile

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')


@contextlib.contextmanager
def silent_stderr():
    """Hold back what the process, C++ included, writes to stderr; an exception lets it out again."""
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


if 'tensorflow' not in sys.modules and 'TF_CPP_MIN_VLOG_LEVEL' not in os.environ:
    with silent_stderr():
        import tensorflow as tf
        tf.config.list_physical_devices()
