"""find-directions, edit-images and name-direction."""

import numpy as np
import pytest
from PIL import Image

import pretrained_networks
import run_generator
from dnnlib import cli
from latents import directions, editing, pictures
from latents.dlatents import Dlatents
from tests.latents.networks import KINDS, generator
from tests.latents.test_directions import arrays, cosine
from tests.latents.test_film import no_network, refused  # noqa: F401
from training import misc

FIND = ['find-directions', '--network=net.pkl', '--num-samples=300', '--result-dir=results']


@pytest.fixture(scope='module')
def network():
    return generator('config-f')


@pytest.fixture
def Gs(network, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained_networks, 'load_networks', lambda path: (None, None, network))
    return network


def run(tmp_path, *argv):
    run_generator.main(list(argv))
    return max((tmp_path / 'results').iterdir())


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


@pytest.mark.parametrize('method', ['sefa', 'pca'])
def test_directions_and_their_sheet(Gs, tmp_path, method):
    folder = run(tmp_path, *FIND, f'--method={method}', '--num=4', '--layers=1-2', '--truncation-psi=1')
    found = directions.load(folder / 'directions.npz')
    cov = directions.covariance_of_w(Gs, 300)
    weights = directions.modulations(Gs)
    expected, shares = directions.pca(cov, 4) if method == 'pca' else directions.sefa([*weights[1], *weights[2]], 4)
    np.testing.assert_allclose(found.vectors, expected, atol=1e-6)
    np.testing.assert_allclose(found.shares, shares, rtol=1e-5)
    np.testing.assert_allclose(found.sigmas, [np.sqrt(v @ cov @ v) for v in expected], rtol=1e-4)
    assert found.layers.tolist() == [[False, True, True, False, False, False]] * 4
    # Row 2, image 1, +3 sigma: a cell of 64 pixels, 4 for each pixel of the picture.
    sheet = pixels(folder / 'sheet.png')
    _, w, noises = [*pictures.latents_of(Gs, [0, 1, 2])][1]
    moved = pictures.synthesize(Gs, (w + found.offset({2: 3.0}))[np.newaxis], noises)[0]
    left = editing._MARGIN + 1 * (7 * 64 + 8) + 6 * 64
    cell = sheet[20 + 2 * 64:20 + 3 * 64, left:left + 64]
    assert np.abs(cell[::4, ::4] - np.asarray(moved, int)).max() <= 1
    assert sheet.shape == (20 + 4 * 64, editing._MARGIN + 3 * (7 * 64 + 8), 3)


@pytest.mark.parametrize('kind', KINDS)
def test_every_generator_has_directions(kind, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained_networks, 'load_networks', lambda path: (None, None, generator(kind, resolution=4)))
    folder = run(tmp_path, *FIND, '--num=2', '--seeds=0', *(['--class=1'] if kind == 'ada' else []))
    found = directions.load(folder / 'directions.npz')
    assert len(found) == 2 and (found.sigmas > 0).all() and found.layers.shape == (2, 2)


def test_strengths_of_zero_give_the_pictures_of_generate_images(Gs, tmp_path):
    found = run(tmp_path, *FIND, '--num=2', '--seeds=0')
    argv = ['--network=net.pkl', '--result-dir=results', '--seeds=3,5', '--truncation-psi=1']
    plain = run(tmp_path, 'generate-images', *argv)
    edited = run(tmp_path, 'edit-images', *argv, f'--directions={found / "directions.npz"}', '--set', '0=0,1=0')
    moved = run(tmp_path, 'edit-images', *argv, f'--directions={found / "directions.npz"}', '--set', '0=2')
    for name in ('seed0003.png', 'seed0005.png'):
        np.testing.assert_array_equal(pixels(edited / name), pixels(plain / name))
        assert np.abs(pixels(moved / name) - pixels(plain / name)).max() > 2


def test_projected_images_are_moved_with_their_noise(Gs, tmp_path):
    w = pictures.w_of(Gs, pictures.z_of_seeds(Gs, [4]))
    noises = pictures.noises_of_seed(Gs, 9)
    Dlatents(['face'], w, noises).save('d.npz')
    Dlatents(['face'], w + 1, noises).save('e.npz')
    found = run(tmp_path, *FIND, '--num=2', '--seeds=0') / 'directions.npz'
    folder = run(tmp_path, 'edit-images', '--network=net.pkl', '--result-dir=results', '--dlatents=d.npz',
                 '--dlatents=e.npz', f'--directions={found}', '--set=0=1.5', '--set=1=-1', '--layers=0,5')
    assert sorted(path.name for path in folder.glob('*.png')) == ['face.png', 'face_1.png']
    offset = directions.load(found).offset({0: 1.5, 1: -1.0}, [0, 5])
    assert offset[[0, 5]].any() and not offset[1:5].any()
    expected = pictures.synthesize(Gs, w + offset, noises)[0]
    assert np.abs(pixels(folder / 'face.png') - np.asarray(expected, int)).max() <= 1


def test_names_are_given_and_used(Gs, tmp_path, capsys):
    folder = run(tmp_path, *FIND, '--num=2', '--seeds=0')
    path = folder / 'directions.npz'
    run_generator.main(['name-direction', f'--directions={path}', '--set', '1=smile,0=age'])
    assert 'Named 1: smile, 0: age' in capsys.readouterr().out
    assert directions.load(path).names == ['age', 'smile']
    run_generator.main(['name-direction', f'--directions={path}', '--set', 'age=hair'])
    assert directions.load(path).names == ['hair', 'smile']
    run(tmp_path, 'edit-images', '--network=net.pkl', '--result-dir=results', '--seeds=1', f'--directions={path}',
        '--set', 'smile=1.5')
    with pytest.raises(cli.UserError, match='two directions smile'):
        run_generator.main(['name-direction', f'--directions={path}', '--set', '0=smile'])
    with pytest.raises(cli.UserError, match='direction smile is there twice'):
        run_generator.main(['edit-images', '--network=n', '--seeds=1', f'--directions={path}', '--set=smile=1,1=2'])
    assert directions.load(path).names == ['hair', 'smile']


def test_a_direction_between_two_sets_of_projected_images(Gs, tmp_path, capsys):
    rnd = np.random.RandomState(0)
    planted = np.array([1, 0, 0, 2, 0, 0]) / np.sqrt(5)
    for name, side in (('pos', 1), ('neg', -1)):
        (tmp_path / name).mkdir()
        w = (0.3 * rnd.randn(40, 1, 6) + side * planted).repeat(6, axis=1).astype(np.float32)
        Dlatents([f'{name}{idx}' for idx in range(40)], w).save(tmp_path / name / 'dlatents.npz')
    folder = run(tmp_path, *FIND, '--method=svm', '--positive=pos', '--negative=neg/dlatents.npz', '--seeds=0')
    found = directions.load(folder / 'directions.npz')
    assert len(found) == 1 and found.vectors[0] @ planted > 0.9 and np.isnan(found.shares[0])
    assert '100.0% of 40 latents with the property and 40 without it' in capsys.readouterr().out


def test_a_direction_from_labels(Gs, tmp_path):
    w = pictures.w_of(Gs, pictures.z_of_seeds(Gs, range(60)))[:, 0]
    values = w[:, 2] - np.median(w[:, 2])
    lines = [f'seed{seed:04d},{int(value > 0)}\n' for seed, value in enumerate(values)]
    (tmp_path / 'labels.csv').write_text(''.join(lines) + 'other,1\n')
    folder = run(tmp_path, *FIND, '--method=svm', '--labels=labels.csv', '--seeds=0-59')
    vector = directions.load(folder / 'directions.npz').vectors[0]
    assert vector @ (w[values > 0].mean(axis=0) - w[values <= 0].mean(axis=0)) > 0
    assert cosine(vector, np.eye(6)[2]) > 0.8
    with pytest.raises(cli.UserError, match='labels 0 of the seeds and images with 1, 0 with 0'):
        run(tmp_path, *FIND, '--method=svm', '--labels=labels.csv', '--seeds=100-102')


# ---- Mistakes ----

@pytest.fixture
def files(no_network, tmp_path):  # noqa: F811
    np.savez(tmp_path / 'good.npz', **arrays())
    np.savez(tmp_path / 'latents.npz', w=np.zeros([1, 4, 5]))
    (tmp_path / 'text.npz').write_text('text')
    (tmp_path / 'one.csv').write_text('seed0001,1\n')
    (tmp_path / 'odd.csv').write_text('seed0001,1\nseed0002,maybe\n')
    (tmp_path / 'bytes.csv').write_bytes(b'\xff\xfe\x00')
    (tmp_path / 'empty').mkdir()


@pytest.mark.parametrize('flags, message', [
    ('', 'the following arguments are required: --network'),
    ('--network=n --method=ica', "invalid choice: 'ica'"),
    ('--network=n --num=0', 'above zero'),
    ('--network=n --num=many', 'above zero'),
    ('--network=n --num-samples=1', 'expected a number from 2 to 100000000'),
    ('--network=n --num-samples=1e5', 'above zero'),
    ('--network=n --layers=5-1', 'runs backwards'),
    ('--network=n --layers=all', 'expected a list like 1,5,7 or a range like 0-9'),
    ('--network=n --seeds=x', 'expected a list like 1,5,7 or a range like 0-9'),
    ('--network=n --dlatents=none.npz', 'none.npz: there is no such file'),
    ('--network=n --truncation-psi=0:1', 'expected a number'),
    ('--network=n --class=x', 'zero or above'),
    ('--network=n --precision=half', "invalid choice: 'half'"),
    ('--network=n --positive=p', '--positive: has no effect with --method=sefa'),
    ('--network=n --method=svm --num=3', '--num=3: --method=svm finds one direction'),
    ('--network=n --method=pca --labels=l', '--labels: has no effect with --method=pca'),
    ('--network=n --method=svm', 'expected --positive and --negative, or --labels, found none of them'),
    ('--network=n --method=svm --positive=p', 'or --labels, found --positive'),
    ('--network=n --method=svm --positive=p --negative=q --labels=l', 'found --positive and --negative and --labels'),
    ('--network=n --method=svm --positive=p --negative=q', 'p: there is no such file'),
    ('--network=n --method=svm --positive=latents.npz --negative=empty', 'empty/dlatents.npz: there is no such file'),
    ('--network=n --method=svm --labels=none.csv', 'none.csv: cannot be read: No such file or directory'),
    ('--network=n --method=svm --labels=empty', 'empty: cannot be read: Is a directory'),
    ('--network=n --method=svm --labels=one.csv', 'one.csv: expected names with 1 and names with 0, found 1 of'),
    ('--network=n --method=svm --labels=odd.csv', 'odd.csv: line 2 is no label'),
    ('--network=n --method=svm --labels=bytes.csv', 'bytes.csv is no table of labels'),
])
def test_bad_input_of_find_directions(files, capsys, flags, message):
    assert message in refused(capsys, 'find-directions', flags.split())


@pytest.mark.parametrize('flags, message', [
    ('', 'the following arguments are required'),
    ('--network=n --seeds=1 --set=0=1', 'required: --directions'),
    ('--network=n --seeds=1 --directions=good.npz', 'required: --set'),
    ('--network=n --directions=good.npz --set=0=1', 'expected --seeds, --dlatents, or both'),
    ('--network=n --seeds=1 --directions=good.npz --set=smile', 'expected NAME=VALUE with commas between'),
    ('--network=n --seeds=1 --directions=good.npz --set=smile=', 'expected NAME=VALUE with commas between'),
    ('--network=n --seeds=1 --directions=good.npz --set==1', 'expected NAME=VALUE with commas between'),
    ('--network=n --seeds=1 --directions=good.npz --set=smile=1,', 'expected NAME=VALUE with commas between'),
    ('--network=n --seeds=1 --directions=good.npz --set=smile=much', 'expected a number'),
    ('--network=n --seeds=1 --directions=good.npz --set=smile=nan', 'expected a number'),
    ('--network=n --seeds=1 --directions=good.npz --set=smile=1e9', 'expected a number from -1000 to 1000'),
    ('--network=n --seeds=1 --directions=good.npz --set=frown=1', 'there is no direction frown, expected 0 to 2'),
    ('--network=n --seeds=1 --directions=good.npz --set=3=1', 'there is no direction 3, expected 0 to 2'),
    ('--network=n --seeds=1 --directions=good.npz --set=smile=1,1=2', '--set: direction smile is there twice'),
    ('--network=n --seeds=1 --directions=none.npz --set=0=1', 'none.npz: there is no such file'),
    ('--network=n --seeds=1 --directions=text.npz --set=0=1', 'text.npz is no .npz of directions'),
    ('--network=n --seeds=1 --directions=latents.npz --set=0=1', "latents.npz: expected an array 'directions'"),
    ('--network=n --dlatents=none.npz --directions=good.npz --set=0=1', 'none.npz: there is no such file'),
    ('--network=n --dlatents=d.npz --directions=good.npz --set=0=1 --class=1', '--class: has no effect without seeds'),
    ('--network=n --seeds=1 --directions=good.npz --set=0=1 --layers=a', 'expected a list like 1,5,7'),
    ('--network=n --seeds=1 --directions=good.npz --set=0=1 --truncation-psi=x', 'expected a number'),
])
def test_bad_input_of_edit_images(files, capsys, flags, message):
    assert message in refused(capsys, 'edit-images', flags.split())


@pytest.mark.parametrize('flags, message', [
    ('', 'required: --directions, --set'),
    ('--directions=good.npz', 'required: --set'),
    ('--directions=good.npz --set=0', 'expected NAME=VALUE with commas between'),
    ('--directions=good.npz --set=0=', 'expected NAME=VALUE with commas between'),
    ('--directions=good.npz --set=0=a,', 'expected NAME=VALUE with commas between'),
    ('--directions=good.npz --set=5=a', 'there is no direction 5'),
    ('--directions=good.npz --set=frown=a', 'there is no direction frown'),
    ('--directions=good.npz --set=0=12', "'12' cannot be the name of a direction"),
    ('--directions=good.npz --set=0=a=b', "'a=b' cannot be the name of a direction"),
    ('--directions=good.npz --set=0=smile', 'two directions smile'),
    ('--directions=good.npz --set=0=a,2=a', 'two directions a'),
    (f'--directions=good.npz --set=0={"x" * 101}', 'cannot be the name of a direction'),
    ('--directions=good.npz --set=0=\x07', 'cannot be the name of a direction'),
    ('--directions=none.npz --set=0=a', 'none.npz: there is no such file'),
    ('--directions=text.npz --set=0=a', 'text.npz is no .npz of directions'),
    ('--directions=latents.npz --set=0=a', "latents.npz: expected an array 'directions'"),
    ('--directions=empty --set=0=a', 'empty: there is no such file'),
])
def test_bad_input_of_name_direction(files, capsys, tmp_path, flags, message):
    before = (tmp_path / 'good.npz').read_bytes()
    assert message in refused(capsys, 'name-direction', flags.split(' ') if flags else [])
    assert (tmp_path / 'good.npz').read_bytes() == before


@pytest.mark.parametrize('argv, message', [
    (['find-directions', '--num=7'], '--num=7: W of this network has 6 numbers'),
    (['find-directions', '--layers=6'], '--layers: there is no layer 6, this network has 6'),
    (['find-directions', '--class=1'], 'without labels'),
    (['edit-images', '--seeds=1', '--directions=good.npz', '--set=0=1'], 'for 4 layers of W of 5 numbers, this'),
])
def test_what_does_not_fit_the_network(Gs, tmp_path, capsys, argv, message):
    np.savez(tmp_path / 'good.npz', **arrays())
    assert message in refused(capsys, argv[0], ['--network=n', *argv[1:]])
    assert misc.noise_variables(Gs)
