"""What a cell is worth, for searches among discrete cells: by a table, a trained supernet, a score,
a short training, or a program of the user's own.

Each row of EVALUATIONS makes a function (genotype, epochs or None) -> Trial of the flags. `trial`
is that function for workers in other processes and on other machines: it prepares itself there,
once, from the flags.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np

from jaxdarts import Trial, parallel, runs, spaces
from jaxdarts.commands import checks, command_line, datasets, flags, methods, programs
from jaxdarts.commands.discrete import external, scoring
from jaxdarts.commands.evaluate import images as training
from jaxdarts.commands.evaluate import recipes
from jaxdarts.commands.search import images as image_search
from jaxdarts.commands.search import results as search_results
from jaxdarts.data import feed, images, stream
from jaxdarts.data.benchmarks import tabular
from jaxdarts.runs import Stop, flag
from jaxdarts.runs.flags import CHANNELS, DEPTH, EPOCHS, NOT_NEGATIVE, POSITIVE
from jaxdarts.space import Space, one_hot

SPACES: Mapping[str, Space] = {
    name: space for name, build in spaces.BY_NAME.items() if (space := build()).cost
}
"""Spaces of images whose cells `evaluate` trains, by name."""


@dataclasses.dataclass(frozen=True)
class Options(flags.Halves, flags.Seed, flags.Cache):
    """How a cell is evaluated."""

    TOPIC: ClassVar[str] = "evaluation"

    space: Literal[tuple(SPACES)] = flag(  # type: ignore[valid-type]
        "nasbench201", "Search space; the spaces of benchmarks have tables."
    )
    evaluate: Literal["table", "supernet", "proxy", "training", "command"] = flag(
        "table",
        "How a cell is evaluated: table (accuracies in a file), supernet (validation accuracy with"
        " shared weights), proxy (a score of the untrained network), training (validation accuracy"
        " after a short training), command (a number that a program of your own prints).",
    )
    dataset: str = flag(
        "cifar10",
        "Data set: the prefix of the columns of --table, or else the images, as for jaxdarts"
        " search.",
    )
    data_dir: str | None = flag(
        None,
        "Folder in which TFDS keeps its data sets; default $TFDS_DATA_DIR or"
        " ~/tensorflow_datasets.",
        free=True,
    )
    table: str = flag(
        "",
        "Table of accuracies, needed with --evaluate=table: a CSV file, plain or gzip, with the"
        " columns arch_str, <dataset>_valid_12, <dataset>_valid_200, <dataset>_test_200,"
        " train_seconds_200 (nats_size: 90 for 200); or NAS-Bench-101's record file.",
        free=True,
    )
    run: str = flag(
        "",
        "Run folder of a search, whose supernet evaluates cells; needed with --evaluate=supernet.",
    )
    score: str = flag(
        "",
        "Score (--evaluate=proxy): naswot (default), grad_norm, snip, grasp, plain, l2_norm,"
        " epe_nas, gradsign, linear_regions, swap, synflow, jacob_cov, ntk_condition; or a sum of"
        " ranks, such as naswot+synflow. For area and best_of: column of --scores, default"
        " params_millions, or without a file one of these scores. Larger is better, nan is worst.",
    )
    reference: int = flag(
        100,
        "Number of random cells among which the parts of a sum of ranks are ranked (--score).",
        POSITIVE._replace(most=100_000),
    )
    epochs: int = flag(
        12,
        "Epochs of a short training (--evaluate=training), unless the algorithm chooses; the"
        " learning rate falls over them as over a whole training.",
        EPOCHS,
    )
    init_channels: int | None = flag(
        None,
        "Channels of the first cells (--evaluate=training or proxy); default those of the preset of"
        " jaxdarts evaluate, 16 for a score.",
        CHANNELS,
    )
    layers: int | None = flag(
        None,
        "Number of cells (--evaluate=training or proxy), of each stage in nasbench201; default as"
        " for --init_channels.",
        DEPTH,
    )
    batch_size: int | None = flag(
        None,
        "Images in a batch; default the preset's for a training, 128 images for a score.",
        POSITIVE,
    )
    batches: int = flag(
        0, "Number of validation batches (--evaluate=supernet); 0 for all.", NOT_NEGATIVE
    )
    evaluate_command: str = flag(
        "",
        "Program that gives a cell its value (--evaluate=command), such as 'python my.py': it reads"
        " a line of JSON with the fields arch (the cell as text), genotype (as JSON) and epochs"
        " from standard input, and prints a number, larger is better, as its last line. It is"
        " started once for each cell, without a shell.",
        free=True,
    )
    evaluate_stays: bool = flag(
        False,
        "Start --evaluate_command once and let it answer many cells, each line of JSON by one line"
        " with a number, for a program that takes long to start.",
        free=True,
    )
    evaluate_timeout: float = flag(
        3600.0,
        "Seconds that --evaluate_command may take for a cell.",
        POSITIVE._replace(most=1e7),
        free=True,
    )
    seed: int = 0


class Evaluation(NamedTuple):
    """One way to value cells.

    prepare: flags -> (genotype, epochs or None) -> Trial; what takes time is done before the first
    cell. flags: the flags that it reads, for a result's record. axis: what a curve shows, and
    shown: which field of the trials that is. lengths: whether the epochs mean anything. facts: what
    is reported of a chosen trial, by name.
    """

    prepare: Callable[[Options], Callable[[Any, int | None], Trial]]
    flags: tuple[str, ...]
    axis: str
    shown: str = "value"
    lengths: bool = False
    facts: Callable[[Options, Trial], dict[str, float]] = lambda options, trial: {
        "value": trial.value
    }


@functools.cache
def table(options: Options) -> Mapping[Any, Any]:
    """The table of accuracies."""
    of_space = SPACES[options.space].table
    assert of_space is not None  # `check` refuses a space without one
    return opened("table", options.table, lambda path: of_space.read(path, options.dataset))


def opened(flag: str, path: str, read: Callable[[str], Any]) -> Any:
    """What a reader makes of a file."""
    try:
        return read(path)
    except OSError as error:
        raise Stop(f"--{flag}={path}: {error.strerror or error}", 2) from error
    except ValueError as error:
        raise Stop(f"--{flag}: {error}", 2) from error


def by_table(options: Options):
    """Accuracies that somebody else has trained for, with their seconds."""
    rows = table(options)
    return lambda genotype, epochs: tabular.evaluate(rows, genotype, epochs)


def searched(options: Options) -> image_search.Config:
    """The configuration of the search that trained the supernet."""
    run = command_line.saved(options.run, "--run")
    config = command_line.resumed(image_search.Config, run, "--run")
    config = dataclasses.replace(
        config,
        resume=options.run,
        run_dir=options.run,
        data_dir=options.data_dir or config.data_dir,
    )
    for name in ("space", "dataset"):
        value = getattr(config, name)
        if value != getattr(options, name):
            raise Stop(
                f"--{name}={getattr(options, name)}: the supernet of {options.run} has"
                f" --{name}={value}",
                2,
            )
    return config


def by_supernet(options: Options):
    """Validation accuracy with shared weights, mean over the seeds; one program for all cells, the
    mix an argument.
    """
    config = searched(options)
    dataset = datasets.load(config)
    program = image_search.build(config, dataset)
    like = runs.checkpoint_form(program.init)
    state = programs.trained_state(Path(options.run), like, config, f"--run={options.run}: ")
    params = parallel.replicate(state.params, program.devices)
    data = parallel.replicate(program.data, program.devices)

    def accuracy(mix) -> float:
        mixes = {name: np.tile(weights, (config.num_seeds, 1, 1)) for name, weights in mix.items()}
        accuracies = search_results.validate(program, params, mixes, data, config, options.batches)[
            "accuracy"
        ]
        return 100 * float(np.mean(accuracies))

    cells = program.space.cells
    accuracy(
        {name: np.zeros(choices.shape, np.float32) for name, choices in cells.items()}
    )  # compiles
    return timed(lambda genotype: accuracy(one_hot(cells, genotype)))


def by_proxy(options: Options):
    """Score of untrained networks: every cell takes its weights from one supernet."""
    return timed(scoring.score_of(options, SPACES[options.space]))


def timed(value: Callable[[Any], float]):
    """Trials of a value, with the seconds that they take here."""

    def evaluate(genotype: Any, epochs: int | None) -> Trial:
        start = time.monotonic()
        return Trial(genotype, value(genotype), math.nan, time.monotonic() - start, epochs)

    return evaluate


def recipe(options: Options) -> recipes.Config:
    """What `jaxdarts evaluate` would train cells of this space with, but for what the flags say."""
    kind = type(SPACES[options.space].sample(jax.random.key(0)))
    presets, fallback = recipes.presets_of(kind)
    start = presets.get(options.dataset, fallback)
    names = ("dataset", "data_dir", "epochs", "seed", "cache_dir", *SIZES)
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return recipes.check(dataclasses.replace(start, stream=False, **given))


def by_training(options: Options):
    """Validation accuracy after a training from scratch on a part of the training images, and all
    the seconds that it takes.
    """
    config, dataset = recipe(options), datasets.load(options)
    try:
        fit, held = images.split(dataset.train, options.train_portion)
    except ValueError as error:
        raise Stop(f"--train_portion={options.train_portion}: {error}", 2) from error
    part = dataset._replace(train=fit, test=held)  # `training` sees no test image

    def evaluate(genotype: Any, epochs: int | None) -> Trial:
        start = time.monotonic()
        run_config = dataclasses.replace(config, arch=str(genotype), epochs=epochs or config.epochs)
        program = training.build(run_config, genotype, part)
        with stream.threads() as pool:
            fed = feed.open_feed(pool, part, [run_config.seed], program.devices)
            task = training.task_of(run_config, program, fed, part.train.num)
            # Weights that are not finite are a bad trial, not the end of the study.
            task = task._replace(
                averages=lambda sums, count, step: {},
                shown=runs.task.nothing_shown,
                checked=lambda state: {},
            )
            state = runs.train_unattended(task).state
            tested = training.test(run_config, program, state, fed, part.test.num)
        value = 100 * float(tested["accuracy"][0]) if math.isfinite(tested["loss"][0]) else math.nan
        # the next cell is another program; hundreds of them would fill the memory
        jax.clear_caches()
        return Trial(genotype, value, math.nan, time.monotonic() - start, epochs)

    return evaluate


def tabled(options: Options, trial: Trial) -> dict[str, float]:
    """What the table says of a cell, but for the seconds."""
    return {
        name: value
        for name, value in table(options)[trial.genotype]._asdict().items()
        if name != "seconds"
    }


def by_command(options: Options):
    """The number that a program of the user's own prints for a cell, and the seconds it takes."""
    try:
        value = external.value_of(
            options.evaluate_command, options.evaluate_timeout, options.evaluate_stays
        )
    except ValueError as error:
        raise Stop(str(error), 2) from error

    def evaluate(genotype: Any, epochs: int | None) -> Trial:
        start = time.monotonic()
        number = value(genotype, epochs)
        number = number if math.isfinite(number) else math.nan
        return Trial(genotype, number, math.nan, time.monotonic() - start, epochs)

    return evaluate


SIZES = ("init_channels", "layers", "batch_size")
EVALUATIONS = {
    "table": Evaluation(
        by_table, (), "test accuracy after the whole training (%)", "final", True, tabled
    ),
    "supernet": Evaluation(
        by_supernet, ("run", "batches"), "validation accuracy with shared weights (%)"
    ),
    "proxy": Evaluation(by_proxy, ("score", "reference", *SIZES), "score"),
    "training": Evaluation(
        by_training, ("epochs", "train_portion", *SIZES), "validation accuracy (%)", lengths=True
    ),
    "command": Evaluation(
        by_command, ("evaluate_command",), "value of --evaluate_command", lengths=True
    ),
}


def check(options: Options) -> None:
    """Refuses flags that cannot work, before anything is loaded."""
    checks.check_flags(options)
    if options.evaluate == "table" and not SPACES[options.space].table:
        raise Stop(
            f"--space={options.space}: tables are of"
            f" {', '.join(n for n, s in SPACES.items() if s.table)} only",
            2,
        )
    if options.evaluate == "table" and not options.table:
        raise Stop("--table: say which file has the accuracies", 2)
    if options.evaluate == "supernet" and not options.run:
        raise Stop("--run: say which folder of jaxdarts search has the supernet", 2)
    if options.evaluate == "supernet":
        searched(options)
    if options.evaluate == "proxy":
        scoring.check(options)
    if options.evaluate == "training":
        recipe(options)
    if options.evaluate == "command":
        try:
            external.words_of(options.evaluate_command)
        except ValueError as error:
            raise Stop(str(error), 2) from error
    elif options.evaluate_command:
        raise Stop(
            f"--evaluate_command={options.evaluate_command}: only with --evaluate=command", 2
        )


def space_of(options: Options) -> Space:
    """The space that is searched; a supernet's may be smaller than the named one."""
    return (
        methods.space_of(searched(options))
        if options.evaluate == "supernet"
        else SPACES[options.space]
    )


@functools.cache
def prepared(options: Options) -> Callable[[Any, int | None], Trial]:
    """The evaluation, ready: once in each process."""
    runs.use_cache(options)
    return EVALUATIONS[options.evaluate].prepare(options)


def trial(options: Options, genotype: Any, epochs: int | None = None) -> Trial:
    """The evaluation of one cell, wherever this is called.

    Raises:
        ValueError: if it cannot be; not a `Stop`, which only this project's processes know.
    """
    try:
        return prepared(options)(genotype, epochs)
    except Stop as stop:
        raise ValueError(str(stop)) from stop
