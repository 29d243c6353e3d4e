"""Functions of two numbers as SVG text: colours with level lines, and surfaces.

Every function returns one SVG element, to be written to a file or put into an HTML page as it is
(`svg`).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from jaxdarts.report import heatmaps, svg
from jaxdarts.report.charts import scale_of, tick_labels, ticks

Places = Sequence[float] | np.ndarray


def contour(
    values: np.ndarray,
    xs: Places,
    ys: Places,
    *,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
) -> str:
    """Draws a function of two numbers as colours with level lines.

    The levels are round numbers, or powers where the largest value is more than 30 times the least
    and all are positive.

    Args:
        values: `[ys, xs]`; what is not finite stays grey.
        xs, ys: where, evenly spaced and rising, two or more of each.
        title: text above the picture.
        xlabel, ylabel: names of the axes.

    Raises:
        ValueError: if the values do not fit.
    """
    values, xs, ys = _surface(values, xs, ys)
    fraction_of, levels = _levels(values)
    side, left, top = 400.0, 48.0, (74.0 if title else 52.0) + (20 if ylabel else 0)
    # Every point is the middle of a pixel.
    wide, high = side / len(xs), side / len(ys)
    x_of = scale_of(xs[0], xs[-1], left + wide / 2, left + side - wide / 2)
    y_of = scale_of(ys[0], ys[-1], top + side - high / 2, top + high / 2)
    parts = [svg.label(12, 22, title, 14, **svg.TITLE)] if title else []
    parts += heatmaps.bar(
        left,
        34 if title else 12,
        "",
        [(float(fraction_of(np.array(level))), label) for level, label in levels],
    )
    heights = fraction_of(values)
    parts.append(heatmaps.image(heights[::-1], left, top, side, side))
    for level, _ in levels:
        segments = level_line(heights, xs, ys, float(fraction_of(np.array(level))))
        line = "".join(
            f"M{x_of(a):.1f},{y_of(b):.1f}L{x_of(c):.1f},{y_of(d):.1f}"
            for (a, b), (c, d) in segments
        )
        parts += (
            [svg.tag("path", d=line, fill="none", stroke="#fff", stroke_opacity=0.75)]
            if line
            else []
        )
    bottom = top + side
    for value, name in _labelled(xs):
        parts.append(
            svg.tag(
                "path",
                d=f"M{x_of(value):.1f},{bottom:.1f}v4",
                stroke="currentColor",
                stroke_opacity=0.5,
            )
        )
        parts.append(svg.label(x_of(value), bottom + 17, name, 11.5, anchor="middle"))
    for value, name in _labelled(ys):
        parts.append(
            svg.tag(
                "path",
                d=f"M{left:.1f},{y_of(value):.1f}h-4",
                stroke="currentColor",
                stroke_opacity=0.5,
            )
        )
        parts.append(svg.label(left - 7, y_of(value) + 4, name, 11.5, anchor="end"))
    parts += (
        [svg.label(left + side / 2, bottom + 36, xlabel, 12, anchor="middle")] if xlabel else []
    )
    parts += [svg.label(12, top - 8, ylabel, 12)] if ylabel else []
    return svg.picture(left + side + 20, bottom + 44, parts, title or "contour")


def level_line(
    values: np.ndarray, xs: Places, ys: Places, level: float
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Level line of a function on a grid: segments ((x, y), (x, y)).

    The function is linear on the two triangles of every square of the grid.

    >>> level_line(np.array([[0.0, 1.0], [0.0, 1.0]]), [0, 1], [0, 1], 0.25)
    [((0.25, 0.0), (0.25, 0.75)), ((0.25, 1.0), (0.25, 0.75))]
    """
    segments = []
    for i in range(len(ys) - 1):
        for j in range(len(xs) - 1):
            for triangle in (
                ((i, j), (i, j + 1), (i + 1, j)),
                ((i + 1, j + 1), (i, j + 1), (i + 1, j)),
            ):
                above = [values[corner] > level for corner in triangle]
                if sum(above) in (0, 3) or not all(
                    np.isfinite(values[corner]) for corner in triangle
                ):
                    continue
                alone = triangle[above.index(sum(above) == 1)]
                ends = []
                for other in (corner for corner in triangle if corner != alone):
                    t = float((level - values[alone]) / (values[other] - values[alone]))
                    x, y = (
                        (1 - t) * scale[alone[k]] + t * scale[other[k]]
                        for scale, k in ((xs, 1), (ys, 0))
                    )
                    ends.append((float(x), float(y)))
                segments.append((ends[0], ends[1]))
    return segments


def surface(
    values: np.ndarray,
    xs: Places,
    ys: Places,
    *,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
) -> str:
    """Draws a function of two numbers as a surface, seen from above a corner.

    Arguments, levels and errors as of `contour`.
    """
    values, xs, ys = _surface(values, xs, ys)
    fraction_of, levels = _levels(values)
    heights = fraction_of(values)
    across, along = np.meshgrid(np.linspace(-1, 1, len(xs)), np.linspace(-1, 1, len(ys)))

    def project(x, y, z):  # parallel projection, the corner of largest x and least y in front
        return 240 + 112 * (x + y), (276 if title else 254) + 56 * (x - y) - 130 * (z - 0.35)

    screen = np.stack(project(across, along, heights), -1)
    parts = [svg.label(12, 22, title, 14, **svg.TITLE)] if title else []
    parts += heatmaps.bar(
        20,
        34 if title else 12,
        "",
        [(float(fraction_of(np.array(level))), label) for level, label in levels],
    )
    corners = [project(x, y, 0.0) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    frame = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in corners) + "Z"
    parts.append(svg.tag("path", d=frame, fill="none", stroke="currentColor", stroke_opacity=0.4))
    squares = [(i, j) for i in range(len(ys) - 1) for j in range(len(xs) - 1)]
    for i, j in sorted(squares, key=lambda square: square[1] - square[0]):  # those behind first
        ring = [(i, j), (i, j + 1), (i + 1, j + 1), (i + 1, j)]
        mean = np.mean([heights[corner] for corner in ring])
        if np.isfinite(mean):
            ends = " ".join(f"{screen[corner][0]:.1f},{screen[corner][1]:.1f}" for corner in ring)
            color = "#" + bytes(heatmaps.colors(mean).astype(np.uint8).tolist()).hex()
            parts.append(
                svg.tag(
                    "polygon",
                    points=ends,
                    fill=color,
                    stroke="#000",
                    stroke_opacity=0.25,
                    stroke_width=0.5,
                )
            )
    (x0, y0), (x1, y1), (x2, y2), _ = corners
    parts.append(
        svg.label(
            (x0 + x1) / 2 - 12,
            (y0 + y1) / 2 + 20,
            f"{xlabel} {_span(xs)}".strip(),
            11.5,
            anchor="end",
        )
    )
    parts.append(
        svg.label((x1 + x2) / 2 + 12, (y1 + y2) / 2 + 20, f"{ylabel} {_span(ys)}".strip(), 11.5)
    )
    return svg.picture(480, y1 + 24, parts, title or "surface")


def _surface(values, xs, ys) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, xs, ys = (np.asarray(array, np.float64) for array in (values, xs, ys))
    if values.shape != (len(ys), len(xs)) or min(values.shape) < 2:
        raise ValueError(
            f"values have shape {values.shape}; {len(ys)} ys and {len(xs)} xs need [{len(ys)},"
            f" {len(xs)}], two or more"
        )
    return values, xs, ys


def _levels(
    values: np.ndarray,
) -> tuple[Callable[[np.ndarray], np.ndarray], list[tuple[float, str]]]:
    """The height of a value, from 0 to 1, and the levels to mark, with their labels."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if 0 < low < high / 30:
        first, last = math.log(low), math.log(high)
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        marks = [m * 10.0**e for e in exponents for m in ((1, 2, 5) if last - first < 9 else (1,))]
        chosen = [(mark, f"{mark:g}") for mark in marks if low < mark < high]
        return (
            lambda value: (np.log(np.where(value > 0, value, np.nan)) - first) / (last - first),
            chosen,
        )
    marks = ticks([low, high], 7)
    chosen = [(mark, name) for mark, name in zip(marks, tick_labels(marks)) if low < mark < high]
    return lambda value: (value - low) / ((high - low) or 1.0), chosen


def _labelled(values: np.ndarray) -> list[tuple[float, str]]:
    """Round numbers within a range, with their labels."""
    marks = ticks(list(values))
    pairs = list(zip(marks, tick_labels(marks), strict=True))
    return [(mark, name) for mark, name in pairs if values[0] - 1e-9 <= mark <= values[-1] + 1e-9]


def _span(values: np.ndarray) -> str:
    return f"{values[0]:.3g} to {values[-1]:.3g}".replace("-", svg.MINUS)
