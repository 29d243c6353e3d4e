"""The rules of a sound genotype, kind by kind: (genotype, what it may name) -> None or an error."""

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

from jaxdarts.genotypes.cells import (
    ChoiceGenotype,
    Genotype,
    GraphGenotype,
    RecurrentGenotype,
    SizeGenotype,
    TopologyGenotype,
    all_edges,
)
from jaxdarts.genotypes.graphs import MAX_EDGES, MAX_VERTICES, num_edges, pruned


def two_cells(genotype: Genotype, ops: tuple[str, ...]) -> None:
    """Checks a pair of convolutional cells."""
    _check_cell("normal", genotype.normal, "normal_concat", genotype.normal_concat, 2, ops)
    _check_cell("reduce", genotype.reduce, "reduce_concat", genotype.reduce_concat, 2, ops)


def recurrent(genotype: RecurrentGenotype, ops: tuple[str, ...]) -> None:
    """Checks a recurrent cell."""
    _check_cell("recurrent", genotype.recurrent, "concat", genotype.concat, 1, ops)


def _check_cell(
    name: str, pairs: Any, concat_name: str, concat: Any, num_inputs: int, ops: tuple[str, ...]
) -> None:
    """Checks a cell that has as many inputs as pairs for each node.

    That is two if convolutional, one if recurrent.
    """
    _check_tuple(name, pairs)
    if len(pairs) % num_inputs:
        raise ValueError(f"{name} has {len(pairs)} pairs; every node needs exactly two")
    for i, pair in enumerate(pairs):
        where = f"{name}[{i}] = {reprlib.repr(pair)}"
        if num_inputs == 1 and isinstance(pair, tuple) and pair[:1] == ("none",):
            raise ValueError(
                f"{where}: 'none' is a candidate of searches only, no part of a genotype"
            )
        _check_pair(where, pair, ops)
        target = num_inputs + i // num_inputs
        if not 0 <= pair[1] < target:
            raise ValueError(f"{where}: state {target} may only read states 0 to {target - 1}")
    last = num_inputs + len(pairs) // num_inputs - 1
    if not isinstance(concat, tuple) or not concat:
        raise ValueError(
            f"{concat_name} = {reprlib.repr(concat)} must be a tuple of one state at least"
        )
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


def one_cell(genotype: TopologyGenotype, ops: tuple[str, ...]) -> None:
    """Checks a cell of NAS-Bench-201."""
    pairs = genotype.cell
    _check_tuple("cell", pairs)
    for i, (pair, (source, target)) in enumerate(zip(pairs, all_edges())):
        where = f"cell[{i}] = {reprlib.repr(pair)}"
        _check_pair(where, pair, ops)
        if pair[1] != source:
            raise ValueError(
                f"{where}: node {target} reads states 0 to {target - 1}, each once and in this"
                " order"
            )
    if source != target - 1:
        raise ValueError(
            f"cell has {len(pairs)} pairs: node {target} lacks state {source + 1}; it reads 0 to"
            f" {target - 1}"
        )


def sizes(genotype: SizeGenotype, known: tuple[int, ...]) -> None:
    """Checks the numbers of channels of NATS-Bench's size space."""
    channels = genotype.channels
    if not isinstance(channels, tuple) or len(channels) != 5:
        raise ValueError(f"channels = {reprlib.repr(channels)} must be a tuple of five numbers")
    for i, number in enumerate(channels):
        if type(number) is not int or number not in known:
            raise ValueError(
                f"channels[{i}] = {reprlib.repr(number)}: the choice is among"
                f" {', '.join(map(str, known))}"
            )


def graph(genotype: GraphGenotype, ops: tuple[str, ...]) -> None:
    """Checks a graph of NAS-Bench-101."""
    matrix, labels = genotype
    if not isinstance(labels, tuple) or len(labels) < 2:
        raise ValueError(
            f"ops = {reprlib.repr(labels)} must be a tuple of two entries at least, input and"
            " output"
        )
    for i, op in enumerate(labels):
        known = {0: ("input",), len(labels) - 1: ("output",)}.get(i, ops)
        if op not in known:
            near = hint(op, known) if isinstance(op, str) else ""
            raise ValueError(
                f"ops[{i}] = {reprlib.repr(op)}: unknown operation{near}; known here are"
                f" {', '.join(known)}"
            )
    size = len(labels)
    if not isinstance(matrix, tuple) or len(matrix) != size:
        raise ValueError(
            f"matrix must be a tuple of {size} rows, as many as ops, not {reprlib.repr(matrix)}"
        )
    for i, row in enumerate(matrix):
        if not isinstance(row, tuple) or len(row) != size:
            raise ValueError(
                f"matrix[{i}] = {reprlib.repr(row)} must be a tuple of {size} numbers, as many"
                " as ops"
            )
        for j, entry in enumerate(row):
            # Not `in`: True is a 1, and a NumPy integer would spoil the text form.
            if type(entry) is not int or entry not in (0, 1):
                raise ValueError(f"matrix[{i}][{j}] = {reprlib.repr(entry)}: an entry is 0 or 1")
            if entry and j <= i:
                raise ValueError(
                    f"matrix[{i}][{j}] = 1: vertex {j} may only read vertices before it"
                )
    core = pruned(genotype)
    for what, number, limit in (
        ("vertices", len(core.ops), MAX_VERTICES),
        ("edges", num_edges(core), MAX_EDGES),
    ):
        if number > limit:
            raise ValueError(
                f"the graph has {number} {what} between its input and its output; NAS-Bench-101 has"
                f" up to {limit}"
            )


def choices(genotype: ChoiceGenotype, known: tuple[str, ...]) -> None:
    """Checks the choices of a network of your own; any names are sound if none are known."""
    _check_tuple("choices", genotype.choices)
    seen = set()
    for i, pair in enumerate(genotype.choices):
        where = f"choices[{i}] = {reprlib.repr(pair)}"
        sound = isinstance(pair, tuple) and [type(name) for name in pair] == [str, str]
        if not sound:
            raise ValueError(f"{where} must be a tuple of the names of a decision and a candidate")
        decision, candidate = pair
        if decision in seen:
            raise ValueError(f"{where}: a decision may be named only once")
        seen.add(decision)
        if known and candidate not in known:
            raise ValueError(
                f"{where}: unknown candidate{hint(candidate, known)}; known are {', '.join(known)}"
            )


def _check_tuple(name: str, pairs: Any) -> None:
    # A list would do here, but not as a static argument or a dictionary key later on.
    if not isinstance(pairs, tuple):
        raise ValueError(
            f"{name} = {reprlib.repr(pairs)} must be a tuple; parse(str(genotype)) makes tuples of"
            " lists"
        )
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
    """Hint in an error about an unknown word: the nearest known one, if any is near."""
    # No name is anywhere near this long, and difflib would take quadratic time.
    close = difflib.get_close_matches(word[:64], words, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
