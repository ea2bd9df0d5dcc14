"""The command export of run_generator.py."""

from __future__ import annotations

import os
import re
import time

import numpy as np

import pretrained_networks
from dnnlib.cli import UserError
from export import formats, options, runtimes
from export.graph import PSI, Part
from latents import pictures
from training import misc
from training.options import PRECISIONS

_TRUNCATION_PSI = 0.5    # Default, that of the commands which draw.
_ROUNDING = 1e-4         # Differences in float32, relative to the largest value, that need no remark.


def export_network(network_pkl: str, format: str, output: str | None = None, part: str = 'generator',
                   truncation_psi: float | str = _TRUNCATION_PSI, noise: str = 'fixed', precision: str = 'float32',
                   impl: str | None = None) -> None:
    """Write a generator or a half of it for another runtime, and compare what that computes with Gs.run.

    Args:
        network_pkl:    Path, URL or 'gdrive:networks/...' of a (G, D, Gs) pickle. Gs is exported.
        format:         One of options.FORMATS.
        output:         File to write, or folder of a SavedModel. None = named after the network.
        part:           One of options.PARTS.
        truncation_psi: Scale of the deviation from the average in W. 'input' = an input of the exported network.
        noise:          One of options.NOISES.
        precision:      Key of PRECISIONS.
        impl:           Form of the custom ops that the export is compared with: 'auto', 'native' or 'ref'. None = the
                        one set already. The export itself has none.

    Raises:
        UserError: A package is missing, the network lacks what was asked for, or the file cannot be written or opened.
    """
    path = output or default_output(pretrained_networks.get_path_or_url(network_pkl), format, part)
    if format in options.ARRAYS:
        _write_arrays(network_pkl, format, path, part)
        return
    formats.check(format, path)
    Gs = pretrained_networks.load_generator(network_pkl, impl, precision=precision)
    psi = None if truncation_psi == options.PSI_INPUT else float(truncation_psi)
    if part == 'generator' and psi is not None:
        pictures.psi_kwargs(Gs, psi, _TRUNCATION_PSI)  # Says that ProGAN's networks truncate nothing.
    half_weights = format == 'litert' and precision == 'mixed_float16'
    exported = Part(Gs, part, psi, noise, 'float32' if half_weights else PRECISIONS[precision])
    print(f'Writing {path}: seconds for small networks, a minute for the largest ...')
    start = time.perf_counter()
    formats.write(format, exported, path, half_weights)
    print(f'{path}: {_size(path) / 1e6:.1f} MB, in {time.perf_counter() - start:.0f} s')
    for name, shape in exported.inputs.items():
        print(f'  input   {name} {_shape(shape)}{" for each image" if format == "keras" and name == PSI else ""}')
    print(f'  output  {exported.output}')
    _compare(format, exported, path, precision)


def default_output(network: str, format: str, part: str) -> str:
    """Name of the file or folder, in the current folder, for a network of this path or URL."""
    stem = re.sub(r'\.(pkl|npz|safetensors)$', '', re.split(r'[/:\\]', network.rstrip('/'))[-1]) or 'network'
    stem += '' if part == 'generator' else f'-{part}'
    return stem + (options.ENDINGS[format] or '-savedmodel')


def _write_arrays(network_pkl, format, path, part):
    """Write the weights of Gs or one of its components; open the file again, and compare."""
    _G, _D, Gs = pretrained_networks.load_networks(network_pkl)
    if part != 'generator':
        misc.require_w(Gs, f'--part={part}')
        Gs = Gs.components[part]
    misc.save_weights([Gs], path)
    written = misc.load_pkl(path)[0].vars
    if not all(np.array_equal(written[name].numpy(), var.numpy()) for name, var in Gs.vars.items()):
        raise UserError(f'{path}: the weights differ after they were written', 'Check the disk.')
    print(f'{path}: {_size(path) / 1e6:.1f} MB, {len(written)} arrays of {Gs.name}, equal after they were read again.')


def _compare(format, part, path, precision):
    """Print the largest difference of an exported file from what this project computes, and the time of both."""
    runtime = runtimes.name_of(format)
    if not runtime:
        print("Not compared: its runtime is not installed. Install the extra: pip install -e '.[export]'")
        return
    print(f'Opening it with {runtime} ...')
    inputs = part.example()
    there = runtimes.run(format, path, {**inputs, PSI: inputs[PSI].reshape(1, 1)}
                         if format == 'keras' and PSI in inputs else inputs)
    part.run(inputs, assume_frozen=True)  # TensorFlow optimizes a graph when it is called first.
    here = runtimes.timed(lambda: part.run(inputs, assume_frozen=True))
    difference = relative_difference(there.output, here.output)
    what = 'W' if part.part == 'mapping' else 'picture'
    print(f'Largest difference from Gs.run: {difference:.1e} of the maximum\n'
          f'Time of a {what}: {_milliseconds(there.seconds)} there, {_milliseconds(here.seconds)} here')
    if not difference < _ROUNDING and precision == 'float32':
        raise UserError(f'{path}: {runtime} computes something else than Gs.run: the difference is {difference:.1e} of '
                        'the maximum', 'Choose another format, and report this.')


def relative_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference of two arrays of the same shape, relative to the largest magnitude in `b`.

    Raises:
        ValueError: The shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f'expected the shape {b.shape}, received {a.shape}')
    return float(np.max(np.abs(a.astype(np.float64) - b)) / np.max(np.abs(b)))


def _shape(shape):
    """(None, 512) -> '[N, 512]'."""
    return f'[{", ".join("N" if size is None else str(size) for size in shape)}]'


def _milliseconds(seconds):
    """0.00123 -> '1.23 ms'; three digits at least."""
    return f'{1000 * seconds:.{2 if seconds < 0.01 else 1 if seconds < 0.1 else 0}f} ms'


def _size(path):
    """Size of a file, or of all files in a folder, in bytes."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)
