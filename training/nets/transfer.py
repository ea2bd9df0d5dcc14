"""The initial networks of a run: new ones, those of a pickle, or new ones with the layers of a pickle that fit."""

import re

from dnnlib import memory
from dnnlib.cli import UserError
from dnnlib.tflib.random import random_state_kept
from dnnlib.tflib.tfutil import has_gpu
from dnnlib.tflib.variables import count_variables
from training import misc
from training.nets import registry


def make_networks(training_set, G_args: dict, D_args: dict, resume_pkl: str | None = None,
                  saved: dict | None = None) -> tuple:
    """Create G, D and Gs for a training set.

    Args:
        training_set:   TFRecordDataset with the images and labels that the networks are for.
        G_args, D_args: func_name and settings of new networks.
        resume_pkl:     Network pickle to load instead, with its own settings. If it is for images of another size or
                        other labels, the layers that fit are copied and a report lists the others. None = new networks.
        saved:          Result of `describe`: create networks of that kind, whose values come from a checkpoint. None =
                        as the other arguments say.

    Returns:
        (G, D, Gs).

    Raises:
        UserError: The settings are invalid, or the pickle cannot be used.
    """
    shape = dict(num_channels=training_set.shape[0], resolution=training_set.resolution,
                 label_size=training_set.label_size)
    if saved is not None:
        G, D = (registry.create_network(name, **saved[name]) for name in 'GD')
        return G, D, G.clone('Gs')
    if resume_pkl is not None:
        print(f'Loading networks from "{resume_pkl}"...')
        networks = misc.load_networks(resume_pkl)
        if networks[0].origin is not None:
            print(_describe_origin(networks[0].origin))
        if 'style_mixing_prob' in G_args:  # It belongs to the training, not to the network.
            prob = G_args['style_mixing_prob']
            networks[0].kw.style_mixing_prob = networks[0]._net.static_kwargs['style_mixing_prob'] = prob
        shapes = [[None, *training_set.shape], [None, training_set.label_size]]
        fits = networks[1].input_shapes[-2:] == shapes  # A D of several inputs of images has the largest last.
        return networks if fits else _adapt(networks, shape)
    print('Constructing networks...')
    try:
        _require_memory(shape, G_args, D_args)
        G = registry.create_network('G', **shape, **G_args)
        D = registry.create_network('D', **shape, **D_args)
    except ValueError as err:
        raise UserError(f'cannot create the networks: {err}', 'Change the settings of the networks.') from err
    return G, D, G.clone('Gs')


def _describe_origin(origin):
    """Sentence on the training of networks from PyTorch: `Network.origin`. Values of the file are shown as ASCII."""
    dataset = (origin['training_set_kwargs'] or {}).get('path')
    pipe = origin['augment_pipe']
    p = pipe and pipe['p']
    return (f'They were trained with PyTorch, on {ascii(str(dataset)[:200]) if dataset else "an unknown dataset"}, '
            + ('without augmentation.' if pipe is None else
               'with augmentation.' if p is None else f'with augmentation at p = {p:.3f}.'))


def _require_memory(shape, G_args, D_args):
    """UserError if the weights alone need more memory than the machine has. GPUs have memory of their own."""
    if has_gpu():
        return
    # Initializers draw their seeds when they are made. These must not change the weights of the real networks.
    with random_state_kept():
        with count_variables(create=False) as G_count:
            registry.create_network('G', **shape, **G_args)
        with count_variables(create=False) as D_count:
            registry.create_network('D', **shape, **D_args)
    # Weights, gradients and the two moments of Adam; of G also the moving average Gs.
    memory.require(5 * G_count.num_bytes + 4 * D_count.num_bytes, 'Training networks of this size',
                   'Choose a smaller --fmap-max or --fmap-base.')


def describe(G, D) -> dict:
    """Describe networks as plain data, from which `make_networks` creates networks of the same kind."""
    return {name: dict(net.static_kwargs, func_name=f'{type(net).__module__}.{type(net).__name__}')
            for name, net in (('G', G), ('D', D))}


def _adapt(networks, shape):
    """Create G, D, Gs with the settings of `networks` but another `shape`, and copy the layers that fit."""
    (_, channels, size, _), (_, labels) = networks[1].input_shapes[-2:]
    print(f'The pickle is for {size}x{size} images of {channels} channels with {labels} labels, the training set has '
          f'{shape["resolution"]}x{shape["resolution"]} images of {shape["num_channels"]} channels with '
          f'{shape["label_size"]} labels.')
    G, D = (type(net)(net.name, **{**net.static_kwargs, **shape}) for net in networks[:2])
    Gs = G.clone('Gs')
    levels_more = shape['resolution'].bit_length() - size.bit_length()
    for source, target in zip(networks, (G, D, Gs), strict=True):
        copied, new, left = _copy_layers(source, target, levels_more)
        print(f'{target.name}: {len(copied)} layers copied. New, with random values: {", ".join(new) or "none"}. '
              f'Left out: {", ".join(left) or "none"}.')
    return G, D, Gs


def _copy_layers(source, target, levels_more):
    """Copy the values of all layers of `source` that have a layer of the same name and shapes in `target`.

    Layers whose names contain a level of detail, such as ToRGB_lod2, are matched by their resolution.

    Args:
        levels_more: log2(resolution of `target` / resolution of `source`).

    Returns:
        (names of the copied layers, other layers of `target`, other layers of `source`).
    """
    def renamed(name):
        return re.sub(r'(?<=_lod)\d+', lambda lod: str(int(lod[0]) + levels_more), name)

    def layers(net):
        """Layers of a network without the variable lod, which the schedule sets."""
        return {layer: variables for layer, variables in net.variables_by_layer().items()
                if layer.split('/')[-1] != 'lod'}

    sources = {renamed(layer): (layer, {renamed(name): var for name, var in variables.items()})
               for layer, variables in layers(source).items()}
    copied, new = [], []
    for layer, variables in layers(target).items():
        _, values = sources.get(layer, (None, {}))
        if {name: var.shape for name, var in variables.items()} == {name: var.shape for name, var in values.items()}:
            for name, var in variables.items():
                var.assign(values[name])
            copied.append(layer)
        else:
            new.append(layer)
    return copied, new, [original for layer, (original, _) in sources.items() if layer not in copied]
