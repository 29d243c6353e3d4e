"""Penalties. Oracles: the formula by hand, and the cost of discrete networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts import penalty
from jaxdarts.space import Choices, fully_connected

SPACE = jd.spaces.darts()
COSTS = jd.operation_costs(SPACE.cells, 36, 20, 10, (32, 32, 3))


@pytest.mark.parametrize("name", ["DARTS_V1", "DARTS_V2", "PC_DARTS_cifar"])
def test_expected_cost_of_a_genotype_is_its_cost(name, x64):
    genotype = jd.genotypes.PUBLISHED[name]
    mix = jd.one_hot(SPACE.cells, genotype)
    for costs, exact in zip(COSTS, jd.network_cost(genotype, 36, 20, 10, (32, 32, 3)), strict=True):
        np.testing.assert_allclose(penalty.expected_cost(SPACE.cells, costs, mix), exact, rtol=1e-6)


def test_expected_cost_is_the_mean_over_drawn_cells():
    """At equal weights every node keeps two edges and operations uniformly: what `sample` draws."""
    mix = {name: jnp.full(choices.shape, 1 / 8) for name, choices in SPACE.cells.items()}
    drawn = [
        jd.network_cost(SPACE.sample(key), 36, 20, 10, (32, 32, 3))[0]
        for key in jax.random.split(jax.random.key(0), 300)
    ]
    expected = float(penalty.expected_cost(SPACE.cells, COSTS[0], mix))
    assert abs(expected - np.mean(drawn)) < 4 * np.std(drawn) / np.sqrt(300)


def test_price_above_the_target_only():
    mix = {name: jnp.full(choices.shape, 1 / 8) for name, choices in SPACE.cells.items()}
    expected = float(penalty.expected_cost(SPACE.cells, COSTS[0], mix))
    dear, about = penalty.cost(SPACE.cells, COSTS[0], expected / 1.5, weight=2.0)(mix)
    np.testing.assert_allclose([dear, about["expected_cost"]], [1.0, expected], rtol=1e-5)
    free = penalty.cost(SPACE.cells, COSTS[0], 2 * expected)
    assert float(free(mix)[0]) == 0
    assert all(
        float(jnp.abs(g).max()) == 0 for g in jax.tree.leaves(jax.grad(lambda m: free(m)[0])(mix))
    )
    with pytest.raises(ValueError, match="target is 0"):
        penalty.cost(SPACE.cells, COSTS[0], 0)


def test_zero_one_by_hand():
    cells = {
        "normal": Choices(
            fully_connected(1, ()).edges,
            (("skip_connect", "sep_conv_3x3"), ("skip_connect",)),
            (2,),
        )
    }
    value, _ = penalty.zero_one(cells, weight=3.0)({"normal": jnp.array([[0.5, 1.0], [0.0, 0.0]])})
    np.testing.assert_allclose(value, -3.0 * (0 + 0.25 + 0.25) / 3, rtol=1e-6)


def test_both_is_the_sum():
    mix = {name: jnp.full(choices.shape, 1 / 8) for name, choices in SPACE.cells.items()}
    parts = penalty.zero_one(SPACE.cells), penalty.cost(SPACE.cells, COSTS[0], 1e6)
    value, about = penalty.both(*parts)(mix)
    np.testing.assert_allclose(value, sum(part(mix)[0] for part in parts), rtol=1e-6)
    assert set(about) == {"expected_cost"}
