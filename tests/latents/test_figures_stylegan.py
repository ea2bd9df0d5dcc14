"""The figures of StyleGAN's paper, against those that the original drew with the same network."""

import numpy as np
import pytest
from PIL import Image

from latents import figures_stylegan
from tests.golden import GOLDEN_FAMILY, load_json, load_npz
from tests.graphs import eagerly
from tests.latents.networks import generator
from training import misc, networks_stylegan2

FOLDER = GOLDEN_FAMILY / 'stylegan' / 'figures'
CASES = load_json('stylegan/figures/figures.json', GOLDEN_FAMILY)


class RecordedNoise:
    """Stands in for dnnlib.tflib.Random: the noise of the pictures in the order in which they were drawn."""

    def __init__(self, arrays):
        self.arrays, self.drawn = arrays, 0

    def noises(self, sizes, n):
        begin, self.drawn = self.drawn, self.drawn + int(n)
        return {name: self.arrays[name][begin:self.drawn] for name in sizes}


@pytest.fixture(scope='module')
def golden_Gs():
    return misc.load_networks(FOLDER / 'network.pkl')[2]


def draw(Gs, function, parameters):
    """Draw a figure with the parameters of the original."""
    given = {name: value for name, value in parameters.items() if name not in ('w', 'h')}
    if function == 'uncurated_result_figure':
        crop = tuple(given.pop(name) for name in ('cx', 'cy', 'cw', 'ch'))
        return figures_stylegan.uncurated(Gs, crop, **given)
    if function == 'style_mixing_figure':
        return figures_stylegan.style_mixing(Gs, given['src_seeds'], given['dst_seeds'], given['style_ranges'])
    if function == 'noise_detail_figure':
        return figures_stylegan.noise_detail(Gs, **given)
    if function == 'noise_components_figure':
        return figures_stylegan.noise_components(Gs, given['seeds'], given['noise_ranges'], given['flips'])
    if function == 'truncation_trick_figure':
        return figures_stylegan.truncation_trick(Gs, **given)
    assert function == 'pretrained_example'
    return figures_stylegan.uncurated(Gs, (0, 0, 32, 32), 1, [0], given['seed'], given['truncation_psi'])


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
@pytest.mark.parametrize('name', CASES.get('figures', {}))
def test_figures_are_those_of_the_original(golden_Gs, name, monkeypatch):
    """At most a level of gray apart, and that in less than a thousandth of all values."""
    case = CASES['figures'][name]
    if case['recorded_noise']:
        noise = RecordedNoise(load_npz(f'stylegan/figures/{case["recorded_noise"]}', GOLDEN_FAMILY))
        monkeypatch.setattr(networks_stylegan2, 'Random', lambda: noise)
    elif name.endswith('fixednoise'):
        arrays = {var.name: var.numpy() for var in misc.noise_variables(golden_Gs)}
        fixed = type('Fixed', (), {'noises': lambda self, sizes, n: {name: arrays[name] for name in sizes}})
        monkeypatch.setattr(networks_stylegan2, 'Random', fixed)
    with eagerly():
        found = np.asarray(draw(golden_Gs, case['function'], case['parameters']), int)
    with Image.open(FOLDER / f'{name}.png') as picture:
        expected = np.asarray(picture.convert('RGB'), int)
    assert found.shape == expected.shape
    difference = np.abs(found - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3
    if case['recorded_noise']:
        assert noise.drawn == len(noise.arrays['noise0'])  # All of it.


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
def test_layers_and_regions_scale_as_in_the_golden_figures(golden_Gs):
    assert figures_stylegan.detail_crop(32) == tuple(CASES['crop_of_noise_detail'])
    ranges = CASES['figures']['style-mixing']['parameters']['style_ranges']
    assert sorted(map(list, set(figures_stylegan.style_ranges(8)))) == sorted(map(list, {tuple(x) for x in ranges}))
    ranges = CASES['figures']['noise-components']['parameters']['noise_ranges']
    assert figures_stylegan.noise_ranges(golden_Gs) == ranges


def test_at_1024_everything_is_as_in_the_paper():
    assert figures_stylegan.detail_crop(1024) == (650, 180, 906, 436)
    assert figures_stylegan.uncurated_lods(1024) == [0, 1, 2, 2, 3, 3]
    assert figures_stylegan.style_ranges(18) == [range(4)] * 3 + [range(4, 8)] * 2 + [range(8, 18)]


def test_at_small_sizes_nothing_is_empty():
    assert figures_stylegan.uncurated_lods(32) == [0] * 6 and figures_stylegan.uncurated_lods(128) == [0] + [1] * 5
    assert figures_stylegan.style_ranges(2) == [range(1)] * 3 + [range(1, 2)]
    for size in (4, 8, 16):
        left, top, right, bottom = figures_stylegan.detail_crop(size)
        assert 0 <= left < right <= size and 0 <= top < bottom <= size
    for kind, coarse in (('config-a', [0, 1, 2, 3]), ('config-f', [0, 1, 2])):  # Of 6 and of 5 noise inputs.
        every, none, fine, found = figures_stylegan.noise_ranges(generator(kind))
        assert none == [] and sorted(fine + found) == every
        assert found == coarse[:len(found)] and fine
