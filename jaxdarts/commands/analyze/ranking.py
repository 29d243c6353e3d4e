"""How well shared weights rank models: jaxdarts analyze ranking --run_dir=runs/ranking

Trains the 64-model space of Zhang et al. (Deeper Insights into Weight Sharing in NAS, 2020) with
shared weights, one child a mini-batch, and ranks all children by test accuracy, in several
instances: with different seeds, in different orders of the children, in orders that change every
round, in groups that share weights among themselves only (random ones and similar ones), and with
weights shared in the first cells only; then trains every child alone, for the truth, and children
from a snapshot of the shared weights. Rankings are compared by Kendall's tau: S-Tau among
instances, GT-Tau with the truth. The run folder holds config.json, log.txt, records.jsonl (every
training with its accuracies), summary.json and plots; killed, it goes on with --resume and loses
one training at most.
"""

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxdarts import files, runs
from jaxdarts.analysis import sharing
from jaxdarts.commands import checks, command_line, datasets
from jaxdarts.commands.analyze import agreement
from jaxdarts.commands.analyze.ranking_plan import PlannedTraining, epochs_of, trainings
from jaxdarts.commands.analyze.ranking_program import Program, build, run
from jaxdarts.data import images
from jaxdarts.runs import Stop
from jaxdarts.spaces.weight_sharing64 import NAMES


@dataclasses.dataclass(frozen=True)
class Config:
    """Flags; the defaults are those of the data set's preset."""

    FREE: ClassVar[str] = "run_dir resume data_dir output cache_dir"

    dataset: str = "digits"
    """digits, a TFDS name (cifar10, ...), npz:PATH or folder:PATH. Children are ranked on its test
    images, as in the paper.
    """
    preset: str | None = None
    """Name of the preset to start from; default the data set's own."""
    data_dir: str | None = None
    """Folder in which TFDS keeps its data sets."""
    train_images: int = 0
    """Number of training images, the first of the data set; 0 for all."""
    test_images: int = 0
    """Number of test images, the first of the data set; 0 for all."""
    epochs: int = 200
    """Epochs of every training with shared weights."""
    truth_epochs: int | None = None
    """Epochs of training of every child alone; default the same as --epochs."""
    batch_size: int = 256
    """Images in a mini-batch; a mini-batch trains one child."""
    init_channels: int = 16
    """Channels of a node."""
    layers: int = 4
    """Number of cells."""
    learning_rate: float = 0.025
    """Learning rate of SGD in the first epoch; it falls by a cosine."""
    learning_rate_min: float = 0.001
    """Learning rate of SGD at the end of the cosine."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-3
    """Weight decay: this multiple of the weights is added to their gradient."""
    crop_padding: int = 4
    """Training images are shifted at random by up to this number of pixels."""
    flip: bool = True
    """Mirror half of the training images."""
    instances: int = 10
    """Number of trainings of each study; 0 runs only the trainings of single children."""
    truth_instances: int = 10
    """Number of seeds with which every child is trained alone; the ground truth is the mean over
    them."""
    groups: tuple[int, ...] = (2, 4, 8, 16, 32)
    """Numbers of groups of children, one study each; only children of one group share weights.
    Empty for no such study."""
    prefixes: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Numbers of cells that all children share, one study each; the other cells belong to one
    child. Empty for no such study."""
    prefix_epochs: int = 2000
    """Epochs of the studies of --prefixes; a child's own cells see one mini-batch in 64."""
    eval_freq: int = 10
    """Epochs between evaluations of all children; all are evaluated after the last epoch in any
    case."""
    last_steps: int = 64
    """All children are evaluated after each of this number of last mini-batches; 0 for none."""
    tune_epochs: tuple[int, ...] = (100, 200)
    """Epochs after which every child is trained further alone, from the shared weights (different
    seeds only)."""
    tune_steps: tuple[int, ...] = (1, 5, 10, 64)
    """Numbers of mini-batches of --tune_epochs' training after which the child is evaluated."""
    seed: int = 0
    """First seed; seeds determine everything that is random."""
    run_dir: str | None = None
    """Folder of the run; default runs/ranking-<dataset>-<time>."""
    resume: str | None = None
    """Run folder to continue; its configuration is taken over."""
    output: str | None = None
    """JSON file that also gets the summary."""
    cache_dir: str = command_line.Settings.cache_dir
    """Where compiled programs are kept for the next start; empty for nowhere."""


CIFAR = Config(dataset="cifar10")
PRESETS = {
    "digits": Config(
        epochs=10,
        batch_size=64,
        init_channels=4,
        layers=2,
        learning_rate=0.1,
        crop_padding=1,
        flip=False,
        instances=3,
        truth_instances=2,
        groups=(4, 16),
        prefixes=(0, 1, 2),
        prefix_epochs=40,
        eval_freq=2,
        last_steps=8,
        tune_epochs=(4, 10),
        tune_steps=(1, 2, 4, 8),
    ),
    "cifar10": CIFAR,
}
"""What each data set starts from; cifar10 is the paper's setting, for a large machine."""


def main(arguments: list[str]) -> None:
    config = check(command_line.parse(arguments, PRESETS, CIFAR, __doc__))
    runs.use_cache(config)
    dataset = parts(config, datasets.load(config))
    program = build(config, dataset)
    folder, log = runs.open_folder(config, "ranking")
    try:
        records = train(config, program, folder, log)
        summary = {
            **runs.versions(),
            **setting(config, dataset),
            **agreement.summarize(config, records),
        }
        text = json.dumps(summary, indent=1) + "\n"
        files.replace_text(folder / "summary.json", text)
        if config.output:
            files.replace_text(config.output, text)
        for name, svg in agreement.plots(summary).items():
            files.replace_text(folder / f"{name}.svg", svg)
        for line in agreement.table(summary):
            log.info(line)
        log.info("all in %s", folder)
    except OSError as error:
        raise Stop(f"cannot write: {error}; continue with --resume={folder}") from error
    except KeyboardInterrupt:
        raise Stop(f"interrupted; continue with --resume={folder}", 130) from None
    finally:
        runs.writers.close_logger(log)


def check(config: Config) -> Config:
    """Refuses settings that cannot work."""
    positive = (
        "epochs prefix_epochs batch_size init_channels layers learning_rate truth_instances"
        " eval_freq"
    )
    not_negative = (
        "train_images test_images instances last_steps crop_padding learning_rate_min momentum"
        " weight_decay seed"
    )
    checks.check_numbers(config, positive, not_negative)
    if config.truth_epochs is not None and config.truth_epochs < 1:
        raise Stop(f"--truth_epochs={config.truth_epochs}: must be positive", 2)
    if config.instances == 1:
        raise Stop("--instances=1: agreement is measured between instances; take 0, 2 or more", 2)
    if config.seed + max(config.instances, config.truth_instances) > 2**31:
        raise Stop(f"--seed={config.seed}: seeds must be below {2**31}", 2)
    for number in config.groups:
        try:
            sharing.similar_groups(number, len(NAMES))
        except ValueError as error:
            raise Stop(f"--groups: {error}", 2) from error
    for cells in config.prefixes:
        if not 0 <= cells <= config.layers:
            raise Stop(f"--prefixes: {cells} is not between 0 and --layers={config.layers}", 2)
    for epoch in config.tune_epochs:
        if not 0 < epoch <= config.epochs:
            raise Stop(f"--tune_epochs: {epoch} is not between 1 and --epochs={config.epochs}", 2)
    if list(config.tune_steps) != sorted({*config.tune_steps}) or any(
        steps < 1 for steps in config.tune_steps
    ):
        raise Stop(
            f"--tune_steps: {' '.join(map(str, config.tune_steps))} are not positive numbers in"
            " ascending order",
            2,
        )
    return config


def parts(config: Config, dataset: images.Dataset) -> images.Dataset:
    """The first images, as asked for."""

    def first(part: images.Images, number: int, flag: str) -> images.Images:
        if number > part.num:
            raise Stop(f"--{flag}={number}: {config.dataset} has {part.num}", 2)
        return images.Images(*(field[: number or None] for field in part))

    train = first(dataset.train, config.train_images, "train_images")
    if train.num < config.batch_size:
        raise Stop(f"--batch_size={config.batch_size}: there are {train.num} training images", 2)
    length = train.num // config.batch_size
    shortest = length * min(epochs_of(config, training) for training in trainings(config))
    if config.last_steps > shortest:
        raise Stop(f"--last_steps={config.last_steps}: a training has {shortest}", 2)
    return dataset._replace(
        train=train, test=first(dataset.test, config.test_images, "test_images")
    )


def train(
    config: Config,
    program: Callable[[PlannedTraining], Program],
    folder: Path,
    log: logging.Logger,
) -> list[dict[str, Any]]:
    """Runs all trainings that have no record yet; returns the records of all."""
    path, planned = folder / "records.jsonl", trainings(config)
    try:
        records = files.read_json_lines(path) if path.exists() else []
        done = {(r["study"], r["instance"], r["group"]) for r in records}
    except (ValueError, KeyError) as error:
        raise Stop(f"{path}: {error}; remove it to start again") from error
    writer, bar = runs.writers.json_lines(path), runs.writers.console(len(planned))
    writer.close()  # what a killed process left of its last line is gone
    try:
        with path.open("a", encoding="utf-8") as file:
            for n, training in enumerate(planned):
                if (training.study, training.instance, training.group) not in done:
                    record: dict[str, Any] = {
                        "step": n,
                        **training._asdict(),
                        **run(config, program(training), training),
                    }
                    file.write(json.dumps(record) + "\n")
                    file.flush()
                    records.append(json.loads(json.dumps(record)))
                    bar.write(n + 1, {"mean_accuracy": float(np.mean(record["accuracies"][-1]))})
    finally:
        bar.close()
    wanted = {
        (t.study, t.instance, t.group) for t in planned
    }  # a folder may hold more, after a change of its config.json
    log.info("%d trainings are recorded", len(records))
    return [r for r in records if (r["study"], r["instance"], r["group"]) in wanted]


def setting(config: Config, dataset: images.Dataset) -> dict[str, Any]:
    """The flags that matter to a result, and the sizes of the data."""
    places = ("data_dir", "run_dir", "resume", "output", "cache_dir", "preset")
    flags = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in places
    }
    return {"config": {**flags, "train_images": dataset.train.num, "test_images": dataset.test.num}}
