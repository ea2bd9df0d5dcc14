"""Networks in pickles: `NetworkState`, and the `Reader` that allows them besides plain data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import Any

import numpy as np

from dnnlib.pickles.progan import fill_from_theano
from dnnlib.pickles.reader import DAMAGED, FOREIGN, GLOBALS, BoundedStream, Reader, Refusal, show

READ_VERSIONS = (2, 3, 4, 5)
WRITE_VERSION = 4  # The version that the original writes, and the lowest that its successors accept.

# What networks of version 5 have besides.
SHAPE_KEYS = ('input_shapes', 'output_shapes', 'input_names', 'output_names')

# Keys in the state of a network that only this project writes. The original and its successors read other keys by name.
DIGEST_KEY = 'sha256'
MODULE_KEY = 'build_module'

CHANGED = ('The file was damaged or modified after it was written: download or copy it again. '
           'A tool that changes weights must remove or renew the checksum.')


@dataclasses.dataclass(eq=False)
class NetworkState:
    """Contents of a pickled `dnnlib.tflib.network.Network`: in the file, that class with these fields as its state.

    Args:
        name:             Name of the network: 'G', 'D', 'Gs', 'G_synthesis', ...
        static_kwargs:    Keyword arguments that the network was built with: str -> number, str, bool, None, list, tuple
                          or dict.
        components:       Name -> NetworkState of the networks inside this one; {} = none. G has 'synthesis' and
                          'mapping'.
        build_func_name:  Name of the function that built it, without its module: 'G_main', 'D_stylegan2', ...
        variables:        List of (name, value) in the order of creation, without the variables of the components. Names
                          are local ('4x4/Conv/weight'); values are numpy arrays, or numpy scalars.
        version:          Version of the format. 2 and 3 have no components; 4 and 5 do. 2 and 3 are written as 4.
        build_module_src: Source code of the module that held the function. It is stored as text and never executed
                          here. The original executes it. Networks of this project have `import_line` there.
        build_module:     Name of that module, such as 'training.networks_stylegan2', which tells functions of one name
                          apart. '' = the file does not tell it.
        shapes:           Names and shapes of inputs and outputs in version 5, with the keys SHAPE_KEYS. None = unknown.
        origin:           What the file says about the training of the network, if it came from PyTorch; not written.
        augment_p:        Strength of the augmentation at the end of training, from 0 on, in the discriminator of a run
                          with augmentation. None = not known. Other readers ignore it.
    """
    name: str
    static_kwargs: dict[str, Any]
    components: dict[str, NetworkState]
    build_func_name: str
    variables: list[tuple[str, Any]]
    version: int = WRITE_VERSION
    build_module_src: str = ''
    build_module: str = ''
    shapes: dict[str, Any] | None = None
    origin: dict[str, Any] | None = None
    augment_p: float | None = None

    def digest(self, max_bytes: float = math.inf) -> str:
        """SHA-256 of the settings, names and weights, as 64 hexadecimal digits.

        It does not depend on how a pickle spells them. Components are represented by their keys, because each has a
        digest of its own.

        Args:
            max_bytes: Largest amount of data to go through. A small file can refer to one array a million times.

        Raises:
            Refusal: There is more data than `max_bytes`.
        """
        sha256 = hashlib.sha256()
        for piece in self._pieces():
            max_bytes -= len(piece)
            if max_bytes < 0:
                raise Refusal('describes more data than the file holds', FOREIGN)
            sha256.update(piece)
        return sha256.hexdigest()

    def _pieces(self):
        """Yield the bytes that the digest covers."""
        described = [self.version, self.name, self.static_kwargs, list(self.components), self.build_func_name,
                     self.build_module_src, len(self.variables)]
        if self.build_module:  # Digests of files that do not have it stay valid.
            described.append(self.build_module)
        # Settings are numbers, strings and containers of them. Of anything else only the type is covered.
        encoder = json.JSONEncoder(skipkeys=True, default=lambda value: type(value).__name__)
        for text in encoder.iterencode(described):
            yield text.encode()
        for name, value in self.variables:
            array = np.asarray(value, value.dtype.newbyteorder('<'), order='C')
            yield json.dumps([name, array.dtype.str, value.shape]).encode()
            yield array.reshape(-1).view(np.uint8).data  # Without a copy, because weights can be large.


def import_line(module: str) -> str:
    """Source code for `build_module_src` by which the original finds the functions of its own `module`."""
    return f'from {module} import *\n'


def module_in(state: dict[str, Any]) -> str:
    """Name of the module of the function that built a network, from the pickled state. '' = the state does not tell.

    The code of MSG-StyleGAN gave its networks the names of StyleGAN's. Only it stored num_inputs.
    """
    if MODULE_KEY not in state and 'num_inputs' in state:
        return 'training.' + ('networks_stylegan' if state.get('build_func_name') == 'G_mapping' else 'networks_msg')
    return state.get(MODULE_KEY, '')


_FIELD_TYPES = {'name': str, 'static_kwargs': dict, 'components': dict, 'build_func_name': str, 'variables': list,
                'version': int, 'build_module_src': str, MODULE_KEY: str}
_OPTIONAL_FIELDS = {MODULE_KEY}


class NetworkReader(Reader):
    """Reader of network pickles: plain data and `NetworkState`. Source code in the file remains text."""

    allowed = {
        **GLOBALS,
        'dnnlib.tflib.network.Network': 'make_network',
        'tfutil.Network':               'make_network',  # ProGAN, version 2.
        'network.Network':              'make_network',  # ProGAN in Theano, which has no version.
    }

    def __init__(self, stream: BoundedStream):
        super().__init__(stream)
        # Network, and the digest that the file has for it, by the id of the network. Files of others have none.
        self.digests: dict[int, tuple[NetworkState, Any]] = {}
        self.max_digested = 2**20 + 8 * stream.left  # JSON writes some characters as 6 bytes.

    def make_network(self) -> NetworkState:
        return NetworkState(name='', static_kwargs={}, components={}, build_func_name='', variables=[], version=0)

    def set_state(self, target: Any, state: Any) -> None:
        """Set the state of a network, array or type on the stack."""
        if isinstance(target, NetworkState):
            self._fill_network(target, state)
        else:
            super().set_state(target, state)

    def _fill_network(self, network, state):
        if type(state) is not dict:
            raise TypeError('state of a network is no dict')
        if 'version' not in state and 'build_func_spec' in state:
            fill_from_theano(network, state)
            return
        if state.get('version') not in READ_VERSIONS:
            raise Refusal(f'holds a network of version {show(state.get("version"))}; expected 2 to 5', FOREIGN)
        for name in _FIELD_TYPES:
            if name in state:
                setattr(network, name, state[name])
            elif name not in _OPTIONAL_FIELDS and (name != 'components' or state['version'] > 3):
                raise Refusal(f'holds a network without {name}', DAMAGED)
        if all(key in state for key in SHAPE_KEYS):
            network.shapes = {key: state[key] for key in SHAPE_KEYS}
        network.build_module = module_in(state)
        network.augment_p = state.get('augment_p')
        if DIGEST_KEY in state:
            self.digests[id(network)] = network, state[DIGEST_KEY]

    def check(self, value: Any, depth: int = 0) -> None:
        """As in `Reader`; also refuse incomplete networks."""
        if isinstance(value, NetworkState):
            self.check_size(depth)
            self._check_network(value, depth)
        else:
            super().check(value, depth)

    def _check_network(self, network, depth):
        if network.version not in READ_VERSIONS:
            raise Refusal('holds a network without contents', DAMAGED)
        for name, expected in _FIELD_TYPES.items():
            value = getattr(network, name)
            if not isinstance(value, expected):
                raise Refusal(f'holds a network whose {name} is a {type(value).__name__}, not a {expected.__name__}',
                              DAMAGED)
        if network.augment_p is not None and not (
                type(network.augment_p) is float and 0 <= network.augment_p < math.inf):
            raise Refusal(f'holds a network ({show(network.name)}) whose augment_p is no number from 0 on', DAMAGED)
        for part in (network.static_kwargs, network.components, network.variables, network.shapes):
            self.check(part, depth + 1)
        if not all(isinstance(component, NetworkState) for component in network.components.values()):
            raise Refusal(f'holds a network ({show(network.name)}) with a component that is no network', DAMAGED)
        for item in network.variables:
            if not (isinstance(item, (tuple, list)) and len(item) == 2 and type(item[0]) is str
                    and isinstance(item[1], (np.ndarray, np.generic))):
                raise Refusal(
                    f'holds a network ({show(network.name)}) with a variable that is no pair of name and array',
                    DAMAGED)
        network.static_kwargs = dict(network.static_kwargs)
        network.components = dict(network.components)
        network.variables = [tuple(item) for item in network.variables]
        _network, expected = self.digests.pop(id(network), (None, None))  # Once, even if there are many references.
        if expected is not None and expected != network.digest(self.max_digested):
            raise Refusal(f'holds a network ({show(network.name)}) whose weights or settings do not match its checksum',
                          CHANGED)
