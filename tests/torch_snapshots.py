"""Writes networks as a network pickle of stylegan2-ada-pytorch, without PyTorch: the inverse of what is read."""

import re

from tests.attacks.torch_networks import module, tensor
from tests.torch_files import whole

_LAYERS = {'Conv': 'conv1', 'Conv0_up': 'conv0', 'Conv1': 'conv1', 'ToRGB': 'torgb', 'Skip': 'skip'}
_D_LAYERS = {'FromRGB': 'fromrgb', 'Conv0': 'conv0', 'Conv1_down': 'conv1', 'Skip': 'skip', 'Conv': 'conv',
             'Dense0': 'fc'}


def snapshot_of(G, D, Gs):
    """Bytes of a pickle with G_main, D_stylegan2 and G_main with `label_embed`."""
    networks = {'G': _generator(G), 'D': _discriminator(D), 'G_ema': _generator(Gs)}
    return whole({'training_set_kwargs': {'path': 'data.zip'}, **networks, 'augment_pipe': None})


def _kwargs(kw):
    return {'channel_base': kw.fmap_base * 2, 'channel_max': kw.fmap_max, 'num_fp16_res': kw.num_fp16_res}


def _values(net):
    return {name: var.numpy() for name, var in net.vars.items()}


def _generator(net):
    synthesis, mapping = net.components.synthesis.kw, net.components.mapping.kw
    modules: dict = {}  # Path -> {name: value}.
    for name, x in _values(net).items():
        match name.split('/'):
            case ['lod']:
                continue
            case ['dlatent_avg']:
                path, var = 'mapping', 'w_avg'
            case ['G_mapping', layer, var]:
                path, x = f'mapping.{_mapping_layer(layer)}', x.T
            case ['G_synthesis', noise]:
                idx = int(noise.removeprefix('noise'))
                path, var, x = f'synthesis.b{2 ** ((idx + 5) // 2)}.conv{(idx + 1) % 2}', 'noise_const', x[0, 0]
            case ['G_synthesis', '4x4', 'Const', 'const']:
                path, var, x = 'synthesis.b4', 'const', x[0]
            case ['G_synthesis', size, layer, var]:
                path = f'synthesis.b{size.split("x")[0]}.{_LAYERS[layer]}'
                if var.startswith('mod_'):
                    path, var = f'{path}.affine', var.removeprefix('mod_')
                    x = x.T if var == 'weight' else x + 1
                elif var == 'weight':
                    x = (x[::-1, ::-1] if layer == 'Conv0_up' else x).transpose(3, 2, 0, 1)
        modules.setdefault(path, {})[var] = x
    return _tree(modules, {
        '': dict(class_name='Generator', z_dim=mapping.latent_size, c_dim=mapping.label_size,
                 w_dim=mapping.dlatent_size, img_resolution=synthesis.resolution,
                 img_channels=synthesis.num_channels),
        'synthesis': dict(_init_kwargs=_kwargs(synthesis)),
        r'synthesis\.b\d+': dict(architecture=synthesis.architecture),
        r'synthesis\.b\d+\.\w+': dict(activation=synthesis.nonlinearity, conv_clamp=synthesis.conv_clamp,
                                      use_noise=synthesis.use_noise),
        'mapping': dict(num_layers=mapping.mapping_layers, w_avg_beta=net.kw.dlatent_avg_beta,
                        w_dim=mapping.dlatent_size),
        r'mapping\.\w+': dict(activation=mapping.mapping_nonlinearity, bias_gain=mapping.mapping_lrmul)})


def _discriminator(net):
    kw, modules = net.kw, {}
    for name, x in _values(net).items():
        match name.split('/'):
            case ['Output', var]:
                path, x = 'b4.out', x.T
            case [layer, var]:
                path, x = f'mapping.{_mapping_layer(layer)}', x.T
            case [size, layer, var]:
                path = f'b{size.split("x")[0]}.{_D_LAYERS[layer]}'
                x = x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T
        modules.setdefault(path, {})[var] = x
    modules['b4.mbstd'] = {}
    return _tree(modules, {
        '': dict(class_name='Discriminator', c_dim=kw.label_size, img_resolution=kw.resolution,
                 img_channels=kw.num_channels, _init_kwargs=_kwargs(kw)),
        'b4': dict(architecture=kw.architecture, cmap_dim=kw.cmap_dim or kw.mapping_fmaps or 0),
        r'b\d+\.\w+': dict(activation=kw.nonlinearity, conv_clamp=kw.conv_clamp, group_size=kw.mbstd_group_size,
                           num_channels=kw.mbstd_num_features),
        'mapping': dict(num_layers=kw.mapping_layers, w_dim=kw.mapping_fmaps),
        r'mapping\.\w+': dict(activation=kw.mapping_nonlinearity, bias_gain=kw.mapping_lrmul)})


def _mapping_layer(layer):
    return 'embed' if layer == 'LabelEmbed' else 'fc' + re.sub(r'\D', '', layer)


def _tree(modules, attributes, path=''):
    """Instructions for the module at `path`, with its variables, attributes, and the modules below it."""
    below = {name.removeprefix(f'{path}.' if path else '').split('.')[0]
             for name in modules if name.startswith(f'{path}.' if path else '')}
    children = {name: _tree(modules, attributes, f'{path}.{name}' if path else name) for name in sorted(below)}
    own = next((values for pattern, values in attributes.items() if re.fullmatch(pattern, path)), {})
    parameters = {name: tensor(x) for name, x in modules.get(path, {}).items()}
    class_name = own.get('class_name', 'Layer')
    return module(class_name, children, parameters, **{key: x for key, x in own.items() if key != 'class_name'})
