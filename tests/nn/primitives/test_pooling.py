"""Max pooling and its derivatives. Oracles: `lax.reduce_window`, and a selection matrix that NumPy
builds window by window.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdarts.nn.primitives.pooling import max_pool

SIZES = [(6, 6), (5, 8), (7, 3)]


def inputs(height, width, ties, batch=2, channels=3):
    rng = np.random.default_rng(height + width)
    x = (
        rng.standard_normal((batch, height, width, channels)) - 3
    )  # below zero: the border must not count as zero
    return np.round(x) if ties else x


def selection(x, stride):
    """Matrix of pooling, given which element of every window is the first largest."""
    batch, height, width, channels = x.shape
    flat = np.arange(x.size).reshape(x.shape)
    rows = []
    for b in range(batch):
        for i in range(0, height, stride):
            for j in range(0, width, stride):
                for c in range(channels):
                    window = np.s_[b, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2, c]
                    rows.append(
                        flat[window].ravel()[np.argmax(x[window])]
                    )  # argmax takes the first
    matrix = np.zeros((len(rows), x.size))
    matrix[np.arange(len(rows)), rows] = 1
    return matrix


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("height, width", SIZES)
def test_value(height, width, stride, ties):
    x = inputs(height, width, ties).astype(np.float32)
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    expected = lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, stride, stride, 1), padding
    )
    np.testing.assert_array_equal(max_pool(jnp.asarray(x), stride), expected)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("height, width", SIZES)
def test_derivatives(x64, height, width, stride, ties):
    x = inputs(height, width, ties)
    rng = np.random.default_rng(0)
    matrix = selection(x, stride)
    y = (matrix @ x.ravel()).reshape(max_pool(jnp.asarray(x), stride).shape)
    weight, tangent = rng.standard_normal(y.shape), rng.standard_normal(x.shape)

    def gradient(x):
        return jax.grad(lambda x: jnp.sum(weight * jnp.sin(max_pool(x, stride))))(x)

    @jax.jit
    def derivatives(x, tangent):
        first, forward = jax.jvp(gradient, (x,), (tangent,))
        return first, forward, jax.grad(lambda x: jnp.vdot(gradient(x), tangent))(x)

    first, forward, reverse = derivatives(x, tangent)
    spread = lambda values: (matrix.T @ values.ravel()).reshape(x.shape)  # noqa: E731
    second = spread(-weight * np.sin(y) * (matrix @ tangent.ravel()).reshape(y.shape))
    np.testing.assert_allclose(first, spread(weight * np.cos(y)), atol=1e-12)
    np.testing.assert_allclose(forward, second, atol=1e-12)
    np.testing.assert_allclose(reverse, second, atol=1e-12)


@pytest.mark.parametrize("axis", [0, 2])
def test_vmap(x64, axis):
    x = np.stack([inputs(5, 6, True), inputs(5, 6, False)], axis)
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(max_pool(x, 2))))
    actual = jax.vmap(gradient, in_axes=axis)(jnp.asarray(x))
    np.testing.assert_allclose(
        actual, np.stack([gradient(jnp.take(x, i, axis)) for i in range(2)]), atol=1e-13
    )


def test_pmap(devices):
    x = inputs(4, 4, True, batch=4).astype(np.float32)
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(max_pool(x, 1))))
    np.testing.assert_allclose(
        jax.pmap(gradient, devices=devices)(x[:, None])[:, 0], gradient(jnp.asarray(x)), atol=1e-6
    )


def test_bfloat16():
    x = jnp.asarray(inputs(4, 4, True), jnp.bfloat16)
    y, vjp = jax.vjp(lambda x: max_pool(x, 2), x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y.astype(np.float32), max_pool(x.astype(jnp.float32), 2))
    chex.assert_trees_all_equal_shapes_and_dtypes(vjp(y)[0], x)


def test_every_output_passes_on_one_gradient():
    x = jnp.zeros((1, 4, 4, 1))
    total = jax.grad(lambda x: jnp.sum(max_pool(x, 1)))(x)
    assert total.sum() == 16  # all equal: the tie rule alone decides, and nothing is counted twice
    assert total[0, 0, 0, 0] == 4 and total[0, 3, 3, 0] == 0
