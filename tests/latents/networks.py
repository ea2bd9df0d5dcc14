"""Small generators of every kind that has a W, with random weights that matter."""

import numpy as np

from training.nets.registry import create_network

_SIZES = dict(resolution=16, num_channels=3, fmap_base=64, fmap_max=8, latent_size=6, dlatent_size=6, mapping_fmaps=6,
              mapping_layers=2)

KINDS = {
    'config-a': ('G_style', {}),
    'config-d': ('G_main', dict(synthesis_func='G_synthesis_stylegan_revised')),
    'config-e': ('G_main', dict(architecture='orig')),
    'config-e-Gresnet': ('G_main', dict(architecture='resnet')),
    'config-f': ('G_main', dict(architecture='skip')),
    'msg': ('training.networks_msg.G_style', {}),
    'ada': ('G_main', dict(label_size=3, label_embed=True, conv_clamp=256, truncation_psi=1.0)),
}


def generator(kind, **settings):
    """A generator whose variables are all random, so that each has an effect on the images."""
    name, others = KINDS[kind]
    Gs = create_network('Gs', name, **{**_SIZES, **others, **settings})
    rnd = np.random.RandomState(0)
    for name, var in Gs.vars.items():
        if name != 'lod' and not name.endswith('/lod') and not name.endswith('weight'):
            var.assign(var.numpy() + 0.3 * rnd.randn(*var.shape))
    return Gs
