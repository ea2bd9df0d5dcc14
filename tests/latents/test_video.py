"""Films, read back."""

import gc
import stat

import numpy as np
import pytest
from PIL import Image, ImageSequence

from latents import video


def frame(level, size=(16, 8)):
    picture = Image.new('RGB', size, (level, 255 - level, 100))
    picture.putpixel((level % size[0], 0), (255, 0, 0))
    return picture


def decoded(path):
    import imageio_ffmpeg
    frames = imageio_ffmpeg.read_frames(str(path))
    width, height = next(frames)['size']
    return [np.frombuffer(data, np.uint8).reshape(height, width, 3) for data in frames]


def test_a_gif_has_its_frames_and_its_length(tmp_path):
    with video.Video(str(tmp_path / 'film'), 'gif', fps=30) as film:
        for level in range(30):
            film.add(frame(8 * level))
    assert film.path == str(tmp_path / 'film.gif') and film.num_frames == 30
    durations = []
    with Image.open(film.path) as found:
        assert found.n_frames == 30 and found.info['loop'] == 0
        for idx, picture in enumerate(ImageSequence.Iterator(found)):
            durations.append(picture.info['duration'])
            small = picture.convert('RGB').resize((16, 8), Image.Resampling.NEAREST)
            np.testing.assert_array_equal(np.asarray(small), np.asarray(frame(8 * idx)))
            assert picture.size == (512, 256)
    assert sum(durations) == 1000 and set(durations) == {30, 40}


@pytest.mark.parametrize('format', ['mp4', 'webm'])
def test_films_of_ffmpeg(tmp_path, format):
    with video.Video(str(tmp_path / 'film'), format, fps=10) as film:
        for level in range(12):
            film.add(Image.new('L', (16, 8), 20 * level))
    assert [path.name for path in tmp_path.iterdir()] == [f'film.{format}']
    frames = decoded(film.path)
    assert frames[0].shape == (256, 512, 3)
    np.testing.assert_allclose([found.mean() for found in frames], 20 * np.arange(12), atol=4)


def test_frames_are_png_files(tmp_path):
    with video.Video(str(tmp_path / 'film'), 'frames') as film:
        for level in range(3):
            film.add(frame(level))
    assert sorted(path.name for path in (tmp_path / 'film').iterdir()) == [f'frame00000{idx}.png' for idx in range(3)]
    with Image.open(tmp_path / 'film' / 'frame000002.png') as found:
        np.testing.assert_array_equal(np.asarray(found), np.asarray(frame(2)))


@pytest.mark.parametrize('format', ['mp4', 'gif'])
def test_an_unfinished_film_is_thrown_away(tmp_path, format):
    with pytest.raises(KeyboardInterrupt), video.Video(str(tmp_path / 'film'), format) as film:
        film.add(frame(1))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('format', ['mp4', 'gif'])
def test_a_film_without_frames_is_no_file(tmp_path, format):
    with video.Video(str(tmp_path / 'film'), format):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_ffmpeg_says_is_told(tmp_path, monkeypatch):
    import imageio_ffmpeg
    program = tmp_path / 'ffmpeg'
    program.write_text('#!/bin/sh\necho first >&2\necho "Unknown encoder libx264" >&2\nexit 1\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(imageio_ffmpeg, 'get_ffmpeg_exe', lambda: str(program))
    with pytest.raises(OSError, match='ffmpeg cannot write it: Unknown encoder libx264'), \
            video.Video(str(tmp_path / 'film'), 'mp4') as film:
        for _ in range(100):
            film.add(frame(1))
    assert [path.name for path in tmp_path.iterdir()] == ['ffmpeg']


@pytest.mark.parametrize('format', ['mp4', 'gif', 'frames'])
def test_frames_are_not_kept(tmp_path, format):
    before = sum(isinstance(each, Image.Image) for each in gc.get_objects())
    with video.Video(str(tmp_path / 'film'), format) as film:
        for level in range(60):
            film.add(frame(level))
        assert sum(isinstance(each, Image.Image) for each in gc.get_objects()) - before < 5
