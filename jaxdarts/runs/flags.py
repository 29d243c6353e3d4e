"""Flags of the commands as fields of frozen dataclasses.

Each is declared once with all that is known about it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Bound(NamedTuple):
    """The numbers that a flag takes.

    words: the rule, as the end of an error message.
    holds: whether a number keeps it.
    infinite: whether infinity is one of them.
    most: the largest of them.
    """

    words: str
    holds: Callable[[float], bool]
    infinite: bool = False
    most: float = math.inf


LARGEST = 2**31 - 1
"""Largest whole number of any flag: what JAX counts with 32 bits."""
POSITIVE = Bound("must be positive", lambda x: x > 0)
POSITIVE_OR_INFINITE = POSITIVE._replace(infinite=True)
NOT_NEGATIVE = Bound("must not be negative", lambda x: x >= 0)
PIXELS = NOT_NEGATIVE._replace(most=1_000)
EPOCHS = POSITIVE._replace(most=1_000_000)
CHANNELS = POSITIVE._replace(most=65_536)
DEPTH = POSITIVE._replace(most=1_000)
SEEDS = POSITIVE._replace(most=10_000)
BELOW_ONE = Bound("must be at least 0 and below 1", lambda x: 0 <= x < 1)
WITHIN_ONE = Bound("must lie between 0 and 1", lambda x: 0 <= x <= 1)
INSIDE_ONE = Bound("must lie between 0 and 1, both excluded", lambda x: 0 < x < 1)
PORTION = Bound("must be above 0 and at most 1", lambda x: 0 < x <= 1)


def at_least(number: float) -> Bound:
    """The bound of numbers that are not below one."""
    return Bound(f"must be {number:g} or more", lambda x: x >= number)


def flag(
    default: Any,
    text: str,
    bound: Bound | None = None,
    *,
    free: bool = False,
    positional: bool = False,
    bare: bool = False,
) -> Any:
    """A field that is a flag.

    A class that inherits the field may give it another default; all else stays as it is here.

    Args:
        default: its value where the command line does not name it.
        text: its help text, in one line; it says what None or an empty value stands for.
        bound: of its numbers; every flag with numbers has one.
        free: whether a resumed run may change it. What is trained stays; what is made of it, or set
          beside it, may change.
        positional: whether it is given without its name.
        bare: whether a flag of several values, none by default, may be given without any, to undo
          what a preset has.
    """
    metadata = {
        "text": text,
        "bound": bound,
        "free": free,
        "positional": positional,
        "bare": bare,
    }
    return dataclasses.field(default=default, metadata=metadata)


class Declared(NamedTuple):
    """Declaration of a flag.

    It has the arguments of `flag`, and TOPIC of the class that has it first.
    """

    text: str
    bound: Bound | None
    free: bool
    positional: bool
    bare: bool
    topic: str


@functools.cache
def declared(kind: type) -> dict[str, Declared]:
    """Every flag of a class, by name; those of its first base come first."""
    flags, order = {}, {}
    for field in dataclasses.fields(kind):
        owners = [one for one in kind.__mro__ if field.name in vars(one).get("__annotations__", {})]
        order[field.name] = kind.__mro__.index(owners[-1])
        metadata = [vars(one)["__dataclass_fields__"][field.name].metadata for one in owners]
        nearest = next(filter(None, metadata), None)
        if nearest is None:
            raise TypeError(f"{kind.__name__}.{field.name} is not declared by `flag`")
        flags[field.name] = Declared(**nearest, topic=getattr(owners[-1], "TOPIC", "run"))
    return {name: flags[name] for name in sorted(flags, key=order.__getitem__)}


def free(kind: type) -> frozenset[str]:
    """The flags that a resumed run may change."""
    return frozenset(name for name, one in declared(kind).items() if one.free)


def not_compiled(kind: type) -> frozenset[str]:
    """The flags of a class that no compiled program depends on; none where the class has no flags.

    They say where a run is written and when, and which seed makes its random keys.
    """
    if not any("text" in field.metadata for field in dataclasses.fields(kind)):
        return frozenset()
    flags = declared(kind).items()
    return frozenset(
        name for name, one in flags if one.topic == "run" and (one.free or name == "seed")
    )


def wrong(config: Any) -> str | None:
    """Error line about the values of a configuration; None where nothing is wrong."""
    for name, one in declared(type(config)).items():
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        for part in values:
            rule = _rule(part, one.bound)
            if rule:
                shown = " ".join(map(str, values)).encode("utf-8", "backslashreplace").decode()
                return f"--{name}={shown}: {rule}"
    return None


def _rule(value: Any, bound: Bound | None) -> str | None:
    """The rule that a value breaks, if it breaks one."""
    if isinstance(value, str):
        return None if _is_utf8(value) else "must be UTF-8 without NUL characters"
    if isinstance(value, bool) or not isinstance(value, int | float) or bound is None:
        return None
    most = min(bound.most, LARGEST) if isinstance(value, int) else bound.most
    if math.isinf(value) and value > 0 and not bound.infinite:
        return "must be finite"
    if value > most:
        return f"must be at most {most}"
    return None if bound.holds(value) else bound.words


def _is_utf8(value: str) -> bool:
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False
