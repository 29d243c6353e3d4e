"""The candidate operations, from states to bundles of edges: x [group, batch, height, width,
channels] -> [group, edges, ...].

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
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxdarts.nn.primitives.barrier import once_on_cpu
from jaxdarts.nn.primitives.convolution import convolution
from jaxdarts.nn.primitives.depthwise import depthwise, wide
from jaxdarts.nn.primitives.norm import scaled
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


class Op(NamedTuple):
    """One candidate operation: the shape of each weight of one edge, by channels and stride, and
    its family.
    """

    shapes: Callable[[int, int], dict[str, tuple[int, ...]]]
    family: Family


def relu(x: Array) -> Array:
    """max(x, 0), its derivative at zero 0. `jax.nn.relu` is a call, and XLA may keep calls apart
    from what is around them.
    """
    return lax.select(x > 0, x, lax.full_like(x, 0))


def pointwise(x: Array, weights: Float[Array, "*lead channels out"]) -> Array:
    """A 1x1 convolution of each edge, as one batched matrix product: [*lead, batch, height, width,
    channels] -> [..., out].
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
    return lax.platform_dependent(x, kernels, weights, **_separable_forms(stride, dilation))


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
    """Dense convolutions of the edges that leave each state, by XLA, with the padding of
    `depthwise`.

    The edges of one state are one convolution, side by side in its outputs; states with one edge
    each are the groups of one.
    """
    if kernels.shape[1] == 1 and len(x) > 1:
        groups, *_, channels = x.shape
        joined = jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], groups * channels)
        y = _dense(joined, jnp.swapaxes(kernels, 0, 1)[0], stride, dilation, groups)
        return jnp.moveaxis(y, 3, 0)[:, None]
    return jnp.stack(
        [jnp.moveaxis(_dense(state, own, stride, dilation), 3, 0) for state, own in zip(x, kernels)]
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
    """The even and the odd positions of a state, side by side as channels: half the height and
    width, twice the channels.

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
    """The 1x1 convolution of a `halved` state: its even positions give the first half of the
    outputs, the odd the second.
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
    """(relu, depthwise, pointwise, norm) once for each entry of `dilations`; only the first
    depthwise strides.
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
                a.reshape(-1, *own, *a.shape[2:])
                for a, own in ((relu(y), ()), (kernels, (1,)), (products, (1,)))
            )
            y = separable(x, kernels, products, dilation=dilation)
            y = y.reshape(*lead, *y.shape[2:])
        return y, norms.conv

    return family


def _skip(weights, x, stride, norms):
    if stride == 1:
        return x[:, None], scaled
    y = jnp.einsum("gbhwc,gkcd->gkbhwd", halved(relu(x)), halved_weights(weights[0]["reduce"]))
    return once_on_cpu(y), norms.conv


def _stacked_lines(weights, x, stride, norms):
    """relu, 1x7 convolution striding over the width, 7x1 over the height, norm (NASNet's and
    AmoebaNet's cells).
    """
    (own,), bundle = weights, []
    for g in range(x.shape[0]):
        for row, column in zip(own["row0"][g], own["column0"][g]):
            y = convolution(relu(x[g]), row, (1, stride))
            bundle.append(convolution(y, column, (stride, 1)))
    return jnp.stack(bundle).reshape(x.shape[0], -1, *bundle[0].shape), norms.conv


def _normal_convolution(weights, x, stride, norms):
    """relu, convolution, norm: for every size one dense convolution of a state, the edges side by
    side in its outputs.
    """
    x, bundles = relu(x), []
    for own in weights:
        bundle = []
        for state, kernels in zip(x, own["kernel"]):
            y = convolution(state, jnp.concatenate(list(kernels), axis=-1), (stride, stride))
            bundle.append(jnp.moveaxis(y.reshape(*y.shape[:-1], -1, kernels.shape[-1]), -2, 0))
        bundles.append(jnp.stack(bundle))
    return once_on_cpu(jnp.concatenate(bundles, axis=1)), norms.conv


def _max_pool(weights, x, stride, norms):
    return max_pool(x, stride)[:, None], norms.pool


def _avg_pool(weights, x, stride, norms):
    total = depthwise(x, jnp.ones((x.shape[0], 1, 3, 3, x.shape[-1]), x.dtype), stride=stride)
    # The border averages over the pixels that exist (count_include_pad=False).
    places = (np.arange(0, n, stride) for n in x.shape[2:4])
    rows, columns = (3 - (i == 0) - (i == n - 1).astype(int) for i, n in zip(places, x.shape[2:4]))
    count = np.outer(rows, columns).astype(x.dtype)[None, None, None, :, :, None]
    return once_on_cpu(total / count), norms.pool


def _noise(weights, x, stride, norms):
    """A standard normal of the output's shape, another one on every edge and for every example;
    nothing of x but its shape.

    No norm follows, in a supernet neither (RobustDARTS, whose code is followed).
    """
    (own,) = weights
    *batch, height, width, channels = x.shape[1:]
    shape = (*batch, -(-height // stride), -(-width // stride), channels)
    draw = jax.vmap(jax.vmap(lambda key: jax.random.normal(key, shape, x.dtype)))
    # Drawn once, not again in every loop that reads it.
    return once_on_cpu(draw(own["key"])), scaled


def _no_weights(channels, stride):
    return {}


_TWICE, _DILATED = _separable(1, 1), _separable(2)

OPS: Mapping[str, Op] = {
    "max_pool_3x3": Op(_no_weights, _max_pool),
    "avg_pool_3x3": Op(_no_weights, _avg_pool),
    "skip_connect": Op(
        lambda channels, stride: {} if stride == 1 else {"reduce": (channels, channels)}, _skip
    ),
    "sep_conv_3x3": Op(_separable_shapes(3, 2), _TWICE),
    "sep_conv_5x5": Op(_separable_shapes(5, 2), _TWICE),
    "sep_conv_7x7": Op(_separable_shapes(7, 2), _TWICE),
    "conv_7x1_1x7": Op(
        lambda channels, stride: {
            "row0": (1, 7, channels, channels),
            "column0": (7, 1, channels, channels),
        },
        _stacked_lines,
    ),
    "dil_conv_3x3": Op(_separable_shapes(3, 1), _DILATED),
    "dil_conv_5x5": Op(_separable_shapes(5, 1), _DILATED),
    "noise": Op(_no_weights, _noise),
    "nor_conv_1x1": Op(
        lambda channels, stride: {"kernel": (1, 1, channels, channels)}, _normal_convolution
    ),
    "nor_conv_3x3": Op(
        lambda channels, stride: {"kernel": (3, 3, channels, channels)}, _normal_convolution
    ),
}
"""Every operation but `none`, which is the absence of an edge and computes nothing."""
