"""How long a picture of the explorer takes beyond the bare evaluation of its network, and a preview against it.

The time is that of a request to the web server in the same process: from the seed to the PNG file.
"""

import argparse
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench import networks, timing

COLUMNS = {'name': 's', 'picture_ms': '.1f', 'picture_best_ms': '.1f', 'bare_ms': '.1f', 'bare_best_ms': '.1f',
           'extra_ms': '.1f', 'preview_ms': '.1f', 'preview_best_ms': '.1f', 'preview_ratio': '.3f', 'before': '.1f'}
_NARROW = dict(fmap_base=64, fmap_max=8)


def main(argv: Sequence[str], prog: str) -> None:
    """Run the page."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--rounds', help='times each picture is drawn', type=int, default=10, metavar='N')
    parser.add_argument('--resolutions', help='resolutions of the generators, config-f', default='256', metavar='LIST')
    args = parser.parse_args(argv)

    print(timing.machine())
    rows = []
    cases = [(name, resolution, options) for resolution in map(int, args.resolutions.split(','))
             for name, options in (('config-f', {}), ('narrow', _NARROW))]
    for name, resolution, options in cases:
        functions, stop = serve(resolution, **options)
        try:
            # What comes on top does not depend on the width, and is a larger part of a narrow network's time.
            times = timing.interleaved(functions, args.rounds * (5 if options else 1))
        finally:
            stop()
        row: dict[str, Any] = {'name': f'explorer/{name}/{resolution}'}
        for key, (median, best) in times.items():
            row.update({f'{key}_ms': median, f'{key}_best_ms': best})
        row['extra_ms'] = row['picture_best_ms'] - row['bare_best_ms']
        row['preview_ratio'] = row['preview_best_ms'] / row['picture_best_ms']
        rows.append(row)
    timing.report(rows, COLUMNS, args.json, before=('explorer', 'extra_ms'))


def serve(resolution: int, **options: Any) -> tuple[dict[str, Callable[[], Any]], Callable[[], None]]:
    """Start an explorer. Return functions to be timed, and one that ends it.

    Args:
        resolution: Of the generator.
        options:    More options of networks.make_network.

    Returns:
        ({'picture', 'preview': request from the explorer; 'bare': evaluation of the network alone}, stop).
    """
    import dnnlib.tflib  # noqa: F401  First, for a quiet start.

    # isort: split
    import numpy as np
    import requests

    from explorer import server, shelf
    from latents import pictures
    Gs = networks.make_network('G', 'config-f', resolution, **options)
    Gs.may_freeze = False  # As in the explorer, whose pictures are those of generate-images to the last bit.
    named = shelf.Named('G', 'G', 'G')
    only = shelf.Shelf([])
    only.named = [named]
    loaded = shelf.Loaded(named, ('G', 0), Gs, shelf.preview_resolution(Gs))
    only.load = lambda index: loaded  # type: ignore[method-assign]
    sock = server.listen(0, everywhere=False)
    explorer = server.Explorer(only)
    uvicorn = server.server(explorer)
    thread = threading.Thread(target=uvicorn.run, kwargs=dict(sockets=[sock]), daemon=True)
    thread.start()
    while not uvicorn.started:
        time.sleep(0.01)
    session, seeds = requests.Session(), iter(range(10 ** 6))
    address = f'http://127.0.0.1:{sock.getsockname()[1]}/api/picture'

    def ask(preview: bool) -> bytes:
        recipe = {'kind': 'seed', 'seed': next(seeds), 'psi': 0.7}
        response = session.post(address, json={'network': 0, 'recipe': recipe, 'preview': preview},
                                headers={'X-Explorer': '1'}, timeout=600)
        response.raise_for_status()
        return response.content

    def stop() -> None:
        uvicorn.should_exit = True
        thread.join()
        explorer.worker.close()
        sock.close()
    z = np.random.RandomState(0).randn(1, *Gs.input_shape[1:])
    return {'picture': lambda: ask(False), 'preview': lambda: ask(True),
            'bare': lambda: Gs.run(z, None, randomize_noise=False, truncation_psi=0.7, **pictures.picture_kwargs()),
            }, stop
