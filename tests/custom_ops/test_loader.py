"""Which form of the operations runs, and why. The library is the real one, built on the first use of these tests."""

import pathlib
import re
import shutil
import threading
import types
import warnings

import numpy as np
import pytest
import tensorflow as tf

import custom_ops
from custom_ops import build, loader
from dnnlib.cli import UserError
from tests import ROOT, forked

OPS = ('stylegan2_upfirdn2d', 'stylegan2_bias_act', 'stylegan2_bias_act_grad', 'stylegan2_styled_bias_act',
       'stylegan2_styled_bias_act_grad')


@pytest.fixture(autouse=True)
def undecided(monkeypatch):
    """As in a process that has not used the operations yet."""
    for name in ('_impl', '_choice'):
        monkeypatch.setattr(loader, name, None)
    for name in ('STYLEGAN2_OPS', 'STYLEGAN2_OPS_LIBRARY'):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def broken(monkeypatch):
    """The build fails; `calls` says how often it was tried."""
    calls = []

    def fail():
        calls.append(1)
        raise build.BuildError('there is no C++ compiler (g++)', 'Install one (apt install g++).')
    monkeypatch.setattr(build, 'build', fail)
    return calls


def warned(function):
    """(what it returns, texts of its warnings)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        result = function()
    return result, [str(warning.message) for warning in caught if warning.category is RuntimeWarning]


# ---- The three choices ----

@pytest.mark.parametrize('impl', ['auto', 'native'])
def test_where_it_builds_the_native_form_runs(impl):
    custom_ops.set_impl(impl)
    module, texts = warned(loader.library)
    assert all(hasattr(module, name) for name in OPS) and texts == []
    assert re.fullmatch(r'Custom ops: native CPU( \+ CUDA \(sm_\w+(, sm_\w+)*\))?', custom_ops.impl_report())
    assert loader.library() is module is loader.loaded_library()


def test_auto_falls_back_with_one_warning_that_names_cause_and_remedy(broken):
    def use():
        return [loader.library() for _ in range(3)] + [custom_ops.downsample_2d(tf.ones([1, 1, 4, 4])).shape]

    results, texts = warned(use)
    assert results == [None, None, None, [1, 1, 2, 2]]
    text, = texts
    assert 'no C++ compiler' in text and 'apt install g++' in text and 'reference' in text
    assert broken == [1]
    assert custom_ops.impl_report() == 'Custom ops: reference (there is no C++ compiler (g++))'


def test_native_raises_at_every_use_and_builds_once(broken):
    custom_ops.set_impl('native')
    for function in (loader.library, custom_ops.impl_report, lambda: custom_ops.fused_bias_act(tf.ones([1, 1]))):
        with pytest.raises(UserError, match='no C\\+\\+ compiler'):
            function()
    assert broken == [1]


def test_ref_never_builds(broken):
    custom_ops.set_impl('ref')
    assert warned(loader.library) == (None, [])
    assert custom_ops.impl_report() == 'Custom ops: reference (as asked for)'
    assert broken == []


def test_the_environment_chooses_where_the_program_does_not(broken, monkeypatch):
    monkeypatch.setenv('STYLEGAN2_OPS', 'ref')
    assert loader.library() is None and broken == []
    custom_ops.set_impl('native')
    with pytest.raises(UserError):
        loader.library()
    custom_ops.set_impl(None)
    assert loader.library() is None


def test_a_value_that_means_nothing_is_refused(monkeypatch):
    monkeypatch.setenv('STYLEGAN2_OPS', 'cuda')
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            loader.library()
        assert caught.value.fact == 'STYLEGAN2_OPS=cuda: expected auto, native, ref'
    with pytest.raises(ValueError, match="received 'cuda'"):
        custom_ops.set_impl('cuda')


def test_threads_that_begin_together_decide_once(broken):
    def use():
        threads = [threading.Thread(target=loader.library) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(warned(use)[1]) == 1 and broken == [1]


# ---- What is built must also work ----

@pytest.mark.parametrize('wrong', OPS)
def test_wrong_numbers_are_found_before_they_are_used(wrong, monkeypatch):
    real = loader.library()

    def off(*args, **kwargs):
        result = getattr(real, wrong)(*args, **kwargs)
        return tf.nest.map_structure(lambda y: y * tf.cast(1.02, y.dtype),
                                     tuple(result) if wrong.endswith('grad') else result)
    stand_in = types.SimpleNamespace(**{name: getattr(real, name) for name in OPS})
    monkeypatch.setattr(tf, 'load_op_library', lambda path: stand_in)
    monkeypatch.setattr(loader, '_choice', None)
    assert loader.library() is stand_in

    setattr(stand_in, wrong, off)
    monkeypatch.setattr(loader, '_choice', None)
    module, texts = warned(loader.library)
    assert module is None
    text, = texts
    assert 'self-test' in text and 'is off by' in text and '--clean' in text


def test_a_library_that_cannot_be_loaded_is_named(monkeypatch, tmp_path):
    (tmp_path / 'stylegan2_ops.so').write_text('no library')
    (tmp_path / 'build.json').write_text('{"archs": [], "cuda_error": null}')
    monkeypatch.setattr(build, 'build', lambda: str(tmp_path / 'stylegan2_ops.so'))
    module, (text,) = warned(loader.library)
    assert module is None and str(tmp_path) in text and '--clean' in text


def test_a_library_that_the_environment_names_is_used_or_an_error(monkeypatch, tmp_path):
    path = pathlib.Path(build.build())
    shutil.copytree(path.parent, tmp_path / 'mine')
    mine = tmp_path / 'mine' / path.name
    mine.write_text('no library')
    monkeypatch.setenv('STYLEGAN2_OPS_LIBRARY', str(mine))
    with pytest.raises(UserError) as caught:  # No fall-back to the reference forms.
        loader.library()
    assert str(mine) in caught.value.fact and 'STYLEGAN2_OPS_LIBRARY' in caught.value.remedy
    assert loader.must_be_native()
    custom_ops.set_impl('ref')
    assert loader.library() is None


def test_an_operation_that_is_missing_is_no_crash(monkeypatch):
    monkeypatch.setattr(tf, 'load_op_library', lambda path: types.SimpleNamespace())
    module, (text,) = warned(loader.library)
    assert module is None and 'stylegan2_upfirdn2d' in text


def test_with_a_gpu_a_library_for_the_cpu_alone_is_not_used(monkeypatch, tmp_path):
    (tmp_path / 'build.json').write_text(
        '{"archs": [], "cuda_error": ["the host compiler is too new for this nvcc", "Set NVCC_CCBIN"]}')
    monkeypatch.setattr(build, 'build', lambda: str(tmp_path / 'stylegan2_ops.so'))
    monkeypatch.setattr(tf.config, 'get_visible_devices', lambda kind: ['GPU:0'])
    module, (text,) = warned(loader.library)
    assert module is None and 'without CUDA kernels' in text and 'too new' in text and 'NVCC_CCBIN' in text


def test_denormals_are_kept():
    custom_ops.set_impl('native')
    loader.library()
    tiny = np.full(64, 1e-38, np.float32)
    found = []

    def shrink():
        found.append((tiny * np.float32(0.1)).min())
    threads = [threading.Thread(target=shrink)]
    shrink()
    for thread in threads:
        thread.start()
        thread.join()
    assert min(found) > 0 and len(found) == 2


def test_a_library_that_flushes_denormals_is_refused(monkeypatch):
    answers = iter([True, False])
    monkeypatch.setattr(loader, '_keeps_denormals', lambda: next(answers))
    module, (text,) = warned(loader.library)
    assert module is None and 'denormals' in text and 'fast-math' in text


# ---- Wherever the first use is ----

def test_first_use_while_a_function_is_traced_and_a_tape_records():
    x = tf.constant(np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4))

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = custom_ops.downsample_2d(x)
        return y, tape.gradient(y, x)
    y, dx = gradient(x)
    assert loader.library() is not None
    np.testing.assert_allclose(y[0, 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_allclose(dx, np.full([1, 1, 4, 4], 0.25))


def test_a_gradient_after_the_form_has_changed_is_that_of_the_operation():
    x = tf.ones([1, 1, 4, 4])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = custom_ops.fused_bias_act(custom_ops.downsample_2d(x), act='lrelu', gain=1)
    custom_ops.set_impl('ref')
    np.testing.assert_allclose(tape.gradient(y, x), np.full([1, 1, 4, 4], 0.25))


@pytest.mark.slow
def test_first_use_in_a_replica_of_a_strategy():
    code = '''
import dnnlib.tflib.quiet
import tensorflow as tf
cpu, = tf.config.list_physical_devices('CPU')
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import custom_ops
custom_ops.set_impl('native')
strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
with strategy.scope():
    b = tf.Variable([1.0, 2.0])
@tf.function
def step():
    def replica():
        x = tf.ones([1, 2, 4, 4])
        with tf.GradientTape() as tape:
            y = custom_ops.fused_bias_act(custom_ops.upsample_2d(x), b, act='linear')
        return tape.gradient(y, b)
    return strategy.reduce('sum', strategy.run(replica), axis=None)
print(step().numpy().tolist(), custom_ops.impl_report())
'''
    result = forked.run(code, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith('[128.0, 128.0] Custom ops: native CPU')
