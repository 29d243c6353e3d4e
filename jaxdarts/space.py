"""A search space as data: which edges a cell has, which operations each may carry, and a few
functions around them.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key

from jaxdarts.genotypes import (
    AnyGenotype,
    Genotype,
    GraphGenotype,
    RecurrentGenotype,
    SizeGenotype,
    TopologyGenotype,
)
from jaxdarts.genotypes.cells import all_edges
from jaxdarts.types import Mix, Module


class Choices(NamedTuple):
    """One cell of a space, or of a network: then every edge has one operation.

    edges: (source, target) states, ordered by target; the first states are the cell's inputs.
    ops: the candidate operations of each edge, in the order of its row of mixture weights.
    concat: the states that make up the cell's output.
    num_inputs: the outputs of the two cells before, or of one only.
    kept: edges that a genotype keeps of those that enter a node, with an operation other than
    `none` on each; None where it
        keeps all of them and `none` is an operation like the others.
    picks: candidates of each row that a genotype keeps together, where that is not one:
    NAS-Bench-1Shot1's rows offer sources
        (`spaces.nasbench1shot1`).
    """

    edges: tuple[tuple[int, int], ...]
    ops: tuple[tuple[str, ...], ...]
    concat: tuple[int, ...]
    num_inputs: int = 2
    kept: int | None = 2
    picks: tuple[int, ...] | None = None

    @property
    def num_nodes(self) -> int:
        """Number of nodes, the states that are no inputs."""
        return max(target for _, target in self.edges) + 1 - self.num_inputs

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the cell's mix; edges with fewer candidates than others leave the end of their
        row unused.
        """
        return len(self.edges), max(map(len, self.ops))

    def where(self, test: Callable[[str], bool] = lambda op: True) -> Bool[np.ndarray, "edges ops"]:
        """Where the mix has the weight of an operation that passes a test; nowhere at the unused
        end of a row.
        """
        return np.array(
            [[o < len(ops) and test(ops[o]) for o in range(self.shape[1])] for ops in self.ops]
        )

    def derivable(self) -> Bool[np.ndarray, "edges ops"]:
        """Where the mix has the weight of an operation that a genotype may keep."""
        return self.where(lambda op: op != "none" or self.kept is None)

    def entering(self) -> dict[int, list[int]]:
        """The edges that enter each node."""
        nodes = sorted({target for _, target in self.edges})
        return {
            node: [e for e, (_, target) in enumerate(self.edges) if target == node]
            for node in nodes
        }


class Space(NamedTuple):
    """A search space.

    cells: the choices of each cell type.
    supernet: (width, depth, num_classes, ...) -> the weight-sharing network; (width, vocabulary,
    ...) of a recurrent cell. network: (genotype, width, depth, num_classes, ...) -> the discrete
    network, to train from scratch; likewise. discretize: mix -> the genotype that it stands for.
    sample: key -> a uniformly random genotype. mutate: (key, genotype) -> another genotype of the
    space, which differs in one place; the step of evolutionary searches.
    """

    cells: Mapping[str, Choices]
    supernet: Callable[..., Module]
    network: Callable[..., Module]
    discretize: Callable[[Mix], Any]
    sample: Callable[[Key[Array, ""]], Any]
    mutate: Callable[[Key[Array, ""], Any], Any]


def fully_connected(num_nodes: int, ops: tuple[str, ...]) -> Choices:
    """Every node reads both inputs and all earlier nodes; all edges offer the same operations."""
    edges = tuple(
        (source, target) for target in range(2, num_nodes + 2) for source in range(target)
    )
    return Choices(edges, (ops,) * len(edges), tuple(range(2, num_nodes + 2)))


def of_genotype(genotype: AnyGenotype) -> dict[str, Choices]:
    """The cells of a discrete network, as choices among one operation an edge.

    Raises:
        ValueError: if this is no genotype.
    """
    if type(genotype) not in _CELLS:
        raise ValueError(
            f"a {type(genotype).__name__} has no cells; there are"
            f" {', '.join(kind.__name__ for kind in _CELLS)}"
        )
    return _CELLS[type(genotype)](genotype)


def _two_cells(genotype: Genotype) -> dict[str, Choices]:
    cells = {}
    for name in ("normal", "reduce"):
        pairs, concat = getattr(genotype, name), getattr(genotype, f"{name}_concat")
        edges = tuple((source, 2 + i // 2) for i, (_, source) in enumerate(pairs))
        cells[name] = Choices(edges, tuple((op,) for op, _ in pairs), tuple(concat))
    return cells


def _recurrent_cell(genotype: RecurrentGenotype) -> dict[str, Choices]:
    edges = tuple((source, 1 + i) for i, (_, source) in enumerate(genotype.recurrent))
    ops = tuple((op,) for op, _ in genotype.recurrent)
    return {"recurrent": Choices(edges, ops, genotype.concat, num_inputs=1, kept=1)}


def _topology_cell(genotype: TopologyGenotype) -> dict[str, Choices]:
    edges = tuple(edge for _, edge in zip(genotype.cell, all_edges()))
    return {
        "cell": Choices(
            edges, tuple((op,) for op, _ in genotype.cell), (edges[-1][1],), num_inputs=1
        )
    }


def _size_chain(genotype: SizeGenotype) -> dict[str, Choices]:
    """Layer i leads from state i to state i + 1; its "operation" is its number of channels."""
    edges = tuple((i, i + 1) for i in range(len(genotype.channels)))
    ops = tuple((str(number),) for number in genotype.channels)
    return {"channels": Choices(edges, ops, (len(edges),), num_inputs=1)}


def _graph_rows(genotype: GraphGenotype) -> dict[str, Choices]:
    """Rows as NAS-Bench-1Shot1 has them, each at its vertex; one that reads all before it has none
    for its sources.
    """
    last = len(genotype.ops) - 1
    sources = {
        v: tuple(str(w) for w in range(v) if genotype.matrix[w][v]) for v in range(1, last + 1)
    }
    chosen = {v: own for v, own in sources.items() if len(own) < v}

    def rows(targets):
        ops = tuple(chosen[v] for v in targets)
        return Choices(
            tuple((v, v) for v in targets),
            ops,
            (last,),
            num_inputs=1,
            kept=None,
            picks=tuple(map(len, ops)),
        )

    vertices = range(1, last)
    return {
        "ops": Choices(
            tuple((v, v) for v in vertices),
            tuple((op,) for op in genotype.ops[1:-1]),
            (last,),
            1,
            None,
        ),
        "inputs": rows([v for v in vertices if v in chosen]),
        "output": rows([last] if last in chosen else []),
    }


_CELLS: Mapping[type, Callable[[Any], dict[str, Choices]]] = {
    Genotype: _two_cells,
    RecurrentGenotype: _recurrent_cell,
    TopologyGenotype: _topology_cell,
    SizeGenotype: _size_chain,
    GraphGenotype: _graph_rows,
}


def one_hot(cells: Mapping[str, Choices], genotype: AnyGenotype) -> Mix:
    """The mix that keeps a genotype's operations at weight one and drops everything else.

    Raises:
        ValueError: if the genotype is of another kind, or uses an edge or an operation that the
          space does not have.
    """
    mix = {}
    for name, places in locate(cells, genotype).items():
        weights = np.zeros(cells[name].shape, np.float32)
        for place in places:
            weights[place] = 1
        mix[name] = jnp.asarray(weights)
    return mix


def locate(cells: Mapping[str, Choices], genotype: AnyGenotype) -> dict[str, list[tuple[int, int]]]:
    """Where each pair of a genotype lies in a space: the number of its edge and, among that edge's,
    of its operation.

    Raises:
        ValueError: as `one_hot`.
    """
    own = of_genotype(genotype)
    if cells.keys() != own.keys():
        raise ValueError(
            f"the space has the cells {', '.join(cells)}, a {type(genotype).__name__} has"
            f" {', '.join(own)}"
        )
    found: dict[str, list[tuple[int, int]]] = {}
    for name, choices in cells.items():
        found[name] = []
        for i, (edge, op) in enumerate(
            (edge, op) for edge, ops in zip(own[name].edges, own[name].ops) for op in ops
        ):
            if edge not in choices.edges or op not in choices.ops[choices.edges.index(edge)]:
                raise ValueError(
                    f"{name}[{i}] = {(op, edge[0])!r}: the space has no such operation on edge"
                    f" {edge}"
                )
            e = choices.edges.index(edge)
            found[name].append((e, choices.ops[e].index(op)))
        if choices.kept is None:
            rows = [e for e, _ in found[name]]
            for e, (edge, needed) in enumerate(
                zip(choices.edges, choices.picks or [1] * len(choices.edges))
            ):
                if rows.count(e) != needed:
                    raise ValueError(
                        f"{name}, edge {edge}: the genotype does not keep {needed} of the space's"
                        " candidates"
                    )
    return found


def with_operation(genotype: AnyGenotype, name: str, i: int, op: str) -> Any:
    """The genotype with another operation in row `i` of one of its cells, as `of_genotype` numbers
    them.
    """

    def put(row: tuple, i: int, entry: Any) -> tuple:
        return (*row[:i], entry, *row[i + 1 :])

    if isinstance(genotype, SizeGenotype):
        return genotype._replace(channels=put(genotype.channels, i, int(op)))
    if isinstance(genotype, GraphGenotype):
        return genotype._replace(ops=put(genotype.ops, i + 1, op))  # the first vertex is the input
    pairs = getattr(genotype, name)
    return genotype._replace(**{name: put(pairs, i, (op, pairs[i][1]))})


def strongest(mix: np.ndarray, choices: Choices) -> tuple[tuple[str, int], ...]:
    """The published derivation of one cell: per node its `kept` strongest edges, each with its
    strongest operation.

    The strength of an edge is its largest weight of an operation other than `none`. Ties go to the
    lower source and to the operation that comes first; a node's edges are listed from strong to
    weak, not by source.

    quark0/darts, cnn/model_search.py, `genotype`; rnn/model_search.py for one edge a node.
    """
    pairs: list[tuple[str, int]] = []
    for node in range(choices.num_inputs, choices.num_nodes + choices.num_inputs):
        best = []
        for e, (source, target) in enumerate(choices.edges):
            if target != node:
                continue
            weights = [
                (float(mix[e, k]), op) for k, op in enumerate(choices.ops[e]) if op != "none"
            ]
            strength, op = max(
                weights, key=lambda pair: pair[0]
            )  # max and sorted keep the first of equals
            best.append((strength, source, op))
        best.sort(key=lambda item: -item[0])
        pairs += [(op, source) for _, source, op in best[: choices.kept]]
    return tuple(pairs)


def random_pairs(rng: np.random.Generator, choices: Choices) -> tuple[tuple[str, int], ...]:
    """As many distinct edges a node as a genotype keeps and an operation other than `none` on each,
    uniformly.
    """
    pairs: list[tuple[str, int]] = []
    for node in range(choices.num_inputs, choices.num_nodes + choices.num_inputs):
        entering = [e for e, edge in enumerate(choices.edges) if edge[1] == node]
        for e in rng.permutation(entering)[: choices.kept]:
            ops = [op for op in choices.ops[e] if op != "none"]
            pairs.append((ops[rng.integers(len(ops))], choices.edges[e][0]))
    return tuple(pairs)


def other_pairs(
    choices: Choices, pairs: tuple[tuple[str, int], ...], i: int
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """What may stand in place of one pair of a cell: with another operation, and with another
    source.

    The source is never that of another pair of the node. The operation stays with a new source
    where the new edge offers it, as in all spaces whose edges have the same candidates; elsewhere
    it is any of the new edge's, since some edges of RobustDARTS' S1 share no candidate with their
    neighbours and could not be reached otherwise.
    """
    (op, source), kept = pairs[i], choices.kept or 1
    node = i // kept
    target, taken = (
        node + choices.num_inputs,
        [own for _, own in pairs[node * kept : (node + 1) * kept]],
    )

    def offered(e: int) -> list[str]:
        return [candidate for candidate in choices.ops[e] if candidate != "none"]

    ops = [
        (other, source) for other in offered(choices.edges.index((source, target))) if other != op
    ]
    sources = []
    for e in choices.entering()[target]:
        new = choices.edges[e][0]
        if new not in taken:
            sources += [
                (other, new) for other in offered(e) if other == op or op not in choices.ops[e]
            ]
    return ops, sources


def mutated(cells: Mapping[str, Choices], key: Key[Array, ""], genotype: Any) -> Any:
    """Another operation or another source in one pair: all pairs of all cells, and the two kinds,
    are equally likely.

    Real, Aggarwal, Huang & Le, `Regularized Evolution <https://arxiv.org/abs/1802.01548>`_, AAAI
    2019, section 3.2, without its rare identity. A draw that leaves no choice, such as the sources
    of the first node, is drawn again.

    Raises:
        ValueError: if the genotype is not of this space, or is all of it.
    """
    locate(cells, genotype)
    rng = seeded(key)
    draws = [
        (name, i, kind)
        for name in cells
        for i in range(len(getattr(genotype, name)))
        for kind in (0, 1)
    ]
    for draw in rng.permutation(len(draws)):
        name, i, kind = draws[draw]
        pairs = getattr(genotype, name)
        if changes := other_pairs(cells[name], pairs, i)[kind]:
            change = changes[rng.integers(len(changes))]
            return genotype._replace(**{name: (*pairs[:i], change, *pairs[i + 1 :])})
    raise ValueError("the space has one genotype only: there is nothing to mutate into")


def seeded(key: Key[Array, ""]) -> np.random.Generator:
    """A NumPy generator that a JAX key determines: sampling an architecture is a host's work."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
