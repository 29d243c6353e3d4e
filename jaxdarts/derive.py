"""Derivation of a cell from a trained supernet by validation accuracy, not by the mix alone.

`Space.discretize` keeps what weighs most. The functions here ask the supernet: `score` takes mixes,
{cell: [seeds, edges, ops]}, and returns the validation accuracy of every seed's supernet with its
own. They decide for all seeds at once, since one program evaluates all of them, and return mixes
that keep one operation on each edge that a genotype keeps: `discretize` reads them as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from jaxdarts.space import Choices, Space, one_hot, seeded
from jaxdarts.types import Mix

Mixes = Mapping[str, Float[Array | np.ndarray, "seeds edges ops"]]
Score = Callable[[Mixes], Float[Array | np.ndarray, " seeds"]]
Undecided = Mapping[str, Bool[np.ndarray, " edges"]]
Tune = Callable[[Mixes, Undecided], Mixes | None]
"""(mixes, edges whose operation is not decided) -> the mixes after the supernets were trained on.

Only the rows of undecided edges are read; None leaves all as they are.
"""


def by_perturbation(
    cells: Mapping[str, Choices],
    mixes: Mixes,
    score: Score,
    key: Key[Array, ""],
    tune: Tune | None = None,
) -> Mixes:
    """DARTS+PT: on every edge the operation whose removal hurts most.

    Then, node by node, the edges whose removal does.

    Edges are decided in random order, one of each cell before the supernets are tuned, and then so
    are nodes, as in the authors' code. Removing sets one weight to zero and leaves the others:
    every removal is scored with all other edges of the node present, also those that lose. Of equal
    operations and edges the first stay.

    Wang, Cheng, Chen, Tang & Hsieh, `Rethinking Architecture Selection in Differentiable NAS
    <https://arxiv.org/abs/2108.04392>`_, ICLR 2021, Algorithm 1.

    Args:
        cells: the space's cells.
        mixes: the supernets' own.
        score: see above.
        key: for the order, which all seeds share.
        tune: called after every decision but the last (of an edge, or of a node, in every cell) to
          train the supernets on, with weights fixed where they are decided.
    """

    def without(row: np.ndarray, op: int) -> np.ndarray:
        return np.where(np.arange(row.shape[-1]) == op, 0, row)

    return _decide(
        cells, mixes, score, key, tune, without, lambda scores: np.argmin(scores, axis=0)
    )


def by_validation(
    cells: Mapping[str, Choices],
    mixes: Mixes,
    score: Score,
    key: Key[Array, ""],
    tune: Tune | None = None,
) -> Mixes:
    """Derivation by validation: on every edge the operation that does best alone there.

    Then the edges whose removal hurts most.

    Performance-aware derivation, which the DARTS paper proposes in its conclusion without saying
    how. This greedy form is ours. Arguments are those of `by_perturbation`.
    """

    def alone(row: np.ndarray, op: int) -> np.ndarray:
        return np.broadcast_to(np.arange(row.shape[-1]) == op, row.shape).astype(row.dtype)

    return _decide(cells, mixes, score, key, tune, alone, lambda scores: np.argmax(scores, axis=0))


def by_shapley(
    cells: Mapping[str, Choices],
    mixes: Mixes,
    score: Score,
    key: Key[Array, ""],
    num_permutations: int = 10,
    threshold: float = 0.5,
) -> Mixes:
    """Shapley-NAS' contributions as a mix: a softmax over every edge's Shapley values.

    In each of several random orders operations are removed one by one. An operation's contribution
    is what the score loses by its removal; its value the mean over the orders less their deviation,
    divided by the deviation of all values of the cell. An order ends where the score has fallen
    below `threshold` times the first one; what is left contributes nothing then. A score below zero
    ends nothing. All seeds share the orders.

    Xiao, Wang, Zhu, Zhou & Lu, `Shapley-NAS <https://openaccess.thecvf.com/content/CVPR2022/html/
    Xiao_Shapley-NAS_Discovering_Operation_Contribution_for_Neural_Architecture_Search_CVPR_2022_
    paper.html>`_, CVPR 2022. There alpha moves along the values every epoch, in the second half of
    the search; here the values of the end decide alone.

    Args:
        cells: the space's cells.
        mixes: the supernets' own.
        score: see above.
        key: for the orders.
        num_permutations: orders, published 10.
        threshold: published 0.5.
    """
    _check_choices(cells)
    rng, names = seeded(key), sorted(cells)
    players = [(n, e, o) for n in names for e, o in np.argwhere(cells[n].derivable()).tolist()]
    first = np.asarray(score(mixes))
    losses: dict[str, list[np.ndarray]] = {name: [] for name in cells}
    for _ in range(num_permutations):
        weights, last = {name: np.array(mixes[name]) for name in cells}, first
        for name in cells:
            losses[name].append(np.zeros(weights[name].shape))
        going = np.ones(len(first), bool)
        for i in rng.permutation(len(players)):
            name, e, op = players[i]
            weights[name][:, e, op] = 0
            new = np.asarray(score(weights))
            losses[name][-1][:, e, op] = np.where(going, last - new, 0)
            last, going = new, going & ((first <= 0) | (new >= threshold * first))
            if not going.any():
                break
    out = {}
    for name, choices in cells.items():
        values = np.mean(losses[name], axis=0) - np.std(losses[name], axis=0)
        used = choices.derivable()
        spread = values[:, used].std(axis=1)[:, None, None]
        logits = np.where(used, values / np.where(spread > 0, spread, 1), -np.inf)
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        out[name] = shares / shares.sum(axis=-1, keepdims=True)
    return out


def by_samples(
    space: Space,
    score: Score,
    keys: Sequence[Key[Array, ""]],
    num_seeds: int,
    first_look: Score | None = None,
    finalists: int = 10,
) -> Mixes:
    """The best of several random cells, one for each key.

    With `first_look`, a cheaper score, the best `finalists` by it are scored again, and the best of
    them wins; a single one wins at once. Of equal cells the first wins.

    Random search with weight sharing (Li & Talwalkar, UAI 2019), whose published search looks at
    1,000 cells on 10 batches each, and at the best 10 on all validation data.
    """
    drawn: list[Any] = [one_hot(space.cells, space.sample(key)) for key in keys]

    def scored(score: Score, cells: np.ndarray) -> np.ndarray:
        """Scores [rows, seeds] of the cells [rows, seeds] that every seed asks for."""
        rows = []
        for row in cells:
            mixes = {name: jnp.stack([drawn[i][name] for i in row]) for name in space.cells}
            rows.append(np.asarray(score(mixes)))
        return np.stack(rows)

    left = np.tile(np.arange(len(drawn))[:, None], (1, num_seeds))
    if first_look is not None and finalists < len(drawn):
        ranked = np.argsort(-scored(first_look, left), axis=0, kind="stable")
        left = np.sort(ranked[:finalists], axis=0)
    if len(left) > 1:
        best = np.argmax(scored(score, left), axis=0)
        left = np.take_along_axis(left, best[None], axis=0)
    return {name: np.stack([np.asarray(drawn[i][name]) for i in left[0]]) for name in space.cells}


def with_fewer_skips(space: Space, mix: Mix, max_skips: int) -> Any:
    """P-DARTS' rule: the normal cell has at most `max_skips` skip connections.

    While it has more, the weakest is taken out of the mix.

    Chen, Xie, Wu & Tian, `Progressive DARTS <https://arxiv.org/abs/1904.12760>`_, ICCV 2019,
    section 3.3. A space that leaves no other operation keeps its skips.
    """
    left: Any = {name: np.array(weights) for name, weights in mix.items()}
    choices = space.cells["normal"]
    skips = choices.where(lambda op: op == "skip_connect")
    others = np.any(choices.derivable() & ~skips, axis=1)
    while True:
        genotype: Any = space.discretize(left)
        chosen = [
            (source, 2 + i // 2)
            for i, (op, source) in enumerate(genotype.normal)
            if op == "skip_connect"
        ]
        replaceable = [e for e in map(choices.edges.index, chosen) if others[e]]
        if len(chosen) <= max_skips or not replaceable:
            return left
        weakest = min(replaceable, key=lambda e: left["normal"][e][skips[e]].max())
        left["normal"][weakest][skips[weakest]] = 0


def num_decisions(cells: Mapping[str, Choices]) -> int:
    """How often `by_perturbation` decides: on an edge, or on a node, of every cell at once."""
    edges = max(len(choices.edges) for choices in cells.values())
    return edges + max(len(_crowded(choices)) for choices in cells.values())


def _crowded(choices: Choices) -> list[list[int]]:
    """The edges that enter each node which has more of them than a genotype keeps."""
    if choices.kept is None:
        return []
    return [edges for edges in choices.entering().values() if len(edges) > choices.kept]


def _check_choices(cells: Mapping[str, Choices]) -> None:
    if any(choices.picks for choices in cells.values()):
        raise ValueError(
            "a row of this space keeps several candidates: take its cells from the mix, or from"
            " drawn cells"
        )


def _decide(
    cells: Mapping[str, Choices],
    mixes: Mixes,
    score: Score,
    key: Key[Array, ""],
    tune: Tune | None,
    trial: Callable[[np.ndarray, int], np.ndarray],
    choose: Callable[[np.ndarray], np.ndarray],
) -> Mixes:
    rng = seeded(key)
    _check_choices(cells)
    weights = {name: np.array(mixes[name]) for name in cells}
    undecided = {name: np.ones(len(choices.edges), bool) for name, choices in cells.items()}
    seeds = np.arange(len(next(iter(weights.values()))))
    left = num_decisions(cells)

    def tuned() -> None:
        nonlocal left
        left -= 1
        new = tune(weights, undecided) if tune and left else None
        for name, trained in (new or {}).items():
            open_edges = undecided[name]
            weights[name][:, open_edges] = np.asarray(trained)[:, open_edges]

    orders = [
        [(name, e) for e in rng.permutation(len(choices.edges)).tolist()]
        for name, choices in sorted(cells.items())
    ]
    for rank in range(max(map(len, orders))):
        for name, e in (order[rank] for order in orders if rank < len(order)):
            row, ops = weights[name][:, e], np.flatnonzero(cells[name].derivable()[e]).tolist()
            scores = [np.asarray(score(_with(weights, name, e, trial(row, op)))) for op in ops]
            weights[name][:, e] = np.eye(row.shape[-1])[np.array(ops)[choose(np.stack(scores))]]
            undecided[name][e] = False
        tuned()
    nodes = []
    for name, choices in sorted(cells.items()):
        crowded = _crowded(choices)
        nodes.append([(name, crowded[i]) for i in rng.permutation(len(crowded))])
    for rank in range(max(map(len, nodes))):
        for name, edges in (order[rank] for order in nodes if rank < len(order)):
            row = np.zeros_like(weights[name][:, 0])
            scores = [np.asarray(score(_with(weights, name, e, row))) for e in edges]
            ranked = np.argsort(np.stack(scores), axis=0, kind="stable")  # [edges, seeds]
            lost = np.array(edges)[ranked[cells[name].kept :]]
            weights[name][seeds, lost] = 0
        tuned()
    return weights


def _with(mixes: Mixes, name: str, edge: int, row: np.ndarray) -> Mixes:
    changed = np.array(mixes[name])
    changed[:, edge] = row
    return {**mixes, name: changed}
