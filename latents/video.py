"""Short films of what a run did: MP4 where the extra [video] is installed, GIF otherwise."""

import os

import numpy as np
import PIL.Image

_FPS = 30
_MIN_HEIGHT = 256  # Smaller frames are enlarged, pixel by pixel.
_GIF_HEIGHT = 512  # Larger frames of a GIF are scaled down: all of them wait in memory.


def has_ffmpeg():
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
        ffmpeg: What `has_ffmpeg` said.
    """

    def __init__(self, path, ffmpeg):
        self.path = f'{path}.{"mp4" if ffmpeg else "gif"}'
        self._part = f'{self.path}.part'
        self._ffmpeg = ffmpeg
        self._stream = None  # Generator that takes the frames of an MP4.
        self._frames = []    # Those of a GIF.

    def add(self, picture):
        """Append a PIL picture; all have one size."""
        factor = max(_MIN_HEIGHT // picture.height, 1)
        picture = picture.convert('RGB').resize((picture.width * factor, picture.height * factor), PIL.Image.Resampling.NEAREST)
        if not self._ffmpeg:
            self._frames.append(picture.reduce(max(picture.height // _GIF_HEIGHT, 1)))
            return
        if self._stream is None:
            import imageio_ffmpeg
            self._stream = imageio_ffmpeg.write_frames(self._part, picture.size, fps=_FPS, quality=8, output_params=['-f', 'mp4'],
                                                       ffmpeg_log_level='error')
            self._stream.send(None)
        self._stream.send(np.ascontiguousarray(picture))

    def close(self):
        """Finish the file; nothing if there was no frame."""
        if self._stream is not None:
            self._stream.close()
        elif self._frames:
            # Decoders show frames of less than 20 ms for 100 ms.
            self._frames[0].save(self._part, 'gif', save_all=True, append_images=self._frames[1:], duration=max(1000 // _FPS, 20), loop=0)
        else:
            return
        os.replace(self._part, self.path)
