"""What a film costs beyond the bare generator's time for its frames, and time and memory of the covariance of W."""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench import networks, timing

FILM_COLUMNS = {'name': 's', 'film_ms': '.2f', 'film_best_ms': '.2f', 'bare_ms': '.2f', 'bare_best_ms': '.2f',
                'ratio': '.3f', 'before': '.3f'}
PCA_COLUMNS = {'name': 's', 'seconds': '.1f', 'peak_mb': '.0f', 'start_mb': '.0f', 'before': '.1f'}
_PCA_PROGRAM = 'import sys; from bench import latents; latents.print_pca(int(sys.argv[1]), int(sys.argv[2]))'


def main(argv: Sequence[str], prog: str) -> None:
    """Run the page."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--rounds', help='how often a film is made', type=int, default=5, metavar='N')
    parser.add_argument('--frames', help='frames of a film', type=int, default=32, metavar='N')
    parser.add_argument('--resolution', help='resolution of the generator, config-f', type=int, default=256,
                        metavar='N')
    parser.add_argument('--format', help='format of the film', default='mp4', metavar='NAME')
    parser.add_argument('--samples', help='latents for the covariance of W', type=int, default=100_000, metavar='N')
    args = parser.parse_args(argv)

    print(timing.machine())
    with tempfile.TemporaryDirectory() as folder:
        film, bare = functions(args.resolution, args.frames, args.format, folder)
        times = timing.interleaved({'film': film, 'bare': bare}, args.rounds)
    (film_ms, film_best), (bare_ms, bare_best) = ([ms / args.frames for ms in times[key]] for key in ('film', 'bare'))
    films = [{'name': f'latents/film/config-f/{args.resolution}/{args.format}', 'film_ms': film_ms,
              'film_best_ms': film_best, 'bare_ms': bare_ms, 'bare_best_ms': bare_best, 'ratio': film_best / bare_best}]
    timing.report(films, FILM_COLUMNS, before=('latents', 'ratio'))
    line = timing.in_own_process(_PCA_PROGRAM, str(args.samples), str(args.resolution))
    seconds, peak, start = map(float, line.split())
    found = [{'name': f'latents/pca/config-f/{args.samples}', 'seconds': seconds, 'peak_mb': peak, 'start_mb': start}]
    timing.report(found, PCA_COLUMNS, before=('latents', 'seconds'))
    timing.keep([*films, *found], args.json)


def functions(resolution: int, num_frames: int, film_format: str, folder: str,
              ) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return two functions without arguments: make a film, and compute the pictures of its frames in fours."""
    from latents import film, pictures, video
    Gs = networks.make_network('G', 'config-f', resolution)
    walk = film.Walk(Gs, [0, 1], num_frames - 1, 0.7)
    w = walk.w(np.arange(walk.num_frames))[:, 0]
    kwargs = pictures.picture_kwargs()
    Gs.components.synthesis.run(w[:4], randomize_noise=False, assume_frozen=True, **kwargs)

    def make_film() -> None:
        with video.Video(os.path.join(folder, 'film'), film_format) as out:
            for frame in walk.frames():
                out.add(frame)
    return make_film, lambda: Gs.components.synthesis.run(w, randomize_noise=False, **kwargs)


def print_pca(num_samples: int, resolution: int) -> None:
    """Print the seconds that the principal components of W take, and MB of memory at most and before."""
    from latents import directions
    Gs = networks.make_network('G', 'config-f', resolution)
    directions.covariance_of_w(Gs, 2)  # Traces the network.
    start_mb, start = timing.peak_memory(), time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        directions.pca(directions.covariance_of_w(Gs, num_samples), 20)
    print(time.perf_counter() - start, timing.peak_memory(), start_mb)
