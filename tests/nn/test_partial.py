"""Partial channels (PC-DARTS). Oracle: a cell of mixed edges written with NumPy alone, loop by
loop.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxdarts as jd
from jaxdarts.nn.cell import cell, edges_of, weight_shapes
from jaxdarts.nn.ops import Norms
from jaxdarts.nn.primitives.norm import batch_norms
from jaxdarts.nn.primitives.pooling import max_pool_2x2
from jaxdarts.space import fully_connected

NORMS = Norms(batch_norms, batch_norms)
CHOICES = fully_connected(2, ("none", "max_pool_3x3", "dil_conv_3x3"))


def normalized(x):
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)


def window(x, size, stride, dilation, fill):
    """[size * size, batch, out_height, out_width, channels]"""
    pad, (height, width) = dilation * (size - 1) // 2, x.shape[1:3]
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    taps = [(i * dilation, j * dilation) for i in range(size) for j in range(size)]
    return np.stack([x[:, i : i + height : stride, j : j + width : stride] for i, j in taps])


def mixed_edge(x, amounts, edge_weight, depthwise, pointwise, stride, k):
    """edge_weight * shuffle([sum of amounts * op(first C/k channels), the others]); amounts sum to
    one.
    """
    selected = x.shape[-1] // k
    seen, rest = x[..., :selected], x[..., selected:]
    pooled = normalized(window(seen, 3, stride, 1, -np.inf).max(0))
    convolved = np.einsum(
        "tbhwc,tc->bhwc",
        window(np.maximum(seen, 0), 3, stride, 2, 0.0),
        depthwise.reshape(9, selected),
    )
    mixed = amounts[1] * pooled + amounts[2] * normalized(convolved @ pointwise)
    if stride == 2:
        rest = np.stack([rest[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]).max(0)
    both = np.concatenate([mixed, rest], -1)
    shuffled = np.empty_like(both)
    for g in range(k):
        for j in range(selected):
            shuffled[..., j * k + g] = both[..., g * selected + j]
    return edge_weight * shuffled


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_cell_against_numpy(k, stride, x64):
    rng = np.random.default_rng(0)
    channels = 8
    shapes = weight_shapes(CHOICES, channels // k, stride)
    weights = {
        op: {name: rng.standard_normal(shape) for name, shape in op_shapes.items()}
        for op, op_shapes in shapes.items()
    }
    inputs = rng.standard_normal((2, 3, 4, 4, channels))
    alpha, edge_weights = rng.standard_normal((5, 3)), rng.uniform(size=5)
    softmax = np.exp(alpha) / np.exp(alpha).sum(1, keepdims=True)
    states = [*inputs, 0.0, 0.0]
    for e, (source, target) in enumerate(CHOICES.edges):
        row = edges_of(CHOICES, "dil_conv_3x3").index(e)
        op_weights = (weights["dil_conv_3x3"][name][row] for name in ("depthwise0", "pointwise0"))
        states[target] += mixed_edge(
            states[source], softmax[e], edge_weights[e], *op_weights, stride if source < 2 else 1, k
        )
    mix = jnp.asarray(softmax * edge_weights[:, None])
    weights = jax.tree.map(jnp.asarray, weights)
    actual = cell(weights, jnp.asarray(inputs), mix, CHOICES, stride, NORMS, None, k)
    np.testing.assert_allclose(actual, np.concatenate(states[2:], -1), atol=1e-9)
    by_example = jnp.broadcast_to(mix[..., None], (5, 3, 3))
    np.testing.assert_allclose(
        cell(weights, jnp.asarray(inputs), by_example, CHOICES, stride, NORMS, None, k),
        actual,
        atol=1e-9,
    )


def test_edges_with_different_candidates(x64):
    """The two inputs are computed apart; an identity, and a pooling with `none` beside it."""
    choices = fully_connected(1, ())._replace(ops=(("skip_connect",), ("none", "max_pool_3x3")))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 2, 4, 4, 4)))
    mix = jnp.asarray([[0.5, 0.0], [0.25, 0.5]])
    y = cell({}, x, mix, choices, 1, NORMS, None, 2)
    pooled = normalized(window(np.asarray(x[1, ..., :2]), 3, 1, 1, -np.inf).max(0))
    both = np.concatenate(
        [0.5 * x[0, ..., :2] + 0.5 * pooled, 0.5 * x[0, ..., 2:] + 0.75 * x[1, ..., 2:]], -1
    )
    np.testing.assert_allclose(y, both[..., [0, 2, 1, 3]], atol=1e-9)


def test_supernet_size():
    """DARTS' supernet at 16 channels and 8 cells with a quarter of the channels: stem, head and
    preprocessing stay.
    """
    total, before, last = 27 * 48 + 2 * 48 + 256 * 10 + 10, 48, 48
    for c, reduction in ((16, 0), (16, 0), (32, 1), (32, 0), (32, 0), (64, 1), (64, 0), (64, 0)):
        q = c // 4
        total += (before + last) * c
        total += (
            14 * (2 * (9 * q + q * q) + 2 * (25 * q + q * q) + 9 * q + q * q + 25 * q + q * q)
            + reduction * 8 * q * q
        )
        before, last = last, 4 * c
    space = jd.spaces.darts()
    assert jd.count_params(space.supernet(16, 8, 10, partial=4), (32, 32, 3)) == total
    assert jd.count_params(space.supernet(16, 8, 10, partial=1), (32, 32, 3)) == 1_930_618


def test_supernet():
    space = jd.spaces.darts(1, ("none", "max_pool_3x3", "skip_connect"))
    net = space.supernet(4, 4, 3, partial=2)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    params = net.init(jax.random.key(0), x, net.example_mix())["params"]
    mix = {name: jnp.full(choices.shape, 1 / 3) for name, choices in space.cells.items()}

    def loss(mix):
        return jnp.sum(net.apply({"params": params}, x, mix, jax.random.key(0), 0.2) ** 2)

    # As programs compile it: without LLVM's optimisations, as the suite is compiled, jaxlib 0.10.2
    # gives NaN under plain jit; operation by operation it does not.
    options = jd.parallel.compiler_options(jax.default_backend())
    gradient = jax.jit(jax.grad(loss), compiler_options=options)(mix)
    chex.assert_tree_all_finite(gradient)
    assert gradient["reduce"].all()  # `none` too: it belongs to the weight of the edge


@pytest.mark.parametrize("partial", [3, 0, 8])
def test_partial_divides_the_width(partial):
    net = jd.spaces.darts(1).supernet(4, 3, 3, partial=partial)
    with pytest.raises(ValueError, match=f"^partial is {partial}: it must divide the width, 4"):
        net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), net.example_mix())


def test_pooling_of_windows_side_by_side(x64):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4, 6, 2)))
    expected = np.stack([x[..., i::2, j::2, :] for i in (0, 1) for j in (0, 1)]).max(0)
    np.testing.assert_array_equal(max_pool_2x2(x), expected)
    check_grads(lambda x: jnp.sum(jnp.sin(max_pool_2x2(jnp.asarray(x)))), (x,), order=2)


def test_odd_maps_are_refused():
    with pytest.raises(ValueError, match="5x4 state: height and width must be even"):
        max_pool_2x2(jnp.zeros((1, 5, 4, 2)))
