"""Dropout after skip connections (P-DARTS). Oracles: the definition, with masks that are drawn
apart, and PyTorch's dropout for the statistics.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts.nn.cell import cell
from jaxdarts.nn.ops import Norms, dropped
from jaxdarts.nn.primitives.norm import batch_norms

CELLS = jd.spaces.darts(2, ("skip_connect", "max_pool_3x3")).cells
KEY, RATE = jax.random.key(3), 0.4


def masks(key, choices, shape):
    """What the edges are multiplied by, in the order of the cell's keys: by source, then target."""
    order = sorted(range(len(choices.edges)), key=lambda e: (choices.edges[e][0], e))
    keys = jax.random.split(key, len(order))
    return {
        e: np.asarray(jax.random.bernoulli(k, 1 - RATE, shape)) / (1 - RATE)
        for e, k in zip(order, keys)
    }


def test_a_normal_cell_by_the_definition():
    choices = CELLS["normal"]
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2, 3, 4, 4, 2)).astype(np.float32)
    mix = np.zeros(choices.shape, np.float32)
    mix[:, 0] = rng.random(len(choices.edges))
    norms = Norms(*[lambda bundles, gains=None: batch_norms(bundles, gains)] * 2)
    arrays = {}, jnp.asarray(inputs), jnp.asarray(mix)
    out = cell(*arrays, choices, 1, norms, KEY, skip_dropout=RATE)
    of_edge, states = masks(KEY, choices, inputs.shape[1:]), list(inputs)
    for node in (2, 3):
        entering = [e for e, (_, target) in enumerate(choices.edges) if target == node]
        states.append(sum(mix[e, 0] * of_edge[e] * states[choices.edges[e][0]] for e in entering))
    np.testing.assert_allclose(out, np.concatenate(states[2:], axis=-1), atol=1e-5)


def test_entries_and_edges_fall_one_by_one():
    torch = pytest.importorskip("torch")
    x = jnp.ones((1, 16, 8, 8, 8))
    y = np.asarray(dropped(x, jax.random.split(KEY, 3)[None], jnp.full((1, 3), RATE)))[0]
    torch.manual_seed(0)
    expected = torch.nn.functional.dropout(torch.ones(y.shape), RATE).numpy()
    for value in (y, expected):
        np.testing.assert_allclose(np.unique(value), [0, 1 / (1 - RATE)], rtol=1e-6)
        np.testing.assert_allclose(value.mean(), 1, atol=0.02)
    assert (np.abs(np.corrcoef((y > 0).reshape(3, -1)) - np.eye(3)) < 0.04).all()
    untouched = dropped(x, jax.random.split(KEY, 3)[None], jnp.zeros((1, 3)))
    np.testing.assert_array_equal(untouched, jnp.broadcast_to(x[:, None], untouched.shape))


def test_a_supernet_draws_anew_by_key_and_leaves_reductions_alone():
    net = jd.spaces.darts(1, ("skip_connect",)).supernet(4, 6, 3)
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    mix = {name: jnp.ones(c.shape) for name, c in net.cells.items()}
    params = {"params": net.init(KEY, x, mix)["params"]}
    apply = jax.jit(net.apply)
    without = apply(params, x, mix)
    one, again, other = (
        apply(params, x, mix, key, skip_dropout=RATE) for key in (KEY, KEY, jax.random.key(4))
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3 < np.abs(one - without).max()
    np.testing.assert_allclose(apply(params, x, mix, KEY, skip_dropout=0.0), without, atol=1e-5)
    with pytest.raises(ValueError, match="^skip_dropout is given without a key"):
        net.apply(params, x, mix, skip_dropout=RATE)
    # A network of one cell, a reduction, whose edges all stride.
    small = jd.spaces.darts(1, ("skip_connect",)).supernet(4, 1, 3)
    params = {"params": small.init(KEY, x, mix)["params"]}
    apply = jax.jit(small.apply)
    np.testing.assert_allclose(
        apply(params, x, mix, KEY, skip_dropout=RATE), apply(params, x, mix), atol=1e-5
    )


def test_the_second_order_is_exact(x64):
    """One draw for the inner step and the weight step: the derivative by alpha of the whole step,
    at fixed draws, against central differences in float64.
    """
    # A reduction cell whose last edge does not stride; the others' skip connections have weights.
    space = jd.spaces.darts(2, ("skip_connect", "max_pool_3x3"))
    net = space.supernet(2, 1, 3, dtype=jnp.float64)
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 1), jnp.float64)
    batch = {"image": x, "label": jnp.array([0, 1, 2, 0]), "skip_dropout": jnp.float64(RATE)}
    arch = {name: 0.1 * jnp.ones(c.shape) for name, c in net.cells.items()}
    params = net.init(KEY, x, arch)["params"]
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    objective = jd.objectives.classification(net)

    def loss(params, arch):
        mix = {name: jax.nn.softmax(alpha) for name, alpha in arch.items()}
        return objective(params, mix, (), batch, KEY)[0]

    def after(arch):
        gradient = jax.grad(loss)(params, arch)
        return loss(jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient), arch)

    exact = jax.jit(
        lambda arch: jd.hypergrad.unrolled(
            loss,
            loss,
            params,
            arch,
            lambda g: jax.tree.map(lambda p, g: p - 0.05 * g, params, g),
        )
    )(arch)
    step, after = 1e-5, jax.jit(after)
    for name, row, column in (("reduce", 4, 0), ("reduce", 1, 0), ("reduce", 4, 1)):
        low, high = (
            after({**arch, name: arch[name].at[row, column].add(sign * step)}) for sign in (-1, 1)
        )
        np.testing.assert_allclose(
            exact[name][row, column], (high - low) / (2 * step), rtol=1e-4, atol=1e-9
        )
