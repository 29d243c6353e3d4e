"""The command line of every command: looked at once for what chooses the defaults, then read by
tyro, over a preset or over the run that is resumed.
"""

import contextlib
import dataclasses
import inspect
import io
import shlex
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict, TypeVar

from jaxdarts import files, runs
from jaxdarts.commands import flags
from jaxdarts.runs import Stop

T = TypeVar("T")
TEXTS = ("pydoc", "ptb", "wikitext2")
"""Texts that have a name; others are text:FOLDER."""
CHANGES_THE_NETWORK = ("data", "space", "cell", "network", "run", "devices")
"""Topics of flags that a run which goes on from another one's checkpoint cannot change."""


class Saved(NamedTuple):
    """What the config.json of a run says.

    folder: of the run.
    command, kind: what wrote it, as of `runs.origin`.
    settings: the flags.
    """

    folder: str
    command: str
    kind: str
    settings: Mapping[str, Any]


class Line(NamedTuple):
    """A command line that has been looked at.

    arguments: its words, without the name of the command.
    given: the values of every flag on it, by the flag's name.
    saved: the run that --resume names.
    """

    arguments: list[str]
    given: Mapping[str, list[str]]
    saved: Saved | None

    def value(self, name: str) -> str:
        """The value of a flag; "" where it is not given."""
        return " ".join(self.given.get(name, []))


def look(arguments: "Sequence[str] | Line") -> Line:
    """The flags on a command line and the run to resume; a line that has been looked at stays as
    it is.
    """
    if isinstance(arguments, Line):
        return arguments
    given: dict[str, list[str]] = {}
    values: list[str] = []
    for word in arguments:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            values = given[name.replace("-", "_")] = [value] if equals else []
        else:
            values.append(word)
    line = Line(list(arguments), given, None)
    resume = line.value("resume")
    if not resume:
        if "resume" in given:
            raise Stop("--resume=: name the folder of the run to continue", 2)
        return line
    return line._replace(saved=saved(resume, "--resume"))


def saved(folder: str, flag: str) -> Saved:
    """The configuration of a run, from the folder that a flag names, or that stands alone."""
    path, named = Path(folder) / "config.json", f"{flag}={folder}" if flag else folder
    if not Path(folder).is_dir():
        raise Stop(f"{named}: not the folder of a run: there is no such folder", 2)
    try:
        settings = files.read_json(path, dict[str, Any])
        command, kind = runs.origin(settings)
    except FileNotFoundError:
        raise Stop(f"{named}: not the folder of a run: it has no config.json", 2) from None
    except (OSError, ValueError) as error:
        raise Stop(f"{named}: not the folder of a run, no usable {path}: {error}", 2) from error
    return Saved(folder, command, kind, settings)


def kind_of(line: Line, kinds: Iterable[str]) -> str:
    """The kind of task of a command line, one of those that the command has; its first one where
    the line says nothing, or nothing right.
    """
    dataset = line.value("dataset")
    if line.saved:
        kind = line.saved.kind
    elif line.given.get("ensemble"):
        kind = "ensemble"
    else:
        kind = "text" if dataset in TEXTS or dataset.startswith("text:") else "images"
    return kind if kind in kinds else next(iter(kinds))


def resumed(kind: type[T], run: Saved, flag: str = "--resume") -> T:
    """The configuration of a run to continue; Stop where another command or kind of task wrote
    it.
    """
    command = f"jaxdarts {run.command}"
    expected = runs.origin_of(kind)
    if expected[0] != run.command:
        again = f"{command} --resume={shlex.quote(run.folder)}"
        way = again if flag == "--resume" else f"name one of jaxdarts {expected[0]}"
        raise Stop(f"{flag}={run.folder}: a run of {command}; {way}", 2)
    if expected[1] != run.kind:
        raise Stop(f"{flag}={run.folder}: a run of {command} on {run.kind}, not {expected[1]}", 2)
    path = Path(run.folder) / "config.json"
    fields = {field.name: field.type for field in dataclasses.fields(kind)}  # pyrefly: ignore
    settings: dict[str, Any] = {}
    for name, value in run.settings.items():
        if name in ("command", "kind"):
            continue
        try:
            if name not in fields:
                raise files.Damaged(f"{name} is no flag of {command}")
            form = TypedDict("form", {name: fields[name]})  # pyrefly: ignore
            settings |= files.fitting({name: value}, form, str(path))
        except files.Damaged as error:
            raise Stop(
                f"{flag}={run.folder}: not the folder of a run, no usable {path}: {error}", 2
            ) from error
    return kind(**settings)


def parse(
    arguments: Sequence[str] | Line,
    presets: Mapping[str, T],
    fallback: T,
    description: str | None,
    starts: Mapping[str, Callable[[T, list[str]], T]] = types.MappingProxyType({}),
) -> T:
    """Flags over the configuration of the run to resume, or over a preset: the one that --preset
    names, or the data set's own.

    Args:
        arguments: the command line, without the name of the command.
        presets: configurations (frozen dataclasses) by name; the first one is that of a plain
          start.
        fallback: what a data set without a preset starts from.
        description: the head of `--help`.
        starts: what the rest starts from, for other flags that change it, by the flag's name:
          (preset, the flag's values) -> configuration.
    """
    line, kind = look(arguments), type(fallback)
    if line.saved:
        default = resumed(kind, line.saved)
    else:
        default = preset(line.value("preset"), line.value("dataset"), presets, fallback)
        for name, start in starts.items():
            default = start(default, line.given.get(name, []))
    config = read(kind, line.arguments, default, description)
    if not line.saved:
        return config
    declared, folder = runs.declared(kind), line.saved.folder
    for name in declared:
        old, new = getattr(default, name), getattr(config, name)
        if old != new and not declared[name].free:
            way = "leave the flag out"
            if "fork" in declared and declared[name].topic not in CHANGES_THE_NETWORK:
                way += (
                    f", or go on from one of its epochs in a new run: --fork={shlex.quote(folder)}"
                )
            raise Stop(f"--resume={folder}: the run has {name}={old!r}, not {new!r}; {way}", 2)
    return dataclasses.replace(config, run_dir=folder)  # pyrefly: ignore


def read(kind: type[T], arguments: Sequence[str], default: T, description: str | None) -> T:
    """A configuration from flags over a default one, by tyro; `--help` has a box for each topic."""
    import tyro  # here, so that a program that sets a configuration itself runs without it

    command, _ = runs.origin_of(kind)
    for word in arguments:
        if word.startswith("--="):  # else it would be taken for the name of a file
            raise Stop(f"{word}: a flag without a name; --help lists the flags", 2)
    topics: dict[str, list[tuple[str, Any, Any]]] = {}
    fields = {field.name: field.type for field in dataclasses.fields(kind)}  # pyrefly: ignore
    for name, one in runs.declared(kind).items():
        value = getattr(default, name)
        if value == () and not (one.bare or one.positional) and _is_bare(name, arguments):
            raise Stop(f"--{name}: give one value or more, or leave the flag out", 2)
        # None and empty values are explained by the text.
        hint = "" if value in (None, "", ()) else None
        word = name.removesuffix("s").upper()
        shown = f"{word} [{word} ...]" if isinstance(value, tuple) else word
        metavar = shown if one.positional else None
        mark = tyro.conf.arg(help=one.text, help_behavior_hint=hint, metavar=metavar)
        annotated: Any = Annotated[fields[name], mark]  # pyrefly: ignore
        if one.positional:
            annotated = tyro.conf.Positional[annotated]
        topics.setdefault(one.topic, []).append((name, annotated, dataclasses.field(default=value)))
    boxes = {
        topic: dataclasses.make_dataclass(topic, topics[topic])
        for topic in sorted(topics, key=flags.TOPICS.index)
    }
    nested: Any = dataclasses.make_dataclass(
        "Flags",
        [(topic, box, dataclasses.field(default_factory=box)) for topic, box in boxes.items()],
    )
    # None is a default only, not a value to give. The classes made above stand in no source, which
    # tyro would search for comments.
    markers = (
        tyro.conf.DisallowNone,
        tyro.conf.OmitArgPrefixes,
        tyro.conf.HelptextFromCommentsOff,
    )
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            parsed = tyro.cli(
                nested,
                prog=f"jaxdarts {command}" if command else None,
                args=arguments,
                default=nested(),
                description=_paragraphs(description or ""),
                use_underscores=True,
                config=markers,
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise Stop(_one_line(errors.getvalue()), 2) from None
    return kind(
        **{name: value for topic in vars(parsed).values() for name, value in vars(topic).items()}
    )


def _is_bare(name: str, arguments: Sequence[str]) -> bool:
    """Whether a flag is on a command line, and no value follows it."""
    words = [word.replace("-", "_") for word in arguments]
    return any(
        word == f"__{name}" and following.startswith("__")
        for word, following in zip(words, [*words[1:], "__"])
    )


def _paragraphs(text: str) -> str:
    """A docstring with a line for each paragraph; indented ones stay as they are."""
    parts = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(part if part.startswith(" ") else " ".join(part.split()) for part in parts)


def _one_line(box: str) -> str:
    """The message in a box that tyro draws, without its frame, its title and its hints."""
    blocks: list[list[str]] = [[]]
    for row in box.strip().splitlines():
        row = row.strip(" │")
        if row.startswith(("╭", "╰", "──", "--- ", "----")):
            blocks.append([])
        else:
            blocks[-1].append(row)
    # Where the terminal has no lines to draw with, the title is above the first rule.
    message = " ".join(" ".join(blocks[1] if len(blocks) > 1 else blocks[0]).split())
    return f"{message.rstrip('.')}; --help lists the flags"


def preset(name: str, dataset: str, presets: Mapping[str, T], fallback: T) -> T:
    """What the flags are laid over; either text may be empty, for a flag that is not given."""
    if name and name not in presets:
        raise Stop(f"--preset={name}: there are {', '.join(presets)}", 2)
    known: Mapping[str, Any] = presets
    fitting = (one for one in known.values() if one.dataset == dataset)
    start: Any = next(fitting, fallback) if dataset else next(iter(known.values()))
    start = known[name] if name else start
    return dataclasses.replace(start, dataset=dataset or start.dataset)
