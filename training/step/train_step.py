"""One iteration of training: updates of G and D, and of the moving average Gs."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dnnlib.cli import UserError
from dnnlib.tflib import KeyedRandom, Random, lerp
from training import loss as loss_table
from training.configs import PRECISIONS
from training.step.adam import Adam, all_finite
from training.step.devices import Devices
from training.step.loss_scaling import LossScaling


class StepResult(NamedTuple):
    """What one phase of the training step reports."""
    name: str                    # 'TrainG', 'RegG', 'TrainD' or 'RegD'.
    stats: dict[str, tf.Tensor]  # Tag -> moments [3] of a scalar over all devices: count, sum and sum of squares.
    skipped: tf.Tensor           # Scalar float32: 1 = a gradient was not finite, so the update was skipped; 0 = not.
                                 # With ada_rules the update is made without the values that were not finite.


class TrainStep(tf.Module):
    """The phases of a training iteration, each a function that is traced once.

    The order is G_train, G_reg, Gs_update, D_train, D_reg. Gradients are averaged over the microbatches of a minibatch,
    each of which has `minibatch_gpu` images on each device. `ada_rules` changes this to what StyleGAN2-ADA does:

    - The order is G_train, G_reg, D_train, D_reg, Gs_update, so that Gs gets the dlatent_avg of the whole iteration.
    - Gradients of microbatches are added, not averaged. Those of devices are averaged.
    - D_reg uses all reals of the minibatch, not only its last microbatch.
    - In D's losses, fakes have random labels, not those of the reals.
    - Gradients that are not finite do not skip an update: NaN becomes 0, and infinity 1e5 with its sign. There is no
      loss scaling.
    - Adam adds epsilon to the corrected root: see `Adam`.
    - Freeze-D never freezes the layers at 4x4.

    `D_first` makes the order Gs_update, D_train, D_reg, G_train, G_reg, as in ProGAN.

    Every device has a copy of all variables. The updates are the same on all devices, with two exceptions: dlatent_avg
    follows the latents of its device, and the copy of the first device is saved, as in the original. The moving average
    of path lengths is updated on each device, and then set to the mean over all devices. That is the moving average of
    the mean length; in the original, each device had its own.

    Args:
        G, D, Gs:            Networks. Gs is the moving average of G.
        G_loss, D_loss:      Names from training/loss.py.
        G_loss_args, ...:    Settings of the losses.
        G_opt_args, ...:     beta1, beta2 and epsilon of Adam.
        lazy_regularization: Minimize the regularizers separately, every *_reg_interval-th iteration, multiplied by the
                             interval. False = add them to the losses.
        G_reg_interval, ...: Number of iterations between two passes of a regularizer. None = add it to the loss.
        label_table:         Labels of the training set, [n, label_size]. None = unlabeled.
        rng:                 Random. None = a new one; with several devices, a function of the `seed` of `run`, and of
                             the device.
        freeze_d:            Freeze-D (Mo et al. 2020, arXiv:2002.10964): number of layers of D not to train, from the
                             image on in the order of `D.variables_by_layer()`. The attribute `frozen_layers` lists
                             them.
        precision:           Key of configs.PRECISIONS. 'mixed_float16' uses loss scaling, separately for each phase.
        augmentation:        Augmentation of the images that D sees. None = they are not augmented.
        ada_rules:           Update as StyleGAN2-ADA does, see above?
        D_first:             Update D before G?
        devices:             Devices in whose scope this object and the networks are created. None = one device.

    Raises:
        UserError: D has fewer layers than freeze_d.
    """

    def __init__(self, G, D, Gs, G_loss, D_loss, G_loss_args=None, D_loss_args=None, G_opt_args=None, D_opt_args=None,
                 lazy_regularization=True, G_reg_interval=4, D_reg_interval=16, label_table=None, rng=None, freeze_d=0,
                 precision='float32', augmentation=None, ada_rules=False, D_first=False, devices=None):
        super().__init__()
        self.G, self.D, self.Gs = G, D, Gs
        self._losses = {'G': (loss_table.find_loss(G_loss), G_loss_args or {}),
                        'D': (loss_table.find_loss(D_loss), D_loss_args or {})}
        label_table = np.zeros([1, D.input_shapes[-1][1]]) if label_table is None else label_table
        # A variable, because each device has its own copy of that. A constant would be sent to the others every time.
        # Without labels it is empty: TensorFlow crashes when a cluster creates an empty variable.
        self._label_table = tf.constant(label_table, tf.float32)
        if np.size(label_table):
            self._label_table = tf.Variable(self._label_table, trainable=False)
        self._devices = devices or Devices()
        self._rng = rng or (Random() if self._devices.number == 1 else None)
        self.lazy = lazy_regularization
        self.reg_intervals = {'G': G_reg_interval, 'D': D_reg_interval}
        layers = {layer: variables for layer, variables in D.variables_by_layer().items()
                  if any(var.trainable for var in variables.values())
                  and not layer.startswith(('LabelEmbed', 'Mapping'))}  # These do not see the image.
        if ada_rules:  # The last layers, which see no image any more, are always trained.
            layers = {layer: variables for layer, variables in layers.items()
                      if not layer.startswith(('4x4/', 'Output'))}
            freeze_d = min(freeze_d, len(layers))
        if freeze_d > len(layers):
            raise UserError(f'--freeze-d={freeze_d}: D has {len(layers)} layers', 'Give a smaller number.')
        self.frozen_layers = list(layers)[:freeze_d]
        frozen = {name for layer in self.frozen_layers for name in layers[layer]}
        trained_of_D = {name: var for name, var in D.named_variables(trainable=True).items() if name not in frozen}
        self.trained = {'G': G.named_variables(trainable=True), 'D': trained_of_D}
        self._optimizers = {}
        for key, opt_args in (('G', G_opt_args), ('D', D_opt_args)):
            # As in the original, this does not depend on whether the loss of the network has a regularizer.
            interval = self.reg_intervals[key] if self.lazy else None
            ratio = 1.0 if interval is None else interval / (interval + 1)
            self._optimizers[key] = Adam(list(self.trained[key].values()), mb_ratio=ratio, corrected_epsilon=ada_rules,
                                         **(opt_args or {}))
        self.G_opt, self.D_opt = self._optimizers['G'], self._optimizers['D']
        self.pl_mean = tf.Variable(0.0, trainable=False)
        self._dtype = PRECISIONS[precision]
        self.augmentation, self._ada_rules, self._D_first = augmentation, ada_rules, D_first
        self._scaling = {phase: LossScaling(self._dtype == 'float16' and not ada_rules)
                         for phase in ('G_train', 'G_reg', 'D_train', 'D_reg')}
        self._functions = {}

    def state(self) -> dict:
        """Return everything that training changes, as a nested dict of name -> tf.Variable."""
        optimizers = {f'{key}_opt': {
            'm': dict(zip(self.trained[key], optimizer.m)), 'v': dict(zip(self.trained[key], optimizer.v)),
            'beta1_power': optimizer.beta1_power, 'beta2_power': optimizer.beta2_power,
            'skipped': optimizer.skipped,
        } for key, optimizer in self._optimizers.items()}
        scaling = {phase: scaling.log2 for phase, scaling in self._scaling.items() if scaling.log2 is not None}
        return {'G': self.G.named_variables(), 'D': self.D.named_variables(), 'Gs': self.Gs.named_variables(),
                **optimizers, 'pl_mean': self.pl_mean, **({'loss_scaling_log2': scaling} if scaling else {}),
                **({'augmentation': self.augmentation.state()} if self.augmentation else {})}

    def has_lazy_reg(self, key: str) -> bool:
        """True if the regularizer of the network `key`, 'G' or 'D', is minimized separately."""
        return self.lazy and self.reg_intervals[key] is not None and self._losses[key][0].reg is not None

    def set_lod(self, lod: float) -> int | None:
        """Set the level of detail of all networks.

        Returns:
            The stage to run the phases with. None = the networks do not grow.
        """
        for net in (self.G, self.D, self.Gs):
            for name, var in net.named_variables().items():
                if name.split('/')[-1] == 'lod':
                    var.assign(lod)
        return self.D.lod_stage()

    def phases(self, iteration: int) -> list[str]:
        """Names of the phases of an iteration, in order."""
        names = ['G_train', 'G_reg', 'Gs_update', 'D_train', 'D_reg', 'p_update']
        if self._ada_rules:
            names = ['G_train', 'G_reg', 'D_train', 'D_reg', 'Gs_update', 'p_update']
        elif self._D_first:
            names = ['Gs_update', 'D_train', 'D_reg', 'G_train', 'G_reg', 'p_update']
        due = {f'{key}_reg': self.has_lazy_reg(key) and iteration % self.reg_intervals[key] == 0 for key in 'GD'}
        due['p_update'] = self.augmentation is not None and self.augmentation.is_due(iteration)
        return [name for name in names if due.get(name, True)]

    def run(self, phase: str, minibatch_gpu: int, microbatches: int, lrate: float | None = None, reals=None,
            labels=None, stage: int | None = None, seed: tuple[int, int] | None = None) -> StepResult:
        """Run one phase 'G_train', 'G_reg', 'D_train' or 'D_reg'.

        Args:
            phase:         Its name.
            minibatch_gpu: Number of images per microbatch and device.
            microbatches:  Number of microbatches per device whose gradients are averaged, or with ada_rules added.
            lrate:         Learning rate of the network, before the factor of lazy regularization.
            reals:         Images for D, [microbatches * minibatch_gpu, C, H, W] float32 in [-1, 1], of the stage's
                           resolution. With several devices, one tensor for each, as returned by `Devices.split` or
                           `Devices.run`. None for G.
            labels:        Labels of the reals, [microbatches * minibatch_gpu, label_size].
            stage:         Result of `set_lod`.
            seed:          Two numbers that determine the random numbers of several devices. They must differ between
                           iterations. None = there is one device.

        Returns:
            StepResult.
        """
        if phase == 'D_reg' and self._losses['D'][0].reg == 'reals' and not self._ada_rules:
            microbatches = 1  # All of them would be equal: see `_phase`.
        if seed is None and self._rng is None:
            raise ValueError(f'expected a seed for {self._devices.number} devices, received None')
        with tf.device('CPU:0'):  # KeyedRandom needs it in the memory of the host.
            seed_tensor = tf.constant(seed or (0, 0), tf.int64)
        args = [seed_tensor, tf.constant(lrate, tf.float32)]
        function = self.function(phase, minibatch_gpu, microbatches, stage)
        stats = function(*args, *([] if phase[0] == 'G' else [reals, labels]))
        name = _scope_of(phase)
        return StepResult(name, stats, skipped=stats[f'{name}/overflow_frequency'][1])

    def function(self, phase: str, minibatch_gpu: int = 0, microbatches: int = 0, stage: int | None = None) -> Any:
        """The tf.function that computes a phase.

        Its arguments are the seed int64 [2], the learning rate, and for D the reals and labels, as for `run`. That of
        'Gs_update' has the argument beta, and that of 'p_update' the number of images of an iteration; they depend on
        none of the arguments here.
        """
        spec = (phase, minibatch_gpu, microbatches, stage)
        if spec not in self._functions:
            def function(*args):
                if phase == 'Gs_update':
                    return self._devices.run(self._update_Gs, *args)
                if phase == 'p_update':
                    assert self.augmentation is not None
                    return self._devices.run(self.augmentation.update, *args)
                return self._devices.local_result(self._devices.run(lambda *args: self._phase(*spec, *args), *args))
            self._functions[spec] = tf.function(function, autograph=False)
        return self._functions[spec]

    def _phase(self, phase, minibatch_gpu, microbatches, stage, seed, lrate, reals: Any = None, labels: Any = None):
        key, part = phase.split('_')
        if phase == 'D_reg' and not self._ada_rules:
            # The original fetches no new reals for this phase: all its microbatches are the last one of D_train.
            reals, labels = reals[-minibatch_gpu:], labels[-minibatch_gpu:]
        row, loss_args = self._losses[key]
        optimizer, scaling = self._optimizers[key], self._scaling[phase]
        parts = {'reg'} if part == 'reg' else {'loss'} if self.has_lazy_reg(key) else {'loss', 'reg'}
        rng = (self._rng or KeyedRandom(seed).at(self._devices.index)).child(phase)
        label_table = tf.convert_to_tensor(self._label_table)
        tags = []

        def one_microbatch(index):
            images = None if reals is None else _microbatch_of(reals, index, minibatch_gpu)
            image_labels = None if labels is None else _microbatch_of(labels, index, minibatch_gpu)
            context = loss_table.LossContext(
                self.G, self.D, minibatch_gpu, rng.at(index), label_table, images, image_labels, self.pl_mean,
                stage, self._dtype, scaling, self.augmentation, random_fake_labels=self._ada_rules)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(optimizer.variables_to_train)
                terms = row.func(context, parts, **loss_args)
                total = 0.0
                if terms.loss is not None:
                    total += tf.reduce_mean(terms.loss)
                    terms.stats[f'Loss/{key}/loss'] = terms.loss
                if terms.reg is not None:
                    total += tf.reduce_mean(terms.reg) * (self.reg_intervals[key] if part == 'reg' else 1)
                    terms.stats[f'Loss/{key}/reg'] = terms.reg
                total = scaling.apply_loss_scaling(total)
            grads = tape.gradient(total, optimizer.variables_to_train)
            for grad, var in zip(grads, optimizer.variables_to_train, strict=True):
                if grad is not None:
                    grad.set_shape(var.shape)  # TensorFlow may not know it of what is behind an augmentation.
            grads = optimizer.groups.join(grads)
            tags[:] = terms.stats
            return grads, _moments(list(terms.stats.values()))

        # From here on all devices have the same values. If one of them has a gradient that is not finite, all do the
        # same about it.
        grads, moments = self._devices.sum(_sum_over_microbatches(one_microbatch, microbatches))
        if key == 'G' and 'reg' in parts and self._devices.number > 1:
            self.pl_mean.assign(self._devices.sum(self.pl_mean.read_value()) / self._devices.number)
        if self._ada_rules:
            finite = all_finite(grads)
            optimizer.apply_joined([_finite(grad / self._devices.number) for grad in grads], lrate)
        else:
            num_terms = float(microbatches * self._devices.number)
            finite = optimizer.apply_joined(grads, lrate, scaling.apply_loss_scaling(num_terms))
        if self.augmentation is not None and loss_table.REAL_SIGNS in tags:
            self.augmentation.collect(moments[tags.index(loss_table.REAL_SIGNS)])
        name = _scope_of(phase)
        scalars = {f'{name}/learning_rate': lrate * optimizer.mb_ratio,
                   f'{name}/overflow_frequency': tf.logical_not(finite)}
        if scaling.log2 is not None:
            scalars[f'{name}/loss_scaling_log2'] = scaling.update(finite)
        rows = [*tf.unstack(moments), *tf.unstack(_moments(list(scalars.values())))]
        return dict(zip([*tags, *scalars], rows, strict=True))

    def update_Gs(self, beta: float):
        """Update the moving average: Gs = lerp(G, Gs, beta). Variables that are not trainable are copied."""
        self.function('Gs_update')(tf.constant(beta, tf.float32))

    def _update_Gs(self, beta):
        sources, groups = self.G.named_variables(), self.G_opt.groups
        for name, var in self.Gs.named_variables(trainable=False).items():
            var.assign(sources[name])
        averages = self.Gs.named_variables(trainable=True)
        olds = groups.join(list(averages.values()))
        news = groups.join([sources[name] for name in averages])
        groups.assign(list(averages.values()), [lerp(new, old, beta) for new, old in zip(news, olds, strict=True)])

    def update_p(self, minibatch_size: int):
        """Update the strength of the augmentation after so many images per iteration, all devices together."""
        self.function('p_update')(tf.constant(minibatch_size))

    def num_traces(self) -> dict:
        """Phase and sizes -> number of times its function was traced, which should be 1."""
        return {spec: function.experimental_get_tracing_count() for spec, function in self._functions.items()}


def _scope_of(phase):
    """First part of the tags of a phase: 'G_train' -> 'TrainG'."""
    key, part = phase.split('_')
    return f'{part.capitalize()}{key}'


def _microbatch_of(x, index, size):
    """Microbatch `index` of `size` rows; if x has only one, every index gets it."""
    return x if x.shape[0] == size else tf.ensure_shape(x[index * size:(index + 1) * size], [size, *x.shape[1:]])


def _finite(x):
    """x with NaN replaced by 0, and infinity by 1e5 with its sign."""
    x = tf.where(tf.math.is_inf(x), tf.sign(x) * 1e5, x)
    return tf.where(tf.math.is_nan(x), 0.0, x)


def _moments(values):
    """[(count, sum, sum of squares) of all elements] of tensors, float32 [len(values), 3]."""
    values = [tf.cast(tf.reshape(value, [-1]), tf.float32) for value in values]
    together = {}  # Tensors of equal size are summed together.
    for i, value in enumerate(values):
        together.setdefault(f'tensor {i}' if value.shape[0] is None else value.shape[0], []).append(i)
    moments = {}
    for indices in together.values():
        x = tf.stack([values[i] for i in indices])
        count = tf.fill([len(indices)], tf.cast(tf.shape(x)[1] if x.shape[1] is None else x.shape[1], tf.float32))
        sums = tf.stack([count, tf.reduce_sum(x, axis=1), tf.reduce_sum(tf.square(x), axis=1)], axis=1)
        if len(together) == 1:
            return sums
        moments.update(zip(indices, tf.unstack(sums), strict=True))
    return tf.stack([moments[i] for i in range(len(values))])


def _sum_over_microbatches(function, number):
    """Sum of the nests function(0), ..., function(number - 1). The function is traced once."""
    if number == 1:
        return function(0)
    traced = tf.function(function, input_signature=[tf.TensorSpec([], tf.int32)], autograph=False)
    result = traced.get_concrete_function().structured_outputs

    def body(index, total):
        return index + 1, tf.nest.map_structure(tf.add, total, traced(index))
    # Start from zeros and run one at a time: a first call outside of the loop, or two calls in parallel, would double
    # the memory.
    start = [tf.constant(0), tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), result)]
    return tf.while_loop(lambda index, _: index < number, body, start, parallel_iterations=1)[1]
