"""Search a cell: jaxdarts search --dataset=cifar10

Alternates exact second-order architecture steps with weight steps on the supernet of the DARTS
space. Leaves a run folder: config.json, log.txt, metrics.jsonl, tensorboard/, alphas.npz,
genotype.json, normal.svg, reduce.svg, report.html and checkpoints/. Without arguments it searches
on scikit-learn's digits, in minutes on a CPU. Interrupted or killed, it continues with
--resume=RUN, to the very result of a run that nothing interrupted.
"""

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdarts import algorithms, files, objectives, parallel, runs, spaces
from jaxdarts.analysis import curvature
from jaxdarts.commands import checks, command_line, datasets, methods, texts
from jaxdarts.commands.optimizers import cosine_rate, weights_optimizer
from jaxdarts.commands.search import results as search_results
from jaxdarts.commands.search import text as text_search
from jaxdarts.data import augment, images
from jaxdarts.runs import Run, Stop, hosts
from jaxdarts.search import bilevel_search, last_step
from jaxdarts.space import Space


@dataclasses.dataclass(frozen=True)
class Config(hosts.Flags, methods.Options):
    """Search a convolutional cell by gradient descent (DARTS). Defaults are those of the data set's
    preset.
    """

    epochs: int = 50
    """Passes over the training half."""
    batch_size: int = 64
    """Images in a training batch, and in a validation batch, over all devices."""
    init_channels: int = 16
    """Channels of the first cells; every reduction cell doubles them."""
    layers: int = 8
    """Number of cells, with reduction cells at a third and two thirds."""
    nodes: int = 4
    """Number of intermediate nodes of a cell."""
    ops: tuple[str, ...] = spaces.PRIMITIVES
    """Candidate operations of every edge, separated by spaces; their order is that of alpha's
    columns."""
    learning_rate: float = 0.025
    """Learning rate of SGD for the weights in the first epoch; it falls by a cosine."""
    learning_rate_min: float = 0.001
    """Learning rate of SGD at the end of the cosine."""
    arch_learning_rate: float = 3e-4
    """Learning rate of alpha (Adam), constant."""
    arch_weight_decay: float = 1e-3
    """Weight decay of alpha: this multiple of alpha is added to its gradient."""
    train_portion: float = 0.5
    """Fraction of the training set that trains the weights; the rest trains alpha."""


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


STARTS = {
    name: lambda preset, value, of=of: dataclasses.replace(
        preset, **of(value, small=preset.dataset == "digits")
    )
    for name, of in (("--space", methods.space_settings), ("--algorithm", methods.settings))
}
"""The flags that change what the others start from."""


def check(config: Config) -> Config:
    """Refuses settings that cannot work, before anything is loaded."""
    checks.check_numbers(
        config,
        positive="epochs batch_size init_channels layers nodes report_freq learning_rate grad_clip",
        not_negative=(
            "max_steps checkpoint_freq crop_padding cutout_length seed learning_rate_min momentum"
            " weight_decay arch_learning_rate arch_weight_decay"
        ),
    )
    if not 0 < config.train_portion <= 1:
        raise Stop(
            f"--train_portion={config.train_portion}: must be above 0, and 1 for all images at both"
            " levels",
            2,
        )
    if config.coordinator and (config.fork or config.adapt_weight_decay):
        raise Stop("--fork, --adapt_weight_decay: not on several hosts; leave --coordinator out", 2)
    methods.check(config)
    checks.check_seeds_and_devices(config)
    return config


class Program(NamedTuple):
    """The pure functions of a search, mapped over seeds and devices, and what they run on."""

    space: Space
    init: Any  # () -> {"state": SearchState, "sums": metrics}, a leading axis of seeds
    step: Any  # (training, data, train indices, validation indices, data keys) -> training
    derive: Any  # state -> the mix that it stands for, of every seed
    evaluate: Any  # (params, mix, data, indices) -> metrics
    eigenvalue: Any  # (state, data, indices) -> dominant eigenvalue of alpha's Hessian
    tune_init: Any  # params -> optimiser state for `tune`
    # (params, optimiser state, mix, data, indices, data keys, number) -> the first two after a
    # weight step at a mix
    tune: Any
    order: Callable[[int], tuple]  # epoch -> its batches, as of `epoch_order`
    devices: list
    data: Any
    sizes: tuple[int, int]  # images of the two halves
    steps_per_epoch: int


def supernet(config: Config, space: Space, num_classes: int, remat: bool | None = None) -> Any:
    """The network of a configuration."""
    return space.supernet(
        width=config.init_channels,
        depth=config.layers,
        num_classes=num_classes,
        dtype=jnp.dtype(config.dtype),
        axis_name=parallel.AXIS,
        remat=config.remat if remat is None else remat,
        **({"partial": config.partial} if config.partial > 1 else {}),
    )


def build(
    config: Config,
    dataset: images.Dataset,
    remat: bool | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Program:
    """Puts the library's parts together for one configuration, on the devices that it names unless
    others are given.
    """
    devices = runs.devices(config) if devices is None else list(devices)
    train = val = dataset.train
    if config.train_portion < 1:
        try:
            train, val = images.split(dataset.train, config.train_portion)
        except ValueError as error:
            raise Stop(str(error), 2) from error
    space = methods.space_of(config)
    steps_per_epoch = len(train.labels) // config.batch_size
    if min(len(train.labels), len(val.labels)) < config.batch_size:
        raise Stop(
            f"--batch_size={config.batch_size}: larger than a part of the training set "
            f"({len(train.labels)} images for the weights, {len(val.labels)} for alpha)",
            2,
        )
    net = supernet(config, space, len(dataset.class_names), remat)
    # Without the mapped axis: a network that is only looked at here, not run.
    alone, image = net.clone(axis_name=None), jnp.zeros((1, *train.images.shape[1:]))
    try:
        params = jax.eval_shape(alone.init, jax.random.key(0), image, net.example_mix())
        jax.eval_shape(alone.apply, params, image, net.example_mix(), jax.random.key(0))
    except ValueError as error:
        sizes = f"--layers={config.layers} --init_channels={config.init_channels}"
        raise Stop(f"{sizes} do not fit the images of {config.dataset}: {error}", 2) from error
    algorithm = methods.make(
        config, space, steps_per_epoch, len(dataset.class_names), train.images.shape[1:]
    )
    objective = jax.jit(
        objectives.classification(net)
    )  # traced once, however many gradients a step takes
    search = bilevel_search(
        objective, algorithm, *optimizers(config, steps_per_epoch), axis_name=parallel.AXIS
    )

    cutout_length = config.cutout_length if config.cutout else 0
    batch = augment.reader(
        dataset.mean,
        dataset.std,
        padding=config.crop_padding,
        flip=config.flip,
        cutout_length=cutout_length,
    )

    ramp = algorithms.by_epoch(
        0.0, config.drop_path_prob, max(config.epochs - 1, 1), steps_per_epoch
    )

    def training_batch(part, indices, key, step):
        rate = {"drop_path": ramp(step)} if config.drop_path_prob else {}
        return batch(part, indices, key) | rate

    def step(training, data, train_indices, val_indices, data_key):
        state = training["state"]
        train_key, val_key = jax.random.split(jax.random.fold_in(data_key, state.step))
        state, metrics = search.step(
            state,
            training_batch(data["train"], train_indices, train_key, state.step),
            training_batch(data["val"], val_indices, val_key, state.step),
        )
        sums = {name: training["sums"][name] + value for name, value in metrics.items()}
        return {"state": state, "sums": sums}

    noise_key = jax.random.key(0)  # what is validated twice sees the same noise (S4)

    def evaluate(params, mix, data, indices):
        _, (_, metrics) = objective(params, mix, (), batch(data["val"], indices), noise_key)
        return jax.lax.pmean(metrics, parallel.AXIS)

    def eigenvalue(state, data, indices):
        images = batch(data["val"], indices)

        def loss(arch):
            arch = jax.lax.pmean(
                arch, parallel.AXIS
            )  # its transpose averages the gradient over the devices
            value = objective(
                state.params, algorithm.relax.derive(arch, last_step(state)), (), images, noise_key
            )[0]
            # Zela et al. count the weight decay of alpha in.
            return (
                jax.lax.pmean(value, parallel.AXIS)
                + config.arch_weight_decay * optax.tree.norm(arch, squared=True) / 2
            )

        return curvature.dominant_eigenvalue(
            loss, state.arch, jax.random.fold_in(state.key, state.step)
        )

    # A tenth of the search's learning rate, as DARTS+PT tunes.
    tune_tx = weights_optimizer(config, lambda epoch: config.learning_rate / 10, steps_per_epoch)

    def tune(params, opt, mix, data, indices, data_key, number):
        key = jax.random.fold_in(jax.random.fold_in(data_key, 3), number)
        tuned = batch(data["train"], indices, key)
        gradient = jax.grad(lambda params: objective(params, mix, (), tuned, key)[0])(params)
        updates, opt = tune_tx.update(jax.lax.pmean(gradient, parallel.AXIS), opt, params)
        return optax.apply_updates(params, updates), opt

    def init():
        states = []
        for seed in range(config.seed, config.seed + config.num_seeds):
            params_key, search_key = jax.random.split(jax.random.key(seed))
            states.append(
                search.init(search_key, alone.init(params_key, image, net.example_mix())["params"])
            )
        names = [
            f"{part}_{name}" for part in ("train", "valid") for name in ("loss", "accuracy", "top5")
        ]
        names += [f"valid_{name}" for name in jax.eval_shape(search.price, states[0])[1]]
        sums = {name: jnp.zeros(config.num_seeds) for name in (*names, "arch_gradient_norm")}
        return {"state": parallel.stack(states), "sums": sums}

    over_seeds, over_devices = parallel.over_seeds, parallel.over_devices
    sizes = (len(train.labels), len(val.labels))
    return Program(
        space=space,
        init=init,
        step=over_devices(over_seeds(step, (0, None, 0, 0, 0)), devices, donate=(0,)),
        derive=over_seeds(search.derive),
        evaluate=over_devices(over_seeds(evaluate, (0, 0, None, None)), devices),
        eigenvalue=over_devices(over_seeds(eigenvalue, (0, None, None)), devices),
        tune_init=over_devices(over_seeds(tune_tx.init), devices),
        tune=over_devices(over_seeds(tune, (0, 0, 0, None, 0, 0, None)), devices),
        order=lambda epoch: epoch_order(config, sizes, devices, epoch),
        devices=devices,
        data={
            name: {"image": part.images, "label": part.labels}
            for name, part in (("train", train), ("val", val))
        },
        sizes=sizes,
        steps_per_epoch=steps_per_epoch,
    )


def optimizers(config: Config, steps_per_epoch: int) -> tuple[optax.GradientTransformation, ...]:
    """The published optimisers of weights and alpha."""
    params_tx = weights_optimizer(config, lambda epoch: cosine_rate(config, epoch), steps_per_epoch)
    return params_tx, methods.optimizer(config, steps_per_epoch)


def epoch_order(
    config: Config, sizes: tuple[int, int], devices: list, epoch: int
) -> tuple[np.ndarray, np.ndarray, Any]:
    """One epoch's batches as indices, [devices, seeds, steps, batch] of either half, and every
    seed's data key.
    """
    seeds = config.seed + jnp.arange(config.num_seeds)
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 1))(seeds)
    needed = sizes[0] // config.batch_size * config.batch_size
    out = []
    for part, size in enumerate(sizes):
        # The validation stream starts over as often as an epoch of the training stream needs.
        rounds = range(epoch * -(-needed // size), (epoch + 1) * -(-needed // size))
        orders = [
            [augment.order(jax.random.fold_in(key, part), r, size) for r in rounds] for key in keys
        ]
        indices = np.stack([np.concatenate(order)[:needed] for order in orders])
        parts = parallel.split(
            indices.reshape(config.num_seeds, -1, config.batch_size), len(devices), axis=2
        )
        out.append(parallel.here(parts, devices))
    return *out, parallel.replicate(keys, devices)


def estimate(config: Config, dataset: images.Dataset) -> None:
    """Prints what a run would take, from the compiled step; trains nothing."""
    megabytes = []
    for remat in sorted({False, config.remat}):
        program = build(config, dataset, remat)
        num = len(program.devices)
        training = jax.eval_shape(program.init)
        indices = np.zeros((config.num_seeds, config.batch_size // num), np.int32)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), config.num_seeds))
        print(f"parameters of the supernet   {search_results.num_params(config, training):,}")
        own = dataclasses.replace(config, remat=remat)
        arguments = (training, program.data, indices, indices, keys)
        megabytes.append(
            runs.estimate(own, program.step, program.devices, arguments, program.steps_per_epoch)
        )
    if config.remat and not math.isnan(megabytes[0] - megabytes[1]):
        print(f"--remat saves                {megabytes[0] - megabytes[1]:,.1f} MB a device")


def main(arguments: list[str]) -> None:
    if texts.asked(arguments):
        return text_search.main(arguments)
    with hosts.joined(command_line.parse(arguments, PRESETS, CIFAR, __doc__, STARTS), "search") as (
        config,
        folder,
    ):
        check(config)
        runs.use_cache(config)
        dataset = datasets.load(config)
        if config.estimate:
            return estimate(config, dataset)
        run_search(config, dataset, folder)


def run_search(config: Config, dataset: images.Dataset, folder: Path | None = None) -> None:
    """Searches, and again with more weight decay for as long as that is asked for and the search
    stops early (DARTS-ADA).
    """
    program = build(config, dataset)
    with runs.open_run(config, "search", folder) as opened:
        stop = search(
            dataclasses.replace(config, run_dir=str(opened.folder)), dataset, program, opened
        )
    weight_decay = config.weight_decay * config.adapt_weight_decay
    if stop and 0 < weight_decay <= 0.03 * 1.001:
        new_folder = f"{re.sub('-decay[0-9.e-]+$', '', str(opened.folder))}-decay{weight_decay:g}"
        changes = {
            "fork": str(opened.folder),
            "fork_epoch": stop[0],
            "weight_decay": weight_decay,
            "run_dir": new_folder,
        }
        resume = new_folder if os.path.exists(new_folder) else None
        run_search(dataclasses.replace(config, **changes, resume=resume), dataset)


def search(
    config: Config,
    dataset: images.Dataset,
    program: Program,
    run: Run,
    stop: Callable[[], str | None] = lambda: None,
) -> tuple[int, str] | None:
    """The search itself: epochs of steps, an evaluation and a checkpoint after each, the report in
    the end.

    `stop` is asked after each epoch for a reason to go on to the report; the search can be resumed
    after it.

    Returns where and why the configuration's rules stopped it before its last epoch, or None.
    """
    folder, log, length = run.folder, run.log, program.steps_per_epoch
    training, seconds = runs.restored(config, run, program.init())
    if config.fork and run.checkpoints.latest_step() is None:
        training = search_results.forked(config, run, training, length)
    step, total = int(training["state"].step[0]), runs.total_steps(config, length)
    kept = runs.kept_step(config, step, length)
    history = [
        search_results.History(one, kept, program.space, log)
        for one in search_results.folders(config, folder)
    ]
    log.info("args = %s", repr(config).replace("Config(", "Namespace(", 1))
    log.info("param size = %fMB", search_results.num_params(config, training) / 1e6)
    log.info("run folder %s", folder)
    files.replace_text(folder / "space.json", methods.space_to_json(program.space))
    if config.resume:
        log.info(
            "resumed at step %d%s",
            step,
            f" of {total}" if step < total else ": nothing is left to do but the report",
        )
    data = parallel.replicate(program.data, program.devices)

    def begin(epoch):
        log.info("epoch %d lr %e", epoch, cosine_rate(config, epoch, math.cos))
        train_indices, val_indices, keys = program.order(epoch)
        return lambda training, i: program.step(
            training, data, train_indices[:, :, i], val_indices[:, :, i], keys
        )

    def check(tree, step):
        for name, part in (("a weight", tree["state"].params), ("alpha", tree["state"].arch)):
            finite(
                step, **{name: np.concatenate([np.zeros(0), *map(np.ravel, jax.tree.leaves(part))])}
            )

    def end(training, means, epoch, step, seconds):
        facts = {
            "epoch": epoch,
            "learning_rate": cosine_rate(config, epoch, math.cos),
            "seconds": seconds,
        }
        return (
            search_results.finish_epoch(
                config, program, training, data, means, history, log, step, facts
            )
            or stop()
        )

    try:
        training = parallel.replicate(training, program.devices)
        if step == 0 or not search_results.stopped(config, history):
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
        search_results.finish(config, program, dataset, training, data, history, run)
        for seed_history in history:
            seed_history.records.close()
        return search_results.stop_of(config, history[0])
    finally:
        for seed_history in history:
            with contextlib.suppress(OSError):  # a full disk has been told of already
                seed_history.records.close()


def averages(sums: Any, count: int, step: int) -> dict[str, np.ndarray]:
    """Means since the epoch began, [seeds] each."""
    means = {name: np.asarray(value) / count for name, value in parallel.first(sums).items()}
    finite(step, train_loss=means["train_loss"], valid_loss=means["valid_loss"])
    return means


def finite(step: int, **values: np.ndarray) -> None:
    """Ends the run where a number is none, so that nothing bad is ever saved."""
    runs.finite(step, "--learning_rate or --arch_learning_rate", **values)
