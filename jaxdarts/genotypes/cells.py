"""The six types of discrete architectures; `genotypes.rules` tells a sound one.

The states of a cell are numbered in the order in which they arise. A convolutional cell has two
inputs, states 0 (the output of the cell before the previous one) and 1 (of the previous one), and
its nodes make states 2, 3, ..., each the sum of two operations. A recurrent cell has one input,
state 0, and its nodes make states 1, 2, ..., each by one activation. So pair `i` of
`Genotype.normal` feeds state `2 + i // 2`, and pair `i` of `RecurrentGenotype.recurrent` feeds
state `1 + i`. A cell of NAS-Bench-201 has one input, state 0, and node `t` is the sum of one
operation on every state before it, so that the sources of its pairs are 0 | 0, 1 | 0, 1, 2.

Two benchmarks have no such pairs: NATS-Bench's size space chooses channels, NAS-Bench-101 any small
graph. Nor has a network of your own, whose genotype names the candidate of each of its choices.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

Pairs = tuple[tuple[str, int], ...]

# fmt: off
OPS = ("max_pool_3x3", "avg_pool_3x3", "skip_connect",
       "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
       "sep_conv_7x7", "conv_7x1_1x7", "noise", "nor_conv_1x1", "nor_conv_3x3")
# fmt: on
"""What a convolutional genotype may name, beside `none`: DARTS' operations, two of NASNet and
AmoebaNet, the noise of RobustDARTS, and NAS-Bench-201's convolutions.
"""

ACTIVATIONS = ("tanh", "relu", "sigmoid", "identity")
"""What a recurrent genotype may name."""

TOPOLOGY_OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""What a cell of NAS-Bench-201 may name, in the benchmark's order."""

GRAPH_OPS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
"""What a vertex of NAS-Bench-101 may compute, in the benchmark's order, which its fingerprints hang
on.
"""

SIZES = (8, 16, 24, 32, 40, 48, 56, 64)
"""Channels that a layer of NATS-Bench's size space may have."""


class Genotype(NamedTuple):
    """A pair of convolutional cells.

    normal: (operation, source state), two for each node.
    normal_concat: the states whose channels make the output of the cell.
    reduce, reduce_concat: the same for the cell that halves the map.

    Its `str` is the text that the field's scripts print and read, down to the brackets. The
    original prints a concat as `range(2, 6)` or as a list, whichever it was given. Here it is
    always a list: that can also say AmoebaNet's `[3, 4, 6]`, and `ast.literal_eval` reads it.

    >>> from jaxdarts.genotypes import DARTS_V2, parse
    >>> parse(str(DARTS_V2)) == DARTS_V2
    True
    """

    normal: Pairs
    normal_concat: tuple[int, ...]
    reduce: Pairs
    reduce_concat: tuple[int, ...]

    def __str__(self) -> str:
        return _text(self)


class RecurrentGenotype(NamedTuple):
    """A recurrent cell.

    recurrent: (activation, source state), one for each node.
    concat: the states whose mean is the output of the cell.

    Its `str` starts with `Genotype(` too, because the original gives both kinds that name.
    """

    recurrent: Pairs
    concat: tuple[int, ...]

    def __str__(self) -> str:
        return _text(self)


class TopologyGenotype(NamedTuple):
    """A cell of NAS-Bench-201.

    Its authors call the space, and later NATS-Bench's, the topology space.

    cell: (operation, source state), one for each pair of states, ordered by the state that it
    feeds, then by source. The
        last state is the output. `none` is an operation here: the edge that carries nothing.

    Its `str` is the benchmark's string.

    >>> print(TopologyGenotype((("nor_conv_3x3", 0), ("none", 0), ("skip_connect", 1))))
    |nor_conv_3x3~0|+|none~0|skip_connect~1|
    """

    cell: Pairs

    def __str__(self) -> str:
        nodes: dict[int, str] = {}
        for (op, source), (_, target) in zip(self.cell, all_edges()):
            nodes[target] = nodes.get(target, "|") + f"{op}~{source}|"
        return "+".join(nodes.values())


class SizeGenotype(NamedTuple):
    """A network of NATS-Bench's size space, which differs from the others in its widths only.

    channels: of the first cell and the stem before it, a reduction, a cell, a reduction, a cell.

    Its `str` is the benchmark's string.

    >>> print(SizeGenotype((8, 16, 24, 32, 64)))
    8:16:24:32:64
    """

    channels: tuple[int, ...]

    def __str__(self) -> str:
        return ":".join(map(str, self.channels))


class GraphGenotype(NamedTuple):
    """A cell of NAS-Bench-101: a directed graph whose vertices compute something.

    The first vertex is the input, the last the output.

    matrix: row i tells by ones which vertices read vertex i; all of them come later.
    ops: what every vertex is or computes: `input`, operations, `output`.

    It may hold vertices that do not matter (`genotypes.pruned`), and two graphs may be one cell
    (`genotypes.fingerprint`). Its `str` is a call of the constructor of the benchmark's own class,
    whose fields it has.

    >>> print(GraphGenotype(((0, 1, 0), (0, 0, 1), (0, 0, 0)), ("input", "maxpool3x3", "output")))
    ModelSpec(matrix=[[0, 1, 0], [0, 0, 1], [0, 0, 0]], ops=['input', 'maxpool3x3', 'output'])
    """

    matrix: tuple[tuple[int, ...], ...]
    ops: tuple[str, ...]

    def __str__(self) -> str:
        return f"ModelSpec(matrix={[[*row] for row in self.matrix]}, ops={[*self.ops]})"


class ChoiceGenotype(NamedTuple):
    """The candidates that a network of your own has in the place of its choices.

    choices: (decision, candidate), in the order of the space. `dict` of them tells a decision's
      candidate.

    >>> print(ChoiceGenotype((("first kernel", "3x3"), ("second kernel", "5x5"))))
    ChoiceGenotype(choices={'first kernel': '3x3', 'second kernel': '5x5'})
    """

    choices: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"ChoiceGenotype(choices={dict(self.choices)})"


AnyGenotype = (
    Genotype | RecurrentGenotype | TopologyGenotype | SizeGenotype | GraphGenotype | ChoiceGenotype
)


def all_edges() -> Iterator[tuple[int, int]]:
    """The edges (source, target) of a `TopologyGenotype`, without end.

    Pair `i` of one lies on edge `i`.

    >>> edges = all_edges()
    >>> [next(edges) for _ in range(6)]
    [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    """
    return ((source, target) for target in itertools.count(1) for source in range(target))


def _text(genotype: AnyGenotype) -> str:
    return (
        f"Genotype({', '.join(f'{name}={[*value]}' for name, value in genotype._asdict().items())})"
    )
