"""Dense convolution. Oracle: XLA's own, in every order of differentiation; on this platform and as
lowered for any other.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdarts.nn.primitives import convolution as module
from jaxdarts.nn.primitives.convolution import Geometry, convolution

CASES = [
    ((3, 3), (1, 1), (6, 5)),
    ((3, 3), (2, 2), (6, 5)),
    ((1, 1), (1, 1), (4, 4)),
    ((1, 1), (2, 2), (5, 4)),
    ((1, 7), (1, 2), (4, 8)),
]


def expected(x, w, strides):
    pads = [((n - 1) // 2, (n - 1) // 2) for n in w.shape[:2]]
    return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("size, strides, image", CASES)
def test_all_derivatives(size, strides, image, x64):
    x, w = draw(2, *image, 3), draw(*size, 3, 4, seed=1)
    dx, dw = draw(*x.shape, seed=2), draw(*w.shape, seed=3)

    def derivatives(conv):
        def loss(x, w):
            return jnp.sum(jnp.tanh(conv(x, w, strides)))

        def slope(x, w):
            return sum(jnp.vdot(g, d) for g, d in zip(jax.grad(loss, (0, 1))(x, w), (dx, dw)))

        value = conv(x, w, strides)
        first, second = jax.grad(loss, (0, 1))(x, w), jax.grad(slope, (0, 1))(x, w)
        forward = jax.jvp(jax.grad(loss, (0, 1)), (x, w), (dx, dw))
        return value, first, second, forward

    actual, reference_leaves = (
        jax.tree.leaves(jax.jit(lambda conv=conv: derivatives(conv))())
        for conv in (convolution, expected)
    )
    for a, b in zip(actual, reference_leaves, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("size, strides, image", CASES)
def test_what_a_cpu_runs_is_what_other_platforms_run(size, strides, image):
    x, w = draw(2, *image, 3), draw(*size, 3, 4, seed=1)
    geometry = Geometry(image, size, strides)
    y = draw(2, *geometry.output, 4, seed=2)
    for missing, pair in {"y": (x, w), "w": (x, y), "x": (w, y)}.items():
        here, there = (
            table[missing](*pair, geometry) for table in (module._ON_CPU, module._DIRECT)
        )
        np.testing.assert_allclose(here, there, atol=1e-4)


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 1)])
def test_vmap(axes):
    x, w = (
        jnp.stack([draw(*shape, seed=i) for i in range(3)])
        for shape in ((2, 4, 4, 3), (3, 3, 3, 4))
    )
    x, w = (a[0] if axis is None else jnp.moveaxis(a, 0, axis) for a, axis in zip((x, w), axes))
    actual, reference = (
        jax.vmap(lambda x, w, conv=conv: conv(x, w, (1, 1)), axes)(x, w)
        for conv in (convolution, expected)
    )
    np.testing.assert_allclose(actual, reference, atol=1e-4)


def test_bfloat16():
    x, w = (a.astype(jnp.bfloat16) for a in (draw(2, 4, 4, 3), draw(3, 3, 3, 4, seed=1)))
    gradients = jax.grad(lambda x, w: jnp.sum(convolution(x, w)), (0, 1))(x, w)
    assert {leaf.dtype for leaf in (convolution(x, w), *gradients)} == {jnp.dtype(jnp.bfloat16)}
