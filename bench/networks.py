"""The networks and training steps that the pages measure: full width unless options say otherwise, RGB, no labels."""

from collections.abc import Callable
from typing import Any

# Phase of an iteration -> how often it runs per iteration.
PHASES = {'G_train': 1, 'G_reg': 1 / 4, 'D_train': 1, 'D_reg': 1 / 16}


def make_network(key: str, config: str, resolution: int, **options: Any) -> Any:
    """Create a network of a configuration.

    Args:
        key:        'G' or 'D'.
        config:     Name of the configuration, such as 'config-f'.
        resolution: Of its images.
        options:    More options of configs.training_run, such as fmap_base.

    Returns:
        The Network.
    """
    from training import configs
    from training.nets import registry
    kwargs = configs.training_run('none', config=config, **options).run_func_kwargs
    return registry.create_network(key, num_channels=3, resolution=resolution, label_size=0, **kwargs[f'{key}_args'])


def make_trainer(config: str, resolution: int, minibatch: int, precision: str = 'float32', **options: Any,
                 ) -> tuple[Any, float]:
    """Create the training step of a configuration.

    Args:
        config:     Name of the configuration, such as 'config-f'.
        resolution: Of the images.
        minibatch:  Images of an iteration.
        precision:  As --precision of run_training.py.
        options:    More options of configs.training_run, such as fmap_base.

    Returns:
        (TrainStep, learning rate).
    """
    from training import configs
    from training.step.train_step import TrainStep

    kwargs = configs.training_run('none', config=config, minibatch_size=minibatch, minibatch_gpu=minibatch,
                                  **options).run_func_kwargs
    G, D = (make_network(key, config, resolution, **options) for key in 'GD')
    losses = [{**kwargs[key]} for key in ('G_loss_args', 'D_loss_args')]
    names = [args.pop('func_name').split('.')[-1] for args in losses]
    trainer = TrainStep(
        G, D, G.clone('Gs'), *names, *losses, G_opt_args=kwargs.G_opt_args, D_opt_args=kwargs.D_opt_args,
        lazy_regularization=kwargs.get('lazy_regularization', True), precision=precision)
    return trainer, kwargs.sched_args['G_lrate_base']


def phase_functions(trainer: Any, lrate: float, resolution: int, minibatch: int, part: int | None = None,
                    stage: Any = None) -> dict[str, Callable[[], None]]:
    """The phases of a training step as functions to be timed.

    Args:
        trainer:    TrainStep.
        lrate:      Learning rate.
        resolution: Of the real images.
        minibatch:  Images of an iteration.
        part:       Images that are processed at a time. None = the whole minibatch.
        stage:      What `trainer.set_lod` returned. None = full resolution.

    Returns:
        {phase: function without arguments}.
    """
    import tensorflow as tf
    part = part or minibatch
    reals = tf.random.stateless_uniform([minibatch, 3, resolution, resolution], [1, 2], -1, 1)
    labels = tf.zeros([minibatch, 0])
    names = [name for name in trainer.phases(0) if name in PHASES]

    def phase_function(name: str) -> Callable[[], None]:
        images = [] if name.startswith('G') else [reals, labels]

        def function() -> None:
            for value in trainer.run(name, part, minibatch // part, lrate, *images, stage=stage).stats.values():
                value.numpy()  # Waits until the phase is done.
        return function
    return {name: phase_function(name) for name in names}
