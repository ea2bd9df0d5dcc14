"""The schedule of training: level of detail, minibatch, learning rates and length of a tick, after so many images."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dnnlib.util import EasyDict

TICK_KIMG = {8: 28, 16: 24, 32: 20, 64: 16, 128: 12, 256: 8, 512: 6, 1024: 4}


def training_schedule(
        cur_nimg: int,                                # Images shown so far.
        resolution_log2: int,                         # log2 of the dataset's resolution.
        lod_initial_resolution: int | None  = None,   # Resolution at the start of growing. None = no growing.
        lod_training_kimg: float            = 600,    # Thousands of images at each resolution.
        lod_transition_kimg: float          = 600,    # Thousands of images while a new resolution fades in.
        minibatch_size_base: int            = 32,     # Images per update, all devices together.
        minibatch_size_dict: Mapping | None = None,   # Exceptions by resolution. None = none.
        minibatch_gpu_base: int             = 4,      # Images that one device handles at a time.
        minibatch_gpu_dict: Mapping | None  = None,   # Exceptions by resolution. None = none.
        G_lrate_base: float                 = 0.002,  # Learning rate of the generator.
        G_lrate_dict: Mapping | None        = None,   # Exceptions by resolution. None = none.
        D_lrate_base: float                 = 0.002,  # Learning rate of the discriminator.
        D_lrate_dict: Mapping | None        = None,   # Exceptions by resolution. None = none.
        lrate_rampup_kimg: float            = 0,      # Thousands of images while learning rates rise from 0.
        tick_kimg_base: float               = 4,      # Thousands of images between two reports.
        tick_kimg_dict: Mapping | None      = None,   # Exceptions by resolution. None = TICK_KIMG; {} = none.
        ) -> EasyDict:
    """State of the schedule after `cur_nimg` images.

    A phase of progressive growing is `lod_training_kimg` at a fixed resolution, then `lod_transition_kimg` in which the
    next resolution fades in while lod falls by 1 (Karras et al. 2018, "Progressive Growing of GANs", section 2).

    Returns:
        EasyDict(kimg, lod, resolution, minibatch_size, minibatch_gpu, G_lrate, D_lrate, tick_kimg). lod is a float,
        where 0.0 is full resolution. The dicts of exceptions hold at the current resolution.
    """
    kimg = cur_nimg / 1000.0
    lod = 0.0
    if lod_initial_resolution is not None:
        initial_lod = resolution_log2 - math.floor(math.log2(lod_initial_resolution))
        lod = _level_of_detail(kimg, initial_lod, lod_training_kimg, lod_transition_kimg)
    resolution = 2 ** (resolution_log2 - math.floor(lod))
    rampup = min(kimg / lrate_rampup_kimg, 1.0) if lrate_rampup_kimg > 0 else 1.0

    def at_resolution(exceptions: Mapping[int, float] | None, base: float) -> float:
        return (exceptions or {}).get(resolution, base)

    return EasyDict(
        kimg=kimg,
        lod=lod,
        resolution=resolution,
        minibatch_size=at_resolution(minibatch_size_dict, minibatch_size_base),
        minibatch_gpu=at_resolution(minibatch_gpu_dict, minibatch_gpu_base),
        G_lrate=at_resolution(G_lrate_dict, G_lrate_base) * rampup,
        D_lrate=at_resolution(D_lrate_dict, D_lrate_base) * rampup,
        tick_kimg=at_resolution(TICK_KIMG if tick_kimg_dict is None else tick_kimg_dict, tick_kimg_base))


def _level_of_detail(kimg: float, initial_lod: int, training_kimg: float, transition_kimg: float) -> float:
    """lod after `kimg`: it falls from `initial_lod` to 0 in phases of training and transition."""
    phase_kimg = training_kimg + transition_kimg
    phase = math.floor(kimg / phase_kimg) if phase_kimg > 0 else 0
    faded = 0.0
    if transition_kimg > 0:
        faded = max(kimg - phase * phase_kimg - training_kimg, 0.0) / transition_kimg
    return float(max(initial_lod - phase - faded, 0.0))
