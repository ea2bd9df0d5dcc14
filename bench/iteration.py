"""A training iteration of config-f with the native ops against the reference forms."""

import argparse

from bench import timing

COLUMNS = {'name': 's', 'native_ms': '.0f', 'native_best_ms': '.0f', 'ref_ms': '.0f', 'ref_best_ms': '.0f', 'ratio_ref': '.2f'}


def main(argv, prog):
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--rounds', help='times each phase is timed', type=int, default=5, metavar='N')
    parser.add_argument('--resolution', help='resolution of the networks', type=int, default=64, metavar='N')
    parser.add_argument('--minibatch', help='images of a minibatch, in one part', type=int, default=8, metavar='N')
    args = parser.parse_args(argv)

    functions = {}
    for impl in ('native', 'ref'):
        for phase, function in phases(impl, args.resolution, args.minibatch).items():
            functions[f'{phase} {impl}'] = function
    print(timing.machine())
    times = timing.interleaved(functions, args.rounds)
    rows = []
    for phase in PHASES:
        (native, native_best), (ref, ref_best) = times[f'{phase} native'], times[f'{phase} ref']
        rows.append({'name': phase, 'native_ms': native, 'native_best_ms': native_best, 'ref_ms': ref, 'ref_best_ms': ref_best})
    # An iteration on the average: the regularisers run every 4th and every 16th.
    total = {key: sum(row[key] * PHASES[row['name']] for row in rows) for key in rows[0] if key != 'name'}
    rows.append({'name': 'iteration', **total})
    for row in rows:
        row['ratio_ref'] = row['native_best_ms'] / row['ref_best_ms']
    timing.report(rows, COLUMNS, args.json)


# Phase -> how often it runs per iteration.
PHASES = {'G_train': 1, 'G_reg': 1 / 4, 'D_train': 1, 'D_reg': 1 / 16}


def phases(impl, resolution, minibatch):
    """The phases of config-f's training step as functions without arguments, traced with this form of the ops."""
    import custom_ops
    trainer, lrate = make_trainer('config-f', resolution, minibatch)
    functions = phase_functions(trainer, lrate, resolution, minibatch, stage=None)
    custom_ops.set_impl(impl)
    for function in functions.values():
        function()
    custom_ops.set_impl(None)
    return functions


def make_network(key, config, resolution):
    """'G' or 'D' of a configuration at its full width, for RGB images without labels."""
    from training import configs, registry
    options = configs.training_run('none', config=config).run_func_kwargs
    return registry.create_network(key, num_channels=3, resolution=resolution, label_size=0, **options[f'{key}_args'])


def make_trainer(config, resolution, minibatch):
    """(TrainStep of a configuration at its full width, for RGB images without labels, in one part; learning rate)."""
    from training import configs
    from training.train_step import TrainStep

    options = configs.training_run('none', config=config, minibatch_size=minibatch, minibatch_gpu=minibatch).run_func_kwargs
    G, D = (make_network(key, config, resolution) for key in 'GD')
    losses = [{**options[key]} for key in ('G_loss_args', 'D_loss_args')]
    names = [args.pop('func_name').split('.')[-1] for args in losses]
    trainer = TrainStep(G, D, G.clone('Gs'), *names, *losses, G_opt_args=options.G_opt_args, D_opt_args=options.D_opt_args,
                        lazy_regularization=options.get('lazy_regularization', True))
    return trainer, options.sched_args['G_lrate_base']


def phase_functions(trainer, lrate, resolution, minibatch, stage):
    """The phases that a trainer has, as functions without arguments, for images of this resolution."""
    import tensorflow as tf
    reals = tf.random.stateless_uniform([minibatch, 3, resolution, resolution], [1, 2], -1, 1)
    labels = tf.zeros([minibatch, 0])
    names = [name for name in trainer.phases(0) if name in PHASES]

    def phase_function(name):
        images = [] if name.startswith('G') else [reals, labels]
        return lambda: trainer.run(name, minibatch, 1, lrate, *images, stage=stage)
    return {name: phase_function(name) for name in names}
