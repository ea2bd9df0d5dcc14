"""Quiet TensorFlow on the CPU, and a clear word where the golden numbers are missing."""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import pytest  # noqa: E402

from tests.golden import GOLDEN  # noqa: E402


def pytest_configure(config):
    if 'STYLEGAN2_GOLDEN' in os.environ and not GOLDEN.is_dir():
        raise pytest.UsageError(f'STYLEGAN2_GOLDEN names {GOLDEN}, which is no folder')


def pytest_report_header(config):
    return f'golden numbers: {GOLDEN if GOLDEN.is_dir() else "NOT FOUND; all golden tests are skipped (set STYLEGAN2_GOLDEN)"}'


def pytest_collection_modifyitems(items):
    if not GOLDEN.is_dir():
        for item in items:
            if item.get_closest_marker('golden'):
                item.add_marker(pytest.mark.skip(reason=f'the golden numbers are not at {GOLDEN}; set STYLEGAN2_GOLDEN'))


@pytest.fixture(scope='module', params=['native', 'ref'])
def impl(request):
    """Runs what uses it with both forms of the custom ops."""
    import custom_ops
    custom_ops.set_impl(request.param)
    yield request.param
    custom_ops.set_impl(None)
