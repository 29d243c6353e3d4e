"""Analyses of a run as sections of its page: numbers, tables and pictures.

They are kept as plain files in its folder.
"""

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

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
    """Writes one analysis into a run folder.

    The files are `analysis/NAME.json` and `analysis/NAME-PICTURE.svg` for every picture.

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

    A run folder may come from somebody else: only pictures in the folder itself are read, and what
    they hold is shown by `image` only.

    Raises:
        ValueError: if a file is missing or not what `write` wrote.
    """
    sections = []
    for path in sorted((Path(folder) / "analysis").glob("*.json")):
        try:
            sections.append(_section(path, files.read_json(path, _Saved)))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{path} is no analysis, remove it and analyse again: {error}"
            ) from error
    return sections


class _SavedTable(TypedDict):
    caption: str
    head: list[str]
    rows: list[list[str]]


class _Saved(TypedDict):
    """What a file holds of a section; `write` adds its numbers."""

    name: str
    title: str
    text: str
    facts: dict[str, str]
    tables: list[_SavedTable]
    pictures: list[str]


def _section(path: Path, saved: _Saved) -> Section:
    if saved["name"] != path.stem:
        raise ValueError(f"it is called {saved['name']!r} and not {path.stem!r}, as the file")
    return Section(
        name=saved["name"],
        title=saved["title"],
        text=saved["text"],
        facts=saved["facts"],
        tables=[Table(**table) for table in saved["tables"]],
        pictures={name: _picture(path.parent, path.stem, name) for name in saved["pictures"]},
    )


def _picture(folder: Path, section: str, name: str) -> str:
    """A picture of a section, from the folder and nowhere else."""
    path = folder / f"{section}-{name}.svg"
    if re.search(r"[/\\\0]", name) or path.resolve().parent != folder.resolve():
        raise ValueError(f"the picture {name!r} is not in the folder")
    return files.read_text(path)


def image(picture: str) -> str:
    """A picture for `src` of an `<img>`, in which a browser runs no script and loads nothing.

    The colour of text follows the reader's choice of dark or light.
    """
    style = (
        "<style>svg{color:#20242b}@media (prefers-color-scheme:dark){svg{color:#e4e7ec}}</style>"
    )
    styled = re.sub(r"<svg\b[^>]*>", lambda match: match[0] + style, picture, count=1)
    return "data:image/svg+xml;base64," + base64.b64encode(styled.encode()).decode()


def gather(folder: str | os.PathLike) -> list[Section]:
    """The sections of a run and of those of its seeds that have no page of their own.

    Raises:
        ValueError: as `read`.
    """
    sections = read(folder)
    for seed in sorted(Path(folder).glob("seed-*")):
        if not (seed / "report.html").exists():
            sections += [
                s._replace(name=f"{s.name}-{seed.name}", title=f"{s.title}, {seed.name}")
                for s in read(seed)
            ]
    return sections
