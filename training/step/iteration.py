"""One iteration after the other: schedule -> minibatch -> phases of the training step."""

import functools
import math
import time

import tensorflow as tf
from tqdm import tqdm

from dnnlib.tflib import KeyedRandom
from dnnlib.util import format_time
from training import misc
from training.schedule import training_schedule
from training.step.devices import Devices


class Iterations:
    """Trains, one iteration per call of `run`.

    The order of the data is a function of the seed and of the images shown so far: an iteration goes on where the last one stopped, be it
    in another process.

    Args:
        trainer:               TrainStep.
        training_set:          TFRecordDataset.
        progress:              Progress; `run` moves it on.
        data_seed:             Fixes the order of the data.
        sched_args:            Arguments of training_schedule.
        minibatch_repeats:     Iterations between two looks at the schedule.
        devices:               Devices of the trainer. None = one device.
        G_smoothing_kimg:      Half-life of Gs, in thousands of images.
        mirror_augment:        Flip real images left to right at random?
        drange_net:            Range of the images that the networks see.
        reset_opt_for_new_lod: Forget Adam's moments when layers come in or begin to fade in?

    Attributes:
        sched: The schedule as it was last looked at.
    """

    def __init__(self, trainer, training_set, progress, data_seed, sched_args=None, minibatch_repeats=4, devices=None,
                 G_smoothing_kimg=10.0, mirror_augment=False, drange_net=(-1, 1), reset_opt_for_new_lod=True):
        self._trainer, self._training_set, self._progress, self._data_seed = trainer, training_set, progress, data_seed
        self._sched_args = sched_args or {}
        self._repeats, self._devices, self._smoothing = minibatch_repeats, devices or Devices(), G_smoothing_kimg
        self._mirror_augment, self._drange_net, self._reset_opt = mirror_augment, drange_net, reset_opt_for_new_lod
        self.sched = self._schedule(progress.sched_nimg)
        self._stage = trainer.set_lod(self.sched.lod)
        self._stream = None      # (minibatch_size, resolution) of
        self._data = None        # the iterator of the data
        self._compiled = set()   # (stage, minibatch_gpu)

    def _schedule(self, nimg):
        return training_schedule(nimg, self._training_set.resolution_log2, **self._sched_args)

    def at_boundary(self):
        """Will the schedule be looked at before the next iteration? Then it is also time to see what there is to report."""
        return self._progress.iteration % self._repeats == 0

    @property
    def stages_compiled(self):
        """How many stages of the training step have been compiled so far."""
        return len(self._compiled)

    def compiles_next(self):
        """Will the next iteration compile another one? Growing networks have one for each number of layers."""
        sched = self._schedule(self._progress.cur_nimg) if self.at_boundary() else self.sched
        stage = None if self._stage is None else math.floor(sched.lod)
        return (stage, sched.minibatch_gpu) not in self._compiled

    def run(self):
        """One iteration. Returns what each phase reports: a list of tag -> tensor [3]."""
        if self.at_boundary():
            self._look_at_schedule()
        sched, progress = self.sched, self._progress
        if self._stream != (sched.minibatch_size, sched.resolution):
            self._stream = sched.minibatch_size, sched.resolution
            self._data = self._training_set.iterate(
                sched.minibatch_size, lod=math.floor(sched.lod), seed=self._data_seed, start=progress.cur_nimg,
                rows=self._devices.rows(sched.minibatch_size))
        compile_start = None
        if (self._stage, sched.minibatch_gpu) not in self._compiled:
            self._compiled.add((self._stage, sched.minibatch_gpu))
            compile_start = time.time()
            tqdm.write(f'Compiling the training step for {sched.resolution}x{sched.resolution}: '
                       'the first iteration takes longer than those that follow.')
        stats = self._phases()
        if compile_start is not None:
            tqdm.write(f'Compiled in {format_time(time.time() - compile_start)}.')
        progress.cur_nimg += sched.minibatch_size
        progress.iteration += 1
        return stats

    def _phases(self):
        sched, stats = self.sched, []
        rounds = sched.minibatch_size // (sched.minibatch_gpu * self._devices.number)
        seed = self._data_seed, self._progress.iteration
        Gs_beta = 0.5 ** (sched.minibatch_size / (self._smoothing * 1000.0)) if self._smoothing > 0.0 else 0.0
        reals, labels = self._prepare(self._stage)(
            *self._devices.split(*next(self._data)), tf.constant(sched.lod, tf.float32), tf.constant(seed, tf.int64))
        for phase in self._trainer.phases(self._progress.iteration):
            if phase == 'Gs_update':
                self._trainer.update_Gs(Gs_beta)
            elif phase.startswith('G'):
                stats.append(self._trainer.run(phase, sched.minibatch_gpu, rounds, sched.G_lrate, stage=self._stage, seed=seed))
            else:
                stats.append(self._trainer.run(phase, sched.minibatch_gpu, rounds, sched.D_lrate, reals, labels, self._stage, seed))
        return stats

    @functools.cache  # noqa: B019  There is one of these for as long as the process trains.
    def _prepare(self, stage):
        """The traced function (images, labels, lod, seed) -> what D sees, for this stage.

        As in TrainStep, one device draws from the global generator, and several draw by the seed and their own number.
        """
        def function(images, labels, lod, seed):
            lod = 0 if stage is None else lod
            drange = self._training_set.dynamic_range
            rng = None if self._devices.number == 1 else KeyedRandom(seed).at(self._devices.index)
            return misc.process_reals(images, labels, lod, self._mirror_augment, drange, self._drange_net, rng, stage)
        return tf.function(lambda *args: self._devices.run(function, *args), autograph=False)

    def _look_at_schedule(self):
        before, self.sched = self.sched, self._schedule(self._progress.cur_nimg)
        self._progress.sched_nimg = self._progress.cur_nimg
        if self.sched.lod != before.lod:
            self._stage = self._trainer.set_lod(self.sched.lod)
            if self._reset_opt and _levels(self.sched.lod) != _levels(before.lod):
                self._trainer.G_opt.reset()
                self._trainer.D_opt.reset()


def _levels(lod):
    """The levels of detail that take part at `lod`."""
    return math.floor(lod), math.ceil(lod)
