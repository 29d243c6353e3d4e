"""Width and depth of a cell, variants of the cell, and patterns of searched cells.

The variants have other connections or operations.

Shu, Wang & Cai, `Understanding Architectures Learnt by Cell-based Neural Architecture Search
<https://arxiv.org/abs/1909.09569>`_, ICLR 2020: the cells of five searches are about as wide and as
shallow as their spaces allow, since such cells converge faster; that they generalise better does
not follow. Definitions as in the paper's code.
"""

import collections
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdarts.genotypes import Genotype
from jaxdarts.genotypes.cells import OPS, Pairs

CELLS = ("normal", "reduce")


Source = np.random.Generator | np.random.RandomState
"""Where draws come from. The authors' lists of variants are those of the legacy one, seeded by 1,
2, ..., 10.
"""


class Topology(NamedTuple):
    """The shape of one cell.

    width: the channels of the nodes that the inputs feed, in multiples of the channels of one node:
    a node counts by the share
        of its two edges that come from an input.
    depth: edges on the longest path from an input to the output, the edge into the output included.
    All nodes are joined to
        the output here, whatever the cell's `concat` says.
    """

    width: float
    depth: int


def topology(pairs: Pairs) -> Topology:
    """Width and depth of a cell with two inputs, from its (operation, source state) pairs.

    There are two pairs a node.

    >>> from jaxdarts import genotypes
    >>> topology(genotypes.DARTS_V2.normal)
    Topology(width=3.5, depth=3)

    Raises:
        ValueError: if there is no node, or the pairs are not two for each.
    """
    if not pairs or len(pairs) % 2:
        raise ValueError(
            f"{len(pairs)} pairs; a cell with two inputs has two for each node, and one node at"
            " least"
        )
    depth = [0, 0]
    for node in range(len(pairs) // 2):
        depth.append(1 + max(depth[source] for _, source in pairs[2 * node : 2 * node + 2]))
    return Topology(sum(source < 2 for _, source in pairs) / 2, 1 + max(depth))


def all_topologies(num_nodes: int = 4) -> Iterator[Topology]:
    """Width and depth of every way to connect the nodes of a DARTS cell.

    Every node reads two different states before it. There are 180 ways for four nodes.
    """
    choices = [itertools.combinations(range(2 + node), 2) for node in range(num_nodes)]
    for sources in itertools.product(*choices):
        yield topology(tuple(("", source) for pair in sources for source in pair))


def counts(num_nodes: int = 4) -> dict[Topology, int]:
    """Number of connections with each width and depth, ordered by width, then by depth.

    >>> counts(2)
    {Topology(width=1.5, depth=3): 2, Topology(width=2.0, depth=2): 1}
    """
    return dict(sorted(collections.Counter(all_topologies(num_nodes)).items()))


def reconnected(genotype: Genotype, rng: Source) -> Genotype:
    """A cell with the same operations, every source drawn anew.

    Sources are uniform over the states before the node.

    The two sources of a node are drawn independently and may coincide. A normal and a reduction
    cell of one size take turns, edge by edge, so that `numpy.random.RandomState(seed)` gives the
    authors' variant of that seed (their `random_conn`).
    """
    cells = {name: list(getattr(genotype, name)) for name in CELLS}
    for i in range(max(map(len, cells.values()))):
        for pairs in cells.values():
            if i < len(pairs):
                pairs[i] = (pairs[i][0], int(rng.choice(i // 2 + 2)))
    return genotype._replace(normal=tuple(cells["normal"]), reduce=tuple(cells["reduce"]))


def reoperated(genotype: Genotype, rng: Source, ops: Sequence[str] = OPS[:7]) -> Genotype:
    """A cell with the same connections, every operation drawn anew.

    Operations are uniform over `ops`: by default the seven of DARTS but `none`.

    All of the normal cell first, so that `numpy.random.RandomState(seed)` gives the authors'
    variant here too (`random_ops`).
    """
    normal, reduce = (
        tuple((ops[int(rng.choice(len(ops)))], s) for _, s in pairs)
        for pairs in (genotype.normal, genotype.reduce)
    )
    return genotype._replace(normal=normal, reduce=reduce)


def adapted(genotype: Genotype) -> Genotype:
    """A cell with the same operations, connected as wide and shallow as can be.

    Every node reads both inputs, keeping the one it read.
    """

    def both(a: int, b: int) -> tuple[int, int]:
        if a < 2 and a != b:
            return a, 1 - a
        return (1 - b, b) if b < 2 and a != b else (0, 1)

    def wired(pairs: Pairs) -> Pairs:
        sources = [s for i in range(0, len(pairs), 2) for s in both(pairs[i][1], pairs[i + 1][1])]
        return tuple((op, s) for (op, _), s in zip(pairs, sources, strict=True))

    return genotype._replace(normal=wired(genotype.normal), reduce=wired(genotype.reduce))


def variants(
    genotype: Genotype,
    rng: Source,
    widths: Sequence[float] = (2.0, 2.5, 3.0, 3.5),
    each: int = 3,
    draws: int = 100_000,
) -> list[Genotype]:
    """Different `reconnected` cells whose normal cells have given widths, `each` of a width.

    The narrow and deep ones come first.

    The paper compares twelve of such variants with the cell of DARTS. Which ones is not known.

    Raises:
        ValueError: if `draws` draws do not give them: the width does not exist, or is rare.
    """
    groups: dict[float, list[Genotype]] = {float(width): [] for width in widths}
    for _ in range(draws):
        if all(len(cells) == each for cells in groups.values()):
            break
        other = reconnected(genotype, rng)
        group = groups.get(topology(other.normal).width)
        if group is not None and len(group) < each and other not in (genotype, *group):
            group.append(other)
    for width, cells in groups.items():
        if len(cells) < each:
            raise ValueError(
                f"{draws} draws gave {len(cells)} different cells of width {width:g}, not {each}"
            )
    ordered = sorted(groups)
    return [
        cell
        for width in ordered
        for cell in sorted(groups[width], key=lambda cell: -topology(cell.normal).depth)
    ]


def pattern(genotypes: Mapping[str, Genotype]) -> list[dict[str, Any]]:
    """Width and depth of cells, compared with all connections of as many nodes.

    There is one row for every normal and every reduction cell.

    Returns:
        Rows of `name`, `cell`, `nodes`, `width`, `depth`; `wider` and `shallower`, the fractions of
        `all_topologies` that are more so than the cell; and `extreme`, whether none is.
    """
    rows = []
    for name, genotype in genotypes.items():
        for cell in CELLS:
            pairs = getattr(genotype, cell)
            current, every = topology(pairs), list(all_topologies(len(pairs) // 2))
            wider, shallower = (
                float(np.mean([test(other) for other in every]))
                for test in (
                    lambda other: other.width > current.width,
                    lambda other: other.depth < current.depth,
                )
            )
            row = {
                "name": name,
                "cell": cell,
                "nodes": len(pairs) // 2,
                "width": current.width,
                "depth": current.depth,
            }
            rows.append(
                {
                    **row,
                    "wider": wider,
                    "shallower": shallower,
                    "extreme": not wider and not shallower,
                }
            )
    return rows
