"""Short trainings of a cell and of variants of it with other connections.

They show whether the cell converges faster than its variants.
"""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import numpy as np

from jaxdarts import files, report, runs
from jaxdarts.analysis import topology
from jaxdarts.commands.analyze import subjects
from jaxdarts.commands.analyze.subjects import plain
from jaxdarts.commands.evaluate import images as image_evaluation
from jaxdarts.commands.evaluate import recipes
from jaxdarts.data import feed, stream
from jaxdarts.genotypes import Genotype
from jaxdarts.runs import Stop, flag
from jaxdarts.runs.flags import POSITIVE


@dataclasses.dataclass(frozen=True)
class Convergence(subjects.Options):
    """Trains a run's cell and variants of it with other connections.

    All of them are tested after every epoch.

    Flags of jaxdarts evaluate follow after --, as in: jaxdarts analyze convergence RUN --
    --epochs=5 --layers=4. Without them the defaults of the data set hold, which train for hours.
    """

    COMMAND: ClassVar[str] = "analyze convergence"

    each: int = flag(3, "Number of variants for every width.", subjects.VARIANTS)
    widths: tuple[float, ...] = flag(
        (),
        "Widths of the variants' normal cells; default 2, 2.5, 3 and 3.5 for cells of four nodes,"
        " all possible widths for others.",
        POSITIVE,
    )


def convergence_of_runs(arguments: list[str]) -> None:
    split = arguments.index("--") if "--" in arguments else len(arguments)
    config = subjects.parse(Convergence, arguments[:split], Convergence.__doc__)
    for name in config.runs:
        run = subjects.open_run(name)
        genotype = subjects.genotype_of(run)
        if not isinstance(genotype, Genotype):
            raise Stop(
                f"{name}: variants are of cells with two inputs, not of a"
                f" {type(genotype).__name__}",
                2,
            )
        data_flags = (
            [f"--data_dir={run.settings['data_dir']}"] if run.settings.get("data_dir") else []
        )
        size = run.settings.get("image_size")
        training_arguments = [
            f"--dataset={run.settings['dataset']}",
            *data_flags,
            *([f"--image_size={size}"] if size else []),
            *arguments[split + 1 :],
            f"--arch={genotype}",
        ]
        training = recipes.check(recipes.parse(training_arguments, image_evaluation.__doc__))
        if training.stream or training.num_seeds > 1:
            raise Stop("--stream and --num_seeds: not with convergence", 2)
        runs.use_cache(training)
        cells = {"this cell": genotype, **variants(genotype, config)}
        dataset = image_evaluation.load(training)
        try:
            kept = Kept(run.folder / "analysis" / "convergence", training)
        except (OSError, ValueError, KeyError) as error:
            raise Stop(
                f"{run.folder / 'analysis' / 'convergence'}: cannot be used, remove it: {error!r}"
            ) from error
        curves: dict[str, Any] = {}
        for title, cell in cells.items():
            curves[title] = kept.get(cell) or kept.put(
                cell, trained(training, cell, dataset, title)
            )
        show(run, training, cells, curves)


def variants(genotype: Genotype, config: Convergence) -> dict[str, Genotype]:
    """Re-connected cells by a title that tells their topology."""
    nodes, rng = len(genotype.normal) // 2, np.random.default_rng(config.seed)
    widths = config.widths or (
        (2.0, 2.5, 3.0, 3.5)
        if nodes == 4
        else sorted({shape.width for shape in topology.counts(nodes)})
    )
    try:
        cells = topology.variants(genotype, rng, widths, config.each)
    except ValueError as error:
        raise Stop(
            f"--widths={' '.join(map(str, widths))} --each={config.each}: {error}", 2
        ) from error
    shapes = [topology.topology(cell.normal) for cell in cells]
    return {
        f"{i}: {s.width:g}c, {s.depth}": cell
        for i, (s, cell) in enumerate(zip(shapes, cells, strict=True), 1)
    }


class Saved(TypedDict):
    """A training of a cell, as it is kept."""

    genotype: str
    settings: dict[str, Any]
    records: list[dict[str, float]]


class Kept:
    """Trainings that were done before under the same settings.

    An analysis that is stopped goes on with the next cell.
    """

    def __init__(self, folder: Path, training: Any):
        self.settings = {
            name: value for name, value in runs.frozen(training).items() if name != "arch"
        }
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.known = {}
        for path in folder.glob("*.json"):
            try:
                saved = files.read_json(path, Saved, "remove it to train the cell again")
            except ValueError as error:
                raise Stop(str(error)) from error
            if saved["settings"] == self.settings:
                self.known[saved["genotype"]] = saved["records"]

    def get(self, cell: Genotype) -> list[dict[str, float]] | None:
        return self.known.get(str(cell))

    def put(self, cell: Genotype, records: list[dict[str, float]]) -> list[dict[str, float]]:
        self.known[str(cell)] = records
        saved = {"genotype": str(cell), "settings": self.settings, "records": records}
        files.replace_text(
            self.folder / f"{len(list(self.folder.glob('*.json'))):03d}.json",
            json.dumps(saved) + "\n",
        )
        return records


def trained(config: Any, cell: Genotype, dataset: Any, title: str) -> list[dict[str, float]]:
    """Trains one cell; its losses and accuracies after every epoch."""
    program = image_evaluation.build(config, cell, dataset)
    total = config.epochs * program.steps_per_epoch
    bar, records = runs.writers.console(total), []
    with contextlib.ExitStack() as stack:
        stack.callback(bar.close)
        pool = stack.enter_context(stream.threads())
        fed = feed.open_feed(pool, dataset, [config.seed], program.devices)

        def end(training, epoch, files):
            tested = image_evaluation.test(config, program, training.state, fed, dataset.test.num)
            record = {
                name: float(epoch.means[name][0]) for name in ("train_loss", "train_accuracy")
            }
            record |= {f"test_{name}": float(tested[name][0]) for name in ("loss", "accuracy")}
            records.append(record)
            numbers = {"cell": epoch.number + 1, "test_loss": record["test_loss"]}
            bar.write(epoch.step, numbers)
            return training

        task = image_evaluation.task_of(config, program, fed, dataset.train.num)
        runs.train_unattended(task._replace(end=end))
    print(f"{title}: test accuracy {100 * records[-1]['test_accuracy']:.2f} %", flush=True)
    return records


def show(
    run: subjects.Opened, config: Any, cells: dict[str, Genotype], curves: dict[str, Any]
) -> None:
    """Writes the section."""
    epochs = range(1, config.epochs + 1)
    pictures: dict[str, str] = {}
    charts = (
        ("test_loss", "Test loss", 1),
        ("train_loss", "Train loss", 1),
        ("test_accuracy", "Test accuracy, percent", 100),
    )
    for name, title, scale in charts:
        series = {
            cell: list(zip(epochs, [scale * r[name] for r in records], strict=True))
            for cell, records in curves.items()
        }
        pictures[name.replace("_", "-")] = report.charts.curves(series, title=title, xlabel="epoch")
    rows = []
    for title, cell in cells.items():
        shape, last = topology.topology(cell.normal), curves[title][-1]
        numbers = (
            f"{last['train_loss']:.4f}",
            f"{last['test_loss']:.4f}",
            f"{100 * last['test_accuracy']:.2f} %",
        )
        rows.append([title, f"{shape.width:g}", str(shape.depth), *numbers])
    section = report.sections.Section(
        "convergence",
        "Convergence of re-connected cells",
        "The cell and variants of it, the same operations on other random connections, trained for"
        f" {config.epochs} epochs with {config.init_channels} channels and {config.layers} cells,"
        " one seed, and tested after each. Width and depth of the normal cell name a variant.",
        tables=[
            report.sections.Table(
                "After the last epoch",
                ["cell", "width", "depth", "train loss", "test loss", "test acc."],
                rows,
            )
        ],
        pictures=pictures,
    )
    rounded = {
        title: {
            "genotype": str(cells[title]),
            **{name: plain([r[name] for r in records]) for name in records[0]},
        }
        for title, records in curves.items()
    }
    settings = {
        name: getattr(config, name)
        for name in ("epochs", "batch_size", "init_channels", "layers", "learning_rate", "seed")
    }
    subjects.report(run, section, {"cells": rounded, "settings": settings})
