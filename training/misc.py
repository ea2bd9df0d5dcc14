"""Network pickles, preparation of real images for training, and grids of images."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from dnnlib import run_dir
from dnnlib.cli import UserError
from dnnlib.pickles import legacy_pickle, network_files
from dnnlib.pickles.network_state import CHANGED, DIGEST_KEY, READ_VERSIONS, SHAPE_KEYS, import_line, module_in
from dnnlib.pickles.progan import from_original
from dnnlib.pickles.version5 import from_version_5, to_version_5
from dnnlib.util import get_obj_by_name, is_url, open_url
from training.data import pil_ops

if TYPE_CHECKING:  # TensorFlow is imported only where it is needed: this module is also loaded for --help.
    import tensorflow as tf

    from dnnlib.tflib import Network, Random
    from training.dataset import TFRecordDataset

# ---- Network pickles ----

_SPARE_BYTES = 2 ** 24  # Added to what the weights of a pickle allow its networks, for small files.
_MAX_LIST = 1000        # Numbers in a setting.
_OPENED = 'Only networks of ProGAN, StyleGAN, MSG-StyleGAN, StyleGAN2 and StyleGAN2-ADA can be opened.'

def open_file_or_url(file_or_url: str | os.PathLike) -> IO[bytes]:
    """Open a file, or download a URL into the cache folder and open that file (`dnnlib.util.open_url`).

    Raises:
        UserError: The download failed.
        OSError:   There is no such file.
    """
    return open_url(file_or_url) if is_url(file_or_url) else open(file_or_url, 'rb')


def load_pkl(file_or_url: str | os.PathLike) -> Any:
    """Load a network pickle, written by the original, its successors in PyTorch, or this project.

    No code from the file is run, unlike with `pickle.load`, which opens network pickles too (docs/security.md).

    Args:
        file_or_url: File name or URL. The weights of .npz and .safetensors files are read as well
                     (dnnlib/pickles/network_files.py).

    Returns:
        What the file holds, each network as a `dnnlib.tflib.Network`: usually the tuple (G, D, Gs).

    Raises:
        UserError: The file is damaged, refers to classes that network pickles do not need, or holds an unknown network.
    """
    path = file_or_url
    if is_url(path):
        with open_file_or_url(path) as file:
            path = file.name
    states = network_files.load(path)
    return _map_networks(states, legacy_pickle.NetworkState, lambda state: _network_from_state(state, path))


def load_networks(path: str | os.PathLike) -> tuple[Network, Network, Network]:
    """Load the networks (G, D, Gs) of a network pickle.

    Raises:
        UserError: As `load_pkl`, or the file holds something else.
    """
    networks = load_pkl(path)
    is_triple = isinstance(networks, (tuple, list)) and len(networks) == 3
    if not is_triple or not all(hasattr(network, 'run') for network in networks):
        raise UserError(f'{path}: expected the three networks (G, D, Gs), found something else',
                        'Give a network-snapshot-*.pkl or network-final.pkl of a training run, or an official network.')
    return tuple(networks)


def save_pkl(obj: Any, filename: str | os.PathLike, version: int | None = None) -> None:
    """Write networks in the original's format.

    If all networks have the settings of StyleGAN2-ADA, they are written in version 5, which its readers take, and else
    in version 4. If they have settings that neither has, such as another activation of the last layers of D, the file
    opens only here.

    Args:
        obj:      Network, or tuples, lists and dicts of them.
        filename: File to write. It appears complete or not at all.
        version:  4 or 5 = write this version. None = as above.

    Raises:
        UserError: The file cannot be written, or version 5 has no networks with these settings.
    """
    from dnnlib.tflib import Network

    states: list[legacy_pickle.NetworkState] = []

    def state_of(net):
        states.append(_state_from_network(net))
        return states[-1]
    data = _map_networks(obj, Network, state_of)
    if version != 4:
        translated = {id(state): to_version_5(state, force=version == 5) for state in states}
        left = [state.name for state in states if translated[id(state)] is None]
        if left and version == 5:
            raise UserError(f'{filename}: version 5 of the format has no networks with the settings of {left[0]}',
                            'Write version 4.')
        if not left:
            data = _map_networks(data, legacy_pickle.NetworkState, lambda state: translated[id(state)])
    legacy_pickle.dump(data, filename)


def save_weights(networks: Sequence[Network], path: str | os.PathLike) -> None:
    """Write networks as .npz or .safetensors, whichever `path` ends with (dnnlib/pickles/network_files.py).

    Raises:
        UserError: The file cannot be written.
    """
    network_files.dump([_state_from_network(net) for net in networks], path)


def pickled_state(net: Network) -> dict[str, Any]:
    """Return the state of a network for `pickle.dump`, in the original's layout; its components are networks."""
    return {**legacy_pickle.network_fields(_state_from_network(net)), 'components': dict(net.components)}


def network_from_pickle(state: Any) -> Network:
    """Build a network from the state that `pickle.load` has read for it.

    Raises:
        UserError: The state is not that of a network that exists here, or does not match its checksum.
    """
    where = 'the pickle'
    needed = ['name', 'static_kwargs', 'build_func_name', 'build_module_src', 'variables']
    if not isinstance(state, dict) or state.get('version') not in READ_VERSIONS or not set(needed) <= set(state):
        raise UserError(f'{where}: expected the state of a network, of version 2 to 5, found something else',
                        _OPENED)
    network = legacy_pickle.NetworkState(
        **{name: state[name] for name in [*needed, 'version']}, build_module=module_in(state),
        components={key: _state_from_network(net) for key, net in (state.get('components') or {}).items()},
        shapes={key: state[key] for key in SHAPE_KEYS} if set(SHAPE_KEYS) <= set(state) else None,
        augment_p=state.get('augment_p'))
    if state.get(DIGEST_KEY, None) not in (None, network.digest()):
        raise UserError(f'{where}: the weights or settings of the network {ascii(network.name[:100])} do not match its '
                        'checksum', CHANGED)
    return _network_from_state(network, where)


def _map_networks(obj, cls, func):
    if isinstance(obj, cls):
        return func(obj)
    if isinstance(obj, (tuple, list)):
        return type(obj)(_map_networks(x, cls, func) for x in obj)
    if isinstance(obj, dict):
        return {key: _map_networks(value, cls, func) for key, value in obj.items()}
    return obj


def _network_from_state(state, path):
    # Keras needs one core to create the network. Meanwhile TensorFlow transposes the weights with another.
    with ThreadPoolExecutor(1) as pool:
        return _create_network(state, path, pool)


def _create_network(state, path, pool):
    from dnnlib.tflib.variables import count_variables, skip_initializers
    from training.nets import registry
    try:
        state = from_version_5(state) if state.version == 5 else from_original(state)
        values = named_values(state)
        cls = registry.find_network(
            registry.name_in_pickle(state.build_func_name, state.build_module, state.build_module_src))
        known = {k: v for k, v in state.static_kwargs.items() if k in cls.all_settings(state.static_kwargs)}
        _check_lists(known)
        # The settings must not describe much more than the file holds. What differs by less is named below.
        num_bytes = 4 * sum(int(np.size(value)) for value in values.values())
        tensors = {name: pool.submit(_contiguous, np.asarray(value)) for name, value in values.items()}
        with skip_initializers(), count_variables(2 * len(values) + 100, 2 * num_bytes + _SPARE_BYTES):
            net = cls(state.name, **known)
    except Exception as err:  # Settings of a wrong type or size can fail anywhere in Keras, NumPy and TensorFlow.
        reason = (str(err) or type(err).__name__).splitlines()[0][:300]
        raise UserError(f'{path}: cannot rebuild network {ascii(state.name[:100])}: {reason}',
                        _OPENED) from err
    # A component has the settings of its siblings, too.
    others = set().union(*(network.settings for network in registry.NETWORKS.values()))
    unknown = sorted(set(state.static_kwargs) - set(known) - others)
    if unknown:
        print(f'Note: {path}: network {ascii(state.name[:100])} has unknown settings, which are ignored: '
              f'{", ".join(unknown)}')
    variables = net.named_variables()
    missing, extra = sorted(set(variables) - set(values)), sorted(set(values) - set(variables))
    if missing or extra:
        raise UserError(f'{path}: network {ascii(state.name[:100])} does not fit its settings: '
                        f'missing variables {missing[:3]}, unexpected variables {extra[:3]}',
                        'The file is damaged or was made by a modified network.')
    for name, value in values.items():
        value = np.asarray(value)
        if value.shape != tuple(variables[name].shape):
            raise UserError(
                f'{path}: {state.name}/{name}: expected shape {tuple(variables[name].shape)}, found {value.shape}',
                'The file is damaged or was made by a modified network.')
        variables[name].assign(tensors.pop(name).result())
    net.origin = state.origin
    net.augment_p = state.augment_p
    return net


def _contiguous(value: np.ndarray) -> Any:
    """The array as float32, or as a tensor if it is a transposed or flipped view, as the weights of PyTorch are.

    TensorFlow transposes convolution kernels in a third of the time that NumPy takes.
    """
    import tensorflow as tf
    value = value.astype(np.float32, copy=False)
    flipped = [axis for axis, stride in enumerate(value.strides) if stride < 0]
    base = np.flip(value, tuple(flipped)) if flipped else value
    order = sorted(range(value.ndim), key=lambda axis: -base.strides[axis])
    base = base.transpose(order)
    if value.ndim < 2 or value.flags.c_contiguous or not base.flags.c_contiguous:
        return value
    x = tf.transpose(base, np.argsort(order))
    return tf.reverse(x, flipped) if flipped else x


def _check_lists(settings: dict[str, Any]):
    """ValueError if a setting is a list far longer than any filter: resampling multiplies its length by itself."""
    for name, value in settings.items():
        size = np.size(value) if isinstance(value, (list, tuple, np.ndarray)) else 1
        if size > _MAX_LIST:
            raise ValueError(f'{name} is a list of {size}, expected at most {_MAX_LIST} numbers')


def named_values(state: legacy_pickle.NetworkState) -> dict[str, np.ndarray]:
    """Return the values of all variables of a network and its components, by their names within the network."""
    values = dict(state.variables)
    for component in state.components.values():
        values.update((f'{component.name}/{name}', value) for name, value in named_values(component).items())
    return values


# Settings that readers of the original's format in other frameworks know; they refuse files with any other.
_PORTABLE_KWARGS = {
    'G_main': set(
        'latent_size label_size dlatent_size resolution num_channels mapping_layers mapping_fmaps mapping_nonlinearity '
        'mapping_lrmul fmap_base fmap_max architecture resample_kernel nonlinearity truncation_psi truncation_cutoff '
        'style_mixing_prob structure'.split()),
    'D_stylegan2': set(
        'label_size resolution num_channels architecture fmap_base fmap_max mapping_fmaps nonlinearity resample_kernel '
        'mapping_layers mapping_lrmul mbstd_group_size mbstd_num_features structure'.split()),
}


def _state_from_network(net):
    func_name = type(net).__name__
    kwargs = dict(net.static_kwargs)
    if func_name in _PORTABLE_KWARGS:
        if 'mbstd_group_size' in net.settings:
            kwargs.setdefault('mbstd_group_size', net.kw.mbstd_group_size)  # Other readers have another default.
        defaults = dict(net.settings)
        for component in net.components.values():
            defaults.update(component.settings)
        # Of StyleGAN2-ADA's networks also num_fp16_res: its readers have another default.
        portable = _PORTABLE_KWARGS[func_name] | ({'num_fp16_res'} if kwargs.get('label_embed') else set())
        kwargs = {k: v for k, v in kwargs.items() if k in portable or k not in defaults or v != defaults[k]}
    return legacy_pickle.NetworkState(
        name=net.name, static_kwargs=kwargs, build_func_name=func_name,
        build_module=type(net).__module__, build_module_src=import_line(type(net).__module__),
        components={key: _state_from_network(component) for key, component in net.components.items()},
        variables=[(name, var.numpy()) for name, var in net.own_vars.items()], augment_p=net.augment_p,
        shapes=dict(input_shapes=net.input_shapes, output_shapes=net.output_shapes,
                    input_names=list(net.input_names), output_names=list(net.output_names)))


# ---- Files of earlier runs ----

def locate_run_dir(run_id_or_run_dir: int | str, result_dir: str = 'results') -> str:
    """Return the folder of a run.

    Args:
        run_id_or_run_dir: Number of the run, or its folder, as a path or as a name in `result_dir`.
        result_dir:        Folder of all runs.

    Raises:
        UserError: There is no such run.
    """
    for path in (str(run_id_or_run_dir), os.path.join(result_dir, str(run_id_or_run_dir))):
        if os.path.isdir(path) and not isinstance(run_id_or_run_dir, int):
            return path
    number = str(run_id_or_run_dir)
    found = sorted(path for path in glob.glob(os.path.join(glob.escape(result_dir), '*-*')) if os.path.isdir(path)
                   and number.isdigit() and os.path.basename(path).split('-')[0] == number.zfill(5))
    if not found:
        raise UserError(f'there is no run {run_id_or_run_dir} in {result_dir}', 'Give its folder.')
    return found[0]


def list_network_pkls(run_id_or_run_dir: int | str, include_final: bool = True,
                      result_dir: str = 'results') -> list[str]:
    """Return the paths of the network pickles of a run, in order of time. Errors and arguments as `locate_run_dir`.

    Args:
        include_final: Include network-final.pkl, as the last one?
    """
    folder = locate_run_dir(run_id_or_run_dir, result_dir)
    snapshots = [os.path.join(folder, name) for name in run_dir.network_snapshots(folder)]
    final = os.path.join(folder, 'network-final.pkl')
    return snapshots + [final] * (include_final and os.path.isfile(final))


def locate_latest_pkl(run_id_or_run_dir: int | str, result_dir: str = 'results') -> str:
    """Return the path of the newest network pickle of a run. Errors and arguments as `locate_run_dir`."""
    found = list_network_pkls(run_id_or_run_dir, result_dir=result_dir)
    if not found:
        raise UserError(f'{locate_run_dir(run_id_or_run_dir, result_dir)} has no network pickles',
                        'Choose another run.')
    return found[-1]


def locate_network_pkl(run_id_or_run_dir_or_network_pkl: int | str, snapshot_or_network_pkl: int | str | None = None,
                       result_dir: str = 'results') -> str:
    """Return the path or URL of a network pickle.

    Args:
        run_id_or_run_dir_or_network_pkl: As for `locate_run_dir`; or a pickle, which is returned as it is.
        snapshot_or_network_pkl:          Thousands of images of a snapshot, such as 'network-snapshot-001200.pkl' or
                                          1200; or a pickle. None = the newest.
        result_dir:                       Folder of all runs.

    Raises:
        UserError: There is no such run or pickle.
    """
    for name in (snapshot_or_network_pkl, run_id_or_run_dir_or_network_pkl):
        if isinstance(name, str) and (is_url(name) or os.path.isfile(name)):
            return name
    if snapshot_or_network_pkl is None:
        return locate_latest_pkl(run_id_or_run_dir_or_network_pkl, result_dir)
    wanted = str(snapshot_or_network_pkl).removesuffix('.pkl').removeprefix('network-').removeprefix('snapshot-')
    for path in list_network_pkls(run_id_or_run_dir_or_network_pkl, result_dir=result_dir):
        name = os.path.basename(path).removesuffix('.pkl').removeprefix('network-').removeprefix('snapshot-')
        if wanted in (name, name.lstrip('0')):
            return path
    raise UserError(f'run {run_id_or_run_dir_or_network_pkl} has no network pickle {snapshot_or_network_pkl}',
                    'misc.list_network_pkls lists those that it has.')


# ---- Generated images ----

@contextlib.contextmanager
def noise_of(Gs: Network, noises: Sequence[np.ndarray] | None) -> Iterator[None]:
    """Context manager in which the noise variables of a generator have the given values.

    Args:
        Gs:     Generator.
        noises: One array per noise variable, in the order of `noise_variables`. None = leave them as they are.
    """
    from dnnlib import tflib
    if noises is None:
        yield
        return
    noise_vars = noise_variables(Gs)
    stored = {var: var.numpy() for var in noise_vars}
    tflib.set_vars(dict(zip(noise_vars, noises, strict=True)))
    try:
        yield
    finally:
        tflib.set_vars(stored)  # The network may be cached and used again.


def noise_variables(Gs: Network) -> list[Any]:
    """Return the variables noise0, noise1, ... of a generator, in order. That of ProGAN has none."""
    return [var for name, var in Gs.components.get('synthesis', Gs).vars.items() if name.startswith('noise')]


def has_w(Gs: Network) -> bool:
    """Has a generator a W? ProGAN's draws images from Z itself."""
    return 'mapping' in Gs.components


def require_w(Gs: Network, purpose: str) -> None:
    """Raise a UserError, which begins with `purpose`, if a generator has no W."""
    if not has_w(Gs):
        raise UserError(f'{purpose}: needs W, but the network is of ProGAN, which has Z alone',
                        'Leave it out, or use a network of StyleGAN or StyleGAN2.')


def image_of_seed(Gs: Network, seed: int, labels: np.ndarray | None = None, **kwargs: Any) -> Any:
    """Generate the image of a seed as the original's commands do.

    RandomState(seed) gives the latent vector and then each noise buffer in the order of the network, so that a seed
    gives the same image whichever other seeds are generated.

    Args:
        Gs:     Generator.
        seed:   Seed of the latent vector and the noise.
        labels: [1, label_size]. None = zeros.
        kwargs: Further arguments of Gs.run, such as truncation_psi.

    Returns:
        What Gs.run returns for a minibatch of one: usually an array [1, C, H, W].
    """
    rnd = np.random.RandomState(seed)
    z = rnd.randn(1, *Gs.input_shape[1:])
    with noise_of(Gs, [rnd.randn(*var.shape) for var in noise_variables(Gs)]):
        return Gs.run(z, labels, randomize_noise=False, **kwargs)


# ---- Real images ----

def process_reals(images: Any, labels: Any, lod: float | tf.Tensor, mirror_augment: bool,
                  drange_data: Sequence[float], drange_net: Sequence[float], rng: Random | None = None,
                  stage: int | None = None) -> tuple[tf.Tensor, Any]:
    """Prepare real images for the discriminator.

    Args:
        images:         Array or tensor [N, C, H, W], uint8 or float, of the dataset's level floor(lod).
        labels:         [N, label_size], returned unchanged.
        lod:            Level of detail. Its fraction fades towards the next lower level.
        mirror_augment: Flip each image left to right with probability 1/2?
        drange_data:    Range of the dataset's values, [0, 255].
        drange_net:     Range of the result, [-1, 1].
        rng:            Random numbers for the flips. None = those of the global generator.
        stage:          floor(lod); lod may be a tensor then, and the result has the size of `images`. None = lod is a
                        number, and the result has full resolution: 2^floor(lod) times the width of `images`.

    Returns:
        (images [N, C, H', W'] float32, labels).
    """
    import tensorflow as tf

    from dnnlib.tflib import Random, lerp
    images = adjust_dynamic_range(tf.cast(images, tf.float32), drange_data, drange_net)
    if mirror_augment:
        keep = (rng or Random()).uniform('mirror', [tf.shape(images)[0], 1, 1, 1]) < 0.5
        images = tf.where(keep, images, mirror(images))
    level = int(np.floor(lod)) if stage is None else stage
    if stage is not None or lod != level:
        coarse = tf.repeat(tf.repeat(halve(images), 2, axis=2), 2, axis=3)
        images = lerp(images, coarse, lod - level)
    if stage is None and level:
        images = tf.repeat(tf.repeat(images, 2 ** level, axis=2), 2 ** level, axis=3)
    return images, labels


def halve(images: tf.Tensor) -> tf.Tensor:
    """Images [N, C, H, W] of half the size: means of 2x2 pixels, [N, C, H/2, W/2]."""
    import tensorflow as tf
    _n, c, h, w = images.shape
    return tf.reduce_mean(tf.reshape(images, [-1, c, h // 2, 2, w // 2, 2]), axis=[3, 5])


def mirror(images: tf.Tensor) -> tf.Tensor:
    """Flip images [N, C, H, W] left to right."""
    import tensorflow as tf
    return tf.reverse(images, axis=[3])


def apply_mirror_augment(minibatch: np.ndarray) -> np.ndarray:
    """Flip each image of an array [N, C, H, W] left to right with probability 1/2."""
    keep = np.random.rand(len(minibatch), 1, 1, 1) < 0.5
    return np.where(keep, minibatch, minibatch[:, :, :, ::-1])


def adjust_dynamic_range(data: Any, drange_in: Sequence[float], drange_out: Sequence[float]) -> Any:
    """Map the range [lo, hi] of an array or tensor linearly to another one."""
    if list(drange_in) == list(drange_out):
        return data
    (in_lo, in_hi), (out_lo, out_hi) = np.array(drange_in, np.float32), np.array(drange_out, np.float32)
    scale = (out_hi - out_lo) / (in_hi - in_lo)
    bias = out_lo - in_lo * scale
    return data * scale + bias


# ---- Pictures ----

def setup_snapshot_image_grid(training_set: TFRecordDataset, size: str = '1080p',
                              layout: str = 'random') -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """Choose the real images of a grid: see training.run.snapshot.setup_image_grid."""
    return get_obj_by_name('training.run.snapshot.setup_image_grid')(training_set, size, layout)


def create_image_grid(images: np.ndarray, grid_size: tuple[int, int] | None = None) -> np.ndarray:
    """Tile images into one image, row by row.

    Args:
        images:    [N, H, W] or [N, C, H, W].
        grid_size: (columns, rows). None = about as many columns as rows.

    Returns:
        [rows * H, columns * W] or [C, rows * H, columns * W]; unused cells are zero.
    """
    assert images.ndim in (3, 4)
    num, (height, width) = images.shape[0], images.shape[-2:]
    if grid_size is not None:
        columns, rows = grid_size
    else:
        columns = max(int(np.ceil(np.sqrt(num))), 1)
        rows = max((num - 1) // columns + 1, 1)
    grid = np.zeros([*images.shape[1:-2], rows * height, columns * width], images.dtype)
    for idx in range(num):
        x, y = (idx % columns) * width, (idx // columns) * height
        grid[..., y:y + height, x:x + width] = images[idx]
    return grid


def convert_to_pil_image(image: np.ndarray, drange: Sequence[float] = (0, 1)) -> PIL.Image.Image:
    """Convert an array [H, W], [1, H, W] or [3, H, W] with values in `drange` to a PIL image, rounded and clipped."""
    assert image.ndim in (2, 3)
    image = adjust_dynamic_range(np.asarray(image, np.float32), drange, [0, 255])
    pixels = np.rint(image).clip(0, 255).astype(np.uint8)
    return pil_ops.from_chw(pixels[np.newaxis] if pixels.ndim == 2 else pixels)


def save_image_grid(images: np.ndarray, filename: str | os.PathLike, drange: Sequence[float] = (0, 1),
                    grid_size: tuple[int, int] | None = None) -> None:
    """Write images as one PNG file that appears complete or not at all.

    Args:
        images:    [N, H, W] or [N, C, H, W]. Of other than 1 or 3 channels only the first 3 or the first one are shown.
        filename:  File to write.
        drange:    Range of the values.
        grid_size: As in `create_image_grid`.
    """
    if images.ndim == 4 and images.shape[1] not in (1, 3):
        images = images[:, :3] if images.shape[1] > 3 else images[:, :1]
    pil_ops.save_png(convert_to_pil_image(create_image_grid(images, grid_size), drange), filename)
