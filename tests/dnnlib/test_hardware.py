"""The line that says what a command computes on, for invented GPUs and for the CPU."""

import pytest
import tensorflow as tf

from dnnlib import nvidia
from dnnlib.tflib import hardware, tfutil

BUILT_FOR = ['sm_60', 'sm_70', 'sm_80', 'sm_89', 'compute_90']  # TensorFlow 2.21


@pytest.fixture(autouse=True)
def restored_tf32():
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    yield
    tfutil.set_tf32(before)


@pytest.fixture
def invent(monkeypatch):
    """Function that invents the GPUs of this machine, as nvidia.Gpu, of which the first ones may be hidden."""
    def install(*gpus, hidden=0, of_driver=True):
        devices = [tf.config.PhysicalDevice(f'/physical_device:GPU:{i}', 'GPU') for i in range(len(gpus))]
        details = {device: {'device_name': gpu.name, 'compute_capability': gpu.capability}
                   for device, gpu in zip(devices, gpus)}
        monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind=None: devices)
        monkeypatch.setattr(tf.config, 'get_visible_devices', lambda kind=None: devices[hidden:])
        monkeypatch.setattr(tf.config.experimental, 'get_device_details', details.get)
        monkeypatch.setattr(tf.sysconfig, 'get_build_info', lambda: {'cuda_compute_capabilities': BUILT_FOR})
        monkeypatch.setattr(nvidia, 'gpus', lambda: gpus if of_driver else ())
    return install


def gpu(name, gib, capability):
    return nvidia.Gpu(name, gib << 30, capability, True)


A100, RTX = gpu('NVIDIA A100', 40, (8, 0)), gpu('NVIDIA GeForce RTX 3090', 24, (8, 6))
V100, GTX, B200 = gpu('Tesla V100', 16, (7, 0)), gpu('GTX 980', 4, (5, 2)), gpu('NVIDIA B200', 180, (10, 0))


def test_one_of_many_gpus(invent):
    invent(*[A100] * 8)
    tfutil.set_tf32(False)
    assert hardware.describe(precision='bfloat16') == (
        'Computing on NVIDIA A100 (40.0 GiB, compute capability 8.0): 8 GPUs found, 1 used, TF32 off, bfloat16.')


def test_different_gpus_and_tf32(invent):
    invent(A100, RTX, RTX)
    tfutil.set_tf32(True)
    assert hardware.describe(2) == (
        'Computing on NVIDIA A100 (40.0 GiB, compute capability 8.0) and '
        'NVIDIA GeForce RTX 3090 (24.0 GiB, compute capability 8.6): 3 GPUs found, 2 used, TF32 on, float32.')
    invent(V100)
    assert hardware.describe().endswith('1 GPU found, 1 used, TF32 not available, float32.')


def test_the_gpu_that_is_visible_counts(invent):
    invent(A100, V100, hidden=1)
    assert hardware.gpus() == [hardware.Gpu('Tesla V100', 16 << 30, (7, 0))]


def test_what_only_tensorflow_knows(invent):
    invent(RTX, of_driver=False)
    assert hardware.describe().startswith(
        'Computing on NVIDIA GeForce RTX 3090 (compute capability 8.6): 1 GPU found, 1 used, ')


@pytest.mark.parametrize('found, words', [
    (B200, ['no kernels for compute capability 10.0', 'at the first start', 'half an hour', 'CUDA_CACHE_MAXSIZE']),
    (GTX, ['no kernels for compute capability 5.2; its oldest is 6.0', 'Install a TensorFlow', '_VISIBLE_DEVICES=-1']),
    (RTX, []), (V100, [])], ids=lambda value: getattr(value, 'name', ''))
def test_kernels_that_are_missing(invent, found, words):
    invent(found)
    _line, *notes = hardware.describe().splitlines()
    assert len(notes) == bool(words) and all(word in notes[0] for word in words)


@pytest.mark.parametrize('capability, built_for, missing', [
    ((7, 5), ['sm_70', 'sm_80'], False),         # Kernels of the same generation, for an earlier member.
    ((7, 0), ['sm_75', 'compute_80'], True),     # For a later one only.
    ((8, 6), ['sm_80'], False), ((9, 0), ['sm_80', 'sm_89', 'compute_90'], True), ((12, 0), ['sm_120'], False),
    ((9, 0), [], False), (None, BUILT_FOR, False), ((9, 0), ['something else'], False)])
def test_which_kernels_a_gpu_can_run(capability, built_for, missing):
    assert bool(hardware.note_missing_kernels(capability, built_for)) == missing


def test_cpu(invent, monkeypatch):
    invent()
    monkeypatch.setattr(hardware.onednn, 'is_on', lambda: True)
    monkeypatch.setattr(hardware.os, 'sched_getaffinity', lambda pid: {0, 3}, raising=False)
    assert hardware.describe(precision='bfloat16') == (
        'Computing on the CPU: 2 cores, oneDNN on, bfloat16. '
        'No GPU found (TF_CPP_MIN_LOG_LEVEL=0 shows what TensorFlow says about that).')


def test_a_gpu_that_is_not_used(invent, monkeypatch):
    invent(RTX, hidden=1)
    assert "Note: TensorFlow's settings hide the GPU" in hardware.describe()
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind=None: [])
    text = hardware.describe()
    assert 'Note: there is NVIDIA GeForce RTX 3090, but TensorFlow does not see it' in text and '[gpu]' in text
    assert 'No GPU found' not in text
