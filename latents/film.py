"""The command generate-video of run_generator.py: films of walks through Z or W."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence

import numpy as np
import PIL.Image
import tensorflow as tf

import pretrained_networks
from dnnlib import memory
from dnnlib.cli import UserError
from dnnlib.progress import ProgressBar, format_time
from dnnlib.tflib import Network
from latents import dlatents, pictures, video, walks
from latents.options import TRUNCATION_PSI
from training import misc

_MAX_FRAMES = 10_000_000


def generate_video(run_dir: str, network_pkl: str, keyframes: Sequence[int | str],
                   truncation_psi: float | Sequence[float] = 0.5, class_idx: int | None = None,
                   precision: str = 'float32', seconds_per_seed: float = 2.0, fps: int = 30,
                   space: str | None = None, curve: str = 'spline', loop: bool = False,
                   grid: tuple[int, int] = (1, 1), noise: str = 'fixed', format: str | None = None,
                   impl: str | None = None, tf32: bool = False) -> None:
    """Write film.mp4, .webm or .gif, or the frames film/frame000000.png, ...

    Args:
        run_dir:          Folder for the film.
        network_pkl:      Path, URL or 'gdrive:networks/...' of a (G, D, Gs) pickle.
        keyframes:        Seeds, and files of latents that stand for all their images, in the order of the film. With a
                          grid, the first cell has the first of them, and so on: all cells have equally many.
        truncation_psi:   Scale of the deviation from the average in W, for seeds. A pair (first, last) is a sweep,
                          which applies to projected images as well.
        class_idx:        Class to draw. None = a zero label vector.
        precision:        Key of PRECISIONS.
        seconds_per_seed: Time from a keyframe to the next one.
        fps:              Frames per second.
        space:            One of options.SPACES: where the curve is. Projected images have no Z. None = 'w', or 'z' if
                          the network has no W.
        curve:            One of options.CURVES.
        loop:             Go back to the first keyframe at the end?
        grid:             (columns, rows) of walks side by side.
        noise:            'fixed' = that found for the first projected image, or that of the pickle; 'fresh' = other
                          noise for each frame; 'off' = none.
        format:           One of options.FORMATS. None = 'mp4' if ffmpeg is there, or 'gif'.
        impl:             Form of the custom ops: 'auto', 'native' or 'ref'. None = the one set already.
        tf32:             Allow TF32 on GPUs?

    Raises:
        UserError: The arguments do not fit together, a file cannot be read or written, or the network does not have the
                   class.
    """
    format = _checked_format(format, fps)
    per_key = round(seconds_per_seed * fps)
    _check(keyframes, per_key, seconds_per_seed, fps, space, grid)
    Gs = pretrained_networks.load_generator(network_pkl, impl, tf32, precision)
    if not misc.has_w(Gs):
        _check_without_w(Gs, keyframes, truncation_psi, space)
    space = space or ('w' if misc.has_w(Gs) else 'z')
    walk = Walk(Gs, keyframes, per_key, truncation_psi, class_idx, space, curve, loop, grid)
    print(f'{walk.num_frames} frames through {walk.num_keys} keyframes: {format_time(walk.num_frames / fps)} at '
          f'{fps} frames per second.')
    out = video.Video(os.path.join(run_dir, 'film'), format, fps)
    try:
        with out as film, ProgressBar('Frame', walk.num_frames, 'frame') as progress:
            for frame in walk.frames(noise, precision):
                film.add(frame)
                progress.update()
    except OSError as err:
        raise UserError(f'{out.path}: cannot be written: {err.strerror or err}',
                        'Check the folder and the free space.') from err
    print(f'Wrote {out.path}')


def _checked_format(format: str | None, fps: int) -> str:
    """The format of the film. A UserError if it cannot be written here."""
    has_ffmpeg = format in ('gif', 'frames') or video.has_ffmpeg()
    if format in ('mp4', 'webm') and not has_ffmpeg:
        raise UserError(f'--format={format}: ffmpeg is not installed',
                        "pip install -e '.[video]', or choose --format=gif or --format=frames.")
    if format is None and not has_ffmpeg:
        print("The film is a GIF: for MP4 install the extra, pip install -e '.[video]'")
    format = format or ('mp4' if has_ffmpeg else 'gif')
    if format == 'gif' and fps > video.MAX_GIF_FPS:
        raise UserError(f'--fps={fps}: a GIF has at most {video.MAX_GIF_FPS} frames per second',
                        f'Choose --fps={video.MAX_GIF_FPS} or less, or another --format.')
    return format


def _check(keyframes: Sequence[int | str], per_key: int, seconds: float, fps: int, space: str | None,
           grid: tuple[int, int]) -> None:
    """Raise a UserError for what is wrong without having seen the network."""
    if per_key < 1:
        raise UserError(f'--seconds-per-seed={seconds:g}: less than one frame at {fps} frames per second',
                        f'Give at least {1 / fps:.2g}.')
    if per_key * len(keyframes) > _MAX_FRAMES:
        raise UserError(f'the film would have {per_key * len(keyframes)} frames, expected at most {_MAX_FRAMES}',
                        'Give fewer seeds, or fewer --seconds-per-seed.')
    files = [key for key in keyframes if isinstance(key, str)]
    if files and space == 'z':
        raise UserError(f'--space=z: the images of {files[0]} are known in W only', 'Leave --space or --dlatents out.')
    for file in files:
        dlatents.require_file(file)
    if not files:
        _check_grid(len(keyframes), grid)


def _check_without_w(Gs: Network, keyframes: Sequence[int | str], truncation_psi: float | Sequence[float],
                     space: str | None) -> None:
    """Raise a UserError for what a network without W cannot do, and say what it does."""
    if space == 'w':
        misc.require_w(Gs, '--space=w')
    if any(isinstance(key, str) for key in keyframes):
        misc.require_w(Gs, '--dlatents')
    if not isinstance(truncation_psi, (int, float)):
        misc.require_w(Gs, '--truncation-psi={:g}:{:g}'.format(*truncation_psi))
    else:
        pictures.psi_kwargs(Gs, truncation_psi, TRUNCATION_PSI)
    if space is None:
        print('The film walks through Z (--space=z).')


def _check_grid(num_keys: int, grid: tuple[int, int]) -> None:
    """Raise a UserError unless the keyframes can be shared out equally among the cells."""
    columns, rows = grid
    if num_keys % (columns * rows):
        raise UserError(f'--grid={columns}x{rows}: expected keyframes in a multiple of {columns * rows}, '
                        f'found {num_keys}', 'Give each cell equally many seeds or images.')


class Walk:
    """W of each frame, and the frames.

    Args:
        Gs:      Generator. If it has no W, `space` is 'z', and nothing is truncated.
        per_key: Frames from a keyframe to the next one.

        The others are as in generate_video.

    Attributes:
        num_frames: Number of frames.
        num_keys:   Number of keyframes of each cell.
        noises:     Noise maps found for the first projected image among the keyframes, or None.
    """

    def __init__(self, Gs: Network, keyframes: Sequence[int | str], per_key: int,
                 truncation_psi: float | Sequence[float], class_idx: int | None = None, space: str = 'w',
                 curve: str = 'spline', loop: bool = False, grid: tuple[int, int] = (1, 1)):
        self._Gs, self._grid, self._per_key, self._loop, self._space = Gs, grid, per_key, loop, space
        self._label = pictures.one_hot(Gs, class_idx)
        self._truncation = pictures.Truncation(Gs)
        self._psi, self._sweep = 1.0, None
        if isinstance(truncation_psi, (int, float)):
            self._psi = truncation_psi
        else:
            first, last = truncation_psi
            self._sweep = first, last
        self.noises = None
        keys = pictures.z_of_seeds(Gs, [int(key) for key in keyframes]) if space == 'z' else self._w_keys(keyframes)
        _check_grid(len(keys), grid)
        cells = math.prod(grid)
        self.num_keys = len(keys) // cells
        self.num_frames = walks.count_frames(self.num_keys, per_key, loop)
        keys = keys.reshape(cells, self.num_keys, *keys.shape[1:]).swapaxes(0, 1)
        self._curve = walks.curve_through(keys, curve, loop)
        # A frame as array, as picture and as bytes, for each of those that are generated together.
        memory.require(3 * self._chunk * cells * math.prod(Gs.output_shape[1:]), f'a frame of {grid[0]}x{grid[1]} '
                       'pictures', 'Choose a smaller --grid.')

    @property
    def _chunk(self) -> int:
        """Frames that are computed together, so that their pictures fill minibatches."""
        return pictures.MINIBATCH_SIZE // math.gcd(pictures.MINIBATCH_SIZE, math.prod(self._grid))

    def _w_keys(self, keyframes: Sequence[int | str]) -> np.ndarray:
        """Deviations of the keyframes from the mean of W, float64 [K, layers, dlatent].

        Seeds are truncated, unless a sweep truncates all frames.
        """
        seeds = [key for key in keyframes if isinstance(key, int)]
        num_layers, size = self._Gs.components.synthesis.input_shape[1:]
        memory.require(3 * len(keyframes) * num_layers * size * 8, f'a film of {len(keyframes)} keyframes',
                       'Give fewer seeds.')
        of_seeds = iter(())
        if seeds:
            w = pictures.w_of(self._Gs, pictures.z_of_seeds(self._Gs, seeds), self._label) - self._truncation.avg
            of_seeds = iter(w if self._sweep else w * self._truncation.factors(self._psi))
        keys: list[np.ndarray] = []
        for key in keyframes:
            if isinstance(key, int):
                keys.append(next(of_seeds))
                continue
            for w, noises in pictures.projected(self._Gs, key).values():
                keys.append(w - self._truncation.avg)
                self.noises = noises if self.noises is None else self.noises
        return np.stack(keys)

    def w(self, frames: np.ndarray) -> np.ndarray:
        """W of frames, truncated, float32 [len(frames), cells, layers, dlatent]. Without W it is Z, with one layer."""
        points = self._curve(frames / self._per_key)
        if self._space == 'z':
            flat = points.reshape(-1, points.shape[-1])
            w = pictures.w_of(self._Gs, flat, self._label)
            points = w.reshape(*points.shape[:2], *w.shape[1:]) - self._truncation.avg
        if self._sweep:
            first, last = self._sweep
            psi = walks.sweep(first, last, frames, self.num_frames, self._loop)
            points = points * self._truncation.factors(psi)[:, np.newaxis]
        elif self._space == 'z':
            points = points * self._truncation.factors(self._psi)
        return (self._truncation.avg + points).astype(np.float32)

    def frames(self, noise: str = 'fixed', precision: str = 'float32') -> Iterator[PIL.Image.Image]:
        """Generate the frames, one after the other. For the arguments see generate_video."""
        Gs, (columns, rows) = self._Gs, self._grid
        noises = self.noises
        if noise == 'off':
            noises = [np.zeros(var.shape, np.float32) for var in misc.noise_variables(Gs)]
        if noise == 'fresh':
            tf.random.get_global_generator().reset_from_seed(0)  # The same command makes the same film.
        kwargs = dict(randomize_noise=noise == 'fresh', **pictures.picture_kwargs(precision))
        with misc.noise_of(Gs, noises):
            for begin in range(0, self.num_frames, self._chunk):
                w = self.w(np.arange(begin, min(begin + self._chunk, self.num_frames)))
                images = pictures.images_of(Gs, w.reshape(-1, *w.shape[2:]), self._label, **kwargs)
                height, width, channels = images.shape[1:]
                cells = images.reshape(len(w), rows, columns, height, width, channels).swapaxes(2, 3)
                for frame in cells.reshape(len(w), rows * height, columns * width, channels):
                    yield pictures.to_pil(frame)
