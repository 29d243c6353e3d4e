"""One page of finished runs and published cells, side by side."""

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar, TypedDict

from jaxdarts import files, genotypes, report
from jaxdarts.analysis import mixture, topology
from jaxdarts.commands import sizes
from jaxdarts.commands.analyze import subjects
from jaxdarts.commands.evaluate import recipes
from jaxdarts.count import network_cost
from jaxdarts.genotypes import Genotype
from jaxdarts.report.page import CELLS
from jaxdarts.runs import Stop, flag, writers
from jaxdarts.spaces import of as space_of
from jaxdarts.training.export import ImageNetwork

FULL_SIZE = {
    "darts": "parameters_with_36_channels_and_20_cells",
    "nasbench201": "parameters_with_16_channels_and_5_cells_a_stage",
}
"""Parameters of the network that the papers train for CIFAR-10, by the space whose network it is.
"""
FACTS = (
    "dataset",
    "algorithm",
    "epochs",
    "test_error",
    "found_cell_supernet_accuracy",
    "discretisation_gap_accuracy",
    "found_cell_supernet_loss",
    "random_cells_supernet_loss",
    "flatness_gap_accuracy",
    *FULL_SIZE.values(),
    "parameters_as_trained",
    "wall_time",
)
"""What is told of a run, in this order, where it has it."""


@dataclasses.dataclass(frozen=True)
class Comparison(subjects.Options):
    """Writes one page with runs side by side.

    Names are run folders (all seeds of those with several) and published cells.
    """

    COMMAND: ClassVar[str] = "analyze compare"

    output: str = flag("comparison.html", "HTML file to write.")
    title: str = flag("Runs side by side", "Title of the page.")


def main(arguments: list[str]) -> None:
    config = subjects.parse(Comparison, arguments, Comparison.__doc__)
    entries: list[report.comparison.Entry] = []
    opened: dict[str, subjects.Opened] = {}
    for text in config.runs:
        if text in genotypes.PUBLISHED:
            entries.append(
                report.comparison.Entry(
                    text, genotypes.PUBLISHED[text], shape_of(genotypes.PUBLISHED[text])
                )
            )
            continue
        for folder in folders(text):
            run = subjects.open_run(str(folder))
            name = run.name if run.name not in opened else f"{run.name} ({run.folder.name})"
            opened[name] = run
            entries.append(entry_of(name, run))
    try:
        report.comparison.write(
            config.output,
            entries,
            title=config.title,
            tables=alike(opened),
            pictures=[*against_error(entries, opened), *against_size(entries, opened)],
        )
    except (OSError, ValueError) as error:
        raise Stop(f"--output={config.output}: {error}") from error
    print(f"page {config.output}", flush=True)


class Tested(TypedDict):
    """The part of test.json that is read here: the accuracy of each seed, a fraction."""

    accuracy: list[float]


def folders(text: str) -> list[Path]:
    """A run's folder, or those of its seeds."""
    folder = Path(text)
    if not folder.is_dir():
        raise Stop(f"{text}: no such folder, and no published cell{recipes.nearest(text)}", 2)
    seeds = sorted(folder.glob("seed-*"), key=lambda seed: int(seed.name.removeprefix("seed-")))
    return seeds or [folder]


def entry_of(name: str, run: subjects.Opened) -> report.comparison.Entry:
    """All that the page shows of one run."""
    genotype = subjects.genotype_of(run)
    path = next(
        (f / "metrics.jsonl" for f in (run.folder, run.root) if (f / "metrics.jsonl").exists()),
        None,
    )
    try:
        records = files.read_json_lines(path, writers.METRICS) if path else []
        sections = report.sections.read(run.folder)
    except ValueError as error:
        raise Stop(str(error)) from error
    known: dict[str, Any] = {"epochs": len(records), **run.settings, **subjects.facts_of(run)}
    error = test_error(run)
    known |= {} if error is None else {"test_error": f"{100 * error:.2f} %"}
    known["wall_time"] = sum(record.get("seconds") or 0 for record in records)
    full_size = FULL_SIZE.get(space_of(genotype).name)
    if run.searched and full_size:
        known[full_size] = known.get("parameters")
    if not run.searched:
        known |= {"algorithm": "training from scratch", **cost_of(run, genotype)}
    facts = {key: known[key] for key in FACTS if known.get(key) is not None}
    settings = {
        key: value
        for key, value in run.settings.items()
        if key not in ("data_dir", "cache_dir", "arch")
    }
    return report.comparison.Entry(
        name, genotype, facts | shape_of(genotype), settings, records, sections
    )


def cost_of(run: subjects.Opened, genotype: Any) -> dict[str, int]:
    """Parameters of a trained network of images, at full size and as it is.

    The result is empty for what is not finished.
    """
    try:
        net = files.read_json(run.folder / "network.json", ImageNetwork)
    except (OSError, ValueError):
        return {}
    space = space_of(genotype)
    if space.name not in FULL_SIZE:
        return {}
    size = sizes.evaluated(space)
    full, as_trained = (
        network_cost(
            genotype, *size, net["num_classes"], tuple(net["image_shape"]), net["imagenet"]
        )[0]
        for size in (size, (net["width"], net["depth"]))
    )
    return {FULL_SIZE[space.name]: full, "parameters_as_trained": as_trained}


def shape_of(genotype: Any) -> dict[str, Any]:
    """Width, depth and skip connections of the main cell."""
    if not isinstance(genotype, Genotype):
        return {}
    shape = topology.topology(genotype.normal)
    skips = sum(op == "skip_connect" for op, _ in genotype.normal)
    nodes = len(genotype.normal) // 2
    return {
        "width_of_the_normal_cell": f"{shape.width:g} of {nodes}",
        "depth_of_the_normal_cell": shape.depth,
        "skips_in_the_normal_cell": f"{skips} of {2 * nodes}",
    }


def test_error(run: subjects.Opened) -> float | None:
    """Test error of a trained cell, a fraction; None for a search or an unfinished run."""
    try:
        return 1 - files.read_json(run.root / "test.json", Tested)["accuracy"][run.seed_index]
    except (OSError, ValueError, KeyError, IndexError):
        return None


def alike(opened: dict[str, subjects.Opened]) -> list[report.sections.Table]:
    """Agreement of searches of one space about the ranks of the operations of an edge in the end.

    There is one table for every cell of the space.
    """
    searched = {
        name: run
        for name, run in opened.items()
        if run.searched and (run.folder / "alphas.npz").exists()
    }
    spaces = {name: subjects.space_of(run) for name, run in searched.items()}
    tables = []
    for cells in {json.dumps(space): space for space in spaces.values()}.values():
        names = [name for name in searched if spaces[name] == cells]
        last = {name: subjects.mixes_of(searched[name].folder, cells) for name in names}
        for cell, choices in cells.items() if len(names) > 1 else ():
            caption = (
                "Kendall's tau between the ranks of operations in the end, mean of the edges,"
                f" {CELLS[cell].lower()}"
            )
            final = {name: last[name][cell][-1] for name in names}
            rows = [
                [
                    one,
                    *(
                        f"{mixture.agreement(final[one], final[two], choices)['tau']:.2f}"
                        for two in names
                    ),
                ]
                for one in names
            ]
            tables.append(report.sections.Table(caption, ["", *names], rows))
    return tables


def against_error(
    entries: list[report.comparison.Entry], opened: dict[str, subjects.Opened]
) -> list[str]:
    """Charts of the last dominant eigenvalue of searches against the error of their cells.

    One has the test error, where trainings of the cells are among the runs; the other has the error
    with the supernet's weights.
    """
    tested: dict[tuple[str, str], list[float]] = {}
    for entry in entries:
        run = opened.get(entry.name)
        error = test_error(run) if run and not run.searched else None
        if run and error is not None:
            tested.setdefault((str(run.settings["dataset"]), str(entry.genotype)), []).append(error)
    charts: dict[str, dict[str, list]] = {
        "Test error of the cell": {},
        "Error of the cell with shared weights": {},
    }
    for entry in entries:
        run = opened.get(entry.name)
        if run is None or not run.searched:
            continue
        values = [
            record["eigenvalue"] for record in entry.records if record.get("eigenvalue") is not None
        ]
        accuracy = entry.facts.get("found_cell_supernet_accuracy")
        errors = tested.get((str(run.settings["dataset"]), str(entry.genotype)), [])
        algorithm = str(run.settings.get("algorithm", "darts"))
        for title, test_errors in zip(
            charts, (errors, [] if accuracy is None else [1 - float(accuracy)]), strict=True
        ):
            if values and test_errors:
                charts[title].setdefault(algorithm, []).extend(
                    (values[-1], 100 * error) for error in test_errors
                )
    return [
        report.charts.scatter(
            series,
            title=title,
            xlabel="dominant eigenvalue, with respect to alpha",
            ylabel="percent",
        )
        for title, series in charts.items()
        if series
    ]


def against_size(
    entries: list[report.comparison.Entry], opened: dict[str, subjects.Opened]
) -> list[str]:
    """A chart of the test accuracy of trained networks against their parameters.

    Each data set is a series; there is no chart of fewer than two networks.
    """
    series: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        run, parameters = opened.get(entry.name), entry.facts.get("parameters_as_trained")
        error = test_error(run) if run else None
        if run and error is not None and parameters is not None:
            at = float(parameters) / 1e6, 100 * (1 - error)
            series.setdefault(str(run.settings["dataset"]), []).append(at)
    if sum(map(len, series.values())) < 2:
        return []
    labels = {"xlabel": "parameters of the trained network, millions", "ylabel": "percent"}
    return [report.charts.scatter(series, title="Test accuracy", **labels)]
