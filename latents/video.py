"""Films: MP4 and WebM by the ffmpeg of the extra [video], GIF, or a folder of PNG files.

Each frame is written or passed on to ffmpeg as it comes, so that the memory does not depend on the length of the film.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import struct
import subprocess
import tempfile
from types import TracebackType
from typing import Any

import PIL.Image

from dnnlib import storage
from latents.options import FORMATS
from training.data import pil_ops

MAX_GIF_FPS = 50       # The delay of a frame is a multiple of 10 ms, and many viewers show one of 10 ms for 100 ms.
_MIN_HEIGHT = 256      # Smaller frames of a film are enlarged by repeating pixels.
_MAX_GIF_HEIGHT = 512  # Larger frames of a GIF are scaled down, because GIF compresses photographs poorly.

# Format -> arguments of ffmpeg. yuv420p, because many players cannot show anything else.
_ENCODERS = {
    'mp4': ['-c:v', 'libx264', '-crf', '18', '-pix_fmt', 'yuv420p', '-movflags', '+faststart', '-f', 'mp4'],
    'webm': ['-c:v', 'libvpx-vp9', '-crf', '24', '-b:v', '0', '-deadline', 'good', '-cpu-used', '4', '-row-mt', '1',
             '-pix_fmt', 'yuv420p', '-f', 'webm'],
}


def has_ffmpeg() -> bool:
    """Whether films can be MP4 or WebM."""
    try:
        import imageio_ffmpeg
        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return False
    return True


class Video:
    """Writes frames to a film. The file appears when the film is closed.

    It is a context manager: at the end of the block the film is closed, after an exception it is thrown away.

    Args:
        path:   Name of the film without the ending of the format. With 'frames' it is the name of a folder.
        format: One of FORMATS. 'mp4' and 'webm' need `has_ffmpeg`. Frames of 'frames' keep their size; others are
                enlarged if they are small, and those of a GIF scaled down if they are large.
        fps:    Frames per second.

    Attributes:
        path: Name of the file, or of the folder.
    """

    def __init__(self, path: str, format: str, fps: int = 30):
        assert format in FORMATS
        self.path = path if format == 'frames' else f'{path}.{format}'
        self.num_frames = 0
        self._format, self._fps = format, fps
        self._file = contextlib.ExitStack()  # Renames the file when it is complete.
        self._output: Any = None             # ffmpeg's process, or the file of a GIF.
        self._messages: Any = None           # What ffmpeg prints.

    def __enter__(self) -> Video:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None,
                 tb: TracebackType | None) -> None:
        if exc is None:
            self.close()
            return
        if isinstance(self._output, subprocess.Popen):
            self._output.kill()
            self._output.communicate()
        elif self._output is not None:
            self._output.close()
        self._file.__exit__(exc_type, exc, tb)

    def add(self, picture: PIL.Image.Image) -> None:
        """Append a frame; all have the same size.

        Raises:
            OSError: It cannot be written. The film is of no use then.
        """
        {'frames': self._add_file, 'gif': self._add_to_gif}.get(self._format, self._add_to_ffmpeg)(picture)
        self.num_frames += 1

    def close(self) -> None:
        """Finish the file. Without any frame there is none.

        Raises:
            OSError: It cannot be written.
        """
        if self._output is None:
            return
        output, self._output = self._output, None
        with self._file:
            if self._format == 'gif':
                output.write(b';')
                output.close()
                return
            with contextlib.suppress(BrokenPipeError):
                output.stdin.close()
            if output.wait():
                self._messages.seek(0)
                lines = self._messages.read().decode(errors='replace').split('\n')
                reason = next((line.strip() for line in reversed(lines) if line.strip()), f'exit code {output.wait()}')
                raise OSError(errno.EIO, f'ffmpeg cannot write it: {reason[:200]}', self.path)

    def _add_file(self, picture: PIL.Image.Image) -> None:
        os.makedirs(self.path, exist_ok=True)
        pil_ops.save_png(picture, os.path.join(self.path, f'frame{self.num_frames:06d}.png'))

    def _add_to_ffmpeg(self, picture: PIL.Image.Image) -> None:
        picture = _enlarged(picture.convert('RGB'))
        if self._output is None:
            import imageio_ffmpeg  # Imported late: it is optional.
            part = self._file.enter_context(storage.new_file(self.path))
            self._messages = self._file.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
            command = [imageio_ffmpeg.get_ffmpeg_exe(), '-y', '-loglevel', 'error', '-f', 'rawvideo', '-pix_fmt',
                       'rgb24', '-s', f'{picture.width}x{picture.height}', '-r', str(self._fps), '-i', '-', '-an',
                       *_ENCODERS[self._format], part]
            self._output = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=self._messages)
        try:
            self._output.stdin.write(picture.tobytes())
        except BrokenPipeError:
            self.close()  # ffmpeg has ended with an error, which close() tells.
            raise

    def _add_to_gif(self, picture: PIL.Image.Image) -> None:
        picture = picture.convert('RGB')
        picture = picture.reduce(max(picture.height // _MAX_GIF_HEIGHT, 1))
        picture = _enlarged(picture.quantize(256))
        if self._output is None:
            self._output = open(self._file.enter_context(storage.new_file(self.path)), 'wb')  # noqa: SIM115
            # Version, size, no global palette; then the extension that makes viewers repeat the film for ever.
            self._output.write(struct.pack('<6sHH3x', b'GIF89a', *picture.size))
            self._output.write(b'!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00')
        # Delays differ by 10 ms where the duration is no multiple of that, so that the film has the right length.
        begin, end = (round(frame * 100 / self._fps) for frame in (self.num_frames, self.num_frames + 1))
        self._output.write(struct.pack('<4sHxx', b'!\xf9\x04\x00', end - begin))
        self._output.write(_gif_image(picture))


def _gif_image(picture: PIL.Image.Image) -> bytes:
    """A picture in mode P as a block of a GIF with a palette of its own."""
    picture.info.clear()
    buffer = io.BytesIO()
    picture.save(buffer, 'gif')
    data = buffer.getvalue()  # A file: 13 bytes, the last but two are flags; the palette; the block; ';'.
    palette_bits = data[10] & 7
    block = 13 + (6 << palette_bits)
    assert data[block:block + 1] == b',', 'Pillow writes no other block'
    # Ten bytes, of which the last are flags: here with a palette after it.
    flags = data[block + 9] | 0x80 | palette_bits
    return data[block:block + 9] + bytes([flags]) + data[13:block] + data[block + 10:-1]


def _enlarged(picture: PIL.Image.Image) -> PIL.Image.Image:
    factor = max(_MIN_HEIGHT // picture.height, 1)
    return picture.resize((picture.width * factor, picture.height * factor), PIL.Image.Resampling.NEAREST)
