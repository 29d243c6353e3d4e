"""Agreement of rankings of one set of models, by several trainings and with the ground truth.

The truth is what each model is worth when it is trained alone.

Zhang et al., Deeper Insights into Weight Sharing in Neural Architecture Search, 2020, section 3. An
instance is one training with shared weights, which ranks all models by their validation accuracies;
the truth ranks them by those of trainings of their own. Accuracies are rows of arrays; the larger,
the better. The code's tau is followed, which knows ties (tau-b).
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Accuracies = Float[np.ndarray, " models"]


class Agreement(NamedTuple):
    """Kendall's tau over all pairs of instances: mean, which is S-Tau, largest and smallest."""

    mean: float
    maximum: float
    minimum: float


def kendall_tau(first: Accuracies, second: Accuracies) -> float:
    """Kendall's tau-b.

    Concordant minus discordant pairs, over the geometric mean of the pairs that either does not
    tie.

    NaN if one of the two ranks nothing because all of its accuracies are equal.

    >>> round(kendall_tau(np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.3, 0.2])), 4)
    0.3333
    """
    from scipy import stats  # half a second, which few need

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(stats.kendalltau(first, second).statistic)


def s_tau(accuracies: Float[np.ndarray, "instances models"]) -> Agreement:
    """S-Tau: agreement of instances with each other, over all pairs of them.

    Raises:
        ValueError: if there are fewer than two.
    """
    if len(accuracies) < 2:
        raise ValueError(f"S-Tau compares instances: there is {len(accuracies)}")
    taus = [kendall_tau(a, b) for a, b in itertools.combinations(accuracies, 2)]
    return Agreement(float(np.mean(taus)), float(np.max(taus)), float(np.min(taus)))


def gt_tau(
    accuracies: Float[np.ndarray, "instances models"], truth: Float[np.ndarray, " models"]
) -> Float[np.ndarray, " instances"]:
    """GT-Tau: agreement of each instance with the ground truth.

    Mean and deviation of it over rows that are the last k mini-batches of one instance are
    GT-Tau-Mean-k and GT-Tau-Std-k.
    """
    return np.array([kendall_tau(row, truth) for row in accuracies])


def best_of_top(accuracies: Accuracies, truth: Accuracies, n: int) -> int:
    """TnR: the best true rank among the n models that an instance ranks first.

    The best model of all has rank 1.

    Models with equal accuracies are ranked in their order.

    Raises:
        ValueError: if there are fewer than n models.

    >>> best_of_top(np.array([0.9, 0.8, 0.1]), np.array([0.5, 0.7, 0.6]), 1)
    3
    """
    if not 1 <= n <= len(truth):
        raise ValueError(f"n is {n}: there are {len(truth)} models")
    return int(ranks(truth)[np.argsort(-accuracies, kind="stable")[:n]].min())


def ranks(accuracies: Accuracies) -> Int[np.ndarray, " models"]:
    """The rank of each model, 1 for the best.

    Models with equal accuracies are ranked in their order.
    """
    out = np.empty(len(accuracies), np.int64)
    out[np.argsort(-accuracies, kind="stable")] = np.arange(1, len(accuracies) + 1)
    return out
