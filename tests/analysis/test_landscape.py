"""Landscapes. Oracles: a quadratic form's own formula; filters walked one by one in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts.analysis import landscape, variance

KEY = jax.random.key(0)


def test_a_quadratic(x64):
    """f(w + x d1 + y d2) = f(w) + g.(x d1 + y d2) + 1/2 (x d1 + y d2)^T A (x d1 + y d2)."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((6, 6))
    matrix, w = matrix + matrix.T, rng.standard_normal(6)
    d1, d2 = rng.standard_normal((2, 6))

    def function(tree):
        flat = jnp.concatenate([tree["a"].ravel(), tree["b"]])
        return 0.5 * flat @ matrix @ flat, jnp.sum(flat)

    def tree(flat):
        return {"a": jnp.asarray(flat[:4]).reshape(2, 2), "b": jnp.asarray(flat[4:])}

    points = landscape.grid(7, span=1.5)
    expected = [0.5 * p @ matrix @ p for p in (w + x * d1 + y * d2 for x, y in points)]
    for together in (1, 3, 49):
        quadratic, total = jax.jit(lambda point, together=together: landscape.values(
            function, point, [tree(d1), tree(d2)], points, together
        ))(tree(w))  # fmt: skip
        np.testing.assert_allclose(quadratic, expected, rtol=1e-12)
        np.testing.assert_allclose(
            total, [np.sum(w + x * d1 + y * d2) for x, y in points], rtol=1e-12, atol=1e-12
        )
    line = landscape.values(function, tree(w), [tree(d1)], landscape.grid(5, dimensions=1))[0]
    np.testing.assert_allclose(
        line,
        [0.5 * p @ matrix @ p for p in (w + x * d1 for x in (-1, -0.5, 0, 0.5, 1))],
        rtol=1e-12,
    )


def test_grid():
    grid = landscape.grid(3, span=2.0).reshape(3, 3, 2)
    np.testing.assert_array_equal(
        grid[1, 2], [2, 0]
    )  # row is the second direction, column the first
    np.testing.assert_array_equal(grid[2, 0], [-2, 2])


def filters(name, array):
    """The indices of every filter of a parameter, told by its name: all that makes one output
    channel of one layer.
    """
    if name in ("stem", "kernel", "head") or name.startswith("preprocess"):
        fixed = [array.ndim - 1]
    elif name.endswith(("scale", "shift", "bias")) or array.ndim < 2:
        return []
    else:  # an operation: [cells, edges, ..., out]
        fixed = [0, 1, array.ndim - 1]
    picked = itertools.product(*(range(array.shape[axis]) for axis in fixed))
    return [
        tuple(dict(zip(fixed, indices)).get(axis, slice(None)) for axis in range(array.ndim))
        for indices in picked
    ]


def random_params(net, *inputs):
    """Weights of a network's shapes, without the time that an initialisation takes."""
    shapes, rng = jax.eval_shape(net.init, KEY, *inputs)["params"], np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), shapes
    )


def networks():
    space = jd.spaces.darts(2, ("skip_connect", "sep_conv_3x3", "dil_conv_5x5"))
    supernet = space.supernet(2, 3, 3)
    x = jnp.zeros((1, 8, 8, 1))
    yield "supernet", random_params(supernet, x, supernet.example_mix())
    cell = (("sep_conv_3x3", 0), ("skip_connect", 1), ("conv_7x1_1x7", 0), ("sep_conv_5x5", 2))
    yield (
        "network",
        random_params(space.network(jd.Genotype(cell, (2, 3), cell, (2, 3)), 2, 3, 3), x),
    )
    topology = jd.genotypes.parse("|nor_conv_3x3~0|+|nor_conv_1x1~0|nor_conv_3x3~1|")
    yield "nasbench201", random_params(jd.spaces.of(topology).network(topology, 2, 1, 3), x)


def test_filters_are_as_long_as_the_weights():
    seen = set()
    for kind, params in networks():
        along = landscape.direction(params, jax.random.key(1))
        moved = 0
        leaves, other = (jax.tree_util.tree_leaves_with_path(tree) for tree in (params, along))
        for (path, weight), (_, direction) in zip(leaves, other, strict=True):
            name = path[-1].key
            weight, direction = np.asarray(weight), np.asarray(direction)
            selections = filters(name, weight)
            seen.add(name)
            if not selections:
                assert not direction.any(), (kind, name)
            for selection in selections:
                assert np.count_nonzero(direction[selection]) == direction[selection].size
                np.testing.assert_allclose(
                    np.linalg.norm(direction[selection]),
                    np.linalg.norm(weight[selection]),
                    rtol=1e-5,
                )
                moved += 1
            assert (
                not selections
                or sum(weight[selection].size for selection in selections) == weight.size
            )  # nothing is left out or twice
        assert moved > 10
    assert {
        "stem",
        "kernel",
        "head",
        "sep_conv_3x3_depthwise0",
        "sep_conv_5x5_pointwise1",
        "conv_7x1_1x7_row0",
    } <= seen
    assert {
        "nor_conv_3x3_kernel",
        "skip_connect_reduce",
        "preprocess0_0",
        "stem_scale",
        "head_bias",
    } <= seen


def test_filters_of_a_language_model():
    space = jd.spaces.darts_rnn(2)
    net = space.network(jd.genotypes.RecurrentGenotype((("tanh", 0), ("relu", 1)), (1, 2)), 3, 5)
    params = random_params(net, *net.example_inputs())
    along = landscape.direction(params, KEY)
    for name, axes in {"embedding": 1, "first": 0, "nodes": 1}.items():
        lengths = [np.linalg.norm(tree[name], axis=axes) for tree in (params, along)]
        np.testing.assert_allclose(*lengths, rtol=1e-5)
    assert not np.asarray(along["bias"]).any()


def test_a_zero_filter_stays_and_keys_matter():
    params = {"head": jnp.zeros((3, 2)).at[:, 1].set(2.0)}
    one, two = (landscape.direction(params, jax.random.key(i))["head"] for i in (0, 1))
    assert not np.asarray(one[:, 0]).any() and np.isfinite(one).all()
    assert not np.allclose(one, two)


def test_unit_directions():
    arch = {"normal": jnp.zeros((5, 4)), "reduce": jnp.ones((2, 3))}
    along = landscape.unit_direction(arch, KEY)
    for name in arch:
        np.testing.assert_allclose(np.linalg.norm(along[name], axis=-1), 1, rtol=1e-5)


# -------------------------------------------------------------------------------- gradient variance


def linear(seed=0, batches=5, size=4):
    rng = np.random.default_rng(seed)
    x, y, w = (
        rng.standard_normal((batches, size, 3)),
        rng.standard_normal((batches, size)),
        rng.standard_normal(3),
    )
    return x, y, w


def test_variance_of_a_linear_model(x64):
    """Least squares: g_b = X_b^T (X_b w - y_b) / n, by hand."""
    x, y, w = linear()
    by_hand = np.stack([xb.T @ (xb @ w - yb) / len(yb) for xb, yb in zip(x, y)])
    mean = by_hand.mean(0)

    def gradient(batch):
        return jax.grad(lambda w: 0.5 * jnp.mean((batch["x"] @ w["w"] - batch["y"]) ** 2))(
            {"w": jnp.asarray(w)}
        )

    result = jax.jit(lambda batches: variance.gradients(gradient, batches))(
        {"x": jnp.asarray(x), "y": jnp.asarray(y)}
    )
    np.testing.assert_allclose(
        result.variance, np.mean(np.sum((by_hand - mean) ** 2, -1)), rtol=1e-12
    )
    np.testing.assert_allclose(
        result.variance, np.mean(np.sum(by_hand**2, -1)) - mean @ mean, rtol=1e-12
    )
    np.testing.assert_allclose(result.squared_mean, mean @ mean, rtol=1e-12)


def test_small_variance_on_a_large_mean():
    """Single precision: the difference of the two squares would be all rounding."""
    batches = jnp.asarray([[1000.0, 1.0], [1000.01, 1.0], [999.99, 1.0]])
    result = variance.gradients(lambda batch: {"g": batch}, batches)
    expected = np.var(np.asarray(batches, np.float64), axis=0).sum()
    np.testing.assert_allclose(result.variance, expected, rtol=2e-3)


def test_variance_on_a_plane(x64):
    """Of a linear model the variance is a quadratic function of the place."""
    x, y, w = linear(1)
    d1, d2 = np.eye(3)[:2]
    batches = {"x": jnp.asarray(x), "y": jnp.asarray(y)}

    def measured(w):
        return variance.gradients(
            lambda b: jax.grad(lambda w: 0.5 * jnp.mean((b["x"] @ w - b["y"]) ** 2))(w), batches
        ).variance

    points = landscape.grid(3)
    values = landscape.values(measured, jnp.asarray(w), [jnp.asarray(d1), jnp.asarray(d2)], points)
    for point, value in zip(points, values, strict=True):
        at = w + point[0] * d1 + point[1] * d2
        each = np.stack([xb.T @ (xb @ at - yb) / len(yb) for xb, yb in zip(x, y)])
        np.testing.assert_allclose(value, np.sum(np.var(each, axis=0)), rtol=1e-10)


@pytest.mark.parametrize("num", [1, 2])
def test_equal_batches_have_no_variance(num):
    result = variance.gradients(lambda batch: batch, jnp.ones((num, 3)))
    assert float(result.variance) == 0 and float(result.squared_mean) == 3
