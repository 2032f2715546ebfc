"""Plots as inline SVG: no scripts, no requests. Colours are the page's (see page.py), so that they follow
light, dark and print. Everything that a plot shows stands in a table beside it, too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from toolchain.documents.axes import Axis, percent_text, shortened, size_text, spread

WIDTH, HEIGHT = 420, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 22, 30, 44


@dataclass(frozen=True)
class Point:
    """One mark: its place, its number in the legend, whether it is on the front, and how it is drawn: filled
    (`chosen`) or grey (`faded`), `radius` in pixels."""

    x: float
    y: float
    number: int
    front: bool = False
    chosen: bool = False
    faded: bool = False
    radius: float = 5.0


def scatter(
    points: Sequence[Point], *, x: str, y: str, title: str, in_bytes: bool = True, level: float | None = None
) -> Markup:
    """Numbered marks with the front joined, and a dashed `level`. `x` and `y` name the axes; x is a size
    unless `in_bytes` is false."""
    xs, ys = [point.x for point in points], [point.y for point in points]
    logarithmic = max(xs) / max(min(xs), 1e-9) > 8
    low, high = (min(xs) / 1.3, max(xs) * 1.3) if logarithmic else spread(xs, floor=max(xs) * 0.02)
    unit = 1024.0 ** max(math.floor(math.log(high, 1024)), 0) if in_bytes else 1.0
    across = Axis(max(low, 0.0), high, _LEFT, WIDTH - _RIGHT, logarithmic, unit)
    levels = [level] if level is not None else []
    up = Axis(*spread([*ys, *levels], share=0.15, floor=2e-3), HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(across, up, x, y, x_text=size_text if in_bytes else _number_text)]
    parts += [_line([(across.start, up.at(one)), (across.end, up.at(one))], "level") for one in levels]
    front = sorted((point for point in points if point.front), key=lambda point: (point.x, point.y))
    if len(front) > 1:
        parts.append(_line([(across.at(p.x), up.at(p.y)) for p in front], "front"))
    for point in sorted(points, key=lambda one: (one.chosen, not one.faded)):  # what matters most on top
        kind = "mark" + " chosen" * point.chosen + " faded" * point.faded
        parts.append(
            Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>').format(
                kind, across.at(point.x), up.at(point.y), point.radius
            )
        )
    marks = [(across.at(point.x), up.at(point.y)) for point in points]
    taken: list[tuple[float, float]] = []
    for point, (left, top) in zip(points, marks, strict=True):
        wide = 3.5 * (len(str(point.number)) - 1)
        label = _free_place(left, top, point.radius, wide, [*taken, *marks])
        taken.append(label)
        parts.append(
            Markup('<text class="number" x="{:.1f}" y="{:.1f}">{}</text>').format(*label, point.number)
        )
    return _svg(parts, title)


def lines(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    *,
    x: str,
    y: str,
    title: str,
    level: float | None = None,
    mark: tuple[float, float] | None = None,
) -> Markup:
    """Lines by class name over shares from 0 to 1, a dashed level, and a mark."""
    highest = max([point[1] for _, line in series for point in line] + [level or 0.0, 1e-3])
    across = Axis(0.0, 1.0, _LEFT, WIDTH - _RIGHT)
    up = Axis(0.0, min(highest * 1.1, 1.0), HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(across, up, x, y, x_text=percent_text, y_text=percent_text)]
    if level is not None:
        parts.append(_line([(across.start, up.at(level)), (across.end, up.at(level))], "level"))
    for name, line in series:
        shown = [(across.at(a), up.at(min(b, up.high))) for a, b in line]
        parts.append(_line(shown, name))
    if mark is not None:
        parts.append(
            Markup('<circle class="mark chosen" cx="{:.1f}" cy="{:.1f}" r="5"/>').format(
                across.at(mark[0]), up.at(min(mark[1], up.high))
            )
        )
    return _svg(parts, title)


def reliability(
    bins: Sequence[tuple[float, float, int, float | None, float | None]], *, title: str
) -> Markup:
    """A reliability diagram: for each bin (from, to, rows, confidence, accuracy) a bar of its accuracy, a
    dash at its mean confidence, and below a bar of its share of rows."""
    strip = 46
    across = Axis(0.0, 1.0, _LEFT, WIDTH - _RIGHT)
    up = Axis(0.0, 1.0, HEIGHT - _BOTTOM - strip, _TOP)
    parts = [
        _frame(across, up, "confidence", "accuracy", x_text=percent_text, y_text=percent_text, strip=strip)
    ]
    most = max((rows for _, _, rows, _, _ in bins), default=0) or 1
    base = HEIGHT - _BOTTOM
    for low, high, rows, confidence, accuracy in bins:
        left, width = across.at(low) + 1, across.at(high) - across.at(low) - 2
        if accuracy is not None and confidence is not None:
            top = up.at(accuracy)
            parts.append(_rect("bar", left, top, width, up.start - top))
            level = up.at(confidence)
            parts.append(_line([(left, level), (left + width, level)], "tick-mark"))
        tall = (strip - 12) * rows / most
        parts.append(_rect("count", left, base - tall, width, tall))
    parts.append(_line([(across.at(0), up.at(0)), (across.at(1), up.at(1))], "level"))
    return _svg(parts, title)


def confusion(matrix: Sequence[Sequence[int]], names: Sequence[str], *, title: str) -> Markup:
    """A heat map: rows are true classes, columns what they were taken for, shades the share of the row."""
    count = len(matrix)
    numbers = count <= 12
    left, top = 74 if numbers else 20, 60 if numbers else 20
    side = (WIDTH - left - 8) / count
    parts: list[Markup] = []
    for i, row in enumerate(matrix):
        total = sum(row) or 1
        for j, value in enumerate(row):
            x, y, share = left + j * side, top + i * side, value / total
            parts.append(
                Markup(
                    '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" '
                    'fill-opacity="{:.3f}"/>'
                ).format("hit" if i == j else "miss", x + 0.5, y + 0.5, side - 1, side - 1, _shade(share))
            )
            if numbers and value:
                parts.append(
                    Markup('<text class="cell{}" x="{:.1f}" y="{:.1f}">{}</text>').format(
                        " strong" if share > 0.5 else "", x + side / 2, y + side / 2, value
                    )
                )
        if numbers:
            label = shortened(names[i], 9)
            parts.append(
                Markup('<text class="end" x="{:.1f}" y="{:.1f}">{}</text>').format(
                    left - 6, top + (i + 0.5) * side, label
                )
            )
            parts.append(
                Markup(
                    '<text class="turned" transform="translate({:.1f} {:.1f}) rotate(-45)">{}</text>'
                ).format(left + (i + 0.5) * side, top - 6, label)
            )
    parts.append(Markup('<text class="axis" x="{}" y="12">taken for</text>').format(left + count * side / 2))
    parts.append(
        Markup('<text class="axis" transform="translate(10 {:.1f}) rotate(-90)">true class</text>').format(
            top + count * side / 2
        )
    )
    return _svg(parts, title, height=top + count * side + 8)


def pairs(runs: Sequence[Sequence[float]], kinds: Sequence[str], *, y: str, title: str) -> Markup:
    """One line a run between its values of two kinds, and the mean of each kind as a broad dash."""
    values = [value for run in runs for value in run]
    up = Axis(*spread(values, share=0.15, floor=2e-3), HEIGHT - _BOTTOM, _TOP)
    across = Axis(-0.5, len(kinds) - 0.5, _LEFT, WIDTH - _RIGHT)
    parts = [_frame(across, up, "", y, x_ticks=False)]
    for run in runs:
        places = [(across.at(kind), up.at(value)) for kind, value in enumerate(run)]
        parts.append(_line(places, "run"))
        parts += [
            Markup('<circle class="seed" cx="{:.1f}" cy="{:.1f}" r="3.5"/>').format(*place)
            for place in places
        ]
    for kind, name in enumerate(kinds):
        mean = up.at(sum(run[kind] for run in runs) / len(runs))
        middle = across.at(kind)
        parts.append(_line([(middle - 34, mean), (middle + 34, mean)], "mean"))
        parts.append(
            Markup('<text class="axis" x="{:.1f}" y="{}">{}</text>').format(
                middle, HEIGHT - _BOTTOM + 20, name
            )
        )
    return _svg(parts, title)


def _frame(
    across: Axis,
    up: Axis,
    x: str,
    y: str,
    *,
    x_text: object = None,
    y_text: object = None,
    strip: float = 0,
    x_ticks: bool = True,
) -> Markup:
    to_x = x_text if callable(x_text) else _number_text
    to_y = y_text if callable(y_text) else _number_text
    parts: list[Markup] = []
    for value in up.ticks():
        level = up.at(value)
        parts.append(_line([(across.start, level), (across.end, level)], "grid"))
        parts.append(
            Markup('<text class="end" x="{:.1f}" y="{:.1f}">{}</text>').format(
                across.start - 6, level, to_y(value)
            )
        )
    base = up.start + strip
    for value in across.ticks() if x_ticks else ():
        place = across.at(value)
        parts.append(
            Markup('<text class="axis" x="{:.1f}" y="{:.1f}">{}</text>').format(place, base + 14, to_x(value))
        )
    parts.append(_line([(across.start, up.start), (across.end, up.start)], "base"))
    parts.append(
        Markup('<text class="axis name" x="{:.1f}" y="{:.1f}">{}</text>').format(
            (across.start + across.end) / 2, HEIGHT - 8, x
        )
    )
    parts.append(Markup('<text class="name" x="4" y="10">{}</text>').format(y))
    return Markup("").join(parts)


def _svg(parts: Sequence[Markup], title: str, height: float = HEIGHT) -> Markup:
    return Markup('<svg viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, title, Markup("").join(parts)
    )


def _line(points: Sequence[tuple[float, float]], kind: str) -> Markup:
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"/>').format(kind, text)


def _rect(kind: str, x: float, y: float, width: float, height: float) -> Markup:
    return Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
        kind, x, y, width, max(height, 0.0)
    )


def _free_place(
    left: float, top: float, radius: float, wide: float, taken: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    """Where a number can stand beside its mark without covering another, or a mark. `wide` is how much wider
    than one digit it is, to each side."""
    away = radius + 8
    places = [
        (left + dx * (away + wide), top + dy * away)
        for dx, dy in ((1, 0), (0, -1), (-1, 0), (0, 1), (1.4, -1.4), (-1.4, -1.4), (1.4, 1.4), (-1.4, 1.4))
    ]
    for x, y in places:
        inside = _LEFT < x < WIDTH - 6 - wide and 6 < y < HEIGHT - _BOTTOM
        if inside and all(math.hypot(x - a, y - b) > 12 + wide for a, b in taken):
            return x, y
    return places[0]


def _shade(share: float) -> float:
    return 0.04 + 0.96 * math.sqrt(share) if share else 0.03


def _number_text(value: float) -> str:
    return f"{value:.4g}"
