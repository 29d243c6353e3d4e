"""The networks of NAS-Bench-201: three stages of cells of one kind.

The stages are joined by residual blocks that halve the map.

Dong & Yang, `NAS-Bench-201 <https://arxiv.org/abs/2001.00326>`_, ICLR 2020; skeleton and residual
block as in its code. A cell reads the cell before it and nothing else, keeps its shape, and puts no
norm after pooling, in a supernet neither.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxdarts.nn.cell import cell, edges_of
from jaxdarts.nn.cnn import (
    Run,
    cell_weights,
    computed,
    linear,
    norm_sites,
    over_cells,
    uniform,
)
from jaxdarts.nn.inputs import OfImages, OfMix, OfPicks
from jaxdarts.nn.network import ConvNorm, drop_paths, scaled_norm
from jaxdarts.nn.ops import OPS, Norms
from jaxdarts.nn.path import path_cell
from jaxdarts.nn.primitives.norm import batch_norm, moments, scaled
from jaxdarts.nn.taps import layer, tapped, taps_of, tell
from jaxdarts.space import Choices
from jaxdarts.types import EveryMix, Params, Units

STAGES = 3

Images = Float[Array, "batch height width channels"]
Logits = Float[Array, "batch classes"]


class Stage(nn.Module):
    """Consecutive cells of one width, compiled once however many.

    Weights carry a leading axis, which a scan consumes.
    """

    choices: Choices
    depth: int
    dtype: DTypeLike
    axis_name: str | None
    remat: bool
    unroll: int
    discrete: bool
    partial: int = 1
    one_path: bool = False

    @nn.compact
    def __call__(self, x: Images, mix: Array, train: bool) -> Images:
        """Applies the cells for a mix [edges, ops].

        The mix is [cells, edges, ops] where cells differ in it, and [cells, edges, ops, batch]
        where examples do so too (drop path).
        """
        weights = cell_weights(self, self.choices, x.shape[-1] // self.partial, 1, self.depth)
        weights = jax.tree.map(lambda w: w.astype(self.dtype), weights)

        def one(x, of_cell, mix, norms):
            norms = norms._replace(pool=scaled)
            if self.one_path:
                return path_cell(of_cell, x[None], mix, self.choices, 1, norms)
            return cell(of_cell, x[None], mix, self.choices, 1, norms, partial=self.partial)

        sites = norm_sites(self, self.depth, one, x, weights, mix) if self.discrete else []
        if self.is_initializing():  # Shapes are all that matters.
            return x
        return over_cells(self, one, x, weights, sites, mix, train, self.depth)


class LastNorm(nn.Module):
    """A `scaled_norm` alone."""

    averages: bool
    axis_name: str | None

    @nn.compact
    def __call__(self, x, train: bool):
        return scaled_norm(self, x, train, self.axis_name, self.averages)


class Skeleton(nn.Module):
    """Skeleton of the supernet and the discrete network.

    Attributes:
        cells: {"cell": its choices}, in a discrete network one operation an edge
          (`space.of_genotype`).
        width: channels of the first stage; each of the other two has twice as many as the one
          before. 16 in the benchmark.
        depth: cells a stage, 5 in the benchmark.
        num_classes: size of the output.
    """

    cells: Mapping[str, Choices]
    width: int = 16
    depth: int = 5
    num_classes: int = 10
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    remat: bool = False
    unroll: int = 1

    def logits(
        self,
        images: Images,
        stage: Callable[[int, Images], Images],
        train: bool,
        discrete: bool,
        rectify: Callable[[Array], Array] = jax.nn.relu,
        normed: bool = True,
        residual_normed: bool = True,
        block: Callable[[Array], Array] = lambda x: x,
    ) -> Logits:
        """stage: (its number, x) -> x. discrete: norms have running averages. normed,
        residual_normed: whether the stem and the head, and the residual blocks, have norms. block:
        what is done to the outputs of the stem and of the residual blocks.
        """

        def conv(name, x, width, size, norm, stride=1):
            padding = size // 2
            options = {
                "norm": norm,
                "averages": discrete,
                "dtype": self.dtype,
                "axis_name": self.axis_name,
            }
            return ConvNorm(width, size, stride, padding, **options, name=name)(x, train)

        def rectified(x):
            return computed(self, rectify, x)

        x = block(conv("stem", images, self.width, 3, normed))
        for i in range(STAGES):
            if i:
                width = self.width * 2**i
                y = conv(f"reduction{i}_first", rectified(x), width, 3, residual_normed, stride=2)
                y = conv(f"reduction{i}_second", rectified(y), width, 3, residual_normed)
                half = computed(self, averaged_pairs, x)
                x = block(
                    computed(
                        self, jnp.add, y, conv(f"reduction{i}_shortcut", half, width, 1, False)
                    )
                )
            x = stage(i, x)
        if normed:
            x = LastNorm(discrete, self.axis_name, name="last_norm")(x, train)
        x = rectified(x)
        tell(self, "features", x)
        wide = jnp.promote_types(self.dtype, jnp.float32)
        features = computed(self, lambda x: jnp.mean(x.astype(wide), axis=(1, 2)), x)
        return layer(self, linear(self, features, self.num_classes), features.shape[-1])

    def mixed(
        self,
        images: Images,
        mixes: Sequence[Array],
        train: bool,
        discrete: bool,
        partial: int = 1,
        one_path: bool = False,
    ) -> Logits:
        """mixes: one a stage. discrete: with running averages in all batch norms and scale and
        shift in the cells' too. partial: as of `nn.cell`. one_path: see `Supernet`.
        """
        options = (self.dtype, self.axis_name, self.remat, self.unroll, discrete)
        kind = (partial, one_path)

        def stage(i, x):
            cells = Stage(self.cells["cell"], self.depth, *options, *kind, name=f"stage{i}")
            return cells(x, mixes[i], train)

        return self.logits(images, stage, train, discrete)


def averaged_pairs(x: Images) -> Float[Array, "batch half_height half_width channels"]:
    """2x2 average pooling with stride 2.

    Raises:
        ValueError: if height or width is odd.
    """
    batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        raise ValueError(
            f"a reduction of a {height}x{width} state: images must have a height and width that 4"
            " divides"
        )
    return jnp.mean(x.reshape(batch, height // 2, 2, width // 2, 2, channels), axis=(2, 4))


class Supernet(OfMix, Skeleton):
    """The weight-sharing network of NAS-Bench-201.

    It is `apply(variables, images, {"cell": [edges, ops]}, key=None) -> logits`; the mix may also
    be [cells, edges, ops], one for each of the cells of all stages in order.

    The key is not used; every supernet takes one. All norms use the moments of the batch, those of
    the cells without scale and shift, as in `nn.cnn.Supernet`. In the authors' searches the cells'
    norms have none either; whether they keep running averages for validation is an option there
    (track_running_stats), and the norms outside of the cells always do.

    With `partial` = k operations work on the first k-th of the channels, and the others bypass them
    (PC-DARTS; `nn.cell`); it divides the width. DrNAS' authors search this space so
    (201-space/search_cells.py). There the channels that bypass an edge have the weight one; here
    they have the edge's own, which is one under `relax.softmax`.

    With `one_path` the mix has at most one operation an edge, and no other is computed (`nn.path`).
    Then there are no partial channels.
    """

    partial: int = 1
    one_path: bool = False

    def num_cells(self) -> dict[str, int]:
        """How many cells there are in all stages."""
        return {"cell": STAGES * self.depth}

    @nn.compact
    def __call__(self, images: Images, mix: EveryMix, key: Key[Array, ""] | None = None) -> Logits:
        if self.partial < 1 or self.width % self.partial:
            raise ValueError(f"partial is {self.partial}: it must divide the width, {self.width}")
        if self.partial > 1 and self.one_path:
            raise ValueError(f"partial is {self.partial}: must be 1 in a network with one path")
        all_cells, kind = mix["cell"], (self.partial, self.one_path)
        mixes = [all_cells] * STAGES if all_cells.ndim == 2 else jnp.split(all_cells, STAGES)
        return self.mixed(images, mixes, True, False, *kind)


class Network(OfImages, Skeleton):
    """A discrete network of NAS-Bench-201.

    It is `apply(variables, images, train=False, drop_path=None, key=None) -> (logits, None)`.

    Variables are `params` and `batch_stats`, the running averages of the batch norms (momentum
    0.1). There is no auxiliary head. The benchmark's trainings drop no paths; those that do keep
    identities, as `nn.network.Network`.
    """

    @nn.compact
    def __call__(
        self,
        images: Images,
        train: bool = False,
        drop_path: Float[Array, ""] | float | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Logits, None]:
        choices = self.cells["cell"]
        mixes = [jnp.ones(choices.shape)] * STAGES
        if train and drop_path is not None and key is not None:
            runs = [Run("normal", self.depth, self.width * 2**i) for i in range(STAGES)]
            keys = [jax.random.fold_in(key, i) for i in range(STAGES)]
            mixes = [
                drop_paths(key, drop_path, choices, run, images.shape[0])
                for key, run in zip(keys, runs)
            ]
        return self.mixed(images, mixes, train, discrete=True), None


class Picked(OfPicks, Skeleton):
    """A supernet of which one operation an edge is computed.

    It is `apply(variables, images, picks) -> logits`.

    `picks` is an array, so that one compilation serves every cell: the place of each edge's
    operation among its candidates. The weights are the `Supernet`'s, and so are the logits where
    the mix is the picks' `one_hot`, at a fraction of the work.

    What scores look at is written into collections, if they are asked for (`mutable=`):

    - `units`: the `Units` of all rectifiers as the authors' networks have them. Every convolution
      has one of its own, so that a state counts as often as a convolution reads it. All of them
      reach the output in PyTorch's graph, where `none` is a multiplication by zero. The hook in
      the authors' code of NASWOT takes every module with ReLU in its name, and so the ReLUConvBN
      around a rectifier too: with `hooked`, all but the last count twice, as there. For B images
      the score is about B ln 2 higher then, and the order of cells the same.
    - `variances`: of the input of every norm, [channels] or [cells, edges, channels]; 1 where no
      norm is picked.
    - `features`: the map that is averaged for the head.
    - `taps`: zeros, [batch, channels] or [cells, edges, batch, channels]; see `nn.taps`.
    - `blocks`: the outputs of the stem, of the residual blocks and of the cells in order, [blocks,
      batch, height, width, channels] for each stage or other block. With `cuts`, arrays of these
      shapes, each is read as `stop_gradient(output) + cut`; see `proxies.az_nas`.

    Attributes:
        normed: without norms if False.
        residual_normed: whether the two residual blocks keep their norms where `normed` is False.
        biased: whether the convolutions of the cells have a bias.
        hooked: units are counted as the hook of NASWOT's authors does.

    The zero-cost proxies' authors score synflow with `normed=False, residual_normed=True,
    biased=True`: their switch does not reach the norms of the residual blocks.
    """

    normed: bool = True
    residual_normed: bool = False
    biased: bool = False
    hooked: bool = False

    @nn.compact
    def __call__(
        self, images: Images, picks: Int[Array, " edges"], cuts: Sequence[Array] | None = None
    ) -> Logits:
        alone = itertools.count()  # all others stand in a ReLUConvBN
        rest = itertools.repeat(None) if cuts is None else iter(cuts)

        def block(x):
            tell(self, "blocks", x[None])
            mine = next(rest)
            return x if mine is None else lax.stop_gradient(x) + mine[0]

        def rectify(x):
            last = next(alone) == 2 * (STAGES - 1)
            times = 2.0 if self.hooked and not last else 1.0
            tell(self, "units", Units(x[None] > 0, jnp.full(1, times)))
            return jax.nn.relu(x)

        def stage(i, x):
            options = (
                self.dtype,
                self.axis_name,
                self.remat,
                self.unroll,
                self.normed,
                self.biased,
                self.hooked,
            )
            cells = PickedStage(self.cells["cell"], self.depth, *options, name=f"stage{i}")
            x, outputs = cells(x, picks, next(rest))
            tell(self, "blocks", outputs)
            return x

        normed = (self.normed, self.normed or self.residual_normed)
        return self.logits(images, stage, True, False, rectify, *normed, block)


class PickedStage(nn.Module):
    """Consecutive cells of one width with one operation an edge.

    Their weights are those of `Stage`.

    A scan over the edges in one over the cells, so that each operation is compiled once.
    """

    choices: Choices
    depth: int
    dtype: DTypeLike
    axis_name: str | None
    remat: bool
    unroll: int
    normed: bool
    biased: bool
    hooked: bool

    @nn.compact
    def __call__(
        self, x: Images, picks: Int[Array, " edges"], cuts: Array | None
    ) -> tuple[Images, Float[Array, "cells batch height width channels"]]:
        """The last cell's output, and those of all cells."""
        choices, edges, nodes = self.choices, self.choices.edges, self.choices.num_nodes
        if len(set(choices.ops)) > 1:
            raise ValueError(
                "edges with different candidates cannot share a program: use a supernet's"
                " one-hot mix"
            )
        weights = cell_weights(self, choices, x.shape[-1], 1, self.depth)
        for op, of_op in weights.items() if self.biased else ():
            *_, size, _, channels, width = of_op["kernel"].shape
            shape = (*of_op["kernel"].shape[:2], width)
            of_op["bias"] = self.param(f"{op}_bias", uniform(size**2 * channels), shape)
        if self.is_initializing():  # Shapes are all that matters.
            return x, jnp.zeros((self.depth, *x.shape), x.dtype)
        # Rows are ordered by source; here by edge.
        order = np.argsort(edges_of(choices, next(iter(weights))))
        weights = jax.tree.map(lambda w: w[:, order].astype(self.dtype), weights)
        taps = taps_of(self, (self.depth, len(edges), x.shape[0], x.shape[-1]))
        branches = [functools.partial(self.operation, op) for op in choices.ops[0]]

        def edge(states, of_edge):
            pick, (source, target), *rest = of_edge
            y, variance = lax.switch(pick, branches, states[source], *rest)
            return states.at[target].add(y), variance

        def one(x, of_cell):
            *of_edges, cut = of_cell
            states = jnp.concatenate([x[None], jnp.zeros((nodes, *x.shape), x.dtype)])
            states, variances = lax.scan(edge, states, (picks, jnp.asarray(edges), *of_edges))
            y = states[-1]
            read = y if cut is None else lax.stop_gradient(y) + cut
            return read, (states[:-1] > 0, variances, y)

        one = jax.checkpoint(one) if self.remat else one
        x, (on, variances, outputs) = lax.scan(
            one, x, (weights, taps, cuts), unroll=min(self.unroll, self.depth)
        )
        rectified = jnp.asarray(
            choices.where(lambda op: op in OPS and bool(OPS[op].shapes(1, 1))), jnp.float32
        )
        reads = jnp.take_along_axis(rectified, picks[:, None], axis=1)[:, 0]
        counts = [
            (2 if self.hooked else 1)
            * sum(reads[e] for e, edge in enumerate(edges) if edge[0] == node)
            for node in range(nodes)
        ]
        tell(
            self, "units", Units(on.reshape(-1, *x.shape), jnp.tile(jnp.stack(counts), self.depth))
        )
        tell(self, "variances", variances)
        return x, outputs

    def operation(
        self, op: str, x: Images, weights: Mapping[str, Mapping[str, Array]], tap: Array | None
    ):
        """The output of the operation on an edge, and the variances of the inputs of its norms."""
        variances = jnp.ones(x.shape[-1])
        if op not in OPS:
            return jnp.zeros_like(x), variances
        of_op = {name: w[None, None] for name, w in weights.get(op, {}).items()}
        bias = of_op.pop("bias", None)
        bundle, _ = OPS[op].family([of_op], x[None], 1, Norms(scaled, scaled))
        y = bundle[0, 0]
        if of_op:
            y = y if bias is None else y + bias[None]
            y = y if tap is None else tapped(y, tap, math.prod(of_op["kernel"].shape[2:-1]))
            if self.normed:
                variances = moments(y, self.axis_name)[1].reshape(-1)
                y = batch_norm(y, axis_name=self.axis_name)
        return y, variances


def picked(cells: Mapping[str, Choices], params: Params, picks: Int[Array, " edges"]) -> Params:
    """A supernet's weights, zero where they belong to an operation that is not picked.

    The discrete network lacks these.
    """
    choices = cells["cell"]

    def keep(path, leaf):
        op = getattr(path[-1], "key", "").removesuffix("_kernel")
        if op not in OPS:
            return leaf
        mine = jnp.stack([picks[e] == choices.ops[e].index(op) for e in edges_of(choices, op)])
        return leaf * jnp.expand_dims(mine, (0, *range(2, leaf.ndim))).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(keep, params)
