"""Cells. Oracles: cells of the original supernet (tests/golden/cells.npz) with all gradients; a sum
of one-edge cells.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdarts import relax
from jaxdarts.nn.cell import cell, edges_of, stride_of, weight_shapes
from jaxdarts.nn.ops import Norms, halved, halved_weights
from jaxdarts.nn.primitives.norm import batch_norm, batch_norms
from jaxdarts.space import Choices, fully_connected
from jaxdarts.spaces import PRIMITIVES

NORMS = Norms(batch_norms, batch_norms)
DARTS = fully_connected(4, PRIMITIVES)


@functools.cache
def jitted_cell(stride):
    """Both normal cells have the same shapes once their inputs are preprocessed, so one compilation
    does for them.
    """

    @jax.jit
    def value_and_vjp(weights, x0, x1, alpha, cotangent):
        def apply(weights, x0, x1, alpha):
            return cell(weights, jnp.stack([x0, x1]), jax.nn.softmax(alpha), DARTS, stride, NORMS)

        y, vjp = jax.vjp(apply, weights, x0, x1, alpha)
        return y, vjp(cotangent)

    return value_and_vjp


@pytest.mark.parametrize("case", ["normal", "normal_after_reduce", "reduce"])
def test_golden(case, golden):
    arrays, stride = golden("cells"), 2 if case == "reduce" else 1

    def weights(kind):
        return {
            op: {
                name: np.stack(
                    [
                        arrays.weight(f"{case}/{kind}/_ops.{e}._ops.{PRIMITIVES.index(op)}.", name)
                        for e in rows
                    ]
                )
                for name, shape in shapes.items()
                for rows in [
                    [
                        e
                        for e in edges_of(DARTS, op)
                        if name != "reduce" or stride_of(DARTS, e, stride) == 2
                    ]
                ]
            }
            for op, shapes in weight_shapes(DARTS, 4, stride).items()
        }

    def preprocessing(kind):
        last = arrays.matrix(f"{case}/{kind}/preprocess1.op.1.weight")
        prefix = f"{case}/{kind}/preprocess0."
        if case == "normal_after_reduce":
            return arrays.matrix(f"{prefix}conv_1.weight", f"{prefix}conv_2.weight"), last
        return arrays.matrix(f"{prefix}op.1.weight"), last

    def preprocess(s0, s1, w0, w1):
        if case == "normal_after_reduce":
            s0, w0 = halved(s0), halved_weights(w0)
        return tuple(
            batch_norm(jnp.einsum("bhwc,cd->bhwd", jax.nn.relu(s), w))
            for s, w in ((s0, w0), (s1, w1))
        )

    s0, s1, alpha, cotangent = (
        jnp.asarray(arrays[f"{case}/{name}"]) for name in ("s0", "s1", "alpha", "cotangent")
    )
    inputs, back = jax.vjp(preprocess, s0, s1, *map(jnp.asarray, preprocessing("param")))
    y, (dweights, dx0, dx1, dalpha) = jitted_cell(stride)(
        weights("param"), *inputs, alpha, cotangent
    )
    actual = (y, dweights, dalpha, *back((dx0, dx1)))
    names = ("y", "dalpha", "ds0", "ds1")
    y, dalpha, ds0, ds1 = (arrays[f"{case}/{name}"] for name in names)
    expected = (y, weights("dparam"), dalpha, ds0, ds1, *preprocessing("dparam"))
    chex.assert_trees_all_equal_shapes(actual, expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=5e-5 * np.abs(b).max()),
        actual,
        expected,
    )


def random_weights(choices, channels, stride):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32),
        weight_shapes(choices, channels, stride),
        is_leaf=lambda x: isinstance(x, tuple),
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_edges_with_different_candidates(stride):
    """Node by node and edge by edge, each edge by a cell of its own, gives the same states."""
    edges = ((0, 2), (1, 2), (0, 3), (2, 3))
    ops = (
        ("none", "dil_conv_3x3"),
        ("max_pool_3x3", "skip_connect"),
        ("skip_connect", "dil_conv_3x3"),
        ("dil_conv_3x3", "skip_connect"),
    )
    choices = Choices(edges, ops, (3, 2))
    weights = random_weights(choices, 2, stride)
    rng = np.random.default_rng(1)
    s0, s1 = (jnp.asarray(rng.standard_normal((2, 4, 4, 2)), jnp.float32) for _ in range(2))
    mix = jnp.asarray(rng.uniform(size=choices.shape), jnp.float32)
    states = [s0, s1, 0.0, 0.0]
    for e, (source, target) in enumerate(edges):
        for k, op in enumerate(ops[e]):
            if op == "none":
                continue
            edge_stride = stride_of(choices, e, stride)
            rows = [
                row
                for row in edges_of(choices, op)
                if op != "skip_connect" or stride_of(choices, row, stride) == 2
            ]
            op_weights = {
                op: {
                    name: w[rows.index(e)][None]
                    for name, w in weights.get(op, {}).items()
                    if e in rows
                }
            }
            single = Choices(((0, 2),), ((op,),), (2,))
            x = states[source]
            states[target] += cell(
                op_weights, jnp.stack([x, x]), mix[e, k][None, None], single, edge_stride, NORMS
            )
    actual = cell(weights, jnp.stack([s0, s1]), mix, choices, stride, NORMS)
    np.testing.assert_allclose(actual, jnp.concatenate([states[3], states[2]], -1), atol=2e-5)


def test_none_adds_nothing():
    choices = fully_connected(1, ("none", "skip_connect"))
    x = jnp.ones((1, 2, 2, 1))
    inputs = jnp.stack([x, 2 * x])
    gradient = jax.grad(lambda mix: jnp.sum(cell({}, inputs, mix, choices, 1, NORMS)))(
        jnp.full((2, 2), 0.5)
    )
    np.testing.assert_allclose(gradient, [[0, 4], [0, 8]])


def test_every_edge_strides_only_from_the_inputs():
    assert [stride_of(DARTS, e, 2) for e in range(5)] == [2, 2, 2, 2, 1]
    assert {stride_of(DARTS, e, 1) for e in range(14)} == {1}
    shapes = weight_shapes(DARTS, 3, 2)
    assert shapes["skip_connect"] == {"reduce": (8, 3, 3)}
    assert shapes["sep_conv_5x5"]["depthwise1"] == (14, 5, 5, 3)
    assert "max_pool_3x3" not in shapes and "skip_connect" not in weight_shapes(DARTS, 3, 1)


@pytest.mark.parametrize("num_examples", [None, 3])
def test_a_drawn_edge_has_the_gradient_of_gdas_authors(num_examples):
    """Their forward pass: on every edge the drawn operation times its straight-through weight, plus
    the straight-through weights of the others as numbers; here `none` and the identity.
    """
    choices = fully_connected(2, ("none", "skip_connect"))
    inputs = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4, 4, 2)), jnp.float32)
    alpha = jnp.asarray(np.random.default_rng(1).standard_normal((5, 2)), jnp.float32)
    target = jnp.asarray(np.random.default_rng(2).standard_normal((3, 4, 4, 4)), jnp.float32)
    relaxation = relax.drawn({"normal": choices}, lambda step: 0.7)
    norms = Norms(batch_norms, batch_norms)

    def of_cell(alpha, key):
        mix = relaxation.apply({"normal": alpha}, key, 0)["normal"]
        if num_examples:
            mix = jnp.broadcast_to(mix[..., None], (*mix.shape, num_examples))
        return jnp.sum(jnp.sin(cell({}, inputs, mix, choices, 1, norms)) * target)

    def by_hand(alpha, key):
        noise = jax.random.gumbel(jax.random.split(key, 1)[0], alpha.shape)
        soft = jax.nn.softmax((jax.nn.log_softmax(alpha) + noise) / 0.7)
        index = np.argmax(np.asarray(jax.lax.stop_gradient(soft)), axis=1)
        weights = np.eye(2)[index] - jax.lax.stop_gradient(soft) + soft
        states = list(inputs)
        for edges in choices.entering().values():
            total = 0.0
            for e in edges:
                x = states[choices.edges[e][0]]
                for i, y in enumerate((jnp.zeros_like(x), x)):
                    total += weights[e, i] * y if i == index[e] else weights[e, i]
            states.append(total)
        return jnp.sum(jnp.sin(jnp.concatenate(states[2:], axis=-1)) * target)

    for key in jax.random.split(jax.random.key(0), 4):
        pairs = [jax.value_and_grad(f)(alpha, key) for f in (of_cell, by_hand)]
        for a, b in zip(*pairs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
