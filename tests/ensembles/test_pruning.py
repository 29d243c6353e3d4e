"""Information measures against scikit-learn and closed forms, criteria against brute force and
cases made by hand, mixtures.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn import metrics

from jaxdarts import ensembles

CLASSES = 4


def some_votes(seed: int, members: int = 6, examples: int = 60):
    """Labels, and members that are right more often than not, each to a degree of its own."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, examples)
    wrong = rng.random((members, examples)) < np.linspace(0.1, 0.6, members)[:, None]
    return np.where(wrong, rng.integers(0, CLASSES, (members, examples)), labels[None]), labels


def uniform(members: int) -> np.ndarray:
    return np.full(members, 1 / members)


def tdac_by_sklearn(x, y, labels, balance):
    if np.array_equal(x, y):
        return 0.0
    information = metrics.mutual_info_score(x, y)
    union = metrics.mutual_info_score(x, x) + metrics.mutual_info_score(y, y) - information
    right = [
        metrics.normalized_mutual_info_score(labels, z, average_method="geometric") for z in (x, y)
    ]
    return balance * (1 - information / union) + (1 - balance) * sum(right) / 2


# -------------------------------------------------------------------------------------- information


@pytest.mark.parametrize("seed", range(5))
def test_information_is_scikit_learns(seed):
    (x, y, *_), _ = some_votes(seed)
    same = metrics.mutual_info_score(x, x)  # I(X; X) is H(X)
    np.testing.assert_allclose(ensembles.pruning.entropy(x, CLASSES), same, rtol=1e-12)
    np.testing.assert_allclose(
        ensembles.pruning.mutual_information(x, y, CLASSES),
        metrics.mutual_info_score(x, y),
        rtol=1e-10,
    )
    np.testing.assert_allclose(
        ensembles.pruning.joint_entropy(x, y, CLASSES),
        metrics.mutual_info_score(CLASSES * x + y, CLASSES * x + y),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        ensembles.pruning.normalized_information(x, y, CLASSES),
        metrics.normalized_mutual_info_score(x, y, average_method="geometric"),
        rtol=1e-10,
    )


def test_information_in_closed_form():
    fair, other = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    assert ensembles.pruning.entropy(fair, 2) == pytest.approx(math.log(2), abs=1e-15)
    assert ensembles.pruning.joint_entropy(fair, other, 2) == pytest.approx(
        2 * math.log(2), abs=1e-15
    )
    assert ensembles.pruning.mutual_information(fair, other, 2) == pytest.approx(0, abs=1e-15)
    assert ensembles.pruning.normalized_variation(fair, other, 2) == pytest.approx(1, abs=1e-15)
    assert ensembles.pruning.normalized_information(fair, 1 - fair, 2) == pytest.approx(
        1, abs=1e-15
    )  # names of classes do not matter
    assert ensembles.pruning.normalized_variation(fair, 1 - fair, 2) == pytest.approx(0, abs=1e-15)
    # p = 1/4: H = ln 4 - 3/4 ln 3
    assert ensembles.pruning.entropy(np.array([1, 0, 0, 0]), 2) == pytest.approx(
        math.log(4) - 0.75 * math.log(3), abs=1e-15
    )


def test_guards_against_zero_as_published():
    ones, zeros, fair = np.ones(4, int), np.zeros(4, int), np.array([0, 0, 1, 1])
    assert ensembles.pruning.entropy(ones, 2) == 0
    assert ensembles.pruning.normalized_information(ones, fair, 2) == 0
    assert ensembles.pruning.normalized_variation(ones, zeros, 2) == 1
    assert ensembles.pruning.tdac(ones, zeros, fair, 2, 0.5) == 0.5
    assert ensembles.pruning.tdac(ones, ones, fair, 2, 0.5) == 0  # the same


@pytest.mark.parametrize("balance", [0, 0.25, 0.5, 0.75, 1])
def test_scores_of_pairs_and_sets(balance):
    votes, labels = some_votes(7)
    votes[3] = votes[1]
    expected = np.array([[tdac_by_sklearn(x, y, labels, balance) for y in votes] for x in votes])
    np.testing.assert_allclose(
        ensembles.pruning.pair_scores(votes, labels, CLASSES, balance),
        expected,
        rtol=1e-10,
        atol=1e-12,
    )
    np.testing.assert_allclose(
        ensembles.pruning.tdas(votes, labels, CLASSES, balance), expected.sum() / 2, rtol=1e-10
    )


@pytest.mark.parametrize(
    "x, y, message",
    [
        ([0, 1], [0], "shapes"),
        ([], [], "same examples"),
        ([0, 2], [0, 1], "values from 0 to 2"),
        ([-1, 0], [0, 1], "from -1"),
    ],
)
def test_variables_that_are_none(x, y, message):
    with pytest.raises(ValueError, match=message):
        ensembles.pruning.joint(np.array(x, int), np.array(y, int), 2)


def test_diversity_by_hand():
    votes, labels = np.array([[0, 1, 2, 3], [0, 1, 0, 0], [1, 1, 2, 0]]), np.array([0, 1, 2, 0])
    assert ensembles.pruning.disagreement(votes) == pytest.approx((2 + 2 + 2) / 12)
    # Right: 1110, 1101, 0111
    assert ensembles.pruning.disagreement_with_label(votes, labels) == pytest.approx(
        (2 + 2 + 2) / 12
    )
    assert ensembles.pruning.disagreement_with_label(
        votes[:2], np.array([3, 3, 3, 3])
    ) == pytest.approx(1 / 4)
    two_to_one = math.log(3) - 2 / 3 * math.log(2)
    assert ensembles.pruning.vote_entropy(votes, CLASSES) == pytest.approx(3 * two_to_one / 4)
    alone = votes[:1]
    assert (
        ensembles.pruning.disagreement(alone)
        == ensembles.pruning.variation(alone, CLASSES)
        == ensembles.pruning.vote_entropy(alone, CLASSES)
        == 0
    )
    variations = [
        ensembles.pruning.normalized_variation(votes[i], votes[j], 4)
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    assert ensembles.pruning.variation(votes, CLASSES) == pytest.approx(sum(variations) / 3)


# ----------------------------------------------------------------------------------------- criteria


@pytest.mark.parametrize("seed, balance", [(0, 0.0), (1, 0.5), (2, 1.0)])
def test_greedy_against_brute_force(seed, balance):
    votes, labels = some_votes(seed, members=7)
    scores = ensembles.pruning.pair_scores(votes, labels, CLASSES, balance)
    for first in range(7):
        chosen = ensembles.pruning.greedy(scores, 4, first)
        for i in range(1, 4):  # every step is the best one, by the score of the whole set
            others = set(range(7)) - set(chosen[:i])
            worth = {
                p: ensembles.pruning.tdas(votes[[*chosen[:i], p]], labels, CLASSES, balance)
                for p in others
            }
            assert worth[chosen[i]] == pytest.approx(max(worth.values()), abs=1e-12)
        best = max(
            ensembles.pruning.tdas(votes[list(s)], labels, CLASSES, balance)
            for s in itertools.combinations(range(7), 4)
        )
        reached = ensembles.pruning.tdas(votes[chosen], labels, CLASSES, balance)
        assert (
            best / 2 <= reached <= best + 1e-12
        )  # greedy is within a factor of two where pair scores are a metric


def test_greedy_takes_no_more_than_there_are():
    assert sorted(ensembles.pruning.greedy(np.zeros((3, 3)), 5, 1)) == [0, 1, 2]
    assert ensembles.pruning.greedy(np.zeros((3, 3)), 2, 2) == [2, 0]  # the first of equals


def test_pie_is_greedy_from_any_member():
    votes, labels = some_votes(3)
    probabilities, ensembles_kept = np.eye(CLASSES)[votes], set()
    scores = ensembles.pruning.pair_scores(votes, labels, CLASSES, 0.5)
    for seed in range(30):
        ensembles_kept.add(
            ensembles.pruning.pie(0.5, 3)(jax.random.key(seed), probabilities, labels, uniform(6))
        )
    assert ensembles_kept == {
        tuple(sorted(ensembles.pruning.greedy(scores, 3, first))) for first in range(6)
    }
    assert (
        len(ensembles.pruning.pie()(jax.random.key(0), probabilities, labels, uniform(6))) == 5
    )  # one fewer


def test_distributed_pie_is_one_of_its_parts_or_their_union():
    votes, labels = some_votes(4, members=8)
    scores = ensembles.pruning.pair_scores(votes, labels, CLASSES, 0.5)
    best = max(scores[np.ix_(s, s)].sum() for s in map(list, itertools.combinations(range(8), 3)))
    for seed in range(10):
        kept = ensembles.pruning.pie_distributed(0.5, 2, 3)(
            jax.random.key(seed), np.eye(CLASSES)[votes], labels, uniform(8)
        )
        assert len(kept) == 3 and list(kept) == sorted(set(kept))
        # Each part's greedy set is within two of its part's best, and the result is the best of
        # three.
        assert scores[np.ix_(kept, kept)].sum() > best / 4
    # As many machines as members: every part is one member, and the union is all of them.
    alone = ensembles.pruning.pie_distributed(0.5, 8, 3)(
        jax.random.key(5), np.eye(CLASSES)[votes], labels, uniform(8)
    )
    assert alone in {
        tuple(sorted(ensembles.pruning.greedy(scores, 3, first))) for first in range(8)
    }
    assert ensembles.pruning.pie_distributed(0.5, 99, 3)(
        jax.random.key(5), np.eye(CLASSES)[votes], labels, uniform(8)
    )


@pytest.mark.parametrize("arguments", [(-0.1, 1), (1.5, 1), (float("nan"), 1), (0.5, 0)])
def test_settings_of_pie(arguments):
    with pytest.raises(ValueError, match="balance is"):
        ensembles.pruning.pie_distributed(*arguments)


def test_prs_removes_one_in_half_of_the_cases():
    votes, labels = some_votes(5, members=4)
    kept = [
        ensembles.pruning.prs()(jax.random.key(i), np.eye(CLASSES)[votes], labels, uniform(4))
        for i in range(200)
    ]
    unpruned = sum(len(one) == 4 for one in kept)
    assert {len(one) for one in kept} == {3, 4} and 70 < unpruned < 130  # four deviations
    assert len({one for one in kept if len(one) == 3}) == 4
    assert (
        len(ensembles.pruning.prs(2)(jax.random.key(0), np.eye(CLASSES)[votes], labels, uniform(4)))
        == 2
    )


def by_hand():
    """Six examples of class 1. Member 0 is right, 1 all but once, 2 is wrong on three and very
    sure, 3 is right but timid.
    """
    sure, wrong, timid = [0.3, 0.7], [1.0, 0.0], [0.45, 0.55]
    probabilities = np.array(
        [[sure] * 6, [sure] * 5 + [[0.6, 0.4]], [wrong] * 3 + [sure] * 3, [timid] * 6]
    )
    return probabilities, np.ones(6, int)


def test_both_readings_of_pap_by_hand():
    probabilities, labels = by_hand()
    # Sums of class 0 on the first three examples: 0.3 + 0.3 + 1 + 0.45 = 2.05 of 4, wrong. Without
    # 2: 1.05 of 3, right. Without 0, 1 or 3: more than a half still, wrong.
    assert ensembles.pruning.pap_as_published(
        jax.random.key(0), probabilities, labels, uniform(4)
    ) == (2,)
    # 2 goes first (error 1/2 -> 0). Then 1 or 3 may go, and 1 has errors of its own; then 0 or 3,
    # and 0 is the first.
    assert ensembles.pruning.pap(jax.random.key(0), probabilities, labels, uniform(4)) == (3,)


def test_published_pap_keeps_two_where_nothing_would_help():
    probabilities, labels = by_hand()
    right = probabilities[[0, 0, 1]]
    assert ensembles.pruning.pap_as_published(jax.random.key(0), right, labels, uniform(3)) == (
        1,
        2,
    )  # no difference: the last two


def test_pap_never_gets_worse_and_stops_where_any_removal_is_worse():
    for seed in range(10):
        votes, labels = some_votes(seed)
        rng = np.random.default_rng(seed)
        probabilities = rng.dirichlet(np.ones(CLASSES), votes.shape) + np.eye(CLASSES)[votes]
        weights = rng.random(len(votes))

        def error(members):
            total = sum(weights[j] * probabilities[j] for j in members)
            return np.mean(np.argmax(total, -1) != labels)

        kept = ensembles.pruning.pap(jax.random.key(0), probabilities, labels, weights)
        assert error(kept) <= error(range(6))
        assert len(kept) == 1 or all(error(set(kept) - {j}) > error(kept) for j in kept)


# ----------------------------------------------------------------------------------------- mixtures


def problem(members=4, examples=50):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, examples)
    logits = rng.standard_normal((members, examples, 3)) + 1.5 * np.eye(3)[labels][
        None
    ] * rng.random((members, 1, 1))
    return jnp.asarray(logits), jnp.asarray(labels)


def test_objective_from_its_definition():
    logits, labels = problem()
    weights, penalties = np.array([0.5, -0.2, 0.0, 1.0]), np.array([0.1, 0.2, 0.3, 0.0])
    total = np.einsum("m,mec->ec", weights, logits)
    p = np.exp(total) / np.exp(total).sum(1, keepdims=True)
    expected = -np.mean(np.log(p[np.arange(50), labels])) + 0.1 * 0.5 + 0.2 * 0.2
    values = ensembles.pruning.objective(
        jnp.asarray(weights), logits, labels, jnp.asarray(penalties)
    )
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    np.testing.assert_allclose(
        ensembles.pruning.mixture(logits, jnp.asarray(weights)), total, rtol=1e-5, atol=1e-6
    )


def test_learned_weights_are_the_minimum(x64):
    logits, labels = problem()
    logits = logits.astype(jnp.float64)
    logits = logits.at[3].set(logits[0] * 0.5 + 3)  # says what member 0 says, costs more
    for strength in (0.0, 0.05):
        penalties = jnp.array([1.0, 1.0, 1.0, 4.0]) * strength
        weights = ensembles.pruning.learned_weights(logits, labels, penalties, 5000)
        value = ensembles.pruning.objective(weights, logits, labels, penalties)
        # Split into positive and negative parts the problem is smooth, and another solver finds the
        # same value.
        split = minimize(
            lambda v: (
                float(
                    ensembles.pruning.objective(
                        jnp.asarray(v[:4] - v[4:]), logits, labels, penalties * 0
                    )
                )
                + float(np.tile(penalties, 2) @ v)
            ),
            np.full(8, 0.1),
            bounds=[(0, None)] * 8,
            tol=1e-12,
        )
        assert float(value) <= split.fun + 1e-9
        slope = jax.grad(lambda w: ensembles.pruning.objective(w, logits, labels, penalties * 0))(
            weights
        )
        # Optimality: the slope is -penalty * sign where a weight is not zero, and no larger than
        # the penalty where it is.
        on = np.asarray(weights) != 0
        np.testing.assert_allclose(
            np.asarray(slope)[on], -np.asarray(penalties * jnp.sign(weights))[on], atol=1e-7
        )
        assert np.all(np.abs(np.asarray(slope)) <= np.asarray(penalties) + 1e-7)
        if strength:
            assert weights[3] == 0


def test_weights_jitted_and_uniform():
    logits, labels = problem()
    penalties = jnp.full(4, 0.01)
    np.testing.assert_allclose(
        ensembles.pruning.uniform_weights(logits, labels, penalties), np.full(4, 0.25)
    )
    once = ensembles.pruning.learned_weights(logits, labels, penalties)
    np.testing.assert_allclose(
        jax.jit(ensembles.pruning.learned_weights)(logits, labels, penalties),
        once,
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_constant_informs_of_nothing():
    """H of a constant is 0, so I <= min(H, H) is too, whatever the frequencies round to."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        num_examples, num_classes = int(rng.integers(2, 400)), int(rng.integers(2, 12))
        y = rng.integers(0, num_classes, num_examples)
        constant = np.full(num_examples, rng.integers(num_classes))
        for pair in ((constant, y), (y, constant)):
            assert ensembles.pruning.normalized_information(*pair, num_classes) == 0
            assert ensembles.pruning.normalized_variation(*pair, num_classes) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(60))
def test_a_member_of_one_class_is_the_first_to_go(seed):
    """Three members are right on 80 to 90 % of the examples, one says the same of all."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, 360)
    votes = [np.full(360, 3)]
    for share in rng.uniform(0.8, 0.9, 3):
        votes.append(np.where(rng.random(360) < share, labels, rng.integers(0, 10, 360)))
    order = rng.permutation(4)
    probabilities = np.eye(10)[np.stack(votes)[order]]
    scores = ensembles.pruning.pair_scores(probabilities.argmax(-1), labels, 10, 0.0)
    # From any good member on, all three good ones come before the constant.
    for first in np.flatnonzero(order != 0):
        assert order[ensembles.pruning.greedy(scores, 4, int(first))[-1]] == 0


def test_published_pap_of_equal_gains_keeps_the_last():
    """The authors sort gains ascending, turn the order around and take two."""
    rng, labels = np.random.default_rng(0), np.arange(40) % 3
    without_gain = 0
    for seed in range(300):
        members = int(rng.integers(3, 7))
        probabilities = rng.dirichlet(0.3 * np.ones(3), (members, 40)) + np.eye(3)[labels]
        weights = np.full(members, 1 / members)

        def error(kept, p=probabilities, w=weights):
            return np.mean(np.tensordot(w[kept], p[kept], axes=1).argmax(-1) != labels)

        everyone = list(range(members))
        gains = [error(everyone) - error([i for i in everyone if i != j]) for j in everyone]
        if max(gains) > 0:
            expected = [j for j in everyone if gains[j] > 0]
        else:
            without_gain += 1
            pairs = sorted((gain, j) for j, gain in enumerate(gains))
            expected = sorted(j for _, j in pairs[::-1][:2])
        kept = ensembles.pruning.pap_as_published(
            jax.random.key(seed), probabilities, labels, weights
        )
        assert list(kept) == expected
    assert without_gain > 50


def test_pie_votes_by_weighted_probabilities():
    """A negative weight turns a member's vote to its least likely class, as in the authors' code;
    positive ones change nothing.
    """
    rng, labels = np.random.default_rng(1), np.arange(60) % 3
    p = rng.dirichlet(np.ones(3), (4, 60)) + 0.3 * np.eye(3)[labels]
    criterion = ensembles.pruning.pie(0.0, size=2)
    weights = np.array([0.1, 2.0, 0.5, 1.0])
    for seed in range(8):
        key = jax.random.key(seed)
        assert criterion(key, p, labels, weights) == criterion(key, p, labels, np.ones(4))
        turned = np.where(np.arange(4)[:, None, None] == 2, 1 - p, p)
        expected = criterion(key, turned, labels, np.ones(4))
        assert criterion(key, p, labels, np.array([1, 1, -1, 1.0])) == expected
