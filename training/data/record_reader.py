"""Reads single images of a .tfrecords file, from several threads at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dnnlib import storage
from training.data import example_proto, tfrecords


class RecordReader:
    """Reads images of a .tfrecords file by their numbers. The file is opened once, at the first image.

    Args:
        path:   Path of the file.
        starts: As in tfrecords.DatasetFiles.record_starts.
        shape:  [C, H, W] of its images.
    """

    def __init__(self, path: str, starts: int | np.ndarray, shape: Sequence[int]):
        self._path, self._starts, self._shape = path, starts, tuple(shape)
        self._file = storage.PositionedFile(path)
        self._before, self._after = example_proto.around_pixels(self._shape)

    def read(self, numbers: np.ndarray, images: np.ndarray) -> None:
        """Read images and check their checksums.

        Args:
            numbers: Numbers of the images in the file, int64 [N]. Consecutive ones are read at once.
            images:  uint8 [N, C, H, W], where the images are stored.

        Raises:
            UserError: A record is damaged, or holds something else than an image of this shape.
        """
        gaps = (np.flatnonzero(np.diff(numbers) != 1) + 1).tolist()
        for first, end in zip([0, *gaps], [*gaps, len(numbers)]):
            number = int(numbers[first])
            begin = self._start(number)
            data = self._file.read(begin, self._start(number + end - first) - begin)
            frames = np.frombuffer(data, np.uint8)
            for index in range(first, end):
                start, stop = self._start(number) - begin, self._start(number + 1) - begin
                images[index] = self._decode(number, frames[start:stop], stop - start)
                number += 1

    def checksum(self, number: int) -> bytes:
        """Read the checksum of the data of a record, 4 bytes."""
        return self._file.read(self._start(number + 1) - 4, 4)

    def _start(self, number: int) -> int:
        """Offset of a record, or the end of the file for the number after the last one."""
        if isinstance(self._starts, int):
            return number * self._starts
        return int(self._starts[number]) if number < len(self._starts) else storage.size(self._path)

    def _decode(self, number: int, frame: np.ndarray, size: int) -> np.ndarray:
        """The image in a record of `size` bytes, uint8 [C, H, W]."""
        example = tfrecords.unframe(frame, size, self._path, number)
        begin, end = len(self._before), len(example) - len(self._after)
        # Records of dataset_tool.py are recognized by the bytes around the pixels, which are all alike.
        if (end - begin == math.prod(self._shape) and example[:begin].tobytes() == self._before
                and example[end:].tobytes() == self._after):
            return example[begin:end].reshape(self._shape)
        return tfrecords.decode_record(self._path, number, example.tobytes(), self._shape)
