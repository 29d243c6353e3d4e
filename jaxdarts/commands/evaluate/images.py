"""Train a found or published cell from scratch: jaxdarts evaluate --arch=DARTS_V2 --dataset=cifar10

--arch takes a published name, a run folder of search.py, a JSON file, or the text of a genotype,
such as the string of a cell of NAS-Bench-201, whose presets are the benchmark's network and
training (but gradients are clipped and momentum is not Nesterov's), of NATS-Bench's sizes
(likewise), or a graph of NAS-Bench-101 (whose own optimiser is another one). Leaves a run folder:
config.json, log.txt, metrics.jsonl, tensorboard/, genotype.json, network.json and weights.npz (read
by jaxdarts.load), report.html and checkpoints/. The test set is looked at once, after the last
epoch. --select retrains the cells of several searches for a short time and goes on with the best
one on held-out training images. --test_only --checkpoint=RUN tests a trained network again.
--ensemble=RUN,RUN,... trains an ensemble, prunes and tests it (ensembles.py).
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdarts import files, genotypes, parallel, runs, spaces
from jaxdarts.commands import datasets, optimizers, texts
from jaxdarts.commands.evaluate import results as training_results
from jaxdarts.commands.evaluate import text as text_evaluation
from jaxdarts.commands.evaluate.recipes import (
    Cells,
    Config,
    check,
    ensemble_asked,
    parse,
    resolve,
    size_of,
)
from jaxdarts.count import network_cost
from jaxdarts.data import augment, feed, images, stream
from jaxdarts.genotypes import Genotype, GraphGenotype, SizeGenotype, TopologyGenotype
from jaxdarts.nn.network import TooSmall
from jaxdarts.runs import Run, Stop
from jaxdarts.training import export, schedules
from jaxdarts.training.images import from_scratch


class Program(NamedTuple):
    """The pure functions of a training, mapped over seeds and devices, and what they run on."""

    init: Any  # () -> {"state": TrainState, "sums": metrics}, a leading axis of seeds
    step: Any  # (training, data, indices, data keys) -> training
    evaluate: Any  # (state, data, indices, weights) -> sums of metrics
    devices: list
    steps_per_epoch: int


def build(config: Config, genotype: Cells, dataset: Any) -> Program:
    """Puts the library's parts together for one configuration; `dataset.test` is what `evaluate`
    sees.
    """
    devices = runs.devices(config)
    steps_per_epoch = dataset.train.num // config.batch_size
    if not steps_per_epoch:
        raise Stop(
            f"--batch_size={config.batch_size}: larger than the training set, {dataset.train.num}"
            " images",
            2,
        )
    if config.color_jitter and dataset.image_shape[-1] != 3:
        raise Stop(
            f"--color_jitter: the images of {config.dataset} have {dataset.image_shape[-1]}"
            " channels, not 3",
            2,
        )
    options: dict[str, Any] = {
        "auxiliary": config.auxiliary,
        "imagenet": config.network == "imagenet",
    }
    if not isinstance(genotype, Genotype):
        for flag, name, part in (
            ("--auxiliary", "auxiliary", "auxiliary head"),
            ("--network=imagenet", "imagenet", "such stem"),
        ):
            if options[name]:
                benchmark = (
                    "NAS-Bench-101" if isinstance(genotype, GraphGenotype) else "NAS-Bench-201"
                )
                raise Stop(f"{flag}: a network of {benchmark} has no {part}; leave it out", 2)
        options = {}
    if not isinstance(genotype, Genotype | TopologyGenotype) and config.drop_path_prob:
        raise Stop(
            f"--drop_path_prob={config.drop_path_prob}: the benchmark's network drops nothing;"
            " leave it out",
            2,
        )
    if not isinstance(genotype, SizeGenotype):
        options["unroll"] = config.unroll
    net = spaces.of(genotype).network(
        genotype,
        *size_of(config, genotype),
        len(dataset.class_names),
        **options,
        dtype=jnp.dtype(config.dtype),
        axis_name=parallel.AXIS,
        remat=config.remat,
    )
    alone, image = net.clone(axis_name=None), jnp.zeros((1, *dataset.image_shape))
    try:
        try:
            jax.eval_shape(alone.init, jax.random.key(0), image)
        except TooSmall as error:
            print(f"trained without the auxiliary head: {error}", flush=True)
            net, alone = net.clone(auxiliary=False), alone.clone(auxiliary=False)
            jax.eval_shape(alone.init, jax.random.key(0), image)
    except ValueError as error:
        flags = " ".join(
            f"--{name}={getattr(config, name)}" for name in ("layers", "auxiliary", "network")
        )
        raise Stop(
            f"{flags}, images of {'x'.join(map(str, dataset.image_shape))}: {error}", 2
        ) from error

    def drop_path(step):  # the published rate rises by the epoch, from zero
        return config.drop_path_prob * (step // steps_per_epoch) / config.epochs

    training = from_scratch(
        net,
        OPTIMIZERS[config.optimizer](config, steps_per_epoch),
        drop_path=drop_path if config.drop_path_prob else None,
        auxiliary_weight=config.auxiliary_weight,
        label_smoothing=config.label_smooth,
        axis_name=parallel.AXIS,
    )
    read = (augment.transform if config.stream else augment.reader)(
        dataset.mean,
        dataset.std,
        padding=config.crop_padding,
        flip=config.flip,
        cutout_length=config.cutout_length if config.cutout else 0,
        jitter=augment.Jitter() if config.color_jitter else None,
    )

    def step(carry, data, indices, data_key):
        state = carry["state"]
        state, metrics = training.step(
            state, read(data["train"], indices, jax.random.fold_in(data_key, state.step))
        )
        return {
            "state": state,
            "sums": {name: carry["sums"][name] + value for name, value in metrics.items()},
        }

    def evaluate(state, data, indices, weights):
        return training.evaluate(state, read(data["test"], indices), weights)

    def init():
        states = []
        for seed in range(config.seed, config.seed + config.num_seeds):
            params_key, key = jax.random.split(jax.random.key(seed))
            states.append(training.init(key, alone.init(params_key, image)))
        sums = {name: jnp.zeros(config.num_seeds) for name in ("loss", "accuracy", "top5")}
        return {"state": parallel.stack(states), "sums": sums}

    over_seeds, over_devices = parallel.over_seeds, parallel.over_devices
    return Program(
        init=init,
        step=over_devices(
            over_seeds(step, (0, 0 if config.stream else None, 0, 0)), devices, donate=(0,)
        ),
        evaluate=over_devices(over_seeds(evaluate, (0, None, None, None)), devices),
        devices=devices,
        steps_per_epoch=steps_per_epoch,
    )


def sgd(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """The published optimiser of weights."""
    table = jnp.asarray(rates(config), jnp.float32)
    return optimizers.weights_optimizer(config, lambda epoch: table[epoch], steps_per_epoch)


def rmsprop(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """NAS-Bench-101's (google-research/nasbench, lib/model_builder.py): TensorFlow's, whose mean
    squares start from one.

    Its first step, at a rate of zero, is left out.
    """
    rate = optax.cosine_decay_schedule(config.learning_rate, config.epochs * steps_per_epoch)
    return optax.chain(
        optax.clip_by_global_norm(config.grad_clip),
        optax.add_decayed_weights(config.weight_decay),
        optax.rmsprop(rate, decay=0.9, eps=1.0, initial_scale=1.0, momentum=config.momentum),
    )


OPTIMIZERS = {"sgd": sgd, "rmsprop": rmsprop}


def rates(config: Config) -> np.ndarray:
    """The learning rate of every epoch, at its beginning."""
    if config.schedule == "cosine":  # ends at zero, in the paper and in the official code alike
        return schedules.cosine(config.learning_rate, config.epochs)
    if config.schedule == "exponential":
        return schedules.exponential(config.learning_rate, config.epochs, config.decay)
    return schedules.linear(
        config.learning_rate, config.epochs, warmup=5 if config.batch_size > 256 else 0
    )


def test(
    config: Config, program: Program, state, fed: feed.Feed, size: int
) -> dict[str, np.ndarray]:
    """Means over all of the `size` test images, [seeds] each."""
    places, weights = feed.filled_up(size, config.batch_size)
    data = fed.test(places)
    indices, weights = (
        parallel.split(part, len(program.devices), axis=1) for part in (places, weights)
    )
    sums: dict[str, Any] = {}
    for i in range(len(places)):
        metrics = parallel.first(program.evaluate(state, data(i), indices[:, i], weights[:, i]))
        sums = {name: sums.get(name, 0) + np.asarray(value) for name, value in metrics.items()}
    return {name: value / size for name, value in sums.items()}


def train(
    config: Config, genotype: Cells, dataset: Any, program: Program, run: Run, judged: str = "test"
) -> dict[str, np.ndarray]:
    """Trains to the end, or goes on with what was saved; `dataset.test`, called `judged`, is read
    after the last step only.
    """
    log, length, table = run.log, program.steps_per_epoch, rates(config)
    training, seconds = runs.restored(config, run, program.init())
    records = runs.Records(
        run.folder, runs.kept_step(config, int(training["state"].step[0]), length)
    )
    cost = parameters_and_multiply_adds(config, genotype, dataset)
    log.info("args = %s", repr(config).replace("Config(", "Namespace(", 1))
    log.info("genotype = %s", genotype)
    log.info("param size = %fMB", cost[0] / 1e6)
    log.info("multiply-adds = %fM", cost[1] / 1e6)
    files.replace_text(run.folder / "genotype.json", genotypes.to_json(genotype))

    def begin(epoch):
        log.info("epoch %d lr %e", epoch, table[epoch])
        return steps(epoch)

    def averages(sums, count, step):
        means = {
            f"train_{name}": np.asarray(value) / count
            for name, value in parallel.first(sums).items()
        }
        runs.finite(step, "--learning_rate", train_loss=means["train_loss"])
        return means

    def check(tree, step):
        weights = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree["state"].params)])
        runs.finite(step, "--learning_rate", **{"a weight": weights})

    def end(training, means, epoch, step, seconds):
        record = {name: float(np.mean(value)) for name, value in means.items()}
        records.write(
            step,
            {"epoch": epoch, "learning_rate": float(table[epoch]), "seconds": seconds, **record},
        )
        log.info("train_acc %f", 100 * record["train_accuracy"])

    try:
        with stream.threads() as pool:
            fed = feed.open_feed(pool, dataset, seeds_of(config), program.devices)
            steps = epochs_of(config, program, fed, dataset.train.num)
            training = parallel.replicate(training, program.devices)
            training = runs.epochs(
                config,
                run,
                training,
                seconds,
                length,
                begin=begin,
                averages=averages,
                check=check,
                end=end,
            )
            tested = test(config, program, training["state"], fed, dataset.test.num)
        return finish(config, genotype, dataset, training, tested, records, run, cost, judged)
    finally:
        with contextlib.suppress(OSError):  # a full disk has been told of already
            records.close()


def seeds_of(config: Config) -> range:
    """The seeds that are trained in one program."""
    return range(config.seed, config.seed + config.num_seeds)


def epochs_of(
    config: Config, program: Program, fed: feed.Feed, size: int
) -> Callable[[int], Callable[[Any, int], Any]]:
    """epoch -> (training, place in the epoch) -> training after the step, over `size` images in the
    epoch's own order.
    """
    keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), 1) for seed in seeds_of(config)])
    data_keys = parallel.replicate(
        jax.vmap(jax.random.fold_in, (0, None))(keys, 2), program.devices
    )
    length = program.steps_per_epoch

    def begin(epoch):
        orders = [augment.order(key, epoch, size)[: length * config.batch_size] for key in keys]
        places = np.stack(orders).reshape(config.num_seeds, length, -1)
        data, indices = (
            fed.train(places, epoch),
            parallel.split(places, len(program.devices), axis=2),
        )
        return lambda training, i: program.step(training, data(i), indices[:, :, i], data_keys)

    return begin


def parameters_and_multiply_adds(config: Config, genotype: Cells, dataset: Any) -> tuple[int, int]:
    """Parameters and multiply-adds."""
    classes, imagenet = len(dataset.class_names), config.network == "imagenet"
    return network_cost(
        genotype, *size_of(config, genotype), classes, dataset.image_shape, imagenet
    )


def finish(
    config, genotype, dataset, training, tested, records, run, cost, judged
) -> dict[str, np.ndarray]:
    """Writes the networks and the report."""
    state = parallel.first(training["state"])
    for i, seed in enumerate(range(config.seed, config.seed + config.num_seeds)):
        folder = run.folder if config.num_seeds == 1 else run.folder / f"seed-{seed}"
        folder.mkdir(exist_ok=True)
        params, averages = jax.tree.map(lambda leaf, i=i: leaf[i], (state.params, state.averages))
        export.save(
            folder,
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
        )
        accuracy = 100 * tested["accuracy"][i]
        run.log.info("seed %d %s_acc %f error %f", seed, judged, accuracy, 100 - accuracy)
    run.log.info("%s_acc %f", judged, 100 * float(np.mean(tested["accuracy"])))
    summary = runs.mean_and_deviation(1 - tested["accuracy"], 100, 2, " %")
    summary += f" over {config.num_seeds} seeds" if config.num_seeds > 1 else ""
    run.log.info("%s error %s", judged, summary)
    facts = {"parameters": cost[0], "multiply_adds": cost[1], f"{judged}_error": summary}
    results = {name: [float(v) for v in value] for name, value in tested.items()}
    training_results.write_result(config, run, records.all, genotype, judged, results, facts)
    return tested


def select(config: Config, dataset: Any, folder: Path) -> Cells:
    """The paper's protocol: a short training of every candidate on a part of the training set,
    judged on the rest of it.
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

    def held_out(own: Config, genotype: Cells, run: Run) -> float:
        return float(
            train(own, genotype, part, build(own, genotype, part), run, "valid")["accuracy"][0]
        )

    scores = training_results.trained(short, folder, "select", candidates, held_out)
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
    if not config.checkpoint:
        raise Stop("--test_only: name the run with --checkpoint=RUN", 2)
    try:
        apply, params = export.load(config.checkpoint)
        shape = export.image_shape(config.checkpoint)
        classes = export.num_classes(config.checkpoint)
    except ValueError as error:
        raise Stop(f"--checkpoint={config.checkpoint}: {error}", 2) from error
    if config.stream:
        config = dataclasses.replace(config, image_size=shape[0])
    dataset = load(config)
    if (shape, classes) != (dataset.image_shape, len(dataset.class_names)):
        raise Stop(
            f"--checkpoint={config.checkpoint}: a network for {classes} classes of images {shape},"
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
    return (
        datasets.load(config, functools.partial(stream.load, size=config.image_size))
        if config.stream
        else datasets.load(config)
    )


def main(arguments: list[str]) -> None:
    if texts.asked(arguments):
        return text_evaluation.main(arguments)
    if ensemble_asked(arguments):
        from jaxdarts.commands.ensemble import command as ensemble_command

        return ensemble_command.main(arguments)
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
    genotype = resolve(config.arch)
    program = build(config, genotype, dataset)
    if config.estimate:
        return estimate(config, genotype, dataset, program)
    with runs.open_run(config, "eval") as opened:
        train(
            dataclasses.replace(config, run_dir=str(opened.folder)),
            genotype,
            dataset,
            program,
            opened,
        )
