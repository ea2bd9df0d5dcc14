"""The pages of measurements: what they time, print and keep."""

import contextlib
import functools
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import types
import xml.etree.ElementTree
import zipfile

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from bench import (
    augment,
    costs,
    demo,
    explorer,
    export,
    family,
    generator,
    growth,
    kernels,
    latents,
    launches,
    limits,
    memory,
    metrics,
    networks,
    ops,
    projector,
    small_data,
    stages,
    startup,
    timing,
    training,
)
from tests import ROOT, forked

NARROW = dict(fmap_base=64, fmap_max=16, latent_size=16, mapping_layers=1)
MAKE_NARROW = ('import functools; from bench import networks; '
               'networks.make_network = functools.partial(networks.make_network, **{}); ')


@pytest.fixture
def narrow(monkeypatch):
    """Pages measure networks with few feature maps, which are built, traced and run in a fraction of the time."""
    monkeypatch.setattr(networks, 'make_network', functools.partial(networks.make_network, **NARROW))


@pytest.fixture
def short_limit(monkeypatch):
    """The machine's limit comes from small matrix products."""
    monkeypatch.setattr(limits, '_SIZES', (256, 512))
    limits.rate_of_other_kernels.cache_clear()
    yield
    limits.rate_of_other_kernels.cache_clear()


@pytest.fixture
def in_this_process(monkeypatch, short_limit):
    """What pages run in processes of their own runs in this one, in which TensorFlow has been imported already."""
    def run(program, *arguments, env=None):
        with monkeypatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
            patch.setattr(sys, 'argv', ['-c', *arguments])
            exec(program, {})
        return printed.getvalue().splitlines()[-1]
    monkeypatch.setattr(timing, 'in_own_process', run)


@pytest.fixture
def in_forks(monkeypatch, in_this_process):
    """What pages run in processes of their own runs in forks, whose memory is their own too, with narrow networks that
    `widths(...)` changes. What measures the other kernels, which a fork does not have, runs in this process."""
    settings = dict(NARROW)

    def run(program, *arguments, env=None, run_here=timing.in_own_process):
        if env is not None:
            return run_here(program, *arguments, env=env)
        done = forked.run(MAKE_NARROW.format(settings) + program, *arguments, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]
    monkeypatch.setattr(timing, 'in_own_process', run)
    return types.SimpleNamespace(widths=settings.update)


def test_interleaved_calls_each_function_in_turn():
    calls = []
    times = timing.interleaved({'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')}, rounds=3)
    assert calls == ['a', 'b'] * 4  # The first round is not timed.
    assert set(times) == {'a', 'b'} and all(median >= best >= 0 for median, best in times.values())


def test_interleaved_stops_when_time_is_up_but_times_three():
    calls = []
    timing.interleaved({'a': lambda: calls.append('a')}, rounds=100, seconds=0)
    assert len(calls) == 4


def test_the_time_of_a_call_ends_when_the_gpus_have_done_its_work(monkeypatch):
    import tensorflow as tf
    calls = []
    monkeypatch.setattr(tf.test.experimental, 'sync_devices', lambda: calls.append('wait'))
    functions = {'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')}
    monkeypatch.setattr('dnnlib.tflib.tfutil.has_gpu', lambda: False)
    timing.interleaved(functions, rounds=1)
    assert calls == ['a', 'b', 'a', 'b']
    calls.clear()
    monkeypatch.setattr('dnnlib.tflib.tfutil.has_gpu', lambda: True)
    timing.interleaved(functions, rounds=1)
    assert calls == ['a', 'b', 'wait', 'a', 'wait', 'b', 'wait']


def test_with_a_gpu_tensorflow_makes_the_copy_that_ops_are_compared_with(monkeypatch):
    """It copies half of the bytes to the other half, in memory of the device that TensorFlow uses."""
    monkeypatch.setattr('dnnlib.tflib.tfutil.has_gpu', lambda: True)
    copy, read = ops.memory_functions(4096)
    first, second = copy(), copy()
    assert first.device == second.device == read().device
    assert first.numpy().nbytes == 2048 and first.numpy().tolist() == [1.0] * 512
    assert first.__array__().ctypes.data != second.__array__().ctypes.data


def test_report_prints_a_table_and_keeps_the_rows(tmp_path, capsys):
    rows = [{'name': 'x', 'ms': 1.234, 'hidden': 1}, {'name': 'longer', 'ms': None, 'hidden': 2}]
    timing.report(rows, {'name': 's', 'ms': '.1f'}, tmp_path / 'new' / 'rows.json')
    assert capsys.readouterr().out.splitlines() == ['name     ms', 'x       1.2', 'longer     ']
    assert json.loads((tmp_path / 'new' / 'rows.json').read_text()) == rows


def test_a_process_of_its_own_has_its_arguments_and_environment_and_its_last_line_counts():
    program = 'import os, sys; print("first"); print(os.getpid(), os.getcwd(), *sys.argv[1:], os.environ.get("ONLY"))'
    pid, *others = timing.in_own_process(program, 'a', 'b', env={'ONLY': 'this'}).split(' ')
    assert int(pid) != os.getpid() and others == [str(ROOT), 'a', 'b', 'this']


def test_the_page_of_ops(tmp_path, capsys, monkeypatch):
    # Large enough for one activation in each function that is traced; of small ones there are 256 (ops.repeats).
    monkeypatch.setattr(ops, 'SHAPE', (1, 16, 256, 256))
    ops.main(['--rounds', '1', '--json', str(tmp_path / 'ops.json')], 'bench')
    rows = json.loads((tmp_path / 'ops.json').read_text())
    names = [row['name'] for row in rows]
    assert {'upfirdn_2d/up2/NHWC/float32', 'fused_bias_act/backward/NCHW/bfloat16',
            'styled_bias_act/forward_backward/NCHW/bfloat16'} <= set(names)
    assert len(names) == 28
    for row in rows:
        assert {'name', 'median_ms', 'best_ms', 'copy_best_ms', 'ratio_copy', 'ref_best_ms', 'ratio_ref'} <= set(row)
        assert row['median_ms'] >= row['best_ms'] > 0 and row['ratio_ref'] == row['best_ms'] / row['ref_best_ms']
    assert '28 rows; slower than the reference form, by over 5% in best times:' in capsys.readouterr().out


def test_the_forms_that_are_timed_agree():
    """What the page calls native, reference and one-channel convolution compute the same."""
    import numpy as np
    import tensorflow as tf

    import custom_ops
    from custom_ops import loader
    x = tf.random.stateless_normal([2, 8, 6, 4], [0, 1])
    for kind in ('up1', 'up2', 'down2'):
        for data_format in ('NHWC', 'NCHW'):
            native = ops.resampling(x, kind, data_format)()
            np.testing.assert_allclose(native, ops.one_channel(x, kind, data_format), rtol=1e-5, atol=1e-5)
    loader.set_impl('native')
    for channels, act in ((4, 'lrelu'), (3, 'linear')):
        assert ops.act_of(x[..., :channels], 'NHWC') == act
        results = []
        for impl in ('native', 'ref'):
            tf.random.set_seed(1)
            results.append(tf.nest.flatten(tf.function(ops.bias_act(x[..., :channels], 'backward', 'NHWC', impl))()))
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    custom_ops.set_impl(None)


def test_shapes_of_config_f():
    cases = ops.config_f_cases(1024, [1, 4, 32])
    assert len({case[0] for case in cases}) == len(cases)
    shapes = {case[4] for case in cases}
    assert {(1, 512, 4, 4), (4, 512, 64, 64), (32, 32, 1024, 1024), (4, 3, 1024, 1024)} <= shapes


def test_the_limit_is_the_fastest_matrix_product_of_both_sets_of_kernels(monkeypatch):
    times = {'matmul/float32/1024': (9.0, 4.0), 'matmul/float32/2048': (99.0, 40.0)}  # Best: 537 and 429 GFLOP/s.
    monkeypatch.setattr(limits, 'rate_of_other_kernels', lambda dtype: 100.0)
    assert limits.matmul_rate(times, 'float32') == pytest.approx(2 * 1024 ** 3 / 4e6)
    monkeypatch.setattr(limits, 'rate_of_other_kernels', lambda dtype: 1000.0)
    assert limits.matmul_rate(times, 'float32') == 1000


def test_the_other_kernels_are_measured_in_a_process_of_their_own(monkeypatch):
    from dnnlib import onednn
    seen = []

    def in_own_process(program, dtype, env):
        seen.append(env['TF_ENABLE_ONEDNN_OPTS'])
        return '123.5'
    monkeypatch.setattr(timing, 'in_own_process', in_own_process)
    for is_on in (True, False):
        monkeypatch.setattr(onednn, 'is_on', lambda is_on=is_on: is_on)
        limits.rate_of_other_kernels.cache_clear()
        assert limits.rate_of_other_kernels('float32') == 123.5
    limits.rate_of_other_kernels.cache_clear()
    assert seen == ['0', '1']


def test_the_machine_is_told_with_its_kernels():
    from dnnlib import onednn
    line = timing.machine()
    assert f'oneDNN {"on" if onednn.is_on() else "off"}, threads intra-op ' in line
    assert ('avx2' in line) == ('avx2' in onednn.cpu_features())


@pytest.mark.parametrize('flags, override', [(['--json=x'], '0'), (['--tf32', '--json=x'], None)])
def test_float32_is_not_tf32_unless_asked_for(monkeypatch, flags, override):
    from bench.__main__ import main
    monkeypatch.setenv('NVIDIA_TF32_OVERRIDE', '1')  # So that it is restored.
    monkeypatch.delenv('NVIDIA_TF32_OVERRIDE')
    seen = []
    monkeypatch.setattr(memory, 'main', lambda argv, prog: seen.append((argv, os.environ.get('NVIDIA_TF32_OVERRIDE'))))
    monkeypatch.setattr(sys, 'argv', ['bench', 'memory', *flags])
    main()
    assert seen == [(['--json=x'], override)]


def test_the_page_of_memory(tmp_path, capsys, narrow):
    path = tmp_path / 'rows.json'
    memory.main(['--configs=config-e', '--resolutions=8,64', '--cards=1,8', f'--json={path}'], 'bench')
    rows = {row['name']: row for row in json.loads(path.read_text())}
    assert list(rows) == [f'memory/config-e/{resolution}/{precision}'
                          for resolution in (8, 64) for precision in ('float32', 'bfloat16')]
    for row in rows.values():
        assert row['all'] == pytest.approx(1.05 * row['least'] + 2) and row['1 GiB'] == '-' and row['8 GiB'] == '32'
    assert rows['memory/config-e/64/bfloat16']['least'] < rows['memory/config-e/64/float32']['least']
    assert 'memory/config-e/64/float32' in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_of_training(tmp_path, capsys, monkeypatch, narrow, in_forks):
    """Two of the four kinds are traced, and stand for the others. So does the peak memory of one, measured in a process
    of its own."""
    known = {}

    def once(function, key):
        def run(*args, **kwargs):
            if key(*args) not in known:
                known[key(*args)] = function(*args, **kwargs)
            return known[key(*args)]
        return run
    monkeypatch.setattr(timing, 'in_own_process', once(timing.in_own_process, lambda program, *_: program))
    monkeypatch.setattr(training, 'traced_phases', once(
        training.traced_phases, lambda *args: args[-2:] == ('bfloat16', 'ref')))
    path = tmp_path / 'rows.json'
    training.main(['--cases=config-f/4/mb8', '--impls=native,ref', '--rounds=1', '--layers', f'--json={path}'], 'bench')
    rows = {row['name']: row for row in json.loads(path.read_text())}
    assert list(rows)[:5] == [
        f'training/config-f/4/mb8/float32{phase}' for phase in ('/G_train', '/G_reg', '/D_train', '/D_reg', '')]
    assert len(rows) == 20 and 'training/config-f/4/mb8/bfloat16/ref/D_reg' in rows
    for name, row in rows.items():
        bound_ms = row['gflop'] / row['matmul_gflops'] * 1e3
        assert row['traces'] == 1 and row['fraction_of_bound'] == pytest.approx(bound_ms / row['best_ms'])
        first = rows[name.replace('/ref', '').replace('bfloat16', 'float32')]
        assert row['speedup'] == first['best_ms'] / row['best_ms']
    iteration = rows['training/config-f/4/mb8/float32']
    phases = costs.average(
        {phase: rows[f'training/config-f/4/mb8/float32/{phase}']['best_ms'] for phase in networks.PHASES})
    assert iteration['best_ms'] > phases
    assert iteration['memory_ratio'] == iteration['peak_mb'] / iteration['least_mb'] > 0
    assert '4x4/Conv' in capsys.readouterr().out  # --layers


@pytest.mark.slow
def test_the_page_of_the_generator_compares_the_forms_of_the_ops(tmp_path, narrow, in_this_process):
    path = tmp_path / 'rows.json'
    generator.main(['--cases=config-e/16/b1', '--dtypes=float32', '--impls=native,ref', '--rounds=2',
                    f'--json={path}'], 'bench')
    native, reference = json.loads(path.read_text())
    assert [native['name'], reference['name']] == ['generator/config-e/16/b1/float32',
                                                   'generator/config-e/16/b1/float32/ref']
    assert native['speedup'] == 1 and reference['speedup'] == native['best_ms'] / reference['best_ms']
    assert reference['grey_levels'] < 0.01  # The same weights: the same images.


@pytest.mark.slow
def test_the_page_of_the_generator(tmp_path, narrow, in_this_process):
    path = tmp_path / 'rows.json'
    generator.main(['--cases=config-e/16/b2', '--rounds=2', f'--json={path}'], 'bench')
    single, half = json.loads(path.read_text())
    assert [single['name'], half['name']] == ['generator/config-e/16/b2/float32', 'generator/config-e/16/b2/bfloat16']
    assert single['grey_levels'] == 0 < half['grey_levels'] < 2
    assert single['gflop'] == half['gflop'] and half['speedup'] == single['best_ms'] / half['best_ms']
    assert single['peak_mb'] > 100 and single['over_traced'] > 0


def test_the_page_of_kernels(tmp_path, monkeypatch):
    printed = {'0': [{'/a': 200.0, '/b': 50.0}, {'/a': 100.0, '/b': 60.0}],
               '1': [{'/a': 80.0, '/b': 70.0}, {'/a': 90.0, '/b': 100.0}]}

    def in_own_process(program, case, rounds, env):
        assert env['ONEDNN_MAX_CPU_ISA'] == 'AVX2' and case == 'training/demo/32/mb8'
        return json.dumps({'best_ms': printed[env['TF_ENABLE_ONEDNN_OPTS']].pop(0), 'gflop': {'/a': 4.0, '/b': 1.0},
                           'rate': 90 if env['TF_ENABLE_ONEDNN_OPTS'] == '0' else 100})
    monkeypatch.setattr(timing, 'in_own_process', in_own_process)
    path = tmp_path / 'rows.json'
    kernels.main(['--cases=training/demo/32/mb8', '--isa=AVX2', f'--json={path}'], 'bench')
    a, b = json.loads(path.read_text())
    assert a == {'name': 'training/demo/32/mb8/a', 'off_ms': 100, 'on_ms': 80, 'on_over_off': 1.25,
                 'matmul_gflops': 100, 'off_fraction': 0.4, 'on_fraction': 0.5}
    assert b['on_over_off'] == pytest.approx(50 / 70)


def test_what_the_page_of_kernels_times(capsys, narrow, short_limit):
    kernels.print_times('generator/config-e/16/b1', '1')
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found['best_ms']) == set(found['gflop']) == {'', '/traced'} and found['rate'] > 1


def test_the_page_of_augmentation(tmp_path, narrow):
    path = tmp_path / 'rows.json'
    augment.main(['--cases=config-e/4/mb4', '--augpipe=blit', '--rounds=1', f'--json={path}'], 'bench')
    rows = {row['name'].removeprefix('augment/config-e/4/mb4/blit/'): row for row in json.loads(path.read_text())}
    assert list(rows) == ['G_train', 'D_reg', 'D_train', 'iteration']
    for row in rows.values():
        assert row['share'] == row['augment_ms'] / row['iteration_ms'] > 0
    added = {phase: row['augment_ms'] for phase, row in rows.items() if phase != 'iteration'}
    assert rows['iteration']['augment_ms'] == pytest.approx(costs.average(added))
    assert rows['iteration']['iteration_ms'] > rows['G_train']['iteration_ms'] + rows['D_train']['iteration_ms']


def test_the_page_of_augmentation_measures_the_networks_of_the_demo():
    settings = (ROOT / 'Makefile').read_text()
    for name, value in augment.DEMO.items():
        text = ','.join(map(str, value)) if isinstance(value, list) else value
        assert f'--{name.lower().replace("_", "-")}={text} ' in settings


@pytest.mark.slow
def test_the_page_of_startup(tmp_path, narrow, in_this_process):
    path = tmp_path / 'rows.json'
    startup.main(['--rounds=1', '--resolution=8', '--training-resolution=8', '--minibatch=4', f'--json={path}',
                  '--training-flags=--fmap-base=64 --fmap-max=16 --latent-size=16 --mapping-layers=1 '
                  '--g-loss=G_logistic_ns --d-loss=D_logistic'], 'bench')
    rows = {row['name']: row for row in json.loads(path.read_text())}
    assert set(rows) == {*(f'startup/help/{name}' for name in startup.COMMANDS), 'startup/first picture/config-f/8',
                         'startup/first step/config-e/8/mb4', 'startup/opening/stylegan2/8/tensorflow',
                         'startup/opening/stylegan2/8/pytorch'}
    assert rows['startup/help/run_training']['best_s'] < rows['startup/first picture/config-f/8']['best_s']


def test_a_command_that_fails_is_not_timed(tmp_path):
    with pytest.raises(RuntimeError, match='nothing.pkl'):
        startup.seconds_of(['dataset_tool.py', 'create_from_hdf5', str(tmp_path), 'nothing.pkl'])


@pytest.mark.slow
def test_the_page_of_growth(tmp_path, monkeypatch, narrow, in_this_process):
    monkeypatch.setattr(growth, 'SERIES', {'resolution': [(4, 64, 4), (8, 64, 4)], 'minibatch': [(4, 64, 4)]})
    known, run = {}, timing.in_own_process

    def once(program, *arguments, env=None):  # The third case is the first one.
        if (program, arguments) not in known:
            known[program, arguments] = run(program, *arguments, env=env)
        return known[program, arguments]
    monkeypatch.setattr(timing, 'in_own_process', once)
    path = tmp_path / 'rows.json'
    growth.main(['--rounds=1', f'--json={path}', f'--plot={tmp_path / "plot.svg"}'], 'bench')
    small, large, other = json.loads(path.read_text())
    assert large['work_growth'] == large['gflop'] / small['gflop'] > 1
    assert small['time_growth'] == other['work_growth'] == 1
    circles = xml.etree.ElementTree.parse(tmp_path / 'plot.svg').getroot().findall('.//{*}circle')
    assert len(circles) == 5  # Three rows, and the ends of the line where time grows as the work does.


def test_figures_kept_stand_beside_new_ones(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timing, 'FIGURES', tmp_path)
    (tmp_path / 'page.json').write_text(json.dumps([{'name': 'x', 'ratio': 0.5}]))
    timing.report([{'name': 'x', 'ratio': 0.7}, {'name': 'new', 'ratio': 0.9}],
                  {'name': 's', 'ratio': '.1f', 'before': '.1f'}, before=('page', 'ratio'))
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ['name', 'ratio', 'before'], ['x', '0.7', '0.5'], ['new', '0.9']]


@pytest.mark.slow
def test_the_page_of_the_projector(tmp_path, capsys, narrow, in_this_process):
    path = tmp_path / 'p.json'
    projector.main(['--rounds=3', '--resolution=8', '--minibatch=1,2', '--distance=pixel', f'--json={path}'], 'bench')
    rows = json.loads(path.read_text())
    assert [row['name'] for row in rows] == ['projector/pixel/8/b1', 'projector/pixel/8/b2']
    for row in rows:
        assert row['ratio'] == row['step_best_ms'] / row['bare_best_ms'] and row['step_best_ms'] <= row['step_ms']
        assert 0 < row['fraction_of_bound'] < 1
    assert rows[1]['gflop'] == pytest.approx(2 * rows[0]['gflop'], rel=1e-3)
    table = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in table] == ['name', *(row['name'] for row in rows)]


@pytest.mark.slow
def test_the_page_of_latents(tmp_path, capsys, narrow, in_this_process):
    path = tmp_path / 'rows.json'
    latents.main(['--rounds=2', '--resolution=8', '--frames=8', '--samples=3000', f'--json={path}'], 'bench')
    film, directions = json.loads(path.read_text())
    assert (film['name'], directions['name']) == ('latents/film/config-f/8/mp4', 'latents/pca/config-f/3000')
    assert film['ratio'] == film['film_best_ms'] / film['bare_best_ms'] > 0
    assert directions['seconds'] > 0 and directions['peak_mb'] >= directions['start_mb'] > 0
    assert 'latents/film/config-f/8/mp4' in capsys.readouterr().out


def test_the_page_of_the_explorer(tmp_path, capsys, narrow):
    path = tmp_path / 'rows.json'
    explorer.main(['--rounds=2', '--resolutions=32', f'--json={path}'], 'bench')
    rows = json.loads(path.read_text())
    assert [row['name'] for row in rows] == ['explorer/config-f/32', 'explorer/narrow/32']
    for row in rows:
        assert row['extra_ms'] == row['picture_best_ms'] - row['bare_best_ms'] and row['bare_best_ms'] > 0
        assert row['preview_ratio'] == row['preview_best_ms'] / row['picture_best_ms'] > 0
    assert 'explorer/config-f/32' in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_of_export(tmp_path, capsys):
    pytest.importorskip('tf2onnx')
    path = tmp_path / 'rows.json'
    export.main(['--rounds=2', '--resolution=8', '--fmap-base=64', f'--json={path}'], 'bench')
    rows = json.loads(path.read_text())
    assert [row['name'].split('/')[-1] for row in rows] == ['Gs.run', 'onnxruntime', 'ai-edge-litert']
    assert all(row['best_ms'] <= row['ms'] and row['difference'] < 1e-5 for row in rows)
    assert 'export/config-f/8/onnxruntime' in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_of_metrics(tmp_path, capsys, narrow, in_this_process):
    metrics.main(['--rounds', '1', '--images', '16', '--resolution', '8', '--networks', 'efficientnet_lite0',
                  '--features', '50', '--json', str(tmp_path / 'rows.json')], 'bench')
    one_pass, half, single, plain = json.loads((tmp_path / 'rows.json').read_text())
    both_per_s = 1 / (1 / one_pass['generator_per_s'] + 1 / one_pass['network_per_s'])
    assert one_pass['both_per_s'] == pytest.approx(both_per_s)
    assert one_pass['ratio'] == pytest.approx(one_pass['evaluation_per_s'] / one_pass['both_per_s'])
    fraction = one_pass['evaluation_per_s'] * one_pass['gflop'] / one_pass['matmul_gflops']
    assert one_pass['fraction_of_bound'] == pytest.approx(fraction)
    assert 0 < one_pass['fraction_of_bound'] < 1
    assert one_pass['name'] == 'metrics/config-f/8/efficientnet_lite0'
    assert half['name'] == 'metrics/distances/float16 in blocks/50'
    for row in (half, single, plain):
        assert row['seconds'] > 0 and row['peak_mb'] >= row['start_mb'] > 0
        assert row['ratio'] == row['seconds'] / plain['seconds']
    assert 'float16 in blocks' in capsys.readouterr().out


def test_the_forms_of_precision_and_recall_that_are_timed_agree(monkeypatch):
    from metrics.precision_recall import knn_precision_recall
    monkeypatch.setattr(metrics, 'DIMS', 20)
    ref, eval_ = metrics.random_features(60, 'float32')
    for ours, plain in zip(knn_precision_recall(ref, eval_, [3], exact=True),
                           metrics.plain_precision_recall(ref, eval_, 3)):
        assert 0 < plain.mean() < 1 and (ours[:, 0] == plain).all()


def test_the_page_of_launches(tmp_path, narrow):
    """The update of the average Gs takes a few launches for all variables. The whole iteration took 1490 before layers
    of equal shape computed their styles together."""
    launches.main(['--cases=config-f/8/mb4', '--part=2', '--ops', f'--json={tmp_path / "rows.json"}'], 'bench')
    rows = {row['name'].split('part2')[1]: row['launches'] for row in json.loads((tmp_path / 'rows.json').read_text())}
    assert set(rows) == {'', '/G_train', '/G_reg', '/Gs_update', '/D_train', '/D_reg'}
    expected = rows['/G_train'] + rows['/G_reg'] / 4 + rows['/D_train'] + rows['/D_reg'] / 16 + rows['/Gs_update']
    assert rows[''] == pytest.approx(expected) and rows['/Gs_update'] < 10 and rows[''] < 1300


def test_what_counts_as_a_launch():
    var = tf.Variable(tf.ones([4, 4]))

    def part(x):
        y = tf.exp(x * 1.0) + 0.0  # One: the product and the sum change nothing.
        return tf.reshape(y, [2, 8]) + tf.reshape(tf.exp(x), [2, 8])  # One: the second exp is the first.

    def function(x, index):
        tf.sin(x)  # No result depends on it.
        loop = tf.while_loop(lambda i, _: i < index * 2, lambda i, y: (i + 1, tf.exp(y)), [0, x])[1]
        var.assign(loop * tf.sin(tf.constant([[1.0]])))  # One: the sine is a constant.
        return part(x), tf.expand_dims(x, 0)
    graph = tf.function(function, autograph=False).get_concrete_function(
        tf.TensorSpec([4, 4]), tf.TensorSpec([], tf.int32)).graph
    assert launches.count(graph, num_parts=5) == {'Exp': 1 + 5, 'AddV2': 1, 'Mul': 1}


@pytest.mark.slow
def test_the_page_of_stages(tmp_path, in_forks):
    """The coarse stage takes less time than the fine one, whatever else the machine does."""
    in_forks.widths(fmap_base=2048)
    stages.main(['--rounds', '1', '--configs', 'config-a', '--fmap-max', '32', '--json', str(tmp_path / 'rows.json')],
                'bench')
    coarse, middle, fine = json.loads((tmp_path / 'rows.json').read_text())
    assert [row['name'] for row in (coarse, middle, fine)] == [
        f'config-a/32/stage {size}x{size}' for size in (8, 16, 32)]
    assert coarse['time_ratio'] < 0.8 and fine['time_ratio'] == 1 and coarse['memory_mb'] < fine['memory_mb']


def test_pages_are_listed_and_others_refused():
    done = subprocess.run([sys.executable, '-m', 'bench', '--help'], capture_output=True, text=True)
    assert done.returncode == 0 and 'ops' in done.stdout and 'growth' in done.stdout
    done = subprocess.run([sys.executable, '-m', 'bench', 'nothing'], capture_output=True, text=True)
    assert done.returncode == 2 and 'PAGE' in done.stderr


def test_the_curve_for_the_docs(tmp_path):
    lines = [{'kimg': 1.0, 'Loss/G/loss': 2.0}, {'kimg': 1.0, 'Metrics/fid1k': 300.0},
             {'kimg': 2.0, 'Metrics/fid1k': 200.0}]
    (tmp_path / 'stats.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    plot = str(ROOT / 'docs' / 'plot.py')
    command = [sys.executable, plot, str(tmp_path / 'out.svg'), str(tmp_path)]
    env = {**os.environ, 'PYTHONPATH': os.getcwd()}
    done = subprocess.run([*command, 'Metrics/fid1k'], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout) == (0, 'Metrics/fid1k over kimg: 300.0 at 1, 200.0 at 2\n')
    picture = xml.etree.ElementTree.parse(tmp_path / 'out.svg').getroot()
    assert picture.tag == '{http://www.w3.org/2000/svg}svg' and len(picture.findall('.//{*}circle')) == 2
    done = subprocess.run([*command, 'Metrics/is1k'], capture_output=True, text=True, env=env)
    assert done.returncode == 2 and 'expected values of Metrics/is1k, found none' in done.stderr


@pytest.mark.slow
def test_the_page_of_small_data(tmp_path, capsys, monkeypatch):
    """A tiny network and 10 of 16 faces; a copy of its results takes the place of those without ADA."""
    import run_training
    with zipfile.ZipFile(ROOT / 'demo' / 'faces32.zip') as faces, zipfile.ZipFile(tmp_path / 'faces.zip', 'w') as few:
        for name in faces.namelist()[:16]:
            image = PIL.Image.open(io.BytesIO(faces.read(name))).resize((8, 8))
            image.save(data := io.BytesIO(), 'png')
            few.writestr(name, data.getvalue())
    settings = small_data.demo_settings()
    assert '--fmap-base=512' in settings and all(flag.startswith('--') for flag in settings)
    monkeypatch.setattr(small_data, 'demo_settings', lambda: [
        '--fmap-base=64', '--fmap-max=16', '--latent-size=16', '--mapping-layers=1', '--g-loss=G_logistic_ns',
        '--d-loss=D_logistic', '--minibatch-size=8', '--minibatch-gpu=8', '--lrate=0.004', '--g-smoothing-kimg=0.1'])
    monkeypatch.setattr(demo, 'METRICS', ('fd_efficientnet16', 'pr0.016k3_exact'))
    trained, measured = [], {}

    def train(flags):
        trained.append([flag for flag in flags if flag.startswith(('--aug', '--ada'))])
        if len(trained) == 1:
            run_training.main(flags)
        else:
            shutil.copytree(tmp_path / 'runs' / '10-ada-1', tmp_path / 'runs' / '10-none-1')

    def measure(self, snapshot, count, measure=small_data.Evaluation.measure):
        if snapshot.name not in measured:
            measured[snapshot.name] = measure(self, snapshot, count)
        return measured[snapshot.name]
    monkeypatch.setattr(small_data, 'train', train)
    monkeypatch.setattr(small_data.Evaluation, 'measure', measure)
    flags = [f'--faces={tmp_path / "faces.zip"}', f'--out={tmp_path}', f'--json={tmp_path / "rows.json"}', '--kimg=1',
             '--every=1', '--cases=10/ada/1,10/none/1']
    small_data.main(flags, 'bench')
    assert trained == [['--aug=ada', '--ada-kimg=20'], ['--aug=none']]
    small_data.main([*flags, f'--plot={tmp_path / "plot.svg"}', f'--pictures={tmp_path / "new.png"}', '--at', '1',
                     '--of=10/none/1,10/ada/1'], 'bench')
    assert len(trained) == 2
    ada, none = json.loads((tmp_path / 'rows.json').read_text())
    assert [row['name'] for row in (ada, none)] == ['small-data/10/ada/1', 'small-data/10/none/1']
    snapshot, = ada['snapshots']
    assert snapshot['kimg'] == 1 and snapshot['distance'] > 0 and 0 <= snapshot['thumbnail_recall'] <= 1
    assert len({snapshot['reals'], snapshot['held_out'], snapshot['fakes']}) == 3
    tick = ada['ticks'][-1]
    assert 1 <= tick['kimg'] < 1.1 and -1 <= tick['r_t'] <= 1 and 0 <= tick['p'] <= 0.1
    assert {key: none[key] for key in ('aug', 'seed')} == {'aug': 'none', 'seed': 1}
    assert none['snapshots'] == ada['snapshots'] and none['ticks'] == ada['ticks']
    assert PIL.Image.open(tmp_path / 'new.png').size == (2 * (8 * 8 + 4 + 8 * 8), 2 * 2 * 8)
    root = xml.etree.ElementTree.parse(tmp_path / 'plot.svg').getroot()
    assert [text for text in root.itertext() if "D's mean scores" in text] == ["D's mean scores, 10 faces, first seed"]
    assert capsys.readouterr().out.count('small-data/10/ada/1') == 2
    assert small_data.gap({'reals': 3.0, 'held_out': 2.0, 'fakes': -1.0}) == 0.25
    with pytest.raises(SystemExit):
        small_data.main([*flags, '--cases=17/ada/1'], 'bench')
    assert "--cases: expected NUMBER/none/SEED or NUMBER/ada/SEED, NUMBER from 2 to 16, found '17/ada/1'" in (
        capsys.readouterr().err)


def test_the_page_of_the_family(tmp_path, capsys, monkeypatch):
    """Tiny networks that are trained for 32 images of 8x8; the case that was not trained to its end goes on."""
    import run_training
    with zipfile.ZipFile(ROOT / 'demo' / 'faces32.zip') as faces, zipfile.ZipFile(tmp_path / 'faces.zip', 'w') as few:
        for name in faces.namelist()[:16]:
            image = PIL.Image.open(io.BytesIO(faces.read(name))).resize((8, 8))
            image.save(data := io.BytesIO(), 'png')
            few.writestr(name, data.getvalue())
    monkeypatch.setattr(small_data, 'demo_settings', lambda: [
        '--fmap-base=64', '--fmap-max=16', '--latent-size=16', '--mapping-layers=1', '--resample-kernel=1,1',
        '--g-loss=G_logistic_ns', '--minibatch-size=8', '--minibatch-gpu=8', '--lrate=0.004', '--gamma=0.5'])
    monkeypatch.setattr(demo, 'METRICS', ('fd_efficientnet16', 'pr0.016k3_exact'))
    trained = []

    def train(flags):
        trained.append(flags)
        if len(trained) < 3:
            run_training.main([*(flag for flag in flags if not flag.startswith('--max')), '--total-kimg=0.016'])
        else:
            finished.touch()  # How runs go on is tested elsewhere.
    monkeypatch.setattr(family, 'train', train)
    flags = [f'--faces={tmp_path / "faces.zip"}', f'--out={tmp_path}', f'--json={tmp_path / "rows.json"}',
             '--minutes=3', '--cases=msg-stylegan,progan']
    family.main(flags, 'bench')
    msg, progan = ({flag.split('=')[0]: flag.split('=')[1] for flag in flags} for flags in trained)
    assert msg['--gamma'] == '0.5' and '--resample-kernel' not in msg and '--lod-training-kimg' not in msg
    assert progan['--lod-training-kimg'] == progan['--lod-transition-kimg'] == '0.2500'  # Of 1.5 kimg a sixth.
    assert not {'--gamma', '--mapping-layers', '--g-loss', '--lrate'} & set(progan)
    assert {each['--max-minutes'] for each in (msg, progan)} == {'3.00'}
    rows = json.loads((tmp_path / 'rows.json').read_text())
    assert [row['name'] for row in rows] == ['family/msg-stylegan/3min', 'family/progan/3min']
    assert all(row['kimg'] == 0.032 and row['distance'] > 0 and 0 <= row['recall'] <= 1 for row in rows)
    (finished,) = (tmp_path / 'runs' / 'progan-3min').glob('*/_finished.txt')
    finished.unlink()
    (tmp_path / 'rows.json').write_text(json.dumps(rows[:1]))
    family.main([*flags, f'--pictures={tmp_path / "new.png"}', '--at', '0', '1'], 'bench')
    assert len(trained) == 3 and float(trained[2][4].split('=')[1]) < 3  # Less what the run has used.
    assert '--resume=latest' in trained[2]
    assert PIL.Image.open(tmp_path / 'new.png').size == (2 * (2 * 64 + 4), 2 * (2 * 16 + 4))
    assert capsys.readouterr().out.count('family/progan/3min') == 2
    with pytest.raises(SystemExit):
        family.main([*flags, '--cases=config-x'], 'bench')
    assert "--cases: expected some of progan, stylegan-f, config-c, config-e, msg-stylegan, found 'config-x'" in (
        capsys.readouterr().err)


def test_the_clock_of_the_family_counts_cpu_time(capfd):
    """Its program, with a module in the place of run_training."""
    source = 'import time\ndef main(argv): print(argv, time.monotonic is time.process_time)'
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_data, 'ROOT', folder)
        with open(f'{folder}/run_training.py', 'w', encoding='utf-8') as file:
            file.write(source)
        family.train(['--a', '--b=c'])
    assert capfd.readouterr().out == "['--a', '--b=c'] True\n"


def test_measures_of_thumbnails_tell_varied_faces_from_alike_ones_and_do_not_see_grain():
    rng = np.random.RandomState(0)
    reals = np.repeat(np.repeat(rng.uniform(50, 200, [40, 3, 8, 8]), 4, axis=2), 4, axis=3)
    grain = np.tile(np.array([[20, -20], [-20, 20]], np.float32), [16, 16])
    same = demo.thumbnail_measures(reals, reals + grain)
    assert (same['thumbnails/precision'], same['thumbnails/recall']) == (1, 1)
    assert abs(same['thumbnails/variety'] - 1) < 1e-3
    alike = demo.thumbnail_measures(reals, reals[:1] + 0.1 * (reals - reals[:1]))
    assert alike['thumbnails/recall'] < 0.1 and abs(alike['thumbnails/variety'] - 0.1) < 1e-3
