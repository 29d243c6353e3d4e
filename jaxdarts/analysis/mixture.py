"""Analysis of a search's mixture weights: entropy, kept share, agreement of ranks.

They say how decided the search is, what its genotype keeps, and whether operations keep their
ranks.

All functions take the weights of one cell and its `Choices`; weights of `none` count, the unused
ends of rows do not.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxdarts.space import Choices, strongest


def entropy(
    mix: Float[np.ndarray, "*epochs edges ops"], choices: Choices
) -> Float[np.ndarray, "*epochs edges"]:
    """Shannon entropy of every edge's weights over that of equal weights.

    1 is undecided, 0 is one operation.

    Weights that do not sum to one, such as sigmoids, are divided by their sum; an edge with nothing
    to choose is 0, one without any weight is 1.
    """
    weights = np.where(choices.where(), mix, 0.0)
    total = weights.sum(-1, keepdims=True)
    counts = choices.where().sum(-1)
    shares = np.where(
        total > 0, weights / np.where(total > 0, total, 1), choices.where() / counts[:, None]
    )
    nats = -np.sum(shares * np.log(np.where(shares > 0, shares, 1)), -1)
    return np.where(counts > 1, nats / np.log(np.maximum(counts, 2)), 0.0)


def kept_share(mix: Float[np.ndarray, "edges ops"], choices: Choices) -> float:
    """The share of all weight that lies on what a genotype keeps.

    It is 1 where discretising the mix changes nothing.
    """
    weights = np.where(choices.where(), np.asarray(mix, float), 0.0)
    if choices.kept is None:  # every edge, `none` included
        kept = weights.max(-1).sum()
    else:
        pairs = strongest(weights, choices)
        targets = [choices.num_inputs + i // choices.kept for i in range(len(pairs))]
        edges = [
            choices.edges.index((source, target))
            for (_, source), target in zip(pairs, targets, strict=True)
        ]
        kept = sum(
            weights[e, choices.ops[e].index(op)] for e, (op, _) in zip(edges, pairs, strict=True)
        )
    return float(kept / weights.sum())


def agreement(
    one: Float[np.ndarray, "edges ops"], other: Float[np.ndarray, "edges ops"], choices: Choices
) -> dict[str, float]:
    """Agreement of two mixes about the ranks of the operations on an edge.

    Returns:
        `tau`: Kendall's tau-b, its mean over the edges on which both have an order; NaN without
        any. `same`: the fraction of edges with the same strongest operation.
    """
    from scipy import stats  # half a second, which few need

    taus, same = [], []
    for ops, a, b in zip(choices.ops, np.asarray(one), np.asarray(other), strict=True):
        a, b = a[: len(ops)], b[: len(ops)]
        same.append(int(np.argmax(a)) == int(np.argmax(b)))
        if len(set(a.tolist())) > 1 and len(set(b.tolist())) > 1:
            taus.append(float(stats.kendalltau(a, b).statistic))
    return {"tau": float(np.mean(taus)) if taus else float("nan"), "same": float(np.mean(same))}


def mean_agreement(
    mixes: Sequence[Float[np.ndarray, "edges ops"]], choices: Choices
) -> dict[str, float]:
    """The mean of `agreement` over all pairs of mixes, such as those that several seeds end with.

    Raises:
        ValueError: if there are not two.
    """
    if len(mixes) < 2:
        raise ValueError(f"{len(mixes)} mix: an agreement needs two or more")
    agreements = [agreement(one, other, choices) for one, other in itertools.combinations(mixes, 2)]
    return {name: float(np.mean([each[name] for each in agreements])) for name in ("tau", "same")}
