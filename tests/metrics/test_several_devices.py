"""Metrics on several devices have the same values as on one."""

import re

import pytest

from tests.training.step.test_multi_device import output_in_own_process


@pytest.mark.slow
def test_two_devices():
    assert re.search(r'\d passed', output_in_own_process('tests/metrics/two_devices.py'))
