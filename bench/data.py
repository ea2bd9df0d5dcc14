"""dataset_tool.py against a plain writer of tf.train.Example on one thread; its memory; and the reader against the speed of training."""

import argparse
import concurrent.futures
import contextlib
import io
import os
import shutil
import tempfile
import time

import numpy as np
import PIL.Image

from bench import networks, timing

COLUMNS = {'name': 's', 'plain_per_s': '.0f', 'ours_per_s': '.0f', 'ratio': '.1f', 'before': '.1f', 'decoding_per_s': '.0f',
           'decoding_ratio': '.1f'}


def main(argv, prog):
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', help='write the rows to this file', metavar='FILE')
    parser.add_argument('--rounds', help='times each writer is timed', type=int, default=3, metavar='N')
    parser.add_argument('--images', help='256x256 images that are written', type=int, default=1000, metavar='N')
    parser.add_argument('--only', help='only these of writing, memory, reading', nargs='+', default=['writing', 'memory', 'reading'])
    args = parser.parse_args(argv)

    print(timing.machine())
    rows, others = [], []
    with tempfile.TemporaryDirectory() as work:
        if 'writing' in args.only:
            rows += [measure_writing(f'{work}/{kind}', kind, args.images, args.rounds) for kind in ('jpeg', 'png')]
            timing.report(rows, COLUMNS, before=('data', 'ratio'))
        if 'memory' in args.only:
            few, many = (peak_memory(work, count) for count in (2000, 20000))
            print(f'Peak memory of create_from_images: {few:.0f} MB for 2000 images, {many:.0f} MB for 20000; {many - few:+.0f} MB')
            others.append({'name': 'data/memory', 'few_mb': few, 'many_mb': many, 'ratio': many / few})
        if 'reading' in args.only:
            others.append(measure_reading(work))
    timing.keep(rows + others, args.json)


# ---- Writing ----

def picture(number, size):
    """Something like a photograph: smooth shapes and a little grain, uint8 [size, size, 3]."""
    random = np.random.RandomState(number)
    shapes = PIL.Image.fromarray(random.randint(0, 256, [8, 8, 3]).astype(np.uint8)).resize((size, size), PIL.Image.Resampling.BICUBIC)
    return (np.asarray(shapes) + random.normal(0, 2, [size, size, 3])).clip(0, 255).astype(np.uint8)


def save_pictures(folder, kind, count, size, distinct):
    """`count` files in a folder, of which `distinct` are different."""
    os.makedirs(folder)
    for number in range(distinct):
        PIL.Image.fromarray(picture(number, size)).save(f'{folder}/{number:06d}.{kind}', **({'quality': 92} if kind == 'jpeg' else {}))
    for number in range(distinct, count):
        os.link(f'{folder}/{number % distinct:06d}.{kind}', f'{folder}/{number:06d}.{kind}')


def write_plainly(folder, image_dir):
    """What one would write first: one thread, PIL, NumPy's float32, tf.train.Example, tf.io.TFRecordWriter."""
    import tensorflow as tf
    os.makedirs(folder)
    with contextlib.ExitStack() as files:
        writers = None
        for name in sorted(os.listdir(image_dir)):
            image = np.asarray(PIL.Image.open(os.path.join(image_dir, name))).transpose(2, 0, 1).astype(np.float32)
            if writers is None:
                levels = range(image.shape[1].bit_length() - 1, 1, -1)
                writers = [files.enter_context(tf.io.TFRecordWriter(f'{folder}/plain-r{level:02d}.tfrecords')) for level in levels]
            for writer in writers:
                pixels = np.rint(image).clip(0, 255).astype(np.uint8)
                writer.write(tf.train.Example(features=tf.train.Features(feature={
                    'shape': tf.train.Feature(int64_list=tf.train.Int64List(value=pixels.shape)),
                    'data': tf.train.Feature(bytes_list=tf.train.BytesList(value=[pixels.tobytes()]))})).SerializeToString())
                image = (image[:, 0::2, 0::2] + image[:, 0::2, 1::2] + image[:, 1::2, 0::2] + image[:, 1::2, 1::2]) * 0.25


def write_ours(folder, image_dir):
    import dataset_tool
    with contextlib.redirect_stdout(io.StringIO()):
        dataset_tool.main(['create_from_images', folder, image_dir, '--shuffle=0'])


def write_nothing(folder, image_dir):
    """Pillow's part alone, on all cores: what a writer that took no time for anything else would take."""
    def decode(names):
        for name in names:
            with PIL.Image.open(os.path.join(image_dir, name)) as image:
                image.load()

    os.makedirs(folder)
    names = os.listdir(image_dir)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(decode, [names[start:start + 10] for start in range(0, len(names), 10)]))


def measure_writing(work, kind, count, rounds):
    """Row of the table: the writers on the same files, in turn, each in a process of its own. Two must write the same images."""
    from training.data import tfrecords
    save_pictures(f'{work}/images', kind, count, 256, distinct=min(count, 50))
    seconds = {'nothing': [], 'plainly': [], 'ours': []}
    for _ in range(rounds):
        for name, times in seconds.items():
            times.append(float(timing.in_own_process(
                f'import shutil, sys, time; from bench import data\nfor run in range(2):\n  start = time.perf_counter()\n'
                f'  data.write_{name}(sys.argv[1], sys.argv[2])\n  if run == 0: shutil.rmtree(sys.argv[1])  # to warm up\n'
                'print(time.perf_counter() - start)', f'{work}/{name}', f'{work}/images')))
        pairs = zip(*[tfrecords.find_dataset(f'{work}/{name}').levels.values() for name in ('plainly', 'ours')], strict=True)
        assert all(np.array_equal(a, b) for paths in pairs for a, b in zip(*map(tfrecords.read_images, paths), strict=True))
        for name in seconds:
            shutil.rmtree(f'{work}/{name}')
    decoding, plain, ours = (count / min(times) for times in seconds.values())
    return {'name': f'data/writing/{kind}/256', 'plain_per_s': plain, 'ours_per_s': ours, 'ratio': ours / plain,
            'decoding_per_s': decoding, 'decoding_ratio': decoding / plain}


def peak_memory(work, count):
    """Peak resident size in MB of a process that makes a dataset of `count` images of 32x32 (on Linux)."""
    folder = f'{work}/small{count}'
    save_pictures(folder, 'png', count, 32, distinct=100)
    program = 'import sys, dataset_tool; from bench import timing; dataset_tool.main(sys.argv[1:]); print(timing.peak_memory())'
    return float(timing.in_own_process(program, 'create_from_images', f'{folder}-data', folder))


# ---- Reading ----

def measure_reading(work):
    """Row of how soon and how fast the reader delivers, and what the training of config-e at 64x64 consumes; prints it too."""
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
    row = {'name': 'data/reading/64', 'first_s': first - start, 'images_per_s': read, 'training_per_s': trained, 'ratio': read / trained}
    print(f'Reader: {read:.0f} images/s; training of config-e at 64x64: {trained:.1f} images/s; ratio {read / trained:.0f}')
    return row


def training_speed(data, minibatch=8, iterations=4):
    """Images per second of config-e, after the functions are traced; without the path that is run once in 16 iterations."""
    trainer, lrate = networks.make_trainer('config-e', data.resolution, minibatch)
    functions = networks.phase_functions(trainer, lrate, data.resolution, minibatch, stage=None)
    start = None
    for number in range(1, 1 + 2 * iterations):  # the first half warms up
        if number == 1 + iterations:
            start = time.perf_counter()
        for phase in trainer.phases(number):
            trainer.update_Gs(0.999) if phase == 'Gs_update' else functions[phase]()
    return minibatch * iterations / (time.perf_counter() - start)
