"""Analyses of a run as sections of its page: numbers, tables and pictures, kept as plain files in
its folder.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxdarts import files


class Table(NamedTuple):
    """Rows of text; the first of each names it."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Section(NamedTuple):
    """One analysis.

    name: a word; the file is called after it, and the section's place in the page.
    title, text: what it is; how it was measured.
    facts: a few results by name, as text.
    tables: further results.
    pictures: SVG text by name.
    """

    name: str
    title: str
    text: str
    facts: Mapping[str, str] = {}
    tables: Sequence[Table] = ()
    pictures: Mapping[str, str] = {}


def write(
    folder: str | os.PathLike,
    section: Section,
    numbers: Mapping[str, Any],
    about: Mapping[str, Any],
) -> None:
    """Writes `analysis/NAME.json` and a file `analysis/NAME-PICTURE.svg` for every picture into a
    run folder.

    Args:
        folder: of the run.
        section: what the page is to show.
        numbers: all that was measured, for programs; what is not finite must be None.
        about: where the numbers come from: command, versions, device.
    """
    folder = Path(folder) / "analysis"
    folder.mkdir(exist_ok=True)
    for name, svg in section.pictures.items():
        files.replace_text(folder / f"{section.name}-{name}.svg", svg)
    shown = section._asdict() | {
        "tables": [table._asdict() for table in section.tables],
        "pictures": list(section.pictures),
    }
    text = json.dumps({**shown, "numbers": numbers, **about}, indent=1, allow_nan=False) + "\n"
    files.replace_text(folder / f"{section.name}.json", text)


def read(folder: str | os.PathLike) -> list[Section]:
    """The sections that `write` left in a run folder, ordered by name.

    Raises:
        ValueError: if a file is missing or not what `write` wrote.
    """
    found = []
    for path in sorted((Path(folder) / "analysis").glob("*.json")):
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            pictures = {
                name: (path.parent / f"{saved['name']}-{name}.svg").read_text(encoding="utf-8")
                for name in saved["pictures"]
            }
            tables = [Table(**table) for table in saved["tables"]]
            texts = {name: saved[name] for name in ("name", "title", "text", "facts")}
            found.append(Section(**texts, tables=tables, pictures=pictures))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no analysis, remove it and analyse again: {error!r}"
            ) from error
    return found


def gather(folder: str | os.PathLike) -> list[Section]:
    """The sections of a run and of those of its seeds that have no page of their own.

    Raises:
        ValueError: as `read`.
    """
    found = read(folder)
    for seed in sorted(Path(folder).glob("seed-*")):
        if not (seed / "report.html").exists():
            found += [
                s._replace(name=f"{s.name}-{seed.name}", title=f"{s.title}, {seed.name}")
                for s in read(seed)
            ]
    return found
