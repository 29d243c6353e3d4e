"""What the primitives compute, in operations that every compiler of networks knows.

The rules that JAX has for a primitive are fast on its devices. A file for another runtime needs
what stands here: one convolution, one pooling, one product and one sum.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jaxtyping import Array

from jaxdarts.nn.primitives import barrier, convolution, depthwise, norm, pooling


def _depthwise(x: Array, w: Array, *, missing: str, geometry: depthwise.Geometry) -> Array:
    """A convolution for every kernel: all at once would need transposes of six axes."""
    _forward_only(missing == "y")
    p, channels = geometry.padding, x.shape[-1]

    def one(state: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            state,
            kernel[:, :, None],
            (geometry.stride, geometry.stride),
            [(p, p)] * 2,
            rhs_dilation=(geometry.dilation, geometry.dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=channels,
        )

    return jnp.stack(
        [jnp.stack([one(state, kernel) for kernel in kernels]) for state, kernels in zip(x, w)]
    )


def _convolution(x: Array, w: Array, *, missing: str, geometry: convolution.Geometry) -> Array:
    _forward_only(missing == "y")
    return convolution._missing_y(x, w, geometry)


def _winner(x: Array, *, stride: int) -> Array:
    """The choice of a maximum, which `_chosen` does not need."""
    height, width = (-(-n // stride) for n in x.shape[-3:-1])
    return jnp.zeros((*x.shape[:-3], height, width, x.shape[-1]), jnp.int8)


def _chosen(
    x: Array, winner: Array, *, stride: int, size: tuple[int, int], transposed: bool
) -> Array:
    """The maximum of every window: in a forward pass the winner is always that of x itself."""
    _forward_only(not transposed)
    y = lax.reduce_window(
        x.reshape(-1, *x.shape[-3:]),
        np.array(-np.inf, x.dtype),
        lax.max,
        (1, 3, 3, 1),
        (1, stride, stride, 1),
        ((0, 0), (1, 1), (1, 1), (0, 0)),
    )
    return y.reshape(*x.shape[:-3], *y.shape[1:])


def _forward_only(forward: bool) -> None:
    if not forward:
        raise NotImplementedError("a derivative has no plain form: only forward passes do")


FORMS: Mapping[Primitive, Callable[..., Any]] = MappingProxyType(
    {
        depthwise._form: _depthwise,
        convolution._form: _convolution,
        norm._affine: norm._apply_affine,
        norm._moments: norm._of_one(norm._apply_sums),
        pooling._winner: _winner,
        pooling._choose: _chosen,
        barrier._once: lambda x: x,
    }
)
"""The plain form of every primitive of a forward pass: its arguments and parameters -> results."""
