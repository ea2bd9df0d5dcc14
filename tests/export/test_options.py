"""The flags of run_generator.py export: mistakes are found before TensorFlow is imported."""

import re

import pytest

import run_generator
from dnnlib import cli
from export import options

NETWORK = '--network=network.pkl'

# Arguments after the network, and a part of the message. These are mistakes in one flag.
USAGE = [
    ('', 'required: --format'),
    ('--format=', 'invalid choice'),
    ('--format=tensorflow', 'invalid choice'),
    ('--format=ONNX', 'invalid choice'),
    ('--format=onnx --output=', 'expected a name'),
    ('--format=onnx --part=discriminator', 'invalid choice'),
    ('--format=onnx --part=', 'invalid choice'),
    ('--format=onnx --truncation-psi=', 'expected a number.*, or input'),
    ('--format=onnx --truncation-psi=half', 'expected a number.*, or input'),
    ('--format=onnx --truncation-psi=nan', 'expected a number.*, or input'),
    ('--format=onnx --truncation-psi=inf', 'expected a number.*, or input'),
    ('--format=onnx --truncation-psi=1000', 'from -100 to 100.*, or input'),
    ('--format=onnx --truncation-psi=0:1', 'expected a number.*, or input'),
    ('--format=onnx --truncation-psi=Input', 'expected a number.*, or input'),
    ('--format=onnx --noise=random', 'invalid choice'),
    ('--format=onnx --noise=off', 'invalid choice'),
    ('--format=onnx --precision=float64', 'invalid choice'),
    ('--format=onnx --precision=int8', 'invalid choice'),
    ('--format=onnx --impl=fast', 'invalid choice'),
    ('--format=onnx --out=a.onnx', 'unrecognized arguments'),
    ('--format=onnx --seeds=0', 'unrecognized arguments'),
    ('--format=onnx a.onnx', 'unrecognized arguments'),
]

# Mistakes in how flags go together.
TOGETHER = [
    ('--format=npz --truncation-psi=0.7', '--truncation-psi: has no effect with --format=npz'),
    ('--format=safetensors --noise=none', '--noise: has no effect with --format=safetensors'),
    ('--format=npz --precision=mixed_float16', '--precision: has no effect with --format=npz'),
    ('--format=npz --impl=ref --noise=fixed', '--impl, --noise: have no effect with --format=npz'),
    ('--format=onnx --part=mapping --noise=input', '--noise: has no effect with --part=mapping'),
    ('--format=onnx --part=mapping --precision=mixed_float16', '--precision: has no effect with --part=mapping'),
    ('--format=onnx --part=synthesis --truncation-psi=0.7', '--truncation-psi: has no effect with --part=synthesis'),
    ('--format=keras --precision=mixed_float16', '--precision=mixed_float16: expected float32 with --format=keras'),
    ('--format=onnx --precision=bfloat16', 'expected float32 or mixed_float16 with --format=onnx'),
    ('--format=litert --precision=bfloat16', 'expected float32 or mixed_float16 with --format=litert'),
    ('--format=onnx --output=a.tflite', 'ends with .onnx.*\n.*choose --format=litert'),
    ('--format=onnx --output=a', 'ends with .onnx'),
    ('--format=litert --output=a.onnx', 'ends with .tflite.*\n.*choose --format=onnx'),
    ('--format=keras --output=a.h5', 'ends with .keras'),
    ('--format=npz --output=a.safetensors', 'ends with .npz.*\n.*choose --format=safetensors'),
    ('--format=savedmodel --output=a.onnx', 'expected a folder.*\n.*choose --format=onnx'),
    ('--format=savedmodel --output=file', 'expected a folder'),
    ('--format=onnx --output=folder.onnx', 'found a folder'),
    ('--format=onnx --output=missing/a.onnx', 'there is no folder .*missing'),
    ('--format=savedmodel --output=missing/a', 'there is no folder .*missing'),
]


@pytest.fixture
def somewhere(tmp_path, monkeypatch):
    """A folder with a file, and with a folder that has the name of a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').write_text('')
    (tmp_path / 'folder.onnx').mkdir()
    monkeypatch.setattr(run_generator, '_function', lambda command: pytest.fail('the command was called'))


@pytest.mark.parametrize('arguments, message', USAGE)
def test_wrong_values(arguments, message, somewhere, capsys):
    with pytest.raises(SystemExit) as err:
        run_generator.main(['export', NETWORK, *arguments.split()])
    assert err.value.code == 2 and re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize('arguments, message', TOGETHER)
def test_flags_that_do_not_go_together(arguments, message, somewhere):
    with pytest.raises(cli.UserError) as err:
        run_generator.main(['export', NETWORK, *arguments.split()])
    assert re.search(message, str(err.value)) and err.value.remedy


@pytest.mark.parametrize('arguments, expected', [
    ('--format=onnx', dict(format='onnx')),
    ('--format=savedmodel --output=model --precision=bfloat16',
     dict(format='savedmodel', output='model', precision='bfloat16')),
    ('--format=litert --truncation-psi=input --noise=none --part=generator',
     dict(format='litert', truncation_psi='input', noise='none', part='generator')),
    ('--format=keras --truncation-psi=-0.5', dict(format='keras', truncation_psi=-0.5)),
])
def test_right_flags_reach_the_command(arguments, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = []
    monkeypatch.setattr(run_generator, '_function', lambda command: lambda **kwargs: calls.append((command, kwargs)))
    run_generator.main(['export', NETWORK, *arguments.split()])
    assert calls == [('export', dict(network_pkl='network.pkl', **expected))]


def test_every_format_has_an_ending_of_its_own():
    assert len(set(options.ENDINGS.values())) == len(options.FORMATS)
