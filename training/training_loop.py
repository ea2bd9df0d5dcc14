"""Training: schedule -> steps -> report -> snapshot."""

import math
import os
import sys
import time

import numpy as np
import tensorflow as tf
from tqdm import tqdm

import custom_ops
from dnnlib import tflib
from dnnlib.cli import StopOnSignal, Stopped, UserError
from dnnlib.tflib.autosummary import Summaries
from dnnlib.tflib.random import random_state_kept
from dnnlib.tflib.tfutil import has_gpu, seed_everything
from dnnlib.util import format_time
from training import dataset
from training.nets.dtypes import check_precision, describe_precision, note_slow_precision
from training.nets.transfer import describe, make_networks
from training.run.checkpoint import Checkpoints, Progress
from training.run.clock import Clock
from training.run.health import SkippedUpdates, out_of_memory
from training.run.report import Report
from training.run.snapshot import Snapshots, keep_going
from training.step.devices import Devices, find_cluster, run_operations_in_turn
from training.step.iteration import Iterations
from training.step.train_step import TrainStep

# A thousand images, as the original's grids have, take a CPU longer than the first iterations.
_CPU_GRID = {'most': (8, 4)}

# What a worker wants the run to do. Where several differ, the largest number wins.
_GO_ON, _END, _STOP = range(3)


def training_loop(
        run_dir                 = '.',      # Folder of the results. Of several workers only the chief writes there.
        data_dir                = None,     # Folder that dataset_args.tfrecord_dir is relative to. None = the working folder.
        G_args                  = None,     # func_name and settings of the generator.
        D_args                  = None,     # func_name and settings of the discriminator.
        G_opt_args              = None,     # beta1, beta2, epsilon of the generator's Adam. None = Adam's defaults here.
        D_opt_args              = None,     # The same for the discriminator.
        G_loss_args             = None,     # func_name and settings of the generator's loss.
        D_loss_args             = None,     # func_name and settings of the discriminator's loss.
        dataset_args            = None,     # Arguments of dataset.load_dataset.
        sched_args              = None,     # Arguments of training_schedule. None = its defaults.
        grid_args               = None,     # size and layout of the image grids. None = the defaults of Snapshots.
        metric_arg_list         = (),       # Arguments of each metric to compute at network snapshots, see metrics.metric_defaults.
        require_metrics         = True,     # Is a metric that cannot be computed an error? False = train without them, and say so.
        tf_config               = None,     # 'rnd.np_random_seed': seed of all random numbers. None = random.
        num_gpus                = 1,        # Number of devices of all workers of TF_CONFIG together (training/step/devices.py).
        G_smoothing_kimg        = 10.0,     # Half-life of the moving average Gs, in thousands of images.
        minibatch_repeats       = 4,        # Iterations between two looks at the schedule.
        lazy_regularization     = True,     # Regularise in separate passes?
        G_reg_interval          = 4,        # Iterations from one such pass of G to the next.
        D_reg_interval          = 16,       # The same for D.
        total_kimg              = 25000,    # Thousands of images to train for.
        max_minutes             = None,     # Minutes after which the run ends earlier, its last reports included. None = no limit.
        started                 = None,     # time.monotonic() at which these minutes began. None = now.
        mirror_augment          = False,    # Flip real images left to right at random?
        reset_opt_for_new_lod   = True,     # Forget Adam's moments when layers come in or begin to fade in?
        drange_net              = (-1, 1),  # Range of the images that the networks see.
        image_snapshot_ticks    = 50,       # Ticks between two fakes*.png. None = never.
        network_snapshot_ticks  = 50,       # Ticks between two network-snapshot-*.pkl. None = never.
        checkpoint_ticks        = 10,       # Ticks between two checkpoints; there is one before each network snapshot too.
        checkpoint_minutes      = 30.0,     # The most minutes between them.
        keep_checkpoints        = 2,        # Checkpoints that are kept.
        resume_pkl              = None,     # Network pickle to start from. None = from random weights.
        resume_kimg             = 0.0,      # Thousands of images it has seen: where the schedule starts.
        resume_time             = 0.0,      # Seconds it was trained for: where the clock starts.
        resume                  = None,     # (path of a checkpoint, its state.json) to go on from, in place of resume_*. None = none.
        freeze_d                = 0,        # Layers of D, counted from the images on, that stay as they are.
        precision               = 'float32', # Key of configs.PRECISIONS: that of the highest resolutions while training.
        settings                = None,     # What checkpoints keep of the settings, for who goes on from them to compare.
        on_end                  = None,     # Function that is called with a sentence saying why training has ended. None = none.
        impl                    = None):    # Form of the custom ops: 'auto', 'native' or 'ref'. None = the one set already.
    """Train G, D and Gs; returns Gs.

    Writes into run_dir: reals.png, fakes_init.png, fakesNNNNNN.png, network-snapshot-NNNNNN.pkl (NNNNNN = thousands of
    images), metric-NAME.txt, network-final.pkl, stats.jsonl, TensorBoard's events, report.html and checkpoints
    (training/run/checkpoint.py). On Ctrl-C or SIGTERM it finishes the iteration and writes a checkpoint; one of several workers has all
    of them stop so when they look at the schedule the next time.

    With max_minutes it ends, as if total_kimg were reached, when there is no time for more than the last reports: the checkpoint, the
    pictures, the pickles and the metrics, which are expected to take as long as they did before. One iteration is made in any case.
    Metrics for which the time does not suffice are left out, and a note says so.

    Raises:
        UserError: The dataset, the pickle or the checkpoint cannot be used, or they do not fit each other; the native custom ops,
            metrics or a precision are asked for and cannot be used; training has diverged; memory is too small; or there are fewer
            devices than asked for.
        Stopped: It was asked to stop, and a checkpoint is written.
    """
    start_time = time.monotonic() - resume_time
    deadline = None if max_minutes is None else (time.monotonic() if started is None else started) + max_minutes * 60
    if num_gpus == 1:
        run_operations_in_turn((G_args or {}).get('fmap_base'))  # This and the next before TensorFlow computes anything.
    devices = Devices(num_gpus, find_cluster())
    is_chief = devices.cluster.is_chief
    tflib.init_tf(tf_config)
    seed = (tf_config or {}).get('rnd.np_random_seed')
    seed_everything(seed)
    _report_devices(devices)
    resume_path, resume_state = resume or (None, {})

    # ---- The parts: data, networks, what trains them and what reports ----
    training_set = dataset.load_dataset(data_dir=data_dir, verbose=True, **(dataset_args or {}))
    facts = {'images': training_set.num_images, 'shape of an image': training_set.shape, 'size of a label': training_set.label_size,
             'digest of the 4x4 images': training_set.content_digest(training_set.resolution_log2 - 2)}
    devices.check_same([{**settings['loop_args'], 'data_dir': None} if settings else None, resume_state.get('progress'), facts])
    data_seed = resume_state.get('data_seed', np.random.randint(1 << 31) if seed is None else seed)
    data_seed = devices.of_all_workers(data_seed)[0]  # A random one is the chief's.
    if impl is not None:
        custom_ops.set_impl(impl)
    print(custom_ops.impl_report())
    note = note_slow_precision(precision)
    if note:
        print(note)
    check_precision(precision)
    with devices.scope():
        G, D, Gs = make_networks(training_set, G_args or {}, D_args or {}, resume_pkl, resume_state.get('networks'))
    Gs.may_freeze = False  # Its weights change all the time, and the pictures of a resumed run are to be the same in all bits.
    metrics = _prepare_metrics(metric_arg_list, require_metrics, seed, Gs, training_set) if is_chief else None
    G.print_layers()
    D.print_layers()
    G_loss_args, D_loss_args = dict(G_loss_args or {}), dict(D_loss_args or {})
    with devices.scope():
        trainer = TrainStep(
            G, D, Gs, G_loss_args.pop('func_name'), D_loss_args.pop('func_name'), G_loss_args, D_loss_args, G_opt_args, D_opt_args,
            lazy_regularization, G_reg_interval, D_reg_interval, label_table=training_set.labels, freeze_d=freeze_d,
            precision=precision, devices=devices)
    print(describe_precision(precision, G))
    if freeze_d:
        print(f'Layers of D that stay as they are: {", ".join(trainer.frozen_layers)}')

    first_nimg, total_nimg = round(resume_kimg * 1000), math.ceil(total_kimg * 1000)
    if first_nimg >= total_nimg:
        raise UserError(f'--total-kimg={total_kimg:g} is reached already at --resume-kimg={resume_kimg:g}', 'Raise --total-kimg.')
    progress = Progress(**resume_state.get('progress') or dict(cur_nimg=first_nimg, tick_start_nimg=first_nimg, sched_nimg=first_nimg))
    iterations = Iterations(trainer, training_set, progress, data_seed, sched_args, minibatch_repeats, devices, G_smoothing_kimg,
                            mirror_augment, drange_net, reset_opt_for_new_lod)
    on_gpu = has_gpu()
    grid_args = resume_state.get('grid_args') or {**(grid_args or {}), **({} if on_gpu else _CPU_GRID)}
    snapshots = Snapshots(run_dir, training_set, Gs, minibatch_size=iterations.sched.minibatch_gpu, seed=data_seed, **grid_args)
    summaries, skipped = Summaries(run_dir), SkippedUpdates()
    clock = Clock(start_time, deadline, _first_guesses((G, D, Gs), metric_arg_list, on_gpu))
    report = Report(run_dir, training_set.resolution)
    checkpoints = Checkpoints(
        run_dir, {**trainer.state(), 'grid_latents': snapshots.latents}, {'averages': summaries, 'clock': clock, 'skipped': skipped},
        facts, notes={'settings': settings, 'networks': describe(G, D), 'data_seed': data_seed, 'grid_args': grid_args},
        keep=keep_checkpoints, minutes=checkpoint_minutes)
    if is_chief:
        snapshots.save_reals()
    if resume_path is not None:
        checkpoints.restore(resume_path, resume_state)
        print(f'Going on from {resume_path}, at kimg {progress.kimg:.1f}.')
    elif is_chief:
        with clock.maintenance('pictures'):
            snapshots.save_fakes(Gs, 'fakes_init.png')
    pending = []

    def collect():
        """Take in what the iterations since the last call report: here, so that within them nothing waits for a device."""
        for tag, moments in (item for phase_stats in pending for item in phase_stats.items()):
            summaries.add_moments(tag, moments.numpy())
            skipped.add(tag, moments.numpy())
        pending.clear()
        skipped.check(progress.kimg, checkpoints.last)

    # ---- The loop ----
    limit = '' if max_minutes is None else f', or until {max_minutes:g} minutes are over'
    print(f'Training for {total_kimg:g} kimg{limit}...\n')
    last_reports = ['checkpoint', 'report', 'pickle'] + ([] if image_snapshot_ticks is None else ['pictures'])
    last_reports += [] if network_snapshot_ticks is None else ['pickle'] if metrics is None else ['pickle', 'metrics']
    first_nimg = progress.cur_nimg
    # Several workers decide together, when they look at the schedule; and only then has all that runs on a GPU ended: see `collect`.
    may_end_anywhere = devices.cluster.workers == 1 and not on_gpu

    # On a terminal a bar shows how far it is; elsewhere the tick lines do.
    bar = tqdm(total=total_nimg, initial=progress.cur_nimg, unit='img', disable=None if is_chief else True, dynamic_ncols=True)
    try:
        when = 'after this iteration' if devices.cluster.workers == 1 else 'all workers'
        with StopOnSignal(f'Stopping {when}, with a checkpoint. Once more: at once, without.') as stop:
            while True:
                boundary = iterations.at_boundary()
                if boundary:
                    collect()
                wanted = _STOP if stop.requested else _GO_ON
                if is_chief and (boundary or may_end_anywhere):
                    clock.step(progress.cur_nimg, iterations.stages_compiled, iterations.compiles_next())
                    if metrics is not None and not clock.time_for(last_reports):
                        metrics = None
                        last_reports = [name for name in last_reports if name != 'metrics']
                        tqdm.write(f'Note: {_names(metric_arg_list)} would not be done within --max-minutes={max_minutes:g}: left out.')
                    if progress.cur_nimg > first_nimg and not clock.time_to_go_on(last_reports):
                        wanted = max(wanted, _END)
                if boundary or devices.cluster.workers == 1:
                    wanted = max(devices.of_all_workers(wanted))
                else:
                    wanted = _GO_ON  # Until all workers come to the point where they tell each other.
                done = wanted == _END or (boundary and progress.cur_nimg >= total_nimg)
                tick_nimg = progress.cur_nimg - progress.tick_start_nimg
                is_tick = tick_nimg > 0 and (done or (boundary and (
                    progress.cur_tick < 0 or tick_nimg >= iterations.sched.tick_kimg * 1000)))
                saves_networks = is_tick and network_snapshot_ticks is not None and (done or (
                    (progress.cur_tick + 1) % network_snapshot_ticks == 0 and clock.time_to_go_on(last_reports * 2)))

                # A checkpoint comes before the reports: a run that is killed while it writes them will write them again.
                if wanted == _STOP:
                    collect()
                    if is_chief:
                        checkpoints.save(progress)
                    tqdm.write(f'Stopped at kimg {progress.kimg:.1f}, with {checkpoints.last}.')
                    raise Stopped
                is_due = is_tick and (done or saves_networks or (progress.cur_tick + 1) % checkpoint_ticks == 0)
                if is_chief and checkpoints.wanted(progress, is_due) and (done or clock.time_to_go_on(['checkpoint', *last_reports])):
                    collect()
                    if not skipped.in_a_row():
                        with clock.maintenance('checkpoint'), keep_going('the checkpoint'):
                            checkpoints.save(progress)

                if is_tick:
                    progress.cur_tick, progress.tick_start_nimg = progress.cur_tick + 1, progress.cur_nimg
                if is_tick and is_chief:
                    collect()
                    left = clock.left(0 if done else total_nimg - progress.cur_nimg)
                    tqdm.write(_report_tick(summaries, clock, progress, tick_nimg / 1000.0, iterations.sched, skipped, left))
                    # Reports draw random numbers too, which must not change what is learned.
                    with random_state_kept():
                        if image_snapshot_ticks is not None and (done or (
                                progress.cur_tick % image_snapshot_ticks == 0 and clock.time_to_go_on(['pictures', *last_reports]))):
                            name = f'fakes{progress.cur_nimg // 1000:06d}.png'
                            with clock.maintenance('pictures'), keep_going(name):
                                snapshots.save_fakes(Gs, name)
                        if saves_networks:
                            name = f'network-snapshot-{progress.cur_nimg // 1000:06d}.pkl'
                            with clock.maintenance('pickle'), keep_going(name):
                                snapshots.save_networks((G, D, Gs), name)
                            if metrics is not None:
                                with clock.maintenance('metrics'):
                                    values = metrics.run(name, Gs, run_dir, data_dir, dataset_args, mirror_augment, keep_going=True)
                                for tag, value in values.items():
                                    summaries.add(tag, value)
                                with keep_going('a line of stats.jsonl'):
                                    summaries.save(progress.cur_nimg, tick=progress.cur_tick, kimg=progress.kimg)
                        # report.html only shows what there is: no mistake in it is worth a run.
                        with clock.maintenance('report'), keep_going('report.html', Exception):
                            report.save()
                if done:
                    break
                pending += iterations.run()
                bar.total = progress.cur_nimg + clock.images_left(total_nimg - progress.cur_nimg)
                bar.update(progress.cur_nimg - bar.n)
    except tf.errors.ResourceExhaustedError as err:
        raise out_of_memory(iterations.sched.minibatch_size // num_gpus, iterations.sched.minibatch_gpu, err) from err
    finally:
        bar.close()
    if is_chief:
        snapshots.save_networks((G, D, Gs), 'network-final.pkl')
        ending = f'All {total_kimg:g} kimg are done.'
        if progress.cur_nimg < total_nimg:
            ending = (f'The time limit, --max-minutes={max_minutes:g}, was reached at kimg {progress.kimg:.3f} of {total_kimg:g}. '
                      f'To go on: the same command with --resume={run_dir}')
            print(ending)
        if on_end is not None:
            on_end(ending)
    return Gs


# ---- Parts of it ----

def _report_devices(devices):
    if devices.number > 1:
        print(f'Training on {devices.number} devices of {devices.cluster.workers} machine{"s" * (devices.cluster.workers > 1)}.')
    if not has_gpu():
        print(f'No GPU found: training on the CPU ({os.cpu_count()} cores). '
              'If there should be one, TF_CPP_MIN_LOG_LEVEL=0 shows what TensorFlow says of it.')


def _prepare_metrics(metric_arg_list, required, seed, Gs, training_set):
    """MetricGroup with all that it needs, before any time is spent on training. None = there are no metrics."""
    if not metric_arg_list:
        return None
    from metrics.metric_base import MetricGroup  # Here, for metrics are built on training.
    try:
        metrics = MetricGroup(metric_arg_list, seed)
        metrics.check(Gs, training_set)
        metrics.load_networks()
    except UserError as err:
        if required:
            raise
        print(f'Note: training without {_names(metric_arg_list)}. {err.fact}. {err.remedy}'.rstrip('. ') + '.')
        return None
    return metrics


def _names(metric_arg_list):
    return ', '.join(args['name'] for args in metric_arg_list)


def _first_guesses(networks, metric_arg_list, on_gpu):
    """{name of a report: seconds that it may take}, for Clock: by the size of the networks and the number of images."""
    gigabytes = sum(var.shape.num_elements() for net in networks for var in net.named_variables().values()) * 4 / 2 ** 30
    images = sum(args.get('num_images') or args.get('num_samples', 0) for args in metric_arg_list)
    return {'checkpoint': 1 + 20 * gigabytes, 'pickle': 1 + 10 * gigabytes, 'pictures': 5.0, 'report': 1.0,
            'metrics': images * (0.01 if on_gpu else 0.04)}


def _report_tick(summaries, clock, progress, tick_kimg, sched, skipped, left):
    """Save the scalars of the tick; returns its line. `left`: seconds that the run still takes, or None."""
    total_time, tick_time, maintenance = clock.tick()
    fields = {
        'Progress/tick': progress.cur_tick, 'Progress/kimg': progress.kimg, 'Progress/lod': sched.lod,
        'Progress/minibatch': sched.minibatch_size,
        'Timing/total_sec': total_time, 'Timing/sec_per_tick': tick_time, 'Timing/sec_per_kimg': tick_time / tick_kimg,
        'Timing/maintenance_sec': maintenance, 'Timing/total_hours': total_time / 3600, 'Timing/total_days': total_time / 86400,
        'Resources/peak_gpu_mem_gb': _peak_memory() / 2 ** 30, **({} if left is None else {'Timing/left_sec': left})}
    for tag, value in fields.items():
        summaries.add(tag, value)
    with keep_going('a line of stats.jsonl'):
        summaries.save(progress.cur_nimg, tick=progress.cur_tick, kimg=progress.kimg, seconds=total_time)
    line = (f'tick {progress.cur_tick:<5d} kimg {progress.kimg:<8.1f} lod {sched.lod:<5.2f} minibatch {sched.minibatch_size:<4d} '
            f'time {format_time(total_time):<12s} sec/tick {tick_time:<7.1f} sec/kimg {tick_time / tick_kimg:<7.2f} '
            f'maintenance {maintenance:<6.1f} gpumem {fields["Resources/peak_gpu_mem_gb"]:<5.1f} '
            f'left {"?" if left is None else format_time(left)}')
    return '\n'.join(filter(None, [line, skipped.report()]))


def _peak_memory():
    """Bytes: of the GPU, or without one the process's resident memory."""
    if has_gpu():
        return tf.config.experimental.get_memory_info('GPU:0')['peak']
    try:
        import resource  # Not on Windows.
    except ImportError:
        return 0
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
