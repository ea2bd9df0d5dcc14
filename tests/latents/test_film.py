"""generate-video: the frames are the pictures of the walk, and films hold them."""

import pathlib
import weakref

import numpy as np
import pytest
from PIL import Image, ImageSequence

import pretrained_networks
import run_generator
from dnnlib import cli, memory
from latents import film, options, pictures, video
from latents.dlatents import Dlatents
from tests import ROOT
from tests.full_disk import disk_full_for
from tests.latents.networks import KINDS, generator
from tests.latents.test_video import decoded
from training import misc


@pytest.fixture(scope='module')
def faces():
    return misc.load_networks(ROOT / 'tests' / 'data' / 'faces32.pkl')


@pytest.fixture
def Gs(faces, monkeypatch):
    monkeypatch.setattr(pretrained_networks, 'load_networks', lambda path: faces)
    return faces[2]


def walk(Gs, keys, per_key=4, psi=1.0, **settings):
    return film.Walk(Gs, keys, per_key, psi, **settings)


def arrays(frames):
    return [np.asarray(frame).astype(int) for frame in frames]


def run(tmp_path, *flags):
    """Run generate-video, and return its folder."""
    run_generator.main(['generate-video', '--network=net.pkl', f'--result-dir={tmp_path / "results"}', *flags])
    return max((tmp_path / 'results').iterdir())


def frames_in(folder):
    return [np.asarray(Image.open(path)).astype(int) for path in sorted((folder / 'film').iterdir())]


def save_projected(Gs, path, seeds=(11, 12)):
    """A file of latents: those of two seeds, each with its own noise."""
    w = pictures.w_of(Gs, pictures.z_of_seeds(Gs, seeds))
    noises = [pictures.noises_of_seed(Gs, seed) for seed in seeds]
    Dlatents(['a', 'b'], w, [np.concatenate(maps).astype(np.float32) for maps in zip(*noises)]).save(path)
    return w, noises


@pytest.mark.parametrize('space, curve', [
    ('w', 'spline'), ('w', 'linear'), ('w', 'slerp'), ('z', 'spline'), ('z', 'slerp')])
def test_frames_at_keyframes_are_the_pictures_of_the_seeds(Gs, space, curve):
    """At most a level of grey apart: truncation outside of the network rounds otherwise than inside."""
    found = arrays(walk(Gs, [3, 8, 5], psi=0.7, space=space, curve=curve).frames())
    assert len(found) == 9
    for frame, seed in zip(found[::4], [3, 8, 5]):
        z = np.random.RandomState(seed).randn(1, 64)
        expected = Gs.run(z, None, truncation_psi=0.7, randomize_noise=False, **pictures.picture_kwargs())[0]
        assert np.abs(frame - expected.astype(int)).max() <= 1
    assert np.abs(found[0] - found[4]).mean() > 5


def test_frames_are_exactly_the_pictures_of_their_w(Gs):
    ours = walk(Gs, [3, 8], psi=0.7)
    for frame, w in zip(ours.frames(), ours.w(np.arange(5))):
        np.testing.assert_array_equal(np.asarray(frame), np.asarray(pictures.synthesize(Gs, w)[0]))


def test_without_truncation_the_keyframe_is_the_picture_of_generate_images_in_the_noise_of_the_seed(Gs):
    ours = walk(Gs, [7])
    ours.noises = pictures.noises_of_seed(Gs, 7)
    expected = misc.image_of_seed(Gs, 7, truncation_psi=1.0, **pictures.picture_kwargs())[0]
    np.testing.assert_array_equal(np.asarray(next(ours.frames())), expected)


@pytest.mark.parametrize('space, curve', [('w', 'spline'), ('w', 'slerp'), ('w', 'linear'), ('z', 'spline')])
def test_a_loop_has_no_jump(Gs, space, curve):
    found = arrays(walk(Gs, [3, 8, 5], 8, 0.7, space=space, curve=curve, loop=True).frames())
    assert len(found) == 24
    steps = [np.abs(a - b).mean() for a, b in zip(found, [*found[1:], found[0]])]
    assert 0 < steps[-1] <= 1.2 * max(steps[:-1])
    assert np.abs(found[-1] - found[8]).mean() > 3 * steps[-1]  # Frames that are no neighbours do differ.


def test_a_loop_with_a_sweep_has_no_jump(Gs):
    ours = walk(Gs, [3, 8], 8, (0, 1), loop=True)
    w = ours.w(np.arange(17))
    np.testing.assert_allclose(w[16], w[0], atol=1e-6)
    np.testing.assert_allclose(w[0, 0], np.tile(Gs.get_var('dlatent_avg'), [8, 1]), atol=1e-7)


def test_a_sweep_goes_from_the_average_to_the_seed(Gs):
    ours = walk(Gs, [3], 5, (0.0, 1.0))
    avg, w = Gs.get_var('dlatent_avg'), pictures.w_of(Gs, pictures.z_of_seeds(Gs, [3]))[0]
    for found, psi in zip(ours.w(np.arange(5)), [0, 0.25, 0.5, 0.75, 1]):
        np.testing.assert_allclose(found[0], avg + psi * (w - avg), atol=1e-6)
    assert len(list(ours.frames())) == 5


@pytest.mark.parametrize('kind', KINDS)
def test_w_is_truncated_as_the_network_does_it(kind):
    """StyleGAN truncates the first 8 layers, so the cutoff is set to fewer than the 6 that there are."""
    Gs = generator(kind, **(dict(truncation_cutoff=3) if kind == 'config-a' else {}))
    label = pictures.one_hot(Gs, 1) if kind == 'ada' else None
    for space in ('w', 'z'):
        ours = walk(Gs, [0, 1], 1, 0.4, class_idx=1 if kind == 'ada' else None, space=space)
        for found, seed in zip(ours.w(np.arange(2)), [0, 1]):
            _, expected = Gs.run(np.random.RandomState(seed).randn(1, 6), label, truncation_psi=0.4,
                                 return_dlatents=True, randomize_noise=False)
            np.testing.assert_allclose(found, expected, atol=1e-6)
    if kind in ('config-a', 'config-f'):
        assert next(ours.frames()).size == (16, 16)


def test_cells_of_a_grid_are_walks_of_their_own(Gs):
    found = arrays(walk(Gs, [0, 1, 2, 3, 4, 5], grid=(3, 1)).frames())
    assert len(found) == 5 and found[0].shape == (32, 96, 3)
    for cell, keys in enumerate([[0, 1], [2, 3], [4, 5]]):
        for frame, alone in zip(found, arrays(walk(Gs, keys).frames()), strict=True):
            assert np.abs(frame[:, 32 * cell:32 * cell + 32] - alone).max() <= 1  # In other minibatches.
    tall = arrays(walk(Gs, [0, 1, 2, 3, 4, 5], grid=(1, 3)).frames())
    np.testing.assert_array_equal(tall[2][32:64], found[2][:, 32:64])


def test_projected_images_are_keyframes_with_their_noise_and_are_not_truncated(Gs, tmp_path):
    w, noises = save_projected(Gs, tmp_path / 'd.npz')
    ours = walk(Gs, [3, str(tmp_path / 'd.npz'), 4], psi=0.5)
    assert ours.num_keys == 4
    np.testing.assert_allclose(ours.w(np.array([4, 8]))[:, 0], w, atol=1e-6)
    for mine, found in zip(ours.noises, noises[0]):
        np.testing.assert_allclose(mine, found, rtol=1e-6)
    expected = pictures.synthesize(Gs, w[:1], noises[0])[0]
    assert np.abs(arrays(ours.frames())[4] - np.asarray(expected, int)).max() <= 1
    swept = walk(Gs, [str(tmp_path / 'd.npz')], psi=(0, 1)).w(np.array([0]))[0, 0]
    np.testing.assert_allclose(swept, np.tile(Gs.get_var('dlatent_avg'), [8, 1]), atol=1e-6)


def test_noise_is_fixed_fresh_or_off(Gs):
    stored = [var.numpy() for var in misc.noise_variables(Gs)]
    still = {noise: arrays(walk(Gs, [3]).frames(noise)) for noise in options.NOISES}
    for noise in ('fixed', 'off'):
        assert all((frame == still[noise][0]).all() for frame in still[noise])
    assert (still['fresh'][0] != still['fresh'][1]).any()
    assert (still['fixed'][0] != still['off'][0]).any()
    np.testing.assert_array_equal(arrays(walk(Gs, [3]).frames('fresh')), still['fresh'])  # The same film again.
    for var, value in zip(misc.noise_variables(Gs), stored):
        np.testing.assert_array_equal(var.numpy(), value)


def test_films_hold_the_frames(Gs, tmp_path, capsys):
    flags = ['--seeds=3,8', '--seconds-per-seed=0.5', '--fps=10', '--loop', '--truncation-psi=0.7']
    folder = run(tmp_path, *flags, '--format=frames')
    assert f'Wrote {folder / "film"}' in capsys.readouterr().out
    frames = frames_in(folder)
    assert len(frames) == 10
    with Image.open(run(tmp_path, *flags, '--format=gif') / 'film.gif') as found:
        assert found.n_frames == 10 and found.info['duration'] == 100
        for picture, frame in zip(ImageSequence.Iterator(found), frames, strict=True):
            small = picture.convert('RGB').resize((32, 32), Image.Resampling.NEAREST)
            assert np.abs(np.asarray(small, int) - frame).mean() < 4  # 256 colours.
    for found, frame in zip(decoded(run(tmp_path, *flags) / 'film.mp4'), frames, strict=True):
        small = found.reshape(32, 8, 32, 8, 3).mean(axis=(1, 3))
        assert np.abs(small - frame).mean() < 4


def test_flags_reach_the_walk_in_the_order_of_the_command_line(Gs, tmp_path, monkeypatch):
    seen = {}

    class Stop(Exception):
        pass

    def stop(Gs, *args):
        seen.update(args=args)
        raise Stop
    save_projected(Gs, tmp_path / 'd.npz')
    monkeypatch.setattr(film, 'Walk', stop)
    with pytest.raises(Stop):
        run(tmp_path, '--seeds=4-5', f'--dlatents={tmp_path / "d.npz"}', '--seeds=1', '--truncation-psi=0:1',
            '--fps=24', '--seconds-per-seed=1.5', '--space=w', '--curve=slerp', '--loop', '--grid=2x1', '--class=2')
    assert seen['args'] == ([4, 5, str(tmp_path / 'd.npz'), 1], 36, (0.0, 1.0), 2, 'w', 'slerp', True, (2, 1))


def test_without_ffmpeg_the_film_is_a_gif(Gs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(video, 'has_ffmpeg', lambda: False)
    assert (run(tmp_path, '--seeds=1', '--seconds-per-seed=0.1') / 'film.gif').exists()
    assert '.[video]' in capsys.readouterr().out


@pytest.mark.parametrize('name, format', [('film.mp4', 'mp4'), ('film.gif', 'gif'), ('frame000002.png', 'frames')])
def test_a_full_disk_is_one_line(Gs, tmp_path, name, format):
    with disk_full_for(lambda target: target.endswith(name)), pytest.raises(
            cli.UserError, match=r'00000-generate-video/film(\.\w+)?: cannot be written: No space left'):
        run(tmp_path, '--seeds=1', '--seconds-per-seed=0.2', f'--format={format}')
    assert not list(tmp_path.glob('**/film.*'))


def test_memory_does_not_grow_with_the_length(Gs, tmp_path, monkeypatch):
    """Of the frames and of what they are made of, only those that are generated together are alive at a time."""
    synthesis, made, most = Gs.components.synthesis, [], 0
    compute = synthesis.run

    def recorded(w, **kwargs):
        images = compute(w, **kwargs)
        made.extend([weakref.ref(w), weakref.ref(images)])
        return images
    monkeypatch.setattr(synthesis, 'run', recorded)
    with video.Video(str(tmp_path / 'film'), 'gif', 50) as out:
        for frame in walk(Gs, [3, 8], 40).frames():
            out.add(frame)
            made.append(weakref.ref(frame))
            most = max(most, sum(each() is not None for each in made))
    assert out.num_frames == 41 and len(made) == 41 + 2 * 11
    assert most <= 6  # Two pictures, and W and the pixels of four frames, of which the next ones are being made.


@pytest.mark.parametrize('space, what', [('w', 'a film of 100 keyframes'), ('z', 'a frame of 10x10 pictures')])
def test_what_does_not_fit_into_memory_is_refused(Gs, monkeypatch, space, what):
    monkeypatch.setattr(memory, 'available_bytes', lambda: 100_000)
    with pytest.raises(cli.UserError, match=f'{what} needs about'):
        walk(Gs, list(range(100)), grid=(10, 10), space=space)


# ---- Mistakes ----

def refused(capsys, command, flags):
    """The line that a refused command prints. No network may be loaded for it, and no folder left."""
    try:
        run_generator.main([command, *flags])
    except cli.UserError as err:
        assert len(str(err).splitlines()) <= 2 and 'Traceback' not in str(err)
        assert not list(pathlib.Path().glob('results/*'))
        return str(err)
    except SystemExit as err:
        assert err.code == 2 and not pathlib.Path('results').exists()
        return capsys.readouterr().err.splitlines()[-1]
    raise AssertionError('not refused')


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def load(*args, **kwargs):
        raise AssertionError('a network was loaded')
    monkeypatch.setattr(pretrained_networks, 'load_networks', load)


@pytest.mark.parametrize('flags, message', [
    ('', 'the following arguments are required: --network'),
    ('--network=n', 'expected --seeds, --dlatents, or both'),
    ('--network=n --seeds=', 'expected a list like 1,5,7 or a range like 0-9'),
    ('--network=n --seeds=a', 'expected a list like 1,5,7 or a range like 0-9'),
    ('--network=n --seeds=3-1', 'runs backwards'),
    ('--network=n --seeds=4294967296', 'below 2**32'),
    ('--network=n --dlatents=', 'expected a name, got an empty text'),
    ('--network=n --dlatents=none.npz', 'none.npz: there is no such file'),
    ('--network=n --seeds=1 --dlatents=none.npz', 'none.npz: there is no such file'),
    ('--network=n --dlatents=none.npz --space=z', '--space=z: the images of none.npz are known in W only'),
    ('--network=n --dlatents=none.npz --truncation-psi=1', '--truncation-psi: has no effect without seeds'),
    ('--network=n --dlatents=none.npz --truncation-psi=0:1 --class=1', '--class: has no effect without seeds'),
    ('--network=n --seeds=1 --truncation-psi=0:', 'expected a number'),
    ('--network=n --seeds=1 --truncation-psi=0:1:2', 'expected a number'),
    ('--network=n --seeds=1 --truncation-psi=500', 'expected a number from -100 to 100'),
    ('--network=n --seeds=1 --fps=0', 'above zero'),
    ('--network=n --seeds=1 --fps=1000', 'at most 240 frames per second'),
    ('--network=n --seeds=1 --fps=60 --format=gif', 'a GIF has at most 50 frames per second'),
    ('--network=n --seeds=1 --seconds-per-seed=0', 'above zero'),
    ('--network=n --seeds=1 --seconds-per-seed=nan', 'above zero'),
    ('--network=n --seeds=1 --seconds-per-seed=0.001', '--seconds-per-seed=0.001: less than one frame at 30'),
    ('--network=n --seeds=1 --seconds-per-seed=1e9', 'expected at most 10000000'),
    ('--network=n --seeds=1 --grid=3', 'expected columns and rows such as 3x2'),
    ('--network=n --seeds=1 --grid=0x2', 'expected columns and rows such as 3x2'),
    ('--network=n --seeds=0-6 --grid=3x2', '--grid=3x2: expected keyframes in a multiple of 6, found 7'),
    ('--network=n --seeds=1 --curve=bezier', "invalid choice: 'bezier'"),
    ('--network=n --seeds=1 --space=x', "invalid choice: 'x'"),
    ('--network=n --seeds=1 --noise=some', "invalid choice: 'some'"),
    ('--network=n --seeds=1 --format=avi', "invalid choice: 'avi'"),
    ('--network=n --seeds=1 --precision=int8', "invalid choice: 'int8'"),
    ('--network=n --seeds=1 --class=-1', 'zero or above'),
    ('--network=n --seeds=1 --loop=yes', 'ignored explicit argument'),
    ('--network=n --seeds=1 --frames=3', 'unrecognized arguments: --frames=3'),
])
def test_bad_input_is_told_in_one_line(no_network, capsys, flags, message):
    assert message in refused(capsys, 'generate-video', flags.split())


def test_a_format_that_needs_ffmpeg_is_refused_without_it(no_network, capsys, monkeypatch):
    monkeypatch.setattr(video, 'has_ffmpeg', lambda: False)
    line = refused(capsys, 'generate-video', ['--network=n', '--seeds=1', '--format=webm'])
    assert line.startswith('--format=webm: ffmpeg is not installed') and '.[video]' in line


def test_a_class_that_the_network_does_not_have_is_refused(Gs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert 'without labels' in refused(capsys, 'generate-video', ['--network=n', '--seeds=1', '--class=1'])
    np.savez('d.npz', w=np.zeros([3, 8, 64], np.float32))
    line = refused(capsys, 'generate-video', ['--network=n', '--seeds=1-2', '--dlatents=d.npz', '--grid=2x1'])
    assert '--grid=2x1: expected keyframes in a multiple of 2, found 5' in line
