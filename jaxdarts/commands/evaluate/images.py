"""Train a found or published cell from scratch: jaxdarts evaluate --arch=DARTS_V2 --dataset=cifar10

The defaults are the published training of the cell's kind: cells of NAS-Bench-201, NAS-Bench-101
and NATS-Bench have the benchmark's network and training (with clipped gradients and without
Nesterov's momentum). The test set is looked at once, after the last epoch. Three other uses:
--select trains several cells for a short time and goes on with the best one on held-out training
images; --test_only --checkpoint=RUN tests a trained network again; --ensemble=RUN,RUN,... trains,
prunes and tests an ensemble, with flags of its own (jaxdarts analyze ensemble --help).

A run folder holds config.json, log.txt, metrics.jsonl, tensorboard/, genotype.json, network.json
and weights.npz (jaxdarts.load reads both), report.html and checkpoints/. An interrupted training
continues with --resume=RUN.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdarts import parallel, runs
from jaxdarts.commands import command_line, datasets, programs, sizes
from jaxdarts.commands.evaluate import results as training_results
from jaxdarts.commands.evaluate.image_program import Program, build, rates
from jaxdarts.commands.evaluate.recipes import (
    Cells,
    Config,
    check,
    parse,
    resolve,
    size_in_memory,
    size_of,
)
from jaxdarts.commands.evaluate.results import LOWER, records_of
from jaxdarts.count import network_cost
from jaxdarts.data import augment, feed, images, stream
from jaxdarts.runs import Run, Stop
from jaxdarts.training import export
from jaxdarts.training.images import TrainState
from jaxdarts.types import Metrics

MOST_CLASSES = 20
"""Classes whose accuracies the log has; the report has them all in its confusion matrix."""
Dataset = images.Dataset | stream.Dataset
Trained = runs.Training[TrainState]


def test(
    config: Config, program: Program, state: TrainState, fed: feed.Feed, size: int
) -> dict[str, np.ndarray]:
    """Means over all of the `size` test images, [seeds] each; `confusion` counts them."""
    order, weights = feed.filled_up(size, config.batch_size)
    data = fed.test(order)
    indices, weights = (
        parallel.split(part, len(program.devices), axis=1) for part in (order, weights)
    )
    sums: dict[str, Any] = {}
    for i in range(len(order)):
        metrics = parallel.first(program.evaluate(state, data(i), indices[:, i], weights[:, i]))
        sums = {name: sums.get(name, 0) + np.asarray(value) for name, value in metrics.items()}
    return {name: value if name == "confusion" else value / size for name, value in sums.items()}


def train(
    config: Config,
    genotype: Cells,
    dataset: Dataset,
    program: Program,
    run: Run,
    part: str = "test",
) -> dict[str, np.ndarray]:
    """Trains to the end, or goes on with what was saved.

    `dataset.test`, called `part`, is read after the last step only.
    """
    log, table = run.log, rates(config)
    cost = parameters_and_multiply_adds(config, genotype, dataset)

    def end(training: Trained, epoch: runs.Epoch, records: Sequence[runs.Records]) -> Trained:
        record = {name: float(np.mean(value)) for name, value in epoch.means.items()}
        facts = {"epoch": epoch.number, "learning_rate": float(table[epoch.number])}
        records[0].write(epoch.step, {**facts, "seconds": epoch.seconds, **record})
        log.info("train_acc %f", 100 * record["train_accuracy"])
        return training

    with stream.threads() as pool:
        fed = feed.open_feed(pool, dataset, programs.seeds_of(config), program.devices)

        def finish(training: Trained, records: Sequence[runs.Records]) -> dict[str, np.ndarray]:
            tested = test(config, program, training.state, fed, dataset.test.num)
            state = parallel.first(training.state)
            save_networks(config, genotype, dataset, state, run.folder)
            write_report(config, genotype, tested, records[0].all, run, cost, part, dataset)
            return tested

        labels = dataset.train.labels if config.balance_classes else None
        task = task_of(config, program, fed, dataset.train.num, labels)._replace(
            about=lambda training: [
                f"genotype = {genotype}",
                f"param size = {cost[0] / 1e6:f}MB",
                f"multiply-adds = {cost[1] / 1e6:f}M",
            ],
            rate=lambda epoch: float(table[epoch]),
            open_records=records_of(config, run, genotype),
            end=end,
            finish=finish,
        )
        return runs.train(config, run, task)


def task_of(
    config: Config,
    program: Program,
    fed: feed.Feed,
    size: int,
    labels: np.ndarray | None = None,
) -> runs.Task:
    """A training over `size` images, whose order is another one in every epoch.

    With their labels, all classes take turns.
    Nothing is written down, and its result is the training.
    """
    length, seeds = program.steps_per_epoch, programs.seeds_of(config)
    keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), 1) for seed in seeds])
    data_keys = parallel.replicate(
        jax.vmap(jax.random.fold_in, (0, None))(keys, 2), program.devices
    )

    def steps(epoch: int) -> Callable[[Trained, int], Trained]:
        orders = [augment.order(key, epoch, size) for key in keys]
        if labels is not None:
            orders = [images.balanced(labels, np.asarray(order)) for order in orders]
        orders = [order[: length * config.batch_size] for order in orders]
        order = np.stack(orders).reshape(config.num_seeds, length, -1)
        data = fed.train(order, epoch)
        indices = parallel.split(order, len(program.devices), axis=2)
        return lambda training, i: program.step(training, data(i), indices[:, :, i], data_keys)

    return runs.Task(
        init=program.init,
        lengths=np.full(config.epochs, length),
        devices=program.devices,
        steps=steps,
        averages=averages,
        shown=programs.shown_of_images,
        checked=lambda state: {"a weight": state.params},
        lower=LOWER,
        open_records=lambda step: (),
        end=lambda training, epoch, records: training,
        finish=lambda training, records: training,
    )


def averages(sums: Metrics, count: int, step: int) -> runs.Means:
    """Means since the epoch began, [seeds] each."""
    means = programs.means_of(sums, count, "train_")
    runs.finite(step, LOWER, train_loss=means["train_loss"])
    return means


def parameters_and_multiply_adds(config: Config, genotype: Cells, dataset: Any) -> tuple[int, int]:
    """Parameters and multiply-adds."""
    classes, imagenet = len(dataset.class_names), config.network == "imagenet"
    return network_cost(
        genotype, *size_of(config, genotype), classes, dataset.image_shape, imagenet
    )


def save_networks(
    config: Config, genotype: Cells, dataset: Dataset, state: TrainState, folder: Path
) -> None:
    """Writes the trained network of every seed, as `jaxdarts.load` reads it."""
    side = stream.shorter_side(dataset.image_shape[0])
    cut = {"shorter_side": side} if config.stream else {}
    for i, seed in enumerate(programs.seeds_of(config)):
        seed_folder = folder if config.num_seeds == 1 else folder / f"seed-{seed}"
        seed_folder.mkdir(exist_ok=True)
        params, averages = jax.tree.map(lambda leaf, i=i: leaf[i], (state.params, state.averages))
        export.save(
            seed_folder,
            genotype=genotype,
            params=params,
            averages=averages,
            width=size_of(config, genotype)[0],
            depth=size_of(config, genotype)[1],
            num_classes=len(dataset.class_names),
            imagenet=config.network == "imagenet",
            image_shape=dataset.image_shape,
            mean=[float(value) for value in dataset.mean],
            std=[float(value) for value in dataset.std],
            class_names=dataset.class_names,
            **cut,
        )


def write_report(
    config: Config,
    genotype: Cells,
    tested: Mapping[str, np.ndarray],
    records: list[dict[str, Any]],
    run: Run,
    cost: tuple[int, int],
    part: str,
    dataset: images.Dataset | stream.Dataset,
) -> None:
    """Logs how the networks did on a part of the data, and writes the report."""
    for seed, fraction in zip(programs.seeds_of(config), tested["accuracy"], strict=True):
        accuracy = 100 * fraction
        run.log.info("seed %d %s_acc %f error %f", seed, part, accuracy, 100 - accuracy)
    run.log.info("%s_acc %f", part, 100 * float(np.mean(tested["accuracy"])))
    counts = np.sum(tested["confusion"], axis=0)
    class_sizes = counts.sum(1)
    name = dataset.class_names[int(class_sizes.argmax())]
    share = 100 * class_sizes.max() / class_sizes.sum()
    run.log.info("largest class %s %f", name, share)
    for label, size in enumerate(class_sizes):
        if size and len(class_sizes) <= MOST_CLASSES:
            right = 100 * counts[label, label] / size
            run.log.info("%s_acc of %s %f", part, dataset.class_names[label], right)
    summary = runs.mean_and_deviation(1 - tested["accuracy"], 100, 2, " %")
    summary += f" over {config.num_seeds} seeds" if config.num_seeds > 1 else ""
    run.log.info("%s error %s", part, summary)
    facts = {"parameters": cost[0], "multiply_adds": cost[1], f"{part}_error": summary}
    facts["largest_class"] = f"{share:.2f} % ({name})"
    results = {name: value.tolist() for name, value in tested.items()}
    names = dataset.class_names
    training_results.write_result(config, run, records, genotype, part, results, facts, names)


def select(config: Config, dataset: Any, folder: Path) -> Cells:
    """Chooses a cell by short trainings of every candidate, the paper's protocol.

    Each trains on a part of the training set and is validated on the rest of it.
    """
    try:
        fit, held = (stream if config.stream else images).split(
            dataset.train, config.select_portion
        )
    except ValueError as error:
        raise Stop(f"--select_portion={config.select_portion}: {error}", 2) from error
    candidates: dict[str, Cells] = {name: resolve(name, "--select") for name in config.select}
    candidates |= training_results.random_cells(config, next(iter(candidates.values())))
    part = dataset._replace(
        train=fit, test=held
    )  # no test image: what is held out of the training set takes its place
    short = dataclasses.replace(config, epochs=config.select_epochs, select=(), num_seeds=1)

    def held_out(run_config: Config, genotype: Cells, run: Run) -> float:
        return float(
            train(run_config, genotype, part, build(run_config, genotype, part), run, "valid")[
                "accuracy"
            ][0]
        )

    way = training_results.same_command(folder)
    scores = training_results.trained(short, folder, "select", candidates, held_out, way)
    show = "{:6.2%} of the held-out images".format
    return candidates[training_results.selected(folder, scores, config.select, max, show)]


def estimate(config: Config, genotype: Cells, dataset: Any, program: Program) -> None:
    """Prints what a training would take, from the compiled step; trains nothing."""
    num, cost = len(program.devices), parameters_and_multiply_adds(config, genotype, dataset)
    data = feed.shapes(dataset, config.num_seeds, config.batch_size // num)
    indices = np.zeros((config.num_seeds, config.batch_size // num), np.int32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), config.num_seeds))
    print(f"parameters of the network    {cost[0]:,}")
    print(f"multiply-adds of an image    {cost[1]:,}")
    arguments = (jax.eval_shape(program.init), data, indices, keys)
    runs.estimate(config, program.step, program.devices, arguments, program.steps_per_epoch)


def test_again(config: Config) -> None:
    """Tests a trained network on the data set's test images."""
    checkpoint = config.checkpoint
    if not checkpoint:
        raise Stop("--test_only: name the run with --checkpoint=RUN", 2)
    try:
        apply, params = export.load(checkpoint)
        shape = export.image_shape(checkpoint)
        classes = export.num_classes(checkpoint)
    except ValueError as error:
        raise Stop(f"--checkpoint={checkpoint}: {error}", 2) from error
    if config.stream or config.image_size is not None:
        config = dataclasses.replace(config, image_size=shape[0])
    dataset = load(config)
    if (shape, classes) != (dataset.image_shape, len(dataset.class_names)):
        raise Stop(
            f"--checkpoint={checkpoint}: a network for {classes} classes of images {shape},"
            f" but {config.dataset} has {len(dataset.class_names)} of {dataset.image_shape}",
            2,
        )
    logits = runs.jitted(apply)
    try:
        accuracy = export.accuracy(
            lambda images: logits(params, images), dataset, config.batch_size
        )
    except stream.Unreadable as error:
        raise Stop(str(error)) from error
    print(f"test_acc {100 * accuracy:f}")


def load(config: Config) -> Any:
    """The data set, in memory or on a disk."""
    if config.stream:
        size = config.image_size or sizes.STREAMED
        read = functools.partial(stream.load, size=size, check=not config.estimate)
        return datasets.load(config, read)
    return datasets.load(config, functools.partial(images.load, size=size_in_memory(config)))


def main(arguments: Sequence[str] | command_line.Line) -> None:
    config = check(parse(arguments, __doc__))
    runs.use_cache(config)
    if config.test_only:
        return test_again(config)
    if not config.select:
        config = dataclasses.replace(
            config, arch=str(resolve(config.arch))
        )  # the run folder tells all there is to know
    dataset = load(config)
    if config.select and not config.estimate:
        folder = runs.folder_of(config, "eval")
        config = dataclasses.replace(
            config, arch=str(select(config, dataset, folder)), select=(), run_dir=str(folder)
        )
    if config.balance_classes and dataset.train.labels is None:
        raise Stop(f"--balance_classes: {config.dataset} is streamed and tells no labels", 2)
    if config.estimate:
        genotype = resolve(config.arch)
        return estimate(config, genotype, dataset, build(config, genotype, dataset))
    start(config, dataset)


def start(config: Config, dataset: Dataset, frontend: runs.Frontend = runs.Frontend()) -> None:
    """Trains the cell of --arch."""
    genotype = resolve(config.arch)
    program = build(config, genotype, dataset)
    with runs.open_run(config, "eval", frontend=frontend) as opened:
        train(
            dataclasses.replace(config, run_dir=str(opened.folder)),
            genotype,
            dataset,
            program,
            opened,
        )
