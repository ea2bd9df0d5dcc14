"""Time of a picture with minibatch one: here, and in the runtimes that exported files are for."""

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench import networks, timing

COLUMNS = {'name': 's', 'ms': '.2f', 'best_ms': '.2f', 'ratio': '.3f', 'difference': '.1e'}


def main(argv: Sequence[str], prog: str) -> None:
    """Run the page."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--rounds', help='how often each is called', type=int, default=30, metavar='N')
    parser.add_argument('--config', help='configuration of the generator', default='config-f', metavar='NAME')
    parser.add_argument('--fmap-base', help='width of the generator', type=int, default=2048, metavar='N')
    parser.add_argument('--resolution', help='of the generator', type=int, default=64, metavar='N')
    args = parser.parse_args(argv)

    print(timing.machine())
    with tempfile.TemporaryDirectory() as folder:
        functions, differences = _functions(args.config, args.resolution, args.fmap_base, folder)
        times = timing.interleaved(functions, args.rounds)
    here = times['Gs.run'][1]
    rows = [{'name': f'export/{args.config}/{args.resolution}/{name}', 'ms': ms, 'best_ms': best, 'ratio': best / here,
             'difference': differences[name]} for name, (ms, best) in times.items()]
    timing.report(rows, COLUMNS, args.json)


def _functions(config: str, resolution: int, fmap_base: int,
               folder: str) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
    """Name -> function that makes a picture, and the largest difference of its result from that of Gs.run."""
    from export import formats, runtimes
    from export.command import relative_difference
    from export.graph import Part
    part = Part(networks.make_network('G', config, resolution, fmap_base=fmap_base), psi=0.7)
    inputs = part.example()
    functions: dict[str, Callable[[], np.ndarray]] = {'Gs.run': lambda: part.run(inputs, assume_frozen=True)}
    for kind, open_file in (('onnx', runtimes.open_onnx), ('litert', runtimes.open_litert)):
        path = os.path.join(folder, kind)
        formats.write(kind, part, path)
        function = open_file(path)
        functions[runtimes.name_of(kind).split()[0]] = lambda function=function: function(inputs)
    results = {name: function() for name, function in functions.items()}
    return functions, {name: relative_difference(result, results['Gs.run']) for name, result in results.items()}
