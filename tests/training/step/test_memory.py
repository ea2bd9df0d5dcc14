"""The memory of training, reckoned for networks small enough to be counted by hand."""

import pytest

from bench import networks
from training.step import memory

TINY = dict(fmap_base=32, fmap_max=8, latent_size=8, mapping_layers=1)


@pytest.fixture(scope='module')
def tiny():
    """G and D of config-f for 8x8 images."""
    return [networks.make_network(key, 'config-f', 8, **TINY) for key in 'GD']


def test_what_training_cannot_do_without(tiny):
    G, D = tiny
    # Const 4x4x8. 4x4/Conv: 8 -> 8, kept: scaled input, result, activation. ToRGB 4x4: scaled input, 3 channels.
    # 8x8/Conv0_up: scaled input at 4x4, result and activation at 8x8. 8x8/Conv1: three times 8x8x8.
    # ToRGB: 8x8x8 and 8x8x3.
    at_4x4, at_8x8 = 3 * 128 + 128 + 48, 128 + 2 * 512 + 3 * 512 + 512 + 192
    assert memory.kept_bytes(G.components.synthesis) == 4 * (at_4x4 + at_8x8)
    assert memory.kept_bytes(G.components.synthesis, 'bfloat16') == 4 * at_4x4 + 2 * at_8x8
    # FromRGB 8x8: 3 -> 8. Conv0: 8x8x8 twice. Conv1_down: filtered 8x8x8, 4x4x8. Skip likewise. 4x4/Conv: 9 -> 8.
    at_8x8, at_4x4 = 192 + 512 + 1024 + 640 + 640, 144 + 128
    assert memory.kept_bytes(D) == 4 * (at_8x8 + at_4x4)
    assert memory.kept_bytes(D, 'mixed_float16') == 2 * at_8x8 + 4 * at_4x4
    params = {net.name: 4 * sum(var.shape.num_elements() for var in net.trainables.values()) for net in tiny}
    kept = 4 * (memory.kept_bytes(G.components.synthesis) + memory.kept_bytes(D))
    assert memory.training_bytes(G, D, 4) == 5 * params['G'] + 3 * params['D'] + kept  # G_train needs the most here


@pytest.mark.parametrize('config', ['config-a', 'config-d'])
def test_growing_networks_count_at_full_resolution(config):
    """ToRGB and FromRGB of the lower resolutions are not used there."""
    G, D = (networks.make_network(key, config, 16, **TINY) for key in 'GD')
    for net in (G.components.synthesis, D):
        scopes = [layer.scope for layer in net.layers if 'RGB_lod' in getattr(layer, 'scope', '')]
        counted = [scope for scope in scopes if memory._resolution_of(scope, 16, grows=True) is not None]
        assert len(scopes) == 3 and counted == [scope for scope in scopes if scope.endswith('_lod0')]
        assert memory.kept_bytes(net, 'bfloat16') < memory.kept_bytes(net) < 2 * memory.kept_bytes(net, 'bfloat16')


def test_the_largest_part_that_fits(tiny):
    needed = {part: memory.needed_bytes(*tiny, part) for part in (2, 4, 8, 16, 32)}
    assert list(needed.values()) == sorted(needed.values())
    assert memory.largest_part(*tiny, 32, needed[8]) == 8
    assert memory.largest_part(*tiny, 32, needed[8] - 1) == 4
    assert memory.largest_part(*tiny, 12, needed[8]) == 4  # 6 is no group of minibatch stddev, 8 does not divide 12.
    assert memory.largest_part(*tiny, 32, needed[2] - 1) is None
    assert memory.largest_part(*tiny, 32, 1e15) == 32


def test_the_line_of_the_log(tiny, monkeypatch):
    monkeypatch.setattr(memory, 'needed_bytes', lambda G, D, part, precision: (2 + part / 2) * 2 ** 30)
    assert memory.describe(*tiny, 32, 4, 8 * 2 ** 30) == (
        'Memory by reckoning: --minibatch-gpu=4 needs 4.0 GiB of the 8.0 GiB of the GPU; '
        'the largest that fits is --minibatch-gpu=8.')
    assert memory.describe(*tiny, 32, 8, 3.5 * 2 ** 30).endswith(
        '=8 needs 6.0 GiB of the 3.5 GiB of the GPU; the largest that fits is --minibatch-gpu=2.')
    too_small = memory.describe(*tiny, 32, 4, 2 ** 30)
    assert 'no smaller part fits' in too_small and '--precision=bfloat16' in too_small
    assert '--precision' not in memory.describe(*tiny, 32, 4, 2 ** 30, 'bfloat16')


def test_msg_stylegan_counts_the_images_of_all_sizes():
    scopes = ['ToRGB_lod0', 'ToRGB_lod1', '8x8/combine', 'FromRGB_lod0']
    assert [memory._resolution_of(scope, 16, grows=False) for scope in scopes] == [16, 8, 8, 16]
