"""What changes while a training runs: level of detail, minibatch, learning rate, length of a tick."""

import math

from dnnlib.util import EasyDict

TICK_KIMG = {8: 28, 16: 24, 32: 20, 64: 16, 128: 12, 256: 8, 512: 6, 1024: 4}


def training_schedule(
        cur_nimg,                       # Images shown so far.
        resolution_log2,                # log2 of the dataset's resolution.
        lod_initial_resolution = None,  # Resolution that progressive growing starts with. None = no growing, full resolution throughout.
        lod_training_kimg      = 600,   # Thousands of images shown before each doubling of the resolution.
        lod_transition_kimg    = 600,   # Thousands of images shown while a new level fades in.
        minibatch_size_base    = 32,    # Images per update, all devices together.
        minibatch_size_dict    = None,  # Exceptions by resolution. None = none.
        minibatch_gpu_base     = 4,     # Images that one device handles at a time; gradients of several such parts are added up.
        minibatch_gpu_dict     = None,  # Exceptions by resolution. None = none.
        G_lrate_base           = 0.002, # Learning rate of the generator.
        G_lrate_dict           = None,  # Exceptions by resolution. None = none.
        D_lrate_base           = 0.002, # Learning rate of the discriminator.
        D_lrate_dict           = None,  # Exceptions by resolution. None = none.
        lrate_rampup_kimg      = 0,     # Thousands of images over which both learning rates rise from zero. 0 = full from the start.
        tick_kimg_base         = 4,     # Thousands of images between two reports.
        tick_kimg_dict         = None): # Exceptions by resolution. None = those of TICK_KIMG; {} = none.
    """State of the schedule after `cur_nimg` images.

    A phase of progressive growing is `lod_training_kimg` at a fixed resolution, then `lod_transition_kimg` of fading in the
    next one; lod falls by 1 over the fade (Karras et al. 2018, "Progressive Growing of GANs", section 2).

    Returns: EasyDict(kimg, lod, resolution, minibatch_size, minibatch_gpu, G_lrate, D_lrate, tick_kimg), where lod is a float,
    0.0 = full resolution, and the exceptions are looked up under the current resolution.
    """
    kimg = cur_nimg / 1000.0
    lod = 0.0
    if lod_initial_resolution is not None:
        initial_lod = resolution_log2 - math.floor(math.log2(lod_initial_resolution))
        lod = _level_of_detail(kimg, initial_lod, lod_training_kimg, lod_transition_kimg)
    resolution = 2 ** (resolution_log2 - math.floor(lod))
    rampup = min(kimg / lrate_rampup_kimg, 1.0) if lrate_rampup_kimg > 0 else 1.0

    def at_resolution(exceptions, base):
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


def _level_of_detail(kimg, initial_lod, training_kimg, transition_kimg):
    phase_kimg = training_kimg + transition_kimg
    phase = math.floor(kimg / phase_kimg) if phase_kimg > 0 else 0
    faded = 0.0
    if transition_kimg > 0:
        faded = max(kimg - phase * phase_kimg - training_kimg, 0.0) / transition_kimg
    return float(max(initial_lod - phase - faded, 0.0))
