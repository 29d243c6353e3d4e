"""Spaces of two convolutional cells, and DARTS' own."""

import functools
from collections.abc import Iterable, Mapping

import numpy as np

from jaxdarts import genotypes
from jaxdarts.genotypes import Genotype
from jaxdarts.nn import costs
from jaxdarts.nn.cnn import Supernet
from jaxdarts.nn.network import Network
from jaxdarts.nn.ops import OPS, Op, with_more
from jaxdarts.space import (
    Choices,
    Size,
    Space,
    fully_connected,
    mutated,
    of_genotype,
    random_pairs,
    seeded,
    strongest,
)

PRIMITIVES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The candidates in the published order, which is that of the columns of alpha and decides ties."""


def darts(num_nodes: int = 4, ops: tuple[str | Op, ...] = PRIMITIVES) -> Space:
    """The space of DARTS: about 10^18 pairs of cells.

    Liu, Simonyan & Yang, `DARTS <https://arxiv.org/abs/1806.09055>`_, 2019.

    Args:
        num_nodes: intermediate nodes of a cell; four give 14 edges.
        ops: candidates on every edge, `none` among them or not: names of the library's operations,
          and declarations of others.

    Raises:
        ValueError: if there is no node, no candidate but `none`, or an unknown one.

    >>> space = darts()
    >>> len(space.cells["normal"].edges), space.cells["reduce"].shape
    (14, (14, 8))
    """
    if num_nodes < 1:
        raise ValueError(f"num_nodes is {num_nodes}: a cell has at least 1 intermediate node")
    more = [op for op in ops if isinstance(op, Op)]
    names = tuple(op.name if isinstance(op, Op) else op for op in ops)
    choices = fully_connected(num_nodes, names)
    return of_cells(choices, choices, more_ops=more)._replace(name="darts", title="DARTS")


def of_cells(normal: Choices, reduce: Choices, *, more_ops: Iterable[Op] = ()) -> Space:
    """The space of all pairs of cells that two lists of edges and candidates allow.

    Every edge may have its own candidates.

    A genotype keeps two edges a node, each with its strongest candidate other than `none`
    (`space.strongest`).

    Args:
        normal, reduce: edges and names of the candidates.
        more_ops: declarations of those that the library does not have.

    Raises:
        ValueError: if a node cannot be read off its edges, or an edge has no candidate but `none`,
          or an unknown one.
    """
    cells, ops = {"normal": normal, "reduce": reduce}, with_more(more_ops)
    for name, choices in cells.items():
        _check(name, choices, ops)
    count = functools.partial(costs.two_cells, ops=ops)
    return Space(
        cells=cells,
        supernet=functools.partial(Supernet, cells, ops=ops),
        network=functools.partial(network, ops=ops),
        discretize=functools.partial(_discretize, cells),
        sample=functools.partial(_sample, cells),
        mutate=functools.partial(mutated, cells),
        ops=ops,
        size=Size(36, 20),
        supernet_size=Size(16, 8),
        features=("auxiliary", "imagenet", "drop_path", "unroll"),
        cost=functools.partial(costs.of_sum, count),
        costs=functools.partial(count, cells),
    )


def _check(name: str, choices: Choices, known: Mapping[str, Op]) -> None:
    edges, ops = choices.edges, choices.ops
    targets = [target for _, target in edges]
    in_order = targets == sorted(targets) and len(set(edges)) == len(edges) == len(ops)
    if not in_order or not all(0 <= source < target for source, target in edges):
        raise ValueError(
            f"{name}: edges are {edges}: they must be different pairs (source, later target),"
            " ordered by target, with a list of ops each"
        )
    nodes = range(2, max(targets, default=1) + 1)
    if not nodes or min(targets) < 2 or any(targets.count(node) < 2 for node in nodes):
        raise ValueError(f"{name}: edges are {edges}: every node, from 2 on, must have two or more")
    if not choices.concat or not set(choices.concat) <= set(nodes):
        raise ValueError(
            f"{name}: concat is {choices.concat}: it must be some of the nodes 2 to {nodes[-1]}"
        )
    for edge, of_edge in zip(edges, ops):
        names = set(of_edge)
        if len(names) != len(of_edge) or not names <= {"none", *known} or not names - {"none"}:
            raise ValueError(
                f"{name}, edge {edge}: ops are {of_edge}: they must be different ones of none,"
                f" {', '.join(known)}, and more than none"
            )


def network(
    genotype: Genotype,
    width: int,
    depth: int,
    num_classes: int,
    *,
    ops: Mapping[str, Op] = OPS,
    **options,
) -> Network:
    """The network of any genotype of two convolutional cells, this space's or NASNet's.

    `options` as of `nn.network.Network`.

    Raises:
        ValueError: if the genotype is not sound.
    """
    genotypes.check(genotype, ops)
    return Network(of_genotype(genotype), width, depth, num_classes, ops=ops, **options)


def _discretize(cells: Mapping[str, Choices], mix) -> Genotype:
    normal, reduce = (
        strongest(np.asarray(mix[name]), cells[name]) for name in ("normal", "reduce")
    )
    return Genotype(normal, cells["normal"].concat, reduce, cells["reduce"].concat)


def _sample(cells: Mapping[str, Choices], key) -> Genotype:
    rng = seeded(key)
    normal, reduce = (random_pairs(rng, cells[name]) for name in ("normal", "reduce"))
    return Genotype(normal, cells["normal"].concat, reduce, cells["reduce"].concat)
