"""Import TensorFlow without the dozen lines that it prints before any log level counts."""

import contextlib
import os
import sys
import tempfile

# Whoever sets a level below 3, which is the quietest, wants to see what TensorFlow says.
_hush = os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3') == '3'


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


if _hush and 'tensorflow' not in sys.modules:
    with silent_stderr():
        import tensorflow as tf
        tf.config.list_physical_devices()
    tf.get_logger().setLevel('ERROR')  # Functions traced once for each set of options are no mistake here.
