"""Derivation by validation accuracy. Oracle: scores made so that the answer is known."""

import itertools

import jax
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts import derive

OPS = ("none", "skip_connect", "sep_conv_3x3", "max_pool_3x3")
SPACE = jd.spaces.darts(3, OPS)
KEY, SEEDS = jax.random.key(0), 2
NB201 = jd.spaces.nasbench201()


def worth(seed):
    """What every operation on every edge adds to the accuracy; `none` would be best, were it
    allowed.
    """
    out = {
        name: np.random.default_rng([seed, i]).random(c.shape)
        for i, (name, c) in enumerate(sorted(SPACE.cells.items()))
    }
    for values in out.values():
        values[:, 0] = 2
    return out


def additive(mixes):
    return np.array(
        [
            sum(float(np.sum(mixes[name][seed] * worth(seed)[name])) for name in mixes)
            for seed in range(SEEDS)
        ]
    )


def best_cells():
    """With additive scores: each edge's most valuable operation, each node's two most valuable
    edges.
    """
    mixes = {name: np.stack([worth(seed)[name] for seed in range(SEEDS)]) for name in SPACE.cells}
    for values in mixes.values():
        values[..., 0] = 0
    return [
        SPACE.discretize({name: values[seed] for name, values in mixes.items()})
        for seed in range(SEEDS)
    ]


def as_sets(genotype):
    return [
        {(op, source, i // 2) for i, (op, source) in enumerate(getattr(genotype, name))}
        for name in ("normal", "reduce")
    ]


@pytest.mark.parametrize("method", [derive.by_perturbation, derive.by_validation])
def test_finds_the_best_cell_of_every_seed(method):
    mixes = {name: np.full((SEEDS, *choices.shape), 0.25) for name, choices in SPACE.cells.items()}
    tuned = []

    def tune(mixes, undecided):
        tuned.append({name: int(edges.sum()) for name, edges in undecided.items()})

    derived = method(SPACE.cells, mixes, additive, KEY, tune=tune)
    for seed, expected in enumerate(best_cells()):
        genotype = SPACE.discretize({name: values[seed] for name, values in derived.items()})
        assert as_sets(genotype) == as_sets(expected)
        one_hot = jd.one_hot(SPACE.cells, genotype)
        for name in one_hot:
            np.testing.assert_array_equal(derived[name][seed], one_hot[name])
    # Once for an edge of both cells, and for a node of both cells that has edges to lose; the last
    # decision is followed by nothing.
    assert [one["normal"] for one in tuned] == [8, 7, 6, 5, 4, 3, 2, 1, 0, 0]
    assert all(one["normal"] == one["reduce"] for one in tuned)
    assert derive.num_decisions(SPACE.cells) == 9 + 2 and derive.num_decisions(NB201.cells) == 6
    assert derive.num_decisions(jd.spaces.darts().cells) == 14 + 3  # 5 * 16 + 1 epochs in the code
    assert all(np.all(values == 0.25) for values in mixes.values())


def test_tuning_moves_what_is_not_decided():
    """The scores look at the mix that the tuning returns, in the rows that are still open."""
    mixes = {name: np.full((SEEDS, *c.shape), 0.25) for name, c in SPACE.cells.items()}
    seen = []

    def tune(mixes, undecided):
        seen.append(
            {name: (np.array(mixes[name]), edges.copy()) for name, edges in undecided.items()}
        )
        return {name: np.full_like(mix, 0.5 + len(seen)) for name, mix in mixes.items()}

    derived = derive.by_perturbation(SPACE.cells, mixes, additive, KEY, tune=tune)
    for i, state in enumerate(seen):
        for weights, open_edges in state.values():
            assert (weights[:, open_edges] == (0.5 + i if i else 0.25)).all()
            assert np.isin(weights[:, ~open_edges], (0, 1)).all()
    assert all(np.isin(weights, (0, 1)).all() for weights in derived.values())


def test_the_two_differ_where_operations_interact():
    """A removal asks what the others cannot replace: here b and c replace each other, a is worst
    alone and missed most.
    """
    cells = {"normal": jd.space.fully_connected(1, ("a", "b", "c"))}
    mixes = {"normal": np.full((1, 2, 3), 1 / 3)}

    def score(mixes):
        a, b, c = np.moveaxis(np.asarray(mixes["normal"][0]) > 0, -1, 0)
        return np.array([float(np.sum(3.0 * (a & (b | c)) + 2.0 * (b | c) + 1.0 * a))])

    by_removal = derive.by_perturbation(cells, mixes, score, KEY)["normal"][0]
    alone = derive.by_validation(cells, mixes, score, KEY)["normal"][0]
    assert by_removal.argmax(1).tolist() == [0, 0]
    assert alone.argmax(1).tolist() == [1, 1]


def test_best_of_samples():
    keys = jax.random.split(KEY, 30)
    derived = derive.by_samples(SPACE, additive, keys, SEEDS)
    for seed in range(SEEDS):
        scores = []
        for key in keys:
            mix = jd.one_hot(SPACE.cells, SPACE.sample(key))
            scores.append(sum(float(np.sum(mix[name] * worth(seed)[name])) for name in mix))
        score_of_derived = sum(
            float(np.sum(derived[name][seed] * worth(seed)[name])) for name in derived
        )
        np.testing.assert_allclose(score_of_derived, max(scores), rtol=1e-6)


def test_the_finalists_of_a_first_look():
    """Every seed has finalists of its own; brute force in NumPy, with ties in the first look."""
    keys = jax.random.split(KEY, 30)
    cells = [jd.one_hot(SPACE.cells, SPACE.sample(key)) for key in keys]
    looked = []

    def of(mixes, seed, decimals):
        value = sum(float(np.sum(mixes[name][seed] * worth(seed)[name])) for name in mixes)
        return round(value, decimals)

    def first_look(mixes):
        return -np.array([of(mixes, seed, 1) for seed in range(SEEDS)])  # a misleading one

    def score(mixes):
        looked.append(jax.tree.map(np.asarray, mixes))
        return np.array([of(mixes, seed, 9) for seed in range(SEEDS)])

    for finalists in (1, 4):
        looked.clear()
        derived = derive.by_samples(SPACE, score, keys, SEEDS, first_look, finalists)
        assert len(looked) == (0 if finalists == 1 else finalists)
        for seed in range(SEEDS):
            alone = [{name: np.asarray(mix[name])[None] for name in mix} for mix in cells]
            worths = [sum(float(np.sum(m[n][0] * worth(seed)[n])) for n in m) for m in alone]
            order = sorted(range(30), key=lambda i: (round(worths[i], 1), i))[:finalists]
            best = max(sorted(order), key=lambda i: round(worths[i], 9))
            for name in derived:
                np.testing.assert_array_equal(derived[name][seed], cells[best][name])


def published_edges(edges, score, kept):
    """The rule of DARTS+PT's authors: every edge is scored by a removal while all others are there,
    and the edge that is missed least leaves the list, of equals the last, until `kept` are left.
    """
    left = list(edges)
    while len(left) > kept:
        scores = [score(e) for e in left]
        least = max(i for i, value in enumerate(scores) if value == max(scores))
        left.pop(least)
    return set(left)


@pytest.mark.parametrize("seed", range(20))
def test_every_edge_is_scored_beside_all_others_of_its_node(seed):
    """Edges interact: their worth is a random function of which are there, with ties."""
    cells = {"normal": jd.space.fully_connected(3, ("skip_connect",))}
    table = np.random.default_rng(seed).integers(0, 6, 2**9)

    def score(mixes):
        bits = (np.asarray(mixes["normal"][0])[:, 0] > 0) @ 2 ** np.arange(9)
        return np.array([float(table[bits])])

    # One order of the nodes decides; the oracle goes through both and finds the one that was taken.
    row = derive.by_perturbation(cells, {"normal": np.ones((1, 9, 1))}, score, KEY)["normal"][0]
    nodes = [edges for edges in cells["normal"].entering().values() if len(edges) > 2]
    expected = []
    for order in (nodes, nodes[::-1]):
        there = np.ones((9, 1))
        for edges in order:

            def without(e, there=there):
                return score({"normal": (there * (np.arange(9) != e)[:, None])[None]})[0]

            kept = published_edges(edges, without, 2)
            there[[e for e in edges if e not in kept]] = 0
        expected.append(there.tolist())
    assert row.tolist() in expected


def test_shapley_values_of_an_additive_score_are_what_every_operation_adds():
    """In any order, so without a deviation; in units of the deviation of a cell's values they are
    the logarithms of the mix, up to a constant for each edge.
    """
    mixes = {name: np.full((SEEDS, *choices.shape), 0.25) for name, choices in SPACE.cells.items()}
    found = derive.by_shapley(SPACE.cells, mixes, additive, KEY, 3, threshold=0.0)
    for seed in range(SEEDS):
        for name, values in worth(seed).items():
            logits = values[:, 1:] / values[:, 1:].std()
            expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            np.testing.assert_allclose(found[name][seed][:, 1:], expected, rtol=1e-6)
            assert not found[name][seed][:, 0].any()  # none is never kept


def test_shapley_values_of_a_game_are_the_mean_over_all_orders():
    """Three operations on one edge and a score with interactions. Oracle: the six orders; one order
    of each kind among many has the mean and the deviation of the six.
    """
    cells = {"normal": jd.Choices(((0, 2),), (("a", "b", "c"),), (2,), kept=None)}

    def game(on):
        a, b, c = on
        return 1 + a + 2 * b * c + 0.5 * a * b - 0.25 * c

    contributions = []
    for order in itertools.permutations(range(3)):
        on, lost = np.ones(3), np.zeros(3)
        for i in order:
            before = game(on)
            on[i] = 0
            lost[i] = before - game(on)
        contributions.append(lost)
    values = np.mean(contributions, 0) - np.std(contributions, 0)
    logits = values / values.std()
    expected = np.exp(logits) / np.exp(logits).sum()
    found = derive.by_shapley(
        cells,
        {"normal": np.ones((1, 1, 3))},
        lambda mixes: np.array([game(mixes["normal"][0, 0])]),
        KEY,
        2000,
        threshold=0.0,
    )
    np.testing.assert_allclose(found["normal"][0, 0], expected, atol=0.02)


def test_an_order_ends_where_the_score_is_below_the_threshold():
    """Ten equal operations that add one each: six removals leave less than half of the score."""
    cells = {"normal": jd.Choices(((0, 2),), (tuple("abcdefghij"),), (2,), kept=None)}
    scored = []

    def score(mixes):
        scored.append(mixes["normal"].sum(axis=(1, 2)))
        return scored[-1]

    mixes = {"normal": np.ones((1, 1, 10))}
    found = derive.by_shapley(cells, mixes, score, KEY, 1)["normal"][0, 0]
    assert [int(value[0]) for value in scored] == [10, 9, 8, 7, 6, 5, 4]
    assert sorted(np.round(found / found.min(), 6))[3] == 1 < sorted(found / found.min())[4]
    scored.clear()
    derive.by_shapley(cells, mixes, lambda mixes: -score(mixes), KEY, 1)
    assert len(scored) == 11  # losses have no such end


def test_no_shapley_values_where_a_row_keeps_several():
    cells = jd.spaces.nasbench1shot1_s1().cells
    with pytest.raises(ValueError, match="keeps several candidates"):
        derive.by_shapley(cells, {}, additive, KEY)
