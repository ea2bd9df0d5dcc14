"""MSG-StyleGAN's pickles in the commands."""

import copy
import pickle

import numpy as np
import pytest
from PIL import Image

import run_generator
import run_projector
from tests.golden import GOLDEN_FAMILY
from tests.training.test_networks import eagerly
from training import misc, networks_msg, networks_stylegan

NETWORK = GOLDEN_FAMILY / 'msg/networks/m16.pkl'
pytestmark = pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')


def pixels(path):
    """A picture as floats [C, H, W]."""
    with Image.open(path) as picture:
        return np.asarray(picture, np.float32).transpose(2, 0, 1)


def test_pictures_and_conversion(tmp_path):
    """Pictures are the images of full size."""
    run_generator.main(['generate-images', f'--network={NETWORK}', '--seeds=3', f'--result-dir={tmp_path}',
                        '--truncation-psi=0.7'])
    Gs = misc.load_networks(NETWORK)[2]
    with eagerly():
        expected = misc.image_of_seed(Gs, 3, truncation_psi=0.7)[0]
    found = pixels(tmp_path / '00000-generate-images' / 'seed0003.png')
    assert found.shape == (3, 16, 16) and np.abs(found - np.clip(expected * 127.5 + 127.5, 0, 255)).max() <= 1
    for name in 'again.npz', 'again.pkl':
        run_generator.main(['convert', f'--network={NETWORK}', f'--out={tmp_path / name}'])
        again = misc.load_networks(tmp_path / name)[2]
        with eagerly():
            np.testing.assert_array_equal(misc.image_of_seed(again, 3, truncation_psi=0.7)[0], expected)


def test_mixing_and_projection(tmp_path):
    run_generator.main(['style-mixing-example', f'--network={NETWORK}', '--row-seeds=1', '--col-seeds=2',
                        '--col-styles=0-1', f'--result-dir={tmp_path}'])
    assert pixels(tmp_path / '00000-style-mixing-example' / '1-2.png').shape == (3, 16, 16)
    run_projector.main(['project-generated-images', f'--network={NETWORK}', '--seeds=1', '--num-steps=2',
                        '--distance=pixel', '--num-snapshots=1', f'--result-dir={tmp_path}'])
    assert len(list((tmp_path / '00001-project-generated-images').rglob('*.png'))) >= 2


def test_plain_pickle_opens_networks_and_components():
    """`pickle.load` too, and copies keep their class; StyleGAN's networks of the same names are others."""
    with open(NETWORK, 'rb') as file:
        G, D, _Gs = pickle.load(file)
    kinds = [type(net) for net in (G, G.components.synthesis, D)]
    assert kinds == [networks_msg.G_style, networks_msg.G_synthesis, networks_msg.D_basic]
    assert type(G.components.mapping) is networks_stylegan.G_mapping
    for net in (*G.components.values(), D):
        again = pickle.loads(pickle.dumps(net))
        assert type(again) is type(net) is type(copy.copy(net)) and list(again.vars) == list(net.vars)
    of_stylegan = misc.load_networks(GOLDEN_FAMILY / 'stylegan/networks/labels.pkl')
    assert [type(net).__module__ for net in of_stylegan] == ['training.networks_stylegan'] * 3
