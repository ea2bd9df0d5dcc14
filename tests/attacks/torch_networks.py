"""Writes network pickles of stylegan2-ada-pytorch without PyTorch, whole or with a part of one's own; hostile ones.

`snapshot` writes a file with tiny networks for 4x4 images. The entries of the tables are whole files that differ from
it in one part.
"""

import struct

import numpy as np

from tests.torch_files import Raw, code, whole

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
INFO = {'protocol_version': PROTOCOL, 'little_endian': True, 'type_sizes': {'short': 2, 'int': 4, 'long': 4}}
RUN = Raw(b'cos\nsystem\n' + code(('touch RAN',)) + b'R')
ORDERED_DICT = Raw(b'ccollections\nOrderedDict\n)R')


def blob(data):
    """Instructions for a byte string."""
    return Raw(b'B' + struct.pack('<I', len(data)) + data)


def call(name, *args):
    """Instructions for a call of 'module.function'."""
    module, function = name.rsplit('.', 1)
    return Raw(f'c{module}\n{function}\n'.encode() + code(args) + b'R')


def persistent_id(*parts):
    return Raw(code(parts) + b'Q')


def float_storage(key='7', numel=4, kind='torch\nFloatStorage', device='cpu', view=None):
    return persistent_id('storage', Raw(f'c{kind}\n'.encode()), key, device, numel, view)


def storage_bytes(data=None, obj=None, magic=MAGIC, protocol=PROTOCOL, info=None, keys=('7',), length=None, end=b''):
    """The byte string that holds a storage: four numbers unless said otherwise."""
    data = np.arange(4, dtype='<f4').tobytes() if data is None else data
    numel = len(data) // 4
    obj = float_storage(numel=numel) if obj is None else obj
    parts = [magic, protocol, INFO if info is None else info, obj, keys if isinstance(keys, Raw) else list(keys)]
    length = struct.pack('<q', numel if length is None else length)
    return b''.join(map(whole, parts)) + length + data + end


def tensor(array=None, storage=None, offset=0, shape=None, strides=None):
    """Instructions for a tensor."""
    array = np.arange(4, dtype=np.float32) if array is None else np.asarray(array, np.float32)
    storage = storage_bytes(np.ascontiguousarray(array).tobytes()) if storage is None else storage
    if isinstance(storage, bytes) and not isinstance(storage, Raw):
        storage = call('torch.storage._load_from_bytes', blob(storage))
    shape = array.shape if shape is None else shape
    strides = tuple(int(np.prod(array.shape[i + 1:])) for i in range(array.ndim)) if strides is None else strides
    return call('torch._utils._rebuild_tensor_v2', storage, offset, shape, strides, False, ORDERED_DICT)


def module(class_name, modules=None, parameters=None, buffers=None, meta=None, **attributes):
    """Instructions for a module."""
    state = {'training': False, '_parameters': parameters or {}, '_buffers': buffers or {}, '_modules': modules or {},
             '_non_persistent_buffers_set': call('builtins.set', []), **attributes}
    meta = {'type': 'class', 'version': 6, 'module_src': 'import os\nos.system("touch RAN")\n',
            'class_name': class_name, 'state': state, **(meta or {})}
    return call('torch_utils.persistence._reconstruct_persistent_obj', meta)


def layer(*shape, bias=None, **attributes):
    """A layer with a weight of this shape."""
    rnd = np.random.RandomState(sum(shape))
    parameters = {'weight': tensor(rnd.randn(*shape)), 'bias': tensor(np.zeros(shape[0] if bias is None else bias))}
    modules = attributes.pop('modules', None)
    return module('Layer', modules, parameters, activation='lrelu', conv_clamp=256, bias_gain=0.01, **attributes)


def generator(more=None, class_name='Generator', const=None, **attributes):
    conv = layer(6, 6, 3, 3, modules={'affine': layer(6, 5)}, use_noise=False)
    torgb = layer(3, 6, 1, 1, modules={'affine': layer(6, 5)})
    const = tensor(np.ones([6, 4, 4])) if const is None else const
    block = module('SynthesisBlock', {'conv1': conv, 'torgb': torgb}, {'const': const},
                   {'resample_filter': tensor(np.ones([4, 4]))}, architecture='skip')
    kwargs = {'channel_base': 24, 'channel_max': 6}
    synthesis = module('SynthesisNetwork', {'b4': block, **(more or {})}, _init_kwargs=kwargs)
    mapping = module('MappingNetwork', {'fc0': layer(5, 5), 'fc1': layer(5, 5)}, None, {'w_avg': tensor(np.zeros(5))},
                     num_layers=2, w_dim=5, w_avg_beta=0.995)
    return module(class_name, {'synthesis': synthesis, 'mapping': mapping}, **{
        'z_dim': 5, 'w_dim': 5, 'c_dim': 0, 'img_resolution': 4, 'img_channels': 3, **attributes})


def discriminator(more=None):
    layers = {'fromrgb': layer(6, 3, 1, 1), 'conv': layer(6, 6, 3, 3), 'fc': layer(6, 96), 'out': layer(1, 6)}
    epilogue = module('DiscriminatorEpilogue', {**layers, **(more or {})}, architecture='skip', mbstd=None, cmap_dim=0)
    return module('Discriminator', {'b4': epilogue}, _init_kwargs={'channel_base': 24, 'channel_max': 6},
                  c_dim=0, img_resolution=4, img_channels=3)


def snapshot(**changes):
    """A pickle with changed entries; None = left out."""
    p = module('AugmentPipe', None, None, {'p': tensor(np.float32(0.25))}, xflip=1.0, imgfilter_bands=[1, 1, 1, 1])
    entries = {'training_set_kwargs': {'path': 'cats.zip', 'resolution': 4}, 'G': None, 'D': None, 'G_ema': None,
               'augment_pipe': p, **changes}
    for name, maker in (('G', generator), ('D', discriminator), ('G_ema', generator)):
        if name not in changes:
            entries[name] = maker()
    return whole({name: value for name, value in entries.items() if value is not None})


def with_tensor(value):
    """A pickle with this in the place of a tensor."""
    return snapshot(G=generator(const=value))


def with_storage(**changes):
    """A pickle with a changed storage of four numbers."""
    return with_tensor(tensor(storage=storage_bytes(**changes)))


def nested_name(name):
    """A pickle that asks for this name inside a storage."""
    return with_storage(obj=Raw(f'c{name}\n'.encode()))


FOREIGN_NAMES = {  # Whole files, and the name that the message must contain.
    'call in the snapshot':      (snapshot(augment_pipe=RUN), 'os.system'),
    'call in the settings':      (snapshot(training_set_kwargs={'path': RUN}), 'os.system'),
    'call in a module':          (snapshot(G=generator(extra=RUN)), 'os.system'),
    'call for a tensor':         (with_tensor(RUN), 'os.system'),
    'call for module_src':       (snapshot(G=module('Generator', meta={'module_src': RUN})), 'os.system'),
    'call in a storage':         (with_storage(obj=RUN), 'os.system'),
    'call in the keys':          (with_storage(keys=RUN), 'os.system'),
    'call in the magic number':  (with_storage(magic=RUN), 'os.system'),
    'call in the system info':   (with_storage(info=RUN), 'os.system'),
    'call in a storage id':      (with_storage(obj=persistent_id('storage', RUN, '7', 'cpu', 4, None)), 'os.system'),
    'eval':                      (snapshot(augment_pipe=call('builtins.eval', 'open("RAN", "w")')), 'builtins.eval'),
    'torch.load':                (with_tensor(call('torch.load', 'RAN')), 'torch.load'),
    'other tensors':             (with_tensor(call('torch._utils._rebuild_qtensor', 1)), '_rebuild_qtensor'),
    'class of PyTorch':          (snapshot(D=call('torch.nn.modules.linear.Linear', 3, 3)), 'torch.nn'),
    'other function of modules': (snapshot(D=call('torch_utils.persistence.import_hook', 1)), 'import_hook'),
    'storage of doubles':        (nested_name('torch\nDoubleStorage'), 'torch.DoubleStorage'),
    'storage of integers':       (nested_name('torch\nLongStorage'), 'torch.LongStorage'),
    'numpy in a storage':        (nested_name('numpy\ndtype'), 'numpy.dtype'),
    'storage in a storage':      (with_storage(obj=call('torch.storage._load_from_bytes', blob(storage_bytes()))),
                                  'torch.storage._load_from_bytes'),
    'module in a storage':       (nested_name('torch_utils.persistence\n_reconstruct_persistent_obj'), 'persistence'),
    'network of TensorFlow in a storage': (nested_name('dnnlib.tflib.network\nNetwork'), 'Network'),
    'persistent id outside':     (snapshot(G=persistent_id('storage', '7')), 'BINPERSID'),
    'persistent id as text':     (with_storage(obj=Raw(b'Pos.system\n')), 'PERSID'),
    'INST in a storage':         (with_storage(obj=Raw(b"(S'touch RAN'\nios\nsystem\n")), 'os.system'),
}

REFUSED = {  # Allowed names, used in ways that no writer uses.
    'storage longer than its data':   with_storage(obj=float_storage(numel=5), length=5),
    'storage of another length':      with_storage(length=3),
    'storage shorter than its data':  with_storage(obj=float_storage(numel=3), length=3),
    'storage of negative length':     with_storage(obj=float_storage(numel=-1), length=-1),
    'storage of 2**59 numbers':       with_storage(obj=float_storage(numel=2**59), length=2**59),
    'storage of 2**70 numbers':       with_storage(obj=float_storage(numel=2**70)),
    'storage with bytes behind it':   with_storage(end=b'\0'),
    'storage without data':           with_storage(data=b'', obj=float_storage(), length=4),
    'storage with a view':            with_storage(obj=float_storage(view=('8', 0, 2))),
    'storage with another key':       with_storage(keys=['8']),
    'storage with two keys':          with_storage(keys=['7', '7']),
    'storage with numbers as keys':   with_storage(keys=[7]),
    'storage that is a number':       with_storage(obj=4),
    'storage id of three parts':      with_storage(obj=persistent_id('storage', '7', 4)),
    'id of something else':           with_storage(obj=persistent_id('module', '7', 4, 4, 4, None)),
    'another magic number':           with_storage(magic=MAGIC + 1),
    'another protocol':               with_storage(protocol=1002),
    'no byte order':                  with_storage(info={}),
    'storage that is text':           with_tensor(tensor(storage=call('torch.storage._load_from_bytes', 'abc'))),
    'storage that is empty':          with_tensor(tensor(storage=b'')),
    'tensor without storage':         with_tensor(tensor(storage=Raw(b'N'))),
    'offset beyond the storage':      with_tensor(tensor(offset=1)),
    'negative offset':                with_tensor(tensor(offset=-1)),
    'stride beyond the storage':      with_tensor(tensor(shape=(2, 2), strides=(3, 1))),
    'negative stride':                with_tensor(tensor(offset=3, strides=(-1,))),
    'stride of 2**59':                with_tensor(tensor(shape=(2,), strides=(2**59,))),
    'stride of zero':                 with_tensor(tensor(shape=(2**40,), strides=(0,))),
    'fewer strides than axes':        with_tensor(tensor(shape=(2, 2), strides=(1,))),
    'shape of 2**80 numbers':         with_tensor(tensor(shape=(2**40, 2**40), strides=(0, 0))),
    'shape of 40 axes':               with_tensor(tensor(shape=40 * (1,), strides=40 * (1,))),
    'shape that is a list':           with_tensor(tensor(shape=[4])),
    'parameter that is a number':     with_tensor(4),
    'parameter of a number':          with_tensor(call('torch._utils._rebuild_parameter', 4, False, ORDERED_DICT)),
    'tensor that is a storage':       with_tensor(call('torch.storage._load_from_bytes', blob(storage_bytes()))),
    'unknown tensor':                 snapshot(D=discriminator({'x': layer(2, 2)})),
    'module of another version':      snapshot(D=module('Discriminator', meta={'version': 5})),
    'module that is a function':      snapshot(D=module('Discriminator', meta={'type': 'function'})),
    'module with a number for state': snapshot(D=module('Discriminator', meta={'state': 5})),
    'module of a number':             snapshot(D=call('torch_utils.persistence._reconstruct_persistent_obj', 5)),
    'module without its parts':       snapshot(D=module('Discriminator')),
    'generator in the place of D':    snapshot(D=generator()),
    'another class':                  snapshot(G=generator(class_name='Decoder')),
    'networks in a list':             whole([generator(), discriminator(), generator()]),
    'no moving average':              snapshot(G_ema=None),
    'set of numbers':                 snapshot(G=generator(extra=call('builtins.set', [1]))),
    'text for a number':              snapshot(G=generator(z_dim='5')),
    'tables that are lists':          snapshot(G=generator(_parameters=[1])),
}

_STORAGE = code(call('torch.storage._load_from_bytes', blob(storage_bytes(bytes(2**20)))))
_CONST = tensor(storage=Raw(b'h\x01'), shape=(2**18,), strides=(1,))

BOMBS = {  # Small files that would take much time or memory, or end the process.
    'same bytes again and again':       b'\x80\x02' + blob(storage_bytes(bytes(2**20))) + b'q\x000]('
                                        + 10000 * b'ctorch.storage\n_load_from_bytes\nh\x00\x85R' + b'e.',
    'small storage again and again':    b'\x80\x02' + blob(storage_bytes(bytes(16))) + b'q\x000]('
                                        + 50000 * b'ctorch.storage\n_load_from_bytes\nh\x00\x85R' + b'e.',
    'same tensor under many names':     b'\x80\x02' + _STORAGE + b'q\x010' + _CONST + b'q\x020'
                                        + snapshot(G=module('Generator', parameters={
                                            f'p{i}': Raw(b'h\x02') for i in range(20000)}))[2:],
    'many instructions in a storage':   with_storage(obj=Raw(600_000 * b'N0' + b'N')),
    'doubling module':                  b'\x80\x02' + code(module('M')) + b'q\x000'
                                        + b''.join(code(module('M', {'a': Raw(b'h%c' % i), 'b': Raw(b'h%c' % i)}))
                                                   + b'q%c0' % (i + 1) for i in range(60)) + b'h\x3c.',
    'doubling list in a storage':       with_storage(obj=Raw(b']q\x000' + b''.join(
                                        b'](h%ch%ceq%c0' % (i, i, i + 1) for i in range(30)) + b'h\x1e')),
    'deep modules':                     b'\x80\x02' + code(module('M')) + b'q\x000'
                                        + b''.join(code(module('M', {'a': Raw(b'h\x00')})) + b'q\x000'
                                                   for i in range(3000)) + b'h\x00.',
    'module within itself':             b'\x80\x02}q\x010' + code(module('M', Raw(b'h\x01'))) + b'q\x020h\x01(X\x01'
                                        + b'\x00\x00\x00ah\x02u0h\x02.',
    'bytes of 2**40 in a storage':      with_storage(obj=Raw(b'\x8e' + struct.pack('<Q', 2**40) + b'ab')),
}
