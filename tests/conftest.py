"""Quiet TensorFlow on the CPU, and a clear word where the golden numbers are missing."""

import os
import random
import re
import signal
import sys

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from tests.golden import GOLDEN  # noqa: E402

# What `make test-versions` runs on each version of TensorFlow and Python: files of tests, and which of their tests (a pattern).
QUICK = {
    'test_addons': '', 'test_ops': '', 'test_frozen': 'same|changed|copy', 'test_legacy_pickle': '', 'test_misc': '',
    'test_network_verbs': '',
    'test_networks': r'\[config-[af](\]|-native|-ref)', 'test_losses': r'native-(e-mix|a-lod)__', 'test_train_step': r'native-fast\b',
    'test_multi_device': 'clusters|keyed|share', 'test_training_loop': 'run', 'test_projector': '', 'test_feature_networks': 'fc2',
}

# What `make test-kernels` runs with the CPU kernels that are not the default here: golden numbers, and what depends on the kernels.
OTHER_KERNELS = {
    'test_ops': '', 'test_networks': r'test_outputs\b', 'test_losses': r'\bnative', 'test_train_step': r'native-fast\b',
    'test_network_verbs': 'channels_first', 'test_dtypes': 'device_that', 'test_frozen': 'same|paid|changed',
    'test_feature_networks': 'lpips',
}

# What `make test-quick` runs besides: files that have little or nothing to do with TensorFlow, and take a few seconds each.
INNER = ('test_autosummary test_checkpoint test_cli test_configs test_detection test_dlatents test_run_dir test_run_training '
         'test_schedule test_transfer test_util').split()

# The files that take longest, in this order: begun first, they do not keep one worker busy when the others have ended.
LONGEST = ('test_multi_device test_progressive test_networks test_dtypes test_resume test_bench test_training_loop test_train_step '
           'test_build test_cuda_kernels test_run_metrics test_health test_native test_run_projector').split()


def pytest_configure(config):
    # For jobs in the background a shell has SIGINT ignored, which programs hand down; some tests send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if 'STYLEGAN2_GOLDEN' in os.environ and not GOLDEN.is_dir():
        raise pytest.UsageError(f'STYLEGAN2_GOLDEN names {GOLDEN}, which is no folder')


def pytest_report_header(config):
    return f'golden numbers: {GOLDEN if GOLDEN.is_dir() else "NOT FOUND; all golden tests are skipped (set STYLEGAN2_GOLDEN)"}'


def pytest_collection_modifyitems(items):
    for item in items:
        if re.search(QUICK.get(item.path.stem, '^$'), item.name):
            item.add_marker(pytest.mark.quick)
        if re.search(OTHER_KERNELS.get(item.path.stem, '^$'), item.name):
            item.add_marker(pytest.mark.other_kernels)
        if item.path.stem in INNER:
            item.add_marker(pytest.mark.inner)
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    if not GOLDEN.is_dir():
        for item in items:
            if item.get_closest_marker('golden'):
                item.add_marker(pytest.mark.skip(reason=f'the golden numbers are not at {GOLDEN}; set STYLEGAN2_GOLDEN'))


@pytest.fixture(autouse=True)
def known_random():
    """Each test draws the same numbers, alone or after others."""
    random.seed(0)
    np.random.seed(0)
    if 'tensorflow' in sys.modules:
        sys.modules['tensorflow'].random.get_global_generator().reset_from_seed(0)


@pytest.fixture(scope='module', autouse=True)
def default_impl():
    """Each file of tests begins with the default form of the custom ops, whatever a command with --impl left before it."""
    yield
    if 'custom_ops' in sys.modules:
        sys.modules['custom_ops'].set_impl(None)


@pytest.fixture(scope='module', params=['native', 'ref'])
def impl(request):
    """Runs what uses it with both forms of the custom ops."""
    import custom_ops
    custom_ops.set_impl(request.param)
    yield request.param
    custom_ops.set_impl(None)
