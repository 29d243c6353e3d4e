"""Dictionaries of NNI, of its versions 1 to 3, as the fields of a genotype."""

import itertools
import re
import reprlib
from collections.abc import Iterator
from typing import Any

from jaxdarts.genotypes.kinds import KINDS


def dictionary_fields(entries: dict[Any, Any]) -> dict[str, Any]:
    """The fields of a genotype from a dictionary: those of its JSON form, or NNI's."""
    if not entries or entries.keys() & {field for kind in KINDS for field in kind._fields}:
        return entries
    keys = [key for key in entries if isinstance(key, str)]
    if any(re.match(r"(normal|reduce)/", key) for key in keys):
        return _nni_fields(entries)
    if any(re.match(_OLD_NNI, key) for key in keys):
        return _old_nni_fields(entries)
    raise ValueError(
        f"a dictionary with the keys {reprlib.repr([*entries])} is none of a genotype's JSON"
        " ('normal', 'normal_concat', ...), NNI's ('normal/op_2_0', ...) and that of NNI 1 and 2"
        " ('normal_n2_p0', 'normal_n2_switch', ...)"
    )


_OLD_NNI = r"(normal|reduce)_n([0-9]{1,3})_(?:p([0-9]{1,3})|switch)$"
_OLD_NNI_OPS = {
    "maxpool": "max_pool_3x3",
    "avgpool": "avg_pool_3x3",
    "skipconnect": "skip_connect",
    "sepconv3x3": "sep_conv_3x3",
    "sepconv5x5": "sep_conv_5x5",
    "dilconv3x3": "dil_conv_3x3",
    "dilconv5x5": "dil_conv_5x5",
    "none": "none",
}
"""Operations by their names in NNI 1 and 2."""


def _old_nni_fields(entries: dict[Any, Any]) -> dict[str, Any]:
    """`normal_n2_p0`: the operation of node 2 on state 0; `normal_n2_switch`: which two it has."""
    nodes: dict[str, list[int]] = {"normal": [], "reduce": []}
    for key in entries:
        if not (isinstance(key, str) and (match := re.match(_OLD_NNI, key))):
            raise ValueError(f"unknown key {reprlib.repr(key)} among those of NNI 1 and 2")
        if int(match[2]) not in nodes[match[1]]:
            nodes[match[1]].append(int(match[2]))
    fields: dict[str, Any] = {}
    for cell, states in nodes.items():
        fields[cell] = []
        for state in range(2, 2 + max(1, len(states))):
            name = f"{cell}_n{state}_switch"
            if name not in entries:
                raise ValueError(f"NNI's dictionary lacks {name!r}")
            fields[cell].extend(_old_nni_node(entries, f"{cell}_n{state}", state))
        fields[f"{cell}_concat"] = tuple(range(2, 2 + len(states)))
    return fields


def _old_nni_node(entries: dict[Any, Any], node: str, state: int) -> Iterator[tuple[str, int]]:
    """The two pairs of a node."""
    slots = [f"{node}_p{source}" for source in range(state)]
    switch = _chosen(entries[f"{node}_switch"], slots, state)
    sources: dict[Any, int] = {f"{node}_p{source}": source for source in range(state)}
    if not isinstance(switch, list) or len(switch) != 2 or len(set(map(str, switch))) != 2:
        raise ValueError(
            f"{node}_switch = {reprlib.repr(switch)} must be a list of two, such as"
            f" ['{node}_p0', '{node}_p1']"
        )
    for choice in switch:
        source = sources.get(choice) if isinstance(choice, str) else choice
        if type(source) is not int or not 0 <= source < state:
            raise ValueError(
                f"{node}_switch names {reprlib.repr(choice)}; node {state} reads {node}_p0 to"
                f" {node}_p{state - 1}"
            )
        op = _chosen(entries.get(f"{node}_p{source}"), [*_OLD_NNI_OPS], 7)
        op = op[0] if isinstance(op, list) and len(op) == 1 else op
        if not isinstance(op, str) or op not in _OLD_NNI_OPS:
            raise ValueError(
                f"{node}_p{source} = {reprlib.repr(op)} is no operation of NNI's DARTS space; known"
                f" are {', '.join(_OLD_NNI_OPS)}"
            )
        yield _OLD_NNI_OPS[op], source


def _chosen(value: Any, names: list[str], fewest: int) -> Any:
    """A choice without the forms that NNI wraps it in: that of its search space, or true and false
    for each of the names, at least the first `fewest`.
    """
    if isinstance(value, dict) and value.keys() <= {"_value", "_idx"} and "_value" in value:
        value = value["_value"]
    masked = isinstance(value, list) and value and all(isinstance(one, bool) for one in value)
    if masked and fewest <= len(value) <= len(names):
        return [name for name, taken in zip(names, value, strict=False) if taken]
    return value


def _nni_fields(entries: dict[Any, Any]) -> dict[str, Any]:
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
