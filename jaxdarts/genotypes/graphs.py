"""Equality of NAS-Bench-101's graphs: vertices that do not matter, and fingerprints of cells.

Ying, Klein, Christiansen, Real, Murphy & Hutter, `NAS-Bench-101
<https://arxiv.org/abs/1902.09635>`_, ICML 2019.
"""

import hashlib

from jaxdarts.genotypes.cells import GRAPH_OPS, GraphGenotype

MAX_VERTICES, MAX_EDGES = 7, 9
"""Of a cell of the benchmark, without what does not matter."""


def num_edges(genotype: GraphGenotype) -> int:
    """Edges of the graph as it is."""
    return sum(map(sum, genotype.matrix))


def pruned(genotype: GraphGenotype) -> GraphGenotype:
    """The graph without the vertices that are on no path from the input to the output.

    The rest keeps its order.

    Raises:
        ValueError: if there is no such path.

    >>> matrix = ((0, 1, 1, 0), (0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 0, 0))
    >>> pruned(GraphGenotype(matrix, ("input", *GRAPH_OPS[:2], "output"))).ops
    ('input', 'conv1x1-bn-relu', 'output')
    """
    last = len(genotype.ops) - 1
    ahead, back = {0}, {last}
    for v in range(1, last + 1):  # edges only lead to later vertices
        ahead |= {v} if any(genotype.matrix[w][v] for w in ahead) else set()
    for v in range(last - 1, -1, -1):
        back |= {v} if any(genotype.matrix[v][w] for w in back) else set()
    kept = sorted(ahead & back)
    if last not in ahead:
        raise ValueError("no path leads from the input of the graph to its output")
    return GraphGenotype(
        tuple(tuple(genotype.matrix[v][w] for w in kept) for v in kept),
        tuple(genotype.ops[v] for v in kept),
    )


def fingerprint(genotype: GraphGenotype) -> str:
    """The benchmark's hash of a cell, which graphs share that compute the same.

    423,624 cells have one each.

    A vertex starts from its out-degree, in-degree and operation, and takes in its neighbours'
    hashes as often as there are vertices; sorted, the results make the whole's (`hash_module` in
    the benchmark's code, down to the text that is hashed).

    Raises:
        ValueError: as `pruned`.

    >>> matrix = ((0, 1, 1, 0), (0, 0, 0, 1), (0, 0, 0, 1), (0, 0, 0, 0))
    >>> a = GraphGenotype(matrix, ("input", *GRAPH_OPS[:2], "output"))
    >>> b = GraphGenotype(matrix, ("input", *GRAPH_OPS[1::-1], "output"))
    >>> a == b, fingerprint(a) == fingerprint(b)
    (False, True)
    """
    matrix, ops = pruned(genotype)
    labels = [-1, *map(GRAPH_OPS.index, ops[1:-1]), -2]
    vertices = range(len(ops))
    entering = [[w for w in vertices if matrix[w][v]] for v in vertices]
    leaving = [[w for w in vertices if matrix[v][w]] for v in vertices]
    hashes = [_md5(str((len(leaving[v]), len(entering[v]), labels[v]))) for v in vertices]
    for _ in vertices:
        around = [
            ["".join(sorted(hashes[w] for w in side[v])) for side in (entering, leaving)]
            for v in vertices
        ]
        hashes = [_md5("|".join([*around[v], hashes[v]])) for v in vertices]
    return _md5(str(sorted(hashes)))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
