"""Markers, order and fixtures of all tests; TensorFlow's log is quiet, and missing golden numbers are reported."""

import os
import pathlib
import random
import re
import signal
import sys

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from tests.golden import FOLDERS  # noqa: E402

# What `make test-versions` runs on each version of TensorFlow and Python: {test file: pattern of its tests}.
QUICK = {
    'test_addons': '', 'test_ops': '', 'test_frozen': 'same|changed|copy', 'test_legacy_pickle': '', 'test_misc': '',
    'test_network_verbs': '', 'test_keras_habits': 'load_model|saved_model|export|predict|models|folders|summary',
    'test_networks': r'\[config-[af](\]|-native|-ref)',
    'test_progan_networks': r'test_outputs\[p32-labels', 'test_stylegan_networks': 'labels',
    'test_msg_networks': 'm16-labels',
    'test_losses': r'native-(e-mix|a-lod)__|p16-labels__|m16-labels__', 'test_train_step': r'native-fast\b',
    'test_multi_device': 'clusters|keyed|share', 'test_training_loop': 'run', 'test_projector': '',
    'test_feature_networks': 'fc2', 'test_augment': r'test_golden_cases\[bgcfnc|trace',
}

# What `make test-kernels` runs with the CPU kernels that are not the default on this machine: golden numbers, and what
# depends on the kernels.
OTHER_KERNELS = {
    'test_ops': '', 'test_networks': r'test_outputs\b', 'test_losses': r'\bnative', 'test_train_step': r'native-fast\b',
    'test_network_verbs': 'channels_first', 'test_dtypes': 'device_that', 'test_frozen': 'same|paid|changed',
    'test_feature_networks': 'lpips',
}

# What `make test-layout` runs with channels first, the layout of GPUs in float32: golden numbers of networks, losses
# and the training of networks that grow and of networks that do not. The ops are the native ones: their reference
# forms compute in one layout only.
CHANNELS_FIRST = {
    'test_networks': r'test_outputs\[.*native', 'test_losses': r'golden.*\bnative|_(progan|msg)',
    'test_progan_networks': r'outputs\[p32', 'test_stylegan_networks': 'labels', 'test_msg_networks': 'm32',
    'test_train_step': r'native-(fast|nolazy)\b', 'test_layers': 'same', 'test_ops': 'layout',
}

# What `make test-quick` runs in addition: test files that use little or no TensorFlow and take a few seconds each.
INNER = ('test_autosummary test_checkpoint test_cli test_configs test_detection test_dlatents test_run_dir '
         'test_run_training test_schedule test_transfer test_util').split()

# The slowest test files, in this order. They start first, so that none of them keeps one worker busy at the end.
LONGEST = ('test_multi_device test_bench test_progressive test_training_loop test_resume test_train_step test_native '
           'test_cuda_kernels test_build test_dtypes test_export test_feature_networks test_tour test_several_devices '
           'test_projection_quality test_keras_habits test_known_datasets test_networks test_packaging '
           'test_progan_training test_run_metrics test_gpu_kernels test_health test_msg_training '
           'test_time_limit').split()


def pytest_configure(config):
    # A shell starts background jobs with SIGINT ignored, and child processes inherit that; some tests send SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    test_files = {path.stem for path in pathlib.Path(__file__).parent.rglob('test_*.py')}
    missing = {*QUICK, *OTHER_KERNELS, *CHANNELS_FIRST, *INNER, *LONGEST} - test_files
    if missing:
        raise pytest.UsageError(f'tests/conftest.py lists test files that do not exist: {", ".join(sorted(missing))}')
    for variable, folder in FOLDERS.items():
        if variable in os.environ and not folder.is_dir():
            raise pytest.UsageError(f'{variable} names {folder}, which is not a folder')


def pytest_report_header(config):
    return [f'golden numbers: {folder}' if folder.is_dir() else
            f'golden numbers: NOT FOUND; the golden tests that need them are skipped (set {variable})'
            for variable, folder in FOLDERS.items()]


def pytest_collection_modifyitems(items):
    for item in items:
        name = item.path.stem
        if re.search(QUICK.get(name, '^$'), item.name):
            item.add_marker(pytest.mark.quick)
        if re.search(OTHER_KERNELS.get(name, '^$'), item.name):
            item.add_marker(pytest.mark.other_kernels)
        if re.search(CHANNELS_FIRST.get(name, '^$'), item.name):
            item.add_marker(pytest.mark.channels_first)
        if name in INNER:
            item.add_marker(pytest.mark.inner)
        if (marker := item.get_closest_marker('golden')) is not None:
            variable = marker.args[0] if marker.args else 'STYLEGAN2_GOLDEN'
            if not FOLDERS[variable].is_dir():
                item.add_marker(pytest.mark.skip(
                    reason=f'the golden numbers are not at {FOLDERS[variable]}; set {variable}'))
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def known_random():
    """Seed the random numbers, so that each test draws the same ones, alone or after others; no TF32 on GPUs."""
    random.seed(0)
    np.random.seed(0)
    if 'tensorflow' in sys.modules:
        sys.modules['tensorflow'].random.get_global_generator().reset_from_seed(0)
        sys.modules['tensorflow'].config.experimental.enable_tensor_float_32_execution(False)


@pytest.fixture(scope='session', autouse=True)
def layout():
    """Force the internal layout of images that STYLEGAN2_TEST_LAYOUT names, if it is set."""
    if os.environ.get('STYLEGAN2_TEST_LAYOUT'):
        from custom_ops import conv2d
        conv2d.set_image_format(os.environ['STYLEGAN2_TEST_LAYOUT'])


@pytest.fixture(scope='module', autouse=True)
def default_impl():
    """Reset the form of the custom ops, which commands with --impl change, after each test file."""
    yield
    if 'custom_ops' in sys.modules:
        sys.modules['custom_ops'].set_impl(None)


@pytest.fixture(scope='module', params=['native', 'ref'])
def impl(request):
    """Run the tests that use it with both forms of the custom ops."""
    import custom_ops
    custom_ops.set_impl(request.param)
    yield request.param
    custom_ops.set_impl(None)
