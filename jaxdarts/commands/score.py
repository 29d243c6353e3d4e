"""Score untrained networks of many random cells, and measure how well the scores rank them.

    jaxdarts score --dataset=cifar10 --count=1000 --scores=naswot --table=PATH

A run folder holds config.json, log.txt, scores.csv (arch_str and a column for each score, a line
for each cell; jaxdarts discrete --scores=PATH reads it) and, with a table of accuracies,
summary.json (rank correlations with accuracy of the scores and of two baselines, the sizes of the
networks) and a picture of each score. A killed run continues with --resume=RUN, and so does a
finished one that is given a larger --count. Each score is compiled once; the cell is an argument of
its program.
"""

import csv
import dataclasses
import functools
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jaxdarts import files, proxies, report, runs, spaces
from jaxdarts.commands import checks, command_line, datasets, flags
from jaxdarts.commands.discrete import evaluators
from jaxdarts.commands.discrete import results as study_results
from jaxdarts.count import network_cost
from jaxdarts.data import augment
from jaxdarts.data.benchmarks import tabular
from jaxdarts.nn.benchmarks import nasbench201
from jaxdarts.runs import Stop, flag
from jaxdarts.runs.flags import POSITIVE
from jaxdarts.space import locate


@dataclasses.dataclass(frozen=True)
class Scored:
    """Which scores of how many cells, and what they are compared with."""

    TOPIC: ClassVar[str] = "scores"

    scores: str = flag(
        "naswot",
        "Scores, separated by commas: naswot, linear_regions, grad_norm, snip, grasp, fisher,"
        " plain, l2_norm, synflow, synflow_as_published, jacob_cov, epe_nas, ntk_condition, zen.",
    )
    space: Literal["nasbench201"] = flag("nasbench201", "Search space of the cells.")
    count: int = flag(1000, "Number of random cells, all different.", POSITIVE, free=True)
    table: str = flag(
        "",
        "CSV file of accuracies, as for jaxdarts discrete, with which the scores are correlated;"
        " default none.",
        free=True,
    )
    accuracies: str = flag(
        "cifar10", "Data set of the accuracies: the prefix of the columns of --table."
    )


@dataclasses.dataclass(frozen=True)
class Batch:
    """Which images a score looks at."""

    TOPIC: ClassVar[str] = "data"

    batch_size: int = flag(
        128, "Number of images, drawn once; all networks see the same.", POSITIVE
    )


@dataclasses.dataclass(frozen=True)
class Config(Scored, flags.ImageData, Batch, flags.Size, flags.Rows, flags.Seed, flags.Folder):
    """Flags."""

    COMMAND: ClassVar[str] = "score"

    layers: int = 5
    seed: int = 1


Net = nasbench201.Picked


class Score(NamedTuple):
    """One score.

    of: (network, picks, params, batch, key) -> an array.
    options: of the network; `num_classes` is that of the data set where it is not given.
    finish: what the host makes of the array.
    x64: in double precision.
    published: {"kendall" or "spearman": (figure, source)}.
    """

    of: Callable[[Net, Any, Any, Any, Any], Any]
    options: Mapping[str, Any] = {}
    finish: Callable[[np.ndarray], float] = float
    x64: bool = False
    published: Mapping[str, tuple[float, str]] = {}


def by_units(net: Net, picks, params, batch, key):
    """How often units of two images agree, counted as in the authors' code."""
    return proxies.declared(
        lambda params, x: net.apply(params, x, picks, mutable=["units"]), params, batch["image"]
    )


def different(k: np.ndarray) -> float:
    """How many different patterns there are."""
    return float(len(np.unique(k == np.diag(k)[:, None], axis=0)))


def by_outputs(name: str) -> Callable:
    """A score that looks at the network's outputs alone."""
    score = evaluators.SCORES[name]
    return lambda net, picks, params, batch, key: score(
        lambda params, x: net.apply(params, x, picks), params, batch
    )


def fisher(net: Net, picks, params, batch, key):
    """With taps on all layers."""
    taps = jax.eval_shape(lambda: net.apply(params, batch["image"], picks, mutable=["taps"])[1])
    zeros = jax.tree.map(lambda tap: jnp.zeros(tap.shape, tap.dtype), taps)

    def logits(params: Any, x: Any, taps: Any) -> Any:
        return net.apply({**params, **taps}, x, picks)

    return proxies.fisher(logits, params, batch, zeros)


def zen(net: Net, picks, params, batch, key):
    """With weights and images of its own; one repetition."""
    images, weights = jax.random.split(key)

    def features(params: Any, x: Any) -> tuple[Any, Any]:
        _, recorded = net.apply(params, x, picks, mutable=["features", "variances"])
        return recorded["features"]["value"][0], recorded["variances"]

    return proxies.zen(features, proxies.gaussian(weights, params), batch["image"], images)


MELLOR = "Mellor et al., ICML 2021, figure 3: about 1,000 random cells, validation accuracy"
ABDELFATTAH = "Abdelfattah et al., ICLR 2021, notebook of their code: all cells; absolute value"
CHEN = "Chen et al., ICLR 2021 (TE-NAS)"
SCORES = {
    "naswot": Score(
        by_units,
        {"num_classes": 1},
        # In double precision, as in the authors' code.
        lambda k: float(np.linalg.slogdet(k.astype(np.float64))[1]),
        published={"kendall": (0.574, MELLOR)},
    ),
    "linear_regions": Score(by_units, finish=different, published={"kendall": (0.5, CHEN)}),
    "grad_norm": Score(by_outputs("grad_norm"), published={"spearman": (0.594, ABDELFATTAH)}),
    "snip": Score(by_outputs("snip"), published={"spearman": (0.596, ABDELFATTAH)}),
    "grasp": Score(by_outputs("grasp"), published={"spearman": (0.514, ABDELFATTAH)}),
    "fisher": Score(fisher, published={"spearman": (0.36, ABDELFATTAH)}),
    "plain": Score(by_outputs("plain")),
    "l2_norm": Score(by_outputs("l2_norm")),
    "synflow": Score(
        by_outputs("synflow"),
        {"normed": False, "dtype": jnp.float64},
        # No published figure: the authors' network is that of `synflow_as_published`.
        x64=True,
    ),
    "synflow_as_published": Score(
        by_outputs("synflow"),
        {"normed": False, "residual_normed": True, "biased": True, "dtype": jnp.float64},
        x64=True,
        published={"spearman": (0.737, ABDELFATTAH)},
    ),
    "jacob_cov": Score(by_outputs("jacob_cov"), published={"spearman": (0.731, ABDELFATTAH)}),
    "epe_nas": Score(by_outputs("epe_nas")),
    "ntk_condition": Score(
        by_outputs("ntk_condition"), published={"kendall": (0.42, f"{CHEN}, sign turned")}
    ),
    "zen": Score(zen),
}
SIZE = 5**6
BASELINES = ("parameters", "multiply_adds")


def main(arguments: Sequence[str] | command_line.Line) -> None:
    config = check(command_line.parse(arguments, {"digits": Config()}, Config(), __doc__))
    runs.use_cache(config)
    read = functools.partial(tabular.read, dataset=config.accuracies)
    table = evaluators.opened("table", config.table, read) if config.table else {}
    dataset = datasets.load(config)
    if config.batch_size > dataset.train.num:
        raise Stop(
            f"--batch_size={config.batch_size}: {config.dataset} has {dataset.train.num} images to"
            " train with",
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
        summary = summarize(config, dataset, cells, rows, table, speeds)
        files.replace_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        for name, *column in zip(names(config), *rows) if table else ():
            files.replace_text(folder / f"{name}.svg", picture(name, column, cells, table))
        if config.output:
            study_results.add_row(Path(config.output), summary)
        for name, row in summary["correlations"].items():
            log.info(
                "%s: %s",
                name,
                ", ".join(f"{kind} {row[kind]:.3f}" for kind in KINDS if row[kind] is not None),
            )
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
    return config


def names(config: Config) -> list[str]:
    """The scores that are asked for."""
    return config.scores.split(",")


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
    head = ["arch_str", *names(config)]
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
            [float(value) for _, value in zip(names(config), values, strict=True)]
            for _, *values in lines[: len(cells)]
        ]
    except (ValueError, csv.Error) as error:
        raise Stop(f"{path}: {error}; remove it to start again") from error


def line(values: list[Any]) -> str:
    """One line of a CSV file."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(values)
    return out.getvalue()


def programs(config: Config, dataset: Any) -> Iterator[tuple[str, Callable[[Any], float], float]]:
    """(name, cell -> score, seconds of compilation) of every score."""
    space = spaces.nasbench201()
    rng = np.random.default_rng(config.seed)
    indices = jnp.asarray(rng.choice(dataset.train.num, config.batch_size, replace=False))
    part = {"image": jnp.asarray(dataset.train.images), "label": jnp.asarray(dataset.train.labels)}
    batch = augment.reader(dataset.mean, dataset.std)(part, indices)
    for name in names(config):
        definition = SCORES[name]
        given: dict[str, Any] = {"num_classes": len(dataset.class_names), **definition.options}
        with jax.enable_x64(definition.x64):
            net = Net(space.cells, config.init_channels, config.layers, **given)
            example = net.example_inputs(dataset.image_shape)

            def program(key, picks, net=net, definition=definition, example=example):
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
                key = jax.random.fold_in(jax.random.key(config.seed), number)
                return definition.finish(np.asarray(compiled(key, jnp.asarray(picks))))

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
                values = {}
                for name, run in functions.items():
                    start, work = time.perf_counter(), time.process_time()
                    values[name] = run(cell)
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
            *list(speeds[name].values())[2:],
        )
    return speeds


KINDS = ("kendall_valid", "spearman_valid", "kendall_test", "spearman_test")


def correlations(values: np.ndarray, accuracies: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Kendall's tau-b and Spearman's rho with accuracies; what is not finite ranks last, and is
    counted.
    """
    finite = np.isfinite(values)
    # Ranks, so that there is a number below all others.
    ranks = np.where(finite, scipy.stats.rankdata(np.where(finite, values, 0)), 0)
    facts: dict[str, Any] = {}
    for name, accuracy in accuracies.items():
        tied = len(set(ranks)) < 2 or len(set(accuracy)) < 2
        facts[f"kendall_{name}"] = (
            None if tied else float(scipy.stats.kendalltau(ranks, accuracy).statistic)
        )
        facts[f"spearman_{name}"] = (
            None if tied else float(scipy.stats.spearmanr(ranks, accuracy).statistic)
        )
    return facts | {"not_finite": int(np.sum(~finite))}


def summarize(
    config: Config,
    dataset: Any,
    cells: list[Any],
    rows: list[list[float]],
    table: Mapping[Any, tabular.Row],
    speeds: dict,
) -> dict[str, Any]:
    """What was scored how fast, and how the scores rank the cells."""
    fields = (
        "scores",
        "space",
        "dataset",
        "batch_size",
        "init_channels",
        "layers",
        "accuracies",
        "seed",
    )
    summary: dict[str, Any] = {
        **runs.versions(),
        "config": {name: getattr(config, name) for name in fields},
    }
    summary |= {"cells": len(cells), "speed": speeds, "correlations": {}}
    if table:
        missing = [cell for cell in cells if cell not in table]
        if missing:
            raise Stop(
                f"--table={config.table}: has {len(table)} cells, and {missing[0]} is none of them",
                2,
            )
        table_rows = [table[cell] for cell in cells]
        accuracies = {
            "valid": np.array([row.valid_200 for row in table_rows]),
            "test": np.array([row.test_200 for row in table_rows]),
        }
        shape = (config.init_channels, config.layers, len(dataset.class_names), dataset.image_shape)
        costs = np.array([network_cost(cell, *shape) for cell in cells], np.float64).T
        columns = dict(zip(names(config), np.array(rows).T)) | dict(zip(BASELINES, costs))
        summary["correlations"] = {
            name: correlations(values, accuracies) for name, values in columns.items()
        }
        for name in names(config):
            for kind, (value, source) in SCORES[name].published.items():
                summary["correlations"][name]["published"] = {
                    "kind": kind,
                    "value": value,
                    "source": source,
                }
    return summary


def picture(
    name: str, column: list[float], cells: list[Any], table: Mapping[Any, tabular.Row]
) -> str:
    """Accuracy over a score, as SVG."""
    accuracy = [table[cell].valid_200 for cell in cells]
    labels = {"xlabel": name, "ylabel": "validation accuracy after 200 epochs (%)"}
    return report.charts.scatter(
        {name: list(zip(column, accuracy))}, title=f"{name} of {len(cells)} cells", **labels
    )
