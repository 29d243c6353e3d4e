"""NAS-Bench-1Shot1: three parts of NAS-Bench-101 that have a weight-sharing network.

Every cell's accuracy is known.

Zela, Siems & Hutter, `NAS-Bench-1Shot1 <https://arxiv.org/abs/2001.10422>`_, ICLR 2020. A cell has
blocks, each with one of three operations, that read a given number of the vertices before them, as
the output does. Its mix has three parts: `ops`, a row a block; `inputs`, a row of sources for every
block that does not read all vertices before it; and `output`, one row of sources. A relaxation
treats all rows alike; a genotype keeps one operation and the given number of sources
(`Choices.picks`).

Genotypes are those of NAS-Bench-101, with all blocks as they were chosen, also such that nothing
reads: `genotypes.pruned` drops those, as tables, fingerprints and networks do by themselves. A
space has fewer cells than descriptions; the authors' generator of cells without loose ends makes
fewer still, 2,487, 3,609 and 24,066, for it leaves some graphs out.
"""

import functools
from collections.abc import Callable, Mapping

import numpy as np

from jaxdarts.genotypes import GraphGenotype
from jaxdarts.nn.benchmarks.nasbench1shot1 import Supernet
from jaxdarts.space import Choices, Size, Space, one_hot, seeded
from jaxdarts.spaces.nasbench101 import SHARED, network

OPS = ("maxpool3x3", "conv3x3-bn-relu", "conv1x1-bn-relu")
"""The candidates in the order of the benchmark's columns of alpha, which decides ties."""


def nasbench1shot1_s1() -> Space:
    """Search space 1: four blocks that read 1, 2, 2 and 2 vertices, the output 2.

    14,580 descriptions of 2,685 cells.

    >>> {name: choices.shape for name, choices in nasbench1shot1_s1().cells.items()}
    {'ops': (4, 3), 'inputs': (2, 4), 'output': (1, 5)}
    """
    return _of_parents(1, 2, 2, 2, 2, name="nasbench1shot1_s1")


def nasbench1shot1_s2() -> Space:
    """Search space 2: four blocks that read 1, 1, 2 and 2 vertices, the output 3.

    29,160 descriptions of 7,773 cells.
    """
    return _of_parents(1, 1, 2, 2, 3, name="nasbench1shot1_s2")


def nasbench1shot1_s3() -> Space:
    """Search space 3: five blocks that read 1, 1, 1, 2 and 2 vertices, the output 2.

    1,312,200 descriptions of 55,854 cells.
    """
    return _of_parents(1, 1, 1, 2, 2, 2, name="nasbench1shot1_s3")


def _of_parents(*parents: int, name: str = "") -> Space:
    """The space whose vertices, the output last, read given numbers of vertices before them."""
    last = len(parents)

    def rows(targets):
        ops = tuple(tuple(map(str, range(target))) for target in targets)
        picks = tuple(parents[target - 1] for target in targets)
        return Choices(
            tuple((target, target) for target in targets),
            ops,
            (last,),
            num_inputs=1,
            kept=None,
            picks=picks,
        )

    blocks = range(1, last)
    cells = {
        "ops": Choices(
            tuple((v, v) for v in blocks), (OPS,) * len(blocks), (last,), num_inputs=1, kept=None
        ),
        "inputs": rows([v for v in blocks if parents[v - 1] < v]),
        "output": rows([last]),
    }
    return Space(
        cells=cells,
        supernet=functools.partial(Supernet, cells),
        network=network,
        discretize=functools.partial(_discretize, cells),
        sample=functools.partial(_sample, cells),
        mutate=functools.partial(_mutate, cells),
        name=name,
        supernet_size=Size(16, 9),
        **SHARED,
    )


def _picked(choices: Choices, choose: Callable[[int, int], np.ndarray]) -> list[list[int]]:
    """For every row the candidates that `choose(row, how many)` names, in order."""
    picks = choices.picks or (1,) * len(choices.ops)
    return [sorted(choose(row, count).tolist()) for row, count in enumerate(picks)]


def _discretize(cells: Mapping[str, Choices], mix) -> GraphGenotype:
    """The strongest candidates of every row; ties go to the first.

    (The authors' code leaves them to a partial sort.)
    """

    def choose(name):
        weights = np.asarray(mix[name])
        return lambda row, count: np.argsort(
            -weights[row, : len(cells[name].ops[row])], kind="stable"
        )[:count]

    return _genotype(
        cells, {name: _picked(choices, choose(name)) for name, choices in cells.items()}
    )


def _sample(cells: Mapping[str, Choices], key) -> GraphGenotype:
    """Uniform over descriptions, not over cells."""
    rng = seeded(key)

    def choose(choices):
        return lambda row, count: rng.permutation(len(choices.ops[row]))[:count]

    return _genotype(
        cells, {name: _picked(choices, choose(choices)) for name, choices in cells.items()}
    )


def _mutate(cells: Mapping[str, Choices], key, genotype: GraphGenotype) -> GraphGenotype:
    """Mutation: one candidate of one row makes way for another.

    All rows, and a row's candidates, are equally likely.

    Raises:
        ValueError: if the genotype is not of this space.
    """
    mix = {name: np.array(weights) for name, weights in one_hot(cells, genotype).items()}
    rng = seeded(key)
    rows = [(name, row) for name, choices in cells.items() for row in range(len(choices.edges))]
    name, row = rows[rng.integers(len(rows))]
    weights = mix[name][row, : len(cells[name].ops[row])]  # a view
    old, new = (rng.choice(np.flatnonzero(weights == value)) for value in (1, 0))
    weights[old], weights[new] = 0, 1
    return _discretize(cells, mix)


def _genotype(cells: Mapping[str, Choices], picked: Mapping[str, list[list[int]]]) -> GraphGenotype:
    (last,) = cells["ops"].concat
    matrix = np.triu(np.ones((last + 1, last + 1), int), 1)  # who has no row reads all before it
    for name in ("inputs", "output"):
        for (_, target), sources in zip(cells[name].edges, picked[name], strict=True):
            matrix[:, target] = 0
            matrix[sources, target] = 1
    rows = zip(cells["ops"].ops, picked["ops"], strict=True)
    ops = tuple(candidates[pick] for candidates, (pick,) in rows)
    return GraphGenotype(tuple(map(tuple, matrix.tolist())), ("input", *ops, "output"))
