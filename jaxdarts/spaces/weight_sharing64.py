"""A space of 64 cells, small enough to train each of them.

Rankings by shared weights are measured on it.
"""

import functools
import itertools
from collections.abc import Mapping

import numpy as np

from jaxdarts import genotypes
from jaxdarts.genotypes import TopologyGenotype
from jaxdarts.genotypes.cells import all_edges
from jaxdarts.nn.benchmarks.weight_sharing import Network, Supernet
from jaxdarts.nn.ops import OPS, table
from jaxdarts.space import Choices, Size, Space, locate, of_genotype, seeded

CHILD_OPS = ("max_pool_3x3", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_5x5")
"""The candidates of every edge, 1 to 4 in a cell's name. The paper's text has a 3x3 kernel in the
last; its code, which the published accuracies come from, this one.
"""

EDGES = tuple(itertools.islice(all_edges(), 3))
CELLS: Mapping[str, Choices] = {
    "cell": Choices(EDGES, (CHILD_OPS,) * len(EDGES), (1, 2), num_inputs=1, kept=None)
}

NAMES = tuple("".join(digits) for digits in itertools.product("1234", repeat=len(EDGES)))
"""The cells' names in lexicographic order: a digit for the operation of each of the edges (0, 1),
(0, 2) and (1, 2).
"""

# fmt: off
PUBLISHED_ACCURACIES = tuple(value / 100_000 for value in (
    70139, 78517, 81124, 79846, 78508, 81913, 83046, 82852,
    80990, 83192, 83374, 83086, 79845, 82798, 83246, 82119,
    79290, 82040, 83200, 83061, 81424, 83302, 84081, 84287,
    83022, 83675, 84315, 84413, 82996, 84024, 84386, 84403,
    81568, 83054, 83559, 83424, 82922, 84043, 84670, 84562,
    83231, 84060, 84726, 84671, 83220, 84433, 84652, 84495,
    80657, 83004, 83162, 83005, 83013, 84698, 84757, 84731,
    83169, 84721, 85069, 85161, 82885, 84582, 84985, 84818,
))
# fmt: on
"""Test accuracy on CIFAR-10 of each cell, in the order of `NAMES`, trained alone for 200 epochs:
mean over ten seeds.

Zhang et al., 2020; ultmaster/deeper-insights-weight-sharing at 2a7f852, assets/gt_mean.txt.
"""


def weight_sharing64() -> Space:
    """The space of 64 cells for the study of rankings by shared weights.

    Zhang et al., Deeper Insights into Weight Sharing in Neural Architecture Search, 2020.

    One cell of three states, the first of them its input; each of the three edges carries one of
    four operations, and the output is both nodes side by side. `space.supernet` mixes them;
    `nn.weight_sharing.SinglePath` computes one child alone.

    >>> space = weight_sharing64()
    >>> len(NAMES), NAMES[59]
    (64, '434')
    >>> space.network(of_name("434"), num_classes=10).depth
    4
    """
    return Space(
        cells=CELLS,
        supernet=functools.partial(Supernet, CELLS),
        network=network,
        discretize=lambda mix: of_picks(np.argmax(np.asarray(mix["cell"]), axis=1)),
        sample=lambda key: of_picks(seeded(key).integers(len(CHILD_OPS), size=len(EDGES))),
        mutate=_mutate,
        name="weight_sharing64",
        title="the 64-cell space",
        kind=TopologyGenotype,
        ops=table(OPS[name] for name in CHILD_OPS),
        size=Size(16, 4),
        supernet_size=Size(16, 4),
        num_genotypes=len(NAMES),
    )


def network(
    genotype: TopologyGenotype, width: int = 16, depth: int = 4, num_classes: int = 10, **options
) -> Network:
    """The network of a cell; `options` as of `nn.weight_sharing.Network`.

    Raises:
        ValueError: if the genotype is not of this space.
    """
    picks_of(genotype)
    cell = of_genotype(genotype)["cell"]._replace(concat=CELLS["cell"].concat, kept=None)
    return Network({"cell": cell}, width, depth, num_classes, **options)


def of_picks(picks: np.ndarray) -> TopologyGenotype:
    """The cell that has on each edge the operation of a given number, counted from 0."""
    return TopologyGenotype(
        tuple((CHILD_OPS[k], source) for k, (source, _) in zip(picks, EDGES, strict=True))
    )


def picks_of(genotype: TopologyGenotype) -> np.ndarray:
    """The number of each edge's operation, [3].

    Raises:
        ValueError: if the genotype is not of this space.
    """
    genotypes.check(genotype, CHILD_OPS)
    return np.array([op for _, op in locate(CELLS, genotype)["cell"]], np.int32)


def of_name(name: str) -> TopologyGenotype:
    """The cell that three digits name.

    Raises:
        ValueError: if they name none.

    >>> print(of_name("124"))
    |max_pool_3x3~0|+|sep_conv_3x3~0|dil_conv_5x5~1|
    """
    if name not in NAMES:
        raise ValueError(
            f"{name!r} is no cell of this space: they are named 111 to 444, a digit from 1 to 4 for"
            " each edge"
        )
    return of_picks(np.array([int(digit) - 1 for digit in name]))


def name_of(genotype: TopologyGenotype) -> str:
    """The three digits of a cell; its number among all is `NAMES.index` of them.

    Raises:
        ValueError: if the genotype is not of this space.
    """
    return "".join(str(1 + k) for k in picks_of(genotype))


def all_picks() -> np.ndarray:
    """The operations of all cells in the order of `NAMES`, [64, 3]."""
    return np.array([[int(digit) - 1 for digit in name] for name in NAMES], np.int32)


def _mutate(key, genotype: TopologyGenotype) -> TopologyGenotype:
    """Another operation on one edge; all nine are equally likely."""
    picks, rng = picks_of(genotype), seeded(key)
    e = rng.integers(len(EDGES))
    picks[e] = (picks[e] + rng.integers(1, len(CHILD_OPS))) % len(CHILD_OPS)
    return of_picks(picks)
