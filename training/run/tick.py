"""A tick: one line of progress, with the scalars of the time since the last one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from dnnlib.progress import format_time
from dnnlib.tflib.tfutil import has_gpu
from dnnlib.util import EasyDict
from training.loss import REAL_SIGNS
from training.run.checkpoint import format_kimg
from training.run.clock import Clock
from training.run.health import SkippedUpdates
from training.run.snapshot import tolerate_write_errors

if TYPE_CHECKING:
    from dnnlib.tflib import Network
    from dnnlib.tflib.autosummary import Summaries
    from training.run.checkpoint import RunProgress


def report_tick(summaries: Summaries, clock: Clock, progress: RunProgress, tick_kimg: float, sched: EasyDict,
                skipped: SkippedUpdates, left: float | None, augment_p: float | None = None) -> str:
    """Save the scalars of a tick.

    Args:
        summaries: Scalars since the last tick. Those of the tick are added, and all are written.
        clock:     Clock of the run.
        progress:  How far the run is.
        tick_kimg: Thousands of images shown since the last tick.
        sched:     What training_schedule returned.
        skipped:   Updates skipped since the last tick.
        left:      Seconds that the run still takes. None = not known.
        augment_p: Strength of the augmentation. None = there is none.

    Returns:
        The line to print, and a second one if updates were skipped.
    """
    total_time, tick_time, maintenance = clock.tick()
    fields = {
        'Progress/tick': progress.cur_tick, 'Progress/kimg': progress.kimg, 'Progress/lod': sched.lod,
        'Progress/minibatch': sched.minibatch_size,
        'Timing/total_sec': total_time, 'Timing/sec_per_tick': tick_time, 'Timing/sec_per_kimg': tick_time / tick_kimg,
        'Timing/maintenance_sec': maintenance,
        'Timing/total_hours': total_time / 3600, 'Timing/total_days': total_time / 86400,
        'Resources/peak_gpu_mem_gb': peak_memory() / 2 ** 30, **({} if left is None else {'Timing/left_sec': left})}
    augmentation = ''
    if augment_p is not None:
        fields['Progress/augment'] = augment_p
        augmentation = f'augment {augment_p:<6.3f} r_t {summaries.mean(REAL_SIGNS):<6.3f} '
    for tag, value in fields.items():
        summaries.add(tag, value)
    with tolerate_write_errors('a line of stats.jsonl'):
        summaries.save(progress.cur_nimg, tick=progress.cur_tick, kimg=progress.kimg, seconds=total_time)
    line = (f'tick {progress.cur_tick:<5d} kimg {format_kimg(progress.kimg):<8s} lod {sched.lod:<5.2f} '
            f'minibatch {sched.minibatch_size:<4d} time {format_time(total_time):<12s} sec/tick {tick_time:<7.1f} '
            f'sec/kimg {tick_time / tick_kimg:<7.2f} maintenance {maintenance:<6.1f} '
            f'gpumem {fields["Resources/peak_gpu_mem_gb"]:<5.1f} {augmentation}'
            f'left {"?" if left is None else format_time(left)}')
    return '\n'.join(filter(None, [line, skipped.report()]))


def guess_durations(networks: Sequence[Network], metric_arg_list: Sequence[dict[str, Any]],
                    has_gpu: bool) -> dict[str, float]:
    """Guess how long reports take, for a Clock that has not measured them yet.

    Args:
        networks:        The networks of a pickle, whose size decides.
        metric_arg_list: Arguments of each metric, whose number of images decides.
        has_gpu:         Is there a GPU?

    Returns:
        Name of a report -> seconds.
    """
    numbers = sum(var.shape.num_elements() for net in networks for var in net.named_variables().values())
    gigabytes = numbers * 4 / 2 ** 30
    images = sum(args.get('num_images') or args.get('num_samples', 0) for args in metric_arg_list)
    return {'checkpoint': 1 + 20 * gigabytes, 'pickle': 1 + 10 * gigabytes, 'pictures': 5.0, 'report': 1.0,
            'metrics': images * (0.01 if has_gpu else 0.04)}


def peak_memory() -> int:
    """Peak memory in bytes: that of the GPU, or without a GPU the resident memory of this process."""
    if has_gpu():
        return tf.config.experimental.get_memory_info('GPU:0')['peak']
    try:
        import resource  # Not on Windows.
    except ImportError:
        return 0
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
