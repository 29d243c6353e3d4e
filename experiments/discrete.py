"""Search among discrete cells with a table of their accuracies, many times over, and report mean and deviation.

    python experiments/discrete.py --algorithm=rea --table=PATH --budget_seconds=12000 --runs=100

The run folder holds config.json, log.txt, history.jsonl (every trial: run, genotype, validation accuracy at 12 epochs, test
accuracy at 200, simulated seconds), summary.json (mean and deviation over the runs of the chosen cells) and curve.svg.
"""

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxdarts as jd
import methods
import runs
from jaxdarts import Trial, discrete
from jaxdarts.data import tabular
from runs import Stop


@dataclasses.dataclass(frozen=True)
class Config:
    """Flags."""

    algorithm: str = "rea"
    """random, rea (regularised evolution), area (rea from the best of a pool by a score), best_of (by a score), reinforce,
    na_rs (neighbourhoods; a reconstruction)."""
    space: str = "nasbench201"
    """Search space; the table decides that it is nasbench201."""
    dataset: str = "cifar10"
    """Whose accuracies: prefix of the columns of the table."""
    table: str = ""
    """CSV file, plain or gzip: arch_str, <dataset>_valid_12, <dataset>_valid_200, <dataset>_test_200, train_seconds_200."""
    budget_seconds: float | None = None
    """Simulated seconds of training, 12 epochs a trial; default 12000 unless --budget_evaluations is given."""
    budget_evaluations: int | None = None
    """Number of trials."""
    runs: int = 100
    """Independent searches."""
    seed: int = 0
    """Determines everything that is random."""
    population: int = 10
    """rea, area: cells that live at a time."""
    sample_size: int = 3
    """rea, area: cells among which a parent is found."""
    pool: int = 20
    """area: random cells that are scored."""
    candidates: int = 100
    """best_of: random cells that are scored."""
    score: str = "params_millions"
    """area, best_of: column of --scores; larger is better, nan is worst. Scoring takes no simulated time."""
    scores: str = ""
    """area, best_of: CSV file with arch_str and that column; default the table."""
    scored_only: bool = False
    """area, best_of: draw the random cells among those that have a score; where only some have one (score.py --count)."""
    learning_rate: float = 0.01
    """reinforce: of Adam; 0.01 in NATS-Bench, 0.5 in the documentation of NAS-Bench-201."""
    ema_decay: float = 0.9
    """reinforce: of the moving average of rewards."""
    neighbours: int = 4
    """na_rs: how many are evaluated with each cell."""
    radius: int = 1
    """na_rs: edges in which they differ."""
    aggregate: str = "mean"
    """na_rs: what of a neighbourhood counts: mean, median, minimum, or deviation (mean minus deviation)."""
    run_dir: str | None = None
    """Folder of the run; default runs/discrete-<dataset>-<time>."""
    resume: str | None = None
    """Run folder to continue; its configuration is taken over."""
    output: str | None = None
    """JSON file that gets the summary as one row more; rows of the same settings are replaced."""


class Method(NamedTuple):
    """One algorithm.

    make: (configuration, key, space, score) -> proposals.
    own: the flags that it reads.
    choose: (configuration, history) -> the trial of the cell that it ends with.
    """

    make: Callable[[Config, Any, jd.Space, Callable], discrete.Proposals]
    own: tuple[str, ...] = ()
    choose: Callable[[Config, list[Trial]], Trial] = lambda c, history: discrete.best(history)


EVOLUTION, SCORED = ("population", "sample_size"), ("score", "scores", "scored_only")
METHODS = {
    "random": Method(lambda c, key, space, score: discrete.random_search(key, space)),
    "rea": Method(
        lambda c, key, space, score: discrete.regularized_evolution(key, space, c.population, c.sample_size), EVOLUTION
    ),
    "area": Method(
        lambda c, key, space, score: discrete.assisted_evolution(key, space, score, c.pool, c.population, c.sample_size),
        (*EVOLUTION, "pool", *SCORED),
    ),
    "best_of": Method(lambda c, key, space, score: discrete.best_of(key, space, score, c.candidates), ("candidates", *SCORED)),
    "reinforce": Method(
        lambda c, key, space, score: discrete.reinforce(key, space, c.learning_rate, c.ema_decay),
        ("learning_rate", "ema_decay"),
    ),
    "na_rs": Method(
        lambda c, key, space, score: discrete.neighbourhood_search(key, space, c.neighbours, c.radius),
        ("neighbours", "radius", "aggregate"),
        lambda c, history: discrete.flattest(history, c.neighbours, methods.AGGREGATES[c.aggregate]),
    ),
}
SIZE = 5**6
# Accuracy in percent on CIFAR-10, mean and deviation over 500 runs of 12,000 s: validation and test after 200 epochs.
# Mellor et al., Neural Architecture Search without Training, ICML 2021.
PUBLISHED = {
    "random": {"valid_200": (90.93, 0.36), "test_200": (93.70, 0.36)},
    "rea": {"valid_200": (91.19, 0.31), "test_200": (93.92, 0.30)},
    "reinforce": {"valid_200": (91.09, 0.37), "test_200": (93.85, 0.37)},
}


def main(arguments: list[str]) -> None:
    config = check(runs.parse(arguments, {"cifar10": Config()}, Config(), __doc__))
    table = load(config.table, lambda path: tabular.read(path, config.dataset), "table")
    score, space = math.nan, jd.spaces.nasbench201()
    if "score" in METHODS[config.algorithm].own:
        name = "scores" if config.scores else "table"
        column = load(config.scores or config.table, lambda path: tabular.column(path, config.score), name)
        score = functools.partial(scored, column)
        if config.scored_only:
            space = drawn_among(space, column)
    folder, log = runs.open_folder(config, "discrete")
    try:
        histories = search(config, table, space, score, folder)
        summary = summarize(config, table, histories)
        text = json.dumps(summary, indent=1) + "\n"
        jd.metrics.replace_text(folder / "summary.json", text)
        jd.metrics.replace_text(folder / "curve.svg", curve(config, histories))
        if config.output:
            add_row(Path(config.output), summary)
    except OSError as error:
        raise Stop(f"cannot write: {error}; continue with --resume={folder}") from error
    except KeyboardInterrupt:
        raise Stop(f"interrupted; continue with --resume={folder}", 130) from None
    else:
        for name in ("valid_12", "valid_200", "test_200"):
            found = summary[name]
            deviation = "" if found["deviation"] is None else f" +- {found['deviation']:.2f}"
            log.info("%s: %.2f%s %% over %d runs", name, found["mean"], deviation, config.runs)
        log.info("%.1f trials and %.0f simulated seconds a run; all in %s", summary["trials"], summary["seconds"], folder)
    finally:
        jd.metrics.close_logger(log)


def check(config: Config) -> Config:
    """The configuration with its budget filled in.

    Raises:
        Stop: if a setting cannot be used.
    """
    if config.algorithm not in METHODS:
        raise Stop(f"--algorithm={config.algorithm}: there are {', '.join(METHODS)}", 2)
    if config.space != "nasbench201":
        raise Stop(f"--space={config.space}: tables are of nasbench201 only", 2)
    if not config.table:
        raise Stop("--table: say which file has the accuracies", 2)
    if config.aggregate not in methods.AGGREGATES:
        raise Stop(f"--aggregate={config.aggregate}: there are {', '.join(methods.AGGREGATES)}", 2)
    budgets = [name for name in ("budget_seconds", "budget_evaluations") if getattr(config, name) is not None]
    if not budgets:
        config, budgets = dataclasses.replace(config, budget_seconds=12000.0), ["budget_seconds"]
    counts = "runs population sample_size pool candidates neighbours radius"
    runs.check_numbers(config, " ".join([*budgets, counts, "learning_rate"]), "seed ema_decay")
    if math.isinf(config.budget_seconds or 0) or not math.isfinite(config.learning_rate):
        raise Stop("--budget_seconds and --learning_rate must be finite", 2)
    if not config.ema_decay < 1:
        raise Stop(f"--ema_decay={config.ema_decay}: must be below 1", 2)
    if config.seed >= 2**31:
        raise Stop(f"--seed={config.seed}: seeds must be below {2**31}", 2)
    own = METHODS[config.algorithm].own
    for name in ("candidates", "pool", "population"):
        if name in own and getattr(config, name) > SIZE:
            raise Stop(f"--{name}={getattr(config, name)}: the space has {SIZE} cells", 2)
    if "pool" in own and config.pool < config.population:
        raise Stop(f"--pool={config.pool}: fewer than --population={config.population}", 2)
    if "radius" in own:
        # As many choices of edges, times four other operations on each.
        around = math.comb(6, config.radius) * 4**config.radius
        if config.neighbours > around:
            raise Stop(f"--neighbours={config.neighbours}: a cell has {around} at --radius={config.radius}", 2)
    return config


def load(path: str, read: Callable[[str], Any], flag: str) -> Any:
    """What a reader makes of a file."""
    try:
        return read(path)
    except OSError as error:
        raise Stop(f"--{flag}={path}: {error.strerror or error}", 2) from error
    except ValueError as error:
        raise Stop(f"--{flag}: {error}", 2) from error


def scored(column: Mapping[Any, float], genotype: Any) -> float:
    """The score of a cell."""
    if genotype not in column:
        raise ValueError(
            f"the scores have {len(column)} cells, and {genotype} is none of them; --scored_only draws among those there are"
        )
    return column[genotype]


def drawn_among(space: jd.Space, column: Mapping[Any, float]) -> jd.Space:
    """The space, but random cells are those of the column."""
    cells = list(column)
    return space._replace(sample=lambda key: cells[jd.space.seeded(key).integers(len(cells))])


def search(config: Config, table: Mapping[Any, tabular.Row], space: jd.Space, score: Any, folder: Path) -> list[list[Trial]]:
    """The histories of all runs, those of earlier processes among them; writes history.jsonl run by run."""
    path = folder / "history.jsonl"
    histories = recorded(path, table)[: config.runs] if path.exists() else []
    jd.metrics.replace_text(path, "".join(itertools.starmap(lines, enumerate(histories))))
    key = jax.random.key(config.seed)
    seconds = math.inf if config.budget_seconds is None else config.budget_seconds
    evaluations = math.inf if config.budget_evaluations is None else config.budget_evaluations
    method, evaluate = METHODS[config.algorithm], functools.partial(tabular.evaluate, table)
    bar = jd.metrics.console(config.runs)
    try:
        with path.open("a", encoding="utf-8") as file:
            for run in range(len(histories), config.runs):
                try:
                    proposals = method.make(config, jax.random.fold_in(key, run), space, score)
                    history = discrete.search(proposals, evaluate, evaluations=evaluations, seconds=seconds)
                    found = method.choose(config, history)
                except ValueError as error:
                    raise Stop(f"run {run}: {error}") from error
                histories.append(history)
                file.write(lines(run, history))
                file.flush()
                bar.write(run + 1, {"valid_12": found.value, "test_200": found.final})
    finally:
        bar.close()
    return histories


def lines(run: int, history: list[Trial]) -> str:
    """A history as JSON lines."""
    trials = (trial._asdict() | {"genotype": str(trial.genotype)} for trial in history)
    return "".join(json.dumps({"step": n, "run": run, **trial}) + "\n" for n, trial in enumerate(trials))


def recorded(path: Path, table: Mapping[Any, tabular.Row]) -> list[list[Trial]]:
    """The histories that an earlier process wrote, but for the last one, which may lack its end."""
    histories: dict[int, list[Trial]] = {}
    try:
        for record in jd.metrics.read_json_lines(path):
            trial = tabular.evaluate(table, jd.genotypes.parse(record["genotype"]))
            if (trial.value, trial.final, trial.seconds) != (record["value"], record["final"], record["seconds"]):
                raise ValueError(f"{path}: {trial.genotype} is another one in the table")
            histories.setdefault(record["run"], []).append(trial)
        if list(histories) != list(range(len(histories))):
            raise ValueError(f"{path}: the runs are {list(histories)}, not one after the other")
    except (ValueError, KeyError, TypeError) as error:
        raise Stop(f"{error}; remove {path} to start again") from error
    return list(histories.values())[:-1]


def summarize(config: Config, table: Mapping[Any, tabular.Row], histories: list[list[Trial]]) -> dict[str, Any]:
    """What the chosen cells are worth, over the runs; percent."""
    method = METHODS[config.algorithm]
    chosen = [method.choose(config, history).genotype for history in histories]
    flags = ("algorithm", "space", "dataset", "budget_seconds", "budget_evaluations", "runs", "seed", *method.own)
    summary = {**runs.versions(), "config": {name: getattr(config, name) for name in flags}}
    for name in ("valid_12", "valid_200", "test_200"):
        values = np.array([getattr(table[genotype], name) for genotype in chosen])
        deviation = float(values.std(ddof=1)) if len(values) > 1 else None
        summary[name] = {"mean": float(values.mean()), "deviation": deviation}
    summary["trials"] = float(np.mean([len(history) for history in histories]))
    summary["seconds"] = float(np.mean([sum(trial.seconds for trial in history) for history in histories]))
    summary["distinct_cells"] = float(np.mean([len({trial.genotype for trial in history}) for history in histories]))
    summary["best_genotype"] = str(max(chosen, key=lambda genotype: table[genotype].valid_12))
    if config.algorithm in PUBLISHED and (config.dataset, config.budget_seconds) == ("cifar10", 12000):
        published = PUBLISHED[config.algorithm]
        summary["published"] = {name: {"mean": mean, "deviation": spread} for name, (mean, spread) in published.items()}
        summary["within_one_published_deviation"] = {
            name: abs(summary[name]["mean"] - mean) <= spread for name, (mean, spread) in published.items()
        }
    return summary


def add_row(path: Path, summary: dict[str, Any]) -> None:
    """Adds a summary to a file of many, in place of one with the same settings."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
        rows = [row for row in rows if row["config"] != summary["config"]]
    except (ValueError, KeyError, TypeError) as error:
        raise Stop(f"--output={path}: holds something else: {error!r}") from error
    jd.metrics.replace_text(path, json.dumps({"rows": [*rows, summary]}, indent=1) + "\n")


def curve(config: Config, histories: list[list[Trial]]) -> str:
    """Test accuracy of the best trial so far over what has been spent, mean and deviation over the runs, as SVG."""
    timed = config.budget_seconds is not None
    end = config.budget_seconds if timed else max(map(len, histories))
    grid = np.linspace(0, end, 201) if timed else np.arange(1, end + 1)
    found = np.full((len(histories), len(grid)), np.nan)
    for row, history in zip(found, histories, strict=True):
        finals = np.array([trial.final for trial in discrete.best_so_far(history)])
        spent = np.cumsum([trial.seconds if timed else 1 for trial in history])
        last = np.searchsorted(spent, grid, side="right") - 1
        row[last >= 0] = finals[last[last >= 0]]
    mean, deviation = found.mean(0), found.std(0)
    series = {"mean": mean, "mean + deviation": mean + deviation, "mean - deviation": mean - deviation}
    return jd.draw.curves(
        {name: list(zip(grid.tolist(), values.tolist(), strict=True)) for name, values in series.items()},
        title=f"{config.algorithm}: best trial so far, {config.runs} runs",
        xlabel="simulated seconds" if timed else "trials",
        ylabel="test accuracy after 200 epochs (%)",
    )


if __name__ == "__main__":
    runs.start(main)
