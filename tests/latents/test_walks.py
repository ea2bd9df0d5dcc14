"""Curves through keyframes against closed forms and SciPy."""

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from latents import walks


def keys_of(count, shape=(2, 5)):
    return np.random.RandomState(count).randn(count, *shape)


@pytest.mark.parametrize('count', [2, 3, 4, 9])
@pytest.mark.parametrize('loop', [False, True])
def test_splines_are_those_of_scipy(count, loop):
    keys = keys_of(count)
    positions = np.linspace(0, count - (0 if loop else 1), 101)
    knots = [*keys, keys[0]] if loop else keys
    expected = CubicSpline(np.arange(len(knots)), knots, bc_type='periodic' if loop else 'natural')(positions)
    np.testing.assert_allclose(walks.curve_through(keys, 'spline', loop)(positions), expected, atol=1e-12)


def test_a_spline_through_three_keys_in_closed_form():
    """y = 0, 1, 0: the second derivative at the middle is 6 * -2 / 4 = -3, so that y(1/2) = 1/2 + 3/8 * 3 / 6."""
    keys = np.array([[0.], [1.], [0.]])
    np.testing.assert_allclose(walks.second_derivatives(keys, False), [[0], [-3], [0]], atol=1e-15)
    at = walks.curve_through(keys, 'spline', False)(np.array([0.5, 1.5]))
    np.testing.assert_allclose(at, [[0.6875], [0.6875]], rtol=1e-15)


@pytest.mark.parametrize('curve', walks.CURVES)
@pytest.mark.parametrize('loop', [False, True])
@pytest.mark.parametrize('count', [1, 2, 5])
def test_curves_pass_through_their_keys(curve, loop, count):
    keys = keys_of(count)
    at = walks.curve_through(keys, curve, loop)
    np.testing.assert_allclose(at(np.arange(count)), keys, rtol=1e-15, atol=1e-15)
    if loop:
        np.testing.assert_allclose(at(np.array([count])), keys[:1], rtol=1e-15, atol=1e-15)
        np.testing.assert_allclose(at(np.array([count - 1e-6])), keys[:1], atol=1e-4)
        roll = walks.curve_through(np.roll(keys, -1, axis=0), curve, loop)
        positions = np.linspace(0, count - 1, 7)
        np.testing.assert_allclose(roll(positions), at((positions + 1) % count), atol=1e-12)


def test_straight_lines():
    at = walks.curve_through(np.array([[0., 8.], [4., 0.]]), 'linear', False)
    np.testing.assert_array_equal(at(np.array([0, 0.25, 1])), [[0, 8], [1, 6], [4, 0]])


def test_slerp_goes_round_a_circle_at_even_speed():
    angles = np.array([0.3, 2.1])
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    t = np.linspace(0, 1, 11)
    expected = angles[0] + t * (angles[1] - angles[0])
    at = walks.curve_through(3 * circle, 'slerp', False)(t)
    np.testing.assert_allclose(at, 3 * np.stack([np.cos(expected), np.sin(expected)], axis=1), atol=1e-14)


@pytest.mark.parametrize('factor, middle', [(1, 1), (3, 2), (-1, 0)])
def test_slerp_between_parallel_and_opposite_vectors_is_a_line(factor, middle):
    a = np.array([0.6, -0.8])
    np.testing.assert_allclose(walks.slerp(a, factor * a, np.array([0.5])), middle * a, atol=1e-12)


@pytest.mark.parametrize('keys, loop, frames', [
    (3, False, 21), (3, True, 30), (1, False, 10), (1, True, 10), (2, False, 11)])
def test_the_number_of_frames(keys, loop, frames):
    assert walks.count_frames(keys, 10, loop) == frames


def test_sweeps_reach_both_ends_and_close():
    np.testing.assert_allclose(walks.sweep(0.2, 1, np.arange(5), 5, False), [0.2, 0.4, 0.6, 0.8, 1])
    np.testing.assert_allclose(walks.sweep(0, 1, np.arange(4), 4, True), [0, 0.5, 1, 0.5])
