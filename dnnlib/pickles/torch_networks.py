"""Reads the network pickles of StyleGAN2's successors in PyTorch, without PyTorch and without running code from them.

These are stylegan2-ada-pytorch, and stylegan3 in its configuration `stylegan2`. Such a file is a dictionary with the
networks G, D and G_ema, the settings of the training set, and the augmentation pipe. Every network is a tree of
modules. A module is stored as the source code of its class, which is ignored here, the name of the class, and its
attributes. Every tensor has a storage of its own: a byte string in the old format of PyTorch, which contains pickles
again (dnnlib/pickles/torch_weights.py).

`SnapshotReader` reads both these pickles and those of TensorFlow. `to_networks` translates the modules to the networks
of this project. They become views of the tensors, so that nothing is copied.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from dnnlib.pickles import torch_weights
from dnnlib.pickles.network_state import NetworkReader, NetworkState
from dnnlib.pickles.reader import DAMAGED, BoundedStream, Global, Refusal, show
from dnnlib.pickles.torch_weights import Storage, StorageReader

EXPECTED = ('Expected a network-snapshot-*.pkl of stylegan2-ada-pytorch, or of stylegan3 with --cfg=stylegan2. '
            'No code in the file was run.')

_FORMAT_VERSION = 6        # Of a stored module.
_STORAGE_OPCODES = 200     # Instructions of each pickle of a storage; PyTorch writes about 30.
_DEFAULT_FILTER = [1, 3, 3, 1]


@dataclasses.dataclass(eq=False)
class TorchModule:
    """A module as it is stored: the name of its class, and its attributes."""
    class_name: str
    state: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _LoadedStorage:
    """The numbers of a storage, in the given byte order."""
    storage: Storage
    data: np.ndarray    # uint8.
    order: str


class _FloatReader(StorageReader):
    """Reader of the pickle that describes the storage of a tensor."""

    allowed = {'torch.FloatStorage': 'make_nothing'}

    def check(self, value: Any, depth: int = 0) -> None:
        if not isinstance(value, Storage):
            raise Refusal('has a tensor whose numbers are no storage', EXPECTED)


class SnapshotReader(NetworkReader):
    """Reader of network pickles of TensorFlow and PyTorch.

    Attributes:
        has_modules: Did the pickle contain a module of PyTorch?
    """

    allowed = {
        **NetworkReader.allowed,
        'torch_utils.persistence._reconstruct_persistent_obj': 'make_module',
        'torch._utils._rebuild_tensor_v2':                     'make_tensor',
        'torch._utils._rebuild_parameter':                     'make_parameter',
        'torch.storage._load_from_bytes':                      'make_storage',
        'builtins.set':                                        'make_empty_set',
    }

    def __init__(self, stream: BoundedStream):
        super().__init__(stream)
        self.has_modules = False
        # The pickles at the beginning of a storage are the same for all, and are read only once.
        self._beginning, self._order = b'', ''

    def execute_object_opcode(self, name: str, arg: Any) -> None:
        """As in `Reader`, with empty sets, for which there is an instruction of its own since protocol 4."""
        if name == 'EMPTY_SET':
            self.stack.append(self.make_empty_set())
        else:
            super().execute_object_opcode(name, arg)

    def check(self, value: Any, depth: int = 0) -> None:
        """As in `NetworkReader`, also inside modules."""
        if isinstance(value, TorchModule):
            self.check_size(depth)
            self.check(value.state, depth + 1)
        else:
            super().check(value, depth)

    def take_bytes(self, view: memoryview) -> Any:
        """Arguments of `make_storage` stay views. Anything else, such as the weights of TensorFlow, needs bytes."""
        stack = self.stack or (self.outer_stacks or [[]])[-1]  # Arguments may begin with a MARK.
        return view if stack[-1:] == [Global('torch.storage._load_from_bytes')] else super().take_bytes(view)

    # ---- Meaning of the allowed names ----

    def make_module(self, meta: Any) -> TorchModule:
        if not isinstance(meta, dict) or meta.get('type') != 'class':
            raise Refusal('holds a PyTorch object that is no module', EXPECTED)
        if meta.get('version') != _FORMAT_VERSION:
            raise Refusal(f'holds a module of version {show(meta.get("version"))}; expected {_FORMAT_VERSION}',
                          EXPECTED)
        if type(meta.get('class_name')) is not str or not isinstance(meta.get('state'), dict):
            raise Refusal('holds a module without name or state', DAMAGED)
        self.has_modules = True
        return TorchModule(meta['class_name'], meta['state'])

    def make_empty_set(self, items: Any = ()) -> tuple:
        """The names of buffers that are not stored, of which these networks have none."""
        if type(items) not in (list, tuple) or items:
            raise Refusal('holds a set that is not empty', EXPECTED)
        return ()

    def make_storage(self, data: Any) -> _LoadedStorage:
        if not isinstance(data, (bytes, memoryview)):
            raise TypeError('storage of a tensor is no byte string')
        self.count_bytes(data)
        # A storage has few instructions, each of which takes time; the file can refer to it again and again.
        self.count_values(_STORAGE_OPCODES)
        numbers = np.frombuffer(data, np.uint8)
        stream = BoundedStream(data)
        if self._beginning and data[:len(self._beginning)] == self._beginning:
            stream.read(len(self._beginning))
        else:
            self._order = torch_weights.read_order(stream, _STORAGE_OPCODES)
            self._beginning = bytes(data[:stream.position])
        order = self._order
        storage, storages, end = torch_weights.read_old(stream, numbers, order, _FloatReader, _STORAGE_OPCODES)
        if end != len(data):
            raise Refusal(f'has a storage of {len(data)} bytes, expected {end}', DAMAGED)
        return _LoadedStorage(storage, storages.get(storage.key, numbers[:0]), order)

    def make_tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_options: Any) -> np.ndarray:
        if not isinstance(storage, _LoadedStorage):
            raise TypeError('tensor without storage')
        tensor = torch_weights.make_tensor(storage.storage, offset, shape, strides)
        return torch_weights.view_of(tensor, storage.data, storage.order, f'of shape {str(shape)[:100]}')

    def make_parameter(self, tensor: Any, *_options: Any) -> np.ndarray:
        if not isinstance(tensor, np.ndarray):
            raise TypeError('parameter without tensor')
        return tensor


# ---- From modules to networks ----

def to_networks(snapshot: Any, max_bytes: int) -> tuple[NetworkState, NetworkState, NetworkState]:
    """Translate the contents of a PyTorch pickle.

    Args:
        snapshot:  What `SnapshotReader` has read and checked.
        max_bytes: Largest size of all tensors. A small file can refer to one tensor a million times.

    Returns:
        (G, D, Gs) as `NetworkState`; Gs is G_ema. Their `origin` is a dict with the settings of the training set
        (training_set_kwargs), and of the augmentation pipe with its probability p (augment_pipe; None = no pipe).

    Raises:
        Refusal: It holds something else.
    """
    keys = list(snapshot) if isinstance(snapshot, dict) else []
    missing = [key for key in ('G', 'D', 'G_ema') if key not in keys]
    if missing:
        found = ', '.join(show(key) for key in keys[:8]) if keys else type(snapshot).__name__
        raise Refusal(f'holds PyTorch modules, but no {missing[0]}; found {found}', EXPECTED)
    pipe, kwargs = snapshot.get('augment_pipe'), snapshot.get('training_set_kwargs')
    origin = dict(training_set_kwargs=dict(kwargs) if isinstance(kwargs, dict) else None,
                  augment_pipe=_augmentation(pipe) if isinstance(pipe, TorchModule) else None)
    left = [max_bytes]
    networks = (_generator(snapshot['G'], 'G', left), _discriminator(snapshot['D'], 'D', left),
                _generator(snapshot['G_ema'], 'Gs', left))
    for network in networks:
        network.origin = origin
    return networks


def _generator(module, name, left):
    _require_class(module, 'Generator', name)
    synthesis, mapping = _child(module, 'synthesis'), _child(module, 'mapping')
    if 'input' in _children(synthesis):
        raise Refusal('holds a generator of StyleGAN3 (configuration stylegan3-t or stylegan3-r)',
                      'Only networks of StyleGAN2, StyleGAN2-ADA, and of stylegan3 with --cfg=stylegan2 can be opened.')
    conv, kwargs = _child(synthesis, 'b4', 'conv1'), _init_kwargs(synthesis)
    dlatent_size, resolution = _get(module, 'w_dim', int), _get(module, 'img_resolution', int)
    last = _child(synthesis, f'b{resolution}')
    settings = dict(
        num_channels=_get(module, 'img_channels', int), resolution=resolution, label_size=_get(module, 'c_dim', int),
        latent_size=_get(module, 'z_dim', int), dlatent_size=dlatent_size,
        **_mapping_settings(mapping), mapping_fmaps=_mapping_width(mapping, dlatent_size),
        dlatent_avg_beta=_get(mapping, 'w_avg_beta', (float, int, type(None))),
        **_image_settings(kwargs, conv, sum(_is_half(block) for block in _children(synthesis).values())),
        architecture=_get(last, 'architecture', str), use_noise=_get(conv, 'use_noise', bool),
        truncation_psi=1.0)  # The default of the generator's `forward`.
    parts: dict[str, list] = {'synthesis': [], 'mapping': [], 'G': [('lod', np.float32(0))]}
    for old, tensor in _tensors(module, left):
        part, *translated = _translate_generator(old, tensor)
        if translated:
            parts[part].append(tuple(translated))
    components = {
        'synthesis': NetworkState('G_synthesis', settings, {}, 'G_synthesis_stylegan2', parts['synthesis']),
        'mapping': NetworkState('G_mapping', settings, {}, 'G_mapping', parts['mapping'])}
    return NetworkState(name, settings, components, 'G_main', parts['G'])


def _discriminator(module, name, left):
    _require_class(module, 'Discriminator', name)
    last, conv = _child(module, 'b4'), _child(module, 'b4', 'conv')
    resolution, label_size = _get(module, 'img_resolution', int), _get(module, 'c_dim', int)
    blocks = {key: block for key, block in _children(module).items() if re.fullmatch(r'b\d+', key) and key != 'b4'}
    first = _child(blocks[f'b{resolution}'], 'conv0') if f'b{resolution}' in blocks else conv
    fmaps = _weight(conv).shape[0]
    settings: dict[str, Any] = dict(
        num_channels=_get(module, 'img_channels', int), resolution=resolution, label_size=label_size,
        **_image_settings(_init_kwargs(module), first, sum(map(_is_half, blocks.values()))),
        architecture=_get(last, 'architecture', str), mbstd_group_size=0, label_embed=True)
    if fmaps != min(int(settings['fmap_base']), settings['fmap_max']):
        settings['dense_fmaps'] = fmaps
    if _get(conv, 'activation', str) != settings['nonlinearity']:
        settings['epilogue_nonlinearity'] = _get(conv, 'activation', str)
    block_kwargs = _init_kwargs(module).get('block_kwargs')
    if isinstance(block_kwargs, dict) and 'resample_filter' in block_kwargs:
        settings['resample_kernel'] = _filter(block_kwargs['resample_filter'])
    mbstd = _children(last).get('mbstd')
    if isinstance(mbstd, TorchModule):
        settings.update(mbstd_group_size=_get(mbstd, 'group_size', (int, type(None))),
                        mbstd_num_features=_get(mbstd, 'num_channels', int))
        if settings['mbstd_group_size'] == 1:
            raise Refusal('holds a discriminator with minibatch_stddev over single images', EXPECTED)
    if label_size:
        mapping, cmap_dim = _child(module, 'mapping'), _get(last, 'cmap_dim', int)
        settings.update(_mapping_settings(mapping), mapping_fmaps=_mapping_width(mapping, cmap_dim), cmap_dim=cmap_dim)
    else:
        # The labels of another training set get the usual mapping.
        settings.update(mapping_layers=8, mapping_lrmul=0.01, mapping_fmaps=fmaps)
    variables = [_translate_discriminator(*item) for item in _tensors(module, left)]
    return NetworkState(name, settings, {}, 'D_stylegan2', [item for item in variables if item])


def _image_settings(kwargs, conv, num_fp16_res):
    """Settings of a network on images, from its arguments and a convolution."""
    numbers = {'channel_base': 32768, 'channel_max': 512, 'num_fp16_res': num_fp16_res}
    for name, default in numbers.items():
        numbers[name] = kwargs.get(name, default)
        if type(numbers[name]) is not int:
            raise Refusal(f'has {name} {show(numbers[name])}; expected an int', EXPECTED)
    channel_base = numbers['channel_base']
    return dict(
        fmap_base=channel_base // 2 if channel_base % 2 == 0 else channel_base / 2,
        fmap_max=numbers['channel_max'], num_fp16_res=numbers['num_fp16_res'],
        conv_clamp=_get(conv, 'conv_clamp', (int, float, type(None))), nonlinearity=_get(conv, 'activation', str),
        resample_kernel=_filter(kwargs.get('resample_filter', _DEFAULT_FILTER)))


def _filter(taps):
    """resample_filter -> resample_kernel. None is one tap there, and a box here."""
    return [1] if taps is None else taps


def _mapping_settings(mapping):
    """Settings of a network that maps labels."""
    num_layers, embed = _get(mapping, 'num_layers', int), _children(mapping).get('embed')
    settings: dict[str, Any] = dict(
        mapping_layers=num_layers, label_embed=True,
        label_fmaps=_weight(embed).shape[0] if isinstance(embed, TorchModule) else _get(mapping, 'w_dim', int))
    if num_layers:
        layer = _child(mapping, 'fc0')
        settings.update(mapping_lrmul=_get(layer, 'bias_gain', (float, int)),
                        mapping_nonlinearity=_get(layer, 'activation', str))
    return settings


def _mapping_width(mapping, default):
    """Width of the hidden layers of a mapping network; `default` if it has one layer."""
    return _weight(_child(mapping, 'fc0')).shape[0] if _get(mapping, 'num_layers', int) > 1 else default


def _augmentation(pipe):
    """Settings of an augmentation pipe, and its probability p: name -> number or list."""
    settings = {name: value for name, value in pipe.state.items()
                if not name.startswith('_') and isinstance(value, (int, float, list)) and name != 'training'}
    p = _dict(pipe, '_buffers').get('p')
    return {**settings, 'p': float(p) if isinstance(p, np.ndarray) and p.size == 1 else None}


# ---- Names and values of variables ----

_SYNTHESIS_LAYERS = {'conv0': 'Conv0_up', 'conv1': 'Conv1', 'torgb': 'ToRGB', 'skip': 'Skip'}
_DISCRIMINATOR_LAYERS = {'fromrgb': 'FromRGB', 'conv0': 'Conv0', 'conv1': 'Conv1_down', 'skip': 'Skip',
                         'conv': 'Conv', 'fc': 'Dense0'}


def _translate_generator(name, x):
    """Variable of a generator -> (part, name, value), or (part,) if there is none.

    The part is a component, or 'G' for the generator itself.
    """
    match name.split('.'):
        case ['mapping', 'w_avg']:
            return 'G', 'dlatent_avg', x
        case ['mapping', layer, ('weight' | 'bias') as var]:
            return 'mapping', f'{_mapping_layer(layer, "Dense", name)}/{var}', _dense(x)
        case ['synthesis', 'b4', 'const']:
            return 'synthesis', '4x4/Const/const', x[np.newaxis]
        case ['synthesis', *_, 'resample_filter']:
            return 'synthesis',
        case ['synthesis', block, layer, *var] if re.fullmatch(r'b\d{1,5}', block) and layer in _SYNTHESIS_LAYERS:
            size = int(block[1:])
            scope = f'{size}x{size}/' + ('Conv' if (size, layer) == (4, 'conv1') else _SYNTHESIS_LAYERS[layer])
            match var:
                case ['weight']:
                    # The convolution that upsamples is a true one here, and a correlation there.
                    x = _conv(x)
                    return 'synthesis', f'{scope}/weight', x[::-1, ::-1] if layer == 'conv0' else x
                case ['bias' | 'noise_strength']:
                    return 'synthesis', f'{scope}/{var[0]}', x
                case ['affine', 'weight']:
                    return 'synthesis', f'{scope}/mod_weight', _dense(x)
                case ['affine', 'bias']:
                    return 'synthesis', f'{scope}/mod_bias', x - 1
                case ['noise_const']:
                    return 'synthesis', f'noise{2 * size.bit_length() - (7 if layer == "conv0" else 6)}', x[None, None]
    raise Refusal(f'holds a generator with an unknown tensor {show(name)}', EXPECTED)


def _translate_discriminator(name, x):
    """Variable of a discriminator -> (name, value), or None if there is none."""
    match name.split('.'):
        case [*_, 'resample_filter']:
            return None
        case ['mapping', layer, ('weight' | 'bias') as var]:
            return f'{_mapping_layer(layer, "Mapping", name)}/{var}', _dense(x)
        case ['b4', 'out', ('weight' | 'bias') as var]:
            return f'Output/{var}', _dense(x)
        case [block, layer, ('weight' | 'bias') as var] if (re.fullmatch(r'b\d{1,5}', block)
                                                           and layer in _DISCRIMINATOR_LAYERS):
            return (f'{block[1:]}x{block[1:]}/{_DISCRIMINATOR_LAYERS[layer]}/{var}',
                    _conv(x) if x.ndim == 4 else _dense(x))
    raise Refusal(f'holds a discriminator with an unknown tensor {show(name)}', EXPECTED)


def _mapping_layer(layer, prefix, name):
    """'embed' -> 'LabelEmbed', 'fc0' -> prefix + '0'."""
    if layer == 'embed':
        return 'LabelEmbed'
    if not re.fullmatch(r'fc\d{1,3}', layer):
        raise Refusal(f'holds a mapping network with an unknown tensor {show(name)}', EXPECTED)
    return prefix + layer[2:]


def _dense(x):
    """[out, in] -> [in, out]. Biases stay as they are."""
    return x.T


def _conv(x):
    """[out, in, kh, kw] -> [kh, kw, in, out]."""
    if x.ndim != 4:
        raise Refusal(f'has a convolution of shape {x.shape}; expected four axes', DAMAGED)
    return x.transpose(2, 3, 1, 0)


# ---- Parts of a module ----

def _tensors(module: TorchModule, left: list[int], prefix: str = '') -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, value) of the parameters and buffers of a module and of those inside.

    Args:
        module: Module.
        left:   List with the number of bytes that may still be listed. It is decreased.
        prefix: Prepended to the names.
    """
    for table in ('_parameters', '_buffers'):
        for name, value in _dict(module, table).items():
            if value is None:  # Such as the bias of a layer without one.
                continue
            if not isinstance(value, np.ndarray):
                raise Refusal(f'has {show(prefix + name)} of type {type(value).__name__} among its tensors', EXPECTED)
            left[0] -= value.nbytes
            if left[0] < 0:
                raise Refusal('describes more tensors than the file holds', EXPECTED)
            yield prefix + name, value
    for name, child in _children(module).items():
        yield from _tensors(child, left, f'{prefix}{name}.')


def _require_class(module, class_name, name):
    if not isinstance(module, TorchModule):
        raise Refusal(f'holds {name} of type {type(module).__name__}; expected a module', EXPECTED)
    if module.class_name != class_name:
        raise Refusal(f'holds {name} of class {show(module.class_name)}; expected {class_name}', EXPECTED)


def _dict(module, name):
    value = module.state.get(name, {})
    if not isinstance(value, dict):
        raise Refusal(f'has a module ({show(module.class_name)}) whose {name} is a {type(value).__name__}', DAMAGED)
    return value


def _children(module) -> dict[str, TorchModule]:
    """The modules inside a module, by name."""
    return {name: child for name, child in _dict(module, '_modules').items() if isinstance(child, TorchModule)}


def _child(module, *path):
    for name in path:
        children = _children(module)
        if name not in children:
            raise Refusal(f'has a module ({show(module.class_name)}) without {name}', EXPECTED)
        module = children[name]
    return module


def _get(module, name, kinds):
    """Attribute of a module."""
    value = module.state.get(name)
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, kinds):
        raise Refusal(f'has a module ({show(module.class_name)}) with {name} {show(value)}', EXPECTED)
    return value


def _init_kwargs(module):
    """The arguments with which a module was created."""
    return _dict(module, '_init_kwargs')


def _is_half(block):
    return block.state.get('use_fp16') is True


def _weight(layer):
    value = _dict(layer, '_parameters').get('weight', _dict(layer, '_buffers').get('weight'))
    if not isinstance(value, np.ndarray) or not value.ndim:
        raise Refusal(f'has a layer ({show(layer.class_name)}) without weights', EXPECTED)
    return value
