"""Pruning and weights of ensembles of sub-architectures.

How much their members know of each other, which of them to keep, how to weigh them.

Bian et al., `Sub-Architecture Ensemble Pruning in Neural Architecture Search
<https://arxiv.org/abs/1910.00370>`_ (SAEP), 2022. Only the abstract and the introduction were at
hand: the formulas are those of the authors' code (eustomaqua/SAEP). A member's variable X is its
hard prediction on every example. Information is in nats; frequencies are of the examples given, and
what is taken the logarithm of is 1e-18 where it is zero, as there. A constant has no entropy and
informs of nothing; the authors' code divides rounding errors by 1e-18 then.

Information and criteria are a host's work on small tables, in NumPy and in double precision;
mixtures are JAX.

>>> import numpy as np
>>> votes, labels = np.array([[0, 0, 1, 1], [0, 1, 1, 0], [0, 0, 1, 0]]), np.array([0, 0, 1, 1])
>>> round(normalized_information(votes[0], labels, 2), 6)
1.0
>>> round(normalized_variation(votes[0], votes[1], 2), 6)
1.0
>>> probabilities = np.eye(2)[votes]
>>> pap(jax.random.key(0), probabilities, labels, np.ones(3) / 3)
(0,)
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxdarts.space import seeded
from jaxdarts.training.images import cross_entropy

ZERO = 1e-18

Votes = Int[np.ndarray, "members examples"]
"""Hard predictions."""

Criterion = Callable[[Key[Array, ""], np.ndarray, np.ndarray, np.ndarray], tuple[int, ...]]
"""Which members to keep: (key, probabilities [members, examples, classes], labels [examples],
weights [members]) -> their numbers, ascending. The key is consumed by what draws at random and
ignored by the rest.
"""


# -------------------------------------------------------------------------------------- information


def joint(
    x: Int[np.ndarray, " examples"], y: Int[np.ndarray, " examples"], num_classes: int
) -> Float[np.ndarray, "x y"]:
    """Joint frequencies of two discrete variables.

    Raises:
        ValueError: if there are no examples, not as many of both, or values outside of the classes.
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise ValueError(
            f"variables have shapes {x.shape} and {y.shape}: they must be vectors over the same"
            " examples"
        )
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"variables have values from {low} to {high}: they must be classes from 0 to"
            f" {num_classes - 1}"
        )
    counts = np.bincount(x * num_classes + y, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes) / len(x)


def _entropy(p: np.ndarray) -> float:
    return float(-np.sum(p * np.log(np.where(p == 0, ZERO, p))))


def entropy(x: Int[np.ndarray, " examples"], num_classes: int) -> float:
    """H(X)."""
    return _entropy(joint(x, x, num_classes).sum(0))


def joint_entropy(
    x: Int[np.ndarray, " examples"], y: Int[np.ndarray, " examples"], num_classes: int
) -> float:
    """H(X, Y)."""
    return _entropy(joint(x, y, num_classes))


def mutual_information(
    x: Int[np.ndarray, " examples"], y: Int[np.ndarray, " examples"], num_classes: int
) -> float:
    """I(X; Y)."""
    p = joint(x, y, num_classes)
    independent = np.outer(p.sum(1), p.sum(0))
    ratio = p / np.where(independent == 0, ZERO, independent)
    return float(np.sum(p * np.log(np.where(ratio == 0, ZERO, ratio))))


def normalized_information(
    x: Int[np.ndarray, " examples"], y: Int[np.ndarray, " examples"], num_classes: int
) -> float:
    """MI(X, Y) = I(X; Y) / sqrt(H(X) H(Y)), in [0, 1]; zero for a constant."""
    scale = math.sqrt(entropy(x, num_classes) * entropy(y, num_classes))
    return mutual_information(x, y, num_classes) / scale if scale else 0.0


def normalized_variation(
    x: Int[np.ndarray, " examples"], y: Int[np.ndarray, " examples"], num_classes: int
) -> float:
    """VI(X, Y) = 1 - I(X; Y) / H(X, Y), in [0, 1]; one for two constants."""
    scale = joint_entropy(x, y, num_classes)
    return 1 - mutual_information(x, y, num_classes) / scale if scale else 1.0


def tdac(
    x: Int[np.ndarray, " examples"],
    y: Int[np.ndarray, " examples"],
    labels: Int[np.ndarray, " examples"],
    num_classes: int,
    balance: float,
) -> float:
    """Score of a pair of members: balance * VI(X, Y) + (1 - balance) * (MI(X, L) + MI(Y, L)) / 2.

    It is zero for members that are the same.

    Args:
        x, y: hard predictions.
        labels: L.
        num_classes: of predictions and labels.
        balance: the paper's lambda, between accuracy (0) and diversity (1).
    """
    if np.array_equal(x, y):
        return 0.0
    accuracy = (
        normalized_information(x, labels, num_classes)
        + normalized_information(y, labels, num_classes)
    ) / 2
    return balance * normalized_variation(x, y, num_classes) + (1 - balance) * accuracy


def pair_scores(
    votes: Votes, labels: Int[np.ndarray, " examples"], num_classes: int, balance: float
) -> Float[np.ndarray, "members members"]:
    """`tdac` of all pairs."""
    scores = np.zeros((len(votes), len(votes)))
    for i, x in enumerate(votes):
        for j in range(i):
            scores[i, j] = scores[j, i] = tdac(x, votes[j], labels, num_classes, balance)
    return scores


def tdas(
    votes: Votes, labels: Int[np.ndarray, " examples"], num_classes: int, balance: float
) -> float:
    """The score of a set: half the sum of `tdac` over all ordered pairs of its members."""
    return float(pair_scores(votes, labels, num_classes, balance).sum() / 2)


# ---------------------------------------------------------------------------------------- diversity


def _pairs(measure: Callable[[int, int], float], members: int) -> float:
    """Mean over all pairs; zero where there is none."""
    values = [measure(i, j) for i in range(members) for j in range(i)]
    return float(np.mean(values)) if values else 0.0


def disagreement(votes: Votes) -> float:
    """Share of the examples on which two members predict different classes, mean over the pairs."""
    return _pairs(lambda i, j: float(np.mean(votes[i] != votes[j])), len(votes))


def disagreement_with_label(votes: Votes, labels: Int[np.ndarray, " examples"]) -> float:
    """Share of the examples on which exactly one of two members is right, mean over the pairs."""
    return disagreement((votes == labels[None]).astype(int))


def variation(votes: Votes, num_classes: int) -> float:
    """`normalized_variation`, mean over the pairs."""
    return _pairs(lambda i, j: normalized_variation(votes[i], votes[j], num_classes), len(votes))


def vote_entropy(votes: Votes, num_classes: int) -> float:
    """Entropy of the members' votes on an example, mean over the examples; zero where all agree.

    Cunningham & Carney, Diversity versus Quality in Classification Ensembles Based on Feature
    Selection, ECML 2000.
    """
    shares = np.mean(votes[:, :, None] == np.arange(num_classes)[None, None], axis=0)
    return float(np.mean([_entropy(p) for p in shares]))


# ----------------------------------------------------------------------------------------- criteria


def prs(size: int | None = None) -> Criterion:
    """Random pruning: with probability one half removes a uniformly drawn member, else none.

    With `size` it keeps that many drawn ones.
    """

    def criterion(key, probabilities, labels, weights):
        rng, members = seeded(key), len(probabilities)
        kept = size if size is not None else members - int(rng.integers(2))
        return tuple(sorted(rng.permutation(members)[:kept].tolist()))

    return criterion


def _error(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray, members: list[int]
) -> float:
    """Error of the weighted sum of some members.

    Double precision, so that sums in another order tie as they should.
    """
    total = np.tensordot(
        np.asarray(weights, float)[members], np.asarray(probabilities, float)[members], axes=1
    )
    return float(np.mean(np.argmax(total, -1) != labels))


def pap(
    key: Key[Array, ""], probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[int, ...]:
    """Pruning by accuracy; a `Criterion`.

    Drops members for as long as the others are not worse without one.

    In every round the member goes whose removal leaves the least error, of equals the one with the
    largest error of its own, of those the first. One stays in any case. This is what the criterion
    is meant to do; `pap_as_published` is what the code does.
    """
    kept = list(range(len(probabilities)))
    while len(kept) > 1:
        without = {
            j: _error(probabilities, labels, weights, [i for i in kept if i != j]) for j in kept
        }
        worst = min(
            kept,
            key=lambda j: (
                without[j],
                -_error(probabilities, labels, np.ones(len(probabilities)), [j]),
            ),
        )
        if without[worst] > _error(probabilities, labels, weights, kept):
            break
        kept.remove(worst)
    return tuple(kept)


def pap_as_published(
    key: Key[Array, ""], probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[int, ...]:
    """Pruning by accuracy, as the authors' code reads; a `Criterion`.

    Keeps the members without which the error is lower.

    One would expect these to be dropped; probably a slip of a sign, which the paper's text would
    settle. Where there is none, the two stay without which the error is lowest, of equals the last.
    """
    members = list(range(len(probabilities)))
    full = _error(probabilities, labels, weights, members)
    gains = [
        full - _error(probabilities, labels, weights, [i for i in members if i != j])
        for j in members
    ]
    kept = [j for j in members if gains[j] > 0]
    return tuple(kept or sorted(np.argsort(gains, kind="stable")[::-1][:2].tolist()))


def greedy(scores: Float[np.ndarray, "members members"], size: int, first: int) -> list[int]:
    """COMEP: adds the member with the largest sum of scores to those chosen, up to `size` members.

    The first of equals is added.

    Args:
        scores: from `pair_scores`.
        size: how many to choose; all, where there are not more.
        first: where to start.

    Returns:
        The members in the order in which they were chosen.
    """
    chosen = [first]
    while len(chosen) < min(size, len(scores)):
        others = [i for i in range(len(scores)) if i not in chosen]
        chosen.append(max(others, key=lambda i: scores[i, chosen].sum()))
    return chosen


def pie(balance: float = 0.5, size: int | None = None) -> Criterion:
    """Pruning by information entropy: accuracy and diversity at once.

    It is `greedy` from a uniformly drawn member.

    A member votes for the class where its weight times its probability is largest, as in the
    authors' code: a positive weight changes no vote, a weight of zero votes for the first class.

    Args:
        balance: the paper's lambda, between accuracy (0) and diversity (1).
        size: how many to keep; by default one fewer than there are, as SAEP does at every
          iteration.
    """
    return pie_distributed(balance, 1, size)


def pie_distributed(balance: float = 0.5, machines: int = 2, size: int | None = None) -> Criterion:
    """DOMEP: `greedy` in every part of a random partition, then among all chosen.

    The result is the better of the last and the best part.

    Args:
        balance, size: as in `pie`.
        machines: parts of the partition, whose sizes differ by one at most; empty ones do not take
          part.

    Raises:
        ValueError: if the balance is not in [0, 1], or there is not one part.
    """
    if not 0 <= balance <= 1 or machines < 1:
        raise ValueError(
            f"balance is {balance} and machines {machines}: they must be in [0, 1], and 1 or more"
        )

    def criterion(key, probabilities, labels, weights):
        rng, members, num_classes = seeded(key), len(probabilities), probabilities.shape[-1]
        kept = members - 1 if size is None else size
        weighted = np.asarray(weights)[:, None, None] * np.asarray(probabilities)
        scores = pair_scores(np.argmax(weighted, -1), np.asarray(labels), num_classes, balance)

        def choose(part: np.ndarray) -> list[int]:
            return [
                int(part[i])
                for i in greedy(scores[np.ix_(part, part)], kept, int(rng.integers(len(part))))
            ]

        def worth(chosen: list[int]) -> float:
            return float(scores[np.ix_(chosen, chosen)].sum())

        if machines == 1:
            return tuple(sorted(choose(np.arange(members))))
        parts = [
            choose(np.sort(part))
            for part in np.array_split(rng.permutation(members), machines)
            if len(part)
        ]
        union = choose(np.sort(np.concatenate(parts)))
        return tuple(sorted(max([union, *parts], key=worth)))  # max keeps the first of equals

    return criterion


# ----------------------------------------------------------------------------------------- mixtures


def mixture(
    predictions: Float[Array, "members examples classes"], weights: Float[Array, " members"]
) -> Array:
    """The weighted sum of the members' logits, or of their probabilities: [examples, classes]."""
    return jnp.tensordot(weights, predictions, axes=1)


def objective(
    weights: Float[Array, " members"],
    logits: Float[Array, "members examples classes"],
    labels: Int[Array, " examples"],
    penalties: Float[Array, " members"],
) -> Float[Array, ""]:
    """Cross-entropy of the mixture of the logits, plus the sum of penalty times absolute weight.

    With penalties lambda * r_j + beta, r_j the complexity of member j, this is the objective of
    Cortes et al., `AdaNet <https://arxiv.org/abs/1607.01097>`_, ICML 2017, for a softmax.
    """
    return jnp.mean(cross_entropy(mixture(logits, weights), labels)) + jnp.sum(
        penalties * jnp.abs(weights)
    )


def uniform_weights(logits: Array, labels: Array, penalties: Array) -> Float[Array, " members"]:
    """Equal weights for all members, which sum to one.

    The arguments are those of `learned_weights`.
    """
    return jnp.full(len(logits), 1 / len(logits))


def learned_weights(
    logits: Float[Array, "members examples classes"],
    labels: Int[Array, " examples"],
    penalties: Float[Array, " members"],
    num_steps: int = 500,
) -> Float[Array, " members"]:
    """The weights that minimise `objective`, which is convex, from uniform ones.

    Accelerated proximal gradient steps (Beck & Teboulle, 2009): penalised weights become exactly
    zero, and there is no learning rate. The authors' code takes RMSProp; the minimum is the same.
    """
    centred = logits - jnp.mean(
        logits, -1, keepdims=True
    )  # a constant for all classes changes no cross-entropy
    # The Hessian of a cross-entropy in the logits is at most 1/2, so this bounds that in the
    # weights.
    curvature = jnp.einsum("iec,jec->ij", centred, centred) / (2 * logits.shape[1])
    rate = 1 / jnp.maximum(jnp.linalg.norm(curvature, 2), 1e-12)
    slope = jax.grad(lambda weights: objective(weights, centred, labels, jnp.zeros_like(penalties)))

    def step(carry, _):
        weights, ahead, momentum = carry
        moved = ahead - rate * slope(ahead)
        new = jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - rate * penalties, 0)
        following = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        return (new, new + (momentum - 1) / following * (new - weights), following), None

    start = uniform_weights(logits, labels, penalties).astype(centred.dtype)
    (weights, _, _), _ = jax.lax.scan(
        step, (start, start, jnp.ones((), centred.dtype)), length=num_steps
    )
    return weights
