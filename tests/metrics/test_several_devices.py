"""Metrics on several devices have the same values as on one."""

import re
import subprocess
import sys

import pytest

from tests import ROOT


@pytest.mark.slow
def test_two_devices():
    """Run tests/metrics/two_devices.py in a process whose CPU is two devices."""
    args = [sys.executable, '-m', 'pytest', '-q', 'tests/metrics/two_devices.py']
    done = subprocess.run(args, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-20000:]
    assert re.search(r'\d passed', done.stdout)
