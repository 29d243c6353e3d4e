"""Agreement of rankings: Kendall's tau and what is made of it, against closed forms and against
counting pairs.
"""

import itertools

import numpy as np
import pytest

from jaxdarts.analysis import ranking
from jaxdarts.spaces.weight_sharing64 import NAMES, PUBLISHED_ACCURACIES


def counted(a, b):
    """Tau-b from its definition."""
    pairs = list(itertools.combinations(range(len(a)), 2))
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in pairs]
    untied = [sum(s[k] != 0 for s in signs) for k in (0, 1)]
    return sum(s * t for s, t in signs) / np.sqrt(untied[0] * untied[1])


def test_kendall_tau_counts_pairs():
    rng = np.random.default_rng(0)
    for levels in (3, 1000):  # with many ties, and with few
        for _ in range(20):
            a, b = rng.integers(0, levels, (2, 12)).astype(float)
            assert ranking.kendall_tau(a, b) == pytest.approx(counted(a, b), abs=1e-12)


def test_kendall_tau_of_one_swap_and_of_a_rotation():
    n, order = 9, np.arange(9.0)
    swapped = order.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    assert ranking.kendall_tau(order, order) == 1 and ranking.kendall_tau(order, -order) == -1
    assert ranking.kendall_tau(order, swapped) == pytest.approx(1 - 4 / (n * (n - 1)))
    # The first of n becomes the last: n - 1 discordant pairs of n (n - 1) / 2.
    assert ranking.kendall_tau(order, np.roll(order, 1)) == pytest.approx(1 - 4 / n)
    assert np.isnan(ranking.kendall_tau(order, np.ones(9)))


def test_s_tau_and_gt_tau():
    order = np.arange(5.0)
    swapped = order[[1, 0, 2, 3, 4]]  # tau 0.8 with order
    rows = np.array([order, swapped, order[::-1]])
    assert ranking.s_tau(rows) == pytest.approx(((0.8 - 1 - 0.8) / 3, 0.8, -1))
    np.testing.assert_allclose(ranking.gt_tau(rows, order), [1, 0.8, -1])
    with pytest.raises(ValueError, match="there is 1"):
        ranking.s_tau(rows[:1])


def test_best_of_top():
    truth = np.array([0.1, 0.5, 0.3, 0.4])  # ranks 4, 1, 3, 2
    np.testing.assert_array_equal(ranking.ranks(truth), [4, 1, 3, 2])
    scores = np.array([0.9, 0.2, 0.8, 0.8])
    assert [ranking.best_of_top(scores, truth, n) for n in (1, 2, 3, 4)] == [4, 3, 2, 1]
    with pytest.raises(ValueError, match="n is 5: there are 4 models"):
        ranking.best_of_top(scores, truth, 5)


def test_published_accuracies():
    """What the source says of them: range and order of the best."""
    values = np.array(PUBLISHED_ACCURACIES)
    assert len(values) == 64 and (values.min(), values.max()) == (0.70139, 0.85161)
    best = [NAMES[i] for i in np.argsort(-values)[:8]]
    assert (
        best == ["434", "433", "443", "444", "423", "424", "333", "432"]
        and NAMES[values.argmin()] == "111"
    )
