"""The networks and training steps that pages measure, at the full width of their configuration, for RGB images without labels."""

# Phase of an iteration -> how often it runs per iteration.
PHASES = {'G_train': 1, 'G_reg': 1 / 4, 'D_train': 1, 'D_reg': 1 / 16}


def make_network(key, config, resolution, **options):
    """'G' or 'D' of a configuration. options: others of configs.training_run, as fmap_base."""
    from training import configs
    from training.nets import registry
    kwargs = configs.training_run('none', config=config, **options).run_func_kwargs
    return registry.create_network(key, num_channels=3, resolution=resolution, label_size=0, **kwargs[f'{key}_args'])


def make_trainer(config, resolution, minibatch, precision='float32', **options):
    """(TrainStep of a configuration, learning rate), for a minibatch of this size. options: as above."""
    from training import configs
    from training.step.train_step import TrainStep

    kwargs = configs.training_run('none', config=config, minibatch_size=minibatch, minibatch_gpu=minibatch, **options).run_func_kwargs
    G, D = (make_network(key, config, resolution, **options) for key in 'GD')
    losses = [{**kwargs[key]} for key in ('G_loss_args', 'D_loss_args')]
    names = [args.pop('func_name').split('.')[-1] for args in losses]
    trainer = TrainStep(G, D, G.clone('Gs'), *names, *losses, G_opt_args=kwargs.G_opt_args, D_opt_args=kwargs.D_opt_args,
                        lazy_regularization=kwargs.get('lazy_regularization', True), precision=precision)
    return trainer, kwargs.sched_args['G_lrate_base']


def phase_functions(trainer, lrate, resolution, minibatch, part=None, stage=None):
    """The phases that a trainer has, as functions without arguments.

    Args:
        resolution: Of the reals.
        minibatch:  Images of an iteration.
        part:       Images of it that are handled at a time. None = all.
        stage:      What `trainer.set_lod` returned.
    """
    import tensorflow as tf
    part = part or minibatch
    reals = tf.random.stateless_uniform([minibatch, 3, resolution, resolution], [1, 2], -1, 1)
    labels = tf.zeros([minibatch, 0])
    names = [name for name in trainer.phases(0) if name in PHASES]

    def phase_function(name):
        images = [] if name.startswith('G') else [reals, labels]

        def function():
            for value in trainer.run(name, part, minibatch // part, lrate, *images, stage=stage).stats.values():
                value.numpy()  # Done when the numbers are there.
        return function
    return {name: phase_function(name) for name in names}
