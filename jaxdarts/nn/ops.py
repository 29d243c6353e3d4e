"""The candidate operations, from states to bundles of edges.

They map x [group, batch, height, width, channels] to [group, edges, ...].

A group is a few states of one shape whose edges are alike: the two inputs of a cell, or one node.
Operations that can be computed together form a family: separable convolutions of any size are one
bundle, their kernels padded to the largest, since what a program takes to compile is its number of
instructions and a depthwise convolution is cheap beside what is around it. Every edge has its own
weights (leading axes group, edge); an operation without weights computes once for all its edges.
Noise has random keys in their place, one an edge. Compositions, strides and paddings follow the
DARTS code (quark0/darts, cnn/operations.py), those of NAS-Bench-201's "normal" convolutions its
code (D-X-Y/NAS-Bench-201); weights are named after what they do and laid out [group, edge, (size,
size,) in, out].
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jax import lax
from jaxtyping import Array, Float

from jaxdarts.nn.primitives.barrier import once_on_cpu
from jaxdarts.nn.primitives.convolution import convolution
from jaxdarts.nn.primitives.depthwise import depthwise, wide
from jaxdarts.nn.primitives.norm import scaled
from jaxdarts.nn.primitives.platforms import per_platform
from jaxdarts.nn.primitives.pooling import max_pool

Weights = Mapping[str, Array]
States = Float[Array, "group batch height width channels"]
Bundle = Float[Array, "group edges batch out_height out_width out_channels"]
Norm = Callable[..., list[Array]]
"""norm(bundles, gains=None) normalises each over batch, height and width (axes -4 to -2) and
multiplies it by its gain.
"""


class Norms(NamedTuple):
    """Batch norms of a cell: after convolutions, and, in supernets only, after pooling."""

    conv: Norm
    pool: Norm


Family = Callable[[Sequence[Weights], States, int, Norms], tuple[Bundle, Norm]]
"""(weights of each operation, x, stride, norms) -> bundle before the norm that ends it, and that
norm.

The bundle's second axis holds the edges of the first operation, then those of the next; or it has
one entry that all edges share. The cell applies the norms of all families at once, together with
the mixing weights: one scale and one shift.
"""


Shapes = Callable[[int, int], dict[str, tuple[int, ...]]]
"""(channels, stride) -> shape of each weight of one edge."""

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0067a5", "#b84a00", "#00755a", "#99477c", "#5d6470"
"""Colours of the drawings, after Okabe & Ito's colour-blind-safe palette, darkened until they carry
white text with a contrast above 4.5.
"""


class Op(NamedTuple):
    """The declaration of an operation, which all parts of the library read.

    name: the word in genotypes.
    shapes: (channels, stride) -> shape of each weight of one edge. Weights start uniform within
      1 / sqrt(all axes but the last multiplied).
    family: what computes it (`per_edge` makes one of a function of a single edge).
    multiply_adds: (channels, stride, output pixels) -> multiply-adds of one edge for one image; if
      None, every weight is used once for every output pixel, as in a convolution.
    random: it draws at random, so its weights have a random key besides, named "key".
    color, dashed: the box and the line in drawings.
    label: the text in drawings; its name if empty.

    The number of parameters is not declared: it follows from the shapes, and from the batch norms
    that the family applies.
    """

    name: str
    shapes: Shapes
    family: Family
    multiply_adds: Callable[[int, int, int], int] | None = None
    random: bool = False
    color: str = GREY
    label: str = ""
    dashed: bool = False

    def __repr__(self) -> str:
        return f"Op({self.name})"


Step = Callable[[Weights, Float[Array, "batch height width channels"], int], Array]
"""(weights of one edge, its input, stride) -> what the edge carries, before a norm."""


def per_edge(*steps: Step) -> Family:
    """The family of a single operation, given as functions of one edge.

    A batch norm follows every step. Only the first step strides: its output has ceil(height /
    stride) rows and ceil(width / stride) columns.

    Args:
        steps: (weights of the edge, [batch, height, width, channels], stride) -> [batch, ...,
          channels]. Weights have the declared shapes.
    """

    def family(weights, x, stride, norms):
        (shared,) = weights
        y = x[:, None]
        for i, step in enumerate(steps):
            if i:
                (y,) = norms.conv([y])
            y = _over_edges(step, shared, y, 1 if i else stride)
        return once_on_cpu(y), norms.conv

    return family


def _over_edges(step: Step, weights: Weights, x: Array, stride: int) -> Array:
    """A step on all edges: x is [group, edges, ...], or [group, 1, ...] if the edges share it."""
    if not weights:
        return jax.vmap(jax.vmap(lambda x: step({}, x, stride)))(x)
    shared = x.shape[1] == 1
    return jax.vmap(jax.vmap(lambda w, x: step(w, x, stride), (0, None if shared else 0)))(
        weights, x[:, 0] if shared else x
    )


def relu(x: Array) -> Array:
    """max(x, 0), its derivative at zero 0.

    `jax.nn.relu` is a call, and XLA may keep calls apart from what is around them.
    """
    return lax.select(x > 0, x, lax.full_like(x, 0))


def pointwise(x: Array, weights: Float[Array, "*lead channels out"]) -> Array:
    """A 1x1 convolution of each edge, as one batched matrix product.

    It maps [*lead, batch, height, width, channels] to [..., out].
    """
    # Barriers, with their transposes, keep what makes an operand out of the products that read it.
    # Pixels are one axis, or XLA would store an operand of the weight gradient, a sum over all of
    # them, in another order.
    x = once_on_cpu(x)
    pixels = x.reshape(-1, math.prod(x.shape[-4:-1]), x.shape[-1])
    y = jnp.einsum("knc,kcd->knd", pixels, weights.reshape(-1, *weights.shape[-2:]))
    return once_on_cpu(y).reshape(*x.shape[:-1], y.shape[-1])


def separable(
    x: States,
    kernels: Float[Array, "group edges size size channels"],
    weights: Float[Array, "group edges channels out"],
    stride: int = 1,
    dilation: int = 1,
) -> Bundle:
    """Depthwise, then pointwise convolutions of the edges that leave each state.

    On a TPU the two are one dense convolution, with the kernels d[i, j, c] p[c, o]. That is exact,
    and what lies between the two is never stored. It multiplies ten times as much, which costs a
    matrix unit less than memory traffic, and a CPU more. On an H200, in float32 with 5x5 kernels,
    it took 1.11 ms where one after the other took 0.21 ms, and cuDNN's algorithm for it
    (Winograd's) was wrong by 1e-3 of the result's norm.
    """
    return per_platform(x, kernels, weights, **_separable_forms(stride, dilation))


@functools.cache
def _separable_forms(
    stride: int, dilation: int
) -> dict[str, Callable[[Array, Array, Array], Array]]:
    def one_after_the_other(x, kernels, weights):
        return pointwise(depthwise(x, kernels, stride=stride, dilation=dilation), weights)

    def folded(x, kernels, weights):
        # In float32 at least: the gradients of both are sums of the dense kernel's.
        dense = wide(kernels)[..., None] * wide(weights)[:, :, None, None]
        return dense_bundle(x, dense.astype(x.dtype), stride, dilation)

    return {"tpu": folded, "default": one_after_the_other}


def dense_bundle(
    x: States,
    kernels: Float[Array, "group edges size size channels out"],
    stride: int = 1,
    dilation: int = 1,
) -> Bundle:
    """Dense convolutions of the edges that leave each state, by XLA.

    The padding is that of `depthwise`.

    The edges of one state are one convolution, side by side in its outputs; states with one edge
    each are the groups of one.
    """
    if kernels.shape[1] == 1 and len(x) > 1:
        groups, *_, channels = x.shape
        joined = jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], groups * channels)
        y = _dense(joined, jnp.swapaxes(kernels, 0, 1)[0], stride, dilation, groups)
        return jnp.moveaxis(y, 3, 0)[:, None]
    return jnp.stack(
        [jnp.moveaxis(_dense(state, w, stride, dilation), 3, 0) for state, w in zip(x, kernels)]
    )


def _dense(
    x: Array, kernels: Array, stride: int, dilation: int, groups: int = 1
) -> Float[Array, "b h w edges out"]:
    edges, size, _, channels, out = kernels.shape
    padding = dilation * (size - 1) // 2
    y = lax.conv_general_dilated(
        x,
        jnp.moveaxis(kernels, 0, 3).reshape(size, size, channels, edges * out),
        (stride, stride),
        [(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return y.reshape(*y.shape[:3], edges, out)


def halved(x: Float[Array, "*lead height width channels"]) -> Array:
    """The even and the odd positions of a state, side by side as channels.

    The result has half the height and width, twice the channels.

    Raises:
        ValueError: if height or width is odd; the two would not align.
    """
    height, width = x.shape[-3:-1]
    if height % 2 or width % 2:
        raise ValueError(
            f"a reduction of a {height}x{width} state: height and width must be even before every"
            " reduction"
        )
    return jnp.concatenate([x[..., ::2, ::2, :], x[..., 1::2, 1::2, :]], axis=-1)


def halved_weights(
    weights: Float[Array, "*lead channels out"],
) -> Float[Array, "*lead twice_channels out"]:
    """The 1x1 convolution of a `halved` state.

    Its even positions give the first half of the outputs, the odd the second.
    """
    even, odd = jnp.split(weights, 2, axis=-1)
    return jnp.concatenate(
        [jnp.concatenate([even, 0 * odd], -1), jnp.concatenate([0 * even, odd], -1)], axis=-2
    )


def _separable_shapes(size: int, repeats: int):
    def shapes(channels, stride):
        depth: dict[str, tuple[int, ...]] = {
            f"depthwise{i}": (size, size, channels) for i in range(repeats)
        }
        return depth | {f"pointwise{i}": (channels, channels) for i in range(repeats)}

    return shapes


def _kernels(weights: Sequence[Weights], name: str) -> Array:
    """The kernels of several operations as one bundle, with zeros around the smaller ones."""
    size = max(w[name].shape[2] for w in weights)
    borders = [(size - w[name].shape[2]) // 2 for w in weights]
    zero = np.zeros((), weights[0][name].dtype)
    padded = [
        lax.pad(w[name], zero, [(0, 0, 0)] * 2 + [(p, p, 0)] * 2 + [(0, 0, 0)])
        for w, p in zip(weights, borders)
    ]
    return jnp.concatenate(padded, axis=1)


def _beside(weights: Sequence[Weights], name: str) -> Array:
    """The weights of several operations as one bundle."""
    return jnp.concatenate([w[name] for w in weights], axis=1)


def _separable(*dilations: int) -> Family:
    """Separable convolution: (relu, depthwise, pointwise, norm) for each entry of `dilations`.

    Only the first depthwise strides.
    """

    def family(weights, x, stride, norms):
        y = separable(
            relu(x),
            _kernels(weights, "depthwise0"),
            _beside(weights, "pointwise0"),
            stride,
            dilations[0],
        )
        for i, dilation in enumerate(dilations[1:], 1):
            (y,) = norms.conv([y])
            lead, kernels, products = (
                y.shape[:2],
                _kernels(weights, f"depthwise{i}"),
                _beside(weights, f"pointwise{i}"),
            )
            # Every edge is a state of its own now.
            x, kernels, products = (
                a.reshape(-1, *edge, *a.shape[2:])
                for a, edge in ((relu(y), ()), (kernels, (1,)), (products, (1,)))
            )
            y = separable(x, kernels, products, dilation=dilation)
            y = y.reshape(*lead, *y.shape[2:])
        return y, norms.conv

    return family


def dropped(x: States, key: Array, rate: Float[Array, "group edges"]) -> Bundle:
    """Dropout of what the edges carry: every entry of every edge is zero with probability `rate`.

    What stays is divided by 1 - rate. The keys are those of the edges, [group, edges].
    """

    def keep(key: Array, rate: Array, state: Array) -> Array:
        return jnp.where(jax.random.bernoulli(key, 1 - rate, state.shape), state / (1 - rate), 0)

    y = jax.vmap(jax.vmap(keep, (0, 0, None)))(key, rate, x)
    return once_on_cpu(y.astype(x.dtype))  # drawn once, not again in every loop that reads it


def _skip(weights, x, stride, norms):
    if stride == 1:
        (shared,) = weights
        y = dropped(x, shared["key"], shared["rate"]) if "rate" in shared else x[:, None]
        return y, scaled
    y = jnp.einsum("gbhwc,gkcd->gkbhwd", halved(relu(x)), halved_weights(weights[0]["reduce"]))
    return once_on_cpu(y), norms.conv


def _stacked_lines(weights, x, stride, norms):
    """Convolution by lines: relu, 1x7 striding over the width, 7x1 over the height, norm.

    NASNet's and AmoebaNet's cells have it.
    """
    (lines,), bundle = weights, []
    for g in range(x.shape[0]):
        for row, column in zip(lines["row0"][g], lines["column0"][g]):
            y = convolution(relu(x[g]), row, (1, stride))
            bundle.append(convolution(y, column, (stride, 1)))
    return jnp.stack(bundle).reshape(x.shape[0], -1, *bundle[0].shape), norms.conv


def _normal_convolution(weights, x, stride, norms):
    """Normal convolution: relu, convolution, norm.

    For every size there is one dense convolution of a state, the edges side by side in its outputs.
    """
    x, bundles = relu(x), []
    for size in weights:
        bundle = []
        for state, kernels in zip(x, size["kernel"]):
            y = convolution(state, jnp.concatenate(list(kernels), axis=-1), (stride, stride))
            bundle.append(jnp.moveaxis(y.reshape(*y.shape[:-1], -1, kernels.shape[-1]), -2, 0))
        bundles.append(jnp.stack(bundle))
    return once_on_cpu(jnp.concatenate(bundles, axis=1)), norms.conv


def _max_pool(weights, x, stride, norms):
    return max_pool(x, stride)[:, None], norms.pool


def _avg_pool(weights, x, stride, norms):
    total = depthwise(x, jnp.ones((x.shape[0], 1, 3, 3, x.shape[-1]), x.dtype), stride=stride)
    # The border averages over the pixels that exist (count_include_pad=False).
    positions = (np.arange(0, n, stride) for n in x.shape[2:4])
    rows, columns = (
        3 - (i == 0) - (i == n - 1).astype(int) for i, n in zip(positions, x.shape[2:4])
    )
    count = np.outer(rows, columns).astype(x.dtype)[None, None, None, :, :, None]
    return once_on_cpu(total / count), norms.pool


def _noise(weights, x, stride, norms):
    """A standard normal of the output's shape, another one on every edge and for every example.

    Nothing of x matters but its shape.

    No batch norm follows, not even in a supernet (RobustDARTS, whose code is followed).
    """
    (keys,) = weights
    *batch, height, width, channels = x.shape[1:]
    shape = (*batch, -(-height // stride), -(-width // stride), channels)
    draw = jax.vmap(jax.vmap(lambda key: jax.random.normal(key, shape, x.dtype)))
    # Drawn once, not again in every loop that reads it.
    return once_on_cpu(draw(keys["key"])), scaled


def _no_weights(channels: int, stride: int) -> dict[str, tuple[int, ...]]:
    return {}


def _skip_shapes(channels: int, stride: int) -> dict[str, tuple[int, ...]]:
    return {} if stride == 1 else {"reduce": (channels, channels)}


def _stacked_shapes(channels: int, stride: int) -> dict[str, tuple[int, ...]]:
    return {"row0": (1, 7, channels, channels), "column0": (7, 1, channels, channels)}


def _stacked_adds(channels: int, stride: int, pixels: int) -> int:
    return 7 * channels**2 * pixels * (stride + 1)  # the row strides over the width only


def _dense_shapes(size: int) -> Shapes:
    return lambda channels, stride: {"kernel": (size, size, channels, channels)}


_TWICE, _DILATED = _separable(1, 1), _separable(2)


def table(ops: Iterable[Op]) -> Mapping[str, Op]:
    """Operations by name, none of which changes later.

    Raises:
        ValueError: if two have one name, or one has the name `none`.
    """
    named: dict[str, Op] = {}
    for op in ops:
        if op.name in named or op.name == "none":
            raise ValueError(
                f"there is an operation {op.name!r} already: give the new one another name"
            )
        named[op.name] = op
    return FrozenDict(named)


OPS = table(
    (
        Op("max_pool_3x3", _no_weights, _max_pool, color=GREEN),
        Op("avg_pool_3x3", _no_weights, _avg_pool, color=GREEN),
        Op("skip_connect", _skip_shapes, _skip, color=PURPLE, dashed=True),
        Op("sep_conv_3x3", _separable_shapes(3, 2), _TWICE, color=BLUE),
        Op("sep_conv_5x5", _separable_shapes(5, 2), _TWICE, color=BLUE),
        Op("sep_conv_7x7", _separable_shapes(7, 2), _TWICE, color=BLUE),
        Op("conv_7x1_1x7", _stacked_shapes, _stacked_lines, _stacked_adds),
        Op("dil_conv_3x3", _separable_shapes(3, 1), _DILATED, color=ORANGE),
        Op("dil_conv_5x5", _separable_shapes(5, 1), _DILATED, color=ORANGE),
        Op("noise", _no_weights, _noise, random=True, color=PURPLE, dashed=True),
        Op("nor_conv_1x1", _dense_shapes(1), _normal_convolution, color=BLUE),
        Op("nor_conv_3x3", _dense_shapes(3), _normal_convolution, color=BLUE),
    )
)
"""The library's operations by name, all but `none`, which is the absence of an edge and computes
nothing.
"""


def with_more(ops: Iterable[Op]) -> Mapping[str, Op]:
    """The library's operations and more, by name; errors as of `table`."""
    return table((*OPS.values(), *ops)) if (ops := tuple(ops)) else OPS
