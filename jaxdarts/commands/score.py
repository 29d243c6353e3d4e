"""Score untrained networks of many random cells, and measure how well the scores rank them.

    jaxdarts score --dataset=cifar10 --count=1000 --scores=naswot --table=PATH

A run folder holds config.json, log.txt, scores.csv (arch_str and a column for each score, a line
for each cell; jaxdarts discrete --scores=PATH reads it), combined.csv (the same for sums of ranks
among these cells and for sizes) and, with a table of accuracies, summary.json (rank correlations of
the scores, of their sums and of two baselines, the sizes of the networks, with the accuracies on
each data set of the table) and a picture of each score. A killed run continues with --resume=RUN,
and so does a finished one that is given a larger --count. Each score is compiled once; the cell is
an argument of its program.
"""

import csv
import dataclasses
import functools
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdarts import files, runs, spaces
from jaxdarts.commands import checks, command_line, datasets, flags, score_summary
from jaxdarts.commands.discrete import evaluators
from jaxdarts.commands.discrete import results as study_results
from jaxdarts.commands.score_definitions import SCORES, Net, columns
from jaxdarts.data import augment
from jaxdarts.data.benchmarks import tabular
from jaxdarts.nn.benchmarks import nasbench201
from jaxdarts.runs import Stop, flag
from jaxdarts.runs.flags import NOT_NEGATIVE, POSITIVE
from jaxdarts.space import locate


@dataclasses.dataclass(frozen=True)
class Scored:
    """Which scores of how many cells, and what they are compared with."""

    TOPIC: ClassVar[str] = "scores"

    scores: str = flag(
        "naswot",
        f"Scores, separated by commas: {', '.join(SCORES)}.",
    )
    space: Literal["nasbench201"] = flag("nasbench201", "Search space of the cells.")
    count: int = flag(1000, "Number of random cells, all different.", POSITIVE, free=True)
    table: str = flag(
        "",
        "CSV file of accuracies, as for jaxdarts discrete, with which the scores are correlated;"
        " default none.",
        free=True,
    )
    table_columns: str = flag(
        "",
        "Further columns of --table, separated by commas, such as latencies or scores of others"
        " (jaxdarts convert): the scores are correlated with them, and they with the accuracies;"
        " default none.",
        free=True,
    )
    accuracies: str = flag(
        "cifar10", "Data set of the accuracies: the prefix of the columns of --table."
    )
    repeats: int = flag(1, "Draws of the weights of each cell; its score is their mean.", POSITIVE)
    rank_sums: str = flag(
        "",
        "Sums of ranks to compare too, separated by commas, each of scores joined by +, such as"
        " naswot+synflow; parameters, multiply_adds and az_nas (its four parts) are names too;"
        " default none.",
        free=True,
    )
    log_rank_sums: str = flag(
        "",
        "As --rank_sums, of logarithms of ranks, such as az_nas+synflow: a bad rank weighs most, as"
        " in AZ-NAS; default none.",
        free=True,
    )
    swap_mu: float | None = flag(
        None,
        "Thousands of parameters that the regularised SWAP likes best; with --swap_sigma; default"
        " no such score.",
        NOT_NEGATIVE,
        free=True,
    )
    swap_sigma: float | None = flag(
        None,
        "Width of the regularised SWAP: it is swap times exp(-(p - mu)^2 / sigma), p the thousands"
        " of parameters; default no such score.",
        POSITIVE,
        free=True,
    )


@dataclasses.dataclass(frozen=True)
class Batch:
    """Which images a score looks at."""

    TOPIC: ClassVar[str] = "data"

    batch_size: int = flag(
        128,
        "Number of images, drawn once; all networks see the same. 0 for each score's number in its"
        " paper or code.",
        NOT_NEGATIVE,
    )


@dataclasses.dataclass(frozen=True)
class Config(Scored, flags.ImageData, Batch, flags.Size, flags.Rows, flags.Seed, flags.Folder):
    """Flags."""

    COMMAND: ClassVar[str] = "score"

    layers: int = 5
    seed: int = 1


SIZE = 5**6


def main(arguments: Sequence[str] | command_line.Line) -> None:
    config = check(command_line.parse(arguments, {"digits": Config()}, Config(), __doc__))
    runs.use_cache(config)
    read = functools.partial(tabular.read, dataset=config.accuracies)
    table = evaluators.opened("table", config.table, read) if config.table else {}
    others = score_summary.table_columns(config)
    dataset = datasets.load(config)
    for name in names(config):
        if num_images(config, name) > dataset.train.num:
            raise Stop(
                f"--batch_size={config.batch_size}: {config.dataset} has {dataset.train.num} images"
                f" to train with, {name} takes {num_images(config, name)}",
                2,
            )
    with runs.open_study(config, "score") as (folder, log):
        path = folder / "scores.csv"
        cells = draw(config)
        rows = recorded(path, config, cells)
        earlier = folder / "summary.json"
        speeds = (
            files.read_json(earlier, dict[str, Any]).get("speed", {}) if earlier.exists() else {}
        )
        if len(rows) < config.count:
            log.info("%d of %d cells are scored", len(rows), config.count)
            speeds = score(config, dataset, cells[len(rows) :], path, log)
            rows = recorded(path, config, cells)
        shape = (config.init_channels, config.layers, len(dataset.class_names), dataset.image_shape)
        values = dict(zip(columns(names(config)), np.array(rows).T))
        combined = score_summary.combined(config, cells, values, shape)
        lines = [["arch_str", *combined], *map(list, zip(cells, *combined.values()))]
        files.replace_text(folder / "combined.csv", "".join(map(line, lines)))
        others = {name: score_summary.of_cells(cells, column) for name, column in others.items()}
        everything = values | combined | others
        summary = score_summary.summarize(config, cells, everything, table, speeds, list(others))
        files.replace_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        for name, column in values.items() if table else ():
            text = score_summary.picture(name, column, cells, table)
            files.replace_text(folder / f"{name}.svg", text)
        if config.output:
            study_results.add_row(Path(config.output), summary)
        for name, row in summary["correlations"].items():
            log.info("%s: %s", name, score_summary.words(row))
        log.info("all in %s", folder)


def check(config: Config) -> Config:
    """The configuration.

    Raises:
        Stop: if a setting cannot be used.
    """
    checks.check_flags(config)
    for name in names(config):
        if name not in SCORES:
            raise Stop(
                f"--scores={config.scores}: there is no {name!r}, there are {', '.join(SCORES)}", 2
            )
    if len(set(names(config))) < len(names(config)):
        raise Stop(f"--scores={config.scores}: one is named twice", 2)
    if config.count > SIZE:
        raise Stop(f"--count={config.count}: the space has {SIZE} cells", 2)
    score_summary.check(config, columns(names(config)))
    return config


def names(config: Config) -> list[str]:
    """The scores that are asked for."""
    return config.scores.split(",")


def num_images(config: Config, name: str) -> int:
    """How many images a score looks at."""
    return (config.batch_size or SCORES[name].batch_size) * SCORES[name].batches


def draw(config: Config) -> list[Any]:
    """The cells; those of a smaller count come first."""
    space = spaces.nasbench201()
    edges, ops = space.cells["cell"].shape
    order = np.random.default_rng(config.seed).permutation(SIZE)[: config.count]
    picks = np.stack(np.unravel_index(order, (ops,) * edges), axis=1)
    return [space.discretize({"cell": np.eye(ops)[columns]}) for columns in picks]


def recorded(path: Path, config: Config, cells: list[Any]) -> list[list[float]]:
    """The scores of the first cells that earlier processes wrote; without a last line that was cut
    off.
    """
    head = ["arch_str", *columns(names(config))]
    if not path.exists():
        files.replace_text(path, line(head))
    text = files.read_text(path)
    complete = text[: text.rfind("\n") + 1]
    if complete != text:
        files.replace_text(path, complete)
    try:
        first, *lines = csv.reader(io.StringIO(complete)) if complete else [[]]
        if first != head:
            raise ValueError(f"the columns are {', '.join(first)}, not {', '.join(head)}")
        for cell, (name, *_) in zip(cells, lines):
            if name != str(cell):
                raise ValueError(f"{name} stands where {cell} should")
        return [
            [float(value) for _, value in zip(head[1:], values, strict=True)]
            for _, *values in lines[: len(cells)]
        ]
    except (ValueError, csv.Error) as error:
        raise Stop(f"{path}: {error}; remove it to start again") from error


def line(values: list[Any]) -> str:
    """One line of a CSV file."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(values)
    return out.getvalue()


def batch_of(config: Config, dataset: Any, name: str) -> dict[str, jax.Array]:
    """The images of a score; those of a smaller number of batches come first."""
    size, count = config.batch_size or SCORES[name].batch_size, SCORES[name].batches
    rng, everything = np.random.default_rng(config.seed), np.arange(dataset.train.num)
    indices = rng.choice(dataset.train.num, size, replace=False)
    if count > 1:
        others = rng.permutation(np.setdiff1d(everything, indices))[: size * (count - 1)]
        indices = np.concatenate([indices, others])
    part = {"image": jnp.asarray(dataset.train.images), "label": jnp.asarray(dataset.train.labels)}
    return augment.reader(dataset.mean, dataset.std)(part, jnp.asarray(indices))


def programs(
    config: Config, dataset: Any
) -> Iterator[tuple[str, Callable[[Any], list[float]], float]]:
    """(name, cell -> its columns, seconds of compilation) of every score."""
    space = spaces.nasbench201()
    for name in names(config):
        definition, batch = SCORES[name], batch_of(config, dataset, name)
        given: dict[str, Any] = {"num_classes": len(dataset.class_names), **definition.options}
        with jax.enable_x64(definition.x64):
            net = Net(space.cells, config.init_channels, config.layers, **given)
            example = net.example_inputs(dataset.image_shape)

            def program(key, picks, net=net, definition=definition, batch=batch, example=example):
                params = nasbench201.picked(space.cells, net.init(key, *example)["params"], picks)
                return definition.of(
                    net, picks, {"params": params}, batch, jax.random.fold_in(key, 1)
                )

            start = time.perf_counter()
            try:
                lowered = runs.jitted(program).lower(jax.random.key(config.seed), example[1])
            except ValueError as error:
                raise Stop(f"--scores={name}: {error}", 2) from error
            compiled = lowered.compile()
            seconds = time.perf_counter() - start

        def run(cell, definition=definition, compiled=compiled):
            picks = np.array([op for _, op in locate(space.cells, cell)["cell"]], np.int32)
            edges, ops = space.cells["cell"].shape
            number = int(np.ravel_multi_index(picks, (ops,) * edges))
            with jax.enable_x64(definition.x64):
                first = jax.random.fold_in(jax.random.key(config.seed), number)
                keys = [
                    first,
                    *(jax.random.fold_in(first, i) for i in range(2, config.repeats + 1)),
                ]
                draws = [jax.tree.leaves(compiled(key, jnp.asarray(picks))) for key in keys]
                drawn = [[definition.finish(np.asarray(leaf)) for leaf in draw] for draw in draws]
            return np.mean(drawn, axis=0).tolist()

        yield name, run, seconds


def score(
    config: Config, dataset: Any, cells: list[Any], path: Path, log: Any
) -> dict[str, dict[str, float]]:
    """Scores cells and adds their lines to the file; tells the seconds of every score's
    compilation, and cells a second.
    """
    functions, compiled = {}, {}
    for name, run, seconds in programs(config, dataset):
        log.info("%s: compiled in %.1f s", name, seconds)
        functions[name], compiled[name] = run, seconds
    spent, worked = dict.fromkeys(functions, 0.0), dict.fromkeys(functions, 0.0)
    bar = runs.writers.console(len(cells))
    try:
        with path.open("a", encoding="utf-8") as file:
            for i, cell in enumerate(cells):
                values: dict[str, float] = {}
                for name, run in functions.items():
                    start, work = time.perf_counter(), time.process_time()
                    values |= zip(columns([name]), run(cell), strict=True)
                    spent[name] += time.perf_counter() - start
                    worked[name] += time.process_time() - work
                file.write(line([cell, *(f"{value:.9g}" for value in values.values())]))
                file.flush()
                bar.write(i + 1, values)
    finally:
        bar.close()
    speeds = {}
    for name in functions:
        speeds[name] = {
            "compile_seconds": compiled[name],
            "cells": len(cells),
            "cells_a_second": len(cells) / spent[name],
        }
        # On a busy machine the other figure tells little.
        speeds[name]["cpu_seconds_a_cell"] = worked[name] / len(cells)
        log.info(
            "%s: %.2f cells a second, %.2f CPU seconds a cell",
            name,
            speeds[name]["cells_a_second"],
            speeds[name]["cpu_seconds_a_cell"],
        )
    return speeds
