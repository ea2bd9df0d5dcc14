"""The readers that are fuzzed, each with small valid files to begin with.

A target is a function of bytes that writes a file and reads it. It may raise UserError, and nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import shutil
import struct
import types
import zipfile
from collections.abc import Callable, Sequence

import google_crc32c
import numpy as np

from dnnlib.pickles import legacy_pickle, network_files, torch_weights
from dnnlib.pickles.network_state import NetworkState
from dnnlib.pickles.torch_networks import SnapshotReader
from latents import detection, directions, dlatents, editing
from tests import ROOT
from tests.attacks import npz, pickles, torch_networks
from training import misc
from training.data import image_labels, tfrecords
from training.run import checkpoint

_STATE = b'{"format": 1, "progress": {"cur_nimg": 0, "tick_start_nimg": 0, "sched_nimg": 0}}'
_NAMES = ['a/1.png', 'a/2.png', 'b/3.png']
_NOISE_SHAPES = [(1, 1, 4, 4), (1, 1, 8, 8)]


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader to fuzz.

    Args:
        read:      Function of (bytes, empty folder to write files to).
        seeds:     Valid files, and hostile ones from tests/attacks.
        fragments: Pieces to insert, or to make whole files of.
    """
    read: Callable[[bytes, pathlib.Path], object]
    seeds: Sequence[bytes]
    fragments: Sequence[bytes] = ()


def targets(folder: pathlib.Path) -> dict[str, Target]:
    """All targets by name. `folder`: an empty folder, to make the seeds in."""
    return {
        'network pickle':    Target(_read_pickle, [_network_pickle(folder), *pickles.NONSENSE.values()],
                                    _pickle_fragments()),
        'PyTorch networks':  Target(_read_pickle, [torch_networks.snapshot(), *torch_networks.REFUSED.values()],
                                    _pickle_fragments()),
        **{f'networks as {ending}': Target(_reader_of_networks(ending), [_networks(folder / f'seed{ending}')], _JSON)
           for ending in ('.npz', '.safetensors')},
        'PyTorch weights':   Target(_read_torch, [(ROOT / 'tests/data' / name).read_bytes()
                                                  for name in ('model.pth', 'model-old.pth')], _pickle_fragments()),
        'TFRecord file':     Target(_read_tfrecords, [_tfrecords()]),
        'image in a record': Target(_read_example, [_tfrecords()[12:-4]]),
        'dataset labels':    Target(_read_labels, [_npy(np.eye(3, dtype=dtype)) for dtype in ('f4', 'i8', 'f8')]),
        'names of classes':  Target(_read_classes, [b'["a", "b"]'], _JSON),
        'labels as JSON':    Target(_reader_of_image_labels('.json'), [
            json.dumps(dict(zip(_NAMES, labels))).encode() for labels in (['x', 'y', 'x'], [0, 1, 0], [[0.5], [1], [2]])
        ] + [json.dumps({'labels': [[name, 0] for name in _NAMES]}).encode()], _JSON),
        'labels as CSV':     Target(_reader_of_image_labels('.csv'), [
            '\n'.join(f'{name},{label}' for name in _NAMES).encode() for label in ('cat', '1', '0.5,2')]),
        'latents':           Target(_read_dlatents, [_saved(folder, _LATENTS, compressed)
                                                     for compressed in (False, True)]),
        **{f'latents: {name}': Target(_reader_of_array(_LATENTS, name, _read_dlatents), [_npy(array)])
           for name, array in _LATENTS.items()},
        'directions':        Target(_read_directions, [_saved(folder, _DIRECTIONS)]),
        **{f'directions: {name}': Target(_reader_of_array(_DIRECTIONS, name, _read_directions), [_npy(array)])
           for name, array in _DIRECTIONS.items()},
        'labels of latents': Target(_read_labels_of_latents, [b'seed0001,1\nface,0\n'], [b',', b'\n', b'"', b'\xff']),
        'state of a run':    Target(_read_state, [_STATE], _JSON),
        'sums of a run':     Target(_read_sums, [f'{_sha256(_STATE)}  state.json\n{_sha256(b"x")}  variables.index\n'
                                                 .encode()], [b'../', b'/dev/zero', b'/', b'  ', b'\n']),
        'distances of a run': Target(_read_distances, [
            b'name,set,distance\na,generated,0.5\nb,real,0.7\n'], [b'nan', b'1e999', b',', b'\n', b'"']),
    }


_JSON = [
    b'[',
    b']',
    b'{',
    b'}',
    b'"',
    b':',
    b',',
    b'null',
    b'1e999',
    b'NaN',
    b'-1',
    5000 * b'9',
    3000 * b'[',
    b'\\ud800',
]


# ---- Pickles ----

def _network_pickle(folder):
    network = NetworkState('G', {'resolution': 4, 'resample_kernel': [1, 3, 3, 1]}, {}, 'G_main',
                           [('lod', np.float32(0)), ('w', np.arange(6, dtype='f4').reshape(2, 3))])
    legacy_pickle.dump((network, dataclasses.replace(network, components={'mapping': network})), folder / 'seed.pkl')
    return (folder / 'seed.pkl').read_bytes()


def _pickle_fragments():
    numbers = [b'K\x00', b'K\x04', b'J\xff\xff\xff\x7f', b'\x8a\x09' + 8 * b'\xff' + b'\0', b'G\x7f\xf0' + bytes(6)]
    names = [pickles.short(name) for name in ('a', 'version', 'variables', 'sha256', 'latin1', 'f4')]
    calls = [b'c' + name.rsplit('.', 1)[0].encode() + b'\n' + name.rsplit('.', 1)[1].encode() + b'\n'
             for name in SnapshotReader.allowed]
    marks = [bytes([code]) for code in b'(.012NQR\x81\x85\x86\x87\x88\x89\x90\x93\x94)]}adestub']
    memo = [b'q\x00', b'h\x00', b'q\x01', b'h\x01']
    return [*numbers, *names, *calls, *marks, *memo, pickles.ARRAY, pickles.DTYPE, b'C\x04abcd', b'\x80\x04']


def _read_pickle(data, folder):
    (folder / 'net.pkl').write_bytes(data)
    legacy_pickle.load(folder / 'net.pkl')


def _networks(path):
    network_files.dump([NetworkState('G', {'resolution': 4}, {}, 'G_main', [('lod', np.float32(0)),
                                                                           ('w', np.ones([2, 3], np.float32))])], path)
    return path.read_bytes()


def _reader_of_networks(ending):
    def read(data, folder):
        (folder / f'net{ending}').write_bytes(data)
        network_files.load(folder / f'net{ending}')
    return read


def _read_torch(data, folder):
    (folder / 'model.pth').write_bytes(data)
    torch_weights.load(folder / 'model.pth')


# ---- Datasets ----

def _tfrecords():
    images = np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4)
    return tfrecords.encode_records(images).tobytes()


def _read_tfrecords(data, folder):
    (folder / 'd').mkdir()
    (folder / 'd/d-r02.tfrecords').write_bytes(data)
    for _ in tfrecords.read_all_levels(tfrecords.find_dataset(folder / 'd')):
        pass


def _read_example(data, folder):
    """The data of a record, whose checksums are right."""
    length = struct.pack('<Q', len(data))
    _read_tfrecords(length + _masked_crc(length) + data + _masked_crc(data), folder)


def _masked_crc(data):
    crc = google_crc32c.value(data)
    return struct.pack('<I', ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff)


def _npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _read_labels(data, folder):
    (folder / 'd-rxx.labels').write_bytes(data)
    tfrecords.load_labels(folder / 'd-rxx.labels', 3)


def _read_classes(data, folder):
    (folder / 'd-classes.json').write_bytes(data)
    tfrecords.load_class_names(folder / 'd-classes.json')


def _reader_of_image_labels(ending):
    def read(data, folder):
        path = folder / f'labels{ending}'
        path.write_bytes(data)
        image_labels.load(str(path), _NAMES)
    return read


# ---- Latents, distances ----

def _generator():
    synthesis = types.SimpleNamespace(input_shape=[None, 4, 3])
    return types.SimpleNamespace(components=types.SimpleNamespace(synthesis=synthesis))


_LATENTS = dict(w=np.ones([2, 4, 3], 'f4'), names=np.array(['a', 'b']), settings=np.asarray('{"a": 1}'),
                noise0=np.zeros([2, 1, 4, 4], 'f4'), noise1=np.zeros([2, 1, 8, 8], 'f4'))


_DIRECTIONS = dict(directions=np.ones([2, 3], 'f4'), layers=np.ones([2, 4], bool), sigmas=np.ones(2, 'f4'),
                   shares=np.ones(2, 'f4'), names=np.array(['a', '']), settings=np.asarray('{"a": 1}'))


def _reader_of_array(arrays, name, read_file):
    """Reader of one array of an .npz file, whose checksums are right. The other arrays are as they should be."""
    def read(data, folder):
        npz.write(folder / 'made.npz', {**{key: _npy(array) for key, array in arrays.items()}, name: data},
                  zipfile.ZIP_STORED)
        read_file((folder / 'made.npz').read_bytes(), folder)
    return read


def _saved(folder, arrays, compressed=False):
    (np.savez_compressed if compressed else np.savez)(folder / 'seed.npz', **arrays)
    return (folder / 'seed.npz').read_bytes()


def _read_directions(data, folder):
    (folder / 'd.npz').write_bytes(data)
    directions.load(folder / 'd.npz')


def _read_labels_of_latents(data, folder):
    (folder / 'labels.csv').write_bytes(data)
    editing.read_labels(str(folder / 'labels.csv'))


def _read_dlatents(data, folder):
    (folder / 'd.npz').write_bytes(data)
    noise_variables = misc.noise_variables
    misc.noise_variables = lambda Gs: [types.SimpleNamespace(shape=shape) for shape in _NOISE_SHAPES]
    try:
        dlatents.load(folder / 'd.npz', _generator())  # pyright: ignore[reportArgumentType]  (a stand-in)
    finally:
        misc.noise_variables = noise_variables


def _read_distances(data, folder):
    (folder / 'distances.csv').write_bytes(data)
    detection.read_csv(folder / 'distances.csv')


# ---- Run folders ----

def _sha256(data):
    return hashlib.sha256(data).hexdigest()


def _write_run(folder, state, sums):
    path = folder / '00000-run/checkpoints/kimg-000000.000'
    path.mkdir(parents=True)
    (path / 'state.json').write_bytes(state)
    (path / 'variables.index').write_bytes(b'x')
    (path / 'sha256sums.txt').write_bytes(sums)
    checkpoint.find('latest', os.fspath(folder), 'run')


def _read_state(data, folder):
    """state.json whose checksum is right."""
    _write_run(folder, data, f'{_sha256(data)}  state.json\n{_sha256(b"x")}  variables.index\n'.encode())


def _read_sums(data, folder):
    _write_run(folder, _STATE, data)


def empty(folder: pathlib.Path) -> pathlib.Path:
    """Remove all that a target wrote."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder
