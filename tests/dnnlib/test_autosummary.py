import glob
import json
import math

import numpy as np
import pytest

from dnnlib.tflib.autosummary import Summaries


def lines(run_dir):
    def refuse(token):
        raise ValueError(f'{token} is not JSON')
    return [json.loads(line, parse_constant=refuse) for line in (run_dir / 'stats.jsonl').read_text().splitlines()]


def test_mean_is_over_all_elements_added_since_the_last_save(tmp_path):
    stats = Summaries(str(tmp_path))
    stats.add('Loss/a', 1.0)
    stats.add('Loss/a', np.array([[2.0, 3.0], [4.0, 10.0]], np.float32))
    assert stats.save(0) == {'Loss/a': 4.0}
    stats.add('Loss/a', 7)
    assert stats.save(1) == {'Loss/a': 7.0}


def test_add_returns_the_value(tmp_path):
    value = np.arange(3)
    assert Summaries(str(tmp_path)).add('x', value) is value


def test_moments_merge_with_values(tmp_path):
    stats = Summaries(str(tmp_path))
    stats.add('x', [1.0, 2.0])
    stats.add_moments('x', np.array([2.0, 9.0, 41.0]))
    assert stats.save(0) == {'x': 3.0}


def test_moments_of_a_wrong_shape_are_refused(tmp_path):
    with pytest.raises(ValueError, match='count, sum, sum of squares'):
        Summaries(str(tmp_path)).add_moments('x', [1.0, 2.0])


def test_sums_are_float64(tmp_path):
    stats = Summaries(str(tmp_path))
    stats.add('x', np.float32(2 ** 24))
    for _ in range(3):
        stats.add('x', np.float32(1))
    assert stats.save(0)['x'] == (2 ** 24 + 3) / 4


def test_values_that_are_not_finite_do_not_spoil_the_mean(tmp_path):
    stats = Summaries(str(tmp_path))
    stats.add('x', math.nan)
    stats.add('x', 3.0)
    stats.add_moments('x', (1, math.inf, math.inf))
    assert stats.save(0) == {'x': 3.0}


def test_json_line_has_fields_timestamp_and_null_for_nan(tmp_path):
    stats = Summaries(str(tmp_path))
    stats.add('Loss/scores/real', math.nan)
    stats.add('Loss/scores/fake', np.float32(0.5))
    means = stats.save(4000, tick=1, kimg=np.float64(4.0), seconds=math.inf)
    assert math.isnan(means['Loss/scores/real'])
    line, = lines(tmp_path)
    assert line.pop('timestamp') > 0
    assert line == {'tick': 1, 'kimg': 4.0, 'seconds': None, 'Loss/scores/real': None, 'Loss/scores/fake': 0.5}


def test_a_tag_without_new_values_is_not_written_again(tmp_path):
    stats = Summaries(str(tmp_path))
    stats.add('Loss/rare', 1.0)
    stats.save(0, tick=0)
    stats.save(1, tick=1)
    assert ['Loss/rare' in line for line in lines(tmp_path)] == [True, False]


def test_a_later_run_in_the_same_folder_appends(tmp_path):
    for tick in range(2):
        Summaries(str(tmp_path)).save(tick, tick=tick)
    assert [line['tick'] for line in lines(tmp_path)] == [0, 1]


def test_tensorboard_gets_the_tag_as_given_the_mean_and_the_step(tmp_path):
    import tensorflow as tf
    stats = Summaries(str(tmp_path))
    for step, value in [(1000, 0.25), (2000, 0.5)]:
        stats.add('Progress/kimg', value)
        stats.save(step)
    path, = glob.glob(str(tmp_path / 'events.out.tfevents.*'))
    found = [(value.tag, event.step, value.simple_value)
             for event in tf.compat.v1.train.summary_iterator(path) for value in event.summary.value]
    assert found == [('Progress/kimg', 1000, 0.25), ('Progress/kimg', 2000, 0.5)]
