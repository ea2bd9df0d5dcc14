"""What augmentation adds to the time of a training iteration.

G_train augments the generated images, with a gradient; D_train generated and real images, without one; D_reg real
images, with a second derivative.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from bench import costs, networks, timing

COLUMNS = {'name': 's', 'iteration_ms': '.1f', 'augment_ms': '.1f', 'share': '.1%'}
CASES = 'config-e/64/mb8,demo/32/mb8'
# The networks of `make demo`, as in DEMO_SETTINGS of the Makefile.
DEMO: dict[str, Any] = dict(fmap_base=512, fmap_max=64, latent_size=64, mapping_layers=2, resample_kernel=[1, 1],
                            G_loss='G_logistic_ns')


def main(argv: Sequence[str], prog: str) -> None:
    """Print the page with these arguments."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--rounds', help='times each phase is timed', type=int, default=5, metavar='N')
    parser.add_argument('--cases', help='CONFIG/RESOLUTION/mbMINIBATCH, with commas between; the configuration demo is '
                        'that of `make demo`', default=CASES, metavar='LIST')
    parser.add_argument('--augpipe', help='operations', default='bgc', metavar='NAME')
    parser.add_argument('--p', help='probability of each operation', type=float, default=0.6, metavar='P')
    args = parser.parse_args(argv)

    from training.step.devices import limit_inter_op_threads
    print(timing.machine())
    limit_inter_op_threads()  # As training does.
    rows = []
    for case in args.cases.split(','):
        rows += measure(case, args.augpipe, args.p, args.rounds)
    timing.report(rows, COLUMNS, args.json)


def measure(case: str, augpipe: str, p: float, rounds: int) -> list[dict[str, Any]]:
    """Measure a case.

    Args:
        case:    Such as 'config-e/64/mb8'.
        augpipe: Key of AUGPIPES.
        p:       Probability.
        rounds:  Number of times that each function is timed.

    Returns:
        A row for each phase that augments, and one for the iteration. 'share' is the time of the augmentation, divided
        by that of the phase without it.
    """
    config, resolution, minibatch = case.split('/')
    size, number = int(resolution), int(minibatch[2:])
    options = DEMO if config == 'demo' else {}
    trainer, lrate = networks.make_trainer('config-f' if options else config, size, number, **options)
    phases = networks.phase_functions(trainer, lrate, size, number)
    augmented = phase_functions(augpipe, p, size, number)
    functions = {**{('train', phase): function for phase, function in phases.items()},
                 **{('augment', phase): function for phase, function in augmented.items()}}
    best = {key: times[1] for key, times in timing.interleaved(functions, rounds).items()}
    without = {phase: best['train', phase] for phase in phases}
    added = {phase: best['augment', phase] for phase in augmented}
    pairs = [(phase, without[phase], added[phase]) for phase in added]
    pairs.append(('iteration', costs.average(without), costs.average(added)))
    return [{'name': f'augment/{case}/{augpipe}/{phase}', 'iteration_ms': base, 'augment_ms': extra,
             'share': extra / base} for phase, base, extra in pairs]


def phase_functions(augpipe: str, p: float, resolution: int, minibatch: int) -> dict[str, Callable[[], None]]:
    """{phase: function that does what the phase does to augment its images}."""
    import tensorflow as tf

    from dnnlib.tflib import Random
    from training.augment import AUGPIPES, AugmentPipe
    pipe, rng = AugmentPipe(**AUGPIPES[augpipe]), Random()
    images = tf.random.stateless_uniform([minibatch, 3, resolution, resolution], [1, 2], -1, 1)

    def with_gradient(images, grads):
        with tf.GradientTape() as tape:
            tape.watch(images)
            result = pipe(images, p, rng)
        return result, tape.gradient(result, images, grads)

    def with_second_derivative(images, grads):
        with tf.GradientTape() as tape:
            tape.watch(grads)
            result, image_grads = with_gradient(images, grads)
        return result, tape.gradient(image_grads, grads, images)

    work = {'G_train': with_gradient, 'D_reg': with_second_derivative,
            'D_train': lambda fakes, reals: (pipe(fakes, p, rng), pipe(reals, p, rng))}

    def phase_function(function: Any) -> Callable[[], None]:
        traced = tf.function(function, autograph=False)

        def call() -> None:
            for result in traced(images, images):
                result.numpy()  # Waits until it is computed.
        return call
    return {phase: phase_function(function) for phase, function in work.items()}
