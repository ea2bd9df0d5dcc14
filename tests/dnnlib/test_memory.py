"""The memory that a step is going to need, compared with what the machine has."""

import subprocess
import sys

import pytest

from dnnlib import memory
from dnnlib.cli import UserError


def test_available_memory_is_plausible():
    available = memory.available_bytes()
    assert available is None or 1 << 20 < available < 1 << 50


def test_too_much_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(memory, 'available_bytes', lambda: 3_000_000_000)
    memory.require(3e9, 'a step', 'Take less.')
    with pytest.raises(UserError) as caught:
        memory.require(5.2e9, 'a step', 'Take less.')
    assert caught.value.fact == 'a step needs about 5.2 GB of memory, but only 3.0 GB are available'
    assert caught.value.remedy == 'Take less.'


def test_numbers_beyond_a_float_are_refused():
    if memory.available_bytes() is not None:
        with pytest.raises(UserError, match='PB of memory'):
            memory.require(2 ** 100, 'a step', 'Take less.')


def test_nothing_is_refused_where_the_memory_is_unknown(monkeypatch):
    monkeypatch.setattr(memory, 'available_bytes', lambda: None)
    memory.require(1e30, 'a step', 'Take less.')


@pytest.mark.parametrize('num_bytes, text', [
    (12, '12 bytes'), (1500, '1.5 kB'), (2e6, '2.0 MB'), (12.3e9, '12.3 GB'), (3e12, '3.0 TB'), (1e16, '10.0 PB')])
def test_describe(num_bytes, text):
    assert memory.describe(num_bytes) == text


@pytest.mark.parametrize('group, files, expected', [
    ('0::/job/one', {'cgroup/job/memory.max': '1000000\n', 'cgroup/job/memory.current': '400000\n',
                     'cgroup/job/memory.stat': 'anon 5\ninactive_file 100000\n',
                     'cgroup/job/one/memory.max': 'max\n', 'cgroup/job/one/memory.current': '400000\n'}, 700_000),
    ('4:memory:/outside', {'cgroup/memory/memory.limit_in_bytes': '500000\n',
                           'cgroup/memory/memory.usage_in_bytes': '600000\n'}, 0),
    ('3:cpuset:/', {}, 2000 << 10),
], ids=['version 2', 'version 1 in a container', 'no limit'])
def test_limit_of_a_container(tmp_path, monkeypatch, group, files, expected):
    for name, content in {'proc/meminfo': 'MemTotal: 9000 kB\nMemAvailable:   2000 kB\n',
                          'proc/self/cgroup': f'{group}\n', **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(memory, '_PROC', tmp_path / 'proc')
    monkeypatch.setattr(memory, '_CGROUPS', tmp_path / 'cgroup')
    monkeypatch.setattr(memory, '_address_space_bytes', lambda: None)
    assert memory.available_bytes() == expected


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_limit_of_the_address_space():
    code = ('import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); '
            'from dnnlib import memory; print(memory.available_bytes())')
    assert 0 < int(subprocess.run([sys.executable, '-c', code], capture_output=True, check=True).stdout) < 1 << 30
