"""The DARTS space of convolutional cells."""

import functools
from collections.abc import Mapping

import numpy as np

from jaxdarts import genotypes
from jaxdarts.genotypes import Genotype
from jaxdarts.nn.cnn import Supernet
from jaxdarts.nn.network import Network
from jaxdarts.nn.ops import OPS
from jaxdarts.space import Choices, Space, fully_connected, of_genotype, random_pairs, seeded, strongest_two

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


def darts(num_nodes: int = 4, ops: tuple[str, ...] = PRIMITIVES) -> Space:
    """The space of Liu, Simonyan & Yang, `DARTS <https://arxiv.org/abs/1806.09055>`_, 2019: about 10^18 pairs of cells.

    Args:
        num_nodes: intermediate nodes of a cell; four give 14 edges.
        ops: candidates on every edge, `none` among them or not.

    Raises:
        ValueError: if there is no node, no candidate but `none`, or an unknown one.

    >>> space = darts()
    >>> len(space.cells["normal"].edges), space.cells["reduce"].shape
    (14, (14, 8))
    """
    ops = tuple(ops)
    if num_nodes < 1:
        raise ValueError(f"num_nodes is {num_nodes}: a cell has at least 1 intermediate node")
    unknown = [op for op in ops if op != "none" and op not in OPS]
    if unknown or len(set(ops)) != len(ops) or not set(ops) - {"none"}:
        raise ValueError(f"ops are {ops}: they must be different ones of none, {', '.join(OPS)}, and more than none")
    cells = {name: fully_connected(num_nodes, ops) for name in ("normal", "reduce")}
    return Space(
        cells=cells,
        supernet=functools.partial(Supernet, cells),
        network=network,
        discretize=functools.partial(_discretize, cells),
        sample=functools.partial(_sample, cells),
    )


def network(genotype: Genotype, width: int, depth: int, num_classes: int, **options) -> Network:
    """The network of any genotype of two convolutional cells, this space's or NASNet's; `options` as of `nn.network.Network`.

    Raises:
        ValueError: if the genotype is not sound.
    """
    genotypes.check(genotype)
    return Network(of_genotype(genotype), width, depth, num_classes, **options)


def _discretize(cells: Mapping[str, Choices], mix) -> Genotype:
    normal, reduce = (strongest_two(np.asarray(mix[name]), cells[name]) for name in ("normal", "reduce"))
    return Genotype(normal, cells["normal"].concat, reduce, cells["reduce"].concat)


def _sample(cells: Mapping[str, Choices], key) -> Genotype:
    rng = seeded(key)
    normal, reduce = (random_pairs(rng, cells[name]) for name in ("normal", "reduce"))
    return Genotype(normal, cells["normal"].concat, reduce, cells["reduce"].concat)
