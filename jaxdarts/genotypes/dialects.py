"""Readers and writers of genotypes: the dialects of the field, and JSON. Nothing that is read is
evaluated.

| dialect | read by | written by |
| --- | --- | --- |
| quark0/darts' `Genotype(normal=[...], ...)`, both kinds | `parse` | `str` |
| pt.darts' nested lists | `parse` | `to_nested` |
| NNI's dictionary | `parse` | `to_nni` |
| NAS-Bench-201's string | `parse` | `str` |
| the string of NATS-Bench's sizes | `parse` | `str` |
| NAS-Bench-101's `ModelSpec(matrix=..., ops=...)` | `parse` | `str` |
| JSON | `from_json` | `to_json` |
"""

import ast
import itertools
import json
import re
import reprlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxdarts.genotypes.cells import AnyGenotype, Genotype, SizeGenotype, TopologyGenotype
from jaxdarts.genotypes.kinds import KINDS, check
from jaxdarts.genotypes.rules import hint

MAX_LENGTH = 100_000
"""Longest text that the readers look at; Python's parser may need much memory and stack for longer
ones.
"""


def parse(text: str, ops: Iterable[str] | None = None) -> AnyGenotype:
    """Reads a genotype from text in one of six dialects, none of which is evaluated.

    These are quark0/darts' flat `Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2,
    6), ...)`, both kinds; the same with a list of pairs for each node, as pt.darts writes it; NNI's
    dictionary, `{'normal/op_2_0': 'sep_conv_3x3', 'normal/input_2_0': 1, ...}`, where an input may
    also be a list of one; NAS-Bench-201's `|nor_conv_3x3~0|+|none~0|skip_connect~1|+...`; the
    `8:16:24:32:64` of NATS-Bench's sizes; and NAS-Bench-101's `ModelSpec(matrix=[[0, 1], [0, 0]],
    ops=['input', 'output'])`. In front of it, on the same line, may stand a name with an equals
    sign or whatever a logger writes.

    NNI's dictionary does not tell which states make the output. All nodes do here, which is right
    for its DARTS space; for its NASNet, ENAS and AmoebaNet spaces, replace the two concats by the
    nodes that no other node reads.

    Args:
        text: one genotype.
        ops: what it may name, as of `check`: `Space.ops` of a space with operations of your own.

    Returns:
        The genotype, which `check` has passed.

    Raises:
        ValueError: if the text is not exactly one genotype, or not a valid one.

    >>> node = {"op_2_0": "skip_connect", "input_2_0": 1}
    >>> node |= {"op_2_1": "max_pool_3x3", "input_2_1": [0]}
    >>> nni = {f"{cell}/{key}": node[key] for cell in ("normal", "reduce") for key in node}
    >>> parse(f"11/22 03:00:01 AM best = {nni}").reduce
    (('skip_connect', 1), ('max_pool_3x3', 0))
    """
    _check_length(text)
    found = [
        (start, read) for pattern, read in _FORMS.items() if (start := re.search(pattern, text))
    ]
    if not found:
        expected = (
            "Genotype(...), NNI's dictionary, |op~0|+|op~0|op~1|+..., c1:c2:c3:c4:c5 or"
            " ModelSpec(...)"
        )
        raise ValueError(f"no genotype in {reprlib.repr(text)}; expected {expected}")
    start, read = min(found, key=lambda pair: pair[0].start())
    prefix = text[: start.start()].lstrip()
    if prefix and (prefix[-1] not in " \t=:" or "\n" in prefix):
        raise ValueError(
            f"unexpected {reprlib.repr(prefix)} before the genotype; expected 'name =' or a line of"
            " a log"
        )
    genotype = read(text[start.start() :].strip())
    check(genotype, ops)
    return genotype


def _read_call(source: str) -> AnyGenotype:
    return _assemble(_read_fields(source))


def _read_string(source: str) -> TopologyGenotype:
    pairs = []
    for target, node in enumerate(re.sub(r"#.*", "", source).split("+"), 1):
        where = f"node {target}, {reprlib.repr(node.strip())},"
        bars = re.fullmatch(r"\s*\|(.*)\|\s*", node)
        if bars is None:
            raise ValueError(
                f"{where} must stand between bars, and nodes be joined by '+':"
                " |op~0|+|op~0|op~1|+..."
            )
        words = bars[1].split("|")
        for word in words:
            found = re.fullmatch(r"\s*(\w+)\s*~\s*([0-9]{1,9})\s*", word)
            if found is None:
                raise ValueError(
                    f"{where} has {reprlib.repr(word)}; expected an operation, '~' and its source"
                    " state"
                )
            pairs.append((found[1], int(found[2])))
        if len(words) != target:
            raise ValueError(
                f"{where} has {len(words)} pairs; it reads states 0 to {target - 1}, each once"
            )
    return TopologyGenotype(tuple(pairs))


def _read_sizes(source: str) -> SizeGenotype:
    words = re.sub(r"#.*", "", source).split(":")
    for i, word in enumerate(words):
        if not re.fullmatch(r"\s*[0-9]{1,9}\s*", word):
            raise ValueError(
                f"channels[{i}] = {reprlib.repr(word)} must be a number; expected c1:c2:c3:c4:c5"
            )
    return SizeGenotype(tuple(map(int, words)))


_FORMS: Mapping[str, Callable[[str], AnyGenotype]] = {
    r"\b(?:(?:Recurrent|Topology|Size|Graph)?Genotype|ModelSpec)\s*\(|\{": _read_call,
    r"\|\s*\w+\s*~": _read_string,
    # A logger's time of day has three numbers.
    r"\b[0-9]+(?::[0-9]+){4}": _read_sizes,
}
"""How the dialects start, and who reads them; `parse` checks what comes out."""


def _check_length(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise ValueError(
            f"a text of {len(text)} characters is no genotype; at most {MAX_LENGTH} are read"
        )


def _read_fields(source: str) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "error"
            )  # the parser only warns of some slips, such as an unknown escape
            root = ast.parse(source, mode="eval").body
        if isinstance(root, ast.Dict):
            entries = _literal(root, source)
            if len(entries) < len(root.keys):
                raise ValueError("the dictionary has a key twice")
            return _nni_fields(entries)
        if not (isinstance(root, ast.Call) and isinstance(root.func, ast.Name)):
            raise ValueError(f"{reprlib.repr(source)} is more than one genotype, or something else")
        fields: dict[str, Any] = {}
        if root.args or any(keyword.arg is None for keyword in root.keywords):
            raise ValueError("the fields of a genotype must be written name=value")
        for keyword in root.keywords:
            if keyword.arg in fields:
                raise ValueError(f"field {keyword.arg!r} is given twice")
            fields[str(keyword.arg)] = _literal(keyword.value, source)
        return fields
    except (SyntaxError, UnicodeEncodeError, Warning) as error:
        raise ValueError(
            f"{reprlib.repr(source)} is not exactly one complete genotype: {error}"
        ) from error
    except (RecursionError, MemoryError) as error:
        raise ValueError("the text is nested too deeply for a genotype") from error


def _literal(node: ast.expr, source: str) -> Any:
    """Value of a literal or of a `range` of literals; nothing else has one."""
    try:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "range" and not node.keywords:
            states = range(*(ast.literal_eval(argument) for argument in node.args))
            # No text that is short enough to be read has so many nodes, so `check` refuses what is
            # cut off.
            return tuple(itertools.islice(states, MAX_LENGTH))
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        segment = reprlib.repr(ast.get_source_segment(source, node))
        raise ValueError(
            f"{segment} must be a literal, or a range for concat: nothing is evaluated"
        ) from error


def _nni_fields(entries: dict[Any, Any]) -> dict[str, Any]:
    if entries.keys() & {field for kind in KINDS for field in kind._fields}:
        raise ValueError("this dictionary is the JSON form of a genotype, which from_json reads")
    fields: dict[str, Any] = {}
    known = set()
    for cell in ("normal", "reduce"):
        num_keys = sum(isinstance(key, str) and key.startswith(f"{cell}/") for key in entries)
        num_nodes = max(1, -(-num_keys // 4))
        fields[cell] = []
        for state, slot in itertools.product(range(2, 2 + num_nodes), (0, 1)):
            keys = (f"{cell}/op_{state}_{slot}", f"{cell}/input_{state}_{slot}")
            for key in keys:
                if key not in entries:
                    raise ValueError(
                        f"NNI's dictionary lacks {key!r}; every node needs op and input 0 and 1"
                    )
            op, source = (entries[key] for key in keys)
            fields[cell].append(
                (op, source[0] if isinstance(source, list) and len(source) == 1 else source)
            )
            known.update(keys)
        fields[f"{cell}_concat"] = tuple(range(2, 2 + num_nodes))
    for key in entries:
        if key not in known:
            raise ValueError(
                f"unknown key {reprlib.repr(key)} in NNI's dictionary; keys read like"
                " 'normal/op_2_0'"
            )
    return fields


def _assemble(fields: Mapping[str, Any]) -> AnyGenotype:
    kind = next((kind for kind in reversed([*KINDS]) if fields.keys() & {*kind._fields}), Genotype)
    names = kind._fields
    for name in fields:
        if name not in names:
            raise ValueError(
                f"unknown field {reprlib.repr(name)}{hint(name, names)}; known are"
                f" {', '.join(names)}"
            )
    for name in names:
        if name not in fields:
            raise ValueError(f"field {name!r} is missing; a genotype has {', '.join(names)}")
    return kind(**{name: _frozen(name, fields[name]) for name in names})


def _frozen(name: str, value: Any) -> Any:
    """Turns lists into tuples and a list for each node into one of all; leaves what is neither to
    `check`.
    """
    if not isinstance(value, list | tuple):
        return value
    if name in ("normal", "reduce") and value and all(_is_node(node) for node in value):
        for i, node in enumerate(value):
            # Flattening first would shift the pairs of all later nodes.
            if len(node) != 2:
                where = f"{name}[{i}] = {reprlib.repr(node)}"
                raise ValueError(f"{where} has {len(node)} pairs; every node needs exactly two")
        value = itertools.chain.from_iterable(value)
    return tuple(tuple(pair) if isinstance(pair, list) else pair for pair in value)


def _is_node(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(pair, list | tuple) for pair in value)
    )


def to_nested(genotype: AnyGenotype) -> str:
    """Writes a pair of convolutional cells with a list of pairs for each node, as pt.darts does.

    Raises:
        ValueError: if the genotype is of another kind, which has no such form, or not a cell.

    >>> from jaxdarts.genotypes import DARTS_V2
    >>> to_nested(DARTS_V2)[:80]
    "Genotype(normal=[[('sep_conv_3x3', 0), ('sep_conv_3x3', 1)], [('sep_conv_3x3', 0"
    """
    genotype = _two_cells(genotype, "nested lists")
    fields = {name: [*value] for name, value in genotype._asdict().items()}
    for name in ("normal", "reduce"):
        fields[name] = [fields[name][i : i + 2] for i in range(0, len(fields[name]), 2)]
    return f"Genotype({', '.join(f'{name}={value}' for name, value in fields.items())})"


def to_nni(genotype: AnyGenotype) -> str:
    """Writes a pair of convolutional cells as NNI's dictionary, in JSON, which NNI reads from a
    file.

    Raises:
        ValueError: if the genotype is of another kind, if an output leaves out a node, which the
            dictionary cannot tell, or if the genotype is not a cell.

    >>> from jaxdarts.genotypes import DARTS_V2
    >>> json.loads(to_nni(DARTS_V2))["normal/op_5_1"]
    'dil_conv_3x3'
    """
    genotype = _two_cells(genotype, "NNI's dictionary")
    entries: dict[str, str | int] = {}
    for cell in ("normal", "reduce"):
        pairs, concat = getattr(genotype, cell), getattr(genotype, f"{cell}_concat")
        nodes = tuple(range(2, 2 + len(pairs) // 2))
        if concat != nodes:
            raise ValueError(
                f"{cell}_concat = {concat}: NNI's dictionary cannot tell it from all nodes in"
                f" order, {nodes}"
            )
        for i, (op, source) in enumerate(pairs):
            entries |= {
                f"{cell}/op_{2 + i // 2}_{i % 2}": op,
                f"{cell}/input_{2 + i // 2}_{i % 2}": source,
            }
    return json.dumps(entries, indent=2) + "\n"


def _two_cells(genotype: AnyGenotype, form: str) -> Genotype:
    check(genotype)
    if not isinstance(genotype, Genotype):
        raise ValueError(
            f"a {type(genotype).__name__} has no form as {form}; it is for a normal and a reduction"
            " cell"
        )
    return genotype


def to_json(genotype: AnyGenotype, ops: Iterable[str] | None = None) -> str:
    """Writes a genotype as a JSON object, one line a field.

    Args:
        genotype: what to write.
        ops: what it may name, as of `check`.

    Raises:
        ValueError: if the genotype is not a cell.

    >>> from jaxdarts.genotypes import RecurrentGenotype
    >>> print(to_json(RecurrentGenotype((("tanh", 0), ("relu", 1)), (1, 2))), end="")
    {
      "recurrent": [["tanh", 0], ["relu", 1]],
      "concat": [1, 2]
    }
    """
    check(genotype, ops)
    lines = (
        f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in genotype._asdict().items()
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def from_json(text: str, ops: Iterable[str] | None = None) -> AnyGenotype:
    """Reads what `to_json` wrote.

    Args:
        text: one genotype.
        ops: what it may name, as of `check`.

    Raises:
        ValueError: if a field is missing, unknown or given twice, or the genotype is not a cell.

    >>> from jaxdarts.genotypes import PDARTS
    >>> from_json(to_json(PDARTS)) == PDARTS
    True
    """
    _check_length(text)
    try:
        fields = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"{reprlib.repr(text)} is not JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("the text is nested too deeply for a genotype") from error
    if not isinstance(fields, dict):
        raise ValueError(
            f"{reprlib.repr(text)} must be a JSON object with the fields of a genotype"
        )
    genotype = _assemble(fields)
    check(genotype, ops)
    return genotype


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(items)
    if len(fields) < len(items):
        raise ValueError(f"a field is given twice among {', '.join(name for name, _ in items)}")
    return fields
