"""The generators that were named on the command line. They are read when they are first used."""

from __future__ import annotations

import collections
import dataclasses
import math
import os
import re
import shlex
from typing import Any

import pretrained_networks
from dnnlib import run_dir
from dnnlib.cli import UserError
from dnnlib.tflib import Network
from dnnlib.util import is_url, open_url
from training import misc

_MAX_LOADED = 4      # Generators in memory at a time.
_PREVIEW_WORK = 0.2  # Largest share of the work of a picture that a preview may have.


@dataclasses.dataclass(frozen=True)
class Named:
    """A network that can be chosen.

    Args:
        label: What the page calls it.
        name:  How a command names it.
        path:  Its file.
    """
    label: str
    name: str
    path: str


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A generator in memory.

    Args:
        named:   Where it comes from.
        key:     Tells it from all others, and from those that its file had before.
        Gs:      The generator.
        preview: Resolution of its previews. None = it has none.
    """
    named: Named
    key: tuple[str, int]
    Gs: Network
    preview: int | None

    @property
    def has_w(self) -> bool:
        """Has it W? That of ProGAN has not."""
        return 'mapping' in self.Gs.components

    @property
    def w_shape(self) -> tuple[int, int]:
        """(layers, size) of its W."""
        layers, size = self.Gs.components.synthesis.input_shape[1:]
        return layers, size

    def info(self) -> dict[str, Any]:
        """What the page needs to know of it."""
        layers, size = self.w_shape if self.has_w else (0, 0)
        return dict(label=self.named.label, quoted=shlex.quote(self.named.name), resolution=self.Gs.output_shape[2],
                    layers=layers, w_size=size, classes=self.Gs.input_shapes[1][1], preview=self.preview,
                    has_noise=bool(misc.noise_variables(self.Gs)))


class Shelf:
    """All networks, of which some are in memory.

    Args:
        networks: Paths, URLs or names of networks, as --network takes them.
        run:      Folder of a training run, whose snapshots are added. None = none.

    Raises:
        UserError: A file is missing, a download fails, or the run has no snapshots.
    """

    def __init__(self, networks: list[str], run: str | None = None):
        self.named = [self._find(name) for name in networks]
        if run is not None:
            self.named += _snapshots(run)
        labels = [named.label for named in self.named]
        self.named = [named if labels.count(named.label) == 1 else dataclasses.replace(named, label=named.name)
                      for named in self.named]
        self._loaded: collections.OrderedDict[tuple[str, int], Loaded] = collections.OrderedDict()

    @staticmethod
    def _find(name: str) -> Named:
        path = pretrained_networks.get_path_or_url(name)
        if is_url(path):
            with open_url(path, kind='pickle') as file:
                return Named(name, name, file.name)
        pretrained_networks.require_file(path)
        return Named(os.path.basename(path), path, path)

    def load(self, index: int) -> Loaded:
        """The generator of this number. Others that have not been used for the longest time leave memory.

        Raises:
            UserError: There is no such number, or the file cannot be read or holds something else.
        """
        if not 0 <= index < len(self.named):
            raise UserError(f'there is no network {index}', 'Load the page again.')
        named = self.named[index]
        pretrained_networks.require_file(named.path)
        key = named.path, os.stat(named.path).st_mtime_ns  # A run may write a snapshot again.
        if key not in self._loaded:
            while len(self._loaded) >= _MAX_LOADED:
                self._loaded.popitem(last=False)
            Gs = misc.load_networks(named.path)[2]
            pretrained_networks.require_pictures(Gs, named.name)
            # With constant weights, pictures may differ in the last bit from those of generate-images.
            Gs.may_freeze = False
            for network in Gs.components.values():
                network.may_freeze = False
            self._loaded[key] = Loaded(named, key, Gs, preview_resolution(Gs))
        self._loaded.move_to_end(key)
        return self._loaded[key]


def _snapshots(folder: str) -> list[Named]:
    """The snapshots of a training run, in order of time, and its last network."""
    if not os.path.isdir(folder):
        found = 'a file' if os.path.exists(folder) else 'nothing'
        raise UserError(f'--run={folder}: expected the folder of a training run, found {found}',
                        'Give a folder such as results/00000-stylegan2-mine-1gpu-config-f.')
    names = run_dir.network_snapshots(folder)
    if os.path.isfile(os.path.join(folder, 'network-final.pkl')):
        names.append('network-final.pkl')
    if not names:
        raise UserError(f'--run={folder}: expected network-snapshot-*.pkl, found none',
                        'Give the folder of a training run that has written one.')
    return [Named(re.sub(r'^network-|\.pkl$', '', name), os.path.join(folder, name), os.path.join(folder, name))
            for name in names]


def preview_resolution(Gs: Network) -> int | None:
    """The largest resolution whose image costs at most a fifth of the whole picture. None = there is none.

    Only generators with skip connections have an image at each resolution. The work is that of the convolutions: the
    number of weights times that of pixels.
    """
    synthesis = Gs.components.get('synthesis')
    if synthesis is None or getattr(synthesis.kw, 'architecture', None) != 'skip':
        return None
    work: collections.Counter[int] = collections.Counter()
    for name, var in synthesis.trainables.items():
        size = re.match(r'(\d+)x\1/', name)
        if size and len(var.shape) == 4:
            work[int(size[1])] += math.prod(var.shape) * int(size[1]) ** 2
    total, so_far, best = sum(work.values()), 0, None
    for size in sorted(work):
        so_far += work[size]
        if so_far <= _PREVIEW_WORK * total and size >= 8:
            best = size
    return best
