"""A search space as data: the edges of a cell, the operations of each, and a few functions."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key

from jaxdarts.genotypes import AnyGenotype, Genotype
from jaxdarts.genotypes.kinds import kind_of
from jaxdarts.types import Choices as Choices
from jaxdarts.types import Mix, Module


class Size(NamedTuple):
    """Channels of the first cells, and number of cells (of cells a stage, in the benchmarks)."""

    width: int
    depth: int


class Table(NamedTuple):
    """Settings that say how the accuracies of a tabular benchmark are read.

    read: (file, data set) -> {genotype: row}.
    column: (file, name of a column) -> {genotype: number}; None where a file has no others.
    """

    read: Callable[[str, str], Mapping[Any, Any]]
    column: Callable[[str, str], Mapping[Any, float]] | None = None


class Space(NamedTuple):
    """A search space.

    cells: the choices of each cell type.
    supernet: (width, depth, num_classes, ...) -> the weight-sharing network; (width, vocabulary,
      ...) of a recurrent cell.
    network: (genotype, width, depth, num_classes, ...) -> the discrete network, to train from
      scratch; likewise.
    discretize: mix -> the genotype that it stands for.
    sample: key -> a uniformly random genotype.
    mutate: (key, genotype) -> another genotype of the space, which differs in one place; the step
      of evolutionary searches.
    name: in `spaces.BY_NAME`, which command lines read; empty for a space that is not there.
    title: in messages and reports.
    kind: class of its genotypes; `genotypes.KINDS` says how one is checked, taken apart and drawn.
    ops: the declarations of the operations that a genotype may name (`nn.ops.Op`); None for those
      of its kind.
    size: of the networks that are published for CIFAR-10; None where the genotype says it.
    supernet_size: of the published search on CIFAR-10; None where there is no supernet.
    features: what its network can do besides: `auxiliary` (head), `imagenet` (stem), `drop_path`,
      `unroll`.
    cost: (genotype, width, depth, num_classes, image_shape, imagenet=False) -> parameters and
      multiply-adds of the network; None where they are not counted.
    costs: (width, depth, num_classes, image_shape, imagenet=False) -> both for every operation
      (`nn.costs.Costs`); None where an operation's cost depends on the other choices.
    table: how its tabular benchmark is read; None without one.
    num_genotypes: how many there are, where they can be listed.
    """

    cells: Mapping[str, Choices]
    supernet: Callable[..., Module]
    network: Callable[..., Module]
    discretize: Callable[[Mix], Any]
    sample: Callable[[Key[Array, ""]], Any]
    mutate: Callable[[Key[Array, ""], Any], Any]
    name: str = ""
    title: str = "a space of two cells"
    kind: type = Genotype
    ops: Mapping[str, Any] | None = None
    size: Size | None = None
    supernet_size: Size | None = None
    features: tuple[str, ...] = ()
    cost: Callable[..., tuple[int, int]] | None = None
    costs: Callable[..., tuple[Any, Any]] | None = None
    table: Table | None = None
    num_genotypes: float = math.inf


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
    return kind_of(genotype).cells(genotype)


def one_hot(cells: Mapping[str, Choices], genotype: AnyGenotype) -> Mix:
    """The mix that keeps a genotype's operations at weight one and drops everything else.

    Raises:
        ValueError: if the genotype is of another kind, or uses an edge or an operation that the
          space does not have.
    """
    mix = {}
    for name, entries in locate(cells, genotype).items():
        weights = np.zeros(cells[name].shape, np.float32)
        for entry in entries:
            weights[entry] = 1
        mix[name] = jax.device_put(weights)  # for which nothing is compiled
    return mix


def locate(cells: Mapping[str, Choices], genotype: AnyGenotype) -> dict[str, list[tuple[int, int]]]:
    """Position of each pair of a genotype in a space.

    It is the number of its edge and, among that edge's, of its operation.

    Raises:
        ValueError: as `one_hot`.
    """
    discrete = of_genotype(genotype)
    if cells.keys() != discrete.keys():
        raise ValueError(
            f"the space has the cells {', '.join(cells)}, a {type(genotype).__name__} has"
            f" {', '.join(discrete)}"
        )
    entries: dict[str, list[tuple[int, int]]] = {}
    for name, choices in cells.items():
        entries[name] = []
        rows = zip(discrete[name].keys, discrete[name].ops)
        for i, (edge, op) in enumerate((edge, op) for edge, ops in rows for op in ops):
            if edge not in choices.keys or op not in choices.ops[choices.keys.index(edge)]:
                if not choices.names:
                    raise ValueError(
                        f"{name}[{i}] = {(op, edge[0])!r}: the space has no such operation on edge"
                        f" {edge}"
                    )
                known = dict(zip(choices.names, choices.ops))
                what, there = (
                    ("candidate", known[edge]) if edge in known else ("decision", choices.names)
                )
                raise ValueError(
                    f"{name}[{i}] = {(edge, op)!r}: the space has no such {what}, only"
                    f" {', '.join(there)}"
                )
            e = choices.keys.index(edge)
            entries[name].append((e, choices.ops[e].index(op)))
        if choices.kept is None:
            kept = [e for e, _ in entries[name]]
            for e, (edge, needed) in enumerate(
                zip(choices.keys, choices.picks or [1] * len(choices.edges))
            ):
                if kept.count(e) != needed:
                    raise ValueError(
                        f"{name}, edge {edge}: the genotype does not keep {needed} of the space's"
                        f" candidates {', '.join(choices.ops[e])}"
                    )
    return entries


def with_operation(genotype: AnyGenotype, name: str, i: int, op: str) -> Any:
    """The genotype with another operation in row `i` of one of its cells.

    Rows are numbered as by `of_genotype`.
    """
    return kind_of(genotype).replace(genotype, name, i, op)


def strongest(mix: np.ndarray, choices: Choices) -> tuple[tuple[str, int], ...]:
    """The published derivation of one cell: per node its `kept` strongest edges.

    Each has its strongest operation.

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
    """Random pairs of a cell: distinct edges, uniformly, with operations other than `none`.

    There are as many edges a node as a genotype keeps.
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
    """Pairs that may replace one pair of a cell.

    Some have another operation, and some have another source.

    The source is never that of another pair of the node. The operation stays with a new source
    where the new edge offers it, as in all spaces whose edges have the same candidates; elsewhere
    it is any of the new edge's, since some edges of RobustDARTS' S1 share no candidate with their
    neighbours and could not be reached otherwise.
    """
    (op, source), kept = pairs[i], choices.kept or 1
    node = i // kept
    target, taken = (
        node + choices.num_inputs,
        [taken for _, taken in pairs[node * kept : (node + 1) * kept]],
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
    """A mutated genotype: another operation or another source in one pair.

    All pairs of all cells, and the two kinds, are equally likely.

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
