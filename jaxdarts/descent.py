"""Rules for the weights' gradient: what the weights descend, where that is not the training loss.

A search step takes the gradient of the training loss. A `Rule` may change it, look at the
validation loss too, and keep a state from step to step.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxdarts.space import Choices
from jaxdarts.types import Params, Schedule


class Rule(NamedTuple):
    """Gradient that the weights descend.

    init: weights -> the rule's first state, a tree of arrays; None for a rule without one.
    gradient: (train, val, weights, mix, state, step, mean) -> ((gradient, auxiliary output of
    `train`), new state). train: (weights, mix) -> (training loss, auxiliary output); val: weights
    -> (validation loss, auxiliary output), at the mix of the architecture's step. Both are losses
    of one device's images; `mean` averages a tree over devices.
    """

    init: Callable[[Params], Any]
    gradient: Callable[..., tuple[tuple[Params, Any], Any]]


training_loss = Rule(
    lambda params: None,
    lambda train, val, params, mix, state, step, mean: (
        jax.grad(train, has_aux=True)(params, mix),
        state,
    ),
)
"""The weights descend the training loss."""


def early_stopping(
    operation_of: Callable[[Any], str | None],
    threshold: float = 0.4,
    num_batches: int = 20,
    axes: int = 2,
) -> Rule:
    """OLES: an operation's weights stop for good when its gradients disagree.

    Every `num_batches` steps the mean agreement of an operation since the last time is compared
    with `threshold`. The agreement of a step is the cosine between the training gradient and its
    sum with the validation gradient: along the output channels, the mean over the other axes of a
    weight, then over the operation's weights. A gradient of zero counts as zero. A step takes one
    gradient more than DARTS' does.

    Jiang, Ji, Zhu, Yuan & Huang, `Operation-Level Early Stopping
    <https://openreview.net/forum?id=yAOwkf4FyL>`_, NeurIPS 2023. The paper has the cosine between
    the two gradients; in its code, which made the threshold, the validation gradient is added to
    the training gradient that is still there.

    Args:
        operation_of: path of a weight in the tree -> name of its operation, or None for a weight of
          no operation (`of_cells`).
        threshold: smallest mean agreement that lets an operation go on.
        num_batches: steps between two decisions.
        axes: leading axes of a weight that tell operations of one name apart: cells and edges.
    """

    def names_of(tree: Params) -> list[str | None]:
        return [operation_of(path) for path, _ in jax.tree.leaves_with_path(tree)]

    def init(params):
        leaves = zip(names_of(params), jax.tree.leaves(params), strict=True)
        going = {name: jnp.ones(leaf.shape[:axes]) for name, leaf in leaves if name}
        return {"going": going, "sums": jax.tree.map(jnp.zeros_like, going), "count": jnp.int32(0)}

    def gradient(train, val, params, mix, state, step, mean):
        of_train, aux = jax.grad(train, has_aux=True)(params, mix)
        of_train, of_val = mean((of_train, jax.grad(val, has_aux=True)(params)[0]))
        seen: dict[str, list[Array]] = {name: [] for name in state["going"]}
        leaves = jax.tree.leaves(of_train), jax.tree.leaves(of_val)
        for name, g, v in zip(names_of(params), *leaves, strict=True):
            if name:
                places = tuple(range(axes, g.ndim - 1))
                seen[name].append(jnp.mean(cosine(g, g + v), axis=places))
        sums = {n: state["sums"][n] + jnp.mean(jnp.stack(every), 0) for n, every in seen.items()}
        count = state["count"] + 1
        ends = count == num_batches
        going = {
            name: jnp.where(ends & (sums[name] < threshold * num_batches), 0, before)
            for name, before in state["going"].items()
        }
        sums = jax.tree.map(lambda total: jnp.where(ends, 0, total), sums)
        left = [
            g * going[name].reshape(*g.shape[:axes], *[1] * (g.ndim - axes)) if name else g
            for name, g in zip(names_of(params), leaves[0], strict=True)
        ]
        state = {"going": going, "sums": sums, "count": jnp.where(ends, 0, count)}
        return (jax.tree.unflatten(jax.tree.structure(of_train), left), aux), state

    return Rule(init, gradient)


def aligned(num_cells: Mapping[str, int], weight: Schedule) -> Rule:
    """Lambda-DARTS: the weights also ascend the alignment of the cells' gradients.

    They descend train - weight(step) * alignment of the gradients of the training loss by the mix,
    each cell's own, summed over the kinds. The second term's gradient is one jvp of the training
    gradient, along the alignment's derivative by the cells' gradients.

    Movahedi et al., `Lambda-DARTS <https://arxiv.org/abs/2210.07998>`_, ICLR 2023, which takes it
    by a central difference.

    Args:
        num_cells: kinds of cells that are aligned, and how many of each the network has. It must
          take one mix a cell for them, [cells, edges, ops].
        weight: by step.

    Raises:
        ValueError: if there are less than two cells of a kind.
    """
    for name, number in num_cells.items():
        if number < 2:
            raise ValueError(f"the network has {number} {name} cells: two or more can be aligned")

    def gradient(train, val, params, mix, state, step, mean):
        def slopes_at(mixes):
            by = jax.grad(lambda w, m: train(w, {**mix, **m}), argnums=(0, 1), has_aux=True)
            return by(params, mixes)

        mixes = {
            name: jnp.broadcast_to(mix[name], (number, *mix[name].shape))
            for name, number in num_cells.items()
        }
        (plain, by_cell), aux = slopes_at(mixes)
        up = jax.grad(lambda slopes: sum(map(alignment, slopes.values()), 0.0))(mean(by_cell))
        # Behind the barrier the second look at the batch keeps nothing of the first one alive.
        mixes, up = lax.optimization_barrier((mixes, up))
        _, ascent = jax.jvp(lambda mixes: slopes_at(mixes)[0][0], (mixes,), (up,))
        rate = weight(step)
        return (jax.tree.map(lambda g, a: g - rate * a, plain, ascent), aux), state

    return Rule(lambda params: None, gradient)


def alignment(slopes: Float[Array, "cells edges ops"]) -> Float[Array, ""]:
    """Mean cosine between the gradients of two cells; zero for a single cell.

    >>> float(alignment(jnp.array([[[1.0, 0.0]], [[0.0, 2.0]], [[3.0, 0.0]]])))
    0.3333333432674408
    """
    number = len(slopes)
    flat = slopes.reshape(number, -1)
    squares = jnp.sum(flat * flat, axis=1, keepdims=True)
    units = jnp.where(squares > 0, flat, 0) * lax.rsqrt(jnp.where(squares > 0, squares, 1))
    return (jnp.sum(jnp.sum(units, 0) ** 2) - jnp.sum(units**2)) / max(number * (number - 1), 1)


def of_cells(cells: Mapping[str, Choices]) -> Callable[[Any], str | None]:
    """Which operation of a supernet's cells a weight belongs to, by its path in the tree.

    >>> from jax.tree_util import DictKey
    >>> choices = Choices(((0, 2),), (("none", "sep_conv_3x3"),), (2,))
    >>> operation_of = of_cells({"normal": choices})
    >>> operation_of((DictKey("cells0_normal"), DictKey("sep_conv_3x3_depthwise0")))
    'cells0_normal/sep_conv_3x3'
    >>> operation_of((DictKey("head"),)) is None
    True

    Raises:
        ValueError: for a network of your own, whose weights do not tell their operations.
    """
    if any(choices.names is not None for choices in cells.values()):
        raise ValueError(
            "the weights of this network do not tell their operations: give early_stopping a"
            " function that does"
        )
    ops = {op for choices in cells.values() for edge_ops in choices.ops for op in edge_ops}

    def operation_of(path):
        *module, weight = [str(entry.key) for entry in path]
        names = [op for op in ops if weight.startswith(f"{op}_")]
        return "/".join([*module, max(names, key=len)]) if names else None

    return operation_of


def cosine(a: Array, b: Array) -> Array:
    """Cosines between vectors along the last axis; zero where one of them is zero.

    >>> cosine(jnp.array([3.0, 4.0]), jnp.array([4.0, 3.0]))
    Array(0.96, dtype=float32)
    """
    squares = jnp.sum(a * a, axis=-1) * jnp.sum(b * b, axis=-1)
    norms = jnp.sqrt(jnp.where(squares > 0, squares, 1))
    return jnp.sum(a * b, axis=-1) / norms
