"""AZ-NAS: scores of an untrained network by the maps between its blocks, and their sum of ranks.

Lee & Ham, `AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search
<https://arxiv.org/abs/2403.19232>`_, CVPR 2024.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from jaxdarts.proxies.scores import Score
from jaxdarts.types import Params

Maps = list[Float[Array, "blocks batch *pixels channels"]]
Blocks = Callable[[Any, Any, Maps | None], Maps]


class Assembled(NamedTuple):
    """AZ-NAS' scores of one network; its fourth part, complexity, is the number of multiply-adds.

    expressivity: the sum over blocks of the entropy of how their channels vary.
    progressivity: the smallest growth of that entropy from a block to the next.
    trainability: the mean over blocks of 2 - s - 1 / s, s how much gradients grow in a block.
    """

    expressivity: Score
    progressivity: Score
    trainability: Score


def in_blocks(blocks: Sequence[Callable[[Any, Array], Array]]) -> Blocks:
    """A network for `az_nas` from functions (params, x) -> x, each of which reads the one before.

    The first reads the images; in the authors' networks it is the stem.
    """

    def apply(params, images, cuts):
        x, maps = images, []
        for i, block in enumerate(blocks):
            y = block(params, x)
            maps.append(y[None])
            x = y if cuts is None else jax.lax.stop_gradient(y) + cuts[i][0]
        return maps

    return apply


def az_nas(blocks: Blocks, params: Params, images: Array, key: Key[Array, ""]) -> Assembled:
    """AZ-NAS' expressivity, progressivity and trainability of a network, from one backward pass.

    64 standard normal images and weights of `kaiming` in the authors' code on NAS-Bench-201. A
    part is -inf where it cannot be taken: the first two where a map is constant, trainability where
    a block changes nothing. A block that no gradient passes makes trainability very low. Rounding
    below zero of an eigenvalue counts as zero, where the authors' code may say -inf.

    Args:
        blocks: (params, images, cuts) -> the outputs of all blocks in order, the stem's first, an
          array for each run of blocks of one shape, [blocks, batch, ..., channels]; `in_blocks`
          makes it of functions. With cuts, which have the shapes of the outputs, each block must
          read `stop_gradient(y) + cut` instead of the output y before it. With
          `nn.nasbench201.Picked`: its argument `cuts` and the collection `blocks`.
        params, images: its arguments.
        key: what the directions of the gradients are drawn from.

    Raises:
        ValueError: if a block enlarges a map, or reduces it to a size that does not divide it.
    """
    shapes = jax.eval_shape(lambda: blocks(params, images, None))
    cuts = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]
    maps, pull = jax.vjp(lambda cuts: blocks(params, images, cuts), cuts)
    directions = [
        jax.random.rademacher(map_key, y.shape, y.dtype)
        for map_key, y in zip(jax.random.split(key, len(maps)), maps)
    ]
    (slopes,) = pull(directions)
    entropies = jnp.concatenate([_entropies(y) for y in maps])
    befores, afters = _one_by_one(slopes), _one_by_one(directions)
    passed = [_passed(before, after) for before, after in zip(befores, afters[1:])]
    parts = (
        jnp.sum(entropies),
        jnp.min(jnp.diff(entropies)),
        jnp.mean(jnp.stack(passed)),
    )
    return Assembled(*(jnp.where(jnp.isfinite(part), part, -jnp.inf) for part in parts))


def _one_by_one(arrays: Iterable[Array]) -> list[Array]:
    return [array[i] for array in arrays for i in range(len(array))]


def _entropies(maps: Float[Array, "blocks batch *pixels channels"]) -> Float[Array, " blocks"]:
    """Entropy of the shares of the principal components of the channels."""
    rows = maps.reshape(maps.shape[0], -1, maps.shape[-1])
    rows = rows - jnp.mean(rows, axis=1, keepdims=True)
    covariance = jnp.einsum("npc,npd->ncd", rows, rows) / rows.shape[1]
    variances = jnp.maximum(jnp.linalg.eigvalsh(covariance), 0)
    shares = variances / jnp.sum(variances, axis=1, keepdims=True)
    return -jnp.sum(shares * jnp.log(shares + 1e-8), axis=1)


def _passed(before: Float[Array, "batch *pixels channels"], after: Array) -> Score:
    """2 - s - 1 / s, s the largest singular value of the gradients before times those after."""
    same = before.shape == after.shape and jnp.all(before == after)
    rows = _folded(before, after.shape)
    matrix = rows.T @ after.reshape(-1, after.shape[-1]) / len(rows)
    largest = jnp.linalg.norm(matrix, ord=2)
    return jnp.where(same, -jnp.inf, 2 - largest - 1 / (largest + 1e-6))


def _folded(x: Float[Array, "batch *pixels channels"], shape: Sequence[int]) -> Array:
    """One row for each pixel of a smaller map, with the channels of all pixels that it covers."""
    sizes, smaller = x.shape[1:-1], tuple(shape[1:-1])
    if any(size % small for size, small in zip(sizes, smaller, strict=True)):
        raise ValueError(f"a block turns a map of {sizes} pixels into {smaller}, no divisors")
    split = [n for size, small in zip(sizes, smaller) for n in (small, size // small)]
    x = x.reshape(x.shape[0], *split, x.shape[-1])
    kept = [0, *range(1, 2 * len(sizes), 2)]
    folded = [*range(2, 2 * len(sizes) + 1, 2), x.ndim - 1]
    return jnp.transpose(x, [*kept, *folded]).reshape(x.shape[0] * int(np.prod(smaller)), -1)


def log_rank_sum(columns: Mapping[str, ArrayLike]) -> np.ndarray:
    """AZ-NAS' sum over scores of ln(rank / number of networks): a bad rank weighs most.

    Ranks rise with the score, ties share their mean, and what is not finite ranks last. A network's
    value depends on which others are ranked.

    >>> log_rank_sum({"first": [1.0, 3.0, 2.0], "second": [5.0, 5.0, float("nan")]}).round(3)
    array([-1.281, -0.182, -1.504])
    """
    logs = [np.log(ranks(column) / np.size(column)) for column in columns.values()]
    return np.sum(logs, axis=0)


def rank_sum(columns: Mapping[str, ArrayLike]) -> np.ndarray:
    """The sum over scores of rank / number of networks; ranks as in `log_rank_sum`."""
    return np.sum([ranks(column) / np.size(column) for column in columns.values()], axis=0)


def ranks(values: ArrayLike) -> np.ndarray:
    """Ranks from 1, the best last; ties share their mean, and what is not finite ranks last."""
    column = np.asarray(values, np.float64)
    column = np.where(np.isfinite(column), column, -np.inf)
    _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
