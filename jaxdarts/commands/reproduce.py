"""The settings that differ from a run's preset, and the command that does the same again."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxdarts.commands import command_line
from jaxdarts.data.images import ARRAYS
from jaxdarts.runs.folder import OF_A_START

NOT_SHOWN = OF_A_START | frozenset("dataset preset estimate device cache_dir".split())
"""Settings that have no part in what comes out of a run, or that are shown by themselves."""


class Start(NamedTuple):
    """The values of all flags before those of the command line.

    preset: the configuration of the preset.
    settings: the same after the flags of `names`, which change what the others start from.
    names: of those flags, as far as the run has them.
    """

    preset: Any
    settings: Any
    names: tuple[str, ...]


def start(
    config: Any,
    presets: Mapping[str, Any],
    fallback: Any,
    starts: Mapping[str, Callable[[Any, Sequence[str]], Any]] = MappingProxyType({}),
) -> Start:
    """The values that a configuration started from; arguments as of `command_line.parse`."""
    preset = command_line.preset(config.preset or "", config.dataset, presets, fallback)
    settings, names = preset, []
    for name, change in starts.items():
        if getattr(config, name) != getattr(preset, name):
            settings = change(settings, (str(getattr(config, name)),))
            names.append(name)
    return Start(preset, settings, tuple(names))


def changed(config: Any, start: Start) -> list[tuple[str, str, str]]:
    """(Setting, its value in the preset, its value in the run) where the two differ."""
    names = [
        field.name
        for field in dataclasses.fields(config)
        if field.name not in NOT_SHOWN
        and getattr(config, field.name) != getattr(start.preset, field.name)
    ]
    return [(name, str(getattr(start.preset, name)), str(getattr(config, name))) for name in names]


def command(name: str, config: Any, start: Start) -> str:
    """The command line, or the call in Python, that reads as a configuration.

    Args:
        name: of the command.
        config: the configuration.
        start: what it started from.
    """
    settings = {"preset": config.preset} if config.preset else {}
    settings |= {one: getattr(config, one) for one in start.names}
    for field in dataclasses.fields(config):
        value, before = getattr(config, field.name), getattr(start.settings, field.name)
        if value != before and field.name not in NOT_SHOWN | set(start.names):
            settings[field.name] = value
    if config.dataset.startswith(ARRAYS):
        return call(name, settings)
    flags = [f"--dataset={config.dataset}"]
    flags += [word for one, value in settings.items() for word in words(one, value)]
    return " ".join(["jaxdarts", name, *map(quoted, flags)])


def call(name: str, settings: Mapping[str, Any]) -> str:
    """The call of the function over arrays that stands for a command."""
    function, first = {"search": ("search", ()), "evaluate": ("train", ("found",))}[name]
    named = [
        f"{one}={value!r}" for one, value in settings.items() if one not in ("arch", "tracker")
    ]
    return f"jd.{function}({', '.join([*first, 'images', 'labels', *named])})"


def quoted(word: str) -> str:
    """A word for a shell; one with single quotes, such as a genotype, stays legible."""
    if "'" in word and not set('"$`\\!') & set(word):
        return f'"{word}"'
    return shlex.quote(word)


def words(name: str, value: Any) -> list[str]:
    """A flag with its value, as the words of a command line."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, tuple):
        return [f"--{name}", *map(str, value)]
    return [] if value is None else [f"--{name}={value}"]
