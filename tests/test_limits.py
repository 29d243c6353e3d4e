"""The best cell under limits, against all cells of small spaces."""

import itertools

import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts import limits
from jaxdarts.count import network_cost
from jaxdarts.nn.costs import Costs
from jaxdarts.space import one_hot

SHAPE = (32, 32, 3)
SIZES = {"cell": (4, 1), "normal": (4, 3)}


def space_of(name):
    if name == "darts":
        return jd.spaces.darts(2, ("none", "skip_connect", "sep_conv_3x3"))
    return jd.spaces.nasbench201()


def mixes(space, seed):
    rng = np.random.default_rng(seed)
    return {name: rng.dirichlet(np.ones(c.shape[1]), c.shape[0]) for name, c in space.cells.items()}


def every_cell(space):
    """All ways to choose, [(score, genotype)], by brute force."""

    def of_cell(name, choices):
        entering = [[e] for e in range(len(choices.edges))]
        if choices.kept is not None:
            entering = choices.entering().values()
        ways = []
        for edges in entering:
            of_node = []
            for kept in itertools.combinations(edges, choices.kept or 1):
                ops = [np.flatnonzero(choices.derivable()[e]).tolist() for e in kept]
                of_node += [list(zip(kept, picks)) for picks in itertools.product(*ops)]
            ways.append(of_node)
        return [sum(way, []) for way in itertools.product(*ways)]

    names = list(space.cells)
    for way in itertools.product(*(of_cell(name, space.cells[name]) for name in names)):
        mix = {name: np.zeros(space.cells[name].shape) for name in names}
        for name, picks in zip(names, way):
            for pair in picks:
                mix[name][pair] = 1
        yield mix


@pytest.mark.parametrize("name", ["nasbench201", "darts"])
def test_it_is_the_best_of_all_cells_under_a_limit(name):
    """Limits of parameters, of multiply-adds too, and of a third cost that is nothing like them."""
    space, rng = space_of(name), np.random.default_rng(1)
    size = (*SIZES[next(iter(space.cells))], 10, SHAPE)
    mix = mixes(space, 0)
    random = {name: rng.integers(0, 1000, c.shape) for name, c in space.cells.items()}
    both = *space.costs(*size), Costs(500, random)
    scores, prices = [], []
    for way in every_cell(space):
        kept = {cell: np.log(mix[cell])[rows > 0].sum() for cell, rows in way.items()}
        scores.append(sum(kept.values()))
        prices.append([c.fixed + sum((c.operations[n] * way[n]).sum() for n in way) for c in both])
    scores, prices = np.array(scores), np.array(prices)
    low, high = prices.min(0), prices.max(0)
    for i in range(20):
        # Never exactly a cost, where rounding would decide.
        wanted = low + (high - low) * rng.uniform(0.02, 1, 3) + 0.5
        number = 1 + i % 3
        fits = np.all(prices[:, :number] <= wanted[:number], axis=1)
        if not fits.any():
            with pytest.raises(ValueError, match="no cell costs at most"):
                limits.under_limits(space.cells, mix, both[:number], wanted[:number])
            continue
        best = limits.under_limits(space.cells, mix, both[:number], wanted[:number])
        score = sum(np.log(mix[n])[np.asarray(best[n]) > 0].sum() for n in best)
        np.testing.assert_allclose(score, scores[fits].max(), rtol=1e-9)
        kept = one_hot(space.cells, space.discretize(best))
        cost = [c.fixed + sum((c.operations[n] * kept[n]).sum() for n in kept) for c in both]
        assert network_cost(space.discretize(best), *size) == tuple(cost[:2])
        assert all(c <= w for c, w in zip(cost[:number], wanted[:number]))
    assert limits.least(space.cells, both[0]) == low[0]


@pytest.mark.parametrize("name", ["darts", "s1", "nasbench201"])
def test_without_a_limit_that_binds_it_is_the_usual_cell(name):
    space = jd.spaces.BY_NAME[name]()
    size = (16, 8) if name != "nasbench201" else (16, 5)
    costs = space.costs(*size, 10, SHAPE)
    for seed in range(5):
        mix = mixes(space, seed)
        best = limits.under_limits(space.cells, mix, costs, [np.inf, np.inf])
        assert space.discretize(best) == space.discretize(mix)


def test_the_published_space_is_solved_for_both_limits_at_once():
    space, size = jd.spaces.darts(), (36, 20, 10, SHAPE)
    costs = space.costs(*size)
    for seed, limit in enumerate((2.2e6, 2.6e6, 3.0e6)):
        best = limits.under_limits(space.cells, mixes(space, seed), costs, [limit, 450e6])
        params, adds = network_cost(space.discretize(best), *size)
        assert params <= limit and adds <= 450e6


def test_what_has_no_cell_is_told_with_the_smallest():
    space = jd.spaces.darts()
    costs = space.costs(36, 20, 10, SHAPE)
    smallest = limits.least(space.cells, costs[0])
    with pytest.raises(ValueError, match=f"at most 1,000; the cheapest costs {smallest:,}"):
        limits.under_limits(space.cells, mixes(space, 0), costs[:1], [1000])


@pytest.mark.parametrize("limits_and_costs", [0, 1])
def test_costs_and_limits_must_be_as_many(limits_and_costs):
    space = space_of("nasbench201")
    costs = space.costs(16, 5, 10, SHAPE)[:limits_and_costs]
    with pytest.raises(ValueError, match=f"{limits_and_costs} costs and 0 limits"):
        limits.under_limits(space.cells, mixes(space, 0), costs, [])
