"""Search a convolutional cell on images: jaxdarts search --dataset=cifar10

Trains the weights of a supernet and alpha, the parameters of its architecture, in turn; the cell is
what alpha prefers in the end. --algorithm names the method, DARTS with the exact second-order
gradient by default, and --space the search space. Without arguments it searches on scikit-learn's
digits, in minutes on a CPU.

A run folder holds config.json, log.txt, metrics.jsonl, tensorboard/, alphas.npz, genotype.json, the
drawn cells, report.html and checkpoints/. An interrupted search continues with --resume=RUN, to the
very result of one that nothing interrupted; jaxdarts evaluate --arch=RUN trains the cell.
"""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from jaxdarts import parallel, runs, spaces
from jaxdarts.bilevel import SearchState
from jaxdarts.commands import (
    checks,
    command_line,
    datasets,
    flags,
    methods,
    programs,
    reproduce,
    stages,
)
from jaxdarts.commands.search import carry
from jaxdarts.commands.search import flags as search_flags
from jaxdarts.commands.search import history as search_history
from jaxdarts.commands.search import results as search_results
from jaxdarts.commands.search.history import History
from jaxdarts.commands.search.image_program import Program, build, learning_rate
from jaxdarts.commands.search.image_program import supernet as supernet
from jaxdarts.commands.search.program import LOWER, about, checked, records_of
from jaxdarts.data import images
from jaxdarts.runs import Run, Stop, flag, hosts
from jaxdarts.runs.flags import POSITIVE
from jaxdarts.types import Metrics


@dataclasses.dataclass(frozen=True)
class Config(
    search_flags.Options,
    search_flags.Architecture,
    flags.ImageData,
    flags.Resized,
    flags.Halves,
    flags.Augmentation,
    flags.Balance,
    flags.Cutout,
    flags.Size,
    flags.ImageWeights,
    flags.CosineFloor,
    flags.Clipping,
    flags.Training,
    hosts.Flags,
):
    """Search a convolutional cell by gradient descent. Defaults are those of the data set's
    preset.
    """

    COMMAND: ClassVar[str] = "search"
    TOPIC: ClassVar[str] = "space"
    KIND: ClassVar[str] = "images"

    nodes: int = flag(4, "Number of intermediate nodes of a cell (--space=darts).", POSITIVE)
    ops: tuple[str, ...] = flag(
        spaces.PRIMITIVES,
        "Candidate operations of every edge (--space=darts), separated by blanks; their order is"
        " that of alpha's columns.",
    )

    def start(self) -> reproduce.Start:
        """What the flags were laid over."""
        return reproduce.start(self, PRESETS, CIFAR, STARTS)


CIFAR = Config(dataset="cifar10")
PRESETS = {
    "digits": Config(
        epochs=10,
        batch_size=32,
        init_channels=4,
        layers=3,
        nodes=2,
        learning_rate=0.1,
        arch_learning_rate=0.3,
        crop_padding=1,
        flip=False,
        cutout_length=4,
        report_freq=10,
    ),
    "cifar10": CIFAR,
    "cifar100": dataclasses.replace(CIFAR, dataset="cifar100"),
    "svhn_cropped": dataclasses.replace(CIFAR, dataset="svhn_cropped"),
    "mnist": dataclasses.replace(CIFAR, dataset="mnist", flip=False),
    "fashion_mnist": dataclasses.replace(CIFAR, dataset="fashion_mnist"),
}
"""What each data set starts from; any other one starts from CIFAR-10's, the paper's, setting."""


def _of_space(preset: Config, value: Sequence[str]) -> Config:
    settings = methods.space_settings(" ".join(value), preset.dataset == "digits")
    return dataclasses.replace(preset, **settings)


def _of_algorithm(preset: Config, value: Sequence[str]) -> Config:
    small, name = preset.dataset == "digits", " ".join(value)
    return dataclasses.replace(preset, **methods.settings(name, small, preset.space))


def _in_all_stages(name: str) -> Callable[[Config, Sequence[str]], Config]:
    """A setting that the command line names holds in every stage, whatever the method says."""

    def start(preset: Config, value: Sequence[str]) -> Config:
        changes: dict[str, Any] = {f"stage_{name}": ()} if value else {}
        return dataclasses.replace(preset, **changes)

    return start


STARTS = {
    "space": _of_space,
    "algorithm": _of_algorithm,
    **{name: _in_all_stages(name) for name in stages.SETTINGS},
}
"""The flags that change what the others start from."""

Searched = runs.Training[SearchState]


def check(config: Config) -> Config:
    """Refuses settings that cannot work, before anything is loaded."""
    if config.coordinator and (config.fork or config.adapt_weight_decay):
        raise Stop("--fork, --adapt_weight_decay: not on several hosts; leave --coordinator out", 2)
    search_flags.check(config)
    checks.check_seeds_and_devices(config)
    return config


def check_fork(config: Config, steps_per_epoch: int) -> None:
    """Refuses an epoch of --fork whose checkpoint was not kept."""
    folder, step = Path(f"{config.fork}/checkpoints"), (config.fork_epoch + 1) * steps_per_epoch
    kept = sorted(int(one.name) for one in folder.iterdir() if one.name.isdecimal())
    if step not in kept:
        raise Stop(
            f"--fork={config.fork} --fork_epoch={config.fork_epoch}: {folder} has no checkpoint of"
            f" step {step}, only {', '.join(map(str, kept))}",
            2,
        )
    try:
        runs.checkpoint.check(folder / str(step))
    except ValueError as error:
        raise Stop(
            f"--fork={config.fork} --fork_epoch={config.fork_epoch}: {folder / str(step)}: {error};"
            f" there are checkpoints of steps {', '.join(map(str, kept))}",
            2,
        ) from error


def estimate(config: Config, dataset: images.Dataset) -> None:
    """Prints what a run would take, from the compiled step; trains nothing."""
    megabytes = []
    for remat in sorted({False, config.remat}):
        run_config = dataclasses.replace(config, remat=remat)
        program = build(run_config, dataset)
        num = len(program.devices)
        training = jax.eval_shape(program.init)
        indices = np.zeros((config.num_seeds, config.batch_size // num), np.int32)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), config.num_seeds))
        print(f"parameters of the supernet   {search_results.num_params(config, training):,}")
        arguments = (training, program.data, indices, indices, keys)
        megabytes.append(
            runs.estimate(
                run_config, program.step, program.devices, arguments, program.steps_per_epoch
            )
        )
    if config.remat and not math.isnan(megabytes[0] - megabytes[1]):
        print(f"--remat saves                {megabytes[0] - megabytes[1]:,.1f} MB a device")


def parse(arguments: Sequence[str] | command_line.Line) -> Config:
    """The configuration of a command line."""
    return command_line.parse(arguments, PRESETS, CIFAR, __doc__, STARTS)


def main(arguments: Sequence[str] | command_line.Line) -> None:
    config_given = parse(arguments)
    checks.check_flags(config_given)
    with hosts.joined(config_given, "search") as (config, folder):
        check(config)
        runs.use_cache(config)
        dataset = datasets.load(config)
        if config.estimate:
            stage = stages.of(config)
            if stage.count > 1 and not config.stage:
                print(f"stage 1 of {stage.count}; the others have fewer operations on every edge")
                config = dataclasses.replace(config, stage=1)
            return estimate(config, dataset)
        start(config, dataset, folder)


def start(
    config: Config,
    dataset: images.Dataset,
    folder: Path | None = None,
    frontend: runs.Frontend = runs.Frontend(),
) -> None:
    """Searches, in stages where the configuration has several; `folder` is the first host's."""
    if stages.of(config).count > 1 and not config.stage:
        return run_stages(config, dataset, frontend)
    run_search(config, dataset, folder, frontend)


def run_stages(config: Config, dataset: images.Dataset, frontend: runs.Frontend) -> None:
    """Searches in stages, each in a folder of its own but the last one, whose folder is the run's.

    A stage that has ended already is left as it is.
    """
    with runs.open_run(config, "search", frontend=frontend) as opened:
        config = dataclasses.replace(config, run_dir=str(opened.folder))
        for stage, of_stage in stages.before_last(config, opened.folder):
            folder = Path(of_stage.run_dir)
            opened.log.info("stage %d of %d: %s", stage.number, stage.count, folder)
            if not stages.is_finished(folder):
                program = build(of_stage, dataset)
                with runs.open_run(of_stage, "search", opened.way, frontend) as inner:
                    search(of_stage, dataset, program, inner)
        last = stages.of(config)
        opened.log.info("stage %d of %d: %s", last.number, last.count, opened.folder)
        search(config, dataset, build(config, dataset), opened)


def carried(config: Config, dataset: images.Dataset, new: Searched, program: Program) -> Searched:
    """The training that a stage starts from, with what the stage before has trained."""
    stage = stages.of(config)
    assert stage.before is not None
    source = dataclasses.replace(
        config, stage=stage.number - 1, run_dir=str(stage.before), resume=str(stage.before)
    )
    of_source = build(source, dataset)
    before = carry.restored(stage.before, runs.checkpoint_form(of_source.init))
    classes = len(dataset.class_names)
    nets = supernet(source, of_source.space, classes), supernet(config, program.space, classes)
    return runs.Training(carry.carried(new.state, before, *nets, config.seed), new.sums)


def run_search(
    config: Config,
    dataset: images.Dataset,
    folder: Path | None = None,
    frontend: runs.Frontend = runs.Frontend(),
) -> None:
    """Searches, and again with more weight decay while the search stops early (DARTS-ADA).

    It repeats for as long as that is asked for.
    """
    program = build(config, dataset)
    if config.fork and not config.resume:
        check_fork(config, program.steps_per_epoch)
    way = runs.again(folder) if folder else ""
    with runs.open_run(config, "search", way, frontend) as opened:
        stop = search(
            dataclasses.replace(config, run_dir=str(opened.folder)), dataset, program, opened
        )
    weight_decay = config.weight_decay * config.adapt_weight_decay
    if stop and config.adapt_weight_decay and not search_results.runs_to_its_end(config):
        new_folder = f"{re.sub('-decay[0-9.e-]+$', '', str(opened.folder))}-decay{weight_decay:g}"
        changes = {
            "fork": str(opened.folder),
            "fork_epoch": stop[0],
            "weight_decay": weight_decay,
            "run_dir": new_folder,
        }
        resume = new_folder if os.path.exists(new_folder) else None
        again = dataclasses.replace(config, **changes, resume=resume)
        run_search(again, dataset, frontend=frontend)


def search(
    config: Config,
    dataset: images.Dataset,
    program: Program,
    run: Run,
    stop: Callable[[], str | None] = lambda: None,
) -> tuple[int, str] | None:
    """Runs a search on images: epochs of steps, and the report in the end.

    There is an evaluation and a checkpoint after each epoch.

    `stop` is asked after each epoch for a reason to go on to the report; the search can be resumed
    after it.

    Returns where and why the configuration's rules stopped it before its last epoch, or None.
    """
    data = parallel.replicate(program.data, program.devices)
    starts = run.checkpoints.latest_step() is None

    def rate(epoch: int) -> float:
        return learning_rate(config, epoch, math.cos)

    def init() -> Searched:
        new = program.init()
        if starts and config.fork:
            return search_history.forked(config, run, new, program.steps_per_epoch)
        if starts and config.carry_weights and stages.of(config).number > 1:
            return carried(config, dataset, new, program)
        return new

    def steps(epoch: int) -> Callable[[Searched, int], Searched]:
        order = program.order(epoch)
        step = program.warm_up_step if epoch < config.arch_warmup else program.step
        return lambda training, i: step(
            training, data, order.train[:, :, i], order.val[:, :, i], order.keys
        )

    def end(training: Searched, epoch: runs.Epoch, history: Sequence[History]) -> Searched:
        facts = {
            "epoch": epoch.number,
            "learning_rate": rate(epoch.number),
            "seconds": epoch.seconds,
        }
        search_results.finish_epoch(
            config, program, training, data, epoch.means, history, run.log, epoch.step, facts
        )
        return training

    def stopped(history: Sequence[History]) -> str | None:
        return search_results.stopped(config, history) or (
            stop() if history[0].records.all else None
        )

    def finish(training: Searched, history: Sequence[History]) -> tuple[int, str] | None:
        search_results.finish(config, program, dataset, training, data, history, run)
        return search_results.stop_of(config, history[0])

    task = runs.Task(
        init=init,
        lengths=np.full(config.epochs, program.steps_per_epoch),
        devices=program.devices,
        about=about(config, program.space),
        rate=rate,
        steps=steps,
        averages=averages,
        shown=programs.shown_of_images,
        checked=checked,
        lower=LOWER,
        open_records=records_of(config, run, program.space),
        end=end,
        stopped=stopped,
        finish=finish,
    )
    return runs.train(config, run, task)


def averages(sums: Metrics, count: int, step: int) -> runs.Means:
    """Means since the epoch began, [seeds] each."""
    means = programs.means_of(sums, count)
    losses = {name: means[name] for name in ("train_loss", "valid_loss")}
    runs.finite(step, LOWER, **losses)
    return means
