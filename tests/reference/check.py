"""Compare our feature networks with the outputs of other implementations: python -m tests.reference.check

FOLDER is what tests/reference/torch_outputs.py wrote. Every comparison is to 1e-4 of the largest value. With --update,
what the quick tests compare with (tests/data) is written anew: the outputs, and small files of PyTorch. Without, the
outputs must be those of the references.
"""

import argparse
import itertools
import pathlib
import shutil
import sys

import numpy as np

import dnnlib.tflib  # noqa: F401  Before anything else imports TensorFlow, for a quiet start.

# isort: split
from dnnlib.pickles import torch_weights
from metrics import feature_networks
from metrics.features import efficientnet, inception, vgg16
from tests import DATA, random_weights
from tests.golden import assert_close

RTOL = 1e-4
GOLDEN = DATA / 'feature_networks.npz'
GOLDEN_NAMES = ('inception_features', 'inception_softmax', 'lpips', 'lpips_gradient', 'efficientnet_lite0')
SMALL_FILES = {'odd': ('odd.pth', 'odd-old.pth'), 'model': ('model.pth', 'model-old.pth')}


def our_outputs(folder):
    """Dict of (name of the reference output, file) -> what our network computes with the weights of that file."""
    import tensorflow as tf
    x = random_weights.images([2, 3, 299, 299], 1)
    for file in 'inception.pth', 'inception-old.pth':
        yield 'inception_features', file, inception.load(str(folder / file))(x)
    yield 'inception_softmax', 'inception.pth', inception.load(str(folder / 'inception.pth'), softmax=True)(x)

    distance = vgg16.load_lpips(str(folder / 'vgg16-convolutions.pth'))
    a, b = (tf.constant(random_weights.images([2, 3, 64, 48], seed), tf.float32) for seed in (2, 3))
    with tf.GradientTape() as tape:
        tape.watch(a)
        result = distance(a, b)
    yield 'lpips', 'vgg16-convolutions.pth', result
    yield 'lpips_gradient', 'vgg16-convolutions.pth', tape.gradient(result, a)
    yield (
        'vgg16_fc2',
        'vgg16.pth',
        vgg16.load_fc2(str(folder / 'vgg16.pth'))(random_weights.images([2, 3, 224, 224], 4)),
    )

    file = feature_networks.find_weights('efficientnet_lite0')
    yield 'efficientnet_lite0', file, efficientnet.load(file)(random_weights.images([2, 3, 224, 224], 5))


def check_files(folder, expected):
    """Every tensor of the small PyTorch files, bit by bit."""
    count = 0
    for kind, files in SMALL_FILES.items():
        for file in files:
            tensors = torch_weights.load(folder / file)
            names = {name.removeprefix(f'{kind}/') for name in expected if name.startswith(f'{kind}/')}
            assert set(tensors) == names, f'{file}: {set(tensors) ^ names}'
            for name in names:
                reference = expected[f'{kind}/{name}']
                assert tensors[name].dtype == reference.dtype and np.array_equal(tensors[name], reference), (
                    f'{file}: {name}'
                )
                count += 1
    print(f'{count} tensors in 4 files: equal')


def main(argv):
    parser = argparse.ArgumentParser(prog='python -m tests.reference.check')
    parser.add_argument('folder', type=pathlib.Path)
    parser.add_argument('--update', action='store_true')
    args = parser.parse_args(argv)
    with np.load(args.folder / 'outputs.npz') as file:
        expected = dict(file)
    check_files(args.folder, expected)
    for name, file, output in our_outputs(args.folder):
        output, reference = np.asarray(output), expected[name]
        error = np.abs(output - reference).max() / np.abs(reference).max()
        print(
            f'{name} {list(reference.shape)} from {pathlib.Path(file).name}: '
            f'largest difference {error:.1e} of the largest value'
        )
        assert_close(output, reference, RTOL, name)
    names = [name for name in expected if name in GOLDEN_NAMES or '/' in name]
    if args.update:
        np.savez_compressed(GOLDEN, **{name: expected[name] for name in names})
        for file in itertools.chain(*SMALL_FILES.values()):
            shutil.copy(args.folder / file, DATA)
    with np.load(GOLDEN) as golden:
        assert set(golden) == set(names)
        for name in names:
            assert_close(golden[name], expected[name], 1e-5, f'{GOLDEN.name}: {name}')
    print(f'{GOLDEN.name}: the same outputs')


if __name__ == '__main__':
    main(sys.argv[1:])
