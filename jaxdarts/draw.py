"""Cells, learning curves and heat maps as SVG text.

Every function returns one SVG element, to be written to a file or put into an HTML page as it is: no ids, style sheets
or scripts in it could clash with a neighbour's. Text outside boxes has the colour ``currentColor``, preset to a grey
that reads on white and on black; a page may overrule it with ``svg { color: inherit }``.
"""

import base64
import html
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.optimize import isotonic_regression

from jaxdarts.genotypes.cells import all_edges

MINUS = "\N{MINUS SIGN}"
MONO = "ui-monospace, Menlo, 'DejaVu Sans Mono', Consolas, monospace"
SANS = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"

# After Okabe & Ito's colour-blind-safe palette; those that carry white text are darkened to a contrast above 4.5.
FAMILIES = (
    ("#0067a5", re.compile("sep_conv|nor_conv")),
    ("#b84a00", re.compile("dil_conv")),
    ("#00755a", re.compile("pool")),
    ("#99477c", re.compile("skip|none|identity|noise")),
    ("#5d6470", re.compile("")),
)
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_ANCHORS = "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725"
VIRIDIS = np.array([list(bytes.fromhex(color)) for color in _ANCHORS.split()])
TITLE = {"font_weight": 600}

Edges = Sequence[tuple[str, int] | tuple[str, int, int]]
INPUTS = ("c_{k-2}", "c_{k-1}")


def cell(genotype) -> dict[str, str]:
    """Draws every cell of a genotype.

    Args:
        genotype: a `Genotype`, `RecurrentGenotype` or `TopologyGenotype`.

    Returns:
        SVG text by cell: `normal` and `reduce`, or `recurrent`, or `cell`.
    """
    if hasattr(genotype, "cell"):
        triples = [(*pair, target) for pair, (_, target) in zip(genotype.cell, all_edges())]
        return {"cell": graph(triples, [triples[-1][2]], inputs=INPUTS[1:], title="Cell")}
    if hasattr(genotype, "recurrent"):
        edges, concat = genotype.recurrent, genotype.concat
        return {"recurrent": graph(edges, concat, inputs=("x_{t}, h_{t-1}",), output="h_{t}", title="Recurrent cell")}
    return {
        "normal": graph(genotype.normal, genotype.normal_concat, title="Normal cell"),
        "reduce": graph(genotype.reduce, genotype.reduce_concat, title="Reduction cell"),
    }


def graph(
    edges: Edges, concat: Sequence[int], *, title: str = "", inputs: Sequence[str] = INPUTS, output: str = "c_{k}"
) -> str:
    """Draws one cell from left to right, one labelled curve for each operation.

    Columns of states alternate with columns of labels, and an edge that passes a column gets a lane of its own there.
    So no label covers another, no curve runs through a box, and parallel edges stay apart.

    Args:
        edges: pairs (operation, source state), as many for each node as there are inputs: two in DARTS, one in a
            recurrent cell. Or triples (operation, source state, target state), ordered by target; `none` is drawn faintly.
        concat: the states that make the output.
        title: text above the cell.
        inputs: names of the input states; `c_{k-2}` is set with a subscript.
        output: name of the output.

    Returns:
        SVG text.

    Raises:
        ValueError: if the edges are not a whole number of nodes, or a source or a concatenated state does not exist.
    """
    triples = _triples(edges, concat, len(inputs))
    num_states = triples[-1][2] + 1
    layout = _layout(triples, concat, num_states, len(inputs))
    names = [*inputs, *(str(i) for i in range(num_states - len(inputs))), output]
    widths = [max(32.0, 8.0 * len(re.sub(r"[_{}]", "", name)) + 16) for name in names]
    widths += [6.95 * len(triples[e][0]) + 18 if e is not None else 0.0 for e in layout.labels[len(names) :]]
    column = [max(widths[u] for u in range(len(widths)) if layout.rank[u] == rank) for rank in layout.rank]
    x = _columns(layout, column)
    y = layout.y - np.min(layout.y - layout.height / 2) + (40 if title else 12)
    tails, heads = _ports(layout.chains, len(triples), y)

    under, over = [], []
    for e, chain in enumerate(layout.chains):
        start, stop = chain[0], chain[-1]
        points = [(x[start] + widths[start] / 2, y[start] + tails[e])]
        for v in chain[1:-1]:
            points += [(x[v] - column[v] / 2, y[v]), (x[v] + column[v] / 2, y[v])]
        tip = (x[stop] - widths[stop] / 2, y[stop] + heads[e])
        if e >= len(triples):
            # Behind everything: a reader looks for the operations first.
            style = {"stroke": "currentColor", "stroke_opacity": 0.4}
            under.insert(0, _tag("path", d=_spline([*points, tip]), fill="none", **style))
            continue
        op, v = triples[e][0], chain[layout.labels_at[e]]
        color, dash = _color(op), "5 3" if _color(op) == _color("skip") else None
        line, faint = _spline([*points, (tip[0] - 5, tip[1])]), 0.4 if op == "none" else None
        style = {"stroke": color, "stroke_width": 1.6, "stroke_dasharray": dash, "stroke_opacity": faint}
        under.append(_tag("path", d=line, fill="none", **style))
        over.append(_tag("path", d=f"M{tip[0] - 7:.1f},{tip[1] - 3.6:.1f}l7,3.6l-7,3.6z", fill=color))
        over.append(_tag("rect", x=x[v] - widths[v] / 2, y=y[v] - 10, width=widths[v], height=20, rx=10, fill=color))
        over.append(_label(x[v], y[v] + 4, op, 11.5, anchor="middle", font_family=MONO, fill="#fff"))
    for v, name in enumerate(names):
        height = layout.height[v]
        style = {"rx": 6, "fill_opacity": 0.09, "stroke": "currentColor", "stroke_opacity": 0.7}
        over.append(_tag("rect", x=x[v] - widths[v] / 2, y=y[v] - height / 2, width=widths[v], height=height, **style))
        over.append(_label(x[v], y[v] + 4.5, name, 13, anchor="middle", subscripts=True))
    over += [_label(12, 22, title, 14, **TITLE)] if title else []
    width = max(x[num_states] + widths[num_states] / 2 + 12, 24 + 9 * len(title))
    return _svg(width, np.max(y + layout.height / 2) + 12, under + over, title or "cell")


def dot(edges: Edges, concat: Sequence[int], *, inputs: Sequence[str] = INPUTS) -> str:
    """Writes one cell in the language of Graphviz; the arguments are those of `cell`.

    >>> print(dot([("skip_connect", 0), ("sep_conv_3x3", 1)], [2]))
    digraph cell {
      rankdir=LR; node [shape=box];
      s0 [label="c_{k-2}"];
      s1 [label="c_{k-1}"];
      s2 [label="0"];
      s0 -> s2 [label="skip_connect"];
      s1 -> s2 [label="sep_conv_3x3"];
      s2 -> out [color=gray];
    }
    """
    triples = _triples(edges, concat, len(inputs))
    names = [*inputs, *(str(i) for i in range(triples[-1][2] + 1 - len(inputs)))]
    lines = [f"  s{i} [label={json.dumps(name, ensure_ascii=False)}];" for i, name in enumerate(names)]
    lines += [f"  s{source} -> s{target} [label={json.dumps(op, ensure_ascii=False)}];" for op, source, target in triples]
    lines += [f"  s{state} -> out [color=gray];" for state in concat]
    return "\n".join(["digraph cell {", "  rankdir=LR; node [shape=box];", *lines, "}"])


def _triples(edges, concat, num_inputs: int) -> list[tuple[str, int, int]]:
    if not edges or len(edges) % num_inputs:
        raise ValueError(f"{len(edges)} edges; a cell needs {num_inputs} for each node, and one node at least")
    targets = ((op, source, target or [num_inputs + i // num_inputs]) for i, (op, source, *target) in enumerate(edges))
    triples = [(op, int(source), int(*target)) for op, source, target in targets]
    for i, (op, source, target) in enumerate(triples):
        if not 0 <= source < target:
            raise ValueError(f"edge {i} ({op}) feeds state {target} from state {source}; edges must go forward")
    last = triples[-1][2]
    for state in concat:
        if not 0 <= state <= last:
            raise ValueError(f"concat names state {state}; the cell has states 0 to {last}")
    return triples


class _Layout(NamedTuple):
    """Vertices in ranks (columns): the states, the output, then a label or a lane for each rank that an edge passes."""

    rank: list[int]
    height: np.ndarray
    y: np.ndarray
    labels: list[int | None]  # the edge whose label a vertex is
    labels_at: list[int]  # where in its chain each edge has its label
    chains: list[list[int]]  # the vertices of each edge, then of each concatenated state


def _layout(triples, concat, num_states: int, num_inputs: int) -> _Layout:
    """Layers the cell (Sugiyama, Tagawa & Toda 1981): ranks by longest path, few crossings, then coordinates."""
    layer = [0] * num_inputs
    for state in range(num_inputs, num_states):
        layer.append(1 + max(layer[s] for _, s, t in triples if t == state))
    # States at even ranks, labels between; no label stands before the output.
    rank = [2 * k for k in layer] + [2 * max(layer) + 1]
    ins = [sum(t == v for _, _, t in triples) for v in range(num_states)] + [0]
    outs = [sum(s == v for _, s, _ in triples) + (v in concat) for v in range(num_states)] + [len(concat)]
    height = [max(30.0, 12.0 * (i - 1) + 20, 6.0 * (o - 1) + 18) for i, o in zip(ins, outs, strict=True)]
    labels: list[int | None] = [None] * (num_states + 1)
    load = [0] * (rank[-1] + 1)
    chains: list[list[int]] = []
    labels_at: list[int] = []
    for e, (source, target) in enumerate([(s, t) for _, s, t in triples] + [(s, num_states) for s in concat]):
        at = None
        if target < num_states:
            # The emptiest of the columns that the edge passes; a tie goes to the one next to the target.
            at = min(range(rank[source] + 1, rank[target], 2), key=lambda r: (load[r], -r))
            load[at] += 1
            labels_at.append(at - rank[source])
        lanes = range(rank[source] + 1, rank[target])
        chains.append([source, *range(len(rank), len(rank) + len(lanes)), target])
        rank += lanes
        labels += [e if r == at else None for r in lanes]
        height += [20.0 if r == at else 2.0 for r in lanes]
    links = [pair for chain in chains for pair in pairwise(chain)]
    order = _order(rank, links)
    # Lanes pull harder than labels, so that long edges run straight.
    is_lane = [v > num_states and labels[v] is None for v in range(len(rank))]
    weights = [(1.0 + 3.0 * is_lane[u]) * (1.0 + 3.0 * is_lane[v]) for u, v in links]
    return _Layout(rank, np.array(height), _coordinates(order, links, weights, height), labels, labels_at, chains)


def _order(rank, links) -> list[list[int]]:
    """Orders each rank by sweeps of barycentres, and keeps the order with the fewest crossings."""
    ranks = [[v for v, r in enumerate(rank) if r == k] for k in range(max(rank) + 1)]
    ahead: list[list[int]] = [[] for _ in rank]
    behind: list[list[int]] = [[] for _ in rank]
    for u, v in links:
        ahead[u].append(v)
        behind[v].append(u)

    def crossings(ranks) -> int:
        position = {v: i for column in ranks for i, v in enumerate(column)}
        total = 0
        for column in ranks[:-1]:
            gap = [(position[u], position[v]) for u in column for v in ahead[u]]
            total += sum((a < c and b > d) or (a > c and b < d) for i, (a, b) in enumerate(gap) for c, d in gap[:i])
        return total

    best, fewest = [list(c) for c in ranks], crossings(ranks)
    for sweep in range(12):
        near = behind if sweep % 2 == 0 else ahead
        # The inputs keep their order: a reader compares cells.
        for column in ranks[1:] if sweep % 2 == 0 else ranks[-2:0:-1]:
            position = {v: i / len(c) for c in ranks for i, v in enumerate(c)}
            column.sort(key=lambda v: np.mean([position[u] for u in near[v]]) if near[v] else position[v])
        if (count := crossings(ranks)) < fewest:
            best, fewest = [list(c) for c in ranks], count
    return best


def _coordinates(order, links, weights, height, gap: float = 9.0) -> np.ndarray:
    """Moves every vertex towards the mean of its neighbours, rank by rank, keeping order and distance."""
    y, pull = np.zeros(len(height)), np.zeros((len(height), len(height)))
    for (u, v), weight in zip(links, weights, strict=True):
        pull[u, v] += weight
        pull[v, u] += weight
    for sweep in range(120):
        for column in order if sweep % 2 == 0 else order[::-1]:
            strength = pull[column].sum(1)
            wish = np.where(strength > 0, pull[column] @ y / np.maximum(strength, 1e-9), y[column])
            # Subtracting the least distances turns "keep apart" into "do not decrease".
            offsets = np.cumsum([0.0] + [(height[u] + height[v]) / 2 + gap for u, v in pairwise(column)])
            y[column] = isotonic_regression(wish - offsets, weights=np.maximum(strength, 1e-9)).x + offsets
    return y


def _columns(layout: _Layout, column) -> list[float]:
    """Centres the ranks; the steeper the curves between two of them, the further apart."""
    links = [pair for chain in layout.chains for pair in pairwise(chain)]
    x, right = [], 12.0
    for rank in range(max(layout.rank) + 1):
        rise = max((abs(layout.y[u] - layout.y[v]) for u, v in links if layout.rank[v] == rank), default=0.0)
        right += min(26 + 0.16 * rise, 70) if rank else 0
        x.append(right + column[layout.rank.index(rank)] / 2)
        right += column[layout.rank.index(rank)]
    return [x[rank] for rank in layout.rank]


def _ports(chains, num_ops: int, y) -> tuple[list[float], list[float]]:
    """Spreads the ends of edges over the sides of their boxes, in the order in which they come and go."""
    tails, heads = [0.0] * len(chains), [0.0] * len(chains)
    for ends, end, near in ((tails, 0, 1), (heads, -1, -2)):
        for vertex in {chain[end] for chain in chains}:
            group = [e for e, chain in enumerate(chains) if chain[end] == vertex]
            group.sort(key=lambda e: y[chains[e][near]])
            step = 12.0 if end and group[0] < num_ops else 6.0  # arrowheads need more room
            for i, e in enumerate(group):
                ends[e] = step * (i - (len(group) - 1) / 2)
    return tails, heads


def _spline(points) -> str:
    """Joins points by curves that leave and arrive horizontally; level pairs become straight lines."""
    text = [f"M{points[0][0]:.1f},{points[0][1]:.1f}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        if abs(y1 - y0) < 0.05:
            text.append(f"L{x1:.1f},{y1:.1f}")
        else:
            middle = (x0 + x1) / 2
            text.append(f"C{middle:.1f},{y0:.1f} {middle:.1f},{y1:.1f} {x1:.1f},{y1:.1f}")
    return "".join(text)


def _color(op: str) -> str:
    return next(color for color, pattern in FAMILIES if pattern.search(op))


def _tag(name: str, body: str = "", /, **attributes: object) -> str:
    """Writes an element: `stroke_width` becomes `stroke-width`, None is left out, everything is escaped."""
    text = ""
    for key, value in attributes.items():
        if isinstance(value, (int, float)):
            value = f"{value:.2f}".rstrip("0").rstrip(".")
        if value is not None:
            text += f' {key.replace("_", "-")}="{_text(str(value))}"'
    return f"<{name}{text}>{body}</{name}>" if body else f"<{name}{text}/>"


def _text(text: str) -> str:
    # XML 1.0 has no way to write most control characters.
    return html.escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "\ufffd", text))


def _label(x: float, y: float, text: str, size: float, *, anchor=None, subscripts: bool = False, **attributes) -> str:
    body = "" if subscripts else _text(text)
    # By `dy`, because not every browser knows `baseline-shift`.
    for i, part in enumerate(re.split(r"_\{(.*?)\}", text) if subscripts else ()):
        if i % 2:
            body += _tag("tspan", _text(part.replace("-", MINUS)), dy=3.5, font_size=10)
        elif part:
            body += _tag("tspan", _text(part), dy=-3.5 if i else None)
    return _tag("text", body, x=x, y=y, font_size=size, text_anchor=anchor, **attributes)


def _svg(width: float, height: float, parts: Sequence[str], label: str) -> str:
    width, height = math.ceil(width), math.ceil(height)
    size = {"width": width, "height": height, "viewBox": f"0 0 {width} {height}"}
    text = {"color": "#757575", "fill": "currentColor", "font_family": SANS, "role": "img", "aria_label": label}
    return _tag("svg", "\n".join(["", *parts, ""]), xmlns="http://www.w3.org/2000/svg", **size, **text) + "\n"


def curves(series: Mapping[str, Sequence[tuple[float, float]]], *, title: str = "", xlabel: str = "", ylabel: str = "") -> str:
    """Draws lines over a common pair of axes.

    Args:
        series: points (x, y) by name, in drawing order. A point that is not finite breaks its line; a point without
            neighbours is drawn as a dot.
        title: text above the chart.
        xlabel: text under the horizontal axis.
        ylabel: text above the vertical axis.

    Returns:
        SVG text.
    """
    width, right = 480, 462.0
    finite = [(float(x), float(y)) for points in series.values() for run in _runs(points) for x, y in run]
    xs, ys = _ticks([x for x, _ in finite]), _ticks([y for _, y in finite])
    left = 20 + 6.8 * max(len(label) for label in _tick_labels(ys))
    parts = [_label(12, 22, title, 14, **TITLE)] if title else []

    # The legend shares the title's row where there is room, wraps under it where not, and is not to repeat the title.
    legend = [] if [name.lower() for name in series] == [title.lower()] else list(series)
    sizes = [30 + 6.9 * len(name) for name in legend]
    row, x = (42, 12.0) if title else (22, 12.0)
    if title and 28 + 8.6 * len(title) + sum(sizes) < right:
        row, x = 22, right - sum(sizes) + 12
    for i, (name, size) in enumerate(zip(legend, sizes, strict=True)):
        if x > 12 and x + size - 12 > right + 0.5:
            row, x = row + 18, 12.0
        parts.append(_tag("line", x1=x, x2=x + 14, y1=row - 4, y2=row - 4, **_stroke(i)))
        parts.append(_label(x + 18, row, name, 12))
        x += size
    top = row + (36 if ylabel else 18)
    bottom = max(236, top + 140)
    parts += [_label(12, top - 16, ylabel, 12)] if ylabel else []
    parts += [_label((left + right) / 2, bottom + 36, xlabel, 12, anchor="middle")] if xlabel else []

    first, last = (min(finite)[0], max(finite)[0]) if finite else (0.0, 1.0)
    x_of = _scale(first, last, left + 6, right - 6)
    y_of = _scale(ys[0], ys[-1], bottom, top)
    for value, label in zip(ys, _tick_labels(ys), strict=True):
        style = {"stroke": "currentColor", "stroke_opacity": 0.5 if value == ys[0] else 0.16}
        parts.append(_tag("path", d=f"M{left:.1f},{y_of(value):.1f}H{right}", **style))
        parts.append(_label(left - 7, y_of(value) + 4, label, 11.5, anchor="end"))
    for value, label in zip(xs, _tick_labels(xs), strict=True):
        if first <= value <= last:
            parts.append(_tag("path", d=f"M{x_of(value):.1f},{bottom}v4", stroke="currentColor", stroke_opacity=0.5))
            parts.append(_label(x_of(value), bottom + 17, label, 11.5, anchor="middle"))
    if not finite:
        parts.append(_label((left + right) / 2, (top + bottom) / 2 + 4, "no data", 13, anchor="middle"))
    for i, points in enumerate(series.values()):
        for run in _runs(points):
            if len(run) == 1:
                parts.append(_tag("circle", cx=x_of(run[0][0]), cy=y_of(run[0][1]), r=3, fill=_stroke(i)["stroke"]))
            else:
                line = "M" + "L".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in run)
                parts.append(_tag("path", d=line, fill="none", stroke_linejoin="round", **_stroke(i)))
    return _svg(width, bottom + 44, parts, title or ylabel or "curves")


def _stroke(i: int) -> dict[str, object]:
    dash = (None, "7 3", "2 3")[i // len(SERIES) % 3]
    return {"stroke": SERIES[i % len(SERIES)], "stroke_width": 2, "stroke_dasharray": dash}


def _runs(points) -> list[list[tuple[float, float]]]:
    runs = groupby(points, lambda point: math.isfinite(point[0]) and math.isfinite(point[1]))
    return [list(run) for is_finite, run in runs if is_finite]


def _scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    return lambda value: start + (stop - start) * ((value - low) / (high - low) if high > low else 0.5)


def _ticks(values: Sequence[float], count: int = 5) -> list[float]:
    """The multiples of 1, 2 or 5 times a power of ten that enclose the values, about `count` of them."""
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


def _tick_labels(ticks: Sequence[float]) -> list[str]:
    step, largest = ticks[1] - ticks[0], max(map(abs, ticks))
    if largest >= 1e6 or step < 1e-5:
        digits = math.ceil(math.log10(largest / step)) + 1
        return [f"{t:.{digits}g}".replace("e+0", "e").replace("e-0", "e-") for t in ticks]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{t:.{decimals}f}".replace("-", MINUS) for t in ticks]


def heatmap(
    values: np.ndarray,
    row_labels: Sequence[str],
    column_labels: Sequence[str] | Sequence[Sequence[str]],
    *,
    title: str = "",
) -> str:
    """Draws mixture weights over time: one small picture for each edge, with a line for each operation.

    The colour scale goes from zero to the largest value, rounded up.

    Args:
        values: weights `[epochs, edges, ops]`; what is not finite stays grey.
        row_labels: a name for each edge.
        column_labels: the names of the operations, one sequence for all edges or one for each; an edge with fewer names
            than there are columns uses the first ones.
        title: text above the pictures.

    Returns:
        SVG text with embedded PNGs.

    Raises:
        ValueError: if the labels do not fit the values.
    """
    values = np.asarray(values, np.float64)
    rows = len(row_labels)
    if values.ndim != 3 or values.shape[1] != rows:
        raise ValueError(f"values have shape {values.shape}; {rows} row labels need [epochs, {rows}, ops]")
    shared = all(isinstance(name, str) for name in column_labels)
    ops = [list(map(str, names)) for names in ([column_labels] * rows if shared else column_labels)]
    if len(ops) != rows or any(not 0 < len(names) <= values.shape[2] for names in ops):
        raise ValueError(f"each of {rows} edges needs 1 to {values.shape[2]} operation names")
    finite = values[np.isfinite(values)]
    limit = min(_ticks([0.0, float(finite.max())])[-1], 1.0) if finite.size and finite.max() > 0 else 1.0

    side, column = 124.0, 6.1 * max((len(name) for names in ops for name in names), default=0) + 8
    # Edges that share their operations need the names once a line, others each their own.
    pitch, per_line = (side + 12, 5) if shared else (side + 12 + column, 3)
    parts = [_label(12, 22, title, 14, **TITLE)] if title else []
    y = 34.0 if title else 12.0
    parts += [_label(12, y + 10, "weight", 11), _image(np.linspace(0.0, 1.0, 64)[None], 58, y, 150, 12)]
    parts += [_label(58 + 75 * k, y + 26, f"{limit * k / 2:.4g}", 10.5, anchor="middle") for k in range(3)]
    parts.append(_label(226, y + 10, f"left to right: epochs 1 to {len(values)}", 11))
    y += 44
    for start in range(0, rows, per_line):
        line = range(start, min(start + per_line, rows))
        for place, e in enumerate(line):
            x = 12 + column + pitch * place
            picture = values[:, e, : len(ops[e])].T
            parts.append(_label(x, y + 11, row_labels[e], 11.5, **TITLE))
            if len(values) and np.isfinite(picture[:, -1]).any():
                # What an edge ends with is what a reader wants to know first.
                winner = ops[e][int(np.argmax(np.where(np.isfinite(picture[:, -1]), picture[:, -1], -np.inf)))]
                parts.append(_label(x + side, y + 11, winner, 9.5, anchor="end", font_family=MONO))
            for k, name in enumerate(ops[e] if place == 0 or not shared else ()):
                parts.append(_label(x - 5, y + 25 + 10 * k, name, 9.5, anchor="end", font_family=MONO))
            if len(values):
                parts.append(_image(picture / limit, x, y + 17, side, 10.0 * len(ops[e])))
        y += 10.0 * max(len(ops[e]) for e in line) + 28
    width = column + pitch * min(per_line, rows) if shared else pitch * min(per_line, rows)
    return _svg(max(width + 12, 440, 24 + 9.0 * len(title)), y, parts, title or "mixture weights")


def _image(fractions: np.ndarray, x: float, y: float, width: float, height: float) -> str:
    """Embeds `[height, width]` fractions of the colour scale as a PNG, each a pixel with hard borders."""
    known = np.isfinite(fractions)
    place = np.clip(np.where(known, fractions, 0.0), 0.0, 1.0) * (len(VIRIDIS) - 1)
    colors = np.stack([np.interp(place, range(len(VIRIDIS)), channel) for channel in VIRIDIS.T], -1)
    stream = io.BytesIO()
    Image.fromarray(np.where(known[..., None], np.round(colors), 128).astype(np.uint8)).save(stream, "PNG")
    source = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    style = {"preserveAspectRatio": "none", "style": "image-rendering: pixelated"}
    return _tag("image", x=x, y=y, width=width, height=height, **style, href=source)
