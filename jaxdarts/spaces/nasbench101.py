"""The space of NAS-Bench-101: graphs of up to seven vertices and nine edges.

The benchmark has trained all of them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdarts import genotypes
from jaxdarts.data.benchmarks import nasbench101 as records
from jaxdarts.genotypes import GRAPH_OPS, GraphGenotype, pruned
from jaxdarts.genotypes.graphs import MAX_VERTICES
from jaxdarts.nn import costs
from jaxdarts.nn.benchmarks.nasbench101 import Network
from jaxdarts.space import Size, Space, Table, seeded

_EDGES = [(i, j) for j in range(MAX_VERTICES) for i in range(j)]


def nasbench101() -> Space:
    """The space of NAS-Bench-101: 423,624 cells.

    Ying et al., `NAS-Bench-101 <https://arxiv.org/abs/1902.09635>`_, ICML 2019.

    There is no mix that stands for any graph, and no weight-sharing network: `cells` is empty,
    `supernet` and `discretize` refuse. NAS-Bench-1Shot1's parts of this space have both
    (`nasbench1shot1_s1`, `_s2`, `_s3`).

    `sample` draws 21 fair edges and five operations anew until the graph is sound, as the
    benchmark's own random search does: it is uniform over the sound descriptions with seven
    vertices, not over cells, of which many have several. `mutate` changes one place of such a
    description, an edge or an operation, the two kinds equally likely and all places of a kind,
    anew until the result is sound. (The benchmark's own evolution flips each edge with probability
    1/7 and changes each operation with probability 1/5.) What it changes may not matter to the
    cell. A smaller graph gets vertices first that nothing reads.
    """
    return Space(
        cells={},
        supernet=_supernet,
        network=network,
        discretize=_discretize,
        sample=_sample,
        mutate=_mutate,
        name="nasbench101",
        **SHARED,
    )


def _read(path: str, dataset: str) -> records.Table:
    """The benchmark's record file, which is of CIFAR-10 alone."""
    if dataset != "cifar10":
        raise ValueError(f"NAS-Bench-101 knows cifar10 only, not {dataset}")
    return records.read(path)


def network(
    genotype: GraphGenotype, width: int = 128, depth: int = 3, num_classes: int = 10, **options
) -> Network:
    """The network of a graph, by default the benchmark's; `options` as of `nn.nasbench101.Network`.

    Raises:
        ValueError: if the genotype is not sound.
    """
    genotypes.check(genotype)
    return Network(pruned(genotype), width, depth, num_classes, **options)


SHARED: Mapping[str, Any] = {
    "title": "NAS-Bench-101",
    "kind": GraphGenotype,
    "size": Size(128, 3),
    "features": ("unroll",),
    "cost": costs.graph,
    "table": Table(_read),
}
"""What NAS-Bench-1Shot1's parts of this space have too (fields of `Space`)."""


def _supernet(*arguments, **options):
    raise ValueError(
        "NAS-Bench-101 has no weight-sharing network; its parts nasbench1shot1_s1, _s2 and _s3 do"
    )


def _discretize(mix):
    raise ValueError(
        "a mix stands for no graph of NAS-Bench-101; those of nasbench1shot1_s1, _s2 and _s3 do"
    )


def _sample(key) -> GraphGenotype:
    rng = seeded(key)
    while True:
        bits, picks = (
            rng.integers(2, size=len(_EDGES)),
            rng.integers(len(GRAPH_OPS), size=MAX_VERTICES - 2),
        )
        if _sound(genotype := _from_picks(bits, picks)):
            return genotype


def _mutate(key, genotype: GraphGenotype) -> GraphGenotype:
    genotypes.check(genotype)
    rng = seeded(key)
    genotype = _padded(genotype)
    bits = np.array([genotype.matrix[i][j] for i, j in _EDGES])
    picks = np.array([GRAPH_OPS.index(op) for op in genotype.ops[1:-1]])
    while True:
        new_bits, new_picks = bits.copy(), picks.copy()
        if rng.integers(2):
            new_bits[rng.integers(len(bits))] ^= 1
        else:
            vertex = rng.integers(len(picks))
            new_picks[vertex] = (picks[vertex] + rng.integers(1, len(GRAPH_OPS))) % len(
                GRAPH_OPS
            )  # the other two
        if _sound(new := _from_picks(new_bits, new_picks)):
            return new


def _padded(genotype: GraphGenotype) -> GraphGenotype:
    """A cell of seven vertices that is the same as the given one.

    It is pruned if it has more, with vertices that nothing reads before the output if fewer.
    """
    matrix, ops = genotype if len(genotype.ops) <= MAX_VERTICES else pruned(genotype)
    positions = [*range(len(ops) - 1), MAX_VERTICES - 1]
    padded = np.zeros((MAX_VERTICES, MAX_VERTICES), int)
    padded[np.ix_(positions, positions)] = matrix
    fillers = (GRAPH_OPS[1],) * (MAX_VERTICES - len(ops))
    return GraphGenotype(tuple(map(tuple, padded.tolist())), (*ops[:-1], *fillers, ops[-1]))


def _from_picks(bits: np.ndarray, picks: np.ndarray) -> GraphGenotype:
    matrix = np.zeros((MAX_VERTICES, MAX_VERTICES), int)
    matrix[tuple(np.transpose(_EDGES))] = bits
    return GraphGenotype(
        tuple(map(tuple, matrix.tolist())),
        ("input", *(GRAPH_OPS[pick] for pick in picks), "output"),
    )


def _sound(genotype: GraphGenotype) -> bool:
    try:
        genotypes.check(genotype)
    except ValueError:
        return False
    return True
