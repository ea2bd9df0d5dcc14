"""A program that opens a SavedModel or a .keras file without this project, and computes with it.

    python -I alone.py KIND PATH INPUTS OUTPUTS MODULES

`export/runtimes.py` runs it in a process of its own. It must not import anything of this project.
"""

import sys
import time

import numpy as np


def load(kind, path):
    """Open a file: function of {name: array} -> tensor."""
    import tensorflow as tf
    if kind == 'keras':
        import keras
        return tf.function(keras.models.load_model(path), autograph=False)
    signature = tf.saved_model.load(path).signatures['serving_default']
    return lambda arrays: next(iter(signature(**arrays).values()))


def main(kind, path, inputs, outputs, modules):
    """Compute with a file.

    Args:
        kind:    'savedmodel' or 'keras'.
        path:    Folder or file.
        inputs:  .npz with the inputs by name, float32.
        outputs: .npz to write: `result`, and `seconds`, the shortest time of a few computations.
        modules: Modules that must not be imported, with commas between.
    """
    sys.modules.update(dict.fromkeys(modules.split(',')))  # An import of one of these fails.
    import tensorflow as tf
    function = load(kind, path)
    with np.load(inputs) as file:
        arrays = {name: tf.constant(file[name]) for name in file.files}
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        result = function(arrays).numpy()
        seconds.append(time.perf_counter() - start)
    np.savez(outputs, result=result, seconds=min(seconds[1:]))


if __name__ == '__main__':
    main(*sys.argv[1:])
