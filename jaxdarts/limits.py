"""The best cell under limits of cost: parameters, multiply-adds, or anything that adds up."""

import bisect
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdarts.count import Costs
from jaxdarts.genotypes import AnyGenotype
from jaxdarts.space import one_hot
from jaxdarts.types import Choices, Mix

TINY = 1e-30
"""A weight below it counts as this one: its logarithm is finite, and it is kept last."""


class Options(NamedTuple):
    """Ways to choose the operations of a part of the network.

    score: [ways], the sum of the logarithms of the kept weights.
    costs: [ways, limits].
    picks: of each way, the kept (cell, edge, operation).
    """

    score: np.ndarray
    costs: np.ndarray
    picks: list[tuple[tuple[str, int, int], ...]]


def least(cells: Mapping[str, Choices], costs: Costs) -> int:
    """The cost of the cheapest network of a space.

    Raises:
        ValueError: as `under_limits`.
    """
    flat = {name: np.zeros(choices.shape, np.float32) for name, choices in cells.items()}
    parts = _parts(cells, flat, [costs])
    return costs.fixed + sum(int(part.costs.min()) for part in parts)


def total(cells: Mapping[str, Choices], costs: Costs, genotype: AnyGenotype) -> int:
    """The cost of a network of a space.

    Raises:
        ValueError: if the space does not have it.
    """
    mix = one_hot(cells, genotype)
    kept = (costs.operations[name][np.asarray(mix[name]) > 0] for name in cells)
    return int(costs.fixed + sum(prices.sum() for prices in kept))


def under_limits(
    cells: Mapping[str, Choices], mix: Mix, costs: Sequence[Costs], limits: Sequence[float]
) -> Mix:
    """The cell with the largest product of kept weights, of those under all limits, as a mix.

    It is exact: ways to choose the operations of a node are joined node by node, and a way is
    dropped only if another one is as good and costs no more. Without a limit that binds it is the
    cell that a space's `discretize` makes of the mix.

    Args:
        cells: of the space.
        mix: weights of the operations.
        costs: of every operation on every edge, one for each limit (`Space.costs`).
        limits: the largest costs of the network.

    Returns:
        The mix, with zero for what is not kept.

    Raises:
        ValueError: if no cell is under the limits; if there are none, or not as many as costs; or
          if a row of the space keeps several candidates.
    """
    if not 1 <= len(costs) == len(limits):
        raise ValueError(
            f"{len(costs)} costs and {len(limits)} limits: as many of each, one or more"
        )
    parts = _parts(cells, {name: np.asarray(mix[name], np.float64) for name in cells}, costs)
    cheapest = np.array([part.costs.min(0) for part in parts])
    room = np.array(limits, np.float64) - [one.fixed for one in costs]
    best = Options(np.zeros(1), np.zeros((1, len(costs))), [()])
    for i, part in enumerate(parts):
        left = room - cheapest[i + 1 :].sum(0)
        best = _joined(best, part, left)
        if not len(best.score):
            smallest = [c.fixed + int(cheapest[:, k].sum()) for k, c in enumerate(costs)]
            raise ValueError(
                f"no cell costs at most {' and '.join(f'{limit:,.0f}' for limit in limits)}; the"
                f" cheapest costs {' and '.join(f'{cost:,}' for cost in smallest)}"
            )
    rows = {name: np.zeros(choices.shape, np.float32) for name, choices in cells.items()}
    for name, edge, op in best.picks[int(np.argmax(best.score))]:
        rows[name][edge, op] = max(float(mix[name][edge, op]), TINY)
    return {name: jnp.asarray(weights) for name, weights in rows.items()}


def _parts(
    cells: Mapping[str, Choices], mix: Mapping[str, np.ndarray], costs: Sequence[Costs]
) -> list[Options]:
    """The ways of every node, or of every edge where a genotype keeps all of them."""
    parts = []
    for name, choices in cells.items():
        if choices.picks is not None:
            raise ValueError("a row of this space keeps several candidates: it has no limits")
        edges = [_of_edge(name, choices, mix[name], costs, e) for e in range(len(choices.edges))]
        if choices.kept is None:
            parts += edges
            continue
        for entering in choices.entering().values():
            ways = [
                _sum([edges[e] for e in kept])
                for kept in itertools.combinations(entering, min(choices.kept, len(entering)))
            ]
            parts.append(
                _undominated(
                    np.concatenate([way.score for way in ways]),
                    np.concatenate([way.costs for way in ways]),
                    [picks for way in ways for picks in way.picks],
                )
            )
    return parts


def _of_edge(
    name: str, choices: Choices, mix: np.ndarray, costs: Sequence[Costs], edge: int
) -> Options:
    ops = np.flatnonzero(choices.derivable()[edge])
    score = np.log(np.maximum(mix[edge, ops], TINY))
    prices = np.stack([one.operations[name][edge, ops] for one in costs], axis=1)
    return _undominated(score, prices, [((name, edge, int(op)),) for op in ops])


def _sum(parts: Sequence[Options]) -> Options:
    total = parts[0]
    for part in parts[1:]:
        total = _joined(total, part)
    return total


def _joined(first: Options, second: Options, room: np.ndarray | None = None) -> Options:
    """All pairs of two parts that leave room for the rest, without those that others beat."""
    score = (first.score[:, None] + second.score[None]).reshape(-1)
    costs = (first.costs[:, None] + second.costs[None]).reshape(len(score), -1)
    fits = np.arange(len(score))
    if room is not None:
        fits = np.flatnonzero(np.all(costs <= room, axis=1))
    i, j = np.divmod(fits, len(second.score))
    picks = [first.picks[a] + second.picks[b] for a, b in zip(i.tolist(), j.tolist())]
    return _undominated(score[fits], costs[fits], picks)


def _undominated(score: np.ndarray, costs: np.ndarray, picks: list) -> Options:
    """Without the ways that another one beats, or equals, in score and in all costs."""
    # From good to bad, and from cheap to dear among equals: a way is beaten by earlier ones only.
    order = np.lexsort((*costs.T[::-1], -score))
    keep = _stairs if costs.shape[1] <= 2 else _front
    kept = order[keep(costs[order])].tolist()
    return Options(score[kept], costs[kept], [picks[i] for i in kept])


def _stairs(costs: np.ndarray) -> list[int]:
    """The rows of one or two costs that no earlier row undercuts or equals."""
    first, last = costs[:, 0].tolist(), costs[:, -1].tolist()
    kept: list[int] = []
    stairs: list[tuple[float, float]] = []  # costs of the kept rows, one up where the other is down
    for i in range(len(costs)):
        at = bisect.bisect_right(stairs, (first[i], np.inf))
        if at and stairs[at - 1][1] <= last[i]:
            continue
        kept.append(i)
        end = at
        while end < len(stairs) and stairs[end][1] >= last[i]:
            end += 1
        start = at - 1 if at and stairs[at - 1][0] == first[i] else at
        stairs[start:end] = [(first[i], last[i])]
    return kept


def _front(costs: np.ndarray, size: int = 1024) -> list[int]:
    """The same of any number of costs; rows are compared with those kept in blocks of a size."""
    rows: list[int] = []
    for start in range(0, len(costs), size):
        block = costs[start : start + size]
        free = np.ones(len(block), bool)
        for i in range(0, len(rows), size):
            left, earlier = np.flatnonzero(free), costs[rows[i : i + size]]
            free[left] = ~np.all(earlier[None] <= block[left, None], axis=2).any(axis=1)
        left = np.flatnonzero(free)
        beaten = np.all(block[None, left] <= block[left, None], axis=2)
        # A row that is beaten beats no row that the one which beats it would not beat.
        rows += (start + left[~np.tril(beaten, -1).any(axis=1)]).tolist()
    return rows
