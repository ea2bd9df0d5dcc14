"""Charts as SVG text, for the pages of runs and the documentation: lines, stacked areas and bars."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dnnlib import storage

COLORS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#7f3c8d', '#444444']
DARK_COLORS = ['#4da9ea', '#ff8b45', '#2ec79c', '#e6a3ca', '#f2b93b', '#9bd6f8', '#bb86d3', '#bbbbbb']  # Dark pages.
DASHES = ['', '6 3', '2 2']  # Dashes of the first 8 curves, the next 8, ...
_DOTS = '1 4'  # Dashes of curves that are the second of a pair.

_WIDTH, _HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 10, 10, 40
_LEGEND, _ROW = 100, 18  # Width of the legend at the right, and height of its rows and of bars.
_MOST_POINTS = 400  # Most points of a curve. More would not be visible.
_MOST_MARKERS = 100  # Curves of up to this many points show each of them, with its value when the mouse is over it.
_LOG_FROM = 30  # The axis is logarithmic if the largest value is at least this many times the smallest.


class Curve(NamedTuple):
    """One curve of a chart."""
    label: str                                 # Name, as text.
    points: Sequence[tuple[float, float]]      # (x, y). The line has a gap where y is NaN or infinite.
    style: int                                 # Number of its color and dashes.
    dotted: bool = False                       # Is it the second of a pair, whose first has the same style?


def chart(curves: Sequence[Curve], x_label: str, y_label: str = '', top: float = math.inf) -> str:
    """Draw curves over one pair of axes.

    Args:
        curves:  The curves.
        x_label: Name and unit of the horizontal axis.
        y_label: Name and unit of the vertical axis. If the axis is logarithmic, the chart adds that.
        top:     Largest value on the vertical axis. A larger value is drawn as a triangle at the top edge.

    Returns:
        SVG text; '' if there are no finite values.
    """
    values = [y for curve in curves for _, y in curve.points if math.isfinite(y)]
    if not values:
        return ''
    values = [y for y in values if y <= top] or values
    xs = [x for curve in curves for x, _ in curve.points]
    log = min(values) > 0 and max(values) / min(values) >= _LOG_FROM
    x_axis = _Axis(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT, log=False)
    y_axis = _Axis(min(values), max(values), _HEIGHT - _BOTTOM, _TOP, log)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}">']
    for x, text in x_axis.ticks():
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>'
                     f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{text}</text>')
    for y, text in y_axis.ticks():
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
                     f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    y_label += (', ' if y_label else '') + 'logarithmic' if log else ''
    if y_label:
        middle = (_TOP + _HEIGHT - _BOTTOM) / 2
        parts.append(f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">'
                     f'{html.escape(y_label)}</text>')
    parts += [_draw(curve, x_axis, y_axis, max(values)) for curve in curves]
    return '\n'.join([*parts, '</svg>'])


def areas(curves: Sequence[Curve], x_label: str) -> str:
    """Draw shares that sum up to 1 as areas on top of one another, with a legend at the right.

    Args:
        curves:  The shares, the lowest area first, all at the same x. There are at least two of them.
        x_label: Name and unit of the horizontal axis.

    Returns:
        SVG text.
    """
    right = _WIDTH - _LEGEND
    xs = [x for x, _ in curves[0].points]
    x_axis = _Axis(xs[0], xs[-1], _LEFT, right, log=False, room=0)
    y_axis = _Axis(0, 1, _HEIGHT - _BOTTOM, _TOP, log=False, room=0)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}">']
    below = [0.0] * len(xs)
    for curve in curves:
        above = [low + y for low, (_, y) in zip(below, curve.points, strict=True)]
        corners = [*zip(xs, above), *reversed([*zip(xs, below)])]
        points = ' '.join(f'{x_axis.at(x):.1f},{y_axis.at(y):.1f}' for x, y in corners)
        parts.append(f'<polygon {_fill(curve.style)} points="{points}">'
                     f'<title>{html.escape(curve.label)}</title></polygon>')
        below = above
    for number, curve in enumerate(reversed(curves)):
        y = _TOP + _ROW * number
        parts.append(f'<rect {_fill(curve.style)} x="{right + 12}" y="{y}" width="10" height="10"/>'
                     f'<text x="{right + 28}" y="{y + 9}">{html.escape(curve.label)}</text>')
    for x, text in x_axis.ticks():
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{text}</text>')
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<text x="{_LEFT - 6}" y="{y_axis.at(share) + 3.5:.1f}" text-anchor="end">{share:.0%}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    return '\n'.join([*parts, '</svg>'])


def bars(shares: Sequence[tuple[str, float, int]]) -> str:
    """Draw shares as horizontal bars below each other.

    Args:
        shares: (name, share from 0 to 1, number of its color) of each.

    Returns:
        SVG text.
    """
    longest = max(max(share for _, share, _ in shares), 1e-9)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {2 * _TOP + _ROW * len(shares)}">']
    for number, (name, share, style) in enumerate(shares):
        y, width = _TOP + _ROW * number, (_WIDTH - _LEFT - _LEGEND) * share / longest
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 11}" text-anchor="end">{html.escape(name)}</text>'
                     f'<rect {_fill(style)} x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_ROW - 4}"/>'
                     f'<text x="{_LEFT + width + 6:.1f}" y="{y + 11}">{share:.1%}</text>')
    return '\n'.join([*parts, '</svg>'])


def _fill(style: int) -> str:
    """Attributes of an area. Those beyond the number of colors are paler."""
    return f'class="c{style % len(COLORS)}" stroke-width="0" fill-opacity="{0.9 if style < len(COLORS) else 0.45}"'


def color_rules(colors: Iterable[str]) -> str:
    """CSS that gives the curves these colors."""
    return '\n'.join(f'.c{number} {{ stroke: {color}; fill: {color} }}' for number, color in enumerate(colors))


# Style of a chart that is a file of its own; on pages the style is that of training/run/page.py.
_STYLE = ('<style>text {{ font: 11px sans-serif; fill: #555 }} .grid {{ stroke: #e4e4e4 }} '
          'polyline {{ fill: none; stroke-width: 1.5 }} circle, polygon {{ stroke: none }} {}</style>'
          '<rect width="100%" height="100%" fill="#fff"/>')


def save_svg(picture: str, path: str) -> None:
    """Write what `chart` returned as a file of its own."""
    head, rest = picture.split('>', 1)
    head = head.replace('<svg', '<svg xmlns="http://www.w3.org/2000/svg"')
    with storage.new_file(path) as part, open(part, 'w', encoding='utf-8') as file:
        file.write(f'{head}>{_STYLE.format(color_rules(COLORS))}{rest}\n')


def swatch(style: int, dotted: bool = False) -> str:
    """SVG text of a short piece of a curve, for legends. Arguments as in Curve."""
    return f'<svg class="swatch" viewBox="0 0 26 8"><path {_stroke(style, dotted)} d="M1 4H25"/></svg>'


def thin_out(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Reduce the points of a long curve.

    The curve is cut into pieces. The lowest and the highest point of each piece are kept, and the last point of the
    curve.

    """
    if len(points) <= _MOST_POINTS:
        return points
    size = math.ceil(2 * len(points) / _MOST_POINTS)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        piece = points[start:start + size]
        finite = [point for point in piece if math.isfinite(point[1])]
        kept += sorted({min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])}) if finite else piece[:1]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _stroke(style: int, dotted: bool) -> str:
    """Attributes of a line."""
    dashes = _DOTS if dotted else DASHES[style // len(COLORS) % len(DASHES)]
    cap = ' stroke-linecap="round"' if dotted else ''
    return f'class="c{style % len(COLORS)}" stroke-dasharray="{dashes}"{cap}'


def _draw(curve: Curve, x_axis: _Axis, y_axis: _Axis, top: float) -> str:
    """SVG text of one curve. Arguments as in `chart`."""
    points = thin_out(curve.points)
    pieces, isolated, piece = [], [], []
    for point in [*points, (0.0, math.nan)]:
        if math.isfinite(point[1]) and point[1] <= top:
            piece.append(point)
        elif piece:
            (pieces if len(piece) > 1 else isolated).append(piece)
            piece = []
    inside = [(x, y) for x, y in points if math.isfinite(y) and y <= top]
    marked = inside if len(points) <= _MOST_MARKERS else [piece[0] for piece in isolated]

    def tooltip(x: float, y: float) -> str:
        return f'<title>{html.escape(curve.label)}: {y:.6g} at {x:.6g}</title>'

    parts = []
    for piece in pieces:
        coordinates = ' '.join(f'{x_axis.at(x):.1f},{y_axis.at(y):.1f}' for x, y in piece)
        parts.append(f'<polyline points="{coordinates}"/>')
    parts += [f'<circle cx="{x_axis.at(x):.1f}" cy="{y_axis.at(y):.1f}" r="2.2">{tooltip(x, y)}</circle>'
              for x, y in marked]
    for x, y in points:
        if math.isfinite(y) and y > top:
            left, right = x_axis.at(x) - 5, x_axis.at(x) + 5
            corners = f'{left:.1f},{_TOP + 8} {right:.1f},{_TOP + 8} {x_axis.at(x):.1f},{_TOP}'
            parts.append(f'<polygon points="{corners}">{tooltip(x, y)}</polygon>')
    return f'<g {_stroke(curve.style, curve.dotted)}>{"".join(parts)}</g>'


class _Axis:
    """Maps values from `low` to `high` to coordinates from `start` to `end`, logarithmically if `log`.

    `room` is the share of the axis that stays free at both ends.
    """

    def __init__(self, low: float, high: float, start: float, end: float, log: bool, room: float = 0.04):
        self._log = log
        if log:
            low, high = math.log10(low), math.log10(high)
        room = (high - low) * room if high > low else abs(high) * 0.1 or 1.0  # Keeps the curve off the frame.
        self._low, self._high, self._start, self._end = low - room, high + room, start, end

    def at(self, value: float) -> float:
        """Coordinate of a value."""
        value = math.log10(value) if self._log else value
        return self._start + (value - self._low) / (self._high - self._low) * (self._end - self._start)

    def ticks(self) -> list[tuple[float, str]]:
        """(coordinate, text) of each round number on the axis."""
        if self._log:
            factors = (1, 2, 5) if self._high - self._low < 3 else (1,)
            first, last = math.floor(self._low), math.ceil(self._high)
            step = max(1, (last - first) // 5)
            values = [factor * 10.0 ** power for power in range(first, last, step) for factor in factors]
            values = [value for value in values if self._low <= math.log10(value) <= self._high]
        else:
            rough = (self._high - self._low) / 6
            power = 10.0 ** math.floor(math.log10(rough))
            step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
            values = [number * step for number in range(math.ceil(self._low / step), math.floor(self._high / step) + 1)]
        return [(self.at(value), f'{value:.6g}') for value in values]
