"""The page of a comparison: the table, curves over the epochs, and every algorithm's cell."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdarts import files, genotypes, report
from jaxdarts.report.sections import Table
from jaxdarts.runs import writers

Line = list[tuple[float, float]]
CURVES = {
    "valid_accuracy": ("Validation accuracy of the supernet", "percent", 100.0),
    "skip_cell": ("Skip connections in the cell", "edges", 1.0),
    "skip_normal": ("Skip connections in the normal cell", "edges", 1.0),
    "eigenvalue": (
        "Dominant eigenvalue of the Hessian",
        "of the validation loss with respect to alpha",
        1.0,
    ),
}
"""Title, unit and factor of what is drawn of the records of the epochs."""


def write(
    path: str,
    table: Table,
    results: Mapping[str, Mapping[str, Any]],
    folders: Mapping[str, Sequence[Path]],
    datasets: Sequence[str],
) -> None:
    """Writes the page.

    Args:
        path: the HTML file.
        table: what the program prints.
        results: of every algorithm, as `--output` has them.
        folders: of every algorithm: that of its result, and those of its seeds.
        datasets: data sets whose true accuracies are known.
    """
    records = {
        name: [files.read_json_lines(seed / "metrics.jsonl", writers.METRICS) for seed in seeds]
        for name, (_, *seeds) in folders.items()
    }
    pictures = []
    for dataset in datasets:
        every = {name: of_seeds(results[name], dataset) for name in results}
        every = {name: lines for name, lines in every.items() if any(lines)}
        pictures.append(
            chart(
                {name: mean(lines) for name, lines in every.items()},
                f"True test accuracy on {dataset}, mean of seeds",
                "percent",
            )
        )
        for name, lines in every.items():
            seeds = {
                seed.name.replace("-", " "): line
                for seed, line in zip(folders[name][1:], lines, strict=True)
            }
            pictures.append(chart(seeds, f"{name}, on {dataset}", "percent"))
    for key, (title, unit, scale) in CURVES.items():
        lines = {
            name: mean([report.page.points(one, key, scale) for one in of_method])
            for name, of_method in records.items()
        }
        lines = {name: line for name, line in lines.items() if line}
        if lines:
            pictures.append(chart(lines, f"{title}, mean of seeds", unit))
    cells = {
        name: genotypes.from_json(files.read_text(folder / "genotype.json"))
        for name, (folder, *_) in folders.items()
    }
    report.comparison.write_table(
        path, table, title="Algorithms side by side", pictures=pictures, genotypes=cells
    )


def chart(lines: Mapping[str, Line], title: str, unit: str) -> str:
    """One chart over the epochs."""
    return report.charts.curves(lines, title=title, xlabel="epoch", ylabel=unit)


def of_seeds(values: Mapping[str, Any], dataset: str) -> list[Line]:
    """True accuracies over the epochs, one line a seed."""
    accuracies = values[f"{dataset}_test_of_every_epoch"]
    return [[(epoch, value) for epoch, value in enumerate(line, 1)] for line in accuracies]


def mean(lines: Sequence[Line]) -> Line:
    """The mean of several lines where they have points."""
    by_epoch: dict[float, list[float]] = {}
    for line in lines:
        for epoch, value in line:
            if math.isfinite(value):
                by_epoch.setdefault(epoch, []).append(value)
    return [(epoch, float(np.mean(values))) for epoch, values in sorted(by_epoch.items())]
