"""Search a cell: python experiments/search.py --dataset=cifar10

Alternates exact second-order architecture steps with weight steps on the supernet of the DARTS space. Leaves a run
folder: config.json, log.txt, metrics.jsonl, tensorboard/, alphas.npz, genotype.json, normal.svg, reduce.svg,
report.html and checkpoints/. Without arguments it searches on scikit-learn's digits, in minutes on a CPU. Interrupted
or killed, it continues with --resume=RUN, to the very result of a run that nothing interrupted.
"""

import contextlib
import dataclasses
import logging
import math
import os
import time
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

# Simulated devices on few cores deadlock with fewer threads (jax 0.9 and 0.10); read when JAX starts.
os.environ.setdefault("PJRT_NPROC", str(max(16, os.cpu_count() or 1)))

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdarts as jd
import runs
from jaxdarts.data import augment, images
from runs import Run, Stop


@dataclasses.dataclass(frozen=True)
class Config(runs.Settings):
    """Search a convolutional cell by gradient descent (DARTS). Defaults are those of the data set's preset."""

    epochs: int = 50
    """Passes over the training half."""
    batch_size: int = 64
    """Images in a training batch, and in a validation batch, over all devices."""
    unrolled: bool = True
    """Exact second-order hypergradient; --no-unrolled for the first-order one."""
    init_channels: int = 16
    """Channels of the first cells; every reduction doubles them."""
    layers: int = 8
    """Number of cells; reductions at a third and two thirds."""
    nodes: int = 4
    """Intermediate nodes of a cell."""
    ops: tuple[str, ...] = jd.spaces.PRIMITIVES
    """Candidate operations of every edge, in the order of the columns of alpha, separated by spaces."""
    learning_rate: float = 0.025
    """Learning rate of the weights (SGD) in the first epoch; falls by a cosine over the epochs."""
    learning_rate_min: float = 0.001
    """Learning rate of the weights that the cosine ends at."""
    arch_learning_rate: float = 3e-4
    """Learning rate of alpha (Adam), constant."""
    arch_weight_decay: float = 1e-3
    """Multiple of alpha that is added to its gradient."""
    train_portion: float = 0.5
    """Fraction of the training set that trains the weights; the rest trains alpha."""
    num_seeds: int = 1
    """Number of searches in one program, with seeds seed, seed + 1, ..."""


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


def check(config: Config) -> Config:
    """Refuses settings that cannot work, before anything is loaded."""
    runs.check_numbers(
        config,
        positive="epochs batch_size init_channels layers nodes num_seeds report_freq learning_rate grad_clip",
        not_negative="max_steps checkpoint_freq crop_padding cutout_length seed learning_rate_min momentum weight_decay "
        "arch_learning_rate arch_weight_decay",
    )
    if not 0 < config.train_portion < 1:
        raise Stop(f"--train_portion={config.train_portion}: must lie between 0 and 1, both excluded", 2)
    runs.check_seeds_and_devices(config)
    return config


class Program(NamedTuple):
    """The pure functions of a search, mapped over seeds and devices, and what they run on."""

    space: jd.Space
    relax: jd.relax.Relaxation
    init: Any  # () -> {"state": SearchState, "sums": metrics}, a leading axis of seeds
    step: Any  # (training, data, train indices, validation indices, data keys) -> training
    evaluate: Any  # (params, mix, data, indices) -> metrics
    devices: list
    data: Any
    sizes: tuple[int, int]  # images of the two halves
    steps_per_epoch: int


def build(config: Config, dataset: images.Dataset, remat: bool | None = None) -> Program:
    """Puts the library's parts together for one configuration."""
    devices = jax.local_devices()[: config.num_devices]
    try:
        train, val = images.split(dataset.train, config.train_portion)
        space = jd.spaces.darts(config.nodes, config.ops)
    except ValueError as error:
        raise Stop(str(error), 2) from error
    steps_per_epoch = len(train.labels) // config.batch_size
    if min(len(train.labels), len(val.labels)) < config.batch_size:
        raise Stop(
            f"--batch_size={config.batch_size}: larger than a part of the training set "
            f"({len(train.labels)} images for the weights, {len(val.labels)} for alpha)",
            2,
        )
    net = space.supernet(
        width=config.init_channels,
        depth=config.layers,
        num_classes=len(dataset.class_names),
        dtype=jnp.dtype(config.dtype),
        axis_name=jd.parallel.AXIS,
        remat=config.remat if remat is None else remat,
    )
    # Without the mapped axis: a network that is only looked at here, not run.
    alone, image = net.clone(axis_name=None), jnp.zeros((1, *train.images.shape[1:]))
    try:
        params = jax.eval_shape(alone.init, jax.random.key(0), image, net.example_mix())
        jax.eval_shape(alone.apply, params, image, net.example_mix())
    except ValueError as error:
        raise Stop(f"--layers={config.layers} do not fit the images of {config.dataset}: {error}", 2) from error
    algorithm = jd.algorithms.darts(space, order=2 if config.unrolled else 1)
    objective = jax.jit(jd.objectives.classification(net))  # traced once, however many gradients a step takes
    search = jd.bilevel_search(objective, algorithm, *optimizers(config, steps_per_epoch), axis_name=jd.parallel.AXIS)

    cutout_length = config.cutout_length if config.cutout else 0
    batch = augment.reader(
        dataset.mean, dataset.std, padding=config.crop_padding, flip=config.flip, cutout_length=cutout_length
    )

    def step(training, data, train_indices, val_indices, data_key):
        state = training["state"]
        train_key, val_key = jax.random.split(jax.random.fold_in(data_key, state.step))
        train_batch = batch(data["train"], train_indices, train_key)
        state, metrics = search.step(state, train_batch, batch(data["val"], val_indices, val_key))
        sums = {name: training["sums"][name] + value for name, value in metrics.items()}
        return {"state": state, "sums": sums}

    def evaluate(params, mix, data, indices):
        _, (_, metrics) = objective(params, mix, (), batch(data["val"], indices), None)
        return jax.lax.pmean(metrics, jd.parallel.AXIS)

    def init():
        states = []
        for seed in range(config.seed, config.seed + config.num_seeds):
            params_key, search_key = jax.random.split(jax.random.key(seed))
            states.append(search.init(search_key, alone.init(params_key, image, net.example_mix())["params"]))
        names = [f"{part}_{name}" for part in ("train", "valid") for name in ("loss", "accuracy", "top5")]
        sums = {name: jnp.zeros(config.num_seeds) for name in (*names, "arch_gradient_norm")}
        return {"state": jd.parallel.stack(states), "sums": sums}

    over_seeds, over_devices = jd.parallel.over_seeds, jd.parallel.over_devices
    return Program(
        space=space,
        relax=algorithm.relax,
        init=init,
        step=over_devices(over_seeds(step, (0, None, 0, 0, 0)), devices, donate=(0,)),
        evaluate=over_devices(over_seeds(evaluate, (0, 0, None, None)), devices),
        devices=devices,
        data={name: {"image": part.images, "label": part.labels} for name, part in (("train", train), ("val", val))},
        sizes=(len(train.labels), len(val.labels)),
        steps_per_epoch=steps_per_epoch,
    )


def learning_rate(config: Config, epoch, cos):
    """Of the weights, by epoch. The official code's cosine ends at learning_rate_min, the paper's at zero."""
    span = config.learning_rate - config.learning_rate_min
    return config.learning_rate_min + 0.5 * span * (1 + cos(math.pi * epoch / config.epochs))


def optimizers(config: Config, steps_per_epoch: int) -> tuple[optax.GradientTransformation, ...]:
    """The published optimisers of weights and alpha."""
    arch_tx = optax.chain(
        optax.add_decayed_weights(config.arch_weight_decay), optax.adam(config.arch_learning_rate, b1=0.5, b2=0.999)
    )
    return runs.weights_optimizer(config, lambda epoch: learning_rate(config, epoch, jnp.cos), steps_per_epoch), arch_tx


def epoch_order(config: Config, program: Program, epoch: int) -> tuple[np.ndarray, np.ndarray, jax.Array]:
    """One epoch's batches as indices, [devices, seeds, steps, batch] of either half, and every seed's data key."""
    seeds = config.seed + jnp.arange(config.num_seeds)
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 1))(seeds)
    needed = program.steps_per_epoch * config.batch_size
    out = []
    for part, size in enumerate(program.sizes):
        # The validation stream starts over as often as an epoch of the training stream needs.
        rounds = range(epoch * -(-needed // size), (epoch + 1) * -(-needed // size))
        orders = [[augment.order(jax.random.fold_in(key, part), r, size) for r in rounds] for key in keys]
        indices = np.stack([np.concatenate(order)[:needed] for order in orders])
        out.append(jd.parallel.split(indices.reshape(config.num_seeds, -1, config.batch_size), len(program.devices), axis=2))
    return *out, jd.parallel.replicate(keys, program.devices)


def estimate(config: Config, dataset: images.Dataset) -> None:
    """Prints what a run would take, from the compiled step; trains nothing."""
    megabytes = []
    for remat in sorted({False, config.remat}):
        program = build(config, dataset, remat)
        num = len(program.devices)
        training = jax.eval_shape(program.init)
        indices = np.zeros((config.num_seeds, config.batch_size // num), np.int32)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), config.num_seeds))
        start = time.time()
        megabytes.append(runs.memory(program.step, num, (training, program.data, indices, indices, keys)))
        print(f"parameters of the supernet   {num_params(config, training):,}")
        print(f"steps an epoch               {program.steps_per_epoch:,}, {config.epochs} epochs")
        print(f"memory of a step{' (remat)' if remat else '        '}     {megabytes[-1]:,.1f} MB a device")
        print(f"compilation                  {time.time() - start:.0f} s")
    if config.remat:
        print(f"--remat saves                {megabytes[0] - megabytes[1]:,.1f} MB a device")


def main(arguments: list[str]) -> None:
    config = check(runs.parse(arguments, PRESETS, CIFAR, __doc__))
    runs.use_cache(config)
    dataset = runs.load(config)
    if config.estimate:
        return estimate(config, dataset)
    program = build(config, dataset)
    with runs.open_run(config, "search") as opened:
        search(dataclasses.replace(config, run_dir=str(opened.folder)), dataset, program, opened)


def search(config: Config, dataset: images.Dataset, program: Program, run: Run) -> None:
    """The search itself: epochs of steps, an evaluation and a checkpoint after each, the report in the end."""
    folder, log, length = run.folder, run.log, program.steps_per_epoch
    training, seconds = runs.restored(config, run, program.init())
    step, total = int(training["state"].step[0]), runs.total_steps(config, length)
    history = [History(one, runs.kept_step(config, step, length), log) for one in seed_folders(config, folder)]
    log.info("args = %s", repr(config).replace("Config(", "Namespace(", 1))
    log.info("param size = %fMB", num_params(config, training) / 1e6)
    log.info("run folder %s", folder)
    if config.resume:
        log.info("resumed at step %d%s", step, f" of {total}" if step < total else ": nothing is left to do but the report")
    data = jd.parallel.replicate(program.data, program.devices)

    def begin(epoch):
        log.info("epoch %d lr %e", epoch, learning_rate(config, epoch, math.cos))
        train_indices, val_indices, keys = epoch_order(config, program, epoch)
        return lambda training, i: program.step(training, data, train_indices[:, :, i], val_indices[:, :, i], keys)

    def check(tree, step):
        for name, part in (("a weight", tree["state"].params), ("alpha", tree["state"].arch)):
            finite(step, **{name: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(part)])})

    def end(training, means, epoch, step, seconds):
        rate = learning_rate(config, epoch, math.cos)
        finish_epoch(config, program, training, data, means, history, log, epoch, step, rate, seconds)

    try:
        training = jd.parallel.replicate(training, program.devices)
        training = runs.epochs(config, run, training, seconds, length, begin=begin, averages=averages, check=check, end=end)
        finish(config, program, dataset, training, data, history, log)
        for seed_history in history:
            seed_history.records.close()
    finally:
        for seed_history in history:
            with contextlib.suppress(OSError):  # a full disk has been told of already
                seed_history.records.close()


def num_params(config: Config, training) -> int:
    """Weights of one seed's supernet."""
    return sum(leaf.size for leaf in jax.tree.leaves(training["state"].params)) // config.num_seeds


def finite(step: int, **values: np.ndarray) -> None:
    """Ends the run where a number is none, so that nothing bad is ever saved."""
    runs.finite(step, "--learning_rate or --arch_learning_rate", **values)


def averages(sums: Any, count: int, step: int) -> dict[str, np.ndarray]:
    """Means since the epoch began, [seeds] each."""
    means = {name: np.asarray(value) / count for name, value in jd.parallel.first(sums).items()}
    finite(step, train_loss=means["train_loss"], valid_loss=means["valid_loss"])
    return means


def seed_folders(config: Config, folder: Path) -> list[Path]:
    """Where each seed's results go: the run folder itself, or a folder in it where there are several seeds."""
    if config.num_seeds == 1:
        return [folder]
    return [folder / f"seed-{seed}" for seed in range(config.seed, config.seed + config.num_seeds)]


class History:
    """What one seed leaves behind after every epoch: metrics.jsonl, TensorBoard events, alphas.npz, genotype.json.

    A resumed run drops what was written after `resume_step`, its checkpoint; alphas.npz tells the step of every entry.
    """

    def __init__(self, folder: Path, resume_step: int, log: logging.Logger):
        self.folder, self.records = folder, runs.Records(folder, resume_step)
        self.alphas: dict[str, list[np.ndarray]] = {}
        if resume_step:
            try:
                with open(folder / "alphas.npz", "rb") as file, np.load(file, allow_pickle=False) as saved:
                    kept = saved["step"] <= resume_step
                    self.alphas = {name: list(saved[name][kept]) for name in saved.files}
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                log.info("alphas.npz starts anew, the old one cannot be read: %s", error)

    def write(self, step: int, record: dict[str, float], mix: dict[str, np.ndarray], genotype: jd.Genotype) -> None:
        for name, value in {"step": np.int64(step), **mix}.items():
            self.alphas.setdefault(name, []).append(value)
        temporary = self.folder / ".alphas.tmp.npz"
        try:
            np.savez(temporary, **{name: np.stack(values) for name, values in self.alphas.items()})
            os.replace(temporary, self.folder / "alphas.npz")
        finally:
            temporary.unlink(missing_ok=True)
        jd.metrics.replace_text(self.folder / "genotype.json", jd.genotypes.to_json(genotype))
        self.records.write(step, record)


def validate(program: Program, params, mixes, data, config: Config) -> dict[str, np.ndarray]:
    """Means over the validation half, [seeds] each: the batches' own statistics, no augmentation.

    The official code validates on augmented images; nothing is trained here, so we look at them as they are.
    """
    batches = program.sizes[1] // config.batch_size
    indices = np.arange(batches * config.batch_size, dtype=np.int32).reshape(batches, -1)
    indices = jd.parallel.split(indices, len(program.devices), axis=1)
    sums: dict[str, Any] = {}
    for i in range(batches):
        metrics = jd.parallel.first(program.evaluate(params, mixes, data, indices[:, i]))
        sums = {name: sums.get(name, 0) + np.asarray(value) for name, value in metrics.items()}
    return {name: value / batches for name, value in sums.items()}


def mixes_of(program: Program, training) -> dict[str, jax.Array]:
    """The current mix of every seed, [seeds, edges, ops] for each cell."""
    state = jd.parallel.first(training["state"])
    return jax.vmap(program.relax.apply)(state.arch, state.key, state.step)


def genotypes_of(program: Program, mixes) -> list[jd.Genotype]:
    """Every seed's genotype."""
    mixes = {name: np.asarray(weights) for name, weights in mixes.items()}
    num_seeds = len(next(iter(mixes.values())))
    return [program.space.discretize({name: mixes[name][seed] for name in mixes}) for seed in range(num_seeds)]


def finish_epoch(config, program, training, data, means, history, log, epoch, step, lr, seconds) -> None:
    """Validates, derives every seed's genotype and writes it all down."""
    mixes = mixes_of(program, training)
    valid = validate(program, training["state"].params, jd.parallel.replicate(mixes, program.devices), data, config)
    finite(step, valid_loss=valid["loss"])
    for seed, genotype in enumerate(genotypes_of(program, mixes)):
        record = {"epoch": epoch, "learning_rate": lr, "seconds": seconds}
        record |= {name: float(value[seed]) for name, value in means.items() if not name.startswith("valid_")}
        record |= {f"valid_{name}": float(value[seed]) for name, value in valid.items()}
        for cell in ("normal", "reduce"):
            record[f"skip_{cell}"] = sum(op == "skip_connect" for op, _ in getattr(genotype, cell))
        mix = {name: np.asarray(weights[seed]) for name, weights in mixes.items()}
        history[seed].write(step, record, mix, genotype)
        if config.num_seeds > 1:
            log.info("seed %d", config.seed + seed)
        log.info("train_acc %f", 100 * record["train_accuracy"])
        log.info("valid_acc %f", 100 * record["valid_accuracy"])
        log.info("genotype = %s", genotype)


def finish(config, program, dataset, training, data, history, log) -> None:
    """Compares the found cells with random ones under the shared weights, draws them and writes the reports."""
    cells, found = program.space.cells, genotypes_of(program, mixes_of(program, training))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 2), 8)
    losses = []
    for candidates in [found, *([program.space.sample(key)] * len(found) for key in keys)]:
        mixes = jd.parallel.stack([jd.one_hot(cells, genotype) for genotype in candidates])
        mixes = jd.parallel.replicate(mixes, program.devices)
        losses.append(validate(program, training["state"].params, mixes, data, config)["loss"])
    for seed, (genotype, own) in enumerate(zip(found, history, strict=True)):
        found_loss, *random_losses = (float(loss[seed]) for loss in losses)
        low, high = min(random_losses), max(random_losses)
        log.info("supernet loss of the found cell %f, of %d random cells %f to %f", found_loss, len(keys), low, high)
        for name, svg in jd.draw.cell(genotype).items():
            jd.metrics.replace_text(own.folder / f"{name}.svg", svg)
        shape, classes = dataset.train.images.shape[1:], len(dataset.class_names)
        params, multiply_adds = jd.network_cost(genotype, 36, 20, classes, shape)
        jd.report.write(
            own.folder / "report.html",
            title=f"Search on {config.dataset}, seed {config.seed + seed}",
            config=dataclasses.asdict(config),
            records=own.records.all,
            genotype=genotype,
            mixes={name: np.stack(values) for name, values in own.alphas.items() if name in cells},
            edges={name: choices.edges for name, choices in cells.items()},
            ops={name: choices.ops for name, choices in cells.items()},
            facts={
                "dataset": config.dataset,
                "epochs": len(own.records.all),
                "supernet_parameters": num_params(config, jd.parallel.first(training)),
                "parameters": params,
                "multiply_adds": multiply_adds,
                "found_cell_supernet_loss": found_loss,
                "random_cells_supernet_loss": float(np.mean(random_losses)),
                "wall_time": sum(record["seconds"] for record in own.records.all),
            },
        )
        log.info("genotype = %s", genotype)
        log.info("report %s", own.folder / "report.html")


if __name__ == "__main__":
    runs.start(main)
