"""A function of weights, or of architecture parameters, on a line or a plane through a point.

Li, Xu, Taylor, Studer & Goldstein, `Visualizing the Loss Landscape of Neural Nets
<https://arxiv.org/abs/1712.09913>`_, NeurIPS 2018, section 4: random directions are scaled filter
by filter to the length of the weights, since a network with batch norms does not feel the length of
a filter and a plane in plain units would show nothing but that.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import KeyPath
from jaxtyping import Array, Float, Key, PyTree

from jaxdarts.nn.ops import OPS
from jaxdarts.space import seeded
from jaxdarts.types import Params

FilterAxes = Callable[[KeyPath, Array], tuple[int, ...] | None]
"""(path of a leaf, leaf) -> the axes that lie within one filter; None for a leaf that has no
filters and does not move.
"""


def filter_axes(path: KeyPath, leaf: Array, ops: Iterable[str] = OPS) -> tuple[int, ...] | None:
    """Axes of a parameter over which one filter extends in this library's networks.

    A filter is all that makes one output channel of one layer.

    Layers have their outputs in the last axis. The operations of a cell are stacked, [cells, edges,
    ..., out], and so are the nodes of a recurrent cell; every cell, edge and node has filters of
    its own. The rows of an embedding are the output filters of the layer that shares them. Biases,
    and scales and shifts of batch norms, have one number a channel and none. `ops` names the
    operations (`Space.ops` of a space with operations of your own).
    """
    name = str(getattr(path[-1], "key", path[-1])) if path else ""
    if leaf.ndim < 2 or name.endswith(("scale", "shift", "bias")):
        return None
    if name in ("embedding", "nodes"):
        return (1,)
    stacked = any(name.startswith(f"{op}_") for op in ops)
    return tuple(range(2 if stacked else 0, leaf.ndim - 1))


def direction(params: Params, key: Key[Array, ""], axes: FilterAxes = filter_axes) -> Params:
    """A random direction, every filter of which is as long as the filter of `params`.

    Formula: d |w| / (|d| + 1e-10), d normal.

    Leaves without filters get zeros. Drawn on the host, where no shape has to be compiled: not for
    traced arrays.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    rng, out = seeded(key), []
    for path, leaf in leaves:
        within, weights = axes(path, leaf), np.asarray(leaf)
        draw = np.zeros(weights.shape) if within is None else rng.standard_normal(weights.shape)
        if within is not None:
            length, drawn = (
                np.sqrt(np.sum(x.astype(np.float64) ** 2, within, keepdims=True))
                for x in (weights, draw)
            )
            draw = draw * (length / (drawn + 1e-10))
        out.append(jnp.asarray(draw, leaf.dtype))
    return jax.tree.unflatten(structure, out)


def unit_direction(
    tree: PyTree[Float[Array, "..."]], key: Key[Array, ""]
) -> PyTree[Float[Array, "..."]]:
    """A random direction whose rows (last axis) have length one.

    It is meant for architecture parameters, a row of which is an edge.

    They are small where a search begins, so their own length is no measure. Drawn on the host.
    """
    rng = seeded(key)

    def one(leaf):
        draw = rng.standard_normal(leaf.shape)
        return jnp.asarray(
            draw / (np.linalg.norm(draw, axis=-1, keepdims=True) + 1e-10), leaf.dtype
        )

    return jax.tree.map(one, tree)


def moved(point: Any, directions: Sequence[Any], steps: Float[Array, " dimensions"]) -> Any:
    """The point plus `steps[i]` times direction i."""
    for step, along in zip(steps, directions, strict=True):
        point = jax.tree.map(lambda x, d, step=step: x + step.astype(x.dtype) * d, point, along)
    return point


def grid(
    num: int, span: float = 1.0, dimensions: int = 2
) -> Float[np.ndarray, "points dimensions"]:
    """Evenly spaced points, `num` along each dimension from -span to span.

    The first dimension varies fastest.

    >>> grid(3, dimensions=1).ravel().tolist(), grid(2).tolist()
    ([-1.0, 0.0, 1.0], [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    """
    axes = np.meshgrid(*[np.linspace(-span, span, num)] * dimensions, indexing="ij")
    return np.stack([axis.ravel() for axis in reversed(axes)], -1)


def values(
    function: Callable[[Any], Any],
    point: Any,
    directions: Sequence[Any],
    points: Float[Array | np.ndarray, "points dimensions"],
    together: int = 1,
) -> Any:
    """The values of a function at many points of a line or a plane.

    They are whatever the function returns, with a leading axis of points.

    Args:
        function: point -> a tree of arrays.
        point, directions: see `moved`.
        points: from `grid`, or a part of them.
        together: points that are computed at once (`jax.vmap`), for as many times the memory; the
          others follow in a loop.
    """
    return lax.map(
        lambda steps: function(moved(point, directions, steps)),
        jnp.asarray(points),
        batch_size=together,
    )
