"""One self-contained HTML page about a run: no network, no other file, no script."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from jaxdarts import files
from jaxdarts.report import cells, charts, heatmaps, sections
from jaxdarts.report.sections import Section, Table
from jaxdarts.runs import writers
from jaxdarts.space import of_genotype


class Chart(NamedTuple):
    """Curves over the epochs.

    title: of the chart.
    unit: of the vertical axis.
    keys: keys of the records by name in the chart.
    scale: factor of the values.
    steps: whether the values are counts, which jump.
    """

    title: str
    unit: str
    keys: Mapping[str, str]
    scale: float = 1.0
    steps: bool = False


CHARTS = (
    Chart("Loss", "", {"train": "train_loss", "validation": "valid_loss"}),
    Chart(
        "Accuracy",
        "percent",
        {"train": "train_accuracy", "validation": "valid_accuracy"},
        scale=100.0,
    ),
    Chart("Perplexity", "", {"train": "train_perplexity", "validation": "valid_perplexity"}),
    Chart("Learning rate of the weights", "", {"learning rate": "learning_rate"}),
    Chart(
        "Skip connections in the cell",
        "edges",
        {"normal": "skip_normal", "reduction": "skip_reduce", "cell": "skip_cell"},
        steps=True,
    ),
    Chart(
        "Operations without parameters in the cell",
        "edges",
        {
            "normal": "parameter_free_normal",
            "reduction": "parameter_free_reduce",
            "cell": "parameter_free_cell",
            "blocks": "parameter_free_ops",
        },
        steps=True,
    ),
    Chart(
        "Dominant eigenvalue of the Hessian",
        "of the validation loss with respect to alpha",
        {"eigenvalue": "eigenvalue"},
    ),
    Chart("Expected cost of the network", "", {"expected cost": "valid_expected_cost"}),
)
FINALS = {
    "train_loss": "Train loss",
    "valid_loss": "Validation loss",
    "train_accuracy": "Train accuracy",
    "valid_accuracy": "Validation accuracy",
    "valid_perplexity": "Validation perplexity",
}
CELLS = {
    "normal": "Normal cell",
    "reduce": "Reduction cell",
    "recurrent": "Recurrent cell",
    "cell": "Cell",
}
STATES = "states 0 and 1 are the inputs of the cell"
ONE_INPUT_STATES = "state 0 is the input of the cell"
VERTICES = "0 is the input of the cell, and a row belongs to the vertex that it is named after"
MOST_CLASSES = 100
"""Largest number of classes whose confusion is shown."""


class Summary(NamedTuple):
    """Summary at the head of the page: sentences, figures and warnings.

    figures: text or numbers by name.
    warnings: sentences about what is wrong.
    next_command: what to run next.
    command: what to run to do the same again.
    changed: the settings that differ from the preset: name, value of the preset, value of the run.
    """

    figures: Mapping[str, str | float] = {}
    warnings: Sequence[str] = ()
    next_command: str = ""
    command: str = ""
    changed: Sequence[tuple[str, str, str]] = ()


class Confusion(NamedTuple):
    """Confusion matrix: how often images of a class were taken for another one.

    counts: `[true class, predicted class]`.
    class_names: as many as rows.
    """

    counts: np.ndarray
    class_names: Sequence[str]


def write(
    path: str | os.PathLike,
    *,
    title: str,
    config: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    genotype: Any,
    mixes: Mapping[str, np.ndarray],
    edges: Mapping[str, Sequence[tuple[int, int]]],
    ops: Mapping[str, Sequence[str] | Sequence[Sequence[str]]],
    facts: Mapping[str, str | float],
    tables: Mapping[str, Sequence[Sequence[str]]] = MappingProxyType({}),
    pictures: Sequence[str] = (),
    sections: Sequence[Section] = (),
    summary: Summary = Summary(),
    confusion: Confusion | None = None,
    links: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes the report of a run; the same arguments give the same bytes.

    The page leads with warnings, the figures of the summary, the cells and the next command. Then
    come curves, confusion, mixture weights over time and analyses; facts, the genotype as text and
    the configuration are folded. What is missing is left out. Epochs count from 1, states are
    numbered as in the genotype.

    Args:
        path: the HTML file; it is replaced as a whole or not at all.
        title: headline.
        config: settings of the run, shown as a table; nested mappings become dotted names.
        records: one mapping for each epoch, as read by `metrics.read_json_lines`: `epoch`,
            from 0, `train_loss`, `valid_loss`, `train_accuracy`, `valid_accuracy` (fractions),
            `learning_rate` and others of `CHARTS`. Any may be missing or None; others are ignored.
        genotype: what was found; None where nothing was.
        mixes: for each cell its mixture weights `[epochs, edges, ops]`.
        edges: for each cell of `mixes` its edges (source, target).
        ops: for each cell of `mixes` the names of its operations, one sequence for all edges or one
          for each.
        facts: text or numbers by name, say `dataset`, `parameters`, `multiply_adds`, and
            `wall_time` in seconds. Without figures of a summary they are not folded.
        tables: by heading, rows of text, the first of which names the columns.
        pictures: further curves, as of `draw.curves`.
        sections: analyses of the run (`sections.gather`).
        summary: the head of the page.
        confusion: of a trained network, up to `MOST_CLASSES` classes.
        links: other reports of the run by their names; paths from the page's folder.

    Raises:
        ValueError: if `edges` and `ops` do not fit `mixes`.
    """
    html = render(
        "report.html.jinja",
        title=title,
        summary=summary,
        links=links,
        figures=[(title_of(key), shown(key, value)) for key, value in summary.figures.items()],
        classes=_classes(confusion),
        facts=_facts(facts, records, genotype),
        tables=tables,
        charts=[Markup(svg) for svg in (*curves(records).values(), *pictures)],
        cells=[Markup(svg) for svg in (cells.cell(genotype).values() if genotype else ())],
        heatmaps=[Markup(heatmap(cell, mix, edges, ops, genotype)) for cell, mix in mixes.items()],
        states=(
            VERTICES
            if hasattr(genotype, "matrix")
            else STATES
            if hasattr(genotype, "normal")
            else ONE_INPUT_STATES
        ),
        analyses=Markup(_analyses(sections)),
        genotype=str(genotype or ""),
        config=list(flatten(config)),
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace_text(path, html)


def extend(path: str | os.PathLike, sections: Sequence[Section]) -> None:
    """Puts the analyses of a run into its report, in place of those that it shows.

    The same ones give the same bytes.

    Raises:
        ValueError: if the page is not one of `write`'s.
    """
    text = Path(path).read_text(encoding="utf-8")
    before, start, rest = text.partition(_START)
    _, end, after = rest.partition(_END)
    if not (start and end):
        raise ValueError(
            f"{path} has no place for analyses: it is no report, or that of an older version"
        )
    files.replace_text(path, before + _analyses(sections) + after)


def render(template: str, **values: Any) -> str:
    """A page of one of the package's templates."""
    import jinja2

    loader = jinja2.FunctionLoader(
        lambda name: resources.files("jaxdarts.report").joinpath(name).read_text(encoding="utf-8")
    )
    options = {
        "autoescape": True,
        "undefined": jinja2.StrictUndefined,
        "trim_blocks": True,
        "lstrip_blocks": True,
    }
    return jinja2.Environment(loader=loader, **options).get_template(template).render(**values)


_START, _END = "<!-- analyses -->", "<!-- end of analyses -->"


def _analyses(analyses: Sequence[Section]) -> str:
    shown = [
        each._replace(pictures={name: sections.image(svg) for name, svg in each.pictures.items()})
        for each in analyses
    ]
    return "\n".join((_START, render("sections.html.jinja", sections=shown).strip(), _END))


def _classes(confusion: Confusion | None) -> dict[str, Any] | None:
    """The confusion matrix drawn, and a table of every class.

    The table has images, accuracy, and the class that it is most often taken for.
    """
    if confusion is None or len(confusion.class_names) > MOST_CLASSES:
        return None
    counts, names = np.asarray(confusion.counts), list(confusion.class_names)
    picture = heatmaps.confusion(counts, names, title="Confusion of the classes, in images")
    rows = []
    for i, (name, row) in enumerate(zip(names, counts, strict=True)):
        total, wrong = row.sum(), np.where(np.arange(len(row)) == i, 0, row)
        most = int(wrong.argmax())
        accuracy = shown("accuracy", float(row[i] / total)) if total else ""
        mistake = f"{names[most]} ({wrong[most]:.0f} of {total:.0f})" if wrong[most] else ""
        rows.append([name, f"{total:.0f}", accuracy, mistake])
    head = ["class", "images", "accuracy", "most often taken for"]
    return {"picture": Markup(picture), "table": Table("Accuracy of every class", head, rows)}


def _facts(
    facts: Mapping[str, Any], records: Sequence[Mapping[str, Any]], genotype: Any
) -> list[tuple[str, str]]:
    """Names and values of the headline: first those given, then those computed from the rest."""
    rows = [(title_of(key), shown(key, value)) for key, value in facts.items()]
    if records and "epochs" not in facts:
        rows.append(("Epochs", str(len(records))))
    for key, name in FINALS.items():
        values = [record[key] for record in records if _is_finite(record.get(key))]
        if values and key not in facts:
            rows.append((name, shown(key, float(values[-1]))))
    for cell, name in CELLS.items():
        pairs = getattr(genotype, cell, None)
        if pairs is not None and cell != "recurrent":
            skips = sum(op == "skip_connect" for op, _ in pairs)
            rows.append((f"Skips, {name.lower()}", f"{skips} of {len(pairs)}"))
    return rows


def curves(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The charts of `CHARTS` that records have numbers for, as SVG by title."""
    drawn = {}
    for chart in CHARTS:
        series = {name: points(records, key, chart.scale) for name, key in chart.keys.items()}
        # A series that is all gaps is left out.
        series = {
            name: line for name, line in series.items() if any(math.isfinite(y) for _, y in line)
        }
        if series:
            labels = {"title": chart.title, "xlabel": "epoch", "ylabel": chart.unit}
            drawn[chart.title] = charts.curves(series, **labels, steps=chart.steps)
    return drawn


def points(
    records: Sequence[Mapping[str, Any]], key: str, scale: float = 1.0
) -> list[tuple[float, float]]:
    """Points of a curve: (epoch, counted from 1; scale times the record's value).

    What was not measured in an epoch is no point, what is no number is a gap.
    """
    return [
        (_number(record.get("epoch"), i) + 1, scale * _number(record[key], math.nan))
        for i, record in enumerate(records)
        if key in record
    ]


def heatmap(
    cell: str,
    mix: np.ndarray,
    edges: Mapping[str, Any],
    ops: Mapping[str, Any],
    genotype: Any,
) -> str:
    """The mixture weights `[epochs, edges, ops]` of a cell as SVG, with what a genotype keeps.

    Raises:
        ValueError: if `edges` or `ops` lack the cell.
    """
    for name, mapping in (("edges", edges), ("ops", ops)):
        if cell not in mapping:
            raise ValueError(
                f"mixes has a cell {cell!r}, {name} has {sorted(mapping)}; every mix needs both"
            )
    labels = [f"{i}\N{RIGHTWARDS ARROW}{j}" if i != j else str(j) for i, j in edges[cell]]
    return heatmaps.heatmap(
        mix,
        labels,
        ops[cell],
        title=f"{CELLS.get(cell, title_of(cell))}: mixture weights",
        kept=_kept(cell, edges[cell], genotype),
    )


def _kept(cell: str, edges: Sequence[tuple[int, int]], genotype: Any) -> list[tuple[int, str]]:
    """(Number of the edge, operation) of what a genotype keeps in a cell."""
    choices = of_genotype(genotype).get(cell) if genotype else None
    if choices is None:
        return []
    numbers = {tuple(edge): number for number, edge in enumerate(edges)}
    return [
        (numbers[edge], op)
        for edge, ops in zip(choices.edges, choices.ops, strict=True)
        for op in ops
        if edge in numbers and op != "none"
    ]


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings as text; nested mappings become dotted names."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def shown(key: str, value: Any) -> str:
    """A fact as text, by the name that tells its unit."""
    if isinstance(value, bool) or not _is_finite(value):
        return str(value)
    if key.endswith("wall_time"):
        return writers.duration(value)
    if key.endswith("accuracy"):
        return f"{100 * value:.2f}\N{NARROW NO-BREAK SPACE}%"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{value:.4g}"


def title_of(key: str) -> str:
    """A fact's name as a reader wants it."""
    return key[:1].upper() + key[1:].replace("_", " ")


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _number(value: Any, default: float) -> float:
    return value if _is_finite(value) else default
