"""Short films: MP4 if the extra [video] is installed, otherwise GIF."""

from __future__ import annotations

import contextlib

import numpy as np
import PIL.Image

from dnnlib import storage

_FPS = 30
_MIN_HEIGHT = 256      # Smaller frames are enlarged by repeating pixels.
_MAX_GIF_HEIGHT = 512  # Larger frames of a GIF are scaled down, because they are all kept in memory.


def has_ffmpeg() -> bool:
    """Whether films can be MP4s."""
    try:
        import imageio_ffmpeg
        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return False
    return True


class Video:
    """Writes frames to PATH.mp4, or PATH.gif without ffmpeg; the file appears when it is closed.

    Args:
        path:   Name of the file without its ending.
        ffmpeg: The result of `has_ffmpeg`.

    Attributes:
        path: Name of the file.
    """

    def __init__(self, path: str, ffmpeg: bool):
        self.path = f'{path}.{"mp4" if ffmpeg else "gif"}'
        self._ffmpeg = ffmpeg
        self._encoder = None  # Generator of imageio_ffmpeg that is sent the frames of an MP4.
        self._file = contextlib.ExitStack()  # Renames the MP4 when it is complete.
        self._gif_frames = []

    def add(self, picture: PIL.Image.Image):
        """Append a frame; all have the same size."""
        factor = max(_MIN_HEIGHT // picture.height, 1)
        size = (picture.width * factor, picture.height * factor)
        picture = picture.convert('RGB').resize(size, PIL.Image.Resampling.NEAREST)
        if not self._ffmpeg:
            self._gif_frames.append(picture.reduce(max(picture.height // _MAX_GIF_HEIGHT, 1)))
            return
        if self._encoder is None:
            import imageio_ffmpeg  # Imported late: it is optional.
            part = self._file.enter_context(storage.new_file(self.path))
            self._encoder = imageio_ffmpeg.write_frames(
                part, picture.size, fps=_FPS, quality=8, output_params=['-f', 'mp4'], ffmpeg_log_level='error')
            self._encoder.send(None)
        self._encoder.send(np.ascontiguousarray(picture))

    def close(self):
        """Finish the file. Without any frame there is none."""
        if self._encoder is not None:
            self._encoder.close()
            self._file.close()
        elif self._gif_frames:
            first, *others = self._gif_frames
            duration = max(1000 // _FPS, 20)  # In ms. Shorter frames are shown for 100 ms by many viewers.
            with storage.new_file(self.path) as part:
                first.save(part, 'gif', save_all=True, append_images=others, duration=duration, loop=0)
