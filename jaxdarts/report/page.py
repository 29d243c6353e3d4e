"""One self-contained HTML page about a search: no network, no other file, no script."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from markupsafe import Markup

from jaxdarts import files
from jaxdarts.report import cells, charts
from jaxdarts.report.sections import Section
from jaxdarts.runs import writers

# (title, unit, scale, {name in the chart: key in the records})
CHARTS = (
    ("Loss", "", 1.0, {"train": "train_loss", "validation": "valid_loss"}),
    ("Accuracy", "percent", 100.0, {"train": "train_accuracy", "validation": "valid_accuracy"}),
    ("Perplexity", "", 1.0, {"train": "train_perplexity", "validation": "valid_perplexity"}),
    ("Learning rate", "", 1.0, {"learning rate": "learning_rate"}),
    (
        "Skip connections",
        "edges of the found cell",
        1.0,
        {"normal": "skip_normal", "reduction": "skip_reduce", "cell": "skip_cell"},
    ),
    (
        "Operations without weights",
        "edges of the found cell",
        1.0,
        {
            "normal": "parameter_free_normal",
            "reduction": "parameter_free_reduce",
            "cell": "parameter_free_cell",
            "blocks": "parameter_free_ops",
        },
    ),
    (
        "Dominant eigenvalue",
        "of the validation loss's Hessian in alpha",
        1.0,
        {"eigenvalue": "eigenvalue"},
    ),
    ("Expected cost", "of the network to evaluate", 1.0, {"expected cost": "valid_expected_cost"}),
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
STATES = "0 and 1 are the inputs of the cell, and node n of its drawing is state n + 2"
VERTICES = "0 is the input of the cell, and a row belongs to the vertex that it is named after"
ONE_INPUT_STATES = "0 is the input of the cell, and node n of its drawing is state n + 1"


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
) -> None:
    """Writes the report of a run; the same arguments give the same bytes.

    The page leads with the facts and the last losses and accuracies, then shows curves, the found
    cells, mixture weights over time, the genotype as text and the configuration. What is missing is
    left out.

    Args:
        path: the HTML file; it is replaced as a whole or not at all.
        title: headline.
        config: settings of the run, shown as a table; nested mappings become dotted names.
        records: one mapping for each epoch, as read by `metrics.read_json_lines`: `epoch`,
            `train_loss`, `valid_loss`, `train_accuracy`, `valid_accuracy` (fractions),
            `learning_rate` and others of `CHARTS`. Any may be missing or None; others are ignored.
        genotype: what was found; None where nothing was.
        mixes: for each cell its mixture weights `[epochs, edges, ops]`.
        edges: for each cell of `mixes` its edges (source, target).
        ops: for each cell of `mixes` the names of its operations, one sequence for all edges or one
          for each.
        facts: for the headline: text or numbers by name, say `dataset`, `parameters`,
            `multiply_adds`, and `wall_time` in seconds.
        tables: by heading, rows of text, the first of which names the columns.
        pictures: further curves, as of `draw.curves`.
        sections: analyses of the run (`sections.gather`).

    Raises:
        ValueError: if `edges` and `ops` do not fit `mixes`.
    """
    html = render(
        "report.html.jinja",
        title=title,
        facts=_facts(facts, records, genotype),
        tables=tables,
        charts=[Markup(svg) for svg in (*_charts(records), *pictures)],
        cells=[Markup(svg) for svg in (cells.cell(genotype).values() if genotype else ())],
        heatmaps=[Markup(_heatmap(cell, mix, edges, ops)) for cell, mix in mixes.items()],
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
    """Puts the analyses of a run into its report, in place of those that it shows; the same ones
    give the same bytes.

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


def _analyses(sections: Sequence[Section]) -> str:
    marked = [
        each._replace(pictures={name: Markup(svg) for name, svg in each.pictures.items()})
        for each in sections
    ]
    return "\n".join((_START, render("sections.html.jinja", sections=marked).strip(), _END))


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


def _charts(records: Sequence[Mapping[str, Any]]) -> list[str]:
    drawn = []
    for title, unit, scale, keys in CHARTS:
        series = {name: points(records, key, scale) for name, key in keys.items()}
        # A series that is all gaps is left out.
        series = {
            name: line for name, line in series.items() if any(math.isfinite(y) for _, y in line)
        }
        if series:
            drawn.append(charts.curves(series, title=title, xlabel="epoch", ylabel=unit))
    return drawn


def points(
    records: Sequence[Mapping[str, Any]], key: str, scale: float = 1.0
) -> list[tuple[float, float]]:
    """(epoch, scale times the record's value); what was not measured in an epoch is no point, what
    is no number is a gap.
    """
    return [
        (_number(record.get("epoch"), i), scale * _number(record[key], math.nan))
        for i, record in enumerate(records)
        if key in record
    ]


def _heatmap(cell: str, mix: np.ndarray, edges: Mapping[str, Any], ops: Mapping[str, Any]) -> str:
    for name, mapping in (("edges", edges), ("ops", ops)):
        if cell not in mapping:
            raise ValueError(
                f"mixes has a cell {cell!r}, {name} has {sorted(mapping)}; every mix needs both"
            )
    labels = [f"{i}\N{RIGHTWARDS ARROW}{j}" if i != j else str(j) for i, j in edges[cell]]
    return charts.heatmap(mix, labels, ops[cell], title=CELLS.get(cell, title_of(cell)))


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
