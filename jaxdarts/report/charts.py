"""Charts as SVG text: curves, points, weights over time, surfaces over a plane.

Every function returns one SVG element, to be written to a file or put into an HTML page as it is
(`svg`).
"""

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import numpy as np

from jaxdarts.report import svg

SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""After Okabe & Ito's colour-blind-safe palette."""
_ANCHORS = "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725"
VIRIDIS = np.array([list(bytes.fromhex(color)) for color in _ANCHORS.split()])

Places = Sequence[float] | np.ndarray


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
) -> str:
    """Draws lines over a common pair of axes.

    Args:
        series: points (x, y) by name, in drawing order. A point that is not finite breaks its line;
            a point without neighbours is drawn as a dot.
        title: text above the chart.
        xlabel: text under the horizontal axis.
        ylabel: text above the vertical axis.

    Returns:
        SVG text.
    """
    width, right = 480, 462.0
    finite = [
        (float(x), float(y)) for points in series.values() for run in _runs(points) for x, y in run
    ]
    xs, ys = ticks([x for x, _ in finite]), ticks([y for _, y in finite])
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
    x_of = _scale(first, last, left + 6, right - 6)
    y_of = _scale(ys[0], ys[-1], bottom, top)
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
                line = "M" + "L".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in run)
                parts.append(
                    svg.tag("path", d=line, fill="none", stroke_linejoin="round", **_stroke(i))
                )
    return svg.picture(width, bottom + 44, parts, title or ylabel or "curves")


def _stroke(i: int) -> dict[str, object]:
    dash = (None, "7 3", "2 3")[i // len(SERIES) % 3]
    return {"stroke": SERIES[i % len(SERIES)], "stroke_width": 2, "stroke_dasharray": dash}


def _runs(points) -> list[list[tuple[float, float]]]:
    runs = groupby(points, lambda point: math.isfinite(point[0]) and math.isfinite(point[1]))
    return [list(run) for is_finite, run in runs if is_finite]


def _scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    return lambda value: (
        start + (stop - start) * ((value - low) / (high - low) if high > low else 0.5)
    )


def ticks(values: Sequence[float], count: int = 5) -> list[float]:
    """The multiples of 1, 2 or 5 times a power of ten that enclose the values, about `count` of
    them.
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


def heatmap(
    values: np.ndarray,
    row_labels: Sequence[str],
    column_labels: Sequence[str] | Sequence[Sequence[str]],
    *,
    title: str = "",
) -> str:
    """Draws mixture weights over time: one small picture for each edge, with a line for each
    operation.

    The colour scale goes from zero to the largest value, rounded up.

    Args:
        values: weights `[epochs, edges, ops]`; what is not finite stays grey.
        row_labels: a name for each edge.
        column_labels: the names of the operations, one sequence for all edges or one for each; an
            edge with fewer names than there are columns uses the first ones.
        title: text above the pictures.

    Returns:
        SVG text with embedded PNGs.

    Raises:
        ValueError: if the labels do not fit the values.
    """
    values = np.asarray(values, np.float64)
    rows = len(row_labels)
    if values.ndim != 3 or values.shape[1] != rows:
        raise ValueError(
            f"values have shape {values.shape}; {rows} row labels need [epochs, {rows}, ops]"
        )
    shared = all(isinstance(name, str) for name in column_labels)
    ops = [list(map(str, names)) for names in ([column_labels] * rows if shared else column_labels)]
    if len(ops) != rows or any(not 0 < len(names) <= values.shape[2] for names in ops):
        raise ValueError(f"each of {rows} edges needs 1 to {values.shape[2]} operation names")
    finite = values[np.isfinite(values)]
    limit = (
        min(ticks([0.0, float(finite.max())])[-1], 1.0) if finite.size and finite.max() > 0 else 1.0
    )

    side, column = 124.0, 6.1 * max((len(name) for names in ops for name in names), default=0) + 8
    # Edges that share their operations need the names once a line, others each their own.
    pitch, per_line = (side + 12, 5) if shared else (side + 12 + column, 3)
    parts = [svg.label(12, 22, title, 14, **svg.TITLE)] if title else []
    y = 34.0 if title else 12.0
    parts += [
        svg.label(12, y + 10, "weight", 11),
        _image(np.linspace(0.0, 1.0, 64)[None], 58, y, 150, 12),
    ]
    parts += [
        svg.label(58 + 75 * k, y + 26, f"{limit * k / 2:.4g}", 10.5, anchor="middle")
        for k in range(3)
    ]
    parts.append(svg.label(226, y + 10, f"left to right: epochs 1 to {len(values)}", 11))
    y += 44
    for start in range(0, rows, per_line):
        line = range(start, min(start + per_line, rows))
        for place, e in enumerate(line):
            x = 12 + column + pitch * place
            picture = values[:, e, : len(ops[e])].T
            parts.append(svg.label(x, y + 11, row_labels[e], 11.5, **svg.TITLE))
            if len(values) and np.isfinite(picture[:, -1]).any():
                # What an edge ends with is what a reader wants to know first.
                winner = ops[e][
                    int(np.argmax(np.where(np.isfinite(picture[:, -1]), picture[:, -1], -np.inf)))
                ]
                parts.append(
                    svg.label(x + side, y + 11, winner, 9.5, anchor="end", font_family=svg.MONO)
                )
            for k, name in enumerate(ops[e] if place == 0 or not shared else ()):
                parts.append(
                    svg.label(x - 5, y + 25 + 10 * k, name, 9.5, anchor="end", font_family=svg.MONO)
                )
            if len(values):
                parts.append(_image(picture / limit, x, y + 17, side, 10.0 * len(ops[e])))
        y += 10.0 * max(len(ops[e]) for e in line) + 28
    width = column + pitch * min(per_line, rows) if shared else pitch * min(per_line, rows)
    return svg.picture(
        max(width + 12, 440, 24 + 9.0 * len(title)), y, parts, title or "mixture weights"
    )


def _image(fractions: np.ndarray, x: float, y: float, width: float, height: float) -> str:
    """Embeds `[height, width]` fractions of the colour scale as a PNG, each a pixel with hard
    borders.
    """
    from PIL import Image

    known = np.isfinite(fractions)
    colors = _colors(np.where(known, fractions, 0.0))
    stream = io.BytesIO()
    Image.fromarray(np.where(known[..., None], colors, 128).astype(np.uint8)).save(stream, "PNG")
    source = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    style = {"preserveAspectRatio": "none", "style": "image-rendering: pixelated"}
    return svg.tag("image", x=x, y=y, width=width, height=height, **style, href=source)


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


def matrix(
    values: np.ndarray,
    row_labels: Sequence[str],
    *,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    limit: float = 1.0,
) -> str:
    """Draws numbers `[rows, columns]` from 0 to `limit` as colours; what is not finite stays grey.

    Raises:
        ValueError: if there is not one label a row.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or len(row_labels) != len(values):
        raise ValueError(
            f"values have shape {values.shape}; {len(row_labels)} row labels need"
            f" [{len(row_labels)}, columns]"
        )
    left = 24 + 6.5 * max((len(label) for label in row_labels), default=0)
    width, row, top = 462 - left, 14.0, 62.0 if title else 40.0
    parts = [svg.label(12, 22, title, 14, **svg.TITLE)] if title else []
    parts += _bar(12, top - 28, ylabel, [(0.0, "0"), (1.0, f"{limit:.4g}")])
    parts += [
        svg.label(left - 7, top + row * i + 11, name, 11, anchor="end")
        for i, name in enumerate(row_labels)
    ]
    if values.size:
        parts.append(_image(values / limit, left, top, width, row * len(values)))
    bottom = top + row * len(values) + 18
    parts += [svg.label(left + width / 2, bottom, xlabel, 12, anchor="middle")] if xlabel else []
    return svg.picture(474, bottom + 10, parts, title or ylabel or "matrix")


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
    x_of = _scale(xs[0], xs[-1], left + wide / 2, left + side - wide / 2)
    y_of = _scale(ys[0], ys[-1], top + side - high / 2, top + high / 2)
    parts = [svg.label(12, 22, title, 14, **svg.TITLE)] if title else []
    parts += _bar(
        left,
        34 if title else 12,
        "",
        [(float(fraction_of(np.array(level))), label) for level, label in levels],
    )
    heights = fraction_of(values)
    parts.append(_image(heights[::-1], left, top, side, side))
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
    """Where a function that is linear on the two triangles of every square of a grid has a value:
    segments ((x, y), (x, y)).

    >>> level_line(np.array([[0.0, 1.0], [0.0, 1.0]]), [0, 1], [0, 1], 0.25)
    [((0.25, 0.0), (0.25, 0.75)), ((0.25, 1.0), (0.25, 0.75))]
    """
    found = []
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
                found.append((ends[0], ends[1]))
    return found


def surface(
    values: np.ndarray,
    xs: Places,
    ys: Places,
    *,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
) -> str:
    """Draws a function of two numbers as a surface, seen from above a corner; arguments, levels and
    errors as of `contour`.
    """
    values, xs, ys = _surface(values, xs, ys)
    fraction_of, levels = _levels(values)
    heights = fraction_of(values)
    across, along = np.meshgrid(np.linspace(-1, 1, len(xs)), np.linspace(-1, 1, len(ys)))

    def place(x, y, z):  # parallel projection, the corner of largest x and least y in front
        return 240 + 112 * (x + y), (276 if title else 254) + 56 * (x - y) - 130 * (z - 0.35)

    screen = np.stack(place(across, along, heights), -1)
    parts = [svg.label(12, 22, title, 14, **svg.TITLE)] if title else []
    parts += _bar(
        20,
        34 if title else 12,
        "",
        [(float(fraction_of(np.array(level))), label) for level, label in levels],
    )
    corners = [place(x, y, 0.0) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    frame = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in corners) + "Z"
    parts.append(svg.tag("path", d=frame, fill="none", stroke="currentColor", stroke_opacity=0.4))
    squares = [(i, j) for i in range(len(ys) - 1) for j in range(len(xs) - 1)]
    for i, j in sorted(squares, key=lambda square: square[1] - square[0]):  # those behind first
        ring = [(i, j), (i, j + 1), (i + 1, j + 1), (i + 1, j)]
        mean = np.mean([heights[corner] for corner in ring])
        if np.isfinite(mean):
            ends = " ".join(f"{screen[corner][0]:.1f},{screen[corner][1]:.1f}" for corner in ring)
            color = "#" + bytes(_colors(mean).astype(np.uint8).tolist()).hex()
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


def _bar(x: float, y: float, name: str, marks: Sequence[tuple[float, str]]) -> list[str]:
    """The colours from left to right, with labels at fractions of the way, as many as there is room
    for.
    """
    start, length = x + (6.5 * len(name) + 10 if name else 0), 300.0
    parts = [svg.label(x, y + 10, name, 11)] if name else []
    parts.append(_image(np.linspace(0.0, 1.0, 64)[None], start, y, length, 10))
    free = -math.inf
    for fraction, text in marks:
        at, half = start + length * fraction, 3.4 * len(text) + 3
        if at - half >= free:
            parts.append(svg.label(at, y + 24, text, 10.5, anchor="middle"))
            free = at + half
    return parts


def _labelled(values: np.ndarray) -> list[tuple[float, str]]:
    """Round numbers within a range, with their labels."""
    marks = ticks(list(values))
    pairs = list(zip(marks, tick_labels(marks), strict=True))
    return [(mark, name) for mark, name in pairs if values[0] - 1e-9 <= mark <= values[-1] + 1e-9]


def _span(values: np.ndarray) -> str:
    return f"{values[0]:.3g} to {values[-1]:.3g}".replace("-", svg.MINUS)


def _colors(fractions: np.ndarray) -> np.ndarray:
    """Red, green and blue, 0 to 255, of fractions of the colour scale."""
    place = np.clip(fractions, 0.0, 1.0) * (len(VIRIDIS) - 1)
    return np.round(
        np.stack([np.interp(place, range(len(VIRIDIS)), channel) for channel in VIRIDIS.T], -1)
    )
