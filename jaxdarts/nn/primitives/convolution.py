"""Dense convolution as one trilinear form, closed under every order of differentiation.

`depthwise` is built alike.

A convolution, its input gradient and its weight gradient each leave one argument out of

    T(x, w, y) = sum of x[b, s h + i - p, s v + j - p, c] w[i, j, c, d] y[b, h, v, d]

and are XLA's own convolutions, but for the gradients on a CPU: inside a loop, such as a scan over
cells, XLA does not hand those to the library that convolves, and they take 30 to 100 times as long
as outside. There the input gradient is written as the forward convolution that it is, and the
weight gradient as a matrix product for every tap.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxdarts.nn.primitives import trilinear
from jaxdarts.nn.primitives.depthwise import mapped_first


class Geometry(NamedTuple):
    """Static shape of one convolution: input size, kernel sizes, strides; same padding."""

    image: tuple[int, int]
    size: tuple[int, int]
    strides: tuple[int, int]

    @property
    def padding(self) -> list[tuple[int, int]]:
        return [((n - 1) // 2, (n - 1) // 2) for n in self.size]

    @property
    def output(self) -> tuple[int, int]:
        height, width = (
            (n + 2 * p - k) // s + 1
            for n, (p, _), k, s in zip(self.image, self.padding, self.size, self.strides)
        )
        return height, width


def convolution(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "rows columns channels out"],
    strides: tuple[int, int] = (1, 1),
) -> Float[Array, "batch out_height out_width out"]:
    """Convolves with zero padding that keeps height and width at stride 1.

    It is PyTorch's `Conv2d(padding=(size - 1) // 2)`.
    """
    geometry = Geometry((x.shape[1], x.shape[2]), (kernel.shape[0], kernel.shape[1]), strides)
    return _form.bind(x, kernel, missing="y", geometry=geometry)


def _missing_y(x: Array, w: Array, geo: Geometry) -> Array:
    return lax.conv_general_dilated(
        x, w, geo.strides, geo.padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _missing_x(w: Array, y: Array, geo: Geometry) -> Array:
    x = jax.ShapeDtypeStruct((y.shape[0], *geo.image, w.shape[2]), y.dtype)
    return jax.linear_transpose(lambda x: _missing_y(x, w, geo), x)(y)[0]


def _missing_w(x: Array, y: Array, geo: Geometry) -> Array:
    w = jax.ShapeDtypeStruct((*geo.size, x.shape[-1], y.shape[-1]), y.dtype)
    return jax.linear_transpose(lambda w: _missing_y(x, w, geo), w)(y)[0]


def _missing_w_on_cpu(x: Array, y: Array, geo: Geometry) -> Array:
    """The weight gradient as a matrix product for every tap, over all pixels of all images."""
    (height, width), (s, t) = geo.output, geo.strides
    # Without the barriers XLA computes what made x and y again for every tap.
    padded, y = lax.optimization_barrier((jnp.pad(x, ((0, 0), *geo.padding, (0, 0))), y))
    taps = [
        jnp.einsum(
            "bhwc,bhwd->cd",
            padded[:, i : i + s * (height - 1) + 1 : s, j : j + t * (width - 1) + 1 : t],
            y,
        )
        for i in range(geo.size[0])
        for j in range(geo.size[1])
    ]
    return jnp.stack(taps).reshape(*geo.size, *taps[0].shape)


def _missing_x_on_cpu(w: Array, y: Array, geo: Geometry) -> Array:
    """Derivative by the image on a CPU: a convolution of stride 1 of y with the flipped kernel.

    Zeros are in the gaps of its stride, and the kernel's channels are swapped.
    """
    gaps = [
        (k - 1 - p, p + n - s * (m - 1) - 1, s - 1)
        for n, m, k, (p, _), s in zip(geo.image, geo.output, geo.size, geo.padding, geo.strides)
    ]
    spread = lax.pad(y, np.zeros((), y.dtype), [(0, 0, 0), *gaps, (0, 0, 0)])
    # Behind the barrier both lie in memory as the library that convolves wants them.
    spread, flipped = lax.optimization_barrier((spread, jnp.swapaxes(w[::-1, ::-1], 2, 3)))
    return lax.conv_general_dilated(
        spread, flipped, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


_DIRECT = {"y": _missing_y, "w": _missing_w, "x": _missing_x}
_ON_CPU = {"y": _missing_y, "w": _missing_w_on_cpu, "x": _missing_x_on_cpu}


# Jitted, so that each shape is traced once and the program calls it by name.
@functools.partial(jax.jit, static_argnames=("missing", "geometry"))
def _apply(a: Array, b: Array, *, missing: str, geometry: Geometry) -> Array:
    return _DIRECT[missing](a, b, geometry)


@functools.partial(jax.jit, static_argnames=("missing", "geometry"))
def _apply_on_cpu(a: Array, b: Array, *, missing: str, geometry: Geometry) -> Array:
    return _ON_CPU[missing](a, b, geometry)


def _batch(arguments, axes, **params):
    """One after the other: XLA would make a grouped convolution of them, which is slow on a CPU."""
    first, second = mapped_first(arguments, axes)
    return jnp.stack([_form.bind(a, b, **params) for a, b in zip(first, second)]), 0


def _shape(a, b, *, missing: str, geometry: Geometry) -> jax.core.ShapedArray:
    if missing == "y":
        shape = (a.shape[0], *geometry.output, b.shape[-1])
    elif missing == "w":
        shape = (*geometry.size, a.shape[-1], b.shape[-1])
    else:
        shape = (b.shape[0], *geometry.image, a.shape[2])
    return jax.core.ShapedArray(shape, jnp.result_type(a, b))


_form = trilinear.primitive("convolution", _shape, _batch, _apply, cpu=_apply_on_cpu)
