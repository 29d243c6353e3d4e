"""The kinds of genotypes: all that the library asks of one stands in its row of `KINDS`."""

import reprlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxdarts.genotypes import rules
from jaxdarts.genotypes.cells import (
    ACTIVATIONS,
    GRAPH_OPS,
    OPS,
    SIZES,
    TOPOLOGY_OPS,
    AnyGenotype,
    ChoiceGenotype,
    Genotype,
    GraphGenotype,
    RecurrentGenotype,
    SizeGenotype,
    TopologyGenotype,
    all_edges,
)
from jaxdarts.types import Choices


class Pens(NamedTuple):
    """The functions that draw, each giving a picture's text (`report.cells`).

    edges: (edges, concat, inputs=, output=, title=): operations on edges.
    vertices: (graph, title=): operations on vertices.
    bars: (genotype, title=): numbers of channels.
    """

    edges: Callable[..., str]
    vertices: Callable[..., str]
    bars: Callable[..., str]


class Kind(NamedTuple):
    """Functions and names that the library needs for one kind of genotype.

    names: what it may name; empty if it may name anything.
    check: (genotype, names) -> nothing, or a ValueError if it is not sound.
    cells: genotype -> its cells, as choices among one operation an edge.
    replace: (genotype, cell, row of that cell, operation) -> the genotype with that operation.
    draw: (genotype, pens) -> pictures by cell.
    """

    names: tuple
    check: Callable[[Any, tuple], None]
    cells: Callable[[Any], dict[str, Choices]]
    replace: Callable[[Any, str, int, str], Any]
    draw: Callable[[Any, Pens], dict[str, str]]


def kind_of(genotype: AnyGenotype) -> Kind:
    """The kind of a genotype.

    Raises:
        ValueError: if this is no genotype.
    """
    if type(genotype) not in KINDS:
        *kinds, last = (kind.__name__ for kind in KINDS)
        raise ValueError(f"{reprlib.repr(genotype)} is not a {', '.join(kinds)} or {last}")
    return KINDS[type(genotype)]


def check(genotype: AnyGenotype, ops: Iterable[str] | None = None) -> None:
    """Raises an error if a genotype is not sound.

    A node may apply two operations to one source: NASNet's and AmoebaNet's cells do, though the
    DARTS space never does.

    Args:
        genotype: what to look at.
        ops: what it may name: operations (`Space.ops` of a space with operations of your own), or
          channels of a `SizeGenotype`; all that its kind has if None (`OPS` and `none`,
          `ACTIVATIONS`, `TOPOLOGY_OPS`, `SIZES`, `GRAPH_OPS`, anything for a `ChoiceGenotype`).
          `none` is never part of a `RecurrentGenotype`: only a search knows it there.

    Raises:
        ValueError: if a rule is broken; the message names the pair and the rule.

    >>> from jaxdarts.genotypes import DARTS_V2
    >>> check(DARTS_V2._replace(normal=(("sep_conv_3x3", 0), ("sep_conv_3x3", 2))))
    Traceback (most recent call last):
    ValueError: normal[1] = ('sep_conv_3x3', 2): state 2 may only read states 0 to 1
    """
    kind = kind_of(genotype)
    kind.check(genotype, kind.names if ops is None else tuple(ops))


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
    """Rows of a graph as NAS-Bench-1Shot1 has them, each at its vertex.

    A vertex that reads all before it has no row for its sources.
    """
    last = len(genotype.ops) - 1
    sources = {
        v: tuple(str(w) for w in range(v) if genotype.matrix[w][v]) for v in range(1, last + 1)
    }
    chosen = {v: read for v, read in sources.items() if len(read) < v}

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


def _choice_chain(genotype: ChoiceGenotype) -> dict[str, Choices]:
    """Decision i leads from state i to state i + 1, and is told by its name."""
    rules.choices(genotype, ())
    number = len(genotype.choices)
    return {
        "choices": Choices(
            tuple((i, i + 1) for i in range(number)),
            tuple((candidate,) for _, candidate in genotype.choices),
            (number,),
            num_inputs=1,
            kept=None,
            names=tuple(decision for decision, _ in genotype.choices),
        )
    }


def _put(row: tuple, i: int, entry: Any) -> tuple:
    return (*row[:i], entry, *row[i + 1 :])


def _replace_pair(genotype: Any, name: str, i: int, op: str) -> Any:
    pairs = getattr(genotype, name)
    return genotype._replace(**{name: _put(pairs, i, (op, pairs[i][1]))})


def _replace_size(genotype: SizeGenotype, name: str, i: int, op: str) -> SizeGenotype:
    return genotype._replace(channels=_put(genotype.channels, i, int(op)))


def _replace_vertex(genotype: GraphGenotype, name: str, i: int, op: str) -> GraphGenotype:
    return genotype._replace(ops=_put(genotype.ops, i + 1, op))  # the first vertex is the input


def _replace_choice(genotype: ChoiceGenotype, name: str, i: int, op: str) -> ChoiceGenotype:
    return ChoiceGenotype(_put(genotype.choices, i, (genotype.choices[i][0], op)))


OLDER, NEWER = "c_{k-2}", "c_{k-1}"
"""Names of a convolutional cell's inputs in drawings: the outputs of the two cells before."""


def _draw_two_cells(genotype: Genotype, pens: Pens) -> dict[str, str]:
    titles = {"normal": "Normal cell", "reduce": "Reduction cell"}
    return {
        name: pens.edges(getattr(genotype, name), getattr(genotype, f"{name}_concat"), title=title)
        for name, title in titles.items()
    }


def _draw_recurrent(genotype: RecurrentGenotype, pens: Pens) -> dict[str, str]:
    states = {"inputs": ("x_{t}, h_{t-1}",), "output": "h_{t}"}
    return {
        "recurrent": pens.edges(
            genotype.recurrent, genotype.concat, title="Recurrent cell", **states
        )
    }


def _draw_topology(genotype: TopologyGenotype, pens: Pens) -> dict[str, str]:
    triples = [(*pair, target) for pair, (_, target) in zip(genotype.cell, all_edges())]
    return {"cell": pens.edges(triples, [triples[-1][2]], inputs=(NEWER,), title="Cell")}


def _draw_choices(genotype: ChoiceGenotype, pens: Pens) -> dict[str, str]:
    triples = [(": ".join(pair), i, i + 1) for i, pair in enumerate(genotype.choices)]
    states = {"inputs": ("input",), "output": "output"}
    return {"choices": pens.edges(triples, [len(triples)], title="Choices", **states)}


KINDS: Mapping[type, Kind] = MappingProxyType(
    {
        # An edge of nothing is an operation of the space, and random cells have it (BANANAS).
        Genotype: Kind((*OPS, "none"), rules.two_cells, _two_cells, _replace_pair, _draw_two_cells),
        RecurrentGenotype: Kind(
            ACTIVATIONS, rules.recurrent, _recurrent_cell, _replace_pair, _draw_recurrent
        ),
        TopologyGenotype: Kind(
            TOPOLOGY_OPS, rules.one_cell, _topology_cell, _replace_pair, _draw_topology
        ),
        SizeGenotype: Kind(
            SIZES,
            rules.sizes,
            _size_chain,
            _replace_size,
            lambda genotype, pens: {"channels": pens.bars(genotype, title="Channels")},
        ),
        GraphGenotype: Kind(
            GRAPH_OPS,
            rules.graph,
            _graph_rows,
            _replace_vertex,
            lambda genotype, pens: {"cell": pens.vertices(genotype, title="Cell")},
        ),
        ChoiceGenotype: Kind((), rules.choices, _choice_chain, _replace_choice, _draw_choices),
    }
)
"""All kinds of genotypes by their classes."""
