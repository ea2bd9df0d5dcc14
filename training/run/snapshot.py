"""What a run shows of its networks: grids of real and generated images, and network pickles."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from dnnlib import run_dir
from dnnlib.cli import UserError
from training import misc

if TYPE_CHECKING:
    from dnnlib.tflib import Network
    from training.dataset import TFRecordDataset

# Name of a size -> width and height of the grid in pixels, and its least number of columns and rows.
_GRID_SIZES = {'1080p': (1920, 1080, 3, 2), '4k': (3840, 2160, 7, 4), '8k': (7680, 4320, 7, 4)}


def setup_image_grid(
        training_set: TFRecordDataset, size: str = '1080p', layout: str = 'random', seed: int | None = None,
        most: tuple[int, int] = (32, 32)) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """Choose the real images and labels that all grids of a run show.

    Args:
        training_set: TFRecordDataset.
        size:         '1080p', '4k' or '8k': approximate size of the picture.
        layout:       'random' = images in random order. 'row_per_class' = one class of the labels per row.
        seed:         Seed of the order of the images. None = random.
        most:         Largest number of columns and of rows.

    Returns:
        ((columns, rows), reals uint8 [N, C, H, W], labels float32 [N, label_size]).

    Raises:
        ValueError: There is no such size or layout.
    """
    if size not in _GRID_SIZES or layout not in ('random', 'row_per_class'):
        raise ValueError(f"expected size of {list(_GRID_SIZES)} and layout 'random' or 'row_per_class', "
                         f'received {size!r}, {layout!r}')
    width, height, min_columns, min_rows = _GRID_SIZES[size]
    columns = int(min(max(width // training_set.shape[2], min_columns), most[0]))
    rows = int(min(max(height // training_set.shape[1], min_rows), most[1]))
    if layout == 'random' or training_set.label_size == 0:
        reals, labels = next(training_set.iterate(columns * rows, seed=seed, count=1))
        return (columns, rows), reals.numpy(), labels.numpy()
    return (columns, rows), *_row_per_class(training_set, columns, rows, seed)


def _row_per_class(training_set: TFRecordDataset, columns: int, rows: int,
                   seed: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(reals, labels) of a grid with one class per row.

    Rows beyond the number of classes repeat the classes, and images are repeated where a class has too few. Rows of a
    class without images, or with very few, have black cells.
    """
    cells: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(rows)]
    most = training_set.num_images + 10 * rows * columns
    for images, labels in itertools.islice(training_set.iterate(1, seed=seed), most):
        row = int(np.argmax(labels[0]))
        while row < rows and len(cells[row]) == columns:
            row += training_set.label_size
        if row < rows:
            cells[row].append((images[0].numpy(), labels[0].numpy()))
        if all(len(row) == columns for row in cells):
            break
    empty = (np.zeros(training_set.shape, np.uint8), np.zeros([training_set.label_size], np.float32))
    flat = [cell for row in cells for cell in [*row, *[empty] * (columns - len(row))]]
    return np.stack([image for image, _ in flat]), np.stack([label for _, label in flat])


class Snapshots:
    """Writes reals.png, fakes*.png and network-snapshot-*.pkl into a run folder, each completely or not at all.

    Args:
        run_dir:        Folder of the run. None = write nothing, as workers other than the chief.
        training_set:   TFRecordDataset with the real images of the grid.
        Gs:             Network whose latents are drawn.
        minibatch_size: Images generated at a time.
        seed:           As in setup_image_grid.
        grid_args:      Further arguments of setup_image_grid.

    Attributes:
        latents: tf.Variable [N, latent_size] float32, the latents of the fakes.
    """

    def __init__(self, run_dir: str | None, training_set: TFRecordDataset, Gs: Network, minibatch_size: int = 4,
                 seed: int | None = None, **grid_args: Any):
        self._run_dir, self._minibatch_size = run_dir, minibatch_size
        self._drange = training_set.dynamic_range
        self._grid_size, self._reals, self._labels = setup_image_grid(training_set, seed=seed, **grid_args)
        latents = np.random.randn(len(self._reals), *Gs.input_shape[1:])
        self.latents = tf.Variable(tf.constant(latents, tf.float32))

    def path(self, name: str) -> str:
        """Path of a file in the run folder."""
        assert self._run_dir is not None
        return os.path.join(self._run_dir, name)

    def save_reals(self) -> None:
        """Write reals.png."""
        misc.save_image_grid(self._reals, self.path('reals.png'), drange=self._drange, grid_size=self._grid_size)

    def save_fakes(self, Gs: Network, name: str) -> None:
        """Write a grid of images that Gs generates now, from the same latents and labels every time.

        If Gs makes images of several sizes, the smaller ones are written under the same name into a folder for each
        size, such as 4x4, enlarged to the largest size.
        """
        sizes = dict(all_sizes=True) if 'all_sizes' in Gs.known_call_kwargs() else {}
        *smaller, fakes = Gs.run(self.latents, self._labels, is_validation=True, minibatch_size=self._minibatch_size,
                                 return_as_list=True, **sizes)
        for images in smaller:
            height, width = images.shape[2:]
            folder = self.path(f'{height}x{width}')
            os.makedirs(folder, exist_ok=True)
            enlarged = images.repeat(fakes.shape[2] // height, axis=2).repeat(fakes.shape[3] // width, axis=3)
            misc.save_image_grid(enlarged, os.path.join(folder, name), drange=[-1, 1], grid_size=self._grid_size)
        misc.save_image_grid(fakes, self.path(name), drange=[-1, 1], grid_size=self._grid_size)

    def save_networks(self, networks: Sequence[Network], name: str, keep: int | None = None,
                      needed: str | None = None) -> None:
        """Write a pickle of (G, D, Gs), and delete older ones.

        Args:
            networks: The networks.
            name:     File name, see RunProgress.snapshot_name.
            keep:     Number of pickles to keep: this one, and the newest of those before it. Pickles of later in the
                      training, which are there if a run continues from an older checkpoint, are left alone. None = all.
            needed:   Path of a pickle that is kept anyway: the one that the run started from. None = there is none.

        Raises:
            UserError: It cannot be written. Then nothing is deleted.
        """
        misc.save_pkl(networks, self.path(name))
        if keep is None:
            return
        names = [other for other in run_dir.network_snapshots(self.path(''))
                 if re.fullmatch(r'network-snapshot-\d{6,}(_\d{3})?\.pkl', other)]  # Not those of other programs.
        for other in names[:max(names.index(name) - (keep - 1), 0)]:
            if needed is None or os.path.realpath(needed) != os.path.realpath(self.path(other)):
                os.remove(self.path(other))


@contextlib.contextmanager
def tolerate_write_errors(name: str, errors: type[Exception] | tuple[type[Exception], ...] = (OSError, UserError),
                          ) -> Iterator[None]:
    """Context in which a file that cannot be written, for example on a full disk, is lost but does not end the run.

    Args:
        name:   What is written, for the note that is printed.
        errors: Exceptions that are caught.
    """
    try:
        yield
    except errors as err:
        print(f'Note: {name} was not written: {(str(err) or repr(err)).splitlines()[0]}')
