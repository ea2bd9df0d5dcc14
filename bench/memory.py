"""Memory that training needs, and the largest --minibatch-gpu that fits into GPUs of several sizes.

Everything is reckoned from the layers of the networks (training/step/memory.py); nothing is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from bench import networks, timing

CARDS = (8, 11, 24, 40, 80)
_USUAL_PART = 4  # Default of --minibatch-gpu.


def main(argv: Sequence[str], prog: str) -> None:
    """Print the page with these arguments."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--configs', help='configurations', default='config-f,config-e', metavar='LIST')
    parser.add_argument('--resolutions', help='resolutions of the images', default='256,512,1024', metavar='LIST')
    parser.add_argument('--precisions', help='as --precision of run_training.py', default='float32,bfloat16',
                        metavar='LIST')
    parser.add_argument('--cards', help='memory of the GPUs in GiB', default=','.join(map(str, CARDS)), metavar='LIST')
    parser.add_argument('--minibatch', help='images of a minibatch on one GPU', type=int, default=32, metavar='N')
    args = parser.parse_args(argv)

    cards = [int(card) for card in args.cards.split(',')]
    rows = [row for config in args.configs.split(',') for resolution in args.resolutions.split(',')
            for row in reckon(config, int(resolution), args.precisions.split(','), cards, args.minibatch)]
    print(f'GiB that training needs with --minibatch-gpu={_USUAL_PART}: at the least, and in all; and the largest '
          '--minibatch-gpu for a GPU of so many GiB (- = none):')
    columns = {'name': 's', 'least': '.1f', 'all': '.1f', **{f'{card} GiB': 's' for card in cards}}
    timing.report(rows, columns, args.json)


def reckon(config: str, resolution: int, precisions: Sequence[str], cards: Sequence[int],
           minibatch: int) -> list[dict[str, Any]]:
    """Rows of a configuration.

    Args:
        config:     Name of the configuration.
        resolution: Of the images.
        precisions: Keys of options.PRECISIONS, one for each row.
        cards:      Memory of GPUs in GiB.
        minibatch:  Images of a minibatch on one GPU.
    """
    from dnnlib.tflib.variables import skip_initializers
    from training.step import memory
    with skip_initializers():
        G, D = (networks.make_network(key, config, resolution) for key in 'GD')
    rows = []
    for precision in precisions:
        parts = {card: memory.largest_part(G, D, minibatch, card * 2 ** 30, precision) for card in cards}
        rows.append({
            'name': f'memory/{config}/{resolution}/{precision}',
            'least': memory.training_bytes(G, D, _USUAL_PART, precision) / 2 ** 30,
            'all': memory.needed_bytes(G, D, _USUAL_PART, precision) / 2 ** 30,
            **{f'{card} GiB': str(part or '-') for card, part in parts.items()}})
    return rows
