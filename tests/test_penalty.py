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
    dear, about = penalty.cost(SPACE.cells, COSTS[0], expected / 1.5, weight=2.0)({}, mix, 0)
    np.testing.assert_allclose([dear, about["expected_cost"]], [1.0, expected], rtol=1e-5)
    free = penalty.cost(SPACE.cells, COSTS[0], 2 * expected)
    assert float(free({}, mix, 0)[0]) == 0
    slope = jax.grad(lambda m: free({}, m, 0)[0])(mix)
    assert all(float(jnp.abs(g).max()) == 0 for g in jax.tree.leaves(slope))
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
    mix = {"normal": jnp.array([[0.5, 1.0], [0.0, 0.0]])}
    value, _ = penalty.zero_one(cells, weight=3.0)({}, mix, 0)
    np.testing.assert_allclose(value, -3.0 * (0 + 0.25 + 0.25) / 3, rtol=1e-6)


def test_beta_decay_takes_the_softmax_from_every_parameter():
    """In float64 by NumPy; on an edge with fewer candidates the end of the row counts nothing."""
    first = Choices(((0, 2), (1, 2)), (("a", "b", "c"), ("a", "b")), (2,))
    cells = {"normal": first, "reduce": fully_connected(2, ("a", "b"))}
    rng = np.random.default_rng(0)
    arch = {name: rng.standard_normal(choices.shape) for name, choices in cells.items()}
    price = penalty.beta_decay(cells, lambda step: 0.5 * step)
    value, gradient = jax.value_and_grad(lambda a: price(a, {}, 3)[0])(
        jax.tree.map(jnp.float32, arch)
    )
    exponentials = {n: np.where(cells[n].where(), np.exp(a), 0) for n, a in arch.items()}
    sums = {n: e.sum(1, keepdims=True) for n, e in exponentials.items()}
    mean = np.log(np.concatenate(list(sums.values()))).mean()
    np.testing.assert_allclose(value, 1.5 * mean, rtol=1e-6)
    for n, e in exponentials.items():
        np.testing.assert_allclose(gradient[n], 1.5 / 7 * e / sums[n], rtol=1e-5)
    with_edges = {n: {"ops": a, "edges": jnp.zeros(len(a))} for n, a in arch.items()}
    np.testing.assert_allclose(price(with_edges, {}, 3)[0], value, rtol=1e-6)


def test_entropy_of_operations_and_of_edges_by_numpy():
    """In float64: of the first node all edges are kept, so only the second one's are undecided."""
    cells = {"normal": fully_connected(2, ("a", "b", "c"))}
    rng = np.random.default_rng(0)
    ops = rng.dirichlet(np.ones(3), 5)
    edges = np.concatenate([rng.dirichlet(np.ones(2)), rng.dirichlet(np.ones(3))])
    mix = ops * edges[:, None]

    def of(p):
        return -np.sum(p * np.log(p))

    rows = sum(map(of, ops))
    price = penalty.entropy(cells, lambda step: 0.1 * step, lambda step: 0.4)
    value, about = price({}, {"normal": jnp.float32(mix)}, 3)
    np.testing.assert_allclose(value, 0.3 * rows + 0.4 * of(edges[2:]), rtol=1e-6)
    np.testing.assert_allclose(about["mix_entropy"], rows + of(edges[2:]), rtol=1e-6)
    decided = {"normal": jnp.eye(3)[jnp.array([0, 1, 2, 0, 1])] * jnp.array([[1.0, 1, 1, 0, 0]]).T}
    value, slope = jax.value_and_grad(lambda m: price({}, m, 3)[0])(decided)
    assert value == 0 and np.all(np.isfinite(slope["normal"]))


def test_both_is_the_sum():
    mix = {name: jnp.full(choices.shape, 1 / 8) for name, choices in SPACE.cells.items()}
    parts = penalty.zero_one(SPACE.cells), penalty.cost(SPACE.cells, COSTS[0], 1e6)
    value, about = penalty.both(*parts)({}, mix, 0)
    np.testing.assert_allclose(value, sum(part({}, mix, 0)[0] for part in parts), rtol=1e-6)
    assert set(about) == {"expected_cost"}


def test_log_cost_is_snas_own():
    """Its gradient is the weight times that of the expected cost over the expected cost; in float64
    by NumPy: every node keeps two edges, drawn like their operations in proportion to the mix.
    """
    rng = np.random.default_rng(0)
    mix = {name: rng.dirichlet(np.ones(8), 14) for name in SPACE.cells}
    price = penalty.log_cost(SPACE.cells, COSTS[0])

    def by_numpy(mix):
        total = COSTS[0].fixed
        for name, choices in SPACE.cells.items():
            for node in range(2, 6):
                rows = [e for e, (_, target) in enumerate(choices.edges) if target == node]
                weights = mix[name][rows, 1:]  # the first is `none`
                total += 2 * (weights * COSTS[0].operations[name][rows, 1:]).sum() / weights.sum()
        return total

    value, about = price({}, mix, 0)
    np.testing.assert_allclose(about["expected_cost"], by_numpy(mix), rtol=1e-6)
    np.testing.assert_allclose(value, 1.5e-3 * np.log(by_numpy(mix)), rtol=1e-6)
    gradient = jax.grad(lambda m: price({}, m, 0)[0])(jax.tree.map(jnp.float32, mix))
    for name, edge, op in (("normal", 0, 4), ("normal", 9, 0), ("reduce", 13, 3)):
        ends = []
        for sign in (1, -1):
            moved = {n: m.copy() for n, m in mix.items()}
            moved[name][edge, op] += sign * 1e-6
            ends.append(1.5e-3 * np.log(by_numpy(moved)))
        slope = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(gradient[name][edge, op], slope, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("make", [penalty.cost, penalty.log_cost])
@pytest.mark.parametrize("cells", ["none everywhere", "nothing at all", "next to nothing"])
def test_a_price_is_finite_where_nothing_that_is_kept_has_weight(make, cells):
    """A cold or drawn mix may be all `none`: what may be kept counts alike then."""
    first = np.arange(8) == 0
    row = {"none everywhere": first, "nothing at all": 0 * first, "next to nothing": 1e-38 + first}
    mix = {name: jnp.asarray(np.tile(row[cells], (14, 1)), jnp.float32) for name in SPACE.cells}
    options = {"target": 1e6} if make is penalty.cost else {}
    price = make(SPACE.cells, COSTS[0], **options)
    alike = {name: jnp.where(jnp.arange(8) == 0, 0.0, jnp.ones((14, 8))) for name in SPACE.cells}
    np.testing.assert_allclose(price({}, mix, 0)[0], price({}, alike, 0)[0], rtol=1e-5)
    for leaf in jax.tree.leaves(jax.grad(lambda m: price({}, m, 0)[0])(mix)):
        assert np.all(np.isfinite(leaf))
