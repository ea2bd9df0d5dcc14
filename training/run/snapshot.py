"""What a run leaves to look at: grids of real and generated images, and network pickles."""

import contextlib
import os

import numpy as np
import tensorflow as tf

from dnnlib.cli import UserError
from training import misc

# Pixels of a grid's picture and the least number of columns and rows, by name of the size.
_GRID_SIZES = {'1080p': (1920, 1080, 3, 2), '4k': (3840, 2160, 7, 4), '8k': (7680, 4320, 7, 4)}


def setup_image_grid(training_set, size='1080p', layout='random', seed=None, most=(32, 32)):
    """Choose the real images and labels that all grids of a run show.

    Args:
        training_set: TFRecordDataset.
        size:         '1080p', '4k' or '8k': about the pixels of the picture.
        layout:       'random': images as they come. 'row_per_class': one class of the labels per row.
        seed:         Of the order in which they come. None = random.
        most:         Columns and rows that it has at most.

    Returns:
        ((columns, rows), reals uint8 [N, C, H, W], labels float32 [N, label_size]).
    """
    if size not in _GRID_SIZES or layout not in ('random', 'row_per_class'):
        raise ValueError(f"expected size of {list(_GRID_SIZES)} and layout 'random' or 'row_per_class', received {size!r}, {layout!r}")
    width, height, min_columns, min_rows = _GRID_SIZES[size]
    columns = int(min(max(width // training_set.shape[2], min_columns), most[0]))
    rows = int(min(max(height // training_set.shape[1], min_rows), most[1]))
    if layout == 'random' or training_set.label_size == 0:
        reals, labels = next(training_set.iterate(columns * rows, seed=seed))  # An iterator of its own, whose buffers go with it.
        return (columns, rows), reals.numpy(), labels.numpy()
    return (columns, rows), *_row_per_class(training_set, columns, rows, seed)


def _row_per_class(training_set, columns, rows, seed):
    cells = [[] for _ in range(rows)]
    wanted = min(rows, training_set.label_size)
    for _, (images, labels) in zip(range(training_set.num_images), training_set.iterate(1, seed=seed)):
        row = int(np.argmax(labels[0]))
        if row < wanted and len(cells[row]) < columns:
            cells[row].append((images[0].numpy(), labels[0].numpy()))
        if all(len(row) == columns for row in cells[:wanted]):
            break
    empty = (np.zeros(training_set.shape, np.uint8), np.zeros([training_set.label_size], np.float32))
    flat = [cell for row in cells for cell in [*row, *[empty] * (columns - len(row))]]
    return np.stack([image for image, _ in flat]), np.stack([label for _, label in flat])


class Snapshots:
    """Writes reals.png, fakes*.png and network-snapshot-*.pkl into a run folder, each whole or not at all.

    Args:
        run_dir:        Folder.
        training_set:   TFRecordDataset that the grid's reals come from.
        Gs:             Network that draws; its size tells the latents.
        minibatch_size: Images drawn at once.
        seed, ...:      As in setup_image_grid.

    Attributes:
        latents: tf.Variable [N, latent_size], what the fakes are drawn from.
    """

    def __init__(self, run_dir, training_set, Gs, minibatch_size=4, seed=None, **grid_args):
        self._run_dir, self._minibatch_size = run_dir, minibatch_size
        self._drange = training_set.dynamic_range
        self._grid_size, self._reals, self._labels = setup_image_grid(training_set, seed=seed, **grid_args)
        self.latents = tf.Variable(np.random.randn(len(self._reals), *Gs.input_shape[1:]), dtype=tf.float32)

    def path(self, name):
        return os.path.join(self._run_dir, name)

    def save_reals(self):
        misc.save_image_grid(self._reals, self.path('reals.png'), drange=self._drange, grid_size=self._grid_size)

    def save_fakes(self, Gs, name):
        """The same latents and labels every time, drawn by Gs as it is now."""
        fakes = Gs.run(self.latents, self._labels, is_validation=True, minibatch_size=self._minibatch_size)
        misc.save_image_grid(fakes, self.path(name), drange=[-1, 1], grid_size=self._grid_size)

    def save_networks(self, networks, name):
        """Write (G, D, Gs). UserError if that fails."""
        misc.save_pkl(networks, self.path(name))


@contextlib.contextmanager
def keep_going(name, errors=(OSError, UserError)):
    """What cannot be written inside the with-block, on a full disk say, costs that file and not the run.

    Args:
        name:   Of the file, for the note that is printed.
        errors: Exceptions that are held back.
    """
    try:
        yield
    except errors as err:
        print(f'Note: {name} was not written: {(str(err) or repr(err)).splitlines()[0]}')
