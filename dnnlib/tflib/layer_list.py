"""The list of layers of a network: while a recording is active, every layer that computes adds a row to it; and their
outputs, which are collected the same way."""

import contextlib
import contextvars
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

_recording = None


@contextlib.contextmanager
def record_layers():
    """Collect the rows that `record_layer` adds inside the with-block."""
    global _recording
    assert _recording is None
    _recording = SimpleNamespace(rows=[], prefix='')
    try:
        yield _recording.rows
    finally:
        _recording = None


@contextlib.contextmanager
def layer_prefix(prefix: str):
    """Rows added inside the with-block belong to the component of this name."""
    if _recording is None:
        yield
        return
    outer, _recording.prefix = _recording.prefix, f'{_recording.prefix}{prefix}/'
    try:
        yield
    finally:
        _recording.prefix = outer


def record_layer(scope: str, output_shape, params: int = 0, weight_shape=None):
    """Add a row to the active recording, if any. `output_shape` is in the layout that users see, [N, C, H, W]."""
    if _recording is not None:
        row = (_recording.prefix + scope, params, tuple(output_shape), weight_shape and tuple(weight_shape))
        _recording.rows.append(row)


def layer_table(title: str, layers: list[tuple], total: int, hide_layers_with_no_params: bool = False) -> str:
    """The table of layers that the original prints.

    Args:
        title:                      Title of the first column.
        layers:                     Rows of `record_layers`.
        total:                      Number of all trainable parameters.
        hide_layers_with_no_params: Omit layers without trainable parameters.
    """
    rows = [[title, 'Params', 'OutputShape', 'WeightShape'], ['---'] * 4]
    for scope, params, shape, weight_shape in layers:
        if params or not hide_layers_with_no_params:
            rows.append([scope, str(params) if params else '-', _shape_text(shape),
                         _shape_text(weight_shape) if weight_shape else '-'])
    rows += [['---'] * 4, ['Total', str(total), '', '']]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return '\n'.join(['', *lines, ''])


def _shape_text(shape):
    if len(shape) == 1:
        return f'({"?" if shape[0] is None else shape[0]},)'
    return '(' + ', '.join('?' if size is None else str(size) for size in shape) + ')'


# ---- Outputs of the layers, for figures ----

_captured: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar('captured', default=None)


@contextlib.contextmanager
def capture_outputs():
    """Collect the outputs of all layers that are called inside the with-block: a dict of scope -> tensor.

    Images are [N, C, H, W]. Inside a tf.function the tensors are those of its graph, and it can return them.
    """
    outputs = {}
    token = _captured.set(outputs)
    try:
        yield outputs
    finally:
        _captured.reset(token)


def capture_output(scope: str, output: Callable[[], Any]):
    """Add the output of a layer to those that are being collected, if any: what the function `output` returns."""
    outputs = _captured.get()
    if outputs is not None:
        outputs[scope] = output()
