"""The three types of discrete architectures, and the rules of a sound one.

The states of a cell are numbered in the order in which they arise. A convolutional cell has two inputs, states 0
(the output of the cell before the previous one) and 1 (of the previous one), and its nodes make states 2, 3, ...,
each the sum of two operations. A recurrent cell has one input, state 0, and its nodes make states 1, 2, ..., each by
one activation. So pair `i` of `Genotype.normal` feeds state `2 + i // 2`, and pair `i` of
`RecurrentGenotype.recurrent` feeds state `1 + i`. A cell of NAS-Bench-201 has one input, state 0, and node `t` is the
sum of one operation on every state before it, so that the sources of its pairs are 0 | 0, 1 | 0, 1, 2.
"""

import difflib
import itertools
import reprlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

Pairs = tuple[tuple[str, int], ...]

# fmt: off
OPS = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
       "sep_conv_7x7", "conv_7x1_1x7", "noise", "nor_conv_1x1", "nor_conv_3x3")
# fmt: on
"""What a convolutional genotype may name: DARTS' operations, two of NASNet and AmoebaNet, the noise of RobustDARTS, and
NAS-Bench-201's convolutions."""

ACTIVATIONS = ("tanh", "relu", "sigmoid", "identity")
"""What a recurrent genotype may name."""

TOPOLOGY_OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""What a cell of NAS-Bench-201 may name, in the benchmark's order."""


class Genotype(NamedTuple):
    """A pair of convolutional cells.

    normal: (operation, source state), two for each node.
    normal_concat: the states whose channels make the output of the cell.
    reduce, reduce_concat: the same for the cell that halves the map.

    Its `str` is the text that the field's scripts print and read, down to the brackets. The original prints a concat as
    `range(2, 6)` or as a list, whichever it was given. Here it is always a list: that can also say AmoebaNet's
    `[3, 4, 6]`, and `ast.literal_eval` reads it.

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
    """A cell of NAS-Bench-201, whose authors call its space, and later NATS-Bench's, the topology space.

    cell: (operation, source state), one for each pair of states, ordered by the state that it feeds, then by source. The
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


AnyGenotype = Genotype | RecurrentGenotype | TopologyGenotype


def all_edges() -> Iterator[tuple[int, int]]:
    """The edges (source, target) of a `TopologyGenotype`, without end: pair `i` of one lies on edge `i`.

    >>> edges = all_edges()
    >>> [next(edges) for _ in range(6)]
    [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    """
    return ((source, target) for target in itertools.count(1) for source in range(target))


def _text(genotype: AnyGenotype) -> str:
    return f"Genotype({', '.join(f'{name}={[*value]}' for name, value in genotype._asdict().items())})"


# --------------------------------------------------------------------------------------------------------------- rules


def check(genotype: AnyGenotype, ops: Iterable[str] | None = None) -> None:
    """Refuses a genotype that is not a cell.

    A node may apply two operations to one source: NASNet's and AmoebaNet's cells do, though the DARTS space never does.

    Args:
        genotype: what to look at.
        ops: the operations that it may name; `OPS`, `ACTIVATIONS` or `TOPOLOGY_OPS` if None. `none` is never one of a
            `Genotype` or a `RecurrentGenotype`: only a search knows it there.

    Raises:
        ValueError: if a rule is broken; the message names the pair and the rule.

    >>> from jaxdarts.genotypes import DARTS_V2
    >>> check(DARTS_V2._replace(normal=(("sep_conv_3x3", 0), ("sep_conv_3x3", 2))))
    Traceback (most recent call last):
    ValueError: normal[1] = ('sep_conv_3x3', 2): state 2 may only read states 0 to 1
    """
    if isinstance(genotype, Genotype):
        allowed = OPS if ops is None else tuple(ops)
        _check_cell("normal", genotype.normal, "normal_concat", genotype.normal_concat, 2, allowed)
        _check_cell("reduce", genotype.reduce, "reduce_concat", genotype.reduce_concat, 2, allowed)
    elif isinstance(genotype, RecurrentGenotype):
        allowed = ACTIVATIONS if ops is None else tuple(ops)
        _check_cell("recurrent", genotype.recurrent, "concat", genotype.concat, 1, allowed)
    elif isinstance(genotype, TopologyGenotype):
        _check_topology(genotype.cell, TOPOLOGY_OPS if ops is None else tuple(ops))
    else:
        raise ValueError(f"{reprlib.repr(genotype)} is not a Genotype, RecurrentGenotype or TopologyGenotype")


def _check_cell(name: str, pairs: Any, concat_name: str, concat: Any, num_inputs: int, ops: tuple[str, ...]) -> None:
    """Checks a cell that has as many inputs as pairs for each node: two if convolutional, one if recurrent."""
    _check_tuple(name, pairs)
    if len(pairs) % num_inputs:
        raise ValueError(f"{name} has {len(pairs)} pairs; every node needs exactly two")
    for i, pair in enumerate(pairs):
        where = f"{name}[{i}] = {reprlib.repr(pair)}"
        if isinstance(pair, tuple) and pair[:1] == ("none",):
            raise ValueError(f"{where}: 'none' is a candidate of searches only, no part of a genotype")
        _check_pair(where, pair, ops)
        target = num_inputs + i // num_inputs
        if not 0 <= pair[1] < target:
            raise ValueError(f"{where}: state {target} may only read states 0 to {target - 1}")
    last = num_inputs + len(pairs) // num_inputs - 1
    if not isinstance(concat, tuple) or not concat:
        raise ValueError(f"{concat_name} = {reprlib.repr(concat)} must be a tuple of one state at least")
    seen = set()
    for i, state in enumerate(concat):
        where = f"{concat_name}[{i}] = {reprlib.repr(state)}"
        if type(state) is not int:
            raise ValueError(f"{where}: a state must be an int, not {type(state).__name__}")
        if not num_inputs <= state <= last:
            raise ValueError(f"{where}: the nodes of this cell make states {num_inputs} to {last}")
        if state in seen:
            raise ValueError(f"{where}: a state may be named only once")
        seen.add(state)


def _check_topology(pairs: Any, ops: tuple[str, ...]) -> None:
    _check_tuple("cell", pairs)
    for i, (pair, (source, target)) in enumerate(zip(pairs, all_edges())):
        where = f"cell[{i}] = {reprlib.repr(pair)}"
        _check_pair(where, pair, ops)
        if pair[1] != source:
            raise ValueError(f"{where}: node {target} reads states 0 to {target - 1}, each once and in this order")
    if source != target - 1:
        raise ValueError(f"cell has {len(pairs)} pairs: node {target} lacks state {source + 1}; it reads 0 to {target - 1}")


def _check_tuple(name: str, pairs: Any) -> None:
    # A list would do here, but not as a static argument or a dictionary key later on.
    if not isinstance(pairs, tuple):
        raise ValueError(f"{name} = {reprlib.repr(pairs)} must be a tuple; parse(str(genotype)) makes tuples of lists")
    if not pairs:
        raise ValueError(f"{name} is empty; a cell needs one node at least")


def _check_pair(where: str, pair: Any, ops: tuple[str, ...]) -> None:
    if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
        raise ValueError(f"{where} must be a tuple of an operation's name and its source state")
    op, source = pair
    if op not in ops:
        raise ValueError(f"{where}: unknown operation{hint(op, ops)}; known are {', '.join(ops)}")
    # Not isinstance: a bool is an int, and a NumPy integer would spoil the text form.
    if type(source) is not int:
        raise ValueError(f"{where}: the source state must be an int, not {type(source).__name__}")


def hint(word: str, words: Iterable[str]) -> str:
    """What an error adds about a word that is none of these: the nearest one, if any is near."""
    # No name is anywhere near this long, and difflib would take quadratic time.
    close = difflib.get_close_matches(word[:64], words, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
