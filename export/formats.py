"""Writing a part of a generator as SavedModel, Keras model, ONNX or LiteRT file."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import tempfile
from typing import Any

import tensorflow as tf

from dnnlib import storage
from dnnlib.cli import UserError
from dnnlib.tflib.quiet import silent_stderr
from export.graph import Part

_OPSET = 17  # Version of ONNX's operations: onnxruntime 1.13 and later, onnxruntime-web 1.13 and later.

# What a SavedModel consists of: the names of its files and folders.
_SAVED_MODEL_FILES = r'saved_model\.pb|fingerprint\.pb|assets|variables|variables\..*'


def check(kind: str, path: str) -> None:
    """Check what can be checked before the network is loaded.

    Raises:
        UserError: A package is missing, Keras is too old, or `path` is a folder with other files.
    """
    if kind == 'onnx':
        _require('tf2onnx', kind)
    if kind == 'keras':
        from export.keras_model import require_keras_3
        require_keras_3()
    if kind == 'savedmodel' and os.path.isdir(path):
        others = [name for name in sorted(os.listdir(path)) if not re.fullmatch(_SAVED_MODEL_FILES, name)]
        if others:
            raise UserError(f'{path}: expected a new folder, or that of a SavedModel; it holds {others[0]}',
                            'Give another folder.')


def _require(package, kind):
    if importlib.util.find_spec(package) is None:
        raise UserError(f'--format={kind}: needs the package {package}, which is not installed',
                        "Install the extra: pip install -e '.[export]'")


def write(kind: str, part: Part, path: str, half_weights: bool = False) -> None:
    """Write a file, or the folder of a SavedModel, which appears complete or not at all.

    Args:
        kind:         'savedmodel', 'keras', 'onnx' or 'litert'.
        part:         What to write.
        path:         File or folder; an existing one is replaced.
        half_weights: Store the weights of a LiteRT file in float16? They are computed with in float32.

    Raises:
        UserError: It cannot be written, or the format lacks an operation that the network needs.
    """
    if kind == 'savedmodel':
        with storage.new_folder(path, _SAVED_MODEL_FILES, force=True) as folder:
            _save(part, folder)
    elif kind == 'keras':
        from export import keras_model
        with storage.new_file(path) as new, tempfile.TemporaryDirectory(dir=os.path.dirname(new) or '.') as folder:
            saved = os.path.join(folder, 'model.keras')  # Keras insists on the ending.
            keras_model.build(part).save(saved)
            os.replace(saved, new)
    else:
        data = _onnx(part) if kind == 'onnx' else _litert(part, half_weights)
        storage.write_whole(path, lambda file: file.writelines([data]))


def _save(part, folder):
    module: Any = tf.Module()
    module.function = part.named()  # A SavedModel holds the functions that are attributes.
    with silent_stderr():
        tf.saved_model.save(module, folder, signatures=module.function)


def _onnx(part):
    """Bytes of an ONNX file. The first axis of inputs and outputs is called N, and has any size."""
    import tf2onnx
    logging.getLogger('tf2onnx').setLevel(logging.ERROR)
    signature = [tf.TensorSpec(shape, tf.float32, name) for name, shape in part.inputs.items()]
    with silent_stderr():
        model, _ = tf2onnx.convert.from_function(part.named(), input_signature=signature, opset=_OPSET)
    for value in [*model.graph.input, *model.graph.output]:
        for axis in value.type.tensor_type.shape.dim[:1]:
            axis.dim_param = 'N'
    return model.SerializeToString()


def _litert(part, half_weights):
    """Bytes of a LiteRT file with the signature serving_default."""
    with tempfile.TemporaryDirectory() as folder:
        _save(part, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if half_weights:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        with silent_stderr():
            return converter.convert()
