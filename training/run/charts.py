"""Line charts as SVG text, for the pages of runs and the docs."""

import html
import math
from typing import NamedTuple

from dnnlib import storage

COLORS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#7f3c8d', '#444444']
DARK_COLORS = ['#4da9ea', '#ff8b45', '#2ec79c', '#e6a3ca', '#f2b93b', '#9bd6f8', '#bb86d3', '#bbbbbb']  # The same on a dark page.
DASHES = ['', '6 3', '2 2']  # Of the first 8 curves, the next 8, ...
_DOTS = '1 4'                # Of curves that are the second of a pair.

_WIDTH, _HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 10, 10, 40
_MOST_POINTS = 400    # Of a curve; more would not show, but cost bytes.
_MOST_MARKERS = 100   # Curves of up to so many points show each of them, with its value when the mouse rests on it.
_LOG_FROM = 30        # Largest by smallest value from which on the axis is logarithmic.


class Curve(NamedTuple):
    label: str
    points: list     # (x, y), floats; y is NaN where a value was not finite, and the line has a gap there
    style: int       # number of its colour and dashes
    dotted: bool = False  # Is it the second of a pair, whose first has the same style?


def chart(curves, x_label, y_label='', top=math.inf):
    """SVG text of curves over one pair of axes; '' if they have no finite value.

    Args:
        curves:  List of Curve.
        x_label: Name and unit of the horizontal axis.
        y_label: The same of the vertical one; a logarithmic axis adds that it is one.
        top:     Greatest value that the vertical axis has room for. What lies above is a triangle at the top edge.
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
    parts.append(f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    y_label += (', ' if y_label else '') + 'logarithmic' if log else ''
    if y_label:
        middle = (_TOP + _HEIGHT - _BOTTOM) / 2
        parts.append(f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{html.escape(y_label)}</text>')
    parts += [_draw(curve, x_axis, y_axis, max(values)) for curve in curves]
    return '\n'.join([*parts, '</svg>'])


def color_rules(colors):
    """CSS that gives the curves these colours."""
    return '\n'.join(f'.c{number} {{ stroke: {color}; fill: {color} }}' for number, color in enumerate(colors))


# What training/run/page.py has in its style sheet, for a chart that stands alone.
_STYLE = ('<style>text {{ font: 11px sans-serif; fill: #555 }} .grid {{ stroke: #e4e4e4 }} polyline {{ fill: none; stroke-width: 1.5 }} '
          'circle, polygon {{ stroke: none }} {}</style><rect width="100%" height="100%" fill="#fff"/>')


def save_svg(picture, path):
    """Write what `chart` returned as a file of its own."""
    head, rest = picture.split('>', 1)
    with storage.new_file(path) as part, open(part, 'w', encoding='utf-8') as file:
        file.write(head.replace('<svg', '<svg xmlns="http://www.w3.org/2000/svg"') + '>' + _STYLE.format(color_rules(COLORS)) + rest + '\n')


def swatch(style, dotted=False):
    """SVG text of a short piece of a curve, for legends."""
    return f'<svg class="swatch" viewBox="0 0 26 8"><path {_stroke(style, dotted)} d="M1 4H25"/></svg>'


def thin_out(points):
    """Points for a picture: of each piece of a long curve the lowest and the highest, in their order, and its last one."""
    if len(points) <= _MOST_POINTS:
        return points
    size, kept = math.ceil(2 * len(points) / _MOST_POINTS), []
    for start in range(0, len(points), size):
        piece = points[start:start + size]
        finite = [point for point in piece if math.isfinite(point[1])]
        kept += sorted({min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])}) if finite else piece[:1]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _stroke(style, dotted):
    dashes = _DOTS if dotted else DASHES[style // len(COLORS) % len(DASHES)]
    return f'class="c{style % len(COLORS)}" stroke-dasharray="{dashes}"{" stroke-linecap=" + chr(34) + "round" + chr(34) if dotted else ""}'


def _draw(curve, x_axis, y_axis, top):
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

    def tooltip(x, y):
        return f'<title>{html.escape(curve.label)}: {y:.6g} at {x:.6g}</title>'
    parts = [f'<polyline points="{" ".join(f"{x_axis.at(x):.1f},{y_axis.at(y):.1f}" for x, y in piece)}"/>' for piece in pieces]
    parts += [f'<circle cx="{x_axis.at(x):.1f}" cy="{y_axis.at(y):.1f}" r="2.2">{tooltip(x, y)}</circle>' for x, y in marked]
    parts += [f'<polygon points="{x_axis.at(x) - 5:.1f},{_TOP + 8} {x_axis.at(x) + 5:.1f},{_TOP + 8} {x_axis.at(x):.1f},{_TOP}">'
              f'{tooltip(x, y)}</polygon>' for x, y in points if math.isfinite(y) and y > top]
    return f'<g {_stroke(curve.style, curve.dotted)}>{"".join(parts)}</g>'


class _Axis:
    """Where values between `low` and `high` lie between the coordinates `start` and `end`."""

    def __init__(self, low, high, start, end, log):
        self._log = log
        if log:
            low, high = math.log10(low), math.log10(high)
        room = (high - low) * 0.04 or abs(high) * 0.1 or 1.0  # So that the curve does not lie on the frame.
        self._low, self._high, self._start, self._end = low - room, high + room, start, end

    def at(self, value):
        value = math.log10(value) if self._log else value
        return self._start + (value - self._low) / (self._high - self._low) * (self._end - self._start)

    def ticks(self):
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
