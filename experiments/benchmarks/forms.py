"""Four ways to compute one stage of separable convolutions, all of them exact, for timing on a
device.

A stage is a depthwise and a pointwise convolution on every edge of a bundle. Each form has the
signature

    form(x, depthwise, pointwise, stride=1, dilation=1) -> [g, k, batch, out_height, out_width, out]

    x: [g, batch, height, width, channels], g states that each have edges of their own.
    depthwise: [g, k, size, size, channels], the kernels of the k edges of each state.
    pointwise: [g, k, channels, out].

Height and width stay the same at stride 1 (zero padding). Only `library` is what the networks run;
the others are plain JAX, and JAX derives their gradients.
"""

import functools
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxdarts.nn import ops

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def library(
    x: Array, depthwise: Array, pointwise: Array, stride: int = 1, dilation: int = 1
) -> Array:
    """What the networks run on this platform."""
    return ops.separable(x, depthwise, pointwise, stride, dilation)


def taps(x: Array, depthwise: Array, pointwise: Array, stride: int = 1, dilation: int = 1) -> Array:
    """A sum of shifted slices, one for each tap of the kernel; each weight gradient is a sum over
    one slice.
    """
    size, (height, width) = depthwise.shape[2], x.shape[2:4]
    padding = dilation * (size - 1) // 2
    padded = jnp.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding), (0, 0)))[:, None]

    def window(i: int, j: int) -> Array:
        rows = slice(dilation * i, dilation * i + height, stride)
        columns = slice(dilation * j, dilation * j + width, stride)
        return padded[:, :, :, rows, columns]

    kernels = depthwise[:, :, None]
    terms = [
        window(i, j) * kernels[:, :, :, i : i + 1, j : j + 1]
        for i in range(size)
        for j in range(size)
    ]
    return _pointwise(functools.reduce(jnp.add, terms), pointwise)


def grouped(
    x: Array, depthwise: Array, pointwise: Array, stride: int = 1, dilation: int = 1
) -> Array:
    """One grouped `lax.conv_general_dilated` with a group for every channel of every state."""
    g, k, size, _, channels = depthwise.shape
    kernel = jnp.transpose(depthwise, (2, 3, 0, 4, 1)).reshape(size, size, 1, g * channels * k)
    y = _convolved(_side_by_side(x), kernel, stride, dilation, groups=g * channels)
    y = jnp.transpose(y.reshape(*y.shape[:3], g, channels, k), (3, 5, 0, 1, 2, 4))
    return _pointwise(y, pointwise)


def folded(
    x: Array, depthwise: Array, pointwise: Array, stride: int = 1, dilation: int = 1
) -> Array:
    """One dense convolution with K[i, j, c, d] = depthwise[i, j, c] pointwise[c, d], for a state's
    edges side by side.
    """
    g, k, size, _, channels = depthwise.shape
    out = pointwise.shape[-1]
    kernel = depthwise[..., None] * pointwise[:, :, None, None]
    kernel = jnp.transpose(kernel, (2, 3, 4, 0, 1, 5)).reshape(size, size, channels, g * k * out)
    y = _convolved(_side_by_side(x), kernel, stride, dilation, groups=g)
    return jnp.transpose(y.reshape(*y.shape[:3], g, k, out), (3, 4, 0, 1, 2, 5))


def _side_by_side(x: Array) -> Array:
    """States joined along their channels: [batch, height, width, g * channels]."""
    return jnp.moveaxis(x, 0, 3).reshape(*x.shape[1:4], -1)


def _convolved(x: Array, kernel: Array, stride: int, dilation: int, groups: int) -> Array:
    padding = dilation * (kernel.shape[0] - 1) // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=DIMENSIONS,
        feature_group_count=groups,
    )


def _pointwise(y: Array, pointwise: Array) -> Array:
    return jnp.einsum("gkbhwc,gkcd->gkbhwd", y, pointwise)


FORMS: Mapping[str, Callable[..., Array]] = {
    "library": library,
    "taps": taps,
    "grouped": grouped,
    "folded": folded,
}
