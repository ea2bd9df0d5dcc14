"""Training: schedule -> steps -> report -> snapshot."""

import functools
import math
import os
import sys
import time

import tensorflow as tf
from tqdm import tqdm

import custom_ops
from dnnlib import tflib
from dnnlib.cli import UserError
from dnnlib.tflib.autosummary import Summaries
from dnnlib.tflib.tfutil import seed_everything
from dnnlib.util import format_time
from training import dataset, misc, registry
from training.report import Report
from training.schedule import training_schedule
from training.snapshot import Snapshots, keep_going
from training.train_step import TrainStep


def training_loop(
        run_dir                 = '.',      # Folder of the results.
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
        num_gpus                = 1,        # Number of devices.
        G_smoothing_kimg        = 10.0,     # Half-life of the moving average Gs, in thousands of images.
        minibatch_repeats       = 4,        # Iterations between two looks at the schedule.
        lazy_regularization     = True,     # Regularise in separate passes?
        G_reg_interval          = 4,        # Iterations from one such pass of G to the next.
        D_reg_interval          = 16,       # The same for D.
        total_kimg              = 25000,    # Thousands of images to train for.
        mirror_augment          = False,    # Flip real images left to right at random?
        reset_opt_for_new_lod   = True,     # Forget Adam's moments when layers come in or begin to fade in?
        drange_net              = (-1, 1),  # Range of the images that the networks see.
        image_snapshot_ticks    = 50,       # Ticks between two fakes*.png. None = never.
        network_snapshot_ticks  = 50,       # Ticks between two network-snapshot-*.pkl. None = never.
        resume_pkl              = None,     # Network pickle to start from. None = from random weights.
        resume_kimg             = 0.0,      # Thousands of images it has seen: where the schedule starts.
        resume_time             = 0.0,      # Seconds it was trained for: where the clock starts.
        impl                    = None):    # Form of the custom ops: 'auto', 'native' or 'ref'. None = the one set already.
    """Train G, D and Gs; returns Gs.

    Writes into run_dir: reals.png, fakes_init.png, fakesNNNNNN.png, network-snapshot-NNNNNN.pkl (NNNNNN = thousands of
    images), metric-NAME.txt, network-final.pkl, stats.jsonl, TensorBoard's events and report.html. Ctrl-C writes a last
    network-snapshot and says how to go on from it.

    Raises:
        UserError: The dataset or the pickle cannot be used, or they do not fit each other; or the native custom ops or metrics are
            asked for and cannot be used.
    """
    if num_gpus != 1:
        raise ValueError(f'expected num_gpus 1, for there is no training on several GPUs yet; received {num_gpus}')
    start_time = time.time() - resume_time
    tflib.init_tf(tf_config)
    seed = (tf_config or {}).get('rnd.np_random_seed')
    seed_everything(seed)
    _report_device()

    training_set = dataset.load_dataset(data_dir=data_dir, verbose=True, **(dataset_args or {}))
    if impl is not None:
        custom_ops.set_impl(impl)
    print(custom_ops.impl_report())
    G, D, Gs = _make_networks(G_args or {}, D_args or {}, training_set, resume_pkl)
    metrics = _prepare_metrics(metric_arg_list, require_metrics, seed, Gs, training_set)
    G.print_layers()
    D.print_layers()
    G_loss_args, D_loss_args = dict(G_loss_args or {}), dict(D_loss_args or {})
    trainer = TrainStep(
        G, D, Gs, G_loss_args.pop('func_name'), D_loss_args.pop('func_name'), G_loss_args, D_loss_args, G_opt_args, D_opt_args,
        lazy_regularization, G_reg_interval, D_reg_interval, label_table=training_set.labels)

    def schedule():
        return training_schedule(cur_nimg, training_set.resolution_log2, **(sched_args or {}))

    @functools.cache
    def prepare(stage):
        """The traced function (images, labels, lod) -> what D sees, for this stage."""
        def function(images, labels, lod):
            lod = 0 if stage is None else lod
            return misc.process_reals(images, labels, lod, mirror_augment, training_set.dynamic_range, drange_net, stage=stage)
        return tf.function(function, autograph=False)

    cur_nimg, cur_tick, iteration = round(resume_kimg * 1000), -1, 0
    tick_start_nimg, total_nimg = cur_nimg, math.ceil(total_kimg * 1000)
    if cur_nimg >= total_nimg:
        raise UserError(f'--total-kimg={total_kimg:g} is reached already at --resume-kimg={resume_kimg:g}', 'Raise --total-kimg.')
    sched, stream = schedule(), None
    stage = trainer.set_lod(sched.lod)
    snapshots = Snapshots(run_dir, training_set, Gs, minibatch_size=sched.minibatch_gpu, **(grid_args or {}))
    snapshots.save_reals()
    snapshots.save_fakes(Gs, 'fakes_init.png')
    summaries, report = Summaries(run_dir), Report(run_dir, training_set.resolution)
    clock = _Clock(start_time)
    compiled = set()
    print(f'Training for {total_kimg:g} kimg...\n')
    # On a terminal a bar shows how far it is; elsewhere the tick lines do.
    bar = tqdm(total=total_nimg, initial=cur_nimg, unit='img', disable=None, dynamic_ncols=True)
    try:
        while cur_nimg < total_nimg:
            before, sched = sched, schedule()
            if sched.lod != before.lod:
                stage = trainer.set_lod(sched.lod)
                if reset_opt_for_new_lod and _levels(sched.lod) != _levels(before.lod):
                    trainer.G_opt.reset()
                    trainer.D_opt.reset()
            if stream != (sched.minibatch_size, sched.resolution):
                stream = sched.minibatch_size, sched.resolution
                order = None if seed is None else seed + cur_nimg
                data = training_set.iterate(sched.minibatch_size, lod=math.floor(sched.lod), seed=order)
            first = (stage, sched.minibatch_gpu) not in compiled
            compiled.add((stage, sched.minibatch_gpu))
            if first:
                tqdm.write(f'Compiling the training step for {sched.resolution}x{sched.resolution}: '
                           'the first iteration takes longer than those that follow.')
                compile_start = time.time()
            lod = tf.constant(sched.lod, tf.float32)
            rounds = sched.minibatch_size // (sched.minibatch_gpu * num_gpus)
            Gs_beta = 0.5 ** (sched.minibatch_size / (G_smoothing_kimg * 1000.0)) if G_smoothing_kimg > 0.0 else 0.0
            stats = []
            for _repeat in range(minibatch_repeats):
                reals, labels = prepare(stage)(*next(data), lod)
                for phase in trainer.phases(iteration):
                    if phase == 'Gs_update':
                        trainer.update_Gs(Gs_beta)
                    elif phase.startswith('G'):
                        stats.append(trainer.run(phase, sched.minibatch_gpu, rounds, sched.G_lrate, stage=stage))
                    else:
                        stats.append(trainer.run(phase, sched.minibatch_gpu, rounds, sched.D_lrate, reals, labels, stage))
                if first and _repeat == 0:
                    tqdm.write(f'Compiled in {format_time(time.time() - compile_start)}.')
                cur_nimg += sched.minibatch_size
                iteration += 1
                bar.update(sched.minibatch_size)
            for tag, moments in (item for phase_stats in stats for item in phase_stats.items()):
                summaries.add_moments(tag, moments.numpy())  # Here, so that within the iterations nothing waits for a device.

            done = cur_nimg >= total_nimg
            if cur_tick < 0 or cur_nimg >= tick_start_nimg + sched.tick_kimg * 1000 or done:
                cur_tick += 1
                tick_kimg, tick_start_nimg = (cur_nimg - tick_start_nimg) / 1000.0, cur_nimg
                tqdm.write(_report_tick(summaries, clock, cur_tick, cur_nimg, tick_kimg, sched))
                if image_snapshot_ticks is not None and (cur_tick % image_snapshot_ticks == 0 or done):
                    name = f'fakes{cur_nimg // 1000:06d}.png'
                    with keep_going(name):
                        snapshots.save_fakes(Gs, name)
                if network_snapshot_ticks is not None and (cur_tick % network_snapshot_ticks == 0 or done):
                    name = f'network-snapshot-{cur_nimg // 1000:06d}.pkl'
                    with keep_going(name):
                        snapshots.save_networks((G, D, Gs), name)
                    if metrics is not None:
                        values = metrics.run(name, Gs, run_dir, data_dir, dataset_args, mirror_augment, keep_going=True)
                        for tag, value in values.items():
                            summaries.add(tag, value)
                        summaries.save(cur_nimg, tick=cur_tick, kimg=cur_nimg / 1000.0)
                with keep_going('report.html', Exception):  # It only shows what there is: no mistake in it is worth a run.
                    report.save()
                clock.end_maintenance()
    except KeyboardInterrupt:
        bar.close()
        path = snapshots.save_networks((G, D, Gs), f'network-snapshot-{cur_nimg // 1000:06d}.pkl')
        print(f'Stopped at kimg {cur_nimg / 1000:.1f}. To go on, give the same command with: '
              f'--resume-pkl={path} --resume-kimg={cur_nimg / 1000:.3f}')
        raise
    finally:
        bar.close()
    snapshots.save_networks((G, D, Gs), 'network-final.pkl')
    return Gs


# ---- Parts of it ----

def _report_device():
    gpus = tf.config.list_physical_devices('GPU')
    if not gpus:
        print(f'No GPU found: training on the CPU ({os.cpu_count()} cores). '
              'If there should be one, TF_CPP_MIN_LOG_LEVEL=0 shows what TensorFlow says of it.')


def _make_networks(G_args, D_args, training_set, resume_pkl):
    """G, D, Gs for the training set: new, or those of the pickle, whose own settings then count."""
    if resume_pkl is not None:
        print(f'Loading networks from "{resume_pkl}"...')
        networks = misc.load_networks(resume_pkl)
        found, expected = networks[1].input_shapes, [[None, *training_set.shape], [None, training_set.label_size]]
        if found != expected:
            raise UserError(f'{resume_pkl} is for images {found[0][1:]} with {found[1][1]} labels, '
                            f'but the dataset has images {expected[0][1:]} with {expected[1][1]} labels', 'Choose the matching one.')
        return networks
    print('Constructing networks...')
    shape = dict(num_channels=training_set.shape[0], resolution=training_set.resolution, label_size=training_set.label_size)
    try:
        G = registry.create_network('G', **shape, **G_args)
        D = registry.create_network('D', **shape, **D_args)
    except ValueError as err:
        raise UserError(f'cannot make the networks: {err}', 'Change the settings of the networks.') from err
    return G, D, G.clone('Gs')


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
        print(f'Note: training without {", ".join(args["name"] for args in metric_arg_list)}. {err.fact}. {err.remedy}'.rstrip('. ') + '.')
        return None
    return metrics


def _levels(lod):
    """The levels of detail that take part at `lod`."""
    return math.floor(lod), math.ceil(lod)


class _Clock:
    """Splits the time of a run into training and maintenance (reports and snapshots)."""

    def __init__(self, start_time):
        self.start_time = start_time
        self.tick_start = time.time()
        self.maintenance = 0.0

    def since_start(self):
        return time.time() - self.start_time

    def since_last_tick(self):
        return time.time() - self.tick_start

    def begin_maintenance(self):
        self._maintenance_start = time.time()

    def end_maintenance(self):
        self.tick_start = time.time()
        self.maintenance = self.tick_start - self._maintenance_start


def _report_tick(summaries, clock, tick, nimg, tick_kimg, sched):
    """Save the scalars of the tick; returns its line."""
    total_time, tick_time, maintenance = clock.since_start(), clock.since_last_tick(), clock.maintenance
    clock.begin_maintenance()
    fields = {
        'Progress/tick': tick, 'Progress/kimg': nimg / 1000.0, 'Progress/lod': sched.lod, 'Progress/minibatch': sched.minibatch_size,
        'Timing/total_sec': total_time, 'Timing/sec_per_tick': tick_time, 'Timing/sec_per_kimg': tick_time / tick_kimg,
        'Timing/maintenance_sec': maintenance, 'Timing/total_hours': total_time / 3600, 'Timing/total_days': total_time / 86400,
        'Resources/peak_gpu_mem_gb': _peak_memory() / 2 ** 30}
    for tag, value in fields.items():
        summaries.add(tag, value)
    summaries.save(nimg, tick=tick, kimg=nimg / 1000.0, seconds=total_time)
    return (f'tick {tick:<5d} kimg {nimg / 1000.0:<8.1f} lod {sched.lod:<5.2f} minibatch {sched.minibatch_size:<4d} '
            f'time {format_time(total_time):<12s} sec/tick {tick_time:<7.1f} sec/kimg {tick_time / tick_kimg:<7.2f} '
            f'maintenance {maintenance:<6.1f} gpumem {fields["Resources/peak_gpu_mem_gb"]:.1f}')


def _peak_memory():
    """Bytes: of the GPU, or without one the process's resident memory."""
    if tf.config.list_physical_devices('GPU'):
        return tf.config.experimental.get_memory_info('GPU:0')['peak']
    try:
        import resource  # Not on Windows.
    except ImportError:
        return 0
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
