"""Positions of the boxes and curves of a drawn cell: ranks, order, coordinates."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """Vertices in ranks (columns): the states, the output, then labels and lanes.

    There is a label or a lane for each rank that an edge passes.
    """

    rank: list[int]
    height: np.ndarray
    y: np.ndarray
    labels: list[int | None]  # the edge whose label a vertex is
    labels_at: list[int]  # where in its chain each edge has its label
    chains: list[list[int]]  # the vertices of each edge, then of each concatenated state


def layered(triples, concat, num_states: int, num_inputs: int) -> Layout:
    """Layers the cell (Sugiyama, Tagawa & Toda 1981).

    Ranks by longest path, few crossings, then coordinates.
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
    return placed(rank, height, labels, labels_at, chains, num_states + 1)


def placed(rank, height, labels, labels_at, chains, num_boxes: int) -> Layout:
    """The layout of vertices in their ranks; those from `num_boxes` on are labels and lanes."""
    links = [pair for chain in chains for pair in pairwise(chain)]
    order = _order(rank, links)
    # Lanes pull harder than labels, so that long edges run straight.
    is_lane = [v >= num_boxes and labels[v] is None for v in range(len(rank))]
    weights = [(1.0 + 3.0 * is_lane[u]) * (1.0 + 3.0 * is_lane[v]) for u, v in links]
    return Layout(
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
    """Moves every vertex towards the mean of its neighbours, rank by rank.

    Order and distance are kept.
    """
    from scipy.optimize import isotonic_regression  # a second to import: only to draw a cell

    y, pull = np.zeros(len(height)), np.zeros((len(height), len(height)))
    for (u, v), weight in zip(links, weights, strict=True):
        pull[u, v] += weight
        pull[v, u] += weight
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


def columns(layout: Layout, column) -> list[float]:
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


def ports(chains, num_ops: int, y) -> tuple[list[float], list[float]]:
    """Spreads the ends of edges over the sides of their boxes.

    They keep the order in which they come and go.
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


def spline(points) -> str:
    """Joins points by curves that leave and arrive horizontally, level pairs by straight lines."""
    text = [f"M{points[0][0]:.1f},{points[0][1]:.1f}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        if abs(y1 - y0) < 0.05:
            text.append(f"L{x1:.1f},{y1:.1f}")
        else:
            middle = (x0 + x1) / 2
            text.append(f"C{middle:.1f},{y0:.1f} {middle:.1f},{y1:.1f} {x1:.1f},{y1:.1f}")
    return "".join(text)
