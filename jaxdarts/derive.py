"""Derivation of a cell from a trained supernet by validation accuracy, not by the mix alone.

`Space.discretize` keeps what weighs most. The functions here ask the supernet: `score` takes mixes,
{cell: [seeds, edges, ops]}, and returns the validation accuracy of every seed's supernet with its
own. They decide for all seeds at once, since one program evaluates all of them, and return mixes
that keep one operation on each edge that a genotype keeps: `discretize` reads them as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxdarts.space import Choices, Space, one_hot, seeded
from jaxdarts.types import Mix

Mixes = Mapping[str, Float[Array | np.ndarray, "seeds edges ops"]]
Score = Callable[[Mixes], Float[Array | np.ndarray, " seeds"]]


def by_perturbation(
    cells: Mapping[str, Choices],
    mixes: Mixes,
    score: Score,
    key: Key[Array, ""],
    tune: Callable[[Mixes], None] | None = None,
) -> Mixes:
    """DARTS+PT: on every edge the operation whose removal hurts most.

    Then, node by node, the edges whose removal does.

    Edges are decided in random order, one of each cell before the supernets are tuned, and so are
    nodes. Removing sets one weight to zero and leaves the others: every removal is scored with all
    other edges of the node present, also those that lose. Of equal operations and edges the first
    stay.

    Wang, Cheng, Chen, Tang & Hsieh, `Rethinking Architecture Selection in Differentiable NAS
    <https://arxiv.org/abs/2108.04392>`_, ICLR 2021, Algorithm 1.

    Args:
        cells: the space's cells.
        mixes: the supernets' own.
        score: see above.
        key: for the order, which all seeds share.
        tune: called after every decision (of an edge, or of a node, in every cell) with the mixes
          as they are then, to train the supernets on.
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
    tune: Callable[[Mixes], None] | None = None,
) -> Mixes:
    """Derivation by validation: on every edge the operation that does best alone there.

    Then the edges whose removal hurts most.

    Performance-aware derivation, which the DARTS paper proposes in its conclusion without saying
    how. This greedy form is ours. Arguments are those of `by_perturbation`.
    """

    def alone(row: np.ndarray, op: int) -> np.ndarray:
        return np.broadcast_to(np.arange(row.shape[-1]) == op, row.shape).astype(row.dtype)

    return _decide(cells, mixes, score, key, tune, alone, lambda scores: np.argmax(scores, axis=0))


def by_samples(space: Space, score: Score, keys: Sequence[Key[Array, ""]], num_seeds: int) -> Mixes:
    """The best of several random cells, one for each key.

    Random search with weight sharing (Li & Talwalkar, UAI 2019).
    """
    drawn: list[Any] = [one_hot(space.cells, space.sample(key)) for key in keys]
    repeated = [
        jax.tree.map(lambda m: jnp.broadcast_to(m, (num_seeds, *m.shape)), mix) for mix in drawn
    ]
    best = np.argmax(np.stack([np.asarray(score(mixes)) for mixes in repeated]), axis=0)
    return {name: np.stack([np.asarray(drawn[i][name]) for i in best]) for name in space.cells}


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


def _decide(cells, mixes, score, key, tune, trial, choose) -> Mixes:
    rng, tune = seeded(key), tune or (lambda mixes: None)
    if any(choices.picks for choices in cells.values()):
        raise ValueError(
            "a row of this space keeps several candidates: take its cells from the mix, or from"
            " drawn cells"
        )
    mixes = {name: np.array(mixes[name]) for name in cells}
    seeds = np.arange(len(next(iter(mixes.values()))))
    orders = [
        [(name, e) for e in rng.permutation(len(choices.edges)).tolist()]
        for name, choices in sorted(cells.items())
    ]
    for rank in range(max(map(len, orders))):
        for name, e in (order[rank] for order in orders if rank < len(order)):
            row, ops = mixes[name][:, e], np.flatnonzero(cells[name].derivable()[e])
            scores = [np.asarray(score(_with(mixes, name, e, trial(row, op)))) for op in ops]
            mixes[name][:, e] = np.eye(row.shape[-1])[ops[choose(np.stack(scores))]]
        tune(mixes)
    nodes = []
    for name, choices in sorted(cells.items()):
        entering = list(choices.entering().values())
        crowded = [e for e in entering if choices.kept is not None and len(e) > choices.kept]
        nodes.append([(name, crowded[i]) for i in rng.permutation(len(crowded))])
    for rank in range(max(map(len, nodes))):
        for name, edges in (order[rank] for order in nodes if rank < len(order)):
            row = np.zeros_like(mixes[name][:, 0])
            scores = [np.asarray(score(_with(mixes, name, e, row))) for e in edges]
            ranked = np.argsort(np.stack(scores), axis=0, kind="stable")  # [edges, seeds]
            lost = np.array(edges)[ranked[cells[name].kept :]]
            mixes[name][seeds, lost] = 0
        tune(mixes)
    return mixes


def _with(mixes: Mixes, name: str, edge: int, row: np.ndarray) -> Mixes:
    changed = np.array(mixes[name])
    changed[:, edge] = row
    return {**mixes, name: changed}
