"""The candidate operations, each from one state to a bundle of edges: x [batch, height, width, channels] -> [k, batch, ...].

k is the number of edges that leave x and carry the operation; every edge has its own weights (leading axis k of each weight).
An operation without weights computes once for all its edges (k = 1). Compositions, strides and paddings follow the DARTS code
(quark0/darts, cnn/operations.py); weights are named after what they do and laid out [edge, (size, size,) in, out].
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxdarts.nn.depthwise import depthwise
from jaxdarts.nn.pooling import max_pool

Weights = Mapping[str, Array]
State = Float[Array, "batch height width channels"]
Bundle = Float[Array, "k batch out_height out_width out_channels"]
Norm = Callable[[Array], Array]


class Op(NamedTuple):
    """One candidate operation.

    shapes: (channels, stride) -> the shape of each weight of one edge.
    apply: (weights, x, stride, norm) -> bundle before the batch norm that ends the operation, and whether there is one: the
        cell takes it together with the mixing weight, since the two are one scale and one shift. `norm` normalises over
        batch, height and width (axes -4 to -2).
    """

    shapes: Callable[[int, int], dict[str, tuple[int, ...]]]
    apply: Callable[[Weights, State, int, Norm], tuple[Bundle, bool]]


def batch_norm(x: Array, gain: Array | None = None, *, axis_name: str | None = None, epsilon: float = 1e-5) -> Array:
    """Normalises with the moments of the batch (biased variance), per channel and per entry of the axes before the batch.

    Moments are taken in float32 at least and, inside `pmap`, averaged over the devices of `axis_name`. `gain` multiplies the
    result; as part of the scale it costs nothing, and its gradient comes from sums that the normalisation needs anyway.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = jnp.mean(wide, (-4, -3, -2), keepdims=True)
    square = jnp.mean(wide * wide, (-4, -3, -2), keepdims=True)
    if axis_name is not None:
        mean, square = lax.pmean((mean, square), axis_name)
    scale = lax.rsqrt(jnp.maximum(square - mean * mean, 0) + epsilon)
    if gain is not None:
        scale = scale * gain
    # A few numbers a channel: computed once, not wherever an element of x is normalised.
    scale, shift = lax.optimization_barrier((scale, mean * scale))
    return (wide * scale - shift).astype(x.dtype)


def pointwise(x: Bundle, weights: Float[Array, "k channels out"]) -> Bundle:
    """A 1x1 convolution of each edge, as one batched matrix product."""
    return jnp.einsum("kbhwc,kcd->kbhwd", x, weights)


def halved(x: State) -> Float[Array, "batch half_height half_width twice_channels"]:
    """The even and the odd positions of a state, side by side as channels: half the height and width.

    Raises:
        ValueError: if height or width is odd; the two would not align.
    """
    height, width = x.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"a reduction of a {height}x{width} state: height and width must be even before every reduction")
    return jnp.concatenate([x[:, ::2, ::2], x[:, 1::2, 1::2]], axis=-1)


def halved_weights(weights: Float[Array, "*k channels out"]) -> Float[Array, "*k twice_channels out"]:
    """The 1x1 convolution of a `halved` state: its even positions give the first half of the outputs, the odd the second."""
    even, odd = jnp.split(weights, 2, axis=-1)
    return jnp.concatenate([jnp.concatenate([even, 0 * odd], -1), jnp.concatenate([0 * even, odd], -1)], axis=-2)


def _separable(size: int, dilations: tuple[int, ...]) -> Op:
    """(relu, depthwise, pointwise, norm) once for each entry of `dilations`; only the first depthwise strides."""

    def shapes(channels, stride):
        depth: dict[str, tuple[int, ...]] = {f"depthwise{i}": (size, size, channels) for i in range(len(dilations))}
        point = {f"pointwise{i}": (channels, channels) for i in range(len(dilations))}
        return depth | point

    def apply(weights, x, stride, norm):
        y = depthwise(jax.nn.relu(x)[None], weights["depthwise0"][None], stride=stride, dilation=dilations[0])[0]
        y = pointwise(y, weights["pointwise0"])
        for i, dilation in enumerate(dilations[1:], 1):
            y = depthwise(jax.nn.relu(norm(y)), weights[f"depthwise{i}"][:, None], dilation=dilation)[:, 0]
            y = pointwise(y, weights[f"pointwise{i}"])
        return y, True

    return Op(shapes, apply)


def _skip(weights, x, stride, norm):
    if stride == 1:
        return x[None], False
    return jnp.einsum("bhwc,kcd->kbhwd", halved(jax.nn.relu(x)), halved_weights(weights["reduce"])), True


def _max_pool(weights, x, stride, norm):
    return max_pool(x, stride)[None], True


def _avg_pool(weights, x, stride, norm):
    total = depthwise(x[None], jnp.ones((1, 1, 3, 3, x.shape[-1]), x.dtype), stride=stride)[0]
    ones = jnp.ones((1, 1, *x.shape[1:3], 1), x.dtype)
    # The border averages over the pixels that exist (count_include_pad=False).
    count = depthwise(ones, jnp.ones((1, 1, 3, 3, 1), x.dtype), stride=stride)[0]
    return lax.optimization_barrier(total / count), True


def _no_weights(channels, stride):
    return {}


OPS: Mapping[str, Op] = {
    "max_pool_3x3": Op(_no_weights, _max_pool),
    "avg_pool_3x3": Op(_no_weights, _avg_pool),
    "skip_connect": Op(lambda c, stride: {} if stride == 1 else {"reduce": (c, c)}, _skip),
    "sep_conv_3x3": _separable(3, (1, 1)),
    "sep_conv_5x5": _separable(5, (1, 1)),
    "sep_conv_7x7": _separable(7, (1, 1)),
    "dil_conv_3x3": _separable(3, (2,)),
    "dil_conv_5x5": _separable(5, (2,)),
}
"""Every operation but `none`, which is the absence of an edge and computes nothing."""
