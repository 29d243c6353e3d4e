"""The networks of the 64-model space: a stem of two convolutions and equal cells.

None of the cells reduces the map.

Zhang et al., Deeper Insights into Weight Sharing in Neural Architecture Search, 2020, and its code
(ultmaster/deeper-insights-weight-sharing), which is followed where the two differ: a cell's output
is its nodes side by side. A cell reads the cell before it alone, through a 1x1 convolution, and
keeps all its edges.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxdarts.nn.cell import cell, edges_of, weight_shapes
from jaxdarts.nn.cnn import cell_weights, linear, uniform
from jaxdarts.nn.inputs import OfImages, OfMix, OfPicks
from jaxdarts.nn.network import ConvNorm
from jaxdarts.nn.ops import OPS, Norms, pointwise
from jaxdarts.nn.primitives.norm import Running, batch_norms
from jaxdarts.space import Choices
from jaxdarts.types import Mix

MOMENTUM = 0.4
"""Share of a batch's moments in the running averages of all batch norms."""
NORMS = 2
"""Batch norms of an operation at most."""

Images = Float[Array, "batch height width channels"]
Logits = Float[Array, "batch classes"]


class Skeleton(nn.Module):
    """Skeleton of the three networks, and their weights.

    Attributes:
        cells: {"cell": its choices}; one input, and the same candidates on every edge.
        width: channels of a node, 16 in the paper; the stem has three times as many.
        depth: number of cells, 4 in the paper.
        num_classes: size of the output.
    """

    cells: Mapping[str, Choices]
    width: int = 16
    depth: int = 4
    num_classes: int = 10
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    def logits(
        self, images: Images, one, per_cell, train: bool, averages: bool
    ) -> tuple[Logits, Any]:
        """Applies the cells, compiled once for all of them.

        Args:
            images: what to classify.
            one: (input of a cell [1, batch, height, width, channels], its weights, its part of
              `per_cell`) -> (output, anything).
            per_cell: a tree with a leading axis over the cells.
            train, averages: whether the stem's norms use the batch's moments, and keep running
              averages.

        Returns:
            Logits, and what `one` returned besides, stacked over the cells.
        """
        stem_width, choices = 3 * self.width, self.cells["cell"]
        out_width = len(choices.concat) * self.width
        x = images
        for i in range(2):
            options = {
                "averages": averages,
                "momentum": MOMENTUM,
                "dtype": self.dtype,
                "axis_name": self.axis_name,
            }
            x = ConvNorm(stem_width, 3, padding=1, **options, name=f"stem{i}")(x, train)
        # All cells must see inputs of one shape: zero channels are added, and to the 1x1
        # convolutions zero rows.
        wide = max(stem_width, out_width)
        inputs = [stem_width] + [out_width] * (self.depth - 1)
        pairs = [
            (self.param(f"preprocess{i}", uniform(c), (c, self.width)), wide - c)
            for i, c in enumerate(inputs)
        ]
        preprocess = jnp.stack([jnp.pad(w, ((0, rest), (0, 0))) for w, rest in pairs])
        weights = cell_weights(self, choices, self.width, 1, self.depth)
        preprocess, weights = jax.tree.map(lambda w: w.astype(self.dtype), (preprocess, weights))

        def body(x, xs):
            preprocess, weights, per_cell = xs
            out, rest = one(pointwise(jax.nn.relu(x)[None], preprocess[None]), weights, per_cell)
            return jnp.pad(out, [(0, 0)] * 3 + [(0, wide - out_width)]), rest

        rest = None
        if not self.is_initializing():  # there, shapes are all that matters
            x = jnp.pad(x, [(0, 0)] * 3 + [(0, wide - stem_width)])
            x, rest = lax.scan(body, x, (preprocess, weights, per_cell))
        features = jnp.mean(
            x[..., :out_width].astype(jnp.promote_types(self.dtype, jnp.float32)), axis=(1, 2)
        )
        return linear(self, features, self.num_classes), rest


class Supernet(OfMix, Skeleton):
    """The supernet of the 64-model space: all operations on all edges, for any mix.

    It is `apply(variables, images, {"cell": [edges, ops]}, key=None) -> logits`.

    All norms use the moments of the batch, as in the other spaces' supernets. The key is not used.
    """

    @nn.compact
    def __call__(self, images: Images, mix: Mix, key: Key[Array, ""] | None = None) -> Logits:
        norm = functools.partial(batch_norms, axis_name=self.axis_name)

        def one(x, weights, unused):
            return cell(
                weights, norm([x])[0], mix["cell"], self.cells["cell"], 1, Norms(norm, norm)
            ), None

        return self.logits(images, one, None, train=True, averages=False)[0]


class SinglePath(OfPicks, Skeleton):
    """The network of the 64-model space with one operation an edge, chosen by an array.

    It is `apply(variables, images, picks, train=False) -> logits`.

    picks: [edges], the number of each edge's operation. Nothing else is computed, and one program
    serves all children. The weights are those of `Supernet`; the norms have running averages
    (collection `batch_stats`), in the cells those of every operation of every edge, and only the
    picked ones' are updated in training. A child is evaluated with them, as the authors do: its
    norms remember what other children did to their common states.
    """

    @nn.compact
    def __call__(
        self, images: Images, picks: Int[Array | np.ndarray, " edges"], train: bool = False
    ) -> Logits:
        return _one_child(self, images, jnp.asarray(picks), train)


class Network(OfImages, Skeleton):
    """The network of one child alone.

    It is `apply(variables, images, train=False, drop_path=None, key=None) -> (logits, None)`.

    `cells` have one operation an edge. There is no drop path, and the key is not used.
    """

    @nn.compact
    def __call__(
        self,
        images: Images,
        train: bool = False,
        drop_path: None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Logits, None]:
        return _one_child(
            self, images, jnp.zeros(len(self.cells["cell"].edges), jnp.int32), train
        ), None


def _one_child(
    module: Skeleton, images: Images, picks: Int[Array, " edges"], train: bool
) -> Logits:
    choices = module.cells["cell"]
    shapes = {
        "cell_input": (module.depth, 1, module.width),
        "cell": (module.depth, *choices.shape, NORMS, module.width),
    }
    kept = {
        (site, name): module.variable("batch_stats", f"{site}_{name}", start, shape)
        for site, shape in shapes.items()
        for name, start in (("mean", jnp.zeros), ("variance", jnp.ones))
    }

    def one(x, weights, averages):
        x, inputs = _normed(
            x, _of(averages, "cell_input"), 1, lambda x, norm: norm([x])[0], train, module.axis_name
        )
        out, nodes = path(
            weights, _of(averages, "cell"), x[0], picks, choices, train, module.axis_name
        )
        new = {("cell_input", name): value for name, value in inputs.items()}
        return out, new | {("cell", name): value for name, value in nodes.items()}

    values = {site: variable.value for site, variable in kept.items()}
    logits, new = module.logits(images, one, values, train, averages=True)
    if train and new is not None and module.is_mutable_collection("batch_stats"):
        for site, variable in kept.items():
            variable.value = new[site]
    return logits


def path(
    weights,
    averages,
    x: Images,
    picks: Int[Array, " edges"],
    choices: Choices,
    train: bool,
    axis_name: str | None,
):
    """The nodes of a cell of one operation an edge, side by side.

    The result also has the running averages after it.

    Args:
        weights: as of `nn.cell.cell`.
        averages: {"mean", "variance"} of the operations' norms, [edges, ops, norms, channels].
        x: the cell's input.
        picks: number of each edge's operation.
        choices: edges and candidates.
        train: whether norms use the batch's moments and average them.
        axis_name: the mapped axis that moments are averaged over.
    """

    def branch(op: str, e: int):
        def apply(x, of_edge):
            row = edges_of(choices, op).index(e)
            bundle = {name: w[row][None, None] for name, w in weights.get(op, {}).items()}

            def run(x, norm):
                y, last = OPS[op].family([bundle], x[None], 1, Norms(norm, norm))
                return last([y])[0][0, 0]

            return _normed(x, of_edge, 2, run, train, axis_name)

        # Else the forward pass would write zeros for whatever the branches not taken want to keep
        # for theirs.
        return jax.checkpoint(apply)

    states: dict[int, Array] = {0: x}
    for e, (source, target) in enumerate(choices.edges):
        of_edge = {name: value[e, picks[e]] for name, value in averages.items()}
        y, new = lax.switch(
            picks[e], [branch(op, e) for op in choices.ops[e]], states[source], of_edge
        )
        averages = {name: value.at[e, picks[e]].set(new[name]) for name, value in averages.items()}
        states[target] = states[target] + y if target in states else y
    return jnp.concatenate([states[i] for i in choices.concat], axis=-1), averages


def _of(averages: Mapping[tuple[str, str], Array], site: str) -> dict[str, Array]:
    return {name: value for (owner, name), value in averages.items() if owner == site}


def _normed(x, averages, lead: int, run, train: bool, axis_name: str | None):
    """Applies `run(x, norm)` with norms without scale and shift.

    The result also has the averages [norms, channels] after it; unused ones stay.

    lead: axes before the batch in what is normalised; groups and edges in a bundle.
    """
    ones, zeros = jnp.ones_like(averages["mean"]), jnp.zeros_like(averages["mean"])
    table = {**averages, "scale": ones, "shift": zeros}
    sites = [
        {name: value[i].reshape((1,) * lead + (-1,)) for name, value in table.items()}
        for i in range(ones.shape[0])
    ]
    norm = Running(sites, train, axis_name, MOMENTUM)
    y = run(x, norm)
    new = dict(averages)
    for i, site in enumerate(norm.averages):
        new = {name: value.at[i].set(site[name].reshape(-1)) for name, value in new.items()}
    return y, new


def used(
    choices: Choices, params: Mapping[str, Any], picks: Int[Array, " edges"]
) -> dict[str, Any]:
    """Masks of the weights of a `SinglePath` that a child has.

    Each mask broadcasts against its array.
    """
    mask: dict[str, Any] = jax.tree.map(lambda _: jnp.array(True), dict(params))
    for op in weight_shapes(choices, 1, 1):
        edges = edges_of(choices, op)
        kept = jnp.stack([picks[e] == choices.ops[e].index(op) for e in edges])
        for name in params:
            if name.startswith(f"{op}_"):  # [cells, edges, ...]
                mask[name] = kept.reshape(1, -1, *[1] * (params[name].ndim - 2))
    return mask


def prefix(tree: Mapping[str, Any], cells: int | Array) -> dict[str, Any]:
    """Masks of the weights, or running averages, of a `SinglePath` in its stem and first cells.

    Each mask broadcasts against its array; a cell begins with its 1x1 convolution, the classifier
    is no cell.
    """

    def of(name: str, value: Any) -> Any:
        if name.startswith("stem"):
            return jax.tree.map(lambda _: jnp.array(True), value)
        if name.startswith("head"):
            return jnp.array(False)
        if name.startswith("preprocess"):
            return jnp.asarray(int(name.removeprefix("preprocess")) < cells)
        return (jnp.arange(value.shape[0]) < cells).reshape(
            -1, *[1] * (value.ndim - 1)
        )  # [cells, ...]

    return {name: of(name, value) for name, value in tree.items()}
