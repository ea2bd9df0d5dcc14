"""Training: schedule -> steps -> report -> snapshot."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import custom_ops
from dnnlib import tflib
from dnnlib.cli import StopOnSignal, Stopped, UserError, is_out_of_memory
from dnnlib.tflib import Network, hardware
from dnnlib.tflib.autosummary import Summaries
from dnnlib.tflib.random import random_state_kept
from dnnlib.tflib.tfutil import has_gpu, seed_everything, set_tf32
from dnnlib.util import EasyDict, get_obj_by_name
from training import dataset, misc
from training.augment import AUGPIPES, AugmentPipe
from training.configs import mbstd_group
from training.nets.dtypes import check_precision, describe_precision, note_slow_precision
from training.nets.transfer import describe, make_networks
from training.run.checkpoint import Checkpoints, RunProgress, format_kimg
from training.run.clock import Clock
from training.run.health import SkippedUpdates, out_of_memory
from training.run.last_files import LastFiles
from training.run.report import Report
from training.run.snapshot import Snapshots, tolerate_write_errors
from training.run.tick import guess_durations, report_tick
from training.schedule import training_schedule
from training.step import memory
from training.step.ada import Augmentation
from training.step.devices import Devices, find_cluster, limit_inter_op_threads, require_devices
from training.step.iteration import Iterations
from training.step.train_step import StepResult, TrainStep

# A CPU takes longer for a thousand images, the size of the original's grids, than for the first iterations.
_CPU_GRID = {'most': (8, 4)}

# What computes metrics if only metric_arg_list is given, as in notebooks of the original. Imported by name: metrics is
# built on training, so training does not import it.
_DEFAULT_EVALUATION = 'metrics.metric_base.MetricGroup'

# What a worker wants the run to do. If workers differ, the largest number wins.
_GO_ON, _END, _STOP = range(3)


def training_loop(
        run_dir: str | None                = '.',        # Folder of the results. None = for other workers.
        data_dir: str | None               = None,       # Parent of dataset_args.tfrecord_dir. None = working folder.
        G_args: dict | None                = None,       # func_name and settings of the generator.
        D_args: dict | None                = None,       # func_name and settings of the discriminator.
        G_opt_args: dict | None            = None,       # Settings of the generator's Adam. None = its defaults.
        D_opt_args: dict | None            = None,       # The same for the discriminator.
        G_loss_args: dict | None           = None,       # func_name and settings of the generator's loss.
        D_loss_args: dict | None           = None,       # func_name and settings of the discriminator's loss.
        dataset_args: dict | None          = None,       # Arguments of dataset.load_dataset.
        sched_args: dict | None            = None,       # Arguments of training_schedule. None = its defaults.
        grid_args: dict | None             = None,       # size, layout of the image grids. None = those of Snapshots.
        metric_arg_list: Sequence[dict]    = (),         # Arguments of each metric to compute at network snapshots.
        make_evaluation: Callable | None   = None,       # Called (metric_arg_list, seed, devices). None = MetricGroup.
        require_metrics: bool              = True,       # False = train even if a metric cannot be computed.
        tf_config: dict | None             = None,       # 'rnd.np_random_seed': seed of all random numbers.
        num_gpus: int                      = 1,          # Devices of all workers together (training/step/devices.py).
        all_reduce: str                    = 'auto',     # How several workers sum gradients, see options.ALL_REDUCE.
        G_smoothing_kimg: float            = 10.0,       # Half-life of Gs, in thousands of images.
        G_smoothing_beta: float | None     = None,       # Weight of the old Gs per iteration. None = by half-life.
        G_smoothing_rampup: float | None   = None,       # At most this fraction of the images shown. None = no rampup.
        minibatch_repeats: int             = 4,          # The schedule is updated every so many iterations.
        lazy_regularization: bool          = True,       # Regularize in separate passes?
        G_reg_interval: int                = 4,          # Iterations from one such pass of G to the next.
        D_reg_interval: int                = 16,         # The same for D.
        total_kimg: float                  = 25000,      # Thousands of images to train for.
        max_minutes: float | None          = None,       # Minutes after which the run ends. None = no limit.
        started: float | None              = None,       # time.monotonic() at which max_minutes begin. None = now.
        mirror_augment: bool               = False,      # Flip real images left to right at random?
        reset_opt_for_new_lod: bool        = True,       # Reset Adam when layers are added or begin to fade in?
        augpipe: str | None                = None,       # Augmentation of D's images: key of AUGPIPES. None = no.
        augment_p: float | None            = None,       # Its strength at the start. None = that of resume_pkl, or 0.
        ada_target: float | None           = None,       # r_t to keep by changing the strength. None = it is constant.
        ada_interval: int                  = 4,          # Iterations between two changes.
        ada_kimg: float                    = 500,        # Thousands of images in which it rises or falls by 1.
        D_first: bool                      = False,      # Update D before G, as ProGAN does?
        ada_rules: bool                    = False,      # Make updates as StyleGAN2-ADA does: see TrainStep.
        drange_net: tuple                  = (-1, 1),    # Dynamic range of the images that the networks see.
        image_snapshot_ticks: int | None   = 50,         # Ticks between two fakes*.png. None = never.
        network_snapshot_ticks: int | None = 50,         # Ticks between two network-snapshot-*.pkl. None = never.
        checkpoint_ticks: int              = 10,         # Ticks between checkpoints; network snapshots have one too.
        checkpoint_minutes: float          = 30.0,       # Longest time between two checkpoints.
        keep_checkpoints: int              = 2,          # Number of checkpoints that are kept.
        keep_snapshots: int | None         = None,       # Number of network-snapshot-*.pkl that are kept. None = all.
        resume_pkl: str | None             = None,       # Network pickle to start from. None = random weights.
        resume_kimg: float                 = 0.0,        # Thousands of images it has seen: where the schedule starts.
        resume_time: float                 = 0.0,        # Seconds it was trained for: where the clock starts.
        resume: tuple | None               = None,       # (checkpoint, its state.json) to continue from.
        freeze_d: int                      = 0,          # Layers of D nearest to the image that are not trained.
        precision: str                     = 'float32',  # Key of options.PRECISIONS, for the highest resolutions.
        tf32: bool                         = False,      # Allow TF32 on GPUs? See tfutil.set_tf32.
        settings: dict | None              = None,       # For checkpoints, see checkpoint.settings_of.
        on_start: Callable | None          = None,       # Called when everything has been checked.
        on_end: Callable | None            = None,       # Called with a sentence that says why training has ended.
        impl: str | None                   = None,       # Custom ops: 'auto', 'native', 'ref'. None = as set already.
        dry_run: bool                      = False,      # Do everything up to the first iteration, and write nothing?
        ) -> Network:
    """Train G, D and their moving average Gs.

    Writes into run_dir: reals.png, fakes_init.png, fakesNNNNNN.png, network-snapshot-NNNNNN.pkl (NNNNNN = thousands of
    images, see RunProgress.snapshot_name), metric-NAME.txt, network-final.pkl, stats.jsonl, TensorBoard's events,
    report.html and checkpoints (training/run/checkpoint.py). On Ctrl-C or SIGTERM it finishes the iteration and writes
    a checkpoint. If one of several workers gets the signal, all of them stop when the schedule is updated the next
    time.

    With dry_run it makes every check of a run and ends before on_start would be called. run_dir must be None then, and
    other workers are not waited for.

    With max_minutes it ends early enough for the last reports: checkpoint, pictures, pickles and metrics, which are
    expected to take as long as before. At least one iteration is made. Metrics that would take too long are left out,
    with a note.

    Returns:
        Gs.

    Raises:
        UserError: The dataset, the pickle or the checkpoint cannot be used, or they do not fit each other; the native
                   custom ops, metrics or a precision are asked for and cannot be used; training has diverged; memory
                   is too small; or there are fewer devices than asked for.
        NotInPlace: The last checkpoint or pickle cannot be written into run_dir; the error says where it is instead.
        Stopped:   The run was asked to stop, and a checkpoint is written.
    """
    args = EasyDict(locals())
    return Run(args).train()


class _Due(NamedTuple):
    """What is due between two iterations."""
    end: bool      # The end of training.
    tick: bool     # A tick.
    pictures: str  # File name of a grid of fakes, to be written if there is time. '' = none is due.
    networks: str  # File name of a network snapshot, whose metrics are due too. '' = none is due.


class Run:
    """One run of `training_loop`: its parts, and what happens between iterations.

    Args:
        args: The arguments of `training_loop`, by name.
    """

    def __init__(self, args: EasyDict):
        self._args = args
        now = time.monotonic()
        self._start_time, self._deadline = now - args.resume_time, None
        if args.max_minutes is not None:
            self._deadline = (now if args.started is None else args.started) + args.max_minutes * 60
        self._checkpoint_path, self._resumed = args.resume or (None, {})
        self._start_tensorflow()
        self._open_dataset()
        self._make_networks()
        self._make_trainer()
        self._make_reports()
        self._start_or_resume()

    # ---- Setup ----

    def _start_tensorflow(self) -> None:
        """Choose devices and random numbers. This must come before TensorFlow computes anything."""
        args = self._args
        if args.num_gpus == 1:
            limit_inter_op_threads((args.G_args or {}).get('fmap_base'))
        cluster = find_cluster()
        if args.dry_run and cluster.workers > 1:
            require_devices(args.num_gpus, cluster)
            devices = Devices()  # Those of all workers would wait for the other workers.
        else:
            devices = Devices(args.num_gpus, cluster, args.all_reduce)
        self._devices = devices
        self._is_chief = devices.cluster.is_chief
        self._has_gpu = has_gpu()
        tflib.init_tf(args.tf_config)
        set_tf32(args.tf32)
        self._seed = (args.tf_config or {}).get('rnd.np_random_seed')
        seed_everything(self._seed)
        if devices.number > 1:
            machines = devices.cluster.workers
            print(f'Training on {devices.number} devices of {machines} machine{"s" * (machines > 1)}.')
        print(hardware.describe(devices.number // devices.cluster.workers, args.precision))

    def _open_dataset(self) -> None:
        args, devices = self._args, self._devices
        data = dataset.load_dataset(data_dir=args.data_dir, verbose=True, **(args.dataset_args or {}))
        if (args.dataset_args or {}).get('max_label_size') and not data.label_size:
            raise UserError(f'--cond=true: expected a dataset with labels, but {data.tfrecord_dir} has none',
                            'Make the dataset again with labels (dataset_tool.py create_from_images --labels), or '
                            'leave --cond out.')
        self._training_set = data
        self._facts = {
            'images': data.num_images, 'shape of an image': data.shape, 'size of a label': data.label_size,
            'digest of the 4x4 images': data.content_digest(data.resolution_log2 - 2)}
        loop_args = {**args.settings['loop_args'], 'data_dir': None} if args.settings else None
        devices.require_equal([loop_args, self._resumed.get('progress'), self._facts])
        data_seed = np.random.randint(1 << 31) if self._seed is None else self._seed
        self._data_seed = devices.gather(self._resumed.get('data_seed', data_seed))[0]  # A random one is the chief's.

    def _make_networks(self) -> None:
        args = self._args
        if args.impl is not None:
            custom_ops.set_impl(args.impl)
        # Building them takes a minute, and if they need not be native that cannot fail.
        if not args.dry_run or custom_ops.must_be_native():
            print(custom_ops.impl_report())
        note = note_slow_precision(args.precision)
        if note:
            print(note)
        check_precision(args.precision)
        with self._devices.scope():
            self._networks = make_networks(self._training_set, args.G_args or {}, args.D_args or {}, args.resume_pkl,
                                           self._resumed.get('networks'))
        G, D, self._Gs = self._networks
        # Its weights change all the time, and the pictures of a resumed run must be the same in all bits.
        self._Gs.may_freeze = False
        self._evaluation = self._make_evaluation() if self._is_chief and args.metric_arg_list else None
        if not args.dry_run:  # Listing the layers would build the custom ops.
            G.print_layers()
            D.print_layers()

    def _make_evaluation(self) -> Any:
        """Make what computes the metrics, and load all that it needs before training starts. None = train without."""
        args = self._args
        make = args.make_evaluation or get_obj_by_name(_DEFAULT_EVALUATION)
        if args.dry_run and not args.require_metrics:
            return None  # The weights may have to be downloaded, and training does without them.
        try:
            evaluation = make(args.metric_arg_list, self._seed, self._devices)
            evaluation.check(self._Gs, self._training_set)
            evaluation.load_networks()
        except UserError as err:
            if args.require_metrics:
                raise
            print(f'Note: training without {_names(args.metric_arg_list)}. {err.fact}. {err.remedy}'.rstrip('. ') + '.')
            return None
        return evaluation

    def _make_trainer(self) -> None:
        args = self._args
        G_loss_args, D_loss_args = dict(args.G_loss_args or {}), dict(args.D_loss_args or {})
        with self._devices.scope():
            self._trainer = TrainStep(
                *self._networks, G_loss=G_loss_args.pop('func_name'), D_loss=D_loss_args.pop('func_name'),
                G_loss_args=G_loss_args, D_loss_args=D_loss_args,
                G_opt_args=args.G_opt_args, D_opt_args=args.D_opt_args,
                lazy_regularization=args.lazy_regularization, G_reg_interval=args.G_reg_interval,
                D_reg_interval=args.D_reg_interval, label_table=self._training_set.labels, freeze_d=args.freeze_d,
                precision=args.precision, augmentation=self._make_augmentation(), ada_rules=args.ada_rules,
                D_first=args.D_first, devices=self._devices)
        print(describe_precision(args.precision, self._networks[0], loss_scaling=not args.ada_rules))
        if args.freeze_d:
            print(f'Layers of D that stay as they are: {", ".join(self._trainer.frozen_layers)}')
        first_nimg, self._total_nimg = round(args.resume_kimg * 1000), math.ceil(args.total_kimg * 1000)
        if first_nimg >= self._total_nimg:
            raise UserError(
                f'--total-kimg={args.total_kimg:g} is reached already at --resume-kimg={args.resume_kimg:g}',
                'Raise --total-kimg.')
        start = dict(cur_nimg=first_nimg, tick_start_nimg=first_nimg, sched_nimg=first_nimg)
        self._progress = RunProgress(**(self._resumed.get('progress') or start))
        self._first_nimg = self._progress.cur_nimg
        self._iterations = Iterations(
            self._trainer, self._training_set, self._progress, self._data_seed, args.sched_args, args.minibatch_repeats,
            self._devices, args.G_smoothing_kimg, args.mirror_augment, args.drange_net, args.reset_opt_for_new_lod,
            args.G_smoothing_rampup, args.G_smoothing_beta)
        self._report_memory()
        self._pending: list[StepResult] = []  # Results of iterations that `_collect_results` has not read yet.

    def _report_memory(self) -> None:
        """Say how much of a GPU's memory training is going to need at full resolution, if the GPU's memory is known."""
        args, devices = self._args, self._devices
        used = hardware.gpus()[:devices.number // devices.cluster.workers]
        memories = [gpu.memory for gpu in used if gpu.memory is not None]
        if memories:
            sched = training_schedule(self._total_nimg, self._training_set.resolution_log2, **(args.sched_args or {}))
            G, D, _Gs = self._networks
            print(memory.describe(G, D, sched.minibatch_size // devices.number, sched.minibatch_gpu, min(memories),
                                  args.precision))

    def _make_augmentation(self) -> Augmentation | None:
        """The augmentation of what D sees. None = there is none."""
        args, (channels, size, _) = self._args, self._training_set.shape
        if args.augpipe is None:
            return None
        multipliers = AUGPIPES[args.augpipe]
        if 'imgfilter' in multipliers and size < 32:
            raise UserError(f'--augpipe={args.augpipe}: its filter needs images of 32x32 or more, '
                            f'the dataset has {size}x{size}', 'Give --augpipe=bgc.')
        if channels not in (1, 3):
            raise UserError(f'--aug: expected images of 1 or 3 channels, the dataset has {channels}',
                            'Give --aug=none.')
        p = self._networks[1].augment_p if args.augment_p is None else args.augment_p
        how = f'p = {p or 0.0:g}'
        if args.ada_target is not None:
            start = 'that of the checkpoint' if self._resumed else f'{p or 0.0:g}{" as in the pickle" if p else ""}'
            how = f'adaptive, target {args.ada_target:g}, p starts at {start}'
        print(f'Augmentation: {args.augpipe}, {how}.')
        return Augmentation(AugmentPipe(**multipliers), p or 0.0, args.ada_target, args.ada_interval, args.ada_kimg)

    def _make_reports(self) -> None:
        args, data = self._args, self._training_set
        grid_args = self._resumed.get('grid_args') or {**(args.grid_args or {}), **({} if self._has_gpu else _CPU_GRID)}
        self._snapshots = Snapshots(
            args.run_dir, data, self._Gs, minibatch_size=self._iterations.sched.minibatch_gpu, seed=self._data_seed,
            **grid_args)
        self._summaries, self._skipped = Summaries(args.run_dir), SkippedUpdates()
        guesses = guess_durations(self._networks, args.metric_arg_list, self._has_gpu)
        self._clock = Clock(self._start_time, self._deadline, guesses)
        self._report = Report(args.run_dir, data.resolution)
        self._checkpoints = Checkpoints(
            args.run_dir, {**self._trainer.state(), 'grid_latents': self._snapshots.latents},
            {'averages': self._summaries, 'clock': self._clock, 'skipped': self._skipped}, self._facts,
            notes={'settings': args.settings, 'networks': describe(*self._networks[:2]), 'data_seed': self._data_seed,
                   'grid_args': grid_args},
            keep=args.keep_checkpoints, minutes=args.checkpoint_minutes)
        self._last_files = LastFiles(args.run_dir, self._checkpoints.make_room)

    def _start_or_resume(self) -> None:
        """Restore the checkpoint if there is one, then write the first pictures."""
        if self._checkpoint_path is not None:
            self._checkpoints.restore(self._checkpoint_path, self._resumed)
        if self._args.dry_run:
            return
        if self._args.on_start is not None:
            self._args.on_start()
        if self._is_chief:
            self._snapshots.save_reals()
        if self._checkpoint_path is not None:
            print(f'Going on from {self._checkpoint_path}, at kimg {format_kimg(self._progress.kimg)}.')
        elif self._is_chief:
            with self._clock.maintenance('pictures'), self._memory_explained():
                self._snapshots.save_fakes(self._Gs, 'fakes_init.png')

    # ---- The loop ----

    def train(self) -> Network:
        """Train to the end, and return Gs."""
        args, alone = self._args, self._devices.cluster.workers == 1
        if args.dry_run:
            return self._Gs
        limit = '' if args.max_minutes is None else f', or until {args.max_minutes:g} minutes are over'
        print(f'Training for {args.total_kimg:g} kimg{limit}...\n')
        when = 'after this iteration' if alone else 'all workers'
        # On a terminal a bar shows the progress; elsewhere the tick lines do.
        bar = tqdm(total=self._total_nimg, initial=self._progress.cur_nimg, unit='img',
                   disable=None if self._is_chief else True, dynamic_ncols=True)
        try:
            with (self._memory_explained(),
                  StopOnSignal(f'Stopping {when}, with a checkpoint. Once more: at once, without.') as stop):
                while True:
                    boundary = self._iterations.schedule_is_due()
                    if boundary:
                        self._collect_results()
                    wanted = self._agree(stop.requested, boundary)
                    if wanted == _STOP:
                        self._stop()
                    due = self._what_is_due(wanted, boundary)
                    # The checkpoint comes before the reports: a run that is killed while it writes them writes them
                    # again.
                    self._save_checkpoint(due)
                    if due.tick:
                        self._tick(due)
                    if due.end:
                        break
                    self._pending += self._iterations.run()
                    self._move(bar)
        finally:
            bar.close()
        self._finish()
        return self._Gs

    @contextlib.contextmanager
    def _memory_explained(self) -> Iterator[None]:
        """Context manager that raises a UserError about --minibatch-gpu in place of errors about too little memory."""
        try:
            yield
        except Exception as err:
            if not is_out_of_memory(err):
                raise
            sched = self._iterations.sched
            raise out_of_memory(sched.minibatch_size // self._args.num_gpus, sched.minibatch_gpu,
                                mbstd_group(self._args.D_args or {}), err) from err

    def _collect_results(self) -> None:
        """Read the results of the iterations since the last call.

        Reading waits for the device, so it is done here instead of within iterations.
        """
        for result in self._pending:
            for tag, moments in result.stats.items():
                self._summaries.add_moments(tag, moments.numpy())
            self._skipped.add(result.name, bool(result.skipped.numpy()))
        self._pending.clear()
        self._skipped.check(self._progress.kimg, self._checkpoints.last)

    def _agree(self, stop_requested: bool, boundary: bool) -> int:
        """What all workers do next: _GO_ON, _END or _STOP. `boundary`: is the schedule due?"""
        alone, progress = self._devices.cluster.workers == 1, self._progress
        wanted = _STOP if stop_requested else _GO_ON
        # Several workers agree, and a GPU has finished its work, only when the schedule is due: see `_collect_results`.
        if self._is_chief and (boundary or (alone and not self._has_gpu)):
            iterations = self._iterations
            self._clock.step(progress.cur_nimg, iterations.stages_compiled, iterations.compiles_next())
            self._drop_metrics_without_time()
            if progress.cur_nimg > self._first_nimg and not self._clock.time_to_go_on(self._last_reports()):
                wanted = max(wanted, _END)
        return max(self._devices.gather(wanted)) if boundary or alone else _GO_ON

    def _what_is_due(self, wanted: int, boundary: bool) -> _Due:
        args, progress = self._args, self._progress
        end = wanted == _END or (boundary and progress.cur_nimg >= self._total_nimg)
        tick_nimg = progress.cur_nimg - progress.tick_start_nimg
        enough = progress.cur_tick < 0 or tick_nimg >= self._iterations.sched.tick_kimg * 1000
        tick = tick_nimg > 0 and (end or (boundary and enough))
        pictures = tick and args.image_snapshot_ticks is not None and (
            end or (progress.cur_tick + 1) % args.image_snapshot_ticks == 0)
        networks = tick and args.network_snapshot_ticks is not None and (end or (
            (progress.cur_tick + 1) % args.network_snapshot_ticks == 0
            and self._clock.time_to_go_on(self._last_reports() * 2)))
        # The names are chosen before the checkpoint is written, which must know them: the snapshots at the end of a run
        # are not made again if the run is made longer.
        return _Due(end, tick, progress.snapshot_name('fakes', '.png') if pictures else '',
                    progress.snapshot_name('network-snapshot-', '.pkl') if networks else '')

    def _move(self, bar: tqdm) -> None:
        """Move the progress bar. Its end is where the time limit is expected."""
        nimg = self._progress.cur_nimg
        bar.total = nimg + self._clock.images_left(self._total_nimg - nimg)
        bar.update(nimg - bar.n)

    def _stop(self) -> None:
        self._collect_results()
        if self._is_chief:
            self._save_last_checkpoint()
            self._last_files.check()
        tqdm.write(f'Stopped at kimg {format_kimg(self._progress.kimg)}, with {self._checkpoints.last}.')
        raise Stopped

    def _finish(self) -> None:
        args, progress = self._args, self._progress
        if not self._is_chief:
            return
        self._last_files.write('network-final.pkl', lambda path: misc.save_pkl(self._networks, path))
        ending = f'All {args.total_kimg:g} kimg are done.'
        if progress.cur_nimg < self._total_nimg:
            ending = (f'The time limit, --max-minutes={args.max_minutes:g}, was reached at kimg {progress.kimg:.3f} of '
                      f'{args.total_kimg:g}. To go on: the same command with --resume={args.run_dir}')
            print(ending)
        self._last_files.check()
        if args.on_end is not None:
            args.on_end(ending)

    # ---- Checkpoints and reports ----

    def _save_checkpoint(self, due: _Due) -> None:
        """Write a checkpoint if it is time for one, unless the last updates were skipped."""
        args, progress = self._args, self._progress
        is_due = due.tick and (due.end or bool(due.networks) or (progress.cur_tick + 1) % args.checkpoint_ticks == 0)
        if not self._is_chief or not self._checkpoints.wanted(progress, is_due):
            return
        if due.end or self._clock.time_to_go_on(['checkpoint', *self._last_reports()]):
            self._collect_results()
            if self._skipped.in_a_row():
                return
            with self._clock.maintenance('checkpoint'):
                if due.end:
                    self._save_last_checkpoint()
                else:
                    with tolerate_write_errors('the checkpoint'):
                        self._checkpoints.save(progress)

    def _save_last_checkpoint(self) -> None:
        self._last_files.write(
            self._checkpoints.name(self._progress), lambda path: self._checkpoints.save(self._progress, path))

    def _tick(self, due: _Due) -> None:
        """Count a tick, and on the chief make its reports."""
        progress = self._progress
        tick_kimg = (progress.cur_nimg - progress.tick_start_nimg) / 1000.0
        progress.cur_tick, progress.tick_start_nimg = progress.cur_tick + 1, progress.cur_nimg
        if not self._is_chief:
            return
        self._collect_results()
        left = self._clock.left(0 if due.end else self._total_nimg - progress.cur_nimg)
        augmentation = self._trainer.augmentation
        augment_p = None if augmentation is None else float(augmentation.p.numpy())
        self._networks[1].augment_p = augment_p  # For the pickles.
        tqdm.write(report_tick(
            self._summaries, self._clock, progress, tick_kimg, self._iterations.sched, self._skipped, left, augment_p))
        # Reports draw random numbers too, which must not change what is learned.
        with random_state_kept():
            if due.pictures and (due.end or self._clock.time_to_go_on(['pictures', *self._last_reports()])):
                with self._clock.maintenance('pictures'), tolerate_write_errors(due.pictures):
                    self._snapshots.save_fakes(self._Gs, due.pictures)
            if due.networks:
                self._save_networks(due.networks)
            # report.html only shows what there is: an error in it must not end the run.
            with self._clock.maintenance('report'), tolerate_write_errors('report.html', Exception):
                self._report.save()

    def _save_networks(self, name: str) -> None:
        """Write a network snapshot, and compute its metrics."""
        args, progress = self._args, self._progress
        with self._clock.maintenance('pickle'), tolerate_write_errors(name):
            self._snapshots.save_networks(self._networks, name, args.keep_snapshots, args.resume_pkl)
        if self._evaluation is None:
            return
        with self._clock.maintenance('metrics'):
            values = self._evaluation.run(
                name, self._Gs, args.run_dir, args.data_dir, args.dataset_args, args.mirror_augment, keep_going=True)
        for tag, value in values.items():
            self._summaries.add(tag, value)
        with tolerate_write_errors('a line of stats.jsonl'):
            self._summaries.save(progress.cur_nimg, tick=progress.cur_tick, kimg=progress.kimg)

    def _last_reports(self) -> list[str]:
        """Names of the reports that the end of the run makes. One that is made twice is listed twice."""
        args = self._args
        names = ['checkpoint', 'report', 'pickle']
        if args.image_snapshot_ticks is not None:
            names.append('pictures')
        if args.network_snapshot_ticks is not None:
            names += ['pickle'] if self._evaluation is None else ['pickle', 'metrics']
        return names

    def _drop_metrics_without_time(self) -> None:
        if self._evaluation is not None and not self._clock.time_for(self._last_reports()):
            self._evaluation = None
            tqdm.write(f'Note: {_names(self._args.metric_arg_list)} would not be done within '
                       f'--max-minutes={self._args.max_minutes:g}: left out.')


def _names(metric_arg_list: Sequence[dict[str, Any]]) -> str:
    return ', '.join(args['name'] for args in metric_arg_list)
