"""Several devices: on one machine, or on several machines whose processes, the workers, form a cluster.

TensorFlow is imported late, because run_training.py looks for the cluster before it loads TensorFlow.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from dnnlib.cli import UserError

if TYPE_CHECKING:
    import tensorflow as tf


class Cluster(NamedTuple):
    """The processes that train together, each with its own devices."""
    workers: int = 1  # Number of processes.
    index: int = 0    # Number of this process, from 0 on.

    @property
    def is_chief(self) -> bool:
        """Is this the process that writes files and prints progress?"""
        return self.index == 0


class WorkerLost(UserError):
    """Another worker has ended too early. Training cannot continue without it."""
    exit_code = 69  # EX_UNAVAILABLE of sysexits.h: a service is unavailable.


ALONE = Cluster()
# On few cores, networks this wide keep all cores busy with one operation at a time.
_FEW_CORES = 4
_WIDE = 8 << 10  # fmap_base of config-e.


def find_cluster() -> Cluster:
    """The Cluster that the environment variable TF_CONFIG describes; without it, this process alone.

    Raises:
        UserError: TF_CONFIG does not have TensorFlow's format, or has tasks that are neither chief nor worker.
    """
    text = os.environ.get('TF_CONFIG') or '{}'
    try:
        config = json.loads(text)
        addresses = config.get('cluster') or {}
        tasks = [(kind, index) for kind in ('chief', 'worker') for index in range(len(addresses.get(kind, [])))]
        if set(addresses) <= {'chief', 'worker'}:
            # One process alone need not say which it is, but a wrong number is a mistake.
            task = config['task'] if len(tasks) > 1 else config.get('task') if tasks else None
            index = tasks.index((task['type'], int(task['index']))) if task else 0
            return Cluster(len(tasks), index) if len(tasks) > 1 else ALONE
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f'TF_CONFIG: expected the addresses of workers and the number of this one, received {text}',
                    'For example {"cluster": {"worker": ["one:2222", "two:2222"]}, '
                    '"task": {"type": "worker", "index": 0}}.')


@contextlib.contextmanager
def worker_context(cluster: Cluster) -> Iterator[None]:
    """Context for the training of one worker.

    Workers other than the chief print one line when they enter it, and only errors inside it.

    Raises:
        WorkerLost: Another worker has gone.
    """
    with contextlib.ExitStack() as stack:
        if not cluster.is_chief:
            print(f'Worker {cluster.index} of {cluster.workers}: training, and leaving the report to the chief.',
                  flush=True)
            nowhere = stack.enter_context(open(os.devnull, 'w', encoding='utf-8'))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        try:
            yield
        except Exception as err:
            if cluster.workers == 1 or not _is_of_a_lost_worker(err):
                raise
            reason = re.search(r'aborted by: (?:Error reported from \S+ )?(.*)', str(err))
            raise WorkerLost(
                f'a worker of the cluster has gone: {(reason[1] if reason else str(err).splitlines()[0])[:200]}',
                'See what it says itself; then start all workers again, with --resume=latest.') from err


def _is_of_a_lost_worker(err: Exception) -> bool:
    """Is this an error that TensorFlow raises when another worker has gone?"""
    from tensorflow import errors
    return isinstance(err, (errors.UnavailableError, errors.AbortedError, errors.CancelledError,
                            errors.DeadlineExceededError))


def limit_inter_op_threads(fmap_base: int | None = None) -> None:
    """On a CPU of few cores, have TensorFlow run the operations of a function one after another, each on all cores.

    Wide networks take no longer that way, and hold fewer results in memory at a time. Narrow networks are faster when
    small operations run side by side (docs/notes/speed.md). Call this before TensorFlow computes anything; later it has
    no effect. The environment variable TF_NUM_INTEROP_THREADS, which TensorFlow reads, takes precedence.

    Args:
        fmap_base: Width of the networks, as in their settings. None = their default, which is wide.
    """
    import tensorflow as tf

    from dnnlib.tflib.tfutil import has_gpu
    few_cores = (os.cpu_count() or 1) <= _FEW_CORES and not has_gpu()
    if few_cores and (fmap_base is None or fmap_base >= _WIDE) and 'TF_NUM_INTEROP_THREADS' not in os.environ:
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_inter_op_parallelism_threads(1)


# Cached, because TensorFlow numbers the collective operations of each strategy from 0, and confuses those of two
# strategies.
@functools.cache
def _mirrored_strategy(names: tuple[str, ...]) -> tf.distribute.Strategy:
    import tensorflow as tf
    return tf.distribute.MirroredStrategy(names)


def require_devices(number: int, cluster: Cluster = ALONE) -> None:
    """Check that this process has its share of the devices, without waiting for the other workers.

    Args:
        number:  Number of devices, those of all workers together.
        cluster: The workers.

    Raises:
        UserError: There are fewer devices, or the workers cannot have the same number.
    """
    if number % cluster.workers:
        raise UserError(f'--num-gpus={number} cannot be split over the {cluster.workers} workers of TF_CONFIG',
                        f'It counts the GPUs of all of them together: give a multiple of {cluster.workers}.')
    if number == 1:
        return
    import tensorflow as tf

    from dnnlib.tflib.tfutil import visible_gpus
    here, gpus = number // cluster.workers, visible_gpus()
    if cluster.workers > 1:
        # TensorFlow uses one CPU device of each worker, never more. Its logical devices must not be listed yet, because
        # that starts TensorFlow, and the strategy must come first.
        found = len(gpus) or 1
    else:
        found = len(tf.config.list_logical_devices('GPU' if gpus else 'CPU'))
    if found < here:
        kind = ('GPU' if gpus else 'CPU device') + 's' * (found != 1)
        whose = ' of each worker' if cluster.workers > 1 else ''
        raise UserError(f'--num-gpus={number}: expected {here} devices{whose}, found {found} {kind}',
                        f'Give --num-gpus={found * cluster.workers}.'
                        + ('' if gpus else ' TensorFlow sees no GPU here.'))


def _communication(all_reduce: str, has_gpus: bool) -> tf.distribute.experimental.CommunicationImplementation:
    """TensorFlow's name of a value of options.ALL_REDUCE."""
    import tensorflow as tf
    if all_reduce == 'nccl' and not has_gpus:
        raise UserError('--all-reduce=nccl: expected workers with GPUs, TensorFlow sees none here',
                        'Leave --all-reduce out.')
    kinds = tf.distribute.experimental.CommunicationImplementation
    return kinds.NCCL if all_reduce == 'nccl' or (all_reduce == 'auto' and has_gpus) else kinds.RING


class Devices:
    """The devices that train together: GPUs, or on machines without any the logical CPU devices.

    Each device has its own copy of every variable made in `scope`. Inside a function that `run` runs, a variable is the
    copy of the device, and `assign` changes only that copy. Outside, it is the copy of the first device here, and
    `assign` changes all copies.

    Args:
        number:  Number of devices, those of all workers together. 1 = the device that TensorFlow chooses, without a
                 distribution strategy.
        cluster: The workers. Each has an equal part of the devices. With several workers, make this object before
                 TensorFlow computes anything; it waits until all workers are there.
        all_reduce: How several workers sum gradients, a value of options.ALL_REDUCE. 'nccl' = NVIDIA's library NCCL,
                 from GPU to GPU. 'ring' = TensorFlow's own algorithm, through the memory of the hosts. 'auto' = NCCL
                 if the workers have GPUs.

    Raises:
        UserError: There are fewer devices, or the workers cannot have the same number, or they have no GPUs for NCCL.
    """

    def __init__(self, number: int = 1, cluster: Cluster = ALONE, all_reduce: str = 'auto'):
        self.number, self.cluster, self._all_reduce = number, cluster, all_reduce
        require_devices(number, cluster)
        self._here = number // cluster.workers
        self._strategy: Any = None if number == 1 else self._make_strategy()
        self._gather_function: Any = None  # Traced by the first call of `gather`.

    def _make_strategy(self) -> tf.distribute.Strategy:
        import tensorflow as tf

        from dnnlib.tflib.tfutil import visible_gpus
        gpus = visible_gpus()
        if self.cluster.workers > 1:
            tf.config.set_visible_devices(gpus[:self._here], 'GPU')
            communication = tf.distribute.experimental.CommunicationOptions(
                implementation=_communication(self._all_reduce, bool(gpus)))
            print(f'Waiting for the {self.cluster.workers} workers that TF_CONFIG names...')
            # It waits inside TensorFlow, where Python would not see a Ctrl-C.
            handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
            try:
                return tf.distribute.MultiWorkerMirroredStrategy(communication_options=communication)
            finally:
                signal.signal(signal.SIGINT, handler)
        found = tf.config.list_logical_devices('GPU' if gpus else 'CPU')
        return _mirrored_strategy(tuple(device.name for device in found[:self._here]))

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Context in which every new variable gets a copy on each device, all with the chief's initial value."""
        return contextlib.nullcontext() if self._strategy is None else self._strategy.scope()

    def of_this_worker(self) -> Devices:
        """The devices of this worker alone, for work in which the others take no part.

        With several workers, variables made in the `scope` of these devices are not on those, and vice versa.
        """
        return self if self.cluster.workers == 1 else Devices(self._here)

    def rows(self, minibatch_size: int) -> tuple[int, int] | None:
        """Rows of a minibatch for this worker's devices, as (first, last + 1). None = all."""
        size = minibatch_size // self.cluster.workers
        return None if self.cluster.workers == 1 else (self.cluster.index * size, (self.cluster.index + 1) * size)

    def split(self, *tensors: tf.Tensor) -> Any:
        """Split this worker's rows of tensors into equal parts, one for each device here, in order.

        Returns:
            One object for each tensor, as an argument for `run`.
        """
        if self._strategy is None:
            return tensors

        def part(context):
            index = context.replica_id_in_sync_group % self._here
            return tuple(x[index * len(x) // self._here:(index + 1) * len(x) // self._here] for x in tensors)
        return self._strategy.experimental_distribute_values_from_function(part)

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call function(*args) on each device at the same time. Each device sees its part of what `split` made.

        Returns:
            The results of all devices, as an argument for another `run`. `local_result` takes those of one device.
        """
        return function(*args) if self._strategy is None else self._strategy.run(function, args)

    def local_result(self, values: dict[str, Any]) -> dict[str, Any]:
        """The results of the first device here: {name: what `run` returned} -> {name: value}."""
        if self._strategy is None:
            return values
        return {tag: self._strategy.experimental_local_results(value)[0] for tag, value in values.items()}

    def all_local_results(self, nest: Any) -> list[Any]:
        """The results of each device here, in order: nest of what `run` returned -> list of nests of values."""
        if self._strategy is None:
            return [nest]
        import tensorflow as tf
        values = [self._strategy.experimental_local_results(value) for value in tf.nest.flatten(nest)]
        return [tf.nest.pack_sequence_as(nest, results) for results in zip(*values, strict=True)]

    # ---- Inside a function that `run` runs ----

    @property
    def index(self) -> Any:
        """Number of the device that computes this, 0 .. number - 1, an int or an int32 tensor."""
        import tensorflow as tf
        return tf.distribute.get_replica_context().replica_id_in_sync_group

    def sum(self, nest: Any) -> Any:
        """Sum a nest of tensors over all devices, each of which must call this outside of loops and branches."""
        import tensorflow as tf
        if self._strategy is None:
            return nest
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, nest)

    # ---- Between workers ----

    def gather(self, number: int) -> list[int]:
        """The numbers that the workers give, in the order of the workers, as int64. All workers must make this call."""
        if self.cluster.workers == 1:
            return [number]
        import tensorflow as tf
        if self._gather_function is None:
            def gather(x):
                return self._strategy.run(lambda: tf.distribute.get_replica_context().all_gather(x[tf.newaxis], 0))
            self._gather_function = tf.function(
                lambda x: self._strategy.experimental_local_results(gather(x))[0], autograph=False)
        return self._gather_function(tf.constant(number, tf.int64)).numpy().tolist()[::self._here]

    def require_equal(self, data: Any) -> None:
        """Check that all workers give the same plain data. All workers must make this call.

        Raises:
            UserError: They do not.
        """
        if len(set(self.gather(zlib.crc32(json.dumps(data, sort_keys=True).encode())))) > 1:
            raise UserError('the workers differ in their flags, in the dataset or in the checkpoint they found',
                            'Give all of them the same command, the same dataset, and a --result-dir that they share.')
