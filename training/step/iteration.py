"""The iterations of training: schedule -> minibatch -> phases of the training step."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from tqdm import tqdm

from dnnlib.progress import format_time
from dnnlib.tflib import KeyedRandom
from dnnlib.util import EasyDict
from training import misc
from training.schedule import training_schedule
from training.step.devices import Devices

if TYPE_CHECKING:
    from training.dataset import TFRecordDataset
    from training.run.checkpoint import RunProgress
    from training.step.train_step import StepResult, TrainStep


class Iterations:
    """Trains, one iteration per call of `run`.

    The order of the data is a function of the seed and of the number of images shown so far. An iteration therefore
    continues where the last one stopped, even if that was in another process.

    Args:
        trainer:               TrainStep.
        training_set:          TFRecordDataset.
        progress:              RunProgress, which `run` updates.
        data_seed:             Seed of the order of the data.
        sched_args:            Arguments of training_schedule. None = its defaults.
        minibatch_repeats:     The schedule is updated every so many iterations.
        devices:               Devices of the trainer. None = one device.
        G_smoothing_kimg:      Half-life of Gs, in thousands of images.
        G_smoothing_beta:      Weight of the old Gs in each iteration. None = by the half-life.
        G_smoothing_rampup:    The half-life is at most this fraction of the images shown so far. None = no limit.
        mirror_augment:        Flip real images left to right at random?
        drange_net:            Dynamic range of the images that the networks see.
        reset_opt_for_new_lod: Reset Adam's moments when layers are added or begin to fade in?

    Attributes:
        sched: The schedule as it was last updated, see training_schedule.
    """

    def __init__(self, trainer: TrainStep, training_set: TFRecordDataset, progress: RunProgress, data_seed: int,
                 sched_args: dict[str, Any] | None = None, minibatch_repeats: int = 4, devices: Devices | None = None,
                 G_smoothing_kimg: float = 10.0, mirror_augment: bool = False,
                 drange_net: tuple[float, float] = (-1, 1), reset_opt_for_new_lod: bool = True,
                 G_smoothing_rampup: float | None = None, G_smoothing_beta: float | None = None):
        self._trainer, self._training_set, self._progress, self._data_seed = trainer, training_set, progress, data_seed
        self._sched_args = sched_args or {}
        self._repeats, self._devices = minibatch_repeats, devices or Devices()
        self._smoothing, self._rampup, self._Gs_beta = G_smoothing_kimg, G_smoothing_rampup, G_smoothing_beta
        self._mirror_augment, self._drange_net, self._reset_opt = mirror_augment, drange_net, reset_opt_for_new_lod
        self.sched = self._schedule(progress.sched_nimg)
        self._stage = trainer.set_lod(self.sched.lod)
        self._stream: tuple[int, int] | None = None  # (minibatch_size, resolution) of self._data
        self._data: Iterator[tuple[tf.Tensor, tf.Tensor]] = iter(())
        self._compiled: set[tuple[int | None, int]] = set()  # (stage, minibatch_gpu)

    def _schedule(self, nimg: int) -> EasyDict:
        return training_schedule(nimg, self._training_set.resolution_log2, **self._sched_args)

    def schedule_is_due(self) -> bool:
        """Is the schedule updated before the next iteration? That is also the time for reports."""
        return self._progress.iteration % self._repeats == 0

    @property
    def stages_compiled(self) -> int:
        """Number of stages of the training step that have been compiled so far."""
        return len(self._compiled)

    def compiles_next(self) -> bool:
        """Does the next iteration compile another stage? Growing networks have one for each number of layers."""
        sched = self._schedule(self._progress.cur_nimg) if self.schedule_is_due() else self.sched
        stage = None if self._stage is None else math.floor(sched.lod)
        return (stage, sched.minibatch_gpu) not in self._compiled

    def run(self) -> list[StepResult]:
        """Make one iteration. Returns the result of each of its phases."""
        if self.schedule_is_due():
            self._update_schedule()
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
        results = self._run_phases()
        if compile_start is not None:
            tqdm.write(f'Compiled in {format_time(time.time() - compile_start)}.')
        progress.cur_nimg += sched.minibatch_size
        progress.iteration += 1
        return results

    def _run_phases(self) -> list[StepResult]:
        sched, results = self.sched, []
        num_microbatches = sched.minibatch_size // (sched.minibatch_gpu * self._devices.number)  # of each device
        seed = self._data_seed, self._progress.iteration
        Gs_beta = self._Gs_beta
        if Gs_beta is None:
            Gs_beta = smoothing_beta(sched.minibatch_size, self._smoothing, self._rampup, self._progress.cur_nimg)
        data = self._devices.split(*next(self._data))
        with tf.device('CPU:0'):  # KeyedRandom needs it in the memory of the host.
            seed_tensor = tf.constant(seed, tf.int64)
        reals, labels = self._prepare(self._stage)(*data, tf.constant(sched.lod, tf.float32), seed_tensor)
        for phase in self._trainer.phases(self._progress.iteration):
            sizes = sched.minibatch_gpu, num_microbatches
            if phase == 'Gs_update':
                self._trainer.update_Gs(Gs_beta)
            elif phase == 'p_update':
                self._trainer.update_p(sched.minibatch_size)
            elif phase.startswith('G'):
                results.append(self._trainer.run(phase, *sizes, sched.G_lrate, stage=self._stage, seed=seed))
            else:
                results.append(self._trainer.run(phase, *sizes, sched.D_lrate, reals, labels, self._stage, seed))
        return results

    @functools.cache  # noqa: B019  One object lives for as long as the process trains.
    def _prepare(self, stage: int | None) -> Callable[..., Any]:
        """The traced function (images, labels, lod, seed) -> (reals, labels) that D sees at this stage.

        As in TrainStep, one device draws from the global generator, and several draw by the seed and their own number.
        """
        def function(images, labels, lod, seed):
            lod = 0 if stage is None else lod
            drange = self._training_set.dynamic_range
            rng = None if self._devices.number == 1 else KeyedRandom(seed).at(self._devices.index)
            return misc.process_reals(images, labels, lod, self._mirror_augment, drange, self._drange_net, rng, stage)
        return tf.function(lambda *args: self._devices.run(function, *args), autograph=False)

    def _update_schedule(self) -> None:
        before, self.sched = self.sched, self._schedule(self._progress.cur_nimg)
        self._progress.sched_nimg = self._progress.cur_nimg
        if self.sched.lod != before.lod:
            self._stage = self._trainer.set_lod(self.sched.lod)
            if self._reset_opt and _levels(self.sched.lod) != _levels(before.lod):
                self._trainer.G_opt.reset()
                self._trainer.D_opt.reset()


def smoothing_beta(minibatch_size: int, smoothing_kimg: float, rampup: float | None, cur_nimg: int) -> float:
    """Weight of the old Gs when it is updated: 0.5 ** (minibatch_size / half-life).

    Args:
        minibatch_size: Images of the iteration.
        smoothing_kimg: Half-life in thousands of images. 0 = Gs is a copy of G.
        rampup:         The half-life is at most this fraction of the images shown. None = always smoothing_kimg.
        cur_nimg:       Images shown before the iteration.
    """
    half_life = smoothing_kimg * 1000.0
    if rampup is not None:
        half_life = min(half_life, cur_nimg * rampup)
    return 0.5 ** (minibatch_size / half_life) if half_life > 0.0 else 0.0


def _levels(lod: float) -> tuple[int, int]:
    """The two levels of detail that are blended at `lod`."""
    return math.floor(lod), math.ceil(lod)
