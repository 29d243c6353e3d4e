"""Readers and writers of genotypes: the dialects of the field, and JSON.

Nothing that is read is evaluated.

| dialect | read by | written by |
| --- | --- | --- |
| quark0/darts' `Genotype(normal=[...], ...)`, both kinds | `parse` | `str` |
| pt.darts' nested lists | `parse` | `to_nested` |
| NNI's dictionary, of versions 1 to 3 | `parse` | `to_nni` |
| NAS-Bench-201's string | `parse` | `str` |
| the string of NATS-Bench's sizes | `parse` | `str` |
| the string of TransNAS-Bench-101's micro cells | `parse` | `to_transnas` |
| NAS-Bench-101's `ModelSpec(matrix=..., ops=...)` | `parse` | `str` |
| `ChoiceGenotype(choices={...})` of a network of your own | `parse` | `str` |
| JSON | `parse`, `from_json` | `to_json` |
"""

import ast
import itertools
import json
import re
import reprlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxdarts.genotypes.cells import (
    AnyGenotype,
    ChoiceGenotype,
    Genotype,
    GraphGenotype,
    RecurrentGenotype,
    SizeGenotype,
    TopologyGenotype,
)
from jaxdarts.genotypes.kinds import KINDS, check
from jaxdarts.genotypes.nni import dictionary_fields
from jaxdarts.genotypes.rules import hint
from jaxdarts.genotypes.transnas import from_transnas

MAX_LENGTH = 100_000
"""Longest text that the readers look at; Python's parser may need much memory and stack for longer
ones.
"""


def parse(text: str, ops: Iterable[str] | None = None) -> AnyGenotype:
    """Reads a genotype from text in one of nine dialects, none of which is evaluated.

    These are quark0/darts' flat `Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2,
    6), ...)`, both kinds; the same with a list of pairs for each node, as pt.darts writes it; NNI's
    dictionary, `{'normal/op_2_0': 'sep_conv_3x3', 'normal/input_2_0': 1, ...}`, where an input may
    also be a list of one; NAS-Bench-201's `|nor_conv_3x3~0|+|none~0|skip_connect~1|+...`; the
    `8:16:24:32:64` of NATS-Bench's sizes; TransNAS-Bench-101's `64-41414-1_02_333`; NAS-Bench-101's
    `ModelSpec(matrix=[[0, 1], [0, 0]], ops=['input', 'output'])`;
    `ChoiceGenotype(choices={'kernel': '3x3', ...})`; and the JSON of `to_json`. In front of it, on
    the same line, may stand a name with an equals sign or whatever a logger writes.

    Some variants say the same and are read too: a class with its module
    (`genotypes.Genotype(...)`), fields in their order without names, `Structure(4 nodes with
    |...|)` around NAS-Bench-201's string, `np.int64(0)` and `tensor(0)` for 0, `list(range(2, 6))`,
    `connectN=None` and other fields that are None, NNI's older keys (`normal_n2_p0`,
    `normal_n2_switch`).

    NNI's dictionary does not tell which states make the output. All nodes do here, which is right
    for its DARTS space; for its NASNet, ENAS and AmoebaNet spaces, replace the two concats by the
    nodes that no other node reads.

    Args:
        text: one genotype.
        ops: what it may name, as of `check`: `Space.ops` of a space with operations of your own.

    Returns:
        The genotype, which `check` has passed. A warning names its nodes that are no part of the
        output, directly or through others.

    Raises:
        ValueError: if the text is not exactly one genotype, or not a valid one; or if it has a pair
          for every edge, as a cell has before two are chosen for each node.

    >>> node = {"op_2_0": "skip_connect", "input_2_0": 1}
    >>> node |= {"op_2_1": "max_pool_3x3", "input_2_1": [0]}
    >>> nni = {f"{cell}/{key}": node[key] for cell in ("normal", "reduce") for key in node}
    >>> parse(f"11/22 03:00:01 AM best = {nni}").reduce
    (('skip_connect', 1), ('max_pool_3x3', 0))
    """
    text = text.removeprefix("\ufeff")  # a byte order mark
    _check_length(text)
    matches = [
        (start, read) for pattern, read in _FORMS.items() if (start := re.search(pattern, text))
    ]
    if not matches:
        expected = (
            "Genotype(...), NNI's dictionary, |op~0|+|op~0|op~1|+..., c1:c2:c3:c4:c5 or"
            " ModelSpec(...)"
        )
        raise ValueError(f"no genotype in {reprlib.repr(text)}; expected {expected}")
    start, read = min(matches, key=lambda pair: pair[0].start())
    prefix, source = text[: start.start()].lstrip(), text[start.start() :].strip()
    prefix = re.sub(
        r"(?<![\w.])(?:\w+\.)*(genotypes?|gt|api|model_spec)\.$", "", prefix
    )  # the class's module
    if structure := re.search(r"\bStructure\(\s*([0-9]{1,3}) nodes with\s*$", prefix):
        prefix, source = prefix[: structure.start()], _inside(source, int(structure[1]))
    if prefix and (prefix[-1] not in " \t=:" or "\n" in prefix):
        raise ValueError(
            f"unexpected {reprlib.repr(prefix)} before the genotype; expected 'name =' or a line of"
            " a log"
        )
    return _checked(read(source), ops)


def _inside(source: str, nodes: int) -> str:
    """The text between the brackets of AutoDL-Projects' `Structure(4 nodes with ...)`."""
    if not source.endswith(")"):
        raise ValueError(f"{reprlib.repr(source)} lacks the bracket that closes Structure(")
    if source.count("+") + 2 != nodes:  # the input is a node there
        raise ValueError(f"{reprlib.repr(source)} has {source.count('+') + 2} nodes, not {nodes}")
    return source[:-1].rstrip()


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
            match = re.fullmatch(r"\s*(\w+)\s*~\s*([0-9]{1,9})\s*", word)
            if match is None:
                raise ValueError(
                    f"{where} has {reprlib.repr(word)}; expected an operation, '~' and its source"
                    " state"
                )
            pairs.append((match[1], int(match[2])))
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
    r"\b(?:(?:Recurrent|Topology|Size|Graph|Choice)?Genotype|ModelSpec)\s*\(|\{": _read_call,
    r"\|\s*\w+\s*~": _read_string,
    # A logger's time of day has three numbers.
    r"\b[0-9]+(?::[0-9]+){4}": _read_sizes,
    r"\b[0-9]+-[0-9]+-[0-9]_[0-9]": from_transnas,
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
            return dictionary_fields(entries)
        if not (isinstance(root, ast.Call) and isinstance(root.func, ast.Name)):
            raise ValueError(f"{reprlib.repr(source)} is more than one genotype, or something else")
        fields: dict[str, Any] = {}
        if any(keyword.arg is None for keyword in root.keywords):
            raise ValueError("the fields of a genotype must be written name=value, or in order")
        names = _names_in_order(root.func.id, len(root.args) + len(root.keywords))
        if len(root.args) > len(names):
            raise ValueError(f"{len(root.args)} fields without names; there are {', '.join(names)}")
        values = [*zip(names, root.args), *((key.arg, key.value) for key in root.keywords)]
        for name, value in values:
            if name in fields:
                raise ValueError(f"field {name!r} is given twice")
            fields[str(name)] = _literal(value, source)
        return fields
    except (SyntaxError, UnicodeEncodeError, Warning) as error:
        raise ValueError(
            f"{reprlib.repr(source)} is not exactly one complete genotype: {error}"
        ) from error
    except (RecursionError, MemoryError) as error:
        raise ValueError("the text is nested too deeply for a genotype") from error


def _names_in_order(name: str, count: int) -> tuple[str, ...]:
    """The names of the fields of a class, which has as many or more."""
    if name == "ModelSpec":
        return (*GraphGenotype._fields, "data_format")  # NAS-Bench-101's own
    if name == "Genotype" and count <= len(RecurrentGenotype._fields):
        return RecurrentGenotype._fields
    return next(kind._fields for kind in KINDS if kind.__name__ == name)


class _Plain(ast.NodeTransformer):
    """Puts the literal in the place of what only wraps one, such as `np.int64(0)`."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = re.sub(r"^(numpy|np|torch)\.", "", ast.unparse(node.func))
        if name == "arange":
            node.func = ast.Name("range")
        about = {keyword.arg for keyword in node.keywords}
        if len(node.args) != 1 or about - ({"device", "dtype"} if name == "tensor" else set()):
            return node
        (argument,) = node.args
        several = isinstance(argument, ast.List | ast.Tuple) or _is_range(argument)
        if several and name in ("list", "tuple", "array", "tensor"):
            return argument
        scalar = r"u?int(\d\d?|p|c)?|str_?|tensor"
        if isinstance(argument, ast.Constant) and re.fullmatch(scalar, name):
            return argument
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:  # of JSON
        constants = {"true": True, "false": False, "null": None}
        return ast.Constant(constants[node.id]) if node.id in constants else node


def _is_range(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "range" and not node.keywords


def _literal(node: ast.expr, source: str) -> Any:
    """Value of a literal or of a `range` of literals; nothing else has one."""
    segment = reprlib.repr(ast.get_source_segment(source, node))
    try:
        node = _Plain().visit(node)
        if isinstance(node, ast.Call) and _is_range(node):
            states = range(*(ast.literal_eval(argument) for argument in node.args))
            # No text that is short enough to be read has so many nodes, so `check` refuses what is
            # cut off.
            return tuple(itertools.islice(states, MAX_LENGTH))
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{segment} must be a literal, or a range for concat: nothing is evaluated"
        ) from error


def _assemble(fields: Mapping[str, Any]) -> AnyGenotype:
    kind = next((kind for kind in reversed([*KINDS]) if fields.keys() & {*kind._fields}), Genotype)
    names = kind._fields
    # Fields of other code that say nothing: AutoDL-Projects' connectN, NAS-Bench-101's layout.
    fields = {
        name: value
        for name, value in fields.items()
        if name in names
        or value is not None
        and not (kind is GraphGenotype and name == "data_format" and isinstance(value, str))
    }
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


def _checked(genotype: AnyGenotype, ops: Iterable[str] | None) -> AnyGenotype:
    """The genotype, if it is sound; warns of nodes that are no part of the output."""
    if isinstance(genotype, Genotype):
        _refuse_all_edges("normal", genotype.normal, genotype.normal_concat, 2)
        _refuse_all_edges("reduce", genotype.reduce, genotype.reduce_concat, 2)
    if isinstance(genotype, RecurrentGenotype):
        _refuse_all_edges("recurrent", genotype.recurrent, genotype.concat, 1)
    check(genotype, ops)
    if isinstance(genotype, Genotype):
        _warn_of_dead_nodes("normal", genotype.normal, genotype.normal_concat, 2)
        _warn_of_dead_nodes("reduce", genotype.reduce, genotype.reduce_concat, 2)
    if isinstance(genotype, RecurrentGenotype):
        _warn_of_dead_nodes("recurrent", genotype.recurrent, genotype.concat, 1)
    return genotype


def _refuse_all_edges(name: str, pairs: Any, concat: Any, inputs: int) -> None:
    """Refuses a pair for every edge, which would be read as more nodes than the cell has.

    `inputs`: as of `_warn_of_dead_nodes`.
    """
    states = [state for state in concat if type(state) is int] if isinstance(concat, tuple) else []
    nodes = max(states, default=1) - inputs + 1
    edges = nodes * (nodes + 2 * inputs - 1) // 2
    if isinstance(pairs, tuple) and nodes > 1 and len(pairs) == edges:
        kept = "two that are" if inputs == 2 else "one that is"
        raise ValueError(
            f"{name} has {len(pairs)} pairs, one for every edge of {nodes} nodes; a genotype has"
            f" the {kept} kept for each node, {inputs * nodes}"
        )


def _warn_of_dead_nodes(name: str, pairs: Any, concat: tuple[int, ...], inputs: int) -> None:
    """Warns of nodes that are no part of the output, directly or through others.

    `inputs`: the cell's inputs, and the pairs of a node: two if convolutional, one if recurrent.
    """
    states = range(inputs, inputs + len(pairs) // inputs)
    alive = set(concat)
    for state in reversed(states):  # pairs read earlier states only
        if state in alive:
            start = (state - inputs) * inputs
            alive |= {source for _, source in pairs[start : start + inputs]}
    if dead := [state for state in states if state not in alive]:
        nodes = f"nodes {', '.join(map(str, dead))} are" if len(dead) > 1 else f"node {dead[0]} is"
        warnings.warn(
            f"{name}: {nodes} no part of the output, directly or through others: is the concat"
            f" {[*concat]} complete?",
            stacklevel=4,
        )


def _frozen(name: str, value: Any) -> Any:
    """Turns lists into tuples and a list for each node into one of all.

    Leaves what is neither to `check`.
    """
    if isinstance(value, dict):  # the choices of a network of your own
        return tuple(value.items())
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
    """Writes a pair of convolutional cells as NNI's dictionary.

    It is JSON, which NNI reads from a file.

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
    fields = genotype._asdict()
    if isinstance(genotype, ChoiceGenotype):
        fields = {"choices": dict(genotype.choices)}
    lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def from_json(text: str, ops: Iterable[str] | None = None) -> AnyGenotype:
    """Reads a genotype from JSON: what `to_json` or `to_nni` wrote.

    Args:
        text: one genotype.
        ops: what it may name, as of `check`.

    Raises:
        ValueError: if a field is missing, unknown or given twice, or the genotype is not a cell.

    >>> from jaxdarts.genotypes import PDARTS
    >>> from_json(to_json(PDARTS)) == PDARTS
    True
    """
    text = text.removeprefix("\ufeff")
    _check_length(text)
    try:
        fields = json.loads(text, object_pairs_hook=_unique)
    except _Twice:
        raise
    except ValueError as error:  # also of numbers with thousands of digits
        raise ValueError(f"{reprlib.repr(text)} is not JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("the text is nested too deeply for a genotype") from error
    if not isinstance(fields, dict):
        raise ValueError(
            f"{reprlib.repr(text)} must be a JSON object with the fields of a genotype"
        )
    return _checked(_assemble(dictionary_fields(fields)), ops)


class _Twice(ValueError):
    """A field of a JSON object is given twice."""


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(items)
    if len(fields) < len(items):
        raise _Twice(f"a field is given twice among {', '.join(name for name, _ in items)}")
    return fields
