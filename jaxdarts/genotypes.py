"""Discrete architectures: two types, readers for the dialects of the field, a writer, and the published ones by name.

The states of a cell are numbered in the order in which they arise. A convolutional cell has two inputs, states 0
(the output of the cell before the previous one) and 1 (of the previous one), and its nodes make states 2, 3, ...,
each the sum of two operations. A recurrent cell has one input, state 0, and its nodes make states 1, 2, ..., each by
one activation. So pair `i` of `Genotype.normal` feeds state `2 + i // 2`, and pair `i` of
`RecurrentGenotype.recurrent` feeds state `1 + i`.

>>> parse("genotype = Genotype(normal=[('skip_connect', 0), ('sep_conv_3x3', 1)], normal_concat=range(2, 3), "
...       "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1)], reduce_concat=range(2, 3))").normal
(('skip_connect', 0), ('sep_conv_3x3', 1))
>>> print(RNN_DARTS_V1)  # doctest: +ELLIPSIS
Genotype(recurrent=[('relu', 0), ('relu', 1), ('tanh', 2), ...], concat=[1, 2, 3, 4, 5, 6, 7, 8])
"""

import ast
import difflib
import itertools
import json
import re
import reprlib
import warnings
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

Pairs = tuple[tuple[str, int], ...]

# fmt: off
OPS = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
       "sep_conv_7x7", "conv_7x1_1x7", "noise")
# fmt: on
"""What a convolutional genotype may name: DARTS' operations, two of NASNet and AmoebaNet, the noise of RobustDARTS."""

ACTIVATIONS = ("tanh", "relu", "sigmoid", "identity")
"""What a recurrent genotype may name."""

MAX_LENGTH = 100_000
"""Longest text that the readers look at; Python's parser may need much memory and stack for longer ones."""


class Genotype(NamedTuple):
    """A pair of convolutional cells.

    normal: (operation, source state), two for each node.
    normal_concat: the states whose channels make the output of the cell.
    reduce, reduce_concat: the same for the cell that halves the map.

    Its `str` is the text that the field's scripts print and read, down to the brackets. The original prints a concat as
    `range(2, 6)` or as a list, whichever it was given. Here it is always a list: that can also say AmoebaNet's
    `[3, 4, 6]`, and `ast.literal_eval` reads it.

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


AnyGenotype = Genotype | RecurrentGenotype


def _text(genotype: AnyGenotype) -> str:
    return f"Genotype({', '.join(f'{name}={[*value]}' for name, value in genotype._asdict().items())})"


# --------------------------------------------------------------------------------------------------------------- rules


def check(genotype: AnyGenotype, ops: Iterable[str] | None = None) -> None:
    """Refuses a genotype that is not a cell.

    A node may apply two operations to one source: NASNet's and AmoebaNet's cells do, though the DARTS space never does.

    Args:
        genotype: what to look at.
        ops: the operations that it may name; `OPS` or `ACTIVATIONS` if None. Never `none`, which only a search knows.

    Raises:
        ValueError: if a rule is broken; the message names the pair and the rule.

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
    else:
        raise ValueError(f"{reprlib.repr(genotype)} is not a Genotype or RecurrentGenotype")


def _check_cell(name: str, pairs: Any, concat_name: str, concat: Any, num_inputs: int, ops: tuple[str, ...]) -> None:
    """Checks a cell that has as many inputs as pairs for each node: two if convolutional, one if recurrent."""
    # A list would do here, but not as a static argument or a dictionary key later on.
    if not isinstance(pairs, tuple):
        raise ValueError(f"{name} = {reprlib.repr(pairs)} must be a tuple; parse(str(genotype)) makes tuples of lists")
    if not pairs:
        raise ValueError(f"{name} is empty; a cell needs one node at least")
    if len(pairs) % num_inputs:
        raise ValueError(f"{name} has {len(pairs)} pairs; every node needs exactly two")
    for i, pair in enumerate(pairs):
        where = f"{name}[{i}] = {reprlib.repr(pair)}"
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ValueError(f"{where} must be a tuple of an operation's name and its source state")
        op, source = pair
        if op == "none":
            raise ValueError(f"{where}: 'none' is a candidate of searches only, no part of a genotype")
        if op not in ops:
            raise ValueError(f"{where}: unknown operation{_hint(op, ops)}; known are {', '.join(ops)}")
        # Not isinstance: a bool is an int, and a NumPy integer would spoil the text form.
        if type(source) is not int:
            raise ValueError(f"{where}: the source state must be an int, not {type(source).__name__}")
        target = num_inputs + i // num_inputs
        if not 0 <= source < target:
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


def _hint(word: str, words: Iterable[str]) -> str:
    # No name is anywhere near this long, and difflib would take quadratic time.
    close = difflib.get_close_matches(word[:64], words, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


# ------------------------------------------------------------------------------------------------------------- readers


def parse(text: str) -> AnyGenotype:
    """Reads a genotype from text in one of three dialects, none of which is evaluated.

    These are quark0/darts' flat `Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), ...)`, both
    kinds; the same with a list of pairs for each node, as pt.darts writes it; and NNI's dictionary,
    `{'normal/op_2_0': 'sep_conv_3x3', 'normal/input_2_0': 1, ...}`, where an input may also be a list of one. In front
    of it, on the same line, may stand a name with an equals sign or whatever a logger writes.

    NNI's dictionary does not tell which states make the output. All nodes do here, which is right for its DARTS space;
    for its NASNet, ENAS and AmoebaNet spaces, replace the two concats by the nodes that no other node reads.

    Args:
        text: one genotype.

    Returns:
        The genotype, which `check` has passed.

    Raises:
        ValueError: if the text is not exactly one genotype, or not a valid one.

    >>> nni = {f"{cell}/{key}": value for cell in ("normal", "reduce") for key, value in
    ...        {"op_2_0": "skip_connect", "input_2_0": 1, "op_2_1": "max_pool_3x3", "input_2_1": [0]}.items()}
    >>> parse(f"11/22 03:00:01 AM best = {nni}").reduce
    (('skip_connect', 1), ('max_pool_3x3', 0))
    """
    _check_length(text)
    start = re.search(r"\b(?:Recurrent)?Genotype\s*\(|\{", text)
    if start is None:
        if re.search(r"\|\s*\w+~\d+\s*\|", text):
            raise ValueError(f"{reprlib.repr(text)} is a NAS-Bench-201 string, which parse does not read")
        raise ValueError(f"no genotype in {reprlib.repr(text)}; expected Genotype(...) or NNI's dictionary")
    prefix = text[: start.start()].lstrip()
    if prefix and (prefix[-1] not in " \t=:" or "\n" in prefix):
        raise ValueError(f"unexpected {reprlib.repr(prefix)} before the genotype; expected 'name =' or a line of a log")
    return _assemble(_read_fields(text[start.start() :].strip()))


def _check_length(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise ValueError(f"a text of {len(text)} characters is no genotype; at most {MAX_LENGTH} are read")


def _read_fields(source: str) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # the parser only warns of some slips, such as an unknown escape
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
        raise ValueError(f"{reprlib.repr(source)} is not exactly one complete genotype: {error}") from error
    except (RecursionError, MemoryError) as error:
        raise ValueError("the text is nested too deeply for a genotype") from error


def _literal(node: ast.expr, source: str) -> Any:
    """Value of a literal or of a `range` of literals; nothing else has one."""
    try:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "range" and not node.keywords:
            states = range(*(ast.literal_eval(argument) for argument in node.args))
            # No text that is short enough to be read has so many nodes, so `check` refuses what is cut off.
            return tuple(itertools.islice(states, MAX_LENGTH))
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        segment = reprlib.repr(ast.get_source_segment(source, node))
        raise ValueError(f"{segment} must be a literal, or a range for concat: nothing is evaluated") from error


def _nni_fields(entries: dict[Any, Any]) -> dict[str, Any]:
    if entries.keys() & {*Genotype._fields, *RecurrentGenotype._fields}:
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
                    raise ValueError(f"NNI's dictionary lacks {key!r}; every node needs op and input 0 and 1")
            op, source = (entries[key] for key in keys)
            fields[cell].append((op, source[0] if isinstance(source, list) and len(source) == 1 else source))
            known.update(keys)
        fields[f"{cell}_concat"] = tuple(range(2, 2 + num_nodes))
    for key in entries:
        if key not in known:
            raise ValueError(f"unknown key {reprlib.repr(key)} in NNI's dictionary; keys read like 'normal/op_2_0'")
    return fields


def _assemble(fields: Mapping[str, Any]) -> AnyGenotype:
    kind = RecurrentGenotype if fields.keys() & {*RecurrentGenotype._fields} else Genotype
    names = kind._fields
    for name in fields:
        if name not in names:
            raise ValueError(f"unknown field {reprlib.repr(name)}{_hint(name, names)}; known are {', '.join(names)}")
    for name in names:
        if name not in fields:
            raise ValueError(f"field {name!r} is missing; a genotype has {', '.join(names)}")
    genotype = kind(**{name: _frozen(name, fields[name]) for name in names})
    check(genotype)
    return genotype


def _frozen(name: str, value: Any) -> Any:
    """Turns lists into tuples and a list for each node into one of all; leaves what is neither to `check`."""
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
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(pair, list | tuple) for pair in value)


def to_json(genotype: AnyGenotype) -> str:
    """Writes a genotype as a JSON object, one line a field.

    Raises:
        ValueError: if the genotype is not a cell.

    >>> print(to_json(RecurrentGenotype((("tanh", 0), ("relu", 1)), (1, 2))), end="")
    {
      "recurrent": [["tanh", 0], ["relu", 1]],
      "concat": [1, 2]
    }
    """
    check(genotype)
    lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in genotype._asdict().items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def from_json(text: str) -> AnyGenotype:
    """Reads what `to_json` wrote.

    Raises:
        ValueError: if a field is missing, unknown or given twice, or the genotype is not a cell.

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
        raise ValueError(f"{reprlib.repr(text)} must be a JSON object with the fields of a genotype")
    return _assemble(fields)


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(items)
    if len(fields) < len(items):
        raise ValueError(f"a field is given twice among {', '.join(name for name, _ in items)}")
    return fields


# ----------------------------------------------------------------------------------------------------------- published

_SHORT = {"max": "max_pool_3x3", "avg": "avg_pool_3x3", "skip": "skip_connect", "conv7": "conv_7x1_1x7"}
_SHORT |= {f"{kind}{k}": f"{kind}_conv_{k}x{k}" for kind in ("sep", "dil") for k in (3, 5, 7)}


def _pairs(text: str) -> Pairs:
    words = (word.split(":") for word in text.replace("|", " ").split())
    return tuple((_SHORT.get(op, op), int(source)) for op, source in words)


def _cells(normal: str, reduce: str, normal_concat=(2, 3, 4, 5), reduce_concat=(2, 3, 4, 5)) -> Genotype:
    return Genotype(_pairs(normal), normal_concat, _pairs(reduce), reduce_concat)


def _recurrent(text: str, concat=(1, 2, 3, 4, 5, 6, 7, 8)) -> RecurrentGenotype:
    return RecurrentGenotype(_pairs(text), concat)


# fmt: off
# Liu, Simonyan & Yang, DARTS: Differentiable Architecture Search, ICLR 2019: first order, second order.
DARTS_V1 = _cells("sep3:1 sep3:0 | skip:0 sep3:1 | skip:0 sep3:1 | sep3:0 skip:2",
                  "max:0 max:1 | skip:2 max:0 | max:0 skip:2 | skip:2 avg:0")
DARTS_V2 = _cells("sep3:0 sep3:1 | sep3:0 sep3:1 | sep3:1 skip:0 | skip:0 dil3:2",
                  "max:0 max:1 | skip:2 max:1 | max:0 skip:2 | skip:2 max:1")
DARTS = DARTS_V2
# Zoph et al., Learning Transferable Architectures for Scalable Image Recognition, CVPR 2018 (NASNet-A).
NASNet = _cells("sep5:1 sep3:0 | sep5:0 sep3:0 | avg:1 skip:0 | avg:0 avg:0 | sep3:1 skip:1",
                "sep5:1 sep7:0 | max:1 sep7:0 | avg:1 sep5:0 | skip:3 avg:2 | sep3:2 max:1", (2, 3, 4, 5, 6), (4, 5, 6))
# Real, Aggarwal, Huang & Le, Regularized Evolution for Image Classifier Architecture Search, AAAI 2019 (AmoebaNet-A).
AmoebaNet = _cells("avg:0 max:1 | sep3:0 sep5:2 | sep3:0 avg:3 | sep3:1 skip:1 | skip:0 avg:1",
                   "avg:0 sep3:1 | max:0 sep7:2 | sep7:0 avg:1 | max:0 max:1 | conv7:0 sep3:5", (4, 5, 6), (3, 4, 6))
# Xu et al., PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search, ICLR 2020.
PC_DARTS_cifar = _cells("sep3:1 skip:0 | sep3:0 dil3:1 | sep5:0 sep3:1 | avg:0 dil3:1",
                        "sep5:1 max:0 | sep5:1 sep5:2 | sep3:0 sep3:3 | sep3:1 sep3:2")
PC_DARTS_image = _cells("skip:1 sep3:0 | sep3:0 skip:1 | sep3:1 sep3:3 | sep3:1 dil5:4",
                        "sep3:0 skip:1 | dil5:2 max:1 | sep3:2 sep3:1 | sep5:0 sep3:3")
PCDARTS = PC_DARTS_cifar
# Chen, Xie, Wu & Tian, Progressive Differentiable Architecture Search, ICCV 2019.
PDARTS = _cells("skip:0 dil3:1 | skip:0 sep3:1 | sep3:1 sep3:3 | sep3:0 dil5:4",
                "avg:0 sep5:1 | sep3:0 dil5:2 | max:0 dil3:1 | dil3:1 dil5:3")
# Dong & Yang, Searching for a Robust Neural Architecture in Four GPU Hours, CVPR 2019. The last source is 1 in the
# authors' own list, which we follow; it is 2 in FairDARTS' list and what was copied from there.
GDAS_V1 = _cells("skip:0 skip:1 | skip:0 sep5:2 | sep3:3 skip:0 | sep5:4 sep3:3",
                 "sep5:0 sep3:1 | sep5:2 sep5:1 | dil5:2 sep3:1 | sep5:0 sep5:1")
# Xie, Zheng, Liu & Lin, SNAS: Stochastic Neural Architecture Search, ICLR 2019.
SNAS = _cells("sep3:0 sep3:1 | skip:0 dil3:1 | skip:1 skip:0 | skip:0 sep3:1",
              "max:0 max:1 | max:1 skip:2 | skip:2 max:1 | max:0 dil5:2")
# Chen, Wang, Cheng, Tang & Hsieh, DrNAS: Dirichlet Neural Architecture Search, ICLR 2021.
DrNAS_cifar10 = _cells("sep3:0 sep5:1 | sep3:1 sep3:2 | skip:0 sep3:1 | sep3:2 dil5:3",
                       "max:0 sep5:1 | dil5:2 sep5:1 | sep5:1 dil5:3 | skip:4 sep5:1")
DrNAS_imagenet = _cells("sep3:1 sep3:0 | sep3:0 sep3:1 | sep3:0 dil3:3 | skip:0 sep3:1",
                        "max:0 sep3:1 | sep3:0 skip:2 | sep3:0 sep3:2 | sep3:3 sep3:1")

# Chen & Hsieh, Stabilizing Differentiable Architecture Search via Perturbation-based Regularization, ICML 2020. A name
# tells data set, space (S1-S4 of RobustDARTS; S5 is DARTS' own), random (SDARTS-RS) or adversarial noise (SDARTS-ADV).
c10_s1_random = _cells("dil5:1 dil3:0 | sep3:1 skip:2 | dil3:3 sep3:2 | sep3:0 dil3:2",
                       "max:0 dil3:1 | dil5:2 max:1 | dil5:3 sep3:1 | dil5:2 dil5:3")
c10_s1_pgd = _cells("dil5:1 dil3:0 | sep3:1 skip:2 | sep3:2 dil3:3 | sep3:0 dil3:2",
                    "max:0 dil3:1 | dil5:2 max:0 | dil5:3 dil3:2 | dil5:4 dil5:2")
c10_s2_random = _cells("sep3:0 sep3:1 | sep3:2 skip:1 | sep3:3 skip:0 | sep3:1 skip:2",
                       "sep3:0 sep3:1 | sep3:1 sep3:0 | sep3:2 sep3:1 | sep3:2 sep3:3")
c10_s2_pgd = _cells("sep3:1 skip:0 | sep3:2 sep3:0 | sep3:3 sep3:2 | sep3:4 sep3:1",
                    "skip:0 skip:1 | sep3:0 sep3:2 | sep3:3 sep3:0 | sep3:4 sep3:3")
c10_s3_random = _cells("sep3:1 sep3:0 | sep3:1 sep3:0 | sep3:1 sep3:2 | sep3:4 skip:0",
                       "skip:0 sep3:1 | sep3:2 sep3:0 | sep3:2 sep3:3 | sep3:0 sep3:4")
c10_s3_pgd = _cells("sep3:1 sep3:0 | sep3:0 sep3:2 | sep3:1 sep3:0 | sep3:1 skip:0",
                    "sep3:1 sep3:0 | sep3:2 sep3:0 | sep3:2 sep3:0 | sep3:1 sep3:3")
c10_s4_random = _cells("sep3:1 sep3:0 | sep3:2 sep3:1 | sep3:3 sep3:2 | sep3:4 sep3:2",
                       "sep3:0 sep3:1 | sep3:0 sep3:2 | sep3:0 sep3:3 | sep3:0 sep3:4")
c10_s4_pgd = _cells("sep3:1 sep3:0 | sep3:2 sep3:1 | sep3:3 sep3:2 | sep3:3 sep3:4",
                    "sep3:1 sep3:0 | sep3:2 sep3:1 | sep3:2 sep3:3 | sep3:3 sep3:4")
c10_s5_random = _cells("sep3:1 sep3:0 | sep5:1 skip:0 | sep3:3 skip:1 | sep3:1 dil3:2",
                       "max:0 sep3:1 | skip:2 max:0 | dil5:3 max:0 | sep3:2 sep5:3")
c10_s5_pgd = _cells("sep3:0 sep3:1 | sep3:1 skip:0 | sep5:0 dil3:3 | dil3:4 skip:0",
                    "max:0 sep5:1 | skip:2 max:0 | skip:3 skip:2 | skip:2 sep5:4")
c100_s1_random = _cells("dil3:0 skip:1 | dil3:2 sep3:1 | dil3:3 sep3:2 | skip:0 dil3:4",
                        "max:0 max:1 | dil5:2 max:1 | dil5:3 dil3:2 | dil5:4 dil5:3")
c100_s1_pgd = _cells("dil5:1 dil3:0 | dil3:2 sep3:1 | dil3:3 sep3:2 | dil3:2 sep3:0",
                     "dil3:1 max:0 | dil5:2 max:0 | dil5:3 sep3:1 | dil5:3 dil5:4")
c100_s2_random = _cells("sep3:0 sep3:1 | sep3:2 sep3:0 | sep3:3 sep3:2 | sep3:4 sep3:3",
                        "sep3:1 sep3:0 | sep3:2 sep3:1 | sep3:3 sep3:1 | sep3:4 skip:0")
c100_s2_pgd = _cells("skip:0 sep3:1 | sep3:2 sep3:1 | sep3:3 sep3:2 | sep3:4 sep3:3",
                     "sep3:1 sep3:0 | sep3:2 sep3:1 | sep3:3 sep3:2 | sep3:3 sep3:4")
c100_s3_random = _cells("sep3:1 sep3:0 | sep3:1 sep3:2 | sep3:1 sep3:0 | sep3:4 sep3:1",
                        "sep3:0 sep3:1 | sep3:2 sep3:1 | sep3:3 sep3:2 | sep3:4 sep3:3")
c100_s3_pgd = _cells("sep3:0 sep3:1 | sep3:0 sep3:1 | sep3:1 sep3:2 | sep3:2 sep3:1",
                     "skip:1 sep3:0 | sep3:2 sep3:0 | sep3:3 sep3:2 | sep3:4 sep3:3")
c100_s4_random = _cells("sep3:0 sep3:1 | sep3:2 sep3:0 | sep3:2 sep3:3 | sep3:3 sep3:2",
                        "sep3:0 sep3:1 | sep3:2 sep3:0 | sep3:3 sep3:2 | sep3:4 sep3:3")
c100_s4_pgd = _cells("sep3:0 sep3:1 | sep3:0 sep3:1 | sep3:1 sep3:0 | sep3:0 sep3:2",
                     "sep3:0 sep3:1 | sep3:1 sep3:0 | sep3:1 sep3:3 | sep3:3 sep3:4")
svhn_s1_random = _cells("skip:0 dil5:1 | skip:1 skip:0 | skip:2 skip:0 | skip:1 skip:2",
                        "max:0 dil3:1 | dil5:2 max:0 | dil5:3 dil3:2 | dil5:2 dil5:3")
svhn_s1_pgd = _cells("dil3:0 dil5:1 | dil3:2 dil5:0 | dil3:3 sep3:2 | skip:1 sep3:0",
                     "max:0 dil3:1 | dil5:2 max:0 | dil5:3 dil3:2 | dil5:3 dil5:2")
svhn_s2_random = _cells("sep3:1 skip:0 | sep3:2 sep3:0 | sep3:3 skip:1 | skip:0 sep3:4",
                        "sep3:1 skip:0 | sep3:2 sep3:1 | sep3:3 sep3:2 | sep3:3 sep3:4")
svhn_s2_pgd = _cells("skip:0 sep3:1 | sep3:1 sep3:2 | sep3:0 skip:3 | skip:3 skip:4",
                     "sep3:1 sep3:0 | sep3:1 sep3:0 | sep3:3 sep3:0 | skip:3 sep3:0")
svhn_s3_random = _cells("sep3:1 sep3:0 | sep3:2 sep3:1 | sep3:1 sep3:3 | sep3:4 sep3:2",
                        "sep3:1 sep3:0 | sep3:2 skip:0 | sep3:3 sep3:2 | sep3:4 sep3:3")
svhn_s3_pgd = _cells("sep3:1 sep3:0 | sep3:0 skip:2 | skip:3 sep3:1 | skip:2 sep3:0",
                     "sep3:1 sep3:0 | sep3:1 sep3:2 | sep3:2 sep3:1 | sep3:1 sep3:4")
svhn_s4_random = _cells("sep3:1 sep3:0 | sep3:1 sep3:0 | sep3:3 sep3:1 | sep3:4 sep3:2",
                        "sep3:1 sep3:0 | sep3:2 sep3:0 | sep3:2 sep3:3 | sep3:4 sep3:0")
svhn_s4_pgd = _cells("sep3:1 sep3:0 | sep3:0 sep3:1 | sep3:0 sep3:1 | sep3:0 sep3:1",
                     "sep3:1 sep3:0 | sep3:1 sep3:2 | sep3:2 sep3:0 | sep3:0 sep3:1")

# Liu et al. 2019, as above, on Penn Treebank: first order, second order.
RNN_DARTS_V1 = _recurrent("relu:0 relu:1 tanh:2 relu:3 relu:4 identity:1 relu:5 relu:1")
RNN_DARTS_V2 = _recurrent("sigmoid:0 relu:1 relu:1 identity:1 tanh:2 sigmoid:5 tanh:3 relu:5")
# Pham, Guan, Zoph, Le & Dean, Efficient Neural Architecture Search via Parameter Sharing, ICML 2018.
RNN_ENAS = _recurrent("tanh:0 tanh:1 relu:1 tanh:3 tanh:3 relu:3 relu:4 relu:7 relu:8 relu:8 relu:8",
                      (2, 5, 6, 9, 10, 11))
# Chen & Hsieh 2020, as above, on Penn Treebank.
penn_random = _recurrent("sigmoid:0 sigmoid:1 identity:2 sigmoid:1 tanh:2 tanh:2 sigmoid:0 sigmoid:3")
penn_pgd = _recurrent("relu:0 relu:1 tanh:2 relu:3 identity:2 relu:1 tanh:2 relu:7")
# fmt: on

PUBLISHED: Mapping[str, AnyGenotype] = MappingProxyType(
    {name: value for name, value in globals().items() if isinstance(value, AnyGenotype)}
)
"""Every published genotype of this module by its name, for command lines."""
