"""Speed and memory of dataset_tool.py, and speed of the reader, also from a dataset of large images on the disk.

The writer is compared with a simple one that uses tf.train.Example on one thread.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import io
import os
import shutil
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from bench import networks, timing

if TYPE_CHECKING:
    from training.dataset import TFRecordDataset

_8_GPUS = 8 * 30  # Images per second that 8 GPUs show in training, if one shows 30.
COLUMNS = {'name': 's', 'plain_per_s': '.0f', 'ours_per_s': '.0f', 'ratio': '.1f', 'before': '.1f',
           'decoding_per_s': '.0f', 'decoding_ratio': '.1f'}


def main(argv: list[str], prog: str) -> None:
    """Run the measurements that the arguments ask for."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--rounds', help='times each writer is timed', type=int, default=3, metavar='N')
    parser.add_argument('--images', help='256x256 images that are written', type=int, default=1000, metavar='N')
    parser.add_argument('--large-images', help='1024x1024 images that are written to be read, 4.2 MB each', type=int,
                        default=1000, metavar='N')
    parser.add_argument('--only', help='only these of writing, memory, reading, large', nargs='+',
                        default=['writing', 'memory', 'reading', 'large'])
    args = parser.parse_args(argv)

    print(timing.machine())
    rows, others = [], []
    with tempfile.TemporaryDirectory() as work:
        if 'writing' in args.only:
            rows += [measure_writing(f'{work}/{kind}', kind, args.images, args.rounds) for kind in ('jpeg', 'png')]
            timing.report(rows, COLUMNS, before=('data', 'ratio'))
        if 'memory' in args.only:
            few, many = (peak_memory(work, count) for count in (2000, 20000))
            print(f'Peak memory of create_from_images: {few:.0f} MB for 2000 images, '
                  f'{many:.0f} MB for 20000; {many - few:+.0f} MB')
            others.append({'name': 'data/memory', 'few_mb': few, 'many_mb': many, 'ratio': many / few})
        if 'reading' in args.only:
            others.append(measure_reading(work))
        if 'large' in args.only:
            others += measure_large(work, args.large_images)
    timing.keep(rows + others, args.json)


# ---- Writing ----

def picture(number: int, size: int) -> np.ndarray:
    """Make something like a photograph: smooth shapes and a little grain, uint8 [size, size, 3]."""
    random = np.random.RandomState(number)
    small = PIL.Image.fromarray(random.randint(0, 256, [8, 8, 3]).astype(np.uint8))
    shapes = small.resize((size, size), PIL.Image.Resampling.BICUBIC)
    return (np.asarray(shapes) + random.normal(0, 2, [size, size, 3])).clip(0, 255).astype(np.uint8)


def save_pictures(folder: str, kind: str, count: int, size: int, distinct: int) -> None:
    """Make a folder of `count` files, of which `distinct` are different."""
    os.makedirs(folder)
    options: Any = {'quality': 92} if kind == 'jpeg' else {}
    for number in range(distinct):
        PIL.Image.fromarray(picture(number, size)).save(f'{folder}/{number:06d}.{kind}', **options)
    for number in range(distinct, count):
        os.link(f'{folder}/{number % distinct:06d}.{kind}', f'{folder}/{number:06d}.{kind}')


def write_plainly(folder: str, image_dir: str) -> None:
    """Write a dataset in the obvious way: one thread, PIL, float32 in NumPy, tf.train.Example, tf.io.TFRecordWriter."""
    import tensorflow as tf
    os.makedirs(folder)
    with contextlib.ExitStack() as files:
        writers = None
        for name in sorted(os.listdir(image_dir)):
            image = np.asarray(PIL.Image.open(os.path.join(image_dir, name))).transpose(2, 0, 1).astype(np.float32)
            if writers is None:
                levels = range(image.shape[1].bit_length() - 1, 1, -1)
                writers = [files.enter_context(tf.io.TFRecordWriter(f'{folder}/plain-r{level:02d}.tfrecords'))
                           for level in levels]
            for writer in writers:
                pixels = np.rint(image).clip(0, 255).astype(np.uint8)
                example = tf.train.Example(features=tf.train.Features(feature={
                    'shape': tf.train.Feature(int64_list=tf.train.Int64List(value=pixels.shape)),
                    'data': tf.train.Feature(bytes_list=tf.train.BytesList(value=[pixels.tobytes()]))}))
                writer.write(example.SerializeToString())
                image = (image[:, 0::2, 0::2] + image[:, 0::2, 1::2]
                         + image[:, 1::2, 0::2] + image[:, 1::2, 1::2]) * 0.25


def write_ours(folder: str, image_dir: str) -> None:
    """Write a dataset with dataset_tool.py."""
    import dataset_tool
    with contextlib.redirect_stdout(io.StringIO()):
        dataset_tool.main(['create_from_images', folder, image_dir, '--shuffle=0'])


def write_nothing(folder: str, image_dir: str) -> None:
    """Only decode the images with Pillow on all cores: the limit for a writer that takes no time for anything else."""
    def decode(names):
        for name in names:
            with PIL.Image.open(os.path.join(image_dir, name)) as image:
                image.load()

    os.makedirs(folder)
    names = os.listdir(image_dir)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(decode, [names[start:start + 10] for start in range(0, len(names), 10)]))


def measure_writing(work: str, kind: str, count: int, rounds: int) -> dict[str, Any]:
    """Time the writers on the same files, in turn, each in a process of its own. Returns a row of the table.

    Both datasets must hold the same images.
    """
    from training.data import tfrecords
    save_pictures(f'{work}/images', kind, count, 256, distinct=min(count, 50))
    seconds = {'nothing': [], 'plainly': [], 'ours': []}
    for _ in range(rounds):
        for name, times in seconds.items():
            times.append(float(timing.in_own_process(
                'import shutil, sys, time; from bench import data\n'
                'for run in range(2):\n'
                '  start = time.perf_counter()\n'
                f'  data.write_{name}(sys.argv[1], sys.argv[2])\n'
                '  if run == 0: shutil.rmtree(sys.argv[1])  # The first run warms up.\n'
                'print(time.perf_counter() - start)', f'{work}/{name}', f'{work}/images')))
        pairs = zip(*[tfrecords.find_dataset(f'{work}/{name}').levels.values() for name in ('plainly', 'ours')],
                    strict=True)
        for paths in pairs:
            images = zip(*map(tfrecords.read_images, paths), strict=True)
            assert all(np.array_equal(image_a, image_b) for image_a, image_b in images)
        for name in seconds:
            shutil.rmtree(f'{work}/{name}')
    decoding, plain, ours = (count / min(times) for times in seconds.values())
    return {'name': f'data/writing/{kind}/256', 'plain_per_s': plain, 'ours_per_s': ours, 'ratio': ours / plain,
            'decoding_per_s': decoding, 'decoding_ratio': decoding / plain}


def peak_memory(work: str, count: int) -> float:
    """Measure the peak resident size in MB of a process that makes a dataset of `count` images of 32x32 (on Linux)."""
    folder = f'{work}/small{count}'
    save_pictures(folder, 'png', count, 32, distinct=100)
    program = ('import sys, dataset_tool; from bench import timing; '
               'dataset_tool.main(sys.argv[1:]); print(timing.peak_memory())')
    return float(timing.in_own_process(program, 'create_from_images', f'{folder}-data', folder))


# ---- Reading ----

def measure_reading(work: str) -> dict[str, Any]:
    """Measure the latency and speed of the reader, and the speed of training config-e at 64x64.

    Returns a row of the figures, and prints them.
    """
    from training.data import dataset_writer
    pictures = np.stack([picture(number, 64).transpose(2, 0, 1) for number in range(100)])
    source = dataset_writer.Source((3, 64, 64), range(50000), lambda number: pictures[number % 100], 50000)
    for _ in dataset_writer.write_source(f'{work}/data64', source):
        pass
    import tensorflow as tf

    from training.dataset import TFRecordDataset
    tf.constant(0)  # TensorFlow itself takes a moment to start.
    start = time.perf_counter()
    data = TFRecordDataset(f'{work}/data64')
    minibatches = data.iterate(32)
    next(minibatches)
    first = time.perf_counter()
    print(f'Reader: {first - start:.2f} s from opening 50000 images of 64x64, fully shuffled, to the first minibatch')
    for _ in range(500):
        next(minibatches)
    read = 500 * 32 / (time.perf_counter() - first)
    del minibatches
    trained = training_speed(data)
    row = {'name': 'data/reading/64', 'first_s': first - start, 'images_per_s': read, 'training_per_s': trained,
           'ratio': read / trained}
    print(f'Reader: {read:.0f} images/s; training of config-e at 64x64: {trained:.1f} images/s; '
          f'ratio {read / trained:.0f}')
    return row


def measure_large(work: str, count: int, minibatch: int = 32) -> list[dict[str, Any]]:
    """Measure the reader on images of 1024x1024, from the disk and from memory, in their shuffled order.

    The time begins when nothing is read or prefetched, and ends when all is read. Returns the rows, and prints them.
    """
    from training.data import dataset_writer
    from training.dataset import TFRecordDataset
    pictures = np.random.RandomState(0).randint(0, 256, [4, 3, 1024, 1024]).astype(np.uint8)
    source = dataset_writer.Source((3, 1024, 1024), range(count), lambda number: pictures[number % 4], count)
    for _ in dataset_writer.write_source(f'{work}/large', source):
        pass
    rows = []
    for place in ('disk', 'memory'):
        if place == 'disk':
            drop_cached(f'{work}/large/large-r10.tfrecords')
        data = TFRecordDataset(f'{work}/large')
        start, start_cpu = time.perf_counter(), time.process_time()
        read = sum(len(images) for _, (images, _labels) in zip(range(count // minibatch), data.iterate(minibatch)))
        per_s, per_core_s = read / (time.perf_counter() - start), read / (time.process_time() - start_cpu)
        rows.append({'name': f'data/reading/1024/{place}', 'images': read, 'images_per_s': per_s,
                     'per_core_s': per_core_s, 'gb_per_s': per_s * 3 * 2**20 / 1e9, 'of_8_gpus': per_s / _8_GPUS})
        print(f'Reader, {read} images of 1024x1024 from the {place}: {per_s:.0f} images/s, '
              f'{rows[-1]["gb_per_s"]:.2f} GB/s; {per_core_s:.0f} images per second of a core. '
              f'8 GPUs at 30 images/s each need {_8_GPUS}: {per_s / _8_GPUS:.1f} times that are read, '
              f'and {_8_GPUS / per_core_s:.1f} cores are needed')
    return rows


def drop_cached(path: str) -> None:
    """Have the system write a file to the disk and forget what it has of it in memory (on Linux)."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def training_speed(data: TFRecordDataset, minibatch: int = 8, iterations: int = 4) -> float:
    """Measure images per second of config-e after tracing, without the phase that runs once in 16 iterations."""
    trainer, lrate = networks.make_trainer('config-e', data.resolution, minibatch)
    functions = networks.phase_functions(trainer, lrate, data.resolution, minibatch, stage=None)
    start = time.perf_counter()
    for number in range(1, 1 + 2 * iterations):  # The first half warms up.
        if number == 1 + iterations:
            start = time.perf_counter()
        for phase in trainer.phases(number):
            trainer.update_Gs(0.999) if phase == 'Gs_update' else functions[phase]()
    timing.wait_for_devices()
    return minibatch * iterations / (time.perf_counter() - start)
