"""Discrete searches. Oracles: each algorithm's definition, checked on its history, and gradients
written by hand.
"""

import itertools

import jax
import numpy as np
import optax
import pytest

import jaxdarts as jd
from jaxdarts import Trial, discrete
from jaxdarts.analysis.flatness import shell
from jaxdarts.discrete import best, best_so_far, flattest, policy, search

NB201 = jd.spaces.nasbench201()
DARTS = jd.spaces.darts(2, ("none", "skip_connect", "sep_conv_3x3", "max_pool_3x3"))
KEY = jax.random.key(3)


def convs(genotype):
    """A score: the number of convolutions."""
    return float(str(genotype).count("conv"))


def evaluate(genotype):
    """A value that depends on operations and their places, and other seconds for every cell."""
    text = str(genotype)
    value = convs(genotype) + sum(ord(c) * (i % 7) for i, c in enumerate(text)) % 100 / 1000
    return Trial(genotype, value, value + 1, 1 + len(text) % 5)


ALGORITHMS = {
    "random": discrete.random_search,
    "rea": discrete.regularized_evolution,
    "area": lambda key, space: discrete.assisted_evolution(key, space, convs),
    "na_rs": discrete.neighbourhood_search,
    "reinforce": discrete.reinforce,
}
ROWS = [
    (name, space)
    for name in ALGORITHMS
    for space in ("nasbench201", "darts")
    if (name, space) != ("reinforce", "darts")
]
SPACES = {"nasbench201": NB201, "darts": DARTS}


def genotypes_of(history):
    return [trial.genotype for trial in history]


def distance(a, b):
    """How many pairs differ."""
    return sum(
        x != y
        for name in a._fields
        for x, y in zip(getattr(a, name), getattr(b, name), strict=True)
    )


@pytest.mark.parametrize("name, space", ROWS)
def test_what_every_algorithm_does(name, space):
    make, space = ALGORITHMS[name], SPACES[space]
    history = search(make(KEY, space), evaluate, evaluations=35)
    assert len(history) == 35
    assert history == search(make(KEY, space), evaluate, evaluations=35)  # determined by the key
    assert history != search(make(jax.random.key(4), space), evaluate, evaluations=35)
    for genotype in genotypes_of(history):
        jd.one_hot(space.cells, genotype)  # refuses what the space lacks
    timed = search(make(KEY, space), evaluate, seconds=60.0)
    total = sum(trial.seconds for trial in timed)
    assert timed == history[: len(timed)] and total <= 60 < total + history[len(timed)].seconds
    curve = best_so_far(history)
    assert [trial.value for trial in curve] == np.maximum.accumulate(
        [trial.value for trial in history]
    ).tolist()
    assert curve[-1] == best(history)


def test_budgets():
    def proposals():
        yield "a"
        yield "b"
        yield "c"

    def cheap(genotype):
        return Trial(genotype, 1.0, 1.0, 5.0)

    assert len(search(proposals(), cheap, evaluations=99)) == 3  # the proposals end
    assert len(search(proposals(), cheap, seconds=10.0)) == 2  # what takes all of the budget fits
    assert search(proposals(), cheap, seconds=4.0) == []
    assert len(search(proposals(), cheap, evaluations=1, seconds=99.0)) == 1
    for budget in (
        {},
        {"evaluations": 0},
        {"seconds": 0.0},
        {"seconds": -1.0},
        {"seconds": float("nan")},
    ):
        with pytest.raises(ValueError, match="must be positive, and finite"):
            search(proposals(), cheap, **budget)
    with pytest.raises(ValueError, match="not one trial fits"):
        best([])


def test_what_is_not_a_number_is_never_best():
    nan = float("nan")
    history = [Trial(i, value, nan, 1.0) for i, value in enumerate([nan, 2.0, nan, 3.0, 3.0])]
    assert best(history).genotype == 3
    assert [trial.genotype for trial in best_so_far(history)] == [0, 1, 1, 3, 3]


def test_random_search_is_the_sampler():
    history = search(discrete.random_search(KEY, NB201), evaluate, evaluations=200)
    assert genotypes_of(history) == discrete.samples(KEY, NB201, 200)
    assert len(set(genotypes_of(history))) > 190
    ops = [op for genotype in genotypes_of(history) for op, _ in genotype.cell]
    assert all(abs(ops.count(op) - 240) < 60 for op in set(ops)) and len(set(ops)) == 5


@pytest.mark.parametrize("space", SPACES)
def test_evolution_mutates_the_best_of_the_youngest(space):
    # So large a sample, with repetitions, holds all of the living.
    make = discrete.regularized_evolution(KEY, SPACES[space], population=4, sample_size=200)
    history = search(make, evaluate, evaluations=40)
    for n in range(4, 40):
        assert distance(history[n].genotype, best(history[n - 4 : n]).genotype) == 1
    assert best(history[4:]).value > best(history[:4]).value


def test_evolution_forgets_the_oldest():
    history = search(discrete.regularized_evolution(KEY, NB201, 1), evaluate, evaluations=30)
    assert [distance(a, b) for a, b in itertools.pairwise(genotypes_of(history))] == [1] * 29
    history = search(discrete.regularized_evolution(KEY, NB201, 5, 2), evaluate, evaluations=60)
    parents = [
        [i for i in range(n - 5, n) if distance(history[i].genotype, history[n].genotype) == 1]
        for n in range(5, 60)
    ]
    assert all(parents)
    # Tournaments of two are not always won by the best, and the worst one can win only against
    # itself.
    assert any(
        distance(history[n].genotype, best(history[n - 5 : n]).genotype) > 1 for n in range(5, 60)
    )


def test_assisted_evolution_starts_from_the_best_of_a_pool():
    history = search(
        discrete.assisted_evolution(KEY, NB201, convs, 30, 6), evaluate, evaluations=12
    )
    pool = discrete.samples(jax.random.split(KEY)[0], NB201, 30)
    scores = sorted(map(convs, pool), reverse=True)
    assert [convs(genotype) for genotype in genotypes_of(history)[:6]] == scores[:6]
    assert set(genotypes_of(history)[:6]) <= set(pool)
    with pytest.raises(ValueError, match="pool is 5: fewer than the population, which is 10"):
        discrete.assisted_evolution(KEY, NB201, convs, 5)


def test_best_of_asks_for_one_evaluation():
    history = search(discrete.best_of(KEY, NB201, convs, 50), evaluate, seconds=1e9)
    assert [convs(trial.genotype) for trial in history] == [
        max(map(convs, discrete.samples(KEY, NB201, 50)))
    ]
    [alone] = search(discrete.best_of(KEY, DARTS, convs, 1), evaluate, evaluations=9)
    assert alone.genotype == discrete.samples(KEY, DARTS, 1)[0]


def test_ranking():
    scores = {"a": 1.0, "b": float("nan"), "c": 3.0, "d": 3.0, "e": -float("inf")}
    assert discrete.ranked(scores, scores.__getitem__) == ["c", "d", "a", "b", "e"]


@pytest.mark.parametrize("space", SPACES)
def test_neighbourhoods_follow_their_centres(space):
    history = search(
        discrete.neighbourhood_search(KEY, SPACES[space], 5, 2), evaluate, evaluations=24
    )
    for n in range(0, 24, 6):
        centre, *around = genotypes_of(history)[n : n + 6]
        assert len(set(around)) == 5 and set(around) <= set(shell(SPACES[space].cells, centre, 2))
    assert len(set(genotypes_of(history)[::6])) == 4


def test_the_flattest_neighbourhood_wins():
    # Means 2, 4 and 3; minima 0, 1 and 3; the fourth group is not complete.
    values = [6.0, 0.0, 0.0, 1.0, 2.0, 9.0, 3.0, 3.0, 3.0, 99.0, 99.0]
    history = [Trial(i, value, value, 1.0) for i, value in enumerate(values)]
    assert flattest(history, 2).genotype == 3
    assert flattest(history, 2, np.min).genotype == 6
    assert flattest(history[:3], 2).genotype == 0
    with pytest.raises(ValueError, match="ends after 2 trials, before one neighbourhood of 3"):
        flattest(history[:2], 2)
    with pytest.raises(ValueError, match="neighbours is 25: .* has 24 at distance 1"):
        search(discrete.neighbourhood_search(KEY, NB201, 25), evaluate, evaluations=2)


def test_reinforce_descends_the_published_loss():
    """d/dlogits of -(reward - average) log p = -(reward - average) (one hot - p); the average
    starts without bias.
    """
    seen = []

    def update(gradient, state, params):
        seen.append((np.asarray(params["cell"], float), np.asarray(gradient["cell"], float)))
        return jax.tree.map(lambda g: -0.3 * g, gradient), state

    tx = optax.GradientTransformation(lambda params: (), update)
    history = search(policy._reinforce(KEY, NB201, tx, 0.9), evaluate, evaluations=7)[
        :-1
    ]  # it is not told of the last one
    rewards, average, weight = [trial.value for trial in history], 0.0, 0.0
    for (logits, gradient), trial, reward in zip(seen, history, rewards, strict=True):
        average, weight = 0.9 * average + 0.1 * reward, 0.9 * weight + 0.1
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        one_hot = np.asarray(jd.one_hot(NB201.cells, trial.genotype)["cell"])
        np.testing.assert_allclose(
            gradient, -(reward - average / weight) * (one_hot - p), atol=1e-5
        )
    np.testing.assert_allclose(seen[0][1], 0, atol=1e-6)  # the first reward is its own average
    assert np.abs(seen[0][0]).max() < 0.01


def test_reinforce_learns():
    history = search(discrete.reinforce(KEY, NB201, learning_rate=0.3), evaluate, evaluations=120)
    values = [trial.value for trial in history]
    assert np.mean(values[-20:]) > np.mean(values[:20]) + 1.5
    with pytest.raises(ValueError, match="keep some edges only"):
        discrete.reinforce(KEY, DARTS)


@pytest.mark.parametrize("name", ["population", "sample_size"])
def test_impossible_evolutions(name):
    with pytest.raises(ValueError, match=f"{name} is 0: it must be at least 1"):
        discrete.regularized_evolution(KEY, NB201, **{name: 0})
