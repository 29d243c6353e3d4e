"""Search among discrete cells, many times over, and report mean and deviation.

    jaxdarts discrete --algorithm=rea --table=PATH --budget_seconds=12000 --runs=100
    jaxdarts discrete --evaluate=supernet --space=darts --run=RUN --budget_evaluations=200
    jaxdarts discrete --evaluate=training --dataset=cifar10 --budget_evaluations=50 --workers=4
    jaxdarts discrete --evaluate=command --evaluate_command="python my.py" --budget_evaluations=200

An algorithm proposes cells, and a table, a trained supernet, a score, a short training or a program
of your own evaluates them, until the budget is spent.

A run folder holds config.json, log.txt, history.jsonl (every trial: run, genotype, value, seconds),
summary.json (mean and deviation over the runs of the chosen cells), genotype.json (the best of
them, for jaxdarts evaluate --arch=RUN), its drawing, curve.svg and the best cells of all runs, for
jaxdarts evaluate --select RUN/best/*.json. Killed at any moment, the study
continues with --resume=RUN and loses no trial that finished.
"""

import collections
import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import jax

from jaxdarts import Trial, discrete, files, genotypes, report, runs
from jaxdarts.commands import checks, command_line
from jaxdarts.commands import flags as shared_flags
from jaxdarts.commands.discrete import columns, evaluators, scoring
from jaxdarts.commands.discrete import results as study_results
from jaxdarts.commands.published import AGGREGATES
from jaxdarts.discrete import studies
from jaxdarts.runs import Stop, flag, workers
from jaxdarts.runs.flags import BELOW_ONE, EPOCHS, NOT_NEGATIVE, POSITIVE, WITHIN_ONE
from jaxdarts.space import Space


@dataclasses.dataclass(frozen=True)
class Search:
    """Which algorithm proposes cells, and its settings."""

    TOPIC: ClassVar[str] = "method"

    algorithm: Literal[
        "random", "rea", "area", "best_of", "halving", "bohb", "reinforce", "na_rs"
    ] = flag(
        "rea",
        "Search algorithm: random; rea (regularised evolution); area (rea from the best of a pool"
        " by a score); best_of (the best of random cells by a score); halving (successive"
        " halving); bohb (Hyperband with a model of the good cells); reinforce; na_rs"
        " (neighbourhoods, a reconstruction).",
    )
    population: int = flag(10, "Population size (rea, area).", POSITIVE)
    sample_size: int = flag(
        3, "Number of cells among which a parent is chosen (rea, area).", POSITIVE
    )
    pool: int = flag(
        20, "Number of random cells that are scored before the evolution (area).", POSITIVE
    )
    candidates: int = flag(100, "Number of random cells that are scored (best_of).", POSITIVE)
    scores: str = flag(
        "",
        "CSV file with arch_str and the column --score (area, best_of); default --table, and"
        " without either the score is computed. Scores cost no simulated time.",
    )
    scored_only: bool = flag(
        False,
        "Draw random cells only among those that have a score (area, best_of), for a file that"
        " scores some cells.",
    )
    starters: int = flag(32, "Number of random cells at the shortest length (halving).", POSITIVE)
    lengths: tuple[int, ...] = flag(
        (12, 200),
        "Epochs of training in each round, increasing (halving, bohb): the best cells of a round"
        " are trained again, longer, in the next one; of n cells, n times the shorter length"
        " divided by the longer one.",
        EPOCHS,
    )
    draws: int = flag(64, "Number of cells among which the model chooses (bohb).", POSITIVE)
    random_fraction: float = flag(
        1 / 3,
        "Fraction of cells that are drawn at random instead of by the model (bohb).",
        WITHIN_ONE,
    )
    learning_rate: float = flag(
        0.01,
        "Learning rate of Adam (reinforce): 0.01 in NATS-Bench, 0.5 in the documentation of"
        " NAS-Bench-201.",
        POSITIVE,
    )
    ema_decay: float = flag(0.9, "Decay of the moving average of rewards (reinforce).", BELOW_ONE)
    neighbours: int = flag(
        4, "Number of neighbouring cells that are evaluated with each cell (na_rs).", POSITIVE
    )
    radius: int = flag(1, "Number of edges in which a neighbouring cell differs (na_rs).", POSITIVE)
    aggregate: Literal[tuple(AGGREGATES)] = flag(  # type: ignore[valid-type]
        "mean",
        "Statistic of a neighbourhood that is maximised (na_rs): mean, median, minimum, or"
        " deviation (mean minus one deviation).",
    )


@dataclasses.dataclass(frozen=True)
class Study:
    """How much is searched, and by which processes."""

    TOPIC: ClassVar[str] = "run"

    budget_seconds: float | None = flag(
        None,
        "Budget of a search in seconds of training, simulated by a table or measured; default 12000"
        " with a table unless --budget_evaluations is given.",
        POSITIVE,
    )
    budget_evaluations: int | None = flag(
        None, "Budget of a search in trials; default no limit.", POSITIVE
    )
    table_limits: tuple[str, ...] = flag(
        (),
        "Largest values of columns of --table, such as edgegpu_latency=5 (jaxdarts convert): no"
        " other cells are proposed (random, rea, area, best_of, halving); default none.",
    )
    runs: int | None = flag(
        None, "Number of independent searches; default 100 with a table, else 1.", POSITIVE
    )
    concurrent: int = flag(
        1,
        "Number of trials of one search that run at a time. With 1 the result is the same wherever"
        " trials run; with more, the algorithm proposes cells before earlier trials have finished,"
        " and their order matters.",
        POSITIVE,
    )
    workers: int = flag(
        0, "Number of local processes for trials; 0 for this process.", NOT_NEGATIVE, free=True
    )
    scheduler: str = flag(
        "",
        "Address of a running Dask scheduler (tcp://HOST:8786), whose workers evaluate the trials;"
        " default none.",
        free=True,
    )
    top: int = flag(
        10,
        "Number of the best different cells that are written into the folder best, for jaxdarts"
        " evaluate --select.",
        POSITIVE,
        free=True,
    )
    retries: int = flag(
        2,
        "How often a trial is started again when its worker dies.",
        NOT_NEGATIVE,
        free=True,
    )


@dataclasses.dataclass(frozen=True)
class Config(Search, evaluators.Options, Study, shared_flags.Rows, shared_flags.Folder):
    """Flags."""

    COMMAND: ClassVar[str] = "discrete"


class Method(NamedTuple):
    """One algorithm.

    make: (configuration, key, space, score) -> proposals.
    flags: the flags that it reads.
    choose: (configuration, history) -> the trial of the cell that it ends with.
    lengths: whether it says how long to train.
    """

    make: Callable[[Config, Any, Space, Callable], discrete.Proposals]
    flags: tuple[str, ...] = ()
    choose: Callable[[Config, discrete.History], Trial] = lambda c, history: discrete.best(
        history.values()
    )
    lengths: bool = False


def in_order(history: discrete.History) -> list[Trial]:
    """The trials in the order of their proposals, up to the first one that is not there."""
    return [
        history[number] for number in itertools.takewhile(history.__contains__, itertools.count())
    ]


EVOLUTION = ("population", "sample_size")
SCORED = ("score", "scores", "scored_only", "reference")
METHODS = {
    "random": Method(lambda c, key, space, score: discrete.random_search(key, space)),
    "rea": Method(
        lambda c, key, space, score: discrete.regularized_evolution(
            key, space, c.population, c.sample_size
        ),
        EVOLUTION,
    ),
    "area": Method(
        lambda c, key, space, score: discrete.assisted_evolution(
            key, space, score, c.pool, c.population, c.sample_size
        ),
        (*EVOLUTION, "pool", *SCORED),
    ),
    "best_of": Method(
        lambda c, key, space, score: discrete.best_of(key, space, score, c.candidates),
        ("candidates", *SCORED),
    ),
    "halving": Method(
        lambda c, key, space, score: discrete.successive_halving(key, space, c.starters, c.lengths),
        ("starters", "lengths"),
        lengths=True,
    ),
    "bohb": Method(
        lambda c, key, space, score: discrete.hyperband.bohb(
            key, space, c.lengths, candidates=c.draws, random_fraction=c.random_fraction
        ),
        ("lengths", "draws", "random_fraction"),
        lengths=True,
    ),
    "reinforce": Method(
        lambda c, key, space, score: discrete.reinforce(key, space, c.learning_rate, c.ema_decay),
        ("learning_rate", "ema_decay"),
    ),
    "na_rs": Method(
        lambda c, key, space, score: discrete.neighbourhood_search(
            key, space, c.neighbours, c.radius
        ),
        ("neighbours", "radius", "aggregate"),
        lambda c, history: discrete.flattest(
            in_order(history), c.neighbours, AGGREGATES[c.aggregate]
        ),
    ),
}


def main(arguments: Sequence[str] | command_line.Line) -> None:
    config = check(command_line.parse(arguments, {"cifar10": Config()}, Config(), __doc__))
    runs.use_cache(config)
    options = evaluators.Options(
        **{
            field.name: getattr(config, field.name)
            for field in dataclasses.fields(evaluators.Options)
        }
    )
    reads_file = "score" in METHODS[config.algorithm].flags and not scores_here(config)
    column = columns.scores_of(config) if reads_file else {}
    allowed = columns.within_limits(config)
    if config.evaluate == "table" or not (config.workers or config.scheduler):
        evaluators.prepared(
            options
        )  # here, or for the summary: what is wrong with it is told before anything is written
    job_workers = workers.find(config.workers, config.scheduler)
    with runs.open_study(config, "discrete") as (folder, log):
        try:
            histories = search(config, options, column, allowed, job_workers, folder)
        except studies.Failure as failure:
            again = runs.again(folder)
            raise Stop(f"{failure}; what was finished is saved: {again}") from failure
        chosen = [choose(config, run, history) for run, history in enumerate(histories)]
        summary = study_results.summarize(config, options, flags(config), histories, chosen)
        files.replace_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        files.replace_text(folder / "curve.svg", study_results.curve(config, histories))
        winner = discrete.best(chosen).genotype
        files.replace_text(folder / "genotype.json", genotypes.to_json(winner))
        study_results.write_best(folder / "best", histories, config.top)
        for name, svg in report.cells.cell(winner).items():
            files.replace_text(folder / f"{name}.svg", svg)
        if config.output:
            study_results.add_row(Path(config.output), summary)
        for name in study_results.facts(options, chosen):
            value = summary[name]
            deviation = "" if value["deviation"] is None else f" +- {value['deviation']:.2f}"
            log.info("%s: %.2f%s over %d runs", name, value["mean"], deviation, config.runs)
        bad = [sum(math.isnan(trial.value) for trial in one.values()) for one in histories]
        if any(bad):
            log.info("%d trials have a value that is not finite; they rank last", sum(bad))
        log.info(
            "%.1f trials and %.0f seconds a run; all in %s",
            summary["trials"],
            summary["seconds"],
            folder,
        )


def check(config: Config) -> Config:
    """The configuration with its budget and its runs filled in.

    Raises:
        Stop: if a setting cannot be used.
    """
    checks.check_flags(config)
    config = dataclasses.replace(
        config,
        score=config.score
        or ("naswot" if config.evaluate == "proxy" or scores_here(config) else "params_millions"),
    )
    evaluators.check(config)
    if scores_here(config):
        scoring.check(config)
    if config.scored_only and scores_here(config):
        raise Stop("--scored_only: needs a file of scores, --scores", 2)
    budgets = [
        name
        for name in ("budget_seconds", "budget_evaluations")
        if getattr(config, name) is not None
    ]
    simulated = config.evaluate == "table"
    if not budgets:
        if not simulated:
            raise Stop(
                "--budget_evaluations or --budget_seconds: say how much a search may take", 2
            )
        config, budgets = dataclasses.replace(config, budget_seconds=12000.0), ["budget_seconds"]
    number = (100 if simulated else 1) if config.runs is None else config.runs
    config = dataclasses.replace(config, runs=number)
    method, evaluation = METHODS[config.algorithm], evaluators.EVALUATIONS[config.evaluate]
    size = evaluators.SPACES[config.space].num_genotypes
    for name in ("candidates", "pool", "population", "starters"):
        if name in method.flags and getattr(config, name) > size:
            raise Stop(f"--{name}={getattr(config, name)}: the space has {size} cells", 2)
    if "pool" in method.flags and config.pool < config.population:
        raise Stop(f"--pool={config.pool}: fewer than --population={config.population}", 2)
    if "sample_size" in method.flags and config.sample_size > config.population:
        raise Stop(
            f"--sample_size={config.sample_size}: more than --population={config.population}", 2
        )
    if method.lengths and not evaluation.lengths:
        raise Stop(
            f"--algorithm={config.algorithm}: trains for some epochs, which"
            f" --evaluate={config.evaluate} does not",
            2,
        )
    try:
        discrete.check_lengths(config.lengths)
    except ValueError as error:
        raise Stop(f"--lengths: {error}", 2) from error
    if config.workers and config.scheduler:
        raise Stop("--workers and --scheduler: local processes, or a cluster, not both", 2)
    if config.workers > number * config.concurrent:
        most = f"--runs={config.runs} times --concurrent={config.concurrent} trials at a time"
        raise Stop(f"--workers={config.workers}: there are {most}; raise --concurrent", 2)
    return config


def flags(config: Config) -> tuple[str, ...]:
    """The flags that have an influence on the result."""
    always = (
        "algorithm",
        "space",
        "evaluate",
        "dataset",
        "budget_seconds",
        "budget_evaluations",
        "runs",
        "seed",
        "concurrent",
        *(("table_limits",) if config.table_limits else ()),
    )
    return (
        *always,
        *dict.fromkeys(
            (*METHODS[config.algorithm].flags, *evaluators.EVALUATIONS[config.evaluate].flags)
        ),
    )


def scores_here(config: Config) -> bool:
    """Whether the algorithm looks at scores that are computed here, and not in a file."""
    reads = "score" in METHODS[config.algorithm].flags
    return reads and config.evaluate != "table" and not (config.scores or config.table)


def search(
    config: Config,
    options: evaluators.Options,
    column: Mapping[Any, float],
    allowed: frozenset[Any] | None,
    job_workers: workers.Workers,
    folder: Path,
) -> list[discrete.History]:
    """The histories of all runs; trials that earlier processes wrote into history.jsonl are not
    evaluated again.
    """
    path = folder / "history.jsonl"
    records = study_results.recorded(path, options)
    assert config.runs is not None  # `check` has set it
    seconds = math.inf if config.budget_seconds is None else config.budget_seconds
    trials = math.inf if config.budget_evaluations is None else config.budget_evaluations
    make, space, key = (
        METHODS[config.algorithm].make,
        evaluators.space_of(options),
        jax.random.key(config.seed),
    )
    if column and config.scored_only:
        space = columns.drawn_among(space, list(column))
        allowed = allowed and allowed & column.keys()
    if allowed is not None:
        space = columns.limited(space, allowed)
    score: Callable[[Any], float] = functools.partial(columns.scored, column)
    if scores_here(config):
        score = scoring.score_of(options, space)
    schedules = (
        discrete.schedule(
            make(config, jax.random.fold_in(key, run), space, score),
            evaluations=trials,
            seconds=seconds,
            concurrent=config.concurrent,
        )
        for run in range(config.runs)
    )
    spent: dict[int, float] = collections.defaultdict(float)
    spent |= {
        run: sum(trial.seconds for _, trial in run_trials) for run, run_trials in records.items()
    }
    done = sum(map(len, records.values()))
    bar = runs.writers.console(config.runs * (config.budget_evaluations or 1))
    with path.open("a", encoding="utf-8") as file:

        def finished(run: int, number: int, trial: Trial) -> None:
            nonlocal done
            spent[run] += trial.seconds
            file.write(study_results.line(run, number, trial, spent[run] <= seconds))
            file.flush()
            done += 1
            bar.write(
                done if config.budget_evaluations else run,
                {"run": run, "value": trial.value, "seconds": spent[run]},
            )

        try:
            return studies.conduct(
                schedules,
                functools.partial(evaluators.trial, options),
                job_workers.open,
                slots=job_workers.slots,
                recorded=records,
                finished=finished,
                retries=config.retries,
            )
        except ValueError as error:
            raise Stop(f"{error}; {path} has what was evaluated so far") from error
        finally:
            bar.close()


def choose(config: Config, run: int, history: discrete.History) -> Trial:
    """The trial of the cell that a run ends with."""
    try:
        return METHODS[config.algorithm].choose(config, history)
    except ValueError as error:
        raise Stop(f"run {run}: {error}") from error
