"""Cells as SVG text.

Every function returns one SVG element, to be written to a file or put into an HTML page as it is
(`svg`).
"""

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from jaxdarts.genotypes import GraphGenotype, SizeGenotype, pruned
from jaxdarts.genotypes.cells import all_edges
from jaxdarts.report import svg

# After Okabe & Ito's colour-blind-safe palette; those that carry white text are darkened to a
# contrast above 4.5.
FAMILIES = (
    ("#0067a5", re.compile("sep_conv|nor_conv|conv3x3")),
    ("#b84a00", re.compile("dil_conv|conv1x1")),
    ("#00755a", re.compile("pool")),
    ("#99477c", re.compile("skip|none|identity|noise")),
    ("#5d6470", re.compile("")),
)

Edges = Sequence[tuple[str, int] | tuple[str, int, int]]
INPUTS = ("c_{k-2}", "c_{k-1}")


def cell(genotype) -> dict[str, str]:
    """Draws every cell of a genotype.

    Args:
        genotype: a `Genotype`, `RecurrentGenotype`, `TopologyGenotype`, `GraphGenotype` or
          `SizeGenotype`.

    Returns:
        SVG text by cell: `normal` and `reduce`, or `recurrent`, or `cell`, or `channels`.
    """
    if isinstance(genotype, GraphGenotype):
        return {"cell": vertices(genotype, title="Cell")}
    if isinstance(genotype, SizeGenotype):
        return {"channels": sizes(genotype, title="Channels")}
    if hasattr(genotype, "cell"):
        triples = [(*pair, target) for pair, (_, target) in zip(genotype.cell, all_edges())]
        return {"cell": graph(triples, [triples[-1][2]], inputs=INPUTS[1:], title="Cell")}
    if hasattr(genotype, "recurrent"):
        edges, concat = genotype.recurrent, genotype.concat
        return {
            "recurrent": graph(
                edges, concat, inputs=("x_{t}, h_{t-1}",), output="h_{t}", title="Recurrent cell"
            )
        }
    return {
        "normal": graph(genotype.normal, genotype.normal_concat, title="Normal cell"),
        "reduce": graph(genotype.reduce, genotype.reduce_concat, title="Reduction cell"),
    }


def graph(
    edges: Edges,
    concat: Sequence[int],
    *,
    title: str = "",
    inputs: Sequence[str] = INPUTS,
    output: str = "c_{k}",
) -> str:
    """Draws one cell from left to right, one labelled curve for each operation.

    Columns of states alternate with columns of labels, and an edge that passes a column gets a lane
    of its own there. So no label covers another, no curve runs through a box, and parallel edges
    stay apart.

    Args:
        edges: pairs (operation, source state), as many for each node as there are inputs: two in
            DARTS, one in a recurrent cell. Or triples (operation, source state, target state),
            ordered by target; `none` is drawn faintly.
        concat: the states that make the output.
        title: text above the cell.
        inputs: names of the input states; `c_{k-2}` is set with a subscript.
        output: name of the output.

    Returns:
        SVG text.

    Raises:
        ValueError: if the edges are not a whole number of nodes, or a source or a concatenated
          state does not exist.
    """
    triples = _triples(edges, concat, len(inputs))
    num_states = triples[-1][2] + 1
    layout = _layout(triples, concat, num_states, len(inputs))
    names = [*inputs, *(str(i) for i in range(num_states - len(inputs))), output]
    widths = [max(32.0, 8.0 * len(re.sub(r"[_{}]", "", name)) + 16) for name in names]
    widths += [
        6.95 * len(triples[e][0]) + 18 if e is not None else 0.0
        for e in layout.labels[len(names) :]
    ]
    column = [
        max(widths[u] for u in range(len(widths)) if layout.rank[u] == rank) for rank in layout.rank
    ]
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
            under.insert(0, svg.tag("path", d=_spline([*points, tip]), fill="none", **style))
            continue
        op, v = triples[e][0], chain[layout.labels_at[e]]
        color, dash = _color(op), "5 3" if _color(op) == _color("skip") else None
        line, faint = _spline([*points, (tip[0] - 5, tip[1])]), 0.4 if op == "none" else None
        style = {
            "stroke": color,
            "stroke_width": 1.6,
            "stroke_dasharray": dash,
            "stroke_opacity": faint,
        }
        under.append(svg.tag("path", d=line, fill="none", **style))
        over.append(
            svg.tag("path", d=f"M{tip[0] - 7:.1f},{tip[1] - 3.6:.1f}l7,3.6l-7,3.6z", fill=color)
        )
        over.append(
            svg.tag(
                "rect",
                x=x[v] - widths[v] / 2,
                y=y[v] - 10,
                width=widths[v],
                height=20,
                rx=10,
                fill=color,
            )
        )
        over.append(
            svg.label(x[v], y[v] + 4, op, 11.5, anchor="middle", font_family=svg.MONO, fill="#fff")
        )
    for v, name in enumerate(names):
        height = layout.height[v]
        style = {"rx": 6, "fill_opacity": 0.09, "stroke": "currentColor", "stroke_opacity": 0.7}
        over.append(
            svg.tag(
                "rect",
                x=x[v] - widths[v] / 2,
                y=y[v] - height / 2,
                width=widths[v],
                height=height,
                **style,
            )
        )
        over.append(svg.label(x[v], y[v] + 4.5, name, 13, anchor="middle", subscripts=True))
    over += [svg.label(12, 22, title, 14, **svg.TITLE)] if title else []
    width = max(x[num_states] + widths[num_states] / 2 + 12, 24 + 9 * len(title))
    return svg.picture(width, np.max(y + layout.height / 2) + 12, under + over, title or "cell")


def vertices(genotype: GraphGenotype, *, title: str = "") -> str:
    """Draws a graph whose vertices are the operations, from left to right; those that do not matter
    are left out.

    Args:
        genotype: a cell of NAS-Bench-101.
        title: text above it.

    Returns:
        SVG text.

    Raises:
        ValueError: if no path leads from its input to its output.
    """
    matrix, ops = pruned(genotype)
    edges = [(u, v) for v in range(len(ops)) for u in range(v) if matrix[u][v]]
    rank = [0] * len(ops)
    for u, v in edges:
        rank[v] = max(rank[v], rank[u] + 1)
    sides = [[sum(edge[end] == v for edge in edges) for end in (0, 1)] for v in range(len(ops))]
    heights = [
        max(30.0, 6.0 * (leaving - 1) + 18, 12.0 * (entering - 1) + 20)
        for leaving, entering in sides
    ]
    chains = []
    for u, v in edges:
        lanes = range(rank[u] + 1, rank[v])
        chains.append([u, *range(len(rank), len(rank) + len(lanes)), v])
        rank += lanes
    layout = _placed(
        rank, heights + [2.0] * (len(rank) - len(ops)), [None] * len(rank), [], chains, len(ops)
    )
    widths = [6.95 * len(op) + 18 for op in ops] + [0.0] * (len(rank) - len(ops))
    column = [max(w for w, r in zip(widths, rank) if r == own) for own in rank]
    x, y = (
        _columns(layout, column),
        layout.y - np.min(layout.y - layout.height / 2) + (40 if title else 12),
    )
    tails, heads = _ports(chains, len(chains), y)
    lines, boxes = [], []
    for chain, tail, head in zip(chains, tails, heads, strict=True):
        start, stop = chain[0], chain[-1]
        points = [(x[start] + widths[start] / 2, y[start] + tail)]
        for v in chain[1:-1]:
            points += [(x[v] - column[v] / 2, y[v]), (x[v] + column[v] / 2, y[v])]
        tip = (x[stop] - widths[stop] / 2, y[stop] + head)
        line = _spline([*points, (tip[0] - 5, tip[1])])
        lines.append(
            svg.tag(
                "path",
                d=line,
                fill="none",
                stroke="currentColor",
                stroke_width=1.4,
                stroke_opacity=0.7,
            )
        )
        lines.append(
            svg.tag(
                "path", d=f"M{tip[0] - 7:.1f},{tip[1] - 3.6:.1f}l7,3.6l-7,3.6z", fill="currentColor"
            )
        )
    for v, op in enumerate(ops):
        box = {
            "x": x[v] - widths[v] / 2,
            "y": y[v] - heights[v] / 2,
            "width": widths[v],
            "height": heights[v],
            "rx": 6,
        }
        end = v in (0, len(ops) - 1)
        look = (
            {"fill_opacity": 0.09, "stroke": "currentColor", "stroke_opacity": 0.7}
            if end
            else {"fill": _color(op)}
        )
        boxes.append(svg.tag("rect", **box, **look))
        font: dict[str, Any] = {} if end else {"font_family": svg.MONO, "fill": "#fff"}
        boxes.append(svg.label(x[v], y[v] + 4, op, 13 if end else 11.5, anchor="middle", **font))
    boxes += [svg.label(12, 22, title, 14, **svg.TITLE)] if title else []
    width = max(x[len(ops) - 1] + widths[len(ops) - 1] / 2 + 12, 24 + 9 * len(title))
    return svg.picture(width, np.max(y + layout.height / 2) + 12, lines + boxes, title or "cell")


def sizes(genotype: SizeGenotype, *, title: str = "") -> str:
    """Draws the layers of a network of NATS-Bench's size space, each as high as it has channels.

    Args:
        genotype: its numbers of channels.
        title: text above it.

    Returns:
        SVG text.
    """
    top, step, width, scale = 40 if title else 12, 92.0, 56.0, 2.0
    middle = top + scale * max(genotype.channels) / 2
    parts = []
    for i, channels in enumerate(genotype.channels):
        left, height, reduction = 18 + step * i, scale * channels, i % 2 == 1
        color = FAMILIES[1 if reduction else 0][0]
        parts.append(
            svg.tag(
                "rect", x=left, y=middle - height / 2, width=width, height=height, rx=3, fill=color
            )
        )
        parts.append(
            svg.label(left + width / 2, middle + 4, str(channels), 12, anchor="middle", fill="#fff")
        )
        name = "reduction" if reduction else "cell"
        parts.append(svg.label(left + width / 2, 2 * middle - top + 18, name, 12, anchor="middle"))
        if i:
            parts.append(
                svg.tag(
                    "path",
                    d=f"M{left - step + width + 4:.1f},{middle:.1f}h{step - width - 12:.1f}",
                    stroke="currentColor",
                )
            )
            parts.append(
                svg.tag(
                    "path",
                    d=f"M{left - 10:.1f},{middle - 3.6:.1f}l7,3.6l-7,3.6z",
                    fill="currentColor",
                )
            )
    parts += [svg.label(12, 22, title, 14, **svg.TITLE)] if title else []
    return svg.picture(
        36 + step * (len(genotype.channels) - 1) + width,
        2 * middle - top + 30,
        parts,
        title or "channels",
    )


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
    lines = [
        f"  s{i} [label={json.dumps(name, ensure_ascii=False)}];" for i, name in enumerate(names)
    ]
    lines += [
        f"  s{source} -> s{target} [label={json.dumps(op, ensure_ascii=False)}];"
        for op, source, target in triples
    ]
    lines += [f"  s{state} -> out [color=gray];" for state in concat]
    return "\n".join(["digraph cell {", "  rankdir=LR; node [shape=box];", *lines, "}"])


def _triples(edges, concat, num_inputs: int) -> list[tuple[str, int, int]]:
    if not edges or len(edges) % num_inputs:
        raise ValueError(
            f"{len(edges)} edges; a cell needs {num_inputs} for each node, and one node at least"
        )
    targets = (
        (op, source, target or [num_inputs + i // num_inputs])
        for i, (op, source, *target) in enumerate(edges)
    )
    triples = [(op, int(source), int(*target)) for op, source, target in targets]
    for i, (op, source, target) in enumerate(triples):
        if not 0 <= source < target:
            raise ValueError(
                f"edge {i} ({op}) feeds state {target} from state {source}; edges must go forward"
            )
    last = triples[-1][2]
    for state in concat:
        if not 0 <= state <= last:
            raise ValueError(f"concat names state {state}; the cell has states 0 to {last}")
    return triples


class _Layout(NamedTuple):
    """Vertices in ranks (columns): the states, the output, then a label or a lane for each rank
    that an edge passes.
    """

    rank: list[int]
    height: np.ndarray
    y: np.ndarray
    labels: list[int | None]  # the edge whose label a vertex is
    labels_at: list[int]  # where in its chain each edge has its label
    chains: list[list[int]]  # the vertices of each edge, then of each concatenated state


def _layout(triples, concat, num_states: int, num_inputs: int) -> _Layout:
    """Layers the cell (Sugiyama, Tagawa & Toda 1981): ranks by longest path, few crossings, then
    coordinates.
    """
    layer = [0] * num_inputs
    for state in range(num_inputs, num_states):
        layer.append(1 + max(layer[s] for _, s, t in triples if t == state))
    # States at even ranks, labels between; no label stands before the output.
    rank = [2 * k for k in layer] + [2 * max(layer) + 1]
    ins = [sum(t == v for _, _, t in triples) for v in range(num_states)] + [0]
    outs = [sum(s == v for _, s, _ in triples) + (v in concat) for v in range(num_states)] + [
        len(concat)
    ]
    height = [
        max(30.0, 12.0 * (i - 1) + 20, 6.0 * (o - 1) + 18) for i, o in zip(ins, outs, strict=True)
    ]
    labels: list[int | None] = [None] * (num_states + 1)
    load = [0] * (rank[-1] + 1)
    chains: list[list[int]] = []
    labels_at: list[int] = []
    for e, (source, target) in enumerate(
        [(s, t) for _, s, t in triples] + [(s, num_states) for s in concat]
    ):
        at = None
        if target < num_states:
            # The emptiest of the columns that the edge passes; a tie goes to the one next to the
            # target.
            at = min(range(rank[source] + 1, rank[target], 2), key=lambda r: (load[r], -r))
            load[at] += 1
            labels_at.append(at - rank[source])
        lanes = range(rank[source] + 1, rank[target])
        chains.append([source, *range(len(rank), len(rank) + len(lanes)), target])
        rank += lanes
        labels += [e if r == at else None for r in lanes]
        height += [20.0 if r == at else 2.0 for r in lanes]
    return _placed(rank, height, labels, labels_at, chains, num_states + 1)


def _placed(rank, height, labels, labels_at, chains, num_boxes: int) -> _Layout:
    """The layout of vertices in their ranks; those from `num_boxes` on are labels and lanes."""
    links = [pair for chain in chains for pair in pairwise(chain)]
    order = _order(rank, links)
    # Lanes pull harder than labels, so that long edges run straight.
    is_lane = [v >= num_boxes and labels[v] is None for v in range(len(rank))]
    weights = [(1.0 + 3.0 * is_lane[u]) * (1.0 + 3.0 * is_lane[v]) for u, v in links]
    return _Layout(
        rank,
        np.array(height),
        _coordinates(order, links, weights, height),
        labels,
        labels_at,
        chains,
    )


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
            total += sum(
                (a < c and b > d) or (a > c and b < d)
                for i, (a, b) in enumerate(gap)
                for c, d in gap[:i]
            )
        return total

    best, fewest = [list(c) for c in ranks], crossings(ranks)
    for sweep in range(12):
        near = behind if sweep % 2 == 0 else ahead
        # The inputs keep their order: a reader compares cells.
        for column in ranks[1:] if sweep % 2 == 0 else ranks[-2:0:-1]:
            position = {v: i / len(c) for c in ranks for i, v in enumerate(c)}
            column.sort(
                key=lambda v: np.mean([position[u] for u in near[v]]) if near[v] else position[v]
            )
        if (count := crossings(ranks)) < fewest:
            best, fewest = [list(c) for c in ranks], count
    return best


def _coordinates(order, links, weights, height, gap: float = 9.0) -> np.ndarray:
    """Moves every vertex towards the mean of its neighbours, rank by rank, keeping order and
    distance.
    """
    y, pull = np.zeros(len(height)), np.zeros((len(height), len(height)))
    for (u, v), weight in zip(links, weights, strict=True):
        pull[u, v] += weight
        pull[v, u] += weight
    from scipy.optimize import isotonic_regression  # a second to import: only to draw a cell

    for sweep in range(120):
        for column in order if sweep % 2 == 0 else order[::-1]:
            strength = pull[column].sum(1)
            wish = np.where(strength > 0, pull[column] @ y / np.maximum(strength, 1e-9), y[column])
            # Subtracting the least distances turns "keep apart" into "do not decrease".
            offsets = np.cumsum(
                [0.0] + [(height[u] + height[v]) / 2 + gap for u, v in pairwise(column)]
            )
            y[column] = (
                isotonic_regression(wish - offsets, weights=np.maximum(strength, 1e-9)).x + offsets
            )
    return y


def _columns(layout: _Layout, column) -> list[float]:
    """Centres the ranks; the steeper the curves between two of them, the further apart."""
    links = [pair for chain in layout.chains for pair in pairwise(chain)]
    x, right = [], 12.0
    for rank in range(max(layout.rank) + 1):
        rise = max(
            (abs(layout.y[u] - layout.y[v]) for u, v in links if layout.rank[v] == rank),
            default=0.0,
        )
        right += min(26 + 0.16 * rise, 70) if rank else 0
        x.append(right + column[layout.rank.index(rank)] / 2)
        right += column[layout.rank.index(rank)]
    return [x[rank] for rank in layout.rank]


def _ports(chains, num_ops: int, y) -> tuple[list[float], list[float]]:
    """Spreads the ends of edges over the sides of their boxes, in the order in which they come and
    go.
    """
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
    """Joins points by curves that leave and arrive horizontally, level pairs by straight lines."""
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
