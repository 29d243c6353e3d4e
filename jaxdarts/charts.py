"""Charts of measurements as SVG text, in the manner of `draw`."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxdarts.draw import SERIES, TITLE, _label, _scale, _svg, _tag, _tick_labels, _ticks


def scatter(series: Mapping[str, Sequence[tuple[float, float]]], *, title: str = "", xlabel: str = "", ylabel: str = "") -> str:
    """Draws points (x, y), by name, over a common pair of axes; arguments as of `draw.curves`.

    Points that are not finite are left out, and counted under the chart.
    """
    finite = {name: [p for p in points if np.all(np.isfinite(p))] for name, points in series.items()}
    together = [p for points in finite.values() for p in points]
    x_ticks, y_ticks = _ticks([float(x) for x, _ in together]), _ticks([float(y) for _, y in together])
    lost = sum(map(len, series.values())) - len(together)
    width, right, top, bottom = 480, 462.0, 58.0 if title else 36.0, 330.0
    left = 20 + 6.8 * max(len(label) for label in _tick_labels(y_ticks))
    x_of = _scale(x_ticks[0], x_ticks[-1], left + 6, right - 6)
    y_of = _scale(y_ticks[0], y_ticks[-1], bottom, top)
    parts = [_label(12, 22, title, 14, **TITLE)] if title else []
    parts += [_label(12, top - 14, ylabel, 12)] if ylabel else []
    for value, label in zip(y_ticks, _tick_labels(y_ticks), strict=True):
        style = {"stroke": "currentColor", "stroke_opacity": 0.5 if value == y_ticks[0] else 0.16}
        parts.append(_tag("path", d=f"M{left:.1f},{y_of(value):.1f}H{right}", **style))
        parts.append(_label(left - 7, y_of(value) + 4, label, 11.5, anchor="end"))
    for value, label in zip(x_ticks, _tick_labels(x_ticks), strict=True):
        parts.append(_tag("path", d=f"M{x_of(value):.1f},{bottom}v4", stroke="currentColor", stroke_opacity=0.5))
        parts.append(_label(x_of(value), bottom + 17, label, 11.5, anchor="middle"))
    # See-through: where many points lie the picture is darker.
    for color, points in zip(SERIES, finite.values()):
        parts += [_tag("circle", cx=x_of(x), cy=y_of(y), r=2, fill=color, fill_opacity=0.45) for x, y in points]
    below = [xlabel] * bool(xlabel) + [f"{lost} not finite"] * bool(lost)
    parts.append(_label((left + right) / 2, bottom + 36, " \N{MIDDLE DOT} ".join(below), 12, anchor="middle"))
    return _svg(width, bottom + 44, parts, title or "scatter")
