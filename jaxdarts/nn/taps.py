"""Values inside a network that scores of untrained networks read.

A network leaves values, and has taps on the outputs of its layers.

A tap t, [batch, channels], turns the output y of a convolution or of a linear layer into y (1 +
sqrt(n) t), n the weights that a channel has. It is zero, and the derivative by it is sqrt(n) times
the sum over pixels of y times the derivative by y. Where a network has taps they are its collection
`taps`, made on demand (`mutable=["taps"]`), as `tell`'s are; `of_layers` gives taps to Flax modules
that know nothing of them.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


def tell(module: nn.Module, collection: str, value: Any) -> None:
    """Leaves a value in a collection of those that a call asks for by `mutable`.

    Initialisation asks for none.
    """
    if not module.is_initializing():
        module.sow(collection, "value", value)


def tapped(y: Array, tap: Float[Array, "batch channels"], weights: int) -> Array:
    """The output [batch, ..., channels] of a layer, times 1 + sqrt(weights) tap.

    `weights` is how many weights the layer has a channel.
    """
    gain = 1 + math.sqrt(weights) * tap
    return y * gain.reshape(gain.shape[0], *[1] * (y.ndim - 2), gain.shape[1]).astype(y.dtype)


def taps_of(module: nn.Module, shape: tuple[int, ...]) -> Array | None:
    """The taps of a module, None if it is called without."""
    tapped = module.is_mutable_collection("taps") and not module.is_initializing()
    if not tapped and not module.has_variable("taps", "tap"):
        return None
    return module.variable("taps", "tap", jnp.zeros, shape).value


def layer(module: nn.Module, y: Array, weights: int) -> Array:
    """The output of the only layer of a module, tapped if it is called with taps."""
    tap = taps_of(module, (y.shape[0], y.shape[-1]))
    return y if tap is None else tapped(y, tap, weights)


def of_layers(call: Callable[..., Any]) -> tuple[Callable[[], Any], Callable[..., Any]]:
    """Taps for whatever calls of Flax modules consist of `nn.Conv` and `nn.Dense`.

    A layer that is called several times has one tap a call. Layers inside of transformed modules
    (`nn.scan`, `nn.remat`) cannot be tapped.

    Args:
        call: (*arguments) -> anything, such as an `apply`.

    Returns:
        (make, with_taps). make(*arguments) gives the taps, a list of zeros. with_taps(taps,
        *arguments) is the call with them.
    """

    def intercepted(tap: Callable[[Array, int], Array]):
        def intercept(following, arguments, options, context):
            y = following(*arguments, **options)
            if (
                not isinstance(context.module, (nn.Conv, nn.Dense))
                or context.method_name != "__call__"
            ):
                return y
            return tap(y, math.prod(context.module.variables["params"]["kernel"].shape[:-1]))

        return nn.intercept_methods(intercept)

    def make(*arguments):
        taps: list[Array] = []

        def tap(y, weights):
            taps.append(jnp.zeros((y.shape[0], y.shape[-1]), y.dtype))
            return y

        with intercepted(tap):
            call(*arguments)
        return taps

    def with_taps(taps, *arguments):
        rest = iter(taps)
        with intercepted(lambda y, weights: tapped(y, next(rest), weights)):
            return call(*arguments)

    return make, with_taps
