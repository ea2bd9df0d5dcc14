"""The steps of StyleGAN's Table 1 against the original's numbers; pickles of its code, in and out."""

import numpy as np
import pytest
import tensorflow as tf

from tests.golden import GOLDEN_FAMILY, assert_close, load_json, load_npz
from tests.graphs import eagerly
from tests.training.test_networks import scale_of_scores
from training import misc

VARIANTS = [name for name in load_json('stylegan/networks/variants.json', GOLDEN_FAMILY) if 'progan' not in name]


@pytest.mark.golden('STYLEGAN2_GOLDEN_FAMILY')
@pytest.mark.parametrize('name', VARIANTS)
def test_names_and_outputs(name, tmp_path):
    nets = misc.load_networks(GOLDEN_FAMILY / f'stylegan/networks/{name}.pkl')
    expected = load_json(f'stylegan/networks/{name}.vars.json', GOLDEN_FAMILY)
    for net in nets:
        assert [[key, list(var.shape), var.trainable] for key, var in net.vars.items()] == expected[net.name]
    misc.save_pkl(nets, tmp_path / 'again.pkl')
    for net, other in zip(nets, misc.load_networks(tmp_path / 'again.pkl'), strict=True):
        assert net.static_kwargs == other.static_kwargs
        for key, var in net.vars.items():
            np.testing.assert_array_equal(other.get_var(key), var.numpy())
    data = load_npz(f'stylegan/networks/{name}.npz', GOLDEN_FAMILY)
    _G, D, Gs = nets
    kwargs = {'default': {}, 'psi1': dict(truncation_psi=1),
              'psi0.7_cutoff4': dict(truncation_psi=0.7, truncation_cutoff=4)}
    compared = 0
    with eagerly():
        for key, values in data.items():
            if key in ('z', 'labels', 'images'):
                continue
            which, call = key.split('/')
            call, _, lod = call.partition('_lod')
            for net in D, Gs:
                net.set_var('lod', float(lod or 0))
            labels, scale = data['labels'][:len(values)], None
            if which == 'D':
                actual, scale = D.run(data['images'], labels), scale_of_scores(D, data['images'], labels)
            elif call == 'dlatents':
                actual = Gs.components.mapping.run(data['z'], labels)
            else:
                actual = Gs.run(data['z'], labels, randomize_noise=False, **kwargs[call])
            assert_close(actual, values, 1e-5, f'{name} {key}', scale)
            compared += 1
    assert compared >= 4
    layers_of_rgb = [key for key in Gs.vars if 'ToRGB' in key and key.endswith('weight')]
    assert len(layers_of_rgb) == (1 if name == 'fixed' else 3)
    _, dlatents = Gs(tf.constant(data['z']), None, is_training=True, return_dlatents=True)
    assert dlatents.shape[1] == (1 if name == 'tuned-baseline' else 6)
