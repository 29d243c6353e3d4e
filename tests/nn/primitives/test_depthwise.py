"""Depthwise convolution and its derivatives. Oracle: XLA's grouped convolution, one group and
kernel at a time, in float64.
"""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdarts.nn.primitives.depthwise import depthwise

GEOMETRIES = list(itertools.product((3, 5, 7), (1, 2), (1, 2)))


def reference(x, kernel, *, stride=1, dilation=1):
    size, channels = kernel.shape[2], x.shape[-1]
    padding = dilation * (size - 1) // 2

    def convolve(image, weights):
        return lax.conv_general_dilated(
            image,
            weights[:, :, None],
            (stride, stride),
            [(padding, padding)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=channels,
        )

    return jnp.stack(
        [
            jnp.stack([convolve(image, w) for w in weights])
            for image, weights in zip(x, kernel, strict=True)
        ]
    )


def arrays(g, k, batch, height, width, channels, size, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((g, batch, height, width, channels)).astype(dtype)
    return x, rng.standard_normal((g, k, size, size, channels)).astype(dtype)


def derivatives(conv, **geometry):
    """The value, both gradients, and their derivatives along a direction by forward and by reverse
    differentiation.
    """

    def everything(x, w, tangents):
        def loss(x, w):
            return jnp.sum(jnp.tanh(conv(x, w, **geometry)))

        def gradient(x, w):
            return jax.grad(loss, argnums=(0, 1))(x, w)

        def along(x, w):
            return sum(jnp.vdot(a, b) for a, b in zip(gradient(x, w), tangents, strict=True))

        gradients, forward = jax.jvp(gradient, (x, w), tangents)
        return conv(x, w, **geometry), gradients, forward, jax.grad(along, argnums=(0, 1))(x, w)

    # Not under jit: each convolution is one small program then, and most of them serve several
    # times.
    return everything


def assert_all_equal_reference(x, w, jit=False, **geometry):
    x, w = jnp.asarray(x), jnp.asarray(w)
    tangents = tuple(jnp.asarray(np.random.default_rng(1).standard_normal(a.shape)) for a in (x, w))
    actual = derivatives(depthwise, **geometry)
    actual = (jax.jit(actual) if jit else actual)(x, w, tangents)
    expected = derivatives(reference, **geometry)(x, w, tangents)
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    chex.assert_trees_all_close(actual, expected, rtol=1e-9, atol=1e-11)
    assert actual[0].dtype == np.float64


@pytest.mark.parametrize("size, stride, dilation", GEOMETRIES)
def test_value_and_derivatives(x64, size, stride, dilation):
    # An odd height and an even width; all axes that could be mixed up differ in length.
    x, w = arrays(1, 2, 3, 7, 8, 4, size)
    assert_all_equal_reference(x, w, stride=stride, dilation=dilation)


@pytest.mark.parametrize("g, k, batch", [(1, 1, 3), (1, 1, 4), (2, 1, 3), (3, 2, 1)])
@pytest.mark.parametrize("size", [3, 5])
def test_groups_and_kernels(x64, g, k, batch, size):
    assert_all_equal_reference(*arrays(g, k, batch, 6, 5, 2, size), stride=2)


@pytest.mark.parametrize("height, width", [(1, 1), (2, 3)])
def test_smaller_than_the_kernel(x64, height, width):
    assert_all_equal_reference(*arrays(1, 2, 1, height, width, 1, 5), stride=2, dilation=2)


def test_under_jit(x64):
    assert_all_equal_reference(*arrays(2, 2, 2, 5, 6, 2, 3), jit=True, stride=2)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (2, 1), (1, -1)])
def test_vmap(x64, axes):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 2, 5, 4, 3)), rng.standard_normal((2, 2, 3, 3, 3))
    x, w = (
        a if axis is None else np.stack([a, 2 * a, rng.standard_normal(a.shape)], axis)
        for a, axis in zip((x, w), axes, strict=True)
    )

    def gradients(x, w):
        return jax.value_and_grad(
            lambda x, w: jnp.sum(jnp.tanh(depthwise(x, w, stride=2))), argnums=(0, 1)
        )(x, w)

    actual = jax.jit(jax.vmap(gradients, in_axes=axes))(x, w)
    taken = [
        [a if axis is None else np.take(a, i, axis) for a, axis in zip((x, w), axes, strict=True)]
        for i in range(3)
    ]
    single = jax.jit(gradients)
    chex.assert_trees_all_close(
        actual,
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *[single(*t) for t in taken]),
        rtol=1e-10,
    )


def test_vmap_of_vmap(x64):
    x, w = arrays(1, 2, 2, 5, 4, 3, 3)
    xs, ws = np.stack([x, 2 * x]), np.stack([w, 3 * w, -w])
    actual = jax.vmap(jax.vmap(depthwise, (None, 0)), (0, None))(xs, ws)
    chex.assert_shape(actual, (2, 3, 1, 2, 2, 5, 4, 3))
    for i, j in itertools.product(range(2), range(3)):
        np.testing.assert_allclose(actual[i, j], reference(xs[i], ws[j]), rtol=1e-10)


def test_pmap(devices):
    x, w = arrays(2, 2, 4, 6, 6, 2, 3, np.float32)

    def gradient(x, w):
        gradient = jax.grad(lambda w: jnp.sum(jnp.tanh(depthwise(x, w))))(w)
        return lax.psum(gradient, "devices")

    parts = np.moveaxis(x.reshape(2, 4, 1, 6, 6, 2), 1, 0)
    gradients = jax.pmap(gradient, "devices", in_axes=(0, None), devices=devices)(parts, w)
    expected = jax.grad(lambda w: jnp.sum(jnp.tanh(reference(x, w))))(w)
    for one in gradients:
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-5)


def test_bfloat16():
    x, w = arrays(1, 2, 2, 6, 6, 2, 5, np.float32)
    low = jnp.asarray(x, jnp.bfloat16), jnp.asarray(w, jnp.bfloat16)
    y, vjp = jax.vjp(depthwise, *low)
    exact, exact_vjp = jax.vjp(reference, *(a.astype(jnp.float32) for a in low))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.03 * np.abs(exact).max())
    for actual, expected in zip(
        vjp(jnp.ones_like(y)), exact_vjp(jnp.ones_like(exact)), strict=True
    ):
        assert actual.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            actual.astype(jnp.float32), expected, atol=0.05 * np.abs(expected).max()
        )
