"""Curves through keyframes in Z or W, and how truncation changes along them. Positions are counted in keyframes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from latents.options import CURVES


def count_frames(num_keys: int, per_key: int, loop: bool) -> int:
    """Number of frames of a walk. Frame i is at position i / per_key.

    An open walk ends at the last keyframe. A loop goes back to the first one, and ends a frame before it: played again
    and again, it has no frame twice. A walk of one keyframe stays there for `per_key` frames.
    """
    return num_keys * per_key if loop or num_keys == 1 else (num_keys - 1) * per_key + 1


def curve_through(keys: np.ndarray, curve: str, loop: bool) -> Callable[[np.ndarray], np.ndarray]:
    """The curve that is at keys[k] at position k.

    'linear' consists of straight lines. 'spline' is the cubic spline with continuous second derivatives, which are zero
    at the ends of an open curve. 'slerp' keeps an even angular speed from key to key (Shoemake 1985), for vectors along
    the last axis; between vectors that are (almost) parallel or opposite it is a straight line.

    Args:
        keys:  [K, ...].
        curve: One of CURVES.
        loop:  Go on from the last key to the first one?

    Returns:
        Function (positions [N], from 0 to K - 1, or up to K in a loop) -> points float64 [N, ...].
    """
    assert curve in CURVES
    keys = np.asarray(keys, np.float64)
    num_keys, last = len(keys), max(len(keys) - (1 if loop else 2), 0)  # Last piece of the curve.
    bends = second_derivatives(keys, loop) if curve == 'spline' else None

    def at(positions: np.ndarray) -> np.ndarray:
        positions = np.clip(positions, 0, num_keys if loop else num_keys - 1)
        begin = np.minimum(np.floor(positions).astype(int), last)
        end = (begin + 1) % num_keys if loop else np.minimum(begin + 1, num_keys - 1)
        t = (positions - begin).reshape([-1] + [1] * (keys.ndim - 1))
        if curve == 'slerp':
            return slerp(keys[begin], keys[end], t)
        points = (1 - t) * keys[begin] + t * keys[end]
        if bends is not None:
            points += (((1 - t) ** 3 - (1 - t)) * bends[begin] + (t ** 3 - t) * bends[end]) / 6
        return points
    return at


def second_derivatives(keys: np.ndarray, loop: bool) -> np.ndarray:
    """Second derivatives at the keys of the cubic spline through them, [K, ...]. Those at open ends are zero.

    They solve m[k - 1] + 4 m[k] + m[k + 1] = 6 (y[k - 1] - 2 y[k] + y[k + 1]). In a loop the matrix is circulant, so
    the Fourier transform solves it. An open curve of K keys is half of a loop of 2 K - 2 keys that is odd at both ends.
    """
    if not loop:
        inner = (keys[:-2] - 2 * keys[1:-1] + keys[2:]) if len(keys) > 2 else keys[:0]
        zero = np.zeros_like(keys[:1])
        odd = np.concatenate([zero, inner, zero, -inner[::-1]])
        return _solve_circulant(6 * odd)[:len(keys)]
    return _solve_circulant(6 * (np.roll(keys, 1, axis=0) - 2 * keys + np.roll(keys, -1, axis=0)))


def _solve_circulant(right: np.ndarray) -> np.ndarray:
    """Solve m[k - 1] + 4 m[k] + m[k + 1] = right[k] for indices that wrap around."""
    eigenvalues = 4 + 2 * np.cos(2 * np.pi * np.arange(len(right) // 2 + 1) / len(right))
    spectrum = np.fft.rfft(right, axis=0) / eigenvalues.reshape([-1] + [1] * (right.ndim - 1))
    return np.fft.irfft(spectrum, len(right), axis=0)


def slerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Spherical linear interpolation from a to b, vectors [..., n], at t [..., 1] from 0 to 1.

    The angle is that between a and b; if their lengths differ, they change along with the direction.
    """
    lengths = np.linalg.norm(a, axis=-1, keepdims=True) * np.linalg.norm(b, axis=-1, keepdims=True)
    cosine = np.sum(a * b, axis=-1, keepdims=True) / np.maximum(lengths, 1e-300)
    angle = np.arccos(np.clip(cosine, -1, 1))
    sine = np.sin(angle)
    is_line = sine < 1e-6
    sine = np.where(is_line, 1, sine)
    first = np.where(is_line, 1 - t, np.sin((1 - t) * angle) / sine)
    second = np.where(is_line, t, np.sin(t * angle) / sine)
    return first * a + second * b


def sweep(first: float, last: float, frames: np.ndarray, num_frames: int, loop: bool) -> np.ndarray:
    """Values that go from `first` to `last`, and in a loop smoothly back, at the given frames of `num_frames`."""
    if loop:
        return first + (last - first) * (1 - np.cos(2 * np.pi * frames / num_frames)) / 2
    return first + (last - first) * frames / max(num_frames - 1, 1)
