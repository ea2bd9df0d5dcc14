"""Speed of the projector's step, compared with its generator and its distance alone, forward and backward, and with
the time that their convolutions and matrix products take at the machine's rate."""

import argparse

from bench import costs, limits, networks, timing

COLUMNS = {
    'name': 's', 'step_ms': '.2f', 'step_best_ms': '.2f', 'bare_ms': '.2f', 'bare_best_ms': '.2f', 'ratio': '.3f',
    'gflop': '.1f', 'matmul_gflops': '.0f', 'fraction_of_bound': '.3f', 'before': '.3f'}


def main(argv, prog):
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--rounds', help='times each function is timed', type=int, default=20, metavar='N')
    parser.add_argument('--network', help='network pickle; without it a config-f network with random weights',
                        metavar='PKL')
    parser.add_argument('--resolution', help='resolution of that network', type=int, default=256, metavar='N')
    parser.add_argument('--minibatch', help='numbers of images at a time', default='1,4', metavar='LIST')
    parser.add_argument('--distance', help='distances: lpips, vgg-hed, pixel', default='vgg-hed', metavar='LIST')
    args = parser.parse_args(argv)

    import dnnlib.tflib  # noqa: F401  First, so that TensorFlow's start-up messages are silenced.
    import pretrained_networks
    if args.network:
        Gs = pretrained_networks.load_networks(args.network)[2]
    else:
        Gs = networks.make_network('G', 'config-f', args.resolution)
    print(timing.machine())
    rows = []
    for distance in args.distance.split(','):
        for count in map(int, args.minibatch.split(',')):
            step, bare = functions(Gs, distance, count)
            gflop = costs.flop_of_graph(bare.get_concrete_function().graph) / 1e9
            timed = {'step': step, 'bare': lambda bare=bare: bare()[0].numpy(), **limits.matmuls(['float32'])}
            times = timing.interleaved(timed, args.rounds)
            rate = limits.matmul_rate(times, 'float32')
            (step_ms, step_best), (bare_ms, bare_best) = times['step'], times['bare']
            rows.append({
                'name': f'projector/{distance}/{Gs.output_shape[2]}/b{count}', 'step_ms': step_ms,
                'step_best_ms': step_best, 'bare_ms': bare_ms, 'bare_best_ms': bare_best,
                'ratio': step_best / bare_best, 'gflop': gflop, 'matmul_gflops': rate,
                'fraction_of_bound': gflop / rate / step_best * 1e3})
    timing.report(rows, COLUMNS, args.json, before=('projector', 'fraction_of_bound'))


def functions(Gs, distance, count):
    """Return two functions without arguments: a step of the projector, and the bare work in it (a tf.function).

    The bare work is to compute images from w and noise maps, their distances, and the gradients of these.
    """
    import numpy as np
    import tensorflow as tf

    import projector
    from dnnlib.tflib import GivenNoise

    proj = projector.Projector(distance)
    proj.num_steps, proj.dlatent_avg_samples, proj.clone_net = 10 ** 6, 100, False
    proj.set_network(Gs, count)
    targets = np.random.RandomState(0).uniform(-1, 1, [count, *Gs.output_shape[1:]]).astype(np.float32)
    proj.start(targets)

    synthesis, distance_of = Gs.components.synthesis, projector.load_distance(distance)
    seen = proj._for_distance(tf.constant(targets))
    w = tf.Variable(proj.get_dlatents())
    noises = {f'noise{idx}': tf.Variable(noise) for idx, noise in enumerate(proj.get_noises())}
    variables = [w, *noises.values()]

    @tf.function(autograph=False)
    def bare():
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            given = GivenNoise({name: tf.convert_to_tensor(var) for name, var in noises.items()})
            images = synthesis(tf.convert_to_tensor(w), rng=given, randomize_noise=True)
            total = tf.reduce_sum(distance_of(proj._for_distance(images), seen))
        return tape.gradient(total, variables)

    def step():
        proj.step()
        return proj.last_losses.numpy()  # Waits until the step is done.

    return step, bare
