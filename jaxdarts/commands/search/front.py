"""The best cells under several limits, from one search: accuracy against size and latency.

A limit changes which operations are kept, not what was trained. So one search gives the best cell
under any number of limits, and all of them are validated with the weights that it shared.
"""

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdarts import limits, parallel, report, runs
from jaxdarts.commands import latencies, sizes
from jaxdarts.count import Costs
from jaxdarts.data import images
from jaxdarts.space import Space, one_hot
from jaxdarts.types import Mix

Score = Callable[[Mapping[str, Any]], np.ndarray]
"""Mixes of all seeds -> accuracies, [seeds]."""


class Point(NamedTuple):
    """A cell under a limit: what its network costs, and its accuracy with the shared weights."""

    genotype: Any
    costs: dict[str, float]
    accuracy: float


COLUMNS = {
    "parameters": ("parameters, millions", 1e6),
    "multiply_adds": ("multiply-adds, millions", 1e6),
    "latency_ms": ("latency, ms", latencies.NANOSECONDS),
}
"""Costs in words, and their units."""


def write(
    config: Any,
    space: Space,
    dataset: images.Dataset,
    mixes: Sequence[Mix],
    score: Score,
    folders: Sequence[Path],
    log: logging.Logger,
) -> None:
    """Adds a section with the best cells of --front limits to the report of every seed.

    Args:
        config: of the search.
        space: of the search.
        dataset: what it searched on.
        mixes: what alpha stands for, one for each seed.
        score: validates cells of all seeds with the shared weights.
        folders: of the seeds.
        log: of the run.
    """
    shape, classes = dataset.train.images.shape[1:], len(dataset.class_names)
    counted = costs_of(config, space, shape, classes)
    cells = [under(space, mix, counted, config.front) for mix in mixes]
    accuracies = []
    for together in itertools.zip_longest(*cells):  # one cell of every seed
        genotypes = [one or of_seed[0] for one, of_seed in zip(together, cells, strict=True)]
        accuracies.append(score(parallel.stack([one_hot(space.cells, one) for one in genotypes])))
    for seed, (of_seed, folder) in enumerate(zip(cells, folders, strict=True)):
        points = [
            Point(
                one,
                {
                    name: limits.total(space.cells, costs, one) / COLUMNS[name][1]
                    for name, costs in counted.items()
                },
                float(accuracy[seed]),
            )
            for one, accuracy in zip(of_seed, accuracies)
        ]
        section, numbers = section_of(config, space, points)
        report.sections.write(folder, section, numbers, runs.versions())
        log.info("%d cells under limits: %s", len(points), folder / "analysis" / "front.json")


def costs_of(
    config: Any, space: Space, shape: tuple[int, int, int], classes: int
) -> dict[str, Costs]:
    """What operations cost in the network that will be trained, and how long they take."""
    assert space.costs is not None  # `limited.limits_of` refuses what has none
    stem = sizes.has_imagenet_stem(space, config.dataset)
    counted = space.costs(*sizes.trained(config, space), classes, shape, stem)
    found = dict(zip(("parameters", "multiply_adds"), counted))
    if config.latency_table is not None:
        found["latency_ms"] = latencies.costs(config, space, classes, shape)
    return found


def under(space: Space, mix: Mix, counted: Mapping[str, Costs], number: int) -> list[Any]:
    """The best cells under a number of limits of each cost, none twice; the strongest one first.

    Limits are evenly spaced from the cheapest cell to the strongest one.
    """
    strongest = space.discretize(mix)
    found = {strongest: None}
    for costs in counted.values():
        least = limits.least(space.cells, costs)
        highest = max(least, limits.total(space.cells, costs, strongest))
        for limit in np.linspace(least, highest, number):
            # Half a unit more: costs are whole numbers, and the limit is rounded.
            best = limits.under_limits(space.cells, mix, [costs], [limit + 0.5])
            found[space.discretize(best)] = None
    return list(found)


def undominated(points: Sequence[Point]) -> list[bool]:
    """Whether no other cell is as accurate and costs no more, better in one of these."""
    values = np.array([[-point.accuracy, *point.costs.values()] for point in points])
    beaten = [
        np.any(np.all(values <= row, axis=1) & np.any(values < row, axis=1)) for row in values
    ]
    return [not one for one in beaten]


def section_of(
    config: Any, space: Space, points: Sequence[Point]
) -> tuple[report.sections.Section, dict[str, Any]]:
    """The section of a report, and its numbers."""
    best = undominated(points)
    order = sorted(range(len(points)), key=lambda i: points[i].costs["parameters"])
    names = list(points[0].costs)
    head = ["cell", *(COLUMNS[name][0] for name in names), "accuracy, %", "on the front"]
    rows = [
        [
            str(number),
            *(f"{points[i].costs[name]:.4g}" for name in names),
            f"{100 * points[i].accuracy:.2f}",
            "yes" if best[i] else "",
        ]
        for number, i in enumerate(order, 1)
    ]
    shown = [[str(number), str(points[i].genotype)] for number, i in enumerate(order, 1)]
    pictures = {name: chart(points, best, name) for name in names}
    size = sizes.words(space, sizes.trained(config, space))
    section = report.sections.Section(
        name="front",
        title="Accuracy against size" + " and latency" * ("latency_ms" in names),
        text=f"The best cells under {config.front} limits of each cost, all from this search:"
        " those with the strongest operations. Costs are those of the network that will be"
        f" trained, at {size}. The accuracy is that on the validation images with the supernet's"
        " weights, and ranks cells only roughly. A cell is on the front if no other one is as"
        " accurate and costs no more.",
        facts={"cells": str(len(points)), "on the front": str(sum(best))},
        tables=[
            report.sections.Table("Cells under limits", head, rows),
            report.sections.Table("Genotypes, for jaxdarts evaluate --arch", ["cell", ""], shown),
        ],
        pictures=pictures,
    )
    numbers = {
        "cells": [
            {
                "genotype": str(points[i].genotype),
                **points[i].costs,
                "accuracy": points[i].accuracy,
                "on_the_front": best[i],
            }
            for i in order
        ]
    }
    return section, numbers


def chart(points: Sequence[Point], best: Sequence[bool], name: str) -> str:
    """Accuracy over one cost: the cells on the front, and the others."""
    series: dict[str, list[tuple[float, float]]] = {"on the front": [], "others": []}
    for point, is_best in zip(points, best, strict=True):
        at = point.costs[name], 100 * point.accuracy
        series["on the front" if is_best else "others"].append(at)
    series = {label: of_label for label, of_label in series.items() if of_label}
    label = COLUMNS[name][0]
    return report.charts.scatter(series, title="Accuracy", xlabel=label, ylabel="percent")
