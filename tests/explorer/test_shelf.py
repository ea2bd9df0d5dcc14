"""The networks that can be chosen: which of them are in memory, and what their previews cost."""

import os
import shutil
import types

import pytest

from dnnlib.cli import UserError
from explorer import shelf
from tests.explorer.serving import FACES
from tests.latents.networks import KINDS, generator


def test_the_snapshots_of_a_run_are_read_when_they_are_needed(tmp_path, monkeypatch):
    for name in ('network-snapshot-000010.pkl', 'network-snapshot-000002.pkl', 'network-final.pkl'):
        shutil.copy(FACES, tmp_path / name)
    monkeypatch.setattr(shelf, '_MAX_LOADED', 2)
    networks = shelf.Shelf([FACES], str(tmp_path))
    assert [named.label for named in networks.named] == ['faces32.pkl', 'snapshot-000002', 'snapshot-000010', 'final']
    first = networks.load(0)
    assert networks.load(0) is first and networks.load(1) is not first
    assert networks.load(0) is first  # Used again, so that another one leaves memory.
    networks.load(2)
    assert networks.load(0) is first
    os.utime(tmp_path / 'network-final.pkl', (1, 1))
    final = networks.load(3)
    os.utime(tmp_path / 'network-final.pkl', (2, 2))
    assert networks.load(3) is not final
    with pytest.raises(UserError, match='expected network-snapshot'):
        (tmp_path / 'empty').mkdir()
        shelf.Shelf([], str(tmp_path / 'empty'))


def test_networks_of_one_name_have_their_paths(tmp_path):
    (tmp_path / 'faces32.pkl').write_bytes(b'')
    assert [named.label for named in shelf.Shelf([FACES, str(tmp_path / 'faces32.pkl')]).named] == [
        FACES, str(tmp_path / 'faces32.pkl')]


@pytest.mark.parametrize('kind', KINDS)
def test_only_generators_with_skip_connections_have_previews(kind):
    preview = shelf.preview_resolution(generator(kind))
    assert preview in (8, None) and (preview is None or kind in ('config-f', 'ada'))


@pytest.mark.parametrize('resolution, expected', [(32, 16), (256, 32), (1024, 32)])
def test_previews_of_networks_of_full_size_cost_at_most_a_fifth(monkeypatch, resolution, expected):
    """Counted by hand: 512 feature maps up to 64x64, then half as many for each doubling of the resolution."""
    work = {size: 0 for size in (4, 8, 16, 32, 64, 128, 256, 512, 1024) if size <= resolution}
    fmaps, names = {size: min(512, 32768 // size) for size in work}, {}
    for size in work:
        names[f'{size}x{size}/Conv1/weight'] = [3, 3, fmaps[size], fmaps[size]]
        names[f'{size}x{size}/Conv0_up/weight'] = [3, 3, fmaps[max(size // 2, 4)], fmaps[size]]
        work[size] = sum(9 * shape[2] * shape[3] * size ** 2 for shape in list(names.values())[-2:])
    names['64x64/Conv1/mod_weight'] = [512, 512]  # Not a convolution.
    synthesis = types.SimpleNamespace(kw=types.SimpleNamespace(architecture='skip'), trainables={
        name: types.SimpleNamespace(shape=shape) for name, shape in names.items()})
    found = shelf.preview_resolution(types.SimpleNamespace(components=dict(synthesis=synthesis)))
    assert found == max(size for size in work if size >= 8 and sum(
        work[other] for other in work if other <= size) <= 0.2 * sum(work.values()))
    assert found >= expected / 2
