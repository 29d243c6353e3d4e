"""One self-contained HTML page with several runs side by side.

It needs no network, no other file, no script.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from markupsafe import Markup

from jaxdarts import files
from jaxdarts.report import cells, charts, page
from jaxdarts.report.sections import Section, Table, image


class Entry(NamedTuple):
    """One run, or a cell that is only shown beside them.

    name: tells it from the others.
    genotype: its cell.
    facts: text or numbers by name, as of `report.write`.
    settings: of the run, nested or not.
    records: one mapping for each epoch, as of `report.write`.
    sections: its analyses.
    """

    name: str
    genotype: Any
    facts: Mapping[str, str | float] = {}
    settings: Mapping[str, Any] = {}
    records: Sequence[Mapping[str, Any]] = ()
    sections: Sequence[Section] = ()


def write(
    path: str | os.PathLike,
    entries: Sequence[Entry],
    *,
    title: str = "Runs side by side",
    tables: Sequence[Table] = (),
    pictures: Sequence[str] = (),
) -> None:
    """Writes the page; the same arguments give the same bytes.

    It has a table of facts, the settings that differ, curves with a line for each run, the cells,
    and the analyses that runs have in common or alone.

    Args:
        path: the HTML file; it is replaced as a whole or not at all.
        entries: the runs, in the order of the columns.
        title: headline.
        tables, pictures: what else to show of all of them, pictures as SVG text.

    Raises:
        ValueError: if there is nothing to compare, or two entries have one name.
    """
    names = [entry.name for entry in entries]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"entries are called {names}: there must be one or more, with names of their own"
        )
    charts = [*_charts(entries), *pictures]
    analyses = _analyses(entries)
    contents = [
        ("runs", "Runs"),
        ("curves", "Curves"),
        ("cells", "Cells"),
        ("analyses", "Analyses"),
    ]
    present = {"runs": True, "curves": charts, "cells": True, "analyses": analyses}
    html = page.render(
        "comparison.html.jinja",
        title=title,
        contents=[pair for pair in contents if present[pair[0]]],
        facts=_facts(entries),
        tables=tables,
        settings=_settings(entries),
        charts=[Markup(svg) for svg in charts],
        drawn=[_drawn(entry.name, entry.genotype) for entry in entries],
        analyses=analyses,
    )
    _write(path, html)


def write_table(
    path: str | os.PathLike,
    table: Table,
    *,
    title: str,
    pictures: Sequence[str] = (),
    genotypes: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes a page with one table, pictures and cells; the same arguments give the same bytes.

    Args:
        path: the HTML file; it is replaced as a whole or not at all.
        table: what the page is about.
        title: headline.
        pictures: charts, as SVG text.
        genotypes: cells by name.
    """
    contents = [("runs", "Runs"), ("curves", "Curves"), ("cells", "Cells")]
    html = page.render(
        "comparison.html.jinja",
        title=title,
        contents=contents,
        facts=table,
        tables=(),
        settings=Table("", (), ()),
        charts=[Markup(svg) for svg in pictures],
        drawn=[_drawn(name, genotype) for name, genotype in genotypes.items()],
        analyses=[],
    )
    _write(path, html)


def _drawn(name: str, genotype: Any) -> tuple[str, list[Markup], str]:
    pictures = cells.cell(genotype).values() if genotype else ()
    return name, [Markup(svg) for svg in pictures], str(genotype)


def _write(path: str | os.PathLike, html: str) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace_text(path, html)


def _facts(entries: Sequence[Entry]) -> Table:
    keys = dict.fromkeys(key for entry in entries for key in entry.facts)
    rows = [
        [
            page.title_of(key),
            *(page.shown(key, e.facts[key]) if key in e.facts else "" for e in entries),
        ]
        for key in keys
    ]
    return Table("Facts", ["", *(entry.name for entry in entries)], rows)


def _settings(entries: Sequence[Entry]) -> Table:
    with_settings = [entry for entry in entries if entry.settings]
    flat = [dict(page.flatten(entry.settings)) for entry in with_settings]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    rows = [
        [key, *(settings.get(key, "") for settings in flat)]
        for key in keys
        if len({settings.get(key) for settings in flat}) > 1
    ]
    return Table("Settings that differ", ["", *(entry.name for entry in with_settings)], rows)


def _charts(entries: Sequence[Entry]) -> list[str]:
    """Charts of a report, one for every key, with one line for each run that has the key."""
    drawn = []
    for chart in page.CHARTS:
        for part, key in chart.keys.items():
            series = {}
            for entry in entries:
                points = page.points(entry.records, key, chart.scale)
                if any(math.isfinite(value) for _, value in points):
                    series[entry.name] = points
            if series:
                title = chart.title if len(chart.keys) == 1 else f"{chart.title}, {part}"
                labels = {"title": title, "xlabel": "epoch", "ylabel": chart.unit}
                drawn.append(charts.curves(series, **labels, steps=chart.steps))
    return drawn


def _analyses(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Every analysis once, with the facts and the pictures of all runs that have it."""
    analyses = []
    first = {
        section.name: section for entry in reversed(entries) for section in reversed(entry.sections)
    }
    for name, section in sorted(first.items()):
        having = [
            (entry.name, each) for entry in entries for each in entry.sections if each.name == name
        ]
        keys = dict.fromkeys(key for _, each in having for key in each.facts)
        rows = [[key, *(each.facts.get(key, "") for _, each in having)] for key in keys]
        kinds = dict.fromkeys(kind for _, each in having for kind in each.pictures)
        analyses.append(
            {
                "title": section.title,
                "text": section.text,
                "facts": Table(section.title, ["", *(run for run, _ in having)], rows),
                "pictures": [
                    [(run, image(e.pictures[kind])) for run, e in having if kind in e.pictures]
                    for kind in kinds
                ],
            }
        )
    return analyses
