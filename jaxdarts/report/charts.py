"""Charts of numbers over numbers, as SVG text: curves and points.

Every function returns one SVG element, to be written to a file or put into an HTML page as it is
(`svg`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby, pairwise

from jaxdarts.report import svg

SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""After Okabe & Ito's colour-blind-safe palette."""


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    steps: bool = False,
) -> str:
    """Draws lines over a common pair of axes.

    Args:
        series: points (x, y) by name, in drawing order. A point that is not finite breaks its line;
            a point without neighbours is drawn as a dot.
        title: text above the chart.
        xlabel: text under the horizontal axis.
        ylabel: text above the vertical axis.
        steps: whether a line keeps each value up to the next point and jumps there, as counts do.

    Returns:
        SVG text.
    """
    width, right = 480, 462.0
    finite = [
        (float(x), float(y)) for points in series.values() for run in _runs(points) for x, y in run
    ]
    # Counts are seen from zero.
    base = [0.0, 1.0] if steps and finite else []
    xs, ys = ticks([x for x, _ in finite]), ticks([*base, *(y for _, y in finite)])
    left = 20 + 6.8 * max(len(label) for label in tick_labels(ys))
    parts = [svg.label(12, 22, title, 14, **svg.TITLE)] if title else []

    # The legend shares the title's row where there is room, wraps under it where not, and is not to
    # repeat the title.
    legend = [] if [name.lower() for name in series] == [title.lower()] else list(series)
    sizes = [30 + 6.9 * len(name) for name in legend]
    row, x = (42, 12.0) if title else (22, 12.0)
    if title and 28 + 8.6 * len(title) + sum(sizes) < right:
        row, x = 22, right - sum(sizes) + 12
    for i, (name, size) in enumerate(zip(legend, sizes, strict=True)):
        if x > 12 and x + size - 12 > right + 0.5:
            row, x = row + 18, 12.0
        parts.append(svg.tag("line", x1=x, x2=x + 14, y1=row - 4, y2=row - 4, **_stroke(i)))
        parts.append(svg.label(x + 18, row, name, 12))
        x += size
    top = row + (36 if ylabel else 18)
    bottom = max(236, top + 140)
    parts += [svg.label(12, top - 16, ylabel, 12)] if ylabel else []
    parts += (
        [svg.label((left + right) / 2, bottom + 36, xlabel, 12, anchor="middle")] if xlabel else []
    )

    first, last = (min(finite)[0], max(finite)[0]) if finite else (0.0, 1.0)
    x_of = scale_of(first, last, left + 6, right - 6)
    y_of = scale_of(ys[0], ys[-1], bottom, top)
    for value, label in zip(ys, tick_labels(ys), strict=True):
        style = {"stroke": "currentColor", "stroke_opacity": 0.5 if value == ys[0] else 0.16}
        parts.append(svg.tag("path", d=f"M{left:.1f},{y_of(value):.1f}H{right}", **style))
        parts.append(svg.label(left - 7, y_of(value) + 4, label, 11.5, anchor="end"))
    for value, label in zip(xs, tick_labels(xs), strict=True):
        if first <= value <= last:
            parts.append(
                svg.tag(
                    "path",
                    d=f"M{x_of(value):.1f},{bottom}v4",
                    stroke="currentColor",
                    stroke_opacity=0.5,
                )
            )
            parts.append(svg.label(x_of(value), bottom + 17, label, 11.5, anchor="middle"))
    if not finite:
        parts.append(
            svg.label((left + right) / 2, (top + bottom) / 2 + 4, "no data", 13, anchor="middle")
        )
    for i, points in enumerate(series.values()):
        for run in _runs(points):
            if len(run) == 1:
                parts.append(
                    svg.tag(
                        "circle",
                        cx=x_of(run[0][0]),
                        cy=y_of(run[0][1]),
                        r=3,
                        fill=_stroke(i)["stroke"],
                    )
                )
            else:
                if steps:
                    run = [run[0], *(p for a, b in pairwise(run) for p in ((b[0], a[1]), b))]
                line = "M" + "L".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in run)
                parts.append(
                    svg.tag("path", d=line, fill="none", stroke_linejoin="round", **_stroke(i))
                )
    return svg.picture(width, bottom + 44, parts, title or ylabel or "curves")


def scatter(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
) -> str:
    """Draws points (x, y), by name, over a common pair of axes; arguments as of `curves`."""
    gap = (math.nan, math.nan)
    apart = {
        name: [each for point in points for each in (point, gap)] for name, points in series.items()
    }
    return curves(apart, title=title, xlabel=xlabel, ylabel=ylabel)


def _stroke(i: int) -> dict[str, object]:
    dash = (None, "7 3", "2 3")[i // len(SERIES) % 3]
    return {"stroke": SERIES[i % len(SERIES)], "stroke_width": 2, "stroke_dasharray": dash}


def _runs(points) -> list[list[tuple[float, float]]]:
    runs = groupby(points, lambda point: math.isfinite(point[0]) and math.isfinite(point[1]))
    return [list(run) for is_finite, run in runs if is_finite]


def scale_of(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """Linear map from the values `low` to `high` onto the positions `start` to `stop`."""
    return lambda value: (
        start + (stop - start) * ((value - low) / (high - low) if high > low else 0.5)
    )


def ticks(values: Sequence[float], count: int = 5) -> list[float]:
    """Ticks of an axis: multiples of 1, 2 or 5 times a power of ten that enclose the values.

    There are about `count` of them.
    """
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        spread = 0.5 * abs(low) or 1.0
        low, high = (low - spread, high + spread)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    if values and all(v == int(v) for v in values):
        step = max(step, 1.0)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, last + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Labels of evenly spaced numbers, with as many digits as tell them apart."""
    step, largest = ticks[1] - ticks[0], max(map(abs, ticks))
    if largest >= 1e6 or step < 1e-5:
        digits = math.ceil(math.log10(largest / step)) + 1
        return [f"{t:.{digits}g}".replace("e+0", "e").replace("e-0", "e-") for t in ticks]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{t:.{decimals}f}".replace("-", svg.MINUS) for t in ticks]
