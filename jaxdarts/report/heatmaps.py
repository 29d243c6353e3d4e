"""Tables of numbers as colours, as SVG text: mixture weights over time, matrices, confusion.

Every function returns one SVG element, to be written to a file or put into an HTML page as it is
(`svg`).
"""

import base64
import io
import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from jaxdarts.report import svg
from jaxdarts.report.charts import ticks

_ANCHORS = "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725"
VIRIDIS = np.array([list(bytes.fromhex(color)) for color in _ANCHORS.split()])


SIDE = 132.0
"""Width of the picture of one edge."""
ROW = 13.0
"""Height of the line of one operation."""


def heatmap(
    values: np.ndarray,
    row_labels: Sequence[str],
    column_labels: Sequence[str] | Sequence[Sequence[str]],
    *,
    title: str = "",
    kept: Collection[tuple[int, str]] = (),
) -> str:
    """Draws mixture weights over time: one small picture for each edge.

    Each has a line for each operation.

    The colour scale goes from zero to the largest value, rounded up. The horizontal axis counts
    epochs from 1.

    Args:
        values: weights `[epochs, edges, ops]`; what is not finite stays grey.
        row_labels: a name for each edge.
        column_labels: the names of the operations, one sequence for all edges or one for each; an
            edge with fewer names than there are columns uses the first ones.
        title: text above the pictures.
        kept: (edge, operation) of what the cell keeps: the edge gets a frame, the operation an
            arrow and its name in bold.

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

    longest = max((len(name) for names in ops for name in names), default=0)
    names_width = 7.0 * longest + 20
    # Edges that share their operations need the names once a line, others each their own.
    pitch, per_line = (SIDE + 24, 5) if shared else (SIDE + 16 + names_width, 3)
    y = 34.0 if title else 12.0
    parts = [svg.label(12, 22, title, 14, **svg.TITLE)] if title else []
    marks = [(fraction, f"{limit * fraction:.4g}") for fraction in (0.0, 0.5, 1.0)]
    parts += bar(12, y, "mixture weight", marks)
    y += 48
    for start in range(0, rows, per_line):
        line = range(start, min(start + per_line, rows))
        for column, e in enumerate(line):
            x = 12 + names_width + pitch * column
            picture = values[:, e, : len(ops[e])].T
            names = ops[e] if column == 0 or not shared else ()
            marked = {name for edge, name in kept if edge == e}
            parts += _edge(x, y, row_labels[e], picture / limit, ops[e], names, marked, shared)
        y += ROW * max(len(ops[e]) for e in line) + 56
    width = names_width + pitch * min(per_line, rows) if shared else pitch * min(per_line, rows)
    width = max(width + 16, 440, 24 + 9.0 * len(title))
    return svg.picture(width, y - 12, parts, title or "mixture weights")


def _edge(
    x: float,
    y: float,
    edge: str,
    fractions: np.ndarray,
    ops: Sequence[str],
    names: Sequence[str],
    kept: Collection[str],
    shared: bool,
) -> list[str]:
    """The picture of one edge: its name, the names of operations, colours, the axis of epochs."""
    top, height, epochs = y + 18, ROW * len(ops), fractions.shape[1]
    parts = [svg.label(x, y + 12, edge, 12, **svg.TITLE)]
    if kept:
        words = ", ".join(op for op in ops if op in kept)
        size = min(11.0, (SIDE - 7.2 * len(edge) - 8) / (0.62 * max(len(words), 1)))
        parts.append(
            svg.label(
                x + SIDE, y + 12, words, size, anchor="end", font_family=svg.MONO, **svg.TITLE
            )
        )
    for k, name in enumerate(names):
        bold: dict[str, Any] = dict(svg.TITLE) if name in kept and not shared else {}
        parts.append(
            svg.label(
                x - 14, top + ROW * k + 10, name, 11, anchor="end", font_family=svg.MONO, **bold
            )
        )
    for k, name in enumerate(ops):
        if name in kept:
            arrow = f"M{x - 3:.1f},{top + ROW * (k + 0.5):.1f}l-7,-4v8z"
            parts.append(svg.tag("path", d=arrow, fill="currentColor"))
    if not epochs:
        return parts
    parts.append(image(fractions, x, top, SIDE, height))
    if kept:
        parts.append(
            svg.tag(
                "rect",
                x=x - 1,
                y=top - 1,
                width=SIDE + 2,
                height=height + 2,
                fill="none",
                stroke="currentColor",
                stroke_width=2,
            )
        )
    bottom = top + height + 15
    parts.append(svg.label(x, bottom, "1", 10.5))
    if epochs > 1:
        parts.append(svg.label(x + SIDE, bottom, str(epochs), 10.5, anchor="end"))
    parts.append(svg.label(x + SIDE / 2, bottom, "epoch", 10.5, anchor="middle"))
    return parts


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
    parts += bar(12, top - 28, ylabel, [(0.0, "0"), (1.0, f"{limit:.4g}")])
    parts += [
        svg.label(left - 7, top + row * i + 11, name, 11, anchor="end")
        for i, name in enumerate(row_labels)
    ]
    if values.size:
        parts.append(image(values / limit, left, top, width, row * len(values)))
    bottom = top + row * len(values) + 18
    parts += [svg.label(left + width / 2, bottom, xlabel, 12, anchor="middle")] if xlabel else []
    return svg.picture(474, bottom + 10, parts, title or ylabel or "matrix")


def confusion(counts: np.ndarray, class_names: Sequence[str], *, title: str = "") -> str:
    """Draws a confusion matrix: a row for each true class, a column for each predicted one.

    Colours show the share of the row.

    Args:
        counts: number of images `[true class, predicted class]`.
        class_names: as many as there are rows.
        title: text above the picture.

    Returns:
        SVG text; up to 20 classes have their numbers in the squares.

    Raises:
        ValueError: if `counts` is not square, or has another number of rows than there are names.
    """
    counts = np.asarray(counts, np.float64)
    number = len(class_names)
    if counts.shape != (number, number):
        raise ValueError(
            f"counts have shape {counts.shape}; {number} classes need {number, number}"
        )
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    side = 26.0 if number <= 20 else max(4.0, 420.0 / number)
    names = [
        name if len(name) <= 18 else f"{name[:17]}\N{HORIZONTAL ELLIPSIS}" for name in class_names
    ]
    # Names stand at every square, or at as many as there is room for.
    every = math.ceil(13.0 / side)
    across = 7.0 * max(map(len, names)) + 14
    left, top = across + 18, (84.0 if title else 62.0) + (across if across > 40 else 14)
    size = side * number
    parts = [svg.label(12, 22, title, 14, **svg.TITLE)] if title else []
    marks = [(fraction, f"{fraction:.0%}") for fraction in (0.0, 0.5, 1.0)]
    parts += bar(12, 34 if title else 12, "share of the true class", marks)
    parts.append(image(shares, left, top, size, size))
    parts.append(svg.label(12, top - 8, "true", 12, **svg.TITLE))
    predicted = top + size + 20
    parts.append(
        svg.label(left + size / 2, predicted, "predicted", 12, anchor="middle", **svg.TITLE)
    )
    for k in range(0, number, every):
        middle = side * (k + 0.5)
        parts.append(svg.label(left - 6, top + middle + 4, names[k], 11.5, anchor="end"))
        x, y = left + middle, top - 6
        if across > 40:
            turn = f"rotate(-90 {x + 4:.1f} {y:.1f})"
            parts.append(svg.label(x + 4, y, names[k], 11.5, transform=turn))
        else:
            parts.append(svg.label(x, y, names[k], 11.5, anchor="middle"))
    for i, j in np.argwhere(counts > 0) if number <= 20 else ():
        ink = "#000" if shares[i, j] > 0.6 else "#fff"
        x, y = left + side * (j + 0.5), top + side * (i + 0.5) + 4
        text = f"{counts[i, j]:.0f}"
        parts.append(svg.label(x, y, text, min(11.5, 36 / len(text)), anchor="middle", fill=ink))
    width = max(left + size + 16, 510, 24 + 9.0 * len(title))
    return svg.picture(width, predicted + 12, parts, title or "confusion matrix")


def image(fractions: np.ndarray, x: float, y: float, width: float, height: float) -> str:
    """Embeds `[height, width]` fractions of the colour scale as a PNG.

    Each is a pixel with hard borders.
    """
    from PIL import Image

    known = np.isfinite(fractions)
    pixels = colors(np.where(known, fractions, 0.0))
    stream = io.BytesIO()
    Image.fromarray(np.where(known[..., None], pixels, 128).astype(np.uint8)).save(stream, "PNG")
    source = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    style = {"preserveAspectRatio": "none", "style": "image-rendering: pixelated"}
    return svg.tag("image", x=x, y=y, width=width, height=height, **style, href=source)


def bar(x: float, y: float, name: str, marks: Sequence[tuple[float, str]]) -> list[str]:
    """Colour bar: the colours from left to right, with labels.

    Labels are at fractions of the way, as many as there is room for.
    """
    start, length = x + (6.5 * len(name) + 10 if name else 0), 300.0
    parts = [svg.label(x, y + 10, name, 11)] if name else []
    parts.append(image(np.linspace(0.0, 1.0, 64)[None], start, y, length, 10))
    free = -math.inf
    for fraction, text in marks:
        at, half = start + length * fraction, 3.4 * len(text) + 3
        if at - half >= free:
            parts.append(svg.label(at, y + 24, text, 10.5, anchor="middle"))
            free = at + half
    return parts


def colors(fractions: np.ndarray) -> np.ndarray:
    """Red, green and blue, 0 to 255, of fractions of the colour scale."""
    positions = np.clip(fractions, 0.0, 1.0) * (len(VIRIDIS) - 1)
    return np.round(
        np.stack([np.interp(positions, range(len(VIRIDIS)), channel) for channel in VIRIDIS.T], -1)
    )
