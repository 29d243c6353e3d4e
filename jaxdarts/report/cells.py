"""Cells as SVG text.

Every function returns one SVG element, to be written to a file or put into an HTML page as it is
(`svg`).
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxdarts.genotypes import AnyGenotype, GraphGenotype, SizeGenotype, pruned
from jaxdarts.genotypes.kinds import NEWER, OLDER, Pens, kind_of
from jaxdarts.nn.ops import BLUE, GREEN, GREY, OPS, ORANGE, PURPLE, Op
from jaxdarts.report import layouts, svg

LOOKS: Mapping[str, tuple[str, bool]] = MappingProxyType(
    {
        "none": (PURPLE, True),
        "identity": (PURPLE, True),
        "conv3x3-bn-relu": (BLUE, False),
        "conv1x1-bn-relu": (ORANGE, False),
        "maxpool3x3": (GREEN, False),
    }
)
"""Color, and whether the line is dashed, of what `nn.ops` does not declare: NAS-Bench-101's
vertices, and activations. What is not here either is grey.
"""

Edges = Sequence[tuple[str, int] | tuple[str, int, int]]
INPUTS = (OLDER, NEWER)


def cell(genotype: AnyGenotype, ops: Mapping[str, Op] | None = None) -> dict[str, str]:
    """Draws every cell of a genotype.

    Args:
        genotype: of any kind.
        ops: the declarations of its operations: `Space.ops` of a space with operations of your own.

    Returns:
        SVG text by cell: `normal` and `reduce`, or `recurrent`, or `cell`, or `channels`.
    """
    pens = Pens(partial(graph, ops=OPS if ops is None else ops), vertices, sizes)
    return kind_of(genotype).draw(genotype, pens)


def graph(
    edges: Edges,
    concat: Sequence[int],
    *,
    title: str = "",
    inputs: Sequence[str] = INPUTS,
    output: str = "c_{k}",
    ops: Mapping[str, Op] = OPS,
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
        ops: declarations of operations, with their labels and colours.

    Returns:
        SVG text.

    Raises:
        ValueError: if the edges are not a whole number of nodes, or a source or a concatenated
          state does not exist.
    """
    triples = _triples(edges, concat, len(inputs))
    num_states = triples[-1][2] + 1
    labels = [ops[op].label or op if op in ops else op for op, *_ in triples]
    layout = layouts.layered(triples, concat, num_states, len(inputs))
    names = [*inputs, *(str(state) for state in range(len(inputs), num_states)), output]
    widths = [max(32.0, 8.0 * len(re.sub(r"[_{}]", "", name)) + 16) for name in names]
    widths += [
        6.95 * len(labels[e]) + 18 if e is not None else 0.0 for e in layout.labels[len(names) :]
    ]
    column = [
        max(widths[u] for u in range(len(widths)) if layout.rank[u] == rank) for rank in layout.rank
    ]
    x = layouts.columns(layout, column)
    y = layout.y - np.min(layout.y - layout.height / 2) + (40 if title else 12)
    tails, heads = layouts.ports(layout.chains, len(triples), y)

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
            under.insert(0, svg.tag("path", d=layouts.spline([*points, tip]), fill="none", **style))
            continue
        op, v = triples[e][0], chain[layout.labels_at[e]]
        color, dashed = look(op, ops)
        line, faint = layouts.spline([*points, (tip[0] - 5, tip[1])]), 0.4 if op == "none" else None
        style = {
            "stroke": color,
            "stroke_width": 1.6,
            "stroke_dasharray": "5 3" if dashed else None,
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
            svg.label(
                x[v], y[v] + 4, labels[e], 11.5, anchor="middle", font_family=svg.MONO, fill="#fff"
            )
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
    """Draws a graph whose vertices are the operations, from left to right.

    Those that do not matter are left out.

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
    layout = layouts.placed(
        rank, heights + [2.0] * (len(rank) - len(ops)), [None] * len(rank), [], chains, len(ops)
    )
    widths = [6.95 * len(op) + 18 for op in ops] + [0.0] * (len(rank) - len(ops))
    column = [max(w for w, r in zip(widths, rank) if r == column_rank) for column_rank in rank]
    x, y = (
        layouts.columns(layout, column),
        layout.y - np.min(layout.y - layout.height / 2) + (40 if title else 12),
    )
    tails, heads = layouts.ports(chains, len(chains), y)
    lines, boxes = [], []
    for chain, tail, head in zip(chains, tails, heads, strict=True):
        start, stop = chain[0], chain[-1]
        points = [(x[start] + widths[start] / 2, y[start] + tail)]
        for v in chain[1:-1]:
            points += [(x[v] - column[v] / 2, y[v]), (x[v] + column[v] / 2, y[v])]
        tip = (x[stop] - widths[stop] / 2, y[stop] + head)
        line = layouts.spline([*points, (tip[0] - 5, tip[1])])
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
        style = (
            {"fill_opacity": 0.09, "stroke": "currentColor", "stroke_opacity": 0.7}
            if end
            else {"fill": look(op)[0]}
        )
        boxes.append(svg.tag("rect", **box, **style))
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
        color = ORANGE if reduction else BLUE
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
      s2 [label="2"];
      s0 -> s2 [label="skip_connect"];
      s1 -> s2 [label="sep_conv_3x3"];
      s2 -> out [color=gray];
    }
    """
    triples = _triples(edges, concat, len(inputs))
    names = [*inputs, *(str(state) for state in range(len(inputs), triples[-1][2] + 1))]
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


def look(op: str, ops: Mapping[str, Op] = OPS) -> tuple[str, bool]:
    """Colour of an operation, and whether its line is dashed."""
    return (ops[op].color, ops[op].dashed) if op in ops else LOOKS.get(op, (GREY, False))
