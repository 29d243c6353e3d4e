"""Variance of a gradient from batch to batch.

Shu, Wang & Cai, `Understanding Architectures Learnt by Cell-based Neural Architecture Search
<https://arxiv.org/abs/1909.09569>`_, ICLR 2020, show the variance of the gradient over the plane of
a loss landscape. Their estimator is not published. This one is, over B batches of one size and
summed over all weights,

    variance = 1/B sum_b |g_b - mean|^2 = mean_b |g_b|^2 - |mean|^2,    mean = 1/B sum_b g_b
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


class Gradients(NamedTuple):
    """Variance of a gradient between batches, and the square of the mean gradient.

    variance: mean of |g_b - mean|^2; its square root over that of `squared_mean` is noise over
    signal. squared_mean: |mean|^2.
    """

    variance: Float[Array, ""]
    squared_mean: Float[Array, ""]


def gradients(gradient: Callable[[Any], Any], batches: Any) -> Gradients:
    """Mean and variance of a gradient over batches, one after the other.

    Welford's updates: nothing cancels.

    Args:
        gradient: batch -> a tree of arrays.
        batches: a tree of arrays with a leading axis of batches.
    """

    def one(carry, batch):
        count, mean, spread = carry
        new = gradient(batch)
        before = jax.tree.map(jnp.subtract, new, mean)
        mean = jax.tree.map(lambda m, d: m + d / (count + 1), mean, before)
        after = jax.tree.map(jnp.subtract, new, mean)
        return (count + 1, mean, spread + _dot(before, after)), None

    first = jax.tree.map(lambda leaf: leaf[0], batches)
    shapes = jax.eval_shape(gradient, first)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    start = (jnp.zeros(()), zero, _dot(zero, zero))
    (count, mean, spread), _ = lax.scan(one, start, batches)
    return Gradients(spread / count, _dot(mean, mean))


def _dot(a: Any, b: Any) -> Array:
    return sum(
        jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)), start=jnp.zeros(())
    )
