"""Learning rates of published trainings: the rate of every epoch, as a list of numbers.

Also by the length of a text's window. Clipping of gradients that a hypergradient can differentiate
through.

The published code changes a rate between epochs only, so these are tables; `jnp.asarray(table)[step
// steps_per_epoch]` is the optax schedule.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float64


def cosine(peak: float, epochs: int) -> Float64[np.ndarray, " epochs"]:
    """Half a cosine from `peak` towards zero, which epoch number `epochs` would have.

    Loshchilov & Hutter, `SGDR <https://arxiv.org/abs/1608.03983>`_, 2017, without restarts.

    >>> cosine(1.0, 2)
    array([1. , 0.5])
    """
    return 0.5 * peak * (1 + np.cos(np.pi * np.arange(epochs) / epochs))


def exponential(peak: float, epochs: int, decay: float = 0.97) -> Float64[np.ndarray, " epochs"]:
    """`peak`, times `decay` after every epoch: quark0/darts' training on ImageNet.

    >>> exponential(1.0, 3, 0.5)
    array([1.  , 0.5 , 0.25])
    """
    return peak * decay ** np.arange(float(epochs))


def linear(peak: float, epochs: int, warmup: int = 0) -> Float64[np.ndarray, " epochs"]:
    """A line from `peak` to zero over all epochs but the last five.

    The last five share out its last step at a fifth of the slope.

    With E epochs the rate of epoch e is peak (E - 5 - e) / (E - 5), and peak (E - e) / (5 (E - 5))
    in the last five; the first `warmup` epochs have (e + 1) / warmup of it. This is SmoothDARTS'
    training on ImageNet, with a warm-up of five epochs where the batch is larger than 256. P-DARTS'
    code differs in the last five epochs, peak (e - E + 6) / (5 (E - 5)), which rises.

    Raises:
        ValueError: if there are no more than five epochs.

    >>> linear(1.0, 10, warmup=2)
    array([0.5 , 0.8 , 0.6 , 0.4 , 0.2 , 0.2 , 0.16, 0.12, 0.08, 0.04])
    """
    if epochs <= 5:
        raise ValueError(f"{epochs} epochs: the linear schedule needs more than its last five")
    epoch = np.arange(epochs)
    rate = (
        peak * np.where(epochs - epoch > 5, epochs - 5 - epoch, (epochs - epoch) / 5) / (epochs - 5)
    )
    return rate * np.minimum(1, (epoch + 1) / warmup) if warmup else rate


def scaled_by_length(length: int) -> optax.GradientTransformationExtraArgs:
    """Multiplies an update by the training batch's "length" / `length`.

    It comes last in the chain, so that it multiplies the decay of weights too.

    A window twice as long is the mean of twice as many gradients, and counts twice. quark0/darts,
    rnn/train.py; once its ASGD runs, the factor there is that of the window before.

    >>> import jax.numpy as jnp
    >>> batch = {"length": jnp.int32(3)}
    >>> scaled_by_length(4).update(jnp.ones(1), optax.EmptyState(), None, batch=batch)[0]
    Array([0.75], dtype=float32)
    """

    def update(updates, state, params=None, **extra: Any):
        return optax.tree.scale(extra["batch"]["length"] / length, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm`, with derivatives also where all gradients are zero.

    An unrolled hypergradient differentiates the optimiser. The norm has no derivative at zero, and
    optax multiplies it by a zero there, which gives NaN; here nothing is divided by it.

    >>> import jax
    >>> clip = clip_by_global_norm(5.0)
    >>> jax.grad(lambda g: jnp.sum(clip.update(g, clip.init(g))[0]))(jnp.zeros(2))
    Array([1., 1.], dtype=float32)
    """

    def update(updates, state, params=None):
        squares = optax.tree.norm(updates, squared=True)
        norm = jnp.sqrt(jnp.where(squares > 0, squares, 1))
        above = (squares > 0) & (norm >= max_norm)
        # The same order as in optax: not a bit differs.
        clipped = jax.tree.map(lambda g: (g / norm.astype(g.dtype)) * max_norm, updates)
        return jax.tree.map(lambda c, g: jnp.where(above, c, g), clipped, updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)
