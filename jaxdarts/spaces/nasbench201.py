"""The topology space of NAS-Bench-201 and NATS-Bench, 5^6 = 15,625 cells, and its smaller sister.

The benchmarks have trained each of the cells.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from jaxdarts import genotypes
from jaxdarts.data.benchmarks import tabular
from jaxdarts.genotypes import TOPOLOGY_OPS, TRANSNAS_OPS, TopologyGenotype
from jaxdarts.genotypes.cells import all_edges
from jaxdarts.nn import costs
from jaxdarts.nn.benchmarks.nasbench201 import Network, Supernet
from jaxdarts.space import Choices, Size, Space, Table, locate, of_genotype, seeded


def nasbench201(ops: Sequence[Sequence[str]] = ()) -> Space:
    """The space of Dong & Yang, `NAS-Bench-201 <https://arxiv.org/abs/2001.00326>`_, ICLR 2020.

    One cell of four states, the first of them its input and the last its output; an edge between
    any two of them, with `none` among its five candidates. `discretize` keeps the strongest one of
    every edge, `none` too; ties go to the first.

    Args:
        ops: the candidates of each edge, equally many and some of the five, as in the later stages
          of a search; by default all five.

    Raises:
        ValueError: if they are not.

    >>> space = nasbench201()
    >>> space.cells["cell"].shape
    (6, 5)
    >>> print(space.discretize(space.supernet().example_mix()))
    |none~0|+|none~0|none~1|+|none~0|none~1|none~2|
    """
    return _space(ops, TOPOLOGY_OPS)


def transnas_micro(ops: Sequence[Sequence[str]] = ()) -> Space:
    """The 4^6 = 4,096 cells of TransNAS-Bench-101's micro space.

    They have the edges of NAS-Bench-201's and no pooling: `none`, `skip_connect`, `nor_conv_1x1`
    and `nor_conv_3x3`. Networks here are those that NAS-Bench-201 makes of a cell. The benchmark's
    own have a stem that divides the map by four, and five modules of two cells, of which the first
    of three modules halve the map inside the cell; they are not built here.

    Args:
        ops: as of `nasbench201`.

    Raises:
        ValueError: as `nasbench201`.

    >>> from jaxdarts import genotypes
    >>> space = transnas_micro()
    >>> genotypes.to_transnas(space.discretize(space.supernet().example_mix()))
    '64-41414-0_00_000'

    Duan et al., `TransNAS-Bench-101 <https://arxiv.org/abs/2105.11871>`_, CVPR 2021.
    """
    return _space(ops, TRANSNAS_OPS)._replace(
        name="transnas_micro",
        title="TransNAS-Bench-101's micro space",
        table=Table(tabular.read_transnas, tabular.column),
    )


def _space(ops: Sequence[Sequence[str]], known: tuple[str, ...]) -> Space:
    """The space of some of the known operations on each edge."""
    edges = tuple(itertools.islice(all_edges(), 6))
    by_edge = tuple(map(tuple, ops)) or (known,) * len(edges)
    for names in by_edge:
        if not set(names) <= set(known) or len(names) != len(by_edge[0]) or not names:
            raise ValueError(
                f"candidates {', '.join(names)}: needed are equally many on every edge, among"
                f" {', '.join(known)}"
            )
    if len(by_edge) != len(edges):
        raise ValueError(f"candidates of {len(by_edge)} edges; the cell has {len(edges)}")
    cells = {"cell": Choices(edges, by_edge, (3,), num_inputs=1, kept=None)}
    return Space(
        cells=cells,
        supernet=functools.partial(Supernet, cells),
        network=network,
        discretize=functools.partial(_discretize, cells),
        sample=functools.partial(_sample, cells),
        mutate=functools.partial(_mutate, cells),
        name="nasbench201",
        title="NAS-Bench-201",
        kind=TopologyGenotype,
        size=Size(16, 5),
        supernet_size=Size(16, 5),
        features=("drop_path", "unroll"),
        cost=functools.partial(costs.of_sum, costs.one_cell),
        costs=functools.partial(costs.one_cell, cells),
        table=Table(tabular.read, tabular.column),
        num_genotypes=len(by_edge[0]) ** len(edges),
    )


def network(
    genotype: TopologyGenotype, width: int = 16, depth: int = 5, num_classes: int = 10, **options
) -> Network:
    """The network of a cell, by default the benchmark's on CIFAR-10.

    `options` as of `nn.nasbench201.Network`.

    Raises:
        ValueError: if the genotype is not sound.
    """
    genotypes.check(genotype)
    return Network(of_genotype(genotype), width, depth, num_classes, **options)


def _discretize(cells: Mapping[str, Choices], mix) -> TopologyGenotype:
    return _genotype(cells["cell"], np.argmax(np.asarray(mix["cell"]), axis=1))


def _sample(cells: Mapping[str, Choices], key) -> TopologyGenotype:
    edges, ops = cells["cell"].shape
    return _genotype(cells["cell"], seeded(key).integers(ops, size=edges))


def _mutate(cells: Mapping[str, Choices], key, genotype) -> TopologyGenotype:
    """Another operation on one edge.

    A node is drawn, then one of the edges that enter it: the edge of the first node changes in a
    third of all cases, each of the last node's in a ninth. So does the benchmark's evolution
    (AutoDL-Projects, exps/NATS-algos/regularized_ea.py).

    Raises:
        ValueError: if the genotype is not of this space.
    """
    choices = cells["cell"]
    picks = np.array([op for _, op in locate(cells, genotype)["cell"]])
    rng = seeded(key)
    entering = list(choices.entering().values())
    edges = entering[rng.integers(len(entering))]
    e = edges[rng.integers(len(edges))]
    # Adding 1 to 4 modulo 5 gives the other four, each as likely as the others.
    picks[e] = (picks[e] + rng.integers(1, len(choices.ops[e]))) % len(choices.ops[e])
    return _genotype(choices, picks)


def _genotype(choices: Choices, picks: np.ndarray) -> TopologyGenotype:
    return TopologyGenotype(
        tuple((ops[k], source) for ops, (source, _), k in zip(choices.ops, choices.edges, picks))
    )
