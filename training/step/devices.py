"""Several devices: on one machine, or on several whose processes, the workers, form a cluster.

TensorFlow is imported only where it is needed.
"""

import contextlib
import functools
import json
import os
import re
import signal
import zlib
from typing import NamedTuple

from dnnlib.cli import UserError


class Cluster(NamedTuple):
    """The processes that train together, each with its own devices."""
    workers: int = 1    # How many.
    index: int = 0      # Number of this one.

    @property
    def is_chief(self):
        """Is this the one that writes files and says how it goes?"""
        return self.index == 0


class WorkerLost(UserError):
    """Another worker has ended before its time: without it there is no going on."""
    exit_code = 69  # EX_UNAVAILABLE of sysexits.h: a service is unavailable.


ALONE = Cluster()
_FEW_CORES, _WIDE = 4, 8 << 10  # Where one operation at a time keeps all cores busy: the latter is fmap_base of config-e.


def find_cluster():
    """The Cluster that the environment variable TF_CONFIG describes; without one, this process alone.

    Raises:
        UserError: TF_CONFIG is not as TensorFlow wants it, or has tasks that are neither chief nor worker.
    """
    text = os.environ.get('TF_CONFIG') or '{}'
    try:
        config = json.loads(text)
        addresses = config.get('cluster') or {}
        tasks = [(kind, index) for kind in ('chief', 'worker') for index in range(len(addresses.get(kind, [])))]
        if set(addresses) <= {'chief', 'worker'}:
            task = config['task'] if len(tasks) > 1 else None
            return Cluster(len(tasks), tasks.index((task['type'], int(task['index'])))) if task else ALONE
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f'TF_CONFIG: expected the addresses of workers and the number of this one, received {text}',
                    'For example {"cluster": {"worker": ["one:2222", "two:2222"]}, "task": {"type": "worker", "index": 0}}.')


@contextlib.contextmanager
def membership(cluster):
    """What a worker does inside the with-block. Those beside the chief print a line before it, and nothing but errors in it.

    Raises:
        WorkerLost: Another worker has gone.
    """
    with contextlib.ExitStack() as stack:
        if not cluster.is_chief:
            print(f'Worker {cluster.index} of {cluster.workers}: training, and leaving the report to the chief.', flush=True)
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, 'w', encoding='utf-8'))))
        try:
            yield
        except Exception as err:
            if cluster.workers == 1 or not _tells_of_a_lost_worker(err):
                raise
            reason = re.search(r'aborted by: (?:Error reported from \S+ )?(.*)', str(err))
            raise WorkerLost(f'a worker of the cluster has gone: {(reason[1] if reason else str(err).splitlines()[0])[:200]}',
                             'See what it says itself; then start all workers again, with --resume=latest.') from err


def _tells_of_a_lost_worker(err):
    from tensorflow import errors
    return isinstance(err, (errors.UnavailableError, errors.AbortedError, errors.CancelledError, errors.DeadlineExceededError))


def run_operations_in_turn(fmap_base=None):
    """On a CPU of few cores, have TensorFlow run the operations of a function one after another, each on all cores.

    Wide networks take no longer that way, and hold fewer results at a time; others gain by running small operations side by side
    (docs/notes/speed.md). It must come before TensorFlow computes anything: later it does nothing. The environment variable
    TF_NUM_INTEROP_THREADS, which TensorFlow reads, goes before it.

    Args:
        fmap_base: Width of the networks, as in their settings. None = they have their default, which is wide.
    """
    import tensorflow as tf

    from dnnlib.tflib.tfutil import has_gpu
    few_cores = (os.cpu_count() or 1) <= _FEW_CORES and not has_gpu()
    if few_cores and (fmap_base is None or fmap_base >= _WIDE) and 'TF_NUM_INTEROP_THREADS' not in os.environ:
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_inter_op_parallelism_threads(1)


@functools.cache
def _mirrored_strategy(names):
    # One for all training in this process: TensorFlow numbers the collective operations of each from the start, and confuses those of two.
    import tensorflow as tf
    return tf.distribute.MirroredStrategy(names)


class Devices:
    """The devices that train together: GPUs, or on machines without any the logical CPU devices.

    Each has its own copy of every variable made in `scope`. Inside a function that `run` runs, a variable is that of the device and
    `assign` changes only that; outside it is that of the first device here, and `assign` changes all.

    Args:
        number:  How many, those of all workers together. 1 = the one that TensorFlow chooses, without any ado.
        cluster: Where they are: each worker has an equal part of them. With several workers this must come before TensorFlow
                 computes anything, and it waits until they all are there.

    Raises:
        UserError: There are fewer, or the workers cannot have the same number.
    """

    def __init__(self, number=1, cluster=ALONE):
        self.number, self.cluster = number, cluster
        if number % cluster.workers:
            raise UserError(f'--num-gpus={number} cannot be split over the {cluster.workers} workers of TF_CONFIG',
                            f'It counts the GPUs of all of them together: give a multiple of {cluster.workers}.')
        self._here = number // cluster.workers
        self._strategy = None if number == 1 else self._make_strategy()
        self._gather = None

    def _make_strategy(self):
        import tensorflow as tf

        from dnnlib.tflib.tfutil import visible_gpus
        gpus = visible_gpus()
        if self.cluster.workers > 1:
            self._check(len(gpus) if gpus else 1, gpus, ' of each worker')  # TensorFlow takes one CPU device of each worker, never more.
            tf.config.set_visible_devices(gpus[:self._here], 'GPU')
            print(f'Waiting for the {self.cluster.workers} workers that TF_CONFIG names...')
            # It waits inside TensorFlow, where Python would not see a Ctrl-C.
            handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
            try:
                return tf.distribute.MultiWorkerMirroredStrategy()
            finally:
                signal.signal(signal.SIGINT, handler)
        found = tf.config.list_logical_devices('GPU' if gpus else 'CPU')
        self._check(len(found), gpus, '')
        return _mirrored_strategy(tuple(device.name for device in found[:self._here]))

    def _check(self, found, gpus, whose):
        if found < self._here:
            kind = 'GPU' if gpus else 'CPU device'
            raise UserError(f'--num-gpus={self.number}: expected {self._here} devices{whose}, found {found} {kind}{"s" * (found != 1)}',
                            f'Give --num-gpus={found * self.cluster.workers}.' + ('' if gpus else ' TensorFlow sees no GPU here.'))

    def scope(self):
        """Context manager: variables that are made inside have a copy on each device, with the chief's first values."""
        return contextlib.nullcontext() if self._strategy is None else self._strategy.scope()

    def rows(self, minibatch_size):
        """(first, last + 1) of the rows of a minibatch that this worker's devices see. None = all."""
        size = minibatch_size // self.cluster.workers
        return None if self.cluster.workers == 1 else (self.cluster.index * size, (self.cluster.index + 1) * size)

    def split(self, *tensors):
        """This worker's rows of tensors -> the same for `run`, as equal parts: one for each device here, in order."""
        if self._strategy is None:
            return tensors

        def part(context):
            index = context.replica_id_in_sync_group % self._here
            return tuple(x[index * len(x) // self._here:(index + 1) * len(x) // self._here] for x in tensors)
        return self._strategy.experimental_distribute_values_from_function(part)

    def run(self, function, *args):
        """function(*args) on each device at the same time; of arguments that `split` has made each sees its part.

        Returns: What they return, for another `run`; `first` takes the first one's.
        """
        return function(*args) if self._strategy is None else self._strategy.run(function, args)

    def first(self, values):
        """{name: what `run` returned} -> {name: that of the first device here}."""
        if self._strategy is None:
            return values
        return {tag: self._strategy.experimental_local_results(value)[0] for tag, value in values.items()}

    # ---- Inside a function that `run` runs ----

    @property
    def index(self):
        """Number of the device, 0 .. number - 1, that this is computed on."""
        import tensorflow as tf
        return tf.distribute.get_replica_context().replica_id_in_sync_group

    def sum(self, nest):
        """Nest of tensors -> their sums over all devices. All devices must come here, and not within a loop or a branch."""
        import tensorflow as tf
        return nest if self._strategy is None else tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, nest)

    # ---- Between workers ----

    def of_all_workers(self, number):
        """List of the numbers that the workers give, in order: int64. All workers must come here."""
        if self.cluster.workers == 1:
            return [number]
        import tensorflow as tf
        if self._gather is None:
            def gather(x):
                return self._strategy.run(lambda: tf.distribute.get_replica_context().all_gather(x[tf.newaxis], 0))
            self._gather = tf.function(lambda x: self._strategy.experimental_local_results(gather(x))[0], autograph=False)
        return self._gather(tf.constant(number, tf.int64)).numpy().tolist()[::self._here]

    def check_same(self, what):
        """Raise a UserError unless all workers give the same plain data."""
        if len(set(self.of_all_workers(zlib.crc32(json.dumps(what, sort_keys=True).encode())))) > 1:
            raise UserError('the workers differ in their flags, in the dataset or in the checkpoint they found',
                            'Give all of them the same command, the same dataset, and a --result-dir that they share.')
