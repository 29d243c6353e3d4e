"""Measure how well shared weights rank cells: jaxdarts analyze ranking --run_dir=runs/ranking

Trains the 64 cells of a small space (Zhang et al., Deeper Insights into Weight Sharing in NAS,
2020), called children, with shared weights, one child a mini-batch, and ranks them by test
accuracy. Studies vary the seed, the order of the children, the groups of children that share
weights, and the number of cells that are shared; then every child is trained alone, for the truth,
and from a snapshot of the shared weights. Rankings are compared by Kendall's tau: S-Tau between
trainings, GT-Tau with the truth.

A run folder holds config.json, log.txt, records.jsonl (every training with its accuracies),
summary.json and plots. Killed, it continues with --resume=RUN and loses one training at most.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdarts import files, runs
from jaxdarts.analysis import sharing
from jaxdarts.commands import checks, command_line, datasets
from jaxdarts.commands.analyze import agreement
from jaxdarts.commands.analyze.ranking_flags import CIFAR, PRESETS, Config
from jaxdarts.commands.analyze.ranking_plan import PlannedTraining, epochs_of, trainings
from jaxdarts.commands.analyze.ranking_program import Program, build, run
from jaxdarts.data import images
from jaxdarts.runs import Stop
from jaxdarts.spaces.weight_sharing64 import NAMES


def main(arguments: Sequence[str] | command_line.Line) -> None:
    config = check(command_line.parse(arguments, PRESETS, CIFAR, __doc__))
    runs.use_cache(config)
    dataset = parts(config, datasets.load(config))
    program = build(config, dataset)
    with runs.open_study(config, "ranking") as (folder, log):
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


def check(config: Config) -> Config:
    """Refuses settings that cannot work."""
    checks.check_flags(config)
    if config.instances == 1:
        raise Stop("--instances=1: agreement is measured between instances; take 0, 2 or more", 2)
    checks.check_seeds(config, max(config.instances, config.truth_instances))
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
    if list(config.tune_steps) != sorted({*config.tune_steps}):
        raise Stop(
            f"--tune_steps: {' '.join(map(str, config.tune_steps))} are not in ascending order", 2
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
    path_fields = ("data_dir", "run_dir", "resume", "output", "cache_dir", "preset")
    flags = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in path_fields
    }
    return {"config": {**flags, "train_images": dataset.train.num, "test_images": dataset.test.num}}
