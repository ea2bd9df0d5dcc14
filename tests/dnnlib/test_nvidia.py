"""What the NVIDIA driver says, by an invented driver, and the settings that depend on it."""

import ctypes
import types

import pytest

from dnnlib import nvidia

RTX = dict(name=b'NVIDIA GeForce RTX 3090', memory=24 << 30, major=8, minor=6, pools=1)
OLD = dict(name=b'Quadro K2000', memory=2 << 30, major=3, minor=0, pools=0)


class Driver:
    """Functions of cuda.h for invented GPUs. Each returns 0 for success, as those do."""

    def __init__(self, *gpus, version=12040, fails=0):
        self.gpus, self.version, self.cuInit = gpus, version, lambda flags: fails

    def cuDriverGetVersion(self, version):
        version._obj.value = self.version

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, device, number):
        device._obj.value = 100 + number
        return 0

    def cuDeviceGetName(self, name, size, device):
        name.value = self.gpus[device.value - 100]['name']

    def cuDeviceTotalMem_v2(self, memory, device):
        memory._obj.value = self.gpus[device.value - 100]['memory']

    def cuDeviceGetAttribute(self, value, key, device):
        value._obj.value = self.gpus[device.value - 100][{75: 'major', 76: 'minor', 115: 'pools'}[key]]


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """Function that puts a Driver in the place of that of this machine. None = the machine has none."""
    def install(found):
        def load(name):
            if found is None:
                raise OSError(f'{name}: cannot open shared object file')
            return found
        monkeypatch.setattr(nvidia.ctypes, 'CDLL', load)
        nvidia.gpus.cache_clear()
    monkeypatch.setattr(nvidia, '_DRIVER_FILES', tmp_path / 'none')
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    yield install
    monkeypatch.undo()
    nvidia.gpus.cache_clear()


def test_gpus_are_those_of_the_driver(driver):
    driver(Driver(RTX, OLD))
    assert nvidia.gpus() == (nvidia.Gpu('NVIDIA GeForce RTX 3090', 24 << 30, (8, 6), True),
                             nvidia.Gpu('Quadro K2000', 2 << 30, (3, 0), False))
    assert ctypes.sizeof(ctypes.c_size_t) == 8  # 24 GiB fit.


@pytest.mark.parametrize('found', [None, Driver(), Driver(RTX, fails=100), types.SimpleNamespace()],
                         ids=['no driver', 'no GPU', 'cuInit fails', 'another library'])
def test_without_a_usable_driver_there_are_none(driver, found):
    driver(found)
    assert nvidia.gpus() == () and not nvidia.is_present()


@pytest.mark.parametrize('hidden, loaded, expected', [(None, True, True), ('-1', True, False), ('', True, False),
                                                      ('0', True, True), (None, False, False)])
def test_a_gpu_whose_driver_fails_is_present_unless_hidden(driver, tmp_path, monkeypatch, hidden, loaded, expected):
    driver(Driver(RTX, fails=804))
    if loaded:
        (tmp_path / 'none').mkdir()
    if hidden is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', hidden)
    assert nvidia.is_present() == expected


@pytest.mark.parametrize('found, given, imported, expected', [
    (Driver(RTX), None, False, 'cuda_malloc_async'), (Driver(RTX), 'other', False, 'other'),
    (Driver(RTX), '', False, ''), (Driver(RTX), None, True, None), (Driver(RTX, OLD), None, False, None),
    (Driver(RTX, version=11020), None, False, None), (None, None, False, None), (Driver(), None, False, None)])
def test_allocator(driver, monkeypatch, found, given, imported, expected):
    """TensorFlow would end the process if a GPU or driver without memory pools were asked for cuda_malloc_async."""
    driver(found)
    environment = {} if given is None else {'TF_GPU_ALLOCATOR': given}
    monkeypatch.setattr(nvidia.os, 'environ', environment)
    monkeypatch.setattr(nvidia, 'sys', types.SimpleNamespace(modules={'tensorflow': None} if imported else {}))
    nvidia.choose_allocator()
    assert environment.get('TF_GPU_ALLOCATOR') == expected
