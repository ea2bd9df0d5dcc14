"""The commands of run_projector.py, with a tiny network: their files, options and mistakes."""

import json
import os
import pathlib
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

import dataset_tool
import projector
import run_generator
import run_projector
from dnnlib import cli
from latents import align_faces, detection, projection, video
from metrics import feature_networks
from tests import ROOT
from tests.commands.test_projector import TINY, make_generator
from tests.full_disk import disk_full_for
from tests.light_help import help_of
from training import misc
from training.nets import registry


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    Gs = make_generator()
    D = registry.create_network('D', 'D_stylegan2',
                                **{key: TINY[key] for key in ('resolution', 'num_channels', 'label_size', 'fmap_base')})
    path = tmp_path_factory.mktemp('network') / 'tiny.pkl'
    misc.save_pkl((Gs, D, Gs), path)
    return str(path)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """A folder of a photo that is wide, a gray one of the right size, and one large square; and what is no image."""
    folder = tmp_path_factory.mktemp('photos')
    rnd = np.random.RandomState(0)
    Image.fromarray(rnd.randint(256, size=[20, 30, 3], dtype=np.uint8)).save(folder / 'a-wide.png')
    Image.fromarray(rnd.randint(256, size=[8, 8], dtype=np.uint8)).save(folder / 'b-gray.png')
    Image.fromarray(rnd.randint(256, size=[16, 16, 3], dtype=np.uint8)).save(folder / 'c-square.png')
    (folder / 'notes.txt').write_text('no image')
    return folder


def run(network, tmp_path, command, *flags):
    """Run a command with the pixel distance and few steps; returns the folder of its results."""
    before = set(tmp_path.iterdir())
    run_projector.main([command, f'--network={network}', f'--result-dir={tmp_path}', '--distance=pixel',
                        '--num-steps=10', *flags])
    folder, = set(tmp_path.iterdir()) - before
    return folder


def names(folder, ending='.png'):
    return sorted(path.name for path in folder.glob(f'*{ending}'))


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


@pytest.mark.parametrize('flags, remedy', [
    (['--minibatch-size=8'], 'Give --minibatch-size=4.'), ([], '--distance=pixel needs less.'),
    (['--distance=pixel'], 'End other programs')])
def test_too_little_memory(tmp_path, monkeypatch, flags, remedy):
    given = []

    def fail(run_dir, **kwargs):
        given.append(kwargs)
        raise MemoryError('no room')
    monkeypatch.setattr(projection, 'project_generated_images', fail)
    with pytest.raises(cli.UserError) as caught:
        run_projector.main(['project-generated-images', '--network=net.pkl', f'--result-dir={tmp_path}', '--tf32=true',
                            *flags])
    assert caught.value.fact == 'out of memory: no room' and caught.value.remedy.startswith(remedy)
    assert given[0]['tf32'] is True


# ---- Generated images ----

def test_generated_images_have_the_originals_files_and_what_comes_next(network, tmp_path, capsys):
    out = run(network, tmp_path, 'project-generated-images', '--seeds=5,3', '--num-snapshots=2', '--minibatch-size=2')
    assert names(out) == sorted(f'seed{seed}-{what}.png' for seed in ('0003', '0005')
                                for what in ('target', 'step0005', 'step0010', 'final', 'side-by-side'))
    assert (out / '_finished.txt').exists()
    lines = capsys.readouterr().out.splitlines()
    assert 'Projecting seed 5 and 1 more (0/2) ...' in lines
    assert sum(line.startswith('Computing on ') for line in lines) == 1
    assert any(line.startswith('seed0005: distance 0.') for line in lines)
    assert sum(line.startswith('Step ') and 'left' in line for line in lines) == 10  # No terminal: lines, not a bar.

    with np.load(out / 'dlatents.npz', allow_pickle=False) as found:
        assert list(found['names']) == ['seed0005', 'seed0003']
        assert found['w'].shape == (2, 4, 8)
        assert list(found['steps']) == [10, 10]
        assert found['noise2'].shape == (2, 1, 8, 8) and (found['distances'] < found['start_distances']).all()
        settings = dict(network=network, distance='pixel', num_steps=10, wplus=False, init='mean', seed=1000)
        assert json.loads(str(found['settings'])) == settings

    # The target is the picture of the seed; the results are drawn again, pixel by pixel, by the generator.
    run_generator.main(['generate-images', f'--network={network}', '--seeds=3,5', '--truncation-psi=1',
                        f'--result-dir={tmp_path / "g"}'])
    run_generator.main(['generate-images', f'--network={network}', f'--dlatents={out}/dlatents.npz',
                        f'--result-dir={tmp_path / "g"}'])
    for seed in ('0003', '0005'):
        target, final = pixels(out / f'seed{seed}-target.png'), pixels(out / f'seed{seed}-final.png')
        assert abs(target - pixels(tmp_path / 'g' / '00000-generate-images' / f'seed{seed}.png')).max() <= 1
        assert abs(final - pixels(tmp_path / 'g' / '00001-generate-images' / f'seed{seed}.png')).max() <= 1
        assert (pixels(out / f'seed{seed}-side-by-side.png') == np.concatenate([target, final], axis=1)).all()
        assert (pixels(out / f'seed{seed}-step0010.png') == final).all()


def test_one_at_a_time_is_the_default_and_the_defaults_are_the_originals(network, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(projection, 'project_generated_images', lambda run_dir, **kwargs: calls.append(kwargs))
    run_projector.main(['project-generated-images', f'--network={network}', f'--result-dir={tmp_path}'])
    assert calls[0]['seeds'] == [66, 230, 389, 1518]
    assert calls[0]['truncation_psi'] == 1.0
    assert calls[0]['num_snapshots'] == 5
    assert calls[0]['num_steps'] == 1000 and calls[0]['minibatch_size'] == 1 and calls[0]['distance'] == 'lpips'
    assert tuple(projector.DISTANCES) == run_projector._DISTANCES


def test_the_same_command_gives_the_same_latents(network, tmp_path):
    found = [np.load(run(network, tmp_path, 'project-generated-images', '--seeds=1',
                         '--num-snapshots=0') / 'dlatents.npz')['w']
             for _ in range(2)]
    np.testing.assert_array_equal(*found)


def test_a_last_minibatch_may_be_smaller(network, tmp_path):
    out = run(network, tmp_path, 'project-generated-images', '--seeds=1-3', '--num-snapshots=0', '--minibatch-size=2',
              '--wplus')
    with np.load(out / 'dlatents.npz') as found:
        assert list(found['names']) == ['seed0001', 'seed0002', 'seed0003']
        assert len(found['w']) == len(found['noise0']) == 3
        assert (found['w'] != found['w'][:, :1]).any()
    assert 'seed0003-final.png' in names(out)


def test_init_goes_on_from_what_was_found(network, tmp_path, capsys):
    first = run(network, tmp_path, 'project-generated-images', '--seeds=1,2', '--num-snapshots=0', '--minibatch-size=2')
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        start = projector.Projector.start
        patch.setattr(projector.Projector, 'start', lambda self, images, w: (seen.append(w), start(self, images, w)))
        run(network, tmp_path, 'project-generated-images', '--seeds=1,2', '--num-snapshots=0',
            f'--init={first}/dlatents.npz')
    w = np.load(first / 'dlatents.npz')['w']
    np.testing.assert_array_equal(np.concatenate(seen), w[:, :1])
    with pytest.raises(cli.UserError, match='latents of 2 images, expected 1 or 3'):
        run(network, tmp_path, 'project-generated-images', '--seeds=1-3', f'--init={first}/dlatents.npz')
    np.savez(tmp_path / 'plus.npz', w=np.random.RandomState(0).randn(1, 4, 8))
    with pytest.raises(cli.UserError, match='a latent for each layer') as caught:
        run(network, tmp_path, 'project-generated-images', '--seeds=1', f'--init={tmp_path}/plus.npz')
    assert caught.value.remedy == 'Add --wplus.'


@pytest.mark.parametrize('command', ['project-generated-images', 'detect-generated'])
def test_interrupt_keeps_what_was_found_so_far(network, photos, tmp_path, monkeypatch, capsys, command):
    step, steps = projector.Projector.step, []

    def interrupted_step(self):
        steps.append(1)
        if len(steps) == 14:  # In the second image.
            raise KeyboardInterrupt
        step(self)
    monkeypatch.setattr(projector.Projector, 'step', interrupted_step)
    flags = [f'--images={photos}'] if command == 'detect-generated' else []
    with pytest.raises(KeyboardInterrupt):
        run(network, tmp_path, command, '--seeds=1-3', '--num-snapshots=0', '--video', *flags)
    out, = tmp_path.iterdir()
    with np.load(out / 'dlatents.npz') as found:
        assert list(found['names']) == ['seed0001', 'seed0002'] and list(found['steps']) == [10, 3]
    assert 'seed0002-final.png' in names(out)
    assert (out / 'seed0002.mp4').stat().st_size > 0
    assert not (out / '_finished.txt').exists()
    assert not list(out.glob('*.part'))
    assert 'Stopped at step 3 of 10' in capsys.readouterr().out
    if command == 'detect-generated':
        assert len((out / 'distances.csv').read_text().splitlines()) == 3


@pytest.mark.parametrize('place, steps', [
    ('seed0002-target.png', None), ('seed0002-step0005.png', 5), ('seed0002-final.png', 10),
    ('seed0002-side-by-side.png', 10), ('distances.csv', 10)])
def test_a_full_disk_is_one_line_and_keeps_what_was_found(network, photos, tmp_path, place, steps):
    """The latents found before are kept, and those of the image at work if they fit."""
    command = 'detect-generated' if place.endswith('csv') else 'project-generated-images'
    flags = [f'--images={photos}'] if place.endswith('csv') else []

    def is_full(target):
        return target.endswith(f'/{place}') and (place != 'distances.csv' or os.path.exists(target))
    with disk_full_for(is_full), pytest.raises(cli.UserError, match=f'{place}: cannot be written: No space') as err:
        run(network, tmp_path, command, '--seeds=1-3', '--num-snapshots=2', *flags)
    assert 'free space' in err.value.remedy and len(str(err.value).splitlines()) == 2
    out, = tmp_path.iterdir()
    with np.load(out / 'dlatents.npz') as found:
        assert list(found['steps']) == ([10] if steps is None else [10, steps])
    assert not list(out.glob('*.part')) and not (out / '_finished.txt').exists()


# ---- Films ----

def test_film_is_a_gif_without_ffmpeg(network, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', None)
    out = run(network, tmp_path, 'project-generated-images', '--seeds=1', '--video')
    with Image.open(out / 'seed0001.gif') as film:
        assert film.n_frames == 10 and film.size == (512, 256)
    assert '.[video]' in capsys.readouterr().out


def test_film_is_an_mp4_with_ffmpeg(tmp_path):
    import imageio_ffmpeg
    assert video.has_ffmpeg()
    film = video.Video(str(tmp_path / 'film'), 'mp4')
    for level in range(12):
        film.add(Image.new('L', (16, 8), 20 * level))
    film.close()
    assert [path.name for path in tmp_path.iterdir()] == ['film.mp4']
    frames = imageio_ffmpeg.read_frames(str(tmp_path / 'film.mp4'))
    assert next(frames)['size'] == (512, 256)
    levels = [np.frombuffer(frame, np.uint8).mean() for frame in frames]
    np.testing.assert_allclose(levels, 20 * np.arange(12), atol=4)


# ---- Real images ----

def test_images_of_a_dataset(network, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dataset_tool.main(['create_from_images', 'datasets/mine', str(photos), '--resolution=8', '--channels=3',
                       '--shuffle=0'])
    (tmp_path / 'r').mkdir()
    out = run(network, tmp_path / 'r', 'project-real-images', '--dataset=mine', '--num-images=2', '--num-snapshots=1')
    assert names(out) == sorted(f'image{idx}-{what}.png' for idx in ('0000', '0001')
                                for what in ('target', 'step0010', 'final', 'side-by-side'))
    gray = pixels(photos / 'b-gray.png')
    assert (pixels(out / 'image0001-target.png') == gray[:, :, np.newaxis]).all()
    with pytest.raises(cli.UserError, match='mine has 3 images'):
        run(network, tmp_path / 'r', 'project-real-images', '--dataset=mine', '--num-images=4')


@pytest.mark.parametrize('kind', ['folder', 'files', 'zip'])
def test_images_from_files(network, photos, tmp_path, capsys, kind):
    files = sorted(str(path) for path in photos.glob('*.png'))
    if kind == 'zip':
        with zipfile.ZipFile(tmp_path / 'photos.zip', 'w') as archive:
            for path in [*files, photos / 'notes.txt']:
                archive.write(path, pathlib.Path(path).name)
    (tmp_path / 'r').mkdir()
    paths = {'folder': [str(photos)], 'files': files, 'zip': [str(tmp_path / 'photos.zip')]}[kind]
    out = run(network, tmp_path / 'r', 'project-real-images', '--num-snapshots=0', '--minibatch-size=3', '--images',
              *paths)
    assert len(names(out, '-target.png')) == 3
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith('a-wide.png is 30x20: the 20x20 square in its middle is scaled to 8x8.') for line in lines)
    assert any(line.endswith('c-square.png is 16x16: scaled to 8x8.') for line in lines)
    assert not any('b-gray' in line for line in lines[:8])
    assert any('Ignored 1 files that are no images: notes.txt' in line for line in lines) == (kind != 'files')
    middle = Image.open(photos / 'a-wide.png').crop((5, 0, 25, 20)).resize((8, 8), Image.Resampling.LANCZOS)
    assert abs(pixels(out / 'a-wide-target.png') - np.asarray(middle)).max() <= 1
    with np.load(out / 'dlatents.npz') as found:
        sources = [source.split('/')[-1].split(' ')[-1] for source in found['sources']]
        assert sources == ['a-wide.png', 'b-gray.png', 'c-square.png']


def test_pictures_have_the_names_of_their_files_in_the_given_order(network, photos, tmp_path):
    copy = tmp_path / 'more' / 'b-gray.png'
    copy.parent.mkdir()
    copy.write_bytes((photos / 'c-square.png').read_bytes())
    files = [photos / 'c-square.png', photos / 'b-gray.png', copy]
    (tmp_path / 'r').mkdir()
    out = run(network, tmp_path / 'r', 'project-real-images', '--num-snapshots=0', '--images', *map(str, files))
    assert names(out, '-final.png') == ['b-gray-2-final.png', 'b-gray-final.png', 'c-square-final.png']
    with np.load(out / 'dlatents.npz') as found:
        assert list(found['names']) == ['c-square', 'b-gray', 'b-gray-2']
        assert list(found['sources']) == list(map(str, files))


def test_faces_are_cut_out_with_align(network, photos, tmp_path, monkeypatch, capsys):
    faces = [np.zeros([68, 2])]
    monkeypatch.setattr(align_faces, 'load_detector', lambda: lambda image: faces if image.size == (30, 20) else [])
    monkeypatch.setattr(align_faces, 'align_face',
                        lambda image, landmarks, size: Image.new('RGB', (size, size), (1, 2, 3)))
    out = run(network, tmp_path, 'project-real-images', '--images', str(photos / 'a-wide.png'), '--align',
              '--num-snapshots=0')
    assert (pixels(out / 'a-wide-target.png') == [1, 2, 3]).all()
    with pytest.raises(cli.UserError, match='found no face in .*c-square.png'):
        run(network, tmp_path, 'project-real-images', '--images', str(photos / 'c-square.png'), '--align')


# ---- Detection ----

def test_detect_generated_reports_and_attributes(network, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(detection, 'MIN_IMAGES', 3)
    suspect = str(photos / 'c-square.png')
    out = run(network, tmp_path, 'detect-generated', '--seeds=1-4', '--images', str(photos), '--image', suspect,
              '--minibatch-size=8')
    rows = [line.split(',') for line in (out / 'distances.csv').read_text().splitlines()[1:]]
    assert [row[1] for row in rows] == ['suspect'] + ['generated'] * 4 + ['real'] * 3
    report = json.loads((out / 'detection.json').read_text())
    generated, real = ([float(row[2]) for row in rows if row[1] == name] for name in ('generated', 'real'))
    assert report['auc'] == pytest.approx(np.mean([a < b for a in generated for b in real]))
    assert report['image']['distance'] == pytest.approx(float(rows[0][2])) and report['image']['source'] == suspect
    assert (report['image']['verdict'] == 'generated') == (float(rows[0][2]) <= report['threshold'])
    with Image.open(out / 'histogram.png') as picture:
        assert picture.size == (800, 480)
    text = capsys.readouterr().out
    assert f'AUC {report["auc"]:.4f}' in text and 'It looks ' in text
    within = sum(float(row[2]) <= 0.2 * float(row[3]) for row in rows if row[1] == 'generated')
    assert f'of the distance at the start; {within} of 4 within a fifth' in text
    with np.load(out / 'dlatents.npz') as found:
        assert 'noise0' not in found

    again = run(network, tmp_path, 'detect-generated', f'--reference={out}', '--image', suspect)
    second = json.loads((again / 'detection.json').read_text())
    assert second['auc'] == report['auc'] and second['threshold'] == pytest.approx(report['threshold'])
    assert len((again / 'distances.csv').read_text().splitlines()) == 2
    with pytest.raises(cli.UserError, match='was made with num_steps=10, expected 9') as caught:
        run(network, tmp_path, 'detect-generated', f'--reference={out}', '--image', suspect, '--num-steps=9')
    assert 'same flags' in caught.value.remedy
    with pytest.raises(cli.UserError, match='detection.json cannot be read'):
        run(network, tmp_path, 'detect-generated', f'--reference={photos}', '--image', suspect)


def test_names_of_files_do_not_decide_which_set_they_belong_to(network, photos, tmp_path, capsys):
    """Real files may be called like those of seeds; and 1 + 2 images are too few for a verdict, which is said first."""
    folder = tmp_path / 'files'
    folder.mkdir()
    for name in ('seed0001.png', 'suspect.png'):
        (folder / name).write_bytes((photos / 'c-square.png').read_bytes())
    (tmp_path / 'r').mkdir()
    out = run(network, tmp_path / 'r', 'detect-generated', '--seeds=1', '--images', str(folder),
              '--image', str(folder / 'suspect.png'))
    rows = [line.split(',') for line in (out / 'distances.csv').read_text().splitlines()[1:]]
    assert [row[:2] for row in rows] == [['suspect', 'suspect'], ['seed0001', 'generated'], ['seed0001-2', 'real'],
                                         ['suspect-2', 'real']]
    report = json.loads((out / 'detection.json').read_text())
    assert (report['generated']['count'], report['real']['count']) == (1, 2)
    assert report['image']['verdict'] is None and report['auc_interval'][1] - report['auc_interval'][0] > 0.9
    lines = capsys.readouterr().out.splitlines()
    note, = (idx for idx, line in enumerate(lines) if line.startswith('Note: 1 generated and 2 real images are too'))
    assert note < next(idx for idx, line in enumerate(lines) if line.startswith('Projecting '))
    assert not any('It looks' in line for line in lines)


# ---- Mistakes ----

@pytest.mark.parametrize('argv, fact', [
    (['project-real-images'], 'expected either --dataset or --images'),
    (['project-real-images', '--dataset=a', '--images=b.png'], 'there is no file or folder b.png'),
    (['project-real-images', '--images=b.png'], 'there is no file or folder b.png'),
    (['project-real-images', '--dataset=a', '--align'], '--align: expected --images'),
    (['project-real-images', '--dataset=a'], 'datasets/a'),
    (['detect-generated'], 'expected either --dataset or --images'),
    (['detect-generated', '--reference=x'], '--reference: expected --image'),
    (['detect-generated', '--dataset=a', '--image=c.png'], 'there is no file or folder c.png'),
    (['project-generated-images', '--init=x.npz'], '--init: there is no file x.npz')])
def test_mistakes_are_refused_and_leave_nothing(network, tmp_path, monkeypatch, argv, fact):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(cli.UserError) as caught:
        run_projector.main([*argv, f'--network={network}', '--distance=pixel'])
    assert fact in caught.value.fact and caught.value.remedy
    assert not [path for path in tmp_path.glob('results/*')]


def test_without_weights_the_error_names_the_other_distances(network, tmp_path, monkeypatch):
    def load(name):
        raise cli.UserError(f'{name}: no weights', 'Get them')
    monkeypatch.setattr(feature_networks, 'load', load)
    with pytest.raises(cli.UserError) as caught:
        run(network, tmp_path, 'project-generated-images', '--distance=lpips')
    assert (caught.value.fact, caught.value.remedy) == ('lpips: no weights',
                                                        'Get them. Or take another --distance: vgg-hed or pixel.')
    assert list(tmp_path.iterdir()) == []


def test_images_that_cannot_be_read_are_named(network, tmp_path):
    (tmp_path / 'bad.png').write_bytes(b'\x89PNG\r\n\x1a\n and no more')
    with pytest.raises(cli.UserError, match='bad.png is not an image that can be read') as caught:
        run(network, tmp_path, 'project-real-images', '--images', str(tmp_path / 'bad.png'))
    assert '--skip-bad' not in caught.value.remedy


def test_a_dataset_of_another_size_is_refused(network, tmp_path, photos, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset_tool.main(['create_from_images', 'datasets/large', str(photos), '--resolution=16', '--channels=3'])
    with pytest.raises(cli.UserError,
                       match='its images are 16x16 with 3 channels, those of the network 8x8 with 3 channels'):
        run(network, tmp_path, 'project-real-images', '--dataset=large')


@pytest.mark.parametrize('argv', [
    ['project-generated-images'],
    ['project-generated-images', '--network=x', '--distance=l1'],
    ['project-generated-images', '--network=x', '--num-steps=0'],
    ['project-generated-images', '--network=x', '--minibatch-size=0'],
    ['project-real-images', '--network=x', '--num-images=-1'],
    ['project']])
def test_bad_usage_exits_with_2(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        run_projector.main(argv)
    assert caught.value.code == 2 and 'error: ' in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_no_subcommand_says_so():
    with pytest.raises(cli.UsageError, match='missing subcommand'):
        run_projector.main([])


@pytest.mark.parametrize('argv, flags', [
    (['project-real-images', '--images', '.', '--data-dir=x'], '--data-dir'),
    (['detect-generated', '--image=.', '--reference=x', '--seeds=1', '--dataset=ds'], '--dataset, --seeds')])
def test_flags_without_effect_are_refused(argv, flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(cli.UserError, match='no effect') as caught:
        run_projector.main([*argv, '--network=x'])
    assert caught.value.fact.startswith(f'{flags}: ') and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('argv', [[], ['project-generated-images'], ['project-real-images'], ['detect-generated']])
def test_help_imports_little(argv):
    assert 'usage: run_projector.py' in help_of(str(ROOT / 'run_projector.py'), *argv)
