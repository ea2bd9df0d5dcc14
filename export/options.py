"""Flags of run_generator.py export, and what they can be together. Imports no TensorFlow, because --help needs it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from dnnlib import cli
from training.options import PRECISIONS

# Ending of the file of each format. A SavedModel is a folder.
ENDINGS = {'savedmodel': '', 'keras': '.keras', 'onnx': '.onnx', 'litert': '.tflite', 'npz': '.npz',
           'safetensors': '.safetensors'}
FORMATS = tuple(ENDINGS)
ARRAYS = ('npz', 'safetensors')  # Formats that hold weights, but no computation.
PARTS = ('generator', 'mapping', 'synthesis')
NOISES = ('fixed', 'input', 'none')
PSI_INPUT = 'input'

# Precisions that a format can have. Arrays are always float32.
_PRECISIONS = {'savedmodel': tuple(PRECISIONS), 'keras': ('float32',), 'onnx': ('float32', 'mixed_float16'),
               'litert': ('float32', 'mixed_float16')}


def add_export_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of export, except --network."""
    parser.add_argument('--format', choices=FORMATS, required=True, metavar='NAME',
                        help='savedmodel, keras, onnx, litert (the last two need the extra [export]); or the weights '
                             'alone: npz, safetensors')
    parser.add_argument('--output', type=cli.path, metavar='FILE',
                        help='file to write, or folder of a SavedModel (default: named after the network, in the '
                             'current folder)')
    parser.add_argument('--part', choices=PARTS, metavar='NAME',
                        help='generator, mapping = Z to truncated W, or synthesis = W to images (default: generator)')
    parser.add_argument('--truncation-psi', type=psi_or_input, metavar='PSI',
                        help='truncation: a number, or input = an input of the exported network (default: 0.5)')
    parser.add_argument('--noise', choices=NOISES, metavar='NAME',
                        help='fixed = the noise maps of the network file, input = inputs noise0, noise1, ..., or none '
                             '(default: fixed)')
    parser.add_argument('--precision', choices=PRECISIONS, metavar='NAME',
                        help='float32; mixed_float16 = float16 at the four highest resolutions of a SavedModel or ONNX '
                             'file, or for the stored weights of a LiteRT file; bfloat16, for a SavedModel (default: '
                             'float32)')
    cli.add_impl_flag(parser, default=argparse.SUPPRESS)
    cli.add_debug_flag(parser)


def psi_or_input(text: str) -> float | str:
    """'0.7' -> 0.7; 'input' -> 'input'."""
    if text == PSI_INPUT:
        return text
    try:
        return cli.truncation_psi(text)
    except argparse.ArgumentTypeError as err:
        raise argparse.ArgumentTypeError(f'{err}, or input') from None


def check(given: Mapping[str, Any]) -> None:
    """Check that flags go together.

    Args:
        given: Values of the flags that were given, by their names as arguments, such as truncation_psi.

    Raises:
        UserError: Flags have no effect together, or the format does not have the precision or the ending.
    """
    kind, part = given['format'], given.get('part', 'generator')
    flags = {'--' + name.replace('_', '-') for name in given}
    if kind in ARRAYS:
        cli.refuse_flags(flags & {'--truncation-psi', '--noise', '--precision', '--impl'},
                         f'with --format={kind}, which holds weights alone')
    if part == 'mapping':
        cli.refuse_flags(flags & {'--noise', '--precision'}, 'with --part=mapping')
    if part == 'synthesis':
        cli.refuse_flags(flags & {'--truncation-psi'}, 'with --part=synthesis, which takes truncated W')
    precision = given.get('precision', 'float32')
    if kind not in ARRAYS and precision not in _PRECISIONS[kind]:
        raise cli.UserError(f'--precision={precision}: expected {" or ".join(_PRECISIONS[kind])} with --format={kind}',
                            'Choose one of these, or --format=savedmodel.')
    output = given.get('output')
    if output is not None:
        _check_output(kind, output)


def _check_output(kind, output):
    ending = os.path.splitext(output)[1]
    if kind != 'savedmodel' and ending != ENDINGS[kind]:
        raise cli.UserError(f'--output={output}: expected a name that ends with {ENDINGS[kind]} for --format={kind}',
                            f'Give another name, or leave --output out{_other_format(ending)}.')
    if kind == 'savedmodel' and (ending in set(ENDINGS.values()) - {''} or os.path.isfile(output)):
        raise cli.UserError(f'--output={output}: expected a folder for --format=savedmodel, found the name of a file',
                            f'Give the name of a folder, or leave --output out{_other_format(ending)}.')
    if kind != 'savedmodel' and os.path.isdir(output):
        raise cli.UserError(f'--output={output}: expected the name of a file, found a folder', 'Give another name.')
    parent = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(parent):
        raise cli.UserError(f'--output={output}: there is no folder {parent}', 'Make it first, or give another name.')


def _other_format(ending):
    """', or choose --format=onnx' for the ending of another format."""
    return ''.join(f', or choose --format={kind}' for kind, other in ENDINGS.items() if other and other == ending)
