"""Scores of an untrained network by which of its rectified units are on.

`naswot`, `linear_regions` and `swap`. The units are found in the program of any function of JAX,
or a network tells them itself (`declared`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from jaxdarts.proxies.rectifiers import rectified
from jaxdarts.proxies.scores import Apply, Score
from jaxdarts.types import Params, Units


def agreements(apply: Apply, params: Params, images: Array) -> Float[Array, "batch batch"]:
    """Number of rectified units that agree, for any two examples: K of `naswot`.

    They are on for both or off for both.

    Units are found in the program of `apply`: `jax.nn.relu`, `relu6` and `max(x, 0)` with a
    constant 0, also in jitted or rematerialised functions, functions with a derivative of their
    own, and scans. A rectified array without an axis of the batch, such as a variance, is none. A
    layer counts if some derivative of the logits by its output is not zero; where the array has
    axes before that of the batch, as bundles of edges have here, each entry of them is a layer. So,
    with a one-hot mix, layers on edges of weight zero do not count.

    Two differences from the authors' code, which `declared` does not have. It marks the layers that
    a backward pass visits, so it counts those that only a multiplication by zero follows, as
    NAS-Bench-201's `none` is there. And an operation there has a ReLU of its own: a state counts
    once for each that reads it, here once for all of a family (`nn.ops`). Channels that are zero in
    all examples and that nothing reads are padding (`nn.cnn.Cells`) and do not count.

    Args:
        apply: must also take one example more than there are: the two programs tell which axis is
          the batch's.
        params: weights.
        images: [batch, ...].

    Returns:
        Whole numbers, exact while there are fewer than 2^24 units. Their determinant may want
        float64, on the host if need be.

    Raises:
        ValueError: if there are no rectified units, or there are some in a while loop, a branch or
            another thing that cannot be followed, or where the batch is merged with another axis.
    """
    batch = images.shape[0]
    start = jnp.zeros((batch, batch))
    return sum((_agreements(row) for row in signs(apply, params, images)), start=start)


def signs(apply: Apply, params: Params, images: Array) -> list[Float[Array, "batch units"]]:
    """Which rectified units are on (1) or off (-1), and 0 for those that do not count.

    Arguments, errors and what counts as in `agreements`.
    """
    batch = images.shape[0]
    run = functools.partial(rectified, apply)
    _, inputs = jax.eval_shape(run, params, images)
    _, others = jax.eval_shape(
        run, params, jax.ShapeDtypeStruct((batch + 1, *images.shape[1:]), images.dtype)
    )
    axes = [
        _batch_axis(x.shape, other.shape, batch) for x, other in zip(inputs, others, strict=True)
    ]
    if all(axis is None for axis in axes):
        raise ValueError("the network has no rectified units: nothing in its program is max(x, 0)")
    taps = [None if axis is None else jnp.zeros(x.shape, x.dtype) for x, axis in zip(inputs, axes)]
    logits, pull, inputs = jax.vjp(
        lambda taps: rectified(apply, params, images, taps), taps, has_aux=True
    )
    # Any cotangent but ones: the sum over a batch of what a batch norm returns does not depend on
    # what is before it.
    (slopes,) = pull(jax.random.normal(jax.random.key(0), logits.shape).astype(logits.dtype))
    return [
        _signs(x, slope, axis) for x, slope, axis in zip(inputs, slopes, axes) if axis is not None
    ]


def declared(
    apply: Callable[..., tuple[Array, Any]], params: Params, images: Array
) -> Float[Array, "batch batch"]:
    """K of `naswot` from the units that a network tells itself, instead of `agreements`.

    Args:
        apply: (params, images) -> (logits, a tree with `Units` among its leaves): that of a Flax
            module with `mutable=["units"]`, where the module leaves them by `self.sow("units",
            NAME, units)`. `nn.nasbench201.Picked` tells every rectifier that the backward pass
            visits, once for each; with `hooked` as often as the hook in the authors' code, twice
            but for the last one.
        params, images: as in `agreements`.

    Returns:
        As `agreements`.
    """
    batch = images.shape[0]

    def add(total, layer):
        def counted():
            return total + layer.count * _agreeing(layer.on.reshape(batch, -1))

        return jax.lax.cond(layer.count != 0, counted, lambda: total), None

    total = jnp.zeros((batch, batch))
    for units in _told(apply(params, images)[1]):
        total, _ = jax.lax.scan(add, total, units)
    return total


Agreements = Callable[[Any, Params, Array], Float[Array, "batch batch"]]


def naswot(apply: Any, params: Params, images: Array, agreements: Agreements = agreements) -> Score:
    """log |det K| of the `agreements` K: how unlike the patterns are in which units are on.

    Mellor, Turner, Storkey & Crowley, `Neural Architecture Search without Training
    <https://arxiv.org/abs/2006.04647>`_, ICML 2021; 128 images without augmentation there, the same
    for all networks. Arguments and errors as in `agreements`, and so are the differences from the
    authors' code; give `declared` instead for units that the network counts itself. Two examples
    with the same pattern, which NaN makes of all, give -inf, or what rounding leaves of it: a low
    number.
    """
    return jnp.linalg.slogdet(agreements(apply, params, images))[1]


def linear_regions(
    apply: Any, params: Params, images: Array, agreements: Agreements = agreements
) -> Score:
    """The number of different patterns of rectified units among the examples, at least 1.

    Chen, Gong & Wang, `Neural Architecture Search on ImageNet in Four GPU Hours
    <https://arxiv.org/abs/2102.11535>`_ (TE-NAS), ICLR 2021, which looks at units of maps only,
    where this takes all. Arguments and errors as in `agreements`.
    """
    same = agreements(apply, params, images)
    return jnp.sum(1 / jnp.sum(same == jnp.diag(same)[:, None], axis=1))


def declared_signs(
    apply: Callable[..., tuple[Array, Any]], params: Params, images: Array
) -> list[Float[Array, "batch units"]]:
    """`signs` of the units that a network tells itself; arguments as in `declared`."""

    def row(units):
        counts = units.count.reshape(-1, *[1] * (units.on.ndim - 1)) != 0
        on = jnp.moveaxis(jnp.where(counts, jnp.where(units.on, 1.0, -1.0), 0.0), 1, 0)
        return on.reshape(images.shape[0], -1)

    return [row(units) for units in _told(apply(params, images)[1])]


def swap(
    apply: Any,
    params: Params,
    images: Array,
    signs: Callable[[Any, Params, Array], list[Float[Array, "batch units"]]] = signs,
) -> Score:
    """SWAP: the number of different patterns that rectified units have over the examples.

    A unit's pattern says for which of the examples it is on.

    Peng, Song, Fayek, Ciesielski & Chang, `SWAP-NAS <https://arxiv.org/abs/2403.04161>`_, ICLR
    2024; 16 images and the mean over 32 draws of standard normal weights (`gaussian`) in the
    authors' code, which looks at units of maps only, where this takes all. Arguments and errors as
    in `agreements`; give `declared_signs` for units that the network tells itself.
    """
    rows = jnp.concatenate(signs(apply, params, images), axis=1)
    # What does not count gets the pattern of no example, which is taken off again.
    on, silent = rows > 0, jnp.any((rows[0] != 0) & jnp.all(rows <= 0, axis=0))
    words = _words(on.T).T
    if len(rows) <= 16:  # 20 times as fast as sorting 500,000 units on a CPU
        present = jnp.zeros(2 ** len(rows), bool).at[words[0]].set(True).at[0].set(silent)
        return jnp.sum(present).astype(jnp.float32)
    words = jax.lax.sort(tuple(words), num_keys=len(words))
    new = functools.reduce(jnp.logical_or, (word[1:] != word[:-1] for word in words))
    has_zero = functools.reduce(jnp.logical_and, (word[0] == 0 for word in words))
    return (1 + jnp.sum(new) - (has_zero & ~silent)).astype(jnp.float32)


def regularised_swap(swap: Score, parameters: Score, mu: float, sigma: float) -> Score:
    """SWAP times exp(-(p - mu)^2 / sigma), p the number of parameters in thousands.

    As in the authors' code: there is no square on sigma.
    """
    return swap * jnp.exp(-((parameters / 1e3 - mu) ** 2) / sigma)


def _told(tree: Any) -> list[Units]:
    leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, Units))
    return [leaf for leaf in leaves if isinstance(leaf, Units)]


def _agreements(signs: Float[Array, "batch units"]) -> Float[Array, "batch batch"]:
    counted = signs[0] != 0
    differing = signs.shape[1] - _agreeing((signs > 0) & counted[None])
    return jnp.sum(counted) - differing


def _agreeing(on: Bool[Array, "batch units"]) -> Float[Array, "batch batch"]:
    """How many units are on for both or off for both.

    Bits are counted: on a CPU in a fifth of the time of a product of matrices of signs.
    """
    words = _words(on)

    def row(word):
        return jnp.sum(jax.lax.population_count(word[None] ^ words), axis=1, dtype=jnp.uint32)

    return on.shape[1] - jax.lax.map(row, words).astype(float)


def _words(bits: Bool[Array, "rows bits"]) -> UInt32[Array, "rows words"]:
    """32 bits in each number, the lowest first, zeros behind the last ones."""
    rows, length = bits.shape
    bits = jnp.pad(bits, ((0, 0), (0, -length % 32))).reshape(rows, -1, 32).astype(jnp.uint32)
    return jnp.sum(bits << jnp.arange(32, dtype=jnp.uint32)[None, None], axis=2, dtype=jnp.uint32)


def _signs(x: Array, slope: Array, axis: int) -> Float[Array, "batch units"]:
    inner = tuple(range(axis, x.ndim))
    counts = jnp.any(slope != 0, axis=inner, keepdims=True)
    if len(inner) > 1:
        counts &= jnp.any((slope != 0) | (x != 0), axis=inner[:-1], keepdims=True)
    signs = jnp.where(counts, jnp.where(x > 0, 1.0, -1.0), 0.0)
    return jnp.moveaxis(signs, axis, 0).reshape(x.shape[axis], -1)


def _batch_axis(shape: Sequence[int], other: Sequence[int], batch: int) -> int | None:
    """The axis of length `batch` that is longer by one in the other shape.

    None if the shapes are the same.
    """
    differing = [i for i, (a, b) in enumerate(zip(shape, other, strict=True)) if a != b]
    if not differing:
        return None
    if len(differing) > 1 or (shape[differing[0]], other[differing[0]]) != (batch, batch + 1):
        raise ValueError(
            f"rectified units of shape {tuple(shape)} have no axis of their own for the batch of"
            f" {batch}"
        )
    return differing[0]
