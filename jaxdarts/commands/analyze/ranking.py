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
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdarts import files, runs
from jaxdarts.analysis import sharing
from jaxdarts.commands import checks, command_line, datasets, optimizers
from jaxdarts.commands.analyze import agreement
from jaxdarts.commands.analyze.agreement import TRUTH
from jaxdarts.commands.analyze.ranking_flags import CIFAR, PRESETS, Config
from jaxdarts.data import augment, feed, images
from jaxdarts.nn.benchmarks.weight_sharing import SinglePath
from jaxdarts.runs import Stop
from jaxdarts.spaces.weight_sharing64 import CELLS, NAMES, all_picks


class Training(NamedTuple):
    """What one training shares weights among, and its place in the studies.

    study: name of the study.
    instance: its number there.
    group: number of the group in the instance.
    members: numbers of the children that share weights.
    seed: of weights and mini-batches.
    rule, order: which child each mini-batch trains, of `RULES`, and its seed.
    prefix: how many cells are shared, where every child has the rest for itself; None for all and
    the classifier.
    """

    study: str
    instance: int
    group: int
    members: tuple[int, ...]
    seed: int
    rule: str = "fixed"
    order: int = 0
    prefix: int | None = None


RULES: Mapping[str, Callable[[Sequence[int], int, int], np.ndarray]] = {
    "fixed": lambda members, steps, seed: sharing.in_turn(members, steps),
    "one": sharing.in_one_order,
    "every": sharing.in_new_orders,
}
GROUPS = {"random": sharing.random_groups, "similar": sharing.similar_groups}


def trainings(config: Config) -> list[Training]:
    """All trainings of all studies, in the order in which they are run."""
    every, found = tuple(range(len(NAMES))), []
    for i in range(config.instances):
        found.append(Training("seeds", i, 0, every, config.seed + i))
        found.append(Training("orders", i, 0, every, config.seed, "one", i))
        found.append(Training("shuffled orders", i, 0, every, config.seed, "every", i))
    for i in range(config.truth_instances):
        found += [Training(TRUTH, i, child, (child,), config.seed + i) for child in every]
    for i in range(config.instances):
        for kind, groups in GROUPS.items():
            for number in config.groups:
                for group, members in enumerate(groups(number, len(NAMES))):
                    found.append(
                        Training(
                            f"{number} {kind} groups", i, group, tuple(members), config.seed + i
                        )
                    )
        for cells in config.prefixes:
            found.append(
                Training(f"{cells} shared cells", i, 0, every, config.seed + i, prefix=cells)
            )
    return found


def epochs_of(config: Config, training: Training) -> int:
    """How long a training is."""
    if training.study == TRUTH:
        return config.truth_epochs or config.epochs
    return config.epochs if training.prefix is None else config.prefix_epochs


class Program(NamedTuple):
    """The compiled functions of trainings that share weights in one way, and what they run on.

    init: seed -> state.
    fresh: state -> the same weights, with nothing that the optimiser remembers.
    advance: (state, places of an epoch's images, children of its steps, first step, last one
    (excluded), key) -> state; the
        state that it is given is used up.
    accuracies: (state, children) -> their accuracies on the test images.
    """

    init: Callable[[int], sharing.SharedState]
    fresh: Callable[[sharing.SharedState], sharing.SharedState]
    advance: Callable[..., sharing.SharedState]
    accuracies: Callable[[sharing.SharedState, Sequence[int]], list[float]]
    steps_per_epoch: int
    num_images: int


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


def build(config: Config, dataset: images.Dataset) -> Callable[[Training], Program]:
    """Puts the library's parts together for one configuration: training -> the program that it is
    run by.
    """
    net = SinglePath(CELLS, config.init_channels, config.layers, len(dataset.class_names))
    length, children = dataset.train.num // config.batch_size, all_picks()
    read = augment.reader(dataset.mean, dataset.std, padding=config.crop_padding, flip=config.flip)
    data = {
        name: jax.device_put({"image": part[0], "label": part[1]})
        for name, part in zip(("train", "test"), dataset[1:3])
    }
    places, weights = feed.filled_up(dataset.test.num, min(512, dataset.test.num))

    def optimizer(epochs) -> optax.GradientTransformation:
        own = dataclasses.replace(config, epochs=epochs)

        def rate(step):
            return optimizers.cosine_rate(own, jnp.minimum(step // length, epochs))

        return optax.chain(
            optax.add_decayed_weights(config.weight_decay),
            optax.sgd(rate, momentum=config.momentum),
        )

    def shared(cells, epochs) -> sharing.Sharing:
        """What takes the number of a child. Both arguments are traced: one program serves all
        prefixes and lengths.
        """
        if cells is not None:
            return sharing.shared_prefix(net, optimizer(epochs), children, cells)
        own, picks = sharing.one_child(net, optimizer(epochs)), jnp.asarray(children)
        return own._replace(
            step=lambda state, batch, child: own.step(state, batch, picks[child]),
            evaluate=lambda state, batch, weights, child: own.evaluate(
                state, batch, weights, picks[child]
            ),
        )

    # One call for each mini-batch: inside a loop, XLA's convolutions take several times as long on
    # a CPU.
    @functools.partial(runs.jitted, donate_argnums=0)
    def step(state, setting, train, places, i, child, key):
        own = jax.lax.dynamic_slice_in_dim(places, i * config.batch_size, config.batch_size)
        return shared(*setting).step(
            state, read(train, own, jax.random.fold_in(key, state.step)), child
        )[0]

    @runs.jitted
    def correct(state, setting, test, places, weights, child):
        return shared(*setting).evaluate(state, read(test, places), weights, child)["accuracy"]

    @functools.cache
    def variables(seed: int):
        key = jax.random.fold_in(jax.random.key(seed), 0)
        return jax.tree.map(np.asarray, net.init(key, *net.example_inputs(dataset.image_shape)))

    def program(training: Training) -> Program:
        setting = training.prefix, epochs_of(config, training)

        def advance(state, places, asked, start, stop, key):
            for i in range(start, stop):
                state = step(state, setting, data["train"], places, i, int(asked[i]), key)
            return state

        def accuracies(state, members):
            sums = [
                [
                    correct(state, setting, data["test"], *batch, child)
                    for batch in zip(places, weights, strict=True)
                ]
                for child in members
            ]
            return (np.sum(jax.device_get(sums), axis=1) / dataset.test.num).tolist()

        return Program(
            init=lambda seed: shared(*setting).init(jax.tree.map(jnp.array, variables(seed))),
            # The schedule goes on where it is.
            fresh=lambda state: dataclasses.replace(
                jax.tree.map(jnp.array, state),
                opt=optax.tree.set(optimizer(1).init(state.params), count=jnp.array(state.step)),
            ),
            advance=advance,
            accuracies=accuracies,
            steps_per_epoch=length,
            num_images=dataset.train.num,
        )

    return program


def train(
    config: Config, program: Callable[[Training], Program], folder: Path, log
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


def run(config: Config, program: Program, training: Training) -> dict[str, Any]:
    """One training: accuracies of its members after some epochs, after the last steps, and after
    fine tuning.
    """
    start, length = time.monotonic(), program.steps_per_epoch
    key = jax.random.key(training.seed)
    data_key, tune_key = jax.random.fold_in(key, 1), jax.random.fold_in(key, 2)
    epochs, total = epochs_of(config, training), epochs_of(config, training) * length
    asked = RULES[training.rule](training.members, total, training.order).reshape(epochs, length)
    state, found = (
        program.init(training.seed),
        {"epochs": [], "accuracies": [], "last": [], "tuned": {}},
    )
    for epoch in range(epochs):
        places = augment.order(data_key, epoch, program.num_images)
        begun, ended = epoch * length, (epoch + 1) * length
        watched = [step for step in range(begun + 1, ended + 1) if step > total - config.last_steps]
        position = 0
        for step in dict.fromkeys([*watched, ended]):
            state = program.advance(state, places, asked[epoch], position, step - begun, data_key)
            position = step - begun
            if step in watched:
                found["last"].append(program.accuracies(state, training.members))
        if (epoch + 1) % config.eval_freq == 0 or epoch + 1 == epochs:
            found["epochs"].append(epoch + 1)
            found["accuracies"].append(program.accuracies(state, training.members))
            if not np.isfinite(float(optax.tree.norm(state.params))):
                raise Stop(
                    f"weights are not finite after epoch {epoch + 1}: start again with a lower"
                    " --learning_rate"
                )
        if training.study == "seeds" and epoch + 1 in config.tune_epochs:
            found["tuned"][epoch + 1] = tuned(config, program, training, state, tune_key)
    return {**found, "seconds": time.monotonic() - start}


def tuned(config: Config, program: Program, training: Training, state, key) -> list[list[float]]:
    """Accuracies of the children, each trained on alone from the same shared weights, for every
    entry of --tune_steps.
    """
    out, length = [], program.steps_per_epoch
    epochs = range(-(-max(config.tune_steps, default=0) // length))
    places = [augment.order(key, epoch, program.num_images) for epoch in epochs]
    for child in training.members:
        own, row, asked = program.fresh(state), [], np.full(length, child)
        for epoch in epochs:
            position = 0
            for steps in (steps - epoch * length for steps in config.tune_steps):
                if 0 < steps <= length:
                    own = program.advance(own, places[epoch], asked, position, steps, key)
                    position = steps
                    row += program.accuracies(own, [child])
            own = program.advance(
                own,
                places[epoch],
                asked,
                position,
                length if epoch + 1 < len(epochs) else position,
                key,
            )
        out.append(row)
    return np.transpose(out).tolist()


def setting(config: Config, dataset: images.Dataset) -> dict[str, Any]:
    """The flags that matter to a result, and the sizes of the data."""
    places = ("data_dir", "run_dir", "resume", "output", "cache_dir", "preset")
    flags = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in places
    }
    return {"config": {**flags, "train_images": dataset.train.num, "test_images": dataset.test.num}}
