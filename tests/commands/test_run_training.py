import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import types

import pytest

import run_training
import training
from dnnlib import cli
from tests import ROOT
from tests.light_help import help_of
from training.run.last_files import NotInPlace


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
    assert (call['num_gpus'], call['total_kimg']) == (1, 25000)
    assert (call['mirror_augment'], call['data_dir']) == (False, 'datasets')
    assert (call['image_snapshot_ticks'], call['network_snapshot_ticks'], call['D_loss_args']['gamma']) == (10, 10, 10)
    assert (call['dataset_args'], call['tf_config']) == ({'tfrecord_dir': 'ds'}, {'rnd.np_random_seed': 1000})
    assert not {'impl', 'precision', 'tf32', 'keep_snapshots', 'G_smoothing_kimg', 'resume_pkl', 'resume_kimg',
                'run_func_name'} & set(call)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f'Local submit - run_dir: {call["run_dir"]}'
    assert lines[1] == 'dnnlib: Running training.training_loop.training_loop() on localhost...'
    assert lines[-1].startswith('dnnlib: Finished training.training_loop.training_loop() in ')
    assert os.path.exists(os.path.join(call['run_dir'], '_finished.txt'))


def test_every_flag_reaches_the_training_loop(home):
    run_training.main([
        '--dataset=ds', '--data-dir=datasets', '--result-dir=out', '--config=config-e-Gskip-Dorig', '--total-kimg=0.5',
        '--gamma=3', '--mirror-augment=true', '--metrics=none', '--minibatch-size=16', '--minibatch-gpu=8',
        '--fmap-base=1024', '--fmap-max=64', '--mapping-layers=4', '--latent-size=128', '--lrate=0.0025',
        '--g-smoothing-kimg=0.25', '--image-snapshot-ticks=3', '--network-snapshot-ticks=4', '--tick-kimg=0.1',
        '--seed=7', '--impl=ref', '--checkpoint-ticks=5', '--checkpoint-minutes=1.5', '--keep-checkpoints=3',
        '--precision=mixed_float16', '--max-minutes=7.5', '--resample-kernel=1,2,1', '--tf32=true',
        '--keep-snapshots=6'])
    call, = home.calls
    assert call['run_dir'] == os.path.join('out', '00000-stylegan2-ds-1gpu-config-e-Gskip-Dorig')
    assert call['G_args'] == dict(func_name='training.networks_stylegan2.G_main', architecture='skip', fmap_base=1024,
                                  fmap_max=64, latent_size=128, dlatent_size=128, mapping_fmaps=128, mapping_layers=4,
                                  resample_kernel=[1, 2, 1])
    assert call['D_args'] == dict(func_name='training.networks_stylegan2.D_stylegan2', architecture='orig',
                                  fmap_base=1024, fmap_max=64, resample_kernel=[1, 2, 1])
    assert call['D_loss_args'] == dict(func_name='training.loss.D_logistic_r1', gamma=3)
    assert call['sched_args'] == dict(
        G_lrate_base=0.0025, G_lrate_dict={}, D_lrate_base=0.0025, D_lrate_dict={}, minibatch_size_base=16,
        minibatch_size_dict={}, minibatch_gpu_base=8, minibatch_gpu_dict={}, tick_kimg_base=0.1, tick_kimg_dict={})
    expected = dict(num_gpus=1, total_kimg=0.5, mirror_augment=True, metric_arg_list=[], G_smoothing_kimg=0.25,
                    image_snapshot_ticks=3, network_snapshot_ticks=4, tf_config={'rnd.np_random_seed': 7}, impl='ref',
                    checkpoint_ticks=5, checkpoint_minutes=1.5, keep_checkpoints=3, precision='mixed_float16',
                    resume=None, max_minutes=7.5, tf32=True, keep_snapshots=6)
    assert {name: call[name] for name in expected} == expected
    assert 0 <= time.monotonic() - call['started'] < 60


def test_the_preset_auto_reads_the_resolution_from_the_dataset(home):
    run_training.main(['--dataset=ds', '--config=auto', '--num-gpus=2', '--target=0.5'])
    call, = home.calls
    assert call['run_dir'] == os.path.join('results', '00000-stylegan2-ds-2gpu-auto')
    assert call['D_loss_args']['gamma'] == pytest.approx(0.0002 * 32 ** 2 / 64)
    assert (call['sched_args']['minibatch_size_base'], call['sched_args']['minibatch_gpu_base']) == (64, 32)
    assert (call['augpipe'], call['ada_target'], call['total_kimg']) == ('bgc', 0.5, 25000)
    os.rename('datasets/ds/ds-r05.tfrecords', 'datasets/ds/ds.tfrecords')
    assert 'expected files NAME-rNN.tfrecords' in refused_after(home, '--config=auto').fact
    assert 'there is no folder' in refused_after(home, '--config=auto', '--dataset=other').fact


def test_an_unknown_precision_is_refused_with_those_there_are(home, capsys):
    with pytest.raises(SystemExit):
        run_training.main(['--dataset=ds', '--precision=float16'])
    assert re.search(r"--precision: invalid choice: 'float16' \(choose from .?float32.*bfloat16.*mixed_float16",
                     capsys.readouterr().err)


def test_resume_flags_reach_the_training_loop(home):
    (home.path / 'net.pkl').write_bytes(b'')
    run_training.main(['--dataset=ds', '--resume-pkl=net.pkl', '--resume-kimg=12.5', '--freeze-d=3'])
    assert [home.calls[0][name] for name in ('resume_pkl', 'resume_kimg', 'freeze_d')] == ['net.pkl', 12.5, 3]
    assert '--fmap-base' in refused_after(home, '--resume-pkl=net.pkl', '--fmap-base=64').remedy


def refused_after(home, *argv):
    with pytest.raises(cli.UserError) as caught:
        run_training.main(['--dataset=ds', *argv])
    return caught.value


def test_several_gpus_and_workers(home, capsys, monkeypatch):
    run_training.main(['--dataset=ds', '--num-gpus=4'])
    assert home.calls[0]['num_gpus'] == 4
    assert home.calls[0]['run_dir'] == os.path.join('results', '00000-stylegan2-ds-4gpu-config-f')
    capsys.readouterr()
    monkeypatch.setenv('TF_CONFIG',
                       json.dumps({'cluster': {'worker': ['a:1', 'b:1']}, 'task': {'type': 'worker', 'index': 1}}))
    run_training.main(['--dataset=ds', '--num-gpus=4'])
    assert home.calls[1] == {**home.calls[0], 'run_dir': None, 'on_start': None, 'on_end': None}
    assert capsys.readouterr().out == 'Worker 1 of 2: training, and leaving the report to the chief.\n'
    assert os.listdir('results') == ['00000-stylegan2-ds-4gpu-config-f']


def test_submit_config_holds_the_arguments_of_the_loop(home):
    run_training.main(['--dataset=ds', '--gamma=3', '--max-minutes=5'])
    call, = home.calls
    config = json.loads((home.path / call['run_dir'] / 'submit_config.json').read_text())
    others = {'run_dir', 'num_gpus', 'resume', 'settings', 'on_start', 'on_end', 'started', 'make_evaluation'}
    assert config['run_func_kwargs'] == json.loads(json.dumps({key: call[key] for key in call if key not in others}))


def test_dry_run_prints_the_configuration_as_json_and_makes_nothing(home, capsys):
    run_training.main(['--dataset=ds', '--gamma=3', '--dry-run'])
    config = json.loads(capsys.readouterr().out)
    assert config['run_desc'] == 'stylegan2-ds-1gpu-config-f'
    assert config['run_func_kwargs']['D_loss_args']['gamma'] == 3
    call, = home.calls
    assert call['dry_run'] is True and call['run_dir'] is None
    assert os.listdir(home.path) == ['datasets']


# ---- Going on from a checkpoint ----

@pytest.fixture
def stopped(home):
    """Function: run_training with these arguments, as if it had been killed with a checkpoint at `nimg`; returns the
    run's folder."""
    def stopped(*argv, nimg=8000):
        run_training.main(['--dataset=ds', *argv])
        call = home.calls.pop()
        os.remove(os.path.join(call['run_dir'], '_finished.txt'))
        folder = home.path / call['run_dir'] / 'checkpoints' / f'kimg-{nimg // 1000:06d}.000'
        folder.mkdir(parents=True)
        (folder / 'state.json').write_text(json.dumps({'format': 1, 'settings': call['settings'],
                                                       'progress': {'cur_nimg': nimg}}))
        (folder / 'variables.index').write_text('')
        sums = [f'{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n'
                for name in ('state.json', 'variables.index')]
        (folder / 'sha256sums.txt').write_text(''.join(sums))
        return call['run_dir']
    return stopped


def test_latest_goes_on_in_the_folder_of_the_run(home, stopped, capsys):
    folder = stopped('--gamma=3')
    log = (home.path / folder / 'log.txt').read_text()
    run_training.main(['--dataset=ds', '--gamma=3', '--resume=latest'])
    call, = home.calls
    assert call['run_dir'] == folder and os.listdir('results') == [os.path.basename(folder)]
    path, state = call['resume']
    assert path == os.path.join(folder, 'checkpoints', 'kimg-000008.000') and state['progress'] == {'cur_nimg': 8000}
    assert (home.path / folder / 'log.txt').read_text().startswith(log + 'dnnlib: Running')
    assert json.loads((home.path / folder / 'submit_config.json').read_text())['run_id'] == 0


def test_latest_without_a_run_begins_one_and_says_so(home, stopped, capsys):
    stopped('--config=config-e')
    run_training.main(['--dataset=ds', '--resume=latest'])
    call, = home.calls
    assert call['resume'] is None and call['run_dir'] == os.path.join('results', '00001-stylegan2-ds-1gpu-config-f')
    expected = '--resume=latest: no run stylegan2-ds-1gpu-config-f with a checkpoint in results, a new one begins.'
    assert expected in capsys.readouterr().out


def test_a_run_goes_on_with_another_number_of_gpus(home, stopped):
    folder = stopped()
    run_training.main(['--dataset=ds', '--num-gpus=4', f'--resume={folder}'])
    call, = home.calls
    assert call['run_dir'] == folder and call['num_gpus'] == 4 and call['resume']


def test_all_flags_that_differ_are_named(home, stopped):
    folder = stopped('--seed=1', '--gamma=3')
    with pytest.raises(cli.UserError, match='was made with --gamma=3, --seed=1, this command has --gamma=5, --seed=2'):
        run_training.main(['--dataset=ds', '--gamma=5', '--seed=2', f'--resume={folder}'])


def test_another_number_of_gpus_is_not_named_as_the_difference(home, stopped):
    folder = stopped()
    with pytest.raises(cli.UserError, match='was made with no --lrate, this command has --lrate=0.001'):
        run_training.main(['--dataset=ds', '--num-gpus=4', '--lrate=0.001', f'--resume={folder}'])


def test_a_resume_that_the_training_loop_refuses_leaves_the_files_of_the_run(home, stopped, monkeypatch):
    folder = home.path / stopped('--total-kimg=8')
    (folder / '_finished.txt').write_text('All 8 kimg are done.\n')
    names = 'submit_config.json', 'submit_config.txt', '_finished.txt'
    before = [(folder / name).read_text() for name in names]

    def refuse(**kwargs):
        raise cli.UserError('the checkpoint does not fit', 'Give another.')
    monkeypatch.setattr(sys.modules['training.training_loop'], 'training_loop', refuse)
    with pytest.raises(cli.UserError, match='does not fit'):
        run_training.main(['--dataset=ds', f'--resume={folder}', '--total-kimg=9'])
    assert [(folder / name).read_text() for name in names] == before

    def stop(on_start, **kwargs):
        on_start()
        raise cli.Stopped
    monkeypatch.setattr(sys.modules['training.training_loop'], 'training_loop', stop)
    with pytest.raises(cli.Stopped):
        run_training.main(['--dataset=ds', f'--resume={folder}', '--total-kimg=9'])
    assert not (folder / '_finished.txt').exists()
    assert json.loads((folder / 'submit_config.json').read_text())['run_func_kwargs']['total_kimg'] == 9


def test_a_checkpoint_begins_a_new_run(home, stopped):
    folder = stopped()
    run_training.main(['--dataset=ds', f'--resume={folder}/checkpoints/kimg-000008.000'])
    assert home.calls[0]['run_dir'] == os.path.join('results', '00001-stylegan2-ds-1gpu-config-f')
    assert home.calls[0]['resume']


def test_a_note_about_damage_is_in_the_log(home, stopped):
    folder = home.path / stopped()
    shutil.copytree(folder / 'checkpoints' / 'kimg-000008.000', folder / 'checkpoints' / 'kimg-000012.000')
    (folder / 'checkpoints' / 'kimg-000012.000' / 'state.json').write_text('{}')
    run_training.main(['--dataset=ds', '--resume=latest'])
    log = (folder / 'log.txt').read_text()
    assert 'kimg-000012.000 is damaged: the checksum of state.json does not match. Going on' in log


@pytest.mark.parametrize('before, after, expected', [
    ([], ['--gamma=50'], 'was made with no --gamma, this command has --gamma=50'),
    (['--gamma=3'], ['--gamma=50'], 'was made with --gamma=3, this command has --gamma=50'),
    (['--mirror-augment=true'], [], 'was made with --mirror-augment=true, this command has --mirror-augment=false'),
    ([], ['--config=config-e'], 'was made with --config=config-f, this command has --config=config-e'),
    (['--seed=1'], ['--seed=2'], '--seed=1, this command has --seed=2'),
    (['--minibatch-size=16'], [], 'was made with --minibatch-size=16, this command has no --minibatch-size'),
    ([], ['--lrate=0.001'], '--lrate=0.001'), ([], ['--fmap-max=64'], '--fmap-max=64'),
    ([], ['--g-smoothing-kimg=5'], '--g-smoothing-kimg=5'),
    ([], ['--cond=true'], 'no --cond, this command|--cond=false, this command has --cond=true'),
    ([], ['--d-loss=D_logistic'], 'this command has --d-loss=D_logistic'),
    (['--resume-pkl=net.pkl'], ['--resume-pkl=net.pkl', '--freeze-d=2'],
     'was made with no --freeze-d, this command has --freeze-d=2'),
    ([], ['--aug=ada'], 'was made with no --aug, this command has --aug=ada'),
    (['--config=auto'], ['--config=auto', '--num-gpus=2'],  # It decides the minibatch and gamma.
     'was made with --num-gpus=1, this command has --num-gpus=2'),
])
def test_settings_that_do_not_agree_are_named(home, stopped, before, after, expected):
    (home.path / 'net.pkl').write_bytes(b'')
    folder = stopped(*before)
    for dry_run in ([], ['--dry-run']):
        with pytest.raises(cli.UserError, match=expected) as err:
            run_training.main(['--dataset=ds', f'--resume={folder}', *after, *dry_run])
        assert f'{folder}/checkpoints/kimg-000008.000' in err.value.fact and '--resume-pkl' in err.value.remedy
    assert home.calls == [] and os.listdir('results') == [os.path.basename(folder)]


def test_length_and_reports_may_differ(home, stopped):
    (home.path / 'net.pkl').write_bytes(b'')
    folder = stopped('--tick-kimg=1', '--resume-pkl=net.pkl')
    os.remove(home.path / 'net.pkl')  # The pickle that the run started from is no longer needed.
    shutil.move('datasets', 'elsewhere')
    run_training.main([
        '--dataset=ds', f'--resume={folder}', '--total-kimg=9', '--tick-kimg=0.5', '--image-snapshot-ticks=1',
        '--impl=ref', '--network-snapshot-ticks=2', '--metrics=none', '--checkpoint-ticks=1', '--checkpoint-minutes=5',
        '--keep-checkpoints=9', '--data-dir=elsewhere', '--minibatch-gpu=2', '--resume-pkl=net.pkl',
        '--max-minutes=60'])
    assert home.calls[0]['total_kimg'] == 9


def test_a_value_equal_to_the_default_is_the_default(home, stopped):
    folder = stopped()
    run_training.main(['--dataset=ds', f'--resume={folder}', '--gamma=10', '--minibatch-size=32',
                       '--g-loss=G_logistic_ns_pathreg'])
    assert home.calls


def test_a_finished_run_wants_a_larger_total(home, stopped):
    folder = stopped('--total-kimg=8')
    run_training.main(['--dataset=ds', '--total-kimg=8', '--resume=latest'])  # Killed before it had finished.
    assert home.calls.pop()['run_dir'] == folder and os.path.exists(os.path.join(folder, '_finished.txt'))
    for what in ('latest', folder, f'{folder}/checkpoints/kimg-000008.000'):
        with pytest.raises(cli.UserError, match='--total-kimg=8 is reached already'):
            run_training.main(['--dataset=ds', '--total-kimg=8', f'--resume={what}'])
    run_training.main(['--dataset=ds', '--total-kimg=9', '--resume=latest'])
    assert home.calls[0]['run_dir'] == folder


def test_why_a_run_ended_is_in_its_folder(home, monkeypatch):
    monkeypatch.setattr(sys.modules['training.training_loop'], 'training_loop',
                        lambda on_end, **kwargs: on_end('The time was over.'))
    run_training.main(['--dataset=ds', '--max-minutes=5'])
    folder = home.path / 'results' / '00000-stylegan2-ds-1gpu-config-f'
    assert (folder / '_finished.txt').read_text() == 'The time was over.\n'


def test_when_stopped_it_prints_the_command_to_go_on(home, monkeypatch, capsys):
    def stop(**kwargs):
        raise cli.Stopped
    monkeypatch.setattr(sys.modules['training.training_loop'], 'training_loop', stop)
    for argv in (['--resume=latest'], ['--resume', 'latest']):
        with pytest.raises(SystemExit) as err:
            cli.run(run_training.main, ['--dataset=ds', *argv, '--result-dir=my results'])
        assert err.value.code == cli.EXIT_STOPPED == 75
        line = capsys.readouterr().out.splitlines()[-1]
        folder = f'my results/{sorted(os.listdir("my results"))[-1]}'
        assert line == f"To go on: python run_training.py --dataset=ds '--result-dir=my results' '--resume={folder}'"
        log = (home.path / folder / 'log.txt').read_text()
        assert log.endswith(f'{line}\n')
        assert 'Traceback' not in log
        assert not (home.path / folder / '_finished.txt').exists()


def test_if_the_disk_is_full_at_the_end_it_prints_the_command_to_go_on(home, monkeypatch, capsys):
    def end_on_a_full_disk(**kwargs):
        raise NotInPlace('no space for the checkpoint', 'Make room.', "mv '/tmp/a b/kimg-000008.000' checkpoints && ")
    monkeypatch.setattr(sys.modules['training.training_loop'], 'training_loop', end_on_a_full_disk)
    with pytest.raises(SystemExit) as err:
        cli.run(run_training.main, ['--dataset=ds'])
    out, error = capsys.readouterr()
    assert err.value.code == 1 and error == 'Error: no space for the checkpoint\nMake room.\n'
    assert out.splitlines()[-1] == ("To go on: mv '/tmp/a b/kimg-000008.000' checkpoints && python run_training.py "
                                    '--dataset=ds --resume=results/00000-stylegan2-ds-1gpu-config-f')


def test_metrics_come_from_their_table(home):
    run_training.main(['--dataset=ds', '--metrics=is50k,fid5k,is50k'])
    run_training.main(['--dataset=ds', '--metrics=none'])
    run_training.main(['--dataset=ds'])
    asked, none, default = home.calls
    names = [(args['name'], args['num_images']) for args in asked['metric_arg_list']]
    assert names == [('is50k', 50000), ('fid5k', 5000)]
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


def test_many_datasets_are_listed_in_part_the_nearest_first(home):
    for idx in range(100):
        (home.path / 'datasets' / f'other{idx:03d}').mkdir()
    remedy = refused('--dataset=dss').remedy
    assert remedy.startswith('In datasets there is ds, other') and remedy.endswith(' and 93 others.')


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
    err = refused('--resume-pkl=/dev/zero')
    assert err.fact == '--resume-pkl: /dev/zero: expected a network pickle, found a pipe or device'


def test_the_folder_of_a_run_stands_for_its_newest_pickle(home):
    run = home.path / 'results' / '00000-other'
    run.mkdir(parents=True)
    for name in ('network-final.pkl', '_finished.txt'):
        (run / name).write_bytes(b'')
    run_training.main(['--dataset=ds', '--resume-pkl=results/00000-other'])
    assert home.calls[0]['resume_pkl'] == os.path.join('results', '00000-other', 'network-final.pkl')


def test_dry_run_checks_the_same(home):
    assert 'gone.pkl' in refused('--resume-pkl=gone.pkl', '--dry-run').fact


def test_official_networks_go_by_their_names(home, monkeypatch):
    name, urls = 'gdrive:networks/stylegan2-ffhq-config-f.pkl', []

    def open_url(url, **kwargs):
        urls.append(url)
        return open(home.path / 'cached.pkl', 'rb')
    (home.path / 'cached.pkl').write_bytes(b'')
    monkeypatch.setattr(run_training, 'open_url', open_url)
    run_training.main(['--dataset=ds', f'--resume-pkl={name}'])
    assert home.calls[0]['resume_pkl'] == str(home.path / 'cached.pkl')
    assert urls[0].endswith('/networks/stylegan2-ffhq-config-f.pkl')
    with pytest.raises(cli.UserError, match='no official network of this name'):
        run_training.main(['--dataset=ds', '--resume-pkl=gdrive:networks/stylegan2-ffhq-config-z.pkl'])


def test_freezing_layers_that_are_not_trained(home):
    err = refused('--freeze-d=3')
    assert '--freeze-d=3' in err.fact and '--resume-pkl' in err.remedy


@pytest.mark.parametrize('argv, flags', [
    (['--plot', 'run', '--dataset=ds'], '--dataset'), (['--plot=run', '--gamma', '3', '--seed=1'], '--gamma, --seed'),
    (['--plot=run', '--dry-run'], '--dry-run'), (['--dataset=ds', '--resume-kimg=5'], '--resume-kimg'),
    (['--dataset=ds', '--resume-kimg=0'], '--resume-kimg'),
    ([f'--dataset={os.path.abspath("ds")}', '--data-dir=datasets'], '--data-dir')])
def test_flags_without_effect_are_refused(home, argv, flags):
    with pytest.raises(cli.UserError, match='no effect') as caught:
        run_training.main(argv)
    assert caught.value.fact.startswith(f'{flags}: ') and caught.value.remedy == f'Leave out {flags}.'
    assert os.listdir(home.path) == ['datasets']


@pytest.mark.parametrize('flag', ['--lod-training-kimg', '--lod-transition-kimg'])
def test_the_pace_of_growing_needs_a_configuration_that_grows(home, flag):
    for config in ('config-f', 'config-e-Gskip-Dskip'):
        err = refused(f'{flag}=5', f'--config={config}')
        assert flag in err.fact and config in err.fact and 'config-a, config-b, config-c, config-d' in err.remedy
    run_training.main(['--dataset=ds', f'{flag}=5', '--config=config-d'])


@pytest.mark.parametrize(
    'flag',
    [
        '--checkpoint-ticks=0',
        '--checkpoint-minutes=0',
        '--max-minutes=0',
        '--keep-checkpoints=0',
        '--freeze-d=0',
        '--total-kimg=0',
        '--total-kimg=x',
        '--minibatch-size=0',
        '--num-gpus=-1',
        '--lrate=nan',
        '--gamma=-1',
        '--seed=-1',
        '--dataset=',
        '--result-dir=',
        '--resume-pkl=',
        '--fmap-base=1.5',
        '--mirror-augment=perhaps',
        '--no-such-flag',
        '--resume-kimg=-1',
    ],
)
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
    return subprocess.run([sys.executable, str(ROOT / 'run_training.py'), *argv], capture_output=True, text=True,
                          **kwargs)


def test_mistake_on_the_command_line_is_two_lines_and_exit_code_1(tmp_path):
    done = command('--dataset=ds', cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ''
    assert done.stderr.startswith('Error: ') and len(done.stderr.splitlines()) == 2
    assert os.listdir(tmp_path) == []


def test_help_imports_little():
    assert 'examples:' in help_of(str(ROOT / 'run_training.py'))
