"""What jaxdarts score tells of its scores: correlations with accuracies, and sums of ranks."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.stats

from jaxdarts import proxies, report, runs
from jaxdarts.commands.discrete import evaluators
from jaxdarts.commands.score_definitions import AZ_NAS, BASELINES, SCORES
from jaxdarts.count import network_cost
from jaxdarts.data.benchmarks import tabular
from jaxdarts.runs import Stop

Values = dict[str, np.ndarray]


def parts_of(flag: str, text: str, known: Sequence[str]) -> dict[str, list[str]]:
    """{sum: the columns whose ranks it adds} of --rank_sums or --log_rank_sums."""
    sums = {}
    for name in filter(None, text.split(",")):
        parts = [
            column
            for part in name.split("+")
            for column in (AZ_NAS if part == "az_nas" else (part,))
        ]
        for part in parts:
            if part not in (*known, *BASELINES):
                raise Stop(
                    f"--{flag}={text}: {name} needs {part or 'a name'}, which --scores does not ask"
                    f" for; there are {', '.join((*known, *BASELINES))}",
                    2,
                )
            if parts.count(part) > 1:
                raise Stop(f"--{flag}={text}: {name} has {part} twice, a sum has it once", 2)
        sums[name] = parts
    return sums


def check(config: Any, known: Sequence[str]) -> None:
    """Raises Stop if a sum or the regularised SWAP needs what is not there."""
    made = () if config.swap_mu is None else ("swap_regularised",)
    parts_of("rank_sums", config.rank_sums, (*known, *made))
    parts_of("log_rank_sums", config.log_rank_sums, (*known, *made))
    if (config.swap_mu is None) != (config.swap_sigma is None):
        raise Stop("--swap_mu and --swap_sigma: the regularised SWAP needs both", 2)
    if config.swap_mu is not None and "swap" not in known:
        raise Stop(f"--swap_mu={config.swap_mu}: --scores does not ask for swap", 2)
    if config.table_columns and not config.table:
        raise Stop(f"--table_columns={config.table_columns}: say which --table has them", 2)


def table_columns(config: Any) -> dict[str, Mapping[Any, float]]:
    """Columns of --table by the names of their rows in the summary.

    Raises:
        Stop: if the table has no such column.
    """
    return {
        f"table_{name}": evaluators.opened(
            "table", config.table, lambda path, name=name: tabular.column(path, name)
        )
        for name in filter(None, config.table_columns.split(","))
    }


def of_cells(cells: Sequence[Any], column: Mapping[Any, float]) -> np.ndarray:
    """Values of the cells; nan where the column has none."""
    return np.array([column.get(cell, np.nan) for cell in cells])


def combined(config: Any, cells: Sequence[Any], values: Values, shape: Sequence[Any]) -> Values:
    """Sizes of the networks, and columns made of several: sums of ranks, the regularised SWAP.

    shape: the network's channels, cells a stage, classes and images, for `network_cost`.
    """
    costs = np.array([network_cost(cell, *shape) for cell in cells], np.float64).T
    made: Values = dict(zip(BASELINES, costs))
    if config.swap_mu is not None:
        made["swap_regularised"] = np.asarray(
            proxies.regularised_swap(
                jnp.asarray(values["swap"]),
                jnp.asarray(made["parameters"]),
                config.swap_mu,
                config.swap_sigma,
            ),
            np.float64,
        )
    everything = values | made
    plain = parts_of("rank_sums", config.rank_sums, list(everything))
    logs = parts_of("log_rank_sums", config.log_rank_sums, list(everything))
    if set(AZ_NAS) <= set(everything):
        logs = {"az_nas": list(AZ_NAS)} | logs
    for name, parts in plain.items():
        made[f"ranks of {name}"] = proxies.rank_sum({part: everything[part] for part in parts})
    for name, parts in logs.items():
        label = name if name == "az_nas" else f"log ranks of {name}"
        made[label] = proxies.log_rank_sum({part: everything[part] for part in parts})
    return made


def correlations(values: np.ndarray, accuracies: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Kendall's tau-b and Spearman's rho with accuracies; what is not finite ranks last, and is
    counted. Cells of which a column to compare with is not finite are left out for that column.
    """
    finite = np.isfinite(values)
    # Ranks, so that there is a number below all others.
    ranks = np.where(finite, scipy.stats.rankdata(np.where(finite, values, 0)), 0)
    facts: dict[str, Any] = {}
    for name, accuracy in accuracies.items():
        known = np.isfinite(accuracy)
        pair = ranks[known], accuracy[known]
        tied = any(len(set(one)) < 2 for one in pair)
        facts[f"kendall_{name}"] = None if tied else float(scipy.stats.kendalltau(*pair).statistic)
        facts[f"spearman_{name}"] = None if tied else float(scipy.stats.spearmanr(*pair).statistic)
    return facts | {"not_finite": int(np.sum(~finite))}


def accuracies_of(config: Any, cells: Sequence[Any], table: Mapping[Any, tabular.Row]) -> Values:
    """Accuracies of the cells: valid and test of --accuracies, test of the table's other sets."""
    rows = [table[cell] for cell in cells]
    accuracies = {
        "valid": np.array([row.valid_200 for row in rows]),
        "test": np.array([row.test_200 for row in rows]),
    }
    others = evaluators.opened("table", config.table, tabular.test_accuracies)
    for dataset, column in others.items():
        if dataset != config.accuracies:
            accuracies[f"test_{dataset}"] = np.array([column[cell] for cell in cells])
    return accuracies


def summarize(
    config: Any,
    cells: Sequence[Any],
    columns: Values,
    table: Mapping[Any, tabular.Row],
    speeds: dict,
    others: Sequence[str] = (),
) -> dict[str, Any]:
    """What was scored how fast, and how the scores rank the cells.

    others: which of the columns are of the table: what the rest is correlated with, too.
    """
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
    if config.repeats > 1:
        summary["config"]["repeats"] = config.repeats
    if config.swap_mu is not None:
        summary["config"] |= {"swap_mu": config.swap_mu, "swap_sigma": config.swap_sigma}
    summary |= {"cells": len(cells), "speed": speeds, "correlations": {}}
    if not table:
        return summary
    missing = [cell for cell in cells if cell not in table]
    if missing:
        raise Stop(
            f"--table={config.table}: has {len(table)} cells, and {missing[0]} is none of them", 2
        )
    accuracies = accuracies_of(config, cells, table) | {name: columns[name] for name in others}
    for name, values in columns.items():
        compared = {other: column for other, column in accuracies.items() if other != name}
        row = summary["correlations"][name] = correlations(values, compared)
        published = SCORES[name].published if name in SCORES else {}
        for kind, (value, source) in published.items():
            row["published"] = {"kind": kind, "value": value, "source": source}
        if name in speeds:
            row["milliseconds_a_cell"] = 1000 / speeds[name]["cells_a_second"]
    return summary


def words(row: Mapping[str, Any]) -> str:
    """One row of the correlations as text."""
    parts = [
        f"{kind} {value:.3f}"
        for kind, value in row.items()
        if kind.startswith(("kendall", "spearman")) and value is not None
    ]
    if row["not_finite"]:
        parts.append(f"{row['not_finite']} not finite")
    if "milliseconds_a_cell" in row:
        parts.append(f"{row['milliseconds_a_cell']:.0f} ms a cell")
    return ", ".join(parts)


def picture(
    name: str, column: Sequence[float], cells: Sequence[Any], table: Mapping[Any, tabular.Row]
) -> str:
    """Accuracy over a score, as SVG."""
    accuracy = [table[cell].valid_200 for cell in cells]
    labels = {"xlabel": name, "ylabel": "validation accuracy after 200 epochs (%)"}
    return report.charts.scatter(
        {name: list(zip(column, accuracy))}, title=f"{name} of {len(cells)} cells", **labels
    )
