"""Training on two CPU devices. `test_multi_device.py` has pytest run this in a process of its own.

TensorFlow divides the CPU once only.
"""

import contextlib
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices('CPU')[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

from dnnlib.cli import UserError  # noqa: E402
from dnnlib.tflib.tfutil import seed_everything  # noqa: E402
from tests.injected import InjectedRandom  # noqa: E402
from tests.training.run.test_health import PLAIN  # noqa: E402
from tests.training.run.test_resume import Killed, assert_same_run, kill_at, train  # noqa: E402
from tests.training.run.test_resume import data_dir as data_dir  # noqa: E402, PLC0414  A fixture.
from tests.training.step.test_train_step import plain_sum  # noqa: E402
from tests.training.test_misc import small_networks  # noqa: E402
from tests.training.test_networks import eagerly  # noqa: E402
from training.configs import training_run  # noqa: E402
from training.data import dataset_writer  # noqa: E402
from training.dataset import TFRecordDataset  # noqa: E402
from training.nets import registry  # noqa: E402
from training.step import train_step  # noqa: E402
from training.step.ada import Augmentation  # noqa: E402
from training.step.devices import Devices  # noqa: E402
from training.step.iteration import Iterations  # noqa: E402
from training.step.train_step import TrainStep  # noqa: E402

PART = 2        # Images of a device at a time.
LRATE = 0.002
PHASES = ['G_train', 'G_reg', 'D_train', 'D_reg']


@pytest.fixture(scope='module')
def devices():
    return Devices(2)


# ---- The same numbers as one device ----

class InjectedOnDevices(InjectedRandom):
    """The numbers of round i on device r are those fed for r * rounds + i."""

    rounds = 1

    def child(self, name):
        return self._copy(f'{self.prefix}{name}/', self.index)

    def at(self, index):
        return self._copy(self.prefix, index)

    def _copy(self, prefix, index):
        copy = InjectedOnDevices(prefix=prefix, index=index, variables=self.variables)
        copy.rounds = self.rounds
        return copy

    def _draw(self, name, shape):
        index = tf.distribute.get_replica_context().replica_id_in_sync_group * self.rounds + (
            0 if self.index is None else self.index
        )
        return InjectedRandom(prefix=self.prefix, index=index, variables=self.variables)._draw(name, shape)


def numbers_for(parts):
    """{name: [array per part]}: what small_networks draw in all phases."""
    rng = np.random.RandomState(1)

    def each(*shape):
        return [rng.randn(*shape).astype(np.float32) for _ in range(parts)]
    fed = {}
    for phase, evaluation, latents, n in [('G_train', 'G0', 'latents', PART), ('G_reg', 'G1', 'pl_latents', PART // 2),
                                          ('D_train', 'G0', 'latents', PART)]:
        fed.update(
            {
                f'{phase}/{latents}': each(n, 8),
                f'{phase}/{evaluation}/latents2': each(n, 8),
                f'{phase}/{evaluation}/mix_u': [
                    np.float32(0.5 + i) for i in range(parts)
                ],  # The first part mixes styles.
                f'{phase}/{evaluation}/mix_cutoff': [np.int32(2)] * parts,
            }
        )
        fed.update({f'{phase}/{evaluation}/noise{i}': each(n, 1, size, size) for i, size in enumerate([4, 8, 8])})
    fed['G_reg/pl_noise'] = each(PART // 2, 3, 8, 8)
    return fed


@pytest.fixture(scope='module')
def given():
    """Networks whose noise counts, and real images for four parts. The same always.

    How much the parts differ depends on the weights.
    """
    seed_everything(0)
    nets = small_networks()
    for net in (nets[0], nets[2]):
        for name in net.vars:
            if name.endswith('noise_strength'):
                net.set_var(name, 0.3)
    rng = np.random.RandomState(2)
    return nets, rng.uniform(-1, 1, [4 * PART, 3, 8, 8]).astype(np.float32)


def make_trainer(given, rng, devices=None, D_loss='D_logistic_r1', **kwargs):
    devices = devices or Devices()
    with devices.scope():
        nets = [net.clone() for net in given[0]]
        return TrainStep(*nets, 'G_logistic_ns_pathreg', D_loss, rng=rng, devices=devices, **kwargs)


@contextlib.contextmanager
def computed_eagerly():
    """Context in which one device computes a few steps sooner than it could trace them. Several devices need traces."""
    with pytest.MonkeyPatch.context() as patch, eagerly():
        patch.setattr(train_step, '_sum_over_microbatches', plain_sum)
        yield


_made = {}  # (rounds, several devices?) -> trainer, its random numbers, values of its variables at the start


def trainer_at_start(given, rounds, devices=None):
    """Trainer whose variables are those at the start, and its random numbers.

    The same for all tests, for tracing it takes seconds.
    """
    key = rounds, devices is not None
    if key not in _made:
        rng = InjectedRandom() if devices is None else InjectedOnDevices()
        rng.rounds = rounds
        trainer = make_trainer(given, rng, devices)
        _made[key] = trainer, rng, [var.numpy() for var in tf.nest.flatten(trainer.state())]
    trainer, rng, start = _made[key]
    for var, value in zip(tf.nest.flatten(trainer.state()), start, strict=True):
        var.assign(value)
    return trainer, rng


def alone(given, fed, parts, phases):
    """What a trainer of one device has come to after these phases on these parts.

    Gradients by network, pl_mean, values by network.
    """
    trainer, rng = trainer_at_start(given, len(parts))
    rng.feed({name: [values[i] for i in parts] for name, values in fed.items()})
    reals = tf.constant(given[1][parts[0] * PART:(parts[-1] + 1) * PART])
    with computed_eagerly():
        for phase in phases:
            if phase == 'Gs_update':
                trainer.update_Gs(0.5)
            else:
                trainer.run(phase, PART, len(parts), LRATE, reals, tf.zeros([len(reals), 0]))
    return types.SimpleNamespace(
        gradients={key: gradients(trainer, key) for key in 'GD'},
        pl_mean=trainer.pl_mean.numpy(),
        values={
            net.name: {name: var.numpy() for name, var in net.named_variables().items()}
            for net in (trainer.G, trainer.D, trainer.Gs)
        },
    )


def together(given, devices, fed, rounds, phases, reals=None):
    """Trainer of two devices, each with `rounds` parts, and what each phase reports."""
    trainer, rng = trainer_at_start(given, rounds, devices)
    rng.feed(fed)
    reals = devices.split(
        tf.constant(given[1][: 2 * rounds * PART] if reals is None else reals), tf.zeros([2 * rounds * PART, 0])
    )
    stats = {}
    for phase in phases:
        if phase == 'Gs_update':
            trainer.update_Gs(0.5)
        else:
            stats[phase] = trainer.run(phase, PART, rounds, LRATE, *reals).stats
    return trainer, stats


def gradients(trainer, key):
    """Of the only step so far with beta1 = 0: Adam's first moments."""
    return [m.numpy() for m in getattr(trainer, f'{key}_opt').m]


def copies(devices, var):
    return [value.numpy() for value in devices._strategy.experimental_local_results(var)]


@pytest.mark.parametrize('rounds', [1, 2])
@pytest.mark.parametrize('phase', PHASES)
def test_gradients_are_the_mean_of_what_each_device_gives_alone(given, devices, phase, rounds):
    """As in the original, whose devices know of each other's gradients only. 1e-5 of the largest.

    Sums are in another order.
    """
    fed = {name: values for name, values in numbers_for(2 * rounds).items() if name.startswith(phase)}
    trainer, stats = together(given, devices, fed, rounds, [phase])
    singles = [alone(given, fed, range(r * rounds, (r + 1) * rounds), [phase]) for r in range(2)]
    key = phase[0]
    largest = max(np.abs(g).max() for g in singles[0].gradients[key])
    assert largest > 1e-3
    for actual, *expected in zip(gradients(trainer, key), *(single.gradients[key] for single in singles), strict=True):
        np.testing.assert_allclose(actual, np.mean(expected, axis=0), atol=1e-5 * largest)
    assert any(
        np.abs(a - b).max() > 0.01 * largest
        for a, b in zip(*(single.gradients[key] for single in singles), strict=True)
    )
    means = [single.pl_mean for single in singles]
    np.testing.assert_allclose(copies(devices, trainer.pl_mean), [np.mean(means)] * 2, rtol=1e-6)
    if phase == 'G_reg':
        assert means[0] > 0 and abs(means[0] - means[1]) > 0.01 * means[0]
    for name, var in trainer.trained[key].items():
        here, there = copies(devices, var)
        np.testing.assert_array_equal(here, there, err_msg=name)
    loss = f'Loss/{key}/{"reg" if phase.endswith("reg") else "loss"}'
    images = {'G_reg': PART // 2 * 2 * rounds, 'D_reg': 2 * PART}.get(phase, 2 * rounds * PART)
    assert stats[phase][loss].numpy()[0] == images
    if phase == 'G_train':
        np.testing.assert_allclose(trainer.G.get_var('dlatent_avg'), singles[0].values['G']['dlatent_avg'], atol=1e-6)


@pytest.mark.parametrize('rounds', [1, 2])
def test_weights_are_those_of_one_device_with_the_same_minibatch(given, devices, rounds):
    """G_train and D_train; after it Gs, on both devices. 1e-5 of a weight.

    A step of Adam, 0.002, divides by the gradient's size.
    """
    fed = {name: values for name, values in numbers_for(2 * rounds).items() if 'train' in name}
    phases = ['G_train', 'D_train', 'Gs_update']
    trainer, _ = together(given, devices, fed, rounds, phases)
    single = alone(given, fed, range(2 * rounds), phases)
    for net in (trainer.G, trainer.D, trainer.Gs):
        for name, var in net.named_variables(trainable=True).items():
            for value in copies(devices, var):
                np.testing.assert_allclose(value, single.values[net.name][name], rtol=1e-5, atol=1e-5, err_msg=name)
    assert (
        np.abs(
            trainer.G.get_var('G_synthesis/8x8/Conv1/weight') - given[0][0].get_var('G_synthesis/8x8/Conv1/weight')
        ).max()
        > 1e-3
    )


def first_gradients(args, nets, fed, reals, labels, devices=None):
    """Gradients by network of G_train and D_train of a configuration, with two parts on one device or one on each."""
    rng, devices = (InjectedRandom(), Devices()) if devices is None else (InjectedOnDevices(), devices)
    rng.feed(fed)
    with devices.scope():
        trainer = TrainStep(
            *[net.clone() for net in nets], args.G_loss_args['func_name'], args.D_loss_args['func_name'],
            G_opt_args=args.G_opt_args, D_opt_args=args.D_opt_args, lazy_regularization=args.lazy_regularization,
            label_table=np.eye(3), rng=rng, devices=devices)
    stage = trainer.set_lod(0.25 if trainer.D.lod_stage() is not None else 0)
    with computed_eagerly() if devices.number == 1 else contextlib.nullcontext():
        for phase in ('D_train', 'G_train'):
            trainer.run(phase, PART, 2 // devices.number, LRATE, *devices.split(reals, labels), stage)
    return {key: gradients(trainer, key) for key in 'GD'}


@pytest.mark.parametrize('config', ['progan', 'msg-stylegan'])
def test_older_configurations_have_the_gradients_of_one_device(config, devices):
    """Their gradient penalties: at images between reals and fakes, with label penalties; and at images of all sizes."""
    args = training_run('tiny', config=config, fmap_base=32, fmap_max=4, latent_size=8).run_func_kwargs
    shape, width = dict(num_channels=3, resolution=8, label_size=3), dict(fmap_base=32, fmap_max=4)
    seed_everything(0)
    G, D = (registry.create_network(name, **shape, **{**kwargs, **width})
            for name, kwargs in (('G', args.G_args), ('D', args.D_args)))
    draw, fed = np.random.RandomState(1), {}
    for phase in ('G_train', 'D_train'):
        for name, size in {'latents': [8], 'mixing_factors': [1, 1, 1]}.items():
            fed[f'{phase}/{name}'] = [draw.uniform(-1, 1, [PART, *size]).astype(np.float32) for _ in range(2)]
        fed[f'{phase}/labels0'] = [np.eye(3, dtype=np.float32)[draw.randint(3, size=PART)] for _ in range(2)]
        for idx, size in enumerate([4, 4, 8, 8]):
            fed[f'{phase}/G0/noise{idx}'] = [draw.randn(PART, 1, size, size).astype(np.float32) for _ in range(2)]
    reals = tf.constant(draw.uniform(-1, 1, [2 * PART, 3, 8, 8]), tf.float32)
    labels = tf.constant(np.eye(3)[draw.randint(3, size=2 * PART)], tf.float32)
    single, both = (first_gradients(args, (G, D, G.clone('Gs')), fed, reals, labels, some) for some in (None, devices))
    for key in 'GD':
        largest = max(np.abs(grad).max() for grad in single[key])
        assert largest > 1e-3
        for actual, expected in zip(both[key], single[key], strict=True):
            np.testing.assert_allclose(actual, expected, atol=1e-5 * largest)


@pytest.fixture(scope='module')
def random_trainer(given, devices):
    """Trainer of two devices that draws random numbers, and trains only a part of D."""
    return make_trainer(given, None, devices, freeze_d=2)


def test_one_trace_for_both_devices_and_layers_that_stay_as_they_are(given, devices, random_trainer):
    trainer = random_trainer
    reals = devices.split(tf.zeros([4, 3, 8, 8]), tf.zeros([4, 0]))
    for iteration in range(2):
        for phase in PHASES:
            trainer.run(phase, PART, 1, LRATE, *reals, seed=(5, iteration))
        trainer.update_Gs(0.9)
    assert len(trainer.num_traces()) >= 5 and set(trainer.num_traces().values()) == {1}
    for name, var in trainer.D.named_variables().items():
        here, there = copies(devices, var)
        np.testing.assert_array_equal(here, there, err_msg=name)
        assert np.array_equal(here, given[0][1].get_var(name)) == any(
            name.startswith(layer) for layer in trainer.frozen_layers
        ), name


def test_a_gradient_that_is_not_finite_on_one_device_skips_the_update_on_both(given, devices):
    fed = {name: values for name, values in numbers_for(2).items() if name.startswith('D_train')}
    reals = given[1][:2 * PART].copy()
    reals[-1] = np.nan  # The second device's.
    trainer, stats = together(given, devices, fed, 1, ['D_train'], reals)
    for name, var in trainer.trained['D'].items():
        for value in copies(devices, var):
            np.testing.assert_array_equal(value, given[0][1].get_var(name), err_msg=name)
    assert copies(devices, trainer.D_opt.skipped) == [1, 1]
    assert stats['D_train']['TrainD/overflow_frequency'].numpy().tolist() == [1, 1, 1]  # One update, skipped.


def test_the_strength_of_the_augmentation_is_the_same_on_both(given, devices):
    """It follows the scores for the reals of both. Each draws augmentations of its own."""
    def brighten(images, p, rng):
        shift = p * rng.normal('shift', [])
        drawn.assign(shift)
        return images + shift
    with devices.scope():
        drawn = tf.Variable(0.0, trainable=False)
        augmentation = Augmentation(brighten, 0.5, target=-1.5, interval=1, kimg=0.1)
    trainer = make_trainer(given, None, devices, 'D_logistic', augmentation=augmentation, ada_rules=True,
                           lazy_regularization=False)
    assert trainer.phases(0) == ['G_train', 'D_train', 'Gs_update', 'p_update']
    reals = devices.split(tf.constant(given[1]), tf.zeros([4 * PART, 0]))
    trainer.run('D_train', PART, 2, LRATE, *reals, seed=(5, 0))
    here, there = copies(devices, drawn)
    assert here != there
    for signs in copies(devices, augmentation.state()['signs']):
        assert signs[0] == 4 * PART and -4 * PART <= signs[1] <= 4 * PART
    trainer.update_p(4 * PART)
    np.testing.assert_allclose(copies(devices, augmentation.p), [0.58] * 2, rtol=1e-6)
    np.testing.assert_array_equal(copies(devices, augmentation.state()['signs']), np.zeros([2, 2]))


# ---- Random numbers and data ----

def test_each_device_has_its_own_labels(given, devices):
    with devices.scope():
        nets = [net.clone() for net in given[0]]
        trainer = TrainStep(*nets, 'G_logistic_ns', 'D_logistic', label_table=np.eye(3), devices=devices)
    found = trainer._label_table.values
    assert [tf.DeviceSpec.from_string(var.device).device_index for var in found] == [0, 1]
    for var in found:
        np.testing.assert_array_equal(var, np.eye(3))


def test_each_device_draws_its_own_numbers_and_the_same_again(devices, random_trainer):
    """dlatent_avg tells of the latents.

    It goes from zero towards their W. They depend on the seed, the device and the round alone.
    """
    trainer = random_trainer
    avg = trainer.G.named_variables()['dlatent_avg']

    def draw(*seed, rounds=1):
        avg.assign(tf.zeros_like(avg))
        trainer.run('G_train', PART, rounds, 0.0, seed=seed)
        return copies(devices, avg)
    drawn = [*draw(5, 0), *draw(5, 1), *draw(6, 0)]
    for i, one in enumerate(drawn):
        assert all(np.abs(one - other).max() > 1e-4 for other in drawn[:i])
    np.testing.assert_array_equal(draw(5, 0), drawn[:2])
    for once, twice in zip(drawn, draw(5, 0, rounds=2)):
        assert np.abs(twice - (1 + 0.995) * once).max() > 1e-4  # Where it would be if the rounds drew the same.


def test_a_minibatch_is_split_in_order(devices):
    x = tf.range(12)[:, tf.newaxis]
    part, labels = devices.split(x, x * 10)
    seen = devices.run(tf.function(lambda x, y: (x, y)), part, labels)
    for values, factor in zip(seen, (1, 10), strict=True):
        rows = [value.numpy()[:, 0].tolist() for value in devices._strategy.experimental_local_results(values)]
        assert rows == [[factor * i for i in range(6)], [factor * i for i in range(6, 12)]]


def test_real_images_are_flipped_on_each_device_by_draws_of_its_own(devices, tmp_path):
    """The flips depend on the seed and the iteration alone, so that a resumed run goes on with the same ones."""
    with dataset_writer.new_dataset(tmp_path / 'ramps') as writer:
        for _ in range(8):
            writer.add_image(np.tile(np.arange(4, dtype=np.uint8), [1, 4, 1]))

    def flips(first_iteration, count):
        """[iterations, devices, images of a device] bool."""
        seen = []

        def run(_phase, _minibatch_gpu, _rounds, _lrate, reals, *_others):
            seen.append([image[:, 0, 0, 0] == 3 for image in copies(devices, reals)])
            return {}
        trainer = types.SimpleNamespace(set_lod=lambda lod: None, phases=lambda iteration: ['D_train'], run=run)
        shown = 32 * first_iteration
        progress = types.SimpleNamespace(cur_nimg=shown, sched_nimg=shown, iteration=first_iteration)
        iterations = Iterations(trainer, TFRecordDataset(str(tmp_path / 'ramps')), progress, 5, devices=devices,
                                mirror_augment=True, drange_net=(0, 255))
        for _ in range(count):
            iterations.run()
        return np.array(seen)
    drawn = flips(0, 6)
    assert drawn.shape == (6, 2, 16) and 60 < drawn.sum() < 132
    assert len({each.tobytes() for each in drawn.reshape(12, 16)}) == 12
    np.testing.assert_array_equal(flips(3, 3), drawn[3:])


# ---- Runs ----

def test_exact_resume(data_dir, tmp_path):
    """Growing, with labels and flips; killed between two looks at the schedule."""
    kwargs = dict(
        num_gpus=2,
        total_kimg=0.064,
        sched_args=dict(
            minibatch_size_base=4,
            minibatch_gpu_base=2,
            lod_initial_resolution=4,
            lod_training_kimg=0.016,
            lod_transition_kimg=0.024,
            tick_kimg_base=0.016,
            tick_kimg_dict={},
        ),
    )
    never, run = tmp_path / 'never', tmp_path / 'run'

    def copy(count):  # What a run that is killed at this moment leaves.
        if count == 3:
            shutil.copytree(never, run)
    train(data_dir, never, {(Iterations, 'run'): copy}, resume=None, checkpoint_minutes=1e-9, **kwargs)
    assert (run / 'checkpoints' / 'kimg-000000.008').exists()
    train(data_dir, run, **kwargs)
    assert_same_run(run, never)


def test_going_on_with_another_number_of_devices(data_dir, tmp_path, capsys):
    kwargs = dict(PLAIN, sched_args=dict(PLAIN['sched_args'], minibatch_gpu_base=2), total_kimg=0.016)
    with eagerly(), pytest.raises(Killed):
        train(data_dir, tmp_path, {(Iterations, 'run'): kill_at(3)}, resume=None, checkpoint_minutes=1e-9, **kwargs)
    assert 'Training on' not in capsys.readouterr().out
    train(data_dir, tmp_path, num_gpus=2, **kwargs)
    assert 'Training on 2 devices' in capsys.readouterr().out and (tmp_path / 'network-final.pkl').exists()


def test_only_as_many_devices_as_there_are():
    with pytest.raises(UserError, match='--num-gpus=3: expected 3 devices, found 2 CPU devices') as err:
        Devices(3)
    assert '--num-gpus=2' in err.value.remedy
