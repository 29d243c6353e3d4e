"""The topology space of NAS-Bench-201 and NATS-Bench: 5^6 = 15,625 cells, each of which the benchmark has trained."""

import functools
import itertools
from collections.abc import Mapping

import numpy as np

from jaxdarts import genotypes
from jaxdarts.genotypes import TOPOLOGY_OPS, TopologyGenotype
from jaxdarts.genotypes.cells import all_edges
from jaxdarts.nn.nasbench201 import Network, Supernet
from jaxdarts.space import Choices, Space, of_genotype, seeded


def nasbench201() -> Space:
    """The space of Dong & Yang, `NAS-Bench-201 <https://arxiv.org/abs/2001.00326>`_, ICLR 2020.

    One cell of four states, the first of them its input and the last its output; an edge between any two of them, with `none`
    among its five candidates. `discretize` keeps the strongest one of every edge, `none` too; ties go to the first.

    >>> space = nasbench201()
    >>> space.cells["cell"].shape
    (6, 5)
    >>> print(space.discretize(space.supernet().example_mix()))
    |none~0|+|none~0|none~1|+|none~0|none~1|none~2|
    """
    edges = tuple(itertools.islice(all_edges(), 6))
    cells = {"cell": Choices(edges, (TOPOLOGY_OPS,) * len(edges), (3,), num_inputs=1, kept=None)}
    return Space(
        cells=cells,
        supernet=functools.partial(Supernet, cells),
        network=network,
        discretize=functools.partial(_discretize, cells),
        sample=functools.partial(_sample, cells),
    )


def network(genotype: TopologyGenotype, width: int = 16, depth: int = 5, num_classes: int = 10, **options) -> Network:
    """The network of a cell, by default the benchmark's on CIFAR-10; `options` as of `nn.nasbench201.Network`.

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


def _genotype(choices: Choices, picks: np.ndarray) -> TopologyGenotype:
    return TopologyGenotype(tuple((ops[k], source) for ops, (source, _), k in zip(choices.ops, choices.edges, picks)))
