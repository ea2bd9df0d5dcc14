import json
import os
import pathlib
import subprocess
import sys
import time
import types

import pytest

import run_training
import training
from dnnlib import cli

REPO = pathlib.Path(run_training.__file__).parent


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A working folder with the dataset datasets/ds, and a training loop that only notes its arguments in `calls`."""
    (tmp_path / 'datasets' / 'ds').mkdir(parents=True)
    (tmp_path / 'datasets' / 'ds' / 'ds-r05.tfrecords').write_bytes(b'')
    monkeypatch.chdir(tmp_path)
    fake = types.ModuleType('training.training_loop')
    fake.calls = []
    fake.training_loop = lambda **kwargs: fake.calls.append(kwargs)
    monkeypatch.setitem(sys.modules, 'training.training_loop', fake)
    monkeypatch.setattr(training, 'training_loop', fake, raising=False)
    return types.SimpleNamespace(path=tmp_path, calls=fake.calls)


def refused(*argv):
    with pytest.raises(cli.UserError) as caught:
        run_training.main(['--dataset=ds', *argv])
    assert not os.path.exists('results'), 'a refused run left a folder'
    return caught.value


def test_plain_call_trains_config_f_with_the_originals_defaults(home, capsys):
    run_training.main(['--dataset=ds'])
    call, = home.calls
    assert call['run_dir'] == os.path.join('results', '00000-stylegan2-ds-1gpu-config-f')
    assert (call['num_gpus'], call['total_kimg'], call['mirror_augment'], call['data_dir']) == (1, 25000, False, 'datasets')
    assert (call['image_snapshot_ticks'], call['network_snapshot_ticks'], call['D_loss_args']['gamma']) == (10, 10, 10)
    assert (call['dataset_args'], call['tf_config']) == ({'tfrecord_dir': 'ds'}, {'rnd.np_random_seed': 1000})
    assert not {'impl', 'G_smoothing_kimg', 'resume_pkl', 'resume_kimg', 'run_func_name'} & set(call)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f'Local submit - run_dir: {call["run_dir"]}'
    assert lines[1] == 'dnnlib: Running training.training_loop.training_loop() on localhost...'
    assert lines[-1].startswith('dnnlib: Finished training.training_loop.training_loop() in ')
    assert os.path.exists(os.path.join(call['run_dir'], '_finished.txt'))


def test_every_flag_reaches_the_training_loop(home):
    run_training.main([
        '--dataset=ds', '--data-dir=datasets', '--result-dir=out', '--config=config-e-Gskip-Dorig', '--total-kimg=0.5',
        '--gamma=3', '--mirror-augment=true', '--metrics=none', '--minibatch-size=16', '--minibatch-gpu=8', '--fmap-base=1024',
        '--fmap-max=64', '--mapping-layers=4', '--latent-size=128', '--lrate=0.0025', '--g-smoothing-kimg=0.25', '--image-snapshot-ticks=3',
        '--network-snapshot-ticks=4', '--tick-kimg=0.1', '--seed=7', '--impl=ref'])
    call, = home.calls
    assert call['run_dir'] == os.path.join('out', '00000-stylegan2-ds-1gpu-config-e-Gskip-Dorig')
    assert call['G_args'] == dict(func_name='training.networks_stylegan2.G_main', architecture='skip', fmap_base=1024, fmap_max=64,
                                  latent_size=128, dlatent_size=128, mapping_fmaps=128, mapping_layers=4)
    assert call['D_args'] == dict(func_name='training.networks_stylegan2.D_stylegan2', architecture='orig', fmap_base=1024, fmap_max=64)
    assert call['D_loss_args'] == dict(func_name='training.loss.D_logistic_r1', gamma=3)
    assert call['sched_args'] == dict(
        G_lrate_base=0.0025, G_lrate_dict={}, D_lrate_base=0.0025, D_lrate_dict={}, minibatch_size_base=16, minibatch_size_dict={},
        minibatch_gpu_base=8, minibatch_gpu_dict={}, tick_kimg_base=0.1, tick_kimg_dict={})
    expected = dict(num_gpus=1, total_kimg=0.5, mirror_augment=True, metric_arg_list=[], G_smoothing_kimg=0.25, image_snapshot_ticks=3,
                    network_snapshot_ticks=4, tf_config={'rnd.np_random_seed': 7}, impl='ref')
    assert {name: call[name] for name in expected} == expected


def test_resume_flags_reach_the_training_loop(home):
    (home.path / 'net.pkl').write_bytes(b'')
    run_training.main(['--dataset=ds', '--resume-pkl=net.pkl', '--resume-kimg=12.5'])
    assert (home.calls[0]['resume_pkl'], home.calls[0]['resume_kimg']) == ('net.pkl', 12.5)
    assert '--fmap-base' in refused_after(home, '--resume-pkl=net.pkl', '--fmap-base=64').remedy
    assert '--num-gpus=2' in refused_after(home, '--num-gpus=2').fact


def refused_after(home, *argv):
    with pytest.raises(cli.UserError) as caught:
        run_training.main(['--dataset=ds', *argv])
    return caught.value


def test_submit_config_holds_the_arguments_of_the_loop(home):
    run_training.main(['--dataset=ds', '--gamma=3'])
    call, = home.calls
    config = json.loads((home.path / call['run_dir'] / 'submit_config.json').read_text())
    assert config['run_func_kwargs'] == json.loads(json.dumps({key: call[key] for key in call if key not in ('run_dir', 'num_gpus')}))


def test_dry_run_prints_the_configuration_as_json_and_makes_nothing(home, capsys):
    run_training.main(['--dataset=ds', '--gamma=3', '--dry-run'])
    config = json.loads(capsys.readouterr().out)
    assert config['run_desc'] == 'stylegan2-ds-1gpu-config-f'
    assert config['run_func_kwargs']['D_loss_args']['gamma'] == 3
    assert home.calls == []
    assert os.listdir(home.path) == ['datasets']


def test_metrics_come_from_their_table(home):
    run_training.main(['--dataset=ds', '--metrics=is50k,fid5k,is50k'])
    run_training.main(['--dataset=ds', '--metrics=none'])
    run_training.main(['--dataset=ds'])
    asked, none, default = home.calls
    assert [(args['name'], args['num_images']) for args in asked['metric_arg_list']] == [('is50k', 50000), ('fid5k', 5000)]
    assert none['metric_arg_list'] == [] and [args['name'] for args in default['metric_arg_list']] == ['fid50k']
    # What was asked for is an error if it cannot be had; what is there by default is left out then.
    assert [call.get('require_metrics', True) for call in home.calls] == [True, True, False]


def test_unknown_metrics(home):
    err = refused('--metrics=fid50k,nonsense')
    assert "'nonsense'" in err.fact and 'ppl_zfull' in err.remedy


# ---- Mistakes: one clear line each, before anything is made ----

def test_unknown_configuration(home):
    err = refused('--config=config-g')
    assert "'config-g'" in err.fact and 'config-e-Gresnet-Dskip' in err.remedy


def test_missing_dataset_lists_those_that_exist(home):
    err = refused('--dataset=dss')
    assert os.path.join('datasets', 'dss') in err.fact and err.remedy == 'In datasets there is ds.'


def test_missing_data_dir(home):
    err = refused('--data-dir=nowhere')
    assert os.path.join('nowhere', 'ds') in err.fact and '--data-dir' in err.remedy


def test_dataset_folder_without_tfrecords(home):
    (home.path / 'datasets' / 'empty').mkdir()
    err = refused('--dataset=empty')
    assert '.tfrecords' in err.fact and 'create_from_images' in err.remedy


def test_minibatch_that_does_not_divide(home):
    err = refused('--minibatch-size=6')
    assert '6' in err.fact and '--minibatch-gpu=3' in err.remedy


def test_missing_resume_pickle(home):
    assert 'gone.pkl' in refused('--resume-pkl=gone.pkl').fact


def test_dry_run_checks_the_same(home):
    assert 'gone.pkl' in refused('--resume-pkl=gone.pkl', '--dry-run').fact


@pytest.mark.parametrize('flag', [
    '--total-kimg=0', '--total-kimg=x', '--minibatch-size=0', '--num-gpus=-1', '--lrate=nan', '--gamma=-1', '--seed=-1',
    '--fmap-base=1.5', '--mirror-augment=perhaps', '--no-such-flag', '--resume-kimg=-1'])
def test_bad_values_are_usage_errors_that_name_the_flag(home, flag, capsys):
    with pytest.raises(SystemExit) as caught:
        run_training.main(['--dataset=ds', flag])
    assert caught.value.code == 2
    assert flag.split('=')[0] in capsys.readouterr().err.splitlines()[-1]
    assert os.listdir(home.path) == ['datasets']


def test_dataset_is_required(home, capsys):
    with pytest.raises(SystemExit) as caught:
        run_training.main([])
    assert caught.value.code == 2
    assert '--dataset' in capsys.readouterr().err


# ---- As a command ----

def command(*argv, **kwargs):
    return subprocess.run([sys.executable, str(REPO / 'run_training.py'), *argv], capture_output=True, text=True, **kwargs)


def test_mistake_on_the_command_line_is_two_lines_and_exit_code_1(tmp_path):
    done = command('--dataset=ds', cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ''
    assert done.stderr.startswith('Error: ') and len(done.stderr.splitlines()) == 2
    assert os.listdir(tmp_path) == []


def test_help_answers_in_under_half_a_second_with_every_flag():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = command('--help')
        seconds.append(time.perf_counter() - start)
    assert done.returncode == 0 and 'examples:' in done.stdout
    assert min(seconds) < 0.5
