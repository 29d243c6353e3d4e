"""Depthwise convolution as one trilinear form, closed under every order of differentiation.

A depthwise convolution, its input gradient and its weight gradient are the three ways to leave one
argument out of

    T(x, w, y) = sum over g, k, b, h, v, i, j, c of
                 x[g, b, s h + d i - p, s v + d j - p, c] w[g, k, i, j, c] y[g, k, b, h, v, c]

(stride s, dilation d, padding p). Each is bilinear in the other two, and the transpose of one with
respect to an argument is another one of the three. So one primitive with the left-out argument as a
parameter is closed under grad, grad of grad, jvp of grad and vmap; `custom_vjp` would do for
reverse over reverse only, and XLA's grouped convolution is 20 to 80 times slower on a CPU.

Axes: g groups that each own an input and kernels (source states, seeds), k kernels on each input
(edges leaving one state). The channel axis comes last and is the one that vectorises.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Float

from jaxdarts.nn.primitives import trilinear


class Geometry(NamedTuple):
    """Static shape of one depthwise convolution.

    Input `height` x `width`, square kernel, same padding.
    """

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
    """Convolves each channel of each group with its own k kernels.

    Zero padding keeps height and width at stride 1.

    Output sizes are those of PyTorch's `Conv2d(groups=channels, padding=dilation * (size - 1) //
    2)`.
    """
    geometry = Geometry(x.shape[2], x.shape[3], kernel.shape[2], stride, dilation)
    return _form.bind(x, kernel, missing="y", geometry=geometry)


def _windows(x: Array, geo: Geometry) -> list[Array]:
    """The padded input under each tap.

    They are size * size arrays [g, 1, batch, out_height, out_width, channels].
    """
    s, d = geo.stride, geo.dilation
    height, width = s * (geo.output(geo.height) - 1) + 1, s * (geo.output(geo.width) - 1) + 1
    x = x[:, None]
    *lead, channels = (*x.shape[:3], x.shape[-1])
    return [
        lax.slice(
            x,
            (0, 0, 0, d * i, d * j, 0),
            (*lead, d * i + height, d * j + width, channels),
            (1, 1, 1, s, s, 1),
        )
        for i, j in geo.taps
    ]


def _padded(x: Array, geo: Geometry) -> Array:
    """The input with the zeros around it."""
    p = geo.padding
    # Without the barrier XLA fuses what made x (batch norm, relu) into the sum and recomputes it
    # for every tap.
    return lax.optimization_barrier(
        lax.pad(x, np.zeros((), x.dtype), [(0, 0, 0)] * 2 + [(p, p, 0)] * 2 + [(0, 0, 0)])
    )


def _convolve(padded: Array, w: Array, geo: Geometry) -> Array:
    # Behind the barrier the few numbers of a tap are broadcast in the loop that reads them; else
    # XLA may store the broadcast.
    weights = wide(lax.optimization_barrier(w)[:, :, None])
    windows = zip(geo.taps, map(wide, _windows(padded, geo)))
    products = (window * weights[:, :, :, i : i + 1, j : j + 1] for (i, j), window in windows)
    return functools.reduce(jnp.add, products).astype(padded.dtype)


def _missing_y(x: Array, w: Array, geo: Geometry) -> Array:
    return _convolve(_padded(x, geo), w, geo)


def _missing_w(x: Array, y: Array, geo: Geometry) -> Array:
    """A sum over pixels for each tap, one output column after another.

    A reduction's inner loop would not vectorise.
    """
    s, d = geo.stride, geo.dilation
    span = d * (geo.size - 1) + 1  # rows or columns under a kernel
    padded, y = _padded(x, geo)[:, None, :, :, None], lax.optimization_barrier(y)[:, :, :, :, None]
    windows = [
        lax.slice_in_dim(padded, d * i, d * i + s * (y.shape[3] - 1) + 1, s, axis=3)
        for i in range(geo.size)
    ]
    # Several kernels read each input: a copy with all taps of a column side by side pays then.
    if y.shape[1] > 1:
        windows = [lax.optimization_barrier(jnp.concatenate(windows, axis=4))]
    taps = []
    for rows in windows:  # [g, 1, batch, out_height, size or 1, padded width, channels]
        terms = [
            wide(lax.slice_in_dim(rows, s * v, s * v + span, d, axis=5))
            * wide(lax.slice_in_dim(y, v, v + 1, axis=5))
            for v in range(y.shape[5])
        ]
        # The loop vectorises while no other sum is fused to it. The batch is summed last: the loops
        # before are parallel.
        sums = lax.optimization_barrier(functools.reduce(jnp.add, terms))
        taps.append(jnp.sum(lax.optimization_barrier(jnp.sum(sums, axis=3)), axis=2))
    return jnp.concatenate(taps, axis=2).astype(y.dtype)


def _missing_x(w: Array, y: Array, geo: Geometry) -> Array:
    """A convolution of stride 1 of y with the flipped kernels, summed over kernels.

    Zeros are in the gaps of its stride.
    """
    g, k, batch, height, width, channels = y.shape
    p, s = geo.padding, geo.stride
    gaps = [
        (p, p + n - s * (m - 1) - 1, s - 1)
        for n, m in zip((geo.height, geo.width), (height, width))
    ]
    y = lax.pad(y, np.zeros((), y.dtype), [(0, 0, 0)] * 3 + gaps + [(0, 0, 0)])
    y, flipped = (
        a.reshape(g * k, *rest)
        for a, rest in ((y, y.shape[2:]), (w[:, :, ::-1, ::-1], (1, *w.shape[2:])))
    )
    terms = _convolve(lax.optimization_barrier(y), flipped, geo._replace(stride=1))
    # One kernel's taps make a loop that vectorises; with the sum over kernels fused into it, they
    # would not.
    terms = lax.optimization_barrier(terms).reshape(g, k, batch, geo.height, geo.width, channels)
    return functools.reduce(jnp.add, [wide(terms[:, i]) for i in range(k)]).astype(terms.dtype)


def _grouped(x: Array, w: Array, geo: Geometry) -> Array:
    """One of XLA's convolutions with every channel a group: what the compiler for TPUs takes."""
    g, batch, height, width, channels = x.shape
    k = w.shape[1]
    y = lax.conv_general_dilated(
        jnp.moveaxis(x, 0, 3).reshape(batch, height, width, g * channels),
        jnp.transpose(w, (2, 3, 0, 4, 1)).reshape(geo.size, geo.size, 1, g * channels * k),
        (geo.stride, geo.stride),
        [(geo.padding, geo.padding)] * 2,
        rhs_dilation=(geo.dilation, geo.dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=g * channels,
    )
    return jnp.transpose(y.reshape(*y.shape[:3], g, channels, k), (3, 5, 0, 1, 2, 4))


def _one_by_one(x: Array, w: Array, geo: Geometry) -> Array:
    """Depthwise convolution with one kernel a channel at a time, for GPUs.

    Their libraries are fast for one kernel a channel, without stride and dilation.

    On an H200, five 5x5 kernels on one state of 64 x 32 x 32 x 16 take 0.75 ms with their gradients
    as outputs of one group, and 0.21 ms on a copy of the state each.
    """
    g, k, *_ = w.shape
    copies = jnp.broadcast_to(x[:, None], (g, k, *x.shape[1:])).reshape(g * k, *x.shape[1:])
    kernels = w.reshape(g * k, 1, *w.shape[2:])
    y = (
        _on_subgrids(copies, kernels, geo)
        if geo.dilation > 1
        else _grouped(copies, kernels, geo._replace(stride=1))
    )
    y = y[:, :, :, :: geo.stride, :: geo.stride]
    return y.reshape(g, k, *y.shape[2:])


def _on_subgrids(x: Array, w: Array, geo: Geometry) -> Array:
    """A dilated convolution of stride 1 as a plain one.

    Every d-th row and column are an image of their own.
    """
    d = geo.dilation
    g, batch, *_, channels = x.shape
    height, width = -(-geo.height // d), -(-geo.width // d)
    x = lax.pad(
        x,
        np.zeros((), x.dtype),
        [(0, 0, 0)] * 2
        + [(0, d * height - geo.height, 0), (0, d * width - geo.width, 0), (0, 0, 0)],
    )
    parts = jnp.transpose(x.reshape(g, batch, height, d, width, d, channels), (0, 1, 3, 5, 2, 4, 6))
    plain = Geometry(height, width, geo.size, 1, 1)
    y = _grouped(parts.reshape(g, batch * d * d, height, width, channels), w, plain)
    y = jnp.transpose(
        y.reshape(g, 1, batch, d, d, height, width, channels), (0, 1, 2, 5, 3, 6, 4, 7)
    )
    return y.reshape(g, 1, batch, d * height, d * width, channels)[
        :, :, :, : geo.height, : geo.width
    ]


def _by_transposes(convolve: Callable, missing: str, geo: Geometry, a: Array, b: Array) -> Array:
    """The form that lacks `missing`, by the convolution itself or one of its transposes."""
    if missing == "y":
        return convolve(a, b, geo)
    if missing == "w":
        w = jax.ShapeDtypeStruct((*b.shape[:2], geo.size, geo.size, a.shape[-1]), b.dtype)
        return jax.linear_transpose(lambda w: convolve(a, w, geo), w)(b)[0]
    x = jax.ShapeDtypeStruct((b.shape[0], b.shape[2], geo.height, geo.width, b.shape[-1]), b.dtype)
    return jax.linear_transpose(lambda x: convolve(x, a, geo), x)(b)[0]


_ON_CPU = {"y": _missing_y, "w": _missing_w, "x": _missing_x}


# Jitted, so that each shape is traced once and the program calls it by name: a supernet has
# thousands of these.
@functools.partial(jax.jit, static_argnames=("missing", "geometry"))
def _apply(a: Array, b: Array, *, missing: str, geometry: Geometry) -> Array:
    return _by_transposes(_grouped, missing, geometry, a, b)


@functools.partial(jax.jit, static_argnames=("missing", "geometry"))
def _apply_on_gpu(a: Array, b: Array, *, missing: str, geometry: Geometry) -> Array:
    return _by_transposes(_one_by_one, missing, geometry, a, b)


@functools.partial(jax.jit, static_argnames=("missing", "geometry"))
def _apply_on_cpu(a: Array, b: Array, *, missing: str, geometry: Geometry) -> Array:
    return _ON_CPU[missing](a, b, geometry)


def kept(jitted: Callable) -> Callable:
    """A jitted function whose calls XLA keeps, to lower a primitive with.

    For functions between whose arguments and results and what is around them nothing could be
    fused: XLA's passes are the quicker for smaller parts, and see each function once.
    """

    def call(*arguments, **parameters):
        with set_xla_metadata(inlineable="false"):
            return jitted(*arguments, **parameters)

    return call


def wide(x: Array) -> Array:
    """Type that sums are taken in: float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def mapped_first(arguments, axes) -> list[Array]:
    """Arguments of a batching rule with the mapped axis in front, added where it lacks."""
    size = next(a.shape[axis] for a, axis in zip(arguments, axes) if axis is not None)
    return [
        jnp.broadcast_to(a, (size, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)
        for a, axis in zip(arguments, axes)
    ]


def _batch(arguments, axes, *, missing: str, geometry: Geometry):
    """Folds a mapped axis into the group axis."""
    first, second = mapped_first(arguments, axes)
    size = first.shape[0]
    out = _form.bind(
        *(a.reshape(size * a.shape[1], *a.shape[2:]) for a in (first, second)),
        missing=missing,
        geometry=geometry,
    )
    return out.reshape(size, out.shape[0] // size, *out.shape[1:]), 0


def _shape(a, b, *, missing: str, geometry: Geometry) -> jax.core.ShapedArray:
    geo = geometry
    if missing == "y":
        shape = (
            *b.shape[:2],
            a.shape[1],
            geo.output(geo.height),
            geo.output(geo.width),
            a.shape[-1],
        )
    elif missing == "w":
        shape = (*b.shape[:2], geo.size, geo.size, a.shape[-1])
    else:
        shape = (b.shape[0], b.shape[2], geo.height, geo.width, b.shape[-1])
    return jax.core.ShapedArray(shape, jnp.result_type(a, b))


_form = trilinear.primitive(
    "depthwise",
    _shape,
    _batch,
    _apply,
    cpu=kept(_apply_on_cpu),
    cuda=_apply_on_gpu,
    rocm=_apply_on_gpu,
)
