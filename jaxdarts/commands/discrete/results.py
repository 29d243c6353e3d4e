"""What is left of a study among discrete cells: its trials as JSON lines, its summary, and the
curve of the best so far.
"""

import collections
import json
import math
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from jaxdarts import Trial, discrete, files, genotypes, report, runs
from jaxdarts.commands.discrete import evaluators
from jaxdarts.runs import Stop

# Accuracy in percent on CIFAR-10, mean and deviation over 500 runs of 12,000 s: validation and test
# after 200 epochs. Mellor et al., Neural Architecture Search without Training, ICML 2021.
PUBLISHED = {
    "random": {"valid_200": (90.93, 0.36), "test_200": (93.70, 0.36)},
    "rea": {"valid_200": (91.19, 0.31), "test_200": (93.92, 0.30)},
    "reinforce": {"valid_200": (91.09, 0.37), "test_200": (93.85, 0.37)},
    "bohb": {"valid_200": (90.82, 0.53), "test_200": (93.61, 0.52)},
}


class Recorded(TypedDict):
    """A line of history.jsonl."""

    step: int
    run: int
    genotype: str
    value: float | None
    final: float | None
    seconds: float
    epochs: NotRequired[int | None]


def line(run: int, number: int, trial: Trial, within_budget: bool) -> str:
    """A trial as a JSON line; JSON has no NaN, which becomes null."""
    record: dict[str, Any] = {
        "step": number,
        "run": run,
        **trial._asdict(),
        "genotype": str(trial.genotype),
    }
    record |= {
        name: None if math.isnan(record[name]) else record[name] for name in ("value", "final")
    }
    if trial.epochs is None:
        del record["epochs"]
    return json.dumps(record | {"within_budget": within_budget}) + "\n"


def recorded(path: Path, options: evaluators.Options) -> dict[int, list[tuple[int, Trial]]]:
    """The trials that an earlier process wrote, by run; takes a last line that was cut off out of
    the file.
    """
    trials: dict[int, list[tuple[int, Trial]]] = collections.defaultdict(list)
    if not path.exists():
        return trials
    try:
        records: Any = files.read_json_lines(path, Recorded)
        for record in records:
            value, final = (
                math.nan if record[name] is None else record[name] for name in ("value", "final")
            )
            genotype, epochs = genotypes.parse(record["genotype"]), record.get("epochs")
            trial = Trial(genotype, value, final, record["seconds"], epochs)
            if options.evaluate == "table" and trial != evaluators.trial(options, genotype, epochs):
                raise files.Damaged(f"{path}: {genotype} is another one in the table")
            trials[record["run"]].append((record["step"], trial))
    except (ValueError, KeyError, TypeError) as error:
        raise Stop(f"{error}; remove {path} to start again") from error
    files.replace_text(path, "".join(json.dumps(record) + "\n" for record in records))
    return trials


def facts(options: evaluators.Options, chosen: list[Trial]) -> dict[str, np.ndarray]:
    """What is reported of the chosen trials, [runs] each."""
    every = [evaluators.EVALUATIONS[options.evaluate].facts(options, trial) for trial in chosen]
    return {name: np.array([run_facts[name] for run_facts in every]) for name in every[0]}


def summarize(
    config: Any,
    options: evaluators.Options,
    flags: tuple[str, ...],
    histories: list[discrete.History],
    chosen: list[Trial],
) -> dict[str, Any]:
    """What the chosen cells are worth, over the runs."""
    summary = {**runs.versions(), "config": {name: getattr(config, name) for name in flags}}
    for name, values in facts(options, chosen).items():
        summary[name] = runs.spread(values)
    summary["trials"] = float(np.mean([len(history) for history in histories]))
    summary["seconds"] = float(
        np.mean([sum(trial.seconds for trial in history.values()) for history in histories])
    )
    summary["distinct_cells"] = float(
        np.mean([len({trial.genotype for trial in h.values()}) for h in histories])
    )
    summary["best_genotype"] = str(discrete.best(chosen).genotype)
    setting = (config.space, options.evaluate, config.dataset, config.budget_seconds)
    if config.algorithm in PUBLISHED and setting == ("nasbench201", "table", "cifar10", 12000):
        published = PUBLISHED[config.algorithm]
        summary["published"] = {
            name: {"mean": mean, "deviation": spread} for name, (mean, spread) in published.items()
        }
        summary["within_one_published_deviation"] = {
            name: abs(summary[name]["mean"] - mean) <= spread
            for name, (mean, spread) in published.items()
        }
    return summary


def write_best(folder: Path, histories: list[discrete.History], number: int) -> None:
    """Writes the best different cells of all histories as 01.json, 02.json, ..."""
    cells: list[Any] = []
    left = [trial for history in histories for trial in history.values()]
    while left and len(cells) < number:
        cells.append(discrete.best(left).genotype)
        left = [trial for trial in left if trial.genotype != cells[-1]]
    folder.mkdir(exist_ok=True)
    for path in folder.glob("[0-9]*.json"):
        path.unlink()
    for i, genotype in enumerate(cells, 1):
        files.replace_text(folder / f"{i:02d}.json", genotypes.to_json(genotype))


def add_row(path: Path, summary: dict[str, Any]) -> None:
    """Adds a summary to a file of many, in place of one with the same settings."""
    try:
        rows = files.read_json(path, dict)["rows"] if path.exists() else []
        settings = json.loads(json.dumps(summary["config"]))  # JSON has no tuples
        rows = [row for row in rows if row["config"] != settings]
    except (ValueError, KeyError, TypeError) as error:
        raise Stop(f"--output={path}: holds something else: {error!r}") from error
    files.replace_text(path, json.dumps({"rows": [*rows, summary]}, indent=1) + "\n")


def curve(config: Any, histories: list[discrete.History]) -> str:
    """The best trial so far over what has been spent, mean and deviation over the runs, as SVG."""
    evaluation = evaluators.EVALUATIONS[config.evaluate]
    timed = config.budget_seconds is not None
    end = config.budget_seconds if timed else max(map(len, histories))
    grid = np.linspace(0, end, 201) if timed else np.arange(1, end + 1)
    best_values = np.full((len(histories), len(grid)), np.nan)
    for row, history in zip(
        best_values, (list(history.values()) for history in histories), strict=True
    ):
        best = np.array(
            [getattr(trial, evaluation.shown) for trial in discrete.best_so_far(history)]
        )
        spent = np.cumsum([trial.seconds if timed else 1 for trial in history])
        last = np.searchsorted(spent, grid, side="right") - 1
        row[last >= 0] = best[last[last >= 0]]
    mean, deviation = best_values.mean(0), best_values.std(0)
    series = {
        "mean": mean,
        "mean + deviation": mean + deviation,
        "mean - deviation": mean - deviation,
    }
    return report.charts.curves(
        {
            name: list(zip(grid.tolist(), values.tolist(), strict=True))
            for name, values in series.items()
        },
        title=f"{config.algorithm}: best trial so far, {config.runs} runs",
        xlabel="seconds of training" if timed else "trials",
        ylabel=evaluation.axis,
    )
