"""Depthwise convolution as one trilinear form, closed under every order of differentiation.

A depthwise convolution, its input gradient and its weight gradient are the three ways to leave one argument out of

    T(x, w, y) = sum over g, k, b, h, v, i, j, c of  x[g, b, s h + d i - p, s v + d j - p, c] w[g, k, i, j, c] y[g, k, b, h, v, c]

(stride s, dilation d, padding p). Each is bilinear in the other two, and the transpose of one with respect to an argument is
another one of the three. So one primitive with the left-out argument as a parameter is closed under grad, grad of grad, jvp of
grad and vmap; `custom_vjp` would do for reverse over reverse only, and XLA's grouped convolution is 20 to 80 times slower on a
CPU.

Axes: g groups that each own an input and kernels (source states, seeds), k kernels on each input (edges leaving one state).
The channel axis comes last and is the one that vectorises.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


class Geometry(NamedTuple):
    """Static shape of one depthwise convolution: input `height` x `width`, square kernel, same padding."""

    height: int
    width: int
    size: int
    stride: int
    dilation: int

    @property
    def padding(self) -> int:
        return self.dilation * (self.size - 1) // 2

    def output(self, length: int) -> int:
        return (length + 2 * self.padding - self.dilation * (self.size - 1) - 1) // self.stride + 1

    @property
    def taps(self) -> list[tuple[int, int]]:
        return [(i, j) for i in range(self.size) for j in range(self.size)]


def depthwise(
    x: Float[Array, "g batch height width channels"],
    kernel: Float[Array, "g k size size channels"],
    *,
    stride: int = 1,
    dilation: int = 1,
) -> Float[Array, "g k batch out_height out_width channels"]:
    """Convolves each channel of each group with its own k kernels, with zero padding that keeps height and width at stride 1.

    Output sizes are those of PyTorch's `Conv2d(groups=channels, padding=dilation * (size - 1) // 2)`.
    """
    geometry = Geometry(x.shape[2], x.shape[3], kernel.shape[2], stride, dilation)
    return _form.bind(x, kernel, missing="y", geometry=geometry)


def _windows(x: Array, geo: Geometry) -> list[Array]:
    """The input under each tap: size * size arrays [g, 1, batch, out_height, out_width, channels]."""
    p, s, d = geo.padding, geo.stride, geo.dilation
    height, width = geo.output(geo.height), geo.output(geo.width)
    # Without the barrier XLA fuses what made x (batch norm, relu) into the sum and recomputes it for every tap.
    x = lax.optimization_barrier(jnp.pad(x, ((0, 0), (0, 0), (p, p), (p, p), (0, 0))))
    return [
        x[:, None, :, d * i : d * i + s * (height - 1) + 1 : s, d * j : d * j + s * (width - 1) + 1 : s]
        for i, j in geo.taps
    ]


def _missing_y(x: Array, w: Array, geo: Geometry) -> Array:
    weights = w[:, :, :, :, None, None, None, :]
    products = (window * weights[:, :, i, j] for (i, j), window in zip(geo.taps, _windows(x, geo)))
    return functools.reduce(jnp.add, products)


def _missing_w(x: Array, y: Array, geo: Geometry) -> Array:
    y = lax.optimization_barrier(y)
    products = [window * y for window in _windows(x, geo)]
    zero = np.zeros((), y.dtype)
    # One variadic reduction reads y once for all taps; the batch is summed apart, so that the inner loops stay parallel.
    sums = lax.reduce(products, [zero] * len(products), lambda a, b: [u + v for u, v in zip(a, b)], (3, 4))
    taps = jnp.sum(jnp.stack(sums, axis=2), axis=3)
    return taps.reshape(*taps.shape[:2], geo.size, geo.size, taps.shape[-1])


def _missing_x(w: Array, y: Array, geo: Geometry) -> Array:
    """Every kernel on its own, as a convolution of stride 1 with the flipped kernel, then the sum over kernels."""
    gaps = [(0, n - geo.stride * (m - 1) - 1, geo.stride - 1) for n, m in zip((geo.height, geo.width), y.shape[3:5])]
    none = (0, 0, 0)
    # Zeros in the gaps of the stride, and up to the size of x: the padding of a stride-1 convolution is then the same.
    y = lax.pad(y, np.zeros((), y.dtype), [none, none, none, *gaps, none])
    flipped, geo = w[:, :, ::-1, ::-1], geo._replace(stride=1)

    def term(k):
        one = (lax.dynamic_slice_in_dim(a, k, 1, axis=1) for a in (y, flipped))
        return _missing_y(next(one)[:, 0], next(one), geo)[:, 0]

    # A loop, not a sum: XLA would fuse all kernels' taps, and those of other operations, into one loop too large to vectorise.
    return lax.fori_loop(1, w.shape[1], lambda k, total: total + term(k), term(0))


_ARGUMENTS = {"y": "xw", "w": "xy", "x": "wy"}
_DIRECT = {"y": _missing_y, "w": _missing_w, "x": _missing_x}


def _apply(a: Array, b: Array, *, missing: str, geometry: Geometry) -> Array:
    return _DIRECT[missing](a, b, geometry)


def _batch(arguments, axes, *, missing: str, geometry: Geometry):
    """Folds a mapped axis into the group axis."""
    size = next(a.shape[axis] for a, axis in zip(arguments, axes) if axis is not batching.not_mapped)
    moved = [batching.bdim_at_front(a, axis, size) for a, axis in zip(arguments, axes)]
    out = _form.bind(*(m.reshape(-1, *m.shape[2:]) for m in moved), missing=missing, geometry=geometry)
    return out.reshape(size, -1, *out.shape[1:]), 0


def _shape(a, b, *, missing: str, geometry: Geometry) -> jax.core.ShapedArray:
    geo = geometry
    if missing == "y":
        shape = (*b.shape[:2], a.shape[1], geo.output(geo.height), geo.output(geo.width), a.shape[-1])
    elif missing == "w":
        shape = (*b.shape[:2], geo.size, geo.size, a.shape[-1])
    else:
        shape = (b.shape[0], b.shape[2], geo.height, geo.width, b.shape[-1])
    return jax.core.ShapedArray(shape, jnp.result_type(a, b))


def _transpose(position: int, cotangent: Array, *arguments, missing: str, geometry: Geometry) -> Array:
    """Transpose of the form that lacks `missing` in one of its arguments: the form that lacks that argument."""
    names = _ARGUMENTS[missing]
    known = {missing: cotangent, names[1 - position]: arguments[1 - position]}
    lacking = names[position]
    return _form.bind(*(known[name] for name in _ARGUMENTS[lacking]), missing=lacking, geometry=geometry)


_form = Primitive("depthwise")
_form.def_impl(jax.jit(_apply, static_argnames=("missing", "geometry")))
_form.def_abstract_eval(_shape)
ad.defbilinear(_form, functools.partial(_transpose, 0), functools.partial(_transpose, 1))
batching.primitive_batchers[_form] = _batch
mlir.register_lowering(_form, mlir.lower_fun(_apply, multiple_results=False))
