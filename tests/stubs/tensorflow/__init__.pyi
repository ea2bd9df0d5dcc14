# For pyright: the stubs of TensorFlow that it brings along report errors in correct code, such as x[..., tf.newaxis].
# With this file everything in TensorFlow has the type Any.
from typing import Any

def __getattr__(name: str) -> Any: ...
