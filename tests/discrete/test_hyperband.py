"""BOHB. Oracles: Hyperband's published sizes, frequencies counted by hand, the definition of every
promotion.
"""

import collections

import jax
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts import Trial, discrete
from jaxdarts.discrete import Longer, schedule, search
from jaxdarts.discrete.hyperband import bohb, brackets, log_probabilities

NB201 = jd.spaces.nasbench201()
KEY = jax.random.key(3)
OPS = NB201.cells["cell"].ops[0]


def evaluate(genotype, epochs):
    """The better the more convolutions, with noise that shorter trainings have more of."""
    noise = sum(ord(c) * (i % 7) for i, c in enumerate(str(genotype))) % 100 / 100
    return Trial(genotype, str(genotype).count("conv") + noise / epochs, 0.0, float(epochs), epochs)


def picks_of(genotype):
    return [OPS.index(op) for op, _ in genotype.cell]


def test_published_brackets():
    """Li et al.'s sizes for a ratio of three, as HpBandSter rounds them."""
    assert brackets((1, 3, 9, 27)) == [
        (27, (1, 3, 9, 27)),
        (9, (3, 9, 27)),
        (6, (9, 27)),
        (4, (27,)),
    ]
    assert brackets((12,)) == [(1, (12,))]
    assert brackets((12, 200)) == [(17, (12, 200)), (2, (200,))]


def test_probabilities_are_smoothed_frequencies():
    probabilities = np.exp(log_probabilities(np.array([[0, 1], [0, 0], [2, 1]]), np.array([3, 2])))
    np.testing.assert_allclose(probabilities, [[3 / 6, 1 / 6, 2 / 6], [2 / 5, 3 / 5, 0]])


def test_halvings():
    history = search(bohb(KEY, NB201, (1, 3, 9)), evaluate, evaluations=26)
    lengths = [trial.epochs for trial in history]
    assert lengths == [1] * 9 + [3] * 3 + [9] + [3] * 3 + [9] + [9] * 3 + [1] * 6
    for start, stop in ((0, 9), (9, 12), (13, 16)):
        runners = history[start:stop]
        best_first = sorted(runners, key=lambda trial: -trial.value)
        kept = (stop - start) // 3
        assert [t.genotype for t in history[stop : stop + kept]] == [
            t.genotype for t in best_first[:kept]
        ]
    assert history == search(bohb(KEY, NB201, (1, 3, 9)), evaluate, evaluations=26)
    assert history != search(bohb(jax.random.key(4), NB201, (1, 3, 9)), evaluate, evaluations=26)


def test_the_model_takes_the_best_ratio():
    """With many draws every row has the operation of the largest ratio of frequencies."""
    history = search(
        bohb(KEY, NB201, (5,), random_fraction=0, candidates=100_000), evaluate, evaluations=16
    )
    for n in (14, 15):
        best_first = sorted(history[:n], key=lambda trial: -trial.value)
        good, bad = (
            np.array([picks_of(t.genotype) for t in part])
            for part in (best_first[:7], best_first[7:])
        )
        expected = []
        for row in range(6):
            ratio = [
                (1 + sum(good[:, row] == k))
                / (5 + len(good))
                * (5 + len(bad))
                / (1 + sum(bad[:, row] == k))
                for k in range(5)
            ]
            expected.append(max(ratio))
            assert ratio[picks_of(history[n].genotype)[row]] == pytest.approx(expected[-1])
    # The first fourteen are random, as with nothing but random ones.
    uniform = search(bohb(KEY, NB201, (5,), random_fraction=1), evaluate, evaluations=16)
    assert uniform[:14] == history[:14] and uniform[14:] != history[14:]


def test_it_learns_on_the_longest_trainings():
    values = [trial.value for trial in search(bohb(KEY, NB201, (5,)), evaluate, evaluations=80)]
    assert np.mean(values[-20:]) > np.mean(values[:14]) + 1
    # Long trainings that say the opposite are believed as soon as there are enough of them.
    proposals = bohb(KEY, NB201, (1, 2), random_fraction=0)
    trial, seen = None, []
    for _ in range(120):
        genotype, epochs = proposals.send(trial)
        convs = str(genotype).count("conv")
        trial = Trial(genotype, convs if epochs == 1 else -convs, 0.0, 1.0, epochs)
        seen.append(convs)
    assert np.mean(seen[-20:]) < 1 < np.mean(seen[:14])


def test_what_fails_is_bad():
    def half(genotype, epochs):
        return Trial(
            genotype, float("nan") if "none" in str(genotype) else 1.0, float("nan"), 1.0, epochs
        )

    history = search(bohb(KEY, NB201, (5,), random_fraction=0), half, evaluations=60)
    assert (
        sum(np.isnan(trial.value) for trial in history[:14])
        > 7
        > sum(np.isnan(trial.value) for trial in history[-20:])
    )


def test_many_at_a_time():
    """Nothing waits: the next bracket begins. Every trial counts in the bracket that asked for it,
    in whatever order.
    """
    steps = schedule(bohb(KEY, NB201, (1, 3)), evaluations=60, concurrent=4)
    flying, rng, lengths = {}, np.random.default_rng(0), collections.Counter()
    starts, history = discrete.advance(steps)
    while history is None:
        flying.update(starts)
        assert len(flying) == min(4, 60 - sum(lengths.values()))
        number = list(flying)[rng.integers(len(flying))]
        proposal = flying.pop(number)
        lengths[proposal.epochs] += 1
        starts, history = discrete.advance(steps, (number, evaluate(*proposal)))
    assert len(history) == 60
    # Rounds of three and one, then two: of whole rounds half of the trainings are short.
    assert abs(lengths[1] - 30) <= 4


def test_impossible():
    darts = jd.spaces.darts(2, ("none", "skip_connect", "sep_conv_3x3"))
    for space in (darts, jd.spaces.nasbench101(), jd.spaces.nasbench1shot1_s1()):
        with pytest.raises(ValueError, match="BOHB models one candidate a row"):
            bohb(KEY, space)
    for options, message in (
        ({"epochs": (3, 3)}, "epochs are 3 3: they must be positive, and rise"),
        ({"candidates": 0}, "candidates is 0: it must be at least 1"),
        ({"random_fraction": 1.1}, "random_fraction is 1.1: it must be between 0 and 1"),
        ({"good": float("nan")}, "good is nan"),
    ):
        with pytest.raises(ValueError, match=message):
            bohb(KEY, NB201, **options)
    proposals = bohb(KEY, NB201)
    assert isinstance(first := proposals.send(None), Longer)
    with pytest.raises(ValueError, match="a trial of None epochs, which was not asked for"):
        proposals.send(Trial(first.genotype, 1.0, 1.0, 1.0))
