"""Images as serialized tf.train.Example, without TensorFlow.

In the wire format of protobuf (https://protobuf.dev/programming-guides/encoding/) these are the messages

    Example { Features features = 1 { map<string, Feature> feature = 1 } }
    Feature { BytesList bytes_list = 1 | FloatList float_list = 2 | Int64List int64_list = 3 }
    BytesList, FloatList, Int64List { repeated value = 1 }

The features are `shape`, int64 [C, H, W], and `data`, the uint8 pixels in the order CHW.
"""

from __future__ import annotations

import functools

import numpy as np

# ---- Encoding ----

def _varint(value):
    encoded = bytearray()
    while value > 0x7f:
        encoded.append(value & 0x7f | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _field(number, payload):
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


@functools.lru_cache
def around_pixels(shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    """Return the bytes before and after the pixels in the serialized Example of an image of `shape` [C, H, W]."""
    pixels = bytes(shape[0] * shape[1] * shape[2])
    data = _field(1, _field(1, pixels))
    sizes = _field(3, _field(1, b''.join(map(_varint, shape))))
    features = [_field(1, _field(1, name) + _field(2, feature))
                for name, feature in [(b'data', data), (b'shape', sizes)]]
    example = _field(1, b''.join(features))
    end = len(example) - len(features[1])
    return example[:end - len(pixels)], example[end:]


# ---- Decoding ----

def _read_varint(message, position):
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        value |= (byte & 0x7f) << shift
        position += 1
        shift += 7
        if byte < 0x80:
            return value, position
    raise ValueError('unfinished number')


def _fields(message):
    """Yield (number, value) of each field of a protobuf message (memoryview): varint as int, bytes as memoryview."""
    if not isinstance(message, memoryview):
        raise ValueError('a number where a message belongs')
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        value, position = _read_varint(message, position)
        if tag & 7 == 2:
            end = position + value
            if end > len(message):
                raise ValueError('field longer than its message')
            value, position = message[position:end], end
        elif tag & 7 != 0:
            raise ValueError(f'unexpected field type {tag & 7}')
        yield tag >> 3, value


def _int64_list(message):
    """Values of an Int64List, packed or not."""
    values = []
    for _, value in _fields(message):
        if isinstance(value, int):
            values.append(value)
            continue
        position = 0
        while position < len(value):
            number, position = _read_varint(value, position)
            values.append(number)
    return values


def decode_example(record: bytes) -> np.ndarray:
    """Decode the image in a tf.train.Example.

    Args:
        record: Serialized Example with the features `shape` and `data`, in any order.

    Returns:
        uint8 [C, H, W], read-only.

    Raises:
        ValueError: It is something else.
    """
    shape = data = None
    for _, features in _fields(memoryview(record)):
        for _, entry in _fields(features):
            entry = dict(_fields(entry))
            feature = dict(_fields(entry[2])) if 2 in entry else {}
            if entry.get(1) == b'shape' and 3 in feature:
                shape = _int64_list(feature[3])
            elif entry.get(1) == b'data' and 1 in feature:
                data = dict(_fields(feature[1])).get(1)
    if shape is None or not isinstance(data, memoryview):
        raise ValueError('it lacks the features "shape" (int64) and "data" (bytes)')
    if len(shape) != 3 or min(shape) < 1 or shape[0] * shape[1] * shape[2] != len(data):
        raise ValueError(f'shape {shape} does not fit {len(data)} bytes')
    return np.frombuffer(data, np.uint8).reshape(shape)
