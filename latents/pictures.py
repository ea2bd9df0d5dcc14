"""From seeds and projected images to W, and from W to pictures: what all commands that draw share.

Where a network has no W (ProGAN), Z takes its place, as if it were W with one layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import PIL.Image
import tensorflow as tf

from dnnlib import storage, tflib
from dnnlib.cli import UserError
from dnnlib.tflib import Network
from latents import dlatents
from training import misc
from training.options import PRECISIONS

MINIBATCH_SIZE = 4  # Pictures that are generated at a time.


def one_hot(Gs: Network, class_idx: int | None) -> np.ndarray | None:
    """Label [1, classes] float32 of a class. None = no class.

    Raises:
        UserError: The network does not have the class.
    """
    if class_idx is None:
        return None
    num_classes = Gs.input_shapes[1][1]
    if num_classes == 0:
        raise UserError(f'--class={class_idx}: this network was trained without labels', 'Leave --class out.')
    if class_idx >= num_classes:
        raise UserError(f'--class={class_idx}: this network has {num_classes} classes',
                        f'Choose from 0 to {num_classes - 1}.')
    return np.eye(num_classes, dtype=np.float32)[[class_idx]]


def check_layers(flag: str, layers: Sequence[int], num_layers: int) -> None:
    """Raise a UserError if the network does not have all of the layers that a flag names."""
    if max(layers) >= num_layers:
        raise UserError(f'{flag}: there is no layer {max(layers)}, this network has {num_layers}',
                        f'Choose from 0 to {num_layers - 1}, for example {flag}=0-{num_layers // 2}.')


# ---- To W ----

def latent_shape(Gs: Network) -> tuple[int, int]:
    """(layers, size) of the latents that pictures are made of: those of W, or (1, size of Z) if there is no W."""
    layers, size = Gs.components.synthesis.input_shape[1:] if misc.has_w(Gs) else (1, Gs.input_shape[1])
    return layers, size


def psi_kwargs(Gs: Network, truncation_psi: float, default: float) -> dict[str, Any]:
    """Arguments of Network.run that truncate W. None for a network without W.

    Raises:
        UserError: The network has no W, and psi is neither 1 nor the default, so that somebody asked for it.
    """
    if misc.has_w(Gs):
        return dict(truncation_psi=truncation_psi)
    if truncation_psi not in (default, 1):
        misc.require_w(Gs, f'--truncation-psi={truncation_psi:g}')
    print('Note: the network is of ProGAN, which has no W: nothing is truncated.')
    return {}


def z_of_seeds(Gs: Network, seeds: Sequence[int]) -> np.ndarray:
    """Latents Z of seeds, float64 [N, latent_size]: the same as in misc.image_of_seed."""
    return np.stack([np.random.RandomState(seed).randn(*Gs.input_shape[1:]) for seed in seeds])


def w_of(Gs: Network, z: np.ndarray, label: np.ndarray | None = None) -> np.ndarray:
    """W of latents Z [N, latent_size], not truncated: float32 [N, layers, dlatent_size]. All have the same label.

    Without W it is Z, float32 [N, 1, latent_size].
    """
    if not misc.has_w(Gs):
        return np.asarray(z, np.float32)[:, np.newaxis]
    return Gs.components.mapping.run(z, None if label is None else label.repeat(len(z), axis=0))


def styles(Gs: Network, seeds: Iterable[int], path: str | None, truncation_psi: float,
           label: np.ndarray | None) -> dict[Any, tuple[np.ndarray, Any]]:
    """{seed: (w [layers, dlatent], None)}, truncated; or {name: (w, noises)} of the images in a file of latents."""
    if path is not None:
        return projected(Gs, path)
    from training.networks_stylegan2 import truncate
    seeds = list(dict.fromkeys(seeds))
    w = w_of(Gs, z_of_seeds(Gs, seeds), label)  # [seed, layer, dlatent]
    w = truncate(tf.constant(w), tf.constant(Gs.get_var('dlatent_avg')), truncation_psi, None).numpy()
    return {seed: (row, None) for seed, row in zip(seeds, w)}


def projected(Gs: Network, path: str) -> dict[Any, tuple[np.ndarray, Any]]:
    """{name: (w [layers, dlatent], noises)} of the images in a file of latents."""
    misc.require_w(Gs, '--dlatents')
    found = dlatents.load(path, Gs)
    return {name: (found.w[idx], found.noises_of(idx)) for idx, name in enumerate(found.names)}


class Truncation:
    """The truncation of a generator, as Gs.run applies it, for W outside of the network.

    Args:
        Gs: Generator. Its setting truncation_cutoff says which layers are truncated. Without W nothing is.

    Attributes:
        avg: Mean of W, float64 [dlatent_size]; that of Z is 0.
    """

    def __init__(self, Gs: Network):
        if not misc.has_w(Gs):
            self.avg, self._kept = np.zeros(Gs.input_shape[1]), np.ones([1, 1])
            return
        self.avg = np.asarray(Gs.get_var('dlatent_avg'), np.float64)
        num_layers = Gs.components.synthesis.input_shape[1]
        # What a psi of 0 leaves of ones: [layers, 1], 1 where a layer is not truncated.
        self._kept = np.asarray(Gs.truncate(tf.ones([1, num_layers, 1]), tf.zeros([1]), 0.0, Gs.kw.truncation_cutoff),
                                np.float64)[0]

    def factors(self, psi: float | np.ndarray) -> np.ndarray:
        """Factors of the deviation from the mean, [..., layers, 1], for psi, a number or an array [...]."""
        psi = np.asarray(psi, np.float64)[..., np.newaxis, np.newaxis]
        return psi + (1 - psi) * self._kept


def latents_of(Gs: Network, keys: Sequence[int | str], truncation_psi: float = 1.0,
               label: np.ndarray | None = None) -> Iterator[tuple[str, np.ndarray, Any]]:
    """Latents of seeds and of all images in files of latents, one after the other.

    Args:
        Gs:             Generator.
        keys:           Seeds and names of files.
        truncation_psi: Truncation of the seeds.
        label:          [1, classes] for the seeds. None = zeros.

    Yields:
        (name, w float64 [layers, dlatent], noises): 'seed0012' with the noise that misc.image_of_seed draws for it, or
        the name of an image with the noise that was found for it, or None if the file has none.
    """
    truncation = Truncation(Gs)
    for key in keys:
        if isinstance(key, str):
            for name, (w, noises) in projected(Gs, key).items():
                yield name, w.astype(np.float64), noises
        else:
            deviation = w_of(Gs, z_of_seeds(Gs, [key]), label)[0] - truncation.avg
            w = truncation.avg + deviation * truncation.factors(truncation_psi)
            yield f'seed{key:04d}', w, noises_of_seed(Gs, key)


# ---- To pictures ----

def picture_kwargs(precision: str = 'float32') -> dict[str, Any]:
    """Arguments of Network.run that make pictures, uint8 [N, H, W, C]."""
    return dict(minibatch_size=MINIBATCH_SIZE, dtype=PRECISIONS[precision],
                output_transform=dict(func=tflib.convert_images_to_uint8, nchw_to_nhwc=True))


def synthesize(Gs: Network, w: np.ndarray, noises: Any = None, precision: str = 'float32',
               label: np.ndarray | None = None) -> list[PIL.Image.Image]:
    """Generate pictures.

    Args:
        Gs:        Generator.
        w:         W [N, layers, dlatent]; or Z [N, 1, latent_size] if the network has no W.
        noises:    Noise maps for all of them. None = those of the pickle.
        precision: Key of PRECISIONS.
        label:     [1, classes] for Z. None = zeros.
    """
    with misc.noise_of(Gs, noises):
        images = images_of(Gs, w, label, randomize_noise=False, **picture_kwargs(precision))
    return [to_pil(image) for image in images]


def images_of(Gs: Network, w: np.ndarray, label: np.ndarray | None, **kwargs: Any) -> np.ndarray:
    """What Network.run returns for W or Z, as in `synthesize`."""
    if misc.has_w(Gs):
        return Gs.components.synthesis.run(w, **kwargs)
    return Gs.run(w[:, 0], None if label is None else label.repeat(len(w), axis=0), **kwargs)


def noises_of_seed(Gs: Network, seed: int) -> list[np.ndarray]:
    """The noise maps that misc.image_of_seed draws for a seed."""
    rnd = np.random.RandomState(seed)
    rnd.randn(1, *Gs.input_shape[1:])  # The latents come first.
    return [rnd.randn(*var.shape) for var in misc.noise_variables(Gs)]


def to_pil(image: np.ndarray) -> PIL.Image.Image:
    """uint8 [H, W, 1 or 3] -> picture in mode L or RGB."""
    return PIL.Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def save(picture: PIL.Image.Image, path: str) -> None:
    """Write a PNG file, which appears whole or not at all.

    Raises:
        UserError: It cannot be written.
    """
    try:
        with storage.new_file(path) as part:
            picture.save(part, 'png')
    except OSError as err:
        raise UserError(f'{path}: cannot be written: {err.strerror or err}',
                        'Check the folder and the free space. Pictures written before are kept.') from err
